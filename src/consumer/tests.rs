//! Consumers and groups against a broker in memory: what a caller is promised, without timing.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::broker::{Broker, Topic};
use crate::error::ErrorKind;
use crate::group::GroupState;
use crate::record::{BatchBuilder, EndMarker, Record, TxnOutcome};
use crate::storage::{MemoryStorage, OpenMode, Storage};
use crate::topic::ReadFrom;
use crate::types::{Durability, Offset, ProducerId, Start, Timestamp, TopicPartition};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(20);

fn broker() -> Broker {
    Broker::in_memory().unwrap()
}

fn topic(broker: &Broker, name: &str, partitions: u32) -> Topic {
    broker.topic(name).partitions(partitions).create().unwrap()
}

/// Appends `count` records, each with its number as value.
fn fill(topic: &Topic, partition: i32, count: usize) {
    let partition = topic.partition(partition).unwrap();
    let appended = partition.append_records((0..count).map(|i| i.to_string())).unwrap();
    partition.wait(appended.position, Durability::PowerLoss).unwrap();
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

/// Where each record comes from, as `partition:offset`.
fn places(records: &Records) -> Vec<String> {
    records.iter().map(|r| format!("{}:{}", r.partition(), r.offset())).collect()
}

#[test]
fn records_and_consumers_move_between_threads() {
    fn moves<T: Send + 'static>() {}
    moves::<(Records, Consumer, ConsumerWaker, ConsumerGroup)>();
}

/// One fetch may bring nothing else.
#[test]
fn aborted_records_do_not_hold_up_what_comes_after_them() {
    let broker = broker();
    let partition = topic(&broker, "t", 1).partition(0).unwrap();
    let now = broker.clock().now();
    let mut aborted = BatchBuilder::new().producer(ProducerId::new(7), 0, 0).transactional();
    aborted.push(now, &Record::new("aborted")).unwrap();
    partition.append(&aborted.finish().unwrap()).unwrap();
    let end = EndMarker { outcome: TxnOutcome::Abort, coordinator_epoch: 0 };
    partition.append(&BatchBuilder::end_marker(end, ProducerId::new(7), 0, now).unwrap()).unwrap();
    let after = partition.append_records(["after"]).unwrap();
    partition.wait(after.position, Durability::PowerLoss).unwrap();

    let batch_by_batch = broker.consumer_group("g").consumer(["t"]).max_partition_fetch_bytes(1);
    assert_eq!(places(&batch_by_batch.join().unwrap().poll(SHORT * 50).unwrap()), ["0:2"]);
}

#[test]
fn polled_records_are_taken_apart_by_value_and_by_reference_alike() {
    let broker = broker();
    let topic = topic(&broker, "t", 2);
    fill(&topic, 0, 3);
    fill(&topic, 1, 2);
    let mut consumer = broker.consumer_group("g").consumer(["t"]).max_poll_records(4).join().unwrap();
    let mut seen = 0;
    while seen < 5 {
        let records = consumer.poll(LONG).unwrap();
        let borrowed: Vec<_> = records.iter().map(|r| (r.partition(), r.offset(), r.value_bytes())).collect();
        let owned: Vec<_> =
            records.into_iter().map(|r| (r.partition(), r.offset(), r.value_bytes().cloned())).collect();
        assert_eq!(owned, borrowed);
        seen += owned.len();
    }
}

#[test]
fn what_was_committed_is_not_read_again() {
    let broker = broker();
    let topic = topic(&broker, "t", 1);
    fill(&topic, 0, 3);
    let group = broker.consumer_group("g");
    let mut first = group.consumer(["t"]).max_poll_records(2).join().unwrap();
    let records = first.poll(LONG).unwrap();
    assert_eq!(places(&records), ["0:0", "0:1"]);
    first.commit_through(&records.iter().next().unwrap()).unwrap();
    assert_eq!(group.committed(&tp(0)).unwrap().unwrap().offset(), 1);
    drop(first);
    assert_eq!(group.describe().unwrap().state(), GroupState::Empty);
    let mut second = group.consumer(["t"]).join().unwrap();
    assert_eq!(places(&second.poll(LONG).unwrap()), ["0:1", "0:2"]);
    assert_eq!((group.lag().unwrap().total(), second.position(&tp(0))), (2, Some(Offset::new(3))));
    second.commit().unwrap();
    assert_eq!(group.lag().unwrap().total(), 0);
    assert!(second.poll(SHORT).unwrap().is_empty());
}

#[test]
fn offsets_and_generations_survive_reopening() {
    let storage = MemoryStorage::new();
    let open = || Broker::builder("/data").storage(storage.clone()).open().unwrap();
    let broker = open();
    fill(&topic(&broker, "t", 2), 1, 5);
    let mut consumer = broker.consumer_group("g").consumer(["t"]).join().unwrap();
    assert_eq!(consumer.poll(LONG).unwrap().len(), 5);
    consumer.commit().unwrap();
    drop(consumer);
    broker.close().unwrap();
    let broker = open();
    let group = broker.consumer_group("g");
    assert_eq!(group.committed(&tp(1)).unwrap().unwrap().offset(), 5);
    assert_eq!(group.describe().unwrap().generation(), 2);
    assert!(group.consumer(["t"]).join().unwrap().poll(SHORT).unwrap().is_empty());
}

#[test]
fn members_on_threads_share_the_partitions_and_each_record_goes_to_one() {
    let broker = broker();
    let topic = topic(&broker, "t", 4);
    (0..4).for_each(|p| fill(&topic, p, 1000));
    let group = broker.consumer_group("g");
    let other = broker.consumer_group("other");
    let members: Vec<_> = (0..3).map(|_| group.consumer(["t"]).join().unwrap()).collect();
    let left = Arc::new(AtomicUsize::new(4000));
    let threads: Vec<_> = members
        .into_iter()
        .map(|mut member| {
            let left = Arc::clone(&left);
            std::thread::spawn(move || {
                let mut seen = Vec::new();
                while left.load(Ordering::SeqCst) > 0 {
                    let records = member.poll(SHORT).unwrap();
                    seen.extend(places(&records));
                    member.commit().unwrap();
                    left.fetch_sub(records.len(), Ordering::SeqCst);
                }
                (member, seen)
            })
        })
        .collect();
    let results: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(results.iter().map(|(member, _)| member.assignment().len()).sum::<usize>(), 4);
    let all: Vec<_> = results.iter().flat_map(|(_, seen)| seen).collect();
    assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (4000, 4000));
    assert_eq!(group.lag().unwrap().total(), 0);
    let mut consumer = other.consumer(["t"]).max_poll_records(10_000).join().unwrap();
    assert_eq!(consumer.poll(LONG).unwrap().len(), 4000);
}

#[test]
fn a_rebalance_moves_partitions_without_repeating_what_was_committed() {
    let broker = broker();
    let topic = topic(&broker, "t", 2);
    (0..2).for_each(|p| fill(&topic, p, 4));
    let group = broker.consumer_group("g");
    let mut a = group.consumer(["t"]).max_poll_records(6).client_id("a").join().unwrap();
    let first = a.poll(LONG).unwrap();
    assert_eq!(places(&first), ["0:0", "0:1", "0:2", "0:3", "1:0", "1:1"]);
    let mut b = group.consumer(["t"]).client_id("b").join().unwrap();
    // The newcomer waits until the owner has given up its partitions, which it does in its poll.
    assert!(b.poll(SHORT).unwrap().is_empty());
    assert_eq!(group.describe().unwrap().state(), GroupState::PreparingRebalance);
    a.commit().unwrap();
    assert!(a.poll(SHORT).unwrap().is_empty());
    assert_eq!(places(&b.poll(LONG).unwrap()), ["1:2", "1:3"]);
    assert_eq!((a.assignment(), b.assignment()), (vec![tp(0)], vec![tp(1)]));
    // A record of a partition that went away is not the old reader's to commit.
    let of_one = first.iter().last().unwrap();
    assert_eq!(a.commit_through(&of_one).unwrap_err().kind(), ErrorKind::IllegalGeneration);
    // An uncommitted position in a partition that stays is kept over the next rebalance.
    fill(&topic, 0, 1);
    assert_eq!(places(&a.poll(LONG).unwrap()), ["0:4"]);
    drop(b);
    assert_eq!(places(&a.poll(LONG).unwrap()), ["1:2", "1:3"]);
}

#[test]
fn a_surplus_member_is_idle_and_shown_so_until_partitions_are_added() {
    let broker = broker();
    let topic = topic(&broker, "t", 1);
    let group = broker.consumer_group("g");
    let mut members: Vec<_> = ["a", "b"].map(|id| group.consumer(["t"]).client_id(id).join().unwrap()).into();
    members.iter_mut().for_each(|m| drop(m.poll(SHORT).unwrap()));
    let idle: Vec<_> =
        group.describe().unwrap().members().iter().map(|m| (m.client_id().to_owned(), m.is_idle())).collect();
    assert_eq!(idle, [("a".to_owned(), false), ("b".to_owned(), true)]);
    topic.add_partitions(2).unwrap();
    fill(&topic, 1, 1);
    assert!(members[0].poll(SHORT).unwrap().is_empty());
    assert_eq!(places(&members[1].poll(LONG).unwrap()), ["1:0"]);
}

#[test]
fn one_who_stays_away_is_replaced_and_fenced() {
    let broker = broker();
    let topic = topic(&broker, "t", 1);
    fill(&topic, 0, 2);
    let group = broker.consumer_group("g");
    let mut slow = group.consumer(["t"]).max_poll_interval(Duration::from_millis(50)).join().unwrap();
    let records = slow.poll(LONG).unwrap();
    let mut other = group.consumer(["t"]).join().unwrap();
    assert_eq!(other.poll(LONG).unwrap().len(), 2);
    let refused = slow.commit_through(&records.iter().next().unwrap()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::UnknownMember);
    let before = slow.member().map(str::to_owned);
    assert!(slow.poll(SHORT).unwrap().is_empty());
    assert_ne!(slow.member().map(str::to_owned), before);
}

#[test]
fn start_policies() {
    let broker = broker();
    let topic = topic(&broker, "t", 1);
    fill(&topic, 0, 2);
    let mut latest = broker.consumer_group("latest").consumer(["t"]).start(Start::Latest).join().unwrap();
    // Latest is the end at the time of joining, not at that of the first poll.
    fill(&topic, 0, 1);
    assert_eq!(places(&latest.poll(LONG).unwrap()), ["0:2"]);
    topic.add_partitions(2).unwrap();
    fill(&topic, 1, 1);
    assert_eq!(places(&latest.poll(LONG).unwrap()), ["1:0"]);
    let mut none = broker.consumer_group("none").consumer(["t"]).start(Start::None).join().unwrap();
    assert_eq!(none.poll(LONG).unwrap_err().kind(), ErrorKind::NoOffset);
    none.seek(&tp(0), Start::Latest).unwrap();
    none.seek(&tp(1), Start::Earliest).unwrap();
    assert_eq!(places(&none.poll(LONG).unwrap()), ["1:0"]);
}

#[test]
fn seek_goes_everywhere() {
    let broker = broker();
    let topic = topic(&broker, "t", 1);
    let partition = topic.partition(0).unwrap();
    for time in [100, 200, 300] {
        let record = Record::new("x").timestamp(Timestamp::new(time));
        let appended = partition.append_records([record]).unwrap();
        partition.wait(appended.position, Durability::PowerLoss).unwrap();
    }
    let mut consumer = broker.consumer_group("g").consumer_of([tp(0)]).join().unwrap();
    let mut from = |to: ReadFrom| {
        consumer.seek(&tp(0), to).unwrap();
        places(&consumer.poll(SHORT).unwrap()).first().cloned()
    };
    assert_eq!(from(Offset::new(2).into()).as_deref(), Some("0:2"));
    assert_eq!(from(Timestamp::new(101).into()).as_deref(), Some("0:1"));
    assert_eq!(from(Timestamp::new(301).into()), None);
    assert_eq!(from(Start::Earliest.into()).as_deref(), Some("0:0"));
    assert_eq!(from(Start::Latest.into()), None);
    assert_eq!(consumer.seek(&tp(0), Offset::new(4)).unwrap_err().kind(), ErrorKind::OffsetOutOfRange);
    assert_eq!(consumer.seek(&tp(1), Start::Earliest).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn subscribing_and_assigning_by_hand_do_not_mix() {
    let broker = broker();
    fill(&topic(&broker, "t", 2), 1, 1);
    let group = broker.consumer_group("g");
    let mut consumer = group.consumer(["t"]).join().unwrap();
    assert_eq!(consumer.assign([tp(0)]).unwrap_err().kind(), ErrorKind::InvalidArgument);
    consumer.unsubscribe().unwrap();
    assert_eq!(consumer.assign([tp(9)]).unwrap_err().kind(), ErrorKind::UnknownTopicOrPartition);
    consumer.assign([tp(1)]).unwrap();
    assert_eq!(consumer.subscribe(["t"]).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(places(&consumer.poll(LONG).unwrap()), ["1:0"]);
    // It is no member, so it may commit while there are none, and only then.
    consumer.commit().unwrap();
    let member = group.consumer(["t"]).join().unwrap();
    consumer.seek(&tp(1), Start::Earliest).unwrap();
    assert_eq!(consumer.commit().unwrap_err().kind(), ErrorKind::UnknownMember);
    assert_eq!(group.reset(["t"], Start::Earliest).unwrap_err().kind(), ErrorKind::GroupNotEmpty);
    drop(member);
    group.reset(["t"], Start::Earliest).unwrap();
    assert_eq!(group.lag().unwrap().total(), 1);
    group.delete().unwrap();
    assert_eq!(group.committed(&tp(1)).unwrap(), None);
    assert_eq!(group.delete().unwrap_err().kind(), ErrorKind::UnknownGroup);
}

#[test]
fn a_pattern_takes_in_topics_that_come_later_and_no_internal_ones() {
    let broker = broker();
    let mut consumer = broker.consumer_group("g").consumer_matching("t.*|__.*").join().unwrap();
    assert!(consumer.poll(SHORT).unwrap().is_empty());
    let maker = {
        let broker = broker.clone();
        std::thread::spawn(move || fill(&topic(&broker, "two", 1), 0, 1))
    };
    let records = consumer.poll(LONG).unwrap();
    maker.join().unwrap();
    assert_eq!(records.iter().next().unwrap().topic(), "two");
    topic(&broker, "other-t", 1);
    consumer.poll(SHORT).unwrap();
    assert_eq!(consumer.assignment(), [TopicPartition::new("two", 0)]);
    let misspelt = broker.consumer_group("g").consumer(["no topic"]).join();
    assert_eq!(misspelt.unwrap_err().kind(), ErrorKind::InvalidTopicName);
    assert_eq!(
        broker.consumer_group("g").consumer_matching("(").join().unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
}

#[test]
fn a_topic_made_anew_is_read_from_its_own_beginning() {
    let broker = broker();
    let old = topic(&broker, "t", 1);
    fill(&old, 0, 3);
    let group = broker.consumer_group("g");
    let mut consumer = group.consumer(["t"]).join().unwrap();
    let records = consumer.poll(LONG).unwrap();
    consumer.commit().unwrap();
    old.delete().unwrap();
    fill(&topic(&broker, "t", 1), 0, 1);
    assert_eq!(group.committed(&tp(0)).unwrap(), None);
    let stale = records.iter().next().unwrap();
    assert_eq!(consumer.commit_through(&stale).unwrap_err().kind(), ErrorKind::TopicDeleted);
    assert_eq!(places(&consumer.poll(LONG).unwrap()), ["0:0"]);
}

#[test]
fn records_that_are_gone_are_told_once() {
    let broker = broker();
    let topic = topic(&broker, "t", 1);
    fill(&topic, 0, 2);
    let mut consumer = broker.consumer_group("g").consumer(["t"]).max_poll_records(1).join().unwrap();
    assert_eq!(places(&consumer.poll(LONG).unwrap()), ["0:0"]);
    consumer.seek(&tp(0), Start::Earliest).unwrap();
    fill(&topic, 0, 2);
    topic.partition(0).unwrap().delete_records(3).unwrap();
    let gap = consumer.poll(LONG).unwrap_err();
    assert_eq!((gap.kind(), gap.at_offset()), (ErrorKind::Overtaken, Some(Offset::new(3))));
    assert_eq!(places(&consumer.poll(LONG).unwrap()), ["0:3"]);
}

#[test]
fn damage_is_told_until_the_consumer_seeks_behind_it() {
    let storage = MemoryStorage::new();
    let broker = Broker::builder("/m").storage(storage.clone()).open().unwrap();
    let topic = topic(&broker, "t", 1);
    (0..3).for_each(|_| fill(&topic, 0, 1));
    let log = storage.open(Path::new("/m/t-0/00000000000000000000.log"), OpenMode::Write).unwrap();
    let batch = topic.partition(0).unwrap().size_bytes().unwrap() / 3;
    log.write_all_at(&[0xff], batch + 65).unwrap();
    let mut consumer = broker.consumer_group("g").consumer(["t"]).join().unwrap();
    assert_eq!(places(&consumer.poll(LONG).unwrap()), ["0:0"]);
    for _ in 0..2 {
        let damage = consumer.poll(LONG).unwrap_err();
        assert_eq!(damage.kind(), ErrorKind::Corrupt);
        assert_eq!(damage.at_offsets(), Some(Offset::new(1)..Offset::new(2)));
    }
    let behind = consumer.poll(LONG).unwrap_err().at_offsets().unwrap().end;
    consumer.seek(&tp(0), behind).unwrap();
    assert_eq!(places(&consumer.poll(LONG).unwrap()), ["0:2"]);
}

#[test]
fn a_waker_ends_one_poll() {
    let broker = broker();
    let mut consumer = broker.consumer_group("g").consumer(["t"]).join().unwrap();
    let waker = consumer.waker();
    waker.wake();
    assert_eq!(consumer.poll(LONG).unwrap_err().kind(), ErrorKind::Interrupted);
    assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
    broker.close().unwrap();
    assert_eq!(consumer.poll(LONG).unwrap_err().kind(), ErrorKind::Closed);
}

/// Members come and go while records arrive. Whoever commits each poll before the next one, and leaves
/// only after a commit, hands over without a record lost or repeated.
#[test]
fn nothing_is_lost_or_repeated_while_members_come_and_go() {
    const RECORDS: usize = 3000;
    let broker = broker();
    let topic = topic(&broker, "t", 3);
    let group = broker.consumer_group("g");
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (group, seen) = (group.clone(), Arc::clone(&seen));
            std::thread::spawn(move || {
                while seen.lock().len() < RECORDS {
                    let mut member = group.consumer(["t"]).max_poll_records(20).join().unwrap();
                    for _ in 0..10 {
                        let records = member.poll(Duration::from_millis(2)).unwrap();
                        // A poll that ran out while it waited for the others has nothing to lose.
                        let late = member.commit().err().map(|e| (e.kind(), records.is_empty()));
                        assert!(matches!(late, None | Some((ErrorKind::IllegalGeneration, true))), "{late:?}");
                        seen.lock().extend(places(&records));
                    }
                }
            })
        })
        .collect();
    for round in 0..RECORDS / 30 {
        fill(&topic, i32::try_from(round % 3).unwrap(), 30);
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let seen = seen.lock();
    assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (RECORDS, RECORDS));
    assert_eq!(group.lag().unwrap().total(), 0);
}

#[test]
fn a_commit_after_a_poll_that_ran_out_in_a_rebalance_may_come_too_late() {
    let broker = broker();
    topic(&broker, "t", 3);
    let join = || broker.consumer_group("g").consumer(["t"]).join().unwrap();
    let (mut first, mut second) = (join(), join());
    // Both take their part at the start of an empty partition; nothing is committed there.
    for _ in 0..2 {
        first.poll(Duration::ZERO).unwrap();
        second.poll(Duration::ZERO).unwrap();
    }
    let _third = join();
    assert!(first.poll(Duration::ZERO).unwrap().is_empty(), "it waits for the second");
    second.poll(Duration::ZERO).unwrap();
    assert_eq!(first.commit().unwrap_err().kind(), ErrorKind::IllegalGeneration);
    first.poll(Duration::ZERO).unwrap();
    first.commit().unwrap();
}

#[test]
fn small_polls_serve_every_partition() {
    let broker = broker();
    let topic = topic(&broker, "t", 2);
    for partition in [0, 1] {
        for _ in 0..4 {
            fill(&topic, partition, 1);
        }
    }
    let mut consumer =
        broker.consumer_group("g").consumer(["t"]).max_poll_records(1).max_partition_fetch_bytes(1).join();
    let consumer = consumer.as_mut().unwrap();
    let seen: Vec<_> = (0..4).flat_map(|_| places(&consumer.poll(LONG).unwrap())).collect();
    assert_eq!(seen, ["0:0", "1:0", "0:1", "1:1"]);
}

#[test]
fn a_poll_interval_of_nothing_does_not_spin() {
    let broker = broker();
    fill(&topic(&broker, "t", 1), 0, 1);
    let mut consumer = broker.consumer_group("g").consumer(["t"]).max_poll_interval(Duration::ZERO).join().unwrap();
    assert_eq!(consumer.poll(LONG).unwrap().len(), 1);
}

#[test]
fn a_pattern_with_a_bracket_too_many_is_refused() {
    let error = broker().consumer_group("g").consumer_matching("a)|(b").join().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_consumer_of_nothing_hears_that_the_broker_closed() {
    let broker = broker();
    let mut consumer = broker.consumer_group("g").consumer_of([]).join().unwrap();
    broker.close().unwrap();
    assert_eq!(consumer.poll(SHORT).unwrap_err().kind(), ErrorKind::Closed);
}

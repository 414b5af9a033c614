//! Byte budgets: what is counted, who is refused, who waits and what goes.

use std::thread;

use super::*;
use crate::topic::OnFull;

const KIB: u64 = 1 << 10;
const LONG: Duration = Duration::from_secs(3600);
/// What a batch takes beside its value.
const OVERHEAD: u64 = 80;

fn memory() -> BrokerBuilder {
    Broker::builder("/memory").storage(MemoryStorage::new()).clock(ManualClock::new(Timestamp::new(1_700_000_000_000)))
}

fn used(broker: &Broker, topic: Option<&str>) -> u64 {
    broker.inner.context.budgets.sum(topic).bytes()
}

fn held(topics: &[&Topic]) -> u64 {
    topics.iter().flat_map(|topic| topic.partitions()).map(|partition| partition.size_bytes().unwrap()).sum()
}

fn set(name: &str, value: &str) -> TopicConfig {
    TopicConfig::default().set(name, value).unwrap()
}

/// A topic whose segments are small where a budget asks for it.
fn create(broker: &Broker, topic: &str) -> Topic {
    broker.topic(topic).config(set("max.message.bytes", "1024")).create().unwrap()
}

fn value(number: usize) -> String {
    format!("{number:0200}")
}

fn is_full(error: &Error) -> bool {
    error.kind() == ErrorKind::StorageFull && error.is_retriable()
}

fn wait_until_blocked(broker: &Broker, topic: Option<&str>) {
    while !broker.inner.context.budgets.sum(topic).freed().is_waited_on() {
        thread::yield_now();
    }
}

#[test]
fn an_append_that_does_not_fit_is_rejected_by_name_and_takes_nothing() {
    let broker = memory().topic_byte_budget("orders", 2 * KIB, OnFull::Reject).open().unwrap();
    let (orders, other) = (create(&broker, "orders"), create(&broker, "other"));
    let sent =
        (0..).map(|n| orders.send(value(n))).take_while(|sent| sent.as_ref().map_or_else(|e| !is_full(e), |_| true));
    let count = sent.map(Result::unwrap).count();
    let full = used(&broker, Some("orders"));
    assert_eq!(full, held(&[&orders]));
    assert!(full <= 2 * KIB && full + 200 + OVERHEAD > 2 * KIB, "{full}");
    let error = orders.send(value(0)).unwrap_err().to_string();
    let known = [
        format!("the byte budget of topic \"orders\" is used up: {full} of 2048 bytes"),
        "partition orders-0".to_owned(),
        "delete records or a topic, keep less with retention.bytes, or raise BrokerBuilder::topic_byte_budget"
            .to_owned(),
    ];
    known.iter().for_each(|part| assert!(error.contains(part), "{error}"));
    assert_eq!(orders.scan(Start::Earliest).count(), count);
    assert_eq!(used(&broker, Some("orders")), full);
    // Nobody else is concerned.
    other.send(value(0)).unwrap();
}

#[test]
fn what_is_staged_counts_and_what_can_never_fit_is_too_large() {
    let broker = memory().manual().byte_budget(KIB, OnFull::Block(LONG)).open().unwrap();
    let partition = create(&broker, "t").partition(0).unwrap();
    partition.append_records([value(0)]).unwrap();
    assert_eq!((partition.size_bytes().unwrap(), used(&broker, None)), (0, 270));
    let error = partition.append_records([" ".repeat(1025)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains("raise BrokerBuilder::byte_budget"), "{error}");
    broker.run_maintenance().unwrap();
    assert_eq!(partition.size_bytes().unwrap(), used(&broker, None));
}

#[test]
fn kafkas_own_topics_are_never_refused() {
    let broker = memory().byte_budget(200, OnFull::Reject).open().unwrap();
    let topic = create(&broker, "t");
    topic.send(" ".repeat(100)).unwrap();
    assert!(is_full(&topic.send(" ".repeat(100)).unwrap_err()));
    let before = used(&broker, None);
    let group = broker.consumer_group("g");
    let mut consumer = group.consumer(["t"]).start(Start::Earliest).join().unwrap();
    let records = consumer.poll(Duration::from_secs(60)).unwrap();
    consumer.commit_through(&records.iter().next().unwrap()).unwrap();
    create(&broker, "another");
    assert_eq!(used(&broker, None), before);
    for (topic, bytes) in [("__consumer_offsets", 1), ("a/b", 1), ("t", 0)] {
        let error = memory().topic_byte_budget(topic, bytes, OnFull::Reject).open().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig | ErrorKind::InvalidTopicName), "{error}");
    }
}

#[test]
fn whoever_waits_for_space_gets_it_from_deletions_or_runs_out_of_time() {
    let broker = memory().clock(SystemClock::new()).byte_budget(KIB, OnFull::Block(Duration::ZERO)).open().unwrap();
    let topic = create(&broker, "t");
    assert!(is_full(&(0..9).find_map(|n| topic.send(value(n)).err()).unwrap()));
    assert!(is_full(&topic.partition(0).unwrap().append_records([value(0)]).unwrap_err()));
    assert!(is_full(&broker.producer().build().unwrap().enqueue(&topic, value(0)).unwrap_err()));

    let broker = memory().byte_budget(KIB, OnFull::Block(LONG)).open().unwrap();
    let (full, other, doomed) = (create(&broker, "full"), create(&broker, "other"), create(&broker, "doomed"));
    for _ in 0..3 {
        full.send(value(0)).unwrap();
    }
    thread::scope(|scope| {
        let by_topic = scope.spawn(|| other.send(value(1)));
        wait_until_blocked(&broker, None);
        full.partition(0).unwrap().delete_records(3).unwrap();
        assert_eq!(by_topic.join().unwrap().unwrap().offset, 0);
        for _ in 0..2 {
            full.send(value(0)).unwrap();
        }

        let by_producer = scope.spawn(|| broker.producer().build().unwrap().enqueue(&other, value(2)).unwrap().wait());
        wait_until_blocked(&broker, None);
        full.delete().unwrap();
        assert_eq!(by_producer.join().unwrap().unwrap().offset, 1);
        other.send(value(3)).unwrap();

        // Its own topic goes, and holds nothing.
        let lost = scope.spawn(|| doomed.partition(0).unwrap().append_records([value(4)]));
        wait_until_blocked(&broker, None);
        doomed.delete().unwrap();
        assert_eq!(lost.join().unwrap().unwrap_err().kind(), ErrorKind::TopicDeleted);

        let late = scope.spawn(|| other.partition(0).unwrap().append_records([value(4)]));
        wait_until_blocked(&broker, None);
        broker.close().unwrap();
        assert_eq!(late.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    });
}

#[test]
fn retention_wakes_who_waits() {
    let broker = memory().manual().topic_byte_budget("t", 16 * KIB, OnFull::Block(LONG)).open().unwrap();
    let topic = create(&broker, "t");
    let partition = topic.partition(0).unwrap();
    while used(&broker, Some("t")) + 200 + OVERHEAD <= 16 * KIB {
        append(&partition, &[&value(0)]);
    }
    topic.alter_configs(&[("retention.bytes", Some("4096"))]).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| partition.append_records([value(1)]));
        wait_until_blocked(&broker, Some("t"));
        broker.run_maintenance().unwrap();
        waiting.join().unwrap().unwrap();
    });
    assert!(used(&broker, Some("t")) < 8 * KIB);
}

#[test]
fn dropping_the_oldest_keeps_the_newest_within_the_budget() {
    let broker = memory().topic_byte_budget("t", 16 * KIB, OnFull::DropOldest).open().unwrap();
    let topic = create(&broker, "t");
    for number in 0..500 {
        assert_eq!(topic.send(value(number)).unwrap().offset, i64::try_from(number).unwrap());
        assert!(used(&broker, Some("t")) <= 16 * KIB);
        assert_eq!(used(&broker, Some("t")), held(&[&topic]));
    }
    assert!(used(&broker, Some("t")) > 12 * KIB);
    let start = topic.partition(0).unwrap().offsets().unwrap().log_start.get();
    let expected: Vec<_> = (usize::try_from(start).unwrap()..500).map(value).collect();
    assert_eq!(values(topic.scan(Start::Earliest)), expected);
}

#[test]
fn an_active_segment_alone_goes_whole_and_nothing_above_the_high_watermark() {
    // No smaller segments than `max.message.bytes` allows.
    let broker = memory().manual().byte_budget(2 * KIB, OnFull::DropOldest).open().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let partition = topic.partition(0).unwrap();
    // Nobody waits: what is staged is made visible before it goes.
    for number in 0..20 {
        partition.append_records([value(number)]).unwrap();
        assert!(used(&broker, None) <= 2 * KIB);
    }
    broker.run_maintenance().unwrap();
    let offsets = partition.offsets().unwrap();
    assert_eq!((offsets.log_start, offsets.end), (Offset::new(14), Offset::new(20)));
    assert_eq!(values(topic.scan(Start::Earliest)), (14..20).map(value).collect::<Vec<_>>());
}

#[test]
fn the_oldest_records_of_all_topics_go_but_none_of_a_compacted_one() {
    let clock = ManualClock::new(Timestamp::new(1_700_000_000_000));
    let broker = memory().clock(clock.clone()).byte_budget(16 * KIB, OnFull::DropOldest).open().unwrap();
    let keys = broker.topic("keys").config(set("cleanup.policy", "compact")).create().unwrap();
    let (old, new) = (create(&broker, "old"), create(&broker, "new"));
    let send = |topic: &Topic| {
        for number in 0..22 {
            clock.advance(Duration::from_secs(1));
            topic.send((&*number.to_string(), value(number))).unwrap();
        }
    };
    [&keys, &old, &new].into_iter().for_each(send);
    // Of 16 KiB some 5.8 are taken by each.
    let start = |topic: &Topic| topic.partition(0).unwrap().offsets().unwrap().log_start.get();
    assert!(start(&old) > 0);
    assert_eq!((start(&keys), start(&new)), (0, 0));
    send(&new);
    assert_eq!((start(&keys), start(&old)), (0, 22), "all of the older topic first");
    assert!(start(&new) > 0);
    assert_eq!(used(&broker, None), held(&[&keys, &old, &new]));
    assert!(used(&broker, None) <= 16 * KIB);

    let error = (0..100).find_map(|n| keys.send(("key", value(n))).err()).unwrap();
    assert!(is_full(&error));
    assert_eq!((start(&keys), held(&[&old, &new])), (0, 0));
}

#[test]
fn threads_pass_a_budget_by_one_batch_each_at_most() {
    for on_full in [OnFull::Reject, OnFull::DropOldest] {
        let broker = memory().byte_budget(64 * KIB, on_full).open().unwrap();
        let topics = ["a", "b"].map(|topic| create(&broker, topic));
        let limit = 64 * KIB + 3 * (200 + OVERHEAD);
        thread::scope(|scope| {
            for thread in 0..4 {
                let partition = topics[thread % 2].partition(0).unwrap();
                let broker = &broker;
                scope.spawn(move || {
                    for number in 0..500 {
                        match partition.append_records([value(number)]) {
                            Err(error) => assert!(on_full == OnFull::Reject && is_full(&error), "{error}"),
                            Ok(_) => assert!(used(broker, None) <= limit),
                        }
                    }
                });
            }
        });
        let [a, b] = &topics;
        broker.run_maintenance().unwrap();
        assert_eq!(used(&broker, None), held(&[a, b]));
        assert!(used(&broker, None) > 48 * KIB);
    }
}

#[test]
fn several_who_drop_the_oldest_at_once_are_all_served() {
    for _ in 0..10 {
        let broker = memory().manual().byte_budget(KIB, OnFull::DropOldest).open().unwrap();
        let orders = create(&broker, "orders");
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let partition = orders.partition(0).unwrap();
                    for number in 0..300 {
                        // Not visible before somebody waits, and so not to be dropped.
                        partition.append_records([value(number)]).unwrap();
                    }
                });
            }
        });
    }
}

#[test]
fn what_is_held_is_counted_again_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let open = |budget| {
        let builder = Broker::builder(dir.path()).byte_budget(budget, OnFull::Reject);
        builder.topic_byte_budget("t", budget, OnFull::Reject).open().unwrap()
    };
    let broker = open(64 * KIB);
    let topic = broker.topic("t").partitions(2).config(set("max.message.bytes", "1024")).create().unwrap();
    for number in 0..100 {
        append(&topic.partition(number % 2).unwrap(), &[&value(0)]);
    }
    topic.partition(1).unwrap().delete_records(20).unwrap();
    let before = used(&broker, None);
    assert_eq!(before, held(&[&topic]));
    broker.close().unwrap();

    for _ in 0..2 {
        let broker = open(before + 100);
        assert_eq!((used(&broker, None), used(&broker, Some("t"))), (before, before), "before a log is touched");
        let topic = broker.topic("t").open().unwrap();
        assert!(is_full(&topic.send(value(0)).unwrap_err()));
        assert_eq!(held(&[&topic]), before);
        assert_eq!(used(&broker, None), before);
        // As if killed, the second time after a clean close.
        drop((broker, topic));
    }
}

#[test]
fn what_found_no_space_on_the_disk_is_not_counted() {
    let disk = SimStorage::new();
    let broker = Broker::builder("data").storage(disk.clone()).manual().byte_budget(64 * KIB, OnFull::Reject).open();
    let broker = broker.unwrap();
    let topic = create(&broker, "t");
    let partition = topic.partition(0).unwrap();
    append(&partition, &[&value(0)]);
    disk.limit_space(Some(disk.used_space()));
    // More than the space that was made ahead holds.
    let refused: Vec<_> = (0..60).map(|n| partition.append_records([value(n)]).unwrap()).collect();
    let staged = used(&broker, None);
    assert!(is_full(&partition.wait(refused[59].position, Durability::PowerLoss).unwrap_err()));
    assert!(used(&broker, None) < staged);
    assert_eq!(used(&broker, None), held(&[&topic]));
}

//! Appends that expect the newest record of a key: what counts, what is refused, and what the index does when it is
//! full, the disk is, or the log is damaged.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use super::*;
use crate::log::Appended;
use crate::record::{BatchBuilder, Compression, EndMarker, Record, TxnOutcome};
use crate::storage::MemoryStorage;
use crate::types::ProducerId;

const ROOMY: usize = 1 << 20;
/// What one short key takes.
const KEY: usize = 129;

fn open(disk: &MemoryStorage, bytes: usize) -> Broker {
    let clock = ManualClock::new(Timestamp::new(1_700_000_000_000));
    Broker::builder("/data").storage(disk.clone()).clock(clock).key_index("t", bytes).open().unwrap()
}

fn partition(broker: &Broker) -> Partition {
    broker.topic("t").open_or_create().unwrap().partition(0).unwrap()
}

fn memory(bytes: usize) -> Partition {
    partition(&open(&MemoryStorage::new(), bytes))
}

/// Appends a record of `key` that expects the newest one at `newest`, or none where that is negative.
fn put(partition: &Partition, key: &str, newest: i64) -> Result<i64> {
    let newest = (newest >= 0).then_some(Offset::new(newest));
    let appended = partition.append_records_if_key(key, newest, [(key, "value")])?;
    Ok(appended.base_offset.get())
}

/// Where a key that is not there any more, or somewhere else, is said to be; -1 for nowhere.
#[track_caller]
fn conflict<T: std::fmt::Debug>(appended: Result<T>) -> i64 {
    let error = appended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    error.at_offset().map_or(-1, Offset::get)
}

fn plain(partition: &Partition, record: impl Into<Record>) -> Appended {
    let appended = partition.append_records([record.into()]).unwrap();
    partition.wait(appended.position, partition.durability()).unwrap();
    appended
}

#[test]
fn a_key_is_found_as_expected_or_is_told_where_it_is() {
    let partition = memory(ROOMY);
    assert_eq!(put(&partition, "ada", -1).unwrap(), 0);
    let error = partition.append_records_if_key("ada", None, ["late"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "an append expected no record of the key, key \"ada\", partition t-0, offset 0 (read the record at the offset \
         named, and decide again)"
    );
    let error = partition.append_records_if_key("bob", Some(Offset::new(7)), ["early"]).unwrap_err();
    assert_eq!((error.kind(), error.at_offset()), (ErrorKind::Conflict, None));
    assert!(error.to_string().contains("the newest record of the key at offset 7, key \"bob\""), "{error}");

    // Others are others, and what comes without a condition counts as well.
    assert_eq!(put(&partition, "bob", -1).unwrap(), 1);
    assert_eq!(put(&partition, "ada", 0).unwrap(), 2);
    plain(&partition, ("ada", "by any way"));
    assert_eq!(conflict(put(&partition, "ada", 2)), 3);
    plain(&partition, Record::tombstone("bob"));
    assert_eq!(conflict(put(&partition, "bob", 1)), 4);
    // No key is no key, an empty one is.
    plain(&partition, "keyless");
    assert_eq!(put(&partition, "", -1).unwrap(), 6);
    assert_eq!(conflict(put(&partition, "", -1)), 6);
    // A batch is conditional on one key and may hold others.
    let both = [("ada", "1"), ("bob", "2"), ("ada", "3")];
    assert_eq!(partition.append_records_if_key("ada", Some(Offset::new(3)), both).unwrap().last_offset, 9);
    assert_eq!((conflict(put(&partition, "ada", 7)), conflict(put(&partition, "bob", 4))), (9, 8));
    // And on the end, with or without an index.
    assert_eq!(conflict(partition.append_records_if(9, ["late"])), 10);
    assert_eq!(partition.append_records_if(10, [("ada", "last")]).unwrap().base_offset, 10);
    assert_eq!(put(&partition, "ada", 10).unwrap(), 11);
}

#[test]
fn the_index_is_built_from_the_log_whoever_wrote_it() {
    let disk = MemoryStorage::new();
    let broker = open(&disk, ROOMY);
    let log = partition(&broker);
    put(&log, "ada", -1).unwrap();
    let mut batch = BatchBuilder::new().compression(Compression::lz4());
    for key in ["bob", "ada", "cyd"] {
        batch.push(Timestamp::new(1_700_000_000_000), &Record::new("value").key(key)).unwrap();
    }
    log.append(&batch.finish().unwrap()).unwrap();
    let mut aborted = BatchBuilder::new().producer(ProducerId::new(7), 0, 0).transactional();
    aborted.push(Timestamp::new(1_700_000_000_000), &Record::new("value").key("dan")).unwrap();
    log.append(&aborted.finish().unwrap()).unwrap();
    let check = |log: &Partition| {
        let found = ["ada", "bob", "cyd", "dan", "fay"].map(|key| conflict(put(log, key, 1_000)));
        assert_eq!(found, [2, 1, 3, 4, -1]);
    };
    check(&log);
    let end = EndMarker { outcome: TxnOutcome::Abort, coordinator_epoch: 0 };
    let marker = BatchBuilder::end_marker(end, ProducerId::new(7), 0, Timestamp::new(1_700_000_000_000)).unwrap();
    let marker = log.append(&marker).unwrap();
    check(&log);
    log.wait(marker.position, Durability::PowerLoss).unwrap();

    drop((log, broker));
    let broker = open(&disk, ROOMY);
    check(&partition(&broker));
    broker.close().unwrap();
    // Somebody who has no index writes, too.
    let broker = Broker::builder("/data").storage(disk.clone()).open().unwrap();
    broker.topic("t").open().unwrap().send(("eve", "here")).unwrap();
    broker.close().unwrap();
    let log = partition(&open(&disk, ROOMY));
    assert_eq!(conflict(put(&log, "eve", -1)), 6);
    check(&log);
    assert_eq!(put(&log, "fay", -1).unwrap(), 7);
    log.delete_records(7).unwrap();
    let found = ["ada", "bob", "eve", "fay"].map(|key| conflict(put(&log, key, 1_000)));
    assert_eq!(found, [-1, -1, -1, 7], "below the log start there is nothing");
}

#[test]
fn a_full_index_refuses_what_it_cannot_know_and_nothing_else() {
    let disk = MemoryStorage::new();
    let broker = open(&disk, 2 * KEY + KEY - 1);
    let log = partition(&broker);
    put(&log, "a", -1).unwrap();
    put(&log, "b", -1).unwrap();
    // There may have been no "c" so far; from the next one on that is not known any more.
    assert_eq!(put(&log, "c", -1).unwrap(), 2);
    for expected in [-1, 2] {
        let error = put(&log, "c", expected).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::KeyIndexFull);
        assert!(error.to_string().contains("of 386 bytes is full, and does not know this key, key \"c\""), "{error}");
    }
    assert_eq!(put(&log, "d", -1).unwrap_err().kind(), ErrorKind::KeyIndexFull);
    // What it knows goes on.
    assert_eq!(put(&log, "a", 0).unwrap(), 3);
    assert_eq!((conflict(put(&log, "a", 0)), conflict(put(&log, "b", -1))), (3, 1));
    plain(&log, ("c", "unconditionally"));

    // Keys without a record make room for others.
    log.delete_records(4).unwrap();
    plain(&log, ("e", "value"));
    assert_eq!(put(&log, "e", 5).unwrap(), 6);
    assert_eq!(put(&log, "c", 4).unwrap(), 7);
    assert_eq!((put(&log, "f", -1).unwrap(), put(&log, "f", 8).unwrap_err().kind()), (8, ErrorKind::KeyIndexFull));
    // One that is built anew holds what is there.
    broker.close().unwrap();
    let log = partition(&open(&disk, 3 * KEY));
    let found = ["c", "e", "f", "a"].map(|key| conflict(put(&log, key, 1_000)));
    assert_eq!(found, [7, 6, 8, -1]);
}

#[test]
fn an_index_is_built_when_its_broker_is_opened() {
    let disk = SimStorage::new();
    let builder = |disk: &SimStorage| Broker::builder("/data").storage(disk.clone()).manual().key_index("t", ROOMY);
    let broker = builder(&disk).open().unwrap();
    plain(&partition(&broker), ("ada", "value"));
    broker.close().unwrap();
    let broker = builder(&disk).open().unwrap();
    let log = partition(&broker);
    let reads = || disk.counts().get(&Operation::Read).copied().unwrap_or_default();
    let before = reads();
    assert_eq!((conflict(put(&log, "ada", -1)), reads()), (0, before), "nothing is read any more");
    assert_eq!(put(&log, "bob", -1).unwrap(), 1);
    broker.close().unwrap();

    // One that cannot be built keeps no broker closed, and nobody who does not ask.
    let broker = builder(&disk).open().unwrap();
    let size = partition(&broker).size_bytes().unwrap();
    broker.close().unwrap();
    disk.flip_bit("data/t-0/00000000000000000000.log", size - 1, 3).unwrap();
    let broker = builder(&disk).open().unwrap();
    let log = partition(&broker);
    assert_eq!(put(&log, "cyd", -1).unwrap_err().kind(), ErrorKind::Corrupt);
    plain(&log, ("cyd", "value"));
}

#[test]
fn a_duplicate_of_an_idempotent_producer_is_no_conflict() {
    let partition = memory(ROOMY);
    let batch = |sequence: i64| {
        let mut batch = BatchBuilder::new().producer(ProducerId::new(7), 0, sequence as i32);
        batch.push(Timestamp::new(1_700_000_000_000), &Record::new("value").key("ada")).unwrap();
        batch.finish().unwrap()
    };
    for append in [
        &(|sequence| partition.append_if(sequence, &batch(sequence))) as &dyn Fn(i64) -> Result<Appended>,
        &|sequence| partition.append_if_key("ada", Some(Offset::new(sequence - 1)), &batch(sequence)),
    ] {
        let next = partition.offsets().unwrap().end.get();
        let first = append(next).unwrap();
        assert_eq!(first.base_offset, next);
        assert_eq!(append(next).unwrap().base_offset, next);
        assert_eq!(append(next + 1).unwrap().base_offset, next + 1);
        // One that is no duplicate comes too late.
        let late = batch(next + 2);
        assert_eq!(conflict(partition.append_if_key("ada", Some(next.into()), &late)), next + 1);
        assert_eq!(conflict(partition.append_if(next, &late)), next + 2);
        assert_eq!(partition.offsets().unwrap().end, next + 2);
    }
}

#[test]
fn partitions_of_a_topic_share_the_room() {
    let broker = open(&MemoryStorage::new(), 3 * KEY);
    let topic = broker.topic("t").partitions(2).create().unwrap();
    let [first, second] = [0, 1].map(|number| topic.partition(number).unwrap());
    put(&first, "a", -1).unwrap();
    put(&first, "b", -1).unwrap();
    put(&second, "a", -1).unwrap();
    put(&second, "b", -1).unwrap();
    assert_eq!(put(&second, "b", 1).unwrap_err().kind(), ErrorKind::KeyIndexFull);
    assert_eq!(conflict(put(&first, "b", -1)), 1);
    // A topic that is gone holds nothing.
    topic.delete().unwrap();
    let again = partition(&broker);
    ["a", "b", "c"].into_iter().for_each(|key| assert!(put(&again, key, -1).is_ok()));
    assert_eq!(conflict(put(&again, "c", -1)), 2);
}

#[test]
fn an_index_has_to_be_asked_for_and_has_to_have_room() {
    let broker = open(&MemoryStorage::new(), ROOMY);
    let other = broker.topic("other").create().unwrap().partition(0).unwrap();
    let error = put(&other, "ada", -1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("BrokerBuilder::key_index"), "{error}");
    for (topic, bytes, says) in
        [("t", 127, "no room for one key"), ("__consumer_offsets", ROOMY, "Kafka's own"), ("no such", ROOMY, "no such")]
    {
        let error = Broker::builder("/data").storage(MemoryStorage::new()).key_index(topic, bytes).open().unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn what_was_taken_back_is_no_record_of_its_key() {
    let disk = SimStorage::new();
    let clock = ManualClock::new(Timestamp::new(1_700_000_000_000));
    let builder = Broker::builder("/data").storage(disk.clone()).clock(clock).manual();
    let broker = builder.key_index("t", ROOMY).open().unwrap();
    let log = partition(&broker);
    plain(&log, ("ada", "value"));
    assert_eq!(put(&log, "bob", -1).unwrap(), 1);
    log.sync().unwrap();

    disk.limit_space(Some(disk.used_space()));
    let large = "lost".repeat(20_000);
    let lost = log.append_records_if_key("ada", Some(Offset::ZERO), [("ada", large.as_str())]).unwrap();
    assert_eq!(lost.base_offset, 2);
    // A second one stands on the first, and both go.
    let behind = log.append_records_if_key("ada", Some(Offset::new(2)), [("ada", "lost, too")]).unwrap();
    for appended in [lost, behind] {
        assert_eq!(log.wait(appended.position, Durability::PowerLoss).unwrap_err().kind(), ErrorKind::StorageFull);
    }
    disk.limit_space(None);
    // Where they were is somebody else by now.
    for key in ["cyd", "dan", "eve"] {
        plain(&log, (key, "value"));
    }
    assert_eq!(conflict(put(&log, "ada", 3)), 0);
    assert_eq!(put(&log, "bob", 1).unwrap(), 5);
    assert_eq!(put(&log, "ada", 0).unwrap(), 6);

    // A log that was mended is read anew as well.
    log.sync().unwrap();
    disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(".log"));
    put(&log, "ada", 6).unwrap();
    log.sync().unwrap_err();
    assert_eq!(put(&log, "ada", 7).unwrap_err().kind(), ErrorKind::Poisoned);
    log.reopen().unwrap();
    let found = conflict(put(&log, "ada", 1_000));
    let there = log.read(Offset::new(6), 1 << 20, Isolation::ReadUncommitted).unwrap();
    let newest = there.data_batches().last().unwrap().unwrap().header().base_offset();
    assert_eq!(found, newest.get());
    assert_eq!(conflict(put(&log, "bob", 1_000)), 5);
}

#[test]
fn where_damage_may_hide_a_record_nobody_is_told_that_there_is_none() {
    let disk = MemoryStorage::new();
    let broker = open(&disk, ROOMY);
    let log = partition(&broker);
    ["ada", "bob", "cyd"].into_iter().for_each(|key| {
        plain(&log, (key, "value"));
    });
    let batch = log.size_bytes().unwrap() / 3;
    broker.close().unwrap();
    let file = disk.open(Path::new("/data/t-0/00000000000000000000.log"), OpenMode::CreateIfAbsent).unwrap();
    file.write_all_at(&[0xff], batch + 65).unwrap();

    let log = partition(&open(&disk, ROOMY));
    for key in ["ada", "dan"] {
        let error = put(&log, key, -1).unwrap_err();
        assert_eq!((error.kind(), error.at_offsets()), (ErrorKind::Corrupt, Some(1.into()..2.into())), "{error}");
    }
    assert_eq!(plain(&log, ("dan", "unconditionally")).base_offset, 3);
    log.delete_records(2).unwrap();
    assert_eq!((conflict(put(&log, "dan", -1)), conflict(put(&log, "cyd", -1))), (3, 2));
    assert_eq!(put(&log, "bob", -1).unwrap(), 4);
}

#[test]
fn of_many_who_expect_the_same_of_a_key_one_appends_and_others_are_not_in_their_way() {
    const THREADS: usize = 4;
    const ATTEMPTS: usize = 500;
    let log = memory(ROOMY);
    let start = Barrier::new(THREADS);
    let run = |number: usize| {
        let (mut shared, mut own, name, mut won) = (-1, -1, format!("own-{number}"), Vec::new());
        start.wait();
        for _ in 0..ATTEMPTS {
            shared = match put(&log, "shared", shared) {
                Ok(offset) => {
                    won.push((shared, offset));
                    offset
                }
                lost => conflict(lost),
            };
            // Nobody else has this key: whatever the others append, there is no conflict.
            own = put(&log, &name, own).unwrap();
            log.append_records(["keyless"]).unwrap();
        }
        won
    };
    let mut won = thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || run(number))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    won.sort();
    assert!(won.len() >= ATTEMPTS);
    let mut newest = -1;
    for (expected, offset) in won {
        assert_eq!(expected, newest, "one winner for each record of the key");
        newest = offset;
    }
    assert_eq!(conflict(put(&log, "shared", -1)), newest);
}

/// Random appends against a map, over openings, deletions and indexes of every size.
#[test]
fn answers_are_right_or_refused_whatever_happens() {
    for seed in 0..20_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % limit
        };
        let disk = MemoryStorage::new();
        let mut broker = open(&disk, ROOMY);
        let mut log = partition(&broker);
        let (mut newest, mut start, mut end) = (BTreeMap::new(), 0, 0);
        let (mut full, mut right) = (0, 0);
        for _ in 0..200 {
            let key = format!("{}", below(12));
            let there = newest.get(&key).copied().filter(|offset| *offset >= start).unwrap_or(-1);
            match below(10) {
                0 => {
                    if below(2) == 0 {
                        broker.close().unwrap();
                    } else {
                        log.sync().unwrap();
                    }
                    drop((log, broker));
                    broker = open(&disk, KEY * (1 + below(14) as usize) + 1);
                    log = partition(&broker);
                }
                1 => {
                    log.sync().unwrap();
                    start += below(1 + end as u64 - start as u64) as i64;
                    log.delete_records(start).unwrap();
                }
                2..5 => {
                    let mut batch = BatchBuilder::new();
                    for _ in 0..=below(3) {
                        let key = format!("{}", below(12));
                        batch.push(Timestamp::new(1_700_000_000_000), &Record::new("v").key(key.clone())).unwrap();
                        newest.insert(key, end);
                        end += 1;
                    }
                    log.append(&batch.finish().unwrap()).unwrap();
                }
                choice => {
                    let expected = if choice < 8 { there } else { below(end as u64 + 2) as i64 - 1 };
                    match put(&log, &key, expected) {
                        Ok(offset) => {
                            assert_eq!((expected, offset), (there, end), "seed {seed}");
                            newest.insert(key, end);
                            end += 1;
                            right += 1;
                        }
                        Err(error) if error.kind() == ErrorKind::KeyIndexFull => full += 1,
                        refused => {
                            assert_ne!(expected, there, "seed {seed}");
                            assert_eq!(conflict(refused), there, "seed {seed}");
                            right += 1;
                        }
                    }
                }
            }
        }
        assert!(right > 30 && full < 100, "seed {seed}: {right} answers, {full} refused");
    }
}

/// A manual broker, so that whoever waits for a sync makes it, and `work` while that hangs: it ends before the sync does.
fn while_an_index_waits(bytes: usize, work: impl FnOnce(&Topic) + Send, newest: i64) -> Result<i64> {
    let disk = SimStorage::new();
    let builder = Broker::builder("/data").storage(disk.clone()).key_index("t", bytes).manual();
    let broker = builder.open().unwrap();
    let topic = broker.topic("t").partitions(2).create().unwrap();
    let long = "l".repeat(KEY - 1);
    put(&topic.partition(1).unwrap(), &long, -1).unwrap();
    topic.partition(1).unwrap().sync().unwrap();
    let log = topic.partition(0).unwrap();
    // Not in the index: nobody has asked it yet.
    log.append_records([("k", "first")]).unwrap();
    let held = disk.hold_sync("t-0/");
    let (done, ended) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let waits = scope.spawn(|| put(&log, "k", newest));
        held.wait_for_it();
        scope.spawn(|| {
            work(&topic);
            done.send(()).unwrap();
        });
        let in_time = ended.recv_timeout(Duration::from_secs(30));
        drop(held);
        in_time.expect("nobody else waits for the sync");
        waits.join().unwrap()
    })
}

#[test]
fn others_append_while_the_index_waits_for_a_sync() {
    let work = |topic: &Topic| {
        let log = topic.partition(0).unwrap();
        log.append_records([("k", "meanwhile"), ("other", "meanwhile")]).unwrap();
        let producer = topic.broker().producer().build().unwrap();
        drop(producer.enqueue(topic, Record::new("x").key("k").partition(0)).unwrap());
        drop(producer);
        let producer = topic.broker().producer().build().unwrap();
        assert_eq!(producer.send(topic, Record::new("x").key("other").partition(1)).unwrap().offset, 1);
    };
    assert_eq!(conflict(while_an_index_waits(ROOMY, work, 0)), 3);
    assert_eq!(while_an_index_waits(ROOMY, work, 3).unwrap(), 4);
    assert_eq!(while_an_index_waits(ROOMY, |_| {}, 0).unwrap(), 1);
}

/// Of a key that found no room the record before must not be taken for the newest.
#[test]
fn an_index_that_fills_up_while_it_waits_knows_what_it_does_not_know() {
    // The long key leaves no room for a short one, and gives some back.
    let bytes = 2 * KEY - 1 + KEY - 2;
    let work = |topic: &Topic| {
        let [log, other] = [0, 1].map(|number| topic.partition(number).unwrap());
        log.append_records([("k", "no room")]).unwrap();
        other.delete_records(1).unwrap();
        other.append_records([("y", "takes less")]).unwrap();
    };
    let error = while_an_index_waits(bytes, work, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::KeyIndexFull, "{error}");
}

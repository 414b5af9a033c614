//! What a producer promises, on a broker in memory.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use super::*;
use crate::broker::Partition;
use crate::clock::ManualClock;
use crate::record::{Codec, TimestampType};
use crate::storage::MemoryStorage;
use crate::testing::{AfterFailedSync, Choice, Errno, Fault, Operation, Repeat, SimStorage};
use crate::topic::{CleanupPolicy, OnFull, TopicConfig};
use crate::types::{Isolation, Offset, PartitionId, Start, Timestamp};

mod callbacks;
#[cfg(feature = "async")]
mod flush_async;
mod preparing;
mod refusals;
mod retries;
#[cfg(feature = "async")]
mod room;
#[cfg(shuttle)]
mod schedules;

fn broker() -> Broker {
    Broker::in_memory().unwrap()
}

fn values(topic: &Topic) -> Vec<String> {
    let text = |r: Result<crate::topic::OwnedRecord>| String::from_utf8(r.unwrap().value().unwrap().to_vec()).unwrap();
    topic.scan(Start::Earliest).map(text).collect()
}

fn batches(partition: &Partition) -> Vec<crate::record::RecordBatch> {
    let read = partition.read(Offset::ZERO, usize::MAX, Isolation::ReadCommitted).unwrap();
    read.data_batches().collect::<Result<_>>().unwrap()
}

#[test]
fn send_answers_place_and_stored_time() {
    let clock = ManualClock::new(Timestamp::new(5_000));
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).clock(clock).open().unwrap();
    let create = broker.topic("create").create().unwrap();
    let append = TopicConfig::new().timestamp_type(TimestampType::LogAppendTime);
    let append = broker.topic("append").config(append).create().unwrap();
    let producer = broker.producer().build().unwrap();
    for topic in [&create, &append] {
        let old = Record::new("x").timestamp(1_000);
        assert_eq!(producer.send(topic, "x").unwrap().timestamp, 5_000);
        let at = producer.send(topic, old.clone()).unwrap();
        let expected = if topic.name() == "create" { 1_000 } else { 5_000 };
        assert_eq!((at.topic(), at.offset, at.timestamp), (topic.name(), Offset::new(1), Timestamp::new(expected)));
        assert_eq!(topic.send(old).unwrap().timestamp, expected);
        assert_eq!(topic.scan(at.offset).next().unwrap().unwrap().timestamp(), expected);
    }
}

#[test]
fn the_first_record_of_a_partition_sends_nothing_of_others() {
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).manual().open().unwrap();
    let topic = broker.topic("t").partitions(2).create().unwrap();
    let producer = broker.producer().build().unwrap();
    for partition in [0, 1] {
        drop(producer.enqueue(&topic, Record::new("x").partition(partition)).unwrap());
        assert_eq!(topic.partition(0).unwrap().offsets().unwrap().end, 0, "it gathers more");
    }
    producer.flush().unwrap();
    assert_eq!(values(&topic).len(), 2);
}

#[test]
fn records_of_many_threads_all_arrive_in_their_order() {
    let broker = broker();
    let topic = broker.topic("t").partitions(3).create().unwrap();
    let producer = broker.producer().batch_size(300).build().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (producer, topic) = (producer.clone(), &topic);
            scope.spawn(move || {
                for n in 0..200 {
                    drop(producer.enqueue(topic, (format!("k{thread}"), format!("{thread}/{n:03}"))).unwrap());
                    if n % 50 == 0 {
                        producer.send("t", Record::new(format!("{thread}/{n:03}+")).key(format!("k{thread}"))).unwrap();
                    }
                }
            });
        }
    });
    producer.flush().unwrap();
    let all = values(&topic);
    assert_eq!(all.len(), 4 * 204);
    for thread in 0..4 {
        let mine: Vec<_> = all.iter().filter(|v| v.starts_with(&format!("{thread}/"))).collect();
        assert!(mine.is_sorted(), "{mine:?}");
        assert_eq!(mine.len(), 204);
    }
}

#[test]
fn a_send_goes_at_once_and_carries_what_was_enqueued_before() {
    let broker = broker();
    let topic = broker.topic("t").create().unwrap();
    let producer = broker.producer().build().unwrap();
    let mut ticket = producer.enqueue(&topic, "a").unwrap();
    let at = producer.send(&topic, "b").unwrap();
    assert_eq!(at.offset, 1);
    assert_eq!(ticket.try_result().unwrap().unwrap().offset, 0);
    assert_eq!(batches(&topic.partition(0).unwrap()).len(), 1);
}

#[test]
fn what_nobody_waits_for_goes_by_itself() {
    let broker = broker();
    let topic = broker.topic("t").create().unwrap();
    let producer = broker.producer().build().unwrap();
    let mut tail = topic.tail(Start::Earliest);
    drop(producer.enqueue(&topic, "a").unwrap());
    assert_eq!(tail.next().unwrap().unwrap().value(), Some(&b"a"[..]));
}

#[test]
fn a_dropped_producer_sends_what_it_accepted() {
    let broker = broker();
    let topic = broker.topic("t").create().unwrap();
    let producer = broker.producer().linger(Duration::from_secs(3600)).build().unwrap();
    let ticket = producer.enqueue(&topic, "a").unwrap();
    drop(producer);
    assert_eq!(ticket.wait().unwrap().offset, 0);
}

#[test]
fn closing_the_broker_sends_what_producers_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    broker.topic("t").create().unwrap();
    let producer = broker.producer().linger(Duration::from_secs(3600)).build().unwrap();
    let (ticket, mut other) = (producer.enqueue("t", "a").unwrap(), producer.enqueue("t", "b").unwrap());
    broker.close().unwrap();
    assert_eq!(producer.enqueue("t", "c").unwrap_err().kind(), ErrorKind::Closed);
    // It is known that they are there, so it is told.
    assert_eq!(other.try_result().unwrap().unwrap().offset, 1);
    assert_eq!(ticket.wait().unwrap().offset, 0);
    let broker = Broker::open(dir.path()).unwrap();
    assert_eq!(values(&broker.topic("t").open().unwrap()), ["a", "b"]);
}

#[test]
fn a_ticket_is_a_future_and_can_be_given_up_for_a_while() {
    let broker = broker();
    let topic = broker.topic("t").create().unwrap();
    let producer = broker.producer().linger(Duration::from_secs(3600)).build().unwrap();
    let mut ticket = producer.enqueue(&topic, "a").unwrap();
    assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(ticket.try_result().is_none());
    let started = clock_now();
    let ticket = match ticket.wait_timeout(Duration::from_millis(20)) {
        Ok(result) => panic!("sent after {:?}: {result:?}", started.elapsed()),
        Err(ticket) => ticket,
    };
    producer.flush().unwrap();
    assert_eq!(ticket.wait_timeout(Duration::from_secs(30)).unwrap().unwrap().offset, 0);
}

#[expect(clippy::disallowed_methods, reason = "only for a test's message")]
fn clock_now() -> Instant {
    Instant::now()
}

#[test]
fn send_batch_reports_per_record() {
    let broker = broker();
    let topic = broker.topic("t").partitions(2).create().unwrap();
    let producer = broker.producer().build().unwrap();
    let records = [Record::new("a").partition(0), Record::new("b").partition(7), Record::new("c").partition(1)];
    let results = producer.send_batch(&topic, records);
    assert_eq!(results[0].as_ref().unwrap().partition, 0);
    assert_eq!(results[1].as_ref().unwrap_err().kind(), ErrorKind::UnknownTopicOrPartition);
    assert_eq!(results[2].as_ref().unwrap().partition, 1);
    assert_eq!(producer.send_batch("none", ["x"])[0].as_ref().unwrap_err().kind(), ErrorKind::UnknownTopicOrPartition);
}

#[test]
fn failures_of_dropped_tickets_surface_in_flush_once() {
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).byte_budget(500, OnFull::Reject).open().unwrap();
    let topic = broker.topic("t").create().unwrap();
    topic.send(vec![0; 400]).unwrap();
    let producer = broker.producer().build().unwrap();
    let refused = || Record::new(vec![0; 100]);
    drop(producer.enqueue(&topic, refused()).unwrap());
    assert_eq!(producer.flush().unwrap_err().kind(), ErrorKind::StorageFull);
    producer.flush().unwrap();
    let read = producer.enqueue(&topic, refused()).unwrap();
    assert_eq!(read.wait().unwrap_err().kind(), ErrorKind::StorageFull);
    producer.flush().unwrap();
    let late = producer.enqueue(&topic, refused()).unwrap();
    producer.flush().unwrap();
    drop(late);
    assert_eq!(producer.close().unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(producer.enqueue(&topic, "y").unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_bad_record_is_refused_before_it_spoils_a_batch() {
    let broker = broker();
    let config = TopicConfig::new().max_message_bytes(1_000).cleanup_policy(CleanupPolicy::Compact);
    let topic = broker.topic("t").config(config).create().unwrap();
    let producer = broker.producer().build().unwrap();
    let good = producer.enqueue(&topic, ("k", "v")).unwrap();
    let error = producer.enqueue(&topic, ("k", vec![0_u8; 2_000])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains("1000") && error.to_string().contains("2062"), "{error}");
    assert_eq!(producer.enqueue(&topic, "no key").unwrap_err().kind(), ErrorKind::InvalidRecord);
    good.wait().unwrap();
    // Batches stay below the topic's limit however large batch.size is.
    for _ in 0..50 {
        drop(producer.enqueue(&topic, ("k", vec![0_u8; 90])).unwrap());
    }
    producer.flush().unwrap();
    assert_eq!(topic.partition(0).unwrap().offsets().unwrap().end, 51);
}

#[test]
fn a_record_is_too_large_only_where_it_cannot_fit() {
    let broker = broker();
    let config = TopicConfig::new().max_message_bytes(1_000);
    let plain = broker.topic("plain").config(config.clone()).create().unwrap();
    let packed = broker.topic("packed").config(config.compression(Codec::Gzip)).create().unwrap();
    let producer = broker.producer().max_request_size(100_000).build().unwrap();
    let headers = || (0..100).fold(Record::new("x"), |record, _| record.header("h", "v"));
    producer.send(&plain, headers()).unwrap();
    // The topic compresses, whatever its producers do.
    producer.send(&packed, vec![7; 10_000]).unwrap();
    assert_eq!(producer.enqueue(&plain, vec![7; 10_000]).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(producer.enqueue(&packed, vec![7; 100_000]).unwrap_err().kind(), ErrorKind::TooLarge);
    // The producer does, where its topic has no codec of its own.
    let compressing = broker.producer().compression(Codec::Gzip).build().unwrap();
    compressing.send(&plain, vec![7; 10_000]).unwrap();
}

#[test]
fn placement_follows_partition_key_turn_and_custom_choice() {
    #[derive(Debug)]
    struct Last;
    impl Partitioner for Last {
        fn partition(&self, _topic: &str, _record: &Record, partitions: u32) -> PartitionId {
            i32::try_from(partitions).unwrap().into()
        }
    }
    let broker = broker();
    let topic = broker.topic("t").partitions(4).create().unwrap();
    let producer = broker.producer().build().unwrap();
    assert_eq!(producer.send(&topic, Record::new("x").key("k").partition(3)).unwrap().partition, 3);
    for key in ["", "21", "foobar"] {
        let expected = partition_for_key(key.as_bytes(), 4);
        assert_eq!(producer.send(&topic, (key, "x")).unwrap().partition, expected);
        assert_eq!(topic.send((key, "x")).unwrap().partition, expected);
    }
    let robin = broker.producer().round_robin().build().unwrap();
    let turns: Vec<_> = (0..5).map(|_| robin.send(&topic, ("k", "x")).unwrap().partition.get()).collect();
    assert_eq!(turns, [0, 1, 2, 3, 0]);
    let custom = broker.producer().partitioner(Last).build().unwrap();
    assert_eq!(custom.send(&topic, "x").unwrap_err().kind(), ErrorKind::UnknownTopicOrPartition);
}

#[test]
fn added_partitions_are_used_and_deleted_topics_noticed() {
    let broker = broker();
    let topic = broker.topic("t").create().unwrap();
    let producer = broker.producer().build().unwrap();
    producer.send(&topic, "x").unwrap();
    topic.add_partitions(2).unwrap();
    assert_eq!(producer.send(&topic, Record::new("x").partition(1)).unwrap().partition, 1);
    topic.delete().unwrap();
    assert_eq!(producer.send(&topic, "x").unwrap_err().kind(), ErrorKind::TopicDeleted);
    assert_eq!(producer.send("t", "x").unwrap_err().kind(), ErrorKind::UnknownTopicOrPartition);
    let anew = broker.topic("t").create().unwrap();
    assert_eq!(producer.send("t", "x").unwrap().offset, 0);
    assert_eq!(producer.send(&anew, "x").unwrap().offset, 1);
    let other = Broker::in_memory().unwrap();
    assert_eq!(other.producer().build().unwrap().send(&anew, "x").unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn the_topics_codec_wins_over_the_producers() {
    let broker = broker();
    let plain = broker.topic("plain").create().unwrap();
    let fixed = broker.topic("fixed").config(TopicConfig::new().compression(Codec::Snappy)).create().unwrap();
    let producer = broker.producer().compression(Codec::Gzip).build().unwrap();
    producer.send(&plain, "x").unwrap();
    producer.send(&fixed, "x").unwrap();
    fixed.send("x").unwrap();
    let codecs = |topic: &Topic| -> Vec<_> {
        batches(&topic.partition(0).unwrap()).iter().map(|b| b.header().codec()).collect()
    };
    assert_eq!(codecs(&plain), [Codec::Gzip]);
    assert_eq!(codecs(&fixed), [Codec::Snappy, Codec::Snappy]);

    // Whichever way a batch comes.
    let partition = fixed.partition(0).unwrap();
    partition.append_records_if(2, ["x"]).unwrap();
    let mut batch = BatchBuilder::new().compression(Codec::Gzip);
    batch.push(Timestamp::new(1), &Record::new("x")).unwrap();
    let batch = batch.finish().unwrap();
    partition.append(&batch).unwrap();
    plain.partition(0).unwrap().append(&batch).unwrap();
    let producer = broker.producer().compression(Codec::Gzip).linger(Duration::from_secs(3600)).build().unwrap();
    drop(producer.enqueue(&plain, "x").unwrap());
    plain.alter_configs(&[("compression.type", Some("uncompressed"))]).unwrap();
    producer.flush().unwrap();
    partition.sync().unwrap();
    assert_eq!(codecs(&plain), [Codec::Gzip, Codec::Gzip, Codec::None]);
    assert_eq!(codecs(&fixed), [Codec::Snappy; 4]);
    assert_eq!(values(&fixed), ["x"; 4]);
}

#[test]
fn a_full_buffer_waits_for_the_oldest() {
    let broker = broker();
    let topic = broker.topic("t").create().unwrap();
    let producer = broker.producer().batch_size(1_000).buffer_memory(10_000).build().unwrap();
    for _ in 0..100 {
        drop(producer.enqueue(&topic, vec![7_u8; 500]).unwrap());
    }
    let offsets = topic.partition(0).unwrap().offsets().unwrap();
    assert!(offsets.end - offsets.frontier < 10, "{offsets:?}");
}

#[test]
fn a_manual_broker_sends_in_maintenance() {
    let clock = ManualClock::new(Timestamp::new(0));
    let builder = Broker::builder("/m").storage(MemoryStorage::new()).clock(clock.clone()).manual();
    let broker = builder.open().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let producer = broker.producer().build().unwrap();
    let mut ticket = producer.enqueue(&topic, "x").unwrap();
    broker.run_maintenance().unwrap();
    assert!(ticket.try_result().is_none());
    clock.advance(Duration::from_millis(10));
    broker.run_maintenance().unwrap();
    assert_eq!(ticket.try_result().unwrap().unwrap().offset, 0);
}

#[test]
fn a_flush_misses_no_batch_that_the_sync_thread_looks_at() {
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).manual().open().unwrap();
    let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
    let producer = broker.producer().build().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Always too early for the batch.
                producer.shared.accumulator.send_due(Duration::from_millis(5));
            }
        });
        let missed = (1..5000).find(|&n| {
            drop(producer.enqueue(&topic, "x").unwrap());
            producer.flush().unwrap();
            topic.partition(0).unwrap().offsets().unwrap().high_watermark != n
        });
        stop.store(true, Ordering::Relaxed);
        assert_eq!(missed, None);
    });
}

#[test]
fn a_refused_record_does_not_keep_the_directory_locked() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    broker.topic("t").create().unwrap();
    let producer = broker.producer().build().unwrap();
    let refused = producer.enqueue("t", vec![0_u8; 2 << 20]).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TooLarge);
    drop((producer, broker));
    Broker::open(dir.path()).unwrap();
}

/// The sync thread must not be the last to hold the directory: it would free it a moment too late.
#[test]
fn dropping_the_last_producer_frees_the_directory_at_once() {
    for _ in 0..30 {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::open(dir.path()).unwrap();
        let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
        let producer = broker.producer().linger(Duration::from_micros(50)).build().unwrap();
        drop((topic.clone(), broker));
        for n in 0..20 {
            drop(producer.enqueue(&topic, Record::new(format!("{n}"))).unwrap());
        }
        drop((topic, producer));
        Broker::open(dir.path()).unwrap();
    }
}

/// A broker on a disk whose next sync of a log hangs until the answer is dropped.
fn stalled(disk: &SimStorage) -> (Broker, Topic) {
    let broker = Broker::builder("/m").storage(disk.clone()).open().unwrap();
    let topic = broker.topic("t").partitions(2).create().unwrap();
    for partition in 0..2 {
        topic.send(Record::new("first").partition(partition)).unwrap();
    }
    (broker, topic)
}

#[test]
fn memory_is_bounded_while_the_disk_hangs() {
    let disk = SimStorage::new();
    let (broker, topic) = stalled(&disk);
    let builder = broker.producer().batch_size(1_000).buffer_memory(40_000).linger(Duration::from_secs(3600));
    let producer = builder.max_block(Duration::from_millis(20)).build().unwrap();
    let held = disk.hold_sync("t-0/");
    let record = |n: i32| Record::new(vec![7; 400]).partition(n % 2);
    let mut taken = 0;
    let error = loop {
        match producer.enqueue(&topic, record(taken)) {
            Ok(ticket) => drop(ticket),
            Err(error) => break error,
        }
        taken += 1;
        assert!(taken < 100 && producer.shared.accumulator.memory_used() <= 40_000, "{taken}");
    };
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.is_retriable());
    for part in ["buffer.memory", "40000", "max.block.ms", "20 ms", "raise"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(taken >= 10, "{taken}");
    let error = producer.clone().close_timeout(Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("t-0"), "{error}");
    drop(held);
    drop(producer);
    broker.close().unwrap();
    let broker = Broker::builder("/m").storage(disk.clone()).open().unwrap();
    assert_eq!(broker.topic("t").open().unwrap().scan(Start::Earliest).count(), 2 + usize::try_from(taken).unwrap());
}

#[test]
fn a_partition_that_hangs_holds_up_no_other() {
    let disk = SimStorage::new();
    let (broker, topic) = stalled(&disk);
    let builder = broker.producer().batch_size(1_000).buffer_memory(20_000).max_block(Duration::from_secs(3600));
    let producer = builder.build().unwrap();
    let held = disk.hold_sync("t-0/");
    let hanging = producer.enqueue(&topic, Record::new(vec![7; 400]).partition(0)).unwrap();
    producer.shared.accumulator.send_all();
    held.wait_for_it();
    for _ in 0..100 {
        drop(producer.enqueue(&topic, Record::new(vec![7; 400]).partition(1)).unwrap());
    }
    let at = producer.send(&topic, Record::new("x").partition(1)).unwrap();
    assert_eq!(at.offset, 101);
    drop(held);
    hanging.wait().unwrap();
    producer.close().unwrap();
}

/// The first record of a partition opens its log, which reads it.
#[test]
fn a_log_that_hangs_while_it_is_opened_holds_up_no_other_partition() {
    let disk = SimStorage::new();
    let (broker, topic) = stalled(&disk);
    broker.close().unwrap();
    drop((broker, topic));
    let disk = disk.crash(Choice::ProcessCrash);
    let broker = Broker::builder("/m").storage(disk.clone()).open().unwrap();
    let topic = broker.topic("t").open().unwrap();
    let producer = broker.producer().build().unwrap();
    let held = disk.hold_read("t-0/");
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| producer.enqueue(&topic, Record::new("hangs").partition(0)));
        held.wait_for_it();
        // Nobody waits for this one but a future, for which the broker's threads work.
        let (sender, receiver) = std::sync::mpsc::channel();
        let other = || Record::new("goes on").partition(1);
        producer.enqueue_with(&topic, other(), move |at| sender.send(at).unwrap()).unwrap();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(60)).unwrap().unwrap().offset, 1);
        // Nor does a call wait longer than it may, nor for what it has nothing to do with.
        assert_eq!(producer.send_batch(&topic, [other()])[0].as_ref().unwrap().offset, 2);
        producer.clone().close_timeout(Duration::from_secs(60)).unwrap();
        drop(broker.producer().build().unwrap());
        drop(held);
        assert_eq!(hanging.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    });
}

#[test]
fn no_call_and_no_thread_waits_for_a_disk_that_hangs_while_there_is_memory() {
    let disk = SimStorage::new();
    let (broker, topic) = stalled(&disk);
    let producer = broker.producer().build().unwrap();
    let held = disk.hold_sync("t-0/");
    let enqueue = |partition| producer.enqueue(&topic, Record::new(vec![7; 60_000]).partition(partition)).unwrap();
    drop(enqueue(0));
    producer.shared.accumulator.send_all();
    held.wait_for_it();
    // More than a log stages before whoever appends writes.
    let behind: Vec<_> = (0..100).map(|_| enqueue(0)).collect();
    let ticket = enqueue(1);
    assert_eq!(ticket.wait_timeout(Duration::from_secs(600)).unwrap().unwrap().offset, 1);
    drop(held);
    for ticket in behind {
        ticket.wait().unwrap();
    }
    producer.close().unwrap();
}

/// What is written first makes a directory and syncs names; whoever appends in passing leaves that to others.
#[test]
fn no_call_waits_for_the_first_syncs_of_a_log() {
    for part in ["t-0/", "thalweg.state"] {
        let disk = SimStorage::new();
        let broker = Broker::builder("/m").storage(disk.clone()).manual().open().unwrap();
        let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
        let producer = broker.producer().build().unwrap();
        let held = disk.hold_sync(part);
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // More than a log stages before whoever appends writes.
                (0..100).for_each(|_| drop(producer.enqueue(&topic, vec![7; 60_000]).unwrap()));
                sender.send(()).unwrap();
            });
            let done = receiver.recv_timeout(Duration::from_secs(60));
            drop(held);
            done.expect(part);
        });
        producer.close().unwrap();
        assert_eq!(topic.scan(Start::Earliest).count(), 100);
    }
}

#[test]
fn what_producers_did_is_counted_by_topic() {
    let clock = ManualClock::new(Timestamp::new(0));
    let builder = Broker::builder("/m").storage(MemoryStorage::new()).clock(clock.clone()).manual();
    let broker = builder.topic_byte_budget("small", 100, OnFull::Reject).open().unwrap();
    for name in ["t", "small", "unused"] {
        broker.topic(name).durability(Durability::ProcessCrash).create().unwrap();
    }
    let producer = broker.producer().batch_size(1_000).compression(Codec::Gzip).build().unwrap();
    for _ in 0..3 {
        drop(producer.enqueue("t", vec![7; 200]).unwrap());
    }
    clock.advance(Duration::from_millis(7));
    broker.run_maintenance().unwrap();
    // Nobody looked, and yet it did not take that long.
    clock.advance(Duration::from_secs(3600));
    producer.flush().unwrap();
    producer.enqueue("t", Record::new("x").partition(1)).unwrap_err();
    producer.send("small", (0..90).collect::<Vec<u8>>()).unwrap_err();

    let metrics = broker.metrics().producers;
    assert_eq!(metrics.keys().map(|name| &**name).collect::<Vec<_>>(), ["small", "t"]);
    let t = &metrics["t"];
    assert_eq!((t.records, t.batches, t.retries, t.errors), (3, 1, 0, 1));
    assert_eq!((t.room_bytes, t.plain_bytes > 661), (1_000, true));
    assert!((0.66..0.75).contains(&t.batch_fill()) && (0.05..0.4).contains(&t.compression_ratio()), "{t}");
    let stored = batches(&broker.topic("t").open().unwrap().partition(0).unwrap());
    assert_eq!(t.bytes, stored[0].size_bytes() as u64);
    assert_eq!((t.queue_time.count, t.queue_time.total), (1, Duration::from_millis(7)));
    assert_eq!((t.latency.count, t.latency.longest), (1, Duration::ZERO));
    assert_eq!((metrics["small"].records, metrics["small"].errors), (0, 1));
    assert!(t.to_string().starts_with("records=3 batches=1 bytes="), "{t}");
}

#[test]
fn a_full_buffer_is_told_at_once_where_nothing_may_wait() {
    let disk = SimStorage::new();
    let (broker, topic) = stalled(&disk);
    let builder = broker.producer().batch_size(1_000).buffer_memory(1_000).max_block(Duration::ZERO);
    let producer = builder.build().unwrap();
    let held = disk.hold_sync("t-0/");
    let big = || Record::new(vec![7; 800]).partition(0);
    let ticket = producer.enqueue(&topic, big()).unwrap();
    assert_eq!(producer.enqueue(&topic, big()).unwrap_err().kind(), ErrorKind::TimedOut);
    drop(held);
    ticket.wait().unwrap();
    producer.send(&topic, big()).unwrap();
}

#[test]
fn a_record_that_breaks_a_rule_fails_alone() {
    let clock = ManualClock::new(Timestamp::new(10_000_000));
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).clock(clock).open().unwrap();
    let config = TopicConfig::new().cleanup_policy(CleanupPolicy::Compact);
    let config = config.timestamp_before_max(Duration::from_secs(60)).timestamp_after_max(Duration::from_secs(30));
    let topic = broker.topic("t").config(config).create().unwrap();
    let builder = broker.producer().linger(Duration::from_secs(3600)).batch_size(500).buffer_memory(2_000);
    let producer = builder.max_request_size(1_000).build().unwrap();
    let record = |value: &str| Record::new(value.to_owned()).key("k");
    let before = producer.enqueue(&topic, record("before")).unwrap();
    let refused = [
        (record(&"x".repeat(1_000)), ErrorKind::TooLarge, "max.request.size is 1000"),
        (Record::new("no key"), ErrorKind::InvalidRecord, "key"),
        (record("x").partition(1), ErrorKind::UnknownTopicOrPartition, "which has 1"),
        (record("x").partition(-1), ErrorKind::UnknownTopicOrPartition, "which has 1"),
        (record("x").timestamp(9_939_999), ErrorKind::InvalidTimestamp, "message.timestamp.before.max.ms"),
        (record("x").timestamp(10_030_001), ErrorKind::InvalidTimestamp, "message.timestamp.after.max.ms"),
    ];
    for (record, kind, says) in refused {
        let error = producer.enqueue(&topic, record).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(producer.enqueue("none", "x").unwrap_err().kind(), ErrorKind::UnknownTopicOrPartition);
    let after = producer.enqueue(&topic, record("after").timestamp(9_940_000)).unwrap();
    producer.close().unwrap();
    assert_eq!((before.wait().unwrap().offset, after.wait().unwrap().offset), (0.into(), 1.into()));
    assert_eq!(batches(&topic.partition(0).unwrap()).len(), 1);
    assert_eq!(producer.enqueue(&topic, record("x")).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(producer.flush().unwrap_err().kind(), ErrorKind::Closed);
    let small = broker.producer().buffer_memory(300).build().unwrap();
    let error = small.enqueue(&topic, record(&"x".repeat(400))).unwrap_err();
    assert!(error.kind() == ErrorKind::TooLarge && error.to_string().contains("buffer.memory is 300"), "{error}");
}

#[test]
fn full_batches_of_a_partition_share_a_write() {
    let disk = SimStorage::new();
    let broker = Broker::builder("/m").storage(disk.clone()).manual().open().unwrap();
    let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
    let producer = broker.producer().batch_size(1_000).build().unwrap();
    let writes = |records: usize| {
        for _ in 0..records {
            drop(producer.enqueue(&topic, vec![7; 400]).unwrap());
        }
        let before = disk.counts().get(&Operation::Write).copied().unwrap_or_default();
        producer.flush().unwrap();
        disk.counts()[&Operation::Write] - before
    };
    writes(2);
    let (one, ten) = (writes(2), writes(20));
    assert!(batches(&topic.partition(0).unwrap()).len() >= 12);
    assert_eq!((one, ten), (1, 1));
}

#[test]
fn records_without_a_key_spread_evenly_by_batches() {
    let broker = broker();
    let topic = broker.topic("t").partitions(4).durability(Durability::ProcessCrash).create().unwrap();
    let producer = broker.producer().batch_size(1_000).linger(Duration::from_secs(3600)).build().unwrap();
    producer.shared.seed.store(7, Ordering::Relaxed);
    for n in 0..4_000 {
        drop(producer.enqueue(&topic, vec![7; 90 + n % 7]).unwrap());
    }
    producer.flush().unwrap();
    let ends: Vec<_> = topic.partitions().iter().map(|p| p.offsets().unwrap().end.get()).collect();
    assert!(ends.iter().all(|end| (700..1_300).contains(end)), "{ends:?}");
    let (records, count) = (4_000, topic.partitions().iter().map(|p| batches(p).len()).sum::<usize>());
    // Full ones take 8 or 9 of these; each partition may have one that is not.
    assert!(count <= records / 7 + 4, "{count}");

    // Those that go alone, because somebody waits, stay together for a batch's worth all the same.
    let producer = broker.producer().batch_size(1_000).build().unwrap();
    producer.shared.seed.store(7, Ordering::Relaxed);
    let places: Vec<_> = (0..100).map(|_| producer.send(&topic, vec![7; 90]).unwrap().partition).collect();
    let switches = places.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!((2..=14).contains(&switches), "{switches}");
}

/// Of many threads one has opened the batch, and another adds to it and flushes before the first goes on.
#[test]
fn a_flush_waits_for_what_went_into_a_batch_that_another_thread_opened() {
    let broker = broker();
    let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
    let producer = broker.producer().linger(Duration::from_secs(3600)).build().unwrap();
    let missed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..3_000 {
                    let mut ticket = producer.enqueue(&topic, "x").unwrap();
                    producer.flush().unwrap();
                    missed.fetch_add(u64::from(ticket.try_result().is_none()), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(missed.into_inner(), 0);
}

#[test]
fn who_waits_for_memory_is_told_that_the_producer_was_closed() {
    let disk = SimStorage::new();
    let (broker, topic) = stalled(&disk);
    let producer = broker.producer().batch_size(1_000).buffer_memory(1_000).build().unwrap();
    let held = disk.hold_sync("t-0/");
    let big = || Record::new(vec![7; 800]).partition(0);
    let first = producer.enqueue(&topic, big()).unwrap();
    held.wait_for_it();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| producer.enqueue(&topic, big()).map(drop));
        while !producer.shared.accumulator.is_waited_for() {
            std::thread::yield_now();
        }
        let closing = scope.spawn(|| producer.close());
        // The disk hangs all the while.
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        drop(held);
        closing.join().unwrap().unwrap();
    });
    assert_eq!(first.wait().unwrap().offset, 1);
}

/// A waker that is called where a batch is completed closes the broker, before the batch that is just begun is known.
#[test]
fn a_record_that_comes_while_the_broker_closes_is_told_so() {
    struct Close(Broker);
    impl Wake for Close {
        fn wake(self: Arc<Self>) {
            self.0.close().unwrap();
        }
    }
    let broker = broker();
    let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
    let producer = broker.producer().linger(Duration::from_secs(3600)).batch_size(1_000).build().unwrap();
    let large = || Record::new(vec![7; 600]).key("k");
    std::thread::scope(|scope| {
        // Nobody is asked to send it: it waits itself.
        scope.spawn(|| drop(producer.send(&topic, large())));
        while producer.shared.accumulator.memory_used() == 0 {
            std::thread::yield_now();
        }
        let mut first = producer.enqueue(&topic, ("k", "small")).unwrap();
        let waker = Waker::from(Arc::new(Close(broker.clone())));
        assert!(Pin::new(&mut first).poll(&mut Context::from_waker(&waker)).is_pending());
        let mut second = producer.enqueue(&topic, large()).unwrap();
        let told = Pin::new(&mut second).poll(&mut Context::from_waker(Waker::noop()));
        assert!(told.is_ready(), "it would wait for ever");
    });
}

#[test]
fn what_a_task_waits_for_goes_at_once_where_no_linger_is_set() {
    let clock = ManualClock::new(Timestamp::new(0));
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).clock(clock).manual().open().unwrap();
    let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
    let poll = |ticket: &mut Ticket| Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop()));
    for (linger, goes) in [(None, true), (Some(Duration::from_millis(5)), false)] {
        let mut builder = broker.producer();
        if let Some(linger) = linger {
            builder = builder.linger(linger);
        }
        let producer = builder.build().unwrap();
        let mut ticket = producer.enqueue(&topic, "x").unwrap();
        broker.run_maintenance().unwrap();
        assert!(ticket.try_result().is_none(), "nobody waits, and no time has passed");
        assert!(poll(&mut ticket).is_pending());
        broker.run_maintenance().unwrap();
        assert_eq!(poll(&mut ticket).is_ready(), goes, "{linger:?}");
        producer.close().unwrap();
    }
}

#[test]
fn metrics_count_what_nobody_waits_for() {
    let clock = ManualClock::new(Timestamp::new(0));
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).clock(clock.clone()).manual().open().unwrap();
    let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
    let producer = broker.producer().build().unwrap();
    drop(producer.enqueue(&topic, "x").unwrap());
    for _ in 0..5 {
        clock.advance(Duration::from_secs(1));
        broker.run_maintenance().unwrap();
    }
    assert_eq!(values(&topic), ["x"]);
    assert_eq!(broker.metrics().producers["t"].records, 1);
}

#[cfg(feature = "async")]
#[test]
fn a_partitioner_is_asked_once_for_a_record_that_waits() {
    #[derive(Debug, Default)]
    struct Counts(AtomicU64);
    impl Partitioner for Counts {
        fn partition(&self, _topic: &str, _record: &Record, partitions: u32) -> PartitionId {
            let n = self.0.fetch_add(1, Ordering::Relaxed);
            i32::try_from(n % u64::from(partitions)).unwrap().into()
        }
    }
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).manual().open().unwrap();
    let topic = broker.topic("t").partitions(4).create().unwrap();
    let builder = broker.producer().batch_size(1_000).buffer_memory(1_000);
    let producer = builder.partitioner(Counts::default()).build().unwrap();
    drop(producer.enqueue(&topic, vec![7; 800]).unwrap());
    let mut waiting = Box::pin(producer.enqueue_async(&topic, vec![7; 800]));
    for _ in 0..5 {
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    broker.run_maintenance().unwrap();
    let Poll::Ready(ticket) = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("there is room");
    };
    assert_eq!(ticket.unwrap().partition().partition(), 1);
}

/// Whether a record had to wait for room has no say in where the next one goes.
#[cfg(feature = "async")]
#[test]
fn records_without_a_key_spread_though_each_waits_for_room() {
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).manual().open().unwrap();
    let topic = broker.topic("t").partitions(4).create().unwrap();
    let producer = broker.producer().batch_size(1_000).buffer_memory(1_000).build().unwrap();
    producer.shared.seed.store(7, Ordering::Relaxed);
    let mut cx = Context::from_waker(Waker::noop());
    let mut places = Vec::new();
    for _ in 0..100 {
        let mut taken = std::pin::pin!(producer.enqueue_async(&topic, vec![7; 600]));
        let ticket = loop {
            match taken.as_mut().poll(&mut cx) {
                Poll::Ready(ticket) => break ticket.unwrap(),
                Poll::Pending => broker.run_maintenance().unwrap(),
            }
        };
        places.push(ticket.partition().partition());
    }
    let counts = [0, 1, 2, 3].map(|partition| places.iter().filter(|place| **place == partition).count());
    assert!(counts.iter().all(|count| (10..=45).contains(count)), "{counts:?}");
}

//! The broker's promises on topics, directories and readers; groups and producers test their own.

mod budget;
mod disk;
mod failing;
mod keys;
mod overlap;
mod panics;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::storage::{DiskStorage, OpenMode, Storage};
use crate::testing::{AfterFailedSync, Choice, Errno, Fault, Operation, Repeat, SimStorage};
use crate::topic::TopicConfig;
use crate::types::{Durability, Isolation, Offset, Start, Timestamp};

mod recovery;

fn values(records: impl IntoIterator<Item = Result<crate::topic::OwnedRecord>>) -> Vec<String> {
    let text = |r: Result<crate::topic::OwnedRecord>| String::from_utf8(r.unwrap().value().unwrap().to_vec()).unwrap();
    records.into_iter().map(text).collect()
}

fn append(partition: &Partition, values: &[&str]) {
    let appended = partition.append_records(values.iter().copied()).unwrap();
    partition.wait(appended.position, partition.durability()).unwrap();
}

#[test]
fn what_was_acknowledged_is_there_after_close_and_after_drop() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path().join("a/b")).unwrap();
    let topic = broker.topic("orders").partitions(2).create().unwrap();
    append(&topic.partition(1).unwrap(), &["one"]);
    broker.close().unwrap();
    broker.close().unwrap();
    assert_eq!(topic.partition(1).unwrap().offsets().unwrap_err().kind(), ErrorKind::Closed);

    let broker = Broker::open(dir.path().join("a/b")).unwrap();
    let again = broker.topic("orders").partitions(2).open().unwrap();
    assert_eq!(again.id(), topic.id());
    append(&again.partition(1).unwrap(), &["two"]);
    drop((broker, again));

    let broker = Broker::open(dir.path().join("a/b")).unwrap();
    assert_eq!(values(broker.topic("orders").open().unwrap().scan(Start::Earliest)), ["one", "two"]);
}

#[test]
fn a_second_broker_on_the_directory_is_refused_until_the_first_closes() {
    let dir = tempfile::tempdir().unwrap();
    let first = Broker::open(dir.path()).unwrap();
    let handle = first.topic("t").create().unwrap();
    let error = Broker::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    first.close().unwrap();
    Broker::open(dir.path()).unwrap().close().unwrap();
    assert_eq!(handle.delete().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn the_clean_shutdown_marker_is_there_only_while_closed() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join(".kafka_cleanshutdown");
    let broker = Broker::open(dir.path()).unwrap();
    append(&broker.topic("t").create().unwrap().partition(0).unwrap(), &["x"]);
    assert!(!marker.exists());
    broker.close().unwrap();
    assert!(marker.exists());
    for (name, text) in [
        ("recovery-point-offset-checkpoint", "0\n1\nt 0 1\n"),
        ("log-start-offset-checkpoint", "0\n0\n"),
        ("replication-offset-checkpoint", "0\n1\nt 0 1\n"),
    ] {
        let path = dir.path().join(name);
        let bytes = crate::storage::read_file(&DiskStorage, &path, 1 << 20).unwrap().unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), text, "{name}");
    }
    let broker = Broker::open(dir.path()).unwrap();
    assert!(!marker.exists());
    drop(broker);
    assert!(!marker.exists());
}

#[test]
fn a_strangers_directory_is_refused_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    DiskStorage.create_dir(&dir.path().join("photos")).unwrap();
    let error = Broker::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("photos"), "{error}");
    assert_eq!(DiskStorage.list(dir.path()).unwrap().len(), 1);
}

#[test]
fn untouched_partitions_have_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    let topic = broker.topic("wide").partitions(3).create().unwrap();
    append(&topic.partition(1).unwrap(), &["x"]);
    assert_eq!(topic.scan(Start::Earliest).count(), 1);
    broker.close().unwrap();
    let dirs = DiskStorage.list(dir.path()).unwrap();
    let mut names: Vec<_> = dirs.iter().filter(|e| e.name.starts_with("wide")).map(|e| e.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["wide-1"]);
}

#[test]
fn a_deleted_topic_stays_deleted_under_live_handles_and_its_directory_goes() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    let old = broker.topic("orders").create().unwrap();
    let partition = old.partition(0).unwrap();
    append(&partition, &["old"]);
    let mut tail = old.tail(Start::Earliest);
    let held = tail.next().unwrap().unwrap();
    old.delete().unwrap();
    assert_eq!(held.value(), Some(&b"old"[..]));
    assert_eq!(tail.next().unwrap().unwrap_err().kind(), ErrorKind::TopicDeleted);
    assert!(tail.next().is_none());
    assert!(!dir.path().join("orders-0").exists());

    let new = broker.topic("orders").create().unwrap();
    append(&new.partition(0).unwrap(), &["new"]);
    assert_eq!(partition.append_records(["x"]).unwrap_err().kind(), ErrorKind::TopicDeleted);
    assert_eq!(values(new.scan(Start::Earliest)), ["new"]);
    assert_eq!(old.scan(Start::Earliest).next().unwrap().unwrap_err().kind(), ErrorKind::TopicDeleted);
}

#[test]
fn a_leftover_directory_of_a_deleted_topic_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    DiskStorage.create_dir(&dir.path().join("t-0")).unwrap();
    append(&broker.topic("t").create().unwrap().partition(0).unwrap(), &["x"]);
    let names: Vec<_> = DiskStorage.list(dir.path()).unwrap().into_iter().map(|e| e.name).collect();
    assert!(names.iter().any(|n| n.starts_with("t-0.") && n.ends_with("-stray")), "{names:?}");
}

#[test]
fn a_tail_merges_partitions_waits_and_takes_up_new_ones() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").partitions(2).create().unwrap();
    append(&topic.partition(0).unwrap(), &["before"]);
    let mut tail = topic.tail(Start::Latest);
    assert!(tail.next_timeout(Duration::from_millis(1)).is_none());
    let reader = std::thread::spawn(move || values((&mut tail).take(3)));
    append(&topic.partition(0).unwrap(), &["a"]);
    append(&topic.partition(1).unwrap(), &["b"]);
    topic.add_partitions(3).unwrap();
    append(&topic.partition(2).unwrap(), &["c"]);
    let mut seen = reader.join().unwrap();
    seen.sort();
    assert_eq!(seen, ["a", "b", "c"]);
}

#[test]
fn a_waker_interrupts_and_ends_a_blocked_tail() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let mut tail = topic.tail(Start::Earliest);
    let waker = tail.waker();
    let blocked = std::thread::spawn(move || (tail.next().unwrap().unwrap_err().kind(), tail));
    waker.wake();
    let (kind, mut tail) = blocked.join().unwrap();
    assert_eq!(kind, ErrorKind::Interrupted);
    waker.end();
    assert!(tail.next().is_none());
}

#[test]
fn closing_ends_a_blocked_tail() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let mut tail = topic.tail(Start::Earliest);
    let blocked = std::thread::spawn(move || tail.next().unwrap().unwrap_err().kind());
    broker.close().unwrap();
    assert_eq!(blocked.join().unwrap(), ErrorKind::Closed);
}

#[test]
fn an_overtaken_reader_is_told_and_goes_on() {
    let broker = Broker::in_memory().unwrap();
    let partition = broker.topic("t").create().unwrap().partition(0).unwrap();
    for value in ["0", "1", "2", "3"] {
        append(&partition, &[value]);
    }
    let mut scan = partition.scan(Start::Earliest);
    let mut tail = partition.tail(Start::Earliest);
    assert_eq!(partition.delete_records(2).unwrap(), 2);
    for reader in [&mut scan as &mut dyn Iterator<Item = _>, &mut tail] {
        let gap = reader.next().unwrap().unwrap_err();
        assert_eq!((gap.kind(), gap.at_offset()), (ErrorKind::Overtaken, Some(Offset::new(2))));
        assert_eq!(reader.next().unwrap().unwrap().offset(), 2);
    }
    assert_eq!(partition.delete_records(9).unwrap_err().kind(), ErrorKind::OffsetOutOfRange);
    assert_eq!(partition.read(1, 100, Isolation::ReadCommitted).unwrap_err().kind(), ErrorKind::Overtaken);
}

#[test]
fn damage_is_told_once_to_a_scan_and_a_tail_which_go_on_behind_it() {
    let storage = MemoryStorage::new();
    let broker = Broker::builder("/m").storage(storage.clone()).open().unwrap();
    let partition = broker.topic("t").create().unwrap().partition(0).unwrap();
    ["0", "1", "2", "3"].iter().for_each(|value| append(&partition, &[value]));
    let log = storage.open(Path::new("/m/t-0/00000000000000000000.log"), OpenMode::Write).unwrap();
    // In the records of offset 1, and in the length of offset 2.
    let batch = partition.size_bytes().unwrap() / 4;
    log.write_all_at(&[0xff], batch + 65).unwrap();
    log.write_all_at(&[0xff; 4], 2 * batch + 8).unwrap();
    log.write_all_at(&[0xff], 2 * batch + 65).unwrap();
    let mut scan = partition.scan(Start::Earliest);
    let mut tail = partition.tail(Start::Earliest);
    for reader in [&mut scan as &mut dyn Iterator<Item = _>, &mut tail] {
        assert_eq!(reader.next().unwrap().unwrap().offset(), 0);
        let damage = reader.next().unwrap().unwrap_err();
        assert_eq!(damage.kind(), ErrorKind::Corrupt);
        assert_eq!(damage.at_offsets(), Some(Offset::new(1)..Offset::new(3)));
        assert!(damage.to_string().contains("go on reading at offset 3"), "{damage}");
        assert_eq!(reader.next().unwrap().unwrap().offset(), 3);
    }
    assert!(scan.next().is_none());
    let damaged = broker.findings().into_iter().filter(|f| f.kind == crate::finding::FindingKind::Damaged);
    assert_eq!(damaged.count(), 1, "{:?}", broker.findings());
}

#[test]
fn readers_start_inside_a_batch_and_by_time() {
    let clock = ManualClock::new(Timestamp::new(1_000));
    let builder = Broker::builder("/m").storage(MemoryStorage::new()).clock(clock.clone());
    let broker = builder.open().unwrap();
    let partition = broker.topic("t").create().unwrap().partition(0).unwrap();
    append(&partition, &["a", "b", "c"]);
    clock.advance(Duration::from_secs(1));
    append(&partition, &["d"]);
    assert_eq!(values(partition.scan(Offset::new(1))), ["b", "c", "d"]);
    assert_eq!(values(partition.scan(Timestamp::new(1_500))), ["d"]);
    assert_eq!(values(partition.scan(Timestamp::new(9_000))), [""; 0]);
    let error = partition.scan(Start::None).next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoOffset);
}

#[test]
fn weak_appends_become_visible_without_anybody_waiting() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let mut tail = topic.tail(Start::Earliest);
    topic.partition(0).unwrap().append_records(["x"]).unwrap();
    assert_eq!(tail.next().unwrap().unwrap().value(), Some(&b"x"[..]));
}

#[test]
fn a_manual_broker_works_when_it_is_told() {
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).manual().open().unwrap();
    let partition = broker.topic("t").create().unwrap().partition(0).unwrap();
    let appended = partition.append_records(["x"]).unwrap();
    let mut future = partition.committed(appended.position, Durability::PowerLoss).unwrap();
    let mut poll =
        || std::pin::Pin::new(&mut future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    use std::future::Future;
    assert!(poll().is_pending());
    assert_eq!(partition.offsets().unwrap().high_watermark, 0);
    broker.run_maintenance().unwrap();
    assert!(poll().is_ready());
    assert_eq!(partition.offsets().unwrap().high_watermark, 1);
}

#[test]
fn retention_deletes_only_where_it_is_configured() {
    let clock = ManualClock::new(Timestamp::new(1_000));
    let builder = Broker::builder("/m").storage(MemoryStorage::new()).clock(clock.clone()).manual();
    let broker = builder.open().unwrap();
    let kept = broker.topic("kept").create().unwrap().partition(0).unwrap();
    let config = TopicConfig::new().retention(Duration::from_secs(60));
    let short = broker.topic("short").config(config).create().unwrap().partition(0).unwrap();
    append(&kept, &["x"]);
    append(&short, &["x"]);
    clock.advance(Duration::from_secs(60));
    broker.run_maintenance().unwrap();
    assert_eq!(short.offsets().unwrap().log_start, 0);
    clock.advance(Duration::from_secs(1));
    broker.run_maintenance().unwrap();
    assert_eq!((kept.offsets().unwrap().log_start, short.offsets().unwrap().log_start), (Offset::ZERO, Offset::new(1)));
}

#[test]
fn a_leap_over_a_restart_holds_retention_for_one_interval() {
    const DAY: i64 = 24 * 3_600_000;
    const T: i64 = 1_700_000_000_000;
    let week = Duration::from_secs(7 * 24 * 3600);
    // Days that the wall clock leapt, while the broker was open or closed, and what a retention of a week makes of it.
    for (open_days, closed_days, held) in [(0, 0, false), (0, 8, false), (0, 9, true), (3_650, 0, true)] {
        let what = format!("{open_days} and {closed_days} days");
        let (storage, clock) = (MemoryStorage::new(), ManualClock::new(Timestamp::new(T)));
        let open = || {
            let builder = Broker::builder("/m").storage(storage.clone()).clock(clock.clone()).manual();
            builder.config("log.retention.check.interval.ms", "60000").open().unwrap()
        };
        let leap = |days: i64| clock.set_wall(Timestamp::new(clock.now().get() + days * DAY));
        let start = |broker: &Broker| {
            broker.run_maintenance().unwrap();
            broker.topic("t").open().unwrap().partition(0).unwrap().offsets().unwrap().log_start.get()
        };
        let broker = open();
        append(
            &broker.topic("t").config(TopicConfig::new().retention(week)).create().unwrap().partition(0).unwrap(),
            &["x"],
        );
        leap(open_days);
        assert_eq!(start(&broker), 0, "{what}");
        broker.close().unwrap();
        leap(closed_days);
        let broker = open();
        let is_old = open_days + closed_days > 7;
        assert_eq!(start(&broker), i64::from(is_old && !held), "{what}");
        clock.advance(Duration::from_secs(59));
        assert_eq!(start(&broker), i64::from(is_old && !held), "{what}");
        let told = broker.findings().iter().filter(|f| f.kind == crate::finding::FindingKind::ClockLeapt).count();
        assert_eq!(told, usize::from(held), "{what}");
        clock.advance(Duration::from_secs(1));
        assert_eq!(start(&broker), i64::from(is_old), "{what}");
    }
}

#[test]
fn a_clock_that_is_put_right_while_retention_waits_deletes_nothing() {
    let (storage, clock) = (MemoryStorage::new(), ManualClock::new(Timestamp::new(1_700_000_000_000)));
    let open = || Broker::builder("/m").storage(storage.clone()).clock(clock.clone()).manual().open().unwrap();
    let broker = open();
    let config = TopicConfig::new().retention(Duration::from_secs(3600));
    append(&broker.topic("t").config(config).create().unwrap().partition(0).unwrap(), &["x"]);
    broker.close().unwrap();
    clock.set_wall(Timestamp::new(2_000_000_000_000));
    let broker = open();
    broker.run_maintenance().unwrap();
    clock.set_wall(Timestamp::new(1_700_000_001_000));
    clock.advance(Duration::from_secs(600));
    broker.run_maintenance().unwrap();
    broker.run_maintenance().unwrap();
    assert_eq!(broker.topic("t").open().unwrap().partition(0).unwrap().offsets().unwrap().log_start, 0);
    clock.advance(Duration::from_secs(3600));
    broker.run_maintenance().unwrap();
    assert_eq!(broker.topic("t").open().unwrap().partition(0).unwrap().offsets().unwrap().log_start, 1);
}

#[test]
fn a_clock_note_of_a_newer_release_is_refused_and_nonsense_is_none() {
    let storage = MemoryStorage::new();
    let open = || Broker::builder("/m").storage(storage.clone()).manual().open();
    open().unwrap().close().unwrap();
    for (text, refused) in [("1\n5\n", true), ("soon\n", false), ("", false), ("0\nlater\n", false)] {
        crate::storage::replace_file(&storage, Path::new("/m/thalweg.clock"), text.as_bytes()).unwrap();
        match open() {
            Err(error) => assert!(refused && error.kind() == ErrorKind::Unsupported, "{text:?}: {error}"),
            Ok(broker) => {
                assert!(!refused, "{text:?}");
                broker.close().unwrap();
            }
        }
    }
}

#[test]
fn what_a_killed_broker_left_open_is_recovered_by_several_threads_or_one() {
    let dir = tempfile::tempdir().unwrap();
    for manual in [false, true] {
        let broker = Broker::open(dir.path()).unwrap();
        let topic = broker.topic("t").partitions(40).open_or_create().unwrap();
        for partition in topic.partitions() {
            append(&partition, &[&partition.topic_partition().to_string()]);
        }
        drop((broker, topic));
        let builder = Broker::builder(dir.path());
        let broker = if manual { builder.manual() } else { builder }.open().unwrap();
        let partitions = broker.inner.registry.get("t").unwrap().partitions();
        assert!(partitions.iter().all(|partition| partition.is_touched()));
        let expected = 40 * (1 + usize::from(manual));
        assert_eq!(broker.topic("t").open().unwrap().scan(Start::Earliest).map(Result::unwrap).count(), expected);
        broker.close().unwrap();
    }
}

#[test]
fn records_of_a_compacted_topic_are_not_deleted_by_offset() {
    let broker = Broker::in_memory().unwrap();
    let compacted = broker.topic("t").set("cleanup.policy", "compact").create().unwrap().partition(0).unwrap();
    let appended = compacted.append_records([("k", "v")]).unwrap();
    compacted.wait(appended.position, Durability::PowerLoss).unwrap();
    assert_eq!(compacted.delete_records(1).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn flush_messages_bounds_what_a_power_cut_takes() {
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).manual().open().unwrap();
    let partition = broker.topic("t").set("flush.messages", "3").create().unwrap().partition(0).unwrap();
    for (end, frontier) in [(1, 0), (2, 0), (3, 3), (4, 3)] {
        append(&partition, &["x"]);
        broker.inner.background.settle_queued();
        let offsets = partition.offsets().unwrap();
        assert_eq!((offsets.end, offsets.high_watermark, offsets.frontier), (end.into(), end.into(), frontier.into()));
    }
}

/// A torn tail under a clean-shutdown marker stops a stock broker's partition for good (facts, trap 3).
#[test]
fn a_partition_that_crashed_is_recovered_before_the_directory_is_called_clean() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    let partition = broker.topic("t").create().unwrap().partition(0).unwrap();
    append(&partition, &["x"]);
    let sound = partition.size_bytes().unwrap();
    drop((broker, partition));
    let log = dir.path().join("t-0/00000000000000000000.log");
    let file = DiskStorage.open(&log, crate::storage::OpenMode::Write).unwrap();
    file.write_all_at(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 99, 7], sound).unwrap();
    // Nobody touches the partition.
    Broker::open(dir.path()).unwrap().close().unwrap();
    assert_eq!(DiskStorage.metadata(&log).unwrap().len, sound);
    assert!(dir.path().join(".kafka_cleanshutdown").exists());
}

#[test]
fn open_or_create_names_both_sides_of_a_mismatch() {
    let broker = Broker::in_memory().unwrap();
    broker.topic("t").set("retention.ms", "1000").create().unwrap();
    broker.topic("t").set("retention.ms", "1000").partitions(1).open_or_create().unwrap();
    let error = broker.topic("t").set("retention.ms", "2000").open_or_create().unwrap_err();
    assert!(error.to_string().contains("1000") && error.to_string().contains("2000"), "{error}");
    assert_eq!(broker.topic("u").open().unwrap_err().kind(), ErrorKind::UnknownTopicOrPartition);
    assert_eq!(broker.topic("t").create().unwrap_err().kind(), ErrorKind::TopicExists);
    assert_eq!(broker.topic("u").set("retention.mss", "1").create().unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[test]
fn configs_survive_and_say_where_they_come_from() {
    let storage = MemoryStorage::new();
    let open = || Broker::builder("/m").storage(storage.clone()).config("log.retention.hours", "2").open().unwrap();
    let broker = open();
    let topic = broker.topic("t").create().unwrap();
    topic.alter_configs(&[("segment.bytes", Some("1048576"))]).unwrap();
    let check = |topic: &Topic| {
        assert_eq!(topic.config("segment.bytes").unwrap(), "1048576");
        assert_eq!(topic.config("retention.ms").unwrap(), "7200000");
    };
    check(&topic);
    broker.close().unwrap();
    check(&open().topic("t").open().unwrap());
}

#[test]
fn an_interrupted_deletion_is_finished_at_open() {
    let dir = tempfile::tempdir().unwrap();
    Broker::open(dir.path()).unwrap().close().unwrap();
    let left = dir.path().join("t-0.0123456789abcdef0123456789abcdef-delete");
    DiskStorage.create_dir(&left).unwrap();
    Broker::open(dir.path()).unwrap();
    assert!(!left.exists());
}

#[test]
fn many_partitions_open_without_touching_them() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("wide").partitions(2_000).create().unwrap();
    let storage = Arc::clone(&broker.inner.context.storage);
    assert_eq!(topic.partitions().len(), 2_000);
    let dirs = storage.list(Path::new("/memory")).unwrap();
    assert!(!dirs.iter().any(|e| e.name.starts_with("wide")));
}

#[test]
fn creating_a_topic_that_exists_takes_nothing_from_its_groups() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").create().unwrap();
    append(&topic.partition(0).unwrap(), &["x"]);
    let group = broker.consumer_group("g");
    let mut consumer = group.consumer(["t"]).join().unwrap();
    assert_eq!(consumer.poll(Duration::from_secs(20)).unwrap().len(), 1);
    consumer.commit().unwrap();
    assert_eq!(broker.topic("t").create().unwrap_err().kind(), ErrorKind::TopicExists);
    assert_eq!(group.lag().unwrap().total(), 0);
}

#[test]
fn impossible_numbers_of_partitions_are_refused_at_once() {
    let broker = Broker::in_memory().unwrap();
    for partitions in [0, 10_001, 0x7fff_ffff, u32::MAX] {
        let error = broker.topic("t").partitions(partitions).create().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    let topic = broker.topic("t").partitions(2).create().unwrap();
    for total in [0, 1, 2, u32::MAX] {
        assert_eq!(topic.add_partitions(total).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn a_topic_made_anew_starts_at_zero_whatever_the_checkpoints_said_of_the_old_one() {
    let storage = MemoryStorage::new();
    let open = || Broker::builder("/d").storage(storage.clone()).open().unwrap();
    let broker = open();
    let topic = broker.topic("t").create().unwrap();
    append(&topic.partition(0).unwrap(), &["a", "b", "c"]);
    assert_eq!(topic.partition(0).unwrap().delete_records(2).unwrap(), 2);
    broker.close().unwrap();

    let broker = open();
    broker.topic("t").open().unwrap().delete().unwrap();
    let anew = broker.topic("t").create().unwrap();
    append(&anew.partition(0).unwrap(), &["d", "e", "f"]);
    // And so it is for whoever opens the directory after the process was killed here.
    drop((broker, topic, anew));
    let broker = open();
    let offsets = broker.topic("t").open().unwrap().partition(0).unwrap().offsets().unwrap();
    assert_eq!((offsets.log_start, offsets.end), (Offset::ZERO, Offset::new(3)));
}

#[test]
fn records_are_deleted_in_many_partitions_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    let topic = broker.topic("t").partitions(4).create().unwrap();
    for partition in topic.partitions() {
        append(&partition, &["x"; 40]);
    }
    std::thread::scope(|scope| {
        for partition in topic.partitions() {
            scope.spawn(move || (1..30).for_each(|to| assert_eq!(partition.delete_records(to).unwrap(), to)));
        }
    });
    let path = dir.path().join("log-start-offset-checkpoint");
    let bytes = crate::storage::read_file(&DiskStorage, &path, 1 << 20).unwrap().unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), "0\n4\nt 0 29\nt 1 29\nt 2 29\nt 3 29\n");
}

#[test]
fn a_future_of_a_higher_level_than_the_topics_resolves() {
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).manual().open().unwrap();
    let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
    let partition = topic.partition(0).unwrap();
    let appended = partition.append_records(["x"]).unwrap();
    let mut committed = std::pin::pin!(partition.committed(appended.position, Durability::PowerLoss).unwrap());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(committed.as_mut().poll(&mut context).is_pending());
    broker.run_maintenance().unwrap();
    assert!(committed.as_mut().poll(&mut context).is_ready());
}

#[test]
fn nobody_writes_into_kafkas_own_topics() {
    let broker = Broker::in_memory().unwrap();
    let group = broker.consumer_group("g");
    drop(group.consumer(["t"]).join().unwrap());
    let offsets = broker.topic("__consumer_offsets").open().unwrap();
    assert_eq!(offsets.send(("k", "v")).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(offsets.partition(0).unwrap().append_records(["v"]).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let producer = broker.producer().build().unwrap();
    assert_eq!(producer.send(&offsets, ("k", "v")).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn nobody_makes_kafkas_own_topics() {
    let broker = Broker::in_memory().unwrap();
    for name in ["__consumer_offsets", "__transaction_state", "__share_group_state"] {
        assert_eq!(broker.topic(name).create().unwrap_err().kind(), ErrorKind::InvalidTopicName, "{name}");
    }
}

#[test]
fn a_broker_config_that_cannot_be_set_says_what_holds_instead() {
    let error = Broker::builder("/m").config("offsets.retention.minutes", "60").open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("never expire"), "{error}");
}

#[test]
fn what_cannot_be_created_moves_no_directory() {
    let storage = MemoryStorage::new();
    let open = || Broker::builder("/d").storage(storage.clone()).open().unwrap();
    open().close().unwrap();
    let voters = br#"{"currentVoters":[{"voterId":1},{"voterId":4}],"data_version":0}"#;
    crate::storage::replace_file(&storage, Path::new("/d/__cluster_metadata-0/quorum-state"), voters).unwrap();
    storage.create_dir(Path::new("/d/t-0")).unwrap();
    let broker = open();
    assert_eq!(broker.topic("t").create().unwrap_err().kind(), ErrorKind::ReadOnly);
    assert!(storage.metadata(Path::new("/d/t-0")).is_ok());
}

#[test]
fn a_future_is_served_beside_an_append_that_finds_no_space() {
    let disk = SimStorage::new();
    let broker = Broker::builder("/m").storage(disk.clone()).manual().open().unwrap();
    let durability = Durability::ProcessCrash;
    let topic = broker.topic("t").config(TopicConfig::new().durability(durability)).create().unwrap();
    let partition = topic.partition(0).unwrap();
    let first = partition.append_records(["first"]).unwrap();
    partition.wait(first.position, durability).unwrap();
    let future = partition.committed(first.position, Durability::PowerLoss).unwrap();
    let refused = partition.append_records(["refused"]).unwrap();
    disk.limit_space(Some(disk.used_space()));
    broker.inner.background.settle_queued();
    let told = partition.wait(refused.position, durability).unwrap_err();
    assert_eq!(told.kind(), ErrorKind::StorageFull);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let done = std::future::Future::poll(std::pin::pin!(future), &mut context);
    assert!(matches!(done, std::task::Poll::Ready(Ok(()))), "{done:?}");
}

#[test]
fn a_future_of_less_than_the_topics_level_is_served_by_the_brokers_threads() {
    let broker = Broker::builder("/m").storage(SimStorage::new()).manual().open().unwrap();
    let partition = broker.topic("t").create().unwrap().partition(0).unwrap();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for level in [Durability::None, Durability::ProcessCrash] {
        let appended = partition.append_records(["x"]).unwrap();
        let mut future = std::pin::pin!(partition.committed(appended.position, level).unwrap());
        broker.inner.background.settle_queued();
        assert!(std::future::Future::poll(future.as_mut(), &mut context).is_ready(), "{level:?}");
    }
}

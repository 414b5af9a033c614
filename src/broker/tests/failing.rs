//! A file system that turns read-only, or whose directories cannot be synced, under an open broker.

use super::*;

fn open(disk: &SimStorage) -> Broker {
    let clock = ManualClock::new(Timestamp::new(1_700_000_000_000));
    Broker::builder("data").storage(disk.clone()).clock(clock).manual().open().unwrap()
}

fn read(topic: &Topic) -> Vec<String> {
    values(topic.scan(Start::Earliest))
}

/// Everything that changes something, and what it is told.
fn try_all(broker: &Broker, old: &Topic, other: &Topic) -> Vec<Error> {
    let group = broker.consumer_group("g");
    vec![
        old.send("lost").unwrap_err(),
        other.send("lost").unwrap_err(),
        group.reset(["old"], Start::Earliest).unwrap_err(),
        broker.topic("new").create().unwrap_err(),
        old.alter_configs(&[("retention.ms", Some("1"))]).unwrap_err(),
        other.delete().unwrap_err(),
        broker.run_maintenance().unwrap_err(),
        old.partition(0).unwrap().reopen().unwrap_err(),
    ]
}

/// The whole store has stopped: everything is refused with the same remedy, also when the disk is mended, and no close
/// calls the directory clean.
fn check_halted(broker: &Broker, disk: &SimStorage, topics: [&Topic; 2]) {
    disk.mend();
    for _ in 0..2 {
        for (number, error) in try_all(broker, topics[0], topics[1]).iter().enumerate() {
            let text = error.to_string();
            assert!(text.contains("open it again") && !text.contains("reopen the partition"), "{number}: {text}");
        }
    }
    assert!(broker.close().is_err());
    assert!(disk.metadata(Path::new("data/.kafka_cleanshutdown")).is_err(), "called clean");
}

#[test]
fn a_file_system_that_turns_read_only_stops_the_broker_and_reads_go_on() {
    let disk = SimStorage::new();
    let broker = open(&disk);
    let (old, other) = (broker.topic("old").create().unwrap(), broker.topic("other").create().unwrap());
    old.send("one").unwrap();
    broker.consumer_group("g").reset(["old"], Start::Latest).unwrap();
    disk.add_fault(Fault::new(Errno::ReadOnly, Repeat::Forever));
    try_all(&broker, &old, &other);
    for error in &try_all(&broker, &old, &other)[..2] {
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
    }
    assert_eq!(read(&old), ["one"]);
    assert!(broker.consumer_group("g").all_committed().is_ok());
    check_halted(&broker, &disk, [&old, &other]);
    let broker = open(&disk);
    broker.topic("new").create().unwrap();
    let old = broker.topic("old").open().unwrap();
    old.send("two").unwrap();
    let told = read(&old);
    assert!(told.starts_with(&["one".to_owned()]) && told.ends_with(&["two".to_owned()]), "{told:?}");
    broker.close().unwrap();
}

#[test]
fn a_directory_that_cannot_be_synced_stops_the_broker() {
    // The system tells of names that are lost once, and both partitions' may be.
    let disk = SimStorage::new();
    let broker = open(&disk);
    let [old, young, other] = ["old", "young", "other"].map(|name| broker.topic(name).create().unwrap());
    old.send("one").unwrap();
    disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::SyncDir).path("young-0"));
    assert_eq!(young.send("lost").unwrap_err().kind(), ErrorKind::Indeterminate);
    let refused = [&young, &old, &other].map(|topic| topic.send("refused").unwrap_err());
    assert!(refused.iter().all(|error| error.to_string().contains("open it again")), "{refused:?}");
    assert_eq!((read(&young), read(&old)), (Vec::<String>::new(), vec!["one".to_owned()]));
    check_halted(&broker, &disk, [&old, &other]);
    let broker = open(&disk);
    let [old, young, other] = ["old", "young", "other"].map(|name| broker.topic(name).open().unwrap());
    for topic in [&old, &young, &other] {
        topic.send("more").unwrap();
    }
    let told = [&old, &young, &other].map(read);
    assert_eq!((told[0].first(), told[2].last()), (Some(&"one".to_owned()), Some(&"more".to_owned())));
    drop(broker);
    let after = open(&disk.crash(Choice::Nothing));
    assert_eq!(["old", "young", "other"].map(|name| read(&after.topic(name).open().unwrap())), told);
}

#[test]
fn a_topic_that_may_be_deleted_acknowledges_nothing() {
    let disk = SimStorage::new();
    let broker = open(&disk);
    let [topic, other] = ["t", "other"].map(|name| broker.topic(name).create().unwrap());
    topic.send("one").unwrap();
    disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path("__cluster_metadata-0"));
    assert_eq!(topic.delete().unwrap_err().kind(), ErrorKind::Indeterminate);
    let error = topic.send("lost with it").unwrap_err();
    assert!(error.kind() == ErrorKind::Poisoned && error.to_string().contains("open it again"), "{error}");
    assert_eq!((read(&topic), other.send("one").unwrap().offset), (vec!["one".to_owned()], Offset::ZERO));
    drop(broker);
    // Whether it is there or not, by what the disk has of the catalog: nothing that was acknowledged goes.
    let broker = open(&disk.crash(Choice::ProcessCrash));
    assert!(broker.topic("t").open().is_err_and(|e| e.kind() == ErrorKind::UnknownTopicOrPartition));
}

#[test]
fn what_is_noted_of_a_topic_whose_deletion_failed_half_way_is_not_told_of_the_next_of_its_name() {
    let disk = SimStorage::new();
    let broker = open(&disk);
    let topic = broker.topic("orders").create().unwrap();
    append(&topic.partition(0).unwrap(), &["paid"]);
    broker.run_maintenance().unwrap();
    disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path("recovery-point-offset-checkpoint"));
    topic.delete().unwrap_err();
    broker.topic("orders").create().unwrap();
    let broker = open(&disk.crash(Choice::ProcessCrash));
    let offsets = broker.topic("orders").open().unwrap().partition(0).unwrap().offsets().unwrap();
    assert_eq!((offsets.log_start, offsets.end), (Offset::ZERO, Offset::ZERO));
    assert!(
        !broker.findings().iter().any(|finding| finding.kind == crate::finding::FindingKind::Lost),
        "{:?}",
        broker.findings()
    );
}

#[test]
fn a_topic_whose_deletion_was_cut_short_does_not_come_back_under_one_of_its_name() {
    for is_killed in [false, true] {
        let disk = SimStorage::new();
        let broker = open(&disk);
        let old = broker.topic("t").create().unwrap();
        old.send("old").unwrap();
        // Behind the rename of its directory, and before that is synced.
        disk.add_fault(Fault::new(Errno::Io, Repeat::Forever).on(Operation::Write).path("thalweg.state"));
        old.delete().unwrap_err();
        disk.mend();
        let disk = if is_killed { disk.crash(Choice::ProcessCrash) } else { disk };
        let broker = if is_killed { open(&disk) } else { broker };
        broker.topic("t").create().unwrap();
        let after = open(&disk.crash(Choice::Nothing));
        let new = after.topic("t").open().unwrap();
        assert_eq!(read(&new), Vec::<String>::new(), "killed: {is_killed}");
        assert_eq!(new.send("new").unwrap().offset, 0);
    }
}

/// What a failed sync may have taken is known to the next opening in the same boot, whoever had the directory since and
/// whoever asked for the sync; the cache is not believed.
#[test]
fn a_sync_that_failed_is_known_to_the_next_opening_after_a_kill_a_sweep_and_a_stock_broker() {
    for (max_open_files, is_foreign) in [(1024, false), (1024, true), (1, false), (1, true)] {
        let what = format!("{max_open_files} files, foreign: {is_foreign}");
        let disk = SimStorage::new();
        let open = |disk: &SimStorage| {
            let clock = ManualClock::new(Timestamp::new(1_700_000_000_000));
            let options = Broker::builder("data").storage(disk.clone()).clock(clock).manual();
            options.durability(Durability::ProcessCrash).max_open_files(max_open_files).open().unwrap()
        };
        let broker = open(&disk);
        let partition = broker.topic("t").create().unwrap().partition(0).unwrap();
        append(&partition, &["durable"]);
        partition.sync().unwrap();
        append(&partition, &["told"]);
        let fault = Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path("t-0/00000000000000000000.log");
        disk.add_fault(fault.leaves(AfterFailedSync::KeepsNew));
        if max_open_files == 1 {
            // What comes between needs its descriptor.
            broker.topic("other").create().unwrap().send("one").unwrap();
        } else {
            partition.sync().unwrap_err();
        }
        assert_eq!(disk.struck(), 1, "{what}");
        drop((partition, broker));
        let disk = disk.crash(Choice::ProcessCrash);
        if is_foreign {
            disk.remove_file(Path::new("data/thalweg.epoch")).unwrap();
        }
        let broker = open(&disk);
        let topic = broker.topic("t").open().unwrap();
        assert_eq!(values(topic.scan(Start::Earliest)), ["durable", "told"], "{what}");
        topic.partition(0).unwrap().sync().unwrap();
        drop((topic, broker));
        let broker = open(&disk.crash(Choice::Nothing));
        assert!(!broker.recovery_report().foreign_writer, "{what}");
        let topic = broker.topic("t").open().unwrap();
        assert_eq!(values(topic.scan(Start::Earliest)), ["durable", "told"], "{what}");
    }
}

/// What it commits next lies above what the log lost, and does not bring that back.
#[test]
fn a_commit_that_was_lost_with_a_failed_write_is_not_shown_once_the_log_is_mended() {
    let disk = SimStorage::new();
    let broker = Broker::builder("/m").storage(disk.clone()).durability(Durability::ProcessCrash).open().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let group = broker.consumer_group("g");
    let commit = |count: usize| {
        (0..count).for_each(|_| drop(topic.send("x").unwrap()));
        group.reset(["t"], Start::Latest)
    };
    let committed = || group.committed(&TopicPartition::new("t", 0)).unwrap().map(|at| at.offset());
    commit(3).unwrap();
    disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Write).path("__consumer_offsets-0/0"));
    commit(5).unwrap_err();
    disk.mend();
    assert_eq!(committed(), Some(Offset::new(3)));
    broker.topic("__consumer_offsets").open().unwrap().partition(0).unwrap().reopen().unwrap();
    assert_eq!(committed(), Some(Offset::new(3)));
    commit(1).unwrap();
    assert_eq!(committed(), Some(Offset::new(9)));
}

/// A broker whose group `g` was at 3 and then failed to commit 8, with a log of groups that is well again.
fn after_a_failed_commit(
    disk: &SimStorage,
    failed: Errno,
    operation: Operation,
) -> (Broker, impl Fn(usize) -> Result<()>) {
    let broker = Broker::builder("/m").storage(disk.clone()).open().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let group = broker.consumer_group("g");
    let commit = move |count: usize| {
        (0..count).for_each(|_| drop(topic.send("x").unwrap()));
        group.reset(["t"], Start::Latest)
    };
    commit(3).unwrap();
    disk.add_fault(Fault::new(failed, Repeat::Once).on(operation).path("__consumer_offsets-0/0"));
    commit(5).unwrap_err();
    disk.mend();
    (broker, commit)
}

fn committed(broker: &Broker) -> Option<Offset> {
    broker.consumer_group("g").committed(&TopicPartition::new("t", 0)).unwrap().map(|at| at.offset())
}

fn fail_reads_of_groups(disk: &SimStorage) {
    disk.add_fault(Fault::new(Errno::Io, Repeat::Forever).on(Operation::Read).path("__consumer_offsets-0/0"));
}

#[test]
fn a_commit_that_was_acknowledged_is_shown_though_the_log_cannot_be_read() {
    let disk = SimStorage::new();
    // It is taken back, and the next one gets its offset.
    let (broker, commit) = after_a_failed_commit(&disk, Errno::NoSpace, Operation::Write);
    fail_reads_of_groups(&disk);
    commit(1).unwrap();
    assert_eq!(committed(&broker), Some(Offset::new(9)));
}

/// What the disk does not give when asked three times counts as lost until the next opening: that finds it, or it was overtaken.
#[test]
fn a_commit_that_may_be_there_is_not_shown_before_the_log_can_be_read_and_is_not_forgotten() {
    for (overtaken, found) in [(false, 8), (true, 9)] {
        let disk = SimStorage::new();
        let (broker, commit) = after_a_failed_commit(&disk, Errno::Io, Operation::Sync);
        broker.topic("__consumer_offsets").open().unwrap().partition(0).unwrap().reopen().unwrap();
        fail_reads_of_groups(&disk);
        assert_eq!(committed(&broker), Some(Offset::new(3)));
        if overtaken {
            commit(1).unwrap();
        }
        disk.mend();
        assert_eq!(committed(&broker), Some(Offset::new(if overtaken { 9 } else { 3 })));
        broker.close().unwrap();
        let broker = Broker::builder("/m").storage(disk.clone()).open().unwrap();
        assert_eq!(committed(&broker), Some(Offset::new(found)), "overtaken {overtaken}");
    }
}

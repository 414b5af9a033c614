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

#[test]
fn on_a_file_system_that_turns_read_only_reads_go_on_and_a_reopening_mends_the_rest() {
    let disk = SimStorage::new();
    let broker = open(&disk);
    let (old, other) = (broker.topic("old").create().unwrap(), broker.topic("other").create().unwrap());
    old.send("one").unwrap();
    broker.consumer_group("g").reset(["old"], Start::Latest).unwrap();
    disk.add_fault(Fault::new(Errno::ReadOnly, Repeat::Forever));
    try_all(&broker, &old, &other);
    for (number, error) in try_all(&broker, &old, &other).iter().enumerate() {
        // The last two say what the disk does.
        let expected = if number < 6 { error.kind() == ErrorKind::Poisoned } else { error.kind() != ErrorKind::Closed };
        let remedy = ["then reopen the partition", "then close the broker and open it again"][usize::from(number > 2)];
        assert!(expected && (number > 5 || error.to_string().contains(remedy)), "{number}: {error}");
    }
    assert_eq!(read(&old), ["one"]);
    assert!(broker.consumer_group("g").all_committed().is_ok());
    disk.mend();
    for topic in [&old, &other, &broker.topic("__consumer_offsets").open().unwrap()] {
        topic.partition(0).unwrap().reopen().unwrap();
    }
    old.send("two").unwrap();
    assert_eq!((other.send("two").unwrap().offset, read(&other)), (Offset::ZERO, vec!["two".to_owned()]));
    broker.consumer_group("g").reset(["old"], Start::Earliest).unwrap();
    assert_eq!(broker.topic("new").create().unwrap_err().kind(), ErrorKind::Poisoned, "no partition's to mend");
    broker.close().ok();
    let broker = open(&disk);
    broker.topic("new").create().unwrap();
    let old = broker.topic("old").open().unwrap();
    assert!(
        read(&old).starts_with(&["one".to_owned()]) && read(&old).ends_with(&["two".to_owned()]),
        "{:?}",
        read(&old)
    );
    broker.close().unwrap();
}

#[test]
fn a_directory_that_cannot_be_synced_stops_whose_names_are_in_doubt() {
    let disk = SimStorage::new();
    let broker = open(&disk);
    let (old, new) = (broker.topic("old").create().unwrap(), broker.topic("new").create().unwrap());
    old.send("one").unwrap();
    let fault = Fault::new(Errno::Io, Repeat::Once).on(Operation::SyncDir);
    disk.add_fault(fault.path("new-0"));
    let failed = new.send("lost").unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Indeterminate);
    let refused = new.send("refused").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Poisoned);
    assert!(refused.to_string().contains("then reopen the partition"), "{refused}");
    assert_eq!(read(&new), Vec::<String>::new());
    assert_eq!((old.send("two").unwrap().offset, read(&old).len()), (Offset::new(1), 2));
    new.partition(0).unwrap().reopen().unwrap();
    new.send("more").unwrap();
    let told = read(&new);
    assert_eq!(told.last().map(String::as_str), Some("more"));
    drop(broker);
    let after = open(&disk.crash(Choice::Nothing));
    assert_eq!(read(&after.topic("new").open().unwrap()), told);
}

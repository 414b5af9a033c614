//! A process that has no descriptor left: what cannot be opened is told as that and never taken for missing, and works
//! again as soon as there are some; an open broker keeps no more than it was given.

use thalweg::testing::{Choice, Errno, Fault, Operation, Repeat, SimStorage};
use thalweg::{Broker, Durability, Error, ErrorKind, Partition, Result, Start, TopicConfig};

const RECORDS: usize = 20;

fn open(disk: &SimStorage) -> Result<Broker> {
    // Few: most of what is read has to be opened again.
    Broker::builder("data").storage(disk.clone()).manual().max_open_files(2).open()
}

/// A topic of several segments, closed in order or not.
fn fill(disk: &SimStorage, close: bool) {
    let broker = open(disk).expect("opens");
    let config = TopicConfig::new().set("internal.segment.bytes", "300").expect("a config");
    let partition = broker.topic("events").config(config).create().expect("a topic").partition(0).expect("is there");
    for number in 0..RECORDS {
        append(&partition, number).expect("a disk that works");
    }
    if close {
        broker.close().expect("closes");
    }
}

fn append(partition: &Partition, number: usize) -> Result<()> {
    let appended = partition.append_records([format!("value {number}")])?;
    partition.wait(appended.position, Durability::PowerLoss)
}

fn partition(broker: &Broker) -> Result<Partition> {
    broker.topic("events").open()?.partition(0)
}

fn read(partition: &Partition) -> Result<usize> {
    partition.scan(Start::Earliest).try_fold(0, |count, record| record.map(|_| count + 1))
}

fn none_left(operation: Operation, path: &str) -> Fault {
    Fault::new(Errno::TooManyFiles, Repeat::Forever).on(operation).path(path)
}

fn is_told(error: &Error) -> bool {
    error.kind() == ErrorKind::TooManyOpenFiles
}

#[test]
fn a_segment_that_cannot_be_opened_is_not_missing() {
    for close in [true, false] {
        let disk = SimStorage::new();
        fill(&disk, close);
        let disk = disk.crash(Choice::ProcessCrash);
        let broker = open(&disk).expect("opens");
        let events = partition(&broker).expect("is there");
        assert_eq!(read(&events).expect("all is there"), RECORDS);
        let fault = none_left(Operation::Open, "events-0/");
        disk.add_fault(fault.clone());
        let error = read(&events).expect_err("nothing can be opened");
        assert!(is_told(&error), "{error}");
        assert!(disk.remove_fault(&fault));
        assert_eq!(read(&events).expect("all is there"), RECORDS);
        assert!(broker.findings().is_empty(), "{:?}", broker.findings());
        broker.close().expect("closes");
    }
}

#[test]
fn a_roll_without_descriptors_loses_nothing() {
    let disk = SimStorage::new();
    fill(&disk, true);
    let broker = open(&disk).expect("opens");
    let events = partition(&broker).expect("is there");
    let fault = none_left(Operation::Create, "events-0/");
    disk.add_fault(fault.clone());
    let mut number = RECORDS;
    let error = loop {
        match append(&events, number) {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
    };
    assert!(is_told(&error), "{error}");
    assert_eq!(read(&events).expect("all is there"), number);
    assert!(disk.remove_fault(&fault));
    append(&events, number).expect("goes on");
    assert_eq!(read(&events).expect("all is there"), number + 1);
    broker.close().expect("closes");
}

#[test]
fn a_broker_that_finds_no_descriptor_opens_later_as_if_nothing_had_been() {
    for close in [true, false] {
        let disk = SimStorage::new();
        fill(&disk, close);
        let first = disk.crash(Choice::ProcessCrash);
        let before = first.operations();
        open(&first).and_then(|broker| read(&partition(&broker)?)).expect("opens");
        let operations = first.operations() - before;
        let (mut refused, mut opened) = (0, 0);
        for nth in 0..operations {
            let disk = disk.crash(Choice::ProcessCrash);
            disk.add_fault(Fault::new(Errno::TooManyFiles, Repeat::Forever).from_operation(disk.operations() + nth));
            match open(&disk).and_then(|broker| read(&partition(&broker)?)) {
                Ok(count) => {
                    opened += 1;
                    assert_eq!(count, RECORDS, "closed {close}, operation {nth}");
                }
                Err(error) => {
                    refused += 1;
                    assert!(is_told(&error), "closed {close}, operation {nth}: {error}");
                }
            }
            disk.mend();
            let broker = open(&disk).unwrap_or_else(|e| panic!("closed {close}, operation {nth}: {e}"));
            let found = partition(&broker).and_then(|partition| read(&partition));
            assert_eq!(found.expect("all is there"), RECORDS, "closed {close}, operation {nth}");
            let lost = broker.findings().into_iter().find(|finding| finding.offsets.is_some());
            assert!(lost.is_none(), "closed {close}, operation {nth}: {lost:?}");
        }
        assert!(refused > 0 && refused + opened == operations, "{refused} of {operations}");
    }
}

/// Descriptors of this process that are open on files below `dir`.
#[cfg(target_os = "linux")]
fn held(dir: &std::path::Path) -> usize {
    let links =
        std::fs::read_dir("/proc/self/fd").expect("lists").filter_map(|entry| entry.ok()?.path().read_link().ok());
    links.filter(|link| link.starts_with(dir)).count()
}

/// Another broker in the process needs them.
#[test]
#[cfg(target_os = "linux")]
fn a_closed_broker_holds_no_descriptor_whatever_handles_live() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().canonicalize().expect("is there");
    let broker = Broker::open(&root).expect("opens");
    let topic = broker.topic("events").partitions(8).create().expect("a topic");
    let partitions = topic.partitions();
    for partition in &partitions {
        append(partition, 0).expect("a disk that works");
    }
    let mut scan = topic.scan(Start::Earliest);
    assert!(scan.next().expect("records").is_ok() && held(&root) > 8);
    broker.close().expect("closes");
    assert_eq!(held(&root), 0);
    let closed = |done: Result<()>| done.is_err_and(|e| e.kind() == ErrorKind::Closed);
    assert!(closed(append(&partitions[0], 1)) && closed(read(&partitions[0]).map(drop)));
    assert!(scan.any(|record| closed(record.map(drop))));
    assert_eq!(held(&root), 0);
}

//! Directories that are not as the catalog says, and what is said and done about each.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::broker::{Broker, BrokerBuilder};
use crate::record::{Record, RecordBatch};
use crate::storage::{MemoryStorage, OpenMode, Storage};
use crate::types::Start;

/// A directory that outlives its brokers.
struct Dir(MemoryStorage);

impl Dir {
    fn new() -> Self {
        Self(MemoryStorage::new())
    }

    fn root() -> PathBuf {
        PathBuf::from("/data")
    }

    fn builder(&self) -> BrokerBuilder {
        Broker::builder(Self::root()).storage(self.0.clone()).manual()
    }

    fn open(&self) -> Broker {
        self.builder().open().unwrap()
    }

    /// Opens it as if another program had had it meanwhile.
    fn open_foreign(&self) -> Broker {
        for name in [directory::STATE_FILE, "thalweg.epoch"] {
            if self.has(name) {
                self.0.remove_file(&Self::root().join(name)).unwrap();
            }
        }
        self.open()
    }

    fn has(&self, name: &str) -> bool {
        self.0.metadata(&Self::root().join(name)).is_ok()
    }

    fn read(&self, name: &str) -> String {
        let bytes = read_file(&self.0, &Self::root().join(name), 1 << 20).unwrap().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let file = self.0.open(&Self::root().join(name), OpenMode::CreateIfAbsent).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    }

    fn make(&self, name: &str) {
        self.0.create_dir(&Self::root().join(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        self.0.remove_dir_all(&Self::root().join(name)).unwrap();
    }

    /// Topic `t` with one record per partition, closed.
    fn with_topic(partitions: u32) -> Self {
        let dir = Self::new();
        let broker = dir.open();
        let topic = broker.topic("t").partitions(partitions).create().unwrap();
        for partition in topic.partitions() {
            topic.send(Record::from("x").partition(partition.topic_partition().partition())).unwrap();
        }
        broker.close().unwrap();
        dir
    }
}

fn kinds(broker: &Broker) -> Vec<FindingKind> {
    let of_us = |finding: &Finding| finding.kind != FindingKind::ForeignWriter;
    broker.findings().iter().filter(|f| of_us(f)).map(|f| f.kind).collect()
}

fn message(broker: &Broker, kind: FindingKind) -> String {
    broker.findings().iter().find(|f| f.kind == kind).unwrap().to_string()
}

#[test]
fn a_partition_in_another_directory_is_absent_and_the_rest_is_served() {
    let dir = Dir::with_topic(3);
    let meta = dir.read("meta.properties");
    let id = meta.lines().find_map(|line| line.strip_prefix("directory.id=")).unwrap().to_owned();
    // The catalog's records name a directory that this one is not: what is here is here all the same.
    dir.write("meta.properties", meta.replace(&id, "Zm9vYmFyYmF6cXV4MTIzNA").as_bytes());
    dir.remove("t-1");
    let broker = dir.open_foreign();
    let topic = broker.topic("t").open().unwrap();
    assert_eq!((topic.partition_count(), topic.partitions().len()), (3, 2));
    let error = topic.partition(1).unwrap_err();
    assert_eq!((error.kind(), error.topic_partition().unwrap().to_string()), (ErrorKind::Absent, "t-1".to_owned()));
    assert!(error.to_string().contains(&format!("directory.id is {id}")), "{error}");
    assert_eq!(kinds(&broker), [FindingKind::Absent]);
    assert_eq!(topic.scan(Start::Earliest).count(), 2);

    let absent = topic.send(Record::from("y").partition(1)).unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::Absent);
    for _ in 0..3 {
        assert_ne!(topic.send("keyless").unwrap().partition, 1);
    }
    let producer = broker.producer().build().unwrap();
    let tickets: Vec<_> = (0..30).map(|_| producer.enqueue(&topic, "keyless").unwrap()).collect();
    producer.flush().unwrap();
    assert!(tickets.into_iter().all(|ticket| ticket.wait().is_ok()));
    let elsewhere = producer.send(&topic, Record::from("z").partition(1)).unwrap_err();
    assert_eq!(elsewhere.kind(), ErrorKind::Absent);
    let mut consumer = broker.consumer_group("g").consumer(["t"]).start(Start::Earliest).join().unwrap();
    let mut read = 0;
    while read < 35 {
        read += consumer.poll(Duration::ZERO).unwrap().len();
    }
    drop((consumer, producer));
    assert!(broker.consumer_group("g").lag().unwrap().partitions().iter().all(|p| p.partition().partition() != 1));
    broker.close().unwrap();
    assert!(!dir.has("t-1"));
    assert!(!dir.read("recovery-point-offset-checkpoint").contains("t 1 "));

    // In its own directory again it is there.
    dir.write("meta.properties", meta.as_bytes());
    assert_eq!(dir.open().topic("t").open().unwrap().partitions().len(), 3);
}

#[test]
fn a_log_that_is_gone_goes_on_above_the_offsets_that_were_given_out() {
    let halves: [fn(&Dir); 3] = [
        |dir| dir.remove("t-0"),
        |dir| {
            dir.remove("t-0");
            dir.make("t-0");
        },
        |dir| dir.0.remove_file(&Dir::root().join("t-0/00000000000000000000.log")).unwrap(),
    ];
    for lose in halves {
        let dir = Dir::with_topic(1);
        lose(&dir);
        for round in 0..2 {
            let broker = dir.open_foreign();
            assert_eq!(kinds(&broker), [FindingKind::Lost], "round {round}");
            assert!(message(&broker, FindingKind::Lost).contains("offsets 0 to before 1"));
            let offsets = broker.topic("t").open().unwrap().partition(0).unwrap().offsets().unwrap();
            assert_eq!((offsets.log_start.get(), offsets.end.get()), (1, 1));
            broker.close().unwrap();
        }
        let broker = dir.open_foreign();
        assert_eq!(broker.topic("t").open().unwrap().send("new").unwrap().offset, 1);
        drop(broker);
        assert!(dir.has("t-0/partition.metadata"));
        let broker = dir.open();
        assert_eq!(kinds(&broker), []);
        assert_eq!(broker.topic("t").open().unwrap().send("newer").unwrap().offset, 2);
    }
}

#[test]
fn what_belongs_to_no_topic_is_reported_and_kept() {
    let dir = Dir::with_topic(1);
    let hex = "0123456789abcdef0123456789abcdef";
    let names = [format!("t-0.{hex}-stray"), format!("t-0.{hex}-future"), "gone-0".into(), "t-7".into(), "x".into()];
    names.iter().for_each(|name| dir.make(name));
    ["gone-0", "t-7"].iter().for_each(|name| dir.write(&format!("{name}/00000000000000000000.log"), b""));
    dir.make(&format!("t-0.{hex}-delete"));
    let broker = dir.open();
    assert_eq!(kinds(&broker), [FindingKind::Leftover; 5]);
    assert!(names.iter().all(|name| dir.has(name) && broker.findings().iter().any(|f| f.message.starts_with(name))));
    assert!(!dir.has(&format!("t-0.{hex}-delete")));
}

/// A kill between the record of a deletion and the directory's new name: a stock broker would set it aside as a stray.
#[test]
fn an_interrupted_deletion_is_finished() {
    let dir = Dir::with_topic(1);
    let metadata = dir.read("t-0/partition.metadata");
    let broker = dir.open();
    broker.topic("t").open().unwrap().delete().unwrap();
    broker.close().unwrap();
    let bring_back = || {
        dir.make("t-0");
        dir.write("t-0/partition.metadata", metadata.as_bytes());
        dir.write("t-0/00000000000000000000.log", b"old");
    };
    bring_back();
    let broker = dir.open();
    assert!(kinds(&broker).is_empty() && !dir.has("t-0"));
    // With a topic of its name, it is that one's place.
    broker.topic("t").create().unwrap();
    broker.close().unwrap();
    bring_back();
    let broker = dir.open_foreign();
    assert!(kinds(&broker).is_empty() && !dir.has("t-0"));
    assert_eq!(broker.topic("t").open().unwrap().send("new").unwrap().offset, 0);
}

#[test]
fn a_directory_of_another_topic_of_that_name_is_not_touched() {
    let dir = Dir::with_topic(2);
    let other = "version: 0\ntopic_id: Zm9vYmFyYmF6cXV4MTIzNA";
    dir.write("t-0/partition.metadata", other.as_bytes());
    let broker = dir.open_foreign();
    assert_eq!(kinds(&broker)[0], FindingKind::Leftover);
    let topic = broker.topic("t").open().unwrap();
    assert_eq!(topic.partition(0).unwrap().offsets().unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(topic.partition(1).unwrap().offsets().unwrap().end, 1);
    assert_eq!(dir.read("t-0/partition.metadata"), other);
}

#[test]
fn a_directory_without_its_id_is_taken_for_the_topic_of_its_name() {
    let dir = Dir::with_topic(1);
    let metadata = dir.read("t-0/partition.metadata");
    dir.0.remove_file(&Dir::root().join("t-0/partition.metadata")).unwrap();
    let broker = dir.open_foreign();
    assert_eq!(kinds(&broker), [FindingKind::Rebuilt]);
    assert_eq!(dir.read("t-0/partition.metadata"), metadata);
    assert_eq!(broker.topic("t").open().unwrap().scan(Start::Earliest).count(), 1);
}

#[test]
fn without_a_catalog_nothing_is_deleted_until_a_policy_is_set() {
    let dir = Dir::with_topic(2);
    dir.remove("__cluster_metadata-0");
    dir.remove("t-0");
    let builder = || dir.builder().config("log.retention.bytes", "0");
    let broker = builder().open().unwrap();
    assert_eq!(kinds(&broker), [FindingKind::NoCatalog, FindingKind::Absent]);
    let topic = broker.topic("t").open().unwrap();
    assert_eq!(topic.send(Record::from("y").partition(1)).unwrap().offset, 1);
    broker.run_maintenance().unwrap();
    assert_eq!(topic.scan(Start::Earliest).count(), 2);
    broker.close().unwrap();
    assert!(!dir.has("__cluster_metadata-0") && !dir.has("t-0"));

    let broker = builder().open().unwrap();
    let topic = broker.topic("t").open().unwrap();
    topic.alter_configs(&[("retention.bytes", Some("7"))]).unwrap();
    broker.close().unwrap();
    assert!(dir.has("__cluster_metadata-0"));
    let broker = dir.open();
    // The catalog remembers what it never knew, and who wrote it.
    let found = broker.findings().into_iter().map(|f| f.kind).filter(|kind| *kind != FindingKind::FileSystem);
    assert_eq!(found.collect::<Vec<_>>(), [FindingKind::Absent]);
    let topic = broker.topic("t").open().unwrap();
    let configs = topic.describe_configs().unwrap();
    assert!(configs.iter().any(|entry| entry.name() == "retention.bytes" && entry.value() == "7"));
    assert_eq!(topic.send(Record::from("z").partition(1)).unwrap().offset, 2);

    topic.alter_configs(&[("segment.bytes", Some("1048576"))]).unwrap();
    for _ in 0..4 {
        topic.send(Record::from(vec![b'z'; 600_000]).partition(1)).unwrap();
    }
    broker.run_maintenance().unwrap();
    let kept: Vec<_> = topic.scan(Start::Earliest).map(|record| record.unwrap().offset().get()).collect();
    assert_eq!(kept, [6], "the policy that was set is in force");
}

#[test]
fn what_cannot_be_opened_is_left_as_it_was() {
    let later = hex_batch("010c00116d657461646174612e76657273696f6e002200");
    let zookeeper: &[u8] = b"version=0\nbroker.id=1\ncluster.id=c\n";
    type Change<'a> = &'a dyn Fn(&Dir);
    let cases: [(Change<'_>, ErrorKind, &str); 4] = [
        (&|dir| dir.write("meta.properties", zookeeper), ErrorKind::Unsupported, "migrate it to KRaft with Kafka 3.9"),
        (
            &|dir| dir.write("__cluster_metadata-0/00000000000000000000.log", &later),
            ErrorKind::Unsupported,
            "metadata.version is 34",
        ),
        (
            &|dir| dir.0.remove_file(&Dir::root().join("meta.properties")).unwrap(),
            ErrorKind::InvalidArgument,
            "half a copy",
        ),
        (&|dir| dir.write("meta.properties", b"\xff"), ErrorKind::Corrupt, "not UTF-8"),
    ];
    for (change, kind, why) in cases {
        let dir = Dir::with_topic(1);
        change(&dir);
        let before: Vec<_> = listing(&dir);
        let error = dir.builder().open().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(why) && error.at_path().is_some(), "{error}");
        assert_eq!(listing(&dir), before, "{why}");
    }
}

fn hex_batch(value: &str) -> Vec<u8> {
    let digits: Vec<u8> = value.bytes().map(|c| (c as char).to_digit(16).unwrap() as u8).collect();
    let value: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    let mut batch = RecordBatch::builder().leader_epoch(1.into());
    batch.push_parts(0.into(), None, Some(&value), &[]).unwrap();
    batch.finish().unwrap().as_bytes().to_vec()
}

/// Names at the top and in the catalog, with lengths; the lock is ours while we look.
fn listing(dir: &Dir) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for part in ["", "__cluster_metadata-0", "t-0"] {
        let path = Dir::root().join(part);
        for entry in dir.0.list(&path).unwrap_or_default() {
            all.push((format!("{part}/{}", entry.name), dir.0.metadata(&path.join(&entry.name)).unwrap().len));
        }
    }
    all.sort();
    all
}

/// What is done once, because another program had the directory, is done by the next open where this one died.
#[test]
fn an_open_that_fails_half_way_is_made_up_for() {
    let dir = Dir::with_topic(1);
    dir.0.remove_file(&Dir::root().join("t-0/partition.metadata")).unwrap();
    dir.0.remove_file(&Dir::root().join("thalweg.epoch")).unwrap();
    dir.make("t-0/partition.metadata.tmp");
    dir.builder().open().unwrap_err();
    dir.remove("t-0/partition.metadata.tmp");
    let broker = dir.open();
    assert_eq!(kinds(&broker), [FindingKind::Rebuilt]);
    assert!(dir.has("t-0/partition.metadata"));
}

#[test]
fn a_directory_that_was_begun_for_a_topic_that_is_gone_is_removed() {
    let dir = Dir::with_topic(1);
    dir.make("begun-0");
    dir.make("begun-1");
    dir.write("begun-1/partition.metadata.tmp", b"version: 0");
    dir.make("photos-2025");
    dir.write("photos-2025/beach.jpeg", b"x");
    let broker = dir.open();
    assert_eq!(kinds(&broker), [FindingKind::Leftover]);
    assert!(message(&broker, FindingKind::Leftover).contains("photos-2025"));
    assert!(!dir.has("begun-0") && !dir.has("begun-1") && dir.has("photos-2025/beach.jpeg"));
    broker.close().unwrap();
    assert_eq!(kinds(&dir.open()), [FindingKind::Leftover]);
}

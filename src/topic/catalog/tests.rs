//! The catalog on a log in memory: round trips, refusals, kills at any byte, snapshots, foreign directories.

use super::*;
use crate::clock::{Clock, ManualClock, SteadyTime};
use crate::finding::Findings;
use crate::log::LogContext;
use crate::segment::BufferPool;
use crate::storage::{MemoryStorage, OpenMode, read_file};
use crate::topic::config::{CleanupPolicy, ConfigSource};
use crate::types::Timestamp;

mod foreign;

const LOG: &str = "__cluster_metadata-0/00000000000000000000.log";

/// A directory that outlives the catalogs opened on it; dropping one is a kill.
struct Dir {
    storage: Arc<MemoryStorage>,
    options: CatalogOptions,
}

impl Dir {
    fn new() -> Self {
        Self { storage: Arc::new(MemoryStorage::default()), options: CatalogOptions::default() }
    }

    fn path(&self) -> &'static Path {
        Path::new("")
    }

    fn try_open(&self) -> Result<Catalog> {
        self.try_open_with(Arc::default())
    }

    fn try_open_with(&self, findings: Arc<Findings>) -> Result<Catalog> {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::new(1_700_000_000_000)));
        let context = LogContext {
            storage: self.storage.clone(),
            clock: Arc::clone(&clock),
            time: Arc::new(SteadyTime::new(clock, None)),
            findings,
            buffers: BufferPool::default(),
            partition: TopicPartition::new("unset", 0),
            topic_id: None,
            slot: None,
            boot_id: [0; 16],
            log_start: Offset::ZERO,
            recovery_point: Offset::ZERO,
            outside: crate::log::Outside::default(),
            meter: Arc::default(),
            syncs: Arc::default(),
        };
        Reading::new(&*self.storage, self.path(), self.options.clone())?.open(context)
    }

    fn open(&self) -> Catalog {
        self.try_open().unwrap()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        read_file(&*self.storage, &self.path().join(name), 1 << 30).unwrap().unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let file = self.storage.open(&self.path().join(name), OpenMode::CreateIfAbsent).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    }

    fn metadata_files(&self, suffix: &str) -> Vec<String> {
        let entries = self.storage.list(&self.path().join("__cluster_metadata-0")).unwrap();
        let mut names: Vec<_> = entries.into_iter().map(|e| e.name).filter(|n| n.ends_with(suffix)).collect();
        names.sort();
        names
    }

    /// A copy with other bytes in one file: a disk as a crash may have left it.
    fn with(&self, name: &str, bytes: &[u8]) -> Self {
        let copy = Self::new();
        copy.storage.create_dir(&copy.path().join("__cluster_metadata-0")).unwrap();
        copy.write("meta.properties", &self.read("meta.properties"));
        copy.write(name, bytes);
        copy
    }
}

fn id(n: u8) -> Uuid {
    Uuid::from_bytes([n; 16])
}

fn plain() -> TopicConfig {
    TopicConfig::new()
}

fn state(image: &Image) -> Vec<MetadataRecord> {
    image.to_records()
}

fn config<'a>(image: &'a Image, topic: &str, name: &str) -> Option<&'a str> {
    image.configs(&Resource::topic(topic)).find(|(n, _)| *n == name).map(|(_, value)| value)
}

#[test]
fn a_new_directory_begins_as_a_stock_broker_wants_it() {
    let dir = Dir::new();
    let catalog = dir.open();
    let identity = catalog.identity().clone();
    assert_eq!(identity.node_id, 1);
    let text = String::from_utf8(dir.read("meta.properties")).unwrap();
    assert_eq!(MetaProperties::parse(&text).unwrap(), identity);
    let image = catalog.image();
    assert_eq!(image.feature("metadata.version"), Some(21));
    let (kraft_version, voters) = image.quorum();
    assert_eq!((kraft_version, voters[0].id, Some(voters[0].directory_id)), (1, 1, identity.directory_id));
    assert_eq!((image.end, image.epoch), (Offset::new(3), LeaderEpoch::new(1)));
    drop(catalog);
    let again = dir.open();
    assert_eq!((again.identity(), again.image().end), (&identity, image.end));
}

#[test]
fn every_change_survives_a_kill() {
    let dir = Dir::new();
    let catalog = dir.open();
    let compact = plain().cleanup_policy(CleanupPolicy::Compact).set("segment.ms", "1000").unwrap();
    let topic = catalog.create_topic("orders", id(1), 3, &compact).unwrap();
    let partition = topic.partition(2.into()).unwrap();
    assert_eq!((partition.leader, partition.leader_epoch, &partition.replicas), (1, 0, &vec![1]));
    assert_eq!(partition.directories, [catalog.directory_id]);
    catalog.create_topic("gone", id(2), 1, &plain()).unwrap();
    catalog.delete_topic(id(2)).unwrap();
    catalog.create_topic("gone", id(3), 2, &plain()).unwrap();
    assert_eq!(catalog.add_partitions(id(1), 5).unwrap().partition_count(), 5);
    catalog.alter_configs(id(1), &[("segment.ms", None), ("retention.bytes", Some("9"))]).unwrap();
    assert_eq!(catalog.allocate_producer_ids(1000).unwrap(), 0..1000);
    assert_eq!(catalog.allocate_producer_ids(10).unwrap(), 1000..1010);
    assert_eq!(catalog.bump_leader_epoch(id(1), 4.into(), 0.into()).unwrap(), 1);
    assert_eq!(catalog.bump_leader_epoch(id(1), 4.into(), 7.into()).unwrap(), 7);
    let before = catalog.image();
    drop(catalog);

    let catalog = dir.open();
    let image = catalog.image();
    assert_eq!(state(&image), state(&before));
    assert_eq!(image.topic("gone").map(|t| t.id), Some(id(3)));
    let partition = image.topic("orders").unwrap().partition(4.into()).unwrap();
    assert_eq!((partition.leader_epoch, partition.partition_epoch), (7, 2));
    assert_eq!(config(&image, "orders", "retention.ms"), Some("-1"));
    assert_eq!(config(&image, "orders", "segment.bytes"), Some("67108864"));
    assert_eq!(config(&image, "orders", "segment.ms"), None);
    let entries = catalog.topic_config("orders").describe(catalog.defaults());
    let source = |name: &str| entries.iter().find(|e| e.name() == name).unwrap().source();
    assert_eq!(source("retention.bytes"), ConfigSource::TopicConfig);
    assert_eq!(source("retention.ms"), ConfigSource::Default);
    catalog.close().unwrap();
    assert_eq!(catalog.delete_topic(id(1)).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(state(&dir.open().image()), state(&before));
}

#[test]
fn what_must_not_be_written_is_refused_before_it_is() {
    let dir = Dir::new();
    let catalog = dir.open();
    catalog.create_topic("a.b", id(1), 2, &plain()).unwrap();
    let end = catalog.image().end;
    let kind = |result: Result<()>| result.unwrap_err().kind();
    let create = |name: &str, partitions, config: &TopicConfig| {
        kind(catalog.create_topic(name, id(9), partitions, config).map(drop))
    };
    assert_eq!(create("a.b", 1, &plain()), ErrorKind::TopicExists);
    assert_eq!(create("a_b", 1, &plain()), ErrorKind::InvalidTopicName);
    assert_eq!(create("a b", 1, &plain()), ErrorKind::InvalidTopicName);
    assert_eq!(create("c", 0, &plain()), ErrorKind::InvalidArgument);
    assert_eq!(create("c", 10_001, &plain()), ErrorKind::InvalidArgument);
    assert_eq!(create("c", 1, &plain().segment_bytes(1)), ErrorKind::InvalidConfig);
    assert_eq!(kind(catalog.add_partitions(id(1), 2).map(drop)), ErrorKind::InvalidArgument);
    assert_eq!(kind(catalog.delete_topic(id(9))), ErrorKind::TopicDeleted);
    let alter = |name, value| kind(catalog.alter_configs(id(1), &[("retention.bytes", Some("5")), (name, value)]));
    assert_eq!(alter("retention.ms", Some("soon")), ErrorKind::InvalidConfig);
    assert_eq!(alter("retention", None), ErrorKind::InvalidConfig);
    let bump = catalog.bump_leader_epoch(id(1), 2.into(), 0.into()).map(drop);
    assert_eq!(kind(bump), ErrorKind::UnknownTopicOrPartition);
    assert_eq!(catalog.image().end, end);
    catalog.alter_configs(id(1), &[("retention.ms", None)]).unwrap();
    assert_eq!(catalog.image().end, end, "nothing changes, so nothing is written");
}

#[test]
fn a_kill_at_any_byte_leaves_all_of_a_change_or_nothing() {
    let dir = Dir::new();
    let catalog = dir.open();
    let first = dir.read(LOG).len();
    let mut states = vec![(first, state(&catalog.image()))];
    catalog.create_topic("a", id(1), 2, &plain()).unwrap();
    states.push((dir.read(LOG).len(), state(&catalog.image())));
    catalog.delete_topic(id(1)).unwrap();
    states.push((dir.read(LOG).len(), state(&catalog.image())));
    let bytes = dir.read(LOG);
    let ends = states.iter().map(|(end, _)| *end);
    for len in (0..=bytes.len()).step_by(7).chain(ends) {
        let torn = dir.with(LOG, &bytes[..len]).open();
        let expected = states.iter().rev().find(|(end, _)| *end <= len).unwrap_or(&states[0]);
        assert_eq!(state(&torn.image()), expected.1, "{len}");
        assert_eq!(torn.image().quorum().1.len(), 1, "{len}");
        torn.create_topic("b", id(2), 1, &plain()).unwrap();
    }
}

#[test]
fn snapshots_bound_the_log_and_the_older_one_is_enough() {
    let mut dir = Dir::new();
    dir.options.snapshot_bytes = 500;
    let catalog = dir.open();
    catalog.create_topic("t", id(1), 1, &plain()).unwrap();
    for n in 0..300 {
        catalog.alter_configs(id(1), &[("retention.bytes", Some(&n.to_string()))]).unwrap();
    }
    let expected = state(&catalog.image());
    let end = catalog.image().end;
    let checkpoints = dir.metadata_files(".checkpoint");
    assert_eq!(checkpoints.len(), 2, "{checkpoints:?}");
    let logs = dir.metadata_files(".log");
    assert!(logs.len() <= 3 && logs[0][..20] == checkpoints[0][..20], "{logs:?} {checkpoints:?}");
    drop(catalog);
    let catalog = dir.open();
    assert_eq!((state(&catalog.image()), catalog.image().end), (expected.clone(), end));
    assert_eq!(catalog.image().quorum().1.len(), 1);
    drop(catalog);

    let newest = format!("__cluster_metadata-0/{}", checkpoints[1]);
    let mut bytes = dir.read(&newest);
    bytes[100] ^= 1;
    dir.write(&newest, &bytes);
    let catalog = dir.open();
    assert_eq!((state(&catalog.image()), catalog.image().end), (expected, end));
    for n in 0..20 {
        catalog.alter_configs(id(1), &[("retention.bytes", Some(&n.to_string()))]).unwrap();
    }
    assert!(!dir.metadata_files(".checkpoint").contains(&checkpoints[1]));
}

#[test]
fn a_snapshot_carries_the_catalog_without_its_log() {
    let dir = Dir::new();
    let catalog = dir.open();
    let early = dir.read(LOG);
    catalog.create_topic("t", id(1), 2, &plain()).unwrap();
    catalog.snapshot().unwrap();
    catalog.snapshot().unwrap();
    let (expected, end) = (state(&catalog.image()), catalog.image().end);
    drop(catalog);
    let name = format!("__cluster_metadata-0/{}", dir.metadata_files(".checkpoint")[0]);
    let alone = dir.with(&name, &dir.read(&name));
    let behind = dir.with(&name, &dir.read(&name));
    behind.write(LOG, &early);
    behind.write(&format!("{name}.part"), b"unfinished");
    for dir in [alone, behind] {
        let catalog = dir.open();
        assert_eq!((state(&catalog.image()), catalog.image().end), (expected.clone(), end));
        catalog.create_topic("u", id(2), 1, &plain()).unwrap();
        drop(catalog);
        let catalog = dir.open();
        assert!(catalog.image().topic("u").is_some() && catalog.image().topic("t").is_some());
        assert!(dir.metadata_files(".part").is_empty());
    }
}

/// What the log would not serve is not applied either.
#[test]
fn a_topic_is_not_brought_back_by_a_copy_of_the_batch_that_made_it() {
    let dir = Dir::new();
    let catalog = dir.open();
    let before = dir.read(LOG).len();
    catalog.create_topic("t", id(1), 1, &plain()).unwrap();
    let created = dir.read(LOG)[before..].to_vec();
    catalog.delete_topic(id(1)).unwrap();
    let end = catalog.image().end;
    drop(catalog);
    dir.write(LOG, &[dir.read(LOG), created].concat());
    for _ in 0..2 {
        let catalog = dir.open();
        assert_eq!((catalog.image().topic("t").is_some(), catalog.image().end), (false, end));
    }
}

/// Appends to the log of a closed catalog, as another program may.
fn append(dir: &Dir, batch: impl FnOnce(Place) -> Result<RecordBatch>) {
    let catalog = dir.open();
    let image = catalog.image();
    let place = Place { base: image.end, epoch: image.epoch, time: Timestamp::new(0) };
    let writer = catalog.writer.lock();
    let log = writer.log().unwrap();
    let appended = log.append_replica(&batch(place).unwrap()).unwrap();
    log.wait(appended.position, Durability::PowerLoss).unwrap();
}

#[test]
fn a_catalog_with_other_nodes_or_later_records_is_only_read() {
    let other_replica = |place| {
        let state = PartitionState { replicas: vec![1, 2], isr: vec![1], leader: 1, ..PartitionState::default() };
        let partition = MetadataRecord::Partition { topic: id(1), partition: 0, state };
        batches::data_batch(place, &[MetadataRecord::Topic { name: "t".into(), id: id(1) }, partition])
    };
    let unknown_record = |place: Place| {
        let mut batch = RecordBatch::builder().base_offset(place.base).leader_epoch(place.epoch);
        batch.push_parts(place.time, None, Some(&[1, 99, 0, 0]), &[])?;
        batch.finish()
    };
    type Append = Box<dyn Fn(Place) -> Result<RecordBatch>>;
    let cases: [(Append, &str); 2] =
        [(Box::new(other_replica), "node 2 has replicas of topic t"), (Box::new(unknown_record), "metadata record 99")];
    for (batch, why) in cases {
        let dir = Dir::new();
        dir.open().create_topic("kept", id(5), 1, &plain()).unwrap();
        append(&dir, batch);
        let before = dir.read(LOG);
        let catalog = dir.open();
        assert!(catalog.image().topic("kept").is_some());
        let error = catalog.delete_topic(id(5)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(catalog.snapshot().unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(dir.read(LOG), before);
    }
}

#[test]
fn a_quorum_of_others_or_an_unused_format_is_left_alone() {
    let dir = Dir::new();
    drop(dir.open());
    let voters = r#"{"leaderId":1,"currentVoters":[{"voterId":1},{"voterId":4}],"data_version":0}"#;
    dir.write("__cluster_metadata-0/quorum-state", voters.as_bytes());
    assert!(dir.open().read_only().unwrap().to_string().contains("node 4 votes"));
    dir.write("__cluster_metadata-0/quorum-state", br#"{"currentVoters":[{"voterId":1}],"data_version":0}"#);
    assert!(dir.open().read_only().is_none());

    let formatted = dir.with("bootstrap.checkpoint", b"");
    let catalog = formatted.open();
    assert_eq!(catalog.read_only().map(|e| e.kind()), Some(ErrorKind::ReadOnly));
    assert_eq!(catalog.image().end, 0);
}

#[test]
fn a_transaction_that_nobody_ended_does_not_swallow_our_records() {
    let dir = Dir::new();
    append(&dir, |place| {
        let begin = MetadataRecord::BeginTransaction { name: Some("half".into()) };
        batches::data_batch(place, &[begin, MetadataRecord::Topic { name: "half".into(), id: id(1) }])
    });
    let catalog = dir.open();
    assert!(catalog.image().topic("half").is_none() && catalog.image().in_transaction());
    catalog.create_topic("whole", id(2), 1, &plain()).unwrap();
    let image = dir.open().image();
    assert!(image.topic("half").is_none() && image.topic("whole").is_some() && !image.in_transaction());
}

#[test]
fn the_identity_is_kept_checked_and_completed() {
    let mut dir = Dir::new();
    dir.options.node_id = Some(7);
    dir.options.cluster_id = Some("mine".into());
    let identity = dir.open().identity().clone();
    assert_eq!((identity.node_id, identity.cluster_id.as_str()), (7, "mine"));
    dir.options.node_id = Some(8);
    assert_eq!(dir.try_open().unwrap_err().kind(), ErrorKind::InvalidArgument);
    dir.options.node_id = None;
    dir.options.cluster_id = None;
    dir.write("meta.properties", b"version=1\nnode.id=7\ncluster.id=mine\n");
    let completed = dir.open().identity().clone();
    assert!(completed.directory_id.is_some());
    assert_eq!(dir.open().identity(), &completed);
    dir.storage.remove_file(&dir.path().join("meta.properties")).unwrap();
    assert_eq!(dir.try_open().unwrap_err().kind(), ErrorKind::Corrupt);
}

//! The catalog: which topics exist, with which ids, partitions and configs. It is Kafka's own KRaft
//! metadata log in `__cluster_metadata-0`, so that a stock broker starts on the directory.
//!
//! Every change is one batch: checked, appended, synced, then shown in the image. A crash leaves all of it
//! or nothing. The log's front is replaced by snapshots; the newest two stay, with the log from the older
//! one on. A catalog that has other nodes in it, or records of a later release, is readable and no more.
//! Partition directories are not touched here: they are made after a topic is committed and removed after
//! its removal is. src: KIP-500, KIP-630, KIP-853

mod batches;
mod control;
mod derive;
mod files;
mod identity;
mod image;
mod open;
mod records;
mod snapshot;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::config::{BrokerDefaults, TopicConfig};
use super::name;
use super::properties::MetaProperties;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::log::Log;
use crate::record::RecordBatch;
use crate::storage::Storage;
use crate::types::{Durability, LeaderEpoch, Offset, PartitionId, TopicPartition, Uuid};
use crate::wire::crc32c;
use batches::Place;
use open::Prelude;
use records::RegistrationChange;
use snapshot::SnapshotId;

pub(crate) use image::{Image, TopicImage};
pub(crate) use open::Reading;
pub(crate) use records::{MetadataRecord, PartitionState, Resource};

/// Most partitions that one change makes: Kafka's limit on the records of one batch.
const PARTITIONS_MAX: u32 = 10_000;

/// A replica's directory before its broker has chosen one.
const UNASSIGNED: Uuid = Uuid::from_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// Where the log of a partition is that this directory does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    /// In the directory of this id, of the same node.
    Directory(Uuid),
    /// With other nodes.
    Nodes(Vec<i32>),
    Unknown,
}

/// What a catalog is told when it is opened.
#[derive(Clone, Debug)]
pub(crate) struct CatalogOptions {
    /// The node that a new directory belongs to; a given one must be that of an existing directory.
    pub(crate) node_id: Option<i32>,
    /// The cluster that a new directory belongs to; random when absent.
    pub(crate) cluster_id: Option<String>,
    pub(crate) defaults: BrokerDefaults,
    /// Bytes of log after which a snapshot is written, at least.
    pub(crate) snapshot_bytes: u64,
    /// Whether what a later release wrote is read as far as it can be, rather than refused.
    pub(crate) read_only: bool,
}

impl Default for CatalogOptions {
    fn default() -> Self {
        Self {
            node_id: None,
            cluster_id: None,
            defaults: BrokerDefaults::default(),
            snapshot_bytes: 1 << 20,
            read_only: false,
        }
    }
}

/// The catalog of one directory.
pub(crate) struct Catalog {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    /// `__cluster_metadata-0`.
    dir: PathBuf,
    identity: MetaProperties,
    directory_id: Uuid,
    defaults: BrokerDefaults,
    snapshot_bytes: u64,
    image: ArcSwap<Image>,
    writer: Mutex<Writer>,
}

/// What only the one who changes the catalog needs.
#[derive(Debug, Default)]
struct Writer {
    /// None while nothing may be appended.
    log: Option<Log>,
    /// Why nothing may be appended.
    read_only: Option<Error>,
    /// What the log still lacks before the first change.
    prelude: Option<Prelude>,
    /// Bytes of log since the newest snapshot.
    since_snapshot: u64,
    /// The newest snapshot and its size in bytes.
    snapshot: Option<(SnapshotId, u64)>,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("dir", &self.dir).field("end", &self.image().end).finish_non_exhaustive()
    }
}

impl Catalog {
    /// The catalog as it is now.
    pub(crate) fn image(&self) -> Arc<Image> {
        self.image.load_full()
    }

    /// Whose directory this is.
    pub(crate) fn identity(&self) -> &MetaProperties {
        &self.identity
    }

    /// The settings given for all topics.
    pub(crate) fn defaults(&self) -> &BrokerDefaults {
        &self.defaults
    }

    /// Whether `path` is the catalog's own directory.
    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        self.dir == path
    }

    /// Where a partition's log is, if the catalog says that it is not in this directory. Kafka leaves the directory
    /// open where there is only one.
    pub(crate) fn elsewhere(&self, topic: &TopicImage, partition: PartitionId) -> Option<Elsewhere> {
        let Some(state) = topic.partition(partition) else { return Some(Elsewhere::Unknown) };
        let node = self.identity.node_id;
        let Some(at) = state.replicas.iter().position(|&replica| replica == node) else {
            return Some(Elsewhere::Nodes(state.replicas.clone()));
        };
        let directory = *state.directories.get(at)?;
        match directory {
            derive::LOST => Some(Elsewhere::Unknown),
            Uuid::ZERO | UNASSIGNED => None,
            other => (other != self.directory_id).then_some(Elsewhere::Directory(other)),
        }
    }

    /// Changes whenever a stock broker starts on the directory: the raft epoch, or without a metadata log the leader
    /// epochs of the partitions. See [`goes_on_from`](Self::goes_on_from).
    pub(crate) fn stamp(&self) -> String {
        let image = self.image();
        if image.end > Offset::ZERO {
            return image.epoch.to_string();
        }
        let mut epochs = String::new();
        for topic in image.topics() {
            let states = topic.partitions();
            epochs.extend(states.map(|(number, state)| format!("{} {number} {}\n", topic.name, state.leader_epoch)));
        }
        format!("directories {:08x}", crc32c(epochs.as_bytes()))
    }

    /// Whether nobody else had the directory since its stamp was `last`: it is the same, or we wrote the first metadata
    /// log since.
    pub(crate) fn goes_on_from(&self, last: &str) -> bool {
        let now = self.stamp();
        last == now || (last.starts_with("directories ") && now == open::FIRST_EPOCH.to_string())
    }

    /// Whether topics came from their directories here, now or before that was written down, and no stock broker
    /// has taken that for true since: one may have more partitions than anybody here knows.
    pub(crate) fn is_derived(&self) -> bool {
        let image = self.image();
        image.next_producer_id() >= derive::NEXT_PRODUCER_ID && image.epoch <= open::FIRST_EPOCH
    }

    /// Why the catalog takes no changes, where it does not.
    pub(crate) fn read_only(&self) -> Option<Error> {
        self.writer.lock().read_only.clone()
    }

    /// The overrides that a topic has.
    pub(crate) fn topic_config(&self, name: &str) -> TopicConfig {
        TopicConfig::from_records(self.image().configs(&Resource::topic(name)))
    }

    /// Creates a topic with `partitions` partitions: all of it in one batch.
    pub(crate) fn create_topic(
        &self,
        topic: &str,
        id: Uuid,
        partitions: u32,
        config: &TopicConfig,
    ) -> Result<Arc<TopicImage>> {
        name::validate(topic)?;
        config.validate(&self.defaults)?;
        let image = self.change(|image| {
            check_free(image, topic)?;
            let mut records = vec![MetadataRecord::Topic { name: topic.to_owned(), id }];
            records.extend(self.new_partitions(id, 0..check_count(partitions)?));
            records.extend(config.explicit_records(&self.defaults).into_iter().map(|(name, value)| {
                MetadataRecord::Config { resource: Resource::topic(topic), name, value: Some(value) }
            }));
            Ok(records)
        })?;
        known(&image, id).cloned()
    }

    /// Removes a topic with its partitions and configs.
    pub(crate) fn delete_topic(&self, id: Uuid) -> Result<()> {
        self.change(|image| known(image, id).map(|_| vec![MetadataRecord::RemoveTopic { id }])).map(drop)
    }

    /// Raises a topic's number of partitions to `total`.
    pub(crate) fn add_partitions(&self, id: Uuid, total: u32) -> Result<Arc<TopicImage>> {
        let image = self.change(|image| {
            let topic = known(image, id)?;
            let (count, total) = (topic.partition_count(), check_count(total)?);
            let from = i32::try_from(count).unwrap_or(i32::MAX);
            if total <= from {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!("topic {} has {count} partitions already, and their number never shrinks", topic.name),
                ));
            }
            Ok(self.new_partitions(id, from..total).collect())
        })?;
        known(&image, id).cloned()
    }

    /// Sets configs of a topic, or removes them (`None`): all or none. Where the catalog did not yet say what
    /// this crate does by default, it says so from then on.
    pub(crate) fn alter_configs(&self, id: Uuid, changes: &[(&str, Option<&str>)]) -> Result<()> {
        let changed = self.change(|image| {
            let resource = Resource::topic(&*known(image, id)?.name);
            let altered = TopicConfig::from_records(image.configs(&resource)).altered(changes)?;
            altered.validate(&self.defaults)?;
            let wanted = altered.explicit_records(&self.defaults);
            let record = |name: &str, value: Option<&str>| MetadataRecord::Config {
                resource: resource.clone(),
                name: name.to_owned(),
                value: value.map(str::to_owned),
            };
            let gone = image.configs(&resource).filter(|(name, _)| !wanted.iter().any(|(n, _)| n == name));
            let mut records: Vec<_> = gone.map(|(name, _)| record(name, None)).collect();
            let stands = |name: &str, value: &str| image.configs(&resource).any(|stored| stored == (name, value));
            let new = wanted.iter().filter(|(name, value)| !stands(name, value));
            records.extend(new.map(|(name, value)| record(name, Some(value))));
            Ok(records)
        });
        changed.map(drop)
    }

    /// Gives a partition a leader epoch above any that it had, at least `at_least`, with this node as its
    /// leader. Written as a whole PartitionRecord: that heals groups which met batches of a higher epoch.
    pub(crate) fn bump_leader_epoch(
        &self,
        id: Uuid,
        partition: PartitionId,
        at_least: LeaderEpoch,
    ) -> Result<LeaderEpoch> {
        let image = self.change(|image| {
            let old = known_partition(image, id, partition)?;
            let state = PartitionState {
                isr: vec![self.identity.node_id],
                leader: self.identity.node_id,
                leader_epoch: old.leader_epoch.saturating_add(1).max(at_least.get()),
                partition_epoch: old.partition_epoch.saturating_add(1),
                elr: Vec::new(),
                last_known_elr: Vec::new(),
                ..old.clone()
            };
            Ok(vec![MetadataRecord::Partition { topic: id, partition: partition.get(), state }])
        })?;
        known_partition(&image, id, partition).map(|state| state.leader_epoch.into())
    }

    /// Reserves producer ids that nobody else will ever get.
    pub(crate) fn allocate_producer_ids(&self, count: u32) -> Result<Range<i64>> {
        let mut ids = 0..0;
        self.change(|image| {
            let start = image.next_producer_id();
            let next = start.checked_add(i64::from(count));
            let next = next.ok_or_else(|| Error::new(ErrorKind::Unsupported, "all producer ids are used up"))?;
            ids = start..next;
            Ok(vec![MetadataRecord::ProducerIds { broker: -1, broker_epoch: -1, next }])
        })?;
        Ok(ids)
    }

    /// Writes a snapshot of the catalog as it is now and drops the part of the log that the snapshot before it
    /// covers. Happens by itself as the log grows.
    #[cfg(test)]
    pub(crate) fn snapshot(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        writer.check()?;
        self.write_snapshot(&mut writer)
    }

    /// Syncs and closes the metadata log; changes answer `Closed` from then on. A broker that was killed here is noted
    /// as stopped, or the next one would wait until its session expires.
    pub(crate) fn close(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        let fenced = match self.image().unfenced(self.identity.node_id) {
            Some(_) if writer.read_only.is_none() => self.write_change(&mut writer, Vec::new()).map(drop),
            _ => Ok(()),
        };
        let closed = writer.log.as_ref().map_or(Ok(()), Log::close);
        fenced.and(closed)
    }

    fn new_partitions(&self, topic: Uuid, numbers: Range<i32>) -> impl Iterator<Item = MetadataRecord> {
        let node = self.identity.node_id;
        let state = PartitionState {
            replicas: vec![node],
            isr: vec![node],
            leader: node,
            directories: vec![self.directory_id],
            ..PartitionState::default()
        };
        numbers.map(move |partition| MetadataRecord::Partition { topic, partition, state: state.clone() })
    }

    /// Makes one change: `plan` says which records, seeing the newest image. Answers the image after it.
    fn change(&self, plan: impl FnOnce(&Image) -> Result<Vec<MetadataRecord>>) -> Result<Arc<Image>> {
        let mut writer = self.writer.lock();
        writer.check()?;
        let records = plan(&self.image())?;
        match records.is_empty() {
            true => Ok(self.image()),
            false => self.write_change(&mut writer, records),
        }
    }

    /// Writes records as one change, behind what must come before any.
    fn write_change(&self, writer: &mut Writer, records: Vec<MetadataRecord>) -> Result<Arc<Image>> {
        self.write_prelude(writer)?;
        let image = self.image();
        let mut all = Vec::new();
        if image.in_transaction() {
            all.push(open::abandoned());
        }
        let id = self.identity.node_id;
        all.extend(image.unfenced(id).map(|epoch| MetadataRecord::RegistrationChange {
            id,
            epoch,
            change: RegistrationChange { fenced: Some(1), ..RegistrationChange::default() },
        }));
        all.extend(records);
        let place = Place { base: image.end, epoch: image.epoch, time: self.clock.now() };
        let changed = Arc::new(self.commit(writer, &image, &batches::data_batch(place, &all)?)?);
        self.image.store(Arc::clone(&changed));
        let due = writer.snapshot.map_or(0, |(_, size)| size).max(self.snapshot_bytes);
        if writer.since_snapshot >= due {
            // The change itself is safe. A snapshot that fails now is tried again at the next change; what
            // ails the log meanwhile is reported there.
            let _ = self.write_snapshot(writer);
        }
        Ok(changed)
    }

    /// Appends one batch durably; the answer is the image after it.
    fn commit(&self, writer: &mut Writer, image: &Image, batch: &RecordBatch) -> Result<Image> {
        // Read back before it is written: what cannot be applied must never reach the log.
        let mut changed = image.clone();
        batches::apply(&mut changed, batch)?;
        let log = writer.log()?;
        let appended = log.append_replica(batch)?;
        if let Err(error) = log.wait(appended.position, Durability::PowerLoss) {
            if error.is_of_shortage() || error.kind() == ErrorKind::Forked {
                // Nothing was written: a later change may succeed, or another process's.
                return Err(error);
            }
            let remedy = "mend the disk, then close the broker and open it again";
            let message = "an earlier write or sync of the catalog failed, so it takes no more changes";
            writer.read_only = Some(Error::new(ErrorKind::Poisoned, message).source(error.clone()).remedy(remedy));
            return Err(error.remedy(remedy));
        }
        writer.since_snapshot += batch.size_bytes() as u64;
        Ok(changed)
    }

    fn write_snapshot(&self, writer: &mut Writer) -> Result<()> {
        let image = self.image();
        let id = SnapshotId::of(&image);
        let previous = writer.snapshot.map(|(id, _)| id);
        if image.in_transaction() || previous == Some(id) {
            return Ok(());
        }
        let size = snapshot::write(&*self.storage, &self.dir, &image)?;
        writer.snapshot = Some((id, size));
        writer.since_snapshot = 0;
        // Segments end where snapshots do, so that the log's front can go whole.
        let log = writer.log()?;
        log.roll()?;
        match previous {
            Some(previous) => {
                log.advance_log_start(previous.end)?;
                log.run_maintenance()?;
                snapshot::remove_below(&*self.storage, &self.dir, previous.end)
            }
            None => Ok(()),
        }
    }
}

impl Writer {
    fn log(&self) -> Result<&Log> {
        self.log.as_ref().ok_or_else(|| Error::new(ErrorKind::ReadOnly, "the catalog cannot be changed"))
    }

    fn check(&self) -> Result<()> {
        match &self.read_only {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

fn check_free(image: &Image, topic: &str) -> Result<()> {
    if image.topic(topic).is_some() {
        return Err(Error::new(ErrorKind::TopicExists, format!("topic {topic} exists already")));
    }
    let key = name::collision_key(topic);
    match image.topics().find(|other| name::collision_key(&other.name) == key) {
        Some(other) => Err(Error::new(
            ErrorKind::InvalidTopicName,
            format!("topic name {topic:?} collides with topic {}: '.' and '_' count as equal", other.name),
        )),
        None => Ok(()),
    }
}

fn check_count(partitions: u32) -> Result<i32> {
    let count = i32::try_from(partitions).ok().filter(|_| (1..=PARTITIONS_MAX).contains(&partitions));
    count.ok_or_else(|| {
        let message = format!("a topic has 1 to {PARTITIONS_MAX} partitions, not {partitions}");
        Error::new(ErrorKind::InvalidArgument, message)
    })
}

fn known(image: &Image, id: Uuid) -> Result<&Arc<TopicImage>> {
    let topic = image.topic_by_id(id);
    topic.ok_or_else(|| Error::new(ErrorKind::TopicDeleted, format!("no topic has the id {id}: it was deleted")))
}

fn known_partition(image: &Image, id: Uuid, partition: PartitionId) -> Result<&PartitionState> {
    let topic = known(image, id)?;
    topic.partition(partition).ok_or_else(|| {
        let place = TopicPartition::new(Arc::clone(&topic.name), partition);
        Error::new(ErrorKind::UnknownTopicOrPartition, "the topic has no such partition").partition(place)
    })
}

/// Bytes from hexadecimal digits; white space is for the eye.
#[cfg(test)]
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

#[cfg(test)]
mod tests;

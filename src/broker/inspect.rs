//! Everything that a directory says of itself, without changing a byte of it: what stands in its catalog, where each
//! partition begins and ends, how far each group has got, and what is wrong.
//!
//! It is a read-only broker that looks at every partition once. A log is opened over an overlay of its own and
//! dropped before the next, so that what recovery makes anew of one is all that is ever held.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Broker, BrokerBuilder, Inner, TopicEntry};
use crate::error::{Error, Result};
use crate::finding::{Finding, FindingKind};
use crate::group::{CommittedOffset, GroupListing, GroupType};
use crate::log::{LogOffsets, LogRecovery, RecoveryRow};
use crate::storage::OverlayStorage;
use crate::topic;
use crate::topic::catalog::{Image, Resource};
use crate::types::{LeaderEpoch, Offset, PartitionId, ProducerId, RecoveryPolicy, TopicPartition, Uuid};

/// What a directory holds; from [`Broker::inspect`]. Its `Display` is a report for people.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The directory.
    pub dir: PathBuf,
    /// The cluster that it belongs to (`cluster.id`).
    pub cluster_id: String,
    /// The node that it belongs to (`node.id`).
    pub node_id: i32,
    /// Its own id (`directory.id`, KIP-858).
    pub directory_id: Option<Uuid>,
    /// The features that are set, with their levels, `metadata.version` among them (KIP-584).
    pub features: BTreeMap<String, i16>,
    /// Why [`Broker::open`] would not change it; `None` when it would open it for writing.
    pub read_only: Option<Error>,
    /// All topics by name, Kafka's own ones included.
    pub topics: Vec<TopicInspection>,
    /// All groups that have committed offsets or had members, by id.
    pub groups: Vec<GroupInspection>,
    /// What its owner should know, in the order found.
    pub findings: Vec<Finding>,
}

/// A topic of an [`Inspection`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopicInspection {
    /// Its name.
    pub name: String,
    /// Its id (KIP-516).
    pub id: Uuid,
    /// The configs that are set for it, by Kafka's names; all others have their defaults.
    pub configs: BTreeMap<String, String>,
    /// Its partitions by number.
    pub partitions: Vec<PartitionInspection>,
}

/// A partition of a [`TopicInspection`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionInspection {
    /// Its number.
    pub number: PartitionId,
    /// Its leader epoch in the catalog.
    pub leader_epoch: LeaderEpoch,
    /// Its log, or why that cannot be opened.
    pub log: Result<LogInspection>,
}

/// The log of a [`PartitionInspection`], as an open finds it after recovery.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogInspection {
    /// Where it begins and ends.
    pub offsets: LogOffsets,
    /// Bytes in all its segments.
    pub size_bytes: u64,
    /// How many segments it has, the one that takes appends included; none before the first append.
    pub segments: usize,
    /// The newest leader epoch that appended to it; -1 when none is known.
    pub newest_epoch: LeaderEpoch,
    /// Transactions that nobody has ended.
    pub open_transactions: Vec<OpenTransaction>,
    /// What recovery would do.
    pub recovery: LogRecovery,
}

/// A transaction that nobody has ended: read-committed readers wait below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenTransaction {
    /// Whose it is.
    pub producer_id: ProducerId,
    /// The offset of its first record in the partition.
    pub first_offset: Offset,
}

/// A group of an [`Inspection`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupInspection {
    /// The group's id (`group.id`).
    pub id: String,
    /// Under which protocol its members worked together.
    pub group_type: GroupType,
    /// What it has committed, by partition.
    pub offsets: Vec<GroupOffset>,
}

/// What a group has committed in one partition.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// How far the group has got.
    pub committed: CommittedOffset,
    /// How many offsets it has still to read, up to the high watermark; `None` when the partition is not there
    /// or cannot be opened.
    pub lag: Option<u64>,
}

impl Broker {
    /// Looks at a directory and tells what it holds, whoever wrote it and however it was left, without changing a
    /// byte of it. Every partition is opened, and recovered in memory alone, so that the findings say what an
    /// open would meet. Records of sealed segments are not read.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
    /// # let path = dir.path().join("data");
    /// use thalweg::Broker;
    /// let broker = Broker::open(&path)?;
    /// broker.topic("orders").create()?.send(("user-1", "paid"))?;
    /// broker.close()?;
    ///
    /// let found = Broker::inspect(&path)?;
    /// assert_eq!(found.features["metadata.version"], 21);
    /// let orders = &found.topics[0];
    /// assert_eq!(orders.name, "orders");
    /// assert_eq!(orders.partitions[0].log.as_ref().map(|log| log.offsets.end.get()).ok(), Some(1));
    /// assert_eq!(found.findings, []);
    /// println!("{found}");
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Locked` while a broker has the directory open for writing; otherwise as [`BrokerBuilder::open`]. A partition
    /// that cannot be opened is part of the answer.
    pub fn inspect(dir: impl AsRef<Path>) -> Result<Inspection> {
        Self::builder(dir).inspect()
    }
}

impl BrokerBuilder {
    /// [`Broker::inspect`] with these options: another storage, fewer open files.
    ///
    /// # Errors
    /// See [`Broker::inspect`].
    pub fn inspect(self) -> Result<Inspection> {
        let broker = self.read_only().manual().recovery_policy(RecoveryPolicy::Degraded).open()?;
        broker.inner.inspect(&broker)
    }
}

impl Inner {
    fn inspect(&self, broker: &Broker) -> Result<Inspection> {
        let (image, identity) = (self.catalog.image(), self.catalog.identity());
        // First: what recovery makes of their topic here is what the look at its partitions meets.
        let mut groups = self.inspect_groups(broker);
        let topics: Vec<_> = self.registry.all().iter().map(|topic| self.inspect_topic(&image, topic)).collect();
        let logs = topics.iter().flat_map(|topic| topic.partitions.iter().map(|partition| (&topic.name, partition)));
        let offsets = |(topic, found): (&String, &PartitionInspection)| {
            Some((TopicPartition::new(topic.as_str(), found.number), found.log.as_ref().ok()?.offsets))
        };
        let offsets: HashMap<_, _> = logs.filter_map(offsets).collect();
        for at in groups.iter_mut().flat_map(|group| &mut group.offsets) {
            at.lag = offsets.get(&at.partition).map(|log| {
                let next = at.committed.offset().max(log.log_start);
                u64::try_from(log.high_watermark - next).unwrap_or(0)
            });
        }
        Ok(Inspection {
            dir: self.context.root.clone(),
            cluster_id: identity.cluster_id.clone(),
            node_id: identity.node_id,
            directory_id: identity.directory_id,
            features: image.features().map(|(name, level)| (name.to_owned(), level)).collect(),
            read_only: self.catalog.read_only(),
            topics,
            groups,
            findings: self.context.findings.all(),
        })
    }

    /// What each group has committed; how far it is behind comes later. Groups that cannot be read are a finding: all
    /// else is still worth telling.
    fn inspect_groups(&self, broker: &Broker) -> Vec<GroupInspection> {
        let inspect = |group: &GroupListing| {
            let offsets = broker.committed_offsets(group.id())?.into_iter();
            let offsets = offsets.map(|(partition, committed)| GroupOffset { partition, committed, lag: None });
            Ok(GroupInspection {
                id: group.id().to_owned(),
                group_type: group.group_type(),
                offsets: offsets.collect(),
            })
        };
        let unread = |error: Error| {
            let finding = Finding::new(FindingKind::Damaged, format!("groups cannot be read: {error}"));
            self.context.findings.add(finding.path(&self.context.root));
        };
        let groups = self.readable_groups(unread).unwrap_or_else(|error| {
            unread(error);
            Vec::new()
        });
        groups.iter().filter_map(|group| inspect(group).map_err(unread).ok()).collect()
    }

    fn inspect_topic(&self, image: &Image, topic: &TopicEntry) -> TopicInspection {
        let resource = Resource::topic(&*topic.name);
        let configs = image.configs(&resource);
        let known = image.topic(&topic.name);
        let partitions = (0..).take(topic.partition_count()).map(|number: i32| {
            let number = PartitionId::new(number);
            let epoch = known.and_then(|topic| topic.partition(number)).map_or(-1, |state| state.leader_epoch);
            let log = topic.partition(number).and_then(|partition| self.inspect_log(&partition));
            PartitionInspection { number, leader_epoch: LeaderEpoch::new(epoch), log }
        });
        TopicInspection {
            name: topic.name.to_string(),
            id: topic.id,
            configs: configs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            partitions: partitions.collect(),
        }
    }

    fn inspect_log(&self, partition: &topic::Partition) -> Result<LogInspection> {
        let overlay = OverlayStorage::new(Arc::clone(&self.context.storage), Arc::clone(&self.context.clock));
        let log = partition.open_on(Arc::new(overlay), RecoveryPolicy::Degraded)?;
        let open = log.open_transactions().into_iter();
        Ok(LogInspection {
            offsets: log.offsets(),
            size_bytes: log.size_bytes(),
            segments: if log.recovery().rows.contains(&RecoveryRow::Fresh) { 0 } else { log.segment_count() },
            newest_epoch: log.leader_epoch(),
            open_transactions: open
                .map(|(first_offset, producer_id)| OpenTransaction { producer_id, first_offset })
                .collect(),
            recovery: log.recovery().clone(),
        })
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: cluster {}, node {}", self.dir.display(), self.cluster_id, self.node_id)?;
        if let Some(id) = self.directory_id {
            write!(f, ", directory {id}")?;
        }
        f.write_str("\nfeatures:")?;
        self.features.iter().try_for_each(|(name, level)| write!(f, " {name}={level}"))?;
        match &self.read_only {
            Some(why) => write!(f, "\nread-only: {why}")?,
            None => f.write_str("\nopens for reading and writing")?,
        }
        self.topics.iter().try_for_each(|topic| write!(f, "\n\n{topic}"))?;
        self.groups.iter().try_for_each(|group| write!(f, "\n\n{group}"))?;
        match &self.findings[..] {
            [] => f.write_str("\n\nnothing to report"),
            findings => {
                f.write_str("\n\nfindings:")?;
                findings.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
            }
        }
    }
}

impl fmt::Display for TopicInspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {}, id {}", self.name, self.id)?;
        self.configs.iter().try_for_each(|(name, value)| write!(f, ", {name}={value}"))?;
        let [number, epoch, start, stable, high, end, segments, bytes] =
            ["partition", "epoch", "log start", "last stable", "high watermark", "end", "segments", "bytes"];
        write!(
            f,
            "\n  {number:>9} {epoch:>6} {start:>12} {stable:>12} {high:>14} {end:>12} {segments:>8} {bytes:>14}"
        )?;
        self.partitions.iter().try_for_each(|partition| write!(f, "\n{partition}"))
    }
}

impl fmt::Display for PartitionInspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {:>9} {:>6} ", self.number.get(), self.leader_epoch.get())?;
        let log = match &self.log {
            Ok(log) => log,
            Err(error) => return write!(f, "{error}"),
        };
        let LogOffsets { log_start, last_stable, high_watermark, end, .. } = log.offsets;
        let [start, stable, high, end] = [log_start, last_stable, high_watermark, end].map(Offset::get);
        write!(f, "{start:>12} {stable:>12} {high:>14} {end:>12} {:>8} {:>14}", log.segments, log.size_bytes)?;
        log.open_transactions.iter().try_for_each(|open| {
            let OpenTransaction { producer_id, first_offset } = open;
            write!(f, "\n            producer {producer_id} has a transaction open from offset {first_offset}")
        })
    }
}

impl fmt::Display for GroupInspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {}, {}", self.id, self.group_type)?;
        self.offsets.iter().try_for_each(|at| {
            write!(f, "\n  {} at offset {}", at.partition, at.committed.offset())?;
            match at.lag {
                Some(lag) => write!(f, ", {lag} behind"),
                None => f.write_str(", in a partition that is not there to read"),
            }
        })
    }
}

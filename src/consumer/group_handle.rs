//! The group as seen from outside: its consumers, its offsets, its lag.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::builder::ConsumerBuilder;
use super::poll::NO_GENERATION;
use super::position;
use super::subscription::{Topics, Wish};
use crate::broker::Broker;
use crate::error::{Error, ErrorKind, Result};
use crate::group::{CommittedOffset, GroupDescription, OffsetCommit};
use crate::topic::ReadFrom;
use crate::types::{Isolation, Offset, TopicPartition};

/// A consumer group: readers that share the work, and how far they have got (`group.id`).
///
/// Cheap to clone. The group comes into being with its first member or its first commit.
///
/// ```
/// use std::time::Duration;
/// use thalweg::{Broker, Start};
/// let broker = Broker::in_memory()?;
/// let orders = broker.topic("orders").open_or_create()?;
/// orders.send(("user-1", "paid"))?;
///
/// let billing = broker.consumer_group("billing");
/// let mut consumer = billing.consumer(["orders"]).join()?;
/// assert_eq!(consumer.poll(Duration::from_secs(1))?.len(), 1);
/// assert_eq!(billing.lag()?.total(), 1);
/// consumer.commit()?;
/// assert_eq!(billing.lag()?.total(), 0);
///
/// consumer.close()?;
/// billing.reset(["orders"], Start::Earliest)?;
/// assert_eq!(billing.lag()?.total(), 1);
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConsumerGroup {
    broker: Broker,
    id: Arc<str>,
}

impl Broker {
    /// The consumer group of this id. Nothing is created before it is used.
    #[must_use]
    pub fn consumer_group(&self, id: impl Into<Arc<str>>) -> ConsumerGroup {
        ConsumerGroup { broker: self.clone(), id: id.into() }
    }
}

impl ConsumerGroup {
    /// The group's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Prepares a member that reads its share of `topics`. A topic may come into being later; a name
    /// that no topic can have is reported by [`ConsumerBuilder::join`].
    pub fn consumer<T: AsRef<str>>(&self, topics: impl IntoIterator<Item = T>) -> ConsumerBuilder {
        self.builder(Topics::named(topics).map(Wish::Topics))
    }

    /// Prepares a member that reads its share of all topics whose whole name matches the regular
    /// expression `pattern`. A bad pattern is reported by [`ConsumerBuilder::join`].
    pub fn consumer_matching(&self, pattern: &str) -> ConsumerBuilder {
        self.builder(Topics::matching(pattern).map(Wish::Topics))
    }

    /// Prepares a consumer of exactly these partitions, which is no member of the group but uses its
    /// committed offsets. Without partitions it reads nothing until it is told what.
    pub fn consumer_of(&self, partitions: impl IntoIterator<Item = TopicPartition>) -> ConsumerBuilder {
        let partitions: BTreeSet<_> = partitions.into_iter().collect();
        self.builder(Ok(if partitions.is_empty() { Wish::Nothing } else { Wish::Partitions(partitions) }))
    }

    fn builder(&self, wish: Result<Wish>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.broker.clone(), Arc::clone(&self.id), wish)
    }

    /// What the group has committed in `partition`.
    ///
    /// # Errors
    /// When the broker is closed.
    pub fn committed(&self, partition: &TopicPartition) -> Result<Option<CommittedOffset>> {
        self.broker.committed_offset(&self.id, partition)
    }

    /// Everything that the group has committed.
    ///
    /// # Errors
    /// When the broker is closed.
    pub fn all_committed(&self) -> Result<BTreeMap<TopicPartition, CommittedOffset>> {
        Ok(self.broker.committed_offsets(&self.id)?.into_iter().collect())
    }

    /// The group's state and members. A group that does not exist is described as
    /// [`GroupState::Dead`](crate::GroupState::Dead).
    ///
    /// # Errors
    /// When the broker is closed.
    pub fn describe(&self) -> Result<GroupDescription> {
        self.broker.describe_group(&self.id)
    }

    /// How far the group is behind, in all partitions that it has committed or that a member
    /// subscribes to. Exact at the moment of the call: offsets between what was committed and the
    /// high watermark; where nothing was committed, all from the log start on. Offsets of
    /// transaction markers count until a commit has passed them.
    ///
    /// # Errors
    /// When the broker is closed or a log cannot be opened.
    pub fn lag(&self) -> Result<GroupLag> {
        let description = self.describe()?;
        let committed = self.all_committed()?;
        let mut partitions: BTreeSet<_> = committed.keys().cloned().collect();
        let mut readers = BTreeMap::new();
        for member in description.members() {
            readers.extend(member.assignment().iter().map(|tp| (tp.clone(), member.id().to_owned())));
            for topic in member.topics() {
                let count = self.broker.partition_count(topic).unwrap_or_default();
                partitions.extend((0..count).map(|number| TopicPartition::new(topic.as_str(), number)));
            }
        }
        let lag_of = |tp: TopicPartition| match self.broker.partition(&tp) {
            Err(e) if matches!(e.kind(), ErrorKind::UnknownTopicOrPartition | ErrorKind::Absent) => None,
            Err(e) => Some(Err(e)),
            Ok(partition) => Some(partition.offsets().map(|offsets| PartitionLag {
                committed: committed.get(&tp).map(CommittedOffset::offset),
                start: offsets.log_start,
                end: offsets.high_watermark,
                member: readers.remove(&tp),
                partition: tp,
            })),
        };
        Ok(GroupLag { partitions: partitions.into_iter().filter_map(lag_of).collect::<Result<_>>()? })
    }

    /// Moves the group to another place in all partitions of `topics`, by committing there.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotEmpty`] while the group has members,
    /// [`ErrorKind::UnknownTopicOrPartition`] for a topic that does not exist, and
    /// [`ErrorKind::OffsetOutOfRange`] for an offset outside one of the logs. Nothing changes then.
    pub fn reset<T: AsRef<str>>(&self, topics: impl IntoIterator<Item = T>, to: impl Into<ReadFrom>) -> Result<()> {
        let to = to.into();
        let mut commits = Vec::new();
        for topic in topics {
            let topic: Arc<str> = topic.as_ref().into();
            let count = self.broker.partition_count(&topic).ok_or_else(|| {
                Error::new(ErrorKind::UnknownTopicOrPartition, format!("no topic {topic:?} to reset the group in"))
            })?;
            for number in 0..count {
                let partition = TopicPartition::new(Arc::clone(&topic), number);
                let handle = self.broker.partition(&partition)?;
                let topic_id = Some(handle.topic_id());
                let offset = position::seek(&handle, to, Isolation::ReadUncommitted)?;
                commits.push(OffsetCommit { partition, topic_id, offset, leader_epoch: None, metadata: String::new() });
            }
        }
        self.broker.commit_offsets(&self.id, "", NO_GENERATION, &commits).map_err(|e| {
            if e.kind() != ErrorKind::UnknownMember {
                return e;
            }
            Error::new(ErrorKind::GroupNotEmpty, format!("group {:?} has members", self.id))
                .remedy("close its consumers before a reset")
        })
    }

    /// Forgets what the group has committed in `partitions`.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotEmpty`] while a member subscribes to one of the topics,
    /// [`ErrorKind::UnknownGroup`] if there is no such group.
    pub fn delete_offsets(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.broker.delete_group_offsets(&self.id, partitions)
    }

    /// Deletes the group and all that it has committed.
    ///
    /// # Errors
    /// [`ErrorKind::GroupNotEmpty`] while it has members, [`ErrorKind::UnknownGroup`] if there is no
    /// such group.
    pub fn delete(&self) -> Result<()> {
        self.broker.delete_group(&self.id)
    }
}

/// How far a group is behind, partition by partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLag {
    partitions: Vec<PartitionLag>,
}

impl GroupLag {
    /// The offsets still to be read in all partitions together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.partitions.iter().map(PartitionLag::lag).sum()
    }

    /// Each partition, in order.
    #[must_use]
    pub fn partitions(&self) -> &[PartitionLag] {
        &self.partitions
    }
}

/// How far a group is behind in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionLag {
    partition: TopicPartition,
    committed: Option<Offset>,
    start: Offset,
    end: Offset,
    member: Option<String>,
}

impl PartitionLag {
    /// Which partition.
    #[must_use]
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The next offset that the group wants, if it has committed one.
    #[must_use]
    pub fn committed(&self) -> Option<Offset> {
        self.committed
    }

    /// The first offset that can be read.
    #[must_use]
    pub fn start(&self) -> Offset {
        self.start
    }

    /// The high watermark: the offset of the next record that will become visible.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The id of the member that reads it.
    #[must_use]
    pub fn member(&self) -> Option<&str> {
        self.member.as_deref()
    }

    /// The offsets still to be read.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let next = self.committed.map_or(self.start, |committed| committed.max(self.start));
        u64::try_from(self.end - next).unwrap_or_default()
    }
}

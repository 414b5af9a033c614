//! All that is known of one group, and what a record of `__consumer_offsets` makes of it. The rules are
//! those by which a stock broker replays the log: the last value of a key wins, a tombstone removes, and
//! an offset that a transaction committed counts from where it was written.
//!
//! A record that cannot be understood changes nothing but what its key alone says.

use std::collections::{BTreeMap, BTreeSet};

use super::key::{self, GroupType, Key};
use super::offsets::{self, CommittedOffset, GroupMetadata};
use super::state::Group;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Offset, ProducerId, TopicPartition, Uuid};

/// What is known of a key's newest value.
#[derive(Debug)]
pub(super) enum Latest<T> {
    Deleted,
    /// There is one; it is not understood.
    Unreadable,
    Is(T),
}

impl<T> Latest<T> {
    /// A value that cannot be decoded is told as the error beside it.
    fn decode(value: Option<&[u8]>, decode: impl FnOnce(&[u8]) -> Result<T>) -> (Self, Option<Error>) {
        match value.map(decode) {
            None => (Self::Deleted, None),
            Some(Ok(value)) => (Self::Is(value), None),
            Some(Err(error)) => (Self::Unreadable, Some(error)),
        }
    }
}

/// One record, understood as far as it can be.
#[derive(Debug)]
pub(super) enum Change {
    Offset { partition: TopicPartition, committed: Latest<CommittedOffset> },
    Classic(Latest<GroupMetadata>),
    Typed { key: Vec<u8>, group_type: GroupType, epoch: Option<i32>, deleted: bool },
}

impl Change {
    /// The group that a record is about and what it says of it; `None` for a record that is passed over.
    /// Beside it, what of the record could not be understood.
    pub(super) fn decode(key: &[u8], value: Option<&[u8]>) -> (Option<(String, Self)>, Option<Error>) {
        match Key::decode(key) {
            Ok(Key::Offset { group, partition }) => {
                let (committed, error) = Latest::decode(value, CommittedOffset::decode);
                (Some((group, Self::Offset { partition, committed })), error)
            }
            Ok(Key::Group { group }) => {
                let (metadata, error) = Latest::decode(value, GroupMetadata::decode);
                (Some((group, Self::Classic(metadata))), error)
            }
            Ok(Key::Typed { group, group_type, is_epoch }) => {
                let epoch = value.filter(|_| is_epoch).map(offsets::consumer_group_epoch).transpose();
                let (epoch, error) = epoch.map_or_else(|error| (None, Some(error)), |epoch| (epoch, None));
                (Some((group, Self::Typed { key: key.to_vec(), group_type, epoch, deleted: value.is_none() })), error)
            }
            Ok(Key::Passed) => (None, None),
            Ok(Key::Unknown(key_type)) => {
                let message = format!("a record of type {key_type}, which this release does not know");
                (None, Some(Error::new(ErrorKind::Unsupported, message)))
            }
            Err(error) => (None, Some(error)),
        }
    }

    /// Notes the topic of an offset that was committed by this process.
    pub(super) fn in_topic(self, id: Option<Uuid>) -> Self {
        match self {
            Self::Offset { partition, committed: Latest::Is(committed) } => {
                Self::Offset { partition, committed: Latest::Is(committed.in_topic(id)) }
            }
            other => other,
        }
    }
}

/// A committed offset and where in the log it was written.
type Written = (Offset, CommittedOffset);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) group: Group,
    pub(super) offsets: BTreeMap<TopicPartition, Written>,
    /// Committed inside transactions that are still open; seen by nobody.
    pub(super) pending: BTreeMap<TopicPartition, BTreeMap<ProducerId, Written>>,
    /// The log holds a classic group's record.
    pub(super) classic: bool,
    /// Keys that the log holds of a group of another type.
    typed: BTreeMap<Vec<u8>, GroupType>,
}

impl Entry {
    pub(super) fn new(id: &str) -> Self {
        Self {
            group: Group::new(id),
            offsets: BTreeMap::new(),
            pending: BTreeMap::new(),
            classic: false,
            typed: BTreeMap::new(),
        }
    }

    /// Whether there is such a group. As in Kafka, one of which only open transactions know is one.
    pub(super) fn exists(&self) -> bool {
        let has_offsets = !self.offsets.is_empty() || !self.pending.is_empty();
        has_offsets || self.classic || !self.typed.is_empty() || !self.group.is_vacant()
    }

    pub(super) fn group_type(&self) -> GroupType {
        self.typed.values().max().copied().unwrap_or(GroupType::Classic)
    }

    /// As in Kafka, the word that clients of the group's type use; empty where nobody ever joined.
    pub(super) fn protocol_type(&self) -> &str {
        match self.group_type() {
            GroupType::Classic => self.group.protocol_type(),
            GroupType::Consumer => "consumer",
            GroupType::Share => "share",
            GroupType::Streams => "streams",
        }
    }

    /// What has to be deleted of a group of another type before a classic one takes its name, and to
    /// delete the group.
    pub(super) fn typed_keys_to_delete(&self) -> Vec<Vec<u8>> {
        key::keys_to_delete(self.typed.keys())
    }

    /// Every partition for which the log may hold an offset.
    pub(super) fn partitions(&self) -> impl Iterator<Item = &TopicPartition> {
        self.offsets.keys().chain(self.pending.keys())
    }

    /// A tombstone was appended: from now on its key is not to be deleted again. A second tombstone behind
    /// a classic group's record would stop a stock broker that replays the log.
    pub(super) fn forget_typed(&mut self, key: &[u8]) {
        self.typed.remove(key);
    }

    /// An offset in an open transaction.
    pub(super) fn hold_back(&mut self, producer: ProducerId, partition: TopicPartition, written: Written) {
        self.pending.entry(partition).or_default().insert(producer, written);
    }

    /// Ends what `producer` holds back for `partitions`.
    pub(super) fn end_transaction(&mut self, producer: ProducerId, partitions: BTreeSet<TopicPartition>, keep: bool) {
        for partition in partitions {
            let Some(of_producers) = self.pending.get_mut(&partition) else { continue };
            let ended = of_producers.remove(&producer);
            if of_producers.is_empty() {
                self.pending.remove(&partition);
            }
            if let Some(written) = ended.filter(|_| keep) {
                self.set_offset(partition, written);
            }
        }
    }

    fn set_offset(&mut self, partition: TopicPartition, written: Written) {
        if self.offsets.get(&partition).is_none_or(|(at, _)| *at < written.0) {
            self.offsets.insert(partition, written);
        }
    }

    /// Takes in a record that was written at `offset`.
    pub(super) fn apply(&mut self, offset: Offset, change: Change) {
        match change {
            Change::Offset { partition, committed: Latest::Is(committed) } => {
                self.set_offset(partition, (offset, committed));
            }
            Change::Offset { partition, committed: Latest::Deleted } => {
                self.offsets.remove(&partition);
                self.pending.remove(&partition);
            }
            Change::Offset { committed: Latest::Unreadable, .. } => {}
            Change::Classic(latest) => {
                self.classic = !matches!(latest, Latest::Deleted);
                match latest {
                    Latest::Deleted => self.group.forget(),
                    Latest::Unreadable => {}
                    Latest::Is(metadata) => self.group.restore(&metadata),
                }
            }
            Change::Typed { key, group_type, epoch, deleted: false } => {
                self.typed.insert(key, group_type);
                if let Some(epoch) = epoch {
                    self.group.continue_from(epoch);
                }
            }
            Change::Typed { key, deleted: true, .. } => {
                self.typed.remove(&key);
                if self.typed.is_empty() && !self.classic {
                    self.group.forget();
                }
            }
        }
    }
}

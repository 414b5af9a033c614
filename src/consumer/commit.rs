//! Committing, and moving within, the partitions that a consumer holds.

use super::handed::{HandedOut, sealed::Handed};
use super::membership::Held;
use super::poll::{Consumer, NO_GENERATION, Reading};
use super::position;
use crate::error::{Error, ErrorKind, Result};
use crate::group::OffsetCommit;
use crate::topic::ReadFrom;
use crate::types::{LeaderEpoch, Offset, TopicPartition};

impl Consumer {
    /// Commits the positions of all partitions that it holds: every record handed out so far counts
    /// as handled. Blocks until the commit is durable; without anything new it returns at once.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalGeneration`] or [`ErrorKind::UnknownMember`] when the partitions went to
    /// other members meanwhile, who may get these records again; poll to go on.
    pub fn commit(&mut self) -> Result<()> {
        let due = self.held.iter().filter(|(tp, h)| h.committed != Some(h.cursor.position()) && self.is_current(tp));
        let commits: Vec<_> = due.map(|(tp, h)| commit(tp, h, h.cursor.position(), h.cursor.epoch())).collect();
        self.send(&commits)
    }

    /// Commits one partition up to and with `record`; of this partition, everything before it
    /// counts as handled as well. Blocks until the commit is durable. The record may be one that could not be read as
    /// its type.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalGeneration`] when the partition went to another member after the record
    /// was handed out, [`ErrorKind::TopicDeleted`] when its topic is gone,
    /// [`ErrorKind::InvalidArgument`] for what was decoded of a record that no poll handed out or that was taken out of its
    /// [`Records`](crate::Records), and those of [`Consumer::commit`].
    pub fn commit_through(&mut self, record: &impl HandedOut) -> Result<()> {
        let Handed { partition, offset, epoch, generation } = record.handed()?;
        let tp = &partition;
        let held = self.held.get(tp).filter(|held| held.cursor.since() == generation);
        let Some(held) = held else {
            let message = "the partition was given to another reader after this record was handed out";
            return Err(Error::new(ErrorKind::IllegalGeneration, message)
                .partition(tp.clone())
                .offset(offset)
                .remedy("leave it to the other reader, who gets the record again"));
        };
        if !self.is_current(tp) {
            return Err(Error::new(ErrorKind::TopicDeleted, "the topic was deleted").partition(tp.clone()));
        }
        self.send(&[commit(tp, held, offset.next(), epoch)])
    }

    fn send(&mut self, commits: &[OffsetCommit]) -> Result<()> {
        if commits.is_empty() {
            return Ok(());
        }
        let (member, generation) = match &self.reading {
            Reading::Member(member) => (member.id.as_str(), member.generation),
            Reading::Nothing | Reading::ByHand => ("", NO_GENERATION),
        };
        self.broker.commit_offsets(&self.group, member, generation, commits)?;
        for commit in commits {
            if let Some(held) = self.held.get_mut(&commit.partition) {
                held.committed = Some(commit.offset);
            }
        }
        Ok(())
    }

    /// Whether the topic that it reads under this name still is the topic of this name.
    fn is_current(&self, tp: &TopicPartition) -> bool {
        let now = self.broker.partition(tp).map(|p| p.topic_id());
        self.held.get(tp).is_some_and(|h| now.is_ok_and(|id| id == h.partition.topic_id()))
    }

    /// Continues elsewhere in a partition that it holds. What it has committed does not change.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when it does not hold the partition; a member gets its
    /// partitions in a poll. [`ErrorKind::OffsetOutOfRange`] when the offset lies outside the log.
    pub fn seek(&mut self, partition: &TopicPartition, to: impl Into<ReadFrom>) -> Result<()> {
        if self.held.is_empty() && self.unplaced.is_empty() {
            self.keep_membership()?;
        }
        if let Some(held) = self.held.get_mut(partition) {
            let offset = position::seek(&held.partition, to.into(), self.settings.isolation)?;
            held.cursor.seek(offset);
            return Ok(());
        }
        let Some(since) = self.unplaced.get(partition).copied() else {
            return Err(Error::new(ErrorKind::InvalidArgument, "the consumer does not hold this partition")
                .partition(partition.clone())
                .remedy("poll until it is assigned, or assign it by hand"));
        };
        let handle = self.broker.partition(partition)?;
        let offset = position::seek(&handle, to.into(), self.settings.isolation)?;
        self.place(handle, since, offset, None);
        Ok(())
    }

    /// The offset of the next record that it hands out of `partition`; `None` if it does not hold the
    /// partition or has not looked for a position yet.
    #[must_use]
    pub fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        self.held.get(partition).map(|held| held.cursor.position())
    }

    /// The partitions that it holds. A member gets them in a poll; during a rebalance these are the
    /// ones of before.
    #[must_use]
    pub fn assignment(&self) -> Vec<TopicPartition> {
        let mut held: Vec<_> = self.held.keys().chain(self.unplaced.keys()).cloned().collect();
        held.sort();
        held
    }

    /// The id under which the group knows it; `None` if it is no member.
    #[must_use]
    pub fn member(&self) -> Option<&str> {
        self.member_id()
    }
}

fn commit(at: &TopicPartition, held: &Held, offset: Offset, leader_epoch: Option<LeaderEpoch>) -> OffsetCommit {
    let topic_id = Some(held.partition.topic_id());
    OffsetCommit { partition: at.clone(), topic_id, offset, leader_epoch, metadata: String::new() }
}

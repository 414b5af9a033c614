//! The broker's group verbs: each feeds the pure coordinator and carries out its effects, which are
//! appends to `__consumer_offsets` and wake-ups.

use std::sync::Arc;

use super::Broker;
use crate::error::Result;
use crate::group::{CommittedOffset, GroupDescription, GroupListing, JoinRequest, Membership, OffsetCommit};
use crate::log::Signal;
use crate::types::{TopicPartition, Uuid};

/// Who commits: a member of the generation that it last saw, or nobody in particular (allowed while the
/// group has no members).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Committer<'a> {
    Member { member: &'a str, generation: i32 },
    Outside,
}

impl Broker {
    /// Notified whenever some group's members should look again.
    pub(crate) fn group_signal(&self) -> &Arc<Signal> {
        todo!()
    }

    pub(crate) fn join_group(&self, _group: &str, _request: JoinRequest) -> Result<()> {
        todo!()
    }

    /// A member's look at its group; counts as its heartbeat.
    pub(crate) fn check_in(&self, _group: &str, _member: &str) -> Result<Membership> {
        todo!()
    }

    pub(crate) fn leave_group(&self, _group: &str, _member: &str) -> Result<()> {
        todo!()
    }

    /// Commits durably (at the level of `__consumer_offsets`), all or nothing.
    pub(crate) fn commit_offsets(
        &self,
        _group: &str,
        _by: Committer<'_>,
        _offsets: &[(TopicPartition, OffsetCommit)],
    ) -> Result<()> {
        todo!()
    }

    /// The committed offset of a topic's partition; a topic of another id than the one committed for does
    /// not count.
    pub(crate) fn committed_offset(
        &self,
        _group: &str,
        _partition: &TopicPartition,
        _topic_id: Uuid,
    ) -> Result<Option<CommittedOffset>> {
        todo!()
    }

    pub(crate) fn committed_offsets(&self, _group: &str) -> Result<Vec<(TopicPartition, CommittedOffset)>> {
        todo!()
    }

    pub(crate) fn list_groups(&self) -> Result<Vec<GroupListing>> {
        todo!()
    }

    pub(crate) fn describe_group(&self, _group: &str) -> Result<GroupDescription> {
        todo!()
    }

    /// Forgets an empty group and its offsets.
    pub(crate) fn delete_group(&self, _group: &str) -> Result<()> {
        todo!()
    }
}

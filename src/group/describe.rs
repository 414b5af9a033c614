//! What tools show of groups: plain facts, copied out of the coordinator at one moment.

use super::key::GroupType;
use super::state::{Generation, GroupState};
use crate::types::TopicPartition;

/// A group in a list of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    pub(super) id: String,
    pub(super) group_type: GroupType,
    pub(super) state: GroupState,
    pub(super) protocol_type: String,
}

impl GroupListing {
    /// The group's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the group is doing.
    #[must_use]
    pub fn state(&self) -> GroupState {
        self.state
    }

    /// Under which protocol its members work together (`group.type`).
    #[must_use]
    pub fn group_type(&self) -> GroupType {
        self.group_type
    }

    /// `consumer` for a group that has had members, `share` and `streams` for groups of those types;
    /// empty for one that only committed offsets.
    #[must_use]
    pub fn protocol_type(&self) -> &str {
        &self.protocol_type
    }

    /// Whether the group only committed offsets and never had members, what Kafka's tools call simple.
    #[must_use]
    pub fn is_simple(&self) -> bool {
        self.group_type == GroupType::Classic && self.protocol_type.is_empty()
    }
}

/// A group and its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    pub(super) id: String,
    pub(super) group_type: GroupType,
    pub(super) state: GroupState,
    pub(super) generation: Generation,
    pub(super) assignor: Option<String>,
    pub(super) members: Vec<MemberDescription>,
}

impl GroupDescription {
    /// The group's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Under which protocol its members work together; [`GroupType::Classic`] if there is no such group.
    #[must_use]
    pub fn group_type(&self) -> GroupType {
        self.group_type
    }

    /// What the group is doing; [`GroupState::Dead`] if there is no such group.
    #[must_use]
    pub fn state(&self) -> GroupState {
        self.state
    }

    /// Counts the assignments that the group has had. For a group of the newer consumer protocol that nobody
    /// has joined here yet, its group epoch.
    #[must_use]
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// The name of the assignor that the members agreed on.
    #[must_use]
    pub fn assignor(&self) -> Option<&str> {
        self.assignor.as_deref()
    }

    /// The members, by member id.
    #[must_use]
    pub fn members(&self) -> &[MemberDescription] {
        &self.members
    }
}

/// A member of a group and what it was given to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    pub(super) id: String,
    pub(super) client_id: String,
    pub(super) topics: Vec<String>,
    pub(super) assignment: Vec<TopicPartition>,
}

impl MemberDescription {
    /// The member id, unique in the group.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name that the member gave itself (`client.id`).
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The topics that it subscribes to.
    #[must_use]
    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    /// The partitions that it reads. While the group rebalances, those of before.
    #[must_use]
    pub fn assignment(&self) -> &[TopicPartition] {
        &self.assignment
    }

    /// Whether it has nothing to read, because there are more members than partitions.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.assignment.is_empty()
    }
}

//! Floor 6: consumer groups. Who belongs to a group, which member reads which partition, and how far
//! each group has read. Everything here is pure: no I/O, no threads, no clock. Time and partition
//! counts are arguments, changes leave as records for the broker to write.

mod assignor;
mod coordinator;
mod describe;
mod entry;
mod key;
mod offsets;
mod state;
#[cfg(test)]
mod vectors;

pub use assignor::{Assignor, GroupMember, RangeAssignor, RoundRobinAssignor};
pub use describe::{GroupDescription, GroupListing, MemberDescription};
pub use key::GroupType;
pub use offsets::CommittedOffset;
pub use state::GroupState;

pub(crate) use coordinator::{
    Effects, GroupCoordinator, LogAppend, Misplaced, OffsetCommit, Presence, Unread, partition_for_group,
};
pub(crate) use state::{Context, Generation, JoinRequest, Membership};

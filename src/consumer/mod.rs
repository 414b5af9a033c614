//! Floor 8: reading with a group. A [`ConsumerGroup`] names who reads, a [`Consumer`] is one member:
//! it keeps its membership, its positions and what it fetched, and hands out records. Which member
//! reads what, and what a commit may do, is decided by the group (floor 6) behind the broker's verbs.
//!
//! Invariants: a position moves only when records are handed out, and never past one that was not;
//! a consumer reads and commits only partitions that it holds; Drop commits nothing and never blocks.

mod builder;
mod commit;
mod cursor;
mod group_handle;
mod handed;
mod membership;
mod poll;
#[cfg(feature = "async")]
mod poll_async;
mod position;
mod records;
mod subscription;
#[cfg(test)]
mod tests;

pub use builder::ConsumerBuilder;
pub(crate) use handed::sealed;

pub use group_handle::{ConsumerGroup, GroupLag, PartitionLag};
pub use handed::HandedOut;
pub use poll::{Consumer, ConsumerWaker};
pub use records::{ConsumerRecord, Records, RecordsIntoIter, RecordsIter};

//! Floor 5: what a topic is. Names, configs and the catalog that remembers them; partitions, which are
//! logs with an identity; readers that need no group.

mod budget;
pub(crate) mod catalog;
mod checkpoint;
pub(crate) mod config;
mod keys;
pub(crate) mod name;
mod partition;
pub(crate) mod properties;
mod reader;
mod record;
#[cfg(feature = "async")]
mod stream;

pub use budget::OnFull;
pub use config::{CleanupPolicy, ConfigEntry, ConfigSource, TopicConfig};
pub use reader::{Scan, Tail, TailWaker};
pub(crate) use record::owned_headers;
pub use record::{OwnedRecord, ReadFrom};
#[cfg(feature = "async")]
pub use stream::TailStream;

pub(crate) use budget::Budgets;
pub(crate) use checkpoint::{Checkpoint, Checkpoints};
pub(crate) use keys::{Condition, KeyIndexes};
pub(crate) use partition::{Attempt, Partition, PartitionContext, PartitionHost, Passed, Urgency};
pub(crate) use reader::PartitionSource;

#![doc = include_str!("../README.md")]

mod clock;
mod error;
mod record;
mod storage;
mod topic;
mod types;
mod wire;

pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{Error, ErrorKind, Result};
pub use storage::{DirEntry, DiskStorage, EntryKind, File, Lock, Map, MemoryStorage, Metadata, OpenMode, Storage};
pub use types::{
    Durability, Isolation, LeaderEpoch, Offset, PartitionId, ProducerId, Start, Timestamp, TopicPartition, Uuid,
};

#![doc = include_str!("../README.md")]

mod clock;
pub mod docs;
mod error;
mod index;
mod log;
mod record;
mod segment;
mod storage;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing;
mod types;
mod wire;

pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{Error, ErrorKind, Result};
pub use log::{
    Appended, Committed, Log, LogConfig, LogOffsets, LogPosition, LogRead, LogRecovery, OffsetAtTime, RecoveryRow,
};
pub use record::{
    BatchBuilder, BatchHeader, Codec, Compression, ControlType, DecodedBatch, EndMarker, Header, Headers, IntoPayload,
    Record, RecordBatch, RecordIter, RecordRef, TimestampType, TxnOutcome,
};
#[cfg(feature = "testing")]
pub use storage::storage_conformance;
pub use storage::{DirEntry, DiskStorage, EntryKind, File, Lock, Map, MemoryStorage, Metadata, OpenMode, Storage};
pub use types::{
    Durability, Isolation, LeaderEpoch, Offset, PartitionId, ProducerId, Start, Timestamp, TopicPartition, Uuid,
};

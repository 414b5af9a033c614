#![doc = include_str!("../README.md")]
//!
//! The pages that the table names are here as well: [`docs`], and first of all [`docs::graduate`]. To see what is in a
//! directory: [`Broker::inspect`]. What opening one does after a crash, or with a bad disk: [`docs::recovery`].

mod broker;
mod clock;
mod consumer;
pub mod docs;
mod error;
mod finding;
mod group;
mod index;
mod log;
mod metrics;
mod mutants;
mod producer;
mod record;
mod segment;
mod storage;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod topic;
mod typed;
mod types;
mod wire;

pub use broker::{Broker, BrokerBuilder, Partition, Topic, TopicBuilder, TopicRef};
pub use broker::{
    GroupInspection, GroupOffset, Inspection, LogInspection, OpenTransaction, PartitionInspection, TopicInspection,
};
pub use broker::{LastClose, PartitionRecovery, RecoveryReport};
pub use clock::{Clock, ManualClock, SystemClock};
pub use consumer::{
    Consumer, ConsumerBuilder, ConsumerGroup, ConsumerRecord, ConsumerWaker, GroupLag, HandedOut, PartitionLag,
    Records, RecordsIntoIter, RecordsIter,
};
pub use error::{Error, ErrorKind, Result};
pub use finding::{Finding, FindingKind};
pub use group::{
    Assignor, CommittedOffset, GroupDescription, GroupListing, GroupMember, GroupState, GroupType, MemberDescription,
    RangeAssignor, RoundRobinAssignor,
};
pub use log::{
    Appended, Committed, ExpectedEnd, Log, LogConfig, LogOffsets, LogPosition, LogRead, LogRecovery, OffsetAtTime,
    RecoveryRow,
};
pub use metrics::{Latencies, Metrics, ProducerMetrics, SyncMetrics};
pub use producer::{Partitioner, Producer, ProducerBuilder, RecordMetadata, Ticket, partition_for_key};
pub use record::{
    BatchBuilder, BatchHeader, BatchPool, Codec, Compression, ControlType, DecodedBatch, EndMarker, Header, Headers,
    IntoPayload, Record, RecordBatch, RecordIter, RecordRef, TimestampType, TxnOutcome,
};
#[cfg(feature = "testing")]
pub use storage::storage_conformance;
pub use storage::{DirEntry, DiskStorage, EntryKind, File, Lock, Map, MemoryStorage, Metadata, OpenMode, Storage};
#[cfg(feature = "async")]
pub use topic::TailStream;
pub use topic::{
    CleanupPolicy, ConfigEntry, ConfigSource, OnFull, OwnedRecord, ReadFrom, Scan, Tail, TailWaker, TopicConfig,
};
#[cfg(feature = "json")]
pub use typed::Json;
pub use typed::{
    Deserializer, Nullable, Plain, RawRecord, ReadRecord, RecordField, RecordPart, Serializer, TypedData, TypedRecord,
    TypedRecords, TypedTopic, Undecoded,
};
pub use types::{
    Durability, Isolation, LeaderEpoch, Offset, PartitionId, ProducerId, ReadMode, RecoveryPolicy, Start, Timestamp,
    TopicPartition, Uuid, Verify,
};

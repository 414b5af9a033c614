//! What a log answers: where appends ended, which offsets bound it, which record a time names.

use crate::metrics::Metrics;
use crate::storage::HaltingStorage;
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// Where an append ended in the log: what [`Log::wait`](super::Log::wait) waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Above all, the newer era is the later position.
    pub(super) era: u64,
    pub(super) end: Offset,
}

/// The answer to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// Offset of the batch's first record.
    pub base_offset: Offset,
    /// Offset of the batch's last record.
    pub last_offset: Offset,
    /// The time of the append, where the log stamps records with it (`message.timestamp.type=LogAppendTime`), or
    /// the time stored with the first copy of a duplicate.
    pub append_time: Option<Timestamp>,
    /// What to wait for.
    pub position: LogPosition,
}

/// The offsets that bound a log. Always `log_start <= last_stable <= high_watermark <= end` and `frontier <= end`;
/// the high watermark never passes the frontier on a log whose level is [`Durability::PowerLoss`](crate::types::Durability::PowerLoss),
/// where it was raised to that from the next sync on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogOffsets {
    /// First offset that can be read.
    pub log_start: Offset,
    /// First offset that a read-committed reader may not see yet.
    pub last_stable: Offset,
    /// First offset that no reader may see yet.
    pub high_watermark: Offset,
    /// First offset that loss of power may take away.
    pub frontier: Offset,
    /// The offset of the next append.
    pub end: Offset,
}

impl super::Log {
    /// How the disk is doing, in numbers since the log was opened.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.halting.as_ref().map(HaltingStorage::metrics).unwrap_or_default()
    }
}

/// A record found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffsetAtTime {
    /// The record's offset.
    pub offset: Offset,
    /// The record's timestamp.
    pub timestamp: Timestamp,
    /// The leader epoch of its batch.
    pub leader_epoch: LeaderEpoch,
}

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

impl LogPosition {
    /// Changes whenever something of what was appended before may have been taken back.
    pub(crate) fn era(self) -> u64 {
        self.era
    }
}

/// Where an append expects the log to end; see [`Log::append_if`](super::Log::append_if).
///
/// Made from an [`Offset`], or from the [position](Appended::position) of the append that it follows:
///
/// ```
/// use thalweg::{ExpectedEnd, Offset};
/// assert_eq!(ExpectedEnd::from(5), ExpectedEnd::Offset(Offset::new(5)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpectedEnd {
    /// The next append gets this offset.
    Offset(Offset),
    /// The same, and nothing before it was taken back since.
    Position(LogPosition),
}

impl From<Offset> for ExpectedEnd {
    fn from(offset: Offset) -> Self {
        Self::Offset(offset)
    }
}

impl From<i64> for ExpectedEnd {
    fn from(offset: i64) -> Self {
        Self::Offset(offset.into())
    }
}

impl From<LogPosition> for ExpectedEnd {
    fn from(position: LogPosition) -> Self {
        Self::Position(position)
    }
}

impl LogPosition {
    pub(crate) fn end(self) -> Offset {
        self.end
    }

    /// Whether all before it is before `later`, too: nothing was taken back in between.
    pub(crate) fn is_followed_by(self, later: Self) -> bool {
        self.era == later.era && self.end <= later.end
    }
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

//! One partition's log: a chain of segments with one writer and any number of readers.
//!
//! Owns offset assignment, visibility (which offsets readers may see), recovery, producer state and
//! leader epochs. Starts no thread: whoever waits does the work, or `sync` and `run_maintenance` do.

mod config;
mod checkpoint;
mod epochs;
mod producers;
mod state;
mod transactions;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Clock;
use crate::error::Result;
use crate::record::{Record, RecordBatch};
use crate::storage::Storage;
use crate::types::{Durability, Isolation, LeaderEpoch, Offset, Timestamp, TopicPartition, Uuid};

pub use config::LogConfig;

/// What a log is handed when it is part of something larger than itself.
pub(crate) struct LogContext {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) partition: TopicPartition,
    /// Written to `partition.metadata` before the first append; `None` for the metadata log.
    pub(crate) topic_id: Option<Uuid>,
    /// The log's place in the state file; `None` keeps no private state (the metadata log).
    pub(crate) slot: Option<Arc<state::StateSlot>>,
    /// Changes with every boot of the machine.
    pub(crate) boot_id: [u8; 16],
}

/// One partition's log.
pub struct Log {}

/// Where an append ended in the log: what [`Log::wait`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    pub(crate) end: Offset,
    pub(crate) era: u64,
}

/// The answer to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// Offset of the batch's first record.
    pub base_offset: Offset,
    /// Offset of the batch's last record.
    pub last_offset: Offset,
    /// The time of the append, where the log stamps records with it (`LogAppendTime`), or the
    /// time stored with the first copy of a duplicate.
    pub append_time: Option<Timestamp>,
    /// What to wait for.
    pub position: LogPosition,
}

/// The offsets that bound a log, always in this order: `log_start <= last_stable <= high_watermark
/// <= end`, and `frontier <= end`.
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

/// Whole batches read from a log.
#[derive(Clone, Debug)]
pub struct LogRead {}

impl LogRead {
    /// All batches, control batches and those of aborted transactions included, as stored. The first
    /// may begin before the offset that was asked for.
    pub fn batches(&self) -> impl Iterator<Item = RecordBatch> + '_ {
        std::iter::empty()
    }

    /// The batches that an application should see: no control batches and, under
    /// `Isolation::ReadCommitted`, none of aborted transactions.
    pub fn data_batches(&self) -> impl Iterator<Item = RecordBatch> + '_ {
        std::iter::empty()
    }

    /// The raw bytes of all batches.
    pub fn bytes(&self) -> &Bytes {
        todo!()
    }

    /// Where the next read continues.
    pub fn next_offset(&self) -> Offset {
        todo!()
    }

    /// The log's offsets at the time of the read.
    pub fn offsets(&self) -> LogOffsets {
        todo!()
    }
}

/// Resolves when an append has reached its level.
pub struct Committed {}

impl Future for Committed {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        todo!()
    }
}

/// Counts events and wakes those who wait for the next one; one can watch any number of logs.
#[derive(Debug, Default)]
pub(crate) struct Signal {}

impl Signal {
    /// The number of events so far. Read it before looking at what the events announce.
    pub(crate) fn count(&self) -> u64 {
        todo!()
    }

    /// Waits until there were more than `seen` events; `false` when the time ran out first.
    pub(crate) fn wait_past(&self, _seen: u64, _timeout: Option<Duration>) -> bool {
        todo!()
    }

    /// Announces an event.
    pub(crate) fn notify(&self) {
        todo!()
    }
}

impl Log {
    /// Opens or creates a log that stands alone in its own directory.
    pub fn open(_dir: impl AsRef<Path>, _config: LogConfig) -> Result<Log> {
        todo!()
    }

    pub(crate) fn open_in(_context: LogContext, _dir: &Path, _config: LogConfig) -> Result<Log> {
        todo!()
    }

    /// Appends one batch as its leader: validates it, assigns its offsets, stages it and returns at once.
    pub fn append(&self, _batch: &RecordBatch, _epoch: LeaderEpoch) -> Result<Appended> {
        todo!()
    }

    /// Appends records as one batch in the log's newest epoch.
    pub fn append_records<R: Into<Record>>(&self, _records: impl IntoIterator<Item = R>) -> Result<Appended> {
        todo!()
    }

    /// Appends a batch as its leader wrote it, offsets and epoch untouched; its base offset must not lie
    /// below the log end.
    pub fn append_replica(&self, _batch: &RecordBatch) -> Result<Appended> {
        todo!()
    }

    /// Blocks until an append has reached `level`; the waiting thread may do the writing and syncing for
    /// all who wait.
    pub fn wait(&self, _position: LogPosition, _level: Durability) -> Result<()> {
        todo!()
    }

    /// A future of the same; it never writes or syncs on the thread that polls it: somebody must call
    /// [`Log::sync`], wait or run maintenance.
    pub fn committed(&self, _position: LogPosition, _level: Durability) -> Committed {
        todo!()
    }

    /// Reads whole batches from the one that holds `offset`, about `max_bytes` of them and at least one;
    /// empty at the visible end.
    pub fn read(&self, _offset: Offset, _max_bytes: usize, _isolation: Isolation) -> Result<LogRead> {
        todo!()
    }

    /// The first record, in offset order, whose timestamp is at least `time`.
    pub fn offset_at(&self, _time: Timestamp, _isolation: Isolation) -> Result<Option<OffsetAtTime>> {
        todo!()
    }

    /// The log's offsets now.
    pub fn offsets(&self) -> LogOffsets {
        todo!()
    }

    /// The newest leader epoch in the log, -1 when it holds none.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        todo!()
    }

    /// The answer to OffsetForLeaderEpoch (KIP-101).
    pub fn end_offset_for_epoch(&self, _epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        todo!()
    }

    /// Waits until something can be read at `offset`; `false` when the time ran out.
    pub fn wait_readable(&self, _offset: Offset, _isolation: Isolation, _timeout: Duration) -> Result<bool> {
        todo!()
    }

    /// Has `signal` notified whenever more becomes readable, the log start moves, or the log closes.
    pub(crate) fn watch(&self, _signal: &Arc<Signal>) {
        todo!()
    }

    /// Cuts the log back so that `to` is the next offset.
    pub fn truncate(&self, _to: Offset) -> Result<()> {
        todo!()
    }

    /// Makes everything below `to` unreadable, durably, and removes segments that lie wholly below.
    pub fn advance_log_start(&self, _to: Offset) -> Result<()> {
        todo!()
    }

    /// Starts a new segment at the log end.
    pub fn roll(&self) -> Result<()> {
        todo!()
    }

    /// Writes and syncs all that was appended before the call.
    pub fn sync(&self) -> Result<()> {
        todo!()
    }

    /// Applies a changed configuration.
    pub fn configure(&self, _config: LogConfig) {
        todo!()
    }

    /// Whether recovery could not exclude that acknowledged or visible offsets were lost, so that the
    /// next append needs a higher leader epoch than any before.
    pub(crate) fn needs_new_epoch(&self) -> bool {
        todo!()
    }

    /// Where the log is known to be sound and synced, for `recovery-point-offset-checkpoint`.
    pub(crate) fn recovery_point(&self) -> Offset {
        todo!()
    }

    /// Bytes in all segments.
    pub fn size_bytes(&self) -> u64 {
        todo!()
    }

    /// Syncs and closes the log; later calls answer `Closed`.
    pub fn close(&self) -> Result<()> {
        todo!()
    }
}

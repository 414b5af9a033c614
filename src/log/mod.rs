//! One partition's log: a chain of segments with one writer and any number of readers.
//!
//! Owns offset assignment, visibility (which offsets readers may see), recovery, producer state and
//! leader epochs. Starts no thread: whoever waits does the work, or `sync` and `run_maintenance` do.
//! Lock order: writer, then appender; readers take neither.

mod alone;
mod append;
mod aside;
mod audit;
mod checkpoint;
mod commit;
mod committed;
mod config;
#[cfg(test)]
mod derived_tests;
mod epochs;
mod marks;
mod meter;
mod notes;
mod offsets;
mod poison;
mod producers;
mod read;
mod recover;
mod refuse;
mod reopen;
mod report;
mod reserved;
mod scan;
mod settle;
mod signal;
mod state;
mod swaps;
#[cfg(test)]
mod tests;
mod transactions;
mod trim;
mod undo;
mod verdict;
mod waiters;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::clock::{Clock, SteadyTime, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::Findings;
use crate::record::{BatchBuilder, Record, RecordBatch};
use crate::segment::{BufferPool, IndexSizes, Segment, SegmentHome};
use crate::storage::{DiskStorage, File, HaltingStorage, Lock, ReservedStorage, Storage, SyncNotes};
use crate::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::types::{Durability, Isolation, LeaderEpoch, Offset, ProducerId, Timestamp, TopicPartition, Uuid};

use append::{Appender, Seal, Staged};
pub(crate) use append::{COPY_BYTES_MAX, Terms};
use audit::Doubts;
use commit::Writer;
use marks::Marks;
use undo::Cuts;
use waiters::Waiters;

pub(crate) use crate::segment::is_seal;
pub(crate) use checkpoint::{
    LEADER_EPOCHS, PARTITION_METADATA, decode_epochs, decode_offsets, decode_partition_metadata, encode_offsets,
    encode_partition_metadata,
};
pub use committed::Committed;
pub use config::LogConfig;
pub(crate) use epochs::EpochCache;
pub(crate) use meter::{Meter, Sum};
pub use offsets::{Appended, ExpectedEnd, LogOffsets, LogPosition, OffsetAtTime};
#[cfg(any(test, feature = "testing"))]
pub(crate) use producers::ProducerStates;
pub use read::LogRead;
pub(crate) use refuse::{look_first, refused};
pub use report::{LogRecovery, RecoveryRow};
use reserved::{Covered, Reserved};
pub(crate) use signal::{Quiet, Signal, wake_all};
pub(crate) use state::{SlotState, StateFile, StateSlot};
pub(crate) use trim::Oldest;

/// Staged bytes that nobody waits for are written by the append that passes this many.
const STAGED_BYTES_MAX: usize = 4 << 20;

/// What a log is handed when it is part of something larger than itself.
#[derive(Clone, Debug)]
pub(crate) struct LogContext {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    /// By which records and producers age.
    pub(crate) time: Arc<SteadyTime>,
    /// Where what is found while opening and reading is told.
    pub(crate) findings: Arc<Findings>,
    pub(crate) buffers: BufferPool,
    pub(crate) partition: TopicPartition,
    /// Written to `partition.metadata` before the first append; `None` for the metadata log.
    pub(crate) topic_id: Option<Uuid>,
    /// The log's place in the state file; `None` keeps no private state (the metadata log).
    pub(crate) slot: Option<Arc<StateSlot>>,
    /// Changes with every boot of the machine.
    pub(crate) boot_id: [u8; 16],
    /// Where Kafka's own checkpoints put the log start and the recovery point; zero when they do not say. A log
    /// start beyond the end is ignored, but where no slot is kept: there the log begins anew at it.
    pub(crate) log_start: Offset,
    pub(crate) recovery_point: Offset,
    /// What else Kafka's files say, for a log of which no slot speaks.
    pub(crate) outside: Outside,
    /// Counts the log's bytes, staged ones included.
    pub(crate) meter: Arc<Meter>,
    /// What of it may not be on the disk.
    pub(crate) syncs: Arc<SyncNotes>,
}

/// What Kafka's own files say of a log's end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outside {
    pub(crate) high_watermark: Offset,
    /// A stock broker closed the directory in order: all bytes were written whole.
    pub(crate) clean: bool,
    /// From here on a sync that failed in this boot may have left bytes to the cache alone. A state slot says so itself.
    pub(crate) doubted: Option<Offset>,
}

/// One partition's log, alone in its directory or as part of a [`Broker`](crate::Broker).
///
/// An append has two steps: [`append`](Self::append) validates a batch, assigns its offsets and returns at once;
/// [`wait`](Self::wait) blocks until it is as durable as asked. Many waiting threads share one write and one sync.
///
/// ```
/// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
/// use thalweg::{Durability, Log, LogConfig};
/// let log = Log::open(dir.path().join("events-0"), LogConfig::default())?;
/// let appended = log.append_records([("user-1", "signed up"), ("user-2", "signed up")])?;
/// log.wait(appended.position, Durability::PowerLoss)?;
/// assert_eq!(appended.last_offset, 1);
/// assert_eq!(log.offsets().high_watermark, 2);
/// log.close()?;
/// # Ok::<(), thalweg::Error>(())
/// ```
pub struct Log {
    /// Another one after each [`reopen`](Self::reopen).
    inner: ArcSwap<Inner>,
    /// Held while another one takes over what was left in the last, and by who leaves something there.
    succession: Mutex<()>,
    /// Held by a log that stands alone.
    lock: Mutex<Option<Box<dyn Lock>>>,
    /// The same.
    reserve: Option<ReservedStorage>,
    halting: Option<HaltingStorage>,
}

struct Inner {
    context: LogContext,
    home: SegmentHome,
    config: ArcSwap<LogConfig>,
    marks: Marks,
    appender: Mutex<Appender>,
    writer: Mutex<Writer>,
    segments: ArcSwap<Vec<Arc<Segment>>>,
    /// Dropped segments whose files wait for their last reader.
    graveyard: Mutex<Vec<Arc<Segment>>>,
    /// Held while the state slot is written: a note must not overtake a newer one. What any note says from now on...
    reserved: Mutex<Reserved>,
    /// ...and what a durable one does. Changed under `reserved`.
    covered: Covered,
    /// A truncation is under way, for the state slot.
    truncating: AtomicBool,
    /// Counts how often the end went back; what went then is in `cuts`.
    era: AtomicU64,
    cuts: Mutex<Cuts>,
    /// Offsets below were acknowledged, if only from memory.
    told: AtomicI64,
    /// The log holds or held batches of producers: the last stable offset needs a look.
    transactional: AtomicBool,
    doubts: Doubts,
    signal: Signal,
    waiters: Waiters<(LogPosition, Durability)>,
    watchers: Mutex<Vec<Weak<Signal>>>,
    watched: AtomicUsize,
    /// Set under the append lock: nothing more is staged.
    closing: AtomicBool,
    closed: AtomicBool,
    failure: Mutex<Option<Error>>,
    failed: AtomicBool,
    /// There is something for maintenance to do that rolls wait for.
    wants_tending: AtomicBool,
    /// What the state slot says of unsynced bytes.
    unsynced_max: AtomicU32,
    /// What failed was a sync: what is cached above the frontier may not be on the disk.
    in_doubt: AtomicBool,
    /// How many syncs of the whole storage had failed when this log last looked whether one was its own.
    failures_seen: AtomicU64,
    /// The log goes on in another one of these, which has the state slot. Set under `reserved`.
    replaced: AtomicBool,
    /// Producer snapshots that were written and not synced: through another handle a sync might not be told what was lost.
    snapshots: Mutex<BTreeMap<Offset, Arc<dyn File>>>,
    /// Of the segments from here on none is left to be sealed for want of being read. Held by who does that.
    unsealed_below: Mutex<Offset>,
    /// Held while the file of the segment to come is made; before the writer lock.
    preparing: Mutex<()>,
    /// The appender's epochs, for readers.
    epochs: ArcSwap<EpochCache>,
    epochs_proven: bool,
    /// Offsets of segments that are gone.
    missing: ArcSwap<Vec<Range<Offset>>>,
    report: LogRecovery,
    /// No leader appends below: 0, or above all epochs before where offsets were left out.
    lowest_epoch: AtomicI32,
}

impl Log {
    /// Opens the log in `dir`, or creates it there, standing alone: `dir` also gets a `.lock`, the log's private
    /// state, `log.state`, a note of what is being synced, `thalweg.syncs`, and a little space to be in order when the disk
    /// is full, `thalweg.reserve`, all ignored by Kafka. The parent of `dir` must exist.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when another handle or process has it open; [`ErrorKind::Io`] with the path when the
    /// disk refuses; [`ErrorKind::Unsupported`] when a newer release wrote its state; [`ErrorKind::Corrupt`] when that is
    /// damaged, or by [`LogConfig::recovery_policy`].
    pub fn open(dir: impl AsRef<Path>, config: LogConfig) -> Result<Log> {
        Self::open_on(Arc::new(DiskStorage), Arc::new(SystemClock::new()), dir, config)
    }

    /// As [`Log::open`], on a storage and with a clock of the caller's choice.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_on(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        dir: impl AsRef<Path>,
        config: LogConfig,
    ) -> Result<Log> {
        Self::open_through(storage, |noted| noted, clock, dir.as_ref(), config)
    }

    /// Opens a log as part of something larger. The directory is made at the first append.
    pub(crate) fn open_in(context: LogContext, dir: &Path, config: LogConfig) -> Result<Log> {
        let inner = Inner::open(context, dir, config)?;
        Ok(Log {
            inner: ArcSwap::from_pointee(inner),
            succession: Mutex::default(),
            lock: Mutex::new(None),
            reserve: None,
            halting: None,
        })
    }

    fn inner(&self) -> arc_swap::Guard<Arc<Inner>> {
        self.inner.load()
    }

    /// Appends one batch as its leader in leader epoch `epoch`: validates it, assigns the next offsets, stages it
    /// and returns at once. An idempotent producer's duplicate gets the first copy's offsets and is not appended.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] (`max.message.bytes`, `segment.bytes`), [`ErrorKind::InvalidRecord`],
    /// [`ErrorKind::InvalidTimestamp`], [`ErrorKind::OutOfOrderSequence`], [`ErrorKind::ProducerFenced`],
    /// [`ErrorKind::InvalidTxnState`], [`ErrorKind::FencedLeaderEpoch`] when the log has seen a newer epoch,
    /// [`ErrorKind::Poisoned`] after a failed write or sync, [`ErrorKind::Closed`]. Nothing was appended then. A disk
    /// that is full shows later, to those who [`wait`](Self::wait).
    pub fn append(&self, batch: &RecordBatch, epoch: LeaderEpoch) -> Result<Appended> {
        self.append_on(Terms::default(), batch, epoch)
    }

    /// Appends records as one batch in the log's newest epoch; records without a timestamp get the clock's.
    ///
    /// # Errors
    /// As [`Log::append`]; [`ErrorKind::InvalidArgument`] when there is no record.
    pub fn append_records<R: Into<Record>>(&self, records: impl IntoIterator<Item = R>) -> Result<Appended> {
        let batch = BatchBuilder::of(records, self.inner().context.clock.now())?;
        self.append(&batch, self.leader_epoch().max(self.lowest_epoch()))
    }

    /// Appends a batch as its leader wrote it, offsets and epoch untouched (a follower's append); its base offset
    /// must not lie below the log end.
    ///
    /// # Errors
    /// As [`Log::append`], without the checks that are the leader's.
    pub fn append_replica(&self, batch: &RecordBatch) -> Result<Appended> {
        self.inner().append_replica(batch)
    }

    /// Blocks until an append has reached `level`; the calling thread may do the writing and syncing for all who
    /// wait. Where `level` is below the log's own, the records are acknowledged but not visible before a sync.
    ///
    /// # Errors
    /// [`ErrorKind::StorageFull`] when there was no space to write it, [`ErrorKind::TooManyOpenFiles`] when there was no
    /// file descriptor left for it: it was taken back with all that was appended
    /// behind it, nothing of it will ever be seen, and a later append may succeed. [`ErrorKind::Indeterminate`] when a
    /// sync failed: the append may or may not survive. [`ErrorKind::Io`] when it could not be written.
    /// [`ErrorKind::Closed`] when the log closed first.
    pub fn wait(&self, position: LogPosition, level: Durability) -> Result<()> {
        self.inner().wait(position, level)
    }

    /// The same as a future. It never writes or syncs on the thread that polls it: somebody must [`wait`](Self::wait),
    /// [`sync`](Self::sync) or run maintenance. Dropping it takes nothing back.
    pub fn committed(&self, position: LogPosition, level: Durability) -> Committed {
        Committed { inner: Arc::clone(&self.inner()), position, level }
    }

    /// Whether an append has reached `level`, without waiting, writing or syncing. Below the level that survives loss of
    /// power somebody must have noted first that its offsets are taken: who waits does, for many appends at once.
    ///
    /// # Errors
    /// As [`Log::wait`].
    pub fn is_committed(&self, position: LogPosition, level: Durability) -> Result<bool> {
        self.inner().is_known_at(position, level)
    }

    /// Reads whole batches from the one that holds `offset` on: about `max_bytes` of them, at least one. Empty at the
    /// end of what `isolation` may see. Checksums are verified on every read, unless [`Verify::Once`](crate::Verify) was asked for.
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] below the log start or beyond the end, naming the nearest good offset;
    /// [`ErrorKind::Corrupt`] with the offset when the bytes are damaged.
    pub fn read(&self, offset: impl Into<Offset>, max_bytes: usize, isolation: Isolation) -> Result<LogRead> {
        self.inner().read(offset.into(), max_bytes, isolation)
    }

    /// The first record in offset order whose timestamp is at least `time`, among those that `isolation` may see
    /// (ListOffsets).
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Corrupt`].
    pub fn offset_at(&self, time: impl Into<Timestamp>, isolation: Isolation) -> Result<Option<OffsetAtTime>> {
        self.inner().offset_at(time.into(), isolation)
    }

    /// The log's offsets now.
    #[must_use]
    pub fn offsets(&self) -> LogOffsets {
        self.inner().offsets()
    }

    /// The newest leader epoch in the log, -1 when it knows none.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.inner().appender.lock().epochs.latest().unwrap_or(LeaderEpoch::new(-1))
    }

    /// Where `epoch`, or the newest one below it, ended: the answer to OffsetForLeaderEpoch (KIP-101). `None` when
    /// nothing is known of it.
    #[must_use]
    pub fn end_offset_for_epoch(&self, epoch: impl Into<LeaderEpoch>) -> Option<(LeaderEpoch, Offset)> {
        let inner = self.inner();
        let appender = inner.appender.lock();
        appender.epochs.end_offset_for(epoch.into(), appender.end)
    }

    /// Waits until something can be read at `offset`; `false` when the time ran out first.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`], also when the log closes meanwhile.
    pub fn wait_readable(&self, offset: impl Into<Offset>, isolation: Isolation, timeout: Duration) -> Result<bool> {
        let offset = offset.into();
        let clock = Arc::clone(&self.inner().context.clock);
        let deadline = clock.monotonic().saturating_add(timeout);
        loop {
            let inner = self.inner.load_full();
            let seen = inner.signal.count();
            if !Arc::ptr_eq(&inner, &self.inner()) {
                continue;
            }
            inner.check_open()?;
            if read::visible(inner.offsets(), isolation) > offset {
                return Ok(true);
            }
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return Ok(false);
            }
            inner.signal.wait_past(seen, Some(left));
        }
    }

    /// Cuts the log back so that it ends at `to`; a batch that holds `to` goes whole, and the log then ends where
    /// that batch began.
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] for a negative offset, [`ErrorKind::Corrupt`] inside of damage: nothing was
    /// changed. [`ErrorKind::Io`] when the disk refuses; the log is poisoned where it was half cut. What was appended
    /// before is synced first: as [`Log::sync`]. Above the end there is nothing to do.
    pub fn truncate(&self, to: impl Into<Offset>) -> Result<()> {
        self.inner().truncate(to.into())
    }

    /// Makes everything below `to` unreadable, durably, and removes segments that lie wholly below once their last
    /// reader is done (DeleteRecords).
    ///
    /// # Errors
    /// [`ErrorKind::OffsetOutOfRange`] above the high watermark; [`ErrorKind::Io`].
    pub fn advance_log_start(&self, to: impl Into<Offset>) -> Result<()> {
        self.inner().advance_log_start(to.into())
    }

    /// Deletes the oldest segments as `retention.bytes` and `retention.ms` say: while the log stays at least `bytes`
    /// long without them, and while their newest record is older than `age`. `None` is "unlimited".
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Corrupt`].
    pub fn apply_retention(&self, age: Option<Duration>, bytes: Option<u64>) -> Result<()> {
        self.inner().retain(age, bytes)
    }

    /// What could be deleted first, of all that was counted before the call.
    pub(crate) fn oldest(&self) -> Result<Oldest> {
        self.inner().oldest()
    }

    /// Deletes the oldest segment; the active one is ended first where it is the only one.
    pub(crate) fn drop_oldest(&self) -> Result<()> {
        self.inner().drop_oldest()
    }

    /// Begins a segment so that all before can go; needs no space.
    pub(crate) fn roll_to_delete(&self) -> Result<()> {
        self.inner().roll_to_delete()
    }

    /// Starts a new segment at the log end, unless the active one is empty.
    ///
    /// # Errors
    /// As [`Log::sync`].
    pub fn roll(&self) -> Result<()> {
        self.inner().roll()
    }

    /// Writes and syncs all that was appended before the call.
    ///
    /// # Errors
    /// [`ErrorKind::StorageFull`] or [`ErrorKind::TooManyOpenFiles`] when there is no room for what was appended, which is then taken back; see
    /// [`wait`](Self::wait). [`ErrorKind::Indeterminate`] when a sync fails, [`ErrorKind::Io`] when a write does; the
    /// log is poisoned then. [`ErrorKind::Poisoned`], [`ErrorKind::Closed`].
    pub fn sync(&self) -> Result<()> {
        self.inner().sync_now()
    }

    /// Why the log takes no appends, after a write or sync of it failed; `None` where none did. Until it is
    /// [reopened](Self::reopen) what is durable can be read, and nothing above.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.inner().failure()
    }

    /// Whether a sync would make anything durable.
    #[must_use]
    pub fn has_unsynced(&self) -> bool {
        self.inner().marks.frontier() < self.inner().marks.end()
    }

    /// The work that waits for nobody: syncs what was appended, completes segments that ended, raises the recovery
    /// point, notes how far the log is durable, prepares the next segment, removes the files of deleted ones. Cheap when there is nothing to do; where
    /// nobody calls it, some appends do more of this themselves. While another thread is at it, it only syncs.
    ///
    /// # Errors
    /// As [`Log::sync`].
    pub fn run_maintenance(&self) -> Result<()> {
        let done = self.maintain().and(self.seal_next().map(drop));
        let inner = self.inner();
        done.and(inner.heed(inner.context.slot.as_ref().map_or(Ok(()), |slot| slot.sync())))
    }

    /// The same without a sync of what was noted.
    pub(crate) fn maintain(&self) -> Result<()> {
        let synced = if self.has_unsynced() { self.sync() } else { Ok(()) };
        synced.and(self.tend())
    }

    /// The same without a sync of what is still being appended to.
    pub(crate) fn tend(&self) -> Result<()> {
        let tended = self.inner().tend();
        self.reserve.iter().for_each(ReservedStorage::fill);
        tended
    }

    /// Seals one segment that another program ended; see `Inner::seal_next`.
    pub(crate) fn seal_next(&self) -> Result<bool> {
        self.inner().seal_next()
    }

    /// Whether appends would wait less after [`tend`](Self::tend); asked once for each cause.
    pub(crate) fn wants_tending(&self) -> bool {
        let inner = self.inner();
        let wants = &inner.wants_tending;
        wants.load(Ordering::Acquire) && wants.swap(false, Ordering::AcqRel)
    }

    /// What the last opening of the log found and did, be it a [`reopen`](Self::reopen).
    #[must_use]
    pub fn recovery(&self) -> LogRecovery {
        self.inner().report.clone()
    }

    /// No leader may append in an epoch below. It is above all epochs in the log after offsets were left out because
    /// they may be known outside, so that clients learn of the cut.
    pub(crate) fn lowest_epoch(&self) -> LeaderEpoch {
        self.inner().lowest_epoch()
    }

    /// Up to where the log is known to be sound and synced (`recovery-point-offset-checkpoint`).
    pub(crate) fn recovery_point(&self) -> Offset {
        self.inner().marks.recovery_point()
    }

    /// Base offset of the first segment, if it has a file: Kafka checkpoints a log start only when it lies above.
    pub(crate) fn first_file(&self) -> Option<Offset> {
        self.inner().segments.load().first().filter(|first| first.has_file()).map(|first| first.base())
    }

    /// How many segments there are, the active one included.
    pub(crate) fn segment_count(&self) -> usize {
        self.inner().segments.load().len()
    }

    /// The transactions that nobody has ended, by the offset of their first batch.
    pub(crate) fn open_transactions(&self) -> Vec<(Offset, ProducerId)> {
        self.inner().appender.lock().producers.transactions().open().collect()
    }

    /// Bytes in all segments, as written.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.inner().segments.load().iter().map(|segment| segment.written()).sum()
    }

    /// Syncs everything, completes the files as Kafka expects them after a clean stop, and closes; later calls
    /// answer [`ErrorKind::Closed`], a second close does nothing. Readers that were already handed bytes keep them.
    ///
    /// # Errors
    /// As [`Log::sync`]; the log is closed all the same.
    pub fn close(&self) -> Result<()> {
        let mut lock = self.lock.lock();
        let closed = self.inner().close();
        if let Some(lock) = lock.take() {
            // What is noted of a failure is for this boot, and a sync that fails might take it from the cache.
            let slot = self.inner().context.slot.clone().filter(|_| closed.is_ok());
            let synced = slot.map_or(Ok(()), |slot| slot.sync());
            drop(lock);
            return closed.and(synced);
        }
        closed
    }
}

/// What the segments of the log in `dir` share.
fn home(context: &LogContext, dir: &Path, config: &LogConfig) -> SegmentHome {
    SegmentHome {
        dir: dir.into(),
        storage: Arc::clone(&context.storage),
        buffers: context.buffers.clone(),
        compacted: config.compacted,
        read_mode: config.read_mode,
        verify: config.verify,
        findings: Arc::clone(&context.findings),
        partition: context.partition.clone(),
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("dir", &self.inner().home.dir).field("offsets", &self.offsets()).finish()
    }
}

impl Inner {
    /// Recovers what is in the directory.
    fn open(context: LogContext, dir: &Path, config: LogConfig) -> Result<Self> {
        // What it refuses is left as it was.
        let has_metadata = recover::check_topic_id(&context, dir, config.recovery_policy)?;
        let opened = Self::recover(context.clone(), dir, config, has_metadata);
        opened.inspect_err(|error| poison::note_failed_opening(&context, error))
    }

    fn recover(context: LogContext, dir: &Path, config: LogConfig, has_metadata: bool) -> Result<Self> {
        let home = home(&context, dir, &config);
        let failures = context.syncs.failures();
        let found = recover::recover(&context, &home, &config, context.slot.as_deref())?;
        let marks = Marks::default();
        marks.reset(found.log_start, found.end);
        marks.set_recovery_point(found.points.recovery);
        marks.set_noted(found.points.noted);
        let (wall, is_right) = (context.clock.now(), context.time.look().1);
        let active = match found.segments.last() {
            Some(active) => Arc::clone(active),
            None => return Err(Error::new(ErrorKind::Corrupt, "recovery left no segment").path(dir)),
        };
        let slot = context.slot.as_ref().and_then(|slot| slot.load()).filter(|slot| !slot.unknown);
        // All that is there is synced: what a note says of it holds for what comes.
        let limit = if config.durability == Durability::PowerLoss { config.max_unsynced_bytes.max(1) } else { 0 };
        let unsynced_max = slot.map_or(limit, |slot| slot.unsynced_max);
        // A power cut may have taken all batches of an epoch, and the list of epochs with them.
        let noted_epoch = slot.map(|slot| slot.leader_epoch);
        let newest_epoch = found.epochs.latest().max(noted_epoch).unwrap_or(LeaderEpoch::new(-1));
        let left_out = found.report.rows.contains(&RecoveryRow::Reserved);
        let lowest_epoch = match left_out {
            true => LeaderEpoch::new(newest_epoch.max(found.noted_epoch).get().saturating_add(1)),
            false => newest_epoch.max(LeaderEpoch::new(0)),
        };
        let epochs = ArcSwap::from_pointee(found.epochs.clone());
        let mut sealed = found.scanned;
        sealed.retain(|segment| segment.base() != active.base());
        let appender = Appender {
            end: found.end,
            size: active.written(),
            first_timestamp: None,
            started: context.clock.monotonic(),
            wall,
            is_right,
            jitter: Duration::ZERO,
            active,
            epochs: found.epochs,
            producers: found.producers,
            staged: Staged { epochs_changed: !found.clean, left_out, ..Staged::default() },
        };
        let writer = Writer {
            has_dir: found.has_dir && has_metadata,
            // Whoever made a directory without a segment may have gone before its name was durable.
            new_dir: found.report.rows.contains(&RecoveryRow::Fresh),
            changed: !found.clean,
            unnoted: found.report.scanned_bytes,
            sealed: sealed.into_iter().map(Seal::written).collect(),
            ..Writer::default()
        };
        let stable = appender.producers.transactions().last_stable_offset(found.end).max(found.log_start);
        marks.set_last_stable(stable);
        let inner = Inner {
            context,
            home,
            config: ArcSwap::from_pointee(config),
            marks,
            doubts: Doubts::of(&found.segments, found.end),
            appender: Mutex::new(appender),
            writer: Mutex::new(writer),
            segments: ArcSwap::from_pointee(found.segments),
            graveyard: Mutex::new(Vec::new()),
            covered: Covered::by(found.reserved),
            reserved: Mutex::new(found.reserved),
            truncating: AtomicBool::new(false),
            era: AtomicU64::new(0),
            cuts: Mutex::default(),
            told: AtomicI64::new(0),
            transactional: AtomicBool::new(found.transactional),
            signal: Signal::default(),
            waiters: Waiters::default(),
            watchers: Mutex::new(Vec::new()),
            watched: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
            wants_tending: AtomicBool::new(false),
            unsynced_max: AtomicU32::new(unsynced_max),
            in_doubt: AtomicBool::new(false),
            failures_seen: AtomicU64::new(failures),
            replaced: AtomicBool::new(false),
            snapshots: Mutex::default(),
            unsealed_below: Mutex::new(Offset::new(i64::MAX)),
            preparing: Mutex::default(),
            lowest_epoch: AtomicI32::new(lowest_epoch.get()),
            epochs,
            epochs_proven: found.epochs_proven,
            missing: ArcSwap::from_pointee(found.missing),
            report: found.report,
        };
        inner.appender.lock().jitter = inner.jitter();
        inner.recount(&inner.appender.lock());
        if !found.clean {
            inner.settle_epochs()?;
            inner.note_recovered()?;
            inner.keep_slot()?;
            if let Some(slot) = inner.context.slot.as_ref().filter(|_| found.must_note) {
                // What spoke of offsets left out may have been cut off, and what is appended is not to be truncated.
                slot.sync()?;
            }
        }
        Ok(inner)
    }

    fn error(&self, kind: ErrorKind, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        Error::new(kind, message).partition(self.context.partition.clone())
    }

    /// Adds the partition to an error from below.
    fn place(&self, error: Error) -> Error {
        error.partition(self.context.partition.clone())
    }

    fn lowest_epoch(&self) -> LeaderEpoch {
        LeaderEpoch::new(self.lowest_epoch.load(Ordering::Acquire))
    }

    fn era(&self) -> u64 {
        self.era.load(Ordering::Acquire)
    }

    fn notify(&self) {
        self.signal.notify();
        self.notify_watchers();
    }

    fn notify_watchers(&self) {
        if self.watched.load(Ordering::Acquire) > 0 {
            let _quiet = Quiet::new();
            for watcher in self.watchers.lock().iter().filter_map(Weak::upgrade) {
                watcher.notify();
            }
        }
    }

    fn index_sizes(&self) -> IndexSizes {
        let config = self.config.load();
        IndexSizes { interval: config.index_interval_bytes, max: config.segment_index_bytes }
    }
}

//! One partition: a log that opens when it is first touched, and what the catalog knows about it
//! (topic id, leader epoch, settings).
//!
//! The high-watermark rule is the log's, chosen by the topic's durability. Not here: records, offsets
//! of groups, what a topic is. Invariants: no append carries an epoch above the catalog's; after
//! `delete` or `close` no call reaches the log.

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use super::budget::{self, Budget, Budgets};
use super::checkpoint::Checkpoint;
use super::config::{CleanupPolicy, TopicSettings};
use super::keys::{KeyIndex, KeyIndexes};

use crate::clock::{Clock, SteadyTime};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::Findings;
use crate::log::{
    Committed, Log, LogConfig, LogContext, LogOffsets, LogPosition, LogRead, LogRecovery, Meter, OffsetAtTime, Oldest,
    Outside, Signal, StateSlot, look_first,
};
use crate::segment::{BufferPool, FileKind};
use crate::storage::{Storage, SyncNotes};
use crate::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use crate::types::{
    Durability, Isolation, LeaderEpoch, Offset, ReadMode, RecoveryPolicy, Timestamp, TopicPartition, Uuid, Verify,
};

mod append;

pub(crate) use append::{Attempt, Passed};

/// What a partition asks of the broker that holds it.
pub(crate) trait PartitionHost: Send + Sync {
    /// Puts a leader epoch of at least `at_least`, and higher than the present one, into the catalog,
    /// synced, and returns it.
    fn raise_leader_epoch(
        &self,
        partition: &TopicPartition,
        topic_id: Uuid,
        at_least: LeaderEpoch,
    ) -> Result<LeaderEpoch>;

    /// Has [`Partition::settle`] called in a moment: at once when somebody waits for it.
    fn settle_later(&self, partition: &Arc<Partition>, urgency: Urgency);

    /// Has [`Partition::tend`] called soon.
    fn tend_later(&self, partition: &Arc<Partition>);

    /// Those of a topic, or all but Kafka's own.
    fn partitions(&self, topic: Option<&str>) -> Vec<Arc<Partition>>;
}

/// Whether somebody waits for a partition to settle who cannot do it himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A future waits.
    Now,
    /// Nobody is known to wait; a few milliseconds may gather more appends into one sync.
    Soon,
}

/// What all partitions of one broker share.
pub(crate) struct PartitionContext {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) time: Arc<SteadyTime>,
    pub(crate) findings: Arc<Findings>,
    pub(crate) root: PathBuf,
    pub(crate) buffers: BufferPool,
    pub(crate) syncs: Arc<SyncNotes>,
    pub(crate) reading: (ReadMode, Verify),
    pub(crate) commit_gather: Duration,
    pub(crate) recovery: RecoveryPolicy,
    pub(crate) boot_id: [u8; 16],
    pub(crate) budgets: Budgets,
    pub(crate) keys: KeyIndexes,
    /// Why nothing may be appended or deleted.
    pub(crate) read_only: Option<Error>,
    pub(crate) host: OnceLock<Weak<dyn PartitionHost>>,
    /// Set once, when the broker closes.
    pub(crate) closed: AtomicBool,
}

/// One partition of one topic id; lives in the broker's registry, shared by all who use it.
pub(crate) struct Partition {
    name: TopicPartition,
    topic_id: Uuid,
    context: Arc<PartitionContext>,
    slot: Arc<StateSlot>,
    settings: ArcSwap<TopicSettings>,
    budgets: Vec<Arc<Budget>>,
    keys: Option<KeyIndex>,
    meter: Arc<Meter>,
    /// What Kafka's checkpoint files said when the directory was opened.
    found: Checkpoint,
    /// Why there is no log to touch here, where it is elsewhere.
    absent: Option<Error>,
    /// The catalog's epoch.
    epoch: AtomicI32,
    log: OnceLock<Log>,
    /// Why the log could not be opened, the last time that was tried.
    unopened: ArcSwapOption<Error>,
    /// Held while the log is opened, closed, or its epoch is raised.
    opening: Mutex<()>,
    deleted: AtomicBool,
    /// Why it takes no changes, where its topic may have been deleted.
    doubted: OnceLock<Error>,
    /// Queued for the broker's sync thread.
    queued: AtomicBool,
    /// Held by the thread of the broker that settles it.
    settling: Mutex<()>,
    /// It is to be settled once more.
    unsettled: AtomicBool,
    /// The newest append, to be brought to the topic's level by somebody.
    newest: Mutex<Option<LogPosition>>,
    /// The newest append of which a future waits for another level than the topic's, for each.
    awaited: Mutex<BTreeMap<Durability, LogPosition>>,
    /// What was last brought to the topic's level with nobody waiting, and when that was done, in monotonic time.
    settled: Mutex<Option<(LogPosition, Duration)>>,
    /// When the log was last synced because of `flush.ms`, in monotonic time.
    flushed: Mutex<Duration>,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition").field("name", &self.name).field("topic_id", &self.topic_id).finish_non_exhaustive()
    }
}

impl Partition {
    pub(crate) fn new(
        context: Arc<PartitionContext>,
        name: TopicPartition,
        topic_id: Uuid,
        epoch: LeaderEpoch,
        settings: Arc<TopicSettings>,
        slot: Arc<StateSlot>,
        found: Checkpoint,
    ) -> Self {
        let budgets = context.budgets.of(name.topic());
        Self {
            meter: budget::meter(&budgets),
            budgets,
            keys: context.keys.of(&name),
            name,
            topic_id,
            context,
            slot,
            settings: ArcSwap::new(settings),
            found,
            absent: None,
            epoch: AtomicI32::new(epoch.get()),
            log: OnceLock::new(),
            unopened: ArcSwapOption::empty(),
            opening: Mutex::new(()),
            deleted: AtomicBool::new(false),
            doubted: OnceLock::new(),
            queued: AtomicBool::new(false),
            settling: Mutex::new(()),
            unsettled: AtomicBool::new(false),
            newest: Mutex::new(None),
            awaited: Mutex::default(),
            settled: Mutex::default(),
            flushed: Mutex::new(Duration::ZERO),
        }
    }

    /// The same of a partition whose log is not in this directory: whoever touches it gets `why`.
    pub(crate) fn absent(self, why: Error) -> Self {
        Self { absent: Some(why), ..self }
    }

    /// Fails where the log is not in this directory.
    pub(crate) fn check_here(&self) -> Result<()> {
        self.absent.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn name(&self) -> &TopicPartition {
        &self.name
    }

    pub(crate) fn topic_id(&self) -> Uuid {
        self.topic_id
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.context.clock
    }

    pub(crate) fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch::new(self.epoch.load(Ordering::Acquire))
    }

    /// The era of the log's end; see `LogPosition::era`.
    pub(crate) fn era(&self) -> u64 {
        self.log.get().map_or(0, |log| log.position().era())
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.context.root.join(self.name.to_string())
    }

    /// The level at which appends become visible, and are acknowledged unless they ask for another.
    pub(crate) fn level(&self) -> Durability {
        self.settings.load().durability
    }

    /// `TopicDeleted` or `Closed`, once it is either.
    pub(crate) fn check_alive(&self) -> Result<()> {
        if self.deleted.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::TopicDeleted, "the topic was deleted")
                .partition(self.name.clone())
                .remedy("open the topic anew if one of its name was created since"));
        }
        if self.context.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, "the broker is closed").partition(self.name.clone()));
        }
        Ok(())
    }

    /// Why the directory, or the partition, takes no changes, where it does not.
    fn check_writable(&self) -> Result<()> {
        match self.context.read_only.as_ref().or(self.doubted.get()) {
            Some(why) => Err(why.clone().partition(self.name.clone())),
            None => Ok(()),
        }
    }

    /// The log, opened by the first who asks.
    fn log(&self) -> Result<&Log> {
        self.log_by(self.context.recovery)
    }

    fn log_by(&self, policy: RecoveryPolicy) -> Result<&Log> {
        self.check_alive()?;
        self.check_here()?;
        if let Some(log) = self.log.get() {
            return Ok(log);
        }
        let _opening = self.opening.lock();
        // It may have been opened, deleted or closed while we waited.
        self.check_alive()?;
        if let Some(log) = self.log.get() {
            return Ok(log);
        }
        let opened = self.open_on(Arc::clone(&self.context.storage), policy);
        self.unopened.store(opened.as_ref().err().cloned().map(Arc::new));
        let log = opened?;
        Ok(self.log.get_or_init(|| log))
    }

    /// Opens the log, unless somebody has.
    pub(crate) fn open(&self) -> Result<()> {
        self.log().map(drop)
    }

    /// Opens the log as `storage` has it, apart from all other uses of this partition.
    pub(crate) fn open_on(&self, storage: Arc<dyn Storage>, policy: RecoveryPolicy) -> Result<Log> {
        let context = LogContext {
            storage,
            clock: Arc::clone(&self.context.clock),
            time: Arc::clone(&self.context.time),
            findings: Arc::clone(&self.context.findings),
            partition: self.name.clone(),
            topic_id: Some(self.topic_id),
            // The broker drops the whole state file when somebody else had the directory.
            slot: Some(Arc::clone(&self.slot)),
            buffers: self.context.buffers.clone(),
            boot_id: self.context.boot_id,
            log_start: self.found.log_start,
            recovery_point: self.found.recovery_point,
            outside: Outside { high_watermark: self.found.high_watermark, clean: self.found.clean, doubted: None },
            meter: Arc::clone(&self.meter),
            syncs: Arc::clone(&self.context.syncs),
        };
        let (mode, verify) = self.context.reading;
        let config = self.log_config(&self.settings.load()).read_mode(mode).verify(verify).recovery_policy(policy);
        look_first(&context, &self.dir(), &config)?;
        Log::open_in(context, &self.dir(), config)
    }

    fn log_config(&self, settings: &TopicSettings) -> LogConfig {
        let config = settings.log_config().commit_gather(self.context.commit_gather);
        // A batch must fit.
        let least = u64::from(config.max_message_bytes);
        let limits = self.budgets.iter().map(|budget| budget.segment_bytes().max(least));
        let bytes = limits.fold(u64::from(config.segment_bytes), u64::min);
        config.segment_bytes(u32::try_from(bytes).unwrap_or(u32::MAX))
    }

    /// Runs `call` on the log; a log that was closed under it is named by its cause.
    fn on_log<T>(&self, call: impl FnOnce(&Log) -> Result<T>) -> Result<T> {
        call(self.log()?).map_err(|error| match self.check_alive() {
            Err(cause) if error.kind() == ErrorKind::Closed => cause,
            _ => error,
        })
    }

    /// The log if some call has opened it, whatever became of it since.
    #[cfg(feature = "testing")]
    pub(crate) fn watched(&self) -> Option<&Log> {
        self.log.get()
    }

    /// Whether an append of so many bytes deletes others, as a byte budget says.
    #[cfg(feature = "testing")]
    pub(crate) fn would_drop(&self, bytes: u64) -> bool {
        self.budgets.iter().any(|budget| budget.would_drop(bytes))
    }

    /// The log if some call has opened it already.
    fn opened(&self) -> Option<&Log> {
        self.log.get().filter(|_| self.check_alive().is_ok())
    }

    /// Whether some call has opened the log.
    pub(crate) fn is_touched(&self) -> bool {
        self.opened().is_some()
    }

    /// Waits until byte budgets that make appends wait have room for so many bytes. Not to be called with a lock held.
    pub(crate) fn wait_for_room(&self, bytes: u64) -> Result<()> {
        self.budgets.iter().try_for_each(|budget| budget.wait_for_room(self, bytes))
    }

    /// The same for a task that has `waited`: how much longer it may, or `None` when there is room. `waker` is woken when
    /// there may be.
    #[cfg(feature = "async")]
    pub(crate) fn poll_room(&self, bytes: u64, waited: Duration, waker: &std::task::Waker) -> Result<Option<Duration>> {
        for budget in &self.budgets {
            if let Some(left) = budget.poll_room(self, bytes, waited, waker)? {
                return Ok(Some(left));
            }
        }
        Ok(None)
    }

    /// Whether its oldest records may go to make room for others.
    pub(super) fn may_drop(&self) -> bool {
        self.meter.held() > 0 && self.settings.load().cleanup_policy.deletes()
    }

    /// What could go first.
    pub(super) fn oldest(&self) -> Result<Oldest> {
        self.on_log(Log::oldest)
    }

    /// Deletes the oldest segment.
    pub(super) fn drop_oldest(&self) -> Result<()> {
        self.on_log(Log::drop_oldest)
    }

    /// Counts the bytes of a log that is not open. What cannot be looked at is counted when somebody opens it.
    pub(crate) fn count_at_rest(&self) {
        let (storage, dir) = (&*self.context.storage, self.dir());
        let entries = storage.list(&dir).unwrap_or_default().into_iter();
        let logs = entries.filter(|entry| matches!(FileKind::parse(&entry.name), Some((FileKind::Log, _))));
        self.meter.set(logs.filter_map(|log| storage.metadata(&dir.join(log.name)).ok()).map(|found| found.len).sum());
    }

    pub(super) fn host(&self) -> Option<Arc<dyn PartitionHost>> {
        self.context.host.get().and_then(Weak::upgrade)
    }

    fn queue(self: &Arc<Self>, urgency: Urgency) {
        let was_queued = self.queued.swap(true, Ordering::AcqRel);
        if (!was_queued || urgency == Urgency::Now)
            && let Some(host) = self.host()
        {
            host.settle_later(self, urgency);
        }
    }

    /// Blocks until an append has reached `level`; the caller may sync for all who wait.
    pub(crate) fn wait(&self, position: LogPosition, level: Durability) -> Result<()> {
        let waited = self.on_log(|log| log.wait(position, level));
        waited.or_else(|e| if self.was_committed(&e, position, level) { Ok(()) } else { Err(e) })
    }

    /// A future of the same; the broker's sync thread does the work.
    pub(crate) fn committed(self: &Arc<Self>, position: LogPosition, level: Durability) -> Result<Committed> {
        let committed = self.on_log(|log| Ok(log.committed(position, level)))?;
        if level != self.level() {
            let mut awaited = self.awaited.lock();
            let newest = awaited.entry(level).or_insert(position);
            *newest = position.max(*newest);
        }
        self.queue(Urgency::Now);
        Ok(committed)
    }

    /// Whether an append has reached `level`, without waiting.
    pub(crate) fn is_committed(&self, position: LogPosition, level: Durability) -> Result<bool> {
        let looked = self.on_log(|log| log.is_committed(position, level));
        looked.or_else(|e| if self.was_committed(&e, position, level) { Ok(true) } else { Err(e) })
    }

    /// Whether an append had reached `level` when the broker was closed, where whoever asks is told of that.
    fn was_committed(&self, told: &Error, position: LogPosition, level: Durability) -> bool {
        let closed = self.log.get().filter(|_| told.kind() == ErrorKind::Closed);
        closed.is_some_and(|log| log.is_committed(position, level).unwrap_or(false))
    }

    /// Brings everything that was appended so far to the topic's level, and to the device when
    /// `flush.messages` records wait for it. One thread does so at a time: on a disk that hangs the others have other
    /// partitions to see to.
    pub(crate) fn settle(&self) -> Result<()> {
        // Before the look at the lock: whoever has it looks here when he has let it go.
        self.unsettled.store(true, Ordering::SeqCst);
        let mut settled = Ok(());
        while self.unsettled.load(Ordering::SeqCst) {
            let Some(_alone) = self.settling.try_lock() else { break };
            self.unsettled.store(false, Ordering::SeqCst);
            settled = self.settle_alone();
        }
        settled
    }

    fn settle_alone(&self) -> Result<()> {
        // Whoever appends from here on queues again.
        self.queued.store(false, Ordering::Release);
        let Some(newest) = *self.newest.lock() else { return Ok(()) };
        let (level, flush_messages) = {
            let settings = self.settings.load();
            (settings.durability, settings.flush_messages)
        };
        let awaited = std::mem::take(&mut *self.awaited.lock());
        self.on_log(|log| {
            // The weakest first. The newest may find no space; what is before it is waited for all the same.
            let mut settled = Ok(());
            for at in [Durability::None, Durability::ProcessCrash, Durability::PowerLoss] {
                let position = awaited.get(&at).copied().max((at == level).then_some(newest));
                settled = settled.and(position.map_or(Ok(()), |position| log.wait(position, at)));
            }
            settled?;
            *self.settled.lock() = Some((newest, self.context.clock.monotonic()));
            let offsets = log.offsets();
            if level < Durability::PowerLoss && offsets.end - offsets.frontier >= flush_messages {
                return log.sync();
            }
            Ok(())
        })
    }

    /// When an append had the topic's level, or a moment after, where [`settle`](Self::settle) has brought it there.
    pub(crate) fn settled_at(&self, position: LogPosition) -> Option<Duration> {
        let settled = *self.settled.lock();
        settled.filter(|(newest, _)| *newest >= position).map(|(_, at)| at)
    }

    /// Makes everything that was appended so far durable and visible, also what a thread is just coming back from.
    pub(crate) fn sync(&self) -> Result<()> {
        self.on_log(Log::sync)
    }

    /// Syncs a log that is not synced with every append, when `flush.ms` has passed since it last was.
    pub(crate) fn flush_if_due(&self, now: Duration) -> Result<()> {
        let (Some(interval), Some(log)) = (self.settings.load().flush_interval, self.opened()) else { return Ok(()) };
        {
            let mut flushed = self.flushed.lock();
            if now.saturating_sub(*flushed) < interval || !log.has_unsynced() {
                return Ok(());
            }
            *flushed = now;
        }
        log.sync()
    }

    /// Whether the log was not closed in order. `found_clean`: a stock broker left the directory in order, so what
    /// we know nothing of needs nothing.
    pub(crate) fn is_dirty(&self, has_dir: impl FnOnce(&TopicPartition) -> bool, found_clean: bool) -> bool {
        match self.slot.load() {
            Some(state) if !state.unknown || state.poisoned => !state.clean,
            _ => !found_clean && has_dir(&self.name),
        }
    }

    /// Opens the log, which recovers it. A strict broker has looked at it before.
    pub(crate) fn recover(&self) -> Result<()> {
        let policy = match self.context.recovery {
            RecoveryPolicy::Strict => RecoveryPolicy::Degraded,
            policy => policy,
        };
        self.log_by(policy).map(drop)
    }

    /// What the last opening of the log found and did, or why it failed; `None` while nobody has opened it.
    pub(crate) fn recovery(&self) -> Option<Result<LogRecovery>> {
        match self.log.get() {
            Some(log) => Some(Ok(log.recovery())),
            None => self.unopened.load().as_deref().map(|why| Err(why.clone())),
        }
    }

    /// Whether an opening failed half way, with files that were written and not synced. One that was refused changed
    /// nothing.
    pub(crate) fn is_half_opened(&self) -> bool {
        let is_half_way =
            |why: &Error| why.kind() != ErrorKind::Corrupt || self.slot.load().is_some_and(|state| !state.clean);
        self.log.get().is_none() && self.unopened.load().as_ref().is_some_and(|why| is_half_way(why))
    }

    /// Does `work` on the calling thread. Should it panic, nobody waits for what it was to do.
    pub(crate) fn guard<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        if let Some(log) = self.log.get() {
            return log.guard(|| work(self));
        }
        panic::catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|_| {
            let error = Error::new(ErrorKind::Indeterminate, "a thread panicked at a partition that it was to open");
            Err(error.partition(self.name.clone()).remedy("open the broker again"))
        })
    }

    /// Lets the log finish what waits for nobody: sealed segments, files of deleted ones.
    pub(crate) fn tend(&self) -> Result<()> {
        self.opened().map_or(Ok(()), Log::tend)
    }

    /// The same, and syncs all that was appended.
    pub(crate) fn maintain(&self) -> Result<()> {
        self.opened().map_or(Ok(()), Log::maintain)
    }

    /// Seals one segment that another program ended; answers whether there was one.
    pub(crate) fn seal_next(&self) -> Result<bool> {
        self.opened().map_or(Ok(false), Log::seal_next)
    }

    /// Deletes old segments; see `Log::apply_retention`.
    pub(crate) fn apply_retention(&self, age: Option<Duration>, bytes: Option<u64>) -> Result<()> {
        self.check_writable()?;
        self.on_log(|log| log.apply_retention(age, bytes))
    }

    /// What Kafka's checkpoints shall say; as before while no call has opened the log, or it has no file. Also after
    /// close.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let Some(log) = self.log.get() else { return self.found };
        // Of one without files there is nothing to say: a directory that was never made would be missed.
        let Some(first) = log.first_file() else { return self.found };
        let offsets = log.offsets();
        let inside = offsets.log_start > first;
        Checkpoint {
            log_start: if inside { offsets.log_start } else { Offset::ZERO },
            recovery_point: log.recovery_point(),
            high_watermark: offsets.high_watermark,
            clean: self.found.clean,
        }
    }

    /// Reads whole batches from the one that holds `from`. An offset below the log start is `Overtaken`,
    /// with the log start as the error's offset.
    pub(crate) fn read(&self, from: Offset, max_bytes: usize, isolation: Isolation) -> Result<LogRead> {
        self.on_log(|log| log.read(from, max_bytes, isolation).map_err(|e| self.overtaken(log, from).unwrap_or(e)))
    }

    fn overtaken(&self, log: &Log, from: Offset) -> Option<Error> {
        let start = log.offsets().log_start;
        (from < start).then(|| {
            let lost = start - from;
            let what = format!("offsets {from} to {} are gone: {lost} below the log start", start + -1);
            Error::new(ErrorKind::Overtaken, what)
                .partition(self.name.clone())
                .offset(start)
                .remedy("go on from the offset named; keep records longer with retention.ms or retention.bytes")
        })
    }

    pub(crate) fn offsets(&self) -> Result<LogOffsets> {
        self.on_log(|log| Ok(log.offsets()))
    }

    pub(crate) fn offset_at(&self, time: Timestamp, isolation: Isolation) -> Result<Option<OffsetAtTime>> {
        self.on_log(|log| log.offset_at(time, isolation))
    }

    /// Has `signal` notified whenever more becomes readable, the log start moves, or the partition is
    /// deleted or closed.
    pub(crate) fn watch(&self, signal: &Arc<Signal>) -> Result<()> {
        self.on_log(|log| {
            log.watch(signal);
            Ok(())
        })
    }

    /// DeleteRecords: makes everything below `to` unreadable, durably. Returns the log start.
    pub(crate) fn delete_records(&self, to: Offset) -> Result<Offset> {
        self.check_writable()?;
        if self.settings.load().cleanup_policy == CleanupPolicy::Compact {
            let why = "records of a compacted topic are not deleted by offset";
            return Err(Error::new(ErrorKind::InvalidArgument, why)
                .partition(self.name.clone())
                .remedy("append a tombstone for the key, or add delete to cleanup.policy"));
        }
        self.on_log(|log| {
            let offsets = log.offsets();
            if to > offsets.high_watermark || to < Offset::ZERO {
                let what = format!("cannot delete up to offset {to}: the high watermark is {}", offsets.high_watermark);
                return Err(Error::new(ErrorKind::OffsetOutOfRange, what).partition(self.name.clone()).offset(to));
            }
            if to > offsets.log_start {
                if to == offsets.end && !self.budgets.is_empty() {
                    // So that the space is free at once.
                    log.roll_to_delete()?;
                }
                log.advance_log_start(to)?;
            }
            Ok(log.offsets().log_start)
        })
    }

    /// Mends a log that a failed write or sync has poisoned; see `Log::reopen`.
    pub(crate) fn reopen(&self) -> Result<LogRecovery> {
        self.check_writable()?;
        self.on_log(Log::reopen)
    }

    /// Why the log takes no appends before it is reopened.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.opened().and_then(Log::failure)
    }

    pub(crate) fn size_bytes(&self) -> Result<u64> {
        self.on_log(|log| Ok(log.size_bytes()))
    }

    pub(crate) fn configure(&self, settings: &Arc<TopicSettings>) -> Result<()> {
        // A log that is just being opened takes the old settings or these, and is told of these either way.
        let _opening = self.opening.lock();
        self.settings.store(Arc::clone(settings));
        self.opened().map_or(Ok(()), |log| log.configure(self.log_config(settings)))
    }

    /// Whether its topic was deleted is not known before the broker is opened again: until then it takes nothing that
    /// may go with it.
    pub(crate) fn doubt(&self, why: &Error) {
        self.doubted.get_or_init(|| {
            Error::new(ErrorKind::Poisoned, "the topic may have been deleted: whether the catalog says so is in doubt")
                .source(why.clone())
        });
    }

    /// From now on every call answers `TopicDeleted`. Bytes already read stay readable.
    pub(crate) fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        let opening = self.opening.lock();
        if let Some(log) = self.log.get() {
            // Its files are about to go: a sync that fails loses nothing that anybody could still read.
            drop(log.close());
        }
        self.meter.set(0);
        self.context.budgets.notify();
        // Whoever has the index may wait for that lock, to raise the epoch.
        drop(opening);
        self.keys.iter().for_each(KeyIndex::forget);
    }

    /// Syncs and closes the log, if some call opened it. The context is marked closed before.
    pub(crate) fn close(&self) -> Result<()> {
        let opening = self.opening.lock();
        if self.deleted.load(Ordering::Acquire) {
            return Ok(());
        }
        let closed = self.log.get().map_or(Ok(()), Log::close);
        drop(opening);
        self.keys.iter().for_each(KeyIndex::forget);
        closed
    }
}

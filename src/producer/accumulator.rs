//! What outlives the calls of a producer: its memory, the lanes that have something to do, and the failures that
//! nobody was told of. What happens to the batches of one partition is the lane's.
//!
//! Invariant: a lane with a batch whose end is not known is on the list. It is put there, and taken off, with the lane
//! locked; the list is never locked by somebody who waits for a lane.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
#[cfg(feature = "async")]
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;

use super::batch::{Batch, Ticket};
use super::callbacks::{Callback, Callbacks};
use super::lane::{Lane, OpenBatch, Retries, State};
use super::memory::{Memory, Share, Turn};
use super::partitioner::Sticky;
use super::rules;
use super::wait::Wait;
use crate::broker::{Broker, Task, TopicEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{BatchPool, Compression, Record};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::topic::{Partition, PartitionSource as _};
use crate::types::{Durability, Timestamp};

/// How many partitions an error names.
const NAMED_MAX: usize = 8;
/// What a batch gets before it has to grow, at most.
const BUFFER_BYTES_MAX: usize = 1 << 20;
/// When to look again at a lane that another thread is at.
pub(super) const BUSY: Duration = Duration::from_millis(1);

/// How long a thread lets others fetch the memory that was put aside for them.
const PATIENCE: Duration = Duration::from_millis(10);

/// What applies to every batch of a producer.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) linger: Option<Duration>,
    pub(super) batch_bytes: usize,
    pub(super) buffer_bytes: usize,
    /// How long a call may wait for memory.
    pub(super) max_block: Duration,
    /// The largest record, before compression.
    pub(super) max_request_bytes: usize,
    pub(super) compression: Compression,
    pub(super) durability: Option<Durability>,
    pub(super) retries: Retries,
}

/// How long a batch stays open for others when nobody waits for it and no linger was given.
const QUIET_LINGER: Duration = Duration::from_millis(5);

/// The part of a producer that outlives calls.
pub(super) struct Accumulator {
    pub(super) broker: Broker,
    pub(super) settings: Settings,
    me: OnceLock<Weak<Accumulator>>,
    /// Takes no records any more.
    closed: AtomicBool,
    /// Lanes that have something to do.
    at_work: Mutex<Vec<Arc<Lane>>>,
    pub(super) alarm: Arc<Alarm>,
    failures: Mutex<Failures>,
    memory: Arc<Memory>,
    buffers: BatchPool,
    pub(super) callbacks: Arc<Callbacks>,
}

/// When somebody is to look at the lanes; outlives the producer.
pub(super) struct Alarm {
    /// In nanoseconds of monotonic time.
    armed: AtomicU64,
    /// Who looks; none once the producer goes. Held until it is queued.
    task: Mutex<Option<Weak<Accumulator>>>,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { armed: AtomicU64::new(u64::MAX), task: Mutex::default() }
    }
}

impl Alarm {
    /// Has the lanes looked at now, by what `run` queues, unless their producer goes.
    pub(super) fn ring(&self, run: &dyn Fn(Weak<dyn Task>)) {
        if let Some(task) = &*self.task.lock() {
            self.armed.store(0, Ordering::Release);
            let task: Weak<dyn Task> = task.clone();
            run(task);
        }
    }
}

#[derive(Default)]
struct Failures {
    /// Batches that failed and have tickets whose owners may still ask.
    failed: Vec<(Arc<Batch>, Error)>,
    /// The first failure that no owner of a ticket asked for.
    unreported: Option<Error>,
}

impl Failures {
    /// Lets go of failed batches whose tickets are gone, so that only live tickets take memory.
    fn sweep(&mut self) {
        let unreported = &mut self.unreported;
        self.failed.retain(|(batch, error)| {
            if batch.is_abandoned() {
                unreported.get_or_insert_with(|| error.clone());
                return false;
            }
            // Beside this list only tickets hold it: their owners will see for themselves.
            Arc::strong_count(batch) > 1
        });
    }
}

/// How a record comes.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// Nobody is going to wait for it now.
    pub(super) quiet: bool,
    /// It is on its partition because others without a key are.
    pub(super) keyless: bool,
}

/// A topic as a producer sees it. One with more partitions takes its place.
pub(super) struct Route {
    pub(super) topic: Arc<TopicEntry>,
    /// One per partition.
    pub(super) lanes: Vec<Arc<Lane>>,
    /// The version of the catalog by which these are all.
    version: AtomicU64,
    pub(super) sticky: Arc<Sticky>,
    pub(super) turns: Arc<AtomicUsize>,
}

/// Whether a lane that another thread is at is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Busy {
    Wait,
    PassOver,
}

impl Accumulator {
    pub(super) fn new(broker: Broker, settings: Settings) -> Arc<Self> {
        let accumulator = Arc::new(Self {
            memory: Memory::new(settings.buffer_bytes),
            buffers: BatchPool::new(settings.batch_bytes.min(BUFFER_BYTES_MAX), settings.buffer_bytes),
            broker,
            settings,
            me: OnceLock::new(),
            closed: AtomicBool::new(false),
            at_work: Mutex::default(),
            alarm: Arc::default(),
            failures: Mutex::default(),
            callbacks: Arc::default(),
        });
        accumulator.me.get_or_init(|| Arc::downgrade(&accumulator));
        *accumulator.alarm.task.lock() = Some(accumulator.me());
        accumulator
    }

    fn me(&self) -> Weak<Self> {
        self.me.get().cloned().unwrap_or_default()
    }

    /// Refuses records from now on; `false` where it did before. Those who wait for memory are told.
    pub(super) fn close(&self) -> bool {
        let was_open = !self.closed.swap(true, Ordering::AcqRel);
        self.memory.freed().notify();
        was_open
    }

    #[inline]
    pub(super) fn check_open(&self) -> Result<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(Error::new(ErrorKind::Closed, "the producer is closed")),
            false => Ok(()),
        }
    }

    /// Makes sure that no thread of the broker holds this: the last producer's drop is then the last of it.
    pub(super) fn retire(&self) {
        let task: Weak<dyn Task> = self.me();
        *self.alarm.task.lock() = None;
        self.broker.retire(&task);
    }

    /// How long those who wait for a batch let it gather.
    fn linger(&self) -> Duration {
        self.settings.linger.unwrap_or_default()
    }

    fn quiet_linger(&self) -> Duration {
        self.settings.linger.unwrap_or(QUIET_LINGER)
    }

    /// Whether no partition was added since the route was made.
    #[inline]
    pub(super) fn is_current(&self, route: &Route) -> bool {
        route.version.load(Ordering::Acquire) == self.broker.catalog_version()
    }

    /// The way to all partitions of a topic; `known` itself if that has them all.
    pub(super) fn route(
        &self,
        topic: &Arc<TopicEntry>,
        known: Option<&Arc<Route>>,
        seed: impl FnOnce() -> u64,
    ) -> Result<Arc<Route>> {
        // Before the look at the partitions.
        let version = self.broker.catalog_version();
        topic.check_alive()?;
        let lanes = known.map_or(&[][..], |known| &known.lanes);
        let added = topic.partitions_after(lanes.len())?;
        if let Some(known) = known.filter(|_| added.is_empty()) {
            known.version.store(version, Ordering::Release);
            return Ok(Arc::clone(known));
        }
        let (sticky, turns) = match known {
            Some(known) => (Arc::clone(&known.sticky), Arc::clone(&known.turns)),
            None => (Arc::new(Sticky::new(seed())), Arc::default()),
        };
        let lane = |partition| Arc::new(Lane::new(partition, Arc::clone(topic), Arc::clone(&sticky), self.me()));
        let lanes = lanes.iter().cloned().chain(added.into_iter().map(lane)).collect();
        Ok(Arc::new(Route { topic: Arc::clone(topic), lanes, version: AtomicU64::new(version), sticky, turns }))
    }

    /// Puts a record into its lane's batch. A callback is taken with it.
    #[inline]
    pub(super) fn push<W: Wait>(
        &self,
        lane: &Arc<Lane>,
        record: &Record,
        manner: Manner,
        callback: &mut Option<Callback>,
        wait: &mut W,
    ) -> Result<Ticket, W::Refusal> {
        let bytes = rules::encoded(record);
        // Before a lane is locked: the sync thread must not wait for whoever waits here.
        wait.for_room(lane, rules::BATCH_OVERHEAD + bytes)?;
        let now = self.broker.clock().now();
        let timestamp = record.timestamp_or(now).map_err(|e| e.partition(lane.name().clone()))?;
        rules::check(&self.settings, lane, record, bytes, now)?;
        if callback.is_none()
            && let Some(ticket) = lane.add(record, bytes, timestamp, manner)?
        {
            return Ok(ticket);
        }
        self.push_aside(lane, record, (bytes, timestamp), manner, callback, wait)
    }

    /// The same where that is the first or the last of its batch, or has a callback.
    #[cold]
    #[inline(never)]
    fn push_aside<W: Wait>(
        &self,
        lane: &Arc<Lane>,
        record: &Record,
        (bytes, timestamp): (usize, Timestamp),
        manner: Manner,
        callback: &mut Option<Callback>,
        wait: &mut W,
    ) -> Result<Ticket, W::Refusal> {
        if callback.is_some() && !self.broker.is_manual() {
            self.callbacks.start()?;
        }
        let mut share = None;
        loop {
            if let Some(ticket) = self.try_push(lane, record, (bytes, timestamp), manner, (&mut share, callback))? {
                return Ok(ticket);
            }
            // While the lane is not locked, for which others may wait. Why it fails those learn who wait for the batch.
            if !lane.partition.is_touched() && lane.partition.guard(Partition::open).is_ok() {
                continue;
            }
            share = Some(wait.for_memory(self, lane, bytes)?);
        }
    }

    /// The same; `None` when it takes a new batch, for which there is neither a share nor memory, or that is the first of
    /// a log which nobody has opened.
    fn try_push(
        &self,
        lane: &Arc<Lane>,
        record: &Record,
        (bytes, timestamp): (usize, Timestamp),
        manner: Manner,
        (share, callback): (&mut Option<Share>, &mut Option<Callback>),
    ) -> Result<Option<Ticket>> {
        let mut guard = lane.lock();
        // Whoever closes looks at the lane after.
        self.check_open()?;
        let state = &mut *guard;
        if let Some(full) = state.open.take_if(|batch| batch.builder.size_estimate() + bytes > batch.limit) {
            self.complete_full(lane, state, full);
        }
        let batch = match &mut state.open {
            Some(batch) => batch,
            none => {
                let may_take = || lane.partition.is_touched().then(|| self.memory.try_take(self.needed(bytes)));
                let Some(share) = share.take().or_else(|| may_take().flatten()) else { return Ok(None) };
                // Before others can add to it and flush. Whoever closes finds it there, or it is not opened.
                self.list(lane);
                self.check_open()?;
                none.insert(self.open_batch(lane, share)?)
            }
        };
        let is_first = batch.builder.is_empty();
        let ticket = match batch.add(record, bytes, timestamp, manner) {
            Ok(ticket) => ticket,
            Err(error) => {
                // One without a record cannot be finished.
                if is_first {
                    state.open = None;
                }
                return Err(error);
            }
        };
        // The next without a key goes elsewhere when this batch has no room for one like it.
        let like_it = if manner.keyless { bytes } else { 0 };
        let is_complete = batch.builder.size_estimate() + like_it >= batch.limit;
        let opened = batch.opened;
        if let Some(callback) = callback.take() {
            self.callbacks.enter(lane, ticket.another(), callback);
        }
        if is_complete && let Some(batch) = state.open.take() {
            self.complete_full(lane, state, batch);
        }
        drop(guard);
        if is_first {
            self.memory.freed().notify();
            if manner.quiet && !is_complete {
                self.run_by(opened.saturating_add(self.quiet_linger()));
            }
            if self.broker.check_open().is_err() {
                // It closed meanwhile, and may have looked for the last time.
                self.send_open(Busy::Wait);
            }
        }
        Ok(Some(ticket))
    }

    fn open_batch(&self, lane: &Arc<Lane>, share: Share) -> Result<OpenBatch> {
        lane.partition.check_alive()?;
        let (compression, limit) = lane.topic.with_settings(|settings| {
            let limit = self.settings.batch_bytes.min(settings.max_message_bytes as usize);
            (settings.compression.unwrap_or(self.settings.compression), limit)
        });
        // The topic's may be one that another program chose.
        compression.codec().check_built_in()?;
        Ok(OpenBatch {
            builder: self.buffers.builder().compression(compression),
            share,
            shared: Arc::new(Batch::new(Arc::clone(lane), self.broker.clone(), self.linger())),
            opened: self.broker.clock().monotonic(),
            limit,
            keyless_bytes: 0,
        })
    }

    /// Keeps fewer buffers for what comes where memory is used for small batches.
    pub(super) fn keep_within_memory(&self) {
        self.buffers.keep_within(self.memory.for_buffers());
    }

    /// What a batch for a record of so many bytes takes.
    fn needed(&self, bytes: usize) -> usize {
        self.settings.batch_bytes.max(rules::BATCH_OVERHEAD + bytes)
    }

    /// Waits in line for memory for the batch of a record of so many bytes, for at most `max.block.ms`. No lock is
    /// held. Where the broker has threads they do the work, as for a future: a disk that hangs holds up nobody here.
    pub(super) fn take_memory(&self, lane: &Lane, bytes: usize) -> Result<Share> {
        let clock = self.broker.clock();
        let deadline = clock.monotonic().saturating_add(self.settings.max_block);
        let mut turn = None;
        loop {
            let seen = self.memory.freed().count();
            let look_again = match self.look_for_memory(bytes, &mut turn) {
                Ok(share) => return Ok(share),
                Err(look_again) => look_again,
            };
            lane.partition.check_alive()?;
            self.check_open()?;
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return Err(self.out_of_memory(lane));
            }
            if self.broker.is_manual() && self.wait_for_oldest() {
                continue;
            }
            let behind = turn.as_ref().filter(|turn| turn.is_behind_one_served());
            let limit = if behind.is_some() { PATIENCE } else { left };
            if !self.await_end(seen, limit.min(left).min(look_again)) {
                behind.inspect(|turn| turn.insist());
            }
        }
    }

    /// Memory for the batch of a record of so many bytes, if it is to be had now; else after which time to look again,
    /// with nobody saying so.
    fn look_for_memory(&self, bytes: usize, turn: &mut Option<Turn>) -> std::result::Result<Share, Duration> {
        // Open batches take more than they need; nobody can add to them while there is no memory elsewhere.
        let is_all_sent = self.send_open(Busy::PassOver);
        let turn = turn.get_or_insert_with(|| self.memory.line_up(self.needed(bytes)));
        turn.take().ok_or(if is_all_sent { Duration::MAX } else { BUSY })
    }

    /// As `take_memory`, for a task that has `waited`: the memory, or how much longer it may wait.
    #[cfg(feature = "async")]
    pub(super) fn poll_memory(
        &self,
        (lane, bytes): (&Lane, usize),
        (waited, turn): (Duration, &mut Option<Turn>),
        waker: &Waker,
    ) -> Result<std::result::Result<Share, Duration>> {
        loop {
            let seen = self.memory.freed().count();
            let look_again = match self.look_for_memory(bytes, turn) {
                Ok(share) => return Ok(Ok(share)),
                Err(look_again) => look_again,
            };
            lane.partition.check_alive()?;
            self.check_open()?;
            let left = self.settings.max_block.saturating_sub(waited);
            if left.is_zero() {
                return Err(self.out_of_memory(lane));
            }
            if let Some(left) = self.watch_ends(left.min(look_again))
                && !self.memory.freed().poll_past(seen, waker)
            {
                return Ok(Err(left));
            }
        }
    }

    /// Waits until the end of some batch may be known, or memory came back since `seen`, and writes nothing itself; `false`
    /// when the time ran out first.
    fn await_end(&self, seen: u64, limit: Duration) -> bool {
        self.watch_ends(limit).is_none_or(|limit| self.memory.freed().wait_past(seen, Some(limit)))
    }

    /// Has those woken who wait for memory when the end of some batch may be known, and says how long to wait for that, of
    /// `limit`; `None` when one is known now.
    fn watch_ends(&self, limit: Duration) -> Option<Duration> {
        let (mut is_known, waker) = (false, self.memory.waker());
        let all_looked_at = self.visit(Busy::PassOver, |_, state| {
            let oldest = state.oldest();
            is_known |= oldest.is_some_and(|batch| batch.poll_settled(&waker).is_ready());
        });
        (!is_known).then_some(if all_looked_at { limit } else { limit.min(BUSY) })
    }

    #[cfg(test)]
    pub(super) fn memory_used(&self) -> usize {
        self.memory.used()
    }

    #[cfg(test)]
    pub(super) fn is_waited_for(&self) -> bool {
        self.memory.freed().is_waited_on()
    }

    fn out_of_memory(&self, lane: &Lane) -> Error {
        let (limit, waited) = (self.settings.buffer_bytes, self.settings.max_block.as_millis());
        let message = format!("all {limit} bytes of buffer.memory were in use for {waited} ms (max.block.ms)");
        Error::new(ErrorKind::TimedOut, message).partition(lane.name().clone()).remedy(
            "raise buffer_memory or max_block of the producer, or enqueue less at a time; \
             Broker::metrics tells of a disk that is slow or hangs",
        )
    }

    /// Tells those who flush later that a batch failed, unless the owners of its tickets ask.
    pub(super) fn note_failure(&self, batch: &Arc<Batch>, error: &Error) {
        let mut failures = self.failures.lock();
        failures.sweep();
        failures.failed.push((Arc::clone(batch), error.clone()));
    }

    /// Puts a lane on the list. It is locked, and its first batch is opened after.
    fn list(&self, lane: &Arc<Lane>) {
        if !lane.listed.swap(true, Ordering::AcqRel) {
            self.at_work.lock().push(Arc::clone(lane));
        }
    }

    /// The lanes that have something to do.
    #[cfg(any(feature = "async", test))]
    pub(super) fn lanes_at_work(&self) -> Vec<Arc<Lane>> {
        self.at_work.lock().clone()
    }

    /// Has the sync thread look at the lanes at `due`, or before.
    pub(super) fn run_by(&self, due: Duration) {
        let nanos = nanos(due);
        if self.alarm.armed.fetch_min(nanos, Ordering::AcqRel) > nanos {
            self.broker.run_at(due, self.me());
        }
    }

    /// Looks at every lane that has something to do; `false` when some were passed over. No list is locked meanwhile.
    fn visit(&self, busy: Busy, mut look: impl FnMut(&Arc<Lane>, &mut State)) -> bool {
        let lanes = self.at_work.lock().clone();
        let (mut some_idle, mut all) = (false, true);
        for lane in &lanes {
            let state = if busy == Busy::Wait { Some(lane.lock()) } else { lane.try_lock() };
            let Some(mut state) = state else {
                all = false;
                continue;
            };
            look(lane, &mut state);
            if state.is_idle() {
                lane.listed.store(false, Ordering::Release);
                some_idle = true;
            }
        }
        if some_idle {
            self.at_work.lock().retain(|lane| lane.listed.load(Ordering::Acquire));
        }
        all
    }

    /// Gives every open batch to the log; `false` when some were passed over.
    fn send_open(&self, busy: Busy) -> bool {
        self.visit(busy, |lane, state| match state.open.take() {
            Some(open) => self.complete(lane, state, open),
            None => self.settle(lane, state),
        })
    }

    /// Does what is due; answers when something is again.
    pub(super) fn send_due(&self, now: Duration) -> Option<Duration> {
        let (linger, mut next) = (self.quiet_linger(), None::<Duration>);
        let all = self.visit(Busy::PassOver, |lane, state| {
            if let Some(open) = state.open.take_if(|open| open.due(linger) <= now) {
                self.complete(lane, state, open);
            }
            self.give_due(lane, state, now);
            next = next.into_iter().chain(state.due(linger)).min();
        });
        let again = now.saturating_add(BUSY);
        if all { next } else { Some(next.map_or(again, |next| next.min(again))) }
    }

    /// Sends everything that is open. The caller is going to wait for it: the broker's threads begin to sync what
    /// lies on other partitions than the one that the caller syncs first.
    pub(super) fn send_all(&self) {
        let mut others = 0;
        self.visit(Busy::Wait, |lane, state| {
            match state.open.take() {
                Some(open) => self.complete(lane, state, open),
                None => self.settle(lane, state),
            }
            others += state.unsettled(state.entered());
        });
        if others > 1 {
            self.broker.hasten();
        }
    }

    /// Sends everything that is open and waits for all that was enqueued before, callbacks included. Fails with the
    /// first failure that no ticket told anybody.
    pub(super) fn flush(&self) -> Result<()> {
        let callbacks = self.callbacks.entered();
        self.send_all();
        // Not what others enqueue meanwhile: that may have no end.
        for (lane, entered) in self.entered() {
            while let Some(oldest) = self.oldest_of(&lane, entered) {
                self.wait_for(&lane, &oldest);
            }
        }
        self.run_callbacks();
        self.callbacks.wait(callbacks, || None)?;
        self.report()
    }

    /// The same, for at most `timeout`.
    pub(super) fn flush_within(&self, timeout: Duration) -> Result<()> {
        let clock = self.broker.clock();
        let deadline = clock.monotonic().saturating_add(timeout);
        let left = || deadline.saturating_sub(clock.monotonic());
        let callbacks = self.callbacks.entered();
        self.send_all();
        let entered = self.entered();
        loop {
            let seen = self.memory.freed().count();
            if entered.iter().all(|(lane, entered)| self.oldest_of(lane, *entered).is_none()) {
                break;
            }
            let left = left();
            if left.is_zero() {
                return Err(self.unsettled(&entered, timeout));
            }
            if !(self.broker.is_manual() && self.wait_for_oldest()) {
                self.await_end(seen, left);
            }
        }
        self.run_callbacks();
        if !self.callbacks.wait(callbacks, || Some(left()))? {
            let message = format!("callbacks were still running after {} ms", timeout.as_millis());
            return Err(Error::new(ErrorKind::TimedOut, message).remedy("let callbacks do less, or leave it to others"));
        }
        self.report()
    }

    /// Runs callbacks, where there is no thread that does.
    fn run_callbacks(&self) {
        if self.broker.is_manual() {
            self.callbacks.run();
        }
    }

    /// How many batches each lane has completed.
    fn entered(&self) -> Vec<(Arc<Lane>, u64)> {
        let mut entered = Vec::new();
        self.visit(Busy::Wait, |lane, state| entered.push((Arc::clone(lane), state.entered())));
        entered
    }

    /// The oldest batch whose end is not known, if it is one of the first `entered` of its lane.
    fn oldest_of(&self, lane: &Lane, entered: u64) -> Option<Arc<Batch>> {
        let mut state = lane.lock();
        self.settle(lane, &mut state);
        state.oldest().filter(|_| state.unsettled(entered) > 0)
    }

    /// Waits for the oldest batch of some lane; `false` when there is none.
    fn wait_for_oldest(&self) -> bool {
        let mut oldest = None;
        self.visit(Busy::PassOver, |lane, state| {
            oldest = oldest.take().or_else(|| Some((Arc::clone(lane), state.oldest()?)));
        });
        oldest.map(|(lane, batch)| self.wait_for(&lane, &batch)).is_some()
    }

    /// Waits for a batch, and notes how it went.
    fn wait_for(&self, lane: &Lane, batch: &Batch) {
        if batch.wait().is_ok() {
            lane.conclude(batch);
        }
    }

    /// What has not been acknowledged.
    fn unsettled(&self, entered: &[(Arc<Lane>, u64)], timeout: Duration) -> Error {
        let mut counts = BTreeMap::<String, usize>::new();
        for (lane, entered) in entered {
            let unsettled = lane.lock().unsettled(*entered);
            if unsettled > 0 {
                *counts.entry(lane.name().to_string()).or_default() += unsettled;
            }
        }
        let named: Vec<_> = counts.iter().map(|(name, count)| format!("{name} ({count})")).take(NAMED_MAX).collect();
        let others = if counts.len() > NAMED_MAX { " and others" } else { "" };
        let (count, named, waited) = (counts.values().sum::<usize>(), named.join(", "), timeout.as_millis());
        let message = format!("{count} batches were not acknowledged within {waited} ms: of {named}{others}");
        Error::new(ErrorKind::TimedOut, message)
            .remedy("they are with the log, or are tried again: close the broker to wait for them")
    }

    /// The first failure that no ticket told anybody.
    pub(super) fn report(&self) -> Result<()> {
        let mut failures = self.failures.lock();
        failures.sweep();
        failures.unreported.take().map_or(Ok(()), Err)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Task for Accumulator {
    fn run(&self, now: Duration) -> Option<Duration> {
        // Somebody asked for an earlier time meanwhile, and that was then.
        if self.alarm.armed.load(Ordering::Acquire) > nanos(now) {
            return None;
        }
        // First, so that a batch opened meanwhile arms anew.
        self.alarm.armed.store(u64::MAX, Ordering::Release);
        let next = self.send_due(now);
        self.run_callbacks();
        let more = (self.broker.is_manual() && self.callbacks.are_pending()).then_some(now);
        if let Some(next) = next.into_iter().chain(more).min() {
            self.run_by(next);
        }
        None
    }

    fn finish(&self) -> Result<()> {
        self.alarm.armed.store(u64::MAX, Ordering::Release);
        self.visit(Busy::Wait, |lane, state| self.finish_lane(lane, state));
        self.run_callbacks();
        Ok(())
    }
}

impl Drop for Accumulator {
    fn drop(&mut self) {
        // What was accepted is handed to the log. Nobody comes back to it: what needs room, or a higher epoch, waits for that.
        self.visit(Busy::Wait, |lane, state| {
            self.finish_lane(lane, state);
            Self::abandon(state);
        });
        if let Err(error) = self.report() {
            self.broker.note_unsent(&error);
        }
        if self.broker.is_manual() {
            self.run_callbacks();
            self.callbacks.give_up();
        }
        self.callbacks.end();
    }
}

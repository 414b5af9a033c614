//! One partition's part of a producer: the open batch, those that wait to be given to the log, and those whose end is
//! not known yet.
//!
//! Invariants, under the lane's lock: batches reach the log in the order in which they were opened. One that may be
//! tried again keeps its place: none behind it is given before it is, and what was taken back with it goes first.
//! Where the broker has threads nobody waits for the disk with the lock held, so a partition that hangs holds up nobody who
//! asks for others; only what is left when a producer or broker goes is given by whoever ends it.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::accumulator::{Accumulator, Manner, Settings};
use super::batch::{Batch, Ticket};
use super::memory::Share;
use super::partitioner::Sticky;
use crate::broker::{Quiet, Task, TopicEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Appended, COPY_BYTES_MAX, LogPosition};
use crate::metrics::BatchFigures;
use crate::record::{BatchBuilder, Record, RecordBatch};
use crate::sync::atomic::AtomicBool;
use crate::topic::{self, Attempt, Passed};
use crate::types::{Timestamp, TopicPartition};

/// Whether, and for how long, what was refused is tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retries {
    pub(super) most: u32,
    pub(super) backoff: Duration,
    pub(super) backoff_max: Duration,
    /// How long after its batch was opened a record may go to the log, tried again or not.
    pub(super) delivery: Option<Duration>,
}

/// How long to let the log be, at least, before the next look at how it went.
const LOOK_MIN: Duration = Duration::from_millis(10);

/// `delivery.timeout.ms` unless it is set.
const DELIVERY: Duration = Duration::from_secs(120);

impl Retries {
    /// How long to wait after so many refusals, from one.
    pub(super) fn pause(&self, refusals: u32) -> Duration {
        let doubled = self.backoff.saturating_mul(1 << refusals.saturating_sub(1).min(20));
        doubled.min(self.backoff_max.max(self.backoff))
    }
}

/// Whether an append of which nothing is there now may do later: when there is space, or the partition is reopened.
fn is_for_now(error: &Error) -> bool {
    error.is_of_shortage() || error.kind() == ErrorKind::Poisoned
}

pub(super) struct Lane {
    pub(super) partition: Arc<topic::Partition>,
    pub(super) topic: Arc<TopicEntry>,
    /// The topic's choice for records without a key.
    sticky: Arc<Sticky>,
    accumulator: Weak<Accumulator>,
    state: Mutex<State>,
    /// It is on its accumulator's list.
    pub(super) listed: AtomicBool,
}

/// The lock of a lane, with which nobody is woken: that follows when it is let go.
pub(super) struct Locked<'a> {
    // Dropped in this order.
    state: MutexGuard<'a, State>,
    _quiet: Quiet,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) open: Option<OpenBatch>,
    /// Complete ones that the log does not have: they come after those that were sent.
    waiting: VecDeque<Kept>,
    /// What the first of those waits for.
    preparing: Option<Preparing>,
    /// Nobody comes back to it: whoever gives what is left waits for the disk.
    is_last: bool,
    /// When the first of those is tried again.
    retry_at: Option<Duration>,
    /// When to look how those went that were sent.
    look_at: Option<Duration>,
    /// With the log; the end of the oldest is not known.
    sent: VecDeque<Sent>,
    /// How many batches were completed.
    entered: u64,
}

pub(super) struct OpenBatch {
    pub(super) builder: BatchBuilder,
    pub(super) share: Share,
    pub(super) shared: Arc<Batch>,
    pub(super) opened: Duration,
    /// What the topic allowed when it was opened.
    pub(super) limit: usize,
    /// Of its records without a key, which came here because others did.
    pub(super) keyless_bytes: usize,
}

impl OpenBatch {
    /// When it is to go, if it is not complete before.
    pub(super) fn due(&self, linger: Duration) -> Duration {
        if self.shared.is_wanted() { self.opened } else { self.opened.saturating_add(linger) }
    }

    /// Takes in a record of about so many bytes.
    #[inline]
    pub(super) fn add(
        &mut self,
        record: &Record,
        bytes: usize,
        timestamp: Timestamp,
        manner: Manner,
    ) -> Result<Ticket> {
        let index = u32::try_from(self.builder.len()).unwrap_or(u32::MAX);
        self.builder.push(timestamp, record)?;
        self.keyless_bytes += if manner.keyless { bytes } else { 0 };
        Ok(Ticket::new(Arc::clone(&self.shared), index, timestamp))
    }
}

/// A batch from its completion until its end is known.
struct Kept {
    /// Which of the lane's it is, from one.
    number: u64,
    shared: Arc<Batch>,
    _share: Share,
    /// Gone where it is given once.
    encoded: Option<RecordBatch>,
    figures: BatchFigures,
    opened: Duration,
    /// How often the log has refused it, or taken it back, and why the last time.
    refusals: u32,
    refused: Option<Error>,
}

/// What another thread does before a batch can go.
struct Preparing {
    /// The batch for which it is done.
    number: u64,
    outcome: Arc<OnceLock<Result<()>>>,
    /// When to look whether it is done.
    look_at: Duration,
}

/// What became of a batch that was given to the log.
enum Given {
    Appended(Appended),
    Waits(Preparing),
}

/// One that the log has.
struct Sent {
    kept: Kept,
    position: LogPosition,
    /// When it got it.
    at: Duration,
}

impl State {
    /// Nobody needs to look at it.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_none() && self.is_settled()
    }

    fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    /// Its first batch waits for what another thread does.
    #[cfg(test)]
    pub(super) fn is_preparing(&self) -> bool {
        self.preparing.is_some() && !self.waiting.is_empty()
    }

    /// How many batches were completed so far.
    pub(super) fn entered(&self) -> u64 {
        self.entered
    }

    /// Of how many of the first `entered` batches the end is not known.
    pub(super) fn unsettled(&self, entered: u64) -> usize {
        let kept = self.sent.iter().map(|sent| &sent.kept).chain(&self.waiting);
        kept.take_while(|kept| kept.number <= entered).count()
    }

    /// Has the open batch sent without further delay, and says how many there are with it.
    #[cfg(feature = "async")]
    pub(super) fn send_soon(&self) -> u64 {
        let open = self.open.iter().inspect(|open| open.shared.send_soon()).count();
        self.entered + open as u64
    }

    /// The oldest of the first `batches`, the open one included, whose end is not known.
    #[cfg(feature = "async")]
    pub(super) fn first_of(&self, batches: u64) -> Option<Arc<Batch>> {
        let open = || self.open.as_ref().filter(|_| self.entered < batches).map(|open| Arc::clone(&open.shared));
        self.oldest().filter(|_| self.unsettled(batches) > 0).or_else(open)
    }

    /// The batch whose end is to be known next.
    pub(super) fn oldest(&self) -> Option<Arc<Batch>> {
        let sent = self.sent.front().map(|sent| &sent.kept);
        sent.or(self.waiting.front()).map(|kept| Arc::clone(&kept.shared))
    }

    /// When something is to be done with nobody asking.
    pub(super) fn due(&self, linger: Duration) -> Option<Duration> {
        let open = self.open.as_ref().map(|open| open.due(linger));
        let goes = |_: &&Preparing| self.retry_at.is_none() && !self.waiting.is_empty();
        let prepared = self.preparing.as_ref().filter(goes).map(|preparing| preparing.look_at);
        open.into_iter().chain(self.retry_at).chain(self.look_at).chain(prepared).min()
    }
}

impl Kept {
    /// Of whom, and of how many records, a failure is told.
    fn failing(&self) -> (&Arc<Batch>, u64) {
        (&self.shared, self.figures.records)
    }
}

impl Lane {
    pub(super) fn new(
        partition: Arc<topic::Partition>,
        topic: Arc<TopicEntry>,
        sticky: Arc<Sticky>,
        accumulator: Weak<Accumulator>,
    ) -> Self {
        let (state, listed) = (Mutex::default(), AtomicBool::new(false));
        Self { partition, topic, sticky, accumulator, state, listed }
    }

    pub(super) fn name(&self) -> &TopicPartition {
        self.partition.name()
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked { state: self.state.lock(), _quiet: Quiet::new() }
    }

    /// Puts a record of at most so many bytes into the open batch; `None` where there is none, or that batch is complete
    /// then or before. Nobody is woken by it.
    #[inline]
    pub(super) fn add(
        &self,
        record: &Record,
        bytes: usize,
        timestamp: Timestamp,
        manner: Manner,
    ) -> Result<Option<Ticket>> {
        let mut state = self.state.lock();
        // With room behind it for one like it.
        let has_room = |open: &&mut OpenBatch| open.builder.size_estimate() + 2 * bytes < open.limit;
        state.open.as_mut().filter(has_room).map(|open| open.add(record, bytes, timestamp, manner)).transpose()
    }

    pub(super) fn try_lock(&self) -> Option<Locked<'_>> {
        Some(Locked { state: self.state.try_lock()?, _quiet: Quiet::new() })
    }

    /// Whether nobody will look at it any more.
    pub(super) fn is_left(&self) -> bool {
        self.accumulator.strong_count() == 0
    }

    /// Has the sync thread look at what is due.
    pub(super) fn look_now(&self) {
        if let Some(accumulator) = self.accumulator.upgrade() {
            accumulator.run_by(accumulator.broker.clock().monotonic());
        }
    }

    /// Sends `batch` if it is this lane's open one.
    pub(super) fn send(&self, batch: &Arc<Batch>) {
        // Without an accumulator it was sent when that was dropped.
        let Some(accumulator) = self.accumulator.upgrade() else { return };
        let mut state = self.lock();
        if let Some(mine) = state.open.take_if(|open| Arc::ptr_eq(&open.shared, batch)) {
            accumulator.complete(self, &mut state, mine);
        }
    }

    /// Takes note of ends that are known, unless somebody is at the lane who will.
    pub(super) fn settle(&self) {
        if let (Some(accumulator), Some(mut state)) = (self.accumulator.upgrade(), self.try_lock()) {
            accumulator.settle(self, &mut state);
        }
    }

    /// Sees to a batch of which somebody was told `error` when he asked for what was appended at `position`. Whether
    /// that is its end: it is not to go again.
    pub(super) fn is_given_up(&self, batch: &Batch, position: LogPosition, error: &Error) -> bool {
        let Some(accumulator) = self.accumulator.upgrade() else { return batch.is_at(position) };
        let mut state = self.lock();
        accumulator.settle(self, &mut state);
        let is_at = batch.is_at(position);
        if is_at {
            // The log tells it to those who wait, and not to those who only look.
            accumulator.conclude(self, &mut state, position, Some(error));
        }
        is_at
    }

    /// Takes note that a batch has arrived, which somebody waited for.
    pub(super) fn conclude(&self, batch: &Batch) {
        let Some(accumulator) = self.accumulator.upgrade() else { return };
        let mut state = self.lock();
        accumulator.settle(self, &mut state);
        if let Some(position) = batch.position() {
            accumulator.conclude(self, &mut state, position, None);
        }
    }

    /// How long it is until the next try, where those who wait are the ones who try.
    pub(super) fn pause(&self) -> Option<Duration> {
        let accumulator = self.accumulator.upgrade().filter(|it| it.broker.is_manual())?;
        let now = accumulator.broker.clock().monotonic();
        self.lock().retry_at.map(|at| at.saturating_sub(now))
    }

    /// Tries again, due or not.
    pub(super) fn try_again(&self) {
        if let Some(accumulator) = self.accumulator.upgrade() {
            let mut state = self.lock();
            accumulator.give_waiting(self, &mut state);
        }
    }
}

impl Accumulator {
    /// Ends a batch that has no room for more.
    pub(super) fn complete_full(&self, lane: &Lane, state: &mut State, batch: OpenBatch) {
        lane.sticky.count(batch.keyless_bytes, self.settings.batch_bytes, true);
        self.end_open(lane, state, batch);
    }

    /// Ends an open batch for which there may be more.
    pub(super) fn complete(&self, lane: &Lane, state: &mut State, batch: OpenBatch) {
        lane.sticky.count(batch.keyless_bytes, self.settings.batch_bytes, false);
        self.end_open(lane, state, batch);
    }

    /// Ends an open batch and gives it to the log, unless others wait before it.
    fn end_open(&self, lane: &Lane, state: &mut State, batch: OpenBatch) {
        let OpenBatch { builder, mut share, shared, opened, limit, .. } = batch;
        let (records, plain_bytes, room_bytes) = (builder.len() as u64, builder.size_estimate() as u64, limit as u64);
        state.entered += 1;
        let number = state.entered;
        // A panic was printed when it happened, and is told to those who wait for the batch.
        let finished = panic::catch_unwind(AssertUnwindSafe(|| builder.finish()));
        match finished.unwrap_or_else(|_| Err(panic_at(lane))) {
            Ok(encoded) => {
                if share.shrink(self.held_bytes(encoded.size_bytes())) {
                    self.keep_within_memory();
                }
                let figures = BatchFigures { records, bytes: encoded.size_bytes() as u64, plain_bytes, room_bytes };
                let (encoded, _share) = (Some(encoded), share);
                let (refusals, refused) = (0, None);
                state.waiting.push_back(Kept { number, shared, _share, encoded, figures, opened, refusals, refused });
                if state.retry_at.is_none() {
                    self.give_waiting(lane, state);
                }
            }
            Err(error) => self.fail(lane, (&shared, records), error),
        }
    }

    /// What is held of a batch of so many bytes: the log copies a small one, and its own is kept for another try.
    fn held_bytes(&self, bytes: usize) -> usize {
        if self.settings.retries.most > 0 && bytes < COPY_BYTES_MAX { 2 * bytes } else { bytes }
    }

    /// Tries again what is due.
    pub(super) fn give_due(&self, lane: &Lane, state: &mut State, now: Duration) {
        match state.retry_at.map_or(state.preparing.is_some(), |at| at <= now) {
            true => self.give_waiting(lane, state),
            false => self.settle(lane, state),
        }
    }

    /// Gives those that wait to the log, until one is refused for now.
    pub(super) fn give_waiting(&self, lane: &Lane, state: &mut State) {
        state.retry_at = None;
        if !self.is_prepared(lane, state) {
            return self.settle(lane, state);
        }
        self.settle(lane, state);
        while state.retry_at.is_none()
            && let Some(mut kept) = state.waiting.pop_front()
        {
            match self.give(lane, state, &mut kept) {
                Ok(Given::Appended(appended)) => {
                    let level = self.settings.durability.unwrap_or_else(|| lane.partition.level());
                    kept.shared.resolve(Ok((appended, level)));
                    let at = self.broker.clock().monotonic();
                    state.sent.push_back(Sent { kept, position: appended.position, at });
                }
                Ok(Given::Waits(preparing)) => {
                    state.preparing = Some(preparing);
                    state.waiting.push_front(kept);
                    self.fail_late(lane, state);
                    break;
                }
                Err(error) => self.refuse(lane, state, kept, error),
            }
        }
        if let Some(at) = self.look_later(state) {
            self.run_by(at);
        }
    }

    /// Gives a batch to the log, unless another thread has to do something before.
    fn give(&self, lane: &Lane, state: &State, kept: &mut Kept) -> Result<Given> {
        let is_once = self.settings.retries.most == 0;
        let encoded = if is_once { kept.encoded.take() } else { kept.encoded.clone() };
        let encoded = encoded.ok_or_else(|| panic_at(lane))?;
        // It must not come before one that is to go again.
        let after = state.sent.back().filter(|_| !is_once).map(|sent| sent.position);
        loop {
            let passed = lane.partition.guard(|_| self.broker.produce_in_passing(&lane.partition, &encoded, after))?;
            let bytes = match passed {
                Passed::Appended(appended) => return Ok(Given::Appended(appended)),
                Passed::Waits(bytes) => bytes,
            };
            if !state.is_last
                && let Some(preparing) = self.prepare_later(lane, kept.number, bytes)
            {
                kept.encoded = Some(encoded);
                return Ok(Given::Waits(preparing));
            }
            lane.partition.guard(|partition| partition.prepare(bytes))?;
        }
    }

    /// Has a thread that may wait for the disk do what a batch needs before it can go.
    fn prepare_later(&self, lane: &Lane, number: u64, bytes: u64) -> Option<Preparing> {
        let (partition, outcome) = (Arc::clone(&lane.partition), Arc::default());
        let look_at = self.broker.clock().monotonic().saturating_add(LOOK_MIN);
        let preparing = Preparing { number, outcome: Arc::clone(&outcome), look_at };
        // It holds no producer, and keeps none from going.
        let alarm = Arc::clone(&self.alarm);
        let errand = move |run: &dyn Fn(Weak<dyn Task>)| {
            let prepared = partition.guard(|partition| partition.prepare_in_turn(bytes));
            let is_done = !matches!(prepared, Ok(Attempt::OthersAtIt));
            drop(outcome.set(prepared.map(drop)));
            if is_done {
                alarm.ring(run);
            }
        };
        self.broker.do_later(errand).then_some(preparing)
    }

    /// Whether the first batch that waits need not wait for the disk any more.
    fn is_prepared(&self, lane: &Lane, state: &mut State) -> bool {
        if state.preparing.as_ref().is_some_and(|preparing| preparing.outcome.get().is_none()) {
            self.fail_late(lane, state);
            return false;
        }
        let Some(preparing) = state.preparing.take() else { return true };
        let outcome = preparing.outcome.get().cloned().unwrap_or(Ok(()));
        match (outcome, state.waiting.pop_front()) {
            (Err(error), Some(first)) if first.number == preparing.number => self.refuse(lane, state, first, error),
            // What stopped another one need not stop this.
            (_, Some(first)) => state.waiting.push_front(first),
            (_, None) => {}
        }
        true
    }

    /// Fails those that have waited too long for what another thread does; the next go on waiting for the same.
    fn fail_late(&self, lane: &Lane, state: &mut State) {
        let now = self.broker.clock().monotonic();
        let is_late = |first: &Kept| now >= first.opened.saturating_add(self.delivery_timeout());
        while state.waiting.front().is_some_and(is_late)
            && let Some(late) = state.waiting.pop_front()
        {
            let why = "room that others were to give up, or a higher leader epoch, was not there yet";
            let error = self.too_late(lane, Error::new(ErrorKind::TimedOut, why));
            self.fail(lane, late.failing(), error);
        }
        if let (Some(preparing), false) = (&mut state.preparing, state.waiting.is_empty()) {
            let due = now.saturating_add(LOOK_MIN);
            preparing.look_at = due;
            self.look_by(lane, state, due);
        }
    }

    /// Keeps what the log refused for another try, or fails it.
    fn refuse(&self, lane: &Lane, state: &mut State, kept: Kept, error: Error) {
        if !self.may_go_again(&kept, &error) {
            return self.fail(lane, kept.failing(), error);
        }
        self.put_back(lane, state, kept, error);
        // It may be because of others that were taken back before.
        self.take_back(lane, state);
        self.put_off(lane, state);
    }

    /// Takes those out whose end is known; what was taken back from the log is to go again.
    pub(super) fn settle(&self, lane: &Lane, state: &mut State) {
        self.take_back(lane, state);
        while let Some(outcome) = state.sent.front().and_then(|sent| sent.kept.shared.try_outcome()) {
            if outcome.is_err() && self.take_back(lane, state) {
                continue;
            }
            let Some(sent) = state.sent.pop_front() else { return };
            self.end(lane, sent, outcome.err());
        }
        self.look_later(state);
    }

    /// Notes when to look how it went where nobody asks: it may have been taken back, and it counts.
    fn look_later(&self, state: &mut State) -> Option<Duration> {
        let later = || self.broker.clock().monotonic().saturating_add(self.settings.retries.backoff.max(LOOK_MIN));
        state.look_at = (!state.sent.is_empty()).then(later);
        state.look_at
    }

    /// Takes out the batch that was appended at `position`, if it is there.
    pub(super) fn conclude(&self, lane: &Lane, state: &mut State, position: LogPosition, error: Option<&Error>) {
        let at = state.sent.iter().position(|sent| sent.position == position);
        if let Some(sent) = at.and_then(|at| state.sent.remove(at)) {
            self.end(lane, sent, error.cloned());
        }
    }

    fn end(&self, lane: &Lane, sent: Sent, error: Option<Error>) {
        let Sent { kept, position, at } = sent;
        if let Some(error) = error {
            return self.fail(lane, kept.failing(), error);
        }
        let now = self.broker.clock().monotonic();
        let took = self.ended(lane, position).map_or(now, |ended| ended.min(now)).saturating_sub(at);
        lane.topic.produced.acknowledged(kept.figures, at.saturating_sub(kept.opened), took);
    }

    /// When an append had its level at the latest, if somebody else brought it there.
    fn ended(&self, lane: &Lane, position: LogPosition) -> Option<Duration> {
        let is_enough = self.settings.durability.is_none_or(|level| level <= lane.partition.level());
        lane.partition.settled_at(position).filter(|_| is_enough)
    }

    /// Puts those before all others that wait which the log has taken back, if there are any.
    fn take_back(&self, lane: &Lane, state: &mut State) -> bool {
        let refusal = |kept: &Kept| kept.shared.try_outcome()?.err().filter(is_for_now);
        let is_once = self.settings.retries.most == 0;
        // What is taken back goes up to the end.
        if is_once || state.sent.back().and_then(|sent| refusal(&sent.kept)).is_none() {
            return false;
        }
        let kept_there = state.sent.iter().take_while(|sent| refusal(&sent.kept).is_none()).count();
        let taken: Vec<_> = state.sent.drain(kept_there..).collect();
        for Sent { kept, .. } in taken.into_iter().rev() {
            match refusal(&kept) {
                Some(error) if self.may_go_again(&kept, &error) => {
                    kept.shared.reopen();
                    self.put_back(lane, state, kept, error);
                }
                error => self.fail(lane, kept.failing(), error.unwrap_or_else(|| panic_at(lane))),
            }
        }
        // They go first.
        self.put_off(lane, state);
        true
    }

    fn may_go_again(&self, kept: &Kept, error: &Error) -> bool {
        kept.refusals < self.settings.retries.most && is_for_now(error)
    }

    /// Keeps a batch, before all that wait, for another try, if there is time for one.
    fn put_back(&self, lane: &Lane, state: &mut State, mut kept: Kept, error: Error) {
        if self.broker.clock().monotonic() >= kept.opened.saturating_add(self.delivery_timeout()) {
            let error = self.too_late(lane, error);
            return self.fail(lane, kept.failing(), error);
        }
        lane.topic.produced.put_off();
        kept.refusals += 1;
        kept.refused = Some(error);
        state.waiting.push_front(kept);
    }

    /// Has the first of those that wait tried again in a while.
    fn put_off(&self, lane: &Lane, state: &mut State) {
        let Some(first) = state.waiting.front() else { return };
        let pause = self.settings.retries.pause(first.refusals);
        let again = self.broker.clock().monotonic().saturating_add(pause);
        let at = again.min(first.opened.saturating_add(self.delivery_timeout()));
        state.retry_at = Some(at);
        self.look_by(lane, state, at);
    }

    /// Has the sync thread look at what waits at `due`; ends it where the broker has closed, and may have looked for the last
    /// time.
    fn look_by(&self, lane: &Lane, state: &mut State, due: Duration) {
        self.run_by(due);
        if !state.is_last && self.broker.check_open().is_err() {
            self.finish_lane(lane, state);
        }
    }

    fn delivery_timeout(&self) -> Duration {
        let Settings { linger, retries, .. } = &self.settings;
        retries.delivery.unwrap_or(DELIVERY.max(linger.unwrap_or_default()))
    }

    fn too_late(&self, lane: &Lane, error: Error) -> Error {
        let limit = self.delivery_timeout().as_millis();
        let message = format!("a batch was not taken within {limit} ms (delivery.timeout.ms), and is not there");
        Error::new(ErrorKind::TimedOut, message)
            .partition(lane.name().clone())
            .source(error)
            .remedy("see to what stopped it, then send its records again")
    }

    /// Tells those who wait for a batch, or flush later, that it was not to be.
    fn fail(&self, lane: &Lane, (batch, records): (&Arc<Batch>, u64), error: Error) {
        lane.topic.produced.failed(records);
        self.note_failure(batch, &error);
        batch.resolve(Err(error));
    }

    /// Gives what is left a last try: nobody tries again.
    pub(super) fn finish_lane(&self, lane: &Lane, state: &mut State) {
        let was_preparing = state.preparing.take().is_some();
        state.is_last = true;
        if let Some(open) = state.open.take() {
            self.complete(lane, state, open);
        }
        self.settle(lane, state);
        if was_preparing || state.retry_at.is_some() {
            self.give_waiting(lane, state);
        }
        state.retry_at = None;
        let mut why = None;
        for mut kept in std::mem::take(&mut state.waiting) {
            // Those behind wait for the same reason.
            why = kept.refused.take().or(why);
            let message = "a batch that was to be tried again was not, since its producer or broker went";
            let error = Error::new(ErrorKind::Closed, message).partition(lane.name().clone());
            let error = why.iter().cloned().fold(error, Error::source);
            self.fail(lane, kept.failing(), error.remedy("flush the producer before, or close it"));
        }
    }

    /// Lets go of what is with the log; its tickets ask there.
    pub(super) fn abandon(state: &mut State) {
        state.sent.clear();
    }
}

fn panic_at(lane: &Lane) -> Error {
    Error::new(ErrorKind::Indeterminate, "a thread panicked at a batch: its records may or may not be there")
        .partition(lane.name().clone())
        .remedy("reopen the partition where it takes no more appends, and read what is there")
}

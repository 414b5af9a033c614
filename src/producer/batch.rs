//! One batch on its way and the tickets of its records. A batch is open, then appended or failed;
//! whoever holds a ticket learns its own record's part of that.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::lane::Lane;
use crate::broker::{Broker, Signal};
use crate::error::{Error, Result};
use crate::log::{Appended, Committed, LogPosition};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::types::{Durability, Offset, PartitionId, Timestamp, TopicPartition};

/// Where a record ended up.
///
/// ```
/// let broker = thalweg::Broker::in_memory()?;
/// let at = broker.topic("orders").create()?.send(("user-1", "paid"))?;
/// assert_eq!((at.topic(), at.partition, at.offset), ("orders", 0.into(), 0.into()));
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordMetadata {
    /// The partition's number.
    pub partition: PartitionId,
    /// The record's place in it.
    pub offset: Offset,
    /// The timestamp stored: the record's own, or the time of the append where the topic says
    /// `message.timestamp.type=LogAppendTime`.
    pub timestamp: Timestamp,
    at: TopicPartition,
}

impl RecordMetadata {
    pub(super) fn new(at: TopicPartition, offset: Offset, timestamp: Timestamp) -> Self {
        Self { partition: at.partition(), offset, timestamp, at }
    }

    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.at.topic()
    }

    /// Topic and partition together.
    #[must_use]
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.at
    }
}

#[derive(Debug)]
enum State {
    /// Takes records.
    Open,
    Appended(Appended, Durability),
    Failed(Error),
}

/// What the records of one batch share.
pub(super) struct Batch {
    lane: Arc<Lane>,
    /// Keeps the directory ours for as long as somebody may wait on it.
    broker: Broker,
    /// How long those who wait for it let it gather.
    linger: Duration,
    state: Mutex<State>,
    /// It is open no more.
    changed: Signal,
    /// A ticket was dropped before its owner knew how it went.
    abandoned: AtomicBool,
    /// A task waits for it, which lets it gather no longer.
    wanted: AtomicBool,
}

impl Batch {
    pub(super) fn new(lane: Arc<Lane>, broker: Broker, linger: Duration) -> Self {
        Self {
            lane,
            broker,
            linger,
            state: Mutex::new(State::Open),
            changed: Signal::default(),
            abandoned: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
        }
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// It is to go as soon as somebody looks.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Has it sent for a task that waits for it, as [`wait_sent`](Self::wait_sent) does for a thread.
    fn want(&self) {
        if self.linger.is_zero() {
            self.send_soon();
        }
    }

    /// The same, whatever its linger.
    pub(super) fn send_soon(&self) {
        if !self.wanted.swap(true, Ordering::AcqRel) {
            self.lane.look_now();
        }
    }

    /// Ends the open state and wakes those who wait for that.
    pub(super) fn resolve(&self, outcome: Result<(Appended, Durability)>) {
        *self.state.lock() = match outcome {
            Ok((appended, level)) => State::Appended(appended, level),
            Err(error) => State::Failed(error),
        };
        self.changed.notify();
    }

    /// The log has taken it back, and is going to get it again.
    pub(super) fn reopen(&self) {
        *self.state.lock() = State::Open;
    }

    /// Whether it is with the log, and was appended at `position`.
    pub(super) fn is_at(&self, position: LogPosition) -> bool {
        self.position() == Some(position)
    }

    /// Where it was appended, if it is with the log.
    pub(super) fn position(&self) -> Option<LogPosition> {
        match &*self.state.lock() {
            State::Appended(appended, _) => Some(appended.position),
            State::Open | State::Failed(_) => None,
        }
    }

    /// What is known without waiting for durability; `None` while open.
    fn appended(&self) -> Option<Result<(Appended, Durability)>> {
        match &*self.state.lock() {
            State::Open => None,
            State::Appended(appended, level) => Some(Ok((*appended, *level))),
            State::Failed(error) => Some(Err(error.clone())),
        }
    }

    /// How its last try went, as far as that can be said without waiting.
    pub(super) fn try_outcome(&self) -> Option<Result<Appended>> {
        match self.appended()? {
            Err(error) => Some(Err(error)),
            Ok((appended, level)) => match self.lane.partition.is_committed(appended.position, level) {
                Ok(true) => Some(Ok(appended)),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            },
        }
    }

    /// How it went, as far as that can be said without waiting.
    fn try_end(&self) -> Option<Result<Appended>> {
        let (appended, level) = match self.appended()? {
            Err(error) => return Some(Err(error)),
            Ok(found) => found,
        };
        match self.lane.partition.is_committed(appended.position, level) {
            Ok(true) => Some(Ok(appended)),
            Err(error) if self.lane.is_given_up(self, appended.position, &error) => Some(Err(error)),
            Ok(false) | Err(_) => None,
        }
    }

    /// Waits until the batch has reached its level, or will not. Somebody has sent it.
    pub(super) fn wait(&self) -> Result<Appended> {
        loop {
            let (appended, level) = self.wait_appended()?;
            match self.lane.partition.wait(appended.position, level) {
                Ok(()) => {
                    self.lane.settle();
                    return Ok(appended);
                }
                Err(error) if self.lane.is_given_up(self, appended.position, &error) => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Waits until the batch is with the log.
    fn wait_appended(&self) -> Result<(Appended, Durability)> {
        let mut seen = None;
        loop {
            if let Some(outcome) = self.appended() {
                return outcome;
            }
            // One look more, after the count is read.
            let Some(seen) = seen.replace(self.changed.count()) else { continue };
            // Somebody else is just sending it, or it is tried again in a while.
            if !self.changed.wait_past(seen, self.lane.pause()) {
                self.lane.try_again();
            }
        }
    }

    /// Has the batch sent, if nobody else does so within its linger.
    fn wait_sent(self: &Arc<Self>) {
        if !self.linger.is_zero() {
            let seen = self.changed.count();
            if self.appended().is_none() {
                self.changed.wait_past(seen, Some(self.linger));
            }
        }
        self.lane.send(self);
    }

    /// Whether its end is known, or will be once somebody looks; else `waker` is woken when it may be.
    pub(super) fn poll_settled(&self, waker: &Waker) -> Poll<()> {
        match self.poll_appended(waker) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok((appended, level))) => match self.lane.partition.committed(appended.position, level) {
                Ok(mut committed) => Pin::new(&mut committed).poll(&mut Context::from_waker(waker)).map(drop),
                Err(_) => Poll::Ready(()),
            },
        }
    }

    fn poll_appended(&self, waker: &Waker) -> Poll<Result<(Appended, Durability)>> {
        let mut seen = None;
        loop {
            if let Some(outcome) = self.appended() {
                return Poll::Ready(outcome);
            }
            if let Some(seen) = seen.replace(self.changed.count())
                && !self.changed.poll_past(seen, waker)
            {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // Else it is let go of when its end is known.
        if self.is_abandoned()
            && self.lane.is_left()
            && let State::Appended(appended, level) = &*self.state.lock()
        {
            self.broker.watch_left(&self.lane.topic, &self.lane.partition, *appended, *level);
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("partition", self.lane.partition.name()).field("state", &self.state).finish()
    }
}

/// The promise of an acknowledgement for one record; from [`Producer::enqueue`](super::Producer::enqueue).
///
/// Wait on it, poll it as a future, or drop it: then a failure surfaces in the producer's next `flush` or `close`. A
/// future's work is done by the broker's threads.
///
/// ```
/// use thalweg::{Broker, Record};
/// let broker = Broker::in_memory()?;
/// let orders = broker.topic("orders").create()?;
/// let producer = broker.producer().build()?;
/// let ticket = producer.enqueue(&orders, Record::new("x").key("k"))?;
/// assert_eq!(ticket.wait()?.offset, 0);
/// # Ok::<(), thalweg::Error>(())
/// ```
#[must_use = "a ticket tells whether the record was kept; drop it knowingly, flush() then reports failures"]
pub struct Ticket {
    batch: Arc<Batch>,
    /// The record's place in its batch.
    index: u32,
    timestamp: Timestamp,
    known: bool,
    /// Its record may wait for others though somebody asks.
    patient: bool,
    /// Where it was appended when it was last asked for as a future, and the future of that.
    committed: Option<(LogPosition, Committed)>,
}

impl Ticket {
    pub(super) fn new(batch: Arc<Batch>, index: u32, timestamp: Timestamp) -> Self {
        Self { batch, index, timestamp, known: false, patient: false, committed: None }
    }

    /// One that asks for a callback in place of this one.
    pub(super) fn another(&self) -> Self {
        let mut another = Self::new(Arc::clone(&self.batch), self.index, self.timestamp);
        another.patient = true;
        another
    }

    /// Tells a flush when the end of a batch is known, and keeps nobody from asking.
    #[cfg(feature = "async")]
    pub(super) fn of_flush(batch: Arc<Batch>) -> Self {
        let timestamp = Timestamp::NONE;
        Self { batch, index: 0, timestamp, known: true, patient: true, committed: None }
    }

    pub(super) fn partition(&self) -> &TopicPartition {
        self.batch.lane.name()
    }

    /// Lets others ask.
    pub(super) fn hand_over(mut self) {
        self.known = true;
    }

    /// Blocks until the record is as durable as was asked for.
    ///
    /// # Errors
    /// Why it was not appended (see [`Log::append`](crate::Log::append)); `Indeterminate` when a sync failed, so
    /// that it may or may not survive; `TopicDeleted`; `Closed`.
    pub fn wait(mut self) -> Result<RecordMetadata> {
        self.batch.wait_sent();
        let outcome = self.batch.wait();
        self.answer(outcome)
    }

    /// The same, for at most `timeout`; then the ticket comes back to be tried again. The broker's threads do the
    /// work, as for a future.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), or the ticket itself when time ran out.
    pub fn wait_timeout(mut self, timeout: Duration) -> std::result::Result<Result<RecordMetadata>, Self> {
        let clock = Arc::clone(self.batch.broker.clock());
        let deadline = clock.monotonic().saturating_add(timeout);
        if self.batch.linger <= timeout {
            self.batch.wait_sent();
        }
        let alarm = Arc::new(Alarm::default());
        let waker = Waker::from(Arc::clone(&alarm));
        loop {
            let seen = alarm.0.count();
            if let Poll::Ready(result) = Pin::new(&mut self).poll(&mut Context::from_waker(&waker)) {
                return Ok(result);
            }
            let left = deadline.saturating_sub(clock.monotonic());
            if !alarm.0.wait_past(seen, Some(left)) {
                return Err(self);
            }
        }
    }

    /// The result if it is known already.
    pub fn try_result(&mut self) -> Option<Result<RecordMetadata>> {
        let outcome = self.batch.try_end()?;
        Some(self.answer(outcome))
    }

    fn answer(&mut self, outcome: Result<Appended>) -> Result<RecordMetadata> {
        self.known = true;
        let appended = outcome?;
        let offset = appended.base_offset + i64::from(self.index);
        let timestamp = appended.append_time.unwrap_or(self.timestamp);
        Ok(RecordMetadata::new(self.batch.lane.partition.name().clone(), offset, timestamp))
    }
}

/// Wakes a thread where a future would wake a task.
#[derive(Default)]
struct Alarm(Signal);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

impl Future for Ticket {
    type Output = Result<RecordMetadata>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let (appended, level) = match self.batch.poll_appended(cx.waker()) {
                Poll::Pending => {
                    if !self.patient {
                        self.batch.want();
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(self.answer(Err(error))),
                Poll::Ready(Ok(found)) => found,
            };
            // Not one of a place that it had before it was tried again.
            let earlier = self.committed.take().filter(|(position, _)| *position == appended.position);
            let earlier = earlier.map(|(_, committed)| committed);
            let partition = &self.batch.lane.partition;
            let reached = match (partition.is_committed(appended.position, level), earlier) {
                (Ok(false), None) => partition.committed(appended.position, level).map(Some),
                (Ok(false), committed) => Ok(committed),
                (known, _) => known.map(|_| None),
            };
            let reached = match reached {
                Ok(Some(mut committed)) => match Pin::new(&mut committed).poll(cx) {
                    Poll::Pending => {
                        self.committed = Some((appended.position, committed));
                        return Poll::Pending;
                    }
                    Poll::Ready(reached) => reached,
                },
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            match reached {
                Ok(()) => {
                    self.batch.lane.settle();
                    return Poll::Ready(self.answer(Ok(appended)));
                }
                Err(error) if self.batch.lane.is_given_up(&self.batch, appended.position, &error) => {
                    return Poll::Ready(self.answer(Err(error)));
                }
                Err(_) => {}
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.known {
            self.batch.abandoned.store(true, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("batch", &self.batch).field("index", &self.index).finish_non_exhaustive()
    }
}

//! One batch on its way and the tickets of its records. A batch is open, then appended or failed;
//! whoever holds a ticket learns its own record's part of that.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::accumulator::Lane;
use crate::broker::{Broker, Signal};
use crate::error::{Error, Result};
use crate::log::{Appended, Committed};
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
    Open(Vec<Waker>),
    Appended(Appended, Durability),
    Failed(Error),
}

/// What the records of one batch share.
pub(super) struct Batch {
    lane: Arc<Lane>,
    /// Keeps the directory ours for as long as somebody may wait on it.
    broker: Broker,
    state: Mutex<State>,
    changed: Condvar,
    /// A ticket was dropped before its owner knew how it went.
    abandoned: AtomicBool,
}

impl Batch {
    pub(super) fn new(lane: Arc<Lane>, broker: Broker) -> Self {
        Self {
            lane,
            broker,
            state: Mutex::new(State::Open(Vec::new())),
            changed: Condvar::new(),
            abandoned: AtomicBool::new(false),
        }
    }

    pub(super) fn partition(&self) -> &TopicPartition {
        self.lane.partition.name()
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(*self.state.lock(), State::Open(_))
    }

    /// Ends the open state and wakes those who wait for that.
    pub(super) fn resolve(&self, outcome: Result<(Appended, Durability)>) {
        let next = match outcome {
            Ok((appended, level)) => State::Appended(appended, level),
            Err(error) => State::Failed(error),
        };
        let before = std::mem::replace(&mut *self.state.lock(), next);
        self.changed.notify_all();
        if let State::Open(wakers) = before {
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// What is known without waiting for durability; `None` while open.
    fn appended(&self) -> Option<Result<(Appended, Durability)>> {
        match &*self.state.lock() {
            State::Open(_) => None,
            State::Appended(appended, level) => Some(Ok((*appended, *level))),
            State::Failed(error) => Some(Err(error.clone())),
        }
    }

    /// How it went, as far as that can be said without waiting.
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

    /// Sends the batch if it is still open, gives it up to `linger` before, and waits until it has reached its
    /// level.
    pub(super) fn wait(self: &Arc<Self>, linger: Duration) -> Result<Appended> {
        self.wait_sent(linger);
        let (appended, level) = loop {
            if let Some(outcome) = self.appended() {
                break outcome?;
            }
            // Somebody else is just sending it.
            let mut state = self.state.lock();
            if matches!(*state, State::Open(_)) {
                self.changed.wait(&mut state);
            }
        };
        self.lane.partition.wait(appended.position, level)?;
        Ok(appended)
    }

    /// Has the batch sent, if nobody else does so within `linger`.
    fn wait_sent(self: &Arc<Self>, linger: Duration) {
        if !linger.is_zero() {
            let mut state = self.state.lock();
            while matches!(*state, State::Open(_)) {
                if self.changed.wait_for(&mut state, linger).timed_out() {
                    break;
                }
            }
        }
        self.lane.send(self);
    }

    /// Whether its end is known, or will be once somebody looks; else what is put into `committed` wakes whoever
    /// waits for that.
    pub(super) fn poll_settled(&self, waker: &Waker, committed: &mut Option<Committed>) -> Poll<()> {
        match self.poll_appended(waker) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok((appended, level))) => match self.lane.partition.committed(appended.position, level) {
                Ok(future) => Pin::new(committed.insert(future)).poll(&mut Context::from_waker(waker)).map(drop),
                Err(_) => Poll::Ready(()),
            },
        }
    }

    fn poll_appended(&self, waker: &Waker) -> Poll<Result<(Appended, Durability)>> {
        let mut state = self.state.lock();
        match &mut *state {
            State::Open(wakers) => {
                if !wakers.iter().any(|w| w.will_wake(waker)) {
                    wakers.push(waker.clone());
                }
                Poll::Pending
            }
            State::Appended(appended, level) => Poll::Ready(Ok((*appended, *level))),
            State::Failed(error) => Poll::Ready(Err(error.clone())),
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
    linger: Duration,
    known: bool,
    committed: Option<Committed>,
}

impl Ticket {
    pub(super) fn new(batch: Arc<Batch>, index: u32, timestamp: Timestamp, linger: Duration) -> Self {
        Self { batch, index, timestamp, linger, known: false, committed: None }
    }

    /// Blocks until the record is as durable as was asked for.
    ///
    /// # Errors
    /// Why it was not appended (see [`Log::append`](crate::Log::append)); `Indeterminate` when a sync failed, so
    /// that it may or may not survive; `TopicDeleted`; `Closed`.
    pub fn wait(mut self) -> Result<RecordMetadata> {
        let outcome = self.batch.wait(self.linger);
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
        if self.linger <= timeout {
            self.batch.wait_sent(self.linger);
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
        let outcome = self.batch.try_outcome()?;
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
        let (appended, level) = match self.batch.poll_appended(cx.waker()) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(self.answer(Err(error))),
            Poll::Ready(Ok(found)) => found,
        };
        if self.committed.is_none() {
            match self.batch.lane.partition.committed(appended.position, level) {
                Ok(committed) => self.committed = Some(committed),
                Err(error) => return Poll::Ready(self.answer(Err(error))),
            }
        }
        let polled = self.committed.as_mut().map_or(Poll::Ready(Ok(())), |committed| Pin::new(committed).poll(cx));
        polled.map(|reached| self.answer(reached.map(|()| appended)))
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

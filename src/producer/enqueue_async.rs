//! Enqueueing for tasks: the same records on the same way, and a future in place of a thread that waits for room.
//!
//! Protocol against lost wake-ups: whatever makes room is asked to wake the task before the last look at it.

use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::accumulator::Accumulator;
use super::batch::{RecordMetadata, Ticket};
use super::lane::Lane;
use super::memory::{Share, Turn};
use super::partitioner::Placement;
use super::wait::Wait;
use super::{Producer, Waiting};
use crate::broker::{Timer, TopicRef};
use crate::error::{Error, Result};
use crate::record::Record;
use crate::types::PartitionId;

/// Why a record was not taken.
enum Refused {
    NoRoom,
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What one call waits for.
struct Room {
    timer: Timer,
    /// When it found no memory.
    memory_since: Option<Duration>,
    /// Its place in the line for that.
    turn: Option<Turn>,
    /// When it found no room under a byte budget.
    budget_since: Option<Duration>,
    /// Where its record goes, once that was chosen.
    partition: Option<PartitionId>,
}

impl Producer {
    /// As [`enqueue`](Self::enqueue), as a future of the ticket: while there is no room no thread waits. It needs no
    /// particular runtime. The ticket is a future as well: `enqueue_async(..).await?.await?` is an acknowledgement.
    ///
    /// The record is taken when the future finds room, at its first poll as a rule; so records keep the order in which
    /// these futures end. Memory is given in the order in which it was asked for: what was put aside for a future waits
    /// until that is polled or dropped, but a thread that waits as well takes it after 10 ms. A batch that is full is
    /// written, never synced, on the thread that polls; the first record of a partition opens its log there. Of a
    /// [`manual`](crate::BrokerBuilder::manual) broker room comes with `run_maintenance`.
    ///
    /// **Cancel safe**: dropped before it is ready, the record was not taken and nothing of it is sent, nor is any
    /// other record affected. A dropped ticket cancels nothing.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    ///
    /// ```
    /// # use std::{pin::pin, sync::Arc, task::{Context, Poll, Wake}, thread::{self, Thread}};
    /// # struct Unpark(Thread);
    /// # impl Wake for Unpark {
    /// #     fn wake(self: Arc<Self>) { self.0.unpark() }
    /// # }
    /// # fn block_on<T>(future: impl Future<Output = T>) -> T {
    /// #     let (mut future, waker) = (pin!(future), Arc::new(Unpark(thread::current())).into());
    /// #     loop {
    /// #         if let Poll::Ready(out) = future.as_mut().poll(&mut Context::from_waker(&waker)) { return out; }
    /// #         thread::park();
    /// #     }
    /// # }
    /// use thalweg::{Broker, Record};
    /// let broker = Broker::in_memory()?;
    /// let orders = broker.topic("orders").create()?;
    /// let producer = broker.producer().build()?;
    /// block_on(async {
    ///     let first = producer.enqueue_async(&orders, ("user-1", "paid")).await?;
    ///     let second = producer.enqueue_async(&orders, ("user-1", "sent")).await?;
    ///     assert_eq!((first.await?.offset, second.await?.offset), (0.into(), 1.into()));
    ///     assert_eq!(producer.send_async(&orders, ("user-2", "paid")).await?.offset, 2);
    ///     Ok::<(), thalweg::Error>(())
    /// })?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub async fn enqueue_async<T: TopicRef + ?Sized>(&self, topic: &T, record: impl Into<Record>) -> Result<Ticket> {
        let mut record = record.into();
        let timer = Timer::new(&self.shared.accumulator.broker);
        let mut room = Room { timer, memory_since: None, turn: None, budget_since: None, partition: None };
        poll_fn(|cx| {
            // A look at a key, or at where those without one go now, takes no turn and asks nobody.
            if let Some(partition) = room.partition.take()
                && !matches!(self.shared.placement, Placement::KeyOrSticky)
            {
                record.set_partition(partition);
            }
            let mut wait = Polling { room: &mut room, waker: cx.waker() };
            match self.push_with(topic, &record, Waiting::Later, &mut None, &mut wait) {
                Ok(ticket) => Poll::Ready(Ok(ticket)),
                Err(Refused::Failed(error)) => Poll::Ready(Err(error)),
                Err(Refused::NoRoom) => Poll::Pending,
            }
        })
        .await
    }

    /// As [`send`](Self::send), as a future: it ends when the record is as durable as the topic, or this producer, says.
    /// Many at once share batches and syncs, as tickets do.
    ///
    /// **Cancel safe** in that no other record is affected: dropped before the record found room it was not taken, and
    /// after that it is sent all the same. Where that has to be known, keep the ticket of
    /// [`enqueue_async`](Self::enqueue_async).
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_async<T: TopicRef + ?Sized>(
        &self,
        topic: &T,
        record: impl Into<Record>,
    ) -> Result<RecordMetadata> {
        self.enqueue_async(topic, record).await?.await
    }
}

/// One poll's part of the wait.
struct Polling<'a, 'b> {
    room: &'a mut Room,
    waker: &'b Waker,
}

impl Polling<'_, '_> {
    /// Has the task woken when its time is up, to go on at this lane.
    fn refuse(&mut self, lane: &Lane, now: Duration, left: Duration) -> Refused {
        self.room.partition = Some(lane.name().partition());
        self.room.timer.wake_at(now.saturating_add(left), self.waker);
        Refused::NoRoom
    }
}

impl Wait for Polling<'_, '_> {
    type Refusal = Refused;

    fn for_room(&mut self, lane: &Lane, bytes: usize) -> Result<(), Refused> {
        let now = lane.partition.clock().monotonic();
        let waited = now.saturating_sub(self.room.budget_since.unwrap_or(now));
        let Some(left) = lane.partition.poll_room(bytes as u64, waited, self.waker)? else { return Ok(()) };
        self.room.budget_since.get_or_insert(now);
        Err(self.refuse(lane, now, left))
    }

    fn for_memory(&mut self, accumulator: &Accumulator, lane: &Lane, bytes: usize) -> Result<Share, Refused> {
        let now = accumulator.broker.clock().monotonic();
        let waited = now.saturating_sub(self.room.memory_since.unwrap_or(now));
        match accumulator.poll_memory((lane, bytes), (waited, &mut self.room.turn), self.waker)? {
            Ok(share) => {
                self.room.turn = None;
                Ok(share)
            }
            Err(left) => {
                self.room.memory_since.get_or_insert(now);
                Err(self.refuse(lane, now, left))
            }
        }
    }

    fn is_failure(refusal: &Refused) -> bool {
        matches!(refusal, Refused::Failed(_))
    }
}

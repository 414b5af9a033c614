//! Flushing for tasks: nothing is sent on the thread that polls, and no thread waits.
//!
//! Protocol: of each lane that has something to do it is noted, with the lane locked, how far the flush goes; an open
//! batch is to be sent from then on. The end of a lane's oldest batch wakes the task, as it does the owner of a ticket.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Producer;
use super::accumulator::{Accumulator, BUSY};
use super::batch::{Batch, Ticket};
use super::lane::Lane;
use crate::broker::Timer;
use crate::error::Result;

impl Producer {
    /// As [`flush`](Self::flush), as a future. The broker's threads send and sync, and no thread waits; of a
    /// [`manual`](crate::BrokerBuilder::manual) broker `run_maintenance` does, and runs the callbacks. What was enqueued
    /// before its first poll counts.
    ///
    /// **Cancel safe**: dropped, it gives up the wait and nothing else. What it has begun to send is sent, and a failure
    /// that it has not told is told by the next `flush` or `close`.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
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
    /// let broker = thalweg::Broker::in_memory()?;
    /// broker.topic("orders").create()?;
    /// let producer = broker.producer().build()?;
    /// block_on(async {
    ///     for n in 0..100 {
    ///         drop(producer.enqueue_async("orders", format!("order {n}")).await?);
    ///     }
    ///     producer.flush_async().await?; // All 100 are durable, or this says why not.
    ///     producer.close_async().await
    /// })?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub async fn flush_async(&self) -> Result<()> {
        self.shared.accumulator.check_open()?;
        self.settled().await
    }

    /// As [`close`](Self::close), as a future: from its first poll on everything is refused.
    ///
    /// **Cancel safe** in that nothing accepted is lost: dropped after its first poll, the producer stays closed, what was
    /// enqueued is sent, and a failure that nobody was told is a [finding](crate::Broker::findings) (`NotSent`) once the
    /// producer is dropped.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub async fn close_async(&self) -> Result<()> {
        if !self.shared.accumulator.close() {
            return Ok(());
        }
        self.settled().await
    }

    /// Waits until all that was enqueued before has been acknowledged, callbacks included.
    async fn settled(&self) -> Result<()> {
        let accumulator = &self.shared.accumulator;
        let (callbacks, timer) = (accumulator.callbacks.entered(), Timer::new(&accumulator.broker));
        let mut lanes: Vec<_> = accumulator.lanes_at_work().into_iter().map(Flushed::new).collect();
        poll_fn(|cx| {
            let mut is_busy = false;
            lanes.retain_mut(|flushed| match flushed.poll(accumulator, cx) {
                Ok(end) => end.is_pending(),
                Err(Busy) => {
                    is_busy = true;
                    true
                }
            });
            if is_busy {
                timer.wake_at(accumulator.broker.clock().monotonic().saturating_add(BUSY), cx.waker());
            }
            if lanes.is_empty() { accumulator.callbacks.poll_ran(callbacks, cx.waker()) } else { Poll::Pending }
        })
        .await?;
        accumulator.report()
    }
}

/// Another thread is at the lane.
struct Busy;

/// One lane's part of a flush.
struct Flushed {
    lane: Arc<Lane>,
    /// How many of its batches the flush waits for, once that is known.
    batches: Option<u64>,
    /// The oldest of them whose end is not known.
    oldest: Option<(Arc<Batch>, Ticket)>,
}

impl Flushed {
    fn new(lane: Arc<Lane>) -> Self {
        Self { lane, batches: None, oldest: None }
    }

    /// Whether the ends of all are known; else the task is woken when another one is, unless the lane is busy.
    fn poll(&mut self, accumulator: &Accumulator, cx: &mut Context<'_>) -> Result<Poll<()>, Busy> {
        loop {
            let mut arrived = None;
            if let Some((batch, end)) = &mut self.oldest {
                match Pin::new(end).poll(cx) {
                    Poll::Pending => return Ok(Poll::Pending),
                    Poll::Ready(end) => arrived = end.ok().and_then(|_| batch.position()),
                }
            }
            let mut state = self.lane.try_lock().ok_or(Busy)?;
            accumulator.settle(&self.lane, &mut state);
            if let Some(position) = arrived {
                accumulator.conclude(&self.lane, &mut state, position, None);
            }
            let batches = *self.batches.get_or_insert_with(|| state.send_soon());
            self.oldest = state.first_of(batches).map(|batch| (Arc::clone(&batch), Ticket::of_flush(batch)));
            if self.oldest.is_none() {
                return Ok(Poll::Ready(()));
            }
        }
    }
}

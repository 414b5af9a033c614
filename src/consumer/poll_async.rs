//! A poll for tasks: the same looks, and between them a future in place of a blocked thread.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::poll::{Consumer, Seen};
use super::records::Records;
use crate::broker::Timer;
use crate::error::Result;

impl Consumer {
    /// As [`poll`](Self::poll), as a future: while there is nothing to hand out no thread waits. It needs no particular
    /// runtime. The time runs from its first poll on and is kept by the broker's threads; of a
    /// [`manual`](crate::BrokerBuilder::manual) broker it passes in `run_maintenance`.
    ///
    /// Records are read from files, and joining and rebalances write the group's state, on the thread that polls the
    /// future. [`commit`](Self::commit) waits for a sync: where that must not be, call it on a thread that may block.
    ///
    /// **Cancel safe**: dropped before it is ready, it handed out nothing, and no position has moved over a record that
    /// nobody got. An interrupt by a [`ConsumerWaker`](crate::ConsumerWaker) is told by the next poll if not by this one.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub async fn poll_async(&mut self, timeout: Duration) -> Result<Records> {
        let timer = Timer::new(&self.broker);
        let until = self.broker.clock().monotonic().saturating_add(timeout);
        poll_fn(|cx| self.poll_until(until, &timer, cx)).await
    }

    fn poll_until(&mut self, until: Duration, timer: &Timer, cx: &Context<'_>) -> Poll<Result<Records>> {
        loop {
            let (seen, wait) = match self.look(until)? {
                Seen::Records(records) => return Poll::Ready(Ok(records)),
                Seen::Nothing { seen, wait, .. } => (seen, wait),
            };
            timer.wake_at(self.broker.clock().monotonic().saturating_add(wait), cx.waker());
            if !self.signal.poll_past_alone(seen, cx.waker()) {
                return Poll::Pending;
            }
        }
    }
}

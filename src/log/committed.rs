//! Waiting for an append as a future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::Result;
use crate::types::Durability;

use super::{Inner, LogPosition};

/// Resolves when an append has reached its level; see [`Log::committed`](super::Log::committed).
#[must_use = "a future does nothing unless it is polled"]
pub struct Committed {
    pub(super) inner: Arc<Inner>,
    pub(super) position: LogPosition,
    pub(super) level: Durability,
}

impl Future for Committed {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            let seen = self.inner.signal.count();
            match self.inner.is_known_at(self.position, self.level) {
                Ok(false) => {}
                Ok(true) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
            }
            if !self.inner.signal.poll_past(seen, cx.waker()) {
                return Poll::Pending;
            }
        }
    }
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committed").field("position", &self.position).field("level", &self.level).finish()
    }
}

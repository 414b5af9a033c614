//! What a producer may hold (`buffer.memory`): open batches and those on their way, of all partitions together.
//! Invariant: every batch has a share until its end is known, and gives it back by being dropped.

use std::sync::Arc;
use std::task::{Wake, Waker};

use crate::broker::Signal;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// What a batch takes beside its bytes, at most: what is noted about it on its way, and room for more of such notes.
const NOTES: usize = 2 << 10;

/// The bytes of a producer's batches, and their limit.
#[derive(Debug)]
pub(super) struct Memory {
    limit: usize,
    used: AtomicUsize,
    /// The part of it that is in no buffer of the producer's pool.
    small: AtomicUsize,
    freed: Arc<Freed>,
}

/// Tells that memory came back, or may do so when somebody looks.
#[derive(Debug, Default)]
struct Freed(Signal);

impl Wake for Freed {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

impl Memory {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), small: AtomicUsize::new(0), freed: Arc::default() })
    }

    /// What a batch of so many bytes needs, if it is to be had. One that needs all gets all.
    pub(super) fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let bytes = (bytes + NOTES).min(self.limit);
        let add = |used: usize| used.checked_add(bytes).filter(|&used| used <= self.limit);
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        taken.is_ok().then(|| Share { memory: Arc::clone(self), bytes, is_small: false })
    }

    /// What buffers may take.
    pub(super) fn for_buffers(&self) -> usize {
        self.limit.saturating_sub(self.small.load(Ordering::Relaxed))
    }

    /// Counts how often memory came back, or a batch was opened, which whoever waits for memory has sent.
    pub(super) fn freed(&self) -> &Signal {
        &self.freed.0
    }

    /// Has those look again who wait for memory.
    pub(super) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.freed))
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        self.freed.0.notify();
    }
}

/// The bytes of one batch.
#[derive(Debug)]
pub(super) struct Share {
    memory: Arc<Memory>,
    bytes: usize,
    is_small: bool,
}

impl Share {
    /// Gives back what a batch of `bytes` needs no more, now that it is encoded: one that leaves most of its buffer
    /// empty went without it. Whether it has.
    pub(super) fn shrink(&mut self, bytes: usize) -> bool {
        let is_small = !self.is_small && bytes < self.bytes.saturating_sub(NOTES) / 2;
        if is_small {
            let freed = self.bytes - (bytes + NOTES);
            (self.bytes, self.is_small) = (bytes + NOTES, true);
            self.memory.small.fetch_add(self.bytes, Ordering::Relaxed);
            self.memory.give_back(freed);
        }
        is_small
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.is_small {
            self.memory.small.fetch_sub(self.bytes, Ordering::Relaxed);
        }
        self.memory.give_back(self.bytes);
    }
}

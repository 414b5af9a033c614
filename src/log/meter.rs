//! How many bytes logs hold, staged ones included, and who waits for there to be fewer.
//!
//! A log keeps its own count, under its append lock, and carries every change into the sums that it is part of.
//! What a sum may grow to is not decided here. Invariant: a sum is what its logs hold, counted once each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Signal;

/// The bytes of several logs.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    bytes: AtomicU64,
    freed: Signal,
}

impl Sum {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Notified when it shrinks.
    pub(crate) fn freed(&self) -> &Signal {
        &self.freed
    }
}

/// The bytes of one log. The default is part of no sum.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    held: AtomicU64,
    sums: Vec<Arc<Sum>>,
}

impl Meter {
    pub(crate) fn of(sums: Vec<Arc<Sum>>) -> Self {
        Self { held: AtomicU64::new(0), sums }
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    /// The log grew.
    pub(super) fn add(&self, bytes: u64) {
        if !self.sums.is_empty() {
            self.held.fetch_add(bytes, Ordering::AcqRel);
            for sum in &self.sums {
                sum.bytes.fetch_add(bytes, Ordering::AcqRel);
            }
        }
    }

    /// The log was counted anew.
    pub(crate) fn set(&self, held: u64) {
        let before = self.held.swap(held, Ordering::AcqRel);
        for sum in &self.sums {
            if held >= before {
                sum.bytes.fetch_add(held - before, Ordering::AcqRel);
            } else {
                sum.bytes.fetch_sub(before - held, Ordering::AcqRel);
                sum.freed.notify();
            }
        }
    }
}

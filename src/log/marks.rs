//! The offsets that bound a log, and their order, checked at the only place that sets them.

use parking_lot::Mutex;

use crate::sync::atomic::{AtomicI64, Ordering};
use crate::types::Offset;

use super::LogOffsets;

/// `log_start <= last_stable <= high_watermark <= written <= end` and `frontier <= written`. On a log whose
/// level is `PowerLoss` the high watermark never passes the frontier; on others it may, which is why these two
/// have no fixed order.
#[derive(Debug, Default)]
pub(super) struct Marks {
    log_start: AtomicI64,
    last_stable: AtomicI64,
    high_watermark: AtomicI64,
    frontier: AtomicI64,
    /// What the operating system holds.
    written: AtomicI64,
    end: AtomicI64,
    points: Mutex<Points>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Points {
    /// What is derived from batches below is synced with them: they need no scan.
    pub(super) recovery: Point,
    /// The same of what the operating system holds, as long as the machine runs.
    pub(super) noted: Point,
}

/// An offset up to which what is derived from batches is in its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) at: Offset,
    /// Of the aborted transactions below, in the segment that ends there or beyond: see
    /// `TransactionIndex::checksum_below`. `None` where nobody knows.
    pub(super) aborted: Option<u32>,
}

impl Point {
    /// Where a segment begins.
    pub(super) fn base(at: Offset) -> Self {
        Self { at, aborted: None }
    }
}

macro_rules! mark {
    ($get:ident, $set:ident) => {
        pub(super) fn $get(&self) -> Offset {
            Offset::new(self.$get.load(Ordering::Acquire))
        }

        pub(super) fn $set(&self, offset: Offset) {
            self.$get.store(offset.get(), Ordering::Release);
            self.check();
        }
    };
}

impl Marks {
    mark!(log_start, set_log_start);
    mark!(last_stable, set_last_stable);
    mark!(high_watermark, set_high_watermark);
    mark!(frontier, set_frontier);
    mark!(written, set_written);
    mark!(end, set_end);

    pub(super) fn points(&self) -> Points {
        *self.points.lock()
    }

    pub(super) fn recovery_point(&self) -> Offset {
        self.points().recovery.at
    }

    pub(super) fn set_recovery_point(&self, point: Point) {
        self.points.lock().recovery = point;
    }

    pub(super) fn set_noted(&self, point: Point) {
        self.points.lock().noted = point;
    }

    /// Reads the lower marks first: each only rises but for truncation, so the order holds in the answer.
    pub(super) fn load(&self) -> LogOffsets {
        let (log_start, last_stable, high_watermark) = (self.log_start(), self.last_stable(), self.high_watermark());
        LogOffsets { log_start, last_stable, high_watermark, frontier: self.frontier(), end: self.end() }
    }

    /// Everything at one offset: an empty log, or one whose every byte is synced.
    pub(super) fn reset(&self, log_start: Offset, end: Offset) {
        for mark in [&self.end, &self.written, &self.frontier, &self.high_watermark, &self.last_stable] {
            mark.store(end.get(), Ordering::Release);
        }
        self.log_start.store(log_start.get().min(end.get()), Ordering::Release);
        self.check();
    }

    /// Raises the log start, and with it a last stable offset that an open transaction held back below.
    pub(super) fn raise_log_start(&self, to: Offset) {
        self.last_stable.fetch_max(to.get(), Ordering::AcqRel);
        self.set_log_start(to);
    }

    /// Lowers every mark above `end` to it, the dependent ones first. What is derived from the segment that begins at
    /// `base` is made anew.
    pub(super) fn cut(&self, end: Offset, base: Offset) {
        let mut points = self.points.lock();
        points.noted = Point::default();
        if points.recovery.at > base.min(end) {
            points.recovery = Point::base(base.min(end));
        }
        drop(points);
        let visible = [&self.log_start, &self.last_stable, &self.high_watermark];
        for mark in visible.into_iter().chain([&self.frontier, &self.written, &self.end]) {
            mark.fetch_min(end.get(), Ordering::AcqRel);
        }
        self.check();
    }

    fn check(&self) {
        // Upper marks may rise between these loads, never sink: read them last.
        let (low, stable, high) = (self.log_start(), self.last_stable(), self.high_watermark());
        let (frontier, written, end) = (self.frontier(), self.written(), self.end());
        debug_assert!(
            low <= stable && stable <= high && high <= written && frontier <= written && written <= end,
            "offsets out of order: start {low} stable {stable} high {high} frontier {frontier} written {written} end {end}"
        );
    }
}

//! Offsets that may be known outside although a crash can take their records: the state slot says durably that the log
//! goes on above them. An offset never names two different records.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::error::Result;
use crate::types::{Durability, Offset};

use super::Inner;

/// Weakly acknowledged offsets are reserved this far ahead, so that one synced note covers many appends.
pub(super) const RESERVE_AHEAD: i64 = 1 << 20;

/// Offsets below `end` may be known outside although a crash can take their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reserved {
    pub(super) end: Offset,
    /// Even the death of the process can.
    pub(super) volatile: bool,
}

/// What is reserved, for those who must not wait for a note of it.
#[derive(Debug, Default)]
pub(super) struct Covered {
    end: AtomicI64,
    volatile_end: AtomicI64,
}

impl Covered {
    pub(super) fn by(reserved: Reserved) -> Self {
        let covered = Self::default();
        covered.set(reserved);
        covered
    }

    pub(super) fn set(&self, Reserved { end, volatile }: Reserved) {
        self.volatile_end.store(if volatile { end.get() } else { 0 }, Ordering::Release);
        self.end.store(end.get(), Ordering::Release);
    }

    /// Says that a note of this is durable. One that was overtaken by another changes nothing.
    pub(super) fn raise(&self, Reserved { end, volatile }: Reserved) {
        self.volatile_end.fetch_max(if volatile { end.get() } else { 0 }, Ordering::AcqRel);
        self.end.fetch_max(end.get(), Ordering::AcqRel);
    }

    pub(super) fn holds(&self, end: Offset, volatile: bool) -> bool {
        let noted = if volatile { &self.volatile_end } else { &self.end };
        noted.load(Ordering::Acquire) >= end.get()
    }

    /// Whether something is reserved and little of it left at `end`.
    pub(super) fn is_low_at(&self, end: Offset) -> bool {
        let covered = self.end.load(Ordering::Acquire);
        covered > 0 && end.get() >= covered - RESERVE_AHEAD / 2
    }

    /// Whether it became low between these.
    pub(super) fn is_low_between(&self, before: Offset, end: Offset) -> bool {
        self.is_low_at(end) && !self.is_low_at(before)
    }
}

impl Inner {
    /// Notes durably that offsets below `end` may be known outside although a crash can take their bytes: after it
    /// the log goes on above them. An offset never names two different records.
    pub(super) fn reserve(&self, end: Offset, level: Durability) -> Result<()> {
        let volatile = level == Durability::None;
        if self.context.slot.is_none() || self.covered.holds(end, volatile) || self.marks.frontier() >= end {
            return Ok(());
        }
        self.reserve_above(end, volatile)
    }

    /// Reserves more where half of it is used, so that appends need not.
    pub(super) fn reserve_ahead(&self) -> Result<()> {
        let written = self.marks.written();
        if self.covered.is_low_at(written) { self.heed(self.reserve_above(written, false)) } else { Ok(()) }
    }

    fn reserve_above(&self, end: Offset, volatile: bool) -> Result<()> {
        let Some(slot) = &self.context.slot else { return Ok(()) };
        let mut reserved = self.reserved.lock();
        self.check_waitable()?;
        // Whoever came first has done it for all; and a close, which syncs everything, has the last word.
        let is_done = self.covered.holds(end, volatile) && !self.covered.is_low_at(end);
        if is_done || (self.closing.load(Ordering::Acquire) && self.marks.frontier() >= end) {
            return Ok(());
        }
        let volatile = reserved.volatile || volatile;
        let raised = Reserved { end: reserved.end.max(end + RESERVE_AHEAD), volatile };
        slot.store(&self.slot_state(false, raised))?;
        // Who notes something else meanwhile says this as well.
        *reserved = raised;
        drop(reserved);
        slot.sync()?;
        let reserved = self.reserved.lock();
        // Whoever lowered it meanwhile said so itself.
        if reserved.end >= raised.end {
            self.covered.raise(raised);
        }
        drop(reserved);
        // Futures leave the note to others.
        self.signal.notify();
        Ok(())
    }
}

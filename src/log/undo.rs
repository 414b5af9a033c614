//! Taking back what was appended and could not be written for lack of space, as if it had never been appended.
//!
//! Each staged group remembers what it changed, and so the newest goes first. Whoever waits for something that went
//! finds out by the list of cuts. Not its job: deciding that a failure is one of space. Invariant: an offset that
//! was acknowledged, be it from memory, is not given out again; the log goes on above it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, ErrorKind, Result};
use crate::index::IndexWriter;
use crate::segment::Segment;
use crate::types::{LeaderEpoch, Offset};

use super::append::{Appender, Group, Seal, Staged};
use super::epochs::EpochCache;
use super::producers::ProducersUndo;
use super::{Inner, LogPosition, Reserved};

/// What a group's batches found when the first of them came.
#[derive(Debug, Default)]
pub(super) struct Undo {
    pub(super) density: Option<IndexWriter>,
    /// Before the group changed them, if it did.
    pub(super) epochs: Option<EpochCache>,
    pub(super) producers: ProducersUndo,
}

/// How the log's end came to go back, each time: for those who wait for an older end.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    /// The newest last; of those before, only that they were.
    kept: VecDeque<Cut>,
}

#[derive(Debug)]
struct Cut {
    /// The era that it began.
    era: u64,
    end: Offset,
    error: Error,
}

impl Cuts {
    const KEPT: usize = 64;

    fn add(&mut self, cut: Cut) {
        if self.kept.len() == Self::KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(cut);
    }

    /// Whether what is below `position` is still what it was when the position was given. Of several cuts the oldest
    /// is what took it.
    fn check(&self, position: LogPosition, era: u64) -> Result<(), Option<Error>> {
        let mut since = self.kept.iter().skip_while(|cut| cut.era <= position.era).peekable();
        let first = since.peek().map_or(era + 1, |cut| cut.era);
        if era > position.era && first > position.era + 1 {
            return Err(None);
        }
        since.find(|cut| cut.end < position.end).map_or(Ok(()), |cut| Err(Some(cut.error.clone())))
    }
}

impl Inner {
    /// Fails where something was cut off below `position` since it was given.
    pub(super) fn check_cuts(&self, position: LogPosition) -> Result<()> {
        if position.era == self.era() {
            return Ok(());
        }
        let cuts = self.cuts.lock();
        cuts.check(position, self.era()).map_err(|told| {
            let forgotten = || self.error(ErrorKind::Indeterminate, "the log was cut too often while an append waited");
            told.unwrap_or_else(forgotten).offset(position.end)
        })
    }

    /// Begins a new era: whoever waits for more than `end` gets the error. The append lock is held.
    pub(super) fn begin_era(&self, end: Offset, error: Error) {
        let mut cuts = self.cuts.lock();
        let era = self.era.fetch_add(1, Ordering::SeqCst) + 1;
        cuts.add(Cut { era, end, error });
    }

    /// Takes back these groups, which could not be written, and all that was appended behind them. Their bytes are
    /// not in any file.
    pub(super) fn roll_back(&self, mut groups: Vec<Group>, error: &Error) -> Result<()> {
        let mut appender = self.appender.lock();
        let a = &mut *appender;
        groups.append(&mut a.staged.groups);
        let Some(first) = groups.first() else { return Ok(()) };
        let (segment, position) = (Arc::clone(&first.segment), first.position);
        let end = self.marks.written().max(segment.base());
        if end < a.end {
            self.begin_era(end, error.clone());
        }
        let mut pending = None;
        for mut group in groups.into_iter().rev() {
            let Undo { density, epochs, producers } = std::mem::take(&mut group.undo);
            group.segment.cut_indexes(end, density);
            a.producers.restore(producers);
            a.epochs = epochs.unwrap_or_else(|| std::mem::take(&mut a.epochs));
            pending = group.seals.take();
        }
        a.producers.cut_transactions(end);
        // The start may have advanced meanwhile.
        a.epochs.truncate_from_start(self.marks.log_start());
        self.epochs.store(Arc::new(a.epochs.clone()));
        let mut segments = Vec::clone(&self.segments.load());
        // Segments behind never had a file.
        segments.truncate(1 + segments.iter().position(|s| Arc::ptr_eq(s, &segment)).unwrap_or(segments.len()));
        self.segments.store(Arc::new(segments));
        segment.set_until(None);
        (a.end, a.size, a.active, a.first_timestamp) = (end, position, segment, None);
        a.staged = Staged { epochs_changed: true, ..Staged::default() };
        let told = Offset::new(self.told.load(Ordering::SeqCst));
        if told > end {
            self.leave_out(a, told, pending)?;
        } else if let Some(seal) = pending {
            // The roll stands: files of the new segment may be there.
            a.staged.groups.push(Group::new(Arc::clone(&a.active), 0, end, Some(seal)));
        }
        self.marks.set_end(a.end);
        self.recount(a);
        Ok(())
    }

    /// Goes on at `to`, in a new segment and a higher leader epoch: offsets below are known outside. `pending` is
    /// the seal that the present segment waits for.
    pub(super) fn leave_out(&self, a: &mut Appender, to: Offset, pending: Option<Seal>) -> Result<()> {
        let epoch = a.epochs.latest().unwrap_or(LeaderEpoch::new(-1)).get().saturating_add(1);
        self.lowest_epoch.fetch_max(epoch, Ordering::AcqRel);
        // A crash, too, goes on above.
        let mut reserved = self.reserved.lock();
        *reserved = Reserved { end: to, volatile: true };
        self.covered.set(*reserved);
        drop(reserved);
        let seal = if a.size == 0 && !a.active.has_file() {
            let mut segments = Vec::clone(&self.segments.load());
            segments.pop();
            let segment = Arc::new(Segment::new(self.home.clone(), to, self.index_sizes()));
            if let Some(last) = segments.last() {
                last.set_until(Some(to));
            }
            segments.push(Arc::clone(&segment));
            self.segments.store(Arc::new(segments));
            a.active = segment;
            pending
        } else {
            if let Some(seal) = pending {
                a.staged.groups.push(Group::new(Arc::clone(&a.active), 0, a.end, Some(seal)));
            }
            Some(self.roll_to(a, to)?)
        };
        a.end = to;
        a.staged.left_out = true;
        a.staged.groups.push(Group::new(Arc::clone(&a.active), 0, to, seal));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_twice_is_told_of_the_first() {
        let mut cuts = Cuts::default();
        for (era, end, kind) in [(1, 16, ErrorKind::Indeterminate), (2, 17, ErrorKind::StorageFull)] {
            cuts.add(Cut { era, end: Offset::new(end), error: Error::new(kind, "cut") });
        }
        for (given_in, end, told) in [
            (0, 18, Some(ErrorKind::Indeterminate)),
            (0, 16, None),
            (1, 18, Some(ErrorKind::StorageFull)),
            (1, 17, None),
            (2, 18, None),
        ] {
            let found = cuts.check(LogPosition { end: Offset::new(end), era: given_in }, 2);
            assert_eq!(found.err().map(|e| e.unwrap().kind()), told, "{end} of era {given_in}");
        }
        for era in 3..=2 + Cuts::KEPT as u64 {
            cuts.add(Cut { era, end: Offset::new(100), error: Error::new(ErrorKind::Io, "cut") });
        }
        let last = 2 + Cuts::KEPT as u64;
        assert!(cuts.check(LogPosition { end: Offset::new(18), era: 1 }, last).unwrap_err().is_none(), "forgotten");
        assert!(cuts.check(LogPosition { end: Offset::new(18), era: 2 }, last).is_ok());
    }
}

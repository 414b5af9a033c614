//! Notes for recovery: up to where all that is derived from batches (indexes, producers, leader epochs) is in its
//! files, so that only the batches behind need a scan.
//!
//! Two such offsets stand in the state slot. `noted` moves on as bytes are written, every so many of them, and costs
//! no sync: what the operating system holds outlives the process, and the note says in which boot of the machine it
//! was made. The recovery point follows in maintenance, once the noted files are synced.
//!
//! Beside a note inside a segment lies a producer snapshot of its offset, as a stock broker writes them: that takes it
//! up, or removes it as one of no segment. It is there also when there are no producers, as proof of that.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::mutants::{Mutant, is_on};
use crate::segment::{FileKind, Segment, SegmentHome};
use crate::types::Offset;

use super::Inner;
use super::append::Seal;
use super::commit::Writer;
use super::marks::{Point, Points};
use super::read::floor;

impl Inner {
    /// Notes that all below `end`, which lies in `segment`, is in its files. Nothing fails for want of a note.
    pub(super) fn note_written(&self, writer: &mut Writer, segment: &Segment, end: Offset, producers: &[u8]) {
        writer.unnoted = 0;
        if self.context.slot.is_none() || segment.is_doubted() {
            return;
        }
        let mut file = || {
            self.place_epochs(writer)?;
            self.write_sealed(writer, 0)?;
            segment.write_indexes_below(end)?;
            self.write_snapshot(end, producers)
        };
        if file().is_ok() {
            let before = self.marks.points().noted.at;
            self.marks.set_noted(Point { at: end, aborted: segment.aborted_checksum(end) });
            self.note().and_then(|()| self.drop_snapshot(writer, before)).ok();
        }
    }

    /// Puts what recovery found into the slot, and notes it where it took long to find.
    pub(super) fn note_recovered(&self) -> Result<()> {
        let mut writer = self.writer();
        let appender = self.appender.lock();
        let (active, end, producers) = (Arc::clone(&appender.active), appender.end, appender.producers.encode()?);
        drop(appender);
        if writer.unnoted >= u64::from(self.config.load().recovery_note_bytes) && active.written() > 0 {
            self.note_written(&mut writer, &active, end, &producers);
        }
        self.note()
    }

    /// Removes the producer snapshot of an earlier note, unless it is still good for something.
    fn drop_snapshot(&self, writer: &Writer, at: Offset) -> Result<()> {
        let Points { recovery, noted } = self.marks.points();
        let kept = [Offset::ZERO, noted.at, recovery.at];
        if kept.contains(&at)
            || writer.held_snapshot == Some(at)
            || self.segments.load().iter().any(|segment| segment.base() == at)
        {
            return Ok(());
        }
        self.remove_snapshot(at)
    }

    /// Completes segments that ended and syncs their files and what the last note speaks of, then says durably that
    /// nothing below it needs a scan. While another thread is at it, it is left to that one.
    pub(super) fn raise_recovery_point(&self) -> Result<()> {
        let mut writer = self.writer();
        self.check_waitable()?;
        if writer.held_snapshot.is_some() {
            return Ok(());
        }
        // Under the lock, lest a truncation takes from under it what is written here.
        self.write_sealed(&mut writer, 0)?;
        let (era, frontier) = (self.era(), self.marks.frontier());
        let Points { recovery: before, noted } = self.marks.points();
        // The newest segment that was written: an active one that is only staged has no file yet.
        let segments = self.segments.load_full();
        let begun = |s: &&Arc<Segment>| s.written() > 0 && s.base() <= frontier;
        let base = segments.iter().rev().find(begun).map_or(Offset::ZERO, |s| s.base());
        let noted = Some(noted).filter(|noted| (base..=frontier).contains(&noted.at));
        let point = [before, noted.unwrap_or(Point::base(base))].into_iter().max_by_key(|point| point.at);
        let point = point.unwrap_or(before);
        let sealed: Vec<_> = writer.sealed.iter().filter(|seal| seal.next <= base).cloned().collect();
        if point.at == before.at && sealed.is_empty() {
            return Ok(());
        }
        writer.held_snapshot = Some(point.at);
        drop(writer);
        // Appends go on meanwhile.
        let active = (point.at > base.max(before.at)).then(|| &segments[floor(&segments, point.at)]);
        let synced = self.heed(self.sync_derived(&sealed, active, point.at));
        let mut writer = self.writer();
        let mut noted = Ok(());
        // A close does it all, and a log that was reopened has its own notes.
        let is_ours = || era == self.era() && self.check_usable().is_ok();
        if is_ours() && synced.is_ok() {
            writer.sealed.retain(|seal| !sealed.iter().any(|synced| synced.next == seal.next));
            self.marks.set_recovery_point(point);
            writer.changed = true;
            // Until the slot is durable the next opening may begin at the point before.
            writer.held_snapshot = Some(before.at);
            noted = self.note();
            drop(writer);
            noted = self.heed(noted.and_then(|()| self.context.slot.as_ref().map_or(Ok(()), |slot| slot.sync())));
            writer = self.writer();
        }
        writer.held_snapshot = None;
        if is_ours() && noted.is_ok() {
            for at in [before.at, point.at] {
                self.drop_snapshot(&writer, at).ok();
            }
        }
        synced.and(noted)
    }

    /// Notes up to where everything is synced, where the slot says less: whatever happens below is rot then, and no
    /// unfinished write. A sync of all notes together is the caller's.
    pub(super) fn note_frontier(&self) -> Result<()> {
        let Some(slot) = &self.context.slot else { return Ok(()) };
        let reserved = self.reserved.lock();
        let is_behind = slot.load().is_some_and(|noted| noted.frontier < self.marks.frontier());
        // A close has the last word.
        if !is_behind || self.closing.load(Ordering::Acquire) || self.replaced.load(Ordering::Acquire) {
            return Ok(());
        }
        slot.store(&self.slot_state(false, *reserved))
    }

    /// Syncs the indexes of sealed segments, and what a note at `point` inside of `active` needs.
    fn sync_derived(&self, sealed: &[Seal], active: Option<&Arc<Segment>>, point: Offset) -> Result<()> {
        if is_on(Mutant::RecoveryPointAhead) {
            return Ok(());
        }
        sealed.iter().try_for_each(|seal| self.sync_sealed(seal))?;
        let (storage, dir) = (&*self.context.storage, &*self.home.dir);
        if let Some(active) = active {
            active.sync_indexes()?;
            self.sync_snapshot(point)?;
        }
        storage.sync_dir(dir).map_err(|e| self.unsynced(dir, e))
    }
}

/// Removes a producer snapshot that is good for nothing any more, if it is there.
pub(super) fn remove_snapshot(home: &SegmentHome, at: Offset) -> Result<()> {
    let path = FileKind::Snapshot.path(&home.dir, at);
    match home.storage.remove_file(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|e| Error::io("cannot remove an old snapshot", path, e)),
    }
}

//! Taking records away: from the front (log start, retention) and from the end (truncation).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::mutants::{Mutant, is_on};
use crate::segment::{FileKind, Found, Segment, SegmentHome};
use crate::types::{Offset, Timestamp};

use super::Inner;
use super::append::{Appender, Group, Seal, Staged};
use super::commit::Writer;
use super::read::floor;
use super::state::SlotState;

/// What a log could delete first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oldest {
    Nothing,
    /// A segment with records that nobody may see before a sync.
    NotVisible,
    /// A segment whose newest record is of that time.
    AgesFrom(Timestamp),
}

impl Inner {
    pub(super) fn advance_log_start(&self, to: Offset) -> Result<()> {
        let mut writer = self.writer();
        self.check_usable()?;
        let offsets = self.marks.load();
        if to > offsets.high_watermark || to.get() < 0 {
            return Err(self
                .error(
                    ErrorKind::OffsetOutOfRange,
                    format!("the log start cannot pass the high watermark, {}", offsets.high_watermark),
                )
                .offset(to));
        }
        if to <= offsets.log_start {
            return Ok(());
        }
        self.mark_changed(&mut writer)?;
        // Durable first: a crash must not bring back what a caller believes deleted.
        let reserved = self.reserved.lock();
        if let Some(slot) = &self.context.slot {
            slot.store(&SlotState { log_start: to, ..self.slot_state(false, *reserved) })?;
            if is_on(Mutant::LogStartForgotten) { Ok(()) } else { slot.sync() }?;
        }
        self.marks.raise_log_start(to);
        drop(reserved);
        let mut appender = self.appender.lock();
        if appender.epochs.truncate_from_start(to) {
            appender.staged.epochs_changed = true;
            self.epochs.store(Arc::new(appender.epochs.clone()));
        }
        drop(appender);
        self.drop_segments_below(to);
        let first = self.segments.load().first().map_or(to, |s| s.base());
        for seal in &mut writer.sealed {
            seal.segment = seal.segment.take().filter(|segment| segment.base() >= first);
        }
        // The producer state where the first one begins is still of use.
        writer.sealed.retain(|seal| seal.next >= first);
        let buried = self.bury();
        drop(writer);
        self.notify();
        buried
    }

    /// Takes segments that lie wholly below `start` out of the list; their files go when their last reader has.
    fn drop_segments_below(&self, start: Offset) {
        // The append lock keeps a roll from replacing the list meanwhile.
        let mut appender = self.appender.lock();
        let segments = self.segments.load_full();
        let keep = floor(&segments, start);
        if keep > 0 {
            let first = segments[keep].base();
            for seal in appender.staged.groups.iter_mut().filter_map(|group| group.seals.as_mut()) {
                seal.segment.take_if(|segment| segment.base() < first);
            }
            self.graveyard.lock().extend(segments[..keep].iter().cloned());
            self.segments.store(Arc::new(segments[keep..].to_vec()));
            self.recount(&appender);
        }
    }

    /// Counts the log's bytes anew. The writer lock is held as well: what is being written is neither staged nor
    /// in a file.
    pub(super) fn recount(&self, appender: &Appender) {
        let written: u64 = self.segments.load().iter().map(|segment| segment.written()).sum();
        self.context.meter.set(written + appender.staged.bytes as u64);
    }

    /// Removes the files of dropped segments that nobody reads any more.
    pub(super) fn bury(&self) -> Result<()> {
        let mut graveyard = self.graveyard.lock();
        if graveyard.is_empty() {
            return Ok(());
        }
        let mut kept = Vec::new();
        let mut failed = None;
        for mut segment in graveyard.drain(..) {
            match Arc::get_mut(&mut segment) {
                Some(unread) if !unread.is_held() => match unread.remove_files() {
                    Ok(()) => {}
                    Err(e) => {
                        failed = Some(e);
                        kept.push(segment);
                    }
                },
                _ => kept.push(segment),
            }
        }
        *graveyard = kept;
        drop(graveyard);
        let dir = &*self.home.dir;
        self.heed(self.context.storage.sync_dir(dir).map_err(|e| Error::unsynced(dir, e)))?;
        failed.map_or(Ok(()), Err)
    }

    /// Deletes the oldest segments by Kafka's rules (`UnifiedLog.deleteOldSegments`): first those that keep the
    /// log above `bytes`, then those whose newest record is older than `age`. Never above the high watermark.
    pub(super) fn retain(&self, age: Option<Duration>, bytes: Option<u64>) -> Result<()> {
        let now = self.context.time.now();
        let high = self.marks.high_watermark();
        let segments = self.segments.load_full();
        let upper = |at: usize| segments.get(at + 1).map_or(self.marks.end(), |next| next.base());
        let total: u64 = segments.iter().map(|s| s.written()).sum();
        let mut excess = bytes.map_or(0, |limit| total.saturating_sub(limit));
        let mut drop = 0;
        for (at, segment) in segments.iter().enumerate() {
            let size = segment.written();
            let by_size = size > 0 && size <= excess;
            let by_age = match age {
                Some(age) if size > 0 => self.is_older(segment, age, now)?,
                _ => false,
            };
            if upper(at) > high || !(by_size || by_age) {
                break;
            }
            excess = excess.saturating_sub(size);
            drop = at + 1;
        }
        if drop == 0 {
            return Ok(());
        }
        let (start, all) = (upper(drop - 1), drop == segments.len());
        // Files go only when nobody holds their segments.
        std::mem::drop(segments);
        if all {
            self.roll_to_delete()?;
        }
        self.advance_log_start(start.min(self.marks.high_watermark()))
    }

    fn is_older(&self, segment: &Segment, age: Duration, now: Timestamp) -> Result<bool> {
        Ok(self.newest_in(segment)?.saturating_add(age) < now)
    }

    /// From when on the records of a segment age.
    fn newest_in(&self, segment: &Segment) -> Result<Timestamp> {
        if let Some(last) = segment.ages_from() {
            return Ok(last);
        }
        Ok(match segment.indexes()?.largest_timestamp() {
            timestamp if timestamp.get() >= 0 => timestamp,
            // No record says: the file's own time, as Kafka does.
            _ => {
                let path = segment.path(FileKind::Log);
                let found = self.context.storage.metadata(&path);
                found.map_err(|e| Error::io("cannot look at a segment", path, e))?.modified.into()
            }
        })
    }

    /// What could be deleted first, of all that was counted before the call.
    pub(super) fn oldest(&self) -> Result<Oldest> {
        // What was counted is staged as well then.
        let appender = self.appender.lock();
        let segments = self.segments.load_full();
        let Some(first) = segments.first() else { return Ok(Oldest::Nothing) };
        let is_only = segments.len() == 1;
        let end = segments.get(1).map_or(self.marks.end(), |next| next.base());
        let is_visible = end <= self.marks.high_watermark();
        drop(appender);
        match first.written() {
            _ if !is_visible => Ok(Oldest::NotVisible),
            0 if is_only => Ok(Oldest::Nothing),
            _ => self.newest_in(first).map(Oldest::AgesFrom),
        }
    }

    /// Deletes the oldest segment, durably, as far as it lies below the high watermark.
    pub(super) fn drop_oldest(&self) -> Result<()> {
        let second = || self.segments.load().get(1).map(|next| next.base());
        if second().is_none() {
            self.roll_to_delete()?;
        }
        match second() {
            Some(base) => self.advance_log_start(base.min(self.marks.high_watermark())),
            None => Ok(()),
        }
    }

    /// Begins a segment so that all before can go.
    pub(super) fn roll_to_delete(&self) -> Result<()> {
        match self.roll() {
            // It stands all the same, without files: room for these is about to be made.
            Err(e) if e.is_of_shortage() => Ok(()),
            rolled => rolled,
        }
    }

    pub(super) fn truncate(&self, to: Offset) -> Result<()> {
        let mut writer = self.writer();
        self.write_and_sync(&mut writer, true)?;
        if to >= self.marks.end() {
            return Ok(());
        }
        if to.get() < 0 {
            return Err(self.error(ErrorKind::OffsetOutOfRange, "cannot truncate to a negative offset").offset(to));
        }
        // What is cut from a transaction index must be right.
        let segments = self.segments.load_full();
        self.load_aborted(&segments[floor(&segments, to)])?;
        self.mark_changed(&mut writer)?;
        let mut appender = self.appender.lock();
        let segments = self.segments.load_full();
        let at = floor(&segments, to);
        let place = place_of(&segments[at], to, self.marks.end())?;
        if let Some(range) = place.damaged {
            return Err(self
                .error(ErrorKind::Corrupt, "cannot truncate inside of damage")
                .offset(to)
                .offsets(range)
                .path(segments[at].path(FileKind::Log))
                .remedy("truncate to where the damage begins or ends"));
        }
        let cut = self.cut(&mut writer, &mut appender, (&segments, at), &place);
        drop(appender);
        if let Err(error) = &cut {
            self.poison(error);
        }
        drop(writer);
        self.notify();
        cut
    }

    /// Cuts the log in one of its segments.
    fn cut(
        &self,
        writer: &mut Writer,
        appender: &mut Appender,
        (segments, at): (&[Arc<Segment>], usize),
        place: &Place,
    ) -> Result<()> {
        let (mut position, end) = (place.position, place.end);
        let mut segment = Arc::clone(&segments[at]);
        // Marks before bytes: no reader may meet those that go.
        self.marks.cut(end, segment.base());
        // A read that began before sees the era change, and reads again.
        let what = "the log was truncated while an append waited";
        self.begin_era(end, self.error(ErrorKind::Indeterminate, what));
        self.told.fetch_min(end.get(), Ordering::SeqCst);
        self.truncating.store(true, Ordering::Release);
        self.note()?;
        self.context.slot.as_ref().map_or(Ok(()), |slot| slot.sync())?;
        // From the end on, so that a kill leaves no gap.
        for gone in segments[at + 1..].iter().rev() {
            gone.remove_files()?;
        }
        let mut kept = segments[..=at].to_vec();
        segment = segment.truncate(position, end)?;
        kept[at] = Arc::clone(&segment);
        let mut ended = None;
        if place.held != end {
            // Below all that is there, or among offsets that were left out: what comes begins a segment.
            let next = Arc::new(Segment::new(self.home.clone(), end, self.index_sizes()));
            let last = std::mem::replace(&mut segment, next);
            if position == 0 {
                kept.pop();
                last.remove_files()?;
            } else {
                ended = Some(last);
            }
            position = 0;
            if let Some(before) = kept.last() {
                before.set_until(Some(end));
            }
            let is_new = segment.create_files(&mut None)?;
            writer.names.note(is_new);
            kept.push(Arc::clone(&segment));
        }
        self.forget_missing(end)?;
        self.segments.store(Arc::new(kept));
        let synced = segment.file()?.sync_data().and_then(|()| self.context.storage.sync_dir(&self.home.dir));
        synced.map_err(|e| self.unsynced(&self.home.dir, e))?;
        appender.epochs.truncate_from_end(end);
        self.epochs.store(Arc::new(appender.epochs.clone()));
        appender.producers = super::scan::replay_all(&self.segments.load())?;
        // A marker that went leaves its transaction open again.
        let transactions = appender.producers.transactions_mut();
        transactions.on_high_watermark(end);
        let visible = end.min(self.marks.high_watermark());
        self.marks.set_last_stable(transactions.last_stable_offset(visible).max(self.marks.log_start()));
        (appender.end, appender.active, appender.size) = (end, segment, position);
        appender.first_timestamp = None;
        appender.staged = Staged { epochs_changed: true, ..Staged::default() };
        self.recount(appender);
        writer.sealed.retain(|seal| seal.next <= appender.active.base());
        if let Some(segment) = ended {
            let snapshot = Some(appender.producers.encode()?);
            writer.sealed.push(Seal { segment: Some(segment), next: end, snapshot });
        }
        // Of what was cut, no stock broker shall take up the producers.
        self.remove_old_snapshots(end)?;
        // Before anything is appended: an opening would cut that off as well.
        self.truncating.store(false, Ordering::Release);
        self.note()?;
        self.context.slot.as_ref().map_or(Ok(()), |slot| slot.sync())
    }

    /// Segments that are gone anyway, at or above `end`, are not missed any more.
    fn forget_missing(&self, end: Offset) -> Result<()> {
        let mut missing = Vec::clone(&self.missing.load());
        for gone in missing.extract_if(.., |gone| gone.start >= end) {
            let path = FileKind::Seal.path(&self.home.dir, gone.start);
            match self.context.storage.remove_file(&path) {
                // A first segment is missed without one.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(|e| Error::io("cannot remove the seal of a segment", path, e))?,
            }
        }
        self.missing.store(Arc::new(missing));
        Ok(())
    }

    /// Keeps the producer snapshots at segment bases and at the end, as Kafka does.
    pub(super) fn remove_old_snapshots(&self, end: Offset) -> Result<()> {
        let (storage, dir) = (&*self.context.storage, &*self.home.dir);
        let segments = self.segments.load();
        let entries = storage.list(dir).map_err(|e| Error::io("cannot list a partition's directory", dir, e))?;
        for entry in entries {
            let Some((FileKind::Snapshot, at)) = FileKind::parse(&entry.name) else { continue };
            if at != end && !segments.iter().any(|s| s.base() == at) {
                self.remove_snapshot(at)?;
            }
        }
        Ok(())
    }

    /// Starts a new segment at the log end, unless the active one is empty.
    pub(super) fn roll(&self) -> Result<()> {
        let mut appender = self.appender.lock();
        self.check_usable()?;
        if appender.size == 0 {
            return Ok(());
        }
        let (end, position) = (appender.end, 0);
        let seal = self.roll_to(&mut appender, end)?;
        let group = Group::new(Arc::clone(&appender.active), position, end, Some(seal));
        appender.staged.groups.push(group);
        drop(appender);
        self.sync_now()
    }
}

/// Where a truncation cuts a segment.
struct Place {
    position: u64,
    /// Where the log ends then: a batch that holds the offset goes whole.
    end: Offset,
    /// Where what stays ends.
    held: Offset,
    /// The offset lies in damage.
    damaged: Option<Range<Offset>>,
}

/// Where a log that ends at `log_end` is to be cut so that it ends at `to`, which lies in `segment`.
fn place_of(segment: &Segment, to: Offset, log_end: Offset) -> Result<Place> {
    let mut place = Place { position: 0, end: to, held: segment.base(), damaged: None };
    segment.walk(|found| match found {
        Found::Batch(_, header, _) if header.next_offset() > to => {
            place.end = to.min(header.base_offset());
            false
        }
        Found::Batch(start, header, _) => {
            (place.position, place.held) = (start + header.size_bytes() as u64, header.next_offset());
            true
        }
        Found::Flaw(flaw) if flaw.kind.is_unreadable() => {
            place.damaged = Some(flaw.from..flaw.to.unwrap_or(log_end)).filter(|range| range.contains(&to));
            // What is damaged below stays, and is told to readers.
            let stays = flaw.from < to;
            if stays {
                (place.position, place.held) = (flaw.positions.end, flaw.to.unwrap_or(log_end));
            }
            place.damaged.is_none() && stays
        }
        Found::Flaw(_) => true,
    })?;
    Ok(place)
}

/// Finishes a truncation to `to` that a crash cut short: some of what was to go may be there still.
pub(super) fn finish_truncation(home: &SegmentHome, segments: &mut Vec<Arc<Segment>>, to: Offset) -> Result<()> {
    let kept = segments.partition_point(|segment| segment.base() <= to);
    let gone = segments.split_off(kept);
    gone.iter().try_for_each(|segment| segment.remove_files())?;
    if !gone.is_empty() {
        // Before anything says that it is finished: they would count again.
        home.storage.sync_dir(&home.dir).map_err(|e| Error::unsynced(&home.dir, e))?;
    }
    let Some(last) = segments.last_mut() else { return Ok(()) };
    last.set_until(None);
    let Place { position, end, damaged, .. } = place_of(last, to, to)?;
    if damaged.is_none() && end == to && position < last.written() {
        // The scan that follows makes them anew: what lies beside it may be as the truncation left it half way.
        last.reset_indexes()?;
        *last = last.truncate(position, to)?;
    }
    let (storage, dir) = (&*home.storage, &*home.dir);
    for entry in storage.list(dir).map_err(|e| Error::io("cannot list a partition's directory", dir, e))? {
        let is_above = FileKind::parse(&entry.name).is_some_and(|(kind, at)| match kind {
            FileKind::Snapshot => at > to,
            FileKind::Seal => at >= last.base(),
            _ => false,
        });
        if is_above {
            let path = dir.join(&entry.name);
            storage.remove_file(&path).map_err(|e| Error::io("cannot remove what was truncated", path, e))?;
        }
    }
    Ok(())
}

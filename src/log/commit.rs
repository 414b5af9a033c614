//! The second step of an append: write what is staged, sync it, publish the offsets, wake who waits.
//!
//! Whoever waits first does it for all (group commit), and gathers for a moment those who will come at once. The
//! writer lock is held while writing and syncing, the append lock only to take the staged bytes; bytes of the next
//! group are not written before the sync of this one has returned. What finds no space, or no file descriptor, is
//! taken back. After any other failed write, or a failed sync, the log is poisoned: a sync is never tried twice.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use parking_lot::MutexGuard;

use crate::error::{Error, ErrorKind, Result};
use crate::mutants::{Mutant, is_on};
use crate::segment::{FileKind, Prepared, Segment};
use crate::storage::place_file;
use crate::types::{Durability, Offset};

use super::append::{Group, Seal};
use super::checkpoint;
use super::waiters::Gather;
use super::{Inner, LogConfig, LogPosition, Quiet, StateSlot};

/// Segments that ended and whose files are not complete, at most: beyond, the append that rolls completes one.
const SEALED_MAX: usize = 4;

/// What the writer lock guards: what is in files but not yet durable.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Segments with bytes that were not synced, oldest first.
    pub(super) unsynced: Vec<Arc<Segment>>,
    /// How many bytes that may be.
    pub(super) unsynced_bytes: u64,
    /// Names in the partition's directory that are not durable yet...
    pub(super) names: Names,
    /// ...nor is the directory's own.
    pub(super) new_dir: bool,
    pub(super) epochs_changed: bool,
    /// Offsets were left out, and the epoch that says so is not durable.
    pub(super) left_out: bool,
    /// Segments that ended and are not complete: the recovery point stays below them.
    pub(super) sealed: Vec<Seal>,
    /// The file of the segment to come.
    pub(super) prepared: Option<Prepared>,
    /// The directory exists.
    pub(super) has_dir: bool,
    /// Something changed since the state slot said "clean".
    pub(super) changed: bool,
    /// Bytes written since the last note for recovery.
    pub(super) unnoted: u64,
    /// The recovery point is being raised: the producer snapshot that must stay for that.
    pub(super) held_snapshot: Option<Offset>,
    pub(super) gather: Gather,
}

/// Counts what changed names in a directory, and how much of that is durable.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Names {
    made: u64,
    synced: u64,
}

impl Names {
    pub(super) fn note(&mut self, is_new: bool) {
        self.made += u64::from(is_new);
    }

    fn are_new(self) -> bool {
        self.made > self.synced
    }

    /// Says that a sync has covered what `seen` counts.
    fn set_synced(&mut self, seen: Self) {
        self.synced = self.synced.max(seen.made);
    }
}

/// The writer lock. When it is let go, those who wait for a commit are told; when that is by a panic, that the log has
/// failed: what was staged may be in no file, and nothing may be written behind it.
pub(super) struct WriterGuard<'a> {
    // Dropped in this order.
    guard: MutexGuard<'a, Writer>,
    tell: Tell<'a>,
    _quiet: Quiet,
    was_panicking: bool,
}

impl Drop for WriterGuard<'_> {
    fn drop(&mut self) {
        if thread::panicking() && !self.was_panicking {
            self.tell.0.fail_of_panic();
        }
    }
}

struct Tell<'a>(&'a Inner);

impl Drop for Tell<'_> {
    fn drop(&mut self) {
        self.0.signal.notify();
        self.0.waiters.wake(|(position, level)| self.0.is_settled(*position, *level));
    }
}

impl Deref for WriterGuard<'_> {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        &self.guard
    }
}

impl DerefMut for WriterGuard<'_> {
    fn deref_mut(&mut self) -> &mut Writer {
        &mut self.guard
    }
}

impl Inner {
    pub(super) fn writer(&self) -> WriterGuard<'_> {
        self.guard(self.writer.lock())
    }

    fn guard<'a>(&'a self, guard: MutexGuard<'a, Writer>) -> WriterGuard<'a> {
        WriterGuard { guard, tell: Tell(self), _quiet: Quiet::new(), was_panicking: thread::panicking() }
    }

    /// Whether the bytes of an append at `position` are where `level` asks them to be.
    fn is_at(&self, position: LogPosition, level: Durability) -> bool {
        match level {
            Durability::None => true,
            Durability::ProcessCrash => self.marks.written() >= position.end,
            Durability::PowerLoss => self.marks.frontier() >= position.end,
        }
    }

    /// Whether to acknowledge an append at `position` is to trust the cache with it.
    fn rests_on_cache(&self, position: LogPosition, level: Durability) -> bool {
        level == Durability::ProcessCrash && self.marks.frontier() < position.end
    }

    /// Whether somebody who waits for an append has nothing more to wait for, for better or worse.
    fn is_settled(&self, position: LogPosition, level: Durability) -> bool {
        self.is_at(position, level) || position.era != self.era() || self.check_waitable().is_err()
    }

    /// The same as [`has_reached`](Self::has_reached) for who must not write or sync: `false` until the note that it takes
    /// was made by somebody else.
    pub(super) fn is_known_at(&self, position: LogPosition, level: Durability) -> Result<bool> {
        let reached = self.is_at(position, level);
        let is_volatile = self.marks.written() < position.end;
        let is_noted = self.context.slot.is_none()
            || self.marks.frontier() >= position.end
            || self.covered.holds(position.end, is_volatile);
        if level == Durability::None && is_noted {
            self.told.fetch_max(position.end.get(), Ordering::SeqCst);
        }
        self.check_cuts(position)?;
        if !(reached && is_noted) {
            self.check_waitable()?;
        } else if self.rests_on_cache(position, level) {
            self.check_cached()?;
        }
        Ok(reached && is_noted)
    }

    /// Whether an append at `position` is as durable as `level` asks.
    fn has_reached(&self, position: LogPosition, level: Durability) -> Result<bool> {
        let reached = self.is_at(position, level);
        if level == Durability::None {
            // Before the look at the cuts: whoever cuts looks here after.
            self.told.fetch_max(position.end.get(), Ordering::SeqCst);
        }
        self.check_cuts(position)?;
        if !reached {
            self.check_waitable()?;
        } else if level < Durability::PowerLoss && self.marks.frontier() < position.end {
            self.reserve(position.end, level).map_err(|e| {
                // Those who are refused for a shortage were taken back; these were not.
                match e.is_of_shortage() || e.kind() == ErrorKind::Poisoned {
                    true => self.error(ErrorKind::Indeterminate, "cannot note which offsets are taken").source(e),
                    false => e,
                }
            })?;
            // Last: the note may have taken the descriptor of a segment, with a sync that failed.
            if self.rests_on_cache(position, level) {
                self.learn_failure();
                self.check_cached()?;
            }
        }
        Ok(reached)
    }

    pub(super) fn wait(&self, position: LogPosition, level: Durability) -> Result<()> {
        let sync = level == Durability::PowerLoss;
        let (mut place, mut is_counted) = (None, false);
        while !self.has_reached(position, level)? {
            if sync && !std::mem::replace(&mut is_counted, true) {
                self.waiters.arrive();
            }
            match (self.writer.try_lock(), &place) {
                (Some(guard), _) => {
                    let mut writer = self.guard(guard);
                    if sync {
                        writer.gather.wait(&self.waiters, self.config.load().commit_gather);
                    }
                    // What was taken back for lack of space may be others' alone.
                    let led = self.lead(writer, sync);
                    led.or_else(|e| if e.is_of_shortage() { self.check_waitable() } else { Err(e) })?;
                }
                (None, None) => place = Some(self.waiters.enter((position, level))),
                (None, Some(place)) => place.park(),
            }
        }
        Ok(())
    }

    /// Writes what is staged, without a sync.
    pub(super) fn write_now(&self) -> Result<()> {
        self.lead(self.writer(), false)
    }

    /// The same, unless somebody else is at it, or a sync may have to come first.
    pub(super) fn write_in_passing(&self) -> Result<()> {
        if self.config.load().durability == Durability::PowerLoss {
            return Ok(());
        }
        let Some(guard) = self.writer.try_lock() else { return Ok(()) };
        // Those who found the lock taken meanwhile are told in any case.
        let writer = self.guard(guard);
        if self.takes_no_sync(&writer) { self.lead(writer, false) } else { Ok(()) }
    }

    /// Whether what is staged can be written with no directory, epoch or note of offsets that has to be durable before.
    fn takes_no_sync(&self, writer: &Writer) -> bool {
        let appender = self.appender.lock();
        let (staged, end) = (&appender.staged, appender.end);
        let is_placed = writer.has_dir && !(writer.epochs_changed || staged.epochs_changed);
        let is_left_out = writer.left_out || staged.left_out;
        let is_noted = |slot: &Arc<StateSlot>| slot.is_kept() && self.covered.holds(end, false);
        is_placed && !is_left_out && self.context.slot.as_ref().is_none_or(is_noted)
    }

    /// Writes and syncs everything that was appended before.
    pub(super) fn sync_now(&self) -> Result<()> {
        match self.config.load().durability {
            Durability::PowerLoss => self.lead(self.writer(), true),
            _ => self.sync_behind(|_| true),
        }
    }

    /// Syncs the segments that ended, of a log whose appends do not. An append into a file that is being synced waits
    /// for that for a while, so that the active one is left to who asks for it.
    pub(super) fn sync_ended(&self) -> Result<()> {
        let is_waited_for = self.config.load().durability == Durability::PowerLoss;
        let segments = self.segments.load_full();
        let base = segments.last().map_or(Offset::ZERO, |active| active.base());
        if is_waited_for || self.marks.frontier() >= base {
            return Ok(());
        }
        self.sync_behind(|segment| segment.base() < base)
    }

    fn lead(&self, mut writer: WriterGuard<'_>, sync: bool) -> Result<()> {
        let done = self.write_and_sync(&mut writer, sync);
        drop(writer);
        self.notify_watchers();
        done
    }

    pub(super) fn write_and_sync(&self, writer: &mut Writer, sync: bool) -> Result<()> {
        self.learn_failure();
        self.check_waitable()?;
        let written = self.write_staged(writer);
        let is_sound = written.as_ref().map_or_else(Error::is_of_shortage, |()| true);
        // What was taken back is no reason not to sync what stays.
        let synced = if is_sound && sync { self.sync_written(writer) } else { Ok(()) };
        let refused = written.as_ref().err().filter(|e| !e.is_of_shortage());
        if let Some(error) = synced.as_ref().err().or(refused) {
            self.poison(error);
        }
        synced.and(written)
    }

    /// Writes what is staged. Where there is no space for it, it is taken back.
    fn write_staged(&self, writer: &mut Writer) -> Result<()> {
        writer.gather.take(&self.waiters);
        let before = self.marks.written();
        let mut appender = self.appender.lock();
        let staged = std::mem::take(&mut appender.staged);
        writer.epochs_changed |= staged.epochs_changed;
        writer.left_out |= staged.left_out;
        let Some(last) = staged.groups.last() else { return Ok(()) };
        let (last, end) = (Arc::clone(&last.segment), last.end);
        writer.unnoted += staged.bytes as u64;
        let is_due = writer.unnoted >= u64::from(self.config.load().recovery_note_bytes);
        let note = is_due.then(|| (appender.end, appender.producers.encode()));
        drop(appender);
        let mut groups = VecDeque::from(staged.groups);
        let is_shown = self.config.load().durability < Durability::PowerLoss || is_on(Mutant::VisibleUnsynced);
        let reserve = || if is_shown { self.reserve(end, Durability::ProcessCrash) } else { Ok(()) };
        let mut done = self.mark_changed(writer).and_then(|()| self.make_dir(writer));
        done = done.and_then(|()| self.place_epochs(writer)).and_then(|()| reserve()).and_then(|()| self.keep_slot());
        let is_shown = is_shown && done.is_ok();
        if done.is_ok() && staged.bytes > 0 {
            done = self.sync_left_out(writer);
        }
        while let (Ok(()), Some(group)) = (&done, groups.front_mut()) {
            done = self.write_group(writer, group);
            if done.is_ok() {
                groups.pop_front();
            }
        }
        match (&done, note) {
            (Ok(()), Some((end, Ok(producers)))) => self.note_written(writer, &last, end, &producers),
            (Err(error), _) if error.is_of_shortage() => {
                // What was written before stays.
                let rolled = self.roll_back(groups.into(), error);
                rolled.inspect_err(|e| self.poison(e))?;
            }
            (Err(_), _) => return done,
            (Ok(()), _) => {}
        }
        if is_shown {
            let written = self.marks.written();
            if self.covered.is_low_between(before, written) {
                self.wants_tending.store(true, Ordering::Release);
            }
            self.publish(written);
        }
        done
    }

    fn write_group(&self, writer: &mut Writer, group: &mut Group) -> Result<()> {
        if let Some(Seal { segment, .. }) = &group.seals {
            if let Some(segment) = segment
                && segment.trim()?
                && !writer.unsynced.last().is_some_and(|last| Arc::ptr_eq(last, segment))
            {
                writer.unsynced.push(Arc::clone(segment));
            }
            if self.config.load().durability == Durability::PowerLoss && !is_on(Mutant::NextSegmentFirst) {
                // A power cut must not leave the new segment behind a torn one: readers would be stuck there.
                self.sync_written(writer)?;
            }
        }
        let is_new = group.segment.create_files(&mut writer.prepared)?;
        writer.names.note(is_new);
        if let Some(seal) = group.seals.take() {
            // The rest is for maintenance to do; where nobody calls that, it is not put off for ever.
            writer.sealed.push(seal);
            self.wants_tending.store(true, Ordering::Release);
        }
        self.write_sealed(writer, SEALED_MAX)?;
        let (segment, position, end) = (Arc::clone(&group.segment), group.position, group.end);
        let chunks = group.take_chunks();
        let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
        let len: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        self.hold_to_limit(writer, len)?;
        let file = segment.file()?;
        if let Err(error) = file.write_all_vectored_at(&mut slices, position) {
            let error = Error::io("cannot append to a segment", segment.path(FileKind::Log), error);
            if error.kind() == ErrorKind::TooManyOpenFiles {
                // Then not a byte was written.
                return Err(self.place(error));
            }
            // Nothing of the group was acknowledged: take its bytes back, so that no torn batch stays.
            return Err(match take_back(&segment, position) {
                Ok(()) => self.place(error),
                Err(e) => self.unsynced(segment.path(FileKind::Log), e),
            });
        }
        // It may have taken the descriptor of an earlier segment, with a sync that failed.
        self.learn_failure();
        self.check_waitable()?;
        segment.set_end(end);
        segment.set_written(position + len);
        let config = self.config.load();
        // The metadata log is written too rarely to gain.
        if config.durability == Durability::PowerLoss && self.context.slot.is_some() {
            segment.make_room(len, config.segment_bytes.into());
        }
        if position < half_of(&config) && position + len >= half_of(&config) {
            self.wants_tending.store(true, Ordering::Release);
        }
        if !writer.unsynced.last().is_some_and(|last| Arc::ptr_eq(last, &segment)) {
            writer.unsynced.push(segment);
        }
        self.marks.set_written(end);
        Ok(())
    }

    /// Sees to it that no more bytes than the state slot says are written and not synced, before `len` more are. Only
    /// a log that survives loss of power keeps to a limit.
    fn hold_to_limit(&self, writer: &mut Writer, len: u64) -> Result<()> {
        let config = self.config.load();
        let is_limited = config.durability == Durability::PowerLoss;
        // A batch that is larger goes alone.
        let limit = if is_limited { config.max_unsynced_bytes.max(u32::try_from(len).unwrap_or(u32::MAX)) } else { 0 };
        if is_limited && writer.unsynced_bytes + len > u64::from(limit) {
            self.sync_written(writer)?;
        }
        let noted = self.unsynced_max.load(Ordering::Acquire);
        // The first limit is kept from here on, where nothing waits; one that is raised or lifted, from before.
        let begins = noted == 0 && limit > 0 && writer.unsynced_bytes == 0;
        if begins || (noted > 0 && (limit == 0 || limit > noted)) {
            self.unsynced_max.store(limit, Ordering::Release);
            self.note()?;
            self.context.slot.as_ref().map_or(Ok(()), |slot| slot.sync())?;
        }
        writer.unsynced_bytes += len;
        Ok(())
    }

    /// After the level has risen: what was shown below it becomes as durable as what comes, and the slot says so.
    pub(super) fn raise_level(&self) -> Result<()> {
        let mut writer = self.writer();
        if !writer.changed {
            return Ok(());
        }
        let done = self.write_and_sync(&mut writer, true).and_then(|()| self.hold_to_limit(&mut writer, 0));
        drop(writer);
        self.notify_watchers();
        self.heed(done)
    }

    /// After the level has fallen: what is written is to be shown.
    pub(super) fn lower_level(&self) -> Result<()> {
        let writer = self.writer();
        let written = self.marks.written();
        let done = self.heed(self.reserve(written, Durability::ProcessCrash));
        if done.is_ok() {
            self.publish(written);
        }
        drop(writer);
        self.notify_watchers();
        done
    }

    fn sync_written(&self, writer: &mut Writer) -> Result<()> {
        let written = self.marks.written();
        for segment in writer.unsynced.iter().filter(|_| !is_on(Mutant::AcknowledgedUnsynced)) {
            segment.file()?.sync_data().map_err(|e| self.unsynced(segment.path(FileKind::Log), e))?;
        }
        self.place_epochs_if_room(writer)?;
        let names = writer.names;
        self.sync_names(names, writer.new_dir)?;
        writer.unsynced.clear();
        writer.unsynced_bytes = 0;
        writer.new_dir &= !names.are_new();
        writer.names.set_synced(names);
        writer.gather.served(&self.waiters);
        self.marks.set_frontier(written);
        self.publish(written);
        Ok(())
    }

    fn sync_names(&self, names: Names, new_dir: bool) -> Result<()> {
        let sync = |dir: &std::path::Path| self.context.storage.sync_dir(dir).map_err(|e| self.unsynced(dir, e));
        if names.are_new() && !is_on(Mutant::DirectoryNotSynced) {
            sync(&self.home.dir)?;
        }
        match self.home.dir.parent() {
            Some(parent) if names.are_new() && new_dir => sync(parent),
            _ => Ok(()),
        }
    }

    /// Makes durable what was appended before to a log whose appends do not wait for that: they go on meanwhile. Of its
    /// segments only the oldest may be `wanted`.
    fn sync_behind(&self, wanted: impl Fn(&Segment) -> bool) -> Result<()> {
        let mut writer = self.writer();
        let done = self.write_and_sync(&mut writer, false);
        if done.as_ref().is_err_and(|e| !e.is_of_shortage()) {
            return done;
        }
        let synced = self.place_epochs_if_room(&mut writer);
        let (wanted, later): (Vec<_>, Vec<_>) = writer.unsynced.iter().cloned().partition(|s| wanted(s));
        let segments: Vec<_> = wanted.into_iter().map(|s| (s.written(), s)).collect();
        let era = self.era();
        let synced_to = later.first().map_or(self.marks.written(), |next| next.base());
        // Whoever syncs beside this must not take them for durable.
        let (names, new_dir) = (writer.names, writer.new_dir);
        drop(writer);
        // Oldest first: a power cut then takes nothing from before what it leaves.
        let sync =
            |segment: &Segment| segment.file()?.sync_data().map_err(|e| self.unsynced(segment.path(FileKind::Log), e));
        let synced = synced
            .and_then(|()| segments.iter().try_for_each(|(_, segment)| sync(segment)))
            .and_then(|()| self.sync_names(names, new_dir));
        let mut writer = self.writer();
        if let Err(error) = synced {
            self.poison(&error);
            return Err(error);
        }
        writer.names.set_synced(names);
        // It is made once.
        writer.new_dir &= !(new_dir && names.are_new());
        if era == self.era() {
            let is_done =
                |s: &Arc<Segment>| segments.iter().any(|(len, synced)| Arc::ptr_eq(s, synced) && s.written() == *len);
            writer.unsynced.retain(|segment| !is_done(segment));
            self.marks.set_frontier(synced_to.max(self.marks.frontier()));
            self.publish(self.marks.frontier());
        }
        drop(writer);
        self.notify_watchers();
        // What was taken back for lack of space is no reason not to sync what stays.
        done
    }

    /// Puts the leader epochs into their file, where they changed; the directory is to be synced then.
    pub(super) fn place_epochs(&self, writer: &mut Writer) -> Result<()> {
        if writer.epochs_changed && writer.has_dir {
            let text = self.appender.lock().epochs.encode();
            place_file(&*self.context.storage, &self.home.dir.join(checkpoint::LEADER_EPOCHS), text.as_bytes())?;
            writer.epochs_changed = false;
            writer.names.note(true);
        }
        Ok(())
    }

    /// Where offsets were left out, sees to it that a power cut which takes the first batch above leaves the epoch that
    /// begins there. On a log that survives one the first sync does.
    fn sync_left_out(&self, writer: &mut Writer) -> Result<()> {
        let dir = &*self.home.dir;
        if writer.left_out && self.config.load().durability < Durability::PowerLoss {
            self.context.storage.sync_dir(dir).map_err(|e| self.unsynced(dir, e))?;
        }
        writer.left_out = false;
        Ok(())
    }

    fn place_epochs_if_room(&self, writer: &mut Writer) -> Result<()> {
        match self.place_epochs(writer) {
            // No batch of a new epoch waits for it: what it says too much is ignored.
            Err(e) if e.is_of_shortage() => Ok(()),
            placed => placed,
        }
    }

    /// Makes the partition's directory with its `partition.metadata`, at the first append.
    pub(super) fn make_dir(&self, writer: &mut Writer) -> Result<()> {
        if writer.has_dir {
            return Ok(());
        }
        let dir = &*self.home.dir;
        match self.context.storage.create_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|e| Error::io("cannot make a partition's directory", dir, e))?,
        }
        if let Some(id) = self.context.topic_id {
            // Never half a file, whatever the level: a stock broker exits on one.
            let text = checkpoint::encode_partition_metadata(id);
            place_file(&*self.context.storage, &dir.join(checkpoint::PARTITION_METADATA), text.as_bytes())?;
        }
        (writer.has_dir, writer.new_dir) = (true, true);
        writer.names.note(true);
        Ok(())
    }

    /// Raises what readers may see.
    fn publish(&self, visible: Offset) {
        if visible <= self.marks.high_watermark() {
            return;
        }
        self.marks.set_high_watermark(visible);
        let stable = if self.transactional.load(Ordering::Acquire) {
            let mut appender = self.appender.lock();
            let transactions = appender.producers.transactions_mut();
            transactions.on_high_watermark(visible);
            transactions.last_stable_offset(visible).max(self.marks.last_stable())
        } else {
            visible
        };
        self.marks.set_last_stable(stable);
    }

    /// Says in the state slot that the log is in use. Needs no sync: a "clean" slot proves itself against the file.
    pub(super) fn mark_changed(&self, writer: &mut Writer) -> Result<()> {
        if !writer.changed {
            self.note()?;
            writer.changed = true;
        }
        Ok(())
    }

    /// Syncs the state slot where a crash could leave bytes of which no slot says anything: once in a log's life.
    pub(super) fn keep_slot(&self) -> Result<()> {
        self.context.slot.as_ref().filter(|slot| !slot.is_kept()).map_or(Ok(()), |slot| slot.sync())
    }

    /// Puts the state of a log in use into its slot. Once the log was closed or goes on as another one the slot is not
    /// its own any more: who waited for the disk meanwhile has nothing to say.
    pub(super) fn note(&self) -> Result<()> {
        let reserved = self.reserved.lock();
        if self.closed.load(Ordering::Acquire) || self.replaced.load(Ordering::Acquire) {
            return Ok(());
        }
        self.context.slot.as_ref().map_or(Ok(()), |slot| slot.store(&self.slot_state(false, *reserved)))
    }
}

/// Cuts off bytes of which nobody was told. They may be on the disk already, and must not come back.
fn take_back(segment: &Segment, position: u64) -> std::io::Result<()> {
    let file = segment.file().map_err(std::io::Error::other)?;
    if file.len()? <= position || is_on(Mutant::FailedWriteLeft) {
        return Ok(());
    }
    segment.cut_file(position)?;
    file.sync_data()
}

/// How long a segment gets before the next one is prepared, in bytes.
pub(super) fn half_of(config: &LogConfig) -> u64 {
    u64::from(config.segment_bytes / 2)
}

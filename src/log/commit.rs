//! The second step of an append: write what is staged, sync it, publish the offsets, wake who waits.
//!
//! Whoever waits first does it for all (group commit). The writer lock is held while writing and syncing, the
//! append lock only to take the staged bytes; bytes of the next group are not written before the sync of this one
//! has returned. What finds no space is taken back. After any other failed write, or a failed sync, the log is
//! poisoned: a sync is never tried twice.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use crate::error::{Error, ErrorKind, Result};
use crate::segment::{FileKind, Segment};
use crate::storage::{File, OpenMode, place_file};
use crate::types::{Durability, Offset};

use super::append::{Group, Seal};
use super::checkpoint;
use super::{Inner, LogPosition, Signal};

/// Weakly acknowledged offsets are reserved this far ahead, so that one synced note covers many appends.
const RESERVE_AHEAD: i64 = 1 << 20;

/// What the writer lock guards: what is in files but not yet durable.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Segments with bytes that were not synced, oldest first.
    pub(super) unsynced: Vec<Arc<Segment>>,
    /// Small files to sync with them.
    pub(super) unsynced_files: Vec<Arc<dyn File>>,
    /// Names in the partition's directory are not durable yet...
    pub(super) new_names: bool,
    /// ...nor is the directory's own.
    pub(super) new_dir: bool,
    pub(super) epochs_changed: bool,
    /// Sealed segments whose indexes were not synced: the recovery point stays below them.
    pub(super) sealed: Vec<Arc<Segment>>,
    /// The directory exists.
    pub(super) has_dir: bool,
    /// Something changed since the state slot said "clean".
    pub(super) changed: bool,
    /// Bytes written since the last note for recovery.
    pub(super) unnoted: u64,
    /// The producer snapshot that is being synced.
    pub(super) held_snapshot: Offset,
}

/// The writer lock. Whoever lost the race for it sleeps until it is let go and told.
pub(super) struct WriterGuard<'a> {
    // Dropped in this order.
    guard: MutexGuard<'a, Writer>,
    _tell: Tell<'a>,
}

struct Tell<'a>(&'a Signal);

impl Drop for Tell<'_> {
    fn drop(&mut self) {
        self.0.notify();
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
        WriterGuard { guard: self.writer.lock(), _tell: Tell(&self.signal) }
    }

    /// Whether an append at `position` is as durable as `level` asks.
    pub(super) fn has_reached(&self, position: LogPosition, level: Durability) -> Result<bool> {
        let reached = match level {
            Durability::None => true,
            Durability::ProcessCrash => self.marks.written() >= position.end,
            Durability::PowerLoss => self.marks.frontier() >= position.end,
        };
        if level == Durability::None {
            // Before the look at the cuts: whoever cuts looks here after.
            self.told.fetch_max(position.end.get(), Ordering::SeqCst);
        }
        self.check_cuts(position)?;
        if !reached {
            self.check_waitable()?;
        } else if level < Durability::PowerLoss && self.marks.frontier() < position.end {
            self.reserve(position.end, level)?;
        }
        Ok(reached)
    }

    pub(super) fn wait(&self, position: LogPosition, level: Durability) -> Result<()> {
        loop {
            let seen = self.signal.count();
            if self.has_reached(position, level)? {
                return Ok(());
            }
            match self.writer.try_lock() {
                Some(guard) => {
                    let led =
                        self.lead(WriterGuard { guard, _tell: Tell(&self.signal) }, level == Durability::PowerLoss);
                    // What was taken back for lack of space may be others' alone.
                    led.or_else(|e| if e.kind() == ErrorKind::StorageFull { self.check_waitable() } else { Err(e) })?;
                }
                None => {
                    self.signal.wait_past(seen, None);
                }
            }
        }
    }

    /// Writes what is staged, without a sync.
    pub(super) fn write_now(&self) -> Result<()> {
        self.lead(self.writer(), false)
    }

    /// Writes and syncs everything that was appended before.
    pub(super) fn sync_now(&self) -> Result<()> {
        self.lead(self.writer(), true)
    }

    fn lead(&self, mut writer: WriterGuard<'_>, sync: bool) -> Result<()> {
        let done = self.write_and_sync(&mut writer, sync);
        drop(writer);
        self.notify_watchers();
        done
    }

    pub(super) fn write_and_sync(&self, writer: &mut Writer, sync: bool) -> Result<()> {
        self.check_waitable()?;
        let written = self.write_staged(writer);
        let is_sound = written.as_ref().map_or_else(|e| e.kind() == ErrorKind::StorageFull, |()| true);
        // What was taken back is no reason not to sync what stays.
        let synced = if is_sound && sync { self.sync_written(writer) } else { Ok(()) };
        let done = synced.and(written);
        match &done {
            Err(error) if error.kind() != ErrorKind::StorageFull => self.poison(error),
            _ => {}
        }
        done
    }

    /// Writes what is staged. Where there is no space for it, it is taken back.
    fn write_staged(&self, writer: &mut Writer) -> Result<()> {
        let mut appender = self.appender.lock();
        let staged = std::mem::take(&mut appender.staged);
        writer.epochs_changed |= staged.epochs_changed;
        let Some(last) = staged.groups.last().map(|group| Arc::clone(&group.segment)) else { return Ok(()) };
        writer.unnoted += staged.bytes as u64;
        let is_due = writer.unnoted >= u64::from(self.config.load().recovery_note_bytes);
        let note = is_due.then(|| (appender.end, appender.producers.encode()));
        drop(appender);
        let mut groups = VecDeque::from(staged.groups);
        let mut done =
            self.mark_changed(writer).and_then(|()| self.make_dir(writer)).and_then(|()| self.place_epochs(writer));
        while let (Ok(()), Some(group)) = (&done, groups.front_mut()) {
            done = self.write_group(writer, group);
            if done.is_ok() {
                groups.pop_front();
            }
        }
        if let Err(error) = &done
            && error.kind() == ErrorKind::StorageFull
        {
            let rolled = self.roll_back(groups.into(), error);
            rolled.inspect_err(|e| self.poison(e))?;
        }
        done?;
        if let Some((end, Ok(producers))) = note {
            self.note_written(writer, &last, end, &producers);
        }
        if self.config.load().durability < Durability::PowerLoss {
            let written = self.marks.written();
            self.reserve(written, Durability::ProcessCrash)?;
            self.publish(written);
        }
        Ok(())
    }

    fn write_group(&self, writer: &mut Writer, group: &mut Group) -> Result<()> {
        if let Some(Seal { segment, snapshot }) = &group.seals {
            if self.config.load().durability == Durability::PowerLoss {
                // A power cut must not leave the new segment behind a torn one: readers would be stuck there.
                self.sync_written(writer)?;
            }
            segment.as_ref().map_or(Ok(()), |segment| segment.write_indexes())?;
            let path = FileKind::Snapshot.path(&self.home.dir, group.segment.base());
            let file = self.write_file(&path, snapshot)?;
            writer.unsynced_files.push(file);
        }
        writer.new_names |= group.segment.create_files()?;
        writer.sealed.extend(group.seals.take().and_then(|seal| seal.segment));
        let (segment, position, end) = (Arc::clone(&group.segment), group.position, group.end);
        let chunks = group.take_chunks();
        let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
        let len: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let file = segment.file()?;
        if let Err(error) = file.write_all_vectored_at(&mut slices, position) {
            let error = Error::io("cannot append to a segment", segment.path(FileKind::Log), error);
            // Nothing of the group was acknowledged: take its bytes back, so that no torn batch stays.
            return Err(match self.take_back(&**file, position) {
                Ok(()) => self.place(error),
                Err(e) => self.in_doubt(e, segment.path(FileKind::Log)),
            });
        }
        segment.set_end(end);
        segment.set_written(position + len);
        if !writer.unsynced.last().is_some_and(|last| Arc::ptr_eq(last, &segment)) {
            writer.unsynced.push(segment);
        }
        self.marks.set_written(end);
        Ok(())
    }

    /// Cuts off bytes of which nobody was told. They may be on the disk already, and must not come back.
    fn take_back(&self, file: &dyn File, position: u64) -> std::io::Result<()> {
        if file.len()? <= position {
            return Ok(());
        }
        file.set_len(position)?;
        file.sync_data()
    }

    fn sync_written(&self, writer: &mut Writer) -> Result<()> {
        let written = self.marks.written();
        for segment in &writer.unsynced {
            segment.file()?.sync_data().map_err(|e| self.in_doubt(e, segment.path(FileKind::Log)))?;
        }
        for file in &writer.unsynced_files {
            file.sync_data().map_err(|e| self.in_doubt(e, self.home.dir.to_path_buf()))?;
        }
        match self.place_epochs(writer) {
            // No batch of a new epoch waits for it: what it says too much is ignored.
            Err(e) if e.kind() == ErrorKind::StorageFull => {}
            written => written?,
        }
        if writer.new_names {
            let sync = |dir: &std::path::Path| {
                self.context.storage.sync_dir(dir).map_err(|e| self.in_doubt(e, dir.to_path_buf()))
            };
            sync(&self.home.dir)?;
            if let (true, Some(parent)) = (writer.new_dir, self.home.dir.parent()) {
                sync(parent)?;
            }
        }
        writer.unsynced.clear();
        writer.unsynced_files.clear();
        (writer.new_names, writer.new_dir) = (false, false);
        self.marks.set_frontier(written);
        self.publish(written);
        Ok(())
    }

    /// Puts the leader epochs into their file, where they changed; the directory is to be synced then.
    pub(super) fn place_epochs(&self, writer: &mut Writer) -> Result<()> {
        if writer.epochs_changed && writer.has_dir {
            let text = self.appender.lock().epochs.encode();
            place_file(&*self.context.storage, &self.home.dir.join(checkpoint::LEADER_EPOCHS), text.as_bytes())?;
            writer.epochs_changed = false;
            writer.new_names = true;
        }
        Ok(())
    }

    /// Makes the partition's directory with its `partition.metadata`, at the first append.
    fn make_dir(&self, writer: &mut Writer) -> Result<()> {
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
        (writer.has_dir, writer.new_dir, writer.new_names) = (true, true, true);
        Ok(())
    }

    pub(super) fn write_file(&self, path: &std::path::Path, bytes: &[u8]) -> Result<Arc<dyn File>> {
        let write = || -> std::io::Result<Arc<dyn File>> {
            let file = self.context.storage.open(path, OpenMode::CreateIfAbsent)?;
            file.write_all_at(bytes, 0)?;
            file.set_len(bytes.len() as u64)?;
            Ok(file)
        };
        write().map_err(|e| Error::io("cannot write", path, e))
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

    /// Notes durably that offsets below `end` may be known outside although a crash can take their bytes: after it
    /// the log goes on above them. An offset never names two different records.
    fn reserve(&self, end: Offset, level: Durability) -> Result<()> {
        let Some(slot) = &self.context.slot else { return Ok(()) };
        let volatile = level == Durability::None;
        let covered = |r: &super::Reserved| r.end >= end && (r.volatile || !volatile);
        let mut reserved = self.reserved.lock();
        if covered(&reserved) || self.marks.frontier() >= end {
            return Ok(());
        }
        self.check_waitable()?;
        let raised = super::Reserved { end: end + RESERVE_AHEAD, volatile: reserved.volatile || volatile };
        let noted = slot.store(&self.slot_state(false, raised));
        // Those who are refused for lack of space were taken back; these were not.
        noted.map_err(|e| self.error(ErrorKind::Indeterminate, "cannot note which offsets are taken").source(e))?;
        slot.sync()?;
        *reserved = raised;
        Ok(())
    }

    /// Says in the state slot that the log is in use. Needs no sync: a "clean" slot proves itself against the file.
    pub(super) fn mark_changed(&self, writer: &mut Writer) -> Result<()> {
        if !writer.changed {
            self.note()?;
            writer.changed = true;
        }
        Ok(())
    }

    /// Puts the state of a log in use into its slot.
    pub(super) fn note(&self) -> Result<()> {
        let reserved = self.reserved.lock();
        self.context.slot.as_ref().map_or(Ok(()), |slot| slot.store(&self.slot_state(false, *reserved)))
    }

    fn in_doubt(&self, source: std::io::Error, path: std::path::PathBuf) -> Error {
        self.error(
            ErrorKind::Indeterminate,
            "a sync failed: what was appended since the last one may or may not survive",
        )
        .path(path)
        .source(source)
        .remedy("reopen the partition: recovery finds what is there")
    }
}

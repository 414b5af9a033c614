//! What a log leaves for its next opening: the state slot, and all files at a close.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::segment::{FileKind, Prepared, Segment};
use crate::storage::{OpenMode, place_file, read_file};
use crate::types::{Durability, Offset};

use super::append::Seal;
use super::checkpoint;
use super::commit::{Writer, half_of};
use super::marks::Point;
use super::state::SlotState;
use super::{Inner, Quiet, Reserved, recover};

impl Inner {
    /// What the state slot should say now.
    pub(super) fn slot_state(&self, clean: bool, reserved: Reserved) -> SlotState {
        let (offsets, points) = (self.marks.load(), self.marks.points());
        let first = self.segments.load().first().filter(|first| first.has_file()).map(|first| first.base());
        let missing = self.missing.load().first().map(|gone| gone.start);
        SlotState {
            clean,
            poisoned: !clean && self.in_doubt.load(Ordering::Acquire),
            weak_acks: reserved.volatile && !clean,
            leader_epoch: self.epochs.load().latest().unwrap_or_default(),
            boot_id: self.context.boot_id,
            log_start: offsets.log_start,
            log_end: offsets.end,
            high_watermark: offsets.high_watermark,
            last_stable: offsets.last_stable,
            frontier: offsets.frontier,
            recovery_point: points.recovery.at,
            noted: points.noted.at,
            aborted: [points.recovery.aborted, points.noted.aborted],
            transactional: self.transactional.load(Ordering::Acquire),
            first: first.into_iter().chain(missing).min(),
            reserved: if clean { Offset::ZERO } else { reserved.end },
            doubted_below: self.doubted_below(),
            unsynced_max: self.unsynced_max.load(Ordering::Acquire),
            truncating: self.truncating.load(Ordering::Acquire),
            ..SlotState::default()
        }
    }

    /// Writes the leader epochs down where recovery learnt others from the batches than the file has. Once the state
    /// slot says that these batches are durable, the next recovery believes the file.
    pub(super) fn settle_epochs(&self) -> Result<()> {
        let mut writer = self.writer();
        let epochs = self.appender.lock().epochs.clone();
        let path = self.home.dir.join(checkpoint::LEADER_EPOCHS);
        let storage = &*self.context.storage;
        if !writer.has_dir || epochs.latest().is_none() {
            return Ok(());
        }
        // One that cannot be read is written anew.
        let found = read_file(storage, &path, recover::EPOCHS_BYTES_MAX).ok().flatten();
        if found.is_some_and(|found| found == epochs.encode().as_bytes()) {
            return Ok(());
        }
        writer.epochs_changed = true;
        self.place_epochs(&mut writer)?;
        let dir = &*self.home.dir;
        storage.sync_dir(dir).map_err(|e| self.unsynced(dir, e))
    }

    /// Writes the index files and producer snapshots of segments that ended, but of the last `keep` of those that
    /// lack them. Nothing is synced.
    pub(super) fn write_sealed(&self, writer: &mut Writer, keep: usize) -> Result<()> {
        let lack = writer.sealed.iter().filter(|seal| seal.snapshot.is_some()).count();
        let unwritten = writer.sealed.iter_mut().filter(|seal| seal.snapshot.is_some());
        for seal in unwritten.take(lack.saturating_sub(keep)) {
            seal.segment.as_ref().map_or(Ok(()), |segment| segment.write_indexes())?;
            seal.snapshot.as_ref().map_or(Ok(()), |snapshot| self.write_snapshot(seal.next, snapshot))?;
            seal.snapshot = None;
            if keep > 0 {
                // Nobody calls maintenance: they must not hold descriptors for ever. Another syncs them then.
                seal.segment.iter().for_each(|segment| segment.forget_unsynced());
                self.snapshots.lock().remove(&seal.next);
            }
        }
        Ok(())
    }

    pub(super) fn write_snapshot(&self, at: Offset, bytes: &[u8]) -> Result<()> {
        let path = FileKind::Snapshot.path(&self.home.dir, at);
        let write = || {
            let file = self.context.storage.open(&path, OpenMode::CreateIfAbsent)?;
            file.write_all_at(bytes, 0)?;
            file.set_len(bytes.len() as u64)?;
            Ok(file)
        };
        let file = write().map_err(|e| Error::io("cannot write a producer snapshot", &path, e))?;
        self.snapshots.lock().insert(at, file);
        Ok(())
    }

    pub(super) fn remove_snapshot(&self, at: Offset) -> Result<()> {
        self.snapshots.lock().remove(&at);
        super::notes::remove_snapshot(&self.home, at)
    }

    /// Syncs what `write_sealed` wrote.
    pub(super) fn sync_sealed(&self, seal: &Seal) -> Result<()> {
        seal.segment.as_ref().map_or(Ok(()), |segment| self.complete(segment))?;
        self.sync_snapshot(seal.next)
    }

    pub(super) fn sync_snapshot(&self, at: Offset) -> Result<()> {
        let path = FileKind::Snapshot.path(&self.home.dir, at);
        let held = self.snapshots.lock().remove(&at);
        match held.map_or_else(|| self.context.storage.open(&path, OpenMode::Write), Ok) {
            // A truncation took it, or there never was one.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("cannot open a producer snapshot", path, e)),
            Ok(file) => file.sync_data().map_err(|e| Error::unsynced(path, e)),
        }
    }

    /// Does what appends would have to wait for otherwise, and what waits for nobody.
    pub(super) fn tend(&self) -> Result<()> {
        self.learn_failure();
        // On a full disk one may fail while the next one gives space back.
        let done = [
            self.bury(),
            self.reserve_ahead(),
            self.prepare_next(),
            self.sync_ended(),
            self.raise_recovery_point(),
            self.note_frontier(),
        ];
        done.into_iter().fold(Ok(()), Result::and)
    }

    /// Makes the file of the next segment ahead of time, when the active one is half full.
    fn prepare_next(&self) -> Result<()> {
        // Two at once would work on one file. A close or a reopening waits: afterwards its name may be another's.
        let Some(_preparing) = self.preparing.try_lock() else { return Ok(()) };
        let config = self.config.load();
        let begun = {
            let writer = self.writer();
            self.check_waitable()?;
            let segments = self.segments.load();
            let is_due = segments.last().is_some_and(|active| active.written() >= half_of(&config));
            if !is_due || !writer.has_dir || !writer.changed || writer.prepared.is_some() {
                return Ok(());
            }
            // Under the lock, so that none appears in a directory that is being deleted.
            Prepared::begin(&self.home)
        };
        let room = if config.durability == Durability::PowerLoss { config.segment_bytes.into() } else { 0 };
        // Without it a roll takes longer, and that is all.
        if let Some(prepared) = begun.and_then(|begun| begun.finish(&self.home, room)) {
            self.writer().prepared = Some(prepared);
        }
        Ok(())
    }

    /// Syncs what lies beside a segment; one that has ended is sealed.
    fn complete(&self, segment: &Segment) -> Result<()> {
        segment.sync_indexes()?;
        // Nothing of ours lies in the metadata log.
        if self.context.slot.is_none() {
            return Ok(());
        }
        // As in `seal_next`.
        let _sealing = self.unsealed_below.lock();
        segment.seal(|| self.check_waitable().is_ok())
    }

    /// Seals one more segment below the recovery point that has none, as another program's have, the newest first: all its
    /// headers are read for that. Answers whether there was one.
    pub(super) fn seal_next(&self) -> Result<bool> {
        let _quiet = Quiet::new();
        // A close and a reopening wait for that: afterwards the segment's name may be another's.
        let mut below = self.unsealed_below.lock();
        self.check_usable()?;
        let point = self.marks.recovery_point();
        let is_due =
            |s: &&Arc<Segment>| s.base() < *below && !s.is_sealed() && s.until().is_some_and(|end| end <= point);
        let found = self.segments.load().iter().rfind(is_due).cloned();
        let Some(segment) = found.filter(|_| self.context.slot.is_some()) else { return Ok(false) };
        let done = self.heed(self.sync_and_seal(&segment));
        if !done.as_ref().is_err_and(Error::is_of_shortage) {
            // One that gets none is not read again.
            *below = segment.base();
        }
        done.map(|()| true)
    }

    fn sync_and_seal(&self, segment: &Segment) -> Result<()> {
        // Whoever put it here, be it by a copy, may not have synced it.
        segment.file()?.sync_data().map_err(|e| self.unsynced(segment.path(FileKind::Log), e))?;
        // What was put right beside it is there to stay once it is sealed.
        segment.sync_indexes()?;
        let dir = &*self.home.dir;
        self.context.storage.sync_dir(dir).map_err(|e| self.unsynced(dir, e))?;
        segment.seal(|| self.check_usable().is_ok())
    }

    pub(super) fn close(&self) -> Result<()> {
        let _quiet = Quiet::new();
        let _preparing = self.preparing.lock();
        let mut writer = self.writer();
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        {
            // An append that came later would be in the end and the snapshot noted, but in no file.
            let _appender = self.appender.lock();
            self.closing.store(true, Ordering::Release);
        }
        // Whoever seals a segment stops reading it.
        drop(self.unsealed_below.lock());
        let done = self.heed(self.settle(&mut writer));
        {
            let _notes = self.reserved.lock();
            self.closed.store(true, Ordering::Release);
        }
        drop(writer);
        self.notify();
        done
    }

    /// Leaves the files as after a clean stop of a stock broker, and says so in the state slot, last.
    pub(super) fn settle(&self, writer: &mut Writer) -> Result<()> {
        self.check_waitable()?;
        if writer.changed && self.marks.end() > Offset::ZERO {
            // A power cut may have taken it, with all that was there: the next opening is not to find that anew.
            self.make_dir(writer)?;
        }
        let written = self.write_and_sync(writer, true);
        match &written {
            // What found no space or descriptor was taken back, and the rest is complete.
            Err(e) if e.is_of_shortage() && self.appender.lock().staged.groups.is_empty() => {}
            Err(_) => return written,
            Ok(()) => {}
        }
        self.bury()?;
        if let Some(prepared) = writer.prepared.take() {
            prepared.remove(&self.home);
        }
        if !(writer.changed || self.doubts.were_settled()) || !writer.has_dir {
            return written;
        }
        let storage = &*self.context.storage;
        let appender = self.appender.lock();
        let active = Arc::clone(&appender.active);
        let (end, snapshot) = (appender.end, appender.producers.encode()?);
        drop(appender);
        active.create_files(&mut None)?;
        self.write_sealed(writer, 0)?;
        if active.trim()? {
            active.file()?.sync_data().map_err(|e| self.unsynced(active.path(FileKind::Log), e))?;
        }
        for seal in writer.sealed.drain(..) {
            self.sync_sealed(&seal)?;
        }
        active.write_indexes()?;
        self.complete(&active)?;
        // The leader epochs went out with the last sync.
        place_file(storage, &FileKind::Snapshot.path(&self.home.dir, end), &snapshot)?;
        self.remove_old_snapshots(end)?;
        let dir = &*self.home.dir;
        storage.sync_dir(dir).map_err(|e| self.unsynced(dir, e))?;
        active.load_aborted()?;
        self.marks.set_recovery_point(Point { at: end, aborted: active.aborted_checksum(end) });
        if let Some(slot) = &self.context.slot {
            let is_above_gap = recover::is_above_gap(&self.segments.load())?;
            let reserved = self.reserved.lock();
            slot.store(&SlotState {
                segment_base: active.base(),
                segment_size: active.written(),
                tail_crc: recover::tail_crc(&active, active.written())?,
                // Offsets were left out, and no batch of a higher epoch says so yet.
                reserved: if is_above_gap || (active.written() == 0 && reserved.end == end) {
                    end
                } else {
                    Offset::ZERO
                },
                ..self.slot_state(true, *reserved)
            })?;
        }
        writer.changed = false;
        written
    }
}

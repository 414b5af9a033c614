//! What a log leaves for its next opening: the state slot, and all files at a close.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, ErrorKind, Result};
use crate::segment::FileKind;
use crate::storage::{place_file, read_file};
use crate::types::Offset;

use super::checkpoint;
use super::commit::Writer;
use super::state::SlotState;
use super::{Inner, Reserved, recover};

impl Inner {
    /// What the state slot should say now.
    pub(super) fn slot_state(&self, clean: bool, reserved: Reserved) -> SlotState {
        let offsets = self.marks.load();
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
            recovery_point: self.marks.recovery_point(),
            noted: self.marks.noted(),
            reserved: if clean { Offset::ZERO } else { reserved.end },
            doubted_below: self.doubted_below(),
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
        storage.sync_dir(dir).map_err(|e| Error::io("cannot sync a partition's directory", dir, e))
    }

    pub(super) fn close(&self) -> Result<()> {
        let mut writer = self.writer();
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        {
            // An append that came later would be in the end and the snapshot noted, but in no file.
            let _appender = self.appender.lock();
            self.closing.store(true, Ordering::Release);
        }
        let done = self.settle(&mut writer);
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
        let written = self.write_and_sync(writer, true);
        match &written {
            // What found no space was taken back, and the rest is complete.
            Err(e) if e.kind() == ErrorKind::StorageFull && self.appender.lock().staged.groups.is_empty() => {}
            Err(_) => return written,
            Ok(()) => {}
        }
        self.bury()?;
        if !(writer.changed || self.doubts.were_settled()) || !writer.has_dir {
            return written;
        }
        let storage = &*self.context.storage;
        let appender = self.appender.lock();
        let active = Arc::clone(&appender.active);
        let (end, snapshot) = (appender.end, appender.producers.encode()?);
        drop(appender);
        active.create_files()?;
        for segment in writer.sealed.drain(..).chain([Arc::clone(&active)]) {
            segment.write_indexes()?;
            segment.sync_indexes()?;
        }
        // The leader epochs went out with the last sync.
        place_file(storage, &FileKind::Snapshot.path(&self.home.dir, end), &snapshot)?;
        self.remove_old_snapshots(end)?;
        let dir = &*self.home.dir;
        storage.sync_dir(dir).map_err(|e| Error::io("cannot sync a partition's directory", dir, e))?;
        self.marks.set_recovery_point(end);
        if let Some(slot) = &self.context.slot {
            let reserved = self.reserved.lock();
            slot.store(&SlotState {
                segment_base: active.base(),
                segment_size: active.written(),
                tail_crc: recover::tail_crc(&active, active.written())?,
                // Offsets were left out, and no batch of a higher epoch says so yet.
                reserved: if active.written() == 0 && reserved.end == end { end } else { Offset::ZERO },
                ..self.slot_state(true, *reserved)
            })?;
        }
        writer.changed = false;
        written
    }
}

//! Room behind the last batch of an active segment: zeros that its file holds already. A sync of what is written
//! there changes neither the file's length nor its extents, which is cheaper.
//!
//! The file of the segment to come can be prepared: made ahead, with room, so that a roll only renames it.
//!
//! Room is no part of the log. A segment that ends gives it back (a stock broker drops all segments behind one that
//! ends with zeros); after a crash the last segment may have it, and [`Segment::find_room`] tells it apart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Segment, SegmentHome};
use crate::error::Result;
use crate::storage::{File, OpenMode};

const PAGE_BYTES: u64 = 4096;
/// Made at once, at most. The next sync takes it along, at the speed of the device: 4 ms in one of 250 commits of eight
/// writers of 1 KiB. Less would come oftener for less each time; 1 MiB is in one of a hundred, and 128 KiB, each with a
/// commit of the file system's journal, cost a sixth of all commits. A segment makes as much as it holds, so that a small
/// one stays small.
const ROOM_MAX: u64 = 2 << 20;
/// Room is made for at least so many writes: a large write gains little, and every byte is written twice.
const WRITES_MIN: u64 = 8;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Segment {
    /// Length of the file: bytes of batches, and room.
    fn file_len(&self) -> u64 {
        self.file_len.load(Ordering::Acquire)
    }

    /// Makes room behind a write of `len` bytes where none is left, up to a file of `limit` bytes. A disk that is full,
    /// or fails, is no error here: what comes next is appended as it would be without.
    pub(crate) fn make_room(&self, len: u64, limit: u64) {
        let written = self.written();
        let chunk = written.clamp(PAGE_BYTES, ROOM_MAX);
        if self.file_len() > written || len * WRITES_MIN > chunk || self.has_no_room.load(Ordering::Acquire) {
            return;
        }
        let end = (written + chunk).next_multiple_of(PAGE_BYTES).min(limit);
        let Ok(file) = self.file() else { return };
        self.file_len.store(end, Ordering::Release);
        if write_zeros(&**file, written, end).is_err() {
            self.has_no_room.store(true, Ordering::Release);
            // Where even that fails, the end of the segment's life gives it back.
            self.cut_file(written).ok();
        }
    }

    /// Gives the room back; `true` when there was some: the file is then to be synced.
    pub(crate) fn trim(&self) -> Result<bool> {
        let has_room = self.file_len() > self.written();
        if has_room {
            self.cut_file(self.written()).map_err(|e| self.io_error("cannot trim a segment", e))?;
        }
        Ok(has_room)
    }

    /// Cuts the file to `position`, where a batch ends.
    pub(crate) fn cut_file(&self, position: u64) -> io::Result<()> {
        self.file().map_err(io::Error::other)?.set_len(position)?;
        self.file_len.store(position, Ordering::Release);
        self.written.store(position, Ordering::Release);
        Ok(())
    }

    /// Where the zeros begin with which the file of a log's last segment ends. The last batch ends there or behind,
    /// since it may end with zeros: only a walk can tell.
    pub(crate) fn find_room(&self) -> Result<u64> {
        let mut chunk = [0; 16 << 10];
        let mut end = self.written();
        while end > 0 {
            let begin = (end - 1) / chunk.len() as u64 * chunk.len() as u64;
            let bytes = &mut chunk[..(end - begin) as usize];
            if self.file()?.read_exact_at(bytes, begin).is_err() {
                // What cannot be read is for the walk to judge.
                return Ok(self.written());
            }
            if let Some(last) = bytes.iter().rposition(|&byte| byte != 0) {
                end = begin + last as u64 + 1;
                break;
            }
            end = begin;
        }
        Ok(end)
    }
}

fn write_zeros(file: &dyn File, mut position: u64, end: u64) -> io::Result<()> {
    while position < end {
        let zeros = &ZEROS[..(end - position).min(ZEROS.len() as u64) as usize];
        file.write_all_at(zeros, position)?;
        position += zeros.len() as u64;
    }
    Ok(())
}

/// The file of a segment that is to come. Whoever opens the directory next, a stock broker included, removes it if it
/// was not taken.
#[derive(Debug)]
pub(crate) struct Prepared {
    file: Arc<dyn File>,
    path: PathBuf,
    len: u64,
}

impl Prepared {
    /// Makes the file; `None` where that fails.
    pub(crate) fn begin(home: &SegmentHome) -> Option<Self> {
        let path = home.dir.join("next.log.deleted");
        // One that was left over may still be open somewhere.
        drop(home.storage.remove_file(&path));
        let file = home.storage.open(&path, OpenMode::CreateNew).ok()?;
        Some(Self { file, path, len: 0 })
    }

    /// Fills it with zeros for a start, up to `limit` bytes, and syncs it; `None` where that fails: it is gone then.
    pub(crate) fn finish(mut self, home: &SegmentHome, limit: u64) -> Option<Self> {
        self.len = limit.min(ROOM_MAX);
        match write_zeros(&*self.file, 0, self.len).and_then(|()| self.file.sync_data()) {
            Ok(()) => Some(self),
            Err(_) => {
                self.remove(home);
                None
            }
        }
    }

    /// Gives the file the name of its segment. Answers it and its length.
    pub(super) fn take_place(self, home: &SegmentHome, path: &Path) -> io::Result<(Arc<dyn File>, u64)> {
        home.storage.rename(&self.path, path)?;
        Ok((self.file, self.len))
    }

    /// Removes it; where that fails, the next opening does.
    pub(crate) fn remove(self, home: &SegmentHome) {
        let removed = home.storage.remove_file(&self.path);
        removed.ok();
    }
}

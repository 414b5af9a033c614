//! Reading from a disk that errs: what it will not give after a few tries is zeros, and known to be lost. So one bad
//! sector costs the batch that it lies in, is never taken for the end of a file, and never for an unfinished write.

use std::io::{self, IoSlice};
use std::ops::Range;

use parking_lot::Mutex;

use crate::storage::{File, Map, is_device_error};

/// What is wrong with a place that the disk does not give.
pub(crate) const UNREADABLE: &str = "the disk cannot read it";

const TRIES: usize = 3;
/// What is given up at a time.
const PAGE: u64 = 4 << 10;

/// A file to read, with patience.
#[derive(Debug)]
pub(crate) struct Patient<'a> {
    file: &'a dyn File,
    lost: Mutex<Vec<Range<u64>>>,
}

impl<'a> Patient<'a> {
    pub(crate) fn new(file: &'a dyn File) -> Self {
        Self { file, lost: Mutex::new(Vec::new()) }
    }

    /// Whether some of these bytes could not be read.
    pub(crate) fn has_lost(&self, positions: &Range<u64>) -> bool {
        self.lost.lock().iter().any(|lost| lost.start < positions.end && positions.start < lost.end)
    }
}

impl File for Patient<'_> {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut left = TRIES;
        loop {
            match self.file.read_at(buf, position) {
                Err(e) if is_device_error(&e) && left > 1 => left -= 1,
                Err(e) if is_device_error(&e) => break,
                read => return read,
            }
        }
        // Page by page: the one that fails is alone.
        let page_end = (position / PAGE + 1) * PAGE;
        let len = usize::try_from(page_end - position).unwrap_or(usize::MAX).min(buf.len());
        if len < buf.len() {
            return self.read_at(&mut buf[..len], position);
        }
        buf.fill(0);
        let mut lost = self.lost.lock();
        let positions = position..position + len as u64;
        match lost.iter_mut().rfind(|last| last.start <= positions.start && positions.start <= last.end) {
            Some(last) => last.end = last.end.max(positions.end),
            None => lost.push(positions),
        }
        Ok(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn map(&self, len: u64) -> io::Result<Box<dyn Map>> {
        self.file.map(len)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.file.write_at(buf, position)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.file.write_vectored_at(bufs, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.file.allocate(position, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

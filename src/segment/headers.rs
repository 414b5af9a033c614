//! Walking the headers of a segment without reading its data: what indexes, transactions and leader epochs
//! need to know of batches that somebody else wrote. Control batches are read whole and their checksums
//! verified, because they decide what readers see.

use std::io;

use crate::record::{BatchHeader, validate_crc};
use crate::storage::File;
use crate::types::Offset;

use super::buffer::BufferPool;

/// One read where batches are small.
const WINDOW_BYTES: usize = 64 << 10;
/// One read where the next header lies far off.
const FAR_BYTES: usize = 512;

/// Calls `each` with every header from position 0 up to `len`, with all bytes of a control batch, until it answers
/// `false`. `false` when something else than a batch stands somewhere, or offsets are missing that no cleaner can have
/// removed: what came before is then in doubt, too.
pub(super) fn headers(
    file: &dyn File,
    len: u64,
    (base, compacted): (Offset, bool),
    buffers: &BufferPool,
    mut each: impl FnMut(u64, &BatchHeader, &[u8]) -> bool,
) -> io::Result<bool> {
    let mut window = Window { file, len, bytes: buffers.take(WINDOW_BYTES), start: 0, have: 0 };
    let (mut position, mut expected, mut want) = (0, base, WINDOW_BYTES);
    while position < len {
        let Some(bytes) = window.at(position, BatchHeader::LEN, want)? else { return Ok(false) };
        let Ok(header) = BatchHeader::parse(bytes) else { return Ok(false) };
        let size = header.size_bytes();
        if header.base_offset() < expected
            || (header.base_offset() > expected && !compacted)
            || header.last_offset() - base > i64::from(i32::MAX)
            || size as u64 > len - position
        {
            return Ok(false);
        }
        let whole = match header.is_control() {
            true => window.at(position, size, want)?,
            false => Some(&[][..]),
        };
        let Some(bytes) = whole.filter(|bytes| bytes.is_empty() || validate_crc(&header, bytes)) else {
            return Ok(false);
        };
        if !each(position, &header, bytes) {
            return Ok(true);
        }
        want = if size > WINDOW_BYTES / 8 { FAR_BYTES } else { WINDOW_BYTES };
        (position, expected) = (position + size as u64, header.next_offset());
    }
    Ok(true)
}

/// The part of the file that is in memory.
struct Window<'a> {
    file: &'a dyn File,
    len: u64,
    bytes: super::buffer::Buffer,
    start: u64,
    have: usize,
}

impl Window<'_> {
    /// `need` bytes from `position` on, reading `want` of them when they are not here; `None` when the file or the
    /// window is too short.
    fn at(&mut self, position: u64, need: usize, want: usize) -> io::Result<Option<&[u8]>> {
        if need > WINDOW_BYTES || need as u64 > self.len - position {
            return Ok(None);
        }
        let here = usize::try_from(position - self.start).ok().filter(|at| at.saturating_add(need) <= self.have);
        let at = match here {
            Some(at) => at,
            None => {
                let left = usize::try_from(self.len - position).unwrap_or(usize::MAX);
                let read = want.max(need).min(left);
                self.file.read_exact_at(self.bytes.as_mut(read), position)?;
                (self.start, self.have) = (position, read);
                0
            }
        };
        Ok(Some(&self.bytes.as_ref()[at..at + need]))
    }
}

//! What the reads of many segments share: buffers that are used again, so that a large read costs neither fresh
//! pages nor zeroing, and the bound on what is kept of sealed segments.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::view::Views;

/// Buffers kept for the next read, at most this many...
const KEPT_MAX: usize = 8;
/// ...and none larger than this.
const KEPT_BYTES_MAX: usize = 2 << 20;

/// A shared pool of read buffers.
#[derive(Clone, Debug, Default)]
pub(crate) struct BufferPool {
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
    pub(super) views: Views,
}

impl BufferPool {
    /// A buffer of at least `len` bytes with arbitrary content.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        let mut bytes = self.kept.lock().pop().unwrap_or_default();
        if bytes.len() < len {
            // Anew rather than longer: zeros come from the system for nothing, and old content is not copied.
            bytes = vec![0; len];
        }
        Buffer { bytes, pool: self.clone() }
    }
}

/// A buffer that goes back to its pool when the last slice of it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    pool: BufferPool,
}

impl Buffer {
    pub(crate) fn as_mut(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[..len]
    }

    /// Makes room for `len` bytes; what is in the buffer stays.
    pub(crate) fn grow(&mut self, len: usize) {
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
    }

    /// Freezes the buffer; slices of it share it.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() <= KEPT_BYTES_MAX {
            let mut kept = self.pool.kept.lock();
            if kept.len() < KEPT_MAX {
                kept.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_slice_goes() {
        let pool = BufferPool::default();
        let mut buffer = pool.take(100);
        buffer.as_mut(100).fill(7);
        let slice = buffer.freeze().slice(10..20);
        assert!(pool.kept.lock().is_empty());
        assert_eq!(slice[..], [7; 10]);
        drop(slice);
        assert_eq!(pool.kept.lock().len(), 1);
        drop(pool.take(KEPT_BYTES_MAX + 1));
        assert!(pool.kept.lock().is_empty(), "the huge one is not kept");
    }
}

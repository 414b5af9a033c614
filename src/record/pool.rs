//! Memory of batches that are done with, used again for the next ones: fresh pages cost a fault each, and that is as
//! much as all the rest of an append.

use std::fmt;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::builder::BatchBuilder;

/// Buffers for batches that are built one after the other. A buffer comes back when the last copy of its batch is
/// dropped; a log does that when it has written the batch. Cheap to clone; clones share the buffers.
///
/// [`Producer`](crate::Producer)s have one of their own. Who builds batches by hand gains as much:
///
/// ```
/// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
/// use thalweg::{BatchPool, Durability, LeaderEpoch, Log, LogConfig, Timestamp};
/// let log = Log::open(dir.path().join("events-0"), LogConfig::default())?;
/// let pool = BatchPool::new(64 << 10, 1 << 20);
/// for n in 0..100 {
///     let mut batch = pool.builder();
///     batch.push_parts(Timestamp::new(n), None, Some(b"paid"), &[])?;
///     let appended = log.append(&batch.finish()?, LeaderEpoch::new(0))?;
///     log.wait(appended.position, Durability::ProcessCrash)?;
/// }
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone)]
pub struct BatchPool {
    shared: Arc<Shared>,
}

struct Shared {
    batch_bytes: usize,
    /// How many buffers may be about, lent or idle, of which one that comes back is kept.
    buffers_max: usize,
    buffers: Mutex<Buffers>,
}

#[derive(Default)]
struct Buffers {
    idle: Vec<Vec<u8>>,
    lent: usize,
}

impl BatchPool {
    /// A pool of buffers for batches of up to `batch_bytes`, header included, which keeps no buffer that would make
    /// all of its buffers together take more than `memory` bytes. A batch that grows beyond `batch_bytes` is
    /// built as if there were no pool.
    #[must_use]
    pub fn new(batch_bytes: usize, memory: usize) -> Self {
        let buffers_max = memory / batch_bytes.max(1);
        Self { shared: Arc::new(Shared { batch_bytes, buffers_max, buffers: Mutex::default() }) }
    }

    /// A builder of one batch, with room for what the pool was made for.
    #[must_use]
    pub fn builder(&self) -> BatchBuilder {
        BatchBuilder::in_buffer(self.take())
    }

    pub(super) fn take(&self) -> Buffer {
        let idle = {
            let mut buffers = self.shared.buffers.lock();
            buffers.lent += 1;
            buffers.idle.pop()
        };
        let bytes = idle.unwrap_or_else(|| Vec::with_capacity(self.shared.batch_bytes));
        Buffer { bytes, pool: Some(self.clone()) }
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        let mut buffers = self.shared.buffers.lock();
        buffers.lent -= 1;
        let has_room = buffers.lent + buffers.idle.len() < self.shared.buffers_max;
        if has_room && bytes.capacity() >= self.shared.batch_bytes && bytes.capacity() <= 2 * self.shared.batch_bytes {
            bytes.clear();
            buffers.idle.push(bytes);
        }
    }
}

impl fmt::Debug for BatchPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Buffers { idle, lent } = &*self.shared.buffers.lock();
        f.debug_struct("BatchPool").field("idle", &idle.len()).field("lent", lent).finish_non_exhaustive()
    }
}

/// A buffer that goes back to its pool, if it has one, when nobody needs it any more.
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pool: Option<BatchPool>,
}

impl Buffer {
    /// One of no pool.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), pool: None }
    }

    /// An empty one of the same pool.
    pub(super) fn another(&self) -> Self {
        self.pool.as_ref().map_or_else(|| Self::with_capacity(0), BatchPool::take)
    }

    /// The bytes, with which the buffer goes; from a pool, one that is mostly empty goes back at once.
    pub(super) fn freeze(mut self) -> Bytes {
        match &self.pool {
            None => mem::take(&mut self.bytes).into(),
            Some(_) if self.bytes.len() < self.bytes.capacity() / 2 => Bytes::copy_from_slice(&self.bytes),
            Some(_) => Bytes::from_owner(self),
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), pool: None }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(mem::take(&mut self.bytes));
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.bytes.len()).field("pool", &self.pool).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Codec, RecordBatch};
    use crate::types::Timestamp;

    fn batch(pool: &BatchPool, value: &[u8], codec: Codec) -> RecordBatch {
        let mut builder = pool.builder().compression(codec);
        builder.push_parts(Timestamp::new(0), None, Some(value), &[]).unwrap();
        builder.finish().unwrap()
    }

    fn idle(pool: &BatchPool) -> usize {
        pool.shared.buffers.lock().idle.len()
    }

    #[test]
    fn a_buffer_comes_back_with_the_last_copy_of_its_batch() {
        let pool = BatchPool::new(1000, 3000);
        let first = batch(&pool, &[1; 800], Codec::None);
        let (at, copy) = (first.as_bytes().as_ptr(), first.as_bytes().slice(100..));
        drop(first);
        assert_eq!(idle(&pool), 0);
        drop(copy);
        let second = batch(&pool, &[2; 800], Codec::None);
        assert_eq!((second.as_bytes().as_ptr(), idle(&pool)), (at, 0));
        assert_eq!(second, RecordBatch::parse(second.as_bytes().clone()).unwrap());
    }

    #[test]
    fn small_and_compressed_batches_keep_no_buffer() {
        let pool = BatchPool::new(1000, 3000);
        let held = [batch(&pool, b"x", Codec::None), batch(&pool, &[1; 900], Codec::Snappy)];
        assert_eq!((idle(&pool), pool.shared.buffers.lock().lent), (2, 0), "{held:?}");
        drop(pool.builder());
        assert_eq!(idle(&pool), 2);
    }

    #[test]
    fn buffers_beyond_the_memory_are_not_kept_nor_those_that_grew() {
        let pool = BatchPool::new(1000, 2500);
        let held: Vec<_> = (0..5).map(|_| batch(&pool, &[1; 800], Codec::None)).collect();
        drop(held);
        assert_eq!(idle(&pool), 2);
        drop(batch(&pool, &[1; 8000], Codec::None));
        assert_eq!(idle(&pool), 1);
    }
}

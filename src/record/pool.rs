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
    /// One that grew: codecs want more room than they use.
    spare: Option<Vec<u8>>,
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

    fn take(&self) -> Buffer {
        self.take_first(|_| None)
    }

    fn take_first(&self, first: impl FnOnce(&mut Buffers) -> Option<Vec<u8>>) -> Buffer {
        let idle = {
            let mut buffers = self.shared.buffers.lock();
            buffers.lent += 1;
            first(&mut buffers).or_else(|| buffers.idle.pop())
        };
        let bytes = idle.unwrap_or_else(|| Vec::with_capacity(self.shared.batch_bytes));
        Buffer { bytes, pool: Some(self.clone()) }
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        let mut buffers = self.shared.buffers.lock();
        buffers.lent -= 1;
        let has_room = buffers.lent + buffers.idle.len() < self.shared.buffers_max;
        bytes.clear();
        if has_room && bytes.capacity() == self.shared.batch_bytes {
            buffers.idle.push(bytes);
        } else if bytes.capacity() > self.shared.batch_bytes && bytes.capacity() <= 2 * self.shared.batch_bytes {
            buffers.spare = Some(bytes);
        }
    }

    /// Lets go of idle buffers that would make all buffers together take more than `memory` bytes: it is used otherwise.
    pub(crate) fn keep_within(&self, memory: usize) {
        let mut buffers = self.shared.buffers.lock();
        let idle_max = (memory / self.shared.batch_bytes.max(1)).saturating_sub(buffers.lent);
        buffers.idle.truncate(idle_max);
    }
}

impl fmt::Debug for BatchPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Buffers { idle, lent, .. } = &*self.shared.buffers.lock();
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

    /// An empty one of the same pool, for what a codec makes.
    pub(super) fn another(&self) -> Self {
        let take = |pool: &BatchPool| pool.take_first(|buffers| buffers.spare.take());
        self.pool.as_ref().map_or_else(|| Self::with_capacity(0), take)
    }

    /// The same with the bytes of `other`, unless that is as good: one that grew takes more than a pool counts.
    pub(super) fn refilled(mut self, other: Self) -> Self {
        match &self.pool {
            Some(BatchPool { shared }) if other.bytes.capacity() > shared.batch_bytes => {
                self.bytes.clear();
                self.bytes.extend_from_slice(&other.bytes);
                self
            }
            _ => other,
        }
    }

    /// The bytes, with which the buffer goes; from a pool, one that is mostly empty goes back at once, and one that grew
    /// goes without what it has left.
    pub(super) fn freeze(mut self) -> Bytes {
        match &self.pool {
            None => mem::take(&mut self.bytes).into(),
            Some(BatchPool { shared }) if self.bytes.len() < shared.batch_bytes / 2 => {
                Bytes::copy_from_slice(&self.bytes)
            }
            Some(BatchPool { shared }) if self.bytes.len() > shared.batch_bytes => {
                mem::take(&mut self.bytes).into_boxed_slice().into()
            }
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
        assert_eq!((idle(&pool), pool.shared.buffers.lock().lent), (1, 0), "{held:?}");
        drop(pool.builder());
        assert_eq!(idle(&pool), 1);
    }

    #[test]
    fn idle_buffers_make_room_for_what_else_is_in_memory() {
        let pool = BatchPool::new(1000, 4000);
        let held = batch(&pool, &[1; 800], Codec::None);
        drop([pool.builder(), pool.builder(), pool.builder()]);
        for (memory, left) in [(4000, 3), (3999, 2), (2000, 1), (500, 0)] {
            pool.keep_within(memory);
            assert_eq!(idle(&pool), left, "{memory} {held:?}");
        }
    }

    #[test]
    fn compressed_bytes_that_outgrow_a_buffer_leave_none_of_its_size_behind() {
        let mut random = vec![0; 900];
        getrandom::fill(&mut random).unwrap();
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let pool = BatchPool::new(1000, 4000);
            let held = batch(&pool, &random, codec);
            let buffers = (idle(&pool), pool.shared.buffers.lock().lent);
            assert!(held.size_bytes() > 900 && [(1, 1), (0, 1)].contains(&buffers), "{codec}: {buffers:?}");
            drop(held);
            assert!(pool.shared.buffers.lock().idle.iter().all(|buffer| buffer.capacity() == 1000), "{codec}");
        }
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

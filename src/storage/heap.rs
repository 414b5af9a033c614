//! A file's bytes in memory, on top of a file of another storage or of nothing, and handles to them.
//!
//! Only what was written is held: where nothing was, the file below shows through, and a cut lowers how far it
//! does. Not its job: names. Invariant: the file below is only ever read.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;

use super::{EntryKind, File, Lock, Map, Metadata, OpenMode};
use crate::clock::Clock;
use crate::types::Timestamp;

/// Bytes are kept in chunks of this size, so that an append copies no more than it adds, and
/// neither readers nor the writer hold the file's lock for longer than copying one chunk takes.
const CHUNK: usize = 64 * 1024;

/// No more than this is shown of what a lock's holder left.
const HOLDER_BYTES_MAX: u64 = 1024;

/// What `locks` is while one holder excludes all others; otherwise it counts those who share.
const EXCLUSIVE: i32 = -1;

pub(super) fn system_time(timestamp: Timestamp) -> SystemTime {
    let millis = u64::try_from(timestamp.get()).unwrap_or(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// One file, whatever its name.
pub(super) struct Inode {
    content: RwLock<Content>,
    locks: AtomicI32,
}

impl Inode {
    /// An empty file.
    pub(super) fn new(now: Timestamp) -> Self {
        Self::with(Content { below: None, chunks: BTreeMap::new(), len: 0, modified: system_time(now) })
    }

    /// A file that begins as `file` is, of which `metadata` is known.
    pub(super) fn over(file: Arc<dyn File>, metadata: Metadata) -> Self {
        let Metadata { len, modified, .. } = metadata;
        Self::with(Content { below: Some(Below { file, len }), chunks: BTreeMap::new(), len, modified })
    }

    fn with(content: Content) -> Self {
        Self { content: RwLock::new(content), locks: AtomicI32::new(0) }
    }

    pub(super) fn metadata(&self) -> Metadata {
        let content = self.content.read();
        Metadata { kind: EntryKind::File, len: content.len, modified: content.modified }
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.content.read().chunks.values().map(Vec::len).sum()
    }

    /// What [`Storage::lock`](super::Storage::lock) does to its file.
    pub(super) fn lock(self: Arc<Self>, holder: &str, now: Timestamp) -> io::Result<Box<dyn Lock>> {
        if let Err(held) = self.locks.compare_exchange(0, EXCLUSIVE, Ordering::Acquire, Ordering::Relaxed) {
            return Err(self.refusal(held)?);
        }
        let lock = HeapLock(self);
        let mut content = lock.0.content.write();
        content.set_len(0);
        for (index, chunk) in (0..).zip(holder.as_bytes().chunks(CHUNK)) {
            content.write(chunk, index * CHUNK as u64)?;
        }
        content.modified = system_time(now);
        drop(content);
        Ok(Box::new(lock))
    }

    /// What [`Storage::lock_shared`](super::Storage::lock_shared) does to its file.
    pub(super) fn lock_shared(self: Arc<Self>) -> io::Result<Box<dyn Lock>> {
        let another = |held: i32| (held != EXCLUSIVE).then(|| held.saturating_add(1));
        match self.locks.fetch_update(Ordering::Acquire, Ordering::Relaxed, another) {
            Ok(_) => Ok(Box::new(HeapLock(self))),
            Err(held) => Err(self.refusal(held)?),
        }
    }

    fn refusal(&self, held: i32) -> io::Result<io::Error> {
        let holder = match held {
            EXCLUSIVE => self.content.read().copy_of(HOLDER_BYTES_MAX)?,
            _ => b"it is being looked at".to_vec(),
        };
        let text = format!("locked by this process: {}", String::from_utf8_lossy(&holder));
        Ok(io::Error::new(io::ErrorKind::WouldBlock, text))
    }
}

impl fmt::Debug for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inode").field("metadata", &self.metadata()).finish_non_exhaustive()
    }
}

/// The file below, as far as it shows.
struct Below {
    file: Arc<dyn File>,
    len: u64,
}

struct Content {
    below: Option<Below>,
    /// By position divided by `CHUNK`; each covers what is below it. What lies past a chunk's own end is zeros, and
    /// so is what no chunk holds past the end of the file below.
    chunks: BTreeMap<u64, Vec<u8>>,
    len: u64,
    modified: SystemTime,
}

/// Where `position` lies: the chunk, the place in it, and what is left of it from there.
fn locate(position: u64) -> (u64, usize, usize) {
    let within = (position % CHUNK as u64) as usize;
    (position / CHUNK as u64, within, CHUNK - within)
}

/// The part of `len` bytes that is not beyond `end`.
fn at_most(len: usize, end: u64) -> usize {
    usize::try_from(end).map_or(len, |end| len.min(end))
}

impl Content {
    /// Reads within one chunk or one stretch of the file below; 0 at the end of the file.
    fn read(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let (index, within, left) = locate(position);
        let n = at_most(buf.len(), self.len.saturating_sub(position));
        let Some(chunk) = self.chunks.get(&index) else {
            return self.read_below(&mut buf[..n], position);
        };
        let n = n.min(left);
        let held = chunk.get(within..).unwrap_or_default();
        let copied = n.min(held.len());
        buf[..copied].copy_from_slice(&held[..copied]);
        buf[copied..n].fill(0);
        Ok(n)
    }

    /// The same where no chunk is at `position`.
    fn read_below(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let (index, _, left) = locate(position);
        let Some(below) = self.below.as_ref().filter(|below| position < below.len) else {
            let n = buf.len().min(left);
            buf[..n].fill(0);
            return Ok(n);
        };
        let mut n = at_most(buf.len(), below.len - position);
        if let Some((next, _)) = self.chunks.range(index..).next() {
            n = at_most(n, next * CHUNK as u64 - position);
        }
        match below.file.read_at(&mut buf[..n], position)? {
            0 if n > 0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file was cut while it was looked at")),
            read => Ok(read),
        }
    }

    /// Writes within one chunk; says how many bytes. What changes nothing takes no memory.
    fn write(&mut self, buf: &[u8], position: u64) -> io::Result<usize> {
        let (index, within, left) = locate(position);
        let n = buf.len().min(left);
        if let Some(below) = &self.below
            && !self.chunks.contains_key(&index)
        {
            let start = position - within as u64;
            let mut chunk = vec![0; at_most(CHUNK, below.len.saturating_sub(start))];
            below.file.read_exact_at(&mut chunk, start)?;
            if chunk.get(within..within + n) == Some(&buf[..n]) {
                // It is there already. Recovery writes much again whose sync has failed.
                return Ok(n);
            }
            self.chunks.insert(index, chunk);
        }
        let chunk = self.chunks.entry(index).or_default();
        if chunk.len() < within {
            chunk.resize(within, 0);
        }
        let overwritten = n.min(chunk.len() - within);
        chunk[within..within + overwritten].copy_from_slice(&buf[..overwritten]);
        chunk.extend_from_slice(&buf[overwritten..n]);
        self.len = self.len.max(position + n as u64);
        Ok(n)
    }

    fn set_len(&mut self, len: u64) {
        let (index, within, _) = locate(len);
        self.chunks.split_off(&(index + 1));
        if let Some(chunk) = self.chunks.get_mut(&index) {
            chunk.truncate(within);
        }
        if let Some(below) = &mut self.below {
            below.len = below.len.min(len);
        }
        self.len = len;
    }

    /// The first `max` bytes, or all.
    fn copy_of(&self, max: u64) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len.min(max)).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        bytes.resize(len, 0);
        let mut done = 0;
        while done < len {
            done += self.read(&mut bytes[done..], done as u64)?;
        }
        Ok(bytes)
    }
}

/// An open file.
pub(super) struct Handle {
    inode: Arc<Inode>,
    clock: Arc<dyn Clock>,
    writable: bool,
}

impl Handle {
    pub(super) fn new(inode: Arc<Inode>, clock: &Arc<dyn Clock>, mode: OpenMode) -> Self {
        Self { inode, clock: Arc::clone(clock), writable: mode != OpenMode::Read }
    }

    /// Refuses what a real disk refuses: a handle for reading only, and a length beyond what it counts.
    fn check_write(&self, end: Option<u64>) -> io::Result<()> {
        if !self.writable {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is open for reading only"));
        }
        match end {
            Some(end) if end <= i64::MAX as u64 => Ok(()),
            _ => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("writable", &self.writable).finish_non_exhaustive()
    }
}

impl File for Handle {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            // Locked anew for each chunk.
            let n = self.inode.content.read().read(&mut buf[done..], position.saturating_add(done as u64))?;
            if n == 0 {
                break;
            }
            done += n;
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.check_write(position.checked_add(buf.len() as u64))?;
        let mut done = 0;
        while done < buf.len() {
            let mut content = self.inode.content.write();
            done += content.write(&buf[done..], position + done as u64)?;
            content.modified = system_time(self.clock.now());
        }
        Ok(done)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        let mut done = 0;
        for buf in bufs {
            done += self.write_at(buf, position.saturating_add(done as u64))?;
        }
        Ok(done)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, _position: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_write(Some(len))?;
        let mut content = self.inode.content.write();
        content.set_len(len);
        content.modified = system_time(self.clock.now());
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inode.content.read().len)
    }

    fn map(&self, len: u64) -> io::Result<Box<dyn Map>> {
        let content = self.inode.content.read();
        if len > content.len {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than the map asked for"));
        }
        match &content.below {
            Some(below) if len <= below.len && content.chunks.is_empty() => below.file.map(len),
            _ => Ok(Box::new(HeapMap(content.copy_of(len)?))),
        }
    }
}

struct HeapMap(Vec<u8>);

impl AsRef<[u8]> for HeapMap {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for HeapMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapMap").field("len", &self.0.len()).finish()
    }
}

impl Map for HeapMap {}

#[derive(Debug)]
struct HeapLock(Arc<Inode>);

impl Lock for HeapLock {}

impl Drop for HeapLock {
    fn drop(&mut self) {
        // Whoever holds it alone is the only one who can let it go.
        if self.0.locks.load(Ordering::Relaxed) == EXCLUSIVE {
            self.0.locks.store(0, Ordering::Release);
        } else {
            self.0.locks.fetch_sub(1, Ordering::Release);
        }
    }
}

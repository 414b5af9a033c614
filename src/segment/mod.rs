//! One segment: a `.log` file of batches and the indexes beside it, all named by its base offset.
//!
//! Owns where a batch lies in the file and how it is found again. Which batches may be seen, when files
//! are synced and when a segment ends are the log's business. Indexes are caches: kept on the heap,
//! written when the segment is sealed or closed, rebuilt from the batches when missing or wrong.

mod buffer;
mod check;
mod headers;
mod indexes;
mod names;
mod walk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::error::{Error, ErrorKind, Result};
use crate::finding::Findings;
use crate::index::TransactionIndex;
use crate::record::{BatchHeader, validate_crc};
use crate::storage::{File, OpenMode, Storage};
use crate::types::{Offset, TopicPartition};

pub(crate) use buffer::BufferPool;
pub(crate) use indexes::IndexSizes;
use indexes::Indexes;
pub(crate) use names::FileKind;
pub(crate) use walk::{WalkEnd, walk};
use walk::{end_behind, is_sound};

/// First read of a batch whose size is not known yet.
const FIRST_READ_BYTES: usize = 64 << 10;

/// What the segments of one log share.
#[derive(Clone, Debug)]
pub(crate) struct SegmentHome {
    pub(crate) dir: Arc<Path>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) buffers: BufferPool,
    /// Where what is wrong with an index is told, and of which partition.
    pub(crate) findings: Arc<Findings>,
    pub(crate) partition: TopicPartition,
}

#[derive(Debug)]
pub(crate) struct Segment {
    base: Offset,
    home: SegmentHome,
    sizes: IndexSizes,
    /// Set when the file exists; opened at first use.
    file: OnceLock<Arc<dyn File>>,
    /// Bytes of whole batches that the operating system holds.
    written: AtomicU64,
    indexes: RwLock<Option<Indexes>>,
    aborted: RwLock<Option<TransactionIndex>>,
    /// The index files are another program's, and were not compared with the batches yet.
    doubted: AtomicBool,
}

/// Whole batches out of one segment.
#[derive(Debug)]
pub(crate) struct SegmentRead {
    /// The batches, the first of which holds the offset asked for or follows it.
    pub(crate) bytes: Bytes,
    /// Where the next read continues.
    pub(crate) next: Offset,
}

impl Segment {
    /// A segment that has no files yet.
    pub(crate) fn new(home: SegmentHome, base: Offset, sizes: IndexSizes) -> Self {
        let indexes = Indexes::empty(base, sizes);
        Self {
            base,
            home,
            sizes,
            file: OnceLock::new(),
            written: AtomicU64::new(0),
            indexes: RwLock::new(Some(indexes)),
            aborted: RwLock::new(Some(TransactionIndex::default())),
            doubted: AtomicBool::new(false),
        }
    }

    /// A segment whose `.log` file holds `len` bytes; nothing is opened or read before it is used.
    pub(crate) fn existing(home: SegmentHome, base: Offset, sizes: IndexSizes, len: u64) -> Self {
        Self {
            base,
            home,
            sizes,
            file: OnceLock::new(),
            written: AtomicU64::new(len),
            indexes: RwLock::new(None),
            aborted: RwLock::new(None),
            doubted: AtomicBool::new(false),
        }
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    /// Bytes of whole batches that the operating system holds.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Says that the batches up to `position` are in the file.
    pub(crate) fn set_written(&self, position: u64) {
        self.written.store(position, Ordering::Release);
    }

    pub(crate) fn path(&self, kind: FileKind) -> PathBuf {
        kind.path(&self.home.dir, self.base)
    }

    fn io_error(&self, what: &'static str, source: io::Error) -> Error {
        Error::io(what, self.path(FileKind::Log), source)
    }

    /// The `.log` file, opened when it was not.
    pub(crate) fn file(&self) -> Result<&Arc<dyn File>> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let opened = self
            .home
            .storage
            .open(&self.path(FileKind::Log), OpenMode::Write)
            .map_err(|e| self.io_error("cannot open a segment", e))?;
        Ok(self.file.get_or_init(|| opened))
    }

    /// Creates the `.log` and two empty index files (a `.log` without an `.index` would be scanned anew by
    /// a stock broker). `true` when it did; the directory is then to be synced.
    pub(crate) fn create_files(&self) -> Result<bool> {
        if self.file.get().is_some() {
            return Ok(false);
        }
        if self.written() > 0 {
            self.file()?;
            return Ok(false);
        }
        for kind in [FileKind::OffsetIndex, FileKind::TimeIndex] {
            self.write_whole(kind, &[])?;
        }
        let path = self.path(FileKind::Log);
        let file = self
            .home
            .storage
            .open(&path, OpenMode::CreateIfAbsent)
            .and_then(|file| file.set_len(0).map(|()| file))
            .map_err(|e| Error::io("cannot create a segment", path, e))?;
        let _ = self.file.set(file);
        Ok(true)
    }

    fn remove(&self, kind: FileKind) -> Result<()> {
        let path = self.path(kind);
        match self.home.storage.remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|e| Error::io("cannot remove a file of a segment", path, e)),
        }
    }

    /// The header of the first batch; `None` when it cannot be read.
    pub(crate) fn first_header(&self) -> Option<BatchHeader> {
        let mut header = [0; BatchHeader::LEN];
        self.file().ok()?.read_exact_at(&mut header, 0).ok()?;
        BatchHeader::parse(&header).ok()
    }

    /// Walks the batches from `position` on; see [`walk`].
    pub(crate) fn walk(
        &self,
        position: u64,
        expected: Offset,
        each: impl FnMut(u64, &BatchHeader, &[u8]) -> bool,
    ) -> Result<WalkEnd> {
        let file = self.file()?;
        walk(&**file, position, self.written(), expected.get(), &self.home.buffers, each)
            .map_err(|e| self.io_error("cannot read a segment", e))
    }

    /// Where the last sound batch behind the damage at `position` ends, if there is one.
    pub(crate) fn end_behind(&self, position: u64, expected: Offset) -> Result<Option<Offset>> {
        end_behind(&**self.file()?, position, self.written(), expected.get(), &self.home.buffers)
            .map_err(|e| self.io_error("cannot read a segment", e))
    }

    /// Where to look for `offset`: a position at or before its batch, and how many bytes to read first.
    fn locate(&self, offset: Offset) -> Result<(u64, usize)> {
        let written = self.written();
        let indexes = self.indexes()?;
        let (_, floor) = indexes.offset.lookup(offset);
        // The entry after the target names the batch that holds it, when every batch has an entry, as large
        // ones do. The reader checks, and falls back to the floor. Batches that are only staged have entries too.
        let next = indexes.offset.ceiling(offset);
        let following = next.and_then(|(last, _)| indexes.offset.ceiling(last.next()));
        Ok(match (next, following) {
            (Some((_, at)), Some((_, after)))
                if at - floor > self.sizes.interval.saturating_mul(2) && u64::from(after) <= written =>
            {
                (u64::from(at), (after - at) as usize)
            }
            _ => (u64::from(floor), FIRST_READ_BYTES),
        })
    }

    /// Reads whole batches from the one that holds `from`, or the first behind it, up to the one that begins
    /// at or behind `end`: about `max_bytes` of them, at least one. `None` when there is none.
    pub(crate) fn read(&self, from: Offset, end: Offset, max_bytes: usize) -> Result<Option<SegmentRead>> {
        match self.read_by_index(from, end, max_bytes) {
            Ok(Some(read)) => return Ok(read),
            Err(e) if e.kind() == ErrorKind::Io || self.indexes()?.offset.lookup(from).1 == 0 => return Err(e),
            // An entry points behind the batch wanted, or into one, or the bytes are damaged.
            Err(e) if self.indexes()?.from_batches => return Err(e),
            Ok(None) | Err(_) => {}
        }
        let rebuilt = self.rebuild_indexes()?;
        *self.indexes.write() = Some(rebuilt);
        match self.read_by_index(from, end, max_bytes)? {
            Some(read) => Ok(read),
            None => Ok(self.read_at(0, FIRST_READ_BYTES, from, end, max_bytes)?.flatten()),
        }
    }

    /// As `read`; outer `None` when the index is wrong.
    fn read_by_index(&self, from: Offset, end: Offset, max_bytes: usize) -> Result<Option<Option<SegmentRead>>> {
        let (guess, first) = self.locate(from)?;
        if let Some(found) = self.read_at(guess, first, from, end, max_bytes)? {
            return Ok(Some(found));
        }
        let floor = u64::from(self.indexes()?.offset.lookup(from).1);
        self.read_at(floor, FIRST_READ_BYTES, from, end, max_bytes)
    }

    /// As `read`, from a position; outer `None` when the batches there begin behind `from` although earlier
    /// ones may hold it.
    fn read_at(
        &self,
        mut position: u64,
        first: usize,
        from: Offset,
        end: Offset,
        max_bytes: usize,
    ) -> Result<Option<Option<SegmentRead>>> {
        let mut unproven = position > 0;
        let written = self.written();
        let file = self.file()?;
        let mut want = first.max(max_bytes);
        loop {
            let left = usize::try_from(written.saturating_sub(position)).unwrap_or(usize::MAX);
            let have = want.min(left);
            let mut buffer = self.home.buffers.take(have);
            file.read_exact_at(buffer.as_mut(have), position)
                .map_err(|e| self.io_error("cannot read a segment", e).offset(from))?;
            match select(&buffer.as_ref()[..have], std::mem::take(&mut unproven), from, end, max_bytes)
                .map_err(|e| e.path(self.path(FileKind::Log)))?
            {
                Selected::Batches { start, len, next } => {
                    let bytes = buffer.freeze().slice(start..start + len);
                    return Ok(Some(Some(SegmentRead { bytes, next })));
                }
                Selected::Before => return Ok(None),
                Selected::None => return Ok(Some(None)),
                Selected::More { skip, need } => {
                    position += skip as u64;
                    want = need.max(max_bytes);
                    // A damaged length must not cost memory: what is large is checked before it is held.
                    let failed = |e| self.io_error("cannot read a segment", e);
                    let is_whole = need as u64 <= written.saturating_sub(position)
                        && (need <= FIRST_READ_BYTES.max(max_bytes)
                            || is_sound(&**file, position, written).map_err(failed)?);
                    if !is_whole {
                        return match need {
                            BatchHeader::LEN if position == written => Ok(Some(None)),
                            _ => Err(Error::new(ErrorKind::Corrupt, "a batch is cut short or damaged")
                                .offset(from)
                                .path(self.path(FileKind::Log))
                                .remedy("close the broker and open it again: recovery reports what is damaged")),
                        };
                    }
                }
            }
        }
    }

    /// Cuts the file to `position`, whose next batch would get offset `end`.
    pub(crate) fn truncate(&self, position: u64, end: Offset) -> Result<()> {
        self.load_aborted()?;
        let file = self.file()?;
        file.set_len(position).map_err(|e| self.io_error("cannot truncate a segment", e))?;
        self.set_written(position);
        *self.indexes.write() = Some(self.rebuild_indexes()?);
        if let Some(aborted) = self.aborted.write().as_mut() {
            aborted.truncate(end);
        }
        self.write_indexes()
    }

    /// Removes all files of the segment.
    pub(crate) fn remove_files(&self) -> Result<()> {
        FileKind::ALL.into_iter().try_for_each(|kind| self.remove(kind))
    }
}

enum Selected {
    /// These bytes of the buffer.
    Batches { start: usize, len: usize, next: Offset },
    /// The batch wanted needs this many bytes from `skip` on.
    More { skip: usize, need: usize },
    /// The first batch here lies behind the offset wanted, and an earlier one may hold it.
    Before,
    /// No batch here is visible.
    None,
}

/// Picks whole, sound, visible batches out of bytes that begin at a batch.
fn select(bytes: &[u8], guessed: bool, from: Offset, end: Offset, max_bytes: usize) -> Result<Selected> {
    let (mut at, mut start, mut next) = (0, None, from);
    loop {
        let rest = &bytes[at..];
        if rest.len() < BatchHeader::LEN {
            break;
        }
        let header = BatchHeader::parse(rest).map_err(|e| e.offset(next))?;
        let size = header.size_bytes();
        if start.is_none() && guessed && at == 0 && header.base_offset() > from {
            return Ok(Selected::Before);
        }
        if header.base_offset() >= end {
            return Ok(match start {
                Some(start) => Selected::Batches { start, len: at - start, next },
                None => Selected::None,
            });
        }
        if header.next_offset() <= from {
            at += size.min(rest.len());
            if size > rest.len() {
                // The skipped batch goes on behind the buffer.
                return Ok(Selected::More { skip: at - rest.len() + size, need: BatchHeader::LEN });
            }
            continue;
        }
        let taken = start.map_or(0, |s| at - s);
        if size > rest.len() || (taken > 0 && taken + size > max_bytes) {
            break;
        }
        if !validate_crc(&header, &rest[..size]) {
            if taken > 0 {
                break; // Serve what is sound; the next read meets the damage itself.
            }
            return Err(Error::new(ErrorKind::Corrupt, "a batch does not match its checksum")
                .offset(header.base_offset())
                .remedy("the bytes on disk are damaged: restore them, or read on from a later offset"));
        }
        start.get_or_insert(at);
        at += size;
        next = header.next_offset();
    }
    Ok(match start {
        Some(start) => Selected::Batches { start, len: at - start, next },
        None => {
            let rest = &bytes[at..];
            let need = match BatchHeader::parse(rest) {
                Ok(header) => header.size_bytes(),
                Err(_) => BatchHeader::LEN,
            };
            Selected::More { skip: at, need }
        }
    })
}

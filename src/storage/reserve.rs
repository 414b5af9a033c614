//! A few bytes of disk kept back for the time when it is full: a file of zeros, given up when something small that
//! must be written finds no space, and filled again when there is some.
//!
//! What records are appended to never gets of it: it is for what keeps their log in order, and as long as it is not
//! full again, nothing is appended. Invariant: an operation is tried a second time only when there was something to
//! give up.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{DirEntry, File, Lock, Map, Metadata, OpenMode, Storage};

/// The file's name, which means nothing to Kafka.
pub(crate) const RESERVE: &str = "thalweg.reserve";

/// A storage that has something in reserve.
#[derive(Clone, Debug)]
pub(crate) struct ReservedStorage(Arc<Reserve>);

#[derive(Debug)]
struct Reserve {
    below: Arc<dyn Storage>,
    path: PathBuf,
    bytes: usize,
    held: AtomicBool,
}

impl ReservedStorage {
    /// Over `below`, with up to `bytes` kept in `dir` from the next [`fill`](Self::fill) on, or before.
    pub(crate) fn new(below: Arc<dyn Storage>, dir: &Path, bytes: usize) -> Self {
        let path = dir.join(RESERVE);
        let held = below.metadata(&path).is_ok_and(|found| found.len > 0);
        Self(Arc::new(Reserve { below, path, bytes, held: AtomicBool::new(held) }))
    }

    /// Fills the reserve when it is not full. A disk without room for it, or that fails, is for others to tell of.
    pub(crate) fn fill(&self) {
        drop(self.0.fill());
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Reserve {
    fn fill(&self) -> io::Result<()> {
        if self.held.load(Ordering::Acquire) {
            return Ok(());
        }
        let file = self.below.open(&self.path, OpenMode::CreateIfAbsent)?;
        let filled = file.write_all_at(&vec![0; self.bytes], 0).and_then(|()| file.sync_data());
        // Half of it would be no help, and is wanted elsewhere.
        filled.or_else(|e| file.set_len(0).and(Err(e)))?;
        self.held.store(true, Ordering::Release);
        Ok(())
    }

    /// Fails as long as something else must have the space that is left.
    fn check_records(&self) -> io::Result<()> {
        match self.fill() {
            Err(e) if is_full(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Gives up what is held; whether it was anything.
    fn give_up(&self) -> bool {
        let emptied = || self.below.open(&self.path, OpenMode::Write).and_then(|file| file.set_len(0));
        self.held.swap(false, Ordering::AcqRel) && emptied().is_ok()
    }

    fn with<T>(&self, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match call() {
            Err(e) if is_full(&e) && self.give_up() => call(),
            done => done,
        }
    }
}

/// Whether it is where records are appended, or will be under another name.
fn holds_records(path: &Path) -> bool {
    let in_catalog = path.parent().is_some_and(|dir| dir.ends_with("__cluster_metadata-0"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    (name.ends_with(".log") || name.ends_with(".log.deleted")) && !in_catalog
}

impl Storage for ReservedStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.0.with(|| self.0.below.open(path, mode))?;
        if mode == OpenMode::Read {
            return Ok(file);
        }
        let holds_records = holds_records(path);
        let was = if holds_records && mode == OpenMode::Write { file.len()? } else { 0 };
        Ok(Arc::new(ReservedFile {
            below: file,
            reserve: Arc::clone(&self.0),
            holds_records,
            was: AtomicU64::new(was),
        }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.with(|| self.0.below.create_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.with(|| self.0.below.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.with(|| self.0.below.remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.with(|| self.0.below.remove_dir_all(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.below.list(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.0.below.metadata(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.below.sync_dir(path)
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        self.0.below.sync_fs(path)
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Lock>> {
        self.0.with(|| self.0.below.lock(path, holder))
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.0.below.lock_shared(path)
    }

    fn boot_id(&self) -> [u8; 16] {
        self.0.below.boot_id()
    }
}

/// A file that may draw on the reserve, or must not.
#[derive(Debug)]
struct ReservedFile {
    below: Arc<dyn File>,
    reserve: Arc<Reserve>,
    holds_records: bool,
    /// How long the file was when it was opened, as far as that is still there.
    was: AtomicU64,
}

impl ReservedFile {
    /// Runs what makes the file reach `end`, if it does not yet.
    fn grow<T>(&self, end: u64, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        if !self.holds_records {
            return self.reserve.with(call);
        }
        match self.reserve.check_records() {
            // What was there is written again in its place, and takes no space from anybody.
            Err(e) if end > self.was.load(Ordering::Acquire) => Err(e),
            _ => call(),
        }
    }
}

impl File for ReservedFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.below.read_at(buf, position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.grow(position + buf.len() as u64, || self.below.write_at(buf, position))
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        let len: u64 = bufs.iter().map(|buf| buf.len() as u64).sum();
        self.grow(position + len, || self.below.write_vectored_at(bufs, position))
    }

    fn sync_data(&self) -> io::Result<()> {
        // Never twice.
        self.below.sync_data()
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.grow(u64::MAX, || self.below.allocate(position, len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.was.fetch_min(len, Ordering::AcqRel);
        // A cut needs no space, or little.
        self.reserve.with(|| self.below.set_len(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.below.len()
    }

    fn map(&self, len: u64) -> io::Result<Box<dyn Map>> {
        self.below.map(len)
    }
}

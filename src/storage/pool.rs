//! A storage that keeps few descriptors open however many files are in use.
//!
//! A handle belongs to a path: handles of one path share a [`Slot`], which opens its descriptor when it is
//! needed and may lose it when others need it more. Not its job: what is read or written.
//! Invariants: a descriptor is closed only between operations and with nothing unsynced behind it; a
//! sync that failed is remembered for the slot's life; a slot whose name is gone keeps its descriptor. Once the pool
//! is closed it has no descriptor and opens none, whatever handles live.
//! Locks in order: `names`, then a slot's `descriptor`. A sweep waits for neither.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockUpgradableReadGuard, RwLockWriteGuard};

use super::disk::open_files_limit;
use super::paths::{at_or_below, moved};
use super::{DirEntry, File, Lock, Map, Metadata, OpenMode, Storage};
use crate::error::{StorageClosed, Unsynced, is_out_of_descriptors};

/// A storage over another one that bounds the number of its open files.
///
/// Files are told apart by path as given: two spellings of one path are two files to it. A file that was
/// opened through it must not be renamed or removed behind its back.
#[derive(Clone, Debug)]
pub(crate) struct PooledStorage {
    pool: Arc<Pool>,
}

impl PooledStorage {
    /// Bounds `inner` to `capacity` open files, at least one. Files in the middle of an operation and
    /// files whose name was removed cannot be closed; they alone can push the number beyond it.
    pub(crate) fn new(inner: Arc<dyn Storage>, capacity: usize) -> Self {
        Self {
            pool: Arc::new(Pool {
                inner,
                capacity: capacity.max(1),
                open: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
                ring: Mutex::default(),
                names: RwLock::default(),
            }),
        }
    }

    /// Closes all descriptors, each once the operation at it has ended; nothing unsynced is synced. What comes later
    /// fails.
    pub(crate) fn close(&self) {
        {
            // Whoever opens one holds these.
            let _names = self.pool.names.write();
            self.pool.closed.store(true, Ordering::Release);
        }
        loop {
            let next = self.pool.ring.lock().pop_front();
            let Some(slot) = next else { break };
            if let Some(live) = slot.upgrade() {
                *live.descriptor.write() = None;
            }
        }
    }

    /// Half of the descriptors that this process may open, at least 16, at most 1024: the host
    /// application needs some too.
    pub(crate) fn default_capacity() -> usize {
        open_files_limit().map_or(1024, |limit| usize::try_from(limit / 2).unwrap_or(1024).clamp(16, 1024))
    }
}

#[derive(Debug)]
struct Pool {
    inner: Arc<dyn Storage>,
    capacity: usize,
    /// Descriptors that are open or about to be.
    open: AtomicUsize,
    /// Set under `names`, for good.
    closed: AtomicBool,
    /// The slots with a descriptor, for the second-chance sweep; some of them dead.
    ring: Mutex<VecDeque<Weak<Slot>>>,
    names: RwLock<Names>,
}

/// The live slots by path. Held for writing while a name changes on disk, for reading while a slot opens
/// its path again.
#[derive(Debug, Default)]
struct Names {
    slots: BTreeMap<PathBuf, Weak<Slot>>,
    /// Dead entries are cleared out when there are this many.
    prune_at: usize,
}

impl Names {
    fn get(&self, path: &Path) -> Option<Arc<Slot>> {
        self.slots.get(path)?.upgrade()
    }

    fn insert(&mut self, path: PathBuf, slot: &Arc<Slot>) {
        if self.slots.len() >= self.prune_at {
            self.slots.retain(|_, slot| slot.strong_count() > 0);
            self.prune_at = (2 * self.slots.len()).max(64);
        }
        self.slots.insert(path, Arc::downgrade(slot));
    }

    /// The slots at `path` and below it.
    fn at_or_below(&self, path: &Path) -> Vec<(PathBuf, Arc<Slot>)> {
        at_or_below(&self.slots, path).into_iter().filter_map(|(path, slot)| Some((path, slot.upgrade()?))).collect()
    }
}

/// One file: what all handles of its path share.
struct Slot {
    pool: Arc<Pool>,
    /// Changes only under `names` held for writing.
    path: Mutex<PathBuf>,
    descriptor: RwLock<Option<Descriptor>>,
    /// Whether the descriptor is, or will be, opened for writing as well.
    writable: AtomicBool,
    /// Used since the sweep last came by.
    used: AtomicBool,
    /// Its name is gone: a closed descriptor could not be had again.
    pinned: AtomicBool,
    /// Counts what changed the file, after the fact; and how many of those a sync has covered.
    written: AtomicU64,
    synced: AtomicU64,
    /// Why a sync failed. What was unsynced then is in doubt for good, and no later sync can tell.
    failed: OnceLock<String>,
}

struct Descriptor {
    file: Arc<dyn File>,
    /// Dropped after the file is closed.
    _permit: Permit,
}

/// One open descriptor's place in the count.
struct Permit(Arc<Pool>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How far a sweep goes to find a descriptor to close.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sweep {
    /// Those not used since the last sweep, with nothing to sync.
    IdleAndClean,
    /// Those with nothing to sync.
    Clean,
    /// Any between two operations, after a sync.
    Any,
}

impl Pool {
    /// Makes room for one more descriptor.
    fn permit(self: &Arc<Self>) -> Permit {
        self.open.fetch_add(1, Ordering::AcqRel);
        let permit = Permit(self.clone());
        while self.open.load(Ordering::Acquire) > self.capacity && self.close_one() {}
        permit
    }

    /// Closes one descriptor; `false` when all are in the middle of an operation or pinned.
    fn close_one(&self) -> bool {
        for sweep in [Sweep::IdleAndClean, Sweep::Clean, Sweep::Any] {
            let turns = self.ring.lock().len();
            for _ in 0..turns {
                let Some(slot) = self.ring.lock().pop_front() else { break };
                let Some(live) = slot.upgrade() else { continue };
                if live.close(sweep) {
                    return true;
                }
                self.ring.lock().push_back(slot);
                if self.closed.load(Ordering::Acquire) {
                    // Who closes all may not have seen it.
                    *live.descriptor.write() = None;
                    return false;
                }
            }
        }
        false
    }

    fn check_open(&self) -> io::Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(io::Error::other(StorageClosed)) } else { Ok(()) }
    }

    /// The names, to change them on disk as well.
    fn names_to_change(&self) -> io::Result<RwLockWriteGuard<'_, Names>> {
        let names = self.names.write();
        self.check_open()?;
        Ok(names)
    }

    /// Enters a slot that has just been given a descriptor.
    fn enter(&self, slot: &Arc<Slot>) {
        let mut ring = self.ring.lock();
        // Handles that were dropped leave dead entries, which no sweep may ever come to clear.
        if ring.len() > 2 * self.open.load(Ordering::Relaxed) + 16 {
            ring.retain(|slot| slot.strong_count() > 0);
        }
        ring.push_back(Arc::downgrade(slot));
    }

    /// Does what needs a descriptor; when the system has none left, closes some of ours and tries again. The error stays
    /// the system's own: nobody may take it for a file that is missing or that the disk cannot read.
    fn with_descriptors<R>(&self, attempt: impl Fn() -> io::Result<R>) -> io::Result<R> {
        const TRIES_MORE: usize = 7;
        const CLOSED_AT_ONCE: usize = 4;
        for _ in 0..TRIES_MORE {
            match attempt() {
                Err(e) if is_out_of_descriptors(&e) => {
                    if (0..CLOSED_AT_ONCE).filter(|_| self.close_one()).count() == 0 {
                        return Err(e);
                    }
                }
                result => return result,
            }
        }
        attempt()
    }

    /// Opens a path that no live slot stands for.
    fn open_new(
        self: &Arc<Self>,
        names: &mut Names,
        path: &Path,
        mode: OpenMode,
        permit: Permit,
    ) -> io::Result<Arc<Slot>> {
        let file = self.with_descriptors(|| self.inner.open(path, mode))?;
        let slot = Arc::new(Slot {
            pool: self.clone(),
            path: Mutex::new(path.to_owned()),
            descriptor: RwLock::new(Some(Descriptor { file, _permit: permit })),
            writable: AtomicBool::new(mode != OpenMode::Read),
            used: AtomicBool::new(true),
            pinned: AtomicBool::new(false),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            failed: OnceLock::new(),
        });
        names.insert(path.to_owned(), &slot);
        self.enter(&slot);
        Ok(slot)
    }

    /// Pins the slots whose names `remove` takes away, and forgets the names that are gone after it.
    fn unname(
        &self,
        names: &mut Names,
        slots: &[(PathBuf, Arc<Slot>)],
        remove: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let result = slots.iter().try_for_each(|(path, slot)| slot.pin(path)).and_then(|()| remove());
        for (path, slot) in slots {
            // A directory's removal may fail half-way.
            let gone = || matches!(self.inner.metadata(path), Err(e) if e.kind() == io::ErrorKind::NotFound);
            if result.is_ok() || gone() {
                names.slots.remove(path);
            } else {
                slot.pinned.store(false, Ordering::Relaxed);
            }
        }
        result
    }
}

impl Slot {
    /// Runs one operation on the open descriptor, which cannot be closed meanwhile.
    fn with<R>(self: &Arc<Self>, operation: impl FnOnce(&dyn File) -> io::Result<R>) -> io::Result<R> {
        let mut guard = self.descriptor.read();
        if guard.is_none() {
            drop(guard);
            guard = self.reopen()?;
        }
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        match &*guard {
            Some(descriptor) => operation(&*descriptor.file),
            None => Err(io::Error::other("a file was closed while it was being opened")),
        }
    }

    fn reopen(self: &Arc<Self>) -> io::Result<RwLockReadGuard<'_, Option<Descriptor>>> {
        let permit = self.pool.permit();
        let _names = self.pool.names.read();
        self.pool.check_open()?;
        let path = self.path.lock().clone();
        // Somebody else may have been quicker, and be in the middle of a sync by now: not to be waited for.
        let guard = self.descriptor.upgradable_read();
        if guard.is_some() {
            return Ok(RwLockUpgradableReadGuard::downgrade(guard));
        }
        let mut guard = RwLockUpgradableReadGuard::upgrade(guard);
        self.fill(&mut guard, &path, permit)?;
        Ok(RwLockWriteGuard::downgrade(guard))
    }

    /// Opens the file again, whatever it was first opened with.
    fn fill(self: &Arc<Self>, descriptor: &mut Option<Descriptor>, path: &Path, permit: Permit) -> io::Result<()> {
        let mode = if self.writable.load(Ordering::Relaxed) { OpenMode::Write } else { OpenMode::Read };
        let file = self.pool.with_descriptors(|| self.pool.inner.open(path, mode))?;
        if descriptor.replace(Descriptor { file, _permit: permit }).is_none() {
            self.pool.enter(self);
        }
        Ok(())
    }

    /// Makes a slot that was opened for reading writable. The caller holds `names` for writing.
    fn make_writable(self: &Arc<Self>, path: &Path, permit: Permit) -> io::Result<()> {
        let mut guard = self.descriptor.write();
        if self.writable.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let result = self.fill(&mut guard, path, permit);
        self.writable.store(result.is_ok(), Ordering::Relaxed);
        result
    }

    /// Keeps the descriptor, opening it when it is closed, until the slot is dropped. The caller holds
    /// `names` for writing.
    fn pin(self: &Arc<Self>, path: &Path) -> io::Result<()> {
        // A sweep looks at this after it has locked the descriptor: it closes before, or not at all.
        self.pinned.store(true, Ordering::Relaxed);
        if self.descriptor.read().is_some() {
            return Ok(());
        }
        let permit = self.pool.permit();
        self.fill(&mut self.descriptor.write(), path, permit)
    }

    /// Closes the descriptor if `sweep` goes that far; says whether it did.
    fn close(&self, sweep: Sweep) -> bool {
        if sweep == Sweep::IdleAndClean && self.used.swap(false, Ordering::Relaxed) {
            return false;
        }
        let Some(mut guard) = self.descriptor.try_write() else { return false };
        let Some(descriptor) = &*guard else { return false };
        if self.pinned.load(Ordering::Relaxed) {
            return false;
        }
        if self.written.load(Ordering::Acquire) != self.synced.load(Ordering::Acquire) && self.failed.get().is_none() {
            if sweep != Sweep::Any {
                return false;
            }
            // Unsynced bytes are synced through the descriptor that wrote them, or the kernel could
            // report their loss to nobody. The slot remembers a failure for its next user.
            if self.sync(&*descriptor.file).is_err() {
                debug_assert!(self.failed.get().is_some(), "a failed sync is remembered");
            }
        }
        *guard = None;
        true
    }

    /// Whether a sweep has closed it after a sync of all that was written through it, and with that of the whole file: what
    /// needs no descriptor must not fail for want of one.
    fn was_swept_synced(&self) -> bool {
        let synced = self.synced.load(Ordering::Acquire);
        synced > 0 && self.descriptor.read().is_none() && self.written.load(Ordering::Acquire) == synced
    }

    fn sync(&self, file: &dyn File) -> io::Result<()> {
        let written = self.written.load(Ordering::Acquire);
        match file.sync_data() {
            Ok(()) => {
                self.synced.fetch_max(written, Ordering::AcqRel);
                Ok(())
            }
            Err(e) => {
                self.failed.get_or_init(|| e.to_string());
                Err(e)
            }
        }
    }

    /// Refuses when a sync has failed.
    fn check(&self) -> io::Result<()> {
        match self.failed.get() {
            None => Ok(()),
            Some(why) => Err(io::Error::other(Unsynced(why.clone()))),
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("path", &*self.path.lock()).finish_non_exhaustive()
    }
}

impl Storage for PooledStorage {
    /// After a failed sync the handles of that file stay failed; a new open starts anew beside them.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let pool = &self.pool;
        let writable = mode != OpenMode::Read;
        let handle = |slot| -> Arc<dyn File> { Arc::new(PooledFile { slot, writable }) };
        let serves = |slot: &Slot| {
            slot.failed.get().is_none()
                && mode != OpenMode::CreateNew
                && (!writable || slot.writable.load(Ordering::Relaxed))
        };
        pool.check_open()?;
        if let Some(slot) = pool.names.read().get(path)
            && serves(&slot)
        {
            return Ok(handle(slot));
        }
        let permit = pool.permit();
        let mut names = pool.names_to_change()?;
        match names.get(path) {
            Some(_) if mode == OpenMode::CreateNew => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(slot) if slot.failed.get().is_none() => {
                if writable {
                    slot.make_writable(path, permit)?;
                }
                return Ok(handle(slot));
            }
            Some(slot) => slot.pin(path)?,
            None => {}
        }
        pool.open_new(&mut names, path, mode, permit).map(handle)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.pool.inner.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let pool = &self.pool;
        if from == to {
            return pool.inner.rename(from, to);
        }
        let mut names = pool.names_to_change()?;
        let replaced: Vec<_> = names.get(to).map(|slot| (to.to_owned(), slot)).into_iter().collect();
        pool.unname(&mut names, &replaced, || pool.inner.rename(from, to))?;
        for (path, slot) in names.at_or_below(from) {
            names.slots.remove(&path);
            let path = moved(&path, from, to);
            slot.path.lock().clone_from(&path);
            names.insert(path, &slot);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut names = self.pool.names_to_change()?;
        let slots: Vec<_> = names.get(path).map(|slot| (path.to_owned(), slot)).into_iter().collect();
        self.pool.unname(&mut names, &slots, || self.pool.inner.remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut names = self.pool.names_to_change()?;
        let slots = names.at_or_below(path);
        let remove = || self.pool.with_descriptors(|| self.pool.inner.remove_dir_all(path));
        self.pool.unname(&mut names, &slots, remove)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.pool.with_descriptors(|| self.pool.inner.list(path))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.pool.inner.metadata(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.pool.with_descriptors(|| self.pool.inner.sync_dir(path))
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        self.pool.with_descriptors(|| self.pool.inner.sync_fs(path))
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Lock>> {
        self.pool.with_descriptors(|| self.pool.inner.lock(path, holder))
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.pool.with_descriptors(|| self.pool.inner.lock_shared(path))
    }

    fn boot_id(&self) -> [u8; 16] {
        self.pool.inner.boot_id()
    }
}

/// A handle: the shared slot, and what this one may do with it.
#[derive(Debug)]
struct PooledFile {
    slot: Arc<Slot>,
    writable: bool,
}

impl PooledFile {
    /// Runs an operation that changes the file.
    fn change<R>(&self, operation: impl FnOnce(&dyn File) -> io::Result<R>) -> io::Result<R> {
        if !self.writable {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is open for reading only"));
        }
        self.slot.with(|file| {
            self.slot.check()?;
            let result = operation(file);
            // Counted after the fact, also when it failed half-way: a sync that runs beside it must not
            // be taken to have covered it.
            self.slot.written.fetch_add(1, Ordering::Release);
            result
        })
    }
}

impl File for PooledFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.slot.with(|file| file.read_at(buf, position))
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.change(|file| file.write_at(buf, position))
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.change(|file| file.write_vectored_at(bufs, position))
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.slot.was_swept_synced() {
            return self.slot.check();
        }
        self.slot.with(|file| {
            self.slot.check()?;
            self.slot.sync(file)
        })
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.change(|file| file.allocate(position, len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|file| file.set_len(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.slot.with(|file| file.len())
    }

    fn map(&self, len: u64) -> io::Result<Box<dyn Map>> {
        self.slot.with(|file| file.map(len))
    }
}

#[cfg(test)]
mod tests;

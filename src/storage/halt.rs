//! A storage that stops when it can no longer vouch for names: the sync of a directory failed, or the file system took
//! to reading only. The system tells of a lost name once, to one of those who ask, and not whose it was. So from then on
//! nobody makes, changes or syncs anything; reads go on. Nor does a process that was forked from the one that opened it:
//! there are then two who believe that they know where the files end. Every sync is timed here.
//!
//! Invariant: whoever was told that a directory is synced was told so before any such failure. Not refused: what is
//! noted for the next opening in this boot, in files called `.state`, which promises nothing without a sync.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::syncs::Syncs;
use super::{DirEntry, File, Lock, Map, Metadata, OpenMode, Storage};
use crate::clock::Clock;
use crate::error::{Forked, Halted, is_out_of_descriptors};
use crate::metrics::{Metrics, SyncMeter};
use crate::mutants::{Mutant, is_on};

/// A storage that stops; its clones stop with it.
#[derive(Clone, Debug)]
pub(crate) struct HaltingStorage {
    below: Arc<dyn Storage>,
    halt: Arc<Halt>,
}

#[derive(Debug)]
struct Halt {
    /// The process that opened it.
    owner: u32,
    why: ArcSwapOption<Halted>,
    /// Directories that are being synced.
    syncs: Mutex<HashMap<PathBuf, Arc<Syncs>>>,
    meter: SyncMeter,
}

impl HaltingStorage {
    pub(crate) fn new(below: Arc<dyn Storage>, clock: Arc<dyn Clock>) -> Self {
        Self { below, halt: Arc::new(Halt::of(process::id(), clock)) }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        Metrics { syncs: self.halt.meter.metrics(), ..Metrics::default() }
    }

    /// Goes on, for who takes nothing for durable that was not synced since.
    pub(crate) fn resume(&self) {
        self.halt.why.store(None);
    }
}

impl Halt {
    fn of(owner: u32, clock: Arc<dyn Clock>) -> Self {
        Self { owner, why: ArcSwapOption::default(), syncs: Mutex::default(), meter: SyncMeter::new(clock) }
    }

    /// One system call for each write and sync: a fork tells nobody.
    fn check_process(&self) -> io::Result<()> {
        let (owner, own) = (self.owner, process::id());
        if own == owner { Ok(()) } else { Err(io::Error::other(Forked { owner, own })) }
    }

    fn check(&self) -> io::Result<()> {
        self.check_process()?;
        self.why.load().as_deref().map_or(Ok(()), |why| Err(refusal(why.clone())))
    }

    /// Stops everything; the first reason counts.
    fn stop(&self, why: String) -> io::Error {
        let why = Halted(why);
        self.why.rcu(|before| before.clone().unwrap_or_else(|| Arc::new(why.clone())));
        refusal(why)
    }

    /// Runs what changes the disk.
    fn change<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.check()?;
        self.heed(call())
    }

    fn heed<T>(&self, done: io::Result<T>) -> io::Result<T> {
        done.map_err(|e| match e.kind() {
            io::ErrorKind::ReadOnlyFilesystem => self.stop(format!("the file system is read-only: {e}")),
            _ => e,
        })
    }

    /// Runs the sync of a directory, one at a time for each.
    fn sync_dir(&self, path: &Path, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let syncs = Arc::clone(self.syncs.lock().entry(path.to_owned()).or_default());
        let synced = syncs.run(|| {
            self.check()?;
            sync().map_err(|e| match was_tried(&e) {
                true => self.stop(format!("the sync of the directory {} failed: {e}", path.display())),
                false => e,
            })
        });
        // Of two who sync it at once one has stopped everything, and both are told that.
        let synced = synced.map_err(|e| self.check().err().unwrap_or(e));
        let mut all = self.syncs.lock();
        drop(syncs);
        if all.get(path).is_some_and(|unused| Arc::strong_count(unused) == 1) {
            all.remove(path);
        }
        synced
    }
}

fn refusal(why: Halted) -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, why)
}

/// Whether a directory's sync failed, not its opening for that.
fn was_tried(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, Unsupported};
    let is_refused = matches!(error.kind(), NotFound | NotADirectory | PermissionDenied | Unsupported);
    !is_refused && !is_out_of_descriptors(error)
}

impl Storage for HaltingStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let below = match mode {
            OpenMode::Read => return self.below.open(path, mode),
            // For a note, perhaps.
            OpenMode::Write => self.halt.heed(self.below.open(path, mode))?,
            OpenMode::CreateIfAbsent | OpenMode::CreateNew => self.halt.change(|| self.below.open(path, mode))?,
        };
        let is_note = path.extension().is_some_and(|extension| extension == "state");
        Ok(Arc::new(HaltingFile { below, halt: Arc::clone(&self.halt), is_note }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.halt.change(|| self.below.create_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.halt.change(|| self.below.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.halt.change(|| self.below.remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.halt.change(|| self.below.remove_dir_all(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.below.list(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.below.metadata(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.halt.meter.time(|| self.halt.sync_dir(path, || self.below.sync_dir(path)))
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        self.halt.change(|| self.below.sync_fs(path))
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Lock>> {
        self.below.lock(path, holder)
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.below.lock_shared(path)
    }

    fn boot_id(&self) -> [u8; 16] {
        self.below.boot_id()
    }
}

#[derive(Debug)]
struct HaltingFile {
    below: Arc<dyn File>,
    halt: Arc<Halt>,
    is_note: bool,
}

impl HaltingFile {
    fn write<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if !self.is_note {
            return self.halt.change(call);
        }
        self.halt.check_process()?;
        self.halt.heed(call())
    }
}

impl File for HaltingFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.below.read_at(buf, position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.write(|| self.below.write_at(buf, position))
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.write(|| self.below.write_vectored_at(bufs, position))
    }

    fn sync_data(&self) -> io::Result<()> {
        let sync = || self.below.sync_data();
        let sync = || if is_on(Mutant::SyncRetried) { sync().or_else(|_| sync()) } else { sync() };
        self.halt.meter.time(|| self.halt.change(sync))
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.write(|| self.below.allocate(position, len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.write(|| self.below.set_len(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.below.len()
    }

    fn map(&self, len: u64) -> io::Result<Box<dyn Map>> {
        self.below.map(len)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;
    use crate::clock::SystemClock;
    use crate::storage::MemoryStorage;
    use crate::storage::conformance::storage_conformance;
    use crate::testing::{Errno, Fault, Operation, Repeat, SimStorage};

    #[test]
    fn conforms() {
        storage_conformance(&|| {
            let halting = HaltingStorage::new(Arc::new(MemoryStorage::new()), Arc::new(SystemClock::new()));
            (Arc::new(halting), "/".into())
        });
    }

    type Change = fn(&HaltingStorage, &dyn File) -> io::Result<()>;

    const CHANGES: [(Operation, Change); 13] = [
        (Operation::Create, |storage, _| storage.open(Path::new("new"), OpenMode::CreateIfAbsent).map(drop)),
        (Operation::Create, |storage, _| storage.open(Path::new("new"), OpenMode::CreateNew).map(drop)),
        (Operation::CreateDir, |storage, _| storage.create_dir(Path::new("other"))),
        (Operation::Rename, |storage, _| storage.rename(Path::new("file"), Path::new("other"))),
        (Operation::Remove, |storage, _| storage.remove_file(Path::new("file"))),
        (Operation::RemoveDir, |storage, _| storage.remove_dir_all(Path::new("dir"))),
        (Operation::SyncDir, |storage, _| storage.sync_dir(Path::new("dir"))),
        (Operation::SyncFs, |storage, _| storage.sync_fs(Path::new("dir"))),
        (Operation::Write, |_, file| file.write_all_at(b"y", 0)),
        (Operation::Write, |_, file| file.write_vectored_at(&[IoSlice::new(b"y")], 0).map(drop)),
        (Operation::Sync, |_, file| file.sync_data()),
        (Operation::Allocate, |_, file| file.allocate(0, 1)),
        (Operation::SetLen, |_, file| file.set_len(0)),
    ];

    #[test]
    fn once_stopped_it_changes_nothing_but_notes_and_reads_all() {
        for (operation, change) in CHANGES {
            let disk = SimStorage::new();
            let storage = HaltingStorage::new(Arc::new(disk.clone()), Arc::new(SystemClock::new()));
            storage.create_dir(Path::new("dir")).unwrap();
            let file = storage.open(Path::new("file"), OpenMode::CreateNew).unwrap();
            file.write_all_at(b"x", 0).unwrap();
            drop(storage.open(Path::new("log.state"), OpenMode::CreateNew).unwrap());
            disk.add_fault(Fault::new(Errno::ReadOnly, Repeat::Once).on(operation));
            change(&storage, &*file).unwrap_err();
            let operations = disk.operations();
            for (refused, change) in CHANGES {
                let error = change(&storage, &*file).unwrap_err().to_string();
                assert!(error.starts_with("nothing is written any more since "), "{operation:?}, {refused:?}: {error}");
            }
            assert_eq!(disk.operations(), operations, "{operation:?}");
            let note = storage.open(Path::new("log.state"), OpenMode::Write).unwrap();
            note.write_all_at(b"noted", 0).unwrap();
            note.sync_data().unwrap_err();
            let mut byte = [0];
            storage.open(Path::new("file"), OpenMode::Read).unwrap().read_exact_at(&mut byte, 0).unwrap();
            assert_eq!((byte, file.len().unwrap(), storage.list(Path::new("")).unwrap().len()), (*b"x", 1, 3));
            storage.resume();
            change(&storage, &*file).unwrap();
        }
    }

    #[test]
    fn of_two_syncs_of_one_directory_neither_vouches_for_what_the_other_lost() {
        let (halt, runs) = (Halt::of(process::id(), Arc::new(SystemClock::new())), AtomicUsize::new(0));
        let sync = |path: &str| {
            halt.sync_dir(Path::new(path), || match runs.fetch_add(1, Ordering::SeqCst) {
                0 => {
                    // The other is at it as well, and may go on as far as it can.
                    let is_alone = || Arc::strong_count(&halt.syncs.lock()[Path::new(path)]) < 3;
                    while runs.load(Ordering::SeqCst) == 1 && is_alone() {
                        thread::yield_now();
                    }
                    (0..1000).for_each(|_| thread::yield_now());
                    // As a system tells of it: once.
                    Err(io::Error::other("lost"))
                }
                _ => Ok(()),
            })
        };
        thread::scope(|scope| {
            let both = [(); 2].map(|()| scope.spawn(|| sync("data")));
            assert!(both.into_iter().all(|one| one.join().unwrap().is_err()));
        });
        for path in ["data", "elsewhere"] {
            let error = sync(path).unwrap_err().to_string();
            assert_eq!(error, "nothing is written any more since the sync of the directory data failed: lost");
        }
        assert_eq!((runs.load(Ordering::SeqCst), halt.syncs.lock().len()), (1, 0));
    }
}

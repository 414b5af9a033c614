//! How many descriptors are open, when they are closed, and what becomes of names and failures meanwhile.

use std::thread;

use super::*;
use crate::storage::conformance::storage_conformance;
use crate::storage::{DiskStorage, MemoryStorage};

/// Counts open files, and fails when told to.
#[derive(Debug, Default)]
struct Probe {
    inner: MemoryStorage,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    open_max: AtomicUsize,
    syncs: AtomicUsize,
    fail_syncs: AtomicBool,
    /// Descriptors that the system has; 0 means enough.
    limit: AtomicUsize,
}

impl Storage for Probe {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let counts = &self.counts;
        let limit = counts.limit.load(Ordering::SeqCst);
        if limit > 0 && counts.open.load(Ordering::SeqCst) >= limit {
            return Err(io::Error::from_raw_os_error(if cfg!(windows) { 4 } else { 24 }));
        }
        let inner = self.inner.open(path, mode)?;
        let open = counts.open.fetch_add(1, Ordering::SeqCst) + 1;
        counts.open_max.fetch_max(open, Ordering::SeqCst);
        Ok(Arc::new(ProbeFile { inner, counts: counts.clone() }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.inner.metadata(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_fs(path)
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Lock>> {
        self.inner.lock(path, holder)
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.inner.lock_shared(path)
    }
}

#[derive(Debug)]
struct ProbeFile {
    inner: Arc<dyn File>,
    counts: Arc<Counts>,
}

impl Drop for ProbeFile {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl File for ProbeFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_at(buf, position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.inner.write_at(buf, position)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.inner.write_vectored_at(bufs, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.counts.syncs.fetch_add(1, Ordering::SeqCst);
        if self.counts.fail_syncs.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is on fire"));
        }
        self.inner.sync_data()
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(position, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn map(&self, len: u64) -> io::Result<Box<dyn Map>> {
        self.inner.map(len)
    }
}

fn pooled(capacity: usize) -> (PooledStorage, Arc<Counts>) {
    let probe = Probe::default();
    let counts = probe.counts.clone();
    (PooledStorage::new(Arc::new(probe), capacity), counts)
}

fn path(i: usize) -> PathBuf {
    format!("{i:020}.log").into()
}

fn create(storage: &dyn Storage, i: usize) -> Arc<dyn File> {
    let file = storage.open(&path(i), OpenMode::CreateNew).unwrap();
    file.write_all_at(&i.to_be_bytes(), 0).unwrap();
    file
}

fn number(file: &dyn File) -> usize {
    let mut bytes = [0; size_of::<usize>()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    usize::from_be_bytes(bytes)
}

#[test]
fn conforms_over_memory() {
    storage_conformance(&|| (Arc::new(PooledStorage::new(Arc::new(MemoryStorage::new()), 4)), "/".into()));
}

#[test]
fn conforms_over_a_disk() {
    let root = tempfile::tempdir().unwrap();
    storage_conformance(&|| {
        let directory = tempfile::tempdir_in(root.path()).unwrap().keep();
        (Arc::new(PooledStorage::new(Arc::new(DiskStorage), 4)), directory)
    });
}

#[test]
fn two_thousand_files_need_thirty_two_descriptors() {
    const FILES: usize = 2_000;
    const CAPACITY: usize = 32;
    const THREADS: usize = 4;
    let (storage, counts) = pooled(CAPACITY);
    let files: Vec<_> = (0..FILES).map(|i| create(&storage, i)).collect();
    assert!(counts.open_max.load(Ordering::SeqCst) <= CAPACITY, "{counts:?}");
    thread::scope(|scope| {
        for t in 0..THREADS {
            let files = &files;
            scope.spawn(move || {
                for i in 0..FILES {
                    let i = (i * (2 * t + 3) + t) % FILES;
                    assert_eq!(number(&*files[i]), i);
                    files[i].write_all_at(&i.to_be_bytes(), 8).unwrap();
                }
            });
        }
    });
    assert!(counts.open_max.load(Ordering::SeqCst) <= CAPACITY + THREADS, "{counts:?}");
    drop(files);
    assert_eq!(counts.open.load(Ordering::SeqCst), 0);
}

#[test]
fn handles_of_one_path_share_a_descriptor() {
    let (storage, counts) = pooled(4);
    let writer = create(&storage, 1);
    let readers: Vec<_> = (0..10).map(|_| storage.open(&path(1), OpenMode::Read).unwrap()).collect();
    assert_eq!(counts.open.load(Ordering::SeqCst), 1);
    drop(writer);
    assert!(readers.iter().all(|reader| number(&**reader) == 1));
    drop(readers);
    let reader = storage.open(&path(1), OpenMode::Read).unwrap();
    let writer = storage.open(&path(1), OpenMode::Write).unwrap();
    writer.write_all_at(&2_usize.to_be_bytes(), 0).unwrap();
    assert_eq!((number(&*reader), counts.open.load(Ordering::SeqCst)), (2, 1));
}

#[test]
fn unsynced_bytes_are_synced_before_a_descriptor_is_closed() {
    let (storage, counts) = pooled(2);
    let files = [create(&storage, 0), create(&storage, 1)];
    files[0].sync_data().unwrap();
    assert_eq!(counts.syncs.load(Ordering::SeqCst), 1);
    let third = create(&storage, 2);
    assert_eq!(counts.syncs.load(Ordering::SeqCst), 1, "the synced one goes first, and is not synced again");
    let fourth = create(&storage, 3);
    assert_eq!(counts.syncs.load(Ordering::SeqCst), 2);
    assert_eq!((number(&*third), number(&*fourth)), (2, 3));
}

#[test]
fn a_sync_that_fails_behind_the_scenes_fails_the_handle_for_good() {
    let (storage, counts) = pooled(1);
    let lost = create(&storage, 0);
    counts.fail_syncs.store(true, Ordering::SeqCst);
    let other = create(&storage, 1);
    counts.fail_syncs.store(false, Ordering::SeqCst);
    for result in [lost.sync_data(), lost.write_all_at(b"x", 0), lost.set_len(0), lost.sync_data()] {
        let text = result.unwrap_err().to_string();
        assert_eq!(text, "an earlier sync of this file failed: the disk is on fire");
    }
    assert_eq!(number(&*lost), 0, "it can still be read");
    other.sync_data().unwrap();

    let anew = storage.open(&path(0), OpenMode::Write).unwrap();
    anew.write_all_at(&7_usize.to_be_bytes(), 0).unwrap();
    anew.sync_data().unwrap();
    lost.sync_data().unwrap_err();
    storage.rename(&path(0), &path(9)).unwrap();
    assert_eq!((number(&*anew), number(&*lost)), (7, 7));
}

#[test]
fn a_closed_pool_has_no_descriptor_whatever_its_handles_ask_for() {
    let (storage, counts) = pooled(4);
    let files: Vec<_> = (0..8).map(|i| create(&storage, i)).collect();
    storage.remove_file(&path(7)).unwrap();
    let closed = |e: io::Error| e.get_ref().is_some_and(|cause| cause.is::<StorageClosed>());
    thread::scope(|scope| {
        let pool = storage.clone();
        for file in &files {
            // Until it is closed.
            scope.spawn(|| assert!(closed(std::iter::repeat_with(|| file.len()).find_map(Result::err).unwrap())));
        }
        pool.close();
    });
    assert_eq!(counts.open.load(Ordering::SeqCst), 0, "{counts:?}");
    assert!(closed(files[0].write_at(b"x", 0).unwrap_err()));
    assert!(closed(storage.open(&path(0), OpenMode::Read).unwrap_err()));
    assert!(closed(storage.remove_file(&path(0)).unwrap_err()));
    assert_eq!(counts.open.load(Ordering::SeqCst), 0, "{counts:?}");
}

#[test]
fn out_of_descriptors_is_never_a_missing_file() {
    let (storage, counts) = pooled(100);
    counts.limit.store(8, Ordering::SeqCst);
    let files: Vec<_> = (0..50).map(|i| create(&storage, i)).collect();
    assert!(files.iter().enumerate().all(|(i, file)| number(&**file) == i));
    // Files without a name keep their descriptors: now there is nothing to close.
    (0..8).for_each(|i| storage.remove_file(&path(i)).unwrap());
    let error = files[20].read_at(&mut [0], 0).unwrap_err();
    assert!(is_out_of_descriptors(&error), "{error}");
    // A removal that cannot be made safe for its readers is refused.
    storage.remove_file(&path(20)).unwrap_err();
    drop(files.into_iter().take(8).collect::<Vec<_>>());
    assert_eq!(number(&*storage.open(&path(20), OpenMode::Read).unwrap()), 20);
}

#[test]
fn names_change_beside_readers() {
    let (storage, counts) = pooled(3);
    storage.create_dir(Path::new("a")).unwrap();
    let at = |directory: &str, i: usize| Path::new(directory).join(path(i));
    let files: Vec<_> = (0..12)
        .map(|i| {
            let file = storage.open(&at("a", i), OpenMode::CreateNew).unwrap();
            file.write_all_at(&i.to_be_bytes(), 0).unwrap();
            file
        })
        .collect();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..200).for_each(|n| assert_eq!(number(&*files[n % 12]), n % 12)));
        }
        for _ in 0..50 {
            storage.rename(Path::new("a"), Path::new("b")).unwrap();
            storage.rename(&at("b", 5), &at("b", 77)).unwrap();
            storage.rename(&at("b", 77), &at("b", 5)).unwrap();
            storage.rename(Path::new("b"), Path::new("a")).unwrap();
        }
    });
    assert!(counts.open_max.load(Ordering::SeqCst) <= 3 + 3, "{counts:?}");
}

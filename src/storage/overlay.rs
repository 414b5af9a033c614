//! A look at another storage that never changes it: whatever is written, cut, renamed, removed or made through it
//! stays in memory, on top of what is there. The code that opens and recovers a directory runs over it as it is.
//!
//! Invariants: nothing but reading calls reach the storage below; a name that was not changed is the one below;
//! all handles of one file share its bytes, whatever it is called by now.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::heap::{Handle, Inode};
use super::{DirEntry, EntryKind, File, Lock, Metadata, OpenMode, Storage};
use crate::clock::Clock;

/// A storage over another one, which it only reads and which nobody else must change meanwhile. Its memory grows
/// with what is written. As with the pool, two spellings of one path are two names to it.
pub(crate) struct OverlayStorage {
    below: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    names: Mutex<Names>,
}

impl OverlayStorage {
    pub(crate) fn new(below: Arc<dyn Storage>, clock: Arc<dyn Clock>) -> Self {
        let root = Directory { below: Some(PathBuf::new()), entries: BTreeMap::new() };
        Self { below, clock, names: Mutex::new(Names { root, unchanged: BTreeMap::new(), prune_at: 0 }) }
    }
}

impl fmt::Debug for OverlayStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverlayStorage").field("below", &self.below).finish_non_exhaustive()
    }
}

struct Names {
    root: Directory,
    /// The open files below that no name above stands for yet, by their path there.
    unchanged: BTreeMap<PathBuf, Weak<Inode>>,
    /// Dead entries are cleared out when there are this many.
    prune_at: usize,
}

/// A directory in which something was changed, or that was made or moved.
struct Directory {
    /// The directory below whose names show through, unless `entries` says otherwise.
    below: Option<PathBuf>,
    entries: BTreeMap<OsString, Node>,
}

enum Node {
    /// Changed, made, moved, or opened for writing.
    File(Arc<Inode>),
    Directory(Directory),
    Removed,
}

/// What a path stands for.
enum Found<'a> {
    File(&'a Arc<Inode>),
    Directory(&'a Directory),
    /// Whatever the storage below has at this path, if anything.
    Below(PathBuf),
}

/// The steps of a path; the first may be the root.
fn steps(path: &Path) -> Vec<&OsStr> {
    path.components().map(|step| step.as_os_str()).filter(|step| *step != ".").collect()
}

fn split_last<'a, 'b>(steps: &'b [&'a OsStr]) -> io::Result<(&'a OsStr, &'b [&'a OsStr])> {
    let root = || io::Error::new(io::ErrorKind::InvalidInput, "the root directory has no name");
    steps.split_last().map(|(name, parents)| (*name, parents)).ok_or_else(root)
}

impl Directory {
    fn find(&self, steps: &[&OsStr]) -> io::Result<Found<'_>> {
        let mut here = self;
        for (at, step) in steps.iter().enumerate() {
            match (here.entries.get(*step), &here.below) {
                (Some(Node::Directory(directory)), _) => here = directory,
                (Some(Node::File(inode)), _) if at + 1 == steps.len() => return Ok(Found::File(inode)),
                (Some(Node::File(_)), _) => return Err(io::ErrorKind::NotADirectory.into()),
                (None, Some(below)) => {
                    return Ok(Found::Below(steps[at..].iter().fold(below.clone(), |path, step| path.join(step))));
                }
                (Some(Node::Removed), _) | (None, None) => return Err(io::ErrorKind::NotFound.into()),
            }
        }
        Ok(Found::Directory(here))
    }

    /// The directory at `steps`, which is known to be one, with a node for each step.
    fn make_way(&mut self, steps: &[&OsStr]) -> io::Result<&mut Self> {
        steps.iter().try_fold(self, |here, step| {
            let below = here.below.as_ref().map(|below| below.join(step));
            let new = || Node::Directory(Self { below, entries: BTreeMap::new() });
            match here.entries.entry((*step).to_owned()).or_insert_with(new) {
                Node::Directory(directory) => Ok(directory),
                Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
                Node::Removed => Err(io::ErrorKind::NotFound.into()),
            }
        })
    }
}

impl Names {
    /// The file at `path` of the storage below, one for all who open it.
    fn inode_of(&mut self, storage: &dyn Storage, path: PathBuf) -> io::Result<Arc<Inode>> {
        if let Some(inode) = self.unchanged.get(&path).and_then(Weak::upgrade) {
            return Ok(inode);
        }
        let file = storage.open(&path, OpenMode::Read)?;
        let inode = Arc::new(Inode::over(file, storage.metadata(&path)?));
        if self.unchanged.len() >= self.prune_at {
            self.unchanged.retain(|_, inode| inode.strong_count() > 0);
            self.prune_at = (2 * self.unchanged.len()).max(64);
        }
        self.unchanged.insert(path, Arc::downgrade(&inode));
        Ok(inode)
    }

    /// What `path` is; `NotFound` when there is nothing.
    fn kind(&self, storage: &dyn Storage, steps: &[&OsStr]) -> io::Result<EntryKind> {
        match self.root.find(steps)? {
            Found::File(_) => Ok(EntryKind::File),
            Found::Directory(_) => Ok(EntryKind::Directory),
            Found::Below(path) => storage.metadata(&path).map(|metadata| metadata.kind),
        }
    }

    /// The directory at `steps`, to be changed.
    fn directory(&mut self, storage: &dyn Storage, steps: &[&OsStr]) -> io::Result<&mut Directory> {
        match self.root.find(steps)? {
            Found::Directory(_) => {}
            Found::File(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Found::Below(path) => check_directory(storage, &path)?,
        }
        self.root.make_way(steps)
    }

    /// Puts `node` at `steps`, whatever was there.
    fn put(&mut self, storage: &dyn Storage, steps: &[&OsStr], node: Node) -> io::Result<()> {
        let (name, parents) = split_last(steps)?;
        self.directory(storage, parents)?.entries.insert(name.to_owned(), node);
        Ok(())
    }

    /// Takes what is at `steps` away from there.
    fn take(&mut self, storage: &dyn Storage, steps: &[&OsStr], kind: EntryKind) -> io::Result<Node> {
        let below = match self.root.find(steps)? {
            Found::Below(path) => Some(path),
            Found::File(_) | Found::Directory(_) => None,
        };
        let unchanged = match (below, kind) {
            (None, _) => None,
            (Some(path), EntryKind::Directory) => {
                Some(Node::Directory(Directory { below: Some(path), entries: BTreeMap::new() }))
            }
            (Some(path), _) => Some(Node::File(self.inode_of(storage, path)?)),
        };
        let (name, parents) = split_last(steps)?;
        let directory = self.directory(storage, parents)?;
        let changed = directory.entries.insert(name.to_owned(), Node::Removed);
        unchanged.or(changed).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Ancestors of the directory that is looked at may be links: then listing tells.
fn check_directory(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    match storage.metadata(path)?.kind {
        EntryKind::Directory => Ok(()),
        EntryKind::File => Err(io::ErrorKind::NotADirectory.into()),
        EntryKind::Other => storage.list(path).map(drop),
    }
}

fn is_absent<T>(found: &io::Result<T>) -> bool {
    matches!(found, Err(e) if e.kind() == io::ErrorKind::NotFound)
}

impl OverlayStorage {
    fn inode(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<Inode>> {
        let (steps, storage) = (steps(path), &*self.below);
        let mut names = self.names.lock();
        let kind = names.kind(storage, &steps);
        match kind {
            Ok(_) if mode == OpenMode::CreateNew => return Err(io::ErrorKind::AlreadyExists.into()),
            Ok(EntryKind::Directory) => return Err(io::ErrorKind::IsADirectory.into()),
            Err(_) if is_absent(&kind) && matches!(mode, OpenMode::CreateIfAbsent | OpenMode::CreateNew) => {
                let inode = Arc::new(Inode::new(self.clock.now()));
                names.put(storage, &steps, Node::File(Arc::clone(&inode)))?;
                return Ok(inode);
            }
            found => drop(found?),
        }
        let below = match names.root.find(&steps)? {
            Found::File(inode) => return Ok(Arc::clone(inode)),
            Found::Directory(_) => return Err(io::ErrorKind::IsADirectory.into()),
            Found::Below(path) => path,
        };
        let inode = names.inode_of(storage, below)?;
        if mode != OpenMode::Read {
            names.put(storage, &steps, Node::File(Arc::clone(&inode)))?;
        }
        Ok(inode)
    }

    fn remove(&self, path: &Path, remove: impl FnOnce(EntryKind) -> io::Result<()>) -> io::Result<()> {
        let (steps, storage) = (steps(path), &*self.below);
        let mut names = self.names.lock();
        remove(names.kind(storage, &steps)?)?;
        names.put(storage, &steps, Node::Removed)
    }
}

impl Storage for OverlayStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Handle::new(self.inode(path, mode)?, &self.clock, mode)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let (steps, storage) = (steps(path), &*self.below);
        let mut names = self.names.lock();
        let found = names.kind(storage, &steps);
        if is_absent(&found) {
            let new = Directory { below: None, entries: BTreeMap::new() };
            return names.put(storage, &steps, Node::Directory(new));
        }
        found.and(Err(io::ErrorKind::AlreadyExists.into()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to, storage) = (steps(from), steps(to), &*self.below);
        let mut names = self.names.lock();
        let kind = names.kind(storage, &from)?;
        if from == to {
            return Ok(());
        }
        if kind == EntryKind::Directory && to.starts_with(&from) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a directory cannot move into itself"));
        }
        let replaced = names.kind(storage, &to);
        if !is_absent(&replaced) {
            match (kind, replaced?) {
                (EntryKind::Directory, EntryKind::Directory) if !names.list(storage, &to)?.is_empty() => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                (EntryKind::Directory, EntryKind::File | EntryKind::Other) => {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
                (EntryKind::File | EntryKind::Other, EntryKind::Directory) => {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                _ => {}
            }
        }
        // Before anything is taken away.
        names.directory(storage, split_last(&to)?.1)?;
        let node = names.take(storage, &from, kind)?;
        names.put(storage, &to, node)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.remove(path, |kind| match kind {
            EntryKind::Directory => Err(io::ErrorKind::IsADirectory.into()),
            EntryKind::File | EntryKind::Other => Ok(()),
        })
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.remove(path, |kind| match kind {
            EntryKind::Directory => Ok(()),
            EntryKind::File | EntryKind::Other => Err(io::ErrorKind::NotADirectory.into()),
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.names.lock().list(&*self.below, &steps(path))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        match self.names.lock().root.find(&steps(path))? {
            Found::File(inode) => Ok(inode.metadata()),
            Found::Below(path) => self.below.metadata(&path),
            Found::Directory(Directory { below: Some(path), .. }) => self.below.metadata(path),
            Found::Directory(Directory { below: None, .. }) => {
                let modified = super::heap::system_time(self.clock.now());
                Ok(Metadata { kind: EntryKind::Directory, len: 0, modified })
            }
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match self.names.lock().root.find(&steps(path))? {
            Found::Directory(_) => Ok(()),
            Found::File(_) => Err(io::ErrorKind::NotADirectory.into()),
            Found::Below(path) => check_directory(&*self.below, &path),
        }
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        self.names.lock().kind(&*self.below, &steps(path)).map(drop)
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Lock>> {
        self.inode(path, OpenMode::CreateIfAbsent)?.lock(holder, self.clock.now())
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        match self.inode(path, OpenMode::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found?.lock_shared().map(Some),
        }
    }

    fn boot_id(&self) -> [u8; 16] {
        self.below.boot_id()
    }
}

impl Names {
    fn list(&self, storage: &dyn Storage, steps: &[&OsStr]) -> io::Result<Vec<DirEntry>> {
        let directory = match self.root.find(steps)? {
            Found::File(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Found::Below(path) => return storage.list(&path),
            Found::Directory(directory) => directory,
        };
        let mut entries = match &directory.below {
            Some(path) => storage.list(path)?,
            None => Vec::new(),
        };
        entries.retain(|entry| !directory.entries.contains_key(OsStr::new(&entry.name)));
        let above = directory.entries.iter().filter_map(|(name, node)| {
            let kind = match node {
                Node::File(_) => EntryKind::File,
                Node::Directory(_) => EntryKind::Directory,
                Node::Removed => return None,
            };
            Some(DirEntry { name: name.to_string_lossy().into_owned(), kind })
        });
        entries.extend(above);
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::SystemClock;
    use crate::storage::conformance::storage_conformance;
    use crate::storage::{DiskStorage, MemoryStorage};

    fn over(below: impl Storage + 'static) -> OverlayStorage {
        OverlayStorage::new(Arc::new(below), Arc::new(SystemClock::new()))
    }

    /// Every path below with its length, time and bytes.
    fn tree(storage: &dyn Storage, path: &Path) -> Vec<(PathBuf, Metadata, Vec<u8>)> {
        let mut found = Vec::new();
        let mut entries = storage.list(path).unwrap();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            let path = path.join(&entry.name);
            let metadata = storage.metadata(&path).unwrap();
            let mut bytes = vec![0; usize::try_from(metadata.len).unwrap()];
            if entry.kind == EntryKind::File {
                storage.open(&path, OpenMode::Read).unwrap().read_exact_at(&mut bytes, 0).unwrap();
            }
            found.push((path.clone(), metadata, bytes));
            if entry.kind == EntryKind::Directory {
                found.extend(tree(storage, &path));
            }
        }
        found
    }

    fn write(storage: &dyn Storage, path: &Path, bytes: &[u8]) {
        storage.open(path, OpenMode::CreateNew).unwrap().write_all_at(bytes, 0).unwrap();
    }

    fn read(storage: &dyn Storage, path: &Path) -> Vec<u8> {
        let file = storage.open(path, OpenMode::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn conforms_over_memory() {
        let base = MemoryStorage::new();
        storage_conformance(&|| (Arc::new(over(base.clone())), "/".into()));
        assert_eq!(base.list(Path::new("/")).unwrap(), []);
    }

    #[test]
    fn conforms_over_a_disk() {
        let root = tempfile::tempdir().unwrap();
        storage_conformance(&|| (Arc::new(over(DiskStorage)), root.path().to_owned()));
        assert_eq!(DiskStorage.list(root.path()).unwrap(), []);
    }

    #[test]
    fn whatever_is_done_above_nothing_changes_below() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        DiskStorage.create_dir(&at("orders-0")).unwrap();
        write(&DiskStorage, &at("orders-0/0.log"), &[7; 200_000]);
        write(&DiskStorage, &at("orders-0/0.index.swap"), b"index");
        write(&DiskStorage, &at("marker"), b"{}");
        let before = tree(&DiskStorage, dir.path());
        let above = over(DiskStorage);
        assert_eq!(tree(&above, dir.path()), before);

        above.remove_file(&at("marker")).unwrap();
        let early = above.open(&at("orders-0/0.log"), OpenMode::Read).unwrap();
        let log = above.open(&at("orders-0/0.log"), OpenMode::Write).unwrap();
        log.set_len(150_000).unwrap();
        log.write_all_at(b"new", 149_999).unwrap();
        above.rename(&at("orders-0/0.index.swap"), &at("orders-0/0.index")).unwrap();
        above.rename(&at("orders-0"), &at("orders-0.0-delete")).unwrap();
        write(&above, &at("orders-0.0-delete/made"), b"made");

        assert_eq!(tree(&DiskStorage, dir.path()), before);
        let names: Vec<_> = tree(&above, dir.path()).into_iter().map(|(path, ..)| path).collect();
        let deleted = at("orders-0.0-delete");
        assert_eq!(names, [deleted.clone(), deleted.join("0.index"), deleted.join("0.log"), deleted.join("made")]);
        let expected = [[7; 149_999].as_slice(), b"new"].concat();
        assert_eq!(read(&above, &deleted.join("0.log")), expected);
        assert_eq!(early.len().unwrap(), 150_002, "handles from before see it, too");
        assert_eq!((*early.map(150_002).unwrap()).as_ref(), expected);
        assert_eq!(read(&above, &deleted.join("0.index")), b"index");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open(&'static str, OpenMode),
        CreateDir(&'static str),
        Rename(&'static str, &'static str),
        RemoveFile(&'static str),
        RemoveDir(&'static str),
        /// Through one of the handles that are open: bytes of one value at a position.
        Write(usize, u8, u32, u32),
        SetLen(usize, u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let path = || prop::sample::select(&["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "f", "f/a"][..]);
        let modes = [OpenMode::Read, OpenMode::Write, OpenMode::CreateIfAbsent, OpenMode::CreateNew];
        let place = || prop_oneof![0..100_u32, 65_500..65_600_u32, 0..200_000_u32];
        let step = prop_oneof![
            (path(), prop::sample::select(modes.to_vec())).prop_map(|(path, mode)| Step::Open(path, mode)),
            (path(), prop::sample::select(modes.to_vec())).prop_map(|(path, mode)| Step::Open(path, mode)),
            path().prop_map(Step::CreateDir),
            (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
            path().prop_map(Step::RemoveFile),
            path().prop_map(Step::RemoveDir),
            (any::<usize>(), any::<u8>(), place(), place()).prop_map(|(h, b, at, len)| Step::Write(h, b, at, len)),
            (any::<usize>(), place()).prop_map(|(handle, len)| Step::SetLen(handle, len)),
        ];
        prop::collection::vec(step, 0..40)
    }

    /// Takes one step; answers what a caller sees of it.
    fn take(storage: &dyn Storage, handles: &mut Vec<Arc<dyn File>>, step: &Step) -> Result<(), io::ErrorKind> {
        let path = Path::new;
        let handle = |handles: &[Arc<dyn File>], n: usize| handles.get(n % handles.len().max(1)).cloned();
        let done = match *step {
            Step::Open(name, mode) => storage.open(path(name), mode).map(|file| handles.push(file)),
            Step::CreateDir(name) => storage.create_dir(path(name)),
            Step::Rename(from, to) => storage.rename(path(from), path(to)),
            Step::RemoveFile(name) => storage.remove_file(path(name)),
            Step::RemoveDir(name) => storage.remove_dir_all(path(name)),
            Step::Write(n, byte, at, len) => match handle(handles, n) {
                Some(file) => file.write_all_at(&vec![byte; len as usize], u64::from(at)),
                None => Ok(()),
            },
            Step::SetLen(n, len) => handle(handles, n).map_or(Ok(()), |file| file.set_len(u64::from(len))),
        };
        done.map_err(|e| e.kind())
    }

    fn content(storage: &dyn Storage) -> Vec<(PathBuf, EntryKind, Vec<u8>)> {
        tree(storage, Path::new("")).into_iter().map(|(path, found, bytes)| (path, found.kind, bytes)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// What was there before is below or is not: nobody can tell.
        #[test]
        fn answers_as_one_disk_does(before in steps(), after in steps()) {
            let (model, base) = (MemoryStorage::new(), MemoryStorage::new());
            let mut handles = [Vec::new(), Vec::new()];
            for step in &before {
                let [of_model, of_base] = &mut handles;
                prop_assert_eq!(take(&model, of_model, step), take(&base, of_base, step));
            }
            drop(handles);
            let kept = tree(&base, Path::new(""));
            let above = over(base.clone());
            let (mut of_model, mut of_above) = (Vec::new(), Vec::new());
            for step in &after {
                let (expected, found) = (take(&model, &mut of_model, step), take(&above, &mut of_above, step));
                prop_assert_eq!(found, expected, "{:?}", step);
            }
            prop_assert_eq!(content(&above), content(&model));
            for (found, expected) in of_above.iter().zip(&of_model) {
                let len = expected.len().unwrap();
                prop_assert_eq!(found.len().unwrap(), len);
                let (found, expected) = (found.map(len).unwrap(), expected.map(len).unwrap());
                prop_assert!((*found).as_ref() == (*expected).as_ref());
            }
            prop_assert_eq!(tree(&base, Path::new("")), kept);
        }
    }

    #[test]
    fn what_is_written_again_takes_no_memory() {
        let base = MemoryStorage::new();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8 ^ (n >> 8) as u8).collect();
        write(&base, Path::new("log"), &bytes);
        let above = over(base);
        let inode = above.inode(Path::new("log"), OpenMode::Write).unwrap();
        let file = above.open(Path::new("log"), OpenMode::Write).unwrap();
        for (number, page) in bytes.chunks(4096).enumerate() {
            file.write_all_at(page, number as u64 * 4096).unwrap();
        }
        assert_eq!(inode.held_bytes(), 0);
        file.write_all_at(b"other", 5000).unwrap();
        assert_eq!(inode.held_bytes(), 65_536);
        assert_eq!(file.len().unwrap(), 1_000_000);
    }

    #[test]
    fn a_cut_and_a_small_rewrite_of_a_large_file_cost_no_copy() {
        let base = MemoryStorage::new();
        let file = base.open(Path::new("log"), OpenMode::CreateNew).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.set_len(1 << 50).unwrap();
        let above = over(base.clone());
        let cut = above.open(Path::new("log"), OpenMode::Write).unwrap();
        cut.set_len(1 << 45).unwrap();
        cut.write_all_at(b"x", 1 << 40).unwrap();
        cut.set_len(1 << 49).unwrap();
        let mut bytes = [1; 3];
        cut.read_exact_at(&mut bytes, (1 << 40) - 1).unwrap();
        assert_eq!(&bytes, b"\0x\0");
        cut.read_exact_at(&mut bytes, 1).unwrap();
        assert_eq!(&bytes, b"egi");
        assert_eq!((cut.len().unwrap(), file.len().unwrap()), (1 << 49, 1 << 50));
    }

    #[test]
    fn a_file_that_somebody_else_cuts_is_an_error_not_zeros() {
        let base = MemoryStorage::new();
        write(&base, Path::new("log"), b"0123456789");
        let above = over(base.clone());
        let file = above.open(Path::new("log"), OpenMode::Read).unwrap();
        base.open(Path::new("log"), OpenMode::Write).unwrap().set_len(4).unwrap();
        assert_eq!(file.read_exact_at(&mut [0; 10], 0).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

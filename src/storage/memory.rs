//! A disk in memory: what a simulated or a throw-away broker stands on.
//!
//! It answers as a real disk does, down to the kinds of its errors; nothing on it survives the process.
//! Files are those of `heap`. Invariants: one lock for the names, one for each file's bytes, the first held while
//! taking the second only for a look-up; a file's bytes live as long as a name or a handle does.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use parking_lot::Mutex;

use super::heap::{Handle, Inode, system_time};
use super::{DirEntry, EntryKind, File, Lock, Metadata, OpenMode, Storage};
use crate::clock::{Clock, SystemClock};
use crate::types::Timestamp;

/// A disk in memory. Clones are the same disk; paths start at its root, whether they begin with `/` or not.
///
/// Every sync succeeds and makes nothing durable; `allocate` is `Unsupported`; a map is a copy.
///
/// ```
/// use std::path::Path;
/// use thalweg::{MemoryStorage, OpenMode, Storage};
/// let disk = MemoryStorage::new();
/// disk.open(Path::new("note"), OpenMode::CreateNew)?.write_all_at(b"hello", 0)?;
/// assert_eq!(disk.clone().metadata(Path::new("/note"))?.len, 5);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct MemoryStorage {
    root: Arc<Mutex<Directory>>,
    clock: Arc<dyn Clock>,
}

impl MemoryStorage {
    /// An empty disk whose files carry the machine's time.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock::new()))
    }

    /// An empty disk whose files carry the time of `clock`.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let root = Directory { entries: BTreeMap::new(), modified: clock.now() };
        Self { root: Arc::new(Mutex::new(root)), clock }
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage").finish_non_exhaustive()
    }
}

enum Node {
    File(Arc<Inode>),
    Directory(Directory),
}

struct Directory {
    entries: BTreeMap<OsString, Node>,
    modified: Timestamp,
}

impl Directory {
    fn find(&self, parts: &[&OsStr]) -> io::Result<Found<'_>> {
        let Some((name, parents)) = parts.split_last() else { return Ok(Found::Directory(self)) };
        match self.directory(parents)?.entries.get(*name) {
            Some(Node::File(inode)) => Ok(Found::File(inode)),
            Some(Node::Directory(directory)) => Ok(Found::Directory(directory)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn directory(&self, parts: &[&OsStr]) -> io::Result<&Directory> {
        parts.iter().try_fold(self, |directory, part| match directory.entries.get(*part) {
            Some(Node::Directory(below)) => Ok(below),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn directory_mut(&mut self, parts: &[&OsStr]) -> io::Result<&mut Directory> {
        parts.iter().try_fold(self, |directory, part| match directory.entries.get_mut(*part) {
            Some(Node::Directory(below)) => Ok(below),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn insert(&mut self, name: &OsStr, node: Node, now: Timestamp) {
        self.entries.insert(name.to_owned(), node);
        self.modified = now;
    }

    fn remove(&mut self, name: &OsStr, now: Timestamp) -> Option<Node> {
        self.modified = now;
        self.entries.remove(name)
    }
}

enum Found<'a> {
    File(&'a Arc<Inode>),
    Directory(&'a Directory),
}

/// The names on the way from the root; `..` is resolved by name, as there are no links.
fn parts(path: &Path) -> Vec<&OsStr> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name),
            Component::ParentDir => drop(parts.pop()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    parts
}

fn split_last<'a, 'b>(parts: &'b [&'a OsStr]) -> io::Result<(&'a OsStr, &'b [&'a OsStr])> {
    let root = || io::Error::new(io::ErrorKind::InvalidInput, "the root directory has no name");
    parts.split_last().map(|(name, parents)| (*name, parents)).ok_or_else(root)
}

impl Storage for MemoryStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Handle::new(self.inode(path, mode)?, &self.clock, mode)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let parts = parts(path);
        let Ok((name, parents)) = split_last(&parts) else { return Err(io::ErrorKind::AlreadyExists.into()) };
        let mut root = self.root.lock();
        let directory = root.directory_mut(parents)?;
        if directory.entries.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let now = self.clock.now();
        directory.insert(name, Node::Directory(Directory { entries: BTreeMap::new(), modified: now }), now);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (parts(from), parts(to));
        let (from_name, from_parents) = split_last(&from)?;
        let (to_name, to_parents) = split_last(&to)?;
        let now = self.clock.now();
        let mut root = self.root.lock();
        let moves_directory = matches!(root.find(&from)?, Found::Directory(_));
        if from == to {
            return Ok(());
        }
        if moves_directory && to.starts_with(&from) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a directory cannot move into itself"));
        }
        match root.directory(to_parents)?.entries.get(to_name) {
            Some(Node::Directory(_)) if !moves_directory => return Err(io::ErrorKind::IsADirectory.into()),
            Some(Node::File(_)) if moves_directory => return Err(io::ErrorKind::NotADirectory.into()),
            Some(Node::Directory(d)) if !d.entries.is_empty() => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
            _ => {}
        }
        let node = root.directory_mut(from_parents)?.remove(from_name, now).ok_or(io::ErrorKind::NotFound)?;
        root.directory_mut(to_parents)?.insert(to_name, node, now);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let parts = parts(path);
        let mut root = self.root.lock();
        if let Found::Directory(_) = root.find(&parts)? {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (name, parents) = split_last(&parts)?;
        root.directory_mut(parents)?.remove(name, self.clock.now());
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let parts = parts(path);
        let mut root = self.root.lock();
        if let Found::File(_) = root.find(&parts)? {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let (name, parents) = split_last(&parts)?;
        root.directory_mut(parents)?.remove(name, self.clock.now());
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let root = self.root.lock();
        let directory = root.directory(&parts(path))?;
        let entry = |(name, node): (&OsString, &Node)| DirEntry {
            name: name.to_string_lossy().into_owned(),
            kind: match node {
                Node::File(_) => EntryKind::File,
                Node::Directory(_) => EntryKind::Directory,
            },
        };
        Ok(directory.entries.iter().map(entry).collect())
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let root = self.root.lock();
        Ok(match root.find(&parts(path))? {
            Found::File(inode) => inode.metadata(),
            Found::Directory(directory) => {
                Metadata { kind: EntryKind::Directory, len: 0, modified: system_time(directory.modified) }
            }
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.root.lock().directory(&parts(path)).map(|_| ())
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        self.root.lock().find(&parts(path)).map(|_| ())
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
}

impl MemoryStorage {
    fn inode(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<Inode>> {
        let parts = parts(path);
        let mut root = self.root.lock();
        match root.find(&parts) {
            Ok(_) if mode == OpenMode::CreateNew => Err(io::ErrorKind::AlreadyExists.into()),
            Ok(Found::File(inode)) => Ok(inode.clone()),
            Ok(Found::Directory(_)) => Err(io::ErrorKind::IsADirectory.into()),
            Err(e)
                if e.kind() == io::ErrorKind::NotFound
                    && matches!(mode, OpenMode::CreateIfAbsent | OpenMode::CreateNew) =>
            {
                let (name, parents) = split_last(&parts)?;
                let now = self.clock.now();
                let inode = Arc::new(Inode::new(now));
                root.directory_mut(parents)?.insert(name, Node::File(inode.clone()), now);
                Ok(inode)
            }
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::clock::ManualClock;
    use crate::storage::conformance::storage_conformance;

    #[test]
    fn conforms() {
        storage_conformance(&|| (Arc::new(MemoryStorage::new()), "/".into()));
    }

    #[test]
    fn a_sparse_file_costs_what_was_written() {
        let disk = MemoryStorage::new();
        let file = disk.open(Path::new("sparse"), OpenMode::CreateNew).unwrap();
        let far = 1 << 50;
        file.write_all_at(b"end", far).unwrap();
        file.set_len(1 << 60).unwrap();
        let mut bytes = [1; 5];
        file.read_exact_at(&mut bytes, far - 1).unwrap();
        assert_eq!(&bytes, b"\0end\0");
        assert_eq!(file.write_at(b"x", u64::MAX).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(file.map(1 << 60).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }

    #[test]
    fn files_carry_the_time_of_the_given_clock() {
        let clock = ManualClock::new(Timestamp::new(1_000));
        let disk = MemoryStorage::with_clock(Arc::new(clock.clone()));
        let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
        clock.advance(Duration::from_secs(1));
        file.write_all_at(b"x", 0).unwrap();
        let modified = disk.metadata(Path::new("a")).unwrap().modified;
        assert_eq!(modified, SystemTime::UNIX_EPOCH + Duration::from_secs(2));
    }
}

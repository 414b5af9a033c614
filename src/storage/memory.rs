//! A disk in memory: what a simulated or a throw-away broker stands on.
//!
//! It answers as a real disk does, down to the kinds of its errors; nothing on it survives the process.
//! Invariants: one lock for the names, one for each file's bytes, the first held while taking the second only
//! for a look-up; a file's bytes live as long as a name or a handle does.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Component, Path};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};

use super::{DirEntry, EntryKind, File, Lock, Map, Metadata, OpenMode, Storage};
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

fn system_time(timestamp: Timestamp) -> SystemTime {
    let millis = u64::try_from(timestamp.get()).unwrap_or(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Storage for MemoryStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(MemoryFile {
            inode: self.inode(path, mode)?,
            clock: self.clock.clone(),
            writable: mode != OpenMode::Read,
        }))
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
            Found::File(inode) => {
                let content = inode.content.read();
                Metadata { kind: EntryKind::File, len: content.len, modified: system_time(content.modified) }
            }
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
        let inode = self.inode(path, OpenMode::CreateIfAbsent)?;
        if inode.locked.swap(true, Ordering::Acquire) {
            let holder = inode.content.read().copy_of(HOLDER_BYTES_MAX)?;
            let text = format!("locked by this process: {}", String::from_utf8_lossy(&holder));
            return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
        }
        let lock = MemoryLock(inode);
        let mut content = lock.0.content.write();
        content.set_len(0);
        for (index, chunk) in (0..).zip(holder.as_bytes().chunks(CHUNK)) {
            content.write(chunk, index * CHUNK as u64);
        }
        content.modified = self.clock.now();
        drop(content);
        Ok(Box::new(lock))
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

/// A file's bytes are kept in chunks of this size, so that an append copies no more than it adds, and
/// neither readers nor the writer hold the file's lock for longer than copying one chunk takes.
const CHUNK: usize = 64 * 1024;

/// No more than this is shown of what a lock's holder left.
const HOLDER_BYTES_MAX: u64 = 1024;

struct Inode {
    content: RwLock<Content>,
    locked: AtomicBool,
}

impl Inode {
    fn new(now: Timestamp) -> Self {
        Self {
            content: RwLock::new(Content { chunks: BTreeMap::new(), len: 0, modified: now }),
            locked: AtomicBool::new(false),
        }
    }
}

struct Content {
    /// By position divided by `CHUNK`. What no chunk holds, or lies past a chunk's own end, is zeros.
    chunks: BTreeMap<u64, Vec<u8>>,
    len: u64,
    modified: Timestamp,
}

/// Where `position` lies: the chunk, the place in it, and what is left of it from there.
fn locate(position: u64) -> (u64, usize, usize) {
    let within = (position % CHUNK as u64) as usize;
    (position / CHUNK as u64, within, CHUNK - within)
}

impl Content {
    /// Reads within one chunk; 0 at the end of the file.
    fn read(&self, buf: &mut [u8], position: u64) -> usize {
        let (index, within, left) = locate(position);
        let to_end = usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX);
        let n = buf.len().min(left).min(to_end);
        let held = self.chunks.get(&index).and_then(|chunk| chunk.get(within..)).unwrap_or_default();
        let copied = n.min(held.len());
        buf[..copied].copy_from_slice(&held[..copied]);
        buf[copied..n].fill(0);
        n
    }

    /// Writes within one chunk; says how many bytes.
    fn write(&mut self, buf: &[u8], position: u64) -> usize {
        let (index, within, left) = locate(position);
        let n = buf.len().min(left);
        let chunk = self.chunks.entry(index).or_default();
        if chunk.len() < within {
            chunk.resize(within, 0);
        }
        let overwritten = n.min(chunk.len() - within);
        chunk[within..within + overwritten].copy_from_slice(&buf[..overwritten]);
        chunk.extend_from_slice(&buf[overwritten..n]);
        self.len = self.len.max(position + n as u64);
        n
    }

    fn set_len(&mut self, len: u64) {
        let (index, within, _) = locate(len);
        self.chunks.split_off(&(index + 1));
        if let Some(chunk) = self.chunks.get_mut(&index) {
            chunk.truncate(within);
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
            done += self.read(&mut bytes[done..], done as u64);
        }
        Ok(bytes)
    }
}

struct MemoryFile {
    inode: Arc<Inode>,
    clock: Arc<dyn Clock>,
    writable: bool,
}

impl MemoryFile {
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

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile").field("writable", &self.writable).finish_non_exhaustive()
    }
}

impl File for MemoryFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            // Locked anew for each chunk.
            let n = self.inode.content.read().read(&mut buf[done..], position.saturating_add(done as u64));
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
            done += content.write(&buf[done..], position + done as u64);
            content.modified = self.clock.now();
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
        content.modified = self.clock.now();
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
        Ok(Box::new(HeapMap(content.copy_of(len)?)))
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

struct MemoryLock(Arc<Inode>);

impl fmt::Debug for MemoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryLock")
    }
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.0.locked.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
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

//! A disk in memory that fails: power cuts, errors, full space, short transfers, rot.
//!
//! It keeps apart what everybody sees and what is durable, page by page and name by name. Bytes and length of a file
//! are durable after `sync_data` of it, its name after `sync_dir` of its directory. Every operation has a number and
//! a name; nothing depends on time or chance but on what it was told.

mod choice;
mod disk;
mod fault;
mod hold;
mod luck;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};

use crate::clock::{Clock, ManualClock};
use crate::storage::{DirEntry, EntryKind, File, Lock, Map, Metadata, OpenMode, Storage};
use crate::types::Timestamp;

pub use choice::{Choice, NoChoice};
pub use disk::AfterFailedSync;
use disk::{Disk, Found, Id};
pub use fault::{Errno, Fault, Operation, Repeat};
use hold::Held;
pub use hold::Hold;
pub(super) use luck::Luck;

/// No more than this is shown of what a lock's holder left.
const HOLDER_BYTES_MAX: usize = 1024;

/// A simulated disk. Clones are the same disk; [`crash`](Self::crash) gives another one.
///
/// ```
/// use std::path::Path;
/// use thalweg::testing::{Choice, SimStorage};
/// use thalweg::{OpenMode, Storage};
/// let disk = SimStorage::new();
/// let file = disk.open(Path::new("note"), OpenMode::CreateNew)?;
/// file.write_all_at(b"hello", 0)?;
/// file.sync_data()?;
/// // The bytes were synced, the name was not.
/// assert!(disk.crash(Choice::Nothing).metadata(Path::new("note")).is_err());
/// disk.sync_dir(Path::new("/"))?;
/// assert_eq!(disk.crash(Choice::Nothing).metadata(Path::new("note"))?.len, 5);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct SimStorage {
    sim: Arc<Mutex<Sim>>,
    holds: Arc<Mutex<Vec<Arc<Held>>>>,
    clock: Arc<dyn Clock>,
}

struct Sim {
    disk: Disk,
    /// Operations so far.
    operations: u64,
    counts: BTreeMap<Operation, u64>,
    limit: Option<u64>,
    /// How many handles of each file are open, and which files are locked, by whom.
    held: BTreeMap<Id, usize>,
    locked: BTreeMap<Id, Holders>,
    faults: Vec<Fault>,
    struck: u64,
    /// Of what syncs have failed.
    failed_syncs: Vec<PathBuf>,
    /// As the fault says that struck last.
    after_failed_sync: AfterFailedSync,
    space: Option<u64>,
    short: bool,
    misdirected: Option<(String, i64)>,
    luck: Luck,
    moments: Option<Vec<Moment>>,
    trace: Vec<(Operation, PathBuf)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holders {
    One,
    Looking(usize),
}

/// The disk before an operation.
#[derive(Clone)]
pub(super) struct Moment {
    /// The number of the operation.
    pub(super) number: u64,
    /// What the operation is, in words.
    pub(super) name: String,
    disk: Disk,
    clock: Arc<dyn Clock>,
}

impl Moment {
    /// The disk after a crash at this moment.
    pub(super) fn crash(&self, choice: Choice) -> SimStorage {
        SimStorage::after(&self.disk, choice, self.number, Arc::clone(&self.clock))
    }

    /// What a crash takes from those who were promised something: as much as a power cut, where a sync that nobody
    /// knows of yet has failed and taken it already.
    pub(super) fn taken(&self, choice: Choice) -> Choice {
        self.disk.taken(choice)
    }

    /// See [`Choice::some`].
    pub(super) fn choices(&self, count: usize, exhaustive: usize, luck: &mut Luck) -> Vec<Choice> {
        Choice::some(&self.disk, count, exhaustive, luck)
    }
}

impl SimStorage {
    /// An empty disk on which no time passes.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(ManualClock::new(Timestamp::new(1_700_000_000_000))))
    }

    /// An empty disk whose files carry the time of `clock`.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let disk = Disk::new(clock.now());
        Self::holding(disk, 0, clock)
    }

    fn holding(disk: Disk, operations: u64, clock: Arc<dyn Clock>) -> Self {
        let sim = Sim {
            disk,
            operations,
            counts: BTreeMap::new(),
            limit: None,
            held: BTreeMap::new(),
            locked: BTreeMap::new(),
            faults: Vec::new(),
            struck: 0,
            failed_syncs: Vec::new(),
            after_failed_sync: AfterFailedSync::KeepsNew,
            space: None,
            short: false,
            misdirected: None,
            luck: Luck::new(0),
            moments: None,
            trace: Vec::new(),
        };
        Self { sim: Arc::new(Mutex::new(sim)), holds: Arc::default(), clock }
    }

    fn after(disk: &Disk, choice: Choice, operations: u64, clock: Arc<dyn Clock>) -> Self {
        let mut left = match choice.is_power_cut() {
            true => disk.survivor(&choice.fates(disk)).expect("every directory that a change names is there"),
            false => disk.clone(),
        };
        left.has_dropped = false;
        Self::holding(left, operations, clock)
    }

    /// The disk that is found after a crash now. Numbers of operations go on where they stood; faults, the bound on
    /// space and locks are gone. This one stays as it is.
    #[must_use]
    pub fn crash(&self, choice: Choice) -> Self {
        let sim = self.sim.lock();
        Self::after(&sim.disk, choice, sim.operations, Arc::clone(&self.clock))
    }

    /// See [`Moment::taken`].
    pub(super) fn taken(&self, choice: Choice) -> Choice {
        self.sim.lock().disk.taken(choice)
    }

    /// Whoever is promised something from now on knows of syncs that failed.
    pub(super) fn note(&self) {
        self.sim.lock().disk.has_dropped = false;
    }

    /// How many changes a power cut now could take.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.sim.lock().disk.unsynced().len()
    }

    /// How many operations there were: the number of the next one.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.sim.lock().operations
    }

    /// How many operations of each kind there were.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Operation, u64> {
        self.sim.lock().counts.clone()
    }

    /// Adds a fault.
    pub fn add_fault(&self, fault: Fault) {
        self.sim.lock().faults.push(fault);
    }

    /// Ends this fault; `false` when it has nothing more to do, having struck once.
    pub fn remove_fault(&self, fault: &Fault) -> bool {
        let faults = &mut self.sim.lock().faults;
        let before = faults.len();
        faults.retain(|it| it != fault);
        faults.len() < before
    }

    /// Does `work` while no fault strikes: that of another program, say, which would tell nobody of a sync that failed.
    pub fn without_faults<T>(&self, work: impl FnOnce() -> T) -> T {
        let faults = std::mem::take(&mut self.sim.lock().faults);
        let done = work();
        self.sim.lock().faults.extend(faults);
        done
    }

    /// Ends all faults: the bound on space, short transfers, syncs that go on failing and a misdirected write as well.
    pub fn mend(&self) {
        let mut sim = self.sim.lock();
        sim.faults.clear();
        sim.disk.mend();
        (sim.space, sim.short, sim.misdirected) = (None, false, None);
    }

    /// How often a fault struck.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.sim.lock().struck
    }

    /// How many syncs have failed that may cost a log in `dir` what was cached of it.
    pub(super) fn failed_syncs(&self, dir: &Path) -> usize {
        let is_of_log = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
        let concerns = |path: &&PathBuf| path.starts_with(dir) && is_of_log(path);
        self.sim.lock().failed_syncs.iter().filter(concerns).count()
    }

    /// Bounds the bytes in all files: what does not fit fails with `ENOSPC`, to the byte. Removing, cutting and
    /// overwriting work on a full disk, making a file or directory does not.
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.sim.lock().space = bytes;
    }

    /// Bytes that count against [`limit_space`](Self::limit_space).
    #[must_use]
    pub fn used_space(&self) -> u64 {
        self.sim.lock().used()
    }

    /// From now on reads and writes transfer fewer bytes than asked, and are interrupted at times.
    pub fn make_transfers_short(&self, seed: u64) {
        let mut sim = self.sim.lock();
        (sim.short, sim.luck) = (true, Luck::new(seed));
    }

    /// Lets every operation beyond this number fail, so that what never ends does.
    pub fn limit_operations(&self, number: u64) {
        self.sim.lock().limit = Some(number);
    }

    /// Sends the next write to a file whose path contains `part` this many bytes away from where it belongs.
    pub fn misdirect_write(&self, part: &str, by: i64) {
        self.sim.lock().misdirected = Some((part.to_owned(), by));
    }

    /// Flips a bit of a file, cached and durable.
    ///
    /// # Errors
    /// When there is no such file or byte.
    pub fn flip_bit(&self, path: impl AsRef<Path>, position: u64, bit: u8) -> io::Result<()> {
        self.overwrite(path.as_ref(), position, |byte| byte ^ (1 << (bit % 8)))
    }

    /// Replaces a byte of a file, cached and durable.
    ///
    /// # Errors
    /// When there is no such file or byte.
    pub fn put_byte(&self, path: impl AsRef<Path>, position: u64, byte: u8) -> io::Result<()> {
        self.overwrite(path.as_ref(), position, |_| byte)
    }

    fn overwrite(&self, path: &Path, position: u64, change: impl Fn(u8) -> u8) -> io::Result<()> {
        let mut sim = self.sim.lock();
        let Found::File(id) = sim.disk.find(path)? else { return Err(io::ErrorKind::IsADirectory.into()) };
        if position >= sim.disk.len(id)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sim.disk.spoil(id, position, change)
    }

    /// Takes a file's name away, durably, behind everybody's back. Open handles keep the bytes.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn vanish(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.sim.lock().disk.vanish(path.as_ref())
    }

    /// Forgets what is only cached: pages that a failed sync left unwritten are read as the disk holds them.
    pub fn drop_caches(&self) {
        self.sim.lock().disk.drop_caches();
    }

    /// From now on keeps the disk before every operation that may change it.
    pub(super) fn record(&self) {
        self.sim.lock().moments.get_or_insert_default();
    }

    /// What was kept, and the disk as it is now.
    pub(super) fn moments(&self) -> Vec<Moment> {
        let mut sim = self.sim.lock();
        sim.keep_moment(|| "the end".to_owned(), &self.clock);
        sim.moments.take().unwrap_or_default()
    }

    /// Every operation since [`record`](Self::record), with its path.
    pub(super) fn trace(&self) -> Vec<(Operation, PathBuf)> {
        self.sim.lock().trace.clone()
    }

    fn begin(&self, operation: Operation, path: &Path) -> io::Result<MutexGuard<'_, Sim>> {
        let mut sim = self.sim.lock();
        sim.begin(operation, path, &self.clock)?;
        Ok(sim)
    }

    fn handle(&self, sim: &mut Sim, id: Id, path: &Path, mode: OpenMode) -> Arc<dyn File> {
        *sim.held.entry(id).or_default() += 1;
        Arc::new(SimFile { disk: self.clone(), id, path: path.to_owned(), writable: mode != OpenMode::Read })
    }
}

impl Default for SimStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimStorage").finish_non_exhaustive()
    }
}

impl Sim {
    fn keep_moment(&mut self, name: impl FnOnce() -> String, clock: &Arc<dyn Clock>) {
        if let Some(moments) = &mut self.moments {
            let (number, disk, clock) = (self.operations, self.disk.clone(), Arc::clone(clock));
            moments.push(Moment { number, name: name(), disk, clock });
        }
    }

    /// Counts an operation; fails when a fault strikes it.
    fn begin(&mut self, operation: Operation, path: &Path, clock: &Arc<dyn Clock>) -> io::Result<()> {
        self.begin_to(operation, operation.changes_the_disk(), path, clock)
    }

    /// The same of one that is to change something, or not.
    fn begin_to(&mut self, operation: Operation, change: bool, path: &Path, clock: &Arc<dyn Clock>) -> io::Result<()> {
        if operation.changes_the_disk() {
            self.keep_moment(|| format!("{operation:?} {}", path.display()), clock);
        }
        if self.moments.is_some() {
            self.trace.push((operation, path.to_owned()));
        }
        let number = self.operations;
        self.operations += 1;
        *self.counts.entry(operation).or_default() += 1;
        if self.limit.is_some_and(|limit| number >= limit) {
            return Err(io::Error::other(format!("operation {number} is one too many: does this end?")));
        }
        if self.faults.is_empty() {
            return Ok(());
        }
        let text = path.to_string_lossy();
        let struck =
            |fault: &Fault| fault.strike(number, operation, &text).filter(|errno| change || *errno != Errno::ReadOnly);
        let Some((index, errno)) = self.faults.iter().enumerate().find_map(|(at, f)| Some((at, struck(f)?))) else {
            return Ok(());
        };
        self.after_failed_sync = self.faults[index].left();
        if self.faults[index].ends() {
            self.faults.remove(index);
        }
        self.struck += 1;
        Err(errno.to_error())
    }

    /// Takes note of a sync that failed.
    fn heed(&mut self, path: &Path, synced: io::Result<()>) -> io::Result<()> {
        synced.inspect_err(|_| self.failed_syncs.push(path.to_owned()))
    }

    fn used(&self) -> u64 {
        self.disk.used(|id| self.held.contains_key(&id))
    }

    fn free(&self) -> u64 {
        self.space.map_or(u64::MAX, |space| space.saturating_sub(self.used()))
    }

    fn check_room(&self) -> io::Result<()> {
        if self.free() == 0 { Err(Errno::NoSpace.to_error()) } else { Ok(()) }
    }

    /// How much of a transfer happens this time.
    fn shorten(&mut self, len: usize) -> io::Result<usize> {
        if !self.short || len == 0 {
            return Ok(len);
        }
        match self.luck.below(4) {
            0 => Err(Errno::Interrupted.to_error()),
            1 => Ok(1),
            2 => Ok(1 + self.luck.below(len)),
            _ => Ok(len),
        }
    }
}

impl Storage for SimStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut sim = self.sim.lock();
        let makes = matches!(mode, OpenMode::CreateIfAbsent | OpenMode::CreateNew);
        let found = sim.disk.find(path);
        let absent = matches!(&found, Err(e) if e.kind() == io::ErrorKind::NotFound);
        let operation = if makes && absent { Operation::Create } else { Operation::Open };
        sim.begin_to(operation, mode != OpenMode::Read, path, &self.clock)?;
        let id = match found {
            Ok(_) if mode == OpenMode::CreateNew => return Err(io::ErrorKind::AlreadyExists.into()),
            Ok(Found::File(id)) => id,
            Ok(Found::Directory(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            Err(_) if operation == Operation::Create => {
                sim.check_room()?;
                sim.disk.create_file(path, self.clock.now())?
            }
            Err(e) => return Err(e),
        };
        Ok(self.handle(&mut sim, id, path, mode))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.begin(Operation::CreateDir, path)?;
        // What is there needs no room, and is told first.
        if sim.disk.find(path).is_err() {
            sim.check_room()?;
        }
        sim.disk.create_dir(path, self.clock.now())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin(Operation::Rename, from)?.disk.rename(from, to, self.clock.now())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.begin(Operation::Remove, path)?.disk.remove_file(path, self.clock.now())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.begin(Operation::RemoveDir, path)?.disk.remove_dir_all(path, self.clock.now())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let entry = |(name, found)| DirEntry { name, kind: kind_of(found) };
        Ok(self.begin(Operation::List, path)?.disk.list(path)?.into_iter().map(entry).collect())
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let sim = self.begin(Operation::Metadata, path)?;
        let found = sim.disk.find(path)?;
        let len = if let Found::File(id) = found { sim.disk.len(id)? } else { 0 };
        Ok(Metadata { kind: kind_of(found), len, modified: system_time(sim.disk.modified(found)?) })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.sim.lock();
        let synced = sim.begin(Operation::SyncDir, path, &self.clock).and_then(|()| sim.disk.sync_dir(path));
        sim.heed(path, synced)
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.sim.lock();
        let synced = sim.begin(Operation::SyncFs, path, &self.clock);
        let synced = synced.and_then(|()| sim.disk.find(path)).and_then(|_| sim.disk.sync_fs());
        sim.heed(path, synced)
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Lock>> {
        let mut sim = self.begin(Operation::Lock, path)?;
        let id = match sim.disk.find(path) {
            Ok(Found::File(id)) => id,
            Ok(Found::Directory(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            Err(_) => sim.disk.create_file(path, self.clock.now())?,
        };
        if sim.locked.contains_key(&id) {
            return Err(sim.refusal(id)?);
        }
        sim.disk.set_len(id, 0, self.clock.now())?;
        sim.disk.write(id, holder.as_bytes(), 0, self.clock.now())?;
        sim.locked.insert(id, Holders::One);
        Ok(Box::new(SimLock { disk: self.clone(), id }))
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut sim = self.begin(Operation::Lock, path)?;
        let id = match sim.disk.find(path) {
            Ok(Found::File(id)) => id,
            Ok(Found::Directory(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let lookers = match sim.locked.get(&id) {
            Some(Holders::One) => return Err(sim.refusal(id)?),
            Some(Holders::Looking(lookers)) => lookers + 1,
            None => 1,
        };
        sim.locked.insert(id, Holders::Looking(lookers));
        Ok(Some(Box::new(SimLock { disk: self.clone(), id })))
    }

    fn boot_id(&self) -> [u8; 16] {
        let mut id = *b"simulated\0\0\0\0\0\0\0";
        id[8..].copy_from_slice(&self.sim.lock().disk.boot.to_be_bytes());
        id
    }
}

impl Sim {
    fn refusal(&self, id: Id) -> io::Result<io::Error> {
        let mut holder = vec![0; HOLDER_BYTES_MAX];
        let len = self.disk.read(id, &mut holder, 0)?;
        let text = format!("locked by this process: {}", String::from_utf8_lossy(&holder[..len]));
        Ok(io::Error::new(io::ErrorKind::WouldBlock, text))
    }
}

fn kind_of(found: Found) -> EntryKind {
    match found {
        Found::File(_) => EntryKind::File,
        Found::Directory(_) => EntryKind::Directory,
    }
}

fn system_time(timestamp: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(timestamp.get()).unwrap_or(0))
}

struct SimFile {
    disk: SimStorage,
    id: Id,
    path: PathBuf,
    writable: bool,
}

impl SimFile {
    fn begin(&self, operation: Operation) -> io::Result<MutexGuard<'_, Sim>> {
        self.disk.begin(operation, &self.path)
    }

    /// Refuses what a real disk refuses: a handle for reading only, and a length beyond what it counts.
    fn begin_change(&self, operation: Operation, end: Option<u64>) -> io::Result<MutexGuard<'_, Sim>> {
        let sim = self.begin(operation)?;
        if !self.writable {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is open for reading only"));
        }
        match end {
            Some(end) if end <= i64::MAX as u64 => Ok(sim),
            _ => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }

    fn now(&self) -> Timestamp {
        self.disk.clock.now()
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("path", &self.path).field("writable", &self.writable).finish_non_exhaustive()
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut sim = self.disk.sim.lock();
        match sim.held.get_mut(&self.id) {
            Some(handles) if *handles > 1 => *handles -= 1,
            _ => drop(sim.held.remove(&self.id)),
        }
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.disk.stop_where_held(Operation::Read, &self.path);
        let mut sim = self.begin(Operation::Read)?;
        let n = sim.shorten(buf.len())?;
        sim.disk.read(self.id, &mut buf[..n], position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        let mut sim = self.begin_change(Operation::Write, position.checked_add(buf.len() as u64))?;
        if buf.is_empty() {
            return Ok(0);
        }
        let n = sim.shorten(buf.len())?;
        // Bytes that are there already can be overwritten on a full disk.
        let there = sim.disk.file(self.id)?.stored.saturating_sub(position).saturating_add(sim.free());
        let n = n.min(usize::try_from(there).unwrap_or(usize::MAX));
        if n == 0 {
            return Err(Errno::NoSpace.to_error());
        }
        let at = match sim.misdirected.take() {
            Some((part, by)) if self.path.to_string_lossy().contains(&part) => position.saturating_add_signed(by),
            other => {
                sim.misdirected = other;
                position
            }
        };
        sim.disk.write(self.id, &buf[..n], at, self.now())?;
        Ok(n)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        self.write_at(&bytes, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.stop_where_held(Operation::Sync, &self.path);
        let mut sim = self.disk.sim.lock();
        if let Err(error) = sim.begin(Operation::Sync, &self.path, &self.disk.clock) {
            let (then, mut luck) = (sim.after_failed_sync, Luck::new(sim.operations));
            sim.disk.fail_sync(self.id, then, &mut luck)?;
            return sim.heed(&self.path, Err(error));
        }
        let synced = sim.disk.sync_data(self.id);
        sim.heed(&self.path, synced)
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        let end = position.checked_add(len);
        let mut sim = self.begin_change(Operation::Allocate, end)?;
        let (free, end) = (sim.free(), end.unwrap_or(position));
        let file = sim.disk.file_mut(self.id)?;
        if end.saturating_sub(file.stored) > free {
            return Err(Errno::NoSpace.to_error());
        }
        file.stored = file.stored.max(end);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.begin_change(Operation::SetLen, Some(len))?.disk.set_len(self.id, len, self.now())
    }

    fn len(&self) -> io::Result<u64> {
        self.begin(Operation::Len)?.disk.len(self.id)
    }

    fn map(&self, len: u64) -> io::Result<Box<dyn Map>> {
        let sim = self.begin(Operation::Map)?;
        if len > sim.disk.len(self.id)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?];
        sim.disk.read(self.id, &mut bytes, 0)?;
        Ok(Box::new(SimMap(bytes)))
    }
}

/// A copy of what was there.
#[derive(Debug)]
struct SimMap(Vec<u8>);

impl AsRef<[u8]> for SimMap {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Map for SimMap {}

struct SimLock {
    disk: SimStorage,
    id: Id,
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimLock").finish_non_exhaustive()
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut sim = self.disk.sim.lock();
        match sim.locked.get_mut(&self.id) {
            Some(Holders::Looking(n)) if *n > 1 => *n -= 1,
            _ => drop(sim.locked.remove(&self.id)),
        }
    }
}

impl Lock for SimLock {}

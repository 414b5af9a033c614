//! A storage that notes which bytes it is about to sync. A system tells of bytes that it could not write once, and may
//! show them from its cache as if they were on the disk: to who comes after a process that was killed between a sync that
//! failed and its own note of that, nothing else tells. A note is written before each sync and taken back after it; it is
//! for the same boot, and never synced. Told of are logs and the state file: all else can be made anew from these.
//!
//! ```text
//! header, 512 bytes: magic "thalweg syncs\0" | version u32 | boot id, 16 bytes | CRC-32C u32 of these
//! note, 512 bytes:   CRC-32C u32 of the rest | from u64 | to u64 | length of the path u16 | path below the directory
//! ```
//!
//! Invariant: whatever somebody was told of, and that was not synced since, lies in a note while a sync of its file runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IoSlice};
use std::mem;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut};
use crc32c::crc32c;
use parking_lot::{Mutex, RwLock};

use super::paths::{at_or_below, moved};
use super::{DirEntry, File, Lock, Map, Metadata, OpenMode, Storage};
use crate::error::{Error, ErrorKind, Result};

/// The file's name, which means nothing to Kafka.
pub(crate) const SYNCS: &str = "thalweg.syncs";

const MAGIC: &[u8; 14] = b"thalweg syncs\0";
const VERSION: u32 = 1;
const HEADER_LEN: usize = MAGIC.len() + 4 + 16 + 4;
/// Of the header and of a note. The path of a partition's file has less than 300 bytes.
const PLACE_LEN: usize = 512;
/// For so many syncs at once there is space from the start: a page of the system's cache.
const PLACES: usize = 7;
/// A million syncs at once; a longer file is none of ours.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// Of a note, before its path.
const FRONT_LEN: usize = 4 + 8 + 8 + 2;

/// A storage that notes its syncs; its clones share the notes.
#[derive(Clone, Debug)]
pub(crate) struct NotingStorage {
    below: Arc<dyn Storage>,
    syncs: Arc<SyncNotes>,
}

/// Which bytes may not be on the disk although they can be read: of files whose sync failed in this boot, or was begun
/// by a process that did not live to see its end.
#[derive(Default)]
pub(crate) struct SyncNotes {
    /// The process whose notes they are: one that was forked from it has nothing to say.
    owner: u32,
    /// The directory that the notes stand in and speak of.
    root: PathBuf,
    /// None before [`NotingStorage::begin`].
    file: RwLock<Option<Arc<dyn File>>>,
    table: Mutex<Table>,
    /// Counts the syncs that failed.
    failures: AtomicU64,
}

#[derive(Default)]
struct Table {
    /// By path below the root, each with the place of its note.
    in_doubt: BTreeMap<PathBuf, Vec<(usize, Range<u64>)>>,
    free: BTreeSet<usize>,
    /// How many there are.
    places: usize,
    /// The files that were opened for writing, and have a name.
    open: BTreeMap<PathBuf, Arc<Tracked>>,
}

/// A file that was opened for writing: what its handles share. Locked before the table.
#[derive(Default)]
struct Tracked(Mutex<Unsynced>);

#[derive(Default)]
struct Unsynced {
    /// Below the root; none once the name is gone.
    path: Option<PathBuf>,
    /// Written since the last sync began. At first all that was there: who had the file before may have synced none of
    /// it. Zeros that only make room are not missed.
    range: Range<u64>,
    /// The syncs that run, each with the place of its note.
    running: Vec<(usize, Range<u64>)>,
}

/// Bytes of a file that may not be on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doubt {
    path: PathBuf,
    pub(crate) bytes: Range<u64>,
    places: Vec<usize>,
}

/// The smallest range that holds both.
fn join(one: &Range<u64>, other: &Range<u64>) -> Range<u64> {
    match (one.is_empty(), other.is_empty()) {
        (true, _) => other.clone(),
        (_, true) => one.clone(),
        _ => one.start.min(other.start)..one.end.max(other.end),
    }
}

impl NotingStorage {
    pub(crate) fn new(below: Arc<dyn Storage>, root: &Path) -> Self {
        let (owner, root) = (process::id(), root.to_owned());
        Self { below, syncs: Arc::new(SyncNotes { owner, root, ..SyncNotes::default() }) }
    }

    /// Reads what an earlier process of this boot noted, and notes every sync from here on; none where there is no space
    /// for that. The caller holds the directory's lock.
    ///
    /// # Errors
    /// `Unsupported` when a newer release noted it in this boot; `Io`, `TooManyOpenFiles`.
    pub(crate) fn begin(&self) -> Result<()> {
        let path = self.syncs.root.join(SYNCS);
        match self.begin_at(&path) {
            Err(e) if e.kind() == ErrorKind::StorageFull => Ok(()),
            begun => begun,
        }
    }

    fn begin_at(&self, path: &Path) -> Result<()> {
        let failed = |e| Error::io("cannot open the notes of syncs", path, e);
        let file = self.below.open(path, OpenMode::CreateIfAbsent).map_err(failed)?;
        let mut len = file.len().map_err(failed)?;
        if len > FILE_BYTES_MAX {
            file.set_len(0).map_err(failed)?;
            len = 0;
        }
        let block = |at: u64| {
            let mut bytes = vec![0; (len - at).min(PLACE_LEN as u64) as usize];
            // What the disk does not give says nothing.
            file.read_exact_at(&mut bytes, at).map_or_else(|_| Vec::new(), |()| bytes)
        };
        let boot_id = self.below.boot_id();
        let table = &mut *self.syncs.table.lock();
        table.places = PLACES;
        if is_of_boot(&block(0), boot_id).map_err(|e| e.path(path))? {
            for (place, at) in (PLACE_LEN as u64..len).step_by(PLACE_LEN).enumerate() {
                if let Some((path, range)) = decode(&block(at)) {
                    table.in_doubt.entry(path).or_default().push((place, range));
                }
                table.places = table.places.max(place + 1);
            }
        } else {
            // In place, over the notes of another boot, for which there is space.
            let mut bytes = encode_header(VERSION, boot_id);
            bytes.resize(PLACE_LEN * (1 + PLACES), 0);
            if len > bytes.len() as u64 {
                file.set_len(bytes.len() as u64).map_err(failed)?;
            }
            file.write_all_at(&bytes, 0).map_err(failed)?;
        }
        let used: BTreeSet<usize> = table.in_doubt.values().flatten().map(|(place, _)| *place).collect();
        table.free = (0..table.places).filter(|place| !used.contains(place)).collect();
        *self.syncs.file.write() = Some(file);
        Ok(())
    }

    /// Notes nothing any more, as nothing is synced any more.
    pub(crate) fn close(&self) {
        *self.syncs.file.write() = None;
    }

    pub(crate) fn notes(&self) -> Arc<SyncNotes> {
        Arc::clone(&self.syncs)
    }
}

impl SyncNotes {
    fn below_root<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }

    /// What is in doubt of the files at `path` or below it.
    pub(crate) fn at(&self, path: &Path) -> Vec<Doubt> {
        let found = at_or_below(&self.table.lock().in_doubt, self.below_root(path));
        let doubt = |(path, notes): (PathBuf, Vec<(usize, Range<u64>)>)| Doubt {
            path,
            bytes: notes.iter().fold(0..0, |all, (_, range)| join(&all, range)),
            places: notes.into_iter().map(|(place, _)| place).collect(),
        };
        found.into_iter().map(doubt).collect()
    }

    /// How many syncs have failed. A file may be synced by who has nothing to do with it, only to close it.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    /// Whether it is one of the file at `path`.
    pub(crate) fn is_of(&self, doubt: &Doubt, path: &Path) -> bool {
        self.below_root(path) == doubt.path
    }

    /// Says that these bytes were written once more and synced, or are gone. What came since stays in doubt.
    pub(crate) fn settle(&self, doubt: &Doubt) {
        {
            let mut table = self.table.lock();
            if let Some(notes) = table.in_doubt.get_mut(&doubt.path) {
                notes.retain(|(place, _)| !doubt.places.contains(place));
                if notes.is_empty() {
                    table.in_doubt.remove(&doubt.path);
                }
            }
        }
        doubt.places.iter().for_each(|place| self.free(*place));
    }

    /// The same doubts, for who looks only: nothing that becomes of them reaches the disk.
    pub(crate) fn copy(&self) -> Arc<Self> {
        let table = Table { in_doubt: self.table.lock().in_doubt.clone(), ..Table::default() };
        Arc::new(Self { root: self.root.clone(), table: Mutex::new(table), ..Self::default() })
    }

    fn write(&self, place: usize, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.read();
        let Some(file) = &*file else { return Ok(()) };
        if process::id() != self.owner {
            return Err(io::Error::other("it is another process's"));
        }
        file.write_all_at(bytes, (PLACE_LEN * (1 + place)) as u64)
    }

    /// A note that stays although it should not is a doubt too many.
    fn free(&self, place: usize) {
        drop(self.write(place, &[0; FRONT_LEN]));
        self.table.lock().free.insert(place);
    }

    /// Notes that a sync begins, for this process alone where there is no space for a note.
    fn note(&self, path: &Path, range: &Range<u64>) -> io::Result<usize> {
        let place = {
            let mut table = self.table.lock();
            table.free.pop_first().unwrap_or_else(|| {
                table.places += 1;
                table.places - 1
            })
        };
        match encode(path, range).and_then(|note| self.write(place, &note)) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                self.table.lock().free.insert(place);
                Err(io::Error::new(e.kind(), format!("a sync was not begun, as it could not be noted: {e}")))
            }
            _ => Ok(place),
        }
    }

    /// A file that is opened for writing. `len` tells what was there of one that nobody of this process had opened before.
    fn tracked(&self, path: &Path, len: impl FnOnce() -> io::Result<u64>) -> io::Result<Arc<Tracked>> {
        let path = self.below_root(path);
        if let Some(open) = self.table.lock().open.get(path) {
            return Ok(Arc::clone(open));
        }
        let unsynced = Unsynced { path: Some(path.to_owned()), range: 0..len()?, running: Vec::new() };
        let tracked = Arc::new(Tracked(Mutex::new(unsynced)));
        // Another one may have come between.
        Ok(Arc::clone(self.table.lock().open.entry(path.to_owned()).or_insert(tracked)))
    }

    /// What is at `path` is gone.
    fn remove(&self, path: &Path) {
        self.at(path).iter().for_each(|doubt| self.settle(doubt));
        let gone = {
            let mut table = self.table.lock();
            let gone = at_or_below(&table.open, self.below_root(path));
            gone.iter().for_each(|(path, _)| drop(table.open.remove(path)));
            gone
        };
        gone.into_iter().for_each(|(_, file)| file.0.lock().path = None);
    }

    /// What was at `from` is at `to`.
    fn rename(&self, from: &Path, to: &Path) {
        self.remove(to);
        let (from, to) = (self.below_root(from), self.below_root(to));
        let moved = |path: &Path| moved(path, from, to);
        let mut table = self.table.lock();
        let open = at_or_below(&table.open, from);
        for (path, file) in &open {
            table.open.remove(path);
            table.open.insert(moved(path), file.clone());
        }
        for (path, notes) in at_or_below(&table.in_doubt, from) {
            table.in_doubt.remove(&path);
            notes.iter().for_each(|(place, range)| drop(self.note_again(*place, &moved(&path), range)));
            table.in_doubt.insert(moved(&path), notes);
        }
        drop(table);
        for (path, file) in open {
            let (path, mut file) = (moved(&path), file.0.lock());
            file.running.iter().for_each(|(place, range)| drop(self.note_again(*place, &path, range)));
            file.path = Some(path);
        }
    }

    /// In the place of an earlier note.
    fn note_again(&self, place: usize, path: &Path, range: &Range<u64>) -> io::Result<()> {
        encode(path, range).and_then(|note| self.write(place, &note))
    }
}

impl Tracked {
    /// Takes note of bytes that were written, and that nobody was told of yet. A sync that runs may cost them as well.
    fn wrote(&self, syncs: &SyncNotes, range: Range<u64>) {
        let file = &mut *self.0.lock();
        file.range = join(&file.range, &range);
        for (place, running) in &mut file.running {
            let wider = join(running, &range);
            if wider != *running
                && let Some(path) = &file.path
                && syncs.note_again(*place, path, &wider).is_ok()
            {
                *running = wider;
            }
        }
    }

    fn set_len(&self, len: u64) {
        let range = &mut self.0.lock().range;
        *range = range.start.min(len)..range.end.min(len);
    }

    fn sync(&self, syncs: &SyncNotes, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut file = self.0.lock();
        let noted = match &file.path {
            Some(path) if !file.range.is_empty() => Some(syncs.note(path, &file.range)?),
            _ => None,
        };
        let range = mem::take(&mut file.range);
        let Some(place) = noted else {
            drop(file);
            return sync();
        };
        file.running.push((place, range));
        drop(file);
        let synced = sync();
        let mut file = self.0.lock();
        let Some(at) = file.running.iter().position(|(running, _)| *running == place) else { return synced };
        let (_, range) = file.running.swap_remove(at);
        match (synced.is_err(), &file.path) {
            (true, Some(path)) => {
                syncs.table.lock().in_doubt.entry(path.clone()).or_default().push((place, range));
                syncs.failures.fetch_add(1, Ordering::AcqRel);
            }
            (_, None) | (false, _) => syncs.free(place),
        }
        synced
    }
}

/// Whether bytes are zeros that make room: a batch has others in its first few.
fn is_room(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn encode_header(version: u32, boot_id: [u8; 16]) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    header.put_slice(MAGIC);
    header.put_u32(version);
    header.put_slice(&boot_id);
    header.put_u32(crc32c(&header));
    header
}

/// Whether notes were made in this boot: those of another say nothing.
fn is_of_boot(bytes: &[u8], boot_id: [u8; 16]) -> Result<bool> {
    let Some(mut fields) = bytes.strip_prefix(MAGIC).filter(|_| bytes.len() >= PLACE_LEN) else { return Ok(false) };
    let version = fields.get_u32();
    if bytes[..HEADER_LEN] != encode_header(version, boot_id)[..] {
        return Ok(false);
    }
    if version > VERSION {
        let why = format!("the notes of syncs have version {version}, this release reads up to {VERSION}");
        return Err(Error::new(ErrorKind::Unsupported, why).remedy("open it with the release that wrote it"));
    }
    Ok(true)
}

fn encode(path: &Path, range: &Range<u64>) -> io::Result<Vec<u8>> {
    let name = path.to_str().filter(|name| name.len() <= PLACE_LEN - FRONT_LEN);
    let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidFilename, "a path that cannot be noted"))?;
    let mut note = Vec::with_capacity(FRONT_LEN + name.len());
    note.put_u32(0);
    note.put_u64(range.start);
    note.put_u64(range.end);
    note.put_u16(name.len() as u16);
    note.put_slice(name.as_bytes());
    let crc = crc32c(&note[4..]);
    note[..4].copy_from_slice(&crc.to_be_bytes());
    Ok(note)
}

/// `None` where no sync is noted.
fn decode(note: &[u8]) -> Option<(PathBuf, Range<u64>)> {
    let (mut front, rest) = note.split_at_checked(FRONT_LEN)?;
    let (crc, start, end, len) = (front.get_u32(), front.get_u64(), front.get_u64(), front.get_u16());
    let name = rest.get(..usize::from(len)).filter(|name| !name.is_empty())?;
    if crc != crc32c(&note[4..FRONT_LEN + name.len()]) {
        return None;
    }
    Some((std::str::from_utf8(name).ok()?.into(), start..end))
}

/// Whether what it loses could not be made anew: a log, under whatever name it has until it is one, or our state.
fn is_noted(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains(".log") || name.ends_with(".state")
}

impl fmt::Debug for SyncNotes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncNotes").field("in_doubt", &self.table.lock().in_doubt).finish_non_exhaustive()
    }
}

impl Storage for NotingStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let below = self.below.open(path, mode)?;
        if mode == OpenMode::Read || !is_noted(path) {
            return Ok(below);
        }
        let len = || if mode == OpenMode::CreateNew { Ok(0) } else { below.len() };
        let tracked = self.syncs.tracked(path, len)?;
        Ok(Arc::new(NotingFile { below, tracked, syncs: self.notes() }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.below.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.below.rename(from, to)?;
        if from != to {
            self.syncs.rename(from, to);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.below.remove_file(path)?;
        self.syncs.remove(path);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.below.remove_dir_all(path)?;
        self.syncs.remove(path);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.below.list(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.below.metadata(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.below.sync_dir(path)
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        self.below.sync_fs(path)
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

    fn shortcoming(&self, path: &Path) -> Option<&'static str> {
        self.below.shortcoming(path)
    }
}

#[derive(Debug)]
struct NotingFile {
    below: Arc<dyn File>,
    tracked: Arc<Tracked>,
    syncs: Arc<SyncNotes>,
}

impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tracked").field(&self.0.lock().path).finish()
    }
}

impl File for NotingFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.below.read_at(buf, position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        let written = self.below.write_at(buf, position)?;
        if !is_room(&buf[..written.min(buf.len())]) {
            self.tracked.wrote(&self.syncs, position..position + written as u64);
        }
        Ok(written)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        let written = self.below.write_vectored_at(bufs, position)?;
        if !bufs.iter().all(|buf| is_room(buf)) {
            self.tracked.wrote(&self.syncs, position..position + written as u64);
        }
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.tracked.sync(&self.syncs, || self.below.sync_data())
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.below.allocate(position, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.below.set_len(len)?;
        self.tracked.set_len(len);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.below.len()
    }

    fn map(&self, len: u64) -> io::Result<Box<dyn Map>> {
        self.below.map(len)
    }
}

#[cfg(test)]
mod tests;

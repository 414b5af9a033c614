//! What we alone remember of each partition: how far its log was sound, synced and shown, so that
//! recovery can tell a torn tail from rot. One file of fixed slots; Kafka ignores it.
//!
//! ```text
//! header, 512 bytes: magic "thalweg state\0" | version u32 | slot length u32 | CRC-32C u32 of these
//! slot, 512 bytes:   two copies of 256 bytes, of which the valid one with the higher sequence counts
//! copy:              CRC-32C u32 of the rest | flags u32 | sequence u64 | topic id | partition i32 | state
//! ```
//!
//! Invariant: a store never touches the copy that was synced last, so that one survives any crash.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Buf, BufMut};
use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind, Findings};
use crate::mutants::{Mutant, is_on};
use crate::storage::{File, OpenMode, Storage, SyncNotes, read_file, replace_file};
use crate::types::{LeaderEpoch, Offset, PartitionId, RecoveryPolicy, Uuid};

/// How much of the active segment's end [`SlotState::tail_crc`] covers at most, in bytes.
pub(crate) const TAIL_LEN: u64 = 4096;

const MAGIC: &[u8; 14] = b"thalweg state\0";
/// Version 1 had no poison, `noted` or `unsynced_max`, version 2 nothing of transactions or the first segment, version 3
/// no `unknown` or `foreign`; they are read as if these were zero.
const VERSION: u32 = 4;
const HEADER_LEN: u64 = 512;
/// Slots of two million partitions; a longer file is none of ours.
const FILE_BYTES_MAX: u64 = 1 << 30;
const HEADER_CRC_AT: usize = MAGIC.len() + 4 + 4;
const COPY_LEN: usize = 256;
const SLOT_LEN: usize = 2 * COPY_LEN;
/// The checksum of a copy covers what follows it.
const CHECKED_AT: usize = 4;

const USED: u32 = 1;
const CLEAN: u32 = 1 << 1;
const WEAK_ACKS: u32 = 1 << 2;
const POISONED: u32 = 1 << 3;
const TRUNCATING: u32 = 1 << 4;
const ABORTED: [u32; 2] = [1 << 5, 1 << 6];
const TRANSACTIONAL: u32 = 1 << 7;
const FIRST: u32 = 1 << 8;
const UNKNOWN: u32 = 1 << 9;
const FOREIGN: u32 = 1 << 10;

/// What a slot holds of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotState {
    /// Whether the log was closed in order after everything in it was synced.
    pub(crate) clean: bool,
    /// Whether an append was acknowledged or shown below the level that survives loss of power.
    pub(crate) weak_acks: bool,
    pub(crate) leader_epoch: LeaderEpoch,
    /// The boot of the machine in which this was stored.
    pub(crate) boot_id: [u8; 16],
    pub(crate) log_start: Offset,
    pub(crate) log_end: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) last_stable: Offset,
    /// Everything below survives loss of power.
    pub(crate) frontier: Offset,
    /// No offset at or above this was ever acknowledged or shown.
    pub(crate) reserved: Offset,
    pub(crate) recovery_point: Offset,
    /// Base offset of the active segment.
    pub(crate) segment_base: Offset,
    /// Length of the active segment's log in bytes.
    pub(crate) segment_size: u64,
    /// CRC-32C of the last [`TAIL_LEN`] bytes, or all if fewer, of the active segment's log.
    pub(crate) tail_crc: u32,
    /// Segments with a base offset below have index files that another program wrote and nobody compared with
    /// the log yet. 0 in slots of releases that did not know.
    pub(crate) doubted_below: Offset,
    /// A write or sync failed: in this boot, what is cached above `frontier` may not be what the disk holds.
    pub(crate) poisoned: bool,
    /// In this boot, index files and producer snapshot are good up to here, synced or not.
    pub(crate) noted: Offset,
    /// On a log that survives loss of power, no more than so many bytes were ever written and not synced; 0 where
    /// nobody kept to a limit.
    pub(crate) unsynced_max: u32,
    /// A truncation to `log_end` was begun: what lies above it counts no more.
    pub(crate) truncating: bool,
    /// Checksums of the aborted transactions below `recovery_point` and `noted`, in the segments that hold them; `None`
    /// where nobody knows.
    pub(crate) aborted: [Option<u32>; 2],
    /// The log holds or held batches of producers.
    pub(crate) transactional: bool,
    /// Base offset of the first segment that had a file, if one had.
    pub(crate) first: Option<Offset>,
    /// Nothing of all this is known of the log, but that a sync of it failed where `poisoned` says so...
    pub(crate) unknown: bool,
    /// ...because another program had it, and no opening has looked at it since.
    pub(crate) foreign: bool,
}

impl SlotState {
    /// Of a log that another program had, and that no opening of ours has looked at since.
    pub(crate) fn foreign() -> Self {
        Self { unknown: true, foreign: true, ..Self::default() }
    }
}

type Key = (Uuid, PartitionId);

/// The open file. Slots are found by topic id and partition.
#[derive(Debug)]
pub(crate) struct StateFile {
    shared: Arc<Shared>,
    table: Mutex<Table>,
    is_new: bool,
}

/// One partition's slot. Outlives the [`StateFile`] that gave it.
#[derive(Debug)]
pub(crate) struct StateSlot {
    shared: Arc<Shared>,
    key: Key,
    index: u64,
    content: Mutex<Content>,
}

#[derive(Debug)]
struct Shared {
    file: Arc<dyn File>,
    path: PathBuf,
    syncs_begun: AtomicU64,
    /// The latest begun sync that has succeeded.
    syncs_done: AtomicU64,
    poisoned: AtomicBool,
    /// Held while syncing: of two at once the system would tell one that it failed.
    syncing: Mutex<()>,
    /// What was written, and where, since the last sync began. Held while writing, and while a sync begins.
    unsynced: Mutex<HashMap<u64, [u8; COPY_LEN]>>,
    /// Where the file is opened anew after a failed sync...
    storage: OnceLock<Arc<dyn Storage>>,
    /// ...for notes that no sync will cover.
    anew: OnceLock<Arc<dyn File>>,
}

#[derive(Debug, Default)]
struct Table {
    slots: HashMap<Key, Arc<StateSlot>>,
    free: Vec<FreeSlot>,
    /// The first index that the file does not hold yet.
    next: u64,
}

#[derive(Debug)]
struct FreeSlot {
    index: u64,
    sequences: [u64; 2],
}

#[derive(Debug)]
struct Content {
    state: Option<SlotState>,
    /// Of the two copies in the file; 0 for one that is not valid.
    sequences: [u64; 2],
    /// How many syncs had begun when the newer copy was written.
    written_at: u64,
    /// The same of the first copy that says something of the log.
    known_since: Option<u64>,
    freed: bool,
}

impl StateFile {
    /// Opens the file at `path`, or makes it. `Unsupported` when a newer release wrote it.
    pub(crate) fn open(storage: &dyn Storage, path: &Path) -> Result<Self> {
        let failed = |e| Error::io("cannot open the state file", path, e);
        let mut is_new = false;
        let file = match storage.open(path, OpenMode::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                is_new = true;
                replace_file(storage, path, &encode_header(VERSION))?;
                storage.open(path, OpenMode::Write).map_err(failed)?
            }
            opened => opened.map_err(failed)?,
        };
        let file = match check_header(&*file).map_err(|e| e.path(path))? {
            VERSION => file,
            _ => {
                raise_version(storage, path)?;
                storage.open(path, OpenMode::Write).map_err(failed)?
            }
        };
        let shared = Arc::new(Shared {
            file,
            path: path.to_owned(),
            syncs_begun: AtomicU64::new(0),
            syncs_done: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
            syncing: Mutex::default(),
            unsynced: Mutex::default(),
            storage: OnceLock::new(),
            anew: OnceLock::new(),
        });
        let table = read_slots(&shared).map_err(|e| Error::io("cannot read the state file", path, e))?;
        if !table.slots.is_empty() {
            // The newer copies count as synced from here on: a store must not overwrite them.
            shared.sync()?;
        }
        Ok(Self { shared, table: Mutex::new(table), is_new })
    }

    /// [`open`](Self::open); under [`RecoveryPolicy::Salvage`] a file that is damaged is set aside, and another begun.
    pub(crate) fn open_by(
        policy: RecoveryPolicy,
        storage: &Arc<dyn Storage>,
        path: &Path,
        findings: &Findings,
        syncs: &SyncNotes,
    ) -> Result<Self> {
        for doubt in syncs.at(path) {
            // What the cache holds is written once more, in its place: that needs no space.
            if let Some(bytes) = read_file(&**storage, path, FILE_BYTES_MAX)? {
                let failed = |e| Error::io("cannot write the state file again", path, e);
                let file = storage.open(path, OpenMode::Write).map_err(failed)?;
                file.write_all_at(&bytes, 0).and_then(|()| file.sync_data()).map_err(failed)?;
            }
            syncs.settle(&doubt);
        }
        let opened = Self::open_or_begin(policy, &**storage, path, findings)?;
        opened.shared.storage.get_or_init(|| Arc::clone(storage));
        Ok(opened)
    }

    fn open_or_begin(policy: RecoveryPolicy, storage: &dyn Storage, path: &Path, findings: &Findings) -> Result<Self> {
        let damage = match Self::open(storage, path) {
            Err(e) if e.kind() == ErrorKind::Corrupt && policy == RecoveryPolicy::Salvage => e,
            opened => return opened,
        };
        let mut aside = path.as_os_str().to_owned();
        aside.push(".damaged");
        let aside = PathBuf::from(aside);
        storage.rename(path, &aside).map_err(|e| Error::io("cannot set the state file aside", path, e))?;
        let message = format!("{damage}; it was set aside and begun anew");
        findings.add(Finding::new(FindingKind::Rebuilt, message).path(aside));
        // Makes the new file's name durable, and with it that the old one is gone.
        Self::open(storage, path)
    }

    /// Whether this opening made the file.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// `data` behind the header of a state file, with checksums that match.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn repaired(data: &[u8]) -> Vec<u8> {
        let mut bytes = data.to_vec();
        bytes.resize(data.len().max(HEADER_LEN as usize), 0);
        let (header, slots) = bytes.split_at_mut(HEADER_LEN as usize);
        header.copy_from_slice(&encode_header(VERSION));
        for copy in slots.chunks_exact_mut(COPY_LEN) {
            let crc = crate::wire::crc32c(&copy[CHECKED_AT..]);
            copy[..CHECKED_AT].copy_from_slice(&crc.to_be_bytes());
        }
        bytes
    }

    /// The partitions that have slots; those of topics that exist no longer are to be freed.
    pub(crate) fn partitions(&self) -> Vec<(Uuid, PartitionId)> {
        self.table.lock().slots.keys().copied().collect()
    }

    /// The partition's slot; an empty one when it has none yet. Takes no place in the file before the
    /// first store.
    pub(crate) fn slot(&self, topic_id: Uuid, partition: PartitionId) -> Arc<StateSlot> {
        let key = (topic_id, partition);
        let mut table = self.table.lock();
        if let Some(slot) = table.slots.get(&key) {
            return Arc::clone(slot);
        }
        let FreeSlot { index, sequences } = table.free.pop().unwrap_or_else(|| {
            let index = table.next;
            table.next += 1;
            FreeSlot { index, sequences: [0; 2] }
        });
        let slot = Arc::new(StateSlot::new(&self.shared, key, index, None, sequences));
        table.slots.insert(key, Arc::clone(&slot));
        slot
    }

    /// Makes the slot of a deleted partition free for others; who still holds it cannot store to it.
    pub(crate) fn free(&self, topic_id: Uuid, partition: PartitionId) -> Result<()> {
        let mut table = self.table.lock();
        let Some(slot) = table.slots.get(&(topic_id, partition)).map(Arc::clone) else { return Ok(()) };
        let mut content = slot.content.lock();
        if content.sequences != [0; 2] {
            self.shared.check_poison()?;
            slot.write(&mut content, None)?;
        }
        content.freed = true;
        table.slots.remove(&slot.key);
        table.free.push(FreeSlot { index: slot.index, sequences: content.sequences });
        Ok(())
    }

    /// Makes all that was stored before the call durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.shared.sync()
    }
}

impl StateSlot {
    fn new(shared: &Arc<Shared>, key: Key, index: u64, state: Option<SlotState>, sequences: [u64; 2]) -> Self {
        let known_since = state.filter(|state| !state.unknown).map(|_| 0);
        let content = Mutex::new(Content { state, sequences, written_at: 0, known_since, freed: false });
        Self { shared: Arc::clone(shared), key, index, content }
    }

    /// What was stored last; `None` when nothing ever was.
    pub(crate) fn load(&self) -> Option<SlotState> {
        self.content.lock().state
    }

    /// Hands a new state to the operating system; it is durable after the next sync. Where one has failed, nothing
    /// but the note of a log that failed too is taken: it is for the next opening in this boot.
    pub(crate) fn store(&self, state: &SlotState) -> Result<()> {
        let mut content = self.content.lock();
        if content.freed {
            return Err(Error::new(ErrorKind::TopicDeleted, "the partition's state was freed with its topic"));
        }
        if !state.poisoned {
            self.shared.check_poison()?;
        }
        self.write(&mut content, Some(state))?;
        content.state = Some(*state);
        Ok(())
    }

    /// Makes all that was stored before the call durable, in every slot of the file.
    pub(crate) fn sync(&self) -> Result<()> {
        self.shared.sync()
    }

    /// Whether a crash leaves a copy that says something of the log, be it not the newest.
    pub(crate) fn is_kept(&self) -> bool {
        let syncs = self.shared.syncs_done.load(Ordering::SeqCst);
        self.content.lock().known_since.is_some_and(|since| syncs > since)
    }

    fn write(&self, content: &mut Content, state: Option<&SlotState>) -> Result<()> {
        let synced = self.shared.syncs_done.load(Ordering::SeqCst) > content.written_at;
        let target = content.target(synced);
        let sequence = content.sequences.iter().max().map_or(1, |newest| newest.saturating_add(1));
        let bytes = encode_copy(self.key, sequence, state);
        let position = HEADER_LEN + self.index * SLOT_LEN as u64 + (target * COPY_LEN) as u64;
        // A write that fails may leave anything.
        content.sequences[target] = 0;
        let written = self.shared.write(position, bytes);
        content.written_at =
            written.map_err(|e| Error::io("cannot write the state of a partition", &self.shared.path, e))?;
        content.sequences[target] = sequence;
        let is_known = state.is_some_and(|state| !state.unknown);
        content.known_since = is_known.then(|| content.known_since.unwrap_or(content.written_at));
        Ok(())
    }
}

impl Content {
    /// The copy to write next: the newer one again while it is not synced and the older one is good, since
    /// the older one is then what a crash falls back to.
    fn target(&self, newer_is_synced: bool) -> usize {
        let newer = usize::from(self.sequences[1] > self.sequences[0]);
        let older = 1 - newer;
        if self.sequences[older] != 0 && !newer_is_synced && !is_on(Mutant::OnlyCopyOverwritten) {
            newer
        } else {
            older
        }
    }
}

impl Shared {
    fn check_poison(&self) -> Result<()> {
        if self.poisoned.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Poisoned, "a sync of the state file failed earlier")
                .path(&self.path)
                .remedy("close and open again"));
        }
        Ok(())
    }

    /// Answers how many syncs had begun.
    fn write(&self, position: u64, bytes: [u8; COPY_LEN]) -> io::Result<u64> {
        let mut unsynced = self.unsynced.lock();
        self.anew.get().unwrap_or(&self.file).write_all_at(&bytes, position)?;
        unsynced.insert(position, bytes);
        Ok(self.syncs_begun.load(Ordering::SeqCst))
    }

    fn sync(&self) -> Result<()> {
        let before = self.syncs_begun.load(Ordering::SeqCst);
        let _one = self.syncing.lock();
        self.check_poison()?;
        if self.syncs_done.load(Ordering::SeqCst) > before {
            // Another one began after the call.
            return Ok(());
        }
        let mut written = self.unsynced.lock();
        if written.is_empty() && before > 0 {
            // Nothing came since the last one.
            return Ok(());
        }
        let number = self.syncs_begun.fetch_add(1, Ordering::SeqCst) + 1;
        let unsynced = std::mem::take(&mut *written);
        drop(written);
        if let Err(e) = self.file.sync_data() {
            let cause = Error::io("cannot sync the state file", &self.path, e);
            use ErrorKind::{Closed, Forked, Poisoned, TooManyOpenFiles};
            if matches!(cause.kind(), Closed | Forked | Poisoned | TooManyOpenFiles) {
                // It was not tried.
                let mut later = self.unsynced.lock();
                for (position, bytes) in unsynced {
                    later.entry(position).or_insert(bytes);
                }
                return Err(cause);
            }
            self.poisoned.store(true, Ordering::SeqCst);
            self.write_again(unsynced);
            let error = Error::new(ErrorKind::Indeterminate, "a sync of the state file failed").path(&self.path);
            return Err(error.source(cause).remedy("close the broker or log and open it again"));
        }
        self.syncs_done.fetch_max(number, Ordering::SeqCst);
        Ok(())
    }

    /// After a failed sync the cache may hold what the disk does, an older state. The next opening in this boot finds
    /// these instead: which offsets were given out, which logs failed.
    fn write_again(&self, mut copies: HashMap<u64, [u8; COPY_LEN]>) {
        let mut later = self.unsynced.lock();
        copies.extend(later.drain());
        // Where this fails as well there is nowhere to note it.
        let opened = self.storage.get().and_then(|storage| storage.open(&self.path, OpenMode::Write).ok());
        let Some(file) = opened else { return };
        let file = self.anew.get_or_init(|| file);
        for (position, bytes) in copies {
            drop(file.write_all_at(&bytes, position));
        }
    }
}

fn encode_header(version: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_LEN as usize);
    header.put_slice(MAGIC);
    header.put_u32(version);
    header.put_u32(SLOT_LEN as u32);
    header.put_u32(crate::wire::crc32c(&header));
    header.resize(HEADER_LEN as usize, 0);
    header
}

/// The version of the file.
fn check_header(file: &dyn File) -> Result<u32> {
    let mut header = [0; HEADER_LEN as usize];
    let len = file.len().map_err(|e| Error::new(ErrorKind::Io, "cannot tell the state file's length").source(e))?;
    let corrupt = || {
        Error::new(ErrorKind::Corrupt, "the header of the state file is damaged, or its length").remedy(
            "remove the file, or open with RecoveryPolicy::Salvage, which sets it aside: every partition is then \
                 recovered from its segments and seals",
        )
    };
    if len > FILE_BYTES_MAX {
        return Err(corrupt());
    }
    file.read_exact_at(&mut header, 0).map_err(|e| corrupt().source(e))?;
    let mut fields = header.strip_prefix(MAGIC).ok_or_else(corrupt)?;
    let version = fields.get_u32();
    if version > VERSION {
        let why = format!("the state file has version {version}, this release reads up to {VERSION}");
        return Err(Error::new(ErrorKind::Unsupported, why).remedy("open it with the release that wrote it"));
    }
    if version == 0 || header[..HEADER_CRC_AT + 4] != encode_header(version)[..HEADER_CRC_AT + 4] {
        return Err(corrupt());
    }
    Ok(version)
}

/// Puts the header of this release before the slots of an older one: that one would not heed all that is stored
/// from here on.
fn raise_version(storage: &dyn Storage, path: &Path) -> Result<()> {
    let header = encode_header(VERSION);
    let mut bytes = read_file(storage, path, FILE_BYTES_MAX)?.unwrap_or_default();
    let before = bytes.get_mut(..header.len()).ok_or_else(|| {
        Error::new(ErrorKind::Io, "the state file was cut or removed while it was looked at").path(path)
    })?;
    before.copy_from_slice(&header);
    replace_file(storage, path, &bytes)
}

/// Reads all slots. One of which no copy is valid is free again: its partition is recovered as if it had none.
fn read_slots(shared: &Arc<Shared>) -> io::Result<Table> {
    const SLOTS_AT_ONCE: u64 = 2048;
    let file_len = shared.file.len()?;
    let mut table = Table::default();
    let mut chunk = Vec::new();
    let mut position = HEADER_LEN;
    while position < file_len {
        let len = (file_len - position).min(SLOTS_AT_ONCE * SLOT_LEN as u64);
        chunk.clear();
        chunk.resize(len as usize, 0);
        shared.file.read_exact_at(&mut chunk, position)?;
        // The last slot may have been written in part.
        chunk.resize(chunk.len().next_multiple_of(SLOT_LEN), 0);
        for slot in chunk.chunks_exact(SLOT_LEN) {
            table.take(shared, slot);
        }
        position += len;
    }
    // The lowest first, so that the file stays short.
    table.free.reverse();
    Ok(table)
}

impl Table {
    /// Takes the next slot in.
    fn take(&mut self, shared: &Arc<Shared>, bytes: &[u8]) {
        let index = self.next;
        self.next += 1;
        let (first, second) = bytes.split_at(COPY_LEN);
        let copies = [decode_copy(first), decode_copy(second)];
        let sequences = copies.map(|copy| copy.map_or(0, |copy| copy.sequence));
        let newest = copies.into_iter().flatten().max_by_key(|copy| copy.sequence);
        match newest.and_then(|copy| copy.content) {
            Some((key, state)) => {
                self.slots.insert(key, Arc::new(StateSlot::new(shared, key, index, Some(state), sequences)));
            }
            None => self.free.push(FreeSlot { index, sequences }),
        }
    }
}

#[derive(Clone, Copy)]
struct DecodedCopy {
    sequence: u64,
    /// `None` in a free slot.
    content: Option<(Key, SlotState)>,
}

/// `state` is `None` to free the slot.
fn encode_copy(key: Key, sequence: u64, state: Option<&SlotState>) -> [u8; COPY_LEN] {
    let mut copy = [0; COPY_LEN];
    let mut out = &mut copy[CHECKED_AT..];
    let flag = |set, flag| if set { flag } else { 0 };
    out.put_u32(state.map_or(0, |s| {
        USED | flag(s.clean, CLEAN)
            | flag(s.weak_acks, WEAK_ACKS)
            | flag(s.poisoned, POISONED)
            | flag(s.truncating, TRUNCATING)
            | flag(s.aborted[0].is_some(), ABORTED[0])
            | flag(s.aborted[1].is_some(), ABORTED[1])
            | flag(s.transactional, TRANSACTIONAL)
            | flag(s.first.is_some(), FIRST)
            | flag(s.unknown, UNKNOWN)
            | flag(s.foreign, FOREIGN)
    }));
    out.put_u64(sequence);
    if let Some(state) = state {
        out.put_slice(key.0.as_bytes());
        out.put_i32(key.1.get());
        out.put_i32(state.leader_epoch.get());
        out.put_slice(&state.boot_id);
        out.put_i64(state.log_start.get());
        out.put_i64(state.log_end.get());
        out.put_i64(state.high_watermark.get());
        out.put_i64(state.last_stable.get());
        out.put_i64(state.frontier.get());
        out.put_i64(state.reserved.get());
        out.put_i64(state.recovery_point.get());
        out.put_i64(state.segment_base.get());
        out.put_u64(state.segment_size);
        out.put_u32(state.tail_crc);
        out.put_i64(state.doubted_below.get());
        out.put_i64(state.noted.get());
        out.put_u32(state.unsynced_max);
        state.aborted.iter().for_each(|crc| out.put_u32(crc.unwrap_or_default()));
        out.put_i64(state.first.unwrap_or_default().get());
    }
    let crc = crate::wire::crc32c(&copy[CHECKED_AT..]);
    copy[..CHECKED_AT].copy_from_slice(&crc.to_be_bytes());
    copy
}

/// `copy` is `COPY_LEN` bytes long; `None` when it is not valid.
fn decode_copy(copy: &[u8]) -> Option<DecodedCopy> {
    let (mut crc, mut body) = copy.split_at(CHECKED_AT);
    if crc.get_u32() != crate::wire::crc32c(body) {
        return None;
    }
    let (flags, sequence) = (body.get_u32(), body.get_u64());
    let mut id = [0; 16];
    body.copy_to_slice(&mut id);
    let key = (Uuid::from_bytes(id), PartitionId::new(body.get_i32()));
    let leader_epoch = LeaderEpoch::new(body.get_i32());
    let mut boot_id = [0; 16];
    body.copy_to_slice(&mut boot_id);
    let state = SlotState {
        clean: flags & CLEAN != 0,
        weak_acks: flags & WEAK_ACKS != 0,
        leader_epoch,
        boot_id,
        log_start: body.get_i64().into(),
        log_end: body.get_i64().into(),
        high_watermark: body.get_i64().into(),
        last_stable: body.get_i64().into(),
        frontier: body.get_i64().into(),
        reserved: body.get_i64().into(),
        recovery_point: body.get_i64().into(),
        segment_base: body.get_i64().into(),
        segment_size: body.get_u64(),
        tail_crc: body.get_u32(),
        doubted_below: body.get_i64().into(),
        poisoned: flags & POISONED != 0,
        noted: body.get_i64().into(),
        unsynced_max: body.get_u32(),
        truncating: flags & TRUNCATING != 0,
        aborted: ABORTED.map(|flag| Some(body.get_u32()).filter(|_| flags & flag != 0)),
        transactional: flags & TRANSACTIONAL != 0,
        first: Some(body.get_i64().into()).filter(|_| flags & FIRST != 0),
        unknown: flags & UNKNOWN != 0,
        foreign: flags & FOREIGN != 0,
    };
    (sequence > 0).then_some(DecodedCopy { sequence, content: (flags & USED != 0).then_some((key, state)) })
}

#[cfg(test)]
mod tests;

//! One segment: a `.log` file of batches and the indexes beside it, all named by its base offset.
//!
//! Owns where a batch lies in the file and how it is found again. Which batches may be seen, when files
//! are synced and when a segment ends are the log's business. Indexes are caches: kept on the heap,
//! written when the segment is sealed or closed, rebuilt from the batches when missing or wrong.

mod buffer;
mod check;
mod flaws;
mod headers;
mod indexes;
mod names;
mod patient;
mod read;
mod room;
mod seal;
mod view;
mod walk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use crate::error::{Error, Result};
use crate::finding::{Finding, FindingKind, Findings};
use crate::index::TransactionIndex;
use crate::record::BatchHeader;
use crate::storage::{File, OpenMode, Storage};
use crate::types::{Offset, ReadMode, Timestamp, TopicPartition, Verify};

pub(crate) use buffer::BufferPool;
pub(crate) use check::AbortedCheck;
use flaws::Successor;
pub(crate) use flaws::{Flaw, FlawKind, Survey};
pub(crate) use indexes::IndexSizes;
use indexes::Indexes;
pub(crate) use names::{FileKind, is_seal};
pub(crate) use patient::{Patient, UNREADABLE};
pub(crate) use read::SegmentRead;
pub(crate) use room::Prepared;
pub(crate) use seal::{Broken, Tally};
#[cfg(any(test, feature = "testing"))]
pub(crate) use seal::{repaired_seal, rewritten_seal};
use view::{View, ViewSlot};
use walk::crc_matches;
pub(crate) use walk::{Found, Frame, WalkEnd, walk};

/// Flaws of one segment that are told one by one.
const FINDINGS_MAX: usize = 64;

/// What the segments of one log share.
#[derive(Clone, Debug)]
pub(crate) struct SegmentHome {
    pub(crate) dir: Arc<Path>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) buffers: BufferPool,
    /// A cleaner may remove records, so that offsets are missing.
    pub(crate) compacted: bool,
    pub(crate) read_mode: ReadMode,
    pub(crate) verify: Verify,
    /// Where what is wrong with a batch or an index is told, and of which partition.
    pub(crate) findings: Arc<Findings>,
    pub(crate) partition: TopicPartition,
}

#[derive(Debug)]
pub(crate) struct Segment {
    base: Offset,
    home: SegmentHome,
    sizes: IndexSizes,
    /// Set when the file exists; opened at first use.
    file: OnceLock<Arc<dyn File>>,
    /// Bytes of whole batches that the operating system holds.
    written: AtomicU64,
    /// Length of the file: more than `written` where there is room.
    file_len: AtomicU64,
    /// Room could not be made, and is not tried again.
    has_no_room: AtomicBool,
    /// Base offset of the next segment; -1 while there is none.
    until: AtomicI64,
    /// Where the log ended when this was its last segment; -1 where nobody knows.
    end: AtomicI64,
    /// When it was last appended to; -1 while its timestamps tell, but for a clock that is wrong.
    ages_from: AtomicI64,
    /// Made when something was found wrong, or by recovery.
    survey: RwLock<Option<Arc<Survey>>>,
    /// Counts truncations: a walk from before one knows nothing of the bytes behind it.
    cuts: AtomicU64,
    /// What is kept for readers once it is sealed.
    view: Arc<ViewSlot>,
    indexes: RwLock<Option<Indexes>>,
    aborted: RwLock<Option<TransactionIndex>>,
    /// The index files are another program's, and were not compared with the batches yet.
    doubted: AtomicBool,
    /// A file beside it is wrong, and could not be replaced.
    wrong_beside: AtomicBool,
    /// There was no space for the index files.
    unwritten: AtomicBool,
    /// A seal lies beside the segment...
    sealed: AtomicBool,
    /// ...with which its length was not compared yet.
    unproven: AtomicBool,
    /// Index files that were written and not synced: through another handle a sync might not be told what was lost.
    unsynced: Mutex<Vec<(FileKind, Arc<dyn File>)>>,
    /// Held while it is sealed, cut or removed; true once it was removed: then no seal of it may come into being.
    removed: Mutex<bool>,
}

impl Segment {
    /// A segment that has no files yet.
    pub(crate) fn new(home: SegmentHome, base: Offset, sizes: IndexSizes) -> Self {
        let indexes = Indexes::empty(base, sizes);
        Self {
            base,
            home,
            sizes,
            file: OnceLock::new(),
            written: AtomicU64::new(0),
            file_len: AtomicU64::new(0),
            has_no_room: AtomicBool::new(false),
            until: AtomicI64::new(-1),
            end: AtomicI64::new(-1),
            ages_from: AtomicI64::new(-1),
            survey: RwLock::new(None),
            cuts: AtomicU64::new(0),
            view: Arc::default(),
            indexes: RwLock::new(Some(indexes)),
            aborted: RwLock::new(Some(TransactionIndex::default())),
            doubted: AtomicBool::new(false),
            wrong_beside: AtomicBool::new(false),
            unwritten: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
            unproven: AtomicBool::new(false),
            unsynced: Mutex::default(),
            removed: Mutex::new(false),
        }
    }

    /// A segment whose `.log` file holds `len` bytes; nothing is opened or read before it is used.
    pub(crate) fn existing(home: SegmentHome, base: Offset, sizes: IndexSizes, len: u64) -> Self {
        Self {
            base,
            home,
            sizes,
            file: OnceLock::new(),
            written: AtomicU64::new(len),
            file_len: AtomicU64::new(len),
            has_no_room: AtomicBool::new(false),
            until: AtomicI64::new(-1),
            end: AtomicI64::new(-1),
            ages_from: AtomicI64::new(-1),
            survey: RwLock::new(None),
            cuts: AtomicU64::new(0),
            view: Arc::default(),
            indexes: RwLock::new(None),
            aborted: RwLock::new(None),
            doubted: AtomicBool::new(false),
            wrong_beside: AtomicBool::new(false),
            unwritten: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
            unproven: AtomicBool::new(false),
            unsynced: Mutex::default(),
            removed: Mutex::new(false),
        }
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    /// Bytes of whole batches that the operating system holds.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Says that the batches up to `position` are in the file.
    pub(crate) fn set_written(&self, position: u64) {
        self.file_len.fetch_max(position, Ordering::AcqRel);
        self.written.store(position, Ordering::Release);
    }

    pub(crate) fn path(&self, kind: FileKind) -> PathBuf {
        kind.path(&self.home.dir, self.base)
    }

    fn io_error(&self, what: &'static str, source: io::Error) -> Error {
        Error::io(what, self.path(FileKind::Log), source)
    }

    /// The `.log` file, opened when it was not.
    pub(crate) fn file(&self) -> Result<&Arc<dyn File>> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let opened = self
            .home
            .storage
            .open(&self.path(FileKind::Log), OpenMode::Write)
            .map_err(|e| self.io_error("cannot open a segment", e))?;
        Ok(self.file.get_or_init(|| opened))
    }

    /// Whether the files were made, or were there.
    pub(crate) fn has_file(&self) -> bool {
        self.written() > 0 || self.file.get().is_some()
    }

    /// Creates the `.log`, or takes the one `prepared`, and two empty index files (a `.log` without an `.index` would
    /// be scanned anew by a stock broker). `true` when it did; the directory is then to be synced.
    pub(crate) fn create_files(&self, prepared: &mut Option<Prepared>) -> Result<bool> {
        if self.file.get().is_some() {
            return Ok(false);
        }
        if self.written() > 0 {
            self.file()?;
            return Ok(false);
        }
        for kind in [FileKind::OffsetIndex, FileKind::TimeIndex] {
            self.write_whole(kind, &[])?;
        }
        let path = self.path(FileKind::Log);
        let made = match prepared.take() {
            Some(prepared) => prepared.take_place(&self.home, &path),
            None => {
                let opened = self.home.storage.open(&path, OpenMode::CreateIfAbsent);
                opened.and_then(|file| file.set_len(0).map(|()| (file, 0)))
            }
        };
        let (file, len) = made.map_err(|e| Error::io("cannot create a segment", path, e))?;
        self.file_len.store(len, Ordering::Release);
        let _ = self.file.set(file);
        Ok(true)
    }

    fn remove(&self, kind: FileKind) -> Result<()> {
        let path = self.path(kind);
        drop(self.take_unsynced(kind));
        match self.home.storage.remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|e| Error::io("cannot remove a file of a segment", path, e)),
        }
    }

    /// The header of the first batch; `None` when it cannot be read.
    pub(crate) fn first_header(&self) -> Option<BatchHeader> {
        let mut header = [0; BatchHeader::LEN];
        self.file().ok()?.read_exact_at(&mut header, 0).ok()?;
        BatchHeader::parse(&header).ok()
    }

    /// Whether a cleaner may have removed records.
    pub(crate) fn is_compacted(&self) -> bool {
        self.home.compacted
    }

    /// The header at `position`, if there is one. Nothing says that it is sound.
    pub(crate) fn header_at(&self, position: u64) -> Result<Option<BatchHeader>> {
        Ok(self.raw_header_at(position)?.and_then(|bytes| BatchHeader::parse(&bytes).ok()))
    }

    /// As many bytes as a header has, from `position` on.
    pub(crate) fn raw_header_at(&self, position: u64) -> Result<Option<[u8; BatchHeader::LEN]>> {
        let mut header = [0; BatchHeader::LEN];
        if self.written().saturating_sub(position) < header.len() as u64 {
            return Ok(None);
        }
        // What the disk does not give is no header.
        let read = Patient::new(&**self.file()?).read_exact_at(&mut header, position);
        read.map_err(|e| self.io_error("cannot read a segment", e))?;
        Ok(Some(header))
    }

    /// The header of the batch at `position`, if its checksum says that one is there.
    pub(crate) fn sound_header_at(&self, position: u64) -> Result<Option<BatchHeader>> {
        let Some(header) = self.header_at(position)? else { return Ok(None) };
        if header.size_bytes() as u64 > self.written() - position {
            return Ok(None);
        }
        let matches = crc_matches(&Patient::new(&**self.file()?), position, &header);
        Ok(matches.map_err(|e| self.io_error("cannot read a segment", e))?.then_some(header))
    }

    /// Base offset of the next segment, where there is one.
    pub(crate) fn until(&self) -> Option<Offset> {
        Some(Offset::new(self.until.load(Ordering::Acquire))).filter(|until| until.get() >= 0)
    }

    /// Says which segment follows.
    pub(crate) fn set_until(&self, until: Option<Offset>) {
        self.until.store(until.map_or(-1, Offset::get), Ordering::Release);
    }

    /// Takes over what another handle on the same file knows of its surroundings.
    fn surround_like(&self, other: &Self) {
        self.until.store(other.until.load(Ordering::Acquire), Ordering::Release);
        self.end.store(other.end.load(Ordering::Acquire), Ordering::Release);
    }

    /// Says where the log ends whose last segment this is.
    pub(crate) fn set_end(&self, end: Offset) {
        self.end.store(end.get(), Ordering::Release);
    }

    /// Where the log ends whose last segment this is, where somebody knows.
    fn end(&self) -> Option<Offset> {
        Some(Offset::new(self.end.load(Ordering::Acquire))).filter(|end| end.get() >= 0)
    }

    /// What follows the last batch.
    fn successor(&self) -> Successor {
        let end = || Successor::End(self.end().map(Offset::get));
        self.until().map_or_else(end, |until| Successor::Segment(until.get()))
    }

    /// Says when the last record came, because its timestamp does not.
    pub(crate) fn age_from(&self, time: Timestamp) {
        self.ages_from.store(time.get(), Ordering::Release);
    }

    /// When the last record came, where timestamps do not tell.
    pub(crate) fn ages_from(&self) -> Option<Timestamp> {
        Some(Timestamp::new(self.ages_from.load(Ordering::Acquire))).filter(|time| time.get() >= 0)
    }

    /// Walks the whole segment; see [`walk`].
    pub(crate) fn walk(&self, each: impl FnMut(Found<'_>) -> bool) -> Result<WalkEnd> {
        self.walk_from((0, self.base), None, each)
    }

    /// The same from the batch at a position, with this offset, in a log's last segment up to zeros that are no batch
    /// where it may end with some: see [`Self::find_room`].
    pub(crate) fn walk_from(
        &self,
        from: (u64, Offset),
        zeros_from: Option<u64>,
        each: impl FnMut(Found<'_>) -> bool,
    ) -> Result<WalkEnd> {
        let (until, end) = (self.until(), self.end());
        let frame = Frame { base: self.base, until, end, zeros_from, compacted: self.home.compacted };
        walk(&**self.file()?, from.0, self.written(), from.1, frame, &self.home.buffers, each)
            .map_err(|e| self.io_error("cannot read a segment", e))
    }

    /// What a walk over the whole segment found out, if there was one.
    pub(crate) fn known(&self) -> Option<Arc<Survey>> {
        self.survey.read().clone()
    }

    /// Walks the whole segment because something in it contradicts something else: notes and tells what is wrong,
    /// and replaces indexes that came from files by those that the batches give.
    pub(crate) fn survey(&self) -> Result<Arc<Survey>> {
        let cuts = self.cuts.load(Ordering::Acquire);
        let (rebuilt, survey) = self.looked_over()?;
        let mut held = self.indexes.write();
        if !held.as_ref().is_some_and(|held| held.from_batches) {
            let mut indexes = rebuilt.indexes.into_inner();
            if let (Some(indexes), Some(held)) = (&mut indexes, held.as_ref()) {
                indexes.go_on_with(held, survey.len, survey.end)?;
            }
            *held = indexes;
        }
        drop(held);
        Ok(self.learn_unless_cut(survey, cuts))
    }

    /// What a walk over the whole segment finds, and another handle on the same file with the indexes that it gives.
    fn looked_over(&self) -> Result<(Self, Survey)> {
        let rebuilt = Self::existing(self.home.clone(), self.base, self.sizes, self.written());
        rebuilt.surround_like(self);
        rebuilt.reset_indexes()?;
        let mut survey = Survey::new(self.base, rebuilt.written());
        let mut failed = None;
        rebuilt.walk(|found| {
            survey.note(&found);
            if let Found::Batch(position, header, _) = found {
                failed = rebuilt.index_batch(position, header).err();
            }
            failed.is_none()
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.contradict(&mut survey, rebuilt.kept_tally())?;
        Ok((rebuilt, survey))
    }

    /// Whether a walk would find other batches than those that are known, because the bytes or the segment behind a
    /// place that contradicts its neighbours are others by now.
    pub(crate) fn reads_otherwise(&self) -> Result<bool> {
        let known = self.known().filter(|known| !known.flaws().is_empty() || known.cleaned);
        let Some(known) = known else { return Ok(false) };
        Ok(!self.looked_over()?.1.serves_like(&known))
    }

    /// Takes in what a walk over the whole segment found out, and tells of the flaws.
    pub(crate) fn learn(&self, survey: Survey) -> Arc<Survey> {
        self.learn_unless_cut(survey, self.cuts.load(Ordering::Acquire))
    }

    fn learn_unless_cut(&self, survey: Survey, cuts: u64) -> Arc<Survey> {
        let tell = |flaw: &Flaw, words: String| {
            let kind = match flaw.kind {
                FlawKind::Corrected(_) => FindingKind::Corrected,
                FlawKind::Damaged(_) | FlawKind::Legacy(_) => FindingKind::Damaged,
            };
            let offsets = flaw.from..flaw.to.or(self.until()).unwrap_or(flaw.from);
            let finding = Finding::new(kind, words).partition(self.home.partition.clone()).offsets(offsets);
            self.home.findings.add(finding.path(self.path(FileKind::Log)));
        };
        for flaw in survey.flaws().iter().take(FINDINGS_MAX) {
            tell(flaw, flaw.kind.to_string());
        }
        if let [first, .., last] = survey.flaws().get(FINDINGS_MAX..).unwrap_or_default() {
            let all = Flaw { to: last.to, ..first.clone() };
            tell(&all, "more flaws than are told one by one".to_owned());
        }
        let survey = Arc::new(survey);
        let mut known = self.survey.write();
        if self.cuts.load(Ordering::Acquire) == cuts {
            *known = Some(Arc::clone(&survey));
        }
        drop(known);
        survey
    }

    /// What is kept for readers of this segment, which is sealed and synced; `None` where nothing is to be kept.
    fn view(&self) -> Result<Option<Arc<View>>> {
        let is_mapped = match (self.home.read_mode, self.home.verify) {
            (ReadMode::Copied, Verify::EveryRead) => return Ok(None),
            (mode, _) => mode == ReadMode::Mapped,
        };
        let len = self.written();
        let view = self.view.view(&self.home.buffers.views, self.home.verify, len, || {
            let map = if is_mapped { Some(self.file()?.map(len)) } else { None };
            map.transpose().map_err(|e| self.io_error("cannot map a segment", e))
        });
        view.map(Some)
    }

    /// Whether a reader still holds bytes of a map of the file.
    pub(crate) fn is_held(&self) -> bool {
        self.view.take().is_held()
    }

    /// Cuts the segment to `position`, whose next batch would get offset `end`. The answer is the segment that goes
    /// on: another one, over a copy of what stays, where readers may hold bytes of a map, be it one of an earlier
    /// opening. Cutting the file under the map would kill the process.
    pub(crate) fn truncate(self: &Arc<Self>, position: u64, end: Offset) -> Result<Arc<Self>> {
        self.load_aborted()?;
        let sealing = self.removed.lock();
        self.set_until(None);
        self.remove(FileKind::Seal)?;
        self.sealed.store(false, Ordering::Release);
        self.unproven.store(false, Ordering::Release);
        drop(sealing);
        let taken = self.view.take();
        let may_be_held = self.home.read_mode == ReadMode::Mapped && position < self.written();
        let kept = if may_be_held || taken.is_held() {
            self.copied(position)?
        } else {
            self.cut_file(position).map_err(|e| self.io_error("cannot truncate a segment", e))?;
            Arc::clone(self)
        };
        drop(taken);
        kept.set_until(None);
        kept.end.store(-1, Ordering::Release);
        let mut known = kept.survey.write();
        kept.cuts.fetch_add(1, Ordering::AcqRel);
        *known = None;
        drop(known);
        *kept.indexes.write() = Some(kept.rebuild_indexes()?);
        if let Some(aborted) = kept.aborted.write().as_mut() {
            aborted.truncate(end);
        }
        kept.write_indexes()?;
        Ok(kept)
    }

    /// A segment whose file is a copy of the first `len` bytes of this one's, whose name it takes. This one must
    /// not be used any more but by those who read it.
    fn copied(&self, len: u64) -> Result<Arc<Self>> {
        const PIECE_BYTES: u64 = 1 << 20;
        let path = self.path(FileKind::Log);
        // By this ending an opening after a crash, and a stock broker's, knows a file that is not complete.
        let unfinished = FileKind::Log.path(&self.home.dir, self.base).with_extension("log.cleaned");
        let storage = &self.home.storage;
        let copy = || -> io::Result<()> {
            let to = storage.open(&unfinished, OpenMode::CreateIfAbsent)?;
            to.set_len(0)?;
            let mut buffer = self.home.buffers.take(PIECE_BYTES.min(len) as usize);
            let mut at = 0;
            while at < len {
                let piece = buffer.as_mut(PIECE_BYTES.min(len - at) as usize);
                self.file().map_err(io::Error::other)?.read_exact_at(piece, at)?;
                to.write_all_at(piece, at)?;
                at += piece.len() as u64;
            }
            to.sync_data()?;
            storage.rename(&unfinished, &path)
        };
        copy().map_err(|e| self.io_error("cannot copy a segment that is to be truncated", e))?;
        self.set_until(None);
        *self.removed.lock() = true;
        let copied = Self::existing(self.home.clone(), self.base, self.sizes, len);
        copied.doubted.store(self.is_doubted(), Ordering::Release);
        copied.aborted.write().clone_from(&self.aborted.read());
        Ok(Arc::new(copied))
    }

    /// Removes all files of the segment.
    pub(crate) fn remove_files(&self) -> Result<()> {
        let mut removed = self.removed.lock();
        *removed = true;
        FileKind::ALL.into_iter().try_for_each(|kind| self.remove(kind))
    }
}

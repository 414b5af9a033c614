//! The indexes of one segment: filled as batches come, written when it is sealed or closed, read back or
//! rebuilt from the batches when they are needed and not on the heap.
//!
//! Files that another program wrote are doubted: nobody knows what happened to them. At first use the segment's
//! headers are walked, once: what they say is served, and files that say otherwise are replaced.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{MappedRwLockReadGuard, RwLockReadGuard};

use super::check::{AbortedCheck, Fault, OffsetCheck, TimeCheck, is_unfinished};
use super::headers::headers;
use super::{FileKind, Found, Patient, Segment, Tally};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind};
use crate::index::{AbortedTxn, IndexWriter, IndexedBatch, OffsetIndex, TimeIndex, TransactionIndex};
use crate::mutants::{Mutant, is_on};
use crate::record::BatchHeader;
use crate::storage::{File, OpenMode, place_file};
use crate::types::{Offset, Timestamp};

/// Sizes that decide how dense the indexes are and when they are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexSizes {
    /// `index.interval.bytes`.
    pub(crate) interval: u32,
    /// `segment.index.bytes`.
    pub(crate) max: u32,
}

/// The searchable side of a segment.
#[derive(Debug)]
pub(crate) struct Indexes {
    pub(crate) offset: OffsetIndex,
    pub(crate) time: TimeIndex,
    density: IndexWriter,
    /// Of all batches so far; `None` where some were never looked at, or one does not follow another.
    pub(super) tally: Option<Tally>,
    /// Made from the batches: what they do not give is not there.
    pub(super) from_batches: bool,
    /// So many entries of either are in the files, as they are here.
    filed: [usize; 2],
    /// The files, as long as they are compared with the batches.
    check: Option<Box<(OffsetCheck, TimeCheck)>>,
}

impl Indexes {
    pub(super) fn empty(base: Offset, sizes: IndexSizes) -> Self {
        Self {
            offset: OffsetIndex::new(base, sizes.max),
            time: TimeIndex::new(base, sizes.max),
            density: IndexWriter::new(base, sizes.interval),
            tally: Some(Tally::new(base)),
            from_batches: true,
            filed: [0; 2],
            check: None,
        }
    }

    /// Adds the next batch.
    fn note(&mut self, position: u64, header: &BatchHeader) -> Result<()> {
        let narrow = u32::try_from(position).map_err(|_| Error::new(ErrorKind::TooLarge, "a segment passed 4 GiB"))?;
        if let Some((offset, time)) = self.check.as_deref_mut() {
            offset.on_batch(position, header)?;
            time.on_batch(header)?;
        }
        let batch = IndexedBatch {
            last_offset: header.last_offset(),
            position: narrow,
            size: u32::try_from(header.size_bytes()).unwrap_or(u32::MAX),
            max_timestamp: header.max_timestamp(),
        };
        self.tally = self.tally.and_then(|tally| tally.with(position, header));
        self.density.on_batch(&mut self.offset, &mut self.time, &batch)
    }

    /// Takes over what `held` knows of batches at `position` or behind, the first of which begins at `end` or behind:
    /// they were appended meanwhile.
    pub(super) fn go_on_with(&mut self, held: &Self, position: u64, end: Offset) -> Result<()> {
        for (last_offset, position) in held.offset.behind(position) {
            if !self.offset.is_full() {
                self.offset.push(last_offset, position)?;
            }
        }
        for (timestamp, offset) in held.time.behind(end) {
            self.time.maybe_push(timestamp, offset, false)?;
        }
        if held.density.largest().1 >= end {
            self.density.raise_largest(held.density.largest());
        }
        Ok(())
    }

    /// What was wrong with the files of a segment that ends before `end`.
    fn faults(&mut self, end: Offset) -> [(FileKind, Option<Fault>); 2] {
        let due = self.offset.len();
        let (offset, time) = match self.check.take().as_deref() {
            Some((offset, time)) => (offset.finish(end, due), time.finish()),
            None => (None, None),
        };
        [(FileKind::OffsetIndex, offset), (FileKind::TimeIndex, time)]
    }

    /// The bytes of the entries with these numbers.
    fn encode(&self, kind: FileKind, numbers: Range<usize>) -> Vec<u8> {
        match kind {
            FileKind::TimeIndex => self.time.encode(numbers),
            _ => self.offset.encode(numbers),
        }
    }

    /// The largest timestamp in the segment; -1 when no record has one.
    pub(crate) fn largest_timestamp(&self) -> Timestamp {
        self.density.largest().0.max(self.time.last().0)
    }
}

impl Segment {
    pub(super) fn write_whole(&self, kind: FileKind, bytes: &[u8]) -> Result<()> {
        self.write_behind(kind, 0, |_| bytes.to_vec())
    }

    /// Writes the bytes of an index file behind its first `keep`, which are right, and ends it there. `encode` gives
    /// the bytes from a position on; it is asked for all where the file is shorter than it should be.
    fn write_behind(&self, kind: FileKind, keep: usize, encode: impl Fn(usize) -> Vec<u8>) -> Result<()> {
        let path = self.path(kind);
        let write = || -> io::Result<Option<Arc<dyn File>>> {
            let file = self.home.storage.open(&path, OpenMode::CreateIfAbsent)?;
            let len = file.len()?;
            let from = if keep as u64 <= len { keep } else { 0 };
            let bytes = encode(from);
            file.write_all_at(&bytes, from as u64)?;
            let end = (from + bytes.len()) as u64;
            if len > end {
                file.set_len(end)?;
            }
            Ok(Some(file).filter(|_| len > end || !bytes.is_empty()))
        };
        if let Some(file) = write().map_err(|e| Error::io("cannot write an index", &path, e))? {
            drop(self.take_unsynced(kind));
            self.unsynced.lock().push((kind, file));
        }
        Ok(())
    }

    /// The handle through which an index file was written that was not synced since.
    pub(super) fn take_unsynced(&self, kind: FileKind) -> Option<Arc<dyn File>> {
        let mut unsynced = self.unsynced.lock();
        let at = unsynced.iter().position(|(of, _)| *of == kind)?;
        Some(unsynced.swap_remove(at).1)
    }

    /// Lets go of those handles.
    pub(crate) fn forget_unsynced(&self) {
        self.unsynced.lock().clear();
    }

    /// An index file; `None` when there is none, or one with more entries than the segment can have batches.
    fn read_whole(&self, kind: FileKind) -> Result<Option<Vec<u8>>> {
        let batches_max = self.written() / BatchHeader::LEN as u64 + 1;
        let bytes_max = batches_max * Self::entry_bytes(kind) as u64;
        match crate::storage::read_file(&*self.home.storage, &self.path(kind), bytes_max) {
            Err(e) if e.kind() == ErrorKind::TooLarge => Ok(None),
            Ok(None) if is_on(Mutant::MissingIndexIsCorrupt) => Err(Error::new(ErrorKind::Corrupt, "no index")),
            read => read,
        }
    }

    /// Ends the segment's life as the active one, or its use: completes the time index with the largest
    /// timestamp and writes the index files at their real size. Nothing is synced.
    pub(crate) fn write_indexes(&self) -> Result<()> {
        self.write_entries(|indexes| {
            indexes.density.finish(&mut indexes.time)?;
            Ok([indexes.offset.len(), indexes.time.len()])
        })?;
        // A segment without aborted transactions has no such file, or no more.
        match self.aborted.read().as_ref() {
            Some(aborted) if aborted.is_empty() => self.remove(FileKind::TxnIndex),
            Some(aborted) => self.write_whole(FileKind::TxnIndex, &aborted.encode()),
            None => Ok(()),
        }
    }

    /// Brings the index files up to the batches below `end`, while others may be appended. Nothing is synced.
    pub(crate) fn write_indexes_below(&self, end: Offset) -> Result<()> {
        self.write_entries(|indexes| Ok([indexes.offset.count_below(end), indexes.time.count_below(end)]))?;
        let below = self.aborted.read().as_ref().map(|aborted| {
            let mut below = aborted.clone();
            below.truncate(end);
            below
        });
        match below {
            Some(aborted) if !aborted.is_empty() => self.write_whole(FileKind::TxnIndex, &aborted.encode()),
            _ => Ok(()),
        }
    }

    /// Writes so many entries of either index, those that are not in the files yet.
    fn write_entries(&self, counts: impl FnOnce(&mut Indexes) -> Result<[usize; 2]>) -> Result<()> {
        let mut guard = self.indexes.write();
        let Some(indexes) = guard.as_mut() else { return Ok(()) };
        let counts = counts(indexes)?;
        let (filed, was_built) = (indexes.filed, indexes.from_batches);
        drop(guard);
        for (number, kind) in [FileKind::OffsetIndex, FileKind::TimeIndex].into_iter().enumerate() {
            let entry = Self::entry_bytes(kind);
            self.write_behind(kind, filed[number] * entry, |from| {
                let guard = self.indexes.read();
                guard.as_ref().map(|held| held.encode(kind, from / entry..counts[number])).unwrap_or_default()
            })?;
        }
        // Indexes that a survey put in the place of those that came from files have nothing there yet.
        if let Some(held) = self.indexes.write().as_mut().filter(|held| held.from_batches == was_built) {
            held.filed = counts;
        }
        Ok(())
    }

    fn entry_bytes(kind: FileKind) -> usize {
        match kind {
            FileKind::OffsetIndex => 8,
            FileKind::TimeIndex => 12,
            _ => 34,
        }
    }

    /// Takes up the index files of a segment as far as they speak of batches below `limit`, so that a scan need not
    /// begin at its front. Answers position and offset of a batch where it may begin; what comes before is indexed.
    /// `None` where the files do not prove themselves, or are not those whose aborted transactions have this checksum.
    pub(crate) fn resume_indexes(&self, limit: Offset, aborted_crc: Option<u32>) -> Result<Option<(u64, Offset)>> {
        let files = (self.read_whole(FileKind::OffsetIndex)?, self.read_whole(FileKind::TimeIndex)?);
        let (Some(offsets), Some(times), false) = (files.0, files.1, self.is_doubted()) else { return Ok(None) };
        let (mut offset, _) = OffsetIndex::decode_front(self.base, self.sizes.max, &offsets, self.written());
        let (mut time, cut) = TimeIndex::decode_front(self.base, self.sizes.max, &times);
        // An entry may be of the last batch below the limit, or of one before; where entries of the time index may be
        // missing, of none behind.
        offset.truncate(cut.map_or(limit, |_| limit.min(time.last().1.next())));
        let (last, position) = offset.last();
        let from = match position {
            0 => (0, self.base),
            _ => match self.sound_header_at(u64::from(position))?.filter(|header| header.last_offset() == last) {
                Some(header) => (u64::from(position), header.base_offset()),
                None => return Ok(None),
            },
        };
        // The entries of a batch are due with it, and come again when it is scanned. Its offset entry does not.
        time.truncate(if position == 0 { self.base } else { last.next() });
        let bytes = self.read_whole(FileKind::TxnIndex)?.unwrap_or_default();
        let Ok(mut aborted) = TransactionIndex::decode(self.base, &bytes) else { return Ok(None) };
        aborted.truncate(limit);
        if aborted_crc.is_some_and(|crc| crc != aborted.checksum_below(limit)) {
            return Ok(None);
        }
        let filed = [offset.len(), time.len()];
        let density = IndexWriter::resume(&time, self.sizes.interval);
        let tally = None;
        *self.indexes.write() = Some(Indexes { offset, time, density, tally, from_batches: false, filed, check: None });
        *self.aborted.write() = Some(aborted);
        Ok(Some(from))
    }

    /// Writes the index files where there is space for them; otherwise they are on the heap alone, until they are
    /// synced.
    pub(crate) fn write_indexes_later(&self) -> Result<()> {
        match self.write_indexes() {
            Err(e) if e.is_of_shortage() => {
                self.unwritten.store(true, Ordering::Release);
                Ok(())
            }
            written => written,
        }
    }

    /// Syncs the index files, before a recovery point rises above them.
    pub(crate) fn sync_indexes(&self) -> Result<()> {
        if self.unwritten.load(Ordering::Acquire) {
            self.write_indexes()?;
            self.unwritten.store(false, Ordering::Release);
        }
        for kind in [FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TxnIndex] {
            let path = self.path(kind);
            let file = match self.take_unsynced(kind).map_or_else(|| self.home.storage.open(&path, OpenMode::Write), Ok)
            {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(|e| Error::io("cannot open an index", &path, e))?,
            };
            file.sync_data().map_err(|e| Error::unsynced(path, e))?;
        }
        Ok(())
    }

    /// Notes a batch that was given its place in this segment.
    pub(crate) fn index_batch(&self, position: u64, header: &BatchHeader) -> Result<()> {
        let mut guard = self.indexes.write();
        let indexes = guard.get_or_insert_with(|| Indexes::empty(self.base, self.sizes));
        indexes.note(position, header).map_err(|e| e.path(self.path(FileKind::Log)))
    }

    /// How dense the indexes are so far; `None` while they are not on the heap.
    pub(crate) fn density(&self) -> Option<IndexWriter> {
        self.indexes.read().as_ref().map(|indexes| indexes.density.clone())
    }

    /// Forgets the batches from `end` on: they were noted and never written.
    /// `density` is what it was before them.
    pub(crate) fn cut_indexes(&self, end: Offset, density: Option<IndexWriter>) {
        if let Some(indexes) = self.indexes.write().as_mut() {
            indexes.offset.truncate(end);
            indexes.time.truncate(end);
            indexes.filed = [indexes.filed[0].min(indexes.offset.len()), indexes.filed[1].min(indexes.time.len())];
            indexes.density = density.unwrap_or_else(|| IndexWriter::new(self.base, self.sizes.interval));
        }
        if let Some(aborted) = self.aborted.write().as_mut() {
            aborted.truncate(end);
        }
    }

    /// Notes a transaction whose abort marker lies in this segment. Fails only for want of
    /// [`load_aborted`](Self::load_aborted).
    pub(crate) fn index_aborted(&self, aborted: AbortedTxn) -> Result<()> {
        self.load_aborted()?;
        self.aborted.write().get_or_insert_default().push(aborted)
    }

    /// Reads the transaction index from its file when it is not on the heap.
    pub(crate) fn load_aborted(&self) -> Result<()> {
        if self.aborted.read().is_some() {
            return Ok(());
        }
        let bytes = self.read_whole(FileKind::TxnIndex)?.unwrap_or_default();
        let loaded = match self.breaks_seal(&bytes)? {
            true => {
                Err(Error::new(ErrorKind::Corrupt, "transaction index: it is not what the segment was sealed with"))
            }
            false => TransactionIndex::decode(self.base, &bytes),
        };
        let loaded = loaded.map_err(|e| {
            e.path(self.path(FileKind::TxnIndex))
                .remedy("without it aborted records cannot be told apart: read uncommitted, or recover the log")
        })?;
        self.aborted.write().get_or_insert(loaded);
        Ok(())
    }

    /// What tells that the aborted transactions below `end` are those that are known now.
    pub(crate) fn aborted_checksum(&self, end: Offset) -> Option<u32> {
        self.aborted.read().as_ref().map(|aborted| aborted.checksum_below(end))
    }

    /// Replaces the indexes by empty ones, before a scan fills them. Files that are doubted are compared meanwhile.
    pub(crate) fn reset_indexes(&self) -> Result<()> {
        let mut indexes = Indexes::empty(self.base, self.sizes);
        if self.is_doubted() {
            indexes.check = Some(self.open_check()?);
        }
        *self.indexes.write() = Some(indexes);
        *self.aborted.write() = Some(TransactionIndex::default());
        Ok(())
    }

    /// Ends a scan of batches below `end`, after which the index files are written anew. What was wrong with those
    /// that were there is told where they `should` have been right.
    pub(crate) fn trust_scanned(&self, end: Offset, should: bool) -> Result<()> {
        let faults = self.indexes.write().as_mut().map(|indexes| indexes.faults(end));
        if self.doubted.swap(false, Ordering::AcqRel) && should {
            for (kind, fault) in faults.into_iter().flatten() {
                if let Some(fault) = fault.filter(|fault| !is_unfinished(fault)) {
                    self.tell(kind, fault, None);
                }
            }
            let bytes = self.read_whole(FileKind::TxnIndex)?.unwrap_or_default();
            if self.aborted.read().as_ref().is_some_and(|aborted| aborted.encode() != bytes) {
                self.tell(FileKind::TxnIndex, "it does not name the transactions that were aborted", None);
            }
        }
        Ok(())
    }

    fn tell(&self, kind: FileKind, fault: Fault, failed: Option<Error>) {
        let mut message = format!("{fault}; it was rebuilt from the log");
        if let Some(error) = failed {
            message.push_str(&format!(", and is right in memory alone: {error}"));
        }
        let partition = self.home.partition.clone();
        let finding = Finding::new(FindingKind::Rebuilt, message).partition(partition).path(self.path(kind));
        self.home.findings.add(finding);
    }

    /// Puts a file right, lest a stock broker trip on it, and tells of it. It is there to stay once the directory is synced.
    fn replace(&self, kind: FileKind, bytes: &[u8], fault: Fault) {
        let placed = match (kind, bytes) {
            (FileKind::TxnIndex, []) => self.remove(kind),
            _ => place_file(&*self.home.storage, &self.path(kind), bytes),
        };
        self.wrong_beside.fetch_or(placed.is_err(), Ordering::AcqRel);
        self.tell(kind, fault, placed.err());
    }

    /// Whether a wrong file stands beside the segment that could not be replaced.
    pub(crate) fn has_wrong_beside(&self) -> bool {
        self.wrong_beside.load(Ordering::Acquire)
    }

    fn open_check(&self) -> Result<Box<(OffsetCheck, TimeCheck)>> {
        let (storage, base) = (&*self.home.storage, self.base);
        let offset = OffsetCheck::open(storage, self.path(FileKind::OffsetIndex), base)?;
        Ok(Box::new((offset, TimeCheck::open(storage, self.path(FileKind::TimeIndex), base)?)))
    }

    /// The transaction index as another program left it.
    pub(crate) fn open_aborted_check(&self) -> Result<AbortedCheck> {
        AbortedCheck::open(&*self.home.storage, self.path(FileKind::TxnIndex))
    }

    /// Gives `each` the headers of all batches, of control batches all bytes; answers whether every batch is sound, as
    /// far as its header tells. On the way, indexes that are doubted are built and their files compared.
    pub(crate) fn audit(&self, each: impl FnMut(&BatchHeader, &[u8]) -> Result<()>) -> Result<bool> {
        let mut guard = self.indexes.write();
        if self.is_doubted() && guard.is_none() {
            let (indexes, is_sound) = self.build_doubted(each)?;
            *guard = Some(indexes);
            return Ok(is_sound);
        }
        drop(guard);
        self.headers(|_, _| Ok(()), each)
    }

    /// As `audit`, with the positions for `index`.
    fn headers(
        &self,
        mut index: impl FnMut(u64, &BatchHeader) -> Result<()>,
        mut each: impl FnMut(&BatchHeader, &[u8]) -> Result<()>,
    ) -> Result<bool> {
        let (file, len, mut failed) = (Patient::new(&**self.file()?), self.written(), None);
        let mut visit = |position, header: &BatchHeader, bytes: &[u8]| {
            failed = index(position, header).and_then(|()| each(header, bytes)).err();
            failed.is_none()
        };
        // A damaged header may lead astray before it shows: then every batch is proved by its checksum instead.
        let base = (self.base, self.home.compacted);
        let is_sound = headers(&file, len, base, &self.home.buffers, |_, _, _| true);
        let is_sound = is_sound.map_err(|e| self.io_error("cannot read a segment", e))?;
        if is_sound {
            headers(&file, len, base, &self.home.buffers, visit)
                .map_err(|e| self.io_error("cannot read a segment", e))?;
        } else {
            self.walk(|found| match found {
                Found::Batch(position, header, bytes) => visit(position, header, bytes),
                Found::Flaw(_) => true,
            })?;
        }
        failed.map_or(Ok(is_sound), Err)
    }

    fn build_doubted(&self, mut each: impl FnMut(&BatchHeader, &[u8]) -> Result<()>) -> Result<(Indexes, bool)> {
        let mut indexes = Indexes::empty(self.base, self.sizes);
        indexes.check = Some(self.open_check()?);
        let (mut end, mut transactional) = (self.base, false);
        let whole = self.headers(
            |position, header| indexes.note(position, header),
            |header, bytes| {
                end = header.next_offset();
                transactional |= header.is_transactional();
                each(header, bytes)
            },
        )?;
        indexes.density.finish(&mut indexes.time)?;
        let faults = indexes.faults(end);
        if !whole {
            return Ok((indexes, false));
        }
        let mut are_right = true;
        for (kind, fault) in faults {
            if let Some(fault) = fault {
                are_right = false;
                self.replace(kind, &indexes.encode(kind, 0..usize::MAX), fault);
            }
        }
        if !transactional {
            match self.open_aborted_check()?.finish(end, false)?.or(self.sealed_fault()?) {
                Some(fault) => self.replace(FileKind::TxnIndex, &[], fault),
                // What was replaced may be as it was after a loss of power: an audit syncs it, or the next opening finds it right.
                None if are_right => drop(self.adopt_aborted(TransactionIndex::default(), end)),
                None => {}
            }
        }
        Ok((indexes, true))
    }

    /// Takes over what the batches below `end` say of aborted transactions; answers what was wrong with what was
    /// known before.
    pub(crate) fn adopt_aborted(&self, mut told: TransactionIndex, end: Offset) -> Option<Fault> {
        let mut guard = self.aborted.write();
        let mut fault = None;
        if let Some(held) = guard.as_ref() {
            fault = held.lacks_of(&told).then_some("an aborted transaction is missing");
            told.extend_from(held, end);
        }
        *guard = Some(told);
        self.doubted.store(false, Ordering::Release);
        fault
    }

    /// Replaces the transaction index file by what is known now.
    pub(crate) fn replace_aborted(&self, fault: Fault) {
        let bytes = self.aborted.read().as_ref().map(TransactionIndex::encode).unwrap_or_default();
        self.replace(FileKind::TxnIndex, &bytes, fault);
        if let Err(e) = self.seal_anew(&bytes) {
            self.tell(FileKind::Seal, "it is of another transaction index", Some(e));
        }
    }

    /// What its seal has against the transaction index file of a segment that is doubted.
    pub(crate) fn sealed_fault(&self) -> Result<Option<Fault>> {
        if !self.is_doubted() {
            return Ok(None);
        }
        let bytes = self.read_whole(FileKind::TxnIndex)?.unwrap_or_default();
        Ok(self.breaks_seal(&bytes)?.then_some("it is not what the segment was sealed with"))
    }

    /// Whether its index files are another program's, and were not compared with its batches yet.
    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    pub(crate) fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
    }

    /// Adds the aborted transactions of this segment that concern a read of `from..to`; `false` when no later
    /// segment can hold another.
    pub(crate) fn aborted_between(&self, from: Offset, to: Offset, found: &mut Vec<AbortedTxn>) -> Result<bool> {
        self.load_aborted()?;
        let guard = self.aborted.read();
        Ok(guard.as_ref().is_none_or(|aborted| aborted.aborted_between(from, to, found).is_continue()))
    }

    /// The indexes, read from their files or rebuilt from the batches when they are not on the heap.
    pub(crate) fn indexes(&self) -> Result<MappedRwLockReadGuard<'_, Indexes>> {
        loop {
            if let Ok(guard) = RwLockReadGuard::try_map(self.indexes.read(), Option::as_ref) {
                return Ok(guard);
            }
            let mut guard = self.indexes.write();
            if guard.is_none() {
                *guard = Some(self.load_indexes()?);
            }
        }
    }

    fn load_indexes(&self) -> Result<Indexes> {
        if self.is_doubted() {
            return Ok(self.build_doubted(|_, _| Ok(()))?.0);
        }
        let (kind, fault) = match self.indexes_from_files()? {
            Ok(indexes) => return Ok(indexes),
            Err(fault) => fault,
        };
        let mut indexes = self.rebuild_indexes()?;
        indexes.density.finish(&mut indexes.time)?;
        for file in [FileKind::OffsetIndex, FileKind::TimeIndex] {
            let bytes = indexes.encode(file, 0..usize::MAX);
            // Of records without timestamps nothing is known, which is no fault of the file.
            if self.read_whole(file)?.as_ref() == Some(&bytes) {
                continue;
            }
            match file == kind {
                true => self.replace(file, &bytes, fault),
                // It may be right but for what the log has lost, and is nothing to tell of; the next opening must not go by it.
                false => drop(place_file(&*self.home.storage, &self.path(file), &bytes)),
            }
        }
        Ok(indexes)
    }

    /// The indexes as we wrote them, or which file is wrong.
    fn indexes_from_files(&self) -> Result<std::result::Result<Indexes, (FileKind, Fault)>> {
        const UNREADABLE: Fault = "it is missing or nonsense";
        let written = self.written();
        let bytes = self.read_whole(FileKind::OffsetIndex)?;
        let decoded = bytes.and_then(|bytes| OffsetIndex::decode(self.base, self.sizes.max, &bytes, written).ok());
        let Some(offset) = decoded else { return Ok(Err((FileKind::OffsetIndex, UNREADABLE))) };
        if !self.names_a_batch(offset.last())? {
            return Ok(Err((FileKind::OffsetIndex, "an entry names no batch")));
        }
        let bytes = self.read_whole(FileKind::TimeIndex)?;
        let decoded = bytes.and_then(|bytes| TimeIndex::decode(self.base, self.sizes.max, &bytes).ok());
        // An empty time index says nothing of a segment that holds batches.
        match decoded.filter(|time| written == 0 || time.last().0 != Timestamp::NONE) {
            None => Ok(Err((FileKind::TimeIndex, UNREADABLE))),
            Some(time) => {
                let density = IndexWriter::resume(&time, self.sizes.interval);
                let filed = [offset.len(), time.len()];
                let tally = Some(Tally::new(self.base)).filter(|_| written == 0);
                Ok(Ok(Indexes { offset, time, density, tally, from_batches: false, filed, check: None }))
            }
        }
    }

    /// Whether an index entry is right; a stale or foreign index gives itself away by its last one.
    fn names_a_batch(&self, (last_offset, position): (Offset, u32)) -> Result<bool> {
        if position == 0 {
            return Ok(true);
        }
        let mut header = [0; BatchHeader::LEN];
        match Patient::new(&**self.file()?).read_exact_at(&mut header, u64::from(position)) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read.map_err(|e| self.io_error("cannot read a segment", e))?,
        }
        Ok(BatchHeader::parse(&header).is_ok_and(|header| header.last_offset() == last_offset))
    }

    pub(super) fn rebuild_indexes(&self) -> Result<Indexes> {
        let mut indexes = Indexes::empty(self.base, self.sizes);
        let mut failed = None;
        self.walk(|found| {
            if let Found::Batch(position, header, _) = found {
                failed = indexes.note(position, header).err();
            }
            failed.is_none()
        })?;
        failed.map_or(Ok(indexes), |e| Err(e.path(self.path(FileKind::Log))))
    }
}

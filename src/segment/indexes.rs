//! The indexes of one segment: filled as batches come, written when it is sealed or closed, read back or
//! rebuilt from the batches when they are needed and not on the heap.

use std::io;

use parking_lot::{MappedRwLockReadGuard, RwLockReadGuard};

use super::{FileKind, Segment, walk};
use crate::error::{Error, ErrorKind, Result};
use crate::index::{AbortedTxn, IndexWriter, IndexedBatch, OffsetIndex, TimeIndex, TransactionIndex};
use crate::record::BatchHeader;
use crate::storage::OpenMode;
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
    /// Made from the batches: what they do not give is not there.
    pub(super) from_batches: bool,
}

impl Indexes {
    pub(super) fn empty(base: Offset, sizes: IndexSizes) -> Self {
        Self {
            offset: OffsetIndex::new(base, sizes.max),
            time: TimeIndex::new(base, sizes.max),
            density: IndexWriter::new(base, sizes.interval),
            from_batches: true,
        }
    }

    /// The largest timestamp in the segment; -1 when no record has one.
    pub(crate) fn largest_timestamp(&self) -> Timestamp {
        self.density.largest().0.max(self.time.last().0)
    }
}

impl Segment {
    pub(super) fn write_whole(&self, kind: FileKind, bytes: &[u8]) -> Result<()> {
        let path = self.path(kind);
        let write = || -> io::Result<()> {
            let file = self.home.storage.open(&path, OpenMode::CreateIfAbsent)?;
            file.write_all_at(bytes, 0)?;
            if file.len()? != bytes.len() as u64 {
                file.set_len(bytes.len() as u64)?;
            }
            Ok(())
        };
        write().map_err(|e| Error::io("cannot write an index", &path, e))
    }

    /// An index file; `None` when there is none, or one too long to be right.
    fn read_whole(&self, kind: FileKind) -> Result<Option<Vec<u8>>> {
        /// No entry of any index is longer.
        const ENTRY_BYTES_MAX: u64 = 34;
        let batches_max = self.written() / BatchHeader::LEN as u64 + 1;
        match crate::storage::read_file(&*self.home.storage, &self.path(kind), batches_max * ENTRY_BYTES_MAX) {
            Err(e) if e.kind() == ErrorKind::TooLarge => Ok(None),
            read => read,
        }
    }

    /// Ends the segment's life as the active one, or its use: completes the time index with the largest
    /// timestamp and writes the index files at their real size. Nothing is synced.
    pub(crate) fn write_indexes(&self) -> Result<()> {
        let mut guard = self.indexes.write();
        if let Some(indexes) = guard.as_mut() {
            indexes.density.finish(&mut indexes.time)?;
            let (offset, time) = (indexes.offset.encode(), indexes.time.encode());
            drop(guard);
            self.write_whole(FileKind::OffsetIndex, &offset)?;
            self.write_whole(FileKind::TimeIndex, &time)?;
        }
        // A segment without aborted transactions has no such file, or no more.
        match self.aborted.read().as_ref() {
            Some(aborted) if aborted.is_empty() => self.remove(FileKind::TxnIndex),
            Some(aborted) => self.write_whole(FileKind::TxnIndex, &aborted.encode()),
            None => Ok(()),
        }
    }

    /// Syncs the index files, before a recovery point rises above them.
    pub(crate) fn sync_indexes(&self) -> Result<()> {
        for kind in [FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TxnIndex] {
            let path = self.path(kind);
            match self.home.storage.open(&path, OpenMode::Write).and_then(|f| f.sync_data()) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                synced => synced.map_err(|e| Error::io("cannot sync an index", path, e))?,
            }
        }
        Ok(())
    }

    /// Notes a batch that was given its place in this segment.
    pub(crate) fn index_batch(&self, position: u64, header: &BatchHeader) -> Result<()> {
        let mut guard = self.indexes.write();
        let indexes = guard.get_or_insert_with(|| Indexes::empty(self.base, self.sizes));
        let Indexes { offset, time, density, .. } = indexes;
        let position = u32::try_from(position)
            .map_err(|_| Error::new(ErrorKind::TooLarge, "a segment passed 4 GiB").path(self.path(FileKind::Log)))?;
        let batch = IndexedBatch {
            last_offset: header.last_offset(),
            position,
            size: u32::try_from(header.size_bytes()).unwrap_or(u32::MAX),
            max_timestamp: header.max_timestamp(),
        };
        density.on_batch(offset, time, &batch)
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
        let loaded = match self.read_whole(FileKind::TxnIndex)? {
            None => TransactionIndex::default(),
            Some(bytes) => TransactionIndex::decode(self.base, &bytes).map_err(|e| {
                e.path(self.path(FileKind::TxnIndex))
                    .remedy("without it aborted records cannot be told apart: read uncommitted, or recover the log")
            })?,
        };
        self.aborted.write().get_or_insert(loaded);
        Ok(())
    }

    /// Replaces the indexes by empty ones, before a scan fills them.
    pub(crate) fn reset_indexes(&self) {
        *self.indexes.write() = Some(Indexes::empty(self.base, self.sizes));
        *self.aborted.write() = Some(TransactionIndex::default());
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
            let loaded = self.load_indexes()?;
            let mut guard = self.indexes.write();
            guard.get_or_insert(loaded);
        }
    }

    fn load_indexes(&self) -> Result<Indexes> {
        let written = self.written();
        let from_files = || -> Result<Option<Indexes>> {
            let (Some(offset), Some(time)) =
                (self.read_whole(FileKind::OffsetIndex)?, self.read_whole(FileKind::TimeIndex)?)
            else {
                return Ok(None);
            };
            let sound = OffsetIndex::decode(self.base, self.sizes.max, &offset, written)
                .and_then(|o| Ok((o, TimeIndex::decode(self.base, self.sizes.max, &time)?)));
            let Ok((offset, time)) = sound else { return Ok(None) };
            // An empty time index says nothing of a segment that holds batches.
            if written > 0 && time.last().0 == Timestamp::NONE || !self.names_a_batch(offset.last())? {
                return Ok(None);
            }
            let density = IndexWriter::resume(&time, self.sizes.interval);
            Ok(Some(Indexes { offset, time, density, from_batches: false }))
        };
        match from_files()? {
            Some(indexes) => Ok(indexes),
            None => self.rebuild_indexes(),
        }
    }

    /// Whether an index entry is right; a stale or foreign index gives itself away by its last one.
    fn names_a_batch(&self, (last_offset, position): (Offset, u32)) -> Result<bool> {
        if position == 0 {
            return Ok(true);
        }
        let mut header = [0; BatchHeader::LEN];
        match self.file()?.read_exact_at(&mut header, u64::from(position)) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read.map_err(|e| self.io_error("cannot read a segment", e))?,
        }
        Ok(BatchHeader::parse(&header).is_ok_and(|header| header.last_offset() == last_offset))
    }

    pub(super) fn rebuild_indexes(&self) -> Result<Indexes> {
        let rebuilt = Self::existing(self.home.clone(), self.base, self.sizes, self.written());
        rebuilt.reset_indexes();
        let mut failed = None;
        let file = self.file()?;
        walk(&**file, 0, self.written(), self.base.get(), &self.home.buffers, |position, header, _| {
            failed = rebuilt.index_batch(position, header).err();
            failed.is_none()
        })
        .map_err(|e| self.io_error("cannot read a segment to rebuild its index", e))?;
        match (failed, rebuilt.indexes.into_inner()) {
            (None, Some(indexes)) => Ok(indexes),
            (Some(error), _) => Err(error),
            (None, None) => Ok(Indexes::empty(self.base, self.sizes)),
        }
    }
}

//! The metadata log as its files have it, read without changing a byte: before anything is written it must
//! be known whether the directory may be changed at all.
//!
//! An unfinished write at the end is passed over, as Kafka does; unsound bytes with sound records behind
//! them are damage, and nothing behind them is read but where a snapshot covers the place.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::record::{BatchHeader, RecordBatch};
use crate::segment::FileKind;
use crate::storage::{File, OpenMode, Storage};
use crate::types::Offset;

/// Bytes read at a time.
const READ_BYTES: u64 = 4 << 20;
/// Bytes that are checked for being a batch, beside once the file, while sound ones are looked for behind damage.
const SEARCH_BYTES_MAX: u64 = 64 << 20;

/// How far the log goes.
#[derive(Debug, Default)]
pub(super) struct LogEnd {
    /// The first offset that the log may hold; `None` without a segment.
    pub(super) start: Option<Offset>,
    /// The offset after the last sound batch that was read.
    pub(super) end: Offset,
    /// Unsound bytes, or a gap, in front of more that is sound.
    pub(super) damage: Option<Error>,
    /// An unfinished write behind all that is sound, and where.
    pub(super) torn: Option<Error>,
}

/// Shows every batch to `visit`, in order, until it breaks off. Offsets below `covered` stand in a snapshot.
pub(super) fn read(
    storage: &dyn Storage,
    dir: &Path,
    covered: Offset,
    mut visit: impl FnMut(&RecordBatch) -> Result<ControlFlow<()>>,
) -> Result<LogEnd> {
    let bases = segments(storage, dir)?;
    let mut found = LogEnd { start: bases.first().copied(), ..LogEnd::default() };
    for (at, &base) in bases.iter().enumerate() {
        let path = FileKind::Log.path(dir, base);
        if at > 0 && base > found.end && base > covered {
            found.damage = Some(damaged(found.end, path));
            return Ok(found);
        }
        found.end = found.end.max(base);
        let segment = SegmentFile::open(storage, path)?;
        match segment.read(covered, &mut found, &mut visit)? {
            ControlFlow::Break(()) => return Ok(found),
            ControlFlow::Continue(()) => {}
        }
    }
    Ok(found)
}

fn segments(storage: &dyn Storage, dir: &Path) -> Result<Vec<Offset>> {
    let entries = match storage.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(|e| Error::io("cannot list the catalog's directory", dir, e))?,
    };
    let log = |name: &str| FileKind::parse(name).filter(|(kind, _)| *kind == FileKind::Log).map(|(_, base)| base);
    let mut bases: Vec<_> = entries.iter().filter_map(|entry| log(&entry.name)).collect();
    bases.sort_unstable();
    Ok(bases)
}

fn damaged(at: Offset, path: PathBuf) -> Error {
    Error::new(ErrorKind::Corrupt, "the metadata log is damaged, and there are sound records behind")
        .offset(at)
        .path(path)
}

struct SegmentFile {
    path: PathBuf,
    file: Arc<dyn File>,
    len: u64,
    /// A part of the file and where it begins.
    window: Bytes,
    window_at: u64,
}

impl SegmentFile {
    fn open(storage: &dyn Storage, path: PathBuf) -> Result<Self> {
        let opened = storage.open(&path, OpenMode::Read).and_then(|file| file.len().map(|len| (file, len)));
        let (file, len) = opened.map_err(|e| Error::io("cannot open the metadata log", &path, e))?;
        Ok(Self { path, file, len, window: Bytes::new(), window_at: 0 })
    }

    fn read(
        mut self,
        covered: Offset,
        found: &mut LogEnd,
        visit: &mut impl FnMut(&RecordBatch) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let mut position = 0;
        while position < self.len {
            if let Some(batch) = self.batch(position)? {
                position += batch.size_bytes() as u64;
                found.end = found.end.max(batch.next_offset());
                match visit(&batch)? {
                    ControlFlow::Break(()) => return Ok(ControlFlow::Break(())),
                    ControlFlow::Continue(()) => continue,
                }
            }
            match self.sound_behind(position, found.end)? {
                Some((next, base)) => {
                    // Covered or not: a log that is opened to be written would be cut there.
                    found.damage.get_or_insert_with(|| damaged(found.end, self.path.clone()));
                    if base > covered {
                        return Ok(ControlFlow::Break(()));
                    }
                    position = next;
                }
                None => {
                    let torn = Error::new(ErrorKind::Corrupt, "the metadata log ends inside a batch");
                    found.torn = Some(torn.offset(found.end).path(&self.path));
                    break;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The sound batch that begins at `position`, if one does.
    fn batch(&mut self, position: u64) -> Result<Option<RecordBatch>> {
        let Some(prefix) = self.bytes(position, BatchHeader::PREFIX_LEN as u64)? else { return Ok(None) };
        let Ok(size) = BatchHeader::announced_size(&prefix) else { return Ok(None) };
        let Some(bytes) = self.bytes(position, size as u64)? else { return Ok(None) };
        Ok(RecordBatch::parse(bytes).ok().filter(|batch| batch.base_offset() >= Offset::ZERO))
    }

    /// The first sound batch behind unsound bytes at `position`: where it is, and its offset. Whoever has hidden
    /// it among too many others that look like one is taken at his word.
    fn sound_behind(&mut self, position: u64, expected: Offset) -> Result<Option<(u64, Offset)>> {
        const MAGIC_AT: u64 = 16;
        let mut budget = self.len + SEARCH_BYTES_MAX;
        for at in position + 1..self.len {
            if self.bytes(at + MAGIC_AT, 1)?.is_none_or(|magic| magic[0] != 2) {
                continue;
            }
            let Some(prefix) = self.bytes(at, BatchHeader::PREFIX_LEN as u64)? else { break };
            let Ok(size) = BatchHeader::announced_size(&prefix) else { continue };
            if size as u64 > self.len - at {
                continue;
            }
            let Some(left) = budget.checked_sub(size as u64) else { return Ok(Some((at, Offset::new(i64::MAX)))) };
            budget = left;
            if let Some(batch) = self.batch(at)?.filter(|batch| batch.base_offset() >= expected) {
                return Ok(Some((at, batch.base_offset())));
            }
        }
        Ok(None)
    }

    /// Bytes of the file; `None` beyond its end.
    fn bytes(&mut self, position: u64, count: u64) -> Result<Option<Bytes>> {
        if position.checked_add(count).is_none_or(|end| end > self.len) {
            return Ok(None);
        }
        let window_end = self.window_at + self.window.len() as u64;
        if position < self.window_at || position + count > window_end {
            let size = count.max(READ_BYTES).min(self.len - position);
            let too_large = || Error::new(ErrorKind::TooLarge, "a batch does not fit in memory").path(&self.path);
            let mut window = vec![0; usize::try_from(size).map_err(|_| too_large())?];
            let read = self.file.read_exact_at(&mut window, position);
            read.map_err(|e| Error::io("cannot read the metadata log", &self.path, e))?;
            (self.window, self.window_at) = (window.into(), position);
        }
        let from = (position - self.window_at) as usize;
        Ok(Some(self.window.slice(from..from + count as usize)))
    }
}

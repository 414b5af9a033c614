//! The metadata log as its files have it, read without changing a byte: before anything is written it must
//! be known whether the directory may be changed at all.
//!
//! An unfinished write at the end is passed over, as Kafka does; unsound bytes with sound records behind
//! them are damage, and nothing behind them is read but where a snapshot covers the place.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::record::RecordBatch;
use crate::segment::{BufferPool, FileKind, Flaw, FlawKind, Found, Frame, UNREADABLE, walk};
use crate::storage::{OpenMode, Storage};
use crate::types::Offset;

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
        let frame = Frame { base, until: bases.get(at + 1).copied(), end: None, zeros_from: None, compacted: false };
        match read_segment(storage, &path, frame, covered, &mut found, &mut visit)? {
            ControlFlow::Break(()) => return Ok(found),
            ControlFlow::Continue(()) => {}
        }
    }
    Ok(found)
}

/// What is served of a segment is what the log will serve that is opened over it.
fn read_segment(
    storage: &dyn Storage,
    path: &Path,
    frame: Frame,
    covered: Offset,
    found: &mut LogEnd,
    visit: &mut impl FnMut(&RecordBatch) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let opened = storage.open(path, OpenMode::Read).and_then(|file| file.len().map(|len| (file, len)));
    let (file, len) = opened.map_err(|e| Error::io("cannot open the metadata log", path, e))?;
    let mut done = Ok(ControlFlow::Continue(()));
    let walked = walk(&*file, 0, len, frame.base, frame, &BufferPool::default(), |next| {
        done = match next {
            Found::Batch(_, header, bytes) => {
                found.end = header.next_offset();
                RecordBatch::from_checked(Bytes::copy_from_slice(bytes)).and_then(|batch| visit(&batch))
            }
            Found::Flaw(Flaw { kind: FlawKind::Corrected(_), .. }) => Ok(ControlFlow::Continue(())),
            Found::Flaw(Flaw { to: None, kind, .. }) if *kind != FlawKind::Damaged(UNREADABLE) => {
                let torn = Error::new(ErrorKind::Corrupt, "the metadata log ends inside a batch");
                found.torn = Some(torn.offset(found.end).path(path));
                Ok(ControlFlow::Continue(()))
            }
            Found::Flaw(flaw) => {
                // Covered or not: a log that is opened to be written would be cut there.
                found.damage.get_or_insert_with(|| damaged(found.end, path.to_owned()));
                Ok(match flaw.to {
                    Some(to) if to <= covered => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                })
            }
        };
        matches!(done, Ok(ControlFlow::Continue(())))
    });
    walked.map_err(|e| Error::io("cannot read the metadata log", path, e))?;
    done
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

//! What a cleaning that was interrupted left behind, by a stock broker's protocol (`LogLoader`): `.cleaned`
//! files are not complete and go; a `.swap` set is complete and takes the place of all segments that it
//! covers, some of which may be gone already. Works again from the start when it is interrupted itself.

use std::io;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::segment::{FileKind, Found, Frame, SegmentHome, walk};
use crate::storage::OpenMode;
use crate::types::Offset;

/// Finishes or undoes the cleaning. Must come before files that wait for deletion go.
pub(super) fn finish(home: &SegmentHome) -> Result<()> {
    let (cleaned, swaps) = (list(home, ".cleaned")?, list(home, ".swap")?);
    if cleaned.is_empty() && swaps.is_empty() {
        return Ok(());
    }
    let incomplete = cleaned.iter().map(|(_, base)| *base).min();
    for (kind, base) in cleaned {
        remove(home, name(home, kind, base, ".cleaned"))?;
    }
    let mut complete = Vec::new();
    for (kind, base) in swaps {
        match incomplete {
            Some(from) if base >= from => remove(home, name(home, kind, base, ".swap"))?,
            _ => complete.push((kind, base)),
        }
    }
    for (_, base) in complete.iter().filter(|(kind, _)| *kind == FileKind::Log) {
        let end = end_of(home, *base)?;
        for (kind, covered) in list(home, "")?.into_iter().filter(|(_, at)| (*base..end).contains(at)) {
            remove(home, name(home, kind, covered, ""))?;
        }
    }
    for (kind, base) in complete {
        let (from, to) = (name(home, kind, base, ".swap"), name(home, kind, base, ""));
        home.storage.rename(&from, &to).map_err(|e| Error::io("cannot put a cleaned segment in place", from, e))?;
    }
    home.storage.sync_dir(&home.dir).map_err(|e| Error::io("cannot sync a partition's directory", &*home.dir, e))
}

/// The files of segments whose names go on with `suffix`.
fn list(home: &SegmentHome, suffix: &str) -> Result<Vec<(FileKind, Offset)>> {
    let entries = match home.storage.list(&home.dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(|e| Error::io("cannot list a partition's directory", &*home.dir, e))?,
    };
    Ok(entries.iter().filter_map(|entry| FileKind::parse(entry.name.strip_suffix(suffix)?)).collect())
}

fn name(home: &SegmentHome, kind: FileKind, base: Offset, suffix: &str) -> PathBuf {
    let mut name = kind.path(&home.dir, base).into_os_string();
    name.push(suffix);
    name.into()
}

fn remove(home: &SegmentHome, path: PathBuf) -> Result<()> {
    home.storage.remove_file(&path).map_err(|e| Error::io("cannot remove what a cleaning left", path, e))
}

/// The offset behind the last sound batch of a cleaned segment.
fn end_of(home: &SegmentHome, base: Offset) -> Result<Offset> {
    let path = name(home, FileKind::Log, base, ".swap");
    let mut end = base;
    let mut read = || -> io::Result<()> {
        let file = home.storage.open(&path, OpenMode::Read)?;
        let frame = Frame { base, until: None, end: None, zeros_from: None, compacted: true };
        walk(&*file, 0, file.len()?, base, frame, &home.buffers, |found| {
            if let Found::Batch(_, header, _) = found {
                end = header.next_offset();
            }
            true
        })?;
        Ok(())
    };
    read().map_err(|e| Error::io("cannot read a cleaned segment", &path, e))?;
    Ok(end)
}

//! Small files that are replaced as a whole: checkpoints, properties, snapshots.
//!
//! Invariant: after a crash at any moment the name holds the old bytes or the new ones, never a mixture.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::{OpenMode, Storage};
use crate::error::{Error, ErrorKind, Result};
use crate::mutants::{Mutant, is_on};

/// Replaces the file at `path`, or makes it, durably: the bytes go to `<name>.tmp`, which is synced and
/// renamed, and the directory is synced. What an interrupted attempt left under that name is overwritten.
///
/// # Errors
///
/// The operating system's, with the path. The old file is intact unless the directory sync was what
/// failed: then the new one may or may not survive a crash.
pub(crate) fn replace_file(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<()> {
    place_file(storage, path, bytes)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    storage.sync_dir(directory).map_err(|e| Error::io("cannot sync a directory", directory, e))
}

/// As [`replace_file`] without its last step: the caller syncs the directory, for this and other names in it. A
/// crash before may leave the old file.
pub(crate) fn place_file(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<()> {
    let tmp = tmp_path(path);
    write_synced(storage, &tmp, bytes).map_err(|e| Error::io("cannot write a file", &tmp, e))?;
    storage.rename(&tmp, path).map_err(|e| Error::io("cannot replace a file", path, e))
}

/// The whole file at `path`; `None` when there is none.
///
/// # Errors
///
/// `TooLarge` when it is longer than `max_len` bytes, without reading it; otherwise the operating
/// system's, with the path.
pub(crate) fn read_file(storage: &dyn Storage, path: &Path, max_len: u64) -> Result<Option<Vec<u8>>> {
    let failed = |e| Error::io("cannot read a file", path, e);
    let file = match storage.open(path, OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(failed)?,
    };
    let len = file.len().map_err(failed)?;
    if len > max_len {
        let message = format!("a file of {len} bytes where at most {max_len} are expected");
        return Err(Error::new(ErrorKind::TooLarge, message).path(path));
    }
    let len = usize::try_from(len).map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(Some(bytes))
}

/// Where the new file is until it is whole.
pub(crate) fn tmp_path(path: &Path) -> PathBuf {
    let mut tmp = OsString::from(path);
    tmp.push(".tmp");
    tmp.into()
}

fn write_synced(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = storage.open(path, OpenMode::CreateIfAbsent)?;
    file.set_len(0)?;
    file.write_all_at(bytes, 0)?;
    if is_on(Mutant::RenamedUnsynced) { Ok(()) } else { file.sync_data() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn replaces_whole_and_overwrites_leftovers() {
        let storage = MemoryStorage::default();
        let path = Path::new("recovery-point-offset-checkpoint");
        assert_eq!(read_file(&storage, path, 100).unwrap(), None);
        let left = storage.open(&tmp_path(path), OpenMode::CreateNew).unwrap();
        left.write_all_at(b"left by an interrupted attempt", 0).unwrap();
        for bytes in [b"0\n1\norders 0 42\n".as_slice(), b"0\n0\n", b""] {
            replace_file(&storage, path, bytes).unwrap();
            assert_eq!(read_file(&storage, path, 100).unwrap().as_deref(), Some(bytes));
        }
        assert_eq!(storage.list(Path::new("")).unwrap().len(), 1);
    }

    #[test]
    fn a_file_beyond_the_bound_is_an_error_that_names_it() {
        let storage = MemoryStorage::default();
        let path = Path::new("meta.properties");
        replace_file(&storage, path, b"12345").unwrap();
        assert_eq!(read_file(&storage, path, 5).unwrap().unwrap(), b"12345");
        let error = read_file(&storage, path, 4).unwrap_err();
        assert_eq!((error.kind(), error.at_path()), (ErrorKind::TooLarge, Some(path)));
    }
}

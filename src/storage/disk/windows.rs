//! What a Windows disk does in its own way. Not tested by this project's gate.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::windows::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{RawFile, RawOptions, options};
use crate::storage::OpenMode;

/// A file's canonical path: the standard library gives no stable file id here.
pub(super) type Identity = PathBuf;

/// Opens the link itself instead of what it points to (`FILE_FLAG_OPEN_REPARSE_POINT`).
pub(super) fn harden(options: &mut RawOptions) {
    const OPEN_REPARSE_POINT: u32 = 0x0020_0000;
    options.custom_flags(OPEN_REPARSE_POINT);
}

pub(super) fn read_at(file: &RawFile, buf: &mut [u8], position: u64) -> io::Result<usize> {
    file.seek_read(buf, position)
}

pub(super) fn write_at(file: &RawFile, buf: &[u8], position: u64) -> io::Result<usize> {
    file.seek_write(buf, position)
}

pub(super) fn write_vectored_at(file: &RawFile, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
    match bufs.iter().find(|b| !b.is_empty()) {
        Some(buf) => file.seek_write(buf, position),
        None => Ok(0),
    }
}

pub(super) fn shortcoming(_path: &Path) -> Option<&'static str> {
    None
}

pub(super) fn allocate(_file: &RawFile, _position: u64, _len: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn populate(_map: &memmap2::Mmap, _range: Range<usize>) -> io::Result<()> {
    Ok(())
}

/// Directories cannot be synced here; NTFS journals its names. Still an error when there is none.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    if path.metadata()?.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

pub(super) fn sync_fs(_path: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Opens the file so that others may read but not write it. A stock broker opens its lock file for
/// writing: whoever comes second is refused at open.
pub(super) fn open_locked(path: &Path) -> io::Result<Option<RawFile>> {
    open_as(path, OpenMode::CreateIfAbsent)
}

/// Opens the existing file, which fails while somebody has it open for writing, and keeps such away.
pub(super) fn open_locked_shared(path: &Path) -> io::Result<Option<RawFile>> {
    open_as(path, OpenMode::Read)
}

/// Whether those who hold the file at `path` only look at it: the system does not tell.
pub(super) fn is_shared(_path: &Path) -> bool {
    false
}

fn open_as(path: &Path, mode: OpenMode) -> io::Result<Option<RawFile>> {
    const FILE_SHARE_READ: u32 = 1;
    const ERROR_SHARING_VIOLATION: i32 = 32;
    match options(mode).share_mode(FILE_SHARE_READ).open(path) {
        Err(e) if e.raw_os_error() == Some(ERROR_SHARING_VIOLATION) => Ok(None),
        result => result.map(Some),
    }
}

/// The lock is the open handle itself, and children do not inherit it.
pub(super) fn unlock(_file: &RawFile) {}

/// Which file `path` names, if any.
pub(super) fn identity(path: &Path) -> io::Result<Option<Identity>> {
    match path.canonicalize() {
        Ok(path) => Ok(Some(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The identity of `file` at `path`: nobody can rename or delete it while it is open without sharing.
pub(super) fn identity_if_at(_file: &RawFile, path: &Path) -> io::Result<Option<Identity>> {
    identity(path)
}

/// How many files this process may have open; `None` when there is no limit.
pub(in crate::storage) fn open_files_limit() -> Option<u64> {
    None
}

/// `ERROR_CRC`, `ERROR_SECTOR_NOT_FOUND` and `ERROR_IO_DEVICE`.
pub(super) fn is_device_error(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 27 | 1117))
}

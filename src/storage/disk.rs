//! The real disk: the only file that names `std::fs`. What differs between systems is in `unix` and
//! `windows`, the lock in `lock`.
//!
//! Not its job: bounding open descriptors (`pool`), replacing files safely (`atomic_file`).
//! Invariants: links are never followed to a file's bytes; only plain files are opened as files.

#![expect(clippy::disallowed_methods, reason = "this is the door that everybody else is sent to")]

use std::fs;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::syncs::Syncs;
use super::{DirEntry, EntryKind, File, Lock, Map, Metadata, OpenMode, Storage};

mod lock;
#[cfg(target_os = "linux")]
mod ofd;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as platform;
#[cfg(windows)]
use windows as platform;

pub(super) use platform::open_files_limit;

use std::fs::{File as RawFile, OpenOptions as RawOptions};

/// The disk of this machine.
///
/// Syncs are `fdatasync` (`F_FULLFSYNC` on Apple systems, which the standard library issues there for
/// every sync; `FlushFileBuffers` on Windows). Files are opened close-on-exec. On Windows a directory
/// cannot be synced: `sync_dir` does nothing there, and a new name is as durable as NTFS makes it.
///
/// ```
/// use std::path::Path;
/// use thalweg::{DiskStorage, OpenMode, Storage};
/// # let directory = tempfile::tempdir()?;
/// # let directory = directory.path();
/// let disk = DiskStorage;
/// let file = disk.open(&directory.join("note"), OpenMode::CreateNew)?;
/// file.write_all_at(b"hello", 0)?;
/// file.sync_data()?;
/// disk.sync_dir(directory)?;
/// assert_eq!(file.len()?, 5);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskStorage;

impl Storage for DiskStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = options(mode).open(path)?;
        let kind = file.metadata()?.file_type();
        if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !kind.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"));
        }
        Ok(Arc::new(DiskFile::new(file)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        fs::read_dir(or_here(path))?
            .map(|entry| {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                Ok(DirEntry { name, kind: entry_kind(entry.file_type()?) })
            })
            .collect()
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let metadata = fs::symlink_metadata(or_here(path))?;
        let kind = entry_kind(metadata.file_type());
        let len = if kind == EntryKind::File { metadata.len() } else { 0 };
        Ok(Metadata { kind, len, modified: metadata.modified()? })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        platform::sync_dir(or_here(path))
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        platform::sync_fs(or_here(path))
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Lock>> {
        lock::take(path, holder)
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        lock::take_shared(path)
    }

    fn shortcoming(&self, path: &Path) -> Option<&'static str> {
        platform::shortcoming(or_here(path))
    }
}

/// The parent of a bare file name is the empty path: the current directory.
fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn options(mode: OpenMode) -> RawOptions {
    let mut options = RawOptions::new();
    options.read(true);
    match mode {
        OpenMode::Read => &mut options,
        OpenMode::Write => options.write(true),
        OpenMode::CreateIfAbsent => options.write(true).create(true),
        OpenMode::CreateNew => options.write(true).create_new(true),
    };
    platform::harden(&mut options);
    options
}

fn entry_kind(kind: fs::FileType) -> EntryKind {
    if kind.is_file() {
        EntryKind::File
    } else if kind.is_dir() {
        EntryKind::Directory
    } else {
        EntryKind::Other
    }
}

#[derive(Debug)]
struct DiskFile {
    raw: RawFile,
    syncs: Syncs,
}

impl DiskFile {
    fn new(raw: RawFile) -> Self {
        Self { raw, syncs: Syncs::default() }
    }
}

impl File for DiskFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        platform::read_at(&self.raw, buf, position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        platform::write_at(&self.raw, buf, position)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        platform::write_vectored_at(&self.raw, bufs, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.syncs.run(|| self.raw.sync_data())
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        platform::allocate(&self.raw, position, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.raw.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.raw.metadata()?.len())
    }

    fn map(&self, len: u64) -> io::Result<Box<dyn Map>> {
        // A page wholly beyond the end of the file faults when touched.
        if len > self.len()? {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than the map asked for"));
        }
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        #[expect(unsafe_code, reason = "a map cannot be made otherwise; the proof and its limits stand below")]
        // SAFETY: memmap2 asks that nobody changes or cuts the mapped bytes while the map lives. Only
        // sealed segments are mapped: bytes below their end are never written again, and this process
        // never cuts them. The limits: another process that ignores the directory lock can still change
        // the file, and a media error or a cut under the map ends the process with SIGBUS. The trait's
        // contract says so, and mapped reads are opt-in.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(&self.raw)? };
        Ok(Box::new(DiskMap(map)))
    }
}

#[derive(Debug)]
struct DiskMap(memmap2::Mmap);

impl AsRef<[u8]> for DiskMap {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Map for DiskMap {
    fn populate(&self, range: Range<usize>) -> io::Result<()> {
        if range.start > range.end || range.end > self.0.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        platform::populate(&self.0, range)
    }
}

/// Whether an error is one of the device, not of the file system or the process.
pub(crate) fn is_device_error(error: &io::Error) -> bool {
    platform::is_device_error(error)
}

/// See [`Storage::boot_id`].
pub(super) fn boot_id() -> [u8; 16] {
    let mut id = [0; 16];
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).filter_map(|d| u8::try_from(d).ok()).collect();
    if digits.len() == 2 * id.len() {
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
    } else if getrandom::fill(&mut id).is_err() {
        id = [0; 16];
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance::storage_conformance;

    #[test]
    fn conforms() {
        let root = tempfile::tempdir().unwrap();
        storage_conformance(&|| {
            let directory = tempfile::tempdir_in(root.path()).unwrap().keep();
            (Arc::new(DiskStorage), directory)
        });
    }

    #[cfg(unix)]
    #[test]
    fn never_follows_a_link_nor_opens_a_pipe() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        DiskStorage.open(&target, OpenMode::CreateNew).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for mode in [OpenMode::Read, OpenMode::Write, OpenMode::CreateIfAbsent] {
            assert!(DiskStorage.open(&link, mode).is_err(), "{mode:?} went through a link");
        }
        assert_eq!(DiskStorage.metadata(&link).unwrap().kind, EntryKind::Other);
        assert_eq!(
            DiskStorage.open(Path::new("/dev/null"), OpenMode::Read).unwrap_err().to_string(),
            "not a plain file"
        );
    }
}

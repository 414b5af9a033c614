//! The only door to the disk. Everything above reads and writes through [`Storage`] and [`File`],
//! so that a simulated disk can stand behind the same code.
//!
//! Invariants: positioned I/O only, no file cursor; a name is durable only after `sync_dir` of its
//! directory; nothing here decides what the bytes mean.

use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::{Error, ErrorKind, Result, is_out_of_descriptors};
use crate::mutants::{Mutant, is_on};

mod atomic_file;
#[cfg(any(test, feature = "testing"))]
mod conformance;
mod disk;

mod halt;
mod heap;
mod memory;
mod noting;
mod overlay;
mod paths;
mod pool;
mod reserve;
mod syncs;

pub(crate) use atomic_file::{place_file, read_file, replace_file, tmp_path};
#[cfg(any(test, feature = "testing"))]
pub use conformance::storage_conformance;
pub use disk::DiskStorage;
pub(crate) use disk::is_device_error;

pub(crate) use halt::HaltingStorage;
pub use memory::MemoryStorage;
pub(crate) use noting::{NotingStorage, SYNCS, SyncNotes};
pub(crate) use overlay::OverlayStorage;
pub(crate) use pool::PooledStorage;
pub(crate) use reserve::{RESERVE, ReservedStorage};

/// Kafka's name for the file that is locked.
const LOCK: &str = ".lock";

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpenMode {
    /// Read an existing file.
    Read,
    /// Read and write an existing file.
    Write,
    /// Read and write; made empty when absent, kept as it is when present.
    CreateIfAbsent,
    /// Read and write a file that must not exist yet.
    CreateNew,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A plain file.
    File,
    /// A directory.
    Directory,
    /// A link, socket or device: never followed.
    Other,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name alone, without its directory. Names that are not UTF-8 are given lossily; no name of
    /// ours or Kafka's is one.
    pub name: String,
    /// What it names.
    pub kind: EntryKind,
}

/// What is known of a path without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: EntryKind,
    /// Length in bytes; 0 for a directory.
    pub len: u64,
    /// When its content last changed.
    pub modified: SystemTime,
}

/// A lock on a directory; released when dropped.
pub trait Lock: Send + Sync + fmt::Debug {}

/// A disk, real or simulated. Errors are plain [`io::Error`]s; the caller adds path and meaning.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// Makes one directory; its parent must exist. An existing directory is an error of kind
    /// `AlreadyExists`. Durable after `sync_dir` of the parent.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Renames a file or directory, replacing a file of the new name. Not durable before
    /// `sync_dir`, and it orders no data: sync the file first.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name. Open handles keep the bytes. Not durable before `sync_dir`.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in no particular order.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// Looks at a path; links are not followed. `NotFound` when there is nothing.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes everything on the file system that holds `path` durable (`syncfs`); where the system
    /// lacks the call, an error of kind `Unsupported`.
    fn sync_fs(&self, path: &Path) -> io::Result<()>;

    /// Takes the exclusive lock file at `path`, creating it when absent, and writes `holder` into it
    /// for others to read. Fails with `WouldBlock` when another process, or another handle in this
    /// process, holds it; the error's text then carries what the holder wrote. Excludes a stock
    /// Kafka broker, which takes a POSIX lock on the same file. The file is never removed.
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Lock>>;

    /// Takes the lock file at `path` for looking only, without writing or making anything: excludes those who
    /// [`lock`](Self::lock) it, with the same error, but not others who look. `None` when there is no such file:
    /// then nobody who keeps to the rule is in there, and one who comes later is not kept out.
    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;

    /// An id that stays the same for as long as no power cut can have taken what was not synced: that of the
    /// machine's boot. Where the system has none, every call gives another one, which is the safe answer.
    fn boot_id(&self) -> [u8; 16] {
        disk::boot_id()
    }

    /// What is known against the file system that holds `path`: how it may keep less than it promises, in words that
    /// go on "the directory is on ...". `None` when nothing is known.
    fn shortcoming(&self, _path: &Path) -> Option<&'static str> {
        None
    }
}

/// An open file with positioned I/O. Dropping it closes it; data that was not synced is then in the
/// hands of the operating system.
#[expect(
    clippy::len_without_is_empty,
    reason = "a file's length is a question to the disk, and whether it is 0 is not asked"
)]
pub trait File: Send + Sync + fmt::Debug {
    /// Reads up to `buf.len()` bytes at `position`; 0 means end of file. May read less than asked. What the medium
    /// cannot give is the system's own error, with its number (`EIO`); it alone is taken for damage.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes some bytes at `position`, extending the file as needed, and says how many. A gap before
    /// `position` reads as zeros.
    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize>;

    /// Writes some bytes of several buffers at `position`, in order, and says how many.
    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize>;

    /// Makes the bytes and the length durable (`fdatasync`; `F_FULLFSYNC` on Apple systems). After a
    /// failure the file's unsynced bytes are in doubt for good: never call it again to mend that. Of two calls at once
    /// neither may answer `Ok` where the system told the failure to the other.
    fn sync_data(&self) -> io::Result<()>;

    /// Reserves space for `len` bytes from `position` without changing the file's length; `Unsupported`
    /// where the system cannot.
    fn allocate(&self, position: u64, len: u64) -> io::Result<()>;

    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Maps the file's first `len` bytes for reading. A file cut short under a map of a real disk kills
    /// the process with SIGBUS: map only files that nobody cuts.
    fn map(&self, len: u64) -> io::Result<Box<dyn Map>>;

    /// Reads exactly `buf.len()` bytes; `UnexpectedEof` when the file ends before.
    fn read_exact_at(&self, mut buf: &mut [u8], mut position: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, position) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buf = &mut buf[n..];
                    position += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes all of `buf`.
    fn write_all_at(&self, mut buf: &[u8], mut position: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.write_at(buf, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    buf = &buf[n..];
                    position += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes all of several buffers, in order. An error for want of a file descriptor says that nothing was written.
    fn write_all_vectored_at(&self, mut bufs: &mut [IoSlice<'_>], mut position: u64) -> io::Result<()> {
        /// POSIX guarantees at least this many slices per call (`IOV_MAX` on Linux).
        const SLICES_MAX: usize = 1024;
        /// Linux takes one page for 2 MiB that come in one call; a virtual machine may have none that its host backs.
        const BYTES_MAX: usize = 1 << 20;
        let start = position;
        IoSlice::advance_slices(&mut bufs, 0);
        while let Some(first) = bufs.first() {
            let mut bytes = 0;
            let fits = |buf: &&IoSlice<'_>| {
                bytes += buf.len();
                bytes <= BYTES_MAX
            };
            let written = match bufs.iter().take(SLICES_MAX).take_while(fits).count() {
                0 => self.write_at(&first[..BYTES_MAX], position),
                group => self.write_vectored_at(&bufs[..group], position),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    IoSlice::advance_slices(&mut bufs, n);
                    position += if is_on(Mutant::ShortWriteMisplaced) { 0 } else { n as u64 };
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if position > start && is_out_of_descriptors(&e) => return Err(io::Error::other(e)),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// A read-only view of a file's bytes.
pub trait Map: AsRef<[u8]> + Send + Sync + fmt::Debug {
    /// Brings these bytes into memory where the system can, so that a medium that fails is an error of this call
    /// and not of the first look at them. Does nothing where it cannot.
    ///
    /// # Errors
    /// What the disk says; `InvalidInput` for a range that is not inside of the map.
    fn populate(&self, range: Range<usize>) -> io::Result<()> {
        match self.as_ref().get(range) {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// Takes the lock of a directory, Kafka's `.lock`, for the calling process.
///
/// # Errors
/// [`ErrorKind::Locked`](crate::ErrorKind::Locked), naming the holder where it left a name.
pub(crate) fn lock_directory(storage: &dyn Storage, dir: &Path) -> Result<Box<dyn Lock>> {
    let holder = format!("process {}", std::process::id());
    storage
        .lock(&dir.join(LOCK), &holder)
        .map_err(|e| not_locked(dir, e, "run as the user that the directory belongs to, or open it for reading only"))
}

/// The same for looking only; see [`Storage::lock_shared`].
///
/// # Errors
/// [`ErrorKind::Locked`](crate::ErrorKind::Locked) while somebody may write.
pub(crate) fn lock_directory_shared(storage: &dyn Storage, dir: &Path) -> Result<Option<Box<dyn Lock>>> {
    storage.lock_shared(&dir.join(LOCK)).map_err(|e| not_locked(dir, e, "run as a user that may read the directory"))
}

fn not_locked(dir: &Path, e: io::Error, remedy: &'static str) -> Error {
    match e.kind() {
        io::ErrorKind::WouldBlock => Error::new(ErrorKind::Locked, "the directory is in use")
            .path(dir)
            .source(e)
            .remedy("close the other handle, or stop the other process"),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::io("cannot lock the directory", dir.join(LOCK), e).remedy(remedy)
        }
        _ => Error::io("cannot lock the directory", dir.join(LOCK), e),
    }
}

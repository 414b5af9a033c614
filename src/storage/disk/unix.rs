//! What a Unix disk does in its own way. Linux is tested; the others compile to the nearest call they
//! have, or to `Unsupported`.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{RawFile, RawOptions, options};
use crate::storage::OpenMode;

/// A file's device and inode number: one file, whatever its path.
pub(super) type Identity = (u64, u64);

/// Refuses to go through a link, and not to hang on a pipe that somebody left under a file's name.
pub(super) fn harden(options: &mut RawOptions) {
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
}

pub(super) fn read_at(file: &RawFile, buf: &mut [u8], position: u64) -> io::Result<usize> {
    file.read_at(buf, position)
}

pub(super) fn write_at(file: &RawFile, buf: &[u8], position: u64) -> io::Result<usize> {
    file.write_at(buf, position)
}

pub(super) fn write_vectored_at(file: &RawFile, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
    Ok(match bufs {
        // The system takes one with less ado.
        [one] => rustix::io::pwrite(file, one, position)?,
        several => rustix::io::pwritev(file, several, position)?,
    })
}

#[cfg(target_os = "linux")]
pub(super) fn allocate(file: &RawFile, position: u64, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    if len == 0 {
        return Ok(());
    }
    match rustix::io::retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, position, len)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn allocate(_file: &RawFile, _position: u64, _len: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Brings pages of a map into memory, where the kernel can (`MADV_POPULATE_READ`, Linux 5.14).
#[cfg(target_os = "linux")]
pub(super) fn populate(map: &memmap2::Mmap, range: Range<usize>) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    loop {
        let Err(e) = map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len()) else { return Ok(()) };
        match Errno::from_io_error(&e) {
            Some(Errno::INTR | Errno::AGAIN) => {}
            // An older kernel.
            Some(Errno::INVAL | Errno::NOSYS) => return Ok(()),
            // Where looking would be a SIGBUS.
            Some(Errno::FAULT) => {
                let what = "a mapped page cannot be read: the file was cut short, or the medium fails";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
            _ => return Err(e),
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn populate(_map: &memmap2::Mmap, _range: Range<usize>) -> io::Result<()> {
    Ok(())
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    open_dir(path)?.sync_all()
}

#[cfg(target_os = "linux")]
pub(super) fn sync_fs(path: &Path) -> io::Result<()> {
    let file = RawOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    Ok(rustix::fs::syncfs(file)?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn sync_fs(_path: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
pub(super) fn shortcoming(path: &Path) -> Option<&'static str> {
    known_against(rustix::fs::statfs(path).ok()?.f_type as u32)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn shortcoming(_path: &Path) -> Option<&'static str> {
    None
}

/// By the number that the kernel gives a kind of file system (`linux/magic.h`).
#[cfg(target_os = "linux")]
fn known_against(kind: u32) -> Option<&'static str> {
    Some(match kind {
        // NFS, CIFS, SMB 1 and 2, Ceph, AFS (two), Coda, 9P.
        0x6969 | 0xff53_4d42 | 0x517b | 0xfe53_4d42 | 0x00c3_6400 | 0x5346_414f | 0x6b41_4653 | 0x7375_7245
        | 0x0102_1997 => {
            "a network file system: its lock may not keep other machines out, and a sync is as good as the server makes it"
        }
        0x6573_5546 => "a file system that a program serves (FUSE): its locks and syncs are as good as that program",
        0x794c_7630 => {
            "an overlay file system, as containers have: it goes with the container, and its syncs do nothing where it was \
             mounted `volatile`; a volume is the place for data"
        }
        // tmpfs, ramfs.
        0x0102_1994 | 0x8584_58f6 => "a file system in memory: loss of power takes all of it",
        _ => return None,
    })
}

fn open_dir(path: &Path) -> io::Result<RawFile> {
    RawOptions::new().read(true).custom_flags(OFlags::DIRECTORY.bits().cast_signed()).open(path)
}

/// Opens the file at `path`, made when absent, and locks it whole; `None` when somebody else holds it.
pub(super) fn open_locked(path: &Path) -> io::Result<Option<RawFile>> {
    let file = options(OpenMode::CreateIfAbsent).open(path)?;
    #[cfg(target_os = "linux")]
    let taken = super::ofd::try_lock(&file);
    #[cfg(not(target_os = "linux"))]
    let taken =
        rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from);
    unless_held(file, taken)
}

/// Opens the existing file at `path` and locks it whole against those who lock it for writing; `None` when one does.
pub(super) fn open_locked_shared(path: &Path) -> io::Result<Option<RawFile>> {
    let file = options(OpenMode::Read).open(path)?;
    #[cfg(target_os = "linux")]
    let taken = super::ofd::try_lock_shared(&file);
    #[cfg(not(target_os = "linux"))]
    let taken =
        rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).map_err(io::Error::from);
    unless_held(file, taken)
}

/// Whether those who hold the file at `path` only look at it, as far as the system tells.
#[cfg(target_os = "linux")]
pub(super) fn is_shared(path: &Path) -> bool {
    options(OpenMode::Read).open(path).and_then(|file| super::ofd::can_share(&file)).unwrap_or(false)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_shared(_path: &Path) -> bool {
    false
}

fn unless_held(file: RawFile, taken: io::Result<()>) -> io::Result<Option<RawFile>> {
    match taken {
        Ok(()) => Ok(Some(file)),
        Err(e) if [Errno::AGAIN, Errno::ACCESS].map(Errno::raw_os_error).contains(&e.raw_os_error().unwrap_or(0)) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Lets the lock go even when a child process that is just being started has copied the descriptor.
/// A failure means only that the lock goes when the last copy is closed.
pub(super) fn unlock(file: &RawFile) {
    #[cfg(target_os = "linux")]
    super::ofd::unlock(file).ok();
    #[cfg(not(target_os = "linux"))]
    rustix::fs::fcntl_lock(file, rustix::fs::FlockOperation::NonBlockingUnlock).ok();
}

/// Which file `path` names, if any.
pub(super) fn identity(path: &Path) -> io::Result<Option<Identity>> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The identity of `file`, provided that `path` still names it.
pub(super) fn identity_if_at(file: &RawFile, path: &Path) -> io::Result<Option<Identity>> {
    let metadata = file.metadata()?;
    Ok(identity(path)?.filter(|&id| id == (metadata.dev(), metadata.ino())))
}

/// How many descriptors this process may have open; `None` when there is no limit.
pub(in crate::storage) fn open_files_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

pub(super) fn is_device_error(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_may_keep_less_than_they_promise_are_known() {
        let said = |kind| known_against(kind).unwrap_or("").split([' ', ':']).nth(1).unwrap_or("").to_owned();
        assert_eq!(
            [0x6969, 0xfe53_4d42, 0x6573_5546, 0x794c_7630, 0x0102_1994].map(said),
            ["network", "network", "file", "overlay", "file"]
        );
        // ext4, XFS, Btrfs, ZFS, F2FS.
        assert_eq!([0xef53, 0x5846_5342, 0x9123_683e, 0x2fc1_2fc1, 0xf2f5_2010].map(known_against), [None; 5]);
    }
}

//! Open-file-description locks, which neither the standard library nor `rustix` offer.
//!
//! They conflict with the POSIX locks that Java's `FileChannel.tryLock` takes, as `flock` does not, and
//! unlike POSIX locks they are not lost when some other descriptor of the same file is closed.

#![expect(unsafe_code, reason = "one fcntl command that no safe crate wraps; each call carries its proof")]

use std::io;
use std::mem;
use std::os::fd::AsRawFd as _;

use super::RawFile;

/// Locks the whole file exclusively without waiting; `EAGAIN` or `EACCES` when somebody holds a lock.
pub(super) fn try_lock(file: &RawFile) -> io::Result<()> {
    set(file, libc::F_WRLCK)
}

/// Locks the whole file against such, together with others who do the same; the file is open for reading.
pub(super) fn try_lock_shared(file: &RawFile) -> io::Result<()> {
    set(file, libc::F_RDLCK)
}

/// Whether a shared lock could be had just now.
pub(super) fn can_share(file: &RawFile) -> io::Result<bool> {
    Ok(command(file, libc::F_OFD_GETLK, libc::F_RDLCK)?.l_type == libc::F_UNLCK as libc::c_short)
}

/// Releases the lock, also for copies of the descriptor.
pub(super) fn unlock(file: &RawFile) -> io::Result<()> {
    set(file, libc::F_UNLCK)
}

fn set(file: &RawFile, kind: libc::c_int) -> io::Result<()> {
    command(file, libc::F_OFD_SETLK, kind).map(drop)
}

fn command(file: &RawFile, command: libc::c_int, kind: libc::c_int) -> io::Result<libc::flock> {
    // SAFETY: `flock` is a plain C struct of integers, for which all zeros is a value. Zeros are also
    // what is meant: from offset 0 to the end for ever, and pid 0, which this command demands.
    let mut request: libc::flock = unsafe { mem::zeroed() };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open as long as `file` is borrowed; F_OFD_SETLK and F_OFD_GETLK read and write one
    // `flock` through the pointer, which is valid for the call, and keep nothing of it.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut request) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(request) }
}

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

/// Releases the lock, also for copies of the descriptor.
pub(super) fn unlock(file: &RawFile) -> io::Result<()> {
    set(file, libc::F_UNLCK)
}

fn set(file: &RawFile, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: `flock` is a plain C struct of integers, for which all zeros is a value. Zeros are also
    // what is meant: from offset 0 to the end for ever, and pid 0, which this command demands.
    let mut request: libc::flock = unsafe { mem::zeroed() };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open as long as `file` is borrowed; F_OFD_SETLK reads one `flock` through
    // the pointer, which is valid for the call, and keeps nothing of it.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

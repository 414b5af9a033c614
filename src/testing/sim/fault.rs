//! Errors that are made to happen.

use std::io;

use super::disk::AfterFailedSync;
use crate::types::all_of;

all_of! {
    /// A kind of storage operation.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[non_exhaustive]
    pub enum Operation {
        /// Opening a file that is there.
        Open,
        /// Opening a file that is made by it.
        Create,
        /// Making a directory.
        CreateDir,
        /// Renaming.
        Rename,
        /// Removing a file's name.
        Remove,
        /// Removing a directory.
        RemoveDir,
        /// Listing a directory.
        List,
        /// Asking for metadata.
        Metadata,
        /// Syncing a directory.
        SyncDir,
        /// Syncing everything.
        SyncFs,
        /// Taking a lock.
        Lock,
        /// Reading.
        Read,
        /// Writing.
        Write,
        /// Syncing a file.
        Sync,
        /// Reserving space.
        Allocate,
        /// Cutting or extending a file.
        SetLen,
        /// Asking for a file's length.
        Len,
        /// Mapping a file.
        Map,
    }
}

impl Operation {
    /// Whether the disk may be another one after it.
    pub(super) fn changes_the_disk(self) -> bool {
        !matches!(self, Self::Open | Self::List | Self::Metadata | Self::Lock | Self::Read | Self::Len | Self::Map)
    }
}

all_of! {
    /// What the operating system answers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum Errno {
        /// `EIO`.
        Io,
        /// `ENOSPC`.
        NoSpace,
        /// `EDQUOT`.
        Quota,
        /// `EINTR`.
        Interrupted,
        /// `EMFILE`.
        TooManyFiles,
        /// `EROFS`.
        ReadOnly,
    }
}

impl Errno {
    /// Whether the call behind `operation` is known to give this error.
    #[must_use]
    pub fn can_come_from(self, operation: Operation) -> bool {
        use Operation as O;
        match self {
            Self::Io => true,
            Self::NoSpace | Self::Quota => {
                operation.changes_the_disk() && !matches!(operation, O::Remove | O::RemoveDir | O::SyncDir)
            }
            Self::Interrupted => matches!(operation, O::Read | O::Write),
            Self::TooManyFiles => matches!(operation, O::Open | O::Create | O::List | O::SyncDir | O::SyncFs | O::Lock),
            // Of a file that is opened for writing.
            Self::ReadOnly => operation.changes_the_disk() || operation == O::Open,
        }
    }

    #[cfg(unix)]
    pub(super) fn to_error(self) -> io::Error {
        use rustix::io::Errno as Raw;
        io::Error::from(match self {
            Self::Io => Raw::IO,
            Self::NoSpace => Raw::NOSPC,
            Self::Quota => Raw::DQUOT,
            Self::Interrupted => Raw::INTR,
            Self::TooManyFiles => Raw::MFILE,
            Self::ReadOnly => Raw::ROFS,
        })
    }

    #[cfg(not(unix))]
    pub(super) fn to_error(self) -> io::Error {
        io::Error::from(match self {
            Self::Io | Self::TooManyFiles => io::ErrorKind::Other,
            Self::NoSpace => io::ErrorKind::StorageFull,
            Self::Quota => io::ErrorKind::QuotaExceeded,
            Self::Interrupted => io::ErrorKind::Interrupted,
            Self::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
        })
    }
}

/// How often a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// The first time that it can.
    Once,
    /// Every time.
    Forever,
}

/// An error that a [`SimStorage`](super::SimStorage) is to give.
///
/// ```
/// use thalweg::testing::{Errno, Fault, Operation, Repeat};
/// let at_operation_17 = Fault::new(Errno::Io, Repeat::Once).from_operation(17);
/// let no_log_syncs = Fault::new(Errno::NoSpace, Repeat::Forever).on(Operation::Sync).path(".log");
/// # let _ = (at_operation_17, no_log_syncs);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    errno: Errno,
    repeat: Repeat,
    from: u64,
    exactly: bool,
    operation: Option<Operation>,
    path: Option<String>,
    leaves: AfterFailedSync,
}

impl Fault {
    /// A fault that strikes every operation that can give this error; narrow it with the other methods.
    #[must_use]
    pub fn new(errno: Errno, repeat: Repeat) -> Self {
        Self { errno, repeat, from: 0, exactly: false, operation: None, path: None, leaves: AfterFailedSync::KeepsNew }
    }

    /// Strikes from the operation of this number on; once means that very one, or never.
    #[must_use]
    pub fn from_operation(self, number: u64) -> Self {
        Self { from: number, exactly: self.repeat == Repeat::Once, ..self }
    }

    /// Strikes operations of this kind.
    #[must_use]
    pub fn on(self, operation: Operation) -> Self {
        Self { operation: Some(operation), ..self }
    }

    /// Strikes where the path contains this.
    #[must_use]
    pub fn path(self, part: impl Into<String>) -> Self {
        Self { path: Some(part.into()), ..self }
    }

    /// What becomes of a file whose sync it fails; [`AfterFailedSync::KeepsNew`] when nothing is said.
    #[must_use]
    pub fn leaves(self, leaves: AfterFailedSync) -> Self {
        Self { leaves, ..self }
    }

    /// What becomes of a file whose sync it failed.
    pub(super) fn left(&self) -> AfterFailedSync {
        self.leaves
    }

    /// The error, when the fault strikes.
    pub(super) fn strike(&self, number: u64, operation: Operation, path: &str) -> Option<Errno> {
        let in_time = if self.exactly { number == self.from } else { number >= self.from };
        let strikes = in_time
            && self.operation.is_none_or(|wanted| wanted == operation)
            && self.path.as_ref().is_none_or(|part| path.contains(part.as_str()))
            && self.errno.can_come_from(operation);
        strikes.then_some(self.errno)
    }

    /// Whether it has nothing more to do once it has struck.
    pub(super) fn ends(&self) -> bool {
        self.repeat == Repeat::Once
    }
}

//! One opaque error for the whole crate: what happened, where, and what to do about it.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::types::{Offset, TopicPartition};

/// A `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed. Kafka's numeric codes exist only in its wire protocol; these are their
/// meanings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller passed something that can never work.
    InvalidArgument,
    /// A configuration name or value is not acceptable.
    InvalidConfig,
    /// A topic name breaks Kafka's rules.
    InvalidTopicName,
    /// No topic of that name, or no partition of that number.
    UnknownTopicOrPartition,
    /// A topic of that name exists already.
    TopicExists,
    /// The topic behind this handle was deleted, even if one of its name exists again.
    TopicDeleted,
    /// The offset lies below the log start or beyond the log end.
    OffsetOutOfRange,
    /// The log start advanced past the reader's position: records that it had not read are gone.
    Overtaken,
    /// No position is known and the start policy is `Start::None`.
    NoOffset,
    /// Bytes on disk or in a batch are damaged.
    Corrupt,
    /// A format or version that this release does not read.
    Unsupported,
    /// The batch or record is larger than the topic or log allows.
    TooLarge,
    /// A record or batch breaks a rule of the format or of its topic.
    InvalidRecord,
    /// Data could not be written as the bytes of a key or value, or not be read from them.
    Serialization,
    /// A timestamp lies outside what the topic accepts.
    InvalidTimestamp,
    /// The log, or what it holds of a key, does not end where the append expected: somebody else appended.
    Conflict,
    /// A key index has no room for more keys, and cannot say whether this one is new.
    KeyIndexFull,
    /// An idempotent producer skipped or repeated sequence numbers.
    OutOfOrderSequence,
    /// A newer producer with the same id has taken over.
    ProducerFenced,
    /// The batch does not fit the state of its transaction.
    InvalidTxnState,
    /// The leader epoch is older than the partition's.
    FencedLeaderEpoch,
    /// The leader epoch is newer than the partition's.
    UnknownLeaderEpoch,
    /// The partition's log is in another directory, or nowhere known.
    Absent,
    /// Another node leads this partition.
    NotLeader,
    /// Another node coordinates this group or transaction.
    NotCoordinator,
    /// The member's generation is over: it must take its new assignment before it commits.
    IllegalGeneration,
    /// The group does not know this member, or has removed it.
    UnknownMember,
    /// The group is rebalancing.
    RebalanceInProgress,
    /// The group still has members.
    GroupNotEmpty,
    /// The group is of another type, such as a share group, than the call is for.
    InconsistentGroupProtocol,
    /// No group of that id.
    UnknownGroup,
    /// Nothing happened within the time allowed.
    TimedOut,
    /// A waker interrupted the call.
    Interrupted,
    /// The handle, topic or broker is closed.
    Closed,
    /// Another process, or another handle in this one, holds the directory.
    Locked,
    /// The directory can be read but not written by this release.
    ReadOnly,
    /// No space is left, or a byte budget is used up.
    StorageFull,
    /// The outcome is unknown: a sync failed, so the data may or may not survive.
    Indeterminate,
    /// An earlier failure stopped appends to this partition until it is reopened or, where a directory could not be
    /// synced or the file system is read-only, all changes until the broker is opened again.
    Poisoned,
    /// The process was forked from the one that opened the directory, which alone may change it. Reading goes on.
    Forked,
    /// The process or the machine has no file descriptor left. Nothing on the disk was found wrong, nor changed.
    TooManyOpenFiles,
    /// The operating system refused or failed.
    Io,
}

/// What went wrong, where, and how to mend it. Cheap to clone.
///
/// ```
/// use thalweg::{Broker, ErrorKind};
/// let broker = Broker::in_memory()?;
/// let error = broker.topic("no such topic").open().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidTopicName);
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    path: Option<PathBuf>,
    partition: Option<TopicPartition>,
    offset: Option<Offset>,
    offsets: Option<Range<Offset>>,
    remedy: Option<Cow<'static, str>>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// What mends a store that was halted.
const OPEN_AGAIN: &str = "mend the file system, then close the broker or log and open it again";

/// What a process may do that was forked with a store open.
const FORK_FIRST: &str = "fork first, and open the broker or log in the process that works with it";

impl Error {
    /// An error that says `message`; add the place and the remedy with the methods below.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            path: None,
            partition: None,
            offset: None,
            offsets: None,
            remedy: None,
            source: None,
        }))
    }

    /// An operating-system failure while doing `what` to `path`.
    #[must_use]
    pub(crate) fn io(what: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
            _ if is_out_of_descriptors(&source) => ErrorKind::TooManyOpenFiles,
            _ if is_halted(&source) => ErrorKind::Poisoned,
            _ if is_forked(&source) => ErrorKind::Forked,
            _ if is_closed(&source) => ErrorKind::Closed,
            _ if is_unsynced(&source) => return Self::unsynced(path, source),
            _ => ErrorKind::Io,
        };
        let error = Self::new(kind, what).path(path.as_ref()).source(source);
        match kind {
            ErrorKind::Poisoned => error.remedy(OPEN_AGAIN),
            ErrorKind::Forked => error.remedy(FORK_FIRST),
            ErrorKind::TooManyOpenFiles => {
                error.remedy("raise the limit on open files (ulimit -n), or let the application hold fewer")
            }
            _ => error,
        }
    }

    /// `what` only the process `owner` has, of which this one is a fork.
    pub(crate) fn forked(what: &'static str, owner: u32) -> Self {
        let source = Forked { owner, own: std::process::id() };
        Self::new(ErrorKind::Forked, what).source(source).remedy(FORK_FIRST)
    }

    /// A sync that failed. It is not tried again: the system may have dropped what it could not write, and say "done" then.
    pub(crate) fn unsynced(path: impl AsRef<Path>, source: io::Error) -> Self {
        if is_forked(&source) || is_closed(&source) {
            return Self::io("nothing was synced", path, source);
        }
        let message = "a sync failed: what was written since the last one may or may not survive";
        let remedy = match is_halted(&source) {
            true => OPEN_AGAIN,
            false => "reopen the partition: recovery finds what is there",
        };
        Self::new(ErrorKind::Indeterminate, message).path(path.as_ref()).source(source).remedy(remedy)
    }

    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Whether space or a file descriptor was wanting: what was to be written was not begun, and may be later.
    pub(crate) fn is_of_shortage(&self) -> bool {
        matches!(self.0.kind, ErrorKind::StorageFull | ErrorKind::TooManyOpenFiles)
    }

    /// Whether it tells of a whole store that was halted.
    pub(crate) fn is_of_halt(&self) -> bool {
        self.0.source.as_deref().and_then(|cause| cause.downcast_ref()).is_some_and(is_halted)
    }

    /// Names the file or directory concerned.
    #[must_use]
    pub fn path(self, path: impl Into<PathBuf>) -> Self {
        self.edit(|e| e.path = Some(path.into()))
    }

    /// Names the partition concerned.
    #[must_use]
    pub fn partition(self, partition: TopicPartition) -> Self {
        self.edit(|e| e.partition = Some(partition))
    }

    /// Names the offset concerned.
    #[must_use]
    pub fn offset(self, offset: impl Into<Offset>) -> Self {
        self.edit(|e| e.offset = Some(offset.into()))
    }

    /// Names the offsets concerned, from the first to before the second.
    #[must_use]
    pub fn offsets(self, offsets: Range<Offset>) -> Self {
        self.edit(|e| e.offsets = Some(offsets))
    }

    /// Says what to do about it.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.edit(|e| e.remedy = Some(remedy.into()))
    }

    /// Keeps the cause.
    #[must_use]
    pub fn source(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.edit(|e| e.source = Some(Arc::new(source)))
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The partition concerned, where there is one.
    #[must_use]
    pub fn topic_partition(&self) -> Option<&TopicPartition> {
        self.0.partition.as_ref()
    }

    /// The offset concerned, where there is one. For [`ErrorKind::Overtaken`] it is the first
    /// offset that can still be read.
    #[must_use]
    pub fn at_offset(&self) -> Option<Offset> {
        self.0.offset
    }

    /// All offsets concerned, where they are known: what is lost to damage, from the first to before the second.
    /// Reading goes on at the second.
    #[must_use]
    pub fn at_offsets(&self) -> Option<Range<Offset>> {
        self.0.offsets.clone()
    }

    /// The file or directory concerned, where there is one.
    #[must_use]
    pub fn at_path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Whether the same call may succeed later without any other change by the caller.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::TimedOut
                | ErrorKind::StorageFull
                | ErrorKind::TooManyOpenFiles
                | ErrorKind::RebalanceInProgress
                | ErrorKind::NotLeader
                | ErrorKind::NotCoordinator
                | ErrorKind::Interrupted
        )
    }
}

/// Why a whole store takes no more changes.
#[derive(Clone, Debug)]
pub(crate) struct Halted(pub(crate) String);

impl fmt::Display for Halted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing is written any more since {}", self.0)
    }
}

impl std::error::Error for Halted {}

/// Why a process may not change a directory that is open in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forked {
    pub(crate) owner: u32,
    pub(crate) own: u32,
}

impl fmt::Display for Forked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, own } = self;
        write!(f, "process {own} is a fork of process {owner}, which opened the directory and alone writes there")
    }
}

impl std::error::Error for Forked {}

/// Why nothing more can be opened: whoever opened the directory has closed it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StorageClosed;

impl fmt::Display for StorageClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the broker is closed")
    }
}

impl std::error::Error for StorageClosed {}

/// Why a file that few descriptors are open of takes no more: an earlier sync of it failed, and nobody was told.
#[derive(Clone, Debug)]
pub(crate) struct Unsynced(pub(crate) String);

impl fmt::Display for Unsynced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an earlier sync of this file failed: {}", self.0)
    }
}

impl std::error::Error for Unsynced {}

fn is_unsynced(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<Unsynced>())
}

fn is_closed(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<StorageClosed>())
}

fn is_forked(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<Forked>())
}

fn is_halted(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<Halted>())
}

/// Whether an operation failed because the process or the machine has no file descriptor left.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    #[cfg(unix)]
    let numbers = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].map(rustix::io::Errno::raw_os_error);
    #[cfg(not(unix))]
    let numbers = [ERROR_TOO_MANY_OPEN_FILES];
    error.raw_os_error().is_some_and(|number| numbers.contains(&number))
}

#[cfg(not(unix))]
const ERROR_TOO_MANY_OPEN_FILES: i32 = 4;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        f.write_str(&e.message)?;
        if let Some(partition) = &e.partition {
            write!(f, ", partition {partition}")?;
        }
        match (&e.offsets, e.offset) {
            (Some(Range { start, end }), _) => write!(f, ", offsets {start} to before {end}")?,
            (None, Some(offset)) => write!(f, ", offset {offset}")?,
            (None, None) => {}
        }
        if let Some(path) = &e.path {
            write!(f, ", path {}", path.display())?;
        }
        if let Some(source) = &e.source {
            write!(f, ": {source}")?;
        }
        if let Some(remedy) = &e.remedy {
            write!(f, " ({remedy})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as _)
    }
}

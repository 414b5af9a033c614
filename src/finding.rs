//! What opening a directory found that its owner should know, and what was done about it. Every floor
//! may find something; the broker gathers it. A finding is never the only trace of a failed call: that
//! is an error.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::types::{Offset, TopicPartition};

/// What a [`Finding`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// The directory takes no changes, and why.
    ReadOnly,
    /// There is no metadata log: topics were taken from the directories, without their configs.
    NoCatalog,
    /// Another program wrote here since; our own notes of its logs are no evidence any more.
    ForeignWriter,
    /// A directory or file that belongs to no topic: `-stray`, `-future`, `-delete`, or unknown.
    Leftover,
    /// A partition whose log is not in this directory.
    Absent,
    /// An unfinished write at the end of a log, which was cut off.
    TornTail,
    /// Bytes that are there and unsound: reads of these offsets fail, the rest is served.
    Damaged,
    /// Offsets whose bytes are gone.
    Lost,
    /// Offsets that were left out because somebody outside may know them.
    Skipped,
    /// An index, snapshot or checkpoint that was missing or wrong, and was made anew from the log.
    Rebuilt,
    /// A header field outside the checksum that contradicts its neighbours; what they say is served.
    Corrected,
    /// A transaction that nobody ended: read-committed readers wait below it.
    OpenTransaction,
    /// The wall clock leapt ahead since the directory was last in use: nothing is deleted for its age for a while.
    ClockLeapt,
    /// A record of an internal topic that is not understood; it was left as it is.
    UnknownRecord,
    /// Records of a producer that was dropped, which it was still to send, or the log had and could not keep; nobody asked
    /// for them.
    NotSent,
    /// The directory is on a file system that may keep less than it promises: one over a network, served by a program,
    /// in memory, or a container's overlay.
    FileSystem,
}

/// One thing that was found.
///
/// ```
/// let broker = thalweg::Broker::in_memory()?;
/// assert_eq!(broker.findings(), []);
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Finding {
    /// What it is about.
    pub kind: FindingKind,
    /// What was found and what was done, in words.
    pub message: String,
    /// The file or directory concerned.
    pub path: Option<PathBuf>,
    /// The partition concerned.
    pub partition: Option<TopicPartition>,
    /// The offsets concerned.
    pub offsets: Option<Range<Offset>>,
}

impl Finding {
    pub(crate) fn new(kind: FindingKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), path: None, partition: None, offsets: None }
    }

    pub(crate) fn path(mut self, path: impl AsRef<Path>) -> Self {
        self.path = Some(path.as_ref().to_owned());
        self
    }

    pub(crate) fn partition(mut self, partition: TopicPartition) -> Self {
        self.partition = Some(partition);
        self
    }

    pub(crate) fn offsets(mut self, offsets: Range<Offset>) -> Self {
        self.offsets = Some(offsets);
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(partition) = &self.partition {
            write!(f, "{partition}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(Range { start, end }) = self.offsets {
            write!(f, " (offsets {start} to before {end})")?;
        }
        match &self.path {
            Some(path) => write!(f, " [{}]", path.display()),
            None => Ok(()),
        }
    }
}

/// Findings that are kept: files that were made to cost memory make no more.
const KEPT_MAX: usize = 1 << 17;

/// Where findings are gathered. The same one twice counts once.
#[derive(Debug, Default)]
pub(crate) struct Findings(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    in_order: Vec<Arc<Finding>>,
    /// A directory may have a hundred thousand partitions to tell of.
    known: HashSet<Arc<Finding>>,
    /// Those that were too many.
    left_out: u64,
}

impl Findings {
    pub(crate) fn add(&self, finding: Finding) {
        let (mut all, finding) = (self.0.lock(), Arc::new(finding));
        if all.in_order.len() == KEPT_MAX {
            all.left_out += 1;
        } else if all.known.insert(Arc::clone(&finding)) {
            all.in_order.push(finding);
        }
    }

    pub(crate) fn all(&self) -> Vec<Finding> {
        let all = self.0.lock();
        let mut found: Vec<_> = all.in_order.iter().map(|finding| Finding::clone(finding)).collect();
        if let (Some(last), true) = (found.last_mut(), all.left_out > 0) {
            last.message = format!("{}; after this, {} more were not kept", last.message, all.left_out);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_findings_are_counted_and_not_kept() {
        let findings = Findings::default();
        for n in 0..KEPT_MAX + 3 {
            findings.add(Finding::new(FindingKind::Absent, n.to_string()));
        }
        let all = findings.all();
        assert_eq!((all.len(), all[1].message.as_str()), (KEPT_MAX, "1"));
        assert!(all[KEPT_MAX - 1].message.ends_with("after this, 3 more were not kept"));
    }
}

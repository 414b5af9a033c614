//! What opening a log found and did, for programs and, in one line, for people.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use crate::types::{Offset, all_of};

all_of! {
    /// A row of the recovery table: a state that was found on disk, and by that what was done about it. The table is in
    /// [`docs::recovery`](crate::docs::recovery), in this order.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[non_exhaustive]
    pub enum RecoveryRow {
        /// No directory, or no segment in it: the log starts empty.
        Fresh,
        /// Closed cleanly, with proof: nothing was scanned.
        Clean,
        /// Nothing of our own speaks of a log that is there: its state slot is lost, both copies of it. The recovery
        /// point and seals stand in for it.
        StateLost,
        /// A truncation that a crash cut short was finished.
        TruncationFinished,
        /// Scanned from the recovery point on, and sound to its end.
        Scanned,
        /// A segment that had ended was not sealed yet: checksums and continuity judged it.
        RolledUnsealed,
        /// A derived file was missing or wrong, and was made anew: an index, a producer snapshot, the leader epochs.
        DerivedRebuilt,
        /// An unfinished write was cut off the end.
        TornTail,
        /// The last writes before a loss of power had a hole: cut there, with the sound batches behind it. Nobody was
        /// promised them.
        TornGroup,
        /// On a log that need not survive loss of power, one took more than the end: cut there.
        TornUnsynced,
        /// Durable bytes at the end are damaged, or gone: they were kept as they are, and the log goes on above.
        DamagedTail,
        /// Beside `DamagedTail`: the damage lies further back from the end than bytes ever waited for a sync.
        RotBeyondCap,
        /// Beside another row: the disk could not read the place, several times.
        Unreadable,
        /// Bytes inside a segment that had ended are damaged, or something is missing behind it: kept as it is.
        DamagedSegment,
        /// A sealed segment is shorter or longer than it was.
        SizeDiffers,
        /// A sealed segment has its length, and holds other batches.
        SealDiffers,
        /// A sealed segment is gone.
        MissingSegment,
        /// Offsets were left out because they may be known outside; the log goes on above them in a higher leader
        /// epoch.
        Reserved,
    }
}

impl fmt::Display for RecoveryRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

/// What opening a log found and did. Its `Display` is one line, the same fields in the same order in all releases.
///
/// ```
/// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
/// use thalweg::{Log, LogConfig, RecoveryRow};
/// let log = Log::open(dir.path().join("events-0"), LogConfig::default())?;
/// assert_eq!(log.recovery().rows, [RecoveryRow::Fresh]);
/// assert!(log.recovery().to_string().starts_with("rows=Fresh scanned=0 cut=0 "));
/// # log.close()?;
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRecovery {
    /// The rows taken, in the order of the table.
    pub rows: Vec<RecoveryRow>,
    /// Bytes that were scanned.
    pub scanned_bytes: u64,
    /// Bytes that were cut off the end, or with the segments behind it.
    pub cut_bytes: u64,
    /// Where what was cut off is kept, as far as there was room; see [`docs::recovery`](crate::docs::recovery).
    pub kept: Vec<PathBuf>,
    /// The offsets that damage costs, where it was found: reads of them fail, the rest is served.
    pub damaged: Vec<Range<Offset>>,
    /// Transactions that were open where damage was found, up to there: their end may lie in it. What the producer did
    /// next then decides what a read-committed reader sees of them. Told by the opening that finds the damage alone.
    pub undecided: Vec<Range<Offset>>,
    /// How long it took, by the monotonic clock.
    pub took: Duration,
}

impl LogRecovery {
    /// Notes that a row was taken.
    pub(super) fn take(&mut self, row: RecoveryRow) {
        if let Err(at) = self.rows.binary_search(&row) {
            self.rows.insert(at, row);
        }
    }
}

impl fmt::Display for LogRecovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: Vec<String>| if items.is_empty() { "-".to_owned() } else { items.join(",") };
        let rows = list(self.rows.iter().map(RecoveryRow::to_string).collect());
        let kept = list(self.kept.iter().map(|path| path.display().to_string()).collect());
        let ranges = |of: &[Range<Offset>]| list(of.iter().map(|r| format!("{}..{}", r.start, r.end)).collect());
        let (damaged, undecided) = (ranges(&self.damaged), ranges(&self.undecided));
        let Self { scanned_bytes, cut_bytes, took, .. } = self;
        let millis = took.as_millis();
        write!(
            f,
            "rows={rows} scanned={scanned_bytes} cut={cut_bytes} damaged={damaged} kept={kept} took_ms={millis} "
        )?;
        write!(f, "undecided={undecided}")
    }
}

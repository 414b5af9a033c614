//! What opening a directory found and did, gathered: what concerns all of it, and what each log said of its own
//! opening. What it means is the business of the recovery table (`docs::recovery`).

use std::fmt;
use std::path::PathBuf;

use super::Broker;
use crate::error::Error;
use crate::log::LogRecovery;
use crate::types::TopicPartition;

/// How a directory was left by whoever had it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LastClose {
    /// Nobody had it: this opening made it.
    Never,
    /// With the mark of a stop in good order, this crate's or a stock broker's.
    InOrder,
    /// Without one: the process was killed, power was lost, or something could not be written at the close.
    Abrupt,
}

/// What opening a directory found and did; from [`Broker::recovery_report`]. Its `Display` is one line for the
/// directory and one for each partition, the same fields in the same order in all releases.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The directory.
    pub dir: PathBuf,
    /// How it was left.
    pub last_close: LastClose,
    /// Another program wrote here since this crate last had the directory, or nothing says that none did: what this
    /// crate had noted of the logs was dropped.
    pub foreign_writer: bool,
    /// The file of our own state, `thalweg.state`, was begun anew, in a directory that is not new: it was missing, or
    /// dropped because of a foreign writer.
    pub state_begun_anew: bool,
    /// The partitions that were opened, by topic and number, Kafka's own topics included.
    pub partitions: Vec<PartitionRecovery>,
    /// How many partitions of this directory were not opened so far.
    pub unopened: usize,
}

/// A partition of a [`RecoveryReport`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionRecovery {
    /// The partition.
    pub partition: TopicPartition,
    /// What its last opening found and did, or why that failed.
    pub outcome: Result<LogRecovery, Error>,
}

impl Broker {
    /// What opening the directory found and did, for programs; [`findings`](Self::findings) says it in words.
    ///
    /// A partition that was closed in order is opened when it is first used. Until then it is not in the report, but
    /// among [`unopened`](RecoveryReport::unopened): asking opens nothing. Answers after [`close`](Self::close), too.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
    /// # let path = dir.path().join("data");
    /// use thalweg::{Broker, LastClose, RecoveryRow};
    /// let broker = Broker::open(&path)?;
    /// broker.topic("orders").create()?.send(("user-1", "paid"))?;
    /// drop(broker); // as if the process had been killed
    ///
    /// let broker = Broker::open(&path)?;
    /// let report = broker.recovery_report();
    /// assert_eq!(report.last_close, LastClose::Abrupt);
    /// let orders = &report.partitions[0];
    /// assert_eq!(orders.partition.to_string(), "orders-0");
    /// assert_eq!(orders.outcome.as_ref().map(|log| log.rows.contains(&RecoveryRow::Scanned)).ok(), Some(true));
    /// println!("{report}");
    /// # broker.close()?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    #[must_use]
    pub fn recovery_report(&self) -> RecoveryReport {
        let topics = self.inner.registry.all();
        let mut report = RecoveryReport { partitions: Vec::new(), unopened: 0, ..self.inner.opening.clone() };
        for partition in topics.iter().flat_map(|topic| topic.partitions()) {
            match partition.recovery() {
                Some(outcome) => {
                    let partition = partition.name().clone();
                    report.partitions.push(PartitionRecovery { partition, outcome });
                }
                None => report.unopened += 1,
            }
        }
        report
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dir, last_close, foreign_writer, state_begun_anew, partitions, unopened } = self;
        let opened = partitions.len();
        write!(f, "last_close={last_close:?} foreign_writer={foreign_writer} state_begun_anew={state_begun_anew} ")?;
        write!(f, "opened={opened} unopened={unopened} dir={}", dir.display())?;
        partitions.iter().try_for_each(|partition| write!(f, "\n{partition}"))
    }
}

impl fmt::Display for PartitionRecovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Ok(recovery) => write!(f, "{} {recovery}", self.partition),
            Err(error) => write!(f, "{} error={}", self.partition, error.to_string().replace('\n', " ")),
        }
    }
}

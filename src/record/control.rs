//! Control records: what brokers write into a log for each other, never seen by applications.
//!
//! ```text
//!  key:   version i16 | type i16 (newer versions may be longer)
//!  value of a transaction's end marker:  version i16 | coordinator epoch i32
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::record::batch::RecordBatch;
use crate::record::builder::BatchBuilder;
use crate::record::decoded::RecordRef;
use crate::types::{ProducerId, Timestamp};
use crate::wire::{Reader, Writer};

/// What a control record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ControlType {
    /// The producer's transaction was aborted (KIP-98).
    Abort,
    /// The producer's transaction was committed (KIP-98).
    Commit,
    /// The metadata log has a new leader (KIP-595).
    LeaderChange,
    /// A metadata snapshot begins (KIP-630).
    SnapshotHeader,
    /// A metadata snapshot is complete (KIP-630).
    SnapshotFooter,
    /// The version of the metadata quorum's protocol (KIP-853).
    KRaftVersion,
    /// The voters of the metadata quorum (KIP-853).
    KRaftVoters,
    /// A type that this release does not know. Readers pass over it.
    Unknown(i16),
}

impl ControlType {
    const KEY_VERSION: i16 = 0;

    const fn from_id(id: i16) -> Self {
        match id {
            0 => Self::Abort,
            1 => Self::Commit,
            2 => Self::LeaderChange,
            3 => Self::SnapshotHeader,
            4 => Self::SnapshotFooter,
            5 => Self::KRaftVersion,
            6 => Self::KRaftVoters,
            other => Self::Unknown(other),
        }
    }

    const fn id(self) -> i16 {
        match self {
            Self::Abort => 0,
            Self::Commit => 1,
            Self::LeaderChange => 2,
            Self::SnapshotHeader => 3,
            Self::SnapshotFooter => 4,
            Self::KRaftVersion => 5,
            Self::KRaftVoters => 6,
            Self::Unknown(id) => id,
        }
    }

    /// Reads the type from the key of a control record.
    pub(crate) fn of(record: &RecordRef<'_>) -> Result<Self> {
        let missing = || Error::new(ErrorKind::Corrupt, "control record has no key").offset(record.offset());
        let mut key = Reader::new(record.key().ok_or_else(missing)?);
        let _any_version = key.i16().map_err(|e| e.offset(record.offset()))?;
        key.i16().map(Self::from_id).map_err(|e| e.offset(record.offset()))
    }

    /// The key of a control record of this type.
    pub(super) fn key(self) -> [u8; 4] {
        let [version_high, version_low] = Self::KEY_VERSION.to_be_bytes();
        let [id_high, id_low] = self.id().to_be_bytes();
        [version_high, version_low, id_high, id_low]
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TxnOutcome {
    /// Its records count.
    Commit,
    /// Its records are to be passed over.
    Abort,
}

/// The marker that ends a transaction in one partition (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndMarker {
    /// Committed or aborted.
    pub outcome: TxnOutcome,
    /// The epoch of the transaction coordinator that decided it.
    pub coordinator_epoch: i32,
}

impl EndMarker {
    const VERSION: i16 = 0;

    /// Reads the marker, `None` when `record` is a control record of another kind.
    pub(super) fn of(record: &RecordRef<'_>) -> Result<Option<Self>> {
        let outcome = match ControlType::of(record)? {
            ControlType::Commit => TxnOutcome::Commit,
            ControlType::Abort => TxnOutcome::Abort,
            _ => return Ok(None),
        };
        let missing = || Error::new(ErrorKind::Corrupt, "transaction marker has no value").offset(record.offset());
        let mut value = Reader::new(record.value().ok_or_else(missing)?);
        let _any_version = value.i16().map_err(|e| e.offset(record.offset()))?;
        let coordinator_epoch = value.i32().map_err(|e| e.offset(record.offset()))?;
        Ok(Some(Self { outcome, coordinator_epoch }))
    }
}

impl BatchBuilder {
    /// The control batch that ends the transaction of `producer` in one partition.
    ///
    /// ```
    /// use thalweg::{BatchBuilder, EndMarker, ProducerId, Timestamp, TxnOutcome};
    /// let marker = EndMarker { outcome: TxnOutcome::Commit, coordinator_epoch: 9 };
    /// let batch = BatchBuilder::end_marker(marker, ProducerId::new(4000), 3, Timestamp::new(1_000))?;
    /// assert!(batch.header().is_control() && batch.header().is_transactional());
    /// assert_eq!(batch.end_marker()?, Some(marker));
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// None that arguments can cause; a record this small always fits.
    pub fn end_marker(
        marker: EndMarker,
        producer: ProducerId,
        producer_epoch: i16,
        timestamp: Timestamp,
    ) -> Result<RecordBatch> {
        let kind = match marker.outcome {
            TxnOutcome::Commit => ControlType::Commit,
            TxnOutcome::Abort => ControlType::Abort,
        };
        let mut value = Writer::new();
        value.put_i16(EndMarker::VERSION);
        value.put_i32(marker.coordinator_epoch);
        let mut builder = Self::new().control().transactional().producer(producer, producer_epoch, -1);
        builder.push_control(timestamp, kind, value.as_slice())?;
        builder.finish()
    }
}

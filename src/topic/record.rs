//! From batches to records as scans and tails hand them out. A record keeps its batch's bytes alive
//! and copies nothing.

use std::fmt;

use bytes::Bytes;

use crate::error::Result;
use crate::record::{DecodedBatch, Header, RecordBatch, RecordRef};
use crate::types::{LeaderEpoch, Offset, PartitionId, Start, Timestamp, TopicPartition};

/// Where a reader starts.
///
/// Made from a [`Start`], an [`Offset`] or a [`Timestamp`]:
///
/// ```
/// use thalweg::{Offset, ReadFrom, Start, Timestamp};
/// assert_eq!(ReadFrom::from(Start::Latest), ReadFrom::Start(Start::Latest));
/// assert_eq!(ReadFrom::from(Offset::new(7)), ReadFrom::Offset(Offset::new(7)));
/// assert_eq!(ReadFrom::from(Timestamp::new(1_000)), ReadFrom::Time(Timestamp::new(1_000)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadFrom {
    /// At the log start or at the end; with [`Start::None`] reading fails with `NoOffset`.
    Start(Start),
    /// At this offset.
    Offset(Offset),
    /// At the first record, in offset order, whose timestamp is at least this; at the end when there is
    /// none.
    Time(Timestamp),
}

impl From<Start> for ReadFrom {
    fn from(start: Start) -> Self {
        Self::Start(start)
    }
}

impl From<Offset> for ReadFrom {
    fn from(offset: Offset) -> Self {
        Self::Offset(offset)
    }
}

impl From<Timestamp> for ReadFrom {
    fn from(time: Timestamp) -> Self {
        Self::Time(time)
    }
}

/// One record as a reader gets it: owned, `Send + 'static`, cheap to clone. It shares the memory of its
/// batch, so a record that is kept long keeps its batch in memory.
///
/// ```
/// use thalweg::{Broker, Start};
/// let broker = Broker::in_memory()?;
/// let orders = broker.topic("orders").create()?;
/// orders.send(("user-1", "paid"))?;
/// for record in orders.scan(Start::Earliest) {
///     let record = record?;
///     assert_eq!((record.key(), record.value()), (Some(&b"user-1"[..]), Some(&b"paid"[..])));
///     assert_eq!((record.topic(), record.offset().get()), ("orders", 0));
/// }
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    at: TopicPartition,
    offset: Offset,
    timestamp: Timestamp,
    leader_epoch: LeaderEpoch,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<Header>,
}

impl OwnedRecord {
    pub(crate) fn new(at: &TopicPartition, batch: &DecodedBatch, record: &RecordRef<'_>) -> Self {
        Self {
            at: at.clone(),
            offset: record.offset(),
            timestamp: record.timestamp(),
            leader_epoch: batch.header().leader_epoch(),
            key: record.key().map(|k| batch.slice(k)),
            value: record.value().map(|v| batch.slice(v)),
            headers: owned_headers(batch, record),
        }
    }

    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.at.topic()
    }

    /// The partition's number.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.at.partition()
    }

    /// Topic and partition together.
    #[must_use]
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.at
    }

    /// The record's place in its partition.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The producer's time of the record, or the time of its append where the topic says
    /// `message.timestamp.type=LogAppendTime`.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// The leader epoch in which its batch was appended (KIP-101).
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// The key; `None` when the record has none, which is not the same as an empty one.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The value; `None` for a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// The key without a copy.
    #[must_use]
    pub fn key_bytes(&self) -> Option<&Bytes> {
        self.key.as_ref()
    }

    /// The value without a copy.
    #[must_use]
    pub fn value_bytes(&self) -> Option<&Bytes> {
        self.value.as_ref()
    }

    /// The headers in order, duplicates kept.
    #[must_use]
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }
}

impl fmt::Debug for OwnedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedRecord")
            .field("at", &self.at)
            .field("offset", &self.offset)
            .field("timestamp", &self.timestamp)
            .field("key", &self.key)
            .field("value", &self.value)
            .field("headers", &self.headers)
            .finish()
    }
}

/// The headers of a record of `batch`, sharing its memory.
pub(crate) fn owned_headers(batch: &DecodedBatch, record: &RecordRef<'_>) -> Vec<Header> {
    let owned = |(key, value): (&str, Option<&[u8]>)| match value {
        Some(value) => Header::new(key, batch.slice(value)),
        None => Header::null(key),
    };
    record.headers().map(owned).collect()
}

/// Decodes one batch and passes its records from offset `from` on; damage is named with its place.
pub(crate) fn decode_from(
    at: &TopicPartition,
    batch: &RecordBatch,
    from: Offset,
    mut each: impl FnMut(&DecodedBatch, &RecordRef<'_>) -> Result<()>,
) -> Result<()> {
    let base = batch.header().base_offset();
    let place = |error: crate::error::Error| error.partition(at.clone()).offset(base);
    let decoded = batch.decode().map_err(place)?;
    for record in decoded.iter() {
        let record = record.map_err(place)?;
        if record.offset() >= from {
            each(&decoded, &record)?;
        }
    }
    Ok(())
}

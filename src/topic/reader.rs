//! From fetched batches to records: what scans, tails and consumers share.

use std::sync::Arc;

use crate::error::Result;
use crate::log::LogOffsets;
use crate::record::{DecodedBatch, RecordRef};
use crate::types::{Offset, Start, Timestamp, TopicPartition};

/// Where a reader starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadFrom {
    /// At the log start, at the end, or nowhere.
    Start(Start),
    /// At this offset; the next one above it when it holds no record.
    Offset(Offset),
    /// At the first record, in offset order, whose timestamp is at least this.
    Time(Timestamp),
}
// From<Start>, From<Offset>, From<Timestamp> for ReadFrom.

/// One owned record with its place. Public, `Send + 'static`, cheap to clone.
pub struct ConsumerRecord {}
// topic() partition() topic_partition() offset() timestamp() leader_epoch()
// key() -> Option<&[u8]>, value() -> Option<&[u8]>, key_bytes()/value_bytes() -> Option<&Bytes>, headers() -> &[Header]

impl ConsumerRecord {
    pub(crate) fn new(_at: &TopicPartition, _batch: &DecodedBatch, _record: &RecordRef<'_>) -> Self {
        todo!()
    }
}

/// What one fetch gave: whole batches that an application may see, and where to go on.
pub(crate) struct Fetched {}

impl Fetched {
    /// No batch to decode; `next_offset` may still have moved over control batches.
    pub(crate) fn is_empty(&self) -> bool {
        todo!()
    }

    pub(crate) fn next_offset(&self) -> Offset {
        todo!()
    }

    /// The log's offsets at the time of the read: lag is `offsets().last_stable` (or `high_watermark`)
    /// less the position.
    pub(crate) fn offsets(&self) -> LogOffsets {
        todo!()
    }

    /// The batches, decoded one by one. Records below the offset that was asked for are among those of
    /// the first: `records` leaves them out.
    pub(crate) fn decode(&self) -> impl Iterator<Item = Result<DecodedBatch>> + '_ {
        std::iter::empty()
    }

    /// All records from the offset that was asked for, owned. An undecodable batch is one error.
    pub(crate) fn records(&self) -> Result<Vec<ConsumerRecord>> {
        todo!()
    }
}

/// One topic as the broker lists it.
#[derive(Clone, Debug)]
pub(crate) struct TopicListing {
    pub(crate) name: Arc<str>,
    pub(crate) id: crate::types::Uuid,
    pub(crate) partitions: i32,
    pub(crate) internal: bool,
}

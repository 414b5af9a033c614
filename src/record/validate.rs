//! What a log checks before it takes a produced batch, and what it learns on the way.

use crate::error::{Error, ErrorKind, Result};
use crate::record::batch::RecordBatch;
use crate::record::decoded::RecordRef;
use crate::types::Timestamp;

/// What the records of a produced batch are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchFacts {
    /// The largest timestamp, from the records themselves or the log's append time.
    pub(crate) max_timestamp: Timestamp,
    /// The smallest timestamp other than -1, which stands for none; -1 when no record has one.
    pub(crate) min_timestamp: Timestamp,
    /// The offset delta of the first record with the largest timestamp.
    pub(crate) max_timestamp_delta: i32,
    /// Whether any record lacks a key, which compacted topics refuse.
    pub(crate) has_null_key: bool,
}

impl BatchFacts {
    /// The facts of a batch of no records.
    pub(super) const NONE: Self = Self {
        max_timestamp: Timestamp::NONE,
        min_timestamp: Timestamp::NONE,
        max_timestamp_delta: 0,
        has_null_key: false,
    };

    /// Takes the record at `delta` into account.
    #[inline]
    pub(super) fn add(&mut self, delta: i32, timestamp: Timestamp, has_key: bool) {
        if delta == 0 || timestamp > self.max_timestamp {
            self.max_timestamp = timestamp;
            self.max_timestamp_delta = delta;
        }
        if timestamp != Timestamp::NONE && (timestamp < self.min_timestamp || self.min_timestamp == Timestamp::NONE) {
            self.min_timestamp = timestamp;
        }
        self.has_null_key |= !has_key;
    }

    /// The facts once every record's time is that of the append.
    pub(super) const fn appended_at(self, now: Timestamp) -> Self {
        Self { max_timestamp: now, min_timestamp: now, max_timestamp_delta: 0, ..self }
    }
}

/// Checks a batch that a producer sent, as a Kafka broker does, and more strictly in one place: offset deltas
/// must be 0, 1, 2 .. in uncompressed batches too, else records would share or skip offsets. A batch from our
/// own builder is known to be right and is not looked through again.
///
/// # Errors
/// [`ErrorKind::InvalidRecord`] naming the rule; damage as [`RecordBatch::decode`].
pub(crate) fn validate_produced(batch: &RecordBatch) -> Result<BatchFacts> {
    let header = batch.header();
    if header.is_control() {
        return Err(invalid("a producer may not send a control batch"));
    }
    if header.delete_horizon().is_some() {
        return Err(invalid("a producer may not set a delete horizon"));
    }
    if i64::from(header.record_count()) != i64::from(header.last_offset_delta()) + 1 {
        let (count, last) = (header.record_count(), header.last_offset_delta());
        return Err(invalid(format!("batch of {count} records has the last offset delta {last}")));
    }
    if header.producer_id().get() > -1 && (header.base_sequence() < 0 || header.producer_epoch() < 0) {
        return Err(invalid("batch has a producer id but no sequence number or epoch"));
    }
    if header.is_transactional() && header.producer_id().get() < 0 {
        return Err(invalid("transactional batch has no producer id"));
    }
    match batch.known_facts() {
        Some(facts) => Ok(facts),
        None => look_through(batch),
    }
}

fn look_through(batch: &RecordBatch) -> Result<BatchFacts> {
    let decoded = batch.decode()?;
    let mut facts = BatchFacts::NONE;
    for (expected, record) in (0..).zip(&decoded) {
        let record: RecordRef<'_> = record?;
        if record.offset_delta() != expected {
            let delta = record.offset_delta();
            return Err(invalid(format!("record {expected} of the batch has offset delta {delta}")));
        }
        facts.add(expected, record.timestamp(), record.key().is_some());
    }
    Ok(facts)
}

#[cold]
fn invalid(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidRecord, what)
}

//! What a poll hands out: whole record batches, shared and not copied, each with the part of it that
//! is new. Owned and `Send`: nothing here borrows from the consumer.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use crate::group::Generation;
use crate::record::{DecodedBatch, Header, Headers, RecordIter, RecordPlace, RecordRef, TimestampType};
use crate::topic::{OwnedRecord, owned_headers};
use crate::types::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicPartition};

/// A run of records of one batch. They were all decoded once before, so they decode again.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) partition: TopicPartition,
    /// The generation in which the consumer held the partition.
    pub(super) generation: Generation,
    pub(super) batch: DecodedBatch,
    /// Where in the batch they begin, how many they are, and the offset after the last.
    pub(super) from: RecordPlace,
    pub(super) count: usize,
    pub(super) next: Offset,
}

impl Chunk {
    fn epoch(&self) -> Option<LeaderEpoch> {
        Some(self.batch.header().leader_epoch()).filter(|e| e.get() >= 0)
    }
}

/// The records of one [`Consumer::poll`](crate::Consumer::poll): owned, `Send` and `'static`, cheap to clone.
/// Records of one partition come in the order of their offsets.
///
/// ```
/// # use std::time::Duration;
/// # use thalweg::{Broker, Start};
/// # let broker = Broker::in_memory()?;
/// # broker.topic("orders").open_or_create()?.send(("user-1", "paid"))?;
/// # let mut consumer = broker.consumer_group("billing").consumer(["orders"]).join()?;
/// let records = consumer.poll(Duration::from_secs(1))?;
/// for record in &records {
///     println!("{} at {}: {:?}", record.topic(), record.offset(), record.value());
/// }
/// assert_eq!(records.len(), 1);
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Records {
    chunks: Vec<Chunk>,
    count: usize,
}

impl Records {
    pub(super) fn push(&mut self, chunk: Chunk) {
        self.count += chunk.count;
        self.chunks.push(chunk);
    }

    /// How many records these are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the poll brought nothing before its time was up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The records, partition by partition.
    #[must_use]
    pub fn iter(&self) -> RecordsIter<'_> {
        RecordsIter { chunks: self.chunks.iter(), current: None }
    }

    /// Per partition, the offset after the last of its records here: what to commit once all of
    /// them have been handled.
    #[must_use]
    pub fn next_offsets(&self) -> BTreeMap<TopicPartition, Offset> {
        // Later chunks of a partition hold later records and overwrite.
        self.chunks.iter().map(|chunk| (chunk.partition.clone(), chunk.next)).collect()
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("len", &self.count).field("next_offsets", &self.next_offsets()).finish()
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = ConsumerRecord<'a>;
    type IntoIter = RecordsIter<'a>;

    fn into_iter(self) -> RecordsIter<'a> {
        self.iter()
    }
}

impl IntoIterator for Records {
    type Item = OwnedRecord;
    type IntoIter = RecordsIntoIter;

    fn into_iter(self) -> RecordsIntoIter {
        RecordsIntoIter { chunks: self.chunks.into_iter(), current: Vec::new().into_iter() }
    }
}

/// The records of a [`Records`], one after the other, each owning its bytes (shared with its batch).
#[derive(Debug)]
pub struct RecordsIntoIter {
    chunks: std::vec::IntoIter<Chunk>,
    current: std::vec::IntoIter<OwnedRecord>,
}

impl Iterator for RecordsIntoIter {
    type Item = OwnedRecord;

    fn next(&mut self) -> Option<OwnedRecord> {
        loop {
            if let Some(record) = self.current.next() {
                return Some(record);
            }
            let chunk = self.chunks.next()?;
            let records = Records { count: chunk.count, chunks: vec![chunk] };
            self.current = records.iter().map(ConsumerRecord::into_owned).collect::<Vec<_>>().into_iter();
        }
    }
}

/// The records of a [`Records`], one after the other.
#[derive(Clone)]
pub struct RecordsIter<'a> {
    chunks: std::slice::Iter<'a, Chunk>,
    current: Option<(&'a Chunk, RecordIter<'a>, usize)>,
}

impl<'a> Iterator for RecordsIter<'a> {
    type Item = ConsumerRecord<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((chunk, records, left)) = &mut self.current
                && *left > 0
            {
                *left -= 1;
                if let Some(Ok(record)) = records.next() {
                    return Some(ConsumerRecord { chunk, record });
                }
            }
            let chunk = self.chunks.next()?;
            self.current = Some((chunk, chunk.batch.iter_from(chunk.from), chunk.count));
        }
    }
}

impl fmt::Debug for RecordsIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordsIter").finish_non_exhaustive()
    }
}

/// One record and where it comes from, borrowed from its [`Records`].
#[derive(Clone, Copy)]
pub struct ConsumerRecord<'a> {
    chunk: &'a Chunk,
    record: RecordRef<'a>,
}

impl<'a> ConsumerRecord<'a> {
    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &'a str {
        self.chunk.partition.topic()
    }

    /// The partition's number within its topic.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.chunk.partition.partition()
    }

    /// Topic and partition as one.
    #[must_use]
    pub fn topic_partition(&self) -> &'a TopicPartition {
        &self.chunk.partition
    }

    /// The record's offset in its partition.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.record.offset()
    }

    /// The producer's time, or the time of the append; see [`ConsumerRecord::timestamp_type`].
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.record.timestamp()
    }

    /// Whose time [`ConsumerRecord::timestamp`] is (`message.timestamp.type`).
    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        self.chunk.batch.header().timestamp_type()
    }

    /// The key, `None` for null.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.record.key()
    }

    /// The value, `None` for null: a tombstone in a compacted topic.
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.record.value()
    }

    /// The key as an owned handle; it shares the memory of its batch and keeps it alive.
    #[must_use]
    pub fn key_bytes(&self) -> Option<Bytes> {
        self.key().map(|key| self.chunk.batch.slice(key))
    }

    /// The value as an owned handle; it shares the memory of its batch and keeps it alive.
    #[must_use]
    pub fn value_bytes(&self) -> Option<Bytes> {
        self.value().map(|value| self.chunk.batch.slice(value))
    }

    /// The headers in their order, duplicates included.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        self.record.headers()
    }

    /// The record by itself; it shares the memory of its batch and keeps it alive.
    #[must_use]
    pub fn into_owned(self) -> OwnedRecord {
        OwnedRecord::new(&self.chunk.partition, &self.chunk.batch, &self.record)
    }

    /// The leader epoch in which the record was appended, where its batch says (KIP-320).
    #[must_use]
    pub fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.chunk.epoch()
    }

    /// Its headers without the batch; nothing is allocated where there are none.
    pub(crate) fn owned_headers(&self) -> Vec<Header> {
        owned_headers(&self.chunk.batch, &self.record)
    }

    pub(super) fn generation(&self) -> Generation {
        self.chunk.generation
    }
}

impl fmt::Debug for ConsumerRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerRecord")
            .field("partition", &self.chunk.partition)
            .field("record", &self.record)
            .finish()
    }
}

//! Builds a batch in place: records are encoded behind a gap that the header fills at the end.

use crate::error::{Error, ErrorKind, Result};
use crate::record::batch::RecordBatch;
use crate::record::codec::{self, Codec, Compression};
use crate::record::control::ControlType;
use crate::record::header::{Attributes, BatchHeader};
use crate::record::layout;
use crate::record::pool::Buffer;
use crate::record::producing::{Header, Record};
use crate::record::validate::BatchFacts;
use crate::types::{LeaderEpoch, Offset, ProducerId, Timestamp};

/// Collects records into one batch.
///
/// ```
/// use thalweg::{BatchBuilder, Compression, Record, Timestamp};
/// let mut builder = BatchBuilder::new().compression(Compression::zstd());
/// builder.push(Timestamp::new(1_000), &Record::new("paid").key("user-1"))?;
/// builder.push_parts(Timestamp::new(1_001), Some(b"user-2"), None, &[])?;
/// assert_eq!(builder.len(), 2);
/// let batch = builder.finish()?;
/// assert_eq!(batch.header().record_count(), 2);
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    /// A gap for the header, then the records, not compressed.
    buffer: Buffer,
    header: BatchHeader,
    compression: Compression,
    facts: BatchFacts,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch: uncompressed, of no producer, at offset 0, of no leader epoch.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(0)
    }

    /// As [`BatchBuilder::new`], with room for `bytes` of batch before it has to grow.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self::in_buffer(Buffer::with_capacity(bytes.max(BatchHeader::LEN)))
    }

    /// An empty batch in an empty buffer.
    pub(super) fn in_buffer(mut buffer: Buffer) -> Self {
        buffer.bytes.resize(BatchHeader::LEN, 0);
        Self {
            buffer,
            header: BatchHeader {
                base_offset: 0,
                length: 0,
                leader_epoch: -1,
                crc: 0,
                attributes: Attributes::default(),
                last_offset_delta: 0,
                base_timestamp: -1,
                max_timestamp: -1,
                producer_id: -1,
                producer_epoch: -1,
                base_sequence: -1,
                record_count: 0,
            },
            compression: Compression::NONE,
            facts: BatchFacts::NONE,
        }
    }

    /// One batch of these records; those without a timestamp get the time `now`.
    pub(crate) fn of<R: Into<Record>>(records: impl IntoIterator<Item = R>, now: Timestamp) -> Result<RecordBatch> {
        let mut batch = Self::new();
        for record in records {
            let record = record.into();
            batch.push(record.timestamp_or(now)?, &record)?;
        }
        batch.finish()
    }

    /// Compresses the records when the batch is finished (`compression.type`).
    #[must_use]
    pub fn compression(mut self, compression: impl Into<Compression>) -> Self {
        self.compression = compression.into();
        self
    }

    /// Names the idempotent producer of the batch and the sequence number of its first record (KIP-98).
    #[must_use]
    pub fn producer(mut self, id: ProducerId, epoch: i16, base_sequence: i32) -> Self {
        self.header.producer_id = id.get();
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Marks the batch as part of its producer's transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.header.attributes.set_transactional();
        self
    }

    /// Sets the leader epoch. A log sets its own when it appends.
    #[must_use]
    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> Self {
        self.header.leader_epoch = epoch.get();
        self
    }

    /// Sets the offset of the first record. A log sets its own when it appends.
    #[must_use]
    pub fn base_offset(mut self, offset: Offset) -> Self {
        self.header.base_offset = offset.get();
        self
    }

    /// Makes it a control batch, to be filled with [`BatchBuilder::push_control`].
    #[must_use]
    pub(crate) fn control(mut self) -> Self {
        self.header.attributes.set_control();
        self
    }

    /// Adds a control record.
    pub(crate) fn push_control(&mut self, timestamp: Timestamp, kind: ControlType, value: &[u8]) -> Result<()> {
        self.push_parts(timestamp, Some(&kind.key()), Some(value), &[])
    }

    /// Adds a record with this timestamp; one that the record carries itself is the caller's to choose.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] when the batch would pass what its length field can say, 2 GiB. The batch is
    /// as before then.
    pub fn push(&mut self, timestamp: Timestamp, record: &Record) -> Result<()> {
        self.push_parts(
            timestamp,
            record.key_bytes().map(|k| &k[..]),
            record.value_bytes().map(|v| &v[..]),
            record.headers(),
        )
    }

    /// Adds a record given in parts.
    ///
    /// # Errors
    /// As [`BatchBuilder::push`].
    #[inline]
    pub fn push_parts(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> Result<()> {
        let delta = self.header.record_count;
        if delta == 0 {
            self.header.base_timestamp = timestamp.get();
        }
        // Wrapping, as in Kafka: readers add with wrapping too.
        let timestamp_delta = timestamp.get().wrapping_sub(self.header.base_timestamp);
        let buffer = &mut self.buffer.bytes;
        let before = buffer.len();
        let written = layout::write(buffer, timestamp_delta, delta, key, value, headers);
        if written.is_none() || buffer.len() > MAX_BATCH {
            buffer.truncate(before);
            return Err(too_large());
        }
        self.facts.add(delta, timestamp, key.is_some());
        self.header.record_count = delta + 1;
        Ok(())
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        // Never negative: it only counts up.
        self.header.record_count as usize
    }

    /// Whether there are no records yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.record_count == 0
    }

    /// The size of the batch in bytes, header included, before compression.
    #[must_use]
    pub fn size_estimate(&self) -> usize {
        self.buffer.bytes.len()
    }

    /// Compresses the records, writes the header and its CRC.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when there are no records or the base offset cannot be;
    /// [`ErrorKind::Unsupported`] when the codec's cargo feature is off.
    pub fn finish(mut self) -> Result<RecordBatch> {
        if self.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "a batch needs at least one record")
                .remedy("push a record before finishing"));
        }
        let mut header = self.header;
        header.last_offset_delta = header.record_count - 1;
        header.max_timestamp = self.facts.max_timestamp.get();
        header.attributes.set_codec(self.compression.codec());
        if header.base_offset.checked_add(i64::from(header.record_count)).is_none() || header.base_offset < 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "a batch cannot begin at this offset")
                .offset(header.base_offset));
        }
        if self.compression.codec() != Codec::None {
            let (gap, records) = self.buffer.bytes.split_at(BatchHeader::LEN);
            let mut compressed = self.buffer.another();
            compressed.bytes.extend_from_slice(gap);
            codec::compress(self.compression, records, &mut compressed.bytes)?;
            self.buffer = self.buffer.refilled(compressed);
        }
        let bytes = &mut self.buffer.bytes;
        if bytes.len() > MAX_BATCH {
            return Err(too_large());
        }
        header.length = (bytes.len() - BatchHeader::PREFIX_LEN) as i32;
        header.seal(bytes);
        Ok(RecordBatch::built(self.buffer.freeze(), header, Some(self.facts)))
    }
}

/// The largest batch: its length field is a signed 32-bit number.
const MAX_BATCH: usize = i32::MAX as usize;

#[cold]
pub(super) fn too_large() -> Error {
    Error::new(ErrorKind::TooLarge, format!("a batch cannot be larger than {MAX_BATCH} bytes"))
        .remedy("finish the batch and start another")
}

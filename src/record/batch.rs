//! One whole batch in memory: its structure and CRC are checked once, when it is made.

use std::fmt;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::mutants::{Mutant, is_on};
use crate::record::builder::{self, BatchBuilder};
use crate::record::codec::{self, Codec, Compression};
use crate::record::control::{ControlType, EndMarker};
use crate::record::decoded::{DecodedBatch, RecordRef};
use crate::record::header::{self, BatchHeader};
use crate::record::validate::BatchFacts;
use crate::types::{LeaderEpoch, Offset, Timestamp};
use crate::wire;

/// The bytes of exactly one record batch v2, structure and CRC checked. Cheap to clone.
///
/// ```
/// use thalweg::{Compression, Record, RecordBatch, Timestamp};
/// let mut builder = RecordBatch::builder().compression(Compression::lz4());
/// for n in 0..100 {
///     builder.push(Timestamp::new(1_000 + n), &Record::new(format!("event {n}")).key("k"))?;
/// }
/// let batch = builder.finish()?;
///
/// let again = RecordBatch::parse(batch.as_bytes().clone())?;
/// assert_eq!(again.header().record_count(), 100);
/// let decoded = again.decode()?;
/// assert_eq!(decoded.iter().filter_map(Result::ok).last().map(|r| r.offset().get()), Some(99));
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone)]
pub struct RecordBatch {
    bytes: Bytes,
    header: BatchHeader,
    /// What validation would find, where it is known without looking.
    facts: Option<BatchFacts>,
}

impl RecordBatch {
    /// The most that [`RecordBatch::decode`] inflates a batch to: 128 MiB.
    pub const DECODE_LIMIT: usize = 128 << 20;

    /// Takes the bytes of one batch and checks them: header, length, CRC.
    ///
    /// # Errors
    /// As [`BatchHeader::parse`]; [`ErrorKind::Corrupt`] too when there are more or fewer bytes than the batch
    /// announces, or its CRC does not match.
    pub fn parse(bytes: impl Into<Bytes>) -> Result<Self> {
        let bytes = bytes.into();
        let header = BatchHeader::parse(&bytes)?;
        if bytes.len() != header.size_bytes() {
            let what = format!("batch announces {} bytes but has {}", header.size_bytes(), bytes.len());
            return Err(Error::new(ErrorKind::Corrupt, what).offset(header.base_offset()));
        }
        let computed = crc_of(&bytes);
        if computed != header.crc() {
            let what = format!("batch carries CRC {:08x} but its bytes have {computed:08x}", header.crc());
            return Err(Error::new(ErrorKind::Corrupt, what).offset(header.base_offset()));
        }
        Ok(Self { bytes, header, facts: None })
    }

    /// A batch whose bytes were checked before, as a read does with all that it returns.
    pub(crate) fn from_checked(bytes: Bytes) -> Result<Self> {
        let header = BatchHeader::parse(&bytes)?;
        Ok(Self { bytes, header, facts: None })
    }

    /// A batch that was put together here, so that there is nothing to check.
    pub(super) fn built(bytes: Bytes, header: BatchHeader, facts: Option<BatchFacts>) -> Self {
        debug_assert_eq!(bytes.len(), header.size_bytes(), "the length field is right");
        debug_assert_eq!(crc_of(&bytes), header.crc(), "the CRC is right");
        Self { bytes, header, facts }
    }

    /// Starts a new batch.
    #[must_use]
    pub fn builder() -> BatchBuilder {
        BatchBuilder::new()
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The batch as it is stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The size of the batch in bytes, header included: what `max.message.bytes` limits.
    #[must_use]
    pub const fn size_bytes(&self) -> usize {
        self.header.size_bytes()
    }

    /// The offset of the first record.
    #[must_use]
    pub const fn base_offset(&self) -> Offset {
        self.header.base_offset()
    }

    /// The offset of the last record.
    #[must_use]
    pub const fn last_offset(&self) -> Offset {
        self.header.last_offset()
    }

    /// The offset after the batch.
    #[must_use]
    pub const fn next_offset(&self) -> Offset {
        self.header.next_offset()
    }

    pub(super) const fn known_facts(&self) -> Option<BatchFacts> {
        self.facts
    }

    /// Makes the records readable, inflating them to at most [`RecordBatch::DECODE_LIMIT`] bytes. An
    /// uncompressed batch is shared, not copied.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when the compressed bytes are damaged or too few for the record count;
    /// [`ErrorKind::TooLarge`] beyond the limit; [`ErrorKind::Unsupported`] when the codec's cargo feature is
    /// off.
    pub fn decode(&self) -> Result<DecodedBatch> {
        self.decode_capped(Self::DECODE_LIMIT)
    }

    /// As [`RecordBatch::decode`], with a limit of one's own in bytes. Memory is held to the limit while
    /// inflating, whatever the batch claims.
    ///
    /// # Errors
    /// As [`RecordBatch::decode`].
    pub fn decode_capped(&self, limit: usize) -> Result<DecodedBatch> {
        DecodedBatch::new(self.header, self.records(limit)?)
    }

    /// The records section, not compressed.
    fn records(&self, limit: usize) -> Result<Bytes> {
        match self.header.codec() {
            Codec::None => Ok(self.bytes.slice(BatchHeader::LEN..)),
            codec => {
                let section = &self.bytes[BatchHeader::LEN..];
                let inflated = codec::decompress(codec, section, limit);
                Ok(inflated.map_err(|e| e.offset(self.base_offset()))?.into())
            }
        }
    }

    /// The same batch with its records compressed in another way. Makes a new CRC.
    ///
    /// # Errors
    /// As [`RecordBatch::decode`].
    pub(crate) fn recompressed(&self, compression: Compression) -> Result<Self> {
        let mut bytes = self.bytes[..BatchHeader::LEN].to_vec();
        codec::compress(compression, &self.records(Self::DECODE_LIMIT)?, &mut bytes)?;
        let mut header = self.header;
        header.attributes.set_codec(compression.codec());
        header.length = i32::try_from(bytes.len() - BatchHeader::PREFIX_LEN).map_err(|_| builder::too_large())?;
        header.seal(&mut bytes);
        Ok(Self { bytes: bytes.into(), header, facts: self.facts })
    }

    /// What the control record of this batch says: `None` for a batch of an application's records, and for
    /// a control batch that compaction emptied.
    ///
    /// # Errors
    /// As [`RecordBatch::decode`], and [`ErrorKind::Corrupt`] when the control record is malformed.
    pub fn control_type(&self) -> Result<Option<ControlType>> {
        self.with_control_record(|record| ControlType::of(record).map(Some))
    }

    /// The transaction marker that this batch is, if it is one.
    ///
    /// # Errors
    /// As [`RecordBatch::control_type`].
    pub fn end_marker(&self) -> Result<Option<EndMarker>> {
        self.with_control_record(EndMarker::of)
    }

    fn with_control_record<T>(&self, read: impl Fn(&RecordRef<'_>) -> Result<Option<T>>) -> Result<Option<T>> {
        if !self.header.is_control() {
            return Ok(None);
        }
        match self.decode()?.iter().next() {
            None => Ok(None),
            Some(record) => read(&record?),
        }
    }

    /// The same batch at another place: with this base offset and leader epoch. Neither is under the CRC.
    /// Copies the bytes; [`RecordBatch::stamp_prefix`] avoids that.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a base offset below 0, or one from which the batch would reach past
    /// the largest offset.
    pub fn stamped(&self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Result<Self> {
        let prefix = self.stamp_prefix(base_offset, leader_epoch)?;
        let mut bytes = self.bytes.to_vec();
        bytes[..prefix.len()].copy_from_slice(&prefix);
        let header = self.header.placed(base_offset, leader_epoch);
        Ok(Self { bytes: bytes.into(), header, facts: self.facts })
    }

    /// The first 16 bytes of [`RecordBatch::stamped`], to be written in front of this batch's bytes from the
    /// 16th on.
    ///
    /// # Errors
    /// As [`RecordBatch::stamped`].
    pub fn stamp_prefix(&self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Result<[u8; 16]> {
        let last = base_offset.get().checked_add(i64::from(self.header.last_offset_delta()));
        if base_offset.get() < 0 || last.is_none_or(|last| last == i64::MAX) {
            let what = "a batch cannot begin at this offset";
            return Err(Error::new(ErrorKind::InvalidArgument, what).offset(base_offset));
        }
        Ok(self.header.stamp(base_offset, leader_epoch))
    }

    /// The same batch with every record's time set to that of its append
    /// (`message.timestamp.type=LogAppendTime`). Makes a new CRC; compressed records stay as they are.
    #[must_use]
    pub fn with_log_append_time(&self, now: Timestamp) -> Self {
        let mut header = self.header;
        header.attributes.set_log_append_time();
        header.max_timestamp = now.get();
        let mut bytes = self.bytes.to_vec();
        header.seal(&mut bytes);
        let facts = self.facts.map(|facts| facts.appended_at(now));
        Self { bytes: bytes.into(), header, facts }
    }
}

impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RecordBatch").field(&self.header).finish()
    }
}

/// Two batches are equal when their bytes are.
impl PartialEq for RecordBatch {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for RecordBatch {}

/// The CRC of a batch's bytes, from the attributes to the end.
pub(super) fn crc_of(batch: &[u8]) -> u32 {
    wire::crc32c(batch.get(header::CRC_COVERS_FROM..).unwrap_or_default())
}

/// Whether `batch`, the bytes of exactly the batch whose header was read from them, match their CRC.
pub(crate) fn validate_crc(header: &BatchHeader, batch: &[u8]) -> bool {
    batch.len() == header.size_bytes() && (crc_of(batch) == header.crc() || is_on(Mutant::ChecksumIgnored))
}

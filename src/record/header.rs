//! The 61 bytes at the front of every record batch v2.
//!
//! ```text
//!  0        8        12      16 17     21   23       27       35       43       51    53       57      61
//!  | base   | length | leader| m| crc  |attr| last   | base   | max    | produ- |produ|  base  | record|
//!  | offset |        | epoch | a|      |    | offset | time-  | time-  | cer    | cer | sequ-  | count | records
//!  |        |        |       | g|      |    | delta  | stamp  | stamp  | id     |epoch| ence   |       |
//!  |<---- given by the log, no CRC --->|<------------- under the CRC, to the end of the batch -------------
//! ```

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::record::codec::Codec;
use crate::types::{LeaderEpoch, Offset, ProducerId, Timestamp};
use crate::wire::{self, Reader};

// Where each field starts, from where the one before it ends.
const BASE_OFFSET: usize = 0;
const LENGTH: usize = BASE_OFFSET + size_of::<i64>();
const LEADER_EPOCH: usize = LENGTH + size_of::<i32>();
const MAGIC: usize = LEADER_EPOCH + size_of::<i32>();
pub(super) const CRC: usize = MAGIC + size_of::<i8>();
pub(super) const ATTRIBUTES: usize = CRC + size_of::<u32>();
const LAST_OFFSET_DELTA: usize = ATTRIBUTES + size_of::<i16>();
const BASE_TIMESTAMP: usize = LAST_OFFSET_DELTA + size_of::<i32>();
pub(super) const MAX_TIMESTAMP: usize = BASE_TIMESTAMP + size_of::<i64>();
const PRODUCER_ID: usize = MAX_TIMESTAMP + size_of::<i64>();
const PRODUCER_EPOCH: usize = PRODUCER_ID + size_of::<i64>();
const BASE_SEQUENCE: usize = PRODUCER_EPOCH + size_of::<i16>();
const RECORD_COUNT: usize = BASE_SEQUENCE + size_of::<i32>();
const RECORDS: usize = RECORD_COUNT + size_of::<i32>();
const _: () = assert!(RECORDS == 61 && LEADER_EPOCH == 12 && ATTRIBUTES == 21);

/// The CRC begins at the attributes. What stands before them is what a log writes when it gives the batch
/// its place (base offset, leader epoch) and what the CRC needs itself, so that a batch is stored
/// without being summed again.
pub(super) const CRC_COVERS_FROM: usize = ATTRIBUTES;

/// The fields that a log rewrites when it gives a batch its place: everything before the magic byte.
pub(super) const STAMP_LEN: usize = MAGIC;

const CURRENT_MAGIC: i8 = 2;

const CODEC_BITS: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// Whether a batch's timestamps are its producer's or the log's (`message.timestamp.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// Each record carries the time that its producer gave it.
    #[default]
    CreateTime,
    /// Every record reads as appended at the batch's largest timestamp.
    LogAppendTime,
}

impl fmt::Display for TimestampType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateTime => "CreateTime",
            Self::LogAppendTime => "LogAppendTime",
        })
    }
}

/// The header of a record batch v2 (KIP-98): all that is known of a batch without looking at its records.
///
/// ```
/// use thalweg::{BatchHeader, Record, RecordBatch, Timestamp};
/// let mut builder = RecordBatch::builder();
/// builder.push(Timestamp::new(1_000), &Record::new("paid").key("user-1"))?;
/// let batch = builder.finish()?;
///
/// let header = BatchHeader::parse(batch.as_bytes())?;
/// assert_eq!(header.record_count(), 1);
/// assert_eq!(header.size_bytes(), batch.as_bytes().len());
/// assert_eq!(header.max_timestamp(), 1_000);
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    pub(super) base_offset: i64,
    /// Bytes after the length field itself.
    pub(super) length: i32,
    pub(super) leader_epoch: i32,
    pub(super) crc: u32,
    pub(super) attributes: Attributes,
    pub(super) last_offset_delta: i32,
    pub(super) base_timestamp: i64,
    pub(super) max_timestamp: i64,
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
    pub(super) base_sequence: i32,
    pub(super) record_count: i32,
}

/// The attribute bits. Bits 7 to 15 mean nothing; they are kept as they came.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Attributes(i16);

impl Attributes {
    pub(super) fn codec(self) -> Option<Codec> {
        Codec::from_bits(self.0 & CODEC_BITS)
    }

    pub(super) fn set_codec(&mut self, codec: Codec) {
        self.0 = (self.0 & !CODEC_BITS) | codec.bits();
    }

    pub(super) fn set_log_append_time(&mut self) {
        self.0 |= LOG_APPEND_TIME;
    }

    pub(super) fn set_transactional(&mut self) {
        self.0 |= TRANSACTIONAL;
    }

    pub(super) fn set_control(&mut self) {
        self.0 |= CONTROL;
    }

    fn has(self, bit: i16) -> bool {
        self.0 & bit != 0
    }
}

impl BatchHeader {
    /// The size of a header in bytes.
    pub const LEN: usize = RECORDS;

    /// Where every version of the format has its magic byte.
    pub(crate) const MAGIC_AT: usize = MAGIC;

    /// The checksum is over the batch from here on.
    pub(crate) const CRC_COVERS_FROM: usize = CRC_COVERS_FROM;

    /// How many bytes at the front of a batch tell its size: base offset and length.
    pub const PREFIX_LEN: usize = LEADER_EPOCH;

    /// The size in bytes of the whole batch that starts with `prefix`, as it announces itself. Needs the
    /// first [`BatchHeader::PREFIX_LEN`] bytes; the answer holds for batches of any magic.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when there are fewer bytes, or the length is below the smallest that any
    /// version of the format allows.
    pub fn announced_size(prefix: &[u8]) -> Result<usize> {
        // Magic 0 has the smallest messages: 14 bytes after the prefix.
        const SMALLEST: i32 = 14;
        let mut fields = Reader::new(prefix);
        let base_offset = fields.i64()?;
        let length = fields.i32()?;
        match usize::try_from(length) {
            Ok(bytes) if length >= SMALLEST => Ok(Self::PREFIX_LEN + bytes),
            _ => Err(corrupt(base_offset, format!("batch announces an impossible length of {length} bytes"))),
        }
    }

    /// Reads the header at the front of `bytes` and checks its structure. The records and the CRC are not
    /// looked at, and need not be there.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when the fields contradict each other or the bytes end early;
    /// [`ErrorKind::Unsupported`] for message formats 0 and 1, which Kafka wrote before 0.11, and for
    /// an unknown compression codec.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Reader::new(bytes);
        let base_offset = fields.i64()?;
        let length = fields.i32()?;
        let leader_epoch = fields.i32()?;
        // Older formats have their magic at the same place, but end sooner.
        check_magic(fields.i8()?, base_offset)?;
        let header = Self {
            base_offset,
            length,
            leader_epoch,
            crc: fields.u32()?,
            attributes: Attributes(fields.i16()?),
            last_offset_delta: fields.i32()?,
            base_timestamp: fields.i64()?,
            max_timestamp: fields.i64()?,
            producer_id: fields.i64()?,
            producer_epoch: fields.i16()?,
            base_sequence: fields.i32()?,
            record_count: fields.i32()?,
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(corrupt(self.base_offset, what));
        if self.length < (Self::LEN - Self::PREFIX_LEN) as i32 {
            return wrong(format!("batch announces a length of {} bytes, less than its own header", self.length));
        }
        if self.base_offset < 0 || self.last_offset_delta < 0 {
            return wrong(format!("batch has a negative offset or offset delta, {}", self.last_offset_delta));
        }
        if self.base_offset.checked_add(i64::from(self.last_offset_delta)).is_none() {
            return wrong("batch reaches past the largest offset".to_owned());
        }
        if self.record_count < 0 {
            return wrong(format!("batch announces {} records", self.record_count));
        }
        if self.attributes.codec().is_none() {
            let what = format!("batch is compressed with codec {}, which is unknown", self.attributes.0 & CODEC_BITS);
            return Err(Error::new(ErrorKind::Unsupported, what)
                .offset(self.base_offset)
                .remedy("Kafka defines codecs 0 to 4; a newer release may read this batch"));
        }
        Ok(())
    }

    /// How many offsets a batch says that it takes, by its last offset delta and by its record count; neither is
    /// checked against anything. The second is smaller in a batch that compaction has thinned out.
    pub(crate) fn claimed_counts(bytes: &[u8; Self::LEN]) -> [i64; 2] {
        let field = |at: usize| {
            let mut field = [0; size_of::<i32>()];
            field.copy_from_slice(&bytes[at..at + size_of::<i32>()]);
            i64::from(i32::from_be_bytes(field))
        };
        [field(LAST_OFFSET_DELTA) + 1, field(RECORD_COUNT)]
    }

    /// The header as it stands in a batch. Length and CRC are written as they are, right or not yet.
    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            out[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.base_offset.to_be_bytes());
        put(&self.length.to_be_bytes());
        put(&self.leader_epoch.to_be_bytes());
        put(&CURRENT_MAGIC.to_be_bytes());
        put(&self.crc.to_be_bytes());
        put(&self.attributes.0.to_be_bytes());
        put(&self.last_offset_delta.to_be_bytes());
        put(&self.base_timestamp.to_be_bytes());
        put(&self.max_timestamp.to_be_bytes());
        put(&self.producer_id.to_be_bytes());
        put(&self.producer_epoch.to_be_bytes());
        put(&self.base_sequence.to_be_bytes());
        put(&self.record_count.to_be_bytes());
        debug_assert_eq!(at, Self::LEN, "every field is written once");
        out
    }

    /// Writes this header over the front of `batch` and the CRC of the result into both.
    pub(super) fn seal(&mut self, batch: &mut [u8]) {
        batch[..Self::LEN].copy_from_slice(&self.to_bytes());
        self.crc = wire::crc32c(&batch[CRC_COVERS_FROM..]);
        batch[CRC..ATTRIBUTES].copy_from_slice(&self.crc.to_be_bytes());
    }

    /// `data` as a batch whose magic, length and CRC are right, where it is long enough to have them.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn repaired(data: &[u8]) -> Option<bytes::Bytes> {
        let mut bytes = data.get(..Self::LEN).map(|_| data.to_vec())?;
        let length = i32::try_from(data.len() - Self::PREFIX_LEN).ok()?;
        bytes[LENGTH..LEADER_EPOCH].copy_from_slice(&length.to_be_bytes());
        bytes[MAGIC..CRC].copy_from_slice(&CURRENT_MAGIC.to_be_bytes());
        let crc = wire::crc32c(&bytes[CRC_COVERS_FROM..]);
        bytes[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
        Some(bytes.into())
    }

    /// The bytes before the magic byte, with another base offset and leader epoch.
    pub(super) fn stamp(&self, base_offset: Offset, leader_epoch: LeaderEpoch) -> [u8; STAMP_LEN] {
        let mut out = [0; STAMP_LEN];
        out[BASE_OFFSET..LENGTH].copy_from_slice(&base_offset.get().to_be_bytes());
        out[LENGTH..LEADER_EPOCH].copy_from_slice(&self.length.to_be_bytes());
        out[LEADER_EPOCH..].copy_from_slice(&leader_epoch.get().to_be_bytes());
        out
    }

    /// The header of the same batch at another place: both fields lie outside the CRC.
    pub(crate) fn placed(self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Self {
        Self { base_offset: base_offset.get(), leader_epoch: leader_epoch.get(), ..self }
    }

    /// The offset of the batch's first record, or the place that it had before compaction removed it.
    #[must_use]
    pub const fn base_offset(&self) -> Offset {
        Offset::new(self.base_offset)
    }

    /// The offset of the last record. Compaction keeps it even when it removes that record.
    #[must_use]
    pub const fn last_offset(&self) -> Offset {
        Offset::new(self.base_offset + self.last_offset_delta as i64)
    }

    /// The offset after the batch.
    #[must_use]
    pub const fn next_offset(&self) -> Offset {
        self.last_offset().next()
    }

    /// The size of the whole batch in bytes, its 12-byte prefix included.
    #[must_use]
    pub const fn size_bytes(&self) -> usize {
        // Checked to be at least 49 when the header was read.
        Self::PREFIX_LEN + self.length as usize
    }

    /// The leader epoch in which the batch was appended, -1 when its producer left it open.
    #[must_use]
    pub const fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch::new(self.leader_epoch)
    }

    /// The CRC-32C that the batch carries.
    #[must_use]
    pub const fn crc(&self) -> u32 {
        self.crc
    }

    /// How the records are compressed.
    #[must_use]
    pub fn codec(&self) -> Codec {
        // An unknown codec does not pass `parse`.
        self.attributes.codec().unwrap_or(Codec::None)
    }

    /// Whose time the timestamps are.
    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes.has(LOG_APPEND_TIME) { TimestampType::LogAppendTime } else { TimestampType::CreateTime }
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes.has(TRANSACTIONAL)
    }

    /// Whether the batch holds a control record, which applications never see.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes.has(CONTROL)
    }

    /// When the cleaner may remove the batch's tombstones (KIP-534), if it has said so.
    #[must_use]
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        self.attributes.has(DELETE_HORIZON).then(|| self.base_timestamp())
    }

    /// What the records' timestamp deltas count from: the first record's timestamp, or the delete horizon.
    #[must_use]
    pub const fn base_timestamp(&self) -> Timestamp {
        Timestamp::new(self.base_timestamp)
    }

    /// The largest timestamp in the batch, or the time of its append for
    /// [`TimestampType::LogAppendTime`].
    #[must_use]
    pub const fn max_timestamp(&self) -> Timestamp {
        Timestamp::new(self.max_timestamp)
    }

    /// The idempotent producer of the batch, [`ProducerId::NONE`] when there is none.
    #[must_use]
    pub const fn producer_id(&self) -> ProducerId {
        ProducerId::new(self.producer_id)
    }

    /// The producer's epoch. Meaningful only with a producer id.
    #[must_use]
    pub const fn producer_epoch(&self) -> i16 {
        self.producer_epoch
    }

    /// The sequence number of the first record, -1 when there is none. Meaningful only with a producer id.
    #[must_use]
    pub const fn base_sequence(&self) -> i32 {
        self.base_sequence
    }

    /// The sequence number of the last record: they run to 2147483647 and start again at 0.
    #[must_use]
    pub const fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        // Both are non-negative, so the sum fits 32 bits; dropping the sign bit is the wrap to 0.
        self.base_sequence.wrapping_add(self.last_offset_delta) & i32::MAX
    }

    /// How many records there are; 0 only in a batch that compaction emptied and kept.
    #[must_use]
    pub const fn record_count(&self) -> i32 {
        self.record_count
    }

    /// The last record's offset less the base offset.
    #[must_use]
    pub const fn last_offset_delta(&self) -> i32 {
        self.last_offset_delta
    }
}

impl fmt::Debug for BatchHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchHeader")
            .field("base_offset", &self.base_offset)
            .field("last_offset", &self.last_offset())
            .field("size_bytes", &self.size_bytes())
            .field("leader_epoch", &self.leader_epoch)
            .field("codec", &self.codec())
            .field("timestamp_type", &self.timestamp_type())
            .field("is_transactional", &self.is_transactional())
            .field("is_control", &self.is_control())
            .field("delete_horizon", &self.delete_horizon())
            .field("base_timestamp", &self.base_timestamp)
            .field("max_timestamp", &self.max_timestamp)
            .field("producer_id", &self.producer_id)
            .field("producer_epoch", &self.producer_epoch)
            .field("base_sequence", &self.base_sequence)
            .field("record_count", &self.record_count)
            .finish()
    }
}

fn check_magic(magic: i8, base_offset: i64) -> Result<()> {
    match magic {
        CURRENT_MAGIC => Ok(()),
        0 | 1 => Err(Error::new(
            ErrorKind::Unsupported,
            format!("message format {magic} is too old: it was written before Kafka 0.11"),
        )
        .offset(base_offset)
        .remedy("copy the topic into a new one with Kafka's own tools; Kafka writes format 2 since then")),
        other => Err(corrupt(base_offset, format!("batch has magic {other} where 2 is expected"))),
    }
}

#[cold]
fn corrupt(base_offset: i64, what: String) -> Error {
    Error::new(ErrorKind::Corrupt, what).offset(base_offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of a transactional batch of three records: producer 4000, epoch 3, sequence 2147483646.
    const GOLDEN: &str = "00000000000000000000008300000000022e1f4c1e0010000000020000018bcfe568000000018bcfe56805\
                          0000000000000fa000037ffffffe00000003";

    fn golden() -> Vec<u8> {
        crate::testing::from_hex(GOLDEN)
    }

    #[test]
    fn golden_header_reads_and_writes() {
        let header = BatchHeader::parse(&golden()).unwrap();
        assert_eq!((header.base_offset, header.length, header.leader_epoch), (0, 131, 0));
        assert_eq!((header.crc, header.size_bytes()), (0x2e1f_4c1e, 143));
        assert_eq!((header.codec(), header.timestamp_type()), (Codec::None, TimestampType::CreateTime));
        assert!(header.is_transactional() && !header.is_control() && header.delete_horizon().is_none());
        assert_eq!((header.base_timestamp, header.max_timestamp), (1_700_000_000_000, 1_700_000_000_005));
        assert_eq!((header.producer_id, header.producer_epoch), (4000, 3));
        assert_eq!((header.base_sequence, header.last_sequence()), (2_147_483_646, 0), "sequences wrap to 0");
        assert_eq!((header.record_count, header.next_offset()), (3, Offset::new(3)));
        assert_eq!(header.to_bytes()[..], golden());
    }

    #[test]
    fn fields_that_contradict_each_other_are_refused() {
        let broken = |at: usize, bytes: &[u8]| {
            let mut header = golden();
            header[at..at + bytes.len()].copy_from_slice(bytes);
            BatchHeader::parse(&header).unwrap_err().kind()
        };
        assert_eq!(broken(LENGTH, &48i32.to_be_bytes()), ErrorKind::Corrupt);
        assert_eq!(broken(LENGTH, &(-1i32).to_be_bytes()), ErrorKind::Corrupt);
        assert_eq!(broken(BASE_OFFSET, &i64::MAX.to_be_bytes()), ErrorKind::Corrupt);
        assert_eq!(broken(BASE_OFFSET, &(-5i64).to_be_bytes()), ErrorKind::Corrupt);
        assert_eq!(broken(LAST_OFFSET_DELTA, &(-1i32).to_be_bytes()), ErrorKind::Corrupt);
        assert_eq!(broken(RECORD_COUNT, &(-1i32).to_be_bytes()), ErrorKind::Corrupt);
        assert_eq!(broken(MAGIC, &[3]), ErrorKind::Corrupt);
        assert_eq!(broken(ATTRIBUTES, &[0, 5]), ErrorKind::Unsupported);
        assert_eq!(BatchHeader::parse(&golden()[..60]).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn bits_without_meaning_are_kept() {
        let mut bytes = golden();
        bytes[ATTRIBUTES] = 0xff;
        let header = BatchHeader::parse(&bytes).unwrap();
        assert_eq!(header.to_bytes()[..], bytes);
    }

    #[test]
    fn announced_size_needs_twelve_bytes_and_a_possible_length() {
        assert_eq!(BatchHeader::announced_size(&golden()[..12]).unwrap(), 143);
        assert!(BatchHeader::announced_size(&golden()[..11]).is_err());
        assert!(BatchHeader::announced_size(&[0; 12]).is_err());
    }
}

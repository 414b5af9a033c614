//! Records as they are read: borrowed from their batch, nothing allocated for each.

use std::fmt;
use std::iter::FusedIterator;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::record::header::{BatchHeader, TimestampType};
use crate::record::layout;
use crate::types::{Offset, Timestamp};

/// A batch whose records are ready to be read. An uncompressed one shares its batch's memory.
///
/// ```
/// use thalweg::{Record, RecordBatch, Timestamp};
/// let mut builder = RecordBatch::builder();
/// builder.push(Timestamp::new(5), &Record::new("paid").key("user-1").header("h", "v"))?;
/// let decoded = builder.finish()?.decode()?;
///
/// for record in &decoded {
///     let record = record?;
///     assert_eq!(record.offset(), 0);
///     assert_eq!(record.value(), Some(&b"paid"[..]));
///     let owned = record.value().map(|v| decoded.slice(v));   // shares, does not copy
///     assert_eq!(owned.as_deref(), Some(&b"paid"[..]));
///     for (key, value) in record.headers() {
///         assert_eq!((key, value), ("h", Some(&b"v"[..])));
///     }
/// }
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone)]
pub struct DecodedBatch {
    header: BatchHeader,
    records: Bytes,
}

impl DecodedBatch {
    /// Joins a header and its records section, no longer compressed.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when the section is too small for the records that the header announces.
    pub(super) fn new(header: BatchHeader, records: Bytes) -> Result<Self> {
        let count = usize::try_from(header.record_count()).unwrap_or(usize::MAX);
        if count > records.len() / layout::SMALLEST_RECORD || (count == 0 && !records.is_empty()) {
            let what = format!("batch announces {count} records but has {} bytes of them", records.len());
            return Err(Error::new(ErrorKind::Corrupt, what).offset(header.base_offset()));
        }
        Ok(Self { header, records })
    }

    /// The batch's header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The size of the records in bytes, not compressed.
    #[must_use]
    pub fn records_bytes(&self) -> usize {
        self.records.len()
    }

    /// The records in their order.
    #[must_use]
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter::new(&self.header, &self.records)
    }

    /// The records from `place` on, which an iterator over this batch told.
    pub(crate) fn iter_from(&self, place: RecordPlace) -> RecordIter<'_> {
        let mut records = self.iter();
        records.rest = self.records.get(place.bytes..).unwrap_or_default();
        records.left = records.left.saturating_sub(place.records);
        records
    }

    /// An owned handle on a key or value that was read from this batch: it shares the batch's memory and
    /// keeps all of it alive. Bytes from anywhere else are copied.
    #[must_use]
    pub fn slice(&self, part: &[u8]) -> Bytes {
        let within = self.records.as_ptr_range();
        let wanted = part.as_ptr_range();
        if within.start <= wanted.start && wanted.end <= within.end {
            self.records.slice_ref(part)
        } else {
            Bytes::copy_from_slice(part)
        }
    }
}

impl<'a> IntoIterator for &'a DecodedBatch {
    type Item = Result<RecordRef<'a>>;
    type IntoIter = RecordIter<'a>;

    fn into_iter(self) -> RecordIter<'a> {
        self.iter()
    }
}

impl fmt::Debug for DecodedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecodedBatch").field("header", &self.header).field("bytes", &self.records.len()).finish()
    }
}

/// A place between two records of a batch, to go on from without reading what lies before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    bytes: usize,
    records: i32,
}

/// The records of a [`DecodedBatch`]. After an error it ends: what follows damage cannot be found.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    rest: &'a [u8],
    left: i32,
    count: i32,
    base_offset: i64,
    /// Added to every timestamp delta.
    base_timestamp: i64,
    /// All ones, or zero where the log's append time stands for every record's own.
    delta_mask: i64,
}

impl<'a> RecordIter<'a> {
    fn new(header: &BatchHeader, records: &'a [u8]) -> Self {
        let (base_timestamp, delta_mask) = match header.timestamp_type() {
            TimestampType::CreateTime => (header.base_timestamp().get(), !0),
            TimestampType::LogAppendTime => (header.max_timestamp().get(), 0),
        };
        let count = header.record_count();
        Self { rest: records, left: count, count, base_offset: header.base_offset().get(), base_timestamp, delta_mask }
    }

    /// Where this iterator over `batch` is.
    pub(crate) fn place(&self, batch: &DecodedBatch) -> RecordPlace {
        RecordPlace { bytes: batch.records.len().saturating_sub(self.rest.len()), records: self.count - self.left }
    }

    #[inline]
    fn advance(&mut self) -> Result<RecordRef<'a>, layout::Flaw> {
        let (fields, rest) = layout::read(self.rest)?;
        if self.left == 1 && !rest.is_empty() {
            return Err("bytes are left after it, and it is the last");
        }
        self.rest = rest;
        self.left -= 1;
        Ok(RecordRef {
            offset: self.base_offset.saturating_add(i64::from(fields.offset_delta)),
            // Wrapping, as in Kafka: the deltas of far-apart times wrap when written.
            timestamp: self.base_timestamp.wrapping_add(fields.timestamp_delta & self.delta_mask),
            fields,
        })
    }

    #[cold]
    fn fail(&mut self, flaw: layout::Flaw) -> Error {
        let number = self.count - self.left + 1;
        let what = format!("record {number} of {} in the batch is damaged: {flaw}", self.count);
        self.left = 0;
        Error::new(ErrorKind::Corrupt, what).offset(self.base_offset)
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<RecordRef<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        Some(self.advance().map_err(|flaw| self.fail(flaw)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(0);
        (usize::from(left > 0), Some(left))
    }
}

impl FusedIterator for RecordIter<'_> {}

/// One record, borrowed from its [`DecodedBatch`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    offset: i64,
    timestamp: i64,
    fields: layout::Fields<'a>,
}

impl<'a> RecordRef<'a> {
    /// The record's offset in its partition.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        Offset::new(self.offset)
    }

    /// The producer's time, or the time of the append where the batch says so
    /// (`message.timestamp.type=LogAppendTime`).
    #[must_use]
    pub const fn timestamp(&self) -> Timestamp {
        Timestamp::new(self.timestamp)
    }

    /// The key, `None` for null.
    #[must_use]
    pub const fn key(&self) -> Option<&'a [u8]> {
        self.fields.key
    }

    /// The value, `None` for null: a tombstone in a compacted topic.
    #[must_use]
    pub const fn value(&self) -> Option<&'a [u8]> {
        self.fields.value
    }

    /// The headers in their order, duplicates included.
    #[must_use]
    pub const fn headers(&self) -> Headers<'a> {
        Headers { rest: self.fields.headers, left: self.fields.header_count }
    }

    /// The record's place in its batch as written, counted from the base offset.
    pub(super) const fn offset_delta(&self) -> i32 {
        self.fields.offset_delta
    }
}

impl fmt::Debug for RecordRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |field: Option<&[u8]>| field.map(|b| b.escape_ascii().to_string());
        f.debug_struct("RecordRef")
            .field("offset", &self.offset)
            .field("timestamp", &self.timestamp)
            .field("key", &text(self.key()))
            .field("value", &text(self.value()))
            .field("headers", &self.fields.header_count)
            .finish()
    }
}

/// The headers of a record: pairs of key and nullable value. A key that is not UTF-8, which Kafka stores but
/// no Kafka client writes by itself, reads as U+FFFD.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Headers<'a> {
    /// The value of the last header of this key, as Kafka's `lastHeader` finds it. The outer `None` says that
    /// there is no such header, the inner one that its value is null.
    #[must_use]
    pub fn last(self, key: &str) -> Option<Option<&'a [u8]>> {
        self.filter(|(k, _)| *k == key).map(|(_, value)| value).last()
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // Checked when the record was read, so there always is one.
        let ((key, value), rest) = layout::read_header(self.rest)?;
        self.rest = rest;
        Some((std::str::from_utf8(key).unwrap_or("\u{fffd}"), value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Headers<'_> {}
impl FusedIterator for Headers<'_> {}

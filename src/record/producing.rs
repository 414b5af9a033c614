//! What a producer hands over: an owned record, its headers, and the types that become its bytes.

use std::fmt;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::types::{PartitionId, Timestamp};

/// One header of a record: a text key and a value that may be null. Headers keep their order, and the same
/// key may occur more than once (KIP-82).
///
/// ```
/// use thalweg::Header;
/// let header = Header::new("trace", "4bf92f35");
/// assert_eq!(header.key(), "trace");
/// assert_eq!(header.value(), Some(&b"4bf92f35"[..]));
/// assert_eq!(Header::null("seen").value(), None);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Header {
    key: String,
    value: Option<Bytes>,
}

impl Header {
    /// A header with a value.
    #[must_use]
    pub fn new(key: impl Into<String>, value: impl IntoPayload) -> Self {
        Self { key: key.into(), value: Some(value.into_payload()) }
    }

    /// A header whose value is null.
    #[must_use]
    pub fn null(key: impl Into<String>) -> Self {
        Self { key: key.into(), value: None }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value, `None` for null.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}", self.key, self.value)
    }
}

/// A record to be sent: a value, and where wanted a key, headers, a timestamp and a partition.
///
/// ```
/// use thalweg::{Record, Timestamp};
/// let record = Record::new(r#"{"amount": 12}"#)
///     .key("user-1")
///     .header("source", "checkout")
///     .timestamp(Timestamp::new(1_700_000_000_000));
/// assert_eq!(record.key_bytes().map(|k| &k[..]), Some(&b"user-1"[..]));
///
/// let pair = Record::from(("user-1", "paid"));
/// assert_eq!(pair.value_bytes().map(|v| &v[..]), Some(&b"paid"[..]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<Header>,
    timestamp: Option<Timestamp>,
    partition: Option<PartitionId>,
}

impl Record {
    /// A record with a value and no key.
    #[must_use]
    pub fn new(value: impl IntoPayload) -> Self {
        Self::of(None, Some(value.into_payload()), Vec::new())
    }

    /// A record whose value is null: in a compacted topic it deletes its key (`cleanup.policy=compact`).
    #[must_use]
    pub fn tombstone(key: impl IntoPayload) -> Self {
        Self::of(Some(key.into_payload()), None, Vec::new())
    }

    pub(crate) fn of(key: Option<Bytes>, value: Option<Bytes>, headers: Vec<Header>) -> Self {
        Self { key, value, headers, timestamp: None, partition: None }
    }

    /// Sets the key. Records of one key go to one partition.
    #[must_use]
    pub fn key(mut self, key: impl IntoPayload) -> Self {
        self.key = Some(key.into_payload());
        self
    }

    /// Adds a header after those that are there.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl IntoPayload) -> Self {
        self.headers.push(Header::new(key, value));
        self
    }

    /// Adds a header whose value is null.
    #[must_use]
    pub fn null_header(mut self, key: impl Into<String>) -> Self {
        self.headers.push(Header::null(key));
        self
    }

    /// Sets the time of the event. Without it the record gets the time at which it is sent. One before 1970 is refused
    /// with [`InvalidTimestamp`](ErrorKind::InvalidTimestamp) when the record is sent, but for [`Timestamp::NONE`].
    #[must_use]
    pub fn timestamp(mut self, timestamp: impl Into<Timestamp>) -> Self {
        self.timestamp = Some(timestamp.into());
        self
    }

    /// Sends the record to this partition, whatever its key.
    #[must_use]
    pub fn partition(mut self, partition: impl Into<PartitionId>) -> Self {
        self.set_partition(partition.into());
        self
    }

    pub(crate) fn set_partition(&mut self, partition: PartitionId) {
        self.partition = Some(partition);
    }

    /// The key, `None` for null.
    #[must_use]
    pub fn key_bytes(&self) -> Option<&Bytes> {
        self.key.as_ref()
    }

    /// The value, `None` for null.
    #[must_use]
    pub fn value_bytes(&self) -> Option<&Bytes> {
        self.value.as_ref()
    }

    /// The headers in their order.
    #[must_use]
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// The time that was set, if one was.
    #[must_use]
    pub fn explicit_timestamp(&self) -> Option<Timestamp> {
        self.timestamp
    }

    /// The time that was set, or else `now`. Fails for one that no record may have, as Kafka's `ProducerRecord` does.
    #[inline]
    pub(crate) fn timestamp_or(&self, now: Timestamp) -> Result<Timestamp> {
        match self.timestamp {
            None => Ok(now),
            Some(timestamp) if timestamp >= Timestamp::NONE => Ok(timestamp),
            Some(timestamp) => Err(before_all(timestamp)),
        }
    }

    /// The partition that was set, if one was.
    #[must_use]
    pub fn explicit_partition(&self) -> Option<PartitionId> {
        self.partition
    }
}

#[cold]
fn before_all(timestamp: Timestamp) -> Error {
    Error::new(ErrorKind::InvalidTimestamp, format!("a record cannot have the timestamp {timestamp}"))
        .remedy("give it the milliseconds since 1970, 0 or more, or Timestamp::NONE where there is no time")
}

/// A pair is a key and a value.
impl<K: IntoPayload, V: IntoPayload> From<(K, V)> for Record {
    fn from((key, value): (K, V)) -> Self {
        Self::new(value).key(key)
    }
}

/// What keys, values and header values are made from: text and bytes, owned or borrowed. Borrowed ones are
/// copied. Implemented here only.
pub trait IntoPayload: sealed::Sealed {
    /// The bytes of this text or these bytes.
    fn into_payload(self) -> Bytes;
}

mod sealed {
    pub trait Sealed {}
}

/// Implements [`IntoPayload`], and for the types named as whole records their conversion to one.
macro_rules! payload {
    ($($(#[$record:ident])? $type:ty => $convert:expr),* $(,)?) => {
        $(
            impl sealed::Sealed for $type {}
            impl IntoPayload for $type {
                fn into_payload(self) -> Bytes {
                    let convert: fn(Self) -> Bytes = $convert;
                    convert(self)
                }
            }
            $(payload!(@$record $type);)?
        )*
    };
    (@record $type:ty) => {
        /// A record of this value, without a key.
        impl From<$type> for Record {
            fn from(value: $type) -> Self {
                Self::new(value)
            }
        }
    };
}

payload! {
    #[record] &str => |v| Bytes::copy_from_slice(v.as_bytes()),
    #[record] String => Bytes::from,
    #[record] &[u8] => Bytes::copy_from_slice,
    #[record] Vec<u8> => Bytes::from,
    #[record] Bytes => |v| v,
    &String => |v| Bytes::copy_from_slice(v.as_bytes()),
    &Vec<u8> => |v| Bytes::copy_from_slice(v),
    &Bytes => Bytes::clone,
}

impl<const N: usize> sealed::Sealed for [u8; N] {}
impl<const N: usize> IntoPayload for [u8; N] {
    fn into_payload(self) -> Bytes {
        Bytes::copy_from_slice(&self)
    }
}

impl<const N: usize> sealed::Sealed for &[u8; N] {}
impl<const N: usize> IntoPayload for &[u8; N] {
    fn into_payload(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

//! What a format is: a serializer and a deserializer, and what either is told about the place of its data.

use std::fmt;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::record::Header;

/// Which half of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordPart {
    /// The key.
    Key,
    /// The value.
    Value,
}

impl fmt::Display for RecordPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Value => "value",
        })
    }
}

/// Where data is written to or comes from: the keys, or the values, of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordField<'a> {
    topic: &'a str,
    part: RecordPart,
}

impl<'a> RecordField<'a> {
    /// The keys or values of `topic`.
    #[must_use]
    pub const fn new(topic: &'a str, part: RecordPart) -> Self {
        Self { topic, part }
    }

    /// The topic's name.
    #[must_use]
    pub const fn topic(&self) -> &'a str {
        self.topic
    }

    /// Key or value.
    #[must_use]
    pub const fn part(&self) -> RecordPart {
        self.part
    }
}

impl fmt::Display for RecordField<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of a record of topic {:?}", self.part, self.topic)
    }
}

/// Writes data as the bytes of a key or a value (`key.serializer`, `value.serializer`).
///
/// It may add headers to the record, or change those that are there: the key is written before the value, both into
/// the same headers. Whatever it needs to know, a schema registry or a secret, is its own.
///
/// ```
/// use bytes::Bytes;
/// use thalweg::{Broker, Deserializer, Header, Plain, RecordField, Result, Serializer, Start};
///
/// /// Bytes that nobody shall read by accident, in a format that a header names.
/// struct Masked {
///     mask: u8,
/// }
///
/// impl Serializer for Masked {
///     type Input<'a> = &'a str;
///
///     fn serialize(&self, at: RecordField<'_>, headers: &mut Vec<Header>, data: &str) -> Result<Option<Bytes>> {
///         headers.push(Header::new(format!("mask.{}", at.part()), [self.mask]));
///         Ok(Some(data.bytes().map(|byte| byte ^ self.mask).collect()))
///     }
/// }
///
/// impl Deserializer for Masked {
///     type Output = String;
///
///     fn deserialize(&self, at: RecordField<'_>, headers: &mut Vec<Header>, data: Option<&Bytes>) -> Result<String> {
///         let name = format!("mask.{}", at.part());
///         let place = headers.iter().rposition(|header| header.key() == name);
///         let header = place.map(|place| headers.remove(place));
///         let mask = header.and_then(|header| header.value()?.first().copied()).unwrap_or(self.mask);
///         let bare = data.map(|data| data.iter().map(|byte| byte ^ mask).collect::<Bytes>());
///         Plain::<String>::default().deserialize(at, headers, bare.as_ref())
///     }
/// }
///
/// let broker = Broker::in_memory()?;
/// let notes = broker.topic("notes").create()?.typed_with(Plain::<i64>::default(), Masked { mask: 0x55 });
/// notes.send((1, "meet at noon"))?;
/// for record in notes.scan(Start::Earliest) {
///     let record = record?;
///     assert_eq!((record.value().as_str(), record.headers().len()), ("meet at noon", 0));
///     assert_eq!(record.raw().headers()[0].key(), "mask.value");
/// }
/// # Ok::<(), thalweg::Error>(())
/// ```
pub trait Serializer: Send + Sync + 'static {
    /// What it is given: `&'a str`, `i64`, `Option<&'a Order>`.
    type Input<'a>;

    /// The bytes of `data`; `None` is null: no key, or a tombstone.
    ///
    /// # Errors
    /// Why it cannot be written; the record is not sent then.
    fn serialize(&self, at: RecordField<'_>, headers: &mut Vec<Header>, data: Self::Input<'_>)
    -> Result<Option<Bytes>>;
}

/// Reads data from the bytes of a key or a value (`key.deserializer`, `value.deserializer`). See [`Serializer`] for an
/// example.
///
/// It may add, change or drop headers, such as it has used up: the key is read before the value, both with the same
/// headers, and [`TypedRecord::headers`](crate::TypedRecord::headers) has what is left of them.
pub trait Deserializer: Send + Sync + 'static {
    /// What it makes of them.
    type Output;

    /// The data in these bytes, which may come from anybody; `None` is null. A part of `data` that is kept, keeps the
    /// whole batch of the record in memory.
    ///
    /// # Errors
    /// Why it cannot be read. Whoever reads the record is told, with this as the cause, and can go on with the next.
    fn deserialize(&self, at: RecordField<'_>, headers: &mut Vec<Header>, data: Option<&Bytes>)
    -> Result<Self::Output>;
}

/// Types that say how they are written: what [`Topic::typed`](crate::Topic::typed) can be asked for.
///
/// | type | sent as | bytes | in Kafka |
/// |---|---|---|---|
/// | `String` | `&str` | UTF-8, checked when read | `StringSerializer` |
/// | `Bytes`, `Vec<u8>` | `&[u8]` | as they are; `Bytes` are read without a copy | `ByteArraySerializer` |
/// | `i16`, `i32`, `i64` | itself | 2, 4 or 8, big-endian | `ShortSerializer`, `IntegerSerializer`, `LongSerializer` |
/// | `f32`, `f64` | itself | 4 or 8, IEEE 754, big-endian | `FloatSerializer`, `DoubleSerializer` |
/// | `bool` | itself | 1 or 0 in one byte | `BooleanSerializer` |
/// | [`Uuid`](crate::Uuid) | itself | 36 characters, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` | `UUIDSerializer` |
/// | `()` | itself | null | `VoidSerializer` |
/// | `Option<D>` | `Option` of what `D` is sent as | as of `D`, or null | each of the above |
/// | `Json<T>`, feature `json` | `&T` | JSON text | |
///
/// Null is refused where the type is no `Option`; `Option<Bytes>` takes whatever there is. A type of your own names its format:
///
/// ```
/// use bytes::Bytes;
/// use thalweg::{Broker, Header, RecordField, Result, Serializer, Deserializer, Plain, TypedData};
///
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// struct Cents(i64);
///
/// #[derive(Default)]
/// struct CentsFormat(Plain<i64>);
///
/// impl Serializer for CentsFormat {
///     type Input<'a> = Cents;
///     fn serialize(&self, at: RecordField<'_>, headers: &mut Vec<Header>, data: Cents) -> Result<Option<Bytes>> {
///         self.0.serialize(at, headers, data.0)
///     }
/// }
///
/// impl Deserializer for CentsFormat {
///     type Output = Cents;
///     fn deserialize(&self, at: RecordField<'_>, headers: &mut Vec<Header>, data: Option<&Bytes>) -> Result<Cents> {
///         self.0.deserialize(at, headers, data).map(Cents)
///     }
/// }
///
/// impl TypedData for Cents {
///     type Format = CentsFormat;
/// }
///
/// let broker = Broker::in_memory()?;
/// let prices = broker.topic("prices").create()?.typed::<String, Cents>();
/// prices.send(("apples", Cents(120)))?;
/// # Ok::<(), thalweg::Error>(())
/// ```
pub trait TypedData {
    /// How it is written and read.
    type Format: Serializer + Deserializer + Default;
}

/// A format in which null has a meaning: `None`. What `Option<D>` is written in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nullable<F>(
    /// The format of what is not null.
    pub F,
);

impl<F: Serializer> Serializer for Nullable<F> {
    type Input<'a> = Option<F::Input<'a>>;

    fn serialize(
        &self,
        at: RecordField<'_>,
        headers: &mut Vec<Header>,
        data: Self::Input<'_>,
    ) -> Result<Option<Bytes>> {
        data.map_or(Ok(None), |data| self.0.serialize(at, headers, data))
    }
}

impl<F: Deserializer> Deserializer for Nullable<F> {
    type Output = Option<F::Output>;

    fn deserialize(
        &self,
        at: RecordField<'_>,
        headers: &mut Vec<Header>,
        data: Option<&Bytes>,
    ) -> Result<Self::Output> {
        data.map(|data| self.0.deserialize(at, headers, Some(data))).transpose()
    }
}

impl<D: TypedData> TypedData for Option<D> {
    type Format = Nullable<D::Format>;
}

/// The data of a format that knows no null.
pub(super) fn not_null(data: Option<&Bytes>) -> Result<&Bytes> {
    data.ok_or_else(|| refused("it is null").remedy("read it as an Option"))
}

pub(super) fn refused(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Serialization, why)
}

//! Records read with their types, one at a time as they are iterated, and what is told of one that cannot be.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "async")]
use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
#[cfg(feature = "async")]
use futures_core::Stream;

use super::Formats;
use super::format::{Deserializer, RecordField, RecordPart};
use crate::consumer::ConsumerRecord;
use crate::consumer::sealed::{self as handed, Handed};
use crate::error::{Error, ErrorKind, Result};
use crate::record::Header;
#[cfg(feature = "async")]
use crate::topic::TailStream;
use crate::topic::{OwnedRecord, Tail};

/// A record whose key and value are bytes: an [`OwnedRecord`] or a [`ConsumerRecord`]. Sealed.
pub trait RawRecord: sealed::Raw {}

impl<R: sealed::Raw> RawRecord for R {}

/// A record, or what a reader gives in place of one: an item of [`Records`](crate::Records), of a
/// [`Scan`](crate::Scan) or of a [`Tail`]. Sealed.
pub trait ReadRecord: sealed::Read {}

impl<R: sealed::Read> ReadRecord for R {}

mod sealed {
    use std::borrow::Cow;

    use super::{Bytes, ConsumerRecord, Handed, Header, OwnedRecord, Result};

    pub trait Raw {
        fn topic(&self) -> &str;
        /// Without headers, which is most often, nothing is made.
        fn headers(&self) -> Vec<Header>;
        fn key(&self) -> Option<Cow<'_, Bytes>>;
        fn value(&self) -> Option<Cow<'_, Bytes>>;
        /// When a poll handed it out, as far as it still knows.
        fn handed(&self) -> Option<Handed>;
        fn into_owned(self) -> OwnedRecord;
    }

    impl Raw for OwnedRecord {
        fn topic(&self) -> &str {
            self.topic()
        }

        fn headers(&self) -> Vec<Header> {
            self.headers().to_vec()
        }

        fn key(&self) -> Option<Cow<'_, Bytes>> {
            self.key_bytes().map(Cow::Borrowed)
        }

        fn value(&self) -> Option<Cow<'_, Bytes>> {
            self.value_bytes().map(Cow::Borrowed)
        }

        fn handed(&self) -> Option<Handed> {
            None
        }

        fn into_owned(self) -> OwnedRecord {
            self
        }
    }

    impl Raw for ConsumerRecord<'_> {
        fn topic(&self) -> &str {
            (*self).topic()
        }

        fn headers(&self) -> Vec<Header> {
            self.owned_headers()
        }

        fn key(&self) -> Option<Cow<'_, Bytes>> {
            self.key_bytes().map(Cow::Owned)
        }

        fn value(&self) -> Option<Cow<'_, Bytes>> {
            self.value_bytes().map(Cow::Owned)
        }

        fn handed(&self) -> Option<Handed> {
            Some(self.handed_out())
        }

        fn into_owned(self) -> OwnedRecord {
            ConsumerRecord::into_owned(self)
        }
    }

    pub trait Read {
        type Raw: Raw;

        fn read(self) -> Result<Self::Raw>;
    }

    impl<R: Raw> Read for R {
        type Raw = R;

        fn read(self) -> Result<R> {
            Ok(self)
        }
    }

    impl<R: Raw> Read for Result<R> {
        type Raw = R;

        fn read(self) -> Result<R> {
            self
        }
    }
}

/// Reads both parts of a record.
pub(super) fn decode<R: RawRecord, K: Deserializer, V: Deserializer>(
    formats: &Formats<K, V>,
    record: R,
) -> Result<TypedRecord<R, K::Output, V::Output>> {
    let mut headers = record.headers();
    let read = {
        let at = |part| RecordField::new(record.topic(), part);
        let key = formats.key.deserialize(at(RecordPart::Key), &mut headers, record.key().as_deref());
        key.map_err(|cause| (RecordPart::Key, cause)).and_then(|key| {
            let value = formats.value.deserialize(at(RecordPart::Value), &mut headers, record.value().as_deref());
            value.map(|value| (key, value)).map_err(|cause| (RecordPart::Value, cause))
        })
    };
    match read {
        Ok((key, value)) => Ok(TypedRecord { raw: record, key, value, headers }),
        Err((part, cause)) => {
            let handed = record.handed();
            Err(Undecoded { record: record.into_owned(), handed, part, cause }.into_error())
        }
    }
}

/// One record with its key and value as values of their types. It derefs to the record as it was read, which has its
/// place and time. [`Consumer::commit_through`](crate::Consumer::commit_through) takes one that a poll handed out.
#[derive(Clone, Debug)]
pub struct TypedRecord<R, K, V> {
    raw: R,
    key: K,
    value: V,
    headers: Vec<Header>,
}

impl<R, K, V> TypedRecord<R, K, V> {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &K {
        &self.key
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &V {
        &self.value
    }

    /// The headers as its formats left them. The record as it was read has them as they came.
    #[must_use]
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// The record as it was read, with the bytes of both.
    #[must_use]
    pub fn raw(&self) -> &R {
        &self.raw
    }

    /// The key and the value by themselves.
    #[must_use]
    pub fn into_parts(self) -> (K, V) {
        (self.key, self.value)
    }
}

impl<R, K, V> Deref for TypedRecord<R, K, V> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.raw
    }
}

impl<R: handed::HandedOut, K, V> handed::HandedOut for TypedRecord<R, K, V> {
    fn handed(&self) -> Result<Handed> {
        self.raw.handed()
    }
}

/// Records read with their types, one after the other; from [`TypedTopic::decode`](super::TypedTopic::decode),
/// [`scan`](super::TypedTopic::scan) and [`tail`](super::TypedTopic::tail).
///
/// Each is decoded when it is asked for. One that cannot be is one error of kind [`ErrorKind::Serialization`], and the
/// next record follows it; errors of the reader itself come as they are.
#[must_use = "nothing is read or decoded until it is iterated"]
pub struct TypedRecords<I, K, V> {
    reader: I,
    formats: Arc<Formats<K, V>>,
}

impl<I, K, V> TypedRecords<I, K, V> {
    pub(super) fn new(reader: I, formats: Arc<Formats<K, V>>) -> Self {
        Self { reader, formats }
    }

    /// Where the records come from.
    #[must_use]
    pub fn reader(&self) -> &I {
        &self.reader
    }
}

/// What is decoded of an item of `I`.
type Decoded<I, K, V> = Result<
    TypedRecord<<<I as Iterator>::Item as sealed::Read>::Raw, <K as Deserializer>::Output, <V as Deserializer>::Output>,
>;

impl<I, K, V> Iterator for TypedRecords<I, K, V>
where
    I: Iterator,
    I::Item: ReadRecord,
    K: Deserializer,
    V: Deserializer,
{
    type Item = Decoded<I, K, V>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = sealed::Read::read(self.reader.next()?);
        Some(record.and_then(|record| decode(&self.formats, record)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.reader.size_hint()
    }
}

impl<K: Deserializer, V: Deserializer> TypedRecords<Tail, K, V> {
    /// As [`Tail::next_timeout`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Decoded<Tail, K, V>> {
        let record = self.reader.next_timeout(timeout)?;
        Some(record.and_then(|record| decode(&self.formats, record)))
    }
}

#[cfg(feature = "async")]
impl<K, V> TypedRecords<Tail, K, V> {
    /// As [`Tail::into_stream`].
    pub fn into_stream(self) -> TypedRecords<TailStream, K, V> {
        TypedRecords { reader: self.reader.into_stream(), formats: self.formats }
    }
}

/// Cancel safe as [`TailStream`] is.
#[cfg(feature = "async")]
impl<K: Deserializer, V: Deserializer> Stream for TypedRecords<TailStream, K, V> {
    type Item = Result<TypedRecord<OwnedRecord, K::Output, V::Output>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let read = Pin::new(&mut self.reader).poll_next(cx);
        read.map(|record| record.map(|record| record.and_then(|record| decode(&self.formats, record))))
    }
}

impl<I: fmt::Debug, K, V> fmt::Debug for TypedRecords<I, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedRecords").field(&self.reader).finish()
    }
}

/// A record that could not be read with its types; from [`Error::undecoded`]. Where it was decoded by reference
/// (`decode(&records)`) of what a poll brought, [`Consumer::commit_through`](crate::Consumer::commit_through) takes it.
#[derive(Clone, Debug)]
pub struct Undecoded {
    record: OwnedRecord,
    handed: Option<Handed>,
    part: RecordPart,
    cause: Error,
}

impl Undecoded {
    /// The record as it was read: topic, partition and offset, and all its bytes.
    #[must_use]
    pub fn record(&self) -> &OwnedRecord {
        &self.record
    }

    /// Which half of it could not be read. A value is not tried where the key could not be.
    #[must_use]
    pub fn part(&self) -> RecordPart {
        self.part
    }

    /// The bytes of that half.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match self.part {
            RecordPart::Key => self.record.key(),
            RecordPart::Value => self.record.value(),
        }
    }

    /// What the deserializer said.
    #[must_use]
    pub fn cause(&self) -> &Error {
        &self.cause
    }

    fn into_error(self) -> Error {
        let what = format!("the {} of a record cannot be read as its type", self.part);
        Error::new(ErrorKind::Serialization, what)
            .partition(self.record.topic_partition().clone())
            .offset(self.record.offset())
            .source(self)
            .remedy("its bytes are in Error::undecoded; reading goes on with the next record")
    }
}

impl handed::HandedOut for Undecoded {
    fn handed(&self) -> Result<Handed> {
        self.handed.clone().ok_or_else(|| {
            let message = "it is not known when a poll handed this record out, if one did";
            Error::new(ErrorKind::InvalidArgument, message)
                .partition(self.record.topic_partition().clone())
                .offset(self.record.offset())
                .remedy("decode the records of a poll by reference, or commit all that it brought")
        })
    }
}

impl fmt::Display for Undecoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cause, f)
    }
}

impl std::error::Error for Undecoded {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.cause)
    }
}

impl Error {
    /// The record that could not be read with its types, where this error tells of one
    /// ([`ErrorKind::Serialization`]): its bytes can be put aside, or read in another way.
    ///
    /// ```
    /// use thalweg::{Broker, RecordPart, Start};
    /// let broker = Broker::in_memory()?;
    /// let counts = broker.topic("counts").create()?.typed::<String, i64>();
    /// counts.topic().send(("a", "rubbish"))?;
    /// counts.send(("b", 2))?;
    ///
    /// let (mut sum, mut aside) = (0, Vec::new());
    /// for record in counts.scan(Start::Earliest) {
    ///     match record {
    ///         Ok(record) => sum += record.value(),
    ///         Err(error) => match error.undecoded() {
    ///             Some(undecoded) => aside.push(undecoded.clone()),
    ///             None => return Err(error),
    ///         },
    ///     }
    /// }
    /// assert_eq!((sum, aside.len()), (2, 1));
    /// assert_eq!((aside[0].part(), aside[0].record().offset()), (RecordPart::Value, 0.into()));
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    #[must_use]
    pub fn undecoded(&self) -> Option<&Undecoded> {
        std::error::Error::source(self)?.downcast_ref()
    }
}

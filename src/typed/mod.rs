//! Floor 9: topics whose keys and values are values of Rust types. A [`TypedTopic`] writes them to bytes before a
//! record is sent and reads them back as records are iterated; everything else is the topic's.
//!
//! Not here: batching, positions, commits. Invariant: a record that cannot be read is one error and stops nobody.

mod format;
#[cfg(feature = "json")]
mod json;
mod plain;
mod read;

use std::fmt;
use std::sync::Arc;

use crate::broker::Topic;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Appended, ExpectedEnd};
use crate::producer::{Producer, RecordMetadata, Ticket};
use crate::record::Record;
use crate::topic::{ReadFrom, Scan, Tail};
use crate::types::{Offset, PartitionId};

pub use format::{Deserializer, Nullable, RecordField, RecordPart, Serializer, TypedData};
#[cfg(feature = "json")]
pub use json::Json;
pub use plain::Plain;
pub use read::{RawRecord, ReadRecord, TypedRecord, TypedRecords, Undecoded};

/// A topic together with the formats of its keys and values; from [`Topic::typed`] and [`Topic::typed_with`]. Cheap to
/// clone. It is a way of looking at the topic: other parts of a program may read and write the same topic as bytes.
///
/// ```
/// use std::time::Duration;
/// use thalweg::{Broker, ErrorKind, Start};
/// let broker = Broker::in_memory()?;
/// let stock = broker.topic("stock").open_or_create()?.typed::<String, i64>();
///
/// stock.send(("apples", 12))?;
/// let producer = broker.producer().build()?;
/// let ticket = stock.enqueue(&producer, ("pears", 7))?;
/// assert_eq!(ticket.wait()?.offset, 1);
/// stock.topic().send(("plums", "many"))?; // Anybody may write other bytes.
///
/// let mut consumer = broker.consumer_group("audit").consumer(["stock"]).join()?;
/// let mut total = 0;
/// for record in stock.decode(&consumer.poll(Duration::from_secs(1))?) {
///     match record {
///         Ok(record) => {
///             total += record.value();
///             consumer.commit_through(&record)?;
///         }
///         Err(error) => {
///             let undecoded = error.undecoded().ok_or_else(|| error.clone())?;
///             assert_eq!((error.kind(), error.at_offset()), (ErrorKind::Serialization, Some(2.into())));
///             assert_eq!(undecoded.bytes(), Some(&b"many"[..]));
///             consumer.commit_through(undecoded)?; // Past the one that cannot be read.
///         }
///     }
/// }
/// assert_eq!(total, 19);
///
/// let first = stock.scan(Start::Earliest).next().transpose()?;
/// assert_eq!(first.map(|record| record.into_parts()), Some(("apples".to_owned(), 12)));
/// # Ok::<(), thalweg::Error>(())
/// ```
pub struct TypedTopic<K, V> {
    topic: Topic,
    formats: Arc<Formats<K, V>>,
}

/// The formats of keys and of values.
#[derive(Debug)]
struct Formats<K, V> {
    key: K,
    value: V,
}

impl Topic {
    /// The topic with keys of type `K` and values of type `V`, each written as its type says
    /// ([`TypedData`]): `String`, bytes and numbers as Kafka's own serializers write them, `Json<T>` as JSON
    /// (feature `json`), `Option` of each where null is allowed, and `()` where nothing but null is.
    ///
    /// ```
    /// use thalweg::{Broker, Start};
    /// let broker = Broker::in_memory()?;
    /// let users = broker.topic("users").set("cleanup.policy", "compact").create()?.typed::<i32, Option<String>>();
    /// users.send((7, Some("Ada")))?;
    /// users.send((7, None))?; // A tombstone.
    /// let names: Result<Vec<_>, _> = users.scan(Start::Earliest).map(|r| r.map(|r| r.into_parts().1)).collect();
    /// assert_eq!(names?, [Some("Ada".to_owned()), None]);
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    #[must_use]
    pub fn typed<K: TypedData, V: TypedData>(&self) -> TypedTopic<K::Format, V::Format> {
        self.typed_with(K::Format::default(), V::Format::default())
    }

    /// The same with formats of your own: ones that hold something, such as a schema registry's client or a secret, or
    /// that only write or only read. See [`Serializer`].
    #[must_use]
    pub fn typed_with<K, V>(&self, key: K, value: V) -> TypedTopic<K, V> {
        TypedTopic { topic: self.clone(), formats: Arc::new(Formats { key, value }) }
    }
}

impl<K, V> TypedTopic<K, V> {
    /// The topic itself, to which everything is bytes.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    fn field(&self, part: RecordPart) -> RecordField<'_> {
        RecordField::new(self.topic.name(), part)
    }
}

impl<K: Serializer, V: Serializer> TypedTopic<K, V> {
    /// The record of a key and a value, not sent: for headers, a timestamp or a partition of its own. Headers that its
    /// formats write come first.
    ///
    /// ```
    /// let broker = thalweg::Broker::in_memory()?;
    /// let orders = broker.topic("orders").create()?.typed::<String, i64>();
    /// let record = orders.record(("user-1", 40))?.header("trace", "4bf92f35");
    /// assert_eq!(orders.topic().send(record)?.offset, 0);
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Serialization`], with what the serializer said as its source.
    pub fn record(&self, (key, value): (K::Input<'_>, V::Input<'_>)) -> Result<Record> {
        let mut headers = Vec::new();
        let at = |part| move |cause| self.unwritten(part, cause);
        let key = self.formats.key.serialize(self.field(RecordPart::Key), &mut headers, key);
        let key = key.map_err(at(RecordPart::Key))?;
        let value = self.formats.value.serialize(self.field(RecordPart::Value), &mut headers, value);
        let value = value.map_err(at(RecordPart::Value))?;
        Ok(Record::of(key, value, headers))
    }

    fn unwritten(&self, part: RecordPart, cause: Error) -> Error {
        let what = format!("the {} was not sent: it cannot be written as bytes", self.field(part));
        Error::new(ErrorKind::Serialization, what).source(cause)
    }

    /// Sends one record and blocks until it is as durable as the topic says.
    ///
    /// # Errors
    /// As [`record`](Self::record), and nothing was sent then; as [`Topic::send`].
    pub fn send(&self, record: (K::Input<'_>, V::Input<'_>)) -> Result<RecordMetadata> {
        self.topic.send(self.record(record)?)
    }

    /// Gives one record to `producer` and answers at once.
    ///
    /// # Errors
    /// As [`record`](Self::record), and other records are unaffected; as [`Producer::enqueue`].
    pub fn enqueue(&self, producer: &Producer, record: (K::Input<'_>, V::Input<'_>)) -> Result<Ticket> {
        producer.enqueue(&self.topic, self.record(record)?)
    }

    /// As [`Producer::enqueue_with`]: calls back when it is known how it went.
    ///
    /// # Errors
    /// As [`record`](Self::record) and [`Producer::enqueue_with`]; then nothing is called.
    pub fn enqueue_with<F>(&self, producer: &Producer, record: (K::Input<'_>, V::Input<'_>), callback: F) -> Result<()>
    where
        F: FnOnce(Result<RecordMetadata>) + Send + 'static,
    {
        producer.enqueue_with(&self.topic, self.record(record)?, callback)
    }

    /// As [`Producer::enqueue_async`]; cancel safe as that is. The record is written as bytes in this call, so that the
    /// future borrows nothing of it.
    ///
    /// # Errors
    /// As [`record`](Self::record) and [`Producer::enqueue_async`].
    #[cfg(feature = "async")]
    pub fn enqueue_async<'a>(
        &'a self,
        producer: &'a Producer,
        record: (K::Input<'_>, V::Input<'_>),
    ) -> impl Future<Output = Result<Ticket>> + use<'a, K, V> {
        let record = self.record(record);
        async move { producer.enqueue_async(&self.topic, record?).await }
    }

    /// As [`Producer::send_batch`]: each record has its own result, in the order given, be it that it cannot be written
    /// as bytes.
    pub fn send_batch<'a>(
        &self,
        producer: &Producer,
        records: impl IntoIterator<Item = (K::Input<'a>, V::Input<'a>)>,
    ) -> Vec<Result<RecordMetadata>> {
        let mut refused = Vec::new();
        let written = records.into_iter().enumerate().filter_map(|(place, record)| {
            let written = self.record(record);
            written.map_err(|error| refused.push((place, error))).ok()
        });
        let mut results = producer.send_batch(&self.topic, written);
        refused.into_iter().for_each(|(place, error)| results.insert(place, Err(error)));
        results
    }

    /// Appends records to one partition as one batch: all or none.
    ///
    /// # Errors
    /// As [`record`](Self::record), and nothing was appended then; as
    /// [`Partition::append_records`](crate::Partition::append_records).
    pub fn append<'a>(
        &self,
        partition: impl Into<PartitionId>,
        records: impl IntoIterator<Item = (K::Input<'a>, V::Input<'a>)>,
    ) -> Result<Appended> {
        let records = self.records(records)?;
        self.topic.partition(partition)?.append_records(records)
    }

    /// The same, on condition that the partition ends at `expected_end`.
    ///
    /// ```
    /// use thalweg::{Broker, ErrorKind};
    /// let broker = Broker::in_memory()?;
    /// let account = broker.topic("account").create()?.typed::<String, i64>();
    /// account.append_if(0, 0, [("ada", 40)])?;
    /// let error = account.append_if(0, 0, [("ada", -40)]).unwrap_err();
    /// assert_eq!((error.kind(), error.at_offset()), (ErrorKind::Conflict, Some(1.into())));
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`append`](Self::append) and [`Partition::append_if`](crate::Partition::append_if).
    pub fn append_if<'a>(
        &self,
        partition: impl Into<PartitionId>,
        expected_end: impl Into<ExpectedEnd>,
        records: impl IntoIterator<Item = (K::Input<'a>, V::Input<'a>)>,
    ) -> Result<Appended> {
        let records = self.records(records)?;
        self.topic.partition(partition)?.append_records_if(expected_end, records)
    }

    /// The same, on condition that the newest record of `key` in the partition is the one at offset `newest`, or that
    /// there is none: see [`Partition::append_if_key`](crate::Partition::append_if_key). The key's format must write the
    /// same bytes each time.
    ///
    /// ```
    /// use thalweg::{Broker, MemoryStorage};
    /// let broker = Broker::builder("data").storage(MemoryStorage::new()).key_index("accounts", 64 << 20).open()?;
    /// let accounts = broker.topic("accounts").create()?.typed::<i64, String>();
    /// let opened = accounts.append_if_key(0, 7, None, [(7, "opened")])?;
    /// accounts.append_if_key(0, 7, Some(opened.last_offset), [(7, "closed")])?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` when the key is written as null; as [`append`](Self::append) and
    /// [`Partition::append_if_key`](crate::Partition::append_if_key).
    pub fn append_if_key<'a>(
        &self,
        partition: impl Into<PartitionId>,
        key: K::Input<'_>,
        newest: Option<Offset>,
        records: impl IntoIterator<Item = (K::Input<'a>, V::Input<'a>)>,
    ) -> Result<Appended> {
        let key = self.formats.key.serialize(self.field(RecordPart::Key), &mut Vec::new(), key);
        let key = key.map_err(|cause| self.unwritten(RecordPart::Key, cause))?;
        let Some(key) = key else {
            return Err(Error::new(ErrorKind::InvalidArgument, "an append cannot be conditional on the key null"));
        };
        let records = self.records(records)?;
        self.topic.partition(partition)?.append_records_if_key(key, newest, records)
    }

    fn records<'a>(&self, records: impl IntoIterator<Item = (K::Input<'a>, V::Input<'a>)>) -> Result<Vec<Record>> {
        records.into_iter().map(|record| self.record(record)).collect()
    }
}

impl<K: Deserializer, V: Deserializer> TypedTopic<K, V> {
    /// Reads the key and the value of one record. For the formats the record's own topic counts, whichever it is.
    ///
    /// # Errors
    /// [`ErrorKind::Serialization`] at the record's place; [`Error::undecoded`] has its bytes.
    pub fn decode_record<R: RawRecord>(&self, record: R) -> Result<TypedRecord<R, K::Output, V::Output>> {
        read::decode(&self.formats, record)
    }

    /// Reads the keys and values of `records` as they are iterated: of what a poll brought, of a scan or a tail, or of
    /// records that were kept. A record that cannot be read is one error, and the next record follows it.
    pub fn decode<I>(&self, records: I) -> TypedRecords<I::IntoIter, K, V>
    where
        I: IntoIterator,
        I::Item: ReadRecord,
    {
        TypedRecords::new(records.into_iter(), Arc::clone(&self.formats))
    }

    /// As [`Topic::scan`].
    pub fn scan(&self, from: impl Into<ReadFrom>) -> TypedRecords<Scan, K, V> {
        self.decode(self.topic.scan(from))
    }

    /// As [`Topic::tail`]; [`TypedRecords::reader`] is where its waker is.
    pub fn tail(&self, from: impl Into<ReadFrom>) -> TypedRecords<Tail, K, V> {
        self.decode(self.topic.tail(from))
    }
}

impl<K, V> Clone for TypedTopic<K, V> {
    fn clone(&self) -> Self {
        Self { topic: self.topic.clone(), formats: Arc::clone(&self.formats) }
    }
}

impl<K, V> fmt::Debug for TypedTopic<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedTopic").field(&self.topic).finish()
    }
}

#[cfg(test)]
mod tests;

//! What a caller holds: topics and partitions. A handle is the topic's id, not its name, and keeps the
//! broker open.

use std::fmt;
use std::sync::Arc;

use super::{Broker, Signal, TopicEntry};
use crate::error::{Error, Result};
use crate::log::{Appended, Committed, ExpectedEnd, LogOffsets, LogPosition, LogRead, LogRecovery, OffsetAtTime};
use crate::record::{BatchBuilder, Record, RecordBatch};
use crate::topic::{self, Condition, ConfigEntry, PartitionSource, ReadFrom, Scan, Tail};
use crate::types::{Durability, Isolation, Offset, PartitionId, ProducerId, Timestamp, TopicPartition, Uuid};

/// A topic. Cheap to clone. It means the topic that it was opened as: once that is deleted every call
/// answers `TopicDeleted`, even if a topic of the same name is made anew.
///
/// ```
/// use thalweg::{Broker, Start};
/// let broker = Broker::in_memory()?;
/// let orders = broker.topic("orders").partitions(2).create()?;
/// orders.send(("user-1", "paid"))?;
/// assert_eq!(orders.scan(Start::Earliest).count(), 1);
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone)]
pub struct Topic {
    broker: Broker,
    entry: Arc<TopicEntry>,
}

impl Topic {
    pub(super) fn new(broker: Broker, entry: Arc<TopicEntry>) -> Self {
        Self { broker, entry }
    }

    /// The broker that holds it.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    pub(crate) fn entry(&self) -> &Arc<TopicEntry> {
        &self.entry
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Its id, which no other topic ever has (KIP-516).
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.entry.id
    }

    /// How many partitions it has; they count from 0. The number can grow.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.entry.partition_count()
    }

    /// One of its partitions.
    ///
    /// # Errors
    /// `UnknownTopicOrPartition` when there are fewer; `TopicDeleted`.
    pub fn partition(&self, partition: impl Into<PartitionId>) -> Result<Partition> {
        Ok(Partition::new(self.broker.clone(), self.entry.partition(partition.into())?))
    }

    /// All its partitions by number.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition> {
        self.entry.partitions().into_iter().map(|p| Partition::new(self.broker.clone(), p)).collect()
    }

    fn source(&self) -> Arc<dyn PartitionSource> {
        Arc::new(Source { entry: Arc::clone(&self.entry), _broker: self.broker.clone() })
    }

    /// Reads everything from `from` to the end as it is now, one partition after the other. An offset
    /// means that offset in every partition.
    pub fn scan(&self, from: impl Into<ReadFrom>) -> Scan {
        Scan::new(self.source(), from.into())
    }

    /// Reads from `from` on and waits for more, all partitions merged. Any number of tails may run.
    pub fn tail(&self, from: impl Into<ReadFrom>) -> Tail {
        Tail::new(self.source(), from.into())
    }

    /// Raises the number of partitions to `total`. Records of a key that went to one partition may go to another
    /// from then on (the place is the key's hash modulo the count), and groups rebalance. The number never
    /// shrinks.
    ///
    /// # Errors
    /// `InvalidArgument` when `total` is not more than there are; `TopicDeleted`; `Io`.
    ///
    /// ```
    /// let broker = thalweg::Broker::in_memory()?;
    /// let orders = broker.topic("orders").create()?;
    /// orders.add_partitions(3)?;
    /// assert_eq!(orders.partition_count(), 3);
    /// assert!(orders.add_partitions(2).is_err());
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub fn add_partitions(&self, total: u32) -> Result<()> {
        self.broker.create_partitions(&self.entry, total)
    }

    /// The value in force of one config by Kafka's name.
    ///
    /// # Errors
    /// `InvalidConfig` for an unknown name; `TopicDeleted`.
    ///
    /// ```
    /// let broker = thalweg::Broker::in_memory()?;
    /// let orders = broker.topic("orders").create()?;
    /// orders.alter_configs(&[("retention.ms", Some("60000"))])?;
    /// assert_eq!(orders.config("retention.ms")?, "60000");
    /// orders.alter_configs(&[("retention.ms", None)])?;
    /// assert_eq!(orders.config("retention.ms")?, "-1");
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub fn config(&self, name: &str) -> Result<String> {
        let entries = self.describe_configs()?;
        match entries.iter().find(|entry| entry.name() == name) {
            Some(entry) => Ok(entry.value().to_owned()),
            // For its message, which has the nearest name.
            None => topic::TopicConfig::new().altered(&[(name, None)]).map(|_| String::new()),
        }
    }

    /// Every config with the value in force and the layer that it comes from, by name.
    ///
    /// # Errors
    /// `TopicDeleted`; `Closed`.
    pub fn describe_configs(&self) -> Result<Vec<ConfigEntry>> {
        self.broker.describe_configs(&self.entry)
    }

    /// Changes configs by Kafka's names, all or none: a value sets, `None` goes back to the default.
    /// Appends from then on follow. Where the level rises to `PowerLoss`, what was appended before is synced first.
    ///
    /// # Errors
    /// `InvalidConfig`, naming the config, or `Unsupported` for a codec whose cargo feature is off; nothing was changed
    /// then. `TopicDeleted`; `Io`. As [`Partition::sync`] where the level rises; the configs are changed then.
    pub fn alter_configs(&self, changes: &[(&str, Option<&str>)]) -> Result<()> {
        self.broker.alter_configs(&self.entry, changes)
    }

    /// Deletes the topic, its records and what groups committed in it. Readers and writers that have it find
    /// out at their next call; records that they hold stay readable.
    ///
    /// # Errors
    /// `InvalidArgument` for Kafka's own topics; `TopicDeleted`; `Io`.
    ///
    /// ```
    /// use thalweg::{Broker, ErrorKind};
    /// let broker = Broker::in_memory()?;
    /// let old = broker.topic("orders").create()?;
    /// old.delete()?;
    /// broker.topic("orders").create()?;
    /// assert_eq!(old.send("x").unwrap_err().kind(), ErrorKind::TopicDeleted);
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub fn delete(&self) -> Result<()> {
        self.broker.delete_topic(&self.entry)
    }
}

impl AsRef<str> for Topic {
    fn as_ref(&self) -> &str {
        self.name()
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("name", &self.name()).field("id", &self.id()).finish_non_exhaustive()
    }
}

/// A topic's partitions for a reader that keeps the broker open.
struct Source {
    entry: Arc<TopicEntry>,
    _broker: Broker,
}

impl PartitionSource for Source {
    fn partitions_after(&self, known: usize) -> Result<Vec<Arc<topic::Partition>>> {
        self.entry.partitions_after(known)
    }

    fn watch(&self, signal: &Arc<Signal>) {
        self.entry.watch(signal);
    }
}

/// One partition of a topic: an ordered log of records. Cheap to clone; follows the topic's id as
/// [`Topic`] does.
///
/// An append has two steps, as with [`Log`](crate::Log): [`append`](Self::append) gives a batch its offsets and
/// returns at once, [`wait`](Self::wait) blocks until it is as durable as asked.
///
/// ```
/// use thalweg::{Broker, Isolation, Offset};
/// let broker = Broker::in_memory()?;
/// let partition = broker.topic("orders").create()?.partition(0)?;
/// let appended = partition.append_records([("user-1", "paid"), ("user-2", "paid")])?;
/// partition.wait(appended.position, partition.durability())?;
/// assert_eq!(partition.offsets()?.high_watermark, 2);
/// let read = partition.read(Offset::ZERO, 1 << 20, Isolation::ReadCommitted)?;
/// assert_eq!(read.next_offset(), 2);
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone)]
pub struct Partition {
    broker: Broker,
    inner: Arc<topic::Partition>,
}

impl Partition {
    pub(super) fn new(broker: Broker, inner: Arc<topic::Partition>) -> Self {
        Self { broker, inner }
    }

    /// The log itself, if some call has opened it.
    #[cfg(feature = "testing")]
    pub(crate) fn watched(&self) -> Option<&crate::log::Log> {
        self.inner.watched()
    }

    /// See `topic::Partition::would_drop`.
    #[cfg(feature = "testing")]
    pub(crate) fn would_drop(&self, bytes: u64) -> bool {
        self.inner.would_drop(bytes)
    }

    /// Topic and number.
    #[must_use]
    pub fn topic_partition(&self) -> &TopicPartition {
        self.inner.name()
    }

    /// The id of its topic.
    #[must_use]
    pub fn topic_id(&self) -> Uuid {
        self.inner.topic_id()
    }

    /// The level at which records become visible to readers, and at which they are acknowledged unless
    /// another is asked for.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.inner.level()
    }

    /// Appends one batch: validates it, assigns its offsets, stages it and returns at once. It becomes as durable as
    /// the topic says also when nobody waits. Atomic across crashes.
    ///
    /// # Errors
    /// As [`Log::append`](crate::Log::append); `StorageFull` when a byte budget is used up; `TopicDeleted`; `Closed`.
    pub fn append(&self, batch: &RecordBatch) -> Result<Appended> {
        self.inner.wait_for_room(batch.size_bytes() as u64)?;
        self.broker.produce(&self.inner, batch)
    }

    /// Appends records as one batch; records without a timestamp get the broker's time.
    ///
    /// # Errors
    /// As [`append`](Self::append); `InvalidRecord` when there is no record.
    pub fn append_records<R: Into<Record>>(&self, records: impl IntoIterator<Item = R>) -> Result<Appended> {
        self.append(&BatchBuilder::of(records, self.broker.clock().now())?)
    }

    /// As [`append`](Self::append), on condition that the partition ends at `expected_end`
    /// ([`LogOffsets::end`](crate::LogOffsets)): of many who expect the same end one appends, and the others are told.
    /// What to expect, and what a crash means for it, stands at [`Log::append_if`](crate::Log::append_if).
    ///
    /// # Errors
    /// `Conflict` when it ends elsewhere; [`Error::at_offset`] says where. As [`append`](Self::append).
    pub fn append_if(&self, expected_end: impl Into<ExpectedEnd>, batch: &RecordBatch) -> Result<Appended> {
        self.append_when(Condition::End(expected_end.into()), batch)
    }

    fn append_when(&self, condition: Condition<'_>, batch: &RecordBatch) -> Result<Appended> {
        // What comes too late shall not wait for room, nor delete anything for it. It may be a duplicate, though, of what
        // came in time.
        if batch.header().producer_id() == ProducerId::NONE {
            self.inner.check(condition)?;
        }
        self.inner.wait_for_room(batch.size_bytes() as u64)?;
        self.broker.produce_if(&self.inner, batch, condition)
    }

    /// As [`append_records`](Self::append_records), on condition that the partition ends at `expected_end`.
    ///
    /// ```
    /// use thalweg::{Broker, ErrorKind, Isolation, Offset};
    /// let broker = Broker::in_memory()?;
    /// let account = broker.topic("account").create()?.partition(0)?;
    /// // Decide by what was read, and append unless there is more by now.
    /// let mut read_to = Offset::ZERO;
    /// let appended = loop {
    ///     let read = account.read(read_to, 1 << 20, Isolation::ReadCommitted)?;
    ///     read_to = read.next_offset();
    ///     match account.append_records_if(read_to, [("account-1", "withdraw 40")]) {
    ///         Err(e) if e.kind() == ErrorKind::Conflict => continue,
    ///         appended => break appended?,
    ///     }
    /// };
    /// account.wait(appended.position, account.durability())?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`append_if`](Self::append_if) and [`append_records`](Self::append_records).
    pub fn append_records_if<R: Into<Record>>(
        &self,
        expected_end: impl Into<ExpectedEnd>,
        records: impl IntoIterator<Item = R>,
    ) -> Result<Appended> {
        self.append_if(expected_end, &BatchBuilder::of(records, self.broker.clock().now())?)
    }

    /// As [`append`](Self::append), on condition that the newest record of `key` in the partition is the one at offset
    /// `newest`, or that there is none of it where that is `None`. The batch may hold records of any keys. Only for topics
    /// that were given a [key index](crate::BrokerBuilder::key_index).
    ///
    /// All that was appended counts: tombstones, and records of transactions whether they are open, aborted or
    /// committed. A record below the log start does not.
    ///
    /// # Errors
    /// `Conflict` when another record is the newest; [`Error::at_offset`] says which, and is `None` when there is none.
    /// `KeyIndexFull` when the index cannot say; `InvalidArgument` when the topic has none. Where it has to be built:
    /// `Corrupt` when a batch is damaged that may hold the key, and other errors of reading the log. As
    /// [`append`](Self::append).
    pub fn append_if_key(
        &self,
        key: impl AsRef<[u8]>,
        newest: Option<Offset>,
        batch: &RecordBatch,
    ) -> Result<Appended> {
        self.append_when(Condition::Key { key: key.as_ref(), newest }, batch)
    }

    /// As [`append_records`](Self::append_records), on the condition of [`append_if_key`](Self::append_if_key).
    ///
    /// ```
    /// use thalweg::{Broker, ErrorKind, MemoryStorage};
    /// let broker = Broker::builder("data").storage(MemoryStorage::new()).key_index("accounts", 64 << 20).open()?;
    /// let accounts = broker.topic("accounts").create()?.partition(0)?;
    ///
    /// let opened = accounts.append_records_if_key("ada", None, [("ada", "opened")])?;
    /// accounts.append_records_if_key("bob", None, [("bob", "opened")])?; // Another key: no conflict.
    /// let error = accounts.append_records_if_key("ada", None, [("ada", "opened twice")]).unwrap_err();
    /// assert_eq!((error.kind(), error.at_offset()), (ErrorKind::Conflict, Some(opened.last_offset)));
    /// accounts.append_records_if_key("ada", error.at_offset(), [("ada", "closed")])?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`append_if_key`](Self::append_if_key) and [`append_records`](Self::append_records).
    pub fn append_records_if_key<R: Into<Record>>(
        &self,
        key: impl AsRef<[u8]>,
        newest: Option<Offset>,
        records: impl IntoIterator<Item = R>,
    ) -> Result<Appended> {
        self.append_if_key(key, newest, &BatchBuilder::of(records, self.broker.clock().now())?)
    }

    /// Blocks until an append has reached `level`; the calling thread may do the writing and syncing for all
    /// who wait.
    ///
    /// # Errors
    /// As [`Log::wait`](crate::Log::wait); `TopicDeleted`.
    pub fn wait(&self, position: LogPosition, level: Durability) -> Result<()> {
        self.inner.wait(position, level)
    }

    /// The same as a future; the broker's sync thread does the work.
    ///
    /// # Errors
    /// `TopicDeleted`; `Closed`.
    pub fn committed(&self, position: LogPosition, level: Durability) -> Result<Committed> {
        self.inner.committed(position, level)
    }

    /// Reads whole batches from the one that holds `offset`: about `max_bytes` of them and at least one; empty
    /// at the end of what `isolation` may see.
    ///
    /// # Errors
    /// `Overtaken` below the log start, with the first readable offset; `OffsetOutOfRange` beyond the end;
    /// `Corrupt`; `TopicDeleted`; `Closed`.
    pub fn read(&self, offset: impl Into<Offset>, max_bytes: usize, isolation: Isolation) -> Result<LogRead> {
        self.broker.fetch(&self.inner, offset.into(), max_bytes, isolation)
    }

    /// Syncs all that was appended before the call, whatever level it was appended at: it survives loss of power then.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
    /// use thalweg::{Broker, Durability};
    /// let broker = Broker::open(dir.path().join("data"))?;
    /// let clicks = broker.topic("clicks").durability(Durability::ProcessCrash).create()?;
    /// (0..100).try_for_each(|n| clicks.send(format!("click {n}")).map(drop))?;
    /// let partition = clicks.partition(0)?;
    /// partition.sync()?;
    /// assert_eq!(partition.offsets()?.frontier, 100);
    /// # broker.close()?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// As of waiting at [`Durability::PowerLoss`]; see [`wait`](Self::wait).
    pub fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    /// Why the partition takes no appends, after a write or sync of it failed; `None` where none did. Until it is
    /// [reopened](Self::reopen) what is durable can be read, and nothing above.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.inner.failure()
    }

    /// Mends the partition after a write or sync of it failed, while the broker and all that read and wait go on. What
    /// can be proved above the durable frontier is written again and synced, the rest is cut, and appends are taken
    /// again, in a higher leader epoch where offsets that are known outside had to be left out. Appends that waited
    /// stay `Indeterminate`: look for them before sending them again. Does nothing where nothing failed.
    ///
    /// ```
    /// use thalweg::{Broker, ErrorKind};
    /// let broker = Broker::in_memory()?;
    /// let partition = broker.topic("orders").create()?.partition(0)?;
    /// let appended = match partition.append_records(["first"]) {
    ///     Err(e) if e.kind() == ErrorKind::Poisoned => {
    ///         partition.reopen()?;
    ///         partition.append_records(["first"])?
    ///     }
    ///     appended => appended?,
    /// };
    /// partition.wait(appended.position, partition.durability())?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// As of opening a log: where the disk still fails, the partition stays as it was. `Poisoned` when the file that
    /// all partitions share could not be synced: close the broker and open it again. `TopicDeleted`; `Closed`.
    pub fn reopen(&self) -> Result<LogRecovery> {
        self.inner.reopen()
    }

    /// The partition's offsets now.
    ///
    /// # Errors
    /// `TopicDeleted`; `Closed`; whatever opening the log meets, if nothing touched it before.
    pub fn offsets(&self) -> Result<LogOffsets> {
        self.inner.offsets()
    }

    /// The first record in offset order whose timestamp is at least `time` (ListOffsets).
    ///
    /// # Errors
    /// `Corrupt`; `Io`; `TopicDeleted`; `Closed`.
    pub fn offset_at(&self, time: impl Into<Timestamp>, isolation: Isolation) -> Result<Option<OffsetAtTime>> {
        self.inner.offset_at(time.into(), isolation)
    }

    /// Bytes in all its segments, as written.
    ///
    /// # Errors
    /// `TopicDeleted`; `Closed`.
    pub fn size_bytes(&self) -> Result<u64> {
        self.inner.size_bytes()
    }

    /// Has `signal` notified whenever more becomes readable, the log start moves, or the partition goes away. One
    /// that is gone already notifies at once.
    pub(crate) fn watch(&self, signal: &Arc<Signal>) {
        if self.inner.watch(signal).is_err() {
            signal.notify();
        }
    }

    fn source(&self) -> Arc<dyn PartitionSource> {
        Arc::new(self.clone())
    }

    /// Reads everything from `from` to the end as it is now.
    pub fn scan(&self, from: impl Into<ReadFrom>) -> Scan {
        Scan::new(self.source(), from.into())
    }

    /// Reads from `from` on and waits for more.
    pub fn tail(&self, from: impl Into<ReadFrom>) -> Tail {
        Tail::new(self.source(), from.into())
    }

    /// Makes all records below `to` unreadable, durably, and removes the segments that hold nothing else
    /// (DeleteRecords). Answers the log start, which never moves back.
    ///
    /// # Errors
    /// `OffsetOutOfRange` above the high watermark; `InvalidArgument` when the topic is only compacted
    /// (`cleanup.policy`) or Kafka's own; `TopicDeleted`; `Io`.
    pub fn delete_records(&self, to: impl Into<Offset>) -> Result<Offset> {
        self.broker.delete_records(&self.inner, to.into())
    }
}

impl PartitionSource for Partition {
    fn partitions_after(&self, known: usize) -> Result<Vec<Arc<topic::Partition>>> {
        self.inner.check_alive()?;
        Ok(if known == 0 { vec![Arc::clone(&self.inner)] } else { Vec::new() })
    }

    fn watch(&self, _signal: &Arc<Signal>) {}
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.inner, f)
    }
}

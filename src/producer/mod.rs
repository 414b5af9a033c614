//! Sending: records into batches, batches to the broker. Gathers, places and reports; offsets, checks and
//! durability are the log's.
//!
//! The way of a record: `Producer::send` -> accumulator -> `Broker::produce` -> `Partition::append` ->
//! `Log::append` -> segment -> file.

mod accumulator;
mod batch;
mod callbacks;
mod config;
#[cfg(feature = "async")]
mod enqueue_async;
#[cfg(feature = "async")]
mod flush_async;
mod lane;
mod memory;
mod partitioner;
mod rules;
mod wait;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::broker::{Broker, Topic, TopicEntry, TopicRef};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{BatchBuilder, Compression, Record};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::types::{Durability, Uuid};

use accumulator::{Accumulator, Manner, Route, Settings};
use callbacks::Callback;
use lane::{Lane, Retries};
use partitioner::{Placement, Sticky, checked};
use wait::{Blocking, Wait};

pub use batch::{RecordMetadata, Ticket};
pub use partitioner::{Partitioner, partition_for_key};

/// Sends records to any topic of its broker. Cheap to clone; clones share batches.
///
/// [`send`](Self::send) answers when the record is as durable as the topic says;
/// [`enqueue`](Self::enqueue) answers at once with a [`Ticket`], which is how many records share a batch and a
/// sync. Records that go to one partition keep the order in which one thread gave them.
///
/// ```
/// use thalweg::{Broker, Record};
/// let broker = Broker::in_memory()?;
/// let orders = broker.topic("orders").partitions(4).create()?;
/// let producer = broker.producer().build()?;
///
/// let at = producer.send("orders", ("user-1", "paid"))?;
/// assert_eq!(at.offset, 0);
///
/// for n in 0..1000 {
///     drop(producer.enqueue(&orders, Record::new(format!("order {n}")).key(format!("user-{n}")))?);
/// }
/// producer.flush()?; // All 1000 are durable, or this says why not.
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    accumulator: Arc<Accumulator>,
    placement: Placement,
    /// By the address of the topic, which its route keeps.
    routes: ArcSwap<BTreeMap<usize, Arc<Route>>>,
    /// Makes the sticky choices of producers and topics differ.
    seed: AtomicU64,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Else the sync thread might be the last to hold the directory, and free it a moment after this returned.
        self.accumulator.retire();
    }
}

/// `batch.size` unless it is set.
const BATCH_BYTES: usize = 64 << 10;

/// Options of a [`Producer`]; from [`Broker::producer`].
///
/// ```
/// use std::time::Duration;
/// use thalweg::{Broker, Compression, Durability};
/// let broker = Broker::in_memory()?;
/// let producer = broker
///     .producer()
///     .linger(Duration::from_millis(20))
///     .batch_size(256 << 10)
///     .durability(Durability::ProcessCrash)
///     .build()?;
/// # let _ = producer;
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is made before build()"]
pub struct ProducerBuilder {
    broker: Broker,
    settings: Settings,
    placement: Placement,
    refused: Option<Error>,
}

impl Broker {
    /// Options for a producer.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder {
            broker: self.clone(),
            settings: Settings {
                linger: None,
                batch_bytes: BATCH_BYTES,
                buffer_bytes: 32 << 20,
                max_block: Duration::from_secs(60),
                max_request_bytes: usize::MAX,
                compression: Compression::NONE,
                durability: None,
                retries: Retries {
                    most: 0,
                    backoff: Duration::from_millis(100),
                    backoff_max: Duration::from_secs(1),
                    delivery: None,
                },
            },
            placement: Placement::default(),
            refused: None,
        }
    }
}

impl ProducerBuilder {
    /// How long an open batch waits for more records (`linger.ms`). Unless it is set, whoever waits for a record, or awaits it,
    /// sends its batch at once, and a batch that nobody waits for goes after 5 ms.
    pub fn linger(mut self, time: Duration) -> Self {
        self.settings.linger = Some(time);
        self
    }

    /// Bytes, before compression, at which a batch is full (`batch.size`; 65536 by default, where Kafka says 16384:
    /// no network to share here). Never more than the topic's `max.message.bytes` or `buffer.memory`; a larger record
    /// has a batch of its own.
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.settings.batch_bytes = bytes;
        self
    }

    /// Bytes of open batches and of those that are not yet acknowledged, on all partitions together (`buffer.memory`,
    /// default 32 MiB), memory kept for the next ones included. An open batch counts as
    /// [`batch_size`](Self::batch_size), one on its way as what it still takes, less where it compresses well, and each as
    /// 2 KiB more for what is noted about it. A thread that is just compressing needs for that moment what is not counted:
    /// one batch more, and the codec's own memory (below 512 KiB; zstd's grows with its level).
    ///
    /// A call for which there is no room has all open batches sent and waits, for at most [`max_block`](Self::max_block).
    /// Who came first is served first: a large record is not passed by small ones.
    pub fn buffer_memory(mut self, bytes: usize) -> Self {
        self.settings.buffer_bytes = bytes;
        self
    }

    /// How long a call may wait while [`buffer_memory`](Self::buffer_memory) is used up (`max.block.ms`, default one
    /// minute); then it fails with [`ErrorKind::TimedOut`], and its record was not taken. Zero: it fails at once.
    ///
    /// Of a [`manual`](crate::BrokerBuilder::manual) broker the caller writes by himself, which cannot be cut short.
    pub fn max_block(mut self, time: Duration) -> Self {
        self.settings.max_block = time;
        self
    }

    /// The largest record in bytes, before compression, as a batch of its own (`max.request.size`). There is no request
    /// here to be kept small, so unless this is set only the topic's `max.message.bytes` limits a record; Kafka's
    /// default is 1 MiB.
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.settings.max_request_bytes = bytes;
        self
    }

    /// How batches are compressed (`compression.type`, default none). A topic that names a codec itself decides.
    pub fn compression(mut self, compression: impl Into<Compression>) -> Self {
        self.settings.compression = compression.into();
        self
    }

    /// What an acknowledged record survives, in place of the topic's own level (`acks`). Readers see it at the
    /// topic's level all the same.
    pub fn durability(mut self, level: Durability) -> Self {
        self.settings.durability = Some(level);
        self
    }

    /// How often a batch is tried again of which nothing is there: the disk or a byte budget is full, there is no file
    /// descriptor left, or the partition stopped and is to be [reopened](crate::Partition::reopen) (`retries`). Off by
    /// default, where Kafka's clients go on for two minutes: whoever gets
    /// [`StorageFull`](ErrorKind::StorageFull) in the same process can do something about it.
    ///
    /// Batches of a partition stay in order: those behind wait. Nothing comes twice, since only what is certainly not
    /// there is tried again: a sync that failed is [`Indeterminate`](ErrorKind::Indeterminate) at once. Meanwhile the
    /// records count as [`buffer_memory`](Self::buffer_memory); other partitions go on. Of a
    /// [`manual`](crate::BrokerBuilder::manual) broker whoever waits tries again, and `run_maintenance`.
    ///
    /// ```
    /// use std::time::Duration;
    /// let broker = thalweg::Broker::in_memory()?;
    /// broker.topic("orders").create()?;
    /// let producer = broker.producer().retries(u32::MAX).delivery_timeout(Duration::from_secs(30)).build()?;
    /// assert_eq!(producer.send("orders", "paid")?.offset, 0);
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub fn retries(mut self, most: u32) -> Self {
        self.settings.retries.most = most;
        self
    }

    /// How long to wait before the first retry; before each that follows, twice as long, up to `most`
    /// (`retry.backoff.ms`, 100 ms, and `retry.backoff.max.ms`, one second).
    pub fn retry_backoff(mut self, first: Duration, most: Duration) -> Self {
        (self.settings.retries.backoff, self.settings.retries.backoff_max) = (first, most);
        self
    }

    /// How long after its batch was begun a record is tried again (`delivery.timeout.ms`, two minutes, or
    /// the linger if that is longer). Then it fails
    /// with [`TimedOut`](ErrorKind::TimedOut), and is certainly not there. What the log has taken is not given up:
    /// [`Ticket::wait_timeout`] bounds the wait for a disk that hangs.
    pub fn delivery_timeout(mut self, time: Duration) -> Self {
        self.settings.retries.delivery = Some(time);
        self
    }

    /// Chooses partitions in a way of your own (`partitioner.class`).
    pub fn partitioner(mut self, partitioner: impl Partitioner + 'static) -> Self {
        self.placement = Placement::Custom(Arc::new(partitioner));
        self
    }

    /// Sends records to one partition after the other, whatever their key (`RoundRobinPartitioner`).
    pub fn round_robin(mut self) -> Self {
        self.placement = Placement::RoundRobin;
        self
    }

    /// Makes the producer.
    ///
    /// # Errors
    /// `InvalidConfig` for an option of a bad name or value, a batch size or a buffer memory of 0, a delivery timeout
    /// shorter than the linger; `Unsupported` for a codec whose cargo feature is off; `Closed`.
    pub fn build(mut self) -> Result<Producer> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        for (name, bytes) in [("batch.size", self.settings.batch_bytes), ("buffer.memory", self.settings.buffer_bytes)]
        {
            if bytes == 0 {
                return Err(Error::new(ErrorKind::InvalidConfig, format!("{name} must be at least 1 byte")));
            }
        }
        let (linger, delivery) = (self.settings.linger.unwrap_or_default(), self.settings.retries.delivery);
        if let Some(delivery) = delivery.filter(|delivery| *delivery < linger) {
            let (delivery, linger) = (delivery.as_millis(), linger.as_millis());
            let message = format!("delivery.timeout.ms={delivery} is less than linger.ms, {linger}");
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        self.settings.compression.codec().check_built_in()?;
        self.settings.batch_bytes = self.settings.batch_bytes.min(self.settings.buffer_bytes);
        self.broker.check_open()?;
        let [high, low] = [0, 8].map(|at| Uuid::random().map(|id| u64_at(&id, at)));
        Ok(Producer {
            shared: Arc::new(Shared {
                accumulator: Accumulator::new(self.broker, self.settings),
                placement: self.placement,
                routes: ArcSwap::default(),
                seed: AtomicU64::new(high? ^ low?),
            }),
        })
    }
}

fn u64_at(id: &Uuid, at: usize) -> u64 {
    id.as_bytes()[at..].iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}

impl Producer {
    /// Sends one record and blocks until it is as durable as the topic, or this producer, says.
    ///
    /// # Errors
    /// `UnknownTopicOrPartition`; `TopicDeleted`; `TooLarge`, `InvalidRecord`, `InvalidTimestamp` when the record
    /// breaks a rule of its topic; `TimedOut` when there was no memory for it; `Indeterminate` when a sync failed; `Closed`.
    pub fn send<T: TopicRef + ?Sized>(&self, topic: &T, record: impl Into<Record>) -> Result<RecordMetadata> {
        self.push(topic, record.into(), Waiting::Now)?.wait()
    }

    /// Sends records, to several partitions where they are placed so, and waits for all. Each has its own result, in
    /// the order given: records of different partitions may succeed and fail apart.
    pub fn send_batch<T, R>(&self, topic: &T, records: impl IntoIterator<Item = R>) -> Vec<Result<RecordMetadata>>
    where
        T: TopicRef + ?Sized,
        R: Into<Record>,
    {
        let pushed: Vec<_> =
            records.into_iter().map(|record| self.push(topic, record.into(), Waiting::Later)).collect();
        self.shared.accumulator.send_all();
        pushed.into_iter().map(|ticket| ticket.and_then(Ticket::wait)).collect()
    }

    /// Accepts one record and answers at once; the ticket tells how it went. Blocks only while
    /// `buffer.memory` is used up, or a byte budget makes it wait ([`OnFull::Block`](crate::OnFull::Block)); the first
    /// record of a partition opens its log.
    ///
    /// # Errors
    /// As [`send`](Self::send), as far as it can be known now.
    pub fn enqueue<T: TopicRef + ?Sized>(&self, topic: &T, record: impl Into<Record>) -> Result<Ticket> {
        self.push(topic, record.into(), Waiting::Later)
    }

    /// As [`enqueue`](Self::enqueue), and calls back with what a ticket would tell: once, when it is known.
    ///
    /// Callbacks of one partition run in the order of its records, on a thread of the producer's own,
    /// `thalweg-callbacks`, which ends with the producer and its last callback; of a
    /// [`manual`](crate::BrokerBuilder::manual) broker, in [`flush`](Self::flush), [`close`](Self::close) and
    /// `run_maintenance`. No lock is held: a callback may enqueue, and may wait, but then it keeps the next ones waiting.
    /// One that panics takes nothing else with it. `flush` and `close` return after the callbacks of what they waited for,
    /// unless they are called in one. While callbacks have not run, the directory stays locked.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// let broker = thalweg::Broker::in_memory()?;
    /// broker.topic("orders").create()?;
    /// let producer = broker.producer().build()?;
    /// let (sender, receiver) = mpsc::channel();
    /// producer.enqueue_with("orders", ("user-1", "paid"), move |result| drop(sender.send(result)))?;
    /// producer.flush()?;
    /// let at = receiver.recv().expect("flush has waited for the callback")?;
    /// assert_eq!(at.offset, 0);
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue), `Io` where no thread can be started, and `Forked` in a fork of the process that has the
    /// thread; then nothing is called.
    pub fn enqueue_with<T, F>(&self, topic: &T, record: impl Into<Record>, callback: F) -> Result<()>
    where
        T: TopicRef + ?Sized,
        F: FnOnce(Result<RecordMetadata>) + Send + 'static,
    {
        let ticket =
            self.push_with(topic, &record.into(), Waiting::Later, &mut Some(Box::new(callback)), &mut Blocking)?;
        ticket.hand_over();
        Ok(())
    }

    /// Sends every open batch and waits until all that was enqueued before has been acknowledged.
    ///
    /// # Errors
    /// The first failure of a record whose ticket was dropped without having been asked; `Closed`; `Forked` where callbacks
    /// are left to the process of which this one is a fork.
    pub fn flush(&self) -> Result<()> {
        self.shared.accumulator.check_open()?;
        self.shared.accumulator.flush()
    }

    /// Flushes and refuses everything from then on, on all clones; for as long as that takes. Dropping the last clone
    /// instead hands open batches to the log and waits for nothing but room that has to be made by deletion
    /// (`OnFull::DropOldest`): the broker brings them to their topics' levels, and what comes to nothing, with nobody asking, is
    /// a [finding](Broker::findings).
    ///
    /// # Errors
    /// As [`flush`](Self::flush); a second close does nothing.
    pub fn close(&self) -> Result<()> {
        if !self.shared.accumulator.close() {
            return Ok(());
        }
        self.shared.accumulator.flush()
    }

    /// The same, for at most `timeout`. What has not been acknowledged by then is with the log, which goes on writing it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let broker = thalweg::Broker::in_memory()?;
    /// broker.topic("orders").create()?;
    /// let producer = broker.producer().build()?;
    /// drop(producer.enqueue("orders", "paid")?);
    /// producer.close_timeout(Duration::from_secs(10))?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// `TimedOut`, with how many batches of which partitions have not been acknowledged; as [`close`](Self::close).
    pub fn close_timeout(&self, timeout: Duration) -> Result<()> {
        if !self.shared.accumulator.close() {
            return Ok(());
        }
        self.shared.accumulator.flush_within(timeout)
    }

    fn push<T: TopicRef + ?Sized>(&self, topic: &T, record: Record, waiting: Waiting) -> Result<Ticket> {
        self.push_with(topic, &record, waiting, &mut None, &mut Blocking)
    }

    #[inline]
    fn push_with<T: TopicRef + ?Sized, W: Wait>(
        &self,
        topic: &T,
        record: &Record,
        waiting: Waiting,
        callback: &mut Option<Callback>,
        wait: &mut W,
    ) -> Result<Ticket, W::Refusal> {
        let accumulator = &self.shared.accumulator;
        accumulator.check_open()?;
        let entry = accumulator.broker.resolve(topic)?;
        let (routes, made);
        routes = self.shared.routes.load();
        let route = match routes.get(&address(&entry)).filter(|route| accumulator.is_current(route)) {
            Some(route) => route,
            None => {
                made = self.make_route(&entry)?;
                &made
            }
        };
        let pushed = self.place(route, record).map_err(W::Refusal::from).and_then(|(lane, keyless)| {
            let manner = Manner { quiet: waiting == Waiting::Later, keyless };
            accumulator.push(lane, record, manner, callback, wait)
        });
        pushed.inspect_err(|refusal| {
            if W::is_failure(refusal) {
                route.topic.produced.failed(1);
            }
        })
    }

    /// The lane of a record, and whether it is there because it is the current one for records without a key.
    #[inline]
    fn place<'a>(&self, route: &'a Route, record: &Record) -> Result<(&'a Arc<Lane>, bool)> {
        let lanes = &route.lanes;
        let count = u32::try_from(lanes.len()).unwrap_or(u32::MAX);
        let (partition, keyless) = match (record.explicit_partition(), &self.shared.placement, record.key_bytes()) {
            (Some(partition), ..) => (partition, false),
            (None, Placement::KeyOrSticky, Some(key)) => (partition_for_key(key, count), false),
            (None, Placement::KeyOrSticky, None) => (route.topic.nearest_here(route.sticky.current(count)), true),
            (None, Placement::RoundRobin, _) => {
                let turn = route.turns.fetch_add(1, Ordering::Relaxed) % lanes.len().max(1);
                (route.topic.nearest_here(i32::try_from(turn).unwrap_or(0).into()), false)
            }
            (None, Placement::Custom(custom), _) => (custom.partition(&route.topic.name, record, count), false),
        };
        Ok((&lanes[checked(partition, lanes.len(), &route.topic.name)?], keyless))
    }

    /// Makes the way to a topic, or makes one that was there lead to all of its partitions.
    #[cold]
    fn make_route(&self, topic: &Arc<TopicEntry>) -> Result<Arc<Route>> {
        let seed = || self.shared.seed.fetch_add(0x0001_0000_0001, Ordering::Relaxed);
        loop {
            let routes = self.shared.routes.load_full();
            let known = routes.get(&address(topic));
            let route = self.shared.accumulator.route(topic, known, seed)?;
            if known.is_some_and(|known| Arc::ptr_eq(known, &route)) {
                return Ok(route);
            }
            // Deleted topics go when others come.
            let alive = routes.iter().filter(|(_, route)| route.topic.check_alive().is_ok());
            let mut more: BTreeMap<_, _> = alive.map(|(at, route)| (*at, Arc::clone(route))).collect();
            more.insert(address(topic), Arc::clone(&route));
            // Another thread may have done the same: a lane that it uses must not be replaced.
            if Arc::ptr_eq(&routes, &self.shared.routes.compare_and_swap(&routes, Arc::new(more))) {
                return Ok(route);
            }
        }
    }
}

fn address(topic: &Arc<TopicEntry>) -> usize {
    Arc::as_ptr(topic).addr()
}

/// Whether a record's sender waits for it at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Now,
    Later,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("placement", &self.shared.placement).finish_non_exhaustive()
    }
}

/// Where records without a key go that are sent with no producer.
static KEYLESS: Sticky = Sticky::new(0);

impl Topic {
    /// Sends one record and blocks until it is as durable as the topic says: placed by its key as Kafka's clients
    /// do, or without a key on some partition. For many records a [`Producer`] is faster.
    ///
    /// # Errors
    /// As [`Producer::send`].
    ///
    /// ```
    /// let broker = thalweg::Broker::in_memory()?;
    /// let orders = broker.topic("orders").create()?;
    /// let at = orders.send(("user-1", "paid"))?;
    /// assert_eq!((at.partition, at.offset), (0.into(), 0.into()));
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub fn send(&self, record: impl Into<Record>) -> Result<RecordMetadata> {
        let (record, entry) = (record.into(), self.entry());
        let count = u32::try_from(entry.partition_count()).unwrap_or(u32::MAX);
        let partition = match (record.explicit_partition(), record.key_bytes()) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_for_key(key, count),
            (None, None) => entry.nearest_here(KEYLESS.current(count)),
        };
        let partition = entry.partition(partition)?;
        let now = self.broker().clock().now();
        let timestamp = record.timestamp_or(now).map_err(|e| e.partition(partition.name().clone()))?;
        let compression = entry.with_settings(|settings| settings.compression).unwrap_or_default();
        let mut batch = BatchBuilder::new().compression(compression);
        batch.push(timestamp, &record)?;
        let batch = batch.finish()?;
        partition.wait_for_room(batch.size_bytes() as u64)?;
        let appended = self.broker().produce(&partition, &batch)?;
        KEYLESS.count(batch.size_bytes(), BATCH_BYTES, true);
        partition.wait(appended.position, partition.level())?;
        let timestamp = appended.append_time.unwrap_or(timestamp);
        Ok(RecordMetadata::new(partition.name().clone(), appended.base_offset, timestamp))
    }
}

#[cfg(test)]
mod tests;

//! Gathers records into batches: one open batch per partition, closed when it is full, when its time has
//! come, or when somebody waits for it.
//!
//! Invariants: batches of a partition are appended in the order in which they were opened, under the
//! lane's lock; nothing is waited for under it. A batch that was taken out of its lane is appended or failed, also
//! where a thread panics at it.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::batch::{Batch, Ticket};
use super::memory::{Memory, Share};
use super::partitioner::Sticky;
use crate::broker::{Broker, Task, TopicEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{BatchBuilder, BatchPool, Compression, Record, TimestampType};
use crate::topic::{self, PartitionSource as _};
use crate::types::{Durability, Timestamp};

/// What a record takes in a batch beside its key, value and headers, at most.
const RECORD_OVERHEAD: usize = 32;
/// The same for a header beside its key and value.
const HEADER_OVERHEAD: usize = 10;
/// The header of a batch.
const BATCH_OVERHEAD: usize = 61;
/// How many partitions an error names.
const NAMED_MAX: usize = 8;
/// What a batch gets before it has to grow, at most.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// What applies to every batch of a producer.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) linger: Option<Duration>,
    pub(super) batch_bytes: usize,
    pub(super) buffer_bytes: usize,
    /// How long a call may wait for memory.
    pub(super) max_block: Duration,
    /// The largest record, before compression.
    pub(super) max_request_bytes: usize,
    pub(super) compression: Compression,
    pub(super) durability: Option<Durability>,
}

/// How long a batch stays open for others when nobody waits for it and no linger was given.
const QUIET_LINGER: Duration = Duration::from_millis(5);

/// The part of a producer that outlives calls.
pub(super) struct Accumulator {
    pub(super) broker: Broker,
    pub(super) settings: Settings,
    me: OnceLock<Weak<Accumulator>>,
    /// Lanes that may have an open batch, each once.
    open: Mutex<Vec<Arc<Lane>>>,
    /// Held while the list is worked off: whoever comes next finds on it again what stays open.
    sending: Mutex<()>,
    /// The sync thread has been told when to look.
    armed: AtomicBool,
    in_flight: Mutex<InFlight>,
    memory: Arc<Memory>,
    buffers: BatchPool,
}

#[derive(Default)]
struct InFlight {
    /// Appended batches, oldest first.
    batches: VecDeque<(Arc<Batch>, Share)>,
    /// How many left the queue, and how many ever entered it.
    settled: u64,
    entered: u64,
    /// Batches that failed and have tickets whose owners may still ask.
    failed: Vec<(Arc<Batch>, Error)>,
    /// The first failure that no owner of a ticket asked for.
    unreported: Option<Error>,
}

impl InFlight {
    fn enter(&mut self, batch: Arc<Batch>, share: Share) {
        self.batches.push_back((batch, share));
        self.entered += 1;
    }

    /// Takes the oldest batch out, now that its end is known.
    fn settle_oldest(&mut self, failure: Option<Error>) {
        let Some((batch, _)) = self.batches.pop_front() else { return };
        self.settled += 1;
        if let Some(error) = failure {
            self.fail(batch, error);
        }
    }

    fn fail(&mut self, batch: Arc<Batch>, error: Error) {
        self.sweep();
        self.failed.push((batch, error));
    }

    /// Lets go of failed batches whose tickets are gone, so that only live tickets take memory.
    fn sweep(&mut self) {
        let unreported = &mut self.unreported;
        self.failed.retain(|(batch, error)| {
            if batch.is_abandoned() {
                unreported.get_or_insert_with(|| error.clone());
                return false;
            }
            // Beside this list only tickets hold it: their owners will see for themselves.
            Arc::strong_count(batch) > 1
        });
    }
}

/// One partition's open batch.
pub(super) struct Lane {
    pub(super) partition: Arc<topic::Partition>,
    topic: Arc<TopicEntry>,
    accumulator: Weak<Accumulator>,
    open: Mutex<Option<OpenBatch>>,
    /// It is on its accumulator's list.
    listed: AtomicBool,
}

struct OpenBatch {
    builder: BatchBuilder,
    share: Share,
    shared: Arc<Batch>,
    opened: Duration,
    /// What the topic allowed when it was opened.
    limit: usize,
}

/// What a push did to its batch.
pub(super) struct Pushed {
    pub(super) ticket: Ticket,
    pub(super) bytes: usize,
    /// The batch was complete with it, and is sent.
    pub(super) is_complete: bool,
}

/// How a record comes.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// Nobody is going to wait for it now.
    pub(super) quiet: bool,
    /// It is on its partition because others without a key are.
    pub(super) keyless: bool,
}

/// A topic as a producer sees it.
pub(super) struct Route {
    pub(super) topic: Arc<TopicEntry>,
    lanes: ArcSwap<Vec<Arc<Lane>>>,
    /// The catalog's version that the lanes were made from.
    version: AtomicU64,
    pub(super) sticky: Sticky,
    pub(super) turns: AtomicUsize,
}

impl Accumulator {
    pub(super) fn new(broker: Broker, settings: Settings) -> Arc<Self> {
        let accumulator = Arc::new(Self {
            memory: Memory::new(settings.buffer_bytes),
            buffers: BatchPool::new(settings.batch_bytes.min(BUFFER_BYTES_MAX), settings.buffer_bytes),
            broker,
            settings,
            me: OnceLock::new(),
            open: Mutex::new(Vec::new()),
            sending: Mutex::new(()),
            armed: AtomicBool::new(false),
            in_flight: Mutex::default(),
        });
        accumulator.me.get_or_init(|| Arc::downgrade(&accumulator));
        accumulator
    }

    fn me(&self) -> Weak<Self> {
        self.me.get().cloned().unwrap_or_default()
    }

    /// Makes sure that no thread of the broker holds this: the last producer's drop is then the last of it.
    pub(super) fn retire(&self) {
        let task: Weak<dyn Task> = self.me();
        self.broker.retire(&task);
    }

    /// How long those who wait for a batch let it gather.
    fn linger(&self) -> Duration {
        self.settings.linger.unwrap_or_default()
    }

    fn quiet_linger(&self) -> Duration {
        self.settings.linger.unwrap_or(QUIET_LINGER)
    }

    pub(super) fn route(&self, topic: Arc<TopicEntry>, seed: u64) -> Route {
        Route {
            topic,
            lanes: ArcSwap::from_pointee(Vec::new()),
            version: AtomicU64::new(u64::MAX),
            sticky: Sticky::new(seed),
            turns: AtomicUsize::new(0),
        }
    }

    /// The lanes of a topic, one per partition, followed as partitions are added.
    pub(super) fn lanes(&self, route: &Route) -> Result<arc_swap::Guard<Arc<Vec<Arc<Lane>>>>> {
        let version = self.broker.catalog_version();
        if route.version.load(Ordering::Acquire) != version {
            route.topic.check_alive()?;
            let known = route.lanes.load_full();
            let added = route.topic.partitions_after(known.len())?.into_iter().map(|partition| {
                Arc::new(Lane {
                    partition,
                    topic: Arc::clone(&route.topic),
                    accumulator: self.me(),
                    open: Mutex::new(None),
                    listed: AtomicBool::new(false),
                })
            });
            let lanes: Vec<_> = known.iter().cloned().chain(added).collect();
            // Another thread may have done the same: a lane that it uses must not be replaced.
            let before = route.lanes.compare_and_swap(&known, Arc::new(lanes));
            if !Arc::ptr_eq(&before, &known) {
                return self.lanes(route);
            }
            route.version.store(version, Ordering::Release);
        }
        Ok(route.lanes.load())
    }

    /// Puts a record into its lane's batch.
    pub(super) fn push(&self, lane: &Arc<Lane>, record: &Record, manner: Manner) -> Result<Pushed> {
        let bytes = encoded_bytes(record);
        let now = self.broker.clock().now();
        let timestamp = record.explicit_timestamp().unwrap_or(now);
        self.check(lane, record, bytes, now)?;
        let mut share = None;
        loop {
            if let Some(pushed) = self.try_push(lane, record, (bytes, timestamp), manner, &mut share)? {
                return Ok(pushed);
            }
            share = Some(self.take_memory(lane, bytes)?);
        }
    }

    /// The same; `None` when it takes a new batch, for which there is neither a share nor memory.
    fn try_push(
        &self,
        lane: &Arc<Lane>,
        record: &Record,
        (bytes, timestamp): (usize, Timestamp),
        manner: Manner,
        share: &mut Option<Share>,
    ) -> Result<Option<Pushed>> {
        let mut open = lane.open.lock();
        if let Some(full) = open.take_if(|batch| batch.builder.size_estimate() + bytes > batch.limit) {
            self.append(lane, full);
        }
        let batch = match &mut *open {
            Some(batch) => batch,
            none => {
                let Some(share) = share.take().or_else(|| self.memory.try_take(self.needed(bytes))) else {
                    return Ok(None);
                };
                none.insert(self.open_batch(lane, share)?)
            }
        };
        let index = batch.builder.len();
        if let Err(error) = batch.builder.push(timestamp, record) {
            // One without a record is on no list, so nobody would ever send or drop it.
            if index == 0 {
                *open = None;
            }
            return Err(error);
        }
        // The next without a key goes elsewhere when this batch has no room for one like it.
        let like_it = if manner.keyless { bytes } else { 0 };
        let (first, full) = (index == 0, batch.builder.size_estimate() + like_it >= batch.limit);
        let opened = batch.opened;
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let ticket = Ticket::new(Arc::clone(&batch.shared), index, timestamp, self.linger());
        if full && let Some(batch) = open.take() {
            self.append(lane, batch);
        }
        drop(open);
        if first && !full {
            self.list(lane, opened, manner.quiet);
        }
        Ok(Some(Pushed { ticket, bytes, is_complete: full }))
    }

    /// What a batch for a record of so many bytes takes.
    fn needed(&self, bytes: usize) -> usize {
        self.settings.batch_bytes.max(BATCH_OVERHEAD + bytes)
    }

    /// Waits until there is memory for the batch of a record of so many bytes, for at most `max.block.ms`. No lock is
    /// held. Where the broker has threads they do the work, as for a future: a disk that hangs holds up nobody here.
    fn take_memory(&self, lane: &Lane, bytes: usize) -> Result<Share> {
        let clock = self.broker.clock();
        let deadline = clock.monotonic().saturating_add(self.settings.max_block);
        loop {
            let seen = self.memory.freed().count();
            // Open batches take more than they need; nobody can add to them while there is no memory elsewhere.
            self.send_open(None);
            self.forget_settled();
            if let Some(share) = self.memory.try_take(self.needed(bytes)) {
                return Ok(share);
            }
            lane.partition.check_alive()?;
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return Err(self.out_of_memory(lane));
            }
            if self.broker.is_manual() && self.wait_for_oldest() {
                continue;
            }
            self.await_oldest(seen, left);
        }
    }

    /// Waits until the oldest batch in flight may be settled, or memory came back since `seen`, and writes nothing
    /// itself.
    fn await_oldest(&self, seen: u64, limit: Duration) {
        let oldest = self.in_flight.lock().batches.front().map(|(batch, _)| Arc::clone(batch));
        let mut committed = None;
        let known = oldest.map(|batch| batch.poll_settled(&self.memory.waker(), &mut committed));
        if known != Some(Poll::Ready(())) {
            self.memory.freed().wait_past(seen, Some(limit));
        }
    }

    #[cfg(test)]
    pub(super) fn memory_used(&self) -> usize {
        self.memory.used()
    }

    fn out_of_memory(&self, lane: &Lane) -> Error {
        let (limit, waited) = (self.settings.buffer_bytes, self.settings.max_block.as_millis());
        let message = format!("all {limit} bytes of buffer.memory were in use for {waited} ms (max.block.ms)");
        Error::new(ErrorKind::TimedOut, message).partition(lane.partition.name().clone()).remedy(
            "raise buffer_memory or max_block of the producer, or enqueue less at a time; \
             Broker::metrics tells of a disk that is slow or hangs",
        )
    }

    /// A record that breaks a rule fails alone, before it spoils a batch.
    fn check(&self, lane: &Lane, record: &Record, bytes: usize, now: Timestamp) -> Result<()> {
        // The estimate is generous, so a record that is refused here might just have fitted; the log decides then.
        let certain = bytes.saturating_sub(RECORD_OVERHEAD) + BATCH_OVERHEAD;
        let at = |error: Error| error.partition(lane.partition.name().clone());
        let too_large = |name: &str, limit: usize, remedy: &'static str| {
            let message = format!("a record of {certain} bytes, but {name} is {limit}");
            Err(at(Error::new(ErrorKind::TooLarge, message)).remedy(remedy))
        };
        if certain > self.settings.max_request_bytes {
            let remedy = "raise max_request_size of the producer, or send less at a time";
            return too_large("max.request.size", self.settings.max_request_bytes, remedy);
        }
        if self.needed(bytes) > self.memory.limit() {
            return too_large("buffer.memory", self.memory.limit(), "raise buffer_memory of the producer");
        }
        lane.topic.with_settings(|settings| {
            let limit = settings.max_message_bytes as usize;
            if certain > limit && self.settings.compression == Compression::NONE {
                let remedy = "raise max.message.bytes of the topic, compress, or send less at a time";
                return too_large("max.message.bytes", limit, remedy);
            }
            if settings.cleanup_policy.compacts() && record.key_bytes().is_none() {
                let message = "a compacted topic needs a key in every record";
                return Err(at(Error::new(ErrorKind::InvalidRecord, message))
                    .remedy("give the record a key, or set cleanup.policy=delete"));
            }
            let timestamp = match record.explicit_timestamp() {
                Some(timestamp) if settings.timestamp_type == TimestampType::CreateTime => timestamp,
                _ => return Ok(()),
            };
            let outside = |what: &str, name: &'static str, limit: Duration| {
                let message = format!("timestamp {timestamp} lies more than {} ms {what} the clock", limit.as_millis());
                Err(at(Error::new(ErrorKind::InvalidTimestamp, message)).remedy(format!("see {name} of the topic")))
            };
            match (settings.timestamp_after_max, settings.timestamp_before_max) {
                (Some(limit), _) if timestamp > now.saturating_add(limit) => {
                    outside("ahead of", "message.timestamp.after.max.ms", limit)
                }
                (_, Some(limit)) if timestamp != Timestamp::NONE && timestamp.saturating_add(limit) < now => {
                    outside("behind", "message.timestamp.before.max.ms", limit)
                }
                _ => Ok(()),
            }
        })
    }

    fn open_batch(&self, lane: &Arc<Lane>, share: Share) -> Result<OpenBatch> {
        lane.partition.check_alive()?;
        let (compression, limit) = lane.topic.with_settings(|settings| {
            let limit = self.settings.batch_bytes.min(settings.max_message_bytes as usize);
            (settings.compression.unwrap_or(self.settings.compression), limit)
        });
        Ok(OpenBatch {
            builder: self.buffers.builder().compression(compression),
            share,
            shared: Arc::new(Batch::new(Arc::clone(lane), self.broker.clone())),
            opened: self.broker.clock().monotonic(),
            limit,
        })
    }

    /// Ends an open batch and gives it to the log. The lane's lock is held. A panic was printed when it happened, and is
    /// told to those who wait for the batch: others have their turn.
    fn append(&self, lane: &Arc<Lane>, batch: OpenBatch) {
        let shared = Arc::clone(&batch.shared);
        let appended = panic::catch_unwind(AssertUnwindSafe(|| self.give(lane, batch)));
        if appended.is_err() && shared.is_open() {
            self.fail(&shared, panic_at(lane));
        }
    }

    fn give(&self, lane: &Arc<Lane>, batch: OpenBatch) {
        let level = self.settings.durability.unwrap_or_else(|| lane.partition.level());
        let OpenBatch { builder, mut share, shared, .. } = batch;
        let outcome = builder.finish().and_then(|encoded| {
            share.shrink(encoded.size_bytes());
            lane.partition.guard(|_| self.broker.produce(&lane.partition, &encoded))
        });
        match outcome {
            Ok(appended) => {
                self.in_flight.lock().enter(Arc::clone(&shared), share);
                shared.resolve(Ok((appended, level)));
            }
            Err(error) => self.fail(&shared, error),
        }
        self.forget_settled();
    }

    /// Tells those who wait for a batch, or flush later, what became of it.
    fn fail(&self, batch: &Arc<Batch>, error: Error) {
        self.in_flight.lock().fail(Arc::clone(batch), error.clone());
        batch.resolve(Err(error));
    }

    /// Drops what is known to have arrived from the front of the queue.
    fn forget_settled(&self) {
        let mut in_flight = self.in_flight.lock();
        while let Some(outcome) = in_flight.batches.front().and_then(|(batch, _)| batch.try_outcome()) {
            in_flight.settle_oldest(outcome.err());
        }
    }

    /// Waits for the oldest batch in flight; `false` when there is none.
    fn wait_for_oldest(&self) -> bool {
        let Some(oldest) = self.in_flight.lock().batches.front().map(|(batch, _)| Arc::clone(batch)) else {
            return false;
        };
        let failure = oldest.wait(Duration::ZERO).err();
        let mut in_flight = self.in_flight.lock();
        // Another thread may have waited for it, too.
        if in_flight.batches.front().is_some_and(|(batch, _)| Arc::ptr_eq(batch, &oldest)) {
            in_flight.settle_oldest(failure);
        }
        true
    }

    /// Lists a lane whose batch was opened just now; unless somebody is going to ask for it, has the sync thread send it when
    /// its time has come.
    fn list(&self, lane: &Arc<Lane>, opened: Duration, quiet: bool) {
        if !lane.listed.swap(true, Ordering::AcqRel) {
            self.open.lock().push(Arc::clone(lane));
        }
        if quiet && !self.armed.swap(true, Ordering::AcqRel) {
            self.broker.run_at(opened.saturating_add(self.quiet_linger()), self.me());
        }
    }

    /// Appends every open batch that was opened before `before`; the others stay on the list.
    fn send_open(&self, before: Option<Duration>) -> Option<Duration> {
        let _sending = self.sending.lock();
        let lanes = std::mem::take(&mut *self.open.lock());
        let mut oldest = None;
        for lane in lanes {
            lane.listed.store(false, Ordering::Release);
            let mut open = lane.open.lock();
            match &*open {
                Some(batch) if before.is_some_and(|before| batch.opened > before) => {
                    oldest = Some(oldest.map_or(batch.opened, |o: Duration| o.min(batch.opened)));
                    drop(open);
                    if !lane.listed.swap(true, Ordering::AcqRel) {
                        self.open.lock().push(lane);
                    }
                }
                Some(_) => {
                    if let Some(batch) = open.take() {
                        self.append(&lane, batch);
                    }
                }
                None => {}
            }
        }
        oldest
    }

    /// Sends everything that is open. The caller is going to wait for it: the broker's threads begin to sync what
    /// lies on other partitions than the one that the caller syncs first.
    pub(super) fn send_all(&self) {
        self.send_open(None);
        if self.in_flight.lock().batches.len() > 1 {
            self.broker.hasten();
        }
    }

    /// Sends everything that is open and waits for everything in flight. Fails with the first failure that no
    /// ticket told anybody.
    pub(super) fn flush(&self) -> Result<()> {
        self.send_all();
        // Not what others enqueue meanwhile: that may have no end.
        let entered = self.in_flight.lock().entered;
        while self.in_flight.lock().settled < entered && self.wait_for_oldest() {}
        self.report()
    }

    /// The same, for at most `timeout`.
    pub(super) fn flush_within(&self, timeout: Duration) -> Result<()> {
        let clock = self.broker.clock();
        let deadline = clock.monotonic().saturating_add(timeout);
        self.send_all();
        let entered = self.in_flight.lock().entered;
        loop {
            let seen = self.memory.freed().count();
            self.forget_settled();
            if self.in_flight.lock().settled >= entered {
                return self.report();
            }
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return Err(self.unsettled(timeout));
            }
            if !(self.broker.is_manual() && self.wait_for_oldest()) {
                self.await_oldest(seen, left);
            }
        }
    }

    /// What has not been acknowledged.
    fn unsettled(&self, timeout: Duration) -> Error {
        let in_flight = self.in_flight.lock();
        let mut counts = BTreeMap::<String, usize>::new();
        for (batch, _) in &in_flight.batches {
            *counts.entry(batch.partition().to_string()).or_default() += 1;
        }
        let named: Vec<_> = counts.iter().map(|(name, count)| format!("{name} ({count})")).take(NAMED_MAX).collect();
        let others = if counts.len() > NAMED_MAX { " and others" } else { "" };
        let (count, named, waited) = (in_flight.batches.len(), named.join(", "), timeout.as_millis());
        let message = format!("{count} batches were not acknowledged within {waited} ms: of {named}{others}");
        Error::new(ErrorKind::TimedOut, message).remedy("they are with the log: close the broker to wait for them")
    }

    /// The first failure that no ticket told anybody.
    fn report(&self) -> Result<()> {
        let mut in_flight = self.in_flight.lock();
        in_flight.sweep();
        in_flight.unreported.take().map_or(Ok(()), Err)
    }
}

impl Task for Accumulator {
    fn run(&self, now: Duration) -> Option<Duration> {
        // First, so that a batch opened meanwhile arms anew.
        self.armed.store(false, Ordering::Release);
        let linger = self.quiet_linger();
        let before = now.checked_sub(linger);
        let oldest = match before {
            Some(_) => self.send_open(before),
            // The clock has not run for as long as the linger: nothing can be due.
            None => self.open.lock().first().map(|_| now),
        }?;
        if self.armed.swap(true, Ordering::AcqRel) {
            return None;
        }
        Some(oldest.saturating_add(linger))
    }

    fn finish(&self) -> Result<()> {
        self.send_open(None);
        Ok(())
    }
}

impl Drop for Accumulator {
    fn drop(&mut self) {
        // What was accepted is handed to the log; nobody waits, so nothing blocks.
        self.send_open(None);
    }
}

impl Lane {
    /// Waits where a byte budget makes appends wait and has no room for this record.
    pub(super) fn wait_for_room(&self, record: &Record) -> Result<()> {
        self.partition.wait_for_room((BATCH_OVERHEAD + encoded_bytes(record)) as u64)
    }

    /// Sends `batch` if it is this lane's open one.
    pub(super) fn send(self: &Arc<Self>, batch: &Arc<Batch>) {
        // Without an accumulator it was sent when that was dropped.
        let Some(accumulator) = self.accumulator.upgrade() else { return };
        let mut open = self.open.lock();
        if let Some(mine) = open.take_if(|open| Arc::ptr_eq(&open.shared, batch)) {
            accumulator.append(self, mine);
        }
    }
}

fn panic_at(lane: &Lane) -> Error {
    Error::new(ErrorKind::Indeterminate, "a thread panicked at a batch: its records may or may not be there")
        .partition(lane.partition.name().clone())
        .remedy("reopen the partition where it takes no more appends, and read what is there")
}

fn encoded_bytes(record: &Record) -> usize {
    let part = |bytes: Option<&bytes::Bytes>| bytes.map_or(0, |b| b.len());
    let headers = record.headers().iter().map(|h| HEADER_OVERHEAD + h.key().len() + h.value().map_or(0, <[u8]>::len));
    RECORD_OVERHEAD + part(record.key_bytes()) + part(record.value_bytes()) + headers.sum::<usize>()
}

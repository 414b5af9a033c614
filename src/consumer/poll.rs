//! The consumer itself and its poll loop: membership first, then what was fetched, then what can be
//! fetched, then waiting.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::builder::Settings;
use super::membership::{Held, Member};
use super::position;
use super::records::Records;
use super::subscription::{Topics, Wish};
use crate::broker::Broker;
use crate::error::{Error, ErrorKind, Result};
use crate::group::Generation;
use crate::log::Signal;
use crate::topic::ReadFrom;
use crate::types::{Offset, PartitionId, Start, TopicPartition, Uuid};

/// A commit without membership.
pub(super) const NO_GENERATION: Generation = -1;

/// Reads topics, as one of the members of a group or with partitions chosen by hand.
///
/// `Send`, and used by one thread at a time; several threads share the work by joining with a
/// consumer each. Within the group each partition has one reader, so each record goes to one
/// member. When members come or go the partitions are shared out anew, inside [`Consumer::poll`]: a
/// member gives up its partitions when it polls, and their next readers begin at what was committed. So
/// whoever commits before each poll hands over without a record read twice.
///
/// Dropping it leaves the group at once, commits nothing and does not block.
///
/// ```
/// use std::time::Duration;
/// use thalweg::{Broker, Start};
/// let broker = Broker::in_memory()?;
/// let orders = broker.topic("orders").open_or_create()?;
/// orders.send(("user-1", "paid"))?;
///
/// let billing = broker.consumer_group("billing");
/// let mut consumer = billing.consumer(["orders"]).start(Start::Earliest).join()?;
/// let records = consumer.poll(Duration::from_secs(1))?;
/// for record in &records {
///     assert_eq!(record.value(), Some(&b"paid"[..]));
///     consumer.commit_through(&record)?;
/// }
/// assert_eq!(billing.lag()?.total(), 0);
/// # Ok::<(), thalweg::Error>(())
/// ```
pub struct Consumer {
    pub(super) broker: Broker,
    pub(super) group: Arc<str>,
    pub(super) settings: Settings,
    pub(super) reading: Reading,
    pub(super) held: BTreeMap<TopicPartition, Held>,
    /// Held, but not read yet: the position could not be found.
    pub(super) unplaced: BTreeMap<TopicPartition, Generation>,
    /// Where [`Start::Latest`] starts: the ends at the time of subscribing.
    ends: HashMap<(Uuid, PartitionId), Offset>,
    /// The partition that was served last, for fairness.
    last_served: Option<TopicPartition>,
    /// Notified by whatever it waits for. Replaced when it lets go of partitions, which otherwise
    /// would go on waking it.
    pub(super) signal: Arc<Signal>,
    pub(super) wakeup: Arc<Wakeup>,
}

/// What a look brought.
pub(super) enum Seen {
    /// Records, or none when the time is up.
    Records(Records),
    /// None yet: look again when the signal has counted more than `seen`, or after `wait`, which for the last wait is
    /// all the time that is left.
    Nothing { seen: u64, wait: Duration, is_last: bool },
}

pub(super) enum Reading {
    Nothing,
    Member(Member),
    ByHand,
}

impl Consumer {
    pub(super) fn start(broker: Broker, group: Arc<str>, wish: Wish, settings: Settings) -> Result<Self> {
        let mut consumer = Self {
            broker,
            group,
            settings,
            reading: Reading::Nothing,
            held: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            ends: HashMap::new(),
            last_served: None,
            signal: Arc::default(),
            wakeup: Arc::default(),
        };
        consumer.renew_signal();
        match wish {
            Wish::Nothing => {}
            Wish::Topics(topics) => consumer.read_topics(topics)?,
            Wish::Partitions(partitions) => consumer.assign(partitions)?,
        }
        Ok(consumer)
    }

    /// Reads a share of `topics`, in place of what it subscribed to before. A topic that does not
    /// exist yet is read from the moment it does.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] while partitions are assigned by hand: the two do not mix.
    /// [`ErrorKind::InvalidTopicName`] for a name that no topic can have.
    pub fn subscribe<T: AsRef<str>>(&mut self, topics: impl IntoIterator<Item = T>) -> Result<()> {
        self.read_topics(Topics::named(topics)?)
    }

    /// Reads a share of all topics whose whole name matches the regular expression `pattern`, those
    /// that are created later included and Kafka's internal ones excluded.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a bad pattern, or while partitions are assigned by hand.
    pub fn subscribe_matching(&mut self, pattern: &str) -> Result<()> {
        self.read_topics(Topics::matching(pattern)?)
    }

    fn read_topics(&mut self, topics: Topics) -> Result<()> {
        if matches!(self.reading, Reading::ByHand) {
            return Err(mixed("subscribe", "partitions are assigned by hand"));
        }
        // Before the look at the topics, so that one that comes meanwhile is looked for again.
        let catalog = self.broker.catalog_version();
        let resolved = topics.resolve(&self.broker);
        if self.settings.start == Start::Latest {
            self.note_ends(&resolved)?;
        }
        self.join(topics, resolved, catalog)
    }

    /// Reads exactly `partitions`, without membership, in place of those assigned before.
    /// Positions start at the group's committed offsets, where it has some.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] while it subscribes to topics: the two do not mix.
    /// [`ErrorKind::UnknownTopicOrPartition`] when one does not exist; nothing changes then.
    pub fn assign(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Result<()> {
        if matches!(self.reading, Reading::Member(_)) {
            return Err(mixed("assign", "it subscribes to topics"));
        }
        let wanted: BTreeSet<_> = partitions.into_iter().collect();
        for tp in &wanted {
            self.broker.partition(tp)?;
        }
        if self.settings.start == Start::Latest {
            self.note_ends(&wanted.iter().map(|tp| tp.topic().into()).collect())?;
        }
        self.reading = Reading::ByHand;
        self.hold(wanted, NO_GENERATION);
        Ok(())
    }

    /// Stops reading: leaves the group, or lets go of the partitions assigned by hand. Commits
    /// nothing.
    ///
    /// # Errors
    /// When the group's new state cannot be written.
    pub fn unsubscribe(&mut self) -> Result<()> {
        self.let_go();
        self.ends.clear();
        match std::mem::replace(&mut self.reading, Reading::Nothing) {
            Reading::Member(member) => self.leave(&member),
            Reading::Nothing | Reading::ByHand => Ok(()),
        }
    }

    fn note_ends(&mut self, topics: &BTreeSet<Arc<str>>) -> Result<()> {
        for topic in topics {
            for number in 0..self.broker.partition_count(topic).unwrap_or_default() {
                let partition = match self.broker.partition(&TopicPartition::new(Arc::clone(topic), number)) {
                    Err(e) if e.kind() == ErrorKind::Absent => continue,
                    found => found?,
                };
                let (_, end) = position::readable(&partition, self.settings.isolation)?;
                self.ends.entry((partition.topic_id(), PartitionId::new(number))).or_insert(end);
            }
        }
        Ok(())
    }

    /// Hands out records, or waits up to `timeout` for some: at most `max.poll.records`, and none if
    /// the time runs out first. Also the place where a member takes part in its group's
    /// rebalances, so it has to be called more often than `max.poll.interval.ms` says.
    ///
    /// # Errors
    /// - [`ErrorKind::Interrupted`] when its [`ConsumerWaker`] was used;
    /// - [`ErrorKind::NoOffset`] under [`Start::None`] when a partition has no committed offset, until
    ///   [`Consumer::seek`] gives it a position;
    /// - [`ErrorKind::Overtaken`] when records between the position and the log start are gone, and
    ///   [`ErrorKind::OffsetOutOfRange`] when the position lies behind the end. Each is told once; the next
    ///   poll goes on at the log start or, for the latter, where the start policy says;
    /// - [`ErrorKind::Corrupt`] when the next batch is damaged, or [`ErrorKind::Unsupported`] when it is of a
    ///   format that is not read, on each poll until the position is moved:
    ///   [`Error::at_offsets`](crate::Error::at_offsets) says which offsets are lost, and [`Consumer::seek`] to
    ///   their end goes on behind them.
    ///
    /// No record is lost by an error: positions move only over records that are handed out.
    pub fn poll(&mut self, timeout: Duration) -> Result<Records> {
        let until = self.broker.clock().monotonic().saturating_add(timeout);
        loop {
            match self.look(until)? {
                Seen::Records(records) => return Ok(records),
                Seen::Nothing { seen, wait, is_last } => {
                    if !self.signal.wait_past(seen, Some(wait)) && is_last {
                        return Ok(Records::default());
                    }
                }
            }
        }
    }

    /// Takes part in the group and collects what is there, without waiting.
    pub(super) fn look(&mut self, until: Duration) -> Result<Seen> {
        loop {
            let signal = Arc::clone(&self.signal);
            let seen = signal.count();
            if self.wakeup.take() {
                return Err(Error::new(ErrorKind::Interrupted, "the poll was interrupted by its waker"));
            }
            self.broker.check_open()?;
            let look_again = self.keep_membership()?;
            let (records, moved) = if self.is_waiting() { Default::default() } else { self.collect()? };
            let left = until.saturating_sub(self.broker.clock().monotonic());
            if !records.is_empty() || left.is_zero() {
                return Ok(Seen::Records(records));
            }
            // What was there is for nobody's eyes, and what comes after it may be there already; or what it watches
            // changed, and it has to look before waiting there.
            if !moved && Arc::ptr_eq(&signal, &self.signal) {
                let wait = look_again.map_or(left, |again| again.min(left));
                return Ok(Seen::Nothing { seen, wait, is_last: wait == left });
            }
        }
    }

    /// A handle that ends a poll of this consumer from any thread: the running one, or else the
    /// next.
    #[must_use]
    pub fn waker(&self) -> ConsumerWaker {
        ConsumerWaker { wakeup: Arc::clone(&self.wakeup) }
    }

    /// Leaves the group and says whether that could be recorded. Commits nothing: call
    /// [`Consumer::commit`] first.
    ///
    /// # Errors
    /// When the group's new state cannot be written; the consumer has left nevertheless.
    pub fn close(mut self) -> Result<()> {
        self.unsubscribe()
    }

    /// Goes round the partitions, beginning after the one that was served last. Also answers whether a fetch brought
    /// nothing but what is not handed out: aborted records, markers.
    fn collect(&mut self) -> Result<(Records, bool)> {
        self.place_all()?;
        let (mut records, mut moved) = (Records::default(), false);
        let mut budget = self.settings.fetch_max_bytes;
        for tp in self.turn() {
            match self.serve(&tp, &mut records, &mut budget) {
                Ok(fetched) => moved |= fetched,
                Err(e) if self.is_gone(&e) => {
                    self.held.remove(&tp);
                    continue;
                }
                Err(e) if records.is_empty() => return Err(self.after_failed_read(&tp, e)),
                // The next poll begins here and tells.
                Err(_) => break,
            }
            let is_full = records.len() >= self.settings.max_poll_records;
            let has_more = self.held.get(&tp).is_some_and(|held| held.cursor.wants().is_none());
            if is_full && has_more {
                // The next poll goes on here.
                break;
            }
            self.last_served = Some(tp);
            if is_full {
                break;
            }
        }
        Ok((records, moved))
    }

    /// A topic of a member was deleted; the rebalance that follows is on its way.
    fn is_gone(&self, error: &Error) -> bool {
        let gone =
            matches!(error.kind(), ErrorKind::TopicDeleted | ErrorKind::UnknownTopicOrPartition | ErrorKind::Absent);
        gone && matches!(self.reading, Reading::Member(_))
    }

    fn turn(&self) -> Vec<TopicPartition> {
        let Some(last) = &self.last_served else { return self.held.keys().cloned().collect() };
        let after = self.held.range((Bound::Excluded(last), Bound::Unbounded));
        let before = self.held.range((Bound::Unbounded, Bound::Included(last)));
        after.chain(before).map(|(tp, _)| tp.clone()).collect()
    }

    /// Hands out what was fetched of one partition, or fetches once and hands out of that. Whether a fetch moved on.
    fn serve(&mut self, tp: &TopicPartition, records: &mut Records, budget: &mut usize) -> Result<bool> {
        let Some(Held { partition, cursor, .. }) = self.held.get_mut(tp) else { return Ok(false) };
        let mut moved = false;
        let bytes = self.settings.max_partition_fetch_bytes.min(*budget);
        if let Some(at) = cursor.wants()
            && (bytes > 0 || records.is_empty())
        {
            let read = partition.read(at, bytes, self.settings.isolation)?;
            *budget = budget.saturating_sub(read.bytes().len());
            moved = read.next_offset() > at;
            cursor.accept(read.data_batches().collect::<Result<Vec<_>>>()?, read.next_offset());
        }
        while let Some(chunk) = cursor.take(self.settings.max_poll_records.saturating_sub(records.len()))? {
            records.push(chunk);
        }
        Ok(moved)
    }

    /// A position outside the log is told once; what is read next is decided here.
    fn after_failed_read(&mut self, tp: &TopicPartition, error: Error) -> Error {
        let Some(Held { partition, cursor, .. }) = self.held.get_mut(tp) else { return error };
        match (error.kind(), error.at_offset(), self.settings.start) {
            (ErrorKind::Overtaken, Some(log_start), _) => cursor.seek(log_start),
            (ErrorKind::OffsetOutOfRange, _, start @ (Start::Earliest | Start::Latest)) => {
                // Should this fail as well, the position stays and so does the error.
                if let Ok(offset) = position::seek(partition, ReadFrom::Start(start), self.settings.isolation) {
                    cursor.seek(offset);
                }
            }
            _ => {}
        }
        error
    }

    /// Finds a position for partitions that have none yet.
    fn place_all(&mut self) -> Result<()> {
        while let Some((tp, since)) = self.unplaced.first_key_value() {
            let (tp, since) = (tp.clone(), *since);
            let partition = match self.broker.partition(&tp) {
                Err(e) if self.is_gone(&e) => {
                    self.unplaced.remove(&tp);
                    continue;
                }
                found => found?,
            };
            let committed = self.broker.committed_offset(&self.group, &tp)?.map(|c| c.offset());
            let noted = self.ends.get(&(partition.topic_id(), tp.partition())).copied();
            let position = match (committed, self.settings.start, noted) {
                (Some(offset), _, _) | (None, Start::Latest, Some(offset)) => offset,
                (None, Start::Earliest | Start::Latest, _) => {
                    position::seek(&partition, ReadFrom::Start(Start::Earliest), self.settings.isolation)?
                }
                (None, Start::None, _) => {
                    let message =
                        format!("group {:?} has committed no offset, and its start policy is none", self.group);
                    return Err(Error::new(ErrorKind::NoOffset, message)
                        .partition(tp)
                        .remedy("seek, or reset the group"));
                }
            };
            self.place(partition, since, position, committed);
        }
        Ok(())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure; members that stay away are removed in the end anyway.
        drop(self.unsubscribe());
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("group", &self.group)
            .field("member", &self.member_id())
            .field("assignment", &self.assignment())
            .finish_non_exhaustive()
    }
}

/// Ends a [`Consumer::poll`] from another thread, to let it shut down.
///
/// ```
/// use std::time::Duration;
/// use thalweg::{Broker, ErrorKind};
/// let broker = Broker::in_memory()?;
/// let mut consumer = broker.consumer_group("billing").consumer(["orders"]).join()?;
/// let stop = consumer.waker();
/// std::thread::spawn(move || stop.wake());
/// let ended = consumer.poll(Duration::from_secs(60)).unwrap_err();
/// assert_eq!(ended.kind(), ErrorKind::Interrupted);
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone)]
pub struct ConsumerWaker {
    wakeup: Arc<Wakeup>,
}

/// What a consumer and its wakers share.
#[derive(Default)]
pub(super) struct Wakeup {
    interrupted: AtomicBool,
    /// The signal that the consumer waits on now.
    pub(super) signal: Mutex<Arc<Signal>>,
}

impl Wakeup {
    fn take(&self) -> bool {
        self.interrupted.swap(false, Ordering::SeqCst)
    }
}

impl ConsumerWaker {
    /// Ends the poll that is running, or else the next one, with [`ErrorKind::Interrupted`].
    pub fn wake(&self) {
        // In this order, so that a consumer that changes its signal meanwhile sees the mark.
        self.wakeup.interrupted.store(true, Ordering::SeqCst);
        self.wakeup.signal.lock().notify();
    }
}

impl fmt::Debug for ConsumerWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerWaker").finish_non_exhaustive()
    }
}

fn mixed(wanted: &str, present: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("cannot {wanted}: {present}")).remedy("call unsubscribe first")
}

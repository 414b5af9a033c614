//! What must hold of a whole [`Broker`] whatever happened to its disk: topics that were acknowledged are there, deleted
//! ones do not come back, configs and committed offsets are those acknowledged, no group is ahead of a log, and every
//! partition holds what a log must.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use parking_lot::Mutex;

use super::expected::{Content, Entered, Expected, KnownDoubt, LogEvent};
use super::history::{Entry, History};
use super::sim::SimStorage;
use crate::broker::{Broker, BrokerBuilder, Partition, Topic};
use crate::error::Result;
use crate::finding::FindingKind;
use crate::log::{Appended, Log};
use crate::topic::TopicConfig;
use crate::topic::name::CONSUMER_OFFSETS;
use crate::types::{Durability, Offset, Start, TopicPartition, Uuid};

/// What a record takes in a batch beside its value, and a batch beside its records, at most.
const RECORD_BYTES: u64 = 200;

/// A topic's id and the number of a partition.
type Place = (Uuid, i32);

/// What a [`WatchedBroker`] did and promised.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerEvent {
    /// Something about one partition, by its topic's id.
    Log(Uuid, i32, LogEvent),
    /// A topic of this name was to be made, and was.
    Creating(String),
    /// See `Creating`.
    Created(String, Uuid),
    /// The topic was to be deleted, and was.
    Deleting(Uuid),
    /// See `Deleting`.
    Deleted(Uuid),
    /// A config of a topic was to become this, and did.
    Altering(Uuid, String, String),
    /// See `Altering`.
    Altered(Uuid, String, String),
    /// A group was to be at this offset of a partition, and was.
    Committing(String, Uuid, i32, Offset),
    /// See `Committing`; at the level of the topic that holds it.
    Committed(String, Uuid, i32, Offset, Durability),
    /// A sync failed: what groups committed below the level that survives loss of power may be gone.
    CommitsInDoubt,
    /// These topics, and these offsets of groups, were found by somebody who may tell others; the offsets in a topic of
    /// this level.
    Found(BTreeMap<Uuid, String>, BTreeMap<(String, Uuid, i32), Offset>, Durability),
    /// The broker was opened: where it was not closed in order, what was promised to nobody may be gone.
    Opened,
    /// The broker was closed in order: everything is on the device.
    Closed,
}

/// A manual broker that notes in a [`History`] what is asked of it and what it promises. One thread at a time: an append
/// takes the partition's end for its offset.
///
/// ```
/// use std::path::Path;
/// use thalweg::testing::{ExploreConfig, History, SimStorage, WatchedBroker, check_broker, explore};
/// use thalweg::{Durability, TopicConfig};
/// let root = Path::new("data");
/// let workload = |disk: &SimStorage, history: &History<_>| {
///     let work = || -> thalweg::Result<()> {
///         let broker = WatchedBroker::open(disk, history, root, |options| options)?;
///         let orders = broker.create("orders", 2, TopicConfig::new())?;
///         broker.put(&orders.partition(1)?, ["one", "two"], Durability::PowerLoss)?;
///         broker.commit("billing", &orders)?;
///         broker.close()
///     };
///     work().expect("a disk that works");
/// };
/// let check = |disk: &SimStorage, history: &_| check_broker(disk, history, root, |options| options);
/// explore(workload, check, &ExploreConfig::new(1).choices(2).nested(1).step(3)).assert_sound();
/// ```
#[derive(Debug)]
pub struct WatchedBroker {
    broker: Broker,
    disk: SimStorage,
    history: History<BrokerEvent>,
    /// Appends that may be taken back yet.
    staged: Mutex<Vec<(Partition, Appended)>>,
    /// Partitions that were appended to.
    watched: Mutex<Vec<(Partition, KnownDoubt)>>,
    /// Where the log of groups ended after the last commit.
    commits_end: Mutex<Offset>,
}

impl WatchedBroker {
    /// Opens the directory `root` with `options` applied to a manual builder on this disk; give it a
    /// [`ManualClock`](crate::ManualClock) if time matters.
    ///
    /// # Errors
    /// As [`BrokerBuilder::open`].
    pub fn open(
        disk: &SimStorage,
        history: &History<BrokerEvent>,
        root: &Path,
        options: impl FnOnce(BrokerBuilder) -> BrokerBuilder,
    ) -> Result<Self> {
        let broker = options(Broker::builder(root).storage(disk.clone()).manual()).open()?;
        history.note(disk, BrokerEvent::Opened);
        let (staged, watched, commits_end) = Default::default();
        Ok(Self { broker, disk: disk.clone(), history: history.clone(), staged, watched, commits_end })
    }

    /// The broker itself, for what need not be watched.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    fn note(&self, event: BrokerEvent) {
        self.note_taken();
        self.history.note(&self.disk, event);
    }

    fn note_of(&self, partition: &Partition, event: LogEvent) {
        self.note(of_log(partition, event));
    }

    /// Notes what a disk that is full or fails took meanwhile, before more is promised.
    fn note_taken(&self) {
        let note = |event| self.history.note(&self.disk, event);
        self.staged.lock().retain(|(partition, appended)| {
            let is_gone = partition.watched().is_some_and(|log| log.was_taken_back(appended.position));
            if is_gone {
                note(of_log(partition, LogEvent::TakenBack(appended.base_offset..appended.last_offset.next())));
            }
            !is_gone
        });
        self.note_doubts();
    }

    fn note_doubts(&self) {
        for (partition, doubt) in &mut *self.watched.lock() {
            let Some(from) = partition.watched().and_then(|log| doubt.new_of(log, &self.disk)) else { continue };
            let in_doubt = match partition.topic_partition().topic() {
                CONSUMER_OFFSETS if from >= *self.commits_end.lock() => continue,
                CONSUMER_OFFSETS => BrokerEvent::CommitsInDoubt,
                _ => of_log(partition, LogEvent::InDoubt(from)),
            };
            self.history.note(&self.disk, in_doubt);
        }
    }

    /// Looks at a partition from now on.
    fn watch(&self, partition: &Partition) {
        let mut watched = self.watched.lock();
        let is_it = |(known, _): &(Partition, KnownDoubt)| {
            (known.topic_id(), known.topic_partition()) == (partition.topic_id(), partition.topic_partition())
        };
        if !watched.iter().any(is_it) {
            watched.push((partition.clone(), KnownDoubt::default()));
        }
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// As [`TopicBuilder::create`](crate::TopicBuilder::create).
    pub fn create(&self, name: &str, partitions: u32, config: TopicConfig) -> Result<Topic> {
        self.note(BrokerEvent::Creating(name.to_owned()));
        let topic = self.broker.topic(name).partitions(partitions).config(config).create()?;
        self.note(BrokerEvent::Created(name.to_owned(), topic.id()));
        Ok(topic)
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// As [`Topic::delete`].
    pub fn delete(&self, topic: &Topic) -> Result<()> {
        self.note(BrokerEvent::Deleting(topic.id()));
        topic.delete()?;
        self.note(BrokerEvent::Deleted(topic.id()));
        Ok(())
    }

    /// Sets a config of a topic.
    ///
    /// # Errors
    /// As [`Topic::alter_configs`].
    pub fn alter(&self, topic: &Topic, name: &str, value: &str) -> Result<()> {
        self.note(BrokerEvent::Altered(topic.id(), name.to_owned(), topic.config(name)?));
        self.note(BrokerEvent::Altering(topic.id(), name.to_owned(), value.to_owned()));
        let now = |partition: Partition| {
            let end = partition.watched()?.offsets().end;
            Some((partition.durability(), end, partition))
        };
        let before: Vec<_> = topic.partitions().into_iter().filter_map(now).collect();
        topic.alter_configs(&[(name, Some(value))])?;
        self.note(BrokerEvent::Altered(topic.id(), name.to_owned(), value.to_owned()));
        for (level, end, partition) in before {
            // What was appended before is brought to a level that rises.
            if partition.durability() > level {
                self.note_of(&partition, LogEvent::Acknowledged(end, partition.durability()));
            }
        }
        Ok(())
    }

    /// Appends one batch of these values.
    ///
    /// # Errors
    /// As [`Partition::append_records`].
    pub fn append<'a>(&self, partition: &Partition, values: impl IntoIterator<Item = &'a str>) -> Result<Appended> {
        let values: Vec<_> = values.into_iter().collect();
        let appended = self.append_by(partition, &values, || partition.append_records(values.iter().copied()))?;
        self.note_of(partition, LogEvent::Appended(appended.base_offset));
        self.staged.lock().push((partition.clone(), appended));
        Ok(appended)
    }

    /// Appends one batch of these values by whatever way; a byte budget may delete others for it.
    ///
    /// # Errors
    /// Those of `append`; as [`Partition::offsets`].
    pub fn append_by<T>(
        &self,
        partition: &Partition,
        values: &[&str],
        append: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let append = || {
            self.note_appending(partition, values)?;
            append()
        };
        if !partition.would_drop(values.iter().map(|value| value.len() as u64 + RECORD_BYTES).sum()) {
            return append();
        }
        let topics = self.broker.topics()?.into_iter().filter(|topic| !topic.name().starts_with("__"));
        let may_lose: Vec<_> = topics.flat_map(|topic| topic.partitions()).collect();
        let start = self.note_retaining(&may_lose)?;
        let appended = append();
        let retained = self.note_retained(&may_lose);
        let appended = appended?;
        if retained? > start {
            self.history.hit(format_args!("DroppedOldest"));
        }
        Ok(appended)
    }

    /// Notes that any of these partitions may lose its oldest records; gives the sum of their log starts.
    fn note_retaining(&self, partitions: &[Partition]) -> Result<i64> {
        let mut starts = 0;
        for partition in partitions {
            let offsets = partition.offsets()?;
            self.note_of(partition, LogEvent::Retaining(offsets.end));
            starts += offsets.log_start.get();
        }
        Ok(starts)
    }

    /// Notes that what is left now stays, but for a deletion that failed half way; gives the same sum.
    fn note_retained(&self, partitions: &[Partition]) -> Result<i64> {
        let retained = partitions.iter().map(|partition| {
            let start = partition.offsets()?.log_start;
            self.note_of(partition, LogEvent::Retained(start));
            if let Some(begun) = partition.watched().and_then(Log::start_begun) {
                self.note_of(partition, LogEvent::Advancing(begun));
            }
            Ok(start.get())
        });
        // All of them, whichever cannot be asked.
        retained.collect::<Vec<_>>().into_iter().sum()
    }

    /// Notes where all partitions begin after an opening.
    fn note_begun(&self) -> Result<()> {
        for partition in self.broker.topics()?.iter().flat_map(Topic::partitions) {
            self.note_of(&partition, LogEvent::Began(partition.offsets()?.log_start));
        }
        Ok(())
    }

    /// Notes that one batch of these values is on its way to a partition, by whatever way.
    ///
    /// # Errors
    /// As [`Partition::offsets`].
    pub fn note_appending(&self, partition: &Partition, values: &[&str]) -> Result<()> {
        self.watch(partition);
        let batch = partition.offsets()?.end;
        let content = |value: &&str| Content::Value(Some(value.as_bytes().into()));
        let entered = |value| Entered { batch: batch.get(), producer: None, content: content(value) };
        self.note_of(partition, LogEvent::Appending(batch, values.iter().map(entered).collect()));
        Ok(())
    }

    /// Waits for an append.
    ///
    /// # Errors
    /// As [`Partition::wait`].
    pub fn wait(&self, partition: &Partition, appended: &Appended, level: Durability) -> Result<()> {
        partition.wait(appended.position, level)?;
        self.note_acknowledged(partition, appended.last_offset.next(), level)
    }

    /// Notes that everything below `end` was acknowledged at `level`, by whatever way.
    ///
    /// # Errors
    /// As [`Partition::offsets`].
    pub fn note_acknowledged(&self, partition: &Partition, end: Offset, level: Durability) -> Result<()> {
        self.note_of(partition, LogEvent::Acknowledged(end, level));
        self.note_of(partition, LogEvent::Shown(partition.offsets()?.high_watermark));
        Ok(())
    }

    /// Appends one batch of these values and waits for it.
    ///
    /// # Errors
    /// As [`Partition::append_records`] and [`Partition::wait`].
    pub fn put<'a>(
        &self,
        partition: &Partition,
        values: impl IntoIterator<Item = &'a str>,
        level: Durability,
    ) -> Result<Appended> {
        let appended = self.append(partition, values)?;
        self.wait(partition, &appended, level)?;
        Ok(appended)
    }

    /// Mends a partition after a write or sync that failed.
    ///
    /// # Errors
    /// As [`Partition::reopen`].
    pub fn reopen(&self, partition: &Partition) -> Result<()> {
        self.note_taken();
        let recovery = partition.reopen()?;
        recovery.rows.iter().for_each(|row| self.history.hit(row));
        self.note_of(partition, LogEvent::Reopened);
        self.note_of(partition, LogEvent::Shown(partition.offsets()?.high_watermark));
        Ok(())
    }

    /// Advances a partition's log start.
    ///
    /// # Errors
    /// As [`Partition::delete_records`].
    pub fn delete_records(&self, partition: &Partition, to: Offset) -> Result<()> {
        self.note_of(partition, LogEvent::Advancing(to));
        partition.delete_records(to)?;
        self.note_of(partition, LogEvent::Advanced(to));
        Ok(())
    }

    /// Puts a group at the high watermark of all partitions of a topic.
    ///
    /// # Errors
    /// As [`ConsumerGroup::reset`](crate::ConsumerGroup::reset).
    pub fn commit(&self, group: &str, topic: &Topic) -> Result<()> {
        let mut ends = Vec::new();
        for partition in topic.partitions() {
            ends.push((partition.topic_partition().partition().get(), partition.offsets()?.high_watermark));
        }
        for (number, end) in &ends {
            self.note(BrokerEvent::Committing(group.to_owned(), topic.id(), *number, *end));
        }
        self.broker.consumer_group(group).reset([topic.name()], Start::Latest)?;
        let offsets = self.broker.topic(CONSUMER_OFFSETS).open()?.partition(0)?;
        let level = offsets.durability();
        self.watch(&offsets);
        *self.commits_end.lock() = offsets.offsets()?.end;
        for (number, end) in ends {
            self.note(BrokerEvent::Committed(group.to_owned(), topic.id(), number, end, level));
        }
        Ok(())
    }

    /// Runs maintenance, of which retention is part.
    ///
    /// # Errors
    /// As [`Broker::run_maintenance`].
    pub fn maintain(&self) -> Result<()> {
        let mut limited = Vec::new();
        for topic in self.broker.topics()? {
            if topic.config("retention.bytes")? != "-1" || topic.config("retention.ms")? != "-1" {
                limited.extend(topic.partitions());
            }
        }
        self.note_retaining(&limited)?;
        let maintained = self.broker.run_maintenance();
        let retained = self.note_retained(&limited);
        maintained.and(retained)?;
        for partition in self.broker.topics()?.iter().flat_map(Topic::partitions) {
            self.note_of(&partition, LogEvent::Shown(partition.offsets()?.high_watermark));
        }
        Ok(())
    }

    /// Closes the broker; success promises everything.
    ///
    /// # Errors
    /// As [`Broker::close`].
    pub fn close(&self) -> Result<()> {
        let topics = self.broker.topics();
        let partitions = topics.iter().flatten().flat_map(Topic::partitions);
        // One that cannot be opened is closed as well.
        let ends: Vec<_> = partitions.map(|partition| (partition.offsets(), partition)).collect();
        let closed = self.broker.close();
        self.note_taken();
        closed.and(topics.map(drop))?;
        let known = ends.into_iter().map(|(offsets, partition)| Ok((partition, offsets?.end)));
        let ends = known.collect::<Result<Vec<_>>>()?;
        for (partition, end) in ends {
            self.note_of(&partition, LogEvent::Acknowledged(end, Durability::PowerLoss));
        }
        self.note(BrokerEvent::Closed);
        Ok(())
    }

    /// Compares what is there with the history.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn verify(&self) -> Result<(), String> {
        let entries = self.history.entries();
        let expected = ExpectedTopics::from(&entries);
        let topics = self.broker.topics().map_err(|e| format!("lists no topics: {e}"))?;
        let found = topics.iter().map(|topic| (topic.id(), topic.name().to_owned())).collect();
        expected.compare_topics(&found)?;
        let mut committed = BTreeMap::new();
        for topic in &topics {
            expected.compare_configs(topic)?;
            for partition in topic.partitions() {
                let name = partition.topic_partition();
                let place = (topic.id(), name.partition().get());
                let records = Expected::from(&of_partition(&entries, place)).judge(&partition);
                let records = records.map_err(|wrong| format!("{name}: {wrong}"))?;
                self.note_of(&partition, LogEvent::Found(records, partition.durability()));
                let offsets = partition.offsets().map_err(|e| format!("{name}: {e}"))?;
                self.note_of(&partition, LogEvent::Shown(offsets.high_watermark));
                for group in &expected.groups {
                    if let Some(at) = expected.compare_commit(&self.broker, group, place, name, offsets.end)? {
                        committed.insert((group.clone(), place.0, place.1), at);
                    }
                }
            }
        }
        // No power brings anything back of a topic that is not there.
        let offsets = self.broker.topic(CONSUMER_OFFSETS).open().and_then(|topic| topic.partition(0));
        let level = offsets.map_or(Durability::PowerLoss, |partition| partition.durability());
        self.note(BrokerEvent::Found(found, committed, level));
        Ok(())
    }

    /// Kinds of findings that no crash and no failing disk accounts for.
    fn check_findings(&self, may_be: impl Fn(FindingKind) -> bool) -> Result<(), String> {
        match self.broker.findings().into_iter().find(|finding| !may_be(finding.kind)) {
            Some(finding) => Err(format!("finds {:?}: {finding}", finding.kind)),
            None => Ok(()),
        }
    }
}

/// The check of a crash explorer for a broker in `root`: opens it, compares, goes on working after every other crash,
/// closes it and opens it again, which must find nothing to repair. `options` as for [`WatchedBroker::open`].
///
/// # Errors
/// What is wrong, in words.
pub fn check_broker(
    disk: &SimStorage,
    history: &History<BrokerEvent>,
    root: &Path,
    options: impl Fn(BrokerBuilder) -> BrokerBuilder,
) -> Result<(), String> {
    let at = |what: &'static str| move |e: crate::error::Error| format!("{what}: {e}");
    let open = || WatchedBroker::open(disk, history, root, &options);
    let goes_on = disk.operations().is_multiple_of(2);
    let broker = open().map_err(at("does not open after the crash"))?;
    let verified = broker.verify();
    broker.broker.findings().iter().for_each(|finding| history.hit(finding.kind));
    broker
        .check_findings(|kind| !matches!(kind, FindingKind::Damaged | FindingKind::Lost | FindingKind::Absent))
        .map_err(|found| format!("a crash was taken for rot: {found}"))?;
    verified?;
    broker.note_begun().map_err(at("has no offsets"))?;
    if goes_on {
        go_on(&broker)?;
    }
    broker.close().map_err(at("does not close after the crash"))?;
    let broker = open().map_err(at("does not open again"))?;
    broker.verify().map_err(|wrong| format!("after closing and opening: {wrong}"))?;
    // What a deletion left behind before it was cut short is told as long as it lies there.
    broker
        .check_findings(|kind| matches!(kind, FindingKind::OpenTransaction | FindingKind::Leftover))
        .map_err(|wrong| format!("a second opening, after a close, still {wrong}"))?;
    broker.close().map_err(at("does not close again"))
}

/// Goes on with every partition that is in use, and with a new topic.
fn go_on(broker: &WatchedBroker) -> Result<(), String> {
    let at = |what: &'static str| move |e: crate::error::Error| format!("{what} after the crash: {e}");
    let name = "after-the-crash";
    let made = match broker.broker.topic(name).open() {
        Ok(topic) => topic,
        Err(_) => broker.create(name, 1, TopicConfig::new()).map_err(at("takes no topic"))?,
    };
    let rises = broker.disk.operations().is_multiple_of(4);
    for topic in broker.broker.topics().map_err(at("lists no topics"))? {
        if rises {
            // What is found at a weaker level becomes as durable as what comes.
            broker.alter(&topic, "flush.messages", "1").map_err(at("takes no config"))?;
        }
        let is_used = |p: &Partition| topic.id() == made.id() || p.offsets().is_ok_and(|o| o.end > Offset::ZERO);
        let ours = !topic.name().starts_with("__");
        for partition in topic.partitions().into_iter().filter(|partition| ours && is_used(partition)) {
            broker.put(&partition, ["after the crash"], Durability::PowerLoss).map_err(at("takes no append"))?;
        }
    }
    broker.commit(name, &made).map_err(at("takes no commit"))?;
    broker.verify().map_err(|wrong| format!("after an append: {wrong}"))
}

fn of_log(partition: &Partition, event: LogEvent) -> BrokerEvent {
    BrokerEvent::Log(partition.topic_id(), partition.topic_partition().partition().get(), event)
}

/// What a history says of one partition.
fn of_partition(entries: &[Entry<BrokerEvent>], place: Place) -> Vec<Entry<LogEvent>> {
    let of = |entry: &Entry<BrokerEvent>| match entry {
        Entry::Crash(choice) => Some(Entry::Crash(*choice)),
        Entry::Event(BrokerEvent::Log(id, number, event)) if (*id, *number) == place => {
            Some(Entry::Event(event.clone()))
        }
        Entry::Event(BrokerEvent::Opened) => Some(Entry::Event(LogEvent::Reopened)),
        Entry::Event(_) => None,
    };
    entries.iter().filter_map(of).collect()
}

/// What a history says of topics, their configs and what groups have committed in them.
#[derive(Default)]
struct ExpectedTopics {
    /// The topics, and whether a deletion of each was begun.
    there: BTreeMap<Uuid, (String, bool)>,
    gone: BTreeSet<Uuid>,
    /// Names of topics that may have been made.
    begun: BTreeSet<String>,
    /// The values that a config may have.
    configs: BTreeMap<(Uuid, String), Vec<String>>,
    groups: BTreeSet<String>,
    commits: BTreeMap<(String, Uuid, i32), Commits>,
}

/// Where a group may be in a partition, `None` for nowhere.
#[derive(Clone, Debug, Default)]
struct Commits {
    now: Vec<Option<Offset>>,
    /// Where it was since all was last known to be on the device.
    before: Vec<Option<Offset>>,
}

impl Commits {
    /// The group is there and nowhere else, as was told at this level.
    fn settle(&mut self, at: Option<Offset>, level: Durability) {
        match level {
            Durability::PowerLoss => self.before.clear(),
            _ => self.before.append(&mut self.now),
        }
        self.now = vec![at];
    }
}

impl ExpectedTopics {
    fn from(entries: &[Entry<BrokerEvent>]) -> Self {
        let mut expected = Self::default();
        for entry in entries {
            match entry {
                Entry::Crash(choice) if choice.is_power_cut() => {
                    expected.commits.values_mut().for_each(|commits| commits.now.extend(commits.before.clone()));
                }
                Entry::Crash(_) => {}
                Entry::Event(event) => expected.apply(event),
            }
        }
        expected
    }

    fn apply(&mut self, event: &BrokerEvent) {
        match event {
            BrokerEvent::Log(..) | BrokerEvent::Opened => {}
            BrokerEvent::Creating(name) => drop(self.begun.insert(name.clone())),
            BrokerEvent::Created(name, id) => {
                self.begun.remove(name);
                self.there.insert(*id, (name.clone(), false));
            }
            BrokerEvent::Deleting(id) => self.there.entry(*id).or_default().1 = true,
            BrokerEvent::Deleted(id) => {
                self.there.remove(id);
                self.gone.insert(*id);
            }
            BrokerEvent::Altering(id, name, value) => {
                self.configs.entry((*id, name.clone())).or_default().push(value.clone());
            }
            BrokerEvent::Altered(id, name, value) => {
                self.configs.insert((*id, name.clone()), vec![value.clone()]);
            }
            BrokerEvent::Committing(group, id, number, at) => {
                self.groups.insert(group.clone());
                let commits = self.commits.entry((group.clone(), *id, *number)).or_default();
                if commits.now.is_empty() {
                    commits.now.push(None);
                }
                commits.now.push(Some(*at));
            }
            BrokerEvent::Committed(group, id, number, at, level) => {
                let commits = self.commits.entry((group.clone(), *id, *number)).or_default();
                commits.settle(Some(*at), *level);
            }
            BrokerEvent::CommitsInDoubt => {
                self.commits.values_mut().for_each(|commits| commits.now.extend(commits.before.clone()));
            }
            BrokerEvent::Found(topics, commits, level) => {
                for id in std::mem::take(&mut self.there).into_keys() {
                    if !topics.contains_key(&id) {
                        self.gone.insert(id);
                    }
                }
                self.there = topics.iter().map(|(id, name)| (*id, (name.clone(), false))).collect();
                self.begun.clear();
                for (place, known) in &mut self.commits {
                    known.settle(commits.get(place).copied(), *level);
                }
            }
            BrokerEvent::Closed => self.commits.values_mut().for_each(|commits| commits.before.clear()),
        }
    }

    fn compare_topics(&self, found: &BTreeMap<Uuid, String>) -> Result<(), String> {
        for (id, name) in found {
            if self.gone.contains(id) {
                return Err(format!("topic {name:?} with id {id} is there again, and was deleted"));
            }
            let known = self.there.get(id).map(|(name, _)| name);
            if known.is_none() && !name.starts_with("__") && !self.begun.contains(name) {
                return Err(format!("topic {name:?} with id {id} is there, and nobody made it"));
            }
            if known.is_some_and(|known| known != name) {
                return Err(format!("the topic with id {id} is called {name:?}, and was {known:?}"));
            }
        }
        match self.there.iter().find(|(id, (_, may_go))| !may_go && !found.contains_key(id)) {
            Some((id, (name, _))) => Err(format!("topic {name:?} with id {id} is lost; there are {found:?}")),
            None => Ok(()),
        }
    }

    fn compare_configs(&self, topic: &Topic) -> Result<(), String> {
        for ((_, name), values) in
            self.configs.range((topic.id(), String::new())..).take_while(|(k, _)| k.0 == topic.id())
        {
            let value = topic.config(name).map_err(|e| format!("config {name}: {e}"))?;
            if !values.contains(&value) {
                return Err(format!("{name} of topic {:?} is {value}, not one of {values:?}", topic.name()));
            }
        }
        Ok(())
    }

    /// Where the group is in the partition, whose log ends at `end`.
    fn compare_commit(
        &self,
        broker: &Broker,
        group: &str,
        place: Place,
        name: &TopicPartition,
        end: Offset,
    ) -> Result<Option<Offset>, String> {
        let found = broker.consumer_group(group).committed(name);
        let found = found.map_err(|e| format!("what group {group:?} committed in {name} is not known: {e}"))?;
        let found = found.map(|committed| committed.offset());
        let commits = self.commits.get(&(group.to_owned(), place.0, place.1)).cloned().unwrap_or_default();
        if found.is_some_and(|at| at > end) {
            return Err(format!("group {group:?} is at {found:?} of {name}, which ends at {end}"));
        }
        match commits.now.contains(&found) || (found.is_none() && commits.now.is_empty()) {
            true => Ok(found),
            false => Err(format!("group {group:?} is at {found:?} of {name}, not at one of {:?}", commits.now)),
        }
    }
}

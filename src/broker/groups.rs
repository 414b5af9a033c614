//! The broker's group verbs: each asks the pure coordinator, appends what it answers to
//! `__consumer_offsets` and wakes members.
//!
//! Write-ahead: what a commit changes is seen only once its records are as durable as that topic says.
//! The topic is made with the first group; a partition of it is replayed when its groups are first used. Appends
//! happen under the lock, so that memory follows the log's order; waiting happens outside.
//!
//! A partition of the topic that is not here or cannot be read takes only its own groups along.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::replay::Replay;
use super::{Broker, Inner, Signal, TopicEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind, Findings};
use crate::group::{
    CommittedOffset, Context, Effects, Generation, GroupCoordinator, GroupDescription, GroupListing, JoinRequest,
    LogAppend, Membership, Misplaced, OffsetCommit, Presence, partition_for_group,
};
use crate::log::{LogPosition, Quiet};
use crate::record::BatchBuilder;
use crate::topic::name::CONSUMER_OFFSETS;
use crate::topic::{self, CleanupPolicy, TopicConfig};
use crate::types::{Durability, Isolation, Offset, PartitionId, TopicPartition, Uuid};

/// All groups of a broker and those who want to hear of changes.
#[derive(Debug, Default)]
pub(super) struct Groups {
    state: Mutex<State>,
    watchers: Mutex<Vec<Weak<Signal>>>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    coordinator: GroupCoordinator,
    loaded: bool,
    /// `__consumer_offsets`, once it exists.
    log: Option<Arc<TopicEntry>>,
    /// Its partitions that are still to be replayed.
    unread: BTreeSet<PartitionId>,
    /// Its partitions with appends that nobody waits for.
    unsettled: BTreeSet<PartitionId>,
}

/// Records that were appended and are to be waited for.
struct Written {
    partition: Arc<topic::Partition>,
    position: LogPosition,
    offsets: RangeInclusive<Offset>,
}

impl Groups {
    /// Has everybody who waits look again.
    pub(super) fn notify(&self) {
        let _quiet = Quiet::new();
        self.watchers.lock().iter().filter_map(Weak::upgrade).for_each(|signal| signal.notify());
    }

    fn watch(&self, signal: &Arc<Signal>) {
        let mut watchers = self.watchers.lock();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(signal));
    }
}

impl State {
    /// Takes a partition of `__consumer_offsets` into memory, unless it is there.
    fn load(&mut self, number: PartitionId, findings: &Findings) -> Result<()> {
        let (Some(log), true) = (&self.log, self.unread.contains(&number)) else { return Ok(()) };
        let partition = log.partition(number)?;
        let mut replay = Replay::new(partition.name(), partition_count(log));
        replay.run(&partition)?;
        self.coordinator.absorb(replay.finish(findings));
        self.unread.remove(&number);
        Ok(())
    }

    /// Takes into memory what was appended up to and with `through`, and is there: a log that was mended, or took back what
    /// found no space, goes on above what it lost. What was `acknowledged` is.
    fn settle(
        &mut self,
        partition: &topic::Partition,
        through: Offset,
        acknowledged: &RangeInclusive<Offset>,
    ) -> Result<()> {
        let now = partition.era();
        let presence = |era, offset| match era == now || acknowledged.contains(&offset) {
            true => Presence::There,
            false => look_up(partition, offset),
        };
        self.coordinator.settle(partition.name().partition(), through, presence)
    }

    /// Takes into memory what has become durable while nobody waited, as far as that can be known now.
    fn settle_visible(&mut self) -> Result<()> {
        let Some(log) = self.log.clone() else { return Ok(()) };
        let mut settled = Ok(());
        for number in self.unsettled.clone() {
            // Whoever asks for a group of such a partition is told why it cannot be read.
            let Ok(partition) = log.partition(number) else { continue };
            let Ok(offsets) = partition.offsets() else { continue };
            let nothing = Offset::new(1)..=Offset::ZERO;
            settled = settled.and(self.settle(&partition, offsets.high_watermark + -1, &nothing));
            if !self.coordinator.has_staged(number) {
                self.unsettled.remove(&number);
            }
        }
        settled
    }
}

/// Whether a record that was appended in an earlier era of the log is there.
fn look_up(partition: &topic::Partition, offset: Offset) -> Presence {
    let read = partition.read(offset, 1, Isolation::ReadUncommitted);
    match read.and_then(|read| read.batches().next().transpose()) {
        Ok(Some(first)) if first.header().base_offset() <= offset => Presence::There,
        Ok(_) => Presence::Gone,
        // The log begins above it.
        Err(e) if matches!(e.kind(), ErrorKind::Overtaken | ErrorKind::OffsetOutOfRange) => Presence::Gone,
        Err(_) => Presence::Unknown,
    }
}

impl Inner {
    /// Runs `call` with the coordinator loaded and up to date, as far as partitions are here.
    ///
    /// # Errors
    /// When a partition of `__consumer_offsets` that is here cannot be read.
    pub(super) fn with_groups<T>(&self, call: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.with_state(|state| {
            for number in state.unread.clone() {
                let here = state.log.as_ref().is_some_and(|log| log.partition(number).is_ok());
                if here {
                    state.load(number, &self.context.findings)?;
                }
            }
            self.tell_misplaced(state);
            call(state)
        })
    }

    /// The same for one group, which needs only its own partition.
    fn with_group<T>(&self, group: &str, call: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.with_state(|state| {
            if self.catalog.is_derived() {
                // Any of them may prove that this group belongs elsewhere.
                for number in state.unread.clone() {
                    let _ = state.load(number, &self.context.findings);
                }
            }
            if let Some(log) = &state.log {
                let number = partition_for_group(group, partition_count(log));
                // Where it is not here, that is the answer: nobody knows what the group has committed.
                log.partition(number)?;
                state.load(number, &self.context.findings)?;
            }
            if !state.coordinator.knows(group) {
                self.check_places(state)?;
            }
            call(state)
        })
    }

    /// The same to change what is written of a group.
    fn change_group<T>(&self, group: &str, call: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.check_writable()?;
        self.with_group(group, |state| {
            self.check_places(state)?;
            call(state)
        })
    }

    /// Fails where the records of groups prove that `__consumer_offsets` has more partitions than are known here:
    /// a stock broker would look for a group elsewhere than we do.
    fn check_places(&self, state: &State) -> Result<()> {
        let Some(Misplaced { group, found_in, belongs_in }) = state.coordinator.misplaced() else { return Ok(()) };
        if !self.catalog.is_derived() {
            return Ok(());
        }
        let count = state.log.as_deref().map_or(0, partition_count);
        let message = format!(
            "{CONSUMER_OFFSETS} has more partitions than the {count} that are known here, so nobody knows where a group \
             belongs: {group:?} is in partition {found_in}, and of {count} it would be in {belongs_in}"
        );
        Err(Error::new(ErrorKind::Absent, message)
            .path(&self.context.root)
            .remedy("use groups in the log.dir that holds __cluster_metadata-0"))
    }

    /// All groups of the partitions that can be read; `unread` is told of the others.
    pub(super) fn readable_groups(&self, unread: impl Fn(Error)) -> Result<Vec<GroupListing>> {
        self.with_state(|state| {
            for number in state.unread.clone() {
                match state.load(number, &self.context.findings) {
                    // Told of at open.
                    Err(error) if error.kind() == ErrorKind::Absent => {}
                    loaded => loaded.unwrap_or_else(&unread),
                }
            }
            self.tell_misplaced(state);
            Ok(state.coordinator.list())
        })
    }

    fn tell_misplaced(&self, state: &State) {
        if let Err(error) = self.check_places(state) {
            let finding = Finding::new(FindingKind::NoCatalog, error.to_string());
            self.context.findings.add(finding.path(&self.context.root));
        }
    }

    fn with_state<T>(&self, call: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.check_open()?;
        let _quiet = Quiet::new();
        let mut state = self.groups.state.lock();
        if !state.loaded {
            state.log = self.registry.get(CONSUMER_OFFSETS);
            state.unread = (0..state.log.as_deref().map_or(0, partition_count)).map(PartitionId::new).collect();
            state.loaded = true;
        }
        state.settle_visible()?;
        call(&mut state)
    }
    /// Runs `call` on the coordinator with what it may ask about the world.
    fn in_context<T>(&self, call: impl FnOnce(&Context<'_>) -> Result<T>) -> Result<T> {
        let clock = &self.context.clock;
        let count = |topic: &str| {
            let found = self.registry.get(topic)?;
            i32::try_from(found.partition_count()).ok()
        };
        call(&Context { now: clock.now(), monotonic: clock.monotonic(), partitions: &count })
    }

    fn topic_id(&self, topic: &str) -> Option<Uuid> {
        self.registry.get(topic).map(|entry| entry.id)
    }

    fn offsets_topic(&self, state: &mut State) -> Result<Arc<TopicEntry>> {
        if let Some(log) = &state.log {
            return Ok(Arc::clone(log));
        }
        // As a stock broker makes it.
        let config = TopicConfig::new()
            .cleanup_policy(CleanupPolicy::Compact)
            .compression_of_producer()
            .segment_bytes(100 << 20);
        let log = match self.create(CONSUMER_OFFSETS, self.settings.offsets_partitions, &config) {
            Err(e) if e.kind() == ErrorKind::TopicExists => self.registry.get(CONSUMER_OFFSETS).ok_or(e)?,
            created => created?,
        };
        state.log = Some(Arc::clone(&log));
        Ok(log)
    }

    /// Appends one batch of records and stages it in memory.
    fn write(&self, state: &mut State, append: LogAppend) -> Result<Option<Written>> {
        if append.records.is_empty() {
            return Ok(None);
        }
        let log = self.offsets_topic(state)?;
        let number = partition_for_group(&append.group, partition_count(&log));
        let partition = log.partition(number)?;
        let now = self.context.clock.now();
        let mut batch = BatchBuilder::new();
        for record in &append.records {
            batch.push_parts(now, Some(&record.key), record.value.as_deref(), &[])?;
        }
        let appended = partition.append(&batch.finish()?)?;
        let (position, offsets) = (appended.position, appended.base_offset..=appended.last_offset);
        state.coordinator.stage(number, position.era(), appended.base_offset, append);
        state.unsettled.insert(number);
        Ok(Some(Written { partition, position, offsets }))
    }

    /// Carries out what follows from a change of membership; nobody waits for its records.
    fn carry_out(&self, state: &mut State, effects: Effects) -> Result<()> {
        for append in effects.appends {
            self.write(state, append)?;
        }
        if effects.wake {
            self.groups.notify();
        }
        Ok(())
    }

    /// Tells groups that topics came, went or grew.
    pub(super) fn rebalance(&self, state: &mut State) -> Result<()> {
        let effects = self.in_context(|context| state.coordinator.topics_changed(context))?;
        self.carry_out(state, effects)
    }

    /// Fails for a topic of which nothing is here but what groups committed in it, where that means that it is in
    /// another directory and not that it is gone.
    pub(super) fn check_not_elsewhere(&self, state: &State, topic: &str) -> Result<()> {
        if !self.catalog.is_derived() || state.coordinator.topic_deleted(topic)?.is_empty() {
            return Ok(());
        }
        let message = format!("groups have committed in topic {topic:?}, whose partitions are in another directory");
        Err(Error::new(ErrorKind::Absent, message)
            .path(&self.context.root)
            .remedy("use the log.dir that holds __cluster_metadata-0, or delete what the groups have committed in it"))
    }

    /// What all groups committed in a topic of that name means nothing any more. Waited for under the lock: no
    /// topic of that name may come, and nobody commit in it, in between. Synced at every level, as the catalog is: power
    /// must not bring them back under a new topic.
    pub(super) fn forget_offsets_of(&self, state: &mut State, topic: &str) -> Result<()> {
        let appends = state.coordinator.topic_deleted(topic)?;
        let written = appends.into_iter().filter_map(|append| self.write(state, append).transpose());
        for Written { partition, position, offsets } in written.collect::<Result<Vec<_>>>()? {
            partition.wait(position, Durability::PowerLoss)?;
            state.settle(&partition, *offsets.end(), &offsets)?;
        }
        Ok(())
    }

    /// Waits until records are as durable as `__consumer_offsets` says, then takes them into memory.
    fn await_written(&self, written: impl IntoIterator<Item = Written>) -> Result<()> {
        for Written { partition, position, offsets } in written {
            partition.wait(position, partition.level())?;
            let mut state = self.groups.state.lock();
            state.settle(&partition, *offsets.end(), &offsets)?;
        }
        Ok(())
    }
}

/// Membership.
impl Broker {
    /// Has `signal` notified when members of some group should look again, or topics changed.
    pub(crate) fn watch_groups(&self, signal: &Arc<Signal>) {
        self.inner.groups.watch(signal);
    }

    /// JoinGroup: a new member, or a known one that has given up its partitions or wants other topics.
    pub(crate) fn join_group(&self, group: &str, request: JoinRequest) -> Result<()> {
        let inner = &*self.inner;
        inner.change_group(group, |state| {
            let effects = inner.in_context(|context| state.coordinator.join(group, request, context))?;
            inner.carry_out(state, effects)
        })
    }

    /// Heartbeat: what a member finds when it looks at its group, and when, in monotonic time, the first
    /// member will have stayed away too long.
    pub(crate) fn check_in(&self, group: &str, member: &str) -> Result<(Membership, Option<Duration>)> {
        let inner = &*self.inner;
        inner.with_group(group, |state| {
            let found = inner.in_context(|context| state.coordinator.check_in(group, member, context))?;
            inner.carry_out(state, found.effects)?;
            Ok((found.membership, found.deadline))
        })
    }

    /// LeaveGroup.
    pub(crate) fn leave_group(&self, group: &str, member: &str) -> Result<()> {
        let inner = &*self.inner;
        inner.with_group(group, |state| {
            let effects = inner.in_context(|context| state.coordinator.leave(group, member, context))?;
            inner.carry_out(state, effects)
        })
    }
}

/// Committed offsets.
impl Broker {
    /// OffsetCommit, all or nothing. A negative generation and an empty member: from outside the group,
    /// allowed while it has no members. Answers when it is durable.
    pub(crate) fn commit_offsets(
        &self,
        group: &str,
        member: &str,
        generation: Generation,
        commits: &[OffsetCommit],
    ) -> Result<()> {
        let inner = &*self.inner;
        let written = inner.change_group(group, |state| {
            // Under the lock: a topic that goes takes what was committed in it along.
            let known = |commit: &OffsetCommit| {
                let topic = self.topic_entry(commit.partition.topic(), commit.topic_id)?;
                topic.partition(commit.partition.partition())?;
                Ok(OffsetCommit { topic_id: Some(topic.id), ..commit.clone() })
            };
            let commits = commits.iter().map(known).collect::<Result<Vec<_>>>()?;
            let now = inner.context.clock.now();
            let append = state.coordinator.commit(group, member, generation, &commits, now)?;
            inner.write(state, append)
        })?;
        inner.await_written(written)
    }

    /// OffsetFetch for one partition.
    pub(crate) fn committed_offset(&self, group: &str, partition: &TopicPartition) -> Result<Option<CommittedOffset>> {
        self.inner.with_group(group, |state| {
            let now = self.inner.topic_id(partition.topic());
            Ok(state.coordinator.committed(group, partition, now).cloned())
        })
    }

    /// OffsetFetch for all partitions.
    pub(crate) fn committed_offsets(&self, group: &str) -> Result<Vec<(TopicPartition, CommittedOffset)>> {
        self.inner.with_group(group, |state| {
            let all = state.coordinator.all_committed(group, |topic| self.inner.topic_id(topic));
            Ok(all.map(|(tp, committed)| (tp.clone(), committed.clone())).collect())
        })
    }

    /// OffsetDelete: forgets what a group committed in partitions that no member reads.
    pub(crate) fn delete_group_offsets(&self, group: &str, partitions: &[TopicPartition]) -> Result<()> {
        let inner = &*self.inner;
        let written = inner.change_group(group, |state| {
            let append = state.coordinator.delete_offsets(group, partitions)?;
            inner.write(state, append)
        })?;
        inner.await_written(written)
    }
}

/// What tools show, and deletion.
impl Broker {
    /// ListGroups: all groups by id, of every type. Where partitions of `__consumer_offsets` are in another
    /// directory, so are their groups.
    ///
    /// # Errors
    /// `Closed`; `Corrupt` or `Io` when `__consumer_offsets` cannot be read.
    pub fn groups(&self) -> Result<Vec<GroupListing>> {
        self.inner.with_groups(|state| Ok(state.coordinator.list()))
    }

    /// DescribeGroups.
    pub(crate) fn describe_group(&self, group: &str) -> Result<GroupDescription> {
        self.inner.with_group(group, |state| Ok(state.coordinator.describe(group)))
    }

    /// DeleteGroups: forgets a group without members, offsets and all.
    pub(crate) fn delete_group(&self, group: &str) -> Result<()> {
        let inner = &*self.inner;
        let written = inner.change_group(group, |state| {
            let append = state.coordinator.delete_group(group)?;
            inner.write(state, append)
        })?;
        inner.await_written(written)
    }
}

fn partition_count(log: &TopicEntry) -> i32 {
    i32::try_from(log.partition_count()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::storage::{MemoryStorage, Storage, read_file, replace_file};
    use crate::types::Start;

    fn open(storage: &MemoryStorage) -> Broker {
        Broker::builder("/d").storage(storage.clone()).open().unwrap()
    }

    /// Appends to the only partition of `__consumer_offsets`, as somebody else would have.
    fn write_raw(broker: &Broker, records: &[(&[u8], Option<&[u8]>)]) {
        let inner = &*broker.inner;
        let partition = inner.with_groups(|state| inner.offsets_topic(state)).unwrap().partition(0.into()).unwrap();
        let mut batch = BatchBuilder::new();
        for (key, value) in records {
            batch.push_parts(inner.context.clock.now(), Some(key), *value, &[]).unwrap();
        }
        let appended = partition.append(&batch.finish().unwrap()).unwrap();
        partition.wait(appended.position, partition.level()).unwrap();
    }

    fn commit(offset: i64) -> [OffsetCommit; 1] {
        let partition = TopicPartition::new("t", 0);
        let offset = Offset::new(offset);
        [OffsetCommit { partition, topic_id: None, offset, leader_epoch: None, metadata: "m".into() }]
    }

    fn read_values(broker: &Broker, group: &str) -> Result<Vec<String>> {
        let mut consumer = broker.consumer_group(group).consumer(["t"]).start(Start::Earliest).join()?;
        let records = consumer.poll(Duration::from_secs(20))?;
        consumer.commit()?;
        Ok(records.iter().map(|r| String::from_utf8(r.value().unwrap().to_vec()).unwrap()).collect())
    }

    #[test]
    fn groups_of_a_stock_broker_go_on_where_they_were_and_all_else_stays() {
        let storage = MemoryStorage::new();
        let broker = open(&storage);
        let topic = broker.topic("t").create().unwrap();
        topic.partition(0).unwrap().append_records(["a", "b", "c"]).unwrap();
        broker.commit_offsets("k", "", -1, &commit(2)).unwrap();
        let share: (&[u8], Option<&[u8]>) = (&[0, 11, 0, 1, b's'], Some(&[0, 0, 0, 0, 0, 1, 0]));
        let member: (&[u8], Option<&[u8]>) = (&[0, 5, 0, 1, b'k', 0, 1, b'm'], Some(&[0, 0]));
        let epoch: (&[u8], Option<&[u8]>) = (&[0, 3, 0, 1, b'k'], Some(&[0, 0, 0, 0, 0, 7, 0]));
        write_raw(&broker, &[share, member, epoch, (&[0, 99], Some(&[])), (&[0, 2, 0, 1, b'd'], Some(&[0, 9]))]);
        broker.close().unwrap();

        let broker = open(&storage);
        let types: Vec<_> = broker.groups().unwrap().iter().map(|g| format!("{} {}", g.id(), g.group_type())).collect();
        assert_eq!(types, ["d classic", "k consumer", "s share"]);
        let told = broker.findings();
        assert_eq!(told.iter().filter(|f| f.kind == FindingKind::UnknownRecord).count(), 2, "{told:?}");
        assert_eq!(read_values(&broker, "s").unwrap_err().kind(), ErrorKind::InconsistentGroupProtocol);
        assert_eq!(read_values(&broker, "k").unwrap(), ["c"]);
        broker.close().unwrap();

        let broker = open(&storage);
        let group = broker.consumer_group("k");
        let described = group.describe().unwrap();
        assert_eq!((described.group_type(), described.generation()), (crate::group::GroupType::Classic, 9));
        assert_eq!(group.committed(&TopicPartition::new("t", 0)).unwrap().unwrap().offset(), 3);
        assert_eq!(broker.consumer_group("s").describe().unwrap().group_type(), crate::group::GroupType::Share);
    }

    #[test]
    fn an_offset_of_a_topic_that_was_made_anew_is_not_its_own() {
        let broker = Broker::in_memory().unwrap();
        let make = || {
            let topic = broker.topic("t").create().unwrap();
            topic.partition(0).unwrap().append_records(["a", "b"]).unwrap();
            topic
        };
        let old = make();
        let mut consumer = broker.consumer_group("g").consumer(["t"]).join().unwrap();
        assert_eq!(consumer.poll(Duration::from_secs(20)).unwrap().len(), 2);
        let committed = |group: &str| broker.consumer_group(group).all_committed().unwrap().len();
        // A version 4 record of another topic id, as a stock broker writes it.
        let value = [&[0, 4, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0xff; 4], &[1], &[0; 8], &[1, 0, 16], &[9; 16]].concat();
        let key = [0, 1, 0, 1, b'f', 0, 1, b't', 0, 0, 0, 0];
        write_raw(&broker, &[(&key, Some(&value))]);
        old.delete().unwrap();
        let new = make();
        // Whoever read the old one may still try to commit: it names the topic that it read.
        let stale = [OffsetCommit { topic_id: Some(old.id()), ..commit(2)[0].clone() }];
        let refused = broker.commit_offsets("h", "", -1, &stale).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::TopicDeleted);
        consumer.commit().unwrap();
        assert_eq!([committed("g"), committed("h"), committed("f")], [0, 0, 0]);
        assert_eq!(new.partition_count(), 1);
    }

    #[test]
    fn groups_of_a_partition_that_is_elsewhere_say_so_and_the_others_work() {
        let storage = MemoryStorage::new();
        let open = || {
            let builder = Broker::builder("/d").storage(storage.clone());
            builder.config("offsets.topic.num.partitions", "2").open().unwrap()
        };
        let broker = open();
        broker.topic("t").create().unwrap();
        let in_partition = |number: i32| (0..9).map(|n| format!("g{n}")).find(|g| partition_for_group(g, 2) == number);
        let groups = [in_partition(0).unwrap(), in_partition(1).unwrap()];
        groups.iter().for_each(|group| broker.commit_offsets(group, "", -1, &commit(0)).unwrap());
        broker.close().unwrap();
        // The directory becomes another one of the same broker, which has the first partition alone.
        let properties = Path::new("/d/meta.properties");
        let text = String::from_utf8(read_file(&storage, properties, 1 << 20).unwrap().unwrap()).unwrap();
        let other_directory = |line: &str| match line.starts_with("directory.id=") {
            true => "directory.id=5L6g3nShT-eMCtK--X86sw\n".to_owned(),
            false => format!("{line}\n"),
        };
        let text: String = text.lines().map(other_directory).collect();
        replace_file(&storage, properties, text.as_bytes()).unwrap();
        storage.remove_dir_all(Path::new("/d/__consumer_offsets-1")).unwrap();

        let broker = open();
        let [here, elsewhere] = groups.map(|group| broker.consumer_group(group));
        let at = TopicPartition::new("t", 0);
        assert_eq!(here.committed(&at).unwrap().unwrap().offset(), 0);
        // Not a group without offsets, which would read everything again.
        let kind = |e: Error| e.kind();
        assert_eq!(elsewhere.committed(&at).map_err(kind), Err(ErrorKind::Absent));
        assert_eq!(elsewhere.consumer(["t"]).join().map(drop).map_err(kind), Err(ErrorKind::Absent));
        assert_eq!(elsewhere.describe().map(drop).map_err(kind), Err(ErrorKind::Absent));
        assert_eq!(broker.groups().unwrap().len(), 1);
        drop(here.consumer(["t"]).join().unwrap());
    }

    #[test]
    fn a_topic_of_another_directory_is_not_made_anew_over_what_groups_committed_in_it() {
        let storage = MemoryStorage::new();
        let broker = open(&storage);
        broker.topic("t").create().unwrap();
        broker.commit_offsets("g", "", -1, &commit(0)).unwrap();
        broker.close().unwrap();
        storage.remove_dir_all(Path::new("/d/__cluster_metadata-0")).unwrap();

        let broker = open(&storage);
        let error = broker.topic("t").open_or_create().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Absent, "{error}");
        assert_eq!(broker.consumer_group("g").all_committed().unwrap().len(), 1);
        assert!(storage.metadata(Path::new("/d/__cluster_metadata-0")).is_err());
        broker.topic("new").create().unwrap();
    }

    #[test]
    fn an_inspection_tells_the_groups_of_the_partitions_that_can_be_read() {
        let storage = MemoryStorage::new();
        let builder = || Broker::builder("/d").storage(storage.clone()).config("offsets.topic.num.partitions", "2");
        let broker = builder().open().unwrap();
        broker.topic("t").create().unwrap();
        let in_partition = |number: i32| (0..9).map(|n| format!("g{n}")).find(|g| partition_for_group(g, 2) == number);
        let [sound, lost] = [0, 1].map(|number| in_partition(number).unwrap());
        [&sound, &lost].iter().for_each(|group| broker.commit_offsets(group, "", -1, &commit(0)).unwrap());
        broker.close().unwrap();
        let metadata = Path::new("/d/__consumer_offsets-1/partition.metadata");
        replace_file(&storage, metadata, b"version: 0\ntopic_id: 5L6g3nShT-eMCtK--X86sw\n").unwrap();

        let found = builder().inspect().unwrap();
        assert_eq!(found.groups.iter().map(|group| &group.id).collect::<Vec<_>>(), [&sound]);
        assert_eq!(found.groups[0].offsets.len(), 1);
        assert!(found.findings.iter().any(|f| f.message.starts_with("groups cannot be read")), "{found}");
    }

    /// As the second log.dir of a broker looks: no metadata log, and not the last partitions of the topic.
    #[test]
    fn a_group_in_a_partition_that_is_not_its_own_proves_that_the_count_is_wrong() {
        let storage = MemoryStorage::new();
        let broker = Broker::builder("/d").storage(storage.clone()).config("offsets.topic.num.partitions", "3");
        let broker = broker.open().unwrap();
        broker.topic("t").create().unwrap().send("x").unwrap();
        let place = |group: &str| [3, 2].map(|count| partition_for_group(group, count).get());
        let find = |at: [i32; 2]| (0..99).map(|n| format!("g{n}")).find(|group| place(group) == at).unwrap();
        let (sound, misplaced, unknown) = (find([0, 0]), find([1, 0]), find([2, 1]));
        for group in [&sound, &misplaced, &unknown] {
            broker.commit_offsets(group, "", -1, &commit(1)).unwrap();
        }
        broker.close().unwrap();
        for gone in ["__cluster_metadata-0", "__consumer_offsets-2"] {
            storage.remove_dir_all(&Path::new("/d").join(gone)).unwrap();
        }

        for visit in 0..2 {
            let broker = open(&storage);
            let at = TopicPartition::new("t", 0);
            let committed = |group: &str| broker.consumer_group(group).committed(&at).map(|found| found.is_some());
            assert!(committed(&sound).unwrap());
            for group in [&sound, &misplaced, &unknown] {
                let error = broker.commit_offsets(group, "", -1, &commit(1)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Absent);
                assert!(error.to_string().contains(&format!("{misplaced:?} is in partition 1")), "{error}");
                assert_eq!(read_values(&broker, group).unwrap_err().kind(), ErrorKind::Absent);
            }
            // Not as if they had never committed.
            assert_eq!(committed(&misplaced).unwrap_err().kind(), ErrorKind::Absent);
            assert_eq!(committed(&unknown).unwrap_err().kind(), ErrorKind::Absent);
            assert_eq!(broker.groups().unwrap().len(), 1, "visit {visit}");
            assert!(broker.findings().iter().any(|found| found.message.contains("more partitions than the 2")));
            // What was derived is written down, and no surer for that.
            broker.topic(format!("new-{visit}")).create().unwrap();
            broker.close().unwrap();
        }
    }

    #[test]
    fn damage_costs_the_commits_in_it_and_no_others() {
        let storage = MemoryStorage::new();
        let broker = open(&storage);
        broker.topic("t").create().unwrap();
        for (group, offset) in [("g", 1), ("h", 2), ("h", 3), ("g", 4)] {
            broker.commit_offsets(group, "", -1, &commit(offset)).unwrap();
        }
        broker.close().unwrap();
        let path = Path::new("/d/__consumer_offsets-0/00000000000000000000.log");
        let mut bytes = read_file(&storage, path, 1 << 20).unwrap().unwrap();
        // All batches are of one size; the third loses a bit.
        let third = bytes.len() / 4 * 2 + 70;
        bytes[third] ^= 1;
        replace_file(&storage, path, &bytes).unwrap();

        let broker = open(&storage);
        let committed = |group: &str| {
            let found = broker.consumer_group(group).committed(&TopicPartition::new("t", 0)).unwrap();
            found.map(|committed| committed.offset().get())
        };
        assert_eq!([committed("g"), committed("h")], [Some(4), Some(2)]);
        let lost = broker.findings().into_iter().find(|f| f.message.contains("what groups committed here is lost"));
        assert_eq!(lost.unwrap().offsets, Some(Offset::new(2)..Offset::new(3)));
    }

    #[test]
    fn a_read_only_directory_tells_its_groups_and_takes_nothing() {
        let storage = MemoryStorage::new();
        let broker = open(&storage);
        broker.topic("t").create().unwrap();
        broker.commit_offsets("g", "", -1, &commit(0)).unwrap();
        broker.close().unwrap();
        let voters = br#"{"currentVoters":[{"voterId":1},{"voterId":4}],"data_version":0}"#;
        replace_file(&storage, Path::new("/d/__cluster_metadata-0/quorum-state"), voters).unwrap();
        let broker = open(&storage);
        let group = broker.consumer_group("g");
        let found = group.committed(&TopicPartition::new("t", 0)).unwrap().unwrap();
        assert_eq!((found.offset(), found.metadata()), (Offset::ZERO, "m"));
        assert_eq!(broker.groups().unwrap().len(), 1);
        assert_eq!(read_values(&broker, "g").unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(broker.commit_offsets("g", "", -1, &commit(1)).unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(group.delete().unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(group.describe().unwrap().members().len(), 0);
    }
}

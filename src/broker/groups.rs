//! The broker's group verbs: each asks the pure coordinator, appends what it answers to
//! `__consumer_offsets` and wakes members.
//!
//! Write-ahead: what a commit changes is seen only once its records are as durable as that topic says.
//! The topic is made with the first group; a partition of it is replayed when its groups are first used. Appends
//! happen under the lock, so that memory follows the log's order; waiting happens outside.
//!
//! A partition of the topic that is not here or cannot be read takes only its own groups along.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Broker, Inner, Signal, TopicEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind, Findings};
use crate::group::{
    CommittedOffset, Context, Effects, Generation, GroupCoordinator, GroupDescription, GroupListing, JoinRequest,
    LogAppend, Membership, OffsetCommit, Unread, partition_for_group,
};
use crate::log::LogPosition;
use crate::record::{BatchBuilder, ControlType, RecordBatch};
use crate::topic::name::CONSUMER_OFFSETS;
use crate::topic::{self, CleanupPolicy, TopicConfig};
use crate::types::{Isolation, Offset, PartitionId, TopicPartition, Uuid};

/// Bytes read at a time while replaying.
const REPLAY_BYTES: usize = 4 << 20;
/// Records of one partition that are reported one by one; of more there is one count.
const UNREAD_TOLD: usize = 16;

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
    last: Offset,
}

impl Groups {
    /// Has everybody who waits look again.
    pub(super) fn notify(&self) {
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
        let replayed = Replay::of(&*log.partition(number)?, partition_count(log))?.finish(findings);
        self.coordinator.absorb(replayed);
        self.unread.remove(&number);
        Ok(())
    }

    /// Takes into memory what has become durable while nobody waited.
    fn settle_visible(&mut self) -> Result<()> {
        let Some(log) = self.log.clone() else { return Ok(()) };
        for number in std::mem::take(&mut self.unsettled) {
            let offsets = log.partition(number)?.offsets()?;
            self.coordinator.settle(number, offsets.high_watermark + -1)?;
            if offsets.high_watermark < offsets.end {
                self.unsettled.insert(number);
            }
        }
        Ok(())
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
            call(state)
        })
    }

    /// The same for one group, which needs only its own partition.
    fn with_group<T>(&self, group: &str, call: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.with_state(|state| {
            if let Some(log) = &state.log {
                let number = partition_for_group(group, partition_count(log));
                // Where it is not here, that is the answer: nobody knows what the group has committed.
                log.partition(number)?;
                state.load(number, &self.context.findings)?;
            }
            call(state)
        })
    }

    fn with_state<T>(&self, call: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.check_open()?;
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
        state.coordinator.stage(number, appended.base_offset, append);
        state.unsettled.insert(number);
        Ok(Some(Written { partition, position: appended.position, last: appended.last_offset }))
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

    /// What all groups committed in a topic of that name means nothing any more. Waited for under the lock: no
    /// topic of that name may come, and nobody commit in it, in between.
    pub(super) fn forget_offsets_of(&self, state: &mut State, topic: &str) -> Result<()> {
        let appends = state.coordinator.topic_deleted(topic)?;
        let written = appends.into_iter().filter_map(|append| self.write(state, append).transpose());
        for Written { partition, position, last } in written.collect::<Result<Vec<_>>>()? {
            partition.wait(position, partition.level())?;
            state.coordinator.settle(partition.name().partition(), last)?;
        }
        Ok(())
    }

    /// Waits until records are as durable as `__consumer_offsets` says, then takes them into memory.
    fn await_written(&self, written: impl IntoIterator<Item = Written>) -> Result<()> {
        for Written { partition, position, last } in written {
            partition.wait(position, partition.level())?;
            let mut state = self.groups.state.lock();
            state.coordinator.settle(partition.name().partition(), last)?;
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
        inner.check_writable()?;
        inner.with_group(group, |state| {
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
        inner.check_writable()?;
        let written = inner.with_group(group, |state| {
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
        inner.check_writable()?;
        let written = inner.with_group(group, |state| {
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
        inner.check_writable()?;
        let written = inner.with_group(group, |state| {
            let append = state.coordinator.delete_group(group)?;
            inner.write(state, append)
        })?;
        inner.await_written(written)
    }
}

fn partition_count(log: &TopicEntry) -> i32 {
    i32::try_from(log.partition_count()).unwrap_or(i32::MAX)
}

/// One partition of `__consumer_offsets` on its way into memory, batch by batch.
struct Replay {
    coordinator: GroupCoordinator,
    name: TopicPartition,
    /// Of the topic: a group's records count in its own partition and nowhere else.
    partitions: i32,
    told: Vec<Finding>,
    untold: usize,
}

impl Replay {
    fn of(partition: &topic::Partition, partitions: i32) -> Result<Self> {
        let (coordinator, name) = (GroupCoordinator::default(), partition.name().clone());
        let mut replay = Self { coordinator, name, partitions, told: Vec::new(), untold: 0 };
        let offsets = partition.offsets()?;
        let mut next = offsets.log_start;
        while next < offsets.high_watermark {
            let read = partition.read(next, REPLAY_BYTES, Isolation::ReadUncommitted)?;
            for batch in read.batches() {
                replay.batch(&batch?);
            }
            if read.next_offset() <= next {
                break;
            }
            next = read.next_offset();
        }
        Ok(replay)
    }

    /// Says what was not understood and hands over the rest.
    fn finish(self, findings: &Findings) -> GroupCoordinator {
        self.told.into_iter().for_each(|finding| findings.add(finding));
        if self.untold > 0 {
            let message =
                format!("{} more records of groups are not understood; they were left as they are", self.untold);
            findings.add(Finding::new(FindingKind::UnknownRecord, message).partition(self.name));
        }
        self.coordinator
    }

    fn batch(&mut self, batch: &RecordBatch) {
        let mut at = batch.base_offset();
        if let Err(error) = self.records(batch, &mut at) {
            // Behind damage no record of the batch can be found.
            self.unread(at..batch.next_offset(), None, &error);
        }
    }

    /// `at`: the offset up to which everything was taken in.
    fn records(&mut self, batch: &RecordBatch, at: &mut Offset) -> Result<()> {
        let (header, number) = (batch.header(), self.name.partition());
        let producer = header.producer_id();
        if header.is_control() {
            match batch.control_type()? {
                Some(ControlType::Commit) => self.coordinator.end_transaction(number, producer, true),
                Some(ControlType::Abort) => self.coordinator.end_transaction(number, producer, false),
                _ => {}
            }
            return Ok(());
        }
        let in_transaction = header.is_transactional().then_some(producer);
        for record in batch.decode()?.iter() {
            let record = record?;
            *at = record.offset().next();
            let Some(key) = record.key() else { continue };
            if let Some(Unread { offset, group, error }) =
                self.coordinator.replay(number, self.partitions, in_transaction, record.offset(), key, record.value())
            {
                self.unread(offset..offset.next(), group, &error);
            }
        }
        Ok(())
    }

    fn unread(&mut self, offsets: Range<Offset>, group: Option<String>, error: &Error) {
        if self.told.len() >= UNREAD_TOLD {
            self.untold += 1;
            return;
        }
        let of = group.map(|group| format!(" of group {group:?}")).unwrap_or_default();
        let message = format!("a record{of} is not understood and was left as it is: {error}");
        let finding = Finding::new(FindingKind::UnknownRecord, message);
        self.told.push(finding.partition(self.name.clone()).offsets(offsets));
    }
}

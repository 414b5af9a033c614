//! All groups of a broker: their state machines and their committed offsets.
//!
//! Write-ahead, and one way into memory. An operation that changes what is stored checks its rules
//! and answers [`LogAppend`]s without changing anything stored. Under the lock of the coordinator the broker
//! appends each to the group's partition of `__consumer_offsets` and hands it back with its offset
//! ([`GroupCoordinator::stage`]). Once the log is durable far enough, [`GroupCoordinator::settle`]
//! puts what was staged into memory, in log order, through the function that also replays the log at
//! open. So a committed offset is visible exactly when it would be found again.
//!
//! What is not understood in the log is told and left there; its group goes on with what is known.
//!
//! Membership is different: it lives in memory, and its records only tell other readers about it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::describe::{GroupDescription, GroupListing, MemberDescription};
use super::entry::{Change, Entry, Latest};
use super::key::{self, GroupType, Key};
use super::offsets::CommittedOffset;
use super::state::{Context, Effect, Event, Generation, Group, GroupState, JoinRequest, Membership};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{LeaderEpoch, Offset, PartitionId, ProducerId, Timestamp, TopicPartition, Uuid};

/// `offset.metadata.max.bytes`, which Kafka counts in UTF-16 units.
const MAX_METADATA_CHARS: usize = 4096;
/// The largest group or client id; leaves room for the id that is made from it in a string of the format.
const MAX_ID_BYTES: usize = i16::MAX as usize - 64;

/// One record of `__consumer_offsets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRecord {
    pub(crate) key: Vec<u8>,
    /// None is a tombstone.
    pub(crate) value: Option<Vec<u8>>,
    /// The topic of a committed offset. The record itself, of a version that Kafka 3.9 reads, cannot say it.
    topic_id: Option<Uuid>,
}

impl LogRecord {
    pub(crate) fn new(key: Vec<u8>, value: Option<Vec<u8>>) -> Self {
        Self { key, value, topic_id: None }
    }
}

/// Records to be appended as one batch to the group's partition of `__consumer_offsets`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogAppend {
    pub(crate) group: String,
    pub(crate) records: Vec<LogRecord>,
}

/// What follows from a change of membership.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// To be appended; nobody has to wait for them.
    pub(crate) appends: Vec<LogAppend>,
    /// Members that wait in a poll shall look again.
    pub(crate) wake: bool,
}

/// What a member finds when it looks at its group, and what its look has set off.
#[derive(Debug)]
pub(crate) struct CheckIn {
    pub(crate) membership: Membership,
    pub(crate) effects: Effects,
    /// When, in monotonic time, the first member of the group will have stayed away too long.
    pub(crate) deadline: Option<Duration>,
}

/// One offset to commit.
#[derive(Clone, Debug)]
pub(crate) struct OffsetCommit {
    pub(crate) partition: TopicPartition,
    /// The topic's id, where the committer knows which of that name it read.
    pub(crate) topic_id: Option<Uuid>,
    pub(crate) offset: Offset,
    pub(crate) leader_epoch: Option<LeaderEpoch>,
    pub(crate) metadata: String,
}

/// The partition of `__consumer_offsets`, of `partitions`, that holds `group`: Java's string hash, its
/// absolute value, the remainder.
pub(crate) fn partition_for_group(group: &str, partitions: i32) -> PartitionId {
    let hash = group.encode_utf16().fold(0_i32, |h, unit| h.wrapping_mul(31).wrapping_add(i32::from(unit)));
    PartitionId::new(hash.checked_abs().unwrap_or(0) % partitions.max(1))
}

/// A record that could not be understood.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) offset: Offset,
    /// Where its key still tells.
    pub(crate) group: Option<String>,
    pub(crate) error: Error,
}

#[derive(Debug)]
struct Staged {
    /// Of the log, when it was appended.
    era: u64,
    offset: Offset,
    record: LogRecord,
}

/// What became of a record that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    There,
    /// The log lost it, or took it back.
    Gone,
    /// It cannot be read now.
    Unknown,
}

#[derive(Debug, Default)]
pub(crate) struct GroupCoordinator {
    groups: BTreeMap<String, Entry>,
    /// Appended but not yet known to be durable, per partition of `__consumer_offsets`.
    staged: HashMap<PartitionId, VecDeque<Staged>>,
    /// What open transactions hold back, by the partition of `__consumer_offsets` and the producer.
    open_transactions: HashMap<(PartitionId, ProducerId), BTreeMap<String, BTreeSet<TopicPartition>>>,
    misplaced: Option<Misplaced>,
}

/// A group with a record in a partition of `__consumer_offsets` that is not the group's, as many as there are now.
#[derive(Clone, Debug)]
pub(crate) struct Misplaced {
    pub(crate) group: String,
    pub(crate) found_in: PartitionId,
    pub(crate) belongs_in: PartitionId,
}

/// Membership.
impl GroupCoordinator {
    /// Adds a member, or tells that a known one has given up its partitions or wants other topics.
    pub(crate) fn join(&mut self, group: &str, request: JoinRequest, context: &Context<'_>) -> Result<Effects> {
        check_id("group", group)?;
        check_id("client", &request.client_id)?;
        let entry = self.groups.entry(group.to_owned()).or_insert_with(|| Entry::new(group));
        if matches!(entry.group_type(), GroupType::Share | GroupType::Streams) {
            return Err(other_type(group, entry, "consumers cannot join it"));
        }
        let effects = entry.group.on(Event::Join(request), context)?;
        self.to_log(group, effects)
    }

    /// Removes a member at once.
    pub(crate) fn leave(&mut self, group: &str, member: &str, context: &Context<'_>) -> Result<Effects> {
        let effects = self.entry(group)?.group.on(Event::Leave { member }, context)?;
        self.to_log(group, effects)
    }

    /// A member looks at its group, at the start of a poll and while it waits in one. Whoever looks
    /// also sees to it that members that stayed away too long are removed.
    pub(crate) fn check_in(&mut self, group: &str, member: &str, context: &Context<'_>) -> Result<CheckIn> {
        let state = &mut self.entry(group)?.group;
        state.see(member, context.monotonic)?;
        let effects = state.on(Event::Tick, context)?;
        let membership = state.take(member)?;
        let deadline = state.next_deadline();
        Ok(CheckIn { membership, effects: self.to_log(group, effects)?, deadline })
    }

    /// Topics were created, deleted or given more partitions: groups that read them rebalance.
    pub(crate) fn topics_changed(&mut self, context: &Context<'_>) -> Result<Effects> {
        let mut all = Effects::default();
        let ids: Vec<_> = self.groups.keys().cloned().collect();
        for id in ids {
            let effects = self.entry(&id)?.group.on(Event::TopicsChanged, context)?;
            let Effects { appends, wake } = self.to_log(&id, effects)?;
            all.appends.extend(appends);
            all.wake |= wake;
        }
        Ok(all)
    }

    fn to_log(&self, id: &str, effects: Vec<Effect>) -> Result<Effects> {
        let mut result = Effects::default();
        for effect in effects {
            match effect {
                Effect::Wake => result.wake = true,
                Effect::Store(metadata) => {
                    // A group that the newer protocol left behind is deleted first, as a stock broker does.
                    let left_behind = self.groups.get(id).map(Entry::typed_keys_to_delete).unwrap_or_default();
                    let mut append = tombstones(id, left_behind);
                    append.records.push(LogRecord::new(key::group_key(id)?, Some(metadata.encode()?)));
                    result.appends.push(append);
                }
            }
        }
        Ok(result)
    }
}

/// Committed offsets.
impl GroupCoordinator {
    /// Checks a commit of `member` in `generation` and says what to append. Negative generation and
    /// empty member: a commit without membership. That the topics exist is the caller's to check.
    pub(crate) fn commit(
        &self,
        group: &str,
        member: &str,
        generation: Generation,
        commits: &[OffsetCommit],
        now: Timestamp,
    ) -> Result<LogAppend> {
        check_id("group", group)?;
        match self.groups.get(group) {
            Some(entry) if entry.group_type() == GroupType::Share => {
                return Err(other_type(group, entry, "its progress is no committed offset"));
            }
            Some(entry) => entry.group.check_commit(member, generation)?,
            None if generation < 0 => {}
            None => {
                let message = format!("commit of generation {generation} in group {group:?}, which does not exist");
                return Err(Error::new(ErrorKind::IllegalGeneration, message));
            }
        }
        let records = commits.iter().map(|commit| commit_record(group, commit, now)).collect::<Result<_>>()?;
        Ok(LogAppend { group: group.to_owned(), records })
    }

    /// What the group committed in a partition of the topic that has the id now, where there is one.
    /// What was committed in an earlier topic of that name is not told; it stays in the log until somebody
    /// commits anew or deletes it, as with a stock broker.
    pub(crate) fn committed(&self, group: &str, at: &TopicPartition, now: Option<Uuid>) -> Option<&CommittedOffset> {
        let (_, committed) = self.groups.get(group)?.offsets.get(at)?;
        committed.is_of(now).then_some(committed)
    }

    /// All of that; `now` tells a topic's id.
    pub(crate) fn all_committed(
        &self,
        group: &str,
        now: impl Fn(&str) -> Option<Uuid>,
    ) -> impl Iterator<Item = (&TopicPartition, &CommittedOffset)> {
        let offsets = self.groups.get(group).into_iter().flat_map(|e| &e.offsets);
        let told = offsets.map(|(tp, (_, committed))| (tp, committed));
        told.filter(move |(tp, committed)| committed.is_of(now(tp.topic())))
    }

    /// Forgets a group without members, offsets and all.
    pub(crate) fn delete_group(&self, group: &str) -> Result<LogAppend> {
        let entry = self.known(group)?;
        if entry.group_type() == GroupType::Share {
            return Err(other_type(group, entry, "a stock broker has to delete it"));
        }
        if !entry.group.is_empty() {
            return Err(Error::new(ErrorKind::GroupNotEmpty, format!("group {group:?} has members"))
                .remedy("close its consumers first"));
        }
        let mut keys = self.offset_keys(group, |_| true)?;
        keys.extend(entry.typed_keys_to_delete());
        if entry.group_type() == GroupType::Classic || entry.classic || self.has_staged_metadata(group) {
            keys.push(key::group_key(group)?);
        }
        Ok(tombstones(group, keys))
    }

    /// Forgets what a group committed in `partitions`, of topics that no member subscribes to.
    pub(crate) fn delete_offsets(&self, group: &str, partitions: &[TopicPartition]) -> Result<LogAppend> {
        let entry = self.known(group)?;
        if let Some(tp) = partitions.iter().find(|tp| entry.group.subscribes_to(tp.topic())) {
            return Err(Error::new(
                ErrorKind::GroupNotEmpty,
                format!("group {group:?} has members that read the topic"),
            )
            .partition(tp.clone())
            .remedy("close its consumers first"));
        }
        Ok(tombstones(group, self.offset_keys(group, |tp| partitions.contains(tp))?))
    }

    /// A topic is gone: what groups committed in it must not apply to a later topic of its name.
    pub(crate) fn topic_deleted(&self, topic: &str) -> Result<Vec<LogAppend>> {
        let of_group = |id: &String| Ok(tombstones(id, self.offset_keys(id, |tp| tp.topic() == topic)?));
        let mut appends = self.groups.keys().map(of_group).collect::<Result<Vec<_>>>()?;
        appends.retain(|append| !append.records.is_empty());
        Ok(appends)
    }

    /// The keys of all offsets that a group has committed, those of open transactions and in staged
    /// records included: a tombstone must also end what becomes visible only after it was written.
    fn offset_keys(&self, group: &str, wanted: impl Fn(&TopicPartition) -> bool) -> Result<Vec<Vec<u8>>> {
        let settled = self.groups.get(group).into_iter().flat_map(|e| e.partitions().cloned());
        let staged = self.staged_keys().filter_map(|key| match key {
            Key::Offset { group: of, partition } if of == group => Some(partition),
            _ => None,
        });
        let partitions: BTreeSet<_> = settled.chain(staged).filter(wanted).collect();
        partitions.iter().map(|tp| key::offset_key(group, tp)).collect()
    }

    fn has_staged_metadata(&self, group: &str) -> bool {
        self.staged_keys().any(|key| matches!(key, Key::Group { group: of } if of == group))
    }

    fn staged_keys(&self) -> impl Iterator<Item = Key> {
        self.staged.values().flatten().filter_map(|staged| Key::decode(&staged.record.key).ok())
    }
}

/// The way of records into memory.
impl GroupCoordinator {
    /// Notes that `append` was written to `partition` from `base` on, in this era of the log. Calls come in log order.
    pub(crate) fn stage(&mut self, partition: PartitionId, era: u64, base: Offset, append: LogAppend) {
        if let Some(entry) = self.groups.get_mut(&append.group) {
            append.records.iter().filter(|r| r.value.is_none()).for_each(|r| entry.forget_typed(&r.key));
        }
        let staged = (0..).zip(append.records).map(|(i, record)| Staged { era, offset: base + i, record });
        let all = self.staged.entry(partition).or_default();
        // The log gives an offset again after what had it was taken back: there was no space to write it.
        all.truncate(all.partition_point(|s| s.offset < base));
        all.extend(staged);
    }

    /// Makes everything staged in `partition` up to and with `through` visible that is in the log, by its era and offset.
    /// What cannot be read now stays staged, and is overtaken by what has the same key: so it is in a compacted topic.
    pub(crate) fn settle(
        &mut self,
        partition: PartitionId,
        through: Offset,
        presence: impl Fn(u64, Offset) -> Presence,
    ) -> Result<()> {
        let Some(staged) = self.staged.get_mut(&partition) else { return Ok(()) };
        let due: Vec<_> = staged.drain(..staged.partition_point(|s| s.offset <= through)).collect();
        let (mut unknown, mut settled) = (Vec::new(), Ok(()));
        for one in due {
            match presence(one.era, one.offset) {
                Presence::There => {}
                Presence::Gone => continue,
                Presence::Unknown => {
                    unknown.push(one);
                    continue;
                }
            }
            let Staged { offset, record, .. } = one;
            unknown.retain(|earlier: &Staged| earlier.record.key != record.key);
            let (decoded, error) = Change::decode(&record.key, record.value.as_deref());
            if let Some((group, change)) = decoded {
                self.apply(&group, offset, change.in_topic(record.topic_id));
            }
            settled = settled.and(error.map_or(Ok(()), Err));
        }
        let staged = self.staged.entry(partition).or_default();
        unknown.into_iter().rev().for_each(|one| staged.push_front(one));
        settled
    }

    /// Whether the end of something that was written to `partition` is not known.
    pub(crate) fn has_staged(&self, partition: PartitionId) -> bool {
        self.staged.get(&partition).is_some_and(|staged| !staged.is_empty())
    }

    /// Takes in one record of the log, in log order, when the broker opens. `partitions`: how many the log
    /// has; a group is looked up in its own and nowhere else, so records of it in another mean nothing.
    /// `in_transaction`: the producer of a transactional batch. Answers what was not understood.
    pub(crate) fn replay(
        &mut self,
        partition: PartitionId,
        partitions: i32,
        in_transaction: Option<ProducerId>,
        offset: Offset,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Option<Unread> {
        let (decoded, error) = Change::decode(key, value);
        let decoded = decoded.filter(|(group, _)| {
            let belongs_in = partition_for_group(group, partitions);
            if belongs_in != partition {
                let misplaced = || Misplaced { group: group.clone(), found_in: partition, belongs_in };
                self.misplaced.get_or_insert_with(misplaced);
            }
            belongs_in == partition
        });
        let group = decoded.as_ref().map(|(group, _)| group.clone());
        match (decoded, in_transaction) {
            (Some((group, Change::Offset { partition: of, committed: Latest::Is(committed) })), Some(producer)) => {
                let held_back = self.open_transactions.entry((partition, producer)).or_default();
                held_back.entry(group.clone()).or_default().insert(of.clone());
                self.entry_or_new(&group).hold_back(producer, of, (offset, committed));
            }
            (Some((group, change)), _) => self.apply(&group, offset, change),
            (None, _) => {}
        }
        error.map(|error| Unread { offset, group, error })
    }

    /// A marker ends the transaction of its producer, whatever its epoch (KIP-890 raises it with each).
    pub(crate) fn end_transaction(&mut self, partition: PartitionId, producer: ProducerId, committed: bool) {
        for (group, partitions) in self.open_transactions.remove(&(partition, producer)).unwrap_or_default() {
            if let Some(entry) = self.groups.get_mut(&group) {
                entry.end_transaction(producer, partitions, committed);
            }
            self.drop_if_gone(&group);
        }
    }

    /// Takes over what another coordinator replayed, of groups that this one does not know.
    pub(crate) fn absorb(&mut self, other: Self) {
        self.groups.extend(other.groups);
        self.open_transactions.extend(other.open_transactions);
        self.misplaced = self.misplaced.take().or(other.misplaced);
    }

    /// A group that was replayed from where it does not belong, if there was one.
    pub(crate) fn misplaced(&self) -> Option<&Misplaced> {
        self.misplaced.as_ref()
    }

    /// Whether there is such a group.
    pub(crate) fn knows(&self, group: &str) -> bool {
        self.groups.get(group).is_some_and(Entry::exists)
    }

    fn entry_or_new(&mut self, group: &str) -> &mut Entry {
        self.groups.entry(group.to_owned()).or_insert_with(|| Entry::new(group))
    }

    fn apply(&mut self, group: &str, offset: Offset, change: Change) {
        self.entry_or_new(group).apply(offset, change);
        self.drop_if_gone(group);
    }

    fn drop_if_gone(&mut self, group: &str) {
        if self.groups.get(group).is_some_and(|entry| !entry.exists()) {
            self.groups.remove(group);
        }
    }
}

/// What tools show.
impl GroupCoordinator {
    pub(crate) fn list(&self) -> Vec<GroupListing> {
        let known = self.groups.iter().filter(|(_, entry)| entry.exists());
        let listing = |(id, entry): (&String, &Entry)| GroupListing {
            id: id.clone(),
            group_type: entry.group_type(),
            state: entry.group.state(),
            protocol_type: entry.protocol_type().to_owned(),
        };
        known.map(listing).collect()
    }

    pub(crate) fn describe(&self, id: &str) -> GroupDescription {
        let entry = self.groups.get(id).filter(|e| e.exists());
        let group = entry.map(|e| &e.group);
        let members = group.into_iter().flat_map(Group::members).map(|(request, assignment)| MemberDescription {
            id: request.member.clone(),
            client_id: request.client_id.clone(),
            topics: request.topics.iter().map(ToString::to_string).collect(),
            assignment: assignment.to_vec(),
        });
        GroupDescription {
            id: id.to_owned(),
            group_type: entry.map_or(GroupType::Classic, Entry::group_type),
            state: group.map_or(GroupState::Dead, Group::state),
            generation: group.map_or(0, Group::generation),
            assignor: group.and_then(Group::assignor).map(str::to_owned),
            members: members.collect(),
        }
    }

    fn known(&self, group: &str) -> Result<&Entry> {
        self.groups.get(group).filter(|e| e.exists()).ok_or_else(|| unknown_group(group))
    }

    fn entry(&mut self, group: &str) -> Result<&mut Entry> {
        self.groups.get_mut(group).ok_or_else(|| unknown_group(group))
    }
}

fn commit_record(group: &str, commit: &OffsetCommit, now: Timestamp) -> Result<LogRecord> {
    let refused = |kind, message: String| Err(Error::new(kind, message).partition(commit.partition.clone()));
    if commit.offset < Offset::ZERO {
        return refused(ErrorKind::InvalidArgument, format!("cannot commit offset {}", commit.offset));
    }
    let length = commit.metadata.encode_utf16().count();
    if length > MAX_METADATA_CHARS {
        let message = format!("commit metadata of {length} characters, at most {MAX_METADATA_CHARS} are allowed");
        return refused(ErrorKind::TooLarge, message);
    }
    let value = CommittedOffset::new(commit.offset, commit.leader_epoch, commit.metadata.clone(), now);
    let key = key::offset_key(group, &commit.partition)?;
    Ok(LogRecord { topic_id: commit.topic_id, ..LogRecord::new(key, Some(value.encode()?)) })
}

fn tombstones(group: &str, keys: Vec<Vec<u8>>) -> LogAppend {
    LogAppend { group: group.to_owned(), records: keys.into_iter().map(|key| LogRecord::new(key, None)).collect() }
}

fn check_id(what: &str, id: &str) -> Result<()> {
    if id.is_empty() || id.len() > MAX_ID_BYTES {
        let message = format!("a {what} id has 1 to {MAX_ID_BYTES} bytes, this one has {}", id.len());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(())
}

fn other_type(id: &str, entry: &Entry, why: &str) -> Error {
    let group_type = entry.group_type();
    Error::new(ErrorKind::InconsistentGroupProtocol, format!("group {id:?} is a {group_type} group: {why}"))
        .remedy("use another group id")
}

fn unknown_group(id: &str) -> Error {
    Error::new(ErrorKind::UnknownGroup, format!("no consumer group {id:?}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::group::{RangeAssignor, vectors};

    const LOG: PartitionId = PartitionId::new(0);
    const NOW: Timestamp = Timestamp::new(7);

    /// A coordinator and its log, as the broker holds them.
    #[derive(Default)]
    struct Bench {
        coordinator: GroupCoordinator,
        log: Vec<LogRecord>,
    }

    impl Bench {
        /// Appends; nothing is visible before [`Bench::sync`].
        fn append(&mut self, append: LogAppend) {
            let base = Offset::new(i64::try_from(self.log.len()).unwrap());
            self.log.extend(append.records.iter().cloned());
            self.coordinator.stage(LOG, 0, base, append);
        }

        fn sync(&mut self) {
            self.coordinator.settle(LOG, Offset::new(i64::MAX), |_, _| Presence::There).unwrap();
        }

        fn commit(&mut self, group: &str, member: &str, generation: i32, offset: i64) -> Result<()> {
            let commits = [commit("t", offset)];
            let append = self.coordinator.commit(group, member, generation, &commits, NOW)?;
            self.append(append);
            Ok(())
        }

        fn membership(&mut self, change: impl FnOnce(&mut GroupCoordinator, &Context<'_>) -> Result<Effects>) {
            let context = Context { now: NOW, monotonic: Duration::ZERO, partitions: &|_| Some(2) };
            let effects = change(&mut self.coordinator, &context).unwrap();
            effects.appends.into_iter().for_each(|append| self.append(append));
        }

        fn join(&mut self, member: &str) {
            self.membership(|c, context| c.join("g", request(member), context));
        }

        /// What a broker finds that opens the log.
        fn reopened(&self) -> GroupCoordinator {
            let mut coordinator = GroupCoordinator::default();
            for (offset, record) in (0..).map(Offset::new).zip(&self.log) {
                let unread = coordinator.replay(LOG, 1, None, offset, &record.key, record.value.as_deref());
                assert!(unread.is_none(), "{unread:?}");
            }
            coordinator
        }

        fn agrees_with_log(&self) {
            let ours: Vec<_> = self.coordinator.all_committed("g", |_| None).collect();
            let reopened = self.reopened();
            assert_eq!(ours, reopened.all_committed("g", |_| None).collect::<Vec<_>>());
        }
    }

    fn request(member: &str) -> JoinRequest {
        JoinRequest {
            member: member.into(),
            client_id: "c".into(),
            topics: BTreeSet::from(["t".into()]),
            assignor: Arc::new(RangeAssignor),
            max_poll_interval: Duration::from_secs(300),
        }
    }

    fn commit(topic: &str, offset: i64) -> OffsetCommit {
        let partition = TopicPartition::new(topic, 0);
        let topic_id = None;
        OffsetCommit { partition, topic_id, offset: Offset::new(offset), leader_epoch: None, metadata: String::new() }
    }

    fn seen(coordinator: &GroupCoordinator) -> Option<i64> {
        coordinator.committed("g", &TopicPartition::new("t", 0), None).map(|c| c.offset().get())
    }

    #[test]
    fn groups_land_on_the_partitions_that_kafka_gives_them() {
        let vectors = [
            ("g1", 42),
            ("console-consumer-1", 24),
            ("my-group", 12),
            ("", 0),
            ("\u{e9}", 33),
            ("polygenelubricants", 0),
        ];
        for (group, partition) in vectors {
            assert_eq!(partition_for_group(group, 50), partition, "{group}");
        }
    }

    #[test]
    fn a_commit_is_visible_once_it_is_durable_and_after_reopening() {
        let mut bench = Bench::default();
        bench.commit("g", "", -1, 5).unwrap();
        assert_eq!(seen(&bench.coordinator), None);
        bench.commit("g", "", -1, 6).unwrap();
        bench.coordinator.settle(LOG, Offset::ZERO, |_, _| Presence::There).unwrap();
        assert_eq!(seen(&bench.coordinator), Some(5));
        bench.sync();
        assert_eq!(seen(&bench.coordinator), Some(6));
        bench.agrees_with_log();
        let listed = bench.reopened().list();
        assert_eq!((listed[0].id(), listed[0].state(), listed[0].protocol_type()), ("g", GroupState::Empty, ""));
    }

    #[test]
    fn commits_follow_kafkas_rules() {
        let mut bench = Bench::default();
        let kind = |r: Result<()>| r.unwrap_err().kind();
        assert_eq!(kind(bench.commit("g", "m", 1, 5)), ErrorKind::IllegalGeneration);
        bench.commit("g", "", -1, 5).unwrap();
        bench.sync();
        assert_eq!(kind(bench.commit("g", "m", 0, 5)), ErrorKind::UnknownMember);
        bench.join("m");
        assert_eq!(kind(bench.commit("g", "", -1, 5)), ErrorKind::UnknownMember);
        assert_eq!(kind(bench.commit("g", "m", 0, 5)), ErrorKind::IllegalGeneration);
        bench.commit("g", "m", 1, 9).unwrap();
        assert_eq!(kind(bench.commit("g", "m", 1, -1)), ErrorKind::InvalidArgument);
        assert_eq!(kind(bench.commit("", "", -1, 1)), ErrorKind::InvalidArgument);
        for (length, allowed) in [(4096, true), (4097, false)] {
            let commit = OffsetCommit { metadata: "\u{e9}".repeat(length), ..commit("t", 1) };
            assert_eq!(bench.coordinator.commit("g", "m", 1, &[commit], NOW).is_ok(), allowed);
        }
    }

    #[test]
    fn generations_go_on_after_reopening() {
        let mut bench = Bench::default();
        bench.join("m");
        // The process died with its members: whoever opens the log finds none.
        let found = bench.reopened();
        assert_eq!((found.describe("g").state(), found.describe("g").generation()), (GroupState::Empty, 1));
        assert!(found.commit("g", "", -1, &[commit("t", 1)], NOW).is_ok());
        bench.membership(|c, context| c.leave("g", "m", context));
        let reopened = bench.reopened().describe("g");
        assert_eq!((reopened.state(), reopened.generation()), (GroupState::Empty, 2));
        bench.coordinator = bench.reopened();
        bench.join("n");
        let described = bench.coordinator.describe("g");
        assert_eq!(
            (described.state(), described.generation(), described.assignor()),
            (GroupState::Stable, 3, Some("range"))
        );
        assert_eq!(described.members()[0].assignment().len(), 2);
    }

    #[test]
    fn deletion_also_ends_commits_that_are_still_on_their_way() {
        let mut bench = Bench::default();
        bench.commit("g", "", -1, 5).unwrap();
        bench.sync();
        bench.commit("g", "", -1, 6).unwrap();
        let deletion = bench.coordinator.delete_group("g").unwrap();
        bench.append(deletion);
        bench.sync();
        assert!(bench.coordinator.list().is_empty() && bench.reopened().list().is_empty());
        assert_eq!(bench.coordinator.delete_group("g").unwrap_err().kind(), ErrorKind::UnknownGroup);
        assert_eq!(bench.coordinator.describe("g").state(), GroupState::Dead);
    }

    #[test]
    fn offsets_end_with_their_topic_and_groups_with_members_stay() {
        let mut bench = Bench::default();
        bench.join("m");
        bench.commit("g", "m", 1, 5).unwrap();
        bench.sync();
        assert_eq!(bench.coordinator.delete_group("g").unwrap_err().kind(), ErrorKind::GroupNotEmpty);
        let tp = [TopicPartition::new("t", 0)];
        assert_eq!(bench.coordinator.delete_offsets("g", &tp).unwrap_err().kind(), ErrorKind::GroupNotEmpty);
        for append in bench.coordinator.topic_deleted("t").unwrap() {
            bench.append(append);
        }
        bench.sync();
        assert_eq!(seen(&bench.coordinator), None);
        bench.agrees_with_log();
    }

    #[test]
    fn transactional_commits_count_once_their_marker_commits() {
        let mut bench = Bench::default();
        for offset in [5, 6, 7] {
            bench.commit("g", "", -1, offset).unwrap();
        }
        let (kept, dropped) = (ProducerId::new(1), ProducerId::new(2));
        let mut coordinator = GroupCoordinator::default();
        let replay = |c: &mut GroupCoordinator, at: usize, producer: Option<ProducerId>, deleted: bool| {
            let LogRecord { key, value, .. } = &bench.log[at];
            let offset = Offset::new(i64::try_from(at).unwrap());
            assert!(c.replay(LOG, 1, producer, offset, key, value.as_deref().filter(|_| !deleted)).is_none());
        };
        replay(&mut coordinator, 0, Some(kept), false);
        // Nobody sees what may still be aborted, only that there is a group.
        assert_eq!((seen(&coordinator), coordinator.list().len()), (None, 1));
        assert_eq!(coordinator.describe("g").state(), GroupState::Empty);
        coordinator.end_transaction(LOG, kept, true);
        assert_eq!(seen(&coordinator), Some(5));
        replay(&mut coordinator, 2, Some(dropped), false);
        coordinator.end_transaction(LOG, dropped, false);
        assert_eq!(seen(&coordinator), Some(5));
        // A plain commit written after a transactional one outlives the later marker.
        replay(&mut coordinator, 1, Some(kept), false);
        replay(&mut coordinator, 2, None, false);
        coordinator.end_transaction(LOG, kept, true);
        assert_eq!(seen(&coordinator), Some(7));
        // A tombstone ends what is held back as well, and a deletion writes one for it.
        replay(&mut coordinator, 2, Some(kept), false);
        replay(&mut coordinator, 2, None, true);
        coordinator.end_transaction(LOG, kept, true);
        assert_eq!((seen(&coordinator), coordinator.groups.len()), (None, 0));
        replay(&mut coordinator, 2, Some(kept), false);
        assert_eq!(coordinator.topic_deleted("t").unwrap()[0].records.len(), 1);
    }

    /// A broker that wrote a group of another type, member `m` and epoch 3, and an offset in `t`.
    fn foreign(group_type: GroupType) -> Bench {
        let (epoch, member) = match group_type {
            GroupType::Consumer => (3, 5),
            GroupType::Share => (11, 10),
            _ => (17, 19),
        };
        let mut bench = Bench::default();
        bench.commit("g", "", -1, 5).unwrap();
        bench.log.push(LogRecord::new(vec![0, member, 0, 1, b'g', 0, 1, b'm'], Some(vec![0, 0])));
        bench.log.push(LogRecord::new(vec![0, epoch, 0, 1, b'g'], Some(vec![0, 0, 0, 0, 0, 3, 0])));
        bench.coordinator = bench.reopened();
        bench
    }

    fn written(records: &[LogRecord]) -> Vec<(u8, bool)> {
        records.iter().map(|record| (record.key[1], record.value.is_some())).collect()
    }

    #[test]
    fn a_group_of_the_newer_protocol_is_taken_over_cleanly() {
        let mut bench = foreign(GroupType::Consumer);
        let described = bench.coordinator.describe("g");
        assert_eq!((described.group_type(), described.generation()), (GroupType::Consumer, 3));
        bench.join("m");
        // Before its records are durable another one joins: tombstones behind a classic group's record would
        // stop a stock broker that replays them.
        bench.join("n");
        let taken_over = [(8, false), (7, false), (6, false), (5, false), (4, false), (3, false), (2, true), (2, true)];
        assert_eq!(written(&bench.log[3..]), taken_over);
        bench.sync();
        let reopened = bench.reopened();
        for coordinator in [&bench.coordinator, &reopened] {
            let described = coordinator.describe("g");
            assert_eq!((described.group_type(), described.generation()), (GroupType::Classic, 5));
            assert_eq!(seen(coordinator), Some(5));
        }
    }

    #[test]
    fn groups_of_types_that_are_not_ours_are_named_and_kept() {
        for group_type in [GroupType::Share, GroupType::Streams] {
            let mut bench = foreign(group_type);
            let context = Context { now: NOW, monotonic: Duration::ZERO, partitions: &|_| Some(2) };
            let refused = bench.coordinator.join("g", request("m"), &context).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InconsistentGroupProtocol);
            assert!(refused.to_string().contains(&group_type.to_string()), "{refused}");
            assert_eq!(bench.coordinator.describe("g").group_type(), group_type);
            assert_eq!(bench.coordinator.list()[0].protocol_type(), group_type.to_string());
            assert_eq!(bench.commit("g", "", -1, 6).is_ok(), group_type == GroupType::Streams);
        }
    }

    #[test]
    fn a_group_is_deleted_as_a_broker_of_its_type_does() {
        let delete = |group_type| {
            let mut bench = foreign(group_type);
            let deletion = bench.coordinator.delete_group("g")?;
            bench.append(deletion);
            bench.sync();
            assert!(bench.coordinator.list().is_empty() && bench.reopened().groups.is_empty());
            Ok::<_, Error>(written(&bench.log[3..]).into_iter().map(|(key_type, _)| key_type).collect::<Vec<_>>())
        };
        assert_eq!(delete(GroupType::Consumer).unwrap(), [1, 8, 7, 6, 5, 4, 3]);
        assert_eq!(delete(GroupType::Streams).unwrap(), [1, 23, 22, 21, 20, 19, 17]);
        assert_eq!(delete(GroupType::Share).unwrap_err().kind(), ErrorKind::InconsistentGroupProtocol);
    }

    #[test]
    fn what_is_not_understood_is_told_and_the_group_goes_on() {
        let mut bench = Bench::default();
        bench.join("m");
        bench.commit("g", "m", 1, 5).unwrap();
        let mut coordinator = bench.reopened();
        let unread = |coordinator: &mut GroupCoordinator, key: &[u8], value: &[u8]| {
            let told = coordinator.replay(LOG, 1, None, Offset::new(9), key, Some(value)).unwrap();
            assert_eq!(told.offset, Offset::new(9));
            told.group
        };
        let group_key = key::group_key("g").unwrap();
        let offset_key = key::offset_key("g", &TopicPartition::new("t", 0)).unwrap();
        assert_eq!(unread(&mut coordinator, &group_key, &[0, 9]).as_deref(), Some("g"));
        assert_eq!(unread(&mut coordinator, &offset_key, &[0, 3, 0]).as_deref(), Some("g"));
        assert_eq!(unread(&mut coordinator, &[0, 99, 1, 2], &[]), None);
        assert_eq!(unread(&mut coordinator, &[0, 2, 0, 9], &[]), None);
        assert_eq!((seen(&coordinator), coordinator.describe("g").generation()), (Some(5), 1));
        // A group of which nothing else is known still is one.
        assert_eq!(unread(&mut coordinator, &key::group_key("h").unwrap(), &[0, 9]).as_deref(), Some("h"));
        assert_eq!(coordinator.describe("h").state(), GroupState::Empty);
    }

    #[test]
    fn offsets_of_an_earlier_topic_of_that_name_are_not_told() {
        let (old, new) = (Some(Uuid::from_bytes([1; 16])), Some(Uuid::from_bytes([2; 16])));
        let tp = TopicPartition::new("tt", 0);
        let (_, key, value) = vectors::records("K43_OFFSET").remove(0);
        let mut coordinator = GroupCoordinator::default();
        assert!(coordinator.replay(LOG, 1, None, Offset::ZERO, &key, Some(&value)).is_none());
        assert_eq!(coordinator.committed("g1", &tp, None).unwrap().metadata(), "meta");
        assert_eq!(coordinator.committed("g1", &tp, old), None);
        assert_eq!(coordinator.all_committed("g1", |_| old).count(), 0);
        // Our own records do not say it; in memory it is known all the same.
        let commits = [OffsetCommit { topic_id: old, ..commit("tt", 3) }];
        let append = coordinator.commit("g1", "", -1, &commits, NOW).unwrap();
        coordinator.stage(LOG, 0, Offset::new(1), append);
        coordinator.settle(LOG, Offset::new(1), |_, _| Presence::There).unwrap();
        assert_eq!(coordinator.committed("g1", &tp, old).unwrap().offset(), 3);
        assert_eq!(coordinator.committed("g1", &tp, new), None);
    }

    #[test]
    fn records_of_a_group_count_in_its_own_partition_only() {
        let mut bench = Bench::default();
        bench.commit("g1", "", -1, 5).unwrap();
        for (number, found) in [(42, 1), (41, 0)] {
            let mut coordinator = GroupCoordinator::default();
            let LogRecord { key, value, .. } = &bench.log[0];
            let unread = coordinator.replay(PartitionId::new(number), 50, None, Offset::ZERO, key, value.as_deref());
            assert!(unread.is_none() && coordinator.list().len() == found);
        }
    }

    #[test]
    fn the_log_of_a_4_3_broker_is_understood() {
        let mut coordinator = GroupCoordinator::default();
        let mut replay = |names: &[&str], producer: Option<i64>| {
            for name in names {
                let (_, key, value) = vectors::records(name).remove(0);
                let unread =
                    coordinator.replay(LOG, 1, producer.map(ProducerId::new), Offset::ZERO, &key, Some(&value));
                assert!(unread.is_none(), "{name}: {unread:?}");
            }
        };
        replay(&["K43_CLASSIC_NEW", "K43_CLASSIC_STABLE", "K43_OFFSET", "K43_CLASSIC_EMPTY"], None);
        replay(&["K43_CG_MEMBER", "K43_CG_EPOCH", "K43_CG_TARGET_MEMBER", "K43_CG_TARGET_EPOCH"], None);
        replay(&["K43_CG_CURRENT", "K43_CG_EPOCH_LEFT", "K43_SG_MEMBER", "K43_SG_EPOCH", "K43_SG_STATE_INIT"], None);
        replay(&["K43_TXN_OFFSET"], Some(2003));
        let listed = |coordinator: &GroupCoordinator| {
            let listing =
                |g: &GroupListing| format!("{} {} {} {:?}", g.id(), g.group_type(), g.state(), g.protocol_type());
            coordinator.list().iter().map(listing).collect::<Vec<_>>()
        };
        let types = [
            "g1 classic Empty \"consumer\"",
            "g2 consumer Empty \"consumer\"",
            "gx classic Empty \"\"",
            "sg share Empty \"share\"",
        ];
        assert_eq!(listed(&coordinator), types);
        assert!(coordinator.list()[2].is_simple() && !coordinator.list()[0].is_simple());
        assert_eq!([coordinator.describe("g1"), coordinator.describe("g2")].map(|d| d.generation()), [2, 3]);
        let in_transaction = TopicPartition::new("tt", 0);
        assert_eq!(coordinator.committed("gx", &in_transaction, None), None);
        coordinator.end_transaction(LOG, ProducerId::new(2003), true);
        assert_eq!(coordinator.committed("gx", &in_transaction, None).unwrap().offset(), 1);
    }

    /// What a broker that replays a log should know of group `g`: the last value of each key, and nothing of
    /// transactions that did not commit.
    #[derive(Debug, Default)]
    struct Model {
        offsets: BTreeMap<i32, (i64, i64)>,
        pending: BTreeMap<(i64, i32), (i64, i64)>,
        classic: bool,
        typed: BTreeSet<Vec<u8>>,
    }

    impl Model {
        fn commit(&mut self, partition: i32, (at, offset): (i64, i64)) {
            if self.offsets.get(&partition).is_none_or(|(before, _)| *before < at) {
                self.offsets.insert(partition, (at, offset));
            }
        }

        fn end(&mut self, producer: i64, committed: bool) {
            for partition in 0..3 {
                if let Some(written) = self.pending.remove(&(producer, partition)).filter(|_| committed) {
                    self.commit(partition, written);
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn the_last_value_of_each_key_wins(
            log in proptest::collection::vec((0_u8..7, 0_i32..3, proptest::bool::ANY, 0_i64..3), 0..60),
        ) {
            let mut model = Model::default();
            let mut coordinator = GroupCoordinator::default();
            for (at, (what, number, deleted, producer)) in (0_i64..).zip(log) {
                let tp = TopicPartition::new("t", number);
                let written = (at, at * 10);
                let value = CommittedOffset::new(Offset::new(at * 10), None, String::new(), NOW).encode().unwrap();
                let mut put = |in_transaction: Option<i64>, key: Vec<u8>, value: &[u8]| {
                    let value = Some(value).filter(|_| !deleted);
                    let producer = in_transaction.map(ProducerId::new);
                    assert!(coordinator.replay(LOG, 1, producer, Offset::new(at), &key, value).is_none());
                };
                let member = vec![0, 5, 0, 1, b'g', 0, 1, b'0' + u8::try_from(number).unwrap()];
                match what {
                    0..=2 => put((what == 0).then_some(producer), key::offset_key("g", &tp).unwrap(), &value),
                    3 => put(None, key::group_key("g").unwrap(), &vectors::records("K43_CLASSIC_EMPTY")[0].2),
                    4 => put(None, member.clone(), &[0, 0]),
                    5 => put(None, vec![0, 3, 0, 1, b'g'], &[0, 0, 0, 0, 0, 3, 0]),
                    _ => coordinator.end_transaction(LOG, ProducerId::new(producer), deleted),
                }
                match (what, deleted) {
                    (0, false) => drop(model.pending.insert((producer, number), written)),
                    (1 | 2, false) => model.commit(number, written),
                    (0..=2, true) => {
                        model.offsets.remove(&number);
                        model.pending.retain(|(_, of), _| *of != number);
                    }
                    (3, _) => model.classic = !deleted,
                    (4, false) => drop(model.typed.insert(member)),
                    (4, true) => drop(model.typed.remove(&member)),
                    (5, false) => drop(model.typed.insert(Vec::new())),
                    (5, true) => drop(model.typed.remove(&Vec::new())),
                    _ => model.end(producer, deleted),
                }
            }
            let told: Vec<_> = coordinator.all_committed("g", |_| None).map(|(tp, c)| (tp.partition().get(), c.offset().get())).collect();
            assert_eq!(told, model.offsets.iter().map(|(number, (_, offset))| (*number, *offset)).collect::<Vec<_>>());
            let has_offsets = !model.offsets.is_empty() || !model.pending.is_empty();
            let exists = model.classic || !model.typed.is_empty() || has_offsets;
            assert_eq!(coordinator.list().len(), usize::from(exists));
            let group_type = if model.typed.is_empty() { GroupType::Classic } else { GroupType::Consumer };
            assert_eq!(coordinator.describe("g").group_type(), group_type);
            assert_eq!(coordinator.groups.is_empty(), !exists);
            // Deleted, nothing is left of it, nor of what is still pending.
            if let Ok(deletion) = coordinator.delete_group("g") {
                coordinator.stage(LOG, 0, Offset::new(100), deletion);
                coordinator.settle(LOG, Offset::new(1_000), |_, _| Presence::There).unwrap();
                assert!(coordinator.groups.is_empty(), "{coordinator:?}");
            }
        }
    }
}

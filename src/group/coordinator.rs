//! All groups of a broker: their state machines and their committed offsets.
//!
//! Write-ahead, and one way into memory. An operation that changes what is stored checks its rules
//! and answers [`LogAppend`]s without changing anything stored. Under the lock of the coordinator the broker
//! appends each to the group's partition of `__consumer_offsets` and hands it back with its offset
//! ([`GroupCoordinator::stage`]). Once the log is durable far enough, [`GroupCoordinator::settle`]
//! puts what was staged into memory, in log order, through the function that also replays the log at
//! open. So a committed offset is visible exactly when it would be found again.
//!
//! Membership is different: it lives in memory, and its records only tell other readers about it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::describe::{GroupDescription, GroupListing, MemberDescription};
use super::offsets::{self, CommittedOffset, GroupMetadata, Key};
use super::state::{Context, Effect, Event, Generation, Group, GroupState, JoinRequest, Membership};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{LeaderEpoch, Offset, PartitionId, ProducerId, Timestamp, TopicPartition};

/// `offset.metadata.max.bytes`, which Kafka counts in UTF-16 units.
const MAX_METADATA_CHARS: usize = 4096;
/// The largest group or client id; leaves room for the id that is made from it in a string of the format.
const MAX_ID_BYTES: usize = i16::MAX as usize - 64;

/// One record of `__consumer_offsets`; no value is a tombstone.
pub(crate) type LogRecord = (Vec<u8>, Option<Vec<u8>>);

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
    pub(crate) offset: Offset,
    pub(crate) leader_epoch: Option<LeaderEpoch>,
    pub(crate) metadata: String,
}

/// How a batch of `__consumer_offsets` takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchKind {
    /// At once.
    Plain,
    /// When its producer's transaction commits.
    Transactional(ProducerId),
    /// It ends a transaction; it holds no records of ours.
    Marker { producer: ProducerId, committed: bool },
}

/// The partition of `__consumer_offsets`, of `partitions`, that holds `group`: Java's string hash, its
/// absolute value, the remainder.
pub(crate) fn partition_for_group(group: &str, partitions: i32) -> PartitionId {
    let hash = group.encode_utf16().fold(0_i32, |h, unit| h.wrapping_mul(31).wrapping_add(i32::from(unit)));
    PartitionId::new(hash.checked_abs().unwrap_or(0) % partitions.max(1))
}

#[derive(Debug)]
struct Entry {
    group: Group,
    /// Each with the offset in the log at which it was written.
    offsets: BTreeMap<TopicPartition, (Offset, CommittedOffset)>,
    /// Keys that a broker with the newer group protocol left behind. They and a classic group's record
    /// must not stand side by side, so the first member that joins has them deleted.
    new_protocol: BTreeSet<Vec<u8>>,
}

impl Entry {
    fn new(id: &str) -> Self {
        Self { group: Group::new(id), offsets: BTreeMap::new(), new_protocol: BTreeSet::new() }
    }

    fn is_vacant(&self) -> bool {
        self.group.is_vacant() && self.offsets.is_empty() && self.new_protocol.is_empty()
    }
}

#[derive(Debug)]
struct Logged {
    offset: Offset,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
pub(crate) struct GroupCoordinator {
    groups: BTreeMap<String, Entry>,
    /// Appended but not yet known to be durable, per partition of `__consumer_offsets`.
    staged: HashMap<PartitionId, VecDeque<Logged>>,
    /// Offsets committed inside transactions that are still open.
    open_transactions: HashMap<(PartitionId, ProducerId), Vec<Logged>>,
}

/// Membership.
impl GroupCoordinator {
    /// Adds a member, or tells that a known one has given up its partitions or wants other topics.
    pub(crate) fn join(&mut self, group: &str, request: JoinRequest, context: &Context<'_>) -> Result<Effects> {
        check_id("group", group)?;
        check_id("client", &request.client_id)?;
        let entry = self.groups.entry(group.to_owned()).or_insert_with(|| Entry::new(group));
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
                    let left_behind = self.groups.get(id).into_iter().flat_map(|e| e.new_protocol.iter().rev());
                    let mut records: Vec<_> = left_behind.map(|key| (key.clone(), None)).collect();
                    records.push((offsets::group_key(id)?, Some(metadata.encode()?)));
                    result.appends.push(LogAppend { group: id.to_owned(), records });
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

    pub(crate) fn committed(&self, group: &str, partition: &TopicPartition) -> Option<&CommittedOffset> {
        self.groups.get(group)?.offsets.get(partition).map(|(_, committed)| committed)
    }

    pub(crate) fn all_committed(&self, group: &str) -> impl Iterator<Item = (&TopicPartition, &CommittedOffset)> {
        self.groups.get(group).into_iter().flat_map(|e| &e.offsets).map(|(tp, (_, committed))| (tp, committed))
    }

    /// Forgets a group without members, offsets and all.
    pub(crate) fn delete_group(&self, group: &str) -> Result<LogAppend> {
        let entry = self.groups.get(group).filter(|e| !e.is_vacant()).ok_or_else(|| unknown_group(group))?;
        if !entry.group.is_empty() {
            return Err(Error::new(ErrorKind::GroupNotEmpty, format!("group {group:?} has members"))
                .remedy("close its consumers first"));
        }
        let mut keys = self.offset_keys(group, |_| true)?;
        keys.extend(entry.new_protocol.iter().rev().cloned());
        keys.push(offsets::group_key(group)?);
        Ok(tombstones(group, keys))
    }

    /// Forgets what a group committed in `partitions`, of topics that no member subscribes to.
    pub(crate) fn delete_offsets(&self, group: &str, partitions: &[TopicPartition]) -> Result<LogAppend> {
        let entry = self.groups.get(group).ok_or_else(|| unknown_group(group))?;
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

    /// The keys of all offsets that a group has committed, those in staged records included: a
    /// tombstone must also end what becomes visible only after it was written.
    fn offset_keys(&self, group: &str, wanted: impl Fn(&TopicPartition) -> bool) -> Result<Vec<Vec<u8>>> {
        let settled = self.groups.get(group).into_iter().flat_map(|e| e.offsets.keys().cloned());
        let staged = self.staged.values().flatten().filter_map(|logged| match Key::decode(&logged.key) {
            Ok(Key::Offset { group: of, partition }) if of == group => Some(partition),
            _ => None,
        });
        let partitions: BTreeSet<_> = settled.chain(staged).filter(wanted).collect();
        partitions.iter().map(|tp| offsets::offset_key(group, tp)).collect()
    }
}

/// The way of records into memory.
impl GroupCoordinator {
    /// Notes that `append` was written to `partition` from `base` on. Calls come in log order.
    pub(crate) fn stage(&mut self, partition: PartitionId, base: Offset, append: LogAppend) {
        let logged = (0..).zip(append.records).map(|(i, (key, value))| Logged { offset: base + i, key, value });
        self.staged.entry(partition).or_default().extend(logged);
    }

    /// Makes everything staged in `partition` up to and with `through` visible.
    pub(crate) fn settle(&mut self, partition: PartitionId, through: Offset) -> Result<()> {
        let Some(staged) = self.staged.get_mut(&partition) else { return Ok(()) };
        let durable: Vec<_> = staged.drain(..staged.partition_point(|l| l.offset <= through)).collect();
        durable.into_iter().try_for_each(|logged| self.apply(logged))
    }

    /// Takes in one batch of the log, in log order, when the broker opens. Keys of no interest are
    /// passed over; the records stay in the log untouched.
    pub(crate) fn replay<'a>(
        &mut self,
        partition: PartitionId,
        kind: BatchKind,
        records: impl IntoIterator<Item = (Offset, &'a [u8], Option<&'a [u8]>)>,
    ) -> Result<()> {
        if let BatchKind::Marker { producer, committed } = kind {
            let pending = self.open_transactions.remove(&(partition, producer)).unwrap_or_default();
            return if committed { pending.into_iter().try_for_each(|logged| self.apply(logged)) } else { Ok(()) };
        }
        for (offset, key, value) in records {
            let logged = Logged { offset, key: key.to_vec(), value: value.map(<[u8]>::to_vec) };
            match kind {
                BatchKind::Transactional(producer) => {
                    self.open_transactions.entry((partition, producer)).or_default().push(logged);
                }
                _ => self.apply(logged)?,
            }
        }
        Ok(())
    }

    fn apply(&mut self, logged: Logged) -> Result<()> {
        let key = Key::decode(&logged.key)?;
        let Some(id) = key.group() else { return Ok(()) };
        let entry = self.groups.entry(id.to_owned()).or_insert_with(|| Entry::new(id));
        let applied = apply_to(entry, &key, logged);
        if entry.is_vacant() {
            self.groups.remove(id);
        }
        applied
    }
}

fn apply_to(entry: &mut Entry, key: &Key, logged: Logged) -> Result<()> {
    match (key, logged.value) {
        (Key::Offset { partition, .. }, Some(value)) => {
            // What a transaction committed counts from where it was written, not from its marker.
            if entry.offsets.get(partition).is_none_or(|(at, _)| *at < logged.offset) {
                let committed = CommittedOffset::decode(&value)?;
                entry.offsets.insert(partition.clone(), (logged.offset, committed));
            }
        }
        (Key::Offset { partition, .. }, None) => drop(entry.offsets.remove(partition)),
        (Key::Group { .. }, Some(value)) => entry.group.restore(&GroupMetadata::decode(&value)?),
        (Key::Group { .. }, None) => entry.group.forget(),
        (Key::NewProtocol { .. }, Some(_)) => drop(entry.new_protocol.insert(logged.key)),
        (Key::NewProtocol { .. }, None) => drop(entry.new_protocol.remove(&logged.key)),
        (Key::Other, _) => {}
    }
    Ok(())
}

/// What tools show.
impl GroupCoordinator {
    pub(crate) fn list(&self) -> Vec<GroupListing> {
        let known = self.groups.iter().filter(|(_, entry)| !entry.is_vacant());
        let listing = |(id, entry): (&String, &Entry)| GroupListing {
            id: id.clone(),
            state: entry.group.state(),
            protocol_type: entry.group.protocol_type().to_owned(),
        };
        known.map(listing).collect()
    }

    pub(crate) fn describe(&self, id: &str) -> GroupDescription {
        let group = self.groups.get(id).map(|e| &e.group);
        let members = group.into_iter().flat_map(Group::members).map(|(request, assignment)| MemberDescription {
            id: request.member.clone(),
            client_id: request.client_id.clone(),
            topics: request.topics.iter().map(ToString::to_string).collect(),
            assignment: assignment.to_vec(),
        });
        GroupDescription {
            id: id.to_owned(),
            state: group.map_or(GroupState::Dead, Group::state),
            generation: group.map_or(0, Group::generation),
            assignor: group.and_then(Group::assignor).map(str::to_owned),
            members: members.collect(),
        }
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
    Ok((offsets::offset_key(group, &commit.partition)?, Some(value.encode()?)))
}

fn tombstones(group: &str, keys: Vec<Vec<u8>>) -> LogAppend {
    LogAppend { group: group.to_owned(), records: keys.into_iter().map(|key| (key, None)).collect() }
}

fn check_id(what: &str, id: &str) -> Result<()> {
    if id.is_empty() || id.len() > MAX_ID_BYTES {
        let message = format!("a {what} id has 1 to {MAX_ID_BYTES} bytes, this one has {}", id.len());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(())
}

fn unknown_group(id: &str) -> Error {
    Error::new(ErrorKind::UnknownGroup, format!("no consumer group {id:?}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::group::RangeAssignor;

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
            self.coordinator.stage(LOG, base, append);
        }

        fn sync(&mut self) {
            self.coordinator.settle(LOG, Offset::new(i64::MAX)).unwrap();
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
            let request = JoinRequest {
                member: member.into(),
                client_id: "c".into(),
                topics: BTreeSet::from(["t".into()]),
                assignor: Arc::new(RangeAssignor),
                max_poll_interval: Duration::from_secs(300),
            };
            self.membership(|c, context| c.join("g", request, context));
        }

        /// What a broker finds that opens the log.
        fn reopened(&self) -> GroupCoordinator {
            let mut coordinator = GroupCoordinator::default();
            let records = (0..).map(Offset::new).zip(&self.log).map(|(o, (k, v))| (o, k.as_slice(), v.as_deref()));
            coordinator.replay(LOG, BatchKind::Plain, records).unwrap();
            coordinator
        }

        fn agrees_with_log(&self) {
            let ours: Vec<_> = self.coordinator.all_committed("g").collect();
            let reopened = self.reopened();
            assert_eq!(ours, reopened.all_committed("g").collect::<Vec<_>>());
        }
    }

    fn commit(topic: &str, offset: i64) -> OffsetCommit {
        let partition = TopicPartition::new(topic, 0);
        OffsetCommit { partition, offset: Offset::new(offset), leader_epoch: None, metadata: String::new() }
    }

    fn seen(coordinator: &GroupCoordinator) -> Option<i64> {
        coordinator.committed("g", &TopicPartition::new("t", 0)).map(|c| c.offset().get())
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
        bench.coordinator.settle(LOG, Offset::ZERO).unwrap();
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
        let record = |at: usize| {
            let (key, value) = &bench.log[at];
            [(Offset::new(i64::try_from(at).unwrap()), key.as_slice(), value.as_deref())]
        };
        let (kept, dropped) = (ProducerId::new(1), ProducerId::new(2));
        let mut coordinator = GroupCoordinator::default();
        let none = || std::iter::empty();
        coordinator.replay(LOG, BatchKind::Transactional(kept), record(0)).unwrap();
        assert_eq!(seen(&coordinator), None);
        coordinator.replay(LOG, BatchKind::Marker { producer: kept, committed: true }, none()).unwrap();
        assert_eq!(seen(&coordinator), Some(5));
        coordinator.replay(LOG, BatchKind::Transactional(dropped), record(2)).unwrap();
        coordinator.replay(LOG, BatchKind::Marker { producer: dropped, committed: false }, none()).unwrap();
        assert_eq!(seen(&coordinator), Some(5));
        // A plain commit written after a transactional one outlives the later marker.
        coordinator.replay(LOG, BatchKind::Transactional(kept), record(1)).unwrap();
        coordinator.replay(LOG, BatchKind::Plain, record(2)).unwrap();
        coordinator.replay(LOG, BatchKind::Marker { producer: kept, committed: true }, none()).unwrap();
        assert_eq!(seen(&coordinator), Some(7));
    }

    #[test]
    fn a_group_of_the_newer_protocol_is_taken_over_cleanly() {
        let mut bench = Bench::default();
        let epoch: LogRecord = (vec![0, 3, 0, 1, b'g'], Some(vec![0, 0, 0, 0, 0, 3, 0]));
        let member: LogRecord = (vec![0, 5, 0, 1, b'g', 0, 1, b'm'], Some(vec![0, 0]));
        let share: LogRecord = (vec![0, 11, 0, 1, b's'], Some(vec![0, 0]));
        bench.log = vec![member.clone(), epoch.clone(), share];
        bench.coordinator = bench.reopened();
        bench.join("m");
        let written: Vec<_> = bench.log[3..].iter().map(|(key, value)| (key.clone(), value.is_some())).collect();
        assert_eq!(written, [(member.0, false), (epoch.0, false), (offsets::group_key("g").unwrap(), true)]);
        bench.sync();
        bench.join("n");
        assert_eq!(bench.log.len(), 7, "the tombstones are written once");
    }
}

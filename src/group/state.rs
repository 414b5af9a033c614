//! One group as a state machine: `on(event, context) -> effects`, plus the look that a member takes
//! at each poll. It knows members, generations and assignments, not offsets and not bytes.
//!
//! The protocol is Kafka's eager one. A rebalance begins when somebody joins or leaves, changes what
//! it subscribes to, or a topic gains partitions. It ends when every member that holds partitions has
//! given them up by joining again (each does so inside its poll) or was removed for staying away
//! longer than its `max.poll.interval.ms`. Invariant: a partition never gets a new owner while its
//! old one may still hand out records of it. Members that hold nothing never delay a rebalance.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::assignor::{Assignor, GroupMember};
use super::offsets::{Assignment, GroupMetadata, MemberMetadata, Subscription};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Timestamp, TopicPartition};

/// Counts a group's assignments; a commit from an earlier one is refused.
pub(crate) type Generation = i32;

/// `session.timeout.ms` as written for other readers of `__consumer_offsets`: should this process
/// die, a stock broker on the same files drops its members after this long. None of them can be alive
/// then, so it is the least that a stock broker takes (`group.min.session.timeout.ms`).
const RECORDED_SESSION_TIMEOUT: Duration = Duration::from_secs(6);

/// What a group is doing, in Kafka's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GroupState {
    /// No members. Offsets may exist.
    Empty,
    /// Waits for members to give up their partitions.
    PreparingRebalance,
    /// Waits for a client that computes the assignment; never so for members in this process.
    CompletingRebalance,
    /// Every member has an assignment of the current generation.
    Stable,
    /// Does not exist.
    Dead,
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the machine may ask about the world at the moment of a call.
pub(crate) struct Context<'a> {
    pub(crate) now: Timestamp,
    pub(crate) monotonic: Duration,
    /// The number of partitions of a topic, where it exists.
    pub(crate) partitions: &'a dyn Fn(&str) -> Option<i32>,
}

/// A member's wish to belong, on its first join and on each one after.
#[derive(Clone, Debug)]
pub(crate) struct JoinRequest {
    pub(crate) member: String,
    pub(crate) client_id: String,
    pub(crate) topics: BTreeSet<Arc<str>>,
    pub(crate) assignor: Arc<dyn Assignor>,
    /// `max.poll.interval.ms`: how long it may stay away before others take over.
    pub(crate) max_poll_interval: Duration,
}

pub(crate) enum Event<'a> {
    /// A new member, or a known one that has given up its partitions.
    Join(JoinRequest),
    Leave {
        member: &'a str,
    },
    /// Partition counts may have changed.
    TopicsChanged,
    /// Time has passed.
    Tick,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Record the group's new metadata.
    Store(GroupMetadata),
    /// Let members that wait look again.
    Wake,
}

/// What a member finds when it looks at its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    /// Go on with what you have.
    Unchanged,
    /// A rebalance began: give up your partitions and join again.
    Rejoin,
    /// Others have still to join.
    Waiting,
    /// A new assignment, yours from now on.
    Assigned { generation: Generation, partitions: Vec<TopicPartition> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Holds nothing and waits for the next assignment.
    Joined,
    /// Has an assignment that it has not looked at yet, so it still holds nothing.
    Ready,
    /// Holds its assignment.
    Owning,
}

#[derive(Debug)]
struct Member {
    request: JoinRequest,
    standing: Standing,
    assignment: Vec<TopicPartition>,
    last_seen: Duration,
}

impl Member {
    fn expires_at(&self) -> Duration {
        self.last_seen.saturating_add(self.request.max_poll_interval)
    }
}

#[derive(Debug)]
pub(crate) struct Group {
    id: String,
    state: GroupState,
    generation: Generation,
    protocol_type: String,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// Partition counts of the subscribed topics at the last assignment.
    counts: BTreeMap<Arc<str>, i32>,
}

impl Group {
    pub(crate) fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            state: GroupState::Empty,
            generation: 0,
            protocol_type: String::new(),
            leader: None,
            members: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// Takes over what the log says of a group. Its members died with the process that wrote it;
    /// of a group that has members now, the log can only tell what they already know.
    pub(crate) fn restore(&mut self, stored: &GroupMetadata) {
        if self.members.is_empty() {
            // A negative one would look like no membership at all.
            self.generation = stored.generation.max(0);
            self.protocol_type.clone_from(&stored.protocol_type);
        }
    }

    /// The group was one of the newer consumer protocol: generations go on above its epoch.
    pub(crate) fn continue_from(&mut self, epoch: Generation) {
        if self.members.is_empty() {
            self.generation = self.generation.max(epoch);
        }
    }

    /// The log says that the group was deleted.
    pub(crate) fn forget(&mut self) {
        if self.members.is_empty() {
            *self = Self::new(std::mem::take(&mut self.id));
        }
    }

    /// Whether the group has never had members, or was deleted since.
    pub(crate) fn is_vacant(&self) -> bool {
        self.members.is_empty() && self.protocol_type.is_empty() && self.generation == 0
    }

    pub(crate) fn state(&self) -> GroupState {
        self.state
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    pub(crate) fn protocol_type(&self) -> &str {
        &self.protocol_type
    }

    pub(crate) fn assignor(&self) -> Option<&str> {
        self.members.values().next().map(|m| m.request.assignor.name())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Each member's request and the partitions that it holds or is about to hold.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&JoinRequest, &[TopicPartition])> {
        self.members.values().map(|m| (&m.request, m.assignment.as_slice()))
    }

    pub(crate) fn subscribes_to(&self, topic: &str) -> bool {
        self.members.values().any(|m| m.request.topics.contains(topic))
    }

    /// The moment at which [`Event::Tick`] would remove a member.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.members.values().map(Member::expires_at).min()
    }

    /// Takes one step.
    pub(crate) fn on(&mut self, event: Event<'_>, context: &Context<'_>) -> Result<Vec<Effect>> {
        match event {
            Event::Join(request) => self.join(request, context),
            Event::Leave { member } => {
                self.members.remove(member).ok_or_else(|| unknown_member(&self.id, member))?;
                self.rebalance(context)
            }
            Event::TopicsChanged
                if self.state == GroupState::Stable && self.count_partitions(context) != self.counts =>
            {
                self.rebalance(context)
            }
            Event::TopicsChanged => Ok(Vec::new()),
            Event::Tick => {
                let before = self.members.len();
                self.members.retain(|_, m| m.expires_at() > context.monotonic);
                if self.members.len() == before { Ok(Vec::new()) } else { self.rebalance(context) }
            }
        }
    }

    /// Shows that a member is alive.
    pub(crate) fn see(&mut self, member: &str, monotonic: Duration) -> Result<()> {
        let unknown = || unknown_member(&self.id, member);
        self.members.get_mut(member).ok_or_else(unknown)?.last_seen = monotonic;
        Ok(())
    }

    /// What `member` finds. From an answer of [`Membership::Assigned`] on it holds those partitions.
    pub(crate) fn take(&mut self, member: &str) -> Result<Membership> {
        let found = self.members.get_mut(member).ok_or_else(|| unknown_member(&self.id, member))?;
        Ok(match (self.state, found.standing) {
            (GroupState::PreparingRebalance, Standing::Owning) => Membership::Rejoin,
            (_, Standing::Joined) => Membership::Waiting,
            (_, Standing::Owning) => Membership::Unchanged,
            (_, Standing::Ready) => {
                found.standing = Standing::Owning;
                Membership::Assigned { generation: self.generation, partitions: found.assignment.clone() }
            }
        })
    }

    /// Whether `member` of `generation` may commit (Kafka's rules; a negative generation is a commit
    /// without membership, which only a group without members takes).
    pub(crate) fn check_commit(&self, member: &str, generation: Generation) -> Result<()> {
        if generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        if !self.members.contains_key(member) {
            return Err(unknown_member(&self.id, member));
        }
        if generation != self.generation {
            return Err(Error::new(
                ErrorKind::IllegalGeneration,
                format!("commit of generation {generation} in group {:?}, now at {}", self.id, self.generation),
            )
            .remedy("poll again: the partitions were assigned anew meanwhile"));
        }
        Ok(())
    }

    fn join(&mut self, request: JoinRequest, context: &Context<'_>) -> Result<Vec<Effect>> {
        let mut others = self.members.values().filter(|m| m.request.member != request.member);
        if let Some(other) = others.find(|m| m.request.assignor.name() != request.assignor.name()) {
            let (ours, theirs) = (request.assignor.name(), other.request.assignor.name());
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("group {:?} uses assignor {theirs:?}, a new member wants {ours:?}", self.id),
            )
            .remedy("all members of a group must name the same assignor"));
        }
        if let Some(known) = self.members.get_mut(&request.member) {
            known.last_seen = context.monotonic;
            let same =
                known.request.topics == request.topics && known.request.assignor.name() == request.assignor.name();
            if same && self.state == GroupState::Stable {
                return Ok(Vec::new());
            }
            known.request = request;
            known.standing = Standing::Joined;
        } else {
            "consumer".clone_into(&mut self.protocol_type);
            self.leader.get_or_insert_with(|| request.member.clone());
            let (standing, assignment, last_seen) = (Standing::Joined, Vec::new(), context.monotonic);
            self.members.insert(request.member.clone(), Member { request, standing, assignment, last_seen });
        }
        self.rebalance(context)
    }

    /// Starts a rebalance, or goes on with it, and ends it if nobody is left to wait for.
    fn rebalance(&mut self, context: &Context<'_>) -> Result<Vec<Effect>> {
        if self.leader.as_ref().is_some_and(|id| !self.members.contains_key(id)) {
            self.leader = self.members.keys().next().cloned();
        }
        for member in self.members.values_mut() {
            if member.standing == Standing::Ready || member.assignment.is_empty() {
                member.standing = Standing::Joined;
            }
        }
        if self.members.values().any(|m| m.standing == Standing::Owning) {
            self.state = GroupState::PreparingRebalance;
            return Ok(vec![Effect::Wake]);
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.state = if self.members.is_empty() { GroupState::Empty } else { GroupState::Stable };
        self.assign(context);
        Ok(vec![Effect::Store(self.metadata(context.now)?), Effect::Wake])
    }

    fn assign(&mut self, context: &Context<'_>) {
        self.counts = self.count_partitions(context);
        let Some(assignor) = self.members.values().next().map(|m| Arc::clone(&m.request.assignor)) else { return };
        let seen: Vec<_> = self
            .members
            .values()
            .map(|m| GroupMember::new(&m.request.member, m.request.topics.iter().cloned()))
            .collect();
        let mut claims = assignor.assign(&seen, &self.counts);
        let mut taken = BTreeSet::new();
        for (id, member) in &mut self.members {
            let mut claimed = claims.remove(id).unwrap_or_default();
            claimed.retain(|tp| {
                let exists = self.counts.get(tp.topic()).is_some_and(|n| (0..*n).contains(&tp.partition().get()));
                exists && member.request.topics.contains(tp.topic()) && taken.insert(tp.clone())
            });
            member.assignment = claimed;
            member.standing = Standing::Ready;
        }
    }

    fn count_partitions(&self, context: &Context<'_>) -> BTreeMap<Arc<str>, i32> {
        let topics = self.members.values().flat_map(|m| &m.request.topics);
        topics.filter_map(|t| Some((Arc::clone(t), (context.partitions)(t)?))).collect()
    }

    fn metadata(&self, now: Timestamp) -> Result<GroupMetadata> {
        Ok(GroupMetadata {
            protocol_type: self.protocol_type.clone(),
            generation: self.generation,
            protocol: self.assignor().map(str::to_owned),
            leader: self.leader.clone(),
            state_since: now,
            members: self.members.values().map(Member::metadata).collect::<Result<_>>()?,
        })
    }
}

impl Member {
    fn metadata(&self) -> Result<MemberMetadata> {
        Ok(MemberMetadata {
            member: self.request.member.clone(),
            instance: None,
            client_id: self.request.client_id.clone(),
            client_host: "/127.0.0.1".to_owned(),
            rebalance_timeout: self.request.max_poll_interval,
            session_timeout: RECORDED_SESSION_TIMEOUT,
            subscription: Subscription::to(self.request.topics.iter().cloned()).encode()?,
            assignment: Assignment::of(self.assignment.clone()).encode()?,
        })
    }
}

fn unknown_member(group: &str, member: &str) -> Error {
    if member.is_empty() {
        let message = format!("group {group:?} has members: only they may commit");
        return Error::new(ErrorKind::UnknownMember, message).remedy("close its consumers first");
    }
    Error::new(ErrorKind::UnknownMember, format!("{member:?} is not a member of group {group:?}"))
        .remedy("it left, or stayed away longer than max.poll.interval.ms; poll again to rejoin")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::{RangeAssignor, RoundRobinAssignor};

    const INTERVAL: Duration = Duration::from_secs(300);

    /// A group over topic `t`, driven by hand.
    struct Bench {
        group: Group,
        partitions: i32,
        seconds: u64,
    }

    impl Bench {
        fn new(partitions: i32) -> Self {
            Self { group: Group::new("g"), partitions, seconds: 0 }
        }

        fn on(&mut self, event: Event<'_>) -> Result<Vec<Effect>> {
            let partitions = self.partitions;
            let monotonic = Duration::from_secs(self.seconds);
            let counts = move |topic: &str| (topic == "t").then_some(partitions);
            self.group.on(event, &Context { now: Timestamp::new(1), monotonic, partitions: &counts })
        }

        fn join(&mut self, member: &str) -> Vec<Effect> {
            self.on(Event::Join(request(member, Arc::new(RangeAssignor)))).unwrap()
        }

        /// What the member gets, as `generation: partitions`, or the name of the answer.
        fn look(&mut self, member: &str) -> String {
            if let Err(e) = self.group.see(member, Duration::from_secs(self.seconds)) {
                return format!("{:?}", e.kind());
            }
            match self.group.take(member).unwrap() {
                Membership::Assigned { generation, partitions } => format!("{generation}: {partitions:?}"),
                other => format!("{other:?}"),
            }
        }
    }

    fn request(member: &str, assignor: Arc<dyn Assignor>) -> JoinRequest {
        JoinRequest {
            member: member.into(),
            client_id: "client".into(),
            topics: BTreeSet::from(["t".into()]),
            assignor,
            max_poll_interval: INTERVAL,
        }
    }

    #[test]
    fn members_that_hold_nothing_never_delay_a_rebalance() {
        let mut bench = Bench::new(4);
        for member in ["a", "b", "c", "d", "e"] {
            bench.join(member);
            assert_eq!(bench.group.state(), GroupState::Stable);
        }
        assert_eq!(bench.look("a"), "5: [t-0]");
        assert_eq!(bench.look("a"), "Unchanged");
        assert_eq!(bench.look("e"), "5: []");
        // The idle one leaves and comes back: only owners have to be waited for.
        bench.on(Event::Leave { member: "e" }).unwrap();
        assert_eq!(bench.look("a"), "Rejoin");
        assert_eq!(bench.look("b"), "Waiting");
    }

    #[test]
    fn a_partition_changes_hands_only_when_its_owner_has_joined_again() {
        let mut bench = Bench::new(2);
        bench.join("a");
        assert_eq!(bench.look("a"), "1: [t-0, t-1]");
        assert_eq!(bench.join("b"), [Effect::Wake]);
        assert_eq!(bench.group.state(), GroupState::PreparingRebalance);
        assert_eq!(bench.look("b"), "Waiting");
        // The owner finishes what it has, commits, and learns of it at its next poll.
        bench.group.check_commit("a", 1).unwrap();
        assert_eq!(bench.look("a"), "Rejoin");
        assert_eq!(bench.look("b"), "Waiting");
        bench.join("a");
        assert_eq!(bench.look("a"), "2: [t-0]");
        assert_eq!(bench.look("b"), "2: [t-1]");
        assert_eq!(bench.group.check_commit("a", 1).unwrap_err().kind(), ErrorKind::IllegalGeneration);
        assert_eq!(bench.group.check_commit("x", 2).unwrap_err().kind(), ErrorKind::UnknownMember);
        assert_eq!(bench.group.check_commit("", -1).unwrap_err().kind(), ErrorKind::UnknownMember);
        // Joining again without a reason changes nothing.
        assert_eq!(bench.join("a"), []);
    }

    #[test]
    fn the_partitions_of_one_who_leaves_or_stays_away_go_to_the_others() {
        let mut bench = Bench::new(2);
        for member in ["a", "b", "c"] {
            bench.join(member);
        }
        assert_eq!([bench.look("a"), bench.look("b")], ["3: [t-0]", "3: [t-1]"]);
        bench.on(Event::Leave { member: "a" }).unwrap();
        bench.seconds = 299;
        assert_eq!(bench.look("c"), "Waiting");
        assert_eq!(bench.on(Event::Tick).unwrap(), []);
        bench.seconds = 300;
        bench.on(Event::Tick).unwrap();
        assert_eq!(bench.look("b"), "UnknownMember");
        assert_eq!(bench.look("c"), "4: [t-0, t-1]");
        assert_eq!(bench.group.next_deadline(), Some(Duration::from_secs(600)));
        let effects = bench.on(Event::Leave { member: "c" }).unwrap();
        let empty = GroupMetadata {
            protocol_type: "consumer".into(),
            generation: 5,
            protocol: None,
            leader: None,
            state_since: Timestamp::new(1),
            members: Vec::new(),
        };
        assert_eq!(effects, [Effect::Store(empty), Effect::Wake]);
        assert_eq!(bench.group.state(), GroupState::Empty);
        assert!(bench.group.check_commit("", -1).is_ok());
    }

    #[test]
    fn added_partitions_and_late_topics_start_a_rebalance() {
        let mut bench = Bench::new(1);
        bench.join("a");
        assert_eq!(bench.look("a"), "1: [t-0]");
        assert_eq!(bench.on(Event::TopicsChanged).unwrap(), []);
        bench.partitions = 3;
        bench.on(Event::TopicsChanged).unwrap();
        assert_eq!(bench.look("a"), "Rejoin");
        bench.join("a");
        assert_eq!(bench.look("a"), "2: [t-0, t-1, t-2]");
    }

    #[test]
    fn members_must_agree_on_the_assignor() {
        let mut bench = Bench::new(1);
        bench.join("a");
        let refused = bench.on(Event::Join(request("b", Arc::new(RoundRobinAssignor)))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
        // Whoever is alone may change it.
        bench.on(Event::Join(request("a", Arc::new(RoundRobinAssignor)))).unwrap();
        assert_eq!(bench.group.assignor(), Some("roundrobin"));
    }

    #[test]
    fn an_assignor_that_errs_is_corrected() {
        #[derive(Debug)]
        struct Everything;
        impl Assignor for Everything {
            fn name(&self) -> &str {
                "everything"
            }
            fn assign(
                &self,
                members: &[GroupMember],
                _: &BTreeMap<Arc<str>, i32>,
            ) -> BTreeMap<String, Vec<TopicPartition>> {
                let claims = [("t", 0), ("t", 0), ("t", 1), ("u", 0)].map(|(t, p)| TopicPartition::new(t, p));
                members.iter().map(|m| (m.id().to_owned(), claims.to_vec())).collect()
            }
        }
        let mut bench = Bench::new(1);
        for member in ["a", "b"] {
            bench.on(Event::Join(request(member, Arc::new(Everything)))).unwrap();
        }
        assert_eq!([bench.look("a"), bench.look("b")], ["2: [t-0]", "2: []"]);
    }

    /// What members believe to hold, driven by arbitrary events.
    #[derive(Debug, Default)]
    struct Beliefs(BTreeMap<String, Vec<TopicPartition>>);

    impl Beliefs {
        fn step(&mut self, bench: &mut Bench, what: u8, member: &str) {
            match what {
                0 => {
                    // In a stable group, joining again with the same wish changes nothing.
                    if bench.group.state() != GroupState::Stable {
                        self.0.remove(member);
                    }
                    bench.join(member);
                }
                1 => {
                    self.0.remove(member);
                    drop(bench.on(Event::Leave { member }));
                }
                2 => bench.seconds += 100,
                3 => {
                    bench.partitions = bench.partitions % 5 + 1;
                    bench.on(Event::TopicsChanged).unwrap();
                }
                4 => drop(bench.on(Event::Tick).unwrap()),
                _ => self.look(bench, member),
            }
            // Whoever was removed is fenced: what it believes no longer matters.
            self.0.retain(|id, _| bench.group.members.contains_key(id));
        }

        fn look(&mut self, bench: &mut Bench, member: &str) {
            if bench.group.see(member, Duration::from_secs(bench.seconds)).is_err() {
                return;
            }
            match bench.group.take(member).unwrap() {
                Membership::Assigned { partitions, .. } => drop(self.0.insert(member.to_owned(), partitions)),
                Membership::Rejoin => self.step(bench, 0, member),
                Membership::Unchanged | Membership::Waiting => {}
            }
        }

        fn held(&self) -> Vec<&TopicPartition> {
            self.0.values().flatten().collect()
        }
    }

    proptest::proptest! {
        #[test]
        fn no_partition_ever_has_two_readers_and_in_the_end_each_has_one(
            steps in proptest::collection::vec((0_u8..8, 0_usize..4), 1..80),
        ) {
            let mut bench = Bench::new(3);
            let mut beliefs = Beliefs::default();
            for (what, member) in steps {
                beliefs.step(&mut bench, what, ["a", "b", "c", "d"][member]);
                let held = beliefs.held();
                assert_eq!(held.len(), held.iter().collect::<BTreeSet<_>>().len(), "{beliefs:?}");
            }
            let members: Vec<_> = bench.group.members.keys().cloned().collect();
            for member in members.iter().chain(&members).chain(&members) {
                beliefs.look(&mut bench, member);
            }
            let expected = if members.is_empty() { 0 } else { bench.partitions };
            assert_eq!(i32::try_from(beliefs.held().len()).unwrap(), expected);
        }
    }
}

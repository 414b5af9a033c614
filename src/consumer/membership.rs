//! A consumer's part in its group: joining, looking for rebalances, taking over and giving up
//! partitions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::cursor::Cursor;
use super::poll::{Consumer, NO_GENERATION, Reading};
use super::subscription::Topics;
use crate::broker::Partition;
use crate::error::{ErrorKind, Result};
use crate::group::{Generation, JoinRequest, Membership};
use crate::types::{Offset, TopicPartition, Uuid};

/// How a consumer belongs to its group.
pub(super) struct Member {
    pub(super) id: String,
    /// Of the assignment that it took last; none before the first.
    pub(super) generation: Generation,
    /// It has given up its partitions and waits for the others to do the same.
    waiting: bool,
    topics: Topics,
    /// The topics that it has told the group.
    resolved: BTreeSet<Arc<str>>,
    /// The catalog's version that `resolved` was made from.
    catalog: u64,
}

/// A partition that the consumer holds and reads.
pub(super) struct Held {
    pub(super) partition: Partition,
    /// The offset that it knows to be committed.
    pub(super) committed: Option<Offset>,
    pub(super) cursor: Cursor,
}

impl Consumer {
    pub(super) fn member_id(&self) -> Option<&str> {
        match &self.reading {
            Reading::Member(member) => Some(&member.id),
            Reading::Nothing | Reading::ByHand => None,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(&self.reading, Reading::Member(member) if member.waiting)
    }

    /// Tells the group what to read, as a new member or with a changed wish. `catalog`: the version that
    /// `resolved` was made from.
    pub(super) fn join(&mut self, topics: Topics, resolved: BTreeSet<Arc<str>>, catalog: u64) -> Result<()> {
        let (id, generation) = match &self.reading {
            Reading::Member(member) => (member.id.clone(), member.generation),
            Reading::Nothing | Reading::ByHand => (self.new_member_id()?, NO_GENERATION),
        };
        // Whatever comes of it, nothing is read between the old wish and the new assignment.
        let member = Member { id, generation, waiting: true, topics, resolved, catalog };
        self.send_join(&member)?;
        self.held.values_mut().for_each(|held| held.cursor.unfetch());
        self.reading = Reading::Member(member);
        Ok(())
    }

    fn new_member_id(&self) -> Result<String> {
        Ok(format!("{}-{}", self.settings.client_id, Uuid::random()?))
    }

    fn send_join(&self, member: &Member) -> Result<()> {
        let request = JoinRequest {
            member: member.id.clone(),
            client_id: self.settings.client_id.clone(),
            topics: member.resolved.clone(),
            assignor: Arc::clone(&self.settings.assignor),
            max_poll_interval: self.settings.max_poll_interval,
        };
        self.broker.join_group(&self.group, request)
    }

    pub(super) fn leave(&self, member: &Member) -> Result<()> {
        match self.broker.leave_group(&self.group, &member.id) {
            // The group had removed it before.
            Err(e) if matches!(e.kind(), ErrorKind::UnknownMember | ErrorKind::UnknownGroup) => Ok(()),
            result => result,
        }
    }

    /// Looks at the group and does what it asks for. Answers after how long to look again.
    pub(super) fn keep_membership(&mut self) -> Result<Option<Duration>> {
        self.follow_catalog()?;
        loop {
            let Reading::Member(member) = &mut self.reading else { return Ok(None) };
            match self.broker.check_in(&self.group, &member.id) {
                Ok((Membership::Rejoin, _)) => {
                    member.waiting = true;
                    self.held.values_mut().for_each(|held| held.cursor.unfetch());
                    self.rejoin()?;
                }
                Ok((Membership::Assigned { generation, partitions }, _)) => {
                    let without_a_break = generation == member.generation.saturating_add(1);
                    member.waiting = false;
                    member.generation = generation;
                    if !without_a_break {
                        self.let_go();
                    }
                    self.hold(partitions.into_iter().collect(), generation);
                }
                Ok((answer, deadline)) => {
                    member.waiting = answer == Membership::Waiting;
                    let interval = self.settings.max_poll_interval / 3;
                    let left = deadline.map(|at| at.saturating_sub(self.broker.clock().monotonic()));
                    return Ok(Some(left.map_or(interval, |left| left.min(interval)).max(Duration::from_millis(1))));
                }
                Err(e) if matches!(e.kind(), ErrorKind::UnknownMember | ErrorKind::UnknownGroup) => {
                    // It stayed away too long, and others have read on: it starts as somebody new.
                    self.let_go();
                    let id = self.new_member_id()?;
                    if let Reading::Member(member) = &mut self.reading {
                        (member.id, member.generation, member.waiting) = (id, NO_GENERATION, true);
                    }
                    self.rejoin()?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn rejoin(&self) -> Result<()> {
        let Reading::Member(member) = &self.reading else { return Ok(()) };
        self.send_join(member)
    }

    /// Tells the group when topics have come or gone that its pattern matches.
    fn follow_catalog(&mut self) -> Result<()> {
        let Reading::Member(member) = &mut self.reading else { return Ok(()) };
        let version = self.broker.catalog_version();
        if member.catalog == version {
            return Ok(());
        }
        let resolved = member.topics.resolve(&self.broker);
        member.catalog = version;
        if member.resolved == resolved {
            return Ok(());
        }
        let topics = member.topics.clone();
        self.join(topics, resolved, version)
    }

    /// Makes `partitions` the ones that it reads. Those that it held before go on where they were.
    pub(super) fn hold(&mut self, mut partitions: BTreeSet<TopicPartition>, since: Generation) {
        let held_before = self.held.len();
        self.held.retain(|tp, held| {
            // A topic that was deleted and made anew is another one.
            let same = |now: Partition| now.topic_id() == held.partition.topic_id();
            partitions.contains(tp) && self.broker.partition(tp).is_ok_and(same) && partitions.remove(tp)
        });
        self.unplaced = partitions.into_iter().map(|tp| (tp, since)).collect();
        if self.held.len() < held_before {
            self.renew_signal();
        }
    }

    /// Reads nothing any more.
    pub(super) fn let_go(&mut self) {
        self.hold(BTreeSet::new(), NO_GENERATION);
    }

    /// Watches the groups and the partitions that it holds, and nothing else.
    pub(super) fn renew_signal(&mut self) {
        self.signal = Arc::default();
        self.broker.watch_groups(&self.signal);
        self.held.values().for_each(|held| held.partition.watch(&self.signal));
        *self.wakeup.signal.lock() = Arc::clone(&self.signal);
    }

    /// Starts to read a partition at `position`.
    pub(super) fn place(
        &mut self,
        partition: Partition,
        since: Generation,
        position: Offset,
        committed: Option<Offset>,
    ) {
        partition.watch(&self.signal);
        let tp = partition.topic_partition().clone();
        let cursor = Cursor::new(tp.clone(), since, position);
        self.unplaced.remove(&tp);
        self.held.insert(tp, Held { partition, committed, cursor });
    }
}

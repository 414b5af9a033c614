//! Byte budgets: how much the logs of a topic, or of all topics, may hold, and what an append does when it is used
//! up.
//!
//! The count is the logs' own (`log/meter.rs`). Kafka's own topics and the catalog have no budget. Invariant: a sum
//! passes its budget by one batch per appending thread at most, since each looks before it appends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::name;
use super::{Attempt, Partition};
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Meter, Oldest, Sum};
use crate::types::Timestamp;

/// A log under a budget has segments no larger than this part of it: only whole ones free space.
const SEGMENTS: u64 = 8;

/// What an append does when a byte budget is used up; see [`BrokerBuilder::byte_budget`](crate::BrokerBuilder::byte_budget).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFull {
    /// It fails at once.
    Reject,
    /// It waits until retention, [`delete_records`](crate::Partition::delete_records) or the deletion of a topic frees
    /// space, and fails when that takes longer than so.
    Block(Duration),
    /// The oldest whole segments are deleted to make room, of whichever topic under the budget they are. Nothing that
    /// is not visible yet is deleted, and nothing of a topic that is only compacted; without anything to delete the
    /// append fails.
    DropOldest,
}

/// A budget of one topic, or of all together.
#[derive(Debug)]
pub(crate) struct Budget {
    /// `None` for all together.
    topic: Option<Arc<str>>,
    limit: u64,
    on_full: OnFull,
    sum: Arc<Sum>,
    /// Held while the oldest segments are deleted.
    dropping: Mutex<()>,
}

/// The budgets of one broker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budgets {
    all: Option<Arc<Budget>>,
    topics: BTreeMap<Arc<str>, Arc<Budget>>,
}

impl Budgets {
    /// Sets the budget of one topic, or of all together.
    pub(crate) fn set(&mut self, topic: Option<&str>, limit: u64, on_full: OnFull) -> Result<()> {
        if limit == 0 {
            return Err(Error::new(ErrorKind::InvalidConfig, "a byte budget of 0 lets nothing be appended"));
        }
        let budget = |topic| {
            let (sum, dropping) = (Arc::default(), Mutex::new(()));
            Arc::new(Budget { topic, limit, on_full, sum, dropping })
        };
        let Some(topic) = topic else {
            self.all = Some(budget(None));
            return Ok(());
        };
        name::validate(topic)?;
        if name::is_internal(topic) {
            let message = format!("topic {topic:?} is Kafka's own and has no byte budget");
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        let topic = Arc::<str>::from(topic);
        self.topics.insert(Arc::clone(&topic), budget(Some(topic)));
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_none() && self.topics.is_empty()
    }

    /// Those that a topic is under.
    pub(super) fn of(&self, topic: &str) -> Vec<Arc<Budget>> {
        if name::is_internal(topic) {
            return Vec::new();
        }
        self.topics.get(topic).into_iter().chain(&self.all).cloned().collect()
    }

    /// The count of one.
    #[cfg(test)]
    pub(crate) fn sum(&self, topic: Option<&str>) -> &Sum {
        let budget = topic.map_or(self.all.as_ref(), |topic| self.topics.get(topic));
        &budget.expect("a budget").sum
    }

    /// Has everybody who waits for space look around.
    pub(crate) fn notify(&self) {
        self.topics.values().chain(&self.all).for_each(|budget| budget.sum.freed().notify());
    }
}

/// What counts the bytes of a log that is under these budgets.
pub(super) fn meter(budgets: &[Arc<Budget>]) -> Arc<Meter> {
    Arc::new(Meter::of(budgets.iter().map(|budget| Arc::clone(&budget.sum)).collect()))
}

impl Budget {
    fn has_room(&self, bytes: u64) -> bool {
        self.sum.bytes().saturating_add(bytes) <= self.limit
    }

    /// Whether an append of so many bytes takes the place of others.
    #[cfg(feature = "testing")]
    pub(super) fn would_drop(&self, bytes: u64) -> bool {
        self.on_full == OnFull::DropOldest && !self.has_room(bytes)
    }

    /// The largest segment that a log under this budget should have.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.limit / SEGMENTS
    }

    /// Waits for space where that is the policy.
    pub(super) fn wait_for_room(&self, partition: &Partition, bytes: u64) -> Result<()> {
        if self.has_room(bytes) {
            return Ok(());
        }
        let now = || partition.clock().monotonic();
        let begun = now();
        loop {
            let seen = self.sum.freed().count();
            let Some(left) = self.look_for_room(partition, bytes, now().saturating_sub(begun))? else { return Ok(()) };
            self.sum.freed().wait_past(seen, Some(left));
        }
    }

    /// The same for a task that has `waited`: how much longer it may.
    #[cfg(feature = "async")]
    pub(super) fn poll_room(
        &self,
        partition: &Partition,
        bytes: u64,
        waited: Duration,
        waker: &std::task::Waker,
    ) -> Result<Option<Duration>> {
        loop {
            let seen = self.sum.freed().count();
            let left = self.look_for_room(partition, bytes, waited)?;
            if left.is_none() || !self.sum.freed().poll_past(seen, waker) {
                return Ok(left);
            }
        }
    }

    /// How much longer whoever has `waited` may wait; `None` when it need not, as there is room or that is no policy.
    fn look_for_room(&self, partition: &Partition, bytes: u64, waited: Duration) -> Result<Option<Duration>> {
        let OnFull::Block(timeout) = self.on_full else { return Ok(None) };
        if self.has_room(bytes) {
            return Ok(None);
        }
        self.check_fits(partition, bytes)?;
        partition.check_alive()?;
        let left = timeout.saturating_sub(waited);
        if left.is_zero() { Err(self.full(partition, bytes)) } else { Ok(Some(left)) }
    }

    /// Lets an append in or refuses it; who may wait has waited. `false` where others have to be dropped first.
    pub(super) fn admit(&self, partition: &Partition, bytes: u64) -> Result<bool> {
        if self.has_room(bytes) {
            return Ok(true);
        }
        self.check_fits(partition, bytes)?;
        match self.on_full {
            OnFull::Block(_) => Ok(true),
            OnFull::Reject => Err(self.full(partition, bytes)),
            OnFull::DropOldest => Ok(false),
        }
    }

    /// The same, with the room made for it: that waits for the disk.
    pub(super) fn make_room(&self, partition: &Partition, bytes: u64) -> Result<()> {
        if self.admit(partition, bytes)? { Ok(()) } else { self.drop_oldest(self.dropping.lock(), partition, bytes) }
    }

    /// The same, but for room that somebody else is making.
    pub(super) fn make_room_in_turn(&self, partition: &Partition, bytes: u64) -> Result<Attempt> {
        if self.admit(partition, bytes)? {
            return Ok(Attempt::Done);
        }
        let Some(alone) = self.dropping.try_lock() else { return Ok(Attempt::OthersAtIt) };
        self.drop_oldest(alone, partition, bytes).map(|()| Attempt::Done)
    }

    fn drop_oldest(&self, _alone: MutexGuard<'_, ()>, partition: &Partition, bytes: u64) -> Result<()> {
        let Some(host) = partition.host() else { return Err(self.full(partition, bytes)) };
        let (mut failed, mut failing, mut looked) = (None, Vec::<Arc<Partition>>::new(), None);
        while !self.has_room(bytes) {
            let now = (self.sum.bytes(), self.sum.freed().count());
            let mut candidates = host.partitions(self.topic.as_deref());
            candidates.retain(|it| it.may_drop() && !failing.iter().any(|failed| Arc::ptr_eq(failed, it)));
            let (mut oldest, mut not_visible) = (None::<(Timestamp, _)>, None);
            for candidate in &candidates {
                match candidate.oldest() {
                    Ok(Oldest::AgesFrom(age)) if oldest.is_none_or(|(least, _)| age < least) => {
                        oldest = Some((age, candidate));
                    }
                    Ok(Oldest::NotVisible) => not_visible = Some(candidate),
                    Ok(_) => {}
                    Err(error) => {
                        failing.push(Arc::clone(candidate));
                        failed = failed.or(Some(error));
                    }
                }
            }
            let (tried, candidate) = match (oldest, not_visible) {
                (Some((_, candidate)), _) => (candidate.drop_oldest(), candidate),
                (None, Some(candidate)) => (candidate.sync(), candidate),
                // All that was counted is gone, or cannot go.
                (None, None) if looked == Some(now) => {
                    let full = self.full(partition, bytes);
                    return Err(failed.into_iter().fold(full, Error::source));
                }
                (None, None) => {
                    looked = Some(now);
                    continue;
                }
            };
            if let Err(error) = tried {
                failing.push(Arc::clone(candidate));
                failed = failed.or(Some(error));
            }
        }
        Ok(())
    }

    /// What no deletion makes room for.
    fn check_fits(&self, partition: &Partition, bytes: u64) -> Result<()> {
        if bytes <= self.limit {
            return Ok(());
        }
        let message = format!("a batch of {bytes} bytes is larger than {}, {} bytes", self.name(), self.limit);
        Err(Error::new(ErrorKind::TooLarge, message).partition(partition.name().clone()).remedy(self.raise()))
    }

    fn full(&self, partition: &Partition, bytes: u64) -> Error {
        let (name, used, limit) = (self.name(), self.sum.bytes(), self.limit);
        let message = format!("{name} is used up: {used} of {limit} bytes, and a batch of {bytes} came");
        let remedy = format!("delete records or a topic, keep less with retention.bytes, or {}", self.raise());
        Error::new(ErrorKind::StorageFull, message).partition(partition.name().clone()).remedy(remedy)
    }

    fn name(&self) -> String {
        match &self.topic {
            Some(topic) => format!("the byte budget of topic {topic:?}"),
            None => "the broker's byte budget".to_owned(),
        }
    }

    fn raise(&self) -> &'static str {
        match self.topic {
            Some(_) => "raise BrokerBuilder::topic_byte_budget",
            None => "raise BrokerBuilder::byte_budget",
        }
    }
}

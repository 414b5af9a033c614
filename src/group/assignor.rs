//! Which member reads which partition: the [`Assignor`] contract and the assignors that Kafka calls
//! `range` and `roundrobin`. Pure functions of the members and the partition counts, so that every
//! node and every client comes to the same answer.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::types::TopicPartition;

/// One member of a group, as an [`Assignor`] sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    id: String,
    instance_id: Option<String>,
    topics: Vec<Arc<str>>,
}

impl GroupMember {
    /// A member that subscribes to `topics`.
    ///
    /// ```
    /// use thalweg::GroupMember;
    /// let member = GroupMember::new("app-1", ["orders", "payments"]);
    /// assert!(member.subscribes_to("orders"));
    /// ```
    #[must_use]
    pub fn new<T: Into<Arc<str>>>(id: impl Into<String>, topics: impl IntoIterator<Item = T>) -> Self {
        Self { id: id.into(), instance_id: None, topics: topics.into_iter().map(Into::into).collect() }
    }

    /// Makes it a static member (`group.instance.id`, KIP-345), whose place in the order does not
    /// change when it comes back under a new member id.
    #[must_use]
    pub fn static_instance(mut self, instance_id: impl Into<String>) -> Self {
        self.instance_id = Some(instance_id.into());
        self
    }

    /// The member id, unique within its group.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The `group.instance.id` of a static member.
    #[must_use]
    pub fn instance_id(&self) -> Option<&str> {
        self.instance_id.as_deref()
    }

    /// The topics that it wants to read.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(|t| &**t)
    }

    /// Whether it wants to read `topic`.
    #[must_use]
    pub fn subscribes_to(&self, topic: &str) -> bool {
        self.topics.iter().any(|t| &**t == topic)
    }

    /// Kafka's order: static members first, by instance id, then the others by member id.
    fn order(&self, other: &Self) -> Ordering {
        match (&self.instance_id, &other.instance_id) {
            (Some(a), Some(b)) => java_order(a, b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => java_order(&self.id, &other.id),
        }
    }
}

/// Java compares strings by UTF-16 units, which differs from UTF-8 order above the surrogates.
fn java_order(a: &str, b: &str) -> Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}

/// Decides which member reads which partition (`partition.assignment.strategy`).
///
/// All members of a group must name the same one. An answer that gives a partition to two members,
/// to a member that does not subscribe to its topic, or that invents one is corrected: the first
/// valid claim, in order of member ids, holds.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::Arc;
/// use thalweg::{Assignor, GroupMember, TopicPartition};
///
/// #[derive(Debug)]
/// struct EverythingToTheFirst;
///
/// impl Assignor for EverythingToTheFirst {
///     fn name(&self) -> &str {
///         "first"
///     }
///
///     fn assign(
///         &self,
///         members: &[GroupMember],
///         partitions: &BTreeMap<Arc<str>, i32>,
///     ) -> BTreeMap<String, Vec<TopicPartition>> {
///         let all = partitions.iter().flat_map(|(t, n)| (0..*n).map(|p| TopicPartition::new(t.clone(), p)));
///         members.first().map(|m| (m.id().to_owned(), all.collect())).into_iter().collect()
///     }
/// }
/// # let members = [GroupMember::new("m", ["orders"])];
/// # let counts = BTreeMap::from([(Arc::from("orders"), 2)]);
/// # assert_eq!(EverythingToTheFirst.assign(&members, &counts)["m"].len(), 2);
/// ```
pub trait Assignor: Send + Sync + fmt::Debug {
    /// The name that members agree on and that tools show.
    fn name(&self) -> &str;

    /// Distributes the partitions of all subscribed topics. `partitions` holds the number of
    /// partitions of every existing topic that some member subscribes to. Members that are not
    /// named in the answer get nothing.
    fn assign(
        &self,
        members: &[GroupMember],
        partitions: &BTreeMap<Arc<str>, i32>,
    ) -> BTreeMap<String, Vec<TopicPartition>>;
}

/// Kafka's `range`: per topic, each member in order gets one contiguous run; the first ones get one
/// more where the division leaves a rest. Topics with equal counts are cut alike, so that one member
/// reads the same partition numbers of each.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::Arc;
/// use thalweg::{Assignor, GroupMember, RangeAssignor, TopicPartition};
/// let members = [GroupMember::new("a", ["orders"]), GroupMember::new("b", ["orders"])];
/// let given = RangeAssignor.assign(&members, &BTreeMap::from([(Arc::from("orders"), 3)]));
/// assert_eq!(given["a"], [TopicPartition::new("orders", 0), TopicPartition::new("orders", 1)]);
/// assert_eq!(given["b"], [TopicPartition::new("orders", 2)]);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RangeAssignor;

impl Assignor for RangeAssignor {
    fn name(&self) -> &str {
        "range"
    }

    fn assign(
        &self,
        members: &[GroupMember],
        partitions: &BTreeMap<Arc<str>, i32>,
    ) -> BTreeMap<String, Vec<TopicPartition>> {
        let members = in_order(members);
        let mut given: BTreeMap<String, Vec<TopicPartition>> = BTreeMap::new();
        for (topic, &count) in partitions {
            let readers: Vec<_> = members.iter().filter(|m| m.subscribes_to(topic)).collect();
            let mut rest = 0..count;
            for (place, member) in readers.iter().enumerate() {
                // Dealing what is left evenly to those who are left puts the longer runs first.
                let share = rest.len().div_ceil(readers.len() - place);
                let run = rest.by_ref().take(share).map(|p| TopicPartition::new(topic.clone(), p));
                given.entry(member.id.clone()).or_default().extend(run);
            }
        }
        given
    }
}

/// Kafka's `roundrobin`: all partitions of all topics, in order, are dealt one at a time to the
/// members in order; a member that does not subscribe to a topic is skipped.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::Arc;
/// use thalweg::{Assignor, GroupMember, RoundRobinAssignor, TopicPartition};
/// let members = [GroupMember::new("a", ["x", "y"]), GroupMember::new("b", ["x", "y"])];
/// let counts = BTreeMap::from([(Arc::from("x"), 1), (Arc::from("y"), 1)]);
/// let given = RoundRobinAssignor.assign(&members, &counts);
/// assert_eq!(given["b"], [TopicPartition::new("y", 0)]);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobinAssignor;

impl Assignor for RoundRobinAssignor {
    fn name(&self) -> &str {
        "roundrobin"
    }

    fn assign(
        &self,
        members: &[GroupMember],
        partitions: &BTreeMap<Arc<str>, i32>,
    ) -> BTreeMap<String, Vec<TopicPartition>> {
        let members = in_order(members);
        let mut given: BTreeMap<String, Vec<TopicPartition>> = BTreeMap::new();
        let mut next = 0;
        for (topic, &count) in partitions {
            for partition in 0..count {
                let mut turn = (next..next + members.len()).map(|i| i % members.len());
                if let Some(place) = turn.find(|&i| members[i].subscribes_to(topic)) {
                    next = place + 1;
                    let tp = TopicPartition::new(topic.clone(), partition);
                    given.entry(members[place].id.clone()).or_default().push(tp);
                }
            }
        }
        given
    }
}

fn in_order(members: &[GroupMember]) -> Vec<&GroupMember> {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_by(|a, b| a.order(b));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(topics: &[(&str, i32)]) -> BTreeMap<Arc<str>, i32> {
        topics.iter().map(|(t, n)| (Arc::from(*t), *n)).collect()
    }

    fn shown(given: &BTreeMap<String, Vec<TopicPartition>>, member: &str) -> String {
        let given = given.get(member).map(Vec::as_slice).unwrap_or_default();
        given.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn range_cuts_each_topic_alone_and_gives_the_first_members_more() {
        // The example of Kafka's own documentation: two topics of three partitions, two members.
        let members = [GroupMember::new("C1", ["t0", "t1"]), GroupMember::new("C0", ["t0", "t1"])];
        let given = RangeAssignor.assign(&members, &counts(&[("t0", 3), ("t1", 3)]));
        assert_eq!(shown(&given, "C0"), "t0-0 t0-1 t1-0 t1-1");
        assert_eq!(shown(&given, "C1"), "t0-2 t1-2");
        let five: Vec<_> = ["a", "b", "c"].map(|id| GroupMember::new(id, ["t"])).into();
        let given = RangeAssignor.assign(&five, &counts(&[("t", 5)]));
        assert_eq!(["a", "b", "c"].map(|m| shown(&given, m)), ["t-0 t-1", "t-2 t-3", "t-4"]);
    }

    #[test]
    fn range_leaves_surplus_members_and_non_subscribers_without() {
        let members = [GroupMember::new("a", ["t"]), GroupMember::new("b", ["t"]), GroupMember::new("c", ["u"])];
        let given = RangeAssignor.assign(&members, &counts(&[("t", 1), ("u", 2)]));
        assert_eq!(["a", "b", "c"].map(|m| shown(&given, m)), ["t-0", "", "u-0 u-1"]);
        assert!(RangeAssignor.assign(&[], &counts(&[("t", 1)])).is_empty());
    }

    #[test]
    fn static_members_come_first_by_instance_id() {
        let members = [
            GroupMember::new("a", ["t"]),
            GroupMember::new("z", ["t"]).static_instance("i2"),
            GroupMember::new("y", ["t"]).static_instance("i1"),
        ];
        let given = RangeAssignor.assign(&members, &counts(&[("t", 3)]));
        assert_eq!(["y", "z", "a"].map(|m| shown(&given, m)), ["t-0", "t-1", "t-2"]);
    }

    #[test]
    fn round_robin_skips_those_who_do_not_subscribe() {
        // The example of Kafka's own documentation: topics of 1, 2 and 3 partitions.
        let members = [
            GroupMember::new("C0", ["t0"]),
            GroupMember::new("C1", ["t0", "t1"]),
            GroupMember::new("C2", ["t0", "t1", "t2"]),
        ];
        let given = RoundRobinAssignor.assign(&members, &counts(&[("t0", 1), ("t1", 2), ("t2", 3)]));
        assert_eq!(["C0", "C1", "C2"].map(|m| shown(&given, m)), ["t0-0", "t1-0", "t1-1 t2-0 t2-1 t2-2"]);
        assert!(RoundRobinAssignor.assign(&[], &counts(&[("t", 1)])).is_empty());
    }
}

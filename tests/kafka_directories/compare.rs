//! Our broker against the answers of Kafka: all of them, through the public interface.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};
use std::time::Duration;

use thalweg::{Broker, FindingKind, Isolation, OwnedRecord, Partition, Start, TopicPartition};

use crate::answers::{Answers, CommitAnswer, PartitionAnswer, RecordAnswer, TopicAnswer};

/// Panics with every answer of ours that is not Kafka's.
pub(crate) fn check(broker: &Broker, expected: &Answers) {
    check_with(broker, expected, Differences::default());
}

/// The same, but that the end may be above offsets that a finding calls skipped, now or when `ends` was learnt: a
/// derived file that has them may be the only trace of records.
pub(crate) fn check_but_for_skipped(broker: &Broker, expected: &Answers, ends: &mut Ends) {
    check_with(broker, expected, Differences { skips: Some((broker, ends)), ..Differences::default() });
}

/// Where partitions end whose offsets were skipped.
pub(crate) type Ends = BTreeMap<TopicPartition, i64>;

fn check_with(broker: &Broker, expected: &Answers, mut differences: Differences<'_>) {
    match broker.topics() {
        Err(error) => differences.add("topics", error),
        Ok(topics) => {
            let shown: Vec<_> = topics.iter().map(thalweg::Topic::name).collect();
            let visible: Vec<_> = expected.topics.keys().filter(|name| !name.starts_with("__")).collect();
            differences.unless_same("topics", shown, visible);
        }
    }
    for (name, topic) in &expected.topics {
        compare_topic(broker, name, topic, &mut differences);
    }
    compare_groups(broker, expected, &mut differences);
    differences.report();
}

/// The same for one partition.
pub(crate) fn check_partition(partition: &Partition, expected: &PartitionAnswer) {
    let mut differences = Differences::default();
    compare_partition(partition, expected, &mut differences);
    differences.report();
}

/// What is not as Kafka said.
#[derive(Default)]
struct Differences<'a> {
    all: Vec<String>,
    /// The broker whose findings excuse offsets that were left out.
    skips: Option<(&'a Broker, &'a mut Ends)>,
}

impl Differences<'_> {
    fn add(&mut self, what: &str, difference: impl Display) {
        self.all.push(format!("{what}: {difference}"));
    }

    fn unless_same<A: PartialEq<B> + Debug, B: Debug>(&mut self, what: &str, ours: A, kafka: B) {
        if ours != kafka {
            self.add(what, format!("we say {ours:?}, Kafka says {kafka:?}"));
        }
    }

    fn report(&self) {
        assert!(self.all.is_empty(), "{} differences:\n{}", self.all.len(), self.all.join("\n"));
    }

    /// Where the partition ends if offsets from `end` on were left out.
    fn end_of(&mut self, at: &TopicPartition, end: i64) -> i64 {
        let Some((broker, ends)) = &mut self.skips else { return end };
        for finding in broker.findings() {
            if let (FindingKind::Skipped, Some(partition), Some(offsets)) =
                (finding.kind, finding.partition, finding.offsets)
            {
                ends.insert(partition, offsets.end.get());
            }
        }
        ends.get(at).copied().unwrap_or(end)
    }
}

fn compare_topic(broker: &Broker, name: &str, expected: &TopicAnswer, differences: &mut Differences<'_>) {
    let topic = match broker.topic(name).open() {
        Ok(topic) => topic,
        Err(error) => return differences.add(name, error),
    };
    differences.unless_same(&format!("{name}: id"), topic.id().to_string(), expected.id.as_str());
    differences.unless_same(&format!("{name}: partitions"), topic.partition_count(), expected.partitions.len());
    for (config, value) in &expected.configs {
        let ours = topic.config(config).unwrap_or_else(|e| e.to_string());
        differences.unless_same(&format!("{name}: {config}"), &ours, value);
    }
    if name.starts_with("__") {
        return;
    }
    for (partition, expected) in topic.partitions().iter().zip(&expected.partitions) {
        compare_partition(partition, expected, differences);
        compare_consumer(broker, partition.topic_partition(), expected, differences);
    }
}

fn compare_partition(partition: &Partition, expected: &PartitionAnswer, differences: &mut Differences<'_>) {
    let at = partition.topic_partition().to_string();
    match partition.offsets() {
        Err(error) => return differences.add(&at, error),
        Ok(o) => {
            let ours = (o.log_start.get(), o.last_stable.get(), o.high_watermark.get(), o.end.get());
            let end = differences.end_of(partition.topic_partition(), expected.latest);
            let stable = if expected.last_stable == expected.latest { end } else { expected.last_stable };
            let kafka = (expected.earliest, stable, end, end);
            differences.unless_same(&format!("{at}: start, last stable, high watermark, end"), ours, kafka);
        }
    }
    for committed in [true, false] {
        let what = format!("{at} through {:?}", isolation(committed));
        let mut wanted = expected.records.iter().filter(|record| record.committed || !committed);
        for record in partition.scan(Start::Earliest).isolation(isolation(committed)) {
            match (record, wanted.next()) {
                (Err(error), _) => differences.add(&what, error),
                (Ok(record), None) => differences.add(&what, format!("Kafka has no {record:?}")),
                (Ok(record), Some(wanted)) => differences.all.extend(difference(&record, wanted)),
            }
        }
        let missing: Vec<_> = wanted.map(|record| record.offset).collect();
        differences.unless_same(&format!("{what}: not served"), missing, Vec::<i64>::new());
    }
    for answer in &expected.at {
        for (isolation, kafka) in
            [(Isolation::ReadUncommitted, answer.uncommitted), (Isolation::ReadCommitted, answer.committed)]
        {
            let what = format!("{at} at time {} through {isolation:?}", answer.time);
            match partition.offset_at(answer.time, isolation) {
                Err(error) => differences.add(&what, error),
                Ok(found) => {
                    let ours = found.map(|f| (f.offset.get(), f.timestamp.get(), f.leader_epoch.get()));
                    differences.unless_same(&what, ours, kafka);
                }
            }
        }
    }
}

/// How the served record is not Kafka's record.
pub(crate) fn difference(served: &OwnedRecord, wanted: &RecordAnswer) -> Option<String> {
    let headers: Vec<_> =
        served.headers().iter().map(|h| (h.key().to_owned(), h.value().map(<[u8]>::to_vec))).collect();
    let same = served.offset().get() == wanted.offset
        && served.timestamp().get() == wanted.timestamp
        && served.leader_epoch().get() == wanted.leader_epoch
        && served.key() == wanted.key.as_deref()
        && served.value() == wanted.value.as_deref()
        && headers == wanted.headers;
    (!same).then(|| format!("{}: we serve {served:?}, Kafka {wanted:?}", served.topic_partition()))
}

/// The other way to read: what a consumer is handed, which also knows the kind of timestamp.
fn compare_consumer(
    broker: &Broker,
    at: &TopicPartition,
    expected: &PartitionAnswer,
    differences: &mut Differences<'_>,
) {
    let wanted = expected.records.iter().filter(|record| record.committed);
    let wanted: Vec<_> = wanted.map(|r| (r.offset, r.timestamp, r.timestamp_type.clone())).collect();
    if wanted.is_empty() {
        return;
    }
    let read = || -> thalweg::Result<Vec<_>> {
        let mut consumer = broker.consumer_group("reads-all").consumer_of([at.clone()]).join()?;
        let mut shown = Vec::new();
        while shown.len() < wanted.len() {
            let records = consumer.poll(Duration::from_secs(1))?;
            if records.is_empty() {
                break;
            }
            let parts = records.iter().map(|r| (r.offset().get(), r.timestamp().get(), r.timestamp_type().to_string()));
            shown.extend(parts);
        }
        consumer.close().map(|()| shown)
    };
    match read() {
        Err(error) => differences.add(&format!("{at} by a consumer"), error),
        Ok(shown) => differences.unless_same(&format!("{at} by a consumer"), shown, wanted),
    }
}

fn compare_groups(broker: &Broker, expected: &Answers, differences: &mut Differences<'_>) {
    match broker.groups() {
        Err(error) => return differences.add("groups", error),
        Ok(groups) => {
            let listed: BTreeSet<_> = groups.iter().map(thalweg::GroupListing::id).collect();
            let missing: Vec<_> = expected.groups.keys().filter(|group| !listed.contains(group.as_str())).collect();
            differences.unless_same("groups that are not listed", missing, Vec::<&String>::new());
        }
    }
    for (group, commits) in &expected.groups {
        match broker.consumer_group(group.as_str()).all_committed() {
            Err(error) => differences.add(group, error),
            Ok(all) => {
                let ours = all.iter().map(|(at, commit)| CommitAnswer {
                    topic: at.topic().to_owned(),
                    partition: at.partition().get(),
                    offset: commit.offset().get(),
                    leader_epoch: commit.leader_epoch().map_or(-1, |epoch| epoch.get()),
                    metadata: commit.metadata().to_owned(),
                });
                differences.unless_same(&format!("group {group}"), &ours.collect::<Vec<_>>(), commits);
            }
        }
    }
}

pub(crate) fn isolation(committed: bool) -> Isolation {
    if committed { Isolation::ReadCommitted } else { Isolation::ReadUncommitted }
}

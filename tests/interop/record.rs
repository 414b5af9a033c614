//! Asks a running broker, through Kafka's own consumer and admin client, for everything that our broker must
//! answer of the same directory later.

use std::collections::BTreeMap;

use crate::answers::{Answers, CommitAnswer, PartitionAnswer, RecordAnswer, TimeAnswer, TopicAnswer};
use crate::client::Client;
use crate::peer::{Fields, OffsetRow};

/// The answers of the broker, but for internal topics' records.
pub(crate) fn everything(client: &mut Client, origin: Vec<String>) -> Answers {
    let mut all = Answers { origin, ..Answers::default() };
    let features = client.ask(&["features"]);
    all.features = features.iter().map(|line| Fields::of(line)).map(|f| (f.text(0), f.number(1))).collect();
    for row in client.topics() {
        let configs = client.topic_configs(&row.name).into_iter().collect();
        let mut topic = TopicAnswer { id: row.id, configs, partitions: Vec::new() };
        topic.partitions.resize(row.partitions, PartitionAnswer::default());
        if !row.name.starts_with("__") {
            read(client, &row.name, &mut topic.partitions);
            ask_offsets(client, &row.name, &mut topic.partitions);
        }
        all.topics.insert(row.name, topic);
    }
    for group in client.ask(&["groups"]) {
        let commits = client.committed(&group).into_iter().map(|c| CommitAnswer {
            topic: c.topic,
            partition: c.partition,
            offset: c.offset,
            leader_epoch: c.leader_epoch,
            metadata: c.metadata,
        });
        all.groups.insert(group, commits.collect());
    }
    all
}

/// A read-committed consumer gets a part of what the other gets, and nothing else.
fn read(client: &mut Client, topic: &str, partitions: &mut [PartitionAnswer]) {
    for (p, record) in records(client, topic, "read_uncommitted") {
        partitions[p].records.push(record);
    }
    for partition in partitions.iter_mut() {
        partition.records.sort_by_key(|record| record.offset);
    }
    for (p, record) in records(client, topic, "read_committed") {
        let place = partitions[p].records.binary_search_by_key(&record.offset, |known| known.offset);
        let known = &mut partitions[p].records[place.expect("a read-uncommitted consumer got it")];
        assert_eq!(*known, record, "{topic}-{p}");
        known.committed = true;
    }
}

fn records(client: &mut Client, topic: &str, isolation: &str) -> Vec<(usize, RecordAnswer)> {
    let row = |line: &String| {
        let f = Fields::of(line);
        let record = RecordAnswer {
            offset: f.number(1),
            timestamp: f.number(2),
            timestamp_type: f.text(3),
            leader_epoch: f.number(4),
            key: f.bytes(5),
            value: f.bytes(6),
            headers: f.headers(7),
            committed: false,
        };
        (f.number(0), record)
    };
    client.ask(&["records", topic, isolation]).iter().map(row).collect()
}

fn ask_offsets(client: &mut Client, topic: &str, partitions: &mut [PartitionAnswer]) {
    for row in client.offsets(topic, "earliest") {
        partitions[row.partition as usize].earliest = row.offset;
    }
    for row in client.offsets_as("latest", topic, "read_committed") {
        partitions[row.partition as usize].last_stable = row.offset;
    }
    for row in client.offsets(topic, "latest") {
        partitions[row.partition as usize].latest = row.offset;
    }
    for time in probes(partitions) {
        let at = time.to_string();
        let found = |row: &OffsetRow| (row.offset >= 0).then_some((row.offset, row.timestamp, row.leader_epoch));
        let committed = client.offsets_as(&at, topic, "read_committed");
        for (row, committed) in client.offsets(topic, &at).iter().zip(&committed) {
            let answer = TimeAnswer { time, uncommitted: found(row), committed: found(committed) };
            partitions[row.partition as usize].at.push(answer);
        }
    }
}

/// Before the first, at and just after some, at and after the largest. Negative times are other questions.
fn probes(partitions: &[PartitionAnswer]) -> Vec<i64> {
    if partitions.len() > 10 {
        return Vec::new();
    }
    let records = partitions.iter().flat_map(|partition| &partition.records);
    let times: BTreeMap<i64, ()> = records.map(|record| (record.timestamp, ())).collect();
    let times: Vec<_> = times.into_keys().collect();
    let Some(last) = times.len().checked_sub(1) else { return vec![0] };
    let mut probes: Vec<_> = [0, last / 4, last / 2, last - last / 4, last].iter().map(|i| times[*i]).collect();
    probes = probes.iter().flat_map(|time| [*time, time + 1]).chain([times[0] - 1, 0]).collect();
    probes.retain(|time| *time >= 0);
    probes.sort();
    probes.dedup();
    probes
}

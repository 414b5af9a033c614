//! Directories that stock Kafka brokers and real clients made (`tests/fixtures`): our broker answers of them what
//! Kafka's own consumer and tools answered. No network, no Java. The interop suite makes them anew.
#![allow(clippy::disallowed_methods, reason = "these tests unpack, damage and compare files of other programs")]

mod answers;
mod compare;
mod damage;
mod damaged;
mod fixture;

use std::collections::BTreeSet;
use std::time::Duration;

use damage::BatchFacts;
use fixture::Fixture;
use thalweg::{Broker, Inspection};

/// One test per fixture, so that each says what it lacks.
macro_rules! answers_as_kafka_did {
    ($($name:ident: $fixture:literal),+ $(,)?) => {$(
        #[test]
        fn $name() {
            answers_as_kafka_did(&Fixture::load($fixture));
        }
    )+};
}

answers_as_kafka_did! {
    kafka_4_3_0_killed: "kafka-4.3.0-killed",
    kafka_4_3_0_stopped: "kafka-4.3.0-stopped",
    kafka_4_3_0_with_transaction_version_0_killed: "kafka-4.3.0-tv0-killed",
    kafka_4_3_0_with_transaction_version_0_stopped: "kafka-4.3.0-tv0-stopped",
    kafka_3_9_2_killed: "kafka-3.9.2-killed",
    kafka_3_9_2_stopped: "kafka-3.9.2-stopped",
}

/// Looked at, opened as found, after a close of ours, and after our process died.
fn answers_as_kafka_did(fixture: &Fixture) {
    let dir = fixture.copy();
    let before = fixture::contents(dir.path());
    inspection_agrees(&Broker::inspect(dir.path()).expect("it can be inspected"), fixture);
    let broker = Broker::builder(dir.path()).read_only().open().unwrap_or_else(|e| panic!("read only: {e}"));
    compare::check(&broker, &fixture.answers);
    broker.close().expect("it closes");
    for (path, bytes) in fixture::contents(dir.path()) {
        assert!(before.get(&path) == Some(&bytes), "a look changed {}", path.display());
    }

    for end in ["close", "die", "close"] {
        let broker = Broker::open(dir.path()).unwrap_or_else(|e| panic!("it does not open: {e}"));
        compare::check(&broker, &fixture.answers);
        if end == "close" {
            broker.close().unwrap_or_else(|e| panic!("it does not close: {e}"));
        }
    }
}

fn inspection_agrees(ours: &Inspection, fixture: &Fixture) {
    let kafka = &fixture.answers;
    assert_eq!(ours.features, kafka.features, "features");
    assert_eq!(ours.topics.iter().map(|t| &t.name).collect::<Vec<_>>(), kafka.topics.keys().collect::<Vec<_>>());
    for topic in &ours.topics {
        let expected = &kafka.topics[&topic.name];
        assert_eq!(topic.id.to_string(), expected.id, "id of {}", topic.name);
        assert_eq!(topic.partitions.len(), expected.partitions.len(), "partitions of {}", topic.name);
        for (name, value) in &expected.configs {
            // What the broker's defaults give to its own topics is in no catalog.
            let set = topic.configs.get(name).filter(|_| !topic.name.starts_with("__")).unwrap_or(value);
            assert_eq!(set, value, "{name} of {}", topic.name);
        }
        for (p, (partition, expected)) in topic.partitions.iter().zip(&expected.partitions).enumerate() {
            if topic.name.starts_with("__") {
                continue;
            }
            let at = format!("{}-{p}", topic.name);
            let log = partition.log.as_ref().unwrap_or_else(|e| panic!("{at}: {e}"));
            let offsets = (log.offsets.log_start.get(), log.offsets.last_stable.get(), log.offsets.end.get());
            assert_eq!(offsets, (expected.earliest, expected.last_stable, expected.latest), "{at}");
            let open = log.open_transactions.iter().map(|open| open.first_offset.get()).min();
            let stable = (expected.last_stable < expected.latest).then_some(expected.last_stable);
            assert_eq!(open, stable, "open transactions of {at}");
        }
    }
    for (group, commits) in &kafka.groups {
        let ours = ours.groups.iter().find(|ours| ours.id == *group).unwrap_or_else(|| panic!("no group {group}"));
        let shown = ours
            .offsets
            .iter()
            .map(|o| (o.partition.topic(), o.partition.partition().get(), o.committed.offset().get()));
        let wanted = commits.iter().map(|c| (c.topic.as_str(), c.partition, c.offset));
        assert_eq!(shown.collect::<Vec<_>>(), wanted.collect::<Vec<_>>(), "offsets of {group}");
    }
}

/// A consumer of ours in a group of Kafka's gets what that group had not committed, and nothing else.
#[test]
fn groups_go_on_where_they_were() {
    for name in fixture::NAMES {
        let fixture = Fixture::load(name);
        let dir = fixture.copy();
        let broker = Broker::open(dir.path()).expect("it opens");
        for (group, commits) in &fixture.answers.groups {
            let topic = commits.first().map_or("codecs", |commit| commit.topic.as_str());
            let partitions = &fixture.answers.topics[topic].partitions;
            let unread = partitions.iter().enumerate().flat_map(|(p, partition)| {
                let commit = commits.iter().find(|c| c.topic == topic && c.partition == p as i32);
                let from = commit.map_or(0, |commit| commit.offset);
                partition
                    .records
                    .iter()
                    .filter(move |r| r.committed && r.offset >= from)
                    .map(move |r| (p as i32, r.offset))
            });
            let unread: BTreeSet<_> = unread.collect();
            let mut consumer = broker.consumer_group(group.as_str()).consumer([topic]).join().expect("it joins");
            let mut read = BTreeSet::new();
            while consumer.assignment().len() < partitions.len() || read.len() < unread.len() {
                let records = consumer.poll(Duration::from_millis(500)).expect("records");
                assert!(!records.is_empty() || !consumer.assignment().is_empty(), "{group} of {name} is not joined");
                read.extend(records.iter().map(|r| (r.partition().get(), r.offset().get())));
                if records.is_empty() && consumer.assignment().len() == partitions.len() {
                    break;
                }
            }
            assert_eq!(read, unread, "{group} of {name}");
            consumer.commit().expect("a commit");
            consumer.close().expect("it leaves");
            let lag = broker.consumer_group(group.as_str()).lag().expect("the lag");
            let open = partitions.iter().map(|partition| partition.latest - partition.last_stable).sum::<i64>();
            let of_topic = lag.partitions().iter().filter(|lag| lag.partition().topic() == topic).map(|lag| lag.lag());
            assert_eq!(of_topic.sum::<u64>(), open as u64, "what {group} of {name} has still to read");
        }
        broker.close().expect("it closes");
    }
}

/// No producer of ours gets the id of one of theirs.
#[test]
fn producer_ids_are_not_given_again() {
    for name in fixture::NAMES {
        let fixture = Fixture::load(name);
        let dir = fixture.copy();
        let theirs = damage::all_batches(dir.path()).map(|batch| batch.producer_id).max().expect("batches");
        let broker = Broker::open(dir.path()).expect("it opens");
        let ours = broker.allocate_producer_ids(1).expect("a block");
        assert!(ours.start > theirs && theirs > 0, "{name}: {ours:?} after {theirs}");
    }
}

/// What is written into such a directory goes on where Kafka ended, for each kind of log.
#[test]
fn goes_on_where_kafka_ended() {
    for name in fixture::NAMES {
        let fixture = Fixture::load(name);
        let dir = fixture.copy();
        for round in 0..2 {
            let broker = Broker::open(dir.path()).expect("it opens");
            let mut written = 0;
            // A few of many partitions are enough.
            let partitions = fixture.visible_topics().flat_map(|(topic, answer)| {
                answer.partitions.iter().take(4).enumerate().map(move |(p, answer)| (topic, p, answer))
            });
            for (topic, p, answer) in partitions {
                let at = format!("{topic}-{p} of {name}");
                let ours = broker.topic(topic).open().and_then(|topic| topic.partition(p as i32)).expect("a partition");
                let appended = ours.append_records([("k", "ours")]).unwrap_or_else(|e| panic!("{at}: {e}"));
                assert_eq!(appended.base_offset.get(), answer.latest + round, "{at}");
                written += 1;
            }
            assert!(written > 20, "{name} has partitions");
            broker.close().expect("it closes");
        }
    }
}

/// The texts are in the form in which the suite writes them, and hold what the tests are about.
#[test]
fn fixtures_are_what_they_claim() {
    for name in fixture::NAMES {
        let fixture = Fixture::load(name);
        assert_eq!(fixture.answers.to_text(), fixture.text, "{name}");
        assert!(fixture.answers.topics.len() > 14, "{name} has topics");
        let records = fixture.visible_topics().flat_map(|(_, topic)| &topic.partitions).flat_map(|p| &p.records);
        assert!(records.clone().any(|record| record.timestamp < -1), "{name} has a time before 1970");
        assert!(records.clone().any(|record| !record.committed), "{name} has an aborted or open transaction");
        assert!(records.clone().any(|record| record.timestamp_type == "LogAppendTime"), "{name} has append times");
        let epochs = records.clone().map(|record| record.leader_epoch).max();
        let restarted = ["kafka-4.3.0-stopped", "kafka-4.3.0-tv0-stopped", "kafka-3.9.2-killed"].contains(&name);
        assert_eq!(epochs > Some(0), restarted, "{name} has the epochs of its runs");

        let dir = fixture.copy();
        assert_eq!(dir.path().join(".kafka_cleanshutdown").exists(), name.ends_with("stopped"), "marker of {name}");
        let batches: Vec<_> = damage::all_batches(dir.path()).collect();
        let codecs: BTreeSet<_> = batches.iter().map(|batch| batch.attributes & 7).collect();
        assert_eq!(codecs, BTreeSet::from([0, 1, 2, 3, 4]), "codecs of {name}");
        let xerial = |batch: &&BatchFacts| batch.records.starts_with(b"\x82SNAPPY\0");
        let (framed, bare): (Vec<_>, Vec<_>) =
            batches.iter().filter(|batch| batch.attributes & 7 == 2).partition(xerial);
        assert!(!framed.is_empty() && !bare.is_empty(), "{name} has both kinds of snappy");
        assert!(batches.iter().any(|batch| batch.count == 0), "{name} has an empty batch of the cleaner");
        assert!(batches.iter().any(|batch| batch.attributes & 0x40 != 0), "{name} has a delete horizon");
        assert!(batches.iter().any(|batch| batch.attributes & 0x20 != 0), "{name} has transaction markers");
        let snapshots = damage::files(&dir.path().join("__cluster_metadata-0"))
            .filter(|path| path.extension().is_some_and(|extension| extension == "checkpoint"));
        assert!(snapshots.count() > 0 || !name.contains("tv0"), "{name} has a metadata snapshot");
    }
    let wide = Fixture::load("kafka-4.3.0-stopped");
    assert!(wide.visible_topics().any(|(_, topic)| topic.partitions.len() == 200), "a topic of 200 partitions");
}

//! Directories that stock Kafka brokers and real clients made (`tests/fixtures`): our broker answers of them what
//! Kafka's own consumer and tools answered. No network, no Java. The interop suite makes them anew.
#![allow(clippy::disallowed_methods, reason = "these tests unpack, damage and compare files of other programs")]

mod answers;
mod compare;
mod damage;
mod damaged;
mod fixture;

use fixture::Fixture;
use thalweg::Broker;

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

/// Opened as found, after a close of ours, and after our process died.
fn answers_as_kafka_did(fixture: &Fixture) {
    let dir = fixture.copy();
    for end in ["close", "die", "close"] {
        let broker = Broker::open(dir.path()).unwrap_or_else(|e| panic!("it does not open: {e}"));
        compare::check(&broker, &fixture.answers);
        if end == "close" {
            broker.close().unwrap_or_else(|e| panic!("it does not close: {e}"));
        }
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
    }
}

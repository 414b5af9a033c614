//! Directories that a stock broker and real clients made: killed and after a clean stop, our broker answers of
//! them what Kafka's consumer and tools answered while the broker ran.
//!
//! With `THALWEG_WRITE_FIXTURES=1` they are written to `tests/fixtures` and checked by `tests/kafka_directories`.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use thalweg::Broker;

use crate::answers::Answers;
use crate::compare;
use crate::directory::copy_dir;
use crate::kafka::{Kafka, Version};
use crate::node::{self, Layout, Node, SINGLE_NODE};
use crate::python::Python;
use crate::record;
use crate::scenes::{AGAIN, AGAIN_WIDE, FIRST, Scene, Stage};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// Small indexes keep copies small; checkpoints come soon; nothing expires.
const PROPERTIES: &str = "log.index.size.max.bytes=4096\nlog.retention.ms=-1\noffsets.retention.minutes=10000000\n\
    log.flush.start.offset.checkpoint.interval.ms=500\nreplica.high.watermark.checkpoint.interval.ms=500\n";

/// One directory's life.
struct Birth {
    name: &'static str,
    format: &'static [&'static str],
    properties: &'static str,
    runs: [(&'static [Scene], End); 2],
}

/// The newest way to end transactions (KIP-890), many partitions.
#[test]
fn v4_3_0_transaction_version_2() {
    let runs = [(FIRST, End::Killed), (AGAIN_WIDE, End::Stopped)];
    born(Version::V4_3_0, &Birth { name: "kafka-4.3.0", format: &[], properties: "", runs });
}

/// The old way; the metadata log has snapshots and several segments.
#[test]
fn v4_3_0_transaction_version_0() {
    let runs = [(FIRST, End::Killed), (AGAIN, End::Stopped)];
    let format = &["--feature", "transaction.version=0"];
    let properties = "metadata.log.max.record.bytes.between.snapshots=4000\ninternal.metadata.log.segment.bytes=4000\n";
    born(Version::V4_3_0, &Birth { name: "kafka-4.3.0-tv0", format, properties, runs });
}

/// The other way round: this release raises no leader epoch after kill -9.
#[test]
fn v3_9_2() {
    let runs = [(FIRST, End::Stopped), (AGAIN, End::Killed)];
    born(Version::V3_9_2, &Birth { name: "kafka-3.9.2", format: &[], properties: "", runs });
}

fn born(version: Version, birth: &Birth) {
    match Kafka::obtain(version).and_then(|kafka| Ok((kafka, Python::obtain()?))) {
        Ok((kafka, python)) => live(&kafka, &python, birth),
        Err(reason) => {
            use std::io::Write as _;
            writeln!(std::io::stderr(), "SKIPPED interop born_at_kafka {}: {reason}", birth.name)
                .expect("stderr is open");
        }
    }
}

/// How a run of the broker ends.
#[derive(Clone, Copy)]
enum End {
    Killed,
    Stopped,
}

/// Two runs of the broker on one directory, with a copy after each for us.
fn live(kafka: &Kafka, python: &Python, birth: &Birth) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    node::format_on(kafka, &Layout::of(&data), birth.format);
    let properties = format!("{SINGLE_NODE}{PROPERTIES}{}", birth.properties);
    for (scenes, end) in birth.runs {
        let node = Node::start(kafka, &data, &properties);
        let mut stage = Stage { client: node.client(), python: python.client(node.port), version: kafka.version };
        scenes.iter().for_each(|scene| scene(&mut stage));
        let (name, how) = match end {
            End::Killed => (format!("{}-killed", birth.name), "kill -9"),
            End::Stopped => (format!("{}-stopped", birth.name), "clean stop"),
        };
        let answers = record::everything(&mut stage.client, origin(kafka, birth, how));
        match end {
            End::Killed => {
                await_checkpoints(&data, &answers);
                node.kill();
            }
            End::Stopped => {
                // A client that lives would end its transactions.
                drop(stage);
                node.stop();
            }
        }
        keep_or_check(&data, &home.path().join(&name), &name, &answers);
    }
}

fn origin(kafka: &Kafka, birth: &Birth, end: &str) -> Vec<String> {
    vec![
        format!("Apache Kafka {}, format options {:?}, {end}", kafka.version, birth.format),
        "written by its Java client, confluent-kafka 2.16.1 (librdkafka) and kafka-python 3.0.12".to_owned(),
    ]
}

/// A log start that is on no disk yet is forgotten by Kafka, too, when it is killed.
fn await_checkpoints(data: &Path, answers: &Answers) {
    let moved = answers.topics.iter().flat_map(|(topic, answer)| {
        let starts = answer.partitions.iter().map(|partition| partition.earliest).enumerate();
        starts.filter(|(_, start)| *start > 0).map(move |(p, start)| (topic, p, start))
    });
    // One at a segment's base is in no checkpoint.
    let inside = moved.filter(|(topic, p, start)| !data.join(format!("{topic}-{p}/{start:020}.log")).exists());
    let wanted: Vec<_> = inside.map(|(topic, p, start)| format!("{topic} {p} {start}")).collect();
    assert!(!wanted.is_empty(), "some log start is inside a segment");
    let started = Instant::now();
    loop {
        let text = fs::read_to_string(data.join("log-start-offset-checkpoint")).unwrap_or_default();
        if wanted.iter().all(|line| text.lines().any(|known| known == line)) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{wanted:?} is not in {text:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What Kafka left in `data` goes to the fixtures, or a copy of it is opened by us.
fn keep_or_check(data: &Path, copy: &Path, name: &str, answers: &Answers) {
    assert_eq!(&Answers::parse(&answers.to_text()), answers, "the text form of the answers");
    if std::env::var_os("THALWEG_WRITE_FIXTURES").is_some() {
        return write_fixture(data, name, answers);
    }
    copy_dir(data, copy);
    for round in ["first", "second"] {
        eprintln!("{name}, our {round} open");
        let broker = Broker::open(copy).unwrap_or_else(|e| panic!("{name} does not open: {e}"));
        compare::check(&broker, answers);
        broker.close().unwrap_or_else(|e| panic!("{name} does not close: {e}"));
    }
}

fn write_fixture(data: &Path, name: &str, answers: &Answers) {
    let packed = File::create(format!("{FIXTURES}/{name}.tar.gz")).expect("a new file");
    let mut tar = tar::Builder::new(GzEncoder::new(packed, Compression::best()));
    tar.mode(tar::HeaderMode::Deterministic);
    tar.append_dir_all("", data).expect("the directory can be packed");
    tar.into_inner().and_then(GzEncoder::finish).expect("the packed directory can be written");
    fs::write(format!("{FIXTURES}/{name}.expected"), answers.to_text()).expect("the answers can be written");
}

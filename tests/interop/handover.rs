//! Directories that a stock broker made: we open them, change all that can be changed and hand them back; the
//! broker goes on where we ended, and then we again. What both must show is kept in a `Model`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thalweg::{Broker, ErrorKind, FindingKind, Record, Start, TopicPartition};

use crate::batches::written;
use crate::client::Client;
use crate::directory::{CODECS, dump_everything, extension, files, name, partition_dirs};
use crate::dump;
use crate::kafka::{Kafka, Version};
use crate::model::Model;
use crate::node::{self, Layout, Node, SINGLE_NODE};
use crate::ours::{self, Ours};
use crate::peer::{Peer, Row, TopicRow};

crate::on_each_release!(
    three_rounds,
    never_started,
    two_log_dirs,
    damage_handed_back,
    what_is_not_ours_survives_our_snapshots
);

/// A broker that finds its dead predecessor still registered waits this long: a start that had to would be seen.
const LONG_SESSION: &str = "broker.session.timeout.ms=60000\n";
const NO_WAIT: Duration = Duration::from_secs(40);

fn three_rounds(kafka: &Kafka) {
    rounds(&[kafka; 4], kafka.version != Version::V3_9_2);
}

#[test]
fn from_3_9_2_through_4_3_0_and_back() {
    crate::against(Version::V3_9_2, "from_3_9_2_through_4_3_0_and_back", |old| {
        crate::against(Version::V4_3_0, "from_3_9_2_through_4_3_0_and_back", |new| rounds(&[old, new, old], false));
    });
}

#[test]
fn one_round_on_4_4_0() {
    crate::against(Version::V4_4_0, "one_round_on_4_4_0", |kafka| rounds(&[kafka; 2], true));
}

/// The first broker makes the directory; before each other one we have it. The second round ends with our
/// process killed, and then the broker.
fn rounds(brokers: &[&Kafka], standalone: bool) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    let layout = Layout { dirs: vec![data.clone()], standalone };
    node::format_on(brokers[0], &layout, &[]);
    // KIP-848 needs a feature that directories of 3.9 do not have.
    let modern = brokers[0].version != Version::V3_9_2;
    let mut game = Game { model: Model::default(), ids: Vec::new(), modern, held_back: Vec::new() };

    let node = Node::start_on(brokers[0], &layout, SINGLE_NODE);
    let mut client = node.client();
    game.begin(&mut client);
    drop(client);
    node.stop();

    for (round, kafka) in brokers[1..].iter().enumerate() {
        eprintln!("round {round}: ours, then {}", kafka.version);
        let killed = round == 1;
        let mut ours = Ours::open(&data);
        game.our_turn(&mut ours, round);
        if !killed {
            game.model.trim(&mut ours, "orders", 1, 10 * round as i64 + 5);
        }
        if round == 0 {
            let said = Node::refused(kafka, &layout, SINGLE_NODE);
            assert!(said.contains("Failed to acquire lock"), "{said}");
        }
        let ends = game.ends(&mut ours);
        if killed {
            ours.kill();
        } else {
            ours.close();
            dump_everything(&mut Client::offline(&kafka.with_tools()), &data);
        }
        assert_no_stray(&data);

        let node = Node::start_on(kafka, &layout, &format!("{SINGLE_NODE}{LONG_SESSION}"));
        assert!(node.took < NO_WAIT, "the broker waited {:?} for its predecessor", node.took);
        let error = Broker::open(&data).expect_err("the broker has the directory");
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        let mut client = node.client();
        assert_eq!(game.ends(&mut client), ends, "where each partition ends");
        game.their_turn(&mut client, round);
        // A killed broker forgets it where it was not checkpointed yet, and so do we after it.
        if !killed {
            game.model.trim(&mut client, "orders", 0, 10 * round as i64 + 5);
        }
        if round + 2 == brokers.len() {
            game.end_transaction(&mut client);
        }
        drop(client);
        if killed {
            drop(node.kill())
        } else {
            drop(node.stop())
        }
        assert_no_stray(&data);
    }
    let mut ours = Ours::open(&data);
    game.model.check(&mut ours, &game.ids);
    game.go_on(&mut ours);
    ours.close();
    dump_everything(&mut Client::offline(&brokers[0].with_tools()), &data);
}

/// One directory on its way to and fro.
struct Game {
    model: Model,
    ids: Vec<TopicRow>,
    /// A KIP-848 group takes part.
    modern: bool,
    /// What both wrote to `open` behind a transaction that nobody ended.
    held_back: Vec<Row>,
}

impl Game {
    fn begin(&mut self, client: &mut Client) {
        let model = &mut self.model;
        model.create(client, "orders", "3", &["retention.ms=-1", "index.interval.bytes=100"]);
        model.create(
            client,
            "latest",
            "1",
            &["retention.ms=-1", "cleanup.policy=compact", "min.cleanable.dirty.ratio=1.0"],
        );
        model.create(client, "theirs", "2", &["retention.ms=-1"]);
        for codec in CODECS {
            model.produce(client, "orders", codec, codec);
        }
        model.produce(client, "latest", "none", "kept");
        model.produce(client, "theirs", "zstd", "gone");
        let committed = client.produce("orders", 1, "lz4", "commit", (7, 40), "transaction");
        model.add("orders", committed);
        client.produce("orders", 1, "gzip", "abort", (7, 40), "never");
        model.create(client, "open", "1", &["retention.ms=-1"]);
        client.ask(&["transaction", "pending", "begin"]);
        client.ask(&["transaction", "pending", "send", "open", "0", "3", "never"]);
        self.go_on(client);
        self.ids = client.topics();
    }

    /// We see what the broker left, and change all that the catalog records.
    fn our_turn(&mut self, ours: &mut Ours, round: usize) {
        self.model.check(ours, &self.ids);
        self.go_on(ours);
        let (model, made) = (&mut self.model, format!("ours-{round}"));
        model.create(ours, &made, "2", &["max.message.bytes=2000000"]);
        for codec in CODECS {
            model.produce(ours, "orders", codec, &format!("ours {round} {codec}"));
            model.produce(ours, &made, codec, codec);
        }
        model.produce(ours, "latest", "none", "kept");
        model.delete(ours, "theirs");
        ours.ask(&["grow", "orders", &(2 * round + 4).to_string()]);
        model.produce(ours, "orders", "none", &format!("wider {round}"));
        model.alter(ours, "orders", "index.interval.bytes", &(200 + round).to_string());
        model.alter(ours, "latest", "max.message.bytes", "3000000");
        model.alter(ours, "latest", "max.message.bytes", "~");
        self.go_on(ours);
        self.held_back.extend(ours.produce("open", -1, "none", "none", (5, 20), &format!("ours {round}")));
        self.model.produce(ours, "orders", "gzip", &format!("unread {round}"));
        self.ids = ours.topics();
    }

    /// The broker sees what we left, and does the same.
    fn their_turn(&mut self, client: &mut Client, round: usize) {
        self.model.check(client, &self.ids);
        self.go_on(client);
        let (model, made) = (&mut self.model, format!("ours-{round}"));
        model.create(client, "theirs", "1", &["retention.ms=-1", "segment.ms=123456789"]);
        model.produce(client, "theirs", "lz4", "theirs");
        model.produce(client, &made, "gzip", "by the broker");
        model.delete(client, &made);
        client.ask(&["grow", "orders", &(2 * round + 5).to_string()]);
        model.produce(client, "orders", "snappy", &format!("theirs {round}"));
        let committed = client.produce("orders", 0, "zstd", "commit", (4, 10), &format!("transaction {round}"));
        model.add("orders", committed);
        client.produce("orders", 0, "none", "abort", (4, 10), &format!("never {round}"));
        model.alter(client, "orders", "max.message.bytes", &(2_000_000 + round).to_string());
        self.go_on(client);
        self.held_back.extend(client.produce("open", 0, "lz4", "none", (5, 20), &format!("theirs {round}")));
        self.model.produce(client, "orders", "none", &format!("unread by them {round}"));
        self.ids = client.topics();
    }

    /// A successor of the producer that died in its transaction: what was held back behind it is to be read now.
    fn end_transaction(&mut self, client: &mut Client) {
        assert_eq!(client.consume("open", "read_committed"), []);
        client.ask(&["transaction", "pending", "begin"]);
        client.ask(&["transaction", "pending", "abort"]);
        self.model.add("open", std::mem::take(&mut self.held_back));
        assert_eq!(client.consume("open", "read_committed"), self.model.rows("open"));
    }

    /// Each group reads exactly what nobody of it has read, and commits.
    fn go_on(&mut self, peer: &mut Peer) {
        self.model.read_and_commit(peer, "classic", "orders");
        if self.modern {
            self.model.read_and_commit_by(peer, "modern", "orders", "consumer");
        }
    }

    /// Where the next record of each partition goes.
    fn ends(&self, peer: &mut Peer) -> Vec<(String, Vec<i64>)> {
        let ends = |topic: &String| {
            (topic.clone(), peer.offsets(topic, "latest").iter().map(|row| row.offset).collect::<Vec<_>>())
        };
        self.model.topics.keys().map(ends).collect()
    }
}

/// `kafka-storage format` was run and no broker since: we take over what it asks for, and the first broker finds
/// our topics.
fn never_started(kafka: &Kafka) {
    let modern = kafka.version != Version::V3_9_2;
    // From 3.9 on a quorum may stand in the directory; 4.x directories usually have it there.
    for standalone in if modern { &[false, true][..] } else { &[false] } {
        let home = tempfile::tempdir().expect("a temporary directory");
        let data = home.path().join("data");
        let layout = Layout { dirs: vec![data.clone()], standalone: *standalone };
        node::format_on(kafka, &layout, &[]);
        serve_first(kafka, &layout, &data);
    }
}

#[test]
fn never_started_on_4_4_0() {
    crate::against(Version::V4_4_0, "never_started_on_4_4_0", |kafka| {
        let home = tempfile::tempdir().expect("a temporary directory");
        let data = home.path().join("data");
        let layout = Layout { dirs: vec![data.clone()], standalone: true };
        node::format_on(kafka, &layout, &[]);
        serve_first(kafka, &layout, &data);
    });
}

/// We are the first on a formatted directory; then its broker.
fn serve_first(kafka: &Kafka, layout: &Layout, data: &Path) {
    let mut model = Model::default();
    let mut ours = Ours::open(data);
    assert_eq!(ours.topics(), []);
    model.create(&mut ours, "first", "3", &["max.message.bytes=2000000"]);
    model.produce(&mut ours, "first", "zstd", "ours");
    model.read_and_commit(&mut ours, "group", "first");
    model.produce(&mut ours, "first", "none", "unread");
    let ids = ours.topics();
    ours.close();

    let node = Node::start_on(kafka, layout, SINGLE_NODE);
    let mut client = node.client();
    model.check(&mut client, &ids);
    model.read_and_commit(&mut client, "group", "first");
    // The features that `format` asked for are in force.
    if kafka.version != Version::V3_9_2 {
        model.read_and_commit_by(&mut client, "modern", "first", "consumer");
    }
    model.produce(&mut client, "first", "lz4", "theirs");
    let ids = client.topics();
    drop(client);
    node.stop();
    assert_no_stray(data);

    let mut ours = Ours::open(data);
    model.check(&mut ours, &ids);
    ours.close();
}

/// One log.dir of two at a time: each holds half of the partitions, and only the first one the metadata log.
fn two_log_dirs(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let [first, second] = ["first", "second"].map(|name| home.path().join(name));
    let layout = Layout { dirs: vec![first.clone(), second.clone()], standalone: false };
    node::format_on(kafka, &layout, &[]);
    let mut model = Model::default();
    let node = Node::start_on(kafka, &layout, SINGLE_NODE);
    let mut client = node.client();
    model.create(&mut client, "t", "6", &["retention.ms=-1"]);
    for codec in CODECS {
        model.produce(&mut client, "t", codec, codec);
    }
    model.read_and_commit(&mut client, "group", "t");
    let ids = client.topics();
    drop(client);
    node.stop();

    for (dir, other) in [(&first, &second), (&second, &first)] {
        eprintln!("{} alone", dir.display());
        append_where_present(dir, &mut model);
        assert!(!second.join("__cluster_metadata-0").exists(), "a second metadata log");
        let there = |dir: &Path| partition_dirs(dir).filter(|dir| name(dir).starts_with("t-")).count();
        assert!(there(dir) > 0 && there(dir) + there(other) == 6, "no partition was made anew");

        let node = Node::start_on(kafka, &layout, SINGLE_NODE);
        let mut client = node.client();
        model.check(&mut client, &ids);
        let more = client.produce("t", -1, "gzip", "none", (20, 50), "theirs");
        model.add("t", more);
        model.read_and_commit(&mut client, "group", "t");
        drop(client);
        node.stop();
        for dir in &layout.dirs {
            assert_no_stray(dir);
        }
    }
}

/// What one directory of two holds is read and appended to; what it does not hold is an error and a finding.
fn append_where_present(dir: &Path, model: &mut Model) {
    let broker = Broker::open(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let topic = broker.topic("t").open().expect("the topic is known");
    let mut added = Vec::new();
    for number in 0..6 {
        let partition = TopicPartition::new("t", number);
        let present = dir.join(partition.to_string()).is_dir();
        let Some(partition) = topic.partition(number).ok() else {
            assert!(!present, "{partition} is here");
            continue;
        };
        let wanted: Vec<_> = model.rows("t").iter().filter(|row| row.partition == number).cloned().collect();
        let read: thalweg::Result<Vec<_>> = partition.scan(Start::Earliest).map(|r| Ok(ours::scanned(&r?))).collect();
        if !present {
            let error = read.expect_err("its records are in the other directory");
            assert_eq!(error.kind(), ErrorKind::Absent, "{error}");
            let error = partition.append_records(["x"]).expect_err("its log is in the other directory");
            assert_eq!(error.kind(), ErrorKind::Absent, "{error}");
            continue;
        }
        assert_eq!(read.expect("its records are here"), wanted, "partition {number}");
        let record = Record::new("ours").key("k").timestamp(1_700_000_000_000);
        let at = partition.append_records([record.clone()]).expect("an append");
        partition.wait(at.position, partition.durability()).expect("a sync");
        added.push(Row { partition: number, ..written(&record, at.base_offset.get(), 1_700_000_000_000) });
    }
    assert!((1..6).contains(&added.len()), "a share of the partitions is here");
    let found = |kind: FindingKind| broker.findings().iter().any(|finding| finding.kind == kind);
    let catalog = dir.join("__cluster_metadata-0").is_dir();
    // Without it a partition above the last one that is there is not known of.
    assert!(found(FindingKind::Absent) || !catalog, "{:?}", broker.findings());
    assert_eq!(found(FindingKind::NoCatalog), !catalog, "{:?}", broker.findings());
    broker.close().expect("a clean close");
    model.add("t", added);
}

/// Does damage to one partition's files; the first offset whose record is gone with it.
type Damage = fn(&Path) -> Option<i64>;

/// Where a stock broker that trusts its clean-shutdown marker hides records, reuses offsets, deletes segments
/// or does not start at all.
const DAMAGES: [(&str, Damage); 7] = [
    ("torn", |dir| {
        let log = last(dir, "log");
        let bytes = fs::read(&log).expect("a log");
        let (at, _, next) = last_batch(&bytes);
        let mut torn = bytes[at..at + 150].to_vec();
        torn[..8].copy_from_slice(&next.to_be_bytes());
        fs::write(&log, [bytes, torn].concat()).expect("a log");
        None
    }),
    ("halved", |dir| {
        let log = last(dir, "log");
        let bytes = fs::read(&log).expect("a log");
        let (at, base, _) = last_batch(&bytes);
        fs::write(&log, &bytes[..at + 150]).expect("a log");
        Some(base)
    }),
    ("zeros", |dir| {
        let log = last(dir, "log");
        fs::write(&log, [fs::read(&log).expect("a log"), vec![0; 4096]].concat()).expect("a log");
        None
    }),
    ("nonsense", |dir| {
        let middle = files(dir).filter(|file| extension(file) == "index").nth(1).expect("a middle segment");
        let entries = fs::metadata(&middle).expect("an index").len() as u32 / 8;
        assert!(entries > 2);
        let bytes = (1..=entries).flat_map(|i| [i.to_be_bytes(), (7 * i).to_be_bytes()].concat());
        fs::write(&middle, bytes.collect::<Vec<_>>()).expect("an index");
        None
    }),
    ("padded", |dir| {
        let index = last(dir, "timeindex");
        let mut bytes = fs::read(&index).expect("an index");
        bytes.resize(10_485_756, 0);
        fs::write(&index, bytes).expect("an index");
        None
    }),
    ("beyond", |dir| {
        let index = last(dir, "index");
        let entry = [10_000_u32.to_be_bytes(), 10_000_000_u32.to_be_bytes()].concat();
        fs::write(&index, [fs::read(&index).expect("an index"), entry].concat()).expect("an index");
        None
    }),
    ("floor", |dir| {
        let checkpoint = dir.with_file_name("log-start-offset-checkpoint");
        fs::write(checkpoint, "0\n1\nfloor 0 100000\n").expect("a checkpoint");
        None
    }),
];

/// Where the last batch begins, its first offset, and the offset after it.
fn last_batch(log: &[u8]) -> (usize, i64, i64) {
    let int = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().expect("four bytes"));
    let mut at = 0;
    loop {
        let next = at + 12 + int(at + 8) as usize;
        if next == log.len() {
            let base = i64::from_be_bytes(log[at..at + 8].try_into().expect("eight bytes"));
            return (at, base, base + i64::from(int(at + 23)) + 1);
        }
        at = next;
    }
}

/// The last file of its kind.
fn last(dir: &Path, kind: &str) -> PathBuf {
    files(dir).filter(|file| extension(file) == kind).last().expect("a segment")
}

/// What a stock broker would make worse we mend before we hand it back: then it serves what we serve.
fn damage_handed_back(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    node::format(kafka, &data);
    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    let mut rows = Vec::new();
    for (topic, _) in DAMAGES {
        // Expiry of seven days, and no record older than this test.
        client.ask(&[
            "create",
            topic,
            "1",
            "segment.bytes=1048576",
            "retention.ms=604800000",
            "index.interval.bytes=100",
        ]);
        let mut sent = client.produce(topic, 0, "none", "none", (20, 130_000), "large");
        sent.extend(client.produce(topic, 0, "gzip", "none", (20, 100), "small"));
        rows.push(sent);
    }
    drop(client);
    node.stop();
    for ((topic, damage), rows) in DAMAGES.iter().zip(&mut rows) {
        if let Some(lost) = damage(&data.join(format!("{topic}-0"))) {
            rows.retain(|row| row.offset < lost);
        }
    }

    let mut ours = Ours::open(&data);
    for ((topic, _), rows) in DAMAGES.iter().zip(&mut rows) {
        assert_same(&ours.salvage(topic), rows, &format!("every sound record of {topic}"));
        let added = ours.produce(topic, -1, "lz4", "none", (5, 50), "ours");
        assert!(added[0].offset >= 40, "an offset of {topic} is given out again");
        rows.extend(added);
    }
    let found = ours.ask(&["findings"]);
    // Padding is what a killed broker leaves, and zeros are room that was made ahead.
    for (topic, _) in DAMAGES.iter().filter(|(topic, _)| !["padded", "floor", "zeros"].contains(topic)) {
        assert!(found.iter().any(|line| line.contains(&format!("{topic}-0"))), "{topic}: {found:#?}");
    }
    ours.close();
    let tools = kafka.with_tools();
    let mut client = Client::offline(&tools);
    // Half a batch under the marker may have been a whole one: its bytes are kept.
    for (topic, _) in DAMAGES.iter().filter(|(topic, _)| *topic != "torn" && *topic != "halved") {
        dump::partition(&mut client, &data.join(format!("{topic}-0")));
    }
    drop(client);

    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    node.sit_out_a_retention_round(&mut client);
    for ((topic, _), rows) in DAMAGES.iter().zip(&mut rows) {
        assert_same(&client.consume(topic, "read_committed"), rows, &format!("{topic} served by the broker"));
        let next = rows.last().expect("records").offset + 1;
        let more = client.produce(topic, 0, "zstd", "none", (5, 50), "theirs");
        assert_eq!(more[0].offset, next, "the broker goes on in {topic} where we ended");
        rows.extend(more);
    }
    drop(client);
    node.stop();
    let mut ours = Ours::open(&data);
    for ((topic, _), rows) in DAMAGES.iter().zip(&rows) {
        assert_same(&ours.salvage(topic), rows, &format!("{topic} after the broker"));
    }
    ours.close();
}

/// Rows too large to print whole.
fn assert_same(read: &[Row], wanted: &[Row], what: &str) {
    let offsets = |rows: &[Row]| rows.iter().map(|row| row.offset).collect::<Vec<_>>();
    assert_eq!(offsets(read), offsets(wanted), "{what}");
    assert!(read == wanted, "{what}");
}

/// Users, quotas, defaults of brokers and groups, features and the producer ids given out: records of the catalog
/// that mean nothing to us. Our snapshots take the place of the log that held them.
fn what_is_not_ours_survives_our_snapshots(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    node::format(kafka, &data);
    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    client.ask(&["create", "t", "1", "retention.ms=-1"]);
    let mut rows = client.produce("t", 0, "none", "commit", (3, 20), "first");
    let mut settings = vec![
        ("users", "alice", "SCRAM-SHA-256=[iterations=4096,password=secret]"),
        ("clients", "reader", "consumer_byte_rate=1048576"),
        ("users", "bob", "producer_byte_rate=2097152"),
        ("brokers", "1", "log.cleaner.threads=2"),
        ("client-metrics", "all", "interval.ms=60000"),
    ];
    if kafka.version != Version::V3_9_2 {
        settings.push(("groups", "workers", "consumer.session.timeout.ms=50000"));
    }
    for (kind, name, setting) in &settings {
        let arguments = ["--alter", "--entity-type", kind, "--entity-name", name, "--add-config", setting];
        client.online_tool("kafka.admin.ConfigCommand", &arguments);
    }
    let shown = |client: &mut Client| {
        let mut lines = client.online_tool("org.apache.kafka.tools.FeatureCommand", &["describe"]);
        // The epoch of the answer is how far the metadata log is.
        lines.iter_mut().for_each(|line| line.truncate(line.find("Epoch:").unwrap_or(line.len())));
        for (kind, name, setting) in &settings {
            let arguments = ["--describe", "--entity-type", kind, "--entity-name", name];
            let told = client.online_tool("kafka.admin.ConfigCommand", &arguments);
            let key = setting.split('=').next().expect("name=value");
            assert!(told.iter().any(|line| line.contains(key)), "{kind} {name}: {told:?}");
            lines.extend(told);
        }
        lines
    };
    let before = shown(&mut client);
    drop(client);
    node.stop();

    let mut ours = Ours::open(&data);
    ours.ask(&["snapshot"]);
    rows.extend(ours.produce("t", -1, "none", "none", (3, 20), "second"));
    ours.close();
    let catalog = data.join("__cluster_metadata-0");
    assert!(!catalog.join("00000000000000000000.log").exists(), "the broker's records are in our snapshot alone");

    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    assert_eq!(shown(&mut client), before);
    rows.extend(client.produce("t", 0, "none", "none", (3, 20), "third"));
    assert_eq!(client.consume("t", "read_committed"), rows);
    drop(client);
    node.stop();
    assert_no_stray(&data);
    let told = dump::partition(&mut Client::offline(&kafka.with_tools()), &data.join("t-0"));
    let id = |line: &String| {
        line.strip_prefix("baseOffset: ")?.split("producerId: ").nth(1)?.split(' ').next()?.parse().ok()
    };
    let ids: Vec<i64> = told.iter().filter_map(id).filter(|id| *id >= 0).collect();
    let (first, third) = (ids.first().expect("of the transaction"), ids.last().expect("of the third producer"));
    assert!(first < third, "no producer id is given out twice: {ids:?}");
}

fn assert_no_stray(data: &Path) {
    let stray = partition_dirs(data).find(|dir| name(dir).ends_with("-stray"));
    assert_eq!(stray, None);
}

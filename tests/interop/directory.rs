//! A stock broker on directories that we wrote: after each kind of change, closed or killed, it serves what we
//! acknowledged, byte for byte, and what it adds we read again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::slice;

use crate::client::Client;
use crate::dump;
use crate::kafka::Kafka;
use crate::model::Model;
use crate::node::Node;
use crate::ours::Ours;
use crate::peer::{Peer, Row, TopicRow};

crate::on_each_release!(
    after_each_change_closed,
    after_each_change_killed,
    killed_at_work,
    to_and_fro,
    console_tools_agree,
    rebuilt_indexes_equal_ours,
);

pub(crate) const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// What we show of a directory ourselves, which nobody acknowledged.
struct Shown {
    topics: Vec<TopicRow>,
    configs: BTreeMap<String, BTreeMap<String, String>>,
}

impl Shown {
    fn by(peer: &mut Peer, model: &Model) -> Shown {
        let configs = model.topics.keys().map(|topic| (topic.clone(), peer.all_configs(topic)));
        Shown { configs: configs.collect(), topics: peer.topics() }
    }
}

type Step = (&'static str, fn(&mut Model, &mut Ours));

/// Every kind of change that the catalog records, in the order in which one directory sees them.
const STEPS: [Step; 6] = [
    ("create", |model, ours| {
        model.create(ours, "orders", "4", &["segment.bytes=1048576", "index.interval.bytes=200"]);
        model.create(ours, "latest", "1", &["cleanup.policy=compact", "min.cleanable.dirty.ratio=1.0"]);
        model.create(ours, "doomed", "2", &[]);
        for codec in CODECS {
            model.produce(ours, "orders", codec, codec);
        }
        model.produce(ours, "latest", "none", "one");
        model.produce(ours, "doomed", "none", "gone");
        model.read_and_commit(ours, "billing", "orders");
        model.produce(ours, "orders", "none", "unread");
    }),
    ("delete", |model, ours| model.delete(ours, "doomed")),
    ("recreate", |model, ours| {
        model.create(ours, "doomed", "3", &["max.message.bytes=2000000"]);
        model.produce(ours, "doomed", "zstd", "again");
    }),
    ("add partitions", |model, ours| {
        ours.ask(&["grow", "orders", "6"]);
        model.produce(ours, "orders", "lz4", "wider");
        model.read_and_commit(ours, "billing", "orders");
    }),
    ("alter config", |model, ours| {
        model.alter(ours, "orders", "index.interval.bytes", "4096");
        model.alter(ours, "doomed", "max.message.bytes", "~");
    }),
    ("snapshot", |model, ours| {
        ours.ask(&["snapshot"]);
        model.create(ours, "after", "1", &[]);
        model.produce(ours, "after", "gzip", "late");
    }),
];

fn after_each_change_closed(kafka: &Kafka) {
    after_each_change(kafka, true, Ours::close);
}

fn after_each_change_killed(kafka: &Kafka) {
    after_each_change(kafka, false, Ours::kill);
}

/// One directory of ours takes the steps; after each a broker runs on a copy, so that the next step starts
/// from what we wrote and from nothing else.
fn after_each_change(kafka: &Kafka, is_closed: bool, end: fn(Ours)) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    let mut model = Model::default();
    for (i, (name, change)) in STEPS.iter().enumerate() {
        eprintln!("step: {name}");
        let mut ours = Ours::open(&data);
        change(&mut model, &mut ours);
        let shown = Shown::by(&mut ours, &model);
        let properties = ours.server_properties();
        end(ours);
        let copy = home.path().join(format!("copy-{i}"));
        copy_dir(&data, &copy);
        if is_closed {
            // A killed one may end with room for more, which the tool takes for a batch.
            dump_everything(&mut Client::offline(kafka), &copy);
        }
        graduate_and_return(kafka, &copy, &properties, &model, &shown);
        fs::remove_dir_all(&copy).expect("the copy can go");
    }
}

/// A broker serves the directory, appends to it and stops; then we read all of it.
fn graduate_and_return(kafka: &Kafka, data: &Path, properties: &str, model: &Model, shown: &Shown) {
    let before = logs(data);

    let node = Node::start(kafka, data, properties);
    let mut client = node.client();
    model.check(&mut client, &shown.topics);
    for (topic, ours) in &shown.configs {
        let mut theirs = client.all_configs(topic);
        theirs.retain(|name, _| ours.contains_key(name));
        // A release need not know every config of a later one.
        let known: BTreeMap<_, _> = ours.iter().filter(|(name, _)| theirs.contains_key(*name)).collect();
        assert_eq!(theirs.iter().collect::<BTreeMap<_, _>>(), known, "configs in force for {topic}");
    }
    node.sit_out_a_retention_round(&mut client);
    let appended = client.produce("orders", 0, "zstd", "none", (5, 50), "by the broker");
    let next = model.rows("orders").iter().filter(|row| row.partition == 0).map(|row| row.offset + 1).max();
    assert_eq!(appended.first().map(|row| row.offset), next, "the broker goes on where we ended");
    drop(client);
    node.stop();
    assert_untouched(&before, data);

    let mut ours = Ours::open(data);
    let mut expected = model.rows("orders").to_vec();
    expected.extend(appended);
    expected.sort();
    assert_eq!(ours.consume("orders", "read_committed"), expected);
    for topic in model.topics.keys().filter(|topic| *topic != "orders") {
        assert_eq!(ours.consume(topic, "read_committed"), model.rows(topic), "records of {topic} after the broker");
    }
    ours.close();
}

/// One directory changes hands several times; each owner changes it, sees what the other did, and may be killed.
fn to_and_fro(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    let mut model = Model::default();
    let mut ids = Vec::new();
    for (round, codec) in CODECS.into_iter().take(3).enumerate() {
        let mut ours = Ours::open(&data);
        if round > 0 {
            model.check(&mut ours, &ids);
            ours.ask(&["grow", "shared", &(round * 2 + 1).to_string()]);
            let theirs = format!("theirs-{}", round - 1);
            model.produce(&mut ours, &theirs, codec, "broker");
            assert_each_key_in_one_partition(model.rows(&theirs));
        } else {
            model.create(&mut ours, "shared", "1", &[]);
        }
        model.produce(&mut ours, "shared", codec, &format!("ours {round}"));
        model.read_and_commit(&mut ours, "workers", "shared");
        ids = ours.topics();
        let properties = ours.server_properties();
        if round == 1 {
            ours.kill()
        } else {
            ours.close()
        }

        let node = Node::start(kafka, &data, &properties);
        let mut client = node.client();
        model.check(&mut client, &ids);
        model.create(&mut client, &format!("theirs-{round}"), "2", &["retention.ms=-1", "segment.ms=123456789"]);
        model.produce(&mut client, &format!("theirs-{round}"), "snappy", "broker");
        client.ask(&["grow", "shared", &(round * 2 + 2).to_string()]);
        model.produce(&mut client, "shared", "lz4", &format!("theirs {round}"));
        model.alter(&mut client, "shared", "max.message.bytes", &(2_000_000 + round).to_string());
        model.read_and_commit(&mut client, "workers", "shared");
        client.produce("shared", 0, "none", "abort", (3, 10), &format!("never {round}"));
        ids = client.topics();
        drop(client);
        if round == 1 { drop(node.kill()) } else { drop(node.stop()) }
    }
    let mut ours = Ours::open(&data);
    model.check(&mut ours, &ids);
    ours.close();
}

/// Both sides sent the same keys: they must agree on the place of each.
fn assert_each_key_in_one_partition(rows: &[Row]) {
    let mut places = BTreeMap::new();
    for row in rows {
        let place = *places.entry(&row.key).or_insert(row.partition);
        assert_eq!(row.partition, place, "partition of key {:?}", row.key);
    }
    assert!(rows.len() > places.len(), "some key came twice");
}

/// Killed at any moment, not between two requests: all that was acknowledged is served, and nothing is torn.
fn killed_at_work(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    let mut ours = Ours::open(&data);
    ours.ask(&["create", "t", "3"]);
    let properties = ours.server_properties();
    let mut rows = Vec::new();
    for count in [700, 1500, 150] {
        let (acknowledged, made) = ours.kill_in_storm("t", count);
        rows.extend(acknowledged);
        ours = Ours::open(&data);
        let read = ours.consume("t", "read_committed");
        assert_holds(&read, &rows);
        let present = ours.topics();
        let missing = made.iter().find(|topic| !present.iter().any(|row| row.name == **topic));
        assert_eq!(missing, None);
        // The next storm makes them anew.
        for row in present.iter().filter(|row| row.name != "t") {
            ours.ask(&["delete", &row.name]);
        }
    }
    let (acknowledged, made) = ours.kill_in_storm("t", 1000);
    rows.extend(acknowledged);

    let node = Node::start(kafka, &data, &properties);
    let mut client = node.client();
    assert_holds(&client.consume("t", "read_committed"), &rows);
    let present = client.topics();
    for topic in made {
        assert!(present.iter().any(|row| row.name == topic && row.led == 1), "{topic} was acknowledged");
    }
    // A topic whose deletion is on record and whose directory was still there is a stray for Kafka, after its own
    // crashes as well.
    let is_lost = |dir: &PathBuf| name(dir).ends_with("-stray") && !name(dir).starts_with("passing-");
    assert_eq!(partition_dirs(&data).find(is_lost), None);
    node.stop();
    dump_everything(&mut client, &data);
}

/// All acknowledged records are there, and offsets have no gap.
fn assert_holds(read: &[Row], acknowledged: &[Row]) {
    let missing = acknowledged.iter().find(|row| !read.contains(row));
    assert_eq!(missing, None);
    for pair in read.windows(2).filter(|pair| pair[0].partition == pair[1].partition) {
        assert_eq!(pair[1].offset, pair[0].offset + 1, "in partition {}", pair[0].partition);
    }
}

/// The tools that people type, on a directory that we closed.
fn console_tools_agree(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    let mut model = Model::default();
    let mut ours = Ours::open(&data);
    STEPS[0].1(&mut model, &mut ours);
    let (ids, properties) = (ours.topics(), ours.server_properties());
    ours.close();
    let node = Node::start(kafka, &data, &properties);
    let mut client = node.client();

    let described = client.online_tool("org.apache.kafka.tools.TopicCommand", &["--describe", "--topic", "orders"]);
    let id = &ids.iter().find(|row| row.name == "orders").expect("the topic").id;
    for wanted in [&format!("TopicId: {id}"), "PartitionCount: 4", "segment.bytes=1048576", "retention.ms=-1"] {
        assert!(described[0].contains(wanted), "{wanted}: {described:?}");
    }

    let arguments = ["--describe", "--entity-type", "topics", "--entity-name", "latest"];
    let configs = client.online_tool("kafka.admin.ConfigCommand", &arguments).join("\n");
    assert!(configs.contains("cleanup.policy=compact"), "{configs}");

    let lag = client.online_tool(
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        &["--describe", "--group", "billing"],
    );
    for commit in &model.commits["billing"] {
        let end = model.rows("orders").iter().filter(|row| row.partition == commit.partition).count() as i64;
        let wanted = [
            commit.topic.clone(),
            commit.partition.to_string(),
            commit.offset.to_string(),
            end.to_string(),
            (end - commit.offset).to_string(),
        ];
        let has = |line: &String| line.split_whitespace().skip(1).take(5).eq(wanted.iter().map(String::as_str));
        assert!(lag.iter().any(has), "{wanted:?}: {lag:#?}");
    }

    let ends = client.online_tool("org.apache.kafka.tools.GetOffsetShell", &["--topic", "orders"]);
    let end = |p: i32| model.rows("orders").iter().filter(|row| row.partition == p).count();
    assert_eq!(ends, (0..4).map(|p| format!("orders:{p}:{}", end(p))).collect::<Vec<_>>());

    let rows = model.rows("orders");
    let count = rows.len().to_string();
    let mut arguments = ["--topic", "orders", "--from-beginning", "--max-messages", &count, "--timeout-ms", "20000"]
        .map(str::to_owned)
        .to_vec();
    for part in ["timestamp", "partition", "offset", "key"].map(|part| format!("print.{part}=true")) {
        arguments.extend(["--property".to_owned(), part]);
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut printed = client.online_tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &arguments);
    // Its last line counts them.
    printed.retain(|line| line.starts_with("CreateTime:"));
    printed.sort();
    let text = |bytes: &Option<Vec<u8>>| String::from_utf8(bytes.clone().expect("text")).expect("UTF-8");
    let line = |r: &Row| {
        format!(
            "CreateTime:{}\tPartition:{}\tOffset:{}\t{}\t{}",
            r.timestamp,
            r.partition,
            r.offset,
            text(&r.key),
            text(&r.value)
        )
    };
    let mut wanted: Vec<_> = rows.iter().map(line).collect();
    wanted.sort();
    assert_eq!(printed, wanted);
    drop(client);
    node.stop();
}

/// The broker rebuilds every index that is missing: what it makes of our logs must be what we had.
fn rebuilt_indexes_equal_ours(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    let mut model = Model::default();
    let mut ours = Ours::open(&data);
    STEPS[0].1(&mut model, &mut ours);
    let properties = ours.server_properties();
    ours.close();
    let mut built = BTreeMap::new();
    for dir in partition_dirs(&data).filter(|dir| !dir.ends_with("__cluster_metadata-0")) {
        for file in files(&dir).filter(|file| extension(file) == "index" || extension(file) == "timeindex") {
            built.insert(file.clone(), fs::read(&file).expect("an index"));
            fs::remove_file(&file).expect("an index can go");
        }
    }
    assert!(built.values().any(|bytes| !bytes.is_empty()), "some index of ours has entries");
    Node::start(kafka, &data, &properties).stop();
    for (file, ours) in built {
        assert_eq!(fs::read(&file).unwrap_or_default(), ours, "{}", file.display());
    }
}

/// dump-log finds no fault in any file, and our two logs of Kafka's own records decode.
pub(crate) fn dump_everything(client: &mut Client, data: &Path) {
    // What Kafka set aside it never recovers.
    let set_aside = |dir: &PathBuf| ["-stray", "-delete"].iter().any(|kind| name(dir).ends_with(kind));
    for dir in partition_dirs(data).filter(|dir| !set_aside(dir)) {
        dump::partition(client, &dir);
        let decoder = match name(&dir).rsplit_once('-').expect("topic-partition").0 {
            "__cluster_metadata" => "--cluster-metadata-decoder",
            "__consumer_offsets" => "--offsets-decoder",
            _ => continue,
        };
        for log in files(&dir).filter(|file| ["log", "checkpoint"].contains(&extension(file))) {
            let lines = dump::dump(client, slice::from_ref(&log), &[decoder])
                .unwrap_or_else(|e| panic!("{}: {e}", log.display()));
            let undecoded =
                lines.iter().find(|line| line.contains("could not be decoded") || line.contains("Could not"));
            assert_eq!(undecoded, None, "{}", log.display());
        }
    }
}

/// What we wrote is still there, byte for byte; nothing was set aside as a stray or taken for expired.
pub(crate) fn assert_untouched(before: &BTreeMap<PathBuf, Vec<u8>>, data: &Path) {
    for (file, bytes) in before {
        let now = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert!(now.starts_with(bytes), "{} was rewritten", file.display());
    }
    let stray = partition_dirs(data).find(|dir| name(dir).ends_with("-stray"));
    assert_eq!(stray, None);
}

/// Every `.log` and its bytes without room behind them, and the file that names the directory.
pub(crate) fn logs(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let logs =
        partition_dirs(data).flat_map(|dir| files(&dir).collect::<Vec<_>>()).filter(|file| extension(file) == "log");
    let used = |file: PathBuf| {
        let mut bytes = fs::read(&file).expect("a file");
        bytes.truncate(bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1));
        (file, bytes)
    };
    logs.chain([data.join("meta.properties")]).map(used).collect()
}

pub(crate) fn partition_dirs(data: &Path) -> impl Iterator<Item = PathBuf> {
    files(data).filter(|path| path.is_dir())
}

pub(crate) fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("cannot list {}: {e}", dir.display()));
    let mut all: Vec<_> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    all.sort();
    all.into_iter()
}

pub(crate) fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

pub(crate) fn extension(file: &Path) -> &str {
    file.extension().and_then(|extension| extension.to_str()).unwrap_or("")
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new directory");
    for path in files(from) {
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy_dir(&path, &target) } else { assert!(fs::copy(&path, &target).is_ok()) }
    }
}

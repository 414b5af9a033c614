//! One partition's log without a broker of ours around it: Kafka serves and extends what `Log` wrote, `Log` opens
//! and extends what Kafka wrote, and both build the same indexes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use thalweg::{
    BatchBuilder, EndMarker, Isolation, LeaderEpoch, Log, LogConfig, ProducerId, Record, RecordBatch, Timestamp,
    TxnOutcome,
};

use crate::batches::{CODECS, everything, large, rows, written};
use crate::dump;
use crate::kafka::Kafka;
use crate::node::{self, Node, SINGLE_NODE};
use crate::peer::Row;

crate::on_each_release!(
    kafka_serves_our_log,
    kafka_rebuilds_our_indexes,
    we_open_kafkas_log,
    we_open_a_killed_kafkas_log
);

/// Small segments and dense indexes, so that there is something to compare.
fn config() -> LogConfig {
    LogConfig::default().segment_bytes(1 << 20).index_interval_bytes(500)
}

const SETTINGS: [&str; 3] = ["retention.ms=-1", "segment.bytes=1048576", "index.interval.bytes=500"];

fn kafka_serves_our_log(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = broker_with_topic(kafka, home.path());
    let dir = data.join("t-0");
    let (committed, all) = write_log(&dir);
    let files = contents(&dir);
    assert!(files.keys().filter(|name| name.ends_with(".log")).count() > 2, "several segments");
    assert!(
        files.iter().any(|(name, bytes)| name.ends_with(".txnindex") && !bytes.is_empty()),
        "an aborted transaction"
    );

    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    let told = dump::partition(&mut client, &dir);
    assert_eq!(dump::records(&told), all.len());
    assert_eq!(client.consume("t", "read_committed"), committed);
    assert_eq!(client.consume("t", "read_uncommitted"), all);
    let probe = &committed[committed.len() / 2];
    let found = client.offsets("t", &probe.timestamp.to_string())[0];
    assert_eq!((found.offset, found.timestamp), (probe.offset, probe.timestamp));
    let appended = client.produce("t", 0, "lz4", "none", (4, 100), "kafka");
    drop(client);
    node.stop();

    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with("log")) {
        assert!(fs::read(dir.join(name)).expect("a file").starts_with(bytes), "{name} was rewritten");
    }
    let log = Log::open(&dir, config()).expect("the log opens after Kafka");
    assert_eq!(read(&log, Isolation::ReadCommitted), [committed, appended].concat());
    log.close().expect("the log closes");
}

fn kafka_rebuilds_our_indexes(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = broker_with_topic(kafka, home.path());
    let dir = data.join("t-0");
    write_log(&dir);
    let ours = contents(&dir);
    for name in ours.keys().filter(|name| name.ends_with("index")) {
        fs::remove_file(dir.join(name)).expect("an index can go");
    }
    fs::remove_file(data.join(".kafka_cleanshutdown")).expect("the marker of the clean stop");
    Node::start(kafka, &data, SINGLE_NODE).stop();

    let rebuilt = contents(&dir);
    for (name, bytes) in ours.iter().filter(|(name, bytes)| name.ends_with("index") && !bytes.is_empty()) {
        assert_eq!(rebuilt.get(name), Some(bytes), "{name}");
    }
}

fn we_open_kafkas_log(kafka: &Kafka) {
    open_kafkas_log(kafka, |node| drop(node.stop()));
}

fn we_open_a_killed_kafkas_log(kafka: &Kafka) {
    open_kafkas_log(kafka, |node| drop(node.kill()));
}

fn open_kafkas_log(kafka: &Kafka, end: fn(Node<'_>)) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = broker_with_topic(kafka, home.path());
    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    for (i, codec) in CODECS.iter().enumerate() {
        let tag = format!("{codec}");
        client.produce("t", 0, &tag, "none", (12, 30_000), &tag);
        client.produce("t", 0, &tag, ["commit", "abort"][i % 2], (3, 100), &format!("in a transaction, {tag}"));
    }
    let committed = client.consume("t", "read_committed");
    let all = client.consume("t", "read_uncommitted");
    assert!(committed.len() < all.len());
    drop(client);
    end(node);

    let dir = data.join("t-0");
    let log = Log::open(&dir, config()).expect("Kafka's log opens");
    assert_eq!(read(&log, Isolation::ReadCommitted), committed);
    assert_eq!(read(&log, Isolation::ReadUncommitted), all);
    let probe = &committed[committed.len() / 2];
    let found =
        log.offset_at(Timestamp::new(probe.timestamp), Isolation::ReadCommitted).expect("a lookup").expect("a record");
    assert_eq!(found.timestamp.get(), probe.timestamp);
    let appended = log.append_records(["ours"]).expect("an append");
    log.wait(appended.position, thalweg::Durability::PowerLoss).expect("it is durable");
    log.close().expect("the log closes");

    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    let served = client.consume("t", "read_committed");
    assert_eq!(served[..committed.len()], committed);
    assert_eq!(
        served[committed.len()..].iter().map(|row| row.value.as_deref()).collect::<Vec<_>>(),
        [Some(&b"ours"[..])]
    );
    drop(client);
    node.stop();
}

/// A stopped broker's directory with an empty topic `t` of one partition, whose log files are gone.
fn broker_with_topic(kafka: &Kafka, home: &Path) -> std::path::PathBuf {
    let data = home.join("data");
    node::format(kafka, &data);
    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    client.ask(&[&["create", "t", "1"], &SETTINGS[..]].concat());
    drop(client);
    node.stop();
    for (name, _) in contents(&data.join("t-0")) {
        if name != "partition.metadata" {
            fs::remove_file(data.join("t-0").join(name)).expect("a file of the empty log");
        }
    }
    data
}

/// Every codec, three transactions of which one aborts, a few segments. Answers what readers of committed
/// records, and of all, must see.
fn write_log(dir: &Path) -> (Vec<Row>, Vec<Row>) {
    let log = Log::open(dir, config()).expect("a new log");
    let epoch = LeaderEpoch::new(0);
    let (mut committed, mut all) = (Vec::new(), Vec::new());
    let mut append = |builder: BatchBuilder, records: &[Record], keep: bool| {
        let base = log.offsets().end.get();
        let mut builder = builder;
        for (i, record) in records.iter().enumerate() {
            let row = written(record, base + i as i64, now() + base + i as i64);
            builder.push(Timestamp::new(row.timestamp), record).expect("a record that fits");
            all.push(row.clone());
            committed.extend(keep.then_some(row));
        }
        log.append(&builder.finish().expect("a batch"), epoch).expect("an append")
    };
    for round in 0..4 {
        for codec in CODECS {
            append(RecordBatch::builder().compression(codec), &everything(), true);
            append(RecordBatch::builder().compression(codec), &large(), true);
            append(RecordBatch::builder().compression(codec), &many(), true);
        }
        let id = ProducerId::new(1000 + round);
        let outcome = if round == 1 { TxnOutcome::Abort } else { TxnOutcome::Commit };
        append(RecordBatch::builder().producer(id, 0, 0).transactional(), &everything(), outcome == TxnOutcome::Commit);
        append(RecordBatch::builder(), &everything(), true);
        append(RecordBatch::builder().producer(id, 0, 3).transactional(), &many(), outcome == TxnOutcome::Commit);
        let marker = EndMarker { outcome, coordinator_epoch: 0 };
        let marker = BatchBuilder::end_marker(marker, id, 0, Timestamp::new(now())).expect("a marker");
        log.append(&marker, epoch).expect("an append");
    }
    log.close().expect("the log closes");
    (committed, all)
}

fn many() -> Vec<Record> {
    (0..20).map(|i| Record::new(format!("value {i} {}", "x".repeat(40))).key(format!("key {i}"))).collect()
}

/// One time for the whole run: far enough back for Kafka's check of the future, recent enough for any retention.
fn now() -> i64 {
    static NOW: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    let since_1970 = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    *NOW.get_or_init(|| since_1970().as_millis() as i64 - 60_000)
}

fn read(log: &Log, isolation: Isolation) -> Vec<Row> {
    let mut all = Vec::new();
    let mut at = log.offsets().log_start;
    loop {
        let read = log.read(at, 1 << 20, isolation).expect("a read");
        if read.is_empty() {
            return all;
        }
        for batch in read.data_batches() {
            all.extend(rows(&batch.expect("a batch")).into_iter().filter(|row| row.offset >= at.get()));
        }
        at = read.next_offset();
    }
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let read = |path: std::path::PathBuf| {
        (path.file_name().expect("a name").to_string_lossy().into_owned(), fs::read(&path).expect("a file"))
    };
    entries.map(read).collect()
}

//! What real clients do to a stock broker so that its directory holds every kind of thing that one can hold.
//! Each scene has topics of its own; `again` is what happens after a restart.

use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::kafka::Version;
use crate::peer::Peer;

/// The clients of one run of the broker.
pub(crate) struct Stage<'k> {
    pub(crate) client: Client<'k>,
    pub(crate) python: Peer,
    pub(crate) version: Version,
}

pub(crate) type Scene = fn(&mut Stage<'_>);

/// In order.
pub(crate) const FIRST: &[Scene] =
    &[codecs, shapes, times, transactions, segments, trimmed, compacted, changes, groups];
pub(crate) const AGAIN: &[Scene] = &[codecs_again, transactions_again, trimmed_again, compacted_again, groups_again];
pub(crate) const AGAIN_WIDE: &[Scene] =
    &[codecs_again, transactions_again, trimmed_again, compacted_again, groups_again, wide];

impl Stage<'_> {
    /// A topic with small segments: the public setting has a lower bound of 1 MiB in 4.x.
    fn create_rolling(&mut self, topic: &str, partitions: &str, segment_bytes: u32, configs: &[&str]) {
        let segment = match self.version {
            Version::V3_9_2 => format!("segment.bytes={segment_bytes}"),
            _ => format!("internal.segment.bytes={segment_bytes}"),
        };
        self.client.ask(&[&["create", topic, partitions, &segment], configs].concat());
    }

    fn transaction(&mut self, id: &str, words: &[&str]) {
        self.client.ask(&[&["transaction", id], words].concat());
    }

    /// One batch with one record each; each from a producer of its own.
    fn send_each(&mut self, topic: &str, records: &[(i64, &str, &str)]) {
        for (time, key, value) in records {
            let [key, value] = [key, value].map(|text| hex(text));
            self.client.ask(&["send", topic, "0", &time.to_string(), &key, &value]);
        }
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Client<'_>) -> bool) {
        let started = Instant::now();
        while !done(&mut self.client) {
            assert!(started.elapsed() < Duration::from_secs(60), "waited 60 s for {what}");
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// A fixed time in 2026: what is sent with it is the same in every run.
const THEN: i64 = 1_790_000_000_000;

fn hex(text: &str) -> String {
    if text == "~" { text.to_owned() } else { text.bytes().map(|byte| format!("{byte:02x}")).collect() }
}

/// All codecs of all clients mixed in one log; librdkafka writes bare snappy blocks, Java framed ones.
fn codecs(stage: &mut Stage<'_>) {
    stage.client.ask(&["create", "codecs", "2", "index.interval.bytes=300"]);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        stage.client.produce("codecs", 0, codec, "none", (6, 60), &format!("java {codec}"));
        let tag = format!("librdkafka {codec}");
        stage.python.ask(&["librdkafka-produce", "codecs", "0", codec, "none", "6", &tag]);
    }
    for codec in ["none", "gzip"] {
        stage.python.ask(&["kafka-python-produce", "codecs", "0", codec, "6", &format!("kafka-python {codec}")]);
    }
    stage.python.ask(&["librdkafka-produce", "codecs", "1", "zstd", "idempotent", "6", "librdkafka idempotent"]);
    stage.client.produce("codecs", 1, "lz4", "none", (1, 3000), "java large");
}

fn codecs_again(stage: &mut Stage<'_>) {
    for codec in ["snappy", "zstd"] {
        stage.client.produce("codecs", 0, codec, "none", (3, 60), &format!("later {codec}"));
        stage.python.ask(&[
            "librdkafka-produce",
            "codecs",
            "1",
            codec,
            "none",
            "3",
            &format!("later librdkafka {codec}"),
        ]);
    }
}

/// Null and empty keys, values and headers, several headers of one name.
fn shapes(stage: &mut Stage<'_>) {
    stage.client.ask(&["create", "shapes", "1"]);
    let shapes =
        ["-;~;~;", "-;;;", "-;~;;=", "-;6b;~;61=01,61=02,61=01,62=~,=~,c3bc=ff00", "-;c3a9;00ff7e09;68=", "-;6b;76;"];
    for codec in ["none", "gzip"] {
        stage.client.ask(&[&["batch", "shapes", "0", codec], shapes.as_slice()].concat());
    }
}

/// Timestamps before 1970, out of order within and between batches, in the near future; the broker's own.
fn times(stage: &mut Stage<'_>) {
    stage.create_rolling("times", "1", 400, &["index.interval.bytes=0"]);
    let at = |time: i64| format!("{time};{};76;", hex(&format!("at {time}")));
    let batches: [&[i64]; 7] =
        [&[1000, 5000, 3000, 3000, 0], &[2000], &[9000, 8000, 7000], &[4000, 4500], &[THEN, 6000], &[9000], &[7500]];
    for (i, batch) in batches.iter().enumerate() {
        let codec = ["none", "lz4"][i % 2];
        let records: Vec<_> = batch.iter().map(|time| at(*time)).collect();
        let words = ["batch", "times", "0", codec].into_iter().chain(records.iter().map(String::as_str));
        stage.client.ask(&words.collect::<Vec<_>>());
        if i == 1 {
            stage.python.ask(&["kafka-python-send", "times", "0", "-5000", "6b", "2d35303030"]);
        }
    }
    stage.client.ask(&["create", "append-time", "1", "message.timestamp.type=LogAppendTime"]);
    for codec in ["none", "zstd"] {
        stage.client.ask(&["batch", "append-time", "0", codec, &at(1000), &at(500), &at(THEN)]);
    }
}

/// 0: committed, aborted and interleaved, over segment bounds. 1: one open at the stop, others behind it. 2: one
/// open from the first record on. 3: librdkafka's.
fn transactions(stage: &mut Stage<'_>) {
    stage.create_rolling("transactions", "4", 500, &["index.interval.bytes=0"]);
    for id in ["one", "two", "three"] {
        stage.transaction(id, &["begin"]);
    }
    for round in ["1", "2", "3"] {
        for id in ["one", "two", "three"] {
            stage.transaction(id, &["send", "transactions", "0", "2", &format!("{id} {round}")]);
        }
        stage.client.produce("transactions", 0, "none", "none", (1, 20), &format!("outside {round}"));
    }
    stage.transaction("two", &["abort"]);
    stage.transaction("one", &["commit"]);
    stage.client.produce("transactions", 0, "zstd", "none", (2, 20), "between");
    stage.transaction("three", &["abort"]);
    // The same producers go on: in version 2 each transaction has an epoch of its own.
    for (id, end) in [("one", "abort"), ("two", "commit"), ("two", "abort"), ("one", "commit")] {
        stage.transaction(id, &["begin"]);
        stage.transaction(id, &["send", "transactions", "0", "3", &format!("{id} to {end}")]);
        stage.transaction(id, &["send", "transactions", "1", "1", &format!("{id} to {end}")]);
        stage.transaction(id, &[end]);
    }
    stage.transaction("open", &["begin"]);
    stage.transaction("open", &["send", "transactions", "1", "2", "open at the stop"]);
    stage.transaction("open", &["send", "transactions", "2", "2", "open at the stop"]);
    stage.client.produce("transactions", 1, "none", "commit", (2, 20), "behind the open one");
    stage.client.produce("transactions", 1, "none", "abort", (2, 20), "aborted behind it");
    stage.client.produce("transactions", 2, "none", "none", (2, 20), "hidden by it");
    for outcome in ["commit", "abort", "commit"] {
        let tag = format!("librdkafka {outcome}");
        stage.python.ask(&["librdkafka-produce", "transactions", "3", "snappy", outcome, "4", &tag]);
    }
}

fn transactions_again(stage: &mut Stage<'_>) {
    for (id, end) in [("one", "commit"), ("two", "abort"), ("three", "commit")] {
        stage.transaction(id, &["begin"]);
        stage.transaction(id, &["send", "transactions", "0", "2", &format!("{id} again to {end}")]);
        stage.transaction(id, &[end]);
    }
    stage.transaction("open", &["begin"]);
    stage.transaction("open", &["send", "transactions", "1", "2", "open at the second stop"]);
}

/// Segments that were rolled because of their size, their age and a full index.
fn segments(stage: &mut Stage<'_>) {
    stage.create_rolling("by-size", "1", 1000, &["index.interval.bytes=100"]);
    for i in 0..12 {
        stage.client.produce("by-size", 0, "none", "none", (2, 80), &format!("size {i}"));
    }
    stage.client.ask(&["create", "by-age", "1", "segment.ms=60000"]);
    for i in 0..5 {
        stage.send_each("by-age", &[(THEN + i * 40_000, "age", "v"), (THEN + i * 40_000 + 1, "age", "w")]);
    }
    stage.client.ask(&["create", "by-index", "1", "index.interval.bytes=0", "segment.index.bytes=48"]);
    for i in 0..14 {
        stage.send_each("by-index", &[(THEN + i, "index", "v")]);
    }
}

/// DeleteRecords: a log start inside a batch, in a later segment, and at the end.
fn trimmed(stage: &mut Stage<'_>) {
    stage.create_rolling("trimmed", "3", 1000, &[]);
    for partition in 0..3 {
        for i in 0..4 {
            stage.client.produce("trimmed", partition, "none", "none", (10, 20), &format!("trimmed {i}"));
        }
    }
    stage.client.ask(&["trim", "trimmed", "0", "5"]);
    stage.client.ask(&["trim", "trimmed", "1", "27"]);
    stage.client.ask(&["trim", "trimmed", "2", "40"]);
}

fn trimmed_again(stage: &mut Stage<'_>) {
    stage.client.ask(&["trim", "trimmed", "0", "13"]);
    stage.client.produce("trimmed", 2, "none", "none", (3, 20), "after all was gone");
}

/// One pass of the cleaner over all but the last segment: holes, empty batches that only keep a producer's
/// sequence, tombstones with their horizon, what is left of transactions.
fn compacted(stage: &mut Stage<'_>) {
    let settings = ["cleanup.policy=compact", "min.cleanable.dirty.ratio=1.0", "index.interval.bytes=0"];
    stage.create_rolling("compacted", "1", 600, &settings);
    let batch: Vec<_> =
        (0..8).map(|i| format!("-;{};{};", hex(&format!("k{i}")), hex(&format!("first {i}")))).collect();
    let words = ["batch", "compacted", "0", "gzip"].into_iter().chain(batch.iter().map(String::as_str));
    stage.client.ask(&words.collect::<Vec<_>>());
    clean(stage, "once");
}

fn compacted_again(stage: &mut Stage<'_>) {
    stage.client.ask(&["alter", "compacted", "min.cleanable.dirty.ratio", "1.0"]);
    clean(stage, "twice");
}

fn clean(stage: &mut Stage<'_>, round: &str) {
    for id in ["keeps", "drops"] {
        stage.transaction(id, &["begin"]);
        stage.transaction(id, &["send", "compacted", "0", "2", "tx"]);
        stage.transaction(id, &[if id == "keeps" { "commit" } else { "abort" }]);
    }
    for value in ["a", "b", round] {
        stage.send_each("compacted", &[(THEN, "k0", value), (THEN, "k1", value), (THEN, "k2", value)]);
    }
    stage.send_each("compacted", &[(THEN, "k3", "~"), (THEN, "k4", "~")]);
    for i in 0..8 {
        stage.send_each("compacted", &[(THEN, &format!("{round} {i}"), "fills the last segments")]);
    }
    stage.client.ask(&["alter", "compacted", "min.cleanable.dirty.ratio", "0.01"]);
    stage.until("the cleaner", |client| {
        let rows = client.consume("compacted", "read_committed");
        rows.iter().filter(|row| row.key.as_deref() == Some(b"k0")).count() == 1
    });
}

/// Settings and partition counts that changed; an empty topic; one that is gone.
fn changes(stage: &mut Stage<'_>) {
    stage.client.ask(&["create", "empty", "1", "compression.type=zstd"]);
    stage.client.ask(&["create", "grown", "1", "retention.ms=123456789", "max.message.bytes=2000000"]);
    stage.client.produce("grown", -1, "none", "none", (4, 20), "before");
    stage.client.ask(&["grow", "grown", "3"]);
    stage.client.ask(&["alter", "grown", "max.message.bytes", "~"]);
    stage.client.ask(&["alter", "grown", "retention.ms", "-1"]);
    stage.client.produce("grown", -1, "none", "none", (8, 20), "after");
    stage.client.ask(&["create", "doomed", "2"]);
    stage.client.produce("doomed", 0, "none", "none", (4, 20), "gone");
    stage.client.ask(&["delete", "doomed"]);
    stage.client.ask(&["create", "doomed", "1", "segment.ms=987654321"]);
    stage.client.produce("doomed", 0, "none", "none", (2, 20), "not gone");
    stage.client.ask(&["create", "a-name.with_all-0", "1"]);
    stage.client.produce("a-name.with_all-0", 0, "none", "none", (1, 20), "name");
    stage.client.ask(&["create", "deleted", "1"]);
    stage.client.ask(&["delete", "deleted"]);
}

/// Some partitions of many have a record.
fn wide(stage: &mut Stage<'_>) {
    stage.client.ask(&["create", "wide", "200", "segment.index.bytes=48"]);
    for partition in [0, 7, 199] {
        stage.client.produce("wide", partition, "none", "none", (1, 20), "wide");
    }
}

/// Committed offsets of each kind of group, with members at the stop and without, and what is no committed offset: aborted and pending ones, share groups.
fn groups(stage: &mut Stage<'_>) {
    stage.client.ask(&["group-read", "java classic", "codecs"]);
    stage.python.ask(&["librdkafka-read", "librdkafka", "shapes"]);
    stage.python.ask(&["kafka-python-read", "kafka-python", "shapes"]);
    stage.client.ask(&["commit", "by-hand", "codecs", "0", "3", "by hand, \u{fc}"]);
    stage.client.ask(&["commit", "by-hand", "grown", "2", "0", ""]);
    for (group, end) in
        [("in a committed transaction", Some("commit")), ("in an aborted one", Some("abort")), ("in an open one", None)]
    {
        stage.client.ask(&["commit", group, "codecs", "0", "1", "before"]);
        stage.transaction(group, &["begin"]);
        stage.transaction(group, &["offset", group, "codecs", "0", "7"]);
        stage.transaction(group, &["offset", group, "codecs", "1", "2"]);
        if let Some(end) = end {
            stage.transaction(group, &[end]);
        }
    }
    stage.client.ask(&["commit", "deleted", "codecs", "0", "1", ""]);
    let tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    stage.client.online_tool(tool, &["--delete", "--group", "deleted"]);
    stage.client.ask(&["join", "with a member", "codecs", "classic"]);
    if stage.version != Version::V3_9_2 {
        stage.client.ask(&["group-read", "kip 848", "codecs", "consumer"]);
        stage.client.ask(&["join", "kip 848 with a member", "codecs", "consumer"]);
        stage.client.ask(&["alter-group", "shared", "share.auto.offset.reset", "earliest"]);
        let tool = "org.apache.kafka.tools.consumer.ConsoleShareConsumer";
        let words = ["--topic", "codecs", "--group", "shared", "--max-messages", "3", "--timeout-ms", "20000"];
        stage.client.online_tool(tool, &words);
    }
}

fn groups_again(stage: &mut Stage<'_>) {
    stage.client.ask(&["group-read", "java classic", "codecs"]);
    stage.client.ask(&["commit", "by-hand", "codecs", "0", "5", "again"]);
    if stage.version != Version::V3_9_2 {
        stage.client.ask(&["group-read", "kip 848", "codecs", "consumer"]);
    }
}

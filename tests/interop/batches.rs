//! Record batches alone, every codec, both ways: what we encode passes dump-log and the stock consumer, and we
//! decode what the Java client encoded. No log or broker of ours takes part.

use std::fs;
use std::path::Path;

use thalweg::{Codec, Header, LeaderEpoch, Offset, Record, RecordBatch, Timestamp};

use crate::dump;
use crate::kafka::Kafka;
use crate::node::{self, Node, SINGLE_NODE};
use crate::peer::Row;

crate::on_each_release!(kafka_reads_our_batches, we_read_kafkas_batches);

pub(crate) const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const LOG: &str = "00000000000000000000.log";
const TIME: i64 = 1_700_000_000_000;

fn kafka_reads_our_batches(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    node::format(kafka, &data);
    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    client.ask(&["create", "t", "1", "retention.ms=-1"]);
    drop(client);
    node.stop();

    let (bytes, rows) = our_log();
    let dir = data.join("t-0");
    for file in ["log", "index", "timeindex"] {
        fs::remove_file(dir.join(LOG).with_extension(file)).expect("a file of the empty log");
    }
    fs::write(dir.join(LOG), bytes).expect("our log can be written");

    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    let told = dump::partition(&mut client, &dir);
    assert_eq!(dump::records(&told), rows.len());
    assert_eq!(client.consume("t", "read_committed"), rows);
    // The broker takes the largest timestamp from our batch headers, and finds the record by it.
    let newest = rows.iter().max_by_key(|row| row.timestamp).expect("records");
    let found = client.offsets("t", "max-timestamp")[0];
    assert_eq!((found.timestamp, found.offset), (newest.timestamp, newest.offset));
    drop(client);
    node.stop();
}

fn we_read_kafkas_batches(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    node::format(kafka, &data);
    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    client.ask(&["create", "t", "1", "retention.ms=-1"]);
    let mut sent = Vec::new();
    for codec in CODECS.map(|codec| codec.to_string()) {
        for (size, count) in [(20, 50), (30_000, 8)] {
            sent.extend(client.produce("t", 0, &codec, "none", (count, size), &format!("{codec}-{size}")));
        }
    }
    sent.extend(client.produce("t", 0, "gzip", "commit", (5, 10), "kept"));
    sent.extend(client.produce("t", 0, "lz4", "abort", (5, 10), "dropped"));
    drop(client);
    node.stop();

    let batches = batches(&data.join("t-0").join(LOG));
    assert_eq!(batches.iter().filter(|batch| batch.header().is_control()).count(), 2, "a commit and an abort");
    let read: Vec<_> = batches.iter().filter(|batch| !batch.header().is_control()).flat_map(rows).collect();
    assert_eq!(read, sent);
}

/// Batches of each codec: plain, with everything that a record can carry, and larger than any codec's block.
fn our_log() -> (Vec<u8>, Vec<Row>) {
    let mut log = Vec::new();
    let mut all = Vec::new();
    for codec in CODECS {
        for records in [vec![Record::new("plain").key("k")], everything(), large()] {
            let base = Offset::new(all.len() as i64);
            let mut builder =
                RecordBatch::builder().compression(codec).base_offset(base).leader_epoch(LeaderEpoch::new(0));
            for (i, record) in records.iter().enumerate() {
                // Out of order within a batch, so that its base and maximum are not its first and last.
                let row = written(record, all.len() as i64, TIME + all.len() as i64 - 3 * i as i64);
                builder.push(Timestamp::new(row.timestamp), record).expect("a record that fits");
                all.push(row);
            }
            log.extend_from_slice(builder.finish().expect("a batch").as_bytes());
        }
    }
    (log, all)
}

pub(crate) fn everything() -> Vec<Record> {
    vec![
        Record::tombstone("k").header("h", "1").header("h", vec![0, 255]).null_header("h").header("\u{fc}", ""),
        Record::new("").key(""),
        Record::new(vec![0, 1, 2, 255]),
    ]
}

/// Compressible and incompressible stretches of 100 KiB.
pub(crate) fn large() -> Vec<Record> {
    let noise = (0..100 * 1024_u32).map(|i| i.wrapping_mul(2_654_435_761).rotate_left(i % 31).to_be_bytes()[0]);
    vec![Record::new(noise.collect::<Vec<u8>>()), Record::new(vec![b'a'; 100 * 1024]), Record::new("end")]
}

fn batches(log: &Path) -> Vec<RecordBatch> {
    let bytes = fs::read(log).expect("a log");
    let mut rest = &bytes[..];
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
        let (batch, next) = rest.split_at(12 + length);
        batches.push(RecordBatch::parse(batch.to_vec()).expect("a batch that Kafka wrote"));
        rest = next;
    }
    batches
}

/// What a reader must see of a record, taken from the record itself and not from what we made of it.
pub(crate) fn written(record: &Record, offset: i64, timestamp: i64) -> Row {
    let header = |header: &Header| (header.key().to_owned(), header.value().map(<[u8]>::to_vec));
    Row {
        partition: 0,
        offset,
        timestamp,
        key: record.key_bytes().map(|key| key.to_vec()),
        value: record.value_bytes().map(|value| value.to_vec()),
        headers: record.headers().iter().map(header).collect(),
    }
}

pub(crate) fn rows(batch: &RecordBatch) -> Vec<Row> {
    let decoded = batch.decode().expect("a batch that decodes");
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let row = |record: thalweg::Result<thalweg::RecordRef<'_>>| {
        let record = record.expect("a record that decodes");
        Row {
            partition: 0,
            offset: record.offset().get(),
            timestamp: record.timestamp().get(),
            key: owned(record.key()),
            value: owned(record.value()),
            headers: record.headers().map(|(key, value)| (key.to_owned(), owned(value))).collect(),
        }
    };
    decoded.iter().map(row).collect()
}

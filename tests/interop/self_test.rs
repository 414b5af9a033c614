//! The harness against a broker on its own directory, none of our code involved: what the other tests lean on.

use std::fs;

use crate::dump;
use crate::kafka::Kafka;
use crate::node::{self, Node, SINGLE_NODE};
use crate::peer::Row;

crate::on_each_release!(a_broker_on_its_own_directory, dump_log_finds_fault);

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

fn a_broker_on_its_own_directory(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    node::format(kafka, &data);

    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    client.ask(&["create", "t", "2", "retention.ms=-1", "index.interval.bytes=100"]);
    let mut sent: Vec<Row> = Vec::new();
    for codec in CODECS {
        sent.extend(client.produce("t", -1, codec, "none", (20, 100), codec));
    }
    sent.extend(client.produce("t", 0, "zstd", "commit", (5, 10), "kept"));
    sent.sort();
    let aborted = client.produce("t", 1, "none", "abort", (5, 10), "dropped");

    assert_eq!(client.consume("t", "read_committed"), sent);
    assert_eq!(client.consume("t", "read_uncommitted").len(), sent.len() + aborted.len());
    assert_eq!(client.group_read("g", "t"), sent);
    client.ask(&["commit", "g", "t", "0", "3", "by hand"]);
    let committed = client.committed("g");
    assert_eq!((committed[0].offset, committed[0].metadata.as_str()), (3, "by hand"));
    assert_eq!(client.ask(&["groups"]), ["g"]);

    assert_eq!(client.topic_configs("t")[0], ("index.interval.bytes".to_owned(), "100".to_owned()));
    assert_eq!(client.offsets("t", "earliest")[1].offset, 0);
    let latest = client.offsets("t", "latest");
    assert_eq!(latest[1].offset, aborted[4].offset + 2, "five records and their marker");
    let id = client.topics().into_iter().find(|topic| topic.name == "t").expect("the topic").id;
    node.sit_out_a_retention_round(&mut client);
    drop(client);
    node.kill();

    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    let topic = client.topics().into_iter().find(|topic| topic.name == "t").expect("the topic");
    assert_eq!((topic.id, topic.partitions, topic.led), (id, 2, 2));
    assert_eq!(client.consume("t", "read_committed"), sent);
    client.ask(&["grow", "t", "3"]);
    client.ask(&["alter", "t", "index.interval.bytes", "~"]);
    assert_eq!(client.topic_configs("t"), [("retention.ms".to_owned(), "-1".to_owned())]);
    let described = client.online_tool("org.apache.kafka.tools.TopicCommand", &["--describe", "--topic", "t"]);
    assert!(described[0].contains("PartitionCount: 3"), "{described:?}");
    node.stop();
    assert!(data.join(".kafka_cleanshutdown").exists());

    let told: Vec<_> = (0..2).flat_map(|p| dump::partition(&mut client, &data.join(format!("t-{p}")))).collect();
    assert_eq!(dump::records(&told), sent.len() + aborted.len());
}

/// A harness that cannot fail proves nothing: one flipped bit, one wrong index entry.
fn dump_log_finds_fault(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    node::format(kafka, &data);
    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    client.ask(&["create", "t", "1", "index.interval.bytes=0"]);
    for tag in ["a", "b", "c"] {
        client.produce("t", 0, "none", "none", (2, 50), tag);
    }
    node.stop();

    let dir = data.join("t-0");
    dump::partition(&mut client, &dir);
    let log = dir.join("00000000000000000000.log");
    let good = fs::read(&log).expect("a log file");
    let mut bad = good.clone();
    *bad.last_mut().expect("records") ^= 1;
    fs::write(&log, bad).expect("a log file");
    let fault = dump::dump(&mut client, std::slice::from_ref(&log), &["--deep-iteration"]);
    assert!(fault.is_err(), "{fault:?}");

    fs::write(&log, good).expect("a log file");
    let index = dir.join("00000000000000000000.index");
    let mut entries = fs::read(&index).expect("an index file");
    *entries.last_mut().expect("entries") ^= 1;
    fs::write(&index, entries).expect("an index file");
    let fault = dump::dump(&mut client, &[index], &[]);
    assert!(fault.is_err(), "{fault:?}");
}

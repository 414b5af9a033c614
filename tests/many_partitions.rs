//! 10,000 partitions in a process that may open 256 files: descriptors are bounded, directories appear at the
//! first append, and a partition that nobody touches costs neither.

#![cfg(unix)]

use std::process::Command;

use thalweg::{Broker, Durability, Start};

const PARTITIONS: u32 = 10_000;
const CHILD: &str = "THALWEG_MANY_PARTITIONS_DIR";

#[test]
fn ten_thousand_partitions_work_with_256_descriptors() {
    if let Ok(dir) = std::env::var(CHILD) {
        return with_few_descriptors(&dir);
    }
    let dir = tempfile::tempdir().unwrap();
    let me = std::env::current_exe().unwrap();
    let status = Command::new("sh")
        .args(["-c", "ulimit -n 256 && exec \"$0\" --exact ten_thousand_partitions_work_with_256_descriptors"])
        .arg(me)
        .env(CHILD, dir.path())
        .status()
        .unwrap();
    assert!(status.success());
}

fn directories(dir: &str) -> usize {
    std::fs::read_dir(dir).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count()
}

fn with_few_descriptors(dir: &str) {
    let broker = Broker::open(dir).unwrap();
    let topic = broker.topic("many").partitions(PARTITIONS).durability(Durability::ProcessCrash).create().unwrap();
    assert_eq!(directories(dir), 1, "only the catalog's: nothing was appended");
    let first: Vec<_> = topic.partitions().into_iter().step_by(33).collect();
    for partition in &first {
        let appended = partition.append_records([partition.topic_partition().to_string()]).unwrap();
        partition.wait(appended.position, Durability::ProcessCrash).unwrap();
    }
    assert_eq!(directories(dir), 1 + first.len());
    assert_eq!(topic.scan(Start::Earliest).count(), first.len());
    broker.close().unwrap();

    let broker = Broker::open(dir).unwrap();
    let topic = broker.topic("many").open().unwrap();
    assert_eq!(topic.partition_count(), PARTITIONS as usize);
    for record in topic.scan(Start::Earliest) {
        let record = record.unwrap();
        assert_eq!(record.value(), Some(record.topic_partition().to_string().as_bytes()));
    }
    broker.close().unwrap();
}

//! Thousands of partitions in a process that may open few files: descriptors are bounded, directories appear at the
//! first append, and a partition that nobody touches costs neither.

#![cfg(unix)]

use std::process::Command;

use thalweg::{Broker, Durability, Start};

const CHILD: &str = "THALWEG_MANY_PARTITIONS_DIR";
const COUNT: &str = "THALWEG_MANY_PARTITIONS";

/// Runs one of the tests here again in a process that may open so many files.
fn in_a_child(test: &str, limit: u32, partitions: u32) {
    if let (Ok(dir), Ok(count)) = (std::env::var(CHILD), std::env::var(COUNT)) {
        return with_few_descriptors(&dir, limit, count.parse().unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let me = std::env::current_exe().unwrap();
    let status = Command::new("sh")
        .args(["-c", &format!("ulimit -n {limit} && exec \"$0\" --exact {test}")])
        .arg(me)
        .env(CHILD, dir.path())
        .env(COUNT, partitions.to_string())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn ten_thousand_partitions_work_with_256_descriptors() {
    in_a_child("ten_thousand_partitions_work_with_256_descriptors", 256, 10_000);
}

#[test]
fn a_few_hundred_work_with_40() {
    in_a_child("a_few_hundred_work_with_40", 40, 2_000);
}

/// The cache takes half of what the process may open; the lock, the test's own and a directory that is just read come
/// on top.
fn check_descriptors(limit: u32) {
    if cfg!(target_os = "linux") {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(open <= limit as usize / 2 + 12, "{open} descriptors are open");
    }
}

fn directories(dir: &str) -> usize {
    std::fs::read_dir(dir).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count()
}

fn with_few_descriptors(dir: &str, limit: u32, partitions: u32) {
    let broker = Broker::open(dir).unwrap();
    let topic = broker.topic("many").partitions(partitions).durability(Durability::ProcessCrash).create().unwrap();
    assert_eq!(directories(dir), 1, "only the catalog's: nothing was appended");
    let first: Vec<_> = topic.partitions().into_iter().step_by(33).collect();
    for partition in &first {
        let appended = partition.append_records([partition.topic_partition().to_string()]).unwrap();
        partition.wait(appended.position, Durability::ProcessCrash).unwrap();
    }
    assert_eq!(directories(dir), 1 + first.len());
    check_descriptors(limit);
    assert_eq!(topic.scan(Start::Earliest).count(), first.len());
    check_descriptors(limit);
    broker.close().unwrap();

    let broker = Broker::open(dir).unwrap();
    let topic = broker.topic("many").open().unwrap();
    assert_eq!(topic.partition_count(), partitions as usize);
    for record in topic.scan(Start::Earliest) {
        let record = record.unwrap();
        assert_eq!(record.value(), Some(record.topic_partition().to_string().as_bytes()));
    }
    // Handles of the first broker live.
    assert!(first.iter().all(|partition| partition.offsets().is_err()));
    check_descriptors(limit);
    broker.close().unwrap();
}

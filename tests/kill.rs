//! A process that appends is killed with SIGKILL, again and again, over the same directory: what it had
//! acknowledged is there, nothing is there twice, and appends go on behind it.
//!
//! The child is this test binary, told by an environment variable what to do.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use thalweg::{Broker, Durability, Start};

const CHILD: &str = "THALWEG_TEST_CHILD";
const ROUNDS: usize = 4;
const ACKNOWLEDGED_PER_ROUND: usize = 150;

/// Appends numbers to both partitions and says what was acknowledged, until it is killed.
#[test]
fn child() -> thalweg::Result<()> {
    let Ok(dir) = std::env::var(CHILD) else { return Ok(()) };
    let broker = Broker::open(&dir)?;
    let topic = broker.topic("numbers").open()?;
    for number in 0.. {
        let partition = topic.partition(number % 2)?;
        let value = format!("{}-{number}", std::process::id());
        let appended = partition.append_records([value.as_str()])?;
        partition.wait(appended.position, partition.durability())?;
        let line = format!("acknowledged {} {} {value}\n", number % 2, appended.base_offset);
        // One write per line: the parent must not see half of one.
        std::io::stdout().write_all(line.as_bytes()).expect("the parent reads until it kills");
    }
    Ok(())
}

/// Runs a child until it has acknowledged enough, kills it, and gives its acknowledgements as
/// (partition, offset, value).
fn run_and_kill(dir: &Path) -> Vec<(i32, i64, String)> {
    let binary = std::env::current_exe().expect("a test knows its binary");
    let mut child = Command::new(binary)
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test binary runs");
    let lines = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
    let acknowledged = lines.map(|line| line.expect("UTF-8")).filter_map(|line| {
        let mut words = line.strip_prefix("acknowledged ")?.split(' ');
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.to_owned()))
    });
    let seen = acknowledged.take(ACKNOWLEDGED_PER_ROUND).collect::<Vec<_>>();
    child.kill().expect("SIGKILL");
    child.wait().expect("it is our child");
    assert_eq!(seen.len(), ACKNOWLEDGED_PER_ROUND, "the child ended by itself");
    seen
}

fn killed_again_and_again(level: Durability) -> thalweg::Result<()> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("data");
    let broker = Broker::open(&path)?;
    broker.topic("numbers").partitions(2).durability(level).create()?;
    broker.close()?;

    let mut acknowledged = Vec::new();
    for _ in 0..ROUNDS {
        acknowledged.extend(run_and_kill(&path));
        let broker = Broker::open(&path)?;
        let mut found = Vec::new();
        for record in broker.topic("numbers").open()?.scan(Start::Earliest) {
            let record = record?;
            let value = String::from_utf8_lossy(record.value().unwrap_or_default()).into_owned();
            found.push((record.partition().get(), record.offset().get(), value));
        }
        for record in &acknowledged {
            assert!(found.contains(record), "{record:?} was acknowledged at {level} and is gone");
        }
        let mut places: Vec<_> = found.iter().map(|(partition, offset, _)| (*partition, *offset)).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), found.len(), "an offset names two records");
        broker.close()?;
    }
    Ok(())
}

#[test]
fn what_was_acknowledged_at_power_loss_survives_sigkill() -> thalweg::Result<()> {
    killed_again_and_again(Durability::PowerLoss)
}

#[test]
fn what_was_acknowledged_at_process_crash_survives_sigkill() -> thalweg::Result<()> {
    killed_again_and_again(Durability::ProcessCrash)
}

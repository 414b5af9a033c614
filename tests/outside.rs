//! What others do to a directory while it is open: files that shrink or go away under a reader, and a second opening by
//! another name. Errors with a kind and a place, and never a panic or a signal.
#![allow(clippy::disallowed_methods, reason = "these tests are the others")]

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use thalweg::{Broker, Durability, Error, ErrorKind, FindingKind, Isolation, Log, LogConfig, Offset, Result};

const RECORDS: i64 = 60;

/// A log of several segments, all of it durable.
fn fill(dir: &Path) -> Result<Log> {
    let log = Log::open(dir, LogConfig::default().segment_bytes(700).index_interval_bytes(100))?;
    for number in 0..RECORDS {
        let appended = log.append_records([format!("record {number}")])?;
        log.wait(appended.position, Durability::PowerLoss)?;
    }
    Ok(log)
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).expect("lists").map(|entry| entry.expect("an entry").path());
    let mut logs: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    logs.sort();
    assert!(logs.len() > 4, "{logs:?}");
    logs
}

fn base(segment: &Path) -> i64 {
    segment.file_stem().and_then(|stem| stem.to_str()?.parse().ok()).expect("a segment's name")
}

/// Reads everything as a consumer does that skips what it cannot have; answers the offsets and the errors.
fn read(log: &Log) -> (Vec<i64>, Vec<Error>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    let mut at = log.offsets().log_start;
    while at < log.offsets().high_watermark {
        let before = at;
        match log.read(at, 1 << 16, Isolation::ReadUncommitted) {
            Ok(read) => {
                for batch in read.batches() {
                    match batch.and_then(|batch| batch.decode()?.iter().map(|r| Ok(r?.offset().get())).collect()) {
                        Ok(offsets) => found.extend::<Vec<_>>(offsets),
                        Err(error) => errors.push(error),
                    }
                }
                at = read.next_offset();
            }
            Err(error) => {
                at = error.at_offsets().map_or_else(|| at.next(), |gone| gone.end);
                errors.push(error);
            }
        }
        assert!(at > before, "reading gets on at {before}");
    }
    (found, errors)
}

/// What is read is right, what is not is told, and the log takes appends, or says why it does not. Answers how many
/// records cannot be read.
fn check(log: &Log, hurt: &Path, what: &str) -> usize {
    let (found, errors) = read(log);
    assert!(found.is_sorted() && found.iter().all(|offset| (0..RECORDS).contains(offset)), "{what}: {found:?}");
    let is_told = |e: &Error| matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Io);
    assert!(errors.iter().all(is_told), "{what}: {errors:?}");
    let until = segments(log_dir(hurt)).into_iter().map(|path| base(&path)).filter(|at| *at > base(hurt)).min();
    let missing: Vec<_> = (0..RECORDS).filter(|offset| !found.contains(offset)).collect();
    let within = |offset: &i64| (base(hurt)..until.unwrap_or(RECORDS)).contains(offset);
    assert!(missing.iter().all(within), "{what}: {missing:?} of {hurt:?}");
    assert!(missing.is_empty() || !errors.is_empty(), "{what}: {missing:?} are missing and nobody says so");
    match log.append_records(["more"]).and_then(|appended| log.wait(appended.position, Durability::PowerLoss)) {
        Ok(()) => {}
        Err(e) => assert_ne!(e.kind(), ErrorKind::Closed, "{what}: {e}"),
    }
    missing.len()
}

fn log_dir(segment: &Path) -> &Path {
    segment.parent().expect("in a directory")
}

/// Does something to each segment of a log in turn, while that is open.
fn each_segment(what: &str, harm: impl Fn(&Path)) -> usize {
    let (mut number, mut missing) = (0, 0);
    loop {
        let root = tempfile::tempdir().expect("room");
        let dir = root.path().join("events-0");
        let log = fill(&dir).expect("a disk that works");
        let Some(hurt) = segments(&dir).into_iter().nth(number) else { return missing };
        harm(&hurt);
        missing += check(&log, &hurt, &format!("segment {number} {what}"));
        // It may fail, in order.
        drop(log.close());
        drop(log);
        let again = Log::open(&dir, LogConfig::default()).expect("what is left opens");
        assert!(again.offsets().end >= Offset::new(RECORDS), "segment {number} {what}: {:?}", again.recovery());
        let next = again.append_records(["next"]).expect("takes appends again");
        assert!(next.base_offset >= Offset::new(RECORDS));
        number += 1;
    }
}

#[test]
fn a_file_that_shrinks_under_a_reader_is_an_error_and_no_signal() {
    for len in [0, 30, 61, 300] {
        let shrink = |path: &Path| {
            OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(len)).expect("shrinks");
        };
        let missing = each_segment(&format!("cut to {len} bytes"), shrink);
        assert!(missing > 10, "{missing} records cannot be read of segments cut to {len} bytes");
    }
}

#[test]
fn a_file_that_goes_away_under_a_reader_is_an_error_at_most() {
    each_segment("removed", |path| fs::remove_file(path).expect("goes"));
}

#[test]
fn a_directory_that_goes_away_fails_appends_and_closes_in_order() {
    let root = tempfile::tempdir().expect("room");
    let dir = root.path().join("events-0");
    let log = fill(&dir).expect("a disk that works");
    fs::remove_dir_all(&dir).expect("goes");
    let (found, errors) = read(&log);
    assert!(found.is_sorted() && errors.iter().all(|e| matches!(e.kind(), ErrorKind::Io | ErrorKind::Corrupt)));
    let failed = (0..100).find_map(|_| {
        let appended = log.append_records(["x".repeat(300)]);
        appended.and_then(|appended| log.wait(appended.position, Durability::PowerLoss)).err()
    });
    let failed = failed.expect("the next segment has nowhere to be");
    assert!(matches!(failed.kind(), ErrorKind::Io | ErrorKind::Indeterminate), "{failed}");
    assert!(log.close().is_err());
}

/// Whatever a directory is called: who comes second is told, and by whom it is held.
#[cfg(unix)]
#[test]
fn a_second_opening_by_another_name_is_refused() {
    let root = tempfile::tempdir().expect("room");
    let [dir, link, moved] = ["data", "link", "moved"].map(|name| root.path().join(name));
    let refused = |path: &Path| {
        let error = Broker::open(path).expect_err("it is held");
        assert_eq!(error.kind(), ErrorKind::Locked);
        let pid = std::process::id().to_string();
        assert!(error.to_string().contains("locked by this process") && error.to_string().contains(&pid), "{error}");
    };
    let broker = Broker::open(&dir).expect("opens");
    broker.topic("orders").create().and_then(|orders| orders.send("one")).expect("a disk that works");
    std::os::unix::fs::symlink(&dir, &link).expect("links");
    refused(&link);
    refused(&root.path().join("link/../data"));
    fs::rename(&dir, &moved).expect("moves");
    refused(&moved);
    std::os::unix::fs::symlink(&moved, &dir).expect("links");
    refused(&dir);
    broker.close().expect("closes, by the link");
    Broker::open(&moved).and_then(|broker| broker.close()).expect("nobody holds it any more");
}

#[cfg(target_os = "linux")]
#[test]
fn a_directory_that_is_in_memory_alone_is_told_so() {
    const MEMORY: &str = "/dev/shm";
    let mounts = fs::read_to_string("/proc/self/mounts").expect("Linux says");
    let is_there = mounts.lines().any(|line| line.split(' ').skip(1).take(2).eq([MEMORY, "tmpfs"]));
    let Some(dir) = is_there.then(|| tempfile::tempdir_in(MEMORY).ok()).flatten() else { return };
    let broker = Broker::open(dir.path().join("data")).expect("opens");
    let found = broker.findings();
    assert_eq!(found.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::FileSystem]);
    assert!(found[0].message.ends_with("in memory: loss of power takes all of it"), "{}", found[0]);
}

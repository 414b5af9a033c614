//! A process that forks with a broker or a log open: its child reads, and changes nothing.
#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "nothing safe forks")]
#![allow(clippy::disallowed_methods, reason = "what is on the disk is compared byte by byte")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{fs, io, process};

use thalweg::{Broker, Durability, Error, ErrorKind, FindingKind, Isolation, Log, LogConfig, Start, TopicConfig};

/// Runs `work` in a fork of this process, which ends with it; panics where it does.
fn in_a_fork(work: impl FnOnce()) {
    // SAFETY: the child of a process of several threads has only the one that forked, and must not wait for another. The
    // test harness's waits for this one and holds no lock that `work` takes; there are no more.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let done = catch_unwind(AssertUnwindSafe(work)).inspect_err(|panic| {
            // What the harness has captured goes with the child.
            writeln!(io::stderr(), "the child: {:?}", panic.downcast_ref::<String>()).ok();
        });
        // SAFETY: ends the process at once, whatever else it has.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    let mut status = 0;
    // SAFETY: writes the status to where the pointer says, which is valid for the call.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((ended, status), (child, 0), "{}", io::Error::last_os_error());
}

/// Every file below, with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("lists") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).expect("reads"));
        }
    }
    found
}

fn assert_forked(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Forked, "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("process {} is a fork of process ", process::id())), "{text}");
    assert!(text.ends_with("(fork first, and open the broker or log in the process that works with it)"), "{text}");
}

// One test: a second one's thread might hold a lock when this one forks.
#[test]
fn a_fork_of_the_process_reads_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    a_broker(&dir.path().join("data"));
    a_log(&dir.path().join("events-0"));
}

fn a_broker(path: &Path) {
    let broker = Broker::builder(path).manual().open().expect("opens");
    let orders = broker.topic("orders").create().expect("is made");
    orders.send("one").expect("is sent");
    let weak =
        broker.topic("weak").config(TopicConfig::new().durability(Durability::ProcessCrash)).create().expect("is made");
    weak.send("one").expect("is sent");
    let before = files(path);
    in_a_fork(|| {
        for topic in [&orders, &weak] {
            assert_eq!(topic.scan(Start::Earliest).filter_map(Result::ok).count(), 1);
            // The second is told the same as the first.
            assert_forked(&topic.send("two").unwrap_err());
            assert_forked(&topic.send("three").unwrap_err());
        }
        assert_forked(&broker.topic("more").create().unwrap_err());
        assert_eq!(Broker::open(path).unwrap_err().kind(), ErrorKind::Locked);
        assert_forked(&broker.close().unwrap_err());
        // It was the child's copy of the lock that went.
        assert_eq!(Broker::open(path).unwrap_err().kind(), ErrorKind::Locked);
    });
    assert_eq!(files(path), before);
    for topic in [&orders, &weak] {
        assert_eq!(topic.send("two").expect("is sent").offset, 1);
    }
    broker.close().expect("closes");
    let broker = Broker::open(path).expect("opens");
    for name in ["orders", "weak"] {
        let topic = broker.topic(name).open().expect("is there");
        let values = topic.scan(Start::Earliest).map(|record| record.expect("is sound").value().map(<[u8]>::to_vec));
        assert_eq!(values.collect::<Vec<_>>(), [Some(b"one".to_vec()), Some(b"two".to_vec())]);
    }
    // Temporary directories may be in memory.
    assert!(broker.findings().iter().all(|f| f.kind == FindingKind::FileSystem), "{:?}", broker.findings());
}

fn a_log(path: &Path) {
    let log = Log::open(path, LogConfig::default()).expect("opens");
    let append = |text: &str, level| {
        let appended = log.append_records([text])?;
        log.wait(appended.position, level).map(|()| appended.last_offset)
    };
    append("one", Durability::PowerLoss).expect("is appended");
    let unsynced = log.append_records(["two"]).expect("is appended").position;
    log.wait(unsynced, Durability::ProcessCrash).expect("is written");
    let before = files(path);
    in_a_fork(|| {
        assert_forked(&log.wait(unsynced, Durability::PowerLoss).unwrap_err());
        assert_forked(&append("three", Durability::ProcessCrash).unwrap_err());
        assert_forked(&log.truncate(0).unwrap_err());
        assert_forked(&log.advance_log_start(1).unwrap_err());
        assert_forked(&log.close().unwrap_err());
    });
    assert_eq!(files(path), before);
    assert_eq!(append("three", Durability::PowerLoss).expect("is appended"), 2);
    let read = log.read(0, 1 << 16, Isolation::ReadUncommitted).expect("is read");
    assert_eq!((read.batches().count(), read.next_offset().get()), (3, 3));
    log.close().expect("closes");
}

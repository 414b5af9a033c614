//! Appends that expect the log to end somewhere: one of many gets it, and nobody builds on what is gone.

use std::sync::Barrier;
use std::thread;

use super::full::{Full, is_refused, produced};
use super::*;

#[track_caller]
fn conflict(appended: Result<Appended>, end: i64) -> String {
    let error = appended.unwrap_err();
    assert_eq!((error.kind(), error.at_offset()), (ErrorKind::Conflict, Some(Offset::new(end))), "{error}");
    assert!(!error.is_retriable());
    error.to_string()
}

#[test]
fn an_append_finds_the_log_as_expected_or_is_told_where_it_ends() {
    let log = Bed::new().open(LogConfig::default());
    let first = log.append_records_if(0, ["value 0", "value 1"]).unwrap();
    // Staged counts, although nobody can read it yet.
    assert_eq!(log.offsets().high_watermark, 0);
    assert_eq!(
        conflict(log.append_records_if(0, ["late"]), 2),
        "an append expected the log to end at offset 0, not at 2, partition t-0, offset 2 (read what was appended, \
         decide again, and expect the end that is found)"
    );
    conflict(log.append_records_if(3, ["early"]), 2);
    conflict(log.append_records_if(-1, ["never"]), 2);
    log.append_records_if(first.position, ["value 2"]).unwrap();
    conflict(log.append_records_if(first.position, ["again"]), 3);
    log.sync().unwrap();
    let read = log.read(0, 1 << 20, Isolation::ReadCommitted).unwrap();
    log.append_records_if(read.next_offset(), ["value 3"]).unwrap();
    log.sync().unwrap();
    assert_eq!(all(&log), numbered(0..4));
}

#[test]
fn markers_count_and_duplicates_are_no_conflict() {
    let log = Bed::new().open(LogConfig::default());
    let epoch = LeaderEpoch::new(0);
    log.append_if(0, &produced(0), epoch).unwrap();
    let end = EndMarker { outcome: TxnOutcome::Commit, coordinator_epoch: 0 };
    log.append(&BatchBuilder::end_marker(end, ProducerId::new(7), 0, Timestamp::new(T)).unwrap(), epoch).unwrap();
    conflict(log.append_records_if(1, ["late"]), 2);
    // What is sent again is there already: that is the answer, whatever came since.
    assert_eq!(log.append_if(0, &produced(0), epoch).unwrap().base_offset, 0);
    assert_eq!(log.offsets().end, 2);
}

#[test]
fn of_many_who_expect_the_same_end_one_appends() {
    const THREADS: usize = 4;
    const ATTEMPTS: usize = 5_000;
    let log = Bed::new().open(LogConfig::default());
    let attempt = || {
        let expected = log.offsets().end;
        match log.append_records_if(expected, ["value"]) {
            Ok(appended) => {
                assert_eq!(appended.base_offset, expected);
                Some(expected)
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Conflict);
                assert!(error.at_offset() > Some(expected));
                None
            }
        }
    };
    let start = Barrier::new(THREADS);
    let mut won = thread::scope(|scope| {
        let run = || {
            start.wait();
            (0..ATTEMPTS).filter_map(|_| attempt()).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    won.sort();
    assert_eq!(won, (0..log.offsets().end.get()).map(Offset::new).collect::<Vec<_>>(), "one winner for each end");
}

/// Each writer adds one to the last value: no addition is lost, without a lock.
#[test]
fn whoever_reads_and_then_appends_loses_no_update() {
    const THREADS: i64 = 4;
    const EACH: i64 = 50;
    let log = Bed::new().open(small());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let (mut at, mut last) = (Offset::ZERO, 0);
                for _ in 0..EACH {
                    loop {
                        for (offset, value) in from(&log, at, Isolation::ReadCommitted) {
                            (at, last) = (Offset::new(offset + 1), value.parse().unwrap());
                        }
                        match log.append_records_if(at, [format!("{}", last + 1)]) {
                            Ok(appended) => break log.wait(appended.position, Durability::PowerLoss).unwrap(),
                            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
                        }
                        // It may be another's turn to make what he staged readable.
                        log.sync().unwrap();
                    }
                }
            });
        }
    });
    let expected: Vec<_> = (0..THREADS * EACH).map(|n| (n, (n + 1).to_string())).collect();
    assert_eq!(all(&log), expected);
}

#[test]
fn nothing_stands_on_an_append_that_was_taken_back() {
    let full = Full::new();
    let log = full.open(LogConfig::default());
    put(&log, &["value 0"]);
    full.no_room(true);
    let lost = log.append_records_if(1, ["lost".repeat(5000)]).unwrap();
    let behind = log.append_records_if(lost.position, ["lost, too"]).unwrap();
    assert!(is_refused(log.wait(lost.position, Durability::PowerLoss)));
    assert!(is_refused(log.wait(behind.position, Durability::PowerLoss)));
    full.no_room(false);

    // The log ends where it did, and then where the lost append ended, with another record there.
    let text = conflict(log.append_records_if(lost.position, ["orphan"]), 1);
    assert!(text.contains("was taken back"), "{text}");
    let other = log.append_records_if(1, ["value 1"]).unwrap();
    assert_eq!(other.position.end(), lost.position.end());
    conflict(log.append_records_if(lost.position, ["orphan"]), 2);
    log.append_records_if(other.position, ["value 2"]).unwrap();
    log.sync().unwrap();
    assert_eq!(all(&log), numbered(0..3));
}

#[test]
fn offsets_that_recovery_leaves_out_are_a_conflict() {
    let full = Full::new();
    let config = || LogConfig::default().durability(Durability::ProcessCrash);
    let log = full.open(config());
    for n in 0..3 {
        let appended = log.append_records_if(n, [format!("value {n}")]).unwrap();
        log.wait(appended.position, Durability::ProcessCrash).unwrap();
    }
    drop(log);
    let left = Full { disk: full.disk.crash(Choice::Nothing), dir: full.dir };
    let log = left.open(config());
    assert!(log.recovery().rows.contains(&RecoveryRow::Reserved), "{}", log.recovery());
    let end = log.offsets().end.get();
    assert!(end > 3 && all(&log).is_empty());
    // Neither whoever knows of what was lost, nor whoever finds nothing, goes on in the dark.
    conflict(log.append_records_if(3, ["dark"]), end);
    conflict(log.append_records_if(0, ["dark"]), end);
    assert_eq!(log.append_records_if(end, ["light"]).unwrap().base_offset, end);
    log.sync().unwrap();
    assert_eq!(all(&log), [(end, "light".to_owned())]);
}

#[test]
fn a_log_that_was_mended_keeps_the_ends_that_stand() {
    let full = Full::new();
    let log = full.open(LogConfig::default());
    let kept = put(&log, &["value 0"]);
    full.disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(".log"));
    let doubtful = log.append_records_if(kept.position, ["value 1"]).unwrap();
    log.wait(doubtful.position, Durability::PowerLoss).unwrap_err();
    assert_eq!(log.append_records_if(doubtful.position, ["?"]).unwrap_err().kind(), ErrorKind::Poisoned);
    log.reopen().unwrap();
    // Whether what waited is there or not, it is nothing to build on before it was looked for.
    let end = log.offsets().end;
    assert_eq!(log.append_records_if(doubtful.position, ["?"]).unwrap_err().kind(), ErrorKind::Conflict);
    let found = log.append_records_if(end, ["after"]).unwrap();
    assert_eq!(found.base_offset, end);
}

//! Two things at once, one of which waits for the disk while the other goes on.

use std::sync::mpsc::channel;
use std::thread;

use super::*;

#[test]
fn whoever_asks_for_more_while_a_log_syncs_behind_gets_the_names_as_well() {
    let bed = Cuttable::new();
    let log = bed.open(LogConfig::default().durability(Durability::ProcessCrash));
    let appended = log.append_records(["value 0"]).unwrap();
    log.wait(appended.position, Durability::ProcessCrash).unwrap();
    let hold = bed.disk.hold_sync(".log");
    let left = thread::scope(|scope| {
        let syncing = scope.spawn(|| log.sync());
        hold.wait_for_it();
        log.wait(appended.position, Durability::PowerLoss).unwrap();
        let left = bed.after_cut(0);
        drop(hold);
        syncing.join().unwrap().unwrap();
        left
    });
    assert_eq!(all(&left.open(LogConfig::default())), numbered(0..1));
}

#[test]
fn one_file_is_prepared_at_a_time() {
    let bed = Cuttable::new();
    let log = bed.open(small());
    let half = |log: &Log| log.inner().segments.load().last().is_some_and(|active| active.written() >= 200);
    while !half(&log) {
        put(&log, &["value"]);
    }
    let hold = bed.disk.hold_sync("next.log");
    thread::scope(|scope| {
        let preparing = scope.spawn(|| log.run_maintenance());
        hold.wait_for_it();
        log.run_maintenance().unwrap();
        let segments = log.segment_count();
        while log.segment_count() == segments {
            put(&log, &["value"]);
        }
        drop(hold);
        preparing.join().unwrap().unwrap();
    });
    while log.segment_count() < 5 {
        put(&log, &["value"]);
    }
    let told = all(&log);
    drop(log);
    assert_eq!(all(&bed.after_cut(0).open(small())), told);
}

/// A log whose maintenance waits for a sync of an index, and goes on after `meanwhile`.
fn while_maintained(bed: &Cuttable, log: &Log, meanwhile: impl FnOnce()) {
    fill(log, 0..12);
    let hold = bed.disk.hold_sync(".index");
    thread::scope(|scope| {
        let maintaining = scope.spawn(|| log.run_maintenance());
        hold.wait_for_it();
        meanwhile();
        drop(hold);
        drop(maintaining.join().unwrap());
    });
}

#[test]
fn what_was_in_the_middle_of_a_sync_leaves_the_state_of_a_reopened_log_alone() {
    let bed = Cuttable::new();
    let log = bed.open(small());
    while_maintained(&bed, &log, || {
        bed.disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(".log"));
        let refused = log.append_records(["refused"]).unwrap();
        log.wait(refused.position, Durability::PowerLoss).unwrap_err();
        log.reopen().unwrap();
        log.advance_log_start(5).unwrap();
    });
    for seed in [0, 1] {
        assert_eq!(bed.after_cut(seed).open(small()).offsets().log_start, 5);
    }
}

#[test]
fn what_was_in_the_middle_of_a_sync_leaves_the_state_of_a_closed_log_alone() {
    let bed = Cuttable::new();
    let log = bed.open(small());
    while_maintained(&bed, &log, || log.close().unwrap());
    assert_eq!(bed.open(small()).recovery().rows, [RecoveryRow::Clean]);
}

#[test]
fn a_setting_that_is_changed_during_a_reopening_counts() {
    let bed = Cuttable::new();
    let log = bed.open(LogConfig::default());
    bed.disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(".log"));
    let refused = log.append_records(["value 0"]).unwrap();
    log.wait(refused.position, Durability::PowerLoss).unwrap_err();
    let hold = bed.disk.hold_sync(".log");
    let watcher = Arc::new(Signal::default());
    thread::scope(|scope| {
        let reopening = scope.spawn(|| log.reopen());
        hold.wait_for_it();
        log.configure(small()).unwrap();
        log.watch(&watcher);
        drop(hold);
        reopening.join().unwrap().unwrap();
    });
    assert_eq!(log.inner().config.load().segment_bytes, small().segment_bytes);
    let seen = watcher.count();
    put(&log, &["next"]);
    assert!(watcher.count() > seen);
}

#[test]
fn a_reopening_that_failed_in_a_sync_leaves_the_next_one_in_doubt() {
    let bed = Cuttable::new();
    let log = bed.open(LogConfig::default());
    fill(&log, 0..1);
    // A write that fails says nothing of what is cached.
    bed.disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Write).path(".log"));
    let refused = log.append_records(["refused"]).unwrap();
    assert_eq!(log.wait(refused.position, Durability::PowerLoss).unwrap_err().kind(), ErrorKind::Io);
    bed.disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path("t-0"));
    log.reopen().unwrap_err();
    assert!(log.inner().slot_state(false, Reserved::default()).poisoned);
    log.reopen().unwrap();
    put(&log, &["value 1"]);
}

#[test]
fn a_future_syncs_nothing_while_it_is_polled() {
    let bed = Cuttable::new();
    let log = bed.open(LogConfig::default());
    let appended = log.append_records(["value 0"]).unwrap();
    let mut context = Context::from_waker(std::task::Waker::noop());
    for level in [Durability::None, Durability::ProcessCrash] {
        let mut future = std::pin::pin!(log.committed(appended.position, level));
        let before = bed.disk.operations();
        assert!(future.as_mut().poll(&mut context).is_pending());
        assert!(!log.is_committed(appended.position, level).unwrap());
        assert_eq!(bed.disk.operations(), before, "{level:?}");
        log.wait(appended.position, level).unwrap();
        assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Ok(()))), "{level:?}");
    }
    // The note is good for many.
    let next = log.append_records(["value 1"]).unwrap();
    assert!(log.is_committed(next.position, Durability::None).unwrap());
}

/// Who makes room by what a log could delete counts on it that all that was counted is staged.
#[test]
fn what_could_be_deleted_is_not_judged_in_the_middle_of_an_append() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    let inner = log.inner();
    let (told, tells) = channel();
    thread::scope(|scope| {
        // As an append that has been counted, and has no offset yet.
        let appending = inner.appender.lock();
        scope.spawn(|| told.send(log.oldest().unwrap()).unwrap());
        assert!(tells.recv_timeout(Duration::from_millis(50)).is_err(), "it waits for the append");
        inner.marks.set_end(Offset::new(1));
        drop(appending);
        assert_eq!(tells.recv().unwrap(), Oldest::NotVisible);
        inner.marks.set_end(Offset::ZERO);
    });
}

/// Appends at process-crash level, and waits.
fn put_weakly(log: &Log, value: &str) {
    let appended = log.append_records([value]).unwrap();
    log.wait(appended.position, Durability::ProcessCrash).unwrap();
}

#[test]
fn appends_go_on_while_more_offsets_are_reserved_and_the_recovery_point_rises() {
    let bed = Cuttable::new();
    let log = bed.open(small().durability(Durability::ProcessCrash));
    put_weakly(&log, "first");
    // Half of what is reserved is used up.
    let mut batch = RecordBatch::builder();
    batch.push(Timestamp::new(T), &Record::new("far")).unwrap();
    let far = Offset::new(reserved::RESERVE_AHEAD / 2 + 1);
    log.append_replica(&batch.finish().unwrap().stamped(far, 0.into()).unwrap()).unwrap();
    assert!(!log.wants_tending());
    put_weakly(&log, "next");
    assert!(log.wants_tending());
    let sync = || log.inner().context.slot.as_ref().unwrap().sync();
    for what in ["reserving", "raising"] {
        fill_segment(&log, what);
        let hold = bed.disk.hold_sync("thalweg.state");
        thread::scope(|scope| {
            let tending = scope.spawn(|| log.tend());
            hold.wait_for_it();
            fill_segment(&log, what);
            drop(hold);
            tending.join().unwrap().unwrap();
        });
        sync().unwrap();
    }
    // What was reserved counts: offsets that a power cut takes are not given out again.
    let end = log.offsets().end;
    assert!(bed.after_cut(0).open(small()).offsets().end >= end);
    let next = Offset::new(end.get() + reserved::RESERVE_AHEAD / 4);
    assert!(log.inner().covered.holds(next, false));
}

fn fill_segment(log: &Log, value: &str) {
    let segments = log.segment_count();
    while log.segment_count() == segments {
        put_weakly(log, value);
    }
}

#[test]
fn what_is_still_appended_to_is_synced_by_who_asks_for_it_alone() {
    let bed = Cuttable::new();
    let log = bed.open(small().durability(Durability::ProcessCrash));
    (0..2).for_each(|_| fill_segment(&log, "value"));
    let active = log.inner().segments.load().last().unwrap().base();
    log.tend().unwrap();
    assert_eq!((log.offsets().frontier, log.recovery_point()), (active, active));
    assert_eq!(log.inner().writer().unsynced.len(), 1);
    let left = bed.after_cut(0).open(small());
    assert_eq!(all(&left).len() as i64, active.get());
    log.run_maintenance().unwrap();
    assert_eq!(log.offsets().frontier, log.offsets().end);
}

#[test]
fn a_read_that_a_truncation_overtakes_shows_nothing_that_is_not_visible() {
    let bed = Cuttable::new();
    let log = bed.open(LogConfig::default().index_interval_bytes(0));
    fill(&log, 0..10);
    let reads = bed.disk.hold_read(".log");
    thread::scope(|scope| {
        let reading = scope.spawn(|| log.read(8, 1 << 20, Isolation::ReadUncommitted));
        reads.wait_for_it();
        log.truncate(5).unwrap();
        let appended = (5..10).map(|n| log.append_records([format!("new {n}")]).unwrap()).last().unwrap();
        let syncs = bed.disk.hold_sync(".log");
        let log = &log;
        let waiting = scope.spawn(move || log.wait(appended.position, Durability::PowerLoss));
        syncs.wait_for_it();
        drop(reads);
        assert!(reading.join().unwrap().unwrap().is_empty());
        drop(syncs);
        waiting.join().unwrap().unwrap();
    });
}

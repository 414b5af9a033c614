//! After a failed sync: what is refused, what is still shown, what the next opening believes, and how it is mended.

use super::*;

const DIR: &str = "data/t-0";

fn disk() -> SimStorage {
    let disk = SimStorage::new();
    disk.create_dir(Path::new("data")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    disk
}

fn open(disk: &SimStorage, level: Durability) -> Log {
    let clock = ManualClock::new(Timestamp::new(T));
    let config = LogConfig::default().durability(level);
    Log::open_on(Arc::new(disk.clone()), Arc::new(clock), DIR, config).unwrap()
}

fn fail_syncs(disk: &SimStorage, after: AfterFailedSync, repeat: Repeat) {
    disk.add_fault(Fault::new(Errno::Io, repeat).on(Operation::Sync).path(".log").leaves(after));
}

/// A log with one durable record, then one whose sync failed.
fn poisoned(disk: &SimStorage, after: AfterFailedSync) -> (Log, Appended) {
    let log = open(disk, Durability::PowerLoss);
    put(&log, &["durable"]);
    fail_syncs(disk, after, Repeat::Once);
    let appended = log.append_records(["in doubt"]).unwrap();
    let error = log.wait(appended.position, Durability::PowerLoss).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Indeterminate);
    let error = log.append_records(["refused"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert!(error.to_string().contains("mend the disk, then reopen the partition"), "{error}");
    assert_eq!(all(&log), [(0, "durable".to_owned())]);
    (log, appended)
}

fn survivors(disk: &SimStorage) -> Vec<(i64, String)> {
    let log = open(&disk.crash(Choice::Nothing), Durability::PowerLoss);
    assert_eq!(log.recovery().damaged, []);
    all(&log)
}

#[test]
fn the_next_opening_does_not_believe_the_cache() {
    for after in AfterFailedSync::ALL {
        let disk = disk();
        drop(poisoned(&disk, after));
        disk.mend();
        let log = open(&disk, Durability::PowerLoss);
        let end = log.offsets().end.get();
        assert_eq!(put(&log, &["next"]).base_offset, end, "{after:?}");
        let told = all(&log);
        assert_eq!(told.last(), Some(&(end, "next".to_owned())));
        // What is shown now is on the disk.
        assert_eq!(survivors(&disk), told, "{after:?}");
    }
}

/// Whatever is synced, and whoever asked for it: tried again it might seem to have worked.
#[test]
fn a_sync_that_no_append_waits_for_poisons_as_well() {
    type Act = fn(&Log) -> Result<()>;
    let (maintain, close): (Act, Act) = (Log::run_maintenance, Log::close);
    for (operation, part, act) in [
        (Operation::Sync, ".index", maintain),
        (Operation::Sync, ".timeindex", maintain),
        (Operation::Sync, ".seal", maintain),
        (Operation::Sync, ".snapshot", maintain),
        (Operation::SyncDir, DIR, maintain),
        (Operation::SyncDir, DIR, |log| log.advance_log_start(2)),
        (Operation::Sync, ".index", close),
        (Operation::SyncDir, DIR, close),
    ] {
        for after in AfterFailedSync::ALL {
            let disk = disk();
            let log = open(&disk, Durability::PowerLoss);
            put(&log, &["zero", "one"]);
            log.roll().unwrap();
            put(&log, &["two"]);
            let told = all(&log);
            disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(operation).path(part).leaves(after));
            let what = format!("{operation:?} {part} {after:?}");
            assert_eq!(act(&log).unwrap_err().kind(), ErrorKind::Indeterminate, "{what}");
            let refused = log.append_records(["refused"]).unwrap_err().kind();
            assert!(matches!(refused, ErrorKind::Poisoned | ErrorKind::Closed), "{what}: {refused:?}");
            drop(log);
            disk.mend();
            let state = StateFile::open(&disk, &Path::new(DIR).join("log.state")).unwrap();
            let slot = state.slot(Uuid::ZERO, 0.into()).load().unwrap();
            assert!(slot.poisoned && !slot.clean, "{what}: the next opening must know");
            let log = open(&disk, Durability::PowerLoss);
            assert!(told.ends_with(&all(&log)) && !all(&log).is_empty(), "{what}");
            put(&log, &["three"]);
            log.close().unwrap();
            assert_eq!(survivors(&disk), all(&open(&disk, Durability::PowerLoss)), "{what}");
        }
    }
}

#[test]
fn a_poisoned_log_is_mended_on_the_same_handle() {
    for after in AfterFailedSync::ALL {
        let disk = disk();
        let (log, in_doubt) = poisoned(&disk, after);
        disk.mend();
        log.reopen().unwrap();
        let error = log.wait(in_doubt.position, Durability::PowerLoss).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Indeterminate);
        let end = log.offsets().end.get();
        assert_eq!(put(&log, &["next"]).base_offset, end, "{after:?}");
        let told = all(&log);
        assert_eq!((told.first(), told.last()), (Some(&(0, "durable".to_owned())), Some(&(end, "next".to_owned()))));
        assert_eq!(survivors(&disk), told, "{after:?}");
        log.close().unwrap();
        assert_eq!(all(&open(&disk, Durability::PowerLoss)), told);
    }
}

/// A broker changes a log's settings without a word about how it is read.
#[test]
fn a_reopened_log_is_read_as_before_and_says_what_the_reopening_found() {
    use crate::types::{ReadMode, Verify};
    let disk = disk();
    let config = LogConfig::default().read_mode(ReadMode::Mapped).verify(Verify::Once);
    let clock = ManualClock::new(Timestamp::new(T));
    let log = Log::open_on(Arc::new(disk.clone()), Arc::new(clock), DIR, config).unwrap();
    log.configure(LogConfig::default().segment_bytes(1 << 20)).unwrap();
    assert_eq!(log.recovery().rows, [RecoveryRow::Fresh]);
    fail_syncs(&disk, AfterFailedSync::KeepsNew, Repeat::Once);
    let appended = log.append_records(["in doubt"]).unwrap();
    log.wait(appended.position, Durability::PowerLoss).unwrap_err();
    disk.mend();
    let found = log.reopen().unwrap();
    assert!(!found.rows.contains(&RecoveryRow::Fresh), "{found}");
    assert_eq!(log.recovery(), found);
    let inner = log.inner();
    assert_eq!((inner.home.read_mode, inner.home.verify), (ReadMode::Mapped, Verify::Once));
    assert_eq!(inner.config.load().segment_bytes, 1 << 20);
}

#[test]
fn a_log_on_a_disk_that_still_fails_stays_poisoned() {
    let disk = disk();
    let (log, _) = poisoned(&disk, AfterFailedSync::FailsAgain);
    fail_syncs(&disk, AfterFailedSync::FailsAgain, Repeat::Forever);
    log.reopen().unwrap_err();
    assert_eq!(log.append_records(["refused"]).unwrap_err().kind(), ErrorKind::Poisoned);
    disk.mend();
    log.reopen().unwrap();
    assert!(log.reopen().is_ok(), "there is nothing left to mend");
    put(&log, &["next"]);
}

#[test]
fn what_was_acknowledged_above_the_frontier_is_kept_or_left_out() {
    for after in AfterFailedSync::ALL {
        let disk = disk();
        let log = open(&disk, Durability::ProcessCrash);
        put(&log, &["durable"]);
        let appended = log.append_records(["told"]).unwrap();
        log.wait(appended.position, Durability::ProcessCrash).unwrap();
        assert_eq!(log.offsets().high_watermark, 2);
        fail_syncs(&disk, after, Repeat::Once);
        log.sync().unwrap_err();
        // It may not be on the disk, and is not shown before that is known.
        assert_eq!(all(&log), [(0, "durable".to_owned())]);
        let epoch = log.leader_epoch();
        disk.mend();
        log.reopen().unwrap();
        let kept = all(&log).contains(&(1, "told".to_owned()));
        assert!(kept || after == AfterFailedSync::DropsToOld, "{after:?}");
        assert!(put(&log, &["next"]).base_offset > 1, "{after:?}");
        assert!(kept || log.leader_epoch() > epoch);
    }
}

#[test]
fn tails_and_watchers_go_on_over_a_reopening() {
    let disk = disk();
    let (log, _) = poisoned(&disk, AfterFailedSync::KeepsNew);
    disk.mend();
    let watcher = Arc::new(Signal::default());
    log.watch(&watcher);
    let inner = log.inner.load_full();
    std::thread::scope(|scope| {
        let tail = scope.spawn(|| log.wait_readable(3, Isolation::ReadUncommitted, Duration::from_secs(600)));
        while !inner.signal.is_waited_on() {
            std::thread::yield_now();
        }
        log.reopen().unwrap();
        let seen = watcher.count();
        for _ in 0..3 {
            put(&log, &["next"]);
        }
        assert!(watcher.count() > seen);
        assert!(tail.join().unwrap().unwrap());
    });
}

#[test]
fn a_strict_log_is_not_reopened_over_damage() {
    let bed = Cuttable::new();
    let log = bed.open(LogConfig::default().recovery_policy(RecoveryPolicy::Strict));
    fill(&log, 0..4);
    assert!(log.failure().is_none());
    bed.disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(".log"));
    let refused = log.append_records(["value 4"]).unwrap();
    log.wait(refused.position, Durability::PowerLoss).unwrap_err();
    assert_eq!(log.failure().map(|e| e.kind()), Some(ErrorKind::Indeterminate));
    bed.disk.put_byte("data/t-0/00000000000000000000.log", 70, 0xff).unwrap();
    assert_eq!(log.reopen().unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(log.append_records(["value 4"]).unwrap_err().kind(), ErrorKind::Poisoned);
}

#[test]
fn a_future_learns_that_what_nobody_waits_for_has_failed() {
    use std::future::Future as _;
    let bed = Cuttable::new();
    let log = bed.open(small());
    fill(&log, 0..30);
    log.advance_log_start(20).unwrap();
    let reader = log.read(25, 100, Isolation::ReadUncommitted).unwrap();
    drop(reader);
    let position = log.append_records(["value"]).unwrap().position;
    let woken = Arc::new(Woken::default());
    let waker = std::task::Waker::from(Arc::clone(&woken));
    let mut committed = std::pin::pin!(log.committed(position, Durability::PowerLoss));
    assert!(committed.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    log.inner().poison(&Error::new(ErrorKind::Indeterminate, "a name was not synced"));
    assert!(woken.0.load(Ordering::SeqCst));
    assert!(committed.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_ready());
}

#[derive(Default)]
struct Woken(AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_log_whose_directory_cannot_be_synced_writes_nothing_more_before_it_is_reopened() {
    let disk = disk();
    let log = open(&disk, Durability::ProcessCrash);
    let acknowledge = |value: &'static str| {
        let appended = log.append_records([value])?;
        log.wait(appended.position, Durability::ProcessCrash)
    };
    acknowledge("one").unwrap();
    disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::SyncDir));
    assert_eq!(log.run_maintenance().unwrap_err().kind(), ErrorKind::Indeterminate);
    let counts = disk.counts();
    let error = acknowledge("refused").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert!(error.to_string().contains("close the broker or log and open it again"), "{error}");
    assert!(log.close().is_err());
    drop(log);
    for operation in [Operation::Create, Operation::Rename, Operation::Sync, Operation::SyncDir] {
        assert_eq!(disk.counts().get(&operation), counts.get(&operation), "{operation:?}");
    }
    let log = open(&disk, Durability::ProcessCrash);
    assert_eq!(all(&log), [(0, "one".to_owned())]);
    disk.add_fault(Fault::new(Errno::ReadOnly, Repeat::Once).on(Operation::Write).path(".log"));
    let appended = log.append_records(["two"]).unwrap();
    assert_eq!(log.wait(appended.position, Durability::PowerLoss).unwrap_err().kind(), ErrorKind::Poisoned);
    log.reopen().unwrap();
    put(&log, &["three"]);
}

#[test]
fn an_opening_that_failed_without_a_failed_sync_leaves_nothing_in_doubt() {
    let level = || LogConfig::default().durability(Durability::ProcessCrash);
    let open = |disk: &SimStorage| {
        Log::open_on(Arc::new(disk.clone()), Arc::new(ManualClock::new(Timestamp::new(T))), DIR, level())
    };
    let judged = [false, true].map(|fails| {
        let disk = SimStorage::new();
        disk.create_dir(Path::new("data")).unwrap();
        let log = open(&disk).unwrap();
        for n in 0..10 {
            let appended = log.append_records([format!("value {n}")]).unwrap();
            log.wait(appended.position, Durability::ProcessCrash).unwrap();
        }
        let size = log.size_bytes() / 10;
        drop(log);
        // One record rots, and nobody lost power.
        disk.put_byte(format!("{DIR}/00000000000000000000.log"), 3 * size + 65, 0xff).unwrap();
        if fails {
            disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::List).path(DIR));
            open(&disk).unwrap_err();
            disk.mend();
        }
        let log = open(&disk).unwrap();
        (log.recovery().damaged.clone(), log.offsets().end)
    });
    assert_eq!(judged[0].0, [Offset::new(3)..Offset::new(4)]);
    assert_eq!(judged[0], judged[1]);
}

/// The process is killed between the sync and its note of that, which is what a state file that takes no write leaves.
#[test]
fn a_sync_that_failed_is_known_to_the_next_opening_although_nobody_noted_that() {
    for level in [Durability::ProcessCrash, Durability::PowerLoss] {
        for after in AfterFailedSync::ALL {
            let disk = disk();
            let log = open(&disk, level);
            put(&log, &["durable"]);
            log.sync().unwrap();
            let appended = log.append_records(["told"]).unwrap();
            log.wait(appended.position, Durability::ProcessCrash).unwrap();
            disk.add_fault(Fault::new(Errno::Io, Repeat::Forever).on(Operation::Write).path("log.state"));
            fail_syncs(&disk, after, Repeat::Once);
            log.sync().unwrap_err();
            let disk = disk.crash(Choice::ProcessCrash);
            disk.mend();
            let log = open(&disk, level);
            let kept = all(&log).contains(&(1, "told".to_owned()));
            assert!(kept || after == AfterFailedSync::DropsToOld, "{level:?} {after:?}");
            if after != AfterFailedSync::DropsToOld {
                // Nothing that anybody wrote is missing, whatever room was made behind it.
                assert!(
                    !log.recovery().rows.contains(&RecoveryRow::Reserved),
                    "{level:?} {after:?}: {}",
                    log.recovery()
                );
                assert_eq!(log.offsets().end, 2, "{level:?} {after:?}");
            }
            assert!(put(&log, &["next"]).base_offset > 1, "{level:?} {after:?}: offset 1 was told");
            log.sync().unwrap();
            let told = all(&log);
            assert_eq!(survivors(&disk), told, "{level:?} {after:?}: the cache was believed");
        }
    }
}

/// The first segment was cut to nothing, and the others were to go: who comes after takes the hole for what it is.
#[test]
fn an_opening_that_dies_while_it_cuts_what_a_failed_sync_lost_leaves_no_damage() {
    let spoilt = disk();
    let open = |disk: &SimStorage| {
        let config = LogConfig::default().durability(Durability::ProcessCrash).segment_bytes(150);
        Log::open_on(Arc::new(disk.clone()), Arc::new(ManualClock::new(Timestamp::new(T))), DIR, config)
    };
    let log = open(&spoilt).unwrap();
    for value in ["one", "two", "three"] {
        let appended = log.append_records([value.repeat(10)]).unwrap();
        log.wait(appended.position, Durability::ProcessCrash).unwrap();
    }
    fail_syncs(&spoilt, AfterFailedSync::DropsToOld, Repeat::Once);
    log.sync().unwrap_err();
    drop(log);
    // The cache shows what the disk has.
    let first = Path::new("data/t-0/00000000000000000000.log");
    (0..spoilt.metadata(first).unwrap().len).for_each(|at| spoilt.put_byte(first, at, 0).unwrap());
    for operations in 0..1000 {
        let disk = spoilt.crash(Choice::ProcessCrash);
        disk.limit_operations(disk.operations() + operations);
        let opened = open(&disk);
        let log = open(&disk.crash(Choice::ProcessCrash)).unwrap();
        assert_eq!(log.recovery().damaged, [], "{operations}: {}", log.recovery());
        assert!(put(&log, &["new"]).base_offset > 2, "{operations}: {}", log.recovery());
        if let Ok(log) = opened {
            assert!(log.recovery().rows.contains(&RecoveryRow::TornUnsynced), "{}", log.recovery());
            return;
        }
    }
    panic!("no opening gets through");
}

/// A full disk and a bad sector keep nobody from opening what a sync left in doubt.
#[test]
fn what_is_in_doubt_is_opened_on_a_full_disk_and_over_a_bad_sector() {
    for trouble in ["full", "no notes", "sector", "notes"] {
        let disk = disk();
        let log = open(&disk, Durability::PowerLoss);
        put(&log, &["durable"]);
        log.append_records(["in doubt"]).unwrap();
        disk.add_fault(Fault::new(Errno::Io, Repeat::Forever).on(Operation::Write).path("log.state"));
        fail_syncs(&disk, AfterFailedSync::KeepsNew, Repeat::Once);
        log.sync().unwrap_err();
        let disk = disk.crash(Choice::ProcessCrash);
        let read = |part: &str| Fault::new(Errno::Io, Repeat::Forever).on(Operation::Read).path(part);
        match trouble {
            "full" => {
                disk.open(Path::new("data/t-0/thalweg.reserve"), OpenMode::Write).unwrap().set_len(0).unwrap();
                disk.limit_space(Some(0));
            }
            "no notes" => {
                disk.remove_file(Path::new("data/t-0/thalweg.syncs")).unwrap();
                disk.limit_space(Some(0));
            }
            "sector" => disk.add_fault(read("00000000000000000000.log")),
            _ => disk.add_fault(read("thalweg.syncs")),
        }
        let log = open(&disk, Durability::PowerLoss);
        if trouble != "sector" {
            assert_eq!(all(&log).len(), 2, "{trouble}");
        }
    }
}

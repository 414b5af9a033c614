//! The process has no file descriptor left: an error of the moment. Nothing is taken for damage, and all goes on when
//! there are some again.

use super::*;
use crate::segment::FileKind;
use crate::storage::PooledStorage;

/// A log that may hold so many files open.
fn open(disk: &SimStorage, descriptors: usize, config: LogConfig) -> (Log, Arc<dyn Storage>) {
    let mut pooled = None;
    let pool = |noted| pooled.insert(Arc::new(PooledStorage::new(noted, descriptors)) as Arc<dyn Storage>).clone();
    let clock = Arc::new(ManualClock::new(Timestamp::new(T)));
    let log = Log::open_through(Arc::new(disk.clone()), pool, clock, Path::new("data/t-0"), config).unwrap();
    (log, pooled.unwrap())
}

fn disk() -> SimStorage {
    let disk = SimStorage::new();
    disk.create_dir(Path::new("data")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    disk
}

fn use_all_descriptors(disk: &SimStorage) {
    for operation in [Operation::Open, Operation::Create] {
        disk.add_fault(Fault::new(Errno::TooManyFiles, Repeat::Forever).on(operation));
    }
}

#[test]
fn what_cannot_be_opened_is_not_damaged() {
    let disk = disk();
    let (log, _) = open(&disk, 2, small());
    for n in 0..40 {
        put(&log, &[&format!("value {n}")]);
    }
    let written = all(&log);
    use_all_descriptors(&disk);
    let refused = (0..40).filter(|&n| {
        let Err(error) = log.read(n, 100, Isolation::ReadUncommitted) else { return false };
        assert_eq!((error.kind(), error.is_retriable()), (ErrorKind::TooManyOpenFiles, true), "{error}");
        assert!(error.to_string().contains("ulimit -n"), "{error}");
        true
    });
    assert!(refused.count() > 30);
    disk.mend();
    assert_eq!(all(&log), written);
    assert_eq!(log.inner().context.findings.all(), []);
}

#[test]
fn an_append_that_finds_no_descriptor_is_taken_back_and_the_next_goes_on() {
    for level in [Durability::ProcessCrash, Durability::PowerLoss] {
        // What the append needs a descriptor for: the first files, those of a new segment, the file itself again.
        for (case, kept) in [("first", 0), ("closed", 4), ("roll", 5)] {
            let disk = disk();
            let (log, pooled) = open(&disk, 1, small().durability(level));
            for n in 0..kept {
                put(&log, &[&format!("value {n}")]);
            }
            if case == "closed" {
                drop(pooled.open(Path::new("data/other"), OpenMode::CreateNew).unwrap());
            }
            use_all_descriptors(&disk);
            let refused = log.append_records(["refused"]).unwrap();
            let error = log.wait(refused.position, level).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooManyOpenFiles, "{level} {case}: {error}");
            disk.mend();
            assert_eq!(put(&log, &["next"]).base_offset, kept, "{level} {case}");
            assert_eq!(log.segment_count(), 1 + usize::from(case == "roll"));
            let mut expected: Vec<_> = (0..kept).map(|n| (n, format!("value {n}"))).collect();
            expected.push((kept, "next".to_owned()));
            assert_eq!(all(&log), expected, "{level} {case}");
        }
    }
}

#[test]
fn an_append_whose_offsets_no_descriptor_was_there_to_note_is_in_doubt_and_not_taken_back() {
    let disk = disk();
    let (log, _) = open(&disk, 1, LogConfig::default());
    put(&log, &["one"]);
    disk.add_fault(Fault::new(Errno::TooManyFiles, Repeat::Forever).on(Operation::Open).path("log.state"));
    let appended = log.append_records(["two"]).unwrap();
    let error = log.wait(appended.position, Durability::ProcessCrash).unwrap_err();
    assert_eq!((error.kind(), error.is_retriable()), (ErrorKind::Indeterminate, false), "{error}");
    disk.mend();
    assert_eq!(put(&log, &["three"]).base_offset, 2);
    assert_eq!(values_of(&log), ["one", "two", "three"]);
}

#[test]
fn a_state_file_that_a_sweep_has_synced_and_closed_needs_no_descriptor_and_its_want_fails_nobody() {
    let disk = disk();
    let (log, pooled) = open(&disk, 1, LogConfig::default());
    put(&log, &["one"]);
    log.maintain().unwrap();
    // Takes the only descriptor.
    drop(pooled.open(Path::new("data/other"), OpenMode::CreateNew).unwrap());
    disk.add_fault(Fault::new(Errno::TooManyFiles, Repeat::Forever).on(Operation::Open).path("log.state"));
    log.run_maintenance().unwrap();
    put(&log, &["two"]);
    assert_eq!(log.run_maintenance().unwrap_err().kind(), ErrorKind::TooManyOpenFiles);
    assert!(log.failure().is_none());
    disk.mend();
    put(&log, &["three"]);
    log.run_maintenance().unwrap();
    log.close().unwrap();
    let (log, _) = open(&disk, 1, LogConfig::default());
    assert_eq!(log.recovery().rows, [RecoveryRow::Clean]);
    assert_eq!(values_of(&log), ["one", "two", "three"]);
}

fn values_of(log: &Log) -> Vec<String> {
    all(log).into_iter().map(|(_, value)| value).collect()
}

/// The log learns of it by its next write, and whoever comes after it by the notes.
#[test]
fn a_sync_that_fails_for_want_of_descriptors_is_a_failed_sync() {
    for (after, is_killed) in AfterFailedSync::ALL.into_iter().flat_map(|after| [(after, false), (after, true)]) {
        let disk = disk();
        let config = || LogConfig::default().durability(Durability::ProcessCrash);
        let (log, pooled) = open(&disk, 1, config());
        let put_weakly = |value| {
            let appended = log.append_records([value])?;
            log.wait(appended.position, Durability::ProcessCrash).map(|()| appended)
        };
        put_weakly("kept").and_then(|_| log.sync()).unwrap();
        let lost = put_weakly("lost").unwrap();
        disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(".log").leaves(after));
        pooled.open(Path::new("data/another"), OpenMode::CreateNew).unwrap();
        disk.mend();
        let (log, disk) = if is_killed {
            let disk = disk.crash(Choice::ProcessCrash);
            (open(&disk, 1, config()).0, disk)
        } else {
            assert_eq!(put_weakly("told").unwrap_err().kind(), ErrorKind::Indeterminate, "{after:?}");
            log.reopen().unwrap();
            (log, disk)
        };
        assert_eq!(log.recovery().damaged, [], "{after:?}: {}", log.recovery());
        let shown = values_of(&log);
        assert_eq!(shown[0], "kept", "{after:?}");
        assert!(shown.len() > 1 || put(&log, &["more"]).base_offset > lost.last_offset, "{after:?}");
        // What is shown now is on the disk.
        let after_cut = open(&disk.crash(Choice::Nothing), 1, config()).0;
        assert!(values_of(&after_cut).starts_with(&shown), "{after:?}: {shown:?}");
    }
}

/// Of another file than the one that is written next: what is acknowledged there would lie behind what may be lost.
#[test]
fn a_sync_that_fails_when_others_need_the_descriptor_fails_the_log_before_it_acknowledges_more() {
    // Where it cannot be noted for who comes after, it is known to this process.
    for is_noted in [true, false] {
        dies_of_a_sync_for_others(is_noted);
    }
}

fn dies_of_a_sync_for_others(is_noted: bool) {
    let disk = disk();
    let (log, pooled) = open(&disk, 2, small().durability(Durability::ProcessCrash));
    let put_weakly = |value: &str| {
        let appended = log.append_records([value])?;
        log.wait(appended.position, Durability::ProcessCrash)
    };
    put_weakly("kept").and_then(|()| log.sync()).unwrap();
    put_weakly("value").unwrap();
    while log.segment_count() < 2 {
        put_weakly("value").unwrap();
    }
    let (segment, end) = (FileKind::Log.path(Path::new("data/t-0"), Offset::ZERO), log.offsets().end);
    let failed_sync = Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(segment.display().to_string());
    disk.add_fault(failed_sync.clone());
    if !is_noted {
        disk.add_fault(Fault::new(Errno::NoSpace, Repeat::Forever).on(Operation::Write).path("thalweg.syncs"));
    }
    for name in ["data/one", "data/two", "data/three"] {
        drop(pooled.open(Path::new(name), OpenMode::CreateNew).unwrap());
    }
    assert!(!disk.remove_fault(&failed_sync), "it was synced for others");
    disk.mend();
    assert_eq!(log.offsets().high_watermark, 1);
    assert_eq!(log.failure().map(|e| e.kind()), Some(ErrorKind::Indeterminate));
    assert_eq!(put_weakly("more").unwrap_err().kind(), ErrorKind::Indeterminate);
    assert_eq!(put_weakly("more").unwrap_err().kind(), ErrorKind::Poisoned);
    log.reopen().unwrap();
    assert!(put(&log, &["after"]).base_offset >= end, "an offset that was acknowledged is given out again");
    assert_eq!(values_of(&log).first().map(String::as_str), Some("kept"));
}

/// The new segment's file takes the descriptor of the one before.
#[test]
fn a_write_that_costs_an_earlier_segment_its_sync_is_not_acknowledged() {
    let disk = disk();
    let (log, _) = open(&disk, 1, small().durability(Durability::ProcessCrash));
    put(&log, &["kept"]);
    let first = FileKind::Log.path(Path::new("data/t-0"), Offset::ZERO);
    let failed_sync = Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(first.display().to_string());
    loop {
        disk.add_fault(failed_sync.clone());
        let appended = log.append_records(["value"]).unwrap();
        let told = log.wait(appended.position, Durability::ProcessCrash);
        if !disk.remove_fault(&failed_sync) {
            assert_eq!(told.unwrap_err().kind(), ErrorKind::Indeterminate);
            break;
        }
        told.unwrap();
    }
    log.reopen().unwrap();
    assert_eq!(values_of(&log)[0], "kept");
}

/// Written, and lost before anybody was told.
#[test]
fn an_append_that_a_sync_for_others_may_have_lost_is_not_acknowledged() {
    type Look = fn(&Log, LogPosition) -> Result<bool>;
    let looks: [Look; 2] = [
        |log, position| log.wait(position, Durability::ProcessCrash).map(|()| true),
        |log, position| log.is_committed(position, Durability::ProcessCrash),
    ];
    for look in looks {
        let disk = disk();
        let (log, pooled) = open(&disk, 1, small().durability(Durability::ProcessCrash));
        put(&log, &["kept"]);
        let appended = log.append_records(["value"]).unwrap();
        log.inner().write_now().unwrap();
        disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(".log"));
        drop(pooled.open(Path::new("data/other"), OpenMode::CreateNew).unwrap());
        assert_eq!(disk.struck(), 1, "it was synced for others");
        for _ in 0..2 {
            assert_eq!(look(&log, appended.position).unwrap_err().kind(), ErrorKind::Indeterminate);
        }
        // What the device had before that is as good as it was.
        log.wait(LogPosition { end: Offset::new(1), ..appended.position }, Durability::ProcessCrash).unwrap();
        log.reopen().unwrap();
        assert_eq!(values_of(&log)[0], "kept");
    }
}

/// To note which offsets are taken needs a descriptor as well, and may cost what was written its own.
#[test]
fn an_append_that_the_note_of_its_offsets_may_have_lost_is_not_acknowledged() {
    let mut refused = 0;
    for kept in 1..12 {
        let disk = disk();
        let (log, _) = open(&disk, 1, small());
        for n in 0..kept {
            put(&log, &[&format!("kept {n}")]);
        }
        let appended = log.append_records(["value"]).unwrap();
        let fault = Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(".log");
        disk.add_fault(fault.leaves(AfterFailedSync::DropsToOld));
        let told = log.wait(appended.position, Durability::ProcessCrash);
        let (log, _) = open(&disk.crash(Choice::ProcessCrash), 4, small());
        let is_there = values_of(&log).len() == kept + 1;
        assert!(told.is_err() || is_there, "{kept} kept: acknowledged and lost");
        refused += usize::from(told.is_err());
    }
    assert!(refused > 0, "no sync failed");
}

//! The process has no file descriptor left: an error of the moment. Nothing is taken for damage, and all goes on when
//! there are some again.

use super::*;
use crate::storage::PooledStorage;

/// A log that may hold so many files open.
fn open(disk: &SimStorage, descriptors: usize, config: LogConfig) -> (Log, Arc<dyn Storage>) {
    let pooled: Arc<dyn Storage> = Arc::new(PooledStorage::new(Arc::new(disk.clone()), descriptors));
    let clock = Arc::new(ManualClock::new(Timestamp::new(T)));
    (Log::open_on(Arc::clone(&pooled), clock, "data/t-0", config).unwrap(), pooled)
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

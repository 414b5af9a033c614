//! The process has no file descriptor left: an error of the moment. Nothing is taken for damage, and all goes on when
//! there are some again.

use super::*;
use crate::storage::PooledStorage;

fn open(disk: &SimStorage, descriptors: usize) -> Log {
    let pooled = PooledStorage::new(Arc::new(disk.clone()), descriptors);
    let clock = ManualClock::new(Timestamp::new(T));
    Log::open_on(Arc::new(pooled), Arc::new(clock), "data/t-0", small()).unwrap()
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
    let log = open(&disk, 2);
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

use super::*;
use crate::storage::conformance::storage_conformance;
use crate::storage::{MemoryStorage, PooledStorage};
use crate::testing::{Choice, Errno, Fault, Operation, Repeat, SimStorage};

fn noting(disk: &SimStorage) -> NotingStorage {
    let noting = NotingStorage::new(Arc::new(disk.clone()), Path::new("data"));
    noting.begin().unwrap();
    noting
}

fn disk() -> SimStorage {
    let disk = SimStorage::new();
    disk.create_dir(Path::new("data")).unwrap();
    disk.create_dir(Path::new("data/t-0")).unwrap();
    disk
}

const LOG: &str = "data/t-0/0.log";

fn make(storage: &dyn Storage) -> Arc<dyn File> {
    let file = storage.open(Path::new(LOG), OpenMode::CreateNew).unwrap();
    file.write_all_at(&[1; 10], 0).unwrap();
    file.sync_data().unwrap();
    file
}

fn fail_sync(disk: &SimStorage) {
    disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(".log"));
}

/// What the next process finds, which may be one with the files of this.
fn found(disk: &SimStorage) -> Option<Range<u64>> {
    of(disk, Path::new(LOG))
}

fn of(disk: &SimStorage, path: &Path) -> Option<Range<u64>> {
    bytes(&noting(disk).notes(), path)
}

fn bytes(syncs: &SyncNotes, path: &Path) -> Option<Range<u64>> {
    syncs.at(path).first().map(|doubt| doubt.bytes.clone())
}

#[test]
fn conforms() {
    storage_conformance(&|| (Arc::new(NotingStorage::new(Arc::new(MemoryStorage::new()), Path::new("/"))), "/".into()));
}

#[test]
fn what_a_sync_failed_to_write_is_in_doubt_until_somebody_settles_it() {
    let disk = disk();
    let storage = noting(&disk);
    let file = make(&storage);
    assert_eq!(found(&disk), None);
    file.write_all_at(&[2; 5], 10).unwrap();
    file.write_vectored_at(&[IoSlice::new(&[3; 4]), IoSlice::new(&[4; 4])], 15).unwrap();
    fail_sync(&disk);
    file.sync_data().unwrap_err();
    // A sync after it proves nothing.
    file.write_all_at(&[5; 5], 30).unwrap();
    file.sync_data().unwrap();
    assert_eq!(bytes(&storage.notes(), Path::new(LOG)), Some(10..23));
    assert_eq!(found(&disk), Some(10..23));
    assert_eq!(found(&disk.crash(Choice::All)), None, "another boot knows nothing of this one's cache");
    let syncs = storage.notes();
    syncs.at(Path::new("data/t-0")).iter().for_each(|doubt| syncs.settle(doubt));
    assert_eq!((bytes(&storage.notes(), Path::new(LOG)), found(&disk)), (None, None));
}

/// At each moment of a sync, and of writes beside it, a process may die.
#[test]
fn while_a_sync_runs_all_that_it_may_cost_is_noted() {
    let notes = SyncNotes { owner: process::id(), ..SyncNotes::default() };
    let file = MemoryStorage::new().open(Path::new(SYNCS), OpenMode::CreateNew).unwrap();
    *notes.file.write() = Some(Arc::clone(&file));
    let noted = || {
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes.get(PLACE_LEN..).and_then(decode).map(|(_, range)| range)
    };
    let tracked = notes.tracked(Path::new(LOG), || Ok(0)).unwrap();
    tracked.wrote(&notes, 0..10);

    let sync = |what: &dyn Fn()| {
        let run = || {
            what();
            Ok(())
        };
        tracked.sync(&notes, run).unwrap();
    };
    sync(&|| {
        assert_eq!(noted(), Some(0..10));
        tracked.wrote(&notes, 10..15);
        assert_eq!(noted(), Some(0..15));
    });
    assert_eq!(noted(), None);
    // What came meanwhile is for the next.
    sync(&|| assert_eq!(noted(), Some(10..15)));
    sync(&|| assert_eq!(noted(), None));
}

#[test]
fn of_a_file_that_was_there_any_byte_may_be_unsynced() {
    let disk = disk();
    drop(make(&disk));
    let storage = noting(&disk);
    let file = storage.open(Path::new(LOG), OpenMode::Write).unwrap();
    fail_sync(&disk);
    file.sync_data().unwrap_err();
    assert_eq!(found(&disk), Some(0..10));
}

#[test]
fn notes_go_with_the_file_and_its_names() {
    let disk = disk();
    let storage = noting(&disk);
    let file = storage.open(Path::new("data/t-0/next.log.deleted"), OpenMode::CreateNew).unwrap();
    storage.rename(Path::new("data/t-0/next.log.deleted"), Path::new(LOG)).unwrap();
    file.write_all_at(&[1; 10], 0).unwrap();
    fail_sync(&disk);
    file.sync_data().unwrap_err();
    assert_eq!(found(&disk), Some(0..10));
    storage.rename(Path::new("data/t-0"), Path::new("data/u-0")).unwrap();
    let moved = Path::new("data/u-0/0.log");
    assert_eq!((found(&disk), of(&disk, moved)), (None, Some(0..10)));
    storage.remove_file(moved).unwrap();
    assert_eq!(of(&disk, moved), None);
    // A file without a name has nothing that anybody could miss.
    file.write_all_at(&[1; 10], 10).unwrap();
    fail_sync(&disk);
    file.sync_data().unwrap_err();
    assert_eq!(of(&disk, moved), None);
}

#[test]
fn a_sync_that_cannot_be_noted_is_not_begun() {
    let disk = disk();
    let storage = noting(&disk);
    let file = make(&storage);
    file.write_all_at(&[2; 5], 10).unwrap();
    disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Write).path(SYNCS));
    let syncs = disk.counts().get(&Operation::Sync).copied();
    let error = file.sync_data().unwrap_err().to_string();
    assert!(error.starts_with("a sync was not begun, as it could not be noted: "), "{error}");
    assert_eq!(disk.counts().get(&Operation::Sync).copied(), syncs);
    fail_sync(&disk);
    file.sync_data().unwrap_err();
    assert_eq!(found(&disk), Some(10..15), "what was written is not forgotten");
}

#[test]
fn more_syncs_than_places_make_more_places() {
    let disk = disk();
    let storage = noting(&disk);
    let paths: Vec<_> = (0..2 * PLACES).map(|n| format!("data/t-0/{n}.log")).collect();
    for path in &paths {
        let file = storage.open(Path::new(path), OpenMode::CreateNew).unwrap();
        file.write_all_at(&[1; 10], 0).unwrap();
        fail_sync(&disk);
        file.sync_data().unwrap_err();
    }
    let next = noting(&disk).notes();
    assert!(paths.iter().all(|path| bytes(&next, Path::new(path)) == Some(0..10)));
    next.at(Path::new("data")).iter().for_each(|doubt| next.settle(doubt));
    assert!(noting(&disk).notes().table.lock().in_doubt.is_empty());
}

/// What a file that the pool closed for want of descriptors lost is known, whoever uses it next.
#[test]
fn a_sync_that_the_pool_asked_for_is_noted_like_any() {
    let disk = disk();
    let pool = PooledStorage::new(Arc::new(noting(&disk)), 1);
    let file = make(&pool);
    file.write_all_at(&[2; 5], 10).unwrap();
    fail_sync(&disk);
    pool.open(Path::new("data/other"), OpenMode::CreateNew).unwrap();
    assert_eq!(disk.struck(), 1, "the sweep did not sync");
    assert_eq!(found(&disk), Some(10..15));
}

#[test]
fn golden_notes_are_read_and_newer_ones_refused_and_what_is_none_is_passed_over() {
    let golden = include_bytes!("../../../tests/data/private/syncs-v1.bin");
    let mut ours = encode_header(1, [7; 16]);
    ours.resize(2 * PLACE_LEN, 0);
    ours.extend(encode(Path::new("t-0/00000000000000000000.log"), &(61..999)).unwrap());
    assert_eq!(ours[..], golden[..]);
    assert!(is_of_boot(golden, [7; 16]).unwrap());
    assert!(!is_of_boot(golden, [8; 16]).unwrap());
    assert_eq!(decode(&golden[PLACE_LEN..2 * PLACE_LEN]), None);
    assert_eq!(decode(&golden[2 * PLACE_LEN..]), Some(("t-0/00000000000000000000.log".into(), 61..999)));
    let mut newer = encode_header(VERSION + 1, [7; 16]);
    newer.resize(PLACE_LEN, 0);
    let error = is_of_boot(&newer, [7; 16]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(!is_of_boot(&newer, [8; 16]).unwrap(), "of another boot nothing is asked");
    for end in 0..golden.len() {
        drop((is_of_boot(&golden[..end], [7; 16]), decode(&golden[end..])));
    }
    for at in 2 * PLACE_LEN..golden.len() {
        let mut spoilt = golden.to_vec();
        spoilt[at] ^= 1;
        assert_eq!(decode(&spoilt[2 * PLACE_LEN..]), None, "{at}");
    }
    assert!(encode(Path::new(&"x".repeat(PLACE_LEN)), &(0..1)).is_err());
}

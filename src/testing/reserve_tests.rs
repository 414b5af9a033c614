//! The reserve of a disk that runs full.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::SimStorage;
use crate::storage::{OpenMode, ReservedStorage, Storage};

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
}

#[test]
fn what_keeps_order_is_written_on_a_full_disk_and_records_are_not() {
    let disk = SimStorage::new();
    let storage = ReservedStorage::new(Arc::new(disk.clone()), Path::new(""), 100);
    storage.fill();
    let records = storage.open(Path::new("00000000000000000000.log"), OpenMode::CreateNew).unwrap();
    let state = storage.open(Path::new("log.state"), OpenMode::CreateNew).unwrap();
    disk.limit_space(Some(100));
    assert!(is_full(&records.write_all_at(b"record", 0).unwrap_err()));
    state.write_all_at(&[1; 60], 0).unwrap();
    assert_eq!(disk.used_space(), 60);
    assert!(is_full(&state.write_all_at(&[1; 60], 60).unwrap_err()));
    // What was given up is not for records.
    state.set_len(40).unwrap();
    assert!(is_full(&records.write_all_at(b"record", 0).unwrap_err()));
    assert_eq!(disk.used_space(), 40);
    disk.limit_space(Some(146));
    records.write_all_at(b"record", 0).unwrap();
    assert_eq!(disk.used_space(), 146);
    let again = ReservedStorage::new(Arc::new(disk.clone()), Path::new(""), 100);
    again.create_dir(Path::new("orders-0")).unwrap();
    assert_eq!(disk.used_space(), 46);
}

#[test]
fn a_file_that_is_to_hold_records_gets_nothing_either_under_any_name() {
    let disk = SimStorage::new();
    let storage = ReservedStorage::new(Arc::new(disk.clone()), Path::new(""), 100);
    storage.fill();
    let (next, log) = (Path::new("next.log.deleted"), Path::new("00000000000000000000.log"));
    let records = storage.open(next, OpenMode::CreateNew).unwrap();
    disk.limit_space(Some(100));
    assert!(is_full(&records.write_all_at(b"record", 0).unwrap_err()));
    storage.rename(next, log).unwrap();
    assert!(is_full(&records.write_all_at(b"record", 0).unwrap_err()));
    assert_eq!(disk.used_space(), 100);
}

#[test]
fn it_is_a_storage_like_others() {
    crate::storage::storage_conformance(&|| {
        let storage = ReservedStorage::new(Arc::new(SimStorage::new()), Path::new("/elsewhere"), 100);
        (Arc::new(storage), "/".into())
    });
}

use std::path::Path;

use super::*;
use crate::storage::storage_conformance;

const FILE: &str = "dir/file";

/// A disk with a durable directory.
fn disk() -> SimStorage {
    let disk = SimStorage::new();
    disk.create_dir(Path::new("dir")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    disk
}

fn write(disk: &SimStorage, path: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = disk.open(Path::new(path), OpenMode::CreateIfAbsent).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn durable(disk: &SimStorage, path: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = write(disk, path, bytes);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("dir")).unwrap();
    file
}

fn read(disk: &SimStorage, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(path), OpenMode::Read).ok()?;
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

/// Everything that a file can be after a cut, as far as seeds go.
fn outcomes(disk: &SimStorage, path: &str, kind: fn(u64) -> Choice) -> Vec<Option<Vec<u8>>> {
    let mut outcomes: Vec<_> = (0..200).map(|seed| read(&disk.crash(kind(seed)), path)).collect();
    outcomes.sort();
    outcomes.dedup();
    outcomes
}

fn errno(error: &io::Error) -> io::ErrorKind {
    error.kind()
}

#[test]
fn conforms() {
    storage_conformance(&|| (Arc::new(SimStorage::new()), "/".into()));
}

#[test]
fn bytes_need_a_sync_and_names_need_one_too() {
    let disk = disk();
    let file = write(&disk, FILE, b"new");
    assert_eq!(read(&disk.crash(Choice::Nothing), FILE), None);
    assert_eq!(read(&disk.crash(Choice::All), FILE).unwrap(), b"new");
    assert_eq!(read(&disk.crash(Choice::OnlyMetadata), FILE).unwrap(), [0; 3], "a length without its bytes");
    file.sync_data().unwrap();
    assert_eq!(outcomes(&disk, FILE, Choice::Random), [None, Some(b"new".to_vec())], "synced bytes, unsynced name");
    disk.sync_dir(Path::new("dir")).unwrap();
    assert_eq!(outcomes(&disk, FILE, Choice::Random), [Some(b"new".to_vec())]);
    assert_eq!(disk.unsynced(), 0);
}

#[test]
fn an_unsynced_rename_is_undone_or_done() {
    let disk = disk();
    durable(&disk, "dir/old", b"old");
    durable(&disk, FILE, b"replaced");
    disk.rename(Path::new("dir/old"), Path::new(FILE)).unwrap();
    assert_eq!(outcomes(&disk, FILE, Choice::Random), [Some(b"old".to_vec()), Some(b"replaced".to_vec())]);
    assert_eq!(outcomes(&disk, "dir/old", Choice::Random), [None, Some(b"old".to_vec())]);
    disk.sync_dir(Path::new("dir")).unwrap();
    assert_eq!(outcomes(&disk, FILE, Choice::Random), [Some(b"old".to_vec())]);
}

#[test]
fn a_rename_orders_no_bytes() {
    let disk = disk();
    durable(&disk, FILE, b"old");
    write(&disk, "dir/tmp", b"new");
    disk.rename(Path::new("dir/tmp"), Path::new(FILE)).unwrap();
    disk.sync_dir(Path::new("dir")).unwrap();
    let found = outcomes(&disk, FILE, Choice::Journaled);
    assert!(found.contains(&Some(b"".to_vec())), "the name arrived before the bytes");
    assert!(found.contains(&Some(vec![0; 3])), "the length arrived before the bytes");
    assert!(found.contains(&Some(b"new".to_vec())));
    assert!(!found.contains(&Some(b"old".to_vec())), "the directory was synced");
}

#[test]
fn a_removed_file_comes_back_until_the_directory_is_synced() {
    let disk = disk();
    durable(&disk, FILE, b"x");
    disk.remove_file(Path::new(FILE)).unwrap();
    assert_eq!(read(&disk, FILE), None);
    assert_eq!(read(&disk.crash(Choice::Nothing), FILE).unwrap(), b"x");
    disk.sync_dir(Path::new("dir")).unwrap();
    assert_eq!(outcomes(&disk, FILE, Choice::Random), [None]);
}

#[test]
fn a_directory_goes_with_all_that_is_in_it() {
    let disk = disk();
    disk.create_dir(Path::new("dir/deep")).unwrap();
    let file = write(&disk, "dir/deep/file", b"x");
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("dir/deep")).unwrap();
    assert_eq!(read(&disk.crash(Choice::Nothing), "dir/deep/file"), None, "the parent was not synced");
    disk.sync_fs(Path::new("")).unwrap();
    disk.remove_dir_all(Path::new("dir/deep")).unwrap();
    let found = outcomes(&disk, "dir/deep/file", Choice::Random);
    assert_eq!(found, [None, Some(b"x".to_vec())]);
}

#[test]
fn pages_tear_and_arrive_in_any_order() {
    let disk = disk();
    let old = vec![b'o'; 3 * disk::PAGE];
    let file = durable(&disk, FILE, &old);
    file.write_all_at(&vec![b'n'; 3 * disk::PAGE], 0).unwrap();
    let found: Vec<_> = outcomes(&disk, FILE, Choice::Random).into_iter().flatten().collect();
    let page = |bytes: &[u8], n: usize| bytes[n * disk::PAGE..(n + 1) * disk::PAGE].to_vec();
    let whole = |b: u8| vec![b; disk::PAGE];
    assert!(found.iter().any(|f| page(f, 0) == whole(b'o') && page(f, 2) == whole(b'n')), "a later page alone");
    assert!(found.iter().any(|f| page(f, 0) == whole(b'n') && page(f, 2) == whole(b'o')));
    assert!(found.iter().any(|f| page(f, 1) == whole(0)), "a page of zeros");
    let torn = |f: &Vec<u8>| {
        let page = page(f, 1);
        let sectors: Vec<u8> = page.chunks(disk::SECTOR).map(|sector| sector[0]).collect();
        page.chunks(disk::SECTOR).all(|s| s.iter().all(|b| *b == s[0] && b"on".contains(b)))
            && sectors.contains(&b'o')
            && sectors.contains(&b'n')
    };
    assert!(found.iter().any(torn), "a page torn at sectors");
    assert!(found.iter().any(|f| f.iter().any(|b| !b"on\0".contains(b))), "garbage");
    // A sync of another file helps nothing.
    durable(&disk, "dir/other", b"x");
    assert_eq!(read(&disk.crash(Choice::Nothing), FILE).unwrap(), old);
    file.sync_data().unwrap();
    assert_eq!(outcomes(&disk, FILE, Choice::Random), [Some(vec![b'n'; 3 * disk::PAGE])]);
}

#[test]
fn a_version_in_between_may_be_what_survives() {
    let disk = disk();
    let file = durable(&disk, FILE, b"aa");
    file.write_all_at(b"bb", 0).unwrap();
    file.write_all_at(b"cccc", 0).unwrap();
    let found: Vec<_> = outcomes(&disk, FILE, Choice::InOrder).into_iter().flatten().collect();
    assert_eq!(found, [b"aa".to_vec(), b"bb".to_vec(), b"cccc".to_vec()], "in order nothing is mixed");
    let found: Vec<_> = outcomes(&disk, FILE, Choice::Journaled).into_iter().flatten().collect();
    assert!(found.contains(&b"bb\0\0".to_vec()), "the last length with bytes from before: {found:?}");
}

#[test]
fn a_cut_file_is_long_again_or_short_and_nothing_lies_behind_its_end() {
    let disk = disk();
    let file = durable(&disk, FILE, &[b'x'; 5000]);
    file.set_len(10).unwrap();
    let lens: Vec<_> = outcomes(&disk, FILE, Choice::InOrder).into_iter().flatten().map(|f| f.len()).collect();
    assert_eq!(lens, [10, 5000]);
    let cut = disk.crash(Choice::All);
    cut.open(Path::new(FILE), OpenMode::Write).unwrap().set_len(5000).unwrap();
    assert!(read(&cut, FILE).unwrap()[10..].iter().all(|b| *b == 0));
}

#[test]
fn a_process_crash_loses_nothing_and_frees_the_lock() {
    let disk = disk();
    let _lock = disk.lock(Path::new("dir/.lock"), "me").unwrap();
    write(&disk, FILE, b"x");
    let dead = disk.crash(Choice::ProcessCrash);
    assert_eq!(dead.boot_id(), disk.boot_id());
    assert_eq!(read(&dead, FILE).unwrap(), b"x");
    dead.lock(Path::new("dir/.lock"), "next").unwrap();
    assert_eq!(read(&dead.crash(Choice::Nothing), FILE), None, "and makes nothing durable");
    assert_ne!(dead.crash(Choice::Nothing).boot_id(), disk.boot_id());
}

#[test]
fn every_subset_of_few_changes_is_tried() {
    let disk = disk();
    write(&disk, FILE, b"x");
    let choices = Choice::some(&disk.sim.lock().disk, 0, 12, &mut Luck::new(1));
    assert_eq!(disk.unsynced(), 3, "a page, a length and a name");
    assert_eq!(choices.len(), 1 + 8);
    let found: std::collections::BTreeSet<_> = choices.iter().map(|choice| read(&disk.crash(*choice), FILE)).collect();
    let expected = [None, Some(vec![]), Some(vec![0]), Some(b"x".to_vec())];
    assert_eq!(found, std::collections::BTreeSet::from(expected));
    for choice in choices {
        assert_eq!(choice.to_string().parse(), Ok(choice));
    }
}

#[test]
fn after_a_failed_sync_the_next_one_may_lie() {
    for then in AfterFailedSync::ALL {
        let disk = disk();
        let old = vec![b'o'; 8 * disk::PAGE];
        let file = durable(&disk, FILE, &old);
        let new = vec![b'n'; 8 * disk::PAGE];
        file.write_all_at(&new, 0).unwrap();
        disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).leaves(then));
        file.sync_data().unwrap_err();
        let again = file.sync_data();
        let (seen, kept) = (read(&disk, FILE).unwrap(), read(&disk.crash(Choice::All), FILE).unwrap());
        disk.drop_caches();
        let reread = read(&disk, FILE).unwrap();
        match then {
            AfterFailedSync::KeepsNew => {
                again.unwrap();
                assert!(seen == new && kept != new && reread == kept, "the cache lies");
            }
            AfterFailedSync::DropsToOld => {
                again.unwrap();
                assert!(seen != new && kept == seen && reread == seen);
            }
            AfterFailedSync::FailsAgain => {
                again.unwrap_err();
                assert_eq!(read(&disk.crash(Choice::Nothing), FILE).unwrap(), old);
            }
            AfterFailedSync::StaysDirty => {
                again.unwrap();
                assert!(seen == new && read(&disk.crash(Choice::Nothing), FILE).unwrap() == new);
            }
        }
    }
}

#[test]
fn space_runs_out_to_the_byte_and_comes_back() {
    let disk = disk();
    disk.limit_space(Some(10));
    let file = write(&disk, FILE, b"1234567");
    assert_eq!(file.write_at(b"abcdef", 7).unwrap(), 3, "a write that fits in part is short");
    assert_eq!(errno(&file.write_at(b"d", 10).unwrap_err()), io::ErrorKind::StorageFull);
    assert_eq!(errno(&disk.create_dir(Path::new("dir/d")).unwrap_err()), io::ErrorKind::StorageFull);
    assert!(disk.open(Path::new("dir/other"), OpenMode::CreateNew).is_err());
    file.write_all_at(b"over", 0).unwrap();
    assert!(file.allocate(0, 11).is_err());
    disk.remove_file(Path::new(FILE)).unwrap();
    assert_eq!(disk.used_space(), 10, "an open handle keeps the bytes");
    drop(file);
    assert_eq!(disk.used_space(), 0);
    write(&disk, FILE, b"1234567890");
}

#[test]
fn short_transfers_are_short_and_whole_reads_are_whole() {
    let bytes: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut writes, mut reads) = (0, 0);
    for seed in 0..20 {
        let disk = disk();
        disk.make_transfers_short(seed);
        write(&disk, FILE, &bytes);
        assert_eq!(read(&disk, FILE).unwrap(), bytes);
        writes += disk.counts()[&Operation::Write];
        reads += disk.counts()[&Operation::Read];
    }
    assert!(writes > 40 && reads > 40, "{writes} writes, {reads} reads");
}

#[test]
fn faults_strike_where_and_when_they_are_told_to() {
    let disk = disk();
    let file = write(&disk, FILE, b"x");
    disk.add_fault(Fault::new(Errno::Quota, Repeat::Forever).on(Operation::Write).path("file"));
    assert_eq!(errno(&file.write_at(b"y", 0).unwrap_err()), io::ErrorKind::QuotaExceeded);
    write(&disk, "dir/other", b"y");
    disk.mend();
    let next = disk.operations();
    disk.add_fault(Fault::new(Errno::Io, Repeat::Once).from_operation(next + 1));
    file.read_at(&mut [0], 0).unwrap();
    file.read_at(&mut [0], 0).unwrap_err();
    file.read_at(&mut [0], 0).unwrap();
    disk.add_fault(Fault::new(Errno::Io, Repeat::Forever));
    disk.without_faults(|| file.read_at(&mut [0], 0)).unwrap();
    file.read_at(&mut [0], 0).unwrap_err();
    disk.mend();
    disk.limit_operations(disk.operations());
    file.read_at(&mut [0], 0).unwrap_err();
    assert_eq!(disk.struck(), 3);
}

#[test]
fn bits_flip_writes_go_astray_and_files_vanish() {
    let disk = disk();
    let file = durable(&disk, FILE, b"abc");
    disk.flip_bit(FILE, 1, 0).unwrap();
    assert_eq!(read(&disk, FILE).unwrap(), b"acc");
    assert_eq!(read(&disk.crash(Choice::Nothing), FILE).unwrap(), b"acc");
    assert!(disk.flip_bit(FILE, 3, 0).is_err());
    disk.misdirect_write("file", 4);
    file.write_all_at(b"Z", 0).unwrap();
    assert_eq!(read(&disk, FILE).unwrap(), b"acc\0Z");
    disk.vanish(FILE).unwrap();
    assert_eq!((read(&disk, FILE), read(&disk.crash(Choice::All), FILE)), (None, None));
    assert_eq!(file.len().unwrap(), 5);
}

//! The state file: slots, copies, versions, and what a failing disk does to them.

use super::*;
use crate::storage::{MemoryStorage, PooledStorage};
use crate::testing::{AfterFailedSync, Choice, Errno, Fault, Operation, Repeat, SimStorage};

const PATH: &str = "thalweg.state";

fn open(storage: &MemoryStorage) -> StateFile {
    StateFile::open(storage, Path::new(PATH)).unwrap()
}

fn raw(storage: &MemoryStorage) -> Arc<dyn File> {
    storage.open(Path::new(PATH), OpenMode::Write).unwrap()
}

fn topic(number: u8) -> Uuid {
    Uuid::from_bytes([number; 16])
}

fn state(log_end: i64) -> SlotState {
    SlotState {
        clean: log_end % 2 == 0,
        weak_acks: log_end % 3 == 0,
        leader_epoch: LeaderEpoch::new(7),
        boot_id: [9; 16],
        log_start: Offset::new(1),
        log_end: Offset::new(log_end),
        high_watermark: Offset::new(2),
        last_stable: Offset::new(3),
        frontier: Offset::new(4),
        reserved: Offset::new(5),
        recovery_point: Offset::new(6),
        segment_base: Offset::new(7),
        segment_size: u64::MAX,
        tail_crc: u32::MAX,
        doubted_below: Offset::new(8),
        poisoned: log_end % 9 == 0,
        noted: Offset::new(9),
        unsynced_max: 10,
        truncating: false,
        aborted: [Some(11), None],
        transactional: true,
        first: Some(Offset::new(12)),
        unknown: log_end % 11 == 0,
        foreign: log_end % 33 == 0,
    }
}

/// What each version of this file looked like, for ever readable.
#[test]
fn golden_files_of_all_versions_are_read() {
    let (nothing, some) = (([None; 2], false, None), ([Some(11), None], true, Some(Offset::new(12))));
    let versions: [(&[u8], _); 4] = [
        (include_bytes!("../../../tests/data/private/state-v1.bin"), (false, Offset::ZERO, 0, nothing, false)),
        (include_bytes!("../../../tests/data/private/state-v2.bin"), (true, Offset::new(9), 10, nothing, false)),
        (include_bytes!("../../../tests/data/private/state-v3.bin"), (true, Offset::new(9), 10, some, false)),
        (include_bytes!("../../../tests/data/private/state-v4.bin"), (true, Offset::new(9), 10, some, true)),
    ];
    for (golden, (poisoned, noted, unsynced_max, (aborted, transactional, first), marked)) in versions {
        let storage = MemoryStorage::default();
        let file = storage.open(Path::new(PATH), OpenMode::CreateNew).unwrap();
        file.write_all_at(golden, 0).unwrap();
        let found = open(&storage);
        let of = |log_end| {
            let poisoned = poisoned && log_end % 9 == 0;
            let SlotState { unknown, foreign, .. } = state(log_end);
            let (unknown, foreign) = (unknown && marked, foreign && marked);
            let others = state(log_end);
            SlotState { poisoned, noted, unsynced_max, aborted, transactional, first, unknown, foreign, ..others }
        };
        assert_eq!(found.slot(topic(1), 0.into()).load(), Some(of(99)));
        assert_eq!(found.slot(topic(2), 3.into()).load(), Some(of(96)));
        found.slot(topic(1), 0.into()).store(&state(100)).unwrap();
        assert_eq!(open(&storage).slot(topic(1), 0.into()).load(), Some(state(100)));
    }
}

fn spoil(storage: &MemoryStorage, index: u64, copy: u64) {
    raw(storage).write_all_at(&[0xff], HEADER_LEN + index * 512 + copy * 256 + 20).unwrap();
}

#[test]
fn slots_come_back() {
    let storage = MemoryStorage::default();
    let file = open(&storage);
    assert_eq!(file.slot(topic(1), 0.into()).load(), None);
    for partition in 0..3 {
        file.slot(topic(1), partition.into()).store(&state(i64::from(partition))).unwrap();
    }
    file.slot(topic(1), 2.into()).store(&state(99)).unwrap();
    file.slot(topic(2), 0.into());
    file.sync().unwrap();
    let again = open(&storage);
    assert_eq!(again.partitions().len(), 3, "what was never stored takes no slot");
    assert_eq!(again.slot(topic(1), 1.into()).load(), Some(state(1)));
    assert_eq!(again.slot(topic(1), 2.into()).load(), Some(state(99)));
    assert!(storage.metadata(Path::new("thalweg.state.tmp")).is_err());
}

#[test]
fn a_torn_store_falls_back_to_what_was_synced_last() {
    let storage = MemoryStorage::default();
    let slot = open(&storage).slot(topic(1), 0.into());
    slot.store(&state(1)).unwrap();
    slot.sync().unwrap();
    for log_end in 2..6 {
        slot.store(&state(log_end)).unwrap();
    }
    let sequences = slot.content.lock().sequences;
    spoil(&storage, 0, u64::from(sequences[1] > sequences[0]));
    let again = open(&storage);
    assert_eq!(again.slot(topic(1), 0.into()).load(), Some(state(1)));
    slot.sync().unwrap();
}

#[test]
fn stores_alternate_only_across_syncs() {
    let mut content = Content { state: None, sequences: [0, 0], written_at: 0, known_since: None, freed: false };
    for (sequences, synced, target) in [
        ([0, 0], false, 1),
        ([0, 1], false, 0),
        ([2, 1], false, 0),
        ([2, 1], true, 1),
        ([2, 3], false, 1),
        ([2, 3], true, 0),
        ([0, 3], true, 0),
    ] {
        content.sequences = sequences;
        assert_eq!(content.target(synced), target, "{sequences:?}, synced {synced}");
    }
}

/// A system may drop what it could not sync, and show what the disk has.
#[test]
fn after_a_failed_sync_the_next_opening_in_this_boot_finds_what_was_stored() {
    let disk = SimStorage::new();
    let storage: Arc<dyn Storage> = Arc::new(PooledStorage::new(Arc::new(disk.clone()), 10));
    let reopen = |storage: &Arc<dyn Storage>| {
        let policy = RecoveryPolicy::Degraded;
        StateFile::open_by(policy, storage, Path::new(PATH), &Findings::default(), &SyncNotes::default()).unwrap()
    };
    let file = reopen(&storage);
    let (one, two) = (file.slot(topic(1), 0.into()), file.slot(topic(2), 0.into()));
    one.store(&state(1)).unwrap();
    two.store(&state(1)).unwrap();
    one.sync().unwrap();
    one.store(&state(2)).unwrap();
    disk.add_fault(Fault::new(Errno::Io, Repeat::Forever).on(Operation::Sync).leaves(AfterFailedSync::DropsToOld));
    assert_eq!(one.sync().unwrap_err().kind(), ErrorKind::Indeterminate);
    let refused = two.store(&state(2)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Poisoned);
    assert!(refused.to_string().contains("close and open again"), "{refused}");
    two.store(&state(9)).expect("that its log failed, too, is noted");
    disk.mend();
    let again = reopen(&(Arc::new(disk.crash(Choice::ProcessCrash)) as Arc<dyn Storage>));
    assert_eq!(again.slot(topic(1), 0.into()).load(), Some(state(2)));
    assert_eq!(again.slot(topic(2), 0.into()).load(), Some(state(9)));
}

#[test]
fn a_slot_with_two_bad_copies_is_reported() {
    let storage = MemoryStorage::default();
    let file = open(&storage);
    for partition in 0..2 {
        file.slot(topic(1), partition.into()).store(&state(1)).unwrap();
        file.sync().unwrap();
    }
    spoil(&storage, 0, 0);
    spoil(&storage, 0, 1);
    let again = open(&storage);
    assert_eq!(again.partitions(), vec![(topic(1), 1.into())]);
    again.slot(topic(1), 0.into()).store(&state(2)).unwrap();
    let healed = open(&storage);
    assert_eq!(healed.slot(topic(1), 0.into()).load(), Some(state(2)));
}

#[test]
fn a_freed_slot_serves_another_partition() {
    let storage = MemoryStorage::default();
    let file = open(&storage);
    let old = file.slot(topic(1), 0.into());
    old.store(&state(1)).unwrap();
    file.free(topic(1), 0.into()).unwrap();
    assert_eq!(old.store(&state(2)).unwrap_err().kind(), ErrorKind::TopicDeleted);
    assert_eq!(open(&storage).partitions(), []);
    let new = file.slot(topic(2), 0.into());
    assert_eq!((new.index, new.load()), (0, None));
    new.store(&state(3)).unwrap();
    assert_eq!(open(&storage).slot(topic(2), 0.into()).load(), Some(state(3)));
    file.free(topic(3), 0.into()).unwrap();
}

#[test]
fn a_slot_cut_short_is_read_as_far_as_it_goes() {
    let storage = MemoryStorage::default();
    let file = open(&storage);
    file.slot(topic(1), 0.into()).store(&state(1)).unwrap();
    file.slot(topic(1), 1.into()).store(&state(2)).unwrap();
    raw(&storage).set_len(HEADER_LEN + 512 + 300).unwrap();
    let again = open(&storage);
    assert_eq!(again.partitions(), vec![(topic(1), 0.into())]);
}

#[test]
fn headers_of_others_are_refused() {
    let storage = MemoryStorage::default();
    open(&storage);
    let refuse = |position, bytes: &[u8]| {
        raw(&storage).write_all_at(bytes, position).unwrap();
        let error = StateFile::open(&storage, Path::new(PATH)).unwrap_err();
        raw(&storage).write_all_at(&encode_header(VERSION), 0).unwrap();
        assert_eq!(error.at_path(), Some(Path::new(PATH)));
        error
    };
    let newer = refuse(14, &[0, 0, 0, 5]);
    assert_eq!(newer.kind(), ErrorKind::Unsupported);
    assert!(newer.to_string().contains("version 5"), "{newer}");
    assert_eq!(refuse(0, b"T").kind(), ErrorKind::Corrupt);
    assert_eq!(refuse(18, &[1]).kind(), ErrorKind::Corrupt);
    raw(&storage).set_len(100).unwrap();
    assert_eq!(StateFile::open(&storage, Path::new(PATH)).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_file_that_is_too_long_is_refused_before_it_is_read() {
    let storage = MemoryStorage::new();
    drop(open(&storage));
    raw(&storage).set_len(1 << 50).unwrap();
    let error = StateFile::open(&storage, Path::new(PATH)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

//! A disk without space: what found none was never appended, and everything else goes on.

use super::*;

pub(super) struct Full {
    pub(super) disk: SimStorage,
    pub(super) dir: PathBuf,
}

impl Full {
    pub(super) fn new() -> Self {
        let disk = SimStorage::new();
        disk.create_dir(Path::new("data")).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        Self { disk, dir: PathBuf::from("data/t-0") }
    }

    pub(super) fn open(&self, config: LogConfig) -> Log {
        let clock = ManualClock::new(Timestamp::new(T));
        Log::open_on(Arc::new(self.disk.clone()), Arc::new(clock), &self.dir, config).unwrap()
    }

    pub(super) fn no_room(&self, yes: bool) {
        self.disk.limit_space(yes.then(|| self.disk.used_space()));
    }
}

pub(super) fn produced(sequence: i32) -> RecordBatch {
    let mut batch = BatchBuilder::new().producer(ProducerId::new(7), 0, sequence);
    batch.push(Timestamp::new(T), &Record::new(format!("value {sequence}"))).unwrap();
    batch.finish().unwrap()
}

pub(super) fn is_refused(done: Result<()>) -> bool {
    let error = done.unwrap_err();
    error.is_retriable() && error.kind() == ErrorKind::StorageFull
}

#[test]
fn producers_epochs_and_indexes_are_as_before_what_found_no_space() {
    let full = Full::new();
    let config = small().segment_bytes(200);
    let log = full.open(config.clone());
    let epoch = LeaderEpoch::new(0);
    let first = log.append(&produced(0), epoch).unwrap();
    log.wait(first.position, Durability::PowerLoss).unwrap();
    full.no_room(true);
    // Enough for two rolls, the last in a new epoch.
    let refused: Vec<_> =
        (1..10).map(|n| log.append(&produced(n), LeaderEpoch::new(i32::from(n > 8))).unwrap()).collect();
    assert!(log.segment_count() > 2);
    assert!(is_refused(log.wait(refused[3].position, Durability::PowerLoss)));
    for appended in &refused {
        assert!(is_refused(log.wait(appended.position, Durability::ProcessCrash)));
        assert!(is_refused(log.is_committed(appended.position, Durability::None).map(drop)));
    }
    log.wait(first.position, Durability::PowerLoss).unwrap();
    assert_eq!((log.offsets().end, log.leader_epoch(), log.segment_count()), (Offset::new(1), epoch, 1));
    full.no_room(false);
    // The first copy of sequence 0 is known, those of the others are not.
    assert_eq!(log.append(&produced(0), epoch).unwrap().base_offset, 0);
    for n in 1..10 {
        assert_eq!(log.append(&produced(n), epoch).unwrap().base_offset, i64::from(n));
    }
    log.sync().unwrap();
    let told = all(&log);
    assert_eq!(told.len(), 10);
    log.close().unwrap();
    let log = full.open(config);
    assert_eq!((all(&log), log.recovery().rows.as_slice()), (told, &[RecoveryRow::Clean][..]));
}

#[test]
fn an_offset_told_from_memory_is_not_given_out_again() {
    let full = Full::new();
    let log = full.open(LogConfig::default());
    put(&log, &["zero"]);
    full.no_room(true);
    let told = log.append_records(["one", "two"]).unwrap();
    log.wait(told.position, Durability::None).unwrap();
    // More than there is room for behind the last batch.
    let refused = log.append_records(["three".repeat(5000)]).unwrap();
    assert!(is_refused(log.wait(refused.position, Durability::PowerLoss)));
    let epoch = log.leader_epoch();
    full.no_room(false);
    assert_eq!(put(&log, &["again"]).base_offset, 3);
    assert!(log.leader_epoch() > epoch);
    let records = vec![(0, "zero".to_owned()), (3, "again".to_owned())];
    assert_eq!(all(&log), records);
    drop(log);
    let left = Full { disk: full.disk.crash(Choice::Nothing), dir: full.dir };
    let log = left.open(LogConfig::default());
    assert_eq!((all(&log), log.recovery().damaged.as_slice()), (records, &[][..]));
}

/// A log of one record that goes on at 5: twice, offsets were told and found no space.
fn left_out_twice() -> (Full, Log) {
    let full = Full::new();
    let log = full.open(LogConfig::default());
    put(&log, &["zero"]);
    full.no_room(true);
    for _ in 0..2 {
        let told = log.append_records(["one", "two"]).unwrap();
        log.wait(told.position, Durability::None).unwrap();
        let refused = log.append_records(["three".repeat(5000)]).unwrap();
        assert!(is_refused(log.wait(refused.position, Durability::PowerLoss)));
    }
    assert_eq!((log.offsets().end, log.segment_count()), (Offset::new(5), 3));
    (full, log)
}

#[test]
fn a_truncation_among_offsets_that_were_left_out_moves_and_loses_none() {
    // Behind a batch, and where nothing was ever appended.
    for to in [2, 4] {
        let (full, log) = left_out_twice();
        log.truncate(to).unwrap();
        full.no_room(false);
        assert_eq!(put(&log, &["more"]).base_offset, to);
        let records = vec![(0, "zero".to_owned()), (to, "more".to_owned())];
        assert_eq!(all(&log), records);
        log.run_maintenance().unwrap();
        drop(log);
        for choice in [Choice::ProcessCrash, Choice::Nothing] {
            let left = Full { disk: full.disk.crash(choice), dir: full.dir.clone() };
            let log = left.open(LogConfig::default());
            assert_eq!((all(&log), log.recovery().damaged.as_slice()), (records.clone(), &[][..]), "{to} {choice}");
        }
    }
}

#[test]
fn a_log_that_was_cut_back_to_where_it_goes_on_needs_a_higher_epoch_after_a_close_too() {
    let (full, log) = left_out_twice();
    let epoch = log.leader_epoch();
    log.truncate(3).unwrap();
    log.close().unwrap();
    full.no_room(false);
    let log = full.open(LogConfig::default());
    assert_eq!(put(&log, &["more"]).base_offset, 3);
    assert!(log.leader_epoch() > epoch);
    assert_eq!(all(&log), [(0, "zero".to_owned()), (3, "more".to_owned())]);
}

#[test]
fn many_threads_meet_a_full_disk_and_go_on() {
    let full = Full::new();
    let log = full.open(small());
    put(&log, &["zero"]);
    let before = full.disk.used_space();
    full.disk.limit_space(Some(before + 2_000));
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let log = &log;
                scope.spawn(move || {
                    let one = |n| {
                        let value = format!("{thread} {n}");
                        let appended = log.append_records([value.as_str()]).unwrap();
                        let waited = log.wait(appended.position, Durability::PowerLoss);
                        (appended.base_offset.get(), value, waited.map_err(|e| e.kind()))
                    };
                    (0..20).map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    full.no_room(false);
    put(&log, &["last"]);
    let mut expected: Vec<_> = vec![(0, "zero".to_owned())];
    for (offset, value, outcome) in outcomes {
        match outcome {
            Ok(()) => expected.push((offset, value)),
            Err(kind) => assert_eq!(kind, ErrorKind::StorageFull),
        }
    }
    expected.sort();
    assert!(expected.len() < 80, "the disk was never full");
    expected.push((log.offsets().end.get() - 1, "last".to_owned()));
    assert_eq!(all(&log), expected);
}

#[test]
fn no_space_at_a_sync_poisons() {
    let full = Full::new();
    let log = full.open(LogConfig::default());
    put(&log, &["zero"]);
    full.disk.add_fault(Fault::new(Errno::NoSpace, Repeat::Once).on(Operation::Sync).path(".log"));
    let appended = log.append_records(["one"]).unwrap();
    let error = log.wait(appended.position, Durability::PowerLoss).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Indeterminate);
    assert_eq!(log.append_records(["two"]).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(all(&log), [(0, "zero".to_owned())]);
}

#[test]
fn retention_of_everything_gives_space_back() {
    let full = Full::new();
    let log = full.open(small());
    for n in 0..20 {
        put(&log, &[&format!("value {n}")]);
    }
    full.no_room(true);
    let used = full.disk.used_space();
    log.apply_retention(None, Some(0)).unwrap();
    assert_eq!(log.offsets().log_start, 20);
    assert!(full.disk.used_space() < used);
    assert_eq!(put(&log, &["value 20"]).base_offset, 20);
    drop(log);
    let left = Full { disk: full.disk.crash(Choice::ProcessCrash), dir: full.dir };
    assert_eq!(all(&left.open(small())), [(20, "value 20".to_owned())]);
}

#[test]
fn a_disk_without_space_for_the_epochs_does_not_stop_a_log_that_syncs_behind() {
    let full = Full::new();
    let log = full.open(LogConfig::default().durability(Durability::ProcessCrash));
    let wait = |appended: Appended| log.wait(appended.position, Durability::ProcessCrash);
    wait(log.append_records(["zero"]).unwrap()).unwrap();
    // Not even for what the reserve gives up.
    full.disk.limit_space(Some(0));
    assert!(is_refused(wait(log.append_records(["one"]).unwrap())));
    log.sync().unwrap();
    assert_eq!(log.offsets().frontier, 1);
    full.no_room(false);
    wait(log.append_records(["one"]).unwrap()).unwrap();
    assert_eq!(all(&log), [(0, "zero".to_owned()), (1, "one".to_owned())]);
}

#[test]
fn records_do_not_get_of_the_reserve_in_a_segment_that_was_prepared() {
    let full = Full::new();
    let log = full.open(small().durability(Durability::ProcessCrash));
    while log.segment_count() < 2 {
        put(&log, &["value"]);
        log.run_maintenance().unwrap();
    }
    let reserve = full.dir.join("thalweg.reserve");
    let held = || full.disk.metadata(&reserve).unwrap().len;
    let before = held();
    assert!(before > 0);
    full.no_room(true);
    let refused = log.append_records(["refused"]).unwrap();
    assert!(is_refused(log.wait(refused.position, Durability::PowerLoss)));
    assert_eq!(held(), before);
}

#[test]
fn what_was_written_before_there_was_no_space_is_visible_and_synced() {
    let bed = Cuttable::new();
    let log = bed.open(small().durability(Durability::ProcessCrash));
    let append = |value: &str| log.append_records([value]).unwrap().position;
    log.wait(append("value"), Durability::ProcessCrash).unwrap();
    let size = log.size_bytes();
    while log.size_bytes() + 2 * size <= u64::from(small().segment_bytes) {
        log.wait(append("value"), Durability::ProcessCrash).unwrap();
    }
    bed.disk.add_fault(Fault::new(Errno::NoSpace, Repeat::Forever).on(Operation::Create));
    let mut waiting = Vec::new();
    while log.segment_count() == 1 {
        waiting.push(append("value"));
    }
    // The one that rolled finds no space.
    let refused = waiting.pop().unwrap();
    assert!(!waiting.is_empty());
    assert_eq!(log.wait(refused, Durability::ProcessCrash).unwrap_err().kind(), ErrorKind::StorageFull);
    for position in &waiting {
        log.wait(*position, Durability::ProcessCrash).unwrap();
        assert!(log.offsets().high_watermark >= position.end);
    }
    let kept = log.offsets().high_watermark;
    log.append_records(["x".repeat(200)]).unwrap();
    assert_eq!(log.sync().unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(log.offsets().frontier, kept);
}

#[test]
fn nothing_goes_behind_what_was_taken_back_where_that_is_asked() {
    let full = Full::new();
    let log = full.open(small());
    let after = |position| super::append::Terms { after: Some(position), ..Default::default() };
    let append = |terms, sequence| log.append_on(terms, &produced(sequence), LeaderEpoch::new(0));
    let first = log.append(&produced(0), LeaderEpoch::new(0)).unwrap();
    log.sync().unwrap();
    let second = append(after(first.position), 1).unwrap();
    full.disk.add_fault(Fault::new(Errno::NoSpace, Repeat::Once).on(Operation::Write).path(".log"));
    assert!(is_refused(log.wait(second.position, Durability::PowerLoss)));
    assert!(is_refused(append(after(second.position), 1).map(drop)));
    let again = append(after(first.position), 1).unwrap();
    assert_eq!((again.base_offset, append(after(again.position), 2).unwrap().base_offset), (1.into(), 2.into()));
}

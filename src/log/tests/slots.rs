//! What the state slot keeps over a crash, and from when on.

use super::damage::outcome;
use super::*;

use RecoveryRow as Row;

const LOG: &str = "data/t-0/00000000000000000000.log";

fn disk() -> SimStorage {
    let disk = SimStorage::new();
    disk.create_dir(Path::new("data")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    disk
}

fn try_open(disk: &SimStorage, config: LogConfig) -> Result<Log> {
    let clock = ManualClock::new(Timestamp::new(T));
    Log::open_on(Arc::new(disk.clone()), Arc::new(clock), "data/t-0", config)
}

fn open(disk: &SimStorage, config: LogConfig) -> Log {
    try_open(disk, config).unwrap()
}

fn at(level: Durability) -> LogConfig {
    LogConfig::default().durability(level)
}

#[test]
fn what_maintenance_saw_synced_is_rot_when_it_goes_bad() {
    for level in [Durability::PowerLoss, Durability::ProcessCrash] {
        let disk = disk();
        let log = open(&disk, at(level));
        fill(&log, 0..6);
        let size = log.size_bytes() / 6;
        log.run_maintenance().unwrap();
        let syncs = disk.counts()[&Operation::Sync];
        log.run_maintenance().unwrap();
        assert_eq!(disk.counts()[&Operation::Sync], syncs, "{level}: there is nothing to do");
        let left = disk.crash(Choice::Nothing);
        left.put_byte(LOG, 2 * size + 65, 0xff).unwrap();
        let log = open(&left, at(level));
        assert_eq!(outcome(&log).damaged, [(2, 3)], "{level}: {}", log.recovery());
        assert_eq!(log.recovery().rows.first(), Some(&Row::DamagedTail), "{level}: {}", log.recovery());
    }
}

#[test]
fn offsets_that_were_acknowledged_are_not_given_out_again_when_they_are_taken_for_torn() {
    for level in [Durability::PowerLoss, Durability::ProcessCrash] {
        // In the first of one or three segments, whose seals no maintenance wrote.
        for segment_bytes in [1 << 20, 160] {
            let disk = disk();
            let log = open(&disk, at(level).segment_bytes(segment_bytes));
            fill(&log, 0..6);
            let epoch = log.leader_epoch();
            let left = disk.crash(Choice::Nothing);
            left.put_byte(LOG, 65, 0xff).unwrap();
            let log = open(&left, at(level));
            let end = put(&log, &["new"]).base_offset;
            assert!(end >= 6, "{level} {segment_bytes}: {end} was given out before, {}", log.recovery());
            let is_cut = log.recovery().rows.contains(&Row::Reserved);
            assert_eq!(log.leader_epoch() > epoch, is_cut, "{level} {segment_bytes}: {}", log.recovery());
            assert_eq!(is_cut, level == Durability::ProcessCrash || segment_bytes > 160, "{}", log.recovery());
        }
    }
}

/// Its length seems to say that a part of it was never written.
#[test]
fn the_offset_of_a_last_batch_with_a_wrong_length_is_not_given_out_again_by_whichever_opening_gets_through() {
    let first = disk();
    let log = open(&first, LogConfig::default());
    fill(&log, 0..6);
    let size = log.size_bytes() / 6;
    for is_power_cut in [false, true] {
        let crash = if is_power_cut { Choice::Nothing } else { Choice::ProcessCrash };
        let spoilt = first.crash(crash);
        spoilt.put_byte(LOG, 5 * size + 9, 8).unwrap();
        for operations in 0..1000 {
            let disk = spoilt.crash(Choice::ProcessCrash);
            disk.limit_operations(disk.operations() + operations);
            let opened = try_open(&disk, LogConfig::default());
            for choice in [Choice::ProcessCrash, Choice::Nothing, Choice::All, Choice::Journaled(operations)] {
                let log = open(&disk.crash(choice), LogConfig::default());
                let base = put(&log, &["new"]).base_offset;
                assert!(base >= 6, "{is_power_cut} {operations} {choice}: {base}, {}", log.recovery());
                assert_eq!(outcome(&log).records.len(), 6, "{is_power_cut} {operations} {choice}: {}", log.recovery());
            }
            if let Ok(log) = opened {
                assert_eq!(log.recovery().rows, [Row::TornTail, Row::Reserved], "{is_power_cut}");
                break;
            }
        }
    }
}

/// A crash before each operation of a group, which then has lost its first batch.
#[test]
fn a_young_log_knows_a_torn_group_when_it_sees_one() {
    for (level, before) in [(Durability::PowerLoss, 0), (Durability::PowerLoss, 2), (Durability::ProcessCrash, 0)] {
        let mut torn = 0;
        for operations in 0..100 {
            let disk = disk();
            let log = open(&disk, at(level));
            fill(&log, 0..before);
            let size = log.size_bytes();
            let last = (0..3).map(|n| log.append_records([format!("value {n}")]).unwrap()).last().unwrap();
            disk.limit_operations(disk.operations() + operations);
            let done = log.wait(last.position, level);
            for choice in (0..60).map(Choice::Journaled) {
                let left = disk.crash(choice);
                if let Ok(file) = left.open(Path::new(LOG), OpenMode::Write)
                    && file.len().unwrap() > size
                    && (done.is_err() || level < Durability::PowerLoss)
                {
                    torn += 1;
                    file.write_all_at(&[0; 70], size).unwrap();
                }
                let strict = at(level).recovery_policy(RecoveryPolicy::Strict);
                let what = format!("{level} {before} {operations} {choice}");
                let log = try_open(&left, strict).unwrap_or_else(|e| panic!("{what}: {e}"));
                let recovery = log.recovery();
                assert!(!recovery.rows.contains(&Row::StateLost) && recovery.damaged.is_empty(), "{what}: {recovery}");
            }
            if done.is_ok() {
                break;
            }
        }
        assert!(torn > 0, "{level} {before}: {torn}");
    }
}

#[test]
fn a_level_that_rises_takes_along_what_was_shown_before() {
    let disk = disk();
    let config = |level| at(level).segment_bytes(160);
    let log = open(&disk, config(Durability::ProcessCrash));
    for n in 0..6 {
        let appended = log.append_records([format!("value {n}")]).unwrap();
        log.wait(appended.position, Durability::ProcessCrash).unwrap();
    }
    let before = disk.crash(Choice::All);
    log.configure(config(Durability::PowerLoss)).unwrap();
    let offsets = log.offsets();
    assert_eq!((offsets.high_watermark, offsets.frontier), (Offset::new(6), Offset::new(6)));
    let left = disk.crash(Choice::Nothing);
    left.put_byte(LOG, 65, 0xff).unwrap();
    let log = open(&left, config(Durability::PowerLoss));
    assert_eq!(outcome(&log).damaged, [(0, 1)], "{}", log.recovery());

    // The topic's setting comes first: a loss of power in between takes what it would have taken before.
    before.put_byte(LOG, 65, 0xff).unwrap();
    let log = try_open(&before, config(Durability::PowerLoss).recovery_policy(RecoveryPolicy::Strict)).unwrap();
    assert!(log.recovery().rows.contains(&Row::TornUnsynced), "{}", log.recovery());
    assert!(put(&log, &["new"]).base_offset >= 6);
}

#[test]
fn a_sync_that_failed_in_an_opening_is_not_believed_by_the_next_where_there_was_no_slot() {
    let disk = disk();
    let log = open(&disk, LogConfig::default());
    put(&log, &["value 0"]);
    // As by a program that does not sync, and keeps no state.
    let appended = log.append_records(["value 1"]).unwrap();
    log.wait(appended.position, Durability::ProcessCrash).unwrap();
    drop(log);
    disk.remove_file(Path::new("data/t-0/log.state")).unwrap();
    disk.add_fault(
        Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(".log").leaves(AfterFailedSync::KeepsNew),
    );
    try_open(&disk, LogConfig::default()).unwrap_err();
    let log = open(&disk, LogConfig::default());
    assert!(log.recovery().rows.contains(&Row::StateLost), "{}", log.recovery());
    assert_eq!(all(&log), numbered(0..2));
    assert_eq!(all(&open(&disk.crash(Choice::Nothing), LogConfig::default())), numbered(0..2));
}

#[test]
fn a_level_that_falls_shows_what_was_written_before() {
    let disk = disk();
    let log = open(&disk, at(Durability::PowerLoss));
    put(&log, &["value 0"]);
    let weak = log.append_records(["value 1"]).unwrap();
    log.wait(weak.position, Durability::ProcessCrash).unwrap();
    assert_eq!(log.offsets().high_watermark, 1);
    log.configure(at(Durability::ProcessCrash)).unwrap();
    assert_eq!((log.offsets().high_watermark, all(&log)), (Offset::new(2), numbered(0..2)));
    // Nor are they given out again by the next opening.
    assert!(open(&disk.crash(Choice::Nothing), at(Durability::ProcessCrash)).offsets().end >= 2);
}

#[test]
fn a_halted_log_is_mended_by_a_reopening_also_after_maintenance() {
    let disk = disk();
    let log = open(&disk, LogConfig::default());
    disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::SyncDir).path("data/t-0"));
    let appended = log.append_records(["value 0"]).unwrap();
    log.wait(appended.position, Durability::PowerLoss).unwrap_err();
    log.run_maintenance().unwrap_err();
    log.reopen().unwrap();
    let next = log.offsets().end.get();
    put(&log, &["more"]);
    assert_eq!(all(&log).last(), Some(&(next, "more".to_owned())));
}

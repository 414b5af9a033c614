//! The rows of the recovery table that tell an unfinished write from rot, and what is kept of what was cut off.

use super::damage::{findings, outcome};
use super::*;
use crate::finding::FindingKind;
use crate::log::state::SlotState;

use RecoveryRow as Row;

const LOG: &str = "00000000000000000000.log";

fn config(level: Durability) -> LogConfig {
    LogConfig::default().durability(level)
}

/// Changes what the state slot says.
fn edit(bed: &Bed, change: impl FnOnce(&mut SlotState)) {
    let state = StateFile::open(&*bed.storage, &bed.dir.join("log.state")).unwrap();
    let slot = state.slot(Uuid::ZERO, 0.into());
    let mut content = slot.load().unwrap();
    change(&mut content);
    slot.store(&content).unwrap();
}

/// The power went: all that was not synced is in doubt.
fn reboot(bed: &Bed) {
    edit(bed, |slot| slot.boot_id = [1; 16]);
}

/// Takes away the room behind the last batch, so that what a test puts there lies right behind it.
fn without_room(storage: &dyn Storage, path: &Path, size: u64) {
    storage.open(path, OpenMode::Write).unwrap().set_len(size).unwrap();
}

/// Six records in as many batches, and how long each is; then the process is killed.
fn six(level: Durability) -> (Bed, u64) {
    let bed = Bed::new();
    let log = bed.open(config(level));
    for n in 0..6 {
        let appended = log.append_records([format!("value {n}")]).unwrap();
        log.wait(appended.position, level).unwrap();
    }
    let size = log.size_bytes() / 6;
    bed.kill(log);
    without_room(&*bed.storage, &bed.dir.join(LOG), 6 * size);
    (bed, size)
}

/// Opens, compares, and sees to it that nothing is left to do at the second opening.
fn check(bed: &Bed, level: Durability, rows: &[Row], records: i64, damaged: &[(i64, i64)], what: &str) -> LogRecovery {
    let log = bed.open(config(level));
    let recovery = log.recovery().clone();
    assert_eq!(recovery.rows, rows, "{what}: {recovery}");
    let seen = outcome(&log);
    assert_eq!((seen.records.len() as i64, &seen.damaged[..]), (records, damaged), "{what}");
    assert!(seen.records.iter().all(|(n, value)| *value == format!("value {n}")), "{what}: {seen:?}");
    let end = log.offsets().end;
    assert!(end >= 6 || !rows.contains(&Row::Reserved), "{what}: {end} was given out before");
    assert_eq!(put(&log, &["new"]).base_offset, end, "{what}");
    log.close().unwrap();
    let log = bed.open(config(level));
    assert_eq!(log.recovery().rows, [Row::Clean], "{what}");
    assert_eq!(outcome(&log).records.len() as i64, records + 1, "{what}");
    recovery
}

#[test]
fn a_short_write_is_torn_whatever_took_the_rest() {
    // Without a power cut a write into room ends with a page: see `room`.
    for (is_power_cut, zeros) in [(true, 0), (true, 5000), (false, 0)] {
        let (bed, size) = six(Durability::PowerLoss);
        let whole = bed.file(LOG);
        let torn = &whole[..whole.len() - 5];
        bed.storage.open(&bed.dir.join(LOG), OpenMode::Write).unwrap().set_len(torn.len() as u64).unwrap();
        bed.overwrite(LOG, torn.len() as u64, &vec![0; zeros]);
        if is_power_cut {
            reboot(&bed);
        }
        let what = format!("{is_power_cut} {zeros}");
        let recovery = check(&bed, Durability::PowerLoss, &[Row::TornTail, Row::Reserved], 5, &[], &what);
        assert_eq!(recovery.cut_bytes, size - 5, "zeros are nothing to keep");
        let name = recovery.kept[0].file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(name, format!("{:020}-{}.cut", 0, 5 * size));
        assert_eq!(bed.file(&name), torn[5 * size as usize..], "{what}");
    }
}

#[test]
fn without_a_power_cut_whole_writes_are_not_torn() {
    for (batch, zeros) in [(5, 0), (5, 5000), (2, 0)] {
        let (bed, size) = six(Durability::PowerLoss);
        bed.overwrite(LOG, batch * size + 65, &[0xff]);
        bed.overwrite(LOG, 6 * size, &vec![0; zeros]);
        let damaged = [(batch as i64, batch as i64 + 1)];
        check(&bed, Durability::PowerLoss, &[Row::DamagedTail], 5, &damaged, &format!("{batch} {zeros}"));
        assert!(bed.names().iter().all(|name| !name.ends_with(".cut")));
    }
}

#[test]
fn a_hole_in_the_last_group_before_a_power_cut_takes_what_is_behind_it() {
    for hole in [0, 0xff] {
        let (bed, size) = six(Durability::PowerLoss);
        bed.overwrite(LOG, 3 * size, &vec![hole; size as usize]);
        reboot(&bed);
        let mut kept = bed.file(LOG)[3 * size as usize..].to_vec();
        // Zeros at the end may be room, and are nothing to keep.
        kept.truncate(kept.iter().rposition(|&byte| byte != 0).unwrap() + 1);
        let recovery = check(&bed, Durability::PowerLoss, &[Row::TornGroup, Row::Reserved], 3, &[], "");
        assert_eq!(recovery.cut_bytes, kept.len() as u64);
        assert_eq!(bed.file(recovery.kept[0].file_name().unwrap().to_str().unwrap()), kept);
    }
}

#[test]
fn damage_further_back_than_bytes_ever_waited_for_a_sync_is_rot() {
    for (batch, zeros, rows, records) in [
        (3, 0, &[Row::DamagedTail, Row::RotBeyondCap][..], 5),
        (4, 0, &[Row::TornGroup, Row::Reserved], 4),
        (5, 5000, &[Row::TornTail, Row::Reserved], 5),
        (3, 5000, &[Row::DamagedTail, Row::RotBeyondCap], 5),
    ] {
        let (bed, size) = six(Durability::PowerLoss);
        bed.overwrite(LOG, batch * size + 65, &[0xff]);
        // Space that was made ahead does not count.
        bed.overwrite(LOG, 6 * size, &vec![0; zeros]);
        reboot(&bed);
        edit(&bed, |slot| slot.unsynced_max = 2 * size as u32);
        let damaged: Vec<_> = (records == 5 && batch == 3).then_some((3, 4)).into_iter().collect();
        check(&bed, Durability::PowerLoss, rows, records, &damaged, &format!("{batch} {zeros}"));
    }
}

#[test]
fn below_the_frontier_nothing_is_cut() {
    for level in [Durability::PowerLoss, Durability::ProcessCrash] {
        for batch in [3, 5] {
            let (bed, size) = six(level);
            bed.overwrite(LOG, batch * size, &vec![0; size as usize]);
            reboot(&bed);
            edit(&bed, |slot| (slot.frontier, slot.reserved) = (Offset::new(6), Offset::ZERO));
            let rows = &[Row::DamagedTail];
            check(&bed, level, rows, 5, &[(batch as i64, batch as i64 + 1)], &format!("{level} {batch}"));
        }
    }
}

/// The base offset lies in a sector that did not reach the disk, the rest of the batch in one that did.
#[test]
fn a_write_without_its_first_bytes_is_finished_before_the_log_goes_on_elsewhere() {
    let (bed, size) = six(Durability::ProcessCrash);
    bed.overwrite(LOG, 5 * size, &[0; 8]);
    reboot(&bed);
    edit(&bed, |slot| slot.log_end = Offset::new(6));
    let log = bed.open(config(Durability::ProcessCrash));
    assert_eq!(findings(&log, FindingKind::Corrected), [(5, 6)]);
    bed.kill(log);
    check(&bed, Durability::ProcessCrash, &[Row::Scanned, Row::Reserved], 6, &[], "");
}

/// Three segments of a log whose bytes were never synced.
fn three_unsynced() -> Bed {
    let bed = Bed::new();
    let log = bed.open(config(Durability::ProcessCrash).segment_bytes(160));
    for n in 0..6 {
        let appended = log.append_records([format!("value {n}")]).unwrap();
        log.wait(appended.position, Durability::ProcessCrash).unwrap();
    }
    assert_eq!(log.inner().segments.load().len(), 3);
    bed.kill(log);
    bed
}

#[test]
fn a_power_cut_takes_the_end_of_a_log_that_need_not_survive_one() {
    // Flipped, or gone with the length of the file.
    for cut in [false, true] {
        let bed = three_unsynced();
        let len = bed.file(LOG).len() as u64;
        if cut {
            bed.storage.open(&bed.dir.join(LOG), OpenMode::Write).unwrap().set_len(len / 2).unwrap();
        } else {
            bed.overwrite(LOG, len - 3, &[0xff]);
        }
        reboot(&bed);
        let log = bed.open(config(Durability::ProcessCrash));
        let recovery = log.recovery().clone();
        let rows = [Row::RolledUnsealed, Row::TornUnsynced, Row::Reserved];
        assert_eq!(recovery.rows, rows, "{recovery}");
        assert_eq!(outcome(&log).records.into_keys().collect::<Vec<_>>(), [0]);
        assert_eq!((outcome(&log).damaged, recovery.damaged.len()), (vec![], 0));
        // A batch ends with a zero, which is nothing to keep.
        assert_eq!(recovery.cut_bytes, if cut { 2 * len } else { 5 * len / 2 - 1 });
        assert_eq!(recovery.kept.len(), if cut { 2 } else { 3 });
        // How far it went is told.
        let told = findings(&log, FindingKind::TornTail);
        assert_eq!(told.last(), Some(&(1, 6)), "{told:?}");
        assert!(put(&log, &["new"]).base_offset >= 6, "they may be known outside");
        log.close().unwrap();
        assert_eq!(bed.open(config(Durability::ProcessCrash)).recovery().rows, [Row::Clean]);
    }
}

#[test]
fn a_power_cut_may_leave_the_last_segment_behind_one_that_it_emptied() {
    let bed = three_unsynced();
    bed.storage.open(&bed.dir.join("00000000000000000002.log"), OpenMode::Write).unwrap().set_len(0).unwrap();
    bed.storage.remove_file(&bed.dir.join("leader-epoch-checkpoint")).unwrap();
    reboot(&bed);
    let log = bed.open(config(Durability::ProcessCrash));
    assert!(log.recovery().rows.contains(&Row::TornUnsynced), "{}", log.recovery());
    assert_eq!(outcome(&log).records.into_keys().collect::<Vec<_>>(), [0, 1]);
    assert_eq!((outcome(&log).damaged, log.recovery().damaged.len()), (vec![], 0));
    assert!(put(&log, &["new"]).base_offset >= 6, "they may be known outside");
}

#[test]
fn a_producer_snapshot_that_power_took_is_made_anew_before_anybody_vouches_for_it() {
    let bed = three_unsynced();
    let name = "00000000000000000004.snapshot";
    bed.storage.open(&bed.dir.join(name), OpenMode::CreateIfAbsent).unwrap().set_len(0).unwrap();
    reboot(&bed);
    let log = bed.open(config(Durability::ProcessCrash));
    assert!(log.recovery().rows.contains(&Row::DerivedRebuilt), "{}", log.recovery());
    log.close().unwrap();
    assert_ne!(bed.file(name), b"");
}

#[test]
fn offsets_that_were_left_out_are_not_missed_when_power_takes_what_came_above_them() {
    let (disk, level) = (SimStorage::new(), Durability::ProcessCrash);
    let open = |disk: &SimStorage| {
        let clock = ManualClock::new(Timestamp::new(T));
        Log::open_on(Arc::new(disk.clone()), Arc::new(clock), "t-0", config(level).segment_bytes(160)).unwrap()
    };
    let append = |log: &Log| {
        let appended = log.append_records(["value"]).unwrap();
        log.wait(appended.position, level).unwrap();
    };
    let log = open(&disk);
    append(&log);
    log.sync().unwrap();
    append(&log);
    drop(log);
    let cut = disk.crash(Choice::Nothing);
    // The log start among them begins an epoch of its own in the file.
    for below_end in [0, 1000] {
        let disk = cut.crash(Choice::Nothing);
        let log = open(&disk);
        assert!(log.recovery().rows.contains(&Row::Reserved), "{}", log.recovery());
        if below_end > 0 {
            log.advance_log_start(log.offsets().end + -below_end).unwrap();
        }
        (0..5).for_each(|_| append(&log));
        for seed in 0..200 {
            let log = open(&disk.crash(Choice::Random(seed)));
            assert_eq!(log.recovery().damaged, [], "{below_end} {seed}: {}", log.recovery());
            assert_eq!(findings(&log, FindingKind::Lost), [], "{below_end} {seed}");
        }
    }
}

#[test]
fn a_first_segment_that_is_gone_is_missed_without_a_seal() {
    let lost = (Offset::new(0), Offset::new(2));
    for (level, is_power_cut, is_lost) in [
        (Durability::PowerLoss, false, true),
        (Durability::PowerLoss, true, true),
        (Durability::ProcessCrash, false, true),
        (Durability::ProcessCrash, true, false),
    ] {
        let bed = Bed::new();
        let config = config(level).segment_bytes(160);
        let log = bed.open(config.clone());
        for n in 0..6 {
            let appended = log.append_records([format!("value {n}")]).unwrap();
            log.wait(appended.position, level).unwrap();
        }
        bed.kill(log);
        bed.storage.remove_file(&bed.dir.join(LOG)).unwrap();
        if is_power_cut {
            reboot(&bed);
        }
        let what = format!("{level} {is_power_cut}");
        let log = bed.open(config.clone());
        let told = |log: &Log| log.recovery().damaged.iter().map(|gone| (gone.start, gone.end)).collect::<Vec<_>>();
        assert_eq!(log.recovery().rows.contains(&Row::MissingSegment), is_lost, "{what}: {}", log.recovery());
        assert_eq!(told(&log), if is_lost { vec![lost] } else { vec![] }, "{what}");
        assert_eq!(outcome(&log).damaged, if is_lost { vec![(0, 2)] } else { vec![] }, "{what}");
        assert_eq!(log.offsets().log_start, if is_lost { lost.0 } else { lost.1 }, "{what}");
        let kind = if is_lost { FindingKind::Lost } else { FindingKind::Skipped };
        assert!(findings(&log, kind).contains(&(0, 2)), "{what}: {:?}", findings(&log, kind));
        put(&log, &["more"]);
        assert_eq!(outcome(&log).records.len(), 5, "{what}");
        log.close().unwrap();
        let log = bed.open(config.clone());
        assert_eq!(told(&log), if is_lost { vec![lost] } else { vec![] }, "{what}");
        log.advance_log_start(2).unwrap();
        log.close().unwrap();
        let log = bed.open(config);
        assert_eq!((log.recovery().rows.as_slice(), told(&log)), (&[Row::Clean][..], vec![]), "{what}: given up");
        log.truncate(0).unwrap();
    }
}

#[test]
fn a_segment_that_ended_was_synced_before_the_next_began() {
    let bed = Bed::new();
    let log = bed.open(config(Durability::PowerLoss));
    fill(&log, 0..4);
    log.roll().unwrap();
    fill(&log, 4..6);
    bed.kill(log);
    bed.overwrite(LOG, bed.file(LOG).len() as u64 - 3, &[0xff]);
    reboot(&bed);
    edit(&bed, |slot| slot.frontier = Offset::ZERO);
    check(&bed, Durability::PowerLoss, &[Row::RolledUnsealed, Row::DamagedSegment], 5, &[(3, 4)], "");
}

#[test]
fn a_log_whose_slot_is_lost_goes_by_its_seals() {
    for (batch, rows, records) in
        [(1, &[Row::StateLost, Row::TornTail, Row::Reserved][..], 5), (0, &[Row::StateLost, Row::DamagedTail], 5)]
    {
        let bed = Bed::new();
        let log = bed.open(config(Durability::PowerLoss));
        fill(&log, 0..4);
        log.roll().unwrap();
        fill(&log, 4..6);
        log.run_maintenance().unwrap();
        let last = format!("{:020}.log", 4);
        let active = log.inner().appender.lock().active.written();
        bed.kill(log);
        bed.storage.remove_file(&bed.dir.join("log.state")).unwrap();
        without_room(&*bed.storage, &bed.dir.join(&last), active);
        let size = bed.file(&last).len() as u64 / 2;
        bed.overwrite(&last, batch * size + 65, &[0xff]);
        let damaged: Vec<_> = (batch == 0).then_some((4, 5)).into_iter().collect();
        check(&bed, Durability::PowerLoss, rows, records, &damaged, &format!("{batch}"));
    }
}

#[test]
fn the_offsets_of_a_last_batch_that_is_cut_for_its_base_offset_are_all_left_out() {
    let (bed, size) = six(Durability::PowerLoss);
    let log = bed.open(config(Durability::PowerLoss));
    assert_eq!(put(&log, &["one", "two", "three"]).last_offset, 8);
    bed.kill(log);
    bed.storage.remove_file(&bed.dir.join("log.state")).unwrap();
    bed.overwrite(LOG, 6 * size, &[0; 8]);
    let log = bed.open(config(Durability::PowerLoss));
    assert_eq!(log.recovery().rows, [Row::StateLost, Row::TornTail, Row::Reserved]);
    assert_eq!(put(&log, &["more"]).base_offset, 9);
}

#[test]
fn a_damaged_marker_leaves_its_transaction_undecided_and_that_is_told() {
    let bed = Bed::new();
    let log = bed.open(config(Durability::PowerLoss));
    let mut ends = Vec::new();
    for (sequence, outcome) in [(0, TxnOutcome::Abort), (1, TxnOutcome::Commit)] {
        let mut batch = BatchBuilder::new().producer(ProducerId::new(7), 0, sequence).transactional();
        batch.push(Timestamp::new(T), &Record::new(format!("value {sequence}"))).unwrap();
        log.append(&batch.finish().unwrap(), LeaderEpoch::new(0)).unwrap();
        log.sync().unwrap();
        ends.push(log.size_bytes());
        let marker = EndMarker { outcome, coordinator_epoch: 0 };
        let marker = BatchBuilder::end_marker(marker, ProducerId::new(7), 0, Timestamp::new(T)).unwrap();
        log.append(&marker, LeaderEpoch::new(0)).unwrap();
        log.sync().unwrap();
    }
    bed.kill(log);
    bed.overwrite(LOG, ends[0] + 65, &[0xff]);
    let log = bed.open(config(Durability::PowerLoss));
    let (damaged, undecided) = (Offset::new(1)..Offset::new(2), Offset::new(0)..Offset::new(1));
    let recovery = log.recovery();
    assert_eq!((recovery.damaged.as_slice(), recovery.undecided.as_slice()), (&[damaged][..], &[undecided][..]));
    assert!(recovery.to_string().ends_with(" undecided=0..1"), "{recovery}");
    assert!(findings(&log, FindingKind::Damaged).contains(&(0, 1)));
}

#[test]
fn what_is_derived_and_missing_is_made_anew() {
    for name in ["00000000000000000000.index", "00000000000000000000.timeindex", LEADER_EPOCHS] {
        let (bed, _) = six(Durability::PowerLoss);
        bed.storage.remove_file(&bed.dir.join(name)).unwrap();
        check(&bed, Durability::PowerLoss, &[Row::Scanned, Row::DerivedRebuilt], 6, &[], name);
    }
}

#[test]
fn a_truncation_that_a_crash_cut_short_is_finished() {
    // Nothing but the note of it is on disk.
    for (to, records) in [(5, 5), (4, 4), (2, 2), (0, 0)] {
        let bed = Bed::new();
        let log = bed.open(config(Durability::PowerLoss).segment_bytes(160));
        fill(&log, 0..6);
        log.run_maintenance().unwrap();
        assert_eq!(log.inner().segments.load().len(), 3);
        bed.kill(log);
        for name in bed.names().iter().filter(|name| name.ends_with(".log")) {
            // What was written beside it is not synced either.
            let path = bed.dir.join(name).with_extension("txnindex");
            bed.storage.open(&path, OpenMode::CreateNew).unwrap().write_all_at(&[0; 34], 0).unwrap();
        }
        edit(&bed, |slot| {
            let end = Offset::new(to);
            (slot.truncating, slot.log_end, slot.frontier, slot.recovery_point) =
                (true, end, end, end.min(slot.recovery_point));
        });
        let log = bed.open(config(Durability::PowerLoss));
        assert!(log.recovery().rows.contains(&Row::TruncationFinished), "{to}: {}", log.recovery());
        assert_eq!((log.offsets().end.get(), outcome(&log).records.len()), (to, records), "{to}");
        assert_eq!((log.recovery().damaged.len(), outcome(&log).damaged), (0, vec![]), "{to}");
        let findings = log.inner().context.findings.all();
        assert!(findings.iter().all(|f| f.kind != FindingKind::Lost), "{to}: {findings:?}");
        fill(&log, to..to + 3);
        // What came since is not truncated.
        bed.kill(log);
        let log = bed.open(config(Durability::PowerLoss));
        assert!(!log.recovery().rows.contains(&Row::TruncationFinished));
        assert_eq!(outcome(&log).records.len() as i64, to + 3);
    }
}

#[test]
fn what_a_truncation_that_left_nothing_removed_does_not_come_back() {
    let disk = SimStorage::new();
    disk.create_dir(Path::new("data")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    let on = |disk: &SimStorage| Bed { storage: Arc::new(disk.clone()), ..Bed::new() };
    let bed = on(&disk);
    let log = bed.open(config(Durability::PowerLoss).segment_bytes(160));
    fill(&log, 0..6);
    log.advance_log_start(2).unwrap();
    log.run_maintenance().unwrap();
    bed.kill(log);
    edit(&bed, |slot| {
        let end = Offset::new(1);
        (slot.truncating, slot.log_end, slot.frontier, slot.recovery_point, slot.log_start) =
            (true, end, end, end, end);
    });
    bed.kill(bed.open(config(Durability::PowerLoss)));
    let log = on(&disk.crash(Choice::Nothing)).open(config(Durability::PowerLoss));
    assert_eq!((log.offsets().end.get(), outcome(&log).records.len()), (1, 0), "{}", log.recovery());
}

/// A log of three segments on a disk that can err, killed before its recovery point rose.
fn on_a_bad_disk() -> (SimStorage, impl Fn() -> Log) {
    let disk = SimStorage::new();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::new(T)));
    let opener = disk.clone();
    let open = move || {
        let config = config(Durability::PowerLoss).segment_bytes(160);
        Log::open_on(Arc::new(opener.clone()), Arc::clone(&clock), "t-0", config).unwrap()
    };
    let log = open();
    fill(&log, 0..6);
    let active = log.inner().appender.lock().active.written();
    drop(log);
    without_room(&disk, Path::new("t-0/00000000000000000004.log"), active);
    (disk, open)
}

#[test]
fn a_read_that_fails_is_tried_again_and_then_is_rot() {
    for (segment, lost) in [(0, (0, 2)), (2, (2, 4)), (4, (4, 5))] {
        let path = format!("{segment:020}.log");
        let fault = |repeat| Fault::new(Errno::Io, repeat).on(Operation::Read).path(path.as_str());
        let (disk, open) = on_a_bad_disk();
        disk.add_fault(fault(Repeat::Once));
        let log = open();
        assert_eq!((log.recovery().rows[0], outcome(&log).records.len()), (Row::Scanned, 6), "{}", log.recovery());
        drop(log);
        disk.add_fault(fault(Repeat::Forever));
        let log = open();
        let end = log.offsets().end;
        assert!(log.recovery().rows.contains(&Row::Unreadable), "{}", log.recovery());
        assert_eq!((log.recovery().cut_bytes, end >= 6 || segment == 4), (0, true), "never the end of a file");
        assert_eq!(outcome(&log).damaged[0].0, lost.0);
        assert_eq!(put(&log, &["new"]).base_offset, end);
        drop(log);
        disk.mend();
        assert!(all(&open()).len() >= 6, "nothing was cut off");
    }
}

#[test]
fn a_disk_without_space_to_keep_what_is_cut_keeps_no_log_from_opening() {
    let (disk, open) = on_a_bad_disk();
    let file = disk.open(Path::new("t-0/00000000000000000004.log"), OpenMode::Write).unwrap();
    let len = file.len().unwrap();
    file.write_all_at(&[7; 50], len).unwrap();
    disk.add_fault(Fault::new(Errno::NoSpace, Repeat::Forever).path(".cut"));
    let log = open();
    assert!(log.recovery().rows.contains(&Row::TornTail), "{}", log.recovery());
    assert_eq!((log.recovery().cut_bytes, &log.recovery().kept[..]), (50, &[][..]));
    let findings = log.inner().context.findings.all();
    assert!(findings.iter().any(|f| f.message.contains("could not be kept")), "{findings:?}");
    assert_eq!(all(&log), numbered(0..6));
}

#[test]
fn the_report_is_one_line() {
    let (bed, _) = six(Durability::PowerLoss);
    let whole = bed.file(LOG).len() as u64;
    bed.overwrite(LOG, whole, &[7; 9]);
    let log = bed.open(config(Durability::PowerLoss));
    let line = log.recovery().to_string();
    let start =
        format!("rows=TornTail,Reserved scanned={whole} cut=9 damaged=- kept=data/t-0/{:020}-{whole}.cut took_ms=", 0);
    assert!(line.starts_with(&start), "{line}");
}

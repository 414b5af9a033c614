//! Offsets that are missing for a good reason, and what goes on behind damage: neither hides nor moves a record.

use super::damage::{Outcome, findings, outcome};
use super::*;
use crate::finding::FindingKind;
use crate::record::BatchHeader;

const LOG: &str = "00000000000000000000.log";

fn replica(log: &Log, base: i64, epoch: i32) {
    let mut batch = BatchBuilder::new().base_offset(Offset::new(base)).leader_epoch(LeaderEpoch::new(epoch));
    batch.push(Timestamp::new(T), &Record::new(format!("value {base}"))).unwrap();
    let appended = log.append_replica(&batch.finish().unwrap()).unwrap();
    log.wait(appended.position, Durability::PowerLoss).unwrap();
}

fn records(offsets: impl IntoIterator<Item = i64>) -> Vec<(i64, String)> {
    offsets.into_iter().map(|n| (n, format!("value {n}"))).collect()
}

fn told(log: &Log) -> Vec<String> {
    log.inner().context.findings.all().iter().map(ToString::to_string).collect()
}

fn sound(seen: Outcome) -> Vec<(i64, String)> {
    assert_eq!(seen.damaged, []);
    seen.records.into_iter().collect()
}

#[test]
fn a_gap_that_a_leader_left_is_kept() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    for (base, epoch) in [(0, 0), (1, 0), (100, 1)] {
        replica(&log, base, epoch);
    }
    assert_eq!(sound(outcome(&log)), records([0, 1, 100]));
    assert_eq!(told(&log), [""; 0]);
    log.close().unwrap();
    let log = bed.open(LogConfig::default());
    assert_eq!(sound(outcome(&log)), records([0, 1, 100]));
    bed.kill(log);
    let log = bed.open(LogConfig::default());
    assert_eq!(sound(outcome(&log)), records([0, 1, 100]));
    assert_eq!(told(&log), [""; 0]);
}

#[test]
fn a_log_that_was_cut_behind_damage_goes_on_there() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    fill(&log, 0..6);
    let batch = log.size_bytes() / 6;
    bed.overwrite(LOG, 2 * batch + 70, &[0xff]);
    log.truncate(3).unwrap();
    assert_eq!(put(&log, &["value 3"]).base_offset, 3);
    for _ in 0..2 {
        let seen = outcome(&log);
        assert_eq!(seen.damaged, [(2, 3)]);
        assert_eq!(seen.records.into_iter().collect::<Vec<_>>(), records([0, 1, 3]));
    }
}

#[test]
fn rot_in_a_killed_log_costs_what_is_rotten_alone() {
    for (durability, level) in [
        (Durability::PowerLoss, Durability::PowerLoss),
        (Durability::PowerLoss, Durability::ProcessCrash),
        (Durability::PowerLoss, Durability::None),
        (Durability::ProcessCrash, Durability::ProcessCrash),
    ] {
        let config = || LogConfig::default().durability(durability);
        let bed = Bed::new();
        let log = bed.open(config());
        for n in 0..9 {
            let appended = log.append_records([format!("value {n}")]).unwrap();
            log.wait(appended.position, level).unwrap();
        }
        log.sync().unwrap();
        let batch = log.size_bytes() / 9;
        bed.kill(log);
        bed.overwrite(LOG, 4 * batch + 70, &[0xff]);
        for _ in 0..2 {
            let log = bed.open(config());
            let seen = outcome(&log);
            assert_eq!(seen.damaged, [(4, 5)], "{durability:?} {level:?} {:?}", told(&log));
            assert_eq!(findings(&log, FindingKind::Lost), []);
            log.append_records(["after"]).unwrap();
            log.sync().unwrap();
            assert_eq!(outcome(&log).damaged, [(4, 5)], "{durability:?} {level:?} {:?}", told(&log));
            log.close().unwrap();
        }
    }
}

#[test]
fn what_is_staged_while_a_segment_is_surveyed_stays_indexed() {
    let bed = Bed::new();
    let config = || LogConfig::default().index_interval_bytes(0);
    let log = bed.open(config());
    // More than the proof of a clean close covers.
    fill(&log, 0..100);
    let batch = log.size_bytes() / 100;
    log.close().unwrap();
    bed.overwrite(LOG, batch + 70, &[0xff]);
    let log = bed.open(config());
    assert_eq!(log.recovery().rows, [RecoveryRow::Clean]);
    for n in 100..103 {
        log.append_records([Record::new(format!("value {n}")).timestamp(T + n)]).unwrap();
    }
    assert_eq!(outcome(&log).damaged, [(1, 2)]);
    log.sync().unwrap();
    let at = |time| log.offset_at(time, Isolation::ReadUncommitted).unwrap().map(|found| found.offset.get());
    assert_eq!((at(T + 100), at(T + 102)), (Some(100), Some(102)));
}

#[test]
fn a_smaller_index_size_is_no_fault_of_the_files() {
    let bed = Bed::new();
    let config = || LogConfig::default().index_interval_bytes(0);
    let log = bed.open(config());
    fill(&log, 0..50);
    log.close().unwrap();
    let log = bed.open(config().segment_index_bytes(100));
    assert_eq!(sound(outcome(&log)), records(0..50));
    assert!(log.offset_at(T, Isolation::ReadUncommitted).unwrap().is_some());
    fill(&log, 50..60);
    assert_eq!(told(&log), [""; 0]);
}

#[test]
fn no_files_of_deleted_segments_come_back() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill(&log, 0..20);
    log.close().unwrap();
    bed.storage.remove_file(&bed.dir.join("log.state")).unwrap();
    let context = LogContext { log_start: Offset::new(15), ..super::damage::context(&bed, Outside::default(), 0) };
    let log = Log::open_in(context, &bed.dir, small()).unwrap();
    assert_eq!(log.offsets().log_start, 15);
    fill(&log, 20..22);
    log.close().unwrap();
    let names = bed.names();
    let stems =
        |end: &str| -> Vec<String> { names.iter().filter_map(|n| n.strip_suffix(end)).map(str::to_owned).collect() };
    assert_eq!(stems(".log"), stems(".index"), "{names:?}");
}

#[test]
fn our_own_closed_logs_are_never_found_fault_with() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill(&log, 0..20);
    log.advance_log_start(7).unwrap();
    log.truncate(15).unwrap();
    log.append_records([Record::new("no time").timestamp(Timestamp::NONE)]).unwrap();
    log.roll().unwrap();
    let mut batch = BatchBuilder::new().producer(ProducerId::new(7), 0, 0).transactional();
    batch.push(Timestamp::new(T), &Record::new("aborted")).unwrap();
    log.append(&batch.finish().unwrap(), LeaderEpoch::new(3)).unwrap();
    let end = EndMarker { outcome: TxnOutcome::Abort, coordinator_epoch: 0 };
    log.append(&BatchBuilder::end_marker(end, ProducerId::new(7), 0, Timestamp::new(T)).unwrap(), LeaderEpoch::new(3))
        .unwrap();
    fill(&log, 18..25);
    log.roll().unwrap();
    log.close().unwrap();
    for _ in 0..3 {
        let log = bed.open(small());
        assert_eq!(outcome(&log).damaged, []);
        log.offset_at(T, Isolation::ReadCommitted).unwrap();
        log.apply_retention(Some(Duration::from_secs(3600)), None).unwrap();
        assert_eq!(told(&log), [""; 0]);
        put(&log, &["more"]);
        log.close().unwrap();
    }
}

#[test]
fn offsets_left_out_stay_so_when_nothing_is_appended_before_the_next_close() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    fill(&log, 0..3);
    let weak = log.append_records(["weak"]).unwrap();
    log.wait(weak.position, Durability::None).unwrap();
    bed.kill(log);
    for closes in 0..3 {
        let log = bed.open(LogConfig::default());
        assert_eq!(sound(outcome(&log)), records(0..3), "closed {closes} times");
        assert!(log.lowest_epoch() > log.leader_epoch());
        log.close().unwrap();
    }
    let log = bed.open(LogConfig::default());
    let base = put(&log, &["value 3"]).base_offset;
    assert!(base > 3);
    assert_eq!(outcome(&log).damaged, []);
    log.close().unwrap();
    let log = bed.open(LogConfig::default());
    assert_eq!(outcome(&log).damaged, []);
    assert_eq!(log.recovery().rows, [RecoveryRow::Clean]);
}

#[test]
fn a_log_that_lost_all_its_batches_goes_on_in_a_higher_epoch() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    let appended = log.append_records(["never written"]).unwrap();
    log.wait(appended.position, Durability::None).unwrap();
    bed.kill(log);
    let log = bed.open(LogConfig::default());
    let appended = put(&log, &["value"]);
    assert!(appended.base_offset > 0);
    assert_eq!(log.leader_epoch(), LeaderEpoch::new(1));
}

#[test]
fn an_epoch_that_one_recovery_learnt_is_not_doubted_by_the_next() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    replica(&log, 0, 0);
    let before = bed.file(checkpoint::LEADER_EPOCHS);
    replica(&log, 1, 1);
    bed.kill(log);
    // A power cut has taken the newer file.
    let path = bed.dir.join(checkpoint::LEADER_EPOCHS);
    crate::storage::replace_file(&*bed.storage, &path, &before).unwrap();
    for _ in 0..2 {
        let log = bed.open(LogConfig::default());
        assert_eq!(told(&log), [""; 0]);
        assert_eq!(log.leader_epoch(), LeaderEpoch::new(1));
        bed.kill(log);
    }
}

/// A log whose next append goes to an offset far above: one below was acknowledged, and is gone.
fn with_gap(bed: &Bed, records: std::ops::Range<i64>) -> Log {
    let log = bed.open(LogConfig::default());
    fill(&log, records);
    let weak = log.append_records(["weak"]).unwrap();
    log.wait(weak.position, Durability::None).unwrap();
    bed.kill(log);
    bed.open(LogConfig::default())
}

/// The epoch of a batch lies outside its checksum; where one rose stands in a file of its own.
#[test]
fn a_rotten_epoch_above_left_out_offsets_loses_none_of_them() {
    let bed = Bed::new();
    let log = with_gap(&bed, 0..3);
    log.roll().unwrap();
    let above = put(&log, &["above"]).base_offset.get();
    put(&log, &["next"]);
    log.close().unwrap();
    bed.overwrite(&format!("{above:020}.log"), 12, &[0; 4]);
    let log = bed.open(LogConfig::default());
    let expected: Vec<_> = [(above, "above".to_owned()), (above + 1, "next".to_owned())].into();
    let expected = [records(0..3), expected].concat();
    assert_eq!(sound(outcome(&log)), expected);
    assert_eq!(told(&log).len(), 1, "the epoch alone");
}

#[test]
fn a_wrong_base_offset_below_left_out_offsets_stays_corrected() {
    let bed = Bed::new();
    let log = with_gap(&bed, 0..3);
    let batch = log.size_bytes() / 3;
    bed.kill(log);
    bed.overwrite(LOG, 2 * batch + 2, &[0x5b]);
    let log = bed.open(LogConfig::default());
    assert_eq!(sound(outcome(&log)), records(0..3));
    let above = put(&log, &["above"]).base_offset.get();
    let expected: Vec<_> = records(0..3).into_iter().chain([(above, "above".to_owned())]).collect();
    bed.kill(log);
    for _ in 0..2 {
        let log = bed.open(LogConfig::default());
        assert_eq!(sound(outcome(&log)), expected);
        log.close().unwrap();
    }
}

#[test]
fn a_batch_that_claims_the_next_segments_offsets_hides_none_of_its_records() {
    for is_known in [false, true] {
        let bed = Bed::new();
        let log = bed.open(LogConfig::default());
        fill(&log, 0..2);
        log.roll().unwrap();
        fill(&log, 2..4);
        log.close().unwrap();
        if !is_known {
            bed.storage.remove_file(&bed.dir.join("log.state")).unwrap();
        }
        let size = bed.file(LOG).len() / 2;
        let mut claiming = bed.file(LOG)[size..].to_vec();
        // The last offset's distance to the base offset.
        claiming[23..27].copy_from_slice(&100_i32.to_be_bytes());
        bed.overwrite(LOG, size as u64, &BatchHeader::repaired(&claiming).unwrap());
        for _ in 0..2 {
            let log = bed.open(LogConfig::default());
            let seen = outcome(&log);
            assert_eq!(seen.damaged, [(1, 2)], "{is_known}");
            assert_eq!(seen.records.into_iter().collect::<Vec<_>>(), records([0, 2, 3]), "{is_known}");
            log.close().unwrap();
        }
    }
}

#[test]
fn a_log_start_among_left_out_offsets_makes_no_hole() {
    for back in [0, 1, 1000] {
        let bed = Bed::new();
        let log = with_gap(&bed, 0..3);
        let (start, file) = (log.offsets().end + -back, bed.file(LOG));
        log.advance_log_start(start).unwrap();
        bed.kill(log);
        // The file's deletion was not durable yet.
        crate::storage::replace_file(&*bed.storage, &bed.dir.join(LOG), &file).unwrap();
        let log = bed.open(LogConfig::default());
        let base = put(&log, &["above"]).base_offset;
        assert_eq!((log.offsets().log_start, base), (start, start + back));
        let expected = [(base.get(), "above".to_owned())];
        assert_eq!(sound(outcome(&log)), expected, "{back}");
        bed.kill(log);
        for _ in 0..2 {
            let log = bed.open(LogConfig::default());
            assert_eq!((log.offsets().log_start, findings(&log, FindingKind::Lost).len()), (start, 0), "{back}");
            assert_eq!(sound(outcome(&log)), expected, "{back}");
            log.close().unwrap();
        }
    }
}

#[test]
fn what_goes_on_above_a_gap_does_so_in_a_higher_epoch_however_often_it_was_opened() {
    let bed = Bed::new();
    with_gap(&bed, 0..3).close().unwrap();
    let log = bed.open(LogConfig::default());
    log.advance_log_start(1).unwrap();
    bed.kill(log);
    bed.open(LogConfig::default()).close().unwrap();
    let log = bed.open(LogConfig::default());
    put(&log, &["above"]);
    assert_eq!((log.leader_epoch(), outcome(&log).damaged), (LeaderEpoch::new(1), vec![]));
}

#[test]
fn a_power_cut_that_took_the_directory_is_told_of_once() {
    let before = Cuttable::new();
    let log = before.open(LogConfig::default());
    let weak = log.append_records(["weak"]).unwrap();
    log.wait(weak.position, Durability::None).unwrap();
    let after = before.after_cut(0);
    let log = after.open(LogConfig::default());
    assert_eq!(findings(&log, FindingKind::Skipped).len(), 1);
    let end = log.offsets().end;
    log.close().unwrap();
    let log = after.open(LogConfig::default());
    assert_eq!((log.offsets().end, told(&log)), (end, vec![]));
    assert_eq!(log.recovery().rows, [RecoveryRow::Clean, RecoveryRow::Reserved]);
    put(&log, &["above"]);
    assert_eq!((log.leader_epoch(), outcome(&log).damaged), (LeaderEpoch::new(1), vec![]));
}

/// Whether an epoch rose inside of it, or it was all of one.
#[test]
fn a_segment_that_is_gone_is_told_whole_where_an_epoch_rose_in_it() {
    let levels = [Durability::PowerLoss, Durability::ProcessCrash];
    for (level, epochs) in
        levels.into_iter().flat_map(|level| [[0, 0, 1, 1], [0, 1, 1, 2]].map(|epochs| (level, epochs)))
    {
        let bed = Bed::new();
        let log = bed.open(LogConfig::default().durability(level));
        let put_in = |epoch: i32| {
            for _ in 0..5 {
                let mut batch = BatchBuilder::new();
                batch.push(Timestamp::new(T), &Record::new("x")).unwrap();
                let appended = log.append(&batch.finish().unwrap(), LeaderEpoch::new(epoch)).unwrap();
                log.wait(appended.position, Durability::PowerLoss).unwrap();
            }
        };
        put_in(epochs[0]);
        log.roll().unwrap();
        put_in(epochs[1]);
        put_in(epochs[2]);
        log.roll().unwrap();
        put_in(epochs[3]);
        bed.kill(log);
        for name in bed.names().into_iter().filter(|name| name.starts_with("00000000000000000005")) {
            bed.storage.remove_file(&bed.dir.join(name)).unwrap();
        }
        let log = bed.open(LogConfig::default().durability(level));
        let what = format!("{level} {epochs:?}: {}", log.recovery());
        assert_eq!(log.recovery().damaged, [Offset::new(5)..Offset::new(15)], "{what}");
    }
}

/// A truncation among offsets that were left out leaves a log that goes on in the epoch of what was above.
#[test]
fn a_crash_that_brings_back_the_epochs_of_before_a_truncation_makes_no_hole() {
    for back in [1, 5] {
        let bed = Bed::new();
        let log = with_gap(&bed, 0..3);
        let above = put(&log, &["above"]).base_offset;
        let before = bed.file(checkpoint::LEADER_EPOCHS);
        log.truncate(above + -back).unwrap();
        let goes_on = above.get() - back..above.get() + 1;
        fill(&log, goes_on.clone());
        bed.kill(log);
        crate::storage::replace_file(&*bed.storage, &bed.dir.join(checkpoint::LEADER_EPOCHS), &before).unwrap();
        for name in bed.names().into_iter().filter(|name| name.ends_with(".snapshot")) {
            bed.storage.remove_file(&bed.dir.join(name)).unwrap();
        }
        let log = bed.open(LogConfig::default());
        assert_eq!(sound(outcome(&log)), records((0..3).chain(goes_on.clone())));
        assert_eq!(told(&log), [""; 0]);
        let lowest = log.read(goes_on.start, 1, Isolation::ReadUncommitted).unwrap().batches().next().unwrap();
        assert_eq!(lowest.unwrap().header().leader_epoch(), LeaderEpoch::new(1));
    }
}

#[test]
fn offsets_left_out_behind_a_segment_without_batches_are_not_lost_with_what_power_took_above() {
    let config = || LogConfig::default().durability(Durability::ProcessCrash).segment_bytes(400);
    let mut bed = Cuttable::new();
    let weak = |log: &Log| {
        let weak = log.append_records(["weak"]).unwrap();
        log.wait(weak.position, Durability::None).unwrap();
    };
    let log = bed.open(config());
    put(&log, &["kept"]);
    weak(&log);
    drop(log);
    let log = bed.open(config());
    let end = log.offsets().end + -5;
    log.truncate(end).unwrap();
    log.close().unwrap();
    drop(log);
    let log = bed.open(config());
    weak(&log);
    drop(log);
    let log = bed.open(config());
    for _ in 0..3 {
        // One fills a segment.
        let appended = log.append_records(["torn".repeat(60)]).unwrap();
        assert!(appended.base_offset > end);
        log.wait(appended.position, Durability::ProcessCrash).unwrap();
    }
    bed.disk = bed.disk.crash(Choice::OnlyMetadata);
    let log = bed.open(config());
    assert_eq!((sound(outcome(&log)), findings(&log, FindingKind::Lost)), (vec![(0, "kept".to_owned())], vec![]));
}

/// An opening cuts what is behind a gap that a power cut may have made, so that none is left to be passed over.
#[test]
fn a_segment_that_is_gone_from_a_closed_log_is_an_error_to_who_reads_its_offsets() {
    for level in [Durability::PowerLoss, Durability::ProcessCrash] {
        let bed = Bed::new();
        let config = LogConfig::default().durability(level);
        let log = bed.open(config.clone());
        for from in [0, 5, 10] {
            fill(&log, from..from + 5);
            log.roll().unwrap();
        }
        fill(&log, 15..20);
        log.close().unwrap();
        for name in bed.names().into_iter().filter(|name| name.starts_with("00000000000000000005")) {
            bed.storage.remove_file(&bed.dir.join(name)).unwrap();
        }
        let log = bed.open(config);
        let read = |offset: i64| log.read(offset, 1 << 20, Isolation::ReadUncommitted);
        for offset in [5, 9] {
            let error = read(offset).unwrap_err();
            let lost = Offset::new(5)..Offset::new(10);
            assert_eq!((error.kind(), error.at_offsets()), (ErrorKind::Corrupt, Some(lost)), "{level}: {error}");
        }
        assert_eq!(read(10).unwrap().next_offset(), 15, "{level}");
    }
}

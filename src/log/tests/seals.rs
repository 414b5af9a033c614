//! Seals of segments that ended, and what a log does by them.

use super::damage::{findings, outcome};
use super::*;
use crate::finding::FindingKind;

fn row(log: &Log, row: RecoveryRow) -> bool {
    log.recovery().rows.contains(&row)
}

/// Twelve records, four to a segment: closed, or killed after the recovery point has risen.
fn sealed(bed: &Bed, config: &LogConfig, close: bool) -> Vec<i64> {
    let log = bed.open(config.clone());
    for first in [0, 4, 8] {
        fill(&log, first..first + 4);
        log.roll().unwrap();
    }
    fill(&log, 12..14);
    if close {
        log.close().unwrap();
    } else {
        log.run_maintenance().unwrap();
        bed.kill(log);
    }
    vec![0, 4, 8]
}

fn name(base: i64, ending: &str) -> String {
    format!("{base:020}.{ending}")
}

fn config(level: Durability) -> LogConfig {
    LogConfig::default().durability(level)
}

#[test]
fn a_segment_that_ended_is_sealed_by_maintenance_and_by_a_close() {
    for close in [true, false] {
        let bed = Bed::new();
        let bases = sealed(&bed, &config(Durability::PowerLoss), close);
        let seals: Vec<_> = bed.names().into_iter().filter(|name| name.ends_with(".seal")).collect();
        assert_eq!(seals, bases.iter().map(|base| name(*base, "seal")).collect::<Vec<_>>());
    }
    // Also when it was begun by an earlier process.
    let bed = Bed::new();
    for round in 0..2 {
        let log = bed.open(LogConfig::default());
        fill(&log, round * 2..round * 2 + 2);
        log.close().unwrap();
    }
    let log = bed.open(LogConfig::default());
    log.roll().unwrap();
    fill(&log, 4..5);
    log.run_maintenance().unwrap();
    assert!(bed.names().contains(&name(0, "seal")));
    // And the account is the same as that of one look.
    bed.kill(log);
    let log = bed.open(LogConfig::default());
    log.inner().segments.load()[0].survey().unwrap();
    assert_eq!(outcome(&log).damaged, []);
}

#[test]
fn a_shorter_segment_is_damage_with_its_offsets_wherever_it_is_cut() {
    for level in [Durability::PowerLoss, Durability::ProcessCrash] {
        for close in [true, false] {
            for (cut, lost) in [(1, 7), (2, 6), (4, 4)] {
                let bed = Bed::new();
                sealed(&bed, &config(level), close);
                let file = bed.storage.open(&bed.dir.join(name(4, "log")), OpenMode::Write).unwrap();
                let len = file.len().unwrap();
                file.set_len(len / 4 * (4 - cut)).unwrap();
                let log = bed.open(config(level));
                assert_eq!(outcome(&log).damaged, [(lost, 8)], "{level} {close} {cut}");
                assert_eq!(outcome(&log).records.len() as i64, 14 - (8 - lost));
                assert_eq!(put(&log, &["value 14"]).base_offset, 14);
            }
        }
    }
}

#[test]
fn a_longer_segment_is_read_to_where_it_was_sealed() {
    for close in [true, false] {
        let bed = Bed::new();
        sealed(&bed, &config(Durability::PowerLoss), close);
        let len = bed.file(&name(4, "log")).len() as u64;
        bed.overwrite(&name(4, "log"), len, &[7; 90]);
        let log = bed.open(config(Durability::PowerLoss));
        let seen = outcome(&log);
        assert_eq!((seen.records.len(), seen.damaged.len()), (14, 0));
        assert_eq!(findings(&log, FindingKind::Damaged), [(8, 8)]);
        assert_eq!(bed.file(&name(4, "log")).len() as u64, len + 90, "nothing is cut off it");
    }
}

/// Row `SizeDiffers`, where the segment is scanned.
#[test]
fn the_scan_compares_sizes_with_seals() {
    for grow in [true, false] {
        let bed = Bed::new();
        sealed(&bed, &config(Durability::PowerLoss), false);
        let file = bed.storage.open(&bed.dir.join(name(8, "log")), OpenMode::Write).unwrap();
        let len = file.len().unwrap();
        file.set_len(if grow { len + 10 } else { len - 10 }).unwrap();
        // Without epochs everything is scanned.
        bed.storage.remove_file(&bed.dir.join(LEADER_EPOCHS)).unwrap();
        let log = bed.open(config(Durability::PowerLoss));
        assert!(row(&log, RecoveryRow::SizeDiffers) && row(&log, RecoveryRow::DerivedRebuilt), "{:?}", log.recovery());
        let lost = if grow { vec![] } else { vec![Offset::new(11)..Offset::new(12)] };
        assert_eq!(log.recovery().damaged, lost);
        assert_eq!(outcome(&log).damaged.len(), lost.len());
    }
}

/// Row `SealDiffers`: sound batches of the right length and offsets, which are not those that were sealed.
#[test]
fn a_segment_of_other_batches_is_damage() {
    let [one, other] = [Bed::new(), Bed::new()];
    for (bed, word) in [(&one, "value"), (&other, "VALUE")] {
        let log = bed.open(config(Durability::PowerLoss));
        for n in 0..4 {
            put(&log, &[&format!("{word} {n}")]);
        }
        log.roll().unwrap();
        put(&log, &["value 4"]);
        log.run_maintenance().unwrap();
        bed.kill(log);
    }
    one.overwrite(&name(0, "log"), 0, &other.file(&name(0, "log")));
    one.storage.remove_file(&one.dir.join(LEADER_EPOCHS)).unwrap();
    let log = one.open(config(Durability::PowerLoss));
    assert!(row(&log, RecoveryRow::SealDiffers), "{:?}", log.recovery());
    assert_eq!(log.recovery().damaged, [Offset::ZERO..Offset::new(4)]);
    assert_eq!(outcome(&log).damaged, [(0, 4)]);
    assert_eq!(outcome(&log).records.len(), 1);
    // What is damaged is not sealed anew, and is known without another scan, whatever lies behind it.
    log.close().unwrap();
    one.overwrite(&name(0, "log"), one.file(&name(0, "log")).len() as u64, &[1; 100]);
    let log = one.open(config(Durability::PowerLoss));
    assert_eq!((log.recovery().rows, outcome(&log).damaged), (vec![RecoveryRow::Clean], vec![(0, 4)]));
}

/// Row `MissingSegment`: at the front, in the middle, at the end, and all of them.
#[test]
fn a_segment_that_is_gone_is_told_by_its_seal() {
    for level in [Durability::PowerLoss, Durability::ProcessCrash] {
        for close in [true, false] {
            for gone in [vec![0], vec![4], vec![0, 4, 8]] {
                let bed = Bed::new();
                sealed(&bed, &config(level), close);
                for base in &gone {
                    bed.storage.remove_file(&bed.dir.join(name(*base, "log"))).unwrap();
                }
                let what = format!("{level} {close} {gone:?}");
                for open in 0..2 {
                    let log = bed.open(config(level));
                    assert!(row(&log, RecoveryRow::MissingSegment), "{what}: {:?}", log.recovery());
                    let ranges: Vec<_> = gone.iter().map(|base| (*base, base + 4)).collect();
                    assert_eq!(outcome(&log).damaged, ranges, "{what}");
                    assert_eq!(log.offsets().log_start, 0, "{what}: a log does not start later");
                    assert_eq!(put(&log, &["new"]).base_offset, 14 + open, "{what}");
                    log.close().unwrap();
                }
            }
        }
    }
}

#[test]
fn offsets_of_a_missing_last_segment_are_not_given_out_again() {
    let bed = Bed::new();
    let log = bed.open(config(Durability::PowerLoss));
    fill(&log, 0..2);
    log.roll().unwrap();
    fill(&log, 2..4);
    log.roll().unwrap();
    log.run_maintenance().unwrap();
    log.close().unwrap();
    for base in [2, 4] {
        bed.storage.remove_file(&bed.dir.join(name(base, "log"))).unwrap();
    }
    let log = bed.open(config(Durability::PowerLoss));
    assert_eq!(outcome(&log).damaged, [(2, 4)]);
    assert_eq!(put(&log, &["new"]).base_offset, 4);
}

#[test]
fn what_retention_and_truncation_delete_is_not_missed() {
    let bed = Bed::new();
    sealed(&bed, &config(Durability::PowerLoss), false);
    let log = bed.open(config(Durability::PowerLoss));
    log.advance_log_start(5).unwrap();
    assert!(!bed.names().contains(&name(0, "seal")));
    log.truncate(9).unwrap();
    assert!(!bed.names().contains(&name(8, "seal")), "it is no sealed segment any more");
    log.truncate(4).unwrap();
    assert!(!bed.names().iter().any(|name| name.ends_with(".seal")));
    fill(&log, 4..6);
    assert_eq!(outcome(&log).damaged, []);
    log.close().unwrap();
    assert_eq!(bed.open(config(Durability::PowerLoss)).recovery().rows, [RecoveryRow::Clean]);
    // A seal that a crash brought back.
    for (base, start) in [(0, 5), (4, 5)] {
        let bed = Bed::new();
        sealed(&bed, &config(Durability::PowerLoss), true);
        let kept = bed.file(&name(base, "seal"));
        let log = bed.open(config(Durability::PowerLoss));
        log.advance_log_start(start + base).unwrap();
        log.close().unwrap();
        bed.overwrite(&name(base, "seal"), 0, &kept);
        let log = bed.open(config(Durability::PowerLoss));
        assert_eq!(log.recovery().rows, [RecoveryRow::Clean]);
        assert!(!bed.names().contains(&name(base, "seal")));
    }
}

#[test]
fn truncating_below_a_missing_segment_forgets_it() {
    let bed = Bed::new();
    sealed(&bed, &config(Durability::PowerLoss), true);
    bed.storage.remove_file(&bed.dir.join(name(4, "log"))).unwrap();
    let log = bed.open(config(Durability::PowerLoss));
    assert_eq!(outcome(&log).damaged, [(4, 8)]);
    log.truncate(3).unwrap();
    fill(&log, 3..9);
    assert_eq!((outcome(&log).damaged, outcome(&log).records.len()), (vec![], 9));
    log.close().unwrap();
    let log = bed.open(config(Durability::PowerLoss));
    assert_eq!((log.recovery().rows.clone(), outcome(&log).records.len()), (vec![RecoveryRow::Clean], 9));
}

/// Rot in a sealed segment is no unfinished write, whatever the slot says.
#[test]
fn what_was_sealed_is_never_cut() {
    for level in [Durability::PowerLoss, Durability::ProcessCrash] {
        let bed = Bed::new();
        sealed(&bed, &config(level), false);
        bed.storage.remove_file(&bed.dir.join("log.state")).unwrap();
        let len = bed.file(&name(8, "log")).len() as u64;
        bed.overwrite(&name(8, "log"), len - 3, &[0xff]);
        let log = bed.open(config(level));
        assert!(row(&log, RecoveryRow::StateLost) && row(&log, RecoveryRow::DamagedSegment), "{:?}", log.recovery());
        assert_eq!((outcome(&log).damaged, log.recovery().cut_bytes), (vec![(11, 12)], 0));
    }
}

#[test]
fn a_newer_seal_is_refused_and_half_a_one_is_none() {
    let bed = Bed::new();
    sealed(&bed, &config(Durability::PowerLoss), true);
    let seal = bed.file(&name(0, "seal"));
    bed.storage.open(&bed.dir.join(name(0, "seal")), OpenMode::Write).unwrap().set_len(30).unwrap();
    let log = bed.open(config(Durability::PowerLoss));
    assert_eq!((outcome(&log).damaged, outcome(&log).records.len()), (vec![], 14));
    log.close().unwrap();
    let mut newer = seal;
    newer[19] = 9;
    let crc = crate::wire::crc32c(&newer[16..]).to_be_bytes();
    newer[12..16].copy_from_slice(&crc);
    bed.overwrite(&name(0, "seal"), 0, &newer);
    let log = bed.open(config(Durability::PowerLoss));
    let error = log.read(0, 100, Isolation::ReadCommitted).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("version 9"), "{error}");
}

/// The segment behind it may be gone, with all that was noted of it.
#[test]
fn nothing_is_appended_to_a_segment_that_was_sealed() {
    let bed = Bed::new();
    let log = bed.open(config(Durability::PowerLoss));
    fill(&log, 0..4);
    log.roll().unwrap();
    fill(&log, 4..5);
    log.run_maintenance().unwrap();
    bed.kill(log);
    for lost in ["log.state", &name(4, "log")] {
        bed.storage.remove_file(&bed.dir.join(lost)).unwrap();
    }
    let log = bed.open(config(Durability::PowerLoss));
    let first = put(&log, &["new"]).base_offset;
    let served = outcome(&log);
    assert_eq!(served.records.get(&first.get()).map(String::as_str), Some("new"));
    bed.kill(log);
    for _ in 0..2 {
        let log = bed.open(config(Durability::PowerLoss));
        assert_eq!(outcome(&log), served, "{:?}", log.recovery());
        log.close().unwrap();
    }
}

#[test]
fn a_disk_without_space_for_a_seal_keeps_no_log_from_closing() {
    let disk = SimStorage::new();
    let clock = Arc::new(ManualClock::new(Timestamp::new(T)));
    let open = || Log::open_on(Arc::new(disk.clone()), Arc::clone(&clock) as _, "t-0", LogConfig::default()).unwrap();
    let log = open();
    fill(&log, 0..3);
    log.roll().unwrap();
    fill(&log, 3..4);
    disk.add_fault(Fault::new(Errno::NoSpace, Repeat::Forever).path(".seal"));
    log.close().unwrap();
    drop(log);
    let log = open();
    assert_eq!(log.recovery().rows, [RecoveryRow::Clean]);
    assert_eq!(all(&log), numbered(0..4));
}

#[test]
fn no_seal_comes_into_being_behind_a_truncation() {
    let bed = Bed::new();
    let log = bed.open(config(Durability::PowerLoss));
    fill(&log, 0..2);
    log.roll().unwrap();
    fill(&log, 2..4);
    log.roll().unwrap();
    fill(&log, 4..5);
    // Maintenance took these in hand, and was overtaken.
    let segments = log.inner().segments.load_full();
    log.truncate(1).unwrap();
    segments.iter().for_each(|segment| segment.seal(|| true).unwrap());
    assert!(bed.names().iter().all(|name| !name.ends_with(".seal")), "{:?}", bed.names());
}

//! What an append that starts a new segment leaves to maintenance, and the limit of bytes that are not synced.

use super::*;
use crate::segment::FileKind;

const NEXT: &str = "next.log.deleted";

fn snapshots(bed: &Bed) -> usize {
    bed.names().iter().filter(|name| name.ends_with(".snapshot")).count()
}

/// Appends until the active segment is half full, or a new one has begun.
fn fill_half(log: &Log) {
    let segments = log.segment_count();
    let half = u64::from(small().segment_bytes / 2);
    while log.segment_count() == segments
        && log.inner().segments.load().last().is_some_and(|active| active.written() < half)
    {
        put(log, &["value"]);
    }
}

fn fill_segment(log: &Log) {
    let segments = log.segment_count();
    while log.segment_count() == segments {
        put(log, &["value"]);
    }
}

#[test]
fn a_roll_takes_the_file_that_maintenance_prepared() {
    let bed = Bed::new();
    let log = bed.open(small());
    put(&log, &["value"]);
    log.run_maintenance().unwrap();
    assert!(!bed.names().contains(&NEXT.to_owned()), "too early");
    assert!(!log.wants_tending());
    fill_half(&log);
    assert!(log.wants_tending() && !log.wants_tending());
    log.run_maintenance().unwrap();
    assert_eq!(bed.file(NEXT), vec![0; small().segment_bytes as usize]);
    fill_segment(&log);
    assert!(!bed.names().contains(&NEXT.to_owned()));
    let active = Arc::clone(log.inner().segments.load().last().unwrap());
    let name = active.path(FileKind::Log).file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(bed.file(&name).len(), small().segment_bytes as usize, "its room came with it");
    log.close().unwrap();
    let log = bed.open(small());
    assert_eq!(log.recovery().rows, [RecoveryRow::Clean]);
    assert_eq!(all(&log).len() as i64, log.offsets().end.get());
}

#[test]
fn a_prepared_file_is_there_neither_after_a_close_nor_after_the_next_opening() {
    for close in [true, false] {
        let bed = Bed::new();
        let log = bed.open(small());
        fill_half(&log);
        log.run_maintenance().unwrap();
        assert!(bed.names().contains(&NEXT.to_owned()));
        match close {
            true => log.close().unwrap(),
            false => {
                bed.kill(log);
                drop(bed.open(small()));
            }
        }
        assert!(!bed.names().contains(&NEXT.to_owned()), "closed: {close}");
    }
}

#[test]
fn segments_that_ended_are_completed_by_maintenance() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill_segment(&log);
    fill_segment(&log);
    let first = &log.inner().segments.load()[0];
    let index = |kind: FileKind| bed.file(first.path(kind).file_name().unwrap().to_str().unwrap()).len();
    assert_eq!((index(FileKind::TimeIndex), snapshots(&bed), log.recovery_point()), (0, 0, Offset::ZERO));
    assert!(log.wants_tending());
    log.run_maintenance().unwrap();
    assert!(index(FileKind::TimeIndex) > 0);
    let active = log.inner().segments.load().last().unwrap().base();
    assert_eq!((snapshots(&bed), log.recovery_point()), (2, active));
}

#[test]
fn without_maintenance_few_segments_wait_for_their_files() {
    let bed = Bed::new();
    let log = bed.open(small());
    (0..12).for_each(|_| fill_segment(&log));
    assert_eq!(snapshots(&bed), 12 - 4);
    log.close().unwrap();
    assert_eq!(snapshots(&bed), 12 + 1, "one at the end");
    assert_eq!(bed.open(small()).recovery().rows, [RecoveryRow::Clean]);
}

#[test]
fn a_truncation_takes_with_it_what_waited_for_maintenance() {
    let bed = Bed::new();
    let log = bed.open(small());
    (0..3).for_each(|_| fill_segment(&log));
    let second = log.inner().segments.load()[1].base();
    log.truncate(second).unwrap();
    log.run_maintenance().unwrap();
    let names = bed.names();
    let later: Vec<_> =
        names.iter().filter_map(|name| FileKind::parse(name)).filter(|(_, base)| *base > second).collect();
    assert_eq!(later, [], "{names:?}");
}

#[test]
fn a_log_of_a_weaker_level_syncs_behind_its_appends() {
    let bed = Bed::new();
    let log = bed.open(small().durability(Durability::ProcessCrash));
    for n in 0..30 {
        let appended = log.append_records([format!("value {n}")]).unwrap();
        log.wait(appended.position, Durability::ProcessCrash).unwrap();
    }
    assert_eq!((log.offsets().frontier, log.offsets().high_watermark), (Offset::ZERO, Offset::new(30)));
    log.run_maintenance().unwrap();
    assert_eq!(log.offsets().frontier, 30);
    assert!(log.inner().writer().unsynced.is_empty());
    assert!(log.recovery_point() > Offset::ZERO);
    assert_eq!(log.inner().context.slot.as_ref().unwrap().load().unwrap().unsynced_max, 0);
}

#[test]
fn no_more_bytes_than_the_state_slot_says_are_written_and_not_synced() {
    let bed = Bed::new();
    let config = || LogConfig::default().max_unsynced_bytes(1000);
    let log = bed.open(config());
    let noted = |log: &Log| log.inner().context.slot.as_ref().unwrap().load().unwrap().unsynced_max;
    let mut staged = 0;
    for n in 0..60 {
        log.append_records([format!("value {n}")]).unwrap();
        staged += 1;
        // At times many at once.
        if n % 7 == 0 || n > 40 {
            log.inner().write_now().unwrap();
            let synced = log.offsets().frontier.get();
            assert!(log.inner().writer().unsynced_bytes <= 1000);
            assert_eq!(noted(&log), 1000);
            assert!(synced <= staged);
        }
    }
    assert!(log.offsets().frontier > Offset::ZERO, "nobody asked for a sync");
    // One that is larger goes alone, and is told of.
    log.append_records(["x".repeat(5000)]).unwrap();
    log.inner().write_now().unwrap();
    assert_eq!(u64::from(noted(&log)), log.inner().writer().unsynced_bytes);
    assert_eq!(log.offsets().frontier, 60);
}

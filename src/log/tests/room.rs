//! Zeros ahead of the last batch: what makes them, what takes them away, and what recovery makes of them.

use super::*;
use crate::segment::{FileKind, Segment};

#[test]
fn room_is_made_ahead_and_is_neither_damage_nor_there_after_a_close() {
    let bed = Bed::new();
    let (first, config) = ("00000000000000000000.log", LogConfig::default);
    let log = bed.open(config());
    fill(&log, 0..3);
    let size = log.size_bytes() as usize;
    assert_eq!((bed.file(first).len(), &bed.file(first)[size..]), (8192, &[0; 8192][size..]));
    // The room is used, and there is more of it when there is more.
    fill(&log, 3..200);
    let size = log.size_bytes() as usize;
    assert!(size > 8192 && bed.file(first).len() > size && bed.file(first).len() <= 2 * size + 8192);
    bed.kill(log);
    let log = bed.open(config());
    assert_eq!((&log.recovery().rows[..], log.recovery().cut_bytes), (&[RecoveryRow::Scanned][..], 0));
    assert_eq!((log.inner().context.findings.all(), bed.file(first).len()), (vec![], size));
    assert_eq!(all(&log), numbered(0..200));
    fill(&log, 200..203);
    log.close().unwrap();
    assert_eq!(bed.file(first).len() as u64, log.size_bytes());
    assert_eq!(bed.open(config()).recovery().rows, [RecoveryRow::Clean]);
}

#[test]
fn a_segment_that_ends_gives_its_room_back_and_a_truncation_does() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill(&log, 0..20);
    let segments = log.inner().segments.load_full();
    let name = |segment: &Segment| segment.path(FileKind::Log).file_name().unwrap().to_str().unwrap().to_owned();
    let (active, sealed) = segments.split_last().unwrap();
    assert!(sealed.len() > 2 && bed.file(&name(active)).len() as u64 > active.written());
    sealed.iter().for_each(|segment| assert_eq!(bed.file(&name(segment)).len() as u64, segment.written()));
    log.truncate(19).unwrap();
    assert_eq!(bed.file(&name(active)).len() as u64, active.written());
}

#[test]
fn a_log_of_another_level_and_large_writes_make_no_room() {
    let bed = Bed::new();
    let weak = || LogConfig::default().durability(Durability::ProcessCrash);
    let log = bed.open(weak());
    fill(&log, 0..3);
    log.sync().unwrap();
    assert_eq!(bed.file("00000000000000000000.log").len() as u64, log.size_bytes());
    bed.kill(log);
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    put(&log, &["x".repeat(20_000).as_str()]);
    assert_eq!(bed.file("00000000000000000000.log").len() as u64, log.size_bytes());
}

#[test]
fn an_unfinished_write_into_room_is_cut_and_a_damaged_last_batch_is_kept() {
    let first = "00000000000000000000.log";
    for kept in [false, true] {
        let bed = Bed::new();
        let log = bed.open(LogConfig::default());
        fill(&log, 0..3);
        let before = log.size_bytes();
        put(&log, &["y".repeat(10_000).as_str()]);
        let after = log.size_bytes();
        fill(&log, 4..200);
        bed.kill(log);
        // As the kernel leaves a write that a kill interrupts: whole pages.
        let page = (before + 4096).next_multiple_of(4096);
        let start = if kept { after } else { page };
        let len = bed.file(first).len() as u64 - start;
        bed.overwrite(first, start, &vec![0; usize::try_from(len).unwrap()]);
        if kept {
            bed.overwrite(first, before + 5000, b"?");
        }
        let log = bed.open(LogConfig::default());
        let row = if kept { RecoveryRow::DamagedTail } else { RecoveryRow::TornTail };
        assert_eq!(log.recovery().rows[0], row);
        assert_eq!(log.recovery().cut_bytes, if kept { 0 } else { page - before });
        assert_eq!(put(&log, &["above what it had"]).base_offset, 4);
    }
}

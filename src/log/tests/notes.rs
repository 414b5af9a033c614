//! What is noted for recovery: how little is scanned, and that nothing is believed that does not fit the batches.

use super::*;

const BASE: &str = "00000000000000000000";
const NOTE_BYTES: u32 = 2000;

fn noting() -> LogConfig {
    LogConfig::default().index_interval_bytes(200).recovery_note_bytes(NOTE_BYTES)
}

/// Bytes of the active segment's log.
fn size(log: &Log) -> u64 {
    log.inner().segments.load().last().unwrap().written()
}

fn file(kind: &str) -> String {
    format!("{BASE}.{kind}")
}

/// The index files of a log that holds [`numbered`] records and was never killed.
fn unbroken(range: std::ops::Range<i64>) -> [Vec<u8>; 2] {
    let bed = Bed::new();
    let log = bed.open(noting());
    fill(&log, range);
    log.close().unwrap();
    ["index", "timeindex"].map(|kind| bed.file(&file(kind)))
}

/// Offsets of the producer snapshots.
fn snapshots(bed: &Bed) -> Vec<i64> {
    bed.names().iter().filter_map(|name| name.strip_suffix(".snapshot")?.parse().ok()).collect()
}

#[test]
fn a_killed_log_is_scanned_from_its_last_note_on() {
    let bed = Bed::new();
    let mut log = bed.open(noting());
    for round in 1..5 {
        fill(&log, (round - 1) * 100..round * 100);
        let size = size(&log);
        bed.kill(log);
        log = bed.open(noting());
        assert_eq!(log.recovery().rows, [RecoveryRow::Scanned]);
        let scanned = log.recovery().scanned_bytes;
        assert!(scanned < u64::from(NOTE_BYTES) + 400, "round {round}: {scanned} of {size} bytes");
        assert_eq!(all(&log), numbered(0..round * 100));
    }
    assert!(snapshots(&bed).len() <= 1, "older notes leave nothing behind: {:?}", bed.names());
    fill(&log, 400..420);
    log.close().unwrap();
    assert_eq!(["index", "timeindex"].map(|kind| bed.file(&file(kind))), unbroken(0..420));
    assert_eq!(snapshots(&bed), [420]);
}

#[test]
fn a_log_that_took_long_to_scan_notes_what_it_found() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default().index_interval_bytes(200));
    fill(&log, 0..100);
    let size = size(&log);
    bed.kill(log);
    let log = bed.open(noting());
    assert_eq!(log.recovery().scanned_bytes, size, "nothing was noted so far");
    bed.kill(log);
    assert!(bed.open(noting()).recovery().scanned_bytes < 400);
}

#[test]
fn what_came_behind_a_clean_close_is_all_that_is_scanned() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default().index_interval_bytes(200));
    fill(&log, 0..100);
    log.close().unwrap();
    let log = bed.open(LogConfig::default().index_interval_bytes(200));
    fill(&log, 100..102);
    bed.kill(log);
    let log = bed.open(LogConfig::default());
    assert!(log.recovery().scanned_bytes < 600, "{:?}", log.recovery());
    assert_eq!(all(&log), numbered(0..102));
}

#[test]
fn maintenance_makes_a_note_outlive_a_power_cut() {
    for seed in 0..20 {
        let before = Cuttable::new();
        let log = before.open(noting());
        fill(&log, 0..100);
        log.run_maintenance().unwrap();
        let point = log.recovery_point();
        assert!((60..=100).contains(&point.get()), "it lies inside of the segment: {point}");
        fill(&log, 100..110);
        let after = before.after_cut(seed);
        let log = after.open(noting());
        let scanned = log.recovery().scanned_bytes;
        assert!(scanned < u64::from(NOTE_BYTES) + 1500, "seed {seed}: {:?}", log.recovery());
        assert_eq!(all(&log), numbered(0..110), "seed {seed}");
        fill(&log, 110..200);
        assert_eq!(all(&log), numbered(0..200), "seed {seed}");
    }
}

#[test]
fn a_note_that_was_not_synced_is_not_believed_after_a_power_cut() {
    let before = Cuttable::new();
    let log = before.open(noting());
    fill(&log, 0..100);
    let noted = log.inner().context.slot.as_ref().unwrap().load().unwrap().noted;
    assert!(noted > 0, "{noted}");
    // The cut takes nothing, which nobody can know.
    let after = before.after_cut(1);
    let log = after.open(noting());
    assert_eq!(log.recovery().scanned_bytes, size(&log));
    assert_eq!(all(&log), numbered(0..100));
}

/// Kills a log of 100 records, lets `harm` at its files, and answers how much was scanned of how much.
fn scanned_after(harm: impl FnOnce(&Bed, Offset)) -> (u64, u64) {
    let bed = Bed::new();
    let log = bed.open(noting());
    fill(&log, 0..100);
    let (size, noted) = (size(&log), log.inner().marks.points().noted.at);
    bed.kill(log);
    harm(&bed, noted);
    let log = bed.open(noting());
    assert_eq!(log.recovery().rows[0], RecoveryRow::Scanned);
    assert_eq!(all(&log), numbered(0..100));
    let scanned = log.recovery().scanned_bytes;
    fill(&log, 100..105);
    log.close().unwrap();
    assert_eq!(["index", "timeindex"].map(|kind| bed.file(&file(kind))), unbroken(0..105));
    (scanned, size)
}

#[test]
fn notes_whose_files_are_not_as_they_were_left_cost_a_scan_and_nothing_else() {
    let snapshot = |noted: Offset| format!("{:020}.snapshot", noted.get());
    let (usual, size) = scanned_after(|_, _| {});
    assert!(usual < u64::from(NOTE_BYTES) + 400);
    type Harm<'a> = &'a dyn Fn(&Bed, Offset);
    let harms: [(&str, Harm<'_>); 7] = [
        ("no snapshot", &|bed, noted| bed.storage.remove_file(&bed.dir.join(snapshot(noted))).unwrap()),
        ("a snapshot that is nonsense", &|bed, noted| bed.overwrite(&snapshot(noted), 3, b"?")),
        ("no index", &|bed, _| bed.storage.remove_file(&bed.dir.join(file("index"))).unwrap()),
        ("no time index", &|bed, _| bed.storage.remove_file(&bed.dir.join(file("timeindex"))).unwrap()),
        ("an entry that names no batch", &|bed, _| {
            let last = bed.file(&file("index")).len() as u64 - 1;
            bed.overwrite(&file("index"), last, &[bed.file(&file("index"))[last as usize] + 1]);
        }),
        ("nonsense from the first entry on", &|bed, _| bed.overwrite(&file("index"), 0, &[255; 8])),
        ("an entry of the time index that is nonsense", &|bed, _| bed.overwrite(&file("timeindex"), 0, &[255; 8])),
    ];
    for (what, harm) in harms {
        let (scanned, _) = scanned_after(harm);
        assert!(scanned >= size, "{what}: {scanned} of {size} bytes");
    }
    // Entries that cannot be read only begin the scan earlier.
    let (scanned, _) = scanned_after(|bed, _| {
        let half = bed.file(&file("index")).len() / 16 * 8;
        bed.overwrite(&file("index"), half as u64, &[0; 8]);
    });
    assert!((size / 3..size).contains(&scanned), "{scanned} of {size} bytes");
}

#[test]
fn a_poisoned_log_is_scanned_whole() {
    let bed = Bed::new();
    let log = bed.open(noting());
    fill(&log, 0..100);
    let size = size(&log);
    let inner = log.inner();
    let slot = inner.context.slot.as_ref().unwrap();
    slot.store(&state::SlotState { poisoned: true, ..slot.load().unwrap() }).unwrap();
    bed.kill(log);
    assert_eq!(bed.open(noting()).recovery().scanned_bytes, size);
}

#[test]
fn bytes_that_are_missing_below_a_note_are_missed() {
    let bed = Bed::new();
    let log = bed.open(noting());
    fill(&log, 0..100);
    let (noted, size) = (log.inner().marks.points().noted.at, log.size_bytes());
    bed.kill(log);
    let log_file = bed.storage.open(&bed.dir.join(file("log")), OpenMode::Write).unwrap();
    log_file.set_len(size / 2).unwrap();
    let log = bed.open(noting());
    assert!(log.offsets().end >= noted, "no offset is given out twice");
    let seen = super::damage::outcome(&log);
    assert!(!seen.records.is_empty() && seen.records.len() < 60);
    let found: Vec<_> = seen.records.into_iter().collect();
    assert_eq!(found, numbered(0..found.len() as i64));
}

#[test]
fn damage_behind_a_note_has_the_whole_segment_scanned() {
    let bed = Bed::new();
    let log = bed.open(noting());
    fill(&log, 0..103);
    let size = size(&log);
    bed.kill(log);
    bed.overwrite(&file("log"), size - 100, b"rot");
    let log = bed.open(noting());
    assert_eq!(log.recovery().rows, [RecoveryRow::DamagedTail]);
    assert!(log.recovery().scanned_bytes > size);
    assert_eq!(log.offsets().end, 103);
}

#[test]
fn a_truncation_takes_back_what_was_noted() {
    let bed = Bed::new();
    let log = bed.open(noting());
    fill(&log, 0..100);
    log.run_maintenance().unwrap();
    log.truncate(50).unwrap();
    assert_eq!((log.inner().marks.points().noted.at, log.recovery_point()), (Offset::ZERO, Offset::ZERO));
    fill(&log, 50..55);
    bed.kill(log);
    let log = bed.open(noting());
    assert_eq!(all(&log), numbered(0..55));
    assert_eq!(log.recovery().scanned_bytes, size(&log));
}

#[test]
fn transactions_on_both_sides_of_a_note_are_known() {
    let bed = Bed::new();
    let config = || LogConfig::default().index_interval_bytes(0).recovery_note_bytes(1);
    let log = bed.open(config());
    Txn(&log).send(0, "aborted");
    Txn(&log).end(TxnOutcome::Abort);
    Txn(&log).send(1, "committed");
    Txn(&log).end(TxnOutcome::Commit);
    Txn(&log).send(2, "open");
    let (stable, noted) = (log.offsets().last_stable, log.inner().marks.points().noted.at);
    assert_eq!((stable, noted), (Offset::new(4), log.offsets().end));
    bed.kill(log);
    let log = bed.open(config());
    assert!(log.recovery().scanned_bytes < 100, "{:?}", log.recovery());
    assert_eq!(log.offsets().last_stable, stable);
    assert_eq!(all(&log), [(2, "committed".to_owned())]);
    let duplicate = {
        let mut batch = BatchBuilder::new().producer(ProducerId::new(7), 0, 2).transactional();
        batch.push(Timestamp::new(T), &Record::new("open")).unwrap();
        log.append(&batch.finish().unwrap(), LeaderEpoch::new(0)).unwrap()
    };
    assert_eq!(duplicate.base_offset, 4, "the producer is known");
    Txn(&log).end(TxnOutcome::Abort);
    bed.kill(log);
    let log = bed.open(config());
    assert_eq!(log.offsets().last_stable, log.offsets().end);
    assert_eq!(all(&log), [(2, "committed".to_owned())]);
}

#[test]
fn leader_epochs_below_a_note_are_known_without_a_sync() {
    let bed = Bed::new();
    let config = || noting().durability(Durability::ProcessCrash);
    let log = bed.open(config());
    for n in 0..100 {
        let mut batch = BatchBuilder::new();
        batch.push(Timestamp::new(T), &Record::new(format!("value {n}"))).unwrap();
        let appended = log.append(&batch.finish().unwrap(), LeaderEpoch::new(n / 30)).unwrap();
        log.wait(appended.position, Durability::ProcessCrash).unwrap();
    }
    let ends = |log: &Log| (0..5).map(|epoch| log.end_offset_for_epoch(epoch)).collect::<Vec<_>>();
    let known = ends(&log);
    bed.kill(log);
    let log = bed.open(config());
    assert!(log.recovery().scanned_bytes < u64::from(NOTE_BYTES) + 400);
    assert_eq!(ends(&log), known);
}

#[test]
fn a_segment_that_was_noted_to_its_end_and_then_rolled_is_completed_after_a_kill() {
    // With one of these an entry is due with batches before the last, and none with that.
    let intervals = [100, 150, 200, 250];
    for (interval, synced) in intervals.into_iter().flat_map(|interval| [(interval, false), (interval, true)]) {
        let bed = Bed::new();
        let log = bed.open(LogConfig::default().index_interval_bytes(interval).recovery_note_bytes(300));
        let later = 1_800_000_000_000;
        let mut count = 0;
        while count == 0 || log.inner().marks.points().noted.at.get() < count {
            let record = Record::new("value").timestamp(Timestamp::new(later + count));
            log.wait(log.append_records([record]).unwrap().position, Durability::PowerLoss).unwrap();
            count += 1;
        }
        if synced {
            log.run_maintenance().unwrap();
        }
        log.roll().unwrap();
        bed.kill(log);
        let log = bed.open(noting());
        let found = log.offset_at(later + count - 1, Isolation::ReadUncommitted).unwrap();
        assert_eq!(found.map(|found| found.offset.get()), Some(count - 1), "{interval} bytes, synced: {synced}");
    }
}

#[test]
fn what_a_note_speaks_of_is_synced_through_the_handles_that_wrote_it() {
    let disk = SimStorage::new();
    disk.create_dir(Path::new("data")).unwrap();
    let bed = Bed { storage: Arc::new(disk.clone()), ..Bed::new() };
    let log = bed.open(LogConfig::default().index_interval_bytes(0).recovery_note_bytes(1));
    put(&log, &["one"]);
    put(&log, &["two"]);
    for path in [".index", ".timeindex", ".snapshot"] {
        disk.add_fault(Fault::new(Errno::Io, Repeat::Forever).on(Operation::Open).path(path));
    }
    log.run_maintenance().unwrap();
    assert_eq!(log.recovery_point(), 2);
}

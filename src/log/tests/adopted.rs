//! A log that a stock broker wrote, once it is ours: what is read of it after a loss of power, and how it gets seals.

use super::*;
use crate::segment::FileKind;

const DIR: &str = "data/t-0";

/// A log of a dozen segments and more as a stock broker leaves it, all of it durable, and its end.
fn stock() -> (Cuttable, Offset) {
    stock_of(|log| fill(log, 0..60), &[])
}

/// The same of a log that `write` writes, without files whose names end so.
fn stock_of(write: impl FnOnce(&Log), without: &[&str]) -> (Cuttable, Offset) {
    let written = Cuttable::new();
    let log = written.open(small());
    write(&log);
    log.close().unwrap();
    let end = log.offsets().end;
    let disk = &written.disk;
    for name in without.iter().flat_map(|ending| names(disk, ending)) {
        disk.remove_file(&Path::new(DIR).join(name)).unwrap();
    }
    for name in names(disk, ".seal") {
        disk.remove_file(&Path::new(DIR).join(name)).unwrap();
    }
    disk.remove_file(Path::new("data/thalweg.state")).unwrap();
    disk.sync_dir(Path::new("data")).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    (Cuttable { disk: disk.crash(Choice::Nothing) }, end)
}

fn names(disk: &SimStorage, ending: &str) -> Vec<String> {
    let names = disk.list(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name);
    let mut names: Vec<_> = names.filter(|name| name.ends_with(ending)).collect();
    names.sort();
    names
}

fn bases(disk: &SimStorage) -> Vec<Offset> {
    names(disk, ".log").iter().map(|name| name.trim_end_matches(".log").parse::<i64>().unwrap().into()).collect()
}

/// Opens the log where Kafka's checkpoint names this recovery point.
fn open(disk: &Cuttable, point: Offset) -> Log {
    let context = LogContext { recovery_point: point, ..disk.context(Offset::ZERO) };
    if let Some(slot) = context.slot.as_ref().filter(|slot| slot.load().is_none()) {
        // As the broker does.
        slot.store(&SlotState::foreign()).unwrap();
    }
    Log::open_in(context, Path::new(DIR), small()).unwrap()
}

/// Opens the log after a loss of power, during which no segment that ends below `unread` is read.
fn open_after_cut(before: &Cuttable, point: Offset, unread: Offset) -> (Log, Cuttable) {
    let after = before.after_cut(0);
    let bases = bases(&after.disk);
    for pair in bases.windows(2).filter(|pair| pair[1] <= unread) {
        let log = FileKind::Log.path(Path::new(DIR), pair[0]).display().to_string();
        after.disk.add_fault(Fault::new(Errno::Io, Repeat::Forever).on(Operation::Read).path(&log));
    }
    let log = open(&after, point);
    assert_eq!(after.disk.struck(), 0, "{:?}", log.recovery());
    after.disk.mend();
    (log, after)
}

fn size_of(log: &Log, from: Offset) -> u64 {
    log.inner().segments.load().iter().filter(|s| s.base() >= from).map(|s| s.written()).sum()
}

#[test]
fn a_power_cut_has_nothing_read_that_the_stock_broker_had_synced() {
    // A clean stop, one in the middle of a segment, one before the first checkpoint.
    for point in [60, 31, 0].map(Offset::new) {
        for rounds in [0, 1, 2, 30] {
            let (before, end) = stock();
            let bases = bases(&before.disk);
            let log = open(&before, point);
            assert_eq!(log.recovery().scanned_bytes, size_of(&log, bases[floor_of(&bases, point)]));
            fill(&log, 60..62);
            (0..rounds).for_each(|_| log.run_maintenance().unwrap());
            // What was not synced there is scanned again only until it has seals.
            let begin = if rounds == 0 { floor_of(&bases, point) } else { floor_of(&bases, end) };
            // A segment that ended where a scan begins may lack the last entries of its indexes.
            let begin = bases[begin.saturating_sub(1)];
            let (log, _) = open_after_cut(&before, point, begin);
            let what = format!("{point}, {rounds}: {:?}", log.recovery());
            assert!(log.recovery().scanned_bytes <= size_of(&log, begin), "{what}");
            assert_eq!((log.recovery().damaged, log.offsets().frontier), (vec![], Offset::new(62)), "{what}");
            assert_eq!(all(&log), numbered(0..62), "{what}");
        }
    }
}

fn floor_of(bases: &[Offset], offset: Offset) -> usize {
    bases.iter().rposition(|base| *base <= offset).unwrap()
}

#[test]
fn a_checkpoint_that_lies_too_high_proves_nothing_above_what_is_there() {
    let (before, end) = stock();
    let point = Offset::new(1000);
    let log = open(&before, point);
    assert_eq!((log.offsets().end, log.recovery().damaged), (point, vec![end..point]));
    let last = *bases(&before.disk).last().unwrap();
    assert!(log.recovery_point() <= last, "{}", log.recovery_point());
    assert_eq!(put(&log, &["value 1000"]).base_offset, point);
    for rounds in [0, 3] {
        (0..rounds).for_each(|_| log.run_maintenance().unwrap());
        let (log, _) = open_after_cut(&before, point, bases(&before.disk)[4]);
        assert_eq!(log.offsets().end, point.next());
        assert_eq!(log.read(point, 100, Isolation::ReadUncommitted).unwrap().next_offset(), point.next());
    }
}

/// The checkpoint is renewed by the round that follows: until then it speaks of what was cut.
#[test]
fn a_checkpoint_from_before_a_truncation_vouches_for_nothing_that_came_after() {
    let weak = || small().durability(Durability::ProcessCrash);
    for seed in 0..20 {
        let before = Cuttable::new();
        let open = |disk: &Cuttable, point| {
            let context = LogContext { recovery_point: point, ..disk.context(Offset::ZERO) };
            Log::open_in(context, Path::new(DIR), weak()).unwrap()
        };
        let log = open(&before, Offset::ZERO);
        fill(&log, 0..40);
        log.run_maintenance().unwrap();
        let point = log.recovery_point();
        assert!(point > 30);
        log.truncate(8).unwrap();
        for n in 8..40 {
            let appended = log.append_records([format!("value {n}")]).unwrap();
            log.wait(appended.position, Durability::ProcessCrash).unwrap();
        }
        let after = before.after_cut(seed);
        let log = open(&after, point);
        let kept = from(&log, Offset::ZERO, Isolation::ReadUncommitted);
        assert_eq!(kept, numbered(0..kept.len() as i64), "seed {seed}: {:?}", log.recovery());
        assert!(kept.len() >= 8 && log.offsets().end >= 40, "seed {seed}");
    }
}

/// What another program left beside a segment is wrong, whether a reader or the maintenance comes first.
#[test]
fn what_was_put_right_beside_a_segment_is_there_to_stay_before_the_slot_says_so() {
    let write = |log: &Log| {
        for n in 0..4 {
            let txn = Txn(log);
            txn.send(n, "aborted");
            txn.end(TxnOutcome::Abort);
            put(log, &["plain"]);
            log.roll().unwrap();
        }
        put(log, &["last"]);
    };
    for rounds in [0, 2, 6] {
        let (before, end) = stock_of(write, &[".txnindex"]);
        let log = open(&before, end);
        (0..rounds).for_each(|_| log.run_maintenance().unwrap());
        let seen = all(&log);
        let values: Vec<_> = seen.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["plain", "plain", "plain", "plain", "last"]);
        // The slot says so, durably; nothing else syncs the directory.
        log.advance_log_start(1).unwrap();
        let after = before.after_cut(0);
        assert_eq!(names(&after.disk, ".txnindex").len(), 4, "{rounds}");
        let log = open(&after, end);
        assert_eq!(all(&log), seen, "{rounds}: {:?}", log.recovery());
        // Once there are seals, nothing is compared again.
        (0..6).for_each(|_| log.run_maintenance().unwrap());
        put(&log, &["more"]);
        log.run_maintenance().unwrap();
        let (log, _) = open_after_cut(&after, end, end);
        assert!(!log.inner().doubts.are_pending(), "{rounds}");
        assert_eq!(all(&log)[..seen.len()], seen, "{rounds}");
    }
}

#[test]
fn segments_of_a_stock_broker_get_seals_one_at_a_time() {
    let (disk, end) = stock();
    let log = open(&disk, end);
    let ended = bases(&disk.disk).len() - 1;
    for round in 0..ended + 3 {
        assert_eq!(names(&disk.disk, ".seal").len(), round.min(ended));
        log.run_maintenance().unwrap();
    }
    // One that is gone is missed from then on, and a close is none.
    let gone = bases(&disk.disk)[3]..bases(&disk.disk)[4];
    log.close().unwrap();
    disk.disk.remove_file(&FileKind::Log.path(Path::new(DIR), gone.start)).unwrap();
    let log = open(&disk, end);
    assert!(log.recovery().rows.contains(&RecoveryRow::MissingSegment), "{:?}", log.recovery());
    assert_eq!(log.recovery().damaged, [gone]);
}

/// A directory that was copied or restored: its checkpoint speaks of a disk that synced it.
#[test]
fn what_is_sealed_is_on_the_disk_whoever_wrote_it() {
    let (disk, end) = stock();
    let ended = bases(&disk.disk).len() - 1;
    for base in &bases(&disk.disk)[..ended] {
        let path = FileKind::Log.path(Path::new(DIR), *base);
        let bytes = crate::storage::read_file(&disk.disk, &path, 1 << 20).unwrap().unwrap();
        let file = disk.disk.open(&path, OpenMode::Write).unwrap();
        file.set_len(0).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
    }
    let log = open(&disk, end);
    (0..=ended).for_each(|_| log.run_maintenance().unwrap());
    assert_eq!(names(&disk.disk, ".seal").len(), ended);
    assert_eq!(all(&open(&disk.after_cut(0), end)), numbered(0..60));
}

#[test]
fn no_segment_is_sealed_once_its_log_closes() {
    let (disk, end) = stock();
    let log = open(&disk, end);
    let bases = bases(&disk.disk);
    let ended = FileKind::Log.path(Path::new(DIR), bases[bases.len() - 2]);
    let hold = disk.disk.hold_read(&ended.display().to_string());
    std::thread::scope(|scope| {
        let sealing = scope.spawn(|| log.seal_next());
        hold.wait_for_it();
        let closing = scope.spawn(|| {
            log.close().unwrap();
            assert!(log.inner().unsealed_below.try_lock().is_some(), "somebody may still write a seal");
        });
        while !log.inner().closing.load(std::sync::atomic::Ordering::Acquire) {
            std::thread::yield_now();
        }
        drop(hold);
        closing.join().unwrap();
        drop(sealing.join().unwrap());
    });
    assert_eq!(names(&disk.disk, ".seal"), [""; 0]);
    assert_eq!(log.seal_next().unwrap_err().kind(), ErrorKind::Closed);
}

/// A truncation takes the lock of appends: it waits for nobody who reads a whole segment.
#[test]
fn a_segment_is_cut_while_it_is_read_to_be_sealed_and_gets_no_seal() {
    let (disk, end) = stock();
    let log = open(&disk, end);
    let bases = bases(&disk.disk);
    let (ended, next) = (bases[bases.len() - 2], bases[bases.len() - 1]);
    let hold = disk.disk.hold_read(&FileKind::Log.path(Path::new(DIR), ended).display().to_string());
    std::thread::scope(|scope| {
        let sealing = scope.spawn(|| log.seal_next());
        hold.wait_for_it();
        log.truncate(ended.next()).unwrap();
        fill(&log, ended.next().get()..next.get() + 3);
        drop(hold);
        sealing.join().unwrap().unwrap();
    });
    assert_eq!(names(&disk.disk, ".seal"), [""; 0]);
    assert_eq!(all(&log), numbered(0..next.get() + 3));
}

#[test]
fn what_cannot_be_sealed_is_looked_at_once_and_what_is_deleted_not_at_all() {
    let (disk, end) = stock();
    let bases = bases(&disk.disk);
    // Not what a segment begins with.
    disk.disk.put_byte(FileKind::Log.path(Path::new(DIR), bases[8]), 16, 9).unwrap();
    let log = open(&disk, end);
    let ended = bases.len() - 1;
    (0..ended - 5).for_each(|_| log.run_maintenance().unwrap());
    let seals = || names(&disk.disk, ".seal").len();
    assert_eq!(seals(), ended - 6);
    log.advance_log_start(bases[3]).unwrap();
    assert_eq!(
        disk.disk.list(Path::new(DIR)).unwrap().iter().filter(|e| e.name.starts_with("00000000000000000000.")).count(),
        0
    );
    (0..5).for_each(|_| log.run_maintenance().unwrap());
    assert_eq!(seals(), ended - 4, "two of the five, and none of what is gone");
    let reads = || disk.disk.counts()[&Operation::Read];
    let before = reads();
    (0..5).for_each(|_| log.run_maintenance().unwrap());
    assert_eq!(reads(), before);
}

/// Kafka writes its list of epochs behind, and a log start down only where it lies inside of a segment.
#[test]
fn what_a_stock_broker_deleted_from_the_front_is_not_missed() {
    let (disk, end) = stock();
    let bases = bases(&disk.disk);
    for base in &bases[..3] {
        disk.disk.remove_file(&FileKind::Log.path(Path::new(DIR), *base)).unwrap();
    }
    let log = open(&disk, end);
    assert_eq!((log.recovery().damaged, log.offsets().log_start), (vec![], bases[3]));
    assert_eq!(all(&log), numbered(bases[3].get()..60));
}

/// Nobody says at which level it was written.
#[test]
fn a_hole_in_a_log_of_a_stock_broker_is_no_unfinished_write_whatever_the_topics_level() {
    for level in [Durability::PowerLoss, Durability::ProcessCrash] {
        let (disk, _) = stock_of(|log| fill(log, 0..60), &[".snapshot", "index"]);
        let bases = bases(&disk.disk);
        disk.disk.put_byte(FileKind::Log.path(Path::new(DIR), bases[5]), 65, 0xff).unwrap();
        let context = disk.context(Offset::ZERO);
        context.slot.as_ref().unwrap().store(&SlotState::foreign()).unwrap();
        let log = Log::open_in(context, Path::new(DIR), small().durability(level)).unwrap();
        assert_eq!((log.offsets().end, log.recovery().damaged), (Offset::new(60), vec![bases[5]..bases[5].next()]));
        // What is appended from here on is.
        let noted = log.inner().context.slot.as_ref().unwrap().load().unwrap();
        assert_eq!(noted.unsynced_max > 0, level == Durability::PowerLoss);
    }
}

/// Of one whose batches an earlier process began to append all headers are read before it is sealed.
#[test]
fn no_segment_is_sealed_once_its_log_was_reopened() {
    let (bed, config) = (Cuttable::new(), || small().recovery_note_bytes(1));
    let log = bed.open(config());
    fill(&log, 0..2);
    let disk = bed.disk.crash(Choice::ProcessCrash);
    drop(log);
    let bed = Cuttable { disk };
    let log = bed.open(config());
    fill(&log, 2..12);
    let hold = bed.disk.hold_read("00000000000000000000.log");
    let before = &log.inner();
    std::thread::scope(|scope| {
        let sealing = scope.spawn(|| log.maintain());
        hold.wait_for_it();
        let sealed = names(&bed.disk, ".seal");
        bed.disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(".log"));
        let refused = log.append_records(["refused"]).unwrap();
        log.wait(refused.position, Durability::PowerLoss).unwrap_err();
        let reopening = scope.spawn(|| {
            log.reopen().unwrap();
            assert!(before.unsealed_below.try_lock().is_some(), "somebody may still write a seal");
        });
        while before.writer.try_lock().is_some() && !reopening.is_finished() {
            std::thread::yield_now();
        }
        drop(hold);
        reopening.join().unwrap();
        drop(sealing.join().unwrap());
        assert_eq!(names(&bed.disk, ".seal"), sealed);
    });
    assert!(all(&log).starts_with(&numbered(0..12)));
}

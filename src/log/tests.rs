mod adopted;
mod clock;
mod conditional;
mod damage;
mod descriptors;
mod full;
mod gaps;
mod notes;
mod poison;
mod policies;
mod races;
mod reads;
mod rolls;
mod room;
mod rows;
#[cfg(shuttle)]
mod schedules;
mod seals;
mod slots;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::*;
use crate::clock::ManualClock;
use crate::record::{EndMarker, TimestampType, TxnOutcome};
use crate::storage::{MemoryStorage, OpenMode};
use crate::testing::{AfterFailedSync, Choice, Errno, Fault, Operation, Repeat, SimStorage};
use crate::types::{ProducerId, RecoveryPolicy};

const T: i64 = 1_700_000_000_000;

struct Bed {
    storage: Arc<dyn Storage>,
    clock: ManualClock,
    dir: PathBuf,
}

impl Bed {
    fn new() -> Self {
        let bed = Self {
            storage: Arc::new(MemoryStorage::default()),
            clock: ManualClock::new(Timestamp::new(T)),
            dir: PathBuf::from("data/t-0"),
        };
        bed.storage.create_dir(bed.dir.parent().unwrap()).unwrap();
        bed
    }

    fn open(&self, config: LogConfig) -> Log {
        Log::open_on(Arc::clone(&self.storage), Arc::new(self.clock.clone()), &self.dir, config).unwrap()
    }

    /// As kill -9 does: nothing is closed, the lock goes, the operating system keeps what it was given.
    fn kill(&self, log: Log) {
        drop(log);
    }

    fn file(&self, name: &str) -> Vec<u8> {
        let file = self.storage.open(&self.dir.join(name), OpenMode::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn overwrite(&self, name: &str, position: u64, bytes: &[u8]) {
        let file = self.storage.open(&self.dir.join(name), OpenMode::CreateIfAbsent).unwrap();
        file.write_all_at(bytes, position).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.storage.list(&self.dir).unwrap().into_iter().map(|e| e.name).collect();
        names.sort();
        names
    }
}

fn small() -> LogConfig {
    LogConfig::default().segment_bytes(400).index_interval_bytes(0)
}

fn put(log: &Log, values: &[&str]) -> Appended {
    let appended = log.append_records(values.iter().copied()).unwrap();
    log.wait(appended.position, Durability::PowerLoss).unwrap();
    appended
}

fn all(log: &Log) -> Vec<(i64, String)> {
    from(log, log.offsets().log_start, Isolation::ReadCommitted)
}

fn from(log: &Log, mut at: Offset, isolation: Isolation) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    loop {
        let read = log.read(at, 100, isolation).unwrap();
        if read.next_offset() == at {
            return found;
        }
        for batch in read.data_batches() {
            for record in batch.unwrap().decode().unwrap().iter() {
                let record = record.unwrap();
                if record.offset() >= at {
                    let value = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
                    found.push((record.offset().get(), value));
                }
            }
        }
        at = read.next_offset();
    }
}

fn numbered(range: std::ops::Range<i64>) -> Vec<(i64, String)> {
    range.map(|n| (n, format!("value {n}"))).collect()
}

fn fill(log: &Log, range: std::ops::Range<i64>) {
    for n in range {
        put(log, &[&format!("value {n}")]);
    }
}

#[test]
fn what_was_appended_is_read_back_across_segments_and_reopening() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill(&log, 0..20);
    assert_eq!(all(&log), numbered(0..20));
    assert!(bed.names().iter().filter(|n| n.ends_with(".log")).count() > 3, "it rolled: {:?}", bed.names());
    log.close().unwrap();
    let log = bed.open(small());
    assert_eq!(log.recovery().rows, [RecoveryRow::Clean]);
    assert_eq!(log.recovery().scanned_bytes, 0);
    assert_eq!(all(&log), numbered(0..20));
    fill(&log, 20..25);
    assert_eq!(from(&log, Offset::new(13), Isolation::ReadUncommitted), numbered(13..25));
}

#[test]
fn a_killed_log_serves_all_that_was_acknowledged() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill(&log, 0..12);
    bed.kill(log);
    let log = bed.open(small());
    assert_eq!(log.recovery().rows, [RecoveryRow::Scanned, RecoveryRow::RolledUnsealed]);
    assert_eq!(all(&log), numbered(0..12));
    assert_eq!(put(&log, &["value 12"]).base_offset, 12);
    log.close().unwrap();
    assert_eq!(bed.open(small()).recovery().rows, [RecoveryRow::Clean]);
}

#[test]
fn a_torn_tail_is_cut_and_everything_before_it_served() {
    for garbage in [&[0xff; 30][..], &[7; 200], &[7; 5000], &[7, 0, 0, 0, 0, 0]] {
        let bed = Bed::new();
        let log = bed.open(LogConfig::default());
        fill(&log, 0..3);
        let size = log.size_bytes();
        bed.kill(log);
        bed.overwrite("00000000000000000000.log", size, garbage);
        let log = bed.open(LogConfig::default());
        // Whatever it was, it had an offset.
        assert_eq!(log.recovery().rows, [RecoveryRow::TornTail, RecoveryRow::Reserved]);
        // Zeros at the end may be room.
        let used = garbage.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        assert_eq!(log.recovery().cut_bytes, used as u64);
        assert_eq!(all(&log), numbered(0..3));
        assert_eq!(log.offsets().end, 4);
        fill(&log, 4..6);
        assert_eq!(all(&log), [numbered(0..3), numbered(4..6)].concat());
        bed.kill(log);
        assert_eq!(bed.open(LogConfig::default()).recovery().rows, [RecoveryRow::Scanned, RecoveryRow::RolledUnsealed]);
    }
}

#[test]
fn damage_below_the_frontier_is_kept_and_its_offsets_are_not_given_out_again() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    fill(&log, 0..6);
    log.close().unwrap();
    let size = bed.file("00000000000000000000.log").len() as u64;
    bed.overwrite("00000000000000000000.log", size - 3, b"x");
    let log = bed.open(LogConfig::default());
    assert_eq!(log.recovery().rows, [RecoveryRow::DamagedTail]);
    assert_eq!(log.recovery().damaged, [Offset::new(5)..Offset::new(6)]);
    assert_eq!(put(&log, &["value 6"]).base_offset, 6);
    let read = |at: i64| log.read(at, 1, Isolation::ReadCommitted);
    assert_eq!(read(4).unwrap().next_offset(), 5);
    let error = read(5).unwrap_err();
    assert_eq!((error.kind(), error.at_offset()), (ErrorKind::Corrupt, Some(Offset::new(5))));
    assert_eq!(from(&log, Offset::new(6), Isolation::ReadCommitted), numbered(6..7));
    assert_eq!(bed.file("00000000000000000000.log").len() as u64, size, "nothing durable was deleted");
}

#[test]
fn damage_inside_a_sealed_segment_costs_only_itself() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill(&log, 0..20);
    log.close().unwrap();
    bed.overwrite("00000000000000000000.log", 70, b"\xff\xff");
    let log = bed.open(small());
    assert_eq!(log.read(0, 1, Isolation::ReadCommitted).unwrap_err().kind(), ErrorKind::Corrupt);
    let second = log.first_file().unwrap();
    assert_eq!(second, 0);
    let next_base = bed.names().into_iter().filter(|n| n.ends_with(".log")).nth(1).unwrap();
    let next_base: i64 = next_base.trim_end_matches(".log").parse().unwrap();
    assert_eq!(from(&log, Offset::new(next_base), Isolation::ReadCommitted), numbered(next_base..20));
}

#[test]
fn lost_and_wrong_indexes_are_rebuilt() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill(&log, 0..20);
    log.close().unwrap();
    let good: Vec<_> =
        bed.names().into_iter().filter(|n| n.ends_with("index")).map(|n| (n.clone(), bed.file(&n))).collect();
    for (at, (name, bytes)) in good.iter().enumerate() {
        let path = bed.dir.join(name);
        match at % 3 {
            0 => bed.storage.remove_file(&path).unwrap(),
            1 => bed.overwrite(name, 0, &vec![0xee; bytes.len().max(12)]),
            _ => bed.overwrite(name, bytes.len() as u64, &[0; 24]),
        }
    }
    let log = bed.open(small());
    for n in 0..20 {
        let found = from(&log, Offset::new(n), Isolation::ReadCommitted);
        assert_eq!(found, numbered(n..20));
    }
    assert_eq!(log.offset_at(T, Isolation::ReadCommitted).unwrap().unwrap().offset, 0);
}

#[test]
fn indexes_equal_those_that_kafka_writes_for_the_same_batches() {
    // vectors.json `index_density`: twelve batches of 117 bytes; checked in the index module, here end to end.
    let bed = Bed::new();
    let log = bed.open(LogConfig::default().index_interval_bytes(100));
    let times = [11, 41, 21, 31, 91, 51, 61, 71, 81, 101, 111, 6];
    for time in times {
        let record = |n: i64| Record::new(vec![b'v'; 17]).timestamp(T + n);
        let mut batch = BatchBuilder::new();
        for n in [time, time.min(5)] {
            batch.push(Timestamp::new(T + n), &record(n)).unwrap();
        }
        let batch = batch.finish().unwrap();
        log.append(&batch, LeaderEpoch::new(0)).unwrap();
    }
    log.close().unwrap();
    let index = bed.file("00000000000000000000.index");
    // An entry for every batch but the first, each naming its batch's last offset.
    assert_eq!(index.len(), 11 * 8);
    assert_eq!(index[..4], 3_i32.to_be_bytes());
    let time_index = bed.file("00000000000000000000.timeindex");
    let entries: Vec<(i64, i32)> = time_index
        .chunks_exact(12)
        .map(|e| (i64::from_be_bytes(e[..8].try_into().unwrap()) - T, i32::from_be_bytes(e[8..].try_into().unwrap())))
        .collect();
    assert_eq!(entries, [(41, 3), (91, 9), (101, 19), (111, 21)]);
}

#[test]
fn a_reader_sees_only_what_is_durable_at_the_logs_level() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    let weak = log.append_records(["a"]).unwrap();
    assert_eq!(log.offsets().end, 1);
    log.wait(weak.position, Durability::None).unwrap();
    log.wait(weak.position, Durability::ProcessCrash).unwrap();
    assert!(all(&log).is_empty(), "acknowledged, but a power cut could take it back");
    log.wait(weak.position, Durability::PowerLoss).unwrap();
    assert_eq!(all(&log).len(), 1);

    log.configure(LogConfig::default().durability(Durability::ProcessCrash)).unwrap();
    let written = log.append_records(["b"]).unwrap();
    assert_eq!(all(&log).len(), 1, "staged bytes are never visible");
    log.wait(written.position, Durability::ProcessCrash).unwrap();
    let offsets = log.offsets();
    assert_eq!((offsets.high_watermark, offsets.frontier), (Offset::new(2), Offset::new(1)));
    assert_eq!(all(&log).len(), 2);
}

#[test]
fn offsets_that_were_acknowledged_in_memory_are_not_given_out_twice() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    fill(&log, 0..2);
    let lost = log.append_records(["lost"]).unwrap();
    log.wait(lost.position, Durability::None).unwrap();
    bed.kill(log);
    let log = bed.open(LogConfig::default());
    assert!(log.lowest_epoch() > log.leader_epoch());
    assert_eq!(log.recovery().rows, [RecoveryRow::Scanned, RecoveryRow::Reserved]);
    assert!(log.offsets().end > 2);
    let next = put(&log, &["later"]);
    assert!(next.base_offset > lost.last_offset);
    assert_eq!(log.leader_epoch(), 1, "whoever asks by epoch learns of the cut");
    let mut expected = numbered(0..2);
    expected.push((next.base_offset.get(), "later".to_owned()));
    assert_eq!(all(&log), expected);
    log.close().unwrap();
    let log = bed.open(LogConfig::default());
    assert_eq!(log.recovery().rows, [RecoveryRow::Clean]);
    assert_eq!(all(&log), expected);
}

#[test]
fn the_log_start_is_durable_and_deletes_whole_segments() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill(&log, 0..20);
    let before = bed.names();
    log.advance_log_start(13).unwrap();
    assert!(bed.names().len() < before.len());
    let error = log.read(12, 100, Isolation::ReadCommitted).unwrap_err();
    assert_eq!((error.kind(), error.at_offset()), (ErrorKind::OffsetOutOfRange, Some(Offset::new(13))));
    bed.kill(log);
    let log = bed.open(small());
    assert_eq!(log.offsets().log_start, 13);
    assert_eq!(all(&log), numbered(13..20));
    assert_eq!(log.advance_log_start(21).unwrap_err().kind(), ErrorKind::OffsetOutOfRange);
    log.advance_log_start(20).unwrap();
    log.close().unwrap();
    let log = bed.open(small());
    assert_eq!((log.offsets().log_start, log.offsets().end), (Offset::new(20), Offset::new(20)));
    assert_eq!(put(&log, &["x"]).base_offset, 20);
}

#[test]
fn truncation_cuts_whole_batches_and_survives_reopening() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill(&log, 0..20);
    log.truncate(7).unwrap();
    assert_eq!(log.offsets().end, 7);
    assert_eq!(all(&log), numbered(0..7));
    put(&log, &["value 7", "value 8"]);
    log.truncate(8).unwrap();
    assert_eq!(log.offsets().end, 7, "the batch that holds offset 8 goes whole");
    fill(&log, 7..9);
    bed.kill(log);
    assert_eq!(all(&bed.open(small())), numbered(0..9));
}

#[test]
fn offsets_by_time_find_the_first_record_late_enough() {
    let bed = Bed::new();
    let log = bed.open(small());
    for (n, time) in [5, 20, 10, 40, 30].into_iter().enumerate() {
        log.append_records([Record::new(format!("value {n}")).timestamp(T + time)]).unwrap();
    }
    log.sync().unwrap();
    let at = |time: i64| {
        log.offset_at(T + time, Isolation::ReadCommitted).unwrap().map(|f| (f.offset.get(), f.timestamp.get() - T))
    };
    assert_eq!(at(0), Some((0, 5)));
    assert_eq!(at(6), Some((1, 20)));
    assert_eq!(at(21), Some((3, 40)));
    assert_eq!(at(41), None);
}

#[test]
fn read_committed_stops_at_open_transactions_and_skips_aborted_ones() {
    let bed = Bed::new();
    let log = bed.open(small());
    let pid = ProducerId::new(7);
    let send = |sequence: i32, value: &str| {
        let mut batch = BatchBuilder::new().producer(pid, 0, sequence).transactional();
        batch.push(Timestamp::new(T), &Record::new(value)).unwrap();
        log.append(&batch.finish().unwrap(), LeaderEpoch::new(0)).unwrap();
        log.sync().unwrap();
    };
    let end = |outcome| {
        let marker = EndMarker { outcome, coordinator_epoch: 0 };
        let batch = BatchBuilder::end_marker(marker, pid, 0, Timestamp::new(T)).unwrap();
        log.append(&batch, LeaderEpoch::new(0)).unwrap();
        log.sync().unwrap();
    };
    put(&log, &["plain"]);
    send(0, "kept");
    assert_eq!(log.offsets().last_stable, 1);
    assert_eq!(all(&log).len(), 1);
    end(TxnOutcome::Commit);
    send(1, "dropped");
    put(&log, &["between"]);
    assert_eq!(log.offsets().last_stable, 3);
    end(TxnOutcome::Abort);
    put(&log, &["last"]);
    let expected: Vec<_> =
        [(0, "plain"), (1, "kept"), (4, "between"), (6, "last")].map(|(n, v)| (n, v.to_owned())).into();
    assert_eq!(all(&log), expected);
    assert_eq!(from(&log, Offset::ZERO, Isolation::ReadUncommitted).len(), 5);
    send(2, "open");
    log.close().unwrap();
    let log = bed.open(small());
    assert_eq!(log.offsets().last_stable, 7, "an open transaction is still open after a clean close");
    assert_eq!(all(&log), expected);
    // Without indexes and snapshots all of it comes back from the batches.
    drop(log);
    for name in bed.names() {
        if name.ends_with("index")
            || name.ends_with("snapshot")
            || name.ends_with("checkpoint")
            || name.ends_with("state")
        {
            bed.storage.remove_file(&bed.dir.join(name)).unwrap();
        }
    }
    let log = bed.open(small());
    assert_eq!(log.offsets().last_stable, 7);
    assert_eq!(all(&log), expected);
}

#[test]
fn a_duplicate_gets_the_first_copys_offsets() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    let batch = |sequence| {
        let mut batch = BatchBuilder::new().producer(ProducerId::new(1), 0, sequence);
        batch.push(Timestamp::new(T), &Record::new("x")).unwrap();
        batch.finish().unwrap()
    };
    let append = |sequence| log.append(&batch(sequence), LeaderEpoch::new(0));
    let first = append(0).unwrap();
    append(1).unwrap();
    assert_eq!(append(0).unwrap().base_offset, first.base_offset);
    assert_eq!(log.offsets().end, 2);
    assert_eq!(append(5).unwrap_err().kind(), ErrorKind::OutOfOrderSequence);
    log.close().unwrap();
    let log = bed.open(LogConfig::default());
    assert_eq!(log.append(&batch(1), LeaderEpoch::new(0)).unwrap().base_offset, 1);
}

#[test]
fn an_older_leader_epoch_is_fenced() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    let batch = || {
        let mut batch = BatchBuilder::new();
        batch.push(Timestamp::new(T), &Record::new("x")).unwrap();
        batch.finish().unwrap()
    };
    log.append(&batch(), LeaderEpoch::new(3)).unwrap();
    assert_eq!(log.append(&batch(), LeaderEpoch::new(2)).unwrap_err().kind(), ErrorKind::FencedLeaderEpoch);
    log.append(&batch(), LeaderEpoch::new(5)).unwrap();
    log.close().unwrap();
    assert_eq!(bed.file("leader-epoch-checkpoint"), b"0\n2\n3 0\n5 1\n");
    assert_eq!(bed.open(LogConfig::default()).end_offset_for_epoch(4), Some((LeaderEpoch::new(3), Offset::new(1))));
}

#[test]
fn limits_and_rules_of_the_log_are_kept() {
    let bed = Bed::new();
    let config =
        LogConfig { compacted: true, timestamp_after_max: Some(Duration::from_secs(1)), ..LogConfig::default() };
    let log = bed.open(config.max_message_bytes(200));
    let refused = |record: Record| log.append_records([record]).unwrap_err().kind();
    assert_eq!(refused(Record::new("no key")), ErrorKind::InvalidRecord);
    assert_eq!(refused(Record::new(vec![0; 300]).key("k")), ErrorKind::TooLarge);
    assert_eq!(refused(Record::new("x").key("k").timestamp(T + 2000)), ErrorKind::InvalidTimestamp);
    assert_eq!(log.append_records(Vec::<Record>::new()).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(log.offsets().end, 0);
    log.configure(LogConfig::default().timestamp_type(TimestampType::LogAppendTime)).unwrap();
    bed.clock.advance(Duration::from_millis(5));
    let appended = log.append_records([Record::new("x").timestamp(9)]).unwrap();
    assert_eq!(appended.append_time, Some(Timestamp::new(T + 5)));
    log.sync().unwrap();
    let read = log.read(0, 100, Isolation::ReadCommitted).unwrap();
    let stored = read.data_batches().next().unwrap().unwrap().decode().unwrap();
    assert_eq!(stored.iter().next().unwrap().unwrap().timestamp(), T + 5);
}

#[test]
fn retention_follows_kafkas_rules() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill(&log, 0..20);
    let total = log.size_bytes();
    log.apply_retention(None, Some(total)).unwrap();
    assert_eq!(log.offsets().log_start, 0);
    log.apply_retention(None, Some(total - 1)).unwrap();
    assert_eq!(log.offsets().log_start, 0, "a segment goes only when enough stays without it");
    log.apply_retention(None, Some(total / 2)).unwrap();
    assert!(log.offsets().log_start > 0);
    assert!(log.size_bytes() >= total / 2);
    bed.clock.advance(Duration::from_secs(10));
    put(&log, &["value 20"]);
    log.apply_retention(Some(Duration::from_secs(5)), None).unwrap();
    assert!(log.offsets().log_start <= 20 && all(&log).last().unwrap().0 == 20);
    bed.clock.advance(Duration::from_secs(10));
    log.apply_retention(Some(Duration::from_secs(5)), None).unwrap();
    assert_eq!(log.offsets().log_start, 21, "everything was old");
    assert_eq!(put(&log, &["x"]).base_offset, 21);
}

#[test]
fn segments_roll_by_record_time_and_by_a_full_index() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default().segment_age(Duration::from_millis(10)));
    for time in [0, 10, 11, 12] {
        log.append_records([Record::new("x").timestamp(T + time)]).unwrap();
    }
    log.close().unwrap();
    let bases = |bed: &Bed| bed.names().into_iter().filter(|n| n.ends_with(".log")).collect::<Vec<_>>();
    assert_eq!(bases(&bed), ["00000000000000000000.log", "00000000000000000002.log"]);

    let bed = Bed::new();
    let log = bed.open(LogConfig::default().index_interval_bytes(0).segment_index_bytes(100));
    for n in 0..14 {
        log.append_records([Record::new("x").timestamp(T - n)]).unwrap();
    }
    log.close().unwrap();
    assert_eq!(bases(&bed), ["00000000000000000000.log", "00000000000000000013.log"]);
}

#[test]
fn a_segment_rolls_before_its_relative_offsets_overflow() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    let at = |base: i64| {
        let mut batch = BatchBuilder::new().base_offset(Offset::new(base)).leader_epoch(LeaderEpoch::new(0));
        batch.push(Timestamp::new(T), &Record::new(format!("value {base}"))).unwrap();
        log.append_replica(&batch.finish().unwrap()).unwrap();
    };
    let far = i64::from(i32::MAX);
    [0, far, far + 1].into_iter().for_each(at);
    log.close().unwrap();
    let bases: Vec<_> = bed.names().into_iter().filter(|n| n.ends_with(".log")).collect();
    assert_eq!(bases, ["00000000000000000000.log", "00000000002147483648.log"]);
    let log = bed.open(LogConfig::default());
    assert_eq!(all(&log).into_iter().map(|(n, _)| n).collect::<Vec<_>>(), [0, far, far + 1]);
}

#[test]
fn a_tailing_reader_is_woken_and_a_closed_log_says_so() {
    let bed = Bed::new();
    let log = Arc::new(bed.open(LogConfig::default()));
    let reader = std::thread::spawn({
        let log = Arc::clone(&log);
        move || {
            let woken = log.wait_readable(0, Isolation::ReadCommitted, Duration::from_secs(1_000_000));
            (woken, log.wait_readable(1, Isolation::ReadCommitted, Duration::from_secs(1_000_000)))
        }
    });
    put(&log, &["x"]);
    log.close().unwrap();
    let (first, second) = reader.join().unwrap();
    assert!(matches!(first, Ok(true) | Err(_)));
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(log.append_records(["y"]).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(log.read(0, 1, Isolation::ReadCommitted).unwrap_err().kind(), ErrorKind::Closed);
    log.close().unwrap();
}

#[test]
fn a_future_resolves_when_somebody_syncs() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    let appended = log.append_records(["x"]).unwrap();
    let mut future = std::pin::pin!(log.committed(appended.position, Durability::PowerLoss));
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    log.sync().unwrap();
    assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
}

#[test]
fn many_writers_share_syncs_and_lose_nothing() {
    let bed = Bed::new();
    let log = Arc::new(bed.open(LogConfig::default().segment_bytes(20_000)));
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                for n in 0..100 {
                    put(&log, &[&format!("{w}/{n}")]);
                }
            })
        })
        .collect();
    let mut seen = Vec::new();
    while seen.len() < 400 {
        let at = seen.last().map_or(Offset::ZERO, |(n, _)| Offset::new(*n).next());
        log.wait_readable(at, Isolation::ReadCommitted, Duration::from_secs(1_000)).unwrap();
        seen.extend(from(&log, at, Isolation::ReadCommitted));
    }
    writers.into_iter().for_each(|w| w.join().unwrap());
    for w in 0..4 {
        let mine: Vec<_> =
            seen.iter().filter(|(_, v)| v.starts_with(&format!("{w}/"))).map(|(_, v)| v.clone()).collect();
        assert_eq!(mine, (0..100).map(|n| format!("{w}/{n}")).collect::<Vec<_>>());
    }
    assert_eq!(seen.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..400).collect::<Vec<_>>());
}

#[test]
fn a_reader_keeps_its_bytes_while_segments_are_deleted() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill(&log, 0..10);
    let read = log.read(0, 1, Isolation::ReadCommitted).unwrap();
    log.advance_log_start(10).unwrap();
    let batch = read.data_batches().next().unwrap().unwrap();
    assert_eq!(batch.decode().unwrap().iter().next().unwrap().unwrap().value(), Some(&b"value 0"[..]));
}

#[test]
fn only_one_handle_opens_a_log() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    let error = Log::open_on(Arc::clone(&bed.storage), Arc::new(bed.clock.clone()), &bed.dir, LogConfig::default())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    log.close().unwrap();
    bed.open(LogConfig::default());
}

/// A value that makes a batch larger than what one index interval spans.
fn large(n: i64) -> String {
    format!("{n:>020000}")
}

#[test]
fn staged_batches_do_not_hide_visible_ones() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    put(&log, &[&large(0)]);
    log.append_records([large(1)]).unwrap();
    log.append_records([large(2)]).unwrap();
    assert_eq!(all(&log), [(0, large(0))], "the index knows of batches that are in no file yet");
}

/// What a transactional producer with id 7 does.
struct Txn<'a>(&'a Log);

impl Txn<'_> {
    fn send(&self, sequence: i32, value: &str) {
        let mut batch = BatchBuilder::new().producer(ProducerId::new(7), 0, sequence).transactional();
        batch.push(Timestamp::new(T), &Record::new(value)).unwrap();
        self.0.append(&batch.finish().unwrap(), LeaderEpoch::new(0)).unwrap();
        self.0.sync().unwrap();
    }

    fn end(&self, outcome: TxnOutcome) {
        let marker = EndMarker { outcome, coordinator_epoch: 0 };
        let batch = BatchBuilder::end_marker(marker, ProducerId::new(7), 0, Timestamp::new(T)).unwrap();
        self.0.append(&batch, LeaderEpoch::new(0)).unwrap();
        self.0.sync().unwrap();
    }
}

#[test]
fn aborts_before_and_after_a_reopening_are_both_known() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    Txn(&log).send(0, "aborted before");
    Txn(&log).end(TxnOutcome::Abort);
    log.close().unwrap();
    let log = bed.open(LogConfig::default());
    Txn(&log).send(1, "aborted after");
    Txn(&log).end(TxnOutcome::Abort);
    assert_eq!(all(&log), []);
    log.close().unwrap();
    assert_eq!(all(&bed.open(LogConfig::default())), []);
}

#[test]
fn aborted_records_stay_hidden_when_their_producer_is_forgotten() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    Txn(&log).send(0, "aborted");
    Txn(&log).end(TxnOutcome::Abort);
    log.close().unwrap();
    bed.clock.set_wall(Timestamp::new(T + 7 * 24 * 3_600_000));
    assert_eq!(all(&bed.open(LogConfig::default())), []);
}

#[test]
fn a_truncation_that_takes_a_marker_opens_its_transaction_again() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    put(&log, &["plain"]);
    Txn(&log).send(0, "cut open");
    Txn(&log).end(TxnOutcome::Abort);
    log.close().unwrap();
    let log = bed.open(LogConfig::default());
    log.truncate(2).unwrap();
    assert_eq!(log.offsets().last_stable, 1);
    assert_eq!(all(&log).len(), 1);
    Txn(&log).end(TxnOutcome::Commit);
    let kept = [(0, "plain".to_owned()), (1, "cut open".to_owned())];
    assert_eq!(all(&log), kept);
    log.close().unwrap();
    assert_eq!(all(&bed.open(LogConfig::default())), kept, "the file does not remember the abort that was cut");
}

/// A log on a disk that loses power.
struct Cuttable {
    disk: SimStorage,
}

impl Cuttable {
    fn new() -> Self {
        let disk = SimStorage::new();
        disk.create_dir(Path::new("data")).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        Self { disk }
    }

    /// Seed 0 loses all that a cut may take, seed 1 nothing.
    fn after_cut(&self, seed: u64) -> Self {
        let choice = match seed {
            0 => Choice::Nothing,
            1 => Choice::All,
            _ => Choice::Journaled(seed),
        };
        Self { disk: self.disk.crash(choice) }
    }

    fn open(&self, config: LogConfig) -> Log {
        self.open_from(config, Offset::ZERO)
    }

    fn open_from(&self, config: LogConfig, log_start: Offset) -> Log {
        Log::open_in(self.context(log_start), Path::new("data/t-0"), config).unwrap()
    }

    fn context(&self, log_start: Offset) -> LogContext {
        let storage: Arc<dyn Storage> = Arc::new(self.disk.clone());
        let state = StateFile::open(&*storage, Path::new("data/thalweg.state")).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::new(T)));
        LogContext {
            time: Arc::new(SteadyTime::new(Arc::clone(&clock), None)),
            clock,
            findings: Arc::default(),
            buffers: BufferPool::default(),
            partition: TopicPartition::new("t", 0),
            topic_id: Some(Uuid::from_bytes([7; 16])),
            slot: Some(state.slot(Uuid::from_bytes([7; 16]), 0.into())),
            boot_id: self.disk.boot_id(),
            log_start,
            recovery_point: Offset::ZERO,
            outside: Outside::default(),
            meter: Arc::default(),
            syncs: Arc::default(),
            storage,
        }
    }
}

/// Reads everything there is, which must be the values appended at those offsets.
fn check_contents(log: &Log, what: &str) {
    for (offset, value) in from(log, log.offsets().log_start, Isolation::ReadUncommitted) {
        assert_eq!(value, format!("value {offset}"), "{what}");
    }
}

#[test]
fn a_power_cut_takes_nothing_that_was_durable_and_leaves_nothing_in_the_way() {
    for seed in 0..60 {
        let before = Cuttable::new();
        let log = before.open(small());
        fill(&log, 0..7);
        // One group over several segments, written in part when the power goes.
        for n in 7..20 {
            log.append_records([format!("value {n}")]).unwrap();
        }
        log.inner().write_now().unwrap();
        let durable = log.offsets().frontier.get();
        assert!(durable >= 7);
        let after = before.after_cut(seed);
        let log = after.open(small());
        let what = format!("seed {seed}, {:?}", log.recovery());
        assert!(!log.recovery().rows.contains(&RecoveryRow::DamagedSegment), "{what}");
        assert!(log.offsets().end >= durable, "{what}");
        let kept = all(&log);
        assert_eq!(kept, numbered(0..kept.len() as i64), "{what}");
        assert!(kept.len() as i64 >= durable, "{what}");
        let next = log.offsets().end.get();
        fill(&log, next..next + 3);
        assert_eq!(all(&log), [kept, numbered(next..next + 3)].concat(), "{what}");
    }
}

#[test]
fn offsets_that_were_shown_are_not_given_out_again_after_two_power_cuts() {
    let weak = || small().durability(Durability::ProcessCrash);
    for seed in 0..40 {
        let first = Cuttable::new();
        let log = first.open(weak());
        fill(&log, 0..3);
        for n in 3..9 {
            let appended = log.append_records([format!("value {n}")]).unwrap();
            log.wait(appended.position, Durability::ProcessCrash).unwrap();
        }
        assert_eq!(log.offsets().high_watermark, 9);
        let second = first.after_cut(seed);
        let log = second.open(weak());
        assert!(log.offsets().end >= 9, "seed {seed}");
        check_contents(&log, "after one cut");
        // Staged and written, but never synced.
        let end = log.offsets().end;
        log.append_records([format!("value {end}")]).unwrap();
        log.inner().write_now().unwrap();
        let third = second.after_cut(seed.wrapping_mul(31));
        let log = third.open(weak());
        assert!(log.offsets().end >= 9, "seed {seed}: {:?}", log.recovery());
        check_contents(&log, "after two cuts");
    }
}

#[test]
fn a_deletion_survives_a_power_cut_after_reopening() {
    for seed in 0..50 {
        let before = Cuttable::new();
        let log = before.open(small());
        fill(&log, 0..9);
        log.advance_log_start(5).unwrap();
        log.close().unwrap();
        let log = before.open(small());
        // The first note after a reopening is not synced.
        log.append_records(["value 9"]).unwrap();
        log.inner().write_now().unwrap();
        let log = before.after_cut(seed).open(small());
        assert_eq!(log.offsets().log_start, 5, "seed {seed}");
    }
}

#[test]
fn a_waiter_is_told_when_maintenance_lets_go_of_the_writer_lock() {
    let bed = Bed::new();
    let log = Arc::new(bed.open(small()));
    let appended = log.append_records(["value 0"]).unwrap();
    let inner = log.inner();
    let busy = inner.writer();
    let waiter = std::thread::spawn({
        let log = Arc::clone(&log);
        move || log.wait(appended.position, Durability::PowerLoss)
    });
    while !log.inner().waiters.are_there() {
        std::thread::yield_now();
    }
    drop(busy);
    waiter.join().unwrap().unwrap();
}

#[test]
fn missing_durable_bytes_leave_a_gap_and_a_report() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    fill(&log, 0..9);
    log.close().unwrap();
    let batch = bed.file("00000000000000000000.log").len() / 9;
    let file = bed.storage.open(&bed.dir.join("00000000000000000000.log"), OpenMode::Write).unwrap();
    file.set_len(3 * batch as u64).unwrap();
    for _ in 0..2 {
        let log = bed.open(LogConfig::default());
        assert!(log.recovery().rows.contains(&RecoveryRow::DamagedTail));
        assert_eq!(
            (log.recovery().damaged.clone(), log.offsets().end),
            (vec![Offset::new(3)..Offset::new(9)], Offset::new(9))
        );
        assert_eq!(log.read(0, 1 << 20, Isolation::ReadCommitted).unwrap().next_offset(), 3);
        let lost = log.read(3, 100, Isolation::ReadCommitted).unwrap_err();
        let range = Offset::new(3)..Offset::new(9);
        assert_eq!((lost.kind(), lost.at_offsets()), (ErrorKind::Corrupt, Some(range)));
        bed.kill(log);
    }
}

#[test]
fn a_lost_epoch_checkpoint_is_rebuilt_whole() {
    let bed = Bed::new();
    let log = bed.open(small());
    for epoch in 0..6 {
        let mut batch = BatchBuilder::new();
        batch.push(Timestamp::new(T), &Record::new(format!("{epoch:>150}"))).unwrap();
        log.append(&batch.finish().unwrap(), LeaderEpoch::new(epoch)).unwrap();
    }
    log.close().unwrap();
    let whole = bed.file("leader-epoch-checkpoint");
    bed.storage.remove_file(&bed.dir.join("leader-epoch-checkpoint")).unwrap();
    let log = bed.open(small());
    // A sync with nothing to write does not forget it either.
    log.sync().unwrap();
    assert_eq!(bed.file("leader-epoch-checkpoint"), whole);
    bed.kill(log);
}

#[test]
fn a_segment_keeps_its_age_over_a_reopening() {
    let bed = Bed::new();
    let config = || LogConfig::default().segment_age(Duration::from_secs(3600));
    let log = bed.open(config());
    put(&log, &["old"]);
    log.close().unwrap();
    let log = bed.open(config());
    bed.clock.advance(Duration::from_secs(3601));
    bed.kill(log);
    let log = bed.open(config());
    put(&log, &["new"]);
    assert!(bed.names().contains(&"00000000000000000001.log".to_owned()), "{:?}", bed.names());
}

#[test]
fn a_directory_without_partition_metadata_gets_it() {
    let cut = Cuttable::new();
    let log = cut.open(small());
    fill(&log, 0..2);
    drop(log);
    let path = Path::new("data/t-0/partition.metadata");
    cut.disk.remove_file(path).unwrap();
    fill(&cut.open(small()), 2..3);
    assert!(cut.disk.metadata(path).is_ok());
}

#[test]
fn rot_without_a_power_cut_costs_no_acknowledged_record_and_no_offset() {
    let bed = Bed::new();
    // The slot's note of the frontier is old by now: it was made before the first append.
    let log = bed.open(LogConfig::default());
    fill(&log, 0..9);
    let batch = log.size_bytes() / 9;
    bed.kill(log);
    bed.overwrite("00000000000000000000.log", 3 * batch + 70, &[0xff]);
    for _ in 0..2 {
        let log = bed.open(LogConfig::default());
        assert_eq!(log.recovery().rows, [RecoveryRow::DamagedTail]);
        assert_eq!(log.offsets().end, 9, "offsets behind the damage were given out");
        let damaged = log.read(3, 100, Isolation::ReadCommitted).unwrap_err();
        assert_eq!(damaged.kind(), ErrorKind::Corrupt);
        assert_eq!(from(&log, Offset::new(4), Isolation::ReadCommitted), numbered(4..9));
        bed.kill(log);
    }
    let log = bed.open(LogConfig::default());
    assert_eq!(put(&log, &["value 9"]).base_offset, 9);
    assert_eq!(from(&log, Offset::new(4), Isolation::ReadCommitted), numbered(4..10));
}

#[test]
fn a_length_that_announces_too_much_costs_no_memory() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    fill(&log, 0..3);
    let batch = log.size_bytes() / 3;
    // As large as the file is, and never a batch.
    let len = 4_u32 << 20;
    let file = bed.storage.open(&bed.dir.join("00000000000000000000.log"), OpenMode::Write).unwrap();
    file.write_all_at(&(len - 12).to_be_bytes(), 2 * batch + 8).unwrap();
    file.set_len(2 * batch + u64::from(len)).unwrap();
    log.inner().segments.load()[0].set_written(2 * batch + u64::from(len));
    assert_eq!(log.read(2, 100, Isolation::ReadCommitted).unwrap_err().kind(), ErrorKind::Corrupt);
    bed.kill(log);
    let log = bed.open(LogConfig::default());
    // No write was cut short: all bytes that it announces are there.
    assert_eq!(log.recovery().rows, [RecoveryRow::DamagedTail]);
    assert_eq!(log.read(0, 1 << 20, Isolation::ReadCommitted).unwrap().next_offset(), 2);
}

#[test]
fn a_wrong_index_hides_no_record() {
    let nonsense: [fn(&mut Vec<u8>); 3] = [
        // Entry 3 points to the batch of entry 5.
        |index| index.copy_within(5 * 8 + 4..6 * 8, 3 * 8 + 4),
        // It points into a batch.
        |index| index[3 * 8 + 7] += 1,
        // The last entry names an offset that the segment does not reach.
        |index| *index.last_chunk_mut::<8>().unwrap().first_chunk_mut::<4>().unwrap() = [0, 1, 0, 0],
    ];
    for spoil in nonsense {
        let bed = Bed::new();
        let config = || LogConfig::default().index_interval_bytes(0);
        let log = bed.open(config());
        fill(&log, 0..9);
        log.close().unwrap();
        let mut index = bed.file("00000000000000000000.index");
        // Entries rise, so that only the batches can tell.
        spoil(&mut index);
        let kept = index.len().min(if index[3 * 8 + 4..4 * 8] == index[5 * 8 + 4..6 * 8] { 4 * 8 } else { 999 });
        bed.storage.remove_file(&bed.dir.join("00000000000000000000.index")).unwrap();
        bed.overwrite("00000000000000000000.index", 0, &index[..kept]);
        let log = bed.open(config());
        for at in 0..9 {
            assert_eq!(from(&log, Offset::new(at), Isolation::ReadCommitted), numbered(at..9), "from {at}");
        }
        fill(&log, 9..12);
        assert_eq!(all(&log), numbered(0..12));
    }
}

#[test]
fn an_interrupted_cleaning_is_finished_or_undone() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill(&log, 0..12);
    log.close().unwrap();
    let bases: Vec<_> = bed.names().into_iter().filter(|n| n.ends_with(".log")).collect();
    let whole: Vec<u8> = bases[..2].iter().flat_map(|name| bed.file(name)).collect();
    // The first two segments became one; the broker died when the originals waited for deletion.
    bed.overwrite(&format!("{}.swap", bases[0]), 0, &whole);
    for name in &bases[..2] {
        bed.storage.rename(&bed.dir.join(name), &bed.dir.join(format!("{name}.deleted"))).unwrap();
    }
    bed.overwrite(&format!("{}.cleaned", bases[2]), 0, b"not complete");
    let log = bed.open(small());
    assert_eq!(all(&log), numbered(0..12));
    let odd: Vec<_> = bed.names().into_iter().filter(|n| n.matches('.').count() > 1).collect();
    assert_eq!((odd, bed.file(&bases[0]) == whole), (vec![], true));
    assert!(!bed.names().contains(&bases[1]));
}

#[test]
fn a_log_start_beyond_the_end_deletes_nothing() {
    let cut = Cuttable::new();
    let log = cut.open(small());
    fill(&log, 0..9);
    log.close().unwrap();
    for (noted, start) in [(1_000, 0), (4, 4)] {
        let log = cut.open_from(small(), noted.into());
        assert_eq!(all(&log), numbered(start..9), "checkpoint {noted}");
        log.close().unwrap();
    }
    // The metadata log goes on where its snapshot ends.
    let context = LogContext { slot: None, ..cut.context(Offset::new(1_000)) };
    let log = Log::open_in(context, Path::new("data/t-0"), small()).unwrap();
    assert_eq!((log.offsets().log_start, log.offsets().end), (Offset::new(1_000), Offset::new(1_000)));
}

#[test]
fn everything_at_once_harms_nobody() {
    for config in [small(), small().durability(Durability::ProcessCrash)] {
        let bed = Bed::new();
        let log = &bed.open(config.clone());
        let done = &AtomicBool::new(false);
        let until_done = |work: fn(&Log)| {
            move || {
                while !done.load(Ordering::Acquire) {
                    work(log);
                    std::thread::yield_now();
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(until_done(|log| log.run_maintenance().unwrap()));
            scope.spawn(until_done(|log| {
                let start = (log.offsets().high_watermark + -20).max(Offset::ZERO);
                // A truncation may come between.
                log.advance_log_start(start).map_err(|e| assert_eq!(e.kind(), ErrorKind::OffsetOutOfRange)).ok();
            }));
            scope.spawn(until_done(|log| {
                let at = log.offsets().log_start;
                match log.read(at, 500, Isolation::ReadCommitted) {
                    Ok(read) => assert!(read.batches().all(|batch| batch.is_ok())),
                    Err(e) => assert_eq!(e.kind(), ErrorKind::OffsetOutOfRange, "{e}"),
                }
            }));
            scope.spawn(until_done(|log| {
                (0..100).for_each(|_| std::thread::yield_now());
                log.truncate((log.offsets().end + -3).max(log.offsets().log_start)).unwrap();
            }));
            let writers: Vec<_> = [Durability::PowerLoss, Durability::ProcessCrash, Durability::None]
                .map(|level| {
                    scope.spawn(move || {
                        for n in 0..150 {
                            let appended = log.append_records([format!("{level:?} {n}")]).unwrap();
                            match log.wait(appended.position, level) {
                                Err(e) if e.kind() != ErrorKind::Indeterminate => panic!("{e}"),
                                _ => {}
                            }
                        }
                    })
                })
                .into();
            let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            done.store(true, Ordering::Release);
            assert!(ended.iter().all(Result::is_ok));
        });
        let end = log.offsets().end;
        log.close().unwrap();
        let log = bed.open(config);
        assert_eq!((log.recovery().rows.clone(), log.offsets().end), (vec![RecoveryRow::Clean], end));
        all(&log);
    }
}

#[test]
fn an_append_during_a_close_is_in_the_log_or_nowhere() {
    for _ in 0..20 {
        let bed = Bed::new();
        let log = &bed.open(LogConfig::default());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| while log.append_records(["value"]).is_ok() {});
            }
            scope.spawn(|| {
                while log.offsets().end < 3 {
                    std::thread::yield_now();
                }
                log.close().unwrap();
            });
        });
        let log = bed.open(LogConfig::default());
        let end = usize::try_from(log.offsets().end.get()).unwrap();
        assert_eq!(all(&log).len(), end, "the end that was noted lies beyond the records");
    }
}

#[test]
fn a_truncation_below_the_first_segment_begins_anew_there() {
    let bed = Bed::new();
    let log = bed.open(small());
    fill(&log, 0..12);
    log.advance_log_start(10).unwrap();
    log.truncate(2).unwrap();
    assert_eq!((log.offsets().log_start, log.offsets().end), (Offset::new(2), Offset::new(2)));
    fill(&log, 2..8);
    assert_eq!(all(&log), numbered(2..8));
    bed.kill(log);
    assert_eq!(all(&bed.open(small())), numbered(2..8));
}

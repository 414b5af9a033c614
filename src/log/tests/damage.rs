//! Damage of every kind: what is sound is served, what is not is a typed error with its offsets, and no offset is
//! given out twice.

use std::collections::BTreeMap;
use std::ops::Range;

use super::*;
use crate::finding::FindingKind;
use crate::record::BatchHeader;

const STATE: &str = "log.state";

/// What reading everything brings: records, and the offsets that are errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) records: BTreeMap<i64, String>,
    pub(super) damaged: Vec<(i64, i64)>,
    epochs: Vec<i32>,
}

pub(super) fn outcome(log: &Log) -> Outcome {
    let mut outcome = Outcome::default();
    let mut at = log.offsets().log_start;
    loop {
        let read = match log.read(at, 100, Isolation::ReadUncommitted) {
            Ok(read) => read,
            Err(e) => {
                assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{e:?}");
                let Range { start, end } = e.at_offsets().unwrap_or_else(|| panic!("no offsets: {e}"));
                assert!(end > at, "{e}: reading cannot go on from {at}");
                outcome.damaged.push((start.get(), end.get()));
                at = end;
                continue;
            }
        };
        if read.next_offset() == at {
            return outcome;
        }
        for batch in read.data_batches() {
            let batch = batch.unwrap();
            outcome.epochs.push(batch.header().leader_epoch().get());
            for record in batch.decode().unwrap().iter() {
                let record = record.unwrap();
                let value = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
                if record.offset() >= at {
                    outcome.records.insert(record.offset().get(), value);
                }
            }
        }
        at = read.next_offset();
    }
}

/// The files of a log of three segments, with batches of one to three records in three leader epochs.
struct Sample {
    files: Vec<(String, Vec<u8>)>,
    /// File, positions and offsets of each batch.
    batches: Vec<(String, Range<usize>, Range<i64>)>,
    end: i64,
}

impl Sample {
    fn new(close: bool) -> Self {
        let bed = Bed::new();
        let log = bed.open(small());
        let mut end = 0;
        for n in 0..9_i64 {
            let mut batch = BatchBuilder::new();
            for _ in 0..=n % 3 {
                batch.push(Timestamp::new(T + n), &Record::new(format!("value {end}"))).unwrap();
                end += 1;
            }
            let epoch = LeaderEpoch::new([0, 0, 0, 1, 1, 2, 2, 2, 2][usize::try_from(n).unwrap()]);
            let appended = log.append(&batch.finish().unwrap(), epoch).unwrap();
            log.wait(appended.position, Durability::PowerLoss).unwrap();
        }
        if close {
            log.close().unwrap();
        } else {
            bed.kill(log);
        }
        let mut files: Vec<_> = bed.names().into_iter().map(|name| (name.clone(), bed.file(&name))).collect();
        let mut batches = Vec::new();
        for (name, bytes) in files.iter_mut().filter(|(name, _)| name.ends_with(".log")) {
            let mut at = 0;
            // Room for more comes with a test of its own.
            while bytes[at..].iter().any(|&byte| byte != 0) {
                let header = BatchHeader::parse(&bytes[at..]).unwrap();
                let offsets = header.base_offset().get()..header.next_offset().get();
                batches.push((name.clone(), at..at + header.size_bytes(), offsets));
                at += header.size_bytes();
            }
            bytes.truncate(at);
        }
        assert!(files.iter().filter(|(name, _)| name.ends_with(".log")).count() >= 3);
        Self { files, batches, end }
    }

    /// A directory with these files, but for those whose names end in one of `without`.
    fn bed(&self, without: &[&str]) -> Bed {
        let bed = Bed::new();
        bed.storage.create_dir(&bed.dir).unwrap();
        for (name, bytes) in self.files.iter().filter(|(name, _)| !without.iter().any(|end| name.ends_with(end))) {
            bed.overwrite(name, 0, bytes);
        }
        bed
    }

    fn last(&self) -> &(String, Range<usize>, Range<i64>) {
        self.batches.last().unwrap()
    }
}

pub(super) fn context(bed: &Bed, outside: Outside, recovery_point: i64) -> LogContext {
    let state = StateFile::open(&*bed.storage, &bed.dir.join("../state")).unwrap();
    LogContext {
        storage: Arc::clone(&bed.storage),
        clock: Arc::new(bed.clock.clone()),
        time: Arc::new(SteadyTime::new(Arc::new(bed.clock.clone()), None)),
        findings: Arc::default(),
        buffers: BufferPool::default(),
        partition: TopicPartition::new("t", 0),
        topic_id: None,
        slot: Some(state.slot(Uuid::ZERO, 0.into())),
        boot_id: [7; 16],
        log_start: Offset::ZERO,
        recovery_point: Offset::new(recovery_point),
        outside,
        meter: Arc::default(),
        syncs: Arc::default(),
    }
}

/// Opens a directory that somebody else wrote.
fn open_foreign(bed: &Bed, outside: Outside, recovery_point: i64, config: LogConfig) -> Log {
    // As the broker does when another program had the directory.
    for name in bed.names().into_iter().filter(|name| name.ends_with(".seal")) {
        bed.storage.remove_file(&bed.dir.join(name)).unwrap();
    }
    let context = context(bed, outside, recovery_point);
    if let Some(slot) = context.slot.as_ref().filter(|slot| slot.load().is_none()) {
        slot.store(&SlotState::foreign()).unwrap();
    }
    Log::open_in(context, &bed.dir, config).unwrap()
}

pub(super) fn findings(log: &Log, kind: FindingKind) -> Vec<(i64, i64)> {
    let of_kind = log.inner().context.findings.all().into_iter().filter(|f| f.kind == kind);
    of_kind.map(|f| f.offsets.map_or((0, 0), |o| (o.start.get(), o.end.get()))).collect()
}

/// One flipped byte costs at most its own batch; what is wrong is told; new offsets are new.
fn check_flip(sample: &Sample, bed: &Bed, position: usize, batch: &Range<i64>, what: &str) {
    let log = bed.open(small());
    let seen = outcome(&log);
    for n in 0..sample.end {
        let is_damaged = seen.damaged.iter().any(|&(from, to)| (from..to).contains(&n));
        match seen.records.get(&n) {
            Some(value) => assert_eq!(value, &format!("value {n}"), "{what}"),
            None => {
                assert!(batch.contains(&n), "{what}: offset {n} is not served: {seen:?}, {:?}", log.recovery());
                let cut = log.recovery().rows.contains(&RecoveryRow::TornTail);
                assert!(is_damaged || cut, "{what}: offset {n} is silently gone");
            }
        }
    }
    for (from, to) in &seen.damaged {
        assert!(batch.start <= *from && *to <= batch.end, "{what}: {from}..{to} of {batch:?}");
    }
    let told = log.inner().context.findings.all();
    assert!(told.len() <= 2, "{what}: {told:?}");
    let next = put(&log, &["new"]).base_offset;
    assert!(next >= sample.end, "{what}: {next} was given out before");
    if !position.is_multiple_of(3) {
        return;
    }
    log.close().unwrap();
    let again = bed.open(small());
    let mut expected = seen;
    expected.records.insert(next.get(), "new".to_owned());
    let second = outcome(&again);
    assert_eq!((second.records, second.damaged), (expected.records, expected.damaged), "{what}");
    assert_eq!(again.recovery().rows, [RecoveryRow::Clean], "{what}");
}

#[test]
fn any_flipped_byte_costs_at_most_its_batch_and_is_told() {
    let samples = [(Sample::new(true), &[][..]), (Sample::new(false), &[][..]), (Sample::new(true), &[STATE][..])];
    for (at, (sample, without)) in samples.iter().enumerate() {
        for (name, positions, offsets) in &sample.batches {
            // The others differ at the end of the log.
            let step = if at == 0 { 1 } else { 8 };
            for position in positions.clone().step_by(step) {
                let bed = sample.bed(without);
                let bytes = &sample.files.iter().find(|(file, _)| file == name).unwrap().1;
                let mask = if position % 3 == 0 { 0xff } else { 1 << (position % 8) };
                bed.overwrite(name, position as u64, &[bytes[position] ^ mask]);
                let what =
                    format!("sample {at}, {name} {position} (in batch {}) ^ {mask:02x}", position - positions.start);
                check_flip(sample, &bed, position, offsets, &what);
            }
        }
    }
}

#[test]
fn fields_outside_the_checksum_are_served_corrected() {
    let sample = Sample::new(true);
    let whole = outcome(&sample.bed(&[]).open(small()));
    // Base offset, length, leader epoch, magic.
    for (field, mask) in [
        (0, 0x80),
        (6, 1),
        (7, 2),
        (7, 0xff),
        (10, 1),
        (11, 4),
        (12, 0x40),
        (12, 0x80),
        (15, 1),
        (15, 2),
        (16, 2),
        (16, 3),
    ] {
        for without in [&[][..], &[STATE, "index"][..]] {
            for (name, positions, offsets) in &sample.batches {
                // Without a slot nobody bears witness to the epoch of a batch that is alone in its segment.
                if (12..16).contains(&field) && !without.is_empty() && offsets.end == sample.end {
                    continue;
                }
                let bed = sample.bed(without);
                let at = positions.start + field;
                let bytes = &sample.files.iter().find(|(file, _)| file == name).unwrap().1;
                bed.overwrite(name, at as u64, &[bytes[at] ^ mask]);
                let log = bed.open(small());
                let what = format!("{name} {offsets:?} byte {field} ^ {mask:x}, {:?}", log.recovery());
                assert_eq!(outcome(&log), whole, "{what}");
                let told = findings(&log, FindingKind::Corrected);
                assert_eq!(told, [(offsets.start, offsets.end)], "{what}");
                for n in offsets.clone() {
                    assert_eq!(
                        log.read(n, 1, Isolation::ReadUncommitted).unwrap().next_offset(),
                        offsets.end,
                        "{what}"
                    );
                }
            }
        }
    }
}

#[test]
fn damage_in_the_middle_hides_nothing_behind_it() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    fill(&log, 0..20);
    let batch = log.size_bytes() / 20;
    log.close().unwrap();
    // A page of zeros over parts of four batches, and a length that leads nowhere.
    bed.overwrite("00000000000000000000.log", 5 * batch + 9, &vec![0; 3 * batch as usize]);
    bed.overwrite("00000000000000000000.log", 12 * batch + 8, &[0x7f; 60]);
    for _ in 0..2 {
        let log = bed.open(LogConfig::default());
        let seen = outcome(&log);
        assert_eq!(seen.damaged, [(5, 9), (12, 13)]);
        let sound = (0..5).chain(9..12).chain(13..20);
        assert_eq!(seen.records, sound.map(|n| (n, format!("value {n}"))).collect());
        assert_eq!(findings(&log, FindingKind::Damaged), [(5, 9), (12, 13)]);
        // An application that iterates meets each place once.
        assert_eq!(log.offset_at(T, Isolation::ReadCommitted).unwrap().unwrap().offset, 0);
        bed.kill(log);
    }
}

#[test]
fn rot_that_appears_while_the_log_is_open_is_found_by_the_read() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    fill(&log, 0..9);
    let batch = log.size_bytes() / 9;
    bed.overwrite("00000000000000000000.log", 4 * batch + 8, &[0, 1]);
    bed.overwrite("00000000000000000000.log", 6 * batch + 7, &[99]);
    bed.overwrite("00000000000000000000.log", 8 * batch + 70, &[99]);
    let seen = outcome(&log);
    assert_eq!((seen.records.len(), seen.damaged), (8, vec![(8, 9)]));
    assert_eq!(findings(&log, FindingKind::Corrected), [(4, 5), (6, 7)]);
    // What is appended behind it is read as ever.
    fill(&log, 9..12);
    let seen = outcome(&log);
    assert_eq!((seen.records.len(), seen.damaged), (11, vec![(8, 9)]));
}

/// A tail of the given kind behind a whole log; what is served and given out.
#[test]
fn no_tail_hides_or_repeats_a_record() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = |len: usize| -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        for _ in 0..len {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes.push(random.to_be_bytes()[0]);
        }
        bytes
    };
    let sample = Sample::new(false);
    let (last_file, last, _) = sample.last().clone();
    let bytes_of = |file: &str| &sample.files.iter().find(|(name, _)| name == file).unwrap().1;
    let duplicate = bytes_of(&last_file)[last.clone()].to_vec();
    let (first_file, first, _) = &sample.batches[0];
    let earlier = bytes_of(first_file)[first.clone()].to_vec();
    let mut tails = vec![vec![0; 300], duplicate.clone(), earlier, duplicate[..40].to_vec(), duplicate[..80].to_vec()];
    tails.extend((1..40).map(|n| noise(n * 7)));
    for (at, tail) in tails.iter().enumerate() {
        for without in [&[][..], &[STATE][..], &[STATE, "index"][..]] {
            let bed = sample.bed(without);
            bed.overwrite(&last_file, bytes_of(&last_file).len() as u64, tail);
            let log = bed.open(small());
            let what = format!("tail {at} without {without:?}: {:?}", log.recovery());
            let row = if tail.iter().all(|byte| *byte == 0) { RecoveryRow::Scanned } else { RecoveryRow::TornTail };
            assert!(log.recovery().rows.contains(&row), "{what}");
            let seen = outcome(&log);
            assert_eq!((seen.records.len() as i64, seen.damaged.len()), (sample.end, 0), "{what}");
            let next = put(&log, &["new"]).base_offset;
            assert!(next >= sample.end, "{what}");
            bed.kill(log);
            let log = bed.open(small());
            assert_eq!(log.recovery().rows[0], RecoveryRow::Scanned, "{what}");
            assert_eq!(outcome(&log).records.get(&next.get()).map(String::as_str), Some("new"), "{what}");
        }
    }
}

#[test]
fn a_foreign_torn_tail_is_cut_or_kept_by_what_is_known_of_the_log() {
    let sample = Sample::new(false);
    let (file, torn, offsets) = sample.last().clone();
    let open = |cut: usize, outside: Outside, recovery_point: i64| {
        let bed = sample.bed(&[STATE]);
        let path = bed.dir.join(&file);
        bed.storage.open(&path, OpenMode::Write).unwrap().set_len((torn.end - cut) as u64).unwrap();
        (open_foreign(&bed, outside, recovery_point, small()), bed)
    };
    let nothing = Outside::default();
    // Beyond all evidence: cut. Its header can be read, and its offsets are not used again.
    let (log, bed) = open(5, nothing, 0);
    assert_eq!(log.recovery().rows, [RecoveryRow::TornTail, RecoveryRow::Reserved]);
    assert_eq!(
        (log.offsets().end.get(), findings(&log, FindingKind::Skipped)),
        (offsets.end, vec![(offsets.start, offsets.end)])
    );
    assert!(log.lowest_epoch() > log.leader_epoch());
    assert_eq!(outcome(&log).damaged, []);
    // Also when nothing was appended before the next open.
    log.close().unwrap();
    let log = open_foreign(&bed, nothing, 0, small());
    assert_eq!((log.offsets().end.get(), outcome(&log).damaged), (offsets.end, vec![]));
    // Known to have been there: kept, and reads of it say so.
    for (outside, point) in [
        (nothing, offsets.end),
        (Outside { high_watermark: Offset::new(offsets.end), ..nothing }, 0),
        (Outside { clean: true, ..nothing }, 0),
    ] {
        for cut in [5, torn.len() - 70, torn.len() - 20] {
            let (log, bed) = open(cut, outside, point);
            assert_eq!(log.recovery().rows[0], RecoveryRow::DamagedTail, "{outside:?} {point} {cut}");
            let seen = outcome(&log);
            assert_eq!(seen.records.len() as i64, offsets.start, "all that is sound is served");
            assert_eq!(seen.damaged[0].0, offsets.start);
            let next = put(&log, &["new"]).base_offset.get();
            assert!(next > offsets.start && (cut == torn.len() - 20 || next >= offsets.end), "{next}");
            log.close().unwrap();
            let log = open_foreign(&bed, outside, point, small());
            assert_eq!(log.recovery().rows, [RecoveryRow::Clean]);
            assert_eq!(outcome(&log).records.get(&next).map(String::as_str), Some("new"));
        }
    }
}

#[test]
fn zeros_at_the_end_are_never_offsets() {
    for clean in [false, true] {
        let sample = Sample::new(true);
        let bed = sample.bed(&[STATE]);
        let (file, last, _) = sample.last();
        bed.overwrite(file, last.end as u64, &[0; 5000]);
        let outside = Outside { clean, ..Outside::default() };
        let log = open_foreign(&bed, outside, sample.end, small());
        // Space that was made ahead is neither damage nor worth telling.
        assert!(log.recovery().rows.contains(&RecoveryRow::Scanned), "{:?}", log.recovery());
        assert_eq!((log.offsets().end.get(), log.recovery().cut_bytes), (sample.end, 0));
        assert_eq!(bed.file(file).len(), last.end);
    }
}

#[test]
fn offsets_that_a_stock_broker_noted_are_not_used_again() {
    let sample = Sample::new(true);
    for (outside, point, without) in [
        (Outside { high_watermark: Offset::new(100), ..Outside::default() }, 0, &[STATE][..]),
        (Outside::default(), 100, &[STATE][..]),
    ] {
        let bed = sample.bed(without);
        let log = open_foreign(&bed, outside, point, small());
        assert_eq!(log.offsets().end.get(), 100);
        assert_eq!(findings(&log, FindingKind::Lost), [(sample.end, 100)]);
        assert_eq!(outcome(&log).damaged, [(sample.end, 100)]);
        assert_eq!(put(&log, &["new"]).base_offset, 100);
        log.close().unwrap();
        let log = open_foreign(&bed, outside, point, small());
        assert_eq!(outcome(&log).damaged, [(sample.end, 100)], "told again");
    }
}

#[test]
fn an_index_ahead_of_the_log_keeps_its_offsets_from_being_used_again() {
    // Kafka's index files reach the disk by themselves: after a power cut one may know of batches that are gone.
    for (recovery_point, end) in [(0, 9), (6, 7)] {
        let bed = Bed::new();
        let config = || LogConfig::default().index_interval_bytes(0);
        let log = bed.open(config());
        fill(&log, 0..9);
        let batch = log.size_bytes() / 9;
        log.close().unwrap();
        bed.storage.remove_file(&bed.dir.join("00000000000000000009.snapshot")).unwrap();
        let path = bed.dir.join("00000000000000000000.log");
        bed.storage.open(&path, OpenMode::Write).unwrap().set_len(6 * batch + 20).unwrap();
        let log = open_foreign(&bed, Outside::default(), recovery_point, config());
        assert_eq!(log.offsets().end, end, "{:?}", log.recovery());
        assert_eq!(outcome(&log).records.len(), 6);
    }
}

#[test]
fn a_missing_segment_is_an_error_with_its_offsets() {
    for config in [small(), LogConfig { compacted: true, ..small() }] {
        for close in [true, false] {
            let sample = Sample::new(close);
            let logs: Vec<_> = sample.files.iter().map(|(name, _)| name).filter(|n| n.ends_with(".log")).collect();
            let base = |at: usize| logs[at].trim_end_matches(".log").parse::<i64>().unwrap();
            let stem = logs[1].trim_end_matches(".log");
            let bed = sample.bed(&[]);
            for (name, _) in sample.files.iter().filter(|(name, _)| name.starts_with(stem)) {
                bed.storage.remove_file(&bed.dir.join(name)).unwrap();
            }
            let log = bed.open(config.clone());
            let seen = outcome(&log);
            let lost = (base(1), base(2));
            let expected = if config.compacted { vec![] } else { vec![lost] };
            assert_eq!(seen.damaged, expected, "closed {close}: {:?}", log.recovery());
            assert_eq!(seen.records.len() as i64, sample.end - (lost.1 - lost.0));
        }
    }
}

/// A batch as a cleaner leaves it: records with these offset deltas out of `count`.
fn cleaned(base: i64, count: i32, kept: &[i32], attributes: u8) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for n in 0..count {
        builder.push(Timestamp::new(T), &Record::new(format!("value {}", base + i64::from(n))).key("k")).unwrap();
    }
    let whole = builder.finish().unwrap().stamped(Offset::new(base), LeaderEpoch::new(0)).unwrap();
    let bytes = whole.as_bytes();
    let mut left = bytes[..BatchHeader::LEN].to_vec();
    let mut at = BatchHeader::LEN;
    for n in 0..count {
        // Each record is shorter than 64 bytes: its length is one byte, zig-zag.
        let len = 1 + usize::from(bytes[at] / 2);
        if kept.contains(&n) {
            left.extend_from_slice(&bytes[at..at + len]);
        }
        at += len;
    }
    left[22] |= attributes;
    left[57..61].copy_from_slice(&i32::try_from(kept.len()).unwrap().to_be_bytes());
    BatchHeader::repaired(&left).unwrap().to_vec()
}

#[test]
fn what_a_cleaner_leaves_is_no_damage() {
    const DELETE_HORIZON: u8 = 1 << 6;
    let segments = [
        (0, [cleaned(0, 4, &[1, 3], 0), cleaned(4, 3, &[], 0), cleaned(9, 2, &[0], DELETE_HORIZON)].concat()),
        (20, [cleaned(25, 1, &[0], 0), cleaned(30, 5, &[4], 0), cleaned(40, 4, &[], 0)].concat()),
    ];
    for compacted in [true, false] {
        for config in [LogConfig::default(), LogConfig::default().index_interval_bytes(0)] {
            let config = LogConfig { compacted, ..config };
            let bed = Bed::new();
            bed.storage.create_dir(&bed.dir).unwrap();
            bed.overwrite("leader-epoch-checkpoint", 0, b"0\n1\n0 0\n");
            for (base, bytes) in &segments {
                bed.overwrite(&format!("{base:020}.log"), 0, bytes);
            }
            for _ in 0..2 {
                let log = open_foreign(&bed, Outside::default(), 0, config.clone());
                let seen = outcome(&log);
                let served: Vec<_> = seen.records.keys().copied().collect();
                assert_eq!((served, seen.damaged), (vec![1, 3, 9, 25, 34], vec![]), "compacted {compacted}");
                assert_eq!(log.inner().context.findings.all(), [], "compacted {compacted}");
                // The offsets of the empty batch at the end were given out.
                assert_eq!(log.offsets().end, 44);
                bed.kill(log);
            }
        }
    }
}

/// The header of what was cut off had told where the batch before it belongs.
#[test]
fn what_is_served_of_a_contradiction_does_not_change_with_what_is_cut_off_behind_it() {
    let mut astray = cleaned(1 << 30, 1, &[0], 0);
    astray[BatchHeader::PREFIX_LEN..BatchHeader::MAGIC_AT].copy_from_slice(&54_i32.to_be_bytes());
    let torn = cleaned(2, 1, &[0], 0);
    let bed = Bed::new();
    bed.storage.create_dir(&bed.dir).unwrap();
    let bytes = [&cleaned(0, 1, &[0], 0), &astray, &torn[..torn.len() - 5]].concat();
    bed.overwrite("00000000000000000000.log", 0, &bytes);
    let log = bed.open(small());
    assert_eq!(put(&log, &["new"]).base_offset, 3);
    let served = outcome(&log);
    assert_eq!((served.records.keys().collect::<Vec<_>>(), &served.damaged[..]), (vec![&0, &3], &[(1, 3)][..]));
    bed.kill(log);
    for _ in 0..2 {
        let log = bed.open(small());
        assert_eq!(outcome(&log), served, "{:?}", log.recovery());
        log.close().unwrap();
    }
}

#[test]
fn a_batch_at_the_end_of_a_compacted_log_is_judged_alike_after_a_scan_and_without_one() {
    let config = LogConfig { compacted: true, ..LogConfig::default() };
    let bed = Bed::new();
    bed.storage.create_dir(&bed.dir).unwrap();
    let (first, last) = (cleaned(0, 1, &[0], 0), cleaned(1, 1, &[0], 0));
    bed.overwrite("00000000000000000000.log", 0, &[&first[..], &last].concat());
    let log = bed.open(config.clone());
    let served = outcome(&log);
    assert_eq!((served.records.len(), &served.damaged[..]), (2, &[][..]));
    log.close().unwrap();
    bed.overwrite("00000000000000000000.log", first.len() as u64 + 2, &[1]);
    for row in [RecoveryRow::Scanned, RecoveryRow::Clean] {
        let log = bed.open(config.clone());
        assert!(log.recovery().rows.contains(&row), "{:?}", log.recovery());
        assert_eq!(outcome(&log), served, "{row:?}");
        log.close().unwrap();
    }
}

#[test]
fn messages_of_old_formats_are_kept_and_named() {
    let message = |offset: i64, magic: u8, value: &[u8]| {
        let mut body = vec![magic, 0];
        if magic == 1 {
            body.extend_from_slice(&T.to_be_bytes());
        }
        body.extend_from_slice(&(-1_i32).to_be_bytes());
        body.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value);
        let mut crc = u32::MAX;
        for byte in &body {
            crc ^= u32::from(*byte);
            (0..8).for_each(|_| crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 });
        }
        let mut bytes = offset.to_be_bytes().to_vec();
        bytes.extend_from_slice(&i32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend_from_slice(&(!crc).to_be_bytes());
        bytes.extend_from_slice(&body);
        bytes
    };
    let old: Vec<u8> = [message(0, 0, b"a"), message(1, 0, b"b"), message(2, 1, &[b'c'; 90])].concat();
    let new = cleaned(3, 2, &[0, 1], 0);
    for behind in [new.clone(), Vec::new()] {
        let bed = Bed::new();
        bed.storage.create_dir(&bed.dir).unwrap();
        bed.overwrite("00000000000000000000.log", 0, &[old.clone(), behind.clone()].concat());
        let log = open_foreign(&bed, Outside::default(), 0, LogConfig::default());
        let error = log.read(1, 100, Isolation::ReadCommitted).unwrap_err();
        assert_eq!((error.kind(), error.at_offsets()), (ErrorKind::Unsupported, Some(Offset::ZERO..Offset::new(3))));
        assert!(error.to_string().contains("format"), "{error}");
        let seen = outcome(&log);
        assert_eq!((seen.records.len(), seen.damaged), (if behind.is_empty() { 0 } else { 2 }, vec![(0, 3)]));
        assert_eq!(bed.file("00000000000000000000.log").len(), old.len() + behind.len(), "nothing was cut");
        let next = if behind.is_empty() { 3 } else { 5 };
        assert_eq!(put(&log, &["new"]).base_offset, next);
        assert_eq!(log.read(next, 100, Isolation::ReadCommitted).unwrap().next_offset(), next + 1);
    }
}

#[test]
fn a_truncation_that_is_refused_changes_nothing() {
    let bed = Bed::new();
    let log = bed.open(LogConfig::default());
    fill(&log, 0..3);
    put(&log, &["a", "b", "c", "d"]);
    fill(&log, 7..8);
    let size = log.inner().segments.load()[0].written();
    log.close().unwrap();
    let len = bed.file("00000000000000000000.log").len() as u64;
    assert_eq!(len, size);
    // In the middle of the batch of four.
    bed.overwrite("00000000000000000000.log", size * 3 / 4 - 10, b"????");
    let log = bed.open(LogConfig::default());
    let outcome_before = outcome(&log);
    let damaged = *outcome_before.damaged.first().unwrap();
    let error = log.truncate(damaged.0 + 1).unwrap_err();
    assert_eq!(
        (error.kind(), error.at_offsets().map(|r| (r.start.get(), r.end.get()))),
        (ErrorKind::Corrupt, Some(damaged))
    );
    assert_eq!(outcome(&log), outcome_before);
    let next = log.offsets().end.get();
    assert_eq!(put(&log, &["next"]).base_offset, next);
}

#[test]
fn an_opening_that_stops_half_way_does_not_leave_the_log_clean() {
    let bed = Bed::new();
    let log = bed.open(small());
    put(&log, &["one"]);
    let end = log.size_bytes();
    log.close().unwrap();
    drop(log);
    // A control record without a key, with a sound checksum.
    let mut batch = BatchBuilder::new().control().producer(ProducerId::new(7), 0, 0).base_offset(1.into());
    batch.push(Timestamp::new(T), &Record::from("no marker")).unwrap();
    bed.overwrite("00000000000000000000.log", end, batch.finish().unwrap().as_bytes());
    let is_clean = || {
        let state = StateFile::open(&*bed.storage, &bed.dir.join("log.state")).unwrap();
        state.slot(Uuid::ZERO, 0.into()).load().unwrap().clean
    };
    assert!(is_clean());
    let opened = Log::open_on(Arc::clone(&bed.storage), Arc::new(bed.clock.clone()), &bed.dir, small());
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!is_clean());
}

//! Derived files that another program left: whatever they hold, readers see what the batches say.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock::ManualClock;
use crate::finding::{Finding, FindingKind};
use crate::record::{BatchHeader, Codec, Compression, EndMarker, TimestampType, TxnOutcome};
use crate::storage::{MemoryStorage, OpenMode, read_file};
use crate::types::ProducerId;

const T: i64 = 1_700_000_000_000;
const DIR: &str = "data/t-0";

/// A partition's directory as bytes.
type Files = Vec<(String, Vec<u8>)>;

fn config() -> LogConfig {
    LogConfig::default().segment_bytes(700).index_interval_bytes(100)
}

fn files_of(storage: &dyn Storage) -> Files {
    let read = |name: String| {
        let bytes = read_file(storage, &Path::new(DIR).join(&name), u64::MAX).unwrap().unwrap();
        (name, bytes)
    };
    let mut files: Files = storage.list(Path::new(DIR)).unwrap().into_iter().map(|e| read(e.name)).collect();
    files.sort();
    files
}

fn is_derived(name: &str) -> bool {
    !name.ends_with(".log") && !name.ends_with(".seal")
}

/// A directory that another program stopped in good order at `end`.
struct Foreign {
    storage: Arc<MemoryStorage>,
    findings: Arc<Findings>,
    clock: ManualClock,
    end: Offset,
    config: LogConfig,
}

impl Foreign {
    fn of(files: &Files, end: Offset) -> Self {
        let storage = MemoryStorage::default();
        for dir in ["data", DIR] {
            storage.create_dir(Path::new(dir)).unwrap();
        }
        // Seals are dropped when another program had the directory.
        for (name, bytes) in files.iter().filter(|(name, _)| !name.ends_with(".seal")) {
            let file = storage.open(&Path::new(DIR).join(name), OpenMode::CreateNew).unwrap();
            file.write_all_at(bytes, 0).unwrap();
        }
        let clock = ManualClock::new(Timestamp::new(T));
        Self { storage: Arc::new(storage), findings: Arc::default(), clock, end, config: config() }
    }

    fn open(&self) -> Log {
        self.open_with("data/log.state").unwrap()
    }

    fn open_with(&self, state: &str) -> Result<Log> {
        let storage: Arc<dyn Storage> = Arc::clone(&self.storage) as Arc<dyn Storage>;
        let state = StateFile::open(&*storage, Path::new(state)).unwrap();
        let context = LogContext {
            clock: Arc::new(self.clock.clone()),
            time: Arc::new(SteadyTime::new(Arc::new(self.clock.clone()), None)),
            findings: Arc::clone(&self.findings),
            buffers: BufferPool::default(),
            partition: TopicPartition::new("t", 0),
            topic_id: None,
            slot: Some(state.slot(Uuid::ZERO, 0.into())),
            boot_id: [1; 16],
            log_start: Offset::ZERO,
            recovery_point: self.end,
            outside: super::Outside::default(),
            meter: Arc::default(),
            syncs: Arc::default(),
            storage,
        };
        Log::open_in(context, Path::new(DIR), self.config.clone())
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        read_file(&*self.storage, &Path::new(DIR).join(name), u64::MAX).unwrap()
    }

    /// The files that were told to be rebuilt.
    fn rebuilt(&self) -> Vec<String> {
        let name = |f: Finding| {
            assert_eq!(f.kind, FindingKind::Rebuilt, "{f}");
            f.path.unwrap().file_name().unwrap().to_str().unwrap().to_owned()
        };
        let open = |f: &Finding| f.kind == FindingKind::OpenTransaction;
        self.findings.all().into_iter().filter(|f| !open(f)).map(name).collect()
    }
}

/// Everything that readers can ask.
#[derive(Debug, PartialEq)]
struct Seen {
    offsets: LogOffsets,
    records: [Vec<(i64, String)>; 2],
    times: Vec<Option<OffsetAtTime>>,
    epoch: LeaderEpoch,
}

fn see(log: &Log) -> Seen {
    let isolations = [Isolation::ReadCommitted, Isolation::ReadUncommitted];
    let times =
        isolations.iter().flat_map(|isolation| (-2..150).map(move |t| log.offset_at(T + t, *isolation).unwrap()));
    Seen {
        times: times.collect(),
        records: isolations.map(|isolation| records(log, isolation)),
        offsets: log.offsets(),
        epoch: log.leader_epoch(),
    }
}

fn records(log: &Log, isolation: Isolation) -> Vec<(i64, String)> {
    let (mut at, mut found) = (log.offsets().log_start, Vec::new());
    loop {
        let read = log.read(at, 300, isolation).unwrap();
        if read.next_offset() == at {
            return found;
        }
        for batch in read.data_batches() {
            for record in batch.unwrap().decode().unwrap().iter() {
                let record = record.unwrap();
                if record.offset() >= at {
                    found.push((record.offset().get(), String::from_utf8(record.value().unwrap().to_vec()).unwrap()));
                }
            }
        }
        at = read.next_offset();
    }
}

/// Appends what producers and a coordinator would; timestamps rise, but not steadily.
struct Author<'a> {
    log: &'a Log,
    epoch: i32,
    clock: i64,
}

impl Author<'_> {
    fn time(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp::new(T + self.clock * 3 + if self.clock % 4 == 0 { 11 } else { 0 })
    }

    fn append(&self, batch: &RecordBatch) {
        self.log.append(batch, LeaderEpoch::new(self.epoch)).unwrap();
        self.log.sync().unwrap();
    }

    fn plain(&mut self, value: &str) {
        let mut batch = BatchBuilder::new();
        batch.push(self.time(), &Record::new(value)).unwrap();
        batch.push(self.time(), &Record::new(format!("{value} again"))).unwrap();
        self.append(&batch.finish().unwrap());
    }

    fn send(&mut self, pid: i64, epoch: i16, sequence: i32, value: &str) {
        let mut batch = BatchBuilder::new().producer(ProducerId::new(pid), epoch, sequence).transactional();
        batch.push(self.time(), &Record::new(value)).unwrap();
        self.append(&batch.finish().unwrap());
    }

    fn end(&mut self, pid: i64, epoch: i16, outcome: TxnOutcome) {
        let marker = EndMarker { outcome, coordinator_epoch: 0 };
        let batch = BatchBuilder::end_marker(marker, ProducerId::new(pid), epoch, self.time()).unwrap();
        self.append(&batch);
    }
}

/// Transactions of both versions, interleaved, across segments, in three leader epochs; one is open at the end.
fn transactional_log() -> (Files, Offset, Seen) {
    let foreign = Foreign::of(&Files::new(), Offset::ZERO);
    let log = foreign.open();
    let mut author = Author { log: &log, epoch: 0, clock: 0 };
    for round in 0..4_i16 {
        let sequence = i32::from(round);
        author.epoch = i32::from(round) / 2 * 3;
        author.plain(&format!("plain {round}"));
        author.send(1, 0, sequence, &format!("committed {round}"));
        // Version 2: the epoch rises with every transaction, and the marker carries the next one.
        author.send(2, round, 0, &format!("aborted {round}"));
        author.plain(&format!("between {round}"));
        author.end(1, 0, TxnOutcome::Commit);
        author.send(2, round, 1, &format!("aborted {round} too"));
        author.send(3, 0, 2 * sequence, &format!("outer {round}"));
        author.end(2, round + 1, TxnOutcome::Abort);
        author.send(3, 0, 2 * sequence + 1, &format!("outer {round} too"));
        author.end(3, 0, if round == 1 { TxnOutcome::Commit } else { TxnOutcome::Abort });
        // Nothing is open here: an empty transaction.
        author.end(3, 0, TxnOutcome::Abort);
    }
    author.send(4, 0, 0, "open");
    author.plain("last");
    let seen = see(&log);
    log.close().unwrap();
    let files = files_of(&*foreign.storage);
    assert!(files.iter().filter(|(name, _)| name.ends_with(".txnindex")).count() > 2);
    assert!(seen.records[0].iter().all(|(_, value)| !value.starts_with("aborted")));
    (files, seen.offsets.end, seen)
}

#[test]
fn sound_files_are_believed_and_left_alone() {
    let (files, end, seen) = transactional_log();
    let foreign = Foreign::of(&files, end);
    let log = foreign.open();
    assert_eq!(see(&log), seen);
    assert_eq!(foreign.rebuilt(), [""; 0]);
    let open: Vec<_> = foreign.findings.all().iter().map(ToString::to_string).collect();
    let first = seen.offsets.last_stable;
    assert_eq!(
        open,
        [format!(
            "t-0: a transaction of producer 4, epoch 0, is open: read-committed readers wait (offsets {first} to before {end})"
        )]
    );
    log.close().unwrap();
    assert_eq!(derived(&files_of(&*foreign.storage)), derived(&files));
}

fn derived(files: &Files) -> Files {
    files.iter().filter(|(name, _)| is_derived(name)).cloned().collect()
}

type Spoil = fn(&mut Vec<u8>);

/// What may have happened to a derived file.
const SPOILS: [(&str, Spoil); 9] = [
    ("removed", |_| {}),
    ("emptied", Vec::clear),
    ("padded", |bytes| bytes.resize(bytes.len() + 4096, 0)),
    ("zeroed", |bytes| bytes.fill(0)),
    ("cut inside an entry", |bytes| bytes.truncate(bytes.len().saturating_sub(3))),
    ("of ones", |bytes| bytes.fill(0xff)),
    ("reversed", |bytes| bytes.reverse()),
    ("shifted", |bytes| bytes.rotate_right(1)),
    ("twice", |bytes| bytes.extend_from_within(..)),
];

#[test]
fn no_spoilt_file_changes_what_readers_see() {
    let (files, end, seen) = transactional_log();
    let bases: Vec<_> = files.iter().filter_map(|(name, _)| name.strip_suffix(".log")).collect();
    for at in (0..files.len()).filter(|&at| is_derived(&files[at].0)) {
        for (how, spoil) in SPOILS {
            let mut spoilt = files.clone();
            let name = files[at].0.clone();
            spoil(&mut spoilt[at].1);
            if how == "removed" {
                spoilt.remove(at);
            } else if spoilt[at].1 == files[at].1 {
                continue;
            }
            let what = format!("{name} {how}");
            let foreign = Foreign::of(&spoilt, end);
            let log = foreign.open_with("data/log.state").unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(see(&log), seen, "{what}");
            // Of snapshots only the newest at a segment base is looked at, and one more may be missing.
            let snapshot = name.strip_suffix(".snapshot");
            // The files of the active segment are as a killed broker leaves them, or nearly empty.
            let is_active = bases.last().is_some_and(|base| name.starts_with(base));
            let is_usual = is_active && ["padded", "zeroed", "emptied"].contains(&how) && !name.ends_with(".txnindex");
            let is_small = name.ends_with(".index") && how == "emptied" && files[at].1.len() <= 4 * 8;
            let is_noted = !(is_usual || is_small);
            if is_noted && snapshot.is_none_or(|base| bases.last() == Some(&base) && how != "removed") {
                assert_eq!(foreign.rebuilt(), std::slice::from_ref(&name), "{what}");
                log.close().unwrap();
                assert_eq!(derived(&files_of(&*foreign.storage)), derived(&files), "{what}: put right");
            }
        }
    }
}

#[test]
fn entries_that_look_right_are_held_against_the_batches() {
    let (files, end, seen) = transactional_log();
    let segments: Vec<_> = files.iter().filter(|(name, _)| name.ends_with(".log")).collect();
    let stem = |at: usize| segments[at].0.trim_end_matches(".log").to_owned();
    let edits: [(&str, Spoil); 10] = [
        ("index", |bytes| bytes[7] += 1),
        ("index", |bytes| drop(bytes.drain(4..12))),
        ("index", |bytes| bytes[3] = 0),
        ("index", |bytes| *bytes.last_chunk_mut::<8>().unwrap().first_chunk_mut().unwrap() = [0, 1, 0, 0]),
        ("timeindex", |bytes| bytes.truncate(12)),
        ("timeindex", |bytes| bytes[7] -= 1),
        ("timeindex", |bytes| *bytes.last_chunk_mut::<12>().unwrap().first_chunk_mut().unwrap() = [0x7f; 8]),
        ("txnindex", |bytes| bytes[9] += 1),
        ("txnindex", |bytes| bytes[17] += 1),
        ("txnindex", |bytes| bytes[33] = 0xff),
    ];
    for (kind, edit) in edits {
        let name = format!("{}.{kind}", stem(1));
        let mut spoilt = files.clone();
        edit(&mut spoilt.iter_mut().find(|(n, _)| *n == name).unwrap().1);
        let foreign = Foreign::of(&spoilt, end);
        let log = foreign.open();
        assert_eq!(see(&log), seen, "{name}");
        assert_eq!(foreign.rebuilt(), std::slice::from_ref(&name));
        let sound = &files.iter().find(|(n, _)| *n == name).unwrap().1;
        assert_eq!(foreign.file(&name).as_ref(), Some(sound), "{name}");
    }
    // Another segment's files, and another partition's.
    for kind in ["index", "timeindex", "txnindex"] {
        let (from, to) = (format!("{}.{kind}", stem(2)), format!("{}.{kind}", stem(1)));
        let mut spoilt = files.clone();
        let other = files.iter().find(|(n, _)| *n == from).unwrap().1.clone();
        let own = &mut spoilt.iter_mut().find(|(n, _)| *n == to).unwrap().1;
        if *own != other {
            *own = other;
            let foreign = Foreign::of(&spoilt, end);
            assert_eq!(see(&foreign.open()), seen, "{to}");
            assert_eq!(foreign.rebuilt(), [to]);
        }
    }
}

#[test]
fn retention_believes_batches_and_no_time_index() {
    let (files, end, _) = transactional_log();
    let day = Some(Duration::from_secs(24 * 3600));
    let of_1970: Spoil = |bytes| *bytes = [&1_i64.to_be_bytes()[..], &[0; 4]].concat();
    let of_2970: Spoil = |bytes| *bytes = [&31_556_889_600_000_i64.to_be_bytes()[..], &[0; 4]].concat();
    for (how, spoil) in SPOILS.into_iter().chain([("of 1970", of_1970), ("of 2970", of_2970)]) {
        let mut spoilt = files.clone();
        let is_time = |name: &str| name.ends_with(".timeindex");
        spoilt.iter_mut().filter(|(name, _)| is_time(name)).for_each(|(_, bytes)| spoil(bytes));
        spoilt.retain(|(name, _)| how != "removed" || !is_time(name));
        let foreign = Foreign::of(&spoilt, end);
        let log = foreign.open();
        log.apply_retention(day, None).unwrap();
        assert_eq!(log.offsets().log_start, 0, "{how}");
        foreign.clock.advance(Duration::from_secs(25 * 3600));
        log.apply_retention(day, None).unwrap();
        assert!(log.offsets().log_start > 30, "{how}: {:?}", log.offsets());
    }
}

#[test]
fn what_was_not_compared_is_doubted_by_the_next_owner_too() {
    let (files, end, seen) = transactional_log();
    let mut spoilt = files.clone();
    spoilt.iter_mut().filter(|(name, _)| name.ends_with("index")).for_each(|(_, bytes)| bytes.fill(0));
    let foreign = Foreign::of(&spoilt, end);
    foreign.open().close().unwrap();
    let log = foreign.open();
    assert_eq!(log.recovery().rows, [RecoveryRow::Clean]);
    assert_eq!(see(&log), seen);
    let told = foreign.rebuilt().len();
    assert!(told > 5, "{told}");
    log.close().unwrap();
    let log = foreign.open();
    assert!(!log.inner().doubts.are_pending(), "compared once is enough");
    assert_eq!(see(&log), seen);
    assert_eq!(foreign.rebuilt().len(), told);
}

#[test]
fn our_own_transaction_index_is_rebuilt_as_well() {
    let (files, end, seen) = transactional_log();
    let indexes: Vec<_> = files.iter().filter(|(name, _)| name.ends_with(".txnindex")).collect();
    for (name, bytes) in [indexes[0], indexes[indexes.len() - 1]] {
        let foreign = Foreign::of(&files, end);
        let log = foreign.open();
        see(&log);
        log.close().unwrap();
        let file = foreign.storage.open(&Path::new(DIR).join(name), OpenMode::Write).unwrap();
        file.write_all_at(&[1], 0).unwrap();
        let log = foreign.open();
        assert_eq!(see(&log), seen, "{name}");
        assert_eq!(foreign.file(name).as_ref(), Some(bytes));
        log.close().unwrap();

        file.set_len(5).unwrap();
        let log = foreign.open();
        let mut author = Author { log: &log, epoch: 5, clock: 100 };
        author.end(4, 0, TxnOutcome::Abort);
        log.truncate(name.trim_end_matches(".txnindex").parse::<i64>().unwrap() + 1).unwrap();
        let left = log.offsets().last_stable;
        let kept: Vec<_> = seen.records[0].iter().filter(|(at, _)| left > *at).cloned().collect();
        assert_eq!(records(&log, Isolation::ReadCommitted), kept, "{name}");
    }
}

#[test]
fn appends_after_the_hand_over_are_not_mistaken_for_foreign_ones() {
    let (files, end, seen) = transactional_log();
    let mut spoilt = files.clone();
    spoilt.retain(|(name, _)| !name.ends_with(".txnindex"));
    let foreign = Foreign::of(&spoilt, end);
    let log = foreign.open();
    let mut author = Author { log: &log, epoch: 5, clock: 100 };
    author.send(1, 0, 4, "aborted after");
    author.end(1, 0, TxnOutcome::Abort);
    author.end(4, 1, TxnOutcome::Commit);
    author.plain("after");
    let values = |log: &Log| records(log, Isolation::ReadCommitted).into_iter().map(|(_, v)| v).collect::<Vec<_>>();
    let mut expected: Vec<_> = seen.records[0].iter().map(|(_, v)| v.clone()).collect();
    expected.extend(["open", "last", "last again", "after", "after again"].map(str::to_owned));
    assert_eq!(values(&log), expected);
    log.close().unwrap();
    assert_eq!(values(&foreign.open()), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_in_any_derived_file_change_what_readers_see(
        spoils in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..5_u8, any::<Vec<u8>>()), 1..4)
    ) {
        static LOG: std::sync::OnceLock<(Files, Offset, Seen)> = std::sync::OnceLock::new();
        let (files, end, seen) = LOG.get_or_init(transactional_log);
        let mut spoilt = files.clone();
        let at: Vec<_> = (0..files.len()).filter(|&at| is_derived(&files[at].0)).collect();
        for (file, place, how, noise) in &spoils {
            let bytes = &mut spoilt[*file.get(&at)].1;
            let place = place.index(bytes.len() + 1);
            match how {
                0 => bytes.clone_from(noise),
                1 => bytes.truncate(place),
                2 => bytes.extend_from_slice(noise),
                3 => bytes.resize(bytes.len() + noise.len(), 0),
                _ => bytes.iter_mut().skip(place).zip(noise).for_each(|(byte, noise)| *byte = *noise),
            }
        }
        let foreign = Foreign::of(&spoilt, *end);
        let mut found = see(&foreign.open());
        // An index may bear witness of offsets that were given out and are gone: they are not given out again.
        prop_assert!(found.offsets.end >= *end);
        found.offsets = LogOffsets { last_stable: found.offsets.last_stable, ..seen.offsets };
        // Short, where it shrinks.
        prop_assert_eq!((&found.offsets, &found.records), (&seen.offsets, &seen.records));
        prop_assert!(found == *seen, "times or epochs differ");
    }
}

/// The batches of a `.log` file.
fn batches(log: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut found) = (log, Vec::new());
    while let Ok(header) = BatchHeader::parse(rest) {
        found.push(rest[..header.size_bytes()].to_vec());
        rest = &rest[header.size_bytes()..];
    }
    found
}

/// What a cleaner keeps of a batch whose records are gone but whose producer is not.
fn emptied(batch: &[u8]) -> Vec<u8> {
    let mut kept = batch[..61].to_vec();
    kept[8..12].copy_from_slice(&49_i32.to_be_bytes());
    kept[27..35].copy_from_slice(&(-1_i64).to_be_bytes());
    kept[57..61].fill(0);
    let crc = crate::wire::crc32c(&kept[21..]);
    kept[17..21].copy_from_slice(&crc.to_be_bytes());
    kept
}

#[test]
fn a_cleaners_transaction_index_is_believed() {
    let source = Foreign::of(&Files::new(), Offset::ZERO);
    let log = source.open();
    log.configure(LogConfig::default()).unwrap();
    let mut author = Author { log: &log, epoch: 0, clock: 0 };
    author.plain("plain");
    author.send(2, 0, 0, "aborted");
    author.end(2, 1, TxnOutcome::Abort);
    author.send(1, 0, 0, "gone");
    author.end(1, 0, TxnOutcome::Abort);
    author.send(2, 1, 0, "kept");
    author.end(2, 2, TxnOutcome::Commit);
    log.roll().unwrap();
    author.plain("last");
    let end = log.offsets().end;
    log.close().unwrap();
    let files = files_of(&*source.storage);
    let original = |name: &str| files.iter().find(|(n, _)| n == name).unwrap().1.clone();
    let all = batches(&original("00000000000000000000.log"));
    let aborted = original("00000000000000000000.txnindex");
    // Version 2: the data goes at once. Version 1: its batch stays without records, and keeps the marker.
    let first = [&all[0], &all[2], &emptied(&all[3]), &all[4], &all[5], &all[6]].map(Vec::as_slice).concat();
    let second = [&all[0], &emptied(&all[2]), &emptied(&all[3]), &all[4], &all[5], &all[6]].map(Vec::as_slice).concat();
    let third = [&all[0], &emptied(&all[2]), &all[5], &all[6]].map(Vec::as_slice).concat();
    for (pass, log, index) in
        [(1, first, Some(aborted.clone())), (2, second, Some(aborted[34..].to_vec())), (3, third, None)]
    {
        let mut cleaned = files.clone();
        cleaned.retain(|(name, _)| !name.starts_with("00000000000000000000."));
        cleaned.push(("00000000000000000000.log".into(), log));
        cleaned.extend(index.map(|bytes| ("00000000000000000000.txnindex".into(), bytes)));
        let compacted = LogConfig { compacted: true, ..config() };
        let foreign = Foreign { config: compacted.clone(), ..Foreign::of(&cleaned, end) };
        let log = foreign.open();
        let values: Vec<_> = records(&log, Isolation::ReadCommitted).into_iter().map(|(_, v)| v).collect();
        assert_eq!(values, ["plain", "plain again", "kept", "last", "last again"], "pass {pass}");
        assert_eq!(log.offsets().last_stable, end);
        let told = foreign.rebuilt();
        assert!(!told.iter().any(|name| name.ends_with(".txnindex")), "pass {pass}: {told:?}");
        // An entry that would hide the committed record of the same producer is not believed.
        let mut wrong = aborted.clone();
        wrong[..34].copy_from_slice(&entry(2, 0, 8));
        let mut spoilt = cleaned;
        spoilt.retain(|(name, _)| !name.ends_with(".txnindex"));
        spoilt.push(("00000000000000000000.txnindex".into(), wrong));
        let foreign = Foreign { config: compacted, ..Foreign::of(&spoilt, end) };
        assert_eq!(records(&foreign.open(), Isolation::ReadCommitted).len(), 5, "pass {pass}");
        assert!(foreign.rebuilt().iter().any(|name| name.ends_with(".txnindex")), "pass {pass}");
    }
}

fn entry(pid: i64, first: i64, last: i64) -> Vec<u8> {
    [&[0, 0][..], &pid.to_be_bytes(), &first.to_be_bytes(), &last.to_be_bytes(), &(last + 1).to_be_bytes()].concat()
}

#[test]
fn transactions_whose_begin_was_deleted_are_fine() {
    let (files, end, seen) = transactional_log();
    let bases: Vec<_> = files.iter().filter_map(|(name, _)| name.strip_suffix(".log")).collect();
    for base in &bases[1..] {
        let mut rest = files.clone();
        rest.retain(|(name, _)| name.as_str() >= *base);
        let foreign = Foreign::of(&rest, end);
        let log = foreign.open();
        let start = base.parse::<i64>().unwrap();
        for (at, isolation) in [Isolation::ReadCommitted, Isolation::ReadUncommitted].into_iter().enumerate() {
            let kept: Vec<_> = seen.records[at].iter().filter(|(offset, _)| *offset >= start).cloned().collect();
            assert_eq!(records(&log, isolation), kept, "from {base}");
        }
        assert_eq!(foreign.rebuilt(), [""; 0], "from {base}");
    }
}

/// Appends a batch of records with these times.
fn timed(log: &Log, builder: BatchBuilder, times: &[i64]) {
    let mut batch = builder;
    for &time in times {
        batch.push(Timestamp::new(time), &Record::new("v").timestamp(time)).unwrap();
    }
    log.append(&batch.finish().unwrap(), LeaderEpoch::new(0)).unwrap();
    log.sync().unwrap();
}

fn at(log: &Log, time: i64) -> Option<(i64, i64)> {
    let found = log.offset_at(time, Isolation::ReadUncommitted).unwrap();
    found.map(|found| (found.offset.get(), found.timestamp.get()))
}

#[test]
fn times_are_found_as_kafka_finds_them() {
    // facts L.5: six batches of two records.
    let foreign = Foreign::of(&Files::new(), Offset::ZERO);
    let log = foreign.open();
    for last in [1, 11, 21, 6, 41, 51] {
        let codec = if last == 11 { Compression::from(Codec::Gzip) } else { Codec::None.into() };
        timed(&log, BatchBuilder::new().compression(codec), &[T + last - 1, T + last]);
    }
    let check = |log: &Log| {
        assert_eq!(at(log, T + 21), Some((5, T + 21)));
        assert_eq!(at(log, T + 6), Some((2, T + 10)));
        assert_eq!(at(log, T + 11), Some((3, T + 11)), "inside of a compressed batch");
        assert_eq!(at(log, T + 22), Some((8, T + 40)), "past an older batch");
        assert_eq!(at(log, T + 1000), None);
        assert_eq!(at(log, -1), Some((0, T)));
    };
    check(&log);
    let end = log.offsets().end;
    log.close().unwrap();
    let foreign = Foreign::of(&files_of(&*foreign.storage), end);
    let log = foreign.open();
    check(&log);
    log.advance_log_start(3).unwrap();
    assert_eq!(at(&log, T + 6), Some((3, T + 11)), "the log starts inside of the batch");
    assert_eq!(at(&log, T + 11), Some((3, T + 11)));
}

#[test]
fn records_without_times_equal_times_and_markers_are_found_as_kafka_finds_them() {
    let foreign = Foreign::of(&Files::new(), Offset::ZERO);
    let log = foreign.open();
    log.configure(config().index_interval_bytes(0)).unwrap();
    timed(&log, BatchBuilder::new(), &[-1, -1]);
    assert_eq!((at(&log, 0), at(&log, -1)), (None, Some((0, -1))));
    // The same largest time again and again: the first counts.
    for _ in 0..3 {
        timed(&log, BatchBuilder::new(), &[T, T + 5]);
    }
    assert_eq!((at(&log, 0), at(&log, T + 5)), (Some((2, T)), Some((3, T + 5))));
    timed(&log, BatchBuilder::new().producer(ProducerId::new(1), 0, 0).transactional(), &[T + 6]);
    let committed = |time: i64| log.offset_at(time, Isolation::ReadCommitted).unwrap();
    assert_eq!(committed(T + 6), None, "not stable yet");
    let marker = EndMarker { outcome: TxnOutcome::Commit, coordinator_epoch: 0 };
    let marker = BatchBuilder::end_marker(marker, ProducerId::new(1), 0, Timestamp::new(T + 9)).unwrap();
    log.append(&marker, LeaderEpoch::new(0)).unwrap();
    log.sync().unwrap();
    assert_eq!(at(&log, T + 7), Some((9, T + 9)), "a marker is a record like any other");
    assert_eq!(committed(T + 6).map(|found| found.offset.get()), Some(8));
    // The log's own time stands for every record's.
    log.configure(config().timestamp_type(TimestampType::LogAppendTime)).unwrap();
    foreign.clock.set_wall(Timestamp::new(T + 60));
    timed(&log, BatchBuilder::new(), &[T + 1, T + 2]);
    assert_eq!(at(&log, T + 10), Some((10, T + 60)));
}

#[test]
fn leader_epochs_that_the_batches_deny_are_rebuilt() {
    let (files, end, seen) = transactional_log();
    for text in ["0\n1\n9 0\n", "0\n2\n0 0\n3 5\n", "0\n1\n0 0\n", "0\n3\n0 0\n3 26\n7 9999\n", "0\n0\n", "nonsense"] {
        let mut spoilt = files.clone();
        let name = "leader-epoch-checkpoint";
        let sound = spoilt.iter_mut().find(|(n, _)| n == name).map(|(_, bytes)| bytes).unwrap();
        let right = std::mem::replace(sound, text.as_bytes().to_vec());
        let foreign = Foreign::of(&spoilt, end);
        let log = foreign.open();
        assert_eq!(see(&log), seen, "{text:?}");
        assert_eq!(foreign.rebuilt(), [name], "{text:?}");
        log.close().unwrap();
        assert_eq!(foreign.file(name), Some(right), "{text:?}");
    }
}

#[test]
fn a_snapshot_of_a_later_moment_is_rebuilt() {
    let (files, end, seen) = transactional_log();
    let snapshots: Vec<_> = (0..files.len()).filter(|&at| files[at].0.ends_with(".snapshot")).collect();
    let (base, last) = (snapshots[snapshots.len() - 2], snapshots[snapshots.len() - 1]);
    let mut spoilt = files.clone();
    spoilt[base].1 = files[last].1.clone();
    let foreign = Foreign::of(&spoilt, end);
    assert_eq!(see(&foreign.open()), seen);
    assert_eq!(foreign.rebuilt(), std::slice::from_ref(&files[base].0));
    assert_eq!(foreign.file(&files[base].0).as_ref(), Some(&files[base].1));
}

#[test]
fn producers_go_on_where_another_program_left_them() {
    let source = Foreign::of(&Files::new(), Offset::ZERO);
    let log = source.open();
    let batch = |epoch: i16, sequence: i32| {
        let mut batch = BatchBuilder::new().producer(ProducerId::new(9), epoch, sequence);
        batch.push(Timestamp::new(T), &Record::new("x")).unwrap();
        batch.finish().unwrap()
    };
    let append = |log: &Log, epoch, sequence| {
        log.append(&batch(epoch, sequence), LeaderEpoch::new(0)).map(|a| a.base_offset.get()).map_err(|e| e.kind())
    };
    append(&log, 0, 0).unwrap();
    append(&log, 1, 0).unwrap();
    append(&log, 1, 1).unwrap();
    log.sync().unwrap();
    let end = log.offsets().end;
    log.roll().unwrap();
    log.close().unwrap();
    let foreign = Foreign::of(&files_of(&*source.storage), end);
    let log = foreign.open();
    assert_eq!(append(&log, 1, 1), Ok(2), "the last batch again: the snapshot keeps that one");
    assert_eq!(append(&log, 1, 0), Err(ErrorKind::OutOfOrderSequence));
    assert_eq!(append(&log, 0, 1), Err(ErrorKind::ProducerFenced));
    assert_eq!(append(&log, 2, 5), Err(ErrorKind::OutOfOrderSequence));
    assert_eq!(append(&log, 1, 2), Ok(3));
    assert_eq!(append(&log, 2, 0), Ok(4));
}

#[test]
fn doubts_are_settled_while_others_read_append_and_truncate() {
    let (files, end, seen) = transactional_log();
    let mut spoilt = files.clone();
    spoilt.iter_mut().filter(|(name, _)| name.ends_with("index")).for_each(|(_, bytes)| bytes.fill(0));
    for _ in 0..20 {
        let foreign = Foreign::of(&spoilt, end);
        let log = foreign.open();
        std::thread::scope(|scope| {
            for from in 0..4 {
                let (log, seen) = (&log, &seen);
                scope.spawn(move || {
                    let read = log.read(from * 7, 1 << 20, Isolation::ReadCommitted).unwrap();
                    let visible = |&&(at, _): &&(i64, String)| at >= from * 7 && read.next_offset() > at;
                    let expected = seen.records[0].iter().filter(visible).count();
                    let records = read.data_batches().map(|batch| batch.unwrap().decode().unwrap().iter().count());
                    assert!(records.sum::<usize>() >= expected);
                    log.offset_at(T + 40, Isolation::ReadCommitted).unwrap();
                });
            }
            scope.spawn(|| {
                let mut author = Author { log: &log, epoch: 5, clock: 100 };
                author.end(4, 0, TxnOutcome::Abort);
                author.plain("after");
                log.truncate(end).unwrap();
            });
        });
        assert_eq!(see(&log).records, seen.records);
    }
}

#[test]
fn a_damaged_marker_costs_its_own_record_and_hides_or_shows_no_other() {
    let (files, end, seen) = transactional_log();
    let bases: Vec<_> = files.iter().filter_map(|(name, _)| name.strip_suffix(".log")).collect();
    for base in &bases[..bases.len() - 1] {
        let name = format!("{base}.log");
        let at = files.iter().position(|(n, _)| *n == name).unwrap();
        let (mut position, log) = (0, &files[at].1);
        for batch in batches(log) {
            let header = BatchHeader::parse(&batch).unwrap();
            position += batch.len();
            if !header.is_control() {
                continue;
            }
            let mut spoilt = files.clone();
            spoilt[at].1[position - 1] ^= 1;
            let foreign = Foreign::of(&spoilt, end);
            let log = foreign.open();
            let mut found = Vec::new();
            for from in (0..seen.offsets.last_stable.get()).filter(|&from| header.base_offset() != from) {
                let Ok(read) = log.read(from, 1, Isolation::ReadCommitted) else { continue };
                for batch in read.data_batches() {
                    let batch = batch.unwrap();
                    let records = batch.decode().unwrap();
                    found.extend(
                        records
                            .iter()
                            .map(|r| r.unwrap())
                            .filter(|r| r.offset() == from)
                            .map(|r| (from, String::from_utf8(r.value().unwrap().to_vec()).unwrap())),
                    );
                }
            }
            let missing: Vec<_> = seen.records[0].iter().filter(|record| !found.contains(record)).collect();
            assert_eq!(found.iter().filter(|record| !seen.records[0].contains(record)).count(), 0, "shown: {header:?}");
            assert!(missing.is_empty(), "hidden: {missing:?} {header:?}");
        }
    }
}

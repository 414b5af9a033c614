//! Bits that flip, sectors and pages that are zeroed, doubled or swapped, files that are cut or vanish, one after the
//! other in directories that were closed in order or left by a crash. Whatever it is, a reader gets the records as they
//! were or is told which offsets are lost; no offset is given out twice.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg::testing::{Choice, Errno, Fault, Operation, Repeat, SimStorage};
use thalweg::{
    BatchBuilder, Broker, Durability, EndMarker, EntryKind, Error, ErrorKind, Isolation, LeaderEpoch, Log, LogConfig,
    LogOffsets, LogRead, ManualClock, Offset, OpenMode, ProducerId, Record, Result, Start, Storage, Timestamp,
    TopicConfig, TxnOutcome,
};

use super::directory;
use super::driver::{Budget, Dice, is_full};
use super::total::TOTAL;

const NOW: Timestamp = Timestamp::new(1_700_000_000_000);
const LOG: &str = "data/events-0";
const SECTOR: usize = 512;
const PAGE: usize = 4096;
/// After so many, the rest is likely to be the same again.
const WRONG_MAX: usize = 20;

/// Something that happens to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip {
        at: u64,
        bit: u8,
    },
    Zero {
        at: usize,
        len: usize,
    },
    Copy {
        from: usize,
        to: usize,
        len: usize,
    },
    Swap {
        one: usize,
        other: usize,
        len: usize,
    },
    Cut {
        len: u64,
    },
    Vanish,
    /// The disk reads nothing of it.
    Unreadable,
    /// Its first batch becomes another one, as sound as before: what seals are for.
    Exchange,
}

impl Damage {
    /// What can happen to the whole of a file.
    fn whole(path: &Path) -> Vec<Self> {
        let mut whole = vec![Self::Vanish, Self::Cut { len: 0 }];
        if path.extension().is_some_and(|e| e == "log") {
            whole.extend([Self::Unreadable, Self::Exchange]);
        }
        whole
    }

    /// All that can happen to a file of these bytes: every bit of what is a batch's header or no log, a bit of every
    /// other byte.
    fn all(path: &Path, bytes: &[u8], dice: &Dice) -> Vec<Self> {
        let mut all = Vec::new();
        let is_log = path.extension().is_some_and(|e| e == "log");
        let headers = if is_log { headers(bytes) } else { std::iter::once(0..bytes.len()).collect() };
        for at in 0..bytes.len() {
            if !is_log && at >= PAGE && at % SECTOR != 0 {
                // Zeros that only take up room.
                continue;
            }
            let bits = match headers.iter().any(|header| header.contains(&at)) {
                true => 0..8,
                false => {
                    let bit = dice.below(8) as u8;
                    bit..bit + 1
                }
            };
            all.extend(bits.map(|bit| Self::Flip { at: at as u64, bit }));
            if dice.below(16) == 0 {
                all.push(Self::Cut { len: at as u64 });
            }
        }
        for len in [SECTOR, PAGE] {
            for at in (0..bytes.len()).step_by(len) {
                let len = len.min(bytes.len() - at);
                all.push(Self::Zero { at, len });
                if at + 2 * len <= bytes.len() {
                    all.push(Self::Copy { from: at, to: at + len, len });
                    all.push(Self::Swap { one: at, other: at + len, len });
                }
            }
        }
        all
    }

    fn happen(self, disk: &SimStorage, path: &Path) -> std::io::Result<()> {
        let change = |change: &dyn Fn(&mut Vec<u8>)| {
            let file = disk.open(path, OpenMode::Write)?;
            let mut bytes = vec![0; file.len()? as usize];
            file.read_exact_at(&mut bytes, 0)?;
            change(&mut bytes);
            file.set_len(bytes.len() as u64)?;
            file.write_all_at(&bytes, 0)?;
            file.sync_data()
        };
        match self {
            Self::Flip { at, bit } => disk.flip_bit(path, at, bit),
            Self::Zero { at, len } => change(&|bytes| bytes[at..at + len].fill(0)),
            Self::Copy { from, to, len } => change(&|bytes| bytes.copy_within(from..from + len, to)),
            Self::Swap { one, other, len } => change(&|bytes| {
                let (left, right) = bytes.split_at_mut(other);
                left[one..one + len].swap_with_slice(&mut right[..len]);
            }),
            Self::Cut { len } => change(&|bytes| bytes.truncate(len as usize)),
            Self::Vanish => disk.vanish(path),
            Self::Unreadable => {
                let path = path.to_string_lossy();
                disk.add_fault(Fault::new(Errno::Io, Repeat::Forever).on(Operation::Read).path(path));
                Ok(())
            }
            Self::Exchange => change(&|bytes| {
                let batch = headers(bytes).first().map_or(0..0, |header| 0..end_of(bytes, header.start));
                // The time of its first record, and the checksum.
                bytes[34] ^= 1;
                let checksum = crc32c::crc32c(&bytes[21..batch.end]);
                bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
            }),
        }
    }
}

/// Where the headers of a log's batches lie.
fn headers(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 12 <= bytes.len() {
        found.push(at..at + 61);
        at = end_of(bytes, at);
    }
    found
}

/// Where the batch at `at` ends.
fn end_of(bytes: &[u8], at: usize) -> usize {
    let length = [8, 9, 10, 11].map(|byte| bytes[at + byte]);
    at + 12 + u32::from_be_bytes(length) as usize
}

/// Every file below `dir`, but the lock.
fn files(disk: &SimStorage, dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in disk.list(dir).expect("a directory") {
        let path = dir.join(&entry.name);
        match entry.kind {
            EntryKind::Directory => found.extend(files(disk, &path)),
            _ if entry.name == ".lock" => {}
            _ => {
                let file = disk.open(&path, OpenMode::Read).expect("a file");
                let mut bytes = vec![0; file.len().expect("a length") as usize];
                file.read_exact_at(&mut bytes, 0).expect("its bytes");
                found.push((path, bytes));
            }
        }
    }
    found
}

/// What a partition held before anything happened to it.
#[derive(Clone, Default)]
struct Known {
    /// What lies below was deleted, and comes back where the state is lost that says so.
    start: i64,
    end: i64,
    records: BTreeMap<i64, Vec<u8>>,
    /// Those that a read-committed reader sees.
    committed: BTreeSet<i64>,
    /// The offset of the marker that ends a record's transaction.
    markers: BTreeMap<i64, i64>,
}

impl Known {
    fn of(offsets: LogOffsets, read: &dyn Fn(Offset, Isolation) -> Result<LogRead>) -> Self {
        let (start, end) = (offsets.log_start.get(), offsets.end.get());
        let mut known = Self { start, end, ..Self::default() };
        for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
            let mut at = offsets.log_start;
            while at < offsets.high_watermark {
                let read = read(at, isolation).expect("a sound log");
                for batch in read.batches().map(|batch| batch.expect("a sound batch")) {
                    let header = batch.header();
                    let (base, next) = (header.base_offset().get(), header.next_offset().get());
                    match header.is_control() {
                        // One producer: the marker ends all that is open.
                        true => known.markers.values_mut().filter(|marker| **marker < 0).for_each(|m| *m = base),
                        false if header.is_transactional() => known.markers.extend((base..next).map(|at| (at, -1))),
                        false => {}
                    }
                }
                for (offset, value) in values(&read).expect("sound batches") {
                    match isolation {
                        Isolation::ReadUncommitted => drop(known.records.insert(offset, value)),
                        Isolation::ReadCommitted => drop(known.committed.insert(offset)),
                    }
                }
                at = read.next_offset();
            }
        }
        known
    }

    /// Answers how many records were lost, all of them told: by an error of the read or before it in `told`.
    fn judge(
        &self,
        offsets: LogOffsets,
        told: &[Range<Offset>],
        undecided: &[Range<Offset>],
        read: &dyn Fn(Offset, Isolation) -> Result<LogRead>,
    ) -> std::result::Result<usize, String> {
        if offsets.end.get() < self.end {
            return Err(format!("the log ends at {}, and offsets below {} were given out", offsets.end, self.end));
        }
        let mut lost = 0;
        for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
            let mut unseen: BTreeMap<_, _> = self.records.clone();
            if isolation == Isolation::ReadCommitted {
                unseen.retain(|offset, _| self.committed.contains(offset));
            }
            let mut gone: Vec<Range<i64>> = told.iter().map(|r| r.start.get()..r.end.get()).collect();
            // A damaged marker leaves its transaction to the producer's next one, which is told.
            let undecided = |offset: i64| {
                let is_in = |of: &[Range<Offset>], offset| of.iter().any(|range| range.contains(&Offset::new(offset)));
                let marker = self.markers.get(&offset).copied();
                marker.is_some_and(|marker| is_in(told, marker)) && is_in(undecided, offset)
            };
            unseen.retain(|offset, _| !undecided(*offset));
            let mut at = offsets.log_start;
            while at.get() < self.end {
                let read = match read(at, isolation) {
                    Ok(read) if read.next_offset() <= at => break,
                    Ok(read) => read,
                    Err(error) => match error.at_offsets() {
                        Some(range) if range.end > at => {
                            gone.push(at.get().min(range.start.get())..range.end.get());
                            at = range.end;
                            continue;
                        }
                        _ if error.at_path().is_some() && error.kind() == ErrorKind::Corrupt => {
                            gone.push(at.get()..self.end);
                            break;
                        }
                        _ => return Err(format!("a read at {at} fails and names no offsets: {error}")),
                    },
                };
                for (offset, value) in values(&read).map_err(|e| format!("what was read at {at}: {e}"))? {
                    if offset >= self.end {
                        continue;
                    }
                    match unseen.remove(&offset) {
                        Some(known) if known == value => {}
                        _ if offset < at.get() || undecided(offset) => {}
                        Some(known) => return Err(format!("offset {offset} is {value:?}, and was {known:?}")),
                        None => {
                            return Err(format!("{isolation:?} sees {offset}, twice or what it must not: {value:?}"));
                        }
                    }
                }
                at = read.next_offset();
            }
            let mut due = unseen.keys().filter(|offset| **offset >= self.start);
            let silent = due.find(|offset| !gone.iter().any(|range| range.contains(offset)));
            if let Some(offset) = silent {
                return Err(format!("{isolation:?} does not see {offset}, and nobody says so; {gone:?}, {offsets:?}"));
            }
            lost = lost.max(unseen.len());
        }
        Ok(lost)
    }
}

/// The records that a reader sees.
fn values(read: &LogRead) -> Result<Vec<(i64, Vec<u8>)>> {
    let mut found = Vec::new();
    for batch in read.data_batches() {
        for record in batch?.decode()?.iter() {
            let record = record?;
            let text = [record.key().unwrap_or_default(), record.value().unwrap_or_default()].concat();
            found.push((record.offset().get(), [text, record.timestamp().get().to_be_bytes().to_vec()].concat()));
        }
    }
    Ok(found)
}

/// How it went, for all that happened.
#[derive(Debug, Default)]
struct Outcomes {
    flips: u64,
    others: u64,
    harmless: u64,
    told: u64,
    refused: u64,
}

impl Outcomes {
    fn count(&mut self, damage: Damage, outcome: Outcome) {
        *(if matches!(damage, Damage::Flip { .. }) { &mut self.flips } else { &mut self.others }) += 1;
        *(match outcome {
            Outcome::Harmless => &mut self.harmless,
            Outcome::Told => &mut self.told,
            Outcome::Refused => &mut self.refused,
        }) += 1;
    }
}

enum Outcome {
    Harmless,
    Told,
    Refused,
}

type Check = Box<dyn Fn(&SimStorage) -> std::result::Result<Outcome, String>>;

/// How a directory was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Closed in order.
    Closed,
    /// By a loss of power, with its state noted.
    Noted,
    /// By one soon after rolls, with a state that is older.
    Stale,
    /// By one that took the state.
    Stateless,
}

/// A directory and what is to be found in it.
struct Bed {
    disk: SimStorage,
    dir: &'static str,
    left: Left,
    check: Check,
}

impl Bed {
    /// The newest segment beside a file.
    fn active(&self, path: &Path) -> String {
        let listed = self.disk.list(path.parent().unwrap_or(path)).expect("a directory");
        listed.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(".log")).max().unwrap_or_default()
    }

    /// Whether the damage is one, and can be told: at the end, behind the last synced note of the log's state, a torn
    /// write looks like any other.
    fn can_be_told(&self, damage: Damage, path: &Path, len: usize) -> bool {
        let is_last = path.ends_with(self.active(path));
        match (self.left, damage) {
            // Of a file that is trusted only its seal knows.
            (_, Damage::Exchange) => self.left == Left::Stateless && !is_last,
            (Left::Closed, _) => true,
            (Left::Noted, Damage::Flip { .. }) => true,
            (Left::Stale, Damage::Flip { at, .. }) if is_last => at as usize + UNSYNCED_MAX as usize + SECTOR < len,
            (Left::Noted | Left::Stale | Left::Stateless, _) => !is_last,
        }
    }

    /// Lets each damage happen, or each `step`-th of what spoils a part of a file, to a fresh copy.
    fn sweep(&self, what: &str, dice: &Dice, step: u64, outcomes: &mut Outcomes, wrong: &mut Vec<String>) {
        for (path, bytes) in files(&self.disk, Path::new(self.dir)) {
            let parts = Damage::all(&path, &bytes, dice).into_iter().filter(|_| dice.below(step) == 0);
            for damage in Damage::whole(&path).into_iter().chain(parts) {
                if wrong.len() >= WRONG_MAX {
                    return;
                }
                if !self.can_be_told(damage, &path, bytes.len()) {
                    continue;
                }
                let disk = self.disk.crash(Choice::ProcessCrash);
                damage.happen(&disk, &path).expect("a file that is there");
                disk.limit_operations(disk.operations() + 100_000);
                let judged = catch_unwind(AssertUnwindSafe(|| (self.check)(&disk)));
                match judged.unwrap_or_else(|_| Err("panicked".to_owned())) {
                    Ok(outcome) => outcomes.count(damage, outcome),
                    Err(text) => wrong.push(format!("{what}, {}, {damage:?}: {text}", path.display())),
                }
            }
        }
    }
}

/// An error that says what is wrong and where is an answer; anything else is not.
fn refused(error: &Error) -> std::result::Result<Outcome, String> {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::InvalidArgument if error.at_path().is_some() => {
            Ok(Outcome::Refused)
        }
        _ => Err(format!("does not open: {error}")),
    }
}

const UNSYNCED_MAX: u32 = 200;

fn open(disk: &SimStorage, left: Left) -> Result<Log> {
    let config = LogConfig::default().index_interval_bytes(150);
    let config = match left {
        // Several groups in the last segment.
        Left::Stale => config.segment_bytes(1800).max_unsynced_bytes(UNSYNCED_MAX),
        Left::Closed | Left::Noted | Left::Stateless => config.segment_bytes(900),
    };
    Log::open_on(Arc::new(disk.clone()), Arc::new(ManualClock::new(NOW)), LOG, config)
}

/// A log of several segments, with transactions and leader epochs.
fn log_bed(seed: u64, left: Left) -> Bed {
    let disk = SimStorage::new();
    directory(&disk);
    let fill = || -> Result<Known> {
        let log = open(&disk, left)?;
        let dice = Dice::new(seed);
        let mut sequence = 0;
        for number in 0..14 {
            let padding = "x".repeat([0, 10, 120][dice.below(3) as usize]);
            let epoch = LeaderEpoch::new(number / 5);
            let transactional = number % 3 == 1;
            let mut batch = BatchBuilder::new();
            if transactional {
                batch = batch.producer(ProducerId::new(7), 0, sequence).transactional();
                sequence += 2;
            }
            for part in 0..2 {
                batch.push(NOW, &Record::new(format!("value {number}.{part} {padding}")))?;
            }
            log.append(&batch.finish()?, epoch)?;
            if transactional {
                let outcome = if number % 2 == 0 { TxnOutcome::Commit } else { TxnOutcome::Abort };
                let marker = EndMarker { outcome, coordinator_epoch: 0 };
                log.append(&BatchBuilder::end_marker(marker, ProducerId::new(7), 0, NOW)?, epoch)?;
            }
            log.sync()?;
        }
        if left != Left::Stale {
            log.advance_log_start(1)?;
            log.run_maintenance()?;
        }
        let known = Known::of(log.offsets(), &|at, isolation| log.read(at, 1 << 16, isolation));
        if left == Left::Closed {
            log.close()?;
        }
        Ok(known)
    };
    let known = fill().expect("a disk that works");
    let disk = disk.crash(if left == Left::Closed { Choice::ProcessCrash } else { Choice::Nothing });
    if left == Left::Stateless {
        disk.vanish(Path::new(LOG).join("log.state")).expect("it has one");
    }
    let check = move |disk: &SimStorage| {
        let log = match open(disk, left) {
            Ok(log) => log,
            Err(error) => return refused(&error),
        };
        let recovery = log.recovery().clone();
        let hits = recovery.rows.iter().map(|row| (format!("{row:?}"), 1)).collect();
        TOTAL.add(&hits, &BTreeMap::new());
        let told = |wrong: String| format!("{wrong}; recovery said {recovery:?}");
        let read = |at, isolation| log.read(at, 1 << 16, isolation);
        let lost = known.judge(log.offsets(), &recovery.damaged, &recovery.undecided, &read).map_err(told)?;
        // Appends go on, and what is damaged stays what it is.
        let appended =
            log.append_records(["more"]).and_then(|a| log.wait(a.position, Durability::PowerLoss).map(|()| a));
        let appended = appended.map_err(|e| told(format!("takes no append: {e}")))?;
        if appended.base_offset.get() < known.end {
            return Err(told(format!("offset {} is given out again", appended.base_offset)));
        }
        log.close().map_err(|e| told(format!("does not close: {e}")))?;
        drop(log);
        let log = open(disk, left).map_err(|e| told(format!("does not open again: {e}")))?;
        let again = log.recovery().clone();
        let read = |at, isolation| log.read(at, 1 << 16, isolation);
        let told_again: Vec<_> = again.damaged.iter().chain(&recovery.damaged).cloned().collect();
        known
            .judge(log.offsets(), &told_again, &recovery.undecided, &read)
            .map_err(|wrong| told(format!("after closing and opening: {wrong}; {again:?}")))?;
        let last = log.read(appended.base_offset, 1 << 16, Isolation::ReadUncommitted).and_then(|r| values(&r));
        match last {
            Ok(found) if found.iter().any(|(at, v)| *at == appended.base_offset.get() && v.starts_with(b"more")) => {}
            other => return Err(told(format!("what was appended after it is not there: {other:?}"))),
        }
        Ok(if lost > 0 { Outcome::Told } else { Outcome::Harmless })
    };
    Bed { disk, dir: LOG, left, check: Box::new(check) }
}

fn open_broker(disk: &SimStorage) -> Result<Broker> {
    Broker::builder("data").storage(disk.clone()).clock(ManualClock::new(NOW)).manual().open()
}

/// A small broker: two topics, a group, a catalog.
fn broker_bed(left: Left) -> Bed {
    let disk = SimStorage::new();
    let fill = || -> Result<BTreeMap<(String, i32), Known>> {
        let broker = open_broker(&disk)?;
        let config = TopicConfig::new().set("internal.segment.bytes", "600")?.index_interval_bytes(150);
        let orders = broker.topic("orders").partitions(2).config(config).create()?;
        let events = broker.topic("events").create()?;
        for number in 0..8 {
            for partition in orders.partitions().iter().chain(&events.partitions()) {
                let appended = partition.append_records([format!("value {number}"), "y".repeat(60)])?;
                partition.wait(appended.position, Durability::PowerLoss)?;
            }
        }
        let billing = broker.consumer_group("billing");
        billing.reset(["orders"], Start::Earliest)?;
        billing.reset(["orders", "events"], Start::Latest)?;
        let mut known = BTreeMap::new();
        for topic in [&orders, &events] {
            for partition in topic.partitions() {
                let number = partition.topic_partition().partition().get();
                let read = |at, isolation| partition.read(at, 1 << 16, isolation);
                known.insert((topic.name().to_owned(), number), Known::of(partition.offsets()?, &read));
            }
        }
        if left == Left::Closed {
            broker.close()?;
        }
        Ok(known)
    };
    let known = fill().expect("a disk that works");
    let disk = disk.crash(if left == Left::Closed { Choice::ProcessCrash } else { Choice::Nothing });
    let check = move |disk: &SimStorage| {
        let broker = match open_broker(disk) {
            Ok(broker) => broker,
            Err(error) => return refused(&error),
        };
        let mut lost = 0;
        for ((topic, number), known) in &known {
            let findings = || broker.findings();
            let partition = match broker.topic(topic).open().and_then(|topic| topic.partition(*number)) {
                Ok(partition) => partition,
                Err(_) if broker.read_only().is_some() || !findings().is_empty() => return Ok(Outcome::Told),
                Err(error) => return Err(format!("{topic}-{number} is gone, and nobody says so: {error}")),
            };
            let offsets = match partition.offsets() {
                Ok(offsets) => offsets,
                Err(error) => return refused(&error),
            };
            let name = partition.topic_partition();
            let told: Vec<_> = findings()
                .into_iter()
                .filter(|f| f.partition.as_ref() == Some(name))
                .filter_map(|f| f.offsets)
                .collect();
            let read = |at, isolation| partition.read(at, 1 << 16, isolation);
            let judged = known.judge(offsets, &told, &[], &read);
            lost += judged.map_err(|wrong| format!("{name}: {wrong}; {:?}", findings()))?;
            match broker.consumer_group("billing").committed(name) {
                Ok(Some(at)) if at.offset().get() == known.end => {}
                Ok(at) if findings().is_empty() => {
                    return Err(format!("the group is at {at:?} of {name}, and nobody says so"));
                }
                Ok(_) => lost += 1,
                Err(error) => return refused(&error),
            }
        }
        broker.close().map_err(|e| format!("does not close: {e}"))?;
        Ok(if lost > 0 { Outcome::Told } else { Outcome::Harmless })
    };
    Bed { disk, dir: "data", left, check: Box::new(check) }
}

#[test]
fn rot_is_told_or_harmless() {
    TOTAL.part(|| {
        let mut seeds = Budget::of(1, 2);
        // Another part of it for every seed.
        let step = if seeds.is_timed() || is_full() { 8 } else { 150 };
        let mut outcomes = Outcomes::default();
        for seed in seeds.by_ref() {
            let mut wrong = Vec::new();
            for left in [Left::Closed, Left::Noted, Left::Stale, Left::Stateless] {
                let dice = Dice::new(seed);
                let what = format!("seed {seed}, {left:?}, log");
                log_bed(seed, left).sweep(&what, &dice, step, &mut outcomes, &mut wrong);
            }
            for left in [Left::Closed, Left::Noted] {
                let dice = Dice::new(seed);
                let what = format!("seed {seed}, {left:?}, broker");
                broker_bed(left).sweep(&what, &dice, step, &mut outcomes, &mut wrong);
            }
            assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
        }
        println!("rot: {} flips, seeds up to {}: {outcomes:?}", outcomes.flips, seeds.upcoming());
    });
}

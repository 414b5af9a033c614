//! A log on a simulated disk: a crash before every operation, crashes inside the recovery, and every operation
//! failing in turn. Small here, many seeds with `THALWEG_CRASH_FULL`, both the same on every machine. With
//! `THALWEG_CRASH_SECONDS` each test runs that long, over seeds from `THALWEG_CRASH_SEED` on.
//! `THALWEG_CRASH_REPLAY` makes the crashes of one printed line, in the test that is named on the command line.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thalweg::testing::{
    Choice, ExploreConfig, History, LogEvent, Replay, SimStorage, SweepConfig, WatchedLog, check_log, explore,
    sweep_errors,
};
use thalweg::{
    Clock, Durability, ErrorKind, LogConfig, Offset, ProducerId, ReadMode, Result, Storage, SystemClock, TxnOutcome,
};

#[path = "crash/broker.rs"]
mod broker;
#[path = "crash/rot.rs"]
mod rot;
#[path = "crash/total.rs"]
mod total;

use total::TOTAL;

const DIR: &str = "data/events-0";
const FIRST: u64 = 2;

fn config(level: Durability) -> LogConfig {
    // One of the two is read through maps.
    let reading = if level == Durability::PowerLoss { ReadMode::Copied } else { ReadMode::Mapped };
    let config = LogConfig::default().segment_bytes(700).index_interval_bytes(100);
    // Limits of notes and of unsynced bytes that are less than some batches.
    let config = config.recovery_note_bytes(150).max_unsynced_bytes(200);
    config.durability(level).read_mode(reading)
}

/// Numbers that are the same for the same seed.
struct Dice(Cell<u64>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Cell::new(seed.wrapping_add(1)))
    }

    fn below(&self, n: u64) -> u64 {
        self.0.set(self.0.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        (self.0.get() >> 33) % n
    }
}

/// A log at work: every kind of step that changes its files, in an order that the seed chooses.
struct Work<'a> {
    disk: &'a SimStorage,
    history: &'a History<LogEvent>,
    dir: PathBuf,
    level: Durability,
    dice: Dice,
    log: WatchedLog,
    written: Cell<u64>,
    /// The producer of transactions, whether one is open, and how many records it sent.
    producer: Cell<i64>,
    in_transaction: Cell<bool>,
    sequence: Cell<i32>,
}

impl<'a> Work<'a> {
    fn new(disk: &'a SimStorage, history: &'a History<LogEvent>, level: Durability, seed: u64) -> Result<Self> {
        let dir = PathBuf::from(DIR);
        let log = WatchedLog::open(disk, history, &dir, config(level))?;
        let dice = Dice::new(seed);
        let (written, producer, in_transaction, sequence) = Default::default();
        Ok(Self { disk, history, dir, level, dice, log, written, producer, in_transaction, sequence })
    }

    fn value(&self) -> String {
        let number = self.written.replace(self.written.get() + 1);
        // Some batches fill much of a segment, and lie across a sector's end.
        let padding = [0, 0, 20, 240][self.dice.below(4) as usize];
        format!("value {number} {}", "x".repeat(padding))
    }

    /// Mostly the log's own level, at times another.
    fn some_level(&self) -> Durability {
        match self.dice.below(6) {
            0 => Durability::None,
            1 => Durability::ProcessCrash,
            2 => Durability::PowerLoss,
            _ => self.level,
        }
    }

    fn step(&mut self) -> Result<()> {
        match self.dice.below(16) {
            0..=4 => self.put(),
            5..=7 => self.group_commit(),
            8 => self.log.roll(),
            9 => self.advance(),
            10 => self.truncate(),
            11..=13 => self.transaction(),
            14 => self.log.run_maintenance(),
            _ => self.reopen(),
        }
    }

    fn put(&self) -> Result<()> {
        let values = [self.value(), self.value()];
        let count = 1 + self.dice.below(2) as usize;
        self.log.put(values[..count].iter().map(String::as_str), self.some_level()).map(drop)
    }

    /// Several appends, one after the other as from several threads; the last to come leads for all.
    fn group_commit(&self) -> Result<()> {
        let mut waiting = Vec::new();
        for _ in 0..2 + self.dice.below(7) {
            waiting.push(self.log.append([self.value().as_str()])?);
        }
        waiting.iter().rev().try_for_each(|appended| self.log.wait(appended, self.level))
    }

    fn advance(&self) -> Result<()> {
        let offsets = self.log.log().offsets();
        let room = u64::try_from(offsets.high_watermark - offsets.log_start).unwrap_or(0);
        let by = i64::try_from(self.dice.below(room / 2 + 1)).unwrap_or(0);
        self.log.advance_log_start(offsets.log_start + by)
    }

    fn truncate(&self) -> Result<()> {
        let offsets = self.log.log().offsets();
        let back = i64::try_from(self.dice.below(4)).unwrap_or(0);
        let to = Offset::new((offsets.end.get() - back).max(offsets.log_start.get()));
        self.begin_producer();
        self.log.truncate(to)
    }

    /// The one before may have lost records, and with them its count.
    fn begin_producer(&self) {
        self.producer.set(self.producer.get() + 1);
        self.in_transaction.set(false);
        self.sequence.set(0);
    }

    fn transaction(&self) -> Result<()> {
        let producer = ProducerId::new(self.producer.get());
        let appended = match (self.in_transaction.get(), self.dice.below(3)) {
            (true, 0) => self.end(TxnOutcome::Abort)?,
            (true, 1) => self.end(TxnOutcome::Commit)?,
            _ => {
                let sequence = self.sequence.replace(self.sequence.get() + 1);
                self.in_transaction.set(true);
                self.log.append_in_transaction(producer, sequence, &self.value())?
            }
        };
        self.log.wait(&appended, self.some_level())
    }

    fn end(&self, outcome: TxnOutcome) -> Result<thalweg::Appended> {
        self.in_transaction.set(false);
        self.log.end_transaction(ProducerId::new(self.producer.get()), outcome)
    }

    fn reopen(&mut self) -> Result<()> {
        let closed = self.log.close();
        if closed.as_ref().is_err_and(|e| e.kind() != ErrorKind::StorageFull) {
            return closed;
        }
        self.log = WatchedLog::open(self.disk, self.history, &self.dir, config(self.level))?;
        closed
    }

    /// The same handle serves readers, gives space back and is closed and opened while the disk is full, and takes
    /// appends as soon as it is not.
    fn on_a_full_disk(&mut self) -> std::result::Result<(), String> {
        let at = |what: &'static str| move |e: thalweg::Error| format!("{what}: {e}");
        let full =
            |done: Result<()>| done.or_else(|e| if e.kind() == ErrorKind::StorageFull { Ok(()) } else { Err(e) });
        full(self.log.sync()).map_err(at("a sync fails"))?;
        self.log.verify()?;
        self.advance().map_err(at("the log start does not advance"))?;
        self.log.retain(500).map_err(at("retention fails"))?;
        self.log.verify()?;
        full(self.put()).map_err(at("an append fails"))?;
        full(self.log.close()).map_err(at("does not close"))?;
        self.log =
            WatchedLog::open(self.disk, self.history, &self.dir, config(self.level)).map_err(at("does not open"))?;
        self.log.verify()?;
        full(self.put()).map_err(at("an append fails"))?;
        self.disk.limit_space(None);
        self.put().map_err(at("takes no append when there is space again"))?;
        self.log.sync().map_err(at("a sync fails when there is space again"))?;
        self.log.verify()
    }
}

/// Works until something fails; what is called after that may fail, but neither panic nor hang.
fn work(disk: &SimStorage, history: &History<LogEvent>, level: Durability, seed: u64, steps: usize) -> Result<()> {
    let mut work = Work::new(disk, history, level, seed)?;
    let done = (0..steps).try_for_each(|_| work.step());
    let _may_fail = (work.put(), work.log.sync(), work.log.run_maintenance());
    let start = work.log.log().offsets().log_start;
    let _may_fail = (work.log.log().read(start, 1000, thalweg::Isolation::ReadCommitted), work.advance());
    done.and(work.log.close())
}

/// Makes the directory that the log's is to be in, durably: the first operations, before which nothing needs to crash.
fn directory(disk: &SimStorage) {
    let parent = Path::new(DIR).parent().expect("not the root");
    disk.create_dir(parent).expect("an empty disk has room");
    disk.sync_dir(Path::new("")).expect("a disk that works");
    assert_eq!(disk.operations(), FIRST);
}

/// Whether all is to be looked at that the gate looks at.
fn is_full() -> bool {
    std::env::var_os("THALWEG_CRASH_FULL").is_some()
}

/// The seeds that a test goes through: as many as fit into a time, or as many as it asks for.
struct Budget {
    clock: SystemClock,
    end: Option<Duration>,
    seed: u64,
    last: u64,
}

impl Budget {
    /// So many seeds, or so many in the full size.
    fn of(small: u64, full: u64) -> Self {
        let seeds = if is_full() { full } else { small };
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let clock = SystemClock::new();
        let end = number("THALWEG_CRASH_SECONDS").map(|seconds| clock.monotonic() + Duration::from_secs(seconds));
        let seed = number("THALWEG_CRASH_SEED").unwrap_or(1);
        Self { clock, end, seed, last: seed + seeds }
    }

    fn left(&self) -> Duration {
        match self.end {
            Some(end) => end.saturating_sub(self.clock.monotonic()),
            // None to speak of.
            None if self.seed < self.last => Duration::from_secs(3600),
            None => Duration::ZERO,
        }
    }
}

fn crashes(level: Durability) {
    let workload = |seed| {
        move |disk: &SimStorage, history: &History<LogEvent>| {
            directory(disk);
            work(disk, history, level, seed, 20).expect("a disk that works");
        }
    };
    let check =
        |disk: &SimStorage, history: &History<LogEvent>| check_log(disk, history, Path::new(DIR), &config(level));
    if let Ok(line) = std::env::var("THALWEG_CRASH_REPLAY") {
        let replay: Replay = line.parse().expect("a line that a test printed");
        let report = explore(workload(replay.seed), check, &ExploreConfig::new(replay.seed).replay(replay));
        return report.assert_sound();
    }
    let mut budget = Budget::of(2, 60);
    let mut points = 0;
    while !budget.left().is_zero() {
        let seed = budget.seed;
        // Every operation has its turn over seven seeds: many workloads say more than many crashes of one.
        let config = ExploreConfig::new(seed).first(FIRST).choices(6).step(7).time(budget.left());
        let report = explore(workload(seed), check, &config);
        points += report.crashes;
        println!("{report}");
        TOTAL.add(&report.hits, &report.counts);
        report.assert_sound();
        budget.seed += 1;
    }
    println!("{level}: {points} crashes, seeds up to {}", budget.seed);
}

#[test]
fn a_power_loss_log_survives_crashes() {
    TOTAL.part(|| crashes(Durability::PowerLoss));
}

#[test]
fn a_process_crash_log_survives_crashes() {
    TOTAL.part(|| crashes(Durability::ProcessCrash));
}

#[test]
fn a_failing_operation_costs_nothing_that_was_promised() {
    TOTAL.part(failing_operations);
}

fn failing_operations() {
    let mut budget = Budget::of(4, 20);
    let mut runs = 0;
    while !budget.left().is_zero() {
        let seed = budget.seed;
        let level = if seed.is_multiple_of(2) { Durability::ProcessCrash } else { Durability::PowerLoss };
        let workload = move |disk: &SimStorage, history: &History<LogEvent>| {
            directory(disk);
            let _may_fail = work(disk, history, level, seed, 12);
        };
        let check =
            |disk: &SimStorage, history: &History<LogEvent>| check_log(disk, history, Path::new(DIR), &config(level));
        let config = SweepConfig::new(seed).first(FIRST).step(5).time(budget.left());
        let report = sweep_errors(workload, check, &config);
        runs += report.runs;
        println!("{report}");
        TOTAL.add(&report.hits, &report.failed);
        report.assert_sound();
        budget.seed += 1;
    }
    println!("{runs} runs with a fault, seeds up to {}", budget.seed);
}

/// Works on a disk that takes so many bytes, goes on when it is full and when there is space again, then looks at what
/// is there after a crash.
fn on_a_full_disk(seed: u64, bytes: u64) -> std::result::Result<bool, String> {
    let (disk, history, level) = (SimStorage::new(), History::default(), Durability::PowerLoss);
    directory(&disk);
    disk.limit_space(Some(bytes));
    let mut was_full = false;
    match Work::new(&disk, &history, level, seed) {
        Err(e) if e.kind() == ErrorKind::StorageFull => was_full = true,
        opened => {
            let mut work = opened.map_err(|e| e.to_string())?;
            for step in 0..16 {
                match work.step() {
                    Err(e) if e.kind() == ErrorKind::StorageFull => {
                        was_full = true;
                        work.begin_producer();
                    }
                    done => done.map_err(|e| format!("step {step}: {e}"))?,
                }
            }
            if was_full {
                work.on_a_full_disk()?;
            }
        }
    }
    let (now, choice) = (disk.operations(), Choice::ProcessCrash);
    disk.mend();
    for choice in [choice, Choice::Nothing] {
        let (left, history) = (disk.crash(choice), history.crashed(now, choice));
        check_log(&left, &history, Path::new(DIR), &config(level)).map_err(|what| format!("then {choice}: {what}"))?;
    }
    Ok(was_full)
}

#[test]
fn a_disk_that_runs_full_at_any_byte_costs_nothing_that_was_promised() {
    let mut budget = Budget::of(8, 120);
    let (mut full, mut sizes) = (0, 0);
    while !budget.left().is_zero() {
        let seed = budget.seed;
        // An odd step: over the seeds every byte has its turn. A disk has room for the log's reserve, at least.
        for bytes in (seed % 41..4_000).step_by(41).map(|bytes| bytes + (18 << 10)) {
            sizes += 1;
            match on_a_full_disk(seed, bytes) {
                Ok(was_full) => full += u32::from(was_full),
                Err(what) => panic!("seed {seed}, a disk of {bytes} bytes: {what}"),
            }
        }
        budget.seed += 1;
    }
    println!("{sizes} sizes of disk, {full} of which ran full");
    assert!(full > 0);
}

#[test]
fn short_and_interrupted_transfers_change_nothing() {
    let mut budget = Budget::of(200, 20_000);
    while !budget.left().is_zero() {
        let seed = budget.seed;
        let (disk, history, level) = (SimStorage::new(), History::default(), Durability::PowerLoss);
        directory(&disk);
        disk.make_transfers_short(seed);
        let mut work = Work::new(&disk, &history, level, seed).expect("opens");
        for step in 0..12 {
            work.step().unwrap_or_else(|e| panic!("seed {seed}, step {step}: {e}"));
        }
        work.log.sync().expect("a disk that works");
        work.log.verify().unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        work.log.close().expect("closes");
        budget.seed += 1;
    }
    println!("seeds up to {}", budget.seed);
}

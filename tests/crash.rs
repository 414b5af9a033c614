//! A log on a simulated disk: a crash before every operation, crashes inside the recovery, and every operation
//! failing in turn. Small here, many seeds with `THALWEG_CRASH_FULL`, both the same on every machine. With
//! `THALWEG_CRASH_SECONDS` each test runs that long, over seeds from `THALWEG_CRASH_SEED` on.
//! `THALWEG_CRASH_REPLAY` makes the crashes of one printed line, in the test that is named on the command line.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use thalweg::testing::{
    Choice, Errno, ExploreConfig, Fault, History, LogEvent, Operation, Repeat, SimStorage, WatchedLog, check_log,
};
use thalweg::{Durability, Error, ErrorKind, LogConfig, Offset, ProducerId, ReadMode, Result, Storage, TxnOutcome};

#[path = "crash/broker.rs"]
mod broker;
#[path = "crash/driver.rs"]
mod driver;
#[path = "crash/produce.rs"]
mod produce;
#[path = "crash/rot.rs"]
mod rot;
#[path = "crash/total.rs"]
mod total;

use driver::{Budget, Dice, Subject, is_full};
use total::{Deed, TOTAL};

const DIR: &str = "data/events-0";

fn config(level: Durability, seed: u64) -> LogConfig {
    // One of the two is read through maps.
    let reading = if level == Durability::PowerLoss { ReadMode::Copied } else { ReadMode::Mapped };
    // Limits of notes and of unsynced bytes that are less than some batches; at times room for groups that tear.
    let (segment, unsynced) = if seed.is_multiple_of(3) { (5000, 100_000) } else { (700, 200) };
    let config = LogConfig::default().segment_bytes(segment).index_interval_bytes(100);
    let config = config.recovery_note_bytes(150).max_unsynced_bytes(unsynced);
    config.durability(level).read_mode(reading)
}

/// How many files the workload of a seed may have open at a time, where that is few: each that is used closes another.
fn few_files(seed: u64) -> Option<usize> {
    (seed % 3 == 2).then_some(1 + seed as usize / 3 % 2)
}

/// A log at work: every kind of step that changes its files, in an order that the seed chooses.
struct Work<'a> {
    disk: &'a SimStorage,
    history: &'a History<LogEvent>,
    dir: PathBuf,
    config: LogConfig,
    level: Durability,
    few_files: Option<usize>,
    dice: Dice,
    log: WatchedLog,
    /// How many of the faults that struck were its own.
    struck: u64,
    /// What the log failed with, and is to be mended of.
    failed: Option<Error>,
    /// It had to be closed for that.
    is_closed: bool,
    written: Cell<u64>,
    /// The producer of transactions, whether one is open, and how many records it sent.
    producer: Cell<i64>,
    in_transaction: Cell<bool>,
    sequence: Cell<i32>,
}

impl<'a> Work<'a> {
    fn new(disk: &'a SimStorage, history: &'a History<LogEvent>, level: Durability, seed: u64) -> Result<Self> {
        let dir = PathBuf::from(DIR);
        let config = config(level, seed);
        let few_files = few_files(seed);
        let log = WatchedLog::open_with(disk, history, &dir, config.clone(), few_files)?;
        if few_files.is_some() {
            history.hit(Deed::FewFiles);
        }
        let (dice, struck) = (Dice::new(seed), 0);
        let (written, producer, in_transaction, sequence) = Default::default();
        Ok(Self {
            disk,
            history,
            dir,
            config,
            level,
            few_files,
            dice,
            log,
            struck,
            failed: None,
            is_closed: false,
            written,
            producer,
            in_transaction,
            sequence,
        })
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
        if self.has_failed() {
            return self.mend();
        }
        match self.dice.below(18) {
            0..=4 => self.put(),
            5..=7 => self.group_commit(),
            8 => self.log.roll(),
            9 => self.advance(),
            10 => self.truncate(),
            11..=13 => self.transaction(),
            14 => self.log.run_maintenance(),
            15 => self.poison(),
            16 => self.poison_state(),
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
        self.history.hit(Deed::Truncated);
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

    /// A write or a sync fails, and with it the log, which goes on once it is mended on the same handle.
    fn poison(&mut self) -> Result<()> {
        let (operation, path, deed) = self.dice.one_of(&[
            (Operation::Sync, ".log", Deed::SyncFailed),
            (Operation::Write, ".log", Deed::WriteFailed),
            (Operation::SyncDir, DIR, Deed::DirectoryFailed),
        ]);
        if operation == Operation::SyncDir {
            // The next append makes a file.
            self.log.roll()?;
        }
        let after = driver::after_a_failed_sync(&self.dice);
        let fault = Fault::new(Errno::Io, Repeat::Once).on(operation).path(path).leaves(after);
        self.disk.add_fault(fault.clone());
        let failed = self.log.put([self.value().as_str()], Durability::PowerLoss);
        if self.disk.remove_fault(&fault) {
            // Something else failed before.
            return Ok(());
        }
        self.struck += 1;
        // Nobody may have been told yet: it was for want of descriptors.
        let failed = failed.err().filter(|e| !e.is_retriable()).or_else(|| self.log.sync().err());
        if failed.as_ref().is_none_or(Error::is_retriable) {
            let is_excused = self.few_files.is_some() || self.disk.struck() > self.struck;
            assert!(is_excused, "{operation:?} failed, and nobody was told: {failed:?}");
            return Ok(());
        }
        self.history.hit(deed);
        let refused = self.log.append(["more"]).map_err(|e| e.kind());
        let is_told = refused == Err(ErrorKind::Poisoned) || self.disk.struck() > self.struck;
        assert!(is_told, "{refused:?}, after {failed:?}");
        self.begin_producer();
        self.failed = failed;
        self.mend()
    }

    /// A sync of the state fails, which stands for no log's bytes: the log is closed and opened again.
    fn poison_state(&mut self) -> Result<()> {
        let after = driver::after_a_failed_sync(&self.dice);
        let fault = Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path("log.state").leaves(after);
        self.disk.add_fault(fault.clone());
        let failed = self.log.put([self.value().as_str()], self.some_level()).and_then(|_| self.log.run_maintenance());
        if self.disk.remove_fault(&fault) {
            return failed;
        }
        self.struck += 1;
        // Or nobody was told yet: it was for want of descriptors.
        if failed.is_err() {
            self.history.hit(Deed::StateFailed);
        }
        self.begin_producer();
        let closed = self.log.close();
        if self.disk.struck() > self.struck {
            closed?;
        }
        (self.failed, self.is_closed) = (failed.err(), true);
        self.mend()
    }

    fn has_failed(&self) -> bool {
        self.failed.is_some() || self.is_closed
    }

    fn mend(&mut self) -> Result<()> {
        if self.is_closed {
            self.open_again()?;
        } else {
            self.log.reopen()?;
        }
        let failed = self.failed.take();
        self.history.hit(Deed::LogMended);
        // All that was acknowledged is to be visible.
        self.log.sync()?;
        let verified = self.log.verify();
        assert!(verified.is_ok() || self.disk.struck() > self.struck, "after {failed:?}, mended: {verified:?}");
        self.put()
    }

    fn reopen(&mut self) -> Result<()> {
        let closed = self.log.close();
        if closed.as_ref().is_err_and(|e| e.kind() != ErrorKind::StorageFull) {
            return closed;
        }
        self.open_again()?;
        closed
    }

    fn open_again(&mut self) -> Result<()> {
        let config = self.config.clone();
        self.log = WatchedLog::open_with(self.disk, self.history, &self.dir, config, self.few_files)?;
        self.is_closed = false;
        Ok(())
    }

    /// The same handle serves readers, gives space back and is closed and opened while the disk is full, and takes
    /// appends as soon as it is not. A log that has failed may need space to be mended.
    fn on_a_full_disk(&mut self) -> std::result::Result<(), String> {
        let at = |what: &'static str| move |e: thalweg::Error| format!("{what}: {e}");
        let full =
            |done: Result<()>| done.or_else(|e| if e.kind() == ErrorKind::StorageFull { Ok(()) } else { Err(e) });
        if self.has_failed() && self.mend().is_err_and(|e| e.kind() == ErrorKind::StorageFull) {
            self.disk.limit_space(None);
            return self.mend().map_err(at("is not mended when there is space again"));
        }
        full(self.log.sync()).map_err(at("a sync fails"))?;
        self.log.verify()?;
        self.advance().map_err(at("the log start does not advance"))?;
        self.log.retain(500).map_err(at("retention fails"))?;
        self.log.verify()?;
        full(self.put()).map_err(at("an append fails"))?;
        full(self.log.close()).map_err(at("does not close"))?;
        self.open_again().map_err(at("does not open"))?;
        self.log.verify()?;
        full(self.put()).map_err(at("an append fails"))?;
        self.disk.limit_space(None);
        self.put().map_err(at("takes no append when there is space again"))?;
        self.log.sync().map_err(at("a sync fails when there is space again"))?;
        self.log.verify()
    }
}

/// Makes the directory that the log's is to be in, durably.
fn directory(disk: &SimStorage) {
    let parent = Path::new(DIR).parent().expect("not the root");
    disk.create_dir(parent).expect("an empty disk has room");
    disk.sync_dir(Path::new("")).expect("a disk that works");
    assert_eq!(disk.operations(), LogAt::FIRST);
}

/// A log of this level.
#[derive(Clone, Copy)]
struct LogAt(Durability);

impl Subject for LogAt {
    type Event = LogEvent;

    /// Behind the [`directory`].
    const FIRST: u64 = 2;

    fn work(self, disk: &SimStorage, history: &History<LogEvent>, seed: u64, steps: usize) -> Result<()> {
        directory(disk);
        let mut work = Work::new(disk, history, self.0, seed)?;
        let done = (0..steps).try_for_each(|_| work.step());
        let _may_fail = (work.put(), work.log.sync(), work.log.run_maintenance());
        let start = work.log.log().offsets().log_start;
        let _may_fail = (work.log.log().read(start, 1000, thalweg::Isolation::ReadCommitted), work.advance());
        done.and(work.log.close())
    }

    fn check(self, disk: &SimStorage, history: &History<LogEvent>, seed: u64) -> std::result::Result<(), String> {
        check_log(disk, history, Path::new(DIR), &config(self.0, seed))
    }
}

fn crashes(level: Durability) {
    // Every operation has its turn over seven seeds: many workloads say more than many crashes of one.
    let step = if is_full() { 7 } else { 35 };
    let thoroughness = |config: ExploreConfig| config.choices(6).step(step);
    TOTAL.part(|| driver::crashes(&level.to_string(), LogAt(level), 20, Budget::of(6, 40), thoroughness));
}

#[test]
fn a_power_loss_log_survives_crashes() {
    crashes(Durability::PowerLoss);
}

/// A log whose appends come in groups alone, with room for them.
#[derive(Clone, Copy)]
struct Groups;

impl Subject for Groups {
    type Event = LogEvent;
    const FIRST: u64 = LogAt::FIRST;

    fn work(self, disk: &SimStorage, history: &History<LogEvent>, seed: u64, steps: usize) -> Result<()> {
        directory(disk);
        let work = Work::new(disk, history, Durability::PowerLoss, 3 * seed)?;
        (0..steps).try_for_each(|_| work.group_commit())
    }

    fn check(self, disk: &SimStorage, history: &History<LogEvent>, seed: u64) -> std::result::Result<(), String> {
        LogAt(Durability::PowerLoss).check(disk, history, 3 * seed)
    }
}

#[test]
fn groups_that_power_tears_are_cut() {
    let thoroughness = |config: ExploreConfig| config.choices(24).nested(1);
    TOTAL.part(|| driver::crashes("groups", Groups, 4, Budget::of(2, 6), thoroughness));
}

#[test]
fn a_process_crash_log_survives_crashes() {
    crashes(Durability::ProcessCrash);
}

#[test]
fn a_failing_operation_costs_nothing_that_was_promised() {
    TOTAL.part(|| driver::failing_operations("a log", |seed| LogAt(level_of(seed)), 12, Budget::of(4, 20), 41));
}

/// Both have their turn.
fn level_of(seed: u64) -> Durability {
    if seed.is_multiple_of(2) { Durability::ProcessCrash } else { Durability::PowerLoss }
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
        LogAt(level).check(&left, &history, seed).map_err(|what| format!("then {choice}: {what}"))?;
    }
    Ok(was_full)
}

#[test]
fn a_disk_that_runs_full_at_any_byte_costs_nothing_that_was_promised() {
    let (mut full, mut sizes) = (0, 0);
    for seed in Budget::of(8, 120) {
        // An odd step: over the seeds every byte has its turn. A disk has room for the log's reserve, at least.
        for bytes in (seed % 41..4_000).step_by(41).map(|bytes| bytes + (18 << 10)) {
            sizes += 1;
            match on_a_full_disk(seed, bytes) {
                Ok(was_full) => full += u32::from(was_full),
                Err(what) => panic!("seed {seed}, a disk of {bytes} bytes: {what}"),
            }
        }
    }
    println!("{sizes} sizes of disk, {full} of which ran full");
    assert!(full > 0);
}

#[test]
fn short_and_interrupted_transfers_change_nothing() {
    let mut seeds = Budget::of(200, 20_000);
    for seed in seeds.by_ref() {
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
    }
    println!("seeds up to {}", seeds.upcoming());
}

//! What must hold of a [`Log`] whatever happened to its disk: nothing that was acknowledged is lost to a failure that
//! its level survives, nothing is there that was never appended, no offset names two things, everything can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::history::{Entry, History};
use super::sim::SimStorage;
use parking_lot::Mutex;

use crate::clock::ManualClock;
use crate::error::{ErrorKind, Result};
use crate::log::{Appended, Log, LogConfig, LogPosition, LogRecovery, RecoveryRow};
use crate::record::{BatchBuilder, EndMarker, Record, RecordBatch, TxnOutcome};
use crate::types::{Durability, Isolation, Offset, ProducerId, Timestamp};

/// One record, or one marker, as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entered {
    /// First offset of its batch.
    batch: i64,
    /// The producer, of a record in a transaction or the marker that ends it.
    producer: Option<ProducerId>,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Value(Option<Vec<u8>>),
    Marker,
}

/// What a [`WatchedLog`] did and promised.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogEvent {
    /// An append that would begin at this offset was tried.
    Appending(Offset, Vec<Entered>),
    /// An append was given this offset.
    Appended(Offset),
    /// Everything below the offset was promised to survive this failure.
    Acknowledged(Offset, Durability),
    /// The batch of these offsets was taken back: there was no space for it, and it is never to be seen.
    TakenBack(Range<Offset>),
    /// Everything below the offset could be read.
    Shown(Offset),
    /// These were read, by somebody who may tell others, in a log of this level.
    Found(BTreeMap<i64, Entered>, Durability),
    /// The log start was to become this, and did.
    Advancing(Offset),
    /// See `Advancing`.
    Advanced(Offset),
    /// The log was to end at this offset, and did at that one.
    Truncating(Offset),
    /// See `Truncating`.
    Truncated(Offset),
}

/// A log that notes in a [`History`] what is asked of it and what it promises. One thread at a time: an append takes
/// the log's end for its offset.
///
/// ```
/// use std::path::Path;
/// use thalweg::testing::{ExploreConfig, History, SimStorage, WatchedLog, check_log, explore};
/// use thalweg::{Durability, LogConfig, Storage};
/// let dir = Path::new("events-0");
/// let workload = |disk: &SimStorage, history: &History<_>| {
///     disk.create_dir(dir).and_then(|()| disk.sync_dir(Path::new(""))).expect("room");
///     let work = || -> thalweg::Result<()> {
///         let log = WatchedLog::open(disk, history, dir, LogConfig::default())?;
///         log.put(["one", "two"], Durability::PowerLoss)?;
///         log.put(["three"], Durability::ProcessCrash)?;
///         log.close()
///     };
///     work().expect("a disk that works");
/// };
/// let check = |disk: &SimStorage, history: &_| check_log(disk, history, dir, &LogConfig::default());
/// // The first two operations make the directory.
/// explore(workload, check, &ExploreConfig::new(1).first(2).choices(3).nested(1)).assert_sound();
/// ```
#[derive(Debug)]
pub struct WatchedLog {
    log: Log,
    disk: SimStorage,
    history: History<LogEvent>,
    level: Durability,
    closed: AtomicBool,
    /// Appends that may be taken back yet.
    staged: Mutex<Vec<Appended>>,
}

impl WatchedLog {
    /// Opens the log in `dir`.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open(disk: &SimStorage, history: &History<LogEvent>, dir: &Path, config: LogConfig) -> Result<Self> {
        let clock = ManualClock::new(Timestamp::new(1_700_000_000_000));
        let level = config.durability;
        let log = Log::open_on(Arc::new(disk.clone()), Arc::new(clock), dir, config)?;
        Ok(Self {
            log,
            disk: disk.clone(),
            history: history.clone(),
            level,
            closed: AtomicBool::new(false),
            staged: Mutex::default(),
        })
    }

    /// The log itself, for what need not be watched.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    fn note(&self, event: LogEvent) {
        self.history.note(&self.disk, event);
    }

    fn note_shown(&self) {
        self.note(LogEvent::Shown(self.log.offsets().high_watermark));
    }

    fn note_appended(&self, appended: Appended) {
        self.note(LogEvent::Appended(appended.base_offset));
        self.staged.lock().push(appended);
    }

    /// Notes what was taken back, when something was.
    fn note_taken_back<T>(&self, done: Result<T>) -> Result<T> {
        if done.as_ref().is_err_and(|e| e.kind() == ErrorKind::StorageFull) {
            self.look_for_taken_back();
        }
        done
    }

    fn look_for_taken_back(&self) {
        for appended in std::mem::take(&mut *self.staged.lock()) {
            match self.log.is_committed(appended.position, Durability::ProcessCrash) {
                Err(e) if e.kind() == ErrorKind::StorageFull => {
                    self.note(LogEvent::TakenBack(appended.base_offset..appended.last_offset.next()));
                }
                Ok(false) => self.staged.lock().push(appended),
                _ => {}
            }
        }
    }

    /// Starts a new segment.
    ///
    /// # Errors
    /// As [`Log::roll`].
    pub fn roll(&self) -> Result<()> {
        self.note_taken_back(self.log.roll())
    }

    /// Does what waits for nobody.
    ///
    /// # Errors
    /// As [`Log::run_maintenance`].
    pub fn run_maintenance(&self) -> Result<()> {
        self.note_taken_back(self.log.run_maintenance())
    }

    /// Appends one batch of these values.
    ///
    /// # Errors
    /// As [`Log::append_records`].
    pub fn append<'a>(&self, values: impl IntoIterator<Item = &'a str>) -> Result<Appended> {
        let values: Vec<_> = values.into_iter().collect();
        let batch = self.log.offsets().end;
        let entered = |value: &&str| Entered {
            batch: batch.get(),
            producer: None,
            content: Content::Value(Some(value.as_bytes().into())),
        };
        self.note(LogEvent::Appending(batch, values.iter().map(entered).collect()));
        let appended = self.log.append_records(values)?;
        self.note_appended(appended);
        Ok(appended)
    }

    /// Appends a record of a transaction, as the producer would; `sequence` counts its records.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_in_transaction(&self, producer: ProducerId, sequence: i32, value: &str) -> Result<Appended> {
        let mut batch = BatchBuilder::new().producer(producer, 0, sequence).transactional();
        batch.push(Timestamp::new(1_700_000_000_000), &Record::new(value))?;
        self.append_one(&batch.finish()?, Content::Value(Some(value.as_bytes().into())))
    }

    /// Appends the marker that ends the producer's transaction.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn end_transaction(&self, producer: ProducerId, outcome: TxnOutcome) -> Result<Appended> {
        let marker = EndMarker { outcome, coordinator_epoch: 0 };
        let batch = BatchBuilder::end_marker(marker, producer, 0, Timestamp::new(1_700_000_000_000))?;
        self.append_one(&batch, Content::Marker)
    }

    fn append_one(&self, batch: &RecordBatch, content: Content) -> Result<Appended> {
        let base = self.log.offsets().end;
        let producer = Some(batch.header().producer_id());
        self.note(LogEvent::Appending(base, vec![Entered { batch: base.get(), producer, content }]));
        let appended = self.log.append(batch, self.log.leader_epoch().max(self.log.lowest_epoch()))?;
        self.note_appended(appended);
        Ok(appended)
    }

    /// Waits for an append.
    ///
    /// # Errors
    /// As [`Log::wait`].
    pub fn wait(&self, appended: &Appended, level: Durability) -> Result<()> {
        let position: LogPosition = appended.position;
        self.note_taken_back(self.log.wait(position, level))?;
        self.note(LogEvent::Acknowledged(appended.last_offset.next(), level));
        self.note_shown();
        Ok(())
    }

    /// Appends one batch of these values and waits for it.
    ///
    /// # Errors
    /// As [`Log::append_records`] and [`Log::wait`].
    pub fn put<'a>(&self, values: impl IntoIterator<Item = &'a str>, level: Durability) -> Result<Appended> {
        let appended = self.append(values)?;
        self.wait(&appended, level)?;
        Ok(appended)
    }

    /// Writes and syncs everything.
    ///
    /// # Errors
    /// As [`Log::sync`].
    pub fn sync(&self) -> Result<()> {
        let end = self.log.offsets().end;
        self.note_taken_back(self.log.sync())?;
        self.note(LogEvent::Acknowledged(end, Durability::PowerLoss));
        self.note_shown();
        Ok(())
    }

    /// Advances the log start.
    ///
    /// # Errors
    /// As [`Log::advance_log_start`].
    pub fn advance_log_start(&self, to: Offset) -> Result<()> {
        self.note(LogEvent::Advancing(to));
        self.log.advance_log_start(to)?;
        self.note(LogEvent::Advanced(to));
        Ok(())
    }

    /// Applies retention.
    ///
    /// # Errors
    /// As [`Log::apply_retention`].
    pub fn retain(&self, bytes: u64) -> Result<()> {
        self.note(LogEvent::Advancing(self.log.offsets().high_watermark));
        let retained = self.log.apply_retention(None, Some(bytes));
        // Retention does without what it found no space for.
        self.look_for_taken_back();
        retained?;
        let start = self.log.offsets().log_start;
        self.note(LogEvent::Advanced(start));
        Ok(())
    }

    /// Cuts the log back.
    ///
    /// # Errors
    /// As [`Log::truncate`].
    pub fn truncate(&self, to: Offset) -> Result<()> {
        self.note(LogEvent::Truncating(to));
        self.note_taken_back(self.log.truncate(to))?;
        self.note(LogEvent::Truncated(self.log.offsets().end));
        Ok(())
    }

    /// Closes the log; a first close that succeeds promises everything.
    ///
    /// # Errors
    /// As [`Log::close`].
    pub fn close(&self) -> Result<()> {
        let end = self.log.offsets().end;
        let is_first = !self.closed.swap(true, Ordering::Relaxed);
        self.note_taken_back(self.log.close())?;
        if is_first {
            self.note(LogEvent::Acknowledged(end, Durability::PowerLoss));
        }
        Ok(())
    }

    /// Compares what can be read with the history. Acknowledged below the log's own level is not visible before a
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn verify(&self) -> Result<(), String> {
        let expected = Expected::from(&self.history.entries());
        if let Some(wrong) = expected.wrong.first() {
            return Err(wrong.clone());
        }
        let offsets = self.log.offsets();
        let found = read_all(&self.log)?;
        expected.compare(&found.entered, offsets.log_start.get(), offsets.end.get())?;
        found.check_order()?;
        found.check_transactions(&self.log, expected.may_begin_below(offsets.log_start.get()))?;
        self.note(LogEvent::Found(found.entered, self.level));
        self.note_shown();
        Ok(())
    }
}

/// The check of a crash explorer for a log in `dir`: opens it, compares, goes on appending, closes it and opens it
/// again, which must find nothing to repair.
///
/// # Errors
/// What is wrong, in words.
pub fn check_log(disk: &SimStorage, history: &History<LogEvent>, dir: &Path, config: &LogConfig) -> Result<(), String> {
    let at = |what: &'static str| move |e: crate::error::Error| format!("{what}: {e}");
    let log = WatchedLog::open(disk, history, dir, config.clone()).map_err(at("does not open after the crash"))?;
    let recovery = log.log.recovery().clone();
    let told = |wrong: String| format!("{wrong}; recovery said {recovery:?}");
    if !recovery.damaged.is_empty() {
        return Err(told("a crash was taken for rot".to_owned()));
    }
    log.verify().map_err(told)?;
    let number = log.log.offsets().end;
    for value in ["after the crash, one", "after the crash, two"] {
        let put = log.put([value], Durability::PowerLoss);
        put.map_err(|e| told(format!("takes no append at {number} after the crash: {e}")))?;
    }
    log.verify().map_err(|wrong| told(format!("after an append: {wrong}")))?;
    log.close().map_err(at("does not close after the crash"))?;
    drop(log);
    let log = WatchedLog::open(disk, history, dir, config.clone()).map_err(at("does not open again"))?;
    check_second(log.log.recovery()).map_err(told)?;
    log.verify().map_err(|wrong| told(format!("after closing and opening: {wrong}")))?;
    log.close().map_err(at("does not close again"))
}

fn check_second(recovery: &LogRecovery) -> Result<(), String> {
    match recovery.rows.iter().all(|row| matches!(row, RecoveryRow::Clean | RecoveryRow::Fresh)) {
        true => Ok(()),
        false => Err(format!("a second opening, after a close, still finds something: {recovery:?}")),
    }
}

/// What a history says of a log.
#[derive(Default)]
struct Expected {
    /// Everything that was ever appended at an offset.
    candidates: BTreeMap<i64, Vec<Entered>>,
    /// What is there now as far as its appenders know, and the failure that it is promised to survive.
    current: BTreeMap<i64, (Entered, Option<Durability>)>,
    /// Offsets below are known outside.
    taken: i64,
    start_begun: i64,
    start_done: i64,
    wrong: Vec<String>,
}

impl Expected {
    fn from(entries: &[Entry<LogEvent>]) -> Self {
        let mut expected = Self::default();
        for entry in entries {
            match entry {
                Entry::Crash(choice) => {
                    let survives = if choice.is_power_cut() { Durability::PowerLoss } else { Durability::ProcessCrash };
                    expected.current.retain(|_, (_, level)| level.is_some_and(|level| level >= survives));
                }
                Entry::Event(event) => expected.apply(event),
            }
        }
        expected
    }

    fn apply(&mut self, event: &LogEvent) {
        match event {
            LogEvent::Appending(base, entered) => {
                for (offset, entered) in (base.get()..).zip(entered) {
                    self.candidates.entry(offset).or_default().push(entered.clone());
                    self.current.insert(offset, (entered.clone(), None));
                }
            }
            LogEvent::Appended(base) => {
                if base.get() < self.taken {
                    self.wrong.push(format!("offset {base} was given out again: those below {} are known", self.taken));
                }
            }
            LogEvent::Acknowledged(end, level) => {
                for (_, (_, promised)) in self.current.range_mut(..end.get()) {
                    *promised = (*promised).max(Some(*level));
                }
                self.taken = self.taken.max(end.get());
            }
            LogEvent::TakenBack(gone) => {
                for offset in gone.start.get()..gone.end.get() {
                    let others = |entered: &Entered| entered.batch != gone.start.get();
                    self.candidates.entry(offset).or_default().retain(others);
                    self.current.remove(&offset);
                }
            }
            LogEvent::Shown(end) => self.taken = self.taken.max(end.get()),
            LogEvent::Found(found, level) => {
                for (offset, entered) in found {
                    let known = self.current.entry(*offset).or_insert_with(|| (entered.clone(), None));
                    known.1 = known.1.max(Some(*level));
                }
            }
            LogEvent::Advancing(to) => self.start_begun = self.start_begun.max(to.get()),
            LogEvent::Advanced(to) => self.start_done = self.start_done.max(to.get()),
            LogEvent::Truncating(to) => {
                let cut: BTreeSet<i64> =
                    self.current.range(to.get()..).map(|(_, (entered, _))| entered.batch).collect();
                self.current.retain(|_, (entered, _)| !cut.contains(&entered.batch));
                let end = cut.first().map_or(to.get(), |batch| to.get().min(*batch));
                self.taken = self.taken.min(end);
                // A log that ends below its start starts there.
                self.start_done = self.start_done.min(end);
            }
            LogEvent::Truncated(end) => {
                self.start_begun = self.start_begun.min(end.get());
                self.current.split_off(&end.get());
                self.candidates.split_off(&end.get());
                self.taken = self.taken.min(end.get());
            }
        }
    }

    /// Whether a transaction may be open at the log start, `start`, whose records lie below it.
    fn may_begin_below(&self, start: i64) -> bool {
        let below = || self.candidates.range(..start).flat_map(|(_, entered)| entered);
        below().any(|entered| entered.producer.is_some() && entered.content != Content::Marker)
    }

    fn compare(&self, found: &BTreeMap<i64, Entered>, start: i64, end: i64) -> Result<(), String> {
        if start < self.start_done {
            return Err(format!("the log start is {start}, but was advanced to {}", self.start_done));
        }
        if end < self.taken {
            return Err(format!("the log ends at {end}, but offsets below {} are known outside", self.taken));
        }
        for (offset, entered) in found {
            let candidates = self.candidates.get(offset).map(Vec::as_slice).unwrap_or_default();
            if !candidates.contains(entered) {
                return Err(format!("offset {offset} holds {entered:?}, but {candidates:?} was appended there"));
            }
        }
        for (offset, (entered, promised)) in self.current.range(self.start_begun..) {
            if let Some(level) = promised
                && found.get(offset) != Some(entered)
            {
                let instead = found.get(offset);
                return Err(format!("offset {offset}, promised at {level}, is lost: {instead:?} is there"));
            }
        }
        Ok(())
    }
}

/// What can be read of a log.
#[derive(Default)]
struct FoundInLog {
    entered: BTreeMap<i64, Entered>,
    batches: Vec<RecordBatch>,
    start: Offset,
}

fn read_all(log: &Log) -> Result<FoundInLog, String> {
    let offsets = log.offsets();
    let mut found = FoundInLog { start: offsets.log_start, ..FoundInLog::default() };
    let mut at = offsets.log_start;
    while at < offsets.high_watermark {
        let read =
            log.read(at, 1 << 16, Isolation::ReadUncommitted).map_err(|e| format!("cannot read at {at}: {e}"))?;
        if read.next_offset() <= at {
            return Err(format!("a read at {at} does not get on, below the high watermark {}", offsets.high_watermark));
        }
        for batch in read.batches() {
            found.take(batch.map_err(|e| format!("cannot read a batch from {at} on: {e}"))?)?;
        }
        at = read.next_offset();
    }
    Ok(found)
}

impl FoundInLog {
    fn take(&mut self, batch: RecordBatch) -> Result<(), String> {
        let header = batch.header();
        let base = header.base_offset().get();
        let producer = header.is_transactional().then(|| header.producer_id());
        if header.is_control() {
            self.entered.insert(base, Entered { batch: base, producer, content: Content::Marker });
        } else {
            let decoded = batch.decode().map_err(|e| format!("cannot decode the batch at {base}: {e}"))?;
            for record in decoded.iter() {
                let record = record.map_err(|e| format!("cannot decode a record of the batch at {base}: {e}"))?;
                if record.offset() >= self.start {
                    let content = Content::Value(record.value().map(<[u8]>::to_vec));
                    self.entered.insert(record.offset().get(), Entered { batch: base, producer, content });
                }
            }
        }
        self.batches.push(batch);
        Ok(())
    }

    /// Batches follow one another; only a higher leader epoch may leave offsets out.
    fn check_order(&self) -> Result<(), String> {
        for pair in self.batches.windows(2) {
            let (one, next) = (pair[0].header(), pair[1].header());
            let (end, base) = (one.next_offset(), next.base_offset());
            if base < end || (base > end && next.leader_epoch() <= one.leader_epoch()) {
                return Err(format!("the batch at {base} follows one that ends at {end}, in the same epoch"));
            }
        }
        Ok(())
    }

    /// Offset of each batch of a transaction, and whether it is a marker.
    fn transactional(&self) -> Vec<(i64, bool)> {
        let headers = self.batches.iter().map(RecordBatch::header).filter(|header| header.is_transactional());
        headers.map(|header| (header.base_offset().get(), header.is_control())).collect()
    }

    /// Read-committed readers see just what the markers in the log say.
    fn check_transactions(&self, log: &Log, open_below_start: bool) -> Result<(), String> {
        let offsets = log.offsets();
        let (mut open, mut aborted) = (BTreeMap::new(), BTreeSet::new());
        for batch in &self.batches {
            let header = batch.header();
            let producer = header.producer_id();
            if let Some(marker) = batch.end_marker().map_err(|e| format!("cannot read a marker: {e}"))? {
                let ended: Vec<i64> = open.remove(&producer).unwrap_or_default();
                if marker.outcome == TxnOutcome::Abort {
                    aborted.extend(ended);
                }
            } else if header.is_transactional() {
                open.entry(producer).or_default().push(header.base_offset().get());
            }
        }
        let first_open = open.values().filter_map(|batches| batches.first()).min();
        let stable = first_open.map_or(offsets.high_watermark, |first| Offset::new(*first));
        // A transaction that began below the log start holds readers at the log start, if it was open there.
        let held = open_below_start && offsets.last_stable == offsets.log_start;
        let stable = if held { offsets.log_start } else { stable };
        if offsets.last_stable != stable {
            let (last, batches) = (offsets.last_stable, self.transactional());
            return Err(format!(
                "the last stable offset is {last}, but {stable} by the batches {batches:?}; {offsets:?}"
            ));
        }
        let is_seen = |batch: &&RecordBatch| {
            let header = batch.header();
            !header.is_control()
                && header.base_offset() < stable
                && offsets.log_start < stable
                && !aborted.contains(&header.base_offset().get())
        };
        let expected: Vec<i64> = self.batches.iter().filter(is_seen).map(|b| b.header().base_offset().get()).collect();
        let (mut seen, mut at) = (Vec::new(), offsets.log_start);
        while at < stable {
            let read =
                log.read(at, 1 << 16, Isolation::ReadCommitted).map_err(|e| format!("cannot read at {at}: {e}"))?;
            for batch in read.data_batches() {
                seen.push(batch.map_err(|e| e.to_string())?.header().base_offset().get());
            }
            if read.next_offset() <= at {
                return Err(format!("a read-committed read at {at} does not get on, below {stable}"));
            }
            at = read.next_offset();
        }
        match seen == expected {
            true => Ok(()),
            false => Err(format!(
                "a read-committed reader sees the batches {seen:?}, the markers say {expected:?}; of transactions are {:?}; {offsets:?}",
                self.transactional()
            )),
        }
    }
}

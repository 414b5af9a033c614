//! What must hold of a [`Log`] whatever happened to its disk: nothing that was acknowledged is lost to a failure that
//! its level survives, nothing is there that was never appended, no offset names two things, everything can be read.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::expected::{Content, Entered, Expected, KnownDoubt, LogEvent};
use super::history::History;
use super::sim::SimStorage;
use crate::clock::ManualClock;
use crate::error::{Error, Result};
use crate::log::{Appended, Log, LogConfig, LogPosition, LogRecovery, RecoveryRow};
use crate::record::{BatchBuilder, EndMarker, Record, RecordBatch, TxnOutcome};
use crate::storage::{PooledStorage, Storage};
use crate::types::{Durability, Offset, ProducerId, Timestamp};

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
    doubt: Mutex<KnownDoubt>,
}

impl WatchedLog {
    /// Opens the log in `dir`.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open(disk: &SimStorage, history: &History<LogEvent>, dir: &Path, config: LogConfig) -> Result<Self> {
        Self::open_with(disk, history, dir, config, None)
    }

    /// The same with no more than so many files open at a time, if a number is given, as in a
    /// [`Broker`](crate::Broker): each that is used may close another, after a sync.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_with(
        disk: &SimStorage,
        history: &History<LogEvent>,
        dir: &Path,
        config: LogConfig,
        max_open_files: Option<usize>,
    ) -> Result<Self> {
        let clock = ManualClock::new(Timestamp::new(1_700_000_000_000));
        let level = config.durability;
        let pool = |storage: Arc<dyn Storage>| match max_open_files {
            Some(files) => Arc::new(PooledStorage::new(storage, files)),
            None => storage,
        };
        let log = Log::open_through(Arc::new(disk.clone()), pool, Arc::new(clock), dir, config)?;
        log.recovery().rows.iter().for_each(|row| history.hit(row));
        // Where it was not closed in order.
        history.note(disk, LogEvent::Reopened);
        Ok(Self {
            log,
            disk: disk.clone(),
            history: history.clone(),
            level,
            closed: AtomicBool::new(false),
            staged: Mutex::default(),
            doubt: Mutex::default(),
        })
    }

    /// The log itself, for what need not be watched.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    fn note(&self, event: LogEvent) {
        self.note_doubt();
        self.history.note(&self.disk, event);
    }

    /// What readers see survives what the log is to survive.
    fn note_shown(&self) {
        self.note(LogEvent::Acknowledged(self.log.offsets().high_watermark, self.level));
    }

    fn note_appended(&self, appended: Appended) {
        self.note(LogEvent::Appended(appended.base_offset));
        self.staged.lock().push(appended);
    }

    /// Notes what was taken back, when something was, and what is in doubt.
    fn note_taken_back<T>(&self, done: Result<T>) -> Result<T> {
        if done.as_ref().is_err_and(Error::is_of_shortage) {
            self.look_for_taken_back();
        }
        self.note_doubt();
        done
    }

    fn look_for_taken_back(&self) {
        // Not in the head of the loop: the lock would be held through it.
        let staged = std::mem::take(&mut *self.staged.lock());
        for appended in staged {
            match self.log.is_committed(appended.position, Durability::ProcessCrash) {
                Err(e) if e.is_of_shortage() => {
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
        // Their offsets are given out again.
        self.look_for_taken_back();
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
        self.look_for_taken_back();
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

    /// Mends the log after a write or sync that failed.
    ///
    /// # Errors
    /// As [`Log::reopen`].
    pub fn reopen(&self) -> Result<()> {
        // Also what failed where nobody waited for it.
        self.note_doubt();
        let reopened = self.log.reopen();
        if reopened.is_err() {
            // What that synced in vain.
            self.note_doubt();
        }
        let recovery = reopened?;
        recovery.rows.iter().for_each(|row| self.history.hit(row));
        self.note(LogEvent::Reopened);
        self.note_shown();
        Ok(())
    }

    /// Notes what has come into doubt, once: it excuses no promise that is made later.
    fn note_doubt(&self) {
        if let Some(frontier) = self.doubt.lock().new_of(&self.log, &self.disk) {
            self.history.note(&self.disk, LogEvent::InDoubt(frontier));
        }
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
        self.note(LogEvent::Retaining(self.log.offsets().high_watermark));
        let retained = self.log.apply_retention(None, Some(bytes));
        // Retention does without what it found no space for.
        self.look_for_taken_back();
        self.note(LogEvent::Retained(self.log.offsets().log_start));
        if let Some(begun) = self.log.start_begun() {
            self.note(LogEvent::Advancing(begun));
        }
        retained
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
        let found = Expected::from(&self.history.entries()).judge(&self.log)?;
        self.note(LogEvent::Found(found, self.level));
        self.note_shown();
        Ok(())
    }
}

/// The check of a crash explorer for a log in `dir`: opens it, at times with a single file open at a time, compares, goes
/// on appending after every other crash, closes it and opens it again, which must find nothing to repair.
///
/// # Errors
/// What is wrong, in words.
pub fn check_log(disk: &SimStorage, history: &History<LogEvent>, dir: &Path, config: &LogConfig) -> Result<(), String> {
    let at = |what: &'static str| move |e: crate::error::Error| format!("{what}: {e}");
    let goes_on = disk.operations().is_multiple_of(2);
    let max_open_files = Some(1).filter(|_| disk.operations().is_multiple_of(3));
    let open = || WatchedLog::open_with(disk, history, dir, config.clone(), max_open_files);
    let log = open().map_err(at("does not open after the crash"))?;
    let recovery = log.log.recovery();
    let told = |wrong: String| format!("{wrong}; recovery said {recovery:?}");
    if !recovery.damaged.is_empty() {
        return Err(told("a crash was taken for rot".to_owned()));
    }
    log.verify().map_err(told)?;
    log.note(LogEvent::Began(log.log.offsets().log_start));
    let number = log.log.offsets().end;
    let values: &[_] = if goes_on { &["after the crash, one", "after the crash, two"] } else { &[] };
    for value in values {
        let put = log.put([*value], Durability::PowerLoss);
        put.map_err(|e| told(format!("takes no append at {number} after the crash: {e}")))?;
    }
    log.verify().map_err(|wrong| told(format!("after an append: {wrong}")))?;
    log.close().map_err(at("does not close after the crash"))?;
    drop(log);
    let log = open().map_err(at("does not open again"))?;
    check_second(&log.log.recovery(), goes_on).map_err(told)?;
    log.verify().map_err(|wrong| told(format!("after closing and opening: {wrong}")))?;
    log.close().map_err(at("does not close again"))
}

/// Offsets stay left out until something is appended above them.
fn check_second(recovery: &LogRecovery, went_on: bool) -> Result<(), String> {
    let is_nothing = |row: &RecoveryRow| match row {
        RecoveryRow::Clean | RecoveryRow::Fresh => true,
        RecoveryRow::Reserved => !went_on,
        _ => false,
    };
    match recovery.rows.iter().all(is_nothing) {
        true => Ok(()),
        false => Err(format!("a second opening, after a close, still finds something: {recovery:?}")),
    }
}

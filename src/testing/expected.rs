//! What a history says must be in a log, and the comparison with what can be read of it: for a log by itself and for
//! the partitions of a broker. Not its job: opening, and what is noted when.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::history::Entry;
use super::sim::SimStorage;
use crate::broker::Partition;
use crate::error::Result;
use crate::log::{Log, LogOffsets, LogRead};
use crate::record::{RecordBatch, TxnOutcome};
use crate::types::{Durability, Isolation, Offset, ProducerId};

/// One record, or one marker, as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entered {
    /// First offset of its batch.
    pub(super) batch: i64,
    /// The producer, of a record in a transaction or the marker that ends it.
    pub(super) producer: Option<ProducerId>,
    pub(super) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Value(Option<Vec<u8>>),
    Marker,
}

/// What a [`WatchedLog`](super::WatchedLog) did and promised.
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
    /// A sync failed: what is at or above the offset was promised to survive a process crash until now, and may not.
    InDoubt(Offset),
    /// The log goes on after a write or sync that failed: what was promised to nobody may be gone.
    Reopened,
    /// Everything below the offset could be read.
    Shown(Offset),
    /// These were read, by somebody who may tell others, in a log of this level.
    Found(BTreeMap<i64, Entered>, Durability),
    /// The log start was to become this, and did.
    Advancing(Offset),
    /// See `Advancing`.
    Advanced(Offset),
    /// Retention was to run, and might take everything below the offset; it left this log start.
    Retaining(Offset),
    /// See `Retaining`.
    Retained(Offset),
    /// An opening found this log start: what was begun before has come to its end.
    Began(Offset),
    /// The log was to end at this offset, and did at that one.
    Truncating(Offset),
    /// See `Truncating`.
    Truncated(Offset),
}

/// What can be asked of a log, alone or a broker's.
pub(super) trait Readable {
    fn offsets(&self) -> Result<LogOffsets>;
    fn read(&self, at: Offset, isolation: Isolation) -> Result<LogRead>;
}

/// At a time; few enough that a log of a test takes several reads.
const READ_BYTES: usize = 1 << 16;

impl Readable for Log {
    fn offsets(&self) -> Result<LogOffsets> {
        Ok(self.offsets())
    }

    fn read(&self, at: Offset, isolation: Isolation) -> Result<LogRead> {
        self.read(at, READ_BYTES, isolation)
    }
}

impl Readable for Partition {
    fn offsets(&self) -> Result<LogOffsets> {
        self.offsets()
    }

    fn read(&self, at: Offset, isolation: Isolation) -> Result<LogRead> {
        self.read(at, READ_BYTES, isolation)
    }
}

/// What is known to be in doubt of a log: more comes only with another sync that fails.
#[derive(Debug, Default)]
pub(super) struct KnownDoubt(Option<usize>);

impl KnownDoubt {
    /// From where on the log is in doubt now, where it was not before.
    pub(super) fn new_of(&mut self, log: &Log, disk: &SimStorage) -> Option<Offset> {
        let from = log.doubted_from();
        let failed = from.map(|_| disk.failed_syncs(&log.dir()));
        // None is less than any.
        let is_new = failed > std::mem::replace(&mut self.0, failed);
        from.filter(|_| is_new)
    }
}

/// What a history says of a log.
#[derive(Default)]
pub(super) struct Expected {
    /// Everything that was ever appended at an offset.
    candidates: BTreeMap<i64, Vec<Entered>>,
    /// What is there now as far as its appenders know, and the failure that it is promised to survive.
    current: BTreeMap<i64, (Entered, Option<Durability>)>,
    /// Offsets below are known outside.
    taken: i64,
    start_begun: i64,
    retained_begun: i64,
    start_done: i64,
    wrong: Vec<String>,
}

impl Expected {
    pub(super) fn from(entries: &[Entry<LogEvent>]) -> Self {
        let mut expected = Self::default();
        for entry in entries {
            match entry {
                Entry::Crash(choice) => {
                    let survives = if choice.is_power_cut() { Durability::PowerLoss } else { Durability::ProcessCrash };
                    expected.lose(survives);
                }
                Entry::Event(event) => expected.apply(event),
            }
        }
        expected
    }

    /// Something happened that only what was promised at such a level survives.
    fn lose(&mut self, survives: Durability) {
        self.current.retain(|_, (_, level)| level.is_some_and(|level| level >= survives));
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
            LogEvent::InDoubt(frontier) => {
                for (_, (_, promised)) in self.current.range_mut(frontier.get()..) {
                    *promised = promised.filter(|level| *level == Durability::PowerLoss);
                }
            }
            LogEvent::Reopened => self.lose(Durability::ProcessCrash),
            LogEvent::Shown(end) => self.taken = self.taken.max(end.get()),
            LogEvent::Found(found, level) => {
                for (offset, entered) in found {
                    let known = self.current.entry(*offset).or_insert_with(|| (entered.clone(), None));
                    known.1 = known.1.max(Some(*level));
                }
            }
            LogEvent::Advancing(to) => self.start_begun = self.start_begun.max(to.get()),
            LogEvent::Advanced(to) => self.start_done = self.start_done.max(to.get()),
            LogEvent::Retaining(below) => self.retained_begun = self.retained_begun.max(below.get()),
            LogEvent::Retained(start) => {
                // Nothing is under way any more: from here on all that it left is to stay.
                self.retained_begun = 0;
                self.start_begun = self.start_begun.max(start.get());
                self.start_done = self.start_done.max(start.get());
            }
            LogEvent::Began(start) => {
                (self.start_begun, self.retained_begun) = (start.get(), 0);
                self.start_done = self.start_done.max(start.get());
            }
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
                self.retained_begun = self.retained_begun.min(end.get());
                self.current.split_off(&end.get());
                self.candidates.split_off(&end.get());
                self.taken = self.taken.min(end.get());
            }
        }
    }

    /// Compares what can be read with the history; answers what was found.
    pub(super) fn judge(&self, log: &impl Readable) -> Result<BTreeMap<i64, Entered>, String> {
        if let Some(wrong) = self.wrong.first() {
            return Err(wrong.clone());
        }
        let offsets = log.offsets().map_err(|e| format!("has no offsets: {e}"))?;
        let found = read_all(log, offsets)?;
        self.compare(&found.entered, offsets.log_start.get(), offsets.end.get())?;
        found.check_order()?;
        found.check_transactions(log, offsets, self.may_begin_below(offsets.log_start.get()))?;
        Ok(found.entered)
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
        for (offset, (entered, promised)) in self.current.range(self.start_begun.max(self.retained_begun)..) {
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

fn read_all(log: &impl Readable, offsets: LogOffsets) -> Result<FoundInLog, String> {
    let mut found = FoundInLog { start: offsets.log_start, ..FoundInLog::default() };
    let mut at = offsets.log_start;
    while at < offsets.high_watermark {
        let read = log.read(at, Isolation::ReadUncommitted).map_err(|e| format!("cannot read at {at}: {e}"))?;
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
    fn check_transactions(
        &self,
        log: &impl Readable,
        offsets: LogOffsets,
        open_below_start: bool,
    ) -> Result<(), String> {
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
            let read = log.read(at, Isolation::ReadCommitted).map_err(|e| format!("cannot read at {at}: {e}"))?;
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

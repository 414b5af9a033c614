//! Reading without a group: `scan` to the end as it is now, `tail` for ever. Both merge any number of
//! partitions, keep their own positions and disturb nobody.
//!
//! A reader that the log start overtakes says so once, as an error of kind `Overtaken`, and goes on
//! from the first offset that is left; damage is told once, too, and stepped over. Invariant: between two records of a partition no readable one
//! is left out.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::partition::Partition;
use super::record::{OwnedRecord, ReadFrom, decode_from};
use crate::error::{Error, ErrorKind, Result};
use crate::log::Signal;
use crate::record::RecordBatch;
use crate::types::{Isolation, Offset, Start};

/// Bytes fetched from one partition at a time (`max.partition.fetch.bytes`).
const FETCH_BYTES: usize = 1 << 20;

/// Where a reader's partitions come from: those of one topic, or one alone.
pub(crate) trait PartitionSource: Send + Sync {
    /// All partitions but the first `known` ones.
    fn partitions_after(&self, known: usize) -> Result<Vec<Arc<Partition>>>;

    /// Has `signal` notified when partitions are added or the topic goes away.
    fn watch(&self, signal: &Arc<Signal>);
}

/// The offset that a start, an offset or a time means in a partition now.
pub(crate) fn resolve(partition: &Partition, from: ReadFrom, isolation: Isolation) -> Result<Offset> {
    let offsets = partition.offsets()?;
    let end = match isolation {
        Isolation::ReadCommitted => offsets.last_stable,
        Isolation::ReadUncommitted => offsets.high_watermark,
    };
    match from {
        ReadFrom::Start(Start::Earliest) => Ok(offsets.log_start),
        ReadFrom::Start(Start::Latest) => Ok(end),
        ReadFrom::Start(Start::None) => {
            Err(Error::new(ErrorKind::NoOffset, "the start policy is none and no position is known")
                .partition(partition.name().clone())
                .remedy("start at Start::Earliest, Start::Latest, an offset or a time"))
        }
        ReadFrom::Offset(offset) => Ok(offset),
        ReadFrom::Time(time) => Ok(partition.offset_at(time, isolation)?.map_or(end, |found| found.offset)),
    }
}

/// One partition's part of a reader.
struct Cursor {
    partition: Arc<Partition>,
    position: Offset,
    /// A scan stops here.
    end: Option<Offset>,
    done: bool,
    /// Batches read and not decoded yet.
    batches: VecDeque<RecordBatch>,
    /// Where the next read goes on, past markers and batches of aborted transactions.
    read_to: Offset,
    records: VecDeque<OwnedRecord>,
    /// Follows the decoded records: damage, and where to go on after it.
    damage: Option<(Error, Offset)>,
}

impl Cursor {
    fn new(partition: Arc<Partition>, position: Offset, end: Option<Offset>) -> Self {
        Self {
            partition,
            position,
            end,
            done: false,
            batches: VecDeque::new(),
            read_to: position,
            records: VecDeque::new(),
            damage: None,
        }
    }

    /// The next record that is there already; `None` when the partition has no more now.
    fn next(&mut self, isolation: Isolation) -> Option<Result<OwnedRecord>> {
        loop {
            if let Some(record) = self.records.pop_front() {
                self.position = record.offset().next();
                return Some(Ok(record));
            }
            if let Some((error, go_on)) = self.damage.take() {
                self.position = go_on;
                return Some(Err(error));
            }
            self.done |= self.end.is_some_and(|end| self.position >= end);
            if self.done {
                return None;
            }
            match self.advance(isolation) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    let go_on = match (error.kind(), error.at_offsets()) {
                        (ErrorKind::Overtaken, _) => error.at_offset(),
                        (_, damaged) => damaged.map(|damaged| damaged.end).filter(|end| *end > self.position),
                    };
                    match go_on {
                        Some(offset) => (self.position, self.read_to) = (offset, offset),
                        None => self.done = true,
                    }
                    return Some(Err(error));
                }
            }
        }
    }

    /// Decodes the next batch, reading when there is none; `false` at the visible end.
    fn advance(&mut self, isolation: Isolation) -> Result<bool> {
        if let Some(batch) = self.batches.pop_front() {
            self.decode(&batch);
            return Ok(true);
        }
        self.position = self.position.max(self.read_to);
        let read = self.partition.read(self.position, FETCH_BYTES, isolation)?;
        self.read_to = read.next_offset();
        self.batches = read.data_batches().collect::<Result<_>>()?;
        Ok(self.read_to > self.position)
    }

    fn decode(&mut self, batch: &RecordBatch) {
        let (at, end, records) = (self.partition.name(), self.end, &mut self.records);
        let decoded = decode_from(at, batch, self.position, |batch, record| {
            if end.is_none_or(|end| record.offset() < end) {
                records.push_back(OwnedRecord::new(at, batch, record));
            }
            Ok(())
        });
        let after = self.position.max(batch.header().next_offset());
        match decoded {
            Err(error) => self.damage = Some((error, after)),
            Ok(()) if records.is_empty() => self.position = after,
            Ok(()) => {}
        }
    }
}

/// The records of one or more partitions up to the end as it was when the scan began, one partition
/// after the other.
///
/// Yields `Err` of kind [`ErrorKind::Overtaken`] when records that were not read yet were removed, and
/// goes on after the gap. Damaged bytes are one error of kind [`ErrorKind::Corrupt`], whose
/// [`at_offsets`](crate::Error::at_offsets) says what is lost, and the scan goes on behind them; so are a batch that
/// cannot be decoded, and messages of a format that is not read ([`ErrorKind::Unsupported`]). Any other error
/// ends its partition.
#[must_use = "a scan reads nothing until it is iterated"]
pub struct Scan {
    cursors: VecDeque<Cursor>,
    isolation: Isolation,
    failed: Option<Error>,
    from: ReadFrom,
    source: Arc<dyn PartitionSource>,
}

impl Scan {
    pub(crate) fn new(source: Arc<dyn PartitionSource>, from: ReadFrom) -> Self {
        let scan = Self { cursors: VecDeque::new(), isolation: Isolation::default(), failed: None, from, source };
        scan.isolation(Isolation::default())
    }

    /// What the scan may see (`isolation.level`, default read committed). It begins anew.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self.cursors.clear();
        self.failed = self.start().err();
        self
    }

    fn start(&mut self) -> Result<()> {
        // Those elsewhere were reported when the directory was opened.
        for partition in self.source.partitions_after(0)?.into_iter().filter(|p| p.check_here().is_ok()) {
            let position = resolve(&partition, self.from, self.isolation)?;
            let end = resolve(&partition, Start::Latest.into(), self.isolation)?;
            self.cursors.push_back(Cursor::new(partition, position, Some(end)));
        }
        Ok(())
    }
}

impl Iterator for Scan {
    type Item = Result<OwnedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.cursors.clear();
            return Some(Err(error));
        }
        while let Some(cursor) = self.cursors.front_mut() {
            if let Some(item) = cursor.next(self.isolation) {
                return Some(item);
            }
            self.cursors.pop_front();
        }
        None
    }
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").field("from", &self.from).field("isolation", &self.isolation).finish_non_exhaustive()
    }
}

/// The records of one or more partitions as they are appended, for ever: `next` waits. Partitions that
/// are added to the topic join in from their beginning. Any number of tails may run; none disturbs
/// another or a group.
///
/// Records of one partition come in offset order, partitions take turns. Ends after an error of kind
/// `TopicDeleted` or `Closed`; see [`Scan`] for the other errors.
#[must_use = "a tail reads nothing until it is iterated"]
pub struct Tail {
    cursors: Vec<Cursor>,
    /// Partitions taken up or passed over.
    known: usize,
    /// Whose turn it is.
    turn: usize,
    isolation: Isolation,
    from: ReadFrom,
    source: Arc<dyn PartitionSource>,
    control: Arc<Control>,
    failed: Option<Error>,
    ended: bool,
    /// How many events there had been when it last looked for added partitions.
    looked_at: u64,
}

#[derive(Debug, Default)]
struct Control {
    signal: Arc<Signal>,
    interrupted: AtomicBool,
    ended: AtomicBool,
}

/// Interrupts or ends a [`Tail`] from another thread.
#[derive(Clone, Debug)]
pub struct TailWaker {
    control: Arc<Control>,
}

impl TailWaker {
    /// Makes a `next` that waits, or else the following one, give one error of kind `Interrupted`. The
    /// tail goes on after it.
    pub fn wake(&self) {
        self.control.interrupted.store(true, Ordering::Release);
        self.control.signal.notify();
    }

    /// Ends the tail: its `next` gives `None` from now on.
    pub fn end(&self) {
        self.control.ended.store(true, Ordering::Release);
        self.control.signal.notify();
    }
}

impl Tail {
    pub(crate) fn new(source: Arc<dyn PartitionSource>, from: ReadFrom) -> Self {
        let control = Arc::new(Control::default());
        source.watch(&control.signal);
        let tail = Self {
            cursors: Vec::new(),
            known: 0,
            turn: 0,
            isolation: Isolation::default(),
            from,
            source,
            control,
            failed: None,
            ended: false,
            looked_at: 0,
        };
        tail.isolation(Isolation::default())
    }

    /// What the tail may see (`isolation.level`, default read committed). It begins anew.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self.cursors.clear();
        (self.known, self.turn) = (0, 0);
        self.failed = self.join_partitions(self.from).err();
        self
    }

    /// A handle that interrupts or ends this tail from another thread.
    #[must_use]
    pub fn waker(&self) -> TailWaker {
        TailWaker { control: Arc::clone(&self.control) }
    }

    /// The next record, or `None` when none came within `timeout` or the tail has ended.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<OwnedRecord>> {
        self.next_within(Some(timeout))
    }

    /// Takes up the partitions that it does not have yet.
    fn join_partitions(&mut self, from: ReadFrom) -> Result<()> {
        for partition in self.source.partitions_after(self.known)? {
            self.known += 1;
            if partition.check_here().is_err() {
                continue; // Reported when the directory was opened.
            }
            partition.watch(&self.control.signal)?;
            let position = resolve(&partition, from, self.isolation)?;
            self.cursors.push(Cursor::new(partition, position, None));
        }
        Ok(())
    }

    fn next_within(&mut self, timeout: Option<Duration>) -> Option<Result<OwnedRecord>> {
        let clock = self.cursors.first().map(|cursor| Arc::clone(cursor.partition.clock()));
        let now = || clock.as_ref().map_or(Duration::ZERO, |clock| clock.monotonic());
        let deadline = timeout.map(|timeout| now().saturating_add(timeout));
        loop {
            match self.look() {
                Ok(item) => return item,
                Err(seen) => {
                    let left = deadline.map(|deadline| deadline.saturating_sub(now()));
                    if !self.control.signal.wait_past(seen, left) {
                        return None;
                    }
                }
            }
        }
    }

    /// What comes next as far as it is there, or the count past which to look again.
    fn look(&mut self) -> std::result::Result<Option<Result<OwnedRecord>>, u64> {
        let seen = self.control.signal.count();
        if self.ended || self.control.ended.load(Ordering::Acquire) {
            return Ok(None);
        }
        if self.control.interrupted.swap(false, Ordering::AcqRel) {
            return Ok(Some(Err(Error::new(ErrorKind::Interrupted, "a waker interrupted the tail"))));
        }
        if seen != self.looked_at {
            // Partitions may have been added; what they hold already is wanted, too.
            self.looked_at = seen;
            if let Err(error) = self.join_partitions(Start::Earliest.into()) {
                self.failed = Some(error);
            }
        }
        match self.next_ready() {
            None if !self.ended => Err(seen),
            item => Ok(item),
        }
    }

    /// As `next`, for a task instead of a thread.
    #[cfg(feature = "async")]
    pub(super) fn poll_look(&mut self, cx: &std::task::Context<'_>) -> std::task::Poll<Option<Result<OwnedRecord>>> {
        loop {
            match self.look() {
                Ok(item) => return std::task::Poll::Ready(item),
                Err(seen) if self.control.signal.poll_past_alone(seen, cx.waker()) => {}
                Err(_) => return std::task::Poll::Pending,
            }
        }
    }

    /// What is there already, partitions taking turns.
    fn next_ready(&mut self) -> Option<Result<OwnedRecord>> {
        if let Some(error) = self.failed.take() {
            self.ended = true;
            return Some(Err(error));
        }
        for _ in 0..self.cursors.len() {
            let cursor = &mut self.cursors[self.turn];
            let item = cursor.next(self.isolation);
            if cursor.records.is_empty() {
                // A whole batch at a time keeps the order of turns cheap.
                self.turn = (self.turn + 1) % self.cursors.len();
            }
            if let Some(Err(error)) = &item {
                self.ended = matches!(error.kind(), ErrorKind::TopicDeleted | ErrorKind::Closed);
            }
            if item.is_some() {
                return item;
            }
        }
        // Nothing will come of partitions that have all failed.
        self.ended = !self.cursors.is_empty() && self.cursors.iter().all(|cursor| cursor.done);
        None
    }
}

impl Iterator for Tail {
    type Item = Result<OwnedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_within(None)
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail").field("from", &self.from).field("isolation", &self.isolation).finish_non_exhaustive()
    }
}

//! Transaction indexes that nobody vouches for: what another program wrote, or what does not read as one. Before
//! they decide what a read-committed reader sees, the headers of all segments are walked once and the markers
//! replayed; what those say is served, and files that say otherwise are replaced.
//!
//! The price is paid once after another program had the log, and only when a reader meets a batch of a transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::{ErrorKind, Result};
use crate::index::{AbortedTxn, TransactionIndex, TxnEnd};
use crate::record::{BatchHeader, RecordBatch};
use crate::segment::{AbortedCheck, Segment};
use crate::types::Offset;

use super::read::aborted_between;
use super::transactions::TxnReplay;
use super::{Inner, Quiet};

/// What is not known of a log's index files.
#[derive(Debug)]
pub(super) struct Doubts {
    /// Some segment is doubted.
    pending: AtomicBool,
    /// Held by whoever settles that.
    settling: Mutex<()>,
    /// It was settled, which the state slot does not know yet.
    settled: AtomicBool,
    /// Below, what was wrong is not durably put right yet, or cannot be: the next opening is to doubt it again.
    unkept_below: AtomicI64,
    /// The end when the log was opened: batches below may be another program's.
    end: Offset,
}

impl Doubts {
    pub(super) fn of(segments: &[Arc<Segment>], end: Offset) -> Self {
        let pending = AtomicBool::new(segments.iter().any(|segment| segment.is_doubted()));
        Self {
            pending,
            settling: Mutex::new(()),
            settled: AtomicBool::new(false),
            unkept_below: AtomicI64::new(0),
            end,
        }
    }

    pub(super) fn are_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    pub(super) fn were_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }
}

/// What the batches of one segment say, and what was wrong with its file.
struct Told {
    segment: Arc<Segment>,
    aborted: TransactionIndex,
    fault: Option<&'static str>,
}

impl Inner {
    /// Aborted transactions that touch `batches`, which are offsets `from..to` and lie in the first of `segments`.
    pub(super) fn aborted_in(
        &self,
        batches: &Bytes,
        segments: &[Arc<Segment>],
        from: Offset,
        to: Offset,
    ) -> Result<Vec<AbortedTxn>> {
        if self.doubts.are_pending() {
            if !holds_transactional(batches) {
                return Ok(Vec::new());
            }
            self.settle_doubts()?;
        }
        if !self.transactional.load(Ordering::Acquire) {
            return Ok(Vec::new());
        }
        match aborted_between(segments, from, to) {
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                self.doubt_all()?;
                aborted_between(segments, from, to)
            }
            found => found,
        }
    }

    /// Has the transaction index of `segment` on the heap.
    pub(super) fn load_aborted(&self, segment: &Segment) -> Result<()> {
        self.settle_doubts()?;
        match segment.load_aborted() {
            Err(e) if e.kind() == ErrorKind::Corrupt => self.doubt_all(),
            loaded => loaded,
        }
    }

    /// A transaction index is nonsense: the log alone can tell which transactions it named.
    fn doubt_all(&self) -> Result<()> {
        let opened = |segment: &&Arc<Segment>| segment.base() < self.doubts.end;
        self.segments.load().iter().filter(opened).for_each(|segment| segment.doubt());
        self.doubts.pending.store(true, Ordering::Release);
        self.settle_doubts()
    }

    /// Up to where another program's index files were not compared with the log yet, or are not there to stay as they
    /// should be: what the state slot keeps.
    pub(super) fn doubted_below(&self) -> Offset {
        let mut doubted = Offset::ZERO;
        if self.doubts.are_pending() {
            let segments = self.segments.load();
            doubted = segments.iter().rev().find(|s| s.is_doubted()).map_or(doubted, |s| s.base().next());
        }
        // After that look: an audit raises this before the first doubt falls.
        doubted.max(self.doubts.unkept_below.load(Ordering::Acquire).into())
    }

    /// Makes sure that the transaction indexes can be believed.
    pub(super) fn settle_doubts(&self) -> Result<()> {
        let _quiet = Quiet::new();
        let _one = self.doubts.settling.lock();
        while self.doubts.are_pending() {
            let era = self.era();
            match self.audit(era) {
                // A truncation takes bytes from under the walk.
                Err(_) if era != self.era() => {}
                audited => audited.map_err(|e| self.place(e))?,
            }
        }
        Ok(())
    }

    fn audit(&self, era: u64) -> Result<()> {
        let segments = self.segments.load_full();
        let (mut replay, mut told) = (TxnReplay::default(), Vec::new());
        if segments.iter().any(|segment| segment.is_doubted()) {
            let opened = segments.partition_point(|segment| segment.base() < self.doubts.end);
            for (at, segment) in segments[..opened].iter().enumerate() {
                let end = segments[..opened].get(at + 1).map_or(self.doubts.end, |next| next.base());
                told.push(hear(segment, end, at + 1 == opened, &mut replay)?);
            }
        }
        let appender = self.appender.lock();
        if era != self.era() {
            return Ok(());
        }
        self.doubts.unkept_below.store(self.doubted_below().get(), Ordering::Release);
        for Told { segment, aborted, fault } in &mut told {
            let stale = segment.adopt_aborted(std::mem::take(aborted), self.doubts.end);
            *fault = fault.or(stale);
        }
        self.transactional.fetch_or(!told.is_empty(), Ordering::AcqRel);
        self.doubts.pending.store(false, Ordering::Release);
        self.doubts.settled.store(true, Ordering::Release);
        drop(appender);
        for Told { segment, fault, .. } in &told {
            if let Some(fault) = fault {
                segment.replace_aborted(fault);
            }
        }
        if told.is_empty() {
            return Ok(());
        }
        let dir = &*self.home.dir;
        let synced = self.heed(self.context.storage.sync_dir(dir).map_err(|e| self.unsynced(dir, e)));
        // What is known here is right even so.
        if synced.is_ok() && !told.iter().any(|told| told.segment.has_wrong_beside()) {
            self.doubts.unkept_below.store(0, Ordering::Release);
        }
        Ok(())
    }
}

/// Walks one segment below `end`, where the next one begins or, in the last, our own batches do: those are known.
fn hear(segment: &Arc<Segment>, end: Offset, is_last: bool, replay: &mut TxnReplay) -> Result<Told> {
    let mut check = if segment.is_doubted() { Some(segment.open_aborted_check()?) } else { None };
    let mut ends = Vec::new();
    let is_sound = segment.audit(|header, bytes| {
        if header.base_offset() >= end {
            return Ok(());
        }
        if let Some(check) = &mut check {
            check.on_batch(header)?;
        }
        let marker = match header.is_control() {
            true => RecordBatch::from_checked(Bytes::copy_from_slice(bytes))?.end_marker()?,
            false => None,
        };
        if let Some(marker) = marker {
            let ended = replay.on_marker(header, marker.outcome);
            let filed = check.as_mut().map_or(Ok(None), |check| check.on_end(&ended))?;
            ends.push((ended, filed));
        } else if header.is_transactional() && !header.is_control() {
            replay.on_data(header);
        }
        Ok(())
    })?;
    let fault = check.as_mut().map_or(Ok(None), |check| check.finish(end, is_last))?.or(segment.sealed_fault()?);
    let damaged_below = if is_sound { replay.damaged_below } else { end };
    replay.damaged_below = damaged_below;
    let mut aborted: Vec<_> =
        ends.iter().filter_map(|(ended, filed)| weigh(ended, *filed, damaged_below, &check)).collect();
    if !is_sound {
        aborted.extend(check.iter().flat_map(|check| check.lost(segment.base())));
        aborted.sort_unstable_by_key(|txn| txn.last_offset);
    }
    if damaged_below > segment.base() {
        // Nothing is known for certain of transactions that were open beside these.
        aborted.iter_mut().for_each(|txn| txn.last_stable_offset = Offset::ZERO);
    }
    let fault = fault.filter(|_| damaged_below <= segment.base());
    Ok(Told { segment: Arc::clone(segment), aborted: index_of(aborted)?, fault })
}

/// What a marker and the file's entry for it make of a transaction. Where it may have begun before damage, markers
/// may be missing that ended it earlier: then the file knows better, unless it is nonsense.
fn weigh(
    ended: &TxnEnd,
    filed: Option<AbortedTxn>,
    damaged_below: Offset,
    check: &Option<AbortedCheck>,
) -> Option<AbortedTxn> {
    let first = ended.aborted.or(filed)?.first_offset;
    match (ended.aborted, filed) {
        (aborted, _) if first >= damaged_below => aborted,
        (Some(txn), Some(filed)) if (txn.first_offset..=txn.last_offset).contains(&filed.first_offset) => {
            Some(AbortedTxn { first_offset: filed.first_offset, ..txn })
        }
        (Some(_), None) if check.as_ref().is_some_and(|check| check.is_readable()) => None,
        (None, filed) => filed,
        (aborted, _) => aborted,
    }
}

fn index_of(transactions: impl IntoIterator<Item = AbortedTxn>) -> Result<TransactionIndex> {
    let mut index = TransactionIndex::default();
    transactions.into_iter().try_for_each(|txn| index.push(txn))?;
    Ok(index)
}

fn holds_transactional(batches: &Bytes) -> bool {
    let mut rest = &batches[..];
    while let Ok(header) = BatchHeader::parse(rest) {
        if header.is_transactional() && !header.is_control() {
            return true;
        }
        rest = rest.get(header.size_bytes()..).unwrap_or_default();
    }
    false
}

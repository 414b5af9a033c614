//! Transaction indexes that nobody vouches for: what another program wrote, or what does not read as one. Before
//! they decide what a read-committed reader sees, the headers of all segments are walked once and the markers
//! replayed; what those say is served, and files that say otherwise are replaced.
//!
//! The price is paid once after another program had the log, and only when a reader meets a batch of a transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::{ErrorKind, Result};
use crate::index::{AbortedTxn, TransactionIndex};
use crate::record::{BatchHeader, RecordBatch};
use crate::segment::Segment;
use crate::types::Offset;

use super::Inner;
use super::read::aborted_between;
use super::transactions::TxnReplay;

/// What is not known of a log's index files.
#[derive(Debug)]
pub(super) struct Doubts {
    /// Some segment is doubted.
    pending: AtomicBool,
    /// Held by whoever settles that.
    settling: Mutex<()>,
    /// It was settled, which the state slot does not know yet.
    settled: AtomicBool,
    /// The end when the log was opened: batches below may be another program's.
    end: Offset,
}

impl Doubts {
    pub(super) fn of(segments: &[Arc<Segment>], end: Offset) -> Self {
        let pending = AtomicBool::new(segments.iter().any(|segment| segment.is_doubted()));
        Self { pending, settling: Mutex::new(()), settled: AtomicBool::new(false), end }
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

    /// Up to where another program's index files were not compared with the log yet: what the state slot keeps.
    pub(super) fn doubted_below(&self) -> Offset {
        if !self.doubts.are_pending() {
            return Offset::ZERO;
        }
        let segments = self.segments.load();
        segments.iter().rev().find(|s| s.is_doubted()).map_or(Offset::ZERO, |s| s.base().next())
    }

    /// Makes sure that the transaction indexes can be believed.
    pub(super) fn settle_doubts(&self) -> Result<()> {
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
            for segment in segments.iter().filter(|segment| segment.base() < self.doubts.end) {
                told.push(self.hear(segment, &mut replay)?);
            }
        }
        let appender = self.appender.lock();
        if era != self.era() {
            return Ok(());
        }
        for Told { segment, aborted, fault } in &mut told {
            let stale = segment.adopt_aborted(std::mem::take(aborted), self.doubts.end);
            *fault = fault.or(stale);
        }
        self.transactional.fetch_or(!told.is_empty(), Ordering::AcqRel);
        self.doubts.pending.store(false, Ordering::Release);
        self.doubts.settled.store(true, Ordering::Release);
        drop(appender);
        for Told { segment, fault, .. } in told {
            if let Some(fault) = fault {
                segment.replace_aborted(fault);
            }
        }
        Ok(())
    }

    /// Walks one segment as it was at open: later batches are our own, and known.
    fn hear(&self, segment: &Arc<Segment>, replay: &mut TxnReplay) -> Result<Told> {
        let mut check = if segment.is_doubted() { Some(segment.open_aborted_check()?) } else { None };
        let mut aborted = TransactionIndex::default();
        segment.audit(|header, bytes| {
            if !header.is_transactional() || header.base_offset() >= self.doubts.end {
                return Ok(());
            }
            if !header.is_control() {
                replay.on_data(header);
                return Ok(());
            }
            let Some(marker) = RecordBatch::from_checked(Bytes::copy_from_slice(bytes))?.end_marker()? else {
                return Ok(());
            };
            let end = replay.on_marker(header, marker.outcome);
            if let Some(check) = &mut check {
                check.on_end(&end)?;
            }
            end.aborted.map_or(Ok(()), |txn| aborted.push(txn))
        })?;
        let fault = check.and_then(|check| check.finish(self.doubts.end));
        Ok(Told { segment: Arc::clone(segment), aborted, fault })
    }
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

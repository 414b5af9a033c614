//! The reading half of transactions: which are open, how far a read-committed reader may see, and which
//! batches it must skip. Who may write what is the producers' business.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use crate::index::{AbortedTxn, TxnEnd};
use crate::record::{BatchHeader, TxnOutcome};
use crate::types::{Offset, ProducerId};

/// Transactions that hold the last stable offset back: open ones, and ended ones whose marker readers
/// cannot see yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OngoingTransactions {
    /// Base offsets of the first batches of open transactions.
    open: BTreeMap<Offset, ProducerId>,
    /// First offset and marker offset of those that ended at or above the high watermark.
    ended: BTreeMap<Offset, Offset>,
}

impl OngoingTransactions {
    pub(super) fn begin(&mut self, producer_id: ProducerId, first_offset: Offset) {
        self.open.insert(first_offset, producer_id);
    }

    /// The open ones: where each began, and whose it is.
    pub(super) fn open(&self) -> impl Iterator<Item = (Offset, ProducerId)> {
        self.open.iter().map(|(&first, &producer)| (first, producer))
    }

    /// Ends the transaction that began at `first_offset`, and describes it as the transaction index would
    /// if the marker at `marker_offset` aborts it.
    pub(super) fn complete(
        &mut self,
        producer_id: ProducerId,
        first_offset: Offset,
        marker_offset: Offset,
    ) -> AbortedTxn {
        self.open.remove(&first_offset);
        self.ended.insert(first_offset, marker_offset);
        let last_stable_offset = self.open.keys().next().copied().unwrap_or(marker_offset.next());
        AbortedTxn { producer_id, first_offset, last_offset: marker_offset, last_stable_offset }
    }

    /// Forgets the ended transactions whose markers readers can see now. The log start never passes the
    /// high watermark, so those below the log start are among them.
    pub(crate) fn on_high_watermark(&mut self, high_watermark: Offset) {
        self.ended.retain(|_, marker| *marker >= high_watermark);
    }

    /// These are open, and no marker at or above `end` ended one.
    pub(super) fn cut(&mut self, open: BTreeMap<Offset, ProducerId>, end: Offset) {
        self.open = open;
        self.ended.retain(|_, marker| *marker < end);
    }

    /// Where read-committed readers stop. Lies below the log start when that passed the first batch of an
    /// open transaction.
    pub(crate) fn last_stable_offset(&self, high_watermark: Offset) -> Offset {
        let first_unstable = self.open.keys().next().into_iter().chain(self.ended.keys().next()).min();
        first_unstable.map_or(high_watermark, |first| high_watermark.min(*first))
    }
}

/// Finds the ends of all transactions by a walk over a log's batches. A marker ends the open transaction of its
/// producer id, whatever its epoch (KIP-890); one without such a transaction ends nothing: it was empty, or its
/// records are gone.
#[derive(Debug, Default)]
pub(super) struct TxnReplay {
    ongoing: OngoingTransactions,
    producers: HashMap<ProducerId, Seen>,
    /// Batches below may be missing, and markers among them.
    pub(super) damaged_below: Offset,
}

/// What was seen of a producer's transactions.
#[derive(Debug, Default)]
struct Seen {
    /// Base offset of the first batch of the open one.
    open: Option<Offset>,
    /// Behind its last batch...
    data_end: Offset,
    /// ...and behind that of the transactions before.
    data_before: Offset,
}

impl TxnReplay {
    /// Takes the next data batch of a transaction into account.
    pub(super) fn on_data(&mut self, header: &BatchHeader) {
        let (id, first) = (header.producer_id(), header.base_offset());
        let seen = self.producers.entry(id).or_default();
        if seen.open.is_none() {
            seen.open = Some(first);
            self.ongoing.begin(id, first);
        }
        seen.data_end = header.next_offset();
    }

    /// The same of a marker.
    pub(super) fn on_marker(&mut self, header: &BatchHeader, outcome: TxnOutcome) -> TxnEnd {
        let (producer_id, marker) = (header.producer_id(), header.last_offset());
        let seen = self.producers.entry(producer_id).or_default();
        let ended = seen.open.take().map(|first| self.ongoing.complete(producer_id, first, marker));
        let data_before = std::mem::replace(&mut seen.data_before, seen.data_end);
        self.ongoing.on_high_watermark(Offset::new(i64::MAX));
        let is_abort = outcome == TxnOutcome::Abort;
        let last_stable_offset = self.ongoing.last_stable_offset(header.next_offset());
        TxnEnd { producer_id, marker, is_abort, aborted: ended.filter(|_| is_abort), data_before, last_stable_offset }
    }
}

/// What a batch means to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchKind {
    /// Data outside of any transaction.
    Plain,
    /// Data of a transaction.
    Transactional,
    /// A control batch.
    Control,
}

/// Drops what a read-committed reader must not see, batch by batch in offset order.
#[derive(Debug)]
pub(crate) struct AbortedFilter {
    /// Not reached yet, the nearest last.
    ahead: Vec<AbortedTxn>,
    /// Aborted transactions that the walk is in. Few at a time.
    active: Vec<AbortedTxn>,
}

impl AbortedFilter {
    /// `aborted` must hold every aborted transaction that overlaps the batches to come; more do no harm.
    pub(crate) fn new(mut aborted: Vec<AbortedTxn>) -> Self {
        aborted.sort_unstable_by_key(|txn| Reverse(txn.first_offset));
        Self { ahead: aborted, active: Vec::new() }
    }

    /// Whether an application may see the next batch; control batches never are for it.
    pub(crate) fn keep(&mut self, producer_id: ProducerId, last_offset: Offset, kind: BatchKind) -> bool {
        while let Some(txn) = self.ahead.pop_if(|txn| txn.first_offset <= last_offset) {
            self.active.push(txn);
        }
        // Its marker may be damaged, and not among the batches.
        self.active.retain(|txn| txn.last_offset >= last_offset);
        match kind {
            BatchKind::Plain => true,
            BatchKind::Transactional => !self.active.iter().any(|txn| txn.producer_id == producer_id),
            BatchKind::Control => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn o(offset: i64) -> Offset {
        Offset::new(offset)
    }

    #[test]
    fn open_and_unseen_transactions_hold_the_last_stable_offset_back() {
        let (a, b) = (ProducerId::new(1), ProducerId::new(2));
        let mut txns = OngoingTransactions::default();
        assert_eq!(txns.last_stable_offset(o(7)), 7);
        txns.begin(a, o(3));
        txns.begin(b, o(5));
        assert_eq!(txns.last_stable_offset(o(7)), 3);
        assert_eq!(txns.last_stable_offset(o(2)), 2);
        let aborted = txns.complete(a, o(3), o(7));
        assert_eq!((aborted.first_offset, aborted.last_offset, aborted.last_stable_offset), (o(3), o(7), o(5)));
        txns.on_high_watermark(o(7));
        assert_eq!(txns.last_stable_offset(o(7)), 3, "the marker at 7 is not visible yet");
        txns.on_high_watermark(o(8));
        assert_eq!(txns.last_stable_offset(o(8)), 5);
        assert_eq!(txns.complete(b, o(5), o(8)).last_stable_offset, 9, "nothing open: after the marker");
        txns.on_high_watermark(o(9));
        assert_eq!(txns.last_stable_offset(o(9)), 9);
    }

    #[test]
    fn the_filter_drops_aborted_data_and_nothing_else() {
        use BatchKind::{Control, Plain, Transactional};
        let aborted = |pid: i64, first: i64, last: i64| AbortedTxn {
            producer_id: pid.into(),
            first_offset: o(first),
            last_offset: o(last),
            last_stable_offset: o(first),
        };
        // Producer 1 aborts twice with a commit between; producer 2's abort began before the read.
        let mut filter = AbortedFilter::new(vec![aborted(2, 0, 14), aborted(1, 10, 12), aborted(1, 17, 18)]);
        let walk = [
            (1, 10, Transactional, false),
            (3, 11, Transactional, true),
            (1, 12, Control, false),
            (2, 13, Transactional, false),
            (2, 14, Control, false),
            (1, 15, Transactional, true),
            (1, 16, Control, false),
            (1, 17, Transactional, false),
            (-1, 17, Plain, true),
            (1, 18, Control, false),
            (1, 19, Transactional, true),
        ];
        for (pid, last, kind, kept) in walk {
            assert_eq!(filter.keep(pid.into(), o(last), kind), kept, "producer {pid}, offset {last}");
        }
    }
}

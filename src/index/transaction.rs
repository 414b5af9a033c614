//! The transaction index (`.txnindex`): the aborted transactions whose markers lie in a segment.
//!
//! Entry, 34 bytes: version i16 (0), producer id, first offset, last offset (the abort marker's), last
//! stable offset at the time of writing, each i64. Ordered by last offset.

use std::ops::ControlFlow;

use bytes::{Buf, BufMut};

use super::{corrupt, length_error};
use crate::error::Result;
use crate::types::{Offset, ProducerId};

const VERSION: i16 = 0;
const ENTRY_LEN: usize = 2 + 4 * 8;

/// One aborted transaction of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AbortedTxn {
    pub(crate) producer_id: ProducerId,
    /// Base offset of its first batch.
    pub(crate) first_offset: Offset,
    /// Offset of its abort marker.
    pub(crate) last_offset: Offset,
    /// No transaction that aborts later begins below this.
    pub(crate) last_stable_offset: Offset,
}

impl AbortedTxn {
    /// Reads an entry; `None` for another version's.
    pub(crate) fn decode(entry: &[u8; ENTRY_LEN]) -> Option<Self> {
        let mut fields = &entry[..];
        (fields.get_i16() == VERSION).then(|| Self {
            producer_id: fields.get_i64().into(),
            first_offset: fields.get_i64().into(),
            last_offset: fields.get_i64().into(),
            last_stable_offset: fields.get_i64().into(),
        })
    }
}

/// The end of a transaction in one partition, as the log's batches tell it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TxnEnd {
    pub(crate) producer_id: ProducerId,
    /// Offset of the marker.
    pub(crate) marker: Offset,
    pub(crate) is_abort: bool,
    /// Of an abort that concerns batches which are there.
    pub(crate) aborted: Option<AbortedTxn>,
    /// Behind the last batch of the producer's transactions before this one.
    pub(crate) data_before: Offset,
    /// No transaction that ends later begins below this.
    pub(crate) last_stable_offset: Offset,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransactionIndex {
    entries: Vec<AbortedTxn>,
}

impl TransactionIndex {
    /// Reads the index of the segment that begins at `base`.
    pub(crate) fn decode(base: Offset, mut bytes: &[u8]) -> Result<Self> {
        if !bytes.len().is_multiple_of(ENTRY_LEN) {
            return Err(length_error("transaction", bytes.len(), ENTRY_LEN));
        }
        let mut index = Self { entries: Vec::with_capacity(bytes.len() / ENTRY_LEN) };
        while let Some((entry, rest)) = bytes.split_first_chunk() {
            let number = index.entries.len();
            let entry = AbortedTxn::decode(entry).ok_or_else(|| corrupt("transaction", number, "version is not 0"))?;
            bytes = rest;
            if entry.last_offset < base || entry.first_offset > entry.last_offset {
                return Err(corrupt("transaction", number, "transaction does not end in this segment"));
            }
            index.push(entry)?;
        }
        Ok(index)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.entries.len() * ENTRY_LEN);
        for entry in &self.entries {
            bytes.put_i16(VERSION);
            bytes.put_i64(entry.producer_id.get());
            bytes.put_i64(entry.first_offset.get());
            bytes.put_i64(entry.last_offset.get());
            bytes.put_i64(entry.last_stable_offset.get());
        }
        bytes
    }

    /// Adds a transaction; its marker must follow those that are there.
    pub(crate) fn push(&mut self, txn: AbortedTxn) -> Result<()> {
        if self.entries.last().is_some_and(|last| txn.last_offset <= last.last_offset) {
            return Err(corrupt("transaction", self.entries.len(), "last offset does not rise").offset(txn.last_offset));
        }
        self.entries.push(txn);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds to `found` the transactions that concern a read of offsets `from..to`, in the order of their
    /// markers. Breaks when no later segment can hold another.
    pub(crate) fn aborted_between(&self, from: Offset, to: Offset, found: &mut Vec<AbortedTxn>) -> ControlFlow<()> {
        let start = self.entries.partition_point(|txn| txn.last_offset < from);
        for txn in self.entries.iter().skip(start) {
            if txn.first_offset < to {
                found.push(*txn);
            }
            if txn.last_stable_offset >= to {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether a marker of `other` is not among these.
    pub(crate) fn lacks_of(&self, other: &Self) -> bool {
        let has = |txn: &AbortedTxn| self.entries.binary_search_by_key(&txn.last_offset, |e| e.last_offset).is_ok();
        !other.entries.iter().all(has)
    }

    /// Adds those of `other` whose marker lies at or after `from`, which must follow those that are there.
    pub(crate) fn extend_from(&mut self, other: &Self, from: Offset) {
        let at = other.entries.partition_point(|txn| txn.last_offset < from);
        self.entries.extend_from_slice(&other.entries[at..]);
    }

    /// CRC-32C of the entries of the transactions whose marker lies below `end`.
    pub(crate) fn checksum_below(&self, end: Offset) -> u32 {
        let mut below = self.clone();
        below.truncate(end);
        crate::wire::crc32c(&below.encode())
    }

    /// Drops the transactions whose marker lies at or after `to`.
    pub(crate) fn truncate(&mut self, to: Offset) {
        let keep = self.entries.partition_point(|txn| txn.last_offset < to);
        self.entries.truncate(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::super::unhex;
    use super::*;
    use crate::error::ErrorKind;

    fn txn(pid: i64, first: i64, last: i64, stable: i64) -> AbortedTxn {
        AbortedTxn {
            producer_id: pid.into(),
            first_offset: first.into(),
            last_offset: last.into(),
            last_stable_offset: stable.into(),
        }
    }

    #[test]
    fn kafkas_own_entries_read_and_write_the_same() {
        for (base, hex, expected) in [
            (100, "00000000000000000fa000000000000000660000000000000069000000000000006a", txn(4000, 102, 105, 106)),
            (0, "00000000000000000001000000000000000600000000000000080000000000000009", txn(1, 6, 8, 9)),
        ] {
            let index = TransactionIndex::decode(Offset::new(base), &unhex(hex)).unwrap();
            assert_eq!(index.entries, [expected]);
            assert_eq!(index.encode(), unhex(hex));
        }
    }

    #[test]
    fn a_read_finds_the_transactions_that_overlap_it() {
        let mut index = TransactionIndex::default();
        for txn in [txn(1, 0, 10, 5), txn(2, 5, 20, 12), txn(3, 12, 30, 31)] {
            index.push(txn).unwrap();
        }
        assert!(index.push(txn(4, 29, 30, 31)).is_err());
        let search = |from: i64, to: i64| {
            let mut found = Vec::new();
            let flow = index.aborted_between(from.into(), to.into(), &mut found);
            (found.iter().map(|txn| txn.producer_id.get()).collect::<Vec<_>>(), flow.is_break())
        };
        assert_eq!(search(0, 5), (vec![1], true));
        assert_eq!(search(10, 12), (vec![1, 2], true));
        assert_eq!(search(11, 40), (vec![2, 3], false));
        assert_eq!(search(31, 40), (vec![], false));
        index.truncate(Offset::new(20));
        assert_eq!(index.entries.len(), 1);
    }

    #[test]
    fn nonsense_is_corrupt() {
        let good = "00000000000000000fa000000000000000660000000000000069000000000000006a";
        let decode = |base, hex: &str| TransactionIndex::decode(Offset::new(base), &unhex(hex)).map(|_| ());
        for result in [
            decode(106, good),
            decode(0, &good[2..]),
            decode(0, &good.replacen("00", "01", 1)),
            decode(0, &good.repeat(2)),
        ] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}

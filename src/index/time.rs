//! The time index (`.timeindex`): from a timestamp to an offset before which no record is newer.
//!
//! Entry, 12 bytes: timestamp i64, relative offset u32 (offset - segment base). Every record with a
//! larger timestamp lies after that offset. Timestamps strictly increase, offsets never fall.

use std::ops::Range;

use bytes::{Buf, BufMut};

use super::{corrupt, length_error, relative};
use crate::error::{Error, Result};
use crate::types::{Offset, Timestamp};

const ENTRY_LEN: usize = 12;

#[derive(Clone, Debug)]
pub(crate) struct TimeIndex {
    base: Offset,
    max_entries: usize,
    entries: Vec<(i64, u32)>,
}

impl TimeIndex {
    /// An empty index of at most `max_bytes` (`segment.index.bytes`).
    pub(crate) fn new(base: Offset, max_bytes: u32) -> Self {
        Self { base, max_entries: max_bytes as usize / ENTRY_LEN, entries: Vec::new() }
    }

    /// Reads an index back; padding and nonsense are refused.
    pub(crate) fn decode(base: Offset, max_bytes: u32, bytes: &[u8]) -> Result<Self> {
        let (index, fault) = Self::decode_front(base, max_bytes, bytes);
        fault.map_or(Ok(index), Err)
    }

    /// As much of an index as can be read, and what ends it where it is not its end.
    pub(crate) fn decode_front(base: Offset, max_bytes: u32, mut bytes: &[u8]) -> (Self, Option<Error>) {
        let mut index = Self::new(base, max_bytes);
        let len = bytes.len();
        index.entries.reserve_exact(len / ENTRY_LEN);
        let mut last = (Timestamp::NONE.get(), 0);
        while bytes.remaining() >= ENTRY_LEN {
            let entry = (bytes.get_i64(), bytes.get_u32());
            let number = index.entries.len();
            if entry.0 <= last.0 {
                return (index, Some(corrupt("time", number, "timestamp does not rise")));
            }
            if entry.1 < last.1 || i32::try_from(entry.1).is_err() {
                return (index, Some(corrupt("time", number, "offset falls")));
            }
            last = entry;
            index.entries.push(entry);
        }
        (index, bytes.has_remaining().then(|| length_error("time", len, ENTRY_LEN)))
    }

    /// The bytes of the entries with these numbers, as far as there are such.
    pub(crate) fn encode(&self, numbers: Range<usize>) -> Vec<u8> {
        let end = numbers.end.min(self.entries.len());
        let entries = self.entries.get(numbers.start..end).unwrap_or_default();
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY_LEN);
        for &(timestamp, offset) in entries {
            bytes.put_i64(timestamp);
            bytes.put_u32(offset);
        }
        bytes
    }

    /// How many entries name an offset below `end`.
    pub(crate) fn count_below(&self, end: Offset) -> usize {
        self.entries.partition_point(|entry| self.base + i64::from(entry.1) < end)
    }

    /// Forgets the entries that name `end` or an offset behind.
    pub(crate) fn truncate(&mut self, end: Offset) {
        self.entries.truncate(self.count_below(end));
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds an entry if it is newer than the last one and, unless `forced`, if there is room. The forced
    /// entry of a segment that closes always has room.
    pub(crate) fn maybe_push(&mut self, timestamp: Timestamp, offset: Offset, forced: bool) -> Result<()> {
        let (last_timestamp, last_offset) = self.last();
        if timestamp <= last_timestamp || (self.is_full() && !forced) {
            return Ok(());
        }
        let relative = relative(self.base, offset)?;
        if offset < last_offset {
            return Err(corrupt("time", self.entries.len(), "offset falls").offset(offset));
        }
        self.entries.push((timestamp.get(), relative));
        Ok(())
    }

    /// Where to start scanning for `target`: the largest entry at or before it, else (-1, segment base).
    pub(crate) fn lookup(&self, target: Timestamp) -> (Timestamp, Offset) {
        self.entry(self.entries.partition_point(|entry| entry.0 <= target.get()))
    }

    /// The last entry, else (-1, segment base). In a closed segment: its largest timestamp.
    pub(crate) fn last(&self) -> (Timestamp, Offset) {
        self.entry(self.entries.len())
    }

    /// Entries that name `offset` or one behind.
    pub(crate) fn behind(&self, offset: Offset) -> impl Iterator<Item = (Timestamp, Offset)> + '_ {
        (self.count_below(offset)..self.entries.len()).map(|at| self.entry(at + 1))
    }

    /// Whether only the forced last entry has room.
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len().saturating_add(1) >= self.max_entries
    }

    /// The entry before number `after`.
    fn entry(&self, after: usize) -> (Timestamp, Offset) {
        let entry = after.checked_sub(1).and_then(|at| self.entries.get(at));
        entry.map_or((Timestamp::NONE, self.base), |&(timestamp, offset)| {
            (Timestamp::new(timestamp), self.base + i64::from(offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::unhex;
    use super::*;
    use crate::error::ErrorKind;

    const T: i64 = 1_700_000_000_000;
    const VECTOR: &str = "0000018bcfe56815000000050000018bcfe56829000000090000018bcfe568330000000b";

    #[test]
    fn looks_up_the_largest_entry_at_or_before_the_time() {
        let index = TimeIndex::decode(Offset::new(100), 1000, &unhex(VECTOR)).unwrap();
        assert_eq!(index.encode(0..usize::MAX), unhex(VECTOR));
        for (time, expected) in [(20, (-1, 100)), (21, (T + 21, 105)), (40, (T + 21, 105)), (1000, (T + 51, 111))] {
            let (timestamp, offset) = index.lookup(Timestamp::new(T + time));
            assert_eq!((timestamp.get(), offset.get()), expected, "time {time}");
        }
        assert_eq!(index.last(), (Timestamp::new(T + 51), Offset::new(111)));
    }

    #[test]
    fn only_newer_entries_are_added_and_one_place_is_kept_for_the_last() {
        let mut index = TimeIndex::new(Offset::ZERO, 80);
        let mut push = |timestamp, offset, forced| {
            index.maybe_push(Timestamp::new(timestamp), Offset::new(offset), forced).map(|()| index.entries.len())
        };
        assert_eq!(push(-1, 0, true).unwrap(), 0, "no timestamp, no entry");
        assert_eq!(push(5, 1, false).unwrap(), 1);
        assert_eq!(push(5, 2, false).unwrap(), 1, "equal");
        assert_eq!(push(4, 2, true).unwrap(), 1, "older");
        assert_eq!(push(6, 0, false).unwrap_err().kind(), ErrorKind::Corrupt);
        for at in 2..=5 {
            assert_eq!(push(10 * at, at, false).unwrap(), usize::try_from(at).unwrap());
        }
        assert_eq!(push(100, 6, false).unwrap(), 5, "80 bytes hold 6 entries, one of them kept");
        assert_eq!(push(100, 6, true).unwrap(), 6);
        assert_eq!(index.last(), (Timestamp::new(100), Offset::new(6)));
    }

    #[test]
    fn nonsense_is_corrupt() {
        for (why, hex) in [
            ("partial entry", "0000018bcfe5681500000005ff"),
            ("zero tail", "0000018bcfe5681500000005000000000000000000000000"),
            ("falling offset", "0000018bcfe56815000000050000018bcfe5682900000004"),
            ("negative timestamp", "ffffffffffffffff00000000"),
        ] {
            let error = TimeIndex::decode(Offset::ZERO, 1000, &unhex(hex)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{why}");
        }
    }
}

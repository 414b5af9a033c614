//! The offset index (`.index`): from an offset to the byte position of a batch at or before it.
//!
//! Entry, 8 bytes: relative offset u32 (a batch's last offset - segment base), position u32 (where
//! that batch begins). Both strictly increase. The first batch never has an entry.

use std::ops::Range;

use bytes::{Buf, BufMut};

use super::{corrupt, length_error, relative};
use crate::error::{Error, ErrorKind, Result};
use crate::types::Offset;

const ENTRY_LEN: usize = 8;

#[derive(Clone, Debug)]
pub(crate) struct OffsetIndex {
    base: Offset,
    max_entries: usize,
    entries: Vec<(u32, u32)>,
}

impl OffsetIndex {
    /// An empty index of at most `max_bytes` (`segment.index.bytes`).
    pub(crate) fn new(base: Offset, max_bytes: u32) -> Self {
        Self { base, max_entries: max_bytes as usize / ENTRY_LEN, entries: Vec::new() }
    }

    /// Reads an index back. `log_size` is the length of the segment's log in bytes; the zeros with which
    /// a stock broker pads the index of an active segment are refused like any other nonsense.
    pub(crate) fn decode(base: Offset, max_bytes: u32, bytes: &[u8], log_size: u64) -> Result<Self> {
        let (index, fault) = Self::decode_front(base, max_bytes, bytes, log_size);
        fault.map_or(Ok(index), Err)
    }

    /// As much of an index as can be read, and what ends it where it is not its end.
    pub(crate) fn decode_front(base: Offset, max_bytes: u32, mut bytes: &[u8], log_size: u64) -> (Self, Option<Error>) {
        let mut index = Self::new(base, max_bytes);
        let len = bytes.len();
        index.entries.reserve_exact(len / ENTRY_LEN);
        let (mut last, mut last_position) = (None, 0);
        while bytes.remaining() >= ENTRY_LEN {
            let entry = (bytes.get_u32(), bytes.get_u32());
            let number = index.entries.len();
            if i32::try_from(entry.0).is_err() || last.is_some_and(|last| entry.0 <= last) {
                return (index, Some(corrupt("offset", number, "offset does not rise")));
            }
            if entry.1 <= last_position || u64::from(entry.1) >= log_size {
                let why = "position does not rise or lies beyond the log";
                return (index, Some(corrupt("offset", number, why)));
            }
            (last, last_position) = (Some(entry.0), entry.1);
            index.entries.push(entry);
        }
        (index, bytes.has_remaining().then(|| length_error("offset", len, ENTRY_LEN)))
    }

    /// The bytes of the entries with these numbers, as far as there are such.
    pub(crate) fn encode(&self, numbers: Range<usize>) -> Vec<u8> {
        let end = numbers.end.min(self.entries.len());
        let entries = self.entries.get(numbers.start..end).unwrap_or_default();
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY_LEN);
        for &(offset, position) in entries {
            bytes.put_u32(offset);
            bytes.put_u32(position);
        }
        bytes
    }

    /// How many entries are of batches that end below `end`.
    pub(crate) fn count_below(&self, end: Offset) -> usize {
        self.entries.partition_point(|entry| self.base + i64::from(entry.0) < end)
    }

    /// Forgets the entries of batches that end at `end` or behind.
    pub(crate) fn truncate(&mut self, end: Offset) {
        self.entries.truncate(self.count_below(end));
    }

    /// Adds the batch that ends with `last_offset` and begins at `position`.
    pub(crate) fn push(&mut self, last_offset: Offset, position: u32) -> Result<()> {
        if self.is_full() {
            return Err(Error::new(ErrorKind::InvalidArgument, "offset index is full").offset(last_offset));
        }
        let offset = relative(self.base, last_offset)?;
        if self.entries.last().is_some_and(|&last| offset <= last.0 || position <= last.1) {
            return Err(corrupt("offset", self.entries.len(), "offset or position does not rise").offset(last_offset));
        }
        self.entries.push((offset, position));
        Ok(())
    }

    /// Where to start scanning for `target`: the largest entry at or before it, else the segment's begin.
    pub(crate) fn lookup(&self, target: Offset) -> (Offset, u32) {
        let after = self.entries.partition_point(|entry| self.base + i64::from(entry.0) <= target);
        self.entry(after.checked_sub(1))
    }

    /// The smallest entry at or after `target`.
    pub(crate) fn ceiling(&self, target: Offset) -> Option<(Offset, u32)> {
        let at = self.entries.partition_point(|entry| self.base + i64::from(entry.0) < target);
        self.entries.get(at).map(|_| self.entry(Some(at)))
    }

    /// The last entry, else the segment's begin.
    pub(crate) fn last(&self) -> (Offset, u32) {
        self.entry(self.entries.len().checked_sub(1))
    }

    /// Entries of batches that begin at `position` or behind.
    pub(crate) fn behind(&self, position: u64) -> impl Iterator<Item = (Offset, u32)> + '_ {
        let first = self.entries.partition_point(|entry| u64::from(entry.1) < position);
        (first..self.entries.len()).map(|at| self.entry(Some(at)))
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the segment must roll before another entry is due.
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= self.max_entries
    }

    fn entry(&self, at: Option<usize>) -> (Offset, u32) {
        let entry = at.and_then(|at| self.entries.get(at));
        entry.map_or((self.base, 0), |&(offset, position)| (self.base + i64::from(offset), position))
    }
}

#[cfg(test)]
mod tests {
    use super::super::unhex;
    use super::*;

    const VECTOR: &str = "00000005000000a6000000090000014c";

    fn vector() -> OffsetIndex {
        OffsetIndex::decode(Offset::new(100), 1000, &unhex(VECTOR), 498).unwrap()
    }

    #[test]
    fn looks_up_the_largest_entry_at_or_before_the_target() {
        let index = vector();
        assert_eq!(index.encode(0..usize::MAX), unhex(VECTOR));
        for (target, expected) in
            [(100, (100, 0)), (104, (100, 0)), (105, (105, 166)), (106, (105, 166)), (111, (109, 332))]
        {
            let (offset, position) = index.lookup(Offset::new(target));
            assert_eq!((offset.get(), position), expected, "target {target}");
        }
        assert_eq!(index.last(), (Offset::new(109), 332));
    }

    #[test]
    fn nonsense_is_corrupt() {
        let decode = |hex: &str, log_size| OffsetIndex::decode(Offset::ZERO, 1000, &unhex(hex), log_size);
        for (why, hex) in [
            ("partial entry", "00000005000000a60000"),
            ("zero tail", "00000005000000a60000000000000000"),
            ("all zeros", "0000000000000000"),
            ("same offset", "00000005000000a600000005000000a7"),
            ("falling position", "00000005000000a600000006000000a5"),
            ("negative offset", "80000000000000a6"),
        ] {
            assert_eq!(decode(hex, 498).unwrap_err().kind(), ErrorKind::Corrupt, "{why}");
        }
        assert!(decode(VECTOR, 333).is_ok());
        assert!(decode(VECTOR, 332).is_err(), "last position at the end of the log");
    }

    #[test]
    fn full_and_overflowing_pushes_are_refused() {
        let mut index = OffsetIndex::new(Offset::new(10), 23);
        index.push(Offset::new(11), 70).unwrap();
        assert!(index.push(Offset::new(11), 80).is_err());
        assert!(index.push(Offset::new(12), 70).is_err());
        assert!(index.push(Offset::new(11 + i64::from(i32::MAX)), 80).is_err());
        index.push(Offset::new(10 + i64::from(i32::MAX)), 80).unwrap();
        assert!(index.is_full());
        assert_eq!(OffsetIndex::new(Offset::ZERO, 10_485_760).max_entries, 1_310_720);
    }
}

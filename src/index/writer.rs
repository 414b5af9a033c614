//! When index entries are due: the per-batch rule of `index.interval.bytes`. Appending and rebuilding
//! go through the same code, so that a rebuilt index equals the original byte for byte.

use super::{OffsetIndex, TimeIndex};
use crate::error::Result;
use crate::types::{Offset, Timestamp};

#[derive(Clone, Debug)]
pub(crate) struct IndexWriter {
    interval_bytes: u32,
    bytes_since_entry: u64,
    largest: (Timestamp, Offset),
}

impl IndexWriter {
    /// For a segment whose batches will all pass through; `base` is its base offset.
    pub(crate) fn new(base: Offset, interval_bytes: u32) -> Self {
        Self { interval_bytes, bytes_since_entry: 0, largest: (Timestamp::NONE, base) }
    }

    /// For a segment that was closed in order and takes more batches: its time index knows its largest
    /// timestamp.
    pub(crate) fn resume(time_index: &TimeIndex, interval_bytes: u32) -> Self {
        Self { interval_bytes, bytes_since_entry: 0, largest: time_index.last() }
    }

    /// Takes note of a batch and adds the entries that are due. An index that is full gets no more: a
    /// sparser index answers the same, only slower.
    pub(crate) fn on_batch(
        &mut self,
        offset_index: &mut OffsetIndex,
        time_index: &mut TimeIndex,
        batch: &IndexedBatch,
    ) -> Result<()> {
        if batch.max_timestamp > self.largest.0 {
            self.largest = (batch.max_timestamp, batch.last_offset);
        }
        if self.bytes_since_entry > u64::from(self.interval_bytes) {
            if !offset_index.is_full() {
                offset_index.push(batch.last_offset, batch.position)?;
            }
            time_index.maybe_push(self.largest.0, self.largest.1, false)?;
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += u64::from(batch.size);
        Ok(())
    }

    /// Adds the last time entry, which a segment gets when it rolls, closes or was recovered.
    pub(crate) fn finish(&self, time_index: &mut TimeIndex) -> Result<()> {
        time_index.maybe_push(self.largest.0, self.largest.1, true)
    }

    /// Takes note of the largest timestamp of batches that passed through another writer.
    pub(crate) fn raise_largest(&mut self, largest: (Timestamp, Offset)) {
        if largest.0 > self.largest.0 {
            self.largest = largest;
        }
    }

    /// The largest timestamp so far (-1 when there is none) and the last offset of its batch.
    pub(crate) fn largest(&self) -> (Timestamp, Offset) {
        self.largest
    }
}

/// What the indexes need to know of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexedBatch {
    pub(crate) last_offset: Offset,
    /// Where it begins in the segment's log, in bytes.
    pub(crate) position: u32,
    /// Its length in bytes.
    pub(crate) size: u32,
    pub(crate) max_timestamp: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::super::unhex;
    use super::*;

    const T: i64 = 1_700_000_000_000;

    /// The index and time index of equally large batches, given by last offset and maximum timestamp.
    fn build(base: i64, interval: u32, size: u32, batches: &[(i64, i64)]) -> (Vec<u8>, Vec<u8>) {
        let base = Offset::new(base);
        let (mut offsets, mut times) = (OffsetIndex::new(base, 10_485_760), TimeIndex::new(base, 10_485_760));
        let mut writer = IndexWriter::new(base, interval);
        for (&(last, time), position) in batches.iter().zip((0..).step_by(size as usize)) {
            let (last_offset, max_timestamp) = (Offset::new(last), Timestamp::new(T + time));
            let batch = IndexedBatch { last_offset, position, size, max_timestamp };
            writer.on_batch(&mut offsets, &mut times, &batch).unwrap();
        }
        writer.finish(&mut times).unwrap();
        assert_eq!(times.last(), writer.largest());
        (offsets.encode(0..usize::MAX), times.encode(0..usize::MAX))
    }

    #[test]
    fn density_equals_kafkas() {
        let six = [(101, 1), (103, 11), (105, 21), (107, 6), (109, 41), (111, 51)];
        assert_eq!(
            build(100, 100, 83, &six),
            (
                unhex("00000005000000a6000000090000014c"),
                unhex("0000018bcfe56815000000050000018bcfe56829000000090000018bcfe568330000000b")
            )
        );
        let times = [11, 41, 21, 31, 91, 51, 61, 71, 81, 101, 111, 6];
        let twelve: Vec<_> = (1..).step_by(2).zip(times).collect();
        for (interval, index, time_index) in [
            (
                100,
                "000000030000007500000005000000ea000000070000015f00000009000001d40000000b000002490000000d000002be\
                 0000000f0000033300000011000003a8000000130000041d00000015000004920000001700000507",
                "0000018bcfe56829000000030000018bcfe5685b000000090000018bcfe56865000000130000018bcfe5686f00000015",
            ),
            (400, "00000009000001d400000011000003a8", "0000018bcfe5685b000000090000018bcfe5686f00000015"),
            (1000, "000000130000041d", "0000018bcfe56865000000130000018bcfe5686f00000015"),
        ] {
            assert_eq!(build(0, interval, 117, &twelve), (unhex(index), unhex(time_index)), "interval {interval}");
        }
    }

    #[test]
    fn a_segment_too_small_for_an_entry_closes_with_one_time_entry() {
        let (index, time_index) = build(0, 4096, 100, &[(0, 9), (1, 8), (2, 7)]);
        assert_eq!((index.len(), time_index), (0, unhex("0000018bcfe5680900000000")));
        assert_eq!(build(0, 4096, 100, &[]), (vec![], vec![]));
    }

    #[test]
    fn a_full_index_gets_sparser_instead_of_failing() {
        let (mut offsets, mut times) = (OffsetIndex::new(Offset::ZERO, 8), TimeIndex::new(Offset::ZERO, 12));
        let mut writer = IndexWriter::new(Offset::ZERO, 0);
        for at in 0..4 {
            let max_timestamp = Timestamp::new(i64::from(at));
            let batch = IndexedBatch { last_offset: i64::from(at).into(), position: at * 80, size: 80, max_timestamp };
            writer.on_batch(&mut offsets, &mut times, &batch).unwrap();
        }
        writer.finish(&mut times).unwrap();
        assert_eq!((offsets.last(), times.last()), ((Offset::new(1), 80), (Timestamp::new(3), Offset::new(3))));
        assert_eq!(IndexWriter::resume(&times, 0).largest(), (Timestamp::new(3), Offset::new(3)));
    }
}

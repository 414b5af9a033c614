//! How far a consumer is in one partition, and the batches it has fetched but not handed out.

use std::collections::VecDeque;

use super::records::Chunk;
use crate::error::Result;
use crate::group::Generation;
use crate::record::{DecodedBatch, RecordBatch, RecordPlace};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

#[derive(Debug)]
pub(super) struct Cursor {
    partition: TopicPartition,
    /// The generation since which the consumer has held the partition without a break.
    since: Generation,
    position: Offset,
    /// Of the last batch that was handed out.
    epoch: Option<LeaderEpoch>,
    fetched: VecDeque<RecordBatch>,
    /// The batch that is being handed out, and where in it to go on.
    open: Option<(DecodedBatch, RecordPlace)>,
    /// Where the next fetch starts.
    fetched_to: Offset,
}

impl Cursor {
    pub(super) fn new(partition: TopicPartition, since: Generation, position: Offset) -> Self {
        let (fetched, fetched_to) = (VecDeque::new(), position);
        Self { partition, since, position, epoch: None, fetched, open: None, fetched_to }
    }

    pub(super) fn since(&self) -> Generation {
        self.since
    }

    /// The offset of the next record to hand out.
    pub(super) fn position(&self) -> Offset {
        self.position
    }

    pub(super) fn epoch(&self) -> Option<LeaderEpoch> {
        self.epoch
    }

    pub(super) fn seek(&mut self, position: Offset) {
        *self = Self::new(self.partition.clone(), self.since, position);
    }

    /// Drops what was fetched but not handed out.
    pub(super) fn unfetch(&mut self) {
        self.fetched.clear();
        self.open = None;
        self.fetched_to = self.position;
    }

    /// Where to fetch, once everything fetched before was handed out.
    pub(super) fn wants(&self) -> Option<Offset> {
        (self.open.is_none() && self.fetched.is_empty()).then_some(self.fetched_to)
    }

    /// Takes in what a fetch from [`Cursor::wants`] brought; what was read ends before `next`. The
    /// first batch may begin before the position.
    pub(super) fn accept(&mut self, batches: impl IntoIterator<Item = RecordBatch>, next: Offset) {
        self.fetched.extend(batches);
        self.fetched_to = next;
        if self.fetched.is_empty() {
            self.position = next;
        }
    }

    /// Hands out up to `limit` records, all of one batch; none when nothing is left.
    ///
    /// # Errors
    /// When a batch or one of its records is damaged. The position stays at the damage.
    pub(super) fn take(&mut self, limit: usize) -> Result<Option<Chunk>> {
        while limit > 0
            && let Some((batch, start)) = self.next_batch()?
        {
            let chunk = self.take_from(batch, start, limit)?;
            if chunk.count > 0 {
                self.epoch = Some(chunk.batch.header().leader_epoch()).filter(|e| e.get() >= 0);
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    fn take_from(&mut self, batch: DecodedBatch, start: RecordPlace, limit: usize) -> Result<Chunk> {
        let mut chunk = Chunk {
            partition: self.partition.clone(),
            generation: self.since,
            batch,
            from: start,
            count: 0,
            next: self.position,
        };
        let mut records = chunk.batch.iter_from(start);
        while chunk.count < limit {
            let before = records.place(&chunk.batch);
            match records.next() {
                Some(Ok(record)) if record.offset() < self.position => chunk.from = records.place(&chunk.batch),
                Some(Ok(record)) => {
                    chunk.count += 1;
                    chunk.next = record.offset().next();
                }
                Some(Err(damage)) => {
                    // What lies before the damage goes out first.
                    self.open = Some((chunk.batch.clone(), before));
                    if chunk.count == 0 {
                        return Err(damage.partition(self.partition.clone()));
                    }
                    self.position = chunk.next;
                    return Ok(chunk);
                }
                None => break,
            }
        }
        if records.size_hint().0 > 0 {
            self.open = Some((chunk.batch.clone(), records.place(&chunk.batch)));
            self.position = chunk.next;
        } else {
            // Offsets after the last record can be gone: compacted away, or markers.
            let end = if self.fetched.is_empty() { self.fetched_to } else { chunk.batch.header().next_offset() };
            self.position = self.position.max(end);
        }
        Ok(chunk)
    }

    fn next_batch(&mut self) -> Result<Option<(DecodedBatch, RecordPlace)>> {
        if let Some(open) = self.open.take() {
            return Ok(Some(open));
        }
        let Some(batch) = self.fetched.front() else { return Ok(None) };
        let decoded = batch.decode().map_err(|e| e.partition(self.partition.clone()))?;
        self.fetched.pop_front();
        Ok(Some((decoded, RecordPlace::default())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::Records;
    use crate::record::Record;
    use crate::types::Timestamp;

    fn batch(base: i64, values: &[&str]) -> RecordBatch {
        let mut builder = RecordBatch::builder().base_offset(Offset::new(base)).leader_epoch(LeaderEpoch::new(3));
        for value in values {
            builder.push(Timestamp::new(1), &Record::new(*value)).expect("a record");
        }
        builder.finish().expect("a batch")
    }

    fn cursor(position: i64) -> Cursor {
        Cursor::new(TopicPartition::new("t", 0), 1, Offset::new(position))
    }

    fn taken(cursor: &mut Cursor, limit: usize) -> Vec<String> {
        let mut records = Records::default();
        cursor.take(limit).expect("no damage").into_iter().for_each(|chunk| records.push(chunk));
        let text = |v: Option<&[u8]>| String::from_utf8(v.unwrap_or_default().to_vec()).expect("text");
        records.iter().map(|r| format!("{}:{}", r.offset(), text(r.value()))).collect()
    }

    #[test]
    fn a_batch_is_handed_out_in_parts_from_the_position_on() {
        let mut cursor = cursor(11);
        assert_eq!(cursor.wants(), Some(Offset::new(11)));
        cursor.accept([batch(10, &["a", "b", "c", "d"]), batch(14, &["e"])], Offset::new(17));
        assert_eq!(cursor.wants(), None);
        assert_eq!(taken(&mut cursor, 2), ["11:b", "12:c"]);
        assert_eq!((cursor.position(), cursor.epoch()), (Offset::new(13), Some(LeaderEpoch::new(3))));
        assert_eq!(taken(&mut cursor, 2), ["13:d"]);
        assert_eq!(taken(&mut cursor, 2), ["14:e"]);
        // The fetch ended with two offsets that are not for readers.
        assert_eq!((cursor.position(), cursor.wants()), (Offset::new(17), Some(Offset::new(17))));
        assert_eq!(taken(&mut cursor, 2), [""; 0]);
    }

    #[test]
    fn dropping_what_was_fetched_loses_no_record() {
        let mut cursor = cursor(10);
        cursor.accept([batch(10, &["a", "b"])], Offset::new(12));
        assert_eq!(taken(&mut cursor, 1), ["10:a"]);
        cursor.unfetch();
        assert_eq!(cursor.wants(), Some(Offset::new(11)));
        cursor.accept([batch(10, &["a", "b"])], Offset::new(12));
        assert_eq!(taken(&mut cursor, 9), ["11:b"]);
        cursor.seek(Offset::new(10));
        assert_eq!(cursor.wants(), Some(Offset::new(10)));
    }

    #[test]
    fn a_read_without_records_for_us_moves_the_position() {
        let mut cursor = cursor(10);
        cursor.accept([], Offset::new(12));
        assert_eq!((cursor.position(), cursor.wants()), (Offset::new(12), Some(Offset::new(12))));
    }
}

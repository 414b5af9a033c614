//! One partition of `__consumer_offsets` on its way into memory, batch by batch, as a stock broker
//! replays it. What is not understood is reported and left where it is, and what is damaged is passed
//! over; all else takes effect.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::finding::{Finding, FindingKind, Findings};
use crate::group::{GroupCoordinator, Unread};
use crate::record::{ControlType, RecordBatch};
use crate::topic;
use crate::types::{Isolation, Offset, TopicPartition};

/// Bytes read at a time.
const READ_BYTES: usize = 4 << 20;
/// Records of one partition that are reported one by one; of more there is one count.
const UNREAD_TOLD: usize = 16;

pub(super) struct Replay {
    coordinator: GroupCoordinator,
    name: TopicPartition,
    /// Of the topic: a group's records count in its own partition and nowhere else.
    partitions: i32,
    told: Vec<Finding>,
    untold: usize,
}

impl Replay {
    pub(super) fn new(name: &TopicPartition, partitions: i32) -> Self {
        let (coordinator, name) = (GroupCoordinator::default(), name.clone());
        Self { coordinator, name, partitions, told: Vec::new(), untold: 0 }
    }

    /// Reads the log from its start to its high watermark.
    pub(super) fn run(&mut self, partition: &topic::Partition) -> Result<()> {
        let offsets = partition.offsets()?;
        let mut next = offsets.log_start;
        while next < offsets.high_watermark {
            let read = match partition.read(next, READ_BYTES, Isolation::ReadUncommitted) {
                Ok(read) => read,
                Err(error) => match error.at_offsets() {
                    Some(lost) if lost.end > next => {
                        next = lost.end;
                        self.lost(lost, &error);
                        continue;
                    }
                    _ => return Err(error),
                },
            };
            for batch in read.batches() {
                self.batch(&batch?);
            }
            if read.next_offset() <= next {
                break;
            }
            next = read.next_offset();
        }
        Ok(())
    }

    /// Says what was not understood and hands over the rest.
    pub(super) fn finish(self, findings: &Findings) -> GroupCoordinator {
        self.told.into_iter().for_each(|finding| findings.add(finding));
        if self.untold > 0 {
            let message = format!(
                "{} more records of groups are damaged or not understood; they were left as they are",
                self.untold
            );
            findings.add(Finding::new(FindingKind::UnknownRecord, message).partition(self.name));
        }
        self.coordinator
    }

    fn batch(&mut self, batch: &RecordBatch) {
        let mut at = batch.base_offset();
        if let Err(error) = self.records(batch, &mut at) {
            // Behind damage no record of the batch can be found.
            self.unread(at..batch.next_offset(), None, &error);
        }
    }

    /// `at`: the offset up to which everything was taken in.
    fn records(&mut self, batch: &RecordBatch, at: &mut Offset) -> Result<()> {
        let (header, number) = (batch.header(), self.name.partition());
        let producer = header.producer_id();
        if header.is_control() {
            match batch.control_type()? {
                Some(ControlType::Commit) => self.coordinator.end_transaction(number, producer, true),
                Some(ControlType::Abort) => self.coordinator.end_transaction(number, producer, false),
                _ => {}
            }
            return Ok(());
        }
        let in_transaction = header.is_transactional().then_some(producer);
        for record in batch.decode()?.iter() {
            let record = record?;
            *at = record.offset().next();
            let Some(key) = record.key() else { continue };
            if let Some(Unread { offset, group, error }) =
                self.coordinator.replay(number, self.partitions, in_transaction, record.offset(), key, record.value())
            {
                self.unread(offset..offset.next(), group, &error);
            }
        }
        Ok(())
    }

    fn unread(&mut self, offsets: Range<Offset>, group: Option<String>, error: &Error) {
        let of = group.map(|group| format!(" of group {group:?}")).unwrap_or_default();
        let message = format!("a record{of} is not understood and was left as it is: {error}");
        self.tell(FindingKind::UnknownRecord, message, offsets);
    }

    fn lost(&mut self, offsets: Range<Offset>, error: &Error) {
        let message =
            format!("what groups committed here is lost, they go on from what they committed before: {error}");
        self.tell(FindingKind::Damaged, message, offsets);
    }

    fn tell(&mut self, kind: FindingKind, message: String, offsets: Range<Offset>) {
        if self.told.len() < UNREAD_TOLD {
            self.told.push(Finding::new(kind, message).partition(self.name.clone()).offsets(offsets));
        } else {
            self.untold += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, EndMarker, TxnOutcome};
    use crate::types::{ProducerId, Timestamp};

    const AT: Timestamp = Timestamp::new(7);

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |c: u8| u8::try_from((c as char).to_digit(16).expect("hex")).expect("one digit");
        hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    fn vector(section: &str, name: &str) -> Vec<u8> {
        let all: serde_json::Value = serde_json::from_str(include_str!("../../tests/data/vectors.json")).unwrap();
        let found = &all[section][name];
        bytes(found.as_str().or(found["hex"].as_str()).unwrap())
    }

    fn offset_record() -> (Vec<u8>, Vec<u8>) {
        (vector("records", "K43_OFFSET_K"), vector("records", "K43_OFFSET_V"))
    }

    fn replay() -> Replay {
        Replay::new(&TopicPartition::new("__consumer_offsets", 0), 1)
    }

    /// What a look at group `g1` finds, and what was reported.
    fn look(replay: Replay) -> (Option<i64>, Vec<Finding>) {
        let findings = Findings::default();
        let coordinator = replay.finish(&findings);
        let committed = coordinator.committed("g1", &TopicPartition::new("tt", 0), None);
        (committed.map(|c| c.offset().get()), findings.all())
    }

    fn batch_of(builder: BatchBuilder, records: &[(&[u8], &[u8])]) -> RecordBatch {
        let mut builder = builder;
        records.iter().for_each(|(key, value)| builder.push_parts(AT, Some(key), Some(value), &[]).unwrap());
        builder.finish().unwrap()
    }

    #[test]
    fn whole_batches_of_a_4_3_broker_are_taken_in() {
        let mut replay = replay();
        let batches =
            ["group-join", "offset-commit", "tombstone-horizon", "emptied-data", "emptied-marker", "abort-marker"];
        for name in batches {
            let batch = RecordBatch::parse(vector("batches", &format!("v43-{name}"))).unwrap();
            // The horizon's records are somebody else's: its key is of a type that nobody knows.
            let told = replay.told.len();
            replay.batch(&batch);
            assert_eq!(replay.told.len() - told, usize::from(name == "tombstone-horizon"), "{name}");
        }
        assert_eq!(replay.coordinator.describe("g2").generation(), 2);
        assert_eq!(look(replay).0, Some(12));
    }

    #[test]
    fn a_transaction_waits_for_the_marker_of_its_producer_whatever_the_epoch() {
        let (key, value) = offset_record();
        let producer = ProducerId::new(2003);
        let mut committed = replay();
        let in_transaction = BatchBuilder::new().producer(producer, 4, 0).transactional();
        committed.batch(&batch_of(in_transaction, &[(&key, &value)]));
        let marker = |producer, outcome| {
            let marker = EndMarker { outcome, coordinator_epoch: 0 };
            BatchBuilder::end_marker(marker, producer, 5, AT).unwrap()
        };
        committed.batch(&marker(ProducerId::new(1), TxnOutcome::Commit));
        let held_back = committed.coordinator.committed("g1", &TopicPartition::new("tt", 0), None);
        assert_eq!(held_back, None, "open at the stop: seen by nobody");
        committed.batch(&marker(producer, TxnOutcome::Commit));
        assert_eq!(look(committed), (Some(12), Vec::new()));
    }

    #[test]
    fn a_record_that_is_not_understood_costs_itself_alone() {
        let (key, value) = offset_record();
        let mut replay = replay();
        let records: [(&[u8], &[u8]); 3] = [(&[0, 99], &[]), (&key, &value), (&key, &[0, 7])];
        replay.batch(&batch_of(BatchBuilder::new(), &records));
        let (committed, told) = look(replay);
        assert_eq!(committed, Some(12));
        let told: Vec<_> = told.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("type 99") && told[0].contains("(offsets 0 to before 1)"), "{told:?}");
        assert!(told[1].contains("of group \"g1\"") && told[1].contains("version 7"), "{told:?}");
    }

    #[test]
    fn damage_inside_a_batch_costs_what_is_behind_it() {
        let (key, value) = offset_record();
        let sound = batch_of(BatchBuilder::new(), &[(&key, &value), (&key, &value)]);
        let mut damaged = sound.as_bytes().to_vec();
        // The second record's length, with the checksum of what it is now.
        let second = 61 + (damaged.len() - 61) / 2;
        damaged[second] = 0xff;
        let crc = crate::wire::crc32c(&damaged[21..]).to_be_bytes();
        damaged[17..21].copy_from_slice(&crc);
        let mut replay = replay();
        replay.batch(&RecordBatch::parse(damaged).unwrap());
        let (committed, told) = look(replay);
        assert_eq!((committed, told.len()), (Some(12), 1));
        assert_eq!(told[0].offsets, Some(Offset::new(1)..Offset::new(2)));
    }

    #[test]
    fn a_log_full_of_what_is_not_understood_makes_a_short_report() {
        let mut replay = replay();
        for _ in 0..10 {
            replay.batch(&batch_of(BatchBuilder::new(), &[(&[0, 99][..], &[][..]); 100]));
        }
        let (_, told) = look(replay);
        assert_eq!(told.len(), UNREAD_TOLD + 1);
        assert!(told[UNREAD_TOLD].message.contains("984 more"), "{told:?}");
    }
}

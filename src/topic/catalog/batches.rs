//! Metadata records in batches: what stands in the metadata log and in its snapshots alike. Control and
//! data records never share a batch; nothing is compressed, as Kafka does.

use super::control::ControlRecord;
use super::image::Image;
use super::records::MetadataRecord;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{BatchBuilder, ControlType, RecordBatch, RecordRef};
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// Where and when a batch is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) base: Offset,
    pub(super) epoch: LeaderEpoch,
    pub(super) time: Timestamp,
}

impl Place {
    fn builder(self) -> BatchBuilder {
        BatchBuilder::new().base_offset(self.base).leader_epoch(self.epoch)
    }
}

/// One batch of data records.
pub(super) fn data_batch(place: Place, records: &[MetadataRecord]) -> Result<RecordBatch> {
    encoded_batch(place, &records.iter().map(MetadataRecord::encode).collect::<Result<Vec<_>>>()?)
}

/// The same of records that are bytes already.
pub(super) fn encoded_batch(place: Place, records: &[Vec<u8>]) -> Result<RecordBatch> {
    let mut batch = place.builder();
    for record in records {
        batch.push_parts(place.time, None, Some(record), &[])?;
    }
    batch.finish()
}

/// One batch of control records.
pub(super) fn control_batch(place: Place, records: &[ControlRecord]) -> Result<RecordBatch> {
    let mut batch = place.builder().control();
    for record in records {
        let (kind, value) = record.encode()?;
        batch.push_control(place.time, kind, &value)?;
    }
    batch.finish()
}

/// What stands in a batch.
pub(super) enum Contents {
    Control(Vec<ControlRecord>),
    /// The values of data records with their offsets.
    Data(Vec<(Offset, Vec<u8>)>),
}

/// Takes a batch apart.
pub(super) fn contents(batch: &RecordBatch) -> Result<Contents> {
    let decoded = batch.decode()?;
    let value = |record: &RecordRef<'_>| -> Result<Vec<u8>> {
        let empty = || Error::new(ErrorKind::Corrupt, "a metadata record has no value").offset(record.offset());
        record.value().map(<[u8]>::to_vec).ok_or_else(empty)
    };
    if !batch.header().is_control() {
        let data = |record: Result<RecordRef<'_>>| record.and_then(|r| Ok((r.offset(), value(&r)?)));
        return decoded.iter().map(data).collect::<Result<_>>().map(Contents::Data);
    }
    let control = |record: Result<RecordRef<'_>>| -> Result<ControlRecord> {
        let record = record?;
        ControlRecord::decode(ControlType::of(&record)?, &value(&record)?).map_err(|e| e.offset(record.offset()))
    };
    decoded.iter().map(control).collect::<Result<_>>().map(Contents::Control)
}

/// Applies a batch to an image; all of it, or nothing when one of its records cannot be read.
pub(super) fn apply(image: &mut Image, batch: &RecordBatch) -> Result<()> {
    match contents(batch)? {
        Contents::Control(records) => records.into_iter().for_each(|record| image.apply_control(record)),
        Contents::Data(values) => {
            let decode = |(offset, value): (Offset, Vec<u8>)| {
                MetadataRecord::decode(&value).map(|record| (offset, record)).map_err(|e| e.offset(offset))
            };
            let records = values.into_iter().map(decode).collect::<Result<Vec<_>>>()?;
            records.into_iter().try_for_each(|(offset, record)| image.apply(record).map_err(|e| e.offset(offset)))?;
        }
    }
    image.end = batch.next_offset();
    image.epoch = batch.header().leader_epoch();
    image.last_timestamp = batch.header().max_timestamp();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::control::{Endpoint, Voter};
    use super::super::hex;
    use super::super::records::{PartitionState, Resource};
    use super::*;
    use crate::types::Uuid;

    /// The smallest log on which 3.9.2, 4.3.0 and 4.4.0 started, in a static and in a dynamic quorum.
    const CONTROL: &str = "
        0000000000000000 00000084 00000001 02 bb7b675a 0020 00000001 0000018bcfe56800 0000018bcfe56800
        ffffffffffffffff ffff ffffffff 00000002
        1e 00 00 00 08 0000 0005 0a 0000 0001 00 00
        8201 00 00 02 08 0000 0006 6e 0000 02 00000001 666f6f62617262617a71757831323334 02 0b 434f4e54524f4c4c4552
        0a 6c6f63616c686f7374 2385 00 0000 0001 00 00 00 00";
    const DATA: &str = "
        0000000000000002 000000fa 00000001 02 9e8ff044 0000 00000004 0000018bcfe56800 0000018bcfe56800
        ffffffffffffffff ffff ffffffff 00000005
        3a 00 00 00 01 2e 01 0c 00 11 6d657461646174612e76657273696f6e 0015 00 00
        38 00 00 02 01 2c 01 02 00 02 74 00000000000000000000000000000065 00 00
        9001 00 00 04 01 8201 01 03 01 00000000 00000000000000000000000000000065 02 00000001 02 00000001 01 01
        00000001 00000000 00000000 02 666f6f62617262617a71757831323334 00 00
        48 00 00 06 01 3c 01 04 00 02 02 74 0f 636c65616e75702e706f6c696379 08 636f6d70616374 00 00
        3c 00 00 08 01 30 01 0f 00 ffffffff ffffffffffffffff 00000000000003e8 00 00";

    fn place(base: i64) -> Place {
        Place { base: base.into(), epoch: 1.into(), time: 1_700_000_000_000.into() }
    }

    fn topic() -> Uuid {
        "AAAAAAAAAAAAAAAAAAAAZQ".parse().unwrap()
    }

    fn control_records() -> Vec<ControlRecord> {
        let endpoint = Endpoint { name: "CONTROLLER".into(), host: "localhost".into(), port: 9093 };
        let voter = Voter {
            id: 1,
            directory_id: "Zm9vYmFyYmF6cXV4MTIzNA".parse().unwrap(),
            endpoints: vec![endpoint],
            kraft_versions: (0, 1),
        };
        vec![ControlRecord::KRaftVersion(1), ControlRecord::Voters(vec![voter])]
    }

    fn data_records() -> Vec<MetadataRecord> {
        let state = PartitionState {
            replicas: vec![1],
            isr: vec![1],
            leader: 1,
            directories: vec!["Zm9vYmFyYmF6cXV4MTIzNA".parse().unwrap()],
            ..PartitionState::default()
        };
        vec![
            MetadataRecord::FeatureLevel { name: "metadata.version".into(), level: 21 },
            MetadataRecord::Topic { name: "t".into(), id: topic() },
            MetadataRecord::Partition { topic: topic(), partition: 0, state },
            MetadataRecord::Config {
                resource: Resource::topic("t"),
                name: "cleanup.policy".into(),
                value: Some("compact".into()),
            },
            MetadataRecord::ProducerIds { broker: -1, broker_epoch: -1, next: 1000 },
        ]
    }

    #[test]
    fn the_minimal_log_is_rebuilt_byte_for_byte() {
        assert_eq!(control_batch(place(0), &control_records()).unwrap().as_bytes()[..], hex(CONTROL));
        assert_eq!(data_batch(place(2), &data_records()).unwrap().as_bytes()[..], hex(DATA));
    }

    #[test]
    fn the_minimal_log_replays() {
        let mut image = Image::default();
        for bytes in [CONTROL, DATA] {
            apply(&mut image, &RecordBatch::parse(hex(bytes)).unwrap()).unwrap();
        }
        assert_eq!((image.end, image.epoch), (Offset::new(7), LeaderEpoch::new(1)));
        assert_eq!(image.feature("metadata.version"), Some(21));
        assert_eq!(image.topic("t").map(|t| (t.id, t.partition_count())), Some((topic(), 1)));
        assert_eq!(image.configs(&Resource::topic("t")).collect::<Vec<_>>(), [("cleanup.policy", "compact")]);
        assert_eq!((image.next_producer_id(), image.other_node(1)), (1000, None));
    }

    /// A whole batch of 4.x: the leader and the voters of a static quorum.
    #[test]
    fn a_leader_change_names_the_voters() {
        let bytes = "0000000000000000 0000004f 00000001 02 1154eaf9 0020 00000000 0000018bcfe56800 0000018bcfe56800 \
                     ffffffffffffffff ffff ffffffff 00000001 3a 00 00 00 08 0000 0002 26 0000 00000001 02 00000001 00 \
                     02 00000001 00 00 00";
        let mut image = Image::default();
        apply(&mut image, &RecordBatch::parse(hex(bytes)).unwrap()).unwrap();
        assert!(image.other_node(1).is_none() && image.other_node(2).is_some());
    }

    #[test]
    fn a_batch_with_an_unknown_record_changes_nothing() {
        let mut batch = place(0).builder();
        let known = data_records().remove(1).encode().unwrap();
        for value in [known.as_slice(), &[1, 99, 0, 0]] {
            batch.push_parts(Timestamp::new(0), None, Some(value), &[]).unwrap();
        }
        let mut image = Image::default();
        let error = apply(&mut image, &batch.finish().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(image.topic("t").is_none() && image.end == 0);
    }
}

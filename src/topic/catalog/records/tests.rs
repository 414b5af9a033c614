//! Metadata records against bytes that stock brokers wrote or accepted, and against damage.

use super::*;
use crate::topic::catalog::hex;

fn uuid(text: &str) -> Uuid {
    Uuid::from_bytes(hex(text).try_into().unwrap())
}

fn golden(bytes: &str, record: MetadataRecord) {
    assert_eq!(MetadataRecord::decode(&hex(bytes)).unwrap(), record);
    assert_eq!(record.encode().unwrap(), hex(bytes), "{record:?}");
}

fn one_replica(directory: &str) -> PartitionState {
    PartitionState {
        replicas: vec![1],
        isr: vec![1],
        leader: 1,
        directories: vec![uuid(directory)],
        ..PartitionState::default()
    }
}

/// Bytes that 4.3.0 wrote, or that a script wrote and 3.9.2 and 4.3.0 accepted.
#[test]
fn records_are_kafkas_bytes() {
    golden(
        "010c00116d657461646174612e76657273696f6e001e00",
        MetadataRecord::FeatureLevel { name: "metadata.version".into(), level: 30 },
    );
    golden(
        "010200037430148ef556da02417c9e932bf811510be400",
        MetadataRecord::Topic { name: "t0".into(), id: uuid("148ef556da02417c9e932bf811510be4") },
    );
    golden(
        "01030100000000e4bea0de74a14fe78c0ad2bef97f3ab30200000001020000000101010000000100000000000000000278b31b2824a28c5a68e467a8f2c63df700",
        MetadataRecord::Partition {
            topic: uuid("e4bea0de74a14fe78c0ad2bef97f3ab3"),
            partition: 0,
            state: one_replica("78b31b2824a28c5a68e467a8f2c63df7"),
        },
    );
    golden(
        "0104000205626f6f740d726574656e74696f6e2e6d730c393939393939393939393900",
        MetadataRecord::Config {
            resource: Resource::topic("boot"),
            name: "retention.ms".into(),
            value: Some("99999999999".into()),
        },
    );
    golden(
        "0104000401146d696e2e696e73796e632e7265706c69636173023100",
        MetadataRecord::Config {
            resource: Resource { kind: 4, name: String::new() },
            name: "min.insync.replicas".into(),
            value: Some("1".into()),
        },
    );
    golden(
        "010f0000000001000000000000000b00000000000003e800",
        MetadataRecord::ProducerIds { broker: 1, broker_epoch: 11, next: 1000 },
    );
    golden(
        "01110000000001000000000000000b010001ff",
        MetadataRecord::RegistrationChange {
            id: 1,
            epoch: 11,
            change: RegistrationChange { fenced: Some(-1), ..RegistrationChange::default() },
        },
    );
    golden(
        "01170001001212426f6f747374726170207265636f726473",
        MetadataRecord::BeginTransaction { name: Some("Bootstrap records".into()) },
    );
    golden("01180000", MetadataRecord::EndTransaction);
    golden("01140000", MetadataRecord::NoOp);
    golden(
        "01090087157cc64a034ec184d8c1c69157ff7000",
        MetadataRecord::RemoveTopic { id: uuid("87157cc64a034ec184d8c1c69157ff70") },
    );
}

#[test]
fn partition_changes_are_kafkas_bytes() {
    let topic = uuid("05139673ecdd4a8598d0f49785dc88c4");
    golden("0105020000000005139673ecdd4a8598d0f49785dc88c4040001010104ffffffff0605020000000107050200000001", {
        let change = PartitionChange {
            isr: Some(vec![]),
            leader: Some(-1),
            elr: Some(vec![1]),
            last_known_elr: Some(vec![1]),
            ..PartitionChange::default()
        };
        MetadataRecord::PartitionChange { topic, partition: 0, change }
    });
    golden("0105000000000005139673ecdd4a8598d0f49785dc88c4010104ffffffff", {
        let change = PartitionChange { leader: Some(-1), ..PartitionChange::default() };
        MetadataRecord::PartitionChange { topic, partition: 0, change }
    });
}

/// 4.3.0 writes version 2 even without the tags that version 2 added; the body is the same.
#[test]
fn version_2_of_a_partition_reads_like_version_1() {
    let bytes = "01030200000000148ef556da02417c9e932bf811510be40200000001020000000101010000000100000000000000000218142a1ae602d9a07e1e79a5d61b35e700";
    let record = MetadataRecord::decode(&hex(bytes)).unwrap();
    let state = one_replica("18142a1ae602d9a07e1e79a5d61b35e7");
    let topic = uuid("148ef556da02417c9e932bf811510be4");
    assert_eq!(record, MetadataRecord::Partition { topic, partition: 0, state: state.clone() });
    let mut version_1 = hex(bytes);
    version_1[2] = 1;
    assert_eq!(record.encode().unwrap(), version_1);

    let state = PartitionState { recovery: 1, elr: vec![1], last_known_elr: vec![1, 2], ..state };
    let record = MetadataRecord::Partition { topic, partition: 0, state };
    let encoded = record.encode().unwrap();
    assert_eq!(encoded[2], 2);
    assert_eq!(MetadataRecord::decode(&encoded).unwrap(), record);
}

#[test]
fn unknown_tags_are_skipped_but_unknown_records_are_not() {
    let tagged = hex("0109 00 87157cc64a034ec184d8c1c69157ff70 01 64 02 beef");
    assert_eq!(
        MetadataRecord::decode(&tagged).unwrap(),
        MetadataRecord::RemoveTopic { id: uuid("87157cc64a034ec184d8c1c69157ff70") }
    );
    for unsupported in ["016300", "010201", "01030300", "020c00", "010d00"] {
        let error = MetadataRecord::decode(&hex(unsupported)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{unsupported}: {error}");
    }
    for damaged in ["", "01", "010200", "0102000374", "0114000000", "010300000000000000"] {
        assert_eq!(MetadataRecord::decode(&hex(damaged)).unwrap_err().kind(), ErrorKind::Corrupt, "{damaged}");
    }
}

#[test]
fn registrations_are_kept_as_they_are() {
    // Version 4 of RegisterBroker as 4.3.0 wrote it: node 1, registered at offset 11, fenced until it has caught up.
    let bytes =
        hex("0100040000000100dc67553b01734c6f88f2ea46bbfd36da000000000000000b020a504c41494e544558540a6c6f63616c68 \
         6f73747208000000081073747265616d732e76657273696f6e0000000100147472616e73616374696f6e2e76657273696f6e \
         000000020021656c696769626c652e6c65616465722e7265706c696361732e76657273696f6e0000000100116d6574616461 \
         74612e76657273696f6e0007001e000e73686172652e76657273696f6e00000001000e6b726166742e76657273696f6e0000 \
         0001000e67726f75702e76657273696f6e0000000100000100010021032e947d79111ae3859ba4bae620e076347afe41e288 \
         2663610a9d0fe6e2899bca");
    let record = MetadataRecord::decode(&bytes).unwrap();
    assert!(matches!(record, MetadataRecord::RegisterBroker { id: 1, epoch: 11, fenced: true, .. }));
    assert_eq!(record.encode().unwrap(), bytes);
    for end in 0..bytes.len() - 40 {
        assert!(MetadataRecord::decode(&bytes[..end]).is_err(), "{end}");
    }
}

/// The body of RegisterBroker grew with each version; whether the broker was fenced is in all of them.
#[test]
fn every_version_of_a_registration_says_whether_it_is_fenced() {
    let id = "00000001";
    let identity = "87157cc64a034ec184d8c1c69157ff70 000000000000000b";
    let lists = "02 02 41 02 68 2385 0000 00 02 02 66 0000 0015 00 00";
    for (version, before, after) in
        [("00", "", ""), ("01", "", "00"), ("02", "00", "00"), ("03", "00", "00"), ("04", "00", "00")]
    {
        for (flag, expected) in [("00", false), ("01", true)] {
            let bytes = hex(&format!("01 00 {version} {id} {before} {identity} {lists} {flag} {after} 00"));
            let record = MetadataRecord::decode(&bytes).unwrap();
            let MetadataRecord::RegisterBroker { epoch: 11, fenced, .. } = &record else { panic!("{record:?}") };
            assert_eq!(*fenced, expected, "version {version}");
            assert_eq!(record.encode().unwrap(), bytes);
        }
    }
}

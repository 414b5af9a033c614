//! The whole module against Kafka's own bytes, and against itself on arbitrary records.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::batch::crc_of;
use super::*;
use crate::error::ErrorKind;
use crate::testing::from_hex;
use crate::types::{LeaderEpoch, Offset, ProducerId, Timestamp};
use crate::wire::{Reader, crc32c, varint};

const T: i64 = 1_700_000_000_000;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../tests/data/vectors.json")).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The batches of the vectors by name, but for message formats 0 and 1.
fn batches() -> Vec<(String, Bytes)> {
    let all = vectors()["batches"].as_object().unwrap().clone();
    let current = all.into_iter().filter(|(name, _)| name != "v0" && name != "v1");
    let named: Vec<_> = current.map(|(name, hex)| (name, Bytes::from(from_hex(text(&hex))))).collect();
    assert_eq!(named.len(), 22, "no vector is lost on the way");
    named
}

fn batch(name: &str) -> RecordBatch {
    let bytes = batches().into_iter().find(|(n, _)| n == name).unwrap().1;
    RecordBatch::parse(bytes).unwrap()
}

/// Builds a batch anew from what was read of it, where a producer or coordinator could have sent it.
fn rebuilt(batch: &RecordBatch) -> Option<RecordBatch> {
    let header = batch.header();
    let decoded = batch.decode().unwrap();
    let dense = (0..).zip(&decoded).all(|(n, r)| r.unwrap().offset_delta() == n);
    if header.record_count() == 0 || header.delete_horizon().is_some() || !dense {
        return None;
    }
    let mut builder = BatchBuilder::new()
        .base_offset(header.base_offset())
        .leader_epoch(header.leader_epoch())
        .producer(header.producer_id(), header.producer_epoch(), header.base_sequence());
    if header.is_transactional() {
        builder = builder.transactional();
    }
    if header.is_control() {
        builder = builder.control();
    }
    for record in &decoded {
        let record = record.unwrap();
        let headers = owned_headers(&record);
        builder.push_parts(record.timestamp(), record.key(), record.value(), &headers).unwrap();
    }
    Some(builder.finish().unwrap())
}

fn owned_headers(record: &RecordRef<'_>) -> Vec<Header> {
    let owned = |(key, value): (&str, Option<&[u8]>)| match value {
        Some(value) => Header::new(key, value),
        None => Header::null(key),
    };
    record.headers().map(owned).collect()
}

#[test]
fn wire_vectors() {
    let vectors = vectors();
    let written = |number| {
        let mut out = [0; varint::MAX_U64_LEN];
        let len = varint::write64(number, &mut out);
        out[..len].to_vec()
    };
    for row in vectors["varint"].as_array().unwrap() {
        let number = i32::try_from(row[0].as_i64().unwrap()).unwrap();
        let (signed, unsigned) = (from_hex(text(&row[1])), from_hex(text(&row[2])));
        assert_eq!(written(varint::fold64(i64::from(number))), signed);
        assert_eq!(written(u64::from(number.cast_unsigned())), unsigned);
        assert_eq!(varint::read32(&signed), Some((varint::fold64(i64::from(number)) as u32, signed.len())));
        assert_eq!(varint::unfold32(varint::read32(&signed).unwrap().0), number);
        assert_eq!(Reader::new(&unsigned).uvarint().unwrap(), number.cast_unsigned());
    }
    for row in vectors["varlong"].as_array().unwrap() {
        let (number, bytes) = (row[0].as_i64().unwrap(), from_hex(text(&row[1])));
        assert_eq!(written(varint::fold64(number)), bytes);
        assert_eq!(varint::read64(&bytes).map(|(n, len)| (varint::unfold64(n), len)), Some((number, bytes.len())));
    }
    for row in vectors["crc32c"].as_array().unwrap() {
        assert_eq!(format!("{:08x}", crc32c(&from_hex(text(&row[0])))), text(&row[1]));
    }
}

#[test]
fn uncompressed_vectors_are_written_byte_for_byte() {
    let mut by_builder = 0;
    for (name, bytes) in batches() {
        let batch = RecordBatch::parse(bytes.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        if batch.header().codec() != Codec::None {
            continue;
        }
        // Field by field, which covers what only a cleaner writes: horizons, gaps, emptied batches.
        let mut out = vec![0; BatchHeader::LEN];
        for record in &batch.decode().unwrap() {
            let record = record.unwrap();
            let headers = owned_headers(&record);
            let timestamp_delta = record.timestamp().get() - batch.header().base_timestamp().get();
            let (key, value) = (record.key(), record.value());
            layout::write(&mut out, timestamp_delta, record.offset_delta(), key, value, &headers).unwrap();
        }
        let mut header = *batch.header();
        header.seal(&mut out);
        assert_eq!(out, bytes, "{name}");

        if let Some(rebuilt) = rebuilt(&batch) {
            assert_eq!(rebuilt.as_bytes(), &bytes, "{name} by the builder");
            by_builder += 1;
        }
    }
    assert_eq!(by_builder, 11);
}

#[test]
fn compressed_vectors_hold_the_same_records() {
    let section = from_hex(text(&vectors()["records_section"]));
    for name in ["none", "gzip", "snappy", "lz4", "zstd", "snappy-xerial", "snappy-raw"] {
        let batch = batch(name);
        let decoded = match batch.decode() {
            Ok(decoded) => decoded,
            Err(e) if e.kind() == ErrorKind::Unsupported => continue,
            Err(e) => panic!("{name}: {e}"),
        };
        assert_eq!(decoded.records_bytes(), section.len(), "{name}");
        let records: Vec<_> = decoded.iter().map(Result::unwrap).collect();
        let told = |r: &RecordRef<'_>| (r.offset().get(), r.timestamp().get(), r.key().map(<[u8]>::to_vec));
        assert_eq!(told(&records[0]), (100, T, Some(b"k0".to_vec())));
        assert_eq!(told(&records[1]), (101, T + 5, Some(b"k1".to_vec())));
        assert_eq!(told(&records[2]), (102, T + 3, None));
        assert_eq!(records[0].value(), Some(&b"value-0"[..]));
        assert_eq!((records[1].value(), records[2].value()), (None, Some(&[b'v'; 40][..])));
        let headers: Vec<_> = records[0].headers().collect();
        assert_eq!(headers, [("h1", Some(&b"hv"[..])), ("h2", None)]);
    }
}

#[test]
fn message_formats_0_and_1_are_too_old() {
    for name in ["v0", "v1"] {
        let bytes = from_hex(text(&vectors()["batches"][name]));
        let error = RecordBatch::parse(bytes.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("too old"), "{error}");
        assert_eq!(error.at_offset(), Some(Offset::new(5)));
        assert_eq!(BatchHeader::announced_size(&bytes).unwrap(), bytes.len());
    }
}

#[test]
fn control_batches_say_what_they_are() {
    let marker = |outcome, coordinator_epoch| Some(EndMarker { outcome, coordinator_epoch });
    for (name, kind, expected) in [
        ("commit", Some(ControlType::Commit), marker(TxnOutcome::Commit, 9)),
        ("abort", Some(ControlType::Abort), marker(TxnOutcome::Abort, 9)),
        ("v43-commit-marker", Some(ControlType::Commit), marker(TxnOutcome::Commit, 0)),
        ("v43-abort-marker", Some(ControlType::Abort), marker(TxnOutcome::Abort, 0)),
        ("leader_change", Some(ControlType::LeaderChange), None),
        ("v43-emptied-marker", None, None),
        ("none", None, None),
    ] {
        let batch = batch(name);
        assert_eq!((batch.control_type().unwrap(), batch.end_marker().unwrap()), (kind, expected), "{name}");
        assert_eq!(batch.header().is_control(), name != "none");
    }
    let commit = EndMarker { outcome: TxnOutcome::Commit, coordinator_epoch: 9 };
    let built = BatchBuilder::end_marker(commit, ProducerId::new(4000), 3, Timestamp::new(T + 1000)).unwrap();
    let placed = built.stamped(Offset::new(103), LeaderEpoch::new(7)).unwrap();
    assert_eq!(placed, batch("commit"), "a marker is Kafka's byte for byte");
}

#[test]
fn what_compaction_leaves_is_read() {
    let cleaned = batch("clean-out");
    assert_eq!(cleaned.header().delete_horizon(), Some(Timestamp::new(1_700_086_500_000)));
    let decoded = cleaned.decode().unwrap();
    let records: Vec<_> = decoded.iter().map(|r| r.unwrap()).map(|r| (r.offset().get(), r.timestamp().get())).collect();
    assert_eq!(records, [(11, T + 1), (12, T + 2)], "the first record is gone, timestamps count back from the horizon");

    let empty = batch("empty");
    assert_eq!((empty.header().record_count(), empty.next_offset()), (0, Offset::new(210)));
    assert_eq!(empty.decode().unwrap().iter().count(), 0);
}

#[test]
fn a_checkpoint_of_several_batches_is_walked() {
    let bytes = from_hex(text(&vectors()["files"]["bootstrap_checkpoint_v43_plus_topic"]));
    let (mut at, mut kinds) = (0, Vec::new());
    while at < bytes.len() {
        let size = BatchHeader::announced_size(&bytes[at..]).unwrap();
        let batch = RecordBatch::parse(bytes[at..at + size].to_vec()).unwrap();
        assert!(validate_crc(batch.header(), &bytes[at..at + size]));
        kinds.push((batch.control_type().unwrap(), batch.header().record_count()));
        at += size;
    }
    let (header, footer) = (Some(ControlType::SnapshotHeader), Some(ControlType::SnapshotFooter));
    assert_eq!(kinds, [(header, 1), (None, 9), (footer, 1)]);
}

#[test]
fn a_flipped_bit_anywhere_under_the_crc_is_found() {
    let bytes = batch("none").as_bytes().clone();
    for at in 17..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x10;
        assert!(RecordBatch::parse(damaged).is_err(), "byte {at}");
    }
    assert_eq!(RecordBatch::parse(bytes.slice(..bytes.len() - 1)).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_place_is_stamped_without_a_new_crc() {
    let batch = batch("zstd");
    let placed = batch.stamped(Offset::new(7_000), LeaderEpoch::new(12)).unwrap();
    let again = RecordBatch::parse(placed.as_bytes().clone()).unwrap();
    assert_eq!((again.base_offset(), again.last_offset()), (Offset::new(7_000), Offset::new(7_002)));
    assert_eq!((again.header().leader_epoch(), again.header().crc()), (LeaderEpoch::new(12), batch.header().crc()));
    let prefix = batch.stamp_prefix(Offset::new(7_000), LeaderEpoch::new(12)).unwrap();
    assert_eq!([&prefix[..], &batch.as_bytes()[16..]].concat(), placed.as_bytes()[..]);
    for impossible in [-1, i64::MAX - 1] {
        assert!(batch.stamped(Offset::new(impossible), LeaderEpoch::new(0)).is_err());
    }
}

#[test]
fn log_append_time_stands_for_every_record() {
    let stamped = batch("none").with_log_append_time(Timestamp::new(T + 77));
    let again = RecordBatch::parse(stamped.as_bytes().clone()).unwrap();
    assert_eq!(again.header().timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(
        (again.header().max_timestamp(), again.header().base_timestamp()),
        (Timestamp::new(T + 77), Timestamp::new(T))
    );
    let decoded = again.decode().unwrap();
    assert!(decoded.iter().all(|r| r.unwrap().timestamp() == T + 77));
    assert_eq!(validate_produced(&again).unwrap().max_timestamp, Timestamp::new(T + 77));
}

#[test]
fn a_batch_is_compressed_anew_and_nothing_else_changes() {
    for (name, codec) in [("none", Codec::Gzip), ("zstd", Codec::None), ("txn", Codec::Lz4)] {
        let before = batch(name);
        let after = RecordBatch::parse(before.recompressed(codec.into()).unwrap().as_bytes().clone()).unwrap();
        assert_eq!(after.header().codec(), codec);
        let (decoded, found) = (before.decode().unwrap(), after.decode().unwrap());
        let records = |decoded: &DecodedBatch| decoded.iter().map(|r| format!("{:?}", r.unwrap())).collect::<Vec<_>>();
        assert_eq!(records(&decoded), records(&found));
        let again = after.recompressed(before.header().codec().into()).unwrap();
        let fields = |batch: &RecordBatch| {
            let header = batch.header();
            let producer = (header.producer_id(), header.producer_epoch(), header.base_sequence());
            let times = (header.base_timestamp(), header.max_timestamp(), header.timestamp_type());
            (
                producer,
                times,
                header.is_transactional(),
                header.record_count(),
                header.last_offset(),
                header.leader_epoch(),
            )
        };
        assert_eq!(fields(&again), fields(&before));
        assert_eq!(fields(&after), fields(&before));
    }
}

#[test]
fn slices_share_the_batch_and_strangers_are_copied() {
    let batch = batch("none");
    let decoded = batch.decode().unwrap();
    let value = decoded.iter().next().unwrap().unwrap().value().unwrap();
    let shared = decoded.slice(value);
    assert_eq!((&shared[..], shared.as_ptr()), (value, value.as_ptr()));
    let stranger = *b"elsewhere";
    assert_ne!(decoded.slice(&stranger).as_ptr(), stranger.as_ptr());
}

/// A batch with this records section, its count and last offset delta as told.
fn forged(section: &[u8], count: i32, last_delta: i32) -> RecordBatch {
    let mut header = *batch("none").header();
    header.record_count = count;
    header.last_offset_delta = last_delta;
    header.length = i32::try_from(BatchHeader::LEN - BatchHeader::PREFIX_LEN + section.len()).unwrap();
    let mut bytes = vec![0; BatchHeader::LEN];
    bytes.extend(section);
    header.seal(&mut bytes);
    RecordBatch::parse(bytes).unwrap()
}

#[test]
fn counts_that_do_not_fit_the_records_are_refused() {
    let section = batch("none").as_bytes().slice(BatchHeader::LEN..);
    let outcome = |count| match forged(&section, count, 2).decode() {
        Err(error) => error.to_string(),
        Ok(decoded) => {
            let mut records = decoded.iter();
            let failure = records.find_map(Result::err).map_or_else(String::new, |e| e.to_string());
            assert!(records.next().is_none(), "nothing follows an error");
            failure
        }
    };
    assert_eq!(outcome(3), "");
    assert!(outcome(2).contains("record 2 of 2 in the batch is damaged: bytes are left"), "{}", outcome(2));
    assert!(outcome(4).contains("record 4 of 4 in the batch is damaged: it is cut short"), "{}", outcome(4));
    assert!(outcome(0).contains("announces 0 records but has 82 bytes"), "{}", outcome(0));
    assert!(outcome(i32::MAX).contains("announces 2147483647 records"), "{}", outcome(i32::MAX));
}

#[test]
fn produced_batches_are_held_to_the_rules() {
    let facts = validate_produced(&batch("none")).unwrap();
    let expected = BatchFacts {
        max_timestamp: Timestamp::new(T + 5),
        min_timestamp: Timestamp::new(T),
        max_timestamp_delta: 1,
        has_null_key: true,
    };
    assert_eq!(facts, expected);
    assert_eq!(
        validate_produced(&rebuilt(&batch("none")).unwrap()).unwrap(),
        expected,
        "our own is not looked through"
    );
    assert!(validate_produced(&batch("txn")).is_ok());

    let record = |delta: u8| [0x0c, 0, 0, delta * 2, 1, 1, 0];
    let sections = [
        (forged(&[record(0), record(3)].concat(), 2, 1), "record 1 of the batch has offset delta 3"),
        (forged(&[record(0), record(0)].concat(), 2, 1), "record 1 of the batch has offset delta 0"),
        (forged(&[record(0), record(1)].concat(), 2, 4), "batch of 2 records has the last offset delta 4"),
        (batch("empty"), "batch of 0 records has the last offset delta 9"),
        (batch("commit"), "control batch"),
        (batch("clean-out"), "delete horizon"),
    ];
    for (batch, why) in sections {
        let error = validate_produced(&batch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRecord);
        assert!(error.to_string().contains(why), "{error}");
    }
    let deltas = forged(&[record(1), record(0)].concat(), 2, 1);
    let offsets: Vec<_> = deltas.decode().unwrap().iter().map(|r| r.unwrap().offset().get()).collect();
    assert_eq!(offsets, [101, 100], "a foreign log that holds such a batch is read all the same");
}

#[test]
fn a_header_key_that_is_not_text_does_not_stop_a_reader() {
    let section = [0x14, 0, 0, 0, 1, 1, 2, 4, 0xff, 0xfe, 1];
    let decoded = forged(&section, 1, 0).decode().unwrap();
    let record = decoded.iter().next().unwrap().unwrap();
    assert_eq!(record.headers().collect::<Vec<_>>(), [("\u{fffd}", None)]);
}

#[test]
fn an_empty_batch_and_an_impossible_offset_are_refused() {
    assert_eq!(BatchBuilder::new().finish().unwrap_err().kind(), ErrorKind::InvalidArgument);
    let mut far = BatchBuilder::new().base_offset(Offset::new(i64::MAX));
    far.push(Timestamp::new(0), &Record::new("x")).unwrap();
    assert_eq!(far.finish().unwrap_err().kind(), ErrorKind::InvalidArgument);
}

fn payload() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        1 => Just(None),
        4 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Some),
        1 => prop::collection::vec(any::<u8>(), 100..300).prop_map(Some),
    ]
}

fn record() -> impl Strategy<Value = (i64, Record)> {
    let time = prop_oneof![Just(-1), T - 1_000..T + 1_000, any::<i64>()];
    let headers = prop::collection::vec((".{0,6}", payload()), 0..4);
    (time, payload(), payload(), headers).prop_map(|(time, key, value, headers)| {
        // Every shape of record, a null value without a key included.
        let mut record = match (key, value) {
            (Some(key), None) => Record::tombstone(key),
            (Some(key), Some(value)) => Record::new(value).key(key),
            (None, value) => Record::new(value.unwrap_or_default()),
        };
        for (key, value) in headers {
            record = match value {
                Some(value) => record.header(key, value),
                None => record.null_header(key),
            };
        }
        (time, record)
    })
}

proptest! {
    #[test]
    fn records_come_back_as_they_went(
        records in prop::collection::vec(record(), 1..40),
        codec in prop::sample::select(vec![Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd]),
        base in 0..i64::MAX - 100,
    ) {
        let mut builder = BatchBuilder::new().compression(codec).base_offset(Offset::new(base));
        for (time, record) in &records {
            builder.push(Timestamp::new(*time), record).unwrap();
        }
        let built = match builder.finish() {
            Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(()),
            built => built.unwrap(),
        };
        let batch = RecordBatch::parse(built.as_bytes().clone()).unwrap();
        prop_assert_eq!(batch.header(), built.header());
        prop_assert_eq!(crc_of(batch.as_bytes()), batch.header().crc());
        prop_assert_eq!(validate_produced(&batch).unwrap(), validate_produced(&built).unwrap());

        let decoded = batch.decode().unwrap();
        prop_assert_eq!(decoded.iter().count(), records.len());
        for (n, (read, (time, sent))) in (0..).zip(decoded.iter().zip(&records)) {
            let read = read.unwrap();
            prop_assert_eq!((read.offset(), read.timestamp()), (Offset::new(base + n), Timestamp::new(*time)));
            prop_assert_eq!(read.key(), sent.key_bytes().map(|k| &k[..]));
            prop_assert_eq!(read.value(), sent.value_bytes().map(|v| &v[..]));
            prop_assert_eq!(owned_headers(&read), sent.headers());
        }
    }
}

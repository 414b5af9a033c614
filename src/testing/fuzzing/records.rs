//! Batches, compressed sections and the fields of the wire.

use bytes::Bytes;

use super::FUZZ_LIMIT;
use crate::record::{
    BatchBuilder, BatchHeader, Codec, DecodedBatch, Header, RecordBatch, compress, decompress, validate_produced,
};
use crate::wire::Reader;

/// Reads `data` as a batch as it is, and once more with magic, length and CRC put right, which no fuzzer
/// guesses.
pub(super) fn batch(data: &[u8]) {
    let _as_it_is = RecordBatch::parse(Bytes::copy_from_slice(data));
    let Some(bytes) = BatchHeader::repaired(data) else { return };
    let Ok(batch) = RecordBatch::parse(bytes) else { return };
    let _may_fail = (batch.control_type(), batch.end_marker(), validate_produced(&batch));
    let Ok(decoded) = batch.decode_capped(FUZZ_LIMIT) else { return };
    let read: Result<Vec<_>, _> = decoded.iter().collect();
    if let Ok(records) = read {
        assert_eq!(records.len(), usize::try_from(batch.header().record_count()).expect("never negative"));
        if !records.is_empty() {
            assert_same_records(&decoded, &rebuilt(&decoded));
        }
    }
}

/// The same records in a new batch, at offsets one after another.
fn rebuilt(decoded: &DecodedBatch) -> DecodedBatch {
    let mut builder = BatchBuilder::new();
    for record in decoded {
        let record = record.expect("read before");
        let headers: Vec<_> = record
            .headers()
            .map(|(key, value)| match value {
                Some(value) => Header::new(key, value),
                None => Header::null(key),
            })
            .collect();
        builder.push_parts(record.timestamp(), record.key(), record.value(), &headers).expect("fits");
    }
    builder.finish().and_then(|batch| batch.decode()).expect("our own batch is right")
}

fn assert_same_records(a: &DecodedBatch, b: &DecodedBatch) {
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a.expect("read before"), b.expect("our own"));
        assert_eq!((a.timestamp(), a.key(), a.value()), (b.timestamp(), b.key(), b.value()));
        assert!(a.headers().eq(b.headers()));
    }
}

/// Inflates `data`, and takes it for records: what inflates stays within the limit and survives the way there
/// and back. Nothing is done for a codec that is not built in.
pub(super) fn codec(codec: Codec, data: &[u8]) {
    if compress(codec.into(), b"", &mut Vec::new()).is_err() {
        return;
    }
    let there_and_back = |records: &[u8]| {
        let mut section = Vec::new();
        compress(codec.into(), records, &mut section).expect("any bytes can be compressed");
        assert!(decompress(codec, &section, records.len()).expect("our own section is right") == records);
    };
    if let Ok(records) = decompress(codec, data, FUZZ_LIMIT) {
        assert!(records.len() <= FUZZ_LIMIT);
        there_and_back(&records);
    }
    there_and_back(data);
}

/// Field kinds, then the bytes to read them from.
pub(super) fn wire(data: &[u8]) {
    let (calls, bytes) = data.split_at(data.len().min(16));
    read_fields(bytes, calls);
}

/// Reads fields of the kinds that `calls` name until the bytes give out.
pub fn read_fields(bytes: &[u8], calls: &[u8]) {
    let mut reader = Reader::new(bytes);
    for call in calls {
        let before = reader.remaining();
        let read = match call % 15 {
            0 => reader.i8().map(drop),
            1 => reader.i16().map(drop),
            2 => reader.i32().map(drop),
            3 => reader.i64().map(drop),
            4 => reader.u32().map(drop),
            5 => reader.bool().map(drop),
            6 => reader.uvarint().map(drop),
            7 => reader.uuid().map(drop),
            8 => reader.nullable_string().map(drop),
            9 => reader.nullable_bytes().map(drop),
            10 => reader.compact_nullable_string().map(drop),
            11 => reader.array_len(1).map(|n| assert!(n.unwrap_or(0) <= before)),
            12 => reader.compact_array_len(1).map(|n| assert!(n.unwrap_or(0) <= before)),
            13 => reader.tagged_fields(|_, body| {
                assert!(body.len() <= before);
                Ok(())
            }),
            _ => reader.take(usize::from(*call)).map(drop),
        };
        assert!(reader.remaining() <= before && reader.position() <= bytes.len());
        if read.is_err() {
            return;
        }
    }
}

//! Helpers for tests and fuzzing: what the fuzz targets run, so that their corpus is replayed by plain
//! `cargo test` too.

#![allow(clippy::missing_panics_doc, reason = "panicking is how a check fails")]

use crate::wire::Reader;

/// The bytes that `hex` spells; spaces and line breaks between digits are passed over.
pub fn from_hex(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("two digits make a byte")).collect()
}

/// Reads fields of the kinds that `calls` name until the bytes give out.
pub fn read_fields(bytes: &[u8], calls: &[u8]) {
    let mut reader = Reader::new(bytes);
    for call in calls {
        let before = reader.remaining();
        let read = match call % 19 {
            0 => reader.i8().map(drop),
            1 => reader.i16().map(drop),
            2 => reader.i32().map(drop),
            3 => reader.i64().map(drop),
            4 => reader.u32().map(drop),
            5 => reader.f64().map(drop),
            6 => reader.bool().map(drop),
            7 => reader.varint().map(drop),
            8 => reader.varlong().map(drop),
            9 => reader.uvarint().map(drop),
            10 => reader.uuid().map(drop),
            11 => reader.nullable_string().map(drop),
            12 => reader.nullable_bytes().map(drop),
            13 => reader.compact_nullable_string().map(drop),
            14 => reader.compact_nullable_bytes().map(drop),
            15 => reader.array_len(1).map(|n| assert!(n.unwrap_or(0) <= before)),
            16 => reader.compact_array_len(1).map(|n| assert!(n.unwrap_or(0) <= before)),
            17 => reader.tagged_fields(|_, body| {
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

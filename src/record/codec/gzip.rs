//! Gzip members (RFC 1952): one is written, any number are read. Each ends with a CRC-32 of its content,
//! which is checked.

use std::io::{Read, Write};

use flate2::Compression as Level;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::error::Result;
use crate::record::codec::{Codec, damaged, little_endian, over_limit};

/// No deflate stream inflates to more than this many times its own size (zlib's manual, "maximum
/// compression factor").
const DEFLATE_RATIO: usize = 1032;

pub(super) fn compress(records: &[u8], level: Option<i32>, out: &mut Vec<u8>) -> Result<()> {
    let level = match level.and_then(|l| u32::try_from(l).ok()) {
        Some(level) => Level::new(level),
        None => Level::default(),
    };
    let mut encoder = GzEncoder::new(out, level);
    encoder.write_all(records).and_then(|()| encoder.finish().map(drop)).map_err(|e| damaged(Codec::Gzip, e))
}

pub(super) fn decompress(section: &[u8], limit: usize) -> Result<Vec<u8>> {
    let most = limit.min(section.len().saturating_mul(DEFLATE_RATIO));
    // The last four bytes tell the size of the last member, usually the only one. Where that proves too
    // little, the guess is dropped before the second attempt allocates.
    let announced = section.last_chunk::<4>().map_or(0, |size| little_endian(size) as usize);
    if announced < most
        && let Some(records) = inflate(section, announced)?
    {
        return Ok(records);
    }
    inflate(section, most)?.ok_or_else(|| over_limit(Codec::Gzip, limit))
}

/// Inflates to at most `room` bytes; `None` when there is more.
fn inflate(section: &[u8], room: usize) -> Result<Option<Vec<u8>>> {
    let mut records = vec![0; room];
    let mut decoder = MultiGzDecoder::new(section);
    let mut filled = 0;
    loop {
        // Once the room is used up, one more byte tells whether the end was reached.
        let mut probe = [0];
        let full = filled == room;
        let target = if full { &mut probe[..] } else { &mut records[filled..] };
        match decoder.read(target).map_err(|e| damaged(Codec::Gzip, e))? {
            0 => break,
            _ if full => return Ok(None),
            count => filled += count,
        }
    }
    records.truncate(filled);
    Ok(Some(records))
}

//! Snappy as Kafka's clients write it.
//!
//! ```text
//!  xerial:  82 'SNAPPY' 00 | version i32 = 1 | least version i32 = 1 | chunks: { length i32 | raw block }
//!  bare:    raw block
//! ```
//! Java and most clients write xerial's framing, librdkafka a bare block; both are read, xerial is written. A raw
//! block begins with its own inflated size. There is no checksum in either: the batch's stands for it.

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use crate::error::{Error, Result};
use crate::record::codec::{Codec, damaged, over_limit};
use crate::wire::Reader;

const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const VERSION: i32 = 1;
const HEADER_LEN: usize = MAGIC.len() + 2 * size_of::<i32>();

/// How many bytes xerial puts into a chunk, before compression.
const CHUNK: usize = 32 << 10;

/// The densest thing in a raw block is a copy: three bytes for up to 64.
const BLOCK_RATIO: usize = 22;

pub(super) fn compress(records: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    let mut encoder = Encoder::new();
    for chunk in records.chunks(CHUNK) {
        let length_at = out.len();
        let block_at = length_at + size_of::<i32>();
        out.resize(block_at + max_compress_len(chunk.len()), 0);
        let length = encoder.compress(chunk, &mut out[block_at..]).map_err(|e| damaged(Codec::Snappy, e))?;
        // A chunk of 32 KiB never takes more than 38.
        out[length_at..block_at].copy_from_slice(&(length as i32).to_be_bytes());
        out.truncate(block_at + length);
    }
    Ok(())
}

pub(super) fn decompress(section: &[u8], limit: usize) -> Result<Vec<u8>> {
    let mut size = 0_usize;
    for block in Blocks::new(section) {
        size = size.saturating_add(inflated_size(block?)?);
        if size > limit {
            return Err(over_limit(Codec::Snappy, limit));
        }
    }
    let mut records = vec![0; size];
    let mut filled = 0;
    let mut decoder = Decoder::new();
    for block in Blocks::new(section) {
        filled += decoder.decompress(block?, &mut records[filled..]).map_err(|e| damaged(Codec::Snappy, e))?;
    }
    Ok(records)
}

/// What a block announces, where its length makes that possible.
fn inflated_size(block: &[u8]) -> Result<usize> {
    let size = decompress_len(block).map_err(|e| damaged(Codec::Snappy, e))?;
    if size / BLOCK_RATIO > block.len() {
        return Err(damaged(Codec::Snappy, "a block announces more than its bytes can hold"));
    }
    Ok(size)
}

/// The raw blocks of either framing. Ends after the first error.
struct Blocks<'a> {
    rest: Reader<'a>,
    bare: bool,
}

impl<'a> Blocks<'a> {
    fn new(section: &'a [u8]) -> Self {
        let framed = section.len() >= HEADER_LEN && section.starts_with(&MAGIC);
        let body = if framed { section.get(HEADER_LEN..).unwrap_or_default() } else { section };
        Self { rest: Reader::new(body), bare: !framed }
    }

    fn next_chunk(&mut self) -> Result<&'a [u8]> {
        self.rest.bytes().map_err(|e: Error| damaged(Codec::Snappy, e))
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        if self.bare {
            return Some(Ok(self.rest.rest()));
        }
        let chunk = self.next_chunk();
        if chunk.is_err() {
            self.rest.rest();
        }
        Some(chunk)
    }
}

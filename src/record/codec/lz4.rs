//! LZ4 frames, as far as Kafka's readers and writers go: one frame, of blocks that do not refer to each other.
//!
//! ```text
//!  04 22 4d 18 | FLG | BD | [content size: 8] | HC | { size: 4 | bytes | [xxh32: 4] } .. | 00 00 00 00 | [xxh32: 4]
//!
//!  FLG  bits 7-6 version 01, 5 independent blocks, 4 block checksums, 3 content size, 2 content checksum, 0 dictionary
//!  BD   bits 6-4 largest block: 4 = 64 KiB, 5 = 256 KiB, 6 = 1 MiB, 7 = 4 MiB
//!  HC   second byte of the xxh32 of FLG to content size
//! ```
//! Numbers have their lowest byte first. The top bit of a block's size says that its bytes are not compressed. Written
//! are independent blocks of 64 KiB without checksums, which the batch's CRC replaces; checksums that others wrote are
//! checked. Linked blocks and a second frame are errors here because they are errors in Kafka.

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};

use crate::error::Result;
use crate::record::codec::{Codec, damaged, little_endian, over_limit};
use crate::wire::Reader;

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
const VERSION_MASK: u8 = 0b1100_0000;
const VERSION: u8 = 0b0100_0000;
const INDEPENDENT: u8 = 1 << 5;
const BLOCK_CHECKSUMS: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const RESERVED_OR_DICTIONARY: u8 = 0b11;

/// FLG, BD and HC of every frame that is written: independent blocks of at most 64 KiB.
const OUR_DESCRIPTOR: [u8; 3] = [VERSION | INDEPENDENT, 4 << 4, 0x82];
const OUR_BLOCK: usize = 64 << 10;

const NOT_COMPRESSED: u32 = 1 << 31;
const END_MARK: [u8; 4] = [0; 4];

/// The densest thing in a block is a match length: one byte for 255.
const BLOCK_RATIO: usize = 255;

pub(super) fn compress(records: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&OUR_DESCRIPTOR);
    for block in records.chunks(OUR_BLOCK) {
        let size_at = out.len();
        let bytes_at = size_at + size_of::<u32>();
        out.resize(bytes_at + get_maximum_output_size(block.len()), 0);
        let mut size = compress_into(block, &mut out[bytes_at..]).map_err(|e| damaged(Codec::Lz4, e))?;
        let mut flag = 0;
        if size >= block.len() {
            size = block.len();
            flag = NOT_COMPRESSED;
            out[bytes_at..bytes_at + size].copy_from_slice(block);
        }
        // At most 64 KiB, far below the flag.
        let announced = (size as u32 | flag).swap_bytes().to_be_bytes();
        out[size_at..bytes_at].copy_from_slice(&announced);
        out.truncate(bytes_at + size);
    }
    out.extend_from_slice(&END_MARK);
    Ok(())
}

pub(super) fn decompress(section: &[u8], limit: usize) -> Result<Vec<u8>> {
    let frame = Frame::parse(section)?;
    let (most, tail) = frame.walk(section)?;
    let room = most.min(limit);
    let mut records = vec![0; room];
    let mut filled = 0_usize;
    let mut blocks = frame.blocks(section);
    while let Some(block) = blocks.next()? {
        let end = room.min(filled.saturating_add(frame.largest_block));
        let target = &mut records[filled..end];
        filled += block.inflate(target).map_err(|why| match why {
            Inflate::TooLarge if most > limit => over_limit(Codec::Lz4, limit),
            Inflate::TooLarge => damaged(Codec::Lz4, "a block inflates to more than the frame allows"),
            Inflate::Damaged(why) => damaged(Codec::Lz4, why),
        })?;
    }
    records.truncate(filled);
    frame.check_content(&records, tail)?;
    Ok(records)
}

/// What a frame's descriptor says.
struct Frame {
    flags: u8,
    largest_block: usize,
    content_size: Option<u64>,
    /// Where the blocks begin.
    header_len: usize,
}

impl Frame {
    fn parse(section: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(section);
        let mut take = |count| reader.take(count).map_err(|e| damaged(Codec::Lz4, e));
        if take(MAGIC.len())? != MAGIC {
            return Err(damaged(Codec::Lz4, "they do not begin with a frame"));
        }
        let flags = take(1)?[0];
        let sizes = take(1)?[0];
        let content_size = if flags & CONTENT_SIZE != 0 { Some(little_endian(take(8)?)) } else { None };
        let checksum = take(1)?[0];
        let header_len = reader.position();

        if flags & VERSION_MASK != VERSION || flags & RESERVED_OR_DICTIONARY != 0 || sizes & 0b1000_1111 != 0 {
            return Err(damaged(Codec::Lz4, "the frame's descriptor is of another version or needs a dictionary"));
        }
        if flags & INDEPENDENT == 0 {
            return Err(damaged(Codec::Lz4, "the frame's blocks refer to each other, which Kafka does not read"));
        }
        let largest_block = match sizes >> 4 {
            code @ 4..=7 => 1 << (8 + 2 * u32::from(code)),
            _ => return Err(damaged(Codec::Lz4, "the frame's block size is unknown")),
        };
        if (xxh32(&section[MAGIC.len()..header_len - 1]) >> 8) as u8 != checksum {
            return Err(damaged(Codec::Lz4, "the frame's descriptor does not match its checksum"));
        }
        Ok(Self { flags, largest_block, content_size, header_len })
    }

    fn blocks<'a>(&self, section: &'a [u8]) -> Blocks<'a> {
        let mut rest = Reader::new(section);
        // The header was read from the same bytes.
        let skipped = rest.take(self.header_len);
        debug_assert!(skipped.is_ok(), "the header is there");
        Blocks { rest, largest: self.largest_block, checksums: self.flags & BLOCK_CHECKSUMS != 0 }
    }

    /// The most that the blocks can inflate to, and what follows them.
    fn walk<'a>(&self, section: &'a [u8]) -> Result<(usize, &'a [u8])> {
        let mut blocks = self.blocks(section);
        let mut most = 0_usize;
        while let Some(block) = blocks.next()? {
            let ratio = if block.compressed { BLOCK_RATIO } else { 1 };
            most = most.saturating_add(self.largest_block.min(block.bytes.len().saturating_mul(ratio)));
        }
        Ok((most, blocks.rest.rest()))
    }

    fn check_content(&self, content: &[u8], tail: &[u8]) -> Result<()> {
        if self.content_size.is_some_and(|size| size != content.len() as u64) {
            return Err(damaged(Codec::Lz4, "the frame's content has another size than announced"));
        }
        let checksum_len = if self.flags & CONTENT_CHECKSUM != 0 { size_of::<u32>() } else { 0 };
        if tail.len() != checksum_len {
            return Err(damaged(Codec::Lz4, "bytes are missing or left behind the frame; Kafka reads one frame only"));
        }
        if checksum_len != 0 && little_endian(tail) != u64::from(xxh32(content)) {
            return Err(damaged(Codec::Lz4, "the frame's content does not match its checksum"));
        }
        Ok(())
    }
}

struct Block<'a> {
    compressed: bool,
    bytes: &'a [u8],
}

enum Inflate {
    TooLarge,
    Damaged(lz4_flex::block::DecompressError),
}

impl Block<'_> {
    fn inflate(&self, target: &mut [u8]) -> Result<usize, Inflate> {
        use lz4_flex::block::DecompressError;
        if self.compressed {
            return decompress_into(self.bytes, target).map_err(|why| match why {
                DecompressError::OutputTooSmall { .. } => Inflate::TooLarge,
                why => Inflate::Damaged(why),
            });
        }
        target.get_mut(..self.bytes.len()).ok_or(Inflate::TooLarge)?.copy_from_slice(self.bytes);
        Ok(self.bytes.len())
    }
}

/// The blocks up to the end mark.
struct Blocks<'a> {
    rest: Reader<'a>,
    largest: usize,
    checksums: bool,
}

impl<'a> Blocks<'a> {
    fn next(&mut self) -> Result<Option<Block<'a>>> {
        let cut_short = |e| damaged(Codec::Lz4, e);
        let announced = self.rest.u32().map_err(cut_short)?.swap_bytes();
        if announced == 0 {
            return Ok(None);
        }
        let size = (announced & !NOT_COMPRESSED) as usize;
        if size > self.largest {
            return Err(damaged(Codec::Lz4, "a block is larger than the frame allows"));
        }
        let bytes = self.rest.take(size).map_err(cut_short)?;
        if self.checksums {
            let checksum = self.rest.u32().map_err(cut_short)?.swap_bytes();
            if checksum != xxh32(bytes) {
                return Err(damaged(Codec::Lz4, "a block does not match its checksum"));
            }
        }
        Ok(Some(Block { compressed: announced & NOT_COMPRESSED == 0, bytes }))
    }
}

/// XXH32 with seed 0, the frame's checksum. Four lanes take 16 bytes a round; what is left is mixed in by
/// fours and ones.
fn xxh32(bytes: &[u8]) -> u32 {
    const P1: u32 = 0x9e37_79b1;
    const P2: u32 = 0x85eb_ca77;
    const P3: u32 = 0xc2b2_ae3d;
    const P4: u32 = 0x27d4_eb2f;
    const P5: u32 = 0x1656_67b1;
    let word = |four: &[u8]| little_endian(four) as u32;

    let mut lanes = [P1.wrapping_add(P2), P2, 0, P1.wrapping_neg()];
    let stripes = bytes.chunks_exact(16);
    let rest = stripes.remainder();
    for stripe in stripes {
        for (lane, four) in lanes.iter_mut().zip(stripe.chunks_exact(4)) {
            *lane = lane.wrapping_add(word(four).wrapping_mul(P2)).rotate_left(13).wrapping_mul(P1);
        }
    }
    let mut hash = if bytes.len() < 16 {
        P5
    } else {
        lanes.iter().zip([1, 7, 12, 18]).fold(0, |sum: u32, (lane, by)| sum.wrapping_add(lane.rotate_left(by)))
    };
    hash = hash.wrapping_add(bytes.len() as u32);
    let fours = rest.chunks_exact(4);
    let ones = fours.remainder();
    for four in fours {
        hash = hash.wrapping_add(word(four).wrapping_mul(P3)).rotate_left(17).wrapping_mul(P4);
    }
    for &one in ones {
        hash = hash.wrapping_add(u32::from(one).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 15)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 13)).wrapping_mul(P3);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xxh32_has_its_published_values() {
        assert_eq!(xxh32(b""), 0x02cc_5d05);
        assert_eq!(xxh32(b"abc"), 0x32d1_53ff);
        assert_eq!(xxh32(b"Nobody inspects the spammish repetition"), 0xe229_3b2f);
    }

    #[test]
    fn our_descriptor_has_its_checksum() {
        assert_eq!((xxh32(&OUR_DESCRIPTOR[..2]) >> 8) as u8, OUR_DESCRIPTOR[2]);
    }
}

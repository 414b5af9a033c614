//! Zstandard frames (RFC 8878): one is written, any number are read, with or without content sizes.
//!
//! Whole batches are inflated straight into their output, so that no window is kept beside it, whatever size
//! the frame asks for. The decoder's own context, about 100 KiB of C heap, is kept for each thread.

use std::cell::RefCell;

use zstd::bulk::Compressor;
use zstd::zstd_safe::{DCtx, ErrorCode, get_error_name};

use crate::error::Result;
use crate::record::codec::{Codec, damaged, little_endian, over_limit};
use crate::wire::Reader;

/// `compression.zstd.level`'s default.
const DEFAULT_LEVEL: i32 = 3;

/// `ZSTD_error_dstSize_tooSmall`, whose number zstd promises to keep; errors are returned negated.
const OUTPUT_FULL: ErrorCode = 70_usize.wrapping_neg();

thread_local! {
    static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

pub(super) fn compress(records: &[u8], level: Option<i32>, out: &mut Vec<u8>) -> Result<()> {
    let frame = Compressor::new(level.unwrap_or(DEFAULT_LEVEL)).and_then(|mut c| c.compress(records));
    out.extend_from_slice(&frame.map_err(|e| damaged(Codec::Zstd, e))?);
    Ok(())
}

pub(super) fn decompress(section: &[u8], limit: usize) -> Result<Vec<u8>> {
    let most = most_inflated(section)?;
    let mut records = Vec::with_capacity(most.min(limit));
    let inflate = |context: &mut DCtx<'static>, records: &mut Vec<u8>| context.decompress(records, section);
    let result = CONTEXT
        .try_with(|context| inflate(&mut context.borrow_mut(), &mut records))
        // The thread is ending and its context is gone.
        .unwrap_or_else(|_| inflate(&mut DCtx::create(), &mut records));
    match result {
        Ok(_) => Ok(records),
        Err(OUTPUT_FULL) if most > limit => Err(over_limit(Codec::Zstd, limit)),
        Err(code) => Err(damaged(Codec::Zstd, get_error_name(code))),
    }
}

/// The most that the frames in `section` can inflate to, from their block headers. What a frame announces
/// counts only where it is less.
fn most_inflated(section: &[u8]) -> Result<usize> {
    const FRAME: u64 = 0xfd2f_b528;
    const SKIPPABLE: u64 = 0x184d_2a50;
    let mut reader = Reader::new(section);
    let mut most = 0_usize;
    while !reader.is_empty() {
        match number(&mut reader, 4)? {
            FRAME => most = most.saturating_add(walk_frame(&mut reader)?),
            magic if magic & !0xf == SKIPPABLE => {
                let size = number(&mut reader, 4)? as usize;
                take(&mut reader, size)?;
            }
            _ => return Err(damaged(Codec::Zstd, "they do not begin with a frame")),
        }
    }
    Ok(most)
}

/// Passes over one frame after its magic number; answers the most that it can inflate to.
fn walk_frame(reader: &mut Reader<'_>) -> Result<usize> {
    const LARGEST_BLOCK: u64 = 128 << 10;
    let descriptor = number(reader, 1)?;
    let single_segment = descriptor & (1 << 5) != 0;
    let window = if single_segment { None } else { Some(window_size(number(reader, 1)?)) };
    take(reader, [0, 1, 2, 4][(descriptor & 0b11) as usize])?;
    let content_size = match descriptor >> 6 {
        0 if single_segment => Some(number(reader, 1)?),
        0 => None,
        1 => Some(number(reader, 2)? + 256),
        2 => Some(number(reader, 4)?),
        _ => Some(number(reader, 8)?),
    };
    let largest_block = window.or(content_size).unwrap_or(LARGEST_BLOCK).min(LARGEST_BLOCK);

    let mut most = 0_u64;
    loop {
        let block = number(reader, 3)?;
        let size = block >> 3;
        match (block >> 1) & 0b11 {
            0 => {
                take(reader, size as usize)?;
                most = most.saturating_add(size);
            }
            1 => {
                take(reader, 1)?;
                most = most.saturating_add(size);
            }
            2 => {
                take(reader, size as usize)?;
                most = most.saturating_add(largest_block);
            }
            _ => return Err(damaged(Codec::Zstd, "a block is of an unknown kind")),
        }
        if block & 1 != 0 {
            break;
        }
    }
    if descriptor & (1 << 2) != 0 {
        take(reader, 4)?;
    }
    let most = most.min(content_size.unwrap_or(u64::MAX));
    Ok(usize::try_from(most).unwrap_or(usize::MAX))
}

/// A window descriptor: five bits of exponent, three of mantissa, from 1 KiB up.
const fn window_size(descriptor: u64) -> u64 {
    let base = 1 << (10 + (descriptor >> 3));
    base + base / 8 * (descriptor & 0b111)
}

fn take<'a>(reader: &mut Reader<'a>, count: usize) -> Result<&'a [u8]> {
    reader.take(count).map_err(|e| damaged(Codec::Zstd, e))
}

fn number(reader: &mut Reader<'_>, bytes: usize) -> Result<u64> {
    take(reader, bytes).map(little_endian)
}

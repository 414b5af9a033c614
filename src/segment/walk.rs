//! Walking a segment file batch by batch, checking each: for recovery, for rebuilding indexes, and for
//! finding the end of what can be trusted. Streams through one buffer that grows to the largest sound batch,
//! never to what a damaged header announces.

use crate::record::{BatchHeader, validate_crc};
use crate::storage::File;
use crate::types::Offset;

use super::buffer::BufferPool;

/// Where and why a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WalkEnd {
    /// Position behind the last sound batch.
    pub(crate) position: u64,
    /// What stands there instead of a sound batch; `None` at the end of the file.
    pub(crate) damage: Option<&'static str>,
}

/// One read's worth of bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// Calls `each` with every sound batch from `position` up to `len` (position, header, bytes); it returns
/// `false` to stop. `expected` is the lowest base offset that the first batch may have: the bytes that the
/// checksum does not cover are judged by continuity.
pub(crate) fn walk(
    file: &dyn File,
    mut position: u64,
    len: u64,
    mut expected: i64,
    buffers: &BufferPool,
    mut each: impl FnMut(u64, &BatchHeader, &[u8]) -> bool,
) -> std::io::Result<WalkEnd> {
    let mut buffer = buffers.take(CHUNK_BYTES);
    let base = expected;
    let (mut have, mut at) = (0_usize, 0_usize);
    loop {
        let damage = match next_batch(&buffer.as_ref()[at..have], base, expected) {
            Next::Batch(header) => {
                let size = header.size_bytes();
                if !each(position, &header, &buffer.as_ref()[at..at + size]) {
                    return Ok(WalkEnd { position, damage: None });
                }
                expected = header.next_offset().get();
                position += size as u64;
                at += size;
                continue;
            }
            Next::Damage(what) => what,
            Next::More(need) => {
                let left = len.saturating_sub(position);
                if left == 0 {
                    return Ok(WalkEnd { position, damage: None });
                }
                if need > buffer.as_ref().len() && !is_sound(file, position, len)? {
                    return Ok(WalkEnd { position, damage: Some("a large batch that is cut short or damaged") });
                }
                if need as u64 <= left {
                    // Move the rest to the front and fill up behind it.
                    buffer.grow(need);
                    let rest = have - at;
                    buffer.as_mut(have).copy_within(at.., 0);
                    let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.as_ref().len());
                    file.read_exact_at(&mut buffer.as_mut(want)[rest..], position + rest as u64)?;
                    (have, at) = (want, 0);
                    continue;
                }
                "the file ends inside a batch"
            }
        };
        return Ok(WalkEnd { position, damage: Some(damage) });
    }
}

/// Whether a whole batch with the right checksum stands at `position` of a file of `len` bytes. Needs little
/// memory, whatever size it announces.
pub(crate) fn is_sound(file: &dyn File, position: u64, len: u64) -> std::io::Result<bool> {
    let mut chunk = [0; 16 << 10];
    let left = len.saturating_sub(position);
    if left < BatchHeader::LEN as u64 {
        return Ok(false);
    }
    file.read_exact_at(&mut chunk[..BatchHeader::LEN], position)?;
    let Ok(header) = BatchHeader::parse(&chunk[..BatchHeader::LEN]) else { return Ok(false) };
    let size = header.size_bytes() as u64;
    if size > left {
        return Ok(false);
    }
    let (mut crc, mut at) = (0, BatchHeader::CRC_COVERS_FROM as u64);
    while at < size {
        let part = (size - at).min(chunk.len() as u64);
        let bytes = &mut chunk[..part as usize];
        file.read_exact_at(bytes, position + at)?;
        crc = crc32c::crc32c_append(crc, bytes);
        at += part;
    }
    Ok(crc == header.crc())
}

/// Where the last sound batch behind the damage at `position` ends; `None` when there is none. Offsets below
/// that may be known outside.
pub(crate) fn end_behind(
    file: &dyn File,
    mut position: u64,
    len: u64,
    mut expected: i64,
    buffers: &BufferPool,
) -> std::io::Result<Option<Offset>> {
    let mut end = None;
    let mut window = buffers.take(CHUNK_BYTES);
    // Damage says nothing of where the next batch begins: any byte may be its first.
    position += 1;
    while len.saturating_sub(position) >= BatchHeader::LEN as u64 {
        let have = usize::try_from(len - position).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        file.read_exact_at(window.as_mut(have), position)?;
        let places = window.as_ref()[..have].windows(BatchHeader::LEN);
        // Nearly every place fails at the magic byte.
        let fits = |bytes: &[u8]| {
            bytes[BatchHeader::MAGIC_AT] == 2
                && match next_batch(bytes, expected, expected) {
                    Next::Batch(_) => true,
                    Next::More(need) => need as u64 <= len,
                    Next::Damage(_) => false,
                }
        };
        let mut next = position + (have - BatchHeader::LEN) as u64 + 1;
        for (place, _) in places.enumerate().filter(|(_, bytes)| fits(bytes)) {
            let at = position + place as u64;
            if is_sound(file, at, len)? {
                let walked = walk(file, at, len, expected, buffers, |_, header, _| {
                    end = Some(header.next_offset());
                    true
                })?;
                expected = end.map_or(expected, |end| end.get());
                next = walked.position + 1;
                break;
            }
        }
        position = next;
    }
    Ok(end)
}

enum Next {
    Batch(BatchHeader),
    /// At least this many bytes are needed to tell.
    More(usize),
    Damage(&'static str),
}

fn next_batch(bytes: &[u8], base: i64, expected: i64) -> Next {
    if bytes.len() < BatchHeader::LEN {
        return Next::More(BatchHeader::LEN);
    }
    let Ok(header) = BatchHeader::parse(bytes) else {
        return Next::Damage("not a batch header");
    };
    if header.base_offset().get() < expected {
        return Next::Damage("a base offset below its predecessor's end");
    }
    if header.last_offset().get() - base > i64::from(i32::MAX) {
        return Next::Damage("an offset that does not fit into its segment");
    }
    if bytes.len() < header.size_bytes() {
        return Next::More(header.size_bytes());
    }
    if !validate_crc(&header, &bytes[..header.size_bytes()]) {
        return Next::Damage("a checksum that does not match");
    }
    Next::Batch(header)
}

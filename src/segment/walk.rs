//! Walking a segment file batch by batch, checking each: for recovery, for rebuilding indexes, and for
//! finding the end of what can be trusted. Streams through one buffer that grows to the largest batch.

use crate::record::{BatchHeader, validate_crc};
use crate::storage::File;

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
    let (mut have, mut at) = (0_usize, 0_usize);
    loop {
        let damage = match next_batch(&buffer.as_ref()[at..have], expected) {
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

enum Next {
    Batch(BatchHeader),
    /// At least this many bytes are needed to tell.
    More(usize),
    Damage(&'static str),
}

fn next_batch(bytes: &[u8], expected: i64) -> Next {
    if bytes.len() < BatchHeader::LEN {
        return Next::More(BatchHeader::LEN);
    }
    let Ok(header) = BatchHeader::parse(bytes) else {
        return Next::Damage("not a batch header");
    };
    if header.base_offset().get() < expected {
        return Next::Damage("a base offset below its predecessor's end");
    }
    if bytes.len() < header.size_bytes() {
        return Next::More(header.size_bytes());
    }
    if !validate_crc(&header, &bytes[..header.size_bytes()]) {
        return Next::Damage("a checksum that does not match");
    }
    Next::Batch(header)
}

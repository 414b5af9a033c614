//! A segment's three sparse indexes, in Kafka's entry formats (big-endian, no header, no checksum).
//!
//! Pure values with bytes in and out; reading and writing the files is the segment's work. Every
//! index can be rebuilt from the log: whatever looks wrong is answered with `ErrorKind::Corrupt`,
//! and the caller rebuilds.

mod offset;
mod time;
mod transaction;
mod writer;

pub(crate) use offset::OffsetIndex;
pub(crate) use time::TimeIndex;
pub(crate) use transaction::{AbortedTxn, TransactionIndex, TxnEnd};
pub(crate) use writer::{IndexWriter, IndexedBatch};

use crate::error::{Error, ErrorKind, Result};
use crate::types::Offset;

/// `offset` as an index stores it: relative to the segment's base, at most `i32::MAX`.
fn relative(base: Offset, offset: Offset) -> Result<u32> {
    u32::try_from(offset - base).ok().filter(|&r| i32::try_from(r).is_ok()).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("offset does not fit into the segment that begins at {base}"))
            .offset(offset)
    })
}

fn corrupt(index: &'static str, entry: usize, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{index} index, entry {entry}: {what}"))
}

fn length_error(index: &'static str, len: usize, entry_len: usize) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("{index} index of {len} bytes is not a whole number of {entry_len}-byte entries"),
    )
}

#[cfg(test)]
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

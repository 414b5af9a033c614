//! Records and record batches v2, to and from bytes: what a producer sends, what a file holds, what a
//! consumer reads. Compression and control batches included.
//!
//! Not here: files, offsets' assignment, what a transaction means. Invariants: a [`RecordBatch`] has
//! passed its structure and CRC checks; iterating over records allocates nothing; decompression stops
//! at its output limit.

mod batch;
mod builder;
mod codec;
mod control;
mod decoded;
mod header;
mod layout;
mod pool;
mod producing;
mod validate;

pub use batch::RecordBatch;
pub use builder::BatchBuilder;
pub use codec::{Codec, Compression};
pub use control::{ControlType, EndMarker, TxnOutcome};
pub use decoded::{DecodedBatch, Headers, RecordIter, RecordRef};
pub use header::{BatchHeader, TimestampType};
pub use pool::BatchPool;
pub use producing::{Header, IntoPayload, Record};

pub(crate) use batch::validate_crc;
#[cfg(any(test, feature = "testing"))]
pub(crate) use codec::{compress, decompress};
pub(crate) use decoded::RecordPlace;
pub(crate) use validate::{BatchFacts, validate_produced};

#[cfg(test)]
mod tests;

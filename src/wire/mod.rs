//! Pure bytes: what Kafka's records and messages are made of. Big-endian integers, zig-zag varints,
//! nullable and compact fields, tagged fields (KIP-482), and the CRC-32C that guards them.
//!
//! Not here: what any field means. Invariants: a [`Reader`] never reads past its slice and never
//! allocates because of a number that it read; a [`Writer`] never cuts a value to fit its field.

mod reader;
pub(crate) mod varint;
mod writer;

pub(crate) use reader::Reader;
pub(crate) use writer::Writer;

/// CRC-32C (Castagnoli), as record batches, producer snapshots and seals carry it.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

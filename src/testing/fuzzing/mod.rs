//! What the fuzz targets run, so that their corpus is replayed by plain `cargo test` too. A format that is new gets a
//! line in the table, and a folder of inputs to start from.

#![allow(clippy::missing_panics_doc, reason = "panicking is how a check fails")]

mod directories;
mod files;
mod records;

use crate::record::Codec;

pub use records::read_fields;

/// More than any input of a fuzz target needs to inflate to.
const FUZZ_LIMIT: usize = 1 << 20;

/// A fuzz target: its name, and what it does with an input.
type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("batch", records::batch),
    ("gzip", |data| records::codec(Codec::Gzip, data)),
    ("snappy", |data| records::codec(Codec::Snappy, data)),
    ("lz4", |data| records::codec(Codec::Lz4, data)),
    ("zstd", |data| records::codec(Codec::Zstd, data)),
    ("wire", records::wire),
    ("offset_index", files::offset_index),
    ("time_index", files::time_index),
    ("transaction_index", files::transaction_index),
    ("seal", files::seal),
    ("producers", files::producers),
    ("checkpoint", files::checkpoint),
    ("properties", files::properties),
    ("state", files::state),
    ("group", files::group),
    ("metadata", files::metadata),
    ("catalog", directories::catalog),
    ("notes", directories::notes),
    ("segment", directories::segment),
    ("log_directory", directories::log_directory),
    ("directory", directories::directory),
];

/// The names of the fuzz targets, as [`fuzz`] takes them.
pub fn fuzz_targets() -> impl Iterator<Item = &'static str> {
    TARGETS.iter().map(|(name, _)| *name)
}

/// Runs the fuzz target of this name.
pub fn fuzz(target: &str, data: &[u8]) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).expect("the name of a target");
    run(data);
}

/// The bytes that `hex` spells; spaces and line breaks between digits are passed over.
pub fn from_hex(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("two digits make a byte")).collect()
}

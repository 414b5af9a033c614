//! The five codecs of a records section and their levels.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// How a batch's records are compressed (`compression.type`). All are always named and recognised; a codec
/// whose cargo feature is off answers [`ErrorKind::Unsupported`] when it is chosen or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Not compressed.
    #[default]
    None,
    /// Gzip, feature `gzip`.
    Gzip,
    /// Snappy in xerial's framing, feature `snappy`.
    Snappy,
    /// LZ4 frames, feature `lz4`.
    Lz4,
    /// Zstandard, feature `zstd`. The one codec that needs a C compiler.
    Zstd,
}

impl Codec {
    pub(super) const fn from_bits(bits: i16) -> Option<Self> {
        Some(match bits {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }

    pub(super) const fn bits(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// Fails for one whose cargo feature is off.
    pub(crate) fn check_built_in(self) -> Result<()> {
        let is_built_in = match self {
            Self::None => true,
            Self::Gzip => cfg!(feature = "gzip"),
            Self::Snappy => cfg!(feature = "snappy"),
            Self::Lz4 => cfg!(feature = "lz4"),
            Self::Zstd => cfg!(feature = "zstd"),
        };
        if is_built_in { Ok(()) } else { Err(feature_off(self)) }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Reads Kafka's names, `none` of producers and `uncompressed` of topics alike.
impl FromStr for Codec {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "none" | "uncompressed" => Self::None,
            "gzip" => Self::Gzip,
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4,
            "zstd" => Self::Zstd,
            _ => {
                return Err(Error::new(ErrorKind::InvalidConfig, format!("{name:?} is not a compression type"))
                    .remedy("use none, gzip, snappy, lz4 or zstd"));
            }
        })
    }
}

/// A codec and its level (`compression.type`, `compression.gzip.level` and so on).
///
/// | codec | levels | default |
/// |---|---|---|
/// | gzip | 1 to 9, or -1 for the default | 6 |
/// | lz4 | 1 to 17 | 9, which stands for the fast compressor |
/// | zstd | -131072 to 22 | 3 |
///
/// ```
/// use thalweg::{Codec, Compression};
/// let small = Compression::zstd().level(9)?;
/// assert_eq!(small.codec(), Codec::Zstd);
/// assert!(Compression::gzip().level(10).is_err());
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Compression {
    codec: Codec,
    level: Option<i32>,
}

impl Compression {
    /// No compression.
    pub const NONE: Self = Self::of(Codec::None);

    const fn of(codec: Codec) -> Self {
        Self { codec, level: None }
    }

    /// Gzip at its default level.
    #[must_use]
    pub const fn gzip() -> Self {
        Self::of(Codec::Gzip)
    }

    /// Snappy, which has no levels.
    #[must_use]
    pub const fn snappy() -> Self {
        Self::of(Codec::Snappy)
    }

    /// LZ4 with the fast compressor.
    #[must_use]
    pub const fn lz4() -> Self {
        Self::of(Codec::Lz4)
    }

    /// Zstandard at its default level.
    #[must_use]
    pub const fn zstd() -> Self {
        Self::of(Codec::Zstd)
    }

    /// Chooses the level. For lz4 every level that Kafka knows is accepted, so that its configurations can be
    /// used; all of them write with the fast compressor, which is what Kafka's default of 9 means.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] outside Kafka's range for the codec, and for codecs without levels.
    pub fn level(mut self, level: i32) -> Result<Self> {
        let (allowed, range) = match self.codec {
            Codec::Gzip => (level == -1 || (1..=9).contains(&level), "1 to 9, or -1 for the default"),
            Codec::Lz4 => ((1..=17).contains(&level), "1 to 17"),
            Codec::Zstd => ((-131_072..=22).contains(&level), "-131072 to 22"),
            Codec::None | Codec::Snappy => (false, "none: this codec has no levels"),
        };
        if !allowed {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("{level} is not a compression level of {}", self.codec),
            )
            .remedy(format!("levels are {range}")));
        }
        self.level = Some(level);
        Ok(self)
    }

    /// The codec.
    #[must_use]
    pub const fn codec(self) -> Codec {
        self.codec
    }

    /// The level that was chosen, if one was.
    pub(crate) const fn chosen_level(self) -> Option<i32> {
        self.level
    }
}

/// The codec at its default level.
impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        Self::of(codec)
    }
}

/// Appends `records` to `out`, compressed.
pub(crate) fn compress(compression: Compression, records: &[u8], out: &mut Vec<u8>) -> Result<()> {
    match compression.codec {
        Codec::None => {
            out.extend_from_slice(records);
            Ok(())
        }
        #[cfg(feature = "gzip")]
        Codec::Gzip => gzip::compress(records, compression.level, out),
        #[cfg(feature = "snappy")]
        Codec::Snappy => snappy::compress(records, out),
        #[cfg(feature = "lz4")]
        Codec::Lz4 => lz4::compress(records, out),
        #[cfg(feature = "zstd")]
        Codec::Zstd => zstd::compress(records, compression.level, out),
        #[allow(unreachable_patterns, reason = "reached when a feature is off")]
        codec => Err(feature_off(codec)),
    }
}

/// The records that `section` holds, at most `limit` bytes of them.
///
/// Every codec allocates its output once, for the least of the limit, what the compressed bytes can
/// hold at most, and what they announce. A lie costs an error, not memory.
pub(crate) fn decompress(codec: Codec, section: &[u8], limit: usize) -> Result<Vec<u8>> {
    let mut records = match codec {
        Codec::None => {
            let fits = section.get(..limit.min(section.len())).filter(|s| s.len() == section.len());
            fits.map(<[u8]>::to_vec).ok_or_else(|| over_limit(codec, limit))
        }
        #[cfg(feature = "gzip")]
        Codec::Gzip => gzip::decompress(section, limit),
        #[cfg(feature = "snappy")]
        Codec::Snappy => snappy::decompress(section, limit),
        #[cfg(feature = "lz4")]
        Codec::Lz4 => lz4::decompress(section, limit),
        #[cfg(feature = "zstd")]
        Codec::Zstd => zstd::decompress(section, limit),
        #[allow(unreachable_patterns, reason = "reached when a feature is off")]
        codec => Err(feature_off(codec)),
    }?;
    // The records may be kept for long; room that an upper bound left unused should not be.
    if records.capacity() / 2 > records.len() {
        records.shrink_to_fit();
    }
    Ok(records)
}

#[cold]
fn feature_off(codec: Codec) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{codec} compression is not built in"))
        .remedy(format!("build thalweg with its cargo feature \"{codec}\""))
}

#[cold]
fn over_limit(codec: Codec, limit: usize) -> Error {
    Error::new(ErrorKind::TooLarge, format!("{codec} records inflate to more than the {limit} bytes allowed"))
}

#[cold]
#[allow(dead_code, reason = "unused when every feature is off")]
fn damaged(codec: Codec, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{codec} records are damaged: {why}"))
}

/// A number of up to eight bytes as lz4, zstd and gzip store them: lowest byte first.
#[allow(dead_code, reason = "unused when every feature is off")]
fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| (number << 8) | u64::from(byte))
}

#[cfg(test)]
mod tests;

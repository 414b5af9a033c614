//! The five codecs of a records section and their levels.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// How a batch's records are compressed (`compression.type`). All are always named and recognised; a codec
/// whose cargo feature is off answers [`ErrorKind::Unsupported`] when it is used.
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
pub(super) fn compress(compression: Compression, records: &[u8], out: &mut Vec<u8>) -> Result<()> {
    match compression.codec {
        Codec::None => {
            out.extend_from_slice(records);
            Ok(())
        }
        codec => Err(feature_off(codec)),
    }
}

/// The records that `section` holds, at most `limit` bytes of them.
pub(super) fn decompress(codec: Codec, _section: &[u8], _limit: usize) -> Result<Vec<u8>> {
    Err(feature_off(codec))
}

#[cold]
fn feature_off(codec: Codec) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{codec} compression is not built in"))
        .remedy(format!("build thalweg with its cargo feature \"{codec}\""))
}

//! File names of a partition directory, as Kafka spells them: a base offset of 20 digits and a suffix.

use std::path::{Path, PathBuf};

use crate::types::Offset;

/// The files that belong to one base offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FileKind {
    /// The record batches.
    Log,
    /// Offset -> position.
    OffsetIndex,
    /// Time -> offset.
    TimeIndex,
    /// Aborted transactions.
    TxnIndex,
    /// Producer state as of the offset in the name.
    Snapshot,
    /// Our own account of a segment that ended.
    Seal,
}

impl FileKind {
    /// The seal first: a segment of which it stayed behind would seem to be missing.
    pub(crate) const ALL: [Self; 6] =
        [Self::Seal, Self::Log, Self::OffsetIndex, Self::TimeIndex, Self::TxnIndex, Self::Snapshot];

    fn suffix(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::OffsetIndex => "index",
            Self::TimeIndex => "timeindex",
            Self::TxnIndex => "txnindex",
            Self::Snapshot => "snapshot",
            Self::Seal => "seal",
        }
    }

    /// `<dir>/<20 digits>.<suffix>`.
    pub(crate) fn path(self, dir: &Path, base: Offset) -> PathBuf {
        dir.join(format!("{:020}.{}", base.get(), self.suffix()))
    }

    /// Reads a name back; `None` for every other name.
    pub(crate) fn parse(name: &str) -> Option<(Self, Offset)> {
        let (stem, suffix) = name.split_once('.')?;
        let kind = Self::ALL.into_iter().find(|k| k.suffix() == suffix)?;
        if stem.len() != 20 || !stem.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some((kind, Offset::new(stem.parse().ok()?)))
    }
}

/// Whether a file of a partition's directory is a seal.
pub(crate) fn is_seal(name: &str) -> bool {
    FileKind::parse(name).is_some_and(|(kind, _)| kind == FileKind::Seal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_strangers_are_refused() {
        for kind in FileKind::ALL {
            let path = kind.path(Path::new("t-0"), Offset::new(1234));
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(FileKind::parse(name), Some((kind, Offset::new(1234))));
        }
        assert_eq!(
            FileKind::TimeIndex.path(Path::new("t-0"), Offset::ZERO).to_str(),
            Some("t-0/00000000000000000000.timeindex")
        );
        for stranger in ["1.log", "00000000000000000000.log.deleted", "99999999999999999999.log", "x.log", ""] {
            assert_eq!(FileKind::parse(stranger), None, "{stranger}");
        }
    }
}

//! What is wrong with the batches of a segment: places that hold no sound batch, and batches whose header
//! contradicts its neighbours in fields that the checksum does not cover (base offset, length, magic).
//!
//! The verdict on a base offset rests on continuity. A batch stands where its predecessor ended; offsets are
//! missing between two batches only where a cleaner removed some. A batch that claims another place, while the
//! place after its predecessor fits it exactly, stands there: unless it is a copy of a batch near by.

use std::fmt;
use std::ops::Range;

use crate::record::BatchHeader;
use crate::types::{LeaderEpoch, Offset};

use super::walk::Found;

/// Flaws of one segment that are kept apart; what lies behind the last counts as one.
pub(super) const FLAWS_MAX: usize = 1 << 16;

/// The bytes of a batch header that the checksum does not cover, but for the checksum itself.
pub(crate) type Prefix = [u8; BatchHeader::MAGIC_AT + 1];

/// One place of a segment's file where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub(crate) positions: Range<u64>,
    /// The first offset concerned.
    pub(crate) from: Offset,
    /// The offset behind; `None` where the file ends and nothing tells how many offsets were there.
    pub(crate) to: Option<Offset>,
    pub(crate) kind: FlawKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlawKind {
    /// No sound batch.
    Damaged(&'static str),
    /// Messages of format 0 or 1.
    Legacy(u8),
    /// A sound batch, once its header begins with these bytes.
    Corrected(Prefix),
}

impl FlawKind {
    pub(crate) fn is_unreadable(self) -> bool {
        !matches!(self, Self::Corrected(_))
    }
}

impl fmt::Display for FlawKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(why) => write!(f, "a damaged place is left as it is: {why}"),
            Self::Legacy(magic) => write!(f, "messages of format {magic}, from before Kafka 0.11, are not read"),
            Self::Corrected(_) => f.write_str("a batch header that contradicts its neighbours is served corrected"),
        }
    }
}

/// All that a walk over a whole segment found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    /// In order of position, and nowhere overlapping.
    flaws: Vec<Flaw>,
    /// The position up to which the walk went.
    pub(crate) len: u64,
    /// The end of the last sound batch, and its leader epoch.
    pub(crate) end: Offset,
    pub(crate) epoch: LeaderEpoch,
    /// A cleaner was here: offsets are missing between or inside of batches.
    pub(crate) cleaned: bool,
}

impl Survey {
    pub(crate) fn new(base: Offset, len: u64) -> Self {
        Self { flaws: Vec::new(), len, end: base, epoch: LeaderEpoch::new(-1), cleaned: false }
    }

    /// Takes in what a walk came by.
    pub(crate) fn note(&mut self, found: &Found<'_>) {
        match *found {
            Found::Batch(_, header, _) => {
                let count = i64::from(header.last_offset_delta()) + 1;
                let follows_flaw =
                    self.flaws.last().is_some_and(|flaw| flaw.kind.is_unreadable() && flaw.from >= self.end);
                self.cleaned |=
                    i64::from(header.record_count()) != count || (header.base_offset() > self.end && !follows_flaw);
                (self.end, self.epoch) = (header.next_offset(), header.leader_epoch());
            }
            Found::Flaw(flaw) => self.add(flaw.clone()),
        }
    }

    /// Whether the same batches are served by it, whatever the words for the rest.
    pub(super) fn serves_like(&self, other: &Self) -> bool {
        let place = |flaw: &Flaw| match flaw.kind {
            FlawKind::Corrected(prefix) => (flaw.positions.clone(), flaw.from, Some(prefix)),
            _ => (flaw.positions.clone(), flaw.from, None),
        };
        self.end == other.end && self.flaws.iter().map(place).eq(other.flaws.iter().map(place))
    }

    /// Says that the segment was cut to `len` bytes, behind the last batch.
    pub(crate) fn cut(&mut self, len: u64) {
        self.len = len;
    }

    pub(super) fn add(&mut self, flaw: Flaw) {
        let full = self.flaws.len() >= FLAWS_MAX;
        match self.flaws.last_mut() {
            Some(last) if full => {
                (last.positions.end, last.to) = (flaw.positions.end, flaw.to);
                last.kind = FlawKind::Damaged("too many flaws to tell apart");
            }
            _ => self.flaws.push(flaw),
        }
    }

    /// Nothing counts but `flaw`.
    pub(super) fn replace_all(&mut self, flaw: Flaw) {
        self.flaws = vec![flaw];
    }

    pub(crate) fn flaws(&self) -> &[Flaw] {
        &self.flaws
    }

    /// The flaw that begins at `position` or around it.
    pub(super) fn flaw_at(&self, position: u64) -> Option<&Flaw> {
        let at = self.flaws.partition_point(|flaw| flaw.positions.end <= position);
        self.flaws.get(at).filter(|flaw| flaw.positions.start <= position)
    }
}

/// Where a batch stands, by its header and its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Where its header says.
    AsIs,
    /// Right behind its predecessor, whatever its header says.
    AtExpected,
    /// Nowhere with certainty.
    Wrong,
}

/// What follows a batch in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Successor {
    /// A batch with this base offset.
    At(i64),
    /// The next segment, with this base offset: the log may have gone on there above offsets that were left out.
    Segment(i64),
    /// Something unreadable.
    Unknown,
    /// Nothing: it is the last of a log that ends here, as far as is known.
    End(Option<i64>),
}

/// Judges a sound batch of `count` offsets that claims `base` where `expected` is the end of its predecessor.
/// `gap_is_legal` where offsets may be missing before it.
pub(super) fn judge(base: i64, count: i64, expected: i64, successor: Successor, gap_is_legal: bool) -> Verdict {
    let (fits_at, claims_to) = (expected.saturating_add(count), base.saturating_add(count));
    match successor {
        Successor::At(next) | Successor::Segment(next) if next == fits_at => Verdict::AtExpected,
        Successor::At(next) | Successor::Segment(next) if base >= expected && claims_to <= next => Verdict::AsIs,
        Successor::End(Some(end)) if end == fits_at => Verdict::AtExpected,
        // A leader left offsets out, and the log is known to go on above them.
        Successor::End(Some(end)) if base >= expected && claims_to <= end => Verdict::AsIs,
        Successor::Unknown | Successor::End(_) if base >= expected && gap_is_legal => Verdict::AsIs,
        Successor::Segment(next) if fits_at > next || gap_is_legal => Verdict::Wrong,
        // Below could be a copy of an earlier batch.
        Successor::End(_) | Successor::Segment(_) if base > expected || base < 0 => Verdict::AtExpected,
        _ => Verdict::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_offset_is_judged_by_both_neighbours() {
        use Successor::{At, End, Segment, Unknown};
        use Verdict::{AsIs, AtExpected, Wrong};
        // A batch of five offsets behind one that ended at 100.
        for (base, successor, compacted, verdict) in [
            (110, At(105), false, AtExpected),
            (90, At(105), false, AtExpected),
            (110, At(115), false, AsIs),
            (110, At(120), true, AsIs),
            (110, At(112), true, Wrong),
            (90, At(110), true, Wrong),
            (110, Segment(105), false, AtExpected),
            (110, Segment(115), false, AsIs),
            (110, Segment(112), false, AtExpected),
            (-90, Segment(112), false, AtExpected),
            (110, Segment(112), true, Wrong),
            (110, Segment(104), false, Wrong),
            (90, Segment(112), false, Wrong),
            (110, End(None), false, AtExpected),
            (110, End(None), true, AsIs),
            (110, End(Some(105)), true, AtExpected),
            (90, End(Some(105)), true, AtExpected),
            (90, End(Some(106)), false, Wrong),
            (110, End(Some(115)), false, AsIs),
            (110, End(Some(114)), false, AtExpected),
            (90, End(None), false, Wrong),
            (-90, End(None), false, AtExpected),
            (110, Unknown, false, Wrong),
            (110, Unknown, true, AsIs),
            (i64::MAX - 5, At(105), false, AtExpected),
            (i64::MIN, At(105), false, AtExpected),
        ] {
            assert_eq!(judge(base, 5, 100, successor, compacted), verdict, "{base} {successor:?} {compacted}");
        }
    }
}

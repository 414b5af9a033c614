//! Which leader epoch began at which offset (KIP-101), for fencing and for telling readers where a
//! log was cut. Kept as `leader-epoch-checkpoint` by the log; can be rebuilt from its batches.
//!
//! Invariant: epochs and start offsets both strictly increase.

use super::checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{LeaderEpoch, Offset};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EpochCache {
    entries: Vec<(LeaderEpoch, Offset)>,
}

impl EpochCache {
    /// Reads the bytes of `leader-epoch-checkpoint`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let entries = checkpoint::decode_epochs(bytes)?;
        if let Some(at) = entries.windows(2).position(|pair| pair[0].0 >= pair[1].0 || pair[0].1 >= pair[1].1) {
            return Err(Error::new(ErrorKind::Corrupt, format!("line {}: leader epochs do not rise", at + 4)));
        }
        Ok(Self { entries })
    }

    /// The text of `leader-epoch-checkpoint`.
    pub(crate) fn encode(&self) -> String {
        checkpoint::encode_epochs(&self.entries)
    }

    /// Notes that `epoch` writes from `start` on, which takes back whatever contradicts it. Says whether
    /// anything changed; if so, the checkpoint must be durable before the epoch's first batch is
    /// acknowledged. The unknown epoch, -1, is never noted.
    pub(crate) fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        let known = self.entries.last().is_some_and(|last| last.0 == epoch && last.1 <= start);
        if epoch < LeaderEpoch::new(0) || known {
            return false;
        }
        self.pop_while(|entry| entry.0 >= epoch || entry.1 >= start);
        self.entries.push((epoch, start));
        true
    }

    /// Follows a cut of the log's end: epochs that began at or after `end` are gone.
    pub(crate) fn truncate_from_end(&mut self, end: Offset) -> bool {
        self.pop_while(|entry| entry.1 >= end)
    }

    /// Follows an advance of the log start: the epoch in force at `start` now begins there.
    pub(crate) fn truncate_from_start(&mut self, start: Offset) -> bool {
        let at_or_below = self.entries.partition_point(|entry| entry.1 <= start);
        let Some(in_force) = at_or_below.checked_sub(1) else { return false };
        if in_force == 0 && self.entries[0].1 == start {
            return false;
        }
        self.entries.drain(..in_force);
        self.entries[0].1 = start;
        true
    }

    /// Whether an epoch begins beyond `end`. One may begin at it: a leader that wrote nothing.
    pub(crate) fn passes(&self, end: Offset) -> bool {
        self.entries.last().is_some_and(|entry| entry.1 > end)
    }

    /// Whether a batch of `epoch` may stand at `offset`. Nothing is known of batches without an epoch and of those
    /// before the first entry.
    pub(crate) fn allows(&self, epoch: LeaderEpoch, offset: Offset) -> bool {
        let begun = self.entries.partition_point(|entry| entry.1 <= offset);
        epoch < LeaderEpoch::new(0)
            || match begun.checked_sub(1) {
                Some(in_force) => self.entries[in_force].0 == epoch,
                None => !self.entries.is_empty(),
            }
    }

    /// The newest epoch.
    pub(crate) fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|entry| entry.0)
    }

    /// The epoch in force at `offset`, and where it began; `None` below the first.
    pub(crate) fn in_force_at(&self, offset: Offset) -> Option<(LeaderEpoch, Offset)> {
        let at = self.entries.partition_point(|entry| entry.1 <= offset).checked_sub(1)?;
        self.entries.get(at).copied()
    }

    /// Where the first epoch after this one began.
    pub(crate) fn start_after(&self, epoch: LeaderEpoch) -> Option<Offset> {
        self.entries.get(self.entries.partition_point(|entry| entry.0 <= epoch)).map(|entry| entry.1)
    }

    /// Where the oldest epoch began that is known.
    pub(crate) fn start(&self) -> Option<Offset> {
        self.entries.first().map(|entry| entry.1)
    }

    /// Where `requested`, or else the largest epoch below it, ended: the answer to OffsetForLeaderEpoch
    /// of a log that ends at `log_end`. `None` when nothing is known of it.
    pub(crate) fn end_offset_for(&self, requested: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        let latest = self.latest()?;
        if requested < LeaderEpoch::new(0) || requested > latest {
            return None;
        }
        if requested == latest {
            return Some((requested, log_end));
        }
        let higher = self.entries.partition_point(|entry| entry.0 <= requested);
        let epoch = higher.checked_sub(1).map_or(requested, |at| self.entries[at].0);
        Some((epoch, self.entries[higher].1))
    }

    fn pop_while(&mut self, gone: impl Fn(&(LeaderEpoch, Offset)) -> bool) -> bool {
        let before = self.entries.len();
        while self.entries.pop_if(|entry| gone(entry)).is_some() {}
        self.entries.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(text: &str) -> EpochCache {
        EpochCache::decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn batches_rebuild_the_checkpoint() {
        let mut cache = EpochCache::default();
        let changed = [(-1, 0), (0, 0), (0, 4), (1, 8), (1, 12), (2, 16), (2, 20)]
            .map(|(epoch, start)| cache.assign(LeaderEpoch::new(epoch), Offset::new(start)));
        assert_eq!(changed, [false, true, false, true, false, true, false]);
        assert_eq!(cache.encode(), "0\n3\n0 0\n1 8\n2 16\n");
        assert_eq!(EpochCache::decode(cache.encode().as_bytes()).unwrap(), cache);
    }

    #[test]
    fn an_assignment_takes_back_what_contradicts_it() {
        let assigned = |epoch, start| {
            let mut cache = cache("0\n3\n1 0\n3 10\n5 20\n");
            assert!(cache.assign(LeaderEpoch::new(epoch), Offset::new(start)));
            cache.encode()
        };
        assert_eq!(assigned(5, 15), "0\n3\n1 0\n3 10\n5 15\n", "same epoch, earlier start");
        assert_eq!(assigned(6, 20), "0\n3\n1 0\n3 10\n6 20\n", "an epoch without records leaves no trace");
        assert_eq!(assigned(4, 30), "0\n3\n1 0\n3 10\n4 30\n");
        assert_eq!(assigned(2, 5), "0\n2\n1 0\n2 5\n");
    }

    #[test]
    fn truncation_follows_both_ends_of_the_log() {
        let text = "0\n3\n1 0\n3 10\n5 20\n";
        for (end, expected) in [(21, text), (20, "0\n2\n1 0\n3 10\n"), (5, "0\n1\n1 0\n"), (0, "0\n0\n")] {
            let mut cache = cache(text);
            assert_eq!(cache.truncate_from_end(Offset::new(end)), expected != text);
            assert_eq!(cache.encode(), expected, "end {end}");
        }
        for (start, expected) in [
            (0, text),
            (5, "0\n3\n1 5\n3 10\n5 20\n"),
            (10, "0\n2\n3 10\n5 20\n"),
            (15, "0\n2\n3 15\n5 20\n"),
            (99, "0\n1\n5 99\n"),
        ] {
            let mut cache = cache(text);
            assert_eq!(cache.truncate_from_start(Offset::new(start)), expected != text);
            assert_eq!(cache.encode(), expected, "start {start}");
        }
        assert!(!cache("0\n1\n1 10\n").truncate_from_start(Offset::new(5)));
    }

    #[test]
    fn an_epoch_ends_where_the_next_begins() {
        let cache = cache("0\n3\n1 5\n3 10\n5 20\n");
        let end = |epoch| {
            let end = cache.end_offset_for(LeaderEpoch::new(epoch), Offset::new(25));
            end.map(|(epoch, offset)| (epoch.get(), offset.get()))
        };
        assert_eq!(end(-1), None);
        assert_eq!(end(0), Some((0, 5)), "below the first: where the first begins");
        assert_eq!(end(1), Some((1, 10)));
        assert_eq!(end(2), Some((1, 10)));
        assert_eq!(end(4), Some((3, 20)));
        assert_eq!(end(5), Some((5, 25)));
        assert_eq!(end(6), None);
        assert_eq!(EpochCache::default().end_offset_for(LeaderEpoch::new(0), Offset::ZERO), None);
    }

    #[test]
    fn epochs_that_do_not_rise_are_corrupt() {
        for text in ["0\n2\n1 0\n1 10\n", "0\n2\n1 10\n2 10\n", "0\n2\n2 0\n1 10\n"] {
            let error = EpochCache::decode(text.as_bytes()).unwrap_err();
            assert!(error.kind() == ErrorKind::Corrupt && error.to_string().starts_with("line 4"), "{error}");
        }
    }
}

//! Which partition a record goes to: Kafka's rules, so that keys land where every Java client puts
//! them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::types::PartitionId;

/// Chooses a record's partition (`partitioner.class`). Asked for records that name none themselves.
///
/// ```
/// use thalweg::{Broker, PartitionId, Partitioner, Record};
///
/// #[derive(Debug)]
/// struct Shouting;
///
/// impl Partitioner for Shouting {
///     fn partition(&self, _topic: &str, record: &Record, _partitions: u32) -> PartitionId {
///         let loud = record.value_bytes().is_some_and(|v| v.ends_with(b"!"));
///         PartitionId::new(i32::from(loud))
///     }
/// }
///
/// let broker = Broker::in_memory()?;
/// let words = broker.topic("words").partitions(2).create()?;
/// let producer = broker.producer().partitioner(Shouting).build()?;
/// assert_eq!(producer.send(&words, "quiet")?.partition, 0);
/// assert_eq!(producer.send(&words, "loud!")?.partition, 1);
/// # Ok::<(), thalweg::Error>(())
/// ```
pub trait Partitioner: Send + Sync + fmt::Debug {
    /// A number from 0 up to, not including, `partitions`; another one fails the record.
    fn partition(&self, topic: &str, record: &Record, partitions: u32) -> PartitionId;
}

/// How a producer places records that do not name their partition.
#[derive(Clone, Debug, Default)]
pub(super) enum Placement {
    /// By the hash of the key; without a key, one partition for a batch's worth of bytes (KIP-794).
    #[default]
    KeyOrSticky,
    /// One partition after the other, whatever the key.
    RoundRobin,
    Custom(Arc<dyn Partitioner>),
}

/// The partition that Kafka's clients give a key in a topic of `partitions`: murmur2, made positive,
/// modulo the count. The empty key is a key as any other.
///
/// ```
/// use thalweg::partition_for_key;
/// assert_eq!(partition_for_key(b"user-1", 1), 0);
/// ```
#[must_use]
pub fn partition_for_key(key: &[u8], partitions: u32) -> PartitionId {
    let positive = murmur2::murmur2(key, murmur2::KAFKA_SEED) & 0x7fff_ffff;
    // Both are below 2^31, so the remainder is.
    PartitionId::new(i32::try_from(positive % partitions.max(1)).unwrap_or(0))
}

/// The state of the keyless: one partition at a time, another one after a batch's worth of bytes.
#[derive(Debug)]
pub(super) struct Sticky {
    seed: u64,
    turn: AtomicU64,
    bytes: AtomicU64,
}

impl Sticky {
    pub(super) const fn new(seed: u64) -> Self {
        Self { seed, turn: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    pub(super) fn current(&self, partitions: u32) -> PartitionId {
        let mixed = mix(self.seed.wrapping_add(self.turn.load(Ordering::Relaxed)));
        PartitionId::new(i32::try_from(mixed % u64::from(partitions.max(1))).unwrap_or(0))
    }

    /// Counts a record of about `bytes` and moves on when a batch's worth went to the partition: with a batch that is
    /// complete, else at twice that (KIP-794). Batches that go early, because somebody waits, are no reason to.
    pub(super) fn count(&self, bytes: usize, batch_bytes: usize, is_complete: bool) {
        let (bytes, batch_bytes) = (bytes as u64, batch_bytes as u64);
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if (is_complete && total >= batch_bytes) || total >= batch_bytes * 2 {
            self.bytes.store(0, Ordering::Relaxed);
            self.turn.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Spreads consecutive numbers evenly (the finalizer of SplitMix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Checks a partition that came from outside against the number there are.
pub(super) fn checked(partition: PartitionId, partitions: usize, topic: &str) -> Result<usize> {
    usize::try_from(partition.get()).ok().filter(|&at| at < partitions).ok_or_else(|| {
        let message = format!("a record for partition {partition} of topic {topic:?}, which has {partitions}");
        Error::new(ErrorKind::UnknownTopicOrPartition, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes of the Java client, facts L.1.
    #[test]
    fn keys_land_where_java_puts_them() {
        let hash = |key: &str| murmur2::murmur2(key.as_bytes(), murmur2::KAFKA_SEED).cast_signed();
        for (key, expected) in [
            ("", 275_646_681),
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ] {
            assert_eq!(hash(key), expected, "{key:?}");
            let positive = expected & 0x7fff_ffff;
            assert_eq!(partition_for_key(key.as_bytes(), 10), positive % 10, "{key:?}");
        }
    }

    #[test]
    fn the_keyless_stick_for_a_batch_and_spread_over_all() {
        let sticky = Sticky::new(7);
        let mut seen = [0; 4];
        for _ in 0..400 {
            let at = sticky.current(4);
            for _ in 0..9 {
                sticky.count(100, 1000, false);
                assert_eq!(sticky.current(4), at);
            }
            sticky.count(100, 1000, true);
            seen[usize::try_from(at.get()).unwrap()] += 1;
        }
        assert!(seen.iter().all(|&n| n > 60), "{seen:?}");
    }
}

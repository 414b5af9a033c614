//! What a log needs to know about itself: sizes, times, limits. Plain values; where they come from
//! (topic, broker, default) is not this module's business.

use std::time::Duration;

use crate::record::TimestampType;
use crate::types::{Durability, ReadMode, RecoveryPolicy, Verify};

/// Settings of one [`Log`](crate::Log), with Kafka's defaults where nothing else is said.
///
/// ```
/// use thalweg::{Durability, LogConfig};
/// let config = LogConfig::default().segment_bytes(16 << 20).durability(Durability::ProcessCrash);
/// # let _ = config;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    pub(crate) segment_bytes: u32,
    pub(crate) segment_age: Duration,
    pub(crate) segment_jitter: Duration,
    pub(crate) index_interval_bytes: u32,
    pub(crate) segment_index_bytes: u32,
    pub(crate) max_message_bytes: u32,
    pub(crate) timestamp_type: TimestampType,
    pub(crate) timestamp_before_max: Option<Duration>,
    pub(crate) timestamp_after_max: Option<Duration>,
    pub(crate) durability: Durability,
    pub(crate) commit_gather: Duration,
    pub(crate) max_unsynced_bytes: u32,
    /// Records need keys, and offsets may be missing.
    pub(crate) compacted: bool,
    pub(crate) producer_id_expiration: Duration,
    pub(crate) recovery_note_bytes: u32,
    pub(crate) read_mode: ReadMode,
    pub(crate) verify: Verify,
    pub(crate) recovery_policy: RecoveryPolicy,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_age: Duration::from_secs(7 * 24 * 3600),
            segment_jitter: Duration::ZERO,
            index_interval_bytes: 4096,
            segment_index_bytes: 10 << 20,
            max_message_bytes: 1_048_588,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max: None,
            timestamp_after_max: None,
            durability: Durability::PowerLoss,
            commit_gather: Duration::from_micros(60),
            max_unsynced_bytes: 16 << 20,
            compacted: false,
            producer_id_expiration: Duration::from_secs(24 * 3600),
            recovery_note_bytes: 32 << 20,
            read_mode: ReadMode::Copied,
            verify: Verify::EveryRead,
            recovery_policy: RecoveryPolicy::Degraded,
        }
    }
}

impl LogConfig {
    /// Largest size of one segment file in bytes (`segment.bytes`, default 1 GiB); a new segment
    /// starts rather than pass it.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u32) -> Self {
        self.segment_bytes = bytes.min(i32::MAX as u32);
        self
    }

    /// Largest span of record time in one segment (`segment.ms`, default 7 days).
    #[must_use]
    pub fn segment_age(mut self, age: Duration) -> Self {
        self.segment_age = age;
        self
    }

    /// Bytes of log between two index entries (`index.interval.bytes`, default 4096).
    #[must_use]
    pub fn index_interval_bytes(mut self, bytes: u32) -> Self {
        self.index_interval_bytes = bytes;
        self
    }

    /// Largest size of each index file in bytes (`segment.index.bytes`, default 10 MiB); a full index
    /// starts a new segment.
    #[must_use]
    pub fn segment_index_bytes(mut self, bytes: u32) -> Self {
        self.segment_index_bytes = bytes;
        self
    }

    /// Largest batch accepted, in bytes as stored (`max.message.bytes`, default 1 MiB + 12).
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: u32) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Whether records keep their producer's timestamps or get the time of the append
    /// (`message.timestamp.type`).
    #[must_use]
    pub fn timestamp_type(mut self, kind: TimestampType) -> Self {
        self.timestamp_type = kind;
        self
    }

    /// The level at which records become visible to readers, and at which appends are acknowledged
    /// unless they ask for another.
    #[must_use]
    pub fn durability(mut self, level: Durability) -> Self {
        self.durability = level;
        self
    }

    /// Bytes of log after which is noted, without a sync, how far the indexes and the producers are in their files
    /// (default 32 MiB; not one of Kafka's). Opening after the process was killed scans no more than about so much.
    #[must_use]
    pub fn recovery_note_bytes(mut self, bytes: u32) -> Self {
        self.recovery_note_bytes = bytes;
        self
    }

    /// How sealed segments are read, for as long as the log is open; see [`ReadMode`] for what mapping risks.
    #[must_use]
    pub fn read_mode(mut self, mode: ReadMode) -> Self {
        self.read_mode = mode;
        self
    }

    /// How often checksums are verified, for as long as the log is open; see [`Verify`] for what `Once` lets pass.
    #[must_use]
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// How long a thread that is about to sync for all waits for those who wrote with it before, so that one sync
    /// takes them, too (default 60 microseconds, about half of what a sync costs). A single writer never waits.
    #[must_use]
    pub fn commit_gather(mut self, limit: Duration) -> Self {
        self.commit_gather = limit;
        self
    }
    /// On a log that survives loss of power, the most bytes that are ever written and not synced (default 16 MiB),
    /// also where nobody waits for a sync. After a power cut, damage further from the end is known to be no unfinished
    /// write. A batch that is larger is synced before the next. Other logs keep to no limit.
    #[must_use]
    pub fn max_unsynced_bytes(mut self, bytes: u32) -> Self {
        self.max_unsynced_bytes = bytes;
        self
    }

    /// What opening the log does with damage, and reading for as long as it is open; see [`RecoveryPolicy`].
    #[must_use]
    pub fn recovery_policy(mut self, policy: RecoveryPolicy) -> Self {
        self.recovery_policy = policy;
        self
    }
}

//! The numbers and names that every floor shares, each its own type, so that an offset is never
//! mistaken for a partition or a time. No I/O and no logic beyond text forms.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::{Error, ErrorKind, Result};

/// Defines an enum of plain names together with the list of them: none can be forgotten.
macro_rules! all_of {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $each:ident,)+ }) => {
        $(#[$meta])*
        $vis enum $name {
            $($(#[$doc])* $each,)+
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: [Self; [$(Self::$each),+].len()] = [$(Self::$each),+];
        }
    };
}
pub(crate) use all_of;

/// Defines a transparent newtype over a signed integer that compares with, and converts from, it.
macro_rules! number {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($inner);

        impl $name {
            /// Wraps the raw number.
            #[must_use]
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }

            /// The raw number, as Kafka's formats carry it.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl From<$inner> for $name {
            fn from(raw: $inner) -> Self {
                Self(raw)
            }
        }

        impl PartialEq<$inner> for $name {
            fn eq(&self, raw: &$inner) -> bool {
                self.0 == *raw
            }
        }

        impl PartialOrd<$inner> for $name {
            fn partial_cmp(&self, raw: &$inner) -> Option<std::cmp::Ordering> {
                self.0.partial_cmp(raw)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A record's place in its partition: 0, 1, 2 and so on, assigned at append, never reused.
    ///
    /// ```
    /// use thalweg::Offset;
    /// let first = Offset::new(41);
    /// assert_eq!(first.next(), 42);
    /// assert_eq!(Offset::new(45) - first, 4);
    /// ```
    Offset(i64)
}

impl Offset {
    /// The offset of the first record that a partition ever holds.
    pub const ZERO: Self = Self(0);

    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::ops::Add<i64> for Offset {
    type Output = Self;

    fn add(self, count: i64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl std::ops::Sub for Offset {
    type Output = i64;

    fn sub(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

number! {
    /// The number of a partition within its topic, from 0.
    PartitionId(i32)
}

number! {
    /// Counts the leaders that a partition has had; every batch carries the epoch in which it was
    /// appended (KIP-101). `-1` in a foreign batch means "unknown".
    LeaderEpoch(i32)
}

number! {
    /// Identifies an idempotent or transactional producer in its batches; `-1` means none (KIP-98).
    ProducerId(i64)
}

impl ProducerId {
    /// A batch of no particular producer.
    pub const NONE: Self = Self(-1);
}

number! {
    /// Milliseconds since 1970-01-01T00:00:00Z. May be negative; `-1` is Kafka's "no timestamp".
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use thalweg::Timestamp;
    /// let t = Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(2));
    /// assert_eq!(t, 2000);
    /// ```
    Timestamp(i64)
}

impl Timestamp {
    /// Kafka's "no timestamp".
    pub const NONE: Self = Self(-1);

    /// This time plus `duration`, held at the largest value when it would pass it.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let clamp = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self(clamp(after)),
            Err(before) => Self(-clamp(before.duration())),
        }
    }
}

/// One partition of one topic, as `orders-3`.
///
/// ```
/// use thalweg::TopicPartition;
/// let tp = TopicPartition::new("orders", 3);
/// assert_eq!(tp.to_string(), "orders-3");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    topic: Arc<str>,
    partition: PartitionId,
}

impl TopicPartition {
    /// Names a partition; whether it exists is not checked here.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, partition: impl Into<PartitionId>) -> Self {
        Self { topic: topic.into(), partition: partition.into() }
    }

    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition's number.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A 128-bit id as Kafka writes it: 22 characters of base64url. Names topics, directories and
/// clusters (KIP-516).
///
/// ```
/// use thalweg::Uuid;
/// let id: Uuid = "5L6g3nShT-eMCtK--X86sw".parse()?;
/// assert_eq!(id.to_string(), "5L6g3nShT-eMCtK--X86sw");
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// The all-zero id: "none" in Kafka's formats.
    pub const ZERO: Self = Self([0; 16]);

    /// Wraps 16 big-endian bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 big-endian bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A random id that Kafka's own tools accept: none of the 100 reserved ones, and no text form
    /// that starts with `-`.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn random() -> Result<Self> {
        loop {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes)
                .map_err(|e| Error::new(ErrorKind::Io, "no randomness for a new id").source(std::io::Error::from(e)))?;
            // Version 4, variant 1, as java.util.UUID makes them.
            bytes[6] = (bytes[6] & 0x0f) | 0x40;
            bytes[8] = (bytes[8] & 0x3f) | 0x80;
            let id = Self(bytes);
            if !id.to_string().starts_with('-') {
                return Ok(id);
            }
        }
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uuid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let decoded = URL_SAFE_NO_PAD.decode(text).ok().and_then(|b| <[u8; 16]>::try_from(b).ok());
        decoded.map(Self).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, format!("{text:?} is not an id of 22 base64url characters"))
        })
    }
}

/// Which failure an acknowledged append survives.
///
/// | level | process killed | power lost | acknowledged after |
/// |---|---|---|---|
/// | `PowerLoss` | kept | kept | the data sync |
/// | `ProcessCrash` | kept | may be lost | the operating system holds the bytes |
/// | `None` | may be lost | may be lost | the bytes are accepted in memory |
///
/// The default is [`Durability::PowerLoss`]. A topic chooses between the first two
/// (`flush.messages=1` is `PowerLoss`); an append may choose any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Durability {
    /// Accepted in memory; nothing survives for certain.
    None,
    /// Handed to the operating system; survives the death of the process.
    ProcessCrash,
    /// Synced to the device; survives loss of power.
    #[default]
    PowerLoss,
}

impl Durability {
    /// What a producer's `acks` asks for; `None` for the topic's own level.
    pub(crate) fn from_acks(acks: &str) -> Result<Option<Self>> {
        match acks {
            "all" | "-1" => Ok(None),
            "1" => Ok(Some(Self::ProcessCrash)),
            "0" => Ok(Some(Self::None)),
            _ => Err(Error::new(ErrorKind::InvalidConfig, format!("acks={acks:?} is none of 0, 1 or all"))),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::ProcessCrash => "process crash",
            Self::PowerLoss => "power loss",
        })
    }
}

/// How the bytes of sealed segments come to a reader.
///
/// **What `Mapped` risks.** A file that somebody else cuts short while it is mapped, and a medium that fails when a
/// page is brought in again, end the process with SIGBUS, as with any mapped file: choose it where nobody but this
/// crate touches the directory. On Linux pages are brought in before they are first looked at, so that a medium that
/// fails then is an error of the read; pages that the system has dropped meanwhile come back without that. No signal
/// handler is installed.
///
/// What is read keeps the map of its whole segment alive: address space, not memory, and the file's space on disk
/// where the segment was deleted. Besides those, at most 256 segments of a broker, or of a log that stands alone,
/// are mapped at a time. The segment that takes appends, and whatever is not synced, is never mapped, and nothing is
/// ever written through a map. On a storage in memory a map is a copy of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ReadMode {
    /// Each read copies the bytes out of the operating system's cache: whatever happens to the file is an error of
    /// that read.
    #[default]
    Copied,
    /// Reads of sealed segments borrow a map of the file and copy nothing.
    Mapped,
}

/// What opening does with damage to acknowledged data. When to use which: [`docs::recovery`](crate::docs::recovery).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum RecoveryPolicy {
    /// A log with damage is not opened: [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) says where it is, and not a
    /// byte was changed, but for a lock file.
    ///
    /// That is decided by a recovery in memory before the one on disk: what has to be scanned is scanned twice. It sees
    /// what any opening sees; sealed segments are not read, and damage in one of them is an error of the read that
    /// meets it.
    Strict,
    /// Damage stays where it is, reads of it fail, all else is served and appends go on.
    #[default]
    Degraded,
    /// As `Degraded`, and what is damaged stops nobody: reads pass over damaged offsets without an error, a state file
    /// or a `partition.metadata` that cannot be read is made anew. What was lost is among the findings, and nowhere
    /// else.
    Salvage,
}

/// How often the checksum of a stored batch is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Verify {
    /// By every read.
    #[default]
    EveryRead,
    /// Once for the batches of sealed segments, so that reads of single records need not go over the whole of a
    /// large batch each time.
    ///
    /// What is damaged later, in memory or when its pages are read from the disk again, is served as it is; only
    /// the structure of records is still checked. What was verified is remembered for one batch in 16 KiB of
    /// log, 128 bytes of memory for each MiB, and for at most 256 segments of a broker, or of a log that stands
    /// alone; a batch that is not remembered is verified again.
    Once,
}

/// What a reader may see (`isolation.level`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Isolation {
    /// Everything below the high watermark, records of open and aborted transactions included.
    ReadUncommitted,
    /// Only below the last stable offset, without records of aborted transactions.
    #[default]
    ReadCommitted,
}

/// Where a reader without a position starts (`auto.offset.reset`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Start {
    /// At the log start offset: everything that is still there.
    #[default]
    Earliest,
    /// At the end: only what is appended from now on.
    Latest,
    /// Nowhere: the caller gets an error of kind [`ErrorKind::NoOffset`] instead.
    None,
}

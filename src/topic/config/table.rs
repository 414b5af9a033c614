//! Kafka's topic configs as one table: names, types, ranges, stock and own defaults, broker-level
//! names. Complete for 4.3.0; src: `LogConfig`, `ServerTopicConfigSynonyms`.

use super::{CleanupPolicy, invalid};
use crate::error::Result;
use crate::record::Codec;

/// Overrides `segment.bytes` without its lower bound, for tests (4.x; hidden there too). 0 is unset.
pub(super) const INTERNAL_SEGMENT_BYTES: &str = "internal.segment.bytes";

/// The type of a value and what it may be.
pub(super) enum Kind {
    Int {
        min: i32,
        max: i32,
    },
    /// A gzip level: -1, or 1 to 9.
    GzipLevel,
    Long {
        min: i64,
    },
    /// A ratio from 0 to 1.
    Ratio,
    Bool,
    Word(&'static [&'static str]),
    Policy,
    /// `*`, or a list of `partition:broker`.
    Replicas,
}

/// What a config does here.
pub(super) enum Effect {
    /// What its documentation says.
    Full,
    /// The same, with a codec that is built in.
    Compresses,
    /// Nothing: it is kept for a stock broker.
    Inert(&'static str),
    /// Nothing, and any value but the default would ask for what this process cannot give.
    OnlyDefault(&'static str),
}

impl Effect {
    pub(super) fn why_inert(&self) -> Option<&'static str> {
        match self {
            Self::Full | Self::Compresses => None,
            Self::Inert(why) | Self::OnlyDefault(why) => Some(why),
        }
    }
}

/// One row.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What releases before 4.0 allowed, where that was more: such a value may stand in a catalog.
    pub(super) older: Option<Kind>,
    /// The default of a stock 4.3.0 broker.
    pub(super) stock: &'static str,
    /// This crate's default.
    pub(super) ours: &'static str,
    /// This crate's default for a compacted topic, where that differs.
    pub(super) compacted: Option<&'static str>,
    /// Whether 3.9 and 4.x have different defaults, so that the value is always written down.
    pub(super) releases_differ: bool,
    /// Broker-level names, the preferred one first, each with the number of our units in one of its.
    pub(super) broker: &'static [(&'static str, i64)],
    pub(super) effect: Effect,
    pub(super) doc: &'static str,
}

impl Spec {
    const fn new(name: &'static str, kind: Kind, stock: &'static str, doc: &'static str) -> Self {
        Self {
            name,
            kind,
            older: None,
            stock,
            ours: stock,
            compacted: None,
            releases_differ: false,
            broker: &[],
            effect: Effect::Full,
            doc,
        }
    }

    const fn ours(mut self, default: &'static str) -> Self {
        self.ours = default;
        self
    }

    const fn older(mut self, kind: Kind) -> Self {
        self.older = Some(kind);
        self
    }

    const fn broker(mut self, names: &'static [(&'static str, i64)]) -> Self {
        self.broker = names;
        self
    }

    const fn effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// The canonical form of a value that stands in a catalog, whatever release put it there.
    pub(super) fn stored(&self, value: &str) -> Result<String, String> {
        self.older.as_ref().unwrap_or(&self.kind).canonical(value)
    }

    /// The canonical form of a value that a caller gives under `name`.
    pub(super) fn accept(&self, name: &str, value: &str) -> Result<String> {
        let canonical = self.kind.canonical(value).map_err(|why| invalid(name, value, why))?;
        match self.effect {
            Effect::Compresses => {
                // "producer" is no codec.
                canonical.parse().map_or(Ok(()), Codec::check_built_in)?;
                Ok(canonical)
            }
            Effect::OnlyDefault(why) if canonical != self.ours => {
                Err(invalid(name, value, format_args!("is refused: {why}"))
                    .remedy(format!("leave it at {}", self.ours)))
            }
            _ => Ok(canonical),
        }
    }
}

impl Kind {
    /// Parses as Kafka's `ConfigDef` does, white space trimmed, and gives the form that is stored; or what
    /// is wrong with the value.
    pub(super) fn canonical(&self, value: &str) -> Result<String, String> {
        let value = value.trim();
        match self {
            Self::Int { min, max } => match value.parse::<i32>() {
                Ok(n) if (*min..=*max).contains(&n) => Ok(n.to_string()),
                Ok(_) if *max == i32::MAX => Err(format!("must be at least {min}")),
                Ok(_) => Err(format!("must be between {min} and {max}")),
                Err(_) => Err("is not a number of 32 bits".into()),
            },
            Self::GzipLevel => match value.parse::<i32>() {
                Ok(n) if n == -1 || (1..=9).contains(&n) => Ok(n.to_string()),
                _ => Err("must be -1 or between 1 and 9".into()),
            },
            Self::Long { min } => match value.parse::<i64>() {
                Ok(n) if n >= *min => Ok(n.to_string()),
                Ok(_) => Err(format!("must be at least {min}")),
                Err(_) => Err("is not a number of 64 bits".into()),
            },
            Self::Ratio => match value.parse::<f64>() {
                // As Java prints it: never without a fraction.
                Ok(n) if (0.0..=1.0).contains(&n) => Ok(format!("{n:?}")),
                _ => Err("is not a number between 0 and 1".into()),
            },
            Self::Bool => match value.to_ascii_lowercase() {
                word if word == "true" || word == "false" => Ok(word),
                _ => Err("is neither true nor false".into()),
            },
            Self::Word(words) if words.contains(&value) => Ok(value.to_owned()),
            Self::Word(words) => Err(format!("is none of {}", words.join(", "))),
            Self::Policy => match CleanupPolicy::parse(value) {
                Some(policy) => Ok(policy.to_string()),
                None => Err("is not a list of delete and compact".into()),
            },
            Self::Replicas => replicas(value),
        }
    }
}

fn replicas(value: &str) -> Result<String, String> {
    let pair = |p: &str| p.split_once(':').is_some_and(|(a, b)| a.parse::<u32>().is_ok() && b.parse::<u32>().is_ok());
    let items: Vec<&str> = value.split(',').map(str::trim).collect();
    match value.is_empty() || value == "*" || items.iter().all(|p| pair(p)) {
        true => Ok(items.join(",")),
        false => Err("is neither * nor a list of partition:broker".into()),
    }
}

/// The row of a topic config.
pub(super) fn find(name: &str) -> Option<&'static Spec> {
    SPECS.iter().find(|s| s.name == name)
}

/// The row of a broker-level name, or of a topic config given at broker level, with its unit.
pub(super) fn find_broker(name: &str) -> Option<(&'static Spec, i64)> {
    let synonym = |s: &'static Spec| s.broker.iter().find(|(n, _)| *n == name).map(|&(_, factor)| (s, factor));
    SPECS.iter().find_map(synonym).or_else(|| find(name).map(|s| (s, 1)))
}

/// All names that [`find_broker`] knows.
pub(super) fn broker_names() -> impl Iterator<Item = &'static str> {
    SPECS.iter().flat_map(|s| s.broker.iter().map(|&(n, _)| n).chain([s.name]))
}

const LONG_MAX: &str = "9223372036854775807";
const MINUTE: i64 = 60_000;
const HOUR: i64 = 3_600_000;
const INT_MAX: i32 = i32::MAX;

const ONE_NODE: &str = "one node has one replica of each partition";
const NO_TIERS: &str = "this crate keeps no second tier of storage";
const NOT_COMPACTED: &str = "this release compacts nothing; a stock broker does";

pub(super) static SPECS: &[Spec] = &[
    Spec::new(
        "cleanup.policy",
        Kind::Policy,
        "delete",
        "delete old segments, compact by key, both, or neither (empty)",
    )
    .broker(&[("log.cleanup.policy", 1)]),
    Spec::new("compression.gzip.level", Kind::GzipLevel, "-1", "gzip level, 1 to 9, or -1")
        .broker(&[("compression.gzip.level", 1)]),
    Spec::new("compression.lz4.level", Kind::Int { min: 1, max: 17 }, "9", "lz4 level, 1 to 17")
        .broker(&[("compression.lz4.level", 1)]),
    Spec::new(
        "compression.type",
        Kind::Word(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
        "producer",
        "codec in which batches are stored; producer keeps them as they came",
    )
    .broker(&[("compression.type", 1)])
    .effect(Effect::Compresses),
    Spec::new("compression.zstd.level", Kind::Int { min: -131_072, max: 22 }, "3", "zstd level, -131072 to 22")
        .broker(&[("compression.zstd.level", 1)]),
    Spec::new("delete.retention.ms", Kind::Long { min: 0 }, "86400000", "time for which tombstones stay readable, ms")
        .broker(&[("log.cleaner.delete.retention.ms", 1)])
        .effect(Effect::Inert(NOT_COMPACTED)),
    Spec::new("file.delete.delay.ms", Kind::Long { min: 0 }, "60000", "wait before a removed file is unlinked, ms")
        .broker(&[("log.segment.delete.delay.ms", 1)])
        .effect(Effect::Inert("files go when their last reader is done; a stock broker waits")),
    Spec::new(
        "flush.messages",
        Kind::Long { min: 1 },
        LONG_MAX,
        "records between syncs; 1 is durability PowerLoss, more is ProcessCrash",
    )
    .ours("1")
    .broker(&[("log.flush.interval.messages", 1)]),
    Spec::new("flush.ms", Kind::Long { min: 0 }, LONG_MAX, "time between syncs, ms")
        .broker(&[("log.flush.interval.ms", 1)]),
    Spec::new("follower.replication.throttled.replicas", Kind::Replicas, "", "replicas throttled as followers")
        .effect(Effect::Inert(ONE_NODE)),
    Spec::new("index.interval.bytes", Kind::Int { min: 0, max: INT_MAX }, "4096", "bytes of log between index entries")
        .broker(&[("log.index.interval.bytes", 1)]),
    Spec::new(INTERNAL_SEGMENT_BYTES, Kind::Int { min: 1, max: INT_MAX }, "0", "segment.bytes without a lower bound"),
    Spec::new("leader.replication.throttled.replicas", Kind::Replicas, "", "replicas throttled as leaders")
        .effect(Effect::Inert(ONE_NODE)),
    Spec::new("local.retention.bytes", Kind::Long { min: -2 }, "-2", "bytes kept on the local tier")
        .broker(&[("log.local.retention.bytes", 1)])
        .effect(Effect::OnlyDefault(NO_TIERS)),
    Spec::new("local.retention.ms", Kind::Long { min: -2 }, "-2", "time kept on the local tier, ms")
        .broker(&[("log.local.retention.ms", 1)])
        .effect(Effect::OnlyDefault(NO_TIERS)),
    Spec::new("max.compaction.lag.ms", Kind::Long { min: 1 }, LONG_MAX, "longest time without compaction, ms")
        .broker(&[("log.cleaner.max.compaction.lag.ms", 1)])
        .effect(Effect::Inert(NOT_COMPACTED)),
    Spec::new("max.message.bytes", Kind::Int { min: 0, max: INT_MAX }, "1048588", "largest batch, bytes as stored")
        .broker(&[("message.max.bytes", 1)]),
    Spec {
        releases_differ: true,
        ..Spec::new(
            "message.timestamp.after.max.ms",
            Kind::Long { min: 0 },
            "3600000",
            "how far ahead of the clock a timestamp may lie, ms",
        )
        .broker(&[("log.message.timestamp.after.max.ms", 1)])
    },
    Spec::new(
        "message.timestamp.before.max.ms",
        Kind::Long { min: 0 },
        LONG_MAX,
        "how far behind the clock a timestamp may lie, ms",
    )
    .broker(&[("log.message.timestamp.before.max.ms", 1)]),
    Spec::new(
        "message.timestamp.type",
        Kind::Word(&["CreateTime", "LogAppendTime"]),
        "CreateTime",
        "whose clock stamps a record: the producer's or the log's",
    )
    .broker(&[("log.message.timestamp.type", 1)]),
    Spec::new("min.cleanable.dirty.ratio", Kind::Ratio, "0.5", "share of uncompacted bytes that starts compaction")
        .broker(&[("log.cleaner.min.cleanable.ratio", 1)])
        .effect(Effect::Inert(NOT_COMPACTED)),
    Spec::new("min.compaction.lag.ms", Kind::Long { min: 0 }, "0", "shortest time without compaction, ms")
        .broker(&[("log.cleaner.min.compaction.lag.ms", 1)])
        .effect(Effect::Inert(NOT_COMPACTED)),
    Spec::new("min.insync.replicas", Kind::Int { min: 1, max: INT_MAX }, "1", "replicas that must hold an append")
        .broker(&[("min.insync.replicas", 1)])
        .effect(Effect::OnlyDefault(ONE_NODE)),
    Spec::new("preallocate", Kind::Bool, "false", "reserve a segment's space when it is created")
        .broker(&[("log.preallocate", 1)])
        .effect(Effect::Inert("segments grow as they are written; a stock broker obeys it")),
    Spec::new("remote.log.copy.disable", Kind::Bool, "false", "stop copying to the remote tier")
        .effect(Effect::OnlyDefault(NO_TIERS)),
    Spec::new("remote.log.delete.on.disable", Kind::Bool, "false", "delete the remote tier when it is disabled")
        .effect(Effect::OnlyDefault(NO_TIERS)),
    Spec::new("remote.storage.enable", Kind::Bool, "false", "keep old segments on a remote tier")
        .effect(Effect::OnlyDefault(NO_TIERS)),
    Spec::new("retention.bytes", Kind::Long { min: i64::MIN }, "-1", "bytes kept per partition; -1 is no limit")
        .broker(&[("log.retention.bytes", 1)]),
    Spec::new(
        "retention.ms",
        Kind::Long { min: -1 },
        "604800000",
        "time for which records are kept, ms; -1 is for ever",
    )
    .ours("-1")
    .broker(&[("log.retention.ms", 1), ("log.retention.minutes", MINUTE), ("log.retention.hours", HOUR)]),
    Spec {
        compacted: Some("67108864"),
        ..Spec::new("segment.bytes", Kind::Int { min: 1 << 20, max: INT_MAX }, "1073741824", "largest segment, bytes")
            .older(Kind::Int { min: 14, max: INT_MAX })
            .broker(&[("log.segment.bytes", 1)])
    },
    Spec::new("segment.index.bytes", Kind::Int { min: 4, max: INT_MAX }, "10485760", "largest index file, bytes")
        .broker(&[("log.index.size.max.bytes", 1)]),
    Spec::new("segment.jitter.ms", Kind::Long { min: 0 }, "0", "largest random cut of segment.ms, ms")
        .broker(&[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOUR)]),
    Spec::new("segment.ms", Kind::Long { min: 1 }, "604800000", "longest span of record time in a segment, ms")
        .broker(&[("log.roll.ms", 1), ("log.roll.hours", HOUR)]),
    Spec::new("unclean.leader.election.enable", Kind::Bool, "false", "let a replica lead that was not in sync")
        .broker(&[("unclean.leader.election.enable", 1)])
        .effect(Effect::Inert(ONE_NODE)),
];

//! Topic configs: one table of Kafka's names, types, ranges and defaults, and the three layers that
//! decide a value: topic override over broker-level default over this crate's default.
//!
//! Every value is checked here, against the newest release's ranges, before it may reach the catalog:
//! one bad value stops a stock broker at start. What a log does with a value is not decided here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::log::LogConfig;
use crate::record::{Codec, Compression, RecordBatch, TimestampType};
use crate::types::Durability;

mod table;

use table::{SPECS, Spec};

/// What happens to old records (`cleanup.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum CleanupPolicy {
    /// Whole segments are removed by age and size (`delete`).
    #[default]
    Delete,
    /// The newest record of each key is kept (`compact`).
    Compact,
    /// Both (`compact,delete`).
    CompactAndDelete,
    /// Nothing is ever removed but on request (the empty list).
    Keep,
}

impl CleanupPolicy {
    /// Whether records are compacted by key, so that every record needs one.
    #[must_use]
    pub fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::CompactAndDelete)
    }

    /// Whether segments are removed by age and size.
    #[must_use]
    pub fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::CompactAndDelete)
    }

    fn parse(text: &str) -> Option<Self> {
        let (mut compact, mut delete) = (false, false);
        for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word {
                "compact" => compact = true,
                "delete" => delete = true,
                _ => return None,
            }
        }
        Some(match (compact, delete) {
            (false, true) => Self::Delete,
            (true, false) => Self::Compact,
            (true, true) => Self::CompactAndDelete,
            (false, false) => Self::Keep,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
            Self::CompactAndDelete => "compact,delete",
            Self::Keep => "",
        }
    }
}

impl fmt::Display for CleanupPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Settings of one topic: what differs from the broker's defaults. Kafka's names as strings with
/// [`set`](Self::set), typed setters beside them.
///
/// A typed setter never fails; a value out of Kafka's range is reported when the topic is created or
/// altered.
///
/// ```
/// use std::time::Duration;
/// use thalweg::{CleanupPolicy, TopicConfig};
/// let config = TopicConfig::new()
///     .retention(Duration::from_secs(7 * 24 * 3600))
///     .cleanup_policy(CleanupPolicy::CompactAndDelete)
///     .set("segment.bytes", "16777216")?;
/// assert_eq!(config.get("retention.ms"), Some("604800000"));
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct TopicConfig {
    overrides: BTreeMap<&'static str, String>,
    /// Names and values from a catalog that this release does not know: kept, shown, never applied.
    foreign: BTreeMap<String, String>,
    refused: Option<Error>,
}

impl PartialEq for TopicConfig {
    fn eq(&self, other: &Self) -> bool {
        self.overrides == other.overrides && self.foreign == other.foreign
    }
}

impl TopicConfig {
    /// No overrides.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one config by Kafka's name; white space around the value is dropped.
    ///
    /// # Errors
    /// `InvalidConfig` when the name is unknown (the message has the nearest one), the value is of the
    /// wrong type or out of the range of the newest supported release, or it asks for something that
    /// only several nodes can give.
    pub fn set(mut self, name: &str, value: &str) -> Result<Self> {
        let spec = table::find(name).ok_or_else(|| unknown_name(name, SPECS.iter().map(|s| s.name), LISTED))?;
        self.overrides.insert(spec.name, spec.accept(name, value)?);
        Ok(self)
    }

    /// The value set for a name, in its canonical form; `None` when the layers below decide.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.overrides.get(name).or_else(|| self.foreign.get(name)).map(String::as_str)
    }

    fn put(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        let refused = self.refused.take();
        match self.clone().set(name, &value.to_string()) {
            Ok(set) => Self { refused, ..set },
            Err(error) => Self { refused: refused.or(Some(error)), ..self },
        }
    }

    fn put_time(self, name: &'static str, time: Duration) -> Self {
        self.put(name, i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
    }

    /// How long records are kept (`retention.ms`); this crate's default is for ever.
    #[must_use]
    pub fn retention(self, time: Duration) -> Self {
        self.put_time("retention.ms", time)
    }

    /// Records are kept for ever (`retention.ms=-1`).
    #[must_use]
    pub fn retention_forever(self) -> Self {
        self.put("retention.ms", -1)
    }

    /// Bytes kept per partition (`retention.bytes`): the oldest segments go while the rest still holds as
    /// many.
    #[must_use]
    pub fn retention_bytes(self, bytes: u64) -> Self {
        self.put("retention.bytes", bytes)
    }

    /// Whether old segments are deleted, compacted, both or neither (`cleanup.policy`).
    #[must_use]
    pub fn cleanup_policy(self, policy: CleanupPolicy) -> Self {
        self.put("cleanup.policy", policy)
    }

    /// Largest size of one segment file in bytes (`segment.bytes`), at least 1 MiB.
    #[must_use]
    pub fn segment_bytes(self, bytes: u32) -> Self {
        self.put("segment.bytes", bytes)
    }

    /// Longest span of record time in one segment (`segment.ms`).
    #[must_use]
    pub fn segment_age(self, time: Duration) -> Self {
        self.put_time("segment.ms", time)
    }

    /// Largest random part by which a segment's age limit is shortened (`segment.jitter.ms`).
    #[must_use]
    pub fn segment_jitter(self, time: Duration) -> Self {
        self.put_time("segment.jitter.ms", time)
    }

    /// Largest size of each index file in bytes (`segment.index.bytes`).
    #[must_use]
    pub fn segment_index_bytes(self, bytes: u32) -> Self {
        self.put("segment.index.bytes", bytes)
    }

    /// Bytes of log between two index entries (`index.interval.bytes`).
    #[must_use]
    pub fn index_interval_bytes(self, bytes: u32) -> Self {
        self.put("index.interval.bytes", bytes)
    }

    /// Largest batch accepted, in bytes as stored (`max.message.bytes`).
    #[must_use]
    pub fn max_message_bytes(self, bytes: u32) -> Self {
        self.put("max.message.bytes", bytes)
    }

    /// What an acknowledged append survives unless it asks for another level: `PowerLoss` is
    /// `flush.messages=1`, `ProcessCrash` its largest value. A topic cannot default to
    /// [`Durability::None`]; ask for it per append.
    #[must_use]
    pub fn durability(self, level: Durability) -> Self {
        match level {
            Durability::PowerLoss => self.put("flush.messages", 1),
            Durability::ProcessCrash => self.put("flush.messages", i64::MAX),
            Durability::None => {
                self.refuse("a topic's durability is PowerLoss or ProcessCrash; ask for None per append")
            }
        }
    }

    /// The codec in which batches are stored (`compression.type`, `compression.*.level`). One that comes in another
    /// codec is compressed anew as it is appended; a level alone is no reason to.
    #[must_use]
    pub fn compression(self, compression: impl Into<Compression>) -> Self {
        let compression = compression.into();
        let (name, level) = match compression.codec() {
            Codec::None => return self.put("compression.type", "uncompressed"),
            Codec::Snappy => return self.put("compression.type", "snappy"),
            Codec::Gzip => ("gzip", "compression.gzip.level"),
            Codec::Lz4 => ("lz4", "compression.lz4.level"),
            Codec::Zstd => ("zstd", "compression.zstd.level"),
        };
        let typed = self.put("compression.type", name);
        match compression.chosen_level() {
            Some(n) => typed.put(level, n),
            None => typed,
        }
    }

    /// Batches are stored as their producer compressed them (`compression.type=producer`, the default).
    #[must_use]
    pub fn compression_of_producer(self) -> Self {
        self.put("compression.type", "producer")
    }

    /// Whether records keep their producer's timestamps or get the time of the append
    /// (`message.timestamp.type`).
    #[must_use]
    pub fn timestamp_type(self, kind: TimestampType) -> Self {
        self.put(
            "message.timestamp.type",
            match kind {
                TimestampType::CreateTime => "CreateTime",
                TimestampType::LogAppendTime => "LogAppendTime",
            },
        )
    }

    /// How far behind the clock a record's timestamp may lie (`message.timestamp.before.max.ms`).
    #[must_use]
    pub fn timestamp_before_max(self, time: Duration) -> Self {
        self.put_time("message.timestamp.before.max.ms", time)
    }

    /// How far ahead of the clock a record's timestamp may lie (`message.timestamp.after.max.ms`).
    #[must_use]
    pub fn timestamp_after_max(self, time: Duration) -> Self {
        self.put_time("message.timestamp.after.max.ms", time)
    }

    /// How long compaction leaves tombstones readable (`delete.retention.ms`).
    ///
    /// Kept for a stock broker on the same directory: this release compacts nothing.
    #[must_use]
    pub fn delete_retention(self, time: Duration) -> Self {
        self.put_time("delete.retention.ms", time)
    }

    /// How long a record stays uncompacted at least (`min.compaction.lag.ms`).
    ///
    /// Kept for a stock broker on the same directory: this release compacts nothing.
    #[must_use]
    pub fn min_compaction_lag(self, time: Duration) -> Self {
        self.put_time("min.compaction.lag.ms", time)
    }

    /// How long a record stays uncompacted at most (`max.compaction.lag.ms`).
    ///
    /// Kept for a stock broker on the same directory: this release compacts nothing.
    #[must_use]
    pub fn max_compaction_lag(self, time: Duration) -> Self {
        self.put_time("max.compaction.lag.ms", time)
    }

    /// The share of uncompacted bytes, 0 to 1, from which a log is compacted
    /// (`min.cleanable.dirty.ratio`).
    ///
    /// Kept for a stock broker on the same directory: this release compacts nothing.
    #[must_use]
    pub fn min_cleanable_dirty_ratio(self, ratio: f64) -> Self {
        self.put("min.cleanable.dirty.ratio", ratio)
    }

    /// How long the files of a removed segment stay under another name (`file.delete.delay.ms`).
    ///
    /// Kept for a stock broker on the same directory: here files go when their last reader is done.
    #[must_use]
    pub fn file_delete_delay(self, time: Duration) -> Self {
        self.put_time("file.delete.delay.ms", time)
    }

    fn refuse(mut self, why: &'static str) -> Self {
        self.refused.get_or_insert_with(|| Error::new(ErrorKind::InvalidConfig, why));
        self
    }

    /// The overrides that the catalog holds for a topic. Never fails: names and values that this release
    /// does not accept stay visible and are not applied.
    pub(crate) fn from_records<'a>(records: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut config = Self::new();
        for (name, value) in records {
            match table::find(name).map(|spec| (spec, spec.stored(value))) {
                Some((spec, Ok(value))) => drop(config.overrides.insert(spec.name, value)),
                _ => drop(config.foreign.insert(name.to_owned(), value.to_owned())),
            }
        }
        config
    }

    /// Names and values from the catalog that are not applied.
    pub(crate) fn foreign(&self) -> impl Iterator<Item = (&str, &str)> {
        self.foreign.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Checks what single values cannot show.
    pub(crate) fn validate(&self, defaults: &BrokerDefaults) -> Result<()> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        let settings = self.settings(defaults);
        if settings.min_compaction_lag > settings.max_compaction_lag {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "min.compaction.lag.ms must not be larger than max.compaction.lag.ms",
            ));
        }
        Ok(())
    }

    /// This config with `changes` applied: a value sets, `None` removes the override.
    pub(crate) fn altered(&self, changes: &[(&str, Option<&str>)]) -> Result<Self> {
        let mut config = self.clone();
        for &(name, value) in changes {
            match value {
                Some(value) => config = config.set(name, value)?,
                None if config.foreign.remove(name).is_some() => {}
                None => {
                    let spec =
                        table::find(name).ok_or_else(|| unknown_name(name, SPECS.iter().map(|s| s.name), LISTED))?;
                    config.overrides.remove(spec.name);
                }
            }
        }
        Ok(config)
    }

    /// The value in force for one spec, and the layer that it comes from.
    fn layered<'a>(&'a self, spec: &'static Spec, defaults: &'a BrokerDefaults) -> (&'a str, ConfigSource) {
        let (below, source) = match defaults.values.get(spec.name) {
            Some(value) => (value.as_str(), ConfigSource::BrokerConfig),
            None => (self.crate_default(spec, defaults), ConfigSource::Default),
        };
        match self.overrides.get(spec.name) {
            // A record that only restates the layers below was written for a stock broker's sake.
            Some(value) if value != below => (value, ConfigSource::TopicConfig),
            _ => (below, source),
        }
    }

    fn crate_default(&self, spec: &'static Spec, defaults: &BrokerDefaults) -> &'static str {
        match spec.compacted {
            Some(value) if self.policy(defaults).compacts() => value,
            _ => spec.ours,
        }
    }

    fn policy(&self, defaults: &BrokerDefaults) -> CleanupPolicy {
        let name = "cleanup.policy";
        let text = self.overrides.get(name).or_else(|| defaults.values.get(name));
        text.and_then(|t| CleanupPolicy::parse(t)).unwrap_or_default()
    }

    /// Every config with the value in force, in the order of Kafka's names.
    pub(crate) fn describe(&self, defaults: &BrokerDefaults) -> Vec<ConfigEntry> {
        let known = SPECS.iter().map(|spec| {
            let (value, source) = self.layered(spec, defaults);
            ConfigEntry {
                name: Cow::Borrowed(spec.name),
                value: value.to_owned(),
                source,
                inert: spec.effect.why_inert(),
                doc: spec.doc,
            }
        });
        let foreign = self.foreign.iter().map(|(name, value)| ConfigEntry {
            name: Cow::Owned(name.clone()),
            value: value.clone(),
            source: ConfigSource::TopicConfig,
            inert: Some("not known to this release: kept as it is in the catalog"),
            doc: "",
        });
        let hidden = |e: &ConfigEntry| e.name == table::INTERNAL_SEGMENT_BYTES && e.source == ConfigSource::Default;
        let mut entries: Vec<_> = known.filter(|e| !hidden(e)).chain(foreign).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// The values in force, parsed.
    pub(crate) fn settings(&self, defaults: &BrokerDefaults) -> TopicSettings {
        let values = Values { config: self, defaults };
        let flush_messages = values.long("flush.messages");
        TopicSettings {
            segment_bytes: match values.long(table::INTERNAL_SEGMENT_BYTES) {
                0 => values.size("segment.bytes"),
                _ => values.size(table::INTERNAL_SEGMENT_BYTES),
            },
            segment_age: values.time("segment.ms"),
            segment_jitter: values.time("segment.jitter.ms"),
            index_interval_bytes: values.size("index.interval.bytes"),
            segment_index_bytes: values.size("segment.index.bytes"),
            max_message_bytes: values.size("max.message.bytes"),
            timestamp_type: match values.text("message.timestamp.type") {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max: values.bound("message.timestamp.before.max.ms"),
            timestamp_after_max: values.bound("message.timestamp.after.max.ms"),
            retention: values.bound("retention.ms"),
            retention_bytes: u64::try_from(values.long("retention.bytes")).ok(),
            cleanup_policy: self.policy(defaults),
            compression: values.compression(),
            durability: if flush_messages == 1 { Durability::PowerLoss } else { Durability::ProcessCrash },
            flush_messages,
            flush_interval: values.bound("flush.ms"),
            min_compaction_lag: values.time("min.compaction.lag.ms"),
            max_compaction_lag: values.time("max.compaction.lag.ms"),
        }
    }

    /// What must stand in the catalog for a stock broker to treat the topic as this crate does: every
    /// override, and every value in force that some supported release would not choose by itself.
    pub(crate) fn explicit_records(&self, defaults: &BrokerDefaults) -> Vec<(String, String)> {
        let needed = SPECS.iter().filter_map(|spec| {
            let overridden = self.overrides.contains_key(spec.name);
            let value = match self.overrides.get(spec.name) {
                Some(value) => value,
                None => self.layered(spec, defaults).0,
            };
            (overridden || spec.releases_differ || value != spec.stock)
                .then(|| (spec.name.to_owned(), value.to_owned()))
        });
        needed.chain(self.foreign.iter().map(|(n, v)| (n.clone(), v.clone()))).collect()
    }
}

/// Reads values that the table has already checked.
struct Values<'a> {
    config: &'a TopicConfig,
    defaults: &'a BrokerDefaults,
}

impl<'a> Values<'a> {
    fn text(&self, name: &str) -> &'a str {
        table::find(name).map_or("", |spec| self.config.layered(spec, self.defaults).0)
    }

    fn long(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }

    fn size(&self, name: &str) -> u32 {
        u32::try_from(self.long(name)).unwrap_or(0)
    }

    fn time(&self, name: &str) -> Duration {
        Duration::from_millis(u64::try_from(self.long(name)).unwrap_or(0))
    }

    /// A time for which Kafka writes "no limit" as -1 or as its largest number.
    fn bound(&self, name: &str) -> Option<Duration> {
        let millis = self.long(name);
        if millis == i64::MAX { None } else { u64::try_from(millis).ok().map(Duration::from_millis) }
    }

    fn compression(&self) -> Option<Compression> {
        let (codec, level) = match self.text("compression.type") {
            "uncompressed" => return Some(Compression::NONE),
            "snappy" => return Some(Codec::Snappy.into()),
            "gzip" => (Codec::Gzip, self.long("compression.gzip.level")),
            "lz4" => (Codec::Lz4, self.long("compression.lz4.level")),
            "zstd" => (Codec::Zstd, self.long("compression.zstd.level")),
            _ => return None,
        };
        let plain = Compression::from(codec);
        Some(i32::try_from(level).ok().and_then(|l| plain.level(l).ok()).unwrap_or(plain))
    }
}

/// The values in force for one topic.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TopicSettings {
    pub(crate) segment_bytes: u32,
    pub(crate) segment_age: Duration,
    pub(crate) segment_jitter: Duration,
    pub(crate) index_interval_bytes: u32,
    pub(crate) segment_index_bytes: u32,
    pub(crate) max_message_bytes: u32,
    pub(crate) timestamp_type: TimestampType,
    /// `None`: no limit.
    pub(crate) timestamp_before_max: Option<Duration>,
    /// `None`: no limit.
    pub(crate) timestamp_after_max: Option<Duration>,
    /// `None`: for ever.
    pub(crate) retention: Option<Duration>,
    /// `None`: no limit.
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) cleanup_policy: CleanupPolicy,
    /// `None`: as the producer sent it.
    pub(crate) compression: Option<Compression>,
    pub(crate) durability: Durability,
    /// Records after which a log that is not at PowerLoss syncs in the background.
    pub(crate) flush_messages: i64,
    /// Time after which it does; `None`: never.
    pub(crate) flush_interval: Option<Duration>,
    pub(crate) min_compaction_lag: Duration,
    pub(crate) max_compaction_lag: Duration,
}

impl TopicSettings {
    /// A produced batch as it is to be stored, where that is in another codec than it came in.
    pub(crate) fn recompressed(&self, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
        let header = batch.header();
        let other = self.compression.filter(|to| to.codec() != header.codec() && !header.is_control());
        other.map(|to| batch.recompressed(to)).transpose()
    }

    /// What the log of each partition is to do.
    pub(crate) fn log_config(&self) -> LogConfig {
        LogConfig {
            segment_bytes: self.segment_bytes,
            segment_age: self.segment_age,
            segment_jitter: self.segment_jitter,
            index_interval_bytes: self.index_interval_bytes,
            segment_index_bytes: self.segment_index_bytes,
            max_message_bytes: self.max_message_bytes,
            timestamp_type: self.timestamp_type,
            timestamp_before_max: self.timestamp_before_max,
            timestamp_after_max: self.timestamp_after_max,
            durability: self.durability,
            compacted: self.cleanup_policy.compacts(),
            ..LogConfig::default()
        }
    }
}

/// Topic settings given for the whole broker: the layer between a topic's overrides and this crate's
/// defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BrokerDefaults {
    values: BTreeMap<&'static str, String>,
}

impl BrokerDefaults {
    /// Sets a default by Kafka's broker-level name (`log.retention.hours`) or by the topic's own
    /// (`retention.ms`).
    pub(crate) fn set(mut self, name: &str, value: &str) -> Result<Self> {
        let Some((spec, factor)) = table::find_broker(name) else {
            return Err(unknown_name(name, table::broker_names(), LISTED));
        };
        let value = match factor {
            1 => spec.accept(name, value)?,
            _ => spec.accept(name, &scaled(name, value, factor)?)?,
        };
        self.values.insert(spec.name, value);
        Ok(self)
    }

    /// Takes a default that the catalog holds for the broker: what is no topic's business is passed over, and what
    /// only several nodes could give is no reason to refuse it.
    pub(crate) fn adopt(&mut self, name: &str, value: &str) -> Result<()> {
        let Some((spec, factor)) = table::find_broker(name) else { return Ok(()) };
        let value = if factor == 1 { value.to_owned() } else { scaled(name, value, factor)? };
        let value = spec.stored(&value).map_err(|why| invalid(name, &value, why))?;
        self.values.insert(spec.name, value);
        Ok(())
    }

    /// The defaults that were set, by Kafka's broker-level names, for a server.properties.
    pub(crate) fn properties(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().filter_map(|(name, value)| {
            let broker = table::find(name)?.broker.first()?;
            Some((broker.0, value.as_str()))
        })
    }
}

/// Turns a time in hours or minutes into milliseconds; -1 stays "no limit".
fn scaled(name: &str, value: &str, factor: i64) -> Result<String> {
    let number: i64 = value.trim().parse().map_err(|_| invalid(name, value, "is not a whole number"))?;
    let millis = if number < 0 { Some(number) } else { number.checked_mul(factor) };
    millis.map(|m| m.to_string()).ok_or_else(|| invalid(name, value, "is too large"))
}

/// The layer that a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigSource {
    /// Set on the topic.
    TopicConfig,
    /// Set for the whole broker.
    BrokerConfig,
    /// This crate's default.
    Default,
}

/// One config of a topic with the value in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    name: Cow<'static, str>,
    value: String,
    source: ConfigSource,
    inert: Option<&'static str>,
    doc: &'static str,
}

impl ConfigEntry {
    /// Kafka's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value in force, in Kafka's text form.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Which layer set it. A value that the catalog states only for a stock broker's sake, equal to what
    /// the layers below would give, is counted to those layers.
    #[must_use]
    pub fn source(&self) -> ConfigSource {
        self.source
    }

    /// Why the config changes nothing in this process, where it does not: it is kept for a stock broker.
    #[must_use]
    pub fn without_effect(&self) -> Option<&'static str> {
        self.inert
    }

    /// What the config means, in a few words; empty for an unknown one.
    #[must_use]
    pub fn doc(&self) -> &'static str {
        self.doc
    }
}

fn invalid(name: &str, value: &str, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("{name}={value:?} {why}"))
}

/// Where the configs of topics are told.
const LISTED: &str = "describe_configs lists those of a topic";

/// A name that is none of the known ones, with the nearest of them or else where they are told.
pub(crate) fn unknown_name(name: &str, known: impl Iterator<Item = &'static str>, listed: &'static str) -> Error {
    let error = Error::new(ErrorKind::InvalidConfig, format!("no config is named {name:?}"));
    let nearest = known.map(|k| (distance(name, k), k)).min();
    match nearest {
        Some((far, near)) if far <= name.len().div_ceil(3) => error.remedy(format!("did you mean {near}?")),
        _ => error.remedy(listed),
    }
}

/// Levenshtein's edit distance, by bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().take(128).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;

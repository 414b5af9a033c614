//! The table of configs, its layers, and what is written for a stock broker.

use super::*;

fn none() -> BrokerDefaults {
    BrokerDefaults::default()
}

fn entry(config: &TopicConfig, defaults: &BrokerDefaults, name: &str) -> (String, ConfigSource) {
    let entries = config.describe(defaults);
    let entry = entries.iter().find(|e| e.name() == name).unwrap();
    (entry.value().to_owned(), entry.source())
}

fn record<'a>(records: &'a [(String, String)], name: &str) -> Option<&'a str> {
    records.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

#[test]
fn the_table_is_sound() {
    for pair in SPECS.windows(2) {
        assert!(pair[0].name < pair[1].name, "{} is out of order", pair[1].name);
    }
    for spec in SPECS.iter().filter(|s| s.name != table::INTERNAL_SEGMENT_BYTES) {
        for value in [spec.stock, spec.ours].into_iter().chain(spec.compacted) {
            assert_eq!(spec.kind.canonical(value).as_deref(), Ok(value), "{}", spec.name);
        }
    }
}

#[test]
fn a_misspelt_name_is_refused_with_the_nearest() {
    let error = TopicConfig::new().set("retention_ms", "1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("did you mean retention.ms?"), "{error}");
    let error = none().set("log.retention.hour", "1").unwrap_err();
    assert!(error.to_string().contains("did you mean log.retention.hours?"), "{error}");
    let error = TopicConfig::new().set("colour", "red").unwrap_err();
    assert!(!error.to_string().contains("did you mean"), "{error}");
}

#[test]
fn values_that_would_stop_a_stock_broker_are_refused() {
    for (name, value) in [
        ("segment.bytes", "1048575"),
        ("segment.bytes", "2147483648"),
        ("segment.bytes", "ten"),
        ("internal.segment.bytes", "0"),
        ("retention.ms", "-2"),
        ("retention.ms", "1.5"),
        ("retention.ms", ""),
        ("cleanup.policy", "shred"),
        ("compression.type", "none"),
        ("compression.gzip.level", "0"),
        ("min.cleanable.dirty.ratio", "NaN"),
        ("preallocate", "yes"),
        ("flush.messages", "0"),
        ("min.insync.replicas", "2"),
        ("remote.storage.enable", "true"),
        ("leader.replication.throttled.replicas", "1-2"),
    ] {
        let error = TopicConfig::new().set(name, value).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{name}={value}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn values_are_stored_in_canonical_form() {
    for (name, given, stored) in [
        ("segment.bytes", " 1048576\n", "1048576"),
        ("retention.ms", "+5", "5"),
        ("cleanup.policy", " delete , compact,delete", "compact,delete"),
        ("cleanup.policy", "", ""),
        ("preallocate", "TRUE", "true"),
        ("min.cleanable.dirty.ratio", "1", "1.0"),
        ("leader.replication.throttled.replicas", "0:1, 1:1", "0:1,1:1"),
        ("retention.bytes", "-5", "-5"),
    ] {
        assert_eq!(TopicConfig::new().set(name, given).unwrap().get(name), Some(stored));
    }
}

#[test]
fn a_typed_setter_reports_its_error_when_the_topic_is_made() {
    assert!(TopicConfig::new().segment_bytes(1 << 20).validate(&none()).is_ok());
    assert!(TopicConfig::new().segment_bytes(100).retention_forever().validate(&none()).is_err());
    assert!(TopicConfig::new().durability(Durability::None).validate(&none()).is_err());
    let lags = TopicConfig::new().min_compaction_lag(Duration::from_secs(2)).max_compaction_lag(Duration::from_secs(1));
    assert_eq!(lags.validate(&none()).unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[test]
fn typed_setters_write_kafkas_values() {
    let config = TopicConfig::new()
        .retention(Duration::from_secs(1))
        .compression(Codec::Zstd)
        .timestamp_type(TimestampType::LogAppendTime)
        .min_cleanable_dirty_ratio(0.25)
        .durability(Durability::ProcessCrash);
    assert_eq!(config.get("retention.ms"), Some("1000"));
    assert_eq!(config.get("min.cleanable.dirty.ratio"), Some("0.25"));
    let settings = config.settings(&none());
    assert_eq!(settings.retention, Some(Duration::from_secs(1)));
    assert_eq!(settings.compression.map(|c| c.codec()), Some(Codec::Zstd));
    assert_eq!(settings.timestamp_type, TimestampType::LogAppendTime);
    assert_eq!(settings.durability, Durability::ProcessCrash);
}

#[test]
fn our_defaults_are_written_for_a_stock_broker() {
    let records = TopicConfig::new().explicit_records(&none());
    let expected = [("flush.messages", "1"), ("message.timestamp.after.max.ms", "3600000"), ("retention.ms", "-1")];
    assert_eq!(records, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    let compacted = TopicConfig::new().cleanup_policy(CleanupPolicy::Compact);
    assert_eq!(record(&compacted.explicit_records(&none()), "segment.bytes"), Some("67108864"));
    assert_eq!(compacted.settings(&none()).segment_bytes, 64 << 20);
    assert_eq!(TopicConfig::new().settings(&none()).segment_bytes, 1 << 30);
}

#[test]
fn the_three_layers_decide_in_order() {
    let defaults = none().set("log.retention.hours", "2").unwrap().set("segment.bytes", "2097152").unwrap();
    let plain = TopicConfig::new();
    assert_eq!(entry(&plain, &none(), "retention.ms"), ("-1".into(), ConfigSource::Default));
    assert_eq!(entry(&plain, &defaults, "retention.ms"), ("7200000".into(), ConfigSource::BrokerConfig));
    let own = plain.clone().retention_forever();
    assert_eq!(entry(&own, &defaults, "retention.ms"), ("-1".into(), ConfigSource::TopicConfig));
    assert_eq!(
        defaults.properties().collect::<Vec<_>>(),
        [("log.retention.ms", "7200000"), ("log.segment.bytes", "2097152")]
    );
}

#[test]
fn a_record_that_restates_a_default_is_not_taken_for_an_override() {
    let written = TopicConfig::new().explicit_records(&none());
    let read = TopicConfig::from_records(written.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    assert_eq!(entry(&read, &none(), "retention.ms").1, ConfigSource::Default);
    // It holds against a default that is set later: the topic keeps what it was created with.
    let defaults = none().set("retention.ms", "1000").unwrap();
    assert_eq!(entry(&read, &defaults, "retention.ms"), ("-1".into(), ConfigSource::TopicConfig));
}

/// What is taken for a stock broker's sake alone must say so, or it would be an option that does nothing.
#[test]
fn settings_that_only_a_stock_broker_heeds_say_so() {
    let entries = TopicConfig::new().describe(&BrokerDefaults::default());
    for name in ["file.delete.delay.ms", "delete.retention.ms", "min.cleanable.dirty.ratio", "min.compaction.lag.ms"] {
        let entry = entries.iter().find(|e| e.name() == name).unwrap();
        assert!(entry.without_effect().is_some(), "{name}");
    }
}

#[test]
fn foreign_records_are_kept_and_shown() {
    let read = TopicConfig::from_records([("message.format.version", "3.0-IV1"), ("min.insync.replicas", "2")]);
    let entries = read.describe(&none());
    let foreign = entries.iter().find(|e| e.name() == "message.format.version").unwrap();
    assert!(foreign.without_effect().is_some());
    assert_eq!(entry(&read, &none(), "min.insync.replicas").0, "2");
    assert_eq!(record(&read.explicit_records(&none()), "message.format.version"), Some("3.0-IV1"));
    assert!(read.altered(&[("message.format.version", None)]).is_ok());
}

#[test]
fn removing_an_override_falls_back_to_our_default_in_the_records() {
    let config = TopicConfig::new().retention(Duration::from_secs(1));
    let altered = config.altered(&[("retention.ms", None), ("segment.ms", Some("10"))]).unwrap();
    let records = altered.explicit_records(&none());
    assert_eq!(record(&records, "retention.ms"), Some("-1"));
    assert_eq!(record(&records, "segment.ms"), Some("10"));
    assert!(config.altered(&[("retention", None)]).is_err());
}

#[test]
fn internal_segment_bytes_is_hidden_until_used() {
    let tiny = TopicConfig::new().set("internal.segment.bytes", "200").unwrap();
    assert_eq!(tiny.settings(&none()).segment_bytes, 200);
    let shown = |c: &TopicConfig| c.describe(&none()).iter().any(|e| e.name() == "internal.segment.bytes");
    assert!(shown(&tiny) && !shown(&TopicConfig::new()));
}

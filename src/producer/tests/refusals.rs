//! What is refused before anything is sent.

use super::*;

const CODECS: [(Codec, bool); 5] = [
    (Codec::None, true),
    (Codec::Gzip, cfg!(feature = "gzip")),
    (Codec::Snappy, cfg!(feature = "snappy")),
    (Codec::Lz4, cfg!(feature = "lz4")),
    (Codec::Zstd, cfg!(feature = "zstd")),
];

#[test]
fn a_codec_that_is_not_built_in_is_refused_where_it_is_chosen() {
    let broker = broker();
    for (codec, is_built_in) in CODECS {
        let name = &codec.to_string();
        let producer = || broker.producer().linger(Duration::ZERO);
        let named = if codec == Codec::None { "uncompressed" } else { name };
        let topic = broker.topic(format!("typed-{name}")).config(TopicConfig::new().compression(codec));
        let open = Broker::builder("/m").storage(MemoryStorage::new()).config("compression.type", named).open();
        // Another program chose it.
        let foreign = TopicConfig::from_records([("compression.type", named)]);
        let foreign = broker.topic(format!("foreign-{name}")).config(foreign).create().unwrap();
        let refusals = [
            producer().compression(codec).build().err(),
            producer().config("compression.type", name).build().err(),
            topic.create().err(),
            broker.topic(format!("named-{name}")).set("compression.type", named).create().err(),
            open.err(),
            producer().build().unwrap().enqueue(&foreign, "x").err(),
            foreign.send("x").err(),
        ];
        // It keeps its codec while something else of it changes.
        foreign.alter_configs(&[("retention.ms", Some("1000"))]).unwrap();
        for (place, refusal) in refusals.iter().enumerate() {
            assert_eq!(refusal.is_none(), is_built_in, "{name} at {place}: {refusal:?}");
            let Some(refusal) = refusal else { continue };
            assert_eq!(refusal.kind(), ErrorKind::Unsupported);
            let text = refusal.to_string();
            assert!(text.contains(&format!("{name} compression is not built in")), "{text}");
            assert!(text.contains(&format!("build thalweg with its cargo feature \"{name}\"")), "{text}");
        }
    }
}

#[test]
fn a_time_before_all_is_refused_and_no_time_is_taken() {
    for stamped in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        let broker = broker();
        let topic = broker.topic("t").config(TopicConfig::new().timestamp_type(stamped)).create().unwrap();
        let (producer, partition) = (broker.producer().build().unwrap(), topic.partition(0).unwrap());
        for millis in [i64::MIN, -2, -1, 0, 1] {
            let record = || Record::new("x").timestamp(millis);
            let sent = [
                producer.enqueue(&topic, record()).map(drop),
                producer.send(&topic, record()).map(drop),
                topic.send(record()).map(drop),
                partition.append_records([Record::new("y"), record()]).map(drop),
            ];
            for (place, sent) in sent.into_iter().enumerate() {
                let Err(error) = sent else {
                    assert!(millis >= -1, "{millis} at {place}");
                    continue;
                };
                assert_eq!(error.kind(), ErrorKind::InvalidTimestamp);
                assert!(millis < -1 && error.to_string().contains(&format!("the timestamp {millis}")), "{error}");
            }
        }
        producer.flush().unwrap();
        partition.sync().unwrap();
        assert_eq!(values(&topic).len(), 3 * 5, "{stamped:?}");
    }
}

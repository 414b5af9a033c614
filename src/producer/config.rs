//! A producer's options by Kafka's names: what each means in one process, and why some mean nothing here.

use std::str::FromStr;
use std::time::Duration;

use super::ProducerBuilder;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Codec;
use crate::topic::config::unknown_name;
use crate::types::Durability;

const NETWORK: &str = "there is no network between a producer and its broker";

/// Options that are heeded.
const HEEDED: [&str; 13] = [
    "acks",
    "batch.size",
    "buffer.memory",
    "compression.type",
    "delivery.timeout.ms",
    "linger.ms",
    "max.block.ms",
    "max.in.flight.requests.per.connection",
    "max.request.size",
    "partitioner.class",
    "retries",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
];

/// Options that are refused, and why.
const REFUSED: [(&str, &str); 29] = [
    ("bootstrap.servers", NETWORK),
    ("client.dns.lookup", NETWORK),
    ("client.id", NETWORK),
    ("client.rack", NETWORK),
    ("compression.gzip.level", "give the level with ProducerBuilder::compression"),
    ("compression.lz4.level", "give the level with ProducerBuilder::compression"),
    ("compression.zstd.level", "give the level with ProducerBuilder::compression"),
    ("connections.max.idle.ms", NETWORK),
    ("enable.idempotence", "a batch is given to the log once, so there are no duplicates to be told apart"),
    ("enable.metrics.push", NETWORK),
    ("interceptor.classes", "change records before you hand them over"),
    ("key.serializer", "use Topic::typed"),
    ("metadata.max.age.ms", NETWORK),
    ("metadata.max.idle.ms", NETWORK),
    ("metric.reporters", "read Broker::metrics and report it as you like"),
    ("partitioner.adaptive.partitioning.enable", "all partitions have the same disk"),
    ("partitioner.availability.timeout.ms", "all partitions have the same disk"),
    ("partitioner.ignore.keys", "use ProducerBuilder::round_robin or a partitioner of your own"),
    ("receive.buffer.bytes", NETWORK),
    ("reconnect.backoff.max.ms", NETWORK),
    ("reconnect.backoff.ms", NETWORK),
    ("request.timeout.ms", NETWORK),
    ("security.protocol", NETWORK),
    ("send.buffer.bytes", NETWORK),
    ("socket.connection.setup.timeout.max.ms", NETWORK),
    ("socket.connection.setup.timeout.ms", NETWORK),
    ("transaction.timeout.ms", "transactions are not written yet"),
    ("transactional.id", "transactions are not written yet"),
    ("value.serializer", "use Topic::typed"),
];

const ROUND_ROBIN: &str = "org.apache.kafka.clients.producer.RoundRobinPartitioner";

impl ProducerBuilder {
    /// Sets an option by Kafka's name. A bad name or value is reported by [`build`](Self::build), a misspelt name with
    /// the nearest one, one that means nothing here with the reason.
    ///
    /// | name | here |
    /// |---|---|
    /// | `acks` | `all`: as durable as the topic says; `1`: as the operating system keeps it; `0`: taken |
    /// | `batch.size`, `buffer.memory`, `max.request.size` | bytes: [`batch_size`](Self::batch_size), [`buffer_memory`](Self::buffer_memory), [`max_request_size`](Self::max_request_size) |
    /// | `linger.ms`, `max.block.ms` | milliseconds: [`linger`](Self::linger), [`max_block`](Self::max_block) |
    /// | `compression.type` | a codec at its default level: [`compression`](Self::compression) |
    /// | `max.in.flight.requests.per.connection` | any number from 1: batches of a partition are never reordered, however many are on their way |
    /// | `retries`, `delivery.timeout.ms` | a number from 0, and milliseconds: [`retries`](Self::retries), [`delivery_timeout`](Self::delivery_timeout) |
    /// | `retry.backoff.ms`, `retry.backoff.max.ms` | milliseconds: [`retry_backoff`](Self::retry_backoff) |
    /// | `partitioner.class` | `org.apache.kafka.clients.producer.RoundRobinPartitioner` only |
    ///
    /// ```
    /// use thalweg::{Broker, ErrorKind};
    /// let broker = Broker::in_memory()?;
    /// let producer = broker.producer().config("linger.ms", "20").config("acks", "1").build()?;
    /// let error = broker.producer().config("lingerms", "20").build().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    /// assert!(error.to_string().contains("linger.ms"));
    /// # drop(producer);
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub fn config(self, name: &str, value: &str) -> Self {
        match self.clone().set(name, value.trim()) {
            Ok(changed) => changed,
            Err(error) => Self { refused: self.refused.or(Some(error)), ..self },
        }
    }

    fn set(mut self, name: &str, value: &str) -> Result<Self> {
        match name {
            "acks" => self.settings.durability = Durability::from_acks(value)?,
            "batch.size" => self.settings.batch_bytes = number(name, value, 1)?,
            "buffer.memory" => self.settings.buffer_bytes = number(name, value, 1)?,
            "compression.type" => self.settings.compression = Codec::from_str(value)?.into(),
            "delivery.timeout.ms" => self.settings.retries.delivery = Some(millis(name, value)?),
            "linger.ms" => self.settings.linger = Some(millis(name, value)?),
            "max.block.ms" => self.settings.max_block = millis(name, value)?,
            // Order is kept at every number.
            "max.in.flight.requests.per.connection" => drop(number::<u32>(name, value, 1)?),
            "max.request.size" => self.settings.max_request_bytes = number(name, value, 0)?,
            "retries" => self.settings.retries.most = number(name, value, 0)?,
            "retry.backoff.max.ms" => self.settings.retries.backoff_max = millis(name, value)?,
            "retry.backoff.ms" => self.settings.retries.backoff = millis(name, value)?,
            "partitioner.class" if value == ROUND_ROBIN => self = self.round_robin(),
            "partitioner.class" => {
                let remedy = "use ProducerBuilder::partitioner for one of your own";
                return Err(invalid(name, value, &format!("is not {ROUND_ROBIN}")).remedy(remedy));
            }
            _ => match REFUSED.iter().find(|(refused, _)| *refused == name) {
                Some((_, why)) => return Err(invalid(name, value, "is refused").remedy(*why)),
                None => {
                    let known = HEEDED.into_iter().chain(REFUSED.iter().map(|(refused, _)| *refused));
                    return Err(unknown_name(name, known, "ProducerBuilder::config lists those of a producer"));
                }
            },
        }
        Ok(self)
    }
}

fn number<T: FromStr + PartialOrd + std::fmt::Display>(name: &str, value: &str, least: T) -> Result<T> {
    let fits = value.parse().ok().filter(|number| *number >= least);
    fits.ok_or_else(|| invalid(name, value, &format!("is not a number from {least}")))
}

fn millis(name: &str, value: &str) -> Result<Duration> {
    number(name, value, 0).map(Duration::from_millis)
}

fn invalid(name: &str, value: &str, why: &str) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("{name}={value:?} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Broker;
    use crate::producer::Retries;

    fn refusal(name: &str, value: &str) -> String {
        let broker = Broker::in_memory().unwrap();
        let error = broker.producer().config(name, value).config("linger.ms", "1").build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{name}");
        error.to_string()
    }

    #[test]
    fn options_have_kafkas_names() {
        let broker = Broker::in_memory().unwrap();
        let set = |builder: ProducerBuilder, (name, value)| builder.config(name, value);
        let options = [
            ("acks", "1"),
            ("batch.size", "100"),
            ("buffer.memory", "2000"),
            ("compression.type", "gzip"),
            ("delivery.timeout.ms", "3000"),
            ("linger.ms", "20"),
            ("max.block.ms", " 7 "),
            ("max.in.flight.requests.per.connection", "1"),
            ("max.request.size", "50"),
            ("partitioner.class", ROUND_ROBIN),
            ("retries", "2147483647"),
            ("retry.backoff.max.ms", "8"),
            ("retry.backoff.ms", "9"),
        ];
        assert_eq!(options.map(|(name, _)| name), HEEDED, "every one is tried");
        let builder = options.into_iter().fold(broker.producer(), set);
        let s = &builder.settings;
        assert_eq!((s.durability, s.batch_bytes, s.buffer_bytes), (Some(Durability::ProcessCrash), 100, 2000));
        assert_eq!((s.compression.codec(), s.max_request_bytes), (Codec::Gzip, 50));
        assert_eq!((s.linger, s.max_block), (Some(Duration::from_millis(20)), Duration::from_millis(7)));
        let Retries { most, backoff, backoff_max, delivery } = s.retries;
        assert_eq!((most, delivery), (i32::MAX.cast_unsigned(), Some(Duration::from_secs(3))));
        assert_eq!((backoff, backoff_max), (Duration::from_millis(9), Duration::from_millis(8)));
        builder.config("acks", "all").build().unwrap();
        for (acks, level) in [("all", None), ("-1", None), ("0", Some(Durability::None))] {
            assert_eq!(broker.producer().config("acks", acks).settings.durability, level);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        assert!(refusal("acks", "2").contains("0, 1 or all"));
        assert!(refusal("batch.size", "0").contains("from 1"));
        assert!(refusal("linger.ms", "-1").contains("from 0"));
        assert!(refusal("linger_ms", "1").contains("did you mean linger.ms?"));
        assert!(refusal("retires", "1").contains("did you mean retries?"));
        assert!(refusal("delivery.timeout.ms", "0").contains("less than linger.ms, 1"));
        assert!(refusal("partitioner.class", "Mine").contains("ProducerBuilder::partitioner"));
        for (name, why) in REFUSED {
            assert!(refusal(name, "1").contains(why), "{name}");
        }
    }
}

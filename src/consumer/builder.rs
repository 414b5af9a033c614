//! Settings of a consumer, by Kafka's names and with Kafka's defaults unless said otherwise.

use std::sync::Arc;
use std::time::Duration;

use super::poll::Consumer;
use super::subscription::Wish;
use crate::broker::Broker;
use crate::error::Result;
use crate::group::{Assignor, RangeAssignor};
use crate::types::{Isolation, Start};

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) client_id: String,
    pub(super) start: Start,
    pub(super) isolation: Isolation,
    pub(super) max_poll_records: usize,
    pub(super) fetch_max_bytes: usize,
    pub(super) max_partition_fetch_bytes: usize,
    pub(super) max_poll_interval: Duration,
    pub(super) assignor: Arc<dyn Assignor>,
}

/// Prepares a [`Consumer`].
///
/// ```
/// use std::time::Duration;
/// use thalweg::{Broker, Start};
/// let broker = Broker::in_memory()?;
/// let mut consumer = broker
///     .consumer_group("billing")
///     .consumer(["orders"])
///     .start(Start::Earliest)
///     .max_poll_records(100)
///     .join()?;
/// assert!(consumer.poll(Duration::ZERO)?.is_empty());
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is read before join()"]
pub struct ConsumerBuilder {
    broker: Broker,
    group: Arc<str>,
    wish: Result<Wish>,
    settings: Settings,
}

impl ConsumerBuilder {
    pub(super) fn new(broker: Broker, group: Arc<str>, wish: Result<Wish>) -> Self {
        let settings = Settings {
            client_id: "thalweg".to_owned(),
            start: Start::default(),
            isolation: Isolation::default(),
            max_poll_records: 500,
            fetch_max_bytes: 50 * 1024 * 1024,
            max_partition_fetch_bytes: 1024 * 1024,
            max_poll_interval: Duration::from_secs(300),
            assignor: Arc::new(RangeAssignor),
        };
        Self { broker, group, wish, settings }
    }

    /// Where to start in a partition of which the group has committed no offset
    /// (`auto.offset.reset`); the earliest record by default, unlike Kafka. [`Start::Latest`] means
    /// the end at the moment of joining: records of partitions that appear later are read in full.
    pub fn start(mut self, start: Start) -> Self {
        self.settings.start = start;
        self
    }

    /// What it may see (`isolation.level`); [`Isolation::ReadCommitted`] by default, unlike Kafka.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.settings.isolation = isolation;
        self
    }

    /// The most records that one poll hands out (`max.poll.records`), at least one; 500 by default.
    pub fn max_poll_records(mut self, records: usize) -> Self {
        self.settings.max_poll_records = records.max(1);
        self
    }

    /// About how many bytes one poll reads ahead over all partitions (`fetch.max.bytes`), 50 MiB
    /// by default. A single batch may be larger.
    pub fn fetch_max_bytes(mut self, bytes: usize) -> Self {
        self.settings.fetch_max_bytes = bytes;
        self
    }

    /// About how many bytes one poll reads ahead per partition (`max.partition.fetch.bytes`),
    /// 1 MiB by default. A single batch may be larger.
    pub fn max_partition_fetch_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_partition_fetch_bytes = bytes;
        self
    }

    /// How long it may stay away from `poll` before the other members take over its partitions
    /// (`max.poll.interval.ms`), at least a millisecond; 5 minutes by default.
    pub fn max_poll_interval(mut self, interval: Duration) -> Self {
        self.settings.max_poll_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// The name shown in descriptions of the group (`client.id`); the member id begins with it.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.settings.client_id = id.into();
        self
    }

    /// How the members share the partitions (`partition.assignment.strategy`); all of them must
    /// agree. [`RangeAssignor`] by default.
    pub fn assignor(mut self, assignor: impl Assignor + 'static) -> Self {
        self.settings.assignor = Arc::new(assignor);
        self
    }

    /// Joins the group. With partitions chosen by hand it only opens them: such a consumer is no
    /// member, and commits only while the group has none.
    ///
    /// # Errors
    /// A bad group id, topic name or pattern, an assignor other than that of the members, and for partitions
    /// chosen by hand one that does not exist.
    pub fn join(self) -> Result<Consumer> {
        Consumer::start(self.broker, self.group, self.wish?, self.settings)
    }
}

//! The broker's verbs, one per thing that Kafka's protocol can ask for: what producers, consumers
//! and, later, a server call. Typed requests and answers, no logic of the caller's. Group verbs are
//! in `groups.rs`.

use std::sync::Arc;

use super::Broker;
use crate::clock::Clock;
use crate::error::Result;
use crate::log::{OffsetAtTime, Signal};
use crate::record::RecordBatch;
use crate::topic::{Ack, Fetched, Partition, ReadFrom, TopicListing};
use crate::types::{Durability, Isolation, Offset, PartitionId, ProducerId, TopicPartition, Uuid};

impl Broker {
    /// The broker's clock.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        todo!()
    }

    /// Notified when topics or partitions come or go, or a config changes, or the broker closes.
    pub(crate) fn topology(&self) -> &Arc<Signal> {
        todo!()
    }

    /// All topics with their ids and partition counts, Kafka's own ones included, by name.
    pub(crate) fn list_topics(&self) -> Result<Vec<TopicListing>> {
        todo!()
    }

    /// One topic by name.
    pub(crate) fn find_topic(&self, _name: &str) -> Result<Option<TopicListing>> {
        todo!()
    }

    /// One partition; with an id, the topic of that id only (`TopicDeleted` when it is gone).
    pub(crate) fn find_partition(
        &self,
        _topic: &str,
        _topic_id: Option<Uuid>,
        _partition: PartitionId,
    ) -> Result<Arc<Partition>> {
        todo!()
    }

    /// Produce: appends one batch and returns at once; `level` `None` means the topic's own. The answer
    /// is waited on for the acknowledgement.
    pub(crate) fn produce(
        &self,
        _partition: &Arc<Partition>,
        _batch: &RecordBatch,
        _level: Option<Durability>,
    ) -> Result<Ack> {
        todo!()
    }

    /// Fetch: whole batches from the one that holds `from`, about `max_bytes` of them and at least one;
    /// empty at the visible end. An offset below the log start is `Overtaken` (its `at_offset()` is the
    /// log start), one beyond the end `OffsetOutOfRange`. Wait for more with `Partition::watch`.
    pub(crate) fn fetch(
        &self,
        _partition: &Arc<Partition>,
        _from: Offset,
        _max_bytes: usize,
        _isolation: Isolation,
    ) -> Result<Fetched> {
        todo!()
    }

    /// ListOffsets: the offset that a start policy, an offset or a time means; `Latest` is the visible end
    /// under `isolation`. A time later than every record's means the end.
    pub(crate) fn list_offset(
        &self,
        _partition: &Arc<Partition>,
        _from: ReadFrom,
        _isolation: Isolation,
    ) -> Result<Offset> {
        todo!()
    }
}

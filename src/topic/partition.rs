//! One partition: a log that opens when it is first touched, and what the catalog knows about it.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::log::{Appended, Committed, LogOffsets, OffsetAtTime, Signal};
use crate::record::RecordBatch;
use crate::types::{Durability, Isolation, Offset, Timestamp, TopicPartition, Uuid};

/// One partition of one topic id; lives in the broker's registry, shared by all who use it.
pub(crate) struct Partition {}

/// An append that is staged: waited on for its acknowledgement.
pub(crate) struct Ack {}

impl Ack {
    pub(crate) fn appended(&self) -> Appended {
        todo!()
    }

    /// Blocks until the append has reached its level.
    pub(crate) fn wait(&self) -> Result<()> {
        todo!()
    }

    /// Has the broker's sync thread bring it to its level, and resolves then.
    pub(crate) fn committed(&self) -> Committed {
        todo!()
    }
}

impl Partition {
    pub(crate) fn name(&self) -> &TopicPartition {
        todo!()
    }

    pub(crate) fn topic_id(&self) -> Uuid {
        todo!()
    }

    /// Stages one batch; see [`Ack`].
    pub(crate) fn append(self: &Arc<Self>, _batch: &RecordBatch, _level: Option<Durability>) -> Result<Ack> {
        todo!()
    }

    pub(crate) fn read(&self, _from: Offset, _max_bytes: usize, _isolation: Isolation) -> Result<super::Fetched> {
        todo!()
    }

    pub(crate) fn offsets(&self) -> Result<LogOffsets> {
        todo!()
    }

    pub(crate) fn offset_at(&self, _time: Timestamp, _isolation: Isolation) -> Result<Option<OffsetAtTime>> {
        todo!()
    }

    /// Has `signal` notified whenever more becomes readable, the log start moves, or the partition is
    /// deleted or closed.
    pub(crate) fn watch(&self, _signal: &Arc<Signal>) -> Result<()> {
        todo!()
    }

    /// `TopicDeleted` or `Closed`, once it is either.
    pub(crate) fn check_alive(&self) -> Result<()> {
        todo!()
    }
}

//! What Kafka's offset checkpoints say of partitions.

use std::collections::HashMap;

use crate::types::{Offset, TopicPartition};

/// Kafka's three offset checkpoints as found at open.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    pub(crate) log_start: HashMap<TopicPartition, Offset>,
    pub(crate) recovery_point: HashMap<TopicPartition, Offset>,
    pub(crate) high_watermark: HashMap<TopicPartition, Offset>,
    /// A stock broker left the directory in order.
    pub(crate) clean: bool,
}

impl Checkpoints {
    /// What they say of one partition.
    pub(crate) fn of(&self, name: &TopicPartition) -> Checkpoint {
        let noted = |offsets: &HashMap<_, _>| offsets.get(name).copied().unwrap_or_default();
        Checkpoint {
            log_start: noted(&self.log_start),
            recovery_point: noted(&self.recovery_point),
            high_watermark: noted(&self.high_watermark),
            clean: self.clean,
        }
    }

    /// Every partition that they name.
    pub(crate) fn names(&self) -> impl Iterator<Item = &TopicPartition> {
        self.log_start.keys().chain(self.recovery_point.keys()).chain(self.high_watermark.keys())
    }
}

/// One partition's part of them; all zero for a new one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checkpoint {
    /// Zero while it is the first segment's base.
    pub(crate) log_start: Offset,
    pub(crate) recovery_point: Offset,
    pub(crate) high_watermark: Offset,
    /// A stock broker left the directory in order.
    pub(crate) clean: bool,
}

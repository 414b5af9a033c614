//! The broker's verbs on partitions: what producers, consumers and, later, a server call. Verbs on
//! topics are in `topics.rs`, on groups in `groups.rs`.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::options::Threads;
use super::{Broker, Partition, Task};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Appended, LogPosition, LogRead};
use crate::record::RecordBatch;
use crate::topic::{self, Condition, Passed, name};
use crate::types::{Isolation, Offset, TopicPartition};

impl Broker {
    /// The broker's clock.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.context.clock
    }

    /// `Closed` once it is.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.inner.check_open()
    }

    /// Changes whenever topics come, go or gain partitions.
    pub(crate) fn catalog_version(&self) -> u64 {
        self.inner.catalog_version.load(Ordering::Acquire)
    }

    /// The names of all topics, Kafka's own ones included.
    pub(crate) fn topic_names(&self) -> Vec<Arc<str>> {
        self.inner.registry.all().iter().map(|topic| Arc::clone(&topic.name)).collect()
    }

    /// How many partitions a topic has, where there is one.
    pub(crate) fn partition_count(&self, topic: &str) -> Option<i32> {
        self.inner.registry.get(topic).and_then(|topic| i32::try_from(topic.partition_count()).ok())
    }

    /// The partition of that name.
    pub(crate) fn partition(&self, name: &TopicPartition) -> Result<Partition> {
        let partition = self.topic_entry(name.topic(), None)?.partition(name.partition())?;
        Ok(Partition::new(self.clone(), partition))
    }

    /// Produce: stages one batch and returns at once. `Partition::wait` is the acknowledgement.
    pub(crate) fn produce(&self, partition: &Arc<topic::Partition>, batch: &RecordBatch) -> Result<Appended> {
        self.check_producible(partition)?;
        partition.append(batch)
    }

    /// The same for who must not wait for the disk; see [`append_in_passing`](topic::Partition::append_in_passing).
    pub(crate) fn produce_in_passing(
        &self,
        partition: &Arc<topic::Partition>,
        batch: &RecordBatch,
        after: Option<LogPosition>,
    ) -> Result<Passed> {
        self.check_producible(partition)?;
        partition.append_in_passing(batch, after)
    }

    /// The same as [`produce`](Self::produce), on condition that nobody else has appended meanwhile.
    pub(crate) fn produce_if(
        &self,
        partition: &Arc<topic::Partition>,
        batch: &RecordBatch,
        condition: Condition<'_>,
    ) -> Result<Appended> {
        self.check_producible(partition)?;
        partition.append_if(condition, batch)
    }

    fn check_producible(&self, partition: &topic::Partition) -> Result<()> {
        self.inner.check_open()?;
        if name::is_internal(partition.name().topic()) {
            // What does not read back as theirs would keep every group from being found again.
            return Err(Error::new(ErrorKind::InvalidArgument, "only the broker itself writes to Kafka's own topics")
                .partition(partition.name().clone()));
        }
        Ok(())
    }

    /// Fetch: whole batches from the one that holds `from`; empty at the visible end. An offset below the
    /// log start is `Overtaken`, with the log start as the error's offset.
    pub(crate) fn fetch(
        &self,
        partition: &topic::Partition,
        from: Offset,
        max_bytes: usize,
        isolation: Isolation,
    ) -> Result<LogRead> {
        self.inner.check_open()?;
        partition.read(from, max_bytes, isolation)
    }

    /// DeleteRecords: makes everything below `to` unreadable, durably, for a stock broker as well.
    pub(crate) fn delete_records(&self, partition: &topic::Partition, to: Offset) -> Result<Offset> {
        self.inner.check_open()?;
        if name::is_internal(partition.name().topic()) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "records of Kafka's own topics are not deleted by offset",
            )
            .partition(partition.name().clone()));
        }
        let start = partition.delete_records(to)?;
        self.inner.write_checkpoints()?;
        Ok(start)
    }

    /// A block of producer ids that nobody else will ever get (`InitProducerId`, KIP-360), recorded in the catalog
    /// before it is given: for idempotent batches that are built by hand.
    ///
    /// ```
    /// let broker = thalweg::Broker::in_memory()?;
    /// let (first, second) = (broker.allocate_producer_ids(1000)?, broker.allocate_producer_ids(1000)?);
    /// assert_eq!(first.end, second.start);
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::ReadOnly`], [`ErrorKind::Closed`], or when
    /// the catalog cannot be written.
    pub fn allocate_producer_ids(&self, count: u32) -> Result<Range<i64>> {
        self.inner.check_open()?;
        self.inner.check_writable()?;
        self.inner.catalog.allocate_producer_ids(count)
    }

    /// Why this directory can be read but not changed; `None` when it can be changed. So it is with directories that
    /// other nodes share, or whose catalog holds records that this release does not know, and with those that were
    /// opened [`read_only`](super::BrokerBuilder::read_only).
    ///
    /// ```
    /// assert!(thalweg::Broker::in_memory()?.read_only().is_none());
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    #[must_use]
    pub fn read_only(&self) -> Option<Error> {
        self.inner.context.read_only.clone()
    }

    /// Has `task` run by the sync thread at `due`, in monotonic time; without threads, by `run_maintenance`.
    pub(crate) fn run_at(&self, due: std::time::Duration, task: Weak<dyn Task>) {
        self.inner.background.run_at(due, task);
    }

    #[cfg(test)]
    pub(crate) fn is_stopping(&self) -> bool {
        self.inner.background.is_stopped()
    }

    /// Has `errand`, which waits for the disk, done by a thread that may; `false` where there is none. It is given the means to
    /// have a task run at once.
    pub(crate) fn do_later(&self, errand: impl FnOnce(&dyn Fn(Weak<dyn Task>)) + Send + 'static) -> bool {
        !self.is_manual() && self.inner.background.do_later(Box::new(errand))
    }

    /// Has the broker's threads bring everything that was appended to its topic's durability at once.
    pub(crate) fn hasten(&self) {
        self.inner.background.hasten();
    }

    /// Whether nobody but its callers does the broker's work.
    pub(crate) fn is_manual(&self) -> bool {
        self.inner.threads == Threads::None
    }

    /// Undoes `run_at`, and waits for nothing.
    #[cfg(feature = "async")]
    pub(crate) fn forget(&self, task: &Weak<dyn Task>) {
        self.inner.background.forget(task);
    }

    /// Undoes `run_at`; when it returns, no thread of the broker holds the task.
    pub(crate) fn retire(&self, task: &Weak<dyn Task>) {
        self.inner.background.retire(task);
    }
}

//! Appends whose producer is gone, and who was to ask for them: that one came to nothing is a finding.
//!
//! The log wakes who watches one as it wakes a task that waits for it. What it wakes holds neither log nor directory.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use super::{Broker, TopicEntry};
use crate::error::Error;
use crate::finding::{Finding, FindingKind, Findings};
use crate::log::Appended;
use crate::topic::Partition;
use crate::types::Durability;

impl Broker {
    /// Tells that a producer was dropped with records that it could not send.
    pub(crate) fn note_unsent(&self, error: &Error) {
        let finding =
            Finding::new(FindingKind::NotSent, format!("a producer was dropped with records unsent: {error}"));
        let partition = error.topic_partition().cloned();
        self.inner.context.findings.add(partition.into_iter().fold(finding, Finding::partition));
    }

    /// Has it told should an append not reach `level`, for which nobody else is going to ask.
    pub(crate) fn watch_left(
        &self,
        topic: &Arc<TopicEntry>,
        partition: &Arc<Partition>,
        appended: Appended,
        level: Durability,
    ) {
        let (topic, partition) = (Arc::downgrade(topic), Arc::downgrade(partition));
        let findings = Arc::clone(&self.inner.context.findings);
        Arc::new(Left { topic, partition, appended, level, findings }).wake();
    }
}

/// An append that nobody asks for.
struct Left {
    topic: Weak<TopicEntry>,
    partition: Weak<Partition>,
    appended: Appended,
    level: Durability,
    findings: Arc<Findings>,
}

impl Left {
    /// How it went; until that is known this is woken again.
    fn poll(self: &Arc<Self>, partition: &Arc<Partition>) -> Poll<Result<(), Error>> {
        let (position, level) = (self.appended.position, self.level);
        // Also after the broker was closed.
        if let Ok(true) = partition.is_committed(position, level) {
            return Poll::Ready(Ok(()));
        }
        let waker = Waker::from(Arc::clone(self));
        let mut committed = partition.committed(position, level)?;
        Pin::new(&mut committed).poll(&mut Context::from_waker(&waker))
    }
}

impl Wake for Left {
    fn wake(self: Arc<Self>) {
        let Some(partition) = self.partition.upgrade() else { return };
        let Poll::Ready(Err(error)) = self.poll(&partition) else { return };
        let records = self.appended.last_offset.get() - self.appended.base_offset.get() + 1;
        let message = format!("{records} records of a producer that was dropped did not reach their level: {error}");
        self.findings.add(Finding::new(FindingKind::NotSent, message).partition(partition.name().clone()));
        if let Some(topic) = self.topic.upgrade() {
            topic.produced.failed(records.unsigned_abs());
        }
    }
}

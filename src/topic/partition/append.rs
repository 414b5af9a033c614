//! How a leader's batch comes into the log: on conditions, within byte budgets, in the catalog's epoch.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Partition, Urgency};
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Appended, Log, LogPosition, Terms};
use crate::record::RecordBatch;
use crate::topic::keys::Condition;
use crate::types::LeaderEpoch;

/// What became of an append in passing.
#[derive(Debug)]
pub(crate) enum Passed {
    Appended(Appended),
    /// Something has to be done before that waits for the disk: [`Partition::prepare`] with so many bytes.
    Waits(u64),
}

/// Whether what was to be done was done, or somebody else is at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Done,
    OthersAtIt,
}

impl Partition {
    /// Stages one batch: it has its offsets and nothing more. [`wait`](Self::wait) and
    /// [`committed`](Self::committed) tell when it has reached a level; it reaches the topic's also when
    /// nobody waits.
    pub(crate) fn append(self: &Arc<Self>, batch: &RecordBatch) -> Result<Appended> {
        self.append_when(None, batch)
    }

    /// The same for who must not wait for the disk: nothing is written here, or deleted, that may take long. With
    /// `after`, an earlier append, it fails as that did where the log has taken that back.
    pub(crate) fn append_in_passing(
        self: &Arc<Self>,
        batch: &RecordBatch,
        after: Option<LogPosition>,
    ) -> Result<Passed> {
        let recompressed = self.recompressed(batch)?;
        let batch = recompressed.as_ref().unwrap_or(batch);
        let bytes = batch.size_bytes() as u64;
        for budget in &self.budgets {
            if !budget.admit(self, bytes)? {
                return Ok(Passed::Waits(bytes));
            }
        }
        let before = self.leader_epoch();
        match self.put(None, batch, Terms { after, in_passing: true, ..Terms::default() }) {
            Err(e) if self.log.get().is_some_and(|log| is_behind(log, before, &e)) => Ok(Passed::Waits(bytes)),
            put => put.map(Passed::Appended),
        }
    }

    /// Does what an append of so many bytes in passing does not wait for: makes room for it, and has the epoch raised.
    pub(crate) fn prepare(&self, bytes: u64) -> Result<()> {
        self.check_writable()?;
        self.budgets.iter().try_for_each(|budget| budget.make_room(self, bytes))?;
        self.on_log(|log| self.ensure_epoch(log))
    }

    /// The same, but where somebody else is making room he is not waited for.
    pub(crate) fn prepare_in_turn(&self, bytes: u64) -> Result<Attempt> {
        self.check_writable()?;
        for budget in &self.budgets {
            if budget.make_room_in_turn(self, bytes)? == Attempt::OthersAtIt {
                return Ok(Attempt::OthersAtIt);
            }
        }
        self.on_log(|log| self.ensure_epoch(log)).map(|()| Attempt::Done)
    }

    /// As [`append`](Self::append), on a condition that holds at that moment.
    pub(crate) fn append_if(self: &Arc<Self>, condition: Condition<'_>, batch: &RecordBatch) -> Result<Appended> {
        self.append_when(Some(condition), batch)
    }

    fn append_when(self: &Arc<Self>, condition: Option<Condition<'_>>, batch: &RecordBatch) -> Result<Appended> {
        let recompressed = self.recompressed(batch)?;
        let batch = recompressed.as_ref().unwrap_or(batch);
        for budget in &self.budgets {
            budget.make_room(self, batch.size_bytes() as u64)?;
        }
        self.put(condition, batch, Terms::default())
    }

    /// The batch in the topic's codec, where it is in another.
    fn recompressed(&self, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
        self.check_writable()?;
        self.settings.load().recompressed(batch).map_err(|e| e.partition(self.name.clone()))
    }

    fn put(self: &Arc<Self>, condition: Option<Condition<'_>>, batch: &RecordBatch, terms: Terms) -> Result<Appended> {
        let stage = |log: &Log, expected_end| self.stage(log, batch, Terms { expected_end, ..terms });
        let appended = self.on_log(|log| match (&self.keys, condition) {
            (Some(keys), _) => keys.append((log, self.level()), batch, condition, |end| stage(log, end)),
            (None, None) => stage(log, None),
            (None, Some(Condition::End(end))) => stage(log, Some(end)),
            (None, Some(Condition::Key { .. })) => Err(self.no_keys()),
        })?;
        let mut newest = self.newest.lock();
        *newest = (*newest).max(Some(appended.position));
        drop(newest);
        self.queue(Urgency::Soon);
        if self.log.get().is_some_and(Log::wants_tending)
            && let Some(host) = self.host()
        {
            host.tend_later(self);
        }
        Ok(appended)
    }

    /// Appends to the log in the catalog's epoch.
    fn stage(&self, log: &Log, batch: &RecordBatch, terms: Terms) -> Result<Appended> {
        loop {
            if !terms.in_passing {
                self.ensure_epoch(log)?;
            }
            let epoch = self.leader_epoch();
            match log.append_on(terms, batch, epoch) {
                // Offsets were left out just now.
                Err(e) if !terms.in_passing && is_behind(log, epoch, &e) => {}
                appended => return appended,
            }
        }
    }

    /// Fails where a condition does not hold now; it may not a moment later either.
    pub(crate) fn check(&self, condition: Condition<'_>) -> Result<()> {
        self.on_log(|log| match (condition, &self.keys) {
            (Condition::End(end), _) => log.check_end(end),
            (Condition::Key { key, newest }, Some(keys)) => keys.check((log, self.level()), key, newest),
            (Condition::Key { .. }, None) => Err(self.no_keys()),
        })
    }

    /// Builds the index of keys, if it has one. Without success it is built, or the reason told, when it is asked.
    pub(crate) fn index_keys(&self) {
        if let Some(keys) = &self.keys {
            drop(self.on_log(|log| keys.build((log, self.level()))));
        }
    }

    fn no_keys(&self) -> Error {
        Error::new(ErrorKind::InvalidArgument, "the topic has no key index")
            .partition(self.name.clone())
            .remedy("give it one when the broker is opened: BrokerBuilder::key_index")
    }

    /// Raises the catalog's epoch where the log's history asks for it.
    fn ensure_epoch(&self, log: &Log) -> Result<()> {
        if self.leader_epoch() >= log.lowest_epoch() {
            return Ok(());
        }
        let _raising = self.opening.lock();
        let at_least = log.lowest_epoch();
        if self.leader_epoch() < at_least {
            let closed = || Error::new(ErrorKind::Closed, "the broker is closed").partition(self.name.clone());
            let host = self.host().ok_or_else(closed)?;
            let epoch = host.raise_leader_epoch(&self.name, self.topic_id, at_least)?;
            self.epoch.store(epoch.get(), Ordering::Release);
        }
        Ok(())
    }
}

/// Whether an append in this epoch, or a later one, failed because the catalog's had to be raised.
fn is_behind(log: &Log, epoch: LeaderEpoch, error: &Error) -> bool {
    error.kind() == ErrorKind::FencedLeaderEpoch && epoch < log.lowest_epoch()
}

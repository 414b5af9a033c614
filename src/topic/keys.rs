//! The newest offset of each key of a partition, for appends that are conditional on it: an index in memory, of topics
//! for which one was asked, built from the log when the broker is opened.
//!
//! Invariants: what it says of a key is so at a position in the log, and the append expects the log to end there; what
//! it does not know it refuses. It holds no more bytes than its budget. Nobody waits for a sync with its lock held, so
//! that other appends go on meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::name;
use super::record::decode_from;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Appended, ExpectedEnd, Log, LogPosition};
use crate::record::RecordBatch;
use crate::types::{Durability, Isolation, Offset, ProducerId, TopicPartition};

/// What a key takes beside its own bytes, at most: its place in a table that is just growing, and what an allocator
/// adds.
const KEY_BYTES: usize = 128;

/// Bytes read at a time while an index is built.
const READ_BYTES: usize = 1 << 20;

/// What must be so for an append to take place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition<'a> {
    /// The partition ends here.
    End(ExpectedEnd),
    /// The newest record of `key` is at `newest`; there is none where that is `None`.
    Key { key: &'a [u8], newest: Option<Offset> },
}

/// What the indexes of one topic's partitions may hold together.
#[derive(Debug)]
struct KeyBudget {
    limit: usize,
    used: AtomicUsize,
}

impl KeyBudget {
    fn take(&self, bytes: usize) -> bool {
        let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The topics that have an index, with their budgets.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyIndexes {
    topics: BTreeMap<Arc<str>, Arc<KeyBudget>>,
}

impl KeyIndexes {
    /// Gives a topic an index of at most `limit` bytes.
    pub(crate) fn set(&mut self, topic: &str, limit: usize) -> Result<()> {
        name::validate(topic)?;
        if name::is_internal(topic) {
            let message = format!("topic {topic:?} is Kafka's own and has no key index");
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        if limit < KEY_BYTES {
            let message =
                format!("a key index of {limit} bytes has no room for one key: {KEY_BYTES} bytes and its own");
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        self.topics.insert(topic.into(), Arc::new(KeyBudget { limit, used: AtomicUsize::new(0) }));
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// The index of a partition, where its topic has one.
    pub(super) fn of(&self, partition: &TopicPartition) -> Option<KeyIndex> {
        let budget = Arc::clone(self.topics.get(partition.topic())?);
        Some(KeyIndex { partition: partition.clone(), keys: Mutex::new(Keys::new(budget)) })
    }
}

/// The index of one partition. Every append to the partition passes through it.
#[derive(Debug)]
pub(super) struct KeyIndex {
    partition: TopicPartition,
    keys: Mutex<Keys>,
}

#[derive(Debug)]
struct Keys {
    newest: HashMap<Box<[u8]>, Offset>,
    /// All records before are in it; `None` while it is not built.
    seen: Option<LogPosition>,
    /// From where to where they are in it as well, while somebody waits to read those between.
    ahead: Option<(LogPosition, LogPosition)>,
    /// There was no room for a key: one that is not in it may be anywhere.
    is_partial: bool,
    /// Where the log began when it was built.
    built_from: Offset,
    /// Keys whose records were all deleted below are gone from it.
    purged: Offset,
    budget: Arc<KeyBudget>,
}

impl KeyIndex {
    /// Has `stage` append, on condition that the log ends where it is told, if anywhere.
    pub(super) fn append(
        &self,
        (log, level): (&Log, Durability),
        batch: &RecordBatch,
        condition: Option<Condition<'_>>,
        stage: impl Fn(Option<ExpectedEnd>) -> Result<Appended>,
    ) -> Result<Appended> {
        let (mut keys, appended) = loop {
            let (keys, end, is_ours) = match condition {
                None => (self.keys.lock(), None, false),
                Some(Condition::End(end)) => (self.keys.lock(), Some(end), false),
                Some(Condition::Key { key, newest }) => match self.check_key((log, level), key, newest) {
                    Ok((keys, end)) => (keys, Some(end), true),
                    // Unless it is there already: at an end that cannot be, only a duplicate is taken.
                    Err(error)
                        if error.kind() == ErrorKind::Conflict && batch.header().producer_id() != ProducerId::NONE =>
                    {
                        return stage(Some(Offset::new(-1).into())).map_err(|_| error);
                    }
                    Err(error) => return Err(error),
                },
            };
            match stage(end) {
                // Something was taken back since it was looked at.
                Err(error) if is_ours && error.kind() == ErrorKind::Conflict => {}
                appended => break (keys, appended?),
            }
        };
        keys.note(batch, &appended, log.offsets().log_start);
        Ok(appended)
    }

    /// Fails where the condition does not hold now.
    pub(super) fn check(&self, log: (&Log, Durability), key: &[u8], newest: Option<Offset>) -> Result<()> {
        self.check_key(log, key, newest).map(drop)
    }

    /// Builds the index, where it is not built.
    pub(super) fn build(&self, log: (&Log, Durability)) -> Result<()> {
        self.caught_up(log).map(drop)
    }

    /// Where the log ends, if the newest record of `key` up to there is the one at `expected`.
    fn check_key(
        &self,
        (log, level): (&Log, Durability),
        key: &[u8],
        expected: Option<Offset>,
    ) -> Result<(MutexGuard<'_, Keys>, ExpectedEnd)> {
        let (mut keys, mut end) = self.caught_up((log, level))?;
        if keys.is_partial && !keys.newest.contains_key(key) && log.offsets().log_start > keys.built_from {
            // Others may have gone since, and left it room.
            keys.forget();
            drop(keys);
            (keys, end) = self.caught_up((log, level))?;
        }
        let found = keys.newest.get(key).copied();
        if found.is_none() && keys.is_partial {
            let message = format!("the key index of {} bytes is full, and does not know this key", keys.budget.limit);
            return Err(self
                .error(ErrorKind::KeyIndexFull, message, key)
                .remedy("open the broker with a larger one, or append on condition of the partition's end"));
        }
        let found = found.filter(|&offset| offset >= log.offsets().log_start);
        let message = match (expected, found) {
            (expected, found) if expected == found => return Ok((keys, end.into())),
            (None, _) => "an append expected no record of the key".to_owned(),
            (Some(expected), _) => format!("an append expected the newest record of the key at offset {expected}"),
        };
        let conflict = self.error(ErrorKind::Conflict, message, key);
        Err(match found {
            Some(offset) => conflict.offset(offset).remedy("read the record at the offset named, and decide again"),
            None => conflict.remedy("there is none: it was never appended, or deleted"),
        })
    }

    /// Takes in what was appended since it last did, or all where something was taken back. The index and where the log
    /// ends then.
    fn caught_up(&self, (log, level): (&Log, Durability)) -> Result<(MutexGuard<'_, Keys>, LogPosition)> {
        let mut keys = self.keys.lock();
        loop {
            let now = log.position();
            let Some(until) = keys.missing(now, log.offsets().log_start) else { return Ok((keys, now)) };
            drop(keys);
            // What is not visible yet cannot be read. Those who append meanwhile note what they do.
            log.wait(until, level)?;
            keys = self.keys.lock();
            keys.fill(log, until, &self.partition)?;
        }
    }

    fn error(&self, kind: ErrorKind, message: String, key: &[u8]) -> Error {
        const SHOWN: usize = 64;
        let more = if key.len() > SHOWN { ".." } else { "" };
        let shown = key[..key.len().min(SHOWN)].escape_ascii();
        Error::new(kind, format!("{message}, key \"{shown}{more}\"")).partition(self.partition.clone())
    }

    /// Gives back what it holds.
    pub(super) fn forget(&self) {
        self.keys.lock().forget();
    }
}

impl Keys {
    fn new(budget: Arc<KeyBudget>) -> Self {
        Self {
            newest: HashMap::new(),
            seen: None,
            ahead: None,
            is_partial: false,
            built_from: Offset::ZERO,
            purged: Offset::ZERO,
            budget,
        }
    }

    fn forget(&mut self) {
        let newest = std::mem::take(&mut self.newest);
        let bytes = newest.keys().map(|key| key.len() + KEY_BYTES).sum();
        drop(newest);
        self.budget.give_back(bytes);
        (self.seen, self.ahead, self.is_partial, self.purged) = (None, None, false, Offset::ZERO);
    }

    /// Up to where it has to be read before all up to `now` is in it, if it has to be.
    fn missing(&mut self, now: LogPosition, log_start: Offset) -> Option<LogPosition> {
        if self.seen == Some(now) {
            return None;
        }
        match self.ahead {
            Some((from, to)) if to == now => Some(from),
            _ => {
                // Nothing that was noted may have been taken back.
                if self.ahead.is_some() || !self.seen.is_some_and(|seen| seen.is_followed_by(now)) {
                    self.forget();
                    self.built_from = log_start;
                }
                self.ahead = Some((now, now));
                Some(now)
            }
        }
    }

    /// Reads what is missing up to `until`, unless somebody has done so.
    fn fill(&mut self, log: &Log, until: LogPosition, name: &TopicPartition) -> Result<()> {
        let Some((_, to)) = self.ahead.filter(|(from, _)| *from == until) else { return Ok(()) };
        let from = self.seen.map_or(self.built_from, LogPosition::end);
        self.read(log, from, until.end(), name).inspect_err(|_| self.forget())?;
        (self.seen, self.ahead) = (Some(to), None);
        Ok(())
    }

    fn read(&mut self, log: &Log, from: Offset, end: Offset, name: &TopicPartition) -> Result<()> {
        let mut at = from;
        loop {
            let log_start = log.offsets().log_start;
            at = at.max(log_start);
            if at >= end {
                return Ok(());
            }
            let read = match log.read(at, READ_BYTES, Isolation::ReadUncommitted) {
                // Its records were deleted meanwhile.
                Err(_) if log.offsets().log_start > at => continue,
                read => read?,
            };
            for batch in read.data_batches() {
                decode_from(name, &batch?, at, |_, record| {
                    record.key().into_iter().for_each(|key| self.insert(key, record.offset(), log_start));
                    Ok(())
                })?;
            }
            if read.next_offset() <= at {
                let what = format!("the log does not let itself be read up to its end, {end}");
                return Err(Error::new(ErrorKind::Corrupt, what).partition(name.clone()).offset(at));
            }
            at = read.next_offset();
        }
    }

    /// Takes in a batch that was just appended, where it follows what is known.
    fn note(&mut self, batch: &RecordBatch, appended: &Appended, log_start: Offset) {
        let follows = |seen: &LogPosition| seen.is_followed_by(appended.position) && seen.end() == appended.base_offset;
        let noted = match &mut self.ahead {
            Some((_, to)) => Some(to),
            None => self.seen.as_mut(),
        };
        if !noted.as_deref().is_some_and(follows) {
            return; // It is read when somebody asks.
        }
        let moved = appended.base_offset - batch.header().base_offset();
        let noted = batch.decode().and_then(|decoded| {
            let is_data = !batch.header().is_control();
            decoded.iter().filter(|_| is_data).try_for_each(|record| {
                let record = record?;
                record.key().into_iter().for_each(|key| self.insert(key, record.offset() + moved, log_start));
                Ok(())
            })
        });
        match (noted, &mut self.ahead) {
            (Ok(()), Some((_, to))) => *to = appended.position,
            (Ok(()), None) => self.seen = Some(appended.position),
            (Err(_), _) => self.forget(),
        }
    }

    fn insert(&mut self, key: &[u8], offset: Offset, log_start: Offset) {
        if let Some(newest) = self.newest.get_mut(key) {
            *newest = offset.max(*newest);
            return;
        }
        // One that found no room ahead of what is read must not get the place that it had before.
        if self.is_partial && self.ahead.is_some() {
            return;
        }
        let bytes = key.len() + KEY_BYTES;
        if self.budget.take(bytes) || (self.purge(log_start) && self.budget.take(bytes)) {
            self.newest.insert(key.into(), offset);
        } else {
            self.is_partial = true;
        }
    }

    /// Forgets keys of which no record is left; `false` when there can be none.
    fn purge(&mut self, log_start: Offset) -> bool {
        if log_start <= self.purged {
            return false;
        }
        let mut bytes = 0;
        self.newest.retain(|key, newest| {
            let is_left = *newest >= log_start;
            bytes += if is_left { 0 } else { key.len() + KEY_BYTES };
            is_left
        });
        self.newest.shrink_to_fit();
        self.purged = log_start;
        self.budget.give_back(bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use super::*;
    use crate::clock::ManualClock;
    use crate::log::LogConfig;
    use crate::record::{BatchBuilder, Record};
    use crate::storage::Storage;
    use crate::testing::SimStorage;
    use crate::types::{LeaderEpoch, Timestamp};

    #[test]
    fn what_is_taken_back_between_the_look_and_the_append_is_looked_at_again() {
        let (disk, clock) = (SimStorage::new(), ManualClock::new(Timestamp::new(1)));
        disk.create_dir(Path::new("data")).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        let log = Log::open_on(Arc::new(disk.clone()), Arc::new(clock), "data/t-0", LogConfig::default()).unwrap();
        let mut indexes = KeyIndexes::default();
        indexes.set("t", 1 << 20).unwrap();
        let index = indexes.of(&TopicPartition::new("t", 0)).unwrap();

        let looks = Cell::new(0);
        let put = |key: &str, newest: Option<i64>, before: &dyn Fn()| {
            let batch = BatchBuilder::of([Record::new("large".repeat(20_000)).key(key)], Timestamp::new(1)).unwrap();
            let condition = Condition::Key { key: key.as_bytes(), newest: newest.map(Offset::new) };
            looks.set(0);
            index.append((&log, Durability::PowerLoss), &batch, Some(condition), |end| {
                looks.set(looks.get() + 1);
                if looks.get() == 1 {
                    before();
                }
                log.append_if(end.unwrap(), &batch, LeaderEpoch::new(0))
            })
        };
        let take_back = |lost: Appended| {
            let refused = log.wait(lost.position, Durability::PowerLoss).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::StorageFull);
        };
        assert_eq!(put("a", None, &|| {}).unwrap().base_offset, 0);
        log.sync().unwrap();
        disk.limit_space(Some(disk.used_space()));

        // Whoever stands on what was taken back is told.
        let lost = put("a", Some(0), &|| {}).unwrap();
        let error = put("a", Some(1), &|| take_back(lost)).unwrap_err();
        assert_eq!((error.kind(), error.at_offset()), (ErrorKind::Conflict, Some(Offset::ZERO)));
        assert_eq!((looks.get(), log.offsets().end), (1, Offset::new(1)));

        // Whoever does not, finds things as expected at the second look.
        let lost = put("b", None, &|| {}).unwrap();
        let kept = put("a", Some(0), &|| take_back(lost)).unwrap();
        assert_eq!((kept.base_offset, looks.get()), (Offset::new(1), 2));
    }
}

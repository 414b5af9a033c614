//! The topics that are open: what the catalog's image says, with the live partitions beside it. The
//! catalog decides, the registry follows; a topic is looked up here on every call.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use crate::error::{Error, ErrorKind, Result};
use crate::log::{Quiet, Signal};
use crate::metrics::ProduceMeter;
use crate::topic::config::{BrokerDefaults, TopicSettings};
use crate::topic::{self, PartitionSource, TopicConfig, name};
use crate::types::{PartitionId, TopicPartition, Uuid};

/// A topic's overrides and the values in force.
#[derive(Debug)]
pub(crate) struct Configured {
    pub(crate) overrides: TopicConfig,
    pub(crate) settings: Arc<TopicSettings>,
}

impl Configured {
    pub(crate) fn new(overrides: TopicConfig, defaults: &BrokerDefaults) -> Self {
        let settings = Arc::new(overrides.settings(defaults));
        Self { overrides, settings }
    }
}

/// One live topic. Outlives its deletion for as long as handles hold it.
#[derive(Debug)]
pub(crate) struct TopicEntry {
    pub(crate) name: Arc<str>,
    pub(crate) id: Uuid,
    configured: ArcSwap<Configured>,
    /// Some partitions' logs are not in this directory.
    is_split: bool,
    partitions: RwLock<Vec<Arc<topic::Partition>>>,
    watchers: Mutex<Vec<Weak<Signal>>>,
    deleted: AtomicBool,
    /// Counts what producers do for it.
    pub(crate) produced: ProduceMeter,
}

impl TopicEntry {
    pub(crate) fn new(
        name: Arc<str>,
        id: Uuid,
        configured: Configured,
        partitions: Vec<Arc<topic::Partition>>,
    ) -> Self {
        Self {
            name,
            id,
            configured: ArcSwap::from_pointee(configured),
            is_split: partitions.iter().any(|partition| partition.check_here().is_err()),
            partitions: RwLock::new(partitions),
            watchers: Mutex::new(Vec::new()),
            deleted: AtomicBool::new(false),
            produced: ProduceMeter::default(),
        }
    }

    pub(crate) fn is_internal(&self) -> bool {
        name::is_internal(&self.name)
    }

    pub(crate) fn configured(&self) -> Arc<Configured> {
        self.configured.load_full()
    }

    /// Runs `look` on the values in force, without a count of references.
    #[inline]
    pub(crate) fn with_settings<T>(&self, look: impl FnOnce(&TopicSettings) -> T) -> T {
        look(&self.configured.load().settings)
    }

    /// All take the new values, also after one that cannot bring to its new level what was appended before.
    pub(crate) fn configure(&self, configured: Configured) -> Result<()> {
        let partitions = self.partitions.read();
        let done = partitions.iter().map(|partition| partition.configure(&configured.settings));
        let done = done.fold(Ok(()), Result::and);
        drop(partitions);
        self.configured.store(Arc::new(configured));
        done
    }

    pub(crate) fn partition_count(&self) -> usize {
        self.partitions.read().len()
    }

    /// Those whose logs are in this directory.
    pub(crate) fn partitions(&self) -> Vec<Arc<topic::Partition>> {
        self.partitions.read().iter().filter(|partition| partition.check_here().is_ok()).cloned().collect()
    }

    pub(crate) fn partition(&self, partition: PartitionId) -> Result<Arc<topic::Partition>> {
        self.check_alive()?;
        let partitions = self.partitions.read();
        let found = usize::try_from(partition.get()).ok().and_then(|at| partitions.get(at));
        let found = found.cloned().ok_or_else(|| {
            let count = partitions.len();
            Error::new(ErrorKind::UnknownTopicOrPartition, format!("the topic has {count} partitions, from 0"))
                .partition(TopicPartition::new(Arc::clone(&self.name), partition))
        })?;
        found.check_here().map(|()| found)
    }

    /// The first partition from `partition` on, in a circle, whose log is in this directory.
    #[inline]
    pub(crate) fn nearest_here(&self, partition: PartitionId) -> PartitionId {
        if !self.is_split {
            return partition;
        }
        let partitions = self.partitions.read();
        let from = usize::try_from(partition.get()).unwrap_or(0).min(partitions.len());
        let mut circle = partitions[from..].iter().chain(&partitions[..from]);
        circle.find(|p| p.check_here().is_ok()).map_or(partition, |p| p.name().partition())
    }

    #[inline]
    pub(crate) fn check_alive(&self) -> Result<()> {
        match self.deleted.load(Ordering::Acquire) {
            true => Err(deleted(&self.name)),
            false => Ok(()),
        }
    }

    pub(crate) fn add_partitions(&self, added: Vec<Arc<topic::Partition>>) {
        self.partitions.write().extend(added);
        self.notify();
    }

    /// Marks the topic and its partitions deleted; readers and writers find out at their next call.
    pub(crate) fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        for partition in self.partitions() {
            partition.delete();
        }
        self.notify();
    }

    pub(crate) fn notify(&self) {
        let _quiet = Quiet::new();
        self.watchers.lock().iter().filter_map(Weak::upgrade).for_each(|signal| signal.notify());
    }
}

impl PartitionSource for TopicEntry {
    fn partitions_after(&self, known: usize) -> Result<Vec<Arc<topic::Partition>>> {
        self.check_alive()?;
        Ok(self.partitions.read().iter().skip(known).cloned().collect())
    }

    fn watch(&self, signal: &Arc<Signal>) {
        let mut watchers = self.watchers.lock();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(signal));
    }
}

pub(crate) fn deleted(name: &str) -> Error {
    Error::new(ErrorKind::TopicDeleted, format!("topic {name:?} was deleted"))
        .remedy("open it anew if a topic of that name was created since")
}

pub(crate) fn unknown(name: &str) -> Error {
    Error::new(ErrorKind::UnknownTopicOrPartition, format!("there is no topic {name:?}"))
        .remedy("create it, or see Broker::topics for those that exist")
}

/// All live topics by name.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    topics: RwLock<BTreeMap<Arc<str>, Arc<TopicEntry>>>,
}

impl Registry {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<TopicEntry>> {
        self.topics.read().get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<TopicEntry>> {
        self.topics.read().values().cloned().collect()
    }

    pub(crate) fn insert(&self, entry: TopicEntry) -> Arc<TopicEntry> {
        let entry = Arc::new(entry);
        self.topics.write().insert(Arc::clone(&entry.name), Arc::clone(&entry));
        entry
    }

    pub(crate) fn remove(&self, name: &str) {
        self.topics.write().remove(name);
    }
}

//! Topics come, change and go. Order on disk, as a stock broker needs it (kraft-directory.md,
//! section 5): creation puts the record first and leaves the directory to the first append; deletion
//! removes the record first, then the directory, under Kafka's name for it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::registry::{Configured, TopicEntry, deleted, unknown};
use super::survey::Whereabouts;
use super::{Broker, Inner, LastClose, background, directory};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind};
use crate::log::{SlotState, refused};
use crate::topic::catalog::TopicImage;
use crate::topic::{self, Checkpoint, Checkpoints, ConfigEntry, TopicConfig, name};
use crate::types::{LeaderEpoch, PartitionId, TopicPartition, Uuid};

impl Inner {
    /// Puts every topic of the catalog into the registry; no log is opened.
    /// `is_foreign`: another program had the directory since we last had it.
    pub(super) fn load_topics(&self, found: &Checkpoints, is_foreign: bool) -> Result<()> {
        let image = self.catalog.image();
        let survey = self.survey(is_foreign)?;
        let mut live = HashSet::new();
        for topic in image.topics() {
            let entry = self.entry(topic, |name| self.whereabouts(&survey, topic, name.partition(), found.of(name)));
            if !self.context.budgets.is_empty() {
                entry.partitions().iter().for_each(|partition| partition.count_at_rest());
            }
            if is_foreign {
                for name in entry.partitions().iter().map(|partition| partition.name()).filter(|name| survey.has(name))
                {
                    self.state.slot(topic.id, name.partition()).store(&SlotState::foreign())?;
                }
            }
            live.extend(entry.partitions().iter().map(|p| (topic.id, p.name().partition())));
            self.registry.insert(entry);
        }
        for (id, partition) in self.state.partitions() {
            if !live.contains(&(id, partition)) {
                self.state.free(id, partition)?;
            }
        }
        // Who comes after a crash is to know of them, once the visit is noted.
        self.state.sync()?;
        let is_gone = |name: &TopicPartition| {
            let number = usize::try_from(name.partition().get()).unwrap_or(usize::MAX);
            self.registry.get(name.topic()).is_none_or(|topic| number >= topic.partition_count())
        };
        match found.names().any(is_gone) {
            // Before a topic of that name is made anew, whose records they would delete.
            true => self.write_checkpoints(),
            false => Ok(()),
        }
    }

    /// Recovers what was not closed in order, so that a clean close may vouch for the whole directory.
    pub(super) fn recover_dirty(&self) -> Result<()> {
        if self.context.read_only.is_some() {
            return Ok(());
        }
        if background::for_each(&self.dirty()?, self.threads, "thalweg-open", topic::Partition::recover).is_err() {
            // Whoever touches such a partition gets the error; the others must open all the same.
            self.unsound.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Fails where a strict opening is to: a log is gone, or one that was not closed in order is damaged or cannot be
    /// opened. `self` is a look at the directory that changes nothing.
    pub(super) fn refuse_damage(&self) -> Result<()> {
        let is_damage = |finding: &Finding| matches!(finding.kind, FindingKind::Damaged | FindingKind::Lost);
        if let Some(finding) = self.context.findings.all().into_iter().find(is_damage) {
            return Err(refused(finding.to_string()).path(&self.context.root));
        }
        background::for_each(&self.dirty()?, self.threads, "thalweg-open", |partition| {
            partition.recover()?;
            match partition.recovery().and_then(Result::ok).and_then(|found| found.refusal()) {
                Some(error) => Err(error.partition(partition.name().clone()).path(partition.dir())),
                None => Ok(()),
            }
        })
    }

    /// The partitions that were not closed in order.
    fn dirty(&self) -> Result<Vec<Arc<topic::Partition>>> {
        let (storage, root) = (&*self.context.storage, &self.context.root);
        let names = storage.list(root).map_err(|e| Error::io("cannot list the directory", root, e))?;
        let dirs: HashSet<_> = names.into_iter().map(|entry| entry.name).collect();
        let mut dirty: Vec<_> = self.registry.all().iter().flat_map(|topic| topic.partitions()).collect();
        let found_clean = self.opening.last_close == LastClose::InOrder;
        dirty.retain(|partition| partition.is_dirty(|name| dirs.contains(&name.to_string()), found_clean));
        Ok(dirty)
    }

    fn configured(&self, topic: &str) -> Configured {
        Configured::new(self.catalog.topic_config(topic), self.catalog.defaults())
    }

    fn count_change(&self) {
        self.catalog_version.fetch_add(1, Ordering::AcqRel);
        self.groups.notify();
    }

    fn entry(&self, topic: &TopicImage, find: impl Fn(&TopicPartition) -> Whereabouts) -> TopicEntry {
        let configured = self.configured(&topic.name);
        let partitions = (0..).take(topic.partition_count()).map(|number: i32| {
            let name = TopicPartition::new(Arc::clone(&topic.name), number);
            let epoch = topic.partition(number.into()).map_or(0, |state| state.leader_epoch);
            let (found, absent) = match find(&name) {
                Whereabouts::Here(found) => (found, None),
                Whereabouts::Absent(why) => (Checkpoint::default(), Some(why)),
            };
            let partition = self.partition(name, topic.id, LeaderEpoch::new(epoch), &configured, found);
            Arc::new(absent.into_iter().fold(partition, topic::Partition::absent))
        });
        let partitions = partitions.collect();
        TopicEntry::new(Arc::clone(&topic.name), topic.id, configured, partitions)
    }

    fn partition(
        &self,
        name: TopicPartition,
        id: Uuid,
        epoch: LeaderEpoch,
        configured: &Configured,
        found: Checkpoint,
    ) -> topic::Partition {
        let slot = self.state.slot(id, name.partition());
        let settings = Arc::clone(&configured.settings);
        topic::Partition::new(Arc::clone(&self.context), name, id, epoch, settings, slot, found)
    }

    /// Directories of such names belong to a topic that the catalog no longer has: they are set aside under the
    /// name that Kafka would give them. Partitions below `from` are not concerned.
    fn clear_place(&self, topic: &str, from: usize) -> Result<()> {
        let (storage, root) = (&*self.context.storage, &self.context.root);
        let listed = storage.list(root).map_err(|e| Error::io("cannot list the directory", root, e))?;
        let is_left = |name: &str| {
            let number = name.strip_prefix(topic).and_then(|rest| rest.strip_prefix('-')?.parse::<usize>().ok());
            number.is_some_and(|number| number >= from)
        };
        let left: Vec<_> = listed.into_iter().filter(|entry| is_left(&entry.name)).collect();
        if left.is_empty() {
            return Ok(());
        }
        // A deletion that failed half way may have left what they say of it, which is not to apply to the new one.
        self.write_checkpoints()?;
        for entry in left {
            directory::set_aside(storage, &root.join(&entry.name), "stray")?;
        }
        storage.sync_dir(root).map_err(|e| Error::io("cannot sync the directory", root, e))
    }

    /// A deleted topic's directory must not come back once another one has its name: a deletion may have failed, or the
    /// process been killed, between the directory's new name and the sync of that.
    fn settle_names(&self) -> Result<()> {
        if self.names_in_doubt.load(Ordering::Acquire) {
            let (storage, root) = (&*self.context.storage, &self.context.root);
            storage.sync_dir(root).map_err(|e| Error::io("cannot sync the directory", root, e))?;
            self.names_in_doubt.store(false, Ordering::Release);
        }
        Ok(())
    }

    fn check_absent(&self, topic: &str) -> Result<()> {
        if self.registry.get(topic).is_some() {
            return Err(Error::new(ErrorKind::TopicExists, format!("topic {topic:?} exists already"))
                .remedy("open it, or use open_or_create"));
        }
        Ok(())
    }

    pub(super) fn create(&self, topic: &str, partitions: u32, config: &TopicConfig) -> Result<Arc<TopicEntry>> {
        let _changes = self.changes.lock();
        self.check_open()?;
        self.check_writable()?;
        self.check_absent(topic)?;
        self.clear_place(topic, 0)?;
        self.settle_names()?;
        let image = self.catalog.create_topic(topic, Uuid::random()?, partitions, config)?;
        let entry = self.registry.insert(self.entry(&image, |_| Whereabouts::Here(Checkpoint::default())));
        self.count_change();
        Ok(entry)
    }

    /// Answers the directories that are to be removed.
    fn delete(&self, entry: &TopicEntry) -> Result<Vec<PathBuf>> {
        let _changes = self.changes.lock();
        self.check_open()?;
        self.check_writable()?;
        entry.check_alive()?;
        self.catalog.delete_topic(entry.id).inspect_err(|e| {
            if e.kind() == ErrorKind::Indeterminate {
                entry.partitions().iter().for_each(|partition| partition.doubt(e));
            }
        })?;
        self.registry.remove(&entry.name);
        entry.delete();
        self.count_change();
        let (storage, root) = (&*self.context.storage, &self.context.root);
        // First: what they say of it must not apply to a later topic of its name, whatever fails from here on.
        self.write_checkpoints()?;
        self.names_in_doubt.store(true, Ordering::Release);
        let mut aside = Vec::new();
        for partition in entry.partitions() {
            aside.extend(directory::set_aside(storage, &partition.dir(), "delete")?);
            self.state.free(entry.id, partition.name().partition())?;
        }
        if !aside.is_empty() {
            storage.sync_dir(root).map_err(|e| Error::io("cannot sync the directory", root, e))?;
        }
        Ok(aside)
    }

    fn remove_dirs(&self, aside: &[PathBuf]) -> Result<()> {
        let (storage, root) = (&*self.context.storage, &self.context.root);
        if aside.is_empty() {
            return Ok(());
        }
        for dir in aside {
            storage.remove_dir_all(dir).map_err(|e| Error::io("cannot remove a deleted partition", dir, e))?;
        }
        storage.sync_dir(root).map_err(|e| Error::io("cannot sync the directory", root, e))
    }

    fn add(&self, entry: &TopicEntry, total: u32) -> Result<()> {
        let _changes = self.changes.lock();
        self.check_open()?;
        self.check_writable()?;
        entry.check_alive()?;
        let present = entry.partition_count();
        self.clear_place(&entry.name, present)?;
        self.settle_names()?;
        let image = self.catalog.add_partitions(entry.id, total)?;
        let configured = entry.configured();
        let is_new = |number: PartitionId| usize::try_from(number.get()).is_ok_and(|number| number >= present);
        let added = image.partitions().filter(|(number, _)| is_new(*number)).map(|(number, state)| {
            let name = TopicPartition::new(Arc::clone(&entry.name), number);
            let epoch = LeaderEpoch::new(state.leader_epoch);
            Arc::new(self.partition(name, entry.id, epoch, &configured, Checkpoint::default()))
        });
        entry.add_partitions(added.collect());
        self.count_change();
        Ok(())
    }

    fn alter(&self, entry: &TopicEntry, changes: &[(&str, Option<&str>)]) -> Result<()> {
        let _changes = self.changes.lock();
        self.check_open()?;
        self.check_writable()?;
        entry.check_alive()?;
        self.catalog.alter_configs(entry.id, changes)?;
        entry.configure(self.configured(&entry.name))
    }
}

/// The verbs on topics. A topic is its id: the name alone finds the one that has it now.
impl Broker {
    /// CreateTopics. `partitions` `None` is `num.partitions`.
    pub(crate) fn create_topic(
        &self,
        topic: &str,
        partitions: Option<u32>,
        config: TopicConfig,
    ) -> Result<Arc<TopicEntry>> {
        name::validate(topic)?;
        if name::is_internal(topic) {
            return Err(Error::new(ErrorKind::InvalidTopicName, format!("topic name {topic:?} is Kafka's own"))
                .remedy("choose another name; what Kafka keeps there is made when it is needed"));
        }
        let partitions = partitions.unwrap_or(self.inner.settings.partitions);
        if !(1..=0x7fff_ffff).contains(&partitions) {
            let message = format!("a topic cannot have {partitions} partitions");
            return Err(Error::new(ErrorKind::InvalidArgument, message).remedy("ask for 1 to 2147483647"));
        }
        config.validate(self.inner.catalog.defaults())?;
        let inner = &*self.inner;
        inner.check_writable()?;
        inner.with_groups(|state| {
            inner.check_absent(topic)?;
            inner.check_not_elsewhere(state, topic)?;
            // A deletion that was interrupted left offsets that mean nothing in this one.
            inner.forget_offsets_of(state, topic)?;
            let entry = inner.create(topic, partitions, &config)?;
            inner.rebalance(state)?;
            Ok(entry)
        })
    }

    /// DeleteTopics.
    pub(crate) fn delete_topic(&self, entry: &TopicEntry) -> Result<()> {
        if entry.is_internal() {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("topic {:?} is Kafka's own", entry.name)));
        }
        let inner = &*self.inner;
        let aside = inner.with_groups(|state| {
            let aside = inner.delete(entry)?;
            inner.forget_offsets_of(state, &entry.name)?;
            inner.rebalance(state)?;
            Ok(aside)
        })?;
        inner.remove_dirs(&aside)
    }

    /// CreatePartitions: `total` is the new count.
    pub(crate) fn create_partitions(&self, entry: &TopicEntry, total: u32) -> Result<()> {
        if entry.is_internal() {
            let message = format!("the partition count of {:?} places groups and must not change", entry.name);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        self.inner.add(entry, total)?;
        self.inner.with_groups(|state| self.inner.rebalance(state))
    }

    /// IncrementalAlterConfigs: a value sets, `None` goes back to the default.
    pub(crate) fn alter_configs(&self, entry: &TopicEntry, changes: &[(&str, Option<&str>)]) -> Result<()> {
        self.inner.alter(entry, changes)
    }

    /// DescribeConfigs.
    pub(crate) fn describe_configs(&self, entry: &TopicEntry) -> Result<Vec<ConfigEntry>> {
        self.inner.check_open()?;
        entry.check_alive()?;
        Ok(entry.configured().overrides.describe(self.inner.catalog.defaults()))
    }

    /// The topic of that name.
    pub(crate) fn find_topic(&self, topic: &str) -> Result<Option<Arc<TopicEntry>>> {
        self.inner.check_open()?;
        Ok(self.inner.registry.get(topic))
    }

    /// The topic of that name and, where one is given, of that id.
    pub(crate) fn topic_entry(&self, topic: &str, id: Option<Uuid>) -> Result<Arc<TopicEntry>> {
        let found = self.find_topic(topic)?;
        match (found, id) {
            (Some(entry), Some(id)) if entry.id != id => Err(deleted(topic)),
            (Some(entry), _) => Ok(entry),
            (None, Some(_)) => Err(deleted(topic)),
            (None, None) => {
                name::validate(topic)?;
                Err(unknown(topic))
            }
        }
    }

    /// All topics by name, Kafka's own ones included.
    pub(crate) fn all_topics(&self) -> Result<Vec<Arc<TopicEntry>>> {
        self.inner.check_open()?;
        Ok(self.inner.registry.all())
    }
}

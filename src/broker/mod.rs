//! The narrow waist: one typed method per thing that Kafka's protocol can ask for, in process.
//! Producers, consumers and later a server stand on these verbs and on nothing below.
//!
//! Here: opening, closing and what a broker holds. Lock order: groups, changes, checkpointing, partition, catalog,
//! registry.
//! Invariants: the catalog is changed first and synced, the registry and the disk follow; the
//! directory's lock lives as long as anything that could write.

mod background;
mod directory;
mod groups;
mod handle;
mod inspect;
mod left;
mod maintenance;
mod opening;
mod options;
mod registry;
mod replay;
mod report;
mod survey;
#[cfg(feature = "async")]
mod timer;
mod topic_builder;
mod topics;
mod verbs;

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use crate::clock::SteadyTime;
use crate::error::{Error, ErrorKind, Result};
use crate::finding::Finding;
use crate::log::StateFile;
use crate::metrics::Metrics;
use crate::storage::{HaltingStorage, Lock, MemoryStorage, NotingStorage, PooledStorage, ReservedStorage};
use crate::topic;
use crate::topic::catalog::Catalog;
use crate::topic::config::BrokerDefaults;
use crate::topic::name::{CONSUMER_OFFSETS, SHARE_GROUP_STATE, TRANSACTION_STATE};
use crate::topic::properties::ServerProperties;
use crate::topic::{PartitionContext, PartitionHost, Urgency};
use crate::types::{LeaderEpoch, RecoveryPolicy, TopicPartition, Uuid};

use background::{Background, Worker};
use groups::Groups;
use maintenance::Schedule;
use opening::Opened;
use options::{BrokerSettings, Threads};
use registry::Registry;

pub use handle::{Partition, Topic};
pub use inspect::{
    GroupInspection, GroupOffset, Inspection, LogInspection, OpenTransaction, PartitionInspection, TopicInspection,
};
pub use options::BrokerBuilder;
pub use report::{LastClose, PartitionRecovery, RecoveryReport};
pub use topic_builder::{TopicBuilder, TopicRef};

pub(crate) use background::Task;
pub(crate) use registry::TopicEntry;
#[cfg(feature = "async")]
pub(crate) use timer::Timer;

/// Counts events that a reader may wait for.
pub(crate) use crate::log::{Quiet, Signal, wake_all};

/// A directory of topics, open in this process. Clones are handles to the same one; all methods may be
/// called from many threads.
///
/// A broker has six threads of its own unless it is [`manual`](BrokerBuilder::manual) or read-only:
/// `thalweg-sync` sends producers' batches whose time has come; `thalweg-sync-1` to `-4` bring appends that nobody
/// waits for to their topic's durability, several partitions at once; `thalweg-maintenance` prepares new segments,
/// completes old ones, applies retention and writes checkpoints. Opening and [`close`](Self::close) use up to eight
/// more while they run, `thalweg-open` and `thalweg-close`; a producer that is given callbacks has one, `thalweg-callbacks`.
///
/// ```
/// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
/// # let path = dir.path().join("data");
/// use thalweg::{Broker, Start};
/// let broker = Broker::open(&path)?;
/// let orders = broker.topic("orders").partitions(4).open_or_create()?;
/// let at = orders.send(("user-1", "paid"))?;
/// assert_eq!(at.offset, 0);
/// broker.close()?;
///
/// let broker = Broker::open(&path)?;
/// let found: Vec<_> = broker.topic("orders").open()?.scan(Start::Earliest).collect::<Result<_, _>>()?;
/// assert_eq!(found[0].value(), Some(&b"paid"[..]));
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
    open: Arc<OpenGuard>,
}

/// Shared by all handles. Without `close` the end of the last one is as if the process had died: nothing is
/// synced any more.
struct OpenGuard {
    background: Arc<Background>,
    context: Arc<PartitionContext>,
    /// Below the context's storage.
    pool: PooledStorage,
    /// Below that.
    noting: NotingStorage,
    workers: Mutex<Vec<Worker>>,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        // Starts no write and no sync; waits for one that is in flight, so that the directory is free for
        // another broker when this returns.
        self.background.stop();
        self.context.closed.store(true, Ordering::Release);
        self.workers.get_mut().drain(..).for_each(Worker::join);
    }
}

/// What a broker holds.
pub(crate) struct Inner {
    context: Arc<PartitionContext>,
    settings: BrokerSettings,
    threads: Threads,
    /// Held while topics and partitions come or go.
    changes: Mutex<()>,
    /// Held while Kafka's checkpoint files are written.
    checkpointing: Mutex<()>,
    catalog: Catalog,
    registry: Registry,
    state: StateFile,
    /// What concerns the whole directory of what this opening found.
    opening: RecoveryReport,
    groups: Groups,
    /// Directories of deleted topics may not be gone for good. Changed under `changes`.
    names_in_doubt: AtomicBool,
    /// A partition could not be recovered: the directory must not be called clean.
    unsound: AtomicBool,
    /// Counts changes of topics.
    catalog_version: AtomicU64,
    background: Arc<Background>,
    schedule: Mutex<Schedule>,
    lock: Mutex<Option<Box<dyn Lock>>>,
    /// To be filled again when there is space; `None` where nothing is written.
    reserve: Option<ReservedStorage>,
    halting: HaltingStorage,
}

impl Broker {
    /// Opens a directory, making it when there is none, with the default options.
    ///
    /// # Errors
    /// See [`BrokerBuilder::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::builder(dir).open()
    }

    /// Options for opening a directory.
    pub fn builder(dir: impl AsRef<Path>) -> BrokerBuilder {
        BrokerBuilder::new(dir.as_ref().to_owned())
    }

    /// A broker whose files are in memory: every durability level is accepted, nothing survives the last
    /// handle.
    ///
    /// # Errors
    /// When the operating system gives no randomness for ids or no threads.
    pub fn in_memory() -> Result<Self> {
        Self::builder(Path::new("/memory")).storage(MemoryStorage::new()).open()
    }

    fn open_with(options: BrokerBuilder, defaults: BrokerDefaults) -> Result<Self> {
        let noting = NotingStorage::new(options.disk(), &options.root);
        let pool = options.pool(noting.clone());
        let inner = Inner::new(&options, opening::open(&options, defaults, &pool, noting.clone())?, options.recovery)?;
        inner.recover_dirty()?;
        inner.index_keys();
        let workers = match options.threads {
            Threads::Own if inner.context.read_only.is_none() => background::start(&inner)?,
            // Where nothing is written there is nothing to do in the background.
            Threads::Own | Threads::None => Vec::new(),
        };
        let (background, context) = (Arc::clone(&inner.background), Arc::clone(&inner.context));
        let open = OpenGuard { background, context, pool, noting, workers: Mutex::new(workers) };
        Ok(Self { inner, open: Arc::new(open) })
    }

    /// Stops the threads, brings every append to its topic's durability and beyond, to the device, closes
    /// all logs as a clean stop of Kafka leaves them, and gives the directory and all descriptors free, even while
    /// clones, handles, tickets or records live; whatever they ask for later is answered with `Closed`, but for what
    /// became of appends that were as durable as was asked for by then.
    /// A second call does nothing.
    ///
    /// # Errors
    /// `Indeterminate` or `Io` when something could not be synced or written. The broker is closed all the
    /// same and the next open recovers.
    pub fn close(&self) -> Result<()> {
        self.inner.close(&self.open)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.context.root
    }

    /// The cluster id of the directory (`cluster.id`).
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.inner.catalog.identity().cluster_id
    }

    /// The node number of the directory (`node.id`).
    #[must_use]
    pub fn node_id(&self) -> i32 {
        self.inner.catalog.identity().node_id
    }

    /// What was found in the directory so far that its owner should know, in the order found. A partition is
    /// looked at when it is first used, or at open where it was not closed in order.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        self.inner.context.findings.all()
    }

    /// How the disk and producers are doing, in numbers since the broker was opened. A disk that is slow, or hangs, is
    /// told here and nowhere else: [`SyncMetrics::was_slow`](crate::SyncMetrics::was_slow).
    ///
    /// ```
    /// let broker = thalweg::Broker::in_memory()?;
    /// broker.topic("orders").create()?.send("paid")?;
    /// let syncs = broker.metrics().syncs;
    /// assert!(syncs.count > 0 && !syncs.was_slow());
    /// println!("{syncs}");
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let topics = self.inner.registry.all();
        let producers = topics.iter().filter_map(|topic| Some((Arc::clone(&topic.name), topic.produced.metrics()?)));
        Metrics { producers: producers.collect(), ..self.inner.halting.metrics() }
    }

    /// The text of a server.properties with which a stock Apache Kafka (3.9 or later) serves this
    /// directory once the broker is closed: clients connect to `listener`, the controller listens on
    /// `controller`, each host and port.
    ///
    /// ```
    /// let broker = thalweg::Broker::in_memory()?;
    /// let text = broker.server_properties(("localhost", 9092), ("localhost", 9093));
    /// assert!(text.contains("node.id=1\n"));
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    #[must_use]
    pub fn server_properties(&self, listener: (&str, u16), controller: (&str, u16)) -> String {
        let count = |topic: &str, default: u32| {
            let existing = self.inner.registry.get(topic).and_then(|t| u32::try_from(t.partition_count()).ok());
            existing.unwrap_or(default)
        };
        let defaults: Vec<_> = self
            .inner
            .catalog
            .defaults()
            .properties()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        ServerProperties {
            dir: self.dir(),
            node_id: self.node_id(),
            listener,
            controller,
            offsets_partitions: count(CONSUMER_OFFSETS, self.inner.settings.offsets_partitions),
            transaction_partitions: count(TRANSACTION_STATE, 1),
            share_partitions: count(SHARE_GROUP_STATE, 1),
            defaults: &defaults,
        }
        .to_text()
    }
}

impl Inner {
    /// What a broker holds of a directory whose catalog is open; no log is opened.
    fn new(options: &BrokerBuilder, opened: Opened, recovery: RecoveryPolicy) -> Result<Arc<Self>> {
        let Opened { storage, syncs, halting, reserve, lock, catalog, read_only, last_close, findings, buffers } =
            opened;
        let found_clean = last_close == LastClose::InOrder;
        let root = options.root.as_path();
        let is_foreign = directory::drop_stale_state(&*storage, root, &catalog, &findings)?;
        let state = StateFile::open_by(recovery, &storage, &root.join(directory::STATE_FILE), &findings, &syncs)?;
        let checkpoints = directory::read_checkpoints(&*storage, root, found_clean)?;
        let known = directory::read_time(&*storage, root)?;
        let inner = Arc::new(Inner {
            context: Arc::new(PartitionContext {
                time: Arc::new(SteadyTime::new(Arc::clone(&options.clock), known)),
                boot_id: storage.boot_id(),
                clock: Arc::clone(&options.clock),
                findings,
                root: root.to_owned(),
                buffers,
                syncs,
                reading: options.reading,
                commit_gather: options.commit_gather,
                budgets: options.budgets.clone(),
                keys: options.keys.clone(),
                recovery,
                read_only,
                host: OnceLock::new(),
                closed: AtomicBool::new(false),
                storage,
            }),
            settings: options.settings.clone(),
            registry: Registry::default(),
            threads: options.threads,
            changes: Mutex::new(()),
            checkpointing: Mutex::new(()),
            catalog,
            opening: RecoveryReport {
                dir: root.to_owned(),
                last_close,
                foreign_writer: is_foreign && last_close != LastClose::Never,
                state_begun_anew: state.is_new() && last_close != LastClose::Never,
                partitions: Vec::new(),
                unopened: 0,
            },
            state,
            groups: Groups::default(),
            catalog_version: AtomicU64::new(0),
            names_in_doubt: AtomicBool::new(true),
            unsound: AtomicBool::new(false),
            background: Arc::new(Background::new(Arc::clone(&options.clock))),
            schedule: Mutex::new(Schedule::default()),
            lock: Mutex::new(lock),
            reserve,
            halting,
        });
        let host: Weak<dyn PartitionHost> = Arc::downgrade(&inner) as _;
        inner.context.host.get_or_init(|| host);
        inner.load_topics(&checkpoints, is_foreign)?;
        directory::note_visit(&*inner.context.storage, &inner.context.root, &inner.catalog)?;
        Ok(inner)
    }

    /// Builds what indexes of keys there are to be, where anything may be appended.
    fn index_keys(&self) {
        if self.context.keys.is_empty() || self.context.read_only.is_some() {
            return;
        }
        let partitions: Vec<_> = self.registry.all().iter().flat_map(|topic| topic.partitions()).collect();
        let index = |partition: &topic::Partition| {
            partition.index_keys();
            Ok(())
        };
        drop(background::for_each(&partitions, self.threads, "thalweg-open", index));
    }

    /// Why nothing may be changed, where it may not.
    fn check_writable(&self) -> Result<()> {
        self.context.read_only.clone().map_or(Ok(()), Err)
    }

    fn check_open(&self) -> Result<()> {
        match self.context.closed.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(Error::new(ErrorKind::Closed, "the broker is closed").path(&self.context.root)),
        }
    }

    fn close(&self, open: &OpenGuard) -> Result<()> {
        if self.context.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.background.stop();
        open.workers.lock().drain(..).for_each(Worker::join);
        // After the thread that may just have been at them, and would have put them off.
        let mut first = self.background.run_tasks_now();
        let _quiet = Quiet::new();
        // Whoever holds this may still be making a topic.
        let _changes = self.changes.lock();
        if self.context.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.context.budgets.notify();
        let mut keep = |result: Result<()>| {
            if let (Err(error), Ok(())) = (result, &first) {
                first = Err(error);
            }
        };
        let topics = self.registry.all();
        let partitions: Vec<_> = topics.iter().flat_map(|topic| topic.partitions()).collect();
        keep(background::for_each(&partitions, self.threads, "thalweg-close", topic::Partition::close));
        topics.iter().for_each(|topic| topic.notify());
        // What came since is told that it came too late.
        keep(self.background.run_tasks_now());
        keep(self.state.sync());
        let writable = self.context.read_only.is_none();
        let checkpointing = self.checkpointing.lock();
        keep(self.store_checkpoints());
        drop(checkpointing);
        keep(self.catalog.close());
        let is_sound =
            !self.unsound.load(Ordering::Acquire) && !partitions.iter().any(|partition| partition.is_half_opened());
        if first.is_ok() && writable && is_sound {
            // Last: from here on a stock broker trusts every file.
            first = directory::write_clean_shutdown(&*self.context.storage, &self.context.root);
        }
        self.groups.notify();
        // Handles of topics may live on.
        open.pool.close();
        open.noting.close();
        *self.lock.lock() = None;
        first
    }
}

impl PartitionHost for Inner {
    fn raise_leader_epoch(
        &self,
        partition: &TopicPartition,
        topic_id: Uuid,
        at_least: LeaderEpoch,
    ) -> Result<LeaderEpoch> {
        self.check_open()?;
        self.catalog.bump_leader_epoch(topic_id, partition.partition(), at_least)
    }

    fn settle_later(&self, partition: &Arc<topic::Partition>, urgency: Urgency) {
        self.background.settle_later(partition, urgency);
    }

    fn tend_later(&self, partition: &Arc<topic::Partition>) {
        self.background.tend_later(partition);
    }

    fn partitions(&self, topic: Option<&str>) -> Vec<Arc<topic::Partition>> {
        let topics = match topic {
            Some(topic) => self.registry.get(topic).into_iter().collect(),
            None => self.registry.all(),
        };
        topics.iter().filter(|topic| !topic.is_internal()).flat_map(|topic| topic.partitions()).collect()
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("dir", &self.dir())
            .field("cluster_id", &self.cluster_id())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

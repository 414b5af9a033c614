//! How a broker is opened: everything that differs from the defaults.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Broker;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::log::LogConfig;
use crate::storage::{DiskStorage, NotingStorage, PooledStorage, Storage};
use crate::topic::config::BrokerDefaults;
use crate::topic::{Budgets, KeyIndexes, OnFull};
use crate::types::{Durability, ReadMode, RecoveryPolicy, Verify};

/// Options of a [`Broker`]; from [`Broker::builder`].
///
/// ```
/// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
/// use thalweg::{Broker, Durability};
/// let broker = Broker::builder(dir.path().join("data"))
///     .config("log.retention.hours", "168")
///     .config("num.partitions", "4")
///     .durability(Durability::ProcessCrash)
///     .open()?;
/// assert_eq!(broker.topic("orders").create()?.partition_count(), 4);
/// broker.close()?;
/// # Ok::<(), thalweg::Error>(())
/// ```
#[must_use = "nothing is opened before open()"]
pub struct BrokerBuilder {
    pub(super) root: PathBuf,
    pub(super) storage: Option<Arc<dyn Storage>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) node: Option<i32>,
    pub(super) open_files: Option<usize>,
    pub(super) threads: Threads,
    pub(super) read_only: bool,
    pub(super) reading: (ReadMode, Verify),
    pub(super) commit_gather: Duration,
    pub(super) budgets: Budgets,
    pub(super) keys: KeyIndexes,
    pub(super) recovery: RecoveryPolicy,
    defaults: BrokerDefaults,
    pub(super) settings: BrokerSettings,
    refused: Option<Error>,
}

/// Who does the background work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Threads {
    Own,
    /// The caller, with `run_maintenance`.
    None,
}

/// Broker-level settings that are no topic's default, by Kafka's names.
#[derive(Clone, Debug)]
pub(super) struct BrokerSettings {
    /// `num.partitions`
    pub(super) partitions: u32,
    /// `offsets.topic.num.partitions`; Kafka's default is 50.
    pub(super) offsets_partitions: u32,
    /// `log.retention.check.interval.ms`
    pub(super) retention_interval: Duration,
    /// `log.flush.offset.checkpoint.interval.ms`
    pub(super) checkpoint_interval: Duration,
    /// `metadata.log.max.record.bytes.between.snapshots`; Kafka's default is 20 MiB.
    pub(super) catalog_snapshot_bytes: u32,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            partitions: 1,
            offsets_partitions: 1,
            retention_interval: Duration::from_secs(300),
            checkpoint_interval: Duration::from_secs(60),
            catalog_snapshot_bytes: 1 << 20,
        }
    }
}

impl BrokerSettings {
    /// Sets one of its own by name; `None` when the name is not among them.
    fn set(&mut self, name: &str, value: &str) -> Option<Result<()>> {
        let count = |target: &mut u32| match value.trim().parse() {
            Ok(n @ 1..=0x7fff_ffff) => {
                *target = n;
                Ok(())
            }
            _ => Err(invalid(name, value, "is not a number from 1")),
        };
        let time = |target: &mut Duration| match value.trim().parse() {
            Ok(millis @ 1..) => {
                *target = Duration::from_millis(millis);
                Ok(())
            }
            _ => Err(invalid(name, value, "is not a time in milliseconds, at least 1")),
        };
        Some(match name {
            "num.partitions" => count(&mut self.partitions),
            "offsets.topic.num.partitions" => count(&mut self.offsets_partitions),
            "log.retention.check.interval.ms" => time(&mut self.retention_interval),
            "log.flush.offset.checkpoint.interval.ms" => time(&mut self.checkpoint_interval),
            "metadata.log.max.record.bytes.between.snapshots" => count(&mut self.catalog_snapshot_bytes),
            _ => return fixed(name).map(|why| Err(invalid(name, value, "is refused").remedy(why))),
        })
    }
}

/// What stands in the place of a broker config of Kafka's that cannot be set here.
fn fixed(name: &str) -> Option<&'static str> {
    Some(match name {
        "auto.create.topics.enable" => "topics are made by create or open_or_create only",
        "offsets.retention.minutes" => "committed offsets never expire",
        "group.initial.rebalance.delay.ms" => "members of one process join at once",
        "log.dir" | "log.dirs" => "the directory is the one that is opened",
        "node.id" | "broker.id" => "use BrokerBuilder::node_id",
        "default.replication.factor" | "offsets.topic.replication.factor" => "one node has one replica",
        "delete.topic.enable" => "whoever holds a topic may delete it",
        _ => return None,
    })
}

fn invalid(name: &str, value: &str, why: &str) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("{name}={value:?} {why}"))
}

impl BrokerBuilder {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            storage: None,
            clock: Arc::new(SystemClock::new()),
            node: None,
            open_files: None,
            threads: Threads::Own,
            read_only: false,
            reading: Default::default(),
            commit_gather: LogConfig::default().commit_gather,
            budgets: Budgets::default(),
            keys: KeyIndexes::default(),
            recovery: RecoveryPolicy::default(),
            defaults: BrokerDefaults::default(),
            settings: BrokerSettings::default(),
            refused: None,
        }
    }

    /// The disk to keep everything on; the machine's own unless said otherwise.
    pub fn storage(mut self, storage: impl Storage + 'static) -> Self {
        self.storage = Some(Arc::new(storage));
        self
    }

    /// Where time comes from; the machine's clock unless said otherwise.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets a broker-level config by Kafka's name: a default for all topics that do not say otherwise
    /// (`log.retention.ms`, `log.segment.bytes`, `compression.type`), or one of `num.partitions`,
    /// `offsets.topic.num.partitions`, `log.retention.check.interval.ms`,
    /// `log.flush.offset.checkpoint.interval.ms` and `metadata.log.max.record.bytes.between.snapshots`. A bad name or
    /// value is reported by [`open`](Self::open).
    ///
    /// A topic made while `retention.ms`, `flush.messages` or a compacted `segment.bytes` had this crate's default has
    /// that written down as its own (see [`docs::kafka`](crate::docs::kafka)); a default given in a later run does
    /// not change it, [`Topic::alter_configs`](crate::Topic::alter_configs) does.
    pub fn config(mut self, name: &str, value: &str) -> Self {
        let set = match self.settings.set(name, value) {
            Some(set) => set,
            None => self.defaults.clone().set(name, value).map(|defaults| self.defaults = defaults),
        };
        if let Err(error) = set {
            self.refused.get_or_insert(error);
        }
        self
    }

    /// What an acknowledged append survives on topics that do not say otherwise (`log.flush.interval.messages`);
    /// the default is [`Durability::PowerLoss`]. [`Durability::None`] is for single appends only.
    pub fn durability(self, level: Durability) -> Self {
        const NAME: &str = "log.flush.interval.messages";
        match level {
            Durability::PowerLoss => self.config(NAME, "1"),
            Durability::ProcessCrash => self.config(NAME, &i64::MAX.to_string()),
            Durability::None => {
                let why = "a broker's durability is PowerLoss or ProcessCrash; ask for None per append";
                Self { refused: self.refused.or(Some(Error::new(ErrorKind::InvalidConfig, why))), ..self }
            }
        }
    }

    /// The node number of a new directory (`node.id`, default 1). An existing one must have the same.
    pub fn node_id(mut self, node: u16) -> Self {
        self.node = Some(i32::from(node));
        self
    }

    /// How many files may be open at a time, at least 1; more partitions than that share them. The
    /// default is half of what the process may open, at most 1024.
    pub fn max_open_files(mut self, files: usize) -> Self {
        self.open_files = Some(files);
        self
    }

    /// How sealed segments are read; see [`ReadMode`] for what mapping risks. The default copies.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
    /// use thalweg::{Broker, ReadMode, Start, Verify};
    /// let broker = Broker::builder(dir.path().join("data"))
    ///     .read_mode(ReadMode::Mapped)
    ///     .verify(Verify::Once)
    ///     .open()?;
    /// let orders = broker.topic("orders").create()?;
    /// orders.send(("user-1", "paid"))?;
    /// assert_eq!(orders.scan(Start::Earliest).count(), 1);
    /// broker.close()?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub fn read_mode(mut self, mode: ReadMode) -> Self {
        self.reading.0 = mode;
        self
    }

    /// How often the checksum of a stored batch is verified; see [`Verify`] for what `Once` lets pass. The default
    /// is every read.
    pub fn verify(mut self, verify: Verify) -> Self {
        self.reading.1 = verify;
        self
    }

    /// How long a thread that is about to sync a partition for all who wait there waits for those who came with it
    /// before; see [`LogConfig::commit_gather`](crate::LogConfig::commit_gather). Zero: not at all. The default is 60
    /// microseconds.
    pub fn commit_gather(mut self, limit: Duration) -> Self {
        self.commit_gather = limit;
        self
    }

    /// How many bytes the logs of all topics together may hold, staged ones included, and what an append does when they
    /// do. Kafka's own topics and the catalog are neither counted nor refused, and indexes and other small files are
    /// not counted: leave some room beside.
    ///
    /// A budget is a setting of the open broker: no file says it, and the next open may give another or none. Each
    /// append looks before it adds its batch, so that threads that append at the same time may pass the budget by
    /// one batch each; with [`OnFull::Block`] a producer waits before it takes a record and then sends the batch, so that
    /// its open batches come on top. Deleted segments count no more although a reader may hold their files a while.
    ///
    /// Only whole segments free space, so under a budget they are no larger than an eighth of it, or than
    /// `max.message.bytes`, whatever `segment.bytes` says. [`OnFull::DropOldest`] goes by the newest
    /// timestamp in a segment; an active one that is the oldest is ended and goes.
    ///
    /// An append that is refused fails with [`ErrorKind::StorageFull`], which is
    /// [retriable](crate::Error::is_retriable); a batch larger than the budget with [`ErrorKind::TooLarge`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
    /// use thalweg::{Broker, ErrorKind, OnFull};
    /// let broker = Broker::builder(dir.path().join("data")).byte_budget(1000, OnFull::Reject).open()?;
    /// let orders = broker.topic("orders").create()?;
    /// orders.send(vec![0; 700])?;
    /// let error = orders.send(vec![0; 700]).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::StorageFull);
    /// assert!(error.is_retriable());
    ///
    /// orders.partition(0)?.delete_records(1)?;
    /// assert_eq!(orders.send(vec![0; 100])?.offset, 1);
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub fn byte_budget(self, bytes: u64, on_full: OnFull) -> Self {
        self.budget(None, bytes, on_full)
    }

    /// The same for the partitions of one topic, whether it exists already or is made later. It holds beside the
    /// budget of all.
    pub fn topic_byte_budget(self, topic: &str, bytes: u64, on_full: OnFull) -> Self {
        self.budget(Some(topic), bytes, on_full)
    }

    fn budget(mut self, topic: Option<&str>, bytes: u64, on_full: OnFull) -> Self {
        if let Err(error) = self.budgets.set(topic, bytes, on_full) {
            self.refused.get_or_insert(error);
        }
        self
    }

    /// Gives a topic, whether it exists already or is made later, an index of its keys in memory: what
    /// [`Partition::append_if_key`](crate::Partition::append_if_key) asks. No file says it; the next open may give
    /// another or none.
    ///
    /// The index of a partition is built when the broker is opened, for which its log is read to the end, and kept up
    /// from then on. All partitions of the topic together hold at most `bytes`, of which a key takes its own length and
    /// at most 128. When they are used up, and no key is left whose records were all deleted, keys that are in the index
    /// go on as before, and appends that are conditional on others are refused with [`ErrorKind::KeyIndexFull`], until
    /// records are deleted: then the log is read again, while other appends to the partition wait. Appends without such
    /// a condition are taken whatever the index holds.
    ///
    /// ```
    /// use thalweg::{Broker, ErrorKind, MemoryStorage};
    /// let broker = Broker::builder("data").storage(MemoryStorage::new()).key_index("accounts", 200).open()?;
    /// let accounts = broker.topic("accounts").create()?.partition(0)?;
    /// let opened = accounts.append_records_if_key("ada", None, [("ada", "opened")])?;
    /// accounts.append_records([("bob", "opened")])?; // There is no room for a second key...
    /// let error = accounts.append_records_if_key("bob", None, [("bob", "opened")]).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::KeyIndexFull); // ...so this cannot be known.
    /// accounts.append_records_if_key("ada", Some(opened.last_offset), [("ada", "closed")])?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub fn key_index(mut self, topic: &str, bytes: usize) -> Self {
        if let Err(error) = self.keys.set(topic, bytes) {
            self.refused.get_or_insert(error);
        }
        self
    }

    /// What opening does with damage, and reading afterwards; the default is [`RecoveryPolicy::Degraded`].
    ///
    /// A `Strict` broker is not opened when a log is gone, or one that was not closed in order is damaged. Of one that
    /// was closed in order that is decided when it is first used: then that partition alone is refused.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
    /// # let path = dir.path().join("data");
    /// # let broken = |e: std::io::Error| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string());
    /// use thalweg::{Broker, ErrorKind, RecoveryPolicy, Start};
    /// let broker = Broker::open(&path)?;
    /// let orders = broker.topic("orders").create()?;
    /// orders.send(("user-1", "paid"))?;
    /// orders.send(("user-2", "paid"))?;
    /// drop((broker, orders)); // as if the process had been killed, and a byte of the first record were wrong
    /// let log = path.join("orders-0/00000000000000000000.log");
    /// # let mut bytes = std::fs::read(&log).map_err(broken)?;
    /// # bytes[70] ^= 1;
    /// # std::fs::write(&log, bytes).map_err(broken)?;
    ///
    /// let refused = Broker::builder(&path).recovery_policy(RecoveryPolicy::Strict).open().unwrap_err();
    /// assert_eq!(refused.kind(), ErrorKind::Corrupt);
    ///
    /// let broker = Broker::builder(&path).recovery_policy(RecoveryPolicy::Salvage).open()?;
    /// let found: Vec<_> = broker.topic("orders").open()?.scan(Start::Earliest).collect::<Result<_, _>>()?;
    /// assert_eq!(found[0].key(), Some(&b"user-2"[..]));
    /// # broker.close()?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub fn recovery_policy(mut self, policy: RecoveryPolicy) -> Self {
        self.recovery = policy;
        self
    }

    /// Starts no thread: call [`Broker::run_maintenance`] instead. Without it futures of appends do not resolve,
    /// weaker acknowledged appends of PowerLoss topics do not become visible, nothing is deleted by
    /// retention and open batches of producers go only when somebody waits or flushes.
    pub fn manual(mut self) -> Self {
        self.threads = Threads::None;
        self
    }

    /// Opens the directory for reading only: no byte in it changes, whoever wrote it and however it was left. Recovery
    /// runs as ever, and what it cuts off, makes anew or clears away is so in memory alone.
    ///
    /// Scans, tails, partition reads, offsets, configs, what groups have committed and
    /// [consumers of chosen partitions](crate::ConsumerGroup::consumer_of) work. Appends, commits, joining a group, and
    /// making, changing and deleting topics are refused with [`ErrorKind::ReadOnly`]. No thread is started, and
    /// [`close`](Broker::close) writes nothing.
    ///
    /// Several brokers may have one directory open like this. Where there is a lock file (`.lock`) they keep writers
    /// out, and a writer keeps them out. A stock broker takes that file away when it stops: then one that is
    /// started meanwhile is not kept out, and what is read here may be out of date or fail as damaged.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
    /// # let path = dir.path().join("data");
    /// use thalweg::{Broker, ErrorKind, Start};
    /// let broker = Broker::open(&path)?;
    /// broker.topic("orders").create()?.send(("user-1", "paid"))?;
    /// broker.close()?;
    ///
    /// let broker = Broker::builder(&path).read_only().open()?;
    /// let orders = broker.topic("orders").open()?;
    /// assert_eq!(orders.scan(Start::Earliest).count(), 1);
    /// assert_eq!(orders.send("more").unwrap_err().kind(), ErrorKind::ReadOnly);
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Opens the directory, making it when there is none. One that is not ours to change is opened as if
    /// [`read_only`](Self::read_only) had been asked for, and [`Broker::read_only`] says why; but for the lock file
    /// nothing in it changes then.
    ///
    /// # Errors
    /// `Locked` when another process, or another broker in this one, has it open; `InvalidArgument` when
    /// it holds what neither Kafka nor this crate wrote; `InvalidConfig`; `Unsupported` and `ReadOnly` for
    /// a directory of several nodes or of a release that this one does not know; `Corrupt`, also by
    /// [`recovery_policy`](Self::recovery_policy); `Io`.
    pub fn open(mut self) -> Result<Broker> {
        if let Some(refused) = self.refused.take() {
            return Err(refused);
        }
        let defaults = std::mem::take(&mut self.defaults);
        Broker::open_with(self, defaults)
    }

    /// `storage` with a bound on open files.
    pub(super) fn pool(&self, storage: NotingStorage) -> PooledStorage {
        let capacity = self.open_files.unwrap_or_else(PooledStorage::default_capacity);
        PooledStorage::new(Arc::new(storage), capacity)
    }

    pub(super) fn disk(&self) -> Arc<dyn Storage> {
        self.storage.clone().unwrap_or_else(|| Arc::new(DiskStorage))
    }
}

impl fmt::Debug for BrokerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerBuilder")
            .field("root", &self.root)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

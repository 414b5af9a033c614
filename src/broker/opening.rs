//! What comes before a broker: who may be in the directory, and whether it is ours to change. That is known
//! before the first byte of it is changed.
//!
//! A directory that is not ours to change, or that the caller does not want changed, is opened over an
//! [`OverlayStorage`]: all that follows runs as it always does, and none of it reaches the disk.

use std::sync::Arc;

use super::Inner;
use super::directory::{self, Found};
use super::options::BrokerBuilder;
use super::report::LastClose;
use crate::clock::SteadyTime;
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind, Findings};
use crate::log::{LogContext, Outside};
use crate::segment::BufferPool;
use crate::storage::{
    HaltingStorage, Lock, NotingStorage, OverlayStorage, PooledStorage, ReservedStorage, Storage, SyncNotes,
    lock_directory, lock_directory_shared,
};
use crate::topic::catalog::{Catalog, CatalogOptions, Reading};
use crate::topic::config::BrokerDefaults;
use crate::topic::name::CLUSTER_METADATA;
use crate::types::{Offset, RecoveryPolicy, TopicPartition};

/// What is kept back for checkpoints, state, small indexes and the catalog when the disk is full.
const RESERVE_BYTES: usize = 256 << 10;

/// A directory whose catalog is open.
pub(super) struct Opened {
    /// Where everything else is to be read and written.
    pub(super) storage: Arc<dyn Storage>,
    /// What of it may not be on the disk.
    pub(super) syncs: Arc<SyncNotes>,
    /// What of that times syncs.
    pub(super) halting: HaltingStorage,
    /// What of it is kept back, to be filled again.
    pub(super) reserve: Option<ReservedStorage>,
    pub(super) lock: Option<Box<dyn Lock>>,
    pub(super) catalog: Catalog,
    /// Why nothing of it may be changed.
    pub(super) read_only: Option<Error>,
    pub(super) last_close: LastClose,
    pub(super) findings: Arc<Findings>,
    pub(super) buffers: BufferPool,
}

/// Opens the catalog of the directory that `options` name. `noting` lies below the pool.
pub(super) fn open(
    options: &BrokerBuilder,
    defaults: BrokerDefaults,
    pool: &PooledStorage,
    noting: NotingStorage,
) -> Result<Opened> {
    // It stops as a whole when it cannot vouch for names any more.
    let halting = HaltingStorage::new(Arc::new(pool.clone()), Arc::clone(&options.clock));
    let storage: Arc<dyn Storage> = Arc::new(halting.clone());
    let root = options.root.as_path();
    let is_empty = directory::inspect(&*storage, root)? == Found::Empty;
    if options.read_only {
        if is_empty {
            let message = "there is nothing to look at: no directory, or an empty one";
            return Err(Error::new(ErrorKind::InvalidArgument, message).path(root));
        }
        let lock = lock_directory_shared(&*storage, root)?;
        let why = Error::new(ErrorKind::ReadOnly, "the directory was opened for reading only")
            .path(root)
            .remedy("open it without BrokerBuilder::read_only");
        look_first(options, &defaults, &halting, &noting)?;
        return open_catalog(options, defaults, halting, noting, lock, Some(why));
    }
    if is_empty {
        directory::create(&*storage, root)?;
    } else if !directory::was_visited(&*storage, root) {
        // What is to be refused is left as it was, without so much as a lock file.
        let _looking = lock_directory_shared(&*storage, root)?;
        read(options, defaults.clone(), &*storage, false)?;
    }
    let lock = lock_directory(&*storage, root)?;
    look_first(options, &defaults, &halting, &noting)?;
    open_catalog(options, defaults, halting, noting, Some(lock), None)
}

/// Fails where a strict opening would meet damage; changes nothing.
fn look_first(
    options: &BrokerBuilder,
    defaults: &BrokerDefaults,
    halting: &HaltingStorage,
    noting: &NotingStorage,
) -> Result<()> {
    let root = options.root.as_path();
    if options.recovery != RecoveryPolicy::Strict || directory::inspect(halting, root)? == Found::Empty {
        return Ok(());
    }
    let why = Error::new(ErrorKind::ReadOnly, "the directory is looked at first").path(root);
    let look = open_catalog(options, defaults.clone(), halting.clone(), noting.clone(), None, Some(why))?;
    Inner::new(options, look, RecoveryPolicy::Degraded)?.refuse_damage()
}

fn read(options: &BrokerBuilder, defaults: BrokerDefaults, storage: &dyn Storage, read_only: bool) -> Result<Reading> {
    let snapshot_bytes = options.settings.catalog_snapshot_bytes.into();
    let catalog =
        CatalogOptions { node_id: options.node, defaults, snapshot_bytes, read_only, ..CatalogOptions::default() };
    Reading::new(storage, &options.root, catalog)
}

fn open_catalog(
    options: &BrokerBuilder,
    defaults: BrokerDefaults,
    halting: HaltingStorage,
    noting: NotingStorage,
    lock: Option<Box<dyn Lock>>,
    wish: Option<Error>,
) -> Result<Opened> {
    let root = options.root.as_path();
    let storage: Arc<dyn Storage> = Arc::new(halting.clone());
    let is_new = directory::inspect(&*storage, root)? == Found::Empty;
    let reading = read(options, defaults, &*storage, wish.is_some())?;
    // Nothing was written so far.
    let read_only = wish.or_else(|| reading.read_only().cloned());
    let (storage, reserve): (Arc<dyn Storage>, _) = match read_only {
        Some(_) => (Arc::new(OverlayStorage::new(storage, Arc::clone(&options.clock))), None),
        None => {
            noting.begin()?;
            let reserved = ReservedStorage::new(storage, root, RESERVE_BYTES);
            reserved.fill();
            (Arc::new(reserved.clone()), Some(reserved))
        }
    };
    let last_close = match directory::consume_clean_shutdown(&*storage, root)? {
        true => LastClose::InOrder,
        false if is_new => LastClose::Never,
        false => LastClose::Abrupt,
    };
    let syncs = if read_only.is_some() { Arc::default() } else { noting.notes() };
    let buffers = BufferPool::default();
    let findings = Arc::<Findings>::default();
    if let Some(shortcoming) = options.disk().shortcoming(root) {
        let message = format!("the directory is on {shortcoming}");
        findings.add(Finding::new(FindingKind::FileSystem, message).path(root));
    }
    let context = LogContext {
        storage: Arc::clone(&storage),
        clock: Arc::clone(&options.clock),
        time: Arc::new(SteadyTime::new(Arc::clone(&options.clock), None)),
        findings: Arc::clone(&findings),
        buffers: buffers.clone(),
        partition: TopicPartition::new(CLUSTER_METADATA, 0),
        topic_id: None,
        slot: None,
        boot_id: storage.boot_id(),
        log_start: Offset::ZERO,
        recovery_point: Offset::ZERO,
        // Whoever stopped in order had synced it.
        outside: Outside { doubted: (last_close == LastClose::Abrupt).then_some(Offset::ZERO), ..Outside::default() },
        meter: Arc::default(),
        syncs: Arc::clone(&syncs),
    };
    let catalog = reading.open(context)?;
    Ok(Opened { storage, syncs, halting, reserve, lock, catalog, read_only, last_close, findings, buffers })
}

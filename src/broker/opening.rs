//! What comes before a broker: who may be in the directory, and whether it is ours to change. That is known
//! before the first byte of it is changed.
//!
//! A directory that is not ours to change, or that the caller does not want changed, is opened over an
//! [`OverlayStorage`]: all that follows runs as it always does, and none of it reaches the disk.

use std::path::Path;
use std::sync::Arc;

use super::directory::{self, Found};
use super::options::BrokerBuilder;
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind, Findings};
use crate::log::LogContext;
use crate::segment::BufferPool;
use crate::storage::{Lock, OverlayStorage, Storage, boot_id, lock_directory, lock_directory_shared};
use crate::topic::catalog::{Catalog, CatalogOptions};
use crate::topic::config::BrokerDefaults;
use crate::topic::name::CLUSTER_METADATA;
use crate::types::{Offset, TopicPartition};

/// A directory whose catalog is open.
pub(super) struct Opened {
    /// Where everything else is to be read and written.
    pub(super) storage: Arc<dyn Storage>,
    pub(super) lock: Option<Box<dyn Lock>>,
    pub(super) catalog: Catalog,
    /// Why nothing of it may be changed.
    pub(super) read_only: Option<Error>,
    pub(super) found_clean: bool,
    pub(super) findings: Arc<Findings>,
    pub(super) buffers: BufferPool,
}

/// Opens the catalog of the directory that `options` name.
pub(super) fn open(options: &BrokerBuilder, defaults: BrokerDefaults) -> Result<Opened> {
    let storage = options.pooled();
    let root = options.root.as_path();
    let opening = Opening { options, defaults, buffers: BufferPool::default() };
    if options.read_only {
        if directory::inspect(&*storage, root)? == Found::Empty {
            let message = "there is nothing to look at: no directory, or an empty one";
            return Err(Error::new(ErrorKind::InvalidArgument, message).path(root));
        }
        let lock = lock_directory_shared(&*storage, root)?;
        let why = Error::new(ErrorKind::ReadOnly, "the directory was opened for reading only")
            .path(root)
            .remedy("open it without BrokerBuilder::read_only");
        return Ok(Opened { read_only: Some(why), ..opening.look(storage, lock)? });
    }
    if directory::inspect(&*storage, root)? == Found::Empty {
        directory::create(&*storage, root)?;
    }
    let lock = Some(lock_directory(&*storage, root)?);
    // Who held the lock may have written meanwhile: look again.
    if directory::inspect(&*storage, root)? == Found::Empty || is_ours(&*storage, root) {
        return opening.finish(storage, lock);
    }
    let looked = opening.look(Arc::clone(&storage), None)?;
    match looked.read_only {
        Some(_) => Ok(Opened { lock, ..looked }),
        None => opening.finish(storage, lock),
    }
}

/// A cheap sign that nobody but this crate wrote the directory, so that it is ours to change: our own note of it, and
/// no trace of a Kafka controller, which leaves one when it starts. Where it is absent, reading the catalog tells.
fn is_ours(storage: &dyn Storage, root: &Path) -> bool {
    let is_there = |name: &str| storage.metadata(&root.join(name)).is_ok();
    is_there(directory::LAST_EPOCH) && !is_there(&format!("{CLUSTER_METADATA}-0/quorum-state"))
}

struct Opening<'a> {
    options: &'a BrokerBuilder,
    defaults: BrokerDefaults,
    buffers: BufferPool,
}

impl Opening<'_> {
    /// Opens the catalog so that nothing changes on disk.
    fn look(&self, storage: Arc<dyn Storage>, lock: Option<Box<dyn Lock>>) -> Result<Opened> {
        let overlay = OverlayStorage::new(storage, Arc::clone(&self.options.clock));
        self.finish(Arc::new(overlay), lock)
    }

    fn finish(&self, storage: Arc<dyn Storage>, lock: Option<Box<dyn Lock>>) -> Result<Opened> {
        let root = self.options.root.as_path();
        let findings = Arc::<Findings>::default();
        let context = LogContext {
            storage: Arc::clone(&storage),
            clock: Arc::clone(&self.options.clock),
            findings: Arc::clone(&findings),
            buffers: self.buffers.clone(),
            partition: TopicPartition::new(CLUSTER_METADATA, 0),
            topic_id: None,
            slot: None,
            boot_id: boot_id(),
            log_start: Offset::ZERO,
            recovery_point: Offset::ZERO,
        };
        let defaults = self.defaults.clone();
        let options = CatalogOptions { node_id: self.options.node, defaults, ..CatalogOptions::default() };
        let catalog = Catalog::open(context, root, options)?;
        // Not before the catalog is sound, or a failure would leave the directory other than it was. The marker says
        // nothing of the catalog's own log, which Kafka recovers at every start.
        let found_clean = directory::consume_clean_shutdown(&*storage, root)?;
        let read_only = catalog.read_only();
        if let Some(why) = &read_only {
            findings.add(Finding::new(FindingKind::ReadOnly, why.to_string()));
        }
        let buffers = self.buffers.clone();
        Ok(Opened { storage, lock, catalog, read_only, found_clean, findings, buffers })
    }
}

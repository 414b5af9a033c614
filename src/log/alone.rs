//! A log that stands alone: its directory has a lock, a state file, notes of syncs and a reserve of its own.

use std::path::Path;
use std::sync::Arc;

use super::{Log, LogConfig, LogContext, Outside, StateFile, look_first};
use crate::clock::{Clock, SteadyTime};
use crate::error::{Error, Result};
use crate::finding::Findings;
use crate::segment::BufferPool;
use crate::storage::{HaltingStorage, NotingStorage, OverlayStorage, ReservedStorage, Storage, SyncNotes};
use crate::types::{Offset, RecoveryPolicy, TopicPartition, Uuid};

/// Its private state.
const STATE_FILE: &str = "log.state";

/// What it keeps in reserve: its last state, small indexes and a producer snapshot.
const RESERVE_BYTES: usize = 16 << 10;

impl Log {
    /// As [`Log::open_on`], through a layer over the storage, whose own syncs are noted as well.
    pub(crate) fn open_through(
        storage: Arc<dyn Storage>,
        layer: impl FnOnce(Arc<dyn Storage>) -> Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        dir: &Path,
        config: LogConfig,
    ) -> Result<Log> {
        let noting = NotingStorage::new(storage, dir);
        let halting = HaltingStorage::new(layer(Arc::new(noting.clone())), Arc::clone(&clock));
        let storage: Arc<dyn Storage> = Arc::new(halting.clone());
        match storage.create_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|e| Error::io("cannot make a log's directory", dir, e))?,
        }
        let lock = crate::storage::lock_directory(&*storage, dir)?;
        if storage.metadata(&dir.join(STATE_FILE)).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            // What the state promises must not go with the directory's own name.
            let parent = dir.parent().unwrap_or(Path::new(""));
            storage.sync_dir(parent).map_err(|e| Error::io("cannot sync the parent directory", parent, e))?;
        }
        if config.recovery_policy == RecoveryPolicy::Strict {
            // Before the state is made or brought to this release's version.
            let overlay = Arc::new(OverlayStorage::new(Arc::clone(&storage), Arc::clone(&clock)));
            look_first(&Self::alone(overlay, &clock, Arc::default(), dir, &config)?, dir, &config)?;
        }
        noting.begin()?;
        let reserved = ReservedStorage::new(storage, dir, RESERVE_BYTES);
        reserved.fill();
        let context = Self::alone(Arc::new(reserved.clone()), &clock, noting.notes(), dir, &config)?;
        let mut log = Self::open_in(context, dir, config)?;
        *log.lock.lock() = Some(lock);
        log.reserve = Some(reserved);
        log.halting = Some(halting);
        Ok(log)
    }

    /// What a log knows that stands alone.
    fn alone(
        storage: Arc<dyn Storage>,
        clock: &Arc<dyn Clock>,
        syncs: Arc<SyncNotes>,
        dir: &Path,
        config: &LogConfig,
    ) -> Result<LogContext> {
        let (findings, partition) = (Arc::<Findings>::default(), partition_of(dir));
        let state = StateFile::open_by(config.recovery_policy, &storage, &dir.join(STATE_FILE), &findings, &syncs)?;
        let slot = state.slot(Uuid::ZERO, partition.partition());
        Ok(LogContext {
            boot_id: storage.boot_id(),
            storage,
            time: Arc::new(SteadyTime::new(Arc::clone(clock), None)),
            clock: Arc::clone(clock),
            findings,
            buffers: BufferPool::default(),
            partition,
            topic_id: None,
            slot: Some(slot),
            log_start: Offset::ZERO,
            recovery_point: Offset::ZERO,
            outside: Outside::default(),
            meter: Arc::default(),
            syncs,
        })
    }
}

/// Reads `<topic>-<partition>` off a directory's name; any other name is partition 0 of itself.
fn partition_of(dir: &Path) -> TopicPartition {
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match name.rsplit_once('-').and_then(|(topic, number)| Some((topic.to_owned(), number.parse::<i32>().ok()?))) {
        Some((topic, number)) if number >= 0 => TopicPartition::new(topic, number),
        _ => TopicPartition::new(name, 0),
    }
}

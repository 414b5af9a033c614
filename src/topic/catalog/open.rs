//! Opening a catalog: newest sound snapshot, then the log after it; the first records of a new directory;
//! and the reasons for which a catalog is not ours to change.

use std::io;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::batches::{self, Place};
use super::control::{ControlRecord, Endpoint, Voter};
use super::image::{Image, METADATA_VERSION};
use super::records::MetadataRecord;
use super::snapshot::{self, SnapshotId};
use super::{Catalog, CatalogOptions, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Log, LogConfig, LogContext};
use crate::storage::{Storage, read_file};
use crate::topic::name::CLUSTER_METADATA;
use crate::topic::properties::MetaProperties;
use crate::types::{Isolation, LeaderEpoch, Offset, TopicPartition, Uuid};

/// The level of a new directory: 3.9-IV0, the newest that 3.9 and 4.x both read.
const METADATA_LEVEL: i16 = 21;
/// The raft epoch of a new log; the first leader makes it higher.
const FIRST_EPOCH: LeaderEpoch = LeaderEpoch::new(1);
/// Bytes of log replayed per read.
const READ_BYTES: usize = 4 << 20;

pub(super) fn open(
    context: LogContext,
    log_dir: &Path,
    identity: MetaProperties,
    options: CatalogOptions,
) -> Result<Catalog> {
    let (storage, clock) = (Arc::clone(&context.storage), Arc::clone(&context.clock));
    let dir = log_dir.join(format!("{CLUSTER_METADATA}-0"));
    make_dir(&*storage, log_dir, &dir)?;
    let mut replay = Replay::from_snapshot(&*storage, &dir)?;
    let log = open_log(context, &dir, replay.image.end)?;
    replay.read_log(&log)?;
    let mut writer = Writer {
        read_only: read_only(&*storage, log_dir, &dir, &replay, identity.node_id)?,
        since_snapshot: replay.log_bytes,
        snapshot: replay.snapshot,
    };
    let catalog = Catalog {
        storage,
        clock,
        dir,
        directory_id: identity.directory_id.unwrap_or(Uuid::ZERO),
        identity,
        defaults: options.defaults,
        snapshot_bytes: options.snapshot_bytes,
        log,
        image: ArcSwap::from_pointee(replay.image),
        writer: Mutex::default(),
    };
    if writer.read_only.is_none() {
        snapshot::remove_leftovers(&*catalog.storage, &catalog.dir)?;
        catalog.write_first_records(&mut writer)?;
    }
    *catalog.writer.lock() = writer;
    Ok(catalog)
}

fn make_dir(storage: &dyn Storage, log_dir: &Path, dir: &Path) -> Result<()> {
    match storage.create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made
            .and_then(|()| storage.sync_dir(log_dir))
            .map_err(|e| Error::io("cannot make the catalog's directory", dir, e)),
    }
}

/// Opens the metadata log so that it does not end before the snapshot at `covered` does.
fn open_log(context: LogContext, dir: &Path, covered: Offset) -> Result<Log> {
    let config = LogConfig::default().max_message_bytes(i32::MAX.unsigned_abs());
    let again = |from: &LogContext, log_start| LogContext {
        storage: Arc::clone(&from.storage),
        clock: Arc::clone(&from.clock),
        findings: Arc::clone(&from.findings),
        buffers: from.buffers.clone(),
        partition: TopicPartition::new(CLUSTER_METADATA, 0),
        topic_id: None,
        slot: from.slot.clone(),
        boot_id: from.boot_id,
        log_start,
        recovery_point: Offset::ZERO,
    };
    let log = Log::open_in(again(&context, Offset::ZERO), dir, config.clone())?;
    if log.offsets().end >= covered {
        return Ok(log);
    }
    // All that the log holds is in the snapshot; it goes on where the snapshot ends, as Kafka's does.
    log.close()?;
    let log = Log::open_in(again(&context, covered), dir, config)?;
    log.roll()?;
    Ok(log)
}

/// What reading a catalog has found so far.
#[derive(Default)]
struct Replay {
    image: Image,
    snapshot: Option<(SnapshotId, u64)>,
    /// Bytes of log after the snapshot.
    log_bytes: u64,
    /// A record of a later release: nothing behind it was read.
    stopped: Option<Error>,
}

impl Replay {
    /// Begins with the newest snapshot that is sound. A damaged one is passed over: the log still goes back
    /// to the one before.
    fn from_snapshot(storage: &dyn Storage, dir: &Path) -> Result<Self> {
        let ids = snapshot::list(storage, dir)?;
        for &id in ids.iter().rev().filter(|id| id.end > Offset::ZERO) {
            match snapshot::read(storage, dir, id) {
                Ok(loaded) => {
                    let snapshot = Some((id, loaded.size));
                    return Ok(Self { image: loaded.image, snapshot, log_bytes: 0, stopped: loaded.stopped });
                }
                Err(e) if e.kind() == ErrorKind::Corrupt => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Self::default())
    }

    fn read_log(&mut self, log: &Log) -> Result<()> {
        let from = self.image.end;
        let offsets = log.offsets();
        if offsets.log_start > from {
            return Err(Error::new(ErrorKind::Corrupt, "the catalog lacks the records before its log starts")
                .partition(TopicPartition::new(CLUSTER_METADATA, 0))
                .offset(offsets.log_start)
                .remedy("restore the newest .checkpoint file of __cluster_metadata-0 from a backup"));
        }
        let mut next = from;
        while next < offsets.end && self.stopped.is_none() {
            let read = log.read(next, READ_BYTES, Isolation::ReadUncommitted)?;
            if read.is_empty() {
                break;
            }
            for batch in read.batches() {
                let batch = batch?;
                if batch.base_offset() < from {
                    continue;
                }
                match batches::apply(&mut self.image, &batch) {
                    Err(e) if e.kind() == ErrorKind::Unsupported => {
                        self.stopped = Some(e);
                        return Ok(());
                    }
                    applied => applied?,
                }
                self.log_bytes += batch.size_bytes() as u64;
            }
            next = read.next_offset();
        }
        self.image.end = self.image.end.max(offsets.end);
        Ok(())
    }
}

/// Why nobody may append to this catalog, if there is a reason.
fn read_only(storage: &dyn Storage, log_dir: &Path, dir: &Path, replay: &Replay, node: i32) -> Result<Option<Error>> {
    let refuse = |why: String, remedy: &'static str| {
        Ok(Some(
            Error::new(ErrorKind::ReadOnly, format!("the catalog cannot be changed: {why}")).path(dir).remedy(remedy),
        ))
    };
    if let Some(error) = &replay.stopped {
        return refuse(error.to_string(), "use a release that knows the record");
    }
    if let Some(why) = replay.image.other_node(node) {
        return refuse(why, "a directory of a cluster is changed by its controllers alone");
    }
    if let Some(other) = quorum_state_voters(storage, dir)?.into_iter().find(|&voter| voter != node) {
        return refuse(format!("node {other} votes on its metadata"), "a cluster is changed by its controllers alone");
    }
    if replay.image.feature(METADATA_VERSION).is_none() {
        let bootstrap = SnapshotId { end: Offset::ZERO, epoch: LeaderEpoch::new(0) };
        let formatted = storage.metadata(&log_dir.join("bootstrap.checkpoint")).is_ok()
            || snapshot::list(storage, dir)?.contains(&bootstrap);
        if formatted {
            return refuse("Kafka has formatted the directory and not used it yet".into(), "start Kafka on it once");
        }
        if replay.image.topics().next().is_some() {
            return refuse("it has no metadata.version".into(), "restore __cluster_metadata-0 from a backup");
        }
    }
    Ok(None)
}

/// The voters of a static quorum as `quorum-state` version 0 names them. The file is Kafka's alone: never
/// written here, and what cannot be read says nothing, as for Kafka itself.
fn quorum_state_voters(storage: &dyn Storage, dir: &Path) -> Result<Vec<i32>> {
    let bytes = read_file(storage, &dir.join("quorum-state"), 1 << 20)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let after_name = text.split("\"voterId\"").skip(1);
    let number = |rest: &str| {
        let value = rest.trim_start().strip_prefix(':')?.trim_start();
        let end = value.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(value.len());
        value[..end].parse().ok()
    };
    Ok(after_name.filter_map(number).collect())
}

impl Catalog {
    /// Writes what a new directory must begin with: who votes, so that both styles of quorum work, and the
    /// level of the metadata. Each is completed where a crash came between.
    fn write_first_records(&self, writer: &mut Writer) -> Result<()> {
        let mut image = (*self.image()).clone();
        let place = |image: &Image| {
            let epoch = if image.end == Offset::ZERO { FIRST_EPOCH } else { image.epoch };
            Place { base: image.end, epoch, time: self.clock.now() }
        };
        if image.end == Offset::ZERO {
            let voter = Voter {
                id: self.identity.node_id,
                directory_id: self.directory_id,
                // Not known yet; a broker whose listener differs corrects it.
                endpoints: vec![Endpoint { name: "CONTROLLER".into(), host: "localhost".into(), port: 9093 }],
                kraft_versions: (0, 1),
            };
            let records = [ControlRecord::KRaftVersion(1), ControlRecord::Voters(vec![voter])];
            image = self.commit(writer, &image, &batches::control_batch(place(&image), &records)?)?;
        }
        if image.feature(METADATA_VERSION).is_none() {
            let level = MetadataRecord::FeatureLevel { name: METADATA_VERSION.into(), level: METADATA_LEVEL };
            image = self.commit(writer, &image, &batches::data_batch(place(&image), &[level])?)?;
        }
        self.image.store(Arc::new(image));
        Ok(())
    }
}

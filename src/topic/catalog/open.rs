//! Opening a catalog in two steps. [`Reading`] replays the newest sound snapshot and the log after it and
//! changes nothing: it says no to a directory that is not for this release, and finds the reasons for which
//! a catalog is not ours to change. Its `open` writes what a new or only formatted directory must begin with.
//!
//! Where there is no metadata log but partition directories are, the topics come from those; they are
//! written down with the first change.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::batches::{self, Contents, Place};
use super::control::{ControlRecord, Endpoint, Voter};
use super::image::{Image, METADATA_VERSION};
use super::records::{MetadataRecord, Resource};
use super::snapshot::{self, Bootstrap, SnapshotId};
use super::{Catalog, CatalogOptions, Writer, derive, files, identity};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind, Findings};
use crate::log::{Log, LogConfig, LogContext, Outside};
use crate::record::RecordBatch;
use crate::storage::{Storage, read_file};
use crate::topic::config::TopicConfig;
use crate::topic::name::CLUSTER_METADATA;
use crate::topic::properties::{CLEAN_SHUTDOWN, MetaProperties};
use crate::types::{LeaderEpoch, Offset, TopicPartition, Uuid};

/// The level of a new directory: 3.9-IV0, the newest that 3.9 and 4.x both read.
const METADATA_LEVEL: i16 = 21;
/// The newest level whose records are known here: that of 4.4.0.
const METADATA_LEVEL_MAX: i16 = 33;
/// Kafka asks for a cluster-wide `min.insync.replicas` where this feature is on (KIP-966).
const ELR_VERSION: &str = "eligible.leader.replicas.version";
/// The raft epoch of a new log; the first leader makes it higher.
pub(super) const FIRST_EPOCH: LeaderEpoch = LeaderEpoch::new(1);

/// A directory's catalog as its files tell it. Nothing was written.
#[derive(Debug)]
pub(crate) struct Reading {
    options: CatalogOptions,
    log_dir: PathBuf,
    dir: PathBuf,
    identity: MetaProperties,
    /// `identity` is not on disk as it is here.
    is_new_identity: bool,
    replay: Replay,
    origin: Origin,
    read_only: Option<Error>,
}

/// Where the catalog comes from.
#[derive(Debug)]
enum Origin {
    /// The metadata log.
    Log,
    /// There was none, nor a topic.
    New,
    /// Kafka formatted the directory and no broker has used it yet.
    Formatted(Bootstrap),
    /// The partition directories: the records that they make.
    Directories(Vec<MetadataRecord>),
}

/// What must come into the log before anything else.
#[derive(Debug)]
pub(super) struct Prelude {
    /// The catalog without it.
    base: Image,
    quorum: Vec<ControlRecord>,
    records: Vec<Vec<u8>>,
}

impl Reading {
    /// Reads the catalog of the log directory `log_dir`.
    ///
    /// # Errors
    /// `Unsupported` when a later release of Kafka wrote it, unless it is to be read only; `Corrupt`.
    pub(crate) fn new(storage: &dyn Storage, log_dir: &Path, options: CatalogOptions) -> Result<Self> {
        let (identity, is_new_identity) = identity::load_or_make(storage, log_dir, &options)?;
        let dir = log_dir.join(format!("{CLUSTER_METADATA}-0"));
        let mut replay = Replay::from_snapshot(storage, &dir)?;
        replay.read_log(storage, &dir)?;
        let mut reading = Self {
            options,
            log_dir: log_dir.into(),
            dir,
            identity,
            is_new_identity,
            replay,
            origin: Origin::Log,
            read_only: None,
        };
        reading.read_only = reading.foreign_hands(storage)?;
        if reading.read_only.is_none() && reading.replay.image.feature(METADATA_VERSION).is_none() {
            reading.find_origin(storage)?;
        }
        reading.check_level()?;
        reading.check_whole(storage)?;
        Ok(reading)
    }

    fn refusal(&self, why: impl std::fmt::Display, remedy: &'static str) -> Error {
        let message = format!("the catalog cannot be changed: {why}");
        Error::new(ErrorKind::ReadOnly, message).path(&self.dir).remedy(remedy)
    }

    /// Why nobody but others may append to this catalog, if there is a reason.
    fn foreign_hands(&self, storage: &dyn Storage) -> Result<Option<Error>> {
        let node = self.identity.node_id;
        if let Some(error) = &self.replay.stopped {
            let remedy = match error.kind() {
                ErrorKind::Unsupported => "use a release that knows the record",
                _ => "restore __cluster_metadata-0 from a backup",
            };
            return Ok(Some(self.refusal(error, remedy)));
        }
        if let Some(why) = self.replay.image.other_node(node) {
            return Ok(Some(self.refusal(why, "a directory of a cluster is changed by its controllers alone")));
        }
        let mut voters = quorum_state_voters(storage, &self.dir)?.into_iter();
        Ok(voters.find(|&voter| voter != node).map(|other| {
            let why = format!("node {other} votes on its metadata");
            self.refusal(why, "a cluster is changed by its controllers alone")
        }))
    }

    /// Looks for what stands in for records that the log does not have.
    fn find_origin(&mut self, storage: &dyn Storage) -> Result<()> {
        if self.replay.image.topics().next().is_some() {
            let why = "it has no metadata.version";
            self.read_only = Some(self.refusal(why, "restore __cluster_metadata-0 from a backup"));
            return Ok(());
        }
        let (node, own) = (self.identity.node_id, self.directory_id());
        let dirs = derive::records(storage, &self.log_dir, node, own)?;
        // Also without any topic: a metadata log that is not needed would keep Kafka from starting on both.
        let is_new = dirs.is_empty() && !derive::is_beside_another(storage, &self.log_dir, &self.dir);
        self.origin = match snapshot::bootstrap(storage, &self.log_dir, &self.dir) {
            Ok(Some(found)) if is_new || found.image.topics().next().is_some() => {
                if let Some(why) = found.image.other_node(node) {
                    let remedy = "a directory of a cluster is changed by its controllers alone";
                    self.read_only = Some(self.refusal(why, remedy));
                }
                Origin::Formatted(found)
            }
            Err(e) if is_new => {
                self.read_only = Some(self.refusal(e, "start Kafka on it once"));
                Origin::Log
            }
            _ if is_new => Origin::New,
            _ => Origin::Directories(dirs),
        };
        Ok(())
    }

    /// A later release may have changed what records mean, also those whose versions are known.
    fn check_level(&mut self) -> Result<()> {
        let bootstrap = match &self.origin {
            Origin::Formatted(found) => found.image.feature(METADATA_VERSION),
            _ => None,
        };
        let level = self.replay.image.feature(METADATA_VERSION).or(bootstrap);
        let Some(level) = level.filter(|&level| level > METADATA_LEVEL_MAX) else { return Ok(()) };
        let newest = METADATA_LEVEL_MAX;
        let message = format!(
            "a later release of Kafka wrote the catalog: metadata.version is {level}, the newest known {newest}"
        );
        if self.options.read_only {
            self.read_only.get_or_insert(Error::new(ErrorKind::ReadOnly, message).path(&self.dir));
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, message)
            .path(&self.log_dir)
            .remedy("use a release that knows it, or open the directory read only; nothing was changed"))
    }

    /// Why the catalog takes no changes, where it does not.
    pub(crate) fn read_only(&self) -> Option<&Error> {
        self.read_only.as_ref()
    }

    /// After a stop in good order nothing is unfinished: such a log was not copied whole. Going on without its last
    /// topics would have their logs set aside.
    fn check_whole(&mut self, storage: &dyn Storage) -> Result<()> {
        let Some(torn) = self.replay.torn.take() else { return Ok(()) };
        if storage.metadata(&self.log_dir.join(CLEAN_SHUTDOWN)).is_err() {
            return Ok(());
        }
        let remedy = "copy the directory again, whole; or remove .kafka_cleanshutdown to go on without what is missing";
        if self.options.read_only {
            self.read_only.get_or_insert(self.refusal(torn, remedy));
            return Ok(());
        }
        let torn = Error::new(ErrorKind::Corrupt, format!("half a copy: {torn}, though Kafka stopped in good order"));
        Err(torn.path(&self.log_dir).remedy(remedy))
    }

    fn directory_id(&self) -> Uuid {
        self.identity.directory_id.unwrap_or(Uuid::ZERO)
    }

    /// Opens the catalog: from here on the directory is written to. `context` says how logs are opened here; its
    /// partition, topic id and log start are the catalog's to set.
    pub(crate) fn open(mut self, context: LogContext) -> Result<Catalog> {
        let (storage, clock) = (Arc::clone(&context.storage), Arc::clone(&context.clock));
        let findings = Arc::clone(&context.findings);
        if self.is_new_identity && self.read_only.is_none() {
            identity::save(&*storage, &self.log_dir, &self.identity)?;
        }
        let prelude = self.prelude()?;
        let log = match &self.read_only {
            None => Some(open_log(context, &self.dir, &self.replay)?),
            Some(_) => None,
        };
        self.report(&findings);
        let directory_id = self.directory_id();
        let mut image = self.replay.image;
        if let (Origin::Directories(records), Some(_)) = (&self.origin, &prelude) {
            records.iter().try_for_each(|record| image.apply(record.clone()))?;
        }
        let mut defaults = self.options.defaults;
        for broker in [String::new(), self.identity.node_id.to_string()] {
            let resource = Resource { kind: Resource::BROKER, name: broker };
            for (name, value) in image.configs(&resource) {
                if let Err(error) = defaults.adopt(name, value) {
                    let message = format!("a broker config of the catalog is not heeded: {error}");
                    findings.add(Finding::new(FindingKind::UnknownRecord, message).path(&self.dir));
                }
            }
        }
        let catalog = Catalog {
            storage,
            clock,
            dir: self.dir,
            directory_id,
            identity: self.identity,
            defaults,
            snapshot_bytes: self.options.snapshot_bytes,
            image: ArcSwap::from_pointee(image),
            writer: Mutex::default(),
        };
        let mut writer = Writer {
            log,
            read_only: self.read_only,
            prelude,
            since_snapshot: self.replay.log_bytes,
            snapshot: self.replay.snapshot,
        };
        if writer.read_only.is_none() {
            snapshot::remove_leftovers(&*catalog.storage, &catalog.dir)?;
            if !matches!(self.origin, Origin::Directories(_)) {
                catalog.write_prelude(&mut writer)?;
            }
        }
        *catalog.writer.lock() = writer;
        Ok(catalog)
    }

    fn prelude(&mut self) -> Result<Option<Prelude>> {
        let voter = Voter {
            id: self.identity.node_id,
            directory_id: self.directory_id(),
            // Not known yet; a broker whose listener differs corrects it.
            endpoints: vec![Endpoint { name: "CONTROLLER".into(), host: "localhost".into(), port: 9093 }],
            kraft_versions: (0, 1),
        };
        let mut quorum = vec![ControlRecord::KRaftVersion(1), ControlRecord::Voters(vec![voter])];
        let level = MetadataRecord::FeatureLevel { name: METADATA_VERSION.into(), level: METADATA_LEVEL };
        let mut records = Vec::new();
        if self.replay.image.in_transaction() {
            records.push(abandoned().encode()?);
        }
        match &mut self.origin {
            _ if self.read_only.is_some() => return Ok(None),
            Origin::Log => return Ok(None),
            Origin::New => records.push(level.encode()?),
            Origin::Directories(topics) => {
                topics.insert(0, level);
                for record in topics {
                    records.push(record.encode()?);
                }
            }
            Origin::Formatted(found) => {
                if !found.quorum.is_empty() {
                    quorum = std::mem::take(&mut found.quorum);
                }
                if found.image.feature(METADATA_VERSION).is_none() {
                    records.push(level.encode()?);
                }
                records.append(&mut found.records);
                records.extend(replicas_in_sync(&found.image).map(|record| record.encode()).transpose()?);
            }
        }
        Ok(Some(Prelude { base: self.replay.image.clone(), quorum, records }))
    }

    fn report(&self, findings: &Findings) {
        if let Some(error) = &self.read_only {
            findings.add(Finding::new(FindingKind::ReadOnly, error.to_string()).path(&self.log_dir));
        }
        if let Origin::Directories(_) = self.origin {
            let message = "there is no metadata log: topics were taken from the directories, and their retention and \
                           cleaning are off until set; the first change of a topic writes a metadata log here, after \
                           which Kafka does not serve this directory beside another one";
            findings.add(Finding::new(FindingKind::NoCatalog, message).path(&self.log_dir));
        }
        for topic in self.replay.image.topics() {
            let config = TopicConfig::from_records(self.replay.image.configs(&Resource::topic(&*topic.name)));
            for (name, value) in config.foreign() {
                let message = format!("config {name}={value:?} of topic {} is not heeded", topic.name);
                findings.add(Finding::new(FindingKind::UnknownRecord, message).path(&self.dir));
            }
        }
    }
}

/// Ends a metadata transaction whose writer is gone: without this its records would swallow ours.
pub(super) fn abandoned() -> MetadataRecord {
    MetadataRecord::AbortTransaction { reason: Some("its writer did not end it".to_owned()) }
}

/// What the first leader adds where eligible leader replicas are on.
fn replicas_in_sync(bootstrap: &Image) -> Option<MetadataRecord> {
    let resource = Resource { kind: Resource::BROKER, name: String::new() };
    let name = "min.insync.replicas";
    let stands = bootstrap.configs(&resource).any(|(n, _)| n == name);
    let on = bootstrap.feature(ELR_VERSION).is_some_and(|level| level > 0);
    (on && !stands).then(|| MetadataRecord::Config { resource, name: name.into(), value: Some("1".into()) })
}

/// Opens the metadata log so that it does not end before the snapshot does.
fn open_log(context: LogContext, dir: &Path, replay: &Replay) -> Result<Log> {
    let config = LogConfig::default().max_message_bytes(i32::MAX.unsigned_abs());
    let expected = replay.image.end;
    // All that the log holds is in the snapshot: it goes on where the snapshot ends, as Kafka's does.
    let anew = replay.log_end < expected;
    let snapshot = replay.snapshot.map_or(Offset::ZERO, |(id, _)| id.end);
    let context = LogContext {
        partition: TopicPartition::new(CLUSTER_METADATA, 0),
        topic_id: None,
        log_start: if anew { expected } else { Offset::ZERO },
        recovery_point: Offset::ZERO,
        // What is below stands in the snapshot.
        outside: Outside { doubted: context.outside.doubted.map(|from| from.max(snapshot)), ..context.outside },
        ..context
    };
    let log = Log::open_in(context, dir, config)?;
    if anew {
        log.roll()?;
    }
    let end = log.offsets().end;
    if end != expected {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("the metadata log ends at {end}, not where it was read to"),
        )
        .path(dir)
        .offset(expected)
        .remedy("restore __cluster_metadata-0 from a backup"));
    }
    Ok(log)
}

/// What reading a catalog has found so far.
#[derive(Debug, Default)]
struct Replay {
    image: Image,
    snapshot: Option<(SnapshotId, u64)>,
    /// A snapshot that is damaged, though the newest.
    damaged: Option<(SnapshotId, Error)>,
    /// Bytes of log after the snapshot.
    log_bytes: u64,
    /// Where the log itself ends.
    log_end: Offset,
    /// What is unfinished behind it.
    torn: Option<Error>,
    /// A record of a later release, or damage: nothing behind it was read.
    stopped: Option<Error>,
}

impl Replay {
    /// Begins with the newest snapshot that is sound. A damaged one is passed over: the log still goes back
    /// to the one before.
    fn from_snapshot(storage: &dyn Storage, dir: &Path) -> Result<Self> {
        let mut replay = Self::default();
        let ids = snapshot::list(storage, dir)?;
        for &id in ids.iter().rev().filter(|id| id.end > Offset::ZERO) {
            match snapshot::read(storage, dir, id) {
                Ok(loaded) => {
                    replay.snapshot = Some((id, loaded.size));
                    (replay.image, replay.stopped) = (loaded.image, loaded.stopped);
                    break;
                }
                Err(e) if e.kind() == ErrorKind::Corrupt => drop(replay.damaged.get_or_insert((id, e))),
                Err(e) => return Err(e),
            }
        }
        Ok(replay)
    }

    fn read_log(&mut self, storage: &dyn Storage, dir: &Path) -> Result<()> {
        if self.stopped.is_some() {
            return Ok(());
        }
        let from = self.image.end;
        let found = files::read(storage, dir, from, |batch| self.take(from, batch))?;
        let remedy = "restore the newest .checkpoint file of __cluster_metadata-0 from a backup";
        if let Some(start) = found.start.filter(|&start| start > from) {
            return Err(Error::new(ErrorKind::Corrupt, "the catalog lacks the records before its log starts")
                .partition(TopicPartition::new(CLUSTER_METADATA, 0))
                .offset(start)
                .remedy(remedy));
        }
        if let Some((id, error)) = self.damaged.take()
            && found.end < id.end
            && self.stopped.is_none()
        {
            // What only it holds is lost, and appending would give its offsets out again.
            return Err(error.remedy(remedy));
        }
        self.stopped = self.stopped.take().or(found.damage);
        self.log_end = found.end;
        self.torn = found.torn;
        if self.stopped.is_none() {
            self.image.end = self.image.end.max(found.end);
        }
        Ok(())
    }

    fn take(&mut self, from: Offset, batch: &RecordBatch) -> Result<ControlFlow<()>> {
        if batch.base_offset() < from {
            if let Contents::Data(values) = batches::contents(batch)? {
                let removed = values.iter().filter_map(|(_, value)| match MetadataRecord::decode(value) {
                    Ok(MetadataRecord::RemoveTopic { id }) => Some(id),
                    _ => None,
                });
                removed.for_each(|id| self.image.note_removed(id));
            }
            return Ok(ControlFlow::Continue(()));
        }
        match batches::apply(&mut self.image, batch) {
            Err(e) if e.kind() == ErrorKind::Unsupported => {
                self.stopped = Some(e);
                Ok(ControlFlow::Break(()))
            }
            applied => {
                self.log_bytes += batch.size_bytes() as u64;
                applied.map(ControlFlow::Continue)
            }
        }
    }
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
    /// Writes what the log must begin with: who votes, so that both styles of quorum work, and the records that the
    /// catalog starts from. Each is completed where a crash came between.
    pub(super) fn write_prelude(&self, writer: &mut Writer) -> Result<()> {
        let Some(mut prelude) = writer.prelude.take() else { return Ok(()) };
        let written = self.write_records(writer, &mut prelude);
        if written.is_err() {
            writer.prelude = Some(prelude);
        }
        self.image.store(Arc::new(written?));
        Ok(())
    }

    fn write_records(&self, writer: &mut Writer, prelude: &mut Prelude) -> Result<Image> {
        let place = |image: &Image| {
            let epoch = if image.end == Offset::ZERO { FIRST_EPOCH } else { image.epoch };
            Place { base: image.end, epoch, time: self.clock.now() }
        };
        if prelude.base.end == Offset::ZERO {
            let quorum = batches::control_batch(place(&prelude.base), &prelude.quorum)?;
            prelude.base = self.commit(writer, &prelude.base, &quorum)?;
        }
        let records = batches::encoded_batch(place(&prelude.base), &prelude.records)?;
        self.commit(writer, &prelude.base, &records)
    }
}

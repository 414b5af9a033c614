//! A directory without a metadata log: the second of two log.dirs, or one whose `metadata.log.dir` is
//! elsewhere. Its partition directories tell names, ids, numbers and leader epochs; configs are unknown, so
//! nothing may ever be deleted by them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::image::PARTITION_NUMBER_MAX;
use super::records::{MetadataRecord, PartitionState, Resource};
use crate::error::{Error, ErrorKind, Result};
use crate::log::{LEADER_EPOCHS, PARTITION_METADATA, decode_epochs, decode_partition_metadata};
use crate::storage::{EntryKind, Storage, read_file};
use crate::topic::name;
use crate::types::Uuid;

/// Longest epoch checkpoint that is read.
const EPOCHS_BYTES_MAX: u64 = 64 << 20;
/// Where Kafka says that a replica's log is when nobody knows.
pub(super) const LOST: Uuid = Uuid::from_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);

/// No broker that counts from 0 has come this far: the logs may hold ids of producers that still live.
pub(super) const NEXT_PRODUCER_ID: i64 = 1 << 40;

/// What a broker keeps at the top of every log.dir.
const CHECKPOINTS: [&str; 2] = ["recovery-point-offset-checkpoint", "replication-offset-checkpoint"];

/// Whether a broker has used `log_dir` and kept its metadata log, of which `dir` is the place here, in another one.
pub(super) fn is_beside_another(storage: &dyn Storage, log_dir: &Path, dir: &Path) -> bool {
    let has = |path: &Path| storage.metadata(path).is_ok();
    !has(dir) && CHECKPOINTS.iter().any(|name| has(&log_dir.join(name)))
}

#[derive(Default)]
struct Topic {
    /// What its directories say.
    ids: Vec<Uuid>,
    /// Leader epochs by number.
    partitions: BTreeMap<i32, i32>,
}

/// The records of a catalog with all topics that have a directory in `log_dir`. A number that is missing below the
/// highest is a partition whose directory nobody knows. No topic, no record.
pub(super) fn records(storage: &dyn Storage, log_dir: &Path, node: i32, own: Uuid) -> Result<Vec<MetadataRecord>> {
    let topics = topics(storage, log_dir)?;
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let mut records = vec![MetadataRecord::ProducerIds { broker: -1, broker_epoch: -1, next: NEXT_PRODUCER_ID }];
    let mut taken = BTreeSet::new();
    for (name, topic) in topics {
        // Of a directory that was copied under another name only one can be the topic's own.
        let id = topic.ids.into_iter().find(|&id| taken.insert(id)).map_or_else(Uuid::random, Ok)?;
        let count = topic.partitions.last_key_value().map_or(0, |(&last, _)| last + 1);
        records.push(MetadataRecord::Topic { name: name.clone(), id });
        records.extend((0..count).map(|partition| {
            let epoch = topic.partitions.get(&partition);
            let state = PartitionState {
                replicas: vec![node],
                isr: vec![node],
                leader: node,
                leader_epoch: epoch.copied().unwrap_or_default(),
                directories: vec![if epoch.is_some() { own } else { LOST }],
                ..PartitionState::default()
            };
            MetadataRecord::Partition { topic: id, partition, state }
        }));
        // Whatever the defaults are: nobody has said yet that anything may go.
        records.extend(["retention.ms", "retention.bytes"].map(|config| MetadataRecord::Config {
            resource: Resource::topic(&*name),
            name: config.into(),
            value: Some("-1".into()),
        }));
    }
    Ok(records)
}

fn topics(storage: &dyn Storage, log_dir: &Path) -> Result<BTreeMap<String, Topic>> {
    let entries = match storage.list(log_dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        listed => listed.map_err(|e| Error::io("cannot list the directory", log_dir, e))?,
    };
    let mut dirs: Vec<_> = entries.into_iter().filter(|e| e.kind == EntryKind::Directory).map(|e| e.name).collect();
    dirs.sort_unstable();
    let mut topics = BTreeMap::<String, Topic>::new();
    for dir in &dirs {
        let Some((name, number)) = name::parse_partition_dir(dir) else { continue };
        if number > PARTITION_NUMBER_MAX {
            continue;
        }
        let dir = log_dir.join(dir);
        let topic = topics.entry(name.to_owned()).or_default();
        let read = |name: &str, max| match read_file(storage, &dir.join(name), max) {
            Err(e) if e.kind() == ErrorKind::TooLarge => Ok(None),
            read => read,
        };
        let metadata = read(PARTITION_METADATA, 4096)?;
        topic.ids.extend(metadata.and_then(|bytes| decode_partition_metadata(&bytes).ok()));
        let epochs = read(LEADER_EPOCHS, EPOCHS_BYTES_MAX)?.unwrap_or_default();
        let epochs = decode_epochs(&epochs).unwrap_or_default();
        topic.partitions.insert(number, epochs.last().map_or(0, |(epoch, _)| epoch.get()));
    }
    Ok(topics)
}

//! Whole directories made of an input: they open or are refused, what opens is read, appended to and opened again, after
//! a close and after a kill, and nothing has changed.
//!
//! An input is a row of files: a byte of flags, the length of the name in a byte, the name, the length of the
//! content in two bytes, the content. What is too short is taken as far as it goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Buf;

use super::super::sim::SimStorage;
use super::FUZZ_LIMIT;
use crate::broker::{Broker, BrokerBuilder, Partition};
use crate::clock::{Clock, ManualClock};
use crate::error::Result;
use crate::log::{Log, LogConfig, LogRead, LogRecovery, ProducerStates, RecoveryRow, StateFile};
use crate::record::BatchHeader;
use crate::storage::{OpenMode, Storage};
use crate::types::{Durability, Isolation, Offset, Timestamp, TopicPartition};

const ROOT: &str = "data";
const LOG: &str = "events-0";

/// A flag of a file: its checksums are put right, which no fuzzer guesses.
const REPAIR: u8 = 1;
/// A flag of a file: it goes on with zeros, as one with space ahead does.
const ZEROS: u8 = 1 << 1;
const ZEROS_LEN: usize = 8 << 10;
/// A flag of a log: nobody closes it before it is opened again.
const KILLED: u8 = 1 << 3;

/// Partitions of a directory that are looked at.
const PARTITIONS_MAX: usize = 64;
const READ_BYTES: usize = 64 << 10;

fn clock() -> ManualClock {
    ManualClock::new(Timestamp::new(1_700_000_000_000))
}

/// A disk with the files of an input in `dir`.
fn unpack(dir: &Path, mut data: &[u8]) -> SimStorage {
    let disk = SimStorage::new();
    disk.create_dir(dir).expect("an empty disk has room");
    while let Ok(flags) = data.try_get_u8() {
        let name_len = data.try_get_u8().map_or(0, usize::from);
        let name = String::from_utf8_lossy(take(&mut data, name_len)).into_owned();
        let len = data.try_get_u16().map_or(0, usize::from);
        put(&disk, dir, &name, flags, take(&mut data, len));
    }
    disk
}

fn take<'a>(data: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (part, rest) = data.split_at(len.min(data.len()));
    *data = rest;
    part
}

/// A name that a file cannot have is passed over, and so is one that is taken.
fn put(disk: &SimStorage, dir: &Path, name: &str, flags: u8, content: &[u8]) {
    let parts: Vec<_> = name.split('/').collect();
    let (Some((last, above)), false) = (parts.split_last(), name.contains('\0')) else { return };
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return;
    }
    let mut path = PathBuf::from(dir);
    for part in above {
        path.push(part);
        // It may be there.
        disk.create_dir(&path).ok();
    }
    path.push(last);
    let Ok(file) = disk.open(&path, OpenMode::CreateNew) else { return };
    let mut bytes = if flags & REPAIR == 0 { content.to_vec() } else { repaired(last, content) };
    if flags & ZEROS != 0 {
        bytes.resize(bytes.len() + ZEROS_LEN, 0);
    }
    file.write_all_at(&bytes, 0).expect("an empty disk has room");
}

/// The file's content with checksums that match. A seal is left as it is: one that lies under a sound checksum takes
/// batches from the segment at some openings and not at others, and no rot makes it.
fn repaired(name: &str, content: &[u8]) -> Vec<u8> {
    match name.rsplit_once('.').map_or("", |(_, kind)| kind) {
        "log" | "checkpoint" => repaired_batches(content),
        "snapshot" => ProducerStates::repaired(content).unwrap_or_else(|| content.to_vec()),
        "state" => StateFile::repaired(content),
        _ => content.to_vec(),
    }
}

/// Batches as long as they say, the last as long as there are bytes.
fn repaired_batches(mut content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len());
    while !content.is_empty() {
        let announced = BatchHeader::announced_size(content).unwrap_or(content.len());
        let batch = take(&mut content, announced.max(BatchHeader::LEN));
        match BatchHeader::repaired(batch) {
            Some(batch) => bytes.extend_from_slice(&batch),
            None => bytes.extend_from_slice(batch),
        }
    }
    bytes
}

/// A segment's `.log` alone, as it is and with its checksums put right.
pub(super) fn segment(data: &[u8]) {
    let Some((&how, content)) = data.split_first() else { return };
    for flags in [how & ZEROS, how & ZEROS | REPAIR] {
        let disk = SimStorage::new();
        disk.create_dir(Path::new(LOG)).expect("an empty disk has room");
        put(&disk, Path::new(LOG), "00000000000000000000.log", flags, content);
        use_log(&disk, how);
    }
}

/// All files of one partition, the state of a log that stands alone among them.
pub(super) fn log_directory(data: &[u8]) {
    let Some((&how, files)) = data.split_first() else { return };
    use_log(&unpack(Path::new(LOG), files), how);
}

fn config(how: u8) -> LogConfig {
    let level = if how & 4 == 0 { Durability::PowerLoss } else { Durability::ProcessCrash };
    LogConfig::default().segment_bytes(2000).index_interval_bytes(100).durability(level)
}

/// Opens a log again and again, after a close and without one: what was served once is served for ever.
fn use_log(disk: &SimStorage, how: u8) {
    let mut known = None;
    for ends_in_order in [how & KILLED == 0, false, true] {
        let (storage, clock): (Arc<dyn Storage>, Arc<dyn Clock>) = (Arc::new(disk.clone()), Arc::new(clock()));
        let log = match Log::open_on(storage, clock, LOG, config(how)) {
            Ok(log) => log,
            Err(error) => {
                assert_eq!(known, None, "it was open before: {error}");
                return;
            }
        };
        let read = |at| log.read(at, READ_BYTES, Isolation::ReadUncommitted);
        let offsets = log.offsets();
        let mut found = read_all(offsets.log_start, offsets.high_watermark, |at| {
            let _may_be_less = log.read(at, READ_BYTES, Isolation::ReadCommitted);
            read(at)
        });
        found.other_batches |= tells_of_other_batches(&log.recovery());
        found.check(known.as_ref(), LOG);
        for time in [0, 1_600_000_000_000, i64::MAX] {
            let _may_fail = log.offset_at(time, Isolation::ReadUncommitted);
        }
        let _may_fail = log.run_maintenance();
        if let Ok(appended) = log.append_records(["appended"])
            && log.wait(appended.position, Durability::PowerLoss).is_ok()
        {
            found.batches.extend(read_all(appended.base_offset, appended.base_offset.next(), read).batches);
        }
        if ends_in_order && log.close().is_err() {
            return;
        }
        known = Some(found);
    }
}

/// What was served of a log.
#[derive(Clone, Debug, Default, PartialEq)]
struct Served {
    /// The base offset of each batch and a checksum of its bytes.
    batches: Vec<(Offset, u32)>,
    /// Somewhere stand other batches than were sealed. They are sound, and it takes a walk over the segment to see that:
    /// until something is a reason for one, reads serve them.
    other_batches: bool,
}

impl Served {
    /// Compares what is served now with what was before.
    fn check(&self, known: Option<&Self>, name: &str) {
        let Some(known) = known else { return };
        if self.other_batches {
            let was_served = |batch| known.batches.contains(batch);
            assert!(self.batches.iter().all(was_served), "{name}: {self:?} after an opening, {known:?} before");
        } else {
            assert_eq!(self.batches, known.batches, "{name} after an opening, and before");
        }
    }
}

fn tells_of_other_batches(recovery: &LogRecovery) -> bool {
    recovery.rows.contains(&RecoveryRow::SealDiffers)
}

/// All batches; damage is passed over as the error says.
fn read_all(start: Offset, end: Offset, read: impl Fn(Offset) -> Result<LogRead>) -> Served {
    let (mut next, mut found) = (start, Served::default());
    while next < end {
        let behind = match read(next) {
            Ok(read) => {
                for batch in read.batches() {
                    let Ok(batch) = batch else { continue };
                    if let Ok(decoded) = batch.decode_capped(FUZZ_LIMIT) {
                        let _may_be_wrong = decoded.iter().filter(Result::is_ok).count();
                    }
                    found.batches.push((batch.base_offset(), crate::wire::crc32c(batch.as_bytes())));
                }
                read.next_offset()
            }
            Err(error) => {
                found.other_batches |= error.to_string().contains("sealed with");
                error.at_offsets().map_or(next, |lost| lost.end)
            }
        };
        if behind <= next {
            break;
        }
        next = behind;
    }
    found
}

/// A catalog alone: its log, a snapshot or what Kafka's formatting leaves, as it is and with its checksums put right.
pub(super) fn catalog(data: &[u8]) {
    let Some((&how, content)) = data.split_first() else { return };
    let name = match how & 3 {
        0 => "__cluster_metadata-0/00000000000000000000.log",
        1 => "__cluster_metadata-0/00000000000000000009-0000000001.checkpoint",
        2 => "__cluster_metadata-0/00000000000000000000-0000000000.checkpoint",
        _ => "bootstrap.checkpoint",
    };
    for flags in [0, REPAIR] {
        let disk = SimStorage::new();
        let root = Path::new(ROOT);
        disk.create_dir(root).expect("an empty disk has room");
        let identity = "node.id=1\ndirectory.id=AAAAAAAAAAAAAAAAAAAAAQ\nversion=1\ncluster.id=fuzz\n";
        put(&disk, root, "meta.properties", 0, identity.as_bytes());
        put(&disk, root, name, flags, content);
        use_broker(&disk);
    }
}

/// The small files at the top of a directory in which we remember when we were last there, beside a log of our own.
pub(super) fn notes(data: &[u8]) {
    let Some((&how, content)) = data.split_first() else { return };
    let (disk, root) = (SimStorage::new(), Path::new(ROOT));
    let ours = Broker::builder(ROOT).storage(disk.clone()).clock(clock()).manual().open().expect("a new directory");
    ours.topic("events").create().and_then(|topic| topic.send("ours")).expect("a disk that works");
    ours.close().expect("a disk that works");
    let name = if how & 1 == 0 { "thalweg.epoch" } else { "thalweg.clock" };
    disk.remove_file(&root.join(name)).expect("it was written at the close");
    put(&disk, root, name, 0, content);
    use_broker(&disk);
}

/// A whole directory.
pub(super) fn directory(data: &[u8]) {
    use_broker(&unpack(Path::new(ROOT), data));
}

/// As a log, with all that is around it.
fn use_broker(disk: &SimStorage) {
    let builder = || -> BrokerBuilder { Broker::builder(ROOT).storage(disk.clone()).clock(clock()).manual() };
    let mut known: Option<Vec<(TopicPartition, Served)>> = None;
    for ends_in_order in [true, false, true] {
        if let Ok(found) = builder().inspect() {
            let _shown = found.to_string();
        }
        let broker = match builder().open() {
            Ok(broker) => broker,
            Err(error) => {
                assert_eq!(known, None, "it was open before: {error}");
                return;
            }
        };
        // By their handles: a catalog of others may hold names that nobody can ask for.
        let partitions = partitions(&broker);
        for (name, known) in known.into_iter().flatten() {
            let partition = partitions.iter().find(|partition| *partition.topic_partition() == name);
            let mut found = read_partition(partition.expect("it was there")).expect("it was there");
            let report = broker.recovery_report();
            let opened = report.partitions.iter().filter(|opened| opened.partition == name);
            found.other_batches |= opened.flat_map(|opened| &opened.outcome).any(tells_of_other_batches);
            found.check(Some(&known), &name.to_string());
        }
        let mut served = Vec::new();
        for partition in partitions {
            let Ok(mut found) = read_partition(&partition) else { continue };
            if let Ok(appended) = partition.append_records(["appended"])
                && partition.wait(appended.position, Durability::PowerLoss).is_ok()
            {
                let read = |at| partition.read(at, READ_BYTES, Isolation::ReadUncommitted);
                found.batches.extend(read_all(appended.base_offset, appended.base_offset.next(), read).batches);
            }
            served.push((partition.topic_partition().clone(), found));
        }
        for group in broker.groups().unwrap_or_default() {
            let _may_fail = broker.consumer_group(group.id()).all_committed();
        }
        let _may_fail = broker.run_maintenance();
        if ends_in_order && broker.close().is_err() {
            return;
        }
        known = Some(served);
    }
}

fn partitions(broker: &Broker) -> Vec<Partition> {
    let topics = broker.topics().unwrap_or_default();
    topics.iter().flat_map(|topic| topic.partitions()).take(PARTITIONS_MAX).collect()
}

fn read_partition(partition: &Partition) -> Result<Served> {
    let offsets = partition.offsets()?;
    Ok(read_all(offsets.log_start, offsets.high_watermark, |at| {
        let _may_be_less = partition.read(at, READ_BYTES, Isolation::ReadCommitted);
        partition.read(at, READ_BYTES, Isolation::ReadUncommitted)
    }))
}

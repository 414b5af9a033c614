//! Snapshots of the catalog: `<end offset>-<epoch>.checkpoint` beside the metadata log, so that the log's
//! front can go (KIP-630).
//!
//! A snapshot holds a header, the records that make its image out of nothing, and a footer; Kafka accepts
//! one without a footer, so a file gets its name only when it is whole and synced. Snapshots at offset 0
//! hold Kafka's bootstrap records: they begin a log that is empty, and are never removed.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::batches::{self, Contents, Place};
use super::control::ControlRecord;
use super::image::Image;
use super::records::MetadataRecord;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{BatchHeader, ControlType, RecordBatch};
use crate::storage::{OpenMode, Storage, read_file};
use crate::types::{LeaderEpoch, Offset, Timestamp};

const SUFFIX: &str = ".checkpoint";
/// What a file is called until it is whole; Kafka removes such leftovers at start, and so do we.
const PART: &str = ".checkpoint.part";
/// What Kafka calls one that it is about to remove.
const DELETED: &str = ".checkpoint.deleted";
/// Records in one batch.
const BATCH_RECORDS: usize = 1_000;
/// The largest snapshot that is read.
const SIZE_MAX: u64 = 1 << 30;

/// The point in the log that a snapshot stands for: all below `end`, the last of it in `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SnapshotId {
    pub(super) end: Offset,
    pub(super) epoch: LeaderEpoch,
}

impl SnapshotId {
    pub(super) fn of(image: &Image) -> Self {
        Self { end: image.end, epoch: image.epoch }
    }

    fn path(self, dir: &Path, suffix: &str) -> PathBuf {
        dir.join(format!("{:020}-{:010}{suffix}", self.end, self.epoch))
    }

    fn parse(name: &str) -> Option<Self> {
        let (end, epoch) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let digits = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(end, 20) || !digits(epoch, 10) {
            return None;
        }
        Some(Self { end: Offset::new(end.parse().ok()?), epoch: LeaderEpoch::new(epoch.parse().ok()?) })
    }
}

/// All complete snapshots, the oldest first.
pub(super) fn list(storage: &dyn Storage, dir: &Path) -> Result<Vec<SnapshotId>> {
    let entries = match storage.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(|e| Error::io("cannot list the catalog's directory", dir, e))?,
    };
    let mut ids: Vec<_> = entries.iter().filter_map(|entry| SnapshotId::parse(&entry.name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Writes the snapshot of an image, durably, and answers its size in bytes.
pub(super) fn write(storage: &dyn Storage, dir: &Path, image: &Image) -> Result<u64> {
    let bytes = encode(image)?;
    let id = SnapshotId::of(image);
    let (part, path) = (id.path(dir, PART), id.path(dir, SUFFIX));
    let written = storage.open(&part, OpenMode::CreateIfAbsent).and_then(|file| {
        file.set_len(0)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()
    });
    written.map_err(|e| Error::io("cannot write a catalog snapshot", &part, e))?;
    storage.rename(&part, &path).map_err(|e| Error::io("cannot name a catalog snapshot", &path, e))?;
    storage.sync_dir(dir).map_err(|e| Error::io("cannot sync the catalog's directory", dir, e))?;
    Ok(bytes.len() as u64)
}

/// A snapshot as it was read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) image: Image,
    /// Of the file, in bytes.
    pub(super) size: u64,
    /// A record of a later release: nothing behind it was read.
    pub(super) stopped: Option<Error>,
}

/// Reads a snapshot; `Corrupt` when it is damaged or not whole.
pub(super) fn read(storage: &dyn Storage, dir: &Path, id: SnapshotId) -> Result<Loaded> {
    let path = id.path(dir, SUFFIX);
    let bytes = read_file(storage, &path, SIZE_MAX)?;
    let bytes = bytes.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the snapshot has vanished").path(&path))?;
    let size = bytes.len() as u64;
    let (mut image, stopped) = decode(bytes.into()).map_err(|e| e.path(&path))?;
    (image.end, image.epoch) = (id.end, id.epoch);
    Ok(Loaded { image, size, stopped: stopped.map(|e| e.path(path)) })
}

/// Removes the snapshots that end below `end`, but for those at offset 0.
pub(super) fn remove_below(storage: &dyn Storage, dir: &Path, end: Offset) -> Result<()> {
    for id in list(storage, dir)?.into_iter().filter(|id| id.end > Offset::ZERO && id.end < end) {
        let path = id.path(dir, SUFFIX);
        storage.remove_file(&path).map_err(|e| Error::io("cannot remove an old catalog snapshot", path, e))?;
    }
    storage.sync_dir(dir).map_err(|e| Error::io("cannot sync the catalog's directory", dir, e))
}

/// Removes what an interrupted [`write`], or Kafka, left.
pub(super) fn remove_leftovers(storage: &dyn Storage, dir: &Path) -> Result<()> {
    let entries = match storage.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(|e| Error::io("cannot list the catalog's directory", dir, e))?,
    };
    let left = |name: &str| name.ends_with(PART) || name.ends_with(DELETED);
    for entry in entries.iter().filter(|entry| left(&entry.name)) {
        let path = dir.join(&entry.name);
        storage.remove_file(&path).map_err(|e| Error::io("cannot remove an unfinished snapshot", path, e))?;
    }
    Ok(())
}

fn encode(image: &Image) -> Result<Vec<u8>> {
    let (kraft_version, voters) = image.quorum();
    let mut header = vec![ControlRecord::SnapshotHeader { last_timestamp: image.last_timestamp }];
    if kraft_version > 0 {
        header.push(ControlRecord::KRaftVersion(kraft_version));
        header.push(ControlRecord::Voters(voters.to_vec()));
    }
    let mut place = Place { base: Offset::ZERO, epoch: image.epoch, time: image.last_timestamp };
    let mut bytes = Vec::new();
    let mut put = |place: &mut Place, batch: RecordBatch| {
        bytes.extend_from_slice(batch.as_bytes());
        place.base = batch.next_offset();
    };
    let batch = batches::control_batch(place, &header)?;
    put(&mut place, batch);
    for records in image.to_records().chunks(BATCH_RECORDS) {
        let batch = batches::data_batch(place, records)?;
        put(&mut place, batch);
    }
    let batch = batches::control_batch(place, &[ControlRecord::SnapshotFooter])?;
    put(&mut place, batch);
    Ok(bytes)
}

fn decode(bytes: Bytes) -> Result<(Image, Option<Error>)> {
    let mut image = Image::default();
    let mut stopped = None;
    let last_timestamp = each_batch(bytes, |batch| match batches::apply(&mut image, batch) {
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            stopped = Some(e);
            Ok(ControlFlow::Break(()))
        }
        applied => applied.map(ControlFlow::Continue),
    })?;
    image.last_timestamp = last_timestamp;
    Ok((image, stopped))
}

/// Shows every batch of a snapshot to `visit`, until it breaks off; answers the time of the last record that the
/// snapshot stands for.
fn each_batch(mut bytes: Bytes, mut visit: impl FnMut(&RecordBatch) -> Result<ControlFlow<()>>) -> Result<Timestamp> {
    let broken = |why| Error::new(ErrorKind::Corrupt, why);
    let mut last_timestamp = None;
    let mut complete = false;
    while !bytes.is_empty() {
        if complete {
            return Err(broken("the snapshot goes on after its footer"));
        }
        let size = BatchHeader::announced_size(&bytes)?;
        if size > bytes.len() {
            return Err(broken("the snapshot is cut short"));
        }
        let batch = RecordBatch::parse(bytes.split_to(size))?;
        match batch.control_type()? {
            Some(ControlType::SnapshotHeader) => last_timestamp = Some(header_timestamp(&batch)?),
            Some(ControlType::SnapshotFooter) => complete = true,
            _ => {}
        }
        let Some(time) = last_timestamp else {
            return Err(broken("the snapshot does not begin with its header"));
        };
        if visit(&batch)?.is_break() {
            return Ok(time);
        }
    }
    last_timestamp.filter(|_| complete).ok_or_else(|| broken("the snapshot has no footer"))
}

/// With what Kafka's first leader begins the log of a directory that was only formatted.
#[derive(Debug, Default)]
pub(super) struct Bootstrap {
    /// Who votes, where that is in the files.
    pub(super) quorum: Vec<ControlRecord>,
    /// Data records, as they are.
    pub(super) records: Vec<Vec<u8>>,
    /// What they make.
    pub(super) image: Image,
}

/// Kafka's bootstrap records: `bootstrap.checkpoint` (up to 4.3), and the snapshot at offset 0, which has the voters
/// of a dynamic quorum and from 4.4 on the rest as well. `None` without any; `Unsupported` for records of a later
/// release.
pub(super) fn bootstrap(storage: &dyn Storage, log_dir: &Path, dir: &Path) -> Result<Option<Bootstrap>> {
    let zero = SnapshotId { end: Offset::ZERO, epoch: LeaderEpoch::new(0) };
    let mut found: Option<Bootstrap> = None;
    for path in [log_dir.join("bootstrap.checkpoint"), zero.path(dir, SUFFIX)] {
        let Some(bytes) = read_file(storage, &path, SIZE_MAX)? else { continue };
        let found = found.get_or_insert_default();
        let mut records = Vec::new();
        let taken = each_batch(bytes.into(), |batch| {
            match batches::contents(batch)? {
                Contents::Control(control) => {
                    let voting =
                        |r: &ControlRecord| matches!(r, ControlRecord::KRaftVersion(_) | ControlRecord::Voters(_));
                    for record in control.into_iter().filter(voting) {
                        found.image.apply_control(record.clone());
                        found.quorum.push(record);
                    }
                }
                Contents::Data(values) => records.extend(values.into_iter().map(|(_, value)| value)),
            }
            Ok(ControlFlow::Continue(()))
        });
        taken.map_err(|e| e.path(&path))?;
        if found.records.is_empty() {
            for value in &records {
                let applied = MetadataRecord::decode(value).and_then(|record| found.image.apply(record));
                applied.map_err(|e| e.path(&path))?;
            }
            found.records = records;
        }
    }
    Ok(found)
}

fn header_timestamp(batch: &RecordBatch) -> Result<Timestamp> {
    let decoded = batch.decode()?;
    let value = decoded.iter().next().transpose()?.and_then(|record| record.value()).unwrap_or_default();
    match ControlRecord::decode(ControlType::SnapshotHeader, value)? {
        ControlRecord::SnapshotHeader { last_timestamp } => Ok(last_timestamp),
        _ => Ok(Timestamp::NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::super::hex;
    use super::*;
    use crate::storage::MemoryStorage;
    use crate::types::Uuid;

    fn image() -> Image {
        let mut image = Image::default();
        for n in 0..2_500_i16 {
            let name = format!("topic-{n}");
            let id = Uuid::from_bytes([n.to_be_bytes(); 8].concat().try_into().unwrap());
            image.apply(MetadataRecord::Topic { name, id }).unwrap();
        }
        (image.end, image.epoch, image.last_timestamp) = (9.into(), 1.into(), 1_700_000_000_000.into());
        image
    }

    /// Batches of a snapshot that stock brokers read.
    #[test]
    fn header_and_footer_are_kafkas_bytes() {
        let header = "0000000000000000 00000047 00000000 02 c7ac7804 0020 00000000 0000018bcfe56800 0000018bcfe56800 \
                      ffffffffffffffff ffff ffffffff 00000001 2a 00 00 00 08 0000 0003 16 0000 0000018bcfe56800 00 00";
        let footer = "0000000000000007 0000003f 00000000 02 8f6608e6 0020 00000000 0000018bcfe56800 0000018bcfe56800 \
                      ffffffffffffffff ffff ffffffff 00000001 1a 00 00 00 08 0000 0004 06 0000 00 00";
        let time = Timestamp::new(1_700_000_000_000);
        let place = |base: i64| Place { base: base.into(), epoch: 0.into(), time };
        let built =
            batches::control_batch(place(0), &[ControlRecord::SnapshotHeader { last_timestamp: time }]).unwrap();
        assert_eq!(built.as_bytes()[..], hex(header));
        let built = batches::control_batch(place(7), &[ControlRecord::SnapshotFooter]).unwrap();
        assert_eq!(built.as_bytes()[..], hex(footer));
    }

    #[test]
    fn an_image_comes_back_from_its_snapshot() {
        let (storage, dir) = (MemoryStorage::default(), Path::new("m"));
        storage.create_dir(dir).unwrap();
        let image = image();
        let size = write(&storage, dir, &image).unwrap();
        let id = SnapshotId { end: 9.into(), epoch: 1.into() };
        assert_eq!(storage.list(dir).unwrap()[0].name, "00000000000000000009-0000000001.checkpoint");
        assert_eq!(list(&storage, dir).unwrap(), [id]);
        let loaded = read(&storage, dir, id).unwrap();
        let again = loaded.image;
        assert_eq!((again.to_records(), loaded.size), (image.to_records(), size));
        assert_eq!((again.end, again.epoch, again.last_timestamp), (image.end, image.epoch, image.last_timestamp));
    }

    #[test]
    fn anything_less_than_a_whole_snapshot_is_refused() {
        let bytes = encode(&image()).unwrap();
        for len in [0, 1, 83, bytes.len() - 75, bytes.len() - 1] {
            let error = decode(Bytes::copy_from_slice(&bytes[..len])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{len}: {error}");
        }
        let mut flipped = bytes.clone();
        flipped[200] ^= 1;
        assert!(decode(flipped.into()).is_err());
        assert!(decode(Bytes::copy_from_slice(&bytes[83..])).is_err());
    }

    #[test]
    fn foreign_names_are_no_snapshots() {
        for name in ["9-1.checkpoint", "0000000000000000009a-0000000001.checkpoint", "bootstrap.checkpoint"] {
            assert_eq!(SnapshotId::parse(name), None);
        }
    }
}

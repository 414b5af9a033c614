//! The small files and the records of Kafka's own topics: what can be read is written again and must be the same.

use std::time::Duration;

use bytes::Buf;

use super::super::sim::SimStorage;
use crate::group::GroupCoordinator;
use crate::index::{OffsetIndex, TimeIndex, TransactionIndex};
use crate::log::{
    EpochCache, ProducerStates, StateFile, decode_offsets, decode_partition_metadata, encode_offsets,
    encode_partition_metadata,
};
use crate::segment::{repaired_seal, rewritten_seal};
use crate::storage::{OpenMode, Storage};
use crate::topic::catalog::{Image, MetadataRecord};
use crate::topic::properties::MetaProperties;
use crate::types::{Offset, PartitionId, ProducerId, Timestamp};

/// `segment.index.bytes`.
const INDEX_BYTES_MAX: u32 = 10 << 20;

/// The base offset that a segment's name gives, and the rest.
fn split_base(mut data: &[u8]) -> Option<(Offset, &[u8])> {
    let base = data.try_get_i64().ok()?;
    Some((Offset::new(base & i64::MAX), data))
}

pub(super) fn offset_index(data: &[u8]) {
    let Some((base, bytes)) = split_base(data) else { return };
    let Ok(index) = OffsetIndex::decode(base, INDEX_BYTES_MAX, bytes, 1 << 32) else { return };
    assert_eq!(index.encode(0..index.len()), bytes);
    for target in [Offset::ZERO, base, index.last().0, Offset::new(i64::MAX)] {
        let (found, position) = index.lookup(target);
        assert!(found <= target.max(base));
        assert!(index.ceiling(target).is_none_or(|(above, _)| above >= target));
        assert!(index.behind(position.into()).all(|(above, _)| above >= found));
    }
}

pub(super) fn time_index(data: &[u8]) {
    let Some((base, bytes)) = split_base(data) else { return };
    let Ok(index) = TimeIndex::decode(base, INDEX_BYTES_MAX, bytes) else { return };
    assert_eq!(index.encode(0..index.len()), bytes);
    for target in [Timestamp::NONE, Timestamp::new(0), index.last().0, Timestamp::new(i64::MAX)] {
        let (found, offset) = index.lookup(target);
        assert!(found <= target.max(Timestamp::NONE) && offset >= base);
        assert!(index.behind(offset).all(|(_, above)| above >= offset));
    }
}

pub(super) fn transaction_index(data: &[u8]) {
    let Some((base, bytes)) = split_base(data) else { return };
    let Ok(mut index) = TransactionIndex::decode(base, bytes) else { return };
    assert_eq!(index.encode(), bytes);
    let mut found = Vec::new();
    let _may_be_all = index.aborted_between(base, Offset::new(i64::MAX), &mut found);
    assert!(!index.lacks_of(&index.clone()));
    let whole = index.clone();
    index.truncate(found.last().map_or(base, |txn| txn.last_offset));
    index.extend_from(&whole, found.last().map_or(base, |txn| txn.last_offset));
    assert_eq!(index, whole);
}

pub(super) fn seal(data: &[u8]) {
    let Some((base, bytes)) = split_base(data) else { return };
    for bytes in [bytes.to_vec(), repaired_seal(bytes)] {
        let Ok(Some(seal)) = rewritten_seal(&bytes, base) else { continue };
        assert_eq!(rewritten_seal(&seal, base).expect("our own"), Some(seal));
    }
}

pub(super) fn producers(data: &[u8]) {
    let decode =
        |bytes: &[u8]| ProducerStates::decode(bytes, Timestamp::new(1_700_000_000_000), Duration::from_secs(1));
    for bytes in [Some(data.to_vec()), ProducerStates::repaired(data)].into_iter().flatten() {
        let Ok(states) = decode(&bytes) else { continue };
        let again = states.encode().expect("no more than were read");
        assert_eq!(decode(&again).expect("our own"), states);
    }
}

/// The text files that Kafka calls checkpoints, and `partition.metadata`.
pub(super) fn checkpoint(data: &[u8]) {
    if let Ok(offsets) = decode_offsets(data) {
        assert_eq!(decode_offsets(encode_offsets(&offsets).as_bytes()).expect("our own"), offsets);
    }
    if let Ok(epochs) = EpochCache::decode(data) {
        let again = EpochCache::decode(epochs.encode().as_bytes()).expect("our own");
        assert_eq!(again.encode(), epochs.encode());
        let _looked_up = (epochs.latest(), epochs.in_force_at(Offset::ZERO), epochs.passes(Offset::ZERO));
    }
    if let Ok(id) = decode_partition_metadata(data) {
        assert_eq!(decode_partition_metadata(encode_partition_metadata(id).as_bytes()).expect("our own"), id);
    }
}

pub(super) fn properties(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(properties) = MetaProperties::parse(text) else { return };
    assert_eq!(MetaProperties::parse(&properties.to_text()).expect("our own"), properties);
}

/// The state file: what it says is stored and found again.
pub(super) fn state(data: &[u8]) {
    for bytes in [data.to_vec(), StateFile::repaired(data)] {
        let disk = SimStorage::new();
        let path = std::path::Path::new("thalweg.state");
        let file = disk.open(path, OpenMode::CreateNew).expect("an empty disk has room");
        file.write_all_at(&bytes, 0).expect("an empty disk has room");
        let Ok(file) = StateFile::open(&disk, path) else { continue };
        let mut known = Vec::new();
        for (id, partition) in file.partitions() {
            let slot = file.slot(id, partition);
            let state = slot.load().expect("it has a slot");
            slot.store(&state).expect("a disk that works");
            known.push((id, partition, state));
        }
        file.sync().expect("a disk that works");
        let file = StateFile::open(&disk, path).expect("our own");
        for (id, partition, state) in known {
            assert_eq!(file.slot(id, partition).load(), Some(state));
        }
    }
}

/// A part of the input that tells its own length, as far as there are bytes for it.
fn take<'a>(data: &mut &'a [u8]) -> &'a [u8] {
    let len = data.try_get_u16().map_or(usize::MAX, usize::from);
    let (part, rest) = data.split_at(len.min(data.len()));
    *data = rest;
    part
}

/// Records of `__consumer_offsets`, one after the other: a byte that says how they came, key and value.
pub(super) fn group(mut data: &[u8]) {
    let (mut groups, producer) = (GroupCoordinator::default(), ProducerId::new(7));
    let (partition, mut at) = (PartitionId::new(0), Offset::ZERO);
    while let Ok(how) = data.try_get_u8() {
        if how & 4 != 0 {
            groups.end_transaction(partition, producer, how & 1 != 0);
            continue;
        }
        let (key, value) = (take(&mut data), take(&mut data));
        let (value, in_transaction) = ((how & 1 == 0).then_some(value), (how & 2 != 0).then_some(producer));
        let _may_be_unread = groups.replay(partition, 1, in_transaction, at, key, value);
        at = at.next();
    }
    for group in groups.list() {
        assert!(groups.knows(group.id()));
        let _shown = format!("{:?}", groups.describe(group.id()));
        // Refused while it has members.
        let _may_fail = groups.delete_group(group.id());
    }
}

/// Records of the metadata log, applied to an image; what that comes to as a snapshot comes to the same.
pub(super) fn metadata(mut data: &[u8]) {
    let mut image = Image::default();
    while !data.is_empty() {
        let Ok(record) = MetadataRecord::decode(take(&mut data)) else { continue };
        let again = record.encode().expect("no longer than what was read");
        assert_eq!(MetadataRecord::decode(&again).expect("our own"), record);
        if image.apply(record).is_err() {
            return;
        }
    }
    let records = image.to_records();
    let mut again = Image::default();
    for record in &records {
        again.apply(record.clone()).expect("a snapshot of our own");
    }
    assert_eq!(again.to_records(), records);
}

//! Opening a log: what is on disk -> what is done about it, as a table.
//!
//! | row | state on disk | decision |
//! |---|---|---|
//! | `Fresh` | no directory, or no segment in it | start empty at the log start |
//! | `Clean` | the state slot says "clean", and size and tail of the active segment prove it | adopt, scan nothing |
//! | `Scanned` | no proof of a clean close; every batch from the recovery point on is sound | adopt, rebuild what is derived |
//! | `TornTail` | a segment ends in an unfinished write, beyond the frontier | cut it off |
//! | `DamagedTail` | the active segment is damaged or short, but no write was unfinished there | keep the bytes, go on in a new segment |
//! | `DamagedSegment` | an unsound batch inside a sealed segment | keep it; reads of the place fail, the rest is served |
//! | `Reserved` | offsets beyond the end may be known outside | go on above them, in a higher leader epoch |
//!
//! Invariants: nothing that was durable is deleted; no offset is given out twice; a second open finds nothing
//! to do. Before anything is built on what recovery read, it is synced.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind};
use crate::record::{BatchHeader, RecordBatch};
use crate::segment::{FileKind, IndexSizes, Segment, SegmentHome};
use crate::storage::{place_file, read_file};
use crate::types::{Durability, Offset};

use super::checkpoint;
use super::epochs::EpochCache;
use super::producers::{BatchFacts, ProducerStates};
use super::state::{SlotState, TAIL_LEN};
use super::{LogConfig, LogContext, Reserved};

/// Longest checkpoint or snapshot file that is read.
const SMALL_FILE_BYTES_MAX: u64 = 256 << 20;

/// A row of the table above that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RecoveryRow {
    /// No directory, or no segment in it.
    Fresh,
    /// Closed cleanly, with proof.
    Clean,
    /// Scanned from the recovery point and found sound.
    Scanned,
    /// An unfinished write was cut off the end.
    TornTail,
    /// Durable bytes at the end are damaged; they were kept.
    DamagedTail,
    /// Bytes inside a sealed segment are damaged; they were kept.
    DamagedSegment,
    /// Offsets were left out because they may be known outside.
    Reserved,
}

/// What opening a log found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRecovery {
    /// The rows taken, in the order of the table.
    pub rows: Vec<RecoveryRow>,
    /// Bytes that were scanned.
    pub scanned_bytes: u64,
    /// Bytes that were cut off the end.
    pub cut_bytes: u64,
    /// Where damage was found that was left in place.
    pub damaged: Vec<Offset>,
}

/// A log's state as recovery leaves it.
pub(super) struct Recovered {
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) has_dir: bool,
    pub(super) log_start: Offset,
    pub(super) end: Offset,
    pub(super) epochs: EpochCache,
    pub(super) producers: ProducerStates,
    /// There are or were batches of producers.
    pub(super) transactional: bool,
    pub(super) recovery_point: Offset,
    pub(super) clean: bool,
    /// Sealed segments whose indexes were written anew and are not synced.
    pub(super) scanned: Vec<Arc<Segment>>,
    pub(super) reserved: Reserved,
    pub(super) report: LogRecovery,
}

pub(super) fn recover(context: &LogContext, home: &SegmentHome, config: &LogConfig) -> Result<Recovered> {
    let slot = context.slot.as_ref().and_then(|slot| slot.load());
    let recovery = Recovery { context, home, config, slot: slot.as_ref() };
    let sizes = IndexSizes { interval: config.index_interval_bytes, max: config.segment_index_bytes };
    super::swaps::finish(home)?;
    let Some(listed) = recovery.list()? else {
        return recovery.finish(Vec::new(), Listed::default(), false);
    };
    let mut segments = Vec::with_capacity(listed.bases.len());
    for &base in &listed.bases {
        let path = FileKind::Log.path(&home.dir, base);
        let found = context.storage.metadata(&path).map_err(|e| Error::io("cannot look at a segment", path, e))?;
        let segment = Segment::existing(home.clone(), base, sizes, found.len);
        if slot.is_none_or(|slot| base < slot.doubted_below) {
            segment.doubt();
        }
        segments.push(Arc::new(segment));
    }
    recovery.finish(segments, listed, true)
}

/// What a partition's directory holds.
#[derive(Default)]
struct Listed {
    /// The base offsets of the segments.
    bases: BTreeSet<Offset>,
    /// A segment has a transaction index: aborted records are there, whether or not their producers are known.
    has_aborted: bool,
}

struct Recovery<'a> {
    context: &'a LogContext,
    home: &'a SegmentHome,
    config: &'a LogConfig,
    slot: Option<&'a SlotState>,
}

impl Recovery<'_> {
    /// What is there; `None` when there is no directory. Files that wait for deletion go.
    fn list(&self) -> Result<Option<Listed>> {
        let (storage, dir) = (&*self.context.storage, &*self.home.dir);
        let entries = match storage.list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            listed => listed.map_err(|e| Error::io("cannot list a partition's directory", dir, e))?,
        };
        let mut listed = Listed::default();
        for entry in entries {
            match FileKind::parse(&entry.name) {
                Some((FileKind::Log, base)) => drop(listed.bases.insert(base)),
                Some((FileKind::TxnIndex, _)) => listed.has_aborted = true,
                None if entry.name.ends_with(".deleted") => {
                    let path = dir.join(&entry.name);
                    storage.remove_file(&path).map_err(|e| Error::io("cannot remove a deleted file", path, e))?;
                }
                _ => {}
            }
        }
        Ok(Some(listed))
    }

    fn finish(&self, mut segments: Vec<Arc<Segment>>, listed: Listed, has_dir: bool) -> Result<Recovered> {
        let first = segments.first().map_or(Offset::ZERO, |s| s.base());
        let known = match (self.slot, &self.context.slot) {
            (Some(slot), _) => slot.log_start,
            (None, Some(_)) if has_dir => Offset::ZERO,
            // Nothing is left of the log, or nothing but the checkpoint is known of it.
            (None, _) => self.context.log_start,
        };
        let log_start = known.max(first);
        self.drop_below(&mut segments, log_start)?;
        let mut found = Recovered {
            segments,
            has_dir,
            log_start,
            end: log_start,
            epochs: EpochCache::default(),
            producers: ProducerStates::default(),
            transactional: false,
            recovery_point: Offset::ZERO,
            clean: false,
            scanned: Vec::new(),
            reserved: Reserved::default(),
            report: LogRecovery::default(),
        };
        if found.segments.is_empty() {
            found.report.rows.push(RecoveryRow::Fresh);
            found.clean = self.slot.is_none_or(|s| s.clean);
            found.epochs = self.epochs()?.unwrap_or_default();
        } else if !self.adopt_clean(&mut found, listed.has_aborted)? {
            self.scan(&mut found)?;
        }
        self.go_above_reserved(&mut found);
        if (found.log_start..=found.end).contains(&self.context.log_start) {
            // A checkpoint that lies beyond the end is of another log, and deletes nothing.
            found.log_start = self.context.log_start;
            self.drop_below(&mut found.segments, found.log_start)?;
        }
        found.epochs.truncate_from_end(found.end);
        found.epochs.truncate_from_start(found.log_start);
        found.producers.transactions_mut().on_high_watermark(found.end);
        for (id, epoch, first) in found.producers.open_transactions() {
            let message =
                format!("a transaction of producer {id}, epoch {epoch}, is open: read-committed readers wait");
            self.tell(Finding::new(FindingKind::OpenTransaction, message).offsets(first..found.end));
        }
        found.transactional = listed.has_aborted || !found.producers.is_empty();
        found.producers.expire(self.context.clock.now(), self.config.producer_id_expiration);
        Ok(found)
    }

    /// Segments that lie wholly below the log start were deleted; a crash may have brought them back.
    fn drop_below(&self, segments: &mut Vec<Arc<Segment>>, log_start: Offset) -> Result<()> {
        let keep = segments.partition_point(|s| s.base() <= log_start).saturating_sub(1);
        for segment in segments.drain(..keep) {
            segment.remove_files()?;
        }
        Ok(())
    }

    /// Row `Clean`.
    fn adopt_clean(&self, found: &mut Recovered, has_aborted: bool) -> Result<bool> {
        let Some(slot) = self.slot.filter(|s| s.clean) else { return Ok(false) };
        let Some(active) = found.segments.last() else { return Ok(false) };
        if active.base() != slot.segment_base
            || active.written() != slot.segment_size
            || tail_crc(active)? != slot.tail_crc
            || (has_aborted && active.load_aborted().is_err())
        {
            return Ok(false);
        }
        let Some(epochs) = self.epochs()? else { return Ok(false) };
        let Ok(Some(producers)) = self.snapshot(slot.log_end) else { return Ok(false) };
        (found.epochs, found.producers) = (epochs, producers);
        (found.end, found.recovery_point) = (slot.log_end, slot.log_end);
        found.clean = true;
        found.report.rows.push(RecoveryRow::Clean);
        Ok(true)
    }

    /// Rows `Scanned`, `TornTail`, `DamagedTail` and `DamagedSegment`.
    fn scan(&self, found: &mut Recovered) -> Result<()> {
        let epochs = self.sound_epochs(&found.segments)?;
        let from = match &epochs {
            Some(_) => self.slot.map_or(Offset::ZERO, |s| s.recovery_point).max(self.context.recovery_point),
            None => Offset::ZERO,
        };
        let Latest { at: from, producers, unreadable } = self.latest_snapshot(&found.segments, from)?;
        found.producers = producers;
        let told = epochs.clone();
        // Epochs of what is not scanned come from the checkpoint, the rest from the batches.
        found.epochs = epochs.unwrap_or_default();
        found.epochs.truncate_from_end(from);
        let first = super::read::floor(&found.segments, from);
        let mut next = found.segments[first].base();
        let mut sound = true;
        let last = found.segments.len() - 1;
        for at in first..=last {
            let segment = Arc::clone(&found.segments[at]);
            next = next.max(segment.base());
            if unreadable.contains(&segment.base()) {
                self.replace_snapshot(segment.base(), &found.producers)?;
            }
            let (end, position, damage) = self.scan_segment(&segment, from, next, found)?;
            next = end;
            if damage.is_some() {
                sound = false;
                next = self.treat_damage(&segment, at == last, position, next, found)?;
            }
            self.settle(&segment)?;
        }
        found.scanned = found.segments[first..last].to_vec();
        found.end = next.max(found.log_start);
        // After a stop in good order there is no epoch of batches that got lost.
        if told.is_some_and(|told| told.passes(found.end)) && self.context.recovery_point >= found.end {
            self.tell_epochs("an epoch begins beyond the log");
        }
        found.recovery_point = self.slot.map_or(Offset::ZERO, |s| s.recovery_point).min(found.end);
        if sound {
            found.report.rows.push(RecoveryRow::Scanned);
        }
        // Only now may anything be built on what was read (TigerBeetle's rule). The directory itself may be new.
        let dir = &*self.home.dir;
        for dir in [Some(dir), dir.parent()].into_iter().flatten() {
            let synced = self.context.storage.sync_dir(dir);
            synced.map_err(|e| Error::io("cannot sync a partition's directory", dir, e))?;
        }
        Ok(())
    }

    /// Walks one segment and rebuilds all that is derived from its batches; answers the next offset, the
    /// position behind the last sound batch, and what is wrong there.
    fn scan_segment(
        &self,
        segment: &Segment,
        replay_from: Offset,
        expected: Offset,
        found: &mut Recovered,
    ) -> Result<(Offset, u64, Option<&'static str>)> {
        segment.reset_indexes()?;
        let (mut next, mut failed) = (expected, None);
        let Recovered { epochs, producers, .. } = found;
        let end = segment.walk(0, segment.base(), |position, header, bytes| {
            let noted = segment.index_batch(position, header).and_then(|()| {
                if header.next_offset() <= replay_from {
                    return Ok(());
                }
                epochs.assign(header.leader_epoch(), header.base_offset());
                match replay(producers, header, bytes)? {
                    Some(aborted) => segment.index_aborted(aborted),
                    None => Ok(()),
                }
            });
            failed = noted.err();
            next = header.next_offset();
            failed.is_none()
        })?;
        if let Some(error) = failed {
            return Err(error.path(segment.path(FileKind::Log)));
        }
        // Above its recovery point a stock broker does not believe its own either.
        segment.trust_scanned(next, end.damage.is_none() && next <= self.context.recovery_point)?;
        found.report.scanned_bytes += end.position;
        Ok((next, end.position, end.damage))
    }

    /// A segment ends in something that is no sound batch, or has it inside; answers the next offset.
    fn treat_damage(
        &self,
        segment: &Segment,
        is_last: bool,
        position: u64,
        next: Offset,
        found: &mut Recovered,
    ) -> Result<Offset> {
        let behind = segment.end_behind(position, next)?;
        if self.is_torn(is_last, next, behind) {
            found.report.rows.push(RecoveryRow::TornTail);
            found.report.cut_bytes += segment.written() - position;
            let file = segment.file()?;
            // Sync before the cut as well as after: the decision must not rest on cached bytes alone.
            file.sync_data()
                .and_then(|()| file.set_len(position))
                .map_err(|e| Error::io("cannot cut a torn tail", segment.path(FileKind::Log), e))?;
            segment.set_written(position);
            return Ok(next);
        }
        found.report.damaged.push(next);
        if !is_last {
            found.report.rows.push(RecoveryRow::DamagedSegment);
            return Ok(behind.unwrap_or(next));
        }
        found.report.rows.push(RecoveryRow::DamagedTail);
        let noted = self.slot.map_or(next, |s| s.log_end.max(s.reserved).max(s.frontier));
        let known = behind.unwrap_or(next).max(noted);
        found.segments.push(self.new_segment(known));
        Ok(known)
    }

    /// Whether damage at `next` is an unfinished write, which nobody was promised, and not rot.
    fn is_torn(&self, is_last: bool, next: Offset, behind: Option<Offset>) -> bool {
        let Some(slot) = self.slot else { return is_last };
        let same_boot = slot.boot_id == self.context.boot_id;
        next >= slot.frontier
            && match is_last {
                // Without a power cut only the last write can be unfinished, and nothing follows it.
                true => !(same_boot && behind.is_some()),
                // A segment of a `PowerLoss` log is synced before the next one begins.
                false => !same_boot && self.config.durability < Durability::PowerLoss,
            }
    }

    fn settle(&self, segment: &Segment) -> Result<()> {
        segment
            .file()?
            .sync_data()
            .map_err(|e| Error::io("cannot sync a recovered segment", segment.path(FileKind::Log), e))?;
        segment.write_indexes()
    }

    /// Row `Reserved`, and `DamagedTail` where durable bytes are missing rather than damaged.
    fn go_above_reserved(&self, found: &mut Recovered) {
        let held = found.end;
        if let Some(slot) = self.slot
            && !found.clean
            && slot.reserved > found.end
            && (slot.weak_acks || slot.boot_id != self.context.boot_id)
        {
            found.end = slot.reserved;
            // Until a segment stands there, the next recovery must do the same.
            found.reserved = Reserved { end: found.end, volatile: true };
            found.report.rows.push(RecoveryRow::Reserved);
        }
        if let Some(slot) = self.slot
            && slot.frontier > found.end
        {
            found.report.rows.push(RecoveryRow::DamagedTail);
            found.report.damaged.push(found.end);
            found.end = slot.frontier;
            found.clean = false;
        }
        let goes_on = |s: &Arc<Segment>| found.end == if s.written() > 0 { held } else { s.base() };
        if !found.segments.last().is_some_and(goes_on) {
            found.segments.push(self.new_segment(found.end));
        }
    }

    fn new_segment(&self, base: Offset) -> Arc<Segment> {
        let sizes = IndexSizes { interval: self.config.index_interval_bytes, max: self.config.segment_index_bytes };
        Arc::new(Segment::new(self.home.clone(), base, sizes))
    }

    fn tell(&self, finding: Finding) {
        self.context.findings.add(finding.partition(self.context.partition.clone()));
    }

    /// `leader-epoch-checkpoint`; `None` when it is missing or not to be read.
    fn epochs(&self) -> Result<Option<EpochCache>> {
        let path = self.home.dir.join(checkpoint::LEADER_EPOCHS);
        let bytes = read_file(&*self.context.storage, &path, SMALL_FILE_BYTES_MAX)?;
        Ok(bytes.and_then(|bytes| EpochCache::decode(&bytes).ok()))
    }

    /// The same where the first batches of all segments bear it out; otherwise the batches tell the epochs.
    fn sound_epochs(&self, segments: &[Arc<Segment>]) -> Result<Option<EpochCache>> {
        let epochs = self.epochs()?;
        let agrees = |epochs: &EpochCache, segment: &Arc<Segment>| {
            segment.first_header().is_none_or(|first| epochs.allows(first.leader_epoch(), first.base_offset()))
        };
        let fault = match &epochs {
            None => "it is missing or nonsense",
            // What we wrote ourselves may be behind the batches, and is read for what is not scanned.
            Some(epochs) if self.slot.is_none() && !segments.iter().all(|s| agrees(epochs, s)) => {
                "its epochs are not those of the batches"
            }
            Some(_) => return Ok(epochs),
        };
        if segments.iter().any(|segment| segment.written() > 0) {
            self.tell_epochs(fault);
        }
        Ok(None)
    }

    fn tell_epochs(&self, fault: &str) {
        let finding = Finding::new(FindingKind::Rebuilt, format!("{fault}; it was rebuilt from the log"));
        self.tell(finding.path(self.home.dir.join(checkpoint::LEADER_EPOCHS)));
    }

    /// The producer snapshot at an offset: `None` when there is none, `Corrupt` when it cannot be right.
    fn snapshot(&self, at: Offset) -> Result<Option<ProducerStates>> {
        let path = FileKind::Snapshot.path(&self.home.dir, at);
        let Some(bytes) = read_file(&*self.context.storage, &path, SMALL_FILE_BYTES_MAX)? else { return Ok(None) };
        let now = self.context.clock.now();
        let states = ProducerStates::decode(&bytes, now, self.config.producer_id_expiration);
        match states.map_err(|e| e.path(&path))? {
            states if states.ends_before(at) => Ok(Some(states)),
            _ => Err(Error::new(ErrorKind::Corrupt, "producer snapshot: it speaks of later batches").path(path)),
        }
    }

    /// The newest readable producer snapshot at a segment base up to `limit`; without one the producers are rebuilt
    /// from the first segment on.
    fn latest_snapshot(&self, segments: &[Arc<Segment>], limit: Offset) -> Result<Latest> {
        let mut unreadable = Vec::new();
        for segment in segments.iter().rev().filter(|s| s.base() <= limit) {
            match self.snapshot(segment.base()) {
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::TooLarge) => {
                    unreadable.push(segment.base());
                }
                read => {
                    if let Some(producers) = read? {
                        return Ok(Latest { at: segment.base(), producers, unreadable });
                    }
                }
            }
        }
        let at = segments.first().map_or(Offset::ZERO, |s| s.base());
        Ok(Latest { at, producers: ProducerStates::default(), unreadable })
    }

    fn replace_snapshot(&self, at: Offset, producers: &ProducerStates) -> Result<()> {
        let path = FileKind::Snapshot.path(&self.home.dir, at);
        place_file(&*self.context.storage, &path, &producers.encode()?)?;
        let message = "it is nonsense; it was rebuilt from the log";
        self.tell(Finding::new(FindingKind::Rebuilt, message).path(path));
        Ok(())
    }
}

/// Where a replay of the producers begins.
struct Latest {
    at: Offset,
    producers: ProducerStates,
    /// Later segments whose snapshot is there and no snapshot.
    unreadable: Vec<Offset>,
}

fn replay(
    producers: &mut ProducerStates,
    header: &BatchHeader,
    bytes: &[u8],
) -> Result<Option<crate::index::AbortedTxn>> {
    if header.producer_id().get() < 0 {
        return Ok(None);
    }
    // Markers are tiny; data batches need no body here.
    let facts = if header.is_control() {
        BatchFacts::of(&RecordBatch::from_checked(bytes::Bytes::copy_from_slice(bytes))?, header.base_offset())?
    } else {
        BatchFacts::of_data(header, header.base_offset())
    };
    Ok(producers.update(&facts))
}

/// CRC-32C of the last bytes of a segment: proof that a "clean" state slot speaks of this file.
pub(super) fn tail_crc(segment: &Segment) -> Result<u32> {
    let written = segment.written();
    let len = written.min(TAIL_LEN);
    let mut tail = vec![0; len as usize];
    let failed = |e| Error::io("cannot read the end of a segment", segment.path(FileKind::Log), e);
    segment.file()?.read_exact_at(&mut tail, written - len).map_err(failed)?;
    Ok(crate::wire::crc32c(&tail))
}

/// Whether `dir` has the `partition.metadata` that it needs. Fails when that names another topic's id.
pub(super) fn check_topic_id(context: &LogContext, dir: &Path) -> Result<bool> {
    let Some(expected) = context.topic_id else { return Ok(true) };
    let path = dir.join(checkpoint::PARTITION_METADATA);
    let Some(bytes) = read_file(&*context.storage, &path, 4096)? else { return Ok(false) };
    match checkpoint::decode_partition_metadata(&bytes) {
        Ok(id) if id == expected => Ok(true),
        Ok(id) => Err(Error::new(
            ErrorKind::Corrupt,
            format!("the directory belongs to topic id {id}, but the catalog says {expected}"),
        )
        .path(path)
        .remedy("move the directory away: it is left over from another topic of that name")),
        Err(e) => Err(e.path(path)),
    }
}

/// Producer state from every batch of `segments`, after a truncation.
pub(super) fn replay_all(segments: &[Arc<Segment>]) -> Result<ProducerStates> {
    let mut producers = ProducerStates::default();
    for segment in segments {
        let mut failed = None;
        segment.walk(0, segment.base(), |_, header, bytes| {
            failed = replay(&mut producers, header, bytes).err();
            failed.is_none()
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(producers)
}

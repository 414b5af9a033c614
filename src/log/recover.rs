//! Opening a log: what is on disk -> what is done about it. The rows and the decision of each are a table in
//! `docs::recovery`; which of them a damaged place falls under is `verdict`'s business, what lies between two
//! segments `scan`'s.
//!
//! Invariants: nothing that was durable is deleted; no offset is given out twice; a second open finds nothing
//! to do. Before anything is built on what recovery read, it is synced.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind};
use crate::index::TransactionIndex;
use crate::mutants::{Mutant, is_on};
use crate::record::BatchHeader;
use crate::segment::{FileKind, IndexSizes, Patient, Segment, SegmentHome};
use crate::storage::{File, place_file, read_file, replace_file};
use crate::types::{Durability, LeaderEpoch, Offset, RecoveryPolicy};

use super::checkpoint;
use super::epochs::EpochCache;
use super::marks::{Point, Points};
use super::notes::remove_snapshot;
use super::producers::ProducerStates;
use super::report::{LogRecovery, RecoveryRow};
use super::scan::{Begin, Scan};
use super::state::{SlotState, StateSlot, TAIL_LEN};
use super::{LogConfig, LogContext, Reserved};

/// Longest producer snapshot that is read.
const SMALL_FILE_BYTES_MAX: u64 = 256 << 20;
/// Longest file of leader epochs: a line is about 20 bytes, and each restart of a broker adds one.
pub(super) const EPOCHS_BYTES_MAX: u64 = 16 << 20;

/// A log's state as recovery leaves it.
pub(super) struct Recovered {
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) has_dir: bool,
    pub(super) log_start: Offset,
    pub(super) end: Offset,
    pub(super) epochs: EpochCache,
    /// The newest that the checkpoint names, even where its batches are gone.
    pub(super) noted_epoch: LeaderEpoch,
    /// They are our own, or all batches bore them out.
    pub(super) epochs_proven: bool,
    pub(super) producers: ProducerStates,
    /// There are or were batches of producers.
    pub(super) transactional: bool,
    /// Below, what is derived from batches is in its files: synced, and in this boot.
    pub(super) points: Points,
    pub(super) clean: bool,
    /// Sealed segments whose indexes were written anew and are not synced.
    pub(super) scanned: Vec<Arc<Segment>>,
    pub(super) reserved: Reserved,
    /// Where the log goes on, in a new segment, because the last one is damaged or lies below the log start.
    pub(super) above_damage: Option<Offset>,
    /// Offsets below may be known outside, by what a stock broker left.
    pub(super) known_outside: Offset,
    /// Segments that are gone, by their seals.
    pub(super) missing: Vec<Range<Offset>>,
    /// What the state slot says is not so any more: the note of it must be durable before the log is used.
    pub(super) must_note: bool,
    pub(super) report: LogRecovery,
}

/// `notes`: where a decision is noted before it is carried out; `None` where nothing is to reach the disk.
pub(super) fn recover(
    context: &LogContext,
    home: &SegmentHome,
    config: &LogConfig,
    notes: Option<&StateSlot>,
) -> Result<Recovered> {
    super::swaps::finish(home)?;
    let listed = list(home)?;
    let has_dir = listed.is_some();
    let mut listed = listed.unwrap_or_default();
    let sizes = IndexSizes { interval: config.index_interval_bytes, max: config.segment_index_bytes };
    let mut noted = context.slot.as_ref().and_then(|slot| slot.load());
    let known = noted.filter(|slot| !slot.unknown);
    let mut segments = Vec::with_capacity(listed.bases.len());
    for &base in &listed.bases {
        let path = FileKind::Log.path(&home.dir, base);
        let found = context.storage.metadata(&path).map_err(|e| Error::io("cannot look at a segment", path, e))?;
        let segment = Segment::existing(home.clone(), base, sizes, found.len);
        if known.is_none_or(|slot| base < slot.doubted_below) {
            segment.doubt();
        }
        if listed.seals.remove(&base) {
            segment.set_sealed();
        }
        segments.push(Arc::new(segment));
    }
    let in_doubt = noted.filter(|slot| slot.poisoned && slot.boot_id == context.boot_id);
    super::reopen::settle_doubts(context, &home.dir, &segments, &mut noted, notes)?;
    if let Some(frontier) = in_doubt.map(|slot| slot.frontier).or(context.outside.doubted) {
        super::reopen::write_again(&segments, frontier)?;
    }
    let slot = noted.filter(|slot| !slot.unknown);
    let is_foreign = noted.is_some_and(|slot| slot.foreign);
    let recovery = Recovery { context, home, config, notes, slot: slot.as_ref(), is_foreign, rebuilt: Cell::default() };
    recovery.finish(segments, listed, has_dir)
}

/// What a partition's directory holds.
#[derive(Default)]
struct Listed {
    /// The base offsets of the segments.
    bases: BTreeSet<Offset>,
    /// The offsets of the producer snapshots.
    snapshots: BTreeSet<Offset>,
    /// Those of seals; of those whose segment is gone, once the others were taken out.
    seals: BTreeSet<Offset>,
    /// How many index files there are.
    indexes: usize,
    /// A segment has a transaction index: aborted records are there, whether or not their producers are known.
    has_aborted: bool,
}

/// What is there; `None` when there is no directory. Files that wait for deletion go.
fn list(home: &SegmentHome) -> Result<Option<Listed>> {
    let (storage, dir) = (&*home.storage, &*home.dir);
    let entries = match storage.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        listed => listed.map_err(|e| Error::io("cannot list a partition's directory", dir, e))?,
    };
    let mut listed = Listed::default();
    for entry in entries {
        match FileKind::parse(&entry.name) {
            Some((FileKind::Log, base)) => drop(listed.bases.insert(base)),
            Some((FileKind::Seal, base)) => drop(listed.seals.insert(base)),
            Some((FileKind::OffsetIndex | FileKind::TimeIndex, _)) => listed.indexes += 1,
            Some((FileKind::TxnIndex, _)) => listed.has_aborted = true,
            Some((FileKind::Snapshot, at)) => drop(listed.snapshots.insert(at)),
            None if entry.name.ends_with(".deleted") => {
                let path = dir.join(&entry.name);
                storage.remove_file(&path).map_err(|e| Error::io("cannot remove a deleted file", path, e))?;
            }
            None => {}
        }
    }
    Ok(Some(listed))
}

pub(super) struct Recovery<'a> {
    pub(super) context: &'a LogContext,
    pub(super) home: &'a SegmentHome,
    pub(super) config: &'a LogConfig,
    notes: Option<&'a StateSlot>,
    pub(super) slot: Option<&'a SlotState>,
    /// Another program had the log since we last did: of what we kept nothing is evidence.
    pub(super) is_foreign: bool,
    /// A derived file was made anew.
    rebuilt: Cell<bool>,
}

impl Recovery<'_> {
    /// The level that what lies above the frontier may have been written at: a topic's may have risen since.
    pub(super) fn level(&self) -> Durability {
        match self.slot {
            Some(slot) if slot.unsynced_max == 0 => self.config.durability.min(Durability::ProcessCrash),
            _ => self.config.durability,
        }
    }

    /// Below it what is derived from batches is synced with them, as we noted; of a log that another program had, as
    /// Kafka's checkpoint says.
    pub(super) fn synced(&self) -> Offset {
        self.slot.map_or(self.context.recovery_point, |slot| slot.recovery_point)
    }

    /// Whether the power went since we had the log, or a sync failed, which may take as much.
    pub(super) fn was_cut(&self) -> bool {
        self.slot.is_some_and(|slot| slot.boot_id != self.context.boot_id || slot.poisoned)
    }

    /// Notes durably that offsets below `end` are not given out again, ahead of the cut that takes what shows it. A log
    /// without a slot has no place for it.
    pub(super) fn reserve(&self, end: Offset) -> Result<()> {
        let Some(notes) = self.notes else { return Ok(()) };
        let slot = notes.load().unwrap_or(SlotState { unknown: true, ..SlotState::default() });
        if slot.reserved >= end && slot.weak_acks {
            return Ok(());
        }
        let reserved = slot.reserved.max(end);
        notes.store(&SlotState { clean: false, weak_acks: true, reserved, ..slot })?;
        notes.sync()
    }

    fn finish(&self, mut segments: Vec<Arc<Segment>>, mut listed: Listed, has_dir: bool) -> Result<Recovered> {
        let started = self.context.clock.monotonic();
        let truncated =
            self.slot.filter(|slot| slot.truncating && !is_on(Mutant::TruncationForgotten)).map(|slot| slot.log_end);
        if let Some(to) = truncated {
            super::trim::finish_truncation(self.home, &mut segments, to)?;
            listed.seals = listed.seals.split_off(&Offset::ZERO).into_iter().filter(|base| *base < to).collect();
        }
        let first = segments.first().map_or(Offset::ZERO, |s| s.base());
        let known = match (self.slot, &self.context.slot) {
            (Some(slot), _) => slot.log_start,
            (None, Some(_)) if !segments.is_empty() => Offset::ZERO,
            // Nothing is left of the log, or nothing but the checkpoint is known of it.
            (None, _) => self.context.log_start,
        };
        let mut missing = self.missing(&segments, &listed.seals, known)?;
        let front = self.missing_front(&segments, &missing, known)?;
        missing.splice(0..0, front);
        // A log never starts later because its first segment is gone.
        let log_start = missing.first().map_or(known.max(first), |gone| known.max(first.min(gone.start)));
        let log_start = truncated.map_or(log_start, |to| log_start.min(to));
        self.drop_below(&mut segments, log_start)?;
        for pair in segments.windows(2) {
            pair[0].set_until(Some(pair[1].base()));
        }
        // What an opening that was cut short has noted, where there was no slot.
        let unknown = self.context.slot.as_ref().and_then(|slot| slot.load()).filter(|slot| slot.unknown);
        let unknown = unknown.map_or(Offset::ZERO, |slot| slot.reserved);
        let mut found = Recovered {
            segments,
            has_dir,
            log_start,
            end: log_start,
            epochs: EpochCache::default(),
            noted_epoch: LeaderEpoch::new(-1),
            epochs_proven: true,
            producers: ProducerStates::default(),
            transactional: false,
            points: Points::default(),
            clean: false,
            scanned: Vec::new(),
            reserved: Reserved::default(),
            above_damage: None,
            // Where it was to end among offsets that were left out, none of them is given out again.
            known_outside: truncated.unwrap_or(unknown),
            missing,
            must_note: truncated.is_some(),
            report: LogRecovery::default(),
        };
        if truncated.is_some() {
            found.report.take(RecoveryRow::TruncationFinished);
        }
        let without_slot = self.slot.is_none() && self.context.slot.is_some() && !self.is_foreign;
        if without_slot && !found.segments.is_empty() {
            found.report.take(RecoveryRow::StateLost);
        }
        if found.segments.is_empty() {
            found.report.take(RecoveryRow::Fresh);
            found.clean = self.slot.is_none_or(|s| s.clean);
            found.end = truncated.unwrap_or(log_start);
            found.epochs = self.epochs()?.unwrap_or_default();
        } else if !self.adopt_clean(&mut found, listed.has_aborted)? {
            if listed.indexes < 2 * listed.bases.len() {
                self.rebuilt.set(true);
            }
            let newest = listed.snapshots.last().copied().unwrap_or_default();
            // What was noted inside of a segment may turn out not to fit the batches.
            if !Scan::new(self, &mut found, newest, Begin::Noted)?.run()? {
                Scan::new(self, &mut found, newest, Begin::Segment)?.run()?;
            }
            self.drop_snapshots(&found, listed.snapshots)?;
        }
        self.tell_missing(&mut found);
        self.go_above_reserved(&mut found);
        self.judge_again(&mut found)?;
        let is_told = |row| matches!(row, &RecoveryRow::Reserved | &RecoveryRow::DamagedTail);
        if !found.clean && !found.report.rows.iter().any(is_told) && is_above_gap(&found.segments)? {
            found.reserved = Reserved { end: found.end, volatile: true };
            found.report.take(RecoveryRow::Reserved);
        }
        let first = found.segments.first().map_or(found.log_start, |s| s.base());
        if found.missing.is_empty() && found.log_start < first {
            // Nothing is left below: a log that is emptied begins where it goes on.
            found.log_start = first;
        }
        if (found.log_start..=found.end).contains(&self.context.log_start) {
            // A checkpoint that lies beyond the end is of another log, and deletes nothing.
            found.log_start = self.context.log_start;
            self.drop_below(&mut found.segments, found.log_start)?;
            let first = found.segments.first().map_or(found.log_start, |s| s.base());
            found.scanned.retain(|s| s.base() >= first);
        }
        found.epochs.truncate_from_end(found.end);
        found.epochs.truncate_from_start(found.log_start);
        found.producers.transactions_mut().on_high_watermark(found.end);
        for (id, epoch, first) in found.producers.open_transactions() {
            let message =
                format!("a transaction of producer {id}, epoch {epoch}, is open: read-committed readers wait");
            self.tell(Finding::new(FindingKind::OpenTransaction, message).offsets(first..found.end));
        }
        let was_transactional = self.slot.is_some_and(|slot| slot.transactional);
        found.transactional = was_transactional || listed.has_aborted || !found.producers.is_empty();
        found.producers.expire(self.context.time.passed(), self.config.producer_id_expiration);
        if self.rebuilt.get() {
            found.report.take(RecoveryRow::DerivedRebuilt);
        }
        found.must_note |= found.report.rows.contains(&RecoveryRow::Reserved);
        // What is gone below it is not to be missed by an opening that finds more synced.
        found.must_note |= self.slot.is_some_and(|slot| slot.log_start != found.log_start);
        found.report.took = self.context.clock.monotonic().saturating_sub(started);
        Ok(found)
    }

    /// What is gone by the seals that stayed; seals of what was deleted or overwritten in good order go.
    fn missing(
        &self,
        segments: &[Arc<Segment>],
        seals: &BTreeSet<Offset>,
        log_start: Offset,
    ) -> Result<Vec<Range<Offset>>> {
        let mut missing = Vec::new();
        for &base in seals {
            let gone = self.new_segment(base);
            gone.set_sealed();
            let end = gone.evidence()?.map_or(base, |sealed| sealed.end);
            let before = segments.iter().rfind(|segment| segment.base() < base);
            let covered = before.map_or(Ok(Offset::ZERO), |before| end_of(before))? > base;
            if end > log_start && !covered {
                missing.push(base.max(log_start)..end);
                continue;
            }
            let path = FileKind::Seal.path(&self.home.dir, base);
            self.context.storage.remove_file(&path).map_err(|e| Error::io("cannot remove an old seal", path, e))?;
        }
        Ok(missing)
    }

    /// The offsets below the first segment that is there, or known to be gone, where they are lost: the slot names an
    /// earlier one or, where it was written before there was any or is lost itself, an epoch began there.
    fn missing_front(
        &self,
        segments: &[Arc<Segment>],
        missing: &[Range<Offset>],
        log_start: Offset,
    ) -> Result<Option<Range<Offset>>> {
        let Some(first) = segments.first() else { return Ok(None) };
        let first = missing.first().map_or(first.base(), |gone| first.base().min(gone.start));
        let log_start = log_start.max(self.context.log_start);
        // Nobody says of a log that stands alone whose it is.
        let is_ours = self.slot.is_some() || (self.context.topic_id.is_some() && !self.is_foreign);
        if log_start >= first || !is_ours {
            return Ok(None);
        }
        let began = match self.slot.and_then(|slot| slot.first) {
            None => self.epochs()?.and_then(|epochs| epochs.start()),
            noted => noted,
        };
        let Some(start) = began.map(|began| began.max(log_start)).filter(|&start| start < first) else {
            return Ok(None);
        };
        let cached = self.slot.is_some_and(|slot| slot.boot_id == self.context.boot_id && !slot.poisoned);
        if cached || self.level() == Durability::PowerLoss || start < self.durable(segments)? {
            return Ok(Some(start..first));
        }
        self.tell_offsets(FindingKind::Skipped, "the first segments were never synced, and are gone", start..first);
        Ok(None)
    }

    /// Row `MissingSegment`.
    fn tell_missing(&self, found: &mut Recovered) {
        for gone in &found.missing {
            found.report.take(RecoveryRow::MissingSegment);
            found.report.damaged.push(gone.clone());
            self.tell_offsets(FindingKind::Lost, "a segment is missing", gone.clone());
        }
        if let Some(last) = found.missing.last().filter(|last| last.end > found.end) {
            found.end = last.end;
            found.above_damage = Some(last.end);
            found.clean = false;
        }
    }

    /// Below it everything survives loss of power: by the slot or, where that is lost, by the recovery point, and by
    /// the newest seal.
    pub(super) fn durable(&self, segments: &[Arc<Segment>]) -> Result<Offset> {
        let noted = self.slot.map_or(Offset::ZERO, |slot| slot.frontier.max(slot.recovery_point));
        for segment in segments.iter().rev() {
            if let Some(sealed) = segment.evidence()? {
                return Ok(noted.max(sealed.end));
            }
        }
        Ok(noted)
    }

    /// Segments that lie wholly below the log start were deleted; a crash may have brought them back.
    fn drop_below(&self, segments: &mut Vec<Arc<Segment>>, log_start: Offset) -> Result<()> {
        let keep = segments.partition_point(|s| s.base() <= log_start).saturating_sub(1);
        for segment in segments.drain(..keep) {
            segment.remove_files()?;
        }
        Ok(())
    }

    /// Producer snapshots of notes that were not needed may speak of batches that are gone.
    fn drop_snapshots(&self, found: &Recovered, snapshots: BTreeSet<Offset>) -> Result<()> {
        let is_used = |at: Offset| {
            [found.points.noted.at, found.points.recovery.at].contains(&at)
                || found.segments.iter().any(|s| s.base() == at)
        };
        for at in snapshots.into_iter().filter(|&at| self.slot.is_some() && !is_used(at)) {
            remove_snapshot(self.home, at)?;
        }
        Ok(())
    }

    /// Row `Clean`.
    fn adopt_clean(&self, found: &mut Recovered, has_aborted: bool) -> Result<bool> {
        let Some(slot) = self.slot.filter(|s| s.clean) else { return Ok(false) };
        let Some(active) = found.segments.last() else { return Ok(false) };
        active.set_end(slot.log_end);
        let is_proven = active.base() == slot.segment_base
            && slot.log_end >= active.base().max(found.log_start)
            && active.written() == slot.segment_size
            && tail_crc(active, active.written())? == slot.tail_crc
            && self.knows_aborted(active, slot, has_aborted);
        if !is_proven && !is_on(Mutant::CleanBelieved) {
            return Ok(false);
        }
        let Some(epochs) = self.epochs()? else { return Ok(false) };
        let Ok(Some(producers)) = self.snapshot(slot.log_end) else { return Ok(false) };
        (found.epochs, found.producers) = (epochs, producers);
        found.end = slot.log_end;
        found.points.recovery = Point { at: slot.log_end, aborted: slot.aborted[0] };
        found.clean = true;
        found.report.take(RecoveryRow::Clean);
        if slot.reserved > Offset::ZERO && slot.reserved == slot.log_end {
            found.reserved = Reserved { end: slot.reserved, volatile: slot.weak_acks };
            found.report.take(RecoveryRow::Reserved);
        }
        Ok(true)
    }

    /// Whether the transaction index of the last segment is the one that was there at a close. `is_there`: some segment
    /// has one.
    fn knows_aborted(&self, active: &Segment, slot: &SlotState, is_there: bool) -> bool {
        let found = match is_there {
            true => active.load_aborted().ok().and_then(|()| active.aborted_checksum(slot.log_end)),
            false => Some(TransactionIndex::default().checksum_below(slot.log_end)),
        };
        found.is_some() && slot.aborted[0].is_none_or(|noted| found == Some(noted))
    }

    /// Row `Reserved`, and `DamagedTail` where durable bytes are missing rather than damaged.
    fn go_above_reserved(&self, found: &mut Recovered) {
        let held = found.end;
        let mut above = found.known_outside;
        if let Some(slot) = self.slot
            && !found.clean
            && (slot.weak_acks || slot.poisoned || slot.boot_id != self.context.boot_id)
        {
            above = above.max(slot.reserved);
        }
        if above > found.end && !is_on(Mutant::OffsetsReused) {
            found.end = above;
            // Until a segment stands there, the next recovery must do the same.
            found.reserved = Reserved { end: found.end, volatile: true };
            found.report.take(RecoveryRow::Reserved);
            let words = "offsets that may be known outside were left out";
            self.tell_offsets(FindingKind::Skipped, words, held..above);
        }
        let kept =
            self.slot.map_or(Offset::ZERO, |slot| match slot.boot_id == self.context.boot_id && !slot.poisoned {
                // Nothing but loss of power, or a sync that failed, takes what the system was handed.
                true => slot.frontier.max(slot.noted),
                false => slot.frontier,
            });
        if kept > found.end {
            found.report.take(RecoveryRow::DamagedTail);
            found.report.damaged.push(found.end..kept);
            self.tell_offsets(FindingKind::Lost, "bytes that were durable are missing", found.end..kept);
            found.end = kept;
            found.clean = false;
        }
        // What is appended to a segment that was sealed is none of what was sealed.
        let goes_on = |s: &Arc<Segment>| !s.is_sealed() && found.end == if s.written() > 0 { held } else { s.base() };
        if found.above_damage.is_some() || !found.segments.last().is_some_and(goes_on) {
            self.go_on_at(found, found.end);
        }
    }

    /// A batch that contradicts its neighbours was judged by bytes that were cut off since, or by another end of the log.
    /// What counts is what every reader and every later opening will find: where that is something else, the last
    /// segment with batches ends here, and all that is derived from it is made anew.
    fn judge_again(&self, found: &mut Recovered) -> Result<()> {
        let Some(last) = found.scanned.last().map(Arc::clone) else { return Ok(()) };
        last.set_end(found.end);
        let mut changed = false;
        for segment in &found.scanned {
            changed |= segment.reads_otherwise()?;
        }
        if !changed {
            return Ok(());
        }
        let end = found.end;
        if found.segments.last().is_some_and(|active| active.base() == last.base()) {
            self.go_on_at(found, end);
        }
        let active = found.segments.split_off(found.segments.partition_point(|segment| segment.base() <= last.base()));
        (found.report.damaged, found.report.undecided) = (Vec::new(), Vec::new());
        Scan::new(self, found, Offset::ZERO, Begin::Again)?.run()?;
        found.segments.extend(active);
        found.end = end;
        Ok(())
    }

    /// Makes a new segment at `base` the active one.
    fn go_on_at(&self, found: &mut Recovered, base: Offset) {
        if let Some(last) = found.segments.last() {
            last.set_until(Some(base));
        }
        found.segments.push(self.new_segment(base));
    }

    pub(super) fn tell_offsets(&self, kind: FindingKind, words: impl Into<String>, offsets: Range<Offset>) {
        self.tell(Finding::new(kind, words).offsets(offsets).path(&self.home.dir));
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
        match read_file(&*self.context.storage, &path, EPOCHS_BYTES_MAX) {
            Err(e) if e.kind() == ErrorKind::TooLarge => Ok(None),
            bytes => Ok(bytes?.and_then(|bytes| EpochCache::decode(&bytes).ok())),
        }
    }

    /// The same where the first batches of all segments bear it out; otherwise the batches tell the epochs.
    pub(super) fn sound_epochs(&self, segments: &[Arc<Segment>]) -> Result<Option<EpochCache>> {
        let epochs = self.epochs()?;
        // The field is under no checksum: one batch that says otherwise may be what is wrong.
        let allows = |epochs: &EpochCache, header: Option<BatchHeader>| {
            header.is_none_or(|header| epochs.allows(header.leader_epoch(), header.base_offset()))
        };
        let agrees = |epochs: &EpochCache, segment: &Arc<Segment>| {
            let first = segment.first_header();
            let second = first.and_then(|first| segment.header_at(first.size_bytes() as u64).ok().flatten());
            allows(epochs, first) || (second.is_some() && allows(epochs, second))
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

    pub(super) fn tell_epochs(&self, fault: &str) {
        self.rebuilt.set(true);
        let finding = Finding::new(FindingKind::Rebuilt, format!("{fault}; it was rebuilt from the log"));
        self.tell(finding.path(self.home.dir.join(checkpoint::LEADER_EPOCHS)));
    }

    /// The producer snapshot at an offset: `None` when there is none, `Corrupt` when it cannot be right.
    fn snapshot(&self, at: Offset) -> Result<Option<ProducerStates>> {
        let path = FileKind::Snapshot.path(&self.home.dir, at);
        let Some(bytes) = read_file(&*self.context.storage, &path, SMALL_FILE_BYTES_MAX)? else { return Ok(None) };
        let now = self.context.time.passed();
        let states = ProducerStates::decode(&bytes, now, self.config.producer_id_expiration);
        match states.map_err(|e| e.path(&path))? {
            states if states.ends_before(at) => Ok(Some(states)),
            _ => Err(Error::new(ErrorKind::Corrupt, "producer snapshot: it speaks of later batches").path(path)),
        }
    }

    /// The newest readable producer snapshot at a segment base up to `limit`; without one the producers are rebuilt
    /// from the first segment on. Those that lie above are looked at as well: a seal will vouch for them.
    pub(super) fn latest_snapshot(&self, segments: &[Arc<Segment>], limit: Offset) -> Result<Latest> {
        let mut unreadable = Vec::new();
        for segment in segments.iter().rev() {
            match self.snapshot(segment.base()) {
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::TooLarge) => {
                    unreadable.push(segment.base());
                }
                read => {
                    if let Some(producers) = read?.filter(|_| segment.base() <= limit) {
                        return Ok(Latest { at: segment.base(), producers, unreadable, resumed: None });
                    }
                }
            }
        }
        let at = segments.first().map_or(Offset::ZERO, |s| s.base());
        Ok(Latest { at, producers: ProducerStates::default(), unreadable, resumed: None })
    }

    /// The offsets, newest first, below which the slot says that no batch needs a scan: as noted in this boot, and as
    /// synced.
    pub(super) fn noted_points(&self, segments: &[Arc<Segment>]) -> Result<Vec<Point>> {
        let Some(slot) = self.slot.filter(|slot| !slot.poisoned) else { return Ok(Vec::new()) };
        if slot.clean {
            // Bytes may have come behind a clean end. Where it is not even that, nothing is to be believed.
            let active = segments.iter().find(|s| s.base() == slot.segment_base);
            let Some(active) = active.filter(|s| s.written() >= slot.segment_size) else { return Ok(Vec::new()) };
            if tail_crc(active, slot.segment_size)? != slot.tail_crc {
                return Ok(Vec::new());
            }
        }
        let [recovery, noted] = [(slot.recovery_point, slot.aborted[0]), (slot.noted, slot.aborted[1])];
        let noted = Some(noted).filter(|_| slot.boot_id == self.context.boot_id);
        let points = noted.into_iter().chain([recovery]).map(|(at, aborted)| Point { at, aborted });
        let mut points: Vec<_> = points.collect();
        points.sort_unstable_by_key(|point| Reverse(point.at));
        Ok(points)
    }

    /// What is known of the batches below a point, inside of the segment that holds the last of them; `None` where it
    /// does not prove itself.
    pub(super) fn resume_at(&self, segments: &[Arc<Segment>], Point { at, aborted }: Point) -> Result<Option<Latest>> {
        let Some(segment) = segments.iter().rfind(|segment| segment.base() < at) else { return Ok(None) };
        let producers = match self.snapshot(at) {
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::TooLarge) => return Ok(None),
            read => read?,
        };
        let Some(producers) = producers else { return Ok(None) };
        let resumed = segment.resume_indexes(at, aborted)?;
        Ok(resumed.map(|from| Latest { at, producers, unreadable: Vec::new(), resumed: Some(from) }))
    }

    pub(super) fn replace_snapshot(&self, at: Offset, producers: &ProducerStates) -> Result<()> {
        let path = FileKind::Snapshot.path(&self.home.dir, at);
        place_file(&*self.context.storage, &path, &producers.encode()?)?;
        self.rebuilt.set(true);
        let message = "it is nonsense; it was rebuilt from the log";
        self.tell(Finding::new(FindingKind::Rebuilt, message).path(path));
        Ok(())
    }
}

/// Where a replay of the producers begins.
pub(super) struct Latest {
    pub(super) at: Offset,
    pub(super) producers: ProducerStates,
    /// Later segments whose snapshot is there and no snapshot.
    pub(super) unreadable: Vec<Offset>,
    /// Position and offset of the batch where a scan may begin, inside of the segment that holds `at`.
    pub(super) resumed: Option<(u64, Offset)>,
}

/// Whether nothing was appended yet above offsets that were left out: the next append still needs a higher leader
/// epoch.
pub(super) fn is_above_gap(segments: &[Arc<Segment>]) -> Result<bool> {
    let [.., before, active] = segments else { return Ok(false) };
    if active.written() > 0 || active.is_compacted() {
        return Ok(false);
    }
    Ok(end_of(before)? < active.base())
}

/// Where a segment ends, by its index and the headers behind its last entry.
pub(super) fn end_of(segment: &Segment) -> Result<Offset> {
    let (mut end, mut position) = (segment.base(), 0);
    if segment.written() > 0 {
        position = u64::from(segment.indexes()?.offset.last().1);
    }
    while let Some(header) = segment.header_at(position)? {
        end = header.next_offset();
        position += header.size_bytes() as u64;
    }
    Ok(end)
}

/// CRC-32C of the last bytes before `end` in a segment: proof that a "clean" state slot speaks of this file.
pub(super) fn tail_crc(segment: &Segment, end: u64) -> Result<u32> {
    let len = end.min(TAIL_LEN);
    let mut tail = vec![0; len as usize];
    let failed = |e| Error::io("cannot read the end of a segment", segment.path(FileKind::Log), e);
    // What the disk does not give proves nothing.
    Patient::new(&**segment.file()?).read_exact_at(&mut tail, end - len).map_err(failed)?;
    Ok(crate::wire::crc32c(&tail))
}

/// Whether `dir` has the `partition.metadata` that it needs. Fails when that names another topic's id; nonsense is
/// written anew under [`RecoveryPolicy::Salvage`].
pub(super) fn check_topic_id(context: &LogContext, dir: &Path, policy: RecoveryPolicy) -> Result<bool> {
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
        Err(e) if policy == RecoveryPolicy::Salvage => {
            replace_file(&*context.storage, &path, checkpoint::encode_partition_metadata(expected).as_bytes())?;
            let finding = Finding::new(FindingKind::Rebuilt, format!("{e}; it was made anew from the catalog"));
            context.findings.add(finding.partition(context.partition.clone()).path(path));
            Ok(true)
        }
        Err(e) => Err(e
            .path(path)
            .partition(context.partition.clone())
            .remedy("restore the file, or open with RecoveryPolicy::Salvage, which takes the id from the catalog")),
    }
}

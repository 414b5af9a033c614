//! Recovery's walk over the segments from the recovery point on: rebuilds all that is derived from batches, and
//! tells an unfinished write from rot.
//!
//! | row | what the walk meets | decision |
//! |---|---|---|
//! | `Scanned` | sound batches | rebuild indexes, epochs, producers |
//! | `TornTail` | an unfinished write: beyond the frontier, or beyond all that a stock broker noted | cut it off |
//! | `DamagedTail` | damage in the active segment that is no unfinished write | keep the bytes, go on in a new segment |
//! | `DamagedSegment` | damage inside a sealed segment, or a hole between two | keep it; reads of it fail, the rest is served |

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::finding::FindingKind;
use crate::record::{BatchHeader, Codec, RecordBatch};
use crate::segment::{FileKind, Flaw, FlawKind, Found, Segment, Survey};
use crate::storage::read_file;
use crate::types::{Durability, LeaderEpoch, Offset};

use super::epochs::EpochCache;
use super::producers::{BatchFacts, ProducerStates};
use super::recover::{Latest, Recovered, Recovery, RecoveryRow};

/// Damaged places that a report names.
const DAMAGED_MAX: usize = 1 << 10;

/// Where a scan may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// At the first batch of a segment.
    Segment,
    /// At any that the slot names.
    Noted,
}

pub(super) struct Scan<'a> {
    recovery: &'a Recovery<'a>,
    found: &'a mut Recovered,
    /// Producers and epochs below are known already.
    replay_from: Offset,
    /// Position and offset of the first batch, inside of the first segment, whose indexes are taken from files.
    resumed: Option<(u64, Offset)>,
    /// Segments with a producer snapshot that cannot be right.
    unreadable: Vec<Offset>,
    /// Offsets below were given out, by what a stock broker left beside the segments; zero where a slot tells.
    evidence: Offset,
    /// The same by the index of the active segment.
    indexed: Offset,
    epochs: EpochScan,
}

/// What a walk over one segment found.
struct Scanned {
    next: Offset,
    survey: Arc<Survey>,
    /// An unfinished write, where the walk stopped.
    torn: Option<Flaw>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        recovery: &'a Recovery<'a>,
        found: &'a mut Recovered,
        newest_snapshot: Offset,
        begin: Begin,
    ) -> Result<Scan<'a>> {
        let noted = recovery.sound_epochs(&found.segments)?;
        let synced = recovery.slot.map_or(Offset::ZERO, |s| s.recovery_point).max(recovery.context.recovery_point);
        let points = if begin == Begin::Noted { recovery.noted_points(&found.segments)? } else { Vec::new() };
        let from = match &noted {
            Some(_) => points.iter().copied().fold(synced, Offset::max),
            None => Offset::ZERO,
        };
        let newest = found.segments[super::read::floor(&found.segments, from)].base();
        let mut latest = None;
        for at in points.into_iter().filter(|&at| at > newest && at <= from) {
            latest = match latest {
                None => recovery.resume_at(&found.segments, at)?,
                found => found,
            };
        }
        let latest = latest.map_or_else(|| recovery.latest_snapshot(&found.segments, from), Ok)?;
        let Latest { at: replay_from, producers, unreadable, resumed } = latest;
        found.producers = producers;
        let first = found.segments.first().map_or(Offset::ZERO, |first| first.base());
        found.epochs_proven = recovery.slot.is_some() || replay_from <= first;
        // Epochs of what is not scanned come from the checkpoint, the rest from the batches.
        found.epochs = noted.clone().unwrap_or_default();
        found.epochs.truncate_from_end(replay_from);
        let epochs = EpochScan { noted, pending: None, last: Offset::ZERO };
        let mut scan = Self {
            recovery,
            found,
            replay_from,
            resumed,
            unreadable,
            evidence: Offset::ZERO,
            indexed: Offset::ZERO,
            epochs,
        };
        scan.weigh(newest_snapshot)?;
        if let Some(active) = scan.found.segments.last() {
            active.set_end(recovery.slot.map_or(scan.evidence, |slot| slot.log_end));
        }
        Ok(scan)
    }

    /// `false` where the batches contradict what was noted of them: nothing was changed then.
    pub(super) fn run(mut self) -> Result<bool> {
        let first = super::read::floor(&self.found.segments, self.replay_from);
        let last = self.found.segments.len() - 1;
        let mut next = self.found.segments[first].base();
        let mut before: Option<Arc<Survey>> = None;
        for at in first..=last {
            let segment = Arc::clone(&self.found.segments[at]);
            if let Some(before) = before {
                self.check_border(&before, &segment)?;
            }
            if self.unreadable.contains(&segment.base()) {
                self.recovery.replace_snapshot(segment.base(), &self.found.producers)?;
            }
            let resumed = self.resumed.filter(|_| at == first);
            let scanned = self.scan_segment(&segment, at == last, resumed)?;
            if resumed.is_some() && (scanned.next < self.replay_from || !scanned.survey.flaws().is_empty()) {
                return Ok(false);
            }
            next = scanned.next;
            if let Some(torn) = &scanned.torn {
                self.cut(&segment, torn, at == last)?;
            }
            self.note_damage(&segment, &scanned, at == last);
            self.settle(&segment)?;
            before = Some(scanned.survey);
        }
        let durable = self.recovery.slot.map_or(Offset::new(i64::MAX), |slot| slot.frontier);
        self.epochs.finish(&mut self.found.epochs, durable);
        // After a stop in good order there is no epoch of batches that got lost.
        let passes = self.epochs.noted.as_ref().is_some_and(|noted| noted.passes(next.max(self.found.log_start)));
        if passes && self.recovery.context.recovery_point >= next {
            self.recovery.tell_epochs("an epoch begins beyond the log");
        }
        let (recovery, noted) = (self.recovery, self.evidence);
        let found = self.found;
        let synced = recovery.slot.map_or(Offset::ZERO, |s| s.recovery_point);
        let unsynced = recovery.slot.map_or(first, |_| super::read::floor(&found.segments, synced).min(first));
        for segment in &found.segments[unsynced..first] {
            sync(segment)?;
        }
        // The last one too: another may be made the active one yet.
        found.scanned = found.segments[unsynced..=last].to_vec();
        found.end = found.above_damage.unwrap_or(next).max(found.log_start);
        // Indexes that were made anew are not synced.
        let kept = if self.resumed.is_some() { self.replay_from } else { found.segments[first].base() };
        (found.recovery_point, found.noted) = (synced.min(kept).min(found.end), kept.min(found.end));
        if found.report.rows.is_empty() {
            found.report.rows.push(RecoveryRow::Scanned);
        }
        if noted > found.end {
            found.report.rows.push(RecoveryRow::DamagedTail);
            found.report.damaged.push(found.end..noted);
            recovery.tell_offsets(FindingKind::Lost, "records that a stock broker noted are missing", found.end..noted);
            (found.end, found.above_damage) = (noted, Some(noted));
        }
        // Only now may anything be built on what was read (TigerBeetle's rule). The directory itself may be new.
        let dir = &*self.recovery.home.dir;
        for dir in [Some(dir), dir.parent()].into_iter().flatten() {
            let synced = self.recovery.context.storage.sync_dir(dir);
            synced.map_err(|e| Error::io("cannot sync a partition's directory", dir, e))?;
        }
        Ok(true)
    }

    /// Walks one segment, all or from the batch at `resumed`, and rebuilds all that is derived from its batches.
    fn scan_segment(&mut self, segment: &Segment, is_last: bool, resumed: Option<(u64, Offset)>) -> Result<Scanned> {
        let from = match resumed {
            Some(from) => from,
            None => {
                segment.reset_indexes()?;
                (0, segment.base())
            }
        };
        let mut survey = Survey::new(from.1, segment.written());
        let (mut torn, mut failed) = (None, None);
        let end = segment.walk_from(from, |found| {
            let noted = match &found {
                Found::Batch(position, header, bytes) => self.take(segment, *position, header, bytes),
                Found::Flaw(flaw) => self.is_torn(segment, is_last, flaw).map(|is_torn| {
                    torn = is_torn.then(|| (*flaw).clone());
                }),
            };
            failed = noted.err();
            if torn.is_none() {
                survey.note(&found);
            }
            failed.is_none() && torn.is_none()
        })?;
        if let Some(error) = failed {
            return Err(error.path(segment.path(FileKind::Log)));
        }
        // Above its recovery point a stock broker does not believe its own either.
        let is_whole = survey.flaws().is_empty() && torn.is_none();
        segment.trust_scanned(end.next, is_whole && end.next <= self.recovery.context.recovery_point)?;
        self.found.report.scanned_bytes += end.position - from.0;
        // Of a part nothing is told: where something is wrong with it, the whole is scanned.
        let survey = if resumed.is_some() { Arc::new(survey) } else { segment.learn(survey) };
        Ok(Scanned { next: end.next, survey, torn })
    }

    fn take(&mut self, segment: &Segment, position: u64, header: &BatchHeader, bytes: &[u8]) -> Result<()> {
        segment.index_batch(position, header)?;
        if header.next_offset() <= self.replay_from {
            return Ok(());
        }
        if let Some((epoch, offsets)) = self.epochs.take(&mut self.found.epochs, header) {
            let words = format!("leader epoch {epoch} contradicts what is around it");
            self.recovery.tell_offsets(FindingKind::Corrected, words, offsets);
        }
        match replay(&mut self.found.producers, header, bytes)? {
            Some(aborted) => segment.index_aborted(aborted),
            None => Ok(()),
        }
    }

    /// Whether a flaw is an unfinished write, which nobody was promised, and not rot.
    fn is_torn(&self, segment: &Segment, is_last: bool, flaw: &Flaw) -> Result<bool> {
        if !matches!(flaw.kind, FlawKind::Damaged(_)) {
            return Ok(false);
        }
        let is_end = flaw.positions.end == segment.written();
        let Recovery { context, config, slot, .. } = self.recovery;
        let Some(slot) = slot else {
            // Nothing follows an unfinished write. Zeros behind all that is known are no batch, whoever put them there.
            let is_kept = flaw.from < self.evidence_at(flaw.from)
                || (context.outside.clean && context.slot.is_some() && !is_zero(segment, flaw)?);
            return Ok(is_last && is_end && !is_kept);
        };
        // After a failed sync pages may be missing as after a power cut.
        let same_boot = slot.boot_id == context.boot_id && !slot.poisoned;
        let is_torn = match is_last {
            // Without a power cut only the last write can be unfinished: it is short, and nothing follows it.
            true => !same_boot || (is_end && !is_whole(segment, flaw)?),
            // A segment of a `PowerLoss` log is synced before the next one begins.
            false => !same_boot && config.durability < Durability::PowerLoss,
        };
        Ok(is_torn && flaw.from >= slot.frontier)
    }

    /// Row `TornTail`.
    fn cut(&mut self, segment: &Segment, torn: &Flaw, is_last: bool) -> Result<()> {
        let report = &mut self.found.report;
        report.rows.push(RecoveryRow::TornTail);
        let (position, size) = (torn.positions.start, segment.written() - torn.positions.start);
        report.cut_bytes += size;
        // Of a torn batch the header may be whole, and its offsets known outside.
        let announced = match announced_end(segment, torn)? {
            Some(end) => end,
            None if is_zero(segment, torn)? => torn.from,
            // At least one, whatever was there.
            None => torn.from.next(),
        };
        if is_last && self.recovery.slot.is_none() && self.recovery.context.slot.is_some() {
            self.found.known_outside = self.found.known_outside.max(announced);
        }
        let words = format!("an unfinished write of {size} bytes was cut off");
        self.recovery.tell_offsets(FindingKind::TornTail, words, torn.from..announced);
        let file = segment.file()?;
        // Sync before the cut as well as after: the decision must not rest on cached bytes alone.
        file.sync_data()
            .and_then(|()| file.set_len(position))
            .map_err(|e| Error::io("cannot cut a torn tail", segment.path(FileKind::Log), e))?;
        segment.set_written(position);
        Ok(())
    }

    /// Rows `DamagedTail` and `DamagedSegment`.
    fn note_damage(&mut self, segment: &Segment, scanned: &Scanned, is_last: bool) {
        let flaws = || scanned.survey.flaws().iter().filter(|flaw| flaw.kind.is_unreadable());
        let Some(last) = flaws().next_back() else { return };
        let mut end = scanned.next;
        let is_rot = flaws().any(|flaw| matches!(flaw.kind, FlawKind::Damaged(_)));
        if is_last && is_rot {
            let evidence = self.evidence_at(last.from);
            if last.to.is_none() {
                // Nothing behind it tells how many offsets were there.
                let noted = self.recovery.slot.map_or(Offset::ZERO, |s| s.log_end.max(s.frontier));
                end = end.max(beyond(segment, last)).max(noted).max(evidence);
            }
            self.found.known_outside = self.found.known_outside.max(evidence);
            self.found.above_damage = Some(end);
        }
        let report = &mut self.found.report;
        report.rows.push(if is_last { RecoveryRow::DamagedTail } else { RecoveryRow::DamagedSegment });
        report.rows.dedup();
        let ranges = flaws().map(|flaw| flaw.from..flaw.to.or(segment.until()).unwrap_or(end));
        report.damaged.extend(ranges.take(DAMAGED_MAX));
    }

    /// A segment that does not begin where the one before it ended: something between them is missing, unless
    /// offsets were left out there on purpose.
    fn check_border(&mut self, before: &Survey, segment: &Segment) -> Result<()> {
        // Where nothing was appended yet, offsets were left out by an earlier opening.
        if segment.written() > 0 && is_hole(before, segment, self.epochs.noted.as_ref())? {
            let hole = before.end..segment.base();
            self.recovery.tell_offsets(FindingKind::Lost, "a segment is missing or short", hole.clone());
            self.found.report.rows.push(RecoveryRow::DamagedSegment);
            self.found.report.rows.dedup();
            self.found.report.damaged.push(hole);
        }
        Ok(())
    }

    fn settle(&self, segment: &Segment) -> Result<()> {
        sync(segment)?;
        segment.write_indexes_later()
    }

    /// Gathers what a stock broker left beside the segments.
    fn weigh(&mut self, newest_snapshot: Offset) -> Result<()> {
        let Recovery { context, slot, .. } = self.recovery;
        if slot.is_some() || context.slot.is_none() {
            return Ok(());
        }
        self.evidence = context.outside.high_watermark.max(context.recovery_point).max(newest_snapshot);
        if let Some(active) = self.found.segments.last() {
            self.indexed = self.indexed_end(active)?;
        }
        Ok(())
    }

    /// Offsets below what this answers were given out before, where the end of the log is no batch from `from` on.
    fn evidence_at(&self, from: Offset) -> Offset {
        // An index may be ahead of batches that were not flushed; of none else, and it is easily another's.
        match from > self.recovery.context.recovery_point {
            true => self.evidence.max(self.indexed),
            false => self.evidence,
        }
    }

    /// The offset behind the last entry of the active segment's index, if that index knows the segment.
    fn indexed_end(&self, active: &Segment) -> Result<Offset> {
        const BYTES_MAX: u64 = 64 << 20;
        let path = active.path(FileKind::OffsetIndex);
        let bytes = match read_file(&*self.recovery.context.storage, &path, BYTES_MAX) {
            Ok(bytes) => bytes.unwrap_or_default(),
            // Longer than any index is.
            Err(e) if e.kind() == crate::error::ErrorKind::TooLarge => return Ok(Offset::ZERO),
            Err(e) => return Err(e),
        };
        let (mut last, mut proven) = ((0, 0), false);
        for entry in bytes.as_chunks::<8>().0 {
            let [a, b, c, d, e, f, g, h] = *entry;
            let (offset, position) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
            if i32::try_from(offset).is_err() || position <= last.1 || (last.1 > 0 && offset <= last.0) {
                break; // The padding of an index in use, or nonsense.
            }
            last = (offset, position);
            let named = active.base() + i64::from(offset);
            proven |= active.header_at(u64::from(position))?.is_some_and(|header| header.last_offset() == named);
        }
        Ok(if proven { active.base() + i64::from(last.0) + 1 } else { Offset::ZERO })
    }
}

fn sync(segment: &Segment) -> Result<()> {
    let synced = segment.file()?.sync_data();
    synced.map_err(|e| Error::io("cannot sync a recovered segment", segment.path(FileKind::Log), e))
}

/// Whether offsets are missing between a segment that was walked and the next one although nobody left them out, by
/// what is `noted` of leader epochs.
pub(super) fn is_hole(before: &Survey, next: &Segment, noted: Option<&EpochCache>) -> Result<bool> {
    let covered = before.flaws().last().is_some_and(|flaw| flaw.kind.is_unreadable() && flaw.from >= before.end);
    if before.cleaned || covered || before.end >= next.base() || next.is_compacted() {
        return Ok(false);
    }
    let Some(first) = next.header_at(0)? else { return Ok(true) };
    // Where a log goes on above what may be known outside it does so in a higher epoch. A crash can take the note.
    let epoch = first.leader_epoch();
    let begins = noted.is_none_or(|noted| noted.begins_at(next.base()) || noted.latest() < Some(epoch));
    Ok(!(epoch > before.epoch && begins))
}

/// An offset above all that the batch may have held that a flaw was. One above even a sound batch of which only the
/// base offset is wrong: it must not seem to fit its place because of the place that was left for it.
fn beyond(segment: &Segment, flaw: &Flaw) -> Offset {
    if let Ok(Some(end)) = announced_end(segment, flaw) {
        return end;
    }
    let sound = segment.sound_header_at(flaw.positions.start).ok().flatten();
    sound.map_or(flaw.from, |header| flaw.from.next() + i64::from(header.last_offset_delta())).next()
}

/// Where the batch that a flaw was would end, by what its header says, as far as that can be.
fn announced_end(segment: &Segment, flaw: &Flaw) -> Result<Option<Offset>> {
    /// The smallest record, uncompressed.
    const RECORD_BYTES_MIN: u64 = 7;
    const RATIO_MAX: u64 = 1 << 10;
    let Some(header) = segment.raw_header_at(flaw.positions.start)? else { return Ok(None) };
    if header[..8] != flaw.from.get().to_be_bytes() {
        return Ok(None);
    }
    let counts = BatchHeader::claimed_counts(&header);
    let announced = BatchHeader::announced_size(&header).map_or(0, |size| size as u64);
    let records = announced.max(flaw.positions.end - flaw.positions.start).saturating_sub(BatchHeader::LEN as u64);
    let most = BatchHeader::parse(&header).map_or(records, |header| match header.codec() {
        Codec::None => records / RECORD_BYTES_MIN,
        _ => records.saturating_mul(RATIO_MAX),
    });
    let can_be = |count: &i64| counts[0] == counts[1] || u64::try_from(*count).is_ok_and(|count| count <= most);
    let count = counts.into_iter().filter(|&count| count > 0).filter(can_be).max();
    Ok(count.and_then(|count| flaw.from.get().checked_add(count)).map(Offset::new))
}

/// Whether all bytes of the batch that a flaw was are there, by its length.
fn is_whole(segment: &Segment, flaw: &Flaw) -> Result<bool> {
    let mut front = [0; BatchHeader::MAGIC_AT + 1];
    let size = flaw.positions.end - flaw.positions.start;
    if size < front.len() as u64 {
        return Ok(false);
    }
    let read = segment.file()?.read_exact_at(&mut front, flaw.positions.start);
    read.map_err(|e| Error::io("cannot read the end of a segment", segment.path(FileKind::Log), e))?;
    let fits = BatchHeader::announced_size(&front).is_ok_and(|announced| announced as u64 == size);
    Ok(fits && front[BatchHeader::MAGIC_AT] == 2 && front[..8] == flaw.from.get().to_be_bytes())
}

fn is_zero(segment: &Segment, flaw: &Flaw) -> Result<bool> {
    let file = segment.file()?;
    let mut chunk = [0; 16 << 10];
    let mut at = flaw.positions.start;
    while at < flaw.positions.end {
        let len = (flaw.positions.end - at).min(chunk.len() as u64) as usize;
        file.read_exact_at(&mut chunk[..len], at)
            .map_err(|e| Error::io("cannot read the end of a segment", segment.path(FileKind::Log), e))?;
        if chunk[..len].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        at += len as u64;
    }
    Ok(true)
}

/// Follows the leader epochs of a log's batches. The field lies outside the checksum: a rise counts once the
/// checkpoint or the next batch confirms it, a fall never.
struct EpochScan {
    /// The checkpoint, as it was found.
    noted: Option<EpochCache>,
    /// A rise that nothing has confirmed.
    pending: Option<(LeaderEpoch, Offset)>,
    /// The last batch of the newest epoch.
    last: Offset,
}

impl EpochScan {
    /// Takes a batch in; answers the epoch that cannot be right, and its offsets.
    fn take(&mut self, epochs: &mut EpochCache, header: &BatchHeader) -> Option<(LeaderEpoch, Range<Offset>)> {
        let (epoch, base) = (header.leader_epoch(), header.base_offset());
        let current = epochs.latest().unwrap_or(LeaderEpoch::new(-1));
        if epoch.get() < 0 {
            // -1 is none; no writer makes the others.
            return (epoch.get() < -1).then(|| (epoch, base..header.next_offset()));
        }
        let pending = self.pending.take();
        let contradicted = pending.filter(|(risen, _)| *risen > epoch).map(|(risen, at)| (risen, at..base));
        let noted = self.noted.as_ref().and_then(|noted| noted.in_force_at(base)).filter(|noted| noted.0 == epoch);
        if epoch < current {
            return Some((epoch, base..header.next_offset()));
        }
        if epoch == current {
            self.last = base;
            return contradicted;
        }
        match (noted, pending) {
            // It may have begun where batches are missing, or where one is wrong, but not before several.
            (Some((_, start)), _) => {
                epochs.assign(epoch, if start >= self.last { start } else { base });
                self.last = base;
            }
            (None, Some((risen, at))) if risen <= epoch => {
                epochs.assign(risen, at);
                self.pending = (risen < epoch).then_some((epoch, base));
            }
            (None, pending) => self.pending = Some((epoch, pending.map_or(base, |(_, at)| at))),
        }
        contradicted
    }

    /// The last batches rose, with none behind to confirm it: right unless the checkpoint knows better. It does of
    /// what is below `durable`: there it was written before the batches.
    fn finish(&mut self, epochs: &mut EpochCache, durable: Offset) {
        if let Some((epoch, base)) = self.pending.take()
            && (base >= durable || self.noted.as_ref().and_then(|noted| noted.in_force_at(base)).is_none())
        {
            epochs.assign(epoch, base);
        }
    }
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

/// Producer state from every batch of `segments`, after a truncation.
pub(super) fn replay_all(segments: &[Arc<Segment>]) -> Result<ProducerStates> {
    let mut producers = ProducerStates::default();
    for segment in segments {
        let mut failed = None;
        segment.walk(|found| {
            if let Found::Batch(_, header, bytes) = found {
                failed = replay(&mut producers, header, bytes).err();
            }
            failed.is_none()
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(producers)
}

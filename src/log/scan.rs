//! Recovery's walk over the segments from the recovery point on: rebuilds all that is derived from batches, cuts off
//! what `verdict` calls an unfinished write, keeps what it calls rot, and looks for what is missing between segments.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result, is_out_of_descriptors};
use crate::finding::FindingKind;
use crate::mutants::{Mutant, is_on};
use crate::record::{BatchHeader, RecordBatch};
use crate::segment::{Broken, FileKind, Flaw, FlawKind, Found, Segment, Survey};
use crate::storage::read_file;
use crate::types::{Durability, LeaderEpoch, Offset};

use super::epochs::EpochCache;
use super::marks::{Point, Points};
use super::producers::{BatchFacts, ProducerStates};
use super::recover::{Latest, Recovered, Recovery, end_of};
use super::report::RecoveryRow;
use super::verdict::{Known, Verdict, announced_end, beyond, used_end};

/// Damaged places that a report names.
const DAMAGED_MAX: usize = 1 << 10;

/// Where a scan may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// At the first batch of a segment.
    Segment,
    /// At any that the slot names.
    Noted,
    /// As at the first batch of a segment, when all that had to be cut is: what is there stays.
    Again,
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
    /// Everything below survives loss of power.
    durable: Offset,
    is_again: bool,
}

/// What a walk over one segment found.
struct Scanned {
    next: Offset,
    survey: Arc<Survey>,
    /// Where the walk stopped before the end: nothing was ever there, or an unfinished write.
    stopped: Option<(Flaw, Verdict)>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        recovery: &'a Recovery<'a>,
        found: &'a mut Recovered,
        newest_snapshot: Offset,
        begin: Begin,
    ) -> Result<Scan<'a>> {
        if recovery.was_cut() {
            // What was put right beside them since they were synced may be as it was before.
            let is_synced = |s: &&Arc<Segment>| s.until().is_some_and(|end| end <= recovery.synced());
            found.segments.iter().filter(is_synced).filter(|s| !s.is_sealed()).for_each(|segment| segment.doubt());
        }
        let noted = recovery.sound_epochs(&found.segments)?;
        let points = if begin == Begin::Noted { recovery.noted_points(&found.segments)? } else { Vec::new() };
        let from = match &noted {
            Some(_) => points.iter().map(|point| point.at).fold(recovery.synced(), Offset::max),
            None => Offset::ZERO,
        };
        let mut newest = super::read::floor(&found.segments, from);
        // A note at the end of a segment was made before that ended, and before its files were completed.
        let at_its_end = recovery.slot.is_some() && newest > 0 && found.segments[newest].base() == from;
        if at_its_end && !found.segments[newest - 1].is_sealed() {
            newest -= 1;
        }
        let newest = found.segments[newest].base();
        let mut latest = None;
        for point in points.into_iter().filter(|point| point.at > newest && point.at <= from) {
            latest = match latest {
                None => recovery.resume_at(&found.segments, point)?,
                found => found,
            };
        }
        let latest = latest.map_or_else(|| recovery.latest_snapshot(&found.segments, newest), Ok)?;
        let Latest { at: replay_from, producers, unreadable, resumed } = latest;
        found.producers = producers;
        found.noted_epoch = noted.as_ref().and_then(EpochCache::latest).unwrap_or(LeaderEpoch::new(-1));
        let first = found.segments.first().map_or(Offset::ZERO, |first| first.base());
        found.epochs_proven = recovery.slot.is_some() || replay_from <= first;
        // Epochs of what is not scanned come from the checkpoint, the rest from the batches.
        found.epochs = noted.clone().unwrap_or_default();
        found.epochs.truncate_from_end(replay_from);
        let epochs = EpochScan { noted, pending: None, last: Offset::ZERO };
        let durable = recovery.durable(&found.segments)?;
        let (evidence, indexed) = (Offset::ZERO, Offset::ZERO);
        let is_again = begin == Begin::Again;
        let mut scan =
            Self { recovery, found, replay_from, resumed, unreadable, evidence, indexed, epochs, durable, is_again };
        scan.weigh(newest_snapshot)?;
        if let Some(active) = scan.found.segments.last().filter(|_| !is_again) {
            let known = scan.evidence.max(scan.found.known_outside);
            active.set_end(recovery.slot.map_or(known, |slot| slot.log_end));
        }
        Ok(scan)
    }

    /// `false` where the batches contradict what was noted of them: nothing was changed then.
    pub(super) fn run(mut self) -> Result<bool> {
        let from = self.resumed.map_or(self.replay_from, |(_, offset)| offset);
        let first = super::read::floor(&self.found.segments, from);
        let mut last = self.found.segments.len() - 1;
        let mut next = self.found.segments[first].base();
        let mut before: Option<Arc<Survey>> = None;
        let mut at = first;
        while at <= last {
            let segment = Arc::clone(&self.found.segments[at]);
            if let Some(before) = &before
                && !self.check_border(before, &segment, at == last)?
            {
                self.cut_segments(at, before.end)?;
                last = at - 1;
                break;
            }
            if self.unreadable.contains(&segment.base()) {
                self.recovery.replace_snapshot(segment.base(), &self.found.producers)?;
            }
            let resumed = self.resumed.filter(|_| at == first);
            if resumed.is_some() && segment.evidence()?.is_some_and(|sealed| sealed.size != segment.written()) {
                return Ok(false);
            }
            let scanned = self.scan_segment(&segment, at == last, resumed)?;
            if resumed.is_some() && (scanned.next < self.replay_from || !scanned.survey.flaws().is_empty()) {
                return Ok(false);
            }
            next = scanned.next;
            if let Some((flaw, verdict)) = &scanned.stopped {
                self.cut(&segment, flaw, *verdict)?;
                if let Verdict::Torn(_) = verdict
                    && at < last
                {
                    self.cut_segments(at + 1, next)?;
                    last = at;
                }
            }
            self.note_damage(&segment, &scanned, at == last);
            self.settle(&segment)?;
            let mut survey = scanned.survey;
            if let Some(before) = before.filter(|before| survey.len == 0 && before.epoch > survey.epoch) {
                // One without batches ends no epoch.
                Arc::make_mut(&mut survey).epoch = before.epoch;
            }
            before = Some(survey);
            at += 1;
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
        let synced = recovery.synced();
        let unsynced = super::read::floor(&found.segments, synced).min(first);
        for segment in &found.segments[unsynced..first] {
            sync(segment)?;
        }
        // The last one too: another may be made the active one yet.
        found.scanned = found.segments[unsynced..=last].to_vec();
        if found.above_damage.unwrap_or(next) < found.log_start {
            // It was moved among offsets that were left out: nothing there follows what is below.
            found.above_damage = Some(found.log_start);
        }
        found.end = found.above_damage.unwrap_or(next);
        // Indexes that were made anew are not synced.
        let kept = if self.resumed.is_some() { self.replay_from } else { found.segments[first].base() };
        let kept = kept.min(found.end);
        let holds_it = found.segments.iter().rfind(|segment| segment.base() < kept);
        let aborted = holds_it.and_then(|segment| segment.aborted_checksum(kept));
        let scanned = Point { at: kept, aborted };
        let before = recovery.slot.filter(|_| synced < kept).map(|slot| Point { at: synced, aborted: slot.aborted[0] });
        found.points = Points { recovery: before.unwrap_or(Point { at: synced.min(kept), ..scanned }), noted: scanned };
        if found.report.cut_bytes == 0 && found.report.damaged.is_empty() {
            found.report.take(RecoveryRow::Scanned);
        }
        if noted > found.end {
            found.report.take(RecoveryRow::DamagedTail);
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
        let sealed = segment.evidence()?;
        if sealed.is_some_and(|sealed| segment.pass_over_excess(&sealed)) {
            self.found.report.take(RecoveryRow::SizeDiffers);
        }
        if sealed.is_none() && !is_last && self.recovery.slot.is_some() {
            self.found.report.take(RecoveryRow::RolledUnsealed);
        }
        let from = match resumed {
            Some(from) => from,
            None => {
                segment.reset_indexes()?;
                (0, segment.base())
            }
        };
        let mut survey = Survey::new(from.1, segment.written());
        let (mut stopped, mut failed) = (None, None);
        let zeros_from = if is_last && !self.is_again { Some(segment.find_room()?) } else { None };
        let is_front = is_last && !self.is_again && sealed.is_none() && resumed.is_none();
        let may_finish = is_front && self.recovery.was_cut();
        let end = segment.walk_from(from, zeros_from, |found| {
            let noted = match &found {
                Found::Batch(position, header, bytes) => self.take(segment, *position, header, bytes),
                Found::Flaw(flaw @ Flaw { kind: FlawKind::Corrected(front), .. })
                    if may_finish && flaw.from >= self.durable =>
                {
                    failed = self.finish_write(segment, flaw, front).err();
                    return failed.is_none();
                }
                Found::Flaw(flaw) => self.weigh_flaw(segment, flaw, is_last, sealed.is_some()).map(|verdict| {
                    stopped = verdict.map(|verdict| ((*flaw).clone(), verdict));
                }),
            };
            failed = noted.err();
            if stopped.is_none() {
                survey.note(&found);
            }
            failed.is_none() && stopped.is_none()
        })?;
        if let Some(error) = failed {
            return Err(error.path(segment.path(FileKind::Log)));
        }
        if is_last && end.damage.is_none() && stopped.is_none() && end.position < segment.written() {
            if end.next < self.durable {
                let positions = end.position..segment.written();
                let kind = FlawKind::Damaged("zeros stand where batches were synced");
                survey.note(&Found::Flaw(&Flaw { from: end.next, to: None, positions, kind }));
            } else {
                // Room for more, or for what never came.
                survey.cut(end.position);
                segment.cut_file(end.position).map_err(|e| cannot_cut(segment, e))?;
            }
        }
        // Above its recovery point a stock broker does not believe its own either.
        let is_whole = survey.flaws().is_empty() && stopped.is_none();
        segment.trust_scanned(end.next, is_whole && end.next <= self.recovery.context.recovery_point)?;
        self.found.report.scanned_bytes += end.position - from.0;
        let mut next = end.next;
        if resumed.is_some() {
            // Of a part nothing is told: where something is wrong with it, the whole is scanned.
            return Ok(Scanned { next, survey: Arc::new(survey), stopped });
        }
        if let Some(sealed) = sealed {
            match segment.contradict(&mut survey, segment.kept_tally())? {
                Some(Broken::Size) => self.found.report.take(RecoveryRow::SizeDiffers),
                Some(Broken::Content) => self.found.report.take(RecoveryRow::SealDiffers),
                None => {}
            }
            next = next.max(sealed.end);
        }
        Ok(Scanned { next, survey: segment.learn(survey), stopped })
    }

    /// A power cut may leave a batch without the sector in which it begins, the front of which no checksum covers. What
    /// shows where the batch belongs may be gone once the log goes on behind it, and others have been told of it by then.
    fn finish_write(&self, segment: &Segment, flaw: &Flaw, front: &[u8]) -> Result<()> {
        let written = segment.file()?.write_all_at(front, flaw.positions.start);
        written.map_err(|e| Error::io("cannot finish a write", segment.path(FileKind::Log), e))?;
        let words = "the header of a batch that was written in part, and never synced, was completed";
        self.recovery.tell_offsets(FindingKind::Corrected, words, flaw.from..flaw.to.unwrap_or(flaw.from));
        Ok(())
    }

    /// The verdict on a flaw at which the walk is to stop; `None` where it goes on.
    fn weigh_flaw(
        &mut self,
        segment: &Segment,
        flaw: &Flaw,
        is_last: bool,
        is_sealed: bool,
    ) -> Result<Option<Verdict>> {
        let known = Known { is_last, is_sealed, durable: self.durable, evidence: self.evidence_at(flaw.from) };
        let verdict = self.recovery.judge(segment, flaw, known)?;
        match if self.is_again { Verdict::Rot(RecoveryRow::DamagedSegment) } else { verdict } {
            Verdict::Rot(row) => {
                if matches!(row, RecoveryRow::RotBeyondCap | RecoveryRow::Unreadable) {
                    self.found.report.take(row);
                }
                if flaw.kind.is_unreadable() && flaw.from >= self.replay_from {
                    self.tell_undecided(flaw.from);
                }
                Ok(None)
            }
            stops => Ok(Some(stops)),
        }
    }

    /// What is damaged from `from` on may be what ended the transactions that are open there.
    fn tell_undecided(&mut self, from: Offset) {
        let report = &mut self.found.report;
        let room = DAMAGED_MAX.saturating_sub(report.undecided.len());
        for (id, _, first) in self.found.producers.open_transactions().take(room) {
            let words =
                format!("a transaction of producer {id} may have ended in the damage behind it, and how is not known");
            self.recovery.tell_offsets(FindingKind::Damaged, words, first..from);
            report.undecided.push(first..from);
        }
    }

    fn take(&mut self, segment: &Segment, position: u64, header: &BatchHeader, bytes: &[u8]) -> Result<()> {
        segment.index_batch(position, header)?;
        if header.next_offset() <= self.replay_from {
            return Ok(());
        }
        let Recovered { epochs, segments, .. } = &mut *self.found;
        if let Some((epoch, offsets)) = self.epochs.take(epochs, header, |at| is_behind_gap(segments, at)) {
            let words = format!("leader epoch {epoch} contradicts what is around it");
            self.recovery.tell_offsets(FindingKind::Corrected, words, offsets);
        }
        match replay(&mut self.found.producers, header, bytes)? {
            Some(aborted) => segment.index_aborted(aborted),
            None => Ok(()),
        }
    }

    /// Takes off a segment what it does not hold any more from a flaw on.
    fn cut(&mut self, segment: &Segment, flaw: &Flaw, verdict: Verdict) -> Result<()> {
        let position = flaw.positions.start;
        if let Verdict::Torn(row) = verdict {
            let end = used_end(segment, flaw)?;
            let size = end - position;
            self.found.report.take(row);
            self.found.report.cut_bytes += size;
            // Of a torn batch the header may be whole, and its offsets known outside; it had at least one.
            let announced = match announced_end(segment, flaw)? {
                Some(end) => end,
                // All that is wrong with it may be its base offset.
                None => segment
                    .sound_header_at(position)?
                    .map_or(flaw.from, |sound| flaw.from + i64::from(sound.last_offset_delta()))
                    .next(),
            };
            // Rot may look so, of what was synced and acknowledged.
            let known =
                flaw.to.map_or(Ok(flaw.from), |to| sound_end(segment, (flaw.positions.end, to)))?.max(announced);
            self.leave_out(known)?;
            let words = match row {
                RecoveryRow::TornTail => format!("an unfinished write of {size} bytes was cut off"),
                _ => format!("{size} bytes that were never synced, with a hole in them, were cut off"),
            };
            self.tell_cut(segment, position..end, words, flaw.from..known);
        }
        if is_on(Mutant::TornTailKept) {
            return Ok(());
        }
        // Sync before the cut as well as after: the decision must not rest on cached bytes alone.
        sync(segment)?;
        segment.cut_file(position).map_err(|e| cannot_cut(segment, e))
    }

    /// The segments from `at` on go with what was cut off before them, from `end` on.
    fn cut_segments(&mut self, at: usize, end: Offset) -> Result<()> {
        self.found.report.take(RecoveryRow::TornUnsynced);
        for segment in self.found.segments.split_off(at) {
            let size = segment.written();
            self.found.report.cut_bytes += size;
            let words = format!("a segment of {size} bytes that were never synced was cut off with those before it");
            let known = sound_end(&segment, (0, segment.base()))?.max(end);
            self.leave_out(known)?;
            self.tell_cut(&segment, 0..size, words, end..known);
            segment.remove_files()?;
        }
        if let Some(last) = self.found.segments.last() {
            last.set_until(None);
        }
        Ok(())
    }

    /// Offsets below `end` are not given out again. The metadata log, which keeps no slot, shows nothing before it is
    /// applied, and goes on where it was read to.
    fn leave_out(&mut self, end: Offset) -> Result<()> {
        if self.recovery.context.slot.is_none() {
            return Ok(());
        }
        self.found.known_outside = self.found.known_outside.max(end);
        self.recovery.reserve(self.found.known_outside)
    }

    /// Keeps what is to be cut off, as far as that can be, and tells of it.
    fn tell_cut(&mut self, segment: &Segment, bytes: Range<u64>, words: String, offsets: Range<Offset>) {
        let words = match super::aside::keep(self.recovery.home, segment, bytes) {
            Ok((path, bytes)) => {
                let words = format!("{words}; {bytes} of them are kept in {}", path.display());
                self.found.report.kept.push(path);
                words
            }
            Err(e) => format!("{words}; they could not be kept: {e}"),
        };
        self.recovery.tell_offsets(FindingKind::TornTail, words, offsets);
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
        report.take(if is_last { RecoveryRow::DamagedTail } else { RecoveryRow::DamagedSegment });
        let ranges = flaws().map(|flaw| flaw.from..flaw.to.or(segment.until()).unwrap_or(end));
        report.damaged.extend(ranges.take(DAMAGED_MAX));
    }

    /// A segment that does not begin where the one before it ended: something between them is missing, unless
    /// offsets were left out there on purpose. `false` where what is missing was never synced: then neither was this.
    fn check_border(&mut self, before: &Survey, segment: &Segment, is_last: bool) -> Result<bool> {
        // Where nothing was appended yet, or what was is torn, offsets were left out by an earlier opening.
        let is_empty = segment.written() == 0 || (is_last && segment.sound_header_at(0)?.is_none());
        if is_empty || !is_hole(before, segment, self.epochs.noted.as_ref())? {
            return Ok(true);
        }
        let Recovery { context, slot, is_foreign, .. } = *self.recovery;
        let is_lost = context.slot.is_some() && !is_foreign;
        let was_cut = slot.map_or(is_lost, |_| self.recovery.was_cut());
        // A rise below it may be that of another leader: what is told then is all that may be missing.
        let hole = before.end..segment.base();
        let risen = || rise_behind(before, segment, self.epochs.noted.as_ref());
        if was_cut && self.recovery.level() < Durability::PowerLoss && risen() >= self.durable {
            return Ok(false);
        }
        if self.found.missing.iter().any(|gone| gone.start < hole.end && hole.start < gone.end) {
            return Ok(true);
        }
        self.recovery.tell_offsets(FindingKind::Lost, "a segment is missing or short", hole.clone());
        self.found.report.take(RecoveryRow::DamagedSegment);
        self.found.report.damaged.push(hole);
        Ok(true)
    }

    fn settle(&self, segment: &Segment) -> Result<()> {
        sync(segment)?;
        segment.write_indexes_later()
    }

    /// Gathers what a stock broker left beside the segments.
    fn weigh(&mut self, newest_snapshot: Offset) -> Result<()> {
        let Recovery { context, slot, is_foreign, .. } = *self.recovery;
        if slot.is_some() || context.slot.is_none() {
            return Ok(());
        }
        self.evidence = context.outside.high_watermark.max(context.recovery_point);
        let indexed = match self.found.segments.last() {
            Some(active) => self.indexed_end(active)?,
            None => Offset::ZERO,
        };
        if is_foreign {
            (self.evidence, self.indexed) = (self.evidence.max(newest_snapshot), indexed);
        } else {
            // Our own are written ahead of the batches' sync: no proof of these, but of their offsets.
            self.found.known_outside = self.found.known_outside.max(newest_snapshot).max(indexed);
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

/// Where the last sound batch ends, from a position with this offset on.
fn sound_end(segment: &Segment, from: (u64, Offset)) -> Result<Offset> {
    let mut end = from.1;
    segment.walk_from(from, None, |found| {
        if let Found::Batch(_, header, _) = found {
            end = header.next_offset();
        }
        true
    })?;
    Ok(end)
}

fn sync(segment: &Segment) -> Result<()> {
    if is_on(Mutant::RecoveredUnsynced) {
        return Ok(());
    }
    let (synced, path) = (segment.file()?.sync_data(), segment.path(FileKind::Log));
    synced.map_err(|e| match is_out_of_descriptors(&e) {
        true => Error::io("cannot sync a recovered segment", path, e),
        false => Error::unsynced(path, e),
    })
}

/// Whether offsets are missing between a segment that was walked and the next one although nobody left them out, by
/// what is `noted` of leader epochs.
pub(super) fn is_hole(before: &Survey, next: &Segment, noted: Option<&EpochCache>) -> Result<bool> {
    let covered = before.flaws().last().is_some_and(|flaw| flaw.kind.is_unreadable() && flaw.from >= before.end);
    if before.cleaned || covered || before.end >= next.base() || next.is_compacted() {
        return Ok(false);
    }
    if rise_behind(before, next, noted) == next.base() {
        return Ok(false);
    }
    let Some(first) = next.header_at(0)? else { return Ok(true) };
    // Where a log goes on above what may be known outside it does so in a higher epoch, of which nothing is below. A
    // crash can take the note, or leave the one of before a truncation, by which it began above.
    let epoch = first.leader_epoch();
    let in_force = |at| noted.and_then(|noted| noted.in_force_at(at));
    let below = in_force(next.base() + -1);
    // A list that was made when the higher one began names no other without batches: those of one between are missing. The
    // first may have been moved here with the log start.
    let is_known = in_force(next.base()) == Some((epoch, next.base()));
    let is_between = is_known && below.is_some_and(|(_, start)| start >= before.end && in_force(start + -1).is_some());
    Ok(is_between || epoch <= before.epoch || below.is_some_and(|(below, _)| below >= epoch))
}

/// Where the epoch rises between a segment that was walked and the next one; the end of the first, where none does. Where
/// offsets were left out, the higher epoch above is durable before its first batch is written.
fn rise_behind(before: &Survey, next: &Segment, noted: Option<&EpochCache>) -> Offset {
    // A segment without batches, where a scan begins, knows no epoch of its own.
    let in_force = |noted: &EpochCache| noted.in_force_at(before.end + -1).map(|(epoch, _)| epoch);
    let epoch = noted.and_then(in_force).map_or(before.epoch, |epoch| epoch.max(before.epoch));
    let risen = noted.and_then(|noted| noted.start_after(epoch));
    risen.filter(|at| (before.end..=next.base()).contains(at)).unwrap_or(before.end)
}

/// Whether a segment begins at `at`, and the one before it ends below.
fn is_behind_gap(segments: &[Arc<Segment>], at: Offset) -> bool {
    let Ok(number) = segments.binary_search_by_key(&at, |segment| segment.base()) else { return false };
    number.checked_sub(1).is_some_and(|before| end_of(&segments[before]).is_ok_and(|end| end < at))
}

fn cannot_cut(segment: &Segment, e: std::io::Error) -> Error {
    Error::io("cannot cut the end of a segment", segment.path(FileKind::Log), e)
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
    /// Takes a batch in; answers the epoch that cannot be right, and its offsets. `is_behind_gap`: whether offsets were
    /// left out below, which only a higher epoch does.
    fn take(
        &mut self,
        epochs: &mut EpochCache,
        header: &BatchHeader,
        is_behind_gap: impl Fn(Offset) -> bool,
    ) -> Option<(LeaderEpoch, Range<Offset>)> {
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
            // The note of before a truncation, which a crash brought back.
            (Some(_), Some((risen, at))) if risen == epoch && is_behind_gap(at) => {
                epochs.assign(epoch, at);
                self.last = base;
            }
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

//! The verdict on a place in a segment's file that holds no sound batch: an unfinished write, which nobody was
//! promised, or rot of what somebody was. The page `docs::recovery` is this file in words.

use crate::error::{Error, Result};
use crate::mutants::{Mutant, is_on};
use crate::record::{BatchHeader, Codec};
use crate::segment::{FileKind, Flaw, FlawKind, Segment, UNREADABLE};
use crate::types::{Durability, Offset};

use super::recover::Recovery;
use super::report::RecoveryRow;

/// What becomes of the place, and by which row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing was ever there: zeros behind the last batch.
    Empty,
    /// It goes, with all that follows.
    Torn(RecoveryRow),
    /// It stays; reads of it fail.
    Rot(RecoveryRow),
}

/// What is known of a segment that is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// No other follows.
    pub(super) is_last: bool,
    /// It was whole and synced when it ended.
    pub(super) is_sealed: bool,
    /// Everything below survives loss of power, by slot and seals.
    pub(super) durable: Offset,
    /// Offsets below were given out, by what a stock broker left; zero where a slot tells.
    pub(super) evidence: Offset,
}

impl Recovery<'_> {
    /// The verdict on a flaw of a segment.
    pub(super) fn judge(&self, segment: &Segment, flaw: &Flaw, known: Known) -> Result<Verdict> {
        if is_on(Mutant::CutAtRot) {
            return Ok(Verdict::Torn(RecoveryRow::TornTail));
        }
        let rot = Verdict::Rot(if known.is_last { RecoveryRow::DamagedTail } else { RecoveryRow::DamagedSegment });
        match flaw.kind {
            FlawKind::Damaged(UNREADABLE) => return Ok(Verdict::Rot(RecoveryRow::Unreadable)),
            FlawKind::Damaged(_) => {}
            FlawKind::Legacy(_) | FlawKind::Corrected(_) => return Ok(rot),
        }
        if known.is_sealed || flaw.from < known.durable.max(known.evidence) {
            return Ok(rot);
        }
        let is_end = flaw.positions.end == segment.written();
        // A rolled segment ends where the next one begins: behind that, too, are only zeros.
        if is_end && (known.is_last || segment.until() == Some(flaw.from)) && is_zero(segment, flaw)? {
            return Ok(Verdict::Empty);
        }
        let Self { context, slot, is_foreign, .. } = *self;
        let Some(slot) = slot else {
            if context.slot.is_some() && !is_foreign && self.level() < Durability::PowerLoss {
                // What we knew of it is lost, or never was durable; what is proven synced was judged before.
                return Ok(Verdict::Torn(RecoveryRow::TornUnsynced));
            }
            // Nothing follows an unfinished write, and after a stop in good order there is none.
            let was_whole = context.outside.clean && context.slot.is_some();
            return Ok(if known.is_last && is_end && !was_whole { Verdict::Torn(RecoveryRow::TornTail) } else { rot });
        };
        // After a failed sync pages may be missing as after a power cut.
        if slot.boot_id == context.boot_id && !slot.poisoned {
            // Without a power cut only the last write can be unfinished: it is short, and nothing follows it.
            let is_short = known.is_last && is_end && !is_whole(segment, flaw)?;
            return Ok(if is_short { Verdict::Torn(RecoveryRow::TornTail) } else { rot });
        }
        if self.level() < Durability::PowerLoss {
            return Ok(Verdict::Torn(RecoveryRow::TornUnsynced));
        }
        if !known.is_last {
            // It was synced before the next one began.
            return Ok(rot);
        }
        let unsynced_max = u64::from(slot.unsynced_max);
        if unsynced_max > 0 && used_end(segment, flaw)?.saturating_sub(flaw.positions.start) > unsynced_max {
            return Ok(Verdict::Rot(RecoveryRow::RotBeyondCap));
        }
        Ok(Verdict::Torn(if is_end { RecoveryRow::TornTail } else { RecoveryRow::TornGroup }))
    }
}

fn read(segment: &Segment, bytes: &mut [u8], position: u64) -> Result<()> {
    let read = segment.file()?.read_exact_at(bytes, position);
    read.map_err(|e| Error::io("cannot read the end of a segment", segment.path(FileKind::Log), e))
}

/// The position behind the last byte that is not zero, at or behind the flaw's first: space may have been made ahead.
pub(super) fn used_end(segment: &Segment, flaw: &Flaw) -> Result<u64> {
    let mut chunk = [0; 16 << 10];
    let mut end = segment.written();
    while end > flaw.positions.start {
        let len = (end - flaw.positions.start).min(chunk.len() as u64);
        let bytes = &mut chunk[..len as usize];
        read(segment, bytes, end - len)?;
        if let Some(last) = bytes.iter().rposition(|&byte| byte != 0) {
            return Ok(end - len + last as u64 + 1);
        }
        end -= len;
    }
    Ok(end)
}

fn is_zero(segment: &Segment, flaw: &Flaw) -> Result<bool> {
    Ok(used_end(segment, flaw)? == flaw.positions.start)
}

/// Whether all bytes of the batch that a flaw was were written, by its length. The system takes a write page by page: of
/// one that was not finished, and that space made ahead goes on behind, the last page at least is zeros alone.
fn is_whole(segment: &Segment, flaw: &Flaw) -> Result<bool> {
    const PAGE_BYTES: u64 = 4096;
    let mut front = [0; BatchHeader::MAGIC_AT + 1];
    let size = flaw.positions.end - flaw.positions.start;
    if size < front.len() as u64 {
        return Ok(false);
    }
    read(segment, &mut front, flaw.positions.start)?;
    if front[BatchHeader::MAGIC_AT] != 2 || front[..8] != flaw.from.get().to_be_bytes() {
        return Ok(false);
    }
    let Ok(announced) = BatchHeader::announced_size(&front) else { return Ok(false) };
    let announced = announced as u64;
    if announced >= size {
        return Ok(announced == size);
    }
    let end = flaw.positions.start + announced;
    let last_page = (end - 1) / PAGE_BYTES * PAGE_BYTES;
    Ok(used_end(segment, flaw)? > last_page)
}

/// Where the batch that a flaw was would end, by what its header says, as far as that can be.
pub(super) fn announced_end(segment: &Segment, flaw: &Flaw) -> Result<Option<Offset>> {
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

/// An offset above all that the batch may have held that a flaw was. One above even a sound batch of which only the
/// base offset is wrong: it must not seem to fit its place because of the place that was left for it.
pub(super) fn beyond(segment: &Segment, flaw: &Flaw) -> Offset {
    let mut rest = flaw.clone();
    // Those behind it may be damaged as well.
    while rest.positions.start < rest.positions.end
        && let Ok(Some(end)) = announced_end(segment, &rest)
    {
        let header = segment.raw_header_at(rest.positions.start).ok().flatten();
        let size = header.and_then(|header| BatchHeader::announced_size(&header).ok());
        rest.from = end;
        rest.positions.start = size.map_or(rest.positions.end, |size| rest.positions.start + size as u64);
    }
    if rest.from > flaw.from {
        return rest.from;
    }
    let sound = segment.sound_header_at(flaw.positions.start).ok().flatten();
    sound.map_or(flaw.from, |header| flaw.from.next() + i64::from(header.last_offset_delta())).next()
}

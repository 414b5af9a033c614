//! Reading whole batches by offset: index lookup, one read, checks of what it brought.
//!
//! Whatever is served was checked: checksum, and that each batch begins where its predecessor ended. The checks
//! are a few compares of integers beside the checksum. Where one fails the segment is surveyed once, and read
//! again by what the survey found: damaged places are errors, corrected headers are put right in what is served.

use bytes::Bytes;

use super::flaws::{Flaw, FlawKind, Prefix, Survey};
use super::walk::crc_matches;
use super::{FileKind, Segment};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{BatchHeader, validate_crc};
use crate::types::Offset;

/// First read of a batch whose size is not known yet.
const FIRST_READ_BYTES: usize = 64 << 10;

/// Whole batches out of one segment.
#[derive(Debug)]
pub(crate) struct SegmentRead {
    /// The batches, the first of which holds the offset asked for or follows it.
    pub(crate) bytes: Bytes,
    /// Where the next read continues.
    pub(crate) next: Offset,
}

/// Why a read cannot go on.
enum Stop {
    /// Something contradicts what is known of the segment.
    Doubt,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What the next batch must be.
#[derive(Clone, Copy)]
enum Expected {
    /// One that begins here.
    Base(Offset),
    /// One that ends with this offset.
    Last(Offset),
    /// Any: damage lies before it.
    Any,
}

/// Where a read begins.
struct Place {
    position: u64,
    expected: Expected,
    /// How many bytes to read first.
    first: usize,
}

enum Selected {
    /// These bytes of the buffer.
    Batches { start: usize, len: usize, next: Offset },
    /// The batch at `position` needs this many bytes, by its header if it is known.
    More(usize, Option<BatchHeader>),
    /// The first batch here lies behind the offset wanted, and an earlier one may hold it.
    Before,
    /// No batch here is visible.
    None,
}

impl Segment {
    /// Reads whole batches from the one that holds `from`, or the first behind it, up to the one that begins
    /// at or behind `end`: about `max_bytes` of them, at least one. `None` when there is none.
    pub(crate) fn read(&self, from: Offset, end: Offset, max_bytes: usize) -> Result<Option<SegmentRead>> {
        let mut known = self.known();
        for _ in 0..2 {
            match self.read_by_index(from, end, max_bytes, known.as_deref()) {
                Ok(read) => return Ok(read),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Doubt) => known = Some(self.survey()?),
            }
        }
        match self.read_by_index(from, end, max_bytes, known.as_deref()) {
            Ok(read) => Ok(read),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Doubt) => Err(Error::new(ErrorKind::Corrupt, "the bytes of a segment change while it is read")
                .offset(from)
                .path(self.path(FileKind::Log))),
        }
    }

    fn read_by_index(
        &self,
        from: Offset,
        end: Offset,
        max_bytes: usize,
        known: Option<&Survey>,
    ) -> Result<Option<SegmentRead>, Stop> {
        let (guess, floor) = self.locate(from)?;
        for (place, is_guess) in guess.map(|place| (place, true)).into_iter().chain([(floor, false)]) {
            let mut pick = Pick {
                segment: self,
                known,
                len: self.written(),
                from,
                end,
                max_bytes,
                position: place.position,
                expected: place.expected,
                is_guess,
                patches: Vec::new(),
            };
            if let Some(read) = pick.run(place.first)? {
                return Ok(read);
            }
        }
        Err(Stop::Doubt)
    }

    /// Where to look for `offset`: a guess, and a place at or before its batch.
    fn locate(&self, offset: Offset) -> Result<(Option<Place>, Place)> {
        let written = self.written();
        let indexes = self.indexes()?;
        let (last, floor) = indexes.offset.lookup(offset);
        let expected = if floor == 0 { Expected::Base(self.base) } else { Expected::Last(last) };
        let at_floor = Place { position: u64::from(floor), expected, first: FIRST_READ_BYTES };
        // The entry after the target names the batch that holds it, when every batch has an entry, as large
        // ones do. The reader checks, and falls back to the floor. Batches that are only staged have entries too.
        let next = indexes.offset.ceiling(offset);
        let following = next.and_then(|(last, _)| indexes.offset.ceiling(last.next()));
        let guess = match (next, following) {
            (Some((last, at)), Some((_, after)))
                if at.saturating_sub(floor) > self.sizes.interval.saturating_mul(2) && u64::from(after) <= written =>
            {
                let first = after.saturating_sub(at) as usize;
                Some(Place { position: u64::from(at), expected: Expected::Last(last), first })
            }
            _ => None,
        };
        Ok((guess, at_floor))
    }

    /// The error for a read that meets `flaw`.
    fn damage(&self, flaw: &Flaw, to: Offset) -> Error {
        let (kind, what) = match flaw.kind {
            FlawKind::Legacy(magic) => {
                (ErrorKind::Unsupported, format!("messages of format {magic}, from before Kafka 0.11, are not read"))
            }
            FlawKind::Damaged(why) => (ErrorKind::Corrupt, format!("the bytes on disk are damaged: {why}")),
            FlawKind::Corrected(_) => (ErrorKind::Corrupt, "the bytes on disk are damaged".to_owned()),
        };
        Error::new(kind, what)
            .offset(flaw.from)
            .offsets(flaw.from..to)
            .path(self.path(FileKind::Log))
            .remedy(format!("restore the bytes, or go on reading at offset {to}: everything around is served"))
    }
}

/// Picks whole, sound, visible batches out of a segment.
struct Pick<'a> {
    segment: &'a Segment,
    known: Option<&'a Survey>,
    /// Bytes of the segment's file that hold whole batches.
    len: u64,
    from: Offset,
    end: Offset,
    max_bytes: usize,
    /// Where the batch to look at next begins, and what it must be.
    position: u64,
    expected: Expected,
    is_guess: bool,
    /// Corrected headers, and where in the buffer they go.
    patches: Vec<(usize, Prefix)>,
}

impl Pick<'_> {
    /// Outer `None` when the place was a wrong guess.
    fn run(&mut self, first: usize) -> Result<Option<Option<SegmentRead>>, Stop> {
        let (segment, from) = (self.segment, self.from);
        let file = segment.file()?;
        let failed = |e| Stop::Failed(segment.io_error("cannot read a segment", e).offset(from));
        let mut want = first.max(self.max_bytes);
        loop {
            let left = self.len.saturating_sub(self.position);
            let have = want.min(usize::try_from(left).unwrap_or(usize::MAX));
            let mut buffer = segment.home.buffers.take(have);
            file.read_exact_at(buffer.as_mut(have), self.position).map_err(failed)?;
            match self.select(&buffer.as_ref()[..have])? {
                Selected::Batches { start, len, next } => {
                    for (at, prefix) in self.patches.drain(..) {
                        buffer.as_mut(have)[at..at + prefix.len()].copy_from_slice(&prefix);
                    }
                    let bytes = buffer.freeze().slice(start..start + len);
                    return Ok(Some(Some(SegmentRead { bytes, next })));
                }
                Selected::Before => return Ok(None),
                Selected::None => return Ok(Some(None)),
                Selected::More(need, header) => {
                    let left = self.len.saturating_sub(self.position);
                    if left == 0 {
                        return Ok(Some(None));
                    }
                    // A damaged length must not cost memory: what is large is checked before it is held.
                    let is_large = need > FIRST_READ_BYTES.max(self.max_bytes);
                    if need as u64 > left {
                        return Err(Stop::Doubt);
                    }
                    if let Some(header) = header.filter(|_| is_large)
                        && !crc_matches(&**file, self.position, &header).map_err(failed)?
                    {
                        return Err(Stop::Doubt);
                    }
                    want = need.max(self.max_bytes);
                }
            }
        }
    }

    /// Looks at `bytes`, which begin at `position`.
    fn select(&mut self, bytes: &[u8]) -> Result<Selected, Stop> {
        self.patches.clear();
        let (mut at, mut start, mut next) = (0_usize, None, self.from);
        loop {
            let flaw = self.known.and_then(|known| known.flaw_at(self.position));
            if let Some(flaw) = flaw.filter(|flaw| flaw.kind.is_unreadable()) {
                if start.is_some() || flaw.from >= self.end {
                    break;
                }
                let skipped = self.pass_damage(flaw)?;
                at = at.saturating_add(skipped);
                if at > bytes.len() {
                    return Ok(Selected::More(BatchHeader::LEN, None));
                }
                continue;
            }
            let rest = &bytes[at..];
            if rest.len() < BatchHeader::LEN {
                break;
            }
            let (header, prefix) = header_of(rest, flaw)?;
            let size = header.size_bytes();
            if self.is_guess && header.base_offset() > self.from && start.is_none() {
                return Ok(Selected::Before);
            }
            if !self.fits(&header, rest) {
                if start.is_some() {
                    break; // Serve what is sound; the next read meets this itself.
                }
                match self.lacks_successor(size, rest) {
                    true => return Ok(Selected::More(size + BatchHeader::LEN, None)),
                    false => return Err(Stop::Doubt),
                }
            }
            if header.base_offset() >= self.end {
                return Ok(match start {
                    Some(start) => Selected::Batches { start, len: at - start, next },
                    None => Selected::None,
                });
            }
            if header.next_offset() <= self.from {
                self.pass(&header);
                at = at.saturating_add(size);
                if at > bytes.len() {
                    // The skipped batch goes on behind the buffer.
                    return Ok(Selected::More(BatchHeader::LEN, None));
                }
                continue;
            }
            let taken = start.map_or(0, |s| at - s);
            if size > rest.len() || (taken > 0 && taken + size > self.max_bytes) {
                break;
            }
            if !validate_crc(&header, &rest[..size]) {
                if taken > 0 {
                    break;
                }
                return Err(Stop::Doubt);
            }
            self.patches.extend(prefix.map(|prefix| (at, prefix)));
            start.get_or_insert(at);
            self.pass(&header);
            at += size;
            next = header.next_offset();
        }
        Ok(match start {
            Some(start) => Selected::Batches { start, len: at - start, next },
            None => self.more(&bytes[at.min(bytes.len())..]),
        })
    }

    /// What is needed to look at the batch whose first bytes are `rest`.
    fn more(&self, rest: &[u8]) -> Selected {
        let flaw = self.known.and_then(|known| known.flaw_at(self.position));
        if flaw.is_some_and(|flaw| flaw.kind.is_unreadable()) {
            return Selected::None; // It lies behind the visible end.
        }
        match header_of(rest, flaw) {
            Ok((header, _)) => Selected::More(header.size_bytes(), Some(header)),
            Err(_) => Selected::More(BatchHeader::LEN, None),
        }
    }

    fn pass(&mut self, header: &BatchHeader) {
        self.position += header.size_bytes() as u64;
        self.expected = Expected::Base(header.next_offset());
        self.is_guess = false;
    }

    /// Steps over a damaged place, unless it holds the offset wanted; answers how many bytes that was.
    fn pass_damage(&mut self, flaw: &Flaw) -> Result<usize, Stop> {
        if flaw.to.is_none() && flaw.positions.end < self.len {
            return Err(Stop::Doubt); // More was written behind it since.
        }
        let to = flaw.to.or(self.segment.until()).unwrap_or(self.end);
        if self.from < to {
            return Err(Stop::Failed(self.segment.damage(flaw, to)));
        }
        let skipped = flaw.positions.end - self.position;
        (self.position, self.expected, self.is_guess) = (flaw.positions.end, Expected::Any, false);
        Ok(usize::try_from(skipped).unwrap_or(usize::MAX))
    }

    /// Whether a batch stands where it must: right behind its predecessor, or where a cleaner left it.
    fn fits(&self, header: &BatchHeader, rest: &[u8]) -> bool {
        let base = match self.expected {
            Expected::Base(base) if base == header.base_offset() => return true,
            Expected::Base(base) => base,
            Expected::Last(last) => return header.last_offset() == last,
            Expected::Any => return true,
        };
        if header.base_offset() < base || !self.is_cleaned() {
            return false;
        }
        let size = header.size_bytes();
        let count = i64::from(header.last_offset_delta()) + 1;
        let behind = rest.get(size..size + BatchHeader::LEN).map(BatchHeader::parse);
        match behind {
            Some(Ok(behind)) => header.next_offset() <= behind.base_offset() && behind.base_offset() != base + count,
            // The survey has judged it.
            Some(Err(_)) => self.known.is_some(),
            None => self.position + size as u64 == self.len || !self.lacks_successor(size, rest),
        }
    }

    /// Whether offsets may be missing between two batches.
    fn is_cleaned(&self) -> bool {
        self.known.map_or(self.segment.home.compacted, |known| known.cleaned)
    }

    /// Whether it takes the header of the next batch to tell.
    fn lacks_successor(&self, size: usize, rest: &[u8]) -> bool {
        let needed = (size + BatchHeader::LEN) as u64;
        self.is_cleaned() && (rest.len() as u64) < needed && self.position + needed <= self.len
    }
}

/// The header at the front of `rest`, put right if it is known to be wrong.
fn header_of(rest: &[u8], flaw: Option<&Flaw>) -> Result<(BatchHeader, Option<Prefix>), Stop> {
    let parsed = |bytes: &[u8]| BatchHeader::parse(bytes).map_err(|_| Stop::Doubt);
    let (Some(Flaw { kind: FlawKind::Corrected(prefix), .. }), Some(raw)) = (flaw, rest.first_chunk()) else {
        return Ok((parsed(rest)?, None));
    };
    let mut bytes: [u8; BatchHeader::LEN] = *raw;
    bytes[..prefix.len()].copy_from_slice(prefix);
    Ok((parsed(&bytes)?, Some(*prefix)))
}

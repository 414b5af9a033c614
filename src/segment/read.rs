//! Reading whole batches by offset: index lookup, one read, checks of what it brought.
//!
//! Whatever is served was checked: checksum, and that each batch begins where its predecessor ended. The checks
//! are a few compares of integers beside the checksum. Where one fails the segment is surveyed once, and read
//! again by what the survey found: damaged places are errors, corrected headers are put right in what is served.

use std::io;

use bytes::Bytes;

use super::buffer::Buffer;
use super::flaws::{Flaw, FlawKind, Prefix, Successor, Survey, Verdict, judge};
use super::view::View;
use super::walk::crc_matches;
use super::{FileKind, Patient, Segment};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{BatchHeader, validate_crc};
use crate::storage::File;
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

/// What is asked for: batches from the one that holds `from` on, up to the one that begins at or behind `end`.
#[derive(Clone, Copy)]
struct Wanted {
    from: Offset,
    end: Offset,
    max_bytes: usize,
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

/// The bytes at a place of the segment.
enum Piece {
    /// Shares the segment's map.
    Mapped(Bytes),
    /// The first so many bytes of a buffer.
    Copied(Buffer, usize),
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Copied(buffer, len) => &buffer.as_ref()[..*len],
        }
    }
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
    ///
    /// `settled` says that the segment is sealed and synced: then it may be read through a map, and what was verified
    /// is remembered, where that was asked for.
    pub(crate) fn read(
        &self,
        from: Offset,
        end: Offset,
        max_bytes: usize,
        settled: bool,
    ) -> Result<Option<SegmentRead>> {
        let wanted = Wanted { from, end, max_bytes };
        self.prove()?;
        let view = if settled { self.view()? } else { None };
        let mut known = self.known();
        for _ in 0..2 {
            match self.read_by_index(wanted, view.as_deref(), known.as_deref()) {
                Ok(read) => return Ok(read),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Doubt) => known = Some(self.survey()?),
            }
        }
        match self.read_by_index(wanted, view.as_deref(), known.as_deref()) {
            Ok(read) => Ok(read),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Doubt) => Err(Error::new(ErrorKind::Corrupt, "the bytes of a segment change while it is read")
                .offset(from)
                .path(self.path(FileKind::Log))),
        }
    }

    fn read_by_index(
        &self,
        wanted: Wanted,
        view: Option<&View>,
        known: Option<&Survey>,
    ) -> Result<Option<SegmentRead>, Stop> {
        let (guess, floor) = self.locate(wanted.from)?;
        // What the disk does not give fails its checksum; the survey then names the place.
        let file = Patient::new(&**self.file()?);
        for (place, is_guess) in guess.map(|place| (place, true)).into_iter().chain([(floor, false)]) {
            let mut pick = Pick {
                segment: self,
                file: &file,
                view,
                known,
                len: self.written(),
                wanted,
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
    file: &'a dyn File,
    view: Option<&'a View>,
    known: Option<&'a Survey>,
    /// Bytes of the segment's file that hold whole batches.
    len: u64,
    wanted: Wanted,
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
        let (segment, from) = (self.segment, self.wanted.from);
        let failed = |e| Stop::Failed(segment.io_error("cannot read a segment", e).offset(from));
        let mut want = first.max(self.wanted.max_bytes);
        loop {
            let left = self.len.saturating_sub(self.position);
            let have = want.min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = self.piece(have).map_err(failed)?;
            match self.select(piece.as_ref())? {
                Selected::Batches { start, len, next } => {
                    let bytes = match piece {
                        Piece::Mapped(bytes) => bytes,
                        Piece::Copied(buffer, _) => buffer.freeze(),
                    };
                    let bytes = self.patched(bytes.slice(start..start + len), start);
                    return Ok(Some(Some(SegmentRead { bytes, next })));
                }
                Selected::Before => return Ok(None),
                Selected::None => return Ok(Some(None)),
                Selected::More(need, header) => {
                    let left = self.len.saturating_sub(self.position);
                    if left == 0 {
                        return Ok(Some(None));
                    }
                    if need as u64 > left {
                        return Err(Stop::Doubt);
                    }
                    // A damaged length must not cost memory: what is large is checked before it is held.
                    let is_costly =
                        need > FIRST_READ_BYTES.max(self.wanted.max_bytes) && matches!(piece, Piece::Copied(..));
                    if let Some(header) = header.filter(|_| is_costly)
                        && !crc_matches(self.file, self.position, &header).map_err(failed)?
                    {
                        return Err(Stop::Doubt);
                    }
                    want = need.max(self.wanted.max_bytes);
                }
            }
        }
    }

    /// The next `len` bytes.
    fn piece(&self, len: usize) -> io::Result<Piece> {
        if let Some(mapped) = self.view.and_then(|view| view.bytes(self.position, len)) {
            return mapped.map(Piece::Mapped);
        }
        let mut buffer = self.segment.home.buffers.take(len);
        self.file.read_exact_at(buffer.as_mut(len), self.position)?;
        Ok(Piece::Copied(buffer, len))
    }

    /// Puts the headers right that are known to be wrong; `bytes` begin at `start` of what was looked at.
    fn patched(&self, bytes: Bytes, start: usize) -> Bytes {
        if self.patches.is_empty() {
            return bytes;
        }
        let mut right = bytes.to_vec();
        for (at, prefix) in &self.patches {
            right[at - start..at - start + prefix.len()].copy_from_slice(prefix);
        }
        right.into()
    }

    /// Whether the checksum of a whole batch at the place says that it is sound.
    fn is_sound(&self, header: &BatchHeader, batch: &[u8]) -> bool {
        if self.view.is_some_and(|view| view.was_verified(self.position)) {
            return true;
        }
        let is_sound = validate_crc(header, batch);
        if let Some(view) = self.view.filter(|_| is_sound) {
            view.note_verified(self.position);
        }
        is_sound
    }

    /// Looks at `bytes`, which begin at `position`.
    fn select(&mut self, bytes: &[u8]) -> Result<Selected, Stop> {
        self.patches.clear();
        let (mut at, mut start, mut next) = (0_usize, None, self.wanted.from);
        loop {
            let flaw = self.known.and_then(|known| known.flaw_at(self.position));
            if let Some(flaw) = flaw.filter(|flaw| flaw.kind.is_unreadable()) {
                if start.is_some() || flaw.from >= self.wanted.end {
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
            if self.is_guess && header.base_offset() > self.wanted.from && start.is_none() {
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
            if header.base_offset() >= self.wanted.end {
                return Ok(match start {
                    Some(start) => Selected::Batches { start, len: at - start, next },
                    None => Selected::None,
                });
            }
            if header.next_offset() <= self.wanted.from {
                self.pass(&header);
                at = at.saturating_add(size);
                if at > bytes.len() {
                    // The skipped batch goes on behind the buffer.
                    return Ok(Selected::More(BatchHeader::LEN, None));
                }
                continue;
            }
            let taken = start.map_or(0, |s| at - s);
            if size > rest.len() || (taken > 0 && taken + size > self.wanted.max_bytes) {
                break;
            }
            if !self.is_sound(&header, &rest[..size]) {
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
        let to = flaw.to.or(self.segment.until()).unwrap_or(self.wanted.end);
        if self.wanted.from < to {
            return Err(Stop::Failed(self.segment.damage(flaw, to)));
        }
        let skipped = flaw.positions.end - self.position;
        (self.position, self.expected, self.is_guess) = (flaw.positions.end, Expected::Any, false);
        Ok(usize::try_from(skipped).unwrap_or(usize::MAX))
    }

    /// Whether a batch stands where it must: right behind its predecessor, or where a cleaner left it.
    fn fits(&self, header: &BatchHeader, rest: &[u8]) -> bool {
        if self.segment.until().is_some_and(|until| header.next_offset() > until) {
            return false;
        }
        let base = match self.expected {
            Expected::Base(base) if base == header.base_offset() => return true,
            Expected::Base(base) => base,
            Expected::Last(last) => return header.last_offset() == last,
            Expected::Any => return true,
        };
        if header.base_offset() < base {
            return false;
        }
        match self.known {
            // The walk has judged it.
            Some(known) if self.position < known.len => true,
            _ => self.segment.home.compacted && self.judge(header, base, rest) == Some(Verdict::AsIs),
        }
    }

    /// As a walk judges a batch of a log that is compacted; `None` where the bytes at hand do not tell.
    fn judge(&self, header: &BatchHeader, expected: Offset, rest: &[u8]) -> Option<Verdict> {
        let size = header.size_bytes();
        let successor = if self.position + size as u64 == self.len {
            self.segment.successor()
        } else {
            Successor::At(BatchHeader::parse(rest.get(size..)?).ok()?.base_offset().get())
        };
        let count = i64::from(header.last_offset_delta()) + 1;
        Some(judge(header.base_offset().get(), count, expected.get(), successor, true))
    }

    /// Whether it takes the header of the next batch to tell.
    fn lacks_successor(&self, size: usize, rest: &[u8]) -> bool {
        let needed = (size + BatchHeader::LEN) as u64;
        let was_judged = self.known.is_some_and(|known| self.position < known.len);
        self.segment.home.compacted && !was_judged && (rest.len() as u64) < needed && self.position + needed <= self.len
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

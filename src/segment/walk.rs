//! Walking a segment file batch by batch, checking each: for recovery, for rebuilding indexes, and for finding
//! again what is sound behind damage. Streams through one buffer that grows to the largest sound batch, never
//! to what a damaged header announces.
//!
//! Behind damage the next batch is looked for where the damaged one announces its end, then at every byte. Each
//! byte is checksummed a bounded number of times, whatever the file holds: see [`Tried`].

use std::collections::VecDeque;
use std::io;

use crate::record::{BatchHeader, validate_crc};
use crate::storage::File;
use crate::types::{LeaderEpoch, Offset};

use super::buffer::{Buffer, BufferPool};
use super::flaws::{Flaw, FlawKind, Prefix, Successor, Verdict, judge};
use super::patient::{Patient, UNREADABLE};

/// One read's worth of bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// The first read of a search behind damage; each further one is twice as long.
const SEARCH_BYTES: usize = 4 << 10;
/// How far away, in batches, a copy of a batch is recognized.
const COPY_REACH: usize = 1 << 10;
/// How many headers one walk looks at in search of copies.
const COPY_LOOKS_MAX: usize = 1 << 16;

/// What is known of a segment from around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// The segment's base offset.
    pub(crate) base: Offset,
    /// The next segment's.
    pub(crate) until: Option<Offset>,
    /// Where the log ends if this is its last segment, as far as is known.
    pub(crate) end: Option<Offset>,
    /// Zeros that are no batch, and no damage, begin here or inside of the last batch.
    pub(crate) zeros_from: Option<u64>,
    /// Offsets may be missing between two batches.
    pub(crate) compacted: bool,
}

/// What a walk comes by.
pub(crate) enum Found<'a> {
    /// A sound batch, as it should be.
    Batch(u64, &'a BatchHeader, &'a [u8]),
    /// Something wrong. A corrected batch follows as one of its own.
    Flaw(&'a Flaw),
}

/// Where and why a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WalkEnd {
    /// Position behind the last sound batch.
    pub(crate) position: u64,
    /// The offset behind it.
    pub(crate) next: Offset,
    /// What stands there instead of a sound batch; `None` at the end of the file.
    pub(crate) damage: Option<&'static str>,
}

/// Calls `each` with everything from `position`, where a batch at `expected` should begin, up to `len`; it returns
/// `false` to stop: at a flaw, before it.
pub(crate) fn walk(
    file: &dyn File,
    position: u64,
    len: u64,
    expected: Offset,
    frame: Frame,
    buffers: &BufferPool,
    mut each: impl FnMut(Found<'_>) -> bool,
) -> io::Result<WalkEnd> {
    let file = Patient::new(file);
    let mut walk = Walk {
        file: &file,
        len,
        frame,
        buffer: buffers.take(CHUNK_BYTES),
        buffers,
        have: 0,
        at: 0,
        position,
        expected: expected.get(),
        epoch: None,
        after_flaw: false,
        recent: VecDeque::new(),
        looks: 0,
        damaged: false,
        tried: Tried::default(),
    };
    loop {
        let (header, raw) = match walk.next()? {
            Next::End => return Ok(walk.end(None)),
            Next::Batch(header, raw) => (header, raw),
            Next::Damage(why) => match walk.mend(why)? {
                Mended::Batch(header, raw) => (header, raw),
                Mended::Not(flaw) => {
                    if !each(Found::Flaw(&flaw)) || flaw.to.is_none() {
                        return Ok(walk.end(Some(why)));
                    }
                    walk.skip_to(flaw.positions.end);
                    (walk.after_flaw, walk.damaged) = (true, true);
                    continue;
                }
            },
        };
        if let Some(prefix) = raw {
            let flaw = walk.correct(&header, prefix);
            if !each(Found::Flaw(&flaw)) {
                return Ok(walk.end(None));
            }
        }
        let bytes = &walk.buffer.as_ref()[walk.at..walk.at + header.size_bytes()];
        let goes_on = each(Found::Batch(walk.position, &header, bytes));
        if !goes_on {
            return Ok(walk.end(None));
        }
        walk.pass(&header);
    }
}

enum Next {
    /// A sound batch at the front of the buffer, and the bytes that its header should begin with if it does not.
    Batch(BatchHeader, Option<Prefix>),
    Damage(&'static str),
    End,
}

enum Mended {
    Batch(BatchHeader, Option<Prefix>),
    Not(Flaw),
}

struct Walk<'a> {
    file: &'a Patient<'a>,
    len: u64,
    frame: Frame,
    buffers: &'a BufferPool,
    buffer: Buffer,
    /// The buffer holds bytes up to here, and those at `position` from `at` on.
    have: usize,
    at: usize,
    position: u64,
    expected: i64,
    /// Leader epoch of the last batch.
    epoch: Option<LeaderEpoch>,
    /// Offsets are missing before the next batch.
    after_flaw: bool,
    /// Base offset and checksum of the last batches.
    recent: VecDeque<(i64, u32)>,
    looks: usize,
    /// A place was damaged: what the end of the log fits proves nothing any more.
    damaged: bool,
    tried: Tried,
}

impl Walk<'_> {
    fn end(&self, damage: Option<&'static str>) -> WalkEnd {
        WalkEnd { position: self.position, next: Offset::new(self.expected), damage }
    }

    fn skip_to(&mut self, position: u64) {
        let skipped = usize::try_from(position - self.position).unwrap_or(usize::MAX);
        self.at = self.at.saturating_add(skipped);
        if self.at >= self.have {
            (self.at, self.have) = (0, 0);
        }
        self.position = position;
    }

    fn pass(&mut self, header: &BatchHeader) {
        if self.recent.len() == COPY_REACH {
            self.recent.pop_front();
        }
        self.recent.push_back((header.base_offset().get(), header.crc()));
        self.expected = header.next_offset().get();
        self.epoch = Some(header.leader_epoch());
        self.after_flaw = false;
        self.skip_to(self.position + header.size_bytes() as u64);
    }

    /// Gets `need` bytes from `position` on into the buffer; `false` when the file ends before.
    fn load(&mut self, need: usize) -> io::Result<bool> {
        let left = self.len.saturating_sub(self.position);
        if need as u64 > left {
            return Ok(false);
        }
        if self.have - self.at < need {
            // Move the rest to the front and fill up behind it.
            self.buffer.grow(need);
            let rest = self.have - self.at;
            self.buffer.as_mut(self.have).copy_within(self.at.., 0);
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.as_ref().len());
            self.file.read_exact_at(&mut self.buffer.as_mut(want)[rest..], self.position + rest as u64)?;
            (self.have, self.at) = (want, 0);
        }
        Ok(true)
    }

    fn next(&mut self) -> io::Result<Next> {
        if self.is_end(self.position) {
            return Ok(Next::End);
        }
        if !self.load(BatchHeader::LEN)? {
            return Ok(Next::Damage("the file ends inside a batch header"));
        }
        let Ok(header) = BatchHeader::parse(&self.buffer.as_ref()[self.at..]) else {
            return Ok(Next::Damage("no batch header"));
        };
        let size = header.size_bytes();
        if self.position + size as u64 > self.len {
            return Ok(Next::Damage("the file ends inside a batch"));
        }
        if size > self.buffer.as_ref().len() && !self.try_crc(self.position, &header)? {
            return Ok(Next::Damage("a large batch with a checksum that does not match"));
        }
        self.load(size)?;
        if !validate_crc(&header, &self.buffer.as_ref()[self.at..self.at + size]) {
            return Ok(Next::Damage("a checksum that does not match"));
        }
        self.placed(header.base_offset().get(), header, None)
    }

    /// A batch that is sound as `header` says, at the place that it claims or must have.
    fn placed(&mut self, base: i64, header: BatchHeader, mut prefix: Option<Prefix>) -> io::Result<Next> {
        let mut header = header;
        match self.verdict(base, &header)? {
            Verdict::AsIs => {}
            Verdict::AtExpected => {
                header = header.placed(Offset::new(self.expected), header.leader_epoch());
                let mut right = prefix.unwrap_or_else(|| self.prefix());
                right[..8].copy_from_slice(&self.expected.to_be_bytes());
                prefix = Some(right);
            }
            Verdict::Wrong => return Ok(Next::Damage("a base offset that contradicts its neighbours")),
        }
        if header.last_offset() - self.frame.base > i64::from(i32::MAX) {
            return Ok(Next::Damage("an offset that does not fit into its segment"));
        }
        if self.frame.until.is_some_and(|until| header.next_offset() > until) {
            return Ok(Next::Damage("a batch that reaches into the next segment"));
        }
        Ok(Next::Batch(header, prefix))
    }

    fn verdict(&mut self, base: i64, header: &BatchHeader) -> io::Result<Verdict> {
        if base == self.expected {
            return Ok(Verdict::AsIs);
        }
        let count = i64::from(header.last_offset_delta()) + 1;
        let cleaned = self.frame.compacted || i64::from(header.record_count()) != count;
        let successor = self.successor(self.position + header.size_bytes() as u64)?;
        // Above what may be known outside a leader goes on in a higher epoch.
        let rises = self.epoch.is_some_and(|epoch| header.leader_epoch() > epoch);
        let verdict = judge(base, count, self.expected, successor, self.after_flaw || cleaned || rises);
        if verdict == Verdict::AtExpected && self.is_copy(base, header)? {
            return Ok(Verdict::Wrong);
        }
        Ok(verdict)
    }

    fn is_end(&self, position: u64) -> bool {
        position >= self.frame.zeros_from.unwrap_or(self.len).min(self.len)
    }

    fn successor(&self, position: u64) -> io::Result<Successor> {
        if self.is_end(position) {
            let end = if self.damaged { Successor::Unknown } else { Successor::End(self.frame.end.map(Offset::get)) };
            return Ok(self.frame.until.map_or(end, |until| Successor::Segment(until.get())));
        }
        Ok(self.header_at(position)?.map_or(Successor::Unknown, |header| Successor::At(header.base_offset().get())))
    }

    fn header_at(&self, position: u64) -> io::Result<Option<BatchHeader>> {
        let mut bytes = [0; BatchHeader::LEN];
        if self.len.saturating_sub(position) < bytes.len() as u64 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut bytes, position)?;
        Ok(BatchHeader::parse(&bytes).ok())
    }

    /// Whether the batch at `base` stands near by as well: then this one is not where its records belong.
    fn is_copy(&mut self, base: i64, header: &BatchHeader) -> io::Result<bool> {
        if self.recent.contains(&(base, header.crc())) {
            return Ok(true);
        }
        let mut position = self.position + header.size_bytes() as u64;
        for _ in 0..COPY_REACH {
            self.looks += 1;
            if self.looks > COPY_LOOKS_MAX {
                return Ok(true);
            }
            let Some(other) = self.header_at(position)? else { break };
            if other.base_offset().get() >= base {
                return Ok(other.base_offset().get() == base && other.crc() == header.crc());
            }
            position += other.size_bytes() as u64;
        }
        Ok(false)
    }

    /// The first bytes at `position`, which are in the buffer.
    fn prefix(&self) -> Prefix {
        let mut prefix = Prefix::default();
        prefix.copy_from_slice(&self.buffer.as_ref()[self.at..self.at + size_of::<Prefix>()]);
        prefix
    }

    /// Puts the right bytes at the front of the batch in the buffer.
    fn correct(&mut self, header: &BatchHeader, prefix: Prefix) -> Flaw {
        let at = self.at;
        self.buffer.as_mut(self.have)[at..at + prefix.len()].copy_from_slice(&prefix);
        Flaw {
            positions: self.position..self.position + header.size_bytes() as u64,
            from: header.base_offset(),
            to: Some(header.next_offset()),
            kind: FlawKind::Corrected(prefix),
        }
    }

    /// What to make of the place at `position`, where no sound batch stands as it is.
    fn mend(&mut self, why: &'static str) -> io::Result<Mended> {
        let left = self.len - self.position;
        let mut sound_at = None;
        if self.load(BatchHeader::LEN)? {
            let announced = self.announced(&self.prefix());
            // Where the header is readable its checksum was tried.
            if BatchHeader::parse(&self.buffer.as_ref()[self.at..self.have]).is_err()
                && let Some(batch) = self.prove(announced)?
            {
                return Ok(batch);
            }
            if let Some(flaw) = self.legacy()? {
                return Ok(Mended::Not(flaw));
            }
            sound_at = self.search(announced)?;
            // The length may be all that is wrong.
            let size = sound_at.as_ref().map_or(left, |(at, _)| at - self.position);
            if Some(size) != announced
                && let Some(batch) = self.prove(Some(size))?
            {
                return Ok(batch);
            }
        }
        let to = sound_at.as_ref().map(|(_, header)| header.base_offset());
        let end = sound_at.map_or(self.len, |(at, _)| at);
        let to = to.or(self.frame.until.filter(|until| until.get() >= self.expected));
        let (positions, from) = (self.position..end, Offset::new(self.expected));
        let why = if self.file.has_lost(&positions) { UNREADABLE } else { why };
        let flaw = Flaw { positions, from, to, kind: FlawKind::Damaged(why) };
        Ok(Mended::Not(flaw))
    }

    /// How long the batch at the front of the buffer says it is.
    fn announced(&self, prefix: &Prefix) -> Option<u64> {
        BatchHeader::announced_size(prefix).ok().map(|size| size as u64)
    }

    /// The batch at `position` if its checksum says that only fields outside it are wrong, and it is `size` bytes
    /// long.
    fn prove(&mut self, size: Option<u64>) -> io::Result<Option<Mended>> {
        let possible = BatchHeader::LEN as u64..=self.len - self.position;
        let Some(size) = size.filter(|size| possible.contains(size)) else { return Ok(None) };
        let mut bytes = [0; BatchHeader::LEN];
        bytes.copy_from_slice(&self.buffer.as_ref()[self.at..self.at + BatchHeader::LEN]);
        let mut base = [0; 8];
        base.copy_from_slice(&bytes[..8]);
        bytes[..8].copy_from_slice(&self.expected.to_be_bytes());
        let Ok(length) = i32::try_from(size - BatchHeader::PREFIX_LEN as u64) else { return Ok(None) };
        bytes[8..BatchHeader::PREFIX_LEN].copy_from_slice(&length.to_be_bytes());
        bytes[BatchHeader::MAGIC_AT] = 2;
        let Ok(header) = BatchHeader::parse(&bytes) else { return Ok(None) };
        if !self.try_crc(self.position, &header)? {
            return Ok(None);
        }
        self.load(header.size_bytes())?;
        let mut prefix = Prefix::default();
        prefix.copy_from_slice(&bytes[..size_of::<Prefix>()]);
        prefix[..8].copy_from_slice(&base);
        let base = i64::from_be_bytes(base);
        let header = match base >= 0 && base.checked_add(i64::from(header.last_offset_delta())).is_some() {
            true => header.placed(Offset::new(base), header.leader_epoch()),
            false => header,
        };
        match self.placed(base, header, Some(prefix))? {
            Next::Batch(header, prefix) => Ok(Some(Mended::Batch(header, prefix))),
            Next::Damage(_) | Next::End => Ok(None),
        }
    }

    /// Messages of format 0 or 1 from `position` on.
    fn legacy(&mut self) -> io::Result<Option<Flaw>> {
        let (mut position, mut next, mut magic) = (self.position, None, 0);
        while let Some((size, offset, format)) = self.message_at(position)? {
            if offset < next.unwrap_or(self.frame.base.get()) {
                break;
            }
            (position, next, magic) = (position + size, Some(offset.saturating_add(1)), format);
        }
        let Some(next) = next else { return Ok(None) };
        let to = Some(Offset::new(next));
        let (positions, from) = (self.position..position, Offset::new(self.expected));
        self.expected = next;
        Ok(Some(Flaw { positions, from, to, kind: FlawKind::Legacy(magic) }))
    }

    /// Size, offset and format of the sound message of an old format at `position`.
    fn message_at(&mut self, position: u64) -> io::Result<Option<(u64, i64, u8)>> {
        let mut prefix = Prefix::default();
        if self.len.saturating_sub(position) < prefix.len() as u64 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut prefix, position)?;
        let magic = prefix[BatchHeader::MAGIC_AT];
        let Some(size) = self.announced(&prefix).filter(|&size| size <= self.len - position) else { return Ok(None) };
        if magic > 1 || !self.tried.may(position, size) {
            return Ok(None);
        }
        // The checksum stands between length and magic, and is over all that follows.
        let stored = u32::from_be_bytes([prefix[12], prefix[13], prefix[14], prefix[15]]);
        let mut crc = Crc32::default();
        each_chunk(self.file, position + BatchHeader::MAGIC_AT as u64..position + size, |bytes| crc.add(bytes))?;
        if crc.sum() != stored {
            self.tried.failed(position, size);
            return Ok(None);
        }
        let mut offset = [0; 8];
        offset.copy_from_slice(&prefix[..8]);
        Ok(Some((size, i64::from_be_bytes(offset), magic)))
    }

    /// The next sound batch behind the damage at `position`, and where it is.
    fn search(&mut self, announced: Option<u64>) -> io::Result<Option<(u64, BatchHeader)>> {
        if let Some(at) = announced.and_then(|size| self.position.checked_add(size))
            && let Some(header) = self.sound_at(at)?
        {
            return Ok(Some((at, header)));
        }
        // Damage says nothing of where the next batch begins: any byte may be its first.
        let (mut position, mut want) = (self.position + 1, SEARCH_BYTES);
        let mut window = self.buffers.take(SEARCH_BYTES);
        while self.len.saturating_sub(position) >= BatchHeader::LEN as u64 {
            let have = usize::try_from(self.len - position).unwrap_or(usize::MAX).min(want);
            window.grow(have);
            self.file.read_exact_at(window.as_mut(have), position)?;
            let last = have - BatchHeader::LEN;
            for place in 0..=last {
                // Nearly every place fails here.
                if window.as_ref()[place + BatchHeader::MAGIC_AT] == 2
                    && let Ok(header) = BatchHeader::parse(&window.as_ref()[place..have])
                    && self.may_follow(&header)
                    && let Some(header) = self.sound_at(position + place as u64)?
                {
                    return Ok(Some((position + place as u64, header)));
                }
            }
            position += last as u64 + 1;
            want = (want * 2).min(CHUNK_BYTES);
        }
        Ok(None)
    }

    /// Whether a batch may stand somewhere behind `expected`.
    fn may_follow(&self, header: &BatchHeader) -> bool {
        header.base_offset().get() >= self.expected
            && header.last_offset() - self.frame.base <= i64::from(i32::MAX)
            && self.frame.until.is_none_or(|until| header.next_offset() <= until)
    }

    /// The header of the sound batch at `position`, if one stands there that may follow.
    fn sound_at(&mut self, position: u64) -> io::Result<Option<BatchHeader>> {
        let Some(header) = self.header_at(position)? else { return Ok(None) };
        if !self.may_follow(&header) || !self.try_crc(position, &header)? {
            return Ok(None);
        }
        match self.successor(position + header.size_bytes() as u64)? {
            Successor::At(next) | Successor::Segment(next) if next < header.next_offset().get() => {
                self.tried.failed(position, header.size_bytes() as u64);
                Ok(None)
            }
            _ => Ok(Some(header)),
        }
    }

    /// Whether the bytes at `position` match the checksum of `header`. Needs little memory, whatever size it
    /// announces; answers "no" to what would be one check too many.
    fn try_crc(&mut self, position: u64, header: &BatchHeader) -> io::Result<bool> {
        let size = header.size_bytes() as u64;
        if position.saturating_add(size) > self.len || !self.tried.may(position, size) {
            return Ok(false);
        }
        let matches = crc_matches(self.file, position, header)?;
        if !matches {
            self.tried.failed(position, size);
        }
        Ok(matches)
    }
}

/// Whether the bytes at `position`, which the file holds, match the checksum of `header`. Needs little memory.
pub(super) fn crc_matches(file: &dyn File, position: u64, header: &BatchHeader) -> io::Result<bool> {
    let mut crc = 0;
    let covered = position + BatchHeader::CRC_COVERS_FROM as u64..position + header.size_bytes() as u64;
    each_chunk(file, covered, |bytes| crc = crc32c::crc32c_append(crc, bytes))?;
    Ok(crc == header.crc())
}

fn each_chunk(file: &dyn File, range: std::ops::Range<u64>, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut chunk = [0; 16 << 10];
    let mut at = range.start;
    while at < range.end {
        let part = (range.end - at).min(chunk.len() as u64);
        let bytes = &mut chunk[..part as usize];
        file.read_exact_at(bytes, at)?;
        each(bytes);
        at += part;
    }
    Ok(())
}

/// Keeps false batch headers from costing a checksum of the same bytes again and again: of those that overlap,
/// two of each size class (a power of two) are tried. So each byte is summed at most 64 times in vain, and a false
/// header can hide a sound batch only from a search that begins within its own length before it.
#[derive(Default)]
struct Tried([[u64; 2]; 32]);

impl Tried {
    fn ends(&mut self, size: u64) -> &mut [u64; 2] {
        let class = size.max(1).ilog2().min(31);
        &mut self.0[class as usize]
    }

    fn may(&mut self, position: u64, size: u64) -> bool {
        self.ends(size).iter().any(|&end| end <= position)
    }

    fn failed(&mut self, position: u64, size: u64) {
        let ends = self.ends(size);
        let slot = usize::from(ends[0] > ends[1]);
        ends[slot] = position + size;
    }
}

/// The CRC-32 of the old message formats (IEEE 802.3), which nothing else here needs.
struct Crc32(u32);

impl Default for Crc32 {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Crc32 {
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 ^= u32::from(byte);
            for _ in 0..8 {
                self.0 = (self.0 >> 1) ^ (0xedb8_8320 & (self.0 & 1).wrapping_neg());
            }
        }
    }

    fn sum(&self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::record::{Record, RecordBatch};
    use crate::storage::Map;
    use crate::types::Timestamp;

    /// Counts the bytes that are read.
    #[derive(Debug)]
    struct Counting(Vec<u8>, AtomicU64);

    impl File for Counting {
        fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
            let left = self.0.get(position as usize..).unwrap_or_default();
            let len = left.len().min(buf.len());
            buf[..len].copy_from_slice(&left[..len]);
            self.1.fetch_add(len as u64, Ordering::Relaxed);
            Ok(len)
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn write_vectored_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }

        fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn set_len(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn len(&self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }

        fn map(&self, _: u64) -> io::Result<Box<dyn Map>> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn batch(base: i64) -> Vec<u8> {
        let mut builder = RecordBatch::builder();
        builder.push(Timestamp::new(1), &Record::new("v")).unwrap();
        let batch = builder.finish().unwrap().stamped(Offset::new(base), LeaderEpoch::new(0)).unwrap();
        batch.as_bytes().to_vec()
    }

    /// The header of a batch at `base` with a wrong checksum, which says that it is `size` bytes long.
    fn fake(base: i64, size: usize) -> Vec<u8> {
        let mut header = batch(base)[..BatchHeader::LEN].to_vec();
        let length = i32::try_from(size - BatchHeader::PREFIX_LEN).unwrap();
        header[8..12].copy_from_slice(&length.to_be_bytes());
        header
    }

    /// The base offsets of the batches found, the offsets of the flaws, and how often each byte was read.
    fn walked(bytes: Vec<u8>) -> (Vec<i64>, Vec<i64>, u64) {
        let len = bytes.len() as u64;
        let file = Counting(bytes, AtomicU64::new(0));
        let frame = Frame { base: Offset::ZERO, until: None, end: None, zeros_from: None, compacted: false };
        let (mut batches, mut flaws) = (Vec::new(), Vec::new());
        walk(&file, 0, len, Offset::ZERO, frame, &BufferPool::default(), |found| {
            match found {
                Found::Batch(_, header, _) => batches.push(header.base_offset().get()),
                Found::Flaw(flaw) => flaws.push(flaw.from.get()),
            }
            true
        })
        .unwrap();
        (batches, flaws, file.1.into_inner() / len)
    }

    #[test]
    fn false_headers_cost_no_more_than_the_bound() {
        let mut file = batch(0);
        while file.len() < 1 << 20 {
            let left = (1 << 20) + 200 - file.len();
            file.extend_from_slice(&fake(1, left));
        }
        file.extend_from_slice(&batch(9));
        let (batches, flaws, reads) = walked(file);
        assert_eq!((batches, flaws), (vec![0, 9], vec![1]), "the sound batch behind them is found");
        assert!(reads < 64, "each byte was read {reads} times");
    }

    #[test]
    fn damage_at_every_other_batch_costs_no_more_than_the_bound() {
        let (mut file, mut base) = (Vec::new(), 0);
        while file.len() < 1 << 20 {
            file.extend_from_slice(&batch(base));
            file.extend_from_slice(&fake(base + 1, 1 << 19));
            base += 2;
        }
        let (batches, flaws, reads) = walked(file);
        assert_eq!((batches.len(), flaws.len()), (base as usize / 2, base as usize / 2));
        assert!(reads < 128, "each byte was read {reads} times");
    }

    #[test]
    fn copies_of_batches_are_not_taken_for_others() {
        let of = |bases: &[i64]| bases.iter().flat_map(|&base| batch(base)).collect::<Vec<_>>();
        for (file, sound) in [
            (of(&[0, 1, 1, 3]), vec![0, 1, 3]),
            (of(&[0, 0, 2, 3]), vec![0, 2, 3]),
            (of(&[0, 2, 2, 3]), vec![0, 2, 3]),
            (of(&[0, 1, 2, 3, 1]), vec![0, 1, 2, 3]),
            (of(&[0, 3, 2, 3]), vec![0, 2, 3]),
        ] {
            let (batches, flaws, _) = walked(file);
            assert_eq!((&batches, flaws.len()), (&sound, 1), "{batches:?}");
        }
        // A flipped bit is no copy.
        let (batches, flaws, _) = walked(of(&[0, 1, 2 + (1 << 20), 3]));
        assert_eq!((batches, flaws), (vec![0, 1, 2, 3], vec![2]));
    }

    #[test]
    fn the_checksum_of_old_formats_is_that_of_zip_files() {
        let mut crc = Crc32::default();
        crc.add(b"123456789");
        assert_eq!(crc.sum(), 0xcbf4_3926);
    }
}

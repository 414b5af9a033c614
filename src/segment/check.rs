//! Whether the index files that another program left beside a segment tell the truth, judged entry by entry while
//! the segment's batches go by. An entry is right when a reader that trusts it misses nothing; how dense the
//! entries are, and which batch of an append each names, differs between releases and is nobody's fault.
//!
//! Files are streamed: one of any length costs a small buffer.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Buf;

use crate::error::{Error, Result};
use crate::index::{AbortedTxn, TxnEnd};
use crate::record::BatchHeader;
use crate::storage::{File, OpenMode, Storage};
use crate::types::{Offset, Timestamp};

/// What is wrong with a file.
pub(super) type Fault = &'static str;

const MISSING: Fault = "it is missing";
const CUT: Fault = "it ends inside an entry";
const FALLS: Fault = "its entries do not rise";
const NOT_VERSION_0: Fault = "an entry is not of version 0";
const SURPLUS: Fault = "an entry names no aborted transaction";
/// What a stock broker leaves of the segment that it was writing when it was killed.
const PADDED: Fault = "it is padded with zeros";
const NOT_LARGEST: Fault = "its last entry is not the largest timestamp";

/// Whether a broker that is killed leaves the files of its active segment so.
pub(super) fn is_unfinished(fault: Fault) -> bool {
    [PADDED, NOT_LARGEST].contains(&fault)
}

/// An index without entries is no fault where no more are due: it costs readers little.
const MISSED_MAX: usize = 4;

/// Aborted transactions of one segment whose markers are lost and still believed.
const LOST_MAX: usize = 1 << 16;

/// Entries read at once.
const ENTRIES_AT_ONCE: u64 = 512;

/// The entries of one file, `N` bytes each.
#[derive(Debug)]
struct Entries<const N: usize> {
    path: PathBuf,
    file: Option<Arc<dyn File>>,
    at: u64,
    len: u64,
    chunk: Vec<u8>,
    used: usize,
}

impl<const N: usize> Entries<N> {
    fn open(storage: &dyn Storage, path: PathBuf) -> Result<Self> {
        let failed = |e| Error::io("cannot read an index", &path, e);
        let file = match storage.open(&path, OpenMode::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened.map_err(failed)?),
        };
        let len = file.as_ref().map_or(Ok(0), |file| file.len()).map_err(failed)?;
        Ok(Self { path, file, at: 0, len, chunk: Vec::new(), used: 0 })
    }

    fn next(&mut self) -> Result<Option<[u8; N]>> {
        if self.used == self.chunk.len() {
            let whole = (self.len - self.at) / N as u64;
            let Some(file) = self.file.as_ref().filter(|_| whole > 0) else { return Ok(None) };
            self.chunk.resize(whole.min(ENTRIES_AT_ONCE) as usize * N, 0);
            file.read_exact_at(&mut self.chunk, self.at)
                .map_err(|e| Error::io("cannot read an index", &self.path, e))?;
            self.at += self.chunk.len() as u64;
            self.used = 0;
        }
        let entry = self.chunk[self.used..].first_chunk().copied();
        self.used += N;
        Ok(entry)
    }

    /// What can be said of the file before any entry is read.
    fn fault(&self) -> Option<Fault> {
        match &self.file {
            None => Some(MISSING),
            Some(_) => (!self.len.is_multiple_of(N as u64)).then_some(CUT),
        }
    }
}

/// Of an `.index` file.
#[derive(Debug)]
pub(super) struct OffsetCheck {
    base: Offset,
    entries: Entries<8>,
    next: Option<(Offset, u64)>,
    last: Option<(u32, u32)>,
    fault: Option<Fault>,
}

impl OffsetCheck {
    pub(super) fn open(storage: &dyn Storage, path: PathBuf, base: Offset) -> Result<Self> {
        let entries = Entries::open(storage, path)?;
        let mut check = Self { base, fault: entries.fault(), entries, next: None, last: None };
        check.advance()?;
        Ok(check)
    }

    fn advance(&mut self) -> Result<()> {
        self.next = None;
        if self.fault.is_some() {
            return Ok(());
        }
        let Some(entry) = self.entries.next()? else { return Ok(()) };
        let mut entry = &entry[..];
        let (offset, position) = (entry.get_u32(), entry.get_u32());
        let (above, behind) = self.last.map_or((None, 0), |(offset, position)| (Some(offset), position));
        if i32::try_from(offset).is_err() || above.is_some_and(|above| offset <= above) || position <= behind {
            self.fault = Some(if (offset, position) == (0, 0) { PADDED } else { FALLS });
        } else {
            self.last = Some((offset, position));
            self.next = Some((self.base + i64::from(offset), u64::from(position)));
        }
        Ok(())
    }

    pub(super) fn on_batch(&mut self, position: u64, header: &BatchHeader) -> Result<()> {
        match self.next {
            Some((_, at)) if at < position => self.fault = Some("an entry points into a batch"),
            Some((offset, at)) if at == position && offset < header.base_offset() => {
                self.fault = Some("an entry points behind the batch that it names");
            }
            Some((_, at)) if at == position => return self.advance(),
            _ => return Ok(()),
        }
        self.next = None;
        Ok(())
    }

    /// The verdict, of a segment that ends before `end` and in which so many entries are `due`.
    pub(super) fn finish(&self, end: Offset, due: usize) -> Option<Fault> {
        let last = self.last.map(|(offset, _)| self.base + i64::from(offset));
        self.fault.or(match last {
            _ if self.next.is_some() => Some("an entry points beyond the log"),
            Some(last) if last >= end => Some("an entry names an offset beyond the segment"),
            // A broker counts the bytes between entries anew when it is restarted: a few may be missing.
            None if due > MISSED_MAX => Some("it is empty"),
            _ => None,
        })
    }
}

/// Of a `.timeindex` file.
#[derive(Debug)]
pub(super) struct TimeCheck {
    base: Offset,
    entries: Entries<12>,
    next: Option<(i64, Offset)>,
    last: (i64, u32),
    largest: i64,
    fault: Option<Fault>,
}

impl TimeCheck {
    pub(super) fn open(storage: &dyn Storage, path: PathBuf, base: Offset) -> Result<Self> {
        let entries = Entries::open(storage, path)?;
        let none = Timestamp::NONE.get();
        let mut check = Self { base, fault: entries.fault(), entries, next: None, last: (none, 0), largest: none };
        check.advance()?;
        Ok(check)
    }

    fn advance(&mut self) -> Result<()> {
        self.next = None;
        if self.fault.is_some() {
            return Ok(());
        }
        let Some(entry) = self.entries.next()? else { return Ok(()) };
        let mut entry = &entry[..];
        let (timestamp, offset) = (entry.get_i64(), entry.get_u32());
        if timestamp <= self.last.0 || offset < self.last.1 || i32::try_from(offset).is_err() {
            self.fault = Some(if (timestamp, offset) == (0, 0) { PADDED } else { FALLS });
        } else {
            self.last = (timestamp, offset);
            self.next = Some((timestamp, self.base + i64::from(offset)));
        }
        Ok(())
    }

    pub(super) fn on_batch(&mut self, header: &BatchHeader) -> Result<()> {
        let before = self.largest;
        self.largest = before.max(header.max_timestamp().get());
        while let Some((timestamp, offset)) = self.next
            && offset <= header.last_offset()
        {
            // An offset in a hole that compaction left speaks of what lies before it.
            let seen = if offset < header.base_offset() { before } else { self.largest };
            if timestamp < seen {
                self.fault = Some(self.or_padded("newer records lie before an entry's offset"));
            }
            self.advance()?;
        }
        Ok(())
    }

    /// The verdict, of a segment that takes no more batches.
    pub(super) fn finish(&self) -> Option<Fault> {
        self.fault.or(match self.next {
            Some(_) => Some(self.or_padded("an entry names an offset beyond the segment")),
            None if self.last.0 != self.largest => Some(NOT_LARGEST),
            None => None,
        })
    }

    /// Padding from the first entry on looks like an entry once.
    fn or_padded(&self, fault: Fault) -> Fault {
        if self.next == Some((0, self.base)) { PADDED } else { fault }
    }
}

/// Of a `.txnindex` file.
#[derive(Debug)]
pub(crate) struct AbortedCheck {
    entries: Entries<34>,
    next: Option<AbortedTxn>,
    /// Entries whose marker would stand where no batch does.
    lost: Vec<AbortedTxn>,
    fault: Option<Fault>,
}

impl AbortedCheck {
    pub(super) fn open(storage: &dyn Storage, path: PathBuf) -> Result<Self> {
        let entries = Entries::open(storage, path)?;
        // Without aborted transactions there is no such file.
        let fault = entries.fault().filter(|&fault| fault != MISSING);
        let mut check = Self { fault, entries, next: None, lost: Vec::new() };
        check.advance()?;
        Ok(check)
    }

    fn advance(&mut self) -> Result<()> {
        self.next = None;
        if self.fault.is_some() {
            return Ok(());
        }
        let Some(entry) = self.entries.next()? else { return Ok(()) };
        self.next = AbortedTxn::decode(&entry);
        if self.next.is_none() {
            self.fault = Some(NOT_VERSION_0);
        }
        Ok(())
    }

    /// The next batch of this segment, before `on_end` where it is a marker.
    pub(crate) fn on_batch(&mut self, header: &BatchHeader) -> Result<()> {
        self.lose_below(header.base_offset())
    }

    fn lose_below(&mut self, end: Offset) -> Result<()> {
        while let Some(entry) = self.next.filter(|entry| entry.last_offset < end) {
            let rises = self.lost.last().is_none_or(|last| last.last_offset < entry.last_offset);
            if !rises || entry.first_offset > entry.last_offset || self.lost.len() == LOST_MAX {
                self.fault = Some(SURPLUS);
                self.next = None;
                return Ok(());
            }
            self.lost.push(entry);
            self.advance()?;
        }
        Ok(())
    }

    /// A marker of this segment; answers the entry for it.
    pub(crate) fn on_end(&mut self, end: &TxnEnd) -> Result<Option<AbortedTxn>> {
        let Some(entry) = self.next.filter(|entry| entry.last_offset <= end.marker) else {
            if end.aborted.is_some() {
                self.fault.get_or_insert("an aborted transaction is missing");
            }
            return Ok(None);
        };
        // Records that retention or compaction took may have begun the transaction, but none of an earlier one.
        let (first, stable) = match end.aborted {
            Some(aborted) => (aborted.first_offset, aborted.last_stable_offset),
            None => (end.marker, end.last_stable_offset),
        };
        let names_it = end.is_abort && entry.last_offset == end.marker && entry.producer_id == end.producer_id;
        let fits = (end.data_before..=first).contains(&entry.first_offset) && entry.last_stable_offset <= stable;
        if !names_it || !fits {
            self.fault = Some(SURPLUS);
        }
        if names_it {
            let next = self.entries.next()?.and_then(|next| AbortedTxn::decode(&next));
            self.next = next;
        } else {
            self.next = None;
        }
        Ok(names_it.then_some(entry))
    }

    /// The verdict on a segment that ends at `end`. What its file holds beyond may be `ours`.
    pub(crate) fn finish(&mut self, end: Offset, ours: bool) -> Result<Option<Fault>> {
        self.lose_below(end)?;
        let surplus = !self.lost.is_empty() || (self.next.is_some() && !ours);
        Ok(self.fault.or(surplus.then_some(SURPLUS)))
    }

    /// Whether what it holds are entries.
    pub(crate) fn is_readable(&self) -> bool {
        self.fault.is_none_or(|fault| fault != CUT && fault != NOT_VERSION_0)
    }

    /// The entries whose markers are not there, from `base` on: in a segment with damage their markers may have been.
    pub(crate) fn lost(&self, base: Offset) -> impl Iterator<Item = AbortedTxn> + '_ {
        self.lost.iter().copied().filter(move |entry| entry.last_offset >= base)
    }
}

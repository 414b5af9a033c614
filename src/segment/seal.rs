//! What a segment held when it ended, in a small file of our own beside it: evidence that tells rot from an
//! unfinished write, and a segment that is gone from one that never was. Without it nothing is lost but that.
//!
//! ```text
//! BASE.seal, 72 bytes: magic "thalweg seal" | CRC-32C u32 of what follows | version u32
//!     | first offset i64 | end offset i64 | size u64 | batches u32 | max timestamp i64 | digest u32
//!     | size u32 and CRC-32C u32 of the transaction index, empty or not | flags u32: 1 where other batches were found
//! ```
//!
//! The digest is the CRC-32C of the fields of all batch headers that no batch checksum covers, and of these checksums:
//! with them it covers every byte, and costs 17 bytes of checksum a batch as they are appended. The leader epoch is
//! left out: it is judged, and served corrected, by the list of epochs.

use std::io;
use std::sync::atomic::Ordering;

use bytes::{Buf, BufMut};

use super::{FileKind, Flaw, FlawKind, Patient, Segment, Survey};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind};
use crate::record::BatchHeader;
use crate::storage::{OpenMode, place_file, read_file};
use crate::types::{Offset, Timestamp};

const MAGIC: &[u8; 12] = b"thalweg seal";
/// Version 1 had zeros in the place of the transaction index: nothing is known of it.
const VERSION: u32 = 2;
const CHECKED_AT: usize = MAGIC.len() + 4;
const SEAL_LEN: usize = CHECKED_AT + 4 + 8 + 8 + 8 + 4 + 8 + 4 + 12;

const CONDEMNED: u32 = 1;

/// Longest seal of any release.
const BYTES_MAX: u64 = 4096;

/// A running account of a segment's batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    base: Offset,
    /// The offset behind the last batch.
    pub(crate) end: Offset,
    pub(crate) size: u64,
    batches: u32,
    max_timestamp: Timestamp,
    digest: u32,
}

impl Tally {
    pub(super) fn new(base: Offset) -> Self {
        Self { base, end: base, size: 0, batches: 0, max_timestamp: Timestamp::NONE, digest: 0 }
    }

    /// With the batch at `position`; `None` when that is not where the last one ended.
    pub(super) fn with(mut self, position: u64, header: &BatchHeader) -> Option<Self> {
        if position != self.size {
            return None;
        }
        let mut fields = [0; 17];
        let mut out = &mut fields[..];
        out.put_i64(header.base_offset().get());
        out.put_u32(u32::try_from(header.size_bytes()).ok()?);
        out.put_u8(2);
        out.put_u32(header.crc());
        self.digest = crc32c::crc32c_append(self.digest, &fields);
        self.size += header.size_bytes() as u64;
        self.end = header.next_offset();
        self.batches = self.batches.saturating_add(1);
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp());
        Some(self)
    }
}

/// All that a seal holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    tally: Tally,
    aborted: Option<Digest>,
    /// The segment was found to hold other batches: sound ones, so that only a look at all of them tells.
    condemned: bool,
}

/// What tells a small file from any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digest {
    size: u32,
    crc: u32,
}

impl Digest {
    fn of(bytes: &[u8]) -> Self {
        Self { size: u32::try_from(bytes.len()).unwrap_or(u32::MAX), crc: crate::wire::crc32c(bytes) }
    }
}

impl Facts {
    fn encode(&self) -> Vec<u8> {
        let Self { tally, aborted, condemned } = self;
        let mut facts = Vec::with_capacity(SEAL_LEN - CHECKED_AT);
        facts.put_u32(if aborted.is_some() { VERSION } else { 1 });
        facts.put_i64(tally.base.get());
        facts.put_i64(tally.end.get());
        facts.put_u64(tally.size);
        facts.put_u32(tally.batches);
        facts.put_i64(tally.max_timestamp.get());
        facts.put_u32(tally.digest);
        let Digest { size, crc } = aborted.unwrap_or(Digest { size: 0, crc: 0 });
        facts.put_u32(size);
        facts.put_u32(crc);
        facts.put_u32(u32::from(*condemned) * CONDEMNED);
        let mut seal = Vec::with_capacity(SEAL_LEN);
        seal.put_slice(MAGIC);
        seal.put_u32(crate::wire::crc32c(&facts));
        seal.put_slice(&facts);
        seal
    }

    /// `None` for what a crash left of a seal, or of another segment.
    fn decode(bytes: &[u8], base: Offset) -> Result<Option<Self>> {
        let Some(mut rest) = bytes.strip_prefix(MAGIC).filter(|rest| rest.len() >= 8) else { return Ok(None) };
        if rest.get_u32() != crate::wire::crc32c(&bytes[CHECKED_AT..]) {
            return Ok(None);
        }
        let version = rest.get_u32();
        if version > VERSION {
            let why = format!("a seal has version {version}, this release reads up to {VERSION}");
            let remedy = "open the directory with the release that wrote it, or remove the seal: nothing depends on it";
            return Err(Error::new(ErrorKind::Unsupported, why).remedy(remedy));
        }
        if bytes.len() != SEAL_LEN || version == 0 {
            return Ok(None);
        }
        let tally = Tally {
            base: rest.get_i64().into(),
            end: rest.get_i64().into(),
            size: rest.get_u64(),
            batches: rest.get_u32(),
            max_timestamp: Timestamp::new(rest.get_i64()),
            digest: rest.get_u32(),
        };
        let digest = Digest { size: rest.get_u32(), crc: rest.get_u32() };
        let (aborted, condemned) = (Some(digest).filter(|_| version > 1), rest.get_u32() & CONDEMNED != 0);
        Ok(Some(Self { tally, aborted, condemned }).filter(|_| tally.base == base && tally.end > base))
    }
}

/// What the seal of a segment at `base` says, written again; `None` for what is none.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn rewritten_seal(bytes: &[u8], base: Offset) -> Result<Option<Vec<u8>>> {
    Ok(Facts::decode(bytes, base)?.map(|facts| facts.encode()))
}

/// `data` as what a seal says of its segment, behind a front that fits.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn repaired_seal(data: &[u8]) -> Vec<u8> {
    let mut facts = data.get(CHECKED_AT..).unwrap_or_default().to_vec();
    facts.resize(SEAL_LEN - CHECKED_AT, 0);
    [&MAGIC[..], &crate::wire::crc32c(&facts).to_be_bytes(), &facts].concat()
}

/// What a seal says against its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// It is shorter or longer than it was.
    Size,
    /// It has its length, and sound batches that are not those which were sealed.
    Content,
}

impl Segment {
    /// Says that a seal lies beside the segment, which nobody compared with it yet.
    pub(crate) fn set_sealed(&self) {
        self.sealed.store(true, Ordering::Release);
        self.unproven.store(true, Ordering::Release);
    }

    /// Whether a seal lies beside the segment.
    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Writes the seal of a segment that has ended, all of which is synced. One that there is no space for, or whose
    /// batches are not all sound, gets none; nor does one of which `may` says so, when its headers are read and after.
    pub(crate) fn seal(&self, may: impl Fn() -> bool) -> Result<()> {
        let cuts = self.cuts.load(Ordering::Acquire);
        let is_damaged = |known: &Survey| known.flaws().iter().any(|flaw| flaw.kind.is_unreadable());
        let is_due =
            || self.until().is_some() && !self.is_sealed() && self.cuts.load(Ordering::Acquire) == cuts && may();
        if !is_due() || self.known().is_some_and(|known| is_damaged(&known)) {
            return Ok(());
        }
        // Whoever cuts or removes it does not wait for that.
        let tally = self.tally(&may);
        let removed = self.removed.lock();
        if *removed || !is_due() {
            return Ok(());
        }
        let Some(tally) = tally?.filter(|tally| tally.size == self.written() && tally.size > 0) else {
            return Ok(());
        };
        match self.load_aborted() {
            Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(()),
            loaded => loaded?,
        }
        let aborted = self.aborted.read().as_ref().map(|aborted| Digest::of(&aborted.encode()));
        let seal = Facts { tally, aborted, condemned: false }.encode();
        let (storage, path) = (&*self.home.storage, self.path(FileKind::Seal));
        let written = storage.open(&path, OpenMode::CreateIfAbsent).and_then(|file| {
            file.write_all_at(&seal, 0)?;
            file.set_len(SEAL_LEN as u64)?;
            Ok(file)
        });
        match written {
            Ok(file) => {
                file.sync_data().map_err(|e| Error::unsynced(path, e))?;
                self.sealed.store(true, Ordering::Release);
                Ok(())
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                self.remove(FileKind::Seal)
            }
            Err(e) => Err(Error::io("cannot seal a segment", path, e)),
        }
    }

    /// The account of the batches that were indexed since the segment began.
    pub(crate) fn kept_tally(&self) -> Option<Tally> {
        self.indexes.read().as_ref().and_then(|indexes| indexes.tally)
    }

    /// The account of all batches: kept since the segment began, or else from one look at the headers, as long as it `may`.
    fn tally(&self, may: impl Fn() -> bool) -> Result<Option<Tally>> {
        let kept = self.kept_tally();
        if kept.is_some_and(|tally| tally.size == self.written()) {
            return Ok(kept);
        }
        let (file, base) = (Patient::new(&**self.file()?), (self.base, self.home.compacted));
        let mut tally = Some(Tally::new(self.base));
        let is_sound =
            super::headers::headers(&file, self.written(), base, &self.home.buffers, |position, header, _| {
                tally = tally.filter(|_| may()).and_then(|tally| tally.with(position, header));
                tally.is_some()
            });
        let is_sound = is_sound.map_err(|e| self.io_error("cannot read a segment", e))?;
        Ok(tally.filter(|_| is_sound))
    }

    fn facts(&self) -> Result<Option<Facts>> {
        if !self.sealed.load(Ordering::Acquire) {
            return Ok(None);
        }
        let path = self.path(FileKind::Seal);
        match read_file(&*self.home.storage, &path, BYTES_MAX) {
            Ok(bytes) => Facts::decode(&bytes.unwrap_or_default(), self.base).map_err(|e| e.path(path)),
            // It is evidence, and nothing else hangs on it.
            Err(_) => Ok(None),
        }
    }

    /// What the segment's seal says of its batches; `None` when there is none that can be read.
    pub(crate) fn evidence(&self) -> Result<Option<Tally>> {
        Ok(self.facts()?.map(|facts| facts.tally))
    }

    /// Whether the segment was sealed with a transaction index of other bytes.
    pub(super) fn breaks_seal(&self, aborted: &[u8]) -> Result<bool> {
        let sealed = self.facts()?.and_then(|facts| facts.aborted);
        Ok(sealed.is_some_and(|sealed| sealed != Digest::of(aborted)))
    }

    /// Has the seal name the transaction index of these bytes, which the batches gave.
    pub(super) fn seal_anew(&self, aborted: &[u8]) -> Result<()> {
        // Whoever is at sealing it may still name what was there before.
        let removed = self.removed.lock();
        let (Some(facts), aborted) = (self.facts()?.filter(|_| !*removed), Some(Digest::of(aborted))) else {
            return Ok(());
        };
        if facts.aborted == aborted {
            return Ok(());
        }
        place_file(&*self.home.storage, &self.path(FileKind::Seal), &Facts { aborted, ..facts }.encode())
    }

    /// Compares the file's length with the seal, once; a survey finds what is missing.
    pub(crate) fn prove(&self) -> Result<()> {
        if !self.unproven.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(Facts { tally, condemned, .. }) = self.facts()? {
            self.pass_over_excess(&tally);
            if condemned || tally.size > self.written() {
                self.survey()?;
            }
        }
        self.unproven.store(false, Ordering::Release);
        Ok(())
    }

    /// Bytes behind the end of what was sealed are not ours; answers whether there were any.
    pub(crate) fn pass_over_excess(&self, sealed: &Tally) -> bool {
        let excess = self.written().saturating_sub(sealed.size);
        if excess > 0 {
            let words = format!("{excess} bytes behind the end of a sealed segment are passed over");
            let finding = Finding::new(FindingKind::Damaged, words).partition(self.home.partition.clone());
            self.home.findings.add(finding.offsets(sealed.end..sealed.end).path(self.path(FileKind::Log)));
            self.set_written(sealed.size);
        }
        excess > 0
    }

    /// Adds to what a walk found out what the seal has against it. `tally`: of the batches that were found.
    pub(crate) fn contradict(&self, survey: &mut Survey, tally: Option<Tally>) -> Result<Option<Broken>> {
        self.unproven.store(false, Ordering::Release);
        let Some(facts) = self.facts()? else { return Ok(None) };
        let sealed = facts.tally;
        let last = survey.flaws().iter().rfind(|flaw| flaw.kind.is_unreadable());
        if survey.len < sealed.size {
            let told = last.is_some_and(|flaw| flaw.from >= survey.end);
            if survey.end < sealed.end && !told {
                let positions = survey.len..sealed.size;
                let (from, to) = (survey.end, Some(sealed.end));
                survey.add(Flaw { positions, from, to, kind: FlawKind::Damaged("the file is shorter than it was") });
            }
            return Ok(Some(Broken::Size));
        }
        if last.is_some() {
            return Ok(None);
        }
        // An opening that scans nothing is to know it too.
        let condemned = tally != Some(sealed);
        if facts.condemned != condemned {
            let seal = Facts { condemned, ..facts }.encode();
            match place_file(&*self.home.storage, &self.path(FileKind::Seal), &seal) {
                Err(e) if e.kind() == ErrorKind::StorageFull => {}
                placed => placed?,
            }
        }
        if !condemned {
            return Ok(None);
        }
        let kind = FlawKind::Damaged("the batches are not those which the segment was sealed with");
        let whole = Flaw { positions: 0..survey.len, from: self.base, to: Some(sealed.end), kind };
        survey.replace_all(whole);
        Ok(Some(Broken::Content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each version of this file looked like, for ever readable.
    #[test]
    fn golden_files_of_all_versions_are_read() {
        let base = Offset::new(7);
        let tally = Tally {
            base,
            end: Offset::new(19),
            size: 4321,
            batches: 5,
            max_timestamp: Timestamp::new(1_700_000_000_000),
            digest: 0x1234_5678,
        };
        let versions: [(&[u8], _); 2] = [
            (include_bytes!("../../tests/data/private/seal-v1.bin"), None),
            (include_bytes!("../../tests/data/private/seal-v2.bin"), Some(Digest { size: 34, crc: 0x9abc_def0 })),
        ];
        for (golden, aborted) in versions {
            assert_eq!(Facts::decode(golden, base).unwrap(), Some(Facts { tally, aborted, condemned: false }));
            assert_eq!(Facts { tally, aborted, condemned: false }.encode(), golden);
            assert_eq!(Facts::decode(golden, Offset::new(8)).unwrap(), None, "another segment's");
        }
    }

    #[test]
    fn half_a_seal_is_none_and_a_newer_one_is_refused() {
        let base = Offset::ZERO;
        let tally = Tally { end: Offset::new(1), ..Tally::new(base) };
        let seal = Facts { tally, aborted: Some(Digest::of(&[])), condemned: false }.encode();
        assert!(Facts::decode(&seal, base).unwrap().is_some());
        for len in 0..seal.len() {
            assert_eq!(Facts::decode(&seal[..len], base).unwrap(), None, "{len}");
        }
        for at in 0..seal.len() {
            let mut flipped = seal.clone();
            flipped[at] ^= 1;
            assert_eq!(Facts::decode(&flipped, base).unwrap(), None, "{at}");
        }
        let mut newer = seal;
        newer[CHECKED_AT + 3] = 3;
        let crc = crate::wire::crc32c(&newer[CHECKED_AT..]);
        newer[MAGIC.len()..CHECKED_AT].copy_from_slice(&crc.to_be_bytes());
        let error = Facts::decode(&newer, base).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("version 3"), "{error}");
    }
}

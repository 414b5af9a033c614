//! Reading: whole batches by offset, offsets by time. Works on an immutable snapshot of the segment list and of
//! the visible end; takes no lock that the writer holds while it writes or syncs.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind};
use crate::index::AbortedTxn;
use crate::record::{BatchHeader, RecordBatch};
use crate::segment::{FileKind, Segment, SegmentRead};
use crate::types::{Isolation, Offset, RecoveryPolicy, Timestamp};

use super::scan::is_hole;
use super::transactions::{AbortedFilter, BatchKind};
use super::{Inner, LogOffsets, OffsetAtTime, RecoveryRow};

/// Whole batches read from a log.
///
/// ```
/// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
/// use thalweg::{Durability, Isolation, Log, LogConfig, Offset};
/// let log = Log::open(dir.path().join("events-0"), LogConfig::default())?;
/// let appended = log.append_records(["a", "b"])?;
/// log.wait(appended.position, Durability::PowerLoss)?;
/// let read = log.read(Offset::ZERO, 1 << 20, Isolation::ReadCommitted)?;
/// for batch in read.data_batches() {
///     for record in batch?.decode()?.iter() {
///         println!("{:?}", record?.value());
///     }
/// }
/// assert_eq!(read.next_offset(), 2);
/// log.close()?;
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LogRead {
    bytes: Bytes,
    next: Offset,
    offsets: LogOffsets,
    isolation: Isolation,
    aborted: Vec<AbortedTxn>,
}

impl LogRead {
    /// All batches, control batches and those of aborted transactions included, as stored. The first may begin
    /// before the offset that was asked for.
    pub fn batches(&self) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        let mut rest = self.bytes.clone();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            // Structure and checksum of each were checked by the read.
            let batch = BatchHeader::parse(&rest).map(|header| rest.split_to(header.size_bytes()));
            if batch.is_err() {
                rest.clear();
            }
            Some(batch.and_then(RecordBatch::from_checked))
        })
    }

    /// The batches that an application should see: no control batches and, under
    /// [`Isolation::ReadCommitted`], none of aborted transactions (KIP-98).
    pub fn data_batches(&self) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        let mut filter = AbortedFilter::new(match self.isolation {
            Isolation::ReadCommitted => self.aborted.clone(),
            Isolation::ReadUncommitted => Vec::new(),
        });
        self.batches().filter(move |batch| batch.as_ref().map_or(true, |batch| keep(&mut filter, batch)))
    }

    /// The batches' bytes, as stored.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Where the next read continues; the offset asked for when nothing was there.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// The log's offsets at the time of the read.
    #[must_use]
    pub fn offsets(&self) -> LogOffsets {
        self.offsets
    }

    /// Whether there was nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn keep(filter: &mut AbortedFilter, batch: &RecordBatch) -> bool {
    let header = batch.header();
    let kind = match (header.is_control(), header.is_transactional()) {
        (true, _) => BatchKind::Control,
        (false, true) => BatchKind::Transactional,
        (false, false) => BatchKind::Plain,
    };
    filter.keep(header.producer_id(), header.last_offset(), kind)
}

impl Inner {
    pub(super) fn read(&self, offset: Offset, max_bytes: usize, isolation: Isolation) -> Result<LogRead> {
        let mut from = offset;
        loop {
            let era = self.era();
            let read = self.read_once(from, max_bytes, isolation);
            if era != self.era() {
                // A truncation takes bytes from under a read, and others may be there that nobody is to see yet.
                from = offset;
                continue;
            }
            match read.as_ref().err().and_then(|error| self.behind(error, from, isolation)) {
                Some(sound) => from = sound,
                None => return read,
            }
        }
    }

    /// Where a read goes on that met damage at or behind `from`, under [`RecoveryPolicy::Salvage`].
    fn behind(&self, error: &Error, from: Offset, isolation: Isolation) -> Option<Offset> {
        let lost = error.at_offsets()?;
        if error.kind() != ErrorKind::Corrupt || self.config.load().recovery_policy != RecoveryPolicy::Salvage {
            return None;
        }
        // It may go on above what can be seen.
        let sound = lost.end.min(visible(self.offsets(), isolation));
        let finding = Finding::new(FindingKind::Damaged, "damaged offsets were passed over by a read").offsets(lost);
        let place = error.at_path().unwrap_or(&self.home.dir);
        self.context.findings.add(finding.partition(self.context.partition.clone()).path(place));
        (sound > from).then_some(sound)
    }

    fn read_once(&self, offset: Offset, max_bytes: usize, isolation: Isolation) -> Result<LogRead> {
        self.check_open()?;
        let offsets = self.offsets();
        self.check_range(offset, offsets)?;
        let limit = visible(offsets, isolation);
        let mut read = LogRead { bytes: Bytes::new(), next: offset, offsets, isolation, aborted: Vec::new() };
        if offset >= limit {
            return Ok(read);
        }
        self.check_missing(offset, offset.next())?;
        let segments = self.segments.load_full();
        let first = floor(&segments, offset);
        for (at, segment) in segments.iter().enumerate().skip(first) {
            if segment.base() >= limit {
                break;
            }
            if let Some(SegmentRead { bytes, next }) =
                segment.read(offset, limit, max_bytes, is_settled(segment, offsets)).map_err(|e| self.place(e))?
            {
                // The log start may have passed us meanwhile; then the segment list did, too.
                if self.marks.log_start() > offset {
                    return Err(self.out_of_range(offset, self.offsets()));
                }
                (read.bytes, read.next) = (self.with_right_epochs(bytes), next);
                if isolation == Isolation::ReadCommitted {
                    read.aborted = self.aborted_in(&read.bytes, &segments[first..], offset, next)?;
                }
                return Ok(read);
            }
            if let Some(following) = segments.get(at + 1) {
                self.check_missing(offset, following.base())?;
                self.check_hole(segment, following, offset)?;
            }
        }
        // Nothing but a hole (compacted away, or reserved) up to the visible end.
        read.next = limit;
        Ok(read)
    }

    /// Fails when one of the offsets from `offset` on lies in a segment that is gone, by its seal.
    fn check_missing(&self, offset: Offset, before: Offset) -> Result<()> {
        let missing = self.missing.load();
        let Some(gone) = missing.iter().find(|gone| offset < gone.end && gone.start < before) else { return Ok(()) };
        let remedy = format!("restore the segment, or go on reading at offset {}", gone.end);
        let error = self.error(ErrorKind::Corrupt, "the segment of these offsets is missing").offset(gone.start);
        Err(error.offsets(gone.clone()).path(FileKind::Log.path(&self.home.dir, gone.start)).remedy(remedy))
    }

    /// Fails when offsets between two segments are gone that nobody left out.
    fn check_hole(&self, segment: &Segment, following: &Segment, offset: Offset) -> Result<()> {
        if following.is_compacted() || offset >= following.base() {
            return Ok(());
        }
        let before = match segment.known() {
            Some(known) => known,
            None => segment.survey()?,
        };
        // Begun above offsets that were left out; no epoch begins there before an append.
        let rows = &self.report.rows;
        let is_ours = following.written() == 0
            && (rows.contains(&RecoveryRow::Reserved) || !rows.contains(&RecoveryRow::DamagedTail));
        if is_ours || !is_hole(&before, following, Some(&self.epochs.load()))? {
            return Ok(());
        }
        let (from, to) = (before.end, following.base());
        Err(self
            .error(ErrorKind::Corrupt, "the records of these offsets are missing")
            .offset(from)
            .offsets(from..to)
            .path(following.path(FileKind::Log))
            .remedy(format!("restore the segment before, or go on reading at offset {to}")))
    }

    /// The leader epoch lies outside the checksum: where a batch contradicts what is known of the log's epochs,
    /// that is served.
    fn with_right_epochs(&self, bytes: Bytes) -> Bytes {
        let epochs = self.epochs.load();
        let noted = |header: &BatchHeader| {
            epochs.in_force_at(header.base_offset()).map_or(header.leader_epoch(), |(epoch, _)| epoch)
        };
        // Nearly every read ends here.
        if headers(&bytes).all(|(_, header)| header.leader_epoch() == noted(&header)) {
            return bytes;
        }
        let batches: Vec<_> = headers(&bytes).map(|(at, header)| (at, noted(&header), header)).collect();
        let agrees = |at: usize| {
            batches
                .get(at)
                .map(|(_, noted, header)| header.leader_epoch() == *noted || header.leader_epoch().get() == -1)
        };
        // A list that another program left may be what is wrong: then both neighbours have to agree with it.
        let is_alone = |at: usize| {
            let beside = [at.checked_sub(1).and_then(agrees), agrees(at + 1)];
            beside.iter().flatten().count() > 0 && beside.iter().flatten().all(|agrees| *agrees)
        };
        let is_wrong = |at: usize| {
            let impossible = batches[at].2.leader_epoch().get() < -1;
            agrees(at) == Some(false) && (self.epochs_proven || impossible || is_alone(at))
        };
        let wrong: Vec<_> = (0..batches.len()).filter(|&at| is_wrong(at)).map(|at| batches[at]).collect();
        if wrong.is_empty() {
            return bytes;
        }
        for (_, _, header) in &wrong {
            let words = format!("leader epoch {} contradicts what is around it", header.leader_epoch());
            let finding = Finding::new(FindingKind::Corrected, words).partition(self.context.partition.clone());
            let offsets = header.base_offset()..header.next_offset();
            self.context.findings.add(finding.offsets(offsets).path(&self.home.dir));
        }
        let mut right = bytes.to_vec();
        for (at, epoch, _) in wrong {
            let field = at + BatchHeader::PREFIX_LEN..at + BatchHeader::MAGIC_AT;
            right[field].copy_from_slice(&epoch.get().to_be_bytes());
        }
        right.into()
    }

    fn check_range(&self, offset: Offset, offsets: LogOffsets) -> Result<()> {
        if offset < offsets.log_start || offset > offsets.end {
            return Err(self.out_of_range(offset, offsets));
        }
        Ok(())
    }

    fn out_of_range(&self, offset: Offset, offsets: LogOffsets) -> Error {
        let nearest = if offset < offsets.log_start { offsets.log_start } else { offsets.end };
        self.error(
            ErrorKind::OffsetOutOfRange,
            format!("offset {offset} is outside the log, which holds {} to {}", offsets.log_start, offsets.end),
        )
        .offset(nearest)
        .remedy("seek to the offset given, or to the beginning or the end")
    }

    /// The first record in offset order whose timestamp is at least `time`, a control record like any other
    /// (ListOffsets). Unlike a stock broker this goes on in the next segment where the newest records of one lie
    /// below the log start.
    pub(super) fn offset_at(&self, time: Timestamp, isolation: Isolation) -> Result<Option<OffsetAtTime>> {
        loop {
            let era = self.era();
            let found = self.offset_at_once(time, isolation);
            if era == self.era() {
                return found;
            }
        }
    }

    fn offset_at_once(&self, time: Timestamp, isolation: Isolation) -> Result<Option<OffsetAtTime>> {
        self.check_open()?;
        let offsets = self.offsets();
        let limit = visible(offsets, isolation);
        let segments = self.segments.load_full();
        for segment in segments[floor(&segments, offsets.log_start)..].iter().filter(|s| s.base() < limit) {
            let indexes = segment.indexes()?;
            if indexes.largest_timestamp() < time {
                continue;
            }
            // No record up to an older entry's offset is new enough. That of `time` itself may be the one.
            let (_, before) = indexes.time.lookup(Timestamp::new(time.get().saturating_sub(1)));
            drop(indexes);
            let mut next = before.max(offsets.log_start).max(segment.base());
            loop {
                let read = match segment.read(next, limit, 256 << 10, is_settled(segment, offsets)) {
                    Ok(Some(read)) => read,
                    Ok(None) => break,
                    Err(e) => match e.at_offsets() {
                        // What is damaged has no time; what follows may.
                        Some(damaged) if damaged.end > next => {
                            next = damaged.end;
                            continue;
                        }
                        _ => return Err(self.place(e)),
                    },
                };
                let found = self.first_at(self.with_right_epochs(read.bytes), time, offsets.log_start)?;
                if found.is_some() {
                    return Ok(found.filter(|f| f.offset < limit));
                }
                next = read.next;
            }
        }
        Ok(None)
    }

    fn first_at(&self, mut bytes: Bytes, time: Timestamp, log_start: Offset) -> Result<Option<OffsetAtTime>> {
        while !bytes.is_empty() {
            let header = BatchHeader::parse(&bytes)?;
            let batch = bytes.split_to(header.size_bytes());
            if header.max_timestamp() < time {
                continue;
            }
            for record in RecordBatch::from_checked(batch)?.decode()?.iter() {
                let record = record?;
                if record.timestamp() >= time && record.offset() >= log_start {
                    return Ok(Some(OffsetAtTime {
                        offset: record.offset(),
                        timestamp: record.timestamp(),
                        leader_epoch: header.leader_epoch(),
                    }));
                }
            }
        }
        Ok(None)
    }
}

/// The headers of whole batches, and where each begins.
fn headers(bytes: &Bytes) -> impl Iterator<Item = (usize, BatchHeader)> + '_ {
    let mut next = 0;
    std::iter::from_fn(move || {
        let at = next;
        let header = bytes.get(at..).filter(|rest| !rest.is_empty()).and_then(|rest| BatchHeader::parse(rest).ok())?;
        next += header.size_bytes();
        Some((at, header))
    })
}

pub(super) fn visible(offsets: LogOffsets, isolation: Isolation) -> Offset {
    match isolation {
        Isolation::ReadCommitted => offsets.last_stable,
        Isolation::ReadUncommitted => offsets.high_watermark,
    }
}

/// Whether nothing in `segment` changes any more but by a truncation: it is sealed, and synced.
fn is_settled(segment: &Segment, offsets: LogOffsets) -> bool {
    segment.until().is_some_and(|until| until <= offsets.frontier)
}

/// Index of the segment that holds `offset`, or would.
pub(super) fn floor(segments: &[Arc<Segment>], offset: Offset) -> usize {
    segments.partition_point(|segment| segment.base() <= offset).saturating_sub(1)
}

/// Aborted transactions that touch `[from, to)`: their markers may lie in this segment or any later one.
pub(super) fn aborted_between(segments: &[Arc<Segment>], from: Offset, to: Offset) -> Result<Vec<AbortedTxn>> {
    let mut found = Vec::new();
    for segment in segments {
        if !segment.aborted_between(from, to, &mut found)? {
            break;
        }
    }
    Ok(found)
}

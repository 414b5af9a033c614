//! The first step of an append: check, assign offsets, stage. Holds the append lock, does no I/O.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::record::{
    BatchBuilder, BatchFacts as ProducedFacts, BatchHeader, Record, RecordBatch, TimestampType, validate_produced,
};
use crate::segment::Segment;
use crate::types::{LeaderEpoch, Offset, Timestamp};

use super::epochs::EpochCache;
use super::producers::{BatchFacts, Check, ProducerStates};
use super::undo::Undo;
use super::{Appended, ExpectedEnd, Inner, Log, LogConfig, LogPosition};

/// Batches smaller than this are copied together; larger ones are written from where they are.
pub(crate) const COPY_BYTES_MAX: usize = 4096;
/// What they are copied into, once there are many: no larger buffer is made, half of which would be empty.
const COPIES_BYTES: usize = 16 << 10;

/// Between two appends the wall clock may go on by so much without anybody looking whether it jumped.
const JUMP: Duration = Duration::from_secs(10);

/// What the append lock guards: the end of the log as appended, not as written.
#[derive(Debug)]
pub(super) struct Appender {
    pub(super) end: Offset,
    pub(super) active: Arc<Segment>,
    /// Bytes in the active segment, staged ones included.
    pub(super) size: u64,
    /// Largest timestamp of the active segment's first batch: the age of a segment counts from there.
    pub(super) first_timestamp: Option<Timestamp>,
    /// When the active segment was started, in monotonic time, for batches whose timestamps run backwards.
    pub(super) started: Duration,
    /// The wall clock's time at the last append, and whether it was right.
    pub(super) wall: Timestamp,
    pub(super) is_right: bool,
    pub(super) jitter: Duration,
    pub(super) epochs: EpochCache,
    pub(super) producers: ProducerStates,
    pub(super) staged: Staged,
}

/// Bytes that have offsets but are not in a file yet.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) groups: Vec<Group>,
    pub(super) bytes: usize,
    /// The epoch cache changed since the last write.
    pub(super) epochs_changed: bool,
    /// Offsets were left out, below what comes.
    pub(super) left_out: bool,
}

/// Staged bytes of one segment.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) segment: Arc<Segment>,
    pub(super) position: u64,
    pub(super) end: Offset,
    /// The segment that this one follows, to be sealed first, with its producer snapshot.
    pub(super) seals: Option<Seal>,
    /// What it takes to go back to before the group.
    pub(super) undo: Undo,
    len: u64,
    chunks: Vec<Bytes>,
    tail: BytesMut,
}

/// A segment that ended.
#[derive(Clone, Debug)]
pub(super) struct Seal {
    /// `None` once it is deleted.
    pub(super) segment: Option<Arc<Segment>>,
    /// Where the next one begins.
    pub(super) next: Offset,
    /// The producer state there, until the files are written.
    pub(super) snapshot: Option<Vec<u8>>,
}

impl Seal {
    /// Of a segment whose files are written.
    pub(super) fn written(segment: Arc<Segment>) -> Self {
        let next = segment.until().unwrap_or(segment.base());
        Self { segment: Some(segment), next, snapshot: None }
    }
}

impl Group {
    pub(super) fn new(segment: Arc<Segment>, position: u64, end: Offset, seals: Option<Seal>) -> Self {
        Self { segment, position, end, seals, len: 0, undo: Undo::default(), chunks: Vec::new(), tail: BytesMut::new() }
    }

    fn push(&mut self, prefix: [u8; 16], batch: &Bytes) {
        self.len += batch.len() as u64;
        let (room, needed) = (self.tail.capacity(), self.tail.len() + batch.len().min(COPY_BYTES_MAX));
        if needed > room && room >= COPIES_BYTES {
            let full = std::mem::replace(&mut self.tail, BytesMut::with_capacity(COPIES_BYTES));
            self.chunks.push(full.freeze());
        }
        self.tail.extend_from_slice(&prefix);
        if batch.len() < COPY_BYTES_MAX {
            self.tail.extend_from_slice(&batch[prefix.len()..]);
        } else {
            self.chunks.push(self.tail.split().freeze());
            self.chunks.push(batch.slice(prefix.len()..));
        }
    }

    /// The bytes in order.
    pub(super) fn take_chunks(&mut self) -> Vec<Bytes> {
        if !self.tail.is_empty() {
            self.chunks.push(self.tail.split().freeze());
        }
        std::mem::take(&mut self.chunks)
    }
}

/// On what terms a leader appends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The log ends here.
    pub(crate) expected_end: Option<ExpectedEnd>,
    /// Nothing was taken back of what had been appended by then.
    pub(crate) after: Option<LogPosition>,
    /// Who appends does not wait for the disk, nor for who waits for it: others write what is staged.
    pub(crate) in_passing: bool,
}

/// Who assigned the offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// We lead: the batch gets the next offsets and this epoch.
    Leader(LeaderEpoch, Terms),
    /// A leader wrote it: bytes untouched.
    Replica,
}

impl Log {
    /// As [`append`](Self::append), on condition that the log ends at `expected_end`: of many who expect the same end
    /// one appends, and the others are told. The end is that of everything appended, durable and visible or not
    /// ([`LogOffsets::end`](super::LogOffsets)), markers of transactions included.
    ///
    /// Expect an end that was read ([`LogRead::next_offset`](super::LogRead::next_offset)), or the
    /// [position](Appended::position) of an earlier append: the offset behind an append that nobody has waited for may
    /// go to another record, should the disk be full. Recovery may leave offsets out. Then the log ends above what
    /// anybody expects, which is a conflict like any other: read on, and expect the end that is found.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
    /// use thalweg::{ErrorKind, Log, LogConfig};
    /// let log = Log::open(dir.path().join("events-0"), LogConfig::default())?;
    /// let opened = log.append_records_if(0, ["opened"])?;
    /// let error = log.append_records_if(0, ["opened by somebody else"]).unwrap_err();
    /// assert_eq!((error.kind(), error.at_offset()), (ErrorKind::Conflict, Some(1.into())));
    /// log.append_records_if(opened.position, ["closed"])?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the log ends elsewhere; [`Error::at_offset`](crate::Error::at_offset) says where. As
    /// [`append`](Self::append). An idempotent producer's duplicate is no conflict: it gets the first copy's offsets.
    pub fn append_if(
        &self,
        expected_end: impl Into<ExpectedEnd>,
        batch: &RecordBatch,
        epoch: LeaderEpoch,
    ) -> Result<Appended> {
        self.append_on(Terms { expected_end: Some(expected_end.into()), ..Terms::default() }, batch, epoch)
    }

    /// As [`append`](Self::append), on terms.
    pub(crate) fn append_on(&self, terms: Terms, batch: &RecordBatch, epoch: LeaderEpoch) -> Result<Appended> {
        self.inner().append(batch, epoch, terms)
    }

    /// As [`append_records`](Self::append_records), on condition that the log ends at `expected_end`.
    ///
    /// # Errors
    /// As [`append_if`](Self::append_if) and [`append_records`](Self::append_records).
    pub fn append_records_if<R: Into<Record>>(
        &self,
        expected_end: impl Into<ExpectedEnd>,
        records: impl IntoIterator<Item = R>,
    ) -> Result<Appended> {
        let batch = BatchBuilder::of(records, self.inner().context.clock.now())?;
        self.append_if(expected_end, &batch, self.leader_epoch().max(self.lowest_epoch()))
    }

    /// Fails where the log does not end as an append expects.
    pub(crate) fn check_end(&self, expected: ExpectedEnd) -> Result<()> {
        let inner = self.inner();
        let appender = inner.appender.lock();
        inner.check_end(expected, appender.end)
    }

    /// Where the next append goes.
    pub(crate) fn position(&self) -> LogPosition {
        let inner = self.inner();
        let appender = inner.appender.lock();
        LogPosition { end: appender.end, era: inner.era() }
    }
}

impl Inner {
    pub(super) fn append(&self, batch: &RecordBatch, epoch: LeaderEpoch, terms: Terms) -> Result<Appended> {
        let config = self.config.load();
        let now = self.context.clock.now();
        let size = batch.size_bytes();
        if size > config.max_message_bytes as usize {
            return Err(self.error(
                ErrorKind::TooLarge,
                format!("a batch of {size} bytes is larger than max.message.bytes, {}", config.max_message_bytes),
            ));
        }
        if batch.header().is_control() {
            // Markers come from our own coordinators and carry no application records.
            return self.stage(batch, Origin::Leader(epoch, terms), None, now);
        }
        let facts = validate_produced(batch).map_err(|e| self.place(e))?;
        self.check_rules(&config, &facts, now)?;
        if config.timestamp_type == TimestampType::LogAppendTime {
            let stamped = batch.with_log_append_time(now);
            return self.stage(&stamped, Origin::Leader(epoch, terms), Some(now), now);
        }
        if batch.header().timestamp_type() == TimestampType::LogAppendTime {
            return Err(self.error(
                ErrorKind::InvalidTimestamp,
                "a batch stamped with its append time came to a log that keeps its producers' timestamps",
            ));
        }
        self.stage(batch, Origin::Leader(epoch, terms), None, now)
    }

    pub(super) fn append_replica(&self, batch: &RecordBatch) -> Result<Appended> {
        self.stage(batch, Origin::Replica, None, self.context.clock.now())
    }

    /// Fails where the log does not end as an append expects. The append lock is held.
    fn check_end(&self, expected: ExpectedEnd, end: Offset) -> Result<()> {
        let (expected_end, unchanged) = match expected {
            ExpectedEnd::Offset(offset) => (offset, Ok(())),
            ExpectedEnd::Position(position) => (position.end, self.check_cuts(position)),
        };
        let conflict = |what: String| {
            let remedy = "read what was appended, decide again, and expect the end that is found";
            self.error(ErrorKind::Conflict, what).offset(end).remedy(remedy)
        };
        if let Err(cut) = unchanged {
            return Err(conflict(format!("what was appended before offset {expected_end} was taken back")).source(cut));
        }
        match expected_end == end {
            true => Ok(()),
            false => Err(conflict(format!("an append expected the log to end at offset {expected_end}, not at {end}"))),
        }
    }

    fn check_rules(&self, config: &LogConfig, facts: &ProducedFacts, now: Timestamp) -> Result<()> {
        if config.compacted && facts.has_null_key {
            return Err(self
                .error(ErrorKind::InvalidRecord, "a record without a key came to a compacted topic")
                .remedy("give every record a key, or set cleanup.policy=delete"));
        }
        if config.timestamp_type == TimestampType::LogAppendTime {
            return Ok(());
        }
        let outside = |what: &str, limit: Duration| {
            self.error(
                ErrorKind::InvalidTimestamp,
                format!("a record's timestamp lies more than {} ms {what} the clock", limit.as_millis()),
            )
        };
        match config.timestamp_after_max {
            Some(limit) if facts.max_timestamp > now.saturating_add(limit) => {
                return Err(outside("ahead of", limit).remedy("see message.timestamp.after.max.ms"));
            }
            _ => {}
        }
        match config.timestamp_before_max {
            Some(limit)
                if facts.min_timestamp != Timestamp::NONE && facts.min_timestamp.saturating_add(limit) < now =>
            {
                Err(outside("behind", limit).remedy("see message.timestamp.before.max.ms"))
            }
            _ => Ok(()),
        }
    }

    /// Gives a checked batch its place. Everything that can fail comes before the first change.
    fn stage(
        &self,
        batch: &RecordBatch,
        origin: Origin,
        append_time: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Appended> {
        let config = self.config.load();
        let mut appender = self.appender.lock();
        self.check_usable()?;
        let a = &mut *appender;
        let era = self.era();
        let (base, epoch) = match origin {
            Origin::Leader(epoch, _) => (a.end, epoch),
            Origin::Replica => (batch.header().base_offset(), batch.header().leader_epoch()),
        };
        if base < a.end {
            return Err(self
                .error(ErrorKind::InvalidRecord, format!("a replicated batch begins below the log end {}", a.end))
                .offset(base));
        }
        let newest = a.epochs.latest().unwrap_or(LeaderEpoch::new(-1));
        let lowest = if origin == Origin::Replica { newest } else { newest.max(self.lowest_epoch()) };
        if epoch < lowest {
            return Err(self.error(
                ErrorKind::FencedLeaderEpoch,
                format!("an append in leader epoch {epoch}, but the log has reached epoch {lowest}"),
            ));
        }
        let facts = BatchFacts::of(batch, base)?;
        if origin != Origin::Replica
            && let Check::Duplicate { base_offset, last_offset, timestamp } =
                a.producers.check(&facts).map_err(|e| self.place(e))?
        {
            let position = LogPosition { end: last_offset.next(), era };
            return Ok(Appended { base_offset, last_offset, append_time: Some(timestamp), position });
        }
        let terms = if let Origin::Leader(_, terms) = origin { terms } else { Terms::default() };
        terms.expected_end.map_or(Ok(()), |expected| self.check_end(expected, a.end))?;
        terms.after.map_or(Ok(()), |position| self.check_cuts(position))?;
        let last = base + i64::from(batch.header().last_offset_delta());
        let size = batch.size_bytes() as u64;
        if size > u64::from(config.segment_bytes) {
            return Err(self.error(
                ErrorKind::TooLarge,
                format!("a batch of {size} bytes does not fit into segment.bytes, {}", config.segment_bytes),
            ));
        }
        let prefix = batch.stamp_prefix(base, epoch)?;
        if facts.marker.is_some() {
            a.active.load_aborted()?;
        }
        if a.size > 0 && a.first_timestamp.is_none() {
            a.first_timestamp = a.active.first_header().map(|first| first.max_timestamp());
        }
        let seals = if must_roll(a, &config, batch.header(), last, &*self.context.clock)? {
            Some(self.roll_to(a, base)?)
        } else {
            None
        };
        let was_wrong = !a.is_right || a.active.ages_from().is_some();
        if was_wrong || now < a.wall || now > a.wall.saturating_add(JUMP) {
            let (time, is_right) = self.context.time.look();
            a.is_right = is_right;
            if was_wrong || !is_right {
                // By the timestamps of a clock that was wrong nothing ages.
                a.active.age_from(time);
            }
        }
        a.wall = now;
        // No group is larger than what may be written without a sync.
        let has_room = |group: &Group| group.len + size <= u64::from(config.max_unsynced_bytes);
        let needs_group = seals.is_some() || !a.staged.groups.last().is_some_and(has_room);
        let density = if needs_group { a.active.density() } else { None };
        let header = batch.header().placed(base, epoch);
        a.active.index_batch(a.size, &header)?;
        if needs_group {
            let mut group = Group::new(Arc::clone(&a.active), a.size, base, seals);
            group.undo.density = density;
            a.staged.groups.push(group);
        }
        let newest = a.staged.groups.len() - 1;
        let group = &mut a.staged.groups[newest];
        let epochs = if a.epochs.latest() == Some(epoch) { None } else { Some(a.epochs.clone()) };
        if epoch.get() >= 0 && a.epochs.assign(epoch, base) {
            a.staged.epochs_changed = true;
            self.epochs.store(Arc::new(a.epochs.clone()));
            group.undo.epochs = group.undo.epochs.take().or(epochs);
        }
        if facts.has_producer() {
            a.producers.remember(facts.producer_id, &mut group.undo.producers);
            self.transactional.store(true, std::sync::atomic::Ordering::Release);
            if let Some(aborted) = a.producers.update(&facts) {
                a.active.index_aborted(aborted)?;
            }
        }
        if a.size == 0 {
            a.first_timestamp = Some(header.max_timestamp());
        }
        group.push(prefix, batch.as_bytes());
        group.end = last.next();
        a.staged.bytes += batch.size_bytes();
        self.context.meter.add(size);
        a.size += size;
        a.end = last.next();
        self.marks.set_end(a.end);
        let position = LogPosition { end: a.end, era };
        let crowded = a.staged.bytes >= super::STAGED_BYTES_MAX;
        drop(appender);
        if crowded {
            // The batch has its place: what fails here is told to those who wait, and to the next append.
            if terms.in_passing { self.write_in_passing() } else { self.write_now() }.ok();
        }
        Ok(Appended { base_offset: base, last_offset: last, append_time, position })
    }

    /// A random part of `segment.jitter.ms`, so that segments of many partitions do not roll at once.
    pub(super) fn jitter(&self) -> Duration {
        let limit = self.config.load().segment_jitter;
        if limit.is_zero() {
            return Duration::ZERO;
        }
        let mut random = [0; 4];
        // Without randomness there is no jitter, which harms nobody.
        match getrandom::fill(&mut random) {
            Ok(()) => limit.mul_f64(f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX)),
            Err(_) => Duration::ZERO,
        }
    }

    /// Makes a new segment at `base` the active one; its files appear when it is first written.
    pub(super) fn roll_to(&self, a: &mut Appender, base: Offset) -> Result<Seal> {
        let snapshot = a.producers.encode()?;
        let segment = Arc::new(Segment::new(self.home.clone(), base, self.index_sizes()));
        let sealed = std::mem::replace(&mut a.active, Arc::clone(&segment));
        sealed.set_until(Some(base));
        let mut segments = Vec::clone(&self.segments.load());
        segments.push(segment);
        self.segments.store(Arc::new(segments));
        a.size = 0;
        a.first_timestamp = None;
        a.started = self.context.clock.monotonic();
        a.jitter = self.jitter();
        Ok(Seal { segment: Some(sealed), next: base, snapshot: Some(snapshot) })
    }
}

/// Kafka's conditions for a new segment (`LogSegment.shouldRoll`).
fn must_roll(a: &Appender, config: &LogConfig, header: &BatchHeader, last: Offset, clock: &dyn Clock) -> Result<bool> {
    if a.size + header.size_bytes() as u64 > u64::from(config.segment_bytes) {
        return Ok(a.size > 0);
    }
    if last - a.active.base() > i64::from(i32::MAX) {
        return Ok(true);
    }
    if a.size == 0 {
        return Ok(false);
    }
    let waited = match a.first_timestamp {
        Some(first) if first.get() >= 0 && header.max_timestamp() >= first => {
            header.max_timestamp().get().abs_diff(first.get()).into()
        }
        // Of timestamps that run backwards nothing is learned.
        _ => clock.monotonic().saturating_sub(a.started).as_millis(),
    };
    let limit = config.segment_age.saturating_sub(a.jitter).as_millis();
    if waited > limit {
        return Ok(true);
    }
    let indexes = a.active.indexes()?;
    Ok(indexes.offset.is_full() || indexes.time.is_full())
}

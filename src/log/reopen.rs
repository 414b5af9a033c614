//! Mending a poisoned log without closing it, and what any opening does after a failed sync in the same boot.
//!
//! The cache may hold pages that the disk does not, and call them clean: a later sync would prove nothing. So
//! everything above the frontier is read and written again, in place, which makes its pages dirty whatever they
//! were; recovery then judges and syncs it like any unfinished write. Dropping pages from the cache instead is a
//! request that a kernel may not follow.

use crate::sync::atomic::{AtomicU64, Ordering};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::segment::{FileKind, Segment};
use crate::storage::{HaltingStorage, is_device_error};
use crate::types::{Durability, Offset};

use super::refuse::look_first;
use super::state::{SlotState, StateSlot};
use super::{Inner, Log, LogConfig, LogContext, LogRecovery, Signal};

/// Pages are no larger on the systems that we run on.
const PAGE: u64 = 64 << 10;
/// Nor smaller.
const SMALL_PAGE: u64 = 4 << 10;

impl Log {
    /// Has `signal` notified whenever more becomes readable, the log start moves, or the log closes; for as long as
    /// the signal lives.
    pub(crate) fn watch(&self, signal: &Arc<Signal>) {
        let _succession = self.succession.lock();
        let inner = self.inner();
        let mut watchers = inner.watchers.lock();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(signal));
        inner.watched.store(watchers.len(), Ordering::Release);
    }

    /// Applies a changed configuration to appends from now on. How the log is read and recovered stays as it is. Where
    /// the level rises, what was appended before is brought to it.
    ///
    /// # Errors
    /// As [`Log::sync`], where the level changes: the configuration is changed all the same.
    pub fn configure(&self, config: LogConfig) -> Result<()> {
        let succession = self.succession.lock();
        let inner = self.inner();
        let kept = inner.config.load();
        let config = config.recovery_policy(kept.recovery_policy).read_mode(kept.read_mode).verify(kept.verify);
        let (before, now) = (kept.durability, config.durability);
        inner.config.store(Arc::new(config));
        drop(succession);
        match before == Durability::PowerLoss {
            was if was == (now == Durability::PowerLoss) => Ok(()),
            true => inner.lower_level(),
            false => inner.raise_level(),
        }
    }

    /// Mends a log that a failed write or sync has poisoned, on the same handle: recovers what is there as an opening
    /// does, and goes on. What proves itself above the frontier is written again and synced, since the cache may hold
    /// what the disk does not; the rest is cut. Appends that waited stay
    /// [`ErrorKind::Indeterminate`](crate::ErrorKind::Indeterminate); no offset that was acknowledged or shown is given
    /// to another record. Does nothing where nothing failed.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().map_err(|e| thalweg::Error::new(thalweg::ErrorKind::Io, e.to_string()))?;
    /// use thalweg::{Durability, ErrorKind, Log, LogConfig};
    /// let log = Log::open(dir.path().join("events-0"), LogConfig::default())?;
    /// let appended = match log.append_records(["signed up"]) {
    ///     Err(e) if e.kind() == ErrorKind::Poisoned => {
    ///         log.reopen()?;
    ///         log.append_records(["signed up"])?
    ///     }
    ///     appended => appended?,
    /// };
    /// log.wait(appended.position, Durability::PowerLoss)?;
    /// # Ok::<(), thalweg::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Log::open`]: the disk still fails, or a strict log met damage. The log stays as it was.
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    pub fn reopen(&self) -> Result<LogRecovery> {
        // A close waits.
        let _open = self.lock.lock();
        let old = self.inner.load_full();
        if old.failed.load(Ordering::Acquire) {
            // Nobody else goes on over what it stopped for.
            self.halting.iter().for_each(HaltingStorage::resume);
        }
        let new = old.replacement()?;
        let Some(new) = new else { return Ok(old.report.clone()) };
        let report = new.report.clone();
        {
            // What came while it was recovered comes along.
            let _succession = self.succession.lock();
            new.config.store(old.config.load_full());
            let watchers = std::mem::take(&mut *old.watchers.lock());
            new.watched.store(watchers.len(), Ordering::Release);
            *new.watchers.lock() = watchers;
            self.inner.store(Arc::new(new));
        }
        old.signal.notify();
        self.inner().notify();
        Ok(report)
    }
}

impl Inner {
    /// What the log goes on as after a failure; `None` where there was none.
    fn replacement(&self) -> Result<Option<Self>> {
        let _preparing = self.preparing.lock();
        let _writer = self.writer();
        self.learn_failure();
        if self.failed.load(Ordering::Acquire) {
            // Whoever seals a segment stops reading it: the name may be another's then.
            drop(self.unsealed_below.lock());
        }
        // Nobody stages or waits for long: the failure is told before.
        let _appender = self.appender.lock();
        self.check_open()?;
        let Some(failure) = self.failure.lock().clone() else { return Ok(None) };
        // Where it could not be stored before, the next lines must not go on without it.
        self.note()?;
        let config = (**self.config.load()).clone();
        look_first(&self.context, &self.home.dir, &config)?;
        // Whoever is in the middle of a sync still has something to note, and must not do it over the other's.
        self.set_replaced(true);
        let mut context = self.context.clone();
        if context.slot.is_some() {
            // What the first opening was told of by others was heeded then, and is old.
            (context.log_start, context.recovery_point, context.outside) = Default::default();
        }
        let opened = Self::open(context, &self.home.dir, config);
        let mut new = opened.inspect_err(|_| {
            // What it synced in vain may be cached like what failed before.
            self.in_doubt.store(true, Ordering::Release);
            self.set_replaced(false);
        })?;
        new.era = AtomicU64::new(self.era());
        new.cuts = std::mem::take(&mut *self.cuts.lock()).into();
        new.begin_era(self.marks.frontier(), failure);
        Ok(Some(new))
    }

    fn set_replaced(&self, is_replaced: bool) {
        let _notes = self.reserved.lock();
        self.replaced.store(is_replaced, Ordering::Release);
    }
}

/// Writes again what these segments hold above `frontier`, byte for byte.
pub(super) fn write_again(segments: &[Arc<Segment>], frontier: Offset) -> Result<()> {
    for (number, segment) in segments.iter().enumerate() {
        if segments.get(number + 1).is_some_and(|next| next.base() <= frontier) {
            continue;
        }
        let mut position = 0;
        while let Ok(Some(header)) = segment.header_at(position)
            && header.next_offset() <= frontier
        {
            position += header.size_bytes() as u64;
        }
        write_again_from(segment, position)?;
    }
    Ok(())
}

fn write_again_from(segment: &Segment, position: u64) -> Result<()> {
    let file = segment.file()?;
    let mut bytes = vec![0; PAGE as usize];
    let mut again = |at: u64, len: u64| -> io::Result<()> {
        let bytes = &mut bytes[..len.min(segment.written() - at) as usize];
        file.read_exact_at(bytes, at)?;
        file.write_all_at(bytes, at)
    };
    let failed = |e| Error::io("cannot write again what was not synced", segment.path(FileKind::Log), e);
    let mut at = position - position % PAGE;
    while at < segment.written() {
        match again(at, PAGE) {
            // What the disk does not give is not in the cache either.
            Err(e) if is_device_error(&e) => {
                for small in (at..segment.written().min(at + PAGE)).step_by(SMALL_PAGE as usize) {
                    again(small, SMALL_PAGE).or_else(|e| if is_device_error(&e) { Ok(()) } else { Err(failed(e)) })?;
                }
            }
            done => done.map_err(failed)?,
        }
        at += PAGE;
    }
    Ok(())
}

/// Writes again and syncs what may not be on the disk after a sync that failed in this boot, or that nobody saw end.
/// Where some of it can be read no more, `noted` says from then on what it says after a failed sync.
pub(super) fn settle_doubts(
    context: &LogContext,
    dir: &Path,
    segments: &[Arc<Segment>],
    noted: &mut Option<SlotState>,
    notes: Option<&StateSlot>,
) -> Result<()> {
    for doubt in context.syncs.at(dir) {
        let path = |segment: &Segment| segment.path(FileKind::Log);
        // The others are gone.
        if let Some(segment) = segments.iter().find(|segment| context.syncs.is_of(&doubt, &path(segment))) {
            let (from, is_whole) = look_at(segment, &doubt.bytes, noted.filter(|slot| !slot.unknown))?;
            if !is_whole {
                let before = noted.unwrap_or(SlotState { unknown: true, ..SlotState::default() });
                let lost = SlotState { clean: false, poisoned: true, boot_id: context.boot_id, ..before };
                notes.map_or(Ok(()), |notes| notes.store(&lost))?;
                *noted = Some(lost);
            }
            write_again_from(segment, from)?;
            segment.file()?.sync_data().map_err(|e| Error::unsynced(path(segment), e))?;
        }
        context.syncs.settle(&doubt);
    }
    Ok(())
}

/// Where the batches begin that hold these bytes, and are not durable for sure; and whether all of them are sound.
fn look_at(segment: &Segment, bytes: &Range<u64>, slot: Option<SlotState>) -> Result<(u64, bool)> {
    segment.file()?;
    let durable = slot.map_or(Offset::ZERO, |slot| slot.frontier);
    let (mut from, mut next) = (0, segment.base());
    // What cannot be read is not sound.
    while let Ok(Some(header)) = segment.header_at(from) {
        let end = from + header.size_bytes() as u64;
        if end > bytes.start && header.next_offset() > durable {
            break;
        }
        (from, next) = (end, header.next_offset());
    }
    let mut sound = from;
    while sound < bytes.end
        && let Ok(Some(header)) = segment.sound_header_at(sound)
    {
        (sound, next) = (sound + header.size_bytes() as u64, header.next_offset());
    }
    // Where room may have been made, and nobody was told of offsets there.
    let may_be_room = slot.is_some_and(|slot| slot.unsynced_max > 0 && slot.reserved <= next);
    Ok((from, sound >= bytes.end || (may_be_room && segment.find_room()? <= sound)))
}

//! After a failed write or sync: what is refused and no longer shown from then on, and what the next opening is told.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::error::{Error, ErrorKind, Result};
use crate::segment::FileKind;

use super::state::SlotState;
use super::{Inner, LogContext, LogOffsets};

/// After an opening that failed half way: what it has written is not synced. Where a sync has failed the next one must not
/// believe the cache either.
pub(super) fn note_failed_opening(context: &LogContext, error: &Error) {
    let is_unsynced = error.kind() == ErrorKind::Indeterminate;
    if let Some(slot) = &context.slot {
        let state = slot.load().unwrap_or(SlotState { unknown: true, ..SlotState::default() });
        let state = SlotState { clean: false, ..state };
        drop(slot.store(&match is_unsynced {
            true => SlotState { poisoned: true, boot_id: context.boot_id, ..state },
            false => state,
        }));
    }
}

/// For who judges what is promised.
#[cfg(feature = "testing")]
impl super::Log {
    /// Whether an append was taken back because there was no space for it.
    pub(crate) fn was_taken_back(&self, position: super::LogPosition) -> bool {
        self.inner().check_cuts(position).is_err_and(|e| e.is_of_shortage())
    }

    /// Where an advance of the log start that failed half way may be found to have put it.
    pub(crate) fn start_begun(&self) -> Option<crate::types::Offset> {
        let inner = self.inner();
        let noted = inner.context.slot.as_ref().and_then(|slot| slot.load()).map(|state| state.log_start);
        noted.filter(|start| *start > inner.marks.load().log_start)
    }

    /// Where its files are.
    pub(crate) fn dir(&self) -> PathBuf {
        self.inner().home.dir.to_path_buf()
    }

    /// From where on a failed sync may have taken what survives a process crash, be it one that the log was not told of.
    pub(crate) fn doubted_from(&self) -> Option<crate::types::Offset> {
        let inner = self.inner();
        let in_doubt = inner.in_doubt.load(Ordering::Acquire) || inner.failed_sync().is_some();
        in_doubt.then(|| inner.marks.frontier())
    }
}

impl super::Log {
    /// Does `work`, which is some of this log's. Should it panic, all who wait are told that nobody goes on with it.
    pub(crate) fn guard<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let inner = self.inner.load_full();
        panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            inner.fail_of_panic();
            Err(inner.error_of_panic())
        })
    }
}

impl Inner {
    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(self.error(ErrorKind::Closed, "the log is closed"));
        }
        Ok(())
    }

    /// For those who wait: the failure itself.
    pub(super) fn check_waitable(&self) -> Result<()> {
        self.check_open()?;
        if self.failed.load(Ordering::Acquire) { Err(self.told_failure()) } else { Ok(()) }
    }

    fn told_failure(&self) -> Error {
        self.failure.lock().clone().unwrap_or_else(|| self.error(ErrorKind::Poisoned, "poisoned"))
    }

    /// For an acknowledgement that trusts the cache: a failed sync may have dropped what was there, be it one in other
    /// hands that the log has not learnt of.
    pub(super) fn check_cached(&self) -> Result<()> {
        let failure = match self.in_doubt.load(Ordering::Acquire) {
            true => Some(self.told_failure()),
            false => self.unlearnt_failure(),
        };
        failure.map_or(Ok(()), |failure| match failure.kind() {
            ErrorKind::Indeterminate => Err(failure),
            // What failed first left no doubt of what was written before.
            _ => Err(self.error(ErrorKind::Indeterminate, "what was written may not be there").source(failure)),
        })
    }

    /// The first failure, if there was one.
    pub(super) fn failure(&self) -> Option<Error> {
        let told = self.failure.lock().clone();
        told.or_else(|| self.unlearnt_failure())
    }

    /// A sync of this log that failed in other hands: a file is synced before its descriptor is closed for others.
    fn unlearnt_failure(&self) -> Option<Error> {
        let syncs = &self.context.syncs;
        let failures = syncs.failures();
        if self.failures_seen.load(Ordering::Acquire) == failures {
            return None;
        }
        let found = self.failed_sync();
        if found.is_none() {
            self.failures_seen.store(failures, Ordering::Release);
        }
        found.map(|path| self.unsynced(path, io::Error::other("an earlier sync of it failed")))
    }

    /// A segment of which a sync has failed.
    fn failed_sync(&self) -> Option<PathBuf> {
        let (syncs, segments) = (&self.context.syncs, self.segments.load_full());
        let doubts = syncs.at(&self.home.dir);
        let mut paths = segments.iter().map(|segment| segment.path(FileKind::Log));
        paths.find(|path| doubts.iter().any(|doubt| syncs.is_of(doubt, path)))
    }

    /// Fails the log where a sync of it has failed in other hands.
    pub(super) fn learn_failure(&self) {
        if !self.failed.load(Ordering::Acquire)
            && let Some(error) = self.unlearnt_failure()
        {
            self.poison(&error);
        }
    }

    /// For those who come later: that there was one.
    pub(super) fn check_usable(&self) -> Result<()> {
        if self.closing.load(Ordering::Acquire) {
            return Err(self.error(ErrorKind::Closed, "the log is closed"));
        }
        self.check_waitable().map_err(|failure| {
            if matches!(failure.kind(), ErrorKind::Closed | ErrorKind::Forked) {
                return failure;
            }
            let is_of_halt = failure.is_of_halt();
            let message = "an earlier write or sync failed, so this log takes no more appends";
            let error = self.error(ErrorKind::Poisoned, message).source(failure);
            // The failure of a whole store names its own remedy.
            if is_of_halt { error } else { error.remedy("mend the disk, then reopen the partition") }
        })
    }

    pub(super) fn poison(&self, error: &Error) {
        if error.kind() == ErrorKind::Closed {
            return;
        }
        self.fail(error);
        // For the next opening in this boot, which finds it in the cache: a sync might take it from there.
        drop(self.note());
    }

    fn fail(&self, error: &Error) {
        self.failure.lock().get_or_insert_with(|| error.clone());
        self.in_doubt.fetch_or(error.kind() == ErrorKind::Indeterminate, Ordering::AcqRel);
        self.failed.store(true, Ordering::Release);
        self.notify();
    }

    /// A thread panicked at its work on this log. Nothing is noted: no sync has failed, and what would be written might
    /// panic again.
    pub(super) fn fail_of_panic(&self) {
        self.fail(&self.error_of_panic());
    }

    fn error_of_panic(&self) -> Error {
        let message = "a thread panicked: what it was to write may or may not be there";
        self.error(ErrorKind::Indeterminate, message).remedy("reopen the partition: recovery finds what is there")
    }

    pub(super) fn unsynced(&self, path: impl AsRef<Path>, source: io::Error) -> Error {
        self.place(Error::unsynced(path, source))
    }

    /// Takes note where a sync failed, be it one that nobody waits for.
    pub(super) fn heed<T>(&self, done: Result<T>) -> Result<T> {
        done.map_err(|e| self.place(e)).inspect_err(|e| {
            if e.kind() == ErrorKind::Indeterminate {
                self.poison(e)
            }
        })
    }

    /// The offsets now. After a failure nothing above the frontier is shown any more: the cache may lie.
    pub(super) fn offsets(&self) -> LogOffsets {
        let mut offsets = self.marks.load();
        if self.failed.load(Ordering::Acquire) || self.unlearnt_failure().is_some() {
            let end = offsets.frontier.max(offsets.log_start);
            offsets.high_watermark = offsets.high_watermark.min(end);
            offsets.last_stable = offsets.last_stable.min(end);
        }
        offsets
    }
}

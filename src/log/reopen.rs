//! Mending a poisoned log without closing it, and what any opening does after a failed sync in the same boot.
//!
//! The cache may hold pages that the disk does not, and call them clean: a later sync would prove nothing. So
//! everything above the frontier is read and written again, in place, which makes its pages dirty whatever they
//! were; recovery then judges and syncs it like any unfinished write. Dropping pages from the cache instead is a
//! request that a kernel may not follow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::segment::{FileKind, Segment};
use crate::types::Offset;

use super::Inner;

/// Pages are no larger on the systems that we run on.
const PAGE: u64 = 64 << 10;

impl Inner {
    /// What the log goes on as after a failure; `None` where there was none.
    pub(super) fn replacement(&self) -> Result<Option<Self>> {
        let _writer = self.writer();
        // Nobody stages or waits for long: the failure is told before.
        let _appender = self.appender.lock();
        self.check_open()?;
        let Some(failure) = self.failure.lock().clone() else { return Ok(None) };
        // Where it could not be stored before, the next lines must not go on without it.
        self.note()?;
        let config = (**self.config.load()).clone();
        let mut new = Self::open(self.context.clone(), &self.home.dir, config)?;
        new.era = AtomicU64::new(self.era());
        new.cuts = std::mem::take(&mut *self.cuts.lock()).into();
        new.begin_era(self.marks.frontier(), failure);
        let watchers = std::mem::take(&mut *self.watchers.lock());
        new.watched = watchers.len().into();
        new.watchers = watchers.into();
        self.watched.store(0, Ordering::Release);
        Ok(Some(new))
    }
}

/// Writes again what these segments hold above `frontier`, byte for byte.
pub(super) fn write_again(segments: &[Arc<Segment>], frontier: Offset) -> Result<()> {
    for (number, segment) in segments.iter().enumerate() {
        if segments.get(number + 1).is_some_and(|next| next.base() <= frontier) {
            continue;
        }
        let mut position = 0;
        while let Some(header) = segment.header_at(position)?.filter(|header| header.next_offset() <= frontier) {
            position += header.size_bytes() as u64;
        }
        let file = segment.file()?;
        let failed = |e| Error::io("cannot write again what was not synced", segment.path(FileKind::Log), e);
        let mut bytes = vec![0; PAGE as usize];
        let mut at = position - position % PAGE;
        while at < segment.written() {
            let n = usize::try_from(segment.written() - at).map_or(bytes.len(), |left| left.min(bytes.len()));
            file.read_exact_at(&mut bytes[..n], at).map_err(failed)?;
            file.write_all_at(&bytes[..n], at).map_err(failed)?;
            at += n as u64;
        }
    }
    Ok(())
}

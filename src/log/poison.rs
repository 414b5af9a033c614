//! After a failed write or sync: what is refused from then on, and with which words.

use std::sync::atomic::Ordering;

use crate::error::{Error, ErrorKind, Result};

use super::Inner;

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
        match self.failed.load(Ordering::Acquire) {
            true => Err(self.failure.lock().clone().unwrap_or_else(|| self.error(ErrorKind::Poisoned, "poisoned"))),
            false => Ok(()),
        }
    }

    /// For those who come later: that there was one.
    pub(super) fn check_usable(&self) -> Result<()> {
        if self.closing.load(Ordering::Acquire) {
            return Err(self.error(ErrorKind::Closed, "the log is closed"));
        }
        self.check_waitable().map_err(|failure| match failure.kind() {
            ErrorKind::Closed => failure,
            _ => self
                .error(ErrorKind::Poisoned, "an earlier write or sync failed, so this log takes no more appends")
                .source(failure)
                .remedy("mend the disk or free space, then close and open again"),
        })
    }

    pub(super) fn poison(&self, error: &Error) {
        if error.kind() != ErrorKind::Closed {
            self.failure.lock().get_or_insert_with(|| error.clone());
            self.failed.store(true, Ordering::Release);
        }
    }
}

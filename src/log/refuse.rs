//! [`RecoveryPolicy::Strict`](crate::RecoveryPolicy::Strict): recovery runs in memory first, and where it would have to
//! leave damage behind the log is not opened. Nothing of that run reaches the disk.

use std::path::Path;
use std::sync::Arc;

use super::report::{LogRecovery, RecoveryRow};
use super::{LogConfig, LogContext, home, recover};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::OverlayStorage;
use crate::types::RecoveryPolicy;

/// Fails where a strict opening of the log in `dir` would meet damage.
pub(crate) fn look_first(context: &LogContext, dir: &Path, config: &LogConfig) -> Result<()> {
    if config.recovery_policy != RecoveryPolicy::Strict {
        return Ok(());
    }
    let overlay = OverlayStorage::new(Arc::clone(&context.storage), Arc::clone(&context.clock));
    // What is found is told by the opening that goes on, or by the error.
    let look = LogContext {
        storage: Arc::new(overlay),
        findings: Arc::default(),
        meter: Arc::default(),
        syncs: context.syncs.copy(),
        ..context.clone()
    };
    let found = recover::recover(&look, &home(&look, dir, config), config, None)?;
    match found.report.refusal() {
        Some(error) => Err(error.partition(context.partition.clone()).path(dir)),
        None => Ok(()),
    }
}

/// The error of a strict opening that stops.
pub(crate) fn refused(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message).remedy(
        "restore the files from a copy, or open with RecoveryPolicy::Degraded, which serves all that is sound; \
         nothing was changed",
    )
}

impl LogRecovery {
    /// Why a strict opening stops here: acknowledged data is damaged or gone, or something was cut off of which nothing
    /// proves that it was not acknowledged.
    pub(crate) fn refusal(&self) -> Option<Error> {
        let is_damage = |row: &&RecoveryRow| match row {
            RecoveryRow::DamagedTail
            | RecoveryRow::RotBeyondCap
            | RecoveryRow::Unreadable
            | RecoveryRow::DamagedSegment
            | RecoveryRow::SizeDiffers
            | RecoveryRow::SealDiffers
            | RecoveryRow::MissingSegment => true,
            RecoveryRow::StateLost => self.cut_bytes > 0,
            _ => false,
        };
        let rows: Vec<_> = self.rows.iter().filter(is_damage).map(RecoveryRow::to_string).collect();
        if rows.is_empty() {
            return None;
        }
        let message = format!("acknowledged data is damaged, rows {} of the recovery table", rows.join(", "));
        let error = refused(message);
        Some(match self.damaged.first() {
            Some(first) => error.offsets(first.clone()),
            None => error,
        })
    }
}

//! Syncs of one open file, one at a time. A system tells of bytes that it could not write once for each open file: of
//! two syncs at once, or one after the other, only one fails, and the other would vouch for what is lost.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// What is known of the syncs of one open file.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    begun: AtomicU64,
    /// Why one failed. Held while syncing.
    failed: Mutex<Option<(io::ErrorKind, String)>>,
}

impl Syncs {
    /// Runs `sync`, unless one that began after the call has done it, or an earlier one failed.
    pub(super) fn run(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let before = self.begun.load(Ordering::SeqCst);
        let mut failed = self.failed.lock();
        if let Some((kind, why)) = &*failed {
            return Err(io::Error::new(*kind, format!("an earlier sync of this file failed: {why}")));
        }
        if self.begun.load(Ordering::SeqCst) > before {
            return Ok(());
        }
        self.begun.fetch_add(1, Ordering::SeqCst);
        sync().inspect_err(|e| *failed = Some((e.kind(), e.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn a_failure_is_told_to_all_who_sync() {
        let syncs = Syncs::default();
        let ((begun, has_begun), (end, ends)) = (channel(), channel());
        let second = thread::scope(|scope| {
            let syncs = &syncs;
            let first = scope.spawn(move || {
                syncs.run(|| {
                    begun.send(()).unwrap();
                    ends.recv().unwrap();
                    Err(io::Error::other("lost"))
                })
            });
            has_begun.recv().unwrap();
            let second = scope.spawn(|| syncs.run(|| Ok(())));
            end.send(()).unwrap();
            assert_eq!(first.join().unwrap().unwrap_err().to_string(), "lost");
            second.join().unwrap()
        });
        assert_eq!(second.unwrap_err().to_string(), "an earlier sync of this file failed: lost");
        syncs.run(|| Ok(())).unwrap_err();
    }

    #[test]
    fn each_of_two_in_order_is_run() {
        let (syncs, mut runs) = (Syncs::default(), 0);
        for _ in 0..2 {
            syncs
                .run(|| {
                    runs += 1;
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(runs, 2);
    }
}

//! Syncs and reads that wait until they are let go, so that a test can do something else meanwhile.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Operation, SimStorage};
use crate::log::Signal;

/// The next sync or read of a file whose path has something in it waits for as long as this lives.
#[derive(Debug)]
#[must_use = "dropping it lets the operation go on"]
pub struct Hold(Arc<Held>);

/// What one hold and the operation that it stops have in common.
#[derive(Debug)]
pub(super) struct Held {
    operation: Operation,
    part: String,
    state: Mutex<State>,
    changed: Signal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Awaited,
    Waiting,
    Over,
}

impl Hold {
    /// Blocks until the operation is there, and waits.
    pub fn wait_for_it(&self) {
        self.0.wait_while(State::Awaited);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        *self.0.state.lock() = State::Over;
        self.0.changed.notify();
    }
}

impl Held {
    fn stop(&self) {
        let mut state = self.state.lock();
        if *state == State::Awaited {
            *state = State::Waiting;
        }
        drop(state);
        self.changed.notify();
        self.wait_while(State::Waiting);
    }

    fn wait_while(&self, unwanted: State) {
        loop {
            let seen = self.changed.count();
            if *self.state.lock() != unwanted {
                return;
            }
            self.changed.wait_past(seen, None);
        }
    }
}

impl SimStorage {
    /// Has the next sync of a file whose path contains `part` wait before it does anything, until the answer is
    /// dropped. Other operations go on meanwhile, other syncs of that file included.
    ///
    /// ```
    /// use std::path::Path;
    /// use thalweg::testing::SimStorage;
    /// use thalweg::{File, OpenMode, Storage};
    /// let disk = SimStorage::new();
    /// let file = disk.open(Path::new("slow"), OpenMode::CreateNew)?;
    /// let held = disk.hold_sync("slow");
    /// std::thread::scope(|scope| {
    ///     let syncing = scope.spawn(|| file.sync_data());
    ///     held.wait_for_it();
    ///     assert_eq!(file.write_at(b"meanwhile", 0)?, 9);
    ///     drop(held);
    ///     syncing.join().expect("it does not panic")
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn hold_sync(&self, part: &str) -> Hold {
        self.hold(Operation::Sync, part)
    }

    /// The same for the next read of one.
    pub fn hold_read(&self, part: &str) -> Hold {
        self.hold(Operation::Read, part)
    }

    fn hold(&self, operation: Operation, part: &str) -> Hold {
        let (state, changed) = (Mutex::new(State::Awaited), Signal::default());
        let held = Arc::new(Held { operation, part: part.to_owned(), state, changed });
        self.holds.lock().push(Arc::clone(&held));
        Hold(held)
    }

    pub(super) fn stop_where_held(&self, operation: Operation, path: &Path) {
        let held = {
            let mut holds = self.holds.lock();
            let path = path.to_string_lossy();
            holds
                .iter()
                .position(|held| held.operation == operation && path.contains(&held.part))
                .map(|at| holds.remove(at))
        };
        held.iter().for_each(|held| held.stop());
    }
}

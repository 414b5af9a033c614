//! Wakes a future at a time. The time is the broker's clock's; the wake-up comes from the thread that runs tasks, or
//! from `run_maintenance` where there is none.
//!
//! Protocol: look at the clock, then `wake_at`. What is due already wakes at once.

use std::mem;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Broker, Task, wake_all};
use crate::error::Result;

/// One future's alarm. Dropped, it is forgotten.
pub(crate) struct Timer {
    broker: Broker,
    ring: Arc<Ring>,
}

#[derive(Default)]
struct Ring(Mutex<Set>);

#[derive(Default)]
struct Set {
    waker: Option<Waker>,
    /// The earliest time for which a run is arranged.
    due: Option<Duration>,
}

impl Timer {
    pub(crate) fn new(broker: &Broker) -> Self {
        Self { broker: broker.clone(), ring: Arc::default() }
    }

    /// Has `waker` woken at `due`, in monotonic time, or before.
    pub(crate) fn wake_at(&self, due: Duration, waker: &Waker) {
        let mut set = self.ring.0.lock();
        let before = set.waker.replace(waker.clone());
        let is_earlier = set.due.is_none_or(|arranged| due < arranged);
        if is_earlier {
            set.due = Some(due);
        }
        drop(set);
        drop(before);
        if is_earlier {
            self.broker.run_at(due, self.task());
        }
    }

    fn task(&self) -> Weak<dyn Task> {
        let ring: Weak<Ring> = Arc::downgrade(&self.ring);
        ring
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.broker.forget(&self.task());
    }
}

impl Ring {
    fn ring(&self) {
        let Set { waker, .. } = mem::take(&mut *self.0.lock());
        wake_all(waker.into_iter().collect());
    }
}

impl Task for Ring {
    fn run(&self, _now: Duration) -> Option<Duration> {
        self.ring();
        None
    }

    fn finish(&self) -> Result<()> {
        self.ring();
        Ok(())
    }
}

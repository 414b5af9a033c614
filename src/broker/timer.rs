//! Wakes a future at a time. The time is the broker's clock's; the wake-up comes from the thread that runs tasks, or
//! from `run_maintenance` where there is none.
//!
//! Protocol: look at the clock, then `wake_at`. What is due already wakes at once, and so does all of a closed broker.

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
        if self.broker.check_open().is_err() {
            // It may have run its tasks for the last time.
            self.ring.ring();
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_future_is_woken_at_its_time_and_when_nobody_keeps_time_any_more() {
        let broker = Broker::builder("/m").storage(crate::storage::MemoryStorage::new()).manual().open().unwrap();
        let timer = Timer::new(&broker);
        let woken_after = |due: Duration, act: &dyn Fn()| {
            let woken = Arc::new(Woken::default());
            timer.wake_at(due, &Arc::clone(&woken).into());
            act();
            woken.0.load(Ordering::Relaxed)
        };
        let far = Duration::from_secs(1 << 30);
        assert!(woken_after(Duration::ZERO, &|| broker.run_maintenance().map(drop).unwrap()));
        assert!(!woken_after(far, &|| broker.run_maintenance().map(drop).unwrap()));
        assert!(woken_after(far, &|| broker.close().unwrap()));
        assert!(woken_after(far, &|| {}));
    }
}

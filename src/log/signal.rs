//! A counter of events that can be waited on: by blocked threads and by futures.
//!
//! Protocol against lost wake-ups: read `count`, then look at the state that events announce, then
//! wait past that count. An event between the look and the wait makes the wait return at once. The
//! announcer changes the state first and notifies after.
//!
//! Wakers are called and dropped under no lock of ours: what they do is not ours.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem;
use std::task::Waker;
use std::time::Duration;

#[cfg(not(shuttle))]
use parking_lot::{Condvar, Mutex};
#[cfg(shuttle)]
use shuttle::sync::{Condvar, Mutex};

use crate::sync::thread_local;

/// Counts events and wakes those who wait for the next one; one signal can watch any number of logs.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    count: u64,
    waiting: usize,
    wakers: Vec<Waker>,
}

/// shuttle's mutex with a condition speaks std's dialect.
macro_rules! lock {
    ($mutex:expr) => {{
        #[cfg(shuttle)]
        let guard = $mutex.lock().unwrap();
        #[cfg(not(shuttle))]
        let guard = $mutex.lock();
        guard
    }};
}

impl Signal {
    /// The number of events so far. Read it before looking at what the events announce.
    pub(crate) fn count(&self) -> u64 {
        lock!(self.state).count
    }

    /// Whether a thread is blocked on it.
    #[cfg(test)]
    pub(crate) fn is_waited_on(&self) -> bool {
        lock!(self.state).waiting > 0
    }

    /// Announces an event.
    pub(crate) fn notify(&self) {
        #[cfg(shuttle)]
        crate::sync::model::woke();
        let mut state = lock!(self.state);
        state.count += 1;
        let wakers = mem::take(&mut state.wakers);
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.changed.notify_all();
        }
        wake_all(wakers);
    }

    /// Waits until there were more than `seen` events; `false` when the time ran out first. Without a
    /// timeout it waits for ever.
    #[cfg(not(shuttle))]
    pub(crate) fn wait_past(&self, seen: u64, timeout: Option<Duration>) -> bool {
        #[expect(
            clippy::disallowed_methods,
            reason = "a deadline of the operating system's own wait, not a time that is kept"
        )]
        let deadline = timeout.and_then(|t| std::time::Instant::now().checked_add(t));
        let mut state = self.state.lock();
        state.waiting += 1;
        while state.count <= seen {
            match deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) => {
                    if self.changed.wait_until(&mut state, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        state.waiting -= 1;
        state.count > seen
    }

    /// As above, in the model's time.
    #[cfg(shuttle)]
    pub(crate) fn wait_past(&self, seen: u64, timeout: Option<Duration>) -> bool {
        if let Some(timeout) = timeout {
            return crate::sync::model::wait(timeout, |waker| self.poll_past(seen, waker));
        }
        let mut state = lock!(self.state);
        state.waiting += 1;
        while state.count <= seen {
            state = self.changed.wait(state).unwrap();
        }
        state.waiting -= 1;
        true
    }

    /// Has `waker` woken at the next event after `seen`; `true` when that event was already.
    pub(crate) fn poll_past(&self, seen: u64, waker: &Waker) -> bool {
        let mut state = lock!(self.state);
        if state.count > seen {
            return true;
        }
        if !state.wakers.iter().any(|w| w.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        false
    }

    /// The same for a signal on which one task waits at a time: `waker` takes the place of those of before, whose
    /// futures were dropped or moved to another task.
    #[cfg(feature = "async")]
    pub(crate) fn poll_past_alone(&self, seen: u64, waker: &Waker) -> bool {
        let before = mem::take(&mut lock!(self.state).wakers);
        let is_past = self.poll_past(seen, waker);
        drop(before);
        is_past
    }
}

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept { quiet: 0, wakers: Vec::new() }) };
}

struct Kept {
    /// How many [`Quiet`]s the thread has.
    quiet: usize,
    wakers: Vec<Waker>,
}

/// While a thread has one, it calls no waker: the last one that it drops does. To be made before a lock is taken under
/// which something may be announced, and dropped after. A waker may poll its future at once, or be the last to hold it;
/// what that future does then takes locks.
#[derive(Debug)]
pub(crate) struct Quiet(PhantomData<*const ()>);

impl Quiet {
    pub(crate) fn new() -> Self {
        with_kept(|kept| kept.quiet += 1);
        Self(PhantomData)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let wakers = with_kept(|kept| {
            kept.quiet -= 1;
            if kept.quiet == 0 { mem::take(&mut kept.wakers) } else { Vec::new() }
        });
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// Calls these wakers, or has them called when the thread's quiet ends.
pub(crate) fn wake_all(mut wakers: Vec<Waker>) {
    if wakers.is_empty() {
        return;
    }
    with_kept(|kept| {
        if kept.quiet > 0 {
            kept.wakers.append(&mut wakers);
        }
    });
    wakers.into_iter().for_each(Waker::wake);
}

/// `None` in a thread that ends and has given up what was its own.
fn with_kept<T>(work: impl FnOnce(&mut Kept) -> T) -> Option<T> {
    KEPT.try_with(|kept| work(&mut kept.borrow_mut())).ok()
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn an_event_between_look_and_wait_is_not_lost() {
        let signal = Signal::default();
        let seen = signal.count();
        signal.notify();
        assert!(signal.wait_past(seen, None));
        assert!(!signal.wait_past(seen + 1, Some(Duration::from_millis(1))));
    }

    #[test]
    fn a_blocked_thread_wakes() {
        let signal = Arc::new(Signal::default());
        let seen = signal.count();
        let waiter = std::thread::spawn({
            let signal = Arc::clone(&signal);
            move || signal.wait_past(seen, Some(Duration::from_secs(30)))
        });
        signal.notify();
        assert!(waiter.join().unwrap());
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use super::*;
    use crate::sync::atomic::{AtomicU64, Ordering};
    use crate::sync::{model, thread};
    use std::sync::Arc;

    /// A tailing reader and two appenders: in every order the reader ends up seeing both appends.
    #[test]
    fn shuttle_a_tailing_reader_misses_no_append() {
        model::explore(|| {
            let end = Arc::new(AtomicU64::new(0));
            let signal = Arc::new(Signal::default());
            let appenders: Vec<_> = (0..2)
                .map(|_| {
                    let (end, signal) = (Arc::clone(&end), Arc::clone(&signal));
                    thread::spawn(move || {
                        end.fetch_add(1, Ordering::Release);
                        signal.notify();
                    })
                })
                .collect();
            loop {
                let seen = signal.count();
                if end.load(Ordering::Acquire) == 2 {
                    break;
                }
                signal.wait_past(seen, None);
            }
            for appender in appenders {
                appender.join().unwrap();
            }
        });
    }
}

//! Those who wait for a commit, and whom the end of one wakes: everybody whose append is settled, and one of the
//! others, to lead the next. Whoever leads may gather first: wait a moment for as many as the last commits served.
//!
//! Protocol against lost wake-ups: enter the list, then look at the state and try for the writer lock, then park.
//! Whoever lets the lock go changes the state first and goes through the list after.

use std::time::Duration;

use parking_lot::Mutex;

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::thread::{self, Thread};

/// The threads that wait, first come first; `P` is what they wait for.
#[derive(Debug)]
pub(super) struct Waiters<P> {
    list: Mutex<Vec<(P, Thread)>>,
    /// Counts those who began to wait for a sync.
    arrived: AtomicUsize,
}

impl<P> Default for Waiters<P> {
    fn default() -> Self {
        Self { list: Mutex::new(Vec::new()), arrived: AtomicUsize::new(0) }
    }
}

/// A place in the list, for as long as it lives.
pub(super) struct Place<'a, P>(&'a Waiters<P>);

impl<P> Waiters<P> {
    /// Puts the calling thread into the list.
    pub(super) fn enter(&self, wanted: P) -> Place<'_, P> {
        self.list.lock().push((wanted, thread::current()));
        Place(self)
    }

    /// Wakes everybody of whom `is_settled` holds, and one of whom it does not.
    pub(super) fn wake(&self, is_settled: impl Fn(&P) -> bool) {
        let mut has_leader = false;
        for (wanted, thread) in self.list.lock().iter() {
            if is_settled(wanted) || !std::mem::replace(&mut has_leader, true) {
                thread.unpark();
            }
        }
    }

    /// Whether somebody waits.
    #[cfg(test)]
    pub(super) fn are_there(&self) -> bool {
        !self.list.lock().is_empty()
    }

    /// Counts the calling thread among those who wait for a sync.
    pub(super) fn arrive(&self) {
        self.arrived.fetch_add(1, Ordering::AcqRel);
    }
}

impl<P> Place<'_, P> {
    /// Sleeps until woken, or for no reason.
    pub(super) fn park(&self) {
        thread::park();
    }
}

impl<P> Drop for Place<'_, P> {
    fn drop(&mut self) {
        let me = thread::current().id();
        self.0.list.lock().retain(|(_, thread)| thread.id() != me);
    }
}

/// What the leaders of one log tell each other about those who wait. The writer lock guards it.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// How many had arrived when staged appends were last taken.
    taken: usize,
    /// How many the last commit served.
    group: usize,
    /// How many may well come before the next.
    expected: usize,
}

impl Gather {
    /// Waits until as many writers wait as are expected, at most `limit`. Somebody who is alone does not wait, and
    /// reads no clock.
    pub(super) fn wait<P>(&mut self, waiters: &Waiters<P>, limit: Duration) {
        if self.is_complete(waiters) || limit.is_zero() {
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "bounds a wait of microseconds; no time that is kept")]
        let begun = std::time::Instant::now();
        while !self.is_complete(waiters) {
            if begun.elapsed() >= limit {
                // They think longer than that: do not wait for them again.
                self.expected = 0;
                return;
            }
            thread::yield_now();
        }
    }

    fn is_complete<P>(&self, waiters: &Waiters<P>) -> bool {
        self.waiting(waiters) >= self.expected
    }

    fn waiting<P>(&self, waiters: &Waiters<P>) -> usize {
        waiters.arrived.load(Ordering::Acquire).wrapping_sub(self.taken)
    }

    /// Notes that staged appends are being taken.
    pub(super) fn take<P>(&mut self, waiters: &Waiters<P>) {
        self.group = self.waiting(waiters);
        self.taken = self.taken.wrapping_add(self.group);
    }

    /// Notes that what was taken is synced. Those who were served may come back, and those who came meanwhile wait.
    pub(super) fn served<P>(&mut self, waiters: &Waiters<P>) {
        self.expected = self.group + self.waiting(waiters);
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    /// What `n` writers that take turns have their leader wait for.
    fn expected(gather: &mut Gather, waiters: &Waiters<u64>, waiting: usize, meanwhile: usize) -> usize {
        (0..waiting).for_each(|_| waiters.arrive());
        gather.take(waiters);
        (0..meanwhile).for_each(|_| waiters.arrive());
        gather.served(waiters);
        gather.expected
    }

    #[test]
    fn a_lone_writer_waits_for_nobody() {
        let (mut gather, waiters) = (Gather::default(), Waiters::default());
        for _ in 0..3 {
            assert_eq!(expected(&mut gather, &waiters, 1, 0), 1);
            waiters.arrive();
            // For ever, if it did.
            gather.wait(&waiters, Duration::MAX);
            gather.take(&waiters);
        }
    }

    #[test]
    fn those_who_were_served_are_expected_back_with_those_who_came_meanwhile() {
        let (mut gather, waiters) = (Gather::default(), Waiters::default());
        assert_eq!(expected(&mut gather, &waiters, 1, 7), 8);
        // One comes back: eight wait.
        assert_eq!(expected(&mut gather, &waiters, 1, 0), 8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| waiters.arrive());
            }
            gather.wait(&waiters, Duration::MAX);
        });
        gather.take(&waiters);
        assert_eq!(gather.group, 8);
    }

    #[test]
    fn who_does_not_come_back_in_time_is_not_waited_for_again() {
        let (mut gather, waiters) = (Gather::default(), Waiters::default());
        assert_eq!(expected(&mut gather, &waiters, 2, 0), 2);
        waiters.arrive();
        gather.wait(&waiters, Duration::from_micros(1));
        gather.wait(&waiters, Duration::MAX);
        assert_eq!(expected(&mut gather, &waiters, 0, 0), 1);
    }

    #[test]
    fn a_place_in_the_list_ends_with_its_holder() {
        let waiters = Waiters::default();
        drop(waiters.enter(1));
        assert!(!waiters.are_there());
    }
}

//! Those who wait for a commit, and whom the end of one wakes: everybody whose append is settled, and one of the
//! others, to lead the next. Whoever leads may gather first: wait a moment for as many as the last commits served.
//!
//! Protocol against lost wake-ups: enter the list, then look at the state and try for the writer lock, then park.
//! Whoever lets the lock go changes the state first and goes through the list after. Model-checked with loom.

use std::time::Duration;

#[cfg(loom)]
use loom::{
    sync::Mutex,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, Thread},
};
#[cfg(not(loom))]
use {
    parking_lot::Mutex,
    std::sync::atomic::{AtomicUsize, Ordering},
    std::thread::{self, Thread},
};

use super::signal::lock;

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
        lock!(self.list).push((wanted, thread::current()));
        Place(self)
    }

    /// Wakes everybody of whom `is_settled` holds, and one of whom it does not.
    pub(super) fn wake(&self, is_settled: impl Fn(&P) -> bool) {
        let mut has_leader = false;
        for (wanted, thread) in lock!(self.list).iter() {
            if is_settled(wanted) || !std::mem::replace(&mut has_leader, true) {
                thread.unpark();
            }
        }
    }

    /// Whether somebody waits.
    #[cfg(test)]
    pub(super) fn are_there(&self) -> bool {
        !lock!(self.list).is_empty()
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
        lock!(self.0.list).retain(|(_, thread)| thread.id() != me);
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

#[cfg(all(test, not(loom)))]
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

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64;

    /// A log as its writers see it.
    #[derive(Default)]
    struct Shared {
        appended: AtomicU64,
        synced: AtomicU64,
        failed: AtomicUsize,
        writer: Mutex<()>,
        waiters: Waiters<u64>,
    }

    impl Shared {
        fn is_settled(&self, end: u64) -> bool {
            self.synced.load(Ordering::Acquire) >= end || self.failed.load(Ordering::Acquire) > 0
        }

        /// As `Inner::wait`; the sync that reaches `fails_at` fails.
        fn append_and_wait(&self, fails_at: u64) {
            let end = self.appended.fetch_add(1, Ordering::AcqRel) + 1;
            let mut place = None;
            while !self.is_settled(end) {
                match (self.writer.try_lock(), &place) {
                    (Ok(guard), _) => {
                        let appended = self.appended.load(Ordering::Acquire);
                        match appended >= fails_at {
                            true => self.failed.store(1, Ordering::Release),
                            false => self.synced.store(appended, Ordering::Release),
                        }
                        drop(guard);
                        self.waiters.wake(|end| self.is_settled(*end));
                    }
                    (Err(_), None) => place = Some(self.waiters.enter(end)),
                    (Err(_), Some(place)) => place.park(),
                }
            }
        }
    }

    fn writers(count: usize, fails_at: u64) {
        loom::model(move || {
            let shared = Arc::new(Shared::default());
            let others: Vec<_> = (1..count)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    loom::thread::spawn(move || shared.append_and_wait(fails_at))
                })
                .collect();
            shared.append_and_wait(fails_at);
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    }

    #[test]
    fn loom_every_writer_is_woken_when_its_append_is_synced() {
        writers(3, u64::MAX);
    }

    #[test]
    fn loom_every_writer_is_woken_when_a_sync_fails() {
        writers(3, 2);
    }

    /// Somebody has the writer lock for a purpose of its own and settles nobody.
    #[test]
    fn loom_a_writer_is_woken_when_the_lock_is_let_go_for_another_reason() {
        loom::model(|| {
            let shared = Arc::new(Shared::default());
            let writer = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || shared.append_and_wait(u64::MAX))
            };
            drop(shared.writer.lock().unwrap());
            shared.waiters.wake(|end| shared.is_settled(*end));
            writer.join().unwrap();
        });
    }
}

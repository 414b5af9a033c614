//! Threads and atomics: those of std, or, in a build with `--cfg shuttle`, such as run one at a time in an order that a
//! test decides. There `parking_lot` is another crate as well, so that the code under test is the code that ships.
//!
//! Time passes in such a build when nobody can go on otherwise, up to the next moment that somebody waits for: what
//! ought to be woken and is not sleeps its whole timeout, and a test sees that by the clock.

#[cfg(not(shuttle))]
pub(crate) use std::{sync::atomic, thread, thread_local};

#[cfg(shuttle)]
pub(crate) use shuttle::{sync::atomic, thread, thread_local};

#[cfg(shuttle)]
pub(crate) mod model {
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Wake, Waker};
    use std::time::Duration;

    use crate::clock::Clock;
    use crate::types::Timestamp;

    /// After so many looks of waiting threads with no step of another between them, nobody else can go on...
    const IDLE: usize = 100;
    /// ...nor after so many while nobody was woken: who is parked takes steps too, as he may wake for no reason.
    const UNWOKEN: usize = 10_000;

    #[derive(Default)]
    struct Time {
        now: Duration,
        /// What those wait for who wait for a while.
        deadlines: Vec<Duration>,
        /// Steps of all threads, as of the last look of one that waits.
        steps: usize,
        /// Looks since another thread took a step, and since one was woken.
        idle: usize,
        unwoken: usize,
    }

    // Of the thread that runs the whole test.
    std::thread_local! {
        static TIME: RefCell<Time> = RefCell::default();
    }

    fn with_time<T>(work: impl FnOnce(&mut Time) -> T) -> T {
        TIME.with(|time| work(&mut time.borrow_mut()))
    }

    /// Time since the test began.
    pub(crate) fn now() -> Duration {
        with_time(|time| time.now)
    }

    /// Notes that somebody may go on.
    pub(crate) fn woke() {
        with_time(|time| time.unwoken = 0);
    }

    /// Time as those see it who wait.
    #[derive(Debug)]
    #[allow(dead_code, reason = "only tests have it")]
    pub(crate) struct ModelClock;

    impl Clock for ModelClock {
        fn now(&self) -> Timestamp {
            Timestamp::new(1_700_000_000_000 + i64::try_from(now().as_millis()).unwrap_or(0))
        }

        fn monotonic(&self) -> Duration {
            now()
        }
    }

    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until woken, for at most `timeout`; `false` when time ran out. `begin` takes the waker, or answers that there
    /// is nothing to wait for.
    pub(crate) fn wait(timeout: Duration, begin: impl FnOnce(&Waker) -> bool) -> bool {
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        if begin(&Waker::from(Arc::clone(&woken))) {
            return true;
        }
        let deadline = with_time(|time| {
            let deadline = time.now.saturating_add(timeout);
            time.deadlines.push(deadline);
            deadline
        });
        while !woken.0.load(Ordering::Relaxed) && now() < deadline {
            super::thread::yield_now();
            with_time(Time::look);
        }
        with_time(|time| {
            let at = time.deadlines.iter().position(|other| *other == deadline);
            at.map(|at| time.deadlines.swap_remove(at));
            // It goes on, so that is a step.
            (time.idle, time.unwoken) = (0, 0);
        });
        woken.0.load(Ordering::Relaxed)
    }

    impl Time {
        fn look(&mut self) {
            let steps = shuttle::current::context_switches();
            self.idle = if steps == self.steps + 1 { self.idle + 1 } else { 0 };
            self.steps = steps;
            self.unwoken += 1;
            if self.idle > IDLE || self.unwoken > UNWOKEN {
                (self.idle, self.unwoken) = (0, 0);
                self.now = self.deadlines.iter().copied().fold(Duration::MAX, Duration::min).max(self.now);
                assert!(self.now < Duration::from_secs(3600), "somebody waits for what never comes");
            }
        }
    }

    /// Runs `test` in many orders of its threads' steps, the same ones each time; `THALWEG_SCHEDULES` says how many.
    #[cfg(test)]
    pub(crate) fn explore(test: impl Fn() + Send + Sync + 'static) {
        use shuttle::scheduler::{PctScheduler, RandomScheduler};
        use shuttle::{Config, Runner};

        let count = std::env::var("THALWEG_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(150);
        let test = Arc::new(move || {
            with_time(|time| *time = Time::default());
            test();
        });
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        config.silence_warnings = true;
        let run = |test: &Arc<_>| {
            let test: Arc<dyn Fn() + Send + Sync> = Arc::clone(test) as _;
            move || test()
        };
        Runner::new(RandomScheduler::new_from_seed(1, count), config.clone()).run(run(&test));
        // Few switches, at places that are chosen evenly: what takes a rare order is found sooner.
        Runner::new(PctScheduler::new_from_seed(1, 3, count), config).run(run(&test));
    }
}

//! Time comes in only through [`Clock`], so that tests and simulations can hold it in their hands.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::types::Timestamp;

/// A source of wall-clock and monotonic time.
///
/// Record timestamps come from [`Clock::now`]; timeouts and intervals from [`Clock::monotonic`],
/// which never runs backwards.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall-clock time.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment in the past; never decreases.
    fn monotonic(&self) -> Duration;
}

/// The machine's own clock.
#[derive(Debug, Clone)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    pub fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
        let started = Instant::now();
        Self { started }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
        SystemTime::now().into()
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A clock that moves only when it is told to. Clones show the same time.
///
/// ```
/// use std::time::Duration;
/// use thalweg::{Clock, ManualClock, Timestamp};
/// let clock = ManualClock::new(Timestamp::new(1_000));
/// clock.advance(Duration::from_millis(5));
/// assert_eq!(clock.now(), 1_005);
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock {
    time: Arc<Mutex<(Timestamp, Duration)>>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { time: Arc::new(Mutex::new((now, Duration::ZERO))) }
    }

    /// Moves both the wall clock and the monotonic clock forward.
    pub fn advance(&self, by: Duration) {
        let mut time = self.time.lock();
        time.0 = time.0.saturating_add(by);
        time.1 += by;
    }

    /// Sets the wall clock alone, forward or back, as an operator or NTP may do.
    pub fn set_wall(&self, now: Timestamp) {
        self.time.lock().0 = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.time.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.time.lock().1
    }
}

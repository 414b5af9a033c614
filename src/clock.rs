//! Time comes in only through [`Clock`], so that tests and simulations can hold it in their hands.

use std::fmt;
use std::sync::Arc;
#[cfg(not(unix))]
use std::time::SystemTime;
use std::time::{Duration, Instant};

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
    /// Each record asks for it, so what it costs matters.
    #[cfg(unix)]
    fn now(&self) -> Timestamp {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Timestamp::new(now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000))
    }

    #[cfg(not(unix))]
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
        SystemTime::now().into()
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Wall-clock time that jumps of the wall clock do not move: it begins with the wall clock's time, goes on with the
/// monotonic clock, and follows the wall clock as far as that drifts. What is deleted for its age is as old as this says.
#[derive(Debug)]
pub(crate) struct SteadyTime {
    clock: Arc<dyn Clock>,
    state: Mutex<Steady>,
}

#[derive(Debug)]
struct Steady {
    now: Timestamp,
    /// What both clocks showed at the last look.
    wall: Timestamp,
    monotonic: Duration,
    /// The wall clock began so far ahead of what was known to have passed, and nobody has believed it yet.
    ahead: Duration,
}

/// A wall clock that is this far off is wrong.
const SKEW_MAX: i64 = 10_000;

impl SteadyTime {
    /// `known`: a time that has passed, by what an earlier process left; `None` where there was none.
    pub(crate) fn new(clock: Arc<dyn Clock>, known: Option<Timestamp>) -> Self {
        let (wall, monotonic) = (clock.now(), clock.monotonic());
        let known = known.unwrap_or(wall);
        let ahead = Duration::from_millis(u64::try_from(wall.get().saturating_sub(known.get())).unwrap_or(0));
        Self { clock, state: Mutex::new(Steady { now: wall.max(known), wall, monotonic, ahead }) }
    }

    /// The time, and whether the wall clock shows about the same.
    pub(crate) fn look(&self) -> (Timestamp, bool) {
        let mut state = self.state.lock();
        let (wall, monotonic) = (self.clock.now(), self.clock.monotonic());
        let passed = millis(monotonic.saturating_sub(state.monotonic));
        let drift = wall.get().saturating_sub(state.wall.get()).saturating_sub(passed);
        // Clocks are set right by so much without a jump.
        let followed = if drift.saturating_abs() <= 1000 + passed / 1000 { drift } else { 0 };
        let now = Timestamp::new(state.now.get().saturating_add(passed).saturating_add(followed));
        (state.now, state.wall, state.monotonic) = (now, wall, monotonic);
        (now, wall.get().saturating_sub(now.get()).saturating_abs() <= SKEW_MAX)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.look().0
    }

    /// A time that has passed with certainty: without what only the wall clock of a new process says.
    pub(crate) fn passed(&self) -> Timestamp {
        let now = self.now();
        Timestamp::new(now.get().saturating_sub(millis(self.ahead())))
    }

    /// How far ahead of all that is known the wall clock was at the start, if nobody has believed it yet.
    pub(crate) fn ahead(&self) -> Duration {
        self.state.lock().ahead
    }

    /// Believes what the wall clock said at the start, unless it was set back meanwhile; never less than what has passed.
    pub(crate) fn believe(&self) {
        let passed = self.passed();
        let mut state = self.state.lock();
        state.now = state.now.min(self.clock.now().max(passed));
        state.ahead = Duration::ZERO;
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
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

#[cfg(test)]
mod tests {
    use super::*;

    const T: i64 = 1_700_000_000_000;
    const YEARS: i64 = 10 * 365 * 24 * 3_600_000;

    fn steady(known: Option<i64>) -> (ManualClock, SteadyTime) {
        let clock = ManualClock::new(Timestamp::new(T));
        let time = SteadyTime::new(Arc::new(clock.clone()), known.map(Timestamp::new));
        (clock, time)
    }

    #[test]
    fn jumps_move_nothing_and_drift_is_followed() {
        let (clock, time) = steady(None);
        for (step, wall) in (1..).zip([T + YEARS, 0, -YEARS, T + YEARS]) {
            clock.advance(Duration::from_secs(10));
            clock.set_wall(Timestamp::new(wall));
            assert_eq!(time.look(), (Timestamp::new(T + step * 10_000), false));
        }
        clock.set_wall(Timestamp::new(T + 41_000));
        assert_eq!(time.look(), (Timestamp::new(T + 40_000), true), "it was put right");
        let (clock, time) = steady(None);
        for step in 1..=100 {
            clock.advance(Duration::from_secs(600));
            clock.set_wall(Timestamp::new(clock.now().get() + 500));
            assert_eq!(time.look(), (Timestamp::new(T + step * 600_500), true));
        }
    }

    #[test]
    fn time_does_not_run_back_over_a_restart() {
        let (clock, time) = steady(Some(T + 5_000_000));
        clock.advance(Duration::from_secs(1));
        assert_eq!(time.look(), (Timestamp::new(T + 5_001_000), false));
        assert_eq!((time.ahead(), time.passed()), (Duration::ZERO, Timestamp::new(T + 5_001_000)));
    }

    #[test]
    fn a_restart_that_leaps_ahead_is_believed_when_somebody_says_so() {
        let (clock, time) = steady(Some(T - YEARS));
        clock.advance(Duration::from_secs(1));
        assert_eq!((time.now(), time.passed()), (Timestamp::new(T + 1000), Timestamp::new(T - YEARS + 1000)));
        clock.set_wall(Timestamp::new(T - YEARS + 60_000));
        time.believe();
        assert_eq!(time.look(), (Timestamp::new(T - YEARS + 60_000), true), "it was put right meanwhile");
        assert_eq!(time.ahead(), Duration::ZERO);
    }
}

//! Plain counters, and one snapshot of them. Exporting that is the user's business.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;

/// What a broker, or a log that stands alone, has counted since it was opened; from
/// [`Broker::metrics`](crate::Broker::metrics) and [`Log::metrics`](crate::Log::metrics).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// How long the disk took to make things durable.
    pub syncs: SyncMetrics,
}

/// Syncs of files and directories, failed ones included. Its `Display` is one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyncMetrics {
    /// How many have ended.
    pub count: u64,
    /// How long those took together.
    pub total: Duration,
    /// How long the longest of those took.
    pub longest: Duration,
    /// How many took how long, by powers of two: the first less than one microsecond, the second less than 2, the third
    /// less than 4, and so on; the last has all that took longer.
    pub histogram: [u64; SyncMetrics::CLASSES],
    /// How long the oldest is under way that has not ended. A disk that hangs shows nowhere else.
    pub waiting: Option<Duration>,
}

impl SyncMetrics {
    /// What takes longer is slow: one second. Whoever appends, and waits for that, waits as long.
    pub const SLOW: Duration = Duration::from_secs(1);

    /// How many classes the histogram has.
    pub const CLASSES: usize = 32;

    /// Whether a sync took longer than [`SLOW`](Self::SLOW), or does so just now.
    #[must_use]
    pub fn was_slow(&self) -> bool {
        self.longest.max(self.waiting.unwrap_or_default()) > Self::SLOW
    }
}

impl fmt::Display for SyncMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, total, longest, waiting, .. } = self;
        write!(f, "syncs={count} total={total:?} longest={longest:?} waiting={:?}", waiting.unwrap_or_default())
    }
}

/// Times syncs.
#[derive(Debug)]
pub(crate) struct SyncMeter {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ended: SyncMetrics,
    /// When each began that has not ended, by its number.
    under_way: BTreeMap<u64, Duration>,
    begun: u64,
}

/// A sync that has not ended, be it by a panic.
struct UnderWay<'a> {
    meter: &'a SyncMeter,
    number: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.meter.state.lock().under_way.remove(&self.number);
    }
}

impl SyncMeter {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    pub(crate) fn time<T>(&self, sync: impl FnOnce() -> T) -> T {
        let began = self.clock.monotonic();
        let number = {
            let mut state = self.state.lock();
            state.begun += 1;
            let number = state.begun;
            state.under_way.insert(number, began);
            number
        };
        let under_way = UnderWay { meter: self, number };
        let done = sync();
        drop(under_way);
        let took = self.clock.monotonic().saturating_sub(began);
        let mut state = self.state.lock();
        let ended = &mut state.ended;
        ended.count += 1;
        ended.total += took;
        ended.longest = ended.longest.max(took);
        let class = u128::BITS - took.as_micros().leading_zeros();
        ended.histogram[(class as usize).min(SyncMetrics::CLASSES - 1)] += 1;
        done
    }

    pub(crate) fn metrics(&self) -> SyncMetrics {
        let state = self.state.lock();
        let oldest = state.under_way.values().min();
        let waiting = oldest.map(|began| self.clock.monotonic().saturating_sub(*began));
        SyncMetrics { waiting, ..state.ended.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::types::Timestamp;

    #[test]
    fn syncs_are_counted_by_how_long_they_take() {
        let clock = ManualClock::new(Timestamp::new(0));
        let meter = SyncMeter::new(Arc::new(clock.clone()));
        for micros in [0, 1, 2, 3, 1 << 40] {
            meter.time(|| clock.advance(Duration::from_micros(micros)));
        }
        let metrics = meter.metrics();
        assert_eq!((metrics.count, metrics.waiting), (5, None));
        assert_eq!((&metrics.histogram[..4], metrics.histogram[SyncMetrics::CLASSES - 1]), (&[1, 1, 2, 0][..], 1));
        assert_eq!(metrics.total, Duration::from_micros((1 << 40) + 6));
        assert_eq!(metrics.longest, Duration::from_micros(1 << 40));
    }

    #[test]
    fn a_sync_that_has_not_ended_shows() {
        let clock = ManualClock::new(Timestamp::new(0));
        let meter = SyncMeter::new(Arc::new(clock.clone()));
        meter.time(|| {
            clock.advance(SyncMetrics::SLOW);
            meter.time(|| assert!(!meter.metrics().was_slow()));
            clock.advance(Duration::from_micros(1));
            let metrics = meter.metrics();
            assert!(metrics.was_slow());
            let line = "syncs=1 total=0ns longest=0ns waiting=1.000001s";
            assert_eq!(metrics.to_string(), line);
        });
        assert_eq!(meter.metrics().waiting, None);
        assert!(meter.metrics().was_slow());
    }
}

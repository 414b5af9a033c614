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
    /// What [`Producer`](crate::Producer)s did, by topic: of those that there are and that one was used for. Nothing
    /// for a log that stands alone.
    pub producers: BTreeMap<Arc<str>, ProducerMetrics>,
}

/// What producers did for one topic. Its `Display` is one line.
///
/// ```
/// let broker = thalweg::Broker::in_memory()?;
/// broker.topic("orders").create()?;
/// broker.producer().build()?.send("orders", "paid")?;
/// let orders = &broker.metrics().producers["orders"];
/// assert_eq!((orders.records, orders.batches, orders.errors), (1, 1, 0));
/// assert!(orders.latency.quantile(0.99) >= orders.latency.quantile(0.5));
/// println!("{orders}");
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerMetrics {
    /// Records that were acknowledged.
    pub records: u64,
    /// Batches that those were in.
    pub batches: u64,
    /// Bytes of those batches as they are stored, headers included.
    pub bytes: u64,
    /// The same before compression.
    pub plain_bytes: u64,
    /// What those batches might have held: `batch.size`, or `max.message.bytes` of the topic if that is less.
    pub room_bytes: u64,
    /// How long those batches waited from their first record to their hand-over to the log: for more records, for those
    /// before them, for another try.
    pub queue_time: Latencies,
    /// How long it took from there until they were as durable as was asked for. Where nobody waits for a batch, its end
    /// may be noticed as late as the next batch of its partition.
    pub latency: Latencies,
    /// How often a batch was put off, to be tried again.
    pub retries: u64,
    /// Records that were refused, or of which it is not known that they arrived.
    pub errors: u64,
}

impl ProducerMetrics {
    /// How full batches were, from 0 to 1, or more where a record was larger than a batch is to be; 0 before the first.
    #[must_use]
    pub fn batch_fill(&self) -> f64 {
        ratio(self.plain_bytes, self.room_bytes)
    }

    /// What is stored of each byte before compression: 1 where nothing is compressed, less where that gains; 0 before
    /// the first batch.
    #[must_use]
    pub fn compression_ratio(&self) -> f64 {
        ratio(self.bytes, self.plain_bytes)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl fmt::Display for ProducerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, batches, bytes, retries, errors, latency, .. } = self;
        let (fill, ratio) = (self.batch_fill(), self.compression_ratio());
        let [p50, p99] = [0.5, 0.99].map(|q| latency.quantile(q));
        write!(f, "records={records} batches={batches} bytes={bytes} fill={fill:.2} compression={ratio:.2} ")?;
        write!(f, "p50={p50:?} p99={p99:?} retries={retries} errors={errors}")
    }
}

/// How long things took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latencies {
    /// How many there were.
    pub count: u64,
    /// How long they took together.
    pub total: Duration,
    /// How long the longest took.
    pub longest: Duration,
    /// How many took how long, in classes as those of [`SyncMetrics::histogram`].
    pub histogram: [u64; SyncMetrics::CLASSES],
}

impl Latencies {
    /// How long at most the fastest part `q` took, from 0 to 1: an upper bound, less than twice as much as it was where
    /// that was a microsecond or more. Zero where there was nothing.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Duration {
        let wanted = (q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64;
        let mut seen = 0;
        for (class, count) in self.histogram.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                let bound = if class + 1 == SyncMetrics::CLASSES { u64::MAX } else { 1 << class };
                return Duration::from_micros(bound).min(self.longest);
            }
        }
        Duration::ZERO
    }

    fn note(&mut self, took: Duration) {
        self.count += 1;
        self.total += took;
        self.longest = self.longest.max(took);
        self.histogram[class_of(took)] += 1;
    }
}

/// The class of a histogram that has what took so long.
fn class_of(took: Duration) -> usize {
    let class = u128::BITS - took.as_micros().leading_zeros();
    (class as usize).min(SyncMetrics::CLASSES - 1)
}

/// Counts what producers do for one topic.
#[derive(Debug, Default)]
pub(crate) struct ProduceMeter(Mutex<ProducerMetrics>);

/// A batch as it is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchFigures {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) plain_bytes: u64,
    pub(crate) room_bytes: u64,
}

impl ProduceMeter {
    /// A batch was acknowledged.
    pub(crate) fn acknowledged(&self, batch: BatchFigures, queue_time: Duration, latency: Duration) {
        let mut metrics = self.0.lock();
        metrics.records += batch.records;
        metrics.batches += 1;
        metrics.bytes += batch.bytes;
        metrics.plain_bytes += batch.plain_bytes;
        metrics.room_bytes += batch.room_bytes;
        metrics.queue_time.note(queue_time);
        metrics.latency.note(latency);
    }

    /// A batch was put off.
    pub(crate) fn put_off(&self) {
        self.0.lock().retries += 1;
    }

    /// So many records were refused, or may be lost.
    pub(crate) fn failed(&self, records: u64) {
        self.0.lock().errors += records;
    }

    /// What there is to tell, if anything.
    pub(crate) fn metrics(&self) -> Option<ProducerMetrics> {
        let metrics = self.0.lock();
        (*metrics != ProducerMetrics::default()).then(|| metrics.clone())
    }
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
        ended.histogram[class_of(took)] += 1;
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
    fn quantiles_bound_what_was_counted() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), Duration::ZERO);
        for micros in 1..=100 {
            latencies.note(Duration::from_micros(micros));
        }
        let bounds = [0.0, 0.5, 0.9, 1.0].map(|q| latencies.quantile(q).as_micros());
        assert_eq!(bounds, [2, 64, 100, 100]);
        latencies.note(Duration::MAX / 2);
        assert_eq!(latencies.quantile(1.0), Duration::MAX.min(Duration::from_micros(u64::MAX)).min(Duration::MAX / 2));
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

//! What the searches share: which seeds, for how long, and how a workload is crashed and made to fail.

use std::cell::Cell;
use std::time::Duration;

use thalweg::testing::{
    AfterFailedSync, ExploreConfig, History, Replay, SimStorage, SweepConfig, explore, sweep_errors,
};
use thalweg::{Clock, Result, SystemClock};

use super::total::TOTAL;

/// Numbers that are the same for the same seed.
pub(crate) struct Dice(Cell<u64>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed.wrapping_add(1)))
    }

    pub(crate) fn below(&self, n: u64) -> u64 {
        self.0.set(self.0.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        (self.0.get() >> 33) % n
    }

    pub(crate) fn one_of<T: Copy>(&self, these: &[T]) -> T {
        these[self.below(these.len() as u64) as usize]
    }
}

/// What a failed sync is to leave so that later ones work again.
pub(crate) fn after_a_failed_sync(dice: &Dice) -> AfterFailedSync {
    dice.one_of(&[AfterFailedSync::KeepsNew, AfterFailedSync::DropsToOld, AfterFailedSync::StaysDirty])
}

/// Whether all is to be looked at that the gate looks at.
pub(crate) fn is_full() -> bool {
    std::env::var_os("THALWEG_CRASH_FULL").is_some()
}

/// The seeds that a test goes through: as many as fit into a time, or as many as it asks for.
pub(crate) struct Budget {
    clock: SystemClock,
    end: Option<Duration>,
    next: u64,
    last: u64,
}

impl Budget {
    /// So many seeds, or so many in the full size.
    pub(crate) fn of(small: u64, full: u64) -> Self {
        let seeds = if is_full() { full } else { small };
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let clock = SystemClock::new();
        let end = number("THALWEG_CRASH_SECONDS").map(|seconds| clock.monotonic() + Duration::from_secs(seconds));
        let next = number("THALWEG_CRASH_SEED").unwrap_or(1);
        Self { clock, end, next, last: next + seeds }
    }

    /// Whether time bounds it.
    pub(crate) fn is_timed(&self) -> bool {
        self.end.is_some()
    }

    fn left(&self) -> Duration {
        match self.end {
            Some(end) => end.saturating_sub(self.clock.monotonic()),
            // None to speak of.
            None if self.next <= self.last => Duration::from_secs(3600),
            None => Duration::ZERO,
        }
    }

    /// The seed to go on with.
    pub(crate) fn upcoming(&self) -> u64 {
        self.next
    }
}

impl Iterator for Budget {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let is_over = self.left().is_zero() || (self.end.is_none() && self.next == self.last);
        (!is_over).then(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

/// Something that works on a disk, and what must hold of it after whatever happened to the disk.
pub(crate) trait Subject: Copy + Send + Sync + 'static {
    type Event: Clone + Send + 'static;

    /// The operations before this one need not crash or fail.
    const FIRST: u64;

    /// So many steps that the seed chooses, up to the first that fails. Nothing panics or hangs after that either.
    fn work(self, disk: &SimStorage, history: &History<Self::Event>, seed: u64, steps: usize) -> Result<()>;

    /// What is wrong, in words.
    fn check(self, disk: &SimStorage, history: &History<Self::Event>, seed: u64) -> std::result::Result<(), String>;
}

/// Crashes the work of each seed; with `THALWEG_CRASH_REPLAY` as that line says, once.
pub(crate) fn crashes<S: Subject>(
    what: &str,
    subject: S,
    steps: usize,
    mut seeds: Budget,
    thoroughness: impl Fn(ExploreConfig) -> ExploreConfig,
) {
    let explore = |seed, config: &ExploreConfig| {
        let work = |disk: &SimStorage, history: &History<S::Event>| {
            subject.work(disk, history, seed, steps).expect("a disk that works");
        };
        explore(work, |disk, history| subject.check(disk, history, seed), config)
    };
    if let Ok(line) = std::env::var("THALWEG_CRASH_REPLAY") {
        let replay: Replay = line.parse().expect("a line that a test printed");
        return explore(replay.seed, &ExploreConfig::new(replay.seed).replay(replay)).assert_sound();
    }
    let mut points = 0;
    while let Some(seed) = seeds.next() {
        let config = thoroughness(ExploreConfig::new(seed)).first(S::FIRST).time(seeds.left());
        let report = explore(seed, &config);
        points += report.crashes;
        println!("{what}, {report}");
        TOTAL.add(&report.hits, &report.counts);
        report.assert_sound();
    }
    println!("{what}: {points} crashes, seeds up to {}", seeds.upcoming());
}

/// In how many ways each operation fails in the full size: mostly once and for good.
const WAYS: usize = 2;

/// Lets operations of each seed's work fail: in the full size all, in ways that take turns, and for a time all in every way.
pub(crate) fn failing_operations<S: Subject>(
    what: &str,
    subject: impl Fn(u64) -> S,
    steps: usize,
    mut seeds: Budget,
    small_step: u64,
) {
    let step = if is_full() || seeds.is_timed() { 1 } else { small_step };
    let ways = if is_full() && !seeds.is_timed() { WAYS } else { usize::MAX };
    let mut runs = 0;
    while let Some(seed) = seeds.next() {
        let subject = subject(seed);
        let work = move |disk: &SimStorage, history: &History<S::Event>| {
            let _may_fail = subject.work(disk, history, seed, steps);
        };
        let config = SweepConfig::new(seed).first(S::FIRST).step(step).ways(ways).time(seeds.left());
        let report = sweep_errors(work, |disk, history| subject.check(disk, history, seed), &config);
        runs += report.runs;
        println!("{what}, {report}");
        TOTAL.add(&report.hits, &report.failed);
        report.assert_sound();
    }
    println!("{what}: {runs} runs with a fault, seeds up to {}", seeds.upcoming());
}

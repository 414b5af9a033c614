//! The error sweep: the workload runs again and again, each time with another operation failing, in each way that the
//! operation can fail, once or for good. It must neither panic nor hang, and keep what it promised.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::explore::panic_text;
use super::history::History;
use super::sim::{AfterFailedSync, Choice, Errno, Fault, Luck, Operation, Repeat, SimStorage};
use crate::clock::{Clock, SystemClock};

/// A run that takes longer is taken for one that hangs.
const HANG: Duration = Duration::from_secs(20);
const FAILURES_MAX: usize = 20;

/// How thoroughly [`sweep_errors`] looks.
#[derive(Clone, Debug)]
pub struct SweepConfig {
    seed: u64,
    errnos: Vec<Errno>,
    first: u64,
    step: u64,
    ways: usize,
    time: Option<Duration>,
    known: Vec<String>,
    caches_lie: bool,
}

impl SweepConfig {
    /// Lets every operation fail with every error.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            errnos: Errno::ALL.to_vec(),
            first: 0,
            step: 1,
            ways: usize::MAX,
            time: None,
            known: Vec::new(),
            caches_lie: true,
        }
    }

    /// Starts at this operation.
    #[must_use]
    pub fn first(self, operation: u64) -> Self {
        Self { first: operation, ..self }
    }

    /// Lets only every `step`-th operation fail; the seed says with which it starts.
    #[must_use]
    pub fn step(self, step: u64) -> Self {
        Self { step: step.max(1), ..self }
    }

    /// Lets each operation fail in so many ways only, in turn: the next operation of its kind, or the next seed, fails in
    /// the next ones.
    #[must_use]
    pub fn ways(self, count: usize) -> Self {
        Self { ways: count.max(1), ..self }
    }

    /// Counts failures whose text contains this apart from the others: a bug that is known and not mended yet.
    #[must_use]
    pub fn known(mut self, text: impl Into<String>) -> Self {
        self.known.push(text.into());
        self
    }

    /// Stops after this time.
    #[must_use]
    pub fn time(self, limit: Duration) -> Self {
        Self { time: Some(limit), ..self }
    }

    /// Tries these errors only.
    #[must_use]
    pub fn errnos(self, errnos: impl Into<Vec<Errno>>) -> Self {
        Self { errnos: errnos.into(), ..self }
    }

    /// Whether a sync that failed may leave clean pages that the disk does not hold ([`AfterFailedSync`]), as real
    /// systems do. Without it everything stays dirty.
    #[must_use]
    pub fn caches_lie(self, lie: bool) -> Self {
        Self { caches_lie: lie, ..self }
    }
}

/// A failing operation after which something was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepFailure {
    /// The seed, for the workload.
    pub seed: u64,
    /// The operation that failed.
    pub operation: u64,
    /// What it was.
    pub kind: Operation,
    /// How it failed.
    pub errno: Errno,
    /// How often.
    pub repeat: Repeat,
    /// What became of a file whose sync failed.
    pub after: AfterFailedSync,
    /// What was wrong.
    pub what: String,
}

impl fmt::Display for SweepFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, operation, kind, errno, repeat, after, what } = self;
        write!(f, "seed {seed} operation {operation} ({kind:?}) {errno:?} {repeat:?} {after:?}: {what}")
    }
}

/// What [`sweep_errors`] did and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepReport {
    /// The seed.
    pub seed: u64,
    /// Operations of the workload when nothing fails.
    pub operations: u64,
    /// Runs with a fault.
    pub runs: u64,
    /// Runs in which an operation of this kind was let fail.
    pub failed: BTreeMap<Operation, u64>,
    /// What the check came by, and how often: see [`History::hit`].
    pub hits: BTreeMap<String, u64>,
    /// Where to go on when time ran out.
    pub next: Option<u64>,
    /// Failures of each kind that is known.
    pub known: BTreeMap<String, u64>,
    /// What else was wrong.
    pub failures: Vec<SweepFailure>,
}

impl SweepReport {
    /// # Panics
    /// When something was wrong, with the lines that say where.
    pub fn assert_sound(&self) {
        let lines: Vec<_> = self.failures.iter().map(SweepFailure::to_string).collect();
        assert!(lines.is_empty(), "{self}\n{}", lines.join("\n"));
    }
}

impl fmt::Display for SweepReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, operations, runs, failures, .. } = self;
        write!(f, "seed {seed}: {runs} runs with a fault, over {operations} operations")?;
        if let Some(next) = self.next {
            write!(f, ", go on at {next}")?;
        }
        write!(f, "; {} failed", failures.len())?;
        self.known.iter().try_for_each(|(text, count)| write!(f, ", {count} as is known ({text})"))
    }
}

type Workload<E> = Arc<dyn Fn(&SimStorage, &History<E>) + Send + Sync>;

/// Runs `workload` with each of its operations failing in turn. Errors are the workload's to take; what it does after
/// one is part of the test. Then the faults end, and `check` looks at the disk as a new process and after a power
/// cut, as for [`explore`](super::explore).
///
/// ```
/// use std::path::Path;
/// use thalweg::testing::{History, SimStorage, SweepConfig, WatchedLog, check_log, sweep_errors};
/// use thalweg::{Durability, LogConfig, Storage};
/// let dir = Path::new("events-0");
/// let workload = |disk: &SimStorage, history: &History<_>| {
///     // The sweep leaves these two alone.
///     disk.create_dir(dir).and_then(|()| disk.sync_dir(Path::new(""))).expect("room");
///     let work = || -> thalweg::Result<()> {
///         let log = WatchedLog::open(disk, history, dir, LogConfig::default())?;
///         log.put(["one"], Durability::PowerLoss)?;
///         log.close()
///     };
///     // Whatever fails: what was acknowledged before is in the history.
///     let _ = work();
/// };
/// let check = |disk: &SimStorage, history: &_| check_log(disk, history, dir, &LogConfig::default());
/// let config = SweepConfig::new(1).first(2).step(5).caches_lie(false);
/// sweep_errors(workload, check, &config).assert_sound();
/// ```
pub fn sweep_errors<E: Clone + Send + 'static>(
    workload: impl Fn(&SimStorage, &History<E>) + Send + Sync + 'static,
    check: impl Fn(&SimStorage, &History<E>) -> Result<(), String>,
    config: &SweepConfig,
) -> SweepReport {
    let workload: Workload<E> = Arc::new(workload);
    let clock = SystemClock::new();
    let end = config.time.map(|limit| clock.monotonic() + limit);
    let sound = SimStorage::new();
    sound.record();
    workload(&sound, &History::default());
    let trace = sound.trace();
    let mut report = SweepReport { seed: config.seed, operations: sound.operations(), ..SweepReport::default() };
    let offset = config.seed % config.step;
    let mut turns = BTreeMap::new();
    for (operation, (kind, _)) in (0..).zip(trace) {
        if operation < config.first || operation % config.step != offset {
            continue;
        }
        if end.is_some_and(|end| clock.monotonic() >= end) || report.failures.len() >= FAILURES_MAX {
            report.next = Some(operation);
            break;
        }
        let all = ways(kind, config);
        let turn = turns.entry(kind).or_insert_with(|| Luck::new(config.seed).below(all.len()));
        let (skipped, count) = (*turn, config.ways.min(all.len()));
        *turn = (skipped + count) % all.len().max(1);
        for &(errno, repeat, after) in all.iter().cycle().skip(skipped).take(count) {
            report.runs += 1;
            *report.failed.entry(kind).or_default() += 1;
            let fault = Fault::new(errno, repeat).from_operation(operation).leaves(after);
            // A cache that lies takes writes all the same: only syncs tell of what fails below it.
            let lies = matches!(after, AfterFailedSync::KeepsNew | AfterFailedSync::DropsToOld);
            let fault = if lies && kind == Operation::Sync { fault.on(Operation::Sync) } else { fault };
            let history = History::default();
            let judged = run(&workload, &check, fault, report.operations, &history);
            history.hits().into_iter().for_each(|(what, count)| *report.hits.entry(what).or_default() += count);
            if let Err(what) = judged {
                if let Some(text) = config.known.iter().find(|text| what.contains(*text)) {
                    *report.known.entry(text.clone()).or_default() += 1;
                    continue;
                }
                report.failures.push(SweepFailure { seed: config.seed, operation, kind, errno, repeat, after, what });
            }
        }
    }
    report
}

/// The ways in which an operation can fail.
fn ways(kind: Operation, config: &SweepConfig) -> Vec<(Errno, Repeat, AfterFailedSync)> {
    let mut ways = Vec::new();
    for errno in config.errnos.iter().copied().filter(|errno| errno.can_come_from(kind)) {
        for repeat in [Repeat::Once, Repeat::Forever] {
            if (errno, repeat) == (Errno::Interrupted, Repeat::Forever) {
                // Whoever is interrupted tries again, for ever.
                continue;
            }
            match kind {
                Operation::Sync if config.caches_lie => {
                    ways.extend(AfterFailedSync::ALL.map(|after| (errno, repeat, after)));
                }
                _ => ways.push((errno, repeat, AfterFailedSync::StaysDirty)),
            }
        }
    }
    ways
}

fn run<E: Clone + Send + 'static>(
    workload: &Workload<E>,
    check: &impl Fn(&SimStorage, &History<E>) -> Result<(), String>,
    fault: Fault,
    operations: u64,
    history: &History<E>,
) -> Result<(), String> {
    let disk = SimStorage::new();
    disk.limit_operations(10 * operations + 10_000);
    disk.add_fault(fault);
    let (done, is_done) = mpsc::channel();
    let runner = thread::spawn({
        let (workload, disk, history) = (Arc::clone(workload), disk.clone(), history.clone());
        move || {
            let result = catch_unwind(AssertUnwindSafe(|| workload(&disk, &history)));
            // Nobody listens any more when it took too long.
            done.send(result.map_err(|panic| panic_text(&*panic))).ok();
        }
    });
    match is_done.recv_timeout(HANG) {
        Ok(result) => result.map_err(|text| format!("panicked: {text}"))?,
        Err(_) => return Err("hangs".to_owned()),
    }
    runner.join().map_err(|panic| format!("panicked: {}", panic_text(&*panic)))?;
    disk.mend();
    let now = disk.operations();
    for choice in [Choice::ProcessCrash, Choice::Nothing, Choice::Random(now)] {
        let (left, history) = (disk.crash(choice), history.crashed(now, disk.taken(choice)));
        judge(check, &left, &history).map_err(|what| format!("then {choice}: {what}"))?;
        // What the new process read may have been in the cache alone.
        let (at, cut) = (left.operations(), Choice::Nothing);
        let (left, history) = (left.crash(cut), history.crashed(at, cut));
        judge(check, &left, &history).map_err(|what| format!("then {choice}, then {cut}: {what}"))?;
    }
    Ok(())
}

fn judge<E: Clone>(
    check: &impl Fn(&SimStorage, &History<E>) -> Result<(), String>,
    disk: &SimStorage,
    history: &History<E>,
) -> Result<(), String> {
    let checked = catch_unwind(AssertUnwindSafe(|| check(disk, history)));
    checked.unwrap_or_else(|panic| Err(format!("panicked: {}", panic_text(&*panic))))
}

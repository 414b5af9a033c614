//! The crash explorer: one run of a workload, a crash before each of its operations, what recovery makes of it, and
//! crashes inside that recovery.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::history::{History, Replay};
use super::sim::{Choice, Luck, Moment, Operation, SimStorage};
use crate::clock::{Clock, SystemClock};

/// A recovery that takes more operations than this is taken for one that never ends.
const OPERATIONS_MAX: u64 = 1_000_000;
/// After as many failures the explorer stops: the rest is likely to be the same again.
const FAILURES_MAX: usize = 20;

/// How thoroughly [`explore`] looks.
#[derive(Clone, Debug)]
pub struct ExploreConfig {
    seed: u64,
    choices: usize,
    exhaustive: usize,
    depth: usize,
    nested: usize,
    first: u64,
    step: u64,
    time: Option<Duration>,
    known: Vec<String>,
    replay: Option<Replay>,
}

impl ExploreConfig {
    /// Looks at every operation, with 8 choices of what a crash takes, and at crashes during recovery.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            choices: 8,
            exhaustive: 2,
            depth: 2,
            nested: 2,
            first: 0,
            step: 1,
            time: None,
            known: Vec::new(),
            replay: None,
        }
    }

    /// How many choices are made at each operation, about.
    #[must_use]
    pub fn choices(self, count: usize) -> Self {
        Self { choices: count.max(1), ..self }
    }

    /// All subsets are tried where a cut could take or leave up to this many changes.
    #[must_use]
    pub fn exhaustive(self, changes: usize) -> Self {
        Self { exhaustive: changes, ..self }
    }

    /// How many crashes follow one another at most: 1 is none inside a recovery.
    #[must_use]
    pub fn depth(self, crashes: usize) -> Self {
        Self { depth: crashes.max(1), ..self }
    }

    /// How many operations of each recovery are crashed before; they are picked by the seed.
    #[must_use]
    pub fn nested(self, operations: usize) -> Self {
        Self { nested: operations, ..self }
    }

    /// Starts at this operation: where an earlier exploration ended, as [`ExploreReport::next`] says.
    #[must_use]
    pub fn first(self, operation: u64) -> Self {
        Self { first: operation, ..self }
    }

    /// Looks at every `step`-th operation only; the seed says with which it starts.
    #[must_use]
    pub fn step(self, step: u64) -> Self {
        Self { step: step.max(1), ..self }
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

    /// Makes the crashes of one line only, and nothing else.
    #[must_use]
    pub fn replay(self, replay: Replay) -> Self {
        Self { seed: replay.seed, replay: Some(replay), ..self }
    }
}

/// A crash after which something was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashFailure {
    /// How to make it again.
    pub replay: Replay,
    /// The operations before which the crashes came, in words.
    pub operations: Vec<String>,
    /// What was wrong.
    pub what: String,
}

impl fmt::Display for CrashFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (before {}): {}", self.replay, self.operations.join(", then "), self.what)
    }
}

/// What [`explore`] did and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExploreReport {
    /// The seed.
    pub seed: u64,
    /// Operations of the workload.
    pub operations: u64,
    /// Operations of the workload, of each kind.
    pub counts: BTreeMap<Operation, u64>,
    /// What the check came by, and how often: see [`History::hit`].
    pub hits: BTreeMap<String, u64>,
    /// Crashes that were made.
    pub crashes: u64,
    /// How many of them came during a recovery.
    pub nested: u64,
    /// Where to go on when time ran out; `None` when every operation had its turn.
    pub next: Option<u64>,
    /// Every operation after the first crash, in words, where one line was replayed.
    pub trace: Vec<String>,
    /// Failures of each kind that is known.
    pub known: BTreeMap<String, u64>,
    /// What else was wrong.
    pub failures: Vec<CrashFailure>,
}

impl ExploreReport {
    /// # Panics
    /// When something was wrong, with the lines that make it again.
    pub fn assert_sound(&self) {
        let lines: Vec<_> = self.failures.iter().map(CrashFailure::to_string).collect();
        assert!(lines.is_empty(), "{self}\n{}{}", self.trace.concat(), lines.join("\n"));
    }
}

impl fmt::Display for ExploreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, operations, crashes, nested, failures, .. } = self;
        write!(f, "seed {seed}: {crashes} crashes, {nested} of them in a recovery, over {operations} operations")?;
        if let Some(next) = self.next {
            write!(f, ", go on at {next}")?;
        }
        write!(f, "; {} failed", failures.len())?;
        self.known.iter().try_for_each(|(text, count)| write!(f, ", {count} as is known ({text})"))
    }
}

/// Runs `workload` once on an empty disk, then crashes before each of its operations in several ways and has `check`
/// open what is left; `check` says what is wrong. It may go on working and noting events, as recovery itself is
/// crashed as well, and what is left after that checked again by the same function.
///
/// The workload must do the same operations for the same seed: no threads, no clock of the machine.
///
/// ```
/// use std::path::Path;
/// use thalweg::testing::{Entry, ExploreConfig, History, SimStorage, explore};
/// use thalweg::{OpenMode, Storage};
///
/// let path = Path::new("note");
/// let workload = |disk: &SimStorage, history: &History<&str>| {
///     let file = disk.open(path, OpenMode::CreateNew).expect("a new file");
///     file.write_all_at(b"hello", 0).expect("space");
///     file.sync_data().expect("a disk that works");
///     disk.sync_dir(Path::new("")).expect("a disk that works");
///     history.note(disk, "promised");
/// };
/// let check = |disk: &SimStorage, history: &History<&str>| {
///     let promised = history.entries().contains(&Entry::Event("promised"));
///     match disk.metadata(path).map(|found| found.len) {
///         Ok(5) => Ok(()),
///         _ if !promised => Ok(()),
///         other => Err(format!("the note is gone: {other:?}")),
///     }
/// };
/// explore(workload, check, &ExploreConfig::new(1)).assert_sound();
/// ```
pub fn explore<E: Clone>(
    workload: impl FnOnce(&SimStorage, &History<E>),
    check: impl Fn(&SimStorage, &History<E>) -> Result<(), String>,
    config: &ExploreConfig,
) -> ExploreReport {
    let (disk, history) = (SimStorage::new(), History::default());
    disk.record();
    workload(&disk, &history);
    let clock = SystemClock::new();
    let mut explorer = Explorer {
        check: &check,
        config,
        end: config.time.map(|limit| clock.monotonic() + limit),
        clock,
        report: ExploreReport {
            seed: config.seed,
            operations: disk.operations(),
            counts: disk.counts(),
            ..ExploreReport::default()
        },
    };
    let moments = disk.moments();
    match &config.replay {
        Some(replay) => explorer.replay(&moments, &history, replay, &Path::default()),
        None => explorer.all(&moments, &history),
    }
    explorer.report.hits = history.hits();
    explorer.report
}

struct Explorer<'a, C> {
    check: &'a C,
    config: &'a ExploreConfig,
    clock: SystemClock,
    end: Option<Duration>,
    report: ExploreReport,
}

impl<C> Explorer<'_, C> {
    fn all<E: Clone>(&mut self, moments: &[Moment], history: &History<E>)
    where
        C: Fn(&SimStorage, &History<E>) -> Result<(), String>,
    {
        let offset = self.config.seed % self.config.step;
        for moment in moments.iter().filter(|m| m.number >= self.config.first) {
            if self.end.is_some_and(|end| self.clock.monotonic() >= end) || self.report.failures.len() >= FAILURES_MAX {
                self.report.next = Some(moment.number);
                return;
            }
            if moment.number % self.config.step == offset {
                // The same crashes whatever operation was first.
                let mut luck = Luck::new(self.config.seed ^ moment.number.wrapping_mul(0x9e37_79b9));
                self.crash(moment, history, &Path::default(), &mut luck);
            }
        }
    }

    /// Crashes at one moment in several ways.
    fn crash<E: Clone>(&mut self, moment: &Moment, history: &History<E>, before: &Path, luck: &mut Luck)
    where
        C: Fn(&SimStorage, &History<E>) -> Result<(), String>,
    {
        let depth = before.crashes.len() + 1;
        // Inside a recovery a few ways do; the outer crash comes in many.
        let count = if depth == 1 { self.config.choices } else { 2 };
        let exhaustive = if depth == 1 { self.config.exhaustive } else { 0 };
        for choice in moment.choices(count, exhaustive, luck) {
            let path = before.and(moment, choice);
            let (found, history) = self.run(moment, choice, history, &path);
            if depth < self.config.depth && !found.is_empty() {
                for _ in 0..self.config.nested {
                    let moment = &found[luck.below(found.len())];
                    self.crash(moment, &history, &path, luck);
                }
            }
        }
    }

    /// One crash and the check of it; gives the moments of the check.
    fn run<E: Clone>(
        &mut self,
        moment: &Moment,
        choice: Choice,
        history: &History<E>,
        path: &Path,
    ) -> (Vec<Moment>, History<E>)
    where
        C: Fn(&SimStorage, &History<E>) -> Result<(), String>,
    {
        self.report.crashes += 1;
        self.report.nested += u64::from(path.crashes.len() > 1);
        let disk = moment.crash(choice);
        let history = history.crashed(moment.number, moment.taken(choice));
        if path.crashes.len() < self.config.depth || self.config.replay.is_some() {
            disk.record();
        }
        disk.limit_operations(moment.number + OPERATIONS_MAX);
        let checked = catch_unwind(AssertUnwindSafe(|| (self.check)(&disk, &history)));
        if self.config.replay.is_some() {
            let steps = (moment.number..).zip(disk.trace());
            self.report
                .trace
                .extend(steps.map(|(number, (kind, path))| format!("{number} {kind:?} {}\n", path.display())));
        }
        let what = match checked {
            Ok(Ok(())) => return (disk.moments(), history),
            Ok(Err(what)) => what,
            Err(panic) => format!("panicked: {}", panic_text(&*panic)),
        };
        if let Some(text) = self.config.known.iter().find(|text| what.contains(*text)) {
            *self.report.known.entry(text.clone()).or_default() += 1;
            return (Vec::new(), history);
        }
        self.report.failures.push(CrashFailure {
            replay: Replay { seed: self.config.seed, crashes: path.crashes.clone() },
            operations: path.names.clone(),
            what,
        });
        (Vec::new(), history)
    }

    fn replay<E: Clone>(&mut self, moments: &[Moment], history: &History<E>, replay: &Replay, before: &Path)
    where
        C: Fn(&SimStorage, &History<E>) -> Result<(), String>,
    {
        let Some(&(operation, choice)) = replay.crashes.get(before.crashes.len()) else { return };
        let Some(moment) = moments.iter().find(|m| m.number == operation) else {
            self.report.failures.push(CrashFailure {
                replay: replay.clone(),
                operations: Vec::new(),
                what: format!("there is no operation {operation} that changes the disk: another workload or release?"),
            });
            return;
        };
        let path = before.and(moment, choice);
        let (found, history) = self.run(moment, choice, history, &path);
        self.replay(&found, &history, replay, &path);
    }
}

/// The crashes so far.
#[derive(Clone, Default)]
struct Path {
    crashes: Vec<(u64, Choice)>,
    names: Vec<String>,
}

impl Path {
    fn and(&self, moment: &Moment, choice: Choice) -> Self {
        let mut path = self.clone();
        path.crashes.push((moment.number, choice));
        path.names.push(moment.name.clone());
        path
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without a word").to_owned()
}

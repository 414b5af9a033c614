//! The threads of a broker and what they are asked to do.
//!
//! `thalweg-sync` runs tasks whose time has come (producers' open batches) and settles partitions
//! with appends that nobody waits for. `thalweg-maintenance` runs the slow rounds of `maintenance.rs`.
//! Invariant: a thread holds the broker only within a round, so that dropping the last handle ends it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use super::Inner;
use super::options::Threads;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::log::Signal;
use crate::topic::{self, Urgency};

/// How long appends that nobody waits for gather before one sync takes them all.
const GATHER: Duration = Duration::from_millis(2);
/// Threads that help to open or close many partitions.
const HELPERS_MAX: usize = 8;
/// How often the maintenance thread looks whether a round is due.
const MAINTENANCE_TICK: Duration = Duration::from_secs(1);

/// Work that becomes due at a time.
pub(crate) trait Task: Send + Sync {
    /// Does what is due; answers when it wants to be called again.
    fn run(&self, now: Duration) -> Option<Duration>;

    /// Does everything at once, due or not, because the broker closes.
    fn finish(&self) -> Result<()>;
}

struct Pending {
    /// In monotonic time.
    due: Duration,
    task: Weak<dyn Task>,
}

#[derive(Default)]
struct Queue {
    partitions: Vec<Arc<topic::Partition>>,
    urgent: bool,
    tasks: Vec<Pending>,
}

/// The queue between those who leave work and the threads that do it.
pub(crate) struct Background {
    clock: Arc<dyn Clock>,
    queue: Mutex<Queue>,
    /// Held while tasks run, until whoever runs them has let go of them.
    round: Mutex<()>,
    /// Wakes the sync thread.
    wake: Signal,
    /// Wakes the maintenance thread.
    stopping: Signal,
    stopped: AtomicBool,
}

impl Background {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            queue: Mutex::default(),
            round: Mutex::default(),
            wake: Signal::default(),
            stopping: Signal::default(),
            stopped: AtomicBool::new(false),
        }
    }

    pub(super) fn settle_later(&self, partition: &Arc<topic::Partition>, urgency: Urgency) {
        let mut queue = self.queue.lock();
        let was_idle = queue.partitions.is_empty();
        queue.partitions.push(Arc::clone(partition));
        queue.urgent |= urgency == Urgency::Now;
        drop(queue);
        if was_idle || urgency == Urgency::Now {
            self.wake.notify();
        }
    }

    /// Has `task` run at `due`, in monotonic time.
    pub(crate) fn run_at(&self, due: Duration, task: Weak<dyn Task>) {
        self.queue.lock().tasks.push(Pending { due, task });
        self.wake.notify();
    }

    /// Forgets `task`, and waits for a run of it that is under way: when this returns, no thread holds it.
    pub(crate) fn retire(&self, task: &Weak<dyn Task>) {
        let forget = || self.queue.lock().tasks.retain(|pending| !pending.task.ptr_eq(task));
        forget();
        drop(self.round.lock());
        // The run may have asked for another.
        forget();
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake.notify();
        self.stopping.notify();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Runs what is due and answers how long it is to the next.
    fn run_due_tasks(&self) -> Option<Duration> {
        let now = self.clock.monotonic();
        let _round = self.round.lock();
        let mut queue = self.queue.lock();
        let (due, mut later): (Vec<_>, Vec<_>) = queue.tasks.drain(..).partition(|t| t.due <= now);
        queue.tasks.append(&mut later);
        drop(queue);
        for pending in due {
            if let Some(task) = pending.task.upgrade()
                && let Some(again) = task.run(now)
            {
                self.queue.lock().tasks.push(Pending { due: again, task: pending.task });
            }
        }
        self.queue.lock().tasks.iter().map(|t| t.due.saturating_sub(now)).min()
    }

    /// Finishes every task because the broker closes; the first failure counts.
    pub(super) fn run_tasks_now(&self) -> Result<()> {
        let tasks = std::mem::take(&mut self.queue.lock().tasks);
        let finished = tasks.iter().filter_map(|t| t.task.upgrade()).map(|task| task.finish());
        finished.fold(Ok(()), Result::and)
    }

    fn take_partitions(&self) -> Vec<Arc<topic::Partition>> {
        let mut queue = self.queue.lock();
        queue.urgent = false;
        std::mem::take(&mut queue.partitions)
    }

    /// Settles every queued partition. A failure is the partition's to report: it poisons its log, and
    /// whoever waits or appends there is told.
    pub(super) fn settle_queued(&self) {
        self.run_due_tasks();
        for partition in self.take_partitions() {
            if self.is_stopped() {
                return;
            }
            drop(partition.settle());
        }
    }
}

impl std::fmt::Debug for Background {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Background").field("stopped", &self.stopped).finish_non_exhaustive()
    }
}

/// A running thread.
#[derive(Debug)]
pub(super) struct Worker(JoinHandle<()>);

impl Worker {
    pub(super) fn join(self) {
        // A thread that closes the broker itself, as its last holder, cannot wait for its own end; a
        // panic in a round was printed when it happened.
        if self.0.thread().id() != thread::current().id() {
            drop(self.0.join());
        }
    }
}

/// Starts the threads that a broker is documented to have.
pub(super) fn start(inner: &Arc<Inner>) -> Result<Vec<Worker>> {
    let spawn = |name: &str, body: fn(&Background, &Weak<Inner>)| {
        let (background, inner) = (Arc::clone(&inner.background), Arc::downgrade(inner));
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || body(&background, &inner));
        thread.map(Worker).map_err(|e| Error::new(ErrorKind::Io, "cannot start a thread").source(e))
    };
    Ok(vec![spawn("thalweg-sync", sync_loop)?, spawn("thalweg-maintenance", maintenance_loop)?])
}

/// Calls `each` for all partitions, from several threads, called `name`, where the broker may have some: one waits
/// for the device while others go on. The first failure counts, and stops nothing.
pub(super) fn for_each(
    partitions: &[Arc<topic::Partition>],
    threads: Threads,
    name: &str,
    each: impl Fn(&topic::Partition) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut first = Ok(());
        while let Some(partition) = partitions.get(next.fetch_add(1, Ordering::Relaxed)) {
            first = first.and(each(partition));
        }
        first
    };
    let helpers = match threads {
        Threads::Own => HELPERS_MAX.min(partitions.len().saturating_sub(1)),
        Threads::None => 0,
    };
    thread::scope(|scope| {
        let named = || thread::Builder::new().name(name.to_owned());
        // A helper that cannot be started leaves more to the others.
        let helpers: Vec<_> = (0..helpers).filter_map(|_| named().spawn_scoped(scope, work).ok()).collect();
        let panicked = || Err(Error::new(ErrorKind::Indeterminate, "a thread that opens or closes partitions failed"));
        helpers.into_iter().fold(work(), |first, helper| first.and(helper.join().unwrap_or_else(|_| panicked())))
    })
}

fn sync_loop(background: &Background, inner: &Weak<Inner>) {
    while !background.is_stopped() {
        let seen = background.wake.count();
        let next_task = background.run_due_tasks();
        let (idle, urgent) = {
            let queue = background.queue.lock();
            (queue.partitions.is_empty(), queue.urgent)
        };
        if background.is_stopped() {
            return;
        }
        if idle {
            background.wake.wait_past(seen, next_task);
            continue;
        }
        if !urgent {
            background.wake.wait_past(seen, Some(GATHER));
        }
        // Held while writing, so that the directory's lock is.
        let Some(_alive) = inner.upgrade() else { return };
        background.settle_queued();
    }
}

fn maintenance_loop(background: &Background, inner: &Weak<Inner>) {
    while !background.is_stopped() {
        let seen = background.stopping.count();
        let Some(alive) = inner.upgrade() else { return };
        alive.run_due_rounds();
        drop(alive);
        if !background.is_stopped() {
            background.stopping.wait_past(seen, Some(MAINTENANCE_TICK));
        }
    }
}

//! The threads of a broker and what they are asked to do.
//!
//! `thalweg-sync` runs tasks whose time has come (producers' open batches) and tells when partitions with appends that
//! nobody waits for are to be settled; `thalweg-sync-1` to `-4` do that, each one partition, so that their syncs
//! overlap and hold up no task, and what else a task must not wait for. `thalweg-maintenance` runs the slow rounds of
//! `maintenance.rs` and tends logs that roll.
//! Invariant: a thread holds the broker only within a round, so that dropping the last handle ends it.

use std::collections::VecDeque;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::Inner;
use super::options::Threads;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Quiet, Signal};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::topic::{self, Urgency};

/// How long appends that nobody waits for gather before one sync takes them all.
const GATHER: Duration = Duration::from_millis(2);
/// Threads that settle partitions: a device takes that many syncs at once with gain.
const SETTLERS: [&str; 4] = ["thalweg-sync-1", "thalweg-sync-2", "thalweg-sync-3", "thalweg-sync-4"];
/// So many of them may be at errands, of which one may wait for another.
const ERRANDS_MAX: usize = 2;
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
    /// Partitions whose time has come; each thread takes the next one.
    due: Vec<Arc<topic::Partition>>,
    /// Partitions whose logs have something to prepare or to complete.
    to_tend: Vec<Arc<topic::Partition>>,
    /// What waits for the disk on behalf of tasks.
    errands: VecDeque<Errand>,
    /// How many of them are being done.
    errands_begun: usize,
    tasks: Vec<Pending>,
}

type Errand = Box<dyn FnOnce(&dyn Fn(Weak<dyn Task>)) + Send>;

/// The queue between those who leave work and the threads that do it.
pub(crate) struct Background {
    clock: Arc<dyn Clock>,
    queue: Mutex<Queue>,
    /// Held while tasks run, until whoever runs them has let go of them.
    round: Mutex<()>,
    /// Wakes the sync thread.
    wake: Signal,
    /// Wakes those who settle.
    settle: Signal,
    /// Wakes the maintenance thread.
    maintain: Signal,
    stopped: AtomicBool,
    /// The process that has the threads.
    owner: u32,
}

impl Background {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            queue: Mutex::default(),
            round: Mutex::default(),
            wake: Signal::default(),
            settle: Signal::default(),
            maintain: Signal::default(),
            stopped: AtomicBool::new(false),
            owner: process::id(),
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

    /// Has what is queued settled at once: somebody waits.
    pub(super) fn hasten(&self) {
        self.queue.lock().urgent = true;
        self.wake.notify();
    }

    pub(super) fn tend_later(&self, partition: &Arc<topic::Partition>) {
        self.queue.lock().to_tend.push(Arc::clone(partition));
        self.maintain.notify();
    }

    /// Has `errand` done by one of those who settle; `false` once they have stopped, and in a fork, which has none. One
    /// that is left when they stop is not done.
    pub(super) fn do_later(&self, errand: Errand) -> bool {
        let may = !self.is_stopped() && process::id() == self.owner;
        if may {
            self.queue.lock().errands.push_back(errand);
            self.settle.notify();
        }
        may
    }

    /// Has `task` run at `due`, in monotonic time.
    pub(crate) fn run_at(&self, due: Duration, task: Weak<dyn Task>) {
        self.queue.lock().tasks.push(Pending { due, task });
        self.wake.notify();
    }

    /// Forgets `task`, and waits for a run of it that is under way: when this returns, no thread holds it.
    pub(crate) fn retire(&self, task: &Weak<dyn Task>) {
        self.forget(task);
        drop(self.round.lock());
        // The run may have asked for another.
        self.forget(task);
    }

    /// Forgets `task`; a run of it may be under way.
    pub(super) fn forget(&self, task: &Weak<dyn Task>) {
        self.queue.lock().tasks.retain(|pending| !pending.task.ptr_eq(task));
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake.notify();
        self.settle.notify();
        self.maintain.notify();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Runs what is due and answers how long it is to the next.
    fn run_due_tasks(&self) -> Option<Duration> {
        let now = self.clock.monotonic();
        // A waker may retire a task, or wait for somebody who does.
        let _quiet = Quiet::new();
        let _round = self.round.lock();
        let mut queue = self.queue.lock();
        let (due, mut later): (Vec<_>, Vec<_>) = queue.tasks.drain(..).partition(|t| t.due <= now);
        queue.tasks.append(&mut later);
        drop(queue);
        let mut panicked = None;
        for pending in due {
            let Some(task) = pending.task.upgrade() else { continue };
            match panic::catch_unwind(AssertUnwindSafe(|| task.run(now))) {
                Ok(Some(again)) => self.queue.lock().tasks.push(Pending { due: again, task: pending.task }),
                Ok(None) => {}
                // Not before the others had their turn.
                Err(payload) => panicked = Some(payload),
            }
        }
        if let Some(payload) = panicked {
            panic::resume_unwind(payload);
        }
        self.queue.lock().tasks.iter().map(|t| t.due.saturating_sub(now)).min()
    }

    /// Finishes every task because the broker closes; the first failure counts.
    pub(super) fn run_tasks_now(&self) -> Result<()> {
        let tasks = std::mem::take(&mut self.queue.lock().tasks);
        let finished = tasks.iter().filter_map(|t| t.task.upgrade()).map(|task| task.finish());
        finished.fold(Ok(()), Result::and)
    }

    /// Settles every queued partition on the calling thread. A failure is the partition's to report: it poisons its
    /// log, and whoever waits or appends there is told.
    pub(super) fn settle_queued(&self) {
        self.run_due_tasks();
        self.make_due();
        self.settle_due();
    }

    /// The time of all queued partitions has come.
    fn make_due(&self) {
        let mut queue = self.queue.lock();
        let Queue { partitions, urgent, due, .. } = &mut *queue;
        *urgent = false;
        due.append(partitions);
    }

    fn settle_due(&self) {
        while !self.is_stopped() {
            let mut queue = self.queue.lock();
            if queue.errands_begun < ERRANDS_MAX
                && let Some(errand) = queue.errands.pop_front()
            {
                queue.errands_begun += 1;
                drop(queue);
                survive(|| errand(&|task| self.run_at(self.clock.monotonic(), task)));
                self.queue.lock().errands_begun -= 1;
                continue;
            }
            let Some(partition) = queue.due.pop() else { return };
            drop(queue);
            drop(partition.guard(|partition| partition.settle()));
        }
    }

    /// Lets logs prepare what comes and complete what ended. A failure is told to those who append or close.
    fn tend_due(&self) {
        let to_tend = std::mem::take(&mut self.queue.lock().to_tend);
        for partition in to_tend.iter().take_while(|_| !self.is_stopped()) {
            drop(partition.guard(|partition| partition.tend()));
        }
    }
}

impl std::fmt::Debug for Background {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Background").field("stopped", &self.stopped).finish_non_exhaustive()
    }
}

/// A running thread, and the process that it runs in.
#[derive(Debug)]
pub(super) struct Worker(JoinHandle<()>, u32);

impl Worker {
    pub(super) fn join(self) {
        if self.1 != process::id() {
            // A fork has the handle and not the thread, of whose end it would never learn.
            return mem::forget(self.0);
        }
        // A thread that closes the broker itself, as its last holder, cannot wait for its own end; a
        // panic in a round was printed when it happened.
        if self.0.thread().id() != thread::current().id() {
            drop(self.0.join());
        }
    }
}

/// Starts the threads that a broker is documented to have.
pub(super) fn start(inner: &Arc<Inner>) -> Result<Vec<Worker>> {
    let spawn = |name: &'static str, body: fn(&Background, &Weak<Inner>)| {
        let (background, inner) = (Arc::clone(&inner.background), Arc::downgrade(inner));
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || body(&background, &inner));
        thread
            .map(|thread| Worker(thread, process::id()))
            .map_err(|e| Error::new(ErrorKind::Io, "cannot start a thread").source(e))
    };
    let settlers = SETTLERS.iter().map(|name| spawn(name, settle_loop));
    [spawn("thalweg-sync", sync_loop), spawn("thalweg-maintenance", maintenance_loop)]
        .into_iter()
        .chain(settlers)
        .collect()
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
        Threads::Own if cfg!(not(shuttle)) => HELPERS_MAX.min(partitions.len().saturating_sub(1)),
        // These are threads whose order nobody decides.
        Threads::Own | Threads::None => 0,
    };
    std::thread::scope(|scope| {
        let named = || std::thread::Builder::new().name(name.to_owned());
        // A helper that cannot be started leaves more to the others.
        let helpers: Vec<_> = (0..helpers).filter_map(|_| named().spawn_scoped(scope, work).ok()).collect();
        let panicked = || Err(Error::new(ErrorKind::Indeterminate, "a thread that opens or closes partitions failed"));
        helpers.into_iter().fold(work(), |first, helper| first.and(helper.join().unwrap_or_else(|_| panicked())))
    })
}

/// Does `work`; a panic ends it and not the thread, which others wait for. It was printed when it happened, and who waits
/// for what it was to do was told.
fn survive<T>(work: impl FnOnce() -> T) -> Option<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).ok()
}

fn sync_loop(background: &Background, _inner: &Weak<Inner>) {
    while !background.is_stopped() {
        let seen = background.wake.count();
        let next_task = survive(|| background.run_due_tasks()).unwrap_or(Some(Duration::ZERO));
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
        background.make_due();
        background.settle.notify();
    }
}

fn settle_loop(background: &Background, inner: &Weak<Inner>) {
    while !background.is_stopped() {
        let seen = background.settle.count();
        // Held while writing, so that the directory's lock is.
        let Some(alive) = inner.upgrade() else { return };
        let is_done = survive(|| background.settle_due()).is_some();
        drop(alive);
        if is_done && !background.is_stopped() {
            background.settle.wait_past(seen, None);
        }
    }
}

fn maintenance_loop(background: &Background, inner: &Weak<Inner>) {
    while !background.is_stopped() {
        let seen = background.maintain.count();
        let Some(alive) = inner.upgrade() else { return };
        survive(|| background.tend_due());
        survive(|| alive.run_due_rounds());
        drop(alive);
        if !background.is_stopped() {
            background.maintain.wait_past(seen, Some(MAINTENANCE_TICK));
        }
    }
}

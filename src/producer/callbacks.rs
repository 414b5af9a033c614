//! Callbacks: who runs them, in which order, and that none is lost. Each partition's run in the order of its records.
//!
//! They run on a thread of the producer's own, or, of a manual broker, in `flush`, `close` and `run_maintenance`. No
//! lock of a producer, log or broker is held then, so a callback may call whatever it likes: where one is, they run as
//! wakers do, when the thread's quiet ends.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::process;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::batch::{RecordMetadata, Ticket};
use super::lane::Lane;
use crate::broker::{Signal, wake_all};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::thread::{self, ThreadId};

/// What is called with a record's end.
pub(super) type Callback = Box<dyn FnOnce(Result<RecordMetadata>) + Send>;

/// The callbacks of one producer that have not run.
#[derive(Default)]
pub(super) struct Callbacks {
    queue: Mutex<Queue>,
    /// Somebody has to look.
    look: Signal,
    /// A callback has run, or somebody has ceased to run them.
    ran: Signal,
}

#[derive(Default)]
struct Queue {
    /// By the address of their lane, which the tickets keep.
    lanes: BTreeMap<usize, VecDeque<(Ticket, Callback)>>,
    entered: u64,
    done: u64,
    /// The process that has the thread which runs them, once there is one: a fork has only the rest.
    process: Option<u32>,
    /// Who runs callbacks just now.
    runner: Option<ThreadId>,
    /// The producer is gone: no more will come.
    is_over: bool,
}

impl Queue {
    fn check_process(&self) -> Result<()> {
        match self.process.filter(|owner| *owner != process::id()) {
            Some(owner) => Err(Error::forked("the producer's callbacks run elsewhere", owner)),
            None => Ok(()),
        }
    }
}

impl Wake for Callbacks {
    fn wake(self: Arc<Self>) {
        self.look.notify();
    }
}

/// Runs callbacks when it is woken.
struct Run(Arc<Callbacks>);

impl Wake for Run {
    fn wake(self: Arc<Self>) {
        self.0.run_now(Waker::noop());
    }
}

/// The time in which a thread runs callbacks.
struct Running<'a>(&'a Callbacks);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().runner = None;
        self.0.ran.notify();
    }
}

impl Callbacks {
    /// Sees to it that there is a thread to run them.
    pub(super) fn start(self: &Arc<Self>) -> Result<()> {
        let mut queue = self.queue.lock();
        if queue.process.is_none() {
            let callbacks = Arc::clone(self);
            let thread = thread::Builder::new().name("thalweg-callbacks".to_owned());
            let thread = thread.spawn(move || callbacks.serve());
            thread.map_err(|e| Error::new(ErrorKind::Io, "cannot start a thread for callbacks").source(e))?;
            queue.process = Some(process::id());
        }
        queue.check_process()
    }

    /// Has `callback` called with the end of a record. The lane is locked, so that the order is that of the records.
    pub(super) fn enter(&self, lane: &Lane, ticket: Ticket, callback: Callback) {
        let mut queue = self.queue.lock();
        queue.entered += 1;
        let of_lane = queue.lanes.entry(std::ptr::from_ref(lane).addr()).or_default();
        of_lane.push_back((ticket, callback));
        let is_first = of_lane.len() == 1;
        drop(queue);
        if is_first {
            self.look.notify();
        }
    }

    /// No more will come: the thread ends with the last.
    pub(super) fn end(&self) {
        self.queue.lock().is_over = true;
        self.look.notify();
    }

    /// How many came so far.
    pub(super) fn entered(&self) -> u64 {
        self.queue.lock().entered
    }

    pub(super) fn are_pending(&self) -> bool {
        let queue = self.queue.lock();
        queue.done < queue.entered
    }

    /// Waits until the first `entered`, of whose records the ends are known, have run, while there is time `left`; not in
    /// a callback. Whether they have; in a fork they will not.
    pub(super) fn wait(&self, entered: u64, left: impl Fn() -> Option<Duration>) -> Result<bool> {
        loop {
            let seen = self.ran.count();
            let queue = self.queue.lock();
            if queue.done >= entered || queue.runner == Some(thread::current().id()) {
                return Ok(true);
            }
            queue.check_process()?;
            let nobody_will = queue.process.is_none() && queue.runner.is_none();
            drop(queue);
            if nobody_will {
                match self.run_now(Waker::noop()) {
                    Some(0) => return Ok(true),
                    Some(_) | None => continue,
                }
            }
            let left = left();
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            self.ran.wait_past(seen, left);
        }
    }

    /// The same for a task, which is woken; it runs none itself.
    #[cfg(feature = "async")]
    pub(super) fn poll_ran(&self, entered: u64, waker: &Waker) -> Poll<Result<()>> {
        loop {
            let seen = self.ran.count();
            let queue = self.queue.lock();
            if queue.done >= entered || queue.runner == Some(thread::current().id()) {
                return Poll::Ready(Ok(()));
            }
            queue.check_process()?;
            drop(queue);
            if !self.ran.poll_past(seen, waker) {
                return Poll::Pending;
            }
        }
    }

    fn serve(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        loop {
            let seen = self.look.count();
            self.run_now(&waker);
            let queue = self.queue.lock();
            if queue.is_over && queue.done == queue.entered {
                return;
            }
            drop(queue);
            self.look.wait_past(seen, None);
        }
    }

    /// Runs those whose records' ends are known: now, or once the thread holds no lock any more.
    pub(super) fn run(self: &Arc<Self>) {
        wake_all(vec![Waker::from(Arc::new(Run(Arc::clone(self))))]);
    }

    /// The same now, and how many there were; `waker` is woken when there may be more. `None` where somebody is at it, be
    /// it this thread, in a callback.
    fn run_now(&self, waker: &Waker) -> Option<usize> {
        let lanes: Vec<_> = {
            let mut queue = self.queue.lock();
            if queue.runner.is_some() {
                return None;
            }
            queue.runner = Some(thread::current().id());
            queue.lanes.keys().copied().collect()
        };
        let _runs = Running(self);
        let mut count = 0;
        for lane in lanes {
            while let Some((mut ticket, callback)) = self.take_first(lane) {
                let Poll::Ready(result) = Pin::new(&mut ticket).poll(&mut Context::from_waker(waker)) else {
                    self.put_back(lane, ticket, callback);
                    break;
                };
                // A panic was printed when it happened; others have their turn.
                drop(panic::catch_unwind(AssertUnwindSafe(|| callback(result))));
                self.queue.lock().done += 1;
                self.ran.notify();
                count += 1;
            }
        }
        Some(count)
    }

    /// Calls the rest, of whose records nobody will learn more.
    pub(super) fn give_up(&self) {
        let lanes = std::mem::take(&mut self.queue.lock().lanes);
        for (ticket, callback) in lanes.into_values().flatten() {
            let message = "a producer was dropped before it was known whether its record arrived";
            let error = Error::new(ErrorKind::Indeterminate, message).partition(ticket.partition().clone());
            let error = error.remedy("flush the producer before, or close it");
            drop(panic::catch_unwind(AssertUnwindSafe(|| callback(Err(error)))));
            self.queue.lock().done += 1;
        }
    }

    /// As if this process were a fork of the one that has the thread.
    #[cfg(test)]
    pub(super) fn fork(&self) {
        self.queue.lock().process = Some(process::id() + 1);
    }

    fn take_first(&self, lane: usize) -> Option<(Ticket, Callback)> {
        let mut queue = self.queue.lock();
        let first = queue.lanes.get_mut(&lane)?.pop_front();
        if first.is_none() {
            queue.lanes.remove(&lane);
        }
        first
    }

    fn put_back(&self, lane: usize, ticket: Ticket, callback: Callback) {
        self.queue.lock().lanes.entry(lane).or_default().push_front((ticket, callback));
    }
}

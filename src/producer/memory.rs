//! What a producer may hold (`buffer.memory`): open batches and those on their way, of all partitions together.
//! Invariants: every batch has a share until its end is known, and gives it back by being dropped. What comes back goes
//! to those who stand in line for it, in the order in which they came; nobody else takes any while one stands there.
//!
//! Protocol of the line: whoever joins it looks for memory after, and whoever gives back looks for a line after.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Wake, Waker};

use parking_lot::Mutex;

use crate::broker::Signal;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// What a batch takes beside its bytes, at most: what is noted about it on its way, and room for more of such notes.
const NOTES: usize = 2 << 10;

/// The bytes of a producer's batches, and their limit.
#[derive(Debug)]
pub(super) struct Memory {
    limit: usize,
    used: AtomicUsize,
    /// The part of it that is in no buffer of the producer's pool.
    small: AtomicUsize,
    line: Mutex<Line>,
    /// How many stand in line and have not been served.
    waiting: AtomicUsize,
    freed: Arc<Freed>,
}

/// Those who wait for memory.
#[derive(Debug, Default)]
struct Line {
    joined: u64,
    waiting: VecDeque<Place>,
    /// Those whose memory is put aside.
    served: Vec<(Place, Share)>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    bytes: usize,
}

/// Tells that memory came back, or may do so when somebody looks.
#[derive(Debug, Default)]
struct Freed(Signal);

impl Wake for Freed {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

impl Memory {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            small: AtomicUsize::new(0),
            line: Mutex::default(),
            waiting: AtomicUsize::new(0),
            freed: Arc::default(),
        })
    }

    /// What a batch of so many bytes needs, if it is to be had and nobody stands in line for it. One that needs all gets
    /// all.
    pub(super) fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        if self.waiting.load(Ordering::SeqCst) > 0 { None } else { self.take(self.needed(bytes)) }
    }

    /// Joins the line for the same.
    pub(super) fn line_up(self: &Arc<Self>, bytes: usize) -> Turn {
        let mut line = self.line.lock();
        line.joined += 1;
        let number = line.joined;
        line.waiting.push_back(Place { number, bytes: self.needed(bytes) });
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.serve(&mut line);
        Turn { memory: Arc::clone(self), number }
    }

    fn needed(&self, bytes: usize) -> usize {
        (bytes + NOTES).min(self.limit)
    }

    fn take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let add = |used: usize| used.checked_add(bytes).filter(|&used| used <= self.limit);
        let taken = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add);
        taken.is_ok().then(|| Share { memory: Arc::clone(self), bytes, is_small: false })
    }

    /// Puts memory aside for those who stand in line, up to the first for whom there is not enough.
    fn serve(self: &Arc<Self>, line: &mut Line) {
        while let Some(&place) = line.waiting.front()
            && let Some(share) = self.take(place.bytes)
        {
            line.waiting.pop_front();
            line.served.push((place, share));
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// What buffers may take.
    pub(super) fn for_buffers(&self) -> usize {
        self.limit.saturating_sub(self.small.load(Ordering::Relaxed))
    }

    /// Counts how often memory came back, or a batch was opened, which whoever waits for memory has sent.
    pub(super) fn freed(&self) -> &Signal {
        &self.freed.0
    }

    /// Has those look again who wait for memory.
    pub(super) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.freed))
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    fn give_back(self: &Arc<Self>, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.serve(&mut self.line.lock());
        }
        self.freed.0.notify();
    }
}

/// A place in the line for memory. Dropped, it is given up, with what was put aside for it.
#[derive(Debug)]
pub(super) struct Turn {
    memory: Arc<Memory>,
    number: u64,
}

impl Turn {
    /// The memory, once it is put aside.
    pub(super) fn take(&self) -> Option<Share> {
        let served = &mut self.memory.line.lock().served;
        let at = served.iter().position(|(place, _)| place.number == self.number)?;
        Some(served.swap_remove(at).1)
    }

    /// Whether memory is put aside for somebody who has not fetched it.
    pub(super) fn is_behind_one_served(&self) -> bool {
        !self.memory.line.lock().served.is_empty()
    }

    /// Takes the places of those who have not fetched what was put aside for them, who come next then: they may be tasks
    /// that this thread is to poll, or calls of its own that a waker interrupted.
    pub(super) fn insist(&self) {
        let mut line = self.memory.line.lock();
        let Some(mine) = line.waiting.iter().position(|place| place.number == self.number) else { return };
        let (mut places, shares): (Vec<_>, Vec<_>) = line.served.drain(..).unzip();
        self.memory.waiting.fetch_add(places.len(), Ordering::SeqCst);
        places.sort_unstable_by_key(|place| place.number);
        let behind = line.waiting.split_off(mine + 1);
        line.waiting.extend(places.into_iter().chain(behind));
        drop(line);
        // They come back to those who are first now.
        drop(shares);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let unused = self.take();
        let mut line = self.memory.line.lock();
        if let Some(at) = line.waiting.iter().position(|place| place.number == self.number) {
            line.waiting.remove(at);
            self.memory.waiting.fetch_sub(1, Ordering::SeqCst);
            // Those behind may need less.
            self.memory.serve(&mut line);
            self.memory.freed.0.notify();
        }
        drop(line);
        drop(unused);
    }
}

/// The bytes of one batch.
#[derive(Debug)]
pub(super) struct Share {
    memory: Arc<Memory>,
    bytes: usize,
    is_small: bool,
}

impl Share {
    /// Gives back what a batch of `bytes` needs no more, now that it is encoded: one that leaves most of its buffer
    /// empty went without it. Whether it has.
    pub(super) fn shrink(&mut self, bytes: usize) -> bool {
        let is_small = !self.is_small && bytes < self.bytes.saturating_sub(NOTES) / 2;
        if is_small {
            let freed = self.bytes - (bytes + NOTES);
            (self.bytes, self.is_small) = (bytes + NOTES, true);
            self.memory.small.fetch_add(self.bytes, Ordering::Relaxed);
            self.memory.give_back(freed);
        }
        is_small
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.is_small {
            self.memory.small.fetch_sub(self.bytes, Ordering::Relaxed);
        }
        self.memory.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: usize = 1_000 + NOTES;

    #[test]
    fn who_needs_much_is_not_passed_by_who_needs_little() {
        let memory = Memory::new(3 * BATCH);
        let mut small: Vec<_> = (0..3).map(|_| memory.try_take(1_000).unwrap()).collect();
        let large = memory.line_up(2 * BATCH - NOTES);
        let late = memory.line_up(1_000);
        small.pop();
        assert!(memory.try_take(0).is_none(), "there is room for it, which others wait for");
        assert!(large.take().is_none() && late.take().is_none());
        small.pop();
        let share = large.take().unwrap();
        assert_eq!(memory.used(), 3 * BATCH);
        assert!(late.take().is_none());
        // A place is for one share.
        assert!(large.take().is_none());
        drop(share);
        assert!(late.take().is_some() && memory.try_take(1_000).is_some());
        drop((large, late, small));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_place_that_is_given_up_keeps_nobody_waiting() {
        let memory = Memory::new(2 * BATCH);
        let held = memory.try_take(1_000).unwrap();
        let [large, late] = [2 * BATCH, 1_000].map(|bytes| memory.line_up(bytes));
        let seen = memory.freed().count();
        drop(large);
        assert!(memory.freed().count() > seen, "the next is told");
        // What was put aside for one comes back with him, whoever waits then.
        let last = memory.line_up(1_000);
        assert!(last.take().is_none());
        drop(late);
        assert!(last.take().is_some());
        drop((held, last));
        assert_eq!(memory.used(), 0);
        assert!(memory.try_take(2 * BATCH).is_some());
    }

    #[test]
    fn who_insists_goes_before_those_who_fetch_nothing_and_not_before_others() {
        let memory = Memory::new(2 * BATCH);
        let mut held = vec![memory.try_take(1_000).unwrap(), memory.try_take(1_000).unwrap()];
        let [served, before, insists, behind] = [(); 4].map(|()| memory.line_up(1_000));
        assert!(!insists.is_behind_one_served());
        held.pop();
        assert!(insists.is_behind_one_served());
        insists.insist();
        assert!(insists.take().is_none());
        // It fetches nothing either.
        insists.insist();
        for turn in [&insists, &before, &served, &behind] {
            assert!(insists.is_behind_one_served());
            held.pop();
            held.push(turn.take().unwrap());
            // Who has his changes nothing.
            turn.insist();
            held.pop();
        }
        assert_eq!((memory.used(), memory.waiting.load(Ordering::SeqCst)), (0, 0));
    }
}

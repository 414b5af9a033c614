//! What a test did and was told, with the operation of the disk at which it happened: an oracle judges by it what is
//! found after a crash, at whatever operation that was.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::sim::{Choice, SimStorage};

/// Something in a [`History`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<E> {
    /// What the test noted.
    Event(E),
    /// The process died, or power was cut.
    Crash(Choice),
}

/// The events of a run, each with the number of operations that the disk had done by then. Clones share it.
///
/// Note what is *begun* before the call that does it, and what is *promised* after it: then an event belongs to every
/// crash at its operation or later, and no promise comes too early.
#[derive(Debug)]
pub struct History<E> {
    noted: Arc<Mutex<Noted<E>>>,
    hits: Arc<Mutex<BTreeMap<String, u64>>>,
}

type Noted<E> = Vec<(u64, Entry<E>)>;

impl<E> Clone for History<E> {
    fn clone(&self) -> Self {
        Self { noted: Arc::clone(&self.noted), hits: Arc::clone(&self.hits) }
    }
}

impl<E> Default for History<E> {
    fn default() -> Self {
        Self { noted: Arc::default(), hits: Arc::default() }
    }
}

impl<E: Clone> History<E> {
    /// Notes an event as of now.
    pub fn note(&self, disk: &SimStorage, event: E) {
        disk.note();
        self.noted.lock().push((disk.operations(), Entry::Event(event)));
    }

    /// Counts that the test came by here: a row of recovery, a state, whatever a search must not miss. The count goes
    /// on over crashes.
    pub fn hit(&self, what: impl fmt::Debug) {
        *self.hits.lock().entry(format!("{what:?}")).or_default() += 1;
    }

    /// How often the test came by each of these.
    #[must_use]
    pub fn hits(&self) -> BTreeMap<String, u64> {
        self.hits.lock().clone()
    }

    /// What was noted so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry<E>> {
        self.noted.lock().iter().map(|(_, entry)| entry.clone()).collect()
    }

    /// A history of its own that ends with a crash before the operation of this number.
    #[must_use]
    pub fn crashed(&self, operation: u64, choice: Choice) -> Self {
        let mut entries: Vec<_> = self.noted.lock().iter().filter(|(at, _)| *at <= operation).cloned().collect();
        entries.push((operation, Entry::Crash(choice)));
        Self { noted: Arc::new(Mutex::new(entries)), hits: Arc::clone(&self.hits) }
    }
}

/// Where a run failed, in one line that makes it again: the seed, and each crash as `operation/choice`.
///
/// ```
/// use thalweg::testing::Replay;
/// let line = "seed 7 crash 112/random:2a crash 130/nothing";
/// let replay: Replay = line.parse().map_err(|_| "no replay line")?;
/// assert_eq!(replay.to_string(), line);
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// The seed of the workload.
    pub seed: u64,
    /// The operation before which each crash came, and what it took.
    pub crashes: Vec<(u64, Choice)>,
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}", self.seed)?;
        self.crashes.iter().try_for_each(|(operation, choice)| write!(f, " crash {operation}/{choice}"))
    }
}

impl std::str::FromStr for Replay {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.split_ascii_whitespace();
        let mut replay = Self::default();
        while let (Some(word), Some(value)) = (words.next(), words.next()) {
            match (word, value.split_once('/')) {
                ("seed", None) => replay.seed = value.parse().map_err(|_| format!("{value:?} is no seed"))?,
                ("crash", Some((operation, choice))) => {
                    let operation = operation.parse().map_err(|_| format!("{operation:?} is no operation"))?;
                    replay.crashes.push((operation, choice.parse().map_err(|e| format!("{e}"))?));
                }
                _ => return Err(format!("{word:?} {value:?} is no part of a replay line")),
            }
        }
        Ok(replay)
    }
}

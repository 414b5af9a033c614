//! What all tests of this file together came by. The last of them to end says whether anything was missed: a row of
//! recovery that no crash led to, an operation of the disk that nobody did, a deed of the workloads.

use std::collections::BTreeMap;
use std::sync::Mutex;

use thalweg::RecoveryRow;
use thalweg::testing::Operation;

/// Operations that nothing in the library does, each with the reason.
const UNUSED: &[(Operation, &str)] =
    &[(Operation::SyncFs, "for backups, of a later release"), (Operation::Allocate, "zeros are written instead")];

/// The enum, and the names of all that is in it.
macro_rules! deeds {
    ($($(#[$doc:meta])* $each:ident,)+) => {
        /// What the workloads must have done, or come by.
        #[allow(dead_code, reason = "some are counted where they happen, by name")]
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Deed {
            $($(#[$doc])* $each,)+
        }

        const DEEDS: &[&str] = &[$(stringify!($each)),+];
    };
}

deeds! {
    /// A log was cut back. Partitions of a broker offer it to nobody.
    Truncated,
    /// A sync was let fail, and was told.
    SyncFailed,
    /// A write was.
    WriteFailed,
    /// A sync of a directory was, and the store stopped.
    DirectoryFailed,
    /// A sync of the state of all logs was.
    StateFailed,
    /// Files changed places among too few descriptors.
    FewFiles,
    /// The level of a topic fell,
    LevelFell,
    /// or rose again.
    LevelRose,
    /// A log was mended on the same handle,
    LogMended,
    /// a partition of an open broker,
    PartitionMended,
    /// the one that holds what groups committed,
    OffsetsMended,
    /// and the catalog, by closing and opening the broker.
    CatalogMended,
    /// A byte budget was used up: the append failed at once,
    Rejected,
    /// after it had waited,
    TimedOut,
    /// or took the place of the oldest segments.
    DroppedOldest,
    /// The catalog wrote a snapshot.
    CatalogSnapshot,
    /// A segment of a broker was old enough to be sealed.
    Sealed,
}

pub(crate) static TOTAL: Total =
    Total(Mutex::new(Counts { hits: BTreeMap::new(), operations: BTreeMap::new(), parts: 0 }));

pub(crate) struct Total(Mutex<Counts>);

struct Counts {
    hits: BTreeMap<String, u64>,
    operations: BTreeMap<Operation, u64>,
    parts: usize,
}

impl Total {
    /// How many tests count.
    const PARTS: usize = 8;

    pub(crate) fn add(&self, hits: &BTreeMap<String, u64>, operations: &BTreeMap<Operation, u64>) {
        let mut counts = self.0.lock().expect("no test panics while counting");
        hits.iter().for_each(|(what, n)| *counts.hits.entry(what.clone()).or_default() += n);
        operations.iter().for_each(|(what, n)| *counts.operations.entry(*what).or_default() += n);
    }

    /// Runs one of the tests that count. A run of chosen tests judges nothing.
    pub(crate) fn part(&self, test: impl FnOnce()) {
        test();
        let mut counts = self.0.lock().expect("no test panics while counting");
        counts.parts += 1;
        if counts.parts == Self::PARTS {
            let missed = counts.missed();
            println!("hits: {:?}\noperations: {:?}", counts.hits, counts.operations);
            drop(counts);
            assert!(missed.is_empty(), "never hit: {missed:?}");
        }
    }
}

impl Counts {
    fn missed(&self) -> Vec<String> {
        let rows = RecoveryRow::ALL.iter().map(|row| format!("{row:?}"));
        let due = rows.chain(DEEDS.iter().map(|deed| (*deed).to_owned()));
        let mut missed: Vec<_> = due.filter(|what| !self.hits.contains_key(what)).collect();
        for operation in Operation::ALL {
            let is_unused = UNUSED.iter().any(|(unused, _)| *unused == operation);
            if is_unused == self.operations.contains_key(&operation) {
                missed.push(format!("{operation:?}"));
            }
        }
        missed
    }
}

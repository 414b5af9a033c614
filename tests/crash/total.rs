//! What all tests of this file together came by. The last of them to end says whether anything was missed: a row of
//! recovery that no crash led to, an operation of the disk that nobody did.

use std::collections::BTreeMap;
use std::sync::Mutex;

use thalweg::RecoveryRow;
use thalweg::testing::Operation;

/// Operations that nothing in the library does, each with the reason.
const UNUSED: &[(Operation, &str)] =
    &[(Operation::SyncFs, "for backups, of a later release"), (Operation::Allocate, "zeros are written instead")];

/// Rows that take a disk or a hand that these tests do not have; each has its own in `src/log/tests/rows.rs` and `seals.rs`.
const ELSEWHERE: &[RecoveryRow] = &[
    RecoveryRow::TornGroup,
    RecoveryRow::RotBeyondCap,
    RecoveryRow::Unreadable,
    RecoveryRow::DamagedSegment,
    RecoveryRow::SizeDiffers,
    RecoveryRow::SealDiffers,
    RecoveryRow::MissingSegment,
];

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
    const PARTS: usize = 7;

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
        let rows = RecoveryRow::ALL.iter().filter(|row| !ELSEWHERE.contains(row)).map(|row| format!("{row:?}"));
        let mut missed: Vec<_> = rows.filter(|row| !self.hits.contains_key(row)).collect();
        for operation in Operation::ALL {
            let is_unused = UNUSED.iter().any(|(unused, _)| *unused == operation);
            if is_unused == self.operations.contains_key(&operation) {
                missed.push(format!("{operation:?}"));
            }
        }
        missed
    }
}

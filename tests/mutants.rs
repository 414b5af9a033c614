//! Are the searches blind? Bugs that other logs had are built back in one at a time, and each must be caught.
//!
//! Runs only by name, in a build that has the bugs: `.ci/run mutants`. `THALWEG_MUTANT_ONLY` names one. What is printed
//! last is how many were caught.
#![cfg(thalweg_mutants)]

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

#[path = "../src/mutants.rs"]
#[expect(dead_code, reason = "it is the library that looks which one is on")]
mod mutants;

use mutants::Mutant;

/// The searches: tests by their target and name.
const LOG: Search = Search("crash", "a_power_loss_log_survives_crashes");
const WEAK_LOG: Search = Search("crash", "a_process_crash_log_survives_crashes");
const ERRORS: Search = Search("crash", "a_failing_operation_costs_nothing_that_was_promised");
const FULL: Search = Search("crash", "a_disk_that_runs_full_at_any_byte_costs_nothing_that_was_promised");
const SHORT: Search = Search("crash", "short_and_interrupted_transfers_change_nothing");
const ROT: Search = Search("crash", "rot::rot_is_told_or_harmless");
const BROKER: Search = Search("crash", "broker::a_power_loss_broker_survives_crashes");
const SEARCHES: [Search; 7] = [LOG, WEAK_LOG, ERRORS, FULL, SHORT, ROT, BROKER];

/// Each bug, and the search that is likely to find it: it goes first.
const LEDGER: &[(Mutant, Search)] = &[
    (Mutant::DirectoryNotSynced, LOG),
    (Mutant::AcknowledgedUnsynced, LOG),
    (Mutant::SyncRetried, ERRORS),
    (Mutant::VisibleUnsynced, LOG),
    (Mutant::NextSegmentFirst, LOG),
    (Mutant::CleanBelieved, LOG),
    (Mutant::RecoveryPointAhead, LOG),
    (Mutant::RecoveredUnsynced, WEAK_LOG),
    (Mutant::OffsetsReused, WEAK_LOG),
    (Mutant::TornTailKept, LOG),
    (Mutant::CutAtRot, ROT),
    (Mutant::ChecksumIgnored, ROT),
    (Mutant::MissingIndexIsCorrupt, WEAK_LOG),
    (Mutant::LogStartForgotten, LOG),
    (Mutant::TruncationForgotten, LOG),
    (Mutant::ShortWriteMisplaced, SHORT),
    (Mutant::RenamedUnsynced, BROKER),
    (Mutant::OnlyCopyOverwritten, LOG),
    (Mutant::FailedWriteLeft, FULL),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Search(&'static str, &'static str);

impl Search {
    /// Whether the search finds nothing wrong, in its small size without a mutant and in its full size with one; its
    /// last words when it does.
    fn run(self, mutant: Option<Mutant>) -> Result<(), String> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["test", "--quiet", "--test", self.0, "--", "--exact", self.1]);
        cargo.stdin(Stdio::null());
        if let Some(mutant) = mutant {
            cargo.env("THALWEG_MUTANT", format!("{mutant:?}")).env("THALWEG_CRASH_FULL", "1");
        }
        let output = cargo.output().expect("cargo can be run");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match (output.status.code(), said.contains("panicked at")) {
            (Some(0), _) => Ok(()),
            (_, true) => Err(said),
            // Not an answer: it was not even built.
            _ => panic!("{self:?}: {said}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }
}

/// The search that catches the bug.
fn catch(mutant: Mutant, first: Search) -> Option<(Search, String)> {
    let rest = SEARCHES.into_iter().filter(|search| *search != first);
    // It ends at the first seed that finds something.
    let mut searches = std::iter::once(first).chain(rest);
    searches.find_map(|search| search.run(Some(mutant)).err().map(|said| (search, said)))
}

/// What a search said of the first thing that it found.
fn first_finding(said: &str) -> &str {
    let is_finding = |line: &&str| line.contains(": ") && (line.starts_with("seed ") || line.contains("disk of"));
    said.lines().filter(|line| !line.contains(" failed")).find(is_finding).unwrap_or("")
}

/// Does something with each on two threads: the searches keep one busy each.
fn on_two_threads<T: Copy + Send + Sync>(items: &[T], each: impl Fn(T) + Sync) {
    let queue = Mutex::new(items.iter());
    let next = || queue.lock().expect("nobody panics with it").next().copied();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(item) = next() {
                    each(item);
                }
            });
        }
    });
}

#[test]
fn every_mutant_is_caught() {
    let only = std::env::var("THALWEG_MUTANT_ONLY").ok();
    let chosen = LEDGER.iter().filter(|(mutant, _)| only.as_ref().is_none_or(|name| *name == format!("{mutant:?}")));
    let chosen: Vec<_> = chosen.copied().collect();
    if only.is_none() {
        on_two_threads(&SEARCHES, |search| {
            search.run(None).unwrap_or_else(|said| panic!("without a bug, {search:?} finds one: {said}"));
        });
    }
    let caught = Mutex::new(0);
    on_two_threads(&chosen, |(mutant, first)| {
        let began = Instant::now();
        let found = catch(mutant, first);
        let took = began.elapsed().as_secs_f32();
        match &found {
            Some((search, said)) => println!("{mutant:?}: {} in {took:.1} s: {}", search.1, first_finding(said)),
            None => println!("{mutant:?}: MISSED after {took:.1} s"),
        }
        *caught.lock().expect("nobody panics with it") += usize::from(found.is_some());
    });
    let caught = caught.into_inner().expect("nobody panics with it");
    println!("mutants {caught}/{}", chosen.len());
    assert_eq!(caught, chosen.len(), "some were missed");
}

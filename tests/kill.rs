//! A process that works on a broker is killed with SIGKILL, again and again, over the same directory: what it had
//! acknowledged or shown is there, nothing is there twice, no offset names another record than before.
//!
//! The child is this test binary, told by an environment variable what to do. `THALWEG_KILLS` says how many there are,
//! from `THALWEG_KILL_SEED` on.

#![cfg(unix)]

mod ledger;

use ledger::{Book, Death, Dice, Moment, number};

/// So often a directory is gone through before a new one is begun.
const DEATHS_PER_DIRECTORY: u64 = 50;

/// What the parent runs.
#[test]
fn child() {
    ledger::work_if_told();
}

#[test]
fn what_was_acknowledged_survives_sigkill() {
    let (kills, first) = (number("THALWEG_KILLS", 12), number("THALWEG_KILL_SEED", 1));
    let (mut deaths, mut acknowledged) = (0, 0);
    for from in (first..first + kills).step_by(DEATHS_PER_DIRECTORY as usize) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("data");
        let mut book = Book::begin(&path, 0).expect("a new directory opens");
        for seed in from..(from + DEATHS_PER_DIRECTORY).min(first + kills) {
            let mut dice = Dice::new(seed);
            let moment = Moment::random(&mut dice);
            let said = ledger::run(&path, 0, seed, moment, || {});
            let lines = [said.before, said.meanwhile].concat();
            let failed = lines.iter().find(|line| line.starts_with("failed "));
            let compared = book.enter(&lines).and_then(|()| book.compare(&path, 0, Death::Process, dice.below(3) > 0));
            if let (Err(wrong), _) | (Ok(()), Some(wrong)) = (compared, failed.cloned()) {
                let kept = dir.keep();
                panic!("seed {seed}, killed at {moment:?}: {wrong}; the directory is {}", kept.display());
            }
        }
        deaths += book.deaths;
        acknowledged += book.acknowledged;
    }
    println!("{deaths} kills, {acknowledged} acknowledgements, go on with THALWEG_KILL_SEED={}", first + kills);
}

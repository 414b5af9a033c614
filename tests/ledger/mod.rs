//! A process that works on a broker, what it says was acknowledged, and what must hold of the directory after the
//! process or the machine died. The same directory is gone through many deaths, and the ledger with it.

mod book;
mod boots;
mod worker;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use thalweg::{Clock, Durability, SystemClock};

pub(crate) use book::{Book, Death};
pub(crate) use boots::Boot;

/// Tells this test binary to work on a directory.
const DIR: &str = "THALWEG_TEST_CHILD";
const SEED: &str = "THALWEG_TEST_CHILD_SEED";
const BOOT: &str = "THALWEG_TEST_CHILD_BOOT";

/// Numbers that are the same for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Works, if this process was started for that.
pub(crate) fn work_if_told() {
    let Ok(dir) = std::env::var(DIR) else { return };
    worker::work(Path::new(&dir), Boot(number(BOOT, 0)), number(SEED, 0));
}

/// When a worker dies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// So long after it was started: it may not have opened the directory.
    Started(Duration),
    /// When it has said so many lines.
    Said(u64),
}

impl Moment {
    pub(crate) fn random(dice: &mut Dice) -> Self {
        match dice.below(3) {
            0 => Self::Started(Duration::from_micros(dice.below(60_000))),
            1 => Self::Said(dice.below(40)),
            _ => Self::Said(dice.below(1500)),
        }
    }
}

/// What a worker said.
pub(crate) struct Said {
    /// Before its end came.
    pub(crate) before: Vec<String>,
    /// What it may have said while its end came. A file system that is being shut down may answer a sync with success
    /// that nothing stands behind, which a machine without power cannot.
    pub(crate) meanwhile: Vec<String>,
}

/// Runs a worker, the test `child` of this binary, until the moment comes, has `end` end it and gives all lines that it said.
///
/// # Panics
/// When it says that something is wrong, or nothing at all for long.
pub(crate) fn run(dir: &Path, boot: u64, seed: u64, moment: Moment, end: impl FnOnce()) -> Said {
    let mut child = Command::new(std::env::current_exe().expect("a test knows its binary"))
        .args(["--exact", "child", "--nocapture"])
        .env(DIR, dir)
        .env(SEED, seed.to_string())
        .env(BOOT, boot.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test binary runs");
    let output = child.stdout.take().expect("its output is piped");
    let (said, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || read(output, &said));
    let mut before = wait_for(moment, &lines);
    before.extend(lines.try_iter());
    end();
    // It is gone, or nothing that it does now counts any more.
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
    reader.join().expect("reading does not panic");
    let meanwhile: Vec<_> = lines.try_iter().collect();
    let wrong: Vec<_> = before.iter().chain(&meanwhile).filter(|line| line.starts_with("wrong ")).collect();
    assert!(wrong.is_empty(), "the worker of seed {seed} says: {wrong:?}");
    Said { before, meanwhile }
}

fn read(output: ChildStdout, said: &mpsc::Sender<String>) {
    for line in BufReader::new(output).split(b'\n') {
        let Ok(line) = line else { return };
        // What the test harness prints is not UTF-8 text of ours only where a kill cut it short.
        if let Ok(line) = String::from_utf8(line)
            && said.send(line).is_err()
        {
            return;
        }
    }
}

fn wait_for(moment: Moment, lines: &mpsc::Receiver<String>) -> Vec<String> {
    const SILENCE_MAX: Duration = Duration::from_secs(60);
    let clock = SystemClock::new();
    let mut seen = Vec::new();
    let mut silent_since = clock.monotonic();
    loop {
        let now = clock.monotonic();
        let left = match moment {
            Moment::Started(after) => after.saturating_sub(now),
            Moment::Said(count) if seen.len() as u64 >= count => return seen,
            Moment::Said(_) => {
                assert!(now - silent_since < SILENCE_MAX, "a worker hangs");
                SILENCE_MAX
            }
        };
        match lines.recv_timeout(left) {
            Ok(line) => {
                silent_since = clock.monotonic();
                seen.push(line);
            }
            // It ended by itself, when its disk was gone.
            Err(RecvTimeoutError::Disconnected) => return seen,
            Err(RecvTimeoutError::Timeout) if matches!(moment, Moment::Started(_)) => return seen,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// A number that the environment gives, or the one for a plain `cargo test`.
pub(crate) fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

pub(crate) fn level_of(letter: &str) -> Durability {
    match letter {
        "P" => Durability::PowerLoss,
        _ => Durability::ProcessCrash,
    }
}

//! Opening a log again, after a clean close and after SIGKILL, page cache warm: goal G7.
//!
//! After a clean close the limit beside it is what any log must do: list the directory, look at each segment, open
//! the last one and `pread` its tail. After a kill it is `pread` + CRC-32C of the bytes that recovery scanned. Killed
//! stores are written by a process of their own, killed in the middle of an append; the small files that
//! recovery replaces are put back before each further open.

#![allow(clippy::disallowed_methods, reason = "a bench times and writes by itself, beside the library")]

mod support;

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use support::{Payloads, append, files, goal, median, open_log};
use thalweg::{Durability, Isolation, Log, LogConfig, LogRecovery};

const CLEAN: [(&str, u64); 2] = [("256MiB", 256 << 20), ("4GiB", 4 << 30)];
/// Stores that are killed: name, bytes, and whether they ran with maintenance.
const KILLED: [(&str, u64, bool); 2] = [("1GiB-never-synced", 1 << 30, false), ("4GiB-maintained", 4 << 30, true)];
/// Bytes between two rounds of maintenance.
const MAINTENANCE_BYTES: u64 = 64 << 20;
const ROUNDS: usize = 9;
const READ_BYTES: usize = 1 << 20;
const TAIL_BYTES: u64 = 4096;
/// Files below this are put back before a killed store is opened again.
const SMALL_FILE_BYTES: u64 = 2 << 20;

fn main() {
    match support::role().as_deref() {
        Some([role, bytes]) if role == "touch" => return support::touch(bytes),
        Some([role, dir, bytes, maintained]) if role == "write" => {
            return write_until_killed(dir, bytes.parse().expect("a number"), maintained == "true");
        }
        _ => {}
    }
    let mut criterion = support::criterion();
    let wants_goals = support::wants_goals();
    if wants_goals {
        support::touch_memory(4 << 30);
    }
    for (name, bytes) in CLEAN {
        clean(&mut criterion, wants_goals, name, bytes);
    }
    for (name, bytes, maintained) in KILLED {
        killed(&mut criterion, wants_goals, name, bytes, maintained);
    }
    criterion.final_summary();
}

fn timed(mut open: impl FnMut()) -> Duration {
    let begun = Instant::now();
    open();
    begun.elapsed()
}

fn millis(mut times: Vec<Duration>) -> f64 {
    median(&mut times.drain(..).map(|time| time.as_secs_f64() * 1e3).collect::<Vec<_>>())
}

// ---- after a clean close

fn clean(criterion: &mut Criterion, wants_goals: bool, name: &str, bytes: u64) {
    let scratch = support::scratch();
    let dir = scratch.path().join("events-0");
    let log = open_log(&dir);
    support::fill(&log, &mut Payloads::new(1024), bytes);
    log.close().expect("the log closes");
    drop(log);

    let mut group = criterion.benchmark_group("reopen/clean");
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function(BenchmarkId::new("raw_list_and_tail", name), |bencher| bencher.iter(|| raw_clean(&dir)));
    group.bench_function(BenchmarkId::new("log", name), |bencher| bencher.iter(|| open_log(&dir)));
    group.bench_function(BenchmarkId::new("log_and_last_record", name), |bencher| {
        bencher.iter(|| read_last(&open_log(&dir)));
    });
    group.finish();
    if !wants_goals {
        return;
    }
    let (mut raw, mut ours, mut with_read) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        raw.push(timed(|| raw_clean(&dir)));
        ours.push(timed(|| drop(black_box(open_log(&dir)))));
        with_read.push(timed(|| read_last(&open_log(&dir))));
    }
    let (ours, raw, with_read) = (millis(ours), millis(raw), millis(with_read));
    goal(
        &format!("G7/clean-{name}"),
        &format!("{ours:.2} ms"),
        "<= 5 ms",
        ours <= 5.0,
        &format!(
            "with its last record read {with_read:.2} ms; raw list + open + tail {raw:.2} ms; page cache warm, synced by the close"
        ),
    );
}

fn read_last(log: &Log) {
    let last = log.offsets().end.get() - 1;
    let read = log.read(last, 1, Isolation::ReadCommitted).expect("the log reads");
    assert!(!read.is_empty(), "the last record is there");
}

/// What cannot be left out: list, look at each segment, read the end of the last.
fn raw_clean(dir: &Path) {
    let mut segments = segments(dir);
    let (last, length) = segments.pop().expect("there is a segment");
    let mut tail = [0; TAIL_BYTES as usize];
    let file = File::open(last).expect("the segment opens");
    file.read_exact_at(&mut tail, length - TAIL_BYTES).expect("the tail reads");
    black_box((crc32c::crc32c(&tail), segments));
}

/// Paths and lengths of a log's segments, oldest first.
fn segments(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = files(dir);
    found.retain(|(path, _)| path.extension().is_some_and(|ending| ending == "log"));
    found.sort();
    found
}

// ---- after SIGKILL

fn killed(criterion: &mut Criterion, wants_goals: bool, name: &str, bytes: u64, maintained: bool) {
    let scratch = support::scratch();
    let dir = scratch.path().join("events-0");
    let acknowledged = write_and_kill(&dir, bytes, maintained);
    let before = SmallFiles::keep(&dir);

    // The first open pays for the bytes that were never synced; the others find them clean.
    let mut report = LogRecovery::default();
    let first = timed(|| {
        let log = open_log(&dir);
        assert!(log.offsets().end.get() >= acknowledged, "nothing acknowledged was lost");
        report = log.recovery().clone();
    });
    let reopen = || {
        before.put_back();
        timed(|| assert_eq!(open_log(&dir).recovery().scanned_bytes, report.scanned_bytes, "it scans again"))
    };
    let raw = || timed(|| raw_scan(&dir, report.scanned_bytes));

    let mut group = criterion.benchmark_group("reopen/killed");
    group.throughput(Throughput::Bytes(report.scanned_bytes));
    group.bench_function(BenchmarkId::new("raw_pread_crc", name), |bencher| {
        bencher.iter_custom(|iterations| (0..iterations).map(|_| raw()).sum());
    });
    group.bench_function(BenchmarkId::new("log", name), |bencher| {
        bencher.iter_custom(|iterations| (0..iterations).map(|_| reopen()).sum());
    });
    group.finish();
    if !wants_goals {
        return;
    }
    let pairs: (Vec<_>, Vec<_>) = (0..ROUNDS).map(|_| (raw(), reopen())).unzip();
    let (raw, ours) = (millis(pairs.0), millis(pairs.1));
    goal(
        &format!("G7/killed-{name}"),
        &format!("{ours:.1} ms"),
        "<= 25 ms",
        ours <= 25.0,
        &format!(
            "scanned {} MiB at {:.2}x of raw pread + crc, {raw:.1} ms; {:?}; the very first open, which syncs what was not, {:.0} ms; page cache warm; level process-crash, {}",
            report.scanned_bytes >> 20,
            raw / ours,
            report.rows,
            first.as_secs_f64() * 1e3,
            if maintained { "maintenance every 64 MiB" } else { "no sync at all" },
        ),
    );
}

/// Reads and checks as many bytes as recovery scanned, from the end of the log backwards by segments.
fn raw_scan(dir: &Path, mut bytes: u64) {
    let mut buffer = vec![0; READ_BYTES];
    for (path, length) in segments(dir).into_iter().rev() {
        let file = File::open(path).expect("the segment opens");
        let wanted = length.min(bytes);
        let mut at = 0;
        while at < wanted {
            let piece = usize::try_from(wanted - at).map_or(READ_BYTES, |left| left.min(READ_BYTES));
            file.read_exact_at(&mut buffer[..piece], at).expect("the segment reads");
            black_box(crc32c::crc32c(&buffer[..piece]));
            at += piece as u64;
        }
        bytes -= wanted;
    }
}

/// Has a helper write, and kills it in the middle; answers the offset below which it had acknowledged all.
fn write_and_kill(dir: &Path, bytes: u64, maintained: bool) -> i64 {
    let mut helper = support::start(&[&"write", &dir.display(), &bytes, &maintained]);
    let acknowledged = support::line_of(&mut helper).parse().expect("the helper tells an offset");
    helper.kill().expect("the helper is killed");
    helper.wait().expect("the helper ends");
    acknowledged
}

/// The helper: writes so many bytes, says so, and goes on appending until it is killed.
fn write_until_killed(dir: &str, bytes: u64, maintained: bool) {
    let config = LogConfig::default().durability(Durability::ProcessCrash);
    let log = Log::open(dir, config).expect("the log opens");
    let (mut payloads, mut written, mut synced) = (Payloads::new(1024), 0, 0);
    let mut told = false;
    // A bound, should nobody kill it.
    while written < 2 * bytes {
        written += append(&log, &payloads.batch(0)) as u64;
        if maintained && written - synced >= MAINTENANCE_BYTES {
            log.run_maintenance().expect("the log syncs");
            synced = written;
        }
        if written >= bytes && !told {
            told = true;
            println!("{}", log.offsets().end);
            std::io::stdout().flush().expect("the parent listens");
        }
    }
}

/// Copies of the files that recovery may replace.
struct SmallFiles {
    dir: PathBuf,
    kept: Vec<(PathBuf, Vec<u8>)>,
}

impl SmallFiles {
    fn keep(dir: &Path) -> Self {
        let small = files(dir).into_iter().filter(|(_, length)| *length < SMALL_FILE_BYTES);
        let kept = small.map(|(path, _)| (path.clone(), fs::read(&path).expect("the file reads"))).collect();
        Self { dir: dir.to_owned(), kept }
    }

    fn put_back(&self) {
        for (path, _) in files(&self.dir).iter().filter(|(_, length)| *length < SMALL_FILE_BYTES) {
            if !self.kept.iter().any(|(kept, _)| kept == path) {
                fs::remove_file(path).expect("the file can be removed");
            }
        }
        for (path, bytes) in &self.kept {
            fs::write(path, bytes).expect("the file can be written");
        }
    }
}

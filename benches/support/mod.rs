//! What the benches share: the data, a place on the real disk, alternated rounds against a raw limit, and the
//! goal lines of `goal NAME FIGURE >= BOUND ok|MISSED`.
//!
//! A ratio is only worth something within one run: in each round ours and the raw limit take turns of a few
//! milliseconds, and the median round counts. Fresh page-cache pages can cost a fault in the host of a virtual
//! machine, so another process touches memory first. Criterion draws the curves; the goals come from these rounds.

#![allow(dead_code, reason = "each bench uses its own part")]

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use criterion::Criterion;
use thalweg::{BatchPool, Durability, LeaderEpoch, Log, LogConfig, RecordBatch, Timestamp};

/// What a batch may take, its header included.
pub(crate) const BATCH_BYTES: usize = 64 << 10;
/// Leader epoch of every append.
pub(crate) const EPOCH: LeaderEpoch = LeaderEpoch::new(0);
/// Bytes of payloads that records are cut from: more than a core's own cache holds.
const POOL_BYTES: usize = 16 << 20;
/// Buffers that batches are built in, over and over.
const BUFFERS: usize = 8;
/// Names what a copy of this program is to do instead of measuring.
const ROLE: &str = "THALWEG_BENCH_ROLE";

/// Curves with few and short samples: the shape matters, the goals come from the rounds.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .configure_from_args()
}

/// Whether the goals are wanted: not when Criterion only lists, tests or draws chosen curves.
/// `cargo bench --bench NAME -- goals` prints them alone.
pub(crate) fn wants_goals() -> bool {
    std::env::args().skip(1).all(|arg| arg == "--bench" || arg == "goals")
}

// ---- the data

/// Payloads, every second one incompressible, the others like an application's JSON events.
pub(crate) struct Payloads {
    pool: Vec<u8>,
    record_bytes: usize,
    next: usize,
    buffers: BatchPool,
}

impl Payloads {
    pub(crate) fn new(record_bytes: usize) -> Self {
        let mut pool = Vec::with_capacity(POOL_BYTES + record_bytes);
        let mut random = Random::new(record_bytes as u64);
        while pool.len() + record_bytes <= POOL_BYTES {
            let end = pool.len() + record_bytes;
            while pool.len() < end {
                pool.extend_from_slice(&random.next().to_be_bytes());
            }
            pool.truncate(end);
            let end = pool.len() + record_bytes;
            while pool.len() < end {
                let (user, cents) = (random.below(100_000), random.below(50_000));
                pool.extend_from_slice(
                    format!(
                        "{{\"user\":\"u-{user:06}\",\"event\":\"purchase\",\"cents\":{cents},\"currency\":\"EUR\"}} "
                    )
                    .as_bytes(),
                );
            }
            pool.truncate(end);
        }
        Self { pool, record_bytes, next: 0, buffers: BatchPool::new(BATCH_BYTES, BUFFERS * BATCH_BYTES) }
    }

    pub(crate) fn next(&mut self) -> &[u8] {
        if self.next + self.record_bytes > self.pool.len() {
            self.next = 0;
        }
        let payload = &self.pool[self.next..self.next + self.record_bytes];
        self.next += self.record_bytes;
        payload
    }

    /// Builds a batch of as many records as fit into [`BATCH_BYTES`]; each batch is a millisecond later.
    pub(crate) fn batch(&mut self, number: usize) -> RecordBatch {
        // A record's lengths and deltas take less than this.
        let room = self.record_bytes + 16;
        let time = Timestamp::new(1_700_000_000_000 + number as i64);
        let mut batch = self.buffers.builder();
        while batch.size_estimate() + room <= BATCH_BYTES {
            batch.push_parts(time, None, Some(self.next()), &[]).expect("a batch of 64 KiB has room");
        }
        batch.finish().expect("records were pushed")
    }

    /// Batches of one whole pass over the payloads.
    pub(crate) fn batches(&mut self) -> Vec<RecordBatch> {
        (0..POOL_BYTES / BATCH_BYTES).map(|n| self.batch(n)).collect()
    }
}

/// A small generator (xorshift64*) with a fixed seed: every run sees the same data.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

// ---- the place

/// A directory on the disk that the build stands on; gone when dropped.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the bench")
}

/// A log that acknowledges at process-crash level: nothing on the path of an append is synced but the rare note
/// that reserves offsets.
pub(crate) fn open_log(dir: &Path) -> Log {
    Log::open(dir, LogConfig::default().durability(Durability::ProcessCrash)).expect("the log opens")
}

/// Appends and waits until the operating system has the batch.
pub(crate) fn append(log: &Log, batch: &RecordBatch) -> usize {
    let appended = log.append(batch, EPOCH).expect("the batch is sound");
    log.wait(appended.position, Durability::ProcessCrash).expect("the disk takes it");
    batch.size_bytes()
}

/// Fills a log with about `bytes` of batches; answers how many there are.
pub(crate) fn fill(log: &Log, payloads: &mut Payloads, bytes: u64) -> usize {
    let (mut written, mut batches) = (0, 0);
    while written < bytes {
        written += append(log, &payloads.batch(batches)) as u64;
        batches += 1;
    }
    batches
}

/// The first segment of a log.
pub(crate) fn first_segment(dir: &Path) -> File {
    File::open(dir.join("00000000000000000000.log")).expect("the log has its first segment")
}

/// Files of a directory and their lengths.
pub(crate) fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(dir).expect("the directory can be listed");
    entries.flatten().map(|entry| (entry.path(), entry.metadata().map_or(0, |found| found.len()))).collect()
}

// ---- other processes

/// The role that this process was started in, if it is a helper: its name and its arguments.
pub(crate) fn role() -> Option<Vec<String>> {
    Some(std::env::var(ROLE).ok()?.split('|').map(str::to_owned).collect())
}

/// Starts this program again in a role of `parts`, its output piped.
pub(crate) fn start(parts: &[&dyn Display]) -> Child {
    let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    let program = std::env::current_exe().expect("a program knows its own path");
    Command::new(program).env(ROLE, parts.join("|")).stdout(Stdio::piped()).spawn().expect("a helper process starts")
}

/// The next line that a helper prints.
pub(crate) fn line_of(child: &mut Child) -> String {
    let mut line = String::new();
    if let Some(out) = child.stdout.as_mut() {
        BufReader::new(out).read_line(&mut line).expect("the helper prints a line");
    }
    line.trim().to_owned()
}

/// Has another process touch memory, so that the host backs the pages which the page cache takes next.
pub(crate) fn touch_memory(bytes: u64) {
    let touched = start(&[&"touch", &bytes]).wait().expect("the helper ends");
    assert!(touched.success(), "the helper touches memory");
}

/// The helper's side of [`touch_memory`].
pub(crate) fn touch(bytes: &str) {
    let bytes: usize = bytes.parse().expect("a number of bytes");
    let mut memory = Vec::with_capacity(bytes);
    memory.resize(bytes, 1_u8);
    std::hint::black_box(&memory);
}

/// Anonymous memory of this process in bytes, without what it maps or caches of files.
pub(crate) fn anonymous_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.expect("Linux tells the anonymous memory of a process") << 10
}

/// Nanoseconds that this thread has run, system time included, where the kernel tells.
fn cpu_nanos() -> Option<f64> {
    // The kernel brings its account up to date when a thread yields.
    std::thread::yield_now();
    fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

// ---- rounds

/// Calls of one side before the other side's turn: milliseconds, so that what else the machine does meets both.
const SLICE_CALLS: usize = 64;

/// What one side did in one round.
#[derive(Debug, Default)]
struct Pass {
    bytes: u64,
    nanos: f64,
    cpu_nanos: f64,
    /// Of each call.
    calls: Vec<f64>,
}

impl Pass {
    /// Times calls one by one; each answers the bytes that it moved.
    fn slice(&mut self, calls: Range<usize>, mut call: impl FnMut(usize) -> usize) {
        let cpu = cpu_nanos();
        let begun = Instant::now();
        let mut before = begun;
        for n in calls {
            self.bytes += call(n) as u64;
            let now = Instant::now();
            self.calls.push((now - before).as_nanos() as f64);
            before = now;
        }
        self.nanos += (before - begun).as_nanos() as f64;
        self.cpu_nanos += cpu_nanos().zip(cpu).map_or(f64::NAN, |(after, before)| after - before);
    }

    fn result(mut self) -> Figures {
        Figures {
            mb_per_s: self.bytes as f64 / self.nanos * 1e3,
            cpu_s_per_gb: self.cpu_nanos / self.bytes as f64,
            p50_micros: median(&mut self.calls) / 1e3,
        }
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
struct Figures {
    mb_per_s: f64,
    cpu_s_per_gb: f64,
    p50_micros: f64,
}

/// One side of a comparison: what is made anew for a round, and a call, which answers the bytes that it moved.
pub(crate) struct Side<Open, Call> {
    pub(crate) open: Open,
    pub(crate) call: Call,
}

/// Ours and the raw limit, round by round.
pub(crate) struct Rounds {
    ours: Vec<Figures>,
    raw: Vec<Figures>,
}

/// Runs `count` rounds of `calls` calls of each side, in slices that alternate; who goes first alternates, too.
pub(crate) fn rounds<A, B>(
    count: usize,
    calls: usize,
    mut raw: Side<impl FnMut() -> A, impl FnMut(&mut A, usize) -> usize>,
    mut ours: Side<impl FnMut() -> B, impl FnMut(&mut B, usize) -> usize>,
) -> Rounds {
    let mut all = Rounds { ours: Vec::new(), raw: Vec::new() };
    for _ in 0..count {
        let (mut a, mut b) = ((raw.open)(), (ours.open)());
        // The first call makes files and directories.
        (raw.call)(&mut a, 0);
        (ours.call)(&mut b, 0);
        let (mut of_raw, mut of_ours) = (Pass::default(), Pass::default());
        for (turn, begin) in (1..=calls).step_by(SLICE_CALLS).enumerate() {
            let slice = begin..(begin + SLICE_CALLS).min(calls + 1);
            if turn % 2 == 1 {
                of_ours.slice(slice.clone(), |n| (ours.call)(&mut b, n));
            }
            of_raw.slice(slice.clone(), |n| (raw.call)(&mut a, n));
            if turn % 2 == 0 {
                of_ours.slice(slice, |n| (ours.call)(&mut b, n));
            }
        }
        all.raw.push(of_raw.result());
        all.ours.push(of_ours.result());
    }
    all
}

impl Rounds {
    /// The middle one of a figure's ratios, ours to raw, and the two ends.
    fn ratio(&self, figure: impl Fn(&Figures) -> f64) -> (f64, f64, f64) {
        let mut ratios: Vec<f64> = self.ours.iter().zip(&self.raw).map(|(o, r)| figure(o) / figure(r)).collect();
        let middle = median(&mut ratios);
        (middle, ratios[0], ratios[ratios.len() - 1])
    }

    /// Medians of a figure: ours and raw.
    fn medians(&self, figure: impl Fn(&Figures) -> f64) -> (f64, f64) {
        let of = |all: &[Figures]| median(&mut all.iter().map(&figure).collect::<Vec<_>>());
        (of(&self.ours), of(&self.raw))
    }

    /// Prints the goal of a throughput ratio.
    pub(crate) fn throughput_goal(&self, name: &str, at_least: f64, note: &str) {
        let (middle, low, high) = self.ratio(|f| f.mb_per_s);
        let (by_call, ..) = self.ratio(|f| 1.0 / f.p50_micros);
        let ((mb, raw_mb), (p50, raw_p50)) = (self.medians(|f| f.mb_per_s), self.medians(|f| f.p50_micros));
        let note = format!(
            "{mb:.0} MB/s, p50 {p50:.2} us; raw {raw_mb:.0} MB/s, p50 {raw_p50:.2} us; by p50 {by_call:.2}x; \
             rounds {low:.2}-{high:.2}; {note}"
        );
        // Rounded away from the goal, so that a near miss does not look like a hit.
        let figure = (middle * 100.0).floor() / 100.0;
        goal(name, &format!("{figure:.2}x"), &format!(">= {at_least:.2}x"), middle >= at_least, &note);
    }

    /// Prints the goal of a ratio of CPU time for the same bytes.
    pub(crate) fn cpu_goal(&self, name: &str, at_most: f64, note: &str) {
        let (middle, low, high) = self.ratio(|f| f.cpu_s_per_gb);
        let (cpu, raw_cpu) = self.medians(|f| f.cpu_s_per_gb);
        let note = format!("{cpu:.2} CPU s/GB, raw {raw_cpu:.2}; rounds {low:.2}-{high:.2}; {note}");
        let figure = (middle * 100.0).ceil() / 100.0;
        goal(name, &format!("{figure:.2}x"), &format!("<= {at_most:.2}x"), middle <= at_most, &note);
    }
}

/// One line for one goal, so that the state of all goals is one `grep`.
pub(crate) fn goal(name: &str, figure: &str, bound: &str, met: bool, note: &str) {
    println!("goal {name} {figure} {bound} {} ({note})", if met { "ok" } else { "MISSED" });
}

/// The middle of `values`, which it sorts.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

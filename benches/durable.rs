//! Commits that survive loss of power, one record of 1 KiB each: goal G3.
//!
//! The limit is an append with `write(2)` and `fdatasync` by one writer to one plain file, whose length grows with each:
//! what the simplest log does. Ours is an append and a wait at power-loss level, which is an `fdatasync` as well, by one
//! writer, by eight on one log, and by eight on a log each, beside which eight threads sync a file each. All take turns
//! in each round; no page is compressible for half of the records.

#![allow(clippy::disallowed_methods, reason = "a bench times and writes by itself, beside the library")]

mod support;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use support::{EPOCH, Payloads, goal, median};
use tempfile::TempDir;
use thalweg::{BatchBuilder, Durability, Log, LogConfig, RecordBatch, Timestamp};

const RECORD_BYTES: usize = 1024;
const WRITERS: usize = 8;
const ROUNDS: usize = 7;
/// Commits of one writer in a turn, of which a round has several.
const TURN: usize = 150;
const TURNS: usize = 8;
const LEVEL: &str = "fdatasync per commit on both sides; level power-loss";

fn main() {
    if let Some([role, bytes]) = support::role().as_deref()
        && role == "touch"
    {
        return support::touch(bytes);
    }
    if support::wants_goals() {
        goals();
    }
    let mut criterion = support::criterion();
    curves(&mut criterion);
    criterion.final_summary();
}

/// One record each, offsets to be assigned.
fn batches() -> Vec<RecordBatch> {
    let mut payloads = Payloads::new(RECORD_BYTES);
    let one = |n: i64| {
        let mut batch = BatchBuilder::with_capacity(RECORD_BYTES + 128);
        batch.push_parts(Timestamp::new(1_700_000_000_000 + n), None, Some(payloads.next()), &[]).expect("room");
        batch.finish().expect("a record was pushed")
    };
    (0..4096).map(one).collect()
}

fn commit(log: &Log, batch: &RecordBatch) {
    let appended = log.append(batch, EPOCH).expect("the batch is sound");
    log.wait(appended.position, Durability::PowerLoss).expect("the disk takes it");
}

fn commit_raw(file: &mut File, batch: &RecordBatch) {
    file.write_all(batch.as_bytes()).expect("the disk takes it");
    file.sync_data().expect("the disk syncs it");
}

fn open(dir: &Path, number: usize) -> Log {
    Log::open(dir.join(format!("events-{number}")), LogConfig::default()).expect("the log opens")
}

fn open_raw(dir: &Path, number: usize) -> File {
    File::create_new(dir.join(format!("raw-{number}"))).expect("the raw file is new")
}

/// What several writers did in one round.
#[derive(Default)]
struct Pass {
    commits: usize,
    spent: Duration,
    /// Of each commit, in microseconds.
    latencies: Vec<f64>,
}

impl Pass {
    /// Has every writer commit [`TURN`] times, all at once.
    fn turn<W: Send>(&mut self, writers: &mut [W], commit: impl Fn(&mut W, usize) + Sync) {
        let start = Barrier::new(writers.len());
        let run = |writer: &mut W| {
            let mut latencies = Vec::with_capacity(TURN);
            start.wait();
            let begun = Instant::now();
            let mut before = begun;
            for n in 0..TURN {
                commit(writer, n);
                let now = Instant::now();
                latencies.push((now - before).as_secs_f64() * 1e6);
                before = now;
            }
            (begun, before, latencies)
        };
        let done: Vec<_> = match writers {
            [writer] => vec![run(writer)],
            _ => thread::scope(|scope| {
                let threads: Vec<_> = writers.iter_mut().map(|writer| scope.spawn(|| run(writer))).collect();
                threads.into_iter().map(|thread| thread.join().expect("the writer ends")).collect()
            }),
        };
        let begun = done.iter().map(|(begun, ..)| *begun).min().expect("a writer");
        let ended = done.iter().map(|(_, ended, _)| *ended).max().expect("a writer");
        self.spent += ended - begun;
        for (_, _, latencies) in done {
            self.commits += latencies.len();
            self.latencies.extend(latencies);
        }
    }

    fn per_second(&self) -> f64 {
        self.commits as f64 / self.spent.as_secs_f64()
    }

    fn percentile(&mut self, percent: usize) -> f64 {
        self.latencies.sort_by(f64::total_cmp);
        self.latencies[self.latencies.len() * percent / 100]
    }
}

/// Figures of all rounds of one side.
#[derive(Default)]
struct Side {
    per_second: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Side {
    fn add(&mut self, mut pass: Pass) {
        self.per_second.push(pass.per_second());
        self.p50.push(pass.percentile(50));
        self.p99.push(pass.percentile(99));
    }

    fn median(values: &[f64]) -> f64 {
        median(&mut values.to_vec())
    }

    /// By round: ours to the limit.
    fn ratio(&self, limit: &Side) -> (f64, f64, f64) {
        let mut ratios: Vec<f64> = self.per_second.iter().zip(&limit.per_second).map(|(o, r)| o / r).collect();
        let middle = median(&mut ratios);
        (middle, ratios[0], ratios[ratios.len() - 1])
    }

    fn tail(&self) -> f64 {
        median(&mut self.p99.iter().zip(&self.p50).map(|(p99, p50)| p99 / p50).collect::<Vec<_>>())
    }

    fn goals(&self, name: &str, writers: usize, at_least: f64, limit: &Side) {
        let (middle, low, high) = self.ratio(limit);
        let by_p50 = Self::median(&limit.p50) / Self::median(&self.p50) * writers as f64;
        let note = format!(
            "{:.0} commits/s, p50 {:.0} us; raw, one writer {:.0}/s, p50 {:.0} us, p99 {:.0} us; by p50 {by_p50:.2}x; rounds {low:.2}-{high:.2}; {LEVEL}",
            Self::median(&self.per_second),
            Self::median(&self.p50),
            Self::median(&limit.per_second),
            Self::median(&limit.p50),
            Self::median(&limit.p99),
        );
        // Rounded away from the goal, so that a near miss does not look like a hit.
        let figure = (middle * 100.0).floor() / 100.0;
        goal(name, &format!("{figure:.2}x"), &format!(">= {at_least:.2}x"), middle >= at_least, &note);
        let tail = (self.tail() * 100.0).ceil() / 100.0;
        let note = format!("p99 {:.0} us to its own p50; {LEVEL}", Self::median(&self.p99));
        goal(&format!("{name}-p99"), &format!("{tail:.2}x"), "<= 3.00x", tail <= 3.0, &note);
    }
}

fn goals() {
    support::touch_memory(1 << 30);
    let batches = batches();
    let (mut raw, mut raw_each) = (Side::default(), Side::default());
    let (mut one, mut shared, mut each) = (Side::default(), Side::default(), Side::default());
    for _ in 0..ROUNDS {
        let scratch: TempDir = support::scratch();
        let dir = scratch.path();
        let mut raw_files: Vec<File> = (0..=WRITERS).map(|n| open_raw(dir, n)).collect();
        let logs: Vec<Log> = (0..WRITERS + 2).map(|n| open(dir, n)).collect();
        let mut refs: Vec<&Log> = logs.iter().collect();
        let mut passes: [Pass; 5] = Default::default();
        let by_log = |log: &mut &Log, n: usize| commit(log, &batches[n % batches.len()]);
        let by_raw = |file: &mut File, n: usize| commit_raw(file, &batches[n % batches.len()]);
        // The first commit makes files and directories.
        refs.iter_mut().for_each(|log| by_log(log, 0));
        raw_files.iter_mut().for_each(|file| by_raw(file, 0));
        let (raw_one, raw_own) = raw_files.split_at_mut(1);
        let (own, lone) = refs.split_at_mut(WRITERS);
        let (log_one, log_shared) = lone.split_at_mut(1);
        let mut sharing = vec![log_shared[0]; WRITERS];
        for _ in 0..TURNS {
            passes[0].turn(raw_one, by_raw);
            passes[1].turn(log_one, by_log);
            passes[2].turn(&mut sharing, by_log);
            passes[3].turn(raw_own, by_raw);
            passes[4].turn(own, by_log);
        }
        let [a, b, c, d, e] = passes;
        raw.add(a);
        one.add(b);
        shared.add(c);
        raw_each.add(d);
        each.add(e);
        logs.iter().for_each(|log| log.close().expect("the log closes"));
    }
    one.goals("G3/1w", 1, 1.25, &raw);
    shared.goals("G3/8w", WRITERS, 6.0, &raw);
    let (middle, low, high) = each.ratio(&raw_each);
    println!(
        "8 writers on 8 logs: {middle:.2}x of 8 threads with a raw file each ({:.0} and {:.0} commits/s; rounds {low:.2}-{high:.2}); {LEVEL}",
        Side::median(&each.per_second),
        Side::median(&raw_each.per_second),
    );
}

fn curves(criterion: &mut Criterion) {
    let batches = batches();
    let scratch = support::scratch();
    let mut group = criterion.benchmark_group("durable");
    group.throughput(Throughput::Elements(1));
    let (log, mut file) = (open(scratch.path(), 0), open_raw(scratch.path(), 0));
    let mut n = 0;
    let mut next = || {
        n += 1;
        &batches[n % batches.len()]
    };
    group.bench_function("raw_append_fdatasync/1KiB", |bencher| bencher.iter(|| commit_raw(&mut file, next())));
    group.bench_function("log/1KiB", |bencher| bencher.iter(|| commit(&log, next())));
    group.finish();
    log.close().expect("the log closes");
}

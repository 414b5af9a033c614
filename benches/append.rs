//! Appending batches of 64 KiB at process-crash level, beside raw `write(2)` of the same bytes: goals G1, G9, G10, G11.
//!
//! `built` makes each batch from records in the loop, `prebuilt` hands over finished ones, `raw` writes the bytes of
//! those to a plain file: the same sizes at the same positions. Nothing is synced but the log's rare note that
//! reserves offsets. Memory and size on disk are measured in a process of their own that does nothing else.

#![allow(clippy::disallowed_methods, reason = "a bench times and writes by itself, beside the library")]

mod support;

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use support::{
    BATCH_BYTES, EPOCH, Payloads, Rounds, Side, anonymous_memory, append, files, goal, median, open_log, rounds,
};
use tempfile::TempDir;
use thalweg::{BatchBuilder, Broker, Durability, Isolation, Log, Offset, RecordBatch, Timestamp};

/// Bytes of one pass; its file is deleted before the kernel begins to write it back.
const PASS_BYTES: usize = 128 << 20;
const ROUNDS: usize = 7;
/// Batches that share a write, in the goals that say so.
const SHARED: usize = 4;
const SIZES: [(&str, usize); 2] = [("1KiB", 1024), ("100B", 100)];
const LEVEL: &str = "level process-crash, no fsync per append";

fn main() {
    match support::role().as_deref() {
        Some([role, bytes]) if role == "touch" => return support::touch(bytes),
        Some([role, dir, record, batch, bytes]) if role == "store" => return store(dir, record, batch, bytes),
        _ => {}
    }
    // The goals first: what the curves leave to be written back would slow them down.
    if support::wants_goals() {
        append_goals();
        stall_goals();
        memory_and_disk_goals();
    }
    let mut criterion = support::criterion();
    curves(&mut criterion);
    criterion.final_summary();
}

fn curves(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for (size, record_bytes) in SIZES {
        let mut payloads = Payloads::new(record_bytes);
        let batches = payloads.batches();
        group.throughput(Throughput::Bytes(batches[0].size_bytes() as u64));
        curve(&mut group, "raw_write", size, RawFile::create, |file, n| file.write(&batches[n % batches.len()]));
        curve(&mut group, "prebuilt", size, open_log, |log, n| append(log, &batches[n % batches.len()]));
        curve(&mut group, "built", size, open_log, |log, n| append(log, &payloads.batch(n)));
    }
    group.finish();
}

/// A curve whose file starts anew every [`PASS_BYTES`], outside the time measured.
fn curve<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    size: &str,
    open: impl Fn(&Path) -> T,
    mut call: impl FnMut(&mut T, usize) -> usize,
) {
    let fresh = |call: &mut dyn FnMut(&mut T, usize) -> usize| {
        let dir = support::scratch();
        let mut target = open(&dir.path().join("events-0"));
        // The first batch makes files and directories.
        let written = call(&mut target, 0);
        (target, dir, written)
    };
    let mut current = None;
    group.bench_function(format!("{name}/{size}"), |bencher| {
        bencher.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for n in 0..iterations as usize {
                current = current.take().filter(|(_, _, written)| *written < PASS_BYTES);
                let (target, _, written) = current.get_or_insert_with(|| fresh(&mut call));
                let begun = Instant::now();
                *written += black_box(call(target, n));
                spent += begun.elapsed();
            }
            spent
        });
    });
}

/// The limit: the same bytes, one `write(2)` for each batch.
struct RawFile(File);

impl RawFile {
    fn create(path: &Path) -> Self {
        Self(File::create_new(path).expect("the raw file is new"))
    }

    fn write(&mut self, batch: &RecordBatch) -> usize {
        self.0.write_all(batch.as_bytes()).expect("the disk takes it");
        batch.size_bytes()
    }
}

fn append_goals() {
    support::touch_memory(4 << 30);
    for (size, record_bytes) in SIZES {
        let mut payloads = Payloads::new(record_bytes);
        let batches = payloads.batches();
        let write = |file: &mut RawFile, n: usize| file.write(&batches[n % batches.len()]);
        let write_shared = |file: &mut RawFile, n| (0..SHARED).map(|i| write(file, n * SHARED + i)).sum();
        let bound = if size == "1KiB" { 0.85 } else { 0.70 };

        let built = compare(1, write, |log, n| append(log, &payloads.batch(n)));
        built.throughput_goal(&format!("G1/{size}-built"), bound, LEVEL);
        let prebuilt = compare(1, write, |log, n| append(log, &batches[n % batches.len()]));
        prebuilt.throughput_goal(&format!("G1/{size}-prebuilt"), 0.92, LEVEL);
        let shared = compare(SHARED, write_shared, |log, n| append_shared(log, &mut payloads, n));
        shared.throughput_goal(&format!("G1/{size}-built-{SHARED}-per-wait"), bound, LEVEL);

        if size == "1KiB" {
            built.cpu_goal("G1/1KiB-built-cpu", 1.35, LEVEL);
            prebuilt.cpu_goal("G1/1KiB-prebuilt-cpu", 1.35, LEVEL);
        }
    }
}

/// Rounds of [`PASS_BYTES`] into a new plain file and a new log, by calls of `batches` batches each.
fn compare(
    batches: usize,
    mut raw: impl FnMut(&mut RawFile, usize) -> usize,
    mut ours: impl FnMut(&Log, usize) -> usize,
) -> Rounds {
    let raw_file = || {
        support::touch_memory(3 * PASS_BYTES as u64);
        let dir = support::scratch();
        (RawFile::create(&dir.path().join("raw")), dir)
    };
    let log = || {
        let dir = support::scratch();
        (open_log(&dir.path().join("events-0")), dir)
    };
    rounds(
        ROUNDS,
        PASS_BYTES / BATCH_BYTES / batches,
        Side { open: raw_file, call: |(file, _): &mut (RawFile, TempDir), n| raw(file, n) },
        Side { open: log, call: |(log, _): &mut (Log, TempDir), n| ours(log, n) },
    )
}

/// Appends several batches, then waits once: they share a write.
fn append_shared(log: &Log, payloads: &mut Payloads, n: usize) -> usize {
    let (mut bytes, mut last) = (0, None);
    for _ in 0..SHARED {
        let batch = payloads.batch(n);
        bytes += batch.size_bytes();
        last = Some(log.append(&batch, EPOCH).expect("the batch is sound").position);
    }
    log.wait(last.expect("something was appended"), Durability::ProcessCrash).expect("the disk takes it");
    bytes
}

// ---- stalls

const STALL_BYTES: usize = 2 << 30;
const STALL_SEGMENT_BYTES: usize = 256 << 20;
const STALL_ROUNDS: usize = 3;

/// Latencies of appends, in microseconds.
struct Latencies(Vec<f64>);

impl Latencies {
    fn of(mut call: impl FnMut(usize) -> usize) -> Self {
        let (mut written, mut all, mut n) = (0, Vec::with_capacity(STALL_BYTES / BATCH_BYTES + 1), 0);
        while written < STALL_BYTES {
            let begun = Instant::now();
            written += call(n);
            all.push(begun.elapsed().as_secs_f64() * 1e6);
            n += 1;
        }
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    fn p999(&self) -> f64 {
        self.0[self.0.len() * 999 / 1000]
    }
}

/// The longest append over 2 GiB with rolls, on a broker whose threads prepare and complete segments meanwhile; beside
/// it the same bytes in plain files of the same lengths. The median round counts.
fn stall_goals() {
    let mut payloads = Payloads::new(1024);
    let batches = payloads.batches();
    let (mut ratios, mut longest, mut p999, mut raw_longest) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STALL_ROUNDS {
        support::touch_memory(5 << 30);
        let scratch = support::scratch();
        let mut file = RawFile::create(&scratch.path().join("raw-0"));
        let (mut files, mut left) = (1, STALL_SEGMENT_BYTES);
        let raw = Latencies::of(|n| {
            let batch = &batches[n % batches.len()];
            if left < batch.size_bytes() {
                file = RawFile::create(&scratch.path().join(format!("raw-{files}")));
                (files, left) = (files + 1, STALL_SEGMENT_BYTES);
            }
            left -= batch.size_bytes();
            file.write(batch)
        });
        drop(scratch);
        support::touch_memory(5 << 30);
        let scratch = support::scratch();
        let broker = Broker::open(scratch.path().join("data")).expect("the broker opens");
        let topic = broker.topic("t").durability(Durability::ProcessCrash);
        let topic = topic.set("segment.bytes", &STALL_SEGMENT_BYTES.to_string()).create().expect("the topic is new");
        let partition = topic.partition(0).expect("it has one");
        let ours = Latencies::of(|n| {
            let batch = &batches[n % batches.len()];
            let appended = partition.append(batch).expect("the batch is sound");
            partition.wait(appended.position, Durability::ProcessCrash).expect("the disk takes it");
            batch.size_bytes()
        });
        ratios.push(ours.max() / ours.p999());
        longest.push(ours.max() / 1e3);
        p999.push(ours.p999());
        raw_longest.push(raw.max() / 1e3);
        broker.close().expect("the broker closes");
    }
    let (ratio, longest) = (median(&mut ratios), median(&mut longest));
    let note = format!(
        "p99.9 {:.0} us; raw writes into files of the same lengths: longest {:.2} ms; {} rolls; {LEVEL}",
        median(&mut p999),
        median(&mut raw_longest),
        STALL_BYTES / STALL_SEGMENT_BYTES,
    );
    goal("G11/longest", &format!("{longest:.2} ms"), "<= 5 ms", longest <= 5.0, &note);
    goal("G11/longest-to-p99.9", &format!("{ratio:.1}x"), "<= 10x", ratio <= 10.0, &note);
}

// ---- memory and disk

/// Stores measured: name, bytes of a record, bytes of a batch (0: a batch for each record), bytes of payload.
const STORES: [(&str, usize, usize, u64); 3] = [
    ("1KiB", 1024, BATCH_BYTES, 256 << 20),
    ("100B", 100, BATCH_BYTES, 128 << 20),
    ("1KiB-one-record-batches", 1024, 0, 32 << 20),
];

fn memory_and_disk_goals() {
    for (name, record_bytes, batch_bytes, payload) in STORES {
        let scratch = support::scratch();
        let dir = scratch.path().join("events-0");
        let mut helper = support::start(&[&"store", &dir.display(), &record_bytes, &batch_bytes, &payload]);
        let told = support::line_of(&mut helper);
        assert!(helper.wait().is_ok_and(|status| status.success()), "the helper fills a store");
        let numbers: Vec<u64> = told.split(' ').filter_map(|number| number.parse().ok()).collect();
        let [records, batches, intervals, appending, reading] = numbers[..] else {
            panic!("the helper tells five numbers, not {told:?}");
        };
        memory_goal(name, "append", appending, intervals);
        memory_goal(name, "open-and-scan", reading, intervals);
        disk_goal(name, &dir, records * record_bytes as u64, records, batches, intervals);
    }
}

fn memory_goal(name: &str, doing: &str, grown: u64, intervals: u64) {
    let allowed = (8 << 20) + 12 * intervals;
    goal(
        &format!("G9/{name}-{doing}"),
        &format!("{:.2} MiB", mib(grown)),
        &format!("<= {:.2} MiB", mib(allowed)),
        grown <= allowed,
        &format!("most anonymous memory above that of the idle process; {intervals} index intervals held"),
    );
}

fn disk_goal(name: &str, dir: &Path, payload: u64, records: u64, batches: u64, intervals: u64) {
    let all: u64 = files(dir).iter().map(|(_, len)| len).sum();
    let allowed = payload + 11 * records + 61 * batches + 20 * intervals;
    let each = |bytes: u64| bytes as f64 / records as f64;
    goal(
        &format!("G10/{name}"),
        &format!("{:.2} B/record", each(all)),
        &format!("<= {:.2} B/record", each(allowed)),
        all <= allowed,
        &format!(
            "closed; every file of the directory, {all} B for {records} records in {batches} batches; payload {:.0} B each",
            each(payload)
        ),
    );
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The helper: fills a store, closes it, opens and scans it; tells counts and the most memory of both halves.
fn store(dir: &str, record_bytes: &str, batch_bytes: &str, payload: &str) {
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let (record_bytes, batch_bytes, payload) = (number(record_bytes), number(batch_bytes), number(payload));
    let records = payload / record_bytes;
    let value = vec![b'x'; record_bytes];
    let idle = anonymous_memory();

    let log = open_log(Path::new(dir));
    let (mut most, mut batches, mut done) = (0, 0, 0);
    while done < records {
        let batch = batch_of(&value, batch_bytes, records - done, batches);
        done += batch.header().record_count() as usize;
        append(&log, &batch);
        batches += 1;
        if batches % 256 == 0 {
            most = most.max(anonymous_memory());
        }
    }
    log.close().expect("the log closes");
    drop(log);
    let appending = most.max(anonymous_memory()) - idle;
    let is_index = |path: &Path| path.extension().is_some_and(|ending| ending == "index");
    let intervals: u64 = files(Path::new(dir)).iter().filter(|(path, _)| is_index(path)).map(|(_, len)| len / 8).sum();
    let reading = scan_memory(&open_log(Path::new(dir)), records).saturating_sub(idle);
    println!("{records} {batches} {intervals} {appending} {reading}");
}

fn batch_of(value: &[u8], batch_bytes: usize, left: usize, number: usize) -> RecordBatch {
    let time = Timestamp::new(1_700_000_000_000 + number as i64);
    let mut batch = BatchBuilder::with_capacity(batch_bytes);
    loop {
        batch.push_parts(time, None, Some(value), &[]).expect("a batch has room");
        if batch.len() == left || batch.size_estimate() + value.len() + 16 > batch_bytes {
            return batch.finish().expect("a record was pushed");
        }
    }
}

/// Reads the whole log; the most anonymous memory meanwhile.
fn scan_memory(log: &Log, records: usize) -> u64 {
    let (mut next, mut seen, mut most) = (Offset::ZERO, 0, 0);
    loop {
        let read = log.read(next, 1 << 20, Isolation::ReadCommitted).expect("the log reads");
        if read.is_empty() {
            break;
        }
        for batch in read.data_batches() {
            let batch = batch.and_then(|batch| batch.decode()).expect("the batch is sound");
            seen += batch.iter().filter(Result::is_ok).count();
        }
        next = read.next_offset();
        most = most.max(anonymous_memory());
    }
    assert_eq!(seen, records, "every record comes back");
    most
}

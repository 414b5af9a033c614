//! Records one at a time through a producer: goals G2 and G6, G1 where records come that way, and what compressing costs.
//!
//! Everything is at process-crash level. A pass of `enqueue` begins with the first call and ends when the last ticket is
//! resolved; the broker's threads write meanwhile, so passes alternate with raw ones, and CPU time is the process's. The
//! limit of small records is one `write(2)` for each, that of batches one for the bytes of each. Values lie in memory
//! that is never freed, so that whatever is allocated is the library's.

#![allow(clippy::disallowed_methods, reason = "a bench times and writes by itself, beside the library")]
#![expect(unsafe_code, reason = "a global allocator cannot be written without")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::{self, File};
use std::hint::{black_box, spin_loop};
use std::io::Write;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use support::{BATCH_BYTES, Payloads, Side, files, goal, median, rounds};
use tempfile::TempDir;
use thalweg::{Broker, Codec, Durability, Isolation, Offset, Producer, Start, Topic};

/// What one pass of small records sends.
const PASS_BYTES: usize = 1 << 30;
/// The same of compressed ones, and of passes of batches.
const SHORT_PASS_BYTES: usize = 128 << 20;
const ROUNDS: usize = 3;
const SMALL: usize = 100;
const THREADS: [usize; 3] = [1, 4, 64];
/// Raw writes of one pass: the rate of single writes does not depend on how many there are.
const RAW_WRITES: usize = 500_000;
/// Bytes of values that a thread sends over and over: more than a core's own cache holds.
const VALUE_POOL: usize = 4 << 20;
const LEVEL: &str = "level process-crash, no fsync per append";

/// Counts what the calling thread allocates.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed on to the system's allocator as it came; the counter is a plain number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) }
    }
}

/// What `cargo bench --bench produce -- goals NAME...` measures by itself.
const PARTS: [(&str, fn()); 6] = [
    ("enqueue", enqueue_goals),
    ("calls", call_goals),
    ("send", send_goal),
    ("batches", batch_goals),
    ("tail", tail_goals),
    ("codecs", compression),
];

fn main() {
    if let Some([role, bytes]) = support::role().as_deref()
        && role == "touch"
    {
        return support::touch(bytes);
    }
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let is_goals = args.first().is_none_or(|arg| arg == "goals");
    if is_goals {
        support::touch_memory(4 << 30);
        let named: Vec<_> = args.iter().skip(1).map(String::as_str).collect();
        let parts = PARTS.iter().filter(|(name, _)| named.is_empty() || named.contains(name));
        parts.for_each(|(_, measure)| measure());
    }
    if is_goals && !args.is_empty() {
        return;
    }
    let mut criterion = support::criterion();
    curves(&mut criterion);
    criterion.final_summary();
}

// ---- the sides

/// Which of the payloads a thread sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    /// Every second one of each kind.
    Mixed,
    Incompressible,
    Json,
}

/// Values that cost nothing to make: static memory, cut into records.
struct Values {
    pool: &'static [u8],
    record_bytes: usize,
    next: usize,
}

impl Values {
    fn new(record_bytes: usize, data: Data) -> Self {
        let mut payloads = Payloads::new(record_bytes);
        let mut pool = Vec::with_capacity(VALUE_POOL);
        for n in 0.. {
            let value = payloads.next();
            if pool.len() + value.len() > VALUE_POOL {
                break;
            }
            if data == Data::Mixed || (n % 2 == 0) == (data == Data::Incompressible) {
                pool.extend_from_slice(value);
            }
        }
        Self { pool: pool.leak(), record_bytes, next: 0 }
    }

    fn next(&mut self) -> &'static [u8] {
        if self.next + self.record_bytes > self.pool.len() {
            self.next = 0;
        }
        let value = &self.pool[self.next..self.next + self.record_bytes];
        self.next += self.record_bytes;
        value
    }
}

/// A topic of one partition, and a producer.
struct Ours {
    topic: Topic,
    producer: Producer,
    broker: Broker,
    dir: TempDir,
}

impl Ours {
    fn open(codec: Codec) -> Self {
        let dir = support::scratch();
        let broker = Broker::open(dir.path().join("data")).expect("the broker opens");
        let topic = broker.topic("t").durability(Durability::ProcessCrash).create().expect("the topic is new");
        let producer = broker.producer().compression(codec).build().expect("the options are sound");
        // The first record opens the log.
        producer.send(&topic, "first").expect("the disk takes it");
        Self { topic, producer, broker, dir }
    }

    /// A record whose ticket nobody keeps: a failure comes with the flush.
    fn enqueue(&self, value: &'static [u8]) {
        drop(self.producer.enqueue(&self.topic, Bytes::from_static(value)).expect("the record is sound"));
    }

    /// So many records of each thread, from the first call to the end of the last ticket.
    fn pass(&self, threads: &mut [Values], records: usize) -> Duration {
        let start = Barrier::new(threads.len());
        let run = |values: &mut Values| {
            start.wait();
            let begun = Instant::now();
            (0..records).for_each(|_| self.enqueue(values.next()));
            begun
        };
        let begun = match threads {
            [values] => run(values),
            threads => thread::scope(|scope| {
                let threads: Vec<_> = threads.iter_mut().map(|values| scope.spawn(|| run(values))).collect();
                let begun = threads.into_iter().map(|thread| thread.join().expect("the thread ends"));
                begun.min().expect("a thread")
            }),
        };
        self.producer.flush().expect("every record is taken");
        begun.elapsed()
    }

    /// How many batches the log has.
    fn batches(&self) -> u64 {
        let partition = self.topic.partition(0).expect("it has one");
        let (mut next, mut batches) = (Offset::ZERO, 0);
        loop {
            let read = partition.read(next, 1 << 20, Isolation::ReadUncommitted).expect("the log reads");
            if read.is_empty() {
                return batches;
            }
            batches += read.data_batches().count() as u64;
            next = read.next_offset();
        }
    }

    /// Bytes of the closed log, its indexes aside.
    fn close(self) -> u64 {
        self.broker.close().expect("the broker closes");
        let files = files(&self.dir.path().join("data/t-0"));
        files.iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "log")).map(|(_, len)| len).sum()
    }
}

fn raw_file() -> (File, TempDir) {
    let dir = support::scratch();
    (File::create_new(dir.path().join("raw")).expect("the raw file is new"), dir)
}

fn write(file: &mut File, bytes: &[u8]) {
    file.write_all(bytes).expect("the disk takes it");
}

/// Ticks that the process has run, all its threads, system time included; there are 100 in a second.
fn cpu_ticks() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = behind_name.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum()
}

/// Rates of both sides, round by round.
#[derive(Default)]
struct Rates {
    ours: Vec<f64>,
    raw: Vec<f64>,
}

impl Rates {
    /// Runs both in turn; who goes first alternates.
    fn of(mut raw: impl FnMut() -> f64, mut ours: impl FnMut() -> f64) -> Self {
        let mut rates = Self::default();
        for round in 0..ROUNDS {
            if round % 2 == 0 {
                rates.raw.push(raw());
            }
            rates.ours.push(ours());
            if round % 2 == 1 {
                rates.raw.push(raw());
            }
        }
        rates
    }

    /// The middle one of the ratios, ours to raw, and the two ends.
    fn ratio(&self) -> (f64, f64, f64) {
        let mut ratios: Vec<f64> = self.ours.iter().zip(&self.raw).map(|(ours, raw)| ours / raw).collect();
        let middle = median(&mut ratios);
        (middle, ratios[0], ratios[ratios.len() - 1])
    }

    fn medians(&mut self) -> (f64, f64) {
        (median(&mut self.ours), median(&mut self.raw))
    }
}

fn ratio_goal(name: &str, ratio: f64, at_least: f64, note: &str) {
    // Rounded away from the goal, so that a near miss does not look like a hit.
    let figure = (ratio * 100.0).floor() / 100.0;
    goal(name, &format!("{figure:.2}x"), &format!(">= {at_least:.2}x"), ratio >= at_least, note);
}

fn micros_goal(name: &str, micros: f64, at_most: f64, note: &str) {
    let figure = (micros * 100.0).ceil() / 100.0;
    goal(name, &format!("{figure:.2} us"), &format!("<= {at_most:.2} us"), micros <= at_most, note);
}

// ---- small records

fn enqueue_goals() {
    for threads in THREADS {
        let mut values: Vec<_> = (0..threads).map(|_| Values::new(SMALL, Data::Mixed)).collect();
        let mut raw_values = Values::new(SMALL, Data::Mixed);
        let records = PASS_BYTES / SMALL / threads + 1;
        let mut cpu = Vec::new();
        let raw = || {
            let (mut file, _dir) = raw_file();
            let begun = Instant::now();
            (0..RAW_WRITES).for_each(|_| write(&mut file, raw_values.next()));
            RAW_WRITES as f64 / begun.elapsed().as_secs_f64()
        };
        let ours = || {
            support::touch_memory(PASS_BYTES as u64 * 5 / 4);
            let ours = Ours::open(Codec::None);
            let before = cpu_ticks();
            let spent = ours.pass(&mut values, records);
            cpu.push((cpu_ticks() - before) / 100.0 / (PASS_BYTES as f64 / 1e9));
            ours.close();
            (records * threads) as f64 / spent.as_secs_f64()
        };
        let mut rates = Rates::of(raw, ours);
        let (ratio, low, high) = rates.ratio();
        let (per_second, raw_per_second) = rates.medians();
        let note = format!(
            "{:.2} M records/s, {:.2} CPU s/GB; raw, one thread {:.2} M/s; rounds {low:.2}-{high:.2}; {SMALL} B, \
             {} MiB from the first call to the last ticket; {LEVEL}",
            per_second / 1e6,
            median(&mut cpu),
            raw_per_second / 1e6,
            PASS_BYTES >> 20,
        );
        let rate = (per_second / 1e4).floor() / 100.0;
        let name = format!("G2/enqueue-{threads}t");
        goal(&format!("{name}-rate"), &format!("{rate:.2} M/s"), ">= 10 M/s", per_second >= 1e7, &note);
        ratio_goal(&name, ratio, 8.0, &note);
    }
}

/// Latencies of single calls, in classes of [`Nanos::CLASS`]; the last class has all that took longer.
struct Nanos(Vec<u64>);

impl Nanos {
    const CLASS: usize = 2;

    fn new() -> Self {
        Self(vec![0; 10_000_000])
    }

    fn add(&mut self, spent: Duration) {
        let class = spent.as_nanos() as usize / Self::CLASS;
        let last = self.0.len() - 1;
        self.0[class.min(last)] += 1;
    }

    /// In microseconds; the upper end of its class.
    fn percentile(&self, percent: f64) -> f64 {
        let wanted = (self.0.iter().sum::<u64>() as f64 * percent / 100.0) as u64;
        let mut seen = 0;
        let class = self.0.iter().position(|count| {
            seen += count;
            seen > wanted
        });
        ((class.unwrap_or_default() + 1) * Self::CLASS) as f64 / 1e3
    }
}

/// Single calls of one thread: how long each takes, and in how many something is allocated.
fn call_goals() {
    let mut clock = Nanos::new();
    (0..1_000_000).for_each(|_| clock.add(Instant::now().elapsed()));
    let clock = clock.percentile(50.0) * 1e3;

    support::touch_memory(PASS_BYTES as u64 * 5 / 4);
    let (ours, mut values) = (Ours::open(Codec::None), Values::new(SMALL, Data::Mixed));
    let records = PASS_BYTES / SMALL;
    let (mut nanos, mut allocating, mut allocated) = (Nanos::new(), 0_u64, 0);
    let mut before = Instant::now();
    for _ in 0..records {
        let allocations = ALLOCATIONS.get();
        ours.enqueue(values.next());
        let made = ALLOCATIONS.get() - allocations;
        allocating += u64::from(made > 0);
        allocated += made;
        let now = Instant::now();
        nanos.add(now - before);
        before = now;
    }
    ours.producer.flush().expect("every record is taken");
    let batches = ours.batches();
    ours.close();
    let note = format!(
        "a look at the clock in each, {clock:.0} ns; {SMALL} B, sustained over {} MiB; {LEVEL}",
        PASS_BYTES >> 20
    );
    let at = |percent| nanos.percentile(percent);
    goal("G2/enqueue-p50", &format!("{:.0} ns", at(50.0) * 1e3), "<= 80 ns", at(50.0) <= 0.08, &note);
    micros_goal(
        "G2/enqueue-p99.9",
        at(99.9),
        30.0,
        &format!("p99 {:.2} us, p99.99 {:.0} us; {note}", at(99.0), at(99.99)),
    );
    // A batch is opened in one call and sent in another.
    let within = allocating <= 2 * batches;
    let note = format!(
        "no call that neither opens a batch nor sends one; {allocating} of {records} calls allocated, {:.1} times a batch, \
         of which there were {batches}",
        allocated as f64 / batches as f64
    );
    let each = if within { 0.0 } else { allocated as f64 / records as f64 };
    goal("G2/allocations", &format!("{each:.2} per record"), "<= 0 per record", within, &note);
}

/// One record each, acknowledged before the next.
fn send_goal() {
    support::touch_memory(1 << 30);
    let (mut raw_values, mut values) = (Values::new(SMALL, Data::Mixed), Values::new(SMALL, Data::Mixed));
    let raw = |(file, _): &mut (File, TempDir), _| {
        let value = raw_values.next();
        write(file, value);
        value.len()
    };
    let send = |ours: &mut Ours, _| {
        let value = values.next();
        ours.producer.send(&ours.topic, Bytes::from_static(value)).expect("the disk takes it");
        value.len()
    };
    let rounds = rounds(
        ROUNDS,
        100_000,
        Side { open: raw_file, call: raw },
        Side { open: || Ours::open(Codec::None), call: send },
    );
    rounds.throughput_goal("G2/send", 0.9, &format!("{SMALL} B, acknowledged one at a time; {LEVEL}"));
}

// ---- batches

/// Records that fill batches, beside raw writes of the same bytes.
fn batch_goals() {
    for (size, record_bytes, bound) in [("1KiB", 1024, 0.85), ("100B", SMALL, 0.70)] {
        let batches = Payloads::new(record_bytes).batches();
        let per_batch = batches[0].header().record_count() as usize;
        let count = SHORT_PASS_BYTES / BATCH_BYTES;
        let bytes: usize = (0..count).map(|n| batches[n % batches.len()].size_bytes()).sum();
        let mut values = [Values::new(record_bytes, Data::Mixed)];
        let rate = |spent: Duration| bytes as f64 / spent.as_secs_f64() / 1e6;
        let raw = || {
            support::touch_memory(3 * SHORT_PASS_BYTES as u64);
            let (mut file, _dir) = raw_file();
            let begun = Instant::now();
            (0..count).for_each(|n| write(&mut file, batches[n % batches.len()].as_bytes()));
            rate(begun.elapsed())
        };
        let ours = || {
            support::touch_memory(3 * SHORT_PASS_BYTES as u64);
            let ours = Ours::open(Codec::None);
            let spent = ours.pass(&mut values, count * per_batch);
            ours.close();
            rate(spent)
        };
        let mut rates = Rates::of(raw, ours);
        let ((ratio, low, high), (mb, raw_mb)) = (rates.ratio(), rates.medians());
        let note =
            format!("{mb:.0} MB/s; raw {raw_mb:.0} MB/s; rounds {low:.2}-{high:.2}; one thread enqueues; {LEVEL}");
        ratio_goal(&format!("G1/{size}-enqueued"), ratio, bound, &note);
    }
}

/// What each codec makes of records of 1 KiB, beside none, by one producing thread and by four.
fn compression() {
    const RECORD_BYTES: usize = 1024;
    for (data, name) in [(Data::Json, "json"), (Data::Incompressible, "incompressible")] {
        let mut plain = 0.0;
        for codec in [Codec::None, Codec::Lz4, Codec::Snappy, Codec::Zstd, Codec::Gzip] {
            for threads in [1, 4] {
                support::touch_memory(2 * SHORT_PASS_BYTES as u64);
                let ours = Ours::open(codec);
                let mut values: Vec<_> = (0..threads).map(|_| Values::new(RECORD_BYTES, data)).collect();
                let records = SHORT_PASS_BYTES / RECORD_BYTES / threads;
                let spent = ours.pass(&mut values, records);
                let bytes = (records * threads * RECORD_BYTES) as f64;
                let mb = bytes / spent.as_secs_f64() / 1e6;
                if codec == Codec::None && threads == 1 {
                    plain = mb;
                }
                println!(
                    "enqueue 1KiB {name} {codec}, {threads} threads: {mb:.0} MB/s of values, {:.2}x of no codec and one \
                     thread; {:.2} to 1; {LEVEL}",
                    mb / plain,
                    bytes / ours.close() as f64,
                );
            }
        }
    }
}

// ---- end to end

const PER_SECOND: u32 = 10_000;
const TAIL_RECORDS: u32 = 20_000;

/// From the call of `send` until another thread that waits in a tail has the record; beside it, from `unpark` until a
/// thread that is parked runs.
fn tail_goals() {
    let period = Duration::from_secs(1) / PER_SECOND;
    let (mut p50, mut p90, mut p99, mut p999) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut wake_p50, mut wake_p99) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let ours = Ours::open(Codec::None);
        let clock = Instant::now();
        let mut tail = ours.topic.tail(Start::Latest);
        let latencies = thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let mut latencies = Nanos::new();
                for _ in 0..TAIL_RECORDS {
                    let record = tail.next().expect("a tail has no end").expect("the record is sound");
                    let now = clock.elapsed();
                    let sent = record.value().and_then(|value| value.first_chunk()).expect("it says when it was sent");
                    latencies.add(now - Duration::from_nanos(u64::from_be_bytes(*sent)));
                }
                latencies
            });
            paced(period, || {
                let mut value = vec![0; SMALL];
                value[..8].copy_from_slice(&(clock.elapsed().as_nanos() as u64).to_be_bytes());
                ours.producer.send(&ours.topic, value).expect("the disk takes it");
            });
            reader.join().expect("the reader ends")
        });
        ours.close();
        p50.push(latencies.percentile(50.0));
        p90.push(latencies.percentile(90.0));
        p99.push(latencies.percentile(99.0));
        p999.push(latencies.percentile(99.9));
        let woken = wake_ups(period);
        wake_p50.push(woken.percentile(50.0));
        wake_p99.push(woken.percentile(99.0));
    }
    let note = format!(
        "p90 {:.1} us, p99.9 {:.0} us; {PER_SECOND} records/s of {SMALL} B, each sent and acknowledged, the reader blocks; raw wake-up of a \
         parked thread: p50 {:.2} us, p99 {:.1} us; {LEVEL}",
        median(&mut p90),
        median(&mut p999),
        median(&mut wake_p50),
        median(&mut wake_p99),
    );
    micros_goal("G6/p50", median(&mut p50), 8.0, &note);
    micros_goal("G6/p99", median(&mut p99), 50.0, &note);
}

fn wake_ups(period: Duration) -> Nanos {
    use std::sync::atomic::{AtomicU64, Ordering};
    let (clock, sent) = (Instant::now(), AtomicU64::new(0));
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let mut latencies = Nanos::new();
            for _ in 0..TAIL_RECORDS {
                let at = loop {
                    match sent.swap(0, Ordering::AcqRel) {
                        0 => thread::park(),
                        at => break at,
                    }
                };
                latencies.add(clock.elapsed() - Duration::from_nanos(at));
            }
            latencies
        });
        paced(period, || {
            // One that was not taken yet is waited for, or the count would not come out.
            while sent.load(Ordering::Acquire) != 0 {
                spin_loop();
            }
            sent.store(clock.elapsed().as_nanos() as u64, Ordering::Release);
            sleeper.thread().unpark();
        });
        sleeper.join().expect("the sleeper ends")
    })
}

/// Calls once in a `period`, [`TAIL_RECORDS`] times. Between calls it yields: where the scheduler puts who was woken behind
/// this thread, that one shall not wait for the end of its slice, which is 3 ms.
fn paced(period: Duration, mut call: impl FnMut()) {
    let begun = Instant::now();
    for n in 0..TAIL_RECORDS {
        while begun.elapsed() < period * n {
            thread::yield_now();
        }
        call();
    }
}

fn curves(criterion: &mut Criterion) {
    let (ours, mut values) = (Ours::open(Codec::None), Values::new(SMALL, Data::Mixed));
    let mut group = criterion.benchmark_group("produce");
    group.throughput(Throughput::Elements(1));
    group.bench_function("enqueue/100B", |bencher| bencher.iter(|| ours.enqueue(black_box(values.next()))));
    group.bench_function("send/100B", |bencher| {
        bencher.iter(|| ours.producer.send(&ours.topic, Bytes::from_static(values.next())).expect("the disk takes it"));
    });
    group.finish();
    ours.close();
}

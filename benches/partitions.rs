//! 10,000 partitions in one broker: made, first appended to, opened again, and idle: goal G8.
//!
//! Beside the first appends stands what no log with Kafka's files can leave out: a directory for each partition, in it
//! the same files with the same bytes, and nothing synced. Memory and descriptors are those of a process of their own.

#![allow(clippy::disallowed_methods, reason = "a bench times and writes by itself, beside the library")]

mod support;

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use support::{files, goal, median};
use thalweg::{Broker, Durability, Topic};

const PARTITIONS: u32 = 10_000;
const ROUNDS: usize = 3;
const OPENS: usize = 5;

fn main() {
    if let Some([role, dir]) = support::role().as_deref()
        && role == "idle"
    {
        return idle(dir);
    }
    if !support::wants_goals() {
        return;
    }
    let (mut made, mut raw_made, mut first, mut raw_first) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut kept = None;
    for _ in 0..ROUNDS {
        let scratch = support::scratch();
        let dir = scratch.path().join("data");
        let broker = Broker::open(&dir).expect("the directory opens");
        let before = bytes(&dir);
        let (topic, took) = timed(|| create(&broker));
        made.push(took);
        let raw = scratch.path().join("raw");
        raw_made.push(timed(|| raw_create(&raw, bytes(&dir) - before)).1);
        first.push(timed(|| append_to_each(&topic)).1);
        raw_first.push(timed(|| raw_directories(&raw, &dir.join("many-0"))).1);
        broker.close().expect("the broker closes");
        kept = Some((scratch, dir));
    }
    let (_scratch, dir) = kept.expect("there was a round");
    let (made, raw_made, first, raw_first) = (millis(made), millis(raw_made), millis(first), millis(raw_first));
    let note = format!("one metadata batch and one sync; the same bytes written and synced {raw_made:.1} ms");
    goal("G8/create", &format!("{:.3} s", made / 1e3), "<= 0.6 s", made <= 600.0, &note);
    let each = |millis: f64| millis * 1e3 / f64::from(PARTITIONS);
    let note = format!(
        "{:.0} us each; raw mkdir and the same files {:.0} us each, unsynced; level process-crash",
        each(first),
        each(raw_first)
    );
    goal("G8/first-append", &format!("{:.2}x", first / raw_first), "<= 1.5x", first <= 1.5 * raw_first, &note);

    let (mut opened, mut raw_opened) = (Vec::new(), Vec::new());
    for _ in 0..OPENS {
        raw_opened.push(timed(|| raw_open(&dir)).1);
        let (broker, took) = timed(|| Broker::open(&dir).expect("the directory opens"));
        opened.push(took);
        broker.close().expect("the broker closes");
    }
    let (opened, raw_opened) = (millis(opened), millis(raw_opened));
    let note =
        format!("all partitions have a directory; list it and read its files {raw_opened:.1} ms; page cache warm");
    goal("G8/clean-open", &format!("{opened:.1} ms"), "<= 50 ms", opened <= 50.0, &note);

    let mut helper = support::start(&[&"idle", &dir.display()]);
    let told = support::line_of(&mut helper);
    helper.wait().expect("the helper ends");
    let mut numbers = told.split(' ').map(|number| number.parse::<f64>().expect("the helper tells numbers"));
    let mut next = || numbers.next().expect("the helper tells enough");
    let (untouched, touched, descriptors, capacity) = (next(), next(), next(), next());
    let note = "anonymous memory of a process above what it had before, opened and never touched";
    goal("G8/idle-heap", &format!("{untouched:.0} B/partition"), "<= 1024 B/partition", untouched <= 1024.0, note);
    let note = format!("after reading from every partition; {touched:.0} B of anonymous memory each");
    let bound = format!("<= {capacity}");
    goal("G8/descriptors", &format!("{descriptors}"), &bound, descriptors <= capacity, &note);
}

fn timed<T>(call: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let done = call();
    (done, begun.elapsed())
}

fn millis(times: Vec<Duration>) -> f64 {
    median(&mut times.iter().map(|time| time.as_secs_f64() * 1e3).collect::<Vec<_>>())
}

fn create(broker: &Broker) -> Topic {
    let topic = broker.topic("many").partitions(PARTITIONS).durability(Durability::ProcessCrash);
    topic.create().expect("the topic is made")
}

fn append_to_each(topic: &Topic) {
    for partition in topic.partitions() {
        let appended = partition.append_records(["a value"]).expect("the partition takes a record");
        partition.wait(appended.position, Durability::ProcessCrash).expect("the operating system has it");
    }
}

/// Bytes of all files in a directory and those below.
fn bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("the directory lists").map(|entry| entry.expect("an entry").path());
    entries.map(|path| if path.is_dir() { bytes(&path) } else { path.metadata().map_or(0, |found| found.len()) }).sum()
}

fn raw_create(dir: &Path, length: u64) {
    fs::create_dir(dir).expect("the directory is made");
    let mut file = File::create(dir.join("records")).expect("the file is made");
    file.write_all(&vec![7; length as usize]).expect("the file takes it");
    file.sync_data().expect("the file syncs");
}

/// As many directories with the files of `like`.
fn raw_directories(dir: &Path, like: &Path) {
    let read = |(path, _): (std::path::PathBuf, u64)| {
        (path.file_name().expect("a file has a name").to_owned(), fs::read(&path).expect("the file reads"))
    };
    let contents: Vec<_> = files(like).into_iter().map(read).collect();
    for number in 0..PARTITIONS {
        let dir = dir.join(format!("many-{number}"));
        fs::create_dir(&dir).expect("the directory is made");
        for (name, bytes) in &contents {
            fs::write(dir.join(name), bytes).expect("the file is made");
        }
    }
}

/// What an open cannot leave out: the names at the top, and the files there.
fn raw_open(dir: &Path) {
    for entry in fs::read_dir(dir).expect("the directory lists") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a kind").is_file() {
            black_box(fs::read(entry.path()).expect("the file reads"));
        }
    }
}

/// The helper: tells what an open broker costs, untouched and touched.
fn idle(dir: &str) {
    let before = support::anonymous_memory();
    let each = || (support::anonymous_memory() - before) as f64 / f64::from(PARTITIONS);
    let broker = Broker::open(dir).expect("the directory opens");
    let topic = broker.topic("many").open().expect("the topic is there");
    let untouched = each();
    assert_eq!(topic.scan(thalweg::Start::Earliest).count(), PARTITIONS as usize);
    let descriptors = fs::read_dir("/proc/self/fd").expect("Linux tells the descriptors").count();
    // The default is at most this many, and a few that are no files of partitions.
    println!("{untouched} {} {descriptors} {}", each(), 1024 + 16);
    std::io::stdout().flush().expect("the parent listens");
    drop(broker);
}

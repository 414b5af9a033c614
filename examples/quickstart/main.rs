//! A million real events through a topic of four partitions, read by a group of three members on three
//! threads, in files that Kafka reads too.
//!
//! `cargo run --release --example quickstart`, and again to see the group go on where it stopped;
//! `-- --help` for the options.

mod args;
mod input;
mod report;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use thalweg::{
    Broker, Consumer, ConsumerGroup, ConsumerRecord, Durability, ErrorKind, PartitionId, PartitionLag, Record, Start,
    Topic,
};

use crate::args::Args;
use crate::input::Input;
use crate::report::{Row, Throughput};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const DIRECTORY: &str = "data";
const PARTITIONS: u32 = 4;
const MEMBERS: usize = 3;
/// A member that dies leaves at most this many records to be read again.
const RECORDS_PER_COMMIT: usize = 50_000;

fn main() -> ExitCode {
    let outcome = match args::parse(std::env::args_os().skip(1)) {
        Ok(Some(args)) => run(&args),
        Ok(None) => print(args::USAGE),
        Err(e) => Err(e.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("quickstart: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Outcome<()> {
    let input = input::open(&args.source, args.key.as_deref())?;
    if args.reset {
        start_over(Path::new(DIRECTORY))?;
    }
    let broker = Broker::open(DIRECTORY)?;
    // Records become visible, and are acknowledged, once they survive loss of power.
    let level = Durability::PowerLoss;
    let topic = broker.topic(&input.topic).partitions(PARTITIONS).durability(level).open_or_create()?;
    print(&format!("topic {:?}: {PARTITIONS} partitions in ./{DIRECTORY}, durability: {level}", input.topic))?;

    let produced = produce(&broker, &topic, input)?;
    let (rows, consumed) = consume(&broker, &topic)?;

    print(&report::table(&rows))?;
    print(&report::rate("produced", produced))?;
    print(&report::rate("consumed", consumed))?;
    broker.close()?;
    Ok(())
}

/// Deletes the directory, if it is a broker's and nobody holds it.
fn start_over(dir: &Path) -> Outcome<()> {
    if !dir.exists() {
        return Ok(());
    }
    if !dir.join("meta.properties").exists() {
        return Err(format!("./{} is not a broker's directory; --reset leaves it alone", dir.display()).into());
    }
    match Broker::open(dir) {
        Ok(broker) => broker.close()?,
        Err(e) if e.kind() == ErrorKind::Locked => return Err(e.into()),
        Err(_) => {} // Damaged: that may be why the caller starts over.
    }
    std::fs::remove_dir_all(dir).map_err(|e| format!("cannot delete ./{}: {e}", dir.display()).into())
}

/// Hands every record to the producer, which batches them, and returns when all are as durable as the
/// topic says.
fn produce(broker: &Broker, topic: &Topic, input: Input) -> Outcome<Throughput> {
    let producer = broker.producer().build()?;
    let bar = progress("producing", input.expected);
    let mut produced = Throughput::default();
    let mut bad_input = None;
    let started = now();
    for record in input.records {
        let record = match record {
            Ok(record) => record,
            Err(e) => {
                bad_input = Some(e);
                break;
            }
        };
        produced.records += 1;
        produced.bytes += size_of_sent(&record);
        // The ticket would tell the record's offset. What fails behind a dropped one comes out of close.
        drop(producer.enqueue(topic, record)?);
        if produced.records.is_multiple_of(1024) {
            bar.set_position(produced.records);
        }
    }
    producer.close()?;
    produced.time = started.elapsed();
    bar.finish_and_clear();
    match bad_input {
        Some(e) => Err(format!("{e}; records before it, now in the topic: {}", produced.records).into()),
        None => Ok(produced),
    }
}

/// Three members share the partitions and read all that the group has not committed yet.
fn consume(broker: &Broker, topic: &Topic) -> Outcome<(Vec<Row>, Throughput)> {
    let group = broker.consumer_group("quickstart");
    let join = |number| {
        let builder = group.consumer([topic.name()]).start(Start::Earliest).max_poll_records(5_000);
        builder.client_id(format!("member-{number}")).join()
    };
    let members = (1..=MEMBERS).map(join).collect::<thalweg::Result<Vec<_>>>()?;

    let before = lag_in(&group, topic)?;
    say_where_it_resumes(&before)?;
    let unread = before.iter().map(PartitionLag::lag).sum();
    let bar = progress("consuming", Some(unread));
    let left = AtomicI64::new(i64::try_from(unread)?);
    let started = now();
    let readers = thread::scope(|scope| {
        let threads: Vec<_> = members.into_iter().map(|m| scope.spawn(|| Reader::read_all(m, &left, &bar))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a member panicked".into())));
        ended.collect::<Outcome<Vec<Reader>>>()
    })?;
    bar.finish_and_clear();
    let finished = readers.iter().map(|reader| reader.finished).max().unwrap_or(started);

    if let Some(sample) = readers.iter().find_map(|reader| reader.sample.as_deref()) {
        print(sample)?;
    }
    let rows: Vec<Row> =
        lag_in(&group, topic)?.iter().zip(&before).map(|(now, then)| row(now, then, &readers)).collect();
    let (records, bytes) = rows.iter().fold((0, 0), |(n, b), row| (n + row.records, b + row.bytes));
    Ok((rows, Throughput { records, bytes, time: finished - started }))
}

/// The group may have read other topics in earlier runs; only this one counts here.
fn lag_in(group: &ConsumerGroup, topic: &Topic) -> Outcome<Vec<PartitionLag>> {
    let lag = group.lag()?;
    Ok(lag.partitions().iter().filter(|lag| lag.partition().topic() == topic.name()).cloned().collect())
}

/// Where the group goes on in a partition: at what it has committed, or at the start.
fn resume_at(lag: &PartitionLag) -> i64 {
    lag.committed().unwrap_or(lag.start()).max(lag.start()).get()
}

fn say_where_it_resumes(partitions: &[PartitionLag]) -> Outcome<()> {
    if partitions.iter().all(|lag| lag.committed().is_none()) {
        return print("the group is new: it starts at the earliest record");
    }
    let places = partitions.iter().map(|lag| {
        format!("{} in partition {}", report::grouped(resume_at(lag).unsigned_abs()), lag.partition().partition())
    });
    print(&format!("the group resumes at offset {}", places.collect::<Vec<_>>().join(", ")))
}

fn row(now: &PartitionLag, then: &PartitionLag, readers: &[Reader]) -> Row {
    let partition = now.partition().partition();
    let owner = readers.iter().find(|reader| reader.consumer.member() == now.member());
    let read = owner.and_then(|reader| reader.read.get(&partition)).copied().unwrap_or_default();
    Row {
        partition: partition.get(),
        records: read.records,
        bytes: read.bytes,
        start: resume_at(then),
        end: now.end().get(),
        // The id of a member is its client id, a hyphen and something random.
        member: now.member().unwrap_or("-").chars().take("member-N".len()).collect(),
        lag: now.lag(),
    }
}

/// A member of the group and what it has read.
struct Reader {
    consumer: Consumer,
    read: BTreeMap<PartitionId, Throughput>,
    sample: Option<String>,
    /// When it had handled the last record.
    finished: Instant,
}

impl Reader {
    /// Reads until nothing is left in any partition, committing as it goes. The member is handed back, not
    /// dropped: while others still read, its leaving would share out the partitions anew.
    fn read_all(consumer: Consumer, left: &AtomicI64, bar: &ProgressBar) -> Outcome<Reader> {
        let mut reader = Reader { consumer, read: BTreeMap::new(), sample: None, finished: now() };
        let outcome = reader.read_until_none(left, bar);
        if outcome.is_err() {
            left.store(0, Ordering::Relaxed);
        }
        outcome.map(|()| reader)
    }

    fn read_until_none(&mut self, left: &AtomicI64, bar: &ProgressBar) -> Outcome<()> {
        let (mut uncommitted, mut idle) = (0, 0);
        // Offsets may have gaps: fewer records can come than offsets are left. Then nobody gets any for a while.
        while left.load(Ordering::Relaxed) > 0 && idle < 20 {
            let seen = left.load(Ordering::Relaxed);
            let records = self.consumer.poll(Duration::from_millis(50))?;
            if records.is_empty() {
                idle = if left.load(Ordering::Relaxed) == seen { idle + 1 } else { 0 };
                continue;
            }
            for record in &records {
                let read = self.read.entry(record.partition()).or_default();
                read.records += 1;
                read.bytes += size_of_read(&record);
                if self.sample.is_none() {
                    self.sample = Some(describe(&record));
                }
            }
            uncommitted += records.len();
            if uncommitted >= RECORDS_PER_COMMIT {
                self.consumer.commit()?;
                uncommitted = 0;
            }
            bar.inc(records.len() as u64);
            left.fetch_sub(i64::try_from(records.len())?, Ordering::Relaxed);
            self.finished = now();
        }
        Ok(self.consumer.commit()?)
    }
}

fn describe(record: &ConsumerRecord<'_>) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: Vec<String> =
        record.headers().map(|(key, value)| format!("{key}={}", value.map_or("null".into(), text))).collect();
    format!(
        "for example partition {}, offset {}, {}\n  key      {}\n  headers  {}\n  value    {}",
        record.partition(),
        report::grouped(record.offset().get().unsigned_abs()),
        report::date(record.timestamp().get()),
        record.key().map_or("null".into(), text),
        headers.join(", "),
        shortened(&record.value().map_or("null".into(), text), 100),
    )
}

fn shortened(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

/// Key, value and headers of a record to send, in bytes.
fn size_of_sent(record: &Record) -> u64 {
    let headers = record.headers().iter().map(|h| h.key().len() + h.value().map_or(0, <[u8]>::len)).sum::<usize>();
    let parts = [record.key_bytes(), record.value_bytes()].into_iter().flatten().map(|part| part.len());
    (parts.sum::<usize>() + headers) as u64
}

/// The same of a record that was read.
fn size_of_read(record: &ConsumerRecord<'_>) -> u64 {
    let headers = record.headers().map(|(key, value)| key.len() + value.map_or(0, <[u8]>::len)).sum::<usize>();
    let parts = [record.key(), record.value()].into_iter().flatten().map(<[u8]>::len);
    (parts.sum::<usize>() + headers) as u64
}

/// A bar on the terminal, or nothing where there is none; a counter where the end is not known.
fn progress(what: &'static str, expected: Option<u64>) -> ProgressBar {
    let (bar, template) = match expected {
        Some(length) => (ProgressBar::new(length), "{msg} {wide_bar} {human_pos} of {human_len}, {rate}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{msg} {spinner} {human_pos} records, {rate}"),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    // Blocks from full to one eighth, and an empty place.
    let style = style.progress_chars("\u{2588}\u{2589}\u{258a}\u{258b}\u{258c}\u{258d}\u{258e}\u{258f} ");
    let style = style.with_key("rate", |state: &ProgressState, text: &mut dyn fmt::Write| {
        // A rate that cannot be drawn is no reason to fail.
        write!(text, "{}/s", report::grouped(state.per_sec() as u64)).unwrap_or_default();
    });
    bar.with_style(style).with_message(what)
}

#[expect(clippy::disallowed_methods, reason = "a stopwatch of the example, not of the log")]
fn now() -> Instant {
    Instant::now()
}

/// Prints a line; a reader that went away, such as `head`, is no error.
fn print(line: &str) -> Outcome<()> {
    match writeln!(io::stdout(), "{line}") {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

//! An event bus in one process: activity, metrics and service logs on three topics, and three groups that read
//! what each is there for, at their own pace. One is slow, holds up nobody and catches up in the end.
//!
//! `cargo run --example event_bus`; fails unless every group has got each of its records once and in order.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use thalweg::{Broker, Consumer, ConsumerGroup, ConsumerRecord, ErrorKind, Offset, Producer, TopicPartition};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const ACTIVITY: &str = "activity";
const METRICS: &str = "metrics";
const LOGS: &str = "service-logs";
/// The program's life: in each part every service emits so many events.
const PARTS: u64 = 3;
const EVENTS_PER_PART: u64 = 10_000;
const EVENTS: u64 = PARTS * EVENTS_PER_PART;
/// Every so many log lines tell of an error.
const ERROR_EVERY: u64 = 250;
const LONG: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let dir = std::env::temp_dir().join(format!("thalweg-event-bus-{}", std::process::id()));
    match run(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("event_bus: {e} (see {})", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path) -> Outcome<()> {
    let broker = Broker::open(dir)?;
    read_and_check(&broker)?;
    broker.close()?;
    Ok(std::fs::remove_dir_all(dir)?)
}

fn read_and_check(broker: &Broker) -> Outcome<()> {
    for topic in [ACTIVITY, METRICS, LOGS] {
        broker.topic(topic).partitions(4).create()?;
    }
    let (dashboard, dashboard_reader) = live(broker.consumer_group("dashboard"), &[ACTIVITY, METRICS])?;
    let (alerts, alerts_reader) = live(broker.consumer_group("alerts"), &[LOGS])?;
    let archive = broker.consumer_group("archive");
    let mut slow = archive.consumer([ACTIVITY, METRICS, LOGS]).max_poll_records(1_000).join()?;

    let [dashboard_saw, alerts_saw, archive_saw] = thread::scope(|scope| {
        let readers = [dashboard_reader, alerts_reader].map(|(consumer, committed)| {
            (consumer.waker(), scope.spawn(move || read_until_stopped(consumer, committed)))
        });
        let archived = emit_and_watch(broker, &[dashboard, alerts], &archive, &mut slow);
        let [dashboard_saw, alerts_saw] = readers.map(|(stop, reader)| {
            // Whatever came of it, the reader is waiting.
            stop.wake();
            reader.join().unwrap_or_else(|_| Err("a reader panicked".into()))
        });
        Outcome::Ok([dashboard_saw?, alerts_saw?, archived?])
    })?;

    let sum = (0..EVENTS).map(latency).sum();
    let errors = EVENTS / ERROR_EVERY;
    dashboard_saw
        .expect("dashboard", Seen { latency: sum, ..Seen::counts([(ACTIVITY, EVENTS), (METRICS, EVENTS)]) })?;
    alerts_saw.expect("alerts", Seen { errors, ..Seen::counts([(LOGS, EVENTS)]) })?;
    let all = Seen::counts([ACTIVITY, METRICS, LOGS].map(|topic| (topic, EVENTS)));
    archive_saw.expect("archive", Seen { latency: sum, errors, ..all })?;
    println!("every group has got each of its records once and in order");
    Ok(())
}

/// A group that keeps up, and what its reader needs.
fn live(group: ConsumerGroup, topics: &[&str]) -> Outcome<(Live, (Consumer, Sender<()>))> {
    let consumer = group.consumer(topics).join()?;
    let (committed, commits) = mpsc::channel();
    Ok((Live { group, commits }, (consumer, committed)))
}

/// Emits part after part. Those who keep up have nothing left after each; the slow group takes one poll a part, and
/// the rest at the end.
fn emit_and_watch(
    broker: &Broker,
    [dashboard, alerts]: &[Live; 2],
    archive: &ConsumerGroup,
    slow: &mut Consumer,
) -> Outcome<Seen> {
    let producer = broker.producer().build()?;
    let (mut archived, mut behind) = (Seen::default(), 0);
    println!("{:>10} {:>10} {:>10} {:>10}", "lag after", dashboard.group.id(), alerts.group.id(), archive.id());
    for part in 0..PARTS {
        emit(&producer, part * EVENTS_PER_PART..(part + 1) * EVENTS_PER_PART)?;
        archived.poll(slow, LONG)?;
        let lags = [dashboard.caught_up()?, alerts.caught_up()?, archive.lag()?.total()];
        println!("{:>10} {:>10} {:>10} {:>10}", format!("part {}", part + 1), lags[0], lags[1], lags[2]);
        if lags[2] <= behind {
            return Err("the slow group is not slow".into());
        }
        behind = lags[2];
    }
    while archive.lag()?.total() > 0 {
        archived.poll(slow, LONG)?;
    }
    println!("{:>10} {:>10} {:>10} {:>10}", "all", dashboard.caught_up()?, alerts.caught_up()?, archive.lag()?.total());
    Ok(archived)
}

/// Three services emit at once, through one producer.
fn emit(producer: &Producer, events: std::ops::Range<u64>) -> Outcome<()> {
    let services: [fn(&Producer, u64) -> thalweg::Result<()>; 3] = [
        |producer, n| producer.enqueue(ACTIVITY, (format!("user-{}", n % 997), format!("opened /item/{n}"))).map(drop),
        |producer, n| producer.enqueue(METRICS, (format!("host-{}", n % 7), latency(n).to_string())).map(drop),
        |producer, n| {
            let level = if n % ERROR_EVERY == 0 { "ERROR" } else { "INFO" };
            producer.enqueue(LOGS, (format!("service-{}", n % 5), format!("{level} request {n}"))).map(drop)
        },
    ];
    thread::scope(|scope| {
        let services = services.map(|service| {
            let mut events = events.clone();
            scope.spawn(move || events.try_for_each(|n| service(producer, n)))
        });
        services.into_iter().try_for_each(|service| Ok(service.join().map_err(|_| "a service panicked")??))
    })
    .and_then(|()| Ok(producer.flush()?))
}

/// What host metrics measure.
fn latency(n: u64) -> u64 {
    n * 31 % 1_000
}

/// A group that keeps up; its reader tells of each commit.
struct Live {
    group: ConsumerGroup,
    commits: Receiver<()>,
}

impl Live {
    /// Waits until it has handled everything that was emitted.
    fn caught_up(&self) -> Outcome<u64> {
        loop {
            let lag = self.group.lag()?.total();
            if lag == 0 {
                return Ok(lag);
            }
            let stays = |_| format!("group {:?} stays {lag} records behind", self.group.id());
            self.commits.recv_timeout(LONG).map_err(stays)?;
        }
    }
}

fn read_until_stopped(mut consumer: Consumer, committed: Sender<()>) -> Outcome<Seen> {
    let mut seen = Seen::default();
    loop {
        match seen.poll(&mut consumer, LONG) {
            Err(e) if e.downcast_ref().is_some_and(|e: &thalweg::Error| e.kind() == ErrorKind::Interrupted) => {
                return Ok(seen);
            }
            polled => polled?,
        }
        committed.send(())?;
    }
}

/// What a group has made of its records.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    records: BTreeMap<String, u64>,
    latency: u64,
    errors: u64,
    next: BTreeMap<TopicPartition, Offset>,
}

impl Seen {
    fn counts<const N: usize>(counts: [(&str, u64); N]) -> Self {
        Self { records: counts.map(|(topic, count)| (topic.to_owned(), count)).into(), ..Self::default() }
    }

    fn poll(&mut self, consumer: &mut Consumer, timeout: Duration) -> Outcome<()> {
        for record in &consumer.poll(timeout)? {
            self.handle(&record)?;
        }
        Ok(consumer.commit()?)
    }

    fn handle(&mut self, record: &ConsumerRecord<'_>) -> Outcome<()> {
        let next = self.next.entry(record.topic_partition().clone()).or_default();
        if record.offset() != *next {
            return Err(format!("{}: {} came instead of {next}", record.topic_partition(), record.offset()).into());
        }
        *next = next.next();
        *self.records.entry(record.topic().to_owned()).or_default() += 1;
        let value = str::from_utf8(record.value().unwrap_or_default())?;
        match record.topic() {
            METRICS => self.latency += value.parse::<u64>()?,
            LOGS => self.errors += u64::from(value.starts_with("ERROR")),
            _ => {}
        }
        Ok(())
    }

    fn expect(mut self, group: &str, expected: Self) -> Outcome<()> {
        self.next.clear();
        if self == expected { Ok(()) } else { Err(format!("{group} saw {self:?}, not {expected:?}").into()) }
    }
}

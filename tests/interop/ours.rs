//! Our own broker in a child process, so that it can be killed: the parent's handle, and the child that
//! answers the same commands as the Java driver.

use std::io::stdin;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use thalweg::{
    Broker, Codec, CommittedOffset, ConfigEntry, ConfigSource, ConsumerRecord, Isolation, OwnedRecord, Record,
    RecordMetadata, Result, Start, Ticket, Topic, TopicPartition,
};

use crate::batches::{CODECS, written};
use crate::directory::{extension, files};
use crate::peer::{Peer, Row};

const SERVE: &str = "THALWEG_INTEROP_SERVE";

/// A directory open in a child process.
pub(crate) struct Ours {
    peer: Peer,
}

impl Ours {
    pub(crate) fn open(data: &Path) -> Ours {
        let myself = std::env::current_exe().expect("the path of this test");
        let arguments = ["--exact", "ours::serve", "--nocapture", "--test-threads=1"];
        let mut peer = Peer::start(Command::new(myself).args(arguments).env(SERVE, data));
        peer.await_line("ready");
        Ours { peer }
    }

    /// What `Broker::server_properties` says that a stock broker needs here.
    pub(crate) fn server_properties(&mut self) -> String {
        self.peer.ask(&["server-properties"]).join("\n")
    }

    pub(crate) fn close(mut self) {
        self.peer.ask(&["close"]);
    }

    /// kill -9 in the middle of work, after at least `count` acknowledgements; the acknowledged records and the
    /// names of the acknowledged topics.
    pub(crate) fn kill_in_storm(self, topic: &str, count: usize) -> (Vec<Row>, Vec<String>) {
        self.peer.kill_while_answering(&["storm", topic], count)
    }

    /// kill -9: whatever was acknowledged must survive, nothing was closed.
    pub(crate) fn kill(self) {
        self.peer.kill();
    }
}

impl std::ops::Deref for Ours {
    type Target = Peer;

    fn deref(&self) -> &Peer {
        &self.peer
    }
}

impl std::ops::DerefMut for Ours {
    fn deref_mut(&mut self) -> &mut Peer {
        &mut self.peer
    }
}

/// The child's side; in the parent's own run there is nothing to serve.
#[test]
fn serve() {
    let Some(data) = std::env::var_os(SERVE) else { return };
    let broker = Broker::open(Path::new(&data)).unwrap_or_else(|e| panic!("the directory does not open: {e}"));
    // libtest has begun a line with this test's name.
    println!("\nready");
    for line in stdin().lines() {
        let line = line.expect("a line of UTF-8");
        let words: Vec<_> = line.split('\t').collect();
        match answer(&broker, &words) {
            Ok(rows) => {
                rows.iter().for_each(|row| println!("={row}"));
                println!(".");
            }
            Err(error) => println!("!{}", error.to_string().replace('\n', " ")),
        }
    }
}

fn answer(broker: &Broker, words: &[&str]) -> Result<Vec<String>> {
    let topic = |name: &str| broker.topic(name).open();
    let number = |word: &str| word.parse::<u32>().expect("a number");
    match *words {
        ["topics"] => Ok(broker.topics()?.iter().map(topic_line).collect()),
        ["configs", name] => Ok(topic(name)?.describe_configs()?.iter().map(config_line).collect()),
        ["create", name, partitions, ref configs @ ..] => {
            let pairs = configs.iter().map(|pair| pair.split_once('=').expect("name=value"));
            let new = broker.topic(name).partitions(number(partitions));
            done(pairs.fold(new, |new, (name, value)| new.set(name, value)).create())
        }
        ["delete", name] => done(topic(name)?.delete()),
        ["grow", name, total] => done(topic(name)?.add_partitions(number(total))),
        ["alter", name, config, value] => {
            done(topic(name)?.alter_configs(&[(config, (value != "~").then_some(value))]))
        }
        ["produce", name, "-1", codec, "none", count, bytes, tag] => {
            let codec = CODECS.into_iter().find(|known| known.to_string() == codec).expect("a codec");
            produce(broker, name, codec, number(count), number(bytes) as usize, tag)
        }
        ["consume", name, isolation] => {
            let isolation = match isolation {
                "read_committed" => Isolation::ReadCommitted,
                _ => Isolation::ReadUncommitted,
            };
            topic(name)?
                .scan(Start::Earliest)
                .isolation(isolation)
                .map(|found| Ok(scanned(&found?).to_line()))
                .collect()
        }
        ["salvage", name] => salvage(&topic(name)?),
        ["offsets", name, "latest", ..] => topic(name)?
            .partitions()
            .iter()
            .map(|p| Ok(format!("{}\t{}\t-1\t-1", p.topic_partition().partition(), p.offsets()?.end)))
            .collect(),
        ["trim", name, partition, before] => {
            let before: i64 = before.parse().expect("an offset");
            done(topic(name)?.partition(number(partition) as i32)?.delete_records(before))
        }
        ["findings"] => Ok(broker.findings().iter().map(|f| format!("{:?}\t{f}", f.kind)).collect()),
        ["group-read", group, name, ..] => group_read(broker, group, &topic(name)?),
        ["committed", group] => {
            let all = broker.consumer_group(group).all_committed()?;
            Ok(all.iter().map(|(partition, commit)| commit_line(partition, commit)).collect())
        }
        ["storm", name] => storm(broker, name),
        ["snapshot"] => snapshots(broker),
        ["server-properties"] => {
            let text = broker.server_properties(("localhost", 9092), ("localhost", 9093));
            Ok(text.lines().map(str::to_owned).collect())
        }
        ["close"] => done(broker.close()),
        _ => panic!("no such command: {words:?}"),
    }
}

/// Every record that can be read: a scan tells of damage and goes on behind it.
fn salvage(topic: &Topic) -> Result<Vec<String>> {
    let sound = |found: Result<OwnedRecord>| match found {
        Ok(record) => Some(Ok(scanned(&record).to_line())),
        Err(error) if error.at_offsets().is_some() => None,
        Err(error) => Some(Err(error)),
    };
    topic.scan(Start::Earliest).filter_map(sound).collect()
}

fn done<T>(result: Result<T>) -> Result<Vec<String>> {
    result.map(|_| Vec::new())
}

fn topic_line(topic: &Topic) -> String {
    let count = topic.partition_count();
    format!("{}\t{}\t{count}\t{count}", topic.name(), topic.id())
}

fn config_line(entry: &ConfigEntry) -> String {
    let source = match entry.source() {
        ConfigSource::TopicConfig => "DYNAMIC_TOPIC_CONFIG",
        _ => "DEFAULT_CONFIG",
    };
    format!("{}\t{}\t{source}", entry.name(), entry.value())
}

fn commit_line(partition: &TopicPartition, commit: &CommittedOffset) -> String {
    let epoch = commit.leader_epoch().map_or(-1, |epoch| epoch.get());
    let (topic, number) = (partition.topic(), partition.partition());
    format!("{topic}\t{number}\t{}\t{epoch}\t{}", commit.offset(), commit.metadata())
}

/// Keys decide; a third of the records have headers, as the Java driver has them.
fn produce(broker: &Broker, topic: &str, codec: Codec, count: u32, bytes: usize, tag: &str) -> Result<Vec<String>> {
    let producer = broker.producer().compression(codec).linger(Duration::from_millis(20)).build()?;
    let records: Vec<_> = (0..count).map(|i| numbered(i, bytes, tag)).collect();
    let tickets = records.iter().map(|record| producer.enqueue(topic, record.clone())).collect::<Result<Vec<_>>>()?;
    producer.flush()?;
    let placed = |(record, ticket): (&Record, Ticket)| Ok(placed(record, &ticket.wait()?).to_line());
    let lines = records.iter().zip(tickets).map(placed).collect();
    producer.close()?;
    lines
}

fn placed(record: &Record, at: &RecordMetadata) -> Row {
    Row { partition: at.partition.get(), ..written(record, at.offset.get(), at.timestamp.get()) }
}

/// Produces to `topic` while other topics come, grow, change and go, and tells what was acknowledged, until killed.
fn storm(broker: &Broker, topic: &str) -> Result<Vec<String>> {
    let churn = {
        let broker = broker.clone();
        std::thread::spawn(move || -> Result<()> {
            for i in 0_u64.. {
                let made = broker.topic(format!("storm-{i}")).create()?;
                println!("={}", topic_line(&made));
                let passing = broker.topic("passing").create()?;
                passing.send(("k", "v"))?;
                passing.add_partitions(3)?;
                passing.alter_configs(&[("max.message.bytes", Some("5000"))])?;
                passing.delete()?;
            }
            Ok(())
        })
    };
    for i in 0.. {
        if churn.is_finished() {
            break;
        }
        for line in produce(broker, topic, CODECS[i % CODECS.len()], 100, 200, &format!("storm {i}"))? {
            println!("={line}");
        }
    }
    churn.join().expect("the thread does not panic").map(|()| Vec::new())
}

fn numbered(i: u32, bytes: usize, tag: &str) -> Record {
    let mut value = format!("{tag} value {i} ");
    while value.len() < bytes {
        value.push(char::from(b'a' + (value.len() * 7 % 26) as u8));
    }
    let record = Record::new(value).key(format!("{tag}-{i}"));
    match i % 3 {
        0 => record.header("h", vec![i as u8, 0, 255]).null_header("h").header("\u{fc}", ""),
        _ => record,
    }
}

/// Joins, reads all that the group has not read and commits it.
fn group_read(broker: &Broker, group: &str, topic: &Topic) -> Result<Vec<String>> {
    let mut consumer = broker.consumer_group(group).consumer([topic.name()]).join()?;
    let mut lines = Vec::new();
    loop {
        let records = consumer.poll(Duration::from_millis(100))?;
        if records.is_empty() && consumer.assignment().len() == topic.partition_count() {
            break;
        }
        lines.extend(records.iter().map(|record| consumed(&record).to_line()));
    }
    consumer.commit()?;
    consumer.close()?;
    Ok(lines)
}

/// The largest topics that there are come and go until the catalog has written two snapshots: the second one
/// lets the front of its log go.
fn snapshots(broker: &Broker) -> Result<Vec<String>> {
    let catalog = broker.dir().join("__cluster_metadata-0");
    let written = || files(&catalog).filter(|file| extension(file) == "checkpoint").count();
    for _ in 0..10 {
        if written() >= 2 {
            return Ok(Vec::new());
        }
        broker.topic("large").partitions(10_000).create()?.delete()?;
    }
    panic!("the catalog wrote {} snapshots", written());
}

pub(crate) fn scanned(record: &OwnedRecord) -> Row {
    Row {
        partition: record.partition().get(),
        offset: record.offset().get(),
        timestamp: record.timestamp().get(),
        key: record.key().map(<[u8]>::to_vec),
        value: record.value().map(<[u8]>::to_vec),
        headers: record.headers().iter().map(|h| (h.key().to_owned(), h.value().map(<[u8]>::to_vec))).collect(),
    }
}

fn consumed(record: &ConsumerRecord<'_>) -> Row {
    Row {
        partition: record.partition().get(),
        offset: record.offset().get(),
        timestamp: record.timestamp().get(),
        key: record.key().map(<[u8]>::to_vec),
        value: record.value().map(<[u8]>::to_vec),
        headers: record.headers().map(|(key, value)| (key.to_owned(), value.map(<[u8]>::to_vec))).collect(),
    }
}

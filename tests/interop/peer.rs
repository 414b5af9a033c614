//! A process that answers commands line by line, and the verbs that both kinds understand: the Java driver
//! (`java/Driver.java`) and our own broker in a child (`ours.rs`). So a test says the same thing to both.
//!
//! A command is words with tabs between; the answer is lines "=" + fields, then "." or "!" + error.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// Longer than any wait inside a peer: only a hung one gets here.
const PATIENCE: Duration = Duration::from_secs(180);

/// A record as Kafka's consumer hands it out, or as its producer was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Row {
    /// As both peers answer it.
    pub(crate) fn to_line(&self) -> String {
        let header = |(key, value): &(String, Option<Vec<u8>>)| {
            format!("{}={}", hex(Some(key.as_bytes())), hex(value.as_deref()))
        };
        let headers: Vec<_> = self.headers.iter().map(header).collect();
        let Row { partition, offset, timestamp, .. } = self;
        let (key, value) = (hex(self.key.as_deref()), hex(self.value.as_deref()));
        format!("{partition}\t{offset}\t{timestamp}\t{key}\t{value}\t{}", headers.join(","))
    }
}

/// A topic as the admin client lists it; `led` counts the partitions that have a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicRow {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) partitions: usize,
    pub(crate) led: usize,
}

/// An answer of ListOffsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetRow {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) leader_epoch: i32,
}

/// A committed offset of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommitRow {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
}

/// The process; it is killed when this is dropped.
pub(crate) struct Peer {
    process: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Peer {
    pub(crate) fn start(command: &mut Command) -> Peer {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{:?} does not start: {e}", command.get_program()));
        let requests = process.stdin.take().expect("stdin is piped");
        let lines = BufReader::new(process.stdout.take().expect("stdout is piped")).lines();
        let (sender, answers) = channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Peer { process, requests, answers }
    }

    /// One command of the peer; its answer lines, or its error.
    pub(crate) fn try_ask(&mut self, words: &[&str]) -> Result<Vec<String>, String> {
        writeln!(self.requests, "{}", words.join("\t")).expect("the peer lives");
        let mut rows = Vec::new();
        loop {
            let line = self.answers.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("no answer to {words:?}: {e}"));
            match line.split_at_checked(1) {
                Some(("=", row)) => rows.push(row.to_owned()),
                Some((".", _)) => return Ok(rows),
                Some(("!", error)) => return Err(error.to_owned()),
                _ => panic!("the peer answered {line:?} to {words:?}"),
            }
        }
    }

    pub(crate) fn ask(&mut self, words: &[&str]) -> Vec<String> {
        self.try_ask(words).unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    /// All topics, the internal ones too, by name.
    pub(crate) fn topics(&mut self) -> Vec<TopicRow> {
        let row = |line: String| {
            let f = Fields::of(&line);
            TopicRow { name: f.text(0), id: f.text(1), partitions: f.number(2), led: f.number(3) }
        };
        self.ask(&["topics"]).into_iter().map(row).collect()
    }

    /// Every setting of this topic with the value in force.
    pub(crate) fn all_configs(&mut self, topic: &str) -> BTreeMap<String, String> {
        let all = self.ask(&["configs", topic]);
        all.iter().map(|line| Fields::of(line)).map(|f| (f.text(0), f.text(1))).collect()
    }

    /// The settings that this topic overrides, by name.
    pub(crate) fn topic_configs(&mut self, topic: &str) -> Vec<(String, String)> {
        let all = self.ask(&["configs", topic]);
        let own = all.iter().map(|line| Fields::of(line)).filter(|f| f.text(2) == "DYNAMIC_TOPIC_CONFIG");
        own.map(|f| (f.text(0), f.text(1))).collect()
    }

    /// `at`: earliest, latest, max-timestamp or milliseconds.
    pub(crate) fn offsets(&mut self, topic: &str, at: &str) -> Vec<OffsetRow> {
        self.offsets_as(at, topic, "read_uncommitted")
    }

    /// The same as a reader of this isolation level is answered.
    pub(crate) fn offsets_as(&mut self, at: &str, topic: &str, isolation: &str) -> Vec<OffsetRow> {
        let row = |line: String| {
            let f = Fields::of(&line);
            OffsetRow { partition: f.number(0), offset: f.number(1), timestamp: f.number(2), leader_epoch: f.number(3) }
        };
        self.ask(&["offsets", topic, at, isolation]).into_iter().map(row).collect()
    }

    /// The whole topic in order of partition and offset, through `read_committed` or `read_uncommitted`.
    pub(crate) fn consume(&mut self, topic: &str, isolation: &str) -> Vec<Row> {
        self.rows(&["consume", topic, isolation])
    }

    /// All that a damaged topic still has; only ours tells.
    pub(crate) fn salvage(&mut self, topic: &str) -> Vec<Row> {
        self.rows(&["salvage", topic])
    }

    /// What a group has not read yet; it commits what it read.
    pub(crate) fn group_read(&mut self, group: &str, topic: &str) -> Vec<Row> {
        self.group_read_by(group, topic, "classic")
    }

    /// `protocol`: classic, or consumer (KIP-848), which only a broker speaks.
    pub(crate) fn group_read_by(&mut self, group: &str, topic: &str, protocol: &str) -> Vec<Row> {
        self.rows(&["group-read", group, topic, protocol])
    }

    /// `count` records of `bytes` bytes each; `partition` -1 lets keys decide; `outcome`: none, commit or abort.
    pub(crate) fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        codec: &str,
        outcome: &str,
        (count, bytes): (usize, usize),
        tag: &str,
    ) -> Vec<Row> {
        let [partition, count, bytes] = [i64::from(partition), count as i64, bytes as i64].map(|n| n.to_string());
        self.rows(&["produce", topic, &partition, codec, outcome, &count, &bytes, tag])
    }

    pub(crate) fn committed(&mut self, group: &str) -> Vec<CommitRow> {
        let row = |line: String| {
            let f = Fields::of(&line);
            CommitRow {
                topic: f.text(0),
                partition: f.number(1),
                offset: f.number(2),
                leader_epoch: f.number(3),
                metadata: f.text(4),
            }
        };
        self.ask(&["committed", group]).into_iter().map(row).collect()
    }

    fn rows(&mut self, words: &[&str]) -> Vec<Row> {
        let mut rows: Vec<_> = self.ask(words).iter().map(|line| row(line)).collect();
        rows.sort();
        rows
    }

    /// Waits for a line that is no answer; what comes before it is noise.
    pub(crate) fn await_line(&mut self, wanted: &str) {
        while self.answers.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("no {wanted:?}: {e}")) != wanted {}
    }

    /// kill -9 once `count` lines of an endless answer are here; all records and topics of the answer.
    pub(crate) fn kill_while_answering(mut self, words: &[&str], count: usize) -> (Vec<Row>, Vec<String>) {
        writeln!(self.requests, "{}", words.join("\t")).expect("the peer lives");
        let next = |answers: &Receiver<String>| answers.recv_timeout(PATIENCE);
        let mut lines: Vec<_> = (0..count).map(|_| next(&self.answers).expect("an answer without end")).collect();
        self.process.kill().expect("the process is our child");
        lines.extend(std::iter::from_fn(|| next(&self.answers).ok()));
        let told = lines.iter().map(|line| line.strip_prefix('=').unwrap_or_else(|| panic!("it answered {line:?}")));
        let (records, topics): (Vec<_>, Vec<_>) = told.partition(|line| Fields::of(line).0.len() == 6);
        (records.into_iter().map(row).collect(), topics.into_iter().map(|line| Fields::of(line).text(0)).collect())
    }

    /// kill -9, now.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("the process is our child");
        self.process.wait().expect("the process is our child");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn row(line: &str) -> Row {
    let f = Fields::of(line);
    Row {
        partition: f.number(0),
        offset: f.number(1),
        timestamp: f.number(2),
        key: f.bytes(3),
        value: f.bytes(4),
        headers: f.headers(5),
    }
}

pub(crate) struct Fields<'a>(Vec<&'a str>);

impl<'a> Fields<'a> {
    pub(crate) fn of(line: &'a str) -> Self {
        Fields(line.split('\t').collect())
    }

    pub(crate) fn text(&self, i: usize) -> String {
        self.0[i].to_owned()
    }

    pub(crate) fn bytes(&self, i: usize) -> Option<Vec<u8>> {
        unhex(self.0[i])
    }

    pub(crate) fn headers(&self, i: usize) -> Vec<(String, Option<Vec<u8>>)> {
        let pairs = self.0[i].split(',').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').expect("a header is key=value");
            (String::from_utf8(unhex(key).expect("a key")).expect("UTF-8"), unhex(value))
        });
        pairs.collect()
    }

    pub(crate) fn number<N: FromStr>(&self, i: usize) -> N {
        self.0[i].parse().unwrap_or_else(|_| panic!("field {i} of {:?} is no number", self.0))
    }
}

fn hex(bytes: Option<&[u8]>) -> String {
    bytes.map_or("~".to_owned(), |bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    (text != "~").then(|| text.as_bytes().chunks(2).map(byte).collect())
}

//! What Kafka answered about a directory while its broker ran: as data, and as the text kept beside a fixture.
//!
//! One fact per line, fields with tabs between. In bytes everything but plain ASCII is `\xNN`; null is `~`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Everything that is compared with what our broker answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answers {
    /// Where the directory comes from, line by line.
    pub(crate) origin: Vec<String>,
    /// The finalized features and their levels.
    pub(crate) features: BTreeMap<String, i16>,
    pub(crate) topics: BTreeMap<String, TopicAnswer>,
    /// What each group has committed.
    pub(crate) groups: BTreeMap<String, Vec<CommitAnswer>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TopicAnswer {
    pub(crate) id: String,
    /// The settings that the topic overrides.
    pub(crate) configs: BTreeMap<String, String>,
    pub(crate) partitions: Vec<PartitionAnswer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartitionAnswer {
    pub(crate) earliest: i64,
    /// ListOffsets of the end, read committed.
    pub(crate) last_stable: i64,
    pub(crate) latest: i64,
    /// What a consumer reads from the beginning, by offset.
    pub(crate) records: Vec<RecordAnswer>,
    pub(crate) at: Vec<TimeAnswer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordAnswer {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    /// `CreateTime` or `LogAppendTime`.
    pub(crate) timestamp_type: String,
    pub(crate) leader_epoch: i32,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    /// A read-committed consumer got it, too.
    pub(crate) committed: bool,
}

/// ListOffsets by time, read uncommitted and read committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimeAnswer {
    pub(crate) time: i64,
    pub(crate) uncommitted: Found,
    pub(crate) committed: Found,
}

/// Offset, timestamp and leader epoch of a record, if there is one.
pub(crate) type Found = Option<(i64, i64, i32)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommitAnswer {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// -1 where none was committed.
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
}

impl Answers {
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |fields: &[&dyn std::fmt::Display]| {
            let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
            writeln!(text, "{}", fields.join("\t")).expect("a String takes all");
        };
        for origin in &self.origin {
            line(&[&"#", origin]);
        }
        for (feature, level) in &self.features {
            line(&[&"feature", feature, level]);
        }
        for (name, topic) in &self.topics {
            line(&[&"topic", name, &topic.id, &topic.partitions.len()]);
            for (config, value) in &topic.configs {
                line(&[&"config", name, config, value]);
            }
            for (p, partition) in topic.partitions.iter().enumerate() {
                line(&[&"offsets", name, &p, &partition.earliest, &partition.last_stable, &partition.latest]);
                for r in &partition.records {
                    let (key, value) = (escape(r.key.as_deref()), escape(r.value.as_deref()));
                    let header = |(key, value): &(String, Option<Vec<u8>>)| {
                        format!("{}={}", escape(Some(key.as_bytes())), escape(value.as_deref()))
                    };
                    let headers = r.headers.iter().map(header).collect::<Vec<_>>().join(",");
                    let (kind, seen) = (&r.timestamp_type, seen_by(r.committed));
                    line(&[
                        &"record",
                        name,
                        &p,
                        &r.offset,
                        &r.timestamp,
                        kind,
                        &r.leader_epoch,
                        &key,
                        &value,
                        &headers,
                        &seen,
                    ]);
                }
                for at in &partition.at {
                    line(&[&"at", name, &p, &at.time, &found_text(at.uncommitted), &found_text(at.committed)]);
                }
            }
        }
        for (group, commits) in &self.groups {
            line(&[&"group", group]);
            for c in commits {
                let metadata = escape(Some(c.metadata.as_bytes()));
                line(&[&"commit", group, &c.topic, &c.partition, &c.offset, &c.leader_epoch, &metadata]);
            }
        }
        text
    }

    pub(crate) fn parse(text: &str) -> Answers {
        let mut all = Answers::default();
        for line in text.lines() {
            let fields: Vec<_> = line.split('\t').collect();
            all.take(&fields);
        }
        all
    }

    fn take(&mut self, fields: &[&str]) {
        match *fields {
            ["#", origin] => self.origin.push(origin.to_owned()),
            ["feature", name, level] => {
                self.features.insert(name.to_owned(), number(level) as i16);
            }
            ["topic", name, id, partitions] => {
                let partitions = vec![PartitionAnswer::default(); number(partitions) as usize];
                let topic = TopicAnswer { id: id.to_owned(), configs: BTreeMap::new(), partitions };
                self.topics.insert(name.to_owned(), topic);
            }
            ["config", topic, name, value] => {
                self.topic(topic).configs.insert(name.to_owned(), value.to_owned());
            }
            ["offsets", topic, p, earliest, last_stable, latest] => {
                let partition = self.partition(topic, p);
                partition.earliest = number(earliest);
                partition.last_stable = number(last_stable);
                partition.latest = number(latest);
            }
            ["record", topic, p, offset, timestamp, kind, epoch, key, value, headers, seen] => {
                let headers = headers.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
                    let (key, value) = pair.split_once('=').expect("a header is key=value");
                    (String::from_utf8(unescape(key).expect("a key")).expect("UTF-8"), unescape(value))
                });
                let record = RecordAnswer {
                    offset: number(offset),
                    timestamp: number(timestamp),
                    timestamp_type: kind.to_owned(),
                    leader_epoch: number(epoch) as i32,
                    key: unescape(key),
                    value: unescape(value),
                    headers: headers.collect(),
                    committed: seen == seen_by(true),
                };
                self.partition(topic, p).records.push(record);
            }
            ["at", topic, p, time, uncommitted, committed] => {
                let (uncommitted, committed) = (found(uncommitted), found(committed));
                self.partition(topic, p).at.push(TimeAnswer { time: number(time), uncommitted, committed });
            }
            ["group", name] => {
                self.groups.insert(name.to_owned(), Vec::new());
            }
            ["commit", group, topic, p, offset, epoch, metadata] => {
                let commit = CommitAnswer {
                    topic: topic.to_owned(),
                    partition: number(p) as i32,
                    offset: number(offset),
                    leader_epoch: number(epoch) as i32,
                    metadata: String::from_utf8(unescape(metadata).expect("text")).expect("UTF-8"),
                };
                self.groups.get_mut(group).expect("its group comes first").push(commit);
            }
            _ => panic!("no fact: {fields:?}"),
        }
    }

    fn topic(&mut self, name: &str) -> &mut TopicAnswer {
        self.topics.get_mut(name).unwrap_or_else(|| panic!("the line of topic {name} comes first"))
    }

    fn partition(&mut self, topic: &str, p: &str) -> &mut PartitionAnswer {
        &mut self.topic(topic).partitions[number(p) as usize]
    }
}

fn seen_by(read_committed: bool) -> &'static str {
    if read_committed { "committed" } else { "uncommitted" }
}

fn found_text(found: Found) -> String {
    found.map_or("none".to_owned(), |(offset, timestamp, epoch)| format!("{offset} {timestamp} {epoch}"))
}

fn found(text: &str) -> Found {
    let mut parts = text.split(' ').filter(|part| *part != "none").map(number);
    Some((parts.next()?, parts.next()?, parts.next()? as i32))
}

fn number(text: &str) -> i64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn escape(bytes: Option<&[u8]>) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b" -_.:/".contains(byte);
    let one = |byte: &u8| if plain(byte) { char::from(*byte).to_string() } else { format!("\\x{byte:02x}") };
    bytes.map_or("~".to_owned(), |bytes| bytes.iter().map(one).collect())
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    if text == "~" {
        return None;
    }
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).expect("two hex digits"));
        bytes.extend(&part.as_bytes()[2..]);
    }
    Some(bytes)
}

//! The two properties files that belong to a directory: `meta.properties`, which says whose it is
//! and is kept exactly as Kafka keeps it, and the text of a server.properties with which a stock
//! broker starts on it. Reading and writing the files is left to the caller.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::types::Uuid;

/// Where in a log.dir the first of the two stands.
pub(crate) const META_PROPERTIES: &str = "meta.properties";
/// What a stop in good order leaves: all files are whole.
pub(crate) const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";

/// `meta.properties` version 1: the identity of one directory of one KRaft node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetaProperties {
    pub(crate) cluster_id: String,
    pub(crate) node_id: i32,
    /// Absent in files of old releases; Kafka then makes one and rewrites the file.
    pub(crate) directory_id: Option<Uuid>,
    /// Keys that this release does not know, in the order of the file.
    unknown: Vec<(String, String)>,
}

impl MetaProperties {
    /// The identity of a new directory.
    pub(crate) fn new(cluster_id: String, node_id: i32, directory_id: Uuid) -> Self {
        Self { cluster_id, node_id, directory_id: Some(directory_id), unknown: Vec::new() }
    }

    /// Reads the file's text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut pairs = parse_properties(text)?;
        let mut take = |key: &str| pairs.iter().position(|(k, _)| k == key).map(|at| pairs.remove(at).1);
        let (version, cluster_id, node_id, directory_id) =
            (take("version"), take("cluster.id"), take("node.id"), take("directory.id"));
        match version.as_deref().map(str::trim) {
            Some("1") => {}
            // Half a copy of the file has no version either.
            None if !pairs.iter().any(|(key, _)| key == "broker.id") => {
                return Err(corrupt("meta.properties has no version"));
            }
            Some("0") | None => {
                return Err(Error::new(ErrorKind::Unsupported, "the directory belongs to a ZooKeeper-based Kafka")
                    .remedy("migrate it to KRaft with Kafka 3.9 first"));
            }
            Some(other) => {
                return Err(Error::new(ErrorKind::Unsupported, format!("meta.properties has the version {other:?}"))
                    .remedy("this release reads version 1"));
            }
        }
        let node_id = required("node.id", node_id)?;
        let node_id = node_id.trim().parse().ok().filter(|&n: &i32| n >= 0);
        Ok(Self {
            cluster_id: required("cluster.id", cluster_id)?,
            node_id: node_id.ok_or_else(|| corrupt("node.id in meta.properties is not a node number"))?,
            directory_id: directory_id.map(|id| id.trim().parse()).transpose()?,
            unknown: pairs,
        })
    }

    /// The text that Kafka would write, without the date that it puts on top.
    pub(crate) fn to_text(&self) -> String {
        let directory_id = self.directory_id.map(|id| id.to_string());
        let known = [
            ("node.id", Some(self.node_id.to_string())),
            ("directory.id", directory_id),
            ("version", Some("1".to_owned())),
            ("cluster.id", Some(self.cluster_id.clone())),
        ];
        let mut text = String::from("#\n");
        for (key, value) in known.iter().filter_map(|(k, v)| v.as_deref().map(|v| (*k, v))) {
            put_property(&mut text, key, value);
        }
        for (key, value) in &self.unknown {
            put_property(&mut text, key, value);
        }
        text
    }
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, why.into())
}

fn required(key: &str, value: Option<String>) -> Result<String> {
    let value = value.filter(|v| !v.trim().is_empty());
    value.ok_or_else(|| corrupt(format!("meta.properties has no {key}")))
}

/// What is passed over before keys and values; other white space is part of them.
const WHITE_SPACE: [char; 3] = [' ', '\t', '\x0c'];

/// Reads Java's properties format: comments, `=`, `:` or white space as separators, escapes,
/// continued lines. A repeated key keeps its last value.
fn parse_properties(text: &str) -> Result<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut lines = text.lines();
    while let Some(first) = lines.next() {
        let first = first.trim_start_matches(WHITE_SPACE);
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut line = first.to_owned();
        while ends_open(&line) {
            line.pop();
            line.push_str(lines.next().unwrap_or_default().trim_start_matches(WHITE_SPACE));
        }
        let (key, value) = split_property(&line);
        let (key, value) = (unescape(key)?, unescape(value)?);
        match pairs.iter_mut().find(|(k, _)| *k == key) {
            Some(pair) => pair.1 = value,
            None => pairs.push((key, value)),
        }
    }
    Ok(pairs)
}

/// Whether a line ends in an odd number of backslashes.
fn ends_open(line: &str) -> bool {
    line.bytes().rev().take_while(|&b| b == b'\\').count() % 2 == 1
}

fn split_property(line: &str) -> (&str, &str) {
    let separates = |c: char| matches!(c, '=' | ':') || WHITE_SPACE.contains(&c);
    let mut escaped = false;
    let end = line.char_indices().find(|&(_, c)| {
        let found = !escaped && separates(c);
        escaped = !escaped && c == '\\';
        found
    });
    let Some((end, _)) = end else {
        return (line, "");
    };
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start_matches(WHITE_SPACE);
    (key, rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(WHITE_SPACE))
}

fn unescape(text: &str) -> Result<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\x0c'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let number = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                let code = number.and_then(char::from_u32);
                plain.push(code.ok_or_else(|| corrupt(format!("\\u{digits} in meta.properties is no character")))?);
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    Ok(plain)
}

fn put_property(text: &mut String, key: &str, value: &str) {
    escape_into(text, key, true);
    text.push('=');
    escape_into(text, value, false);
    text.push('\n');
}

/// Escapes as `java.util.Properties` does when it writes UTF-8 text.
fn escape_into(text: &mut String, plain: &str, is_key: bool) {
    for (at, c) in plain.char_indices() {
        match c {
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\x0c' => text.push_str("\\f"),
            ' ' if is_key || at == 0 => text.push_str("\\ "),
            '\\' | '=' | ':' | '#' | '!' => {
                text.push('\\');
                text.push(c);
            }
            _ => text.push(c),
        }
    }
}

/// What a server.properties needs to know of a directory and its user's wishes.
#[derive(Clone, Debug)]
pub(crate) struct ServerProperties<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) node_id: i32,
    /// Host and port of the listener for clients.
    pub(crate) listener: (&'a str, u16),
    /// Host and port of the controller's listener.
    pub(crate) controller: (&'a str, u16),
    /// Partition counts of internal topics, as the catalog has them or would make them.
    pub(crate) offsets_partitions: u32,
    pub(crate) transaction_partitions: u32,
    pub(crate) share_partitions: u32,
    /// Topic defaults that the user set for the whole broker, by Kafka's broker-level names.
    pub(crate) defaults: &'a [(String, String)],
}

impl ServerProperties<'_> {
    /// The file's text: a combined broker and controller of one node on this directory, with this
    /// crate's defaults where they differ from Kafka's and are not kept per topic.
    pub(crate) fn to_text(&self) -> String {
        let (host, port) = self.listener;
        let (controller_host, controller_port) = self.controller;
        let node = self.node_id.to_string();
        let settings = [
            ("process.roles", "broker,controller".to_owned()),
            ("node.id", node.clone()),
            ("controller.quorum.voters", format!("{node}@{controller_host}:{controller_port}")),
            ("listeners", format!("PLAINTEXT://{host}:{port},CONTROLLER://{controller_host}:{controller_port}")),
            ("advertised.listeners", format!("PLAINTEXT://{host}:{port}")),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
            ("listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned()),
            ("log.dirs", absolute(self.dir).display().to_string()),
            ("auto.create.topics.enable", "false".to_owned()),
            ("default.replication.factor", "1".to_owned()),
            ("offsets.topic.replication.factor", "1".to_owned()),
            ("offsets.topic.num.partitions", self.offsets_partitions.to_string()),
            ("transaction.state.log.replication.factor", "1".to_owned()),
            ("transaction.state.log.min.isr", "1".to_owned()),
            ("transaction.state.log.num.partitions", self.transaction_partitions.to_string()),
            ("share.coordinator.state.topic.replication.factor", "1".to_owned()),
            ("share.coordinator.state.topic.min.isr", "1".to_owned()),
            ("share.coordinator.state.topic.num.partitions", self.share_partitions.to_string()),
            // Committed offsets never expire: 68 years, the largest that fits 32 bits in seconds.
            ("offsets.retention.minutes", (i32::MAX / 60).to_string()),
            ("group.initial.rebalance.delay.ms", "0".to_owned()),
        ];
        let mut text = String::from(
            "# Starts Apache Kafka (3.9 or later) on this directory, which no other process may have open.\n",
        );
        for (key, value) in settings.iter().map(|(k, v)| (*k, v.as_str())) {
            put_property(&mut text, key, value);
        }
        if !self.defaults.is_empty() {
            let _ = writeln!(text, "# Defaults for topics that do not say otherwise.");
        }
        for (key, value) in self.defaults {
            put_property(&mut text, key, value);
        }
        text
    }
}

/// The broker is started in another working directory than ours.
fn absolute(dir: &Path) -> PathBuf {
    let named = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    std::path::absolute(named).unwrap_or_else(|_| named.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kafka_writes_and_writes_it_in_its_order() {
        let text = "#\n#Mon Jan 01 00:00:00 UTC 2024\nnode.id=1\ndirectory.id=Zm9vYmFyYmF6cXV4MTIzNA\nversion=1\n\
                    cluster.id=5L6g3nShT-eMCtK--X86sw\nsome.later.key=x\\:y\n";
        let meta = MetaProperties::parse(text).unwrap();
        assert_eq!((meta.node_id, meta.cluster_id.as_str()), (1, "5L6g3nShT-eMCtK--X86sw"));
        assert_eq!(meta.directory_id, Some("Zm9vYmFyYmF6cXV4MTIzNA".parse().unwrap()));
        assert_eq!(meta.to_text(), text.replace("#Mon Jan 01 00:00:00 UTC 2024\n", ""));
    }

    #[test]
    fn any_text_survives_as_cluster_id() {
        let meta = MetaProperties::new("my cluster=#1: \\ \u{e9}".into(), 7, Uuid::from_bytes([9; 16]));
        assert_eq!(MetaProperties::parse(&meta.to_text()).unwrap(), meta);
    }

    #[test]
    fn tolerates_javas_other_notations() {
        let text = "! c\n version : 1\r\ncluster.id \\\n   abc\\u0021\nnode.id\t3\nempty\n";
        let meta = MetaProperties::parse(text).unwrap();
        assert_eq!((meta.node_id, meta.cluster_id.as_str(), meta.directory_id), (3, "abc!", None));
    }

    #[test]
    fn refuses_what_it_cannot_own() {
        let kind = |text| MetaProperties::parse(text).unwrap_err().kind();
        assert_eq!(kind("version=0\nbroker.id=1\ncluster.id=x\n"), ErrorKind::Unsupported);
        assert_eq!(kind("broker.id=1\ncluster.id=x\n"), ErrorKind::Unsupported);
        assert_eq!(kind(""), ErrorKind::Corrupt);
        assert_eq!(kind("#\n#Mon Jan 01 00:00:00 UTC 2024\nnode.id=1\n"), ErrorKind::Corrupt);
        assert_eq!(kind("version=2\nnode.id=1\ncluster.id=x\n"), ErrorKind::Unsupported);
        assert_eq!(kind("version=1\nnode.id=1\n"), ErrorKind::Corrupt);
        assert_eq!(kind("version=1\ncluster.id=x\n"), ErrorKind::Corrupt);
        assert_eq!(kind("version=1\ncluster.id=x\nnode.id=one\n"), ErrorKind::Corrupt);
        assert_eq!(kind("version=1\ncluster.id=\\u12\nnode.id=1\n"), ErrorKind::Corrupt);
    }

    fn properties_of(dir: &str) -> Vec<(String, String)> {
        let defaults = [("log.retention.ms".to_owned(), "1000".to_owned())];
        let text = ServerProperties {
            dir: Path::new(dir),
            node_id: 1,
            listener: ("localhost", 9092),
            controller: ("localhost", 9093),
            offsets_partitions: 1,
            transaction_partitions: 3,
            share_partitions: 1,
            defaults: &defaults,
        }
        .to_text();
        parse_properties(&text).unwrap()
    }

    #[test]
    fn server_properties_name_the_directory_and_its_counts() {
        let pairs = properties_of("/data/log");
        let get = |key: &str| pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        assert_eq!(get("log.dirs").map(Path::new), Some(&*std::path::absolute("/data/log").unwrap()));
        assert_eq!(get("controller.quorum.voters"), Some("1@localhost:9093"));
        assert_eq!(get("listeners"), Some("PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093"));
        assert_eq!(get("transaction.state.log.num.partitions"), Some("3"));
        assert_eq!(get("log.retention.ms"), Some("1000"));
    }

    /// `Broker::open("data")` is what the README says, and Kafka has a working directory of its own.
    #[test]
    fn server_properties_name_a_relative_directory_from_the_root() {
        for (dir, end) in [("data", "data"), ("", "")] {
            let pairs = properties_of(dir);
            let named = pairs.iter().find(|(key, _)| key == "log.dirs").map(|(_, value)| Path::new(value)).unwrap();
            assert_eq!(named, std::env::current_dir().unwrap().join(end));
        }
    }
}

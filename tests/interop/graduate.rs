//! The page `src/docs/graduate.md`, done as it is written: its code is this file's, its commands are run, its
//! tables of files are what an open may change.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thalweg::{Broker, Start};

use crate::client::Client;
use crate::directory::files;
use crate::kafka::{Kafka, Version};
use crate::node::{self, Layout, Node, SINGLE_NODE};
use crate::peer::Row;

crate::on_each_release!(as_the_page_says, an_open_touches_what_the_page_lists);

const PAGE: &str = include_str!("../../src/docs/graduate.md");
const MYSELF: &str = include_str!("graduate.rs");

#[test]
fn as_the_page_says_on_4_4_0() {
    crate::against(Version::V4_4_0, "as_the_page_says_on_4_4_0", as_the_page_says);
}

/// The first block of code on the page.
#[expect(clippy::needless_borrows_for_generic_args, reason = "the page has owned paths")]
fn close_and_write(dir: &Path, file: &Path) -> Result<(), Box<dyn Error>> {
    let broker = Broker::open(&dir)?;
    let properties = broker.server_properties(("localhost", 9092), ("localhost", 9093));
    broker.close()?;
    std::fs::write(&file, properties)?;
    Ok(())
}

/// The second one.
#[expect(clippy::needless_borrows_for_generic_args, reason = "the page has owned paths")]
fn come_back(dir: &Path) -> Result<(), Box<dyn Error>> {
    let broker = Broker::open(&dir)?;
    let mut member = broker.consumer_group("billing").consumer(["orders"]).join()?;
    for record in &member.poll(Duration::from_secs(1))? {
        println!("{} {:?}", record.offset(), record.value());
    }
    broker.close()?;
    Ok(())
}

#[test]
fn the_code_on_the_page_is_what_is_run_here() {
    let mine: Vec<_> = MYSELF.lines().map(str::trim).collect();
    let code: Vec<_> = blocks("rust").into_iter().map(shown).collect();
    assert_eq!(code.len(), 2);
    for block in code {
        let lines: Vec<_> = block.iter().map(|line| line.trim()).collect();
        assert!(mine.windows(lines.len()).any(|window| window == lines), "{lines:#?}");
    }
}

/// What a reader of the page sees of a block.
fn shown(block: Vec<&'static str>) -> Vec<&'static str> {
    block.into_iter().filter(|line| !line.starts_with("# ")).collect()
}

fn as_the_page_says(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let (data, file) = (home.path().join("data"), home.path().join("server.properties"));
    let unread = keep_orders(&data).expect("a program that keeps orders");
    close_and_write(&data, &file).expect("the first block");
    let properties = fs::read_to_string(&file).expect("server.properties");
    assert!(properties.contains(&format!("log.dirs={}\n", data.display())));

    let tools = kafka.with_tools();
    let mut stage =
        Stage { kafka, tools: &tools, data: &data, properties: &properties, unread: &unread, running: None };
    let mut done = BTreeSet::new();
    for line in blocks("sh").concat() {
        // Of its own level 3.9 has no upgrade. `stop` comes before it on the page and ends each visit.
        if line.contains(" upgrade ") && kafka.version == Version::V3_9_2 {
            continue;
        }
        stage.run(line);
        done.insert(line.split(' ').next().expect("a command"));
        if line.contains("kafka-server-stop.sh") {
            come_back(&data).expect("the second block");
            stage.run("bin/kafka-server-start.sh server.properties");
        }
    }
    assert_eq!(done.len(), 5, "{done:?}");

    // At whatever level it is now: we, and the broker once more.
    stage.run("bin/kafka-server-stop.sh");
    let before = write_on(&data);
    stage.run("bin/kafka-server-start.sh server.properties");
    let (_, client) = stage.running.as_mut().expect("a broker runs");
    assert_eq!(client.consume("orders", "read_committed").len(), before);
    assert_eq!(client.consume("later", "read_committed").len(), 1);
    if kafka.version != Version::V3_9_2 {
        assert_eq!(client.group_read_by("modern", "orders", "consumer").len(), before, "the level allows KIP-848 now");
    }
    stage.run("bin/kafka-server-stop.sh");
}

/// The program of the page's first sentence; the values that `billing` has not read.
fn keep_orders(data: &Path) -> thalweg::Result<BTreeSet<String>> {
    let broker = Broker::open(data)?;
    let orders = broker.topic("orders").partitions(2).create()?;
    for i in 0..10 {
        orders.send((format!("user-{i}"), format!("read {i}")))?;
    }
    let mut member = broker.consumer_group("billing").consumer(["orders"]).start(Start::Earliest).join()?;
    let mut read = 0;
    while read < 10 {
        read += member.poll(Duration::from_secs(1))?.iter().count();
    }
    member.commit()?;
    let unread: BTreeSet<_> = (0..5).map(|i| format!("unread {i}")).collect();
    for value in &unread {
        orders.send((value.clone(), value.clone()))?;
    }
    member.close()?;
    broker.close()?;
    Ok(unread)
}

/// Changes the catalog and the records, and counts what `orders` has then.
fn write_on(data: &Path) -> usize {
    let broker = Broker::open(data).expect("it opens at any level");
    let orders = broker.topic("orders").open().expect("the topic");
    orders.add_partitions(orders.partition_count() as u32 + 1).expect("more partitions");
    orders.send(("user-1", "after the upgrade")).expect("a record");
    broker.topic("later").create().and_then(|later| later.send("x")).expect("a new topic");
    let count = orders.scan(Start::Earliest).collect::<thalweg::Result<Vec<_>>>().expect("records").len();
    broker.close().expect("a clean close");
    count
}

/// Where the commands of the page are run.
struct Stage<'k> {
    kafka: &'k Kafka,
    tools: &'k Kafka,
    data: &'k Path,
    properties: &'k str,
    unread: &'k BTreeSet<String>,
    running: Option<(Node<'k>, Client<'k>)>,
}

impl Stage<'_> {
    fn run(&mut self, line: &str) {
        eprintln!("$ {line}");
        let words: Vec<_> = line.split_whitespace().collect();
        let arguments = &words[1..];
        match words[0].strip_prefix("bin/").expect("a script of Kafka's") {
            "kafka-server-start.sh" => {
                assert_eq!(arguments, ["server.properties"]);
                let node = Node::start(self.kafka, self.data, self.properties);
                let client = Client::start(self.tools, node.port);
                self.running = Some((node, client));
            }
            "kafka-server-stop.sh" => {
                let (node, client) = self.running.take().expect("a broker runs");
                drop(client);
                node.stop();
            }
            "kafka-consumer-groups.sh" => {
                let told = self.tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", arguments);
                let lag = |line: &String| line.split_whitespace().nth(5).and_then(|word| word.parse::<usize>().ok());
                assert_eq!(told.iter().filter_map(lag).sum::<usize>(), self.unread.len(), "{told:#?}");
            }
            "kafka-console-consumer.sh" => {
                let mut told = self.tool("org.apache.kafka.tools.consumer.ConsoleConsumer", arguments);
                told.retain(|line| !line.starts_with("Processed a total"));
                assert_eq!(&told.iter().cloned().collect::<BTreeSet<_>>(), self.unread, "{told:#?}");
            }
            "kafka-features.sh" => {
                let told = self.tool("org.apache.kafka.tools.FeatureCommand", arguments).join("\n");
                let old = self.kafka.version == Version::V3_9_2;
                let wanted = match arguments[2] {
                    "upgrade" => "metadata.version was upgraded to 30.",
                    _ if old => "FinalizedVersionLevel: 3.9-IV0",
                    _ => "FinalizedVersionLevel: 4.3-IV0",
                };
                assert!(told.contains(wanted), "{told}");
            }
            script => panic!("the page runs {script}"),
        }
    }

    fn tool(&mut self, class: &str, arguments: &[&str]) -> Vec<String> {
        assert_eq!(arguments[..2], ["--bootstrap-server", "localhost:9092"]);
        let (_, client) = self.running.as_mut().expect("a broker runs");
        client.online_tool(class, &arguments[2..])
    }
}

fn an_open_touches_what_the_page_lists(kafka: &Kafka) {
    let [closed, killed] = &tables()[..] else { panic!("two tables of files") };
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    // A quorum that is written down has more files.
    let layout = Layout { dirs: vec![data.clone()], standalone: kafka.version != Version::V3_9_2 };
    node::format_on(kafka, &layout, &[]);
    let node = Node::start_on(kafka, &layout, SINGLE_NODE);
    let mut client = node.client();
    client.ask(&["create", "t", "3", "retention.ms=-1"]);
    client.ask(&["create", "gone", "1"]);
    let mut sent = client.produce("t", -1, "lz4", "none", (50, 100), "t");
    sent.extend(client.produce("t", -1, "zstd", "commit", (50, 100), "x"));
    sent.sort();
    client.group_read("g", "t");
    client.ask(&["delete", "gone"]);
    drop(client);
    node.stop();
    assert_eq!(touched(&data, &sent, closed), Vec::<String>::new(), "after a clean stop");

    drop(Node::start_on(kafka, &layout, SINGLE_NODE).kill());
    // What a kill in the middle of replacing a file leaves: now and then it does by itself.
    let half = data.join("t-0").join("leader-epoch-checkpoint.tmp");
    fs::write(half, "0\n").expect("a file in a partition's directory");
    let all: Vec<_> = closed.iter().chain(killed).cloned().collect();
    assert_eq!(touched(&data, &sent, &all), Vec::<String>::new(), "after a kill");
}

/// Opens, reads everything and closes; the files that are other than before and match no pattern.
fn touched(data: &Path, sent: &[Row], patterns: &[String]) -> Vec<String> {
    let before = tree(data);
    let broker = Broker::open(data).expect("it opens");
    let topic = broker.topic("t").open().expect("the topic");
    let read = topic.scan(Start::Earliest).collect::<thalweg::Result<Vec<_>>>().expect("records");
    assert_eq!(read.len(), sent.len());
    assert!(!broker.consumer_group("g").all_committed().expect("offsets").is_empty());
    broker.close().expect("a clean close");
    let after = tree(data);
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changed = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    changed.filter(|name| !patterns.iter().any(|pattern| matches(pattern, name))).cloned().collect()
}

/// Every file below `data` by its relative name, with its bytes.
fn tree(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut dirs: Vec<PathBuf> = vec![data.to_owned()];
    while let Some(dir) = dirs.pop() {
        for path in files(&dir) {
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(data).expect("a file below it").to_string_lossy().into_owned();
                all.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    all
}

/// `*` and the capitals of the page stand for anything but a slash; a pattern without a slash is for a file in
/// any partition or at the top, and a directory's is for all that is in it.
fn matches(pattern: &str, name: &str) -> bool {
    let parts: Vec<_> = name.split('/').collect();
    let fits = |pattern: &str, part: &str| match pattern.rsplit_once(['*', 'X']) {
        Some((_, end)) => part.len() > end.len() && part.ends_with(end),
        None => pattern == part,
    };
    match pattern.split_once('/') {
        Some((dir, file)) => parts.len() == 2 && fits(dir, parts[0]) && fits(file, parts[1]),
        None => parts.iter().any(|part| fits(pattern, part)),
    }
}

/// The file patterns of the page's tables headed `file | change`.
fn tables() -> Vec<Vec<String>> {
    let mut tables: Vec<Vec<String>> = Vec::new();
    let mut inside = false;
    for line in PAGE.lines() {
        if line == "| file | change |" {
            tables.push(Vec::new());
            inside = true;
        } else if inside && !line.starts_with('|') {
            inside = false;
        } else if inside {
            let first = line.split('|').nth(1).expect("a first column");
            let names = first.split('`').skip(1).step_by(2).map(str::to_owned);
            tables.last_mut().expect("a table").extend(names);
        }
    }
    tables
}

/// The page's fenced blocks in this language, line by line.
fn blocks(language: &str) -> Vec<Vec<&'static str>> {
    let mut lines = PAGE.lines();
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(found) = line.strip_prefix("```") {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            if found == language {
                blocks.push(block);
            }
        }
    }
    blocks
}

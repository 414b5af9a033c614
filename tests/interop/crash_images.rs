//! Partitions as a crash left them: at any operation, after a power cut or a kill, before and after our own recovery. A
//! stock broker's loader must take each of them, and lose nothing of what was promised to survive that crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use thalweg::testing::{Choice, SimStorage};
use thalweg::{
    BatchBuilder, Broker, Durability, EndMarker, ManualClock, OpenMode, Partition, ProducerId, Record, Result, Storage,
    Timestamp, TxnOutcome,
};

use crate::directory::partition_dirs;
use crate::kafka::Kafka;
use crate::node::{self, Node, SINGLE_NODE};
use crate::peer::Row;

crate::on_each_release!(the_loader_takes_every_image);

const IMAGES: usize = 204;
const TIME: i64 = 1_750_000_000_000;
const DATA: &str = "data";
const CHECKPOINTS: [&str; 3] =
    ["recovery-point-offset-checkpoint", "log-start-offset-checkpoint", "replication-offset-checkpoint"];

/// Numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What was appended and what was promised, of one partition.
#[derive(Default)]
struct Ledger {
    values: BTreeMap<i64, String>,
    /// Ends of what was acknowledged as surviving a power cut, and the death of the process.
    promised: [i64; 2],
    log_start: i64,
}

/// What a broker does until its disk stops working.
struct Work<'a> {
    disk: &'a SimStorage,
    ledger: &'a mut Ledger,
    dice: Dice,
    level: Durability,
    sequence: i32,
}

fn open(disk: &SimStorage) -> Result<Broker> {
    let clock = ManualClock::new(Timestamp::new(TIME));
    Broker::builder(DATA).storage(disk.clone()).clock(clock).manual().open()
}

impl Work<'_> {
    fn run(&mut self) -> Result<()> {
        let mut broker = open(self.disk)?;
        let topic = broker.topic("t").durability(self.level).set("internal.segment.bytes", "900");
        let mut partition = topic.set("index.interval.bytes", "100").open_or_create()?.partition(0)?;
        for _ in 0..40 {
            match self.dice.below(12) {
                0..=5 => self.append(&partition)?,
                6..=7 => self.transaction(&partition)?,
                8 => broker.run_maintenance()?,
                9 => {
                    let offsets = partition.offsets()?;
                    let room = (offsets.high_watermark - offsets.log_start) as u64;
                    let to = offsets.log_start + self.dice.below(room / 3 + 1) as i64;
                    self.ledger.log_start = to.get();
                    partition.delete_records(to)?;
                }
                10 => partition.append_records([self.value(&partition, 30)?]).map(drop)?,
                _ => {
                    broker.close()?;
                    broker = open(self.disk)?;
                    partition = broker.topic("t").open()?.partition(0)?;
                }
            }
        }
        broker.close()
    }

    /// The next value, noted at the place that it will get.
    fn value(&mut self, partition: &Partition, padding: usize) -> Result<String> {
        let at = partition.offsets()?.end.get();
        let value = format!("{at} {}", "x".repeat(padding));
        self.ledger.values.insert(at, value.clone());
        Ok(value)
    }

    fn append(&mut self, partition: &Partition) -> Result<()> {
        let padding = self.dice.below(300) as usize;
        let appended = partition.append_records([self.value(partition, padding)?])?;
        let level = [Durability::PowerLoss, Durability::ProcessCrash][self.dice.below(2) as usize];
        partition.wait(appended.position, level)?;
        let end = appended.last_offset.get() + 1;
        self.ledger.promised[1] = end;
        if level == Durability::PowerLoss {
            self.ledger.promised[0] = end;
        }
        Ok(())
    }

    /// Two records and the marker; waits for none of them.
    fn transaction(&mut self, partition: &Partition) -> Result<()> {
        let id = ProducerId::new(7);
        for _ in 0..2 {
            let mut batch = BatchBuilder::new().producer(id, 0, self.sequence).transactional();
            batch.push(Timestamp::new(TIME), &Record::new(self.value(partition, 20)?))?;
            partition.append(&batch.finish()?)?;
            self.sequence += 1;
        }
        let outcome = [TxnOutcome::Commit, TxnOutcome::Abort][self.dice.below(2) as usize];
        let marker = EndMarker { outcome, coordinator_epoch: 0 };
        partition.append(&BatchBuilder::end_marker(marker, id, 0, Timestamp::new(TIME))?).map(drop)
    }
}

/// One partition after a crash.
struct Image {
    /// How it came about, for a failure's message.
    story: String,
    disk: SimStorage,
    ledger: Ledger,
    promised: i64,
}

impl Image {
    fn new(seed: u64) -> Self {
        let level = [Durability::PowerLoss, Durability::ProcessCrash][(seed % 2) as usize];
        let work = |disk: &SimStorage| {
            let mut ledger = Ledger::default();
            let mut work = Work { disk, ledger: &mut ledger, dice: Dice(seed), level, sequence: 0 };
            let done = work.run();
            (ledger, done)
        };
        let whole = SimStorage::new();
        work(&whole).1.expect("a disk that works");
        let mut dice = Dice(!seed);
        // Past what makes the directory, of which a stock broker has its own.
        let at = whole.operations() / 4 + dice.below(whole.operations() * 3 / 4);
        let disk = SimStorage::new();
        disk.limit_operations(at);
        let (ledger, _) = work(&disk);
        let choice = match dice.below(6) {
            0 => Choice::ProcessCrash,
            1 => Choice::Nothing,
            2 => Choice::All,
            3 => Choice::OnlyMetadata,
            4 => Choice::InOrder(seed),
            _ => Choice::Journaled(seed),
        };
        let mut left = disk.crash(choice);
        let mut story = format!("seed {seed}, {level}, operation {at}, {choice}");
        let promised = ledger.promised[usize::from(!choice.is_power_cut())];
        match seed % 3 {
            0 => {}
            1 => {
                // Recovered, and killed before anything else happened.
                let broker = open(&left).unwrap_or_else(|e| panic!("{story}: {e}"));
                let recovered = broker.topic("t").open().and_then(|topic| topic.partition(0)?.offsets());
                recovered.unwrap_or_else(|e| panic!("{story}: {e}"));
                left = left.crash(Choice::ProcessCrash);
                story.push_str(", recovered");
            }
            _ => {
                let broker = open(&left).unwrap_or_else(|e| panic!("{story}: {e}"));
                broker.close().unwrap_or_else(|e| panic!("{story}: {e}"));
                story.push_str(", closed");
            }
        }
        Self { story, disk: left, ledger, promised }
    }

    fn read(&self, path: &Path) -> Vec<u8> {
        let file = self.disk.open(path, OpenMode::Read).expect("a file of the image");
        let mut bytes = vec![0; file.len().expect("its length") as usize];
        file.read_exact_at(&mut bytes, 0).expect("its bytes");
        bytes
    }

    /// Puts the partition's files into a stock broker's directory of it.
    fn place(&self, dir: &Path) {
        let from = Path::new(DATA).join("t-0");
        for entry in self.disk.list(&from).unwrap_or_default() {
            if entry.name != "partition.metadata" {
                fs::write(dir.join(&entry.name), self.read(&from.join(&entry.name))).expect("a file can be written");
            }
        }
    }

    /// What one of Kafka's checkpoints says of the partition.
    fn checkpoint(&self, name: &str) -> Option<String> {
        let path = Path::new(DATA).join(name);
        self.disk.metadata(&path).ok()?;
        let text = String::from_utf8(self.read(&path)).expect("a text file");
        text.lines().find_map(|line| line.strip_prefix("t 0 ").map(str::to_owned))
    }

    /// Everything served was appended there, and everything promised is served.
    fn check(&self, served: &BTreeMap<i64, &Row>) {
        for (offset, row) in served {
            let value = row.value.as_deref().map(String::from_utf8_lossy);
            let known = self.ledger.values.get(offset).map(|value| value.as_str());
            assert_eq!(value.as_deref(), known, "{}: the broker serves offset {offset}", self.story);
        }
        let promised = self.ledger.values.range(self.ledger.log_start.min(self.promised)..self.promised);
        let missing: Vec<_> = promised.map(|(at, _)| at).filter(|at| !served.contains_key(at)).collect();
        assert!(missing.is_empty(), "{}: promised and not served: {missing:?}", self.story);
    }
}

fn the_loader_takes_every_image(kafka: &Kafka) {
    let images: Vec<_> = (0..IMAGES as u64).map(Image::new).collect();
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    node::format(kafka, &data);
    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    client.ask(&["create", "t", &IMAGES.to_string(), "retention.ms=-1"]);
    drop(client);
    drop(node.stop());

    for (number, image) in images.iter().enumerate() {
        let dir = data.join(format!("t-{number}"));
        for path in crate::directory::files(&dir).filter(|path| !path.ends_with("partition.metadata")) {
            fs::remove_file(path).expect("a file of the empty log");
        }
        image.place(&dir);
    }
    for name in CHECKPOINTS {
        let path = data.join(name);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut lines: Vec<_> =
            text.lines().skip(2).filter(|line| !line.starts_with("t ")).map(str::to_owned).collect();
        for (number, image) in images.iter().enumerate() {
            lines.extend(image.checkpoint(name).map(|offset| format!("t {number} {offset}")));
        }
        fs::write(path, format!("0\n{}\n{}\n", lines.len(), lines.join("\n"))).expect("a checkpoint");
    }
    fs::remove_file(data.join(".kafka_cleanshutdown")).expect("the marker of the clean stop");

    let node = Node::start(kafka, &data, SINGLE_NODE);
    let mut client = node.client();
    let topic = client.topics().into_iter().find(|topic| topic.name == "t").expect("the topic");
    assert_eq!((topic.partitions, topic.led), (IMAGES, IMAGES), "a partition is offline: {}", node.complaints());
    // Each goes on, above all that was promised. Only then does a consumer get past offsets that were left out at an end.
    let mut appended = BTreeSet::new();
    for (number, image) in images.iter().enumerate() {
        let sent = client.produce("t", number as i32, "none", "none", (1, 20), "after").remove(0);
        assert!(sent.offset >= image.promised, "{}: the broker gives offset {} again", image.story, sent.offset);
        appended.insert((sent.partition, sent.offset));
    }
    let mut rows = client.consume("t", "read_uncommitted");
    rows.retain(|row| !appended.remove(&(row.partition, row.offset)));
    assert_eq!(appended, BTreeSet::new(), "what the broker appended is not served");
    for (number, image) in images.iter().enumerate() {
        image.check(&rows.iter().filter(|row| row.partition == number as i32).map(|row| (row.offset, row)).collect());
    }
    let promised: i64 = images.iter().map(|image| image.promised).sum();
    eprintln!("{IMAGES} images, {promised} offsets promised, {} records served", rows.len());
    drop(client);
    let log = node.stop();
    let stray = partition_dirs(&data).find(|dir| dir.to_string_lossy().ends_with("-stray"));
    assert_eq!(stray, None);
    assert!(!log.contains("FATAL"), "{log}");
}

//! A whole broker at work on a simulated disk: every kind of step that changes its directory, in an order that the seed
//! chooses.

use std::path::Path;
use std::time::Duration;

use thalweg::testing::{
    BrokerEvent, Choice, ExploreConfig, History, Replay, SimStorage, SweepConfig, WatchedBroker, check_broker, explore,
    sweep_errors,
};
use thalweg::{
    BrokerBuilder, Durability, ErrorKind, ManualClock, OpenMode, Partition, RecordBatch, Result, Storage, Timestamp,
    Topic, TopicConfig,
};

use super::{Budget, Dice, TOTAL};

const ROOT: &str = "data";
const TOPICS: [&str; 2] = ["events", "orders"];

fn options(level: Durability) -> impl Fn(BrokerBuilder) -> BrokerBuilder + Clone {
    move |options| options.durability(level).clock(ManualClock::new(Timestamp::new(1_700_000_000_000)))
}

struct Work<'a> {
    disk: &'a SimStorage,
    history: &'a History<BrokerEvent>,
    level: Durability,
    dice: Dice,
    clock: ManualClock,
    broker: WatchedBroker,
    written: u64,
}

impl<'a> Work<'a> {
    fn new(disk: &'a SimStorage, history: &'a History<BrokerEvent>, level: Durability, seed: u64) -> Result<Self> {
        let clock = ManualClock::new(Timestamp::new(1_700_000_000_000));
        let broker = Self::open(disk, history, level, &clock)?;
        Ok(Self { disk, history, level, dice: Dice::new(seed), clock, broker, written: 0 })
    }

    fn open(
        disk: &SimStorage,
        history: &History<BrokerEvent>,
        level: Durability,
        clock: &ManualClock,
    ) -> Result<WatchedBroker> {
        WatchedBroker::open(disk, history, Path::new(ROOT), |o| o.durability(level).clock(clock.clone()))
    }

    fn value(&mut self) -> String {
        self.written += 1;
        let padding = [0, 0, 20, 240][self.dice.below(4) as usize];
        format!("value {} {}", self.written, "x".repeat(padding))
    }

    fn some_level(&self) -> Durability {
        match self.dice.below(6) {
            0 => Durability::None,
            1 => Durability::ProcessCrash,
            2 => Durability::PowerLoss,
            _ => self.level,
        }
    }

    /// One of the topics, made when there is none.
    fn topic(&self) -> Result<Topic> {
        let name = TOPICS[self.dice.below(2) as usize];
        match self.broker.broker().topic(name).open() {
            Err(e) if e.kind() == ErrorKind::UnknownTopicOrPartition => {
                // Rolls after a few batches.
                let config = TopicConfig::new().set("internal.segment.bytes", "700")?.index_interval_bytes(100);
                self.broker.create(name, 1 + self.dice.below(2) as u32, config)
            }
            found => found,
        }
    }

    fn partition(&self) -> Result<Partition> {
        let topic = self.topic()?;
        let number = self.dice.below(topic.partition_count() as u64) as i32;
        topic.partition(number)
    }

    fn step(&mut self) -> Result<()> {
        match self.dice.below(20) {
            0..=5 => self.put(),
            6..=8 => self.group_commit(),
            9 | 10 => self.broker.commit("billing", &self.topic()?),
            11 => self.consume(),
            12 => self.produce(),
            13 => self.delete_records(),
            14 => self.alter(),
            15 => self.topic()?.add_partitions(3).or_else(fewer_is_refused),
            16 => self.maintain(),
            17 => self.delete(),
            18 => self.foreign_writer(),
            _ => self.reopen(),
        }
    }

    fn put(&mut self) -> Result<()> {
        let values = [self.value(), self.value()];
        let count = 1 + self.dice.below(2) as usize;
        let (partition, level) = (self.partition()?, self.some_level());
        self.broker.put(&partition, values[..count].iter().map(String::as_str), level).map(drop)
    }

    /// Several appends, one after the other as from eight threads; the last to come leads for all.
    fn group_commit(&mut self) -> Result<()> {
        let partition = self.partition()?;
        let mut waiting = Vec::new();
        for _ in 0..2 + self.dice.below(7) {
            let value = self.value();
            waiting.push(self.broker.append(&partition, [value.as_str()])?);
        }
        waiting.iter().rev().try_for_each(|appended| self.broker.wait(&partition, appended, self.level))
    }

    /// A member of a group reads, and leaves without a commit.
    fn consume(&mut self) -> Result<()> {
        let topic = self.topic()?;
        let mut consumer = self.broker.broker().consumer_group("readers").consumer([topic.name()]).join()?;
        consumer.poll(Duration::ZERO)?;
        consumer.close()
    }

    /// A producer gathers several records into one batch.
    fn produce(&mut self) -> Result<()> {
        let topic = self.topic()?;
        let partition = topic.partition(0)?;
        let values = [self.value(), self.value(), self.value()];
        let producer = self.broker.broker().producer().linger(Duration::from_secs(60)).build()?;
        let texts: Vec<_> = values.iter().map(String::as_str).collect();
        self.broker.note_appending(&partition, &texts)?;
        for text in &texts {
            drop(producer.enqueue(&topic, thalweg::Record::new(*text).partition(0))?);
        }
        producer.flush()?;
        producer.close()?;
        self.broker.note_acknowledged(&partition, partition.offsets()?.end, partition.durability())
    }

    fn delete_records(&mut self) -> Result<()> {
        let partition = self.partition()?;
        let offsets = partition.offsets()?;
        let room = u64::try_from(offsets.high_watermark - offsets.log_start).unwrap_or(0);
        let by = i64::try_from(self.dice.below(room / 2 + 1)).unwrap_or(0);
        self.broker.delete_records(&partition, offsets.log_start + by)
    }

    fn alter(&mut self) -> Result<()> {
        let bytes = (1 + self.dice.below(4)) * 500;
        let (name, value) = match self.dice.below(3) {
            0 => ("retention.bytes", bytes.to_string()),
            1 => ("retention.ms", (bytes * 100).to_string()),
            _ => ("internal.segment.bytes", (200 + bytes).to_string()),
        };
        self.broker.alter(&self.topic()?, name, &value)
    }

    fn maintain(&mut self) -> Result<()> {
        self.clock.advance(Duration::from_secs(self.dice.below(100)));
        self.broker.maintain()
    }

    fn delete(&mut self) -> Result<()> {
        self.broker.delete(&self.topic()?)
    }

    fn reopen(&mut self) -> Result<()> {
        self.close_and(|_| Ok(()))
    }

    /// Closes, has something done to the directory, and opens again.
    fn close_and(&mut self, change: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.broker.close()?;
        change(self)?;
        self.broker = Self::open(self.disk, self.history, self.level, &self.clock)?;
        Ok(())
    }

    /// What a stock broker leaves that had the directory for a while: a batch in a later leader epoch, the checkpoints
    /// that go with it, and its own clean end.
    fn foreign_writer(&mut self) -> Result<()> {
        let partition = self.partition()?;
        let value = self.value();
        self.broker.put(&partition, [value.as_str()], Durability::PowerLoss)?;
        let name = partition.topic_partition().clone();
        let theirs = self.value();
        self.broker.note_appending(&partition, &[theirs.as_str()])?;
        let offsets = partition.offsets()?;
        self.close_and(|work| {
            work.append_as_stock(&name.to_string(), offsets.end.get(), &theirs).map_err(thalweg_error)?;
            Ok(())
        })?;
        let partition = self.broker.broker().topic(name.topic()).open()?.partition(name.partition())?;
        self.broker.note_acknowledged(&partition, offsets.end.next(), Durability::PowerLoss)
    }

    fn append_as_stock(&self, name: &str, base: i64, value: &str) -> std::io::Result<()> {
        let (disk, dir) = (self.disk, Path::new(ROOT).join(name));
        disk.remove_file(&Path::new(ROOT).join(".kafka_cleanshutdown"))?;
        let read = |path: &Path| -> std::io::Result<Vec<u8>> {
            let file = disk.open(path, OpenMode::Read)?;
            let mut bytes = vec![0; file.len()? as usize];
            file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        let replace = |path: &Path, bytes: &[u8]| -> std::io::Result<()> {
            let temporary = path.with_extension("tmp");
            let file = disk.open(&temporary, OpenMode::CreateIfAbsent)?;
            file.set_len(0)?;
            file.write_all_at(bytes, 0)?;
            file.sync_data()?;
            disk.rename(&temporary, path)?;
            disk.sync_dir(path.parent().expect("below the root"))
        };
        let checkpoint = dir.join("leader-epoch-checkpoint");
        let epochs = String::from_utf8(read(&checkpoint)?).expect("text");
        let mut lines: Vec<_> = epochs.lines().skip(2).map(str::to_owned).collect();
        let newest = lines.last().and_then(|line| line.split(' ').next()?.parse::<i32>().ok()).unwrap_or(0);
        lines.push(format!("{} {base}", newest + 1));
        // Every start of a stock broker changes the metadata log; our note of it is then of another one.
        replace(&Path::new(ROOT).join("thalweg.epoch"), b"0\n")?;
        replace(&checkpoint, format!("0\n{}\n{}\n", lines.len(), lines.join("\n")).as_bytes())?;
        let mut batch = RecordBatch::builder();
        batch.push(Timestamp::new(1_700_000_000_000), &thalweg::Record::new(value)).expect("fits");
        let batch = batch.finish().and_then(|b| b.stamped(base.into(), (newest + 1).into())).expect("fits");
        let names = disk.list(&dir)?.into_iter().map(|entry| entry.name);
        let log = dir.join(names.filter(|name| name.ends_with(".log")).max().expect("a segment"));
        let file = disk.open(&log, OpenMode::Write)?;
        file.write_all_at(batch.as_bytes(), file.len()?)?;
        file.sync_data()?;
        for name in ["recovery-point-offset-checkpoint", "replication-offset-checkpoint"] {
            let path = Path::new(ROOT).join(name);
            let text = String::from_utf8(read(&path)?).expect("text");
            let topic = dir.file_name().expect("a name").to_string_lossy().replace('-', " ");
            let line = |line: &str| match line.starts_with(&topic) {
                true => format!("{topic} {}\n", base + 1),
                false => format!("{line}\n"),
            };
            replace(&path, text.lines().map(line).collect::<String>().as_bytes())?;
        }
        replace(&Path::new(ROOT).join(".kafka_cleanshutdown"), br#"{"version":0,"brokerEpoch":3}"#)
    }
}

fn thalweg_error(e: std::io::Error) -> thalweg::Error {
    thalweg::Error::new(ErrorKind::Io, e.to_string())
}

/// A topic may have as many partitions already.
fn fewer_is_refused(e: thalweg::Error) -> Result<()> {
    if e.kind() == ErrorKind::InvalidArgument { Ok(()) } else { Err(e) }
}

/// Works until something fails; what is called after that may fail, but neither panic nor hang.
fn work(disk: &SimStorage, history: &History<BrokerEvent>, level: Durability, seed: u64, steps: usize) -> Result<()> {
    let mut work = Work::new(disk, history, level, seed)?;
    let done = (0..steps).try_for_each(|_| work.step());
    let _may_fail = (work.put(), work.maintain(), work.consume(), work.delete_records());
    done.and(work.broker.close())
}

pub(crate) fn crashes(level: Durability) {
    let workload = |seed| {
        move |disk: &SimStorage, history: &History<BrokerEvent>| {
            work(disk, history, level, seed, 25).expect("a disk that works");
        }
    };
    let check = |disk: &SimStorage, history: &_| check_broker(disk, history, Path::new(ROOT), options(level));
    if let Ok(line) = std::env::var("THALWEG_CRASH_REPLAY") {
        let replay: Replay = line.parse().expect("a line that a test printed");
        let report = explore(workload(replay.seed), check, &ExploreConfig::new(replay.seed).replay(replay));
        return report.assert_sound();
    }
    let mut budget = Budget::of(2, 60);
    let mut points = 0;
    while !budget.left().is_zero() {
        let seed = budget.seed;
        let config = ExploreConfig::new(seed).choices(4).nested(1).step(61).time(budget.left());
        let report = explore(workload(seed), check, &config);
        points += report.crashes;
        println!("broker, {report}");
        TOTAL.add(&report.hits, &report.counts);
        report.assert_sound();
        budget.seed += 1;
    }
    println!("broker, {level}: {points} crashes, seeds up to {}", budget.seed);
}

#[test]
fn a_power_loss_broker_survives_crashes() {
    TOTAL.part(|| crashes(Durability::PowerLoss));
}

#[test]
fn a_process_crash_broker_survives_crashes() {
    TOTAL.part(|| crashes(Durability::ProcessCrash));
}

#[test]
fn a_failing_operation_costs_a_broker_nothing_that_was_promised() {
    TOTAL.part(|| {
        let mut budget = Budget::of(2, 30);
        while !budget.left().is_zero() {
            let seed = budget.seed;
            let level = if seed.is_multiple_of(2) { Durability::ProcessCrash } else { Durability::PowerLoss };
            let workload = move |disk: &SimStorage, history: &History<BrokerEvent>| {
                let _may_fail = work(disk, history, level, seed, 12);
            };
            let check =
                move |disk: &SimStorage, history: &_| check_broker(disk, history, Path::new(ROOT), options(level));
            let config = SweepConfig::new(seed).step(61).time(budget.left());
            let report = sweep_errors(workload, check, &config);
            println!("broker, {report}");
            TOTAL.add(&report.hits, &report.failed);
            report.assert_sound();
            budget.seed += 1;
        }
    });
}

#[test]
fn power_does_not_bring_back_what_was_committed_in_a_deleted_topic() {
    let (disk, history, level) = (SimStorage::new(), History::default(), Durability::ProcessCrash);
    let open = |disk: &SimStorage| WatchedBroker::open(disk, &history, Path::new(ROOT), options(level));
    let fill = || -> Result<()> {
        let broker = open(&disk)?;
        let topic = broker.create("orders", 1, TopicConfig::new())?;
        broker.put(&topic.partition(0)?, ["one"], level)?;
        broker.commit("billing", &topic)?;
        broker.close()?;
        let broker = open(&disk)?;
        broker.delete(&broker.broker().topic("orders").open()?)?;
        broker.create("orders", 1, TopicConfig::new()).map(drop)
    };
    fill().expect("a disk that works");
    let broker = open(&disk.crash(Choice::Nothing)).expect("opens");
    let found = broker.broker().consumer_group("billing").all_committed().expect("a sound log");
    assert!(found.is_empty(), "{found:?}");
}

/// Two runs of one seed do the same to the disk, whatever ids they drew: a printed line makes the same crash again.
#[test]
fn a_seed_says_all_that_a_broker_does() {
    let run = |seed| {
        let (disk, history) = (SimStorage::new(), History::default());
        work(&disk, &history, Durability::PowerLoss, seed, 25).expect("a disk that works");
        disk.counts()
    };
    for seed in 1..6 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

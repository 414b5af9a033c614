//! A whole broker at work on a simulated disk: every kind of step that changes its directory, in an order that the seed
//! chooses.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thalweg::testing::{
    AfterFailedSync, BrokerEvent, Choice, Errno, ExploreConfig, Fault, History, Operation, Repeat, SimStorage,
    WatchedBroker, check_broker,
};
use thalweg::{
    Broker, BrokerBuilder, Durability, Error, ErrorKind, ManualClock, OnFull, OpenMode, Partition, RecordBatch, Result,
    Storage, Timestamp, Topic, TopicConfig,
};

use super::driver::{self, Budget, Dice, Subject, after_a_failed_sync, is_full};
use super::total::{Deed, TOTAL};
use super::{few_files, level_of};

const ROOT: &str = "data";
const TOPICS: [&str; 2] = ["events", "orders"];
const CONSUMER_OFFSETS: &str = "__consumer_offsets";
/// Kafka's bootstrap records, which are there from the first opening on.
const FIRST_SNAPSHOT: &str = "00000000000000000000-0000000000.checkpoint";
const NOW: Timestamp = Timestamp::new(1_700_000_000_000);

fn options(
    level: Durability,
    clock: ManualClock,
    few_files: Option<usize>,
) -> impl Fn(BrokerBuilder) -> BrokerBuilder + Clone {
    // The catalog writes a snapshot after a few changes.
    let snapshots = "metadata.log.max.record.bytes.between.snapshots";
    move |options| {
        let options = options.durability(level).clock(clock.clone()).config(snapshots, "1500");
        few_files.into_iter().fold(options, BrokerBuilder::max_open_files)
    }
}

struct Work<'a> {
    disk: &'a SimStorage,
    history: &'a History<BrokerEvent>,
    level: Durability,
    few_files: Option<usize>,
    dice: Dice,
    clock: ManualClock,
    broker: WatchedBroker,
    /// What an append does that its byte budget has no room for, where there is one now.
    on_full: Option<OnFull>,
    written: u64,
    /// How many of the faults that struck were its own.
    struck: u64,
    /// Files that were there after a step.
    seen: BTreeSet<PathBuf>,
}

impl<'a> Work<'a> {
    fn new(disk: &'a SimStorage, history: &'a History<BrokerEvent>, level: Durability, seed: u64) -> Result<Self> {
        let (clock, dice) = (ManualClock::new(NOW), Dice::new(seed));
        let few_files = few_files(seed);
        if few_files.is_some() {
            history.hit(Deed::FewFiles);
        }
        let options = options(level, clock.clone(), few_files);
        let (broker, on_full) = Self::open(disk, history, options, &dice)?;
        let (written, struck, seen) = Default::default();
        Ok(Self { disk, history, level, few_files, dice, clock, broker, on_full, written, struck, seen })
    }

    /// With a byte budget at times: it is a setting of the open broker, and the next one may have another.
    fn open(
        disk: &SimStorage,
        history: &History<BrokerEvent>,
        options: impl Fn(BrokerBuilder) -> BrokerBuilder,
        dice: &Dice,
    ) -> Result<(WatchedBroker, Option<OnFull>)> {
        // No less than a batch, and little enough for whole segments to go.
        let bytes = 600 + 500 * dice.below(3);
        let on_full = dice.one_of(&[OnFull::Reject, OnFull::Block(Duration::ZERO), OnFull::DropOldest]);
        let whose = dice.below(4);
        let broker = WatchedBroker::open(disk, history, Path::new(ROOT), |builder| {
            let builder = options(builder);
            match whose {
                0 => builder.byte_budget(bytes, on_full),
                1 => builder.topic_byte_budget(TOPICS[0], bytes, on_full),
                _ => builder,
            }
        })?;
        Ok((broker, (whose < 2).then_some(on_full)))
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
        let done = self.any_step();
        self.look_for_new_files();
        match (done, self.on_full) {
            (Err(e), Some(on_full)) if e.kind() == ErrorKind::StorageFull => self.make_room(on_full),
            (done, _) => done,
        }
    }

    fn any_step(&mut self) -> Result<()> {
        match self.dice.below(25) {
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
            19 | 20 => self.poison(),
            21 => self.poison_offsets(),
            22 => self.poison_catalog(),
            23 => self.poison_whole(Operation::SyncDir, Deed::DirectoryFailed, Self::put_into_new_segment),
            24 => self.poison_whole(Operation::Sync, Deed::StateFailed, Self::maintain),
            _ => self.reopen(),
        }
    }

    /// An append was refused: somebody deletes records.
    fn make_room(&mut self, on_full: OnFull) -> Result<()> {
        self.history.hit(if on_full == OnFull::Reject { Deed::Rejected } else { Deed::TimedOut });
        for partition in self.topic()?.partitions() {
            let end = partition.offsets()?.high_watermark;
            self.broker.delete_records(&partition, end)?;
        }
        Ok(())
    }

    /// Counts what was made beside batches. It is no operation of the disk.
    fn look_for_new_files(&mut self) {
        let disk = self.disk.crash(Choice::ProcessCrash);
        let list =
            |dir: PathBuf| disk.list(&dir).unwrap_or_default().into_iter().map(move |entry| dir.join(entry.name));
        for path in list(ROOT.into()).flat_map(list) {
            let deed = match path.extension().and_then(|ending| ending.to_str()) {
                Some("seal") => Deed::Sealed,
                Some("checkpoint") if !path.ends_with(FIRST_SNAPSHOT) => Deed::CatalogSnapshot,
                _ => continue,
            };
            if self.seen.insert(path) {
                self.history.hit(deed);
            }
        }
    }

    /// Does something in which a write or a sync fails; gives the error where it was that operation's.
    fn with_fault(&mut self, path: &str, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<Option<Error>> {
        let operation = self.dice.one_of(&[Operation::Sync, Operation::Write]);
        let deed = if operation == Operation::Sync { Deed::SyncFailed } else { Deed::WriteFailed };
        self.with_fault_on(operation, path, deed, act)
    }

    fn with_fault_on(
        &mut self,
        operation: Operation,
        path: &str,
        deed: Deed,
        act: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Option<Error>> {
        let after = after_a_failed_sync(&self.dice);
        let fault = Fault::new(Errno::Io, Repeat::Once).on(operation).path(path).leaves(after);
        self.disk.add_fault(fault.clone());
        let done = act(self);
        if self.disk.remove_fault(&fault) {
            // Something else failed before.
            return done.map(|()| None);
        }
        self.struck += 1;
        if done.is_err() {
            self.history.hit(deed);
        }
        Ok(done.err())
    }

    /// The open broker holds what it must; after another fault than its own nobody knows.
    fn verify(&self, after: &Error) -> Result<()> {
        // All that was acknowledged is to be visible.
        self.broker.maintain()?;
        let verified = self.broker.verify();
        assert!(verified.is_ok() || self.disk.struck() > self.struck, "after {after}, mended: {verified:?}");
        Ok(())
    }

    /// A partition fails and is mended while the broker goes on.
    fn poison(&mut self) -> Result<()> {
        let (partition, value) = (self.partition()?, self.value());
        let path = format!("{}/0", partition.topic_partition());
        let put = |work: &mut Self| work.broker.put(&partition, [value.as_str()], Durability::PowerLoss).map(drop);
        let Some(failed) = self.with_fault(&path, put)? else { return Ok(()) };
        self.broker.reopen(&partition)?;
        self.history.hit(Deed::PartitionMended);
        self.verify(&failed)?;
        let value = self.value();
        self.broker.put(&partition, [value.as_str()], self.some_level()).map(drop)
    }

    /// The same of the partition that holds what groups committed.
    fn poison_offsets(&mut self) -> Result<()> {
        let topic = self.topic()?;
        let commit = |work: &mut Self| work.broker.commit("billing", &topic);
        let Some(failed) = self.with_fault(&format!("{CONSUMER_OFFSETS}-0/0"), commit)? else { return Ok(()) };
        self.broker.reopen(&self.broker.broker().topic(CONSUMER_OFFSETS).open()?.partition(0)?)?;
        self.history.hit(Deed::OffsetsMended);
        self.verify(&failed)?;
        self.broker.commit("billing", &topic)
    }

    /// The catalog fails, and the broker is closed and opened again.
    fn poison_catalog(&mut self) -> Result<()> {
        let Some(failed) = self.with_fault("__cluster_metadata-0/0", Self::alter)? else { return Ok(()) };
        let refused = self.broker.broker().topic("refused").create().expect_err("a catalog that has failed");
        let is_told = refused.kind() == ErrorKind::Poisoned || self.disk.struck() > self.struck;
        assert!(is_told, "{refused}, after {failed}");
        let closed = self.broker.close();
        if self.disk.struck() > self.struck {
            // With another fault than its own even what has not failed may not have been written.
            closed?;
        }
        self.open_again()?;
        self.history.hit(Deed::CatalogMended);
        self.verify(&failed)?;
        self.alter()
    }

    /// A sync fails that all partitions depend on, and the broker is closed and opened again.
    fn poison_whole(&mut self, operation: Operation, deed: Deed, act: fn(&mut Self) -> Result<()>) -> Result<()> {
        let path = if operation == Operation::Sync { "thalweg.state" } else { ROOT };
        let Some(failed) = self.with_fault_on(operation, path, deed, act)? else { return Ok(()) };
        let closed = self.broker.close();
        if self.disk.struck() > self.struck {
            closed?;
        }
        self.open_again()?;
        self.verify(&failed)?;
        self.put()
    }

    /// A name of a new file is synced.
    fn put_into_new_segment(&mut self) -> Result<()> {
        let partition = self.partition()?;
        for _ in 0..4 {
            let value = format!("{} {}", self.value(), "x".repeat(240));
            self.broker.put(&partition, [value.as_str()], Durability::PowerLoss)?;
        }
        Ok(())
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
        // The others are short: all fit into the smallest segment.
        let values = [self.value(), "one".to_owned(), "another".to_owned()];
        let producer = self.broker.broker().producer().linger(Duration::from_secs(60)).build()?;
        let texts: Vec<_> = values.iter().map(String::as_str).collect();
        self.broker.append_by(&partition, &texts, || {
            let enqueue = |text: &&str| producer.enqueue(&topic, thalweg::Record::new(*text).partition(0)).map(drop);
            let sent = texts.iter().try_for_each(enqueue).and_then(|()| producer.flush());
            producer.close().and(sent)
        })?;
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
        let (topic, bytes) = (self.topic()?, (1 + self.dice.below(4)) * 500);
        let level = || topic.partition(0).map(|partition| partition.durability());
        let before = level()?;
        let (name, value) = match self.dice.below(6) {
            0 => ("retention.bytes", bytes.to_string()),
            1 => ("retention.ms", (bytes * 100).to_string()),
            2 => ("internal.segment.bytes", (200 + bytes).to_string()),
            _ => ("flush.messages", if before == Durability::PowerLoss { i64::MAX } else { 1 }.to_string()),
        };
        self.broker.alter(&topic, name, &value)?;
        match level()? {
            now if now < before => self.history.hit(Deed::LevelFell),
            now if now > before => self.history.hit(Deed::LevelRose),
            _ => {}
        }
        Ok(())
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
        self.open_again()
    }

    fn open_again(&mut self) -> Result<()> {
        let options = options(self.level, self.clock.clone(), self.few_files);
        (self.broker, self.on_full) = Self::open(self.disk, self.history, options, &self.dice)?;
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
            // A sync of theirs that fails is told to nobody: what it left to the cache alone counts as written.
            let append = || work.append_as_stock(&name.to_string(), offsets.end.get(), &theirs);
            work.disk.without_faults(append).map_err(thalweg_error)
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

/// A broker whose topics are of this level.
#[derive(Clone, Copy)]
struct BrokerAt(Durability);

impl Subject for BrokerAt {
    type Event = BrokerEvent;
    const FIRST: u64 = 0;

    fn work(self, disk: &SimStorage, history: &History<BrokerEvent>, seed: u64, steps: usize) -> Result<()> {
        let mut work = Work::new(disk, history, self.0, seed)?;
        let done = (0..steps).try_for_each(|_| work.step());
        let _may_fail = (work.put(), work.maintain(), work.consume(), work.delete_records());
        done.and(work.broker.close())
    }

    fn check(self, disk: &SimStorage, history: &History<BrokerEvent>, seed: u64) -> std::result::Result<(), String> {
        check_broker(disk, history, Path::new(ROOT), options(self.0, ManualClock::new(NOW), few_files(seed)))
    }
}

/// Every so many operations: fewer of many more workloads say more.
fn step() -> u64 {
    if is_full() { 61 } else { 307 }
}

fn crashes(level: Durability) {
    let thoroughness = |config: ExploreConfig| config.choices(4).nested(1).step(step());
    let what = format!("broker, {level}");
    TOTAL.part(|| driver::crashes(&what, BrokerAt(level), 25, Budget::of(8, 50), thoroughness));
}

#[test]
fn a_power_loss_broker_survives_crashes() {
    crashes(Durability::PowerLoss);
}

#[test]
fn a_process_crash_broker_survives_crashes() {
    crashes(Durability::ProcessCrash);
}

#[test]
fn a_failing_operation_costs_a_broker_nothing_that_was_promised() {
    let subject = |seed| BrokerAt(level_of(seed));
    TOTAL.part(|| driver::failing_operations("a broker", subject, 12, Budget::of(4, 8), 307));
}

#[test]
fn power_does_not_bring_back_what_was_committed_in_a_deleted_topic() {
    let (disk, history, level) = (SimStorage::new(), History::default(), Durability::ProcessCrash);
    let open = |disk: &SimStorage| {
        WatchedBroker::open(disk, &history, Path::new(ROOT), options(level, ManualClock::new(NOW), None))
    };
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

/// The catalog has no state of its own that would tell of a sync that failed: what only the cache holds is found sound.
#[test]
fn what_a_failed_sync_of_the_catalog_left_in_the_cache_is_written_before_it_is_built_upon() {
    for before in 0..8 {
        let (disk, level) = (SimStorage::new(), Durability::PowerLoss);
        let builder = || Broker::builder(ROOT).storage(disk.clone()).manual().durability(level);
        let broker = builder().open().expect("opens");
        let create = |name: &str| broker.topic(name).create();
        (0..before).for_each(|number| drop(create(&format!("topic-{number}")).expect("a disk that works")));
        let fault = Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path("__cluster_metadata-0/0");
        disk.add_fault(fault.leaves(AfterFailedSync::KeepsNew));
        create("in-doubt").expect_err("a sync that fails");
        drop(broker.close());
        let again = builder().open().expect("opens in the same boot");
        let found: Vec<_> = again.topics().expect("a catalog").iter().map(|topic| topic.name().to_owned()).collect();
        again.close().expect("closes");
        let left =
            Broker::builder(ROOT).storage(disk.crash(Choice::Nothing)).manual().open().expect("opens after that");
        let names: Vec<_> = left.topics().expect("a catalog").iter().map(|topic| topic.name().to_owned()).collect();
        assert_eq!(names, found, "after {before} topics");
    }
}

/// Two runs of one seed do the same to the disk, whatever ids they drew: a printed line makes the same crash again.
#[test]
fn a_seed_says_all_that_a_broker_does() {
    let run = |seed| {
        let (disk, history) = (SimStorage::new(), History::default());
        BrokerAt(Durability::PowerLoss).work(&disk, &history, seed, 25).expect("a disk that works");
        disk.counts()
    };
    for seed in 1..6 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

//! Producers at work on a simulated disk, and appends on a condition among them: batches that linger, fill up, are waited
//! for, flushed, closed or dropped with their producer. What a ticket promised is there, and nothing is twice or out of turn.

use std::collections::BTreeMap;
use std::time::Duration;

use thalweg::testing::{Entry, ExploreConfig, History, SimStorage};
use thalweg::{
    Broker, Codec, Durability, ErrorKind, ManualClock, Offset, Partition, Producer, Record, Result, Start, Ticket,
    Timestamp, TopicConfig,
};

use super::driver::{self, Budget, Dice, Subject, is_full};
use super::level_of;

const ROOT: &str = "data";
const TOPIC: &str = "t";
const PARTITIONS: u64 = 2;
const KEYS: u64 = 4;
const NOW: Timestamp = Timestamp::new(1_700_000_000_000);
const LINGER: Duration = Duration::from_millis(20);

/// Every record has a number, which is never given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// It is to go to this partition.
    Given { partition: i32, number: u64 },
    /// It is there, as durable as this.
    Kept { partition: i32, number: u64, offset: Offset, level: Durability },
}

fn open(disk: &SimStorage, level: Durability, clock: &ManualClock) -> Result<Broker> {
    let builder = Broker::builder(ROOT).storage(disk.clone()).clock(clock.clone()).durability(level).manual();
    builder.key_index(TOPIC, 1 << 20).open()
}

struct Work<'a> {
    disk: &'a SimStorage,
    history: &'a History<Event>,
    level: Durability,
    dice: Dice,
    clock: ManualClock,
    broker: Broker,
    producer: Producer,
    /// What its tickets promise.
    promised: Durability,
    given: u64,
    tickets: Vec<(i32, u64, Ticket)>,
    /// Those whose tickets were dropped: a flush answers for them.
    unasked: Vec<(i32, u64)>,
}

impl<'a> Work<'a> {
    fn new(disk: &'a SimStorage, history: &'a History<Event>, level: Durability, seed: u64) -> Result<Self> {
        let (clock, dice) = (ManualClock::new(NOW), Dice::new(seed));
        let broker = open(disk, level, &clock)?;
        let config = TopicConfig::new().set("internal.segment.bytes", "900")?.index_interval_bytes(100);
        broker.topic(TOPIC).partitions(PARTITIONS as u32).config(config).create()?;
        let (producer, promised) = Self::producer(&broker, level, &dice)?;
        let (given, tickets, unasked) = Default::default();
        Ok(Self { disk, history, level, dice, clock, broker, producer, promised, given, tickets, unasked })
    }

    /// Its batches hold a few records, and all its memory a few batches.
    fn producer(broker: &Broker, level: Durability, dice: &Dice) -> Result<(Producer, Durability)> {
        let builder = broker.producer().batch_size(dice.one_of(&[150, 400])).buffer_memory(8 << 10);
        let builder = builder.compression(dice.one_of(&[Codec::None, Codec::Lz4])).linger(LINGER);
        let own = dice.one_of(&[None, None, Some(Durability::ProcessCrash), Some(Durability::PowerLoss)]);
        let producer = match own {
            Some(own) => builder.durability(own).build(),
            None => builder.build(),
        };
        Ok((producer?, own.unwrap_or(level)))
    }

    fn partition(&self, number: i32) -> Result<Partition> {
        self.broker.topic(TOPIC).open()?.partition(number)
    }

    fn step(&mut self) -> Result<()> {
        match self.dice.below(16) {
            0..=5 => self.enqueue(),
            6 | 7 => self.wait_for_one(),
            8 => self.linger(),
            9 => self.ask(),
            10 => self.flush(),
            11 | 12 => self.append_on_condition(),
            13 => self.close(),
            14 => self.drop_producer(),
            _ => self.reopen(),
        }
    }

    /// Notes a record of some partition before it is given to anybody.
    fn next(&mut self) -> (i32, u64, Record) {
        let (partition, number) = (self.dice.below(PARTITIONS) as i32, self.given);
        self.given += 1;
        self.history.note(self.disk, Event::Given { partition, number });
        let padding = "x".repeat([0, 0, 20, 120][self.dice.below(4) as usize]);
        let key = self.dice.below(KEYS).to_string();
        (partition, number, Record::new(format!("{number} {padding}")).key(key).partition(partition))
    }

    fn kept(&self, (partition, number): (i32, u64), offset: Offset, level: Durability) {
        self.history.note(self.disk, Event::Kept { partition, number, offset, level });
    }

    fn enqueue(&mut self) -> Result<()> {
        for _ in 0..=self.dice.below(3) {
            let (partition, number, record) = self.next();
            let ticket = self.producer.enqueue(TOPIC, record)?;
            match self.dice.below(3) {
                0 => self.unasked.push((partition, number)),
                _ => self.tickets.push((partition, number, ticket)),
            }
        }
        Ok(())
    }

    fn wait_for_one(&mut self) -> Result<()> {
        if self.tickets.is_empty() {
            return Ok(());
        }
        let at = self.dice.below(self.tickets.len() as u64) as usize;
        let (partition, number, ticket) = self.tickets.remove(at);
        let found = ticket.wait()?;
        self.kept((partition, number), found.offset, self.promised);
        Ok(())
    }

    /// Their time comes, for all or for some.
    fn linger(&mut self) -> Result<()> {
        self.clock.advance(LINGER * self.dice.below(3) as u32 / 2);
        self.broker.run_maintenance()
    }

    /// Tickets that know by now.
    fn ask(&mut self) -> Result<()> {
        for (partition, number, mut ticket) in std::mem::take(&mut self.tickets) {
            match ticket.try_result() {
                Some(found) => self.kept((partition, number), found?.offset, self.promised),
                None => self.tickets.push((partition, number, ticket)),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.producer.flush()?;
        self.all_kept(self.promised)
    }

    /// Whatever was enqueued has an end that is known, and no ticket that was not asked has failed.
    fn all_kept(&mut self, level: Durability) -> Result<()> {
        for (partition, number, mut ticket) in std::mem::take(&mut self.tickets) {
            let found = ticket.try_result().expect("a flush ends when all is known");
            self.kept((partition, number), found?.offset, level);
        }
        for (partition, number) in std::mem::take(&mut self.unasked) {
            let places = found_in(&self.partition(partition)?)?;
            match places.iter().find(|(_, found, _)| *found == number) {
                Some((offset, ..)) => self.kept((partition, number), *offset, level),
                // What is less durable than its topic says is not shown, nor what a failing disk does not let be read.
                None => {
                    let is_excused = level < self.level || self.disk.struck() > 0;
                    assert!(is_excused, "a flush or a close vouched for {number}");
                }
            }
        }
        Ok(())
    }

    /// Others append beside the producer: where the partition ends, or behind the newest record of a key.
    fn append_on_condition(&mut self) -> Result<()> {
        // Else the numbers would be out of turn.
        self.flush()?;
        let (number, given, record) = self.next();
        let partition = self.partition(number)?;
        // And all be shown.
        partition.sync()?;
        let appended = if self.dice.below(2) == 0 {
            partition.append_records_if(partition.offsets()?.end, [record])?
        } else {
            let key = record.key_bytes().cloned().expect("it has one");
            let newest = newest(&found_in(&partition)?).get(&key[..]).copied();
            partition.append_records_if_key(&key, newest, [record])?
        };
        partition.wait(appended.position, self.level)?;
        self.kept((number, given), appended.base_offset, self.level);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.producer.close()?;
        self.all_kept(self.promised)?;
        self.another()
    }

    /// What it was given goes on by itself.
    fn drop_producer(&mut self) -> Result<()> {
        self.tickets.clear();
        self.unasked.clear();
        self.another()
    }

    fn another(&mut self) -> Result<()> {
        (self.producer, self.promised) = Self::producer(&self.broker, self.level, &self.dice)?;
        Ok(())
    }

    /// A close of the broker brings everything to the device.
    fn reopen(&mut self) -> Result<()> {
        self.broker.close()?;
        // The tickets tell nothing any more.
        let given = std::mem::take(&mut self.tickets).into_iter().map(|(partition, number, _)| (partition, number));
        self.unasked.extend(given);
        self.broker = open(self.disk, self.level, &self.clock)?;
        self.all_kept(Durability::PowerLoss)?;
        self.another()
    }
}

/// Offset, number and key of every record that a scan finds; it steps over damage.
fn found_in(partition: &Partition) -> Result<Vec<(Offset, u64, Vec<u8>)>> {
    let mut found = Vec::new();
    for record in partition.scan(Start::Earliest) {
        let record = match record {
            Err(e) if e.kind() == ErrorKind::Corrupt => continue,
            record => record?,
        };
        let text = String::from_utf8_lossy(record.value().expect("no tombstones")).into_owned();
        let number = text.split(' ').next().and_then(|number| number.parse().ok()).expect("it begins with one");
        found.push((record.offset(), number, record.key().expect("every one has a key").to_vec()));
    }
    Ok(found)
}

fn newest(found: &[(Offset, u64, Vec<u8>)]) -> BTreeMap<Vec<u8>, Offset> {
    found.iter().map(|(offset, _, key)| (key.clone(), *offset)).collect()
}

/// What is wrong with one partition, if nothing failed but what crashed.
fn judge(partition: &Partition, entries: &[Entry<Event>], is_whole: bool) -> std::result::Result<(), String> {
    let here = partition.topic_partition().partition().get();
    let found = found_in(partition).map_err(|e| e.to_string())?;
    let mut given = Vec::new();
    let power_was_cut = entries.iter().any(|entry| matches!(entry, Entry::Crash(choice) if choice.is_power_cut()));
    for entry in entries {
        let Entry::Event(event) = entry else { continue };
        match *event {
            Event::Given { partition, number } if partition == here => given.push(number),
            Event::Kept { partition, number, offset, level } if partition == here => {
                // From a failed sync on, a process crash may take what is less durable.
                let survives = is_whole && !power_was_cut;
                let is_due = level == Durability::PowerLoss || (level == Durability::ProcessCrash && survives);
                if is_due && !found.iter().any(|(at, what, _)| (*at, *what) == (offset, number)) {
                    return Err(format!("number {number}, acknowledged at offset {offset}, is not there"));
                }
            }
            _ => {}
        }
    }
    let numbers: Vec<_> = found.iter().map(|(_, number, _)| *number).collect();
    if !numbers.is_sorted_by(|a, b| a < b) || !numbers.iter().all(|number| given.contains(number)) {
        return Err(format!("out of turn, twice or never given: {numbers:?}"));
    }
    if is_whole && !given.starts_with(&numbers) {
        return Err(format!("a later record is there without an earlier one: {numbers:?} of {given:?}"));
    }
    // An index of keys that is built now says what a scan says.
    let newest = newest(&found);
    for key in (0..KEYS).map(|key| key.to_string()) {
        let never = Some(Offset::new(1 << 40));
        match partition.append_records_if_key(&key, never, [("never", "appended")]) {
            Err(e) if e.kind() == ErrorKind::Conflict && e.at_offset() == newest.get(key.as_bytes()).copied() => {}
            // Damage may hide a record of it.
            Err(e) if e.kind() == ErrorKind::Corrupt && !is_whole => {}
            other => return Err(format!("key {key} is at {:?}, but {other:?}", newest.get(key.as_bytes()))),
        }
    }
    Ok(())
}

/// Producers of a topic of this level.
#[derive(Clone, Copy)]
struct Producers {
    level: Durability,
    /// Operations fail: a batch may be refused, and later ones taken.
    may_fail: bool,
}

impl Subject for Producers {
    type Event = Event;
    const FIRST: u64 = 0;

    fn work(self, disk: &SimStorage, history: &History<Event>, seed: u64, steps: usize) -> Result<()> {
        let mut work = Work::new(disk, history, self.level, seed)?;
        let done = (0..steps).try_for_each(|_| work.step());
        let _may_fail = (work.enqueue(), work.producer.close(), work.broker.run_maintenance());
        done.and(work.broker.close())
    }

    fn check(self, disk: &SimStorage, history: &History<Event>, _: u64) -> std::result::Result<(), String> {
        let at = |what: &'static str| move |e: thalweg::Error| format!("{what}: {e}");
        let entries = history.entries();
        let is_lossy = self.level != Durability::PowerLoss
            && entries.iter().any(|entry| matches!(entry, Entry::Crash(choice) if choice.is_power_cut()));
        for opening in ["after the crash", "after a close"] {
            let broker = open(disk, self.level, &ManualClock::new(NOW)).map_err(at(opening))?;
            match broker.topic(TOPIC).open() {
                // The crash came before it was made.
                Err(e) if e.kind() == ErrorKind::UnknownTopicOrPartition && !has_any(&entries) => {}
                topic => {
                    for partition in topic.map_err(at(opening))?.partitions() {
                        judge(&partition, &entries, !self.may_fail && !is_lossy)
                            .map_err(|wrong| format!("{opening}, {}: {wrong}", partition.topic_partition()))?;
                    }
                }
            }
            broker.close().map_err(at(opening))?;
        }
        Ok(())
    }
}

fn has_any(entries: &[Entry<Event>]) -> bool {
    entries.iter().any(|entry| matches!(entry, Entry::Event(_)))
}

/// Every so many operations: fewer of many more workloads say more.
fn crashes(level: Durability) {
    let step = if is_full() { 31 } else { 149 };
    let thoroughness = |config: ExploreConfig| config.choices(4).nested(1).step(step);
    let subject = Producers { level, may_fail: false };
    driver::crashes(&format!("producers, {level}"), subject, 25, Budget::of(4, 24), thoroughness);
}

#[test]
fn power_loss_producers_survive_crashes() {
    crashes(Durability::PowerLoss);
}

#[test]
fn process_crash_producers_survive_crashes() {
    crashes(Durability::ProcessCrash);
}

#[test]
fn a_failing_operation_costs_a_producer_nothing_that_was_promised() {
    let subject = |seed| Producers { level: level_of(seed), may_fail: true };
    driver::failing_operations("producers", subject, 12, Budget::of(2, 6), 97);
}

#[test]
fn a_seed_says_all_that_producers_do() {
    let run = |seed| {
        let (disk, history) = (SimStorage::new(), History::default());
        let subject = Producers { level: Durability::PowerLoss, may_fail: false };
        subject.work(&disk, &history, seed, 25).expect("a disk that works");
        (disk.counts(), history.entries())
    };
    for seed in 1..6 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

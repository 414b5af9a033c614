//! The worker: eight writers that share syncs, one that reads what becomes visible, and one that moves log starts,
//! commits offsets and makes and deletes topics. Each says in a line of its own what was acknowledged.

use std::io::Write as _;
use std::path::Path;

use thalweg::{Broker, Durability, ErrorKind, Record, Result, Start, Topic};

use super::book::{STRONG, WEAK, id_of, value};
use super::{Boot, Dice};

const WRITERS: u64 = 8;
pub(crate) const PARTITIONS: u32 = 2;

/// One write per line: the parent must not see half of one.
fn say(line: &str) {
    // A parent that has seen enough reads no more.
    let _may_be_closed = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}

/// Works until it is killed or its disk is gone; then it waits for the end.
pub(crate) fn work(dir: &Path, boot: Boot, seed: u64) {
    std::panic::set_hook(Box::new(|panic| say(&format!("wrong {}", panic.to_string().replace('\n', " ")))));
    if let Err(error) = open_and_work(dir, boot, seed) {
        say(&format!("failed {error}"));
    }
    // Until the parent goes or kills.
    let _ends = std::io::stdin().lines().count();
}

fn open_and_work(dir: &Path, boot: Boot, seed: u64) -> Result<()> {
    let broker = Broker::builder(dir).storage(boot).open()?;
    say("open");
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let broker = &broker;
            scope.spawn(move || {
                if let Err(error) = write(broker, seed, writer) {
                    say(&format!("failed {error}"));
                }
            });
        }
        for name in [STRONG, WEAK] {
            let topic = broker.topic(name).open();
            scope.spawn(move || topic.and_then(|topic| read(&topic)));
        }
        if let Err(error) = administer(&broker, &mut Dice::new(seed)) {
            say(&format!("failed {error}"));
        }
    });
    Ok(())
}

fn letter(level: Durability) -> char {
    if level == Durability::PowerLoss { 'P' } else { 'C' }
}

/// Appends and waits; mostly at the topic's level.
fn write(broker: &Broker, seed: u64, writer: u64) -> Result<()> {
    let mut dice = Dice::new(seed ^ writer << 40);
    for number in 0.. {
        let topic = broker.topic(if dice.below(3) == 0 { WEAK } else { STRONG }).open()?;
        let partition = topic.partition(dice.below(PARTITIONS.into()) as i32)?;
        let level = match dice.below(6) {
            0 => Durability::ProcessCrash,
            1 => Durability::PowerLoss,
            _ => partition.durability(),
        };
        let padding = [0, 50, 900, 30_000][dice.below(4) as usize];
        let count = 1 + dice.below(3);
        let values: Vec<_> =
            (0..count).map(|part| value(&format!("{seed}.{writer}.{number}.{part}"), padding)).collect();
        let appended = partition.append_records(values.iter().map(String::as_str))?;
        partition.wait(appended.position, level)?;
        let name = partition.topic_partition();
        for (value, offset) in values.iter().zip(appended.base_offset.get()..) {
            let id = id_of(value.as_bytes()).unwrap_or_default();
            say(&format!("acknowledged {} {} {offset} {} {id}", name.topic(), name.partition(), letter(level)));
        }
    }
    Ok(())
}

/// What is visible survives what the topic survives.
fn read(topic: &Topic) -> Result<()> {
    let level = topic.partition(0)?.durability();
    for record in topic.tail(Start::Latest) {
        let record = match record {
            Err(error) if error.kind() == ErrorKind::Overtaken => continue,
            record => record?,
        };
        let value = record.value().unwrap_or_default();
        match id_of(value) {
            Some(id) => say(&format!(
                "acknowledged {} {} {} {} {id}",
                record.topic(),
                record.partition(),
                record.offset(),
                letter(level)
            )),
            None => say(&format!("wrong record at {} {}", record.topic_partition(), record.offset())),
        }
    }
    Ok(())
}

fn administer(broker: &Broker, dice: &mut Dice) -> Result<()> {
    loop {
        match dice.below(8) {
            0..=3 => commit(broker)?,
            4..=6 => advance(broker, dice)?,
            _ => come_and_go(broker, dice)?,
        }
    }
}

fn commit(broker: &Broker) -> Result<()> {
    let group = broker.consumer_group("readers");
    group.reset([STRONG], Start::Latest)?;
    for (at, committed) in group.all_committed()? {
        say(&format!("committed {} {} {}", at.topic(), at.partition(), committed.offset()));
    }
    Ok(())
}

fn advance(broker: &Broker, dice: &mut Dice) -> Result<()> {
    let topic = broker.topic(if dice.below(2) == 0 { WEAK } else { STRONG }).open()?;
    let partition = topic.partition(dice.below(PARTITIONS.into()) as i32)?;
    let (offsets, number) = (partition.offsets()?, partition.topic_partition().partition());
    let to = (offsets.high_watermark.get() - dice.below(300) as i64).max(offsets.log_start.get());
    say(&format!("advancing {} {number} {to}", topic.name()));
    let start = partition.delete_records(to)?;
    say(&format!("advanced {} {number} {start}", topic.name()));
    Ok(())
}

/// A topic with one record, and mostly the end of it.
fn come_and_go(broker: &Broker, dice: &mut Dice) -> Result<()> {
    let name = format!("brief-{}", dice.below(6));
    if let Ok(topic) = broker.topic(name.as_str()).open() {
        say(&format!("deleting {name}"));
        topic.delete()?;
        say(&format!("deleted {name}"));
    } else {
        say(&format!("creating {name}"));
        let topic = broker.topic(name.as_str()).create()?;
        say(&format!("created {name} {}", topic.id()));
        topic.send(Record::new("brief"))?;
        say(&format!("filled {name} {}", topic.id()));
    }
    Ok(())
}

//! What was acknowledged, over all deaths of a directory's workers, and the comparison with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use thalweg::{Broker, Durability, FindingKind, Offset, Start, TopicPartition};

/// A topic of `PowerLoss` and one of `ProcessCrash`.
pub(crate) const STRONG: &str = "strong";
pub(crate) const WEAK: &str = "weak";

/// A record that says itself whether it is whole: a name, padding, and a checksum of both.
pub(crate) fn value(id: &str, padding: usize) -> String {
    let text = format!("{id} {}", "x".repeat(padding));
    format!("{text} {:08x}", checksum(text.as_bytes()))
}

/// The name of a whole record.
pub(crate) fn id_of(value: &[u8]) -> Option<&str> {
    let (text, sum) = std::str::from_utf8(value).ok()?.rsplit_once(' ')?;
    (sum == format!("{:08x}", checksum(text.as_bytes()))).then(|| text.split(' ').next())?
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, &byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[derive(Debug)]
struct Known {
    id: String,
    /// The strongest level at which it was acknowledged or shown; `None` once it was lost as it may be.
    level: Durability,
}

#[derive(Debug, Default)]
struct Log {
    known: BTreeMap<i64, Known>,
    /// Where it was said to begin, and up to where it may.
    start: i64,
    start_max: i64,
    /// What the group has committed.
    committed: Option<i64>,
    /// Above every offset that was acknowledged or shown.
    end: i64,
}

/// What is known of a topic that comes and goes.
#[derive(Debug, Default, PartialEq, Eq)]
enum Brief {
    #[default]
    Absent,
    /// Its making or its end was begun and not acknowledged.
    Unsure,
    There {
        id: String,
        filled: bool,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    logs: BTreeMap<(String, i32), Log>,
    brief: BTreeMap<String, Brief>,
    /// Acknowledgements that were entered.
    pub(crate) acknowledged: u64,
    /// Comparisons after a death.
    pub(crate) deaths: u64,
}

/// What died since the book was last compared.
#[allow(dead_code, reason = "not every test cuts the power")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    Process,
    Machine,
}

impl Book {
    /// A directory with the topics that workers use.
    pub(crate) fn begin(dir: &Path, boot: u64) -> thalweg::Result<Self> {
        let broker = open(dir, boot)?;
        for (name, level) in [(STRONG, Durability::PowerLoss), (WEAK, Durability::ProcessCrash)] {
            // The smallest that Kafka allows, so that segments roll.
            let topic = broker.topic(name).partitions(super::worker::PARTITIONS).durability(level);
            topic.set("segment.bytes", "1048576").create()?;
        }
        broker.close()?;
        Ok(Self::default())
    }

    /// Enters what a worker said.
    pub(crate) fn enter(&mut self, lines: &[String]) -> Result<(), String> {
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["acknowledged", topic, partition, offset, level, id] => {
                    self.acknowledged += 1;
                    let (offset, level) = (natural(offset)?, super::level_of(level));
                    let log = self.log(topic, partition)?;
                    log.learn(offset, id, level).map_err(|wrong| format!("{topic}-{partition}: {wrong}, it says"))?;
                }
                ["advancing", topic, partition, to] => {
                    let log = self.log(topic, partition)?;
                    log.start_max = log.start_max.max(natural(to)?);
                }
                ["advanced", topic, partition, start] => self.log(topic, partition)?.start = natural(start)?,
                ["committed", topic, partition, offset] => {
                    self.log(topic, partition)?.committed = Some(natural(offset)?);
                }
                ["creating" | "deleting", name] => drop(self.brief.insert(name.into(), Brief::Unsure)),
                ["created", name, id] => {
                    self.brief.insert(name.into(), Brief::There { id: id.into(), filled: false });
                }
                ["filled", name, id] => {
                    self.brief.insert(name.into(), Brief::There { id: id.into(), filled: true });
                }
                ["deleted", name] => drop(self.brief.insert(name.into(), Brief::Absent)),
                // What the test harness says, and errors of a disk that is gone.
                _ => {}
            }
        }
        Ok(())
    }

    /// Enters what a worker said when it may not have been so any more: what it had begun.
    #[allow(dead_code, reason = "not every test cuts the power")]
    pub(crate) fn enter_begun(&mut self, lines: &[String]) -> Result<(), String> {
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["advancing", ..] => self.enter(std::slice::from_ref(line))?,
                ["creating" | "created" | "filled" | "deleting" | "deleted", name, ..] => {
                    self.brief.insert(name.into(), Brief::Unsure);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn log(&mut self, topic: &str, partition: &str) -> Result<&mut Log, String> {
        let partition = natural(partition)? as i32;
        Ok(self.logs.entry((topic.to_owned(), partition)).or_default())
    }

    /// Opens the directory and compares; `close` ends that in order, otherwise the broker is dropped.
    pub(crate) fn compare(&mut self, dir: &Path, boot: u64, death: Death, close: bool) -> Result<(), String> {
        self.deaths += 1;
        let broker = open(dir, boot).map_err(|e| format!("it does not open: {e}"))?;
        let told = |broker: &Broker| -> Vec<String> {
            let bad = [FindingKind::Damaged, FindingKind::Lost, FindingKind::ForeignWriter, FindingKind::Corrected];
            let bad = broker.findings().into_iter().filter(|found| bad.contains(&found.kind)).map(|f| f.to_string());
            bad.collect()
        };
        for ((topic, partition), log) in &mut self.logs {
            let at = TopicPartition::new(topic.as_str(), *partition);
            log.compare(&broker, &at, death).map_err(|wrong| format!("{at}: {wrong}; {:?}", broker.findings()))?;
        }
        self.compare_topics(&broker)?;
        if !told(&broker).is_empty() {
            return Err(format!("it was damaged: {:?}", told(&broker)));
        }
        if close {
            broker.close().map_err(|e| format!("it does not close: {e}"))?;
            // All that is there is synced.
            let known = self.logs.values_mut().flat_map(|log| log.known.values_mut());
            known
                .filter(|record| record.level > Durability::None)
                .for_each(|record| record.level = Durability::PowerLoss);
            let broker = open(dir, boot).map_err(|e| format!("it does not open again: {e}"))?;
            let found = broker.findings().into_iter().find(|found| found.kind != FindingKind::FileSystem);
            if let Some(found) = found {
                return Err(format!("a second open finds {found:?}"));
            }
        }
        Ok(())
    }

    fn compare_topics(&mut self, broker: &Broker) -> Result<(), String> {
        let topics = broker.topics().map_err(|e| e.to_string())?;
        let there: BTreeMap<_, _> = topics.iter().map(|topic| (topic.name().to_owned(), topic)).collect();
        let strangers: BTreeSet<_> = there.keys().filter(|name| name.starts_with("brief-")).cloned().collect();
        for name in strangers {
            self.brief.entry(name).or_default();
        }
        for (name, known) in &mut self.brief {
            match (&*known, there.get(name)) {
                (Brief::Absent, Some(topic)) => {
                    return Err(format!("topic {name}, {}, was deleted or never made, and is there", topic.id()));
                }
                (Brief::There { id, .. }, None) => return Err(format!("topic {name}, {id}, is gone")),
                (Brief::There { id, filled }, Some(topic)) => {
                    if *id != topic.id().to_string() {
                        return Err(format!("topic {name}, {id}, is another, {}", topic.id()));
                    }
                    let records = topic.scan(Start::Earliest).filter(Result::is_ok).count();
                    if records > 1 || (*filled && records == 0) {
                        return Err(format!("topic {name}, {id}, has {records} records"));
                    }
                }
                (Brief::Unsure, Some(topic)) => *known = Brief::There { id: topic.id().to_string(), filled: false },
                (Brief::Unsure | Brief::Absent, None) => *known = Brief::Absent,
            }
        }
        Ok(())
    }
}

impl Log {
    fn learn(&mut self, offset: i64, id: &str, level: Durability) -> Result<(), String> {
        let known = self.known.entry(offset).or_insert_with(|| Known { id: id.to_owned(), level });
        if known.id != id {
            return Err(format!("offset {offset} named {} and now names {id}", known.id));
        }
        known.level = known.level.max(level);
        self.end = self.end.max(offset + 1);
        Ok(())
    }

    fn compare(&mut self, broker: &Broker, at: &TopicPartition, death: Death) -> Result<(), String> {
        let partition = broker.topic(at.topic()).open().and_then(|topic| topic.partition(at.partition()));
        let partition = partition.map_err(|e| e.to_string())?;
        let offsets = partition.offsets().map_err(|e| e.to_string())?;
        let (start, end) = (offsets.log_start.get(), offsets.end.get());
        let survives = |level| match death {
            Death::Process => level >= Durability::ProcessCrash,
            Death::Machine => level == Durability::PowerLoss,
        };
        // Above what was lost in order, where the first segment begins that is there.
        let allowed = self.start_max.max(self.start);
        let keeps_to = |offset: i64| !self.known.range(allowed..offset).any(|(_, known)| survives(known.level));
        if start < self.start || (start > allowed && !keeps_to(start)) {
            return Err(format!("begins at {start}, was at {} and at most {}", self.start, self.start_max));
        }
        (self.start, self.start_max) = (start, start);
        if end < self.end {
            return Err(format!("ends at {end}, offsets up to {} were acknowledged or shown", self.end));
        }
        self.known = self.known.split_off(&start);
        let mut found = BTreeMap::new();
        for record in partition.scan(Start::Earliest) {
            let record = record.map_err(|e| e.to_string())?;
            let (offset, value) = (record.offset().get(), record.value().unwrap_or_default());
            let id = id_of(value).ok_or_else(|| format!("the record at {offset} is garbled"))?;
            if found.insert(offset, id.to_owned()).is_some() {
                return Err(format!("offset {offset} comes twice"));
            }
        }
        for (offset, known) in &mut self.known {
            match found.get(offset) {
                Some(id) if *id != known.id => {
                    return Err(format!("offset {offset} named {} and now names {id}", known.id));
                }
                None if survives(known.level) => {
                    return Err(format!("{} at offset {offset}, acknowledged at {}, is lost", known.id, known.level));
                }
                // Lost as it may be; still nothing else may have its offset.
                None => known.level = Durability::None,
                _ => {}
            }
        }
        // What is shown now was never acknowledged at a level; on a topic that survives power cuts it does too.
        let level = partition.durability();
        for (offset, id) in found {
            self.learn(offset, &id, level)?;
        }
        self.end = self.end.max(offsets.high_watermark.get());
        let committed = broker.consumer_group("readers").committed(at).map_err(|e| e.to_string())?;
        let committed = committed.map(|committed| committed.offset());
        if committed < self.committed.map(Offset::new) {
            return Err(format!("the group had committed {:?}, and now {committed:?}", self.committed));
        }
        Ok(())
    }
}

fn open(dir: &Path, boot: u64) -> thalweg::Result<Broker> {
    Broker::builder(dir).storage(super::Boot(boot)).open()
}

fn natural(word: &str) -> Result<i64, String> {
    word.parse().map_err(|_| format!("{word:?} is no number"))
}

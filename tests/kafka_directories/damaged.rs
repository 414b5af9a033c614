//! Damaged copies of Kafka's directories: no wrong record is served, every sound one is, an append reuses no offset,
//! and what is missing is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use thalweg::{Broker, Partition, Start};

use crate::answers::{PartitionAnswer, RecordAnswer};
use crate::compare::{self, Ends, difference, isolation};
use crate::damage::{CASES, Harm, Victim, files, noise, write};
use crate::fixture::Fixture;

/// Topics that take one case each per opening: one or several segments, compressed or not, in one epoch or more.
const VICTIMS: [&str; 5] = ["codecs", "by-size", "by-age", "by-index", "times"];

#[test]
fn killed() {
    withstands("kafka-4.3.0-killed", false);
}

/// The marker says that all is well: padded indexes, and whatever the case did, must not be believed for it.
#[test]
fn killed_with_a_marker() {
    withstands("kafka-4.3.0-tv0-killed", true);
}

#[test]
fn stopped_with_its_marker() {
    withstands("kafka-3.9.2-stopped", true);
}

#[test]
fn stopped_but_the_marker_is_gone() {
    withstands("kafka-4.3.0-tv0-stopped", false);
}

/// Every case on some topic; which one differs from fixture to fixture.
fn withstands(name: &'static str, marker: bool) {
    let fixture = Fixture::load(name);
    let turn = name.len() + usize::from(marker);
    let mut failures = Vec::new();
    for cases in CASES.chunks(VICTIMS.len()) {
        let dir = fixture.copy();
        set_marker(dir.path(), marker);
        let mut patients = Vec::new();
        for (i, (case, damage)) in cases.iter().enumerate() {
            // A case that its topic cannot have goes to the next one.
            let free = (0..VICTIMS.len()).map(|k| VICTIMS[(i + turn + k) % VICTIMS.len()]);
            let taken: BTreeSet<_> = patients.iter().map(|p: &Patient<'_>| p.topic).collect();
            let (topic, harm) = free
                .filter(|topic| !taken.contains(topic))
                .find_map(|topic| Some((topic, damage(&Victim::of(dir.path(), topic))?)))
                .unwrap_or_else(|| panic!("{case} fits no topic"));
            let answer = &fixture.answers.topics[topic].partitions[0];
            patients.push(Patient {
                case,
                topic,
                harm,
                answer,
                appended: BTreeSet::new(),
                told: BTreeSet::new(),
                failures: Vec::new(),
            });
        }
        for round in ["first", "second"] {
            let broker = Broker::open(dir.path()).unwrap_or_else(|e| panic!("{name}, {round} open: {e}"));
            for patient in &mut patients {
                patient.examine(&broker, round);
            }
            for sound in ["shapes", "trimmed"] {
                let partition = broker.topic(sound).open().and_then(|topic| topic.partition(0)).expect("a partition");
                compare::check_partition(&partition, &fixture.answers.topics[sound].partitions[0]);
            }
            broker.close().unwrap_or_else(|e| panic!("{name} does not close: {e}"));
        }
        for patient in patients {
            let place = format!("{} of {name}, {}", patient.topic, patient.case);
            failures.extend(patient.failures.into_iter().map(|failure| format!("{place}: {failure}")));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn set_marker(dir: &Path, present: bool) {
    let marker = dir.join(".kafka_cleanshutdown");
    match (present, marker.exists()) {
        (true, false) => write(&marker, br#"{"version":0,"brokerEpoch":-1}"#),
        (false, true) => fs::remove_file(marker).expect("the marker can go"),
        _ => {}
    }
}

/// A damaged partition 0 and what it showed so far.
struct Patient<'a> {
    case: &'a str,
    topic: &'a str,
    harm: Harm,
    answer: &'a PartitionAnswer,
    /// Lost offsets that a finding was about.
    told: BTreeSet<i64>,
    /// Offsets of our own records.
    appended: BTreeSet<i64>,
    failures: Vec<String>,
}

impl Patient<'_> {
    fn examine(&mut self, broker: &Broker, round: &str) {
        let failures = match broker.topic(self.topic).open().and_then(|topic| topic.partition(0)) {
            Ok(partition) => {
                let mut failures = Vec::new();
                for committed in [false, true] {
                    failures.extend(self.reads(&partition, committed, broker));
                }
                failures.extend(self.appends(&partition).err());
                failures
            }
            Err(error) => vec![error.to_string()],
        };
        self.failures.extend(failures.into_iter().map(|failure| format!("{round} open: {failure}")));
    }

    /// No wrong record, every sound one, and each missing one told by an error in its place or by a finding.
    fn reads(&mut self, partition: &Partition, committed: bool, broker: &Broker) -> Vec<String> {
        let mut failures = Vec::new();
        let mut wanted: BTreeMap<i64, &RecordAnswer> = self.answer.records.iter().map(|r| (r.offset, r)).collect();
        let mut ours = self.appended.clone();
        let mut told = BTreeSet::new();
        let (mut next, mut untold_from) = (self.answer.earliest, None);
        for item in partition.scan(Start::Earliest).isolation(isolation(committed)) {
            match item {
                Err(error) => {
                    untold_from.get_or_insert((next, error.to_string()));
                }
                Ok(record) => {
                    let offset = record.offset().get();
                    if let Some((from, _)) = untold_from.take() {
                        told.extend(from..offset);
                    }
                    if offset < next {
                        failures.push(format!("offset {offset} after {next}"));
                    }
                    next = offset + 1;
                    if ours.remove(&offset) && record.value() == Some(b"ours") {
                        continue;
                    }
                    match wanted.remove(&offset) {
                        None => failures.push(format!("Kafka had no record at {offset}: {record:?}")),
                        Some(wanted) if committed && !wanted.committed => {
                            failures.push(format!("Kafka shows nobody who reads committed {record:?}"));
                        }
                        Some(wanted) => failures.extend(difference(&record, wanted)),
                    }
                }
            }
        }
        let found = broker.findings();
        let about_it = found.iter().filter(|finding| finding.partition.as_ref() == Some(partition.topic_partition()));
        let lost = self.harm.lost.clone();
        for finding in about_it.clone() {
            // An end that was cut off, and whose offsets nothing tells, is told once: when it is cut.
            let offsets = finding.offsets.as_ref().map_or(lost.clone(), |o| o.start.get()..o.end.get());
            self.told.extend(lost.clone().filter(|offset| offsets.contains(offset)));
        }
        let told_to_the_end = untold_from.as_ref().map_or(i64::MAX, |(from, _)| *from);
        failures.extend(ours.iter().map(|offset| format!("our own record at {offset} is not served")));
        let seen = wanted.into_values().filter(|record| record.committed || !committed).map(|record| record.offset);
        let (lost, sound): (Vec<_>, Vec<_>) = seen.partition(|offset| self.harm.lost.contains(offset));
        if !sound.is_empty() {
            let error = untold_from.as_ref().map(|(from, error)| format!("{error} at {from}"));
            failures.push(format!("the sound records at {sound:?} are not served; last error: {error:?}"));
        }
        let is_told = |offset: &i64| told.contains(offset) || *offset >= told_to_the_end || self.told.contains(offset);
        let untold: Vec<_> = lost.into_iter().filter(|offset| !is_told(offset)).collect();
        if !untold.is_empty() {
            failures
                .push(format!("nobody tells that {untold:?} are missing; found: {:?}", about_it.collect::<Vec<_>>()));
        }
        failures
    }

    fn appends(&mut self, partition: &Partition) -> Result<(), String> {
        let known = self.appended.last().map_or(self.harm.known, |last| last + 1);
        let appended = partition.append_records([("k", "ours")]).map_err(|e| format!("append: {e}"))?;
        partition.wait(appended.position, partition.durability()).map_err(|e| format!("wait: {e}"))?;
        let offset = appended.base_offset.get();
        self.appended.insert(offset);
        if offset < known {
            return Err(format!("the next append gets {offset}, everything below {known} may be known"));
        }
        let found = partition.scan(appended.base_offset).next();
        match found {
            Some(Ok(record)) if record.offset() == appended.base_offset => Ok(()),
            other => Err(format!("our record at {offset} is not readable at once: {other:?}")),
        }
    }
}

/// Puts something else in place of a file, given what it held and what another partition's file holds.
type Wrong = fn(&Path, &[u8], &[u8]);

/// Every derived file in every partition: missing, cut, padded, nonsense, another partition's. All answers stay Kafka's.
#[test]
fn derived_files_are_not_believed() {
    const KINDS: [&str; 5] = ["index", "timeindex", "txnindex", "snapshot", "leader-epoch-checkpoint"];
    const WRONGS: [Wrong; 6] = [
        |path, _, _| fs::remove_file(path).expect("a file can go"),
        |path, own, _| write(path, &own[..own.len() / 2]),
        |path, own, _| write(path, &[own, &[0; 4096]].concat()),
        |path, own, _| write(path, &noise(own.len().max(240))),
        |path, _, _| write(path, &[0x7f; 24]),
        |path, _, others| write(path, others),
    ];
    for (turn, (name, marker)) in [
        ("kafka-4.3.0-killed", false),
        ("kafka-4.3.0-tv0-killed", true),
        ("kafka-3.9.2-stopped", true),
        ("kafka-4.3.0-tv0-stopped", false),
    ]
    .into_iter()
    .enumerate()
    {
        let fixture = Fixture::load(name);
        for round in 0..WRONGS.len() {
            let dir = fixture.copy();
            set_marker(dir.path(), marker);
            let mut changed = 0;
            let mut others = [const { Vec::new() }; KINDS.len()];
            let partitions = files(dir.path()).filter(|path| path.is_dir());
            for (p, partition) in partitions.filter(|path| !name_of(path).starts_with("__")).enumerate() {
                for path in files(&partition).filter(|path| path.is_file()) {
                    let name = name_of(&path);
                    let kind = KINDS.iter().position(|kind| name == *kind || name.ends_with(&format!(".{kind}")));
                    let Some(kind) = kind else { continue };
                    let own = fs::read(&path).expect("a file");
                    WRONGS[(p + kind + round + turn) % WRONGS.len()](&path, &own, &others[kind]);
                    others[kind] = own;
                    changed += 1;
                }
            }
            assert!(changed > 50, "{name} has derived files");
            eprintln!("{name}, round {round}");
            let mut ends = Ends::new();
            for _ in 0..2 {
                let broker = Broker::open(dir.path()).unwrap_or_else(|e| panic!("{name}, round {round}: {e}"));
                compare::check_but_for_skipped(&broker, &fixture.answers, &mut ends);
                broker.close().unwrap_or_else(|e| panic!("{name}, round {round} does not close: {e}"));
            }
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

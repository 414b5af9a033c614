//! Derived files that another program left: whatever they hold, readers see what the batches say.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::clock::ManualClock;
use crate::finding::{Finding, FindingKind};
use crate::record::{EndMarker, TxnOutcome};
use crate::storage::{MemoryStorage, OpenMode, read_file};
use crate::types::ProducerId;

const T: i64 = 1_700_000_000_000;
const DIR: &str = "data/t-0";

/// A partition's directory as bytes.
type Files = Vec<(String, Vec<u8>)>;

fn config() -> LogConfig {
    LogConfig::default().segment_bytes(700).index_interval_bytes(100)
}

fn files_of(storage: &dyn Storage) -> Files {
    let read = |name: String| {
        let bytes = read_file(storage, &Path::new(DIR).join(&name), u64::MAX).unwrap().unwrap();
        (name, bytes)
    };
    let mut files: Files = storage.list(Path::new(DIR)).unwrap().into_iter().map(|e| read(e.name)).collect();
    files.sort();
    files
}

fn is_derived(name: &str) -> bool {
    !name.ends_with(".log")
}

/// A directory that another program stopped in good order at `end`.
struct Foreign {
    storage: Arc<MemoryStorage>,
    findings: Arc<Findings>,
    end: Offset,
}

impl Foreign {
    fn of(files: &Files, end: Offset) -> Self {
        let storage = MemoryStorage::default();
        for dir in ["data", DIR] {
            storage.create_dir(Path::new(dir)).unwrap();
        }
        for (name, bytes) in files {
            let file = storage.open(&Path::new(DIR).join(name), OpenMode::CreateNew).unwrap();
            file.write_all_at(bytes, 0).unwrap();
        }
        Self { storage: Arc::new(storage), findings: Arc::default(), end }
    }

    fn open(&self) -> Log {
        self.open_with("data/log.state").unwrap()
    }

    fn open_with(&self, state: &str) -> Result<Log> {
        let storage: Arc<dyn Storage> = Arc::clone(&self.storage) as Arc<dyn Storage>;
        let state = StateFile::open(&*storage, Path::new(state)).unwrap();
        let context = LogContext {
            clock: Arc::new(ManualClock::new(Timestamp::new(T))),
            findings: Arc::clone(&self.findings),
            buffers: BufferPool::default(),
            partition: TopicPartition::new("t", 0),
            topic_id: None,
            slot: Some(state.slot(Uuid::ZERO, 0.into())),
            boot_id: [1; 16],
            log_start: Offset::ZERO,
            recovery_point: self.end,
            storage,
        };
        Log::open_in(context, Path::new(DIR), config())
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        read_file(&*self.storage, &Path::new(DIR).join(name), u64::MAX).unwrap()
    }

    /// The files that were told to be rebuilt.
    fn rebuilt(&self) -> Vec<String> {
        let name = |f: Finding| {
            assert_eq!(f.kind, FindingKind::Rebuilt, "{f}");
            f.path.unwrap().file_name().unwrap().to_str().unwrap().to_owned()
        };
        let open = |f: &Finding| f.kind == FindingKind::OpenTransaction;
        self.findings.all().into_iter().filter(|f| !open(f)).map(name).collect()
    }
}

/// Everything that readers can ask.
#[derive(Debug, PartialEq)]
struct Seen {
    offsets: LogOffsets,
    records: [Vec<(i64, String)>; 2],
    times: Vec<Option<OffsetAtTime>>,
    epoch: LeaderEpoch,
}

fn see(log: &Log) -> Seen {
    let isolations = [Isolation::ReadCommitted, Isolation::ReadUncommitted];
    let times =
        isolations.iter().flat_map(|isolation| (-2..150).map(move |t| log.offset_at(T + t, *isolation).unwrap()));
    Seen {
        times: times.collect(),
        records: isolations.map(|isolation| records(log, isolation)),
        offsets: log.offsets(),
        epoch: log.leader_epoch(),
    }
}

fn records(log: &Log, isolation: Isolation) -> Vec<(i64, String)> {
    let (mut at, mut found) = (log.offsets().log_start, Vec::new());
    loop {
        let read = log.read(at, 300, isolation).unwrap();
        if read.next_offset() == at {
            return found;
        }
        for batch in read.data_batches() {
            for record in batch.unwrap().decode().unwrap().iter() {
                let record = record.unwrap();
                if record.offset() >= at {
                    found.push((record.offset().get(), String::from_utf8(record.value().unwrap().to_vec()).unwrap()));
                }
            }
        }
        at = read.next_offset();
    }
}

/// Appends what producers and a coordinator would; timestamps rise, but not steadily.
struct Author<'a> {
    log: &'a Log,
    epoch: i32,
    clock: i64,
}

impl Author<'_> {
    fn time(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp::new(T + self.clock * 3 + if self.clock % 4 == 0 { 11 } else { 0 })
    }

    fn append(&self, batch: &RecordBatch) {
        self.log.append(batch, LeaderEpoch::new(self.epoch)).unwrap();
        self.log.sync().unwrap();
    }

    fn plain(&mut self, value: &str) {
        let mut batch = BatchBuilder::new();
        batch.push(self.time(), &Record::new(value)).unwrap();
        batch.push(self.time(), &Record::new(format!("{value} again"))).unwrap();
        self.append(&batch.finish().unwrap());
    }

    fn send(&mut self, pid: i64, epoch: i16, sequence: i32, value: &str) {
        let mut batch = BatchBuilder::new().producer(ProducerId::new(pid), epoch, sequence).transactional();
        batch.push(self.time(), &Record::new(value)).unwrap();
        self.append(&batch.finish().unwrap());
    }

    fn end(&mut self, pid: i64, epoch: i16, outcome: TxnOutcome) {
        let marker = EndMarker { outcome, coordinator_epoch: 0 };
        let batch = BatchBuilder::end_marker(marker, ProducerId::new(pid), epoch, self.time()).unwrap();
        self.append(&batch);
    }
}

/// Transactions of both versions, interleaved, across segments, in three leader epochs; one is open at the end.
fn transactional_log() -> (Files, Offset, Seen) {
    let foreign = Foreign::of(&Files::new(), Offset::ZERO);
    let log = foreign.open();
    let mut author = Author { log: &log, epoch: 0, clock: 0 };
    for round in 0..4_i16 {
        let sequence = i32::from(round);
        author.epoch = i32::from(round) / 2 * 3;
        author.plain(&format!("plain {round}"));
        author.send(1, 0, sequence, &format!("committed {round}"));
        // Version 2: the epoch rises with every transaction, and the marker carries the next one.
        author.send(2, round, 0, &format!("aborted {round}"));
        author.plain(&format!("between {round}"));
        author.end(1, 0, TxnOutcome::Commit);
        author.send(2, round, 1, &format!("aborted {round} too"));
        author.send(3, 0, 2 * sequence, &format!("outer {round}"));
        author.end(2, round + 1, TxnOutcome::Abort);
        author.send(3, 0, 2 * sequence + 1, &format!("outer {round} too"));
        author.end(3, 0, if round == 1 { TxnOutcome::Commit } else { TxnOutcome::Abort });
        // Nothing is open here: an empty transaction.
        author.end(3, 0, TxnOutcome::Abort);
    }
    author.send(4, 0, 0, "open");
    author.plain("last");
    let seen = see(&log);
    log.close().unwrap();
    let files = files_of(&*foreign.storage);
    assert!(files.iter().filter(|(name, _)| name.ends_with(".txnindex")).count() > 2);
    assert!(seen.records[0].iter().all(|(_, value)| !value.starts_with("aborted")));
    (files, seen.offsets.end, seen)
}

#[test]
fn sound_files_are_believed_and_left_alone() {
    let (files, end, seen) = transactional_log();
    let foreign = Foreign::of(&files, end);
    let log = foreign.open();
    assert_eq!(see(&log), seen);
    assert_eq!(foreign.rebuilt(), [""; 0]);
    log.close().unwrap();
    let after = files_of(&*foreign.storage);
    let derived = |files: &Files| files.iter().filter(|(name, _)| is_derived(name)).cloned().collect::<Vec<_>>();
    assert_eq!(derived(&after), derived(&files));
}

/// What may have happened to a derived file.
const SPOILS: [(&str, fn(&mut Vec<u8>)); 9] = [
    ("removed", |_| {}),
    ("emptied", Vec::clear),
    ("padded", |bytes| bytes.resize(bytes.len() + 4096, 0)),
    ("zeroed", |bytes| bytes.fill(0)),
    ("cut inside an entry", |bytes| bytes.truncate(bytes.len().saturating_sub(3))),
    ("of ones", |bytes| bytes.fill(0xff)),
    ("reversed", |bytes| bytes.reverse()),
    ("shifted", |bytes| bytes.rotate_right(1)),
    ("twice", |bytes| bytes.extend_from_within(..)),
];

#[test]
fn no_spoilt_file_changes_what_readers_see() {
    let (files, end, seen) = transactional_log();
    for at in (0..files.len()).filter(|&at| is_derived(&files[at].0)) {
        for (how, spoil) in SPOILS {
            let mut spoilt = files.clone();
            let (name, bytes) = &mut spoilt[at];
            let (what, before) = (format!("{name} {how}"), bytes.clone());
            spoil(bytes);
            if how == "removed" {
                spoilt.remove(at);
            } else if spoilt[at].1 == before {
                continue;
            }
            let foreign = Foreign::of(&spoilt, end);
            let log = foreign.open_with("data/log.state").unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(see(&log), seen, "{what}");
        }
    }
}

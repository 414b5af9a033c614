//! What power cuts, bad disks and half copies do to a partition's files. Each case knows which offsets it destroyed
//! and which offsets somebody may know all the same.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A partition's files, about to be damaged.
pub(crate) struct Victim {
    root: PathBuf,
    topic: String,
    dir: PathBuf,
    segments: Vec<Segment>,
    /// The end that Kafka's checkpoints tell.
    checkpointed: i64,
}

struct Segment {
    path: PathBuf,
    bytes: Vec<u8>,
    batches: Vec<Batch>,
}

#[derive(Clone)]
struct Batch {
    at: Range<usize>,
    offsets: Range<i64>,
}

/// What a case did.
#[derive(Debug)]
pub(crate) struct Harm {
    /// The records of these offsets need not be served any more.
    pub(crate) lost: Range<i64>,
    /// No append may get an offset below.
    pub(crate) known: i64,
}

/// `None` where the partition has not what the case needs.
pub(crate) type Case = (&'static str, fn(&Victim) -> Option<Harm>);

pub(crate) const CASES: [Case; 32] = [
    ("the end torn in the records", |v| v.torn(|batch| 61 + (batch.at.len() - 61) / 2)),
    ("the end torn in the header", |v| v.torn(|_| 40)),
    ("the end torn in the first bytes", |v| v.torn(|_| 5)),
    ("zeros behind the end", |v| v.behind_the_end(vec![0; 3000])),
    ("random bytes behind the end", |v| v.behind_the_end(noise(700))),
    ("zeros for the last batch", |v| v.instead_of_the_last(|batch| vec![0; batch.at.len()])),
    ("random bytes for the last batch", |v| v.instead_of_the_last(|batch| noise(batch.at.len()))),
    ("zeros for a middle batch", |v| v.overwrite(Place::Middle, |bytes| bytes.fill(0))),
    ("random bytes for a middle batch", |v| {
        v.overwrite(Place::Middle, |bytes| bytes.copy_from_slice(&noise(bytes.len())))
    }),
    ("a bit of the payload, first batch", |v| v.flip(Place::First, End(1), 0x10)),
    ("a bit of the payload, middle batch", |v| v.flip(Place::Middle, End(2), 0x01)),
    ("a bit of the payload, last batch", |v| v.flip(Place::Last, End(1), 0x80)),
    ("a low bit of the base offset, middle batch", |v| v.flip_of_sound_records(Place::Middle, Start(7), 0x01)),
    ("a high bit of the base offset, middle batch", |v| v.flip_of_sound_records(Place::Middle, Start(1), 0x02)),
    ("the sign of the base offset, middle batch", |v| v.flip_of_sound_records(Place::Middle, Start(0), 0x80)),
    ("a low bit of the base offset, last batch", |v| v.flip(Place::Last, Start(7), 0x04)),
    ("a high bit of the base offset, last batch", |v| v.flip(Place::Last, Start(2), 0x04)),
    ("a low bit of the base offset, first batch", |v| v.flip(Place::First, Start(7), 0x02)),
    ("a bit of the leader epoch, middle batch", |v| v.flip_of_sound_records(Place::Middle, Start(14), 0x01)),
    ("the sign of the leader epoch, middle batch", |v| v.flip_of_sound_records(Place::Middle, Start(12), 0x80)),
    ("a low bit of the length, middle batch", |v| v.flip(Place::Middle, Start(11), 0x04)),
    ("a high bit of the length, middle batch", |v| v.flip(Place::Middle, Start(8), 0x40)),
    ("a high bit of the length, last batch", |v| v.flip(Place::Last, Start(9), 0x01)),
    ("the magic, middle batch", |v| v.flip(Place::Middle, Start(16), 0x01)),
    ("the magic, last batch", |v| v.flip(Place::Last, Start(16), 0x80)),
    ("the checksum, middle batch", |v| v.flip(Place::Middle, Start(19), 0x08)),
    ("the last offset, last batch", |v| v.flip(Place::Last, Start(26), 0x01)),
    ("the record count, middle batch", |v| v.flip(Place::Middle, Start(58), 0x01)),
    ("a middle segment is missing", Victim::lose_a_segment),
    ("a bit of the payload, middle batch, and no indexes", |v| v.flip_without_indexes()),
    ("the log start is said to be above the end", |v| v.checkpoint("log-start-offset-checkpoint", 1_000_000)),
    ("the recovery point is said to be above the end", |v| v.checkpoint("recovery-point-offset-checkpoint", 1_000_000)),
];

#[derive(Clone, Copy)]
enum Place {
    First,
    Middle,
    Last,
}

/// A byte of a batch, from its start or from its end.
enum Byte {
    Start(usize),
    End(usize),
}
use Byte::{End, Start};

impl Victim {
    pub(crate) fn of(root: &Path, topic: &str) -> Victim {
        let dir = root.join(format!("{topic}-0"));
        let mut paths: Vec<_> = files(&dir).filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
        paths.sort();
        let segments = paths.into_iter().map(|path| {
            let bytes = fs::read(&path).expect("a log file");
            Segment { batches: batches(&bytes), path, bytes }
        });
        let name = format!("{topic} 0 ");
        let checkpoints = ["recovery-point-offset-checkpoint", "replication-offset-checkpoint"].map(|file| {
            let text = fs::read_to_string(root.join(file)).unwrap_or_default();
            text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
        });
        Victim {
            root: root.to_owned(),
            topic: topic.to_owned(),
            segments: segments.filter(|segment| !segment.batches.is_empty()).collect(),
            dir,
            checkpointed: checkpoints[0].max(checkpoints[1]),
        }
    }

    fn end(&self) -> i64 {
        self.last().1.offsets.end
    }

    fn last(&self) -> (&Segment, &Batch) {
        self.batch(Place::Last)
    }

    fn batch(&self, place: Place) -> (&Segment, &Batch) {
        let all: Vec<_> = self.segments.iter().flat_map(|s| s.batches.iter().map(move |batch| (s, batch))).collect();
        assert!(all.len() >= 5, "{} has too few batches", self.topic);
        match place {
            Place::First => all[0],
            Place::Middle => all[all.len() / 2],
            Place::Last => all[all.len() - 1],
        }
    }

    /// Only `keep` bytes of the last batch are there.
    fn torn(&self, keep: fn(&Batch) -> usize) -> Option<Harm> {
        let (segment, batch) = self.last();
        let keep = keep(batch);
        write(&segment.path, &segment.bytes[..batch.at.start + keep]);
        // From byte 27 on it says which offsets it had.
        let known = if keep >= 27 { self.end() } else { self.checkpointed };
        Some(Harm { lost: batch.offsets.clone(), known })
    }

    fn behind_the_end(&self, more: Vec<u8>) -> Option<Harm> {
        let (segment, batch) = self.last();
        write(&segment.path, &[&segment.bytes[..batch.at.end], &more].concat());
        Some(Harm { lost: 0..0, known: self.end() })
    }

    fn instead_of_the_last(&self, other: fn(&Batch) -> Vec<u8>) -> Option<Harm> {
        let (segment, batch) = self.last();
        write(&segment.path, &[&segment.bytes[..batch.at.start], &other(batch)].concat());
        Some(Harm { lost: batch.offsets.clone(), known: self.checkpointed.max(batch.offsets.start) })
    }

    fn overwrite(&self, place: Place, change: fn(&mut [u8])) -> Option<Harm> {
        let (segment, batch) = self.batch(place);
        let mut bytes = segment.bytes.clone();
        change(&mut bytes[batch.at.clone()]);
        write(&segment.path, &bytes);
        Some(Harm { lost: batch.offsets.clone(), known: self.end() })
    }

    fn flip(&self, place: Place, byte: Byte, bits: u8) -> Option<Harm> {
        let (segment, batch) = self.batch(place);
        let mut bytes = segment.bytes.clone();
        let at = match byte {
            Start(i) => batch.at.start + i,
            End(i) => batch.at.end - i,
        };
        bytes[at] ^= bits;
        write(&segment.path, &bytes);
        // Whether the last batch still tells its offsets depends on the bit.
        let known = if matches!(place, Place::Last) { self.checkpointed.max(batch.offsets.start) } else { self.end() };
        Some(Harm { lost: batch.offsets.clone(), known })
    }

    /// Outside the checksum and contradicted by the neighbours: the records are all there.
    fn flip_of_sound_records(&self, place: Place, byte: Byte, bits: u8) -> Option<Harm> {
        self.flip(place, byte, bits).map(|harm| Harm { lost: 0..0, ..harm })
    }

    fn flip_without_indexes(&self) -> Option<Harm> {
        for path in files(&self.dir).filter(|path| path.extension().is_some_and(|e| e == "index" || e == "timeindex")) {
            fs::remove_file(path).expect("an index can go");
        }
        self.flip(Place::Middle, End(1), 0x04)
    }

    fn lose_a_segment(&self) -> Option<Harm> {
        let middle = self.segments.get(self.segments.len() / 2).filter(|_| self.segments.len() > 2)?;
        let stem = middle.path.file_stem().expect("a base offset");
        for path in files(&self.dir).filter(|path| path.file_stem() == Some(stem)) {
            fs::remove_file(path).expect("a file can go");
        }
        let ends = |batches: &[Batch]| batches[0].offsets.start..batches[batches.len() - 1].offsets.end;
        Some(Harm { lost: ends(&middle.batches), known: self.end() })
    }

    fn checkpoint(&self, file: &str, offset: i64) -> Option<Harm> {
        let path = self.root.join(file);
        let name = format!("{} 0 ", self.topic);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut lines: Vec<_> =
            text.lines().skip(2).filter(|line| !line.starts_with(&name)).map(str::to_owned).collect();
        lines.push(format!("{name}{offset}"));
        write(&path, format!("0\n{}\n{}\n", lines.len(), lines.join("\n")).as_bytes());
        Some(Harm { lost: 0..0, known: self.end() })
    }
}

/// The batches of a log file, by their headers.
fn batches(bytes: &[u8]) -> Vec<Batch> {
    let mut all = Vec::new();
    let mut at = 0;
    while at + 61 <= bytes.len() {
        let end = at + 12 + field(bytes, at + 8, 4) as usize;
        let base = field(bytes, at, 8);
        all.push(Batch { at: at..end, offsets: base..base + field(bytes, at + 23, 4) + 1 });
        at = end;
    }
    assert_eq!(at, bytes.len(), "whole batches");
    all
}

fn field(bytes: &[u8], at: usize, width: usize) -> i64 {
    bytes[at..at + width].iter().fold(0_i64, |number, byte| number << 8 | i64::from(*byte))
}

/// What a batch says of itself.
pub(crate) struct BatchFacts {
    pub(crate) attributes: i64,
    pub(crate) producer_id: i64,
    pub(crate) count: i64,
    pub(crate) records: Vec<u8>,
}

/// The batches of all topics but Kafka's own.
pub(crate) fn all_batches(root: &Path) -> impl Iterator<Item = BatchFacts> {
    let visible =
        |path: &PathBuf| path.is_dir() && !path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("__"));
    let logs = files(root).filter(visible).flat_map(|dir| files(&dir));
    logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")).flat_map(|path| {
        let bytes = fs::read(&path).expect("a log file");
        let facts = |batch: Batch| BatchFacts {
            attributes: field(&bytes, batch.at.start + 21, 2),
            producer_id: field(&bytes, batch.at.start + 43, 8),
            count: field(&bytes, batch.at.start + 57, 4),
            records: bytes[batch.at.start + 61..batch.at.end].to_vec(),
        };
        batches(&bytes).into_iter().map(facts).collect::<Vec<_>>()
    })
}

/// The same bytes each time, without any order.
pub(crate) fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..count).map(next).collect()
}

pub(crate) fn files(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut all: Vec<_> =
        fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
    all.sort();
    all.into_iter()
}

pub(crate) fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

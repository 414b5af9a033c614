//! Replays the corpus of every fuzz target, so that what fuzzing once found stays found without a fuzzer.
#![allow(clippy::disallowed_methods, reason = "a test reads its own input, and writes it when told to")]

use std::path::{Path, PathBuf};

use thalweg::testing::{History, SimStorage, WatchedLog, from_hex, fuzz, fuzz_targets};
use thalweg::{
    BatchHeader, Broker, Durability, EntryKind, LogConfig, ManualClock, OpenMode, ProducerId, RecordBatch, Result,
    Start, Storage, Timestamp, TxnOutcome,
};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

#[test]
fn the_corpus_holds() {
    if !corpus().exists() {
        println!("skipped: the corpus is in the repository, not in the published crate");
        return;
    }
    for target in fuzz_targets() {
        let inputs = std::fs::read_dir(corpus().join(target)).unwrap().map(|entry| entry.unwrap().path());
        let mut replayed = 0;
        for input in inputs {
            println!("{}", input.display());
            fuzz(target, &std::fs::read(&input).unwrap());
            replayed += 1;
        }
        assert!(replayed >= 3, "{target} has {replayed} inputs");
    }
}

/// What the library makes itself holds as well. With `THALWEG_MAKE_SEEDS` it goes into the corpus, for a format that is
/// new.
#[test]
fn what_the_library_makes_holds() -> Result<()> {
    let clock = ManualClock::new(Timestamp::new(1_700_000_000_000));
    for (name, end) in [("closed", true), ("killed", false)] {
        log_seeds(name, end)?;
        directory_seeds(name, end, &clock)?;
    }
    vector_seeds();
    seal_seeds();
    Ok(())
}

fn seed(target: &str, name: &str, bytes: &[u8]) {
    println!("{target}/{name}");
    fuzz(target, bytes);
    if std::env::var_os("THALWEG_MAKE_SEEDS").is_some() {
        let dir = corpus().join(target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

/// Segments, transactions that were committed and aborted, a producer's state, a log start.
fn log_seeds(name: &str, close: bool) -> Result<()> {
    let (disk, history, dir) = (SimStorage::new(), History::default(), Path::new("events-0"));
    let config = LogConfig::default().segment_bytes(2000).index_interval_bytes(100);
    let log = WatchedLog::open(&disk, &history, dir, config)?;
    for number in 0..8_i32 {
        let producer = ProducerId::new(i64::from(number % 3));
        log.append_in_transaction(producer, number / 3, "in a transaction")?;
        log.put([format!("value {number} {}", "x".repeat(250)).as_str()], Durability::PowerLoss)?;
        if number % 3 > 0 {
            let outcome = if number % 3 == 1 { TxnOutcome::Commit } else { TxnOutcome::Abort };
            log.wait(&log.end_transaction(producer, outcome)?, Durability::ProcessCrash)?;
        }
    }
    log.advance_log_start(2.into())?;
    if close {
        log.close()?;
    }
    seed("log_directory", name, &[&[0][..], &pack(&disk, dir, 1)].concat());
    seed("log_directory", &format!("{name}-with-zeros"), &[&[4][..], &pack(&disk, dir, 3)].concat());
    for (path, bytes) in files(&disk, dir) {
        let (base, kind) = path.rsplit_once('.').unwrap_or((&path, ""));
        let based = || [&base.parse::<i64>().unwrap().to_be_bytes()[..], &bytes].concat();
        let name = format!("{name}-{base}");
        match kind {
            "log" if base.parse() == Ok(0) => seed("segment", &name, &[&[0][..], &bytes].concat()),
            "index" => seed("offset_index", &name, &based()),
            "timeindex" => seed("time_index", &name, &based()),
            "txnindex" => seed("transaction_index", &name, &based()),
            "seal" => seed("seal", &name, &based()),
            "snapshot" => seed("producers", &name, &bytes),
            "state" => seed("state", &name, &bytes),
            "" => seed("checkpoint", &name, &bytes),
            _ => {}
        }
    }
    Ok(())
}

/// Topics of several kinds, one that was deleted, groups.
fn directory_seeds(name: &str, close: bool, clock: &ManualClock) -> Result<()> {
    let (disk, dir) = (SimStorage::new(), Path::new("data"));
    let broker = Broker::builder(dir).storage(disk.clone()).clock(clock.clone()).manual().open()?;
    let events = broker.topic("events").partitions(2).create()?;
    broker.topic("weak").durability(Durability::ProcessCrash).create()?;
    broker.topic("state").set("cleanup.policy", "compact").create()?;
    broker.topic("gone").create()?.delete()?;
    for number in 0..6 {
        let appended = events.partition(number % 2)?.append_records([format!("value {number}")])?;
        events.partition(number % 2)?.wait(appended.position, Durability::PowerLoss)?;
        broker.topic("weak").open()?.send("x".repeat(400))?;
        broker.topic("state").open()?.send(("key", format!("{number}")))?;
    }
    events.partition(0)?.delete_records(1)?;
    broker.consumer_group("readers").reset(["events"], Start::Latest)?;
    broker.consumer_group("others").reset(["weak"], Start::Earliest)?;
    if close {
        broker.close()?;
    }
    seed("directory", name, &pack(&disk, dir, 1));
    for (path, bytes) in files(&disk, dir) {
        let file = format!("{name}-{}", path.replace('/', "-"));
        match path.rsplit('/').next().unwrap() {
            "meta.properties" => seed("properties", &file, &bytes),
            "thalweg.state" => seed("state", &file, &bytes),
            text if text.ends_with("checkpoint") => seed("checkpoint", &file, &bytes),
            "partition.metadata" => seed("checkpoint", &file, &bytes),
            "thalweg.epoch" => seed("notes", &file, &[&[0][..], &bytes].concat()),
            "thalweg.clock" => seed("notes", &file, &[&[1][..], &bytes].concat()),
            _ if path.starts_with("__cluster_metadata-0/") && path.ends_with(".log") => {
                seed("catalog", &format!("{name}-log"), &[&[0][..], &bytes].concat());
                metadata_seed(name, &bytes)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The records of a metadata log.
fn metadata_seed(name: &str, mut log: &[u8]) -> Result<()> {
    let mut records = Vec::new();
    while !log.is_empty() {
        let (batch, rest) = log.split_at(BatchHeader::announced_size(log)?);
        log = rest;
        let batch = RecordBatch::parse(batch.to_vec())?;
        if batch.header().is_control() {
            continue;
        }
        for record in batch.decode()?.iter() {
            put(&mut records, record?.value().unwrap_or_default());
        }
    }
    seed("metadata", name, &records);
    Ok(())
}

fn put(out: &mut Vec<u8>, part: &[u8]) {
    out.extend(u16::try_from(part.len()).expect("a short record").to_be_bytes());
    out.extend(part);
}

/// What Kafka's own classes and brokers wrote.
fn vector_seeds() {
    let text = include_str!("data/vectors.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    let hex = |value: &serde_json::Value| from_hex(value["hex"].as_str().or(value.as_str()).unwrap());
    let records = vectors["records"].as_object().unwrap();
    for (name, key) in records {
        let Some(name) = name.strip_suffix("_K") else { continue };
        let mut record = vec![0];
        put(&mut record, &hex(key));
        put(&mut record, &hex(&records[&format!("{name}_V")]));
        seed("group", &name.to_lowercase(), &record);
    }
    for (name, bytes) in vectors["segment"].as_object().unwrap() {
        let (base, kind) = name.rsplit_once('.').unwrap();
        let number = base.trim_start_matches("k43-").parse::<i64>().unwrap();
        let target = match kind {
            "index" => "offset_index",
            "timeindex" => "time_index",
            _ => "transaction_index",
        };
        seed(target, &format!("kafka-{base}"), &[&number.to_be_bytes()[..], &hex(bytes)].concat());
    }
    for (name, bytes) in vectors["files"].as_object().unwrap() {
        match name.starts_with("producer") {
            true => seed("producers", name, &hex(bytes)),
            false => {
                seed("catalog", name, &[&[2][..], &hex(bytes)].concat());
                seed("catalog", &format!("{name}-2"), &[&[3][..], &hex(bytes)].concat());
            }
        }
    }
    for (target, name, bytes) in [
        ("segment", "empty", &b"\0"[..]),
        ("directory", "empty", b""),
        ("directory", "foreign", b"\0\x05photo\0\x01x"),
        ("notes", "of-a-later-release", b"\0version: 9\n"),
        ("metadata", "empty", b""),
        ("metadata", "topic", b"\0\x14\x01\x02\0\x02tAAAAAAAAAAAAAAA\0"),
        ("properties", "zookeeper", b"version=0\nbroker.id=1\n"),
    ] {
        seed(target, name, bytes);
    }
}

/// Seals of earlier releases.
fn seal_seeds() {
    let based = |seal: &[u8]| [&7_i64.to_be_bytes(), seal].concat();
    seed("seal", "version-1", &based(include_bytes!("data/private/seal-v1.bin")));
    seed("seal", "version-2", &based(include_bytes!("data/private/seal-v2.bin")));
}

/// Every file below `dir` with its content, by its path from there.
fn files(disk: &SimStorage, dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut entries = disk.list(dir).unwrap();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in entries {
        let path = dir.join(&entry.name);
        if entry.kind == EntryKind::Directory {
            let below = files(disk, &path).into_iter();
            found.extend(below.map(|(name, bytes)| (format!("{}/{name}", entry.name), bytes)));
            continue;
        }
        let file = disk.open(&path, OpenMode::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        found.push((entry.name, bytes));
    }
    found
}

/// A directory as the fuzz targets unpack it.
fn pack(disk: &SimStorage, dir: &Path, flags: u8) -> Vec<u8> {
    let mut packed = Vec::new();
    // Neither of them is read.
    let is_read = |name: &str| !name.ends_with(".lock") && !name.ends_with(".reserve");
    for (name, bytes) in files(disk, dir).iter().filter(|(name, _)| is_read(name)) {
        packed.extend([flags, u8::try_from(name.len()).expect("a short name")]);
        packed.extend(name.bytes());
        put(&mut packed, bytes);
    }
    packed
}

//! A key-value store in 80 lines, on `Log` alone: no broker, no topics, no thread.
//!
//! Every change is a record; the store is what replaying the records gives. The files are one Kafka
//! partition. `cargo run --example log_only -- set color green`, then `get color`, `history color`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use thalweg::{Durability, Error, ErrorKind, Isolation, Log, LogConfig, Offset, Record, RecordRef, Result};

const USAGE: &str = "usage: log_only set KEY VALUE | get KEY | delete KEY | history KEY | list";

struct Store {
    log: Log,
    values: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Store {
    fn open(dir: &Path) -> Result<Store> {
        let log = Log::open(dir, LogConfig::default())?;
        let mut values = BTreeMap::new();
        replay(&log, |record| match (record.key(), record.value()) {
            (Some(key), Some(value)) => _ = values.insert(key.to_vec(), value.to_vec()),
            (Some(key), None) => _ = values.remove(key),
            (None, _) => {}
        })?;
        Ok(Store { log, values })
    }

    /// Returns once the change survives loss of power.
    fn set(&mut self, key: &str, value: &str) -> Result<Offset> {
        let offset = self.append(Record::from((key, value)))?;
        self.values.insert(key.into(), value.into());
        Ok(offset)
    }

    fn delete(&mut self, key: &str) -> Result<Offset> {
        let offset = self.append(Record::tombstone(key))?;
        self.values.remove(key.as_bytes());
        Ok(offset)
    }

    fn append(&self, record: Record) -> Result<Offset> {
        let appended = self.log.append_records([record])?;
        self.log.wait(appended.position, Durability::PowerLoss)?;
        Ok(appended.base_offset)
    }

    fn history(&self, key: &str) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        replay(&self.log, |record| {
            if record.key() == Some(key.as_bytes()) {
                let value = record.value().map_or("(deleted)".into(), text);
                lines.push(format!("offset {:<6} time {}  {value}", record.offset(), record.timestamp()));
            }
        })?;
        Ok(lines)
    }
}

/// Hands every record of the log to `each`, in order.
fn replay(log: &Log, mut each: impl FnMut(RecordRef<'_>)) -> Result<()> {
    let mut next = log.offsets().log_start;
    loop {
        let read = log.read(next, 1 << 20, Isolation::ReadCommitted)?;
        if read.next_offset() == next {
            return Ok(());
        }
        for batch in read.data_batches() {
            for record in batch?.decode()?.iter() {
                each(record?);
            }
        }
        next = read.next_offset();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(words: &[&str]) -> Result<()> {
    let dir = std::env::temp_dir().join("thalweg-log-only");
    let mut store = Store::open(&dir)?;
    match words {
        ["set", key, value] => println!("stored at offset {}", store.set(key, value)?),
        ["delete", key] => println!("deleted at offset {}", store.delete(key)?),
        ["get", key] => println!("{}", store.values.get(key.as_bytes()).map_or("(none)".into(), |v| text(v))),
        ["history", key] => store.history(key)?.iter().for_each(|line| println!("{line}")),
        ["list"] => store.values.iter().for_each(|(key, value)| println!("{} = {}", text(key), text(value))),
        [] => {
            println!("{USAGE}");
            println!("{} keys in {}, next offset {}", store.values.len(), dir.display(), store.log.offsets().end);
        }
        _ => return Err(Error::new(ErrorKind::InvalidArgument, "no such command").remedy(USAGE)),
    }
    store.log.close()
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("log_only: {e}");
            ExitCode::FAILURE
        }
    }
}

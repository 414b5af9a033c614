//! `kafka-dump-log` over files of a data directory: what it says of them, and whether it found fault.

use std::fs;
use std::path::{Path, PathBuf};

use crate::client::Client;

/// Dumps every log, index, snapshot and checkpoint of one partition directory; panics where the tool finds fault.
pub(crate) fn partition(client: &mut Client, dir: &Path) -> Vec<String> {
    dump(client, &files(dir), &["--deep-iteration"]).unwrap_or_else(|fault| panic!("{}: {fault}", dir.display()))
}

/// The tool's output; `Err` holds the line in which it found fault.
pub(crate) fn dump(client: &mut Client, files: &[PathBuf], options: &[&str]) -> Result<Vec<String>, String> {
    let names: Vec<_> = files.iter().map(|file| file.to_str().expect("a UTF-8 path")).collect();
    let tool = client.kafka.dump_log_tool();
    let lines = client.try_ask(&[&["tool", tool, "--files", &names.join(",")], options].concat())?;
    match lines.iter().find(|line| is_fault(line)) {
        Some(fault) => Err(fault.clone()),
        None => Ok(lines),
    }
}

/// Data records among the lines of `--deep-iteration`.
pub(crate) fn records(lines: &[String]) -> usize {
    lines.iter().filter(|line| line.starts_with("| offset: ") && !line.contains("endTxnMarker")).count()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let known = |file: &PathBuf| {
        let name = file.extension().and_then(|extension| extension.to_str());
        name.is_some_and(|name| ["log", "index", "timeindex", "txnindex", "snapshot"].contains(&name))
    };
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("cannot list {}: {e}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a directory entry").path()).filter(known).collect();
    files.sort();
    files
}

fn is_fault(line: &str) -> bool {
    const FAULTS: [&str; 8] = [
        "isvalid: false",
        "Mismatch",
        "mismatch",
        "Non-consecutive",
        "out of order",
        "not found",
        "invalid",
        "Exception",
    ];
    let told = !line.starts_with("| ");
    told && FAULTS.iter().any(|fault| line.contains(fault))
}

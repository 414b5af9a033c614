//! Where records come from: the bundled data set, or a file of lines, JSON lines or CSV.
//! Input is read as it is needed; a file may be larger than memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde_json::Value;
use thalweg::{Record, Timestamp};

use crate::Outcome;
use crate::args::Source;

const EARTHQUAKES: &str = include_str!("../data/earthquakes.ndjson");
const RECORDS_BY_DEFAULT: u64 = 1_000_000;

/// No line may be longer than a topic accepts by default.
const LINE_BYTES_MAX: u64 = 1 << 20;

pub(crate) struct Input {
    /// A legal topic name.
    pub(crate) topic: String,
    /// How many records will come, where that is known.
    pub(crate) expected: Option<u64>,
    pub(crate) records: Box<dyn Iterator<Item = Outcome<Record>>>,
}

/// Opens the input and looks at its first record, so that what is wrong from the start is said before
/// anything is produced.
pub(crate) fn open(source: &Source, key: Option<&str>) -> Outcome<Input> {
    let mut input = open_unread(source, key)?;
    let first = input.records.next().ok_or("there are no records in the input")??;
    input.records = Box::new(std::iter::once(Ok(first)).chain(input.records));
    Ok(input)
}

fn open_unread(source: &Source, key: Option<&str>) -> Outcome<Input> {
    match source {
        Source::Bundled { times } => bundled(*times, key.unwrap_or("place")),
        Source::StandardInput => from_reader("stdin", false, Box::new(io::stdin().lock()), key),
        Source::File(path) => {
            let name = path.display().to_string();
            let is_csv = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
            let file = open_file(path).map_err(|e| format!("cannot read {name}: {e}"))?;
            from_reader(&name, is_csv, Box::new(BufReader::with_capacity(1 << 18, file)), key)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the example's own input, not the log's files")]
fn open_file(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    match file.metadata()?.is_dir() {
        true => Err(io::ErrorKind::IsADirectory.into()),
        false => Ok(file),
    }
}

fn bundled(times: Option<u64>, key: &str) -> Outcome<Input> {
    let events: Vec<Record> = (1..)
        .zip(EARTHQUAKES.lines())
        .map(|(number, line)| {
            let event = parse_json("earthquakes.ndjson", number, line)?;
            let time = event["time"].as_i64().unwrap_or_default();
            let record = keyed(Record::new(line), key_in_json("earthquakes.ndjson", number, &event, key)?);
            Ok(record
                .header("source", "usgs.gov")
                .header("content-type", "application/json")
                .timestamp(Timestamp::new(time)))
        })
        .collect::<Outcome<_>>()?;
    let expected = times.map_or(RECORDS_BY_DEFAULT, |times| times.saturating_mul(events.len() as u64));
    let rounds = expected.div_ceil(events.len() as u64);
    let replay = (0..rounds).flat_map(move |_| events.clone()).take(usize::try_from(expected)?);
    Ok(Input { topic: "earthquakes".into(), expected: Some(expected), records: Box::new(replay.map(Ok)) })
}

fn from_reader(name: &str, is_csv: bool, mut reader: Box<dyn BufRead>, key: Option<&str>) -> Outcome<Input> {
    let start = reader.fill_buf().map_err(|e| format!("cannot read {name}: {e}"))?;
    let is_json = start.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let key = key.map(String::from);
    let source = name.to_owned();
    let records: Box<dyn Iterator<Item = Outcome<Record>>> = match (is_csv, is_json, key) {
        (true, _, key) => Box::new(csv_rows(source, reader, key)?),
        (false, true, key) => Box::new(lines(name.to_owned(), reader).map(move |line| {
            let (number, line) = line?;
            let value = parse_json(&source, number, &line)?;
            let key = key.as_deref().map_or(Ok(None), |field| key_in_json(&source, number, &value, field))?;
            Ok(described(keyed(Record::new(line), key), &source, "application/json"))
        })),
        (false, false, None) => Box::new(
            lines(name.to_owned(), reader).map(move |line| Ok(described(Record::new(line?.1), &source, "text/plain"))),
        ),
        (false, false, Some(_)) => {
            return Err(format!("--key needs fields, and {name} is neither CSV nor JSON lines").into());
        }
    };
    Ok(Input { topic: topic_for(name), expected: None, records })
}

/// Lines that are not blank, with their numbers from 1, without their line ends.
fn lines(name: String, mut reader: Box<dyn BufRead>) -> impl Iterator<Item = Outcome<(u64, String)>> {
    let mut number = 0;
    std::iter::from_fn(move || {
        loop {
            let mut line = Vec::new();
            number += 1;
            match reader.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(read) if read as u64 > LINE_BYTES_MAX => {
                    return Some(Err(format!("{name}, line {number}: longer than 1 MiB").into()));
                }
                Ok(_) => {}
                Err(e) => return Some(Err(format!("cannot read {name}: {e}").into())),
            }
            while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                line.pop();
            }
            if line.is_empty() {
                continue;
            }
            return Some(match String::from_utf8(line) {
                Ok(line) => Ok((number, line)),
                Err(e) => Err(not_utf8(&name, number, e.utf8_error()).into()),
            });
        }
    })
}

/// Rows of a CSV file with a header, each written out again as one line of CSV.
fn csv_rows(
    name: String,
    reader: Box<dyn BufRead>,
    key: Option<String>,
) -> Outcome<impl Iterator<Item = Outcome<Record>>> {
    let mut rows = csv::Reader::from_reader(reader);
    let columns = rows.headers().map_err(|e| csv_error(&name, &e))?.clone();
    let key_column = match &key {
        None => None,
        Some(key) => Some(columns.iter().position(|column| column == key).ok_or_else(|| {
            format!("{name} has no column {key:?}; it has {}", columns.iter().collect::<Vec<_>>().join(", "))
        })?),
    };
    Ok(rows.into_records().map(move |row| {
        let row = row.map_err(|e| csv_error(&name, &e))?;
        let mut line = csv::WriterBuilder::new().terminator(csv::Terminator::Any(b'\n')).from_writer(Vec::new());
        line.write_record(&row)?;
        let mut line = line.into_inner().map_err(|e| e.to_string())?;
        line.pop();
        let key = key_column.and_then(|column| row.get(column)).map(String::from);
        Ok(described(keyed(Record::new(line), key), &name, "text/csv"))
    }))
}

fn csv_error(name: &str, error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Utf8 { pos, err } => {
            let line = pos.as_ref().map_or(0, csv::Position::line);
            format!("{name}, line {line}: not UTF-8 in field {}", err.field() + 1)
        }
        _ => format!("{name}: {error}"),
    }
}

fn not_utf8(name: &str, line: u64, error: std::str::Utf8Error) -> String {
    format!("{name}, line {line}: not UTF-8 at byte {} of the line", error.valid_up_to() + 1)
}

fn parse_json(name: &str, line: u64, text: &str) -> Outcome<Value> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(format!("{name}, line {line}: not a JSON object").into()),
        Err(e) => Err(format!("{name}, line {line}: not JSON at column {}", e.column()).into()),
    }
}

/// The text of a field; a first line without it is taken for a misspelt name.
fn key_in_json(name: &str, line: u64, value: &Value, field: &str) -> Outcome<Option<String>> {
    match value.get(field) {
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Null) => Ok(None),
        Some(other) => Ok(Some(other.to_string())),
        None if line > 1 => Ok(None),
        None => {
            let fields: Vec<&str> = value.as_object().into_iter().flat_map(|o| o.keys().map(String::as_str)).collect();
            Err(format!("{name}, line 1: no field {field:?}; it has {}", fields.join(", ")).into())
        }
    }
}

fn keyed(record: Record, key: Option<String>) -> Record {
    match key {
        Some(key) => record.key(key),
        None => record,
    }
}

fn described(record: Record, source: &str, content_type: &str) -> Record {
    record.header("source", source).header("content-type", content_type)
}

/// A legal topic name made from a file's.
fn topic_for(name: &str) -> String {
    let stem = Path::new(name).file_stem().map_or_else(|| "file".into(), |stem| stem.to_string_lossy());
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    stem.chars().map(legal).take(200).collect()
}

//! The command line, by hand: four options do not need a parser.

use std::ffi::OsString;
use std::path::PathBuf;

pub(crate) const USAGE: &str = "\
Produces events into ./data, reads them with a group of three members, and prints what happened.

usage: quickstart [--times N] [--key FIELD] [--reset]
       quickstart --file PATH [--key FIELD] [--reset]

  --times N     replay the bundled data set N times; without it, until a million records are produced
  --file PATH   take this file instead, once; `-` is the standard input. A file that ends in .csv is read as
                CSV with a header, lines that start with `{` as JSON, anything else as plain lines
  --key FIELD   the JSON field or CSV column that becomes the record's key; records without one are spread
  --reset       delete ./data first
  --help        print this";

/// What to produce.
pub(crate) enum Source {
    /// The data set that comes with the example, this many times over; `None` is a million records.
    Bundled {
        times: Option<u64>,
    },
    File(PathBuf),
    StandardInput,
}

pub(crate) struct Args {
    pub(crate) source: Source,
    pub(crate) key: Option<String>,
    pub(crate) reset: bool,
}

/// `None` when help was asked for.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Option<Args>, String> {
    let mut words = words.into_iter();
    let (mut times, mut file, mut key, mut reset) = (None, None, None, false);
    while let Some(word) = words.next() {
        let option = word.to_string_lossy().into_owned();
        let mut value = || words.next().ok_or_else(|| format!("{option} needs a value (see --help)"));
        match option.as_str() {
            "--times" => times = Some(count(&value()?)?),
            "--file" => file = Some(value()?),
            "--key" => key = Some(value()?.to_string_lossy().into_owned()),
            "--reset" => reset = true,
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("unknown option {option:?} (see --help)")),
        }
    }
    let source = match (file, times) {
        (Some(_), Some(_)) => return Err("--times is for the bundled data set; a --file is taken once".into()),
        (Some(file), None) if file == "-" => Source::StandardInput,
        (Some(file), None) => Source::File(file.into()),
        (None, times) => Source::Bundled { times },
    };
    Ok(Some(Args { source, key, reset }))
}

fn count(word: &OsString) -> Result<u64, String> {
    let number = word.to_str().and_then(|text| text.parse().ok()).filter(|n| *n > 0);
    number.ok_or_else(|| format!("--times needs a whole number above 0, not {word:?}"))
}

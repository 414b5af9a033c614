//! Kafka's small text files: offset checkpoints, `leader-epoch-checkpoint`, `partition.metadata`.
//!
//! A checkpoint is a version line (`0`), a line with the number of entries, then one entry per line;
//! a file of 0 bytes has no entries. Writing the files durably is the caller's work. Reading is
//! strict: anything unexpected is `ErrorKind::Corrupt` and names its line.

use std::fmt::Display;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::types::{LeaderEpoch, Offset, TopicPartition, Uuid};

/// Kafka's name for the leader epochs of a partition.
pub(crate) const LEADER_EPOCHS: &str = "leader-epoch-checkpoint";
/// Kafka's name for the file that ties a partition's directory to its topic's id.
pub(crate) const PARTITION_METADATA: &str = "partition.metadata";

/// The text of an offset checkpoint, such as `recovery-point-offset-checkpoint`.
pub(crate) fn encode_offsets(offsets: &[(TopicPartition, Offset)]) -> String {
    encode(offsets.iter().map(|(at, offset)| format!("{} {} {offset}", at.topic(), at.partition())))
}

pub(crate) fn decode_offsets(bytes: &[u8]) -> Result<Vec<(TopicPartition, Offset)>> {
    decode(bytes, |[topic, partition, offset]| {
        let partition = natural::<i32>("partition", partition)?;
        Ok((TopicPartition::new(topic, partition), Offset::new(natural("offset", offset)?)))
    })
}

/// The text of `leader-epoch-checkpoint`.
pub(crate) fn encode_epochs(epochs: &[(LeaderEpoch, Offset)]) -> String {
    encode(epochs.iter().map(|(epoch, start)| format!("{epoch} {start}")))
}

pub(crate) fn decode_epochs(bytes: &[u8]) -> Result<Vec<(LeaderEpoch, Offset)>> {
    decode(bytes, |[epoch, start]| {
        Ok((LeaderEpoch::new(natural("epoch", epoch)?), Offset::new(natural("start offset", start)?)))
    })
}

/// The text of `partition.metadata`, which ties a partition directory to its topic's id.
pub(crate) fn encode_partition_metadata(topic_id: Uuid) -> String {
    format!("version: 0\ntopic_id: {topic_id}")
}

pub(crate) fn decode_partition_metadata(bytes: &[u8]) -> Result<Uuid> {
    let lines = lines(bytes)?;
    let field = |number: usize, name| {
        let line = lines.get(number).copied().unwrap_or_default();
        let value = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')).map(str::trim);
        value.ok_or_else(|| bad_line(number, line, format!("expected `{name}: ...`")))
    };
    natural::<i32>("version", field(0, "version")?).map_err(|why| bad_line(0, lines[0], why))?;
    let id = field(1, "topic_id")?;
    match id.parse() {
        Ok(id) if id != Uuid::ZERO => Ok(id),
        _ => Err(bad_line(1, lines[1], format!("{id:?} is no topic id"))),
    }
}

fn encode(entries: impl ExactSizeIterator<Item = String>) -> String {
    let mut text = format!("0\n{}\n", entries.len());
    for entry in entries {
        text.push_str(&entry);
        text.push('\n');
    }
    text
}

/// Reads a checkpoint whose entries have `FIELDS` fields.
fn decode<'a, T, const FIELDS: usize>(
    bytes: &'a [u8],
    entry: impl Fn([&'a str; FIELDS]) -> Result<T, String>,
) -> Result<Vec<T>> {
    let lines = lines(bytes)?;
    let Some((&version, rest)) = lines.split_first() else { return Ok(Vec::new()) };
    if version != "0" {
        return Err(bad_line(0, version, "expected version 0"));
    }
    let count = rest.first().copied().unwrap_or_default();
    let entries = rest.get(1..).unwrap_or_default();
    if natural::<i32>("number of entries", count).ok().and_then(|n| usize::try_from(n).ok()) != Some(entries.len()) {
        return Err(bad_line(1, count, format!("the number of entries is {}", entries.len())));
    }
    let parse = |(number, line): (usize, &&'a str)| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let fields = fields.try_into().map_err(|_| format!("expected {FIELDS} fields"));
        fields.and_then(&entry).map_err(|why| bad_line(number + 2, line, why))
    };
    entries.iter().enumerate().map(parse).collect()
}

fn lines(bytes: &[u8]) -> Result<Vec<&str>> {
    let text = std::str::from_utf8(bytes);
    text.map(|text| text.lines().collect()).map_err(|e| Error::new(ErrorKind::Corrupt, "not a text file").source(e))
}

/// A number that is not negative.
fn natural<T: FromStr + PartialOrd + Default>(what: &str, text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|n| *n >= T::default());
    number.ok_or_else(|| format!("{text:?} is no {what}"))
}

/// `number` counts from 0, the message from 1.
fn bad_line(number: usize, line: &str, why: impl Display) -> Error {
    let shown: String = line.chars().take(80).collect();
    Error::new(ErrorKind::Corrupt, format!("line {} is {shown:?}: {why}", number + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_checkpoint_is_kafkas() {
        let text = "0\n2\nt 0 5\na.b_c 12 0\n";
        let offsets =
            vec![(TopicPartition::new("t", 0), Offset::new(5)), (TopicPartition::new("a.b_c", 12), Offset::ZERO)];
        assert_eq!(encode_offsets(&offsets), text);
        assert_eq!(decode_offsets(text.as_bytes()).unwrap(), offsets);
        assert_eq!(decode_offsets(b"0\r\n2\r\nt  0\t5\r\na.b_c 12 0").unwrap(), offsets);
        assert_eq!(decode_offsets(b"").unwrap(), []);
        assert_eq!(decode_offsets(encode_offsets(&[]).as_bytes()).unwrap(), []);
    }

    #[test]
    fn epoch_checkpoint_is_kafkas() {
        let epochs = vec![(LeaderEpoch::new(0), Offset::ZERO), (LeaderEpoch::new(3), Offset::new(57))];
        assert_eq!(encode_epochs(&epochs), "0\n2\n0 0\n3 57\n");
        assert_eq!(decode_epochs(b"0\n2\n0 0\n3 57\n").unwrap(), epochs);
    }

    #[test]
    fn damage_names_its_line() {
        for (text, line) in [
            ("1\n0\n", "line 1"),
            ("0", "line 2"),
            ("0\nx\n", "line 2"),
            ("0\n-1\n", "line 2"),
            ("0\n2\nt 0 5\n", "line 2"),
            ("0\n1\nt 0 5\n\n", "line 2"),
            ("0\n2\nt 0 5\nt 1\n", "line 4"),
            ("0\n1\nt 0 5 6\n", "line 3"),
            ("0\n1\nt -1 5\n", "line 3"),
            ("0\n1\nt 0 99999999999999999999\n", "line 3"),
        ] {
            let error = decode_offsets(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().starts_with(line), "{text:?}: {error}");
        }
        assert_eq!(decode_offsets(b"0\n\xff").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn partition_metadata_is_kafkas() {
        let text = "version: 0\ntopic_id: 5L6g3nShT-eMCtK--X86sw";
        let id: Uuid = "5L6g3nShT-eMCtK--X86sw".parse().unwrap();
        assert_eq!(encode_partition_metadata(id), text);
        for text in [text.to_owned(), format!("{text}\n"), format!("{text}\r\n"), text.replace('\n', "\r\n")] {
            assert_eq!(decode_partition_metadata(text.as_bytes()).unwrap(), id);
        }
        for (text, line) in [
            ("", "line 1"),
            ("version: -1\ntopic_id: 5L6g3nShT-eMCtK--X86sw", "line 1"),
            ("version: 0", "line 2"),
            ("version: 0\ntopic: 5L6g3nShT-eMCtK--X86sw", "line 2"),
            ("version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA", "line 2"),
        ] {
            let error = decode_partition_metadata(text.as_bytes()).unwrap_err();
            assert!(error.kind() == ErrorKind::Corrupt && error.to_string().starts_with(line), "{text:?}: {error}");
        }
    }
}

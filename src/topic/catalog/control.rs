//! The control records of the metadata log and of its snapshots, as bytes: who votes, who leads, where
//! a snapshot starts and ends. src: `clients/src/main/resources/common/message/*.json`
//!
//! LeaderChange is only read. (Its version 1 in a log makes a stock 4.4.0 exit.)

use crate::error::{Error, ErrorKind, Result};
use crate::record::ControlType;
use crate::types::{Timestamp, Uuid};
use crate::wire::{Reader, Writer};

/// One voter of the metadata quorum (KIP-853).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Voter {
    pub(crate) id: i32,
    pub(crate) directory_id: Uuid,
    pub(crate) endpoints: Vec<Endpoint>,
    /// The range of `kraft.version` that it speaks.
    pub(crate) kraft_versions: (i16, i16),
}

/// Where a voter listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The content of one control record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ControlRecord {
    LeaderChange {
        voters: Vec<i32>,
    },
    SnapshotHeader {
        last_timestamp: Timestamp,
    },
    SnapshotFooter,
    KRaftVersion(i16),
    Voters(Vec<Voter>),
    /// A type that says nothing to a catalog: Kafka passes over those too.
    Other,
}

impl ControlRecord {
    /// Reads the value of a control record of a given type.
    pub(crate) fn decode(kind: ControlType, value: &[u8]) -> Result<Self> {
        if matches!(kind, ControlType::Abort | ControlType::Commit | ControlType::Unknown(_)) {
            return Ok(Self::Other);
        }
        let mut r = Reader::new(value);
        let version = r.i16()?;
        Ok(match kind {
            ControlType::LeaderChange => {
                r.i32()?; // the leader
                Self::LeaderChange { voters: read_voter_ids(version, &mut r)? }
            }
            ControlType::SnapshotHeader => Self::SnapshotHeader { last_timestamp: r.i64()?.into() },
            ControlType::SnapshotFooter => Self::SnapshotFooter,
            ControlType::KRaftVersion => Self::KRaftVersion(r.i16()?),
            ControlType::KRaftVoters => Self::Voters(read_voters(&mut r)?),
            _ => Self::Other,
        })
    }

    /// Writes a control record's value, in version 0.
    pub(crate) fn encode(&self) -> Result<(ControlType, Vec<u8>)> {
        let mut w = Writer::new();
        w.put_i16(0);
        let kind = match self {
            Self::SnapshotHeader { last_timestamp } => {
                w.put_i64(last_timestamp.get());
                ControlType::SnapshotHeader
            }
            Self::SnapshotFooter => ControlType::SnapshotFooter,
            Self::KRaftVersion(version) => {
                w.put_i16(*version);
                ControlType::KRaftVersion
            }
            Self::Voters(voters) => {
                put_voters(&mut w, voters)?;
                ControlType::KRaftVoters
            }
            Self::LeaderChange { .. } | Self::Other => {
                return Err(Error::new(ErrorKind::Unsupported, "only a quorum's leader writes this control record"));
            }
        };
        w.put_tagged_fields(&[])?;
        Ok((kind, w.into_vec()))
    }
}

fn skip_tags(r: &mut Reader<'_>) -> Result<()> {
    r.tagged_fields(|_, _| Ok(()))
}

fn read_voter_ids(version: i16, r: &mut Reader<'_>) -> Result<Vec<i32>> {
    let count = r.compact_array_len(size_of::<i32>())?.unwrap_or_default();
    let mut voters = Vec::with_capacity(count);
    for _ in 0..count {
        voters.push(r.i32()?);
        if version >= 1 {
            r.uuid()?;
        }
        skip_tags(r)?;
    }
    Ok(voters)
}

fn read_voters(r: &mut Reader<'_>) -> Result<Vec<Voter>> {
    let count = r.compact_array_len(size_of::<i32>() + size_of::<Uuid>())?.unwrap_or_default();
    (0..count).map(|_| read_voter(r)).collect()
}

fn read_voter(r: &mut Reader<'_>) -> Result<Voter> {
    let (id, directory_id) = (r.i32()?, r.uuid()?);
    let count = r.compact_array_len(5)?.unwrap_or_default();
    let mut endpoints = Vec::with_capacity(count);
    for _ in 0..count {
        let (name, host) = (r.compact_string()?.to_owned(), r.compact_string()?.to_owned());
        let port = r.i16()?.cast_unsigned();
        skip_tags(r)?;
        endpoints.push(Endpoint { name, host, port });
    }
    let kraft_versions = (r.i16()?, r.i16()?);
    skip_tags(r)?; // of the version range
    skip_tags(r)?; // of the voter
    Ok(Voter { id, directory_id, endpoints, kraft_versions })
}

fn put_voters(w: &mut Writer, voters: &[Voter]) -> Result<()> {
    w.put_compact_array_len(voters.len())?;
    for voter in voters {
        w.put_i32(voter.id);
        w.put_uuid(voter.directory_id);
        w.put_compact_array_len(voter.endpoints.len())?;
        for endpoint in &voter.endpoints {
            w.put_compact_string(&endpoint.name)?;
            w.put_compact_string(&endpoint.host)?;
            w.put_i16(endpoint.port.cast_signed());
            w.put_tagged_fields(&[])?;
        }
        w.put_i16(voter.kraft_versions.0);
        w.put_i16(voter.kraft_versions.1);
        w.put_tagged_fields(&[])?;
        w.put_tagged_fields(&[])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::hex;
    use super::*;

    const LEADER_CHANGE: &str = "0000 00000001 02 00000001 00 02 00000001 00 00";
    const VOTERS: &str = "0000 02 00000001 666f6f62617262617a71757831323334 02 0b 434f4e54524f4c4c4552 0a 6c6f63616c686f7374 \
                          2385 00 0000 0001 00 00 00";

    /// Values of control records that stock brokers accepted.
    #[test]
    fn control_records_are_kafkas_bytes() {
        let voter = Voter {
            id: 1,
            directory_id: "Zm9vYmFyYmF6cXV4MTIzNA".parse().unwrap(),
            endpoints: vec![Endpoint { name: "CONTROLLER".into(), host: "localhost".into(), port: 9093 }],
            kraft_versions: (0, 1),
        };
        let header = ControlRecord::SnapshotHeader { last_timestamp: 1_700_000_000_000.into() };
        for (record, kind, value) in [
            (header, ControlType::SnapshotHeader, "0000 0000018bcfe56800 00"),
            (ControlRecord::SnapshotFooter, ControlType::SnapshotFooter, "0000 00"),
            (ControlRecord::KRaftVersion(1), ControlType::KRaftVersion, "0000 0001 00"),
            (ControlRecord::Voters(vec![voter]), ControlType::KRaftVoters, VOTERS),
        ] {
            assert_eq!(record.encode().unwrap(), (kind, hex(value)));
            assert_eq!(ControlRecord::decode(kind, &hex(value)).unwrap(), record);
        }
    }

    #[test]
    fn a_leaders_voters_are_read_in_both_versions() {
        let with_directories = "0001 00000001 02 00000001 666f6f62617262617a71757831323334 00 01 00";
        for value in [LEADER_CHANGE, with_directories] {
            let decoded = ControlRecord::decode(ControlType::LeaderChange, &hex(value)).unwrap();
            assert_eq!(decoded, ControlRecord::LeaderChange { voters: vec![1] });
        }
        assert_eq!(ControlRecord::decode(ControlType::Unknown(9), &[]).unwrap(), ControlRecord::Other);
        assert!(ControlRecord::decode(ControlType::KRaftVoters, &hex("0000 7f")).is_err());
    }
}

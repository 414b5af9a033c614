//! Keys of `__consumer_offsets`: what a record is about, and which keys must be deleted together for a
//! stock broker to replay the log (it refuses a group's tombstone while anything of the group is left).

use std::collections::BTreeSet;
use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::types::TopicPartition;
use crate::wire::{Reader, Writer};

/// Under which protocol a group's members work together, in Kafka's words (`group.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum GroupType {
    /// Members join and sync. Groups of this process are of this type, and so is a group that only
    /// committed offsets.
    Classic,
    /// The newer consumer protocol (KIP-848).
    Consumer,
    /// A share group (KIP-932): its members take records, not partitions.
    Share,
    /// A Kafka Streams group (KIP-1071).
    Streams,
}

impl fmt::Display for GroupType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
            Self::Share => "share",
            Self::Streams => "streams",
        })
    }
}

/// Key types of one group and of one member of it, as a broker deletes them.
struct Family {
    group: &'static [i16],
    member: &'static [i16],
}

const CONSUMER_EPOCH: i16 = 3;
const CONSUMER: Family = Family { group: &[CONSUMER_EPOCH, 4, 6], member: &[5, 7, 8] };
const STREAMS: Family = Family { group: &[17, 20, 23], member: &[19, 21, 22] };

/// What a record of `__consumer_offsets` is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Types 0 and 1.
    Offset { group: String, partition: TopicPartition },
    /// Type 2: a classic group.
    Group { group: String },
    /// A record of a group of another type. `is_epoch`: the one whose value tells the group's epoch.
    Typed { group: String, group_type: GroupType, is_epoch: bool },
    /// Known, and of no interest here: a share group's bookkeeping of partitions (type 15).
    Passed,
    /// A type that this release does not know.
    Unknown(i16),
}

impl Key {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let key_type = reader.i16()?;
        let group_type = match key_type {
            0..=2 => GroupType::Classic,
            3..=8 | 16 => GroupType::Consumer,
            10..=14 => GroupType::Share,
            15 => return Ok(Self::Passed),
            17 | 19..=23 => GroupType::Streams,
            unknown => return Ok(Self::Unknown(unknown)),
        };
        let group = reader.string()?.to_owned();
        Ok(match key_type {
            0 | 1 => {
                let topic = reader.string()?;
                Self::Offset { group, partition: TopicPartition::new(topic, reader.i32()?) }
            }
            2 => Self::Group { group },
            // A member's id, or a pattern: read to be sure of it.
            5 | 7 | 8 | 10 | 13 | 14 | 16 | 19 | 21 | 22 if reader.string().map(str::is_empty)? => {
                return Err(Error::new(ErrorKind::Corrupt, "a member's record without a member id"));
            }
            _ => Self::Typed { group, group_type, is_epoch: key_type == CONSUMER_EPOCH },
        })
    }
}

pub(crate) fn offset_key(group: &str, partition: &TopicPartition) -> Result<Vec<u8>> {
    let mut writer = Writer::new();
    writer.put_i16(1);
    writer.put_string(group)?;
    writer.put_string(partition.topic())?;
    writer.put_i32(partition.partition().get());
    Ok(writer.into_vec())
}

pub(crate) fn group_key(group: &str) -> Result<Vec<u8>> {
    let mut writer = Writer::new();
    writer.put_i16(2);
    writer.put_string(group)?;
    Ok(writer.into_vec())
}

/// All keys to delete where `live` is what the log holds of a consumer or streams group, in the order in
/// which a broker deletes them: what depends on others first, the group's epoch last. Keys that were never
/// written are among them: a broker that replays the log asks for all or nothing of each member.
pub(crate) fn keys_to_delete<'a>(live: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<Vec<u8>> {
    let mut all = BTreeSet::new();
    for key in live {
        let Some((key_type, rest)) = key.split_first_chunk() else { continue };
        let key_type = i16::from_be_bytes(*key_type);
        let family = if key_type >= 17 { &STREAMS } else { &CONSUMER };
        let of = |key_type: &i16| [&key_type.to_be_bytes()[..], rest].concat();
        match family.member.contains(&key_type) {
            true => all.extend(family.member.iter().map(of)),
            false => drop(all.insert(key.clone())),
        }
        // The group's name leads every key: a length and its bytes.
        let name = Reader::new(rest).string().map_or(0, |name| 2 + name.len());
        let group = rest.get(..name).unwrap_or_default();
        all.extend(family.group.iter().map(|key_type| [&key_type.to_be_bytes()[..], group].concat()));
    }
    all.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::vectors::{bytes, records};

    #[test]
    fn keys_match_the_vectors() {
        let tp = TopicPartition::new("t1", 3);
        assert_eq!(offset_key("g1", &tp).unwrap(), bytes("0001000267310002743100000003"));
        assert_eq!(group_key("g1").unwrap(), bytes("000200026731"));
        for version in ["0000", "0001"] {
            let key = bytes(&format!("{version}000267310002743100000003"));
            assert_eq!(Key::decode(&key).unwrap(), Key::Offset { group: "g1".into(), partition: tp.clone() });
        }
        for (unused, number) in [("0009ff", 9), ("0012ff", 18), ("0063ff", 99), ("ffff", -1)] {
            assert_eq!(Key::decode(&bytes(unused)).unwrap(), Key::Unknown(number));
        }
        for damaged in ["", "00", "0001000267", "0002ffff", "000300ff67", "0005000267ff"] {
            assert_eq!(Key::decode(&bytes(damaged)).unwrap_err().kind(), ErrorKind::Corrupt, "{damaged}");
        }
    }

    #[test]
    fn keys_that_a_broker_wrote_tell_group_and_type() {
        let typed = |prefix: &str, group: &str, group_type: GroupType| {
            let keys = records(prefix);
            assert!(keys.len() > 4, "{prefix}");
            for (name, key, _) in keys {
                match Key::decode(&key).unwrap() {
                    Key::Typed { group: of, group_type: found, is_epoch } => {
                        assert_eq!((of.as_str(), found), (group, group_type), "{name}");
                        assert_eq!(is_epoch, name.starts_with("K43_CG_EPOCH"), "{name}");
                    }
                    other => assert!(other == Key::Passed && name.starts_with("K43_SG_STATE"), "{name}: {other:?}"),
                }
            }
        };
        typed("K43_CG_", "g2", GroupType::Consumer);
        typed("K43_SG_", "sg", GroupType::Share);
        for (_, key, _) in records("K43_CLASSIC_") {
            assert_eq!(Key::decode(&key).unwrap(), Key::Group { group: "g1".into() });
        }
        for key_type in [17, 19, 20, 21, 22, 23] {
            let key = Key::decode(&[0, key_type, 0, 1, b's', 0, 1, b'm']).unwrap();
            let (group_type, is_epoch) = (GroupType::Streams, false);
            assert_eq!(key, Key::Typed { group: "s".into(), group_type, is_epoch });
        }
    }

    #[test]
    fn a_group_is_deleted_whole_and_its_epoch_last() {
        let key = |key_type: u8, member: &str| {
            let mut key = vec![0, key_type, 0, 1, b'g'];
            if !member.is_empty() {
                key.extend([0, 1]);
                key.extend(member.bytes());
            }
            key
        };
        let live = [key(3, ""), key(5, "a"), key(8, "b"), key(16, "x")];
        let types: Vec<_> = keys_to_delete(&live).iter().map(|key| (key[1], key.last().copied().unwrap())).collect();
        let (a, b, x, g) = (b'a', b'b', b'x', b'g');
        assert_eq!(types, [(16, x), (8, b), (8, a), (7, b), (7, a), (6, g), (5, b), (5, a), (4, g), (3, g)]);
        let types: Vec<_> = keys_to_delete(&[key(19, "m")]).iter().map(|key| key[1]).collect();
        assert_eq!(types, [23, 22, 21, 20, 19, 17]);
        assert_eq!(keys_to_delete([]), Vec::<Vec<u8>>::new());
    }
}

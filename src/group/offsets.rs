//! The records of `__consumer_offsets`, byte for byte as Kafka's (KIP-211, KIP-447, KIP-848): what a
//! key is about, committed offsets, a classic group's metadata, and the `consumer` protocol's two
//! embedded structures, which stock tools expect inside that metadata.
//!
//! Read: offset values 0 to 4, group values 0 to 3. Written: version 3 of both, the newest that 3.9
//! and 4.x read alike. Keys of other kinds are recognised so that they can be passed over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::types::{LeaderEpoch, Offset, Timestamp, TopicPartition};
use crate::wire::{Reader, Writer};

const VALUE_VERSION: i16 = 3;

/// What a record of `__consumer_offsets` is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Key types 0 and 1.
    Offset { group: String, partition: TopicPartition },
    /// Key type 2: a classic group.
    Group { group: String },
    /// Key types 3 to 8 and 16: a group of the newer protocol (KIP-848).
    NewProtocol { group: String },
    /// Share groups, streams groups and whatever comes after them.
    Other,
}

impl Key {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        Ok(match reader.i16()? {
            0 | 1 => {
                let group = reader.string()?.to_owned();
                let topic = reader.string()?;
                Self::Offset { group, partition: TopicPartition::new(topic, reader.i32()?) }
            }
            2 => Self::Group { group: reader.string()?.to_owned() },
            3..=8 | 16 => Self::NewProtocol { group: reader.string()?.to_owned() },
            _ => Self::Other,
        })
    }

    pub(crate) fn group(&self) -> Option<&str> {
        match self {
            Self::Offset { group, .. } | Self::Group { group } | Self::NewProtocol { group } => Some(group),
            Self::Other => None,
        }
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

/// How far a group has read in one partition: the offset of the next record that it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    offset: Offset,
    leader_epoch: Option<LeaderEpoch>,
    metadata: String,
    committed_at: Timestamp,
}

impl CommittedOffset {
    pub(crate) fn new(offset: Offset, leader_epoch: Option<LeaderEpoch>, metadata: String, at: Timestamp) -> Self {
        Self { offset, leader_epoch, metadata, committed_at: at }
    }

    /// The next offset to read, one past the last record that was handled.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The leader epoch of the last record that was handled, where the committer knew it (KIP-320).
    #[must_use]
    pub fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.leader_epoch
    }

    /// What the committer wrote beside the offset; often empty.
    #[must_use]
    pub fn metadata(&self) -> &str {
        &self.metadata
    }

    /// When it was committed.
    #[must_use]
    pub fn committed_at(&self) -> Timestamp {
        self.committed_at
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut writer = Writer::new();
        writer.put_i16(VALUE_VERSION);
        writer.put_i64(self.offset.get());
        writer.put_i32(self.leader_epoch.map_or(-1, LeaderEpoch::get));
        writer.put_string(&self.metadata)?;
        writer.put_i64(self.committed_at.get());
        Ok(writer.into_vec())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let version = version_up_to(4, &mut reader, "committed offset")?;
        let offset = Offset::new(reader.i64()?);
        let leader_epoch = if version >= 3 { Some(reader.i32()?).filter(|e| *e >= 0) } else { None };
        // Version 1 adds an expiry time and version 4 a topic id, after all that is of use here.
        let metadata = if version >= 4 { reader.compact_string()? } else { reader.string()? };
        let committed_at = Timestamp::new(reader.i64()?);
        Ok(Self {
            offset,
            leader_epoch: leader_epoch.map(LeaderEpoch::new),
            metadata: metadata.to_owned(),
            committed_at,
        })
    }
}

/// A classic group, as its members last agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupMetadata {
    pub(crate) protocol_type: String,
    pub(crate) generation: i32,
    /// The assignor's name.
    pub(crate) protocol: Option<String>,
    pub(crate) leader: Option<String>,
    pub(crate) state_since: Timestamp,
    pub(crate) members: Vec<MemberMetadata>,
}

/// One member of a classic group. Subscription and assignment are bytes whose meaning depends on the
/// protocol type; for `consumer` they are [`Subscription`] and [`Assignment`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberMetadata {
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) session_timeout: Duration,
    pub(crate) subscription: Vec<u8>,
    pub(crate) assignment: Vec<u8>,
}

impl GroupMetadata {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut writer = Writer::new();
        writer.put_i16(VALUE_VERSION);
        writer.put_string(&self.protocol_type)?;
        writer.put_i32(self.generation);
        writer.put_nullable_string(self.protocol.as_deref())?;
        writer.put_nullable_string(self.leader.as_deref())?;
        writer.put_i64(self.state_since.get());
        writer.put_array_len(self.members.len())?;
        for member in &self.members {
            writer.put_string(&member.member)?;
            writer.put_nullable_string(member.instance.as_deref())?;
            writer.put_string(&member.client_id)?;
            writer.put_string(&member.client_host)?;
            writer.put_i32(millis(member.rebalance_timeout));
            writer.put_i32(millis(member.session_timeout));
            writer.put_bytes(&member.subscription)?;
            writer.put_bytes(&member.assignment)?;
        }
        Ok(writer.into_vec())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let version = version_up_to(3, &mut reader, "group metadata")?;
        let protocol_type = reader.string()?.to_owned();
        let generation = reader.i32()?;
        let protocol = reader.nullable_string()?.map(str::to_owned);
        let leader = reader.nullable_string()?.map(str::to_owned);
        let state_since = if version >= 2 { Timestamp::new(reader.i64()?) } else { Timestamp::NONE };
        let count = reader.array_len(MemberMetadata::MIN_LEN)?.unwrap_or_default();
        let members = (0..count).map(|_| MemberMetadata::decode(version, &mut reader)).collect::<Result<_>>()?;
        Ok(Self { protocol_type, generation, protocol, leader, state_since, members })
    }
}

impl MemberMetadata {
    /// Three strings, a timeout and two byte fields, all empty.
    const MIN_LEN: usize = 3 * 2 + 4 + 2 * 4;

    fn decode(version: i16, reader: &mut Reader<'_>) -> Result<Self> {
        let member = reader.string()?.to_owned();
        let instance = if version >= 3 { reader.nullable_string()?.map(str::to_owned) } else { None };
        let client_id = reader.string()?.to_owned();
        let client_host = reader.string()?.to_owned();
        let first = duration(reader.i32()?);
        // Before version 1 the session timeout bounded the rebalance as well.
        let (rebalance_timeout, session_timeout) =
            if version >= 1 { (first, duration(reader.i32()?)) } else { (first, first) };
        let subscription = reader.bytes()?.to_vec();
        let assignment = reader.bytes()?.to_vec();
        Ok(Self {
            member,
            instance,
            client_id,
            client_host,
            rebalance_timeout,
            session_timeout,
            subscription,
            assignment,
        })
    }
}

/// What a member wants to read (`ConsumerProtocolSubscription`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) topics: Vec<Arc<str>>,
    pub(crate) user_data: Option<Vec<u8>>,
    pub(crate) owned: Vec<TopicPartition>,
    pub(crate) generation: i32,
    pub(crate) rack: Option<String>,
}

impl Subscription {
    pub(crate) fn to(topics: impl IntoIterator<Item = Arc<str>>) -> Self {
        let topics = topics.into_iter().collect();
        Self { topics, user_data: None, owned: Vec::new(), generation: -1, rack: None }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut writer = Writer::new();
        writer.put_i16(VALUE_VERSION);
        writer.put_array_len(self.topics.len())?;
        for topic in &self.topics {
            writer.put_string(topic)?;
        }
        writer.put_nullable_bytes(self.user_data.as_deref())?;
        put_partitions(&mut writer, &self.owned)?;
        writer.put_i32(self.generation);
        writer.put_nullable_string(self.rack.as_deref())?;
        Ok(writer.into_vec())
    }
}

/// What a member was given (`ConsumerProtocolAssignment`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) partitions: Vec<TopicPartition>,
    pub(crate) user_data: Option<Vec<u8>>,
}

impl Assignment {
    pub(crate) fn of(partitions: Vec<TopicPartition>) -> Self {
        Self { partitions, user_data: None }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut writer = Writer::new();
        writer.put_i16(VALUE_VERSION);
        put_partitions(&mut writer, &self.partitions)?;
        writer.put_nullable_bytes(self.user_data.as_deref())?;
        Ok(writer.into_vec())
    }
}

fn put_partitions(writer: &mut Writer, partitions: &[TopicPartition]) -> Result<()> {
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for tp in partitions {
        by_topic.entry(tp.topic()).or_default().push(tp.partition().get());
    }
    writer.put_array_len(by_topic.len())?;
    for (topic, numbers) in by_topic {
        writer.put_string(topic)?;
        writer.put_array_len(numbers.len())?;
        numbers.into_iter().for_each(|n| writer.put_i32(n));
    }
    Ok(())
}

fn version_up_to(newest: i16, reader: &mut Reader<'_>, what: &str) -> Result<i16> {
    let version = reader.i16()?;
    if (0..=newest).contains(&version) {
        return Ok(version);
    }
    let message = format!("{what} of version {version}, this release reads 0 to {newest}");
    Err(Error::new(ErrorKind::Unsupported, message).remedy("a newer Kafka wrote it: use a newer release of this crate"))
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

fn duration(millis: i32) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: i64 = 1_700_000_000_000;
    const SUBSCRIPTION_3: &str = "00030000000100027431ffffffff000000010002743100000001000000000000000400027231";
    const ASSIGNMENT_3: &str = "00030000000100027431000000020000000000000001ffffffff";

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |c: u8| u8::try_from((c as char).to_digit(16).expect("hex")).expect("one digit");
        hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    fn partitions(reader: &mut Reader<'_>) -> Vec<TopicPartition> {
        let mut found = Vec::new();
        for _ in 0..reader.array_len(6).expect("count").unwrap_or_default() {
            let topic: Arc<str> = reader.string().expect("topic").into();
            for _ in 0..reader.array_len(4).expect("count").unwrap_or_default() {
                found.push(TopicPartition::new(topic.clone(), reader.i32().expect("partition")));
            }
        }
        found
    }

    #[test]
    fn keys_match_the_vectors() {
        let tp = TopicPartition::new("t1", 3);
        assert_eq!(offset_key("g1", &tp).unwrap(), bytes("0001000267310002743100000003"));
        assert_eq!(group_key("g1").unwrap(), bytes("000200026731"));
        for version in ["0000", "0001"] {
            let key = bytes(&format!("{version}000267310002743100000003"));
            assert_eq!(Key::decode(&key).unwrap(), Key::Offset { group: "g1".into(), partition: tp.clone() });
        }
        assert_eq!(Key::decode(&bytes("000200026731")).unwrap(), Key::Group { group: "g1".into() });
        // Epoch and member of a KIP-848 group, member of a share group, a type that nobody uses yet.
        let member = "00050002673200167034652d74706643544e36584c4575596c3566566d77";
        for key in ["000300026732", member] {
            assert_eq!(Key::decode(&bytes(key)).unwrap(), Key::NewProtocol { group: "g2".into() });
        }
        for key in ["000a0002736700164b497a5838387171535a754575363261487177347367", "0063ff"] {
            assert_eq!(Key::decode(&bytes(key)).unwrap(), Key::Other);
        }
        assert_eq!(Key::decode(&bytes("0001000267")).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn whatever_a_broker_wrote_into_the_topic_can_be_passed_over() {
        let vectors: serde_json::Value = serde_json::from_str(include_str!("../../tests/data/vectors.json")).unwrap();
        let records = vectors["records"].as_object().unwrap();
        let written = |prefix: &str| {
            let keys = records.iter().filter(move |(name, _)| name.starts_with(prefix) && name.ends_with("_K"));
            keys.map(|(_, vector)| Key::decode(&bytes(vector["hex"].as_str().unwrap())).unwrap()).collect::<Vec<_>>()
        };
        let new_protocol = written("K43_CG_");
        assert!(
            new_protocol.len() > 4 && new_protocol.iter().all(|key| *key == Key::NewProtocol { group: "g2".into() })
        );
        let share = written("K43_SG_");
        assert!(share.len() > 4 && share.iter().all(|key| *key == Key::Other));
        assert_eq!(written("K43_CLASSIC_"), ["g1"; 3].map(|g| Key::Group { group: g.into() }));
    }

    #[test]
    fn committed_offsets_match_the_vectors() {
        let committed = |epoch: Option<i32>| {
            CommittedOffset::new(Offset::new(42), epoch.map(LeaderEpoch::new), "m".into(), Timestamp::new(T))
        };
        let v1 = "0001000000000000002a00016d0000018bcfe568000000018bcfee8fc0";
        let v2 = "0002000000000000002a00016d0000018bcfe56800";
        let v3 = "0003000000000000002a0000000500016d0000018bcfe56800";
        let v4 = "0004000000000000002a00000005026d0000018bcfe5680000";
        assert_eq!(CommittedOffset::decode(&bytes(v1)).unwrap(), committed(None));
        assert_eq!(CommittedOffset::decode(&bytes(v2)).unwrap(), committed(None));
        assert_eq!(CommittedOffset::decode(&bytes(v3)).unwrap(), committed(Some(5)));
        assert_eq!(CommittedOffset::decode(&bytes(v4)).unwrap(), committed(Some(5)));
        assert_eq!(committed(Some(5)).encode().unwrap(), bytes(v3));
        // Written by a 4.3.0 broker: with a topic id as tag 0, and inside a transaction without one.
        let tagged = "0004000000000000000cffffffff056d657461000001a1fd5ef70f0100102c001802abb84045a5f9fc822a81ece9";
        let tagged = CommittedOffset::decode(&bytes(tagged)).unwrap();
        assert_eq!((tagged.offset(), tagged.leader_epoch(), tagged.metadata()), (Offset::new(12), None, "meta"));
        let in_transaction =
            CommittedOffset::decode(&bytes("00040000000000000001ffffffff01000001a1fd5edb7f00")).unwrap();
        assert_eq!((in_transaction.offset(), in_transaction.metadata()), (Offset::new(1), ""));
        assert_eq!(CommittedOffset::decode(&bytes("0005")).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(CommittedOffset::decode(&bytes("000300")).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn the_embedded_protocol_matches_the_vectors() {
        let owned = vec![TopicPartition::new("t1", 0)];
        let subscription = Subscription {
            owned: owned.clone(),
            generation: 4,
            rack: Some("r1".into()),
            ..Subscription::to(["t1".into()])
        };
        assert_eq!(subscription.encode().unwrap(), bytes(SUBSCRIPTION_3));
        let partitions_given = vec![TopicPartition::new("t1", 0), TopicPartition::new("t1", 1)];
        let assignment = Assignment { partitions: partitions_given.clone(), user_data: None };
        assert_eq!(assignment.encode().unwrap(), bytes(ASSIGNMENT_3));
        let encoded = bytes(ASSIGNMENT_3);
        assert_eq!(partitions(&mut Reader::new(&encoded[2..])), partitions_given);
    }

    /// Each version of a subscription only adds fields at the end, so an older one is ours without its tail.
    #[test]
    fn older_subscriptions_are_prefixes_of_ours() {
        let subscription = |owned: &[TopicPartition], generation| {
            let owned = owned.to_vec();
            Subscription { owned, generation, ..Subscription::to(["t1".into()]) }.encode().unwrap()
        };
        let owned = [TopicPartition::new("t1", 0)];
        let (no_rack, no_generation, nothing_owned) = (2, 2 + 4, 2 + 4 + 4);
        for (version, ours, tail, vector) in [
            (0, subscription(&[], -1), nothing_owned, "00000000000100027431ffffffff"),
            (
                1,
                subscription(&owned, -1),
                no_generation,
                "00010000000100027431ffffffff00000001000274310000000100000000",
            ),
            (
                2,
                subscription(&owned, 4),
                no_rack,
                "00020000000100027431ffffffff0000000100027431000000010000000000000004",
            ),
        ] {
            let vector = bytes(vector);
            assert_eq!(vector[..2], [0, version]);
            assert_eq!(vector[2..], ours[2..ours.len() - tail]);
        }
    }

    #[test]
    fn group_metadata_matches_the_vectors() {
        let value = format!(
            "00030008636f6e73756d657200000001000572616e676500026d310000018bcfe568000000000100026d31ffff00016300\
             0a2f3132372e302e302e31000493e00000afc800000026{SUBSCRIPTION_3}0000001a{ASSIGNMENT_3}"
        );
        let decoded = GroupMetadata::decode(&bytes(&value)).unwrap();
        assert_eq!(decoded.members[0].subscription, bytes(SUBSCRIPTION_3));
        assert_eq!(decoded.members[0].rebalance_timeout, Duration::from_secs(300));
        assert_eq!(decoded.encode().unwrap(), bytes(&value));
        // Written by a 4.3.0 broker: before anybody synced, stable, and after the last member left.
        let new = "0003000000000000ffffffff000001a1fd5ee80d00000000";
        let stable = "00030008636f6e73756d657200000001000572616e67650032636f6e73756d65722d67312d312d37356632336264312d\
             346464362d346166382d613933382d636262303539643262646435000001a1fd5ee828000000010032636f6e73756d65\
             722d67312d312d37356632336264312d346464362d346166382d613933382d636262303539643262646435ffff000d63\
             6f6e73756d65722d67312d31000a2f3132372e302e302e31000493e00000afc80000001800030000000100027474ffff\
             ffff00000000ffffffffffff00000016000300000001000274740000000100000000ffffffff";
        let empty = "00030008636f6e73756d657200000002ffffffff000001a1fd5ef71a00000000";
        for value in [new, stable, empty] {
            assert_eq!(GroupMetadata::decode(&bytes(value)).unwrap().encode().unwrap(), bytes(value));
        }
        // Versions 0 to 2 lack timeouts, state time and instance id, one after the other.
        let head = "0001630000000100017200016d";
        let member = "00016d00016300016800000005";
        let versions = [
            format!("0000{head}00000001{member}0000000000000000"),
            format!("0001{head}00000001{member}000000070000000000000000"),
            format!("0002{head}000000000000000900000001{member}000000070000000000000000"),
        ];
        for (version, value) in versions.iter().enumerate() {
            let decoded = GroupMetadata::decode(&bytes(value)).unwrap();
            assert_eq!(decoded.state_since, if version == 2 { 9 } else { -1 });
            let session = if version == 0 { 5 } else { 7 };
            assert_eq!(decoded.members[0].session_timeout, Duration::from_millis(session));
        }
        assert_eq!(
            GroupMetadata::decode(&bytes("0003000000000000ffffffff000001a1fd5ee80d7fffffff")).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
    }
}

//! The values of `__consumer_offsets`, byte for byte as Kafka's (KIP-211, KIP-447, KIP-848): committed
//! offsets, a classic group's metadata, and the `consumer` protocol's two embedded structures, which
//! stock tools expect inside that metadata.
//!
//! Read: versions 0 to 4 of both. Written: version 3 of both, the newest that 3.9 and 4.x read alike.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::types::{LeaderEpoch, Offset, Timestamp, TopicPartition, Uuid};
use crate::wire::{Reader, Writer};

const VALUE_VERSION: i16 = 3;
const NEWEST_VERSION: i16 = 4;
/// From this version on values are flexible: compact lengths, and tagged fields at the end.
const FLEXIBLE: i16 = 4;
/// The tag under which Kafka 4.1 and later notes the topic's id beside a committed offset.
const TOPIC_ID_TAG: u32 = 0;

/// How far a group has read in one partition: the offset of the next record that it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    offset: Offset,
    leader_epoch: Option<LeaderEpoch>,
    metadata: String,
    committed_at: Timestamp,
    topic_id: Option<Uuid>,
}

impl CommittedOffset {
    pub(crate) fn new(offset: Offset, leader_epoch: Option<LeaderEpoch>, metadata: String, at: Timestamp) -> Self {
        Self { offset, leader_epoch, metadata, committed_at: at, topic_id: None }
    }

    /// Notes the topic that it was committed in, unless the record itself says so.
    pub(crate) fn in_topic(mut self, id: Option<Uuid>) -> Self {
        self.topic_id = self.topic_id.or(id);
        self
    }

    /// Whether it may be of the topic `id`: where one of the two is not known, it may.
    pub(crate) fn is_of(&self, id: Option<Uuid>) -> bool {
        self.topic_id.zip(id).is_none_or(|(committed_in, now)| committed_in == now)
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
        let version = version(&mut reader, "committed offset")?;
        let offset = Offset::new(reader.i64()?);
        if offset < Offset::ZERO {
            return Err(Error::new(ErrorKind::Corrupt, format!("committed offset {offset}")));
        }
        let leader_epoch = if version >= 3 { Some(reader.i32()?).filter(|e| *e >= 0) } else { None };
        let metadata = if version >= FLEXIBLE { reader.compact_string()? } else { reader.string()? }.to_owned();
        let committed_at = Timestamp::new(reader.i64()?);
        // Version 1 has an expiry time behind it; committed offsets do not expire here.
        let mut topic_id = None;
        if version >= FLEXIBLE {
            reader.tagged_fields(|tag, field| {
                if tag == TOPIC_ID_TAG {
                    topic_id = Some(Reader::new(field).uuid()?).filter(|id| id.as_bytes() != &[0; 16]);
                }
                Ok(())
            })?;
        }
        Ok(Self { offset, leader_epoch: leader_epoch.map(LeaderEpoch::new), metadata, committed_at, topic_id })
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
        let version = version(&mut reader, "group metadata")?;
        let protocol_type = string(version, &mut reader)?.to_owned();
        let generation = reader.i32()?;
        let protocol = nullable_string(version, &mut reader)?.map(str::to_owned);
        let leader = nullable_string(version, &mut reader)?.map(str::to_owned);
        let state_since = if version >= 2 { Timestamp::new(reader.i64()?) } else { Timestamp::NONE };
        let count = match version >= FLEXIBLE {
            true => reader.compact_array_len(MemberMetadata::MIN_LEN_FLEXIBLE)?,
            false => reader.array_len(MemberMetadata::MIN_LEN)?,
        };
        let members = (0..count.unwrap_or_default()).map(|_| MemberMetadata::decode(version, &mut reader));
        let members = members.collect::<Result<_>>()?;
        if version >= FLEXIBLE {
            reader.tagged_fields(|_, _| Ok(()))?;
        }
        Ok(Self { protocol_type, generation, protocol, leader, state_since, members })
    }
}

impl MemberMetadata {
    /// Three strings, a timeout and two byte fields, all empty.
    const MIN_LEN: usize = 3 * 2 + 4 + 2 * 4;
    /// Four strings, two timeouts, two byte fields and the tagged fields, all empty.
    const MIN_LEN_FLEXIBLE: usize = 4 + 2 * 4 + 2 + 1;

    fn decode(version: i16, reader: &mut Reader<'_>) -> Result<Self> {
        let member = string(version, reader)?.to_owned();
        let instance = if version >= 3 { nullable_string(version, reader)?.map(str::to_owned) } else { None };
        let client_id = string(version, reader)?.to_owned();
        let client_host = string(version, reader)?.to_owned();
        let first = duration(reader.i32()?);
        // Before version 1 the session timeout bounded the rebalance as well.
        let (rebalance_timeout, session_timeout) =
            if version >= 1 { (first, duration(reader.i32()?)) } else { (first, first) };
        let mut field = || if version >= FLEXIBLE { reader.compact_bytes() } else { reader.bytes() };
        let (subscription, assignment) = (field()?.to_vec(), field()?.to_vec());
        if version >= FLEXIBLE {
            reader.tagged_fields(|_, _| Ok(()))?;
        }
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

fn string<'a>(version: i16, reader: &mut Reader<'a>) -> Result<&'a str> {
    if version >= FLEXIBLE { reader.compact_string() } else { reader.string() }
}

fn nullable_string<'a>(version: i16, reader: &mut Reader<'a>) -> Result<Option<&'a str>> {
    if version >= FLEXIBLE { reader.compact_nullable_string() } else { reader.nullable_string() }
}

/// The epoch of a group of the newer consumer protocol, from the value of its metadata record.
pub(crate) fn consumer_group_epoch(bytes: &[u8]) -> Result<i32> {
    let mut reader = Reader::new(bytes);
    match reader.i16()? {
        0 => reader.i32(),
        version => Err(too_new("epoch of a consumer group", version, 0)),
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

fn version(reader: &mut Reader<'_>, what: &str) -> Result<i16> {
    let version = reader.i16()?;
    (0..=NEWEST_VERSION).contains(&version).then_some(version).ok_or_else(|| too_new(what, version, NEWEST_VERSION))
}

fn too_new(what: &str, version: i16, newest: i16) -> Error {
    let message = format!("{what} of version {version}, this release reads 0 to {newest}");
    Error::new(ErrorKind::Unsupported, message).remedy("a newer Kafka wrote it: use a newer release of this crate")
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
    use crate::group::vectors::{bytes, records};

    const T: i64 = 1_700_000_000_000;
    const SUBSCRIPTION_3: &str = "00030000000100027431ffffffff000000010002743100000001000000000000000400027231";
    const ASSIGNMENT_3: &str = "00030000000100027431000000020000000000000001ffffffff";

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
    fn committed_offsets_match_the_vectors() {
        let committed = |epoch: Option<i32>| {
            CommittedOffset::new(Offset::new(42), epoch.map(LeaderEpoch::new), "m".into(), Timestamp::new(T))
        };
        let v0 = "0000000000000000002a00016d0000018bcfe56800";
        let v1 = "0001000000000000002a00016d0000018bcfe568000000018bcfee8fc0";
        let v2 = "0002000000000000002a00016d0000018bcfe56800";
        let v3 = "0003000000000000002a0000000500016d0000018bcfe56800";
        let v4 = "0004000000000000002a00000005026d0000018bcfe5680000";
        assert_eq!(CommittedOffset::decode(&bytes(v0)).unwrap(), committed(None));
        assert_eq!(CommittedOffset::decode(&bytes(v1)).unwrap(), committed(None));
        assert_eq!(CommittedOffset::decode(&bytes(v2)).unwrap(), committed(None));
        assert_eq!(CommittedOffset::decode(&bytes(v3)).unwrap(), committed(Some(5)));
        assert_eq!(CommittedOffset::decode(&bytes(v4)).unwrap(), committed(Some(5)));
        assert_eq!(committed(Some(5)).encode().unwrap(), bytes(v3));
        // Written by a 4.3.0 broker: with a topic id as tag 0, and inside a transaction without one.
        let written = |name: &str| CommittedOffset::decode(&records(name)[0].2).unwrap();
        let tagged = written("K43_OFFSET");
        assert_eq!((tagged.offset(), tagged.leader_epoch(), tagged.metadata()), (Offset::new(12), None, "meta"));
        let id = Uuid::from_bytes(bytes("2c001802abb84045a5f9fc822a81ece9").try_into().unwrap());
        assert!(tagged.is_of(Some(id)) && tagged.is_of(None) && !tagged.is_of(Some(Uuid::from_bytes([1; 16]))));
        let in_transaction = written("K43_TXN_OFFSET");
        assert_eq!((in_transaction.offset(), in_transaction.metadata()), (Offset::new(1), ""));
        assert!(in_transaction.is_of(Some(id)));
        let negative = bytes("0003ffffffffffffffff0000000500000000018bcfe56800");
        assert_eq!(CommittedOffset::decode(&negative).unwrap_err().kind(), ErrorKind::Corrupt);
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
        // Version 4, which Kafka 4.x reads and does not write, is version 3 made flexible.
        let flexible = "00040263000000010272026d000000000000000902026d0002630268000000050000000701010000";
        let decoded = GroupMetadata::decode(&bytes(flexible)).unwrap();
        assert_eq!((decoded.leader.as_deref(), decoded.members[0].instance.as_deref()), (Some("m"), None));
        assert_eq!(decoded.members[0].session_timeout, Duration::from_millis(7));
        for hostile in
            ["0003000000000000ffffffff000001a1fd5ee80d7fffffff", "000401000000000000000000000000000000ffffffff0f"]
        {
            assert_eq!(GroupMetadata::decode(&bytes(hostile)).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        assert_eq!(GroupMetadata::decode(&bytes("0005")).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn the_epoch_of_a_consumer_group_matches_the_vectors() {
        let epochs: Vec<_> =
            records("K43_CG_EPOCH").iter().map(|(_, _, value)| consumer_group_epoch(value).unwrap()).collect();
        assert_eq!(epochs, [2, 3]);
        assert_eq!(consumer_group_epoch(&bytes("000100000002")).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

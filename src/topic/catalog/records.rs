//! The data records of Kafka's KRaft metadata log, as bytes: frame version 1, record id, version,
//! flexible body.
//!
//! Unknown tagged fields are skipped, as Kafka does; an unknown record id or version is `Unsupported`,
//! never guessed. What a record changes is the image's business. Versions written are the lowest that
//! carry the content, so that 3.9 reads them. src: `metadata/src/main/resources/common/metadata/*.json`

use crate::error::{Error, ErrorKind, Result};
use crate::types::Uuid;
use crate::wire::{Reader, Writer};

/// The only frame version that there is.
const FRAME: u32 = 1;

/// Record ids.
mod id {
    pub(super) const REGISTER_BROKER: u32 = 0;
    pub(super) const UNREGISTER_BROKER: u32 = 1;
    pub(super) const TOPIC: u32 = 2;
    pub(super) const PARTITION: u32 = 3;
    pub(super) const CONFIG: u32 = 4;
    pub(super) const PARTITION_CHANGE: u32 = 5;
    pub(super) const FENCE_BROKER: u32 = 7;
    pub(super) const UNFENCE_BROKER: u32 = 8;
    pub(super) const REMOVE_TOPIC: u32 = 9;
    pub(super) const DELEGATION_TOKEN: u32 = 10;
    pub(super) const USER_SCRAM_CREDENTIAL: u32 = 11;
    pub(super) const FEATURE_LEVEL: u32 = 12;
    pub(super) const CLIENT_QUOTA: u32 = 14;
    pub(super) const PRODUCER_IDS: u32 = 15;
    pub(super) const BROKER_REGISTRATION_CHANGE: u32 = 17;
    pub(super) const ACCESS_CONTROL_ENTRY: u32 = 18;
    pub(super) const REMOVE_ACCESS_CONTROL_ENTRY: u32 = 19;
    pub(super) const NO_OP: u32 = 20;
    pub(super) const ZK_MIGRATION_STATE: u32 = 21;
    pub(super) const REMOVE_USER_SCRAM_CREDENTIAL: u32 = 22;
    pub(super) const BEGIN_TRANSACTION: u32 = 23;
    pub(super) const END_TRANSACTION: u32 = 24;
    pub(super) const ABORT_TRANSACTION: u32 = 25;
    pub(super) const REMOVE_DELEGATION_TOKEN: u32 = 26;
    pub(super) const REGISTER_CONTROLLER: u32 = 27;
    pub(super) const CLEAR_ELR: u32 = 28;
}

/// What a config belongs to: Kafka's `ConfigResource.Type` and a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Resource {
    pub(crate) kind: i8,
    pub(crate) name: String,
}

impl Resource {
    pub(crate) const TOPIC: i8 = 2;
    /// With the name of a node, or the empty one for all.
    pub(crate) const BROKER: i8 = 4;

    pub(crate) fn topic(name: impl Into<String>) -> Self {
        Self { kind: Self::TOPIC, name: name.into() }
    }
}

/// All that the catalog says about one partition beside its name.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct PartitionState {
    pub(crate) replicas: Vec<i32>,
    pub(crate) isr: Vec<i32>,
    pub(crate) removing: Vec<i32>,
    pub(crate) adding: Vec<i32>,
    /// -1: none at the moment.
    pub(crate) leader: i32,
    /// 0 recovered, 1 recovering after an unclean election.
    pub(crate) recovery: i8,
    pub(crate) leader_epoch: i32,
    pub(crate) partition_epoch: i32,
    /// The directory of each replica; empty where version 0 said nothing.
    pub(crate) directories: Vec<Uuid>,
    /// Eligible leader replicas (KIP-966).
    pub(crate) elr: Vec<i32>,
    /// Eligible leader replicas before the last unclean shutdown.
    pub(crate) last_known_elr: Vec<i32>,
}

/// What changes about a partition; `None` leaves it as it is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct PartitionChange {
    pub(crate) isr: Option<Vec<i32>>,
    pub(crate) leader: Option<i32>,
    pub(crate) replicas: Option<Vec<i32>>,
    pub(crate) removing: Option<Vec<i32>>,
    pub(crate) adding: Option<Vec<i32>>,
    pub(crate) recovery: Option<i8>,
    pub(crate) elr: Option<Vec<i32>>,
    pub(crate) last_known_elr: Option<Vec<i32>>,
    pub(crate) directories: Option<Vec<Uuid>>,
}

/// What changes about a broker's registration; `None` leaves it as it is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct RegistrationChange {
    /// 1 fences the broker, -1 lifts that.
    pub(crate) fenced: Option<i8>,
    pub(crate) in_controlled_shutdown: Option<i8>,
    pub(crate) log_dirs: Option<Vec<Uuid>>,
    pub(crate) cordoned_log_dirs: Option<Vec<Uuid>>,
}

/// One data record of the metadata log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MetadataRecord {
    FeatureLevel {
        name: String,
        level: i16,
    },
    Topic {
        name: String,
        id: Uuid,
    },
    Partition {
        topic: Uuid,
        partition: i32,
        state: PartitionState,
    },
    PartitionChange {
        topic: Uuid,
        partition: i32,
        change: PartitionChange,
    },
    /// A `value` of `None` removes the config.
    Config {
        resource: Resource,
        name: String,
        value: Option<String>,
    },
    RemoveTopic {
        id: Uuid,
    },
    /// Empties the eligible leader replicas of one topic, or of all when the name is empty.
    ClearElr {
        topic: String,
    },
    ProducerIds {
        broker: i32,
        broker_epoch: i64,
        next: i64,
    },
    /// Kept as it is; the rest is read from it.
    RegisterBroker {
        id: i32,
        epoch: i64,
        fenced: bool,
        raw: Box<[u8]>,
    },
    UnregisterBroker {
        id: i32,
        epoch: i64,
    },
    RegistrationChange {
        id: i32,
        epoch: i64,
        change: RegistrationChange,
    },
    RegisterController {
        id: i32,
        raw: Box<[u8]>,
    },
    /// ACLs, credentials, quotas, tokens and their removals: kept as they are, in their order.
    Opaque {
        raw: Box<[u8]>,
    },
    NoOp,
    BeginTransaction {
        name: Option<String>,
    },
    EndTransaction,
    AbortTransaction {
        reason: Option<String>,
    },
}

impl MetadataRecord {
    /// Reads the value of one data record: `Unsupported` for one that this release does not know,
    /// `Corrupt` for a damaged one.
    pub(crate) fn decode(value: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(value);
        let (frame, api, version) = (reader.uvarint()?, reader.uvarint()?, reader.uvarint()?);
        if frame != FRAME || version > newest_version(api) {
            return Err(unknown(format_args!("{api} version {version} in frame {frame}")));
        }
        let record = decode_body(api, version, value, &mut reader)?;
        let whole =
            !matches!(record, Self::RegisterBroker { .. } | Self::RegisterController { .. } | Self::Opaque { .. });
        if whole && !reader.is_empty() {
            let surplus = reader.remaining();
            return Err(Error::new(ErrorKind::Corrupt, format!("metadata record {api} has {surplus} bytes too many")));
        }
        Ok(record)
    }

    /// Writes the value of one data record.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut w = Writer::new();
        let tags = match self {
            Self::FeatureLevel { name, level } => {
                begin(&mut w, id::FEATURE_LEVEL, 0);
                w.put_compact_string(name)?;
                w.put_i16(*level);
                Tags::new()
            }
            Self::Topic { name, id } => {
                begin(&mut w, id::TOPIC, 0);
                w.put_compact_string(name)?;
                w.put_uuid(*id);
                Tags::new()
            }
            Self::Partition { topic, partition, state } => put_partition(&mut w, *topic, *partition, state)?,
            Self::PartitionChange { topic, partition, change } => {
                put_partition_change(&mut w, *topic, *partition, change)?
            }
            Self::Config { resource, name, value } => {
                begin(&mut w, id::CONFIG, 0);
                w.put_i8(resource.kind);
                w.put_compact_string(&resource.name)?;
                w.put_compact_string(name)?;
                w.put_compact_nullable_string(value.as_deref())?;
                Tags::new()
            }
            Self::RemoveTopic { id } => {
                begin(&mut w, id::REMOVE_TOPIC, 0);
                w.put_uuid(*id);
                Tags::new()
            }
            Self::ClearElr { topic } => {
                begin(&mut w, id::CLEAR_ELR, 0);
                w.put_compact_string(topic)?;
                Tags::new()
            }
            Self::ProducerIds { broker, broker_epoch, next } => {
                begin(&mut w, id::PRODUCER_IDS, 0);
                w.put_i32(*broker);
                w.put_i64(*broker_epoch);
                w.put_i64(*next);
                Tags::new()
            }
            Self::UnregisterBroker { id, epoch } => {
                begin(&mut w, id::UNREGISTER_BROKER, 0);
                w.put_i32(*id);
                w.put_i64(*epoch);
                Tags::new()
            }
            Self::RegistrationChange { id, epoch, change } => put_registration_change(&mut w, *id, *epoch, change)?,
            Self::RegisterBroker { raw, .. } | Self::RegisterController { raw, .. } | Self::Opaque { raw } => {
                return Ok(raw.to_vec());
            }
            Self::NoOp => begin(&mut w, id::NO_OP, 0),
            Self::EndTransaction => begin(&mut w, id::END_TRANSACTION, 0),
            Self::BeginTransaction { name } => {
                begin(&mut w, id::BEGIN_TRANSACTION, 0);
                text_tag(name.as_deref())?
            }
            Self::AbortTransaction { reason } => {
                begin(&mut w, id::ABORT_TRANSACTION, 0);
                text_tag(reason.as_deref())?
            }
        };
        w.put_tagged_fields(&tags)?;
        Ok(w.into_vec())
    }
}

/// The newest version of each record that this release reads. A newer version of a record that is kept as
/// it is might still be told apart wrongly, so those have a limit too.
fn newest_version(api: u32) -> u32 {
    match api {
        id::PARTITION | id::PARTITION_CHANGE => 2,
        id::BROKER_REGISTRATION_CHANGE => 3,
        id::REGISTER_BROKER => 4,
        _ => 0,
    }
}

fn unknown(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("metadata record {what} is not known to this release"))
}

/// The tagged fields that end a record, by ascending tag.
type Tags = Vec<(u32, Vec<u8>)>;

/// Writes what every record starts with; most have no tagged fields.
fn begin(w: &mut Writer, api: u32, version: u32) -> Tags {
    w.put_uvarint(FRAME);
    w.put_uvarint(api);
    w.put_uvarint(version);
    Tags::new()
}

fn decode_body(api: u32, version: u32, value: &[u8], r: &mut Reader<'_>) -> Result<MetadataRecord> {
    use MetadataRecord as M;
    let raw = || Box::from(value);
    let record = match api {
        id::FEATURE_LEVEL => M::FeatureLevel { name: r.compact_string()?.to_owned(), level: r.i16()? },
        id::TOPIC => M::Topic { name: r.compact_string()?.to_owned(), id: r.uuid()? },
        id::PARTITION => return read_partition(version, r),
        id::PARTITION_CHANGE => return read_partition_change(r),
        id::CONFIG => M::Config {
            resource: Resource { kind: r.i8()?, name: r.compact_string()?.to_owned() },
            name: r.compact_string()?.to_owned(),
            value: r.compact_nullable_string()?.map(str::to_owned),
        },
        id::REMOVE_TOPIC => M::RemoveTopic { id: r.uuid()? },
        id::CLEAR_ELR => M::ClearElr { topic: r.compact_string()?.to_owned() },
        id::PRODUCER_IDS => M::ProducerIds { broker: r.i32()?, broker_epoch: r.i64()?, next: r.i64()? },
        id::REGISTER_BROKER => return read_register_broker(version, raw(), r),
        id::REGISTER_CONTROLLER => return Ok(M::RegisterController { id: r.i32()?, raw: raw() }),
        id::UNREGISTER_BROKER => M::UnregisterBroker { id: r.i32()?, epoch: r.i64()? },
        id::FENCE_BROKER | id::UNFENCE_BROKER => {
            let fenced = Some(if api == id::FENCE_BROKER { 1 } else { -1 });
            let change = RegistrationChange { fenced, ..RegistrationChange::default() };
            M::RegistrationChange { id: r.i32()?, epoch: r.i64()?, change }
        }
        id::BROKER_REGISTRATION_CHANGE => return read_registration_change(r),
        id::NO_OP => M::NoOp,
        id::END_TRANSACTION => M::EndTransaction,
        id::BEGIN_TRANSACTION => return Ok(M::BeginTransaction { name: read_text_tag(r)? }),
        id::ABORT_TRANSACTION => return Ok(M::AbortTransaction { reason: read_text_tag(r)? }),
        id::DELEGATION_TOKEN
        | id::USER_SCRAM_CREDENTIAL
        | id::CLIENT_QUOTA
        | id::ACCESS_CONTROL_ENTRY
        | id::REMOVE_ACCESS_CONTROL_ENTRY
        | id::ZK_MIGRATION_STATE
        | id::REMOVE_USER_SCRAM_CREDENTIAL
        | id::REMOVE_DELEGATION_TOKEN => return Ok(M::Opaque { raw: raw() }),
        _ => return Err(unknown(api)),
    };
    skip_tags(r)?;
    Ok(record)
}

fn read_partition(version: u32, r: &mut Reader<'_>) -> Result<MetadataRecord> {
    let (partition, topic) = (r.i32()?, r.uuid()?);
    let mut state = PartitionState {
        replicas: read_ints(r)?.unwrap_or_default(),
        isr: read_ints(r)?.unwrap_or_default(),
        removing: read_ints(r)?.unwrap_or_default(),
        adding: read_ints(r)?.unwrap_or_default(),
        leader: r.i32()?,
        leader_epoch: r.i32()?,
        partition_epoch: r.i32()?,
        ..PartitionState::default()
    };
    if version >= 1 {
        state.directories = read_uuids(r)?.unwrap_or_default();
    }
    r.tagged_fields(|tag, body| {
        let mut body = Reader::new(body);
        match tag {
            0 => state.recovery = body.i8()?,
            1 => state.elr = read_ints(&mut body)?.unwrap_or_default(),
            2 => state.last_known_elr = read_ints(&mut body)?.unwrap_or_default(),
            _ => {}
        }
        Ok(())
    })?;
    Ok(MetadataRecord::Partition { topic, partition, state })
}

fn put_partition(w: &mut Writer, topic: Uuid, partition: i32, state: &PartitionState) -> Result<Tags> {
    let mut tags = Tags::new();
    if state.recovery != 0 {
        tags.push((0, state.recovery.to_be_bytes().to_vec()));
    }
    for (tag, members) in [(1, &state.elr), (2, &state.last_known_elr)] {
        if !members.is_empty() {
            tags.push((tag, ints(members)?));
        }
    }
    // Version 2 adds nothing but the tags of eligible leader replicas.
    begin(w, id::PARTITION, if tags.iter().any(|&(tag, _)| tag > 0) { 2 } else { 1 });
    w.put_i32(partition);
    w.put_uuid(topic);
    for members in [&state.replicas, &state.isr, &state.removing, &state.adding] {
        put_ints(w, members)?;
    }
    w.put_i32(state.leader);
    w.put_i32(state.leader_epoch);
    w.put_i32(state.partition_epoch);
    put_uuids(w, &state.directories)?;
    Ok(tags)
}

fn read_partition_change(r: &mut Reader<'_>) -> Result<MetadataRecord> {
    let (partition, topic) = (r.i32()?, r.uuid()?);
    let mut change = PartitionChange::default();
    r.tagged_fields(|tag, body| {
        let mut body = Reader::new(body);
        match tag {
            0 => change.isr = read_ints(&mut body)?,
            1 => change.leader = Some(body.i32()?).filter(|&leader| leader != -2),
            2 => change.replicas = read_ints(&mut body)?,
            3 => change.removing = read_ints(&mut body)?,
            4 => change.adding = read_ints(&mut body)?,
            5 => change.recovery = Some(body.i8()?).filter(|&state| state != -1),
            6 => change.elr = read_ints(&mut body)?,
            7 => change.last_known_elr = read_ints(&mut body)?,
            8 => change.directories = read_uuids(&mut body)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(MetadataRecord::PartitionChange { topic, partition, change })
}

fn put_partition_change(w: &mut Writer, topic: Uuid, partition: i32, change: &PartitionChange) -> Result<Tags> {
    let mut tags = Tags::new();
    let members = [
        (0, &change.isr),
        (2, &change.replicas),
        (3, &change.removing),
        (4, &change.adding),
        (6, &change.elr),
        (7, &change.last_known_elr),
    ];
    for (tag, members) in members {
        if let Some(members) = members {
            tags.push((tag, ints(members)?));
        }
    }
    tags.extend(change.leader.map(|leader| (1, leader.to_be_bytes().to_vec())));
    tags.extend(change.recovery.map(|state| (5, state.to_be_bytes().to_vec())));
    if let Some(directories) = &change.directories {
        tags.push((8, uuids(directories)?));
    }
    tags.sort_by_key(|&(tag, _)| tag);
    // Directories came with version 1, eligible leader replicas with version 2.
    let version = match (change.elr.is_some() || change.last_known_elr.is_some(), change.directories.is_some()) {
        (true, _) => 2,
        (false, true) => 1,
        (false, false) => 0,
    };
    begin(w, id::PARTITION_CHANGE, version);
    w.put_i32(partition);
    w.put_uuid(topic);
    Ok(tags)
}

fn read_register_broker(version: u32, raw: Box<[u8]>, r: &mut Reader<'_>) -> Result<MetadataRecord> {
    let id = r.i32()?;
    if version >= 2 {
        r.bool()?; // IsMigratingZkBroker
    }
    r.uuid()?; // IncarnationId
    let epoch = r.i64()?;
    let endpoints = r.compact_array_len(7)?.unwrap_or_default();
    for _ in 0..endpoints {
        r.compact_string()?;
        r.compact_string()?;
        r.take(4)?; // port and security protocol
        skip_tags(r)?;
    }
    let features = r.compact_array_len(6)?.unwrap_or_default();
    for _ in 0..features {
        r.compact_string()?;
        r.take(4)?; // the range of levels
        skip_tags(r)?;
    }
    r.compact_nullable_string()?; // Rack
    Ok(MetadataRecord::RegisterBroker { id, epoch, fenced: r.bool()?, raw })
}

fn read_registration_change(r: &mut Reader<'_>) -> Result<MetadataRecord> {
    let (id, epoch) = (r.i32()?, r.i64()?);
    let mut change = RegistrationChange::default();
    r.tagged_fields(|tag, body| {
        let mut body = Reader::new(body);
        match tag {
            0 => change.fenced = Some(body.i8()?).filter(|&flag| flag != 0),
            1 => change.in_controlled_shutdown = Some(body.i8()?).filter(|&flag| flag != 0),
            2 => change.log_dirs = read_uuids(&mut body)?,
            3 => change.cordoned_log_dirs = read_uuids(&mut body)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(MetadataRecord::RegistrationChange { id, epoch, change })
}

fn put_registration_change(w: &mut Writer, id: i32, epoch: i64, change: &RegistrationChange) -> Result<Tags> {
    let mut tags = Tags::new();
    for (tag, flag) in [(0, change.fenced), (1, change.in_controlled_shutdown)] {
        tags.extend(flag.map(|flag| (tag, flag.to_be_bytes().to_vec())));
    }
    for (tag, dirs) in [(2, &change.log_dirs), (3, &change.cordoned_log_dirs)] {
        if let Some(dirs) = dirs {
            tags.push((tag, uuids(dirs)?));
        }
    }
    // Each version added the tag of its number.
    begin(w, id::BROKER_REGISTRATION_CHANGE, tags.last().map_or(0, |&(tag, _)| tag));
    w.put_i32(id);
    w.put_i64(epoch);
    Ok(tags)
}

fn skip_tags(r: &mut Reader<'_>) -> Result<()> {
    r.tagged_fields(|_, _| Ok(()))
}

fn read_text_tag(r: &mut Reader<'_>) -> Result<Option<String>> {
    let mut text = None;
    r.tagged_fields(|tag, body| {
        if tag == 0 {
            text = Reader::new(body).compact_nullable_string()?.map(str::to_owned);
        }
        Ok(())
    })?;
    Ok(text)
}

fn text_tag(text: Option<&str>) -> Result<Tags> {
    let Some(text) = text else {
        return Ok(Tags::new());
    };
    let mut body = Writer::new();
    body.put_compact_string(text)?;
    Ok(vec![(0, body.into_vec())])
}

fn read_ints(r: &mut Reader<'_>) -> Result<Option<Vec<i32>>> {
    let Some(count) = r.compact_array_len(size_of::<i32>())? else {
        return Ok(None);
    };
    (0..count).map(|_| r.i32()).collect::<Result<_>>().map(Some)
}

fn read_uuids(r: &mut Reader<'_>) -> Result<Option<Vec<Uuid>>> {
    let Some(count) = r.compact_array_len(size_of::<Uuid>())? else {
        return Ok(None);
    };
    (0..count).map(|_| r.uuid()).collect::<Result<_>>().map(Some)
}

fn put_ints(w: &mut Writer, members: &[i32]) -> Result<()> {
    w.put_compact_array_len(members.len())?;
    members.iter().for_each(|&m| w.put_i32(m));
    Ok(())
}

fn put_uuids(w: &mut Writer, ids: &[Uuid]) -> Result<()> {
    w.put_compact_array_len(ids.len())?;
    ids.iter().for_each(|&id| w.put_uuid(id));
    Ok(())
}

fn ints(members: &[i32]) -> Result<Vec<u8>> {
    let mut w = Writer::new();
    put_ints(&mut w, members)?;
    Ok(w.into_vec())
}

fn uuids(ids: &[Uuid]) -> Result<Vec<u8>> {
    let mut w = Writer::new();
    put_uuids(&mut w, ids)?;
    Ok(w.into_vec())
}

#[cfg(test)]
mod tests;

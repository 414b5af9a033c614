//! What the metadata records say when they are read in order: topics, configs, features, producer ids.
//!
//! An image is a value: cheap to clone, never changed under a reader. [`Image::apply`] is the only way to
//! it, for records replayed from the log, loaded from a snapshot and written by ourselves alike. Knows
//! nothing of files. Records between begin and end of a metadata transaction count at its end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::control::{ControlRecord, Voter};
use super::records::{MetadataRecord, PartitionChange, PartitionState, RegistrationChange, Resource};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{LeaderEpoch, Offset, PartitionId, Timestamp, Uuid};

/// The feature whose level decides which records a broker may meet.
pub(crate) const METADATA_VERSION: &str = "metadata.version";

/// Above it no partition number is believed: a list of all up to it is made in memory.
pub(crate) const PARTITION_NUMBER_MAX: i32 = 100_000;

/// One topic: its name, its id, its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicImage {
    pub(crate) name: Arc<str>,
    pub(crate) id: Uuid,
    /// Neighbours that are alike share one: thousands are.
    partitions: BTreeMap<i32, Arc<PartitionState>>,
}

impl TopicImage {
    /// One partition.
    pub(crate) fn partition(&self, partition: PartitionId) -> Option<&PartitionState> {
        self.partitions.get(&partition.get()).map(|state| &**state)
    }

    /// How many partitions there are; they count from 0, and a damaged catalog may lack some in between.
    pub(crate) fn partition_count(&self) -> usize {
        let last = self.partitions.last_key_value().map(|(&number, _)| number);
        last.and_then(|number| usize::try_from(number).ok()).map_or(0, |number| number + 1)
    }

    /// All partitions by number.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = (PartitionId, &PartitionState)> {
        self.partitions.iter().map(|(&number, state)| (PartitionId::new(number), &**state))
    }

    fn put(&mut self, partition: i32, state: PartitionState) {
        let neighbour = self.partitions.range(..partition).next_back().map(|(_, state)| state);
        let same = neighbour.filter(|neighbour| ***neighbour == state).map(Arc::clone);
        self.partitions.insert(partition, same.unwrap_or_else(|| Arc::new(state)));
    }
}

/// A broker's registration, kept as it came, with all later changes in one.
#[derive(Clone, Debug)]
struct Registration {
    epoch: i64,
    fenced: bool,
    raw: Box<[u8]>,
    change: RegistrationChange,
}

/// The catalog at one offset of the metadata log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    features: Arc<BTreeMap<String, i16>>,
    topics: Arc<BTreeMap<Arc<str>, Arc<TopicImage>>>,
    names: Arc<HashMap<Uuid, Arc<str>>>,
    /// Topics whose removal stands in the part of the log that was read.
    removed: Arc<HashSet<Uuid>>,
    configs: Arc<BTreeMap<Resource, BTreeMap<String, String>>>,
    brokers: Arc<BTreeMap<i32, Registration>>,
    controllers: Arc<BTreeMap<i32, Box<[u8]>>>,
    /// ACLs, credentials, quotas, tokens and their removals, in order.
    opaque: Arc<Vec<Box<[u8]>>>,
    next_producer_id: Option<i64>,
    /// Records of a metadata transaction that has begun and not ended.
    pending: Option<Vec<MetadataRecord>>,
    kraft_version: i16,
    voters: Arc<Vec<Voter>>,
    /// The voters that the last leader named, where the quorum is static.
    leader_voters: Vec<i32>,
    /// The offset after the last record applied.
    pub(crate) end: Offset,
    /// The raft epoch of the last batch applied.
    pub(crate) epoch: LeaderEpoch,
    /// The time of the last batch applied.
    pub(crate) last_timestamp: Timestamp,
}

impl Image {
    /// A topic by name.
    pub(crate) fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(name)
    }

    /// A topic by id.
    pub(crate) fn topic_by_id(&self, id: Uuid) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.names.get(&id)?)
    }

    /// All topics by name.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.topics.values()
    }

    /// The configs that the catalog holds for a resource.
    pub(crate) fn configs(&self, resource: &Resource) -> impl Iterator<Item = (&str, &str)> {
        self.configs.get(resource).into_iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The level of a feature, where it is set.
    pub(crate) fn feature(&self, name: &str) -> Option<i16> {
        self.features.get(name).copied()
    }

    /// All features by name, with the level that each is set to.
    pub(crate) fn features(&self) -> impl Iterator<Item = (&str, i16)> {
        self.features.iter().map(|(name, &level)| (name.as_str(), level))
    }

    /// Whether the log says that a topic of this id was removed.
    pub(crate) fn was_removed(&self, id: Uuid) -> bool {
        self.removed.contains(&id)
    }

    /// Notes a removal that an earlier part of the log holds than the one that is applied.
    pub(super) fn note_removed(&mut self, id: Uuid) {
        if !self.names.contains_key(&id) {
            Arc::make_mut(&mut self.removed).insert(id);
        }
    }

    /// The registration epoch of a broker that the catalog takes for running: its process was killed.
    pub(super) fn unfenced(&self, node: i32) -> Option<i64> {
        let registration = self.brokers.get(&node)?;
        let fenced = registration.change.fenced.map_or(registration.fenced, |flag| flag > 0);
        (!fenced).then_some(registration.epoch)
    }

    /// The first producer id that was never given out.
    pub(crate) fn next_producer_id(&self) -> i64 {
        self.next_producer_id.unwrap_or(0)
    }

    /// Whether the log ends inside a metadata transaction.
    pub(crate) fn in_transaction(&self) -> bool {
        self.pending.is_some()
    }

    /// The quorum's protocol version and voters, where the log has them.
    pub(crate) fn quorum(&self) -> (i16, &[Voter]) {
        (self.kraft_version, &self.voters)
    }

    /// A node beside `node` that has a part in this catalog, if there is one.
    pub(crate) fn other_node(&self, node: i32) -> Option<String> {
        let stranger = |&id: &i32| id != node;
        let mut voters = self.voters.iter().map(|v| v.id).chain(self.leader_voters.iter().copied());
        if let Some(id) = voters.find(stranger) {
            return Some(format!("node {id} votes on its metadata"));
        }
        if let Some(id) = self.brokers.keys().copied().find(stranger) {
            return Some(format!("node {id} is registered as a broker"));
        }
        self.topics().find_map(|topic| {
            let mut replicas = topic.partitions.values().flat_map(|p| p.replicas.iter().copied());
            replicas.find(stranger).map(|id| format!("node {id} has replicas of topic {}", topic.name))
        })
    }

    /// Applies one data record.
    pub(crate) fn apply(&mut self, record: MetadataRecord) -> Result<()> {
        match (record, &mut self.pending) {
            (MetadataRecord::BeginTransaction { .. }, None) => self.pending = Some(Vec::new()),
            (MetadataRecord::BeginTransaction { .. }, Some(_)) => {
                return Err(broken("a metadata transaction begins inside another"));
            }
            (MetadataRecord::EndTransaction, _) => {
                for record in self.pending.take().unwrap_or_default() {
                    self.apply_now(record)?;
                }
            }
            (MetadataRecord::AbortTransaction { .. }, pending) => *pending = None,
            (record, Some(pending)) => pending.push(record),
            (record, None) => self.apply_now(record)?,
        }
        Ok(())
    }

    fn apply_now(&mut self, record: MetadataRecord) -> Result<()> {
        match record {
            MetadataRecord::FeatureLevel { name, level: 0 } => drop(Arc::make_mut(&mut self.features).remove(&name)),
            MetadataRecord::FeatureLevel { name, level } => drop(Arc::make_mut(&mut self.features).insert(name, level)),
            MetadataRecord::Topic { name, id } => {
                // It becomes part of a path.
                crate::topic::name::validate(&name).map_err(|e| broken("an impossible topic").source(e))?;
                if let Some(other) = self.names.get(&id).filter(|other| ***other != *name) {
                    return Err(broken(format!("topic id {id} names two topics, {other} and {name}")));
                }
                self.add_topic(&name, id);
            }
            MetadataRecord::Partition { topic, partition, state } => {
                if !(0..=PARTITION_NUMBER_MAX).contains(&partition) {
                    return Err(broken(format!("topic id {topic} has a partition {partition}")));
                }
                self.topic_mut(topic)?.put(partition, state);
            }
            MetadataRecord::PartitionChange { topic, partition, change } => {
                let topic = self.topic_mut(topic)?;
                let state = topic.partitions.get(&partition).map(|state| PartitionState::clone(state));
                let mut state = state.ok_or_else(|| broken("a change to an unknown partition"))?;
                change_partition(&mut state, change);
                topic.put(partition, state);
            }
            MetadataRecord::Config { resource, name, value } => self.set_config(resource, name, value),
            MetadataRecord::RemoveTopic { id } => self.remove_topic(id),
            MetadataRecord::ClearElr { topic } => self.clear_elr(&topic),
            MetadataRecord::ProducerIds { next, .. } => self.next_producer_id = Some(next),
            MetadataRecord::RegisterBroker { id, epoch, fenced, raw } => {
                let registration = Registration { epoch, fenced, raw, change: RegistrationChange::default() };
                drop(Arc::make_mut(&mut self.brokers).insert(id, registration));
            }
            MetadataRecord::UnregisterBroker { id, .. } => drop(Arc::make_mut(&mut self.brokers).remove(&id)),
            MetadataRecord::RegistrationChange { id, change, .. } => {
                if let Some(registration) = Arc::make_mut(&mut self.brokers).get_mut(&id) {
                    change_registration(&mut registration.change, change);
                }
            }
            MetadataRecord::RegisterController { id, raw } => {
                drop(Arc::make_mut(&mut self.controllers).insert(id, raw));
            }
            MetadataRecord::Opaque { raw } => Arc::make_mut(&mut self.opaque).push(raw),
            MetadataRecord::NoOp
            | MetadataRecord::BeginTransaction { .. }
            | MetadataRecord::EndTransaction
            | MetadataRecord::AbortTransaction { .. } => {}
        }
        Ok(())
    }

    /// Applies one control record.
    pub(crate) fn apply_control(&mut self, record: ControlRecord) {
        match record {
            ControlRecord::KRaftVersion(version) => self.kraft_version = version,
            ControlRecord::Voters(voters) => self.voters = Arc::new(voters),
            ControlRecord::LeaderChange { voters, .. } => self.leader_voters = voters,
            ControlRecord::SnapshotHeader { .. } | ControlRecord::SnapshotFooter | ControlRecord::Other => {}
        }
    }

    fn topic_mut(&mut self, id: Uuid) -> Result<&mut TopicImage> {
        let name = self.names.get(&id).ok_or_else(|| broken(format!("a partition of the unknown topic id {id}")))?;
        let topic = Arc::make_mut(&mut self.topics).get_mut(name);
        topic.map(Arc::make_mut).ok_or_else(|| broken(format!("topic id {id} has lost its topic")))
    }

    fn add_topic(&mut self, name: &str, id: Uuid) {
        let name: Arc<str> = name.into();
        let topic = TopicImage { name: Arc::clone(&name), id, partitions: BTreeMap::new() };
        if let Some(old) = Arc::make_mut(&mut self.topics).insert(Arc::clone(&name), Arc::new(topic)) {
            Arc::make_mut(&mut self.names).remove(&old.id);
        }
        Arc::make_mut(&mut self.names).insert(id, name);
        if self.removed.contains(&id) {
            Arc::make_mut(&mut self.removed).remove(&id);
        }
    }

    fn remove_topic(&mut self, id: Uuid) {
        Arc::make_mut(&mut self.removed).insert(id);
        if let Some(name) = Arc::make_mut(&mut self.names).remove(&id) {
            Arc::make_mut(&mut self.topics).remove(&name);
            Arc::make_mut(&mut self.configs).remove(&Resource::topic(&*name));
        }
    }

    fn set_config(&mut self, resource: Resource, name: String, value: Option<String>) {
        if resource.kind == Resource::TOPIC && self.topic(&resource.name).is_none() {
            return; // Kafka ignores it, too.
        }
        let configs = Arc::make_mut(&mut self.configs);
        match value {
            Some(value) => drop(configs.entry(resource).or_default().insert(name, value)),
            None => {
                if let Some(values) = configs.get_mut(&resource) {
                    values.remove(&name);
                    if values.is_empty() {
                        configs.remove(&resource);
                    }
                }
            }
        }
    }

    fn clear_elr(&mut self, topic: &str) {
        let chosen =
            Arc::make_mut(&mut self.topics).iter_mut().filter(|(name, _)| topic.is_empty() || &***name == topic);
        for (_, topic) in chosen {
            let topic = Arc::make_mut(topic);
            for (partition, state) in std::mem::take(&mut topic.partitions) {
                let state =
                    PartitionState { elr: Vec::new(), last_known_elr: Vec::new(), ..PartitionState::clone(&state) };
                topic.put(partition, state);
            }
        }
    }

    /// The data records that make this image out of nothing, in Kafka's order for snapshots.
    pub(crate) fn to_records(&self) -> Vec<MetadataRecord> {
        let mut records = Vec::new();
        // Nothing else may come before the level that gives the rest its meaning.
        let (level, others): (Vec<_>, Vec<_>) = self.features.iter().partition(|(name, _)| *name == METADATA_VERSION);
        let features = level.into_iter().chain(others);
        records.extend(features.map(|(name, &level)| MetadataRecord::FeatureLevel { name: name.clone(), level }));
        for (&id, registration) in &*self.brokers {
            let Registration { epoch, fenced, raw, change } = registration.clone();
            records.push(MetadataRecord::RegisterBroker { id, epoch, fenced, raw });
            if change != RegistrationChange::default() {
                records.push(MetadataRecord::RegistrationChange { id, epoch, change });
            }
        }
        let controllers = self.controllers.iter();
        records.extend(controllers.map(|(&id, raw)| MetadataRecord::RegisterController { id, raw: raw.clone() }));
        for topic in self.topics() {
            records.push(MetadataRecord::Topic { name: topic.name.to_string(), id: topic.id });
            records.extend(topic.partitions.iter().map(|(&partition, state)| MetadataRecord::Partition {
                topic: topic.id,
                partition,
                state: PartitionState::clone(state),
            }));
        }
        for (resource, values) in &*self.configs {
            records.extend(values.iter().map(|(name, value)| MetadataRecord::Config {
                resource: resource.clone(),
                name: name.clone(),
                value: Some(value.clone()),
            }));
        }
        records.extend(self.opaque.iter().map(|raw| MetadataRecord::Opaque { raw: raw.clone() }));
        records.extend(self.next_producer_id.map(|next| MetadataRecord::ProducerIds {
            broker: -1,
            broker_epoch: -1,
            next,
        }));
        records
    }
}

/// Kafka's rule for what a change does to the epochs: every one counts for the partition, one that names a
/// leader, even the same, counts for the leader.
fn change_partition(state: &mut PartitionState, change: PartitionChange) {
    fn set<T>(field: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *field = value;
        }
    }
    if change.leader.is_some() {
        state.leader_epoch = state.leader_epoch.saturating_add(1);
    }
    state.partition_epoch = state.partition_epoch.saturating_add(1);
    set(&mut state.isr, change.isr);
    set(&mut state.leader, change.leader);
    set(&mut state.replicas, change.replicas);
    set(&mut state.removing, change.removing);
    set(&mut state.adding, change.adding);
    set(&mut state.recovery, change.recovery);
    set(&mut state.elr, change.elr);
    set(&mut state.last_known_elr, change.last_known_elr);
    set(&mut state.directories, change.directories);
}

fn change_registration(all: &mut RegistrationChange, change: RegistrationChange) {
    all.fenced = change.fenced.or(all.fenced);
    all.in_controlled_shutdown = change.in_controlled_shutdown.or(all.in_controlled_shutdown);
    all.log_dirs = change.log_dirs.or(all.log_dirs.take());
    all.cordoned_log_dirs = change.cordoned_log_dirs.or(all.cordoned_log_dirs.take());
}

fn broken(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the catalog does not fit together: {}", why.into()))
        .remedy("restore __cluster_metadata-0 from a backup")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_bytes([7; 16]);

    fn topic(name: &str) -> MetadataRecord {
        MetadataRecord::Topic { name: name.into(), id: ID }
    }

    fn partition() -> MetadataRecord {
        let state = PartitionState { replicas: vec![1], isr: vec![1], leader: 1, ..PartitionState::default() };
        MetadataRecord::Partition { topic: ID, partition: 0, state }
    }

    fn config(name: &str, value: Option<&str>) -> MetadataRecord {
        MetadataRecord::Config { resource: Resource::topic("t"), name: name.into(), value: value.map(Into::into) }
    }

    fn image(records: impl IntoIterator<Item = MetadataRecord>) -> Image {
        let mut image = Image::default();
        records.into_iter().try_for_each(|r| image.apply(r)).unwrap();
        image
    }

    #[test]
    fn epochs_count_as_kafkas_do() {
        let change = |leader| MetadataRecord::PartitionChange {
            topic: ID,
            partition: 0,
            change: PartitionChange { leader, isr: Some(vec![1]), ..PartitionChange::default() },
        };
        let image = image([topic("t"), partition(), change(Some(-1)), change(Some(1)), change(None)]);
        let state = image.topic("t").unwrap().partition(0.into()).unwrap();
        assert_eq!((state.leader, state.leader_epoch, state.partition_epoch), (1, 2, 3));
    }

    #[test]
    fn a_transaction_counts_only_after_its_end() {
        let begin = || MetadataRecord::BeginTransaction { name: None };
        let abort = || MetadataRecord::AbortTransaction { reason: None };
        let open = image([begin(), topic("t"), partition()]);
        assert!(open.topic("t").is_none() && open.in_transaction());
        let mut ended = open.clone();
        ended.apply(MetadataRecord::EndTransaction).unwrap();
        assert_eq!(ended.topic("t").unwrap().partition_count(), 1);
        let mut aborted = open;
        aborted.apply(abort()).unwrap();
        assert!(aborted.topic("t").is_none() && !aborted.in_transaction());
        assert!(aborted.apply(begin()).is_ok() && aborted.apply(begin()).is_err());
    }

    #[test]
    fn partitions_that_are_alike_share_what_is_known_of_them() {
        let id = Uuid::from_bytes([1; 16]);
        let mut image = Image::default();
        image.apply(MetadataRecord::Topic { name: "many".into(), id }).unwrap();
        let state = PartitionState { replicas: vec![1], isr: vec![1], leader: 1, ..PartitionState::default() };
        for partition in 0..1000 {
            image.apply(MetadataRecord::Partition { topic: id, partition, state: state.clone() }).unwrap();
        }
        let distinct = |image: &Image| {
            let topic = image.topics().next().unwrap();
            topic.partitions.values().map(Arc::as_ptr).collect::<std::collections::HashSet<_>>().len()
        };
        assert_eq!(distinct(&image), 1);
        let raise = PartitionChange { leader: Some(1), ..PartitionChange::default() };
        for partition in 0..1000 {
            image.apply(MetadataRecord::PartitionChange { topic: id, partition, change: raise.clone() }).unwrap();
            let topic = image.topics().next().unwrap();
            assert_eq!(topic.partition(partition.into()).unwrap().leader_epoch, 1);
        }
        assert_eq!(distinct(&image), 1);
    }

    #[test]
    fn removing_a_topic_takes_its_configs_and_partitions() {
        let removed = [topic("t"), partition(), config("a", Some("1")), MetadataRecord::RemoveTopic { id: ID }];
        let mut image = image(removed);
        assert!(image.topic("t").is_none() && image.topic_by_id(ID).is_none());
        assert!(image.apply(partition()).is_err());
        image.apply(config("a", Some("1"))).unwrap();
        image.apply(topic("t")).unwrap();
        assert_eq!(image.configs(&Resource::topic("t")).count(), 0);
        assert_eq!(image.topic("t").unwrap().partition_count(), 0);
    }

    #[test]
    fn a_topic_whose_name_would_lead_elsewhere_is_refused() {
        for name in ["../t", "a/b", "__cluster_metadata", ""] {
            let refused = Image::default().apply(topic(name)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Corrupt, "{name}");
        }
    }

    #[test]
    fn the_last_value_of_a_config_wins() {
        let configs = [config("a", Some("1")), config("b", Some("2")), config("a", Some("3")), config("b", None)];
        let image = image([topic("t")].into_iter().chain(configs));
        assert_eq!(image.configs(&Resource::topic("t")).collect::<Vec<_>>(), [("a", "3")]);
    }

    #[test]
    fn an_image_is_made_again_by_its_own_records() {
        let register = MetadataRecord::RegisterBroker { id: 1, epoch: 5, fenced: true, raw: Box::from([1, 0, 3]) };
        let change = |fenced| MetadataRecord::RegistrationChange {
            id: 1,
            epoch: 5,
            change: RegistrationChange { fenced: Some(fenced), ..RegistrationChange::default() },
        };
        let feature = |name: &str| MetadataRecord::FeatureLevel { name: name.into(), level: 1 };
        let opaque = MetadataRecord::Opaque { raw: Box::from([1, 18, 0]) };
        let ids = MetadataRecord::ProducerIds { broker: -1, broker_epoch: -1, next: 1000 };
        let first = image([
            feature("group.version"),
            feature(METADATA_VERSION),
            register,
            change(-1),
            topic("t"),
            opaque.clone(),
            partition(),
            change(1),
            config("a", Some("1")),
            ids,
        ]);
        let records = first.to_records();
        assert_eq!(records[0], feature(METADATA_VERSION));
        assert!(records.contains(&change(1)) && !records.contains(&change(-1)) && records.contains(&opaque));
        assert_eq!(image(records.clone()).to_records(), records);
    }

    #[test]
    fn other_nodes_are_noticed() {
        let mut image = image([topic("t"), partition()]);
        assert_eq!(image.other_node(1), None);
        assert!(image.other_node(2).unwrap().contains("topic t"));
        image.apply_control(ControlRecord::LeaderChange { voters: vec![1, 3] });
        assert!(image.other_node(1).unwrap().contains("node 3 votes"));
    }
}

//! What a directory must hold, whoever has it: the record that a test keeps while ours and theirs change it.

use std::collections::BTreeMap;

use crate::peer::{CommitRow, Peer, Row, TopicRow};

/// What a directory must hold, gathered from acknowledgements: never read back from the files under test.
#[derive(Default)]
pub(crate) struct Model {
    /// By topic: its configs and all its records.
    pub(crate) topics: BTreeMap<String, (BTreeMap<String, String>, Vec<Row>)>,
    pub(crate) commits: BTreeMap<String, Vec<CommitRow>>,
}

impl Model {
    pub(crate) fn create(&mut self, peer: &mut Peer, topic: &str, partitions: &str, configs: &[&str]) {
        peer.ask(&[&["create", topic, partitions], configs].concat());
        let pairs = configs.iter().map(|pair| pair.split_once('=').expect("name=value"));
        let configs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        self.topics.insert(topic.to_owned(), (configs, Vec::new()));
    }

    pub(crate) fn produce(&mut self, peer: &mut Peer, topic: &str, codec: &str, tag: &str) {
        let acknowledged = peer.produce(topic, -1, codec, "none", (30, 120), tag);
        self.add(topic, acknowledged);
    }

    pub(crate) fn add(&mut self, topic: &str, acknowledged: Vec<Row>) {
        let rows = &mut self.topics.get_mut(topic).expect("a topic of the model").1;
        rows.extend(acknowledged);
        rows.sort();
    }

    /// DeleteRecords: what lies below `before` is gone.
    pub(crate) fn trim(&mut self, peer: &mut Peer, topic: &str, partition: i32, before: i64) {
        peer.ask(&["trim", topic, &partition.to_string(), &before.to_string()]);
        let rows = &mut self.topics.get_mut(topic).expect("a topic of the model").1;
        rows.retain(|row| row.partition != partition || row.offset >= before);
    }

    pub(crate) fn delete(&mut self, peer: &mut Peer, topic: &str) {
        peer.ask(&["delete", topic]);
        self.topics.remove(topic);
    }

    pub(crate) fn alter(&mut self, peer: &mut Peer, topic: &str, name: &str, value: &str) {
        peer.ask(&["alter", topic, name, value]);
        // Back to the default: that is then what the other side must show as well.
        let value = if value == "~" { peer.all_configs(topic)[name].clone() } else { value.to_owned() };
        let configs = &mut self.topics.get_mut(topic).expect("a topic of the model").0;
        configs.insert(name.to_owned(), value);
    }

    /// The group reads what it has not read, which must be exactly what is new, and commits.
    pub(crate) fn read_and_commit(&mut self, peer: &mut Peer, group: &str, topic: &str) {
        self.read_and_commit_by(peer, group, topic, "classic");
    }

    pub(crate) fn read_and_commit_by(&mut self, peer: &mut Peer, group: &str, topic: &str, protocol: &str) {
        let before = self.commits.remove(group).unwrap_or_default();
        let seen = |row: &&Row| {
            before.iter().any(|c| c.topic == topic && c.partition == row.partition && row.offset < c.offset)
        };
        let new: Vec<_> = self.rows(topic).iter().filter(|row| !seen(row)).cloned().collect();
        assert_eq!(peer.group_read_by(group, topic, protocol), new, "group {group} reads what is new in {topic}");
        self.commits.insert(group.to_owned(), peer.committed(group));
    }

    pub(crate) fn rows(&self, topic: &str) -> &[Row] {
        &self.topics[topic].1
    }

    /// `peer`, whichever it is, must show exactly this.
    pub(crate) fn check(&self, peer: &mut Peer, ids: &[TopicRow]) {
        let visible =
            |rows: Vec<TopicRow>| rows.into_iter().filter(|row| !row.name.starts_with("__")).collect::<Vec<_>>();
        let shown = visible(peer.topics());
        assert_eq!(shown, visible(ids.to_vec()));
        assert_eq!(shown.iter().map(|row| &row.name).collect::<Vec<_>>(), self.topics.keys().collect::<Vec<_>>());
        for (topic, (configs, rows)) in &self.topics {
            let shown = peer.all_configs(topic);
            for (name, value) in configs {
                assert_eq!(shown.get(name), Some(value), "{name} of {topic}");
            }
            assert_eq!(shown.get("retention.ms").map(String::as_str), Some("-1"), "the promise of {topic} to keep all");
            assert_eq!(&peer.consume(topic, "read_committed"), rows, "records of {topic}");
        }
        for (group, commits) in &self.commits {
            let place = |c: &CommitRow| (c.topic.clone(), c.partition, c.offset, c.metadata.clone());
            let shown: Vec<_> = peer.committed(group).iter().map(place).collect();
            assert_eq!(shown, commits.iter().map(place).collect::<Vec<_>>(), "offsets of {group}");
        }
    }
}

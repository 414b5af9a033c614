//! Directories that a stock broker made: we open them, change all that can be changed and hand them back; the
//! broker goes on where we ended, and then we again. What both must show is kept in a `Model`.

use std::path::Path;
use std::time::Duration;

use thalweg::{Broker, ErrorKind};

use crate::client::Client;
use crate::directory::{CODECS, dump_everything, name, partition_dirs};
use crate::kafka::{Kafka, Version};
use crate::model::Model;
use crate::node::{self, Layout, Node, SINGLE_NODE};
use crate::ours::Ours;
use crate::peer::{Peer, TopicRow};

crate::on_each_release!(three_rounds);

/// A broker that finds its dead predecessor still registered waits this long: a start that had to would be seen.
const LONG_SESSION: &str = "broker.session.timeout.ms=3000\n";
const NO_WAIT: Duration = Duration::from_secs(40);

fn three_rounds(kafka: &Kafka) {
    rounds(&[kafka; 4], kafka.version != Version::V3_9_2);
}

#[test]
fn from_3_9_2_through_4_3_0_and_back() {
    crate::against(Version::V3_9_2, "from_3_9_2_through_4_3_0_and_back", |old| {
        crate::against(Version::V4_3_0, "from_3_9_2_through_4_3_0_and_back", |new| rounds(&[old, new, old], false));
    });
}

#[test]
fn one_round_on_4_4_0() {
    crate::against(Version::V4_4_0, "one_round_on_4_4_0", |kafka| rounds(&[kafka; 2], true));
}

/// The first broker makes the directory; before each other one we have it. The second round ends with our
/// process killed, and then the broker.
fn rounds(brokers: &[&Kafka], standalone: bool) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    let layout = Layout { dirs: vec![data.clone()], standalone };
    node::format_on(brokers[0], &layout, &[]);
    // KIP-848 needs a feature that directories of 3.9 do not have.
    let modern = brokers[0].version != Version::V3_9_2;
    let mut game = Game { model: Model::default(), ids: Vec::new(), modern };

    let node = Node::start_on(brokers[0], &layout, SINGLE_NODE);
    let mut client = node.client();
    game.begin(&mut client);
    drop(client);
    node.stop();

    for (round, kafka) in brokers[1..].iter().enumerate() {
        eprintln!("round {round}: ours, then {}", kafka.version);
        let killed = round == 1;
        let mut ours = Ours::open(&data);
        game.our_turn(&mut ours, round);
        if round == 0 {
            let said = Node::refused(kafka, &layout, SINGLE_NODE);
            assert!(said.contains("Failed to acquire lock"), "{said}");
        }
        let ends = game.ends(&mut ours);
        if killed {
            ours.kill();
        } else {
            ours.close();
            dump_everything(&mut Client::offline(&kafka.with_dump_log()), &data);
        }
        assert_no_stray(&data);

        let node = Node::start_on(kafka, &layout, &format!("{SINGLE_NODE}{LONG_SESSION}"));
        assert!(node.took < NO_WAIT, "the broker waited {:?} for its predecessor", node.took);
        let error = Broker::open(&data).expect_err("the broker has the directory");
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        let mut client = node.client();
        assert_eq!(game.ends(&mut client), ends, "where each partition ends");
        game.their_turn(&mut client, round);
        drop(client);
        if killed {
            drop(node.kill())
        } else {
            drop(node.stop())
        }
        assert_no_stray(&data);
    }
    let mut ours = Ours::open(&data);
    game.model.check(&mut ours, &game.ids);
    game.go_on(&mut ours);
    ours.close();
    dump_everything(&mut Client::offline(&brokers[0].with_dump_log()), &data);
}

/// One directory on its way to and fro.
struct Game {
    model: Model,
    ids: Vec<TopicRow>,
    /// A KIP-848 group takes part.
    modern: bool,
}

impl Game {
    fn begin(&mut self, client: &mut Client) {
        let model = &mut self.model;
        model.create(client, "orders", "3", &["retention.ms=-1", "index.interval.bytes=100"]);
        model.create(
            client,
            "latest",
            "1",
            &["retention.ms=-1", "cleanup.policy=compact", "min.cleanable.dirty.ratio=1.0"],
        );
        model.create(client, "theirs", "2", &["retention.ms=-1"]);
        for codec in CODECS {
            model.produce(client, "orders", codec, codec);
        }
        model.produce(client, "latest", "none", "kept");
        model.produce(client, "theirs", "zstd", "gone");
        let committed = client.produce("orders", 1, "lz4", "commit", (7, 40), "transaction");
        model.add("orders", committed);
        client.produce("orders", 1, "gzip", "abort", (7, 40), "never");
        self.go_on(client);
        self.ids = client.topics();
    }

    /// We see what the broker left, and change all that the catalog records.
    fn our_turn(&mut self, ours: &mut Ours, round: usize) {
        self.model.check(ours, &self.ids);
        self.go_on(ours);
        let (model, made) = (&mut self.model, format!("ours-{round}"));
        model.create(ours, &made, "2", &["max.message.bytes=2000000"]);
        for codec in CODECS {
            model.produce(ours, "orders", codec, &format!("ours {round} {codec}"));
            model.produce(ours, &made, codec, codec);
        }
        model.produce(ours, "latest", "none", "kept");
        model.delete(ours, "theirs");
        ours.ask(&["grow", "orders", &(2 * round + 4).to_string()]);
        model.produce(ours, "orders", "none", &format!("wider {round}"));
        model.alter(ours, "orders", "index.interval.bytes", &(200 + round).to_string());
        model.alter(ours, "latest", "max.message.bytes", "3000000");
        model.alter(ours, "latest", "max.message.bytes", "~");
        self.go_on(ours);
        self.model.produce(ours, "orders", "gzip", &format!("unread {round}"));
        self.ids = ours.topics();
    }

    /// The broker sees what we left, and does the same.
    fn their_turn(&mut self, client: &mut Client, round: usize) {
        self.model.check(client, &self.ids);
        self.go_on(client);
        let (model, made) = (&mut self.model, format!("ours-{round}"));
        model.create(client, "theirs", "1", &["retention.ms=-1", "segment.ms=123456789"]);
        model.produce(client, "theirs", "lz4", "theirs");
        model.produce(client, &made, "gzip", "by the broker");
        model.delete(client, &made);
        client.ask(&["grow", "orders", &(2 * round + 5).to_string()]);
        model.produce(client, "orders", "snappy", &format!("theirs {round}"));
        let committed = client.produce("orders", 0, "zstd", "commit", (4, 10), &format!("transaction {round}"));
        model.add("orders", committed);
        client.produce("orders", 0, "none", "abort", (4, 10), &format!("never {round}"));
        model.alter(client, "orders", "max.message.bytes", &(2_000_000 + round).to_string());
        self.go_on(client);
        self.model.produce(client, "orders", "none", &format!("unread by them {round}"));
        self.ids = client.topics();
    }

    /// Each group reads exactly what nobody of it has read, and commits.
    fn go_on(&mut self, peer: &mut Peer) {
        self.model.read_and_commit(peer, "classic", "orders");
        if self.modern {
            self.model.read_and_commit_by(peer, "modern", "orders", "consumer");
        }
    }

    /// Where the next record of each partition goes.
    fn ends(&self, peer: &mut Peer) -> Vec<(String, Vec<i64>)> {
        let ends = |topic: &String| {
            (topic.clone(), peer.offsets(topic, "latest").iter().map(|row| row.offset).collect::<Vec<_>>())
        };
        self.model.topics.keys().map(ends).collect()
    }
}

fn assert_no_stray(data: &Path) {
    let stray = partition_dirs(data).find(|dir| name(dir).ends_with("-stray"));
    assert_eq!(stray, None);
}

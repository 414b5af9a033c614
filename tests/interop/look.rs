//! Looking at a stock broker's directory: never while it runs, nothing changed once it was killed, and the broker
//! is kept out as long as the look lasts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thalweg::{Broker, ErrorKind, Start};

use crate::kafka::Kafka;
use crate::node::{Layout, Node, SINGLE_NODE};

crate::on_each_release!(a_look_and_a_broker_exclude_each_other);

fn a_look_and_a_broker_exclude_each_other(kafka: &Kafka) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let data = home.path().join("data");
    let ours = Broker::open(&data).expect("ours opens");
    ours.topic("orders").create().expect("a topic").send(("user-1", "paid")).expect("a record");
    ours.close().expect("ours closes");

    let node = Node::start(kafka, &data, SINGLE_NODE);
    let looked = [Broker::inspect(&data).map(drop), Broker::builder(&data).read_only().open().map(drop)];
    for error in looked.map(|look| look.expect_err("the broker has the directory")) {
        assert_eq!((error.kind(), error.at_path()), (ErrorKind::Locked, Some(&*data)), "{error}");
    }
    node.kill();

    let before = files(&data);
    assert!(before.contains_key(&data.join(".lock")), "a killed broker leaves its lock file");
    let looker = Broker::builder(&data).read_only().open().expect("nobody has the directory");
    let found = Broker::inspect(&data).expect("two may look");
    assert!(found.read_only.is_none() && found.topics.iter().any(|topic| topic.name == "orders"), "{found}");
    assert_eq!(looker.topic("orders").open().expect("a topic").scan(Start::Earliest).count(), 1);
    assert!(files(&data) == before, "a look changed the directory");

    let said = Node::refused(kafka, &Layout::of(&data), SINGLE_NODE);
    assert!(said.contains("Failed to acquire lock"), "{said}");
    looker.close().expect("the look ends");
    Node::start(kafka, &data, SINGLE_NODE).stop();
}

/// Every file below a directory with its time and bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => {
                let modified = path.metadata().and_then(|metadata| metadata.modified()).expect("a file");
                found.insert(path.clone(), (modified, fs::read(&path).expect("a file")));
            }
        }
    }
    found
}

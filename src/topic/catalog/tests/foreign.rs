//! Catalogs that others left, in every state that a stock broker starts from, and in those it does not.

use serde_json::Value;

use super::*;
use crate::finding::{Finding, FindingKind, Findings};

const OWN: &str = "Zm9vYmFyYmF6cXV4MTIzNA";
const META: &str = "version=1\nnode.id=1\ncluster.id=c\ndirectory.id=Zm9vYmFyYmF6cXV4MTIzNA\n";

/// A directory of these files; a name without a directory is in `__cluster_metadata-0`.
fn foreign(files: &[(&str, &[u8])]) -> Dir {
    let dir = Dir::new();
    dir.write("meta.properties", META.as_bytes());
    dir.storage.create_dir(Path::new("__cluster_metadata-0")).unwrap();
    for &(name, bytes) in files {
        dir.write(&format!("__cluster_metadata-0/{name}"), bytes);
    }
    dir
}

fn partition_dir(dir: &Dir, name: &str, topic: Option<Uuid>, epochs: &str) {
    dir.storage.create_dir(Path::new(name)).unwrap();
    if let Some(id) = topic {
        dir.write(&format!("{name}/partition.metadata"), format!("version: 0\ntopic_id: {id}").as_bytes());
    }
    dir.write(&format!("{name}/leader-epoch-checkpoint"), epochs.as_bytes());
}

fn place(base: i64, epoch: i32) -> Place {
    Place { base: base.into(), epoch: epoch.into(), time: Timestamp::new(1_700_000_000_000) }
}

fn data(base: i64, records: &[MetadataRecord]) -> Vec<u8> {
    batches::data_batch(place(base, 1), records).unwrap().as_bytes().to_vec()
}

fn level(level: i16) -> MetadataRecord {
    MetadataRecord::FeatureLevel { name: "metadata.version".into(), level }
}

fn topic(name: &str, n: u8) -> [MetadataRecord; 2] {
    let state = PartitionState {
        replicas: vec![1],
        isr: vec![1],
        leader: 1,
        directories: vec![OWN.parse().unwrap()],
        ..PartitionState::default()
    };
    [
        MetadataRecord::Topic { name: name.into(), id: id(n) },
        MetadataRecord::Partition { topic: id(n), partition: 0, state },
    ]
}

fn records(names: &[(&str, u8)]) -> Vec<MetadataRecord> {
    [level(21)].into_iter().chain(names.iter().flat_map(|&(name, n)| topic(name, n))).collect()
}

/// The file of a snapshot.
fn checkpoint(records: &[MetadataRecord], end: i64, epoch: i32) -> Vec<u8> {
    let mut image = Image::default();
    records.iter().for_each(|record| image.apply(record.clone()).unwrap());
    (image.end, image.epoch, image.last_timestamp) = (end.into(), epoch.into(), Timestamp::new(1));
    let storage = MemoryStorage::default();
    snapshot::write(&storage, Path::new(""), &image).unwrap();
    read_file(&storage, Path::new(&storage.list(Path::new("")).unwrap()[0].name), 1 << 20).unwrap().unwrap()
}

fn names(catalog: &Catalog) -> Vec<String> {
    catalog.image().topics().map(|topic| topic.name.to_string()).collect()
}

/// Every file with its bytes.
fn bytes_of(dir: &Dir) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for top in ["", "__cluster_metadata-0"] {
        for entry in dir.storage.list(Path::new(top)).unwrap_or_default() {
            let path = Path::new(top).join(&entry.name);
            let bytes = read_file(&*dir.storage, &path, 1 << 20).ok().flatten().unwrap_or_default();
            all.push((path.display().to_string(), bytes));
        }
    }
    all.sort();
    all
}

fn open_with_findings(dir: &Dir) -> (Catalog, Vec<Finding>) {
    let findings = Arc::<Findings>::default();
    let catalog = dir.try_open_with(Arc::clone(&findings)).unwrap();
    (catalog, findings.all())
}

/// What it is, its files, its topics.
type Row<'a> = (&'a str, &'a [(&'a str, &'a [u8])], &'a [&'a str]);

/// Each state from which a stock broker starts (kraft-directory, section 6): the same topics, the next change
/// behind them, and both there again at the next open.
#[test]
fn every_state_that_a_stock_broker_starts_from_is_read() {
    const LOG_0: &str = "00000000000000000000.log";
    const LOG_9: &str = "00000000000000000009.log";
    const AT_9: &str = "00000000000000000009-0000000001.checkpoint";
    let (a, b) = (records(&[("a", 1)]), topic("b", 2));
    let snapshot = checkpoint(&a, 9, 1);
    let (front, whole) = (data(0, &a), data(0, &records(&[("a", 1), ("x", 3), ("y", 4), ("z", 5)])));
    let tail = data(9, &b);
    let cut = &snapshot[..snapshot.len() - 75];
    let later = checkpoint(&a, 15, 1);
    let early = checkpoint(&records(&[("old", 7)]), 3, 1);
    let rows: &[Row<'_>] = &[
        ("only a snapshot", &[(AT_9, &snapshot)], &["a"]),
        ("a snapshot and an empty first segment", &[(AT_9, &snapshot), (LOG_0, b"")], &["a"]),
        ("a snapshot and an empty segment behind it", &[(AT_9, &snapshot), (LOG_9, b"")], &["a"]),
        ("a snapshot and records behind it", &[(AT_9, &snapshot), (LOG_9, &tail)], &["a", "b"]),
        ("several segments", &[(LOG_0, &whole), (LOG_9, &tail)], &["a", "b", "x", "y", "z"]),
        ("a snapshot of the whole log", &[(LOG_0, &whole), (AT_9, &snapshot)], &["a"]),
        (
            "a snapshot beyond the end of the log",
            &[(LOG_0, &front), ("00000000000000000015-0000000001.checkpoint", &later)],
            &["a"],
        ),
        (
            "a snapshot of another epoch than the log's",
            &[("00000000000000000009-0000000000.checkpoint", &snapshot), (LOG_9, &tail)],
            &["a", "b"],
        ),
        (
            "a snapshot without a footer beside the full log",
            &[(LOG_0, &whole), (LOG_9, &tail), (AT_9, cut)],
            &["a", "b", "x", "y", "z"],
        ),
        (
            "two snapshots",
            &[("00000000000000000003-0000000001.checkpoint", &early), (AT_9, &snapshot), (LOG_9, &tail)],
            &["a", "b"],
        ),
        (
            "leftovers of snapshots and segments",
            &[
                (LOG_0, &front),
                ("00000000000000000009-0000000001.checkpoint.part", cut),
                ("00000000000000000003-0000000001.checkpoint.deleted", &early),
                ("00000000000000000003.log.deleted", b"old"),
            ],
            &["a"],
        ),
        (
            "bootstrap records with topics and no log",
            &[("00000000000000000000-0000000000.checkpoint", &snapshot)],
            &["a"],
        ),
    ];
    for (row, files, expected) in rows {
        let dir = foreign(files);
        let catalog = dir.open();
        assert_eq!(catalog.read_only().map(|e| e.to_string()), None, "{row}");
        assert_eq!(names(&catalog), *expected, "{row}");
        assert_eq!(
            (catalog.image().feature("metadata.version"), catalog.image().epoch >= 0),
            (Some(21), true),
            "{row}"
        );
        catalog.create_topic("new", id(9), 1, &plain()).unwrap();
        let (state_before, end) = (state(&catalog.image()), catalog.image().end);
        drop(catalog);
        let catalog = dir.open();
        assert_eq!((state(&catalog.image()), catalog.image().end), (state_before, end), "{row}");
        assert!(dir.metadata_files(".part").is_empty() && dir.metadata_files(".deleted").is_empty(), "{row}");
        catalog.snapshot().unwrap();
    }
}

#[test]
fn what_only_a_damaged_snapshot_held_is_not_begun_anew() {
    let whole = checkpoint(&records(&[("a", 1)]), 9, 1);
    let name = "00000000000000000009-0000000001.checkpoint";
    let front = data(0, &records(&[("a", 1)]));
    for files in [&[(name, &whole[..200])][..], &[(name, &whole[..200]), ("00000000000000000000.log", &front)]] {
        let dir = foreign(files);
        let before = bytes_of(&dir);
        let error = dir.try_open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(bytes_of(&dir), before);
    }
}

#[test]
fn a_later_release_is_named_and_nothing_is_changed() {
    for (name, bytes) in [
        ("00000000000000000000.log", data(0, &[level(34)])),
        ("00000000000000000000-0000000000.checkpoint", checkpoint(&[level(34)], 0, 0)),
    ] {
        let mut dir = foreign(&[(name, &bytes)]);
        let before = bytes_of(&dir);
        let error = dir.try_open().unwrap_err();
        assert_eq!((error.kind(), error.at_path()), (ErrorKind::Unsupported, Some(dir.path())));
        assert!(error.to_string().contains("metadata.version is 34, the newest known 33"), "{error}");
        dir.options.read_only = true;
        assert_eq!(dir.open().read_only().unwrap().kind(), ErrorKind::ReadOnly);
        assert_eq!(bytes_of(&dir), before);
    }
    assert!(foreign(&[("00000000000000000000.log", &data(0, &[level(33)]))]).open().read_only().is_none());
}

#[test]
fn an_unknown_record_is_named_with_its_offset_and_leaves_the_rest_readable() {
    let values: Vec<_> = records(&[("a", 1)]).iter().map(|r| r.encode().unwrap()).collect();
    for (unknown, why) in [([1, 29, 0, 0], "metadata record 29"), ([1, 2, 9, 0], "metadata record 2 version 9")] {
        let front = batches::encoded_batch(place(0, 1), &values).unwrap();
        let batch = batches::encoded_batch(place(3, 1), &[values[0].clone(), unknown.to_vec()]).unwrap();
        let dir = foreign(&[("00000000000000000000.log", &[&front.as_bytes()[..], batch.as_bytes()].concat())]);
        let before = bytes_of(&dir);
        let (catalog, findings) = open_with_findings(&dir);
        let error = catalog.delete_topic(id(1)).unwrap_err();
        assert_eq!((error.kind(), names(&catalog)), (ErrorKind::ReadOnly, vec!["a".to_owned()]));
        assert!(error.to_string().contains(why) && error.to_string().contains("offset 4"), "{error}");
        assert_eq!(findings.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::ReadOnly]);
        catalog.close().unwrap();
        assert_eq!(bytes_of(&dir), before);
    }
}

/// A stock broker would cut the log there, and set the later topics' directories aside.
#[test]
fn damage_in_the_middle_of_the_log_is_never_cut_off() {
    let parts = [data(0, &records(&[("a", 1)])), data(3, &topic("b", 2)), data(5, &topic("c", 3))];
    let mut bytes = parts.concat();
    bytes[parts[0].len() + 80] ^= 1;
    let dir = foreign(&[("00000000000000000000.log", &bytes)]);
    let before = bytes_of(&dir);
    let catalog = dir.open();
    assert_eq!(names(&catalog), ["a"]);
    let error = catalog.delete_topic(id(1)).unwrap_err();
    assert!(error.kind() == ErrorKind::ReadOnly && error.to_string().contains("offset 3"), "{error}");
    drop(catalog);
    assert_eq!(bytes_of(&dir), before);

    // With a snapshot that covers the place all is read; a segment that is missing is damage, too.
    let covered = checkpoint(&records(&[("a", 1), ("b", 2)]), 5, 1);
    dir.write("__cluster_metadata-0/00000000000000000005-0000000001.checkpoint", &covered);
    let before = bytes_of(&dir);
    assert_eq!((names(&dir.open()).len(), dir.open().read_only().map(|e| e.kind())), (3, Some(ErrorKind::ReadOnly)));
    assert_eq!(bytes_of(&dir), before);
    let gap = foreign(&[("00000000000000000000.log", &parts[0]), ("00000000000000000005.log", &parts[2])]);
    assert_eq!(gap.open().read_only().map(|e| e.kind()), Some(ErrorKind::ReadOnly));
    let torn = foreign(&[("00000000000000000000.log", &bytes[..parts[0].len() + 90])]);
    assert_eq!((names(&torn.open()), torn.open().read_only().is_none()), (vec!["a".to_owned()], true));
}

/// Bytes that 4.3.0 made with `format`, with a topic added, and that 4.3.0 and 3.9.2 started from.
fn golden_bootstrap() -> Vec<u8> {
    let vectors: Value = serde_json::from_str(include_str!("../../../../tests/data/vectors.json")).unwrap();
    hex(vectors["files"]["bootstrap_checkpoint_v43_plus_topic"].as_str().unwrap())
}

#[test]
fn a_directory_that_was_only_formatted_is_begun_as_the_first_leader_does() {
    let dir = Dir::new();
    dir.write("meta.properties", META.as_bytes());
    dir.write("bootstrap.checkpoint", &golden_bootstrap());
    let catalog = dir.open();
    let image = catalog.image();
    assert!(catalog.read_only().is_none());
    assert_eq!(names(&catalog), ["boot"]);
    let features: Vec<_> = image.features().collect();
    assert!(features.contains(&("metadata.version", 30)) && features.contains(&("group.version", 1)), "{features:?}");
    assert_eq!((image.quorum().0, image.quorum().1[0].id, image.epoch), (1, 1, LeaderEpoch::new(1)));
    let cluster = Resource { kind: Resource::BROKER, name: String::new() };
    assert_eq!(image.configs(&cluster).collect::<Vec<_>>(), [("min.insync.replicas", "1")]);
    drop(catalog);
    // The records are there as they were, behind the quorum's; the file stays.
    let log = dir.read(LOG);
    let first = RecordBatch::parse(log[..crate::record::BatchHeader::announced_size(&log).unwrap()].to_vec()).unwrap();
    assert!(first.header().is_control());
    let second = RecordBatch::parse(log[first.size_bytes()..].to_vec()).unwrap();
    let batches::Contents::Data(values) = batches::contents(&second).unwrap() else { panic!("control records") };
    let bootstrap = snapshot::bootstrap(&*dir.storage, dir.path(), Path::new("__cluster_metadata-0")).unwrap().unwrap();
    let copied: Vec<_> = values.into_iter().map(|(_, value)| value).take(bootstrap.records.len()).collect();
    assert_eq!(copied, bootstrap.records);
    assert_eq!(dir.read("bootstrap.checkpoint"), golden_bootstrap());

    // A kill at any byte: the next open completes it, once.
    for len in (0..=log.len()).step_by(11).chain([first.size_bytes()]) {
        let torn = dir.with(LOG, &log[..len]);
        torn.write("bootstrap.checkpoint", &golden_bootstrap());
        assert_eq!(state(&torn.open().image()), state(&image), "{len}");
        assert_eq!(state(&torn.open().image()), state(&image), "{len}");
    }
}

/// As 4.4.0 formats with `--standalone`: features and voters in the snapshot at offset 0. A directory id that is not
/// ours would keep the quorum from ever forming.
#[test]
fn voters_of_a_formatted_directory_are_kept() {
    let voters = r#"{"leaderId":1,"data_version":1}"#;
    let mut image = Image::default();
    let voter = control::Voter {
        id: 1,
        directory_id: OWN.parse().unwrap(),
        endpoints: vec![control::Endpoint { name: "CTL".into(), host: "box".into(), port: 19093 }],
        kraft_versions: (0, 1),
    };
    image.apply_control(control::ControlRecord::KRaftVersion(1));
    image.apply_control(control::ControlRecord::Voters(vec![voter.clone()]));
    image.apply(level(33)).unwrap();
    let storage = MemoryStorage::default();
    snapshot::write(&storage, Path::new(""), &image).unwrap();
    let name = "00000000000000000000-0000000000.checkpoint";
    let bytes = read_file(&storage, Path::new(name), 1 << 20).unwrap().unwrap();
    let dir = foreign(&[(name, &bytes), ("quorum-state", voters.as_bytes())]);
    let catalog = dir.open();
    assert_eq!(catalog.image().quorum(), (1, &[voter][..]));
    assert_eq!(catalog.image().feature("metadata.version"), Some(33));
    assert_eq!(dir.metadata_files(".checkpoint"), [name]);
}

#[test]
fn without_a_metadata_log_the_directories_tell_and_nothing_is_written() {
    let dir = Dir::new();
    dir.write("meta.properties", META.as_bytes());
    dir.write("bootstrap.checkpoint", &checkpoint(&[level(30)], 0, 0));
    partition_dir(&dir, "orders-1", Some(id(1)), "0\n2\n0 0\n6 10\n");
    partition_dir(&dir, "orders-3", Some(id(1)), "");
    partition_dir(&dir, "no-id-0", None, "not a checkpoint");
    partition_dir(&dir, "orders-0.0123456789abcdef0123456789abcdef-stray", Some(id(2)), "");
    let before = bytes_of(&dir);
    let (catalog, findings) = open_with_findings(&dir);
    assert_eq!(findings.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::NoCatalog]);
    assert_eq!(names(&catalog), ["no-id", "orders"]);
    let image = catalog.image();
    let orders = image.topic("orders").unwrap();
    assert_eq!((orders.id, orders.partition_count()), (id(1), 4));
    assert_eq!(orders.partition(1.into()).unwrap().leader_epoch, 6);
    let elsewhere = |number: i32| catalog.elsewhere(orders, number.into());
    assert_eq!([0, 1, 2, 3].map(elsewhere), [Some(Elsewhere::Unknown), None, Some(Elsewhere::Unknown), None]);
    assert!(image.next_producer_id() > 1_000_000_000_000, "{}", image.next_producer_id());
    let settings = catalog.topic_config("orders").settings(catalog.defaults());
    assert_eq!((settings.retention, settings.retention_bytes), (None, None));
    catalog.close().unwrap();
    assert_eq!(bytes_of(&dir), before);

    let catalog = dir.open();
    catalog.alter_configs(id(1), &[("retention.ms", Some("1000"))]).unwrap();
    let (expected, bumped) = (state(&catalog.image()), catalog.bump_leader_epoch(id(1), 1.into(), 0.into()).unwrap());
    assert_eq!(bumped, 7);
    let stamp = catalog.stamp();
    drop(catalog);
    let (catalog, findings) = open_with_findings(&dir);
    assert_eq!(findings, []);
    assert_eq!((state(&catalog.image()).len(), catalog.stamp()), (expected.len(), stamp));
    assert_eq!(names(&catalog), ["no-id", "orders"]);
    let image = catalog.image();
    assert_eq!(config(&image, "orders", "retention.ms"), Some("1000"));
    assert_eq!(config(&image, "no-id", "retention.ms"), Some("-1"));
    assert_eq!(config(&image, "no-id", "retention.bytes"), Some("-1"));
    assert_eq!(catalog.elsewhere(image.topic("orders").unwrap(), 2.into()), Some(Elsewhere::Unknown));
    assert_eq!((image.quorum().1.len(), image.feature("metadata.version")), (1, Some(21)));
}

/// Two topics of one id would share what is known of their logs.
#[test]
fn a_directory_that_was_copied_under_another_name_is_another_topic() {
    let dir = Dir::new();
    dir.write("meta.properties", META.as_bytes());
    partition_dir(&dir, "orders-0", Some(id(1)), "");
    partition_dir(&dir, "orders.copy-0", Some(id(1)), "");
    let ids = || ["orders", "orders.copy"].map(|name| dir.open().image().topic(name).unwrap().id);
    let [own, other] = ids();
    assert!(own == id(1) && other != own);
    // What a partition that was used since has from the catalog stays its topic's.
    partition_dir(&dir, "orders.copy-1", Some(other), "");
    assert_eq!(ids(), [own, other]);
}

#[test]
fn an_id_that_names_two_topics_is_damage() {
    let twins = [topic("orders", 1), topic("orders.copy", 1)].concat();
    let mut image = Image::default();
    let mut applied = twins.into_iter().map(|record| image.apply(record));
    let error = applied.find_map(Result::err).unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("two topics, orders and orders.copy"), "{error}");
}

/// A metadata log in a second log.dir keeps Kafka from starting, and an open is no reason to write one.
#[test]
fn an_empty_second_directory_of_a_broker_gets_no_metadata_log() {
    for formatted in [false, true] {
        let dir = Dir::new();
        dir.write("meta.properties", META.as_bytes());
        dir.write("replication-offset-checkpoint", b"0\n0\n");
        if formatted {
            dir.write("bootstrap.checkpoint", &checkpoint(&[level(30)], 0, 0));
        }
        let before = bytes_of(&dir);
        let (catalog, findings) = open_with_findings(&dir);
        assert_eq!(findings.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::NoCatalog]);
        catalog.close().unwrap();
        assert_eq!(bytes_of(&dir), before);
        let catalog = dir.open();
        catalog.create_topic("t", id(1), 1, &TopicConfig::new()).unwrap();
        drop(catalog);
        assert_eq!(names(&dir.open()), ["t"]);
    }
}

fn register(epoch: i64, fenced: u8) -> MetadataRecord {
    let text = format!("01 00 01 00000001 {:032x} {epoch:016x} 01 01 00 {fenced:02x} 00 00", 7);
    MetadataRecord::decode(&hex(&text)).unwrap()
}

#[test]
fn a_killed_broker_is_fenced_with_the_first_change_or_at_close() {
    let fence = |fenced| MetadataRecord::RegistrationChange {
        id: 1,
        epoch: 11,
        change: RegistrationChange { fenced: Some(fenced), ..RegistrationChange::default() },
    };
    let log = |records: &[MetadataRecord]| data(0, &[&[level(21)], records].concat());
    for killed in [vec![register(11, 0)], vec![register(11, 1), fence(-1)], vec![register(4, 1), register(11, 0)]] {
        let dir = foreign(&[("00000000000000000000.log", &log(&killed))]);
        let catalog = dir.open();
        assert_eq!(catalog.image().unfenced(1), Some(11));
        let before = catalog.image().end;
        catalog.create_topic("t", id(1), 1, &plain()).unwrap();
        assert_eq!(catalog.image().unfenced(1), None);
        assert!(state(&catalog.image()).contains(&fence(1)));
        assert!(catalog.image().end > before);

        let dir = foreign(&[("00000000000000000000.log", &log(&killed))]);
        dir.open().close().unwrap();
        assert_eq!(dir.open().image().unfenced(1), None);
    }
    for stopped in [vec![], vec![register(11, 1)], vec![register(11, 1), fence(-1), fence(1)]] {
        let dir = foreign(&[("00000000000000000000.log", &log(&stopped))]);
        let end = dir.open().image().end;
        dir.open().close().unwrap();
        assert_eq!(dir.open().image().end, end);
    }
}

#[test]
fn removed_topics_are_remembered_as_long_as_their_record_is_in_the_log() {
    let removal = [MetadataRecord::RemoveTopic { id: id(2) }];
    let log = [data(0, &records(&[("a", 1), ("b", 2)])), data(5, &removal)].concat();
    let dir = foreign(&[("00000000000000000000.log", &log)]);
    assert!(dir.open().image().was_removed(id(2)) && !dir.open().image().was_removed(id(1)));
    let snapshot = checkpoint(&records(&[("a", 1)]), 6, 1);
    dir.write("__cluster_metadata-0/00000000000000000006-0000000001.checkpoint", &snapshot);
    assert!(dir.open().image().was_removed(id(2)));
    dir.storage.remove_file(Path::new(LOG)).unwrap();
    assert!(!dir.open().image().was_removed(id(2)));
}

/// A topic's own value, then the node's, then the cluster's, then what was given at open.
#[test]
fn broker_configs_of_the_catalog_are_heeded() {
    let broker = |node: &str, name: &str, value: &str| MetadataRecord::Config {
        resource: Resource { kind: Resource::BROKER, name: node.into() },
        name: name.into(),
        value: Some(value.into()),
    };
    let own = |name: &str, value: &str| MetadataRecord::Config {
        resource: Resource::topic("a"),
        name: name.into(),
        value: Some(value.into()),
    };
    let configs = [
        broker("", "log.retention.ms", "1000"),
        broker("", "log.retention.bytes", "77"),
        broker("1", "log.retention.bytes", "88"),
        broker("2", "log.retention.bytes", "99"),
        broker("", "min.insync.replicas", "2"),
        broker("", "log.cleaner.threads", "3"),
        broker("", "log.segment.bytes", "many"),
        own("retention.ms", "5000"),
        own("some.later.key", "1"),
        own("max.message.bytes", "-5"),
        // 3.9 took it, 4.x does not any more.
        own("segment.bytes", "1000"),
    ];
    let mut dir =
        foreign(&[("00000000000000000000.log", &data(0, &[&records(&[("a", 1), ("b", 2)]), &configs[..]].concat()))]);
    dir.options.defaults = BrokerDefaults::default().set("log.retention.bytes", "66").unwrap();
    let (catalog, findings) = open_with_findings(&dir);
    let settings = |topic| catalog.topic_config(topic).settings(catalog.defaults());
    let millis = |topic| settings(topic).retention.map(|time| time.as_millis());
    assert_eq!((millis("a"), millis("b")), (Some(5000), Some(1000)));
    assert_eq!((settings("a").retention_bytes, settings("a").segment_bytes), (Some(88), 1000));
    let messages: Vec<_> = findings.iter().map(|f| f.message.as_str()).collect();
    assert_eq!(findings.iter().filter(|f| f.kind == FindingKind::UnknownRecord).count(), 3, "{messages:?}");
    for what in ["log.segment.bytes=\"many\"", "some.later.key=\"1\"", "max.message.bytes=\"-5\""] {
        assert!(messages.iter().any(|m| m.contains(what)), "{messages:?}");
    }
    // They stay in the catalog through a change and a snapshot.
    catalog.alter_configs(id(1), &[("retention.bytes", Some("5"))]).unwrap();
    catalog.snapshot().unwrap();
    assert_eq!(config(&catalog.image(), "a", "max.message.bytes"), Some("-5"));
    assert_eq!(config(&dir.open().image(), "a", "some.later.key"), Some("1"));
    assert_eq!(config(&catalog.image(), "a", "segment.bytes"), Some("1000"));
    let newly = catalog.alter_configs(id(1), &[("segment.bytes", Some("1000"))]);
    assert_eq!(newly.unwrap_err().kind(), ErrorKind::InvalidConfig);
}

/// ACLs, credentials, quotas, tokens, resources of groups and clients: what is not interpreted here is in the
/// snapshot all the same, in its order.
#[test]
fn snapshots_carry_what_is_not_interpreted() {
    let values = ["010a00aa", "010b00bb", "010e00cc", "011200dd", "011300ee", "011600ff", "011a00ab", "011500cd"];
    let opaque = values.map(|value| MetadataRecord::decode(&hex(value)).unwrap());
    let resources = [16, 32].map(|kind| MetadataRecord::Config {
        resource: Resource { kind, name: "someone's".into() },
        name: "interval.ms".into(),
        value: Some("5".into()),
    });
    let all = [&records(&[("a", 1)])[..], &[register(11, 1)], &resources, &opaque].concat();
    let dir = foreign(&[("00000000000000000000.log", &data(0, &all))]);
    dir.open().snapshot().unwrap();
    dir.storage.remove_file(Path::new(LOG)).unwrap();
    let kept = state(&dir.open().image());
    assert!(all.iter().all(|record| kept.contains(record)), "{kept:?}");
    let at = |record| kept.iter().position(|other| other == record).unwrap();
    assert!(opaque.windows(2).all(|pair| at(&pair[0]) < at(&pair[1])));
}

//! Looking at a directory changes no byte of it: names, bytes and times are the same before and after, whoever
//! wrote it, however it was left, and whether the look was asked for or is all that this release may do.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thalweg::{
    BatchBuilder, Broker, DirEntry, DiskStorage, EntryKind, Error, ErrorKind, File, FindingKind, Lock, LogInspection,
    MemoryStorage, Metadata, OpenMode, Record, Start, Storage, Timestamp, Topic, TopicPartition,
};

/// Everything at and below a path: kind, time and bytes.
fn tree(path: &Path) -> BTreeMap<PathBuf, (EntryKind, SystemTime, Vec<u8>)> {
    let metadata = DiskStorage.metadata(path).unwrap();
    let mut found = BTreeMap::new();
    let mut bytes = Vec::new();
    match metadata.kind {
        EntryKind::File => {
            bytes.resize(usize::try_from(metadata.len).unwrap(), 0);
            DiskStorage.open(path, OpenMode::Read).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        }
        _ => DiskStorage.list(path).unwrap().iter().for_each(|entry| found.extend(tree(&path.join(&entry.name)))),
    }
    found.insert(path.to_owned(), (metadata.kind, metadata.modified, bytes));
    found
}

/// Runs `look` and says what it changed.
#[track_caller]
fn unchanged<T>(dir: &Path, look: impl FnOnce() -> T) -> T {
    let before = tree(dir);
    let result = look();
    let after = tree(dir);
    let names = |tree: &BTreeMap<PathBuf, _>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&after), names(&before));
    for (path, found) in after {
        assert!(found == before[&path], "{} was changed", path.display());
    }
    result
}

fn write(path: &Path, bytes: &[u8]) {
    let file = DiskStorage.open(path, OpenMode::CreateIfAbsent).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

/// Two topics, one of them in several segments, and a group, in a broker that is not closed.
fn fill(dir: &Path) -> Broker {
    let broker = Broker::open(dir).unwrap();
    let orders = broker.topic("orders").partitions(2).set("segment.bytes", "1048576").create().unwrap();
    for number in 0..300 {
        let record = (format!("user-{}", number % 7), format!("{number:08000}"));
        orders.partition(number % 2).unwrap().append_records([record]).unwrap();
    }
    for partition in orders.partitions() {
        let last = partition.append_records(["last"]).unwrap();
        partition.wait(last.position, partition.durability()).unwrap();
    }
    broker.topic("audit").create().unwrap().send("started").unwrap();
    let billing = broker.consumer_group("billing");
    let mut consumer = billing.consumer(["orders"]).max_poll_records(50).join().unwrap();
    assert_eq!(consumer.poll(Duration::from_secs(5)).unwrap().len(), 50);
    consumer.commit().unwrap();
    consumer.close().unwrap();
    broker
}

fn read_only(dir: &Path) -> Broker {
    Broker::builder(dir).read_only().open().unwrap()
}

fn values(topic: &Topic) -> Vec<(TopicPartition, i64, Vec<u8>)> {
    let record = |r: thalweg::OwnedRecord| {
        (r.topic_partition().clone(), r.offset().get(), r.value().unwrap_or_default().to_vec())
    };
    topic.scan(Start::Earliest).map(|r| record(r.unwrap())).collect()
}

/// Uses all that a read-only broker can do, and all that it must refuse.
fn use_up(broker: &Broker) -> Vec<(TopicPartition, i64, Vec<u8>)> {
    let orders = broker.topic("orders").open().unwrap();
    let found = values(&orders);
    let billing = broker.consumer_group("billing");
    let committed = billing.all_committed().unwrap();
    assert_eq!(committed.values().map(|c| c.offset().get()).sum::<i64>(), 50);
    let first = TopicPartition::new("orders", 0);
    let mut consumer = billing.consumer_of([first.clone()]).join().unwrap();
    let polled = consumer.poll(Duration::from_secs(5)).unwrap();
    let next = committed.get(&first).map_or(0, |c| c.offset().get());
    assert_eq!(polled.iter().next().map(|r| r.offset().get()), Some(next), "goes on at what was committed");

    let partition = orders.partition(0).unwrap();
    let refused: Vec<Error> = vec![
        consumer.commit().unwrap_err(),
        billing.consumer(["orders"]).join().map(drop).unwrap_err(),
        billing.reset(["orders"], Start::Earliest).unwrap_err(),
        billing.delete_offsets(&[first]).unwrap_err(),
        billing.delete().unwrap_err(),
        orders.send("more").unwrap_err(),
        partition.append_records(["more"]).unwrap_err(),
        partition.delete_records(1).unwrap_err(),
        orders.add_partitions(5).unwrap_err(),
        orders.alter_configs(&[("retention.ms", Some("1"))]).unwrap_err(),
        orders.delete().unwrap_err(),
        broker.topic("new").create().unwrap_err(),
        broker.allocate_producer_ids(1).unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
        assert!(error.at_path().is_some() && error.to_string().ends_with(')'), "names no path or remedy: {error}");
    }
    assert_eq!(values(&orders), found, "a refused change left nothing behind");
    broker.run_maintenance().unwrap();
    found
}

#[test]
fn a_look_at_a_directory_that_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = fill(dir.path());
    let expected = values(&broker.topic("orders").open().unwrap());
    broker.close().unwrap();
    unchanged(dir.path(), || {
        let broker = read_only(dir.path());
        assert_eq!(use_up(&broker), expected);
        assert!(broker.findings().iter().all(|f| f.kind == FindingKind::FileSystem), "{:?}", broker.findings());
        broker.close().unwrap();
    });
    unchanged(dir.path(), || drop(read_only(dir.path())));
}

/// What a crash, a careless copy and a stock broker leave, all at once.
fn make_dirty(dir: &Path, foreign: bool) {
    let at = |name: &str| dir.join(name);
    let log = at("orders-0/00000000000000000000.log");
    assert!(DiskStorage.list(&at("orders-0")).unwrap().iter().filter(|e| e.name.ends_with(".log")).count() > 1);
    let copied = DiskStorage.open(&log, OpenMode::Read).unwrap();
    let mut torn = [0; 100];
    copied.read_exact_at(&mut torn, 0).unwrap();
    let active = DiskStorage.list(&at("orders-1")).unwrap().into_iter().map(|e| e.name);
    let active = at("orders-1").join(active.filter(|name| name.ends_with(".log")).max().unwrap());
    let end = DiskStorage.metadata(&active).unwrap().len;
    DiskStorage.open(&active, OpenMode::Write).unwrap().write_all_at(&torn, end).unwrap();
    for name in ["orders-0/00000000000000000000.index", "orders-0/00000000000000000000.timeindex"] {
        DiskStorage.remove_file(&at(name)).unwrap();
    }
    write(&at("orders-0/00000000000000009999.log.deleted"), b"deleted");
    write(&at("orders-0/00000000000000000000.log.cleaned"), b"cleaned");
    write(&at("orders-1/00000000000000000000.timeindex.swap"), b"swap");
    write(&at("replication-offset-checkpoint"), b"nonsense");
    DiskStorage.create_dir(&at("gone-0.0123456789abcdef0123456789abcdef-delete")).unwrap();
    write(&at("gone-0.0123456789abcdef0123456789abcdef-delete/00000000000000000000.log"), b"gone");
    write(&at(".kafka_cleanshutdown.tmp"), b"");
    if foreign {
        for name in ["thalweg.state", "thalweg.epoch", ".lock"] {
            DiskStorage.remove_file(&at(name)).unwrap();
        }
    }
}

#[test]
fn a_look_at_a_directory_that_was_left_in_disorder() {
    for foreign in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let broker = fill(dir.path());
        let expected = values(&broker.topic("orders").open().unwrap());
        drop(broker);
        make_dirty(dir.path(), foreign);
        unchanged(dir.path(), || {
            let broker = read_only(dir.path());
            assert_eq!(use_up(&broker), expected);
            broker.close().unwrap();
        });
        // What was only looked at can still be opened, and has it all.
        let broker = Broker::open(dir.path()).unwrap();
        assert_eq!(values(&broker.topic("orders").open().unwrap()), expected);
        broker.close().unwrap();
    }
}

/// A directory that is not ours to change, opened without asking for a look.
#[test]
fn an_ordinary_open_of_what_is_not_ours_to_change() {
    for dirty in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let broker = fill(dir.path());
        let expected = values(&broker.topic("orders").open().unwrap());
        if dirty {
            drop(broker);
            make_dirty(dir.path(), false);
        } else {
            broker.close().unwrap();
        }
        let quorum = br#"{"leaderId":7,"leaderEpoch":9,"votedId":-1,"currentVoters":[{"voterId":7}],"data_version":0}"#;
        write(&dir.path().join("__cluster_metadata-0/quorum-state"), quorum);
        // The lock is taken as ever.
        let lock = dir.path().join(".lock");
        drop(DiskStorage.lock(&lock, &format!("process {}", std::process::id())).unwrap());
        let modified = DiskStorage.metadata(&lock).unwrap().modified;
        let before = tree(dir.path());
        let broker = Broker::open(dir.path()).unwrap();
        let why = broker.read_only().unwrap();
        assert!(why.to_string().contains("node 7"), "{why}");
        let finding = broker.findings().into_iter().find(|f| f.kind == FindingKind::ReadOnly).unwrap();
        assert!(finding.message.contains("node 7"), "{finding}");
        assert_eq!(use_up(&broker), expected);
        assert_eq!(Broker::open(dir.path()).unwrap_err().kind(), ErrorKind::Locked);
        broker.close().unwrap();
        let after = tree(dir.path());
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        for (path, (kind, time, bytes)) in after {
            let (_, time_before, bytes_before) = &before[&path];
            let same_time = time == *time_before || (path == lock && time >= modified);
            assert!(bytes == *bytes_before && same_time, "{kind:?} {} was changed", path.display());
        }
    }
}

#[test]
fn lookers_share_a_directory_and_keep_writers_out() {
    let dir = tempfile::tempdir().unwrap();
    let writer = fill(dir.path());
    let refused = Broker::builder(dir.path()).read_only().open().unwrap_err();
    assert_eq!((refused.kind(), refused.at_path()), (ErrorKind::Locked, Some(dir.path())));
    writer.close().unwrap();
    let lookers = [read_only(dir.path()), read_only(dir.path())];
    for looker in lookers {
        let refused = Broker::open(dir.path()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Locked);
        assert!(refused.to_string().contains("it is being looked at"), "{refused}");
        assert_eq!(looker.topic("audit").open().unwrap().scan(Start::Earliest).count(), 1);
        looker.close().unwrap();
    }
    Broker::open(dir.path()).unwrap().close().unwrap();
}

/// One clear error with path and reason, and nothing changed.
#[test]
fn what_is_no_directory_of_kafkas_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write(&at("file"), b"text");
    DiskStorage.create_dir(&at("photos")).unwrap();
    write(&at("photos/holiday.jpg"), b"jpeg");
    DiskStorage.create_dir(&at("etc")).unwrap();
    DiskStorage.create_dir(&at("etc/dbus-1")).unwrap();
    DiskStorage.create_dir(&at("empty")).unwrap();
    let half = at("half");
    fill(&half).close().unwrap();
    DiskStorage.remove_file(&half.join("meta.properties")).unwrap();
    let other = at("other");
    fill(&other).close().unwrap();
    write(&other.join("meta.properties"), b"version=9\nnode.id=1\ncluster.id=x\n#");

    let refusal = |path: &Path, read_only: bool| {
        let builder = Broker::builder(path);
        let builder = if read_only { builder.read_only() } else { builder };
        unchanged(dir.path(), || builder.open()).unwrap_err()
    };
    for (name, read_only, words) in [
        ("file", false, "there is a file where the directory should be"),
        ("file", true, "there is a file where the directory should be"),
        ("photos", false, "holds the file \"holiday.jpg\""),
        ("photos", true, "holds the file \"holiday.jpg\""),
        ("etc", true, "holds the directory \"dbus-1\""),
        ("half", false, "no meta.properties"),
        ("half", true, "no meta.properties"),
        ("other", true, "version"),
        ("empty", true, "there is nothing to look at"),
        ("absent", true, "there is nothing to look at"),
    ] {
        let error = refusal(&at(name), read_only);
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert!(error.at_path().is_some_and(|path| path.starts_with(at(name))), "{name}: {error}");
    }
    // What is refused where we had been before leaves the lock file, and no more.
    DiskStorage.remove_file(&other.join(".lock")).unwrap();
    let before = tree(&other);
    Broker::open(&other).unwrap_err();
    let mut after = tree(&other);
    assert!(after.remove(&other.join(".lock")).is_some());
    let bytes = |tree: BTreeMap<PathBuf, (EntryKind, SystemTime, Vec<u8>)>| -> Vec<_> {
        tree.into_iter().map(|(path, (_, _, bytes))| (path, bytes)).collect()
    };
    assert_eq!(bytes(after), bytes(before));
}

/// A disk on which this user may not do what `refused` names.
#[derive(Debug)]
struct Denied {
    disk: MemoryStorage,
    refused: fn(&Path, OpenMode) -> bool,
}

impl Denied {
    fn check(&self, path: &Path, mode: OpenMode) -> io::Result<()> {
        match (self.refused)(path, mode) {
            true => Err(io::ErrorKind::PermissionDenied.into()),
            false => Ok(()),
        }
    }
}

impl Storage for Denied {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.check(path, mode).and_then(|()| self.disk.open(path, mode))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.check(path, OpenMode::CreateNew).and_then(|()| self.disk.create_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(to, OpenMode::Write).and_then(|()| self.disk.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.check(path, OpenMode::Write).and_then(|()| self.disk.remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.check(path, OpenMode::Write).and_then(|()| self.disk.remove_dir_all(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.check(path, OpenMode::Read).and_then(|()| self.disk.list(path))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.disk.metadata(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_fs(path)
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Lock>> {
        self.check(path, OpenMode::CreateIfAbsent).and_then(|()| self.disk.lock(path, holder))
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.check(path, OpenMode::Read).and_then(|()| self.disk.lock_shared(path))
    }
}

#[test]
fn what_may_not_be_read_is_named_and_what_may_not_be_written_can_be_looked_at() {
    let disk = MemoryStorage::new();
    let broker = Broker::builder("/data").storage(disk.clone()).open().unwrap();
    broker.topic("audit").create().unwrap().send("started").unwrap();
    broker.close().unwrap();
    let refused = |refused: fn(&Path, OpenMode) -> bool| {
        Broker::builder("/data").storage(Denied { disk: disk.clone(), refused }).read_only().open().unwrap_err()
    };
    for (error, path) in [
        (refused(|path, _| path == Path::new("/data")), "/data"),
        (refused(|path, _| path.ends_with(".lock")), "/data/.lock"),
        (refused(|path, _| path.ends_with("meta.properties")), "/data/meta.properties"),
    ] {
        assert_eq!((error.kind(), error.at_path()), (ErrorKind::Io, Some(Path::new(path))), "{error}");
        assert!(error.to_string().contains("permission denied"), "{error}");
    }
    let for_reading = Denied { disk: disk.clone(), refused: |_, mode| mode != OpenMode::Read };
    let broker = Broker::builder("/data").storage(for_reading).read_only().open().unwrap();
    assert_eq!(broker.topic("audit").open().unwrap().scan(Start::Earliest).count(), 1);
    broker.close().unwrap();
}

#[test]
fn an_inspection_tells_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let broker = fill(dir.path());
    let orders = broker.topic("orders").open().unwrap();
    orders.alter_configs(&[("max.message.bytes", Some("65536"))]).unwrap();
    let (id, cluster) = (orders.id(), broker.cluster_id().to_owned());
    let mut unended = BatchBuilder::new().producer(4711.into(), 0, 0).transactional();
    unended.push(Timestamp::new(1), &Record::new("unended")).unwrap();
    let audit = broker.topic("audit").open().unwrap().partition(0).unwrap();
    audit.wait(audit.append(&unended.finish().unwrap()).unwrap().position, audit.durability()).unwrap();
    let refused = Broker::inspect(dir.path()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked, "{refused}");
    broker.close().unwrap();
    let looker = read_only(dir.path());
    let found = unchanged(dir.path(), || Broker::inspect(dir.path())).unwrap();
    looker.close().unwrap();

    assert_eq!((found.cluster_id.as_str(), found.node_id), (cluster.as_str(), 1));
    assert_eq!(found.features["metadata.version"], 21);
    assert!(found.read_only.is_none() && found.directory_id.is_some(), "{found}");
    assert!(matches!(&found.findings[..], [open] if open.kind == FindingKind::OpenTransaction), "{found}");
    let names: Vec<_> = found.topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["__consumer_offsets", "audit", "orders"]);
    let orders = &found.topics[2];
    assert_eq!((orders.id, orders.configs["max.message.bytes"].as_str(), orders.partitions.len()), (id, "65536", 2));
    for (number, partition) in orders.partitions.iter().enumerate() {
        let log = partition.log.as_ref().unwrap();
        assert_eq!(partition.number.get(), i32::try_from(number).unwrap());
        assert_eq!((log.offsets.log_start.get(), log.offsets.end.get(), log.segments), (0, 151, 2));
        assert_eq!((log.offsets.high_watermark, log.offsets.last_stable), (log.offsets.end, log.offsets.end));
        assert!(log.size_bytes > 1 << 20 && log.open_transactions.is_empty());
    }
    let audit = found.topics[1].partitions[0].log.as_ref().unwrap();
    assert_eq!((audit.offsets.last_stable.get(), audit.offsets.end.get()), (1, 2));
    assert_eq!(
        audit.open_transactions.iter().map(|t| (t.producer_id.get(), t.first_offset.get())).collect::<Vec<_>>(),
        [(4711, 1)]
    );
    let [billing] = &found.groups[..] else { panic!("{found}") };
    assert_eq!(billing.id, "billing");
    let (at, lag) =
        billing.offsets.iter().fold((0, 0), |(at, lag), o| (at + o.committed.offset().get(), lag + o.lag.unwrap()));
    assert_eq!((at, lag), (50, 302 - 50));
    let report = found.to_string();
    for words in ["topic orders, id", "max.message.bytes=65536", "group billing", "findings:", &cluster] {
        assert!(report.contains(words), "{words} is missing in\n{report}");
    }
}

#[test]
fn a_catalog_that_was_not_copied_whole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).close().unwrap();
    let log = dir.path().join("__cluster_metadata-0/00000000000000000000.log");
    let file = DiskStorage.open(&log, OpenMode::Write).unwrap();
    file.set_len(file.len().unwrap() - 10).unwrap();
    // As if we had never been here.
    for ours in ["thalweg.epoch", ".lock"] {
        DiskStorage.remove_file(&dir.path().join(ours)).unwrap();
    }
    let error = unchanged(dir.path(), || Broker::open(dir.path())).unwrap_err();
    assert_eq!((error.kind(), error.at_path()), (ErrorKind::Corrupt, Some(dir.path())), "{error}");
    assert!(error.to_string().contains("half a copy"), "{error}");

    let found = unchanged(dir.path(), || Broker::inspect(dir.path())).unwrap();
    assert!(found.read_only.is_some_and(|why| why.to_string().contains("ends inside a batch")));
    // Without the marker it is what a crash leaves.
    DiskStorage.remove_file(&dir.path().join(".kafka_cleanshutdown")).unwrap();
    Broker::open(dir.path()).unwrap().close().unwrap();
}

#[test]
fn an_inspection_of_disorder_finds_all_that_is_sound() {
    for foreign in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        drop(fill(dir.path()));
        make_dirty(dir.path(), foreign);
        let found = unchanged(dir.path(), || Broker::inspect(dir.path())).unwrap();
        let again = unchanged(dir.path(), || Broker::inspect(dir.path())).unwrap();
        assert_eq!(found.to_string(), again.to_string(), "the first look left something behind");
        let orders = found.topics.iter().find(|topic| topic.name == "orders").unwrap();
        let logs: Vec<_> = orders.partitions.iter().map(|partition| partition.log.as_ref().unwrap()).collect();
        // What is cut may have been acknowledged before it rotted: that offset is not given out again.
        let end = |log: &LogInspection| 151 + i64::from(log.recovery.cut_bytes > 0);
        assert!(logs.iter().all(|log| log.offsets.end == end(log)), "{found}");
        // Behind the last batch there may have been room for more.
        assert!(logs.iter().any(|log| log.recovery.cut_bytes >= 100), "{found}");
        assert_eq!(found.groups.len(), 1, "{found}");
    }
}

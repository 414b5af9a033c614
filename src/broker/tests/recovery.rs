//! What a broker tells of how its directory was opened.

use super::*;
use crate::finding::FindingKind;
use crate::log::RecoveryRow;
use crate::storage::{MemoryStorage, replace_file};

fn open(disk: &MemoryStorage) -> Broker {
    Broker::builder("/data").storage(disk.clone()).clock(ManualClock::new(Timestamp::new(1))).manual().open().unwrap()
}

/// One partition with a record, one with none.
fn written() -> (MemoryStorage, Broker) {
    let disk = MemoryStorage::new();
    let broker = open(&disk);
    let topic = broker.topic("orders").partitions(2).create().unwrap();
    append(&topic.partition(1).unwrap(), &["paid"]);
    (disk, broker)
}

fn rows(report: &RecoveryReport) -> Vec<RecoveryRow> {
    report.partitions.iter().flat_map(|partition| partition.outcome.as_ref().unwrap().rows.clone()).collect()
}

#[test]
fn a_report_names_how_the_directory_was_left_and_opens_nothing() {
    let (disk, broker) = written();
    let first = broker.recovery_report();
    let facts = |report: &RecoveryReport| (report.last_close, report.foreign_writer, report.state_begun_anew);
    assert_eq!(facts(&first), (LastClose::Never, false, false));
    drop(broker);

    let broker = open(&disk);
    let killed = broker.recovery_report();
    assert_eq!(facts(&killed), (LastClose::Abrupt, false, false));
    assert_eq!((rows(&killed), killed.unopened), (vec![RecoveryRow::Scanned], 1));
    broker.close().unwrap();
    assert_eq!(broker.recovery_report().to_string(), killed.to_string());

    let broker = open(&disk);
    let closed = broker.recovery_report();
    assert_eq!(facts(&closed), (LastClose::InOrder, false, false));
    assert_eq!((closed.partitions.len(), closed.unopened), (0, 2));
    assert_eq!(values(broker.topic("orders").open().unwrap().scan(Start::Earliest)), ["paid"]);
    let text = "last_close=InOrder foreign_writer=false state_begun_anew=false opened=2 unopened=0 dir=/data\n\
                orders-0 rows=Fresh scanned=0 cut=0 damaged=- kept=- took_ms=0 undecided=-\n\
                orders-1 rows=Clean scanned=0 cut=0 damaged=- kept=- took_ms=0 undecided=-";
    assert_eq!(broker.recovery_report().to_string(), text);
}

#[test]
fn a_report_tells_of_lost_state_of_strangers_and_of_logs_that_cannot_be_opened() {
    let (disk, broker) = written();
    drop(broker);
    disk.remove_file(Path::new("/data/thalweg.state")).unwrap();
    let broker = open(&disk);
    let report = broker.recovery_report();
    assert!(report.state_begun_anew && !report.foreign_writer, "{report}");
    assert!(rows(&report).contains(&RecoveryRow::StateLost), "{report}");
    broker.close().unwrap();

    replace_file(&disk, Path::new("/data/thalweg.epoch"), b"7\n").unwrap();
    let broker = open(&disk);
    let report = broker.recovery_report();
    assert!(report.state_begun_anew && report.foreign_writer, "{report}");
    drop(broker);

    replace_file(&disk, Path::new("/data/orders-1/partition.metadata"), b"nonsense").unwrap();
    let broker = open(&disk);
    let error = broker.topic("orders").open().unwrap().partition(1).unwrap().offsets().unwrap_err();
    let report = broker.recovery_report();
    let failed = report.partitions.iter().find(|partition| partition.outcome.is_err()).unwrap();
    assert_eq!(failed.outcome.as_ref().unwrap_err().to_string(), error.to_string());
    assert!(report.to_string().contains(&format!("\norders-1 error={error}")), "{report}");
}

fn builder(disk: &MemoryStorage, policy: RecoveryPolicy) -> BrokerBuilder {
    let clock = ManualClock::new(Timestamp::new(1));
    Broker::builder("/data").storage(disk.clone()).clock(clock).manual().recovery_policy(policy)
}

fn by(disk: &MemoryStorage, policy: RecoveryPolicy) -> Result<Broker> {
    builder(disk, policy).open()
}

/// Every file below a directory, with its bytes.
fn files(disk: &MemoryStorage, dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in disk.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        match entry.kind {
            crate::storage::EntryKind::Directory => files.extend(self::files(disk, &path)),
            _ => files
                .push((path.display().to_string(), crate::storage::read_file(disk, &path, 1 << 30).unwrap().unwrap())),
        }
    }
    files
}

/// Flips bits of a file at a position.
fn rot(disk: &MemoryStorage, path: &str, position: u64) {
    let file = disk.open(Path::new(path), OpenMode::Write).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], position).unwrap();
}

const LOG: &str = "/data/orders-1/00000000000000000000.log";

fn harm(disk: &MemoryStorage, what: &str) {
    match what {
        "a record" => rot(disk, LOG, 70),
        "a record, while a stranger wrote" => {
            replace_file(disk, Path::new("/data/thalweg.epoch"), b"7\n").unwrap();
            rot(disk, LOG, 70);
        }
        "the log" => disk.remove_dir_all(Path::new("/data/orders-1")).unwrap(),
        "the topic id" => replace_file(disk, Path::new("/data/orders-1/partition.metadata"), b"nonsense").unwrap(),
        _ => rot(disk, "/data/thalweg.state", 3),
    }
}

/// Two records in one partition; the process was killed.
fn killed() -> MemoryStorage {
    let (disk, broker) = written();
    append(&broker.topic("orders").open().unwrap().partition(1).unwrap(), &["sent"]);
    broker.run_maintenance().unwrap();
    disk
}

#[test]
fn a_strict_broker_refuses_damage_and_changes_nothing() {
    for what in ["a record", "a record, while a stranger wrote", "the log", "the topic id", "the state"] {
        let disk = killed();
        harm(&disk, what);
        let before = files(&disk, Path::new("/data"));
        for read_only in [false, true] {
            let builder = builder(&disk, RecoveryPolicy::Strict);
            let error = if read_only { builder.read_only() } else { builder }.open().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
            assert!(error.at_path().is_some() && error.to_string().contains('('), "{what}: {error}");
            assert_eq!(files(&disk, Path::new("/data")), before, "{what}");
        }
    }
    let disk = killed();
    let broker = by(&disk, RecoveryPolicy::Strict).unwrap();
    let topic = broker.topic("orders").open().unwrap();
    append(&topic.partition(1).unwrap(), &["more"]);
    assert_eq!(values(topic.scan(Start::Earliest)), ["paid", "sent", "more"]);
    broker.close().unwrap();

    // What was closed in order is looked at when it is used.
    rot(&disk, LOG, 70);
    let broker = by(&disk, RecoveryPolicy::Strict).unwrap();
    let topic = broker.topic("orders").open().unwrap();
    let before = files(&disk, Path::new("/data/orders-1"));
    let error = topic.partition(1).unwrap().offsets().unwrap_err();
    assert_eq!(error.topic_partition().unwrap().to_string(), "orders-1", "{error}");
    assert_eq!(files(&disk, Path::new("/data/orders-1")), before);
    append(&topic.partition(0).unwrap(), &["other"]);
}

#[test]
fn a_salvaging_broker_opens_what_can_be_opened_and_reads_past_damage() {
    let whole = &["paid", "sent"][..];
    for (what, left) in [
        ("a record", &["sent"][..]),
        ("a record, while a stranger wrote", &["sent"]),
        ("the log", &[]),
        ("the topic id", whole),
        ("the state", whole),
    ] {
        let disk = killed();
        harm(&disk, what);
        let broker = by(&disk, RecoveryPolicy::Salvage).unwrap();
        let topic = broker.topic("orders").open().unwrap();
        assert_eq!(values(topic.scan(Start::Earliest)), left, "{what}");
        assert!(!broker.findings().is_empty(), "{what}");
        append(&topic.partition(1).unwrap(), &["more"]);
        assert_eq!(values(topic.scan(Start::Earliest)), [left, &["more"]].concat(), "{what}");
        broker.close().unwrap();
        // It is mended for those who want no damage, where it could be.
        if left == whole {
            let broker = by(&disk, RecoveryPolicy::Strict).unwrap();
            let found = values(broker.topic("orders").open().unwrap().scan(Start::Earliest));
            assert_eq!(found, ["paid", "sent", "more"], "{what}");
        }
    }
}

#[test]
fn a_directory_is_not_called_clean_while_a_log_is_half_recovered() {
    let disk = SimStorage::new();
    let open = || {
        let clock = ManualClock::new(Timestamp::new(1));
        Broker::builder("/data").storage(disk.clone()).clock(clock).manual().open().unwrap()
    };
    let marker = Path::new("/data/.kafka_cleanshutdown");
    let broker = open();
    append(&broker.topic("orders").create().unwrap().partition(0).unwrap(), &["paid", "sent"]);
    broker.close().unwrap();
    disk.metadata(marker).unwrap();

    let file = disk.open(Path::new("/data/orders-0/00000000000000000000.log"), OpenMode::Write).unwrap();
    file.write_all_at(b"torn", file.len().unwrap()).unwrap();
    let broker = open();
    for operation in [Operation::Write, Operation::SetLen, Operation::Sync, Operation::SyncDir] {
        disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(operation).path("orders-0"));
    }
    let partition = broker.topic("orders").open().unwrap().partition(0).unwrap();
    assert_eq!(partition.offsets().unwrap_err().kind(), ErrorKind::Indeterminate);
    disk.mend();
    broker.close().unwrap();
    assert!(disk.metadata(marker).is_err(), "a stock broker would skip recovery");

    let broker = open();
    assert_eq!(values(broker.topic("orders").open().unwrap().scan(Start::Earliest)), ["paid", "sent"]);
    broker.close().unwrap();
    disk.metadata(marker).unwrap();
}

#[test]
fn a_strangers_log_is_known_as_one_until_it_was_opened() {
    let open = |disk: &SimStorage| Broker::builder("data").storage(disk.clone()).manual().open().unwrap();
    for is_closed in [true, false] {
        let disk = SimStorage::new();
        let broker = open(&disk);
        append(&broker.topic("orders").create().unwrap().partition(0).unwrap(), &["paid"]);
        if is_closed {
            broker.close().unwrap();
        }
        drop(broker);
        replace_file(&disk, Path::new("data/thalweg.epoch"), b"7\n").unwrap();
        if is_closed {
            // Nobody touches the topic.
            open(&disk).close().unwrap();
        } else {
            disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path("orders-0/0"));
            let report = open(&disk).recovery_report();
            assert!(report.partitions.iter().any(|partition| partition.outcome.is_err()), "{report}");
        }
        let broker = open(&disk.crash(Choice::ProcessCrash));
        assert_eq!(values(broker.topic("orders").open().unwrap().scan(Start::Earliest)), ["paid"]);
        let report = broker.recovery_report();
        assert!(!report.foreign_writer, "{report}");
        assert!(!rows(&report).contains(&RecoveryRow::StateLost), "{report}");
    }
}

#[test]
fn a_visit_that_opens_no_log_remembers_over_a_loss_of_power_that_they_are_a_strangers() {
    let open = |disk: &SimStorage| Broker::builder("data").storage(disk.clone()).manual().open().unwrap();
    let disk = SimStorage::new();
    let broker = open(&disk);
    append(&broker.topic("orders").create().unwrap().partition(0).unwrap(), &["paid"]);
    broker.close().unwrap();
    replace_file(&disk, Path::new("data/thalweg.epoch"), b"7\n").unwrap();
    let visit = open(&disk).recovery_report();
    assert!(visit.foreign_writer && visit.partitions.is_empty(), "{visit}");
    let broker = open(&disk.crash(Choice::Nothing));
    assert_eq!(values(broker.topic("orders").open().unwrap().scan(Start::Earliest)), ["paid"]);
    let report = broker.recovery_report();
    assert!(!report.foreign_writer && !rows(&report).contains(&RecoveryRow::StateLost), "{report}");
}

#[test]
fn a_topic_whose_level_rises_loses_nothing_of_before() {
    let open = |disk: &SimStorage| Broker::builder("data").storage(disk.clone()).manual().open().unwrap();
    let disk = SimStorage::new();
    let broker = open(&disk);
    let topic = broker.topic("orders").durability(Durability::ProcessCrash).create().unwrap();
    append(&topic.partition(0).unwrap(), &["paid"]);
    topic.alter_configs(&[("flush.messages", Some("1"))]).unwrap();
    let broker = open(&disk.crash(Choice::Nothing));
    assert_eq!(values(broker.topic("orders").open().unwrap().scan(Start::Earliest)), ["paid"]);
}

/// A whole segment may have to be read for it.
#[test]
fn segments_that_a_stock_broker_ended_get_seals_one_a_round() {
    let disk = MemoryStorage::new();
    let broker = open(&disk);
    let topic = broker.topic("orders").partitions(2).set("internal.segment.bytes", "200").create().unwrap();
    for n in 0..24 {
        append(&topic.partition(n % 2).unwrap(), &["a record of some length, so that there are segments"]);
    }
    broker.close().unwrap();
    let seals = || files(&disk, Path::new("/data")).iter().filter(|(name, _)| name.ends_with(".seal")).count();
    let ended = seals();
    assert!(ended > 6);
    replace_file(&disk, Path::new("/data/thalweg.epoch"), b"7\n").unwrap();
    let broker = open(&disk);
    topic_of(&broker).partitions().iter().for_each(|partition| append(partition, &["ours"]));
    for round in 0..ended + 2 {
        assert_eq!(seals(), round.min(ended));
        broker.run_maintenance().unwrap();
    }
}

fn topic_of(broker: &Broker) -> Topic {
    broker.topic("orders").open().unwrap()
}

#[test]
fn a_log_that_left_its_first_offsets_out_has_no_directory_to_be_missed() {
    let open = |disk: &SimStorage| Broker::builder("data").storage(disk.clone()).manual().open().unwrap();
    let disk = SimStorage::new();
    let broker = open(&disk);
    let partition = broker.topic("orders").create().unwrap().partition(0).unwrap();
    let weak = partition.append_records(["never written"]).unwrap();
    partition.wait(weak.position, Durability::None).unwrap();
    let disk = disk.crash(Choice::ProcessCrash);
    let broker = open(&disk);
    let end = broker.topic("orders").open().unwrap().partition(0).unwrap().offsets().unwrap().end;
    assert!(end > weak.last_offset);
    broker.run_maintenance().unwrap();
    let broker = open(&disk.crash(Choice::Nothing));
    let kinds: Vec<_> = broker.findings().iter().map(|finding| finding.kind).collect();
    assert!(!kinds.contains(&FindingKind::Lost), "{:?}", broker.findings());
    let partition = broker.topic("orders").open().unwrap().partition(0).unwrap();
    assert!(partition.offsets().unwrap().end >= end);
    append(&partition, &["paid"]);
    assert_eq!(values(broker.topic("orders").open().unwrap().scan(Start::Earliest)), ["paid"]);
}

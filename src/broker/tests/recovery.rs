//! What a broker tells of how its directory was opened.

use super::*;
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
                orders-0 rows=Fresh scanned=0 cut=0 damaged=- kept=- took_ms=0\n\
                orders-1 rows=Clean scanned=0 cut=0 damaged=- kept=- took_ms=0";
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

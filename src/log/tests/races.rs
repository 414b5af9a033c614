//! Two things at once, one of which waits for the disk while the other goes on.

use std::thread;

use super::*;

#[test]
fn whoever_asks_for_more_while_a_log_syncs_behind_gets_the_names_as_well() {
    let bed = Cuttable::new();
    let log = bed.open(LogConfig::default().durability(Durability::ProcessCrash));
    let appended = log.append_records(["value 0"]).unwrap();
    log.wait(appended.position, Durability::ProcessCrash).unwrap();
    let hold = bed.disk.hold_sync(".log");
    let left = thread::scope(|scope| {
        let syncing = scope.spawn(|| log.sync());
        hold.wait_for_sync();
        log.wait(appended.position, Durability::PowerLoss).unwrap();
        let left = bed.after_cut(0);
        drop(hold);
        syncing.join().unwrap().unwrap();
        left
    });
    assert_eq!(all(&left.open(LogConfig::default())), numbered(0..1));
}

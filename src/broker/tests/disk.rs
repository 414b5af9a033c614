//! What a broker says of the disk that it is on.

use super::*;

#[test]
fn a_sync_that_takes_long_is_told_while_it_does_and_after() {
    let (disk, clock) = (SimStorage::new(), ManualClock::new(Timestamp::new(1_700_000_000_000)));
    let broker = Broker::builder("data").storage(disk.clone()).clock(clock.clone()).manual().open().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let before = broker.metrics().syncs;
    assert!(before.count > 0 && !before.was_slow(), "{before}");
    let held = disk.hold_sync("t-0/00000000000000000000.log");
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| topic.send("one"));
        held.wait_for_it();
        clock.advance(Duration::from_secs(3));
        let during = broker.metrics().syncs;
        assert_eq!((during.waiting, during.longest), (Some(Duration::from_secs(3)), Duration::ZERO));
        assert!(during.was_slow());
        drop(held);
        sending.join().unwrap().unwrap();
    });
    let after = broker.metrics().syncs;
    assert_eq!((after.waiting, after.longest, after.total), (None, Duration::from_secs(3), Duration::from_secs(3)));
    assert!(after.was_slow() && after.count > before.count, "{after}");
}

#[test]
fn directories_are_synced_too_and_logs_that_stand_alone_count() {
    let log = crate::log::Log::open_on(
        Arc::new(SimStorage::new()),
        Arc::new(ManualClock::new(Timestamp::new(0))),
        "events-0",
        crate::log::LogConfig::default(),
    )
    .unwrap();
    // Its parent, for the directory's own name.
    assert!(log.metrics().syncs.count > 0);
}

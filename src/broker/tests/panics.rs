//! A thread of the broker panics at its work: nobody waits for it for ever, and nothing is written behind what it left.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use super::*;
use crate::record::Record;
use crate::types::Durability;

/// A clock that panics in some threads when they look what time it is, once for each time that it is told to.
#[derive(Clone, Debug)]
struct Bomb {
    /// Whether a thread of this name is one of them.
    is_victim: fn(&str) -> bool,
    is_set: Arc<AtomicBool>,
    clock: SystemClock,
}

impl Bomb {
    fn new(is_victim: fn(&str) -> bool) -> Self {
        Self { is_victim, is_set: Arc::default(), clock: SystemClock::new() }
    }

    fn set(&self) {
        self.is_set.store(true, Ordering::SeqCst);
    }
}

impl Clock for Bomb {
    fn now(&self) -> Timestamp {
        let is_victim = std::thread::current().name().is_some_and(self.is_victim);
        assert!(!(is_victim && self.is_set.swap(false, Ordering::SeqCst)), "as it was told");
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

/// What becomes of it, by the work of other threads alone.
fn outcome<T>(mut future: impl Future<Output = T> + Unpin) -> T {
    let mut context = Context::from_waker(Waker::noop());
    let clock = SystemClock::new();
    while clock.monotonic() < Duration::from_secs(60) {
        match Pin::new(&mut future).poll(&mut context) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::yield_now(),
        }
    }
    panic!("nobody is told");
}

#[test]
fn what_a_thread_that_panicked_was_to_write_fails_and_a_reopening_mends_it() {
    let bomb = Bomb::new(|name| name.starts_with("thalweg-sync-"));
    let disk = SimStorage::with_clock(Arc::new(bomb.clone()));
    let broker = Broker::builder("data").storage(disk).open().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let partition = topic.partition(0).unwrap();
    topic.send("one").unwrap();
    // More often than there are threads.
    for _ in 0..6 {
        bomb.set();
        let appended = partition.append_records(["lost"]).unwrap();
        let committed = partition.committed(appended.position, Durability::PowerLoss).unwrap();
        let error = outcome(committed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
        assert_eq!(topic.send("behind it").unwrap_err().kind(), ErrorKind::Poisoned);
        partition.reopen().unwrap();
    }
    topic.send("two").unwrap();
    assert_eq!(values(topic.scan(Start::Earliest)), ["one", "two"]);
    broker.close().unwrap();
}

#[test]
fn a_batch_at_which_the_thread_panicked_that_was_to_send_it_fails_and_others_are_sent() {
    let bomb = Bomb::new(|name| name == "thalweg-sync");
    let broker = Broker::builder("data").storage(SimStorage::new()).clock(bomb.clone()).open().unwrap();
    let topic = broker.topic("t").partitions(2).create().unwrap();
    let producer = broker.producer().build().unwrap();
    let enqueue = |partition| producer.enqueue(&topic, Record::new("one").partition(partition)).unwrap();
    // Their logs are open then.
    [0, 1].map(enqueue).into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
    for _ in 0..3 {
        bomb.set();
        // Both are enqueued before one is asked for.
        let tickets = [0, 1].map(enqueue);
        let failed: Vec<_> =
            tickets.into_iter().map(outcome).enumerate().filter_map(|(n, o)| Some((n, o.err()?))).collect();
        let [(number, error)] = &failed[..] else { panic!("{failed:?}") };
        assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
        let partition = topic.partition(*number as i32).unwrap();
        let send = |text: &'static str| producer.send(&topic, Record::new(text).partition(*number as i32));
        assert_eq!(send("behind it").unwrap_err().kind(), ErrorKind::Poisoned);
        partition.reopen().unwrap();
        send("two").unwrap();
    }
    let mut found = values(topic.scan(Start::Earliest));
    found.sort();
    assert_eq!(found, ["one", "one", "one", "one", "one", "two", "two", "two"]);
    broker.close().unwrap();
}

#[test]
fn a_round_of_maintenance_that_panics_at_one_partition_goes_on_with_the_others() {
    let bomb = Bomb::new(|name| name == "maintainer");
    let disk = SimStorage::new();
    let broker = Broker::builder("data").storage(disk).clock(bomb.clone()).manual().open().unwrap();
    let topics = ["a", "b"].map(|name| {
        let topic =
            broker.topic(name).set("retention.ms", "1000").set("internal.segment.bytes", "200").create().unwrap();
        // Long ago.
        (0..4).for_each(|n| drop(topic.send(Record::new(format!("{n}")).timestamp(Timestamp::new(5))).unwrap()));
        topic
    });
    let maintain = || {
        let maintainer = std::thread::Builder::new().name("maintainer".to_owned());
        let broker = broker.clone();
        maintainer.spawn(move || broker.run_maintenance()).unwrap().join().unwrap()
    };
    bomb.set();
    assert_eq!(maintain().unwrap_err().kind(), ErrorKind::Indeterminate);
    let starts = topics.each_ref().map(|topic| topic.partition(0).unwrap().offsets().unwrap().log_start);
    let failures = topics.each_ref().map(|topic| topic.partition(0).unwrap().failure().is_some());
    assert_eq!(starts.map(|start| start == Offset::ZERO), failures, "{starts:?}");
    assert_eq!(failures.iter().filter(|failed| **failed).count(), 1, "{starts:?}");
}

//! A thread of the broker panics at its work: nobody waits for it for ever, and nothing is written behind what it left.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use super::*;
use crate::types::Durability;

/// The clock of a disk, which panics in the threads that settle partitions, once for each time that it is told to.
#[derive(Debug, Default)]
struct Bomb(AtomicBool);

impl Clock for Bomb {
    fn now(&self) -> Timestamp {
        let is_settler = std::thread::current().name().is_some_and(|name| name.starts_with("thalweg-sync-"));
        assert!(!(is_settler && self.0.swap(false, Ordering::SeqCst)), "as it was told");
        Timestamp::new(0)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

#[test]
fn what_a_thread_that_panicked_was_to_write_fails_and_a_reopening_mends_it() {
    let bomb = Arc::new(Bomb::default());
    let disk = SimStorage::with_clock(Arc::clone(&bomb) as _);
    let broker = Broker::builder("data").storage(disk).open().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let partition = topic.partition(0).unwrap();
    topic.send("one").unwrap();
    // More often than there are threads.
    for _ in 0..6 {
        bomb.0.store(true, Ordering::SeqCst);
        let appended = partition.append_records(["lost"]).unwrap();
        let mut committed = partition.committed(appended.position, Durability::PowerLoss).unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let error = loop {
            match Pin::new(&mut committed).poll(&mut context) {
                std::task::Poll::Ready(done) => break done.unwrap_err(),
                std::task::Poll::Pending => std::thread::yield_now(),
            }
        };
        assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
        assert_eq!(topic.send("behind it").unwrap_err().kind(), ErrorKind::Poisoned);
        partition.reopen().unwrap();
    }
    topic.send("two").unwrap();
    assert_eq!(values(topic.scan(Start::Earliest)), ["one", "two"]);
    broker.close().unwrap();
}

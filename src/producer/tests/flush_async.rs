//! Flushing and closing by tasks, on brokers without threads: whoever polls does none of the work.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::broker::BrokerBuilder;

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Scene {
    disk: SimStorage,
    clock: ManualClock,
    broker: Broker,
    topic: Topic,
    producer: Producer,
}

fn scene(options: impl FnOnce(BrokerBuilder) -> BrokerBuilder) -> Scene {
    let disk = SimStorage::new();
    let clock = ManualClock::new(Timestamp::new(0));
    let builder = Broker::builder("/m").storage(disk.clone()).clock(clock.clone()).manual();
    let broker = options(builder).open().unwrap();
    let topic = broker.topic("t").partitions(2).create().unwrap();
    for partition in 0..2 {
        topic.send(Record::new("first").partition(partition)).unwrap();
    }
    let producer = broker.producer().linger(Duration::from_secs(3600)).build().unwrap();
    Scene { disk, clock, broker, topic, producer }
}

impl Scene {
    fn enqueue(&self, partition: i32, value: &str) -> Ticket {
        self.producer.enqueue(&self.topic, Record::new(value.to_owned()).partition(partition)).unwrap()
    }

    /// Polls, and sees to it that this asks nothing of the disk.
    fn poll<T>(&self, future: &mut (impl Future<Output = T> + Unpin), waker: &Waker) -> Poll<T> {
        let before = self.disk.operations();
        let polled = Pin::new(future).poll(&mut Context::from_waker(waker));
        assert_eq!(self.disk.operations(), before, "a poll did the work");
        polled
    }

    fn maintain(&self) {
        (0..3).for_each(|_| self.broker.run_maintenance().unwrap());
    }
}

fn ready<T>(polled: Poll<Result<T>>) -> Result<T> {
    let Poll::Ready(result) = polled else { panic!("its end is known") };
    result
}

#[test]
fn a_flush_of_a_task_waits_for_what_came_before_it_and_for_nothing_else() {
    let scene = scene(|builder| builder);
    let mut tickets: Vec<_> = (0..6).map(|n| scene.enqueue(n % 2, "x")).collect();
    let told = Arc::new(AtomicBool::new(false));
    let called = Arc::clone(&told);
    let record = Record::new("called").partition(1);
    scene.producer.enqueue_with(&scene.topic, record, move |at| called.store(at.is_ok(), Ordering::Relaxed)).unwrap();

    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut flush = Box::pin(scene.producer.flush_async());
    assert!(scene.poll(&mut flush, &waker).is_pending());
    let mut later = scene.enqueue(0, "in the open batch that goes");
    scene.maintain();
    assert!(woken.0.load(Ordering::Relaxed) > 0);
    // One more, which has an hour.
    let mut last = scene.enqueue(0, "later");
    ready(scene.poll(&mut flush, &waker)).unwrap();
    assert!(told.load(Ordering::Relaxed), "its callback came first");
    assert!(tickets.iter_mut().all(|ticket| ticket.try_result().unwrap().is_ok()));
    assert!(later.try_result().unwrap().is_ok());
    assert!(last.try_result().is_none());
    // With nothing to do it is done at once.
    scene.producer.flush().unwrap();
    ready(scene.poll(&mut Box::pin(scene.producer.flush_async()), Waker::noop())).unwrap();
}

#[test]
fn a_flush_of_a_task_tells_a_failure_once_and_a_dropped_one_leaves_it_to_the_next() {
    let scene = scene(|builder| builder.topic_byte_budget("t", 1_000, OnFull::Reject));
    scene.topic.send(Record::new(vec![0; 600]).partition(0)).unwrap();
    for is_dropped in [true, false] {
        drop(scene.producer.enqueue(&scene.topic, Record::new(vec![0; 300]).partition(0)).unwrap());
        drop(scene.enqueue(1, "small"));
        // The first takes what room there was.
        let mut flush = Box::pin(scene.producer.flush_async());
        assert!(scene.poll(&mut flush, Waker::noop()).is_pending());
        if is_dropped {
            drop(flush);
            scene.maintain();
            flush = Box::pin(scene.producer.flush_async());
        }
        scene.maintain();
        let result = ready(scene.poll(&mut flush, Waker::noop()));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
        ready(scene.poll(&mut Box::pin(scene.producer.flush_async()), Waker::noop())).unwrap();
    }
}

#[test]
fn a_flush_of_a_task_waits_for_no_thread_that_is_at_a_partition() {
    let scene = scene(|builder| builder);
    let ticket = scene.enqueue(0, "x");
    let lane = scene.producer.shared.accumulator.lanes_at_work().remove(0);
    let busy = lane.lock();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut flush = Box::pin(scene.producer.flush_async());
    assert!(scene.poll(&mut flush, &waker).is_pending());
    drop(busy);
    scene.maintain();
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    scene.clock.advance(Duration::from_millis(1));
    scene.maintain();
    assert_eq!(woken.0.load(Ordering::Relaxed), 1, "it looks again in a moment");
    assert!(scene.poll(&mut flush, &waker).is_pending());
    scene.maintain();
    ready(scene.poll(&mut flush, &waker)).unwrap();
    ticket.wait().unwrap();
}

#[test]
fn a_close_of_a_task_refuses_from_its_first_poll_on_dropped_or_not() {
    for is_dropped in [true, false] {
        let scene = scene(|builder| builder);
        let mut ticket = scene.enqueue(0, "x");
        let mut close = Box::pin(scene.producer.close_async());
        drop(scene.enqueue(1, "before its first poll"));
        assert!(scene.poll(&mut close, Waker::noop()).is_pending());
        let refused = |result: Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::Closed);
        refused(scene.producer.enqueue(&scene.topic, "y").map(drop));
        refused(ready(scene.poll(&mut Box::pin(scene.producer.flush_async()), Waker::noop())));
        // A second close does nothing.
        ready(scene.poll(&mut Box::pin(scene.producer.close_async()), Waker::noop())).unwrap();
        if is_dropped {
            drop(close);
            scene.maintain();
        } else {
            scene.maintain();
            ready(scene.poll(&mut close, Waker::noop())).unwrap();
        }
        assert!(ticket.try_result().unwrap().is_ok());
        assert_eq!(values(&scene.topic).len(), 4);
    }
}

#[test]
fn a_flush_of_a_task_ends_with_the_broker() {
    let scene = scene(|builder| builder);
    drop(scene.enqueue(0, "x"));
    let woken = Arc::new(Woken::default());
    let mut flush = Box::pin(scene.producer.flush_async());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(Pin::new(&mut flush).poll(&mut Context::from_waker(&waker)).is_pending());
    scene.broker.close().unwrap();
    assert!(woken.0.load(Ordering::Relaxed) > 0);
    assert!(Pin::new(&mut flush).poll(&mut Context::from_waker(&waker)).is_ready());
}

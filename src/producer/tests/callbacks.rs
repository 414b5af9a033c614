//! Whom a record's end is told to.

use std::sync::mpsc;

use parking_lot::Mutex;

use super::*;

/// What a test does that hangs where it fails.
fn ends(work: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(60)).expect("it ends");
}

/// Appends what it is told to a list that all callbacks share.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Call>>>);

/// The number of a record, and what was told of it.
type Call = (i32, Result<i64, ErrorKind>);

impl Told {
    fn callback(&self, number: i32) -> impl FnOnce(Result<RecordMetadata>) + Send + 'static {
        let told = Self::clone(self);
        move |result| told.0.lock().push((number, result.map(|at| at.offset.get()).map_err(|e| e.kind())))
    }

    fn all(&self) -> Vec<Call> {
        self.0.lock().clone()
    }
}

fn ok(numbers: std::ops::Range<i32>) -> Vec<Call> {
    numbers.map(|number| (number, Ok(number.into()))).collect()
}

fn manual() -> Broker {
    Broker::builder("/m").storage(MemoryStorage::new()).manual().open().unwrap()
}

#[test]
fn callbacks_of_a_partition_run_once_and_in_order_before_flush_returns() {
    for broker in [Broker::in_memory().unwrap(), manual()] {
        let topic = broker.topic("t").create().unwrap();
        let producer = broker.producer().batch_size(300).build().unwrap();
        let told = Told::default();
        for number in 0..200 {
            producer.enqueue_with(&topic, "x", told.callback(number)).unwrap();
            if number == 100 {
                producer.flush().unwrap();
                assert_eq!(told.all(), ok(0..101));
            }
        }
        producer.close_timeout(Duration::from_secs(600)).unwrap();
        assert_eq!(told.all(), ok(0..200));
    }
}

#[test]
fn a_callback_needs_nobody_to_ask() {
    let broker = Broker::in_memory().unwrap();
    broker.topic("t").create().unwrap();
    let producer = broker.producer().build().unwrap();
    let (sender, receiver) = mpsc::channel();
    producer.enqueue_with("t", "x", move |result| drop(sender.send(result))).unwrap();
    assert_eq!(receiver.recv().unwrap().unwrap().offset, 0);
}

#[test]
fn of_a_manual_broker_callbacks_run_in_maintenance() {
    let broker = manual();
    broker.topic("t").create().unwrap();
    let producer = broker.producer().linger(Duration::ZERO).build().unwrap();
    let told = Told::default();
    producer.enqueue_with("t", "x", told.callback(0)).unwrap();
    assert_eq!(told.all(), []);
    broker.run_maintenance().unwrap();
    broker.run_maintenance().unwrap();
    assert_eq!(told.all(), ok(0..1));
}

#[test]
fn a_callback_is_told_of_a_failure_and_flush_is_not() {
    let builder = Broker::builder("/m").storage(MemoryStorage::new());
    let broker = builder.topic_byte_budget("t", 400, OnFull::Reject).open().unwrap();
    broker.topic("t").create().unwrap().send(vec![0; 300]).unwrap();
    let producer = broker.producer().build().unwrap();
    let told = Told::default();
    producer.enqueue_with("t", vec![0; 150], told.callback(0)).unwrap();
    assert_eq!(
        producer.enqueue_with("none", "x", told.callback(1)).unwrap_err().kind(),
        ErrorKind::UnknownTopicOrPartition
    );
    producer.flush().unwrap();
    assert_eq!(told.all(), [(0, Err(ErrorKind::StorageFull))]);
}

#[test]
fn a_callback_may_panic_enqueue_and_flush() {
    for broker in [Broker::in_memory().unwrap(), manual()] {
        broker.topic("t").create().unwrap();
        let producer = broker.producer().build().unwrap();
        let told = Told::default();
        producer.enqueue_with("t", "x", |_| panic!("as callbacks may")).unwrap();
        let (inner, callback) = (producer.clone(), told.callback(1));
        producer
            .enqueue_with("t", "x", move |result| {
                callback(result);
                drop(inner.enqueue("t", "from within").unwrap());
                inner.flush().unwrap();
            })
            .unwrap();
        producer.enqueue_with("t", "x", told.callback(2)).unwrap();
        producer.flush().unwrap();
        producer.close().unwrap();
        assert_eq!(told.all(), ok(1..3));
        assert_eq!(broker.topic("t").open().unwrap().partition(0).unwrap().offsets().unwrap().end, 4);
    }
}

#[test]
fn a_partition_that_hangs_keeps_no_other_callbacks() {
    let disk = SimStorage::new();
    let broker = Broker::builder("/m").storage(disk.clone()).open().unwrap();
    let topic = broker.topic("t").partitions(2).create().unwrap();
    for partition in 0..2 {
        topic.send(Record::new("first").partition(partition)).unwrap();
    }
    let producer = broker.producer().build().unwrap();
    let (told, (sender, receiver)) = (Told::default(), mpsc::channel());
    let held = disk.hold_sync("t-0/");
    producer.enqueue_with(&topic, Record::new("x").partition(0), told.callback(1)).unwrap();
    producer.enqueue_with(&topic, Record::new("x").partition(1), move |at| drop(sender.send(at))).unwrap();
    assert_eq!(receiver.recv().unwrap().unwrap().offset, 1);
    held.wait_for_it();
    assert_eq!(told.all(), []);
    assert_eq!(producer.close_timeout(Duration::from_millis(10)).unwrap_err().kind(), ErrorKind::TimedOut);
    drop(held);
    drop(producer);
    while told.all().is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(told.all(), ok(1..2));
}

#[test]
fn a_dropped_producer_forgets_no_callback() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(dir.path()).unwrap();
    broker.topic("t").create().unwrap();
    let producer = broker.producer().linger(Duration::from_secs(60)).build().unwrap();
    let (sender, receiver) = mpsc::channel();
    let inner = producer.clone();
    producer
        .enqueue_with("t", "x", move |result| {
            drop(inner);
            drop(sender.send(result));
        })
        .unwrap();
    producer.shared.accumulator.send_all();
    drop((broker, producer));
    assert_eq!(receiver.recv().unwrap().unwrap().offset, 0);

    let broker = manual();
    broker.topic("t").create().unwrap();
    let producer = broker.producer().build().unwrap();
    let told = Told::default();
    producer.enqueue_with("t", "x", told.callback(0)).unwrap();
    drop(producer);
    assert_eq!(told.all(), [(0, Err(ErrorKind::Indeterminate))]);
}

#[test]
fn a_fork_is_told_that_callbacks_run_elsewhere() {
    ends(|| {
        let broker = Broker::in_memory().unwrap();
        let topic = broker.topic("t").create().unwrap();
        let producer = broker.producer().build().unwrap();
        let (go_on, goes_on) = mpsc::channel::<()>();
        producer.enqueue_with(&topic, "x", move |_| goes_on.recv().unwrap()).unwrap();
        producer.shared.accumulator.callbacks.fork();
        let forked = |error: Error| {
            assert_eq!(error.kind(), ErrorKind::Forked);
            let text = error.to_string();
            assert!(text.starts_with("the producer's callbacks run elsewhere: process "), "{text}");
            assert!(text.contains("fork first"), "{text}");
        };
        // Of one that was left to the parent nobody will say here that it has run.
        forked(producer.flush().unwrap_err());
        let told = Told::default();
        forked(producer.enqueue_with(&topic, "y", told.callback(2)).unwrap_err());
        forked(producer.close().unwrap_err());
        go_on.send(()).unwrap();
        assert_eq!((told.all(), values(&topic)), (vec![], vec!["x".to_owned()]));
    });
}

#[test]
fn of_a_manual_broker_no_lock_is_held_while_a_callback_runs() {
    ends(|| {
        let broker = manual();
        let topic = broker.topic("t").create().unwrap();
        let producer = broker.producer().linger(Duration::ZERO).build().unwrap();
        let other = broker.producer().build().unwrap();
        let told = Told::default();
        let (inner, callback) = (broker.clone(), told.callback(0));
        producer
            .enqueue_with(&topic, "x", move |result| {
                inner.run_maintenance().unwrap();
                // Another thread may need what this one had.
                std::thread::spawn(move || drop(other)).join().unwrap();
                callback(result);
            })
            .unwrap();
        let (inner, callback) = (producer.clone(), told.callback(1));
        producer
            .enqueue_with(&topic, "x", move |result| {
                drop(inner);
                callback(result);
            })
            .unwrap();
        drop(producer);
        while told.all().len() < 2 {
            broker.run_maintenance().unwrap();
        }
        assert_eq!(told.all(), ok(0..2));
    });
}

#[test]
fn of_a_manual_broker_every_flush_waits_for_its_callbacks() {
    ends(|| {
        let broker = manual();
        let topic = broker.topic("t").create().unwrap();
        let producer = broker.producer().build().unwrap();
        let told = Told::default();
        let ((began, begun), (go_on, goes_on)) = (mpsc::channel(), mpsc::channel::<()>());
        producer
            .enqueue_with(&topic, "x", move |_| {
                began.send(()).unwrap();
                goes_on.recv().unwrap();
            })
            .unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| producer.flush().unwrap());
            begun.recv().unwrap();
            producer.enqueue_with(&topic, "y", told.callback(1)).unwrap();
            let error = producer.shared.accumulator.flush_within(Duration::from_millis(1)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            let flushed = scope.spawn(|| {
                producer.flush().unwrap();
                told.all()
            });
            go_on.send(()).unwrap();
            assert_eq!(flushed.join().unwrap(), ok(1..2));
        });
    });
}

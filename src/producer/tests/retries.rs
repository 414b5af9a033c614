//! What is tried again, in which order, and for how long.

use super::*;
use crate::finding::FindingKind;

const SECOND: Duration = Duration::from_secs(1);

/// A manual broker on a disk, and a producer of one batch per record that tries again every second.
struct Scene {
    disk: SimStorage,
    clock: ManualClock,
    broker: Broker,
    topic: Topic,
    producer: Producer,
}

fn scene(options: impl FnOnce(ProducerBuilder) -> ProducerBuilder) -> Scene {
    let (disk, clock) = (SimStorage::new(), ManualClock::new(Timestamp::new(0)));
    let broker = Broker::builder("/m").storage(disk.clone()).clock(clock.clone()).manual().open().unwrap();
    let topic = broker.topic("t").partitions(2).durability(Durability::ProcessCrash).create().unwrap();
    for partition in 0..2 {
        topic.send(Record::new("first").partition(partition)).unwrap();
    }
    let builder = broker.producer().batch_size(1).retries(u32::MAX).retry_backoff(SECOND, SECOND);
    let producer = options(builder).build().unwrap();
    Scene { disk, clock, broker, topic, producer }
}

impl Scene {
    fn enqueue(&self, partition: i32, value: &str) -> Ticket {
        self.producer.enqueue(&self.topic, Record::new(value.to_owned()).partition(partition)).unwrap()
    }

    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        // It tells of failures, too.
        self.broker.run_maintenance().ok();
        self.broker.run_maintenance().ok();
    }

    fn no_space(&self) -> Fault {
        let fault = Fault::new(Errno::NoSpace, Repeat::Forever).on(Operation::Write).path("t-0/");
        self.disk.add_fault(fault.clone());
        fault
    }
}

#[test]
fn what_a_full_disk_took_back_goes_again_before_what_came_later() {
    let scene = scene(|builder| builder);
    let fault = scene.no_space();
    let mut tickets: Vec<_> = ["a", "b"].map(|value| scene.enqueue(0, value)).into();
    scene.pass(Duration::ZERO);
    assert!(tickets[1].try_result().is_none(), "it is to go again");
    assert!(scene.disk.remove_fault(&fault));
    // There is space, but others come first.
    tickets.push(scene.enqueue(0, "c"));
    scene.pass(Duration::ZERO);
    assert!(tickets[2].try_result().is_none());
    assert_eq!(scene.enqueue(1, "d").wait().unwrap().offset, 1);
    scene.pass(SECOND);
    let offsets: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait().unwrap().offset.get()).collect();
    assert_eq!(offsets, [1, 2, 3]);
    scene.producer.close().unwrap();
    let mut found = values(&scene.topic);
    found.retain(|value| value.len() == 1 && value != "d");
    assert_eq!(found, ["a", "b", "c"]);
    let metrics = &scene.broker.metrics().producers["t"];
    assert_eq!((metrics.records, metrics.errors, metrics.retries), (4, 0, 2), "{metrics}");
}

/// A future that waited at the first place must not take what is told of that for the end.
#[test]
fn a_future_of_a_ticket_follows_its_batch_to_its_second_place() {
    let scene = scene(|builder| builder);
    let fault = scene.no_space();
    let mut ticket = scene.enqueue(0, "a");
    let mut poll = || Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    scene.broker.run_maintenance().ok();
    let send_due = || scene.producer.shared.accumulator.send_due(crate::clock::Clock::monotonic(&scene.clock));
    send_due();
    assert!(scene.disk.remove_fault(&fault));
    scene.clock.advance(SECOND);
    send_due();
    assert!(poll().is_pending(), "it is with the log again");
    scene.pass(Duration::ZERO);
    let Poll::Ready(found) = poll() else { panic!("it is written") };
    assert_eq!(found.unwrap().offset, 1);
    scene.producer.close().unwrap();
}

#[test]
fn what_a_byte_budget_refused_goes_again_in_order() {
    let clock = ManualClock::new(Timestamp::new(0));
    let builder = Broker::builder("/m").storage(MemoryStorage::new()).clock(clock.clone()).manual();
    let broker = builder.topic_byte_budget("t", 400, OnFull::Reject).open().unwrap();
    let (topic, other) = (broker.topic("t").create().unwrap(), broker.topic("u").create().unwrap());
    topic.send(vec![0; 300]).unwrap();
    let builder = broker.producer().batch_size(1).config("retries", "5").retry_backoff(SECOND, SECOND);
    let producer = builder.build().unwrap();
    let tickets = ["a", "b", "c"].map(|value| producer.enqueue(&topic, value.repeat(50)).unwrap());
    assert_eq!(producer.send(&other, "meanwhile").unwrap().offset, 0);
    topic.partition(0).unwrap().delete_records(1).unwrap();
    clock.advance(SECOND);
    broker.run_maintenance().unwrap();
    assert_eq!(tickets.map(|ticket| ticket.wait().unwrap().offset.get()), [1, 2, 3]);
    assert_eq!(values(&topic), ["a", "b", "c"].map(|value| value.repeat(50)));
    producer.close().unwrap();
}

#[test]
fn a_record_is_given_up_after_its_delivery_timeout_and_is_not_there() {
    let scene = scene(|builder| builder.delivery_timeout(3 * SECOND));
    let fault = scene.no_space();
    let (first, second) = (scene.enqueue(0, "a"), scene.enqueue(0, "b"));
    drop(scene.enqueue(0, "unread"));
    scene.pass(Duration::ZERO);
    scene.pass(3 * SECOND);
    for ticket in [first, second] {
        let error = ticket.wait().unwrap_err();
        assert!(error.kind() == ErrorKind::TimedOut && error.is_retriable(), "{error}");
        for part in ["t-0", "3000 ms", "delivery.timeout.ms", "not there", "cannot append"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
    assert!(scene.disk.remove_fault(&fault));
    assert_eq!(scene.enqueue(0, "c").wait().unwrap().offset, 1);
    assert_eq!(scene.producer.close().unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(scene.topic.partition(0).unwrap().offsets().unwrap().end, 2);
}

#[test]
fn no_batch_is_tried_more_often_than_allowed() {
    let scene = scene(|builder| builder.retries(2));
    scene.no_space();
    let mut ticket = scene.enqueue(0, "a");
    let result = (0..20).find_map(|_| {
        scene.pass(SECOND);
        ticket.try_result()
    });
    assert_eq!(result.unwrap().unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(scene.broker.metrics().producers["t"].retries, 2);
    scene.producer.close().unwrap();
}

#[test]
fn the_pause_before_a_retry_doubles_up_to_its_limit() {
    let millis = Duration::from_millis;
    let retries = Retries { most: 9, backoff: millis(100), backoff_max: millis(1000), delivery: None };
    let pauses: Vec<_> = [1, 2, 3, 4, 5, 99].map(|refusals| retries.pause(refusals).as_millis()).into();
    assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
}

#[test]
fn a_partition_that_stopped_takes_what_waits_when_it_is_reopened() {
    let scene = scene(|builder| builder);
    scene.disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Write).path("t-0/"));
    let lost = scene.enqueue(0, "a");
    assert_eq!(lost.wait().unwrap_err().kind(), ErrorKind::Io);
    let (mut ticket, behind) = (scene.enqueue(0, "b"), scene.enqueue(0, "c"));
    scene.pass(SECOND);
    assert!(ticket.try_result().is_none());
    scene.topic.partition(0).unwrap().reopen().unwrap();
    scene.pass(SECOND);
    assert_eq!((ticket.wait().unwrap().offset, behind.wait().unwrap().offset), (1.into(), 2.into()));
    scene.producer.close().unwrap();
}

/// Those who wait are told, and those who only look are not.
#[test]
fn a_flush_ends_where_it_cannot_be_noted_which_offsets_are_taken() {
    let scene = scene(|builder| builder.retries(0));
    let topic = scene.broker.topic("u").durability(Durability::ProcessCrash).create().unwrap();
    let fault = Fault::new(Errno::NoSpace, Repeat::Forever).on(Operation::Sync).path("thalweg.state");
    scene.disk.add_fault(fault.clone());
    drop(scene.producer.enqueue(&topic, "a").unwrap());
    assert_eq!(scene.producer.flush().unwrap_err().kind(), ErrorKind::Indeterminate);
    scene.disk.remove_fault(&fault);
}

#[test]
fn a_sync_that_failed_is_not_tried_again() {
    let scene = scene(|builder| builder.durability(Durability::PowerLoss));
    scene.disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path("t-0/"));
    let ticket = scene.enqueue(0, "a");
    assert_eq!(ticket.wait().unwrap_err().kind(), ErrorKind::Indeterminate);
}

/// Without threads, and with a clock that stands, nobody else would.
#[test]
fn of_a_manual_broker_whoever_waits_tries_again() {
    let scene = scene(|builder| builder.retries(3).retry_backoff(Duration::from_millis(1), SECOND));
    scene.no_space();
    let error = scene.enqueue(0, "a").wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    drop(scene.enqueue(0, "b"));
    assert_eq!(scene.producer.flush().unwrap_err().kind(), ErrorKind::StorageFull);
}

#[test]
fn a_retry_needs_nobody_to_wait() {
    let disk = SimStorage::new();
    let broker = Broker::builder("/m").storage(disk.clone()).open().unwrap();
    let topic = broker.topic("t").create().unwrap();
    topic.send("first").unwrap();
    let millisecond = Duration::from_millis(1);
    let producer = broker.producer().retries(u32::MAX).retry_backoff(millisecond, millisecond).build().unwrap();
    let fault = Fault::new(Errno::NoSpace, Repeat::Forever).on(Operation::Write).path("t-0/");
    disk.add_fault(fault.clone());
    for n in 0..50 {
        drop(producer.enqueue(&topic, format!("{n:02}")).unwrap());
        if n % 10 == 0 {
            let error = producer.clone().shared.accumulator.flush_within(millisecond).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        }
    }
    disk.remove_fault(&fault);
    let mut tail = topic.tail(Start::Earliest);
    assert_eq!(tail.next().unwrap().unwrap().value(), Some(&b"first"[..]));
    for n in 0..50 {
        assert_eq!(tail.next().unwrap().unwrap().value(), Some(format!("{n:02}").as_bytes()));
    }
    producer.close().unwrap();
}

/// Whoever notices first that something was taken back, and wherever the others are then.
#[test]
fn records_of_many_threads_keep_their_order_on_a_disk_that_is_full_now_and_then() {
    let disk = SimStorage::new();
    let broker = Broker::builder("/m").storage(disk.clone()).open().unwrap();
    let topic = broker.topic("t").partitions(2).durability(Durability::ProcessCrash).create().unwrap();
    let builder = broker.producer().batch_size(150).retries(u32::MAX).buffer_memory(300_000);
    let producer = builder.retry_backoff(Duration::from_micros(50), Duration::from_millis(1)).build().unwrap();
    let (threads, records) = (3, 400);
    std::thread::scope(|scope| {
        let senders = (0..threads).map(|thread| {
            let (producer, topic) = (&producer, &topic);
            scope.spawn(move || {
                for n in 0..records {
                    let record = Record::new(format!("{thread}/{n:03}")).partition(n % 2);
                    let ticket = producer.enqueue(topic, record).unwrap();
                    // Some wait, in each of the ways; the others leave it to them.
                    match n % 20 {
                        0 => drop(ticket.wait().unwrap()),
                        7 => producer.flush().unwrap(),
                        _ => drop(ticket),
                    }
                }
            })
        });
        let senders: Vec<_> = senders.collect();
        let fault = Fault::new(Errno::NoSpace, Repeat::Forever).on(Operation::Write).path(".log");
        while senders.iter().any(|sender| !sender.is_finished()) {
            disk.add_fault(fault.clone());
            std::thread::yield_now();
            disk.remove_fault(&fault);
            std::thread::yield_now();
        }
    });
    producer.close().unwrap();
    let all: Vec<_> = topic.scan(Start::Earliest).map(Result::unwrap).collect();
    assert_eq!(all.len(), usize::try_from(threads * records).unwrap());
    for (thread, partition) in (0..threads).flat_map(|thread| [(thread, 0), (thread, 1)]) {
        let prefix = format!("{thread}/");
        let values = all.iter().filter(|record| record.partition() == partition).filter_map(|record| record.value());
        let mine: Vec<_> = values.filter(|value| value.starts_with(prefix.as_bytes())).collect();
        assert!(mine.windows(2).all(|pair| pair[0] < pair[1]), "{mine:?}");
    }
}

#[test]
fn a_dropped_producer_tells_what_it_will_not_try_again() {
    let builder = Broker::builder("/m").storage(MemoryStorage::new()).manual();
    let broker = builder.topic_byte_budget("t", 400, OnFull::Reject).open().unwrap();
    let topic = broker.topic("t").create().unwrap();
    topic.send(vec![0; 300]).unwrap();
    let producer = broker.producer().retries(u32::MAX).build().unwrap();
    let ticket = producer.enqueue(&topic, vec![0; 100]).unwrap();
    producer.shared.accumulator.send_all();
    drop(producer.enqueue(&topic, vec![0; 100]).unwrap());
    drop(producer);
    let findings = broker.findings();
    assert!(findings.len() == 1 && findings[0].kind == FindingKind::NotSent, "{findings:?}");
    assert!(findings[0].message.contains("byte budget"), "{findings:?}");
    let error = ticket.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    for part in ["t-0", "tried again", "byte budget", "flush"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(Arc::strong_count(topic.entry()), 2, "nobody holds a lane any more");
}

/// A producer that is gone, with a batch of two records that the log has and that the disk has no room for.
fn left(options: impl FnOnce(ProducerBuilder) -> ProducerBuilder) -> (Scene, Fault, [Ticket; 2]) {
    let mut scene = scene(|builder| options(builder.batch_size(1_000)));
    let fault = scene.no_space();
    let tickets = [scene.enqueue(0, "a"), scene.enqueue(0, "b")];
    let other = scene.broker.producer().build().unwrap();
    drop(std::mem::replace(&mut scene.producer, other));
    assert_eq!(scene.broker.findings(), [], "it is with the log");
    (scene, fault, tickets)
}

fn told(scene: &Scene) -> (usize, u64) {
    let findings = scene.broker.findings();
    let of_it = |kind, message: &str| kind == FindingKind::NotSent && message.starts_with("2 records of a producer");
    assert!(findings.iter().all(|finding| of_it(finding.kind, &finding.message)), "{findings:?}");
    assert!(findings.iter().all(|finding| finding.partition.as_ref().unwrap().to_string() == "t-0"), "{findings:?}");
    (findings.len(), scene.broker.metrics().producers.get("t").map_or(0, |producers| producers.errors))
}

#[test]
fn what_the_log_takes_back_from_a_producer_that_is_gone_is_told() {
    for retries in [0, u32::MAX] {
        let (scene, _fault, tickets) = left(|builder| builder.retries(retries));
        drop(tickets);
        scene.pass(Duration::ZERO);
        assert_eq!(told(&scene), (1, 2));
        // Once.
        scene.pass(SECOND);
        assert_eq!(told(&scene), (1, 2));
    }
    // Also where nobody looked before the broker closed.
    let (scene, _fault, tickets) = left(|builder| builder);
    drop(tickets);
    scene.broker.close().ok();
    assert_eq!(told(&scene), (1, 2));
}

#[test]
fn what_a_producer_that_is_gone_has_left_is_not_told_where_it_arrives_or_somebody_asks() {
    let (scene, fault, tickets) = left(|builder| builder);
    drop(tickets);
    scene.disk.remove_fault(&fault);
    scene.broker.close().unwrap();
    assert_eq!(told(&scene), (0, 0));

    let (scene, _fault, [mut first, second]) = left(|builder| builder);
    scene.pass(Duration::ZERO);
    assert_eq!(first.try_result().unwrap().unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(told(&scene).0, 0, "the owner of the other may still ask");
    drop((first, second));
    assert_eq!(told(&scene), (1, 2));
}

#[test]
fn closing_the_broker_ends_retries() {
    let scene = scene(|builder| builder);
    let fault = scene.no_space();
    let ticket = scene.enqueue(0, "a");
    scene.pass(Duration::ZERO);
    scene.broker.close().ok();
    assert_eq!(ticket.wait().unwrap_err().kind(), ErrorKind::Closed);
    scene.disk.remove_fault(&fault);
}

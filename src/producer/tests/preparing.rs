//! What has to wait for the disk before a batch can go.

use super::*;

/// Waits until the broker's threads have sent what nobody waits for.
fn assert_sent(producer: &Producer, topic: &Topic) {
    let (told, telling) = std::sync::mpsc::channel();
    producer.enqueue_with(topic, "other", move |result| told.send(result.is_ok()).unwrap()).unwrap();
    assert_eq!(telling.recv_timeout(Duration::from_secs(60)), Ok(true), "held up");
}

fn dropping(disk: &SimStorage) -> (Broker, Topic) {
    let builder = Broker::builder("/m").storage(disk.clone());
    let broker = builder.topic_byte_budget("t", 3_000, OnFull::DropOldest).open().unwrap();
    let topic = broker.topic("t").create().unwrap();
    topic.send("first").unwrap();
    (broker, topic)
}

/// Enqueues until a batch waits for others to be dropped.
fn fill(producer: &Producer, topic: &Topic) -> Vec<Ticket> {
    let is_waiting = || {
        let lanes = producer.shared.accumulator.lanes_at_work();
        lanes.iter().any(|lane| lane.lock().is_preparing())
    };
    let mut tickets = Vec::new();
    while !is_waiting() {
        tickets.push(producer.enqueue(topic, vec![7; 700]).unwrap());
        producer.shared.accumulator.send_all();
    }
    tickets
}

#[test]
fn a_batch_for_which_others_have_to_be_dropped_holds_up_no_other_partition() {
    let disk = SimStorage::new();
    let (broker, topic) = dropping(&disk);
    let other = broker.topic("other").create().unwrap();
    other.send("first").unwrap();
    let producer = broker.producer().linger(Duration::from_millis(1)).build().unwrap();
    let (held, held_state) = (disk.hold_sync("t-0/"), disk.hold_sync(".state"));
    let tickets = fill(&producer, &topic);
    assert_sent(&broker.producer().build().unwrap(), &other);
    let error = producer.close_timeout(Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    drop((held, held_state));
    tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
}

#[test]
fn a_batch_that_waits_for_a_higher_epoch_holds_up_no_other_partition() {
    let disk = SimStorage::new();
    let broker = Broker::builder("/m").storage(disk.clone()).open().unwrap();
    let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
    let other = broker.topic("other").durability(Durability::ProcessCrash).create().unwrap();
    other.send("first").unwrap();
    topic.send("lost").unwrap();
    let lost = Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path("t-0/").leaves(AfterFailedSync::DropsToOld);
    disk.add_fault(lost);
    let partition = topic.partition(0).unwrap();
    partition.sync().unwrap_err();
    partition.reopen().unwrap();
    let producer = broker.producer().build().unwrap();
    let held = disk.hold_sync("__cluster_metadata");
    let ticket = producer.enqueue(&topic, "later").unwrap();
    producer.shared.accumulator.send_all();
    held.wait_for_it();
    assert_sent(&producer, &other);
    drop(held);
    assert!(ticket.wait().unwrap().offset > 1);
}

#[test]
fn batches_that_wait_for_the_same_room_hold_up_no_other_topic() {
    let disk = SimStorage::new();
    let builder = ["t", "u"].into_iter().fold(Broker::builder("/m").storage(disk.clone()), |builder, name| {
        builder.topic_byte_budget(name, 3_000, OnFull::DropOldest)
    });
    let broker = builder.open().unwrap();
    let topics = ["t", "u"].map(|name| broker.topic(name).create().unwrap());
    topics.iter().for_each(|topic| drop(topic.send("first").unwrap()));
    // As many as may do such things at once, and one whose batches give up.
    let producers = [(); 3].map(|()| broker.producer().build().unwrap());
    let hasty = broker.producer().delivery_timeout(Duration::from_millis(20)).build().unwrap();
    let held = disk.hold_sync("t-0/");
    let waiting: Vec<_> = producers[..2].iter().flat_map(|producer| fill(producer, &topics[0])).collect();
    for _ in 0..3 {
        let late = fill(&hasty, &topics[0]).pop().unwrap().wait_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
    }
    for ticket in fill(&producers[2], &topics[1]) {
        ticket.wait_timeout(Duration::from_secs(60)).unwrap().unwrap();
    }
    drop(held);
    waiting.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
}

#[test]
fn what_stopped_a_batch_that_gave_up_does_not_stop_the_next() {
    let disk = SimStorage::new();
    let builder = Broker::builder("/m").storage(disk.clone()).byte_budget(3_000, OnFull::DropOldest);
    let broker = builder.open().unwrap();
    let kept = broker.topic("kept").config(TopicConfig::new().cleanup_policy(CleanupPolicy::Compact)).create().unwrap();
    kept.send(("key", vec![1; 1_500])).unwrap();
    let topic = broker.topic("t").create().unwrap();
    topic.send(vec![2; 700]).unwrap();
    let producer = broker.producer().retries(0).delivery_timeout(Duration::from_millis(500)).build().unwrap();
    let held = ["t-0/", ".state"].map(|part| disk.hold_sync(part));
    // Whatever is dropped, there is no room for it.
    let large = producer.enqueue(&topic, vec![3; 2_000]).unwrap();
    producer.shared.accumulator.send_all();
    assert_eq!(large.wait_timeout(Duration::from_secs(60)).unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
    drop(held);
    let partition = topic.partition(0).unwrap();
    while partition.offsets().unwrap().log_start == 0 {
        std::thread::yield_now();
    }
    producer.send(&topic, vec![4; 300]).unwrap();
}

/// Two wait for the disk, so that nobody has begun with the third.
#[test]
fn a_broker_that_closes_sends_what_waits_for_others_to_be_dropped() {
    let disk = SimStorage::new();
    let builder = ["a", "b", "c"].into_iter().fold(Broker::builder("/m").storage(disk.clone()), |builder, name| {
        builder.topic_byte_budget(name, 3_000, OnFull::DropOldest)
    });
    let broker = builder.open().unwrap();
    let topics = ["a", "b", "c"].map(|name| broker.topic(name).create().unwrap());
    topics.iter().for_each(|topic| drop(topic.send("first").unwrap()));
    let producers = [(); 3].map(|()| broker.producer().build().unwrap());
    let held = ["a-0/", "b-0/", "c-0/", ".state"].map(|part| disk.hold_sync(part));
    let tickets: Vec<_> = topics.iter().zip(&producers).flat_map(|(topic, producer)| fill(producer, topic)).collect();
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| broker.close());
        while !broker.is_stopping() {
            std::thread::yield_now();
        }
        drop(held);
        closing.join().unwrap().unwrap();
    });
    for ticket in tickets {
        ticket.wait_timeout(Duration::from_secs(60)).expect("somebody tells").unwrap();
    }
}

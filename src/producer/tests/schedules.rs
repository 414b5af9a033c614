//! A whole producer over a whole broker, in many orders of the steps of all threads, the broker's included: every ticket
//! is resolved once, nobody sleeps through what he waits for, and nothing accepted is lost.

use shuttle::future::block_on;

use super::*;
use crate::producer::memory::Memory;
use crate::sync::{model, thread};

fn broker(disk: &SimStorage) -> Broker {
    let builder = Broker::builder("/m").storage(disk.clone()).clock(model::ModelClock);
    builder.commit_gather(Duration::ZERO).open().unwrap()
}

fn topic(broker: &Broker) -> Topic {
    broker.topic("t").create().unwrap()
}

/// A record of this number; two of them fill a batch of `PAIR`.
fn record(number: usize) -> Record {
    Record::new(format!("{number:02}"))
}

const PAIR: usize = 140;

/// Nobody was rescued by a timeout: only moments passed.
fn assert_prompt() {
    assert!(model::now() < Duration::from_millis(100), "it took {:?}", model::now());
}

/// Ends all, and looks at what is there: as many records as were accepted, those of each thread in their order.
fn assert_all_there(broker: Broker, topic: &Topic, accepted: usize) {
    topic.entry().partition(0.into()).unwrap().sync().unwrap();
    let all = values(topic);
    assert_eq!(all.len(), accepted, "{all:?}");
    for thread in ["0", "1", "2"] {
        let mine: Vec<_> = all.iter().filter(|value| value.starts_with(thread)).collect();
        assert!(mine.is_sorted(), "{all:?}");
    }
    broker.close().unwrap();
    assert_prompt();
}

/// How a ticket's owner learns its end.
fn learn(ticket: Ticket, how: usize) -> Option<RecordMetadata> {
    match how {
        0 => Some(ticket.wait().unwrap()),
        1 => Some(block_on(ticket).unwrap()),
        2 => Some(ticket.wait_timeout(Duration::from_secs(60)).unwrap().unwrap()),
        _ => {
            drop(ticket);
            None
        }
    }
}

/// Threads enqueue three records each, and learn in three ways how the second one went; other tickets are dropped.
fn enqueue_from_threads(producer: &Producer, topic: &Topic, threads: usize) -> Vec<RecordMetadata> {
    let threads: Vec<_> = (0..threads)
        .map(|mine| {
            let (producer, topic) = (producer.clone(), topic.clone());
            thread::spawn(move || {
                let tickets = (0..3).map(|number| producer.enqueue(&topic, record(10 * mine + number)).unwrap());
                let tickets: Vec<_> = tickets.collect();
                let known = tickets.into_iter().zip([3, mine, 3]).filter_map(|(ticket, how)| learn(ticket, how));
                known.collect::<Vec<_>>()
            })
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

fn assert_distinct(known: &[RecordMetadata], count: usize) {
    let mut offsets: Vec<_> = known.iter().map(|at| at.offset).collect();
    offsets.sort_unstable();
    offsets.dedup();
    assert_eq!(offsets.len(), count, "{known:?}");
}

/// So many threads enqueue and learn how it went, and then all of it is there.
fn assert_all_is_known(disk: &SimStorage, threads: usize, options: impl FnOnce(ProducerBuilder) -> ProducerBuilder) {
    let broker = broker(disk);
    let topic = topic(&broker);
    let producer = options(broker.producer()).build().unwrap();
    let known = enqueue_from_threads(&producer, &topic, threads);
    assert_distinct(&known, threads);
    producer.flush().unwrap();
    assert_all_there(broker, &topic, 3 * threads);
}

#[test]
fn shuttle_every_ticket_is_resolved_once_whoever_sends_its_batch() {
    model::explore(|| assert_all_is_known(&SimStorage::new(), 3, |builder| builder.batch_size(PAIR)));
}

#[test]
fn shuttle_the_sync_thread_sends_what_is_due_beside_those_who_wait() {
    model::explore(|| assert_all_is_known(&SimStorage::new(), 2, |builder| builder.linger(Duration::ZERO)));
}

/// Also where another thread opened the batch that it is in.
#[test]
fn shuttle_a_flush_waits_for_what_its_own_thread_enqueued_before() {
    model::explore(|| {
        let broker = broker(&SimStorage::new());
        let topic = topic(&broker);
        let producer = broker.producer().build().unwrap();
        let threads: Vec<_> = (0..3)
            .map(|mine| {
                let (producer, topic) = (producer.clone(), topic.clone());
                thread::spawn(move || {
                    for number in 0..2 {
                        let mut ticket = producer.enqueue(&topic, record(10 * mine + number)).unwrap();
                        match mine {
                            0 => block_on(producer.flush_async()).unwrap(),
                            1 => producer.shared.accumulator.flush_within(Duration::from_secs(60)).unwrap(),
                            _ => producer.flush().unwrap(),
                        }
                        assert!(
                            ticket.try_result().is_some_and(|end| end.is_ok()),
                            "the flush of {mine} came back before"
                        );
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_all_there(broker, &topic, 6);
    });
}

#[test]
fn shuttle_without_threads_those_who_wait_do_the_work() {
    model::explore(|| {
        let builder = Broker::builder("/m").storage(MemoryStorage::new()).clock(model::ModelClock);
        let broker = builder.commit_gather(Duration::ZERO).manual().open().unwrap();
        let topic = topic(&broker);
        let producer = broker.producer().batch_size(PAIR).buffer_memory(2 * (PAIR + 2048)).build().unwrap();
        let threads: Vec<_> = (0..3)
            .map(|mine| {
                let (producer, topic) = (producer.clone(), topic.clone());
                thread::spawn(move || {
                    drop(producer.enqueue(&topic, record(10 * mine)).unwrap());
                    producer.enqueue(&topic, record(10 * mine + 1)).unwrap().wait().unwrap();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        producer.flush().unwrap();
        assert_all_there(broker, &topic, 6);
    });
}

#[test]
fn shuttle_memory_that_comes_back_wakes_those_who_wait_for_it() {
    model::explore(|| {
        let broker = broker(&SimStorage::new());
        let topic = topic(&broker);
        // One batch at a time.
        let producer = broker.producer().batch_size(PAIR).buffer_memory(PAIR).build().unwrap();
        let threads: Vec<_> = (0..3)
            .map(|mine| {
                let (producer, topic) = (producer.clone(), topic.clone());
                thread::spawn(move || {
                    for number in 0..3 {
                        let record = record(10 * mine + number);
                        drop(match mine {
                            0 => block_on(producer.enqueue_async(&topic, record)),
                            _ => producer.enqueue(&topic, record),
                        });
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        producer.close().unwrap();
        assert_eq!(producer.shared.accumulator.memory_used(), 0);
        assert_all_there(broker, &topic, 9);
    });
}

#[test]
fn shuttle_what_is_enqueued_beside_a_close_or_drop_is_there_or_refused() {
    model::explore(|| {
        let broker = broker(&SimStorage::new());
        let topic = topic(&broker);
        let producer = broker.producer().batch_size(PAIR).build().unwrap();
        let threads: Vec<_> = (0..2)
            .map(|mine| {
                let (producer, topic) = (producer.clone(), topic.clone());
                thread::spawn(move || {
                    let accept = |number: usize| producer.enqueue(&topic, record(10 * mine + number)).map(drop).is_ok();
                    (0..3).filter(|number: &usize| accept(*number)).count()
                })
            })
            .collect();
        producer.close().unwrap();
        drop(producer);
        let accepted = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_all_there(broker, &topic, accepted);
    });
}

#[test]
fn shuttle_a_broker_that_closes_leaves_no_ticket_open() {
    model::explore(|| {
        let broker = broker(&SimStorage::new());
        let topic = topic(&broker);
        let producer = broker.producer().batch_size(PAIR).build().unwrap();
        let threads: Vec<_> = (0..3)
            .map(|mine| {
                let (producer, topic) = (producer.clone(), topic.clone());
                thread::spawn(move || {
                    let Ok(ticket) = producer.enqueue(&topic, record(10 * mine)) else { return };
                    let end = match mine {
                        0 => ticket.wait(),
                        1 => block_on(ticket),
                        _ => ticket.wait_timeout(Duration::from_secs(60)).unwrap(),
                    };
                    assert!(end.is_ok() || end.is_err_and(|error| error.kind() == ErrorKind::Closed));
                })
            })
            .collect();
        broker.close().unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_prompt();
    });
}

#[test]
fn shuttle_callbacks_run_once_each_and_in_order() {
    model::explore(|| {
        let broker = broker(&SimStorage::new());
        let topic = topic(&broker);
        let producer = broker.producer().batch_size(PAIR).build().unwrap();
        let told: Arc<parking_lot::Mutex<Vec<i64>>> = Arc::default();
        let threads: Vec<_> = (0..2)
            .map(|mine| {
                let (producer, topic, told) = (producer.clone(), topic.clone(), Arc::clone(&told));
                thread::spawn(move || {
                    for number in 0..3 {
                        let told = Arc::clone(&told);
                        let callback = move |at: Result<RecordMetadata>| told.lock().push(at.unwrap().offset.get());
                        producer.enqueue_with(&topic, record(10 * mine + number), callback).unwrap();
                    }
                    producer.flush().unwrap();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*told.lock(), [0, 1, 2, 3, 4, 5]);
        drop(producer);
        assert_all_there(broker, &topic, 6);
    });
}

#[test]
fn shuttle_a_partition_that_hangs_holds_up_no_other() {
    model::explore(|| {
        let disk = SimStorage::new();
        let broker = broker(&disk);
        let topic = broker.topic("t").partitions(2).create().unwrap();
        let producer = broker.producer().batch_size(PAIR).buffer_memory(4 * (PAIR + 2048)).build().unwrap();
        let held = disk.hold_sync("t-0/");
        let enqueue = |partition: i32| producer.enqueue(&topic, record(0).partition(partition)).unwrap();
        let hanging = enqueue(0);
        producer.shared.accumulator.send_all();
        held.wait_for_it();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (producer, topic) = (producer.clone(), topic.clone());
                thread::spawn(move || {
                    (0..3).for_each(|_| drop(producer.enqueue(&topic, record(0).partition(1)).unwrap()));
                    producer.send(&topic, record(0).partition(1)).unwrap();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(held);
        hanging.wait().unwrap();
        producer.close().unwrap();
        assert_prompt();
    });
}

#[test]
fn shuttle_a_share_that_is_given_back_or_shrunk_wakes_who_waits_for_it() {
    model::explore(|| {
        let memory = Memory::new(30_000);
        let (mut shrunk, dropped) = (memory.try_take(16_000).unwrap(), memory.try_take(8_000).unwrap());
        let waiter = thread::spawn({
            let memory = Arc::clone(&memory);
            move || {
                let take = |bytes| loop {
                    let seen = memory.freed().count();
                    match memory.try_take(bytes) {
                        Some(share) => return share,
                        None => memory.freed().wait_past(seen, None),
                    };
                };
                (take(8_000), take(8_000))
            }
        });
        drop(dropped);
        shrunk.shrink(1);
        let taken = waiter.join().unwrap();
        drop((taken, shrunk));
        assert_eq!(memory.used(), 0);
    });
}

#[test]
fn shuttle_a_batch_that_is_tried_again_keeps_nobody_waiting() {
    model::explore(|| {
        let (disk, moment) = (SimStorage::new(), Duration::from_millis(1));
        let options = |builder: ProducerBuilder| {
            disk.add_fault(Fault::new(Errno::NoSpace, Repeat::Once).on(Operation::Write).path("t-0/"));
            builder.batch_size(PAIR).retries(5).retry_backoff(moment, moment)
        };
        assert_all_is_known(&disk, 3, options);
    });
}

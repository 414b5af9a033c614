//! The asynchronous twins, driven by no runtime: what makes them ready wakes them, and a future that is dropped at any
//! point loses no record and moves no position over one that nobody got.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use futures_core::Stream;
use thalweg::{
    Broker, Consumer, Durability, ErrorKind, ManualClock, MemoryStorage, OnFull, Producer, RecordMetadata, Result,
    Start, Ticket, Timestamp, Topic, TopicConfig, TopicPartition,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Counts wake-ups, and wakes the thread that waits for them.
struct Alarm(AtomicUsize, Thread);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        self.1.unpark();
    }
}

impl Alarm {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(0), thread::current()))
    }

    fn rang(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Blocks until it has rung more than `before` times.
    fn wait_past(&self, before: usize) {
        while self.rang() <= before {
            thread::park();
        }
    }
}

fn poll_with<F: Future + ?Sized>(future: Pin<&mut F>, alarm: &Arc<Alarm>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(alarm))))
}

/// Polls only when woken, so that a wake-up that is lost hangs.
fn block_on<F: Future>(future: F) -> F::Output {
    let (mut future, alarm) = (pin!(future), Alarm::new());
    loop {
        let before = alarm.rang();
        match poll_with(future.as_mut(), &alarm) {
            Poll::Ready(output) => return output,
            Poll::Pending => alarm.wait_past(before),
        }
    }
}

/// Polls once, with a waker that nobody listens to, and drops the future.
fn try_once<F: Future>(future: F) -> Poll<F::Output> {
    poll_with(pin!(future), &Alarm::new())
}

fn next<S: Stream + Unpin>(stream: &mut S) -> impl Future<Output = Option<S::Item>> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx))
}

fn manual() -> (Broker, ManualClock) {
    let clock = ManualClock::new(Timestamp::new(1_000));
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).clock(clock.clone()).manual();
    (broker.open().unwrap(), clock)
}

fn consumer(broker: &Broker) -> Consumer {
    let mut consumer = broker.consumer_group("g").consumer(["t"]).max_poll_interval(2 * HOUR).join().unwrap();
    // Takes its partitions, so that a look for them hides nothing.
    assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
    consumer
}

fn values(topic: &Topic) -> Vec<String> {
    let text = |record: Result<thalweg::OwnedRecord>| {
        String::from_utf8(record.unwrap().value().unwrap().to_vec()).unwrap().trim_end().to_owned()
    };
    topic.scan(Start::Earliest).map(text).collect()
}

#[test]
fn every_future_may_move_between_threads() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let producer = broker.producer().build().unwrap();
    let mut consumer = consumer(&broker);
    drop(is_send(producer.enqueue_async(&topic, "x")));
    drop(is_send(producer.send_async("t", "x")));
    drop(is_send(consumer.poll_async(HOUR)));
    drop(is_send(topic.tail(Start::Earliest).into_stream()));
    drop(is_send(topic.typed::<String, i64>().tail(Start::Earliest).into_stream()));
    // None was polled, so none did anything.
    assert_eq!(topic.scan(Start::Earliest).count(), 0);
}

#[test]
fn a_poll_is_woken_by_an_append() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let mut consumer = consumer(&broker);
    let alarm = Alarm::new();
    let mut poll = Box::pin(consumer.poll_async(HOUR));
    assert!(poll_with(poll.as_mut(), &alarm).is_pending());
    topic.send("x").unwrap();
    alarm.wait_past(0);
    let records = block_on(poll).unwrap();
    assert_eq!(records.iter().map(|r| r.offset().get()).collect::<Vec<_>>(), [0]);
}

#[test]
fn a_future_wakes_the_task_that_polled_it_last() {
    let (broker, _) = manual();
    let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
    let mut consumer = consumer(&broker);
    let mut tail = topic.tail(Start::Earliest).into_stream();
    let (first, second) = (Alarm::new(), Alarm::new());
    let mut poll = Box::pin(consumer.poll_async(HOUR));
    for alarm in [&first, &second] {
        assert!(poll_with(poll.as_mut(), alarm).is_pending());
        assert!(poll_with(pin!(next(&mut tail)), alarm).is_pending());
    }
    topic.send("x").unwrap();
    assert_eq!(first.rang(), 0);
    assert!(second.rang() >= 2, "{}", second.rang());
}

#[test]
fn a_poll_ends_with_its_time_on_the_brokers_clock() {
    let (broker, clock) = manual();
    broker.topic("t").create().unwrap();
    let mut consumer = consumer(&broker);
    let alarm = Alarm::new();
    let mut poll = Box::pin(consumer.poll_async(Duration::from_secs(30)));
    for _ in 0..2 {
        assert!(poll_with(poll.as_mut(), &alarm).is_pending());
        clock.advance(Duration::from_secs(14));
        broker.run_maintenance().unwrap();
        assert_eq!(alarm.rang(), 0);
    }
    clock.advance(Duration::from_secs(2));
    broker.run_maintenance().unwrap();
    assert_eq!(alarm.rang(), 1);
    let Poll::Ready(records) = poll_with(poll.as_mut(), &alarm) else { panic!("not ready after its time") };
    assert!(records.unwrap().is_empty());
    drop(poll);
    // The threads of a broker keep time by themselves.
    let broker = Broker::in_memory().unwrap();
    broker.topic("t").create().unwrap();
    assert!(block_on(self::consumer(&broker).poll_async(Duration::from_millis(5))).unwrap().is_empty());
}

#[test]
fn a_dropped_poll_moves_no_position() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let mut consumer = consumer(&broker);
    let at = TopicPartition::new("t", 0);
    for n in 0..20 {
        let alarm = Alarm::new();
        let mut poll = Box::pin(consumer.poll_async(HOUR));
        assert!(poll_with(poll.as_mut(), &alarm).is_pending());
        topic.send("x").unwrap();
        alarm.wait_past(0);
        // Records are there for it, and it goes without having been asked.
        drop(poll);
        assert_eq!(consumer.position(&at).unwrap(), n);
        let records = consumer.poll(Duration::ZERO).unwrap();
        assert_eq!(records.iter().map(|r| r.offset().get()).collect::<Vec<_>>(), [n]);
    }
}

#[test]
fn a_poll_is_interrupted_and_ends_with_its_broker() {
    let broker = Broker::in_memory().unwrap();
    broker.topic("t").create().unwrap();
    let mut consumer = consumer(&broker);
    let stop = consumer.waker();
    let alarm = Alarm::new();
    {
        let mut poll = pin!(consumer.poll_async(HOUR));
        assert!(poll_with(poll.as_mut(), &alarm).is_pending());
        stop.wake();
        assert_eq!(alarm.rang(), 1);
        assert_eq!(block_on(poll).unwrap_err().kind(), ErrorKind::Interrupted);
    }
    // One that was dropped leaves the interrupt to the next.
    assert!(try_once(consumer.poll_async(HOUR)).is_pending());
    stop.wake();
    drop(consumer.poll_async(HOUR));
    assert_eq!(block_on(consumer.poll_async(HOUR)).unwrap_err().kind(), ErrorKind::Interrupted);

    let mut poll = pin!(consumer.poll_async(HOUR));
    let before = alarm.rang();
    assert!(poll_with(poll.as_mut(), &alarm).is_pending());
    broker.close().unwrap();
    assert!(alarm.rang() > before);
    assert_eq!(block_on(poll).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn polls_that_are_dropped_between_appends_miss_none() {
    const RECORDS: i64 = 400;
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
    let mut consumer = consumer(&broker);
    thread::scope(|scope| {
        scope.spawn(|| (0..RECORDS).for_each(|_| drop(topic.send("x").unwrap())));
        let (mut got, mut turn) = (Vec::new(), 0);
        while got.len() < RECORDS as usize {
            turn += 1;
            let records = match turn % 3 {
                0 => block_on(consumer.poll_async(HOUR)),
                _ => match try_once(consumer.poll_async(HOUR)) {
                    Poll::Ready(records) => records,
                    Poll::Pending => continue,
                },
            };
            got.extend(records.unwrap().iter().map(|record| record.offset().get()));
        }
        assert!(got.into_iter().eq(0..RECORDS));
    });
}

#[test]
fn a_tail_is_a_stream_that_misses_nothing() {
    const RECORDS: i64 = 400;
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
    let mut tails = [topic.tail(Start::Earliest), topic.partition(0).unwrap().tail(Start::Earliest)];
    thread::scope(|scope| {
        scope.spawn(|| (0..RECORDS).for_each(|_| drop(topic.send("x").unwrap())));
        for tail in tails.each_mut().map(|tail| std::mem::replace(tail, topic.tail(Start::Earliest))) {
            scope.spawn(move || {
                let mut tail = tail.into_stream();
                let (mut got, mut turn) = (Vec::new(), 0);
                while got.len() < RECORDS as usize {
                    turn += 1;
                    let item = match turn % 2 {
                        0 => block_on(next(&mut tail)),
                        // Dropped where it is not ready.
                        _ => match try_once(next(&mut tail)) {
                            Poll::Ready(item) => item,
                            Poll::Pending => continue,
                        },
                    };
                    got.push(item.unwrap().unwrap().offset().get());
                }
                assert!(got.into_iter().eq(0..RECORDS));
            });
        }
    });
}

#[test]
fn a_stream_is_interrupted_and_ends() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let mut tail = topic.tail(Start::Latest).into_stream();
    let (waker, alarm) = (tail.waker(), Alarm::new());
    assert!(poll_with(pin!(next(&mut tail)), &alarm).is_pending());
    waker.wake();
    assert_eq!(alarm.rang(), 1);
    let interrupted = block_on(next(&mut tail)).unwrap().unwrap_err();
    assert_eq!(interrupted.kind(), ErrorKind::Interrupted);
    topic.send("x").unwrap();
    assert_eq!(block_on(next(&mut tail)).unwrap().unwrap().offset(), 0);
    assert!(poll_with(pin!(next(&mut tail)), &alarm).is_pending());
    waker.end();
    assert_eq!(alarm.rang(), 2);
    assert!(block_on(next(&mut tail)).is_none());

    let mut tail = topic.tail(Start::Latest).into_stream();
    assert!(poll_with(pin!(next(&mut tail)), &alarm).is_pending());
    topic.delete().unwrap();
    assert!(alarm.rang() > 2);
    assert_eq!(block_on(next(&mut tail)).unwrap().unwrap_err().kind(), ErrorKind::TopicDeleted);
    assert!(block_on(next(&mut tail)).is_none());
}

#[test]
fn a_typed_stream_goes_past_what_is_not_of_its_type() {
    let broker = Broker::in_memory().unwrap();
    let counts = broker.topic("t").create().unwrap().typed::<String, i64>();
    let mut tail = counts.tail(Start::Earliest).into_stream();
    assert!(try_once(next(&mut tail)).is_pending());
    counts.send(("a", 1)).unwrap();
    counts.topic().send(("b", "many")).unwrap();
    counts.send(("c", 3)).unwrap();
    assert_eq!(*block_on(next(&mut tail)).unwrap().unwrap().value(), 1);
    let error = block_on(next(&mut tail)).unwrap().unwrap_err();
    assert_eq!((error.kind(), error.undecoded().unwrap().bytes()), (ErrorKind::Serialization, Some(&b"many"[..])));
    assert_eq!(block_on(next(&mut tail)).unwrap().unwrap().into_parts(), ("c".to_owned(), 3));
    tail.reader().waker().end();
    assert!(block_on(next(&mut tail)).is_none());
}

/// A producer whose buffer takes a few batches of one record each.
fn small(broker: &Broker) -> Producer {
    broker.producer().batch_size(100).buffer_memory(10_000).build().unwrap()
}

fn payload(name: impl ToString) -> String {
    format!("{:100}", name.to_string())
}

/// Enqueues until there is no room; the tickets of those that were taken.
fn fill(producer: &Producer, topic: &Topic) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    while let Poll::Ready(ticket) = try_once(producer.enqueue_async(topic, payload(tickets.len()))) {
        tickets.push(ticket.unwrap());
        assert!(tickets.len() < 50, "no end of room");
    }
    tickets
}

#[test]
fn an_enqueue_waits_for_room_and_takes_nothing_when_it_is_dropped() {
    let (broker, _) = manual();
    let topic = broker.topic("t").create().unwrap();
    let producer = small(&broker);
    // The last one of these found no room and was dropped.
    let mut tickets = fill(&producer, &topic);
    let taken = tickets.len();
    let (alarm, dropped) = (Alarm::new(), Alarm::new());
    let mut waiting = Box::pin(producer.enqueue_async(&topic, payload("waited")));
    let mut given_up = Box::pin(producer.enqueue_async(&topic, payload("given up")));
    assert!(poll_with(waiting.as_mut(), &alarm).is_pending());
    assert!(poll_with(given_up.as_mut(), &dropped).is_pending());
    broker.run_maintenance().unwrap();
    // Both are told of the room; one goes before it looks.
    assert!(alarm.rang() > 0 && dropped.rang() > 0);
    drop(given_up);
    let Poll::Ready(ticket) = poll_with(waiting.as_mut(), &alarm) else { panic!("there is room") };
    tickets.push(ticket.unwrap());
    broker.run_maintenance().unwrap();
    let offsets: Vec<_> = tickets.into_iter().map(|ticket| block_on(ticket).unwrap().offset.get()).collect();
    assert!(offsets.into_iter().eq(0..=taken as i64));
    let expected: Vec<_> = (0..taken).map(|n| n.to_string()).chain(["waited".to_owned()]).collect();
    assert_eq!(values(&topic), expected);
}

#[test]
fn an_enqueue_waits_for_memory_no_longer_than_it_may() {
    let (broker, clock) = manual();
    let topic = broker.topic("t").create().unwrap();
    let limit = Duration::from_secs(10);
    let producer = broker.producer().batch_size(100).buffer_memory(10_000).max_block(limit).build().unwrap();
    let taken = fill(&producer, &topic).len();
    // Nobody does the broker's work, so the disk might as well hang.
    let alarm = Alarm::new();
    let mut waiting = Box::pin(producer.enqueue_async(&topic, payload("late")));
    assert!(poll_with(waiting.as_mut(), &alarm).is_pending());
    clock.advance(limit - Duration::from_millis(1));
    assert!(poll_with(waiting.as_mut(), &alarm).is_pending());
    clock.advance(Duration::from_millis(1));
    let Poll::Ready(Err(error)) = poll_with(waiting.as_mut(), &alarm) else { panic!("its time is up") };
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    producer.flush().unwrap();
    assert_eq!(values(&topic).len(), taken);
}

#[test]
fn a_send_that_is_dropped_after_its_record_was_taken_sends_it() {
    let (broker, _) = manual();
    let topic = broker.topic("t").create().unwrap();
    let producer = broker.producer().build().unwrap();
    assert!(try_once(producer.send_async(&topic, "kept")).is_pending());
    drop(producer.send_async(&topic, "never polled"));
    producer.flush().unwrap();
    assert_eq!(values(&topic), ["kept"]);
}

#[test]
fn senders_without_threads_of_their_own_share_a_small_buffer() {
    const EACH: usize = 100;
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").partitions(2).create().unwrap();
    let producer = small(&broker);
    let sent: Vec<RecordMetadata> = thread::scope(|scope| {
        let sender = |name: usize| {
            let (producer, topic) = (producer.clone(), &topic);
            move || {
                let send = |n| block_on(producer.send_async(topic, (format!("{name}"), payload(n)))).unwrap();
                (0..EACH).map(send).collect::<Vec<_>>()
            }
        };
        let senders: Vec<_> = (0..4).map(|name| scope.spawn(sender(name))).collect();
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
    });
    let mut places: Vec<_> = sent.iter().map(|at| (at.partition, at.offset)).collect();
    places.sort();
    places.dedup();
    assert_eq!((places.len(), topic.scan(Start::Earliest).count()), (4 * EACH, 4 * EACH));
}

#[test]
fn an_enqueue_waits_for_a_byte_budget_until_its_time_is_up() {
    let clock = ManualClock::new(Timestamp::new(1_000));
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).clock(clock.clone()).manual();
    let broker = broker.topic_byte_budget("t", 64 << 10, OnFull::Block(Duration::from_secs(10))).open().unwrap();
    let config = TopicConfig::new().durability(Durability::ProcessCrash);
    let topic = broker.topic("t").config(config).create().unwrap();
    let producer = broker.producer().batch_size(100).build().unwrap();
    let enqueue = || producer.enqueue_async(&topic, "x".repeat(4000));
    let mut taken = 0;
    while let Poll::Ready(ticket) = try_once(enqueue()) {
        drop(ticket.unwrap());
        taken += 1;
        assert!(taken < 20, "no end of room");
    }
    broker.run_maintenance().unwrap();
    let (freed, late) = (Alarm::new(), Alarm::new());
    let mut waiting = Box::pin(enqueue());
    assert!(poll_with(waiting.as_mut(), &freed).is_pending());
    clock.advance(Duration::from_secs(9));
    broker.run_maintenance().unwrap();
    assert_eq!(freed.rang(), 0);
    topic.partition(0).unwrap().delete_records(taken).unwrap();
    assert!(freed.rang() > 0, "space was freed");
    let Poll::Ready(ticket) = poll_with(waiting.as_mut(), &freed) else { panic!("there is room") };
    assert_eq!(ticket.unwrap().wait().unwrap().offset, taken);

    while let Poll::Ready(ticket) = try_once(enqueue()) {
        drop(ticket.unwrap());
    }
    let mut waiting = Box::pin(enqueue());
    assert!(poll_with(waiting.as_mut(), &late).is_pending());
    clock.advance(Duration::from_secs(10));
    broker.run_maintenance().unwrap();
    assert!(late.rang() > 0, "its time is up");
    let Poll::Ready(Err(error)) = poll_with(waiting.as_mut(), &late) else { panic!("its time is up") };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
}

#[test]
fn an_enqueue_tells_what_an_enqueue_tells() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let producer = broker.producer().build().unwrap();
    let unknown = block_on(producer.send_async("nowhere", "x")).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::UnknownTopicOrPartition);
    let outside = thalweg::Record::new("x").partition(7);
    assert_eq!(
        block_on(producer.enqueue_async(&topic, outside)).unwrap_err().kind(),
        ErrorKind::UnknownTopicOrPartition
    );
    producer.close().unwrap();
    assert_eq!(block_on(producer.enqueue_async(&topic, "x")).unwrap_err().kind(), ErrorKind::Closed);
}

/// Does in its wake-up what a task may do that runs there and then, or that nobody but its waker held.
struct Meddler(Mutex<Option<Box<dyn FnOnce() + Send>>>, Arc<Alarm>);

impl Meddler {
    fn waker(work: impl FnOnce() + Send + 'static) -> (Waker, Arc<Alarm>) {
        let alarm = Alarm::new();
        (Waker::from(Arc::new(Self(Mutex::new(Some(Box::new(work))), Arc::clone(&alarm)))), alarm)
    }
}

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {
        let work = self.0.lock().unwrap().take();
        if let Some(work) = work {
            work();
        }
        Arc::clone(&self.1).wake();
    }
}

/// Whatever wakes a task holds no lock that the task could want.
#[test]
fn a_task_may_do_anything_in_its_wake_up() {
    let own_threads = || Broker::in_memory().unwrap();
    let on_this_thread = || manual().0;
    for open in [&own_threads as &dyn Fn() -> Broker, &on_this_thread] {
        let broker = open();
        let topic = broker.topic("t").durability(Durability::ProcessCrash).create().unwrap();
        // It uses what the broker has, then lets go of what it had.
        let meddle = |producer: Producer| {
            let (broker, topic) = (broker.clone(), topic.clone());
            Meddler::waker(move || {
                producer.enqueue(&topic, "from a wake-up").unwrap().wait().unwrap();
                drop(topic.tail(Start::Earliest));
                drop(broker.topic("of-a-wake-up").open_or_create().unwrap());
                drop(broker.consumer_group("m").consumer(["t"]).join().unwrap());
                producer.flush().unwrap();
                drop((producer, topic, broker));
            })
        };
        let producer = |bytes: usize| broker.producer().batch_size(100).buffer_memory(bytes).build().unwrap();
        let run = |alarm: &Alarm| {
            if alarm.rang() == 0 {
                broker.run_maintenance().unwrap();
            }
            alarm.wait_past(0);
        };

        // A ticket, whose batch is sent with its lane locked.
        let mine = producer(1_000);
        let mut ticket = mine.enqueue(&topic, "x").unwrap();
        let (waker, alarm) = meddle(mine.clone());
        // Unless that took so long that its batch was sent meanwhile.
        if Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)).is_pending() {
            drop(mine.enqueue(&topic, vec![7; 80]).unwrap());
            run(&alarm);
        }

        // Memory, which comes back when what is in flight is looked through.
        let mine = producer(200);
        drop(mine.enqueue(&topic, vec![7; 60]).unwrap());
        let (waker, alarm) = meddle(mine.clone());
        {
            let mut waiting = pin!(mine.enqueue_async(&topic, vec![7; 60]));
            if waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                run(&alarm);
            }
        }

        // A tail, told by a log and by its topic.
        for tell in [&(|| drop(topic.send("x").unwrap())) as &dyn Fn(), &(|| topic.add_partitions(2).unwrap())] {
            let mut tail = topic.tail(Start::Latest).into_stream();
            let (waker, alarm) = meddle(producer(1_000));
            assert!(Pin::new(&mut tail).poll_next(&mut Context::from_waker(&waker)).is_pending());
            tell();
            alarm.wait_past(0);
        }

        // Time, in the round that a producer which is dropped waits for; and a group, by a member that joins.
        let member =
            || broker.consumer_group("g").consumer(["t"]).start(Start::Latest).max_poll_interval(2 * HOUR).join();
        let mut reader = member().unwrap();
        assert!(reader.poll(Duration::ZERO).unwrap().is_empty());
        let (waker, alarm) = meddle(producer(1_000));
        {
            let mut poll = pin!(reader.poll_async(HOUR));
            assert!(poll.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            let joining = member().unwrap();
            alarm.wait_past(0);
            drop(joining);
        }
        reader.close().unwrap();

        // And the end.
        let mut tail = topic.tail(Start::Latest).into_stream();
        let (held, also) = (broker.clone(), topic.clone());
        let (waker, alarm) = Meddler::waker(move || {
            assert_eq!(also.send("late").unwrap_err().kind(), ErrorKind::Closed);
            held.close().unwrap();
        });
        assert!(Pin::new(&mut tail).poll_next(&mut Context::from_waker(&waker)).is_pending());
        broker.close().unwrap();
        alarm.wait_past(0);
    }
}

#[test]
fn the_last_producer_may_go_in_the_round_that_its_end_waits_for() {
    let (broker, clock) = manual();
    broker.topic("t").create().unwrap();
    let producer = broker.producer().build().unwrap();
    let mut consumer = consumer(&broker);
    let (waker, alarm) = Meddler::waker(move || drop(producer));
    let mut poll = pin!(consumer.poll_async(Duration::from_secs(1)));
    assert!(poll.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    clock.advance(Duration::from_secs(2));
    broker.run_maintenance().unwrap();
    assert_eq!(alarm.rang(), 1);
}

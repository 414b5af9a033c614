//! Who gets room, and in which order.

use super::*;

fn poll<T>(future: &mut Pin<Box<impl Future<Output = Result<T>>>>) -> Option<T> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result.unwrap()),
        Poll::Pending => None,
    }
}

#[test]
fn memory_is_given_in_the_order_in_which_it_was_asked_for() {
    let broker = Broker::builder("/m").storage(MemoryStorage::new()).manual().open().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let producer = broker.producer().batch_size(1_000).buffer_memory(8 << 10).build().unwrap();
    // Each is more than half of it.
    let enqueue = || Box::pin(producer.enqueue_async(&topic, vec![7; 6_000]));
    let [mut first, mut second, mut third] = [enqueue(), enqueue(), enqueue()];
    let _taken = poll(&mut first).unwrap();
    assert!(poll(&mut second).is_none() && poll(&mut third).is_none());
    // Less would do for this one.
    let mut late = Box::pin(producer.enqueue_async(&topic, "small"));
    assert!(poll(&mut late).is_none());
    broker.run_maintenance().unwrap();
    assert!(poll(&mut late).is_none() && poll(&mut third).is_none());
    let _taken = poll(&mut second).unwrap();
    broker.run_maintenance().unwrap();
    // Who goes away gives up his place, and what was put aside.
    drop(third);
    let ticket = poll(&mut late).unwrap();
    producer.flush().unwrap();
    assert_eq!(ticket.wait().unwrap().offset, 2);
    assert_eq!(producer.shared.accumulator.memory_used(), 0);
}

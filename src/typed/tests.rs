//! Typed topics against a broker in memory: the bytes that are written, and what becomes of those that cannot be read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::broker::Broker;
use crate::record::Header;
use crate::storage::MemoryStorage;
use crate::topic::OwnedRecord;
use crate::types::{Durability, Offset, Start, TopicPartition, Uuid};

const LONG: Duration = Duration::from_secs(20);

fn topic(name: &str) -> Topic {
    Broker::in_memory().unwrap().topic(name).create().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn at(part: RecordPart) -> RecordField<'static> {
    RecordField::new("t", part)
}

/// What `F` writes, and reads back from that.
fn written<F: Serializer + Deserializer + Default>(data: F::Input<'_>) -> (Option<String>, F::Output) {
    let (format, mut headers) = (F::default(), Vec::new());
    let bytes = format.serialize(at(RecordPart::Value), &mut headers, data).unwrap();
    assert!(headers.is_empty());
    (bytes.as_deref().map(hex), format.deserialize(at(RecordPart::Value), &mut Vec::new(), bytes.as_ref()).unwrap())
}

fn refused<F: Deserializer + Default>(bytes: Option<&[u8]>) -> String
where
    F::Output: std::fmt::Debug,
{
    let bytes = bytes.map(Bytes::copy_from_slice);
    let error = F::default().deserialize(at(RecordPart::Value), &mut Vec::new(), bytes.as_ref()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Serialization);
    error.to_string()
}

/// Written by the serializers of kafka-clients 4.3.0.
#[test]
fn bytes_are_those_of_kafka_s_own_serializers() {
    #[track_caller]
    fn golden<F>(rows: &[(F::Output, &str)])
    where
        F: for<'a> Serializer<Input<'a> = <F as Deserializer>::Output> + Deserializer + Default,
        F::Output: Copy + PartialEq + std::fmt::Debug,
    {
        for &(data, bytes) in rows {
            assert_eq!(written::<F>(data), (Some(bytes.to_owned()), data));
        }
    }
    golden::<Plain<i16>>(&[(0, "0000"), (1, "0001"), (-2, "fffe"), (i16::MIN, "8000"), (i16::MAX, "7fff")]);
    golden::<Plain<i32>>(&[
        (0, "00000000"),
        (1, "00000001"),
        (-2, "fffffffe"),
        (305_419_896, "12345678"),
        (i32::MIN, "80000000"),
    ]);
    golden::<Plain<i64>>(&[
        (0, "0000000000000000"),
        (1, "0000000000000001"),
        (-2, "fffffffffffffffe"),
        (81_985_529_216_486_895, "0123456789abcdef"),
        (i64::MIN, "8000000000000000"),
    ]);
    golden::<Plain<f32>>(&[
        (0.0, "00000000"),
        (-0.0, "80000000"),
        (1.5, "3fc00000"),
        (-3.25e7, "cbf7f490"),
        (f32::INFINITY, "7f800000"),
    ]);
    golden::<Plain<f64>>(&[
        (-0.0, "8000000000000000"),
        (1.5, "3ff8000000000000"),
        (5_678_567.123_12, "4155a979c7e132b5"),
        (f64::from_bits(1), "0000000000000001"),
    ]);
    golden::<Plain<bool>>(&[(true, "01"), (false, "00")]);
    let id = Uuid::from_bytes(0x0123_abcd_4567_89ef_8123_4567_89ab_cdef_u128.to_be_bytes());
    golden::<Plain<Uuid>>(&[(id, &hex(b"0123abcd-4567-89ef-8123-456789abcdef"))]);
    golden::<Nullable<Plain<i16>>>(&[(Some(1), "0001")]);

    for (text, bytes) in [("", ""), ("paid", "70616964"), ("gr\u{fc}\u{df}e \u{1f600}", "6772c3bcc39f6520f09f9880")] {
        assert_eq!(written::<Plain<String>>(text), (Some(bytes.to_owned()), text.to_owned()));
    }
    assert_eq!(written::<Plain<Vec<u8>>>(&[0, 255]), (Some("00ff".to_owned()), vec![0, 255]));
    assert_eq!(written::<Plain<Bytes>>(&[0, 255]), (Some("00ff".to_owned()), Bytes::from_static(&[0, 255])));
    assert_eq!(written::<Plain<()>>(()), (None, ()));
    assert_eq!(written::<Nullable<Plain<i64>>>(None), (None, None));
    assert_eq!(written::<Nullable<Plain<String>>>(None), (None, None));
}

#[test]
fn bytes_of_another_type_are_refused() {
    assert_eq!(refused::<Plain<i16>>(Some(b"x")), "i16 is written in 2 bytes, and it has 1");
    assert_eq!(refused::<Plain<i32>>(Some(b"12345")), "i32 is written in 4 bytes, and it has 5");
    assert_eq!(refused::<Plain<i64>>(Some(b"")), "i64 is written in 8 bytes, and it has 0");
    assert_eq!(refused::<Plain<f64>>(Some(b"1234")), "f64 is written in 8 bytes, and it has 4");
    assert_eq!(refused::<Plain<bool>>(Some(&[2])), "a bool is written as 0 or 1, not as 2");
    assert_eq!(refused::<Plain<()>>(Some(b"")), "it should be null, and has 0 bytes");
    assert!(refused::<Plain<String>>(Some(b"ab\xff")).starts_with("it is not text in UTF-8: "));
    for text in ["", "0123abcd", "0123abcd+4567-89ef-8123-456789abcdef", "0123abcd-4567-89ef-8123-456789abcdef0"] {
        assert_eq!(refused::<Plain<Uuid>>(Some(text.as_bytes())), "it is not a UUID in 36 characters");
    }
    let null = "it is null (read it as an Option)";
    assert_eq!(refused::<Plain<i64>>(None), null);
    assert_eq!(refused::<Plain<String>>(None), null);
    assert_eq!(refused::<Plain<Bytes>>(None), null);
    assert_eq!(refused::<Nullable<Plain<i16>>>(Some(b"x")), "i16 is written in 2 bytes, and it has 1");
}

#[test]
fn null_keys_and_tombstones_are_options() {
    let topic = topic("t");
    let users = topic.typed::<Option<String>, Option<i64>>();
    let sent = [(Some("ada"), Some(1)), (None, Some(2)), (Some("ada"), None), (None, None), (Some(""), Some(0))];
    sent.into_iter().for_each(|record| drop(users.send(record).unwrap()));

    let raw: Vec<_> = topic.scan(Start::Earliest).map(Result::unwrap).collect();
    assert_eq!((raw[1].key(), raw[2].value()), (None, None));
    assert_eq!((raw[3].key(), raw[3].value(), raw[4].key()), (None, None, Some(&b""[..])));

    let read = users.scan(Start::Earliest).map(|record| record.unwrap().into_parts());
    let owned = |(key, value): (Option<&str>, _)| (key.map(str::to_owned), value);
    assert_eq!(read.collect::<Vec<_>>(), sent.map(owned));

    // Where null was not reckoned with, it is one error for each.
    let strict = topic.typed::<String, i64>();
    let parts = strict.scan(Start::Earliest).map(|record| record.map_err(|e| e.undecoded().unwrap().part()).err());
    let (key, value) = (Some(RecordPart::Key), Some(RecordPart::Value));
    assert_eq!(parts.collect::<Vec<_>>(), [None, key, value, key, None]);

    // A key that is always null.
    let keyless = topic.typed::<(), i64>();
    let at = keyless.send(((), 5)).unwrap();
    assert_eq!(keyless.scan(at.offset).next().unwrap().unwrap().into_parts(), ((), 5));
}

/// Takes even numbers only.
#[derive(Default)]
struct Even;

impl Serializer for Even {
    type Input<'a> = i64;

    fn serialize(&self, at: RecordField<'_>, headers: &mut Vec<Header>, data: i64) -> Result<Option<Bytes>> {
        if data % 2 != 0 {
            headers.push(Header::null("odd"));
            return Err(Error::new(ErrorKind::InvalidArgument, format!("{data} is odd")));
        }
        Plain::<i64>::default().serialize(at, headers, data)
    }
}

#[test]
fn a_serializer_that_fails_sends_nothing_and_names_its_place() {
    let topic = topic("numbers");
    let numbers = topic.typed_with(Even, Even);
    let error = numbers.send((2, 3)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Serialization);
    assert!(error.undecoded().is_none());
    let text = error.to_string();
    assert_eq!(
        text,
        "the value of a record of topic \"numbers\" was not sent: it cannot be written as bytes: 3 is odd"
    );
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<Error>());
    assert_eq!(cause.map(Error::kind), Some(ErrorKind::InvalidArgument));
    assert!(numbers.send((1, 2)).unwrap_err().to_string().starts_with("the key of a record"));

    let producer = topic.broker().producer().build().unwrap();
    let sent: Vec<_> = (0..4).map(|n| numbers.enqueue(&producer, (0, n))).collect();
    producer.flush().unwrap();
    assert_eq!(sent.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, false]);

    // One batch is all or nothing.
    assert_eq!(numbers.append(0, [(0, 4), (0, 5)]).unwrap_err().kind(), ErrorKind::Serialization);
    let appended = numbers.append(0, [(0, 4), (0, 6)]).unwrap();
    topic.partition(0).unwrap().wait(appended.position, Durability::PowerLoss).unwrap();
    assert_eq!(appended.last_offset, 3);
    let missing = numbers.append(7, [(0, 4)]).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::UnknownTopicOrPartition);
    let found = topic.typed::<i64, i64>().scan(Start::Earliest).map(|record| record.unwrap().into_parts().1);
    assert_eq!(found.collect::<Vec<_>>(), [0, 2, 4, 6]);

    // Several are apart.
    let sent = numbers.send_batch(&producer, (0..5).map(|n| (0, n)));
    let offsets = sent.into_iter().map(|sent| sent.map(|at| at.offset.get()).map_err(|e| e.kind()));
    let odd = Err(ErrorKind::Serialization);
    assert_eq!(offsets.collect::<Vec<_>>(), [Ok(4), odd, Ok(5), odd, Ok(6)]);
}

#[test]
fn appends_on_condition_are_those_of_the_bytes() {
    let builder = Broker::builder("/m").storage(MemoryStorage::new()).key_index("t", 1 << 20);
    let broker = builder.open().unwrap();
    let numbers = broker.topic("t").create().unwrap().typed_with(Nullable(Even), Even);
    assert_eq!(numbers.append_if(0, 0, [(Some(2), 2), (Some(4), 2)]).unwrap().last_offset, 1);
    let place = |error: Error| (error.kind(), error.at_offset().map(Offset::get));
    assert_eq!(place(numbers.append_if(0, 1, [(Some(2), 2)]).unwrap_err()), (ErrorKind::Conflict, Some(2)));
    assert_eq!(numbers.append_if_key(0, Some(2), Some(0.into()), [(Some(2), 4)]).unwrap().base_offset, 2);
    let late = numbers.append_if_key(0, Some(2), Some(0.into()), [(Some(2), 4)]).unwrap_err();
    assert_eq!(place(late), (ErrorKind::Conflict, Some(2)));
    for (key, kind) in [(Some(3), ErrorKind::Serialization), (None, ErrorKind::InvalidArgument)] {
        assert_eq!(numbers.append_if_key(0, key, None, [(Some(2), 4)]).unwrap_err().kind(), kind);
    }
    assert_eq!(numbers.append_if(0, 3, [(Some(2), 1)]).unwrap_err().kind(), ErrorKind::Serialization);
    assert_eq!(numbers.topic().partition(0).unwrap().offsets().unwrap().end, 3);
}

/// Says in a header which version it writes, as a schema registry's serializer would, and reads both.
struct Versioned {
    version: u8,
}

impl Serializer for Versioned {
    type Input<'a> = &'a str;

    fn serialize(&self, at: RecordField<'_>, headers: &mut Vec<Header>, data: &str) -> Result<Option<Bytes>> {
        assert_eq!(at.topic(), "t");
        if at.part() == RecordPart::Value {
            assert!(headers.iter().any(|h| h.key() == "version.key"), "the key was written before");
        }
        headers.push(Header::new(format!("version.{}", at.part()), [self.version]));
        Ok(Some(match self.version {
            1 => Bytes::copy_from_slice(data.as_bytes()),
            _ => data.bytes().rev().collect(),
        }))
    }
}

impl Deserializer for Versioned {
    type Output = String;

    fn deserialize(&self, at: RecordField<'_>, headers: &mut Vec<Header>, data: Option<&Bytes>) -> Result<String> {
        let name = format!("version.{}", at.part());
        let version = headers.iter().find(|h| h.key() == name).and_then(Header::value);
        let data = data.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "null"))?;
        match version {
            Some([1]) => Ok(String::from_utf8_lossy(data).into_owned()),
            Some([2]) => Ok(data.iter().rev().map(|&byte| char::from(byte)).collect()),
            other => Err(Error::new(ErrorKind::Unsupported, format!("version {other:?} of {}", at.topic()))),
        }
    }
}

#[test]
fn formats_speak_through_headers() {
    let topic = topic("t");
    let old = topic.typed_with(Versioned { version: 1 }, Versioned { version: 1 });
    let new = topic.typed_with(Versioned { version: 2 }, Versioned { version: 2 });
    old.send(("a-key", "a-value")).unwrap();
    topic.send(new.record(("b-key", "b-value")).unwrap().header("trace", "7")).unwrap();
    topic.send(("c", "c")).unwrap();

    let raw = topic.scan(Offset::new(1)).next().unwrap().unwrap();
    assert_eq!((raw.key(), raw.value()), (Some(&b"yek-b"[..]), Some(&b"eulav-b"[..])));
    let names: Vec<_> = raw.headers().iter().map(Header::key).collect();
    assert_eq!(names, ["version.key", "version.value", "trace"]);

    // The same through a scan, whose records own their headers, and a poll, whose records do not.
    let mut consumer = topic.broker().consumer_group("g").consumer(["t"]).join().unwrap();
    let polled = consumer.poll(LONG).unwrap();
    let scanned: Vec<_> = topic.scan(Start::Earliest).map(Result::unwrap).collect();
    let parts = |record: Result<(String, String)>| record.map_err(|e| e.undecoded().unwrap().cause().kind());
    let read = [
        old.decode(&polled).map(|r| parts(r.map(TypedRecord::into_parts))).collect::<Vec<_>>(),
        old.decode(scanned).map(|r| parts(r.map(TypedRecord::into_parts))).collect(),
        old.decode(polled).map(|r| parts(r.map(TypedRecord::into_parts))).collect(),
    ];
    let pair = |letter: &str| Ok((format!("{letter}-key"), format!("{letter}-value")));
    for read in read {
        assert_eq!(read, [pair("a"), pair("b"), Err(ErrorKind::Unsupported)]);
    }
}

#[test]
fn a_group_reads_past_what_is_not_of_the_type() {
    let topic = topic("t");
    let counts = topic.typed::<String, i64>();
    counts.send(("a", 1)).unwrap();
    topic.send(Record::new("short").key("b").header("from", "elsewhere")).unwrap();
    topic.send(Record::new(vec![0; 8]).key(b"\xff")).unwrap();
    counts.send(("c", 3)).unwrap();

    let group = topic.broker().consumer_group("g");
    let mut consumer = group.consumer(["t"]).max_poll_records(2).join().unwrap();
    let (mut sum, mut errors) = (0, Vec::new());
    for _ in 0..2 {
        let records = consumer.poll(LONG).unwrap();
        assert_eq!(records.len(), 2, "a record that is not of the type is one of those polled");
        for record in counts.decode(&records) {
            match record {
                Ok(record) => {
                    sum += record.value();
                    consumer.commit_through(&record).unwrap();
                }
                Err(error) => errors.push(error),
            }
        }
    }
    assert_eq!(sum, 4);
    assert_eq!(group.lag().unwrap().total(), 0);

    let [value, key] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!((value.kind(), value.at_offset()), (ErrorKind::Serialization, Some(Offset::new(1))));
    assert_eq!(value.topic_partition(), Some(&TopicPartition::new("t", 0)));
    let undecoded = value.undecoded().unwrap();
    assert_eq!((undecoded.part(), undecoded.bytes()), (RecordPart::Value, Some(&b"short"[..])));
    assert_eq!((undecoded.record().key(), undecoded.record().headers()[0].key()), (Some(&b"b"[..]), "from"));
    assert_eq!(
        value.to_string(),
        "the value of a record cannot be read as its type, partition t-0, offset 1: i64 is written in 8 bytes, and it \
         has 5 (its bytes are in Error::undecoded; reading goes on with the next record)"
    );
    let undecoded = key.undecoded().unwrap();
    assert_eq!(
        (undecoded.part(), undecoded.bytes(), key.at_offset()),
        (RecordPart::Key, Some(&b"\xff"[..]), Some(2.into()))
    );

    // What was put aside can be read in another way.
    let text = topic.typed::<String, String>();
    let again = text.decode_record(value.undecoded().unwrap().record().clone()).unwrap();
    assert_eq!((again.key().as_str(), again.value().as_str(), again.offset()), ("b", "short", Offset::new(1)));
}

#[test]
fn what_cannot_be_read_can_be_committed_through() {
    let topic = topic("t");
    let counts = topic.typed::<String, i64>();
    counts.send(("a", 1)).unwrap();
    topic.send(("b", "rubbish")).unwrap();
    counts.send(("c", 3)).unwrap();
    let group = topic.broker().consumer_group("g");
    let mut consumer = group.consumer(["t"]).join().unwrap();
    let records = consumer.poll(LONG).unwrap();
    let undecoded = |error: Error| error.undecoded().unwrap().clone();

    // Where it was taken out of what the poll brought, nobody knows any more whose it is to commit.
    let of_none = [
        counts.decode(records.clone()).find_map(Result::err).map(undecoded).unwrap(),
        counts.scan(Start::Earliest).find_map(Result::err).map(undecoded).unwrap(),
    ];
    for of_none in of_none {
        let error = consumer.commit_through(&of_none).unwrap_err();
        assert_eq!((error.kind(), error.at_offset()), (ErrorKind::InvalidArgument, Some(1.into())));
    }
    assert_eq!(group.lag().unwrap().total(), 3);

    let bad = counts.decode(&records).find_map(Result::err).map(undecoded).unwrap();
    consumer.commit_through(&bad).unwrap();
    assert_eq!(group.lag().unwrap().total(), 1);
    drop(consumer);
    let mut next = group.consumer(["t"]).join().unwrap();
    let rest = next.poll(LONG).unwrap();
    assert_eq!(counts.decode(&rest).map(|record| *record.unwrap().value()).collect::<Vec<_>>(), [3]);
    // It was handed out to somebody else, in another generation.
    assert_eq!(next.commit_through(&bad).unwrap_err().kind(), ErrorKind::IllegalGeneration);
}

/// Turns bytes round, and uses up the header that says that it has.
#[derive(Default)]
struct Sealed;

impl Serializer for Sealed {
    type Input<'a> = &'a str;

    fn serialize(&self, at: RecordField<'_>, headers: &mut Vec<Header>, data: &str) -> Result<Option<Bytes>> {
        headers.push(Header::new("sealed", at.part().to_string()));
        Ok(Some(data.bytes().rev().collect()))
    }
}

impl Deserializer for Sealed {
    type Output = String;

    fn deserialize(&self, at: RecordField<'_>, headers: &mut Vec<Header>, data: Option<&Bytes>) -> Result<String> {
        // Each finds what the other has left.
        let first = headers.iter().position(|header| header.key() == "sealed").map(|place| headers.remove(place));
        let part = first.as_ref().and_then(Header::value).unwrap_or_default();
        if part != at.part().to_string().as_bytes() {
            return Err(Error::new(ErrorKind::Serialization, format!("the {} is not sealed", at.part())));
        }
        headers.push(Header::new("opened", part.to_vec()));
        Ok(data.into_iter().flatten().rev().map(|&byte| char::from(byte)).collect())
    }
}

#[test]
fn a_deserializer_may_change_headers_and_the_record_keeps_its_own() {
    let topic = topic("t");
    let notes = topic.typed_with(Sealed, Sealed);
    topic.send(notes.record(("a", "noon")).unwrap().header("trace", "7")).unwrap();
    topic.send(Record::new("x").key("b").header("sealed", "key")).unwrap();

    fn keys<'a>(headers: impl IntoIterator<Item = &'a Header>) -> Vec<&'a str> {
        headers.into_iter().map(Header::key).collect()
    }
    let check = |owned: Vec<Result<TypedRecord<OwnedRecord, String, String>>>| {
        let [Ok(good), Err(bad)] = &owned[..] else { panic!("{owned:?}") };
        assert_eq!((good.key().as_str(), good.value().as_str()), ("a", "noon"));
        assert_eq!(keys(good.headers()), ["trace", "opened", "opened"]);
        assert_eq!(keys(good.raw().headers()), ["sealed", "sealed", "trace"]);
        let bad = bad.undecoded().unwrap();
        assert_eq!((bad.part(), keys(bad.record().headers())), (RecordPart::Value, vec!["sealed"]));
    };
    check(notes.scan(Start::Earliest).collect());
    let mut consumer = topic.broker().consumer_group("g").consumer(["t"]).join().unwrap();
    let polled = consumer.poll(LONG).unwrap();
    let borrowed: Vec<_> = notes.decode(&polled).collect();
    let [Ok(good), Err(bad)] = &borrowed[..] else { panic!("{borrowed:?}") };
    assert_eq!(keys(good.headers()), ["trace", "opened", "opened"]);
    assert_eq!(good.raw().headers().map(|(key, _)| key).collect::<Vec<_>>(), ["sealed", "sealed", "trace"]);
    assert_eq!(keys(bad.undecoded().unwrap().record().headers()), ["sealed"]);
    check(notes.decode(polled).collect());
}

#[test]
fn a_producer_calls_back_for_values_as_for_bytes() {
    let topic = topic("t");
    let numbers = topic.typed_with(Even, Even);
    let producer = topic.broker().producer().build().unwrap();
    let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
    for n in 0..4 {
        let told = Arc::clone(&told);
        let taken = numbers.enqueue_with(&producer, (0, n), move |at| told.lock().push((n, at.unwrap().offset.get())));
        assert_eq!(
            taken.map_err(|error| error.kind()),
            if n % 2 == 0 { Ok(()) } else { Err(ErrorKind::Serialization) }
        );
    }
    producer.flush().unwrap();
    assert_eq!(*told.lock(), [(0, 0), (2, 1)]);
}

#[cfg(feature = "async")]
#[test]
fn values_are_enqueued_by_tasks_and_lent_for_the_call_only() {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    let topic = topic("t");
    let producer = topic.broker().producer().build().unwrap();
    let texts = topic.typed::<(), String>();
    let enqueued = {
        let text = String::from("lent");
        texts.enqueue_async(&producer, ((), &text))
    };
    let Poll::Ready(ticket) = pin!(enqueued).poll(&mut Context::from_waker(Waker::noop())) else { panic!() };
    assert_eq!(ticket.unwrap().wait().unwrap().offset, 0);
    assert_eq!(texts.scan(Start::Earliest).next().unwrap().unwrap().value(), "lent");
    let odd = topic.typed_with(Even, Even);
    let Poll::Ready(Err(error)) =
        pin!(odd.enqueue_async(&producer, (0, 1))).poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!()
    };
    assert_eq!(error.kind(), ErrorKind::Serialization);
    fn moves<T: Send>(_: T) {}
    moves(texts.enqueue_async(&producer, ((), "x")));
}

#[test]
fn scans_and_tails_go_on_and_their_own_errors_come_as_they_are() {
    let topic = topic("t");
    let counts = topic.typed::<(), i64>();
    counts.append(0, (0..4).map(|n| ((), n))).unwrap();
    topic.send("rubbish").unwrap();
    counts.send(((), 5)).unwrap();
    let told = |record: Result<TypedRecord<OwnedRecord, (), i64>>| record.map(|r| *r.value()).map_err(|e| e.kind());

    let mut tail = counts.tail(Start::Earliest);
    let mut scan = counts.scan(Offset::ZERO);
    topic.partition(0).unwrap().delete_records(2).unwrap();
    let expected = [Err(ErrorKind::Overtaken), Ok(2), Ok(3), Err(ErrorKind::Serialization), Ok(5)];
    assert_eq!(scan.by_ref().map(told).collect::<Vec<_>>(), expected);
    assert_eq!((0..5).map(|_| told(tail.next_timeout(LONG).unwrap())).collect::<Vec<_>>(), expected);
    assert!(tail.next_timeout(Duration::ZERO).is_none());

    let waker = tail.reader().waker();
    waker.wake();
    assert_eq!(told(tail.next().unwrap()), Err(ErrorKind::Interrupted));
    counts.send(((), 6)).unwrap();
    assert_eq!(told(tail.next().unwrap()), Ok(6));
    waker.end();
    assert!(tail.next().is_none());
}

/// Counts what it reads, and notes for which topic.
#[derive(Clone, Default)]
struct Counting {
    calls: Arc<AtomicUsize>,
}

impl Deserializer for Counting {
    type Output = String;

    fn deserialize(&self, at: RecordField<'_>, _: &mut Vec<Header>, _: Option<&Bytes>) -> Result<String> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(at.to_string())
    }
}

#[test]
fn records_are_decoded_when_they_are_asked_for_and_for_their_own_topic() {
    let broker = Broker::in_memory().unwrap();
    let [orders, refunds] = ["orders", "refunds"].map(|name| broker.topic(name).create().unwrap());
    for topic in [&orders, &refunds] {
        (0..5).for_each(|n| drop(topic.send(format!("{n}")).unwrap()));
    }
    let format = Counting::default();
    let typed = orders.typed_with(format.clone(), Counting::default());
    let calls = || format.calls.load(Ordering::Relaxed);

    let mut consumer = broker.consumer_group("g").consumer(["orders", "refunds"]).join().unwrap();
    let mut polled = BTreeMap::new();
    while polled.len() < 2 {
        for record in consumer.poll(LONG).unwrap() {
            polled.entry(record.topic().to_owned()).or_insert(record);
        }
    }
    let mut scan = typed.scan(Start::Earliest);
    assert_eq!(calls(), 0, "nothing was asked for");
    assert_eq!(scan.by_ref().take(3).filter(Result::is_ok).count(), 3);
    assert_eq!(calls(), 3);

    let refund = typed.decode_record(polled.remove("refunds").unwrap()).unwrap();
    assert_eq!(refund.value(), "value of a record of topic \"refunds\"");
}

#[test]
fn bytes_are_read_without_a_copy() {
    let topic = topic("t");
    topic.send(("k", "the same memory")).unwrap();
    let raw = topic.scan(Start::Earliest).next().unwrap().unwrap();
    let typed = topic.typed::<Bytes, Bytes>().decode_record(raw.clone()).unwrap();
    assert_eq!(typed.value().as_ptr(), raw.value().unwrap().as_ptr());
    assert_eq!(typed.raw(), &raw);
}

#[test]
fn typed_topics_and_their_errors_move_between_threads() {
    fn moves<T: Send + Sync + 'static>() {}
    moves::<(TypedTopic<Plain<String>, Nullable<Plain<i64>>>, Undecoded)>();
    moves::<TypedRecord<OwnedRecord, String, i64>>();
    let counts = topic("t").typed::<String, i64>();
    let clone = counts.clone();
    std::thread::spawn(move || clone.send(("a", 1)).unwrap()).join().unwrap();
    assert_eq!(counts.scan(Start::Earliest).count(), 1);
}

#[cfg(feature = "json")]
mod json {
    use super::*;

    #[test]
    fn json_is_read_back_and_what_is_none_is_refused() {
        let topic = topic("t");
        let maps = topic.typed::<Json<(i32, String)>, Option<Json<BTreeMap<String, f64>>>>();
        let value = BTreeMap::from([("a".to_owned(), 0.1), ("b".to_owned(), -2.5)]);
        maps.send((&(7, "x".to_owned()), Some(&value))).unwrap();
        maps.send((&(8, String::new()), None)).unwrap();
        let raw = topic.scan(Start::Earliest).next().unwrap().unwrap();
        assert_eq!(raw.key(), Some(&b"[7,\"x\"]"[..]));
        assert_eq!(raw.value(), Some(&b"{\"a\":0.1,\"b\":-2.5}"[..]));
        let read: Vec<_> = maps.scan(Start::Earliest).map(|r| r.unwrap().into_parts().1).collect();
        assert_eq!(read, [Some(value), None]);

        for text in ["", "{", "null", "{\"a\":1}x", "[1]", "\"\\ud800\"", &"[".repeat(100_000)] {
            refused::<Json<BTreeMap<String, f64>>>(Some(text.as_bytes()));
        }
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert!(refused::<Json<serde_json::Value>>(Some(deep.as_bytes())).contains("recursion limit"));
    }

    #[test]
    fn what_has_no_form_in_json_is_not_sent() {
        let topic = topic("t");
        let maps = topic.typed::<(), Json<BTreeMap<(i32, i32), i32>>>();
        let error = maps.send(((), &BTreeMap::from([((1, 2), 3)]))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Serialization);
        assert!(error.to_string().contains("it has no form in JSON: key must be a string"), "{error}");
        assert_eq!(topic.scan(Start::Earliest).count(), 0);
    }
}

//! What memory reading takes: nothing for each record, and never more than the promised bound for hostile bytes.
//! A test binary of its own, with a global allocator that counts for each thread.

#![expect(unsafe_code, reason = "a global allocator cannot be written without")]
#![allow(clippy::disallowed_methods, reason = "a test reads its own input")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use thalweg::testing::{Choice, Errno, Fault, Operation, Repeat, SimStorage, fuzz, fuzz_targets};
use thalweg::{
    BatchHeader, Broker, Codec, Durability, ErrorKind, FindingKind, MemoryStorage, Record, RecordBatch, Start,
    Timestamp,
};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn account(bytes: isize) {
    CALLS.set(CALLS.get() + 1);
    HELD.set(HELD.get() + bytes);
    PEAK.set(PEAK.get().max(HELD.get()));
}

// SAFETY: every call is handed on to the system's allocator as it came; the counters are plain numbers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        account(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        account(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        account(-(layout.size() as isize));
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        account(new_size as isize - layout.size() as isize);
        unsafe { System.realloc(block, layout, new_size) }
    }
}

/// How often memory was asked for or given back during `work`.
fn calls_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = CALLS.get();
    let result = work();
    (CALLS.get() - before, result)
}

/// The most bytes that `work` held at once.
fn peak_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (usize::try_from(PEAK.get() - before).unwrap(), result)
}

/// The codecs whose cargo features are on.
fn codecs() -> impl Iterator<Item = Codec> {
    let all = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    all.into_iter().filter(|&codec| {
        let mut builder = RecordBatch::builder().compression(codec);
        builder.push(Timestamp::new(0), &Record::new("x")).unwrap();
        builder.finish().is_ok()
    })
}

fn batch(codec: Codec, count: i64) -> RecordBatch {
    let mut builder = RecordBatch::builder().compression(codec);
    for n in 0..count {
        let record = Record::new(format!("value number {n}")).key(format!("key-{n}"));
        let record = record.header("trace", "4bf92f35").null_header("seen");
        builder.push(Timestamp::new(1_700_000_000_000 + n), &record).unwrap();
    }
    builder.finish().unwrap()
}

#[test]
fn records_are_read_without_allocating() {
    for codec in codecs() {
        let decoded = batch(codec, 1_000).decode().unwrap();
        let (calls, bytes) = calls_of(|| {
            let mut bytes = 0;
            for record in &decoded {
                let record = record.unwrap();
                bytes += record.key().unwrap().len() + record.value().unwrap().len();
                bytes += record.headers().map(|(key, value)| key.len() + value.map_or(0, <[u8]>::len)).sum::<usize>();
            }
            bytes
        });
        assert_eq!(calls, 0, "{codec}");
        assert!(bytes > 20_000);
    }
}

#[test]
fn records_are_enqueued_without_allocating() {
    let broker = Broker::in_memory().unwrap();
    let topic = broker.topic("t").create().unwrap();
    let producer = broker.producer().linger(Duration::from_secs(3600)).build().unwrap();
    let (key, value) = (Bytes::from_static(b"key"), Bytes::from_static(&[7; 100]));
    let enqueue = || drop(producer.enqueue(&topic, Record::new(value.clone()).key(key.clone())).unwrap());
    // The first opens the log and the batch, which has room for all.
    enqueue();
    let (calls, ()) = calls_of(|| (0..400).for_each(|_| enqueue()));
    assert_eq!(calls, 0);
    producer.close().unwrap();
}

/// Open batches, those on their way and buffers to be used again, of many partitions, while no sync of any ends.
#[test]
fn a_producer_keeps_to_its_memory_while_a_disk_hangs() {
    const PARTITIONS: i32 = 16;
    const MEMORY: usize = 2 << 20;
    // What a codec works with, a batch of what it makes, and the last buffer of small batches of each log.
    const BESIDE: usize = 512 << 10;
    for codec in codecs() {
        for (record_bytes, retries) in [(1_000, 0), (10_000, 5)] {
            let disk = SimStorage::new();
            let broker = Broker::builder("/data").storage(disk.clone()).open().unwrap();
            let topic = broker.topic("t").partitions(PARTITIONS as u32).create().unwrap();
            for partition in 0..PARTITIONS {
                topic.send(Record::new("opens the log").partition(partition)).unwrap();
            }
            let held: Vec<_> = (0..PARTITIONS).map(|partition| disk.hold_sync(&format!("t-{partition}/"))).collect();
            let builder = broker.producer().compression(codec).retries(retries).linger(Duration::from_secs(3600));
            let producer = builder.buffer_memory(MEMORY).max_block(Duration::ZERO).build().unwrap();
            let value = Bytes::from("many alike ".repeat(1_000)).slice(..record_bytes);
            let (peak, taken) = peak_of(|| {
                for n in 0.. {
                    let record = Record::new(value.clone()).partition(n % PARTITIONS);
                    match producer.enqueue(&topic, record) {
                        Ok(ticket) => drop(ticket),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::TimedOut);
                            return n;
                        }
                    }
                }
                unreachable!("it takes no end of records")
            });
            println!("{codec}, {retries} retries, records of {record_bytes} bytes: {taken} taken, {peak} bytes held");
            assert!(peak <= MEMORY + BESIDE, "{codec}, records of {record_bytes} bytes: {peak}");
            assert!(peak >= MEMORY / 2, "{codec}, records of {record_bytes} bytes: {peak}");
            drop(held);
            producer.close().unwrap();
            broker.close().unwrap();
        }
    }
}

#[test]
fn typed_numbers_of_a_poll_are_read_without_allocating() {
    let broker = Broker::in_memory().unwrap();
    let counts = broker.topic("counts").create().unwrap().typed::<i64, Option<i32>>();
    let appended = counts.append(0, (0..300).map(|n| (n, Some(1)))).unwrap();
    let partition = counts.topic().partition(0).unwrap();
    partition.wait(appended.position, partition.durability()).unwrap();
    let mut consumer = broker.consumer_group("g").consumer(["counts"]).join().unwrap();
    let records = consumer.poll(Duration::from_secs(20)).unwrap();
    let (calls, sum) = calls_of(|| {
        counts
            .decode(&records)
            .map(|record| record.unwrap().into_parts())
            .map(|(key, one)| key * one.map_or(0, i64::from))
            .sum::<i64>()
    });
    assert_eq!((calls, sum), (0, 299 * 150));
}

/// What an index of short keys holds while it is built, which is when its table grows, and whatever it is cut off at.
#[test]
fn a_key_index_keeps_to_its_bytes() {
    // One table of 2^17 places is full, and the next one just made.
    const KEYS: usize = 115_000;
    // What is read at a time, and a batch of it.
    const READING: usize = 4 << 20;
    let storage = MemoryStorage::new();
    let open = |bytes: usize| {
        let broker = Broker::builder("/data").storage(storage.clone()).manual().key_index("t", bytes).open().unwrap();
        let partition = broker.topic("t").open_or_create().unwrap().partition(0).unwrap();
        (broker, partition)
    };
    let (broker, filled) = open(1 << 20);
    for first in (0..KEYS).step_by(1000) {
        filled.append_records((first..first + 1000).map(|n| (format!("{n:08}"), ""))).unwrap();
    }
    filled.sync().unwrap();
    broker.close().unwrap();
    drop(filled);
    for (limit, holds_all) in [(KEYS * 136, true), (KEYS * 136 - 1, false), (8 << 20, false), (6_000_000, false)] {
        let (peak, (broker, partition)) = peak_of(|| open(limit));
        let found = partition.append_records_if_key("99999999", None, ["x"]);
        assert!(peak <= limit + READING, "{peak} of {limit}");
        assert!(peak >= limit / 3, "{peak} of {limit}: is it the index that is measured?");
        assert_eq!(found.map_err(|e| e.kind()).err(), (!holds_all).then_some(ErrorKind::KeyIndexFull));
        // A handle that outlives the broker keeps nothing of it.
        let held = HELD.get();
        broker.close().unwrap();
        assert!(held - HELD.get() >= isize::try_from(limit / 4).unwrap());
        drop(partition);
    }
}

#[test]
fn an_uncompressed_batch_is_shared_not_copied() {
    let batch = batch(Codec::None, 1_000);
    let (peak, decoded) = peak_of(|| batch.decode().unwrap());
    assert_eq!(decoded.iter().count(), 1_000);
    assert!(peak < 200, "{peak}");
}

/// What is promised for any bytes at all.
fn bound(input: usize, limit: usize) -> usize {
    (64 << 10) + 8 * input + limit
}

fn decoded_within_bounds(bytes: &Bytes, limit: usize) -> Result<usize, ErrorKind> {
    let (peak, result) = peak_of(|| {
        let decoded = RecordBatch::parse(bytes.clone()).and_then(|batch| batch.decode_capped(limit));
        decoded.and_then(|d| d.iter().try_fold(0, |count, record| record.map(|_| count + 1)))
    });
    assert!(peak <= bound(bytes.len(), limit), "{} bytes of input took {peak} at limit {limit}", bytes.len());
    result.map_err(|e| e.kind())
}

#[test]
fn bombs_stop_at_the_limit() {
    for codec in codecs().skip(1) {
        let mut builder = RecordBatch::builder().compression(codec);
        builder.push(Timestamp::new(0), &Record::new(vec![b'z'; 8 << 20])).unwrap();
        let bomb = builder.finish().unwrap();
        let ratio = (8 << 20) / bomb.size_bytes();
        assert!(ratio >= if codec == Codec::Snappy { 20 } else { 200 }, "{codec}: {ratio}");
        for limit in [0, 1, 1_000, 1 << 20] {
            assert_eq!(decoded_within_bounds(bomb.as_bytes(), limit), Err(ErrorKind::TooLarge), "{codec}");
        }
        assert_eq!(decoded_within_bounds(bomb.as_bytes(), RecordBatch::DECODE_LIMIT), Ok(1), "{codec}");
    }
}

/// `batch` with other bytes for its records, and a CRC that fits them.
fn with_section(batch: &RecordBatch, section: &[u8], count: i32) -> Bytes {
    const LENGTH: usize = 8;
    const CRC: usize = 17;
    const ATTRIBUTES: usize = 21;
    const COUNT: usize = 57;
    let mut bytes = batch.as_bytes()[..BatchHeader::LEN].to_vec();
    bytes.extend_from_slice(section);
    let length = i32::try_from(bytes.len() - BatchHeader::PREFIX_LEN).unwrap();
    bytes[LENGTH..LENGTH + 4].copy_from_slice(&length.to_be_bytes());
    bytes[COUNT..].first_chunk_mut::<4>().unwrap().copy_from_slice(&count.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[ATTRIBUTES..]);
    bytes[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

#[test]
fn sizes_that_lie_cost_an_error_not_memory() {
    if codecs().count() < 5 {
        println!("skipped: needs every codec");
        return;
    }
    let one = |codec| batch(codec, 1);
    let many = i32::MAX;
    let limit = RecordBatch::DECODE_LIMIT;
    let refused = |bytes: &Bytes| assert!(decoded_within_bounds(bytes, limit).is_err());
    let small = |bytes: &Bytes| {
        let (peak, _) = peak_of(|| RecordBatch::parse(bytes.clone()).unwrap().decode().map(drop));
        assert!(peak <= bound(bytes.len(), 0), "{peak}");
        refused(bytes);
    };
    // A count, a record length, a key length, a header count, each of 2^31 - 1.
    let most = [0xfe, 0xff, 0xff, 0xff, 0x0f];
    small(&with_section(&one(Codec::None), &[0x0c, 0, 0, 0, 1, 1, 0], many));
    small(&with_section(&one(Codec::None), &[&most[..], &[0; 20]].concat(), 1));
    small(&with_section(&one(Codec::None), &[&[0x14, 0, 0, 0], &most[..], &[0]].concat(), 1));
    small(&with_section(&one(Codec::None), &[&[0x14, 0, 0, 0, 1, 1], &most[..]].concat(), 1));
    // Snappy: a bare block that announces 2^31 bytes, and a chunk that does.
    small(&with_section(&one(Codec::Snappy), &[0xff, 0xff, 0xff, 0xff, 0x07, 0x00], 1));
    let xerial = &one(Codec::Snappy).as_bytes()[BatchHeader::LEN..][..16].to_vec();
    small(&with_section(&one(Codec::Snappy), &[&xerial[..], &[0x7f, 0xff, 0xff, 0xff, 1]].concat(), 1));
    // LZ4: content size of 2^63, and a block of 2 GiB.
    let lz4 = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
    small(&with_section(&one(Codec::Lz4), &[&lz4[..], &[0xff, 0xff, 0xff, 0x7f, 0]].concat(), 1));
    // Zstd: a single segment whose content size is 2^62, with one raw block of one byte.
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x09, 0, 0, b'x'];
    small(&with_section(&one(Codec::Zstd), &zstd, 1));
    // Gzip: one that ends by announcing 4 GiB less one byte.
    let mut gzip = one(Codec::Gzip).as_bytes()[BatchHeader::LEN..].to_vec();
    let end = gzip.len();
    gzip[end - 4..].fill(0xff);
    refused(&with_section(&one(Codec::Gzip), &gzip, 1));
}

#[test]
fn honest_compressed_batches_stay_within_the_bound() {
    for codec in codecs() {
        let batch = batch(codec, 5_000);
        let limit = batch.decode().unwrap().records_bytes();
        assert_eq!(decoded_within_bounds(batch.as_bytes(), limit), Ok(5_000), "{codec}");
    }
}

/// Every decoder of what lies on a disk, over its fuzz corpus: as it is, and with a number that lies here and there.
#[test]
fn files_that_lie_cost_an_error_not_memory() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    if !corpus.exists() {
        println!("skipped: the corpus is in the repository, not in the published crate");
        return;
    }
    let lies: [&[u8]; 3] = [&[0x7f, 0xff], &[0x7f, 0xff, 0xff, 0xff], &[0xff, 0xff, 0xff, 0xff, 0x07]];
    for target in fuzz_targets().filter(|target| !["gzip", "snappy", "lz4", "zstd"].contains(target)) {
        // A whole log or broker has buffers of its own, and is opened several times.
        let is_directory = ["catalog", "notes", "segment", "log_directory", "directory"].contains(&target);
        let (most, places) = if is_directory { (4 << 20, 2) } else { (256 << 10, 16) };
        for input in std::fs::read_dir(corpus.join(target)).unwrap().map(|entry| entry.unwrap().path()) {
            let honest = std::fs::read(&input).unwrap();
            let check = |bytes: &[u8], what: &str| {
                let (peak, ()) = peak_of(|| fuzz(target, bytes));
                assert!(peak <= most + 64 * bytes.len(), "{} {what}: {peak}", input.display());
            };
            check(&honest, "as it is");
            for at in (0..honest.len()).step_by(honest.len() / places + 1) {
                for lie in lies {
                    let (mut bytes, end) = (honest.clone(), honest.len().min(at + lie.len()));
                    bytes[at..end].copy_from_slice(&lie[..end - at]);
                    check(&bytes, &format!("with {lie:x?} at {at}"));
                }
            }
        }
    }
}

/// The next opening in this boot writes again what a failed sync may have left to the cache. Who only looks does not.
#[test]
fn looking_at_a_log_whose_sync_has_failed_holds_none_of_it() {
    const RECORDS: usize = 256;
    let disk = SimStorage::new();
    let builder = |disk: &SimStorage| Broker::builder("data").storage(disk.clone()).manual();
    let broker = builder(&disk).open().unwrap();
    let topic = broker.topic("events").durability(Durability::ProcessCrash).create().unwrap();
    for number in 0..RECORDS {
        topic.send(vec![number as u8; 64 << 10]).unwrap();
    }
    disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path("events-0/"));
    topic.partition(0).unwrap().sync().unwrap_err();
    let disk = disk.crash(Choice::ProcessCrash);
    let bound = 3 << 20;
    let (peak, found) = peak_of(|| builder(&disk).inspect().unwrap());
    assert!(peak < bound, "{peak} bytes of {}", RECORDS << 16);
    // It met the log as one in doubt.
    assert_eq!(found.findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [FindingKind::Skipped]);
    let (peak, read) = peak_of(|| {
        let broker = builder(&disk).read_only().open().unwrap();
        broker.topic("events").open().unwrap().scan(Start::Earliest).filter(Result::is_ok).count()
    });
    assert!(peak < bound, "{peak} bytes of {}", RECORDS << 16);
    assert_eq!(read, RECORDS);
}

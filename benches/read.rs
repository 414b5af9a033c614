//! Reading back: whole scans and single records by offset, beside raw `pread` or a map of the same bytes: goals G4, G5.
//!
//! The limit of a scan reads pieces of the same size, or looks at them in a map, checks each batch's CRC-32C and walks
//! its records by hand, as far as handing out offset, timestamp, key and value. The limit of a random read reads the
//! one batch, whose place it knows beforehand, and checks its CRC; that of a mapped one, whose batches were verified
//! before, reads the one record, whose place it knows, with `pread`. All bytes are in the page cache and synced.

#![allow(clippy::disallowed_methods, reason = "a bench times and reads by itself, beside the library")]

mod support;

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput};
use support::{BATCH_BYTES, Payloads, Random, Side, files, first_segment, goal, open_log, rounds};
use thalweg::{DiskStorage, Durability, Isolation, Log, LogConfig, Offset, OpenMode, ReadMode, Storage as _, Verify};

/// Bytes of one read of a scan: the largest is Kafka's `max.partition.fetch.bytes`, the other fits into a core's cache.
const READS: [(&str, usize); 2] = [("1MiB-reads", 1 << 20), ("256KiB-reads", 256 << 10)];
const READ_BYTES: usize = READS[0].1;
const ROUNDS: usize = 15;
const RANDOM_READS: usize = 20_000;
const STORES: [(&str, usize, u64); 2] = [("1KiB", 1024, 768 << 20), ("100B", 100, 384 << 20)];
/// Where a batch's length, CRC, first covered byte and records stand (record batch v2).
const LENGTH_AT: usize = 8;
const CRC_AT: usize = 17;
const COVERED_FROM: usize = 21;
const RECORDS_FROM: usize = 61;

fn main() {
    if let Some([role, bytes]) = support::role().as_deref()
        && role == "touch"
    {
        return support::touch(bytes);
    }
    let mut criterion = support::criterion();
    let wants_goals = support::wants_goals();
    if wants_goals {
        support::touch_memory(4 << 30);
    }
    for (size, record_bytes, bytes) in STORES {
        let store = Store::fill(record_bytes, bytes);
        store.curves(&mut criterion, size);
        if wants_goals {
            store.goals(size);
            let store = store.reopen(Verify::EveryRead);
            store.mapped_scan_goal(size);
            if size == "1KiB" {
                store.reopen(Verify::Once).mapped_random_goal();
            }
        }
    }
    criterion.final_summary();
}

/// A closed and reopened log of one sealed segment, and the raw file beneath it.
struct Store {
    dir: PathBuf,
    log: Log,
    file: File,
    /// Position, size and base offset of each batch.
    batches: Vec<(u64, usize, i64)>,
    index_bytes: [u64; 2],
    _scratch: tempfile::TempDir,
}

impl Store {
    fn fill(record_bytes: usize, bytes: u64) -> Self {
        let scratch = support::scratch();
        let dir = scratch.path().join("events-0");
        let log = open_log(&dir);
        support::fill(&log, &mut Payloads::new(record_bytes), bytes);
        log.roll().expect("the log begins a new segment");
        log.close().expect("the log closes");
        drop(log);
        let length = |ending: &str| files(&dir).iter().filter(|f| has_ending(&f.0, ending)).map(|f| f.1).sum();
        let index_bytes = [length("index"), length("timeindex")];
        let file = first_segment(&dir);
        let batches = batches_of(&file);
        Self { log: open_log(&dir), dir, file, batches, index_bytes, _scratch: scratch }
    }

    /// The log, open in another mode.
    fn reopen(mut self, verify: Verify) -> Self {
        drop(self.log);
        let config = LogConfig::default().durability(Durability::ProcessCrash);
        self.log = Log::open(&self.dir, config.read_mode(ReadMode::Mapped).verify(verify)).expect("the log opens");
        self
    }

    fn records(&self) -> u64 {
        self.log.offsets().end.get().cast_unsigned()
    }

    fn scan_bytes(&self) -> u64 {
        self.batches.last().map_or(0, |(position, size, _)| position + *size as u64)
    }

    fn curves(&self, criterion: &mut Criterion, size: &str) {
        let mut group = criterion.benchmark_group("read");
        let pieces = 64;
        let (mut raw_at, mut log_at) = (0, Offset::ZERO);
        let mut buffer = vec![0; READ_BYTES];
        // A whole number of reads of nearly 1 MiB of batches each.
        group.throughput(Throughput::Bytes((READ_BYTES / BATCH_BYTES * self.batches[0].1 * pieces) as u64));
        group.bench_function(format!("scan/raw_pread_crc_walk/{size}"), |bencher| {
            bencher.iter(|| (0..pieces).map(|_| self.raw_piece(&mut raw_at, &mut buffer)).sum::<usize>());
        });
        group.bench_function(format!("scan/log/{size}"), |bencher| {
            bencher.iter(|| (0..pieces).map(|_| self.log_piece(&mut log_at, READ_BYTES)).sum::<usize>());
        });
        group.throughput(Throughput::Elements(1));
        let mut random = Random::new(5);
        group.bench_function(format!("random/raw_pread_batch_crc/{size}"), |bencher| {
            bencher.iter(|| self.raw_random(random.below(self.records()), &mut buffer));
        });
        group.bench_function(format!("random/log/{size}"), |bencher| {
            bencher.iter(|| self.log_random(random.below(self.records())));
        });
        group.finish();
    }

    fn goals(&self, size: &str) {
        let bytes = usize::try_from(self.scan_bytes()).expect("a small file");
        let mut buffer = vec![0; READ_BYTES];
        for (reads, read_bytes) in READS {
            let calls = bytes.div_ceil(read_bytes);
            let raw = Side { open: || 0, call: |at: &mut u64, _| self.raw_piece(at, &mut buffer[..read_bytes]) };
            let ours = Side { open: || Offset::ZERO, call: |at: &mut Offset, _| self.log_piece(at, read_bytes) };
            let name = format!("G4/{size}-{reads}");
            rounds(ROUNDS, calls, raw, ours).throughput_goal(&name, 0.90, "CRC on every read, page cache warm");
        }
        if size != "1KiB" {
            return;
        }
        let seed = || Random::new(5);
        let raw = Side { open: seed, call: |r: &mut Random, _| self.raw_random(r.below(self.records()), &mut buffer) };
        let ours = Side { open: seed, call: |r: &mut Random, _| self.log_random(r.below(self.records())) };
        let random = rounds(ROUNDS, RANDOM_READS, raw, ours);
        random.throughput_goal("G5/1KiB", 0.90, "CRC on every read, page cache warm");
        self.index_goals();
    }

    fn mapped_scan_goal(&self, size: &str) {
        let file = DiskStorage.open(&self.dir.join("00000000000000000000.log"), OpenMode::Read);
        let map = file.and_then(|file| file.map(self.scan_bytes())).expect("the file can be mapped");
        let map: &[u8] = (*map).as_ref();
        let calls = map.len().div_ceil(READ_BYTES);
        let raw = Side { open: || 0, call: |at: &mut usize, _| Self::raw_mapped_piece(map, at) };
        let ours = Side { open: || Offset::ZERO, call: |at: &mut Offset, _| self.log_piece(at, READ_BYTES) };
        let name = format!("G4/{size}-mapped");
        let note = "beside a map + CRC + walk; CRC on every read, page cache warm";
        rounds(ROUNDS, calls, raw, ours).throughput_goal(&name, 0.85, note);
    }

    fn mapped_random_goal(&self) {
        let places: Vec<_> = self.batches.iter().flat_map(|&batch| self.places_in(batch)).collect();
        // What the log verifies once, it has verified.
        for (.., base) in &self.batches {
            self.log_random(base.cast_unsigned());
        }
        let mut buffer = vec![0; 2048];
        let seed = || Random::new(5);
        let raw = Side {
            open: seed,
            call: |r: &mut Random, _| {
                let (position, size) = places[r.below(self.records()) as usize];
                self.file.read_exact_at(&mut buffer[..size], position).expect("the record is there");
                black_box(&buffer);
                size
            },
        };
        let ours = Side {
            open: seed,
            call: |r: &mut Random, _| {
                let offset = r.below(self.records());
                self.log_random(offset);
                places[offset as usize].1
            },
        };
        let note = "beside pread of the record alone; verified once, page cache warm";
        rounds(ROUNDS, RANDOM_READS, raw, ours).throughput_goal("G5/mapped", 1.0, note);
    }

    /// Where the records of a batch are, and how long.
    fn places_in(&self, (position, size, _): (u64, usize, i64)) -> Vec<(u64, usize)> {
        let mut batch = vec![0; size];
        self.file.read_exact_at(&mut batch, position).expect("the batch is there");
        let (mut rest, mut places) = (&batch[RECORDS_FROM..], Vec::new());
        while !rest.is_empty() {
            let (length, body) = varint(rest);
            places.push((position + (size - rest.len()) as u64, rest.len() - body.len() + length as usize));
            rest = &body[length as usize..];
        }
        places
    }

    fn index_goals(&self) {
        let each = |bytes: u64| bytes as f64 / self.records() as f64;
        let [offsets, times] = self.index_bytes;
        for (name, bytes, note) in [
            ("G5/offset-index", offsets, "the .index file alone"),
            ("G5/both-indexes", offsets + times, ".index and .timeindex, each batch a millisecond after the last"),
        ] {
            let figure = format!("{:.3} B/record", each(bytes));
            goal(name, &figure, "<= 0.3 B/record", each(bytes) <= 0.3, note);
        }
    }

    /// Reads a piece through the log and hands out its records; answers the bytes of its batches.
    fn log_piece(&self, at: &mut Offset, bytes: usize) -> usize {
        let read = self.log.read(*at, bytes, Isolation::ReadCommitted).expect("the log reads");
        for batch in read.data_batches() {
            let batch = batch.and_then(|batch| batch.decode()).expect("the batch is sound");
            for record in &batch {
                let record = record.expect("the record is sound");
                black_box((record.offset(), record.timestamp(), record.key(), record.value()));
            }
        }
        *at = if read.next_offset() >= self.log.offsets().end { Offset::ZERO } else { read.next_offset() };
        read.bytes().len()
    }

    /// The same by hand.
    fn raw_piece(&self, at: &mut u64, buffer: &mut [u8]) -> usize {
        let have = read_at(&self.file, buffer, *at);
        let mut walked = 0;
        while let Some(batch) = whole_batch(&buffer[walked..have]) {
            assert!(crc_holds(batch));
            walk_records(batch);
            walked += batch.len();
        }
        *at = if *at + walked as u64 >= self.scan_bytes() { 0 } else { *at + walked as u64 };
        walked
    }

    /// The same by hand in a map.
    fn raw_mapped_piece(map: &[u8], at: &mut usize) -> usize {
        let piece = &map[*at..(*at + READ_BYTES).min(map.len())];
        let mut walked = 0;
        while let Some(batch) = whole_batch(&piece[walked..]) {
            assert!(crc_holds(batch));
            walk_records(batch);
            walked += batch.len();
        }
        *at = if *at + walked >= map.len() { 0 } else { *at + walked };
        walked
    }

    /// Finds one record through the log; answers the bytes of its batch.
    fn log_random(&self, offset: u64) -> usize {
        let offset = Offset::new(offset.cast_signed());
        let read = self.log.read(offset, 1, Isolation::ReadCommitted).expect("the log reads");
        let batch = read.data_batches().next().expect("the offset is in the log");
        let batch = batch.and_then(|batch| batch.decode()).expect("the batch is sound");
        let found = batch.iter().flatten().find(|record| record.offset() == offset).expect("the batch holds it");
        black_box(found.value());
        read.bytes().len()
    }

    /// Reads and checks the batch of one record, whose place is known.
    fn raw_random(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let after = self.batches.partition_point(|(_, _, base)| base.cast_unsigned() <= offset);
        let (position, size, _) = self.batches[after - 1];
        let batch = &mut buffer[..size];
        self.file.read_exact_at(batch, position).expect("the batch is there");
        assert!(crc_holds(black_box(batch)));
        size
    }
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found == ending)
}

// ---- record batch v2 by hand, for bytes known to be sound

fn read_at(file: &File, buffer: &mut [u8], position: u64) -> usize {
    // One call, as the limit should be; the end of the file is the only reason for less.
    file.read_at(buffer, position).expect("the file reads")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn whole_batch(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.len() < RECORDS_FROM {
        return None;
    }
    bytes.get(..LENGTH_AT + 4 + u32_at(bytes, LENGTH_AT) as usize)
}

fn crc_holds(batch: &[u8]) -> bool {
    crc32c::crc32c(&batch[COVERED_FROM..]) == u32_at(batch, CRC_AT)
}

fn batches_of(file: &File) -> Vec<(u64, usize, i64)> {
    let (mut position, mut found, mut buffer) = (0, Vec::new(), vec![0; 2 * BATCH_BYTES]);
    loop {
        let have = read_at(file, &mut buffer, position);
        let Some(batch) = whole_batch(&buffer[..have]) else { return found };
        found.push((position, batch.len(), i64_at(batch, 0)));
        position += batch.len() as u64;
    }
}

/// Hands out offset, timestamp, key and value of each record.
fn walk_records(batch: &[u8]) {
    let (base_offset, base_time) = (i64_at(batch, 0), i64_at(batch, 27));
    let mut rest = &batch[RECORDS_FROM..];
    for _ in 0..u32_at(batch, RECORDS_FROM - 4) {
        let (length, body) = varint(rest);
        let (record, after) = body.split_at(length as usize);
        let (time_delta, fields) = varint(&record[1..]);
        let (offset_delta, fields) = varint(fields);
        let (key, fields) = nullable(fields);
        let (value, fields) = nullable(fields);
        let (headers, _) = varint(fields);
        black_box((base_offset + offset_delta, base_time + time_delta, key, value, headers));
        rest = after;
    }
}

fn nullable(bytes: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let (length, rest) = varint(bytes);
    match usize::try_from(length) {
        Ok(length) => {
            let (field, rest) = rest.split_at(length);
            (Some(field), rest)
        }
        Err(_) => (None, rest),
    }
}

#[inline]
fn varint(bytes: &[u8]) -> (i64, &[u8]) {
    let (mut folded, mut used) = (0_u64, 0);
    loop {
        let byte = bytes[used];
        folded |= u64::from(byte & 0x7f) << (7 * used);
        used += 1;
        if byte < 0x80 {
            return ((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed(), &bytes[used..]);
        }
    }
}

//! The ways to read sealed segments: all bring the same, whatever the bytes are, and what a reader was handed stays
//! as it is whatever becomes of the log.

use proptest::prelude::*;

use super::damage::{Outcome, findings, outcome};
use super::*;
use crate::finding::FindingKind;
use crate::storage::DiskStorage;
use crate::types::{ReadMode, Verify};

const FIRST: &str = "00000000000000000000.log";

/// A log on a real disk.
fn disk() -> (tempfile::TempDir, Bed) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("t-0");
    (scratch, Bed { storage: Arc::new(DiskStorage), clock: ManualClock::new(Timestamp::new(T)), dir })
}

fn mapped(config: LogConfig) -> LogConfig {
    config.read_mode(ReadMode::Mapped)
}

fn modes() -> impl Iterator<Item = (ReadMode, Verify)> {
    [ReadMode::Copied, ReadMode::Mapped].into_iter().flat_map(|mode| [(mode, Verify::EveryRead), (mode, Verify::Once)])
}

fn bytes_at(log: &Log, offset: i64) -> bytes::Bytes {
    log.read(offset, 1, Isolation::ReadCommitted).unwrap().bytes().clone()
}

/// How many maps of files this process has below a directory.
#[cfg(target_os = "linux")]
fn maps_below(dir: &Path) -> usize {
    let file = DiskStorage.open(Path::new("/proc/self/maps"), OpenMode::Read).unwrap();
    let (mut maps, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match file.read_at(&mut piece, maps.len() as u64).unwrap() {
            0 => break,
            n => maps.extend_from_slice(&piece[..n]),
        }
    }
    String::from_utf8(maps).unwrap().lines().filter(|line| line.contains(&*dir.to_string_lossy())).count()
}

#[cfg(target_os = "linux")]
#[test]
fn sealed_segments_are_mapped_when_that_is_asked_for_and_the_active_one_never() {
    for (mode, verify) in modes() {
        let (_scratch, bed) = disk();
        let log = bed.open(small().read_mode(mode).verify(verify));
        fill(&log, 0..2);
        assert_eq!(all(&log), numbered(0..2));
        assert_eq!(maps_below(&bed.dir), 0, "only the active segment is there");
        fill(&log, 2..20);
        assert_eq!(all(&log), numbered(0..20));
        let sealed = log.segment_count() - 1;
        assert!(sealed > 2);
        assert_eq!(maps_below(&bed.dir), if mode == ReadMode::Mapped { sealed } else { 0 });
        drop(log);
        assert_eq!(maps_below(&bed.dir), 0);
    }
}

#[test]
fn what_is_not_synced_is_not_mapped() {
    let disk = SimStorage::new();
    disk.create_dir(Path::new("data")).unwrap();
    let bed = Bed { storage: Arc::new(disk.clone()), ..Bed::new() };
    let log = bed.open(mapped(small()).durability(Durability::ProcessCrash));
    for n in 0..20 {
        let appended = log.append_records([format!("value {n}")]).unwrap();
        log.wait(appended.position, Durability::ProcessCrash).unwrap();
    }
    let maps = || disk.counts().get(&Operation::Map).copied().unwrap_or(0);
    assert!(log.segment_count() > 2 && log.offsets().frontier < 20);
    assert_eq!(all(&log), numbered(0..20));
    let before = maps();
    log.sync().unwrap();
    assert_eq!(all(&log), numbered(0..20));
    let sealed = log.segment_count() as u64 - 1;
    assert_eq!(maps(), sealed);
    assert!(before < sealed, "{before}");
}

#[test]
fn a_map_that_fails_is_an_error_and_the_next_read_may_succeed() {
    let disk = SimStorage::new();
    disk.create_dir(Path::new("data")).unwrap();
    let bed = Bed { storage: Arc::new(disk.clone()), ..Bed::new() };
    let log = bed.open(mapped(small()));
    fill(&log, 0..20);
    disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Map));
    let error = log.read(0, 100, Isolation::ReadCommitted).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("cannot map a segment") && error.to_string().contains(FIRST), "{error}");
    assert_eq!(all(&log), numbered(0..20));
}

/// One thing that happens to a log.
#[derive(Clone, Debug)]
enum Step {
    Plain(Vec<usize>),
    /// A transaction, and whether it is aborted.
    Txn(usize, bool),
    /// So many offsets are left out, as where records were cleaned away.
    Hole(i64),
    Roll,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec(0_usize..4_000, 1..6).prop_map(Step::Plain),
        1 => (0_usize..20_000).prop_map(|size| Step::Plain(vec![size])),
        2 => (0_usize..3_000, any::<bool>()).prop_map(|(size, abort)| Step::Txn(size, abort)),
        1 => (1_i64..50).prop_map(Step::Hole),
        1 => Just(Step::Roll),
    ]
}

fn run(log: &Log, steps: &[Step]) {
    let mut sequence = 0;
    for step in steps {
        match step {
            Step::Plain(sizes) => {
                log.append_records(sizes.iter().map(|size| Record::new("v".repeat(*size)).key("k"))).unwrap();
            }
            Step::Txn(size, abort) => {
                let mut batch = BatchBuilder::new().producer(ProducerId::new(7), 0, sequence).transactional();
                batch.push(Timestamp::new(T), &Record::new("t".repeat(*size)).key("k")).unwrap();
                log.append(&batch.finish().unwrap(), LeaderEpoch::new(0)).unwrap();
                Txn(log).end(if *abort { TxnOutcome::Abort } else { TxnOutcome::Commit });
                sequence += 1;
            }
            Step::Hole(offsets) => {
                let base = log.offsets().end + *offsets;
                let mut batch = BatchBuilder::new().base_offset(base).leader_epoch(log.leader_epoch());
                batch.push(Timestamp::new(T), &Record::new("behind a hole").key("k")).unwrap();
                log.append_replica(&batch.finish().unwrap()).unwrap();
            }
            Step::Roll => log.roll().unwrap(),
        }
        log.sync().unwrap();
    }
}

/// All that two passes of reads bring, with reads of `max_bytes`, and what was found wrong. Where one read ends behind
/// damage depends on whether the damage was known.
fn seen(log: &Log, max_bytes: usize) -> (Vec<u8>, Outcome, Vec<(i64, i64)>) {
    let mut bytes = Vec::new();
    for isolation in [Isolation::ReadCommitted, Isolation::ReadUncommitted] {
        let mut at = log.offsets().log_start;
        loop {
            match log.read(at, max_bytes, isolation) {
                Ok(read) if read.next_offset() == at => break,
                Ok(read) => {
                    bytes.extend_from_slice(read.bytes());
                    at = read.next_offset();
                }
                Err(e) => at = e.at_offsets().unwrap_or_else(|| panic!("{e}")).end,
            }
        }
    }
    (bytes, outcome(log), findings(log, FindingKind::Damaged))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn all_modes_bring_the_same(
        steps in proptest::collection::vec(step(), 1..25),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..=255_u8), 0..4),
        max_bytes in 1_usize..60_000,
    ) {
        let (_scratch, bed) = disk();
        let config = LogConfig { compacted: true, ..LogConfig::default().segment_bytes(30_000) };
        let log = bed.open(config.clone());
        run(&log, &steps);
        log.close().unwrap();
        drop(log);
        let logs: Vec<_> = bed.names().into_iter().filter(|name| name.ends_with(".log")).collect();
        for (file, position, mask) in flips.iter().filter(|_| !logs.is_empty()) {
            let name = file.get(&logs);
            let bytes = bed.file(name);
            if !bytes.is_empty() {
                let at = position.index(bytes.len());
                bed.overwrite(name, at as u64, &[bytes[at] ^ mask]);
            }
        }
        // Opening may mend what is beside the batches, and comes to the same each time.
        bed.open(config.clone()).close().unwrap();
        let mut first = None;
        for (mode, verify) in modes() {
            let log = bed.open(config.clone().read_mode(mode).verify(verify));
            let once = seen(&log, max_bytes);
            prop_assert_eq!(&once, &seen(&log, max_bytes), "{:?} {:?}: another pass brings something else", mode, verify);
            prop_assert_eq!(&once, first.get_or_insert_with(|| once.clone()), "{:?} {:?}", mode, verify);
        }
    }
}

#[test]
fn damage_is_an_error_in_every_mode() {
    for (mode, verify) in modes() {
        let (_scratch, bed) = disk();
        let log = bed.open(small().read_mode(mode).verify(verify));
        fill(&log, 0..20);
        let at = bed.file(FIRST).len() as u64 - 1;
        bed.overwrite(FIRST, at, b"!");
        let damaged = outcome(&log).damaged;
        assert_eq!(damaged.len(), 1, "{mode:?} {verify:?}");
        assert_eq!(outcome(&log).damaged, damaged);
    }
}

/// The last batch of the first segment, which holds one record: its offset, and where its value ends. Batches as small
/// as these share a stretch of the log, and of each stretch the last is remembered as verified.
fn last_of_first(bed: &Bed) -> (i64, u64) {
    let (bytes, mut at) = (bed.file(FIRST), 0);
    loop {
        let header = crate::record::BatchHeader::parse(&bytes[at..]).unwrap();
        at += header.size_bytes();
        if at == bytes.len() {
            return (header.base_offset().get(), at as u64 - 2);
        }
    }
}

/// What `Verify::Once` promises, and what it lets pass.
#[test]
fn bytes_damaged_after_they_were_verified_are_served_once_that_was_accepted() {
    for (mode, verify) in modes() {
        let (_scratch, bed) = disk();
        let log = bed.open(small().read_mode(mode).verify(verify));
        fill(&log, 0..20);
        assert_eq!(all(&log), numbered(0..20));
        let (last, at) = last_of_first(&bed);
        bed.overwrite(FIRST, at, b"!");
        match (verify, log.read(last, 1, Isolation::ReadCommitted)) {
            (Verify::EveryRead, read) => assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt, "{mode:?}"),
            (Verify::Once, read) => assert!(read.unwrap().bytes().ends_with(b"!\0"), "{mode:?}"),
        }
    }
}

#[test]
fn held_bytes_outlive_their_segment() {
    let (_scratch, bed) = disk();
    let log = bed.open(mapped(small()));
    fill(&log, 0..20);
    let (held, copy) = (bytes_at(&log, 0), bytes_at(&log, 0).to_vec());
    log.advance_log_start(10).unwrap();
    assert!(bed.names().iter().any(|name| name == FIRST), "a reader holds it");
    log.run_maintenance().unwrap();
    assert_eq!(held, copy);
    drop(held);
    log.run_maintenance().unwrap();
    assert!(!bed.names().iter().any(|name| name == FIRST));
    assert_eq!(all(&log), numbered(10..20));
    let held = bytes_at(&log, 12);
    let copy = held.to_vec();
    log.close().unwrap();
    drop(log);
    bed.storage.remove_dir_all(&bed.dir).unwrap();
    assert_eq!(held, copy);
}

#[test]
fn held_bytes_outlive_a_truncation() {
    // To the middle of the first segment, to its beginning, and to the beginning of a later one.
    for to in [2, 0, 6] {
        for verify in [Verify::EveryRead, Verify::Once] {
            let (_scratch, bed) = disk();
            let config = mapped(small()).verify(verify);
            let log = bed.open(config.clone());
            fill(&log, 0..20);
            let held: Vec<_> = (0..15).map(|n| bytes_at(&log, n)).collect();
            let copies: Vec<_> = held.iter().map(|bytes| bytes.to_vec()).collect();
            log.truncate(to).unwrap();
            assert_eq!(held, copies, "cut under the map");
            assert_eq!(all(&log), numbered(0..to));
            assert!(!bed.names().iter().any(|name| name.ends_with(".cleaned")), "{:?}", bed.names());
            let others: Vec<_> = (to..20).map(|n| (n, format!("other {n}"))).collect();
            for (_, value) in &others {
                put(&log, &[value]);
            }
            let expected = [numbered(0..to), others].concat();
            assert_eq!(all(&log), expected);
            assert_eq!(held, copies);
            log.close().unwrap();
            drop(log);
            assert_eq!(all(&bed.open(config)), expected);
        }
    }
}

#[test]
fn bytes_held_from_before_a_reopening_outlive_a_truncation() {
    for close in [true, false] {
        let (_scratch, bed) = disk();
        let mut log = bed.open(mapped(small()));
        fill(&log, 0..20);
        let held: Vec<_> = (0..15).map(|n| bytes_at(&log, n)).collect();
        let copies: Vec<_> = held.iter().map(|bytes| bytes.to_vec()).collect();
        if close {
            log.close().unwrap();
            log = bed.open(mapped(small()));
        } else {
            log.inner().poison(&Error::new(ErrorKind::Io, "failed"));
            log.reopen().unwrap();
        }
        log.truncate(2).unwrap();
        assert_eq!(held, copies, "cut under the map");
        assert_eq!(all(&log), numbered(0..2));
    }
}

/// What stands where verified bytes stood is verified anew.
#[test]
fn a_truncation_forgets_what_was_verified() {
    for mode in [ReadMode::Copied, ReadMode::Mapped] {
        let (_scratch, bed) = disk();
        let log = bed.open(small().read_mode(mode).verify(Verify::Once));
        fill(&log, 0..20);
        assert_eq!(all(&log), numbered(0..20));
        let (last, at) = last_of_first(&bed);
        log.truncate(last).unwrap();
        fill(&log, last..20);
        assert_eq!(last_of_first(&bed), (last, at));
        bed.overwrite(FIRST, at, b"!");
        let error = log.read(last, 1, Isolation::ReadCommitted).unwrap_err();
        assert_eq!((error.kind(), error.at_offset()), (ErrorKind::Corrupt, Some(Offset::new(last))), "{mode:?}");
    }
}

#[test]
fn a_truncation_that_copies_may_stop_anywhere() {
    for choice in [Choice::ProcessCrash, Choice::Nothing, Choice::All, Choice::Journaled(1), Choice::Random(1)] {
        for limit in 0_u64.. {
            let disk = SimStorage::new();
            disk.create_dir(Path::new("data")).unwrap();
            disk.sync_dir(Path::new("")).unwrap();
            let bed = Bed { storage: Arc::new(disk.clone()), ..Bed::new() };
            let log = bed.open(mapped(small()));
            fill(&log, 0..8);
            let held = bytes_at(&log, 0);
            disk.limit_operations(disk.operations() + limit);
            let done = log.truncate(1).is_ok();
            drop((log, held));
            let bed = Bed { storage: Arc::new(disk.crash(choice)), ..Bed::new() };
            let found = outcome(&bed.open(small()));
            let kept = found.records.len() as i64;
            assert_eq!(found.records.into_iter().collect::<Vec<_>>(), numbered(0..kept), "{choice:?} {limit}");
            assert!(kept >= 1 && found.damaged.is_empty(), "{choice:?} {limit}: {kept}");
            assert!(!bed.names().iter().any(|name| name.ends_with(".cleaned")), "{choice:?} {limit}");
            if done {
                assert_eq!(kept, 1, "{choice:?}");
                break;
            }
        }
    }
}

#[test]
fn a_file_cut_by_somebody_else_is_an_error_of_the_read() {
    for (mode, verify) in modes() {
        let (_scratch, bed) = disk();
        let log = bed.open(small().read_mode(mode).verify(verify));
        fill(&log, 0..20);
        let file = bed.storage.open(&bed.dir.join(FIRST), OpenMode::Write).unwrap();
        file.set_len(10).unwrap();
        for _ in 0..2 {
            let error = log.read(0, 100, Isolation::ReadCommitted).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::Corrupt), "{error}");
            assert!(error.to_string().contains(FIRST), "{error}");
        }
        assert_eq!(from(&log, Offset::new(15), Isolation::ReadCommitted), numbered(15..20), "the rest is served");
    }
}

/// In the default mode also where it was read before: no map stands behind the bytes.
#[test]
fn by_default_a_file_may_be_cut_at_any_time() {
    let (_scratch, bed) = disk();
    let log = bed.open(small());
    fill(&log, 0..20);
    let held = bytes_at(&log, 0);
    let copy = held.to_vec();
    bed.storage.open(&bed.dir.join(FIRST), OpenMode::Write).unwrap().set_len(0).unwrap();
    assert_eq!(held, copy);
    log.read(0, 100, Isolation::ReadCommitted).unwrap_err();
}

/// Pages are brought in before they are looked at: a file that is shorter by then is an error, not a signal.
#[cfg(target_os = "linux")]
#[test]
fn a_mapped_page_that_cannot_be_brought_in_is_an_error() {
    let (_scratch, bed) = disk();
    let log = bed.open(mapped(LogConfig::default()));
    let value = "v".repeat(100_000);
    for _ in 0..12 {
        put(&log, &[&value]);
    }
    log.roll().unwrap();
    put(&log, &["active"]);
    drop(bytes_at(&log, 0));
    bed.storage.open(&bed.dir.join(FIRST), OpenMode::Write).unwrap().set_len(600_000).unwrap();
    let error = log.read(9, 1, Isolation::ReadCommitted).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(from(&log, Offset::new(12), Isolation::ReadCommitted), [(12, "active".to_owned())]);
}

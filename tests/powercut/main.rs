//! Real power cuts: a process works on a broker on a real file system, which is shut down under it at a random moment
//! without flushing its journal, as if the machine had lost power. What was acknowledged or shown at `PowerLoss` is
//! there after the next mount.
//!
//! Needs root, loop devices, `mkfs.ext4` and `mkfs.xfs`, and says so when it is skipped; so it runs only by name:
//! `cargo test --release --test powercut`. `THALWEG_CUTS` says how many there are, from `THALWEG_CUT_SEED` on.

#![cfg(target_os = "linux")]

mod disk;
#[path = "../ledger/mod.rs"]
mod ledger;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::{Disk, FILE_SYSTEMS, FileSystem, missing};
use ledger::{Book, Death, Dice, Moment, number};
use thalweg::{Broker, Clock, Durability, ErrorKind, SystemClock};

/// So many images are worked on at a time; most of a cut is waiting.
const WORKERS: usize = 4;
/// So often an image is cut before a new one is made.
const CUTS_PER_IMAGE: u64 = 40;

/// What the parent runs.
#[test]
fn child() {
    ledger::work_if_told();
}

#[test]
fn what_was_acknowledged_survives_power_cuts() {
    let file_systems = match usable() {
        Some(usable) => usable,
        None => return,
    };
    let (cuts, first) = (number("THALWEG_CUTS", 500), number("THALWEG_CUT_SEED", 1));
    let (next, acknowledged, done) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    let clock = SystemClock::new();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while done.load(Ordering::Relaxed) < cuts {
                    let from = next.fetch_add(CUTS_PER_IMAGE, Ordering::Relaxed);
                    let file_system = file_systems[(from / CUTS_PER_IMAGE) as usize % file_systems.len()];
                    let to = from + CUTS_PER_IMAGE;
                    let book = cut_again_and_again(file_system, from..to);
                    acknowledged.fetch_add(book.acknowledged, Ordering::Relaxed);
                    done.fetch_add(book.deaths, Ordering::Relaxed);
                }
            });
        }
    });
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    file_systems.iter().for_each(|found| *names.entry(found.kind).or_default() += 1);
    println!(
        "{} power cuts in {} s on {names:?}, {} acknowledgements, go on with THALWEG_CUT_SEED={}",
        done.into_inner(),
        clock.monotonic().as_secs(),
        acknowledged.into_inner(),
        next.into_inner()
    );
}

/// The file systems that can be made and mounted here.
fn usable() -> Option<Vec<&'static FileSystem>> {
    if let Some(why) = missing() {
        println!("SKIPPED powercut: {why}");
        return None;
    }
    let usable = FILE_SYSTEMS.iter().filter(|wanted| match Disk::new(wanted) {
        Ok(_) => true,
        Err(why) => {
            println!("SKIPPED powercut on {} {}: {why}", wanted.kind, wanted.options);
            false
        }
    });
    let usable: Vec<_> = usable.collect();
    if usable.is_empty() {
        println!("SKIPPED powercut: no file system can be mounted");
        return None;
    }
    Some(usable)
}

/// Cuts one image at each seed.
fn cut_again_and_again(file_system: &FileSystem, seeds: std::ops::Range<u64>) -> Book {
    let mut disk = Disk::new(file_system).expect("it could be made before");
    let dir = disk.dir().join("data");
    let mut book = Book::begin(&dir, 0).expect("a new directory opens");
    for (boot, seed) in (0..).zip(seeds) {
        let mut dice = Dice::new(seed);
        let moment = Moment::random(&mut dice);
        let said = ledger::run(&dir, boot, seed, moment, || disk.cut());
        disk.mount_again();
        let compared = book.enter(&said.before).and_then(|()| book.enter_begun(&said.meanwhile));
        let compared = compared.and_then(|()| book.compare(&dir, boot + 1, Death::Machine, dice.below(2) == 0));
        if let Err(wrong) = compared {
            let FileSystem { kind, options, .. } = file_system;
            let kept = disk.keep();
            panic!("seed {seed}, {kind} {options}, cut at {moment:?}: {wrong}; it is mounted at {}", kept.display());
        }
    }
    book
}

/// A disk that is full at any byte: what was acknowledged stays, reads and a close work, and with room again it goes on.
#[test]
fn a_full_disk_costs_nothing_that_was_acknowledged() {
    let Some(file_systems) = usable() else { return };
    let (sizes, first) = (number("THALWEG_FULL", 24), number("THALWEG_CUT_SEED", 1));
    let mut full = 0;
    for seed in first..first + sizes {
        let file_system = file_systems[seed as usize % file_systems.len()];
        let disk = Disk::new(file_system).expect("it could be made before");
        let dir = disk.dir().join("data");
        let broker = Broker::open(&dir).expect("a new directory opens");
        let topic = broker.topic("events").create().expect("there is room");
        topic.send("first").expect("there is room");
        disk.fill_but(seed % 97 * 1_237);
        let (mut acknowledged, mut refused) = (1, None);
        for number in 0..400 {
            match topic.send(format!("{number} {}", "x".repeat((seed % 7 * 700) as usize))) {
                Ok(_) => acknowledged += 1,
                Err(error) => {
                    refused.get_or_insert(error.kind());
                    break;
                }
            }
        }
        full += u64::from(refused.is_some());
        let count = |broker: &Broker| {
            let topic = broker.topic("events").open().expect("it is there");
            topic.scan(thalweg::Start::Earliest).inspect(|record| assert!(record.is_ok(), "{record:?}")).count()
        };
        assert!(count(&broker) >= acknowledged, "seed {seed}: reading on a full disk");
        // May fail without room, but neither panic nor harm.
        let _may_fail = broker.close();
        drop(broker);
        disk.make_room();
        let broker =
            Broker::open(&dir).unwrap_or_else(|e| panic!("seed {seed}: it does not open with room again: {e}"));
        let found = count(&broker);
        assert!(found >= acknowledged, "seed {seed}: {acknowledged} were acknowledged, {found} are there");
        broker.topic("events").open().and_then(|topic| topic.send("more")).expect("there is room again");
        assert_eq!(count(&broker), found + 1, "seed {seed}");
        broker.close().expect("there is room again");
    }
    println!("{sizes} real disks, {full} of which ran full");
    assert!(full > 0);
}

/// Writes fail behind the page cache: a thin disk whose storage is full. The sync says so, the partition takes nothing
/// more, and what was acknowledged before is there when the disk is mounted again.
#[test]
fn a_failed_writeback_is_never_acknowledged() {
    let Some(file_systems) = usable() else { return };
    let (rounds, first) = (number("THALWEG_THIN", 6), number("THALWEG_CUT_SEED", 1));
    let mut failed = 0;
    for seed in first..first + rounds {
        let file_system = file_systems[seed as usize % file_systems.len()];
        let mut disk = Disk::thin(file_system, 1 + seed % 4).expect("it could be made before");
        let dir = disk.dir().join("data");
        let mut acknowledged = Vec::new();
        let broker = Broker::open(&dir).expect("a new directory opens");
        let topic = broker.topic("events").durability(Durability::PowerLoss).create().expect("there is room");
        let error = loop {
            let value = format!("{} {}", acknowledged.len(), "x".repeat(60_000));
            match topic.send(value.as_str()) {
                Ok(_) => acknowledged.push(value),
                Err(error) => break error,
            }
            assert!(acknowledged.len() < 4_000, "seed {seed}: a disk of a few MiB holds it all");
        };
        failed += u64::from(error.kind() == ErrorKind::Indeterminate);
        assert!(topic.send("more").is_err(), "seed {seed}: it is acknowledged after {error}");
        let _may_fail = broker.close();
        drop((topic, broker));
        disk.give_room();
        disk.mount_again();
        let broker = Broker::open(&dir).unwrap_or_else(|e| panic!("seed {seed}: it does not open again: {e}"));
        let topic = broker.topic("events").open().expect("it is there");
        // What was not acknowledged may be damaged.
        let sound = |record: thalweg::Result<_>| match record {
            Err(error) if error.at_offsets().is_some_and(|at| at.start.get() >= acknowledged.len() as i64) => None,
            record => Some(record.unwrap_or_else(|e| panic!("seed {seed}: {e}"))),
        };
        let found: Vec<_> = topic.scan(thalweg::Start::Earliest).filter_map(sound).collect();
        for (record, value) in found.iter().zip(&acknowledged) {
            assert!(record.value() == Some(value.as_bytes()), "seed {seed}: another record at {}", record.offset());
        }
        assert!(found.len() >= acknowledged.len(), "seed {seed}: {} of {}", found.len(), acknowledged.len());
        topic.send("more").expect("there is room again");
    }
    println!("{rounds} thin disks, on {failed} of which a sync failed");
    assert!(failed > 0);
}

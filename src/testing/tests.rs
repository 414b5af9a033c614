//! The explorer, the sweep and the oracle must find what is wrong, and nothing else.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::broker::BrokerBuilder;
use crate::log::LogConfig;
use crate::storage::{File, OpenMode, Storage};
use crate::topic::{OnFull, TopicConfig};
use crate::types::{Durability, Offset, Start};

const NOTE: &str = "note";

fn open(disk: &SimStorage, path: &str) -> Arc<dyn File> {
    disk.open(Path::new(path), OpenMode::CreateIfAbsent).unwrap()
}

fn sync_root(disk: &SimStorage) {
    disk.sync_dir(Path::new("")).unwrap();
}

/// Which steps of replacing a file safely are left out.
#[derive(Clone, Copy, Default)]
struct Careless {
    no_file_sync: bool,
    no_directory_sync: bool,
    in_place: bool,
}

/// Replaces a file of five letters five times.
fn replace(disk: &SimStorage, history: &History<u8>, careless: Careless) {
    for letter in b'a'..b'f' {
        let file = open(disk, if careless.in_place { NOTE } else { "tmp" });
        file.set_len(0).unwrap();
        file.write_all_at(&[letter; 5], 0).unwrap();
        if !careless.no_file_sync {
            file.sync_data().unwrap();
        }
        if !careless.in_place {
            disk.rename(Path::new("tmp"), Path::new(NOTE)).unwrap();
        }
        if !careless.no_directory_sync {
            sync_root(disk);
        }
        history.note(disk, letter);
    }
}

/// The file holds the last letter that was promised, or the one after it, whole.
fn check_note(disk: &SimStorage, history: &History<u8>) -> Result<(), String> {
    let promised = history.entries().iter().rev().find_map(|e| if let Entry::Event(e) = e { Some(*e) } else { None });
    let mut found = [0; 5];
    let read = disk.open(Path::new(NOTE), OpenMode::Read).and_then(|file| file.read_exact_at(&mut found, 0));
    match (promised, read) {
        (None, Err(_)) => Ok(()),
        (None, Ok(())) if found == [b'a'; 5] => Ok(()),
        (Some(letter), Ok(())) if found == [letter; 5] || found == [letter + 1; 5] => Ok(()),
        (promised, read) => Err(format!("{promised:?} was promised, found {read:?}, {found:?}")),
    }
}

#[test]
fn the_explorer_finds_each_missing_step() {
    let run = |careless| explore(|disk, history| replace(disk, history, careless), check_note, &ExploreConfig::new(1));
    let sound = run(Careless::default());
    sound.assert_sound();
    assert!(sound.crashes > 100 && sound.next.is_none(), "{sound}");
    for careless in [
        Careless { no_file_sync: true, ..Careless::default() },
        Careless { no_directory_sync: true, ..Careless::default() },
        Careless { in_place: true, ..Careless::default() },
    ] {
        let report = run(careless);
        let failure = report.failures.first().expect("a step was left out");
        // The line alone makes the same failure again.
        let replay: Replay = failure.replay.to_string().parse().unwrap();
        let config = ExploreConfig::new(0).replay(replay);
        let again = explore(|disk, history| replace(disk, history, careless), check_note, &config);
        assert_eq!((again.crashes, &again.failures[0]), (failure.replay.crashes.len() as u64, failure));
    }
}

#[test]
fn the_explorer_crashes_recoveries_too() {
    // The recovery replaces the note carelessly, so that only a crash inside it can do harm.
    let check = |disk: &SimStorage, history: &History<u8>| {
        check_note(disk, history)?;
        let mut found = [0];
        open(disk, NOTE).read_at(&mut found, 0).unwrap();
        open(disk, NOTE).write_all_at(&[found[0]; 5], 0).unwrap();
        open(disk, NOTE).set_len(0).unwrap();
        open(disk, NOTE).write_all_at(&[found[0]; 5], 0).unwrap();
        Ok(())
    };
    let run = |depth| {
        let config = ExploreConfig::new(3).depth(depth).nested(4);
        explore(|disk, history| replace(disk, history, Careless::default()), check, &config)
    };
    assert_eq!(run(1).nested, 0);
    run(1).assert_sound();
    let failure = run(2).failures.into_iter().next().expect("a crash inside");
    assert_eq!(failure.replay.crashes.len(), 2, "{failure}");
}

#[test]
fn an_exploration_goes_on_where_it_ended() {
    let run = |config| explore(|disk, history| replace(disk, history, Careless::default()), check_note, &config);
    let whole = run(ExploreConfig::new(5));
    let ended = run(ExploreConfig::new(5).time(std::time::Duration::ZERO));
    assert_eq!((ended.crashes, ended.next), (0, Some(0)));
    let late = run(ExploreConfig::new(5).first(20));
    assert!(late.crashes > 0 && late.crashes < whole.crashes);
}

#[test]
fn the_sweep_finds_a_swallowed_error_a_panic_and_a_loop() {
    let sweep = |workload: fn(&SimStorage, &History<u8>)| {
        sweep_errors(workload, check_note, &SweepConfig::new(0).errnos([Errno::Io]).caches_lie(false))
    };
    let careful = |disk: &SimStorage, history: &History<u8>| {
        let try_all = || -> std::io::Result<()> {
            let file = disk.open(Path::new("tmp"), OpenMode::CreateNew)?;
            file.write_all_at(b"aaaaa", 0)?;
            file.sync_data()?;
            disk.rename(Path::new("tmp"), Path::new(NOTE))?;
            disk.sync_dir(Path::new(""))?;
            history.note(disk, b'a');
            Ok(())
        };
        // What failed promises nothing.
        try_all().ok();
    };
    let report = sweep(careful);
    report.assert_sound();
    assert_eq!((report.operations, report.runs), (5, 10));
    let swallows = sweep(|disk, history| {
        let Ok(file) = disk.open(Path::new(NOTE), OpenMode::CreateNew) else { return };
        let written = file.write_all_at(b"aaaaa", 0).is_ok();
        let synced = file.sync_data().is_ok() | disk.sync_dir(Path::new("")).is_ok();
        if written && synced {
            history.note(disk, b'a');
        }
    });
    assert!(swallows.failures.iter().any(|f| f.kind == Operation::Sync), "{swallows}");
    let panics = sweep(|disk, _| drop(disk.open(Path::new(NOTE), OpenMode::CreateNew).unwrap()));
    assert!(panics.failures[0].what.contains("panicked"), "{:?}", panics.failures);
    let loops = sweep(|disk, _| {
        let tries = Cell::new(0);
        while disk.create_dir(Path::new("dir")).is_err() {
            tries.set(tries.get() + 1);
            assert!(tries.get() < 1_000, "for ever");
        }
    });
    assert!(loops.failures.iter().any(|f| f.repeat == Repeat::Forever), "{loops}");
}

#[test]
fn a_sweep_that_takes_turns_comes_by_every_operation_and_every_way() {
    let ways = |config: SweepConfig| -> Vec<_> {
        let report = sweep_errors(
            |disk: &SimStorage, _: &History<u8>| (0..4).for_each(|_| drop(disk.create_dir(Path::new(NOTE)))),
            |_, _| Err("as ever".into()),
            &config.errnos([Errno::Io, Errno::NoSpace]),
        );
        report.failures.iter().map(|f| format!("{:?} {:?}", f.errno, f.repeat)).collect()
    };
    for seed in 0..8 {
        let (mut one, mut all) = (ways(SweepConfig::new(seed).ways(1)), ways(SweepConfig::new(seed)));
        assert_eq!((one.len(), all.len()), (4, 16));
        for each in [&mut one, &mut all] {
            each.sort();
            each.dedup();
        }
        assert_eq!(one, all);
    }
}

/// A log of four records, of which three were acknowledged, then what `change` makes of its history.
fn judged(change: impl FnOnce(&SimStorage, &History<LogEvent>)) -> Result<(), String> {
    let (disk, history, dir) = (SimStorage::new(), History::default(), Path::new("events-0"));
    let log = WatchedLog::open(&disk, &history, dir, LogConfig::default()).unwrap();
    for value in ["a", "b", "c"] {
        log.put([value], Durability::PowerLoss).unwrap();
    }
    log.put(["d"], Durability::PowerLoss).unwrap();
    change(&disk, &history);
    log.verify()
}

#[test]
fn the_oracle_accepts_what_is_right_and_nothing_else() {
    judged(|_, _| ()).unwrap();
    let at = |offset: i64| Offset::new(offset);
    let wrong = |change: &dyn Fn(&SimStorage, &History<LogEvent>)| judged(|d, h| change(d, h)).unwrap_err();
    let promised = wrong(&|disk, history| {
        history.note(disk, LogEvent::Appending(at(4), Vec::new()));
        history.note(disk, LogEvent::Acknowledged(at(5), Durability::PowerLoss));
    });
    assert!(promised.contains("known outside"), "{promised}");
    let again = wrong(&|disk, history| history.note(disk, LogEvent::Appended(at(3))));
    assert!(again.contains("given out again"), "{again}");
    let start = wrong(&|disk, history| history.note(disk, LogEvent::Advanced(at(2))));
    assert!(start.contains("log start"), "{start}");
    let phantom = wrong(&|disk, history| history.note(disk, LogEvent::Truncated(at(3))));
    assert!(phantom.contains("was appended there"), "{phantom}");
    // A truncation that was begun allows both.
    judged(|disk, history| history.note(disk, LogEvent::Truncating(at(1)))).unwrap();
}

#[test]
fn the_oracle_finds_a_lost_and_a_garbled_record() {
    let (disk, history, dir) = (SimStorage::new(), History::default(), Path::new("events-0"));
    let config = LogConfig::default();
    let log = WatchedLog::open(&disk, &history, dir, config.clone()).unwrap();
    for value in ["a", "b", "c"] {
        log.put([value], Durability::PowerLoss).unwrap();
    }
    let segment = "events-0/00000000000000000000.log";
    let size = log.log().size_bytes();
    let cut = disk.crash(Choice::ProcessCrash);
    open(&cut, segment).set_len(size * 2 / 3).unwrap();
    let lost = check_log(&cut, &history.crashed(disk.operations(), Choice::Nothing), dir, &config).unwrap_err();
    assert!(lost.contains("is lost") || lost.contains("known outside"), "{lost}");
    let rotten = disk.crash(Choice::ProcessCrash);
    rotten.flip_bit(segment, size / 2, 3).unwrap();
    check_log(&rotten, &history.crashed(disk.operations(), Choice::ProcessCrash), dir, &config).unwrap_err();
}

/// A group that is at 1, of which the history says: a commit of 1 was found though it had failed, then 2 was
/// acknowledged, then this crash came.
fn judged_commits(level: Durability, crash: Choice) -> Result<(), String> {
    let (disk, history, root) = (SimStorage::new(), History::default(), Path::new("data"));
    let open = |history: &History<_>| WatchedBroker::open(&disk, history, root, |options| options.durability(level));
    let broker = open(&history).unwrap();
    let topic = broker.create("orders", 1, TopicConfig::new()).unwrap();
    let committing = |at| BrokerEvent::Committing("billing".to_owned(), topic.id(), 0, Offset::new(at));
    broker.put(&topic.partition(0).unwrap(), ["one"], level).unwrap();
    history.note(&disk, committing(1));
    broker.broker().consumer_group("billing").reset(["orders"], Start::Latest).unwrap();
    broker.verify().unwrap();
    broker.put(&topic.partition(0).unwrap(), ["two"], level).unwrap();
    history.note(&disk, committing(2));
    history.note(&disk, BrokerEvent::Committed("billing".to_owned(), topic.id(), 0, Offset::new(2), level));
    broker.broker().close().unwrap();
    open(&history.crashed(disk.operations(), crash)).unwrap().verify()
}

#[test]
fn the_oracle_misses_a_commit_that_was_acknowledged() {
    for (level, crash) in [
        (Durability::PowerLoss, Choice::Nothing),
        (Durability::PowerLoss, Choice::ProcessCrash),
        (Durability::ProcessCrash, Choice::ProcessCrash),
    ] {
        let lost = judged_commits(level, crash).unwrap_err();
        assert!(lost.contains("not at one of"), "{level}, {crash}: {lost}");
    }
    judged_commits(Durability::ProcessCrash, Choice::Nothing).unwrap();
}

#[test]
fn an_append_that_could_not_make_room_excuses_no_loss() {
    let (disk, history, root) = (SimStorage::new(), History::default(), Path::new("data"));
    let budget = |options: BrokerBuilder| options.byte_budget(1000, OnFull::DropOldest);
    let long = "x".repeat(400);
    let work = || -> crate::error::Result<()> {
        let broker = WatchedBroker::open(&disk, &history, root, budget)?;
        let orders = broker.create("orders", 2, TopicConfig::new())?;
        for number in 0..2 {
            broker.put(&orders.partition(number)?, [&*long], Durability::PowerLoss)?;
        }
        disk.add_fault(Fault::new(Errno::Io, Repeat::Forever).on(Operation::Sync).path("thalweg.state"));
        // The deletion begins with the older of the two.
        broker.put(&orders.partition(1)?, [&*long], Durability::PowerLoss).map(drop)
    };
    work().unwrap_err();
    let judged = |spoilt: Option<&str>| {
        let left = disk.crash(Choice::ProcessCrash);
        spoilt.into_iter().for_each(|path| open(&left, path).set_len(0).unwrap());
        WatchedBroker::open(&left, &history.crashed(disk.operations(), Choice::ProcessCrash), root, budget)
            .unwrap()
            .verify()
    };
    judged(None).unwrap();
    let lost = judged(Some("data/orders-1/00000000000000000000.log")).unwrap_err();
    assert!(lost.contains("is lost"), "{lost}");
}

#[test]
fn the_oracle_misses_what_was_to_rise_with_the_level_of_its_topic() {
    let (disk, history, root) = (SimStorage::new(), History::default(), Path::new("data"));
    let watched = |disk: &SimStorage, history: &History<_>| {
        WatchedBroker::open(disk, history, root, |options| options.durability(Durability::ProcessCrash)).unwrap()
    };
    let broker = watched(&disk, &history);
    let orders = broker.create("orders", 1, TopicConfig::new()).unwrap();
    broker.put(&orders.partition(0).unwrap(), ["one"], Durability::ProcessCrash).unwrap();
    broker.alter(&orders, "flush.messages", "1").unwrap();
    let judged = |len: Option<u64>| {
        let left = disk.crash(Choice::Nothing);
        len.into_iter().for_each(|len| open(&left, "data/orders-0/00000000000000000000.log").set_len(len).unwrap());
        watched(&left, &history.crashed(disk.operations(), Choice::Nothing)).verify()
    };
    judged(None).unwrap();
    // As if the log had done nothing.
    let lost = judged(Some(0)).unwrap_err();
    assert!(lost.contains("is lost"), "{lost}");
}

#[test]
fn a_failed_sync_excuses_no_promise_that_is_made_after_it() {
    let (disk, history, dir) = (SimStorage::new(), History::default(), Path::new("events-0"));
    let weak = LogConfig::default().durability(Durability::ProcessCrash);
    let log = WatchedLog::open(&disk, &history, dir, weak.clone()).unwrap();
    log.put(["a"], Durability::PowerLoss).unwrap();
    log.put(["b"], Durability::ProcessCrash).unwrap();
    let fault = Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).leaves(AfterFailedSync::DropsToOld);
    disk.add_fault(fault.path(".log"));
    log.sync().unwrap_err();
    let promised = history.clone().crashed(disk.operations(), Choice::ProcessCrash);
    // As if it had been told now that the second is safe.
    history.note(&disk, LogEvent::Acknowledged(Offset::new(2), Durability::ProcessCrash));
    log.append(["c"]).unwrap_err();
    let judged = |history: &History<_>| {
        let left = disk.crash(Choice::ProcessCrash);
        let log = WatchedLog::open(&left, history, dir, weak.clone()).unwrap();
        log.verify()
    };
    judged(&promised).unwrap();
    let lost = judged(&history.crashed(disk.operations(), Choice::ProcessCrash)).unwrap_err();
    assert!(lost.contains("is lost"), "{lost}");
}

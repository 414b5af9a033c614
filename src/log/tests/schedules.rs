//! Group commit in many orders of its threads' steps: whoever waits is woken, and finds his append where it is to be.

use shuttle::future::block_on;

use super::*;
use crate::sync::{model, thread};

fn log(storage: impl Storage + 'static, config: LogConfig) -> Arc<Log> {
    storage.create_dir(Path::new("data")).unwrap();
    let config = config.commit_gather(Duration::ZERO);
    Arc::new(Log::open_on(Arc::new(storage), Arc::new(model::ModelClock), Path::new("data/t-0"), config).unwrap())
}

/// Appends one batch from each of so many threads and waits for it.
fn append_and_wait(log: &Arc<Log>, threads: usize) -> Vec<thread::JoinHandle<Result<Offset>>> {
    let append = |log: Arc<Log>| {
        move || {
            let appended = log.append(&BatchBuilder::of(["x"], Timestamp::new(T)).unwrap(), LeaderEpoch::new(0))?;
            log.wait(appended.position, Durability::PowerLoss)?;
            assert!(log.offsets().frontier > appended.base_offset);
            Ok(appended.base_offset)
        }
    };
    (0..threads).map(|_| thread::spawn(append(Arc::clone(log)))).collect()
}

fn ends(threads: Vec<thread::JoinHandle<Result<Offset>>>) -> Vec<Result<Offset>> {
    let ends = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    // Nobody was rescued by a timeout.
    assert_eq!(model::now(), Duration::ZERO);
    ends
}

#[test]
fn shuttle_every_writer_is_woken_when_its_append_is_synced() {
    model::explore(|| {
        let log = log(MemoryStorage::new(), LogConfig::default());
        let mut offsets: Vec<_> = ends(append_and_wait(&log, 3)).into_iter().map(Result::unwrap).collect();
        offsets.sort_unstable();
        assert_eq!(offsets, [0, 1, 2].map(Offset::new));
    });
}

#[test]
fn shuttle_every_writer_is_woken_when_a_sync_fails() {
    model::explore(|| {
        let disk = SimStorage::new();
        let log = log(disk.clone(), LogConfig::default());
        disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::Sync).path(".log"));
        for end in ends(append_and_wait(&log, 3)) {
            assert!(end.is_err(), "nothing was synced");
        }
    });
}

#[test]
fn shuttle_a_writer_is_woken_when_the_lock_is_let_go_for_another_reason() {
    model::explore(|| {
        let log = log(MemoryStorage::new(), LogConfig::default());
        let writers = append_and_wait(&log, 2);
        log.maintain().unwrap();
        log.roll().unwrap();
        for end in ends(writers) {
            end.unwrap();
        }
    });
}

#[test]
fn shuttle_a_future_is_woken_when_somebody_else_syncs() {
    model::explore(|| {
        let log = log(MemoryStorage::new(), LogConfig::default());
        let appended = log.append(&BatchBuilder::of(["x"], Timestamp::new(T)).unwrap(), LeaderEpoch::new(0)).unwrap();
        let writers = append_and_wait(&log, 2);
        block_on(log.committed(appended.position, Durability::PowerLoss)).unwrap();
        for end in ends(writers) {
            end.unwrap();
        }
    });
}

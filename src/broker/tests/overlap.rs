//! Several partitions are synced at once: on a disk where a sync of one log returns only when another is under way.

use std::future::Future;
use std::io::{self, IoSlice};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use super::super::Broker;
use crate::record::Record;
use crate::storage::{DirEntry, File, Lock, Map, MemoryStorage, Metadata, OpenMode, Storage};
use crate::types::Durability;

/// Where syncs meet.
#[derive(Debug, Default)]
struct Meeting {
    is_on: AtomicBool,
    present: Mutex<usize>,
    came: Condvar,
}

impl Meeting {
    /// Waits for a second one to come.
    fn attend(&self) -> io::Result<()> {
        let mut present = self.present.lock().unwrap();
        *present += 1;
        self.came.notify_all();
        let waited = self.came.wait_timeout_while(present, Duration::from_secs(60), |present| *present < 2);
        if waited.unwrap().1.timed_out() { Err(io::Error::other("nobody else syncs")) } else { Ok(()) }
    }
}

#[derive(Clone, Debug, Default)]
struct Sociable {
    inner: MemoryStorage,
    meeting: Arc<Meeting>,
}

#[derive(Debug)]
struct SociableFile {
    inner: Arc<dyn File>,
    /// A partition's log.
    meeting: Option<Arc<Meeting>>,
}

impl Storage for Sociable {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let text = path.to_string_lossy();
        let is_log = text.contains("/t-") && text.ends_with(".log");
        let meeting = is_log.then(|| Arc::clone(&self.meeting));
        Ok(Arc::new(SociableFile { inner: self.inner.open(path, mode)?, meeting }))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(path)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.inner.metadata(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }
    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_fs(path)
    }
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Lock>> {
        self.inner.lock(path, holder)
    }
    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.inner.lock_shared(path)
    }
}

impl File for SociableFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_at(buf, position)
    }
    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.inner.write_at(buf, position)
    }
    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.inner.write_vectored_at(bufs, position)
    }
    fn sync_data(&self) -> io::Result<()> {
        if let Some(meeting) = self.meeting.as_ref().filter(|meeting| meeting.is_on.load(Ordering::SeqCst)) {
            meeting.attend()?;
        }
        self.inner.sync_data()
    }
    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(position, len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn map(&self, len: u64) -> io::Result<Box<dyn Map>> {
        self.inner.map(len)
    }
}

/// A record for each of two partitions, on its own.
fn records() -> [Record; 2] {
    [Record::new("a").partition(0), Record::new("b").partition(1)]
}

#[test]
fn syncs_of_several_partitions_overlap() {
    for way in 0..3 {
        let storage = Sociable::default();
        let broker = Broker::builder("/m").storage(storage.clone()).open().unwrap();
        let topic = broker.topic("t").partitions(2).create().unwrap();
        storage.meeting.is_on.store(true, Ordering::SeqCst);
        let producer = broker.producer().build().unwrap();
        match way {
            0 => assert!(producer.send_batch(&topic, records()).iter().all(Result::is_ok)),
            1 => {
                records().into_iter().for_each(|record| drop(producer.enqueue(&topic, record).unwrap()));
                producer.flush().unwrap();
            }
            // Nobody waits but futures: the broker's own threads do it.
            _ => {
                let append = |number: i32| {
                    let partition = topic.partition(number).unwrap();
                    let appended = partition.append_records(["x"]).unwrap();
                    partition.committed(appended.position, Durability::PowerLoss).unwrap()
                };
                for mut committed in [append(0), append(1)] {
                    let mut context = Context::from_waker(Waker::noop());
                    while Pin::new(&mut committed).poll(&mut context).map(Result::unwrap).is_pending() {
                        std::thread::yield_now();
                    }
                }
            }
        }
        storage.meeting.is_on.store(false, Ordering::SeqCst);
        broker.close().unwrap();
    }
}

//! The directory lock: Kafka's own `.lock` file, locked so that a stock broker and we exclude each other.
//!
//! Two guards. The system's lock keeps other processes out; a table of the files that this process has
//! locked keeps its own second opener out, because a POSIX lock (other Unixes) would let it in, and would
//! be lost when it closed its descriptor.
//! Invariant: the table's mutex is held while a lock file is opened or closed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process;

use parking_lot::Mutex;

use super::{DiskFile, DiskStorage, RawFile, platform};
use crate::storage::{File, Lock, OpenMode, Storage};

/// What this process has locked.
static HELD: Mutex<BTreeMap<platform::Identity, Held>> = Mutex::new(BTreeMap::new());

/// A stock broker deletes `.lock` as it stops, so the file that we locked may no longer be the one at the
/// path. Each retry needs another broker to stop just then.
const ATTEMPTS_MAX: usize = 16;

/// No more than this is read of what a holder left.
const HOLDER_BYTES_MAX: usize = 1024;

/// Those who only look leave no name.
const LOOKED_AT: &str = "it is being looked at";

/// One locked file. Those in this process who share it share its descriptor: where locks are POSIX ones, closing
/// a second one would lose the lock.
struct Held {
    file: RawFile,
    /// What the one holder left; `None` for those who only look.
    holder: Option<String>,
    count: usize,
}

#[derive(Debug)]
struct DiskLock {
    identity: platform::Identity,
    /// A forked child has a copy of this lock that is not its own to release.
    pid: u32,
}

impl Lock for DiskLock {}

impl Drop for DiskLock {
    fn drop(&mut self) {
        let mut held = HELD.lock();
        let Some(lock) = held.get_mut(&self.identity) else { return };
        lock.count -= 1;
        if lock.count > 0 {
            return;
        }
        if self.pid == process::id() {
            platform::unlock(&lock.file);
        }
        held.remove(&self.identity);
    }
}

pub(super) fn take(path: &Path, holder: &str) -> io::Result<Box<dyn Lock>> {
    let mut held = HELD.lock();
    for _ in 0..ATTEMPTS_MAX {
        // Looked up without opening the file: see the module's header.
        if let Some(lock) = platform::identity(path)?.and_then(|identity| held.get(&identity)) {
            return Err(refusal("this process", lock.holder.as_deref().unwrap_or(LOOKED_AT)));
        }
        let Some(file) = platform::open_locked(path)? else {
            return Err(match platform::is_shared(path) {
                true => refusal("another process", LOOKED_AT),
                false => refusal("another process", &read_holder(path)),
            });
        };
        let Some(identity) = platform::identity_if_at(&file, path)? else { continue };
        let file = DiskFile::new(file);
        write_holder(&file, holder)?;
        return Ok(hold(&mut held, identity, file.raw, Some(holder.to_owned())));
    }
    Err(refusal("another process", "which keeps replacing the lock file"))
}

pub(super) fn take_shared(path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
    let mut held = HELD.lock();
    for _ in 0..ATTEMPTS_MAX {
        let Some(identity) = platform::identity(path)? else { return Ok(None) };
        if let Some(lock) = held.get_mut(&identity) {
            if let Some(holder) = &lock.holder {
                return Err(refusal("this process", holder));
            }
            lock.count += 1;
            return Ok(Some(Box::new(DiskLock { identity, pid: process::id() })));
        }
        let file = match platform::open_locked_shared(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let Some(file) = file else { return Err(refusal("another process", &read_holder(path))) };
        let Some(identity) = platform::identity_if_at(&file, path)? else { continue };
        return Ok(Some(hold(&mut held, identity, file, None)));
    }
    Err(refusal("another process", "which keeps replacing the lock file"))
}

fn hold(
    held: &mut BTreeMap<platform::Identity, Held>,
    identity: platform::Identity,
    file: RawFile,
    holder: Option<String>,
) -> Box<dyn Lock> {
    #[allow(clippy::clone_on_copy, reason = "a path, and no Copy, on Windows")]
    held.insert(identity.clone(), Held { file, holder, count: 1 });
    Box::new(DiskLock { identity, pid: process::id() })
}

/// On a full disk the directory must still open: the text is a courtesy to others, and is left out.
fn write_holder(file: &DiskFile, holder: &str) -> io::Result<()> {
    file.set_len(0)?;
    match file.write_all_at(holder.as_bytes(), 0) {
        Err(e) if !matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Err(e),
        _ => Ok(()),
    }
}

/// What the holder wrote about itself; empty when it wrote nothing or cannot be read.
fn read_holder(path: &Path) -> String {
    let mut text = [0; HOLDER_BYTES_MAX];
    let read = DiskStorage.open(path, OpenMode::Read).and_then(|file| file.read_at(&mut text, 0)).unwrap_or(0);
    String::from_utf8_lossy(&text[..read]).trim().to_owned()
}

fn refusal(who: &str, text: &str) -> io::Error {
    let text = if text.is_empty() { "it left no details; a Kafka broker leaves none" } else { text };
    io::Error::new(io::ErrorKind::WouldBlock, format!("locked by {who}: {text}"))
}

#[cfg(all(test, unix))]
mod tests {
    use std::env;
    use std::io::{BufRead as _, BufReader};
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use rustix::fs::{FlockOperation, fcntl_lock};

    use super::*;

    const CHILD: &str = "THALWEG_TEST_LOCK_CHILD";

    /// Not a test by itself: what the tests below run in another process. It says what became of its
    /// attempt and then waits until its input ends.
    #[test]
    fn child() {
        let Ok(how) = env::var(CHILD) else { return };
        let path = PathBuf::from(env::var("THALWEG_TEST_LOCK_PATH").unwrap());
        if how == "look" {
            let lock = take_shared(&path);
            println!("child: {}", lock.as_ref().map_or_else(|e| e.to_string(), |_| "looking".to_owned()));
            io::stdin().read_line(&mut String::new()).unwrap();
        } else if how == "posix" {
            // What Java's FileChannel.tryLock does.
            let file = super::super::options(OpenMode::CreateIfAbsent).open(&path).unwrap();
            let taken = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            println!("child: {}", if taken { "taken" } else { "refused" });
            io::stdin().read_line(&mut String::new()).unwrap();
        } else {
            let lock = take(&path, "the child");
            println!("child: {}", lock.as_ref().map_or_else(|e| e.to_string(), |_| "taken".to_owned()));
            io::stdin().read_line(&mut String::new()).unwrap();
        }
    }

    /// Starts the child and gives it back with what it said.
    fn start(how: &str, path: &Path) -> (Child, String) {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "storage::disk::lock::tests::child", "--nocapture"])
            .env(CHILD, how)
            .env("THALWEG_TEST_LOCK_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let said = lines.map(Result::unwrap).find_map(|line| Some(line.split_once("child: ")?.1.to_owned()));
        (child, said.unwrap())
    }

    fn finish((mut child, said): (Child, String)) -> String {
        drop(child.stdin.take());
        child.wait().unwrap();
        said
    }

    #[test]
    fn another_process_is_kept_out_and_told_by_whom() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".lock");
        let lock = take(&path, "pid 4711").unwrap();
        assert_eq!(finish(start("ours", &path)), "locked by another process: pid 4711");
        assert_eq!(finish(start("posix", &path)), "refused");
        // An open-file-description lock is not lost when another descriptor of the file is closed here.
        if cfg!(target_os = "linux") {
            assert_eq!(read_holder(&path), "pid 4711");
            assert_eq!(finish(start("posix", &path)), "refused");
        }
        drop(lock);
        assert_eq!(finish(start("posix", &path)), "taken");
        assert_eq!(finish(start("ours", &path)), "taken");
    }

    #[test]
    fn another_process_keeps_us_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".lock");
        for (how, left) in [("posix", "it left no details; a Kafka broker leaves none"), ("ours", "the child")] {
            let child = start(how, &path);
            assert_eq!(child.1, "taken");
            let refused = take(&path, "us").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(refused.to_string(), format!("locked by another process: {left}"));
            finish(child);
        }
        take(&path, "us").unwrap();
    }

    #[test]
    fn those_who_look_share_and_keep_writers_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".lock");
        assert!(take_shared(&path).unwrap().is_none(), "no file, no lock");
        assert!(!path.exists());
        drop(take(&path, "pid 4711").unwrap());
        let before = path.metadata().unwrap();
        let ours = [take_shared(&path).unwrap().unwrap(), take_shared(&path).unwrap().unwrap()];
        assert_eq!(finish(start("look", &path)), "looking");
        let [first, second] = ours;
        drop(first);
        assert_eq!(finish(start("posix", &path)), "refused");
        if cfg!(target_os = "linux") {
            assert_eq!(finish(start("ours", &path)), "locked by another process: it is being looked at");
        }
        assert_eq!(take(&path, "us").unwrap_err().to_string(), "locked by this process: it is being looked at");
        let after = path.metadata().unwrap();
        assert_eq!((before.modified().unwrap(), before.len()), (after.modified().unwrap(), after.len()));
        drop(second);
        for how in ["posix", "ours"] {
            let child = start(how, &path);
            assert_eq!(child.1, "taken");
            assert_eq!(take_shared(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock, "{how}");
            finish(child);
        }
        let _ours = take(&path, "us").unwrap();
        assert_eq!(take_shared(&path).unwrap_err().to_string(), "locked by this process: us");
    }

    #[test]
    fn the_same_file_under_another_path_is_refused_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".lock");
        let _lock = take(&path, "first").unwrap();
        let other = directory.path().join(".").join("..").join(directory.path().file_name().unwrap()).join(".lock");
        assert_eq!(take(&other, "second").unwrap_err().to_string(), "locked by this process: first");
    }

    /// A stock broker deletes the lock file as it stops: whoever then locks the nameless file has locked
    /// nothing.
    #[test]
    fn a_file_that_lost_its_name_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".lock");
        let file = platform::open_locked(&path).unwrap().unwrap();
        assert!(platform::identity_if_at(&file, &path).unwrap().is_some());
        DiskStorage.remove_file(&path).unwrap();
        assert_eq!(platform::identity_if_at(&file, &path).unwrap(), None);
        DiskStorage.open(&path, OpenMode::CreateNew).unwrap();
        assert_eq!(platform::identity_if_at(&file, &path).unwrap(), None);
        take(&path, "us").unwrap();
    }
}

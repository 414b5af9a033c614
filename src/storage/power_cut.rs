//! A disk whose power can be cut: it knows what was synced, and makes the image that a cut would leave.
//!
//! A model for tests of crash ordering, not of speed. Bytes are durable after `sync_data` of their file, names
//! after `sync_dir` of their directory. What is not durable survives or not as the seed says: names in the order
//! of the journal, bytes page by page.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{DirEntry, File, Lock, Map, MemoryStorage, Metadata, OpenMode, Storage};

const PAGE: usize = 512;

/// A disk in memory that can lose power.
#[derive(Clone, Debug, Default)]
pub(crate) struct PowerCutStorage {
    live: MemoryStorage,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    names: Names,
    durable: Names,
    /// Changes of names that no `sync_dir` has covered, in order.
    journal: Vec<Change>,
}

/// `None` is a directory.
type Names = BTreeMap<PathBuf, Option<Arc<Inode>>>;

#[derive(Debug)]
struct Inode {
    live: Arc<dyn File>,
    synced: Mutex<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, Option<Arc<Inode>>),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Change {
    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Link(path, _) | Self::Unlink(path) => path.parent() == Some(dir),
            Self::Rename(from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn apply(self, names: &mut Names) {
        match self {
            Self::Link(path, inode) => drop(names.insert(path, inode)),
            Self::Unlink(path) => names.retain(|name, _| !name.starts_with(&path)),
            Self::Rename(from, to) => {
                let moved: Vec<_> = names.extract_if(.., |name, _| name.starts_with(&from)).collect();
                for (name, inode) in moved {
                    let below = name.strip_prefix(&from).unwrap();
                    let name = if below.as_os_str().is_empty() { to.clone() } else { to.join(below) };
                    names.insert(name, inode);
                }
            }
        }
    }
}

impl PowerCutStorage {
    /// The disk as it is found when power is back. Seed 0 loses all that it may lose, seed 1 nothing.
    pub(crate) fn after_cut(&self, seed: u64) -> Self {
        let state = self.state.lock();
        let mut luck = Luck(seed);
        let mut names = state.durable.clone();
        let survivors = luck.below(state.journal.len() + 1);
        state.journal[..survivors].iter().cloned().for_each(|change| change.apply(&mut names));
        let cut = Self::default();
        // Parents sort before what is in them; a name whose directory is lost is lost with it.
        for (path, inode) in names {
            let Some(inode) = inode else {
                cut.create_dir(&path).ok();
                continue;
            };
            if let Ok(file) = cut.open(&path, OpenMode::CreateNew) {
                file.write_all_at(&inode.after_cut(&mut luck), 0).unwrap();
                file.sync_data().unwrap();
            }
        }
        let mut image = cut.state.lock();
        image.journal.clear();
        image.durable = image.names.clone();
        drop(image);
        cut
    }

    fn change(&self, change: Change) {
        let mut state = self.state.lock();
        change.clone().apply(&mut state.names);
        state.journal.push(change);
    }
}

impl Inode {
    fn after_cut(&self, luck: &mut Luck) -> Vec<u8> {
        let synced = self.synced.lock().clone();
        let mut now = vec![0; usize::try_from(self.live.len().unwrap()).unwrap()];
        self.live.read_exact_at(&mut now, 0).unwrap();
        if synced == now || !luck.smiles() {
            return synced;
        }
        // The new length arrived, and some of the pages.
        for at in (0..now.len()).step_by(PAGE).filter(|_| !luck.smiles()).collect::<Vec<_>>() {
            for place in at..now.len().min(at + PAGE) {
                now[place] = synced.get(place).copied().unwrap_or(0);
            }
        }
        now
    }
}

struct Luck(u64);

impl Luck {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn smiles(&mut self) -> bool {
        match self.0 {
            0 => false,
            1 => true,
            _ => self.next() & 1 == 1,
        }
    }

    fn below(&mut self, n: usize) -> usize {
        match self.0 {
            0 => 0,
            1 => n - 1,
            _ => usize::try_from(self.next()).unwrap() % n,
        }
    }
}

impl Storage for PowerCutStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let live = self.live.open(path, mode)?;
        if let Some(Some(inode)) = self.state.lock().names.get(path) {
            return Ok(Arc::new(PowerCutFile(Arc::clone(inode))));
        }
        let inode = Arc::new(Inode { live, synced: Mutex::default() });
        self.change(Change::Link(path.to_owned(), Some(Arc::clone(&inode))));
        Ok(Arc::new(PowerCutFile(inode)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.live.create_dir(path)?;
        self.change(Change::Link(path.to_owned(), None));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.live.rename(from, to)?;
        self.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.live.remove_file(path)?;
        self.change(Change::Unlink(path.to_owned()));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.live.remove_dir_all(path)?;
        self.change(Change::Unlink(path.to_owned()));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.live.list(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.live.metadata(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.live.sync_dir(path)?;
        let State { durable, journal, .. } = &mut *self.state.lock();
        journal.extract_if(.., |change| change.is_in(path)).for_each(|change| change.apply(durable));
        Ok(())
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        self.live.sync_fs(path)
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Lock>> {
        self.live.lock(path, holder)
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.live.lock_shared(path)
    }
}

#[derive(Debug)]
struct PowerCutFile(Arc<Inode>);

impl File for PowerCutFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.live.read_at(buf, position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.0.live.write_at(buf, position)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.0.live.write_vectored_at(bufs, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut now = vec![0; usize::try_from(self.0.live.len()?).unwrap()];
        self.0.live.read_exact_at(&mut now, 0)?;
        *self.0.synced.lock() = now;
        Ok(())
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.0.live.allocate(position, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.live.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.live.len()
    }

    fn map(&self, len: u64) -> io::Result<Box<dyn Map>> {
        self.0.live.map(len)
    }
}

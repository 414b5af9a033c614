//! The real disk with a boot id of the test's choice: a file system that is cut off comes back in the same boot of the
//! machine, and after a real power cut it never does.

use std::io;
use std::path::Path;
use std::sync::Arc;

use thalweg::{DirEntry, DiskStorage, File, Lock, Metadata, OpenMode, Storage};

#[derive(Debug)]
pub(crate) struct Boot(pub(crate) u64);

impl Storage for Boot {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        DiskStorage.open(path, mode)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DiskStorage.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        DiskStorage.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        DiskStorage.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        DiskStorage.remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        DiskStorage.list(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        DiskStorage.metadata(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        DiskStorage.sync_dir(path)
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        DiskStorage.sync_fs(path)
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Lock>> {
        DiskStorage.lock(path, holder)
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        DiskStorage.lock_shared(path)
    }

    fn boot_id(&self) -> [u8; 16] {
        let mut id = *b"a test's boot\0\0\0";
        id[8..].copy_from_slice(&self.0.to_be_bytes());
        id
    }
}

//! Real file systems in files on a disk in memory.
#![allow(clippy::disallowed_methods, reason = "this is what lies below the storage")]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// In memory: the images see many syncs.
const MEMORY: &str = "/dev/shm";
/// `_IOR('X', 125, u32)`, on ext4 and XFS alike.
const FS_IOC_SHUTDOWN: u64 = 0x8004_587d;
/// Goes down without flushing the journal.
const NO_LOG_FLUSH: u32 = 2;

#[derive(Debug)]
pub(crate) struct FileSystem {
    pub(crate) kind: &'static str,
    make: &'static [&'static str],
    pub(crate) options: &'static str,
    /// The least that it can be made in.
    mib: u64,
}

const EXT4: FileSystem = FileSystem { kind: "ext4", make: &["-q", "-F", "-m0"], options: "data=ordered", mib: 192 };
const XFS: FileSystem = FileSystem { kind: "xfs", make: &["-q", "-f"], options: "noatime", mib: 320 };

pub(crate) const FILE_SYSTEMS: [FileSystem; 6] = [
    EXT4,
    XFS,
    FileSystem { options: "data=ordered,commit=1", ..EXT4 },
    FileSystem { options: "noatime,logbsize=256k", ..XFS },
    FileSystem { options: "data=ordered,commit=600", ..EXT4 },
    FileSystem { options: "data=writeback,nodelalloc", ..EXT4 },
];

/// Why there can be no such disks here.
pub(crate) fn missing() -> Option<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !status.lines().any(|line| line.starts_with("Uid:\t0\t0")) {
        return Some("needs root");
    }
    if !Path::new("/dev/loop-control").exists() || !Path::new(MEMORY).is_dir() {
        return Some("needs loop devices and /dev/shm");
    }
    None
}

fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// A mounted file system; unmounted and gone when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    kind: &'static str,
    options: &'static str,
    device: String,
    mount: PathBuf,
    /// The disk in memory of a thin image, mounted.
    below: Option<PathBuf>,
    /// `None` when what it holds is to be looked at.
    home: Option<TempDir>,
}

impl Disk {
    pub(crate) fn new(wanted: &FileSystem) -> Result<Self, String> {
        Self::make(wanted, None)
    }

    /// On storage that runs out `mib` after the file system was made.
    pub(crate) fn thin(wanted: &FileSystem, mib: u64) -> Result<Self, String> {
        Self::make(wanted, Some(mib))
    }

    fn make(wanted: &FileSystem, thin_mib: Option<u64>) -> Result<Self, String> {
        let home = tempfile::tempdir_in(MEMORY).map_err(|e| e.to_string())?;
        let [below, mount] = ["below", "mount"].map(|name| home.path().join(name));
        for dir in [&below, &mount] {
            fs::create_dir(dir).map_err(|e| e.to_string())?;
        }
        let mut disk = Self {
            kind: wanted.kind,
            options: wanted.options,
            device: String::new(),
            mount,
            below: None,
            home: Some(home),
        };
        if thin_mib.is_some() {
            run("mount", &["-t", "tmpfs", "-o", "size=512m", "tmpfs", path(&below)])?;
            disk.below = Some(below.clone());
        }
        let image = below.join("image");
        let file = File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(wanted.mib << 20).map_err(|e| e.to_string())?;
        let mut make = wanted.make.to_vec();
        make.push(path(&image));
        run(&format!("mkfs.{}", wanted.kind), &make)?;
        disk.device = run("losetup", &["-f", "--show", path(&image)])?;
        if thin_mib.is_some() {
            // A loop device takes a write that its file cut short for a whole one: none may be longer than a page.
            let name = disk.device.trim_start_matches("/dev/");
            fs::write(format!("/sys/block/{name}/queue/max_sectors_kb"), "4").map_err(|e| e.to_string())?;
        }
        disk.mount()?;
        if let Some(mib) = thin_mib {
            let used = run("du", &["-sm", path(&below)])?;
            let used: u64 = used.split('\t').next().and_then(|n| n.parse().ok()).ok_or(used)?;
            run("mount", &["-o", &format!("remount,size={}m", used + mib), path(&below)])?;
        }
        Ok(disk)
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-t", self.kind, "-o", self.options, &self.device, path(&self.mount)]).map(drop)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.mount
    }

    /// Everything that was not flushed is gone.
    #[expect(unsafe_code, reason = "no safe wrapper knows this call")]
    pub(crate) fn cut(&self) {
        let root = File::open(&self.mount).expect("it is mounted");
        // SAFETY: the call reads one u32 through the pointer and keeps nothing.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), FS_IOC_SHUTDOWN as _, &NO_LOG_FLUSH) };
        assert_eq!(done, 0, "shutdown: {}", std::io::Error::last_os_error());
    }

    pub(crate) fn mount_again(&mut self) {
        // A process that another thread is about to start holds all files for a moment.
        let unmounted = (0..200).any(|_| run("umount", &[path(&self.mount)]).is_ok());
        assert!(unmounted, "{} stays busy", self.mount.display());
        self.mount().expect("it mounts again");
    }

    /// Leaves so many bytes free, about.
    pub(crate) fn fill_but(&self, bytes: u64) {
        let filler = File::create(self.mount.join("filler")).expect("a new file");
        let free = || rustix::fs::statvfs(&self.mount).map(|fs| fs.f_bavail * fs.f_frsize).expect("it is mounted");
        let mut len = 0;
        // Metadata takes some of it as well.
        while free() > bytes + 16_384 {
            let more = (free() - bytes) / 2;
            let kept = rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), len, more.max(4_096));
            if kept.is_err() {
                break;
            }
            len += more.max(4_096);
        }
    }

    pub(crate) fn make_room(&self) {
        fs::remove_file(self.mount.join("filler")).expect("it is there");
    }

    /// The storage of a thin disk grows.
    pub(crate) fn give_room(&self) {
        let below = self.below.as_deref().expect("a thin disk");
        run("mount", &["-o", "remount,size=512m", path(below)]).expect("it grows");
    }

    /// Leaves all as it is, to be looked at.
    pub(crate) fn keep(mut self) -> PathBuf {
        let home = self.home.take().expect("not kept yet").keep();
        home.join("mount")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.home.is_none() {
            return;
        }
        // Half made, it lacks the later ones.
        let _may_not_be = run("umount", &["-l", path(&self.mount)]);
        let _may_not_be = run("losetup", &["-d", &self.device]);
        if let Some(below) = &self.below {
            let _may_not_be = run("umount", &["-l", path(below)]);
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

//! The top of the directory: whose it is, who holds it, how it was left. Kafka's rules: the
//! clean-shutdown marker goes before the first write and comes back last (facts A.5, trap 14).

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Finding, FindingKind, Findings};
use crate::log::{decode_offsets, encode_offsets};
use crate::storage::{EntryKind, RESERVE, SYNCS, Storage, read_file, replace_file};
use crate::topic::Checkpoints;
use crate::topic::catalog::Catalog;
use crate::topic::name::{self, CLUSTER_METADATA};
use crate::topic::properties::{CLEAN_SHUTDOWN, META_PROPERTIES};
use crate::types::{Offset, Timestamp, TopicPartition, Uuid};

/// Our own state of all partitions; a name that Kafka ignores.
pub(super) const STATE_FILE: &str = "thalweg.state";
/// What the catalog looked like when we last had the directory; every start of a stock broker changes that. Two lines:
/// `version: N`, which version 0 did not have, and the catalog's stamp.
const LAST_EPOCH: &str = "thalweg.epoch";
const LAST_EPOCH_VERSION: u32 = 1;
/// The time at the last checkpoint, of a clock that jumps do not move: version and milliseconds, a line each.
const LAST_TIME: &str = "thalweg.clock";
const LAST_TIME_VERSION: u32 = 0;
const LOCK: &str = ".lock";
pub(super) const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
pub(super) const LOG_STARTS: &str = "log-start-offset-checkpoint";
pub(super) const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";

/// What is longer is none of our notes, of whatever version.
const NOTE_BYTES_MAX: u64 = 4096;

/// A checkpoint line is under 300 bytes: this is a million partitions.
const CHECKPOINT_BYTES_MAX: u64 = 300 << 20;

/// What stands at the path that is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, or a directory that holds nothing of anybody's.
    Empty,
    /// A directory that Kafka or this crate wrote.
    Formatted,
}

/// Looks without changing anything.
pub(super) fn inspect(storage: &dyn Storage, root: &Path) -> Result<Found> {
    let entries = match storage.list(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Empty),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(
                Error::new(ErrorKind::InvalidArgument, "there is a file where the directory should be").path(root)
            );
        }
        listed => listed.map_err(|e| Error::io("cannot list the directory", root, e))?,
    };
    if entries.iter().any(|e| e.name == META_PROPERTIES && e.kind == EntryKind::File) {
        return Ok(Found::Formatted);
    }
    // A first open that was interrupted leaves these.
    let ours = |name: &str| {
        [LOCK, RESERVE, SYNCS].contains(&name) || name.strip_suffix(".tmp").is_some_and(|n| n == META_PROPERTIES)
    };
    match entries.iter().find(|e| !ours(&e.name)) {
        None => Ok(Found::Empty),
        Some(stranger) => {
            let what = match stranger.kind {
                EntryKind::Directory => "directory",
                _ => "file",
            };
            let mut dirs = entries.iter().filter(|e| e.kind == EntryKind::Directory);
            if let Some(kafkas) = dirs.find(|e| is_kafkas_dir(storage, root, &e.name)) {
                let message =
                    format!("half a copy: the directory holds Kafka's {:?} but no meta.properties", kafkas.name);
                return Err(Error::new(ErrorKind::InvalidArgument, message).path(root).remedy(
                    "restore meta.properties with the cluster.id, node.id and directory.id it had; nothing was changed",
                ));
            }
            let message = format!("the directory has no meta.properties but holds the {what} {:?}", stranger.name);
            Err(Error::new(ErrorKind::InvalidArgument, message)
                .path(root)
                .remedy("name an empty or new directory, or one that Kafka formatted; nothing was changed"))
        }
    }
}

/// A name and a number is what many directories are called: a partition's holds a log, too.
fn is_kafkas_dir(storage: &dyn Storage, root: &Path, name: &str) -> bool {
    let holds_log = || storage.list(&root.join(name)).is_ok_and(|found| found.iter().any(|e| e.name.ends_with(".log")));
    name.strip_suffix("-0") == Some(CLUSTER_METADATA) || (name::parse_partition_dir(name).is_some() && holds_log())
}

/// Makes the directory and what is missing above it, each name durable: also that of one which is there, as an open
/// that made it may have gone before that.
pub(super) fn create(storage: &dyn Storage, root: &Path) -> Result<()> {
    if root.as_os_str().is_empty() {
        return Ok(());
    }
    let parent = root.parent().filter(|p| !p.as_os_str().is_empty());
    let is_there = storage.metadata(root).is_ok();
    if !is_there {
        if let Some(parent) = parent {
            create(storage, parent)?;
        }
        match storage.create_dir(root) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|e| Error::io("cannot make the directory", root, e))?,
        }
    }
    let parent = parent.unwrap_or(Path::new("."));
    match storage.sync_dir(parent) {
        // Whoever made it had more rights than we have; or it was us, and the sync failed then.
        Err(e) if is_there && e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced.map_err(|e| Error::io("cannot sync the parent directory", parent, e)),
    }
}

/// Takes the clean-shutdown marker away, durably, before anything else is written: a stock broker that
/// finds it trusts every file. Answers whether it was there.
pub(super) fn consume_clean_shutdown(storage: &dyn Storage, root: &Path) -> Result<bool> {
    let path = root.join(CLEAN_SHUTDOWN);
    match storage.remove_file(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        removed => removed.map_err(|e| Error::io("cannot remove the clean-shutdown marker", &path, e))?,
    }
    storage.sync_dir(root).map_err(|e| Error::io("cannot sync the directory", root, e))?;
    Ok(true)
}

/// Says that all is synced, trimmed and checkpointed. `replace_file` syncs file and name.
pub(super) fn write_clean_shutdown(storage: &dyn Storage, root: &Path) -> Result<()> {
    replace_file(storage, &root.join(CLEAN_SHUTDOWN), br#"{"version":0,"brokerEpoch":-1}"#)
}

/// Kafka's own checkpoints. A malformed one counts as absent, as it does for Kafka. `clean`: the clean-shutdown
/// marker stood beside them.
pub(super) fn read_checkpoints(storage: &dyn Storage, root: &Path, clean: bool) -> Result<Checkpoints> {
    let read = |name: &str| -> Result<HashMap<TopicPartition, Offset>> {
        let bytes = read_file(storage, &root.join(name), CHECKPOINT_BYTES_MAX)?.unwrap_or_default();
        Ok(decode_offsets(&bytes).unwrap_or_default().into_iter().collect())
    };
    Ok(Checkpoints {
        log_start: read(LOG_STARTS)?,
        recovery_point: read(RECOVERY_POINTS)?,
        high_watermark: read(HIGH_WATERMARKS)?,
        clean,
    })
}

pub(super) fn write_checkpoint(
    storage: &dyn Storage,
    root: &Path,
    name: &str,
    offsets: &[(TopicPartition, Offset)],
) -> Result<()> {
    replace_file(storage, &root.join(name), encode_offsets(offsets).as_bytes())
}

/// Drops our own notes when another program had the directory since: it may have cut, cleaned or appended
/// to any log, and what we noted would then be taken for evidence against sound files. Answers whether one had.
/// It stays so until [`note_visit`].
pub(super) fn drop_stale_state(
    storage: &dyn Storage,
    root: &Path,
    catalog: &Catalog,
    findings: &Findings,
) -> Result<bool> {
    if read_stamp(storage, root)?.is_some_and(|(_, last)| catalog.goes_on_from(&last)) {
        return Ok(false);
    }
    let state = root.join(STATE_FILE);
    match storage.remove_file(&state) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        removed => {
            removed.map_err(|e| Error::io("cannot remove the stale state file", &state, e))?;
            storage.sync_dir(root).map_err(|e| Error::io("cannot sync the directory", root, e))?;
            let message = "another program wrote here since; what we had noted of the logs was dropped";
            findings.add(Finding::new(FindingKind::ForeignWriter, message).path(&state));
        }
    }
    Ok(true)
}

/// The version of `thalweg.epoch` and the stamp in it; `None` where there is none that can be read.
fn read_stamp(storage: &dyn Storage, root: &Path) -> Result<Option<(u32, String)>> {
    let Some(text) = read_note(storage, root, LAST_EPOCH)? else { return Ok(None) };
    let Some(rest) = text.strip_prefix("version: ") else { return Ok(Some((0, text.trim_end().to_owned()))) };
    let (version, stamp) = rest.split_once('\n').unwrap_or((rest, ""));
    let Ok(version) = version.parse() else { return Ok(None) };
    check_version(root, LAST_EPOCH, version, LAST_EPOCH_VERSION)?;
    Ok(Some((version, stamp.trim_end().to_owned())))
}

/// A small text of our own; `None` where there is none, or something else.
fn read_note(storage: &dyn Storage, root: &Path, name: &str) -> Result<Option<String>> {
    match read_file(storage, &root.join(name), NOTE_BYTES_MAX) {
        Err(e) if e.kind() == ErrorKind::TooLarge => Ok(None),
        read => Ok(read?.and_then(|bytes| String::from_utf8(bytes).ok())),
    }
}

fn check_version(root: &Path, name: &str, version: u32, newest: u32) -> Result<()> {
    if version <= newest {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, format!("{name} has version {version}, this release reads up to {newest}"))
        .path(root.join(name))
        .remedy("open the directory with the release that wrote it"))
}

/// Whether we were here before.
pub(super) fn was_visited(storage: &dyn Storage, root: &Path) -> bool {
    storage.metadata(&root.join(LAST_EPOCH)).is_ok()
}

/// Notes that the directory is ours as the catalog is now: after all that is done once because another program
/// had it, so that the next open does what a crash kept this one from.
pub(super) fn note_visit(storage: &dyn Storage, root: &Path, catalog: &Catalog) -> Result<()> {
    let now = catalog.stamp();
    match read_stamp(storage, root)?.is_some_and(|last| last == (LAST_EPOCH_VERSION, now.clone())) {
        true => Ok(()),
        false => replace_file(storage, &root.join(LAST_EPOCH), encode_stamp(&now).as_bytes()),
    }
}

fn encode_stamp(stamp: &str) -> String {
    format!("version: {LAST_EPOCH_VERSION}\n{stamp}\n")
}

/// A time that had passed when the directory was last in use, where that is known.
pub(super) fn read_time(storage: &dyn Storage, root: &Path) -> Result<Option<Timestamp>> {
    let text = read_note(storage, root, LAST_TIME)?.unwrap_or_default();
    let mut lines = text.lines();
    let Some(Ok(version)) = lines.next().map(str::parse) else { return Ok(None) };
    check_version(root, LAST_TIME, version, LAST_TIME_VERSION)?;
    Ok(lines.next().and_then(|line| line.parse().ok()).map(Timestamp::new))
}

pub(super) fn write_time(storage: &dyn Storage, root: &Path, time: Timestamp) -> Result<()> {
    replace_file(storage, &root.join(LAST_TIME), format!("{LAST_TIME_VERSION}\n{}\n", time.get()).as_bytes())
}

/// `<topic>-<partition>.<32 hex digits>-delete`.
pub(super) fn is_deleted_dir(name: &str) -> bool {
    let Some((partition, id)) = name.strip_suffix("-delete").and_then(|n| n.rsplit_once('.')) else { return false };
    let numbered = partition.rsplit_once('-').is_some_and(|(topic, n)| !topic.is_empty() && n.parse::<i32>().is_ok());
    numbered && id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Moves a partition's directory out of the way under Kafka's name for its kind, `-delete` or `-stray`.
/// The new name is cut to 255 bytes as Kafka does. `None` when there is no directory.
pub(super) fn set_aside(storage: &dyn Storage, dir: &Path, kind: &str) -> Result<Option<PathBuf>> {
    if storage.metadata(dir).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let hex: String = Uuid::random()?.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
    let suffix = format!(".{hex}-{kind}");
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let kept: String = name.chars().take(255 - suffix.len()).collect();
    let aside = dir.with_file_name(format!("{kept}{suffix}"));
    storage.rename(dir, &aside).map_err(|e| Error::io("cannot set a partition's directory aside", dir, e))?;
    Ok(Some(aside))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn only_kafkas_own_names_count_as_deleted() {
        let hex = "0123456789abcdef0123456789abcdef";
        assert!(is_deleted_dir(&format!("a.b-7.{hex}-delete")));
        for name in [&format!("a-7.{hex}-stray"), &format!("a.{hex}-delete"), "a-7.0123-delete", "to-delete", "a-7"] {
            assert!(!is_deleted_dir(name), "{name}");
        }
    }

    fn with_note(name: &str, bytes: &[u8]) -> MemoryStorage {
        let storage = MemoryStorage::new();
        replace_file(&storage, Path::new(name), bytes).unwrap();
        storage
    }

    /// What each version of these files looked like, for ever readable.
    #[test]
    fn golden_notes_of_all_versions_are_read() {
        let root = Path::new("");
        let epochs: [(u32, &[u8], &str); 3] = [
            (0, include_bytes!("../../tests/data/private/epoch-v0.txt"), "7"),
            (0, include_bytes!("../../tests/data/private/epoch-v0-directories.txt"), "directories 0a1b2c3d"),
            (1, include_bytes!("../../tests/data/private/epoch-v1.txt"), "7"),
        ];
        for (version, golden, stamp) in epochs {
            let found = read_stamp(&with_note(LAST_EPOCH, golden), root).unwrap();
            assert_eq!(found, Some((version, stamp.to_owned())));
        }
        assert_eq!(encode_stamp("7").as_bytes(), epochs[2].1);
        let golden = include_bytes!("../../tests/data/private/clock-v0.txt");
        let time = Timestamp::new(1_700_000_000_000);
        assert_eq!(read_time(&with_note(LAST_TIME, golden), root).unwrap(), Some(time));
        let written = MemoryStorage::new();
        write_time(&written, root, time).unwrap();
        assert_eq!(read_file(&written, Path::new(LAST_TIME), 100).unwrap().unwrap(), golden);
    }

    #[test]
    fn notes_of_a_later_release_are_refused_and_what_is_none_is_passed_over() {
        let root = Path::new("");
        let refused = [
            read_stamp(&with_note(LAST_EPOCH, b"version: 2\nsomething else\n"), root).unwrap_err(),
            read_time(&with_note(LAST_TIME, b"1\n2\n"), root).unwrap_err(),
        ];
        for (error, words) in refused.iter().zip(["version 2, this release reads up to 1", "version 1, this release"]) {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(words), "{error}");
        }
        for none in [&[0xff; 10][..], &[b'7'; 5000], b"version: x\n7\n"] {
            assert_eq!(read_stamp(&with_note(LAST_EPOCH, none), root).unwrap(), None);
            assert_eq!(read_time(&with_note(LAST_TIME, none), root).unwrap(), None);
        }
    }

    #[test]
    fn the_name_of_a_directory_is_durable_although_the_first_sync_of_it_failed() {
        use crate::testing::{Choice, Errno, Fault, Operation, Repeat, SimStorage};
        let disk = SimStorage::new();
        disk.add_fault(Fault::new(Errno::Io, Repeat::Once).on(Operation::SyncDir));
        create(&disk, Path::new("data")).unwrap_err();
        create(&disk, Path::new("data")).unwrap();
        disk.crash(Choice::Nothing).metadata(Path::new("data")).unwrap();
    }

    #[test]
    fn what_a_first_open_leaves_that_was_killed_is_an_empty_directory() {
        let storage = MemoryStorage::new();
        let root = Path::new("/data");
        create(&storage, root).unwrap();
        for name in [LOCK, RESERVE, SYNCS, "meta.properties.tmp"] {
            storage.open(&root.join(name), crate::storage::OpenMode::CreateNew).unwrap();
        }
        assert_eq!(inspect(&storage, root).unwrap(), Found::Empty);
    }

    #[test]
    fn a_strangers_directory_is_named_and_left_alone() {
        let storage = MemoryStorage::new();
        let root = Path::new("/data");
        create(&storage, root).unwrap();
        assert_eq!(inspect(&storage, root).unwrap(), Found::Empty);
        storage.create_dir(&root.join("photos")).unwrap();
        let error = inspect(&storage, root).unwrap_err();
        assert!(error.to_string().contains("\"photos\""), "{error}");
        assert_eq!(storage.list(root).unwrap().len(), 1);
    }
}

//! What recovery cuts off is kept aside: in a file of its own in the partition's directory, `BASE-POSITION.cut`, the
//! bytes as they lay in segment BASE from POSITION on. Kafka ignores such names. All of one partition are bounded, the
//! oldest go first; a disk that has no space for them does not keep a log from opening.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::segment::{FileKind, Segment, SegmentHome};
use crate::storage::OpenMode;

/// All that is kept of one partition, in bytes; of a larger cut its beginning.
const KEPT_BYTES_MAX: u64 = 64 << 20;
const SUFFIX: &str = ".cut";
const CHUNK_BYTES: usize = 64 << 10;

/// Copies what a segment holds at these positions, synced; answers where that is, and how many bytes were kept.
pub(super) fn keep(home: &SegmentHome, segment: &Segment, bytes: Range<u64>) -> io::Result<(PathBuf, u64)> {
    keep_within(KEPT_BYTES_MAX, home, segment, bytes)
}

fn keep_within(max: u64, home: &SegmentHome, segment: &Segment, bytes: Range<u64>) -> io::Result<(PathBuf, u64)> {
    let position = bytes.start;
    let path = home.dir.join(format!("{:020}-{position}{SUFFIX}", segment.base().get()));
    let len = (bytes.end - position).min(max);
    make_room(home, max - len, &path)?;
    let copied = copy(home, segment, position, len, &path);
    if copied.is_err() {
        // Half of it is of no use, and the space may be needed.
        match home.storage.remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    copied.map(|()| (path, len))
}

fn copy(home: &SegmentHome, segment: &Segment, position: u64, len: u64, to: &Path) -> io::Result<()> {
    let from = home.storage.open(&segment.path(FileKind::Log), OpenMode::Read)?;
    let to = home.storage.open(to, OpenMode::CreateIfAbsent)?;
    let (mut chunk, mut at) = (vec![0; CHUNK_BYTES], 0);
    while at < len {
        let part = usize::try_from(len - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        from.read_exact_at(&mut chunk[..part], position + at)?;
        to.write_all_at(&chunk[..part], at)?;
        at += part as u64;
    }
    to.set_len(len)?;
    to.sync_data()?;
    home.storage.sync_dir(&home.dir)
}

/// Removes the oldest until the others but `path`, which is written anew, take up no more than `max` bytes.
fn make_room(home: &SegmentHome, max: u64, path: &Path) -> io::Result<()> {
    let mut kept = Vec::new();
    for entry in home.storage.list(&home.dir)?.into_iter().filter(|entry| entry.name.ends_with(SUFFIX)) {
        let other = home.dir.join(&entry.name);
        if other != path {
            let found = home.storage.metadata(&other)?;
            kept.push((found.modified, other, found.len));
        }
    }
    kept.sort();
    let mut total: u64 = kept.iter().map(|(_, _, len)| len).sum();
    for (_, other, freed) in kept {
        if total <= max {
            break;
        }
        home.storage.remove_file(&other)?;
        total -= freed;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::finding::Findings;
    use crate::segment::{BufferPool, IndexSizes};
    use crate::storage::MemoryStorage;
    use crate::types::{Offset, ReadMode, TopicPartition, Verify};

    #[test]
    fn what_is_kept_of_a_partition_is_bounded_and_the_oldest_goes_first() {
        let storage = Arc::new(MemoryStorage::default());
        let home = SegmentHome {
            dir: Path::new("").into(),
            storage: Arc::clone(&storage) as _,
            buffers: BufferPool::default(),
            compacted: false,
            findings: Arc::<Findings>::default(),
            partition: TopicPartition::new("t", 0),
            read_mode: ReadMode::Copied,
            verify: Verify::EveryRead,
        };
        let sizes = IndexSizes { interval: 4096, max: 4096 };
        let segment = Segment::existing(home.clone(), Offset::new(7), sizes, 100);
        let file = home.storage.open(&segment.path(FileKind::Log), OpenMode::CreateNew).unwrap();
        file.write_all_at(&std::array::from_fn::<u8, 100, _>(|n| n as u8), 0).unwrap();
        let keep = |position| keep_within(60, &home, &segment, position..100).unwrap();
        let kept = || {
            let mut names: Vec<_> = home.storage.list(&home.dir).unwrap().into_iter().map(|e| e.name).collect();
            names.retain(|name| name.ends_with(SUFFIX));
            names.sort();
            names
        };
        let (path, len) = keep(70);
        assert_eq!((path.to_str(), len), (Some("00000000000000000007-70.cut"), 30));
        assert_eq!(crate::storage::read_file(&*storage, &path, 100).unwrap().unwrap(), (70..100).collect::<Vec<u8>>());
        // The same again takes the place of itself.
        keep(70);
        keep(80);
        assert_eq!(kept(), ["00000000000000000007-70.cut", "00000000000000000007-80.cut"]);
        keep(75);
        assert_eq!(kept(), ["00000000000000000007-75.cut", "00000000000000000007-80.cut"]);
        assert_eq!(keep(0).1, 60, "the beginning of what is too much");
        assert_eq!(kept(), ["00000000000000000007-0.cut"]);
    }
}

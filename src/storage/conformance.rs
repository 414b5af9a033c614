//! What every [`Storage`] must do, as one function that panics where it does not.
//!
//! Not its job: durability, which needs a disk that can be cut off, and speed.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use super::{EntryKind, File, OpenMode, Storage};

/// Runs the whole suite over storages that `make` gives, each with an empty directory to work in.
///
/// ```
/// use std::sync::Arc;
/// use thalweg::{MemoryStorage, storage_conformance};
/// storage_conformance(&|| (Arc::new(MemoryStorage::new()), "/".into()));
/// ```
///
/// # Panics
///
/// At the first thing that the storage does otherwise than the contract of [`Storage`] and [`File`] says.
pub fn storage_conformance(make: &dyn Fn() -> (Arc<dyn Storage>, PathBuf)) {
    type Case = fn(&dyn Storage, &Path) -> io::Result<()>;
    let cases: [(&str, Case); 13] = [
        ("open modes", open_modes),
        ("positioned reads and writes", positioned),
        ("large and vectored writes", large_and_vectored),
        ("length", length),
        ("allocate", allocate),
        ("map", map),
        ("directories", directories),
        ("rename of files", rename_files),
        ("rename of directories", rename_directories),
        ("handles outlive names", handles_outlive_names),
        ("removal", removal),
        ("sync", sync),
        ("lock", lock),
    ];
    for (name, case) in cases {
        let (storage, directory) = make();
        if let Err(e) = case(&*storage, &directory) {
            panic!("{name}: {e:?} from {storage:?}");
        }
    }
    let (storage, directory) = make();
    readers_beside_a_writer(&*storage, &directory);
}

fn create(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> io::Result<Arc<dyn File>> {
    let file = storage.open(path, OpenMode::CreateNew)?;
    file.write_all_at(bytes, 0)?;
    Ok(file)
}

fn content(file: &dyn File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.len()?.try_into().expect("test files are small")];
    file.read_exact_at(&mut bytes, 0)?;
    assert_eq!(file.read_at(&mut [0], bytes.len() as u64)?, 0, "reads past the end");
    Ok(bytes)
}

fn read(storage: &dyn Storage, path: &Path) -> io::Result<Vec<u8>> {
    content(&*storage.open(path, OpenMode::Read)?)
}

#[track_caller]
fn fails<T>(result: io::Result<T>, kind: io::ErrorKind) {
    match result {
        Ok(_) => panic!("succeeded where {kind:?} was due"),
        Err(e) => assert_eq!(e.kind(), kind, "{e}"),
    }
}

fn open_modes(storage: &dyn Storage, directory: &Path) -> io::Result<()> {
    let path = directory.join("file");
    fails(storage.open(&path, OpenMode::Read), io::ErrorKind::NotFound);
    fails(storage.open(&path, OpenMode::Write), io::ErrorKind::NotFound);
    fails(storage.metadata(&path), io::ErrorKind::NotFound);
    fails(storage.open(&path.join("below"), OpenMode::CreateNew), io::ErrorKind::NotFound);
    create(storage, &path, b"kept")?;
    fails(storage.open(&path, OpenMode::CreateNew), io::ErrorKind::AlreadyExists);
    fails(storage.open(&path.join("below"), OpenMode::CreateNew), io::ErrorKind::NotADirectory);
    for mode in [OpenMode::Read, OpenMode::Write, OpenMode::CreateIfAbsent] {
        assert_eq!(content(&*storage.open(&path, mode)?)?, b"kept", "{mode:?}");
        fails(storage.open(directory, mode), io::ErrorKind::IsADirectory);
    }
    let reader = storage.open(&path, OpenMode::Read)?;
    assert!(reader.write_at(b"x", 0).is_err(), "wrote through a handle for reading");
    assert!(reader.set_len(0).is_err(), "cut through a handle for reading");
    storage.open(&path, OpenMode::Write)?.write_all_at(b"K", 0)?;
    assert!(reader.write_at(b"x", 0).is_err(), "wrote through a handle for reading");
    assert_eq!(content(&*reader)?, b"Kept", "one handle does not see another's write");
    let made = storage.open(&directory.join("made"), OpenMode::CreateIfAbsent)?;
    made.write_all_at(b"x", 0)?;
    assert_eq!(made.len()?, 1);
    Ok(())
}

fn positioned(storage: &dyn Storage, directory: &Path) -> io::Result<()> {
    let file = create(storage, &directory.join("file"), b"0123456789")?;
    file.write_all_at(b"ab", 4)?;
    assert_eq!(content(&*file)?, b"0123ab6789");
    file.write_all_at(b"z", 12)?;
    assert_eq!(content(&*file)?, b"0123ab6789\0\0z", "a gap reads as zeros");
    let mut three = [0; 3];
    file.read_exact_at(&mut three, 3)?;
    assert_eq!(&three, b"3ab");
    assert_eq!(file.read_at(&mut three, 12)?, 1, "a read over the end gives what there is");
    assert_eq!(file.read_at(&mut three, 1 << 40)?, 0);
    assert_eq!(file.read_at(&mut [], 0)?, 0);
    fails(file.read_exact_at(&mut three, 11), io::ErrorKind::UnexpectedEof);
    assert_eq!(file.write_at(&[], 100)?, 0);
    assert_eq!(file.len()?, 13, "writing nothing extends nothing");
    Ok(())
}

fn large_and_vectored(storage: &dyn Storage, directory: &Path) -> io::Result<()> {
    let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    let whole = create(storage, &directory.join("whole"), b"")?;
    whole.write_all_at(&bytes, 7)?;
    assert_eq!(content(&*whole)?[7..], bytes);
    // More slices than one call takes, empty ones among them.
    let pieces = storage.open(&directory.join("pieces"), OpenMode::CreateNew)?;
    let mut slices: Vec<IoSlice<'_>> =
        bytes.chunks(100).flat_map(|chunk| [IoSlice::new(chunk), IoSlice::new(&[])]).collect();
    pieces.write_all_vectored_at(&mut slices, 65_500)?;
    assert_eq!(content(&*pieces)?[65_500..], bytes);
    assert!(content(&*pieces)?[..65_500].iter().all(|&b| b == 0));
    // More bytes than one call takes: of one slice, and of several.
    let large = bytes.repeat(4);
    let slices = [&large[..5], &large[5..1_100_005], &large[1_100_005..1_150_000], &large[1_150_000..], &large];
    pieces.write_all_vectored_at(&mut slices.map(IoSlice::new), 0)?;
    assert!(content(&*pieces)? == large.repeat(2));
    pieces.write_all_vectored_at(&mut [], 0)?;
    assert_eq!(pieces.write_vectored_at(&[IoSlice::new(b"")], 0)?, 0);
    Ok(())
}

fn length(storage: &dyn Storage, directory: &Path) -> io::Result<()> {
    let path = directory.join("file");
    let file = create(storage, &path, &[7; 200_000])?;
    file.set_len(100_000)?;
    assert_eq!(storage.metadata(&path)?.len, 100_000);
    file.set_len(150_000)?;
    assert_eq!(content(&*file)?, [[7; 100_000].as_slice(), &[0; 50_000]].concat(), "cut bytes came back");
    file.set_len(0)?;
    assert_eq!(content(&*file)?, b"");
    Ok(())
}

fn allocate(storage: &dyn Storage, directory: &Path) -> io::Result<()> {
    let file = create(storage, &directory.join("file"), b"abc")?;
    match file.allocate(0, 1 << 20) {
        Err(e) => assert_eq!(e.kind(), io::ErrorKind::Unsupported),
        Ok(()) => file.allocate(1 << 20, 0)?,
    }
    assert_eq!(content(&*file)?, b"abc", "allocation is not length");
    Ok(())
}

fn map(storage: &dyn Storage, directory: &Path) -> io::Result<()> {
    let file = create(storage, &directory.join("file"), b"mapped bytes")?;
    let map = file.map(6)?;
    let empty = file.map(0)?;
    let mut seen = [0; 6];
    file.read_exact_at(&mut seen, 0)?;
    assert_eq!((*map).as_ref(), seen, "a map is what a read brings");
    for within in [0..6, 3..6, 2..2, 6..6] {
        map.populate(within)?;
    }
    empty.populate(0..0)?;
    fails(map.populate(5..7), io::ErrorKind::InvalidInput);
    fails(empty.populate(0..1), io::ErrorKind::InvalidInput);
    fails(file.map(13), io::ErrorKind::UnexpectedEof);
    drop(file);
    storage.remove_file(&directory.join("file"))?;
    assert_eq!((*map).as_ref(), b"mapped", "a map outlives handle and name");
    assert_eq!((*empty).as_ref(), b"");
    Ok(())
}

fn directories(storage: &dyn Storage, directory: &Path) -> io::Result<()> {
    let below = directory.join("orders-0");
    fails(storage.list(&below), io::ErrorKind::NotFound);
    fails(storage.create_dir(&below.join("deep")), io::ErrorKind::NotFound);
    storage.create_dir(&below)?;
    fails(storage.create_dir(&below), io::ErrorKind::AlreadyExists);
    create(storage, &below.join("00000000000000000000.log"), b"12345")?;
    create(storage, &directory.join("meta.properties"), b"")?;
    fails(storage.create_dir(&directory.join("meta.properties")), io::ErrorKind::AlreadyExists);
    fails(storage.list(&directory.join("meta.properties")), io::ErrorKind::NotADirectory);

    let mut names = storage.list(directory)?;
    names.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<_> = names.iter().map(|entry| (entry.name.as_str(), entry.kind)).collect();
    assert_eq!(names, [("meta.properties", EntryKind::File), ("orders-0", EntryKind::Directory)]);
    let metadata = storage.metadata(&below)?;
    assert_eq!((metadata.kind, metadata.len), (EntryKind::Directory, 0));
    let metadata = storage.metadata(&below.join("00000000000000000000.log"))?;
    assert_eq!((metadata.kind, metadata.len), (EntryKind::File, 5));
    Ok(())
}

fn rename_files(storage: &dyn Storage, directory: &Path) -> io::Result<()> {
    let [a, b, below] = ["a", "b", "below"].map(|name| directory.join(name));
    fails(storage.rename(&a, &b), io::ErrorKind::NotFound);
    let first = create(storage, &a, b"first")?;
    let second = create(storage, &b, b"second")?;
    storage.rename(&a, &b)?;
    fails(storage.metadata(&a), io::ErrorKind::NotFound);
    assert_eq!(read(storage, &b)?, b"first");
    assert_eq!(content(&*first)?, b"first");
    assert_eq!(content(&*second)?, b"second", "a replaced file lives as long as its handle");
    first.write_all_at(b"F", 0)?;
    assert_eq!(read(storage, &b)?, b"First", "a handle follows its file's new name");
    create(storage, &a, b"new")?;
    assert_eq!(content(&*first)?, b"First", "a handle does not follow the old name");
    storage.rename(&b, &b)?;
    assert_eq!(read(storage, &b)?, b"First");
    storage.create_dir(&below)?;
    fails(storage.rename(&a, &below), io::ErrorKind::IsADirectory);
    fails(storage.rename(&a, &directory.join("absent").join("a")), io::ErrorKind::NotFound);
    storage.rename(&a, &below.join("a"))?;
    assert_eq!(read(storage, &below.join("a"))?, b"new");
    Ok(())
}

fn rename_directories(storage: &dyn Storage, directory: &Path) -> io::Result<()> {
    let [old, new, other, file] = ["old", "new", "other", "file"].map(|name| directory.join(name));
    storage.create_dir(&old)?;
    storage.create_dir(&old.join("deep"))?;
    let handle = create(storage, &old.join("deep").join("log"), b"bytes")?;
    // A name that only begins alike must stay behind.
    let beside = create(storage, &directory.join("older"), b"beside")?;
    storage.create_dir(&other)?;
    create(storage, &other.join("occupant"), b"")?;
    create(storage, &file, b"")?;
    fails(storage.rename(&old, &other), io::ErrorKind::DirectoryNotEmpty);
    fails(storage.rename(&old, &file), io::ErrorKind::NotADirectory);
    fails(storage.rename(&old, &old.join("deep").join("itself")), io::ErrorKind::InvalidInput);
    storage.rename(&old, &new)?;
    fails(storage.list(&old), io::ErrorKind::NotFound);
    assert_eq!(read(storage, &new.join("deep").join("log"))?, b"bytes");
    handle.write_all_at(b"B", 0)?;
    assert_eq!(read(storage, &new.join("deep").join("log"))?, b"Bytes");
    assert_eq!(content(&*beside)?, b"beside");
    Ok(())
}

/// Many handles, so that a storage that closes some behind the scenes has to.
fn handles_outlive_names(storage: &dyn Storage, directory: &Path) -> io::Result<()> {
    let path = |i: usize| directory.join(format!("{i:020}.log"));
    let handles: Vec<_> =
        (0..24).map(|i| create(storage, &path(i), format!("file {i}").as_bytes())).collect::<io::Result<_>>()?;
    for i in (0..24).step_by(4) {
        storage.remove_file(&path(i))?;
        storage.rename(&path(i + 1), &directory.join(format!("{i}.deleted")))?;
        storage.rename(&path(i + 2), &path(i + 3))?;
    }
    for (i, handle) in handles.iter().enumerate() {
        assert_eq!(content(&**handle)?, format!("file {i}").as_bytes());
        handle.write_all_at(b"F", 0)?;
        handle.sync_data()?;
    }
    // A new file of a removed name is another file.
    let new = create(storage, &path(0), b"new")?;
    assert_eq!(content(&*new)?, b"new");
    assert_eq!(content(&*handles[0])?, b"File 0");
    Ok(())
}

fn removal(storage: &dyn Storage, directory: &Path) -> io::Result<()> {
    let [topic, file] = ["topic-0", "file"].map(|name| directory.join(name));
    fails(storage.remove_file(&file), io::ErrorKind::NotFound);
    fails(storage.remove_dir_all(&topic), io::ErrorKind::NotFound);
    storage.create_dir(&topic)?;
    storage.create_dir(&topic.join("deep"))?;
    let handle = create(storage, &topic.join("deep").join("log"), b"bytes")?;
    create(storage, &file, b"")?;
    assert!(storage.remove_file(&topic).is_err(), "removed a directory as a file");
    fails(storage.remove_dir_all(&file), io::ErrorKind::NotADirectory);
    storage.remove_dir_all(&topic)?;
    fails(storage.metadata(&topic), io::ErrorKind::NotFound);
    fails(storage.open(&topic.join("deep").join("log"), OpenMode::Read), io::ErrorKind::NotFound);
    assert_eq!(content(&*handle)?, b"bytes");
    storage.remove_file(&file)?;
    assert_eq!(storage.list(directory)?, []);
    Ok(())
}

fn sync(storage: &dyn Storage, directory: &Path) -> io::Result<()> {
    let path = directory.join("file");
    let file = create(storage, &path, b"bytes")?;
    file.sync_data()?;
    storage.sync_dir(directory)?;
    fails(storage.sync_dir(&directory.join("absent")), io::ErrorKind::NotFound);
    if let Err(e) = storage.sync_fs(directory) {
        assert_eq!(e.kind(), io::ErrorKind::Unsupported);
    }
    Ok(())
}

fn lock(storage: &dyn Storage, directory: &Path) -> io::Result<()> {
    let [path, other] = [".lock", "other.lock"].map(|name| directory.join(name));
    let held = storage.lock(&path, "pid 4711 on some host")?;
    for _ in 0..2 {
        let refused = storage.lock(&path, "me").expect_err("locked twice");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(refused.to_string().contains("pid 4711 on some host"), "does not name the holder: {refused}");
    }
    let _elsewhere = storage.lock(&other, "another file")?;
    drop(held);
    assert_eq!(storage.metadata(&path)?.kind, EntryKind::File, "the lock file stays");
    let _again = storage.lock(&path, "next")?;
    let refused = storage.lock(&path, "me").expect_err("locked twice").to_string();
    assert!(refused.contains("next") && !refused.contains("host"), "the old holder's text stayed: {refused}");

    let [shared, absent] = ["shared.lock", "absent.lock"].map(|name| directory.join(name));
    assert!(storage.lock_shared(&absent)?.is_none());
    fails(storage.metadata(&absent), io::ErrorKind::NotFound);
    drop(storage.lock(&shared, "once")?);
    let lookers = [storage.lock_shared(&shared)?, storage.lock_shared(&shared)?];
    for looker in lookers {
        assert!(looker.is_some(), "the file is there");
        fails(storage.lock(&shared, "me"), io::ErrorKind::WouldBlock);
        drop(looker);
    }
    assert_eq!(read(storage, &shared)?, b"once", "looking changed the file");
    let _alone = storage.lock(&shared, "me")?;
    fails(storage.lock_shared(&shared), io::ErrorKind::WouldBlock);
    Ok(())
}

/// A writer appends blocks of one byte value; readers must see whole written values, in order, never
/// anything else below the length that they asked for first.
fn readers_beside_a_writer(storage: &dyn Storage, directory: &Path) {
    const BLOCK: usize = 10_000;
    const BLOCKS: usize = 50;
    let file = create(storage, &directory.join("file"), b"").expect("create");
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut block = vec![0; BLOCK];
                for i in 0..BLOCKS {
                    let position = (i * BLOCK) as u64;
                    while file.len().expect("len") < position + BLOCK as u64 {
                        thread::yield_now();
                    }
                    file.read_exact_at(&mut block, position).expect("read");
                    assert!(block.iter().all(|&b| usize::from(b) == i + 1), "block {i} is not what was written");
                }
            });
        }
        for i in 0..BLOCKS {
            file.write_all_at(&vec![i as u8 + 1; BLOCK], (i * BLOCK) as u64).expect("write");
        }
    });
}

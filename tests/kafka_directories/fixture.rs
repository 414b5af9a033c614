//! The packed directories and their answers, and private copies to open or to damage.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use tempfile::TempDir;

use crate::answers::{Answers, TopicAnswer};

pub(crate) const NAMES: [&str; 6] = [
    "kafka-4.3.0-killed",
    "kafka-4.3.0-stopped",
    "kafka-4.3.0-tv0-killed",
    "kafka-4.3.0-tv0-stopped",
    "kafka-3.9.2-killed",
    "kafka-3.9.2-stopped",
];

pub(crate) struct Fixture {
    unpacked: TempDir,
    pub(crate) text: String,
    pub(crate) answers: Answers,
}

impl Fixture {
    pub(crate) fn load(name: &str) -> Fixture {
        let path = |ending: &str| format!("{}/tests/fixtures/{name}.{ending}", env!("CARGO_MANIFEST_DIR"));
        let unpacked = tempfile::tempdir().expect("a temporary directory");
        let packed = File::open(path("tar.gz")).unwrap_or_else(|e| panic!("{name}: {e}"));
        tar::Archive::new(GzDecoder::new(packed)).unpack(&unpacked).unwrap_or_else(|e| panic!("{name}: {e}"));
        let text = fs::read_to_string(path("expected")).unwrap_or_else(|e| panic!("{name}: {e}"));
        Fixture { unpacked, answers: Answers::parse(&text), text }
    }

    /// All topics but Kafka's own.
    pub(crate) fn visible_topics(&self) -> impl Iterator<Item = (&str, &TopicAnswer)> + Clone {
        let visible = self.answers.topics.iter().filter(|(name, _)| !name.starts_with("__"));
        visible.map(|(name, topic)| (name.as_str(), topic))
    }

    /// A copy of the directory, to be opened or damaged.
    pub(crate) fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a temporary directory");
        copy_all(self.unpacked.path(), copy.path());
        copy
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            fs::create_dir(&target).expect("a new directory");
            copy_all(&path, &target);
        } else {
            copy_with_hole(&path, &target);
        }
    }
}

/// A killed broker leaves indexes of 10 MiB that are all hole but for their first bytes.
fn copy_with_hole(from: &Path, to: &Path) {
    const HOLE: [u8; 4096] = [0; 4096];
    let bytes = fs::read(from).expect("a file");
    let blocks = bytes.chunks(HOLE.len()).rposition(|block| *block != HOLE[..block.len()]).map_or(0, |last| last + 1);
    let mut copy = File::create(to).expect("a new file");
    copy.write_all(&bytes[..bytes.len().min(blocks * HOLE.len())]).expect("space");
    copy.set_len(bytes.len() as u64).expect("space");
}

/// Every file and what is in it.
pub(crate) fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).expect("a file");
            all.insert(path, bytes);
        }
    }
    all
}

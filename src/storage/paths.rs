//! Maps by path: what lies below a directory, and where that goes with it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};

/// What of a map is at `path` or below it. Paths sort by component, so these stand together.
pub(super) fn at_or_below<T: Clone>(map: &BTreeMap<PathBuf, T>, path: &Path) -> Vec<(PathBuf, T)> {
    let from_there = map.range::<Path, _>((Bound::Included(path), Bound::Unbounded));
    from_there.take_while(|(below, _)| below.starts_with(path)).map(|(p, t)| (p.clone(), t.clone())).collect()
}

/// Where `path`, at `from` or below it, is once that is at `to`.
pub(super) fn moved(path: &Path, from: &Path, to: &Path) -> PathBuf {
    match path.strip_prefix(from) {
        Ok(below) if below.as_os_str().is_empty() => to.to_owned(),
        Ok(below) => to.join(below),
        Err(_) => path.to_owned(),
    }
}

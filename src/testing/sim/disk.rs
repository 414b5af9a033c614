//! The state of a simulated disk: what everybody sees, and what a power cut would leave of it.
//!
//! A value without locks, cheap to clone: pages are shared. Every change has a stamp; a sync forgets the stamps of
//! what it covers. Which changes survive a cut is asked of a [`Choice`](super::Choice). Not its job: counting
//! operations, handles and faults.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use super::choice::{Choice, Fate, Item};
use super::luck::Luck;
use crate::types::{Timestamp, all_of};

pub(super) const PAGE: usize = 4096;
pub(super) const SECTOR: usize = 512;
/// Of a page that is written again and again without a sync, this many versions may be found after a cut.
const VERSIONS_MAX: usize = 4;

pub(super) type Id = u64;
pub(super) type Page = Arc<[u8]>;

const ROOT: Id = 0;

all_of! {
    /// What a file has become after a sync of it failed. Each was seen on a real kernel or file system.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum AfterFailedSync {
        /// The unwritten pages count as clean and still show the new bytes (ext4, XFS): the next sync succeeds and
        /// writes none of them.
        KeepsNew,
        /// The unwritten pages are dropped: reads see the old bytes at once (btrfs).
        DropsToOld,
        /// Every later sync of the file fails as well.
        FailsAgain,
        /// Nothing is lost; a later sync writes it.
        StaysDirty,
    }
}

#[derive(Clone, Debug, Default)]
struct Content {
    /// What no page holds is zeros.
    pages: BTreeMap<u64, Page>,
    len: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct FileNode {
    live: Content,
    durable: Content,
    /// Versions of pages since the last sync, by stamp, the live one last.
    dirty: BTreeMap<u64, Vec<(u64, Page)>>,
    lens: Vec<(u64, u64)>,
    /// Pages that a failed sync left clean and unwritten.
    lost: BTreeSet<u64>,
    broken: bool,
    /// Bytes that count against the space of the disk.
    pub(super) stored: u64,
    modified: Timestamp,
}

#[derive(Clone, Debug, Default)]
struct DirectoryNode {
    live: BTreeMap<String, Id>,
    durable: BTreeMap<String, Id>,
    modified: Timestamp,
}

#[derive(Clone, Debug)]
enum Node {
    File(FileNode),
    Directory(DirectoryNode),
}

/// A name in a directory.
type Place = (Id, String);

/// A change of names that no `sync_dir` has covered.
#[derive(Clone, Debug)]
pub(super) struct Change {
    stamp: u64,
    node: Id,
    gone: Option<Place>,
    new: Option<Place>,
}

#[derive(Clone, Debug)]
pub(super) struct Disk {
    nodes: BTreeMap<Id, Arc<Node>>,
    next: Id,
    pending: Vec<Change>,
    stamp: u64,
    /// How many power cuts the disk has seen.
    pub(super) boot: u64,
    /// A sync that failed has taken what was cached, and nobody noted anything since.
    pub(super) has_dropped: bool,
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    File(Id),
    Directory(Id),
}

fn zeros() -> Page {
    Arc::from([0; PAGE].as_slice())
}

/// The pages that `len` bytes from `position` on touch, and the part of each: (page, from, to).
fn spans(position: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = position + len as u64;
    let mut at = position;
    std::iter::from_fn(move || {
        let (page, from) = (at / PAGE as u64, (at % PAGE as u64) as usize);
        let to = usize::try_from(end.saturating_sub(page * PAGE as u64)).unwrap_or(PAGE).min(PAGE);
        let more = at < end;
        at = (page + 1) * PAGE as u64;
        more.then_some((page, from, to))
    })
}

impl Content {
    fn read(&self, buf: &mut [u8], position: u64) -> usize {
        let n = buf.len().min(usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX));
        let mut done = 0;
        for (page, from, to) in spans(position, n) {
            let part = &mut buf[done..done + to - from];
            match self.pages.get(&page) {
                Some(bytes) => part.copy_from_slice(&bytes[from..to]),
                None => part.fill(0),
            }
            done += to - from;
        }
        n
    }
}

impl FileNode {
    fn put(&mut self, page: u64, bytes: Page, stamp: u64) {
        self.lost.remove(&page);
        let versions = self.dirty.entry(page).or_default();
        if versions.len() == VERSIONS_MAX {
            versions.remove(0);
        }
        versions.push((stamp, Arc::clone(&bytes)));
        self.live.pages.insert(page, bytes);
    }

    fn write(&mut self, bytes: &[u8], position: u64, stamp: u64, now: Timestamp) {
        let mut done = 0;
        for (page, from, to) in spans(position, bytes.len()) {
            let mut changed = self.live.pages.get(&page).map_or_else(|| vec![0; PAGE], |page| page.to_vec());
            changed[from..to].copy_from_slice(&bytes[done..done + to - from]);
            done += to - from;
            self.put(page, changed.into(), stamp);
        }
        let end = position + bytes.len() as u64;
        if end > self.live.len {
            self.live.len = end;
            self.lens.push((stamp, end));
        }
        self.stored = self.stored.max(end);
        self.modified = now;
    }

    fn set_len(&mut self, len: u64, stamp: u64, now: Timestamp) {
        if len < self.live.len {
            let (last, within) = (len / PAGE as u64, (len % PAGE as u64) as usize);
            for page in self.live.pages.range(last..).map(|(page, _)| *page).collect::<Vec<_>>() {
                let mut bytes = self.live.pages[&page].to_vec();
                bytes[if page == last { within } else { 0 }..].fill(0);
                self.put(page, bytes.into(), stamp);
                if page > last || within == 0 {
                    self.live.pages.remove(&page);
                }
            }
            self.stored = self.stored.min(len);
        }
        if len != self.live.len {
            self.live.len = len;
            self.lens.push((stamp, len));
        }
        self.modified = now;
    }

    fn sync(&mut self) {
        let mut durable = self.live.clone();
        for page in &self.lost {
            match self.durable.pages.get(page) {
                Some(old) => durable.pages.insert(*page, Arc::clone(old)),
                None => durable.pages.remove(page),
            };
        }
        self.durable = durable;
        self.dirty.clear();
        self.lens.clear();
    }

    fn fail_sync(&mut self, then: AfterFailedSync, luck: &mut Luck) {
        match then {
            AfterFailedSync::StaysDirty => return,
            AfterFailedSync::FailsAgain => {
                self.broken = true;
                return;
            }
            AfterFailedSync::KeepsNew | AfterFailedSync::DropsToOld => {}
        }
        for (page, versions) in std::mem::take(&mut self.dirty) {
            let newest = versions.last().map_or_else(zeros, |(_, bytes)| Arc::clone(bytes));
            if luck.smiles() {
                self.durable.pages.insert(page, newest);
            } else {
                self.lost.insert(page);
            }
        }
        if then == AfterFailedSync::DropsToOld {
            self.forget_cached();
        }
    }

    /// Reads of lost pages go to the disk from now on.
    fn forget_cached(&mut self) {
        for page in std::mem::take(&mut self.lost) {
            match self.durable.pages.get(&page) {
                Some(old) => self.live.pages.insert(page, Arc::clone(old)),
                None => self.live.pages.remove(&page),
            };
        }
    }

    /// The file as a cut leaves it.
    fn survivor(&self, mut fate: impl FnMut(Option<u64>) -> Fate) -> Self {
        let mut content = self.durable.clone();
        let lens: Vec<_> = self.lens.iter().map(|(stamp, len)| (*stamp, *len)).collect();
        if !lens.is_empty() {
            content.len = fate(None).pick(&lens).unwrap_or(content.len);
        }
        for (page, versions) in &self.dirty {
            let old = content.pages.get(page).cloned();
            let bytes = match fate(Some(*page)) {
                Fate::Zero => Some(spoilt(old.as_deref(), versions, &zeros())),
                Fate::Garbage(seed) => Some(spoilt(old.as_deref(), versions, &garbage(seed))),
                Fate::Torn(sectors) => Some(torn(old.as_deref(), versions.last().map(|(_, p)| &**p), sectors)),
                whole => whole.pick(versions).or(old),
            };
            match bytes {
                Some(bytes) => drop(content.pages.insert(*page, bytes)),
                None => drop(content.pages.remove(page)),
            }
        }
        // What lies behind the end is not there, also for one who extends the file later.
        let (last, within) = (content.len / PAGE as u64, (content.len % PAGE as u64) as usize);
        content.pages.split_off(&(last + 1));
        if let Some(bytes) = content.pages.get_mut(&last) {
            let mut cut = bytes.to_vec();
            cut[within..].fill(0);
            *bytes = cut.into();
        }
        Self {
            stored: content.len,
            live: content.clone(),
            durable: content,
            modified: self.modified,
            ..Self::default()
        }
    }
}

fn garbage(seed: u64) -> Page {
    let mut luck = Luck::new(seed);
    (0..PAGE / 8).flat_map(|_| luck.next().to_be_bytes()).collect::<Vec<_>>().into()
}

/// Other bytes where the page was written. Where it was not, it stays what it was, even within a sector: what SQLite
/// calls powersafe overwrite, and every current device gives.
fn spoilt(old: Option<&[u8]>, versions: &[(u64, Page)], filler: &[u8]) -> Page {
    let old = |at: usize| old.map_or(0, |old| old[at]);
    let written = |at: usize| versions.iter().any(|(_, version)| version[at] != old(at));
    (0..PAGE).map(|at| if written(at) { filler[at] } else { old(at) }).collect()
}

/// Sector by sector the old bytes or the new ones, as the bits say.
fn torn(old: Option<&[u8]>, new: Option<&[u8]>, sectors: u8) -> Page {
    let mut page = vec![0; PAGE];
    for (sector, part) in page.chunks_mut(SECTOR).enumerate() {
        let from = if sectors >> sector & 1 == 1 { new } else { old };
        if let Some(from) = from {
            part.copy_from_slice(&from[sector * SECTOR..(sector + 1) * SECTOR]);
        }
    }
    page.into()
}

impl Disk {
    pub(super) fn new(now: Timestamp) -> Self {
        let root = DirectoryNode { modified: now, ..DirectoryNode::default() };
        let nodes = BTreeMap::from([(ROOT, Arc::new(Node::Directory(root)))]);
        Self { nodes, next: ROOT + 1, pending: Vec::new(), stamp: 0, boot: 0, has_dropped: false }
    }

    fn tick(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    fn directory(&self, id: Id) -> io::Result<&DirectoryNode> {
        match self.nodes.get(&id).map(|node| &**node) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn directory_mut(&mut self, id: Id) -> io::Result<&mut DirectoryNode> {
        match self.nodes.get_mut(&id).map(Arc::make_mut) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn file(&self, id: Id) -> io::Result<&FileNode> {
        match self.nodes.get(&id).map(|node| &**node) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn file_mut(&mut self, id: Id) -> io::Result<&mut FileNode> {
        match self.nodes.get_mut(&id).map(Arc::make_mut) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn found(&self, id: Id) -> Found {
        match self.nodes.get(&id).map(|node| &**node) {
            Some(Node::Directory(_)) => Found::Directory(id),
            _ => Found::File(id),
        }
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<Found> {
        if names(path).is_empty() {
            return Ok(Found::Directory(ROOT));
        }
        let (parent, name) = self.place(path)?;
        self.directory(parent)?.live.get(&name).map(|id| self.found(*id)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The directory that holds a path's last name, and that name.
    fn place(&self, path: &Path) -> io::Result<Place> {
        let mut names = names(path);
        let name = names.pop().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the root has no name"))?;
        let parent = names.iter().try_fold(ROOT, |at, name| match self.directory(at)?.live.get(name) {
            Some(id) => self.directory(*id).map(|_| *id),
            None => Err(io::ErrorKind::NotFound.into()),
        })?;
        Ok((parent, name))
    }

    fn change(&mut self, node: Id, gone: Option<Place>, new: Option<Place>, now: Timestamp) -> io::Result<()> {
        if let Some((directory, name)) = &gone {
            let directory = self.directory_mut(*directory)?;
            directory.live.remove(name);
            directory.modified = now;
        }
        if let Some((directory, name)) = &new {
            let directory = self.directory_mut(*directory)?;
            directory.live.insert(name.clone(), node);
            directory.modified = now;
        }
        let stamp = self.tick();
        self.pending.push(Change { stamp, node, gone, new });
        Ok(())
    }

    fn create(&mut self, place: Place, node: Node, now: Timestamp) -> io::Result<Id> {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, Arc::new(node));
        self.change(id, None, Some(place), now)?;
        Ok(id)
    }

    pub(super) fn create_file(&mut self, path: &Path, now: Timestamp) -> io::Result<Id> {
        let place = self.place(path)?;
        self.create(place, Node::File(FileNode { modified: now, ..FileNode::default() }), now)
    }

    pub(super) fn create_dir(&mut self, path: &Path, now: Timestamp) -> io::Result<()> {
        match self.find(path) {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let place = self.place(path)?;
        self.create(place, Node::Directory(DirectoryNode { modified: now, ..DirectoryNode::default() }), now)?;
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, now: Timestamp) -> io::Result<()> {
        let moved = self.find(from)?;
        let (gone, new) = (self.place(from)?, self.place(to)?);
        if gone == new {
            return Ok(());
        }
        let is_directory = matches!(moved, Found::Directory(_));
        if is_directory && names(to).starts_with(&names(from)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a directory cannot move into itself"));
        }
        match self.find(to) {
            Ok(Found::Directory(_)) if !is_directory => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(Found::File(_)) if is_directory => return Err(io::ErrorKind::NotADirectory.into()),
            Ok(Found::Directory(id)) if !self.directory(id)?.live.is_empty() => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            _ => {}
        }
        let (Found::File(id) | Found::Directory(id)) = moved;
        self.change(id, Some(gone), Some(new), now)
    }

    pub(super) fn remove_file(&mut self, path: &Path, now: Timestamp) -> io::Result<()> {
        match self.find(path)? {
            Found::Directory(_) => Err(io::ErrorKind::IsADirectory.into()),
            Found::File(id) => {
                let place = self.place(path)?;
                self.change(id, Some(place), None, now)
            }
        }
    }

    /// One name after the other, as the real call does: a cut may leave some.
    pub(super) fn remove_dir_all(&mut self, path: &Path, now: Timestamp) -> io::Result<()> {
        let Found::Directory(id) = self.find(path)? else { return Err(io::ErrorKind::NotADirectory.into()) };
        for (name, child) in self.directory(id)?.live.clone() {
            let below = path.join(&name);
            match self.found(child) {
                Found::Directory(_) => self.remove_dir_all(&below, now)?,
                Found::File(_) => self.remove_file(&below, now)?,
            }
        }
        let place = self.place(path)?;
        self.change(id, Some(place), None, now)
    }

    /// The file's name goes, now and for a cut: somebody else took it.
    pub(super) fn vanish(&mut self, path: &Path) -> io::Result<()> {
        let (directory, name) = self.place(path)?;
        let Found::File(id) = self.find(path)? else { return Err(io::ErrorKind::IsADirectory.into()) };
        let directory = self.directory_mut(directory)?;
        directory.live.remove(&name);
        directory.durable.remove(&name);
        self.pending.retain(|change| change.node != id);
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<(String, Found)>> {
        let id = match self.find(path)? {
            Found::Directory(id) => id,
            Found::File(_) => return Err(io::ErrorKind::NotADirectory.into()),
        };
        Ok(self.directory(id)?.live.iter().map(|(name, id)| (name.clone(), self.found(*id))).collect())
    }

    pub(super) fn modified(&self, found: Found) -> io::Result<Timestamp> {
        match found {
            Found::File(id) => self.file(id).map(|file| file.modified),
            Found::Directory(id) => self.directory(id).map(|directory| directory.modified),
        }
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let Found::Directory(id) = self.find(path)? else { return Err(io::ErrorKind::NotADirectory.into()) };
        let is_here = |place: &Option<Place>| place.as_ref().is_some_and(|(directory, _)| *directory == id);
        let (here, elsewhere) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|change| is_here(&change.gone) || is_here(&change.new));
        self.pending = elsewhere;
        self.settle(here)
    }

    pub(super) fn sync_fs(&mut self) -> io::Result<()> {
        let changes = std::mem::take(&mut self.pending);
        self.settle(changes)?;
        for node in self.nodes.values_mut() {
            if let Node::File(file) = Arc::make_mut(node) {
                file.sync();
            }
        }
        Ok(())
    }

    /// Makes these changes of names durable.
    fn settle(&mut self, changes: Vec<Change>) -> io::Result<()> {
        for Change { node, gone, new, .. } in changes {
            if let Some((directory, name)) = gone {
                let names = &mut self.directory_mut(directory)?.durable;
                if names.get(&name) == Some(&node) {
                    names.remove(&name);
                }
            }
            if let Some((directory, name)) = new {
                self.directory_mut(directory)?.durable.insert(name, node);
            }
        }
        Ok(())
    }

    pub(super) fn read(&self, id: Id, buf: &mut [u8], position: u64) -> io::Result<usize> {
        Ok(self.file(id)?.live.read(buf, position))
    }

    pub(super) fn len(&self, id: Id) -> io::Result<u64> {
        Ok(self.file(id)?.live.len)
    }

    pub(super) fn write(&mut self, id: Id, bytes: &[u8], position: u64, now: Timestamp) -> io::Result<()> {
        let stamp = self.tick();
        self.file_mut(id)?.write(bytes, position, stamp, now);
        Ok(())
    }

    pub(super) fn set_len(&mut self, id: Id, len: u64, now: Timestamp) -> io::Result<()> {
        let stamp = self.tick();
        self.file_mut(id)?.set_len(len, stamp, now);
        Ok(())
    }

    /// Fails for a file whose sync has failed for good.
    pub(super) fn sync_data(&mut self, id: Id) -> io::Result<()> {
        let file = self.file_mut(id)?;
        if file.broken {
            return Err(io::Error::other("a sync of this file failed before"));
        }
        file.sync();
        Ok(())
    }

    pub(super) fn fail_sync(&mut self, id: Id, then: AfterFailedSync, luck: &mut Luck) -> io::Result<()> {
        self.file_mut(id)?.fail_sync(then, luck);
        self.has_dropped = then == AfterFailedSync::DropsToOld;
        Ok(())
    }

    pub(super) fn taken(&self, choice: Choice) -> Choice {
        if self.has_dropped && !choice.is_power_cut() { Choice::Nothing } else { choice }
    }

    /// Files whose syncs fail for good can be synced again.
    pub(super) fn mend(&mut self) {
        for node in self.nodes.values_mut() {
            if matches!(&**node, Node::File(file) if file.broken)
                && let Node::File(file) = Arc::make_mut(node)
            {
                file.broken = false;
            }
        }
    }

    pub(super) fn drop_caches(&mut self) {
        for node in self.nodes.values_mut() {
            if let Node::File(file) = Arc::make_mut(node) {
                file.forget_cached();
            }
        }
    }

    /// Changes one byte on the disk and in the cache, behind everybody's back.
    pub(super) fn spoil(&mut self, id: Id, position: u64, change: impl Fn(u8) -> u8) -> io::Result<()> {
        let (page, within) = (position / PAGE as u64, (position % PAGE as u64) as usize);
        let file = self.file_mut(id)?;
        let FileNode { live, durable, dirty, .. } = file;
        let versions = dirty.get_mut(&page).into_iter().flatten().map(|(_, bytes)| bytes);
        for bytes in versions.chain(live.pages.get_mut(&page)).chain(durable.pages.get_mut(&page)) {
            let mut spoilt = bytes.to_vec();
            spoilt[within] = change(spoilt[within]);
            *bytes = spoilt.into();
        }
        Ok(())
    }

    /// What a name leads to.
    fn named(&self) -> BTreeSet<Id> {
        let mut named = BTreeSet::from([ROOT]);
        let mut waiting = vec![ROOT];
        while let Some(directory) = waiting.pop() {
            for id in self.directory(directory).into_iter().flat_map(|directory| directory.live.values()) {
                if let Found::Directory(_) = self.found(*id) {
                    waiting.push(*id);
                }
                named.insert(*id);
            }
        }
        named
    }

    /// Bytes in files that have a name or are held open.
    pub(super) fn used(&self, held: impl Fn(Id) -> bool) -> u64 {
        let named = self.named();
        let counted = self.nodes.iter().filter(|(id, _)| named.contains(id) || held(**id));
        counted.map(|(_, node)| if let Node::File(file) = &**node { file.stored } else { 0 }).sum()
    }

    /// What a cut may take or leave, in a fixed order, with the stamps of each one's versions.
    pub(super) fn unsynced(&self) -> Vec<(Item, Vec<u64>)> {
        let mut named: BTreeSet<Id> = self.pending.iter().map(|change| change.node).collect();
        for node in self.nodes.values() {
            if let Node::Directory(directory) = &**node {
                named.extend(directory.durable.values());
            }
        }
        let mut items = Vec::new();
        for (id, node) in self.nodes.iter().filter(|(id, _)| named.contains(id)) {
            let Node::File(file) = &**node else { continue };
            if !file.lens.is_empty() {
                items.push((Item::Length(*id), file.lens.iter().map(|(stamp, _)| *stamp).collect()));
            }
            for (page, versions) in &file.dirty {
                items.push((Item::Page(*id, *page), versions.iter().map(|(stamp, _)| *stamp).collect()));
            }
        }
        items.extend(self.pending.iter().enumerate().map(|(index, change)| (Item::Name(index), vec![change.stamp])));
        items
    }

    /// The disk as a cut leaves it, all of it synced.
    pub(super) fn survivor(&self, fates: &BTreeMap<Item, Fate>) -> io::Result<Self> {
        let fate = |item: Item| fates.get(&item).copied().unwrap_or(Fate::Old);
        let mut left = self.clone();
        left.pending.clear();
        let kept = |(index, _): &(usize, &Change)| fate(Item::Name(*index)) != Fate::Old;
        left.settle(self.pending.iter().enumerate().filter(kept).map(|(_, change)| change.clone()).collect())?;
        for (id, node) in &mut left.nodes {
            match Arc::make_mut(node) {
                Node::Directory(directory) => directory.live = directory.durable.clone(),
                Node::File(file) => {
                    *file = file.survivor(|page| fate(page.map_or(Item::Length(*id), |page| Item::Page(*id, page))));
                }
            }
        }
        let named = left.named();
        left.nodes.retain(|id, _| named.contains(id));
        left.boot += 1;
        Ok(left)
    }
}

/// The names on the way from the root; `..` is resolved by name, as there are no links.
fn names(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(names.pop()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    names
}

//! What is kept of a sealed segment for its readers: a map of its file, and which batches were verified.
//!
//! Invariants: a view covers bytes that are written and synced, and never change until a truncation, which takes
//! the view away first ([`ViewSlot::take`]) and cuts no file that somebody still looks at through a map.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use crate::error::Result;
use crate::storage::Map;
use crate::types::Verify;

/// Segments that are viewed at a time.
const VIEWS_MAX: usize = 256;
/// Bytes of a map that are brought into memory at once, before they are first looked at.
const POPULATED_BYTES: usize = 256 << 10;
/// One batch that begins in a stretch of so many bytes is remembered as verified.
const VERIFIED_BYTES: u64 = 16 << 10;

/// The views of many segments: no more than [`VIEWS_MAX`] are kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Views(Arc<Mutex<VecDeque<Weak<ViewSlot>>>>);

impl Views {
    /// Notes that a slot was filled, and empties others if there are too many.
    fn enter(&self, slot: &Arc<ViewSlot>) {
        let mut ring = self.0.lock();
        ring.push_back(Arc::downgrade(slot));
        // Each gets a second chance, and one that is being filled is passed over.
        for _ in 0..2 * ring.len() {
            if ring.len() <= VIEWS_MAX {
                break;
            }
            let Some(oldest) = ring.pop_front() else { break };
            if oldest.upgrade().is_some_and(|slot| !slot.give_up()) {
                ring.push_back(oldest);
            }
        }
    }
}

/// A segment's place for its view.
#[derive(Debug, Default)]
pub(super) struct ViewSlot {
    view: RwLock<Option<Arc<View>>>,
    /// Looked at since [`Views`] last came by.
    used: AtomicBool,
    /// Maps of the file that are alive, readers' included.
    maps: Arc<()>,
}

impl ViewSlot {
    /// The view of a segment of `len` bytes, made with `map` when there is none. One that is shorter is from before a
    /// roll that was taken back, after which the segment grew, and is replaced.
    pub(super) fn view(
        self: &Arc<Self>,
        views: &Views,
        verify: Verify,
        len: u64,
        map: impl FnOnce() -> Result<Option<Box<dyn Map>>>,
    ) -> Result<Arc<View>> {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        if let Some(view) = self.view.read().as_ref().filter(|view| view.len == len) {
            return Ok(Arc::clone(view));
        }
        let mut held = self.view.write();
        if let Some(view) = held.as_ref().filter(|view| view.len == len) {
            return Ok(Arc::clone(view));
        }
        let map = map()?;
        let verified = match verify {
            Verify::Once => (0..len.div_ceil(VERIFIED_BYTES)).map(|_| AtomicU16::new(0)).collect(),
            Verify::EveryRead => Box::default(),
        };
        let map = map.map(|map| Mapped::new(map, Arc::clone(&self.maps)));
        let view = Arc::new(View { len, map, verified });
        *held = Some(Arc::clone(&view));
        drop(held);
        views.enter(self);
        Ok(view)
    }

    /// Drops the view unless it is in use; `false` when it was used since the last call, or is being filled.
    fn give_up(&self) -> bool {
        if self.used.swap(false, Ordering::Relaxed) {
            return false;
        }
        self.view.try_write().is_some_and(|mut view| {
            *view = None;
            true
        })
    }

    /// Takes the view away, and keeps it away for as long as the answer lives.
    pub(super) fn take(&self) -> Taken<'_> {
        let mut view = self.view.write();
        *view = None;
        Taken { slot: self, _none: view }
    }

    /// Whether a map of the file is alive.
    pub(super) fn is_mapped(&self) -> bool {
        Arc::strong_count(&self.maps) > 1
    }
}

/// No view is made while this lives.
pub(super) struct Taken<'a> {
    slot: &'a ViewSlot,
    _none: RwLockWriteGuard<'a, Option<Arc<View>>>,
}

impl Taken<'_> {
    /// Whether a reader still looks at the file through a map.
    pub(super) fn is_held(&self) -> bool {
        self.slot.is_mapped()
    }
}

/// What is kept of one segment.
#[derive(Debug)]
pub(super) struct View {
    /// Of the segment, in bytes.
    len: u64,
    map: Option<Mapped>,
    /// For each stretch, how far into it the batch begins that was verified last, plus one. Empty when every read
    /// verifies.
    verified: Box<[AtomicU16]>,
}

impl View {
    /// The bytes at `range`, which share the map; `None` where there is no map.
    pub(super) fn bytes(&self, position: u64, len: usize) -> Option<io::Result<Bytes>> {
        let map = self.map.as_ref()?;
        let begin = usize::try_from(position).unwrap_or(usize::MAX);
        Some(map.bytes(begin..begin.saturating_add(len)))
    }

    /// Whether the batch that begins at `position` was verified before.
    pub(super) fn was_verified(&self, position: u64) -> bool {
        self.mark(position).is_some_and(|(mark, place)| mark.load(Ordering::Relaxed) == place)
    }

    pub(super) fn note_verified(&self, position: u64) {
        if let Some((mark, place)) = self.mark(position) {
            mark.store(place, Ordering::Relaxed);
        }
    }

    fn mark(&self, position: u64) -> Option<(&AtomicU16, u16)> {
        let stretch = usize::try_from(position / VERIFIED_BYTES).ok()?;
        Some((self.verified.get(stretch)?, (position % VERIFIED_BYTES) as u16 + 1))
    }
}

/// A map, and which parts of it were brought into memory.
#[derive(Debug)]
struct Mapped {
    owner: Arc<Owner>,
    /// All of the map.
    bytes: Bytes,
    populated: Box<[AtomicU64]>,
}

/// Keeps a map alive, and counted.
#[derive(Debug)]
struct Owner {
    map: Box<dyn Map>,
    _counted: Arc<()>,
}

/// What [`Bytes`] hold on to.
struct Shared(Arc<Owner>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        (*self.0.map).as_ref()
    }
}

impl Mapped {
    fn new(map: Box<dyn Map>, counted: Arc<()>) -> Self {
        let owner = Arc::new(Owner { map, _counted: counted });
        let bytes = Bytes::from_owner(Shared(Arc::clone(&owner)));
        let words = bytes.len().div_ceil(POPULATED_BYTES).div_ceil(64);
        Self { owner, bytes, populated: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    fn bytes(&self, range: Range<usize>) -> io::Result<Bytes> {
        if range.end > self.bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for part in range.start / POPULATED_BYTES..range.end.div_ceil(POPULATED_BYTES) {
            let (word, bit) = (&self.populated[part / 64], 1 << (part % 64));
            if word.load(Ordering::Relaxed) & bit == 0 {
                let end = ((part + 1) * POPULATED_BYTES).min(self.bytes.len());
                self.owner.map.populate(part * POPULATED_BYTES..end)?;
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(self.bytes.slice(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Counted {
        bytes: Vec<u8>,
        _alive: Arc<()>,
    }

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    impl Map for Counted {}

    fn fill(slot: &Arc<ViewSlot>, views: &Views, alive: &Arc<()>) -> Arc<View> {
        let map = Counted { bytes: vec![7; 10], _alive: Arc::clone(alive) };
        slot.view(views, Verify::EveryRead, 10, || Ok(Some(Box::new(map)))).unwrap()
    }

    #[test]
    fn so_many_maps_are_kept_besides_those_that_are_held() {
        let (views, alive) = (Views::default(), Arc::new(()));
        let slots: Vec<Arc<ViewSlot>> = (0..3 * VIEWS_MAX).map(|_| Arc::default()).collect();
        let held: Vec<_> =
            slots[..5].iter().map(|slot| fill(slot, &views, &alive).bytes(2, 3).unwrap().unwrap()).collect();
        for slot in slots.iter().chain(&slots[5..50]) {
            fill(slot, &views, &alive);
            assert!(Arc::strong_count(&alive) - 1 <= VIEWS_MAX + held.len());
        }
        assert!(Arc::strong_count(&alive) > VIEWS_MAX);
        assert!(held.iter().all(|bytes| bytes == &[7; 3][..]));
        // One that is in use all the time stays.
        for slot in &slots[50..] {
            fill(&slots[49], &views, &alive);
            fill(slot, &views, &alive);
            assert!(slots[49].view.read().is_some());
        }
        drop((slots, held));
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn a_map_is_held_by_bytes_alone() {
        let (views, slot) = (Views::default(), Arc::<ViewSlot>::default());
        let bytes = fill(&slot, &views, &Arc::default()).bytes(0, 1).unwrap().unwrap();
        assert!(slot.take().is_held());
        drop(bytes);
        assert!(!slot.take().is_held());
        let view = fill(&slot, &views, &Arc::default());
        view.bytes(8, 3).unwrap().unwrap_err();
        assert!(slot.take().is_held(), "a reader is about to take bytes of it");
    }

    #[test]
    fn a_segment_that_grew_is_viewed_anew() {
        let (views, slot) = (Views::default(), Arc::<ViewSlot>::default());
        let before = fill(&slot, &views, &Arc::default());
        let map = Counted { bytes: vec![8; 20], _alive: Arc::default() };
        let after = slot.view(&views, Verify::EveryRead, 20, || Ok(Some(Box::new(map)))).unwrap();
        assert_eq!(after.bytes(15, 5).unwrap().unwrap(), [8; 5][..]);
        assert_eq!(before.bytes(5, 5).unwrap().unwrap(), [7; 5][..]);
    }

    #[test]
    fn no_batch_is_taken_for_another_that_was_verified() {
        let slot = Arc::<ViewSlot>::default();
        let view = slot.view(&Views::default(), Verify::Once, 100_000, || Ok(None)).unwrap();
        for position in [0, 61, VERIFIED_BYTES - 1, VERIFIED_BYTES, 99_999, 100_000_000] {
            assert!(!view.was_verified(position), "{position}");
            view.note_verified(position);
            assert_eq!(view.was_verified(position), position < 100_000, "{position}");
        }
        assert!(!view.was_verified(0), "another batch of its stretch came later");
    }
}

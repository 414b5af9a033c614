//! How a call waits for room: it blocks, or gives up for now and is woken.

use super::accumulator::Accumulator;
use super::lane::Lane;
use super::memory::Share;
use crate::error::{Error, Result};

/// What a call does that finds no room.
pub(super) trait Wait {
    /// Why it gave up.
    type Refusal: From<Error>;

    /// Waits where a byte budget makes appends wait and has no room for so many.
    fn for_room(&mut self, lane: &Lane, bytes: usize) -> Result<(), Self::Refusal>;

    /// Waits until there is memory for the batch of a record of so many bytes.
    fn for_memory(&mut self, accumulator: &Accumulator, lane: &Lane, bytes: usize) -> Result<Share, Self::Refusal>;

    /// Whether the record is not going to be taken.
    fn is_failure(refusal: &Self::Refusal) -> bool;
}

pub(super) struct Blocking;

impl Wait for Blocking {
    type Refusal = Error;

    #[inline]
    fn for_room(&mut self, lane: &Lane, bytes: usize) -> Result<()> {
        lane.partition.wait_for_room(bytes as u64)
    }

    fn for_memory(&mut self, accumulator: &Accumulator, lane: &Lane, bytes: usize) -> Result<Share> {
        accumulator.take_memory(lane, bytes)
    }

    fn is_failure(_: &Error) -> bool {
        true
    }
}

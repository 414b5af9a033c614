//! A tail for tasks: the same reader as a stream.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::reader::{Tail, TailWaker};
use super::record::OwnedRecord;
use crate::error::Result;

/// A [`Tail`] as a [`Stream`]: while there is no record no thread waits. It needs no particular runtime; files are read
/// on the thread that polls it.
///
/// **Cancel safe**: it keeps the position itself and moves it when it yields, so a future of its next record may be
/// dropped and loses none.
#[must_use = "a stream reads nothing until it is polled"]
pub struct TailStream(Tail);

impl Tail {
    /// The tail as a stream, which goes on where this is. By itself a tail is an iterator only, so that `next` and
    /// `map` mean one thing.
    pub fn into_stream(self) -> TailStream {
        TailStream(self)
    }
}

impl TailStream {
    /// A handle that interrupts or ends the stream, as [`Tail::waker`].
    #[must_use]
    pub fn waker(&self) -> TailWaker {
        self.0.waker()
    }
}

impl Stream for TailStream {
    type Item = Result<OwnedRecord>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_look(cx)
    }
}

impl fmt::Debug for TailStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TailStream").field(&self.0).finish()
    }
}

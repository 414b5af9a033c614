//! A cursor over bytes that somebody else wrote.

use crate::error::{Error, ErrorKind, Result};
use crate::types::Uuid;
use crate::wire::varint;

/// Reads fields one after another. Every method answers [`ErrorKind::Corrupt`] with the field's type
/// and position when the bytes do not hold what was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

/// Reads one big-endian integer per method.
macro_rules! fixed {
    ($($name:ident -> $type:ty),* $(,)?) => {
        $(pub(crate) fn $name(&mut self) -> Result<$type> {
            let bytes = self.array(stringify!($type))?;
            Ok(<$type>::from_be_bytes(bytes))
        })*
    };
}

#[cfg_attr(
    not(all(feature = "snappy", feature = "lz4", feature = "zstd")),
    allow(dead_code, reason = "some methods serve the framing of one codec only")
)]
impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// How many bytes are left.
    pub(crate) const fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// How many bytes were read.
    pub(crate) const fn position(&self) -> usize {
        self.position
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        self.take_for(count, "bytes")
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let rest = self.peek();
        self.position = self.bytes.len();
        rest
    }

    fixed!(i8 -> i8, i16 -> i16, i32 -> i32, i64 -> i64, u32 -> u32);

    /// Zero is false, anything else true.
    pub(crate) fn bool(&mut self) -> Result<bool> {
        Ok(self.i8()? != 0)
    }

    /// An unsigned number of at most five bytes.
    pub(crate) fn uvarint(&mut self) -> Result<u32> {
        self.variable("unsigned varint", varint::read32)
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid> {
        self.array("uuid").map(Uuid::from_bytes)
    }

    pub(crate) fn string(&mut self) -> Result<&'a str> {
        let start = self.position;
        self.nullable_string()?.ok_or_else(|| damaged("a string", start, "is null where null is not allowed"))
    }

    /// Length as i16, -1 for null.
    pub(crate) fn nullable_string(&mut self) -> Result<Option<&'a str>> {
        let start = self.position;
        let length = i32::from(self.i16()?);
        let bytes = self.announced("a string", start, length)?;
        bytes.map(|b| text(b, start)).transpose()
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let start = self.position;
        self.nullable_bytes()?.ok_or_else(|| damaged("a byte field", start, "is null where null is not allowed"))
    }

    /// Length as i32, -1 for null.
    pub(crate) fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>> {
        let start = self.position;
        let length = self.i32()?;
        self.announced("a byte field", start, length)
    }

    pub(crate) fn compact_string(&mut self) -> Result<&'a str> {
        let start = self.position;
        self.compact_nullable_string()?.ok_or_else(|| damaged("a string", start, "is null where null is not allowed"))
    }

    /// Length plus one as unsigned varint, 0 for null.
    pub(crate) fn compact_nullable_string(&mut self) -> Result<Option<&'a str>> {
        let start = self.position;
        self.compact("a string")?.map(|b| text(b, start)).transpose()
    }

    /// Length plus one as unsigned varint, never null.
    pub(crate) fn compact_bytes(&mut self) -> Result<&'a [u8]> {
        let start = self.position;
        self.compact("a byte field")?.ok_or_else(|| damaged("a byte field", start, "is null where null is not allowed"))
    }

    /// The number of elements that follow, `None` for a null array. `min_element` is the least that one
    /// element takes in bytes: a count that the rest cannot hold is damage, so that callers may reserve.
    pub(crate) fn array_len(&mut self, min_element: usize) -> Result<Option<usize>> {
        let start = self.position;
        match self.i32()? {
            -1 => Ok(None),
            count => self.checked_count(start, usize::try_from(count).ok(), min_element).map(Some),
        }
    }

    /// As [`Reader::array_len`], with the count plus one as unsigned varint.
    pub(crate) fn compact_array_len(&mut self, min_element: usize) -> Result<Option<usize>> {
        let start = self.position;
        match self.uvarint()?.checked_sub(1) {
            None => Ok(None),
            Some(count) => self.checked_count(start, usize::try_from(count).ok(), min_element).map(Some),
        }
    }

    /// The tail of a flexible struct: calls `each` with every tag and its bytes. A tag that `each` does
    /// not know it passes over.
    pub(crate) fn tagged_fields(&mut self, mut each: impl FnMut(u32, &'a [u8]) -> Result<()>) -> Result<()> {
        let count = self.uvarint()?;
        for _ in 0..count {
            let tag = self.uvarint()?;
            let start = self.position;
            let length = self.uvarint()?;
            let length = usize::try_from(length).map_err(|_| damaged("a tagged field", start, "is too long"))?;
            each(tag, self.take_for(length, "a tagged field")?)?;
        }
        Ok(())
    }

    fn peek(&self) -> &'a [u8] {
        // The position never passes the end, so the slice is never missing.
        self.bytes.get(self.position..).unwrap_or_default()
    }

    fn take_for(&mut self, count: usize, what: &'static str) -> Result<&'a [u8]> {
        let taken = self.peek().get(..count).ok_or_else(|| self.short(count, what))?;
        self.position += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let array = *self.peek().first_chunk::<N>().ok_or_else(|| self.short(N, what))?;
        self.position += N;
        Ok(array)
    }

    fn variable<T>(&mut self, what: &'static str, read: impl Fn(&[u8]) -> Option<(T, usize)>) -> Result<T> {
        let (value, length) =
            read(self.peek()).ok_or_else(|| damaged(what, self.position, "is cut short or too long"))?;
        self.position += length;
        Ok(value)
    }

    /// The bytes behind a length that has just been read; -1 is null, any other negative length damage.
    fn announced(&mut self, what: &'static str, start: usize, length: i32) -> Result<Option<&'a [u8]>> {
        match usize::try_from(length) {
            Ok(length) => self.take_for(length, what).map(Some),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(damaged(what, start, "has a negative length")),
        }
    }

    fn compact(&mut self, what: &'static str) -> Result<Option<&'a [u8]>> {
        let start = self.position;
        match self.uvarint()?.checked_sub(1) {
            None => Ok(None),
            Some(length) => {
                let length = usize::try_from(length).map_err(|_| damaged(what, start, "is too long"))?;
                self.take_for(length, what).map(Some)
            }
        }
    }

    fn checked_count(&self, start: usize, count: Option<usize>, min_element: usize) -> Result<usize> {
        count
            .filter(|c| c.checked_mul(min_element.max(1)).is_some_and(|bytes| bytes <= self.remaining()))
            .ok_or_else(|| damaged("an array", start, "announces more elements than there are bytes"))
    }

    #[cold]
    fn short(&self, wanted: usize, what: &'static str) -> Error {
        Error::new(
            ErrorKind::Corrupt,
            format!("{what} at byte {} needs {wanted} bytes but {} are left", self.position, self.remaining()),
        )
    }
}

fn text(bytes: &[u8], start: usize) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| damaged("a string", start, "is not UTF-8"))
}

#[cold]
fn damaged(what: &'static str, position: usize, why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{what} at byte {position} {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_that_lie_are_refused_with_their_place() {
        let error = Reader::new(&[0x7f, 0xff, 0xff, 0xff]).bytes().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.to_string(), "a byte field at byte 4 needs 2147483647 bytes but 0 are left");
        assert!(Reader::new(&[0xff, 0xfe]).nullable_string().is_err());
        assert!(Reader::new(&[0xff, 0xff]).string().is_err());
        assert!(Reader::new(&[0, 1, 0xff]).string().is_err());
        assert!(Reader::new(&[0x7f, 0xff, 0xff, 0xff]).array_len(1).is_err());
        assert!(Reader::new(&[3, 0, 0, 0]).compact_array_len(2).is_err());
        assert_eq!(Reader::new(&[2, 0, 0]).compact_array_len(2).unwrap(), Some(1));
        assert_eq!(Reader::new(&[0]).compact_array_len(2).unwrap(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, calls in prop::collection::vec(0u8..20, 0..40)) {
            crate::testing::read_fields(&bytes, &calls);
        }
    }
}

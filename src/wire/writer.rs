//! Writes what [`Reader`](crate::wire::Reader) reads.

use crate::error::{Error, ErrorKind, Result};
use crate::types::Uuid;
use crate::wire::varint;

/// Appends fields to a vector. A value too long for its length field is an error, never cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

/// Writes one big-endian integer per method.
macro_rules! fixed {
    ($($name:ident($type:ty)),* $(,)?) => {
        $(pub(crate) fn $name(&mut self, value: $type) {
            self.bytes.extend_from_slice(&value.to_be_bytes());
        })*
    };
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        self.bytes
    }

    fixed!(put_i8(i8), put_i16(i16), put_i32(i32), put_i64(i64));

    /// The bytes alone, without a length.
    pub(crate) fn put_slice(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn put_uvarint(&mut self, value: u32) {
        self.put_variable(u64::from(value));
    }

    pub(crate) fn put_uuid(&mut self, id: Uuid) {
        self.put_slice(id.as_bytes());
    }

    pub(crate) fn put_string(&mut self, text: &str) -> Result<()> {
        self.put_i16(string_len(text)?);
        self.put_slice(text.as_bytes());
        Ok(())
    }

    pub(crate) fn put_nullable_string(&mut self, text: Option<&str>) -> Result<()> {
        match text {
            Some(text) => self.put_string(text),
            None => {
                self.put_i16(-1);
                Ok(())
            }
        }
    }

    pub(crate) fn put_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.put_i32(i32::try_from(bytes.len()).map_err(|_| too_long("a byte field", bytes.len(), i32::MAX))?);
        self.put_slice(bytes);
        Ok(())
    }

    pub(crate) fn put_nullable_bytes(&mut self, bytes: Option<&[u8]>) -> Result<()> {
        match bytes {
            Some(bytes) => self.put_bytes(bytes),
            None => {
                self.put_i32(-1);
                Ok(())
            }
        }
    }

    /// Kafka's readers hold compact strings to the same limit as plain ones.
    pub(crate) fn put_compact_string(&mut self, text: &str) -> Result<()> {
        string_len(text)?;
        self.put_compact_bytes(text.as_bytes())
    }

    pub(crate) fn put_compact_nullable_string(&mut self, text: Option<&str>) -> Result<()> {
        match text {
            Some(text) => self.put_compact_string(text),
            None => self.put_compact_nullable_bytes(None),
        }
    }

    pub(crate) fn put_compact_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.put_compact_array_len(bytes.len())?;
        self.put_slice(bytes);
        Ok(())
    }

    pub(crate) fn put_compact_nullable_bytes(&mut self, bytes: Option<&[u8]>) -> Result<()> {
        match bytes {
            Some(bytes) => self.put_compact_bytes(bytes),
            None => {
                self.put_uvarint(0);
                Ok(())
            }
        }
    }

    pub(crate) fn put_array_len(&mut self, count: usize) -> Result<()> {
        self.put_i32(i32::try_from(count).map_err(|_| too_long("an array", count, i32::MAX))?);
        Ok(())
    }

    pub(crate) fn put_compact_array_len(&mut self, count: usize) -> Result<()> {
        let announced = i32::try_from(count).ok().and_then(|c| c.checked_add(1));
        let announced = announced.ok_or_else(|| too_long("a compact field", count, i32::MAX - 1))?;
        self.put_uvarint(announced.cast_unsigned());
        Ok(())
    }

    /// The tail of a flexible struct: `fields` in ascending order of their tags, as KIP-482 demands.
    pub(crate) fn put_tagged_fields(&mut self, fields: &[(u32, Vec<u8>)]) -> Result<()> {
        debug_assert!(fields.is_sorted_by(|a, b| a.0 < b.0), "tags ascend and are unique");
        let length = |n: usize| u32::try_from(n).map_err(|_| too_long("a tagged field", n, i32::MAX));
        self.put_uvarint(length(fields.len())?);
        for (tag, body) in fields {
            self.put_uvarint(*tag);
            self.put_uvarint(length(body.len())?);
            self.put_slice(body);
        }
        Ok(())
    }

    fn put_variable(&mut self, value: u64) {
        let mut out = [0; varint::MAX_U64_LEN];
        let len = varint::write64(value, &mut out);
        self.put_slice(&out[..len]);
    }
}

fn string_len(text: &str) -> Result<i16> {
    i16::try_from(text.len()).map_err(|_| too_long("a string", text.len(), i32::from(i16::MAX)))
}

#[cold]
fn too_long(what: &'static str, length: usize, limit: i32) -> Error {
    Error::new(ErrorKind::TooLarge, format!("{what} of length {length} is longer than its format allows, {limit}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Reader;

    #[test]
    fn a_string_that_its_length_field_cannot_hold_is_refused() {
        let error = Writer::new().put_string(&"x".repeat(40_000)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(Writer::new().put_compact_string(&"x".repeat(40_000)).is_err());
        assert!(Writer::new().put_compact_string(&"x".repeat(32_767)).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            small: i16, number: i32, long: i64, text: Option<String>, blob: Option<Vec<u8>>,
            mut tags in prop::collection::btree_map(any::<u32>(), any::<Vec<u8>>(), 0..4),
        ) {
            let mut w = Writer::new();
            w.put_i16(small);
            w.put_i64(long);
            w.put_uvarint(number.cast_unsigned());
            w.put_nullable_string(text.as_deref()).unwrap();
            w.put_compact_nullable_string(text.as_deref()).unwrap();
            w.put_nullable_bytes(blob.as_deref()).unwrap();
            w.put_tagged_fields(&tags.clone().into_iter().collect::<Vec<_>>()).unwrap();

            let bytes = w.into_vec();
            let mut r = Reader::new(&bytes);
            prop_assert_eq!(r.i16().unwrap(), small);
            prop_assert_eq!(r.i64().unwrap(), long);
            prop_assert_eq!(r.uvarint().unwrap(), number.cast_unsigned());
            prop_assert_eq!(r.nullable_string().unwrap(), text.as_deref());
            prop_assert_eq!(r.compact_nullable_string().unwrap(), text.as_deref());
            prop_assert_eq!(r.nullable_bytes().unwrap(), blob.as_deref());
            r.tagged_fields(|tag, body| {
                assert_eq!(tags.remove(&tag).as_deref(), Some(body));
                Ok(())
            }).unwrap();
            prop_assert!(tags.is_empty() && r.is_empty());
        }
    }
}

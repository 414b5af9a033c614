//! One record inside a batch's records section, after decompression.
//!
//! ```text
//!  length | attributes | timestamp | offset | key    | key | value  | value | header | headers
//!  varint | i8, 0      | delta     | delta  | length |     | length |       | count  |
//!         |            | varlong   | varint | varint |     | varint |       | varint |
//!
//!  header:  key length varint | key, UTF-8 | value length varint | value
//! ```
//! A length of -1 is null, which a header's key never is. `length` counts the bytes after itself and must
//! be exact. There is no checksum here: the batch's covers its records as they are stored.

use crate::record::producing::Header;
use crate::wire::varint;

/// The least that a record takes: seven fields of one byte.
pub(super) const SMALLEST_RECORD: usize = 7;
/// The least that a header takes: two lengths.
const SMALLEST_HEADER: usize = 2;
/// Room for a record's own length.
const LENGTH_ROOM: usize = varint::MAX_U32_LEN;
/// Room for that and what stands before the first field that is not null: attributes, both deltas, the length of the key
/// or, where that is null, of the value. Those are of 32 bits in the end, but may be encoded before that is known.
const FRONT_ROOM: usize = LENGTH_ROOM + 1 + varint::MAX_U64_LEN + varint::MAX_U32_LEN + 1 + varint::MAX_U64_LEN;

/// A record's fields, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) header_count: usize,
    /// The headers as stored; their structure is checked.
    pub(super) headers: &'a [u8],
}

/// What is wrong with a record: one short clause.
pub(super) type Flaw = &'static str;

const CUT_SHORT: Flaw = "it is cut short";

/// Reads the record at the front of `section`; answers it and what follows it.
#[inline]
pub(super) fn read(section: &[u8]) -> Result<(Fields<'_>, &[u8]), Flaw> {
    let mut outer = Cursor(section);
    let length = usize::try_from(outer.signed32()?).map_err(|_| "its length is negative")?;
    let mut body = Cursor(outer.take(length)?);
    body.take(1)?; // Attributes: no bit has a meaning yet, and Kafka ignores them too.
    let timestamp_delta = body.signed64()?;
    let offset_delta = body.signed32()?;
    let key = body.nullable()?;
    let value = body.nullable()?;
    let header_count = body.header_count()?;
    let headers = body.0;
    for _ in 0..header_count {
        body.header()?;
    }
    if !body.0.is_empty() {
        return Err("it is longer than its fields");
    }
    Ok((Fields { timestamp_delta, offset_delta, key, value, header_count, headers }, outer.0))
}

/// A header's key and value.
type RawHeader<'a> = (&'a [u8], Option<&'a [u8]>);

/// Reads the header at the front of `headers`, which [`read`] has checked; answers it and what follows it.
pub(super) fn read_header(headers: &[u8]) -> Option<(RawHeader<'_>, &[u8])> {
    let mut cursor = Cursor(headers);
    Some((cursor.header().ok()?, cursor.0))
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    #[inline]
    fn take(&mut self, count: usize) -> Result<&'a [u8], Flaw> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn signed32(&mut self) -> Result<i32, Flaw> {
        let (value, length) = varint::read32(self.0).ok_or(CUT_SHORT)?;
        self.take(length)?;
        Ok(varint::unfold32(value))
    }

    #[inline]
    fn signed64(&mut self) -> Result<i64, Flaw> {
        let (value, length) = varint::read64(self.0).ok_or(CUT_SHORT)?;
        self.take(length)?;
        Ok(varint::unfold64(value))
    }

    #[inline]
    fn nullable(&mut self) -> Result<Option<&'a [u8]>, Flaw> {
        match self.signed32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| "a field's length is below -1")?;
                self.take(length).map(Some)
            }
        }
    }

    #[inline]
    fn header_count(&mut self) -> Result<usize, Flaw> {
        let count = usize::try_from(self.signed32()?).map_err(|_| "its header count is negative")?;
        if count > self.0.len() / SMALLEST_HEADER {
            return Err("it announces more headers than there are bytes");
        }
        Ok(count)
    }

    fn header(&mut self) -> Result<RawHeader<'a>, Flaw> {
        let key = self.nullable()?.ok_or("a header's key is null")?;
        Ok((key, self.nullable()?))
    }
}

/// Appends one record to `out`. `None` when it is larger than its length field can say; nothing is
/// written then.
#[inline]
pub(super) fn write(
    out: &mut Vec<u8>,
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[Header],
) -> Option<()> {
    // The small fields are encoded aside first: that tells their sizes, and with them the record's length.
    let mut front = Small::new();
    front.put(0); // Attributes; a zero is the same byte as a number and as a varint.
    front.put(timestamp_delta);
    front.put(i64::from(offset_delta));
    front.put(announced(key));
    let length = front.len() + key.map_or(0, <[u8]>::len) + field_len(value) + headers_len(headers);
    // Every part is smaller than the whole, so no other length can fail to fit.
    let length = i32::try_from(length).ok()?;

    // In as few pieces as can be: each is a call.
    if key.is_none() {
        front.put(announced(value));
    }
    out.extend_from_slice(front.behind(length));
    if let Some(key) = key {
        out.extend_from_slice(key);
        push_signed(out, announced(value));
    }
    out.extend_from_slice(value.unwrap_or_default());
    push_signed(out, headers.len() as i64);
    for header in headers {
        push_field(out, Some(header.key().as_bytes()));
        push_field(out, header.value());
    }
    Some(())
}

/// A few encoded numbers on the stack, with room for a length before them.
struct Small {
    bytes: [u8; FRONT_ROOM],
    end: usize,
}

impl Small {
    #[inline]
    fn new() -> Self {
        Self { bytes: [0; FRONT_ROOM], end: LENGTH_ROOM }
    }

    #[inline]
    fn put(&mut self, value: i64) {
        self.end = self.put_at(self.end, value);
    }

    #[inline]
    fn put_at(&mut self, mut at: usize, value: i64) -> usize {
        let mut value = varint::fold64(value);
        while value >= 0x80 {
            self.bytes[at] = (value & 0x7f) as u8 | 0x80;
            at += 1;
            value >>= 7;
        }
        self.bytes[at] = value as u8;
        at + 1
    }

    #[inline]
    fn len(&self) -> usize {
        self.end - LENGTH_ROOM
    }

    /// The numbers, with this one before them.
    #[inline]
    fn behind(&mut self, length: i32) -> &[u8] {
        let from = LENGTH_ROOM - varint::signed_len64(i64::from(length));
        self.put_at(from, i64::from(length));
        &self.bytes[from..self.end]
    }
}

#[inline]
fn announced(field: Option<&[u8]>) -> i64 {
    field.map_or(-1, |bytes| bytes.len() as i64)
}

#[inline]
fn field_len(field: Option<&[u8]>) -> usize {
    varint::signed_len64(announced(field)) + field.map_or(0, <[u8]>::len)
}

/// The bytes of the headers and their count.
#[inline]
fn headers_len(headers: &[Header]) -> usize {
    let each = headers.iter().map(|h| field_len(Some(h.key().as_bytes())) + field_len(h.value()));
    varint::signed_len64(headers.len() as i64) + each.sum::<usize>()
}

#[inline]
fn push_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    push_signed(out, announced(field));
    out.extend_from_slice(field.unwrap_or_default());
}

#[inline]
fn push_signed(out: &mut Vec<u8>, value: i64) {
    let mut value = varint::fold64(value);
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_record() {
        let golden = crate::testing::from_hex("32000000046b300e76616c75652d300404683104687604683201");
        let headers = [Header::new("h1", "hv"), Header::null("h2")];
        let mut out = Vec::new();
        write(&mut out, 0, 0, Some(b"k0"), Some(b"value-0"), &headers).unwrap();
        assert_eq!(out, golden);

        let (fields, rest) = read(&golden).unwrap();
        assert!(rest.is_empty());
        assert_eq!((fields.key, fields.value), (Some(&b"k0"[..]), Some(&b"value-0"[..])));
        let (first, rest) = read_header(fields.headers).unwrap();
        assert_eq!(first, (&b"h1"[..], Some(&b"hv"[..])));
        assert_eq!(read_header(rest), Some(((&b"h2"[..], None), &b""[..])));
    }

    #[test]
    fn every_flaw_is_named() {
        let flaw = |bytes: &[u8]| read(bytes).unwrap_err();
        assert_eq!(flaw(&[]), CUT_SHORT);
        assert_eq!(flaw(&[0x0e, 0, 0, 0, 1, 1, 0]), CUT_SHORT);
        assert_eq!(flaw(&[0x01]), "its length is negative");
        assert_eq!(flaw(&[0x0e, 0, 0, 0, 1, 1, 0, 0]), "it is longer than its fields");
        assert_eq!(flaw(&[0x0c, 0, 0, 0, 3, 1, 0]), "a field's length is below -1");
        assert_eq!(flaw(&[0x0c, 0, 0, 0, 1, 1, 1]), "its header count is negative");
        assert_eq!(flaw(&[0x0e, 0, 0, 0, 1, 1, 2, 0]), "it announces more headers than there are bytes");
        assert_eq!(flaw(&[0x10, 0, 0, 0, 1, 1, 2, 1, 1]), "a header's key is null");
        assert!(read(&[0x0c, 0, 0, 0, 1, 1, 0]).is_ok());
    }
}

//! Kafka's variable-length integers: seven bits a byte, lowest first, the high bit saying "more".
//! Signed ones are folded first (zig-zag) so that small negative numbers stay short.
//!
//! These are the leaves under every record that is read or written; the one-byte case comes first.
//! Non-minimal forms are read, as Kafka reads them; minimal ones are written.

/// The longest form of a 32-bit number.
pub(crate) const MAX_U32_LEN: usize = 5;
/// The longest form of a 64-bit number.
pub(crate) const MAX_U64_LEN: usize = 10;

/// 0, 1, 2, 3 .. become 0, -1, 1, -2 ..
#[inline]
pub(crate) const fn unfold32(value: u32) -> i32 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// 0, -1, 1, -2 .. become 0, 1, 2, 3 ..
#[inline]
pub(crate) const fn fold64(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

/// The reverse of [`fold64`].
#[inline]
pub(crate) const fn unfold64(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// How many bytes `value` takes.
#[inline]
pub(crate) const fn len64(value: u64) -> usize {
    // One byte per started group of seven bits; the or-ed 1 makes zero take a byte as well.
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// How many bytes `value` takes after folding.
#[inline]
pub(crate) const fn signed_len64(value: i64) -> usize {
    len64(fold64(value))
}

/// Writes `value` at the start of `out` and tells how many bytes it took.
#[inline]
pub(crate) fn write64(mut value: u64, out: &mut [u8; MAX_U64_LEN]) -> usize {
    let mut len = 0;
    while value >= 0x80 {
        out[len] = (value & 0x7f) as u8 | 0x80;
        value >>= 7;
        len += 1;
    }
    out[len] = value as u8;
    len + 1
}

/// Reads a number of at most 32 bits at the start of `bytes`: its value and its length.
/// `None` when the bytes end early or the number is too long.
#[inline]
pub(crate) fn read32(bytes: &[u8]) -> Option<(u32, usize)> {
    match bytes.first() {
        Some(&only) if only < 0x80 => Some((u32::from(only), 1)),
        _ => {
            let (value, len) = read_long(bytes, MAX_U32_LEN)?;
            // Kafka drops what the fifth byte carries above bit 31; so do we.
            Some((value as u32, len))
        }
    }
}

/// Reads a number of at most 64 bits at the start of `bytes`: its value and its length.
/// `None` when the bytes end early or the number is too long.
#[inline]
pub(crate) fn read64(bytes: &[u8]) -> Option<(u64, usize)> {
    match bytes.first() {
        Some(&only) if only < 0x80 => Some((u64::from(only), 1)),
        _ => read_long(bytes, MAX_U64_LEN),
    }
}

#[inline]
fn read_long(bytes: &[u8], longest: usize) -> Option<(u64, usize)> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(longest).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Some((value, at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_that_never_ends_is_refused() {
        assert_eq!(read32(&[0xff; 5]), None);
        assert_eq!(read64(&[0xff; 10]), None);
        assert_eq!(read32(&[0x80, 0x80]), None);
        assert_eq!(read32(&[]), None);
    }

    #[test]
    fn a_longer_form_than_needed_is_read() {
        assert_eq!(read32(&[0x81, 0x00]), Some((1, 2)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value: i64, small: i32) {
            let mut out = [0; MAX_U64_LEN];
            let len = write64(fold64(value), &mut out);
            prop_assert_eq!(len, signed_len64(value));
            prop_assert_eq!(read64(&out).map(|(v, n)| (unfold64(v), n)), Some((value, len)));

            let len = write64(fold64(i64::from(small)), &mut out);
            prop_assert_eq!(len, signed_len64(i64::from(small)));
            prop_assert_eq!(read32(&out).map(|(v, n)| (unfold32(v), n)), Some((small, len)));
        }
    }
}

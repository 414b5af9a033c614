//! Text, bytes and numbers, byte for byte as the serializers in Kafka's own clients write them.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;

use super::format::{Deserializer, RecordField, Serializer, TypedData, not_null, refused};
use crate::error::Result;
use crate::record::Header;
use crate::types::Uuid;

/// The format of text, bytes and numbers; [`TypedData`] says what each looks like. It holds nothing and is made with
/// `Plain::default()`.
pub struct Plain<T>(PhantomData<fn() -> T>);

impl<T> Default for Plain<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for Plain<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Plain<T> {}

impl<T> fmt::Debug for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plain<{}>", std::any::type_name::<T>())
    }
}

/// Implements the format of one type from two functions: to bytes, and back from bytes that are not null.
macro_rules! plain {
    ($($type:ty as $input:ty => $write:expr, $read:expr;)*) => {$(
        impl TypedData for $type {
            type Format = Plain<Self>;
        }

        impl Serializer for Plain<$type> {
            type Input<'a> = $input;

            fn serialize<'a>(&self, _: RecordField<'_>, _: &mut Vec<Header>, data: $input) -> Result<Option<Bytes>> {
                let write: fn($input) -> Bytes = $write;
                Ok(Some(write(data)))
            }
        }

        impl Deserializer for Plain<$type> {
            type Output = $type;

            fn deserialize(&self, _: RecordField<'_>, _: &mut Vec<Header>, data: Option<&Bytes>) -> Result<$type> {
                let read: fn(&Bytes) -> Result<$type> = $read;
                read(not_null(data)?)
            }
        }
    )*};
}

macro_rules! number {
    ($($type:ty)*) => {
        plain! {$(
            $type as $type =>
                |number| Bytes::copy_from_slice(&number.to_be_bytes()),
                |data| fixed(data, stringify!($type)).map(<$type>::from_be_bytes);
        )*}
    };
}

number! { i16 i32 i64 f32 f64 }

plain! {
    String as &'a str =>
        |text| Bytes::copy_from_slice(text.as_bytes()),
        |data| match std::str::from_utf8(data) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(refused("it is not text in UTF-8").source(error)),
        };
    Bytes as &'a [u8] => Bytes::copy_from_slice, |data| Ok(data.clone());
    Vec<u8> as &'a [u8] => Bytes::copy_from_slice, |data| Ok(data.to_vec());
    bool as bool =>
        |yes| Bytes::from_static(if yes { &[1] } else { &[0] }),
        |data| match fixed(data, "bool")? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(refused(format!("a bool is written as 0 or 1, not as {other}"))),
        };
    Uuid as Uuid => |id| hyphenated(&id).into(), |data| from_hyphenated(data);
}

/// The bytes of a type that always has as many.
fn fixed<const N: usize>(data: &[u8], name: &str) -> Result<[u8; N]> {
    data.try_into().map_err(|_| refused(format!("{name} is written in {N} bytes, and it has {}", data.len())))
}

/// Before which bytes of an id its text has a hyphen.
const HYPHENS: [usize; 4] = [4, 6, 8, 10];

fn hyphenated(id: &Uuid) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in id.as_bytes().iter().enumerate() {
        if HYPHENS.contains(&at) {
            text.push('-');
        }
        text.extend([byte >> 4, byte & 0xf].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])));
    }
    text
}

fn from_hyphenated(data: &[u8]) -> Result<Uuid> {
    let parse = || {
        let mut text = data.iter();
        let mut id = [0; 16];
        for (at, byte) in id.iter_mut().enumerate() {
            if HYPHENS.contains(&at) {
                text.next().filter(|&&hyphen| hyphen == b'-')?;
            }
            for _ in 0..2 {
                let digit = char::from(*text.next()?).to_digit(16)?;
                *byte = *byte << 4 | u8::try_from(digit).ok()?;
            }
        }
        text.next().is_none().then(|| Uuid::from_bytes(id))
    };
    parse().ok_or_else(|| refused("it is not a UUID in 36 characters"))
}

impl TypedData for () {
    type Format = Plain<Self>;
}

impl Serializer for Plain<()> {
    type Input<'a> = ();

    fn serialize(&self, _: RecordField<'_>, _: &mut Vec<Header>, (): ()) -> Result<Option<Bytes>> {
        Ok(None)
    }
}

impl Deserializer for Plain<()> {
    type Output = ();

    fn deserialize(&self, _: RecordField<'_>, _: &mut Vec<Header>, data: Option<&Bytes>) -> Result<()> {
        match data {
            None => Ok(()),
            Some(data) => Err(refused(format!("it should be null, and has {} bytes", data.len()))),
        }
    }
}

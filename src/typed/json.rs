//! JSON by way of serde (feature `json`).

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::format::{Deserializer, RecordField, Serializer, TypedData, not_null, refused};
use crate::error::Result;
use crate::record::Header;

/// The format of data that is written as JSON text (feature `json`): `orders.typed::<String, Json<Order>>()`. It holds
/// nothing and is made with `Json::default()`.
///
/// Text that is nested deeper than 128 levels is refused. `Option<Json<T>>` allows null, that is no value at all, which
/// is a tombstone; `Json<Option<T>>` writes the four letters `null`.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use thalweg::{Broker, Json, Start};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Order {
///     item: String,
///     amount: u32,
/// }
///
/// let broker = Broker::in_memory()?;
/// let orders = broker.topic("orders").create()?.typed::<String, Json<Order>>();
/// let order = Order { item: "apples".into(), amount: 12 };
/// orders.send(("user-1", &order))?;
/// orders.topic().send(("user-2", "{}"))?;
///
/// let mut found = orders.scan(Start::Earliest);
/// assert_eq!(found.next().transpose()?.map(|record| record.into_parts().1), Some(order));
/// let error = found.next().and_then(Result::err).map(|error| error.to_string()).unwrap_or_default();
/// assert!(error.contains("missing field `item`"), "{error}");
/// assert!(found.next().is_none());
/// # Ok::<(), thalweg::Error>(())
/// ```
pub struct Json<T>(PhantomData<fn() -> T>);

impl<T> Default for Json<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for Json<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Json<T> {}

impl<T> fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json<{}>", std::any::type_name::<T>())
    }
}

impl<T: Serialize + DeserializeOwned + 'static> TypedData for Json<T> {
    type Format = Self;
}

impl<T: Serialize + 'static> Serializer for Json<T> {
    type Input<'a> = &'a T;

    fn serialize(&self, _: RecordField<'_>, _: &mut Vec<Header>, data: &T) -> Result<Option<Bytes>> {
        let text = serde_json::to_vec(data).map_err(|e| refused("it has no form in JSON").source(e))?;
        Ok(Some(text.into()))
    }
}

impl<T: DeserializeOwned + 'static> Deserializer for Json<T> {
    type Output = T;

    fn deserialize(&self, _: RecordField<'_>, _: &mut Vec<Header>, data: Option<&Bytes>) -> Result<T> {
        serde_json::from_slice(not_null(data)?).map_err(|e| refused("it is not the JSON that was expected").source(e))
    }
}

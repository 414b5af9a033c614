//! Pages about the whole: how the crate is built, what it promises, how it compares with Kafka.
//! No code lives here.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("format.md")]
pub mod format {}

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("recovery.md")]
pub mod recovery {}

#[doc = include_str!("offsets.md")]
pub mod offsets {}

#[doc = include_str!("kafka.md")]
pub mod kafka {}

#[doc = include_str!("graduate.md")]
pub mod graduate {}

#[doc = include_str!("non_obvious.md")]
pub mod non_obvious {}

#[doc = include_str!("refusals.md")]
pub mod refusals {}

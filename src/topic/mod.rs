//! Topics: their names, configs and catalog.

pub(crate) mod catalog;
pub(crate) mod config;
pub(crate) mod name;
pub(crate) mod properties;

pub use config::{CleanupPolicy, ConfigEntry, ConfigSource, TopicConfig};

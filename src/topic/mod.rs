//! Topics: their names, configs and catalog.

pub(crate) mod config;
pub(crate) mod name;
pub(crate) mod properties;

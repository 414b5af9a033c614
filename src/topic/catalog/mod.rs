//! catalog
mod control;
mod image;
mod records;

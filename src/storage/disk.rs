//! Stub, see helper.
#[derive(Debug)]
pub struct DiskStorage;

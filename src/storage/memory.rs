//! Stub.
#[derive(Debug)]
pub struct MemoryStorage;

#[derive(Debug)]
pub(crate) struct PooledStorage;

pub(crate) struct PooledStorage;

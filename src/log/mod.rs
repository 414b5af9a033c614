mod checkpoint;
mod epochs;
mod producers;
mod transactions;

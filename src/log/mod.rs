mod checkpoint;
mod epochs;

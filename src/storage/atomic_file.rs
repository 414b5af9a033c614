pub(crate) fn replace_file() {}
pub(crate) fn read_file() {}

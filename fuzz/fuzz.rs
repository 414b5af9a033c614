//! The fuzz target that `THALWEG_FUZZ_TARGET` names; their table is in the library.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<String> =
    LazyLock::new(|| std::env::var("THALWEG_FUZZ_TARGET").expect("fuzz/run names the target"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| thalweg::testing::fuzz(&TARGET, data));

//! Our files under the real thing: Apache Kafka reads what we wrote, starts on our directories, and we open
//! what it left behind. Needs Java 17, Maven and (once) Maven Central; without them each test says so and
//! passes. `cargo test --test interop`, or `.ci/run interop`; not part of a plain `cargo test`.
//!
//! Jars and classes are kept in `.interop/`, or in `$THALWEG_INTEROP_DIR`. One broker runs at a time.
#![cfg(unix)]
#![allow(
    clippy::disallowed_methods,
    reason = "this suite drives other programs: files, time and processes are its subject"
)]

#[path = "../kafka_directories/answers.rs"]
mod answers;
mod batches;
mod born_at_kafka;
mod client;
#[allow(dead_code, reason = "`tests/kafka_directories` uses the rest")]
#[path = "../kafka_directories/compare.rs"]
mod compare;
mod crash_images;
mod directory;
mod dump;
mod graduate;
mod handover;
mod kafka;
mod logs;
mod look;
mod model;
mod node;
mod ours;
mod peer;
mod python;
mod record;
mod scenes;
mod self_test;

use kafka::{Kafka, Version};

/// Runs `test` against one release, or says on stderr (past libtest's capture) why it cannot.
fn against(version: Version, name: &str, test: impl FnOnce(&Kafka)) {
    match Kafka::obtain(version) {
        Ok(kafka) => test(&kafka),
        Err(reason) => {
            use std::io::Write as _;
            writeln!(std::io::stderr(), "SKIPPED interop {name} on Kafka {version}: {reason}").expect("stderr is open");
        }
    }
}

/// Declares each test once per Kafka release.
macro_rules! on_each_release {
    ($($test:ident),+ $(,)?) => {
        mod v4_3_0 {
            $(#[test] fn $test() { crate::against(crate::Version::V4_3_0, stringify!($test), super::$test) })+
        }
        mod v3_9_2 {
            $(#[test] fn $test() { crate::against(crate::Version::V3_9_2, stringify!($test), super::$test) })+
        }
    };
}
use on_each_release;

//! For tests of what is built on [`Log`](crate::Log) or implements [`Storage`](crate::Storage): a disk that fails in
//! every way that disks do, and searches for the moment at which that does harm.
//!
//! - [`SimStorage`] is a disk in memory. It loses power, tears pages, runs full, errs, and does the same again when told
//!   so with the same words.
//! - [`explore`] crashes a workload before each of its operations, in many ways, and the recovery from it as well.
//! - [`sweep_errors`] lets each operation fail with each error.
//! - [`WatchedLog`] and [`check_log`] know what must hold of a log then, [`WatchedBroker`] and [`check_broker`] of a
//!   whole broker.
//!
//! Not its job: real power cuts, threads, time.

mod broker_oracle;
mod expected;
mod explore;
mod fuzzing;
mod history;
mod log_oracle;
#[cfg(test)]
mod reserve_tests;
mod sim;
mod sweep;
#[cfg(test)]
mod tests;

pub use broker_oracle::{BrokerEvent, WatchedBroker, check_broker};
pub use expected::{Entered, LogEvent};
pub use explore::{CrashFailure, ExploreConfig, ExploreReport, explore};
#[doc(hidden)]
pub use fuzzing::{from_hex, fuzz, fuzz_targets, read_fields};
pub use history::{Entry, History, Replay};
pub use log_oracle::{WatchedLog, check_log};
pub use sim::{AfterFailedSync, Choice, Errno, Fault, Hold, NoChoice, Operation, Repeat, SimStorage};
pub use sweep::{SweepConfig, SweepFailure, SweepReport, sweep_errors};

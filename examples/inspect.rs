//! Prints what a directory of Kafka's or ours holds, and changes no byte of it:
//! `cargo run --example inspect -- /var/lib/kafka/data`.

use std::io::Write as _;
use std::process::ExitCode;

use thalweg::Broker;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(dir), None) = (args.next(), args.next()) else {
        eprintln!("usage: inspect DIRECTORY");
        return ExitCode::FAILURE;
    };
    match Broker::inspect(dir) {
        // Whoever reads the report may stop early.
        Ok(found) => match writeln!(std::io::stdout(), "{found}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

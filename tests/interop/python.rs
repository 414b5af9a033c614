//! The clients of librdkafka and kafka-python, in one process (`python/driver.py`) of a virtual environment
//! that is kept between runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kafka::{home, succeeds};
use crate::peer::Peer;

const PACKAGES: [&str; 2] = ["confluent-kafka==2.16.1", "kafka-python==3.0.12"];
const DRIVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/python/driver.py");

/// An environment that has both clients.
pub(crate) struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// From an earlier run, or from PyPI; `Err` says what is missing on this machine.
    pub(crate) fn obtain() -> Result<Python, String> {
        let environment = home().join("python");
        let interpreter = environment.join("bin/python");
        // Written last: it stands for "these packages are in".
        let complete = environment.join("packages");
        let wanted = PACKAGES.join("\n");
        if fs::read_to_string(&complete).is_ok_and(|packages| packages == wanted) {
            return Ok(Python { interpreter });
        }
        succeeds(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))
            .map_err(|e| format!("python3 makes no virtual environment ({e})"))?;
        succeeds(Command::new(&interpreter).args(["-m", "pip", "install", "-q"]).args(PACKAGES))
            .map_err(|e| format!("pip could not install {PACKAGES:?} ({e})"))?;
        fs::write(&complete, wanted).map_err(|e| format!("cannot write {}: {e}", complete.display()))?;
        Ok(Python { interpreter })
    }

    /// A client process for the broker on `port`.
    pub(crate) fn client(&self, port: u16) -> Peer {
        let bootstrap = format!("localhost:{port}");
        Peer::start(Command::new(&self.interpreter).arg(Path::new(DRIVER)).arg(bootstrap))
    }
}

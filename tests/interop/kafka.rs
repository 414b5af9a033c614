//! One Kafka release as jars from Maven Central plus our compiled `Driver`, kept between runs, and the JVM
//! command line that every process of the suite starts from.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

/// A release that the suite runs against: the oldest that reads our directories, the newest whole one, and the
/// newest broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V3_9_2,
    V4_3_0,
    V4_4_0,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::V3_9_2 => "3.9.2",
            Version::V4_3_0 => "4.3.0",
            Version::V4_4_0 => "4.4.0",
        })
    }
}

impl Version {
    /// The release whose console tools go with it. Those of 4.4.0 are not on Maven Central.
    fn tools(self) -> Version {
        match self {
            Version::V4_4_0 => Version::V4_3_0,
            same => same,
        }
    }
}

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/java");

/// Jars and classes of one release, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct Kafka {
    pub(crate) version: Version,
    class_path: OsString,
}

impl Kafka {
    /// The release from an earlier run, or from Maven Central; `Err` says what is missing on this machine.
    pub(crate) fn obtain(version: Version) -> Result<Kafka, String> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for tool in ["java", "javac"] {
            succeeds(Command::new(tool).arg("-version")).map_err(|e| format!("{tool} does not run ({e})"))?;
        }
        let home = home();
        let jars = download(version, &home)?;
        let mut parts = jars_in(&jars);
        let classes = compile(version, &home, &join(&parts))?;
        parts.insert(0, classes);
        Ok(Kafka { version, class_path: join(&parts) })
    }

    /// A JVM that runs our `Driver`, its own output at `log_level` and above.
    pub(crate) fn java(&self, heap_mib: u32, log_level: &str) -> Command {
        let mut java = Command::new("java");
        java.arg(format!("-Xmx{heap_mib}m"))
            .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
            .arg(format!("-Dorg.slf4j.simpleLogger.defaultLogLevel={log_level}"))
            .arg("-cp")
            .arg(&self.class_path)
            .arg("Driver");
        java
    }

    /// The release whose console tools go with this one: they need the classes of their own release.
    pub(crate) fn with_tools(&self) -> Kafka {
        Kafka::obtain(self.version.tools()).expect("the tools' release")
    }

    /// The main class of dump-log, which moved from Scala to Java between the releases.
    pub(crate) fn dump_log_tool(&self) -> &'static str {
        match self.version {
            Version::V3_9_2 => "kafka.tools.DumpLogSegments",
            Version::V4_3_0 | Version::V4_4_0 => "org.apache.kafka.tools.DumpLogSegments",
        }
    }
}

/// What is kept between runs.
pub(crate) fn home() -> PathBuf {
    match std::env::var_os("THALWEG_INTEROP_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(".interop"),
    }
}

/// The directory of the release's jars; it exists under its final name only when complete.
fn download(version: Version, home: &Path) -> Result<PathBuf, String> {
    let jars = home.join(format!("kafka-{version}"));
    if jars.is_dir() {
        return Ok(jars);
    }
    let part = home.join(format!("kafka-{version}.part"));
    let mut failure = String::new();
    for attempt in 0..3 {
        thread::sleep(Duration::from_secs(5 * attempt));
        let _ = fs::remove_dir_all(&part);
        let mut mvn = Command::new("mvn");
        mvn.args(["-q", "-B", "-f"])
            .arg(Path::new(SOURCES).join("pom.xml"))
            .arg(format!("-Dkafka.version={version}"))
            .arg(format!("-Dtools.version={}", version.tools()))
            .arg(format!("-DoutputDirectory={}", part.display()))
            .arg("dependency:copy-dependencies");
        match succeeds(&mut mvn) {
            Ok(()) => {
                fs::rename(&part, &jars).map_err(|e| format!("cannot rename {}: {e}", part.display()))?;
                return Ok(jars);
            }
            Err(e) => failure = format!("mvn could not fetch Kafka {version} ({e})"),
        }
    }
    Err(failure)
}

fn compile(version: Version, home: &Path, class_path: &OsString) -> Result<PathBuf, String> {
    let source = Path::new(SOURCES).join("Driver.java");
    let classes = home.join(format!("driver-{version}"));
    // The copy stands for "compiled from this text": it is written last.
    let compiled_from = classes.join("Driver.java");
    let text = fs::read(&source).map_err(|e| format!("cannot read {}: {e}", source.display()))?;
    if fs::read(&compiled_from).is_ok_and(|old| old == text) {
        return Ok(classes);
    }
    succeeds(Command::new("javac").arg("-cp").arg(class_path).arg("-d").arg(&classes).arg(&source))
        .unwrap_or_else(|e| panic!("Driver.java does not compile against Kafka {version}: {e}"));
    fs::write(&compiled_from, text).map_err(|e| format!("cannot write {}: {e}", compiled_from.display()))?;
    Ok(classes)
}

/// Every jar but reload4j's, which 3.9.2 drags in and which would take the log away from slf4j-simple.
fn jars_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("cannot list {}: {e}", dir.display()));
    let mut jars: Vec<_> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    jars.retain(|jar| !jar.to_string_lossy().contains("reload4j"));
    jars.sort();
    jars
}

fn join(parts: &[PathBuf]) -> OsString {
    std::env::join_paths(parts).expect("no path of ours holds a colon")
}

pub(crate) fn succeeds(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&said).trim().chars().take(600).collect::<String>()))
}

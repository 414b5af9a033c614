//! A stock single-node broker and controller on a directory: start, ready, clean stop, kill -9.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;
use crate::kafka::Kafka;

/// Where a broker keeps its data and how its quorum is told.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The first one has the metadata log.
    pub(crate) dirs: Vec<PathBuf>,
    /// `format --standalone`: the voters stand in the metadata log (KIP-853), not in server.properties.
    pub(crate) standalone: bool,
}

impl Layout {
    /// One directory with the voters in server.properties.
    pub(crate) fn of(data: &Path) -> Layout {
        Layout { dirs: vec![data.to_owned()], standalone: false }
    }

    /// A name next to the first directory.
    fn beside(&self, extension: &str) -> PathBuf {
        self.dirs[0].with_extension(extension)
    }

    fn properties(&self, port: u16, controller: u16) -> String {
        let quorum = match self.standalone {
            true => format!("controller.quorum.bootstrap.servers=localhost:{controller}"),
            false => format!("controller.quorum.voters=1@localhost:{controller}"),
        };
        let dirs: Vec<_> = self.dirs.iter().map(|dir| dir.to_str().expect("a UTF-8 path")).collect();
        format!(
            "listeners=PLAINTEXT://localhost:{port},CONTROLLER://localhost:{controller}\n\
             advertised.listeners=PLAINTEXT://localhost:{port}\n\
             {quorum}\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             log.dirs={}\n",
            dirs.join(",")
        )
    }
}

/// Retention, cleaning and checkpoints within a test's patience; deleted files stay long enough to be seen.
/// The short session lets a broker come back soon after kill -9.
const HASTE: &str = "log.initial.task.delay.ms=100\nlog.retention.check.interval.ms=500\n\
    log.segment.delete.delay.ms=60000\nlog.cleaner.backoff.ms=200\nlog.flush.offset.checkpoint.interval.ms=1000\n\
    broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\n";

static ONE_BROKER: Mutex<()> = Mutex::new(());

/// A running broker; dropping it kills it.
pub(crate) struct Node<'k> {
    kafka: &'k Kafka,
    process: Child,
    pub(crate) port: u16,
    log: PathBuf,
    started: Instant,
    /// From the start of its process until it served.
    pub(crate) took: Duration,
    _turn: MutexGuard<'static, ()>,
}

impl<'k> Node<'k> {
    /// Starts on `data` with `properties` (ports, quorum and log.dirs are ours) and waits until it serves.
    pub(crate) fn start(kafka: &'k Kafka, data: &Path, properties: &str) -> Node<'k> {
        Node::start_on(kafka, &Layout::of(data), properties)
    }

    pub(crate) fn start_on(kafka: &'k Kafka, layout: &Layout, properties: &str) -> Node<'k> {
        let mut node = Node::spawn(kafka, layout, properties);
        node.wait_until_ready();
        node
    }

    /// Starts where it must not: what it said before it exited.
    pub(crate) fn refused(kafka: &'k Kafka, layout: &Layout, properties: &str) -> String {
        let mut node = Node::spawn(kafka, layout, properties);
        let status = node.wait();
        assert!(!status.success() && !node.log().contains("Kafka Server started"), "{status}: {}", node.complaints());
        node.log()
    }

    fn spawn(kafka: &'k Kafka, layout: &Layout, properties: &str) -> Node<'k> {
        let turn = ONE_BROKER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (port, controller) = free_ports();
        let theirs: String =
            properties.lines().filter(|line| !is_place(line)).map(|line| format!("{line}\n")).collect();
        let file = layout.beside("server.properties");
        fs::write(&file, format!("{HASTE}{theirs}{}", layout.properties(port, controller))).expect("server.properties");
        let log = layout.beside("broker.log");
        let output = File::create(&log).expect("the broker's log can be created");
        let process = kafka
            .java(512, "info")
            .arg("broker")
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("java starts");
        Node { kafka, process, port, log, started: Instant::now(), took: Duration::ZERO, _turn: turn }
    }

    fn wait_until_ready(&mut self) {
        while !self.log().contains("Kafka Server started") {
            if let Some(status) = self.process.try_wait().expect("the broker is our child") {
                panic!("the broker exited at start ({status}): {}", self.complaints());
            }
            assert!(
                self.started.elapsed() < Duration::from_secs(90),
                "the broker is not ready after 90 s: {}",
                self.complaints()
            );
            thread::sleep(Duration::from_millis(50));
        }
        self.took = self.started.elapsed();
    }

    /// A client process connected to this broker.
    pub(crate) fn client(&self) -> Client<'k> {
        Client::start(self.kafka, self.port)
    }

    /// SIGTERM, as an operator stops a broker: it trims its indexes and leaves the clean-shutdown marker.
    pub(crate) fn stop(mut self) -> String {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM).expect("the broker is our child");
        let status = self.wait();
        // A JVM that ends by SIGTERM says 128 + 15.
        assert_eq!(status.code(), Some(143), "the broker did not stop cleanly: {}", self.complaints());
        self.log()
    }

    /// kill -9: no marker, indexes at 10 MiB, `.lock` left behind.
    pub(crate) fn kill(mut self) -> String {
        self.process.kill().expect("the broker is our child");
        self.wait();
        self.log()
    }

    fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("the broker is our child") {
                return status;
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "the broker still runs after 60 s: {}",
                self.complaints()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything that the broker printed so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("the broker's log can be read")).into_owned()
    }

    /// Its warnings and errors, or the end of its log where it has none.
    pub(crate) fn complaints(&self) -> String {
        let log = self.log();
        let loud = |line: &&str| {
            [" ERROR ", " FATAL ", "Exception"].iter().any(|word| line.contains(word)) && !line.contains(" INFO ")
        };
        let mut lines: Vec<_> = log.lines().filter(loud).take(30).collect();
        if lines.is_empty() {
            lines = log.lines().rev().take(10).collect();
        }
        format!("\n{}", lines.join("\n"))
    }

    /// Waits until a retention round has passed over every partition: a topic of ours that had to go is gone.
    pub(crate) fn sit_out_a_retention_round(&self, client: &mut Client) {
        let canary = "retention-canary";
        client.ask(&["create", canary, "1", "retention.ms=1"]);
        client.ask(&["send", canary, "0", "1000", "~", "00"]);
        let started = Instant::now();
        while client.offsets(canary, "earliest")[0].offset == 0 {
            assert!(started.elapsed() < Duration::from_secs(60), "no retention round in 60 s: {}", self.complaints());
            thread::sleep(Duration::from_millis(100));
        }
        client.ask(&["delete", canary]);
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        // Already gone after stop() and kill(); otherwise a test failed while it ran.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("the broker on port {} said: {}", self.port, self.complaints());
        }
    }
}

/// The smallest server.properties for a single node.
pub(crate) const SINGLE_NODE: &str = "process.roles=broker,controller\nnode.id=1\noffsets.topic.replication.factor=1\n\
    offsets.topic.num.partitions=1\ntransaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
    transaction.state.log.num.partitions=1\nshare.coordinator.state.topic.replication.factor=1\n\
    share.coordinator.state.topic.min.isr=1\nshare.coordinator.state.topic.num.partitions=1\n\
    group.initial.rebalance.delay.ms=0\n";

/// Lets a broker make a directory of its own, with the newest features that it has.
pub(crate) fn format(kafka: &Kafka, data: &Path) {
    format_on(kafka, &Layout::of(data), &[]);
}

/// The same for a layout, with further options of `kafka-storage format`.
pub(crate) fn format_on(kafka: &Kafka, layout: &Layout, options: &[&str]) {
    let file = layout.beside("format.properties");
    fs::write(&file, format!("{SINGLE_NODE}{}", layout.properties(9092, 9093))).expect("format.properties");
    let file = file.to_str().expect("a UTF-8 path");
    let mut arguments = vec!["format", "-t", "dGhhbHdlZyBpbnRlcm9wIQ", "-c", file];
    arguments.extend(layout.standalone.then_some("--standalone"));
    arguments.extend(options);
    Client::offline(kafka).tool("kafka.tools.StorageTool", &arguments);
}

/// A line of server.properties that the layout says anew; the quorum must not be told in both ways.
fn is_place(line: &str) -> bool {
    ["controller.quorum.", "log.dirs="].iter().any(|start| line.starts_with(start))
}

fn free_ports() -> (u16, u16) {
    let [a, b] = [0, 0].map(|any| TcpListener::bind(("127.0.0.1", any)).expect("a free port"));
    let port = |listener: &TcpListener| listener.local_addr().expect("a bound socket").port();
    (port(&a), port(&b))
}

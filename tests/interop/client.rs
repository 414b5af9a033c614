//! The stock client, admin and console tools, in one JVM (`java/Driver.java`).

use std::ops::{Deref, DerefMut};

use crate::kafka::Kafka;
use crate::peer::Peer;

/// The driver process; it ends when this is dropped.
pub(crate) struct Client<'k> {
    pub(crate) kafka: &'k Kafka,
    bootstrap: String,
    peer: Peer,
}

impl<'k> Client<'k> {
    pub(crate) fn start(kafka: &'k Kafka, port: u16) -> Client<'k> {
        let bootstrap = format!("localhost:{port}");
        let peer = Peer::start(kafka.java(256, "error").args(["client", &bootstrap]));
        Client { kafka, bootstrap, peer }
    }

    /// For the tools that read files and talk to nobody.
    pub(crate) fn offline(kafka: &'k Kafka) -> Client<'k> {
        Client::start(kafka, 0)
    }

    /// Runs a console tool in this JVM; its output, line by line.
    pub(crate) fn tool(&mut self, class: &str, args: &[&str]) -> Vec<String> {
        self.ask(&[&["tool", class], args].concat())
    }

    /// The same for a tool that talks to the broker.
    pub(crate) fn online_tool(&mut self, class: &str, args: &[&str]) -> Vec<String> {
        let bootstrap = self.bootstrap.clone();
        self.tool(class, &[&["--bootstrap-server", &bootstrap], args].concat())
    }
}

impl Deref for Client<'_> {
    type Target = Peer;

    fn deref(&self) -> &Peer {
        &self.peer
    }
}

impl DerefMut for Client<'_> {
    fn deref_mut(&mut self) -> &mut Peer {
        &mut self.peer
    }
}

//! Our own broker in a child process, so that it can be killed: the parent's handle, and the child that
//! answers the same commands as the Java driver.

use std::path::Path;
use std::process::Command;

use crate::peer::Peer;

const SERVE: &str = "THALWEG_INTEROP_SERVE";

/// A directory open in a child process.
pub(crate) struct Ours {
    peer: Peer,
}

impl Ours {
    pub(crate) fn open(data: &Path) -> Ours {
        let myself = std::env::current_exe().expect("the path of this test");
        let arguments = ["--exact", "ours::serve", "--nocapture", "--test-threads=1"];
        let mut peer = Peer::start(Command::new(myself).args(arguments).env(SERVE, data));
        peer.await_line("ready");
        Ours { peer }
    }

    /// What `Broker::server_properties` says that a stock broker needs here.
    pub(crate) fn server_properties(&mut self) -> String {
        self.peer.ask(&["server-properties"]).join("\n")
    }

    pub(crate) fn close(mut self) {
        self.peer.ask(&["close"]);
    }

    /// kill -9: whatever was acknowledged must survive, nothing was closed.
    pub(crate) fn kill(self) {
        self.peer.kill();
    }
}

impl std::ops::Deref for Ours {
    type Target = Peer;

    fn deref(&self) -> &Peer {
        &self.peer
    }
}

impl std::ops::DerefMut for Ours {
    fn deref_mut(&mut self) -> &mut Peer {
        &mut self.peer
    }
}

/// The child's side; in the parent's own run there is nothing to serve.
#[test]
fn serve() {}

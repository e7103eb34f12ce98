//! The hosts on which clients meet our epmd.

use std::process::Command;
use std::time::Duration;

use super::common::binary::{Output, finish_within};
use super::common::erl::Erl;
use super::common::netns::{Host, network};
use super::common::service::{Service, brief};
use super::common::wait_for;
use super::common::wire::Answer;

/// What the nodes trust each other by.
pub(crate) const COOKIE: &str = "cluster";
/// How long a client may take, the start of its VM on a busy machine included.
const CLIENT_PATIENCE: Duration = Duration::from_secs(120);

/// Three hosts: 10.77.0.1, 10.77.0.2 and 10.77.0.3.
pub(crate) fn hosts() -> [Host; 3] {
    network(["api", "friend", "stranger"])
}

/// Our epmd on one host, with a node, admitting another host.
pub(crate) struct Scene<'h> {
    service: Service<'h>,
    _node: Erl,
    /// The node's distribution port.
    pub(crate) port: String,
}

impl<'h> Scene<'h> {
    pub(crate) fn on(api: &'h Host, friend: &Host) -> Self {
        let service = Service::start(api, &admitting(friend));
        let mut node = Erl::named(api, "api@api.test", &[]);
        let port = node.eval("element(2, erl_epmd:port_please(\"api\", \"api.test\"))");
        Self {
            service,
            _node: node,
            port,
        }
    }

    /// Waits until a name is free whose node has ended.
    pub(crate) fn wait_until_free(&self, name: &str) {
        let lookup = [b"z", name.as_bytes()].concat();
        let free = Answer::Bytes(b"w\x01".to_vec());
        wait_for("a name to be free", || {
            (self.service.ask(&lookup) == free).then_some(())
        });
    }

    /// What the audit told since the last call.
    pub(crate) fn events(&self) -> Vec<String> {
        self.service.other_events().iter().map(brief).collect()
    }
}

/// A file that admits this host.
pub(crate) fn admitting(friend: &Host) -> String {
    let (v4, v6) = (friend.v4(), friend.v6());
    format!("[access]\nallow = [\"{v4}\", \"{v6}\"]\n[audit]\nformat = \"json\"\n")
}

/// A program with nothing of this process's environment but its path.
pub(crate) fn client(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C.UTF-8");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// Runs a client on a host to its end.
pub(crate) fn run(host: &Host, command: &mut Command) -> Output {
    command.env("HOME", host.file(""));
    host.enter(|| finish_within(command, CLIENT_PATIENCE))
        .unwrap_or_else(|| panic!("{command:?} does not end"))
}

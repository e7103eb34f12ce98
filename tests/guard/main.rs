//! `epmd -guard`: the rules for the nodes' own ports, on hosts made of namespaces, with real nodes.
//!
//! - `cluster`: three nodes form one through it, a stranger is turned away and written down, over both families.
//! - `lists`: lists by name, deny, enforce, reload, and who the holder of a port is.
//! - `lasting`: restart and kill of daemon, guard and nodes; two guards; what others do to the rules.
//! - `bad`: what is missing or makes no sense.
//! - `many`: 20,000 networks, a flood, a thousand registrations.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]

#[path = "../common/mod.rs"]
mod common;

mod bad;
mod cluster;
mod lasting;
mod lists;
mod many;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use common::binary::{Epmd, Output};
use common::netns::Host;
use common::service::{Launch, Service};
use common::wait_for;
use common::wire::{Node, register};

/// The guard's table, whole.
const TABLE: &str = "inet hardened_epmd";

/// A file with these lines in [access].
fn file(access: &str) -> String {
    format!("[access]\n{access}\n[audit]\nformat = \"json\"\nwindow = \"1s\"\n")
}

/// A guard on this host, by the file that its daemon has; returns when it is in step.
fn guard<'h>(host: &'h Host, config: &str) -> Service<'h> {
    let guard = unasked(host, config);
    guard.wait_until_said("in step with the daemon");
    guard
}

/// The same, at once.
fn unasked<'h>(host: &'h Host, config: &str) -> Service<'h> {
    Launch::on(host)
        .config(config)
        .arguments(&["-guard"])
        .start_unasked()
}

/// Runs one of our commands on a host, by this file.
fn epmd(host: &Host, arguments: &[&str]) -> Output {
    let mut command = Epmd::Ours.command();
    host.run(
        command
            .env("EPMD_CONFIG", host.file("epmd.toml"))
            .args(arguments),
    )
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    Accepted,
    Reset,
    Other,
}

/// A link that has just come up may lose packets: what is neither is tried again.
fn meet(host: &Host, to: impl Into<SocketAddr>) -> Met {
    let to = to.into();
    let tries = (0..3).map(|_| meet_once(host, to));
    tries
        .into_iter()
        .find(|met| *met != Met::Other)
        .unwrap_or(Met::Other)
}

fn meet_once(host: &Host, to: SocketAddr) -> Met {
    match host.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(3))) {
        Ok(_) => Met::Accepted,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Met::Reset,
        Err(error) => {
            println!("{to}: {error}");
            Met::Other
        }
    }
}

/// Waits until a connection begins so.
fn until_met(host: &Host, to: impl Into<SocketAddr>, met: Met) -> Duration {
    let (to, begin) = (to.into(), Instant::now());
    wait_for(&format!("{met:?} at {to}"), || {
        (meet(host, to) == met).then_some(())
    });
    begin.elapsed()
}

/// A node that is no more than a name and a socket, registered by this process.
struct Stand {
    _name: TcpStream,
    listener: TcpListener,
}

impl Stand {
    fn up(host: &Host, service: &Service<'_>, name: &str, listen: &str) -> Self {
        let listen: SocketAddr = listen.parse().expect("an address");
        let listener = host.enter(|| TcpListener::bind(listen)).expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let node = Node {
            port,
            ..Node::new(name)
        };
        let name = register(service.connect(), &node).held().0;
        Self {
            _name: name,
            listener,
        }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().expect("an address").port()
    }

    /// Takes who has connected, so that there is room for more.
    fn take_all(&self) {
        self.listener.set_nonblocking(true).expect("an option");
        while self.listener.accept().is_ok() {}
        self.listener.set_nonblocking(false).expect("an option");
    }

    fn at(&self, address: IpAddr) -> SocketAddr {
        (address, self.port()).into()
    }
}

/// What nft says of the host, as text.
fn nft(host: &Host, words: &str) -> Output {
    host.run(Command::new("nft").args(words.split(' ')))
}

/// The table as text.
fn rules(host: &Host) -> String {
    nft(host, &format!("list table {TABLE}")).stdout
}

/// The guard's events that say this, waited for.
fn event(guard: &Service<'_>, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_for("an event of the guard", || {
        guard.events().into_iter().find(|e| wanted(e))
    })
}

/// The daemon's status.
fn status(host: &Host) -> Value {
    let output = epmd(host, &["-status", "-json"]);
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

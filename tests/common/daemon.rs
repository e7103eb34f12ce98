//! An epmd in the foreground for the length of a test, on a port of its own.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use super::binary::{Epmd, Output, finish, text, under_test};
use super::host::{free_port, has_ipv6, listeners, process};
use super::wire::{Answer, Node, Registration, ask, frame, masked, register};
use super::{connect, wait_for};

/// How a daemon is to be started.
pub(crate) struct Setup {
    epmd: Epmd,
    arguments: Vec<OsString>,
    variables: Vec<(String, String)>,
    config: Option<NamedTempFile>,
    port_variable: bool,
}

impl Setup {
    /// The epmd under test, with nothing set.
    pub(crate) fn new() -> Self {
        Self::of(under_test())
    }

    /// This very epmd, whatever is under test.
    pub(crate) fn of(epmd: Epmd) -> Self {
        Self {
            epmd,
            arguments: Vec::new(),
            variables: Vec::new(),
            config: None,
            port_variable: false,
        }
    }

    /// With more arguments.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(OsString::from));
        self
    }

    /// With an environment variable.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With its port told by `ERL_EPMD_PORT` in place of `-port`.
    pub(crate) fn port_by_variable(mut self) -> Self {
        self.port_variable = true;
        self
    }

    /// With this text as its file (ours alone has one).
    pub(crate) fn config(mut self, toml: &str) -> Self {
        let mut file = NamedTempFile::new().expect("a temporary file");
        file.write_all(toml.as_bytes()).expect("a written file");
        self.arguments.push("-config".into());
        self.arguments.push(file.path().into());
        self.config = Some(file);
        self
    }

    /// Starts it, and returns when it listens on loopback. A port that somebody else took first
    /// is given up for another one.
    pub(crate) fn start(self) -> Daemon {
        const ATTEMPTS: usize = 5;
        let mut said = Vec::new();
        for _ in 0..ATTEMPTS {
            let mut daemon = self.spawn();
            let ended = wait_for("the daemon to listen", || {
                daemon
                    .ended()
                    .map(Some)
                    .or_else(|| daemon.listens_on_loopback().then_some(None))
            });
            match ended {
                None => {
                    daemon.config = self.config;
                    return daemon;
                }
                Some(status) => said.push(format!("{status}: {}", daemon.stderr())),
            }
        }
        panic!("the daemon does not start: {said:#?}");
    }

    /// Starts it on a free port, whatever becomes of it.
    fn spawn(&self) -> Daemon {
        let port = free_port();
        let stderr = tempfile::tempfile().expect("a temporary file");
        let mut command = self.epmd.command();
        if self.port_variable {
            command.env("ERL_EPMD_PORT", port.to_string());
        } else {
            command.args(["-port", &port.to_string()]);
        }
        let child = command
            .args(&self.arguments)
            .envs(self.variables.clone())
            .stdout(stderr.try_clone().expect("a second descriptor"))
            .stderr(stderr.try_clone().expect("a second descriptor"))
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Daemon {
            epmd: self.epmd,
            port,
            child,
            stderr,
            config: None,
        }
    }
}

/// A running epmd; dropping it ends it.
pub(crate) struct Daemon {
    /// Which one it is.
    pub(crate) epmd: Epmd,
    /// Where it listens.
    pub(crate) port: u16,
    child: Child,
    stderr: File,
    /// Lives as long as the daemon, which may read it again.
    config: Option<NamedTempFile>,
}

impl Daemon {
    /// The epmd under test, with nothing set.
    pub(crate) fn start() -> Self {
        Setup::new().start()
    }

    /// The epmd under test with these arguments.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        Setup::new().arguments(arguments).start()
    }

    /// Its file, where it was given one by [`Setup::config`].
    pub(crate) fn config(&self) -> Option<&std::path::Path> {
        self.config.as_ref().map(NamedTempFile::path)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child's status")
    }

    /// Its exit status, waited for.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the end of the daemon", || self.ended())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("a process to signal");
    }

    /// Stops it (SIGSTOP) while `meanwhile` runs, so that all of that is there when it goes on.
    pub(crate) fn paused<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        process::paused(self.pid(), meanwhile)
    }

    /// What it wrote to its standard output and error so far.
    pub(crate) fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// The addresses on which it listens.
    pub(crate) fn listeners(&self) -> BTreeSet<IpAddr> {
        listeners(self.pid(), self.port)
    }

    /// Whether it (and nobody else) listens on every loopback that this host has.
    fn listens_on_loopback(&self) -> bool {
        let addresses = self.listeners();
        let one_of =
            |all: IpAddr, own: IpAddr| addresses.contains(&all) || addresses.contains(&own);
        one_of(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into())
            && (!has_ipv6() || one_of(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()))
    }

    /// A connection to it over IPv4.
    pub(crate) fn connect(&self) -> TcpStream {
        self.connect_to(Ipv4Addr::LOCALHOST.into())
    }

    /// A connection to it at this address.
    pub(crate) fn connect_to(&self, address: IpAddr) -> TcpStream {
        connect(address, self.port)
    }

    /// Sends a request, with its length in front, and reads until the close.
    pub(crate) fn request(&self, body: &[u8]) -> Answer {
        self.send(&frame(body))
    }

    /// Sends these very bytes and reads until the close.
    pub(crate) fn send(&self, bytes: &[u8]) -> Answer {
        ask(self.connect(), bytes)
    }

    /// Tries to register `node`.
    pub(crate) fn register(&self, node: &Node) -> Registration {
        register(self.connect(), node)
    }

    /// Registers a node of this name, which must succeed; the connection holds it.
    pub(crate) fn hold(&self, name: &str) -> TcpStream {
        self.register(&Node::new(name)).held().0
    }

    /// The answer to a lookup of `name`.
    pub(crate) fn lookup(&self, name: impl AsRef<[u8]>) -> Answer {
        self.request(&[b"z", name.as_ref()].concat())
    }

    /// Whether `name` is registered.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.lookup(name) != Answer::Bytes(b"w\x01".to_vec())
    }

    /// Waits until `name` is free. A lookup that follows the holder's close is not enough: the
    /// daemon may see the two in either order.
    pub(crate) fn wait_until_free(&self, name: &str) {
        wait_for("a name to be free", || (!self.knows(name)).then_some(()));
    }

    /// The answer to a list.
    pub(crate) fn names(&self) -> Answer {
        self.request(b"n")
    }

    /// The answer to a dump: the port, and the lines with every descriptor's number masked.
    pub(crate) fn dump(&self) -> (u32, String) {
        let Answer::Bytes(bytes) = self.request(b"d") else {
            panic!("no answer to a dump");
        };
        let (port, lines) = bytes.split_first_chunk::<4>().expect("a port");
        let lines = std::str::from_utf8(lines).expect("UTF-8");
        (u32::from_be_bytes(*port), masked(lines))
    }

    /// The client of the same epmd, told this daemon's port, with the command `arguments`.
    pub(crate) fn client(&self, arguments: &[&str]) -> Output {
        self.client_of(self.epmd, arguments)
    }

    /// As [`Self::client`], of this very epmd.
    pub(crate) fn client_of(&self, epmd: Epmd, arguments: &[&str]) -> Output {
        finish(&mut self.client_command(epmd, arguments))
    }

    /// The client command, not yet run.
    fn client_command(&self, epmd: Epmd, arguments: &[&str]) -> Command {
        let mut command = epmd.command();
        command
            .args(["-port", &self.port.to_string()])
            .args(arguments);
        command
    }

    /// Fails the test unless it still answers.
    pub(crate) fn assert_alive(&self) {
        assert!(
            matches!(self.names(), Answer::Bytes(_)),
            "{}",
            self.stderr()
        );
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Time that a daemon is to let pass, less what clocks and rounding may take from it.
pub(crate) fn about(seconds: u64) -> Duration {
    Duration::from_millis(seconds * 1000 - 100)
}

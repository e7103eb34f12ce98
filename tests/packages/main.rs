//! The .deb on booted hosts with the real packages of Erlang, RabbitMQ and ejabberd: what it does to a host
//! whose nodes run, and that its removal undoes all of it.
//!
//! Needs root, and the packages that `release/build --draft --into target/packages` makes (tests/run does).
//! `EPMD_TEST_HOST` says which Debian.
//!
//! - `life`: one host's life with the package, from its installation to its purge, with applications.
//! - `scenes`: hosts that are otherwise: units masked, settings broken, a disk full, no erlang, no systemd.
//! - `snapshot`: a host's files, units and diversions, to be compared before and after.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]

#[path = "../common/mod.rs"]
mod common;

mod life;
mod scenes;
mod snapshot;

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::binary::Output;
use common::nspawn::Host;
use common::wire::{Answer, Node, ask, frame, lookup_answer, register};
use common::{connect, wait_for};

/// epmd's port on the hosts.
const PORT: u16 = 4369;
/// Where the host finds the package, and the same as an older and a newer version.
const PACKAGE: &str = "/root/hardened-epmd.deb";
const OLDER: &str = "/root/hardened-epmd-older.deb";

/// Where `release/build` has put what is tested.
fn packages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/packages")
}

/// The one whose name ends so.
fn package(end: &str) -> PathBuf {
    let folder = packages();
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| {
        panic!("{folder:?}: {error}; release/build --draft --into target/packages makes it")
    });
    let mut paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .find(|path| path.to_str().is_some_and(|it| it.ends_with(end)))
        .unwrap_or_else(|| panic!("no {end}"))
}

/// A host with the package's file on it, not installed.
struct Stage<'a> {
    host: &'a Host,
}

impl Deref for Stage<'_> {
    type Target = Host;

    fn deref(&self) -> &Host {
        self.host
    }
}

/// Runs a test on a host of its own, in the host's network.
fn on_a_host(test: impl FnOnce(&Stage<'_>) + Send) {
    let package = fs::read(package(".deb")).expect("the package");
    let host = Host::boot();
    let stage = Stage { host: &host };
    stage.write(PACKAGE, package);
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            host.enter_network();
            test(&stage);
        });
        thread.join()
    });
    if let Err(panic) = outcome {
        let journal = host.run(&["sh", "-c", "journalctl --no-pager -u '*epmd*' | tail -n 60"]);
        eprintln!("{}", journal.stdout);
        std::panic::resume_unwind(panic);
    }
}

/// What an installation, an upgrade or a removal said, and how long it took.
struct Said {
    output: Output,
    took: Duration,
}

impl Said {
    /// What the package's own scripts said, line by line.
    fn own(&self) -> Vec<&str> {
        let lines = self.output.stdout.lines();
        lines
            .filter_map(|line| line.strip_prefix("hardened-epmd: "))
            .collect()
    }
}

impl Stage<'_> {
    /// Runs a command line, well or not.
    fn try_to(&self, command: &str) -> Said {
        let begin = Instant::now();
        let output = self.run(&["sh", "-c", command]);
        Said {
            output,
            took: begin.elapsed(),
        }
    }

    /// Runs a command line of a package manager, which must succeed and have nothing to complain of.
    fn does(&self, command: &str) -> Said {
        let said = self.try_to(command);
        assert_eq!(said.output.status, Some(0), "{command}: {:?}", said.output);
        let complaints = said.output.stderr.lines().filter(|line| {
            // apt's and debconf's, who look for a terminal or a pty; and of the tree's having no locales.
            !line.trim().is_empty()
                && ![
                    "debconf:",
                    "perl:",
                    "locale:",
                    "W: Download is performed",
                    "N: Download is",
                    "E: Can not write log",
                ]
                .iter()
                .any(|begin| line.starts_with(begin))
        });
        let complaints: Vec<_> = complaints.collect();
        assert!(complaints.is_empty(), "{command}: {complaints:#?}");
        said
    }

    /// Installs a package as its user does it.
    fn install_package(&self, package: &str) -> Said {
        self.does(&format!(
            "DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet {package}"
        ))
    }

    /// Installs the package, which must say that it is in force and where to let peers in.
    fn install_ours(&self, package: &str) -> Said {
        let said = self.install_package(package);
        self.is_in_force();
        let own = said.own();
        let [.., force, peers] = own.as_slice() else {
            panic!("{own:?}")
        };
        assert!(force.starts_with("serving "), "{own:?}");
        assert!(
            peers.contains("[access] allow in /etc/epmd.toml")
                && peers.ends_with("systemctl reload hardened-epmd"),
            "{own:?}"
        );
        said
    }

    /// Removes the package; `how` is `remove` or `purge`.
    fn take_away(&self, how: &str) -> Said {
        let said = self.does(&format!(
            "DEBIAN_FRONTEND=noninteractive apt-get {how} --yes --quiet hardened-epmd"
        ));
        for unit in ["hardened-epmd.service", "hardened-epmd.socket"] {
            assert_eq!(self.state("is-active", unit), "inactive", "{unit}");
        }
        said
    }

    /// What `systemctl VERB UNIT` says, in its first line.
    fn state(&self, verb: &str, unit: &str) -> String {
        let output = self.run(&["systemctl", verb, unit]);
        output.stdout.lines().next().unwrap_or_default().to_owned()
    }

    /// Fails unless ours serves, under its unit, with the package's files.
    fn is_in_force(&self) {
        assert_eq!(self.state("is-active", "hardened-epmd.service"), "active");
        assert_eq!(self.state("is-enabled", "hardened-epmd.service"), "enabled");
        assert!(self.must("epmd -version").starts_with("hardened-epmd "));
        let main = self.main_pid("hardened-epmd.service");
        assert_eq!(
            self.must(&format!("readlink /proc/{main}/exe")),
            "/usr/bin/epmd\n"
        );
        // Nobody else's, and the units are the package's.
        assert_eq!(self.must("pgrep -x epmd"), format!("{main}\n"));
        let fragment = self.must("systemctl show --value -p Description epmd.service");
        assert!(fragment.contains("hardened-epmd.service"), "{fragment}");
        for masked in ["epmd.socket", "epmd@.socket"] {
            assert_eq!(self.state("is-enabled", masked), "masked", "{masked}");
        }
    }

    /// Fails unless stock's own answers and nothing of ours is left running.
    fn stock_serves(&self) {
        wait_for("stock epmd", || {
            (self.run(&["epmd", "-names"]).status == Some(0)).then_some(())
        });
        let program = self.must("readlink -f /usr/bin/epmd");
        assert!(program.starts_with("/usr/lib/erlang/"), "{program}");
        let running = self.must("readlink /proc/$(pgrep -xo epmd)/exe");
        assert!(running.starts_with("/usr/lib/erlang/"), "{running}");
    }

    /// A unit's main process.
    fn main_pid(&self, unit: &str) -> String {
        let pid = self.must(&format!("systemctl show --value -p MainPID {unit}"));
        pid.trim_end().to_owned()
    }

    /// Starts stock's units, as a host has them after a boot.
    fn start_stock(&self) {
        self.must("systemctl --quiet enable epmd.service epmd.socket");
        self.must("systemctl start epmd.socket epmd.service");
        self.stock_serves();
    }
}

/// Nodes that hold a name by their connections, and do not register again.
struct Nodes(Vec<(Node, TcpStream)>);

impl Nodes {
    /// Registers some.
    fn register() -> Self {
        let node = |number: u16| Node::new(format!("held{number}")).port(10_000 + number);
        let held = (0..20).map(node).map(|node| {
            let (stream, _) = register(local(), &node).held();
            (node, stream)
        });
        Self(held.collect())
    }

    /// Fails unless each has its connection and is found.
    fn are_kept(&self, when: &str) {
        for (node, stream) in &self.0 {
            stream.set_nonblocking(true).expect("non-blocking");
            let peek = stream.peek(&mut [0]);
            stream.set_nonblocking(false).expect("blocking");
            let is_open = peek.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
            assert!(is_open, "{when}: a node has lost its connection");
            let answer = ask(local(), &frame(&[b"z", &*node.name].concat()));
            let found = Answer::Bytes(lookup_answer(Some(node)));
            assert_eq!(answer, found, "{when}");
        }
    }
}

fn local() -> TcpStream {
    connect(Ipv4Addr::LOCALHOST.into(), PORT)
}

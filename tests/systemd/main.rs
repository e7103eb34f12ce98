//! epmd as a service of a real systemd: each test boots a throwaway host, installs the unit of this
//! tree there, and looks at what an operator would look at.
//!
//! Needs root, and fails where no host can be booted, saying what is missing. `EPMD_TEST_LONG=1` runs
//! longer forms.
//!
//! - `applications`: RabbitMQ and ejabberd, whatever happens to the daemon.
//! - `unit`: the start, the process, the sandbox, the watchdog.
//! - `sandbox`: what the daemon can do there, where the host lets it use Landlock.
//! - `settings`: environment and file, good and bad, at a start, a reload and a restart.
//! - `journal`: a refusal read back by field, and what the catalogue says under it.
//! - `sockets`: socket activation, by our socket unit and by Debian's.
//! - `survival`: what restarts and kills cost: nothing.
//! - `takeover`: the place of another epmd, taken by the unit.
//! - `release`: what goes when it should: dead nodes, released names, old creations.
//! - `names`: whose a name is, asked from inside the sandbox.
//! - `few`: a store that holds much beside few descriptors.
//! - `guard`: the guard of the nodes' own ports, as a unit of its own.
//! - `junk`: a store that holds what makes no sense.
//! - `load`: nodes that hold names, and lookups without a pause.
//! - `watch`: the watch, as a unit of its own.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

#[path = "../common/mod.rs"]
mod common;

mod applications;
mod few;
mod guard;
mod journal;
mod junk;
mod load;
mod names;
mod release;
mod sandbox;
mod settings;
mod sockets;
mod survival;
mod takeover;
mod unit;
mod watch;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::ops::Deref;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::host::process;
use common::nspawn::Host;
use common::wire::{Answer, Node, ask, frame, register};
use common::{connect, wait_for};

/// epmd's port on the hosts.
const PORT: u16 = 4369;

/// Where the host finds the files of this tree.
const FILES: [(&str, &str); 4] = [
    ("epmd.service", "/etc/systemd/system/epmd.service"),
    (
        "hardened-epmd.service",
        "/etc/systemd/system/hardened-epmd.service",
    ),
    (
        "hardened-epmd.socket",
        "/etc/systemd/system/hardened-epmd.socket",
    ),
    ("epmd.catalog", "/usr/lib/systemd/catalog/epmd.catalog"),
];

/// Whether the longer forms of tests run.
fn long() -> bool {
    std::env::var_os("EPMD_TEST_LONG").is_some_and(|value| value == "1")
}

/// The epmd that this tree builds.
fn program() -> Vec<u8> {
    fs::read(env!("CARGO_BIN_EXE_epmd")).expect("our epmd")
}

/// A host with epmd installed as its unit, not started.
struct Service<'a> {
    host: &'a Host,
}

impl Deref for Service<'_> {
    type Target = Host;

    fn deref(&self) -> &Host {
        self.host
    }
}

/// Runs a test on a host of its own, in the host's network. epmd is installed there as a package would
/// do it, and not started.
fn on_a_host(test: impl FnOnce(&Service<'_>) + Send) {
    on_a_stock_host(|service| {
        service.install_ours();
        test(service);
    });
}

/// Runs a test on a host of its own, in the host's network, where stock epmd is installed as Debian's
/// package does it, and not started.
fn on_a_stock_host(test: impl FnOnce(&Service<'_>) + Send) {
    on_this_host(&Host::boot(), test);
}

/// As [`on_a_host`], where Landlock can be used.
fn on_a_host_with_landlock(test: impl FnOnce(&Service<'_>) + Send) {
    on_this_host(&Host::boot_with_landlock(), |service| {
        service.install_ours();
        test(service);
    });
}

fn on_this_host(host: &Host, test: impl FnOnce(&Service<'_>) + Send) {
    let service = Service { host };
    service.write_file("sysusers.d/epmd.conf", "/etc/sysusers.d/epmd.conf");
    host.must("systemd-sysusers");
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            host.enter_network();
            test(&service);
        });
        thread.join()
    });
    if let Err(panic) = outcome {
        eprintln!(
            "{}",
            host.must("journalctl --no-pager -u '*epmd*' | tail -n 60")
        );
        std::panic::resume_unwind(panic);
    }
}

/// A connection to this host's epmd.
fn local() -> TcpStream {
    connect(Ipv4Addr::LOCALHOST.into(), PORT)
}

/// A connection to the epmd at an address of this host.
fn at(address: &str) -> TcpStream {
    let address: IpAddr = address.parse().expect("an address");
    connect(address, PORT)
}

/// Asks for a name on a connection.
fn lookup(stream: TcpStream, name: impl AsRef<[u8]>) -> Answer {
    ask(stream, &frame(&[b"z", name.as_ref()].concat()))
}

/// The answer where there is no such name.
fn unknown() -> Answer {
    Answer::Bytes(b"w\x01".to_vec())
}

/// Registers a node; the connection holds its name. Gives its creation as well.
fn hold(node: &Node) -> (TcpStream, u32) {
    register(local(), node).held()
}

/// Sends a signal.
fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("a signal sent");
}

impl Service<'_> {
    /// Installs ours over stock, as a package would do it. Nothing is started or stopped.
    fn install_ours(&self) {
        for (file, place) in FILES {
            self.write_file(file, place);
        }
        self.install(&program(), "/usr/bin/epmd");
        self.must("journalctl --update-catalog");
        // With it, systemd reads its units again.
        self.must("systemctl mask --quiet epmd.socket epmd@.socket");
    }

    /// Writes a file of this tree's systemd/ onto the host.
    fn write_file(&self, file: &str, place: &str) {
        let file = format!("{}/systemd/{file}", env!("CARGO_MANIFEST_DIR"));
        let content = fs::read(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
        self.write(place, content);
    }

    /// Runs `systemctl VERB hardened-epmd.service`, which must succeed.
    fn systemctl(&self, verb: &str) {
        self.must(&format!("systemctl {verb} hardened-epmd.service"));
    }

    /// A property of the unit.
    fn property(&self, name: &str) -> String {
        let value = self.must(&format!(
            "systemctl show --value -p {name} hardened-epmd.service"
        ));
        value.trim_end().to_owned()
    }

    /// The daemon's process, and that before it where it still ends; not the takeover's, which comes
    /// between the two, nor the guard's.
    fn daemons(&self) -> Vec<u32> {
        // What is just ending has no arguments any more.
        let is_daemon = |pid: &u32| {
            let arguments = process::arguments(*pid);
            let is_other = |it: &String| it == "-takeover" || it == "-guard";
            !arguments.is_empty() && !arguments.iter().any(is_other)
        };
        let mut all = self.services("epmd");
        all.retain(is_daemon);
        all
    }

    /// The daemon's process.
    fn daemon(&self) -> u32 {
        wait_for("the daemon's process", || {
            let all = self.daemons();
            assert!(all.len() < 2, "{all:?}");
            all.first().copied()
        })
    }

    /// The daemon's process once it is another than `before`.
    fn daemon_after(&self, before: u32) -> u32 {
        wait_for("another daemon", || {
            self.daemons().into_iter().find(|pid| *pid != before)
        })
    }

    /// A field of /proc/PID/status of the daemon.
    fn status_field(&self, name: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon()));
        let status = status.expect("the daemon's status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}"))
            .trim()
            .to_owned()
    }

    /// Everything that the unit has said, message by message.
    fn messages(&self) -> String {
        self.must("journalctl --no-pager -o cat -u hardened-epmd.service")
    }

    /// Waits until the unit has said `text`.
    fn wait_for_message(&self, text: &str) {
        wait_for(text, || self.messages().contains(text).then_some(()));
    }

    /// Sets a file of the unit's that stands beside it (a drop-in).
    fn drop_in(&self, text: &str) {
        self.write(
            "/etc/systemd/system/hardened-epmd.service.d/test.conf",
            text,
        );
        self.must("systemctl daemon-reload");
    }

    /// Ends the daemon without its doing.
    fn kill_daemon(&self) -> u32 {
        let pid = self.daemon();
        signal(pid, Signal::SIGKILL);
        wait_for("the daemon's end", || process::is_over(pid).then_some(()));
        pid
    }
}

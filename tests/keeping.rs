//! Registrations and process 1: what is kept while it hears, and what goes on while it does not.
//!
//! With a service manager of the test's own; `systemd` has the real one.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::binary::{Epmd, spawn, text};
use common::host::free_port;
use common::netns::lone_host;
use common::service::{Launch, Manager, found};
use common::store::Store;
use common::wire::{Answer, Node, Registered, ask, frame, names_answer};
use common::{try_connect, wait_for};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// However long process 1 does not read: no step of a request waits for it.
const SLOWEST: Duration = Duration::from_millis(500);

#[test]
fn a_process_1_that_does_not_read_holds_nobody_up() {
    const NAMES: usize = 1200;
    let host = lone_host();
    let manager = Manager::on(&host);
    let service = Launch::on(&host)
        .under(&manager)
        .variable("WATCHDOG_USEC", "100000")
        .start();
    manager.wait_until_told("READY=1");
    manager.stop_hearing();
    let mut held = Vec::new();
    for number in 0..NAMES {
        let start = Instant::now();
        held.push(service.hold(&format!("n{number}")));
        if number % 100 == 0 {
            service.signal(Signal::SIGHUP);
            assert_eq!(service.ask(b"zn0"), found("n0"));
        }
        assert!(start.elapsed() < SLOWEST, "{number}: {:?}", start.elapsed());
    }
    service.wait_until_said("registrations will not survive a restart: ");
    let said = |words| service.said().matches(words).count();
    assert_eq!(said("registrations will not survive"), 1, "told once");

    // It reads again: what was to be said and kept is.
    manager.wait_until_told("RELOADING=1");
    manager.wait_until_told("READY=1");
    manager.wait_until_told("FDNAME=drawer-2-out");
    manager.wait_until_told("WATCHDOG=1");
    // It goes on reading meanwhile, or it is full again.
    wait_for("all to be kept", || {
        manager.hear();
        let again = "registrations will survive a restart again";
        service.said().contains(again).then_some(())
    });
    assert_eq!(service.ask(b"zn1199"), found("n1199"));
    drop(held);
}

/// A node that is registered and can't be told so is told of: in the audit, as what was refused.
#[test]
fn a_local_registration_that_fails_is_told() {
    let host = lone_host();
    let service = Launch::on(&host)
        .config("[audit]\nformat = \"json\"\n")
        .wrapped(&[
            "strace",
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=epoll_ctl",
            "-e",
            "inject=epoll_ctl:error=ENOSPC:when=20+",
        ])
        .start();
    let refused = |number: &u32| {
        let node = Node::new(format!("n{number}"));
        service.register(&node).end == Registered::Closed
    };
    let failed = (0..40).find(refused);
    let number = failed.map_or_else(|| "none".to_owned(), |number| number.to_string());
    let event = format!("refused register of n{number} from 127.0.0.1: too_many");
    let told = service.expect_event(&event);
    let message = told["message"].to_string();
    assert!(message.contains("fs.epoll.max_user_watches"), "{message}");
}

/// An epmd with `-systemd` and what the store holds; dropping it kills it, and whoever traces it.
struct Kept {
    group: Child,
    stderr: File,
    port: u16,
}

impl Kept {
    /// By way of these words; returns at once.
    fn start(store: &Store, port: u16, wrapper: &[&str]) -> Self {
        let (script, lent) = store.script();
        let shell = ["/bin/bash", "-c", &script, "bash"];
        let mut command = Epmd::Ours.wrapped(&[wrapper, &shell].concat());
        let stderr = tempfile::tempfile().unwrap();
        command
            .args(["-port", &port.to_string(), "-systemd"])
            .env("NOTIFY_SOCKET", store.path())
            .stderr(stderr.try_clone().unwrap())
            .process_group(0);
        let group = spawn(&mut command);
        drop(lent);
        Self {
            group,
            stderr,
            port,
        }
    }

    /// Has what serves already traced by this; it ends with it.
    fn trace(&self, tracer: &[&str]) -> Tracer {
        let pid = self.group.id();
        let (program, options) = tracer.split_first().unwrap();
        let mut command = Command::new(program);
        command.args(options).args(["-p", &pid.to_string()]);
        let tracer = Tracer(spawn(&mut command));
        wait_for("all threads to be traced", || {
            let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let is_traced = |task: std::io::Result<fs::DirEntry>| {
                let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                !status.contains("TracerPid:\t0\n")
            };
            tasks.all(is_traced).then_some(())
        });
        tracer
    }

    fn is_over(&mut self) -> bool {
        self.group.try_wait().unwrap().is_some()
    }

    fn kill(&mut self) {
        if !self.is_over() {
            let _ = killpg(
                Pid::from_raw(self.group.id().cast_signed()),
                Signal::SIGKILL,
            );
            self.group.wait().unwrap();
        }
    }

    fn connect(&self) -> Option<TcpStream> {
        try_connect(LOCALHOST, self.port).ok()
    }

    fn ask(&self, body: &[u8]) -> Answer {
        ask(self.connect().unwrap(), &frame(body))
    }
}

/// Traces a daemon, until it is dropped.
struct Tracer(Child);

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.kill();
    }
}

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What a node has heard.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Registered,
    End,
}

fn heard(node: &mut TcpStream) -> Heard {
    node.set_nonblocking(true).unwrap();
    let mut answer = [0; 6];
    let read = node.peek(&mut answer);
    node.set_nonblocking(false).unwrap();
    match read {
        Ok(6) if answer.starts_with(b"v\0") => Heard::Registered,
        Ok(0) => Heard::End,
        Ok(count) => panic!("{count} bytes: {answer:?}"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Heard::Nothing,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Heard::End,
        Err(error) => panic!("{error}"),
    }
}

/// Which calls of a daemon are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    TheStart,
    ARequest,
}

/// The daemon is killed at the `which`th of these calls, of its start or of a registration, which is not
/// made. What its node has heard by then, and whether the next daemon took its registration back; `None`
/// where it never came to that call.
fn killed_at(call: &str, which: usize, of: Of) -> Option<(Heard, bool)> {
    let what = format!("{call} number {which} of {of:?}");
    let (mut store, port) = (Store::new(), free_port());
    let inject = format!("inject={call}:error=EIO:signal=KILL:when={which}");
    let trace = format!("trace={call}");
    let strace = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        &trace,
        "-e",
        &inject,
    ];
    // Calls are counted by thread: those of who accepts are not to be lost behind those of the start.
    let mut first = match of {
        Of::TheStart => Kept::start(&store, port, &strace),
        Of::ARequest => Kept::start(&store, port, &[]),
    };
    let node = wait_for("the daemon to listen, or its end", || {
        store.hear();
        match first.connect() {
            None if first.is_over() => Some(None),
            connected => connected.map(Some),
        }
    });
    let _tracer = (of == Of::ARequest).then(|| first.trace(&strace));
    let mut node = node.map(|mut node| {
        // It may be over by now.
        let _ = node.write_all(&frame(&Node::new("api").request()));
        node
    });
    let mut registered = false;
    wait_for("the daemon's end, or its answer", || {
        store.hear();
        registered = node
            .as_mut()
            .is_some_and(|node| heard(node) == Heard::Registered);
        (first.is_over() || registered).then_some(())
    });
    let never = registered && !first.is_over();
    first.kill();
    store.hear();
    let before = node.as_mut().map(heard);
    let second = Kept::start(&store, port, &[]);
    wait_for("the next daemon to answer", || {
        store.hear();
        let asked = second.connect().map(|s| ask(s, &frame(b"n")));
        matches!(asked, Some(Answer::Bytes(_))).then_some(())
    });
    let taken_back = text(&second.stderr).contains("took back 1 registration");
    let Some(node) = &mut node else {
        assert_eq!(second.ask(b"n"), Answer::Bytes(names_answer(port, &[])));
        return Some((Heard::End, taken_back));
    };
    // Listed and registered, or free and told: never listed while its node waits for an answer.
    let after = wait_for("the node to hear what it is", || {
        Some(heard(node)).filter(|heard| *heard != Heard::Nothing)
    });
    let listed: &[_] = match after {
        Heard::Registered => &[("api", Node::new("api").port)],
        _ => &[],
    };
    // A connection that nobody has taken in before is registered as it comes.
    wait_for(&what, || {
        (second.ask(b"n") == Answer::Bytes(names_answer(port, listed))).then_some(())
    });
    if after == Heard::Registered {
        assert_eq!(second.ask(b"zapi"), found("api"), "{what}");
        let mut answer = [0; 6];
        node.read_exact(&mut answer).unwrap();
        assert_eq!(heard(node), Heard::Nothing, "{what}: one answer");
    }
    if never {
        return None;
    }
    Some((before.unwrap_or(Heard::End), taken_back))
}

/// Wherever the daemon is killed: a name that is listed has a node that knows.
#[test]
fn no_kill_leaves_a_name_whose_node_has_no_answer() {
    let mut between = 0;
    for of in [Of::TheStart, Of::ARequest] {
        for call in ["sendmsg", "sendto"] {
            let all = (1..).map_while(|which| killed_at(call, which, of));
            for (heard, taken_back) in all {
                between += usize::from(heard == Heard::Nothing && taken_back);
            }
        }
    }
    assert!(between > 0, "never between keeping and answering");
}

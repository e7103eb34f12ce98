//! What must not hold the daemon up, nor make it go round: files that do not come, an accept(2) that
//! fails, clients that say nothing, and strangers at its end.
//!
//! The traffic is bounded, and stays on the hosts that a test made.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::net::{IpAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::daemon::about;
use common::host::process;
use common::netns::{Host, network};
use common::service::{Launch, Service, found};
use common::wait_for;
use common::wire::{Answer, ask, read_to_end, send};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// A lookup of `api`, and how it begins.
const LOOKUP: &[u8] = b"\0\x04zapi";
const BEGINNING: &[u8] = LOOKUP.split_at(4).0;
const REST: &[u8] = LOOKUP.split_at(4).1;

/// The member may ask, everybody else is a stranger; a request has a minute.
const CONFIG: &str = "[access]\nallow = [\"10.77.0.2\"]\n[limits]\nrequest-timeout = \"60s\"\n[audit]\nformat = \"json\"\nwindow = \"1ms\"\n";

/// A connection that has sent the beginning of a lookup.
fn begin(from: &Host, to: IpAddr) -> TcpStream {
    let mut stream = from.connect(to);
    send(&mut stream, BEGINNING);
    stream
}

/// The slowest of as many lookups on the daemon's own host, one after the other.
fn slowest_of(service: &Service<'_>, count: u32) -> Duration {
    let lookup = |_| {
        let start = Instant::now();
        assert_eq!(service.ask(b"zapi"), found("api"));
        start.elapsed()
    };
    (0..count).map(lookup).max().unwrap()
}

/// The CPU time that a process has used.
fn cpu_time(pid: u32) -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = process::stat(pid).expect("a process");
    let ticks = |field: &String| field.parse::<u32>().unwrap();
    TICK * stat[11..=12].iter().map(ticks).sum()
}

/// Reading a file again takes its time, and strangers have begun requests, more than there is room for:
/// this host is served meanwhile.
#[test]
fn a_file_that_takes_its_time_holds_up_no_lookup() {
    /// What a lookup may take on a busy machine; the file takes two seconds and more.
    const SLOWEST: Duration = Duration::from_millis(500);
    let [server, member, stranger] = network(["server", "member", "stranger"]);
    let config = format!("{CONFIG}[metrics]\n").replace("60s", "10s");
    let service = Service::start(&server, &config);
    let _name = service.hold("api");
    // A pipe that nobody writes to, and the largest file that there may be, in which all is wrong.
    let pipe = |path: &str| mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let wrong = |path: &str| fs::write(path, "=\n".repeat(2 * 1024 * 1024)).unwrap();
    for make in [&pipe as &dyn Fn(&str), &wrong] {
        fs::remove_file(service.config()).unwrap();
        make(service.config());
        let told = service.said().matches("not reloaded").count();
        service.signal(Signal::SIGHUP);
        let _begun: Vec<_> = (0..300).map(|_| begin(&stranger, server.v4())).collect();
        let slowest = slowest_of(&service, 200);
        assert!(slowest < SLOWEST, "{slowest:?}");
        assert_eq!(member.ask(server.v4(), b"zapi"), found("api"));
        wait_for("the file to be given up", || {
            (service.said().matches("not reloaded").count() > told).then_some(())
        });
    }
    // What comes while it is being read is read afterwards.
    fs::remove_file(service.config()).unwrap();
    pipe(service.config());
    service.signal(Signal::SIGHUP);
    wait_for("the pipe to be opened", || {
        let open = process::descriptors(service.pid());
        let is_it = |(_, path): &(u32, std::path::PathBuf)| path.ends_with("epmd.toml");
        open.iter().any(is_it).then_some(())
    });
    let before = service.said().matches("reloaded: ").count();
    fs::remove_file(service.config()).unwrap();
    fs::write(service.config(), CONFIG).unwrap();
    service.signal(Signal::SIGHUP);
    wait_for("the file to be read once more", || {
        (service.said().matches("reloaded: ").count() > before).then_some(())
    });
}

/// strace, which has each accept4(2) of a running process fail, until it is dropped.
struct Failing(Child);

impl Failing {
    fn accept_of(pid: u32, error: &str) -> Self {
        let inject = format!("inject=accept4:error={error}");
        let child = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=accept4", "-e"])
            .args([&inject, "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace");
        wait_for("strace to hold each thread", || {
            let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let is_held = |task: std::io::Result<fs::DirEntry>| {
                let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                !status.contains("TracerPid:\t0\n")
            };
            tasks.all(is_held).then_some(())
        });
        Self(child)
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // Ended politely, or what it holds would stay held.
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// A seccomp filter, a BPF program, a network that goes down: whatever accept(2) says again and again, it
/// is told, costs no CPU, and ends nothing.
#[test]
fn an_accept_that_fails_again_and_again_is_told_and_costs_nothing() {
    const TOLD: &str = "can't accept connections for the moment: ";
    let [server, member] = network(["server", "member"]);
    let service = Service::start(&server, CONFIG);
    let _name = service.hold("api");
    for error in [
        "EPERM",
        "ENETDOWN",
        "EPROTO",
        "EHOSTUNREACH",
        "ECONNABORTED",
        "ENOBUFS",
    ] {
        let told = service.said().matches(TOLD).count();
        let failing = Failing::accept_of(service.pid(), error);
        let mut waiting = member.connect(server.v4());
        send(&mut waiting, LOOKUP);
        wait_for(error, || {
            (service.said().matches(TOLD).count() > told).then_some(())
        });
        let before = cpu_time(service.pid());
        let start = Instant::now();
        std::thread::sleep(Duration::from_millis(1500));
        let (used, time) = (cpu_time(service.pid()) - before, start.elapsed());
        assert!(used < time / 4, "{error}: {used:?} of {time:?}");
        let lines = service.said().matches(TOLD).count() - told;
        assert!(lines <= 4, "{error}: {lines} lines");
        drop(failing);
        assert_eq!(read_to_end(&mut waiting), found("api"), "{error}");
    }
}

/// At the end a stranger's beginning of a request is not waited for, and nodes hear at once that they
/// have to register anew; a request of who may ask is finished, and still finds the names.
#[test]
fn strangers_do_not_hold_up_the_end_and_names_go_first() {
    let [server, member, stranger] = network(["server", "member", "stranger"]);
    let mut service = Service::start(&server, CONFIG);
    let mut name = service.hold("api");
    let sockets = || process::sockets(service.pid()).len();
    let before = sockets();
    let _byte = begin(&stranger, server.v4());
    let asked = begin(&member, server.v4());
    wait_for("both to be accepted", || {
        (sockets() == before + 2).then_some(())
    });
    service.signal(Signal::SIGTERM);
    assert_eq!(read_to_end(&mut name), Answer::Nothing);
    assert_eq!(service.ended(), None);
    assert_eq!(ask(asked, REST), found("api"));
    let start = Instant::now();
    assert_eq!(service.status().code(), Some(0));
    assert!(start.elapsed() < about(2), "{:?}", start.elapsed());
}

/// A distribution's unit may allow one process and no file (`LimitNPROC=1`, `LimitFSIZE=0`): what takes a
/// thread is done without, and that is said. Root is not held to the first of these.
#[test]
fn without_a_thread_or_a_file_it_serves_all_the_same() {
    let [server, member, stranger] = network(["server", "member", "stranger"]);
    let config = format!("{CONFIG}[metrics]\nlisten = \"127.0.0.1:9436\"\n");
    let config = config.replace("[audit]\n", "connections = 64\nper-source = 16\n[audit]\n");
    let nobody = [
        "setpriv",
        "--reuid=65533",
        "--regid=65533",
        "--clear-groups",
    ];
    let limited = [&nobody[..], &["prlimit", "--nproc=1"]].concat();
    let mut service = Launch::on(&server)
        .config(&config)
        .wrapped(&limited)
        .start();
    service.wait_until_said("no thread can be had for accepting connections");
    let threads = fs::read_dir(format!("/proc/{}/task", service.pid())).unwrap();
    assert_eq!(threads.count(), 1);
    let mut name = service.hold("api");
    assert_eq!(member.ask(server.v4(), b"zapi"), found("api"));
    assert_eq!(stranger.ask(server.v4(), b"zapi"), Answer::Nothing);
    // More begun requests than there is room for, and who trickles in among them.
    let begun: Vec<_> = (0..200).map(|_| begin(&stranger, server.v4())).collect();
    let asked = begin(&member, server.v4());
    assert!(slowest_of(&service, 50) < about(2));
    assert_eq!(ask(asked, REST), found("api"));
    drop(begun);
    service.reload(&config.replace("10.77.0.2", "10.77.0.3"));
    assert_eq!(member.ask(server.v4(), b"zapi"), Answer::Nothing);
    assert_eq!(stranger.ask(server.v4(), b"zapi"), found("api"));
    let other = service.hold("other");
    drop(other);
    wait_for("the name to be free", || {
        (service.ask(b"zother") == Answer::Bytes(b"w\x01".to_vec())).then_some(())
    });
    service.signal(Signal::SIGTERM);
    assert_eq!(service.status().code(), Some(0));
    assert_eq!(read_to_end(&mut name), Answer::Nothing);
    // Where no file may grow, its lines go nowhere here: stderr is one.
    let limited = [&nobody[..], &["prlimit", "--nproc=1", "--fsize=0"]].concat();
    let service = Launch::on(&server)
        .config(&config)
        .wrapped(&limited)
        .start();
    let _name = service.hold("api");
    assert_eq!(member.ask(server.v4(), b"zapi"), found("api"));
}

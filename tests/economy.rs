//! What the daemon costs its host beside the time of a request: memory, sleep, system calls, and a
//! long list that holds nobody up. What a request costs is measured by `cargo bench --bench load`.
//!
//! Asserted is what does not depend on how busy the machine is. What was measured is printed
//! (`--nocapture`).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::binary::{Epmd, text};
use common::daemon::{Daemon, Setup};
use common::host::process;
use common::netns::lone_host;
use common::service::Service;
use common::wait_for;
use common::wire::{Answer, Node, send};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

/// The slowest lookup while a long list is made.
const SLOWEST: Duration = Duration::from_millis(250);

/// One test at a time: together they need more descriptors than one process gets.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    raise_descriptor_limit();
    one
}

/// Lets this process, and the daemons that it starts, have all the descriptors that they may have.
fn raise_descriptor_limit() {
    const NEEDED: u64 = 17_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        hard >= NEEDED,
        "this machine gives a process {hard} descriptors (ulimit -Hn); {NEEDED} are needed"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Our epmd, whatever is under test elsewhere.
fn start() -> Daemon {
    Setup::of(Epmd::Ours).start()
}

/// The number behind a word in a status file of /proc.
fn number(file: &str, word: &str) -> u64 {
    let status = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let line = status.lines().find_map(|line| line.strip_prefix(word));
    let number = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{file}: no {word}"))
}

/// A figure of a daemon's memory, in KiB.
fn memory(daemon: &Daemon, word: &str) -> u64 {
    number(&format!("/proc/{}/status", daemon.pid()), word)
}

/// How often each thread of a process has gone to sleep by itself.
fn sleeps(pid: u32) -> BTreeMap<String, u64> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|task| {
            let status = task.unwrap().path().join("status");
            let status = status.to_str().unwrap();
            (status.to_owned(), number(status, "voluntary_ctxt_switches"))
        })
        .collect()
}

fn hold(daemon: &Daemon, names: std::ops::Range<usize>) -> Vec<TcpStream> {
    names.map(|n| daemon.hold(&format!("node_{n}"))).collect()
}

#[test]
fn an_idle_daemon_is_small() {
    const MOST_KIB: u64 = 4 * 1024;
    let _alone = alone();
    let start_of_it = Instant::now();
    let daemon = start();
    let ready = start_of_it.elapsed();
    let (all, own) = (memory(&daemon, "VmRSS"), memory(&daemon, "RssAnon"));
    println!("listening within {ready:?} of exec, {all} KiB resident, {own} KiB of them its own");
    // Of a build for debugging, the code alone is twice as much: that is not what is meant.
    let resident = if cfg!(debug_assertions) { own } else { all };
    assert!(resident <= MOST_KIB, "{resident} KiB");
}

#[test]
fn a_registration_takes_at_most_a_kibibyte() {
    const COUNT: usize = 10_000;
    let _alone = alone();
    let daemon = start();
    // What the first ones take is not for them alone.
    let mut held = hold(&daemon, 0..100);
    let before = memory(&daemon, "VmRSS");
    held.extend(hold(&daemon, held.len()..held.len() + COUNT));
    let grown = (memory(&daemon, "VmRSS") - before) * 1024;
    let each = grown / COUNT as u64;
    println!("{each} bytes for each of {COUNT} registrations");
    assert!(each <= 1024, "{each} bytes each");
}

/// On a host of its own, where nobody else's test can look for an epmd.
#[test]
fn nothing_wakes_an_idle_daemon() {
    const WATCHED: Duration = Duration::from_secs(3);
    let _alone = alone();
    let host = lone_host();
    let daemon = Service::start(&host, "");
    let _held: Vec<_> = (0..10).map(|n| daemon.hold(&format!("node_{n}"))).collect();
    // A connection that was waited for leaves no timer behind.
    let sockets = || process::sockets(daemon.pid()).len();
    let without = sockets();
    let mut half = daemon.connect();
    send(&mut half, b"\0");
    wait_for("it to be accepted", || (sockets() > without).then_some(()));
    drop(half);
    wait_for("it to be let go", || (sockets() == without).then_some(()));
    // The thread that writes the log may still be on its way to sleep.
    let mut before = sleeps(daemon.pid());
    wait_for("the daemon to come to rest", || {
        thread::sleep(Duration::from_millis(300));
        let now = sleeps(daemon.pid());
        let is_at_rest = now == before;
        before = now;
        is_at_rest.then_some(())
    });
    thread::sleep(WATCHED);
    assert_eq!(sleeps(daemon.pid()), before, "it woke up");
}

/// strace, counting the system calls of a process; dropped, it lets go of it.
struct Trace {
    strace: Child,
    counts: NamedTempFile,
}

impl Trace {
    /// Counts from now on.
    fn of(pid: u32) -> Self {
        let counts = NamedTempFile::new().unwrap();
        let said = tempfile::tempfile().unwrap();
        let strace = Command::new("strace")
            .args(["-f", "-c", "-U", "calls,name", "-p", &pid.to_string()])
            .arg("-o")
            .arg(counts.path())
            .stdin(Stdio::null())
            .stderr(said.try_clone().unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("strace is not installed: {error}"));
        let mut trace = Self { strace, counts };
        wait_for("strace to watch the daemon", || {
            let said = text(&said);
            let ended = trace.strace.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "this machine lets nobody trace a process: {said}"
            );
            said.contains(" attached").then_some(())
        });
        trace
    }

    /// How many there were, in all and of each.
    fn counts(mut self) -> (u64, String) {
        kill(
            Pid::from_raw(self.strace.id().cast_signed()),
            Signal::SIGINT,
        )
        .unwrap();
        self.strace.wait().unwrap();
        let table = fs::read_to_string(self.counts.path()).unwrap();
        let total = table
            .lines()
            .find_map(|line| line.trim().strip_suffix(" total"));
        let total = total.and_then(|calls| calls.trim().parse().ok());
        (total.unwrap_or_else(|| panic!("{table}")), table)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Over already, where its counts were read.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

#[test]
fn a_lookup_takes_few_system_calls_however_many_names_there_are() {
    const LOOKUPS: u64 = 500;
    /// Accept, receive, send and close; now and then a connection comes before its request does, and takes
    /// more. In a build for debugging std looks at a descriptor that it closes.
    const MOST: f64 = if cfg!(debug_assertions) { 5.2 } else { 4.2 };
    let _alone = alone();
    let daemon = start();
    let mut held = Vec::new();
    for names in [1, 1000] {
        held.extend(hold(&daemon, held.len()..names));
        let trace = Trace::of(daemon.pid());
        for _ in 0..LOOKUPS {
            assert!(daemon.knows("node_0"));
        }
        let (calls, table) = trace.counts();
        let each = calls as f64 / LOOKUPS as f64;
        println!("{each} system calls a lookup with {names} names");
        assert!(each <= MOST, "{each} a lookup with {names} names:\n{table}");
    }
}

#[test]
fn a_list_of_many_names_holds_nobody_up() {
    const NAMES: usize = 15_000;
    const LISTS: usize = 10;
    let _alone = alone();
    let daemon = start();
    let _held = hold(&daemon, 0..NAMES);
    let wanted = Answer::Bytes(Node::new("node_7").found());
    let done = AtomicBool::new(false);
    let (lookups, slowest) = thread::scope(|scope| {
        let looking_up = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            let mut lookups = 0;
            while !done.load(Ordering::Relaxed) {
                let start = Instant::now();
                assert_eq!(daemon.lookup("node_7"), wanted);
                slowest = slowest.max(start.elapsed());
                lookups += 1;
            }
            (lookups, slowest)
        });
        for _ in 0..LISTS {
            let Answer::Bytes(list) = daemon.names() else {
                panic!("no list");
            };
            let lines = list[4..].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(lines, NAMES);
        }
        done.store(true, Ordering::Relaxed);
        looking_up.join().unwrap()
    });
    println!("{lookups} lookups beside {LISTS} lists, the slowest took {slowest:?}");
    assert!(lookups >= LISTS, "{lookups} lookups beside {LISTS} lists");
    assert!(slowest <= SLOWEST, "{slowest:?}");
}

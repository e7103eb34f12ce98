//! Under fire: floods, slow peers, readers that do not read and rubbish, from thirty-two addresses of
//! another host, as fast as two cores can send them, while this host's own nodes register and look
//! names up.
//!
//! Each fire burns with the descriptor limit that systemd gives by default, and with a large one. What
//! is asserted is what came of it: every local request succeeds at the first try and within
//! [`LIMIT`], memory and log stay small, the log still tells of everyone and everything, and every
//! registration is there afterwards. `EPMD_TEST_LONG=1` lets each burn longer.
//!
//! The count of refusals is compared with the kernel's count of the connections that came to the
//! daemon's host, less those that the test made there itself.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

#[path = "../common/mod.rs"]
mod common;
mod flood;
mod probe;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::host::process;
use common::netns::{Host, network};
use common::service::{Launch, Service};
use common::wait_for;
use common::wire::{Answer, frame};
use flood::{Burnt, Flood, Then};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use probe::{Seen, probe};
use serde_json::Value;

/// The slowest registration or lookup of this host's own.
const LIMIT: Duration = Duration::from_millis(250);
/// The most memory that the daemon ever has.
const MEMORY_KIB: usize = 40 * 1024;
/// Fewer lines than so many in any minute.
const LINES_A_MINUTE: usize = 100;
/// The addresses of the attackers.
const SOURCES: u8 = 32;
/// The name that is looked up.
const KNOWN: &str = "api";
/// Names that are registered before the fire, besides.
const NAMES: usize = 500;

/// One fire at a time: each takes both cores.
fn alone() -> MutexGuard<'static, ()> {
    static FIRE: Mutex<()> = Mutex::new(());
    FIRE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long each fire burns.
fn duration() -> Duration {
    let long = std::env::var_os("EPMD_TEST_LONG").is_some_and(|it| !it.is_empty() && it != "0");
    let ms = std::env::var("FIRE_MS").ok().map_or(3000, |s| s.parse().unwrap());
    if long { Duration::from_secs(150) } else { Duration::from_millis(ms) }
}

/// A server, and a host with [`SOURCES`] addresses of 10.78.0.0/24.
fn hosts() -> [Host; 2] {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    assert!(hard >= 10_000, "this machine gives a process {hard} descriptors; 10,000 are needed");
    let hosts = network(["server", "attacker"]);
    hosts[1].ip("route add local 10.78.0.0/24 dev lo\n");
    hosts[0].ip("route add 10.78.0.0/24 via 10.77.0.2\n");
    hosts
}

fn sources() -> Vec<Ipv4Addr> {
    (1..=SOURCES).map(|last| Ipv4Addr::new(10, 78, 0, last)).collect()
}

/// How many connections have come to a host so far.
fn connections_to(host: &Host) -> usize {
    let table = host.enter(|| fs::read_to_string("/proc/thread-self/net/snmp")).unwrap();
    let mut lines = table.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut both = names.split(' ').zip(values.split(' '));
    both.find(|(name, _)| *name == "PassiveOpens").unwrap().1.parse().unwrap()
}

fn netstat(host: &Host) -> Vec<(String, u64)> {
    let table = host.enter(|| fs::read_to_string("/proc/thread-self/net/netstat")).unwrap();
    let mut lines = table.lines();
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    names.split(' ').zip(values.split(' ')).filter_map(|(n, v)| {
        let v = v.parse().ok()?;
        ["SyncookiesSent","SyncookiesRecv","SyncookiesFailed","ListenOverflows","ListenDrops","TCPReqQFullDoCookies","TCPReqQFullDrop","TCPDeferAcceptDrop"].contains(&n).then(|| (n.to_owned(), v)).filter(|x| x.1>0)
    }).collect()
}

/// A line of /proc/PID/status in KiB.
fn memory(pid: u32, what: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim_start_matches(':').trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Lets `flood` burn against a daemon with so many descriptors, with these settings.
fn burn(name: &str, flood: &Flood, descriptors: usize, settings: &str) {
    let _alone = alone();
    let [server, attacker] = hosts();
    if let Ok(v) = std::env::var("SYNCOOKIES") { server.sysctl("net/ipv4/tcp_syncookies", &v); }
    let limit = format!("ulimit -n {descriptors}; exec \"$@\"");
    let config = format!("{settings}\n[audit]\nformat = \"json\"\n");
    let mut service = Launch::on(&server)
        .config(&config)
        .wrapped(&["sh", "-c", &limit, "sh"])
        .start();
    let sockets = || process::sockets(service.pid()).len();
    // Its own, and what asked whether it answers.
    let own = { let mut least = sockets(); for _ in 0..20 { thread::sleep(Duration::from_millis(1)); least = least.min(sockets()); } least };
    let mut held: Vec<(String, TcpStream)> = (0..NAMES)
        .map(|n| format!("{n:05}{}", "n".repeat(245)))
        .chain([KNOWN.to_owned()])
        .map(|name| (name.clone(), service.hold(&name)))
        .collect();
    wait_for("earlier connections to be gone", || (sockets() == own + held.len()).then_some(()));
    let before = connections_to(&server);

    let over = AtomicBool::new(false);
    let (burnt, seen): (Burnt, Seen) = thread::scope(|scope| {
        let fire = scope.spawn(|| flood.burn(&attacker, server.v4(), &over));
        let nodes = scope.spawn(|| probe(&server, KNOWN, &over, LIMIT));
        let end = Instant::now() + duration();
        while Instant::now() < end && !nodes.is_finished() && !fire.is_finished() {
            thread::sleep(Duration::from_millis(50));
        }
        over.store(true, Ordering::Relaxed);
        (fire.join().unwrap(), nodes.join().unwrap())
    });
    held.extend(seen.held);
    wait_for("the attackers' connections to be gone", || (sockets() == own + held.len()).then_some(()));
    let came = connections_to(&server) - before - seen.connections;
    let peak = memory(service.pid(), "VmHWM");
    let told = service.said();
    println!(
        "{name} {descriptors}: opened {} came {came}; lookups {} slowest {:?}; registrations slowest {:?}; slow {:?}; peak {peak} KiB; {} lines; left open {} bytes {} {:?}",
        burnt.opened, seen.lookups, seen.slowest_lookup, seen.slowest_registration, seen.slow.len(), told.lines().count(), burnt.left_open, burnt.bytes, netstat(&server)
    );

    // It is still there, with everything that it had.
    assert_eq!(service.ended(), None, "{told}");
    let Answer::Bytes(list) = service.ask(b"n") else {
        panic!("no list");
    };
    let list = String::from_utf8(list[4..].to_vec()).unwrap();
    let listed: BTreeSet<&str> = list.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    let names: BTreeSet<&str> = held.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(listed, names);
    for (name, stream) in &held {
        stream.set_nonblocking(true).unwrap();
        let open = stream.peek(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(open, "{name} is not held any more");
    }

    service.signal(Signal::SIGTERM);
    assert_eq!(service.status().code(), Some(0));
    let events = service.other_events();
    let told: u64 = events.iter().map(stands_for).sum();
    let by: BTreeSet<IpAddr> = events
        .iter()
        .filter_map(|event| event["peer"].as_str()?.parse().ok())
        .collect();
    println!("events {} told {told} sources {}", events.len(), by.len());
    assert_eq!(usize::try_from(told).unwrap(), came, "every refusal is counted, and no other");
    let sources: BTreeSet<IpAddr> = flood.sources.iter().map(|it| IpAddr::from(*it)).collect();
    assert_eq!(by, sources);
    assert!(peak < MEMORY_KIB, "{peak} KiB");
    assert!(seen.slow.is_empty(), "{:?}", seen.slow);
}

/// How many refusals an event stands for.
fn stands_for(event: &Value) -> u64 {
    event["repeats"].as_u64().unwrap().max(1)
}

fn silent() -> Flood {
    Flood { connections: 3000, sources: sources(), says: |_| Vec::new(), then: Then::Wait, pause: Duration::ZERO }
}
fn drip() -> Flood {
    Flood { connections: 3000, sources: sources(), says: |_| vec![0], then: Then::Drip, pause: Duration::from_secs(1) }
}
fn readers() -> Flood {
    Flood { connections: 2000, sources: sources(), says: |_| frame(b"n"), then: Then::Ignore, pause: Duration::from_secs(1) }
}
fn lookups() -> Flood {
    let n = std::env::var("FIRE_N").ok().map_or(256, |s| s.parse().unwrap());
    Flood { connections: n, sources: sources(), says: |n| frame(format!("zname{n}").as_bytes()), then: Then::Wait, pause: Duration::ZERO }
}

#[test]
fn silent_few() { burn("silent", &silent(), 1024, "") }
#[test]
fn silent_many() { burn("silent", &silent(), 16384, "") }
#[test]
fn drip_few() { burn("drip", &drip(), 1024, "") }
#[test]
fn drip_many() { burn("drip", &drip(), 16384, "") }
#[test]
fn readers_few() { burn("readers", &readers(), 1024, "[access]\nallow=[\"10.78.0.0/24\"]") }
#[test]
fn readers_many() { burn("readers", &readers(), 16384, "[access]\nallow=[\"10.78.0.0/24\"]") }
#[test]
fn lookups_few() { burn("lookups", &lookups(), 1024, "") }
#[test]
fn lookups_many() { burn("lookups", &lookups(), 16384, "") }

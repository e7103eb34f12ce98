//! Under fire: floods, slow peers, readers that do not read and rubbish from another host with many
//! addresses, as fast as two cores can send them, while this host's own nodes register and look names
//! up.
//!
//! Each fire burns with the descriptor limit that systemd gives by default, and with a large one. What
//! is asserted is what came of it: every local request succeeds at the first try and within
//! [`SLOWEST`], memory and log stay small, the log still tells of everyone and everything, and every
//! registration is there afterwards. The count of refusals is compared with the kernel's own count of
//! the connections that came to the daemon's host, less those that the test made there.
//!
//! Each burns for [`SHORT`], or with `EPMD_TEST_LONG=1` for [`LONG`]. What was measured is printed
//! (`--nocapture`). The traffic is bounded, and stays on the hosts that a test made.

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
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::host::process;
use common::netns::{EPMD, Host, lone_host, network};
use common::service::{Launch, Service};
use common::wait_for;
use common::wire::{Answer, Node, frame, registered, send};
use flood::{Burnt, Ends, Flood, Then};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use probe::{Seen, probe};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// The slowest registration or lookup of this host's own.
const SLOWEST: Duration = Duration::from_millis(250);
/// The most memory that the daemon ever has.
const MEMORY_KIB: usize = 40 * 1024;
/// The log has fewer lines than so many in any minute.
const LINES_A_MINUTE: usize = 100;
/// What systemd gives a service by default, and what a large host's unit would.
const FEW: usize = 1024;
const MANY: usize = 16_384;
/// How long a fire burns.
const SHORT: Duration = Duration::from_millis(2500);
/// The same in the long form: windows of the audit end in it.
const LONG: Duration = Duration::from_secs(150);
/// Names that are registered before it: a list of them is more than a connection's buffers take.
const NAMES: usize = 600;
/// One more, which is looked up.
const KNOWN: &str = "api";

/// Whether the long form was asked for.
fn is_long() -> bool {
    std::env::var_os("EPMD_TEST_LONG").is_some_and(|it| !it.is_empty() && it != "0")
}

/// One fire at a time: each takes all cores.
fn alone() -> MutexGuard<'static, ()> {
    static FIRE: Mutex<()> = Mutex::new(());
    FIRE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets this process have all the descriptors that it may have.
fn raise_descriptor_limit() {
    const NEEDED: u64 = 12_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        hard >= NEEDED,
        "this machine gives a process {hard} descriptors (ulimit -Hn); {NEEDED} are needed"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// A server, and a host with the addresses of 10.78.0.0/24 that attacks it.
fn hosts() -> [Host; 2] {
    let hosts = network(["server", "attacker"]);
    hosts[0].ip("route add 10.78.0.0/24 via 10.77.0.2\n");
    hosts[1].ip("route add local 10.78.0.0/24 dev lo\n");
    hosts
}

/// So many of the attacker's addresses.
fn sources(count: u8) -> Vec<Ipv4Addr> {
    (1..=count)
        .map(|last| Ipv4Addr::new(10, 78, 0, last))
        .collect()
}

/// Our epmd with a hard limit of so many descriptors.
fn start<'h>(host: &'h Host, descriptors: usize, config: &str) -> Service<'h> {
    let limited = format!("ulimit -n {descriptors}; exec \"$@\"");
    Launch::on(host)
        .config(config)
        .wrapped(&["sh", "-c", &limited, "sh"])
        .start()
}

/// How many connections have come to a host so far, by its kernel's count.
fn connections_to(host: &Host) -> usize {
    let table = host.enter(|| fs::read_to_string("/proc/thread-self/net/snmp"));
    let table = table.unwrap();
    let mut lines = table.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, count) = both.find(|(name, _)| *name == "PassiveOpens").unwrap();
    count.parse().unwrap()
}

/// The most memory that a process has had so far, in KiB.
fn peak_memory(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
    let number = line.unwrap().trim().strip_suffix(" kB").unwrap();
    number.parse().unwrap()
}

/// The most lines that were said in one minute.
fn most_lines_in_a_minute(said: &str) -> usize {
    const MINUTE: Duration = Duration::from_secs(60);
    let times: Vec<SystemTime> = said
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            humantime::parse_rfc3339(line["time"].as_str().unwrap()).unwrap()
        })
        .collect();
    let within = |(at, first): (usize, &SystemTime)| {
        let rest = times[at..].iter();
        rest.filter(|time| **time < *first + MINUTE).count()
    };
    times.iter().enumerate().map(within).max().unwrap()
}

/// How many refusals an event stands for.
fn stands_for(event: &Value) -> u64 {
    event["repeats"].as_u64().unwrap().max(1)
}

/// Fails the test unless exactly these names are registered, and their connections are held.
fn assert_all_are_held(service: &Service<'_>, held: &[(String, TcpStream)]) {
    let Answer::Bytes(list) = service.ask(b"n") else {
        panic!("no list");
    };
    let list = String::from_utf8(list[4..].to_vec()).unwrap();
    let name = |line: &'_ str| line.split(' ').nth(1).unwrap().to_owned();
    let listed: BTreeSet<String> = list.lines().map(name).collect();
    let names: BTreeSet<String> = held.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(listed, names);
    for (name, stream) in held {
        stream.set_nonblocking(true).unwrap();
        let peeked = stream.peek(&mut [0; 1]);
        let is_open = peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(is_open, "{name} is not held any more");
    }
}

/// Lets `flood` burn against a daemon with so many descriptors and these lines of settings.
fn burn(what: &str, flood: &Flood, descriptors: usize, settings: &str) {
    let _alone = alone();
    raise_descriptor_limit();
    let [server, attacker] = hosts();
    // In the short form, what waits runs out within the fire as well.
    let (time, limits) = if is_long() {
        (LONG, "")
    } else {
        (SHORT, "[limits]\nrequest-timeout = \"2s\"\n")
    };
    let config = format!("{settings}{limits}[audit]\nformat = \"json\"\n");
    let mut service = start(&server, descriptors, &config);
    let sockets = || process::sockets(service.pid()).len();
    // What asked whether it answers may be there for an instant.
    let own = (0..20).map(|_| sockets()).min().unwrap();
    let mut held: Vec<(String, TcpStream)> = (0..NAMES)
        .map(|n| format!("{n:05}{}", "名".repeat(250)))
        .chain([KNOWN.to_owned()])
        .map(|name| (name.clone(), service.hold(&name)))
        .collect();
    let let_go = |held: usize| {
        wait_for("connections to be let go", || {
            (sockets() <= own + held).then_some(())
        });
    };
    let_go(held.len());
    let before = connections_to(&server);

    let ends = Ends::default();
    let (burnt, seen): (Burnt, Seen) = thread::scope(|scope| {
        let fire = scope.spawn(|| flood.burn(&attacker, server.v4(), &ends));
        let nodes = scope.spawn(|| probe(&server, KNOWN, &ends.burnt_down));
        let end = Instant::now() + time;
        while Instant::now() < end && !nodes.is_finished() && !fire.is_finished() {
            thread::sleep(Duration::from_millis(10));
        }
        ends.burnt_down.store(true, Ordering::Relaxed);
        let seen = nodes.join().unwrap();
        // Who does not read is not told that it is over.
        if flood.then == Then::Ignore {
            let_go(held.len() + seen.held.len());
        }
        ends.let_go.store(true, Ordering::Relaxed);
        (fire.join().unwrap(), seen)
    });
    held.extend(seen.held);
    let_go(held.len());
    let came = connections_to(&server) - before - seen.connections;
    let peak = peak_memory(service.pid());
    let lines = most_lines_in_a_minute(&service.said());
    println!(
        "{what}, {descriptors} descriptors: {came} connections; of {} lookups and {} registrations of \
         this host, the slowest took {:?} and {:?}; {peak} KiB at most; {lines} lines in a minute",
        seen.lookups,
        held.len() - NAMES - 1,
        seen.slowest_lookup,
        seen.slowest_registration,
    );

    assert_eq!(service.ended(), None, "{}", service.said());
    assert_all_are_held(&service, &held);
    assert!(seen.lookups > 0 && held.len() > NAMES + 1);
    assert!(peak < MEMORY_KIB, "{peak} KiB");
    assert!(lines < LINES_A_MINUTE, "{lines} lines in a minute");
    if flood.then != Then::Ignore {
        assert_eq!(
            (burnt.bytes, burnt.left_open),
            (0, 0),
            "bytes given, connections left open"
        );
    }
    assert!(burnt.opened >= came && came >= flood.connections);

    // The end tells what is untold, in place of the ends of the windows.
    service.signal(Signal::SIGTERM);
    assert_eq!(service.status().code(), Some(0));
    let events = service.events();
    let told: u64 = events.iter().map(stands_for).sum();
    assert_eq!(
        usize::try_from(told).unwrap(),
        came,
        "refusals told, and connections that came"
    );
    let address = |event: &Value| event["peer"].as_str()?.parse::<IpAddr>().ok();
    let named: BTreeSet<IpAddr> = events.iter().filter_map(address).collect();
    let sources: BTreeSet<IpAddr> = flood.sources.iter().copied().map(IpAddr::from).collect();
    assert_eq!(named, sources);
    assert!(
        seen.slowest_lookup <= SLOWEST && seen.slowest_registration <= SLOWEST,
        "slower than {SLOWEST:?}: {:?}, {:?}",
        seen.slowest_lookup,
        seen.slowest_registration
    );
}

/// Connections that never send. Each that is closed is opened again at once.
fn silence() -> Flood {
    Flood {
        connections: 3000,
        sources: sources(32),
        says: |_| Vec::new(),
        then: Then::Wait,
        pause: Duration::ZERO,
    }
}

#[test]
fn silence_with_few_descriptors() {
    burn("silence", &silence(), FEW, "");
}

#[test]
fn silence_with_many_descriptors() {
    burn("silence", &silence(), MANY, "");
}

/// Connections that send one byte a second. Each that is closed is opened again a second after its
/// last opening.
fn dripping() -> Flood {
    Flood {
        connections: 3000,
        sources: sources(32),
        says: |_| vec![0],
        then: Then::Drip,
        pause: Duration::from_secs(1),
    }
}

#[test]
fn dripping_with_few_descriptors() {
    burn("dripping", &dripping(), FEW, "");
}

#[test]
fn dripping_with_many_descriptors() {
    burn("dripping", &dripping(), MANY, "");
}

/// Peers that may list the names, ask for the list and never read it.
fn deafness() -> Flood {
    Flood {
        connections: 2000,
        sources: sources(32),
        says: |_| frame(b"n"),
        then: Then::Ignore,
        // None is opened twice: of one that has no time to ask any more, nothing would be told.
        pause: Duration::MAX,
    }
}

const MEMBERS: &str = "[access]\nallow = [\"10.78.0.0/24\"]\n";

#[test]
fn readers_that_do_not_read_with_few_descriptors() {
    burn("readers that do not read", &deafness(), FEW, MEMBERS);
}

#[test]
fn readers_that_do_not_read_with_many_descriptors() {
    burn("readers that do not read", &deafness(), MANY, MEMBERS);
}

/// Lookups, each for another name; more of them at once than a listening socket's queue takes.
fn scanning() -> Flood {
    Flood {
        connections: 5000,
        sources: sources(32),
        says: |number| frame(format!("znode{number}").as_bytes()),
        then: Then::Wait,
        pause: Duration::ZERO,
    }
}

#[test]
fn refused_lookups_with_few_descriptors() {
    burn("refused lookups", &scanning(), FEW, "");
}

#[test]
fn refused_lookups_with_many_descriptors() {
    burn("refused lookups", &scanning(), MANY, "");
}

/// Random bytes, requests of other protocols, and one that is longer than any may be.
fn rubbish() -> Flood {
    Flood {
        connections: 500,
        sources: sources(16),
        says: |number| match number % 4 {
            0 => random_bytes(number),
            1 => b"GET / HTTP/1.1\r\nHost: epmd\r\nUser-Agent: curl/8\r\n\r\n".to_vec(),
            2 => tls_hello(),
            _ => [&u16::MAX.to_be_bytes()[..], &[b'z'; 4000]].concat(),
        },
        then: Then::Wait,
        pause: Duration::ZERO,
    }
}

/// Bytes that follow from a number: 1 to 300 of them.
fn random_bytes(number: usize) -> Vec<u8> {
    // Knuth's MMIX; its high bits are good.
    let mut state = number as u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let length = 1 + usize::from(next()) + usize::from(next()) % 45;
    (0..length).map(|_| next()).collect()
}

/// The beginning of a TLS connection, as far as it matters: a record of type 22 with a ClientHello.
fn tls_hello() -> Vec<u8> {
    let hello = [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        &[0x5a; 506],
    ];
    hello.concat()
}

#[test]
fn rubbish_with_few_descriptors() {
    burn("rubbish", &rubbish(), FEW, "");
}

#[test]
fn rubbish_with_many_descriptors() {
    burn("rubbish", &rubbish(), MANY, "");
}

/// Every node of a large host registers at the same instant, such as after a power failure.
#[test]
fn a_storm_of_registrations_succeeds_whole() {
    const NODES: usize = 2000;
    let _alone = alone();
    raise_descriptor_limit();
    let host = lone_host();
    let service = start(&host, MANY, "");
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), EPMD);
    let start = Instant::now();
    // All connections are begun before the first registration is sent.
    let sockets: Vec<Socket> = host.enter(|| {
        let connect = |_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            // That it goes on in the background is no error.
            let _ = socket.connect(&to.into());
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(common::PATIENCE)).unwrap();
            socket
        };
        (0..NODES).map(connect).collect()
    });
    let mut nodes: Vec<(Node, TcpStream)> = sockets
        .into_iter()
        .enumerate()
        .map(|(n, socket)| (Node::new(format!("node{n}")), socket.into()))
        .collect();
    for (node, stream) in &mut nodes {
        send(stream, &frame(&node.request()));
    }
    let held: Vec<(String, TcpStream)> = nodes
        .into_iter()
        .map(|(node, stream)| {
            let (stream, _) = registered(stream, &node).held();
            (String::from_utf8(node.name).unwrap(), stream)
        })
        .collect();
    println!("{NODES} nodes registered in {:?}", start.elapsed());
    assert_all_are_held(&service, &held);
}

/// Connections that have to make room are closed before others take their place: the descriptors are
/// enough however fast the others come. Of both families, so that two sockets accept at once.
#[test]
fn a_burst_of_half_sent_requests_does_not_use_descriptors_up() {
    const DESCRIPTORS: usize = 128;
    const EACH: usize = 500;
    let _alone = alone();
    raise_descriptor_limit();
    let [server, attacker] = hosts();
    let service = start(&server, DESCRIPTORS, "");
    service.wait_until_said("the limit of 128 descriptors is good for ");
    let _name = service.hold(KNOWN);
    process::pause(service.pid());
    let mut burst: Vec<TcpStream> = attacker.enter(|| {
        let to = [server.v4(), server.v6()].map(|ip| SocketAddr::new(ip, EPMD));
        let connect = |to| TcpStream::connect_timeout(&to, common::PATIENCE).unwrap();
        to.iter()
            .cycle()
            .take(2 * EACH)
            .map(|to| connect(*to))
            .collect()
    });
    burst.iter_mut().for_each(|stream| send(stream, b"\0"));
    service.signal(Signal::SIGCONT);
    let seen = {
        let ends = Ends::default();
        thread::scope(|scope| {
            let nodes = scope.spawn(|| probe(&server, KNOWN, &ends.burnt_down));
            thread::sleep(Duration::from_millis(200));
            ends.burnt_down.store(true, Ordering::Relaxed);
            nodes.join().unwrap()
        })
    };
    assert!(seen.lookups > 0);
    let said = service.said();
    assert!(!said.contains("can't accept"), "{said}");
}

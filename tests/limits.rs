//! Limits and faults: what floods, slow peers, signals and a lack of descriptors do to the daemon, and
//! that local nodes notice none of it.
//!
//! A connection that is to be seen by the daemon at once sends the beginning of a request (`begin`):
//! the kernel keeps one that sends nothing to itself for a second (TCP_DEFER_ACCEPT). The traffic is
//! bounded, and stays on the hosts that a test made.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use common::binary::Epmd;
use common::daemon::about;
use common::host::process;
use common::netns::{EPMD, Host, lone_host, network, v4};
use common::service::{Launch, Service, brief, found, listed};
use common::store::Store;
use common::wire::{Answer, Node, Registered, ask, frame, read_to_end, registered, send};
use common::{PATIENCE, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

/// Everyone in the network may ask, and lines are JSON.
const OPEN: &str = "[access]\nallow = [\"*\"]\n[audit]\nformat = \"json\"\nwindow = \"1ms\"\n";
/// A lookup of `api`, and how it begins.
const LOOKUP: &[u8] = b"\0\x04zapi";
const BEGINNING: &[u8] = LOOKUP.split_at(4).0;
const REST: &[u8] = LOOKUP.split_at(4).1;
/// The answer that such a name is not registered.
const UNKNOWN: &[u8] = b"w\x01";

/// A file with these lines of `[limits]`, that serves everyone.
fn limits(lines: &str) -> String {
    format!("{OPEN}[limits]\n{lines}\n")
}

/// A connection that has sent the beginning of a lookup.
fn begin(from: &Host, to: IpAddr) -> TcpStream {
    let mut stream = from.connect(to);
    send(&mut stream, BEGINNING);
    stream
}

/// As many connections as that, one after the other.
fn begin_all(from: &Host, to: IpAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| begin(from, to)).collect()
}

/// Completes a lookup that has begun.
fn complete(stream: TcpStream) -> Answer {
    ask(stream, REST)
}

/// Whether the other end has closed the connection, as far as one can see now.
fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0; 1]);
    stream.set_nonblocking(false).unwrap();
    match peeked {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Waits until so many of these are closed, and fails the test where more are.
fn wait_until_closed(streams: &[TcpStream], count: usize) {
    let closed = || streams.iter().filter(|stream| is_closed(stream)).count();
    wait_for("connections to be closed", || {
        (closed() >= count).then_some(())
    });
    assert_eq!(closed(), count);
}

/// Fails the test unless a node of the daemon's own host registers, is found, and is released.
fn assert_local_nodes_are_served(service: &Service<'_>) {
    let name = service.hold("local");
    assert_eq!(service.ask(b"zlocal"), found("local"));
    drop(name);
    wait_for("the name to be free", || {
        (service.ask(b"zlocal") == Answer::Bytes(UNKNOWN.to_vec())).then_some(())
    });
}

/// The CPU time that a process has used.
fn cpu_time(pid: u32) -> Duration {
    /// A clock tick, as Linux counts for programs on every machine.
    const TICK: Duration = Duration::from_millis(10);
    let stat = process::stat(pid).expect("a process");
    let ticks: u32 = stat[11..=12]
        .iter()
        .map(|ticks| ticks.parse::<u32>().unwrap())
        .sum();
    TICK * ticks
}

/// Fails the test if the daemon uses much CPU while nothing happens.
fn assert_idle(service: &Service<'_>) {
    let before = cpu_time(service.pid());
    std::thread::sleep(Duration::from_millis(500));
    let used = cpu_time(service.pid()) - before;
    assert!(used <= Duration::from_millis(100), "it used {used:?}");
}

/// What a message of the audit says of the limit.
fn assert_says(event: &Value, words: &str) {
    let message = event["message"].as_str().unwrap();
    assert!(message.contains(words), "{message}");
}

/// The next events, until they stand for so many refusals: how many of each.
fn tally(service: &Service<'_>, refusals: u64) -> BTreeMap<String, u64> {
    let mut told = BTreeMap::new();
    while told.values().sum::<u64>() < refusals {
        let event = service.next_event();
        *told.entry(brief(&event)).or_default() += stands_for(&event);
    }
    assert_eq!(told.values().sum::<u64>(), refusals, "{told:?}");
    told
}

/// How many refusals an event stands for.
fn stands_for(event: &Value) -> u64 {
    event["repeats"].as_u64().unwrap().max(1)
}

#[test]
fn connections_that_never_send_lock_nobody_out() {
    let [server, scanner, member] = network(["server", "scanner", "member"]);
    let config = "connections = 8\nper-source = 8\nrequest-timeout = \"60s\"";
    let service = Service::start(&server, &limits(config));
    let _name = service.hold("api");
    let silent: Vec<_> = (0..12).map(|_| scanner.connect(server.v4())).collect();
    wait_until_closed(&silent, 4);
    let told = service.expect_event("refused none from 10.77.0.2: too_many");
    assert_says(&told, "limits.per-source is reached");
    assert_eq!(member.ask(server.v4(), b"zapi"), found("api"));
    // One that is slow to ask gets its time as well.
    let slow = begin(&member, server.v4());
    wait_until_closed(&silent, 5);
    assert_eq!(complete(slow), found("api"));
    assert_local_nodes_are_served(&service);
}

#[test]
fn the_oldest_that_has_not_asked_makes_room_for_a_newcomer() {
    let [server, peer, other] = network(["server", "peer", "other"]);
    let config = "connections = 4\nper-source = 4\nrequest-timeout = \"60s\"";
    let service = Service::start(&server, &limits(config));
    let mut waiting = begin_all(&peer, server.v4(), 4);
    // From elsewhere, so that it is the limit of all connections that is reached.
    let newcomer = begin(&other, server.v4());
    assert_eq!(read_to_end(&mut waiting[0]), Answer::Nothing);
    let told = service.expect_event("refused none from 10.77.0.2: too_many");
    assert_says(&told, "limits.connections is reached");
    let second = begin(&other, server.v4());
    assert_eq!(read_to_end(&mut waiting[1]), Answer::Nothing);
    service.expect_event("refused none from 10.77.0.2: too_many");
    // Nobody else was cut off.
    let others = waiting.drain(2..).chain([newcomer, second]);
    for stream in others {
        assert_eq!(complete(stream), Answer::Bytes(UNKNOWN.to_vec()));
    }
    assert_eq!(service.other_events(), Vec::<Value>::new());
}

#[test]
fn one_source_has_its_share_and_no_more() {
    let [server, greedy, modest] = network(["server", "greedy", "modest"]);
    let config = "connections = 100\nper-source = 3\nrequest-timeout = \"60s\"";
    let service = Service::start(&server, &limits(config));
    let others = begin_all(&modest, server.v4(), 3);
    let waiting = begin_all(&greedy, server.v4(), 5);
    wait_until_closed(&waiting[..2], 2);
    for _ in 0..2 {
        let told = service.expect_event("refused none from 10.77.0.2: too_many");
        assert_says(&told, "limits.per-source is reached");
    }
    wait_until_closed(&waiting, 2);
    wait_until_closed(&others, 0);
}

/// A /64 is what one customer has, so all of its addresses share one share.
#[test]
fn the_addresses_of_an_ipv6_network_share_one_share() {
    let [server, first, second] = network(["server", "first", "second"]);
    let config = "connections = 100\nper-source = 3\nrequest-timeout = \"60s\"";
    let service = Service::start(&server, &limits(config));
    let mut of_first = begin_all(&first, server.v6(), 2);
    let of_second = begin_all(&second, server.v6(), 2);
    assert_eq!(read_to_end(&mut of_first[0]), Answer::Nothing);
    service.expect_event("refused none from fd77::2: too_many");
    // Over IPv4 they are two.
    let hosts = [&first, &second].into_iter();
    let of_both: Vec<_> = hosts
        .flat_map(|host| begin_all(host, server.v4(), 3))
        .collect();
    wait_until_closed(&of_both, 0);
    wait_until_closed(&of_first[1..], 0);
    wait_until_closed(&of_second, 0);
}

#[test]
fn this_host_always_gets_in() {
    let [server, first, second] = network(["server", "first", "second"]);
    let config = "connections = 4\nper-source = 2\nrequest-timeout = \"60s\"";
    let service = Service::start(&server, &limits(config));
    let mut strangers = begin_all(&first, server.v4(), 2);
    strangers.extend(begin_all(&second, server.v4(), 2));
    // It has no share to exceed, and the strangers make room.
    let local = begin_all(&server, [127, 0, 0, 1].into(), 3);
    wait_until_closed(&strangers, 3);
    let own_address = begin(&server, server.v4());
    wait_until_closed(&strangers, 4);
    // A stranger does not push this host out; it is the one to go, unless it asks at once.
    let mut late = begin(&first, server.v4());
    assert_eq!(read_to_end(&mut late), Answer::Nothing);
    let told = tally(&service, 5);
    assert_eq!(told["refused none from 10.77.0.2: too_many"], 3);
    assert_eq!(told["refused none from 10.77.0.3: too_many"], 2);
    assert_eq!(
        first.ask(server.v4(), b"zapi"),
        Answer::Bytes(UNKNOWN.to_vec())
    );
    assert_local_nodes_are_served(&service);
    for stream in local.into_iter().chain([own_address]) {
        assert_eq!(complete(stream), Answer::Bytes(UNKNOWN.to_vec()));
    }
}

#[test]
fn the_limits_of_a_file_that_is_read_again_are_in_force() {
    let [server, peer] = network(["server", "peer"]);
    let service = Service::start(&server, &limits("request-timeout = \"60s\""));
    let before = sockets(&service);
    let waiting = begin_all(&peer, server.v4(), 3);
    wait_for_sockets(&service, before + 3);
    service.reload(&limits("per-source = 3\nrequest-timeout = \"1s\""));
    // The newcomer has the new limits; who was there keeps the time that it was given.
    let start = Instant::now();
    let mut newcomer = begin(&peer, server.v4());
    wait_until_closed(&waiting, 1);
    service.expect_event("refused none from 10.77.0.2: too_many");
    assert_eq!(read_to_end(&mut newcomer), Answer::Nothing);
    assert!(start.elapsed() >= about(1));
    wait_until_closed(&waiting, 1);
}

/// Strangers never take a slot that a local node needs, and a node that has registered needs none.
#[test]
fn registrations_have_a_budget_of_their_own() {
    let [server, peer] = network(["server", "peer"]);
    let config = "connections = 2\nregistrations = 3\nrequest-timeout = \"60s\"";
    let service = Service::start(&server, &limits(config));
    let _waiting = begin_all(&peer, server.v4(), 4);
    let mut names = ["a", "b", "c"].map(|name| Some(service.hold(name)));
    assert_eq!(
        service.register(&Node::new("d")).end,
        Registered::Closed,
        "a refusal is no answer: nodes take any result for \"the name is in use\""
    );
    let event = loop {
        let event = service.next_event();
        if event["operation"] == "register" {
            break event;
        }
    };
    assert_eq!(
        brief(&event),
        "refused register of d from 127.0.0.1: too_many"
    );
    assert_says(&event, "limits.registrations is reached");
    names[1] = None;
    let held = wait_for("room for another name", || {
        let attempt = service.register(&Node::new("d"));
        (attempt.end == Registered::Held).then(|| attempt.held().0)
    });
    assert_eq!(service.ask(b"n"), listed(&["d", "c", "a"]));
    drop(held);
}

#[test]
fn a_request_that_does_not_come_is_not_waited_for() {
    let [server, member, stranger] = network(["server", "member", "stranger"]);
    let config = "[audit]\nformat = \"json\"\n[access]\nallow = [\"10.77.0.2\"]\n";
    let by_file = format!("{config}[limits]\nrequest-timeout = \"1s\"\n");
    for (file, arguments) in [
        (by_file.as_str(), &[][..]),
        (config, &["-packet_timeout", "1"]),
    ] {
        let launch = Launch::on(&server).config(file).arguments(arguments);
        let service = launch.start();
        let start = Instant::now();
        let streams = [&server, &member, &stranger].map(|host| begin(host, server.v4()));
        for mut stream in streams {
            assert_eq!(read_to_end(&mut stream), Answer::Nothing);
            let took = start.elapsed();
            assert!(took >= about(1) && took < about(4), "{took:?}");
        }
        let told = service.expect_event("refused none from 10.77.0.3: timeout");
        assert_says(&told, "limits.request-timeout");
        assert_eq!(service.other_events(), Vec::<Value>::new());
    }
}

#[test]
fn a_request_that_comes_byte_by_byte_is_answered() {
    let [server, member] = network(["server", "member"]);
    let service = Service::start(&server, &limits("request-timeout = \"5s\""));
    let _name = service.hold("api");
    for (host, to) in [(&server, [127, 0, 0, 1].into()), (&member, server.v4())] {
        let mut stream = host.connect(to);
        let (last, first) = LOOKUP.split_last().unwrap();
        for byte in first {
            send(&mut stream, &[*byte]);
            // That the bytes come one by one is the point.
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(ask(stream, &[*last]), found("api"));
    }
    // A registration as well, and it holds.
    let mut stream = service.connect();
    let node = Node::new("slow");
    for part in frame(&node.request()).chunks(5) {
        send(&mut stream, part);
        std::thread::sleep(Duration::from_millis(20));
    }
    let _held = registered(stream, &node).held();
    assert_eq!(service.ask(b"zslow"), found("slow"));
}

/// Names that make a list of more than half a megabyte.
fn hold_long_names(service: &Service<'_>) -> (Vec<TcpStream>, usize) {
    const COUNT: usize = 600;
    let names: Vec<_> = (0..COUNT)
        .map(|n| service.hold(&format!("{n:05}{}", "名".repeat(250))))
        .collect();
    let Answer::Bytes(list) = service.ask(b"n") else {
        panic!("no list");
    };
    (names, list.len())
}

/// A connection that has asked for a list and does not read it.
fn ask_and_do_not_read(from: &Host, to: IpAddr) -> TcpStream {
    let mut stream: TcpStream = from
        .enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            // Little room, or the kernel would read all of it.
            socket.set_recv_buffer_size(4096)?;
            socket.connect(&SocketAddr::new(to, EPMD).into())?;
            Ok::<_, std::io::Error>(socket)
        })
        .unwrap()
        .into();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    send(&mut stream, &frame(b"n"));
    stream
}

/// Waits until the beginning of an answer is there.
fn wait_for_a_byte(stream: &TcpStream) {
    assert_eq!(stream.peek(&mut [0; 1]).unwrap(), 1);
}

#[test]
fn a_slow_reader_is_cut_off_and_blocks_nobody() {
    let [server, slow, member] = network(["server", "slow", "member"]);
    let service = Service::start(&server, &limits("request-timeout = \"2s\""));
    let (_names, length) = hold_long_names(&service);
    let _name = service.hold("api");
    let before = sockets(&service);
    let start = Instant::now();
    let mut readers: Vec<_> = (0..3)
        .map(|_| ask_and_do_not_read(&slow, server.v4()))
        .collect();
    readers.iter().for_each(wait_for_a_byte);
    // Meanwhile everything else is answered at once.
    assert_eq!(member.ask(server.v4(), b"zapi"), found("api"));
    let Answer::Bytes(list) = member.ask(server.v4(), b"n") else {
        panic!("no list");
    };
    assert!(list.len() > length, "the whole list, with one name more");
    assert_local_nodes_are_served(&service);
    assert!(start.elapsed() < about(2), "{:?}", start.elapsed());

    let told = service.expect_event("refused list from 10.77.0.2: timeout");
    assert!(start.elapsed() >= about(2));
    assert_says(
        &told,
        "its answer was not read within limits.request-timeout",
    );
    // The others' time is over at nearly the same instant, but not before.
    wait_for_sockets(&service, before);
    for reader in &mut readers {
        let mut rest = Vec::new();
        // The end may come as a reset.
        let _ = reader.read_to_end(&mut rest);
        assert!(rest.len() < length, "{} of {length}", rest.len());
    }
}

/// Only where nobody can make room is the newcomer the one to go: a peer that is being answered has
/// asked, and is not cut off for one that has not.
#[test]
fn a_newcomer_is_refused_where_nobody_can_make_room() {
    let [server, slow, member] = network(["server", "slow", "member"]);
    let config = "connections = 2\nrequest-timeout = \"30s\"";
    let service = Service::start(&server, &limits(config));
    let (_names, length) = hold_long_names(&service);
    let readers = [(); 2].map(|()| ask_and_do_not_read(&slow, server.v4()));
    readers.iter().for_each(wait_for_a_byte);
    let mut newcomer = begin(&member, server.v4());
    assert_eq!(read_to_end(&mut newcomer), Answer::Nothing);
    let told = service.expect_event("refused none from 10.77.0.3: too_many");
    assert_says(&told, "limits.connections is reached");
    // A request that is there at once needs no room.
    let unknown = Answer::Bytes(UNKNOWN.to_vec());
    assert_eq!(member.ask(server.v4(), b"zapi"), unknown);
    // This host still gets in, and one of them has to go for it.
    let local = begin(&server, server.v4());
    let told = service.expect_event("refused list from 10.77.0.2: too_many");
    assert_says(&told, "limits.connections is reached");
    assert_eq!(complete(local), unknown);
    let mut lengths = readers.map(|mut reader| {
        let mut list = Vec::new();
        let _ = reader.read_to_end(&mut list);
        list.len()
    });
    lengths.sort_unstable();
    assert!(lengths[0] < length);
    assert_eq!(lengths[1], length, "the other reads its list to the end");
}

#[test]
fn more_idle_connections_than_descriptors_do_no_harm() {
    const DESCRIPTORS: usize = 128;
    let [server, scanner, member] = network(["server", "scanner", "member"]);
    let config = "per-source = 1024\nrequest-timeout = \"60s\"";
    let low = format!("ulimit -n {DESCRIPTORS}; exec \"$@\"");
    let launch = Launch::on(&server).config(&limits(config));
    let service = launch.wrapped(&["sh", "-c", &low, "sh"]).start();
    service.wait_until_said("the limit of 128 descriptors is good for ");
    let _name = service.hold("api");
    let (silent, begun) = (
        (0..150)
            .map(|_| scanner.connect(server.v4()))
            .collect::<Vec<_>>(),
        begin_all(&scanner, server.v4(), 150),
    );
    // Those that it can't keep, it lets go; it does not run out.
    wait_for("connections to be let go", || {
        let closed = begun.iter().chain(&silent).filter(|it| is_closed(it));
        (closed.count() > 300 - DESCRIPTORS).then_some(())
    });
    assert!(process::descriptors(service.pid()).len() < DESCRIPTORS);
    let names: Vec<_> = (0..40).map(|n| service.hold(&format!("n{n}"))).collect();
    assert_eq!(member.ask(server.v4(), b"zapi"), found("api"));
    assert_eq!(service.ask(b"zn39"), found("n39"));
    assert_idle(&service);
    assert!(!service.said().contains("can't accept"));
    drop(names);
}

/// Sets how many descriptors a running process may have.
fn set_descriptor_limit(pid: u32, limit: usize) {
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={limit}:")])
        .status()
        .expect("prlimit, of util-linux");
    assert!(status.success());
}

/// No error of accept(2) ends it or makes it spin, and who waits meanwhile is served afterwards.
#[test]
fn without_descriptors_it_waits_for_better_times() {
    const TOLD: &str = "can't accept connections for the moment: ";
    let [server, member] = network(["server", "member"]);
    let service = Service::start(&server, &limits(""));
    let _name = service.hold("api");
    set_descriptor_limit(service.pid(), 5);
    let mut waiting = member.connect(server.v4());
    send(&mut waiting, LOOKUP);
    service.wait_until_said(TOLD);
    let start = Instant::now();
    assert_idle(&service);
    let told = service.said().matches(TOLD).count();
    let seconds = start.elapsed().as_secs() as usize;
    assert!(told <= seconds + 2, "told {told} times in {seconds} s");
    set_descriptor_limit(service.pid(), 1024);
    assert_eq!(read_to_end(&mut waiting), found("api"));
    assert_local_nodes_are_served(&service);
}

/// How many sockets the daemon has.
fn sockets(service: &Service<'_>) -> usize {
    process::sockets(service.pid()).len()
}

/// Waits until the daemon has so many sockets.
fn wait_for_sockets(service: &Service<'_>, count: usize) {
    wait_for("the daemon to have so many sockets", || {
        (sockets(service) == count).then_some(())
    });
}

/// Both signals that end it.
const ENDS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];

#[test]
fn a_request_in_flight_is_finished_before_the_end() {
    let [server, member] = network(["server", "member"]);
    for signal in ENDS {
        let config = limits("request-timeout = \"60s\"");
        let mut service = Service::start(&server, &config);
        let mut name = service.hold("api");
        let before = sockets(&service);
        let lookup = begin(&member, server.v4());
        let mut idle = member.connect(server.v4());
        wait_for_sockets(&service, before + 2);
        service.signal(signal);
        // Who has not begun to ask may go, at once.
        assert_eq!(read_to_end(&mut idle), Answer::Nothing);
        assert_eq!(service.ended(), None, "{signal}");
        assert_eq!(complete(lookup), found("api"), "{signal}");
        assert_eq!(service.status().code(), Some(0), "{signal}");
        assert_eq!(read_to_end(&mut name), Answer::Nothing);
    }
}

/// Whoever starts epmd again must not find its port held by the one that ends.
#[test]
fn the_port_is_free_while_the_last_requests_are_finished() {
    let [server, member] = network(["server", "member"]);
    let config = limits("request-timeout = \"60s\"");
    let mut ending = Service::start(&server, &config);
    let _name = ending.hold("api");
    let before = sockets(&ending);
    let lookup = begin(&member, server.v4());
    wait_for_sockets(&ending, before + 1);
    ending.signal(Signal::SIGTERM);
    wait_for("the port to be free", || {
        ending.listeners().is_empty().then_some(())
    });
    let next = Service::start(&server, &config);
    assert_eq!(
        member.ask(server.v4(), b"zapi"),
        Answer::Bytes(UNKNOWN.to_vec())
    );
    assert_eq!(ending.ended(), None);
    assert_eq!(complete(lookup), found("api"));
    assert_eq!(ending.status().code(), Some(0));
    next.assert_alive();
}

#[test]
fn a_request_that_never_comes_holds_up_the_end_no_longer_than_its_time() {
    let [server, member] = network(["server", "member"]);
    let mut service = Service::start(&server, &limits("request-timeout = \"60s\""));
    let before = sockets(&service);
    let _lookup = begin(&member, server.v4());
    wait_for_sockets(&service, before + 1);
    // The time in force at the end counts.
    service.reload(&limits("request-timeout = \"1s\""));
    let start = Instant::now();
    service.signal(Signal::SIGTERM);
    assert_eq!(service.status().code(), Some(0));
    assert!(start.elapsed() < about(4), "{:?}", start.elapsed());
}

/// How many connections wait to be accepted on epmd's port.
fn backlog(service: &Service<'_>) -> usize {
    let table = fs::read_to_string(format!("/proc/{}/net/tcp", service.pid())).unwrap();
    let port = format!(":{EPMD:04X}");
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[1].ends_with(&port) && fields[3] == "0A")
        .map(|fields| usize::from_str_radix(fields[4].split_once(':').unwrap().1, 16).unwrap())
        .sum()
}

/// Connections that wait to be accepted when the daemon is told to end: what has been asked is
/// answered, and who has asked nothing holds nothing up.
#[test]
fn what_waits_in_the_queue_is_answered_before_the_end() {
    let [server, member] = network(["server", "member"]);
    let config = limits("request-timeout = \"60s\"");
    let mut service = Service::start(&server, &config);
    let _name = service.hold("api");
    process::pause(service.pid());
    let mut asked: Vec<_> = (0..3).map(|_| member.connect(server.v4())).collect();
    asked.iter_mut().for_each(|stream| send(stream, LOOKUP));
    // Of this host, which has no share: more than are accepted in a row.
    let mut idle: Vec<_> = (0..100).map(|_| service.connect()).collect();
    wait_for("connections in the queue", || {
        (backlog(&service) == 103).then_some(())
    });
    service.signal(Signal::SIGTERM);
    service.signal(Signal::SIGCONT);
    for stream in &mut asked {
        assert_eq!(read_to_end(stream), found("api"));
    }
    for stream in &mut idle {
        assert_eq!(read_to_end(stream), Answer::Nothing);
    }
    assert_eq!(service.status().code(), Some(0));
}

#[test]
fn a_broken_pipe_is_no_harm() {
    let [server, member, stranger] = network(["server", "member", "stranger"]);
    let (reader, writer) = std::io::pipe().unwrap();
    let config =
        "[access]\nallow = [\"10.77.0.2\"]\n[audit]\nformat = \"text\"\nwindow = \"1ms\"\n";
    let service = Launch::on(&server).config(config).stderr(writer).start();
    let _names = hold_long_names(&service);
    // Nobody reads what it says.
    drop(reader);
    for _ in 0..5 {
        assert_eq!(stranger.ask(server.v4(), b"zapi"), Answer::Nothing);
    }
    // Nobody reads what it answers: some go before the answer, some in its midst, with a reset.
    for _ in 0..20 {
        let mut stream = member.connect(server.v4());
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        send(&mut stream, &frame(b"n"));
        drop(stream);
        let stream = ask_and_do_not_read(&member, server.v4());
        wait_for_a_byte(&stream);
        drop(stream);
    }
    service.signal(Signal::SIGPIPE);
    assert_local_nodes_are_served(&service);
    assert_eq!(
        member.ask(server.v4(), b"zapi"),
        Answer::Bytes(UNKNOWN.to_vec())
    );
}

/// The most memory that a process has had so far, in KiB.
fn peak_memory(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
    let number = line.unwrap().trim().strip_suffix(" kB").unwrap();
    number.parse().unwrap()
}

/// Connections from addresses of fd78::/32 to the server, as many as there are numbers. Each is
/// handed to `act` as it is there.
fn from_many_sources(
    host: &Host,
    to: IpAddr,
    sources: impl Iterator<Item = Ipv6Addr> + Send,
    mut act: impl FnMut(TcpStream) + Send,
) {
    host.enter(|| {
        for source in sources {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
            // It is the host's by a route; there is no interface that has it.
            socket.set_freebind_v6(true).unwrap();
            socket
                .bind(&SocketAddr::new(source.into(), 0).into())
                .unwrap();
            socket.connect(&SocketAddr::new(to, EPMD).into()).unwrap();
            let stream: TcpStream = socket.into();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            act(stream);
        }
    });
}

/// A host that has all of fd78::/32, and a server that finds its way back.
fn with_many_addresses() -> [Host; 2] {
    let [server, many] = network(["server", "many"]);
    many.ip("route add local fd78::/32 dev lo\n");
    server.ip("route add fd78::/32 via fd77::2\n");
    [server, many]
}

/// An address of the /64 with this number.
fn address_of(network: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd78, 0, 0, network, 0, 0, 0, host)
}

/// A scanner with more addresses than the audit tracks: memory is bounded, lines are, and none of
/// the refusals is lost from the totals.
#[test]
fn a_flood_of_refusals_costs_bounded_memory_and_lines() {
    const SOURCES: u16 = 3000;
    const LINES_A_SECOND: u64 = 50;
    let [server, many] = with_many_addresses();
    let mut service = Service::start(&server, "[audit]\nformat = \"json\"\n");
    let before = peak_memory(service.pid());
    let start = Instant::now();
    let sources = (0..SOURCES).map(|n| address_of(n, n));
    let mut number = 0;
    from_many_sources(&many, server.v6(), sources, |stream| {
        number += 1;
        let name = format!("z{number:04}{}", "名".repeat(250));
        assert_eq!(ask(stream, &frame(name.as_bytes())), Answer::Nothing);
    });
    assert_local_nodes_are_served(&service);
    let lines = service.said().matches("\"event\":\"refused\"").count() as u64;
    let seconds = start.elapsed().as_secs() + 2;
    assert!(lines <= LINES_A_SECOND * seconds, "{lines} in {seconds} s");
    let grown = peak_memory(service.pid()) - before;
    assert!(grown <= 8 * 1024, "{grown} KiB more");

    service.signal(Signal::SIGTERM);
    assert_eq!(service.status().code(), Some(0));
    let total: u64 = service.events().iter().map(stands_for).sum();
    assert_eq!(total, u64::from(SOURCES));
}

/// Half-sent requests from everywhere: as many as may be open are, of each source its share, and
/// memory is bounded.
#[test]
fn a_flood_of_half_sent_requests_costs_bounded_memory() {
    const NETWORKS: u16 = 24;
    const EACH: u16 = 70;
    /// The defaults of connections and per-source.
    const OPEN_AT_ONCE: usize = 1024;
    const SHARE: usize = 64;
    let [server, many] = with_many_addresses();
    let config = limits("request-timeout = \"60s\"");
    let service = Service::start(&server, &config);
    let _name = service.hold("api");
    let before = peak_memory(service.pid());
    let mut streams = Vec::new();
    let sources = (0..EACH).flat_map(|host| (0..NETWORKS).map(move |n| address_of(n, host)));
    // The longest request there is, but for its last byte.
    let half = [&3057_u16.to_be_bytes()[..], &[b'z'; 3056]].concat();
    from_many_sources(&many, server.v6(), sources, |mut stream| {
        send(&mut stream, &half);
        streams.push(stream);
    });
    let all = usize::from(NETWORKS * EACH);
    wait_until_closed(&streams, all - OPEN_AT_ONCE);
    let mut open: BTreeMap<u16, usize> = BTreeMap::new();
    for stream in streams.iter().filter(|stream| !is_closed(stream)) {
        let IpAddr::V6(address) = stream.local_addr().unwrap().ip() else {
            panic!("an IPv4 address");
        };
        *open.entry(address.segments()[3]).or_default() += 1;
    }
    assert!(open.values().all(|open| *open <= SHARE), "{open:?}");
    assert_eq!(many.ask(v4(1), b"zapi"), found("api"));
    assert_local_nodes_are_served(&service);
    let grown = peak_memory(service.pid()) - before;
    assert!(grown <= 16 * 1024, "{grown} KiB more");
}

/// Everything that there may be at once, and a few descriptors: names as long as they get, in the store as
/// well, clients of the control socket and of the exporter, and strangers.
#[test]
fn all_that_there_may_be_at_once_does_not_run_out_of_descriptors() {
    const DESCRIPTORS: u64 = 1500;
    const CLIENTS: usize = 24;
    const STRANGERS: usize = 500;
    const EXPORTER: u16 = 9436;
    let [server, many] = with_many_addresses();
    let mut store = Store::new();
    let config = "[audit]\nformat = \"json\"\n[limits]\nrequest-timeout = \"60s\"\n[metrics]\nlisten = \"127.0.0.1:9436\"\n";
    let service = Launch::on(&server)
        .config(config)
        .wrapped(&["prlimit", &format!("--nofile={DESCRIPTORS}")])
        .variable("NOTIFY_SOCKET", &store.path())
        .arguments(&["-systemd"])
        .start();
    service.wait_until_said("metrics at ");
    // As long as a name can be in UTF-8: 255 characters.
    let longest = |number: usize| format!("{number:05}{}", "\u{1f980}".repeat(250));
    let mut names = Vec::new();
    loop {
        store.hear();
        let registration = service.register(&Node::new(longest(names.len())));
        match registration.end {
            Registered::Held => names.push(registration.held().0),
            Registered::Closed => break,
            taken => panic!("{taken:?}"),
        }
        assert!((names.len() as u64) < DESCRIPTORS, "there is no end");
    }
    assert!(names.len() > 500, "{} names", names.len());
    let sources = (0..STRANGERS).map(|n| address_of(u16::try_from(n).unwrap(), 1));
    let mut strangers = Vec::new();
    from_many_sources(&many, server.v6(), sources, |mut stream| {
        send(&mut stream, BEGINNING);
        strangers.push(stream);
    });
    let clients: Vec<_> = server.enter(|| {
        let control = || UnixStream::connect("/run/epmd/control.sock").unwrap();
        let exporter = || common::connect(Ipv4Addr::LOCALHOST.into(), EXPORTER);
        (0..CLIENTS).map(|_| (control(), exporter())).collect()
    });
    for number in 0..names.len() {
        let name = longest(number);
        let asked = [b"z", name.as_bytes()].concat();
        assert_eq!(service.ask(&asked), found(&name));
    }
    // Whoever asks is told, in the place of those that say nothing.
    let status = server.run(Epmd::Ours.command().args(["-status", "-json"]));
    assert_eq!(status.status, Some(0), "{status:?}");
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    let used = status["limits"]["descriptors"]["used"].as_u64().unwrap();
    assert!(used < DESCRIPTORS, "{used}");
    assert_eq!(
        status["registrations"].as_array().unwrap().len(),
        names.len()
    );
    // A name that goes has room for another one.
    drop(names.pop());
    let again = wait_for("room for a name", || {
        store.hear();
        let registration = service.register(&Node::new("again"));
        (registration.end == Registered::Held).then(|| registration.held().0)
    });
    let said = service.said();
    for words in ["can't accept", "oo many open files", "will not survive"] {
        assert!(!said.contains(words), "{said}");
    }
    drop((strangers, clients, again));
}

/// A hundred registrations and releases leave nothing behind.
#[test]
fn names_that_are_gone_leave_no_descriptor_behind() {
    let host = lone_host();
    let service = Service::start(&host, "");
    let descriptors = || process::descriptors(service.pid()).len();
    let before = descriptors();
    for n in 0..100 {
        drop(service.hold(&format!("n{n}")));
    }
    wait_for("the descriptors to be given back", || {
        (descriptors() == before).then_some(())
    });
    assert_eq!(service.ask(b"n"), listed(&[]));
}

//! Much of everything: networks, connects, registrations.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::common::netns::{Host, network};
use super::common::service::Service;
use super::common::wait_for;
use super::common::wire::{Node, register};
use super::{Met, Stand, TABLE, epmd, event, file, guard, meet, nft, rules, until_met};

/// The most that 20,000 networks may take until they are in force, on a machine that does something else.
const IN_FORCE: Duration = Duration::from_secs(5);

/// 20,000 networks, none of which is a neighbour of another; the last admits 10.77.0.2.
fn networks() -> String {
    let all = (0..19_999_u32).map(|n| {
        let address = Ipv4Addr::from_bits(0x0b00_0000 + n * 8);
        format!("\"{address}/30\"")
    });
    let all: Vec<_> = all.chain(["\"10.77.0.2\"".to_owned()]).collect();
    all.join(", ")
}

#[test]
fn twenty_thousand_networks_are_two_sets_and_a_packet_costs_what_it_did() {
    let [api, member, stranger] = network(["api", "member", "stranger"]);
    let few = file("allow = [\"10.77.0.2\"]");
    let service = Service::start(&api, &few);
    let node = Stand::up(&api, &service, "api", "0.0.0.0:0");
    let guard = guard(&api, &few);
    let to = node.at(api.v4());
    let lines = rules(&api)
        .lines()
        .filter(|l| l.contains("goto") || l.contains("accept"))
        .count();
    let before = least(&stranger, to);
    let own = nft(&api, &format!("-a list chain {TABLE} input"));
    service.reload(&file(&format!("allow = [{}]", networks())));
    let begin = Instant::now();
    wait_for("the networks to be in force", || {
        let set = nft(
            &api,
            &format!("get element {TABLE} allow4 {{ 11.1.56.128 }}"),
        );
        (set.status == Some(0)).then_some(())
    });
    let took = begin.elapsed();
    println!("20,000 networks in force after {took:?}");
    assert!(took < IN_FORCE, "{took:?}");
    let with_many = rules(&api);
    let now = with_many
        .lines()
        .filter(|l| l.contains("goto") || l.contains("accept"))
        .count();
    assert_eq!(now, lines, "rules do not grow with networks");
    assert_eq!(nft(&api, &format!("-a list chain {TABLE} input")), own);
    assert_eq!(meet(&member, to), Met::Accepted);
    assert_eq!(meet(&stranger, to), Met::Reset);
    let after = least(&stranger, to);
    println!("a reset after {before:?} with one network, {after:?} with 20,000");
    assert!(
        after < before * 3 + Duration::from_micros(200),
        "{before:?} {after:?}"
    );
    let check = epmd(&api, &["-guard", "-check"]);
    assert_eq!(check.status, Some(0), "{check:?}");
    // While lists are exchanged nobody slips through, and who is in both is never turned away.
    for round in 0..6 {
        let all = match round % 2 {
            0 => "\"10.77.0.2\", \"11.0.0.0/8\"".to_owned(),
            _ => networks(),
        };
        service.reload(&file(&format!("allow = [{all}]")));
        let end = Instant::now() + Duration::from_millis(700);
        while Instant::now() < end {
            assert_eq!(meet(&stranger, to), Met::Reset, "round {round}");
            node.take_all();
            assert_eq!(
                meet(&member, to),
                Met::Accepted,
                "round {round}: {}",
                guard.said()
            );
        }
    }
}

/// The least time in which a connection is turned away.
fn least(host: &Host, to: SocketAddr) -> Duration {
    host.enter(|| {
        let tries = (0..200).map(|_| {
            let begin = Instant::now();
            assert!(std::net::TcpStream::connect(to).is_err());
            begin.elapsed()
        });
        tries.min().unwrap()
    })
}

/// Connects without waiting for what comes of it.
fn knock(from: IpAddr, to: SocketAddr) {
    let domain = Domain::for_address(to);
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    let _ = socket.connect(&to.into());
}

#[test]
fn a_flood_costs_few_lines_and_keeps_its_counts() {
    const FLOOD: u64 = 20_000;
    let [api, stranger] = network(["api", "stranger"]);
    let config = file("allow = []").replace("\"1s\"", "\"60s\"");
    let service = Service::start(&api, &config);
    let node = Stand::up(&api, &service, "api", "0.0.0.0:0");
    let mut guard = guard(&api, &config);
    let to = node.at(api.v4());
    // 3,000 addresses of its own, more than are told apart.
    let addresses: Vec<Ipv4Addr> = (0..3_000_u32)
        .map(|n| Ipv4Addr::from_bits(0x0a50_0000 + n))
        .collect();
    let lines: String = addresses
        .iter()
        .map(|a| format!("addr add {a}/32 dev eth0\n"))
        .collect();
    stranger.ip(&lines);
    api.ip("route add 10.80.0.0/16 dev eth0\n");
    assert_eq!(meet(&stranger, to), Met::Reset);
    stranger.enter(|| {
        for address in addresses
            .iter()
            .cycle()
            .take(usize::try_from(FLOOD).unwrap())
        {
            knock((*address).into(), to);
        }
    });
    let counted = || {
        let said = epmd(&api, &["-guard", "-check"]).stdout;
        let line = said
            .lines()
            .find_map(|l| l.strip_prefix("turned away since the table was made: "));
        line.and_then(|n| n.parse::<u64>().ok()).unwrap_or_default()
    };
    wait_for("the kernel's count", || (counted() >= FLOOD).then_some(()));
    let counted = counted();
    let known = wait_for("the daemon to know of all", || {
        let refused = super::status(&api)["requests"]["connect"]["refused"].as_u64()?;
        (refused >= counted).then_some(refused)
    });
    assert_eq!(known, counted, "none is counted twice");
    guard.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(guard.status().success());
    let events = guard.events();
    println!(
        "{counted} connects of {} addresses: {} lines",
        addresses.len(),
        events.len()
    );
    // A line stands for one, or for as many as it repeats.
    let told: u64 = events
        .iter()
        .map(|e| e["repeats"].as_u64().unwrap_or_default().max(1))
        .sum();
    assert_eq!(told, counted);
    assert!(events.len() <= 100, "{}", events.len());
}

#[test]
fn one_peers_flood_is_two_lines() {
    let [api, stranger] = network(["api", "stranger"]);
    let config = file("allow = []").replace("\"1s\"", "\"1h\"");
    let service = Service::start(&api, &config);
    let node = Stand::up(&api, &service, "api", "0.0.0.0:0");
    let mut guard = guard(&api, &config);
    let to = node.at(api.v4());
    // Its neighbour is known from here on, and no packet waits for that.
    assert_eq!(meet(&stranger, to), Met::Reset);
    stranger.enter(|| (0..5_000).for_each(|_| knock(stranger.v4(), to)));
    event(&guard, |e| e["peer"] == stranger.v4().to_string());
    guard.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(guard.status().success());
    let events = guard.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events[1]["repeats"], 5_000, "{events:?}");
}

#[test]
fn a_thousand_registrations_are_guarded_and_a_follower_that_does_not_read_is_let_go() {
    let [api, stranger] = network(["api", "stranger"]);
    let config = file("allow = []");
    let service = Service::start(&api, &config);
    let node = Stand::up(&api, &service, "api", "0.0.0.0:0");
    // Follows, and reads nothing.
    let deaf = api.enter(|| {
        use std::io::Write as _;
        let mut deaf = std::os::unix::net::UnixStream::connect("/run/epmd/control.sock").unwrap();
        deaf.write_all(b"follow\n").unwrap();
        deaf
    });
    let guard = guard(&api, &config);
    let begin = Instant::now();
    let names: Vec<_> = (0..1_000)
        .map(|n| {
            let node = Node {
                port: node.port(),
                ..Node::new(format!("{n:0200}"))
            };
            register(service.connect(), &node).held().0
        })
        .collect();
    println!(
        "1,000 registrations with two followers: {:?}",
        begin.elapsed()
    );
    drop(names);
    for n in 0..4_000 {
        drop(service.hold(&format!("{n:0200}")));
    }
    until_met(&stranger, node.at(api.v4()), Met::Reset);
    // The kernel holds what was sent before; then comes the end.
    let read = std::thread::spawn(move || {
        use std::io::Read as _;
        let mut deaf = deaf;
        deaf.set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut all = Vec::new();
        deaf.read_to_end(&mut all).map(|_| all.len())
    });
    let read = read.join().unwrap().expect("its end");
    assert!(read > 10_000, "{read}");
    assert!(
        !guard.said().contains("the rules stay as they are"),
        "{}",
        guard.said()
    );
    service.assert_alive();
}

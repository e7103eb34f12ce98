//! What the core costs, without a socket: decode, decide, find, audit, and a whole lookup at the desk.
//!
//! ```text
//! cargo bench --bench core              # in about a minute
//! cargo bench --bench core -- find      # the benchmarks with "find" in their names
//! ```
//!
//! What is asked changes from one turn to the next, so that large tables are met as they are in use:
//! not in the processor's caches. `cargo test --all-targets` runs each once, with smaller tables.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a bench that can't measure ends loudly"
)]

use std::env;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use hardened_epmd::config::Settings;
use hardened_epmd::core::access::{Decision, Networks, Rules};
use hardened_epmd::core::audit::Audit;
use hardened_epmd::core::desk::{Desk, Holder, Step};
use hardened_epmd::core::holds::Holds;
use hardened_epmd::core::outcome::{Ends, Operation, Outcome, Reason, Setting, Verdict};
use hardened_epmd::core::registry::Registry;
use hardened_epmd::core::wire::{self, Node, Request};
use ipnet::IpNet;

/// The long access list.
const NETWORKS: u32 = 20_000;
/// How many different requests take turns.
const TURNS: usize = 4096;
/// More sources than the audit tracks, each of which pushes out another one.
const MANY_SOURCES: u32 = 100_000;

/// The address of the daemon.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 3, 5)), 4369);

fn main() {
    // As criterion has it: without this word, everything is tried once and nothing is measured.
    let measures = env::args().any(|word| word == "--bench");
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(50)
        .without_plots()
        .configure_from_args();
    decode(&mut criterion);
    decide(&mut criterion);
    let sizes: &[usize] = if measures {
        &[1_000, 100_000, 1_000_000]
    } else {
        &[1_000]
    };
    find(&mut criterion, sizes);
    audit(&mut criterion);
    whole_lookup(&mut criterion, sizes);
    criterion.final_summary();
}

/// Who holds a name, where nobody does.
struct Nobody;

impl Holder for Nobody {
    fn is_gone(&self) -> bool {
        false
    }
    fn descriptor(&self) -> i32 {
        0
    }
    fn uid(&self) -> Option<u32> {
        None
    }
    fn release(self) {}
}

fn name(number: usize) -> String {
    format!("node_{number}")
}

fn node(name: &[u8]) -> Node<'_> {
    Node::new(name, 4370)
}

fn registry(names: usize) -> Registry<Nobody> {
    let mut registry = Registry::default();
    for number in 0..names {
        registry.register(&node(name(number).as_bytes()), 0, Nobody);
    }
    registry
}

/// Numbers below `end`, all over the place, that take turns.
fn scattered(end: usize) -> impl Iterator<Item = usize> {
    // A prime: no two of the first `end` are the same.
    (0..TURNS).map(move |turn| turn * 7_368_787 % end)
}

/// Gives one after the other, over and over.
fn taking_turns<'a, T>(all: &'a [T]) -> impl FnMut() -> &'a T {
    let mut turn = 0;
    move || {
        turn = (turn + 1) % all.len();
        &all[turn]
    }
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let requests = [
        ("lookup", Request::Lookup(b"rabbit")),
        ("list", Request::List),
        ("registration", Request::Register(node(b"rabbit"))),
    ];
    for (what, request) in requests {
        let bytes = wire::encode_request(&request);
        group.bench_function(what, |bencher| {
            bencher.iter(|| wire::decode(black_box(&bytes)) == black_box(wire::Decoded::Malformed));
        });
    }
    let half = b"\0\x07zrab";
    group.bench_function("half a lookup", |bencher| {
        bencher.iter(|| wire::decode(black_box(half)) == black_box(wire::Decoded::Incomplete));
    });
}

/// The network with this number: /24s of 100.0.0.0/8, /64s of fd00::/32.
fn network(number: u32, v6: bool) -> IpNet {
    let net = |address, length| IpNet::new(address, length).expect("a length that may be");
    if v6 {
        net(
            Ipv6Addr::from_bits((0xfd00 << 112) | (u128::from(number) << 64)).into(),
            64,
        )
    } else {
        net(Ipv4Addr::from_bits((100 << 24) | (number << 8)).into(), 24)
    }
}

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for count in [1, NETWORKS] {
        let both = (0..count).flat_map(|n| [network(n, false), network(n, true)]);
        let rules = Rules {
            allow: both.collect::<Networks>(),
            ..Rules::default()
        };
        for v6 in [false, true] {
            for (hit, wanted) in [
                (true, Decision::Admit),
                (false, Decision::Refuse(Reason::NotAllowed)),
            ] {
                let peers: Vec<Ends> = scattered(count as usize)
                    .map(|at| {
                        // Those that miss are beside the last network, and share most of its bits.
                        let number = u32::try_from(at).expect("a small number");
                        let number = if hit { number } else { count + number };
                        Ends::new(SocketAddr::new(peer(number, v6), 40_000), LOCAL)
                    })
                    .collect();
                let ask = |ends: &Ends| rules.decide(ends, Operation::Lookup, Some(b"rabbit"));
                assert!(peers.iter().all(|peer| ask(peer) == wanted));
                let what = format!(
                    "{}, {}",
                    if v6 { "IPv6" } else { "IPv4" },
                    if hit { "hit" } else { "miss" }
                );
                let mut next = taking_turns(&peers);
                group.bench_function(BenchmarkId::new(what, count), |bencher| {
                    bencher.iter(|| ask(next()));
                });
            }
        }
    }
}

/// An address in the network with this number.
fn peer(number: u32, v6: bool) -> IpAddr {
    match network(number, v6) {
        IpNet::V4(net) => Ipv4Addr::from_bits(net.addr().to_bits() + 9).into(),
        IpNet::V6(net) => Ipv6Addr::from_bits(net.addr().to_bits() + 9).into(),
    }
}

fn find(criterion: &mut Criterion, sizes: &[usize]) {
    let mut group = criterion.benchmark_group("find");
    for &size in sizes {
        let registry = registry(size);
        let names: Vec<String> = scattered(size).map(name).collect();
        let mut next = taking_turns(&names);
        group.bench_function(BenchmarkId::new("known", size), |bencher| {
            bencher.iter(|| registry.find(next().as_bytes()).expect("it is there").port);
        });
        let names: Vec<String> = scattered(size).map(|at| name(size + at)).collect();
        let mut next = taking_turns(&names);
        group.bench_function(BenchmarkId::new("unknown", size), |bencher| {
            bencher.iter(|| assert!(registry.find(next().as_bytes()).is_none()));
        });
    }
}

/// A refusal of a lookup from the source with this number.
fn refusal(source: u32) -> Outcome<'static> {
    let peer = Ipv4Addr::from_bits((100 << 24) | source);
    Outcome {
        ends: Ends::new((peer, 40_000).into(), LOCAL),
        operation: Operation::Lookup,
        node: Some(b"rabbit"),
        verdict: Verdict::Refused,
        reason: Some(Reason::NotAllowed),
        setting: Some(Setting::Allow),
        since: None,
        holder: None,
    }
}

fn audit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("audit");
    let new = || Audit::new(Settings::default().audit_policy());
    let now = Duration::from_secs(1);
    group.bench_function("a repeat", |bencher| {
        let mut audit = new();
        let again = refusal(1);
        bencher.iter(|| audit.record(now, black_box(&again), &mut |event| drop(black_box(event))));
    });
    group.bench_function("a new source in place of another", |bencher| {
        let mut audit = new();
        let all: Vec<_> = (0..MANY_SOURCES).map(refusal).collect();
        // The table is full, and the second's lines are told.
        for refusal in &all {
            audit.record(now, refusal, &mut drop);
        }
        let mut next = taking_turns(&all);
        bencher.iter(|| audit.record(now, next(), &mut |event| drop(black_box(event))));
    });
}

fn whole_lookup(criterion: &mut Criterion, sizes: &[usize]) {
    let mut group = criterion.benchmark_group("whole lookup");
    let rules = Rules {
        allow: (0..NETWORKS).map(|n| network(n, false)).collect(),
        ..Rules::default()
    };
    for &size in sizes {
        let mut desk = Desk {
            rules: rules.clone(),
            max_registrations: size,
            relaxed_command_check: false,
            registry: registry(size),
            holds: Holds::default(),
        };
        let requests: Vec<(Ends, Vec<u8>)> = scattered(size)
            .map(|at| {
                let network = u32::try_from(at).expect("a small number") % NETWORKS;
                let peer = peer(network, false);
                let request = wire::encode_request(&Request::Lookup(name(at).as_bytes()));
                (Ends::new((peer, 40_000).into(), LOCAL), request)
            })
            .collect();
        let mut next = taking_turns(&requests);
        let mut answer = Vec::new();
        group.bench_function(BenchmarkId::new("of names", size), |bencher| {
            bencher.iter(|| {
                let (ends, request) = next();
                answer.clear();
                let Step::End(_, outcome) = desk.handle(*ends, 0, request, &mut answer) else {
                    unreachable!("a lookup ends");
                };
                assert!(outcome.verdict == Verdict::Answered);
            });
        });
    }
}

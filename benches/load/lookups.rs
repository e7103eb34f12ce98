//! What a lookup, a registration and a list cost while few and while many names are registered.

use std::thread;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::client::{self, Burst, Expect, Node};
use crate::report::{Report, Row, Target};
use crate::rounds::{Rounds, median};
use crate::server::{Kind, Launcher, Server};

/// A lookup against the bare loop, at any number of names.
const TO_BARE: Target = Target::AtMost(1.15);

/// A request while the most connections are open against the same while 10 are. The target is "the
/// same"; this leaves room for what memory that is not in the cache costs.
const SAME: Target = Target::AtMost(1.1);

/// With so many connections the others are compared.
const FEW: usize = 10;

/// A server with the nodes that it holds.
struct Contender {
    server: Server,
    nodes: Vec<Node>,
}

/// The cost of one lookup in sequence at one number of names: a point of the picture.
pub(crate) struct Point {
    /// How many names are registered.
    pub(crate) names: usize,
    /// Microseconds of each server.
    pub(crate) cost: Vec<(Kind, f64)>,
}

/// Measures all of it, and returns the points of the picture.
pub(crate) fn measure(launcher: &Launcher, plan: &Plan, report: &mut Report) -> Vec<Point> {
    let mut contenders: Vec<_> = plan
        .kinds
        .iter()
        .map(|&kind| Contender {
            server: launcher.start(kind),
            nodes: Vec::new(),
        })
        .collect();
    let mut points = Vec::new();
    let mut few_open = [None; 3];
    for &names in &plan.names {
        contenders.retain(|contender| contender.server.kind.names(names).is_some());
        for contender in &mut contenders {
            let count = contender.server.kind.names(names).unwrap_or_default();
            client::register_up_to(contender.server.address, &mut contender.nodes, count);
        }
        let rows = [
            lookups(&contenders, plan, names, 1),
            lookups(&contenders, plan, names, 4),
            registrations(&contenders, plan, names),
        ];
        points.extend(rows.first().map(|row| Point::new(names, row)));
        if names == FEW {
            few_open = rows.each_ref().map(relative);
        }
        for (row, few) in rows.into_iter().zip(few_open) {
            report.add(match (relative(&row), few) {
                (Some(many), Some(few)) if names > FEW => {
                    let target = (plan.names.last() == Some(&names)).then_some(SAME);
                    row.check(format!("ours, to {FEW} names"), many / few, target)
                }
                _ => row,
            });
        }
        lists(&contenders, plan, names, report);
    }
    points
}

impl Point {
    /// The point of a measured line.
    fn new(names: usize, row: &Row) -> Point {
        let cost = Kind::ALL.into_iter();
        Point {
            names,
            cost: cost
                .filter_map(|kind| Some((kind, row.get(kind)?)))
                .collect(),
        }
    }
}

/// Ours against the bare loop of the same minute where that takes part: this much slower or faster
/// the machine was just then.
fn relative(row: &Row) -> Option<f64> {
    Some(row.get(Kind::Ours)? / row.get(Kind::Bare).unwrap_or(1.0))
}

/// CPU per lookup with `clients` at once.
fn lookups(contenders: &[Contender], plan: &Plan, names: usize, clients: usize) -> Row {
    let rounds = in_rounds(contenders, plan.rounds, |contender| {
        let burst = Burst {
            to: contender.server.address,
            from: Vec::new(),
            names,
            requests: plan.requests,
            clients,
            expect: Expect::Answer,
        };
        let cpu = contender.server.cpu_during(|| {
            burst.run();
        });
        each(cpu, plan.requests)
    });
    let clients = if clients == 1 {
        "1 client".into()
    } else {
        format!("{clients} clients")
    };
    let mut targets = vec![(Kind::Bare, TO_BARE)];
    match names {
        1 => targets.push((Kind::Stock, Target::AtMost(0.5))),
        1_000 => targets.push((Kind::Stock, Target::AtMost(0.125))),
        _ => {}
    }
    let what = format!("CPU per lookup, names: {names}, {clients}");
    Row::of_rounds(what, "us", &rounds, &targets)
}

/// CPU for a node that registers and leaves again, of those that take registrations.
fn registrations(contenders: &[Contender], plan: &Plan, names: usize) -> Row {
    let requests = plan.requests / 4;
    let epmds = contenders
        .iter()
        .filter(|contender| contender.server.kind != Kind::Bare);
    let rounds = in_rounds(epmds, plan.rounds, |contender| {
        let cpu = contender.server.cpu_during(|| {
            for index in 0..requests {
                // Names come again late enough for the server to have seen their nodes leave.
                let name = format!("guest{}", index % 256);
                client::register(contender.server.address, &name).expect("epmd registers");
            }
        });
        each(cpu, requests)
    });
    let what = format!("CPU to register and leave, names: {names}");
    Row::of_rounds(what, "us", &rounds, &[])
}

/// How long a list of all names takes, and the slowest lookup while lists are asked for without a
/// pause.
fn lists(contenders: &[Contender], plan: &Plan, names: usize, report: &mut Report) {
    let mut list = Row::new(format!("wall time of a list, names: {names}"), "ms");
    let mut slowest = Row::new("slowest lookup during lists", "ms");
    for contender in contenders {
        let server = &contender.server;
        if server.kind == Kind::Bare {
            continue;
        }
        let burst = Burst {
            to: server.address,
            from: Vec::new(),
            names,
            requests: 20,
            clients: 1,
            expect: Expect::Answer,
        };
        let mut lookup = Duration::ZERO;
        let mut times = Vec::new();
        thread::scope(|scope| {
            let lists = scope.spawn(|| {
                let timed = (0..plan.lists).map(|_| {
                    let start = Instant::now();
                    let listed = client::list(server.address);
                    assert_eq!(listed, contender.nodes.len(), "a list is not whole");
                    start.elapsed().as_secs_f64() * 1e3
                });
                timed.collect()
            });
            while !lists.is_finished() {
                lookup = lookup.max(burst.run());
            }
            times = lists.join().expect("a list failed");
        });
        list = list.value(server.kind, median(times));
        slowest = slowest.value(server.kind, lookup.as_secs_f64() * 1e3);
    }
    report.add(list);
    report.add(slowest);
}

/// `measure`s in rounds; its numbers go by the servers' kinds.
fn in_rounds<'a>(
    contenders: impl IntoIterator<Item = &'a Contender>,
    rounds: usize,
    mut measure: impl FnMut(&Contender) -> f64,
) -> Rounds<Kind> {
    let contenders: Vec<_> = contenders.into_iter().collect();
    let kinds: Vec<_> = contenders
        .iter()
        .map(|contender| contender.server.kind)
        .collect();
    Rounds::run(rounds, &kinds, |kind| {
        let mut of_kind = contenders.iter();
        let contender = of_kind.find(|contender| contender.server.kind == kind);
        measure(contender.expect("each kind has its server"))
    })
}

/// Microseconds for each of `requests`.
fn each(time: Duration, requests: usize) -> f64 {
    time.as_secs_f64() * 1e6 / requests as f64
}

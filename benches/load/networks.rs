//! What the access list costs: 20,000 networks against one, and a refusal against an answer.
//!
//! This host may always look names up, so the clients must be elsewhere: they live in a network
//! namespace of their own.

use std::fmt::Write;

use crate::Plan;
use crate::netns::{self, Pair};
use crate::report::{Report, Row, Target};
use crate::rounds::Rounds;
use crate::server::{Kind, Launcher};

/// The long list.
const NETWORKS: usize = 20_000;

/// The servers that are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contender {
    /// The bare loop, over the same link.
    Bare,
    /// Ours, with the clients' network alone on the list.
    One,
    /// Ours, with the clients' network and 19,999 others.
    Many,
    /// Ours, with a list that the clients are not on.
    Refusing,
}

impl Contender {
    const ALL: [Contender; 4] = [
        Contender::Bare,
        Contender::One,
        Contender::Many,
        Contender::Refusing,
    ];

    /// Its settings.
    fn settings(self) -> String {
        let networks = match self {
            Contender::Bare => return String::new(),
            Contender::One => vec![netns::CLIENTS.to_owned()],
            Contender::Many => many_networks(),
            Contender::Refusing => vec!["192.0.2.0/24".to_owned()],
        };
        let mut settings = String::from("[access]\nallow = [\n");
        for network in networks {
            writeln!(settings, "  \"{network}\",").expect("a string takes all");
        }
        settings + "]\n"
    }
}

/// Measures it, over a link made for it. Needs root.
pub(crate) fn measure(launcher: &Launcher, plan: &Plan, report: &mut Report) {
    let pair = Pair::new();
    let servers: Vec<_> = Contender::ALL
        .iter()
        .map(|&contender| {
            let kind = match contender {
                Contender::Bare => Kind::Bare,
                _ => Kind::Ours,
            };
            let mut server = launcher.exec(kind, &contender.settings(), &pair.enter_server());
            server.wait_until_listening();
            let node = (kind == Kind::Ours).then(|| pair.hold_node(server.address.port()));
            (contender, server, node)
        })
        .collect();
    let rounds = Rounds::run(plan.rounds, &Contender::ALL, |contender| {
        let (_, server, _) = servers
            .iter()
            .find(|(of, _, _)| *of == contender)
            .expect("each has its server");
        let refused = contender == Contender::Refusing;
        let cpu = server.cpu_during(|| {
            pair.run_burst(server.address.port(), plan.requests, refused);
        });
        cpu.as_secs_f64() * 1e6 / plan.requests as f64
    });
    for (contender, what, base, of, limit) in [
        (
            Contender::One,
            "CPU per lookup over a link, 1 network allowed".to_owned(),
            Contender::Bare,
            "ours/bare",
            None,
        ),
        (
            Contender::Many,
            format!("the same, {NETWORKS} networks"),
            Contender::One,
            "to 1 network",
            Some(1.05),
        ),
        (
            Contender::Refusing,
            format!("the same, refused, from {} addresses", netns::ADDRESSES),
            Contender::One,
            "to answered",
            Some(1.10),
        ),
    ] {
        let ours = rounds.median(contender).expect("it took part");
        let bare = rounds.median(Contender::Bare).expect("it took part");
        let ratio = rounds.ratio(contender, base).expect("both took part");
        let row = Row::new(what, "us")
            .value(Kind::Bare, bare)
            .value(Kind::Ours, ours)
            .check(of, ratio, limit.map(Target::AtMost));
        report.add(row);
    }
}

/// Networks of both families and of several lengths, the clients' among them in the middle.
fn many_networks() -> Vec<String> {
    let mut networks: Vec<_> = (0..NETWORKS - 1)
        .map(|index| {
            let (high, low) = (index / 256, index % 256);
            match index % 10 {
                0 => format!("fd00:{high:x}:{low:x}::/48"),
                1..4 => format!("100.{high}.{low}.16/28"),
                4 => format!("100.{high}.{low}.7/32"),
                _ => format!("100.{high}.{low}.0/24"),
            }
        })
        .collect();
    networks.insert(NETWORKS / 2, netns::CLIENTS.to_owned());
    networks
}

//! Three nodes form a cluster through it, and a stranger is turned away and written down, over both families.

use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use super::common::erl::Erl;
use super::common::netns::{Host, network};
use super::common::service::{Service, brief};
use super::common::wait_for;
use super::{Met, epmd, event, file, guard, meet, nft, rules, status, until_met};

const MEMBERS: [&str; 3] = ["api", "dashboard", "partner"];

fn name(member: &str) -> String {
    format!("{member}@{member}.test")
}

/// The port that a node's name has.
fn port(host: &Host, name: &str) -> u16 {
    let output = epmd(host, &["-names"]);
    let line = output
        .stdout
        .lines()
        .find(|l| l.starts_with(&format!("name {name} ")));
    let line = line.unwrap_or_else(|| panic!("{output:?}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn admitting(hosts: &[&Host]) -> String {
    let all = hosts.iter().flat_map(|host| [host.v4(), host.v6()]);
    let all: Vec<_> = all.map(|address| format!("\"{address}\"")).collect();
    file(&format!("allow = [{}]", all.join(", ")))
}

#[test]
fn three_nodes_form_a_cluster_and_a_stranger_is_turned_away_at_once() {
    let [api, dashboard, partner, stranger] = network(["api", "dashboard", "partner", "stranger"]);
    let hosts = [&api, &dashboard, &partner];
    let config = admitting(&hosts);
    // An operator's own table, which is to stay as it is.
    api.nft("table inet mine {\n chain c {\n type filter hook input priority 0; policy accept;\n tcp dport 7 counter drop\n }\n}");
    let mine = nft(&api, "-a list table inet mine");
    let services = hosts.map(|host| Service::start(host, &config));
    let guards = hosts.map(|host| guard(host, &config));
    for (proto, families) in [("inet_tcp", [true, false]), ("inet6_tcp", [false, true])] {
        let mut nodes: Vec<Erl> = hosts
            .iter()
            .zip(MEMBERS)
            .map(|(host, member)| Erl::named(host, &name(member), &["-proto_dist", proto]))
            .collect();
        for (node, own) in nodes.iter_mut().zip(MEMBERS) {
            for other in MEMBERS.iter().filter(|other| **other != own) {
                let ping = format!("net_adm:ping('{}')", name(other));
                assert_eq!(node.eval(&ping), "pong", "{proto} {own}: {ping}");
            }
        }
        let port = port(&api, "api");
        let text = rules(&api);
        assert!(text.contains("comment \"user 0: api\""), "{text}");
        for (address, listens) in [(api.v4(), families[0]), (api.v6(), families[1])] {
            if !listens {
                continue;
            }
            until_met(&stranger, (address, port), Met::Reset);
            refused_at_once(&stranger, address, port);
            // This host and its cluster go on.
            assert_eq!(meet(&api, (address, port)), Met::Accepted);
            assert_eq!(meet(&dashboard, (address, port)), Met::Accepted);
            let told = event(&guards[0], |e| {
                e["peer"] == source(&stranger, address) && e["repeats"] == 0
            });
            assert_eq!(
                brief(&told),
                format!(
                    "refused connect of api from {}: not_allowed",
                    source(&stranger, address)
                )
            );
            assert_eq!(told["local"], address.to_string());
            assert_eq!(told["severity"], "WARNING");
            assert!(told.get("peer_port").is_none(), "{told}");
            let message = told["message"].as_str().unwrap();
            let begins = format!(
                "refused connection to \"api\" on port {port} from {}: not in access.allow (to admit it: add",
                source(&stranger, address)
            );
            assert!(message.starts_with(&begins), "{message}");
        }
    }
    let counted = wait_for("the daemon to know the count", || {
        let status = status(&api);
        let refused = status["requests"]["connect"]["refused"].as_u64()?;
        (refused >= 4).then_some(status)
    });
    assert!(counted["guard"]["in_step_since"].is_string(), "{counted}");
    let text = epmd(&api, &["-status"]).stdout;
    assert!(text.contains("\nguard: in step since 20"), "{text}");
    let check = epmd(&api, &["-guard", "-check"]);
    assert!(
        check
            .stdout
            .contains("turned away since the table was made: "),
        "{check:?}"
    );
    assert_eq!(nft(&api, "-a list table inet mine"), mine);
    drop(guards);
    drop(services);
}

/// Its address of the same family.
fn source(host: &Host, like: IpAddr) -> String {
    match like.is_ipv4() {
        true => host.v4(),
        false => host.v6(),
    }
    .to_string()
}

/// A reset, and no silence: a node that is turned away knows it before anybody waits.
fn refused_at_once(host: &Host, address: IpAddr, port: u16) {
    let to = (address, port).into();
    let least = (0..5).map(|_| {
        host.enter(|| {
            let begin = Instant::now();
            assert!(TcpStream::connect_timeout(&to, Duration::from_secs(3)).is_err());
            begin.elapsed()
        })
    });
    let least = least.min().unwrap();
    assert!(least < Duration::from_millis(50), "{least:?}");
}

//! Real Erlang nodes on several hosts cluster by way of this epmd, and a stranger is refused and
//! written down.
//!
//! Four hosts that know each other by name, with this epmd and a node on each, and a fifth that is
//! in nobody's list.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use common::erl::Erl;
use common::netns::{DOMAIN, Host, network};
use common::service::{Launch, Service};
use common::wait_for;
use common::wire::{Answer, Node};

const MEMBERS: [&str; 4] = ["api", "dashboard", "partner", "wg_man"];

fn host_name(name: &str) -> String {
    format!("{name}.{DOMAIN}")
}

fn node_name(name: &str) -> String {
    format!("{name}@{name}.{DOMAIN}")
}

/// A file that admits these hosts.
fn admitting<'h>(hosts: impl IntoIterator<Item = &'h Host>) -> String {
    let addresses: Vec<String> = hosts
        .into_iter()
        .flat_map(|host| [host.v4(), host.v6()])
        .map(|address| format!("\"{address}\""))
        .collect();
    let addresses = addresses.join(", ");
    format!("[access]\nallow = [{addresses}]\n[audit]\nformat = \"json\"\n")
}

/// What the audit of `service` has to say of a stranger that asked three things, in this order.
fn expect_three_refusals(service: &Service<'_>, name: &str, stranger: &str, local: &str) {
    for (event, message) in [
        (
            format!("refused lookup of {name} from {stranger}: not_allowed"),
            format!("refused lookup of \"{name}\" from {stranger}: not in access.allow"),
        ),
        (
            format!("refused list from {stranger}: not_allowed"),
            format!("refused list from {stranger}: not in access.allow"),
        ),
        (
            format!("refused register of intruder from {stranger}: not_local"),
            format!(
                "refused registration of \"intruder\" from {stranger}: only this host may register"
            ),
        ),
    ] {
        let told = service.expect_event(&event);
        assert_eq!(told["local"], local);
        assert_eq!(told["repeats"], 0);
        assert!(told["peer_port"].is_u64(), "{told}");
        let text = told["message"].as_str().unwrap();
        assert!(text.starts_with(&message), "{text}");
    }
}

#[test]
fn four_hosts_cluster_and_a_stranger_gets_nothing_and_is_written_down() {
    let [api, dashboard, partner, wg_man, stranger] =
        network(["api", "dashboard", "partner", "wg_man", "stranger"]);
    let hosts = [&api, &dashboard, &partner, &wg_man];
    let services = hosts.map(|host| Service::start(host, &admitting(hosts)));
    let mut nodes: Vec<Erl> = hosts
        .iter()
        .zip(MEMBERS)
        .map(|(host, name)| Erl::named(host, &node_name(name), &[]))
        .collect();

    // Every node reaches every other one, and all see the other three.
    for (node, own) in nodes.iter_mut().zip(MEMBERS) {
        for other in MEMBERS.iter().filter(|other| **other != own) {
            let ping = format!("net_adm:ping('{}')", node_name(other));
            assert_eq!(node.eval(&ping), "pong", "{own}: {ping}");
        }
    }
    for (node, own) in nodes.iter_mut().zip(MEMBERS) {
        let others: Vec<String> = MEMBERS
            .iter()
            .filter(|other| **other != own)
            .map(|other| format!("'{}'", node_name(other)))
            .collect();
        let others = format!("[{}]", others.join(","));
        wait_for("all nodes to see the others", || {
            (node.eval("lists:sort(nodes())") == others).then_some(())
        });
    }

    // A node lists a peer's names.
    for peer in &MEMBERS[1..] {
        let names = nodes[0].eval(&format!("net_adm:names('{}')", host_name(peer)));
        let start = format!("{{ok,[{{\"{peer}\",");
        assert!(names.starts_with(&start), "{names}");
    }

    // The remote console: a second, hidden node on a host reaches the first one by its full name.
    let mut console = Erl::named(&api, "console@api.test", &["-hidden"]);
    assert_eq!(
        console.eval("rpc:call('api@api.test', erlang, node, [])"),
        "'api@api.test'"
    );
    let names = nodes[1].eval("lists:sort([N || {N, _} <- element(2, net_adm:names('api.test'))])");
    assert_eq!(names, r#"["api","console"]"#);
    drop(console);
    for service in &services {
        assert_eq!(service.other_events(), Vec::<serde_json::Value>::new());
    }

    // A host that is in no list gets no byte, whatever it asks, and stands in every audit.
    for ((host, service), name) in hosts.iter().zip(&services).zip(MEMBERS) {
        for (to, from) in [(host.v4(), stranger.v4()), (host.v6(), stranger.v6())] {
            let lookup = format!("z{name}");
            let registration = Node::new("intruder").request();
            for request in [lookup.as_bytes(), b"n", &registration] {
                assert_eq!(stranger.ask(to, request), Answer::Nothing, "{request:?}");
            }
            expect_three_refusals(service, name, &from.to_string(), &to.to_string());
        }
    }

    // One member's address is taken out of one host's list: its next lookup there is refused, and
    // told by the host alone. What is connected stays connected.
    let remaining = hosts.into_iter().filter(|host| host.v4() != partner.v4());
    services[0].reload(&admitting(remaining));
    let lookup = "erl_epmd:port_please(\"api\", \"api.test\")";
    let refused = nodes[2].eval(lookup);
    assert!(!refused.starts_with("{port,"), "{refused}");
    let event = services[0].expect_event("refused lookup of api from 10.77.0.3: not_allowed");
    assert_eq!(event["local"], "10.77.0.1");
    let answered = nodes[1].eval(lookup);
    assert!(answered.starts_with("{port,"), "{answered}");
    assert_eq!(
        nodes[2].eval("lists:member('api@api.test', nodes())"),
        "true"
    );
    for service in &services {
        assert_eq!(service.other_events(), Vec::<serde_json::Value>::new());
    }
}

/// To a node, a refusal is the end of the connection: at once, and nothing to wait for.
#[test]
fn a_strange_node_sees_no_names_and_reaches_nobody() {
    let [api, stranger] = network(["api", "stranger"]);
    let service = Service::start(&api, &admitting([&api]));
    let own = Launch::on(&stranger).start();
    let _node = Erl::named(&api, "api@api.test", &[]);
    let mut strange = Erl::named(&stranger, "stranger@stranger.test", &[]);
    assert_eq!(strange.eval("net_adm:names('api.test')"), "{ok,[]}");
    service.expect_event("refused list from 10.77.0.2: not_allowed");
    assert_eq!(strange.eval("net_adm:ping('api@api.test')"), "pang");
    service.expect_event("refused lookup of api from 10.77.0.2: not_allowed");
    assert_eq!(strange.eval("nodes()"), "[]");
    own.assert_alive();
}

/// Nodes that talk over IPv6 find each other in the same way.
#[test]
fn nodes_cluster_over_ipv6() {
    let [api, partner] = network(["api", "partner"]);
    let services = [&api, &partner].map(|host| Service::start(host, &admitting([&api, &partner])));
    let inet6 = ["-proto_dist", "inet6_tcp"];
    let _first = Erl::named(&api, "api@api.test", &inet6);
    let mut second = Erl::named(&partner, "partner@partner.test", &inet6);
    assert_eq!(second.eval("net_adm:ping('api@api.test')"), "pong");
    assert_eq!(second.eval("nodes()"), "['api@api.test']");
    for service in &services {
        assert_eq!(service.other_events(), Vec::<serde_json::Value>::new());
    }
}

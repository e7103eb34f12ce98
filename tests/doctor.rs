//! `epmd -doctor` on hosts where something is wrong, and on ones where nothing is.
//!
//! On `api` runs a node, `gratwifi`; the doctor is asked on `dashboard` why it can't be reached. Each
//! story is told with this epmd on `api` and, where it applies, with stock's. What is dropped and
//! rejected, nftables does, on the way or on a host.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use common::binary::Epmd;
use common::erl::Erl;
use common::netns::{EPMD, Host, network};
use common::service::{Launch, Service};
use common::wait_for;
use common::wire::{Answer, Node, frame, lookup_answer, names_answer, register};
use serde_json::Value;

/// The node that is looked for.
const NODE: &str = "gratwifi@api.test";
/// Its distribution port, where it is no real node.
const DISTRIBUTION: u16 = 9100;
/// A step may take 2 s; the rest is for a machine that is busy with other tests.
const ONE_STEP: Duration = Duration::from_millis(3500);

/// An epmd of either kind on a host; dropping it ends it.
enum Running<'h> {
    Ours(#[expect(dead_code, reason = "it ends with the value")] Service<'h>),
    Stock(Child),
}

impl<'h> Running<'h> {
    /// Starts it; ours with this text as its file, stock with these arguments.
    fn start(epmd: Epmd, host: &'h Host, config: &str, arguments: &[&str]) -> Self {
        match epmd {
            Epmd::Ours => Self::Ours(Service::start(host, config)),
            Epmd::Stock | Epmd::Stock29 => {
                let mut command = Epmd::Stock.command();
                command.args(arguments).stderr(Stdio::null());
                let running = Self::Stock(host.spawn(&mut command));
                wait_for("stock epmd to answer", || {
                    let loopback = IpAddr::from([127, 0, 0, 1]);
                    let stream = host.try_connect(loopback).ok()?;
                    matches!(common::wire::ask(stream, &frame(b"n")), Answer::Bytes(_))
                        .then_some(())
                });
                running
            }
        }
    }

    /// One that serves both hosts.
    fn serving(epmd: Epmd, host: &'h Host) -> Self {
        Self::start(epmd, host, "[access]\nallow = [\"10.77.0.0/24\"]\n", &[])
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Self::Stock(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A name that is registered on a host, and a socket that listens on its distribution port.
struct Registered {
    _held: TcpStream,
    _listener: TcpListener,
}

impl Registered {
    fn on(host: &Host, name: &str, address: IpAddr) -> Self {
        let listener = host
            .enter(|| TcpListener::bind((address, DISTRIBUTION)))
            .expect("a free port");
        let stream = host.connect(IpAddr::from([127, 0, 0, 1]));
        let (held, _) = register(stream, &Node::new(name).port(DISTRIBUTION)).held();
        Self {
            _held: held,
            _listener: listener,
        }
    }
}

/// What the doctor said, twice: as lines and as JSON.
struct Examined {
    text: String,
    json: Value,
    status: i32,
}

/// Asks the doctor on `host` about these nodes, once for lines and once for JSON. Both must say the
/// same, each in the form that it has whatever is found.
fn examine(host: &Host, nodes: &[&str], longest: Duration) -> Examined {
    examine_with(host, &[], nodes, longest)
}

fn examine_with(host: &Host, options: &[&str], nodes: &[&str], longest: Duration) -> Examined {
    examine_by(host, &[], options, nodes, longest)
}

/// As [`examine`], by way of another program that runs its arguments.
fn examine_by(
    host: &Host,
    wrapper: &[&str],
    options: &[&str],
    nodes: &[&str],
    longest: Duration,
) -> Examined {
    let run = |more: &[&str]| {
        let mut command = Epmd::Ours.wrapped(wrapper);
        command.args(options).arg("-doctor").args(more).args(nodes);
        let begun = Instant::now();
        let output = host.run(&mut command);
        let time = begun.elapsed();
        assert_eq!(output.stderr, "");
        assert!(time < longest, "it took {time:?}:\n{}", output.stdout);
        (output.stdout, output.status.unwrap())
    };
    let (text, status) = run(&[]);
    let (json, json_status) = run(&["-json"]);
    println!("$ epmd -doctor {}\n{text}", nodes.join(" "));
    assert_eq!(json_status, status);
    let json: Value = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{json}: {e}"));
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(lines, lines_of(&json), "{text}");
    let fails = lines.iter().any(|line| line.starts_with("FAIL"));
    assert_eq!(status, i32::from(fails));
    for (line, next) in text.lines().zip(text.lines().skip(1).chain([""])) {
        let needs_a_remedy = line.starts_with("FAIL") || line.starts_with("warn");
        assert!(!needs_a_remedy || next.starts_with("       "), "{text}");
    }
    Examined { text, json, status }
}

/// The lines that stand for the findings of a report in JSON.
fn lines_of(json: &Value) -> Vec<String> {
    let of = |subject: &str, findings: &Value| -> Vec<String> {
        let line = |finding: &Value| {
            assert!(finding.get("code").is_some() && finding.get("remedy").is_some());
            let grade = match finding["result"].as_str().unwrap() {
                "ok" => {
                    assert!(finding["code"].is_null() && finding["remedy"].is_null());
                    "ok  "
                }
                "warn" => "warn",
                "fail" => "FAIL",
                other => panic!("{other}"),
            };
            format!(
                "{grade} {subject}: {}",
                finding["message"].as_str().unwrap()
            )
        };
        findings.as_array().unwrap().iter().map(line).collect()
    };
    let mut lines = of("this host", &json["host"]);
    for node in json["nodes"].as_array().unwrap() {
        let name = node["node"].as_str().unwrap();
        let subject = hardened_epmd::core::audit::escape(name.as_bytes());
        lines.extend(of(&subject, &node["checks"]));
    }
    lines
}

impl Examined {
    /// The findings of the one node that was asked for, in short: `epmd fail epmd_no_answer`.
    fn node(&self) -> Vec<String> {
        let checks = self.json["nodes"][0]["checks"].as_array().unwrap();
        checks.iter().map(brief).collect()
    }

    /// The findings of the host, in the same form.
    fn host(&self) -> Vec<String> {
        let checks = self.json["host"].as_array().unwrap();
        checks.iter().map(brief).collect()
    }

    /// Fails the test unless the node's last finding is this failure and its verdict as well, and
    /// everything before is well. Gives the failure's message and remedy.
    fn fails_at(&self, check: &str, code: &str) -> (String, String) {
        let node = &self.json["nodes"][0];
        let checks = node["checks"].as_array().unwrap();
        let (last, before) = checks.split_last().unwrap();
        assert_eq!(brief(last), format!("{check} fail {code}"), "{}", self.text);
        assert!(before.iter().all(|f| f["result"] == "ok"), "{}", self.text);
        assert_eq!(node["verdict"], code);
        assert_eq!(self.status, 1);
        let field = |name: &str| last[name].as_str().unwrap().to_owned();
        (field("message"), field("remedy"))
    }
}

fn brief(finding: &Value) -> String {
    let field = |name: &str| finding[name].as_str().unwrap_or_default();
    let whole = format!("{} {} {}", field("check"), field("result"), field("code"));
    whole.trim_end().to_owned()
}

#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// Counts what arrives at `host` from the other one: connects to epmd, connects to the distribution
/// port, and anything else.
fn count_arrivals(host: &Host) {
    host.nft(&format!(
        "table inet arrivals {{\n\
         counter epmd {{ }}\ncounter distribution {{ }}\ncounter other {{ }}\n\
         chain seen {{\n\
         type filter hook prerouting priority -300\n\
         iifname lo accept\n\
         tcp dport {EPMD} tcp flags & (syn|ack) == syn counter name epmd\n\
         tcp dport {DISTRIBUTION} tcp flags & (syn|ack) == syn counter name distribution\n\
         tcp dport != {{ {EPMD}, {DISTRIBUTION} }} counter name other\n\
         meta l4proto udp counter name other\n\
         meta l4proto icmp counter name other\n\
         }}\n}}\n"
    ));
}

/// What was counted since: epmd, distribution, other.
fn arrivals(host: &Host) -> [u64; 3] {
    let output = host.run(Command::new("nft").args(["-j", "reset", "counters"]));
    let list: Value = serde_json::from_str(&output.stdout).expect("JSON");
    ["epmd", "distribution", "other"].map(|name| {
        let all = list["nftables"].as_array().unwrap();
        let counter = all.iter().find(|c| c["counter"]["name"] == name);
        counter.expect("a counter")["counter"]["packets"]
            .as_u64()
            .unwrap()
    })
}

const BOTH: [Epmd; 2] = [Epmd::Ours, Epmd::Stock];

#[test]
fn story_1_a_rule_on_the_way_drops_what_a_member_sends_to_a_peers_epmd() {
    for epmd in BOTH {
        let [api, dashboard] = network(["api", "dashboard"]);
        let _there = Running::serving(epmd, &api);
        let _here = Running::serving(epmd, &dashboard);
        let _node = Registered::on(&api, "gratwifi", api.v4());
        dashboard.way().nft(
            "table bridge way {\nchain forward {\ntype filter hook forward priority 0\n\
             ip saddr 10.77.0.2 ip daddr 10.77.0.1 tcp dport 4369 drop\n\
             ip6 saddr fd77::2 ip6 daddr fd77::1 tcp dport 4369 drop\n}\n}\n",
        );
        let examined = examine(&dashboard, &[NODE], ONE_STEP);
        let (message, remedy) = examined.fails_at("epmd", "epmd_no_answer");
        assert_eq!(examined.json["nodes"][0]["address"], "10.77.0.1");
        assert_has(
            &message,
            &[
                "no answer from 10.77.0.1 port 4369 within 2s",
                "It is not api.test's epmd",
                "would answer, refuse or close",
            ],
        );
        assert_has(
            &remedy,
            &[
                "tcpdump -ni any 'host 10.77.0.2 and tcp port 4369'",
                "nft insert rule inet filter input ip saddr 10.77.0.2 tcp dport 4369 accept",
            ],
        );
        // The peer itself sees nothing wrong with its epmd.
        let there = examine(&api, &[NODE], ONE_STEP);
        assert_eq!(there.json["nodes"][0]["verdict"], "reachable");
        assert_eq!(there.status, 0);
    }
}

#[test]
fn story_2_the_peers_epmd_listens_on_loopback_alone() {
    for epmd in BOTH {
        let [api, dashboard] = network(["api", "dashboard"]);
        let alone = "listen = [\"127.0.0.1\"]\n[access]\nallow = [\"10.77.0.0/24\"]\n";
        let _there = Running::start(epmd, &api, alone, &["-address", "127.0.0.1"]);
        let _node = Registered::on(&api, "gratwifi", api.v4());
        let examined = examine(&dashboard, &[NODE], ONE_STEP);
        let (message, remedy) = examined.fails_at("epmd", "epmd_connection_refused");
        assert_has(
            &message,
            &[
                "10.77.0.1 refuses connections to port 4369",
                "no epmd listens on that address of api.test",
            ],
        );
        assert_has(
            &remedy,
            &[
                "ss -ltnp 'sport = :4369'",
                "listen = [\"10.77.0.1\"]",
                "ERL_EPMD_ADDRESS",
            ],
        );
        // On the host itself, the doctor says where it listens.
        let there = examine(&api, &[], ONE_STEP);
        assert_has(&there.text, &["port 4369: loopback alone"]);
        assert_eq!(there.status, 0);
        assert!(
            !there
                .host()
                .contains(&"listen warn epmd_serves_everyone".to_owned())
        );
    }
}

#[test]
fn story_3_the_peers_allow_list_lacks_the_member() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let there = Service::start(
        &api,
        "[access]\nallow = [\"10.77.0.9\"]\n[audit]\nformat = \"json\"\n",
    );
    let _node = Registered::on(&api, "gratwifi", api.v4());
    let examined = examine(&dashboard, &[NODE], ONE_STEP);
    let (message, remedy) = examined.fails_at("epmd", "epmd_refuses_us");
    assert_has(
        &message,
        &[
            "closed it without an answer: most likely",
            "refuses lookups of \"gratwifi\" from this host's address 10.77.0.2",
        ],
    );
    assert_has(
        &remedy,
        &[
            "\n  epmd -refused\n  journalctl -u hardened-epmd -u epmd EPMD_PEER=10.77.0.2",
            "address_not_served",
            "load balancer or docker-proxy",
            "  [access]\n  allow = [\"10.77.0.2\"]",
            "  [access.node.gratwifi]\n  allow = [\"10.77.0.2\"]",
            "epmd -check_config && systemctl reload hardened-epmd",
        ],
    );
    // One lookup for each call stands in the audit, and nothing else.
    there.expect_event("refused lookup of gratwifi from 10.77.0.2: not_allowed");
    assert_eq!(there.other_events(), Vec::<Value>::new());
}

#[test]
fn story_4_epmd_is_fine_and_the_distribution_port_is_dropped() {
    for epmd in BOTH {
        let [api, dashboard] = network(["api", "dashboard"]);
        let _there = Running::serving(epmd, &api);
        let _node = Registered::on(&api, "gratwifi", api.v4());
        api.nft(&format!(
            "table inet filter {{\nchain input {{\ntype filter hook input priority 0\n\
             iifname != lo tcp dport {DISTRIBUTION} drop\n}}\n}}\n"
        ));
        let examined = examine(&dashboard, &[NODE], ONE_STEP);
        let (message, remedy) = examined.fails_at("distribution", "distribution_no_answer");
        assert_has(
            &message,
            &["epmd answers, but there is no answer from the node's own port, 10.77.0.1 port 9100"],
        );
        assert_has(
            &remedy,
            &[
                "ip saddr 10.77.0.2 tcp dport 9100 accept",
                "inet_dist_listen_min",
            ],
        );
        // What the remedy says, done there, makes it well.
        let line = remedy
            .lines()
            .find(|line| line.starts_with("  nft "))
            .unwrap();
        let done = api.run(Command::new("sh").args(["-c", line]));
        assert_eq!(done.status, Some(0), "{done:?}");
        let examined = examine(&dashboard, &[NODE], ONE_STEP);
        assert_eq!(examined.json["nodes"][0]["verdict"], "reachable");
    }
}

#[test]
fn story_5_the_name_is_not_registered() {
    for epmd in BOTH {
        let [api, dashboard] = network(["api", "dashboard"]);
        let _there = Running::serving(epmd, &api);
        let _node = Registered::on(&api, "grat", api.v4());
        let examined = examine(&dashboard, &[NODE], ONE_STEP);
        let (message, remedy) = examined.fails_at("lookup", "not_registered");
        assert_eq!(
            message,
            "\"gratwifi\" is not registered with the epmd of api.test; registered there: grat"
        );
        assert_has(&remedy, &["on api.test", "epmd -names"]);
    }
    // An epmd that answers lookups and tells no names.
    let [api, dashboard] = network(["api", "dashboard"]);
    let _there = Service::start(
        &api,
        "[access]\nallow = [\"10.77.0.2\"]\nlist = [\"10.77.0.9\"]\n",
    );
    let examined = examine(&dashboard, &[NODE], ONE_STEP);
    let (message, _) = examined.fails_at("lookup", "not_registered");
    assert_has(&message, &["which names are, it does not tell this host"]);
}

#[test]
fn story_6_the_name_does_not_resolve() {
    let [dashboard] = network(["dashboard"]);
    let examined = examine(&dashboard, &["gratwifi@apu.test"], ONE_STEP);
    let (message, remedy) = examined.fails_at("resolve", "unresolved");
    assert_eq!(examined.json["nodes"][0]["address"], Value::Null);
    assert_has(&message, &["apu.test has no address on this host"]);
    assert_has(
        &remedy,
        &["/etc/hosts", "ADDRESS apu.test", "getent ahosts apu.test"],
    );
}

#[test]
fn story_7_all_is_well() {
    for epmd in BOTH {
        let [api, dashboard] = network(["api", "dashboard"]);
        let _there = Running::serving(epmd, &api);
        let _here = Running::serving(epmd, &dashboard);
        let _node = Erl::named(&api, NODE, &[]);
        let mut member = Erl::named(&dashboard, "dashboard@dashboard.test", &[]);
        let examined = examine(&dashboard, &[NODE], ONE_STEP);
        assert_eq!(examined.status, 0);
        assert_eq!(examined.json["nodes"][0]["verdict"], "reachable");
        assert_eq!(
            examined.node(),
            ["resolve ok", "epmd ok", "lookup ok", "distribution ok"]
        );
        assert_eq!(member.eval("net_adm:ping('gratwifi@api.test')"), "pong");

        // Every rule that it proposes is one, and keeps this member's peers in touch.
        let base = "table inet filter {\nchain input {\ntype filter hook input priority 0\n}\n}\n";
        dashboard.nft(base);
        for line in examined.text.lines().map(str::trim_start) {
            if line.starts_with("nft ") {
                let done = dashboard.run(Command::new("sh").args(["-c", line]));
                assert_eq!(done.status, Some(0), "{line}: {done:?}");
            }
        }
        let back = examine(&api, &["dashboard@dashboard.test"], ONE_STEP);
        assert_eq!(back.json["nodes"][0]["verdict"], "reachable");

        // What this host shows the world.
        let host = examined.host();
        let everyone = "listen warn epmd_serves_everyone".to_owned();
        assert_eq!(host.contains(&everyone), epmd == Epmd::Stock, "{host:?}");
        let make = match epmd {
            Epmd::Ours => ", hardened-epmd) listens on 0.0.0.0, :: port 4369",
            Epmd::Stock | Epmd::Stock29 => ", stock) listens on 0.0.0.0, :: port 4369",
        };
        assert_has(
            &examined.text,
            &[make, "\"dashboard\" listens on every address (0.0.0.0)"],
        );
        let last = examined.json["host"].as_array().unwrap().last().unwrap();
        assert_eq!(last["code"], "distribution_listens_everywhere");
        assert_eq!(last["node"], "dashboard");
        assert_has(
            last["remedy"].as_str().unwrap(),
            &["inet_dist_use_interface '{10,77,0,2}'"],
        );
    }
}

#[test]
fn a_node_that_is_bound_to_one_address_is_no_warning() {
    let [api] = network(["api"]);
    let _epmd = Service::start(&api, "");
    let bound = ["-kernel", "inet_dist_use_interface", "{10,77,0,1}"];
    let _node = Erl::named(&api, NODE, &bound);
    let examined = examine(&api, &[NODE], ONE_STEP);
    assert_eq!(examined.status, 0);
    assert_eq!(
        examined.host(),
        ["listen ok", "epmd ok", "config ok", "distribution ok"]
    );
    assert_has(&examined.text, &["\"gratwifi\" listens on 10.77.0.1 port "]);
}

#[test]
fn what_it_sends_is_counted_and_nothing_else_is_sent() {
    for epmd in BOTH {
        let [api, dashboard] = network(["api", "dashboard"]);
        let _there = Running::serving(epmd, &api);
        let node = Registered::on(&api, "gratwifi", api.v4());
        count_arrivals(&api);
        let ask = |name: &str| {
            let mut command = Epmd::Ours.command();
            dashboard.run(command.args(["-doctor", name]))
        };
        assert_has(&ask(NODE).stdout, &["reachable: 10.77.0.1 port 9100"]);
        assert_eq!(arrivals(&api), [1, 1, 0]);
        assert_has(&ask("nobody@api.test").stdout, &["is not registered"]);
        assert_eq!(arrivals(&api), [2, 0, 0], "a lookup, and a list");
        drop(node);
        assert_has(&ask(NODE).stdout, &["is not registered"]);
        // Packets that are dropped are sent again by the kernel, and over IPv6 as well.
        api.nft("table inet filter {\nchain input {\ntype filter hook input priority 0\ntcp dport 4369 drop\n}\n}\n");
        let _ = arrivals(&api);
        assert_has(&ask(NODE).stdout, &["no answer from 10.77.0.1 port 4369"]);
        let [epmd, others @ ..] = arrivals(&api);
        assert!((1..=4).contains(&epmd), "{epmd}");
        assert_eq!(others, [0, 0]);
    }
}

/// Something on epmd's port of `host` that gives each connection one of these answers in turn, and
/// tells what each was sent. It holds the last connection open if `open`.
fn impostor(host: &Host, answers: Vec<Vec<u8>>, open: bool) -> Receiver<Vec<u8>> {
    let listener = host.hold_port(host.v4());
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        let mut held = Vec::new();
        let left = answers.len();
        for (index, answer) in answers.into_iter().enumerate() {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut head = [0; 2];
            stream.read_exact(&mut head).expect("a length");
            let mut body = vec![0; usize::from(u16::from_be_bytes(head))];
            stream.read_exact(&mut body).expect("a request");
            stream.write_all(&answer).expect("an answer");
            if sender.send(body).is_err() {
                return;
            }
            if open && index + 1 == left {
                held.push(stream);
            }
        }
        // Until the test is over.
        let _ = (listener.accept(), held);
    });
    requests
}

#[test]
fn it_asks_one_lookup_and_where_there_is_no_such_name_one_list() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let node = api
        .enter(|| TcpListener::bind((api.v4(), DISTRIBUTION)))
        .unwrap();
    let found = lookup_answer(Some(&Node::new("gratwifi").port(DISTRIBUTION)));
    let answers = vec![
        found,
        lookup_answer(None),
        names_answer(EPMD, &[("other", 1)]),
    ];
    let requests = impostor(&api, answers, false);
    let run = || dashboard.run(Epmd::Ours.command().args(["-doctor", NODE]));
    assert_has(&run().stdout, &["reachable: "]);
    let (mut stream, _) = node.accept().expect("the doctor's connection");
    let mut sent = Vec::new();
    stream.read_to_end(&mut sent).expect("a close");
    assert_eq!(sent, b"", "a connect, and not a byte");
    assert_has(&run().stdout, &["registered there: other"]);
    let requests: Vec<_> = (0..3).map(|_| requests.recv().unwrap()).collect();
    assert_eq!(requests, [&b"zgratwifi"[..], b"zgratwifi", b"n"]);
}

#[test]
fn an_epmd_that_accepts_and_says_nothing() {
    let [api, dashboard] = network(["api", "dashboard"]);
    // The kernel accepts for it.
    let _hangs = api.hold_port(api.v4());
    let examined = examine(&dashboard, &[NODE], ONE_STEP);
    let (message, _) = examined.fails_at("epmd", "epmd_no_answer");
    assert_has(
        &message,
        &["accepted the connection", "gave no answer within 2s"],
    );
}

#[test]
fn something_that_is_no_epmd() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let _web = impostor(&api, vec![b"HTTP/1.1 400\r\n".to_vec(); 2], false);
    let examined = examine(&dashboard, &[NODE], ONE_STEP);
    let (message, _) = examined.fails_at("epmd", "not_an_epmd");
    assert_has(&message, &["it said \"HTTP/1.1 400\\r\\n\""]);
}

#[test]
fn rules_that_reject_are_told_apart_from_rules_that_drop() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let _there = Running::serving(Epmd::Ours, &api);
    let _node = Registered::on(&api, "gratwifi", api.v4());
    for (port, with, check, code) in [
        (EPMD, "icmpx admin-prohibited", "epmd", "epmd_unreachable"),
        (EPMD, "tcp reset", "epmd", "epmd_connection_refused"),
        (
            DISTRIBUTION,
            "icmpx admin-prohibited",
            "distribution",
            "distribution_unreachable",
        ),
        (
            DISTRIBUTION,
            "tcp reset",
            "distribution",
            "distribution_connection_refused",
        ),
    ] {
        api.nft(&format!(
            "table inet filter {{ }}\ndelete table inet filter\n\
             table inet filter {{\nchain input {{\ntype filter hook input priority 0\n\
             iifname != lo tcp dport {port} reject with {with}\n}}\n}}\n"
        ));
        let examined = examine(&dashboard, &[NODE], ONE_STEP);
        examined.fails_at(check, code);
    }
}

#[test]
fn over_ipv6_where_there_is_nothing_else_and_as_a_hint() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let only_v6 = "listen = [\"fd77::1\"]\n[access]\nallow = [\"fd77::/64\", \"10.77.0.0/24\"]\n";
    let _there = Service::start(&api, only_v6);
    let _node = Registered::on(&api, "gratwifi", api.v6());
    let examined = examine(&dashboard, &[NODE], ONE_STEP);
    let (_, remedy) = examined.fails_at("epmd", "epmd_connection_refused");
    assert_has(&remedy, &["Over IPv6 (fd77::1) it answers"]);
    let examined = examine(&dashboard, &["gratwifi@fd77::1"], ONE_STEP);
    assert_eq!(examined.json["nodes"][0]["verdict"], "reachable");
    assert_eq!(examined.json["nodes"][0]["address"], "fd77::1");
}

#[test]
fn names_that_lead_to_this_host_and_names_of_two_kinds_are_told() {
    let [api] = network(["api"]);
    let _epmd = Service::start(&api, "");
    let _node = Registered::on(&api, "gratwifi", IpAddr::from([127, 0, 1, 1]));
    api.add_name("127.0.1.1 debian.test");
    let examined = examine(&api, &["gratwifi@debian.test"], ONE_STEP);
    assert_eq!(examined.status, 0);
    assert_eq!(
        examined.node(),
        [
            "resolve warn name_resolves_to_loopback",
            "epmd ok",
            "lookup ok",
            "distribution ok"
        ]
    );
    let examined = examine(&api, &["gratwifi@api", NODE], 2 * ONE_STEP);
    assert_eq!(examined.node()[1], "resolve warn short_name");
    // A node of this host tells of which kind the names here are.
    drop(examined);
    let _real = Erl::named(&api, "console@api.test", &[]);
    let examined = examine(&api, &["console@api"], ONE_STEP);
    assert_eq!(examined.node()[1], "resolve warn short_name");
    assert_has(&examined.text, &["\"console\" of this host has a full one"]);
}

#[test]
fn a_host_without_an_epmd_and_a_registration_without_a_node() {
    let [api] = network(["api"]);
    let examined = examine(&api, &[], ONE_STEP);
    assert_eq!(examined.host()[0], "listen fail no_epmd");
    assert_eq!(examined.json["nodes"], Value::Array(Vec::new()));
    assert_eq!(examined.status, 1);
    let there = Service::start(&api, "");
    let _held = there.hold("ghost");
    let examined = examine(&api, &[], ONE_STEP);
    assert_eq!(
        examined.host(),
        [
            "listen ok",
            "epmd ok",
            "config ok",
            "distribution fail distribution_not_listening"
        ]
    );
    assert_eq!(examined.json["host"][3]["node"], "ghost");
}

#[test]
fn the_settings_are_the_running_daemons_and_a_broken_file_is_a_finding() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let allow = "[access]\nallow = [\"10.77.0.2\", \"10.77.0.3\"]\n";
    let there = Service::start(&api, allow);
    assert_eq!(
        dashboard.ask(api.v4(), b"zgratwifi"),
        Answer::Bytes(b"w\x01".to_vec())
    );
    let examined = examine(&api, &[], ONE_STEP);
    assert_eq!(examined.status, 0);
    assert_has(
        &examined.text,
        &[
            "serving this host, 10.77.0.2/32, 10.77.0.3/32",
            "in access.allow, and never asked since epmd was started: 10.77.0.3/32",
        ],
    );
    there.reload("[access]\nallow = [\"*\"]\n");
    let examined = examine(&api, &[], ONE_STEP);
    assert!(
        examined
            .host()
            .contains(&"config warn epmd_serves_everyone".to_owned())
    );
    assert_eq!(examined.status, 0);
    // The daemon keeps what it has.
    std::fs::write(there.config(), "[access]\nalow = []\n").unwrap();
    let examined = examine_with(&api, &["-config", there.config()], &[], ONE_STEP);
    assert_eq!(examined.status, 1);
    let host = examined.host();
    assert!(
        host.contains(&"config fail config_error".to_owned()),
        "{host:?}"
    );
    assert!(
        host.contains(&"config warn epmd_serves_everyone".to_owned()),
        "{host:?}"
    );
}

#[test]
fn a_wrong_question_ends_with_2() {
    for arguments in [
        &["-doctor", "-bogus"][..],
        &["-doctor", "api"],
        &["-doctor", "api@api.test:"],
        &["-doctor", "api@api.test:65536"],
        &["-doctor", "api@[::1]:x"],
        &["-doctor", "api@[::1"],
        &["-doctor", "api@fe80::1%eth0:9100"],
        &["-doctor", "-proto_dist", "inet7_tcp"],
        &["-doctor", "-json", "-port", "x"],
    ] {
        let output = Epmd::Ours.run(arguments);
        assert_eq!((output.status, output.stdout.as_str()), (Some(2), ""));
        assert_has(&output.stderr, &["epmd: "]);
    }
}

#[test]
fn many_are_examined_at_once_and_a_terminal_sees_that_it_goes_on() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let _hangs = api.hold_port(api.v4());
    let nodes: Vec<_> = (0..20).map(|n| format!("n{n}@api.test")).collect();
    let nodes: Vec<_> = nodes.iter().map(String::as_str).collect();
    let examined = examine(&dashboard, &nodes, ONE_STEP);
    assert_eq!(examined.json["nodes"].as_array().unwrap().len(), 20);
    // script(1) makes a terminal.
    let path = Epmd::Ours.path();
    let line = format!("{} -doctor {NODE}", path.display());
    let mut command = Command::new("script");
    command
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::null());
    let shown = dashboard.run(&mut command).stdout;
    assert_has(&shown, &["epmd: 1 of 2 examined, ", "\r\u{1b}[KFAIL"]);
}

/// A shell on `host` that does what a remedy's line says.
fn does(host: &Host, line: &str) {
    let done = host.run(Command::new("sh").args(["-c", line.trim()]));
    assert_eq!(done.status, Some(0), "{line}: {done:?}");
}

/// The line of a remedy that begins so.
fn line_of<'r>(remedy: &'r str, begins: &str) -> &'r str {
    let line = remedy
        .lines()
        .find(|line| line.trim_start().starts_with(begins));
    line.unwrap_or_else(|| panic!("no {begins:?} in:\n{remedy}"))
}

/// The finding of this host with this code.
fn host_finding<'e>(examined: &'e Examined, code: &str) -> &'e Value {
    let all = examined.json["host"].as_array().unwrap();
    let found = all.iter().find(|finding| finding["code"] == code);
    found.unwrap_or_else(|| panic!("no {code} in:\n{}", examined.text))
}

fn remedy_of(finding: &Value) -> &str {
    finding["remedy"].as_str().unwrap()
}

#[test]
fn a_node_that_answers_over_one_family_alone_is_reachable_with_a_warning() {
    for epmd in BOTH {
        let [api, dashboard] = network(["api", "dashboard"]);
        let both = "[access]\nallow = [\"10.77.0.0/24\", \"fd77::/64\"]\n";
        let _there = Running::start(epmd, &api, both, &[]);
        for (address, family, option, other) in [
            (api.v6(), "IPv6", "inet_tcp", "inet6_tcp"),
            (api.v4(), "IPv4", "inet6_tcp", "inet_tcp"),
        ] {
            let _node = Registered::on(&api, "gratwifi", address);
            let ask = |option: &str| {
                examine_with(&dashboard, &["-proto_dist", option], &[NODE], ONE_STEP)
            };
            let examined = ask(option);
            assert_eq!(examined.json["nodes"][0]["verdict"], "reachable");
            assert_eq!(
                examined.node(),
                [
                    "resolve ok",
                    "epmd ok",
                    "lookup ok",
                    "distribution warn one_family_only"
                ]
            );
            let last = &examined.json["nodes"][0]["checks"][3];
            assert_has(
                last["message"].as_str().unwrap(),
                &[
                    &format!("reachable over {family} alone: {address} port 9100"),
                    "inet6_tcp",
                ],
            );
            let remedy = remedy_of(last);
            assert!(!remedy.contains("inet_dist_use_interface"), "{remedy}");
            // What the remedy says to ask is answered, with nothing to complain of.
            let line = line_of(remedy, "epmd -doctor ");
            assert_has(line, &[&format!("-proto_dist {other} {NODE}")]);
            let examined = ask(other);
            assert_eq!(examined.json["nodes"][0]["address"], address.to_string());
            assert_eq!(examined.node()[3], "distribution ok", "{}", examined.text);
            drop(_node);
            wait_for("the name to be free", || {
                let loopback = IpAddr::from([127, 0, 0, 1]);
                (api.ask(loopback, b"zgratwifi") == Answer::Bytes(b"w\x01".to_vec())).then_some(())
            });
        }
    }
}

#[test]
fn no_remedy_for_a_node_of_ipv6_cuts_it_off() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let both = "[access]\nallow = [\"10.77.0.0/24\", \"fd77::/64\"]\n";
    let _there = Service::start(&api, both);
    let _node = Registered::on(&api, "gratwifi", IpAddr::from([0_u16; 8]));
    let here = examine(&api, &[], ONE_STEP);
    let remedy = remedy_of(host_finding(&here, "distribution_listens_everywhere"));
    assert_has(remedy, &["inet_dist_use_interface '{16#fd77,"]);
    api.nft("table inet filter {\nchain input {\ntype filter hook input priority 0\n}\n}\n");
    for line in remedy
        .lines()
        .filter(|line| line.trim_start().starts_with("nft "))
    {
        does(&api, line);
    }
    let over_ipv6 = ["-proto_dist", "inet6_tcp"];
    let examined = examine_with(&dashboard, &over_ipv6, &[NODE], ONE_STEP);
    assert_eq!(examined.json["nodes"][0]["verdict"], "reachable");
    assert_eq!(examined.node()[3], "distribution ok", "{}", examined.text);
}

#[test]
fn a_link_local_address_keeps_its_zone_and_one_without_is_told_as_such() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let _there = Service::start(&api, "[access]\nallow = [\"fe80::/10\"]\n");
    let _node = Registered::on(&api, "gratwifi", IpAddr::from([0_u16; 8]));
    for (host, number) in [(&api, 1), (&dashboard, 2)] {
        host.ip(&format!("addr add fe80::77:{number}/64 dev eth0 nodad\n"));
    }
    for node in [
        "gratwifi@fe80::77:1%eth0",
        "gratwifi@[fe80::77:1%eth0]:9100",
    ] {
        let examined = examine(&dashboard, &[node], ONE_STEP);
        let report = &examined.json["nodes"][0];
        assert_eq!(
            (&report["node"], &report["verdict"]),
            (&node.into(), &"reachable".into())
        );
        assert_eq!(report["address"], "fe80::77:1%eth0");
    }
    for (node, code) in [
        ("gratwifi@fe80::77:1", "epmd_unreachable"),
        ("gratwifi@[fe80::77:1]:9100", "distribution_unreachable"),
    ] {
        let examined = examine(&dashboard, &[node], ONE_STEP);
        let last = examined.json["nodes"][0]["checks"]
            .as_array()
            .unwrap()
            .last()
            .unwrap();
        assert_eq!((&last["code"], examined.status), (&code.into(), 1));
        assert_has(last["message"].as_str().unwrap(), &["its zone is missing"]);
        // One of the lines that it proposes is the one.
        let with_it = line_of(remedy_of(last), "epmd -doctor ").trim();
        let node = with_it.strip_prefix("epmd -doctor ").unwrap();
        let examined = examine(&dashboard, &[node], ONE_STEP);
        assert_eq!(
            examined.json["nodes"][0]["verdict"], "reachable",
            "{}",
            examined.text
        );
    }
}

#[test]
fn a_port_that_is_not_of_tcp_is_no_failure() {
    let [api] = network(["api"]);
    let there = Service::start(&api, "");
    let _quic = api.enter(|| std::net::UdpSocket::bind(("0.0.0.0", DISTRIBUTION)).unwrap());
    let hold = |name: &str, port: u16| {
        let stream = api.connect(IpAddr::from([127, 0, 0, 1]));
        register(stream, &Node::new(name).port(port)).held()
    };
    let _udp = hold("quic", DISTRIBUTION);
    let _none = hold("hidden", 0);
    let examined = examine(&api, &["quic@api.test", "hidden@api.test"], ONE_STEP);
    assert_eq!(examined.status, 0, "{}", examined.text);
    assert_eq!(examined.host()[3..], ["distribution ok", "distribution ok"]);
    for node in examined.json["nodes"].as_array().unwrap() {
        assert_eq!(node["verdict"], "reachable");
        let last = node["checks"].as_array().unwrap().last().unwrap();
        assert_has(last["message"].as_str().unwrap(), &["not TCP"]);
    }
    drop(there);
}

#[test]
fn a_node_whose_port_is_said_is_examined_without_asking_an_epmd() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let node = api
        .enter(|| TcpListener::bind(("::", DISTRIBUTION)))
        .unwrap();
    count_arrivals(&api);
    for target in [
        "gratwifi@api.test:9100",
        "gratwifi@10.77.0.1:9100",
        "gratwifi@[fd77::1]:9100",
    ] {
        let examined = examine(&dashboard, &[target], ONE_STEP);
        assert_eq!(examined.json["nodes"][0]["node"], target);
        assert_eq!(
            examined.node(),
            ["resolve ok", "distribution ok"],
            "{}",
            examined.text
        );
        // This host has no epmd either, and that is no failure here.
        assert_eq!(examined.host()[0], "listen warn no_epmd");
        assert_eq!(examined.status, 0);
    }
    let [epmd, ..] = arrivals(&api);
    assert_eq!(epmd, 0, "no epmd was asked");
    // Asked without the port, it tells of both.
    let examined = examine(&dashboard, &[NODE], ONE_STEP);
    let (_, remedy) = examined.fails_at("epmd", "epmd_connection_refused");
    assert_has(
        &remedy,
        &["start it", "epmd -doctor gratwifi@api.test:PORT"],
    );
    let here = remedy_of(host_finding(&examined, "no_epmd"));
    assert_has(here, &["enable --now epmd", "epmd -doctor NODE@HOST:PORT"]);
    let asked = line_of(&remedy, "epmd -doctor ").replace("PORT", "9100");
    let target = asked.trim().strip_prefix("epmd -doctor ").unwrap();
    let examined = examine(&dashboard, &[target], ONE_STEP);
    assert_eq!(examined.json["nodes"][0]["verdict"], "reachable");
    drop(node);
    let examined = examine(&dashboard, &["gratwifi@api.test:9100"], ONE_STEP);
    let (message, _) = examined.fails_at("distribution", "distribution_connection_refused");
    assert!(!message.contains("epmd answers"), "{message}");
}

#[test]
fn a_host_whose_own_name_leads_nowhere_or_elsewhere_is_told() {
    let [api] = network(["api"]);
    let _epmd = Service::start(&api, "");
    let hosts = api.file("hosts");
    let with = |line: &str| {
        std::fs::write(
            &hosts,
            format!("127.0.0.1 localhost\n::1 localhost\n{line}\n"),
        )
        .unwrap();
        examine(&api, &[], ONE_STEP)
    };
    for (line, code, says) in [
        ("", "own_name_unresolved", "api.test, has no address here"),
        (
            "10.77.0.9 api.test",
            "own_name_elsewhere",
            "is 10.77.0.9, which is no address of this host",
        ),
        ("::1 api.test", "own_name_elsewhere", "is ::1 alone"),
    ] {
        let examined = with(line);
        let finding = host_finding(&examined, code);
        assert_eq!((&finding["result"], examined.status), (&"warn".into(), 0));
        assert_has(finding["message"].as_str().unwrap(), &[says]);
        let remedy = remedy_of(finding);
        if code == "own_name_unresolved" || line.starts_with("::1") {
            does(&api, line_of(remedy, "echo "));
            let examined = examine(&api, &[], ONE_STEP);
            assert!(!examined.text.contains("own name"), "{}", examined.text);
        } else {
            does(&api, line_of(remedy, "getent "));
        }
    }
    for well in [
        "127.0.1.1 api.test api",
        "10.77.0.1 api.test",
        "fd77::1 api.test",
    ] {
        assert_eq!(
            with(well).host(),
            ["listen ok", "epmd ok", "config ok"],
            "{well}"
        );
    }
}

#[test]
fn whatever_accepts_and_closes_most_likely_refuses_in_whatever_way_it_closes() {
    const ROUNDS: usize = 30;
    let [api, dashboard] = network(["api", "dashboard"]);
    for linger in [None, Some(Duration::ZERO)] {
        let listener = api.hold_port(api.v4());
        let ended = thread::spawn(move || {
            for _ in 0..ROUNDS {
                let (stream, _) = listener.accept().unwrap();
                socket2::Socket::from(stream).set_linger(linger).unwrap();
            }
        });
        for _ in 0..ROUNDS {
            let said =
                dashboard.run(
                    Epmd::Ours
                        .command()
                        .args(["-doctor", "-json", "a@10.77.0.1"]),
                );
            let json: Value = serde_json::from_str(&said.stdout).unwrap();
            assert_eq!(
                json["nodes"][0]["verdict"], "epmd_refuses_us",
                "{}",
                said.stdout
            );
        }
        ended.join().unwrap();
    }
}

#[test]
fn what_it_says_to_add_to_the_file_is_toml_whatever_the_name() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let _there = Service::start(&api, "");
    let long = "n".repeat(255);
    let combining = "e\u{301}".repeat(100);
    for name in [
        "api",
        "wg.man",
        "größe",
        &long,
        &combining,
        "\u{301}x",
        "\u{202e}x",
        "a\u{200b}b",
        "\"",
        "\\",
        "\\u{41}",
        "'",
        "#x]",
        "🦀\u{fe0f}",
        "\u{e0041}",
    ] {
        let node = format!("{name}@api.test");
        let examined = examine(&dashboard, &[&node], ONE_STEP);
        let (_, remedy) = examined.fails_at("epmd", "epmd_refuses_us");
        let file: String = remedy
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .filter(|line| line.starts_with('[') || line.starts_with("allow = "))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(file.lines().count(), 4, "{file}");
        // The file is taken, and lets this host in under that very name.
        let path = api.file("remedy.toml");
        std::fs::write(&path, &file).unwrap();
        let path = path.to_str().unwrap();
        let checked = Epmd::Ours.run(&["-config", path, "-check_config"]);
        assert_eq!(checked.status, Some(0), "{file}{checked:?}");
        assert_eq!(
            checked.stdout.matches("this host, 10.77.0.2/32").count(),
            2,
            "{}",
            checked.stdout
        );
    }
}

/// Rules at the end of `host`'s own input.
fn input(host: &Host, rules: &str) {
    host.nft(&format!(
        "table inet filter {{ }}\ndelete table inet filter\n\
         table inet filter {{\nchain input {{\ntype filter hook input priority 0\n{rules}\n}}\n}}\n"
    ));
}

#[test]
fn a_firewall_that_bars_loopback_is_told_and_no_epmd_is_to_be_ended() {
    for epmd in BOTH {
        let [api] = network(["api"]);
        let _epmd = Running::serving(epmd, &api);
        for (rule, barred) in [
            ("tcp dport 4369 drop", 2),
            ("tcp dport 4369 reject with tcp reset", 2),
            ("ip daddr 127.0.0.1 tcp dport 4369 drop", 1),
            ("ip6 daddr ::1 tcp dport 4369 reject", 1),
        ] {
            input(&api, rule);
            let examined = examine(&api, &[], ONE_STEP);
            let code = if barred == 2 {
                "no_epmd"
            } else {
                "loopback_barred"
            };
            let finding = host_finding(&examined, code);
            assert_eq!(finding["result"], if barred == 2 { "fail" } else { "warn" });
            assert!(!examined.text.contains("end it"), "{}", examined.text);
            let remedy = remedy_of(finding).to_owned();
            for line in remedy
                .lines()
                .filter(|line| line.trim_start().starts_with("nft "))
            {
                does(&api, line);
            }
            let examined = examine(&api, &[], ONE_STEP);
            assert!(
                !examined.text.contains("loopback address"),
                "{}",
                examined.text
            );
            assert_eq!(examined.status, 0, "{}", examined.text);
        }
    }
}

#[test]
fn our_own_epmd_that_is_stopped_or_has_no_loopback_is_not_to_be_ended() {
    let [api] = network(["api"]);
    let there = Service::start(&api, "");
    there.signal(nix::sys::signal::Signal::SIGSTOP);
    let examined = examine(&api, &[], 2 * ONE_STEP);
    let finding = host_finding(&examined, "no_epmd");
    assert_has(
        finding["message"].as_str().unwrap(),
        &["hardened-epmd) listens on", "is stopped"],
    );
    let remedy = remedy_of(finding).to_owned();
    assert!(!remedy.contains("end it"), "{remedy}");
    does(&api, line_of(&remedy, "ps "));
    there.signal(nix::sys::signal::Signal::SIGCONT);
    assert_eq!(examine(&api, &[], ONE_STEP).status, 0);
}

#[test]
fn an_epmd_of_a_socket_unit_without_loopback_is_asked_where_it_listens() {
    let [api] = network(["api"]);
    // What this version makes of it, adding loopback or not, is the daemon's; the doctor finds it.
    let listener = api.hold_port(api.v4());
    let activate = "export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&0 </dev/null; exec \"$@\"";
    let mut command = Epmd::Ours.wrapped(&["sh", "-c", activate, "sh"]);
    command.arg("-systemd").stderr(Stdio::null());
    let mut epmd = api.spawn(command.stdin(std::os::fd::OwnedFd::from(listener)));
    wait_for("the daemon to answer", || {
        let stream = api.try_connect(api.v4()).ok()?;
        matches!(common::wire::ask(stream, &frame(b"n")), Answer::Bytes(_)).then_some(())
    });
    let examined = examine(&api, &[], ONE_STEP);
    assert_eq!(examined.status, 0, "{}", examined.text);
    assert!(
        examined.host().contains(&"epmd ok".to_owned()),
        "{}",
        examined.text
    );
    assert!(!examined.text.contains("end it"), "{}", examined.text);
    epmd.kill().unwrap();
    epmd.wait().unwrap();
}

#[test]
fn whom_the_lists_let_in_is_told_by_the_place_that_counts() {
    let [api] = network(["api"]);
    let halves = "[\"0.0.0.0/1\", \"128.0.0.0/1\"]";
    let told = |host: &Host| {
        let examined = examine(host, &[], ONE_STEP);
        let finding = host_finding(&examined, "epmd_serves_everyone");
        assert_eq!(
            (&finding["check"], &finding["result"]),
            (&"config".into(), &"warn".into())
        );
        let message = finding["message"].as_str().unwrap();
        format!("{message}\n{}", remedy_of(finding))
    };
    let there = Service::start(&api, "");
    for (file, says) in [
        (
            format!("[access]\nallow = {halves}\n"),
            ["access.allow admits everyone", "  allow = ["],
        ),
        (
            format!("[access]\nlist = {halves}\n"),
            ["access.list admits everyone", "  list = ["],
        ),
        (
            format!("[access.node.\"a.b\"]\nallow = {halves}\n"),
            ["the port of \"a.b\"", "  [access.node.\"a.b\"]"],
        ),
    ] {
        there.reload(&file);
        let told = told(&api);
        assert_has(&told, &says);
        // What it says to write there in its place is taken, and is the end of it.
        let lines: String = told
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .filter(|line| line.starts_with('[') || line.contains(" = "))
            .map(|line| format!("{line}\n"))
            .collect();
        there.reload(&lines);
        let examined = examine(&api, &[], ONE_STEP);
        assert!(
            !examined.text.contains("whoever reaches it"),
            "{}",
            examined.text
        );
    }
    drop(there);
    for (variable, argument, says) in [
        (Some("*"), None, "EPMD_ALLOW says it"),
        (None, Some("*"), "-allow says it"),
    ] {
        let mut launch = Launch::on(&api).config("[access]\nallow = [\"10.77.0.2\"]\n");
        if let Some(value) = variable {
            launch = launch.variable("EPMD_ALLOW", value);
        }
        if let Some(value) = argument {
            launch = launch.arguments(&["-allow", value]);
        }
        let _there = launch.start();
        assert_has(&told(&api), &[says]);
    }
}

#[test]
fn a_port_that_stands_in_the_file_alone_is_a_warning() {
    let [api] = network(["api"]);
    let file = api.file("moved.toml");
    std::fs::write(&file, "port = 4370\n").unwrap();
    let file = file.to_str().unwrap();
    let mut command = Epmd::Ours.command();
    let mut moved = api.spawn(command.args(["-config", file]).stderr(Stdio::null()));
    wait_for("the daemon", || {
        api.enter(|| TcpStream::connect(("127.0.0.1", 4370))).ok()
    });
    let examined = examine_with(&api, &["-config", file], &[], ONE_STEP);
    let finding = host_finding(&examined, "port_only_in_file");
    assert_eq!((&finding["result"], examined.status), (&"warn".into(), 0));
    let variable = line_of(remedy_of(finding), "ERL_EPMD_PORT=").trim();
    // With the variable, the nodes ask there, and so do all that is asked by them.
    let wrapper = ["env", variable];
    let examined = examine_by(&api, &wrapper, &["-config", file], &[], ONE_STEP);
    assert!(
        !examined.text.contains("alone, which nodes"),
        "{}",
        examined.text
    );
    assert_eq!(examined.host()[0], "listen ok");
    moved.kill().unwrap();
    moved.wait().unwrap();
}

/// The doctor as a user with no rights, who may run and read this copy of the program.
fn as_nobody(host: &Host) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let copy = host.file("epmd");
    if !copy.exists() {
        std::fs::copy(Epmd::Ours.path(), &copy).unwrap();
        let open = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(host.file(""), open).unwrap();
    }
    [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ]
    .map(str::to_owned)
    .into()
}

#[test]
fn a_settings_file_of_another_user_is_no_failure() {
    use std::os::unix::fs::PermissionsExt as _;
    let [api] = network(["api"]);
    let there = Service::start(&api, "");
    let secret = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(there.config(), secret).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(&as_nobody(&api)[1..])
        .arg(api.file("epmd"))
        .env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap());
    let said = api.run(
        command
            .env("EPMD_CONFIG", there.config())
            .args(["-doctor", "-json"]),
    );
    let json: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(said.status, Some(0), "{json}");
    let codes: Vec<_> = json["host"].as_array().unwrap().iter().map(brief).collect();
    assert!(
        codes.contains(&"config warn config_unreadable".to_owned()),
        "{codes:?}"
    );
    assert!(!said.stdout.contains("will not start"), "{json}");
    // To whom the daemon tells it, it is known all the same.
    let own = examine_with(&api, &["-config", there.config()], &[], ONE_STEP);
    assert_has(&own.text, &["in force, from "]);
}

#[test]
fn without_threads_a_large_stack_or_proc_it_finds_the_same() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let _there = Running::serving(Epmd::Ours, &api);
    let _node = Registered::on(&api, "gratwifi", api.v4());
    let nobody = as_nobody(&dashboard);
    let copy = dashboard.file("epmd");
    let copy = copy.to_str().unwrap();
    let mut command = Command::new(&nobody[0]);
    command
        .args(&nobody[1..])
        .args(["prlimit", "--nproc=1", copy]);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap());
    let said = dashboard.run(command.args(["-doctor", NODE]));
    assert_has(&said.stdout, &["reachable: 10.77.0.1 port 9100"]);
    for _ in 0..20 {
        let small = ["prlimit", "--stack=65536"];
        let mut command = Epmd::Ours.wrapped(&small);
        let said = dashboard.run(command.args(["-doctor", NODE, "a@nowhere.test"]));
        assert_has(&said.stdout, &["reachable: 10.77.0.1 port 9100"]);
    }
    // A host whose /proc is another file system.
    let no_proc = [
        "unshare",
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs none /proc && exec \"$@\"",
        "sh",
    ];
    let examined = examine_by(&api, &no_proc, &[], &[NODE], ONE_STEP);
    assert_eq!(examined.json["nodes"][0]["verdict"], "reachable");
    let host = examined.host();
    assert_eq!(
        host[..3],
        ["listen ok", "listen warn not_looked_at", "epmd ok"],
        "{}",
        examined.text
    );
    assert_eq!(examined.status, 0, "{}", examined.text);
    let remedy = remedy_of(host_finding(&examined, "not_looked_at"));
    let mounts = line_of(remedy, "mount ").trim();
    let script = format!("mount -t tmpfs none /proc && {mounts} && exec \"$@\"");
    let mounted = ["unshare", "-m", "sh", "-c", &script, "sh"];
    let examined = examine_by(&api, &mounted, &[], &[NODE], ONE_STEP);
    assert!(
        !examined.text.contains("could not be looked at"),
        "{}",
        examined.text
    );
}

#[test]
fn names_of_strangers_are_printed_in_nothing_but_what_is_seen() {
    let [api] = network(["api"]);
    let _there = Service::start(&api, "");
    let odd = [
        "\u{202e}gnp",
        "a\u{200b}b",
        "\u{2066}x",
        "a\u{fe0f}",
        "\u{34f}y",
    ];
    let _held: Vec<_> = odd
        .iter()
        .map(|name| register(api.connect(IpAddr::from([127, 0, 0, 1])), &Node::new(name)).held())
        .collect();
    let examined = examine(&api, &["\u{202e}gnp@api.test"], ONE_STEP);
    assert_has(&examined.text, &["\\u{202e}gnp@api.test: "]);
    let json = api
        .run(Epmd::Ours.command().args(["-doctor", "-json"]))
        .stdout;
    let status = api.run(Epmd::Ours.command().arg("-status")).stdout;
    let status_json = api
        .run(Epmd::Ours.command().args(["-status", "-json"]))
        .stdout;
    let unseen = ['\u{202e}', '\u{200b}', '\u{2066}', '\u{fe0f}', '\u{34f}'];
    for shown in [&examined.text, &json, &status, &status_json] {
        assert!(!shown.contains(unseen), "{shown}");
    }
    let told: Value = serde_json::from_str(&status_json).unwrap();
    let names = told["registrations"].as_array().unwrap();
    for name in odd {
        assert!(names.iter().any(|told| told["name"] == name), "{names:?}");
    }
    // Scripts compare with what they know: the list is stock's, byte for byte.
    let listed = api.run(Epmd::Ours.command().arg("-names")).stdout;
    for name in odd {
        assert_has(&listed, &[&format!("name {name} at port ")]);
    }
}

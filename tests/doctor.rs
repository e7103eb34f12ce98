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
use common::service::Service;
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
    let run = |more: &[&str]| {
        let mut command = Epmd::Ours.command();
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
        lines.extend(of(node["node"].as_str().unwrap(), &node["checks"]));
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
            "closed it without an answer",
            "refuses lookups of \"gratwifi\" from this host's address 10.77.0.2",
        ],
    );
    assert_has(
        &remedy,
        &[
            "See on api.test why:\n  journalctl -t epmd EPMD_PEER=10.77.0.2",
            "  [access]\n  allow = [\"10.77.0.2\"]",
            "  [access.node.gratwifi]\n  allow = [\"10.77.0.2\"]",
            "epmd -check_config && systemctl reload epmd",
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

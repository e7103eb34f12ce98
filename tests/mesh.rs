//! `epmd -doctor -mesh` on clusters of hosts where something is wrong, and on one where nothing is.
//!
//! Each host has an epmd and a node; what is dropped, nftables drops on the way between them. Hosts are asked
//! by `ip netns exec {host}`, which needs no network, and by scripts that fail in each way that a command can.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::binary::{Epmd, Output, finish_within};
use common::erl::Erl;
use common::netns::{Host, network};
use common::service::Service;
use common::wait_for;
use common::wire::{Node, register};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::Pid;
use serde_json::Value;

/// The distribution port of nodes that are none.
const DISTRIBUTION: u16 = 9100;
/// How hosts are asked.
const NETNS: &str = "ip netns exec {host}";
/// What any mesh may take whose packets are dropped.
const DROPPED: Duration = Duration::from_secs(6);
/// What it may take with a host that hangs.
const HANGS: Duration = Duration::from_secs(25);
/// Who may look up on a host whose lists lack nobody.
const ALL: &str = "[access]\nallow = [\"10.77.0.0/24\", \"fd77::/64\"]\n";

/// A host of the cluster at work: its epmd, and its node `n`.
struct Member<'h> {
    _held: TcpStream,
    _node: Accepting,
    _epmd: Service<'h>,
}

/// A distribution port: it accepts whoever comes, as many as there are.
struct Accepting {
    listener: TcpListener,
    thread: Option<thread::JoinHandle<()>>,
}

impl Accepting {
    fn on(host: &Host) -> Self {
        let listener = host
            .enter(|| TcpListener::bind((host.v4(), DISTRIBUTION)))
            .expect("a free port");
        let accepting = listener.try_clone().expect("a second descriptor");
        let thread = thread::spawn(move || while accepting.accept().is_ok() {});
        Self {
            listener,
            thread: Some(thread),
        }
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        // It listens no more, which ends the accepting, and with that the port is free.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

impl<'h> Member<'h> {
    fn on(host: &'h Host, config: &str) -> Self {
        Self::named(host, "n", config)
    }

    fn named(host: &'h Host, name: &str, config: &str) -> Self {
        let epmd = Service::start(host, config);
        let node = Accepting::on(host);
        let stream = host.connect(IpAddr::from([127, 0, 0, 1]));
        let (held, _) = register(stream, &Node::new(name).port(DISTRIBUTION)).held();
        Self {
            _held: held,
            _node: node,
            _epmd: epmd,
        }
    }
}

/// Hosts that lead to each other by `ip netns exec`.
fn cluster<const N: usize>(names: [&str; N]) -> [Host; N] {
    let hosts = network(names);
    let all: Vec<_> = names.into_iter().zip(&hosts).collect();
    for host in &hosts {
        host.leads_to(&all);
    }
    hosts
}

/// The nodes of these hosts.
fn nodes(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("n@{name}.test")).collect()
}

/// Asks on `host`, by this template where there is one.
fn run(
    host: &Host,
    via: Option<&str>,
    options: &[&str],
    nodes: &[String],
    longest: Duration,
) -> Output {
    let mut command = Epmd::Ours.command();
    let program = Epmd::Ours.path();
    let folder = program.parent().expect("a folder").to_str().expect("UTF-8");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{folder}:{path}"));
    command.args(["-doctor", "-mesh"]).args(options);
    command
        .args(via.iter().flat_map(|via| ["-via", via]))
        .args(nodes);
    let begun = Instant::now();
    let output = host
        .enter(|| finish_within(&mut command, 2 * HANGS))
        .expect("an end");
    let time = begun.elapsed();
    assert!(time < longest, "it took {time:?}: {output:?}");
    output
}

/// What the mesh found on `host`, as JSON.
fn mesh(host: &Host, via: &str, nodes: &[String], longest: Duration) -> Value {
    let output = run(host, Some(via), &["-json"], nodes, longest);
    assert_eq!(output.stderr, "");
    let json: Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let pairs = json["pairs"].as_array().unwrap();
    let fails = pairs
        .iter()
        .any(|pair| !matches!(pair["verdict"].as_str(), None | Some("reachable")));
    assert_eq!(output.status, Some(i32::from(fails)));
    json
}

/// The conclusions in short: `target api.test n@api.test`.
fn conclusions(json: &Value) -> Vec<String> {
    let all = json["conclusions"].as_array().unwrap();
    all.iter()
        .map(|it| {
            let nodes: Vec<_> = it["nodes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_str().unwrap())
                .collect();
            let word = |name: &str| it[name].as_str().unwrap().to_owned();
            format!("{} {} {}", word("kind"), word("host"), nodes.join(","))
        })
        .collect()
}

/// The verdict of a host on a node; `null` where it was not asked.
fn verdict(json: &Value, from: &str, to: &str) -> String {
    let mut pairs = json["pairs"].as_array().unwrap().iter();
    let pair = pairs.find(|pair| pair["from"] == from && pair["to"] == to);
    let verdict = &pair.unwrap_or_else(|| panic!("no {from} {to}: {json}"))["verdict"];
    verdict.as_str().unwrap_or("null").to_owned()
}

/// The same found from every member, at the same time.
fn from_each(hosts: &[Host], nodes: &[String]) -> Vec<Value> {
    thread::scope(|scope| {
        let asked: Vec<_> = hosts
            .iter()
            .map(|host| scope.spawn(|| mesh(host, NETNS, nodes, DROPPED)))
            .collect();
        asked.into_iter().map(|it| it.join().unwrap()).collect()
    })
}

/// Has the way between the hosts drop what these rules say, and nothing else, as long as `act` takes.
fn while_dropped<T>(host: &Host, rules: &[&str], act: impl FnOnce() -> T) -> T {
    let rules: String = rules.iter().map(|rule| format!("{rule} drop\n")).collect();
    host.way().nft(&format!(
        "table bridge way {{\nchain forward {{\ntype filter hook forward priority 0\n{rules}}}\n}}\n"
    ));
    let done = act();
    host.way().nft("delete table bridge way\n");
    done
}

#[test]
fn each_member_names_the_same_culprit() {
    const NAMES: [&str; 4] = ["api", "db", "dashboard", "worker"];
    let hosts = cluster(NAMES);
    let nodes = nodes(&NAMES);
    let mut members: Vec<_> = hosts
        .iter()
        .map(|host| Some(Member::on(host, ALL)))
        .collect();
    let expect = |wanted: &[&str], word: &str| {
        for json in from_each(&hosts, &nodes) {
            assert_eq!(conclusions(&json), wanted, "{json:#}");
            let all = json["conclusions"].as_array().unwrap();
            assert!(
                all.iter()
                    .all(|it| it["message"].as_str().unwrap().contains(word)),
                "{json:#}"
            );
            assert!(all.iter().all(|it| it["remedy"].is_string()), "{json:#}");
        }
    };
    expect(&[], "");
    // The founding story: one host to one other, and not back.
    while_dropped(
        &hosts[0],
        &[
            "ip saddr 10.77.0.3 ip daddr 10.77.0.1 tcp dport 4369",
            "ip6 saddr fd77::3 ip6 daddr fd77::1 tcp dport 4369",
        ],
        || {
            expect(
                &["pair dashboard.test n@api.test"],
                "which 2 other hosts do (epmd_no_answer)",
            );
            let output = run(&hosts[1], Some(NETNS), &[], &nodes, DROPPED);
            let lines: Vec<_> = output.stdout.lines().collect();
            assert_eq!(
                lines[..6],
                [
                    "from            n@api.test      n@db.test  n@dashboard.test  n@worker.test",
                    "api.test        -               ok         ok                ok",
                    "db.test         ok              -          ok                ok",
                    "dashboard.test  epmd_no_answer  ok         -                 ok",
                    "worker.test     ok              ok         ok                -",
                    "",
                ]
            );
            assert!(
                lines[6].starts_with("FAIL dashboard.test: does not reach n@api.test, "),
                "{lines:#?}"
            );
            // The remedy of the doctor that saw it, from its own point of view.
            let remedy = "       tcpdump -ni any 'host 10.77.0.3 and tcp port 4369'";
            assert!(output.stdout.contains(remedy.trim()), "{}", output.stdout);
            assert!(lines[7].starts_with("       "), "{lines:#?}");
        },
    );
    while_dropped(
        &hosts[0],
        &[
            "ip daddr 10.77.0.1 tcp dport 4369",
            "ip6 daddr fd77::1 tcp dport 4369",
        ],
        || {
            expect(
                &["target api.test n@api.test"],
                "its epmd, or a firewall before it",
            )
        },
    );
    while_dropped(
        &hosts[0],
        &[
            "ip daddr 10.77.0.1 tcp dport 9100",
            "ip6 daddr fd77::1 tcp dport 9100",
        ],
        || {
            expect(
                &["target api.test n@api.test"],
                "(distribution_no_answer), so look at api.test: the node's own port",
            );
        },
    );
    while_dropped(
        &hosts[0],
        &[
            "ip saddr 10.77.0.4 tcp flags & (syn | ack) == syn",
            "ip6 saddr fd77::4 tcp flags & (syn | ack) == syn",
        ],
        || {
            expect(
                &["source worker.test n@api.test,n@db.test,n@dashboard.test"],
                "so look at worker.test itself",
            );
        },
    );
    // A list without one member.
    let without_db =
        "[access]\nallow = [\"10.77.0.0/24\", \"fd77::/64\"]\ndeny = [\"10.77.0.2\"]\n";
    members[0] = None;
    members[0] = Some(Member::on(&hosts[0], without_db));
    expect(&["pair db.test n@api.test"], "epmd_refuses_us");
    // Loopback alone.
    members[0] = None;
    members[0] = Some(Member::on(
        &hosts[0],
        &format!("listen = [\"127.0.0.1\"]\n{ALL}"),
    ));
    expect(&["target api.test n@api.test"], "epmd_connection_refused");
    // A node that is down, and a host whose epmd is.
    members[0] = None;
    let epmd = Service::start(&hosts[0], ALL);
    expect(
        &["target api.test n@api.test"],
        "(not_registered), so look at api.test: the node itself",
    );
    drop(epmd);
    expect(&["target api.test n@api.test"], "epmd_connection_refused");
}

#[test]
fn two_faults_among_eight_hosts_with_real_nodes_are_told_apart() {
    const NAMES: [&str; 8] = ["h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8"];
    let hosts = cluster(NAMES);
    let epmds: Vec<_> = hosts.iter().map(|host| Service::start(host, ALL)).collect();
    // The two whose faults are told are real nodes, on any port.
    let mut real: Vec<_> = [2, 6]
        .map(|index: usize| Erl::named(&hosts[index], &format!("n@{}.test", NAMES[index]), &[]))
        .into();
    let held: Vec<_> = [0, 1, 3, 4, 5, 7]
        .map(|index: usize| {
            let host = &hosts[index];
            let node = Accepting::on(host);
            let stream = host.connect(IpAddr::from([127, 0, 0, 1]));
            (
                node,
                register(stream, &Node::new("n").port(DISTRIBUTION)).held(),
            )
        })
        .into();
    let nodes = nodes(&NAMES);
    let wanted = ["target h3.test n@h3.test", "pair h5.test n@h7.test"];
    let port = real[0].eval("element(2, hd(element(2, erl_epmd:names({127, 0, 0, 1}))))");
    while_dropped(
        &hosts[0],
        &[
            &format!("ip daddr 10.77.0.3 tcp dport {port}"),
            &format!("ip6 daddr fd77::3 tcp dport {port}"),
            "ip saddr 10.77.0.5 ip daddr 10.77.0.7 tcp flags & (syn | ack) == syn",
            "ip6 saddr fd77::5 ip6 daddr fd77::7 tcp flags & (syn | ack) == syn",
        ],
        || {
            for host in [&hosts[1], &hosts[4]] {
                assert_eq!(conclusions(&mesh(host, NETNS, &nodes, 2 * DROPPED)), wanted);
            }
        },
    );
    let good = mesh(&hosts[7], NETNS, &nodes, 2 * DROPPED);
    assert_eq!(conclusions(&good), [""; 0], "{good:#}");
    drop((held, epmds));
}

/// A script by which hosts are asked; what it does with those of these names, the lines say.
fn script(host: &Host, lines: &str) -> String {
    let path = host.file("via");
    let text = format!(
        "#!/bin/sh\nhost=$1; shift\ncase $host in\n{lines}\n*) exec ip netns exec \"$host\" \"$@\";;\nesac\n"
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("'{}' {{host}}", path.display())
}

#[test]
fn a_host_that_cant_be_asked_is_said_and_costs_nothing_of_the_rest() {
    const NAMES: [&str; 7] = ["api", "db", "hangs", "stock", "garbage", "endless", "older"];
    let hosts = cluster(NAMES);
    let _members: Vec<_> = hosts.iter().map(|host| Member::on(host, ALL)).collect();
    // No other process has it in its command.
    let long = format!("4711{}", std::process::id());
    let stock = Epmd::Stock.path();
    let stock = stock.display();
    let via = script(
        &hosts[1],
        &format!(
            "hangs.test) sleep {long} & exec sleep {long};;\n\
             stock.test) shift; exec {stock} \"$@\";;\n\
             garbage.test) printf '\\033[2J{{\"nodes\":[]}}\\n'; exit 0;;\n\
             endless.test) exec cat /dev/zero /dev/{long};;\n\
             older.test) echo 'sh: 1: epmd: not found' >&2; exit 127;;"
        ),
    );
    let nodes = nodes(&NAMES);
    let json = mesh(&hosts[1], &via, &nodes, HANGS);
    let unasked = ["hangs", "stock", "garbage", "endless", "older"]
        .map(|name| format!("unasked {name}.test "));
    assert_eq!(conclusions(&json), unasked);
    for (host, reason) in [
        ("hangs", "no answer within 20s"),
        (
            "stock",
            "its epmd has no -doctor: it is stock's, or an older version",
        ),
        (
            "garbage",
            "what it said is no report of the doctor's: \"\\u{1b}[2J",
        ),
        ("endless", "its answer is longer than"),
        ("older", "sh: 1: epmd: not found"),
    ] {
        let host = format!("{host}.test");
        let all = json["conclusions"].as_array().unwrap();
        let said = all.iter().find(|it| it["host"] == *host).unwrap();
        let message = said["message"].as_str().unwrap();
        assert!(
            message.starts_with(&format!("could not be asked: {reason}")),
            "{message}"
        );
        let typed = said["remedy"].as_str().unwrap().lines().last().unwrap();
        assert!(typed.contains(" epmd -doctor -json n@api.test "), "{typed}");
        assert_eq!(verdict(&json, &host, "n@api.test"), "null");
        assert_eq!(
            verdict(&json, "api.test", &format!("n@{host}")),
            "reachable"
        );
    }
    assert_eq!(json["hosts"].as_array().unwrap().len(), 7);
    // What it says to try is what was tried: a shell understands it, and it fails in the same way.
    let older = json["conclusions"][4]["remedy"].as_str().unwrap();
    let typed = older.lines().last().unwrap().trim();
    let output = hosts[1].run(Command::new("sh").args(["-c", typed]));
    assert_eq!(
        (output.status, &*output.stderr),
        (Some(127), "sh: 1: epmd: not found\n")
    );
    // Nothing is left behind of those that were given up.
    let left = hosts[1].run(Command::new("pgrep").args(["-f", &format!("^(sleep|cat) .*{long}$")]));
    assert_eq!(left.stdout, "");
}

#[test]
fn this_host_is_asked_by_itself_under_whatever_names_it_has() {
    let hosts = cluster(["api", "db"]);
    let _members: Vec<_> = hosts.iter().map(|host| Member::on(host, ALL)).collect();
    let via = "/no/such/program {host}";
    // By name, by short name, by both addresses; a second node there; one twice.
    let asked: Vec<String> = [
        "n@api.test",
        "n@api",
        "n@10.77.0.1",
        "m@fd77::1",
        "n@db.test",
        "n@api.test",
    ]
    .map(str::to_owned)
    .into();
    let json = mesh(&hosts[0], via, &asked, DROPPED);
    assert_eq!(json["hosts"], serde_json::json!(["api.test", "db.test"]));
    assert_eq!(json["pairs"].as_array().unwrap().len(), 1 + 4);
    assert_eq!(verdict(&json, "api.test", "n@db.test"), "reachable");
    assert_eq!(conclusions(&json), ["unasked db.test "]);
    let message = json["conclusions"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("can't run /no/such/program: "),
        "{message}"
    );
    // From a host that is none of them, all are asked.
    let json = mesh(&hosts[1], NETNS, &["n@api.test".to_owned()], DROPPED);
    assert_eq!(json["hosts"], serde_json::json!(["api.test"]));
    assert_eq!(json["pairs"], serde_json::json!([]));
}

/// What ssh gets of a host that is not there, by the template that is used where none is given.
#[test]
fn without_a_template_it_is_ssh() {
    let hosts = cluster(["api", "db"]);
    let _members: Vec<_> = hosts.iter().map(|host| Member::on(host, ALL)).collect();
    let output = run(&hosts[0], None, &[], &nodes(&["api", "db"]), DROPPED);
    assert_eq!(output.status, Some(0));
    let said = "warn db.test: could not be asked: ssh: connect to host db.test port 22: Connection refused\n       \
                See what this says there:\n         ssh -o BatchMode=yes db.test epmd -doctor -json n@api.test n@db.test\n";
    assert!(output.stdout.contains(said), "{}", output.stdout);
}

#[test]
fn a_signal_ends_it_and_leaves_no_child() {
    let hosts = cluster(["api", "db"]);
    let mark = hosts[0].file("asked");
    // No other process has it in its command.
    let long = format!("4712{}", std::process::id());
    let via = script(
        &hosts[0],
        &format!(
            "db.test) sleep {long} & echo > '{}'; exec sleep {long};;",
            mark.display()
        ),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let _ = fs::remove_file(&mark);
        let mut command = Epmd::Ours.command();
        command.args(["-doctor", "-mesh", "-via", &via, "n@api.test", "n@db.test"]);
        let mut child = hosts[0].spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        wait_for("the host to be asked", || mark.exists().then_some(()));
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let status = wait_for("its end", || child.try_wait().unwrap());
        // As if the signal had not been caught.
        assert_eq!(status.signal(), Some(signal as i32));
        let mut said = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(said, "");
        let pattern = format!("^sleep {long}$");
        let sleeps = || {
            hosts[0]
                .run(Command::new("pgrep").args(["-c", "-f", &pattern]))
                .stdout
        };
        // SIGKILL can't be caught: what was started directly goes all the same.
        let most = if signal == Signal::SIGKILL {
            "1\n"
        } else {
            "0\n"
        };
        wait_for("the end of its children", || {
            (sleeps().as_str() <= most).then_some(())
        });
    }
}

#[test]
fn names_that_mean_something_to_a_shell_go_nowhere() {
    let hosts = cluster(["api"]);
    let mark = hosts[0].file("mark");
    let touch = format!("touch {}", mark.display());
    for node in [
        format!("n@api.test;{touch}"),
        format!("$({touch})@api.test"),
        format!("n`{touch}`@api.test"),
        "n@-oProxyCommand=x".to_owned(),
        "größe@api.test".to_owned(),
        "n@*".to_owned(),
    ] {
        let output = run(
            &hosts[0],
            Some("sh -c 'exit 1' {host}"),
            &[],
            std::slice::from_ref(&node),
            DROPPED,
        );
        assert_eq!(output.status, Some(2), "{node}: {output:?}");
    }
    assert!(!mark.exists());
}

/// What docs/doctor.md tells of the founding story is what is said.
#[test]
fn the_founding_story_goes_as_it_is_told() {
    let hosts = cluster(["api", "dashboard", "db"]);
    let nodes = [
        "gratwifi@api.test",
        "dashboard@dashboard.test",
        "db@db.test",
    ]
    .map(str::to_owned);
    let _members: Vec<_> = hosts
        .iter()
        .zip(["gratwifi", "dashboard", "db"])
        .map(|(host, name)| Member::named(host, name, ALL))
        .collect();
    // So that the hosts know each other on the link.
    assert_eq!(
        conclusions(&mesh(&hosts[2], NETNS, &nodes, DROPPED)),
        [""; 0]
    );
    let settings = hosts[1].file("watch.toml");
    let watched = format!("[watch]\nnodes = {nodes:?}\nevery = \"5s\"\nafter = 1\n");
    fs::write(&settings, watched).unwrap();
    let log = hosts[1].file("watch.log");
    let mut command = Epmd::Ours.command();
    command
        .env("EPMD_CONFIG", &settings)
        .arg("-watch")
        .stderr(fs::File::create(&log).unwrap());
    // A line of it, with what is indented under it.
    let said = |words: &str| {
        wait_for(words, || {
            let said = fs::read_to_string(&log).unwrap();
            let (before, behind) = said.split_once(words)?;
            let begin = before.rfind('\n').map_or(0, |end| end + 1);
            let end = behind.find("\n20").unwrap_or(behind.trim_end().len());
            Some(format!("{}{words}{}", &before[begin..], &behind[..end]))
        })
    };
    let mut shown = Vec::new();
    let rules = [
        "ip saddr 10.77.0.2 ip daddr 10.77.0.1 tcp dport 4369",
        "ip6 saddr fd77::2 ip6 daddr fd77::1 tcp dport 4369",
    ];
    let mut watch = while_dropped(&hosts[0], &rules, || {
        let watch = hosts[1].spawn(&mut command);
        shown.push(said(" epmd: gratwifi@api.test can't be reached "));
        let table = run(&hosts[2], Some(NETNS), &[], &nodes, DROPPED).stdout;
        let asked = nodes.join(" ");
        shown.push(format!(
            "$ epmd -doctor -mesh {asked}\n{}",
            table.trim_end()
        ));
        watch
    });
    shown.push(said(" epmd: gratwifi@api.test can be reached again, "));
    kill(Pid::from_raw(watch.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(watch.wait().unwrap().success());
    let told = normal(include_str!("../docs/doctor.md"));
    for shown in shown {
        let shown = normal(&shown);
        assert!(
            told.contains(&shown),
            "docs/doctor.md does not tell:\n{shown}"
        );
    }
    // The alert's words are promtool's, in tests/alerts.
    let rules = include_str!("alerts/rules.yml");
    let alert = "dashboard can't reach gratwifi@api.test";
    let (_, behind) = told
        .split_once(&format!("EpmdPeerUnreachable: {alert}\n"))
        .unwrap();
    let description = behind.lines().next().unwrap();
    assert!(rules.contains(&format!("summary: \"{alert}\"")));
    assert!(
        rules.contains(&format!("description: \"{description}\"")),
        "{description}"
    );
}

/// A text without its times, and without what the kernel knows of the link by chance.
fn normal(text: &str) -> String {
    let mut normal = String::new();
    for line in text.lines() {
        let line = line.split_once("Z epmd: ").map_or(line, |(_, rest)| rest);
        let line = line.split("; api.test was seen").next().unwrap();
        let line = line.split("; or api.test is down").next().unwrap();
        let timeless = line
            .split_once(" again, after ")
            .and_then(|(head, rest)| Some(format!("{head} again: {}", rest.split_once(": ")?.1)));
        normal.push_str(timeless.as_deref().unwrap_or(line));
        normal.push('\n');
    }
    normal
}

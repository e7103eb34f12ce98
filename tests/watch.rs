//! `epmd -watch` on hosts of their own: what it tells, when, and what it costs the others.
//!
//! Rounds are as short as the settings let them be. What is dropped, nftables drops. The alerts that go with
//! it are tested by promtool.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::PATIENCE;
use common::binary::{Epmd, finish};
use common::netns::{Host, network};
use common::service::{Manager, Service};
use common::wait_for;
use common::wire::{Node, register};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const DISTRIBUTION: u16 = 9100;
const METRICS: &str = "127.0.0.1:9437";
const ALL: &str = "[access]\nallow = [\"10.77.0.0/16\", \"fd77::/64\"]\n";

/// A watch that runs; dropping it ends it.
struct Watch<'h> {
    host: &'h Host,
    child: Child,
    file: std::path::PathBuf,
    stderr: std::path::PathBuf,
}

impl<'h> Watch<'h> {
    /// With this as its `[watch]`, and lines as `format` says.
    fn start(host: &'h Host, format: &str, watch: &str) -> Self {
        Self::start_with(host, format, watch, |_| {})
    }

    fn start_with(
        host: &'h Host,
        format: &str,
        watch: &str,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let file = host.file("watch.toml");
        let stderr = host.file("watch.log");
        fs::write(&file, Self::text(format, watch)).unwrap();
        let mut command = Epmd::Ours.command();
        command
            .env("EPMD_CONFIG", &file)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&stderr).unwrap());
        change(&mut command);
        let child = host.spawn(command.arg("-watch"));
        let watch = Self {
            host,
            child,
            file,
            stderr,
        };
        watch.wait_until_said("watching ");
        watch
    }

    fn text(format: &str, watch: &str) -> String {
        format!("[audit]\nformat = \"{format}\"\n[watch]\n{watch}")
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits for this, for some rounds.
    fn wait_until_said(&self, words: &str) {
        let end = Instant::now() + 4 * PATIENCE;
        while !self.said().contains(words) {
            assert!(Instant::now() < end, "no {words:?} in:\n{}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it told of nodes, as JSON.
    fn events(&self) -> Vec<Value> {
        let said = self.said();
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        let lines = whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &Value| line.get("event").is_some())
            .collect()
    }

    /// Waits until it has told so many.
    fn wait_for_events(&self, count: usize) -> Vec<Value> {
        let end = Instant::now() + 4 * PATIENCE;
        loop {
            let events = self.events();
            if events.len() >= count {
                return events;
            }
            assert!(
                Instant::now() < end,
                "no {count} events in:\n{}",
                self.said()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn reload(&self, format: &str, watch: &str) {
        fs::write(&self.file, Self::text(format, watch)).unwrap();
        self.signal(Signal::SIGHUP);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// The lines of its page, but for comments, in their order.
    fn gauges(&self) -> Vec<String> {
        let page = wait_for("the page", || page(self.host));
        let mut lines: Vec<_> = page
            .lines()
            .filter(|it| !it.starts_with('#'))
            .map(str::to_owned)
            .collect();
        lines.sort_unstable();
        lines
    }

    /// Waits until this line is on its page.
    fn wait_for_gauge(&self, line: &str) {
        let end = Instant::now() + 4 * PATIENCE;
        while !self.gauges().iter().any(|it| it == line) {
            assert!(Instant::now() < end, "no {line} in {:#?}", self.gauges());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the watch said:\n{}", self.said());
        }
    }
}

/// What is served at /metrics.
fn page(host: &Host) -> Option<String> {
    let address: SocketAddr = METRICS.parse().unwrap();
    let mut stream = host
        .enter(|| TcpStream::connect_timeout(&address, PATIENCE))
        .ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Some(body.to_owned())
}

/// Names that are registered on a host, at one distribution port.
struct Registered {
    _held: Vec<TcpStream>,
    _listener: TcpListener,
}

impl Registered {
    fn on(host: &Host, names: &[&str]) -> Self {
        let any = IpAddr::from([0, 0, 0, 0]);
        let listener = host
            .enter(|| TcpListener::bind((any, DISTRIBUTION)))
            .unwrap();
        // It accepts, as a node does, and closes.
        let accepting = listener.try_clone().unwrap();
        thread::spawn(move || while accepting.accept().is_ok() {});
        let held = names.iter().map(|name| {
            let stream = host.connect(IpAddr::from([127, 0, 0, 1]));
            register(stream, &Node::new(name).port(DISTRIBUTION))
                .held()
                .0
        });
        Self {
            _held: held.collect(),
            _listener: listener,
        }
    }
}

fn drop_epmd(host: &Host) {
    host.way().nft(
        "table bridge way {\nchain forward {\ntype filter hook forward priority 0\n\
         ip daddr 10.77.0.1 tcp dport 4369 drop\nip6 daddr fd77::1 tcp dport 4369 drop\n}\n}\n",
    );
}

#[test]
fn what_changes_is_told_once_it_holds() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let _epmd = Service::start(&api, ALL);
    let node = Registered::on(&api, &["gratwifi"]);
    let section = format!(
        "nodes = [\"gratwifi@api.test\", \"gone@api.test\"]\nevery = \"5s\"\nafter = 2\nmetrics = \"{METRICS}\"\n"
    );
    let watch = Watch::start(&dashboard, "json", &section);
    assert!(
        watch
            .said()
            .contains("watching 2 nodes every 5s; a change is told after 2 rounds")
    );
    watch.wait_for_gauge("epmd_peer_reachable{node=\"gratwifi@api.test\"} 1");
    watch.wait_for_gauge("epmd_peer_verdict{node=\"gone@api.test\",verdict=\"not_registered\"} 1");
    // What is wrong at the start is told as well, and after two rounds.
    let gone = watch.wait_for_events(1).remove(0);
    for (field, value) in [
        ("severity", "WARNING"),
        ("event", "unreachable"),
        ("node", "gone@api.test"),
        ("verdict", "not_registered"),
        ("peer", "10.77.0.1"),
        (
            "message",
            "gone@api.test can't be reached (not_registered): \"gone\" is not registered with the epmd of api.test",
        ),
    ] {
        assert_eq!(gone[field], value, "{gone:#}");
    }
    assert!(
        gone["remedy"]
            .as_str()
            .unwrap()
            .contains("See on api.test whether the node runs")
    );
    // The gauges follow each round, the line only what holds.
    drop_epmd(&api);
    watch.wait_for_gauge("epmd_peer_reachable{node=\"gratwifi@api.test\"} 0");
    watch.wait_for_gauge(
        "epmd_peer_verdict{node=\"gratwifi@api.test\",verdict=\"epmd_no_answer\"} 1",
    );
    let gauges = watch.gauges();
    assert!(
        !gauges
            .iter()
            .any(|it| it.contains("gratwifi") && it.contains("\"reachable\"")),
        "{gauges:#?}"
    );
    assert_eq!(gauges.len(), 6, "{gauges:#?}");
    let events = watch.wait_for_events(3);
    let lost = events
        .iter()
        .find(|it| it["node"] == "gratwifi@api.test")
        .unwrap();
    assert_eq!(
        (&lost["event"], &lost["verdict"]),
        (&"unreachable".into(), &"epmd_no_answer".into())
    );
    assert!(
        lost["remedy"]
            .as_str()
            .unwrap()
            .contains("tcpdump -ni any 'host 10.77.0.2 and tcp port 4369'")
    );
    api.way().nft("delete table bridge way\n");
    watch.wait_until_said("can be reached again, after ");
    let events = watch.events();
    let again = events.iter().find(|it| it["event"] == "reachable").unwrap();
    for (field, value) in [
        ("severity", "INFO"),
        ("node", "gratwifi@api.test"),
        ("verdict", "reachable"),
        ("peer", "10.77.0.1"),
    ] {
        assert_eq!(again[field], value, "{again:#}");
    }
    assert!(again.get("remedy").is_none());
    // A good file is in force at once, a bad one never; what is not watched any more is no gauge.
    watch.reload("json", "nodes = []\n");
    watch.wait_until_said("not reloaded, the nodes from before are watched: watch.nodes is empty");
    watch.reload("json", "nodes = [\"a\"]\n");
    watch.wait_until_said("\\\"a\\\" is no node; expected NAME@HOST");
    watch.reload(
        "json",
        &format!("nodes = [\"gratwifi@api.test\"]\nevery = \"1m\"\nmetrics = \"{METRICS}\"\n"),
    );
    watch.wait_until_said("watching 1 node every 1m; ");
    let gauges = watch.gauges();
    assert_eq!(gauges.len(), 3, "{gauges:#?}");
    drop(node);
    // SIGTERM ends it at once, whatever it waits for.
    drop_epmd(&api);
    let begun = Instant::now();
    watch.signal(Signal::SIGTERM);
    let mut watch = watch;
    let status = wait_for("its end", || watch.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_round_is_one_lookup_and_one_connect() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let epmd = Service::start(
        &api,
        &format!("{ALL}[audit]\nformat = \"json\"\nlookups = true\n"),
    );
    let _node = Registered::on(&api, &["gratwifi"]);
    api.nft(
        "table inet arrivals {\ncounter epmd { }\ncounter distribution { }\ncounter other { }\nchain seen {\n\
         type filter hook prerouting priority -300\niifname lo accept\n\
         tcp dport 4369 tcp flags & (syn|ack) == syn counter name epmd\n\
         tcp dport 9100 tcp flags & (syn|ack) == syn counter name distribution\n\
         tcp dport != { 4369, 9100 } counter name other\nmeta l4proto { udp, icmp } counter name other\n}\n}\n",
    );
    let count = |name: &str| {
        let output =
            api.run(Command::new("nft").args(["-j", "list", "counter", "inet", "arrivals", name]));
        let json: Value = serde_json::from_str(&output.stdout).unwrap();
        json["nftables"][1]["counter"]["packets"].as_u64().unwrap()
    };
    let watch = Watch::start(
        &dashboard,
        "text",
        "nodes = [\"gratwifi@api.test\", \"gone@api.test\"]\nevery = \"5s\"\nafter = 3\n",
    );
    // As text, with what to do under it.
    watch.wait_until_said(" epmd: gone@api.test can't be reached (not_registered): ");
    watch.wait_until_said("\n    See on api.test whether the node runs");
    drop(watch);
    // Three rounds of the one that is gone, and two to four of the other: each jumps around its time.
    let lookups = |name: &str| {
        let events = epmd.events();
        events
            .iter()
            .filter(|it| it["operation"] == "lookup" && it["node"] == name)
            .count()
    };
    let (gone, found) = (lookups("gone"), lookups("gratwifi"));
    assert_eq!(count("distribution"), u64::try_from(found).unwrap());
    assert_eq!(count("epmd"), u64::try_from(gone + found).unwrap());
    assert_eq!(count("other"), 0);
    assert!(
        (3..=4).contains(&gone) && (2..=4).contains(&found),
        "{gone} {found}"
    );
    assert!(epmd.events().iter().all(|it| it["operation"] != "list"));
}

/// 100 nodes on 100 addresses, of which 30 drop all that comes.
#[test]
fn a_hundred_nodes_of_which_thirty_drop_stay_on_time() {
    let [api, dashboard] = network(["api", "dashboard"]);
    let _epmd = Service::start(&api, ALL);
    let names: Vec<String> = (1..=100).map(|n| format!("n{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let _nodes = Registered::on(&api, &names);
    let addresses: String = (1..=100)
        .map(|n| format!("addr add 10.77.1.{n}/16 dev eth0\n"))
        .collect();
    api.ip(&addresses);
    dashboard.ip("route add 10.77.1.0/24 dev eth0\n");
    api.nft(
        "table inet dropped {\nchain input {\ntype filter hook input priority 0\n\
         ip daddr 10.77.1.1-10.77.1.30 drop\n}\n}\n",
    );
    let nodes: Vec<String> = (1..=100).map(|n| format!("\"n{n}@10.77.1.{n}\"")).collect();
    let watch = Watch::start(
        &dashboard,
        "json",
        &format!(
            "nodes = [{}]\nevery = \"5s\"\nafter = 3\nmetrics = \"{METRICS}\"\n",
            nodes.join(", ")
        ),
    );
    let begun = Instant::now();
    let pid = watch.child.id();
    let mut most = (0, 0, 0);
    while watch.events().len() < 30 {
        assert!(begun.elapsed() < 4 * PATIENCE, "{}", watch.said());
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |name: &str| -> usize {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap()
                .split_whitespace()
                .next()
                .unwrap()
                .parse()
                .unwrap()
        };
        most.0 = most.0.max(descriptors);
        most.1 = most.1.max(number("Threads"));
        most.2 = most.2.max(number("VmRSS"));
        thread::sleep(Duration::from_millis(50));
    }
    println!(
        "at most {} descriptors, {} threads, {} KiB",
        most.0, most.1, most.2
    );
    assert!(most.0 <= 100, "{most:?}");
    assert!(most.1 <= 100, "{most:?}");
    assert!(most.2 <= 32 * 1024, "{most:?}");
    // Told after three rounds: the first within 5 s, two more of 5.5 s at most, and 2 s for the last.
    assert!(
        begun.elapsed() < Duration::from_secs(21),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        !watch.said().contains("rounds take longer"),
        "{}",
        watch.said()
    );
    let events = watch.events();
    assert_eq!(events.len(), 30);
    assert!(events.iter().all(|it| it["verdict"] == "epmd_no_answer"));
    let gauges = watch.gauges();
    let count = |end: &str| {
        gauges
            .iter()
            .filter(|it| it.starts_with("epmd_peer_reachable") && it.ends_with(end))
            .count()
    };
    assert_eq!((count(" 1"), count(" 0")), (70, 30));
    assert_eq!(
        gauges
            .iter()
            .filter(|it| it.starts_with("epmd_peer_verdict"))
            .count(),
        100
    );
    // What Prometheus would say of the page, and that the dashboard and the alerts show what there is.
    let text = page(&dashboard).unwrap();
    let shown = concat!(
        include_str!("../docs/grafana.json"),
        include_str!("../docs/alerts.yml")
    );
    for name in shown.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        let ours = name.starts_with("epmd_peer_");
        assert!(!ours || text.contains(&format!("# TYPE {name} ")), "{name}");
    }
    let path = dashboard.file("page");
    fs::write(&path, text).unwrap();
    let checked = finish(
        Command::new("sh")
            .args(["-c", "promtool check metrics <\"$0\""])
            .arg(&path),
    );
    assert_eq!(
        (checked.status, &*checked.stdout, &*checked.stderr),
        (Some(0), "", "")
    );
}

#[test]
fn systemd_is_told_how_it_is() {
    let [api] = network(["api"]);
    let manager = Manager::on(&api);
    let watch = Watch::start_with(
        &api,
        "text",
        "nodes = [\"n@no.such.host.invalid\"]\nevery = \"5s\"\nafter = 1\n",
        |command| {
            command
                .args(["-systemd"])
                .env("NOTIFY_SOCKET", api.file("notify"))
                .env("WATCHDOG_USEC", "400000");
        },
    );
    manager.wait_until_told("READY=1\nSTATUS=watching 1 node every 5s");
    manager.wait_until_told("WATCHDOG=1");
    // A name that has no address is a verdict like another.
    watch.wait_until_said(
        "n@no.such.host.invalid can't be reached (unresolved): no.such.host.invalid has no address",
    );
    watch.signal(Signal::SIGHUP);
    manager.wait_until_told("RELOADING=1");
    watch.signal(Signal::SIGTERM);
    manager.wait_until_told("STOPPING=1");
}

#[test]
fn there_must_be_something_to_watch() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("epmd.toml");
    let run = |text: &str| {
        fs::write(&file, text).unwrap();
        let mut command = Epmd::Ours.command();
        finish(command.env("EPMD_CONFIG", &file).arg("-watch"))
    };
    let output = run("");
    assert_eq!(output.status, Some(78));
    let name = file.display();
    assert_eq!(
        output.stderr,
        format!(
            "epmd: watch.nodes is empty, so there is nothing to watch; name the cluster's nodes in {name}:\n  \
             [watch]\n  nodes = [\"NAME@HOST\"]\n"
        )
    );
    // What it says to write is a good file.
    let remedy: String = output
        .stderr
        .lines()
        .skip(1)
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&file, remedy.replace("NAME@HOST", "n@h")).unwrap();
    let check = Epmd::Ours
        .command()
        .env("EPMD_CONFIG", &file)
        .arg("-check_config")
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    let output = run("[watch]\nnodes = [\"n@h\", \"n\"]\n");
    assert_eq!(output.status, Some(78));
    assert!(
        output
            .stderr
            .contains(":2:17: \"n\" is no node; expected NAME@HOST"),
        "{output:?}"
    );
}

/// docs/alerts.yml says what it should of what.
#[test]
fn the_alerts_fire_when_they_should() {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = finish(Command::new("promtool").current_dir(root).args([
        "test",
        "rules",
        "tests/alerts/rules.yml",
    ]));
    assert_eq!(output.status, Some(0), "{output:?}");
    let output = finish(Command::new("promtool").current_dir(root).args([
        "check",
        "rules",
        "docs/alerts.yml",
    ]));
    assert_eq!(output.status, Some(0), "{output:?}");
}

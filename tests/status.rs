//! What the daemon says of itself: `epmd -status` over the control socket, and /metrics for Prometheus.
//!
//! On hosts of their own, because the control socket has one place.

#![expect(
    clippy::expect_used,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use common::binary::{Epmd, Output};
use common::netns::{Host, lone_host, network};
use common::service::{Launch, Service, found};
use common::wait_for;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SOCKET: &str = "/run/epmd/control.sock";
/// Where the exporter listens in these tests, each of which has a network of its own.
const METRICS: &str = "[metrics]\nlisten = \"127.0.0.1:9436\"\n";
const METRICS_PORT: u16 = 9436;
/// Local lookups must not take longer, whatever happens to the exporter.
const SLOWEST: Duration = Duration::from_millis(250);

/// `epmd -status` on a host, with more arguments.
fn status(host: &Host, arguments: &[&str]) -> Output {
    host.run(Epmd::Ours.command().arg("-status").args(arguments))
}

/// The answer as JSON.
fn status_json(host: &Host) -> Value {
    let output = status(host, &["-json"]);
    assert_eq!(output.status, Some(0), "{output:?}");
    serde_json::from_str(&output.stdout).expect("one JSON object")
}

#[test]
fn the_status_tells_names_requests_refusals_and_limits() {
    let [server, member, stranger] = network(["server", "member", "stranger"]);
    let config = format!(
        "[access]\nallow = [\"{}\"]\n[limits]\nconnections = 77\n",
        member.v4()
    );
    let service = Service::start(&server, &config);
    let _api = service.hold("api");
    let _web = service.hold("web");
    assert_eq!(member.ask(server.v4(), b"zapi"), found("api"));
    for _ in 0..3 {
        stranger.ask(server.v4(), b"zapi");
    }
    let told = status_json(&server);
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    assert!(told["pid"].as_u64() > Some(1));
    assert_eq!(told["listening"], json!(["0.0.0.0:4369", "[::]:4369"]));
    let names: Vec<_> = told["registrations"]
        .as_array()
        .expect("names")
        .iter()
        .map(|r| &r["name"])
        .collect();
    assert_eq!(names, ["web", "api"]);
    assert_eq!(told["registrations"][0]["type"], "normal");
    assert!(told["registrations"][0]["creation"].as_u64() >= Some(4));
    assert_eq!(told["requests"]["lookup"]["answered"], 1);
    assert_eq!(told["requests"]["lookup"]["refused"], 3);
    assert_eq!(told["requests"]["register"]["answered"], 2);
    let refusal = &told["refusals"][0];
    assert_eq!(refusal["source"], stranger.v4().to_string());
    assert_eq!(
        (
            &refusal["operation"],
            &refusal["reason"],
            &refusal["node"],
            &refusal["count"]
        ),
        (
            &json!("lookup"),
            &json!("not_allowed"),
            &json!("api"),
            &json!(3)
        )
    );
    for time in [
        &refusal["first"],
        &refusal["last"],
        &told["registrations"][0]["since"],
    ] {
        let time = time.as_str().expect("a time");
        assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    }
    assert_eq!(
        told["limits"]["connections"],
        json!({"used": 0, "limit": 77})
    );
    assert_eq!(told["limits"]["registrations"]["used"], 2);
    assert!(told["limits"]["descriptors"]["used"].as_u64() > Some(2));
    assert_eq!(told["answered"], json!([member.v4().to_string()]));

    let text = status(&server, &[]).stdout;
    for words in [
        "listening on 0.0.0.0:4369, [::]:4369\n",
        "connections: 0 of 77\n",
        "lookup of \"api\"  not_allowed",
    ] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
}

#[test]
fn without_a_daemon_the_status_says_so() {
    let host = lone_host();
    let output = status(&host, &[]);
    assert_eq!((output.status, output.stdout.as_str()), (Some(1), ""));
    assert!(output.stderr.contains(SOCKET), "{output:?}");
}

#[test]
fn the_control_socket_is_for_root_and_the_daemons_own_user() {
    let host = lone_host();
    let _service = Service::start(&host, "");
    let other = |host: &Host| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--clear-groups"]);
        command.arg(Epmd::Ours.path()).args(["-status", "-json"]);
        host.run(&mut command)
    };
    host.enter(|| {
        let socket = std::fs::metadata(SOCKET).expect("a control socket");
        assert!(socket.file_type().is_socket());
        assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    });
    let output = other(&host);
    assert_eq!((output.status, output.stdout.as_str()), (Some(1), ""));
    // Whatever the mode.
    host.enter(|| {
        std::fs::set_permissions(SOCKET, std::fs::Permissions::from_mode(0o666))
            .expect("another mode");
    });
    let output = other(&host);
    assert_eq!(
        (output.status, output.stdout.as_str()),
        (Some(1), ""),
        "{output:?}"
    );
    status_json(&host);
}

#[test]
fn clients_that_say_nothing_or_nonsense_hold_nobody_up() {
    let host = lone_host();
    let service = Service::start(&host, "");
    let _name = service.hold("api");
    let _silent: Vec<_> = host.enter(|| (0..8).map(|_| UnixStream::connect(SOCKET)).collect());
    let answer = host.enter(|| {
        let mut client = UnixStream::connect(SOCKET).expect("the control socket");
        client
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .expect("to be read");
        let mut answer = Vec::new();
        // Closed with bytes unread: either is an end.
        let _ = client.read_to_end(&mut answer);
        answer
    });
    assert_eq!(answer, b"");
    let began = Instant::now();
    status_json(&host);
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(service.ask(b"zapi"), found("api"));
}

#[test]
fn a_dead_daemons_socket_is_replaced_and_a_live_ones_is_left_alone() {
    let host = lone_host();
    let mut first = Service::start(&host, "");
    first.signal(Signal::SIGKILL);
    first.status();
    let _second = Service::start(&host, "");
    let answering = status_json(&host)["pid"].clone();
    let third = Launch::on(&host).arguments(&["-port", "4370"]).start();
    third.wait_until_said("no control socket at /run/epmd/control.sock");
    assert_eq!(status_json(&host)["pid"], answering);
}

/// Asks the exporter, if it is there, for a path.
fn get(host: &Host, path: &str) -> Option<String> {
    let mut stream = host
        .enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, METRICS_PORT)))
        .ok()?;
    stream
        .set_read_timeout(Some(common::PATIENCE))
        .expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: epmd\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The exporter's page, waited for.
fn metrics(host: &Host) -> String {
    let answer = wait_for("the exporter", || get(host, "/metrics"));
    let (head, page) = answer.split_once("\r\n\r\n").expect("a head and a page");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    page.to_owned()
}

#[test]
fn prometheus_reads_the_counters() {
    let [server, stranger] = network(["server", "stranger"]);
    let service = Service::start(&server, METRICS);
    let _name = service.hold("api");
    service.ask(b"zapi");
    service.ask(b"znobody");
    stranger.ask(server.v4(), b"n");
    // A request is counted just behind its connection's end, so that the last may come a moment later.
    let lines = [
        "epmd_requests_total{operation=\"lookup\",outcome=\"unknown\"} 1",
        "epmd_requests_total{operation=\"register\",outcome=\"answered\"} 1",
        "epmd_requests_total{operation=\"list\",outcome=\"refused\"} 1",
        "epmd_refused_total{operation=\"list\",reason=\"not_allowed\"} 1",
        "epmd_registered_nodes 1",
        "epmd_open_connections 0",
    ];
    let page = wait_for("all of these counts", || {
        let page = metrics(&server);
        let told = |line: &&str| page.lines().any(|l| l == *line);
        lines.iter().all(told).then_some(page)
    });
    for name in [
        "epmd_descriptors{state=\"used\"} ",
        "epmd_descriptors{state=\"limit\"} ",
        "process_resident_memory_bytes ",
    ] {
        assert!(
            page.lines().any(|l| l.starts_with(name)),
            "{name} in {page}"
        );
    }
    // Also where /proc/stat can't be read, as in the unit's sandbox.
    let started = page
        .lines()
        .find_map(|l| l.strip_prefix("process_start_time_seconds "));
    assert!(
        started.and_then(|s| s.parse().ok()) > Some(1.7e9),
        "{started:?}"
    );
    let dashboard = include_str!("../docs/grafana.json");
    for name in dashboard.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        // What the watch has, its own test looks at.
        let ours = name.starts_with("epmd_") && !name.starts_with("epmd_peer_");
        let ours = ours || name.starts_with("process_");
        assert!(
            !ours || page.contains(&format!("# TYPE {name} ")),
            "the dashboard shows {name}"
        );
    }
    assert!(
        get(&server, "/")
            .expect("an answer")
            .starts_with("HTTP/1.1 404")
    );
    let file = server.file("metrics");
    std::fs::write(&file, &page).expect("a file");
    let mut promtool = Command::new("sh");
    promtool
        .args(["-c", "promtool check metrics <\"$0\""])
        .arg(&file);
    let checked = server.run(&mut promtool);
    assert_eq!(
        checked,
        Output::new(0, "", ""),
        "promtool (Debian package prometheus) finds fault"
    );
}

#[test]
fn a_flooded_exporter_slows_no_lookup() {
    let host = lone_host();
    let service = Service::start(&host, METRICS);
    let _name = service.hold("api");
    metrics(&host);
    let mut silent: Vec<_> = host.enter(|| {
        // Fewer than its queue takes: who comes then has to try again.
        (0..100)
            .filter_map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, METRICS_PORT)).ok())
            .collect()
    });
    for (number, stream) in silent.iter_mut().enumerate() {
        // Some say nothing at all, some begin.
        if number % 2 == 0 {
            let _ = stream.write_all(b"GET /metr");
        }
    }
    for _ in 0..200 {
        let began = Instant::now();
        assert_eq!(service.ask(b"zapi"), found("api"));
        assert!(began.elapsed() < SLOWEST, "{:?}", began.elapsed());
    }
    let used = status_json(&host)["limits"]["descriptors"]["used"].as_u64();
    assert!(
        used < Some(60),
        "the exporter's connections are few: {used:?}"
    );
    drop(silent);
    metrics(&host);
}

#[test]
fn an_exporters_address_that_is_taken_is_tried_again_and_epmd_is_served_meanwhile() {
    let host = lone_host();
    let holder = host.enter(|| {
        std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, METRICS_PORT)).expect("a free port")
    });
    let service = Service::start(&host, METRICS);
    let _name = service.hold("api");
    service.wait_until_said("metrics.listen: can't listen on 127.0.0.1:9436");
    assert_eq!(service.ask(b"zapi"), found("api"));
    drop(holder);
    service.wait_until_said("metrics at http://127.0.0.1:9436/metrics");
    metrics(&host);
    service.reload("");
    wait_for("the exporter to be gone", || {
        get(&host, "/metrics").is_none().then_some(())
    });
    service.reload(METRICS);
    metrics(&host);
    let at: IpAddr = Ipv4Addr::LOCALHOST.into();
    assert_eq!(host.ask(at, b"zapi"), found("api"));
}

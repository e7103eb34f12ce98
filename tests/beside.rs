//! Living beside stock epmd: a release that brings its own does not disturb ours, and nodes of a
//! stock epmd that was stopped come to ours by themselves.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::binary::{Epmd, Output};
use common::erl::Erl;
use common::host::process;
use common::netns::{Host, lone_host};
use common::service::Service;
use common::wait_for;
use common::wire::Answer;

/// How soon nodes are to be back. OTP's own try again every two seconds, from OTP 24 on.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// The processes called epmd on the host of the process `of`.
fn epmds(of: u32) -> Vec<u32> {
    let network = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let here = network(of);
    process::all()
        .into_iter()
        .filter(|pid| process::name(*pid) == "epmd" && network(*pid) == here)
        .filter(|pid| !process::is_over(*pid))
        .collect()
}

/// Waits until our epmd is the only one on its host: a release's own may take a moment to find out
/// that the port is taken.
fn wait_until_alone(service: &Service<'_>) {
    wait_for("the release's epmd to end", || {
        (epmds(service.pid()) == [service.pid()]).then_some(())
    });
}

/// The names that the epmd of this host lists, sorted.
fn names(host: &Host) -> Vec<String> {
    let Ok(stream) = host.try_connect([127, 0, 0, 1].into()) else {
        return Vec::new();
    };
    let Answer::Bytes(answer) = common::wire::ask(stream, b"\0\x01n") else {
        return Vec::new();
    };
    let lines = String::from_utf8(answer[4..].to_vec()).unwrap();
    let mut names: Vec<_> = lines
        .lines()
        .map(|line| line.split(' ').nth(1).unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// `erl` as it comes: with a name, it runs the epmd of its own release with `-daemon` first.
#[test]
fn a_release_that_brings_its_own_epmd_uses_ours() {
    let host = lone_host();
    let mut service = Service::start(&host, "");
    let listeners = service.listeners();
    let mut first = Erl::named(&host, "first@alone.test", &["-start_epmd", "true"]);
    let _second = Erl::named(&host, "second@alone.test", &["-start_epmd", "true"]);
    assert_eq!(first.eval("net_adm:ping('second@alone.test')"), "pong");
    wait_until_alone(&service);
    assert_eq!(service.listeners(), listeners);
    assert_eq!(service.ended(), None);
    assert_eq!(names(&host), ["first", "second"]);
}

/// The same by hand, as start scripts do: in silence, with status 0, and again and again.
#[test]
fn stocks_daemon_leaves_the_port_to_ours() {
    let host = lone_host();
    let mut service = Service::start(&host, "");
    let _holder = service.hold("api");
    for _ in 0..5 {
        let mut command = Epmd::Stock.command();
        let output = host.run(command.arg("-daemon"));
        assert_eq!(output, Output::new(0, "", ""));
    }
    wait_until_alone(&service);
    assert_eq!(service.ended(), None);
    assert_eq!(names(&host), ["api"]);
}

/// Stock epmd on a host; dropping it ends it.
struct Stock(Child);

impl Stock {
    fn start(host: &Host) -> Self {
        let mut command = Epmd::Stock.command();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let stock = Self(host.spawn(&mut command));
        wait_for("stock epmd to answer", || {
            host.try_connect([127, 0, 0, 1].into()).ok()
        });
        stock
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nodes_of_a_stock_epmd_that_was_stopped_are_back_within_five_seconds() {
    const NODES: [&str; 3] = ["api", "billing", "console"];
    let host = lone_host();
    let stock = Stock::start(&host);
    let mut nodes = NODES.map(|name| Erl::named(&host, &format!("{name}@alone.test"), &[]));
    assert_eq!(names(&host), NODES);
    let known = |node: &mut Erl| node.eval("net_adm:ping('api@alone.test')");
    assert_eq!(nodes.each_mut().map(known), ["pong"; 3]);
    let mut see = |others: usize| {
        let count = others.to_string();
        wait_for("all nodes to see the others", || {
            let all = nodes.iter_mut().map(|node| node.eval("length(nodes())"));
            all.into_iter().all(|seen| seen == count).then_some(())
        });
    };
    see(2);

    drop(stock);
    let service = Service::start(&host, "");
    let begin = Instant::now();
    wait_for("the nodes to register", || {
        (names(&host) == NODES).then_some(())
    });
    assert!(begin.elapsed() <= BACK_WITHIN, "{:?}", begin.elapsed());
    // Nobody was disconnected, and a new one finds them.
    let mut newcomer = Erl::named(&host, "new@alone.test", &[]);
    assert_eq!(known(&mut newcomer), "pong");
    see(3);
    service.assert_alive();
}

/// What a container image does whose entry point runs stock's epmd in the foreground: it is told to
/// go, and says nothing.
#[test]
fn a_stock_epmd_in_the_foreground_ends_beside_ours() {
    let host = lone_host();
    let service = Service::start(&host, "");
    let mut command = Command::new(Epmd::Stock.path());
    assert_eq!(host.run(command.env_clear()), Output::new(0, "", ""));
    service.assert_alive();
}

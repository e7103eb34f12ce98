//! What lasts, and what does not: restarts and kills of daemon, guard and nodes, and what others do.

use nix::sys::signal::Signal;

use super::common::erl::Erl;
use super::common::netns::network;
use super::common::service::{Launch, Service};
use super::common::wait_for;
use super::{Met, Stand, TABLE, epmd, file, guard, meet, nft, rules, status, unasked, until_met};

#[test]
fn the_rules_outlast_daemon_and_guard_and_go_with_the_nodes_sockets() {
    let [api, stranger] = network(["api", "stranger"]);
    let config = file("allow = []");
    let mut service = Service::start(&api, &config);
    let mut node = Erl::named(&api, "api@api.test", &[]);
    let (first, mut last) = (guard(&api, &config), None);
    let names = epmd(&api, &["-names"]).stdout;
    let port: u16 = names.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let to = (api.v4(), port);
    until_met(&stranger, to, Met::Reset);

    // The daemon is killed: the port stays guarded, also when the next one knows no name yet.
    service.signal(Signal::SIGKILL);
    service.status();
    first.wait_until_said("the rules stay as they are");
    assert_eq!(meet(&stranger, to), Met::Reset);
    let second = Service::start(&api, &config);
    first.wait_until_said("the daemon answers again");
    assert_eq!(meet(&stranger, to), Met::Reset);
    assert_eq!(node.eval("1 + 1"), "2");

    // The guard is killed: what it made stays, and the next one goes on from it.
    let handle = nft(&api, &format!("-a list chain {TABLE} input")).stdout;
    first.signal(Signal::SIGKILL);
    drop(first);
    assert_eq!(meet(&stranger, to), Met::Reset);
    for _ in 0..2 {
        last = None;
        last.replace(guard(&api, &config));
        assert_eq!(meet(&stranger, to), Met::Reset);
    }
    assert_eq!(
        nft(&api, &format!("list chain {TABLE} input"))
            .stdout
            .lines()
            .count(),
        handle.lines().count()
    );

    // The daemon is gone for good, then the node.
    drop(second);
    let guard = last.unwrap();
    guard.wait_until_said("the rules stay as they are");
    assert_eq!(meet(&stranger, to), Met::Reset);
    drop(node);
    wait_for("the port to be forgotten", || {
        (!rules(&api).contains("user 0: api")).then_some(())
    });
}

#[test]
fn it_takes_its_table_away_when_it_is_ended_and_no_other() {
    let [api, stranger] = network(["api", "stranger"]);
    let config = file("allow = []");
    api.nft("table inet mine {\n set s {\n type inet_service\n elements = { 7 }\n }\n}\ntable ip hardened_epmd {\n}\n");
    let before = nft(&api, "list ruleset");
    let service = Service::start(&api, &config);
    let node = Stand::up(&api, &service, "api", "0.0.0.0:0");
    let mut guard = guard(&api, &config);
    assert_eq!(meet(&stranger, node.at(api.v4())), Met::Reset);
    guard.signal(Signal::SIGTERM);
    assert_eq!(guard.status().code(), Some(0), "{}", guard.said());
    assert_eq!(nft(&api, "list ruleset"), before);
    assert_eq!(meet(&stranger, node.at(api.v4())), Met::Accepted);
    let status = status(&api);
    assert!(status["guard"].is_null(), "{status}");
}

#[test]
fn a_second_guard_says_so_and_ends() {
    let [api] = network(["api"]);
    let config = file("allow = []");
    let service = Service::start(&api, &config);
    let first = guard(&api, &config);
    let mut second = unasked(&api, &config);
    assert_eq!(second.status().code(), Some(1));
    let said = second.said();
    assert!(
        said.contains("another guard keeps these rules already"),
        "{said}"
    );
    assert!(
        rules(&api).contains("hook input"),
        "it took away what is not its own"
    );
    drop((first, service));
}

#[test]
fn what_others_do_to_the_table_is_noticed_and_mended() {
    let [api, stranger] = network(["api", "stranger"]);
    let config = file("allow = []");
    let service = Service::start(&api, &config);
    let node = Stand::up(&api, &service, "api", "0.0.0.0:0");
    let guard = guard(&api, &config);
    let to = node.at(api.v4());
    for (number, (words, said)) in [
        ("flush ruleset", "was gone, or a part of it"),
        (
            "flush chain inet hardened_epmd enforce",
            "somebody else has changed the rules",
        ),
        (
            "flush table inet hardened_epmd",
            "somebody else has changed the rules",
        ),
        (
            "delete table inet hardened_epmd",
            "was gone, or a part of it",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(meet(&stranger, to), Met::Reset, "before {words}");
        assert_eq!(nft(&api, words).status, Some(0), "{words}");
        until_met(&stranger, to, Met::Reset);
        wait_for(words, || {
            (guard.said().matches("it is made anew").count() > number).then_some(())
        });
        assert!(guard.said().contains(said), "{words}: {}", guard.said());
        wait_for("all to be as it should be", || {
            (epmd(&api, &["-guard", "-check"]).status == Some(0)).then_some(())
        });
    }
    // What it does not look at every second, -check sees.
    assert_eq!(
        nft(&api, &format!("add element {TABLE} allow4 {{ 0.0.0.0/0 }}")).status,
        Some(0)
    );
    let check = epmd(&api, &["-guard", "-check"]);
    assert_eq!(check.status, Some(1), "{check:?}");
    assert!(
        check
            .stdout
            .contains("set allow4 holds 1 ranges; expected 0"),
        "{check:?}"
    );
}

#[test]
fn whoever_follows_is_root_or_the_daemons_user() {
    let [api] = network(["api"]);
    let service = Launch::on(&api).config(&file("allow = []")).start();
    let follow = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect('/run/epmd/control.sock')\n\
                  s.sendall(b'follow\\n')\nsys.stdout.write(s.makefile().readline())";
    let mut as_root = std::process::Command::new("/usr/bin/python3");
    let told = api.run(as_root.args(["-c", follow]));
    assert!(
        told.stdout.starts_with("{\"state\":{\"version\":"),
        "{told:?}"
    );
    api.enter(|| {
        use std::os::unix::fs::PermissionsExt as _;
        let all = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions("/run/epmd/control.sock", all).unwrap();
    });
    let mut as_other = std::process::Command::new("setpriv");
    as_other.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "/usr/bin/python3",
        "-c",
        follow,
    ]);
    let told = api.run(&mut as_other);
    assert_eq!(told.stdout, "", "{told:?}");
    service.assert_alive();
}

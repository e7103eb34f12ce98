//! Socket activation, by our socket unit and by one as Debian's.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use nix::libc;

use super::common::host::process;
use super::common::nspawn::Neighbour;
use super::common::wire::{Answer, Node, lookup_answer};
use super::common::{connect, crowd};
use super::{PORT, Service, at, hold, local, lookup, on_a_host, unknown};

/// How many connections may wait to be accepted.
const ROOM: usize = 4;

/// Where Debian's erlang-base has it, in Debian 12 and 13.
const DEBIANS: [&str; 2] = [
    "/lib/systemd/system/epmd.socket",
    "/usr/lib/systemd/system/epmd.socket",
];

/// The daemon's listening sockets: flags of their descriptors.
fn listening(service: &Service<'_>) -> Vec<u32> {
    let pid = service.daemon();
    let mut inodes = Vec::new();
    for table in ["tcp", "tcp6"] {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).expect("a table");
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[3] == "0A" {
                inodes.push(format!("socket:[{}]", fields[9]));
            }
        }
    }
    let all = process::descriptors(pid);
    let listeners = all
        .iter()
        .filter(|(_, target)| inodes.iter().any(|it| target == Path::new(it)));
    listeners
        .map(|(number, _)| {
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).expect("flags");
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            u32::from_str_radix(flags.expect("flags").trim(), 8).expect("a number")
        })
        .collect()
}

/// Fails unless each listening socket is non-blocking, as a unit's have to be: process 1 takes connections from
/// them as well, and where one is gone before it is accepted, whoever comes second would wait.
fn assert_non_blocking(service: &Service<'_>) {
    let flags = listening(service);
    assert!(!flags.is_empty());
    for flags in flags {
        assert_ne!(flags & libc::O_NONBLOCK.cast_unsigned(), 0, "{flags:o}");
    }
}

/// Registers, restarts and kills the daemon, and looks the name up after each.
fn survives(service: &Service<'_>) {
    let node = Node::new("api");
    let _holder = hold(&node);
    let found = || Answer::Bytes(lookup_answer(Some(&node)));
    assert_eq!(lookup(local(), "api"), found());
    let sockets = listening(service).len();
    service.systemctl("restart");
    assert_eq!(lookup(local(), "api"), found(), "after a restart");
    let before = service.kill_daemon();
    assert_eq!(lookup(local(), "api"), found(), "after a kill");
    service.daemon_after(before);
    assert_eq!(listening(service).len(), sockets);
}

/// Fails unless this host's connections have a queue of their own, whoever else waits.
fn assert_own_queue(service: &Service<'_>, neighbour: &Neighbour, when: &str) {
    let here: IpAddr = neighbour.host().parse().expect("an address");
    let connected = process::paused(service.daemon(), || {
        let strangers = neighbour.there(|| crowd(here, PORT, ROOM));
        (local(), connect(here, PORT), strangers)
    });
    assert_eq!(lookup(connected.0, "none"), unknown(), "{when}");
    assert_eq!(lookup(connected.1, "none"), unknown(), "{when}");
}

/// Of the two sockets of an address both are kept, and they are none the more for a restart.
#[test]
fn this_hosts_queue_outlives_the_daemon() {
    on_a_host(|service| {
        let neighbour = service.neighbour(1);
        fs::write("/proc/sys/net/core/somaxconn", ROOM.to_string()).expect("a setting");
        service.systemctl("start");
        assert_own_queue(service, &neighbour, "after the start");
        survives(service);
        assert_own_queue(service, &neighbour, "after a restart and a kill");
    });
}

#[test]
fn it_is_started_by_the_first_connection() {
    on_a_host(|service| {
        let neighbour = service.neighbour(1);
        service.must("systemctl start hardened-epmd.socket");
        assert_eq!(service.property("ActiveState"), "inactive");
        assert_eq!(lookup(local(), "api"), unknown());
        assert_eq!(service.property("ActiveState"), "active");
        service.wait_for_message("listening on 0.0.0.0:4369, [::]:4369\n");
        assert_non_blocking(service);
        assert_eq!(
            lookup(neighbour.connect(&neighbour.host(), PORT), "api"),
            Answer::Nothing
        );
        survives(service);
    });
}

/// Debian's socket unit listens everywhere, for both families at once, and blocking; its users
/// complain that ERL_EPMD_ADDRESS does nothing.
#[test]
fn under_a_socket_unit_as_debians_the_named_addresses_are_served() {
    on_a_host(|service| {
        let debians = DEBIANS.map(|path| fs::read(service.path(path)).ok());
        let debians = debians.into_iter().flatten().next();
        let debians = debians.expect("epmd.socket of the package erlang-base");
        service.write("/etc/systemd/system/hardened-epmd.socket", debians);
        service.must("systemctl daemon-reload");
        let (named, other) = (service.neighbour(1), service.neighbour(2));
        service.write(
            "/etc/default/epmd",
            format!(
                "ERL_EPMD_ADDRESS={}\nEPMD_ALLOW=10.77.0.0/16\n",
                named.host()
            ),
        );
        service.must("systemctl start hardened-epmd.socket");
        let node = Node::new("api");
        {
            let _holder = hold(&node);
            let found = || Answer::Bytes(lookup_answer(Some(&node)));
            assert_eq!(lookup(local(), "api"), found());
            assert_eq!(lookup(at("::1"), "api"), found());
            assert_eq!(lookup(at("127.0.1.1"), "api"), found());
            assert_eq!(lookup(named.connect(&named.host(), PORT), "api"), found());
            assert_eq!(
                lookup(other.connect(&other.host(), PORT), "api"),
                Answer::Nothing
            );
            assert_non_blocking(service);
        }
        let refusal = format!(
            "EPMD_REASON=address_not_served EPMD_PEER={} EPMD_LOCAL={}",
            other.own(),
            other.host()
        );
        super::common::wait_for("the refusal", || {
            let lines = service.must(&format!(
                "journalctl --no-pager -o cat -u hardened-epmd.service {refusal}"
            ));
            (lines.lines().count() == 1).then_some(())
        });
        // A node's name is free once its connection's end is seen.
        super::common::wait_for("the name to be free", || {
            (lookup(local(), "api") == unknown()).then_some(())
        });
        survives(service);
    });
}

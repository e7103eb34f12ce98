//! The start, the process, the sandbox, the watchdog.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use hardened_epmd::config::Limits;
use hardened_epmd::daemon::log::{
    REACHABLE_MESSAGE_ID, REFUSED_MESSAGE_ID, TAKEN_MESSAGE_ID, UNREACHABLE_MESSAGE_ID,
};
use hardened_epmd::daemon::server::budget::Budget;
use hardened_epmd::exit::Exit;

use super::common::PATIENCE;
use super::common::binary::{Epmd, finish};
use super::common::host::process;
use super::common::wire::Answer;
use super::common::wire::{Node, lookup_answer};
use super::{Service, hold, local, lookup, on_a_host, signal};

/// Tenths: what `systemd-analyze security` may give at most, of 100.
const MOST_EXPOSED: &str = "11";

#[test]
fn it_starts_says_so_and_has_no_rights() {
    on_a_host(|service| {
        assert_eq!(
            service.must("systemd-analyze verify --man=no hardened-epmd.service hardened-epmd.socket epmd.service 2>&1"),
            ""
        );
        service.systemctl("start");
        // Type=notify: it serves once `start` returns.
        let node = Node::new("api");
        let _holder = hold(&node);
        assert_eq!(
            lookup(local(), "api"),
            Answer::Bytes(lookup_answer(Some(&node)))
        );

        service.wait_for_message("listening on 0.0.0.0:4369, [::]:4369\n");
        service.wait_for_message("serving this host alone\n");
        let status = service.must("systemctl status --no-pager --full hardened-epmd.service");
        for part in [
            "Active: active (running)",
            "Status: \"",
            "/usr/bin/epmd -systemd",
        ] {
            assert!(status.contains(part), "{part}: {status}");
        }
        assert_eq!(
            service.must("epmd -names"),
            "epmd: up and running on port 4369 with data:\nname api at port 4711\n"
        );
        rights(service);
        sandbox(service);
        control_socket(service);
    });
}

/// The daemon's user namespace knows root, so that root is let in.
fn control_socket(service: &Service<'_>) {
    let mut socket =
        UnixStream::connect(service.path("/run/epmd/control.sock")).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.write_all(b"status\n").expect("asked");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    let status: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(status["registrations"][0]["name"], "api", "{answer}");
    let refused = service.run(&[
        "setpriv",
        "--reuid=nobody",
        "--clear-groups",
        "ls",
        "/run/epmd",
    ]);
    assert_eq!(refused.status, Some(2), "{refused:?}");
}

/// What the kernel says of the process.
fn rights(service: &Service<'_>) {
    let user = service.must("id -u epmd");
    let user = user.trim_end();
    assert_ne!(user, "0");
    assert_eq!(service.status_field("Uid"), [user; 4].join("\t"));
    let none = "0000000000000000";
    for (field, value) in [
        ("Name", "epmd"),
        ("CapInh", none),
        ("CapPrm", none),
        ("CapEff", none),
        ("CapBnd", none),
        ("CapAmb", none),
        ("NoNewPrivs", "1"),
        // A filter is in force.
        ("Seccomp", "2"),
        ("Umask", "0077"),
    ] {
        assert_eq!(service.status_field(field), value, "{field}");
    }
    // Whether it has come to the process depends on what this machine lets its root do.
    assert_eq!(service.property("OOMScoreAdjust"), "-900");
}

/// What systemd says of the unit, and what the process finds where it is.
fn sandbox(service: &Service<'_>) {
    service.must(&format!(
        "systemd-analyze security --no-pager --threshold={MOST_EXPOSED} hardened-epmd.service"
    ));
    let pid = service.daemon();
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).expect("mounts");
    let options = |place: &str| -> BTreeSet<&str> {
        let mut lines = mounts.lines();
        let last = lines.rfind(|line| line.split(' ').nth(1) == Some(place));
        let options = last.and_then(|line| line.split(' ').nth(3));
        options.unwrap_or_default().split(',').collect()
    };
    for (place, wanted) in [
        ("/", &["ro", "noexec"][..]),
        ("/usr", &["ro"]),
        ("/home", &["ro", "noexec"]),
        ("/dev/shm", &["ro", "noexec"]),
        ("/run", &["ro", "noexec"]),
        ("/run/lock", &["ro", "noexec"]),
        ("/var/tmp", &["rw", "noexec"]),
        ("/tmp", &["rw", "noexec"]),
        ("/run/epmd", &["rw", "noexec"]),
        ("/sys/fs/cgroup", &["ro"]),
        ("/proc", &["hidepid=invisible", "subset=pid"]),
    ] {
        for option in wanted {
            assert!(
                options(place).contains(option),
                "{place} is not {option}:\n{mounts}"
            );
        }
    }
    assert!(
        !options("/usr").contains("noexec"),
        "a program of the host can be run"
    );
}

/// A daemon that answers nobody is ended by systemd, and the next one has all names.
#[test]
fn a_daemon_that_hangs_is_replaced() {
    on_a_host(|service| {
        service.systemctl("start");
        assert_eq!(service.property("WatchdogUSec"), "30s");
        service.drop_in("[Service]\nWatchdogSec=1s\n");
        service.systemctl("restart");
        let node = Node::new("api");
        let _holder = hold(&node);
        let pid = service.daemon();
        signal(pid, Signal::SIGSTOP);
        let next = service.daemon_after(pid);
        assert!(process::is_over(pid));
        assert_eq!(
            lookup(local(), "api"),
            Answer::Bytes(lookup_answer(Some(&node)))
        );
        // It says that it is alive, or it would be ended as well.
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert_eq!(service.daemon(), next);
        assert_eq!(service.property("Result"), "success");
    });
}

/// What the unit says in numbers is what the daemon goes by.
#[test]
fn the_unit_agrees_with_the_daemon() {
    let unit = include_str!("../../systemd/hardened-epmd.service");
    let value = |name: &str| {
        let line = unit
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name}"))
            .parse::<usize>()
            .expect("a number")
    };
    let limits = Limits::default();
    let budget = Budget::beside(&limits, value("LimitNOFILE"), 4, true);
    assert_eq!(budget.shortfall(&limits), None);
    assert!(value("LimitNOFILE") > 2 * limits.registrations + limits.connections);
    assert!(value("LimitNOFILE") > value("FileDescriptorStoreMax") * 3 / 2);
    assert_eq!(value("RestartPreventExitStatus"), Exit::Config as usize);
    let catalogue = include_str!("../../systemd/epmd.catalog");
    for id in [
        REFUSED_MESSAGE_ID,
        TAKEN_MESSAGE_ID,
        UNREACHABLE_MESSAGE_ID,
        REACHABLE_MESSAGE_ID,
    ] {
        assert!(catalogue.contains(&format!("\n-- {id}\n")));
    }
}

/// The example of /etc/default/epmd, with every line in force.
#[test]
fn the_example_of_the_environment_is_good() {
    let example = include_str!("../../systemd/default-epmd");
    let mut check = Epmd::Ours.command();
    for line in example.lines() {
        let line = line.trim_start_matches('#');
        if let Some((name, value)) = line.split_once('=') {
            check.env(name, value);
        }
    }
    let output = finish(check.arg("-check_config"));
    assert_eq!(output.status, Some(0), "{output:?}");
    for part in [
        "listen: 10.0.3.5, and",
        "access.allow: this host, 10.0.3.0/24, fd00:3::/64",
    ] {
        assert!(output.stdout.contains(part), "{part}: {output:?}");
    }
}

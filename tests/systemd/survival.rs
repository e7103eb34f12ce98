//! What restarts and kills cost: nothing.

use std::io::Write;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::common::host::process;
use super::common::wait_for;
use super::common::wire::Node;
use super::load::{Nodes, Tally, under_load};
use super::{Service, local, long, on_a_host, program, signal};
use hardened_epmd::daemon::server::budget::raise_descriptor_limit;

/// How long a lookup may take at most while the daemon is restarted.
const UNNOTICED: Duration = Duration::from_millis(250);

/// A way for the daemon to end, and how many of the lookups that it has accepted may end with it.
struct Way {
    name: &'static str,
    most_cut: u64,
    act: fn(&Service<'_>),
}

const WAYS: [Way; 5] = [
    Way {
        name: "restart",
        most_cut: 0,
        act: |service| service.systemctl("restart"),
    },
    Way {
        name: "a new binary",
        most_cut: 0,
        act: |service| {
            // What stands behind the end of a program is not looked at.
            let new = [&program()[..], b"new"].concat();
            service.install(&new, "/usr/bin/epmd");
            service.must("systemctl daemon-reload && systemctl restart hardened-epmd.service");
        },
    },
    Way {
        name: "SIGKILL",
        most_cut: 1,
        act: |service| signal(service.daemon(), Signal::SIGKILL),
    },
    Way {
        name: "SIGSEGV",
        most_cut: 1,
        act: |service| {
            let daemon = service.daemon();
            // Rust's handler lets the first one pass: a real one comes again at once.
            wait_for("a crash", || {
                let sent = kill(Pid::from_raw(daemon.cast_signed()), Signal::SIGSEGV);
                (sent.is_err() || process::is_over(daemon)).then_some(())
            });
        },
    },
    Way {
        name: "SIGKILL after daemon-reexec",
        most_cut: 1,
        act: |service| {
            service.must("systemctl daemon-reexec");
            signal(service.daemon(), Signal::SIGKILL);
        },
    },
];

/// Has the daemon end in this way under load, and fails unless the next one has everything.
fn pass(service: &Service<'_>, nodes: &Nodes, way: &Way) -> Tally {
    let before = service.daemon();
    let tally = under_load(nodes, || {
        (way.act)(service);
        service.daemon_after(before);
    });
    println!("{}: {tally:?}", way.name);
    assert_eq!(nodes.lost(), 0, "{}", way.name);
    assert!(nodes.are_all(), "{}", way.name);
    assert_eq!(
        (tally.refused, tally.missed),
        (0, 0),
        "{}: {tally:?}",
        way.name
    );
    assert!(tally.cut <= way.most_cut, "{}: {tally:?}", way.name);
    tally
}

#[test]
fn every_way_to_end_loses_nothing() {
    on_a_host(|service| {
        service.systemctl("start");
        let nodes = Nodes::register("n", 500);
        for _ in 0..if long() { 20 } else { 1 } {
            for way in &WAYS {
                if way.most_cut == 0 {
                    restart_unnoticed(service, &nodes, way);
                } else {
                    pass(service, &nodes, way);
                }
            }
        }
    });
}

/// Restarts the daemon under load until the longest lookup has stayed below [`UNNOTICED`]: a machine
/// that is busy with other things may need several attempts.
fn restart_unnoticed(service: &Service<'_>, nodes: &Nodes, way: &Way) {
    const ATTEMPTS: usize = 10;
    let mut longest = Vec::new();
    for _ in 0..ATTEMPTS {
        longest.push(pass(service, nodes, way).longest);
        if longest.last() < Some(&UNNOTICED) {
            return;
        }
    }
    panic!("{}: the longest lookups took {longest:?}", way.name);
}

/// A connection that has sent half a request is nobody's reason to wait.
#[test]
fn half_a_request_does_not_hold_a_restart_up() {
    on_a_host(|service| {
        service.systemctl("start");
        let nodes = Nodes::register("n", 50);
        let mut half = local();
        half.write_all(&[0]).expect("sent");
        // TCP_DEFER_ACCEPT has it accepted by now: what comes later comes behind it in the queue.
        assert_eq!(nodes.lost(), 0);
        restart_unnoticed(service, &nodes, &WAYS[0]);
        drop(half);
    });
}

/// The node hears "ok", and that very instant the daemon dies.
#[test]
fn what_a_node_was_told_holds_after_a_kill() {
    on_a_host(|service| {
        service.systemctl("start");
        let kills = if long() { 30 } else { 8 };
        let mut nodes = Nodes::default();
        let mut daemon = service.daemon();
        for number in 0..kills {
            nodes.add(Node::new(format!("n{number}")));
            signal(daemon, Signal::SIGKILL);
            daemon = service.daemon_after(daemon);
        }
        assert_eq!(nodes.lost(), 0);
        assert!(nodes.are_all());
        for (property, value) in [
            ("ActiveState", "active"),
            ("Result", "success"),
            ("NRestarts", &*kills.to_string()),
        ] {
            assert_eq!(service.property(property), value, "{property}");
        }
    });
}

#[test]
fn the_longest_names_and_bytes_of_any_value_survive() {
    on_a_host(|service| {
        service.systemctl("start");
        let mut nodes = Nodes::default();
        let extra: Vec<u8> = (0..1020_u16).map(|n| n.to_be_bytes()[1]).collect();
        // More than fit into one drawer.
        for number in 0..200_u32 {
            let last = char::from_u32(0x1_F400 + number).expect("a character");
            let name = format!("{}{last}", "\u{1F98A}".repeat(254));
            nodes.add(
                Node::new(name)
                    .highest(5 + (number % 2) as u16)
                    .extra(&extra),
            );
        }
        nodes.add(Node::new("nul").extra([0; 1020]));
        for way in [&WAYS[2], &WAYS[0], &WAYS[2]] {
            pass(service, &nodes, way);
        }
    });
}

/// Process 1 compares each descriptor that it is given with all that it has.
#[test]
fn ten_thousand_registrations_survive_and_cost_process_1_little() {
    const COUNT: u16 = 10_000;
    const MOST: Duration = Duration::from_secs(1);
    let limit = raise_descriptor_limit();
    assert!(
        limit > usize::from(COUNT) + 500,
        "the limit of {limit} descriptors (ulimit -Hn) is too low for {COUNT} connections"
    );
    on_a_host(|service| {
        service.systemctl("start");
        let before = service.init_cpu();
        let nodes = Nodes::register("n", COUNT);
        service.systemctl("restart");
        let cpu = service.init_cpu() - before;
        println!(
            "{} registrations and a restart: {cpu:?} of process 1",
            nodes.len()
        );
        assert_eq!(nodes.lost(), 0);
        assert!(nodes.are_all());
        assert!(cpu < MOST, "{cpu:?}");
        pass(service, &nodes, &WAYS[2]);
        assert!(service.init_cpu() - before < MOST);
    });
}

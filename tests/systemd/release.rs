//! What goes when it should: dead nodes, released names, old creations.

use std::io::Write as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::SockRef;

use super::common::host::process;
use super::common::wait_for;
use super::common::wire::{Answer, Node, ask, frame, read_to_end};
use super::load::Nodes;
use super::{Service, hold, local, lookup, on_a_host, signal, unknown};

/// Nodes die while there is no epmd: their ends come to nobody's notice.
#[test]
fn names_of_dead_nodes_are_gone_within_two_seconds() {
    on_a_host(|service| {
        service.systemctl("start");
        let mut nodes = Nodes::register("n", 100);
        for end in [Signal::SIGKILL, Signal::SIGTERM] {
            let daemon = service.daemon();
            process::pause(daemon);
            for (number, stream) in nodes.take_half().into_iter().enumerate() {
                if number % 2 == 0 {
                    // Its close is a reset.
                    SockRef::from(&stream)
                        .set_linger(Some(Duration::ZERO))
                        .expect("a reset");
                }
            }
            signal(daemon, end);
            signal(daemon, Signal::SIGCONT);
            service.daemon_after(daemon);
            let start = Instant::now();
            wait_for("dead nodes' names to go", || nodes.are_all().then_some(()));
            assert!(
                start.elapsed() < Duration::from_secs(2),
                "{:?}",
                start.elapsed()
            );
            assert_eq!(nodes.lost(), 0);
        }
    });
}

/// systemd has duplicates of the connection; the node's end must not wait for them.
#[test]
fn a_released_nodes_connection_closes_at_once() {
    on_a_host(|service| {
        service.write("/etc/default/epmd", "ERL_EPMD_RELAXED_COMMAND_CHECK=true\n");
        service.systemctl("start");
        for restart in [false, true] {
            let (mut stream, _) = hold(&Node::new("api"));
            if restart {
                service.systemctl("restart");
                let before = service.kill_daemon();
                service.daemon_after(before);
            }
            let start = Instant::now();
            assert_eq!(
                ask(local(), &frame(b"sapi")),
                Answer::Bytes(b"STOPPED".to_vec())
            );
            assert_eq!(read_to_end(&mut stream), Answer::Nothing);
            assert!(
                start.elapsed() < Duration::from_millis(500),
                "{:?}",
                start.elapsed()
            );
            // Nor does the next daemon take it for one.
            service.systemctl("restart");
            assert_eq!(lookup(local(), "api"), unknown());
        }
    });
}

/// Anything that a node sends ends its registration, also while there is no epmd; the node has to hear of
/// it, or it believes to be registered for ever.
#[test]
fn a_node_that_sends_something_meanwhile_is_closed() {
    on_a_host(|service| {
        service.systemctl("start");
        let (mut stream, _) = hold(&Node::new("api"));
        let daemon = service.daemon();
        process::pause(daemon);
        stream.write_all(b"x").expect("sent");
        signal(daemon, Signal::SIGKILL);
        assert_eq!(lookup(local(), "api"), unknown());
        assert_eq!(read_to_end(&mut stream), Answer::Nothing);
    });
}

/// Nodes come and go for months: the store holds about as much as there is.
#[test]
fn the_store_does_not_grow_with_nodes_that_come_and_go() {
    const COME_AND_GO: usize = 4_000;
    const MOST_ENTRIES: usize = 40;
    on_a_host(|service| {
        service.systemctl("start");
        let nodes = Nodes::register("n", 50);
        for number in 0..COME_AND_GO {
            hold(&Node::new(format!("m{}", number % 10)));
        }
        wait_for("released names to go", || nodes.are_all().then_some(()));
        for _ in 0..2 {
            let before = service.kill_daemon();
            service.daemon_after(before);
            assert_eq!(nodes.lost(), 0);
            assert!(nodes.are_all());
            let entries: usize = service
                .property("NFileDescriptorStore")
                .parse()
                .expect("a number");
            assert!(entries < MOST_ENTRIES, "{entries}");
        }
    });
}

/// Registers the node and lets it go: when that is seen by a daemon, or when it dies.
fn creation(service: &Service<'_>, node: &Node, seen: bool) -> u32 {
    let (stream, creation) = hold(node);
    let daemon = service.daemon();
    if seen {
        drop(stream);
        wait_for("the name to be free", || {
            (lookup(local(), &node.name) == unknown()).then_some(())
        });
    } else {
        process::pause(daemon);
        drop(stream);
    }
    signal(daemon, Signal::SIGKILL);
    service.daemon_after(daemon);
    creation
}

/// Before version 6 a node has one of three creations.
#[test]
fn creations_do_not_repeat_over_restarts() {
    on_a_host(|service| {
        service.systemctl("start");
        for highest in [5, 6] {
            let node = Node::new(format!("v{highest}")).highest(highest);
            let mut last = 0;
            for number in 0..6 {
                let creation = creation(service, &node, number % 2 == 0);
                assert_ne!(creation, last, "version {highest}, number {number}");
                assert_eq!(creation > 3, highest == 6, "version {highest}: {creation}");
                last = creation;
            }
        }
    });
}

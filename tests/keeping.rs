//! Registrations and process 1: what is kept while it hears, and what goes on while it does not.
//!
//! With a service manager of the test's own; `systemd` has the real one.

mod common;

use std::time::{Duration, Instant};

use common::netns::lone_host;
use common::service::{Launch, Manager, found};
use common::wait_for;
use common::wire::{Node, Registered};
use nix::sys::signal::Signal;

/// However long process 1 does not read: no step of a request waits for it.
const SLOWEST: Duration = Duration::from_millis(500);

#[test]
fn a_process_1_that_does_not_read_holds_nobody_up() {
    const NAMES: usize = 1200;
    let host = lone_host();
    let manager = Manager::on(&host);
    let service = Launch::on(&host)
        .under(&manager)
        .variable("WATCHDOG_USEC", "100000")
        .start();
    manager.wait_until_told("READY=1");
    manager.stop_hearing();
    let mut held = Vec::new();
    for number in 0..NAMES {
        let start = Instant::now();
        held.push(service.hold(&format!("n{number}")));
        if number % 100 == 0 {
            service.signal(Signal::SIGHUP);
            assert_eq!(service.ask(b"zn0"), found("n0"));
        }
        assert!(start.elapsed() < SLOWEST, "{number}: {:?}", start.elapsed());
    }
    service.wait_until_said("registrations will not survive a restart: ");
    let said = |words| service.said().matches(words).count();
    assert_eq!(said("registrations will not survive"), 1, "told once");

    // It reads again: what was to be said and kept is.
    manager.wait_until_told("RELOADING=1");
    manager.wait_until_told("READY=1");
    manager.wait_until_told("FDNAME=drawer-2-out");
    manager.wait_until_told("WATCHDOG=1");
    // It goes on reading meanwhile, or it is full again.
    wait_for("all to be kept", || {
        manager.hear();
        let again = "registrations will survive a restart again";
        service.said().contains(again).then_some(())
    });
    assert_eq!(service.ask(b"zn1199"), found("n1199"));
    drop(held);
}

/// A node that is registered and can't be told so is told of: in the audit, as what was refused.
#[test]
fn a_local_registration_that_fails_is_told() {
    let host = lone_host();
    let service = Launch::on(&host)
        .config("[audit]\nformat = \"json\"\n")
        .wrapped(&[
            "strace",
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=epoll_ctl",
            "-e",
            "inject=epoll_ctl:error=ENOSPC:when=20+",
        ])
        .start();
    let refused = |number: &u32| {
        let node = Node::new(format!("n{number}"));
        service.register(&node).end == Registered::Closed
    };
    let failed = (0..40).find(refused);
    let number = failed.map_or_else(|| "none".to_owned(), |number| number.to_string());
    let event = format!("refused register of n{number} from 127.0.0.1: too_many");
    let told = service.expect_event(&event);
    let message = told["message"].to_string();
    assert!(message.contains("fs.epoll.max_user_watches"), "{message}");
}

//! This crate's epmd and stock epmd on one host: each one's commands understand the other's
//! daemon, and each leaves a port that the other holds alone.
//!
//! Needs all of them, whatever `EPMD_UNDER_TEST` says.

mod common;

use common::binary::{Epmd, Output};
use common::daemon::{Daemon, Setup};
use common::host::wait_until_settled;
use common::wire::masked;

/// The daemon of one, and the client of the other, both ways.
const PAIRS: [(Epmd, Epmd); 4] = [
    (Epmd::Stock, Epmd::Ours),
    (Epmd::Ours, Epmd::Stock),
    (Epmd::Stock29, Epmd::Ours),
    (Epmd::Ours, Epmd::Stock29),
];

fn relaxed(epmd: Epmd) -> Daemon {
    Setup::of(epmd)
        .arguments(&["-relaxed_command_check"])
        .start()
}

#[test]
fn each_ones_commands_understand_the_others_daemon() {
    for (epmd, client) in PAIRS {
        let mut daemon = relaxed(epmd);
        let _holders = [daemon.hold("api"), daemon.hold("ä")];
        let header = format!("epmd: up and running on port {} with data:\n", daemon.port);
        let names = header.clone() + "name ä at port 4711\nname api at port 4711\n";
        let dump = header.clone()
            + "active name     <ä> at port 4711, fd = N\n\0"
            + "active name     <api> at port 4711, fd = N\n\0";
        for (command, stdout) in [
            (&["-names"][..], &*names),
            (&["-dump"], &dump),
            (&["-started"], ""),
            (&["-stop", "api"], "STOPPED\n"),
            (&["-stop", "api"], "NOEXIST\n"),
            (&["-kill"], "Killed\n"),
        ] {
            let mut output = daemon.client_of(client, command);
            output.stdout = masked(&output.stdout);
            let expected = Output::new(0, stdout, "");
            assert_eq!(output, expected, "{client:?} to {epmd:?}: {command:?}");
        }
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

#[test]
fn each_ones_commands_understand_the_others_refusal() {
    for (epmd, client) in PAIRS {
        let daemon = Setup::of(epmd).start();
        let _holder = daemon.hold("api");
        for (command, stdout) in [
            (
                &["-kill"][..],
                "Killing not allowed - living nodes in database.\n",
            ),
            (&["-stop", "api"], "epmd: local epmd responded with <>\n"),
        ] {
            let output = daemon.client_of(client, command);
            assert_eq!(output, Output::new(1, stdout, ""), "{client:?} to {epmd:?}");
        }
    }
}

#[test]
fn each_leaves_a_port_that_the_other_holds_alone() {
    for (epmd, second) in PAIRS {
        let daemon = Setup::of(epmd).start();
        let _holder = daemon.hold("api");
        let output = daemon.client_of(second, &["-daemon"]);
        assert_eq!(output, Output::new(0, "", ""), "{second:?} beside {epmd:?}");
        wait_until_settled(daemon.port);
        assert_eq!(daemon.client_of(second, &[]).status, Some(0));
        assert!(daemon.knows("api"));
    }
}

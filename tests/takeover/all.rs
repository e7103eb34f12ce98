//! What comes along: everything.

use std::io::Write as _;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::common::binary::{Epmd, Output, finish};
use super::common::host::{Detached, process, wait_until_settled};
use super::common::wait_for;
use super::common::wire::{Answer, Node, frame, read_to_end, register};
use super::load::{Nodes, Passing, is_open, lookup, to, wait_until_free};
use super::{old, silence, take_over};

/// Takes the place of this epmd, and fails the test unless it was one thing that nobody notices.
fn nobody_notices(epmd: Epmd, nodes: impl FnOnce(u16) -> Nodes) {
    let mut old = old(epmd);
    let new = Detached { port: old.port };
    let nodes = nodes(old.port);
    // Accepted, and then silent; in part read.
    let mut silent = to(old.port);
    let mut in_part = to(old.port);
    in_part.write_all(&[0, 5, b'z', b'n']).expect("sent");
    nodes.looked_up_without_a_pause(|| {
        assert_eq!(take_over(old.port, &["-takeover"]), silence());
    });
    assert_eq!(old.wait().code(), None, "ended by a signal");
    assert_ne!(new.pid(), old.pid());
    nodes.assert_all_as_before();
    assert!(is_open(&silent));
    silent.write_all(&frame(b"zno")).expect("sent");
    assert_eq!(read_to_end(&mut silent), Answer::Bytes(b"w\x01".to_vec()));
    assert_eq!(read_to_end(&mut in_part), Answer::Nothing);
    // A taken name is taken, and a new one can be had.
    let (newer, _) = register(to(old.port), &Node::new("newer")).held();
    assert!(is_open(&newer));
    nodes.assert_all_are_watched();
    kill(Pid::from_raw(new.pid().cast_signed()), Signal::SIGTERM).expect("a process");
    wait_until_settled(old.port);
}

#[test]
fn nobody_notices_that_the_place_of_a_stock_epmd_is_taken() {
    nobody_notices(Epmd::Stock, |port| Nodes::of_all_kinds(port, 500));
}

#[test]
fn nobody_notices_that_the_place_of_otp_29s_epmd_is_taken() {
    nobody_notices(Epmd::Stock29, |port| Nodes::of_all_kinds(port, 500));
}

#[test]
fn nobody_notices_that_the_place_of_our_own_epmd_is_taken() {
    nobody_notices(Epmd::Ours, |port| Nodes::of_all_kinds(port, 500));
}

#[test]
fn names_that_ours_would_refuse_stay_and_one_of_255_characters_keeps_its_port() {
    let old = old(Epmd::Stock);
    let new = Detached { port: old.port };
    let names = ["a b", "tab\there", "line\nhere at port 1", "\u{a0}"];
    let nodes = Nodes::register(old.port, names.map(|name| Node::new(name).extra("e\0")));
    let longest = Node::new("\u{1F98A}".repeat(255)).port(77).extra("lost");
    let (stream, _) = register(to(old.port), &longest).held();
    assert_eq!(
        lookup(old.port, &longest.name),
        Answer::Nothing,
        "stock's answer"
    );
    assert_eq!(take_over(old.port, &["-takeover"]), silence());
    for name in names {
        let expected = Node::new(name).extra("e\0").found();
        assert_eq!(lookup(new.port, name.as_bytes()), Answer::Bytes(expected));
    }
    assert!(is_open(&stream));
    let longest = longest.extra("");
    assert_eq!(
        lookup(new.port, &longest.name),
        Answer::Bytes(longest.found())
    );
    drop(nodes);
}

#[test]
fn names_that_come_and_go_at_200_a_second_do_not_hinder_it() {
    for epmd in [Epmd::Stock, Epmd::Stock29, Epmd::Ours] {
        let old = old(epmd);
        let _new = Detached { port: old.port };
        let nodes = Nodes::of_all_kinds(old.port, 100);
        let passing = Passing::each_second(old.port, 200);
        assert_eq!(take_over(old.port, &["-takeover"]), silence(), "{epmd:?}");
        // Each of them was registered, before, while and after.
        assert!(passing.end() > 0);
        wait_for("the last ones to be gone", || {
            let Answer::Bytes(list) = super::common::wire::ask(to(old.port), &frame(b"n")) else {
                panic!("no list");
            };
            (!String::from_utf8_lossy(&list).contains("passing")).then_some(())
        });
        nodes.assert_all_as_before();
    }
}

#[test]
fn a_node_whose_erl_has_started_stock_stays_registered() {
    let new = Detached::on_free_port();
    let port = new.port.to_string();
    let mut node = Command::new("erl")
        .args([
            "-sname",
            "started",
            "-noshell",
            "-eval",
            "receive after infinity -> ok end.",
        ])
        .env("ERL_EPMD_PORT", &port)
        // Stock is what this finds first, whatever is installed as /usr/bin/epmd.
        .stdin(Stdio::null())
        .spawn()
        .expect("erl");
    let found = || {
        super::common::try_connect([127, 0, 0, 1].into(), new.port)
            .is_ok()
            .then(|| lookup(new.port, b"started"))
            .filter(|answer| *answer != Answer::Bytes(b"w\x01".to_vec()))
    };
    let before = wait_for("the node to register", found);
    let stock = new.pid();
    let taken = take_over(new.port, &["-takeover"]);
    let after = lookup(new.port, b"started");
    node.kill().expect("a node to end");
    node.wait().expect("a status");
    assert_eq!(taken, silence());
    assert!(process::is_over(stock) && new.pid() != stock);
    assert_eq!(after, before);
    wait_for("the node to be gone", || {
        (lookup(new.port, b"started") == Answer::Bytes(b"w\x01".to_vec())).then_some(())
    });
}

#[test]
fn where_there_is_nothing_to_take_over_it_does_nothing_in_silence() {
    let new = Detached::on_free_port();
    let port = new.port.to_string();
    let for_the_unit = ["-takeover", "-systemd", "-port", &port];
    assert_eq!(Epmd::Ours.run(&for_the_unit), silence());
    wait_until_free(new.port);
    // A start like any other.
    assert_eq!(take_over(new.port, &["-takeover"]), silence());
    let first = new.pid();
    assert!(matches!(lookup(new.port, b"x"), Answer::Bytes(_)));
    // And over itself.
    assert_eq!(take_over(new.port, &["-takeover"]), silence());
    assert_ne!(new.pid(), first);
}

#[test]
fn a_takeover_in_the_foreground_says_that_it_listens() {
    let mut old = old(Epmd::Stock);
    let nodes = Nodes::of_all_kinds(old.port, 3);
    let mut command = Epmd::Ours.command();
    command.args(["-takeover", "-port", &old.port.to_string()]);
    let mut new = command.stderr(Stdio::null()).spawn().expect("epmd");
    old.wait();
    nodes.assert_all_as_before();
    new.kill().expect("a process to end");
    new.wait().expect("a status");
}

#[test]
fn what_is_asked_for_otherwise_is_a_wrong_command_line() {
    for arguments in [
        &["-takeover=x"][..],
        &["-takeover", "force"],
        &["-takeover", "-names"],
    ] {
        let Output { status, stderr, .. } = finish(Epmd::Ours.command().args(arguments));
        assert_eq!(status, Some(1), "{stderr}");
        assert!(
            stderr.contains("takeover") && stderr.starts_with("usage"),
            "{stderr}"
        );
    }
}

//! What epmd does when it is typed: its commands, its options, its environment, its streams and
//! exit statuses, and how it goes into the background.
//!
//! Run against this crate's epmd and against stock epmd (`EPMD_UNDER_TEST`, see `common`). Scripts
//! parse this output by text and column, so it is compared whole.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::binary::{
    Epmd, NOBODY_READS, Output, differs, each_differs, finish, finish_within, under_test,
};
use common::daemon::{Daemon, Setup, about};
use common::host::{Detached, Stranger, free_port, listeners, process, wait_until_settled};
use common::wire::{Answer, Node, is_left_open, masked, names_answer, read_to_end};
use common::{PATIENCE, wait_for};
use nix::sys::signal::Signal;

/// The exit status for a setting that is wrong; stock has 1 for everything.
const WRONG_SETTING: i32 = 78;
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Runs the epmd under test to its end.
fn run(arguments: &[&str]) -> Output {
    under_test().run(arguments)
}

/// Runs a command of the epmd under test with this port.
fn run_at(port: u16, arguments: &[&str]) -> Output {
    run(&[&["-port", &port.to_string()], arguments].concat())
}

fn silence(status: i32) -> Output {
    Output::new(status, "", "")
}

fn says(status: i32, stdout: &str) -> Output {
    Output::new(status, stdout, "")
}

/// What -names and -dump print before the answer's lines.
fn header(port: u16) -> String {
    format!("epmd: up and running on port {port} with data:\n")
}

/// Fails the test unless `output` is the usage: on stderr, with status 1.
fn assert_usage(output: &Output, what: impl std::fmt::Debug) {
    assert_eq!(output.status, Some(1), "{what:?}: {output:?}");
    assert_eq!(output.stdout, "", "{what:?}");
    assert!(
        output.stderr.starts_with("usage: epmd "),
        "{what:?}: {output:?}"
    );
}

/// Fails the test unless `output` is a complaint on stderr, with this status, that has all `words`.
fn assert_complaint(output: &Output, status: i32, words: &[&str]) {
    assert_eq!(output.status, Some(status), "{output:?}");
    assert_eq!(output.stdout, "");
    for word in words {
        assert!(
            output.stderr.contains(word),
            "{word:?} is missing: {output:?}"
        );
    }
}

// --- commands ---

#[test]
fn commands_without_a_daemon_say_that_there_is_none() {
    let port = free_port();
    for command in [&["-names"][..], &["-dump"], &["-kill"], &["-stop", "api"]] {
        let expected = Output::new(1, "", "epmd: Cannot connect to local epmd\n");
        assert_eq!(run_at(port, command), expected, "{command:?}");
    }
    assert_eq!(run_at(port, &["-started"]), silence(1));
}

#[test]
fn names_prints_the_list() {
    let daemon = Daemon::start();
    let mut expected = header(daemon.port);
    assert_eq!(daemon.client(&["-names"]), says(0, &expected));
    let _holders = [daemon.hold("api"), daemon.hold("ä")];
    expected += "name ä at port 4711\nname api at port 4711\n";
    assert_eq!(daemon.client(&["-names"]), says(0, &expected));
}

#[test]
fn names_prints_a_list_of_any_length() {
    let daemon = Daemon::start();
    let names: Vec<_> = (0..100)
        .map(|n| format!("{n}{}", "n".repeat(200)))
        .collect();
    let holders: Vec<_> = names.iter().map(|name| daemon.hold(name)).collect();
    let lines = names
        .iter()
        .rev()
        .map(|name| format!("name {name} at port 4711\n"));
    let expected = header(daemon.port) + &lines.collect::<String>();
    assert_eq!(daemon.client(&["-names"]), says(0, &expected));
    drop(holders);
}

#[test]
fn started_tells_by_its_status_alone() {
    let daemon = Daemon::start();
    assert_eq!(daemon.client(&["-started"]), silence(0));
    let _holder = daemon.hold("api");
    assert_eq!(daemon.client(&["-started"]), silence(0));
}

#[test]
fn dump_prints_names_in_use_and_names_that_are_gone() {
    let daemon = Daemon::start();
    assert_eq!(daemon.client(&["-dump"]), says(0, &header(daemon.port)));
    let [_api, gone] = [daemon.hold("api"), daemon.hold("gone")];
    drop(gone);
    daemon.wait_until_free("gone");
    let mut output = daemon.client(&["-dump"]);
    output.stdout = masked(&output.stdout);
    let expected = header(daemon.port)
        + "active name     <api> at port 4711, fd = N\n\0"
        + "old/unused name <gone>, port = 4711, fd = N \n\0";
    assert_eq!(output, says(0, &expected));
}

#[test]
fn kill_ends_a_daemon_without_names() {
    let mut daemon = Daemon::start();
    assert_eq!(daemon.client(&["-kill"]), says(0, "Killed\n"));
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn kill_is_not_allowed_while_names_are_held() {
    let daemon = Daemon::start();
    let _holder = daemon.hold("api");
    let expected = says(1, "Killing not allowed - living nodes in database.\n");
    assert_eq!(daemon.client(&["-kill"]), expected);
    daemon.assert_alive();
}

#[test]
fn kill_ends_a_relaxed_daemon_that_holds_names() {
    let mut daemon = Daemon::with(&["-relaxed_command_check"]);
    let _holder = daemon.hold("api");
    assert_eq!(daemon.client(&["-kill"]), says(0, "Killed\n"));
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn stop_releases_a_name_of_a_relaxed_daemon() {
    let daemon = Daemon::with(&["-relaxed_command_check"]);
    let mut holder = daemon.hold("api");
    assert_eq!(daemon.client(&["-stop", "api"]), says(0, "STOPPED\n"));
    assert_eq!(read_to_end(&mut holder), Answer::Nothing);
    assert_eq!(daemon.client(&["-stop", "api"]), says(0, "NOEXIST\n"));
}

#[test]
fn a_name_of_any_bytes_can_be_stopped() {
    let daemon = Daemon::with(&["-relaxed_command_check"]);
    let mut command = under_test().command();
    let port = daemon.port.to_string();
    command.args(["-port", &port, "-stop"]);
    command.arg(OsStr::from_bytes(b"\xff\xfe"));
    let output = finish(&mut command);
    assert_eq!((output.status, &*output.stdout), (Some(0), "NOEXIST\n"));
}

/// What the file says in vain or too widely is told at the start, and what is wrong with it at a reload,
/// where no line says its own name twice.
#[test]
fn the_log_tells_what_about_the_settings_may_not_be_meant() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"port = 4370\naccess.allow = [\"0.0.0.0/1\", \"128.0.0.0/1\"]\n")
        .unwrap();
    let path = file.path().to_str().unwrap();
    let daemon = Setup::of(Epmd::Ours)
        .arguments(&["-config", path])
        .variable("EPMD_ALLOW", ",")
        .start();
    let told = |what: &str| {
        wait_for(what, || daemon.stderr().contains(what).then_some(()));
    };
    told("epmd: serving this host alone\n");
    told(&format!(
        "epmd: access.allow is what EPMD_ALLOW says; what {path}:2 says is not in force\n"
    ));
    told(&format!(
        "epmd: port is what -port says; what {path}:1 says is not in force\n"
    ));
    std::fs::write(path, "port = x\nlisen = 1\n").unwrap();
    daemon.signal(Signal::SIGHUP);
    told("not reloaded, the settings from before stay in force");
    let said = daemon.stderr();
    assert!(said.contains(&format!(" epmd: {path}:1:8: ")), "{said}");
    assert!(said.contains(&format!("\n    {path}:2:1: ")), "{said}");
    assert!(!said.contains("epmd: epmd: "), "{said}");
    std::fs::write(path, "access.list = [\"*\"]\n").unwrap();
    daemon.signal(Signal::SIGHUP);
    told(&format!(
        "epmd: access.list ({path}:1) admits everyone (0.0.0.0/0, ::/0): strangers may list all names"
    ));
    let port = daemon.port.to_string();
    drop(daemon);
    // A file that another one names is told with the name of that.
    let mut command = Epmd::Ours.command();
    command
        .args(["-port", &port])
        .env("EPMD_CONFIG", "/nonexistent/epmd.toml");
    assert_complaint(&finish(&mut command), WRONG_SETTING, &["EPMD_CONFIG"]);
}

#[test]
fn stop_is_not_answered_unless_relaxed() {
    let daemon = Daemon::start();
    let mut holder = daemon.hold("api");
    for name in ["api", "nobody"] {
        let expected = says(1, "epmd: local epmd responded with <>\n");
        assert_eq!(daemon.client(&["-stop", name]), expected);
    }
    assert!(is_left_open(&mut holder));
}

#[test]
fn commands_to_something_that_closes_without_an_answer_fail() {
    let stranger = Stranger::talking(LOCALHOST, b"");
    for command in ["-names", "-dump"] {
        let expected = says(1, "epmd: no response from local epmd\n");
        assert_eq!(run_at(stranger.port, &[command]), expected, "{command}");
    }
    assert_eq!(run_at(stranger.port, &["-started"]), silence(1));
    for command in [&["-kill"][..], &["-stop", "api"]] {
        let expected = says(1, "epmd: local epmd responded with <>\n");
        assert_eq!(run_at(stranger.port, command), expected, "{command:?}");
    }
}

#[test]
fn a_command_to_something_that_never_answers_is_given_up_after_five_seconds() {
    let stranger = Stranger::silent(LOCALHOST);
    let mut command = under_test().command();
    command.args(["-port", &stranger.port.to_string(), "-names"]);
    let ended = finish_within(&mut command, Duration::from_secs(8)).map(|output| output.status);
    assert_eq!(
        ended,
        differs(None, Some(Some(1)), "a script must not hang with its epmd")
    );
}

// --- the command line ---

#[test]
fn a_wrong_command_line_gets_the_usage() {
    for arguments in [
        &["-bogus"][..],
        &["bogus"],
        &["-names", "x"],
        &["-started", "x"],
        &["-dump", "x"],
        &["-kill", "x"],
        &["-stop"],
        &["-stop", "a", "b"],
        &["-names", "-kill"],
        &["-port"],
        &["-address"],
        &["-packet_timeout"],
        &["-delay_accept"],
        &["-delay_write"],
        &["-relaxed_command_check=1"],
        &["--"],
        &["--", "-names"],
        &["-d", "--"],
        &["-daemon", "--", "x"],
    ] {
        assert_usage(&run_at(free_port(), arguments), arguments);
    }
}

#[test]
fn commands_come_last() {
    let daemon = Daemon::start();
    let port = daemon.port.to_string();
    for command in ["-names", "-started", "-dump", "-kill"] {
        assert_usage(&run(&[command, "-port", &port]), command);
    }
    assert_usage(&run(&["-stop", "api", "-port", &port]), "-stop");
    daemon.assert_alive();
}

#[test]
fn options_of_the_daemon_do_not_disturb_a_command() {
    let daemon = Daemon::start();
    let options = [
        "-d",
        "-debug",
        "-relaxed_command_check",
        "-packet_timeout",
        "5",
        "-names",
    ];
    assert_eq!(daemon.client(&options), says(0, &header(daemon.port)));
}

#[test]
fn the_last_port_counts() {
    let daemon = Daemon::start();
    let port = daemon.port.to_string();
    assert_eq!(
        run_at(free_port(), &["-port", &port, "-started"]),
        silence(0)
    );
}

#[test]
fn an_option_may_have_two_dashes() {
    let daemon = Daemon::start();
    let port = daemon.port.to_string();
    let output = run(&["--port", &port, "--names"]);
    match under_test() {
        Epmd::Stock | Epmd::Stock29 => assert_usage(&output, "--names"),
        Epmd::Ours => assert_eq!(output, says(0, &header(daemon.port))),
    }
}

#[test]
fn help_and_version_are_answered() {
    for (option, word) in [("-help", "-names"), ("-version", env!("CARGO_PKG_VERSION"))] {
        let output = run(&[option]);
        match under_test() {
            Epmd::Stock | Epmd::Stock29 => assert_usage(&output, option),
            Epmd::Ours => {
                assert_eq!((output.status, &*output.stderr), (Some(0), ""), "{option}");
                assert!(output.stdout.contains(word), "{output:?}");
            }
        }
    }
}

#[test]
fn a_number_that_is_none_stops_the_start() {
    for option in ["-port", "-packet_timeout", "-delay_accept", "-delay_write"] {
        for value in ["abc", ""] {
            let output = run_at(free_port(), &[option, value]);
            match under_test() {
                Epmd::Stock | Epmd::Stock29 => assert_usage(&output, option),
                Epmd::Ours => assert_complaint(&output, WRONG_SETTING, &[option]),
            }
        }
    }
}

#[test]
fn an_address_that_is_none_stops_the_start() {
    for address in [
        "bogus",
        "127.0.0.1/8",
        "localhost",
        "127.0.0.2,bogus",
        "1.2.3",
    ] {
        let output = run_at(free_port(), &["-address", address]);
        let (status, option) = differs(
            (1, "address"),
            (WRONG_SETTING, "-address"),
            "a wrong setting has a status of its own, and is named",
        );
        let wrong = address.rsplit(',').next().unwrap_or_default();
        assert_complaint(&output, status, &[option, wrong]);
    }
}

// --- the environment ---

#[test]
fn erl_epmd_port_tells_daemon_and_commands_the_port() {
    let daemon = Setup::new().port_by_variable().start();
    let at = |port: u16, arguments: &[&str]| {
        finish(
            under_test()
                .command()
                .env("ERL_EPMD_PORT", port.to_string())
                .args(arguments),
        )
    };
    assert_eq!(at(daemon.port, &["-names"]), says(0, &header(daemon.port)));
    let told_otherwise = at(
        free_port(),
        &["-port", &daemon.port.to_string(), "-started"],
    );
    assert_eq!(
        told_otherwise,
        silence(0),
        "the command line beats the environment"
    );
}

#[test]
fn erl_epmd_port_that_is_no_port_is_an_error() {
    let output = finish(
        under_test()
            .command()
            .env("ERL_EPMD_PORT", "abc")
            .arg("-names"),
    );
    let (status, words) = differs(
        (1, "epmd: Cannot connect to local epmd\n"),
        (WRONG_SETTING, "ERL_EPMD_PORT"),
        "stock takes it for port 0, and looks for nobody's epmd",
    );
    assert_complaint(&output, status, &[words]);
}

#[test]
fn erl_epmd_relaxed_command_check_relaxes() {
    let daemon = Setup::new()
        .variable("ERL_EPMD_RELAXED_COMMAND_CHECK", "1")
        .start();
    let _holder = daemon.hold("api");
    assert_eq!(daemon.client(&["-stop", "api"]), says(0, "STOPPED\n"));
}

#[test]
fn relaxed_is_the_daemons_setting_and_not_the_commands() {
    let daemon = Daemon::start();
    let _holder = daemon.hold("api");
    let expected = says(1, "Killing not allowed - living nodes in database.\n");
    assert_eq!(
        daemon.client(&["-relaxed_command_check", "-kill"]),
        expected
    );
}

// --- where it listens ---

/// Addresses out of their text.
fn addresses<'a>(list: impl IntoIterator<Item = &'a str>) -> BTreeSet<IpAddr> {
    list.into_iter().map(|it| it.parse().unwrap()).collect()
}

/// These addresses, and every loopback address that the epmd under test always listens on.
fn with_loopback(list: &[&str]) -> BTreeSet<IpAddr> {
    let loopback = differs(
        &["127.0.0.1", "::1"][..],
        &["127.0.0.1", "127.0.1.1", "::1"],
        "Debian gives the host's own name the address 127.0.1.1",
    );
    addresses(loopback.iter().chain(list).copied())
}

/// Waits until the daemon listens on these addresses and no other.
fn assert_listens_on(daemon: &Daemon, expected: &BTreeSet<IpAddr>, what: &str) {
    let end = Instant::now() + PATIENCE;
    while daemon.listeners() != *expected && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(daemon.listeners(), *expected, "{what}: {}", daemon.stderr());
}

#[test]
fn without_an_address_it_listens_on_every_one() {
    let everywhere = addresses(["0.0.0.0", "::"]);
    assert_listens_on(&Daemon::start(), &everywhere, "no address");
    for nothing in ["", " ", ",", " , "] {
        let daemon = Daemon::with(&["-address", nothing]);
        assert_listens_on(&daemon, &everywhere, nothing);
    }
}

#[test]
fn it_listens_on_the_addresses_that_it_is_told_and_on_loopback() {
    for (list, expected) in [
        ("127.0.0.1", &[][..]),
        ("::1", &[]),
        ("127.0.0.1,::1", &[]),
        ("127.0.0.2", &["127.0.0.2"]),
        ("127.0.0.2,127.0.0.3", &["127.0.0.2", "127.0.0.3"]),
        ("127.0.0.2 127.0.0.3", &["127.0.0.2", "127.0.0.3"]),
        (" ,127.0.0.2 , 127.0.0.3,, ", &["127.0.0.2", "127.0.0.3"]),
    ] {
        let expected = with_loopback(expected);
        assert_listens_on(&Daemon::with(&["-address", list]), &expected, list);
        let told = Setup::new().variable("ERL_EPMD_ADDRESS", list).start();
        assert_listens_on(&told, &expected, list);
    }
}

#[test]
fn the_command_lines_address_beats_the_environments_and_the_last_one_counts() {
    let expected = with_loopback(&["127.0.0.3"]);
    let told = Setup::new().variable("ERL_EPMD_ADDRESS", "127.0.0.2");
    let daemon = told.arguments(&["-address", "127.0.0.3"]).start();
    assert_listens_on(&daemon, &expected, "environment and command line");
    let daemon = Daemon::with(&["-address", "127.0.0.2", "-address", "127.0.0.3"]);
    assert_listens_on(&daemon, &expected, "twice");
}

/// Fails the test unless the epmd under test, told these addresses, listens on `expected`; `None` is
/// that it ends in silence with status 0, as stock does where it takes one socket of its own for
/// another epmd's.
fn assert_becomes_of(list: &str, expected: Option<&BTreeSet<IpAddr>>) {
    match expected {
        Some(expected) => {
            assert_listens_on(&Daemon::with(&["-address", list]), expected, list);
        }
        None => assert_eq!(
            run_at(free_port(), &["-address", list]),
            silence(0),
            "{list}"
        ),
    }
}

#[test]
fn an_address_told_twice_is_one() {
    let why = "the daemon was asked to run";
    let expected = with_loopback(&["127.0.0.2"]);
    assert_becomes_of("127.0.0.2,127.0.0.2", differs(None, Some(&expected), why));
    // Stock before OTP 29 drops loopback from what it is told, and adds it itself.
    let expected = with_loopback(&[]);
    for list in ["127.0.0.1,127.0.0.1", "::1,::1"] {
        let expected = each_differs(Some(&expected), None, Some(&expected), why);
        assert_becomes_of(list, expected);
    }
}

#[test]
fn a_wildcard_covers_loopback_and_the_other_addresses_of_its_family() {
    // OTP 29 adds loopback where no wildcard has it; what it is told it binds, covered or not.
    for (list, stock29, ours) in [
        (
            "0.0.0.0",
            Some(&["0.0.0.0", "::1"][..]),
            &["0.0.0.0", "::1"][..],
        ),
        (
            "::",
            Some(&["::", "127.0.0.1"]),
            &["::", "127.0.0.1", "127.0.1.1"],
        ),
        ("0.0.0.0,::", Some(&["0.0.0.0", "::"]), &["0.0.0.0", "::"]),
        ("0.0.0.0,127.0.0.1", None, &["0.0.0.0", "::1"]),
        ("127.0.0.2,0.0.0.0,::1", None, &["0.0.0.0", "::1"]),
    ] {
        let why = "the daemon was asked to run";
        let expected = each_differs(None, stock29, Some(ours), why);
        let expected = expected.map(|it| addresses(it.iter().copied()));
        assert_becomes_of(list, expected.as_ref());
    }
}

#[test]
fn an_address_that_the_host_does_not_have_yet() {
    // From the block for documentation: nobody has it.
    const ABSENT: &str = "198.51.100.1";
    match under_test() {
        Epmd::Stock | Epmd::Stock29 => {
            let output = run_at(free_port(), &["-address", ABSENT]);
            assert_complaint(&output, 1, &[ABSENT]);
        }
        Epmd::Ours => {
            let daemon = Daemon::with(&["-address", ABSENT]);
            assert_listens_on(&daemon, &with_loopback(&[ABSENT]), ABSENT);
            wait_for("a warning", || {
                daemon.stderr().contains(ABSENT).then_some(())
            });
        }
    }
}

#[test]
fn a_list_carries_the_port_at_every_address() {
    let daemon = Daemon::with(&["-address", "127.0.0.2"]);
    let expected = Answer::Bytes(names_answer(daemon.port, &[]));
    for address in ["127.0.0.1", "127.0.0.2", "::1"] {
        let stream = daemon.connect_to(address.parse().unwrap());
        assert_eq!(common::wire::ask(stream, b"\0\x01n"), expected, "{address}");
    }
}

// --- when the port is taken ---

#[test]
fn a_second_daemon_leaves_the_port_to_the_first_in_silence() {
    let daemon = Daemon::start();
    let _holder = daemon.hold("api");
    assert_eq!(daemon.client(&["-daemon"]), silence(0));
    assert_eq!(
        daemon.client(&["-daemon", "-address", "127.0.0.2"]),
        silence(0)
    );
    wait_until_settled(daemon.port);
    assert_eq!(
        daemon.lookup("api"),
        Answer::Bytes(Node::new("api").found())
    );
}

#[test]
fn a_second_epmd_in_the_foreground_leaves_the_port_to_the_first() {
    let daemon = Daemon::start();
    let output = daemon.client(&[]);
    assert_eq!((output.status, &*output.stdout), (Some(0), ""));
    let port = daemon.port.to_string();
    let says_so = output.stderr.contains(&port);
    let why = "whoever starts it by hand wants to know why it ends";
    assert_eq!(says_so, differs(false, true, why), "{output:?}");
}

/// Something that is no epmd holds the port: stock ends with 0, as if all were well.
fn assert_taken_by_a_stranger(stranger: &Stranger, arguments: &[&str]) {
    let output = run_at(stranger.port, arguments);
    wait_until_settled(stranger.port);
    match under_test() {
        Epmd::Stock | Epmd::Stock29 => assert_eq!(output, silence(0), "{arguments:?}"),
        Epmd::Ours => {
            // The address is the one that could not be bound: the stranger's, or the wildcard.
            assert_complaint(&output, 1, &[&stranger.port.to_string(), "0.0."]);
        }
    }
}

#[test]
fn a_port_that_is_held_by_something_silent_is_an_error() {
    let stranger = Stranger::silent(LOCALHOST);
    assert_taken_by_a_stranger(&stranger, &["-daemon"]);
    assert_taken_by_a_stranger(&stranger, &[]);
}

#[test]
fn a_port_that_is_held_by_something_that_talks_otherwise_is_an_error() {
    for answer in [&b""[..], b"no", b"220 mail.example ESMTP\r\n"] {
        let stranger = Stranger::talking(LOCALHOST, answer);
        assert_taken_by_a_stranger(&stranger, &["-daemon"]);
        assert_taken_by_a_stranger(&stranger, &[]);
    }
}

#[test]
fn one_taken_address_of_several_is_enough() {
    let stranger = Stranger::talking("127.0.0.2".parse().unwrap(), b"");
    for list in ["127.0.0.2", "127.0.0.3,127.0.0.2"] {
        assert_taken_by_a_stranger(&stranger, &["-daemon", "-address", list]);
        assert_taken_by_a_stranger(&stranger, &["-address", list]);
    }
    let loopback = Stranger::talking(LOCALHOST, b"");
    assert_taken_by_a_stranger(&loopback, &["-address", "127.0.0.2"]);
}

// --- -daemon ---

/// Fails the test unless `-daemon` has succeeded, in silence but for one line: where nobody reads the log,
/// as in most containers, ours says so.
fn assert_started(epmd: Epmd, output: &Output) {
    assert_eq!(
        (output.status, &*output.stdout),
        (Some(0), ""),
        "{output:?}"
    );
    let mut lines = output.stderr.lines();
    let said = lines
        .next()
        .is_none_or(|line| line.starts_with(NOBODY_READS));
    assert!(said && lines.next().is_none(), "{output:?}");
    if epmd != Epmd::Ours {
        assert_eq!(output.stderr, "");
    }
}

/// What `epmd -daemon` says where the shell `script` has gone before it, and its status; ours alone.
fn daemon_after(script: &str, detached: &Detached) -> Output {
    let script = format!("{script} exec \"$@\"");
    let mut command = Epmd::Ours.wrapped(&["/bin/bash", "-c", &script, "bash"]);
    command.args(["-port", &detached.port.to_string(), "-daemon"]);
    finish(&mut command)
}

#[test]
fn daemon_says_what_keeps_it_from_serving_and_leaves_nothing_behind() {
    for limit in [5, 9, 10, 11, 12, 14, 16] {
        let detached = Detached::on_free_port();
        let output = daemon_after(&format!("ulimit -n {limit};"), &detached);
        assert_eq!(output.status, Some(1), "{limit}: {output:?}");
        assert!(output.stderr.contains("epmd: "), "{limit}: {output:?}");
        assert!(
            output.stderr.contains("oo many open files"),
            "{limit}: {output:?}"
        );
        assert!(!output.stderr.contains("panicked"), "{limit}: {output:?}");
        assert_eq!(detached.find(), None, "{limit}");
    }
}

#[test]
fn daemon_serves_with_little_stack_and_little_memory() {
    for limits in ["ulimit -s 64;", "ulimit -d 4000;", "ulimit -f 0;"] {
        for _ in 0..5 {
            let detached = Detached::on_free_port();
            assert_started(Epmd::Ours, &daemon_after(limits, &detached));
            assert_eq!(run_at(detached.port, &["-kill"]), says(0, "Killed\n"));
        }
    }
}

#[test]
fn daemon_reads_its_settings_before_it_closes_what_it_inherited() {
    let detached = Detached::on_free_port();
    let script = "exec \"$@\" -config <(echo 'registrations = 1')";
    let mut command = Epmd::Ours.wrapped(&["/bin/bash", "-c", script, "bash"]);
    command.args(["-port", &detached.port.to_string(), "-daemon"]);
    let output = finish(&mut command);
    // It was read: this key belongs elsewhere.
    assert_eq!(output.status, Some(78), "{output:?}");
    assert!(output.stderr.contains("registrations"), "{output:?}");
    // It was read once and whole, the port too.
    let port = free_port();
    let good = format!("exec \"$@\" -config <(echo 'port = {port}')");
    let mut command = Epmd::Ours.wrapped(&["/bin/bash", "-c", &good, "bash"]);
    assert_started(Epmd::Ours, &finish(command.arg("-daemon")));
    assert_eq!(run_at(port, &["-kill"]), says(0, "Killed\n"));
}

/// Starts the epmd under test in the background, by way of `wrapper`. Returns when it is as it will
/// stay: leaving the old standard error is the last step of going there.
fn daemonize(detached: &Detached, wrapper: &[&str], arguments: &[&str]) -> u32 {
    let mut command = under_test().wrapped(wrapper);
    command
        .args(["-port", &detached.port.to_string(), "-daemon"])
        .args(arguments);
    assert_started(under_test(), &finish(&mut command));
    let pid = detached.pid();
    wait_for("the daemon to leave its standard error", || {
        let to_nothing = (2, PathBuf::from("/dev/null"));
        process::descriptors(pid)
            .contains(&to_nothing)
            .then_some(())
    });
    pid
}

#[test]
fn daemon_serves_in_the_background_until_it_is_killed() {
    let detached = Detached::on_free_port();
    let pid = daemonize(&detached, &[], &[]);
    assert_eq!(
        run_at(detached.port, &["-names"]),
        says(0, &header(detached.port))
    );
    assert_eq!(run_at(detached.port, &["-kill"]), says(0, "Killed\n"));
    wait_for("the daemon's end", || process::is_over(pid).then_some(()));
}

#[test]
fn the_port_is_bound_when_daemon_returns() {
    for _ in 0..10 {
        let detached = Detached::on_free_port();
        let mut command = under_test().command();
        command.args(["-port", &detached.port.to_string(), "-daemon"]);
        assert_started(under_test(), &finish(&mut command));
        let bound = detached.find().is_some();
        detached.pid();
        // Stock's parent does not wait: it may be bound or not.
        assert!(differs(
            true,
            bound,
            "erl goes on to connect as soon as the parent returns"
        ));
    }
}

#[test]
fn a_daemon_is_detached_from_who_started_it() {
    let detached = Detached::on_free_port();
    // A shell that leaves its child one more descriptor than the three of old.
    let kept = tempfile::NamedTempFile::new().unwrap();
    let script = format!("exec 9<{}; exec \"$@\"", kept.path().display());
    let pid = daemonize(&detached, &["/bin/sh", "-c", &script, "sh"], &[]);
    assert_eq!(process::name(pid), "epmd");
    assert_eq!(process::working_directory(pid).to_str(), Some("/"));

    let [own, its] = [std::process::id(), pid].map(|pid| process::stat(pid).unwrap());
    let (session, terminal) = (3, 4);
    assert_ne!(own[session], its[session], "a session of its own");
    assert_eq!(its[terminal], "0", "no controlling terminal");

    for (number, target) in process::descriptors(pid) {
        let target = target.to_str().unwrap();
        if number < 3 {
            assert_eq!(target, "/dev/null", "descriptor {number}");
        } else {
            // What the kernel says is kept open where the sandbox would not let it be opened again.
            assert!(
                target.starts_with("/proc/") || !target.starts_with('/'),
                "descriptor {number} leads to {target}"
            );
        }
    }
}

#[test]
fn a_daemon_leaves_no_zombie_behind() {
    let detached = Detached::on_free_port();
    let pid = daemonize(&detached, &[], &[]);
    let session: u32 = process::stat(pid).unwrap()[3].parse().unwrap();
    // Stock's leader of the session ended, and is left to process 1, which may reap it or not.
    let leader_is_gone = session == pid || process::stat(session).is_none();
    assert!(differs(
        true,
        leader_is_gone,
        "in a container, process 1 reaps nothing"
    ));
}

#[test]
fn a_daemon_takes_its_options_along() {
    let detached = Detached::on_free_port();
    let options = ["-relaxed_command_check", "-address", "127.0.0.2"];
    let pid = daemonize(&detached, &[], &options);
    let expected = with_loopback(&["127.0.0.2"]);
    wait_for("its listeners", || {
        (listeners(pid, detached.port) == expected).then_some(())
    });
    assert_eq!(
        run_at(detached.port, &["-stop", "nobody"]),
        says(0, "NOEXIST\n")
    );
}

// --- the daemon's other options ---

#[test]
fn debug_tells_on_stderr_and_changes_no_answer() {
    for option in ["-d", "-debug"] {
        let daemon = Daemon::with(&[option, option]);
        assert_eq!(
            daemon.names(),
            Answer::Bytes(names_answer(daemon.port, &[]))
        );
        wait_for("a line", || (!daemon.stderr().is_empty()).then_some(()));
    }
}

#[test]
fn delays_hold_back_the_answer() {
    for option in ["-delay_accept", "-delay_write"] {
        let daemon = Daemon::with(&[option, "1"]);
        let begin = Instant::now();
        assert_eq!(
            daemon.names(),
            Answer::Bytes(names_answer(daemon.port, &[]))
        );
        assert!(
            begin.elapsed() >= about(1),
            "{option}: {:?}",
            begin.elapsed()
        );
    }
}

/// Signals of the caller's that must not make a difference to ours (stock has neither mask nor reload):
/// blocked ones, and SIGHUP as soon as it is there.
#[test]
fn a_mask_and_a_hangup_from_before_make_no_difference() {
    let blocked: nix::sys::signal::SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    let mut daemon = std::thread::scope(|scope| {
        let start = || {
            blocked.thread_block().unwrap();
            Setup::of(Epmd::Ours).start()
        };
        scope.spawn(start).join().unwrap()
    });
    daemon.signal(Signal::SIGHUP);
    daemon.signal(Signal::SIGHUP);
    daemon.assert_alive();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn an_interrupt_that_is_ignored_stays_ignored() {
    let detached = Detached::on_free_port();
    let output = daemon_after("trap '' INT;", &detached);
    assert_started(Epmd::Ours, &output);
    let pid = nix::unistd::Pid::from_raw(detached.pid().cast_signed());
    nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
    assert_eq!(
        run_at(detached.port, &["-names"]),
        says(0, &header(detached.port))
    );
}

#[test]
fn a_signal_ends_it_with_status_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start();
        let _holder = daemon.hold("api");
        daemon.signal(signal);
        let why = "a service manager must not take an ordered end for a failure";
        assert_eq!(daemon.wait().code(), differs(None, Some(0), why));
        let listener = TcpListener::bind((LOCALHOST, daemon.port));
        assert!(listener.is_ok(), "the port is free again");
    }
}

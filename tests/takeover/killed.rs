//! A takeover that is killed: the old epmd goes on, or the new one has everything.
//!
//! strace ends it at each system call of a kind, one after the other: at the first, at the second, and so
//! on until one takeover comes to its end.

use std::process::Command;

use super::common::binary::{Epmd, finish};
use super::common::host::{Detached, process};
use super::common::wait_for;
use super::load::Nodes;
use super::old;

/// The system calls by which it does what it does. What it only reads (/proc) is between these.
const CALLS: [&str; 9] = [
    "ptrace",
    "wait4",
    "pidfd_open",
    "pidfd_getfd",
    "getsockopt",
    "recvfrom",
    "sendto",
    "connect",
    "kill",
];
/// No takeover of so few names has more calls of a kind.
const MOST: usize = 400;

#[test]
fn a_takeover_that_is_killed_at_any_instant_leaves_the_old_epmd_at_work() {
    for call in CALLS {
        let mut old = old(Epmd::Stock);
        let new = Detached { port: old.port };
        let nodes = Nodes::of_all_kinds(old.port, 2);
        let mut came_to_its_end = false;
        for number in 1..MOST {
            let inject = format!("inject={call}:signal=SIGKILL:when={number}");
            let mut command = Epmd::Ours.wrapped(&["strace", "-o", "/dev/null", "-e", &inject]);
            command.args(["-takeover", "-daemon", "-port", &old.port.to_string()]);
            let status = finish(&mut command).status;
            if old.ended().is_some() {
                // By the takeover, at its end and not before. Without a store what is killed behind
                // that instant takes everything with it.
                if status == Some(0) {
                    nodes.assert_all_as_before();
                }
                came_to_its_end = true;
                break;
            }
            let state = || process::stat(old.pid()).expect("a process")[0].clone();
            assert!(!["T", "t"].contains(&&*state()), "{call} {number}");
            nodes.assert_all_as_before();
        }
        assert!(came_to_its_end, "{call}");
        drop(new);
    }
}

#[test]
fn an_epmd_that_is_held_goes_on_when_its_holder_is_killed() {
    let mut old = old(Epmd::Stock);
    let nodes = Nodes::of_all_kinds(old.port, 2);
    // The second round of copying is within the hold: there it stays, until it is killed.
    let inject = "inject=pidfd_getfd:delay_enter=60000000:when=2";
    let mut command = Epmd::Ours.wrapped(&["strace", "-o", "/dev/null", "-e", inject]);
    command.args(["-takeover", "-daemon", "-port", &old.port.to_string()]);
    let mut strace = command.spawn().expect("strace");
    let state = |pid: u32| process::stat(pid).map(|stat| stat[0].clone());
    wait_for("the old epmd to be held", || {
        (state(old.pid()).as_deref() == Some("t")).then_some(())
    });
    let held_by = std::fs::read_to_string(format!("/proc/{}/status", old.pid())).expect("a status");
    let holder = held_by
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:\t"))
        .expect("a tracer");
    let killed = Command::new("kill").args(["-KILL", holder]).status();
    assert!(killed.expect("kill").success());
    strace.kill().expect("strace");
    strace.wait().expect("a status");
    wait_for("the old epmd to go on", || {
        (state(old.pid()).as_deref() != Some("t")).then_some(())
    });
    assert!(old.ended().is_none());
    nodes.assert_all_as_before();
}

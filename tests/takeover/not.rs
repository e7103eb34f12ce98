//! Who is left alone, and what is said then: each with its message and its status.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::common::binary::{Epmd, Output, finish};
use super::common::daemon::Daemon;
use super::common::host::{Detached, Stranger, free_port, process};
use super::common::wait_for;
use super::common::wire::{Answer, Node, frame, lookup_answer};
use super::load::{Nodes, lookup, to};
use super::{old, silence, take_over};

/// What would be lost, and what takes it into account.
const COST: &str = "-takeover=force ends the old epmd all the same";

/// Fails the test unless a takeover has failed with one line that says this.
fn assert_says(output: &Output, words: &[&str]) {
    assert_eq!(
        (output.status, &*output.stdout),
        (Some(1), ""),
        "{output:?}"
    );
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {output:?}");
    }
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
}

/// Fails the test unless an epmd goes on as before.
fn assert_goes_on(old: &mut Daemon, nodes: &Nodes) {
    assert!(old.ended().is_none());
    let stat = process::stat(old.pid()).expect("a process");
    assert!(!["T", "t"].contains(&&*stat[0]), "{}", stat[0]);
    nodes.assert_all_as_before();
}

/// The pid of an epmd as messages have it.
fn name(old: &Daemon) -> String {
    format!("pid {} (epmd)", old.pid())
}

/// Runs a takeover by way of strace, which has system calls fail.
fn with_failing(call: &str, error: &str, port: u16, arguments: &[&str]) -> Output {
    let inject = format!("inject={call}:error={error}");
    let mut command = Epmd::Ours.wrapped(&["strace", "-o", "/dev/null", "-e", &inject]);
    command.args(["-daemon", "-port", &port.to_string()]);
    finish(command.args(arguments)).wherever_it_logs()
}

#[test]
fn without_root_it_says_so_and_the_old_one_goes_on() {
    let mut old = old(Epmd::Stock);
    let nodes = Nodes::of_all_kinds(old.port, 3);
    // The binary of this tree may be in a folder of root's alone.
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("epmd");
    std::fs::copy(Epmd::Ours.path(), &program).expect("a copy");
    for path in [folder.path(), &program] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(path, mode).expect("a mode");
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&program)
        .args(["-daemon", "-takeover", "-port", &old.port.to_string()])
        .env_clear();
    let output = finish(&mut command);
    assert_says(
        &output,
        &["no process that can be seen", "start this as root"],
    );
    assert_goes_on(&mut old, &nodes);
}

#[test]
fn what_a_kernel_or_a_filter_forbids_is_said_and_the_old_one_goes_on() {
    let mut old = old(Epmd::Stock);
    let nodes = Nodes::of_all_kinds(old.port, 3);
    let name = name(&old);
    for (call, error, word) in [
        (
            "pidfd_getfd",
            "ENOSYS",
            "pidfd_getfd(2) came with Linux 5.6, and this is ",
        ),
        (
            "pidfd_open",
            "ENOSYS",
            "pidfd_getfd(2) came with Linux 5.6, and this is ",
        ),
        ("pidfd_getfd", "EPERM", "--system-call-filter=pidfd_getfd"),
        ("ptrace", "EPERM", "--system-call-filter=ptrace"),
        ("ptrace", "ENOSYS", "has no ptrace(2)"),
    ] {
        let output = with_failing(call, error, old.port, &["-takeover"]);
        assert_says(&output, &["can't take the place of", &name, word, COST]);
        assert_goes_on(&mut old, &nodes);
    }
}

/// Stands in for containers, whose root lacks it: nothing of another process can be seen then.
#[test]
fn without_the_capability_to_trace_it_says_so_and_the_old_one_goes_on() {
    let mut old = old(Epmd::Stock);
    let nodes = Nodes::of_all_kinds(old.port, 3);
    let less = "--bounding-set=-sys_ptrace";
    for force in ["-takeover", "-takeover=force"] {
        let mut command = Epmd::Ours.wrapped(&["setpriv", less, "--inh-caps=-sys_ptrace"]);
        command.args(["-daemon", force, "-port", &old.port.to_string()]);
        let output = finish(&mut command);
        assert_says(
            &output,
            &[
                "somebody listens on ",
                "no CAP_SYS_PTRACE",
                "--cap-add=SYS_PTRACE",
            ],
        );
        assert_goes_on(&mut old, &nodes);
    }
}

/// Yama is not in each kernel, and its 3 lasts until the next boot: what stands in for it is a /proc/sys
/// that says so, and a ptrace(2) that is refused as Yama does it.
#[test]
fn yama_that_forbids_it_is_named_and_force_ends_the_old_one() {
    const YAMA: &str = "mount -t tmpfs tmpfs /proc/sys/kernel && mkdir /proc/sys/kernel/yama && \
                        echo 3 >/proc/sys/kernel/yama/ptrace_scope && exec \"$@\"";
    let mut old = old(Epmd::Stock);
    let nodes = Nodes::of_all_kinds(old.port, 3);
    let take_over = |force| {
        let refused = "inject=ptrace:error=EPERM";
        let mut command = Epmd::Ours.wrapped(&[
            "unshare",
            "--mount",
            "sh",
            "-c",
            YAMA,
            "sh",
            "strace",
            "-o",
            "/dev/null",
            "-e",
            refused,
        ]);
        command.args(["-daemon", force, "-port", &old.port.to_string()]);
        finish(&mut command).wherever_it_logs()
    };
    let words = ["kernel.yama.ptrace_scope is 3", "until the next boot", COST];
    assert_says(&take_over("-takeover"), &words);
    let new = Detached { port: old.port };
    nodes.assert_all_as_before();
    let output = take_over("-takeover=force");
    assert_eq!(output.status, Some(0), "{output:?}");
    assert!(output.stderr.contains(words[0]), "{output:?}");
    assert!(output.stderr.contains("ended "), "{output:?}");
    old.wait();
    assert_eq!(lookup(new.port, b"node1"), Answer::Bytes(b"w\x01".to_vec()));
}

#[test]
fn too_few_descriptors_are_said_and_the_old_one_goes_on() {
    let mut old = old(Epmd::Stock);
    let nodes = Nodes::of_all_kinds(old.port, 100);
    let mut command = Epmd::Ours.wrapped(&["prlimit", "--nofile=64"]);
    command.args(["-daemon", "-takeover", "-port", &old.port.to_string()]);
    let words = ["raise the limit (LimitNOFILE=, ulimit -n)", COST];
    assert_says(&finish(&mut command), &words);
    assert_goes_on(&mut old, &nodes);
    // The remedy.
    let _new = Detached { port: old.port };
    assert_eq!(take_over(old.port, &["-takeover"]), silence());
    nodes.assert_all_as_before();
}

/// Somebody and somebody else's script, in the same moment.
#[test]
fn two_takeovers_at_once_lose_nothing() {
    for _ in 0..5 {
        let mut old = old(Epmd::Stock);
        let new = Detached { port: old.port };
        let nodes = Nodes::of_all_kinds(old.port, 20);
        let port = old.port;
        let outputs = thread::scope(|scope| {
            let both = [(); 2].map(|()| scope.spawn(|| take_over(port, &["-takeover"])));
            both.map(|one| one.join().expect("a thread"))
        });
        // One after the other, or the second one has said what is in its way.
        assert!(outputs.contains(&silence()), "{outputs:?}");
        for output in outputs.iter().filter(|output| **output != silence()) {
            assert_says(output, &["pid ", "epmd"]);
        }
        old.wait();
        nodes.assert_all_as_before();
        drop(new);
    }
}

#[test]
fn who_is_traced_already_is_left_alone() {
    let mut old = old(Epmd::Stock);
    let nodes = Nodes::of_all_kinds(old.port, 3);
    let mut strace = Command::new("strace")
        .args(["-o", "/dev/null", "-p", &old.pid().to_string()])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("strace");
    wait_for("strace to trace it", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", old.pid())).ok()?;
        status
            .contains(&format!("TracerPid:\t{}\n", strace.id()))
            .then_some(())
    });
    let output = take_over(old.port, &["-takeover"]);
    kill(Pid::from_raw(strace.id().cast_signed()), Signal::SIGINT).expect("a process");
    strace.wait().expect("a status");
    assert_says(&output, &[&name(&old), "(strace) traces it already", COST]);
    assert_goes_on(&mut old, &nodes);
}

#[test]
fn who_is_stopped_is_left_so_and_can_be_told_to_go_on() {
    let mut old = old(Epmd::Stock);
    let nodes = Nodes::of_all_kinds(old.port, 3);
    let remedy = format!("kill -CONT {}", old.pid());
    let output = old.paused(|| {
        let mut command = Epmd::Ours.command();
        command.args(["-daemon", "-takeover", "-port", &old.port.to_string()]);
        finish(&mut command)
    });
    assert_says(&output, &[&name(&old), "does not answer a dump", &remedy]);
    // `paused` has had it go on, as the remedy would.
    assert_goes_on(&mut old, &nodes);
    let _new = Detached { port: old.port };
    assert_eq!(take_over(old.port, &["-takeover"]), silence());
}

#[test]
fn who_is_no_epmd_is_named_and_left_alone_whatever_force_is_asked_for() {
    for force in ["-takeover", "-takeover=force"] {
        for answer in [
            &b""[..],
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\0\0\x11\x11name a at port 1\n",
        ] {
            let stranger = Stranger::talking(Ipv4Addr::LOCALHOST.into(), answer);
            let output = take_over(stranger.port, &[force]);
            let own = format!("pid {} (", std::process::id());
            assert_says(
                &output,
                &[&own, "is no epmd whose place can be taken", "left alone"],
            );
        }
    }
    let silent = Stranger::silent(Ipv4Addr::LOCALHOST.into());
    let output = take_over(silent.port, &["-takeover=force"]);
    assert_says(&output, &["it does not answer a dump", "left alone"]);
}

#[test]
fn a_port_of_two_processes_is_neithers() {
    let other = Liar::telling(|port| dump(port, &[]), b"");
    let _both = TcpListener::bind(("127.0.0.2", other.port)).expect("a listener");
    let output = take_over(other.port, &["-takeover=force"]);
    let (own, its) = (
        std::process::id().to_string(),
        other.process.id().to_string(),
    );
    assert_says(&output, &["several", &own, &its, "127.0.0.1", "127.0.0.2"]);
}

/// Something that answers as an epmd, but not the truth; dropping it ends it. A process of its own, because
/// it may be held.
struct Liar {
    port: u16,
    process: Child,
}

/// Listens on a port, as descriptor 3, and answers dumps with the first text and lookups with the second.
const LIAR: &str = r#"
    use Socket;
    my ($port, $dump, $found) = @ARGV;
    socket(my $all, PF_INET, SOCK_STREAM, 0) or die;
    setsockopt($all, SOL_SOCKET, SO_REUSEADDR, 1);
    bind($all, sockaddr_in($port, INADDR_LOOPBACK)) or die;
    listen($all, 100) or die;
    while (accept(my $peer, $all)) {
        sysread($peer, my $request, 4096);
        my $answer = substr($request, 2, 1) eq "d" ? $dump : $found;
        syswrite($peer, pack("H*", $answer));
        close($peer);
    }"#;

impl Liar {
    fn telling(dump: impl FnOnce(u16) -> Vec<u8>, found: &[u8]) -> Self {
        let port = free_port();
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let process = Command::new("perl")
            .args([
                "-e",
                LIAR,
                &port.to_string(),
                &hex(&dump(port)),
                &hex(found),
            ])
            .spawn()
            .expect("perl");
        let liar = Self { port, process };
        wait_for("it to listen", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        liar
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An answer to a dump with these entries.
fn dump(port: u16, entries: &[&str]) -> Vec<u8> {
    let mut answer = u32::from(port).to_be_bytes().to_vec();
    for entry in entries {
        answer.extend(format!("active name     <{entry}\n\0").into_bytes());
    }
    answer
}

#[test]
fn a_dump_that_lies_is_found_out_and_its_process_left_alone() {
    let found = &lookup_answer(Some(&Node::new("x")))[..];
    let one = |number: &'static str| {
        move |port| dump(port, &[&format!("x> at port 4711, fd = {number}")])
    };
    let two = |port| dump(port, &["x> at port 1, fd = 5", "y> at port 2, fd = 5"]);
    let no_lookup = ["does not answer a lookup of \"x\"", COST];
    let not_true = ["whose dump is not true", COST];
    let changed = ["it has not been as it says", COST];
    for (mut liar, words) in [
        // No socket; a listening one; no descriptor at all.
        (Liar::telling(one("1"), found), changed),
        (Liar::telling(one("3"), found), not_true),
        (Liar::telling(one("999"), found), changed),
        (Liar::telling(|port| dump(port + 1, &[]), found), not_true),
        (Liar::telling(two, found), not_true),
        (Liar::telling(one("5"), b""), no_lookup),
        (Liar::telling(one("5"), b"w"), no_lookup),
        (Liar::telling(one("5"), b"nonsense"), no_lookup),
        (
            Liar::telling(one("5"), &lookup_answer(Some(&Node::new("y")))),
            no_lookup,
        ),
        (Liar::telling(one("5"), b"w\x01"), changed),
        (
            Liar::telling(|_| b"\0\0\x11\x11old/unused name <x\n".to_vec(), found),
            ["is no epmd whose place can be taken", "left alone"],
        ),
    ] {
        assert_says(&take_over(liar.port, &["-takeover"]), &words);
        assert!(liar.process.try_wait().expect("a status").is_none());
    }
}

#[test]
fn force_ends_an_epmd_that_cannot_be_taken_over_and_says_what_it_cost() {
    let mut old = old(Epmd::Stock);
    let nodes = Nodes::of_all_kinds(old.port, 3);
    let new = Detached { port: old.port };
    let name = name(&old);
    let output = with_failing("pidfd_getfd", "EPERM", old.port, &["-takeover=force"]);
    assert_eq!(output.status, Some(0), "{output:?}");
    let lines: Vec<_> = output.stderr.lines().collect();
    assert!(
        lines[0].contains("--system-call-filter=pidfd_getfd"),
        "{output:?}"
    );
    assert!(lines[1].contains(&format!("ended {name}")), "{output:?}");
    old.wait();
    assert_eq!(lookup(new.port, b"node1"), Answer::Bytes(b"w\x01".to_vec()));
    drop(nodes);
    // Where it can be taken over, force changes nothing.
    let nodes = Nodes::of_all_kinds(new.port, 3);
    assert_eq!(take_over(new.port, &["-takeover=force"]), silence());
    nodes.assert_all_as_before();
}

#[test]
fn by_hand_nothing_is_handed_to_systemd() {
    let mut old = old(Epmd::Stock);
    let nodes = Nodes::of_all_kinds(old.port, 3);
    let port = old.port.to_string();
    let output = Epmd::Ours.run(&["-takeover", "-systemd", "-port", &port]);
    assert_says(
        &output,
        &["NOTIFY_SOCKET is not set", "epmd -daemon -takeover"],
    );
    assert_goes_on(&mut old, &nodes);
    // The remedy.
    let _new = Detached { port: old.port };
    assert_eq!(take_over(old.port, &["-takeover"]), silence());
    nodes.assert_all_as_before();
}

#[test]
fn an_epmd_that_ends_meanwhile_is_no_loss() {
    for _ in 0..10 {
        let mut old = old(Epmd::Stock);
        let _new = Detached { port: old.port };
        let _ = to(old.port).write_all(&frame(b"n"));
        let port = old.port;
        let output = thread::scope(|scope| {
            let output = scope.spawn(|| take_over(port, &["-takeover"]));
            old.signal(Signal::SIGKILL);
            output.join().expect("a thread")
        });
        old.wait();
        // Whichever was first: ours runs, or has said that the other has ended.
        match output.status {
            Some(0) => assert_eq!(output, silence()),
            _ => assert_says(&output, &["epmd"]),
        }
    }
}

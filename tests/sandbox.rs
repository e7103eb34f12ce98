//! What the daemon can do once it has shut itself in: tried from within the running process, in each of its
//! threads. And what it needs goes on working; what it can't do any more it says.
//!
//! Needs root, and a kernel with Landlock.

#![cfg(target_arch = "x86_64")]
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use common::binary::{Epmd, NOBODY_READS, Output, finish, text};
use common::daemon::Setup;
use common::host::{Detached, process};
use common::inject::{Outside, Thread, succeeds, threads};
use common::netns::{Host, lone_host};
use common::service::{Launch, Manager, Service, found};
use common::{PATIENCE, wait_for};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

const NOBODY: [&str; 4] = [
    "setpriv",
    "--reuid=65533",
    "--regid=65533",
    "--clear-groups",
];
const METRICS: &str = "[metrics]\nlisten = \"127.0.0.1:9436\"\n";
const METRICS_PORT: u16 = 9436;
/// The version of Landlock's rights that this epmd asks for at most.
const NEWEST: u64 = 7;
/// What a thread may not be without.
const TCP: u64 = 4;
const SIGNALS: u64 = 6;

/// What a process is to be kept from on a host, and who listens there.
struct Kept {
    outside: Outside,
    _listener: TcpListener,
    _folder: TempDir,
}

fn outside(host: &Host) -> Kept {
    // Not where the settings are: a service may read that folder.
    let tmp = tempfile::tempdir().expect("a folder");
    let folder = tmp.path();
    fs::set_permissions(folder, Permissions::from_mode(0o777)).expect("a mode");
    // Who is not root has to get there.
    fs::set_permissions(host.file(""), Permissions::from_mode(0o711)).expect("a mode");
    let file = folder.join("file");
    fs::write(&file, "precious").expect("a file");
    fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("a mode");
    let bind = || host.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    let (listener, free) = (bind(), port(&bind()));
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    Kept {
        outside: Outside {
            file: path(&file),
            folder: path(folder),
            port: port(&listener),
            free,
        },
        _listener: listener,
        _folder: tmp,
    }
}

/// A folder for the control socket of who may not make one in /run.
fn give_run_to_nobody(host: &Host) {
    let made =
        host.run(Command::new("install").args(["-d", "-o", "65533", "-m", "755", "/run/epmd"]));
    assert_eq!(made, Output::new(0, "", ""));
}

/// The daemon's answer on its control socket.
fn status(host: &Host) -> Value {
    let answer = host.enter(|| {
        let mut socket = UnixStream::connect("/run/epmd/control.sock").expect("a control socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.write_all(b"status\n").expect("asked");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        answer
    });
    serde_json::from_str(&answer).expect("JSON")
}

/// What the daemon says is in force; all of it must be.
fn all_in_force(host: &Host) -> u64 {
    let told = status(host)["sandbox"].clone();
    let version = told["landlock"].as_u64().unwrap_or_default();
    assert_eq!(
        told,
        json!({"no_new_privs": true, "capabilities": false, "landlock": version, "off": false}),
        "the kernel of this machine must have Landlock (Linux 6.7 or later)"
    );
    assert!((TCP..=NEWEST).contains(&version), "{version}");
    version
}

/// Fails the test if anything that should not works from within a process.
fn assert_shut_in(pid: u32, kept: &Kept, version: u64) {
    let mut done = succeeds(pid, &kept.outside);
    done.retain(|what| version >= SIGNALS || !what.starts_with("a signal"));
    assert!(done.is_empty(), "{done:#?}");
    let here = fs::read_to_string(&kept.outside.file).expect("the file");
    assert_eq!(here, "precious");
    for (id, name) in threads(pid) {
        let path = format!("/proc/{pid}/task/{id}/status");
        let status = fs::read_to_string(path).expect("a status");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let line = format!("{set}:\t0000000000000000\n");
            // Only who had some can take them out of what programs could bring.
            assert!(
                status.contains(&line) || set == "CapBnd",
                "{name}: {set}: {status}"
            );
        }
        assert!(status.contains("NoNewPrivs:\t1\n"), "{name}: {status}");
    }
}

fn names_of_threads(pid: u32) -> BTreeSet<String> {
    threads(pid).into_iter().map(|(_, name)| name).collect()
}

#[test]
fn whoever_starts_it_nothing_works_from_within_it() {
    // Where the stack is small the daemon runs on another thread than the first.
    let small = ["prlimit", "--stack=65536"];
    let starts: [(&str, Vec<&str>, bool); 5] = [
        ("root", vec![], false),
        ("root, as a service", vec![], true),
        ("a user", NOBODY.to_vec(), false),
        ("a user, as a service", NOBODY.to_vec(), true),
        ("root, with a small stack", small.to_vec(), false),
    ];
    for (who, wrapper, is_service) in starts {
        eprintln!("{who}");
        let host = lone_host();
        if wrapper == NOBODY {
            give_run_to_nobody(&host);
        }
        let kept = outside(&host);
        let mut launch = Launch::on(&host).config(METRICS).wrapped(&wrapper);
        let manager = Manager::on(&host);
        fs::set_permissions(host.file("notify"), Permissions::from_mode(0o666)).expect("a mode");
        if is_service {
            launch = launch
                .under(&manager)
                .variable("RUNTIME_DIRECTORY", "/run/epmd");
        }
        let service = launch.start();
        if is_service {
            manager.wait_until_told("READY=1");
        }
        let _name = service.hold("api");
        service.wait_until_said("metrics at http://127.0.0.1:9436/metrics");
        let version = all_in_force(&host);
        let names = names_of_threads(service.pid());
        for name in [
            "epmd",
            "epmd-accept",
            "epmd-watch",
            "epmd-log",
            "epmd-metrics",
        ] {
            assert!(names.contains(name), "{names:?}");
        }
        // Both families' wildcards have two queues, and each queue its thread.
        let count = if wrapper.contains(&"prlimit") { 9 } else { 8 };
        assert_eq!(threads(service.pid()).len(), count, "{names:?}");
        assert_shut_in(service.pid(), &kept, version);
        // It goes on as if nothing had been; and there is nothing to say.
        assert_eq!(service.ask(b"zapi"), found("api"));
        assert!(!service.said().contains("sandbox"), "{}", service.said());
        // What it needs: reading the file again, and the exporter's port.
        let (id, _) = threads(service.pid()).remove(0);
        let thread = Thread::stop(service.pid(), id);
        assert_eq!(
            thread.tcp(libc::SYS_bind, METRICS_PORT),
            Err(Errno::EADDRINUSE)
        );
        drop(thread);
        service.reload("[audit]\nformat = \"json\"\n");
        assert!(
            service.said().contains("\"message\":\"reloaded: "),
            "{}",
            service.said()
        );
    }
}

/// Without it all of that works: so it is the sandbox that forbids it.
#[test]
fn with_no_sandbox_all_of_it_works_and_that_is_said() {
    let host = lone_host();
    let kept = outside(&host);
    let service = Launch::on(&host).arguments(&["-no_sandbox"]).start();
    service.wait_until_said("no sandbox (-no_sandbox)");
    let told = status(&host)["sandbox"].clone();
    assert_eq!(
        told,
        json!({"no_new_privs": false, "capabilities": true, "landlock": null, "off": true})
    );
    let output = host.run(Epmd::Ours.command().arg("-status"));
    let line = "\nsandbox: none, by -no_sandbox: new privileges possible, with capabilities, no Landlock\n";
    assert!(output.stdout.contains(line), "{output:?}");
    let all = threads(service.pid());
    let (id, _) = all.last().expect("a thread");
    let thread = Thread::stop(service.pid(), *id);
    let tries = thread.tries(&kept.outside);
    for (what, result) in tries {
        assert!(result.is_ok(), "{what}: {result:?}");
    }
    assert!(!Path::new(&kept.outside.file).exists());
}

/// As most epmds in the world are started: by a node, as its user.
#[test]
fn an_epmd_that_erl_has_started_is_shut_in() {
    let host = lone_host();
    give_run_to_nobody(&host);
    let kept = outside(&host);
    let place = "for epmd in /usr/lib/erlang/erts-*/bin/epmd; do mount --bind \"$0\" $epmd; done";
    let mounted = host.run(
        Command::new("sh")
            .args(["-c", place])
            .arg(Epmd::Ours.path()),
    );
    assert_eq!(mounted, Output::new(0, "", ""), "Debian's erlang-base");
    let [setpriv, user @ ..] = NOBODY;
    let said = tempfile::tempfile().expect("a file");
    let mut node = host.spawn(
        Command::new(setpriv)
            .args(user)
            .args(["erl", "-sname", "started", "-setcookie", "x", "-noshell"])
            .args(["-eval", "receive after infinity -> ok end."])
            .env("HOME", &kept.outside.folder)
            .current_dir(&kept.outside.folder)
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a second descriptor"))
            .stderr(said.try_clone().expect("a second descriptor")),
    );
    let at = Ipv4Addr::LOCALHOST.into();
    wait_for("the node to register", || {
        let _ = host.try_connect(at).ok()?;
        let answer = host.ask(at, b"zstarted");
        matches!(answer, common::wire::Answer::Bytes(bytes) if bytes.get(1) == Some(&0))
            .then_some(())
    });
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let here = namespace(node.id());
    let epmd = process::all()
        .into_iter()
        .find(|pid| process::name(*pid) == "epmd" && namespace(*pid) == here)
        .expect("the daemon");
    let version = all_in_force(&host);
    assert_shut_in(epmd, &kept, version);
    assert!(matches!(
        host.ask(at, b"zstarted"),
        common::wire::Answer::Bytes(_)
    ));
    node.kill().expect("an end");
    node.wait().expect("a status");
    // Nor does it say anything of that, to whoever starts a node.
    let said = text(&said);
    let mut lines = said.lines().filter(|line| line.contains("epmd:"));
    assert!(lines.all(|line| line.starts_with(NOBODY_READS)), "{said}");
}

/// As editors, packages and ConfigMaps put another file in the settings' place.
#[test]
fn settings_that_are_replaced_are_read_again_in_a_folder_of_their_own() {
    let host = lone_host();
    let folder = host.file("own");
    let (one, other) = (folder.join("..1"), folder.join("..2"));
    for (version, text) in [(&one, ""), (&other, "[access]\nallow = [\"10.0.0.2\"]\n")] {
        fs::create_dir_all(version).expect("a folder");
        fs::write(version.join("epmd.toml"), text).expect("a file");
    }
    symlink("..1", folder.join("..data")).expect("a link");
    let path = folder.join("epmd.toml");
    symlink("..data/epmd.toml", &path).expect("a link");
    let service = Launch::on(&host)
        .arguments(&["-config", path.to_str().expect("UTF-8")])
        .start();
    all_in_force(&host);
    symlink("..2", folder.join("..data_tmp")).expect("a link");
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("another link");
    fs::remove_dir_all(&one).expect("the old one to be gone");
    service.signal(Signal::SIGHUP);
    service.wait_until_said("reloaded: serving this host, 10.0.0.2");
    // A file in place of the link, and one in place of that.
    for last in [3, 4] {
        let new = folder.join("new");
        fs::write(&new, format!("[access]\nallow = [\"10.0.0.{last}\"]\n")).expect("a file");
        fs::rename(&new, &path).expect("another file");
        service.signal(Signal::SIGHUP);
        service.wait_until_said(&format!("reloaded: serving this host, 10.0.0.{last}"));
    }
}

/// A folder that holds a secret of somebody's is not opened for the settings' sake: the file is, as it is.
#[test]
fn where_other_things_are_beside_the_settings_a_replaced_file_is_said_with_what_to_do() {
    let host = lone_host();
    let secret = host.file("secret");
    fs::write(&secret, "precious").expect("a file");
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("a mode");
    let mut kept = outside(&host);
    kept.outside.file = secret.to_str().expect("UTF-8").to_owned();
    let service = Service::start(&host, "");
    let version = all_in_force(&host);
    assert_shut_in(service.pid(), &kept, version);
    let _name = service.hold("api");
    service.reload("[access]\nallow = [\"10.0.0.2\"]\n");
    assert!(
        service
            .said()
            .contains("reloaded: serving this host, 10.0.0.2")
    );
    let new = host.file("new");
    fs::write(&new, "[access]\nallow = [\"10.0.0.3\"]\n").expect("a file");
    fs::rename(&new, service.config()).expect("another file");
    service.signal(Signal::SIGHUP);
    service.wait_until_said("not reloaded, the settings from before stay in force");
    let said = service.said();
    for words in [
        "is not the file that was there when this epmd started",
        "as root, `epmd -daemon -takeover` does and loses nothing",
    ] {
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn what_it_says_of_a_replaced_file_helps_and_loses_nothing() {
    // The folder of all temporary files, which many share.
    let mut daemon = Setup::of(Epmd::Ours).config("").start();
    let _name = daemon.hold("api");
    let path = daemon.config().expect("a file").to_owned();
    let new = path.with_extension("new");
    fs::write(&new, "[audit]\nwindow = \"77s\"\n").expect("a file");
    fs::rename(&new, &path).expect("another file");
    daemon.signal(Signal::SIGHUP);
    wait_for("what to do", || {
        let said = daemon.stderr();
        let remedy = "as root, `epmd -daemon -takeover` does and loses nothing";
        said.contains(remedy).then_some(())
    });
    let after = Detached { port: daemon.port };
    let mut again = Epmd::Ours.command();
    again.args(["-port", &daemon.port.to_string(), "-daemon", "-takeover"]);
    let output = finish(again.arg("-config").arg(&path)).wherever_it_logs();
    assert_eq!(output, Output::new(0, "", ""));
    daemon.wait();
    assert!(daemon.knows("api"));
    assert_ne!(after.pid(), daemon.pid());
}

fn exporter(host: &Host, address: [u8; 4], port: u16) -> Option<()> {
    host.enter(|| {
        TcpStream::connect((Ipv4Addr::from(address), port))
            .ok()
            .map(drop)
    })
}

#[test]
fn the_exporter_moves_to_another_address_and_a_port_that_it_can_not_have_is_said() {
    let host = lone_host();
    let service = Service::start(&host, METRICS);
    wait_for("the exporter", || {
        exporter(&host, [127, 0, 0, 1], METRICS_PORT)
    });
    all_in_force(&host);
    service.reload("[metrics]\nlisten = \"127.0.0.2:9436\"\n");
    wait_for("the exporter", || {
        exporter(&host, [127, 0, 0, 2], METRICS_PORT)
    });
    service.reload("[metrics]\nlisten = \"127.0.0.1:9437\"\n");
    service.wait_until_said("has a port that this epmd can't bind any more");
    assert!(
        service.said().contains("when epmd is started again"),
        "{}",
        service.said()
    );
    assert!(
        exporter(&host, [127, 0, 0, 2], METRICS_PORT).is_some(),
        "it stays where it was"
    );
    service.reload("");
    wait_for("the exporter to be gone", || {
        exporter(&host, [127, 0, 0, 2], METRICS_PORT)
            .is_none()
            .then_some(())
    });
    service.reload(METRICS);
    wait_for("the exporter", || {
        exporter(&host, [127, 0, 0, 1], METRICS_PORT)
    });
}

/// Under strace, which makes a system call of the sandbox fail, or tell of another kernel. The epmd under
/// it says what could not be had, in a line for each, tells `-status` the truth, and serves.
fn with_a_fault(inject: &str, expected: &Value, said: &[&str]) {
    let host = lone_host();
    let trace = format!("--inject={inject}");
    let service = Launch::on(&host)
        .wrapped(&["strace", "-f", "-qq", "-o", "/dev/null", &trace])
        .start();
    let _name = service.hold("api");
    assert_eq!(service.ask(b"zapi"), found("api"), "{inject}");
    assert_eq!(
        status(&host)["sandbox"],
        *expected,
        "{inject}: {}",
        service.said()
    );
    service.wait_until_said("serving this host alone\n");
    if let Some(last) = said.last() {
        service.wait_until_said(last);
    }
    let all = service.said();
    let lines: Vec<_> = all.lines().filter(|it| it.contains("sandbox")).collect();
    assert_eq!(lines.len(), said.len(), "{inject}: {lines:?}");
    for (line, words) in lines.iter().zip(said) {
        assert!(line.contains(words), "{inject}: {lines:?}");
    }
}

/// What `-status` is to tell.
fn told(no_new_privs: bool, capabilities: bool, landlock: Option<u64>) -> Value {
    json!({"no_new_privs": no_new_privs, "capabilities": capabilities, "landlock": landlock, "off": false})
}

#[test]
fn a_kernel_without_landlock_or_with_an_older_one_is_served_on() {
    for (error, words) in [
        ("ENOSYS", "this kernel has no Landlock"),
        ("EPERM", "a seccomp filter does not let it be used"),
        (
            "EOPNOTSUPP",
            "not switched on (landlock in the kernel's option lsm=)",
        ),
    ] {
        let inject = format!("landlock_create_ruleset:error={error}");
        with_a_fault(&inject, &told(true, false, None), &[words]);
    }
    // A version of its rights is asked for first: Debian 12 has 2, Ubuntu 24.04 has 4, Debian 13 has 6.
    for version in [1, 2, 4, 6] {
        let inject = format!("landlock_create_ruleset:retval={version}:when=1");
        with_a_fault(&inject, &told(true, false, Some(version)), &[]);
    }
    for call in ["landlock_add_rule", "landlock_restrict_self"] {
        let inject = format!("{call}:error=EPERM");
        with_a_fault(
            &inject,
            &told(true, false, None),
            &["Landlock can't be had"],
        );
    }
}

#[test]
fn where_privileges_and_capabilities_can_not_be_given_up_it_serves_and_says_so() {
    let host = lone_host();
    let daemon = Service::start(&host, "");
    let newest = Some(all_in_force(&host));
    drop(daemon);
    let stay = "the capabilities that it was started with stay";
    with_a_fault("capset:error=EPERM", &told(true, true, newest), &[stay]);
    // Without the one, and without capabilities, the kernel gives nobody Landlock.
    let could = "new privileges could still be had";
    with_a_fault(
        "prctl:error=EPERM",
        &told(false, false, None),
        &[could, "Landlock can't be had"],
    );
}

/// The process that strace runs.
fn epmd_under(strace: &Service<'_>) -> Pid {
    let children = format!("/proc/{0}/task/{0}/children", strace.pid());
    let children = fs::read_to_string(children).expect("a process");
    let epmd = children.split_whitespace().next().expect("a child");
    Pid::from_raw(epmd.parse().expect("a number"))
}

/// What the sandbox is for must not be what it breaks: everything that a daemon opens, connects to or binds
/// while it is at work is seen, and nothing of it fails that did not fail without.
#[test]
fn nothing_that_the_daemon_does_fails_by_its_own_sandbox() {
    let host = lone_host();
    let trace = host.file("trace");
    let path = trace.to_str().expect("UTF-8");
    let calls = "--trace=%file,%network,landlock_restrict_self,kill,ptrace";
    let service = Launch::on(&host)
        .config(METRICS)
        .wrapped(&["strace", "-f", "-qq", "-o", path, calls])
        .start();
    let name = service.hold("api");
    assert_eq!(service.ask(b"zapi"), found("api"));
    service.ask(b"n");
    service.ask(b"d");
    wait_for("the exporter", || {
        exporter(&host, [127, 0, 0, 1], METRICS_PORT)
    });
    all_in_force(&host);
    for config in [
        &format!("{METRICS}[audit]\nformat = \"json\"\n"),
        "[metrics]\nlisten = \"127.0.0.2:9436\"\n",
    ] {
        fs::write(service.config(), config).expect("a file");
        let reloads = || service.said().matches("reloaded: ").count();
        let before = reloads();
        kill(epmd_under(&service), Signal::SIGHUP).expect("a process");
        wait_for("the reload", || (reloads() > before).then_some(()));
    }
    wait_for("the exporter", || {
        exporter(&host, [127, 0, 0, 2], METRICS_PORT)
    });
    drop(name);
    wait_for("the name to be free", || {
        (service.ask(b"zapi") == common::wire::Answer::Bytes(b"w\x01".to_vec())).then_some(())
    });
    let text = fs::read_to_string(&trace).expect("a trace");
    let (_, inside) = text
        .split_once("landlock_restrict_self")
        .unwrap_or(("", &text));
    // -status tries whether it holds.
    let denied: Vec<_> = inside
        .lines()
        .filter(|line| line.contains("EACCES") || line.contains("EPERM"))
        .filter(|line| !line.contains("\"/\", O_RDONLY"))
        .collect();
    assert!(denied.is_empty(), "{denied:#?}");
}

/// The kernel takes no rule for what has no place among the files.
#[test]
fn settings_out_of_a_pipe_are_no_hindrance() {
    let host = lone_host();
    let with_a_pipe = "exec \"$0\" -config <(echo) \"$@\"";
    let service = Launch::on(&host)
        .wrapped(&["bash", "-c", with_a_pipe])
        .start();
    all_in_force(&host);
    assert!(!service.said().contains("sandbox"), "{}", service.said());
}

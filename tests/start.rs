//! What the start needs and what it goes on without: streams that can't be written, no /dev/null, what it
//! has inherited, the mask of files' modes, settings that can be read but once.
//!
//! docs/faults.md has what becomes of each system call that fails.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::binary::{Epmd, Output, finish, spawn, text};
use common::host::{Detached, free_port, process};
use common::netns::{Host, lone_host};
use common::service::{Launch, Service, found};
use common::store::Store;
use common::wait_for;
use common::wire::{Node, Registered, ask, frame, register};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LOCALHOST: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

// --- /dev/null ---

/// A shell in whose own /dev there is nothing, until it has done what it is told.
fn without_devices(does: &str) -> [String; 6] {
    let script = format!("mount -t tmpfs none /dev && {does} exec \"$@\"");
    ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned)
}

/// `epmd -daemon` by way of these words.
fn daemon_by(host: &Host, wrapper: &[String]) -> Output {
    let words: Vec<_> = wrapper.iter().map(String::as_str).collect();
    let launch = Launch::on(host).wrapped(&words).arguments(&["-daemon"]);
    launch.run().wherever_it_logs()
}

#[test]
fn without_dev_null_who_starts_a_daemon_hears_that_there_is_none() {
    let host = lone_host();
    for does in [
        "",
        "mkdir /dev/null;",
        "ln -s nowhere /dev/null;",
        "mknod /dev/null c 99 99;",
    ] {
        let output = daemon_by(&host, &without_devices(does));
        assert_eq!(output.status, Some(1), "{does}: {output:?}");
        let words = "epmd: can't detach: can't open /dev/null, where a daemon's streams lead: ";
        assert!(output.stderr.starts_with(words), "{does}: {output:?}");
        let error = host.try_connect(LOCALHOST).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{does}");
    }
    // The remedy of the message.
    let remedy = "mknod -m 666 /dev/null c 1 3";
    let output = daemon_by(&host, &without_devices(""));
    assert!(output.stderr.contains(&format!("`{remedy}`")), "{output:?}");
    let output = daemon_by(&host, &without_devices(&format!("{remedy};")));
    assert_eq!(output, Output::new(0, "", ""));
    let _name = register(host.connect(LOCALHOST), &Node::new("api")).held();
    assert_eq!(host.ask(LOCALHOST, b"zapi"), found("api"));
}

// --- what it has inherited ---

/// By close_range(2), by /proc/self/fd, and by one number after the other; also above a limit that came
/// later.
#[test]
fn a_daemon_keeps_no_descriptor_of_its_callers_whatever_way_there_is_to_close_it() {
    let kept = tempfile::NamedTempFile::new().unwrap();
    let kept = kept.path().to_str().unwrap();
    for refused in ["", "ENOSYS", "EPERM"] {
        for proc_goes in ["", "umount -l /proc &&"] {
            let strace = match refused {
                "" => String::new(),
                error => format!(
                    "strace -D -f --seccomp-bpf -qq -o /dev/null -e trace=close_range \
                     -e inject=close_range:error={error}"
                ),
            };
            let script = format!(
                "{proc_goes} exec 9<{kept} 300<{kept} && ulimit -n 100 && exec {strace} \"$@\""
            );
            let detached = Detached::on_free_port();
            let wrapper = ["unshare", "--mount", "bash", "-c", &script, "bash"];
            let mut command = Epmd::Ours.wrapped(&wrapper);
            command.args(["-port", &detached.port.to_string(), "-daemon"]);
            let what = format!("{refused:?}, {proc_goes:?}");
            let output = finish(&mut command).wherever_it_logs();
            assert_eq!(output, Output::new(0, "", ""), "{what}");
            for (number, target) in process::descriptors(detached.pid()) {
                // What the kernel says is kept open where the sandbox would not let it be opened again.
                let is_files = target.starts_with("/")
                    && target != Path::new("/dev/null")
                    && !target.starts_with("/proc");
                assert!(!is_files, "{what}: {number} leads to {target:?}");
                assert!(number < 100, "{what}: {number}");
            }
        }
    }
}

// --- the mask of files' modes ---

/// The permissions of a file on the host.
fn mode(host: &Host, path: &Path) -> u32 {
    host.enter(|| fs::symlink_metadata(path).unwrap().mode() & 0o7777)
}

/// Anybody could put a control socket into a folder that anybody may write to.
#[test]
fn the_control_socket_has_its_modes_whatever_the_mask() {
    let own = Path::new("/run/epmd");
    let units = Path::new("/run/units");
    for mask in ["0", "002", "022", "077", "0777"] {
        let script = format!("umask {mask}; exec \"$@\"");
        let wrapper = ["sh", "-c", &script, "sh"];
        for (folder, arguments) in [(own, &[][..]), (own, &["-daemon"]), (units, &["-systemd"])] {
            let host = lone_host();
            let launch = Launch::on(&host)
                .wrapped(&wrapper)
                .arguments(arguments)
                .variable("RUNTIME_DIRECTORY", "/run/units");
            let _service = if arguments == ["-daemon"] {
                assert_eq!(launch.run().status, Some(0));
                None
            } else {
                Some(launch.start())
            };
            let modes = (
                mode(&host, folder),
                mode(&host, &folder.join("control.sock")),
            );
            assert_eq!(modes, (0o755, 0o600), "umask {mask}, {arguments:?}");
        }
    }
}

/// What was made with other modes before, by whomever, is not used, and the message's remedy mends it.
#[test]
fn a_folder_that_others_may_write_to_gets_no_control_socket() {
    for (folder, arguments) in [("/run/epmd", &[][..]), ("/run/units", &["-systemd"])] {
        for open in [0o777, 0o775, 0o757, 0o1777] {
            let host = lone_host();
            host.enter(|| {
                fs::create_dir(folder).unwrap();
                fs::set_permissions(folder, Permissions::from_mode(open)).unwrap();
            });
            let start = || {
                let launch = Launch::on(&host).arguments(arguments);
                launch.variable("RUNTIME_DIRECTORY", "/run/units").start()
            };
            let service = start();
            service.wait_until_said(&format!("no control socket at {folder}/control.sock"));
            let remedy = format!("chmod 755 {folder}");
            assert!(service.said().contains(&format!("`{remedy}`")));
            let _name = service.hold("api");
            assert_eq!(service.ask(b"zapi"), found("api"));
            drop(service);
            let mended = host.run(Command::new("sh").args(["-c", &remedy]));
            assert_eq!(mended, Output::new(0, "", ""));
            let _service = start();
            assert_eq!(
                mode(&host, &PathBuf::from(folder).join("control.sock")),
                0o600
            );
        }
    }
}

// --- streams that can't be written ---

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    /// Nothing.
    Good,
    /// /dev/full: there is no room.
    Full,
    /// A pipe whose reader has gone.
    Broken,
    /// There is none.
    Closed,
}

impl Stream {
    const BAD: [Self; 3] = [Self::Full, Self::Broken, Self::Closed];

    /// What a command gets in its place.
    fn stdio(self) -> Option<Stdio> {
        match self {
            Self::Full => Some(
                File::options()
                    .write(true)
                    .open("/dev/full")
                    .unwrap()
                    .into(),
            ),
            Self::Broken => Some(std::io::pipe().unwrap().1.into()),
            Self::Good | Self::Closed => None,
        }
    }
}

/// Runs epmd on a host with these streams; with a closed one by way of a shell.
fn with_streams(host: &Host, arguments: &[&str], stdout: Stream, stderr: Stream) -> Output {
    let closes = |number, stream| match stream {
        Stream::Closed => format!("{number}>&-"),
        _ => String::new(),
    };
    let script = format!("exec \"$@\" {} {}", closes(1, stdout), closes(2, stderr));
    let mut command = Epmd::Ours.wrapped(&["sh", "-c", &script, "sh"]);
    command.args(arguments);
    let [mut said, mut told] = [(); 2].map(|()| tempfile::tempfile().unwrap());
    for (stream, file, is_stdout) in [(stdout, &mut said, true), (stderr, &mut told, false)] {
        let to = stream
            .stdio()
            .unwrap_or_else(|| file.try_clone().unwrap().into());
        if is_stdout {
            command.stdout(to);
        } else {
            command.stderr(to);
        }
    }
    let mut child = host.spawn(&mut command);
    let status = wait_for("the command to end", || child.try_wait().unwrap());
    Output {
        status: status.code(),
        stdout: text(&said),
        stderr: text(&told),
    }
}

/// Whoever reads the words of a command has gone, or has no room: that is its status, 1, where it has words
/// for there; never a panic, and no word about it to a stream that is there.
#[test]
fn no_command_panics_where_its_streams_cannot_be_written() {
    let host = lone_host();
    let service = Service::start(&host, "");
    let _name = service.hold("api");
    let good = host.file("good.toml");
    fs::write(&good, "[limits]\nconnections = 9\n").unwrap();
    let bad = host.file("bad.toml");
    fs::write(&bad, "=\n".repeat(300)).unwrap();
    let [good, bad] = [&good, &bad].map(|path| path.to_str().unwrap());
    for arguments in [
        &["-names"][..],
        &["-dump"],
        &["-status"],
        &["-status", "-json"],
        &["-refused"],
        &["-refused", "-json"],
        &["-doctor"],
        &["-doctor", "-json"],
        &["-started"],
        &["-kill"],
        &["-stop", "api"],
        &["-check_config", "-config", good],
        &["-check_config", "-config", bad],
        &["-config", bad],
        &["-config", bad, "-daemon"],
        &["-config", "/nonexistent"],
        &["-help"],
        &["-version"],
        &["-port", "x", "-names"],
        &["-nonsense"],
        &["-daemon"],
        // Its port is the daemon's.
        &[],
    ] {
        let usual = with_streams(&host, arguments, Stream::Good, Stream::Good);
        assert_ne!(usual.status, None, "{arguments:?}: {usual:?}");
        let speaks = !usual.stdout.is_empty();
        for bad in Stream::BAD {
            let good = Stream::Good;
            for (stdout, stderr) in [(bad, good), (good, bad), (bad, bad)] {
                let output = with_streams(&host, arguments, stdout, stderr);
                let what = format!("{arguments:?}, {stdout:?}, {stderr:?}: {output:?}");
                // What has no such stream from the start has /dev/null there, and writes into that.
                let is_lost = matches!(stdout, Stream::Full | Stream::Broken);
                let expected = match usual.status {
                    Some(0) if speaks && is_lost => Some(1),
                    status => status,
                };
                assert_eq!(output.status, expected, "{what}");
                assert!(!output.stderr.contains("panicked"), "{what}");
            }
        }
    }
    service.assert_alive();
}

#[test]
fn a_daemon_whose_log_cannot_be_written_serves_all_the_same() {
    let host = lone_host();
    for format in ["auto", "journald", "json", "text"] {
        for stream in Stream::BAD {
            let config = format!("[audit]\nformat = \"{format}\"\n");
            let mut launch = Launch::on(&host).config(&config).arguments(&["-d"]);
            launch = match stream.stdio() {
                Some(stdio) => launch.stderr(stdio),
                None => launch.wrapped(&["sh", "-c", "exec \"$@\" 2>&-", "sh"]),
            };
            let mut service = launch.start();
            let _name = service.hold("api");
            service.signal(Signal::SIGHUP);
            assert_eq!(service.ask(b"zapi"), found("api"), "{format}, {stream:?}");
            service.signal(Signal::SIGTERM);
            assert_eq!(service.status().code(), Some(0), "{format}, {stream:?}");
        }
    }
}

/// `-systemd` on a free port, which gets from `store` what it holds; it answers when this returns.
fn of_store(store: &mut Store, port: u16, config: &Path, stderr: Stdio) -> std::process::Child {
    let (script, lent) = store.script();
    let mut command = Epmd::Ours.wrapped(&["/bin/bash", "-c", &script, "bash"]);
    command
        .args(["-port", &port.to_string(), "-systemd"])
        .env("NOTIFY_SOCKET", store.path())
        .env("EPMD_CONFIG", config)
        .stderr(stderr);
    let mut daemon = spawn(&mut command);
    drop(lent);
    wait_for("the daemon to serve", || {
        assert_eq!(daemon.try_wait().unwrap(), None, "it ended");
        store.hear();
        let ready = std::mem::take(&mut store.told).contains("READY=1");
        ready.then_some(())
    });
    daemon
}

/// The registrations are worth more than the words about the file.
#[test]
fn a_warm_start_with_a_bad_file_keeps_its_names_where_stderr_cannot_be_written() {
    let config = tempfile::NamedTempFile::new().unwrap();
    for stream in Stream::BAD {
        let stderr = || stream.stdio().unwrap_or_else(Stdio::null);
        fs::write(config.path(), "").unwrap();
        let (mut store, port) = (Store::new(), free_port());
        let mut daemon = of_store(&mut store, port, config.path(), Stdio::null());
        let (mut held, _) = register(common::connect(LOCALHOST, port), &Node::new("api")).held();
        store.hear();
        fs::write(config.path(), "=\n".repeat(300)).unwrap();
        for _ in 0..3 {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
            store.hear();
            daemon = of_store(&mut store, port, config.path(), stderr());
            let asked = ask(common::connect(LOCALHOST, port), &frame(b"zapi"));
            assert_eq!(asked, found("api"), "{stream:?}");
        }
        kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert_eq!(daemon.wait().unwrap().code(), Some(0));
        // It is kept for the next one.
        held.set_nonblocking(true).unwrap();
        let nothing = std::io::Read::read(&mut held, &mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock, "{stream:?}");
    }
}

// --- settings that cost much ---

/// Whatever is in a file of the largest size, reading it takes some 100 MB and less than a second, in the
/// running daemon too.
#[test]
fn a_file_of_the_largest_size_costs_bounded_memory() {
    const SIZE: usize = 4 * 1024 * 1024;
    const MOST_MEMORY: &str = "--data=167772160";
    let lines = |line: &str| line.repeat(SIZE / line.len());
    let numbered = |line: &dyn Fn(usize) -> String| -> String {
        let all = (0..).map(line);
        let mut size = 0;
        let fits = |line: &String| {
            size += line.len();
            size < SIZE - 32
        };
        all.take_while(fits).collect()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let network = |n: usize| format!("\"10.{}.{}.0/24\",", n / 256 % 256, n % 256);
    for (kind, text) in [
        ("equals signs", lines("=\n")),
        ("unknown keys", numbered(&|n| format!("k{n}=1\n"))),
        (
            "numbers in a list",
            format!("listen=[{}]", lines("1,").split_at(SIZE - 64).0),
        ),
        ("braces", lines("{a=")),
        ("dots", lines("a.")),
        ("brackets", lines("[")),
        ("nodes", numbered(&|n| format!("[access.node.n{n}]\n"))),
        ("networks", format!("access.allow=[{}]", numbered(&network))),
        ("newlines", lines("\n")),
        ("a long string", format!("a=\"{}", "x".repeat(SIZE - 8))),
    ] {
        fs::write(file.path(), text).unwrap();
        let mut check = Epmd::Ours.wrapped(&["prlimit", MOST_MEMORY]);
        check.arg("-check_config").env("EPMD_CONFIG", file.path());
        let output = finish(&mut check);
        assert!(matches!(output.status, Some(0 | 78)), "{kind}: {output:?}");
    }
}

// --- settings that can be read but once ---

/// What a descriptor leads to is another thing once who started the daemon is gone: what was read stays
/// in force, and that is said at the start and at a reload.
#[test]
fn settings_that_came_by_a_descriptor_are_kept_at_a_reload() {
    let host = lone_host();
    let text = host.file("settings");
    fs::write(
        &text,
        "[audit]\nformat = \"json\"\n[limits]\nregistrations = 1\n",
    )
    .unwrap();
    let text = text.to_str().unwrap();
    let link = host.file("link");
    std::os::unix::fs::symlink("/dev/stdin", &link).unwrap();
    let link = link.to_str().unwrap();
    for (script, name) in [
        (format!("exec \"$@\" -config <(cat {text})"), "/dev/fd/"),
        (
            format!("exec \"$@\" -config /dev/stdin < {text}"),
            "/dev/stdin",
        ),
        (
            format!("exec \"$@\" -config /dev/stdin < <(cat {text})"),
            "/dev/stdin",
        ),
        (format!("exec \"$@\" -config {link} < {text}"), link),
        (
            format!("exec 5< {text}; exec \"$@\" -config /proc/self/fd/5"),
            "/proc/self/fd/5",
        ),
        (
            format!("EPMD_CONFIG=/dev/stdin exec \"$@\" < {text}"),
            "/dev/stdin",
        ),
    ] {
        let service = Launch::on(&host)
            .wrapped(&["/bin/bash", "-c", &script, "bash"])
            .start();
        let said = format!("the settings came by way of a descriptor ({name}");
        service.wait_until_said(&said);
        for _ in 0..2 {
            service.reload("[limits]\nregistrations = 9\n");
        }
        let words = "expected the name of a file";
        assert!(service.said().contains(words), "{}", service.said());
        let _name = service.hold("api");
        let second = service.register(&Node::new("web"));
        assert_eq!(second.end, Registered::Closed, "{script}");
    }
}

/// In the background too, where the standard input has become /dev/null meanwhile.
#[test]
fn a_daemon_that_got_its_settings_by_its_input_keeps_them_at_a_reload() {
    let host = lone_host();
    let text = host.file("settings");
    fs::write(&text, "[limits]\nregistrations = 1\n").unwrap();
    // Its log, which has a reader here.
    let journal = host.enter(|| {
        fs::create_dir_all("/run/systemd/journal").unwrap();
        UnixDatagram::bind("/run/systemd/journal/socket").unwrap()
    });
    journal.set_nonblocking(true).unwrap();
    let mut told = String::new();
    let mut wait_until_told = |words: &str| {
        wait_for(words, || {
            let mut buffer = [0; 8192];
            while let Ok(count) = journal.recv(&mut buffer) {
                told.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
            told.contains(words).then_some(())
        });
    };
    let script = format!("exec \"$@\" < {}", text.display());
    let output = Launch::on(&host)
        .wrapped(&["/bin/bash", "-c", &script, "bash"])
        .arguments(&["-daemon", "-config", "/dev/stdin"])
        .run();
    assert_eq!(output, Output::new(0, "", ""));
    wait_until_told("the settings came by way of a descriptor (/dev/stdin)");
    // Its number on the host.
    let status = host.run(Epmd::Ours.command().args(["-status", "-json"]));
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    let hangup = format!("kill -HUP {}", status["pid"]);
    let sent = host.run(Command::new("sh").args(["-c", &hangup]));
    assert_eq!(sent, Output::new(0, "", ""));
    wait_until_told("not reloaded, the settings from before stay in force: /dev/stdin: ");
    let _name = register(host.connect(LOCALHOST), &Node::new("api")).held();
    let second = register(host.connect(LOCALHOST), &Node::new("web"));
    assert_eq!(second.end, Registered::Closed);
}

//! Each system call of the daemon fails, once and for good, with each error that its manual page names.
//!
//! strace makes it fail, from the first call after the C library's loader on. Which calls there are comes
//! from a run without faults; docs/faults.md has a row for each of them: `needed` (without it the daemon
//! ends with a message and a status that is not 0, or says why it does not answer), `helps` (it serves
//! without), `each` (the request that it happens to fails), `runtime` (Rust's own ends the process with a
//! line) or `never` (no error that can be met, or over before `main`). Nothing may panic, hang, or lose a registration in silence. One combination in
//! so many runs, by a seed that is printed; EPMD_TEST_LONG=1 runs all,
//! EPMD_TEST_FAULT=recvfrom those that have this in their name.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::binary::{Epmd, spawn, text};
use common::host::{free_port, process};
use common::store::Store;
use common::wait_for;
use common::wire::{Node, frame};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read as _, Write as _};

/// In the short form, one combination in so many.
const ONE_IN: u64 = 24;
/// How long a daemon may take to serve or to end.
const BOUND: Duration = Duration::from_secs(8);
/// How long it may take where it has said what is wrong.
const SAID: Duration = Duration::from_secs(2);

/// The errors that a call's manual page names, as far as they do not tell of a mistake in the call itself.
fn errors(call: &str) -> &'static [&'static str] {
    match call {
        "accept4" => &[
            "ECONNABORTED",
            "EINTR",
            "EMFILE",
            "ENFILE",
            "ENOBUFS",
            "ENOMEM",
            "EPERM",
            "EPROTO",
        ],
        "access" | "statx" | "newfstatat" => &["EACCES", "ELOOP", "ENOENT", "ENOMEM", "ENOSYS"],
        "bind" => &["EACCES", "EADDRINUSE", "EADDRNOTAVAIL", "ENOMEM"],
        "capget" | "capset" => &["EPERM", "EINVAL", "ENOSYS"],
        "chdir" | "chmod" | "mkdir" | "unlink" => &["EACCES", "EPERM", "EROFS", "ENOENT", "ENOMEM"],
        "clone" | "clone3" => &["EAGAIN", "ENOMEM", "EPERM", "ENOSYS"],
        "close" => &["EINTR", "EIO"],
        "close_range" => &["ENOSYS", "EPERM", "EMFILE"],
        "connect" => &[
            "EACCES",
            "EAGAIN",
            "ECONNREFUSED",
            "EINTR",
            "EPERM",
            "ETIMEDOUT",
        ],
        "dup2" | "dup3" | "fcntl" => &["EMFILE", "EINTR", "EBUSY"],
        "epoll_create1" | "eventfd2" | "pipe2" | "signalfd4" | "memfd_create" => {
            &["EMFILE", "ENFILE", "ENOMEM", "ENOSYS", "EPERM"]
        }
        "epoll_ctl" => &["ENOMEM", "ENOSPC", "EPERM"],
        "epoll_wait" | "poll" => &["EINTR"],
        "getcwd" => &["EACCES", "ENOENT", "ENOMEM"],
        "getdents64" => &["EACCES", "EINVAL", "EIO", "ENOENT"],
        "getrandom" => &["EAGAIN", "EINTR", "ENOSYS"],
        "getsockname" | "getsockopt" => &["ENOBUFS", "ENOPROTOOPT", "EACCES"],
        "ioctl" => &["EPERM", "ENOTTY"],
        "landlock_create_ruleset" => &[
            "ENOSYS",
            "EOPNOTSUPP",
            "EPERM",
            "EINVAL",
            "ENOMEM",
            "EMFILE",
        ],
        "landlock_add_rule" => &["EPERM", "EINVAL", "ENOMEM", "ENOSYS"],
        "landlock_restrict_self" => &["EPERM", "EINVAL", "E2BIG", "ENOSYS"],
        "listen" => &["EADDRINUSE", "EOPNOTSUPP", "EPERM"],
        "mmap" | "mprotect" | "brk" => &["ENOMEM"],
        "openat" => &[
            "EACCES", "EINTR", "EMFILE", "ENFILE", "ENOENT", "ENOMEM", "EPERM",
        ],
        "prctl" | "sched_getaffinity" => &["EPERM", "ENOSYS"],
        "prlimit64" => &["EPERM", "ENOSYS"],
        "read" | "recvfrom" | "recvmsg" => &["EINTR", "EIO", "ECONNRESET", "ENOMEM"],
        "readlink" => &["EACCES", "EIO", "ELOOP", "ENOENT", "ENOMEM"],
        "rt_sigaction" | "rt_sigprocmask" => &["EPERM", "ENOSYS"],
        "sendmsg" | "sendto" | "write" => {
            &["EINTR", "ENOBUFS", "ENOMEM", "EPIPE", "EPERM", "ENOSPC"]
        }
        "setsid" => &["EPERM"],
        "setsockopt" => &["ENOPROTOOPT", "EPERM", "EACCES"],
        "shutdown" => &["ENOTCONN", "ENOBUFS"],
        "sigaltstack" => &["ENOMEM"],
        "socket" | "socketpair" => &[
            "EACCES",
            "EAFNOSUPPORT",
            "EMFILE",
            "ENFILE",
            "ENOBUFS",
            "ENOMEM",
            "EPROTONOSUPPORT",
        ],
        "tgkill" => &["EAGAIN", "EINVAL", "EPERM", "ESRCH"],
        "wait4" => &["EINTR", "ECHILD"],
        _ => &[],
    }
}

/// What docs/faults.md says of each call.
fn table() -> BTreeMap<String, String> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/faults.md")).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let call = cells.next()?.trim_end_matches('`').to_owned();
        Some((call, cells.next()?.to_owned()))
    };
    text.lines().filter_map(row).collect()
}

/// How the daemon is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Foreground,
    Daemon,
    /// With `-systemd`, after another one was killed that held a name and left it in the store.
    Restart,
}

/// A daemon under strace; dropping it ends it.
struct Traced {
    /// At a restart: what it was kept in, and the connection of the node that was registered before.
    kept: Option<(Store, TcpStream)>,
    strace: Child,
    port: u16,
    stderr: File,
    config: tempfile::NamedTempFile,
    trace: tempfile::NamedTempFile,
}

/// What has become of a daemon.
enum End {
    /// It serves, and this connection holds the name.
    Serves(TcpStream),
    Ended(ExitStatus),
    /// It serves, and knows nothing of the name that was registered before the restart.
    Lost,
    Neither,
}

impl Traced {
    fn start(mode: Mode, options: &[String]) -> Self {
        let port = free_port();
        let kept = (mode == Mode::Restart).then(|| killed_with_a_name(port));
        let trace = tempfile::NamedTempFile::new().unwrap();
        let config = tempfile::NamedTempFile::new().unwrap();
        let stderr = tempfile::tempfile().unwrap();
        let trace_path = trace.path().to_str().unwrap().to_owned();
        let mut wrapper = vec!["strace", "-f", "-qq", "-o", &trace_path];
        wrapper.extend(options.iter().map(String::as_str));
        let (script, lent) = kept.as_ref().map(|(store, _)| store.script()).unzip();
        if let Some(script) = &script {
            wrapper.extend(["/bin/bash", "-c", script, "bash"]);
        }
        let mut command = Epmd::Ours.wrapped(&wrapper);
        if let Some((store, _)) = &kept {
            command.env("NOTIFY_SOCKET", store.path());
        }
        command
            .args(["-port", &port.to_string()])
            .args(match mode {
                Mode::Foreground => &[][..],
                Mode::Daemon => &["-daemon"],
                Mode::Restart => &["-systemd"],
            })
            .env("EPMD_CONFIG", config.path())
            .stdout(stderr.try_clone().unwrap())
            .stderr(stderr.try_clone().unwrap());
        let strace = spawn(&mut command);
        drop(lent);
        Self {
            kept,
            strace,
            port,
            stderr,
            config,
            trace,
        }
    }

    fn said(&self) -> String {
        text(&self.stderr)
    }

    /// The epmds that have this port as an argument.
    fn epmds(&self) -> Vec<Pid> {
        let port = self.port.to_string();
        let all = process::all().into_iter();
        all.filter(|pid| process::name(*pid) == "epmd" && process::arguments(*pid).contains(&port))
            .map(|pid| Pid::from_raw(pid.cast_signed()))
            .collect()
    }

    fn signal(&self, signal: Signal) {
        for pid in self.epmds() {
            let _ = kill(pid, signal);
        }
    }

    fn ask(&self, body: &[u8], at_least: usize) -> Option<(TcpStream, Vec<u8>)> {
        let to = (Ipv4Addr::LOCALHOST, self.port).into();
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(&frame(body)).ok()?;
        let mut got = Vec::new();
        let mut buffer = [0; 256];
        while got.len() < at_least {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(count) => got.extend(buffer.iter().take(count)),
            }
        }
        Some((stream, got))
    }

    /// Waits until it serves or ends; not for long, where it has said what is wrong.
    fn end(&mut self) -> End {
        let start = Instant::now();
        loop {
            if let Some(status) = self.strace.try_wait().unwrap() {
                return End::Ended(status);
            }
            if let Some((store, _)) = &mut self.kept {
                store.hear();
                match self.ask(b"zapi", 2) {
                    Some((held, answer)) if answer.get(1) == Some(&0) => {
                        return End::Serves(held);
                    }
                    Some(_) => return End::Lost,
                    None => {}
                }
            } else if let Some((held, answer)) = self.ask(&Node::new("api").request(), 6)
                && answer.get(1) == Some(&0)
            {
                return End::Serves(held);
            }
            let said = start.elapsed() > SAID && says_why(&self.said());
            if said || start.elapsed() > BOUND {
                return End::Neither;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the name is found, asked again where one question failed.
    fn knows_api(&self) -> bool {
        let end = Instant::now() + SAID;
        while Instant::now() < end {
            if let Some((_, answer)) = self.ask(b"zapi", 2) {
                return answer.get(1) == Some(&0);
            }
        }
        false
    }

    fn wait_for(&mut self, mut what: impl FnMut(&mut Self) -> bool) -> bool {
        let end = Instant::now() + BOUND;
        while Instant::now() < end {
            if what(self) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// What a daemon leaves behind that is killed while a node is registered, and that node.
fn killed_with_a_name(port: u16) -> (Store, TcpStream) {
    let mut store = Store::new();
    let mut command = Epmd::Ours.command();
    command
        .args(["-port", &port.to_string(), "-systemd"])
        .env("NOTIFY_SOCKET", store.path())
        .stderr(Stdio::null());
    let config = tempfile::NamedTempFile::new().unwrap();
    let mut daemon = spawn(command.env("EPMD_CONFIG", config.path()));
    let mut stream = wait_for("the daemon to listen", || {
        store.hear();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
    });
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream
        .write_all(&frame(&Node::new("api").request()))
        .unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    store.hear();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    store.hear();
    (store, stream)
}

/// One run with a fault; what is wrong with its end.
fn fault(mode: Mode, inject: &str, kind: &str) -> Result<(), String> {
    let call = inject.split(':').next().unwrap_or_default();
    let options = [
        "-e".into(),
        format!("trace={call}"),
        "-e".into(),
        format!("inject={inject}"),
    ];
    let mut traced = Traced::start(mode, &options);
    let in_front = mode != Mode::Daemon;
    let end = traced.end();
    let said = traced.said();
    let wrong = |what: &str| Err(format!("{what}; it said: {}", traced_tail(&said)));
    if kind != "runtime" && said.contains("panicked") {
        return wrong("a panic");
    }
    // The one write without which Rust's own can't go on. Where none works, it can't say so.
    let no_wake = call == "write" && (said.contains(NO_WAKE) || inject.ends_with('+'));
    match end {
        End::Ended(status) => {
            let aborted = status.signal() == Some(Signal::SIGABRT as i32);
            match (kind, status.code()) {
                ("runtime", _) if aborted || no_wake => Ok(()),
                ("needed" | "runtime", Some(1 | 78)) if said.contains("epmd: ") => Ok(()),
                _ => wrong(&format!("ended with {status}")),
            }
        }
        // The kernel says so of a connection whose node has gone.
        End::Lost if inject.contains("ECONNRESET") => Ok(()),
        // It is said, if not by its name: what could not be kept, read, or watched.
        End::Lost if !says_why(&said) && !said.contains("registration") => {
            wrong("a registration is lost without a line")
        }
        End::Lost => Ok(()),
        End::Neither if kind == "each" || (kind == "needed" && says_why(&said)) => {
            traced.signal(Signal::SIGTERM);
            let ended = traced.wait_for(|t| t.strace.try_wait().unwrap().is_some());
            if ended {
                Ok(())
            } else {
                wrong("SIGTERM does not end it")
            }
        }
        End::Neither if kind == "needed" || kind == "runtime" => {
            if in_front {
                wrong("neither serves nor says why")
            } else {
                Ok(())
            }
        }
        End::Neither => wrong("does not serve"),
        End::Serves(held) => {
            if kind == "helps" && !traced.knows_api() {
                return wrong("registered, and not found");
            }
            if in_front && kind == "helps" {
                let _ = fs::write(traced.config.path(), "# read again\n");
                traced.signal(Signal::SIGHUP);
                if !traced.wait_for(|t| t.said().contains("reloaded")) {
                    return wrong("the reload does not end");
                }
                if !traced.knows_api() {
                    return wrong("lost at a reload");
                }
            }
            drop(held);
            if no_wake {
                return Ok(());
            }
            traced.signal(Signal::SIGTERM);
            if !traced.wait_for(|t| t.strace.try_wait().unwrap().is_some()) {
                return wrong("SIGTERM does not end it");
            }
            if traced.said().contains("panicked") {
                wrong("a panic at the end")
            } else {
                Ok(())
            }
        }
    }
}

/// How tokio says that it can't wake its event loop (eventfd).
const NO_WAKE: &str = "failed to wake I/O driver";

/// Whether it has said why it does not answer.
fn says_why(said: &str) -> bool {
    said.contains("can't") || said.contains("not listening on")
}

/// The end of what was said.
fn traced_tail(said: &str) -> String {
    let lines: Vec<_> = said.lines().collect();
    lines
        .iter()
        .rev()
        .take(3)
        .rev()
        .copied()
        .collect::<Vec<_>>()
        .join(" / ")
}

/// The calls that a run without faults makes from `main` on, and how often each of them comes before: the
/// loader's, and those of a shell that hands descriptors over.
fn calls(mode: Mode) -> BTreeMap<String, usize> {
    let mut traced = Traced::start(mode, &[]);
    let End::Serves(held) = traced.end() else {
        panic!("it does not serve without a fault: {}", traced.said());
    };
    assert!(traced.knows_api());
    traced.signal(Signal::SIGHUP);
    if mode != Mode::Daemon {
        assert!(
            traced.wait_for(|t| t.said().contains("reloaded")),
            "{}",
            traced.said()
        );
    }
    drop(held);
    traced.signal(Signal::SIGTERM);
    assert!(
        traced.wait_for(|t| t.strace.try_wait().unwrap().is_some()),
        "it does not end"
    );
    let text = fs::read_to_string(traced.trace.path()).unwrap();
    let mut seen = BTreeMap::new();
    let mut of_ours = BTreeSet::new();
    let mut before_main = true;
    for line in text.lines() {
        let Some((_, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((call, arguments)) = rest.trim_start().split_once('(') else {
            continue;
        };
        if !call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || call.is_empty() {
            continue;
        }
        // The first thing that Rust's runtime does is to look at the standard streams.
        before_main &= !(call == "poll" && arguments.starts_with("[{fd=0"));
        *seen.entry(call.to_owned()).or_insert(0) += usize::from(before_main);
        if !before_main {
            of_ours.insert(call.to_owned());
        }
    }
    seen.retain(|call, _| of_ours.contains(call));
    seen
}

#[test]
fn a_system_call_that_fails_costs_what_the_table_says() {
    let table = table();
    let long = std::env::var_os("EPMD_TEST_LONG").is_some();
    let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let mut all = Vec::new();
    let mut without_row = BTreeSet::new();
    for mode in [Mode::Foreground, Mode::Daemon, Mode::Restart] {
        for (call, before_main) in calls(mode) {
            let Some(kind) = table.get(&call) else {
                without_row.insert(call);
                continue;
            };
            for error in errors(&call) {
                // The kernel says so once, to a call that is then made again.
                let once = ["EINTR", "EAGAIN"].contains(error);
                for good in ["", "+"] {
                    if once && good == "+" {
                        continue;
                    }
                    let inject = format!("{call}:error={error}:when={}{good}", before_main + 1);
                    all.push((mode, inject, kind.clone()));
                }
            }
        }
    }
    assert!(
        without_row.is_empty(),
        "docs/faults.md has no row for {without_row:?}"
    );
    let named = std::env::var("EPMD_TEST_FAULT").ok();
    let wanted = |place: u64, inject: &str| match &named {
        Some(named) => inject.contains(named.as_str()),
        None => long || (place + seed).is_multiple_of(ONE_IN),
    };
    let some: Vec<_> = (0..)
        .zip(all)
        .filter(|(place, (_, inject, _))| wanted(*place, inject))
        .collect();
    eprintln!("{} combinations, by the seed {}", some.len(), seed % ONE_IN);
    let mut faults = Vec::new();
    for (_, (mode, inject, kind)) in some {
        if kind == "never" {
            continue;
        }
        if let Err(what) = fault(mode, &inject, &kind) {
            eprintln!("{mode:?} {inject} ({kind}): {what}");
            faults.push(format!("{mode:?} {inject} ({kind}): {what}"));
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

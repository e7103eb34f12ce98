//! The servers that are compared: each a child process, ended with its handle.

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::client;
use crate::process;
use crate::wire;

/// How long a server may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// Long enough for a server to have gone to sleep after its last answer: its time is then whole.
const SETTLE: Duration = Duration::from_millis(5);

/// Ports are tried from here on: below the ephemeral range, which the clients use.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

/// Which server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// The bare loop.
    Bare,
    /// This epmd.
    Ours,
    /// Stock epmd.
    Stock,
}

impl Kind {
    /// All, in the order in which they are told.
    pub(crate) const ALL: [Kind; 3] = [Kind::Bare, Kind::Ours, Kind::Stock];

    /// Its name in tables and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Bare => "bare",
            Kind::Ours => "ours",
            Kind::Stock => "stock",
        }
    }

    /// The most names that it can hold here, of those that are wanted.
    ///
    /// Stock waits in select(2), whose sets end at 1,024 descriptors: it takes 1,017 names. The bare
    /// loop holds none, and costs the same whatever others hold.
    pub(crate) fn names(self, wanted: usize) -> Option<usize> {
        match self {
            Kind::Bare => Some(0),
            Kind::Ours => Some(wanted),
            Kind::Stock => (wanted <= 1_000).then_some(wanted),
        }
    }
}

/// How servers are started: which programs, and where files go.
pub(crate) struct Launcher {
    /// This epmd's program.
    pub(crate) ours: PathBuf,
    /// Stock epmd's program.
    pub(crate) stock: PathBuf,
    /// A folder for settings and logs.
    pub(crate) folder: PathBuf,
}

impl Launcher {
    /// Starts `kind` on a free port of this host, and waits until it answers.
    pub(crate) fn start(&self, kind: Kind) -> Server {
        let mut server = self.exec(kind, "", &[]);
        server.wait_until_ready();
        server
    }

    /// Starts `kind` on a free port with `settings` as its file (ours alone has one) behind `prefix`,
    /// a command that runs another one, such as nsenter; does not wait.
    pub(crate) fn exec(&self, kind: Kind, settings: &str, prefix: &[String]) -> Server {
        let port = free_port();
        let log = self.folder.join(format!("{}-{port}.log", kind.name()));
        let mut line: Vec<String> = prefix.to_vec();
        line.push(self.program(kind).display().to_string());
        match kind {
            Kind::Bare => line.extend(["bare-loop".into(), port.to_string()]),
            Kind::Stock => line.extend(["-port".into(), port.to_string()]),
            Kind::Ours => {
                // Always a file of its own, so that this host's /etc/epmd.toml is out of play.
                let file = self.folder.join(format!("epmd-{port}.toml"));
                fs::write(&file, settings).expect("the settings are written");
                let file = file.display().to_string();
                line.extend(["-port".into(), port.to_string(), "-config".into(), file]);
            }
        }
        let (program, arguments) = line.split_first().expect("there is a program");
        let output = File::create(&log).expect("the log is made");
        let child = Command::new(program)
            .args(arguments)
            .env_clear() // no ERL_EPMD_*, EPMD_* or systemd variable of the caller's counts
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle on the log"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        Server {
            kind,
            child,
            address: (Ipv4Addr::LOCALHOST, port).into(),
            log,
        }
    }

    /// The program of `kind`.
    fn program(&self, kind: Kind) -> PathBuf {
        match kind {
            Kind::Bare => env::current_exe().expect("this program has a path"),
            Kind::Ours => self.ours.clone(),
            Kind::Stock => self.stock.clone(),
        }
    }
}

/// A running server; dropped, it is ended.
pub(crate) struct Server {
    /// Which it is.
    pub(crate) kind: Kind,
    /// Where it listens on its own loopback.
    pub(crate) address: SocketAddr,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    /// The CPU time that it uses while `load` runs.
    pub(crate) fn cpu_during(&self, load: impl FnOnce()) -> Duration {
        let before = process::cpu_time(self.pid());
        load();
        thread::sleep(SETTLE);
        process::cpu_time(self.pid()) - before
    }

    /// Tries until the server answers a lookup; ends the bench where it does not.
    pub(crate) fn wait_until_ready(&mut self) {
        let request = wire::lookup("nobody");
        let address = self.address;
        self.wait_for("answered a lookup", || {
            client::ask(address, None, &request).is_ok_and(|answer| !answer.is_empty())
        });
    }

    /// Waits until the server listens in whichever namespace it is; ends the bench where it does not.
    pub(crate) fn wait_until_listening(&mut self) {
        // Its line in the kernel's table: local port, no peer, state LISTEN.
        let line = format!(":{:04X} 00000000:0000 0A", self.address.port());
        let table = format!("/proc/{}/net/tcp", self.pid());
        self.wait_for("listened", || {
            fs::read_to_string(&table).is_ok_and(|sockets| sockets.contains(&line))
        });
    }

    /// Tries until `done`; ends the bench where that takes too long or the server ends.
    pub(crate) fn wait_for(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            let ended = self.child.try_wait().expect("a child of this process");
            if ended.is_some() || start.elapsed() > READY_WITHIN {
                let fate = ended.map_or("not ready within 10 s".into(), |status| {
                    format!("it ended: {status}")
                });
                panic!(
                    "{} never {what} at {}: {fate}\n{}",
                    self.kind.name(),
                    self.address,
                    fs::read_to_string(&self.log).unwrap_or_default()
                );
            }
            thread::sleep(Duration::from_micros(100));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone, and reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the epmd at `path` is there, and is stock's: ours knows `-version`, stock ends with 1.
pub(crate) fn is_stock(path: &Path) -> bool {
    let output = Command::new(path).arg("-version").output();
    output.is_ok_and(|output| !output.status.success())
}

/// A port that nobody has here.
fn free_port() -> u16 {
    loop {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 30_000, "no port is free");
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

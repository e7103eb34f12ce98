//! Ports, listeners and processes of this host, as /proc shows them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait_for;

/// Whether this host has IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// A port that nobody listens on, below the ones that the kernel gives to connections: one of those
/// could be taken by any test's connection before the daemon binds it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    // Another test binary may run at the same time: begin elsewhere.
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    wait_for("a free port", || {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start.wrapping_mul(7) % COUNT + step) % COUNT;
        let all = [
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::from(Ipv6Addr::UNSPECIFIED),
        ];
        all.iter()
            .take(if has_ipv6() { 2 } else { 1 })
            .all(|address| TcpListener::bind((*address, port)).is_ok())
            .then_some(port)
    })
}

/// A listening socket: its address, and the inode by which its owner is found.
struct Listening {
    address: IpAddr,
    inode: u64,
}

/// Every socket that listens on `port`, as the process `pid` sees it: it may have a network of its own.
fn listening(pid: u32, port: u16) -> Vec<Listening> {
    const LISTEN: &str = "0A";
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let Ok(table) = File::open(format!("/proc/{pid}/net/{table}")) else {
            continue;
        };
        for line in BufReader::new(table).lines().skip(1) {
            let line = line.expect("a line");
            let fields: Vec<&str> = line.split_whitespace().collect();
            // The kernel writes listening sockets first; a busy host has ten thousands of others.
            if fields.get(3) != Some(&LISTEN) {
                break;
            }
            found.extend(listening_line(&fields, port));
        }
    }
    found
}

/// Reads a line of /proc/net/tcp or tcp6.
fn listening_line(fields: &[&str], wanted: u16) -> Option<Listening> {
    let (address, port) = fields.get(1)?.split_once(':')?;
    if u16::from_str_radix(port, 16).ok()? != wanted {
        return None;
    }
    // Groups of four bytes, each as a number of this machine.
    let bytes: Vec<u8> = (0..address.len() / 8)
        .filter_map(|at| u32::from_str_radix(&address[at * 8..at * 8 + 8], 16).ok())
        .flat_map(u32::to_ne_bytes)
        .collect();
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(bytes) => IpAddr::from(bytes),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(Listening {
        address,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// The addresses on which the process `pid` listens on `port`.
pub(crate) fn listeners(pid: u32, port: u16) -> BTreeSet<IpAddr> {
    let inodes = process::sockets(pid);
    listening(pid, port)
        .into_iter()
        .filter(|socket| inodes.contains(&socket.inode))
        .map(|socket| socket.address)
        .collect()
}

/// What /proc says of a process, and standing still.
pub(crate) mod process {
    use super::{BTreeSet, PathBuf, Pid, Signal, fs, kill, wait_for};

    /// What its open descriptors lead to, in the order of their numbers.
    pub(crate) fn descriptors(pid: u32) -> Vec<(u32, PathBuf)> {
        let mut found: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let number = entry.file_name().to_str()?.parse().ok()?;
                Some((number, fs::read_link(entry.path()).ok()?))
            })
            .collect();
        found.sort();
        found
    }

    /// The inodes of its sockets.
    pub(crate) fn sockets(pid: u32) -> BTreeSet<u64> {
        descriptors(pid)
            .iter()
            .filter_map(|(_, target)| {
                let target = target.to_str()?;
                let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?;
                inode.parse().ok()
            })
            .collect()
    }

    /// The name by which `ps` and `pgrep` know it.
    pub(crate) fn name(pid: u32) -> String {
        fs::read_to_string(format!("/proc/{pid}/comm"))
            .unwrap_or_default()
            .trim_end()
            .to_owned()
    }

    /// Its command line; nothing when it is over.
    pub(crate) fn arguments(pid: u32) -> Vec<String> {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.split_terminator('\0').map(str::to_owned).collect()
    }

    /// Its working directory.
    pub(crate) fn working_directory(pid: u32) -> PathBuf {
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default()
    }

    /// The fields of /proc/PID/stat that follow the name: state, parent, group, session, terminal…
    /// None when there is no such process.
    pub(crate) fn stat(pid: u32) -> Option<Vec<String>> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        Some(fields.split_whitespace().map(str::to_owned).collect())
    }

    /// Whether it runs no more (a zombie does not run).
    pub(crate) fn is_over(pid: u32) -> bool {
        stat(pid).is_none_or(|fields| fields.first().is_some_and(|state| state == "Z"))
    }

    fn signal(pid: u32, signal: Signal) {
        kill(Pid::from_raw(pid.cast_signed()), signal).expect("a process");
    }

    /// Stops it (SIGSTOP), and returns when each of its threads has: until then one may still take what
    /// comes.
    pub(crate) fn pause(pid: u32) {
        signal(pid, Signal::SIGSTOP);
        let is_paused = |stat: &str| {
            let state = stat.rsplit_once(')').map(|(_, fields)| fields.trim_start());
            state.is_some_and(|state| state.starts_with('T'))
        };
        wait_for("the process to pause", || {
            let mut threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            let all = threads.all(|thread| {
                let stat = thread.and_then(|it| fs::read_to_string(it.path().join("stat")));
                stat.is_ok_and(|stat| is_paused(&stat))
            });
            all.then_some(())
        });
    }

    /// Stops it while `meanwhile` runs, so that all of that is there when it goes on.
    pub(crate) fn paused<T>(pid: u32, meanwhile: impl FnOnce() -> T) -> T {
        pause(pid);
        let result = meanwhile();
        signal(pid, Signal::SIGCONT);
        result
    }

    /// All processes.
    pub(crate) fn all() -> Vec<u32> {
        fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect()
    }
}

/// The epmds in the background that were told this port, listening or not.
fn in_background(port: u16) -> Vec<u32> {
    let port = port.to_string();
    let is_told = |words: &[String], word: &str| words.iter().any(|it| it == word);
    process::all()
        .into_iter()
        .filter(|pid| process::name(*pid) == "epmd")
        .filter(|pid| {
            let words = process::arguments(*pid);
            is_told(&words, &port) && is_told(&words, "-daemon")
        })
        .collect()
}

/// Waits until no epmd in the background is about to take `port`: stock's parent returns before its
/// child has found out that the port is taken.
pub(crate) fn wait_until_settled(port: u16) {
    let mut quiet = 0;
    wait_for("epmds in the background to end", || {
        // One look may fall between two forks.
        quiet = if in_background(port).is_empty() {
            quiet + 1
        } else {
            0
        };
        (quiet == 3).then_some(())
    });
}

/// An epmd that put itself into the background. Made before it is started, so that it is found by
/// its port and ended whatever becomes of the test.
pub(crate) struct Detached {
    /// Where it listens.
    pub(crate) port: u16,
}

impl Detached {
    /// For an epmd yet to be started on a free port.
    pub(crate) fn on_free_port() -> Self {
        Self { port: free_port() }
    }

    /// The process that listens on the port now.
    pub(crate) fn find(&self) -> Option<u32> {
        let sockets: BTreeSet<u64> = listening(std::process::id(), self.port)
            .iter()
            .map(|it| it.inode)
            .collect();
        process::all().into_iter().find(|pid| {
            process::name(*pid) == "epmd" && !process::sockets(*pid).is_disjoint(&sockets)
        })
    }

    /// The process that listens on the port, waited for.
    pub(crate) fn pid(&self) -> u32 {
        wait_for("the daemon in the background", || self.find())
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        for pid in in_background(self.port) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// Something that holds a port and is no epmd. It ends with the test's process.
pub(crate) struct Stranger {
    /// The port that it holds.
    pub(crate) port: u16,
    listener: TcpListener,
}

impl Stranger {
    /// Holds a free port of `address`, and never answers.
    pub(crate) fn silent(address: IpAddr) -> Self {
        wait_for("a port for the stranger", || {
            let port = free_port();
            let listener = TcpListener::bind((address, port)).ok()?;
            Some(Self { port, listener })
        })
    }

    /// As [`Self::silent`], but answers whatever comes with `answer` and closes.
    pub(crate) fn talking(address: IpAddr, answer: &'static [u8]) -> Self {
        let stranger = Self::silent(address);
        let listener = stranger.listener.try_clone().expect("a second descriptor");
        std::thread::spawn(move || {
            for mut peer in listener.incoming().flatten() {
                // What is left unread would turn the close into a reset.
                let _ = peer.set_read_timeout(Some(Duration::from_secs(1)));
                let _ = peer.read(&mut [0; 64]);
                let _ = peer.write_all(answer);
            }
        });
        stranger
    }
}

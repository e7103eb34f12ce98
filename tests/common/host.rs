//! Ports, listeners and processes of this host, as /proc shows them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

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

/// Every socket that listens on `port`.
fn listening(port: u16) -> Vec<Listening> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| {
            table
                .lines()
                .skip(1)
                .filter_map(|line| listening_line(line, port))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Reads a line of /proc/net/tcp or tcp6.
fn listening_line(line: &str, wanted: u16) -> Option<Listening> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    if *fields.get(3)? != LISTEN || u16::from_str_radix(port, 16).ok()? != wanted {
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
    listening(port)
        .into_iter()
        .filter(|socket| inodes.contains(&socket.inode))
        .map(|socket| socket.address)
        .collect()
}

/// What /proc says of a process.
pub(crate) mod process {
    use super::{BTreeSet, PathBuf, fs};

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

    /// All processes.
    pub(crate) fn all() -> Vec<u32> {
        fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect()
    }
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
        let sockets: BTreeSet<u64> = listening(self.port).iter().map(|it| it.inode).collect();
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
        if let Some(pid) = self.find() {
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

    /// As [`Self::silent`], but greets everyone with `greeting` and closes.
    pub(crate) fn talking(address: IpAddr, greeting: &'static [u8]) -> Self {
        let stranger = Self::silent(address);
        let listener = stranger.listener.try_clone().expect("a second descriptor");
        std::thread::spawn(move || {
            for mut peer in listener.incoming().flatten() {
                let _ = peer.write_all(greeting);
            }
        });
        stranger
    }
}

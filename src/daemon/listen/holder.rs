//! Who has a port: which sockets, and as far as this user may see them, whose programs.
//!
//! Reads /proc/net/tcp and tcp6 for the port, and the descriptors of all processes for those sockets,
//! neither for longer than it may take. What a socket that is bound and neither listens nor is connected
//! does, /proc does not tell. Says what it found in words; asks and ends nothing. Called by `start` when
//! a port is taken.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::core::audit::escape;

/// How long each of the two searches may take: a busy host has a million connections.
const PATIENCE: Duration = Duration::from_secs(1);
/// The process that systemd is.
const INIT: u32 = 1;
const SYSTEMD: &str = "systemd";
const ROOT: u32 = 0;

/// All that is known of a port.
#[derive(Debug, Default)]
pub struct Holders {
    sockets: Vec<Held>,
    /// This process, by its number in /proc.
    own: Option<u32>,
}

/// One socket that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    local: SocketAddr,
    peer: SocketAddr,
    state: State,
    user: u32,
    inode: u64,
    program: Option<Program>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Listens,
    Connected,
    /// Nobody's any more: TIME_WAIT.
    Lingers,
}

/// A process, and the name by which `ps` knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Program {
    pid: u32,
    name: String,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", escape(self.name.as_bytes()), self.pid)
    }
}

impl Holders {
    /// Looks who has `port`.
    #[must_use]
    pub fn of(port: u16) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let mut sockets = Vec::new();
        for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
            if let Ok(file) = File::open(table) {
                read_table(BufReader::new(file), port, deadline, &mut sockets);
            }
        }
        let own = fs::read_link("/proc/self").ok();
        let own = own.and_then(|own| own.to_str()?.parse().ok());
        let programs = programs(&sockets, own, Instant::now() + PATIENCE);
        for socket in &mut sockets {
            socket.program = programs.get(&socket.inode).cloned();
        }
        Self { sockets, own }
    }

    /// Where somebody listens by name: not everywhere, nor where an epmd is looked for first.
    #[must_use]
    pub fn listening(&self) -> Vec<IpAddr> {
        let listening = self.sockets.iter().filter(|s| s.state == State::Listens);
        let mut addresses: Vec<_> = listening.map(|s| s.local.ip().to_canonical()).collect();
        addresses.retain(|ip| !ip.is_unspecified());
        addresses.dedup();
        addresses
    }

    /// Why `address` can't be had, and what to do about it. `unlike_an_epmd` says what came of asking for
    /// an epmd there.
    #[must_use]
    pub fn words(&self, address: SocketAddr, unlike_an_epmd: &str) -> String {
        let port = address.port();
        let own = address.ip();
        let overlaps = |held: &Held| {
            let other = held.local.ip().to_canonical();
            other == own || other.is_unspecified() || own.is_unspecified()
        };
        let all: Vec<_> = self.sockets.iter().filter(|held| overlaps(held)).collect();
        let is_systemds = |held: &Held| {
            let program = held.program.as_ref();
            program.is_some_and(|program| program.pid == INIT && program.name == SYSTEMD)
        };
        let of = |state| all.iter().filter(move |held| held.state == state);
        if let Some(held) = of(State::Listens).find(|held| !is_systemds(held)) {
            return match &held.program {
                Some(program) if Some(program.pid) == self.own => format!(
                    "systemd has passed the socket that listens on {} to this very process: start epmd with \
                     -systemd (and without -daemon), which takes it, or without the socket unit",
                    held.local
                ),
                Some(program) if program.name == "epmd" => format!(
                    "{program} has that port, but as an epmd it does not answer: {unlike_an_epmd}; see whether a \
                     firewall drops what this host sends to itself, or stop it, or use -port"
                ),
                Some(program) => format!(
                    "another program has that port: {program} listens on {}, and it does not answer as an epmd \
                     ({unlike_an_epmd}); stop it (`ss -ltnp 'sport = :{port}'` shows it), or use -port",
                    held.local
                ),
                None => format!(
                    "another program has that port: one of user {} listens on {}, and it does not answer as an \
                     epmd ({unlike_an_epmd}); stop it (`ss -ltnp 'sport = :{port}'` shows it, as root with its \
                     name{}), or use -port",
                    held.user,
                    held.local,
                    if held.user == ROOT {
                        "; `systemctl list-sockets`, if it is systemd's"
                    } else {
                        ""
                    }
                ),
            };
        }
        if let Some(held) = of(State::Listens).next() {
            return format!(
                "systemd (process 1) has that port for a socket unit, {}, which `systemctl list-sockets` shows: \
                 let that unit's service run epmd, with -systemd and without -daemon, or stop the socket unit",
                held.local
            );
        }
        if let Some(held) = of(State::Connected).next() {
            let program = held.program.as_ref().map_or_else(
                || format!("of user {}", held.user),
                |program| format!("of {program}"),
            );
            return format!(
                "nobody listens there, but a connection {program} has that port as its source, {} to {}; wait for \
                 its end (`ss -atnp 'sport = :{port}'` shows it), or use -port; `sysctl -w \
                 net.ipv4.ip_local_reserved_ports={port}` keeps the port from connections",
                held.local, held.peer
            );
        }
        if let Some(held) = of(State::Lingers).next() {
            return format!(
                "nobody listens there, but a connection of that port is hardly over, {} to {}: it is gone within a \
                 minute (`ss -atn 'sport = :{port}'` shows it)",
                held.local, held.peer
            );
        }
        format!(
            "a program has that port, and neither listens there nor is connected by it, so that /proc does not \
             show which; `ss -tnp --bound-inactive 'sport = :{port}'` does, from iproute2 6.8 on; end it, or \
             use -port"
        )
    }
}

/// Reads a table of /proc/net for sockets with this port of ours.
fn read_table(table: impl BufRead, port: u16, deadline: Instant, found: &mut Vec<Held>) {
    for line in table.lines().skip(1).map_while(Result::ok) {
        let Some(held) = read_line(&line) else {
            continue;
        };
        // Those that listen come first; whoever listens is who is looked for.
        let is_known = found.iter().any(|held| held.state == State::Listens);
        if (held.state != State::Listens && is_known) || Instant::now() > deadline {
            return;
        }
        if held.local.port() == port {
            found.push(held);
        }
    }
}

fn read_line(line: &str) -> Option<Held> {
    // sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode ...
    let mut fields = line.split_ascii_whitespace();
    let local = address(fields.nth(1)?)?;
    let peer = address(fields.next()?)?;
    let state = match fields.next()? {
        "0A" => State::Listens,
        "06" => State::Lingers,
        _ => State::Connected,
    };
    let user = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Held {
        local,
        peer,
        state,
        user,
        inode,
        program: None,
    })
}

/// Groups of four bytes, each as a number of this machine; then the port.
fn address(field: &str) -> Option<SocketAddr> {
    let (ip, port) = field.split_once(':')?;
    let word = |at: usize| {
        let digits = ip.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Which programs have these sockets, as far as this user may look. Of several that share one (systemd
/// and the service that it was passed to) it is `own`, else the one that was started last.
fn programs(sockets: &[Held], own: Option<u32>, deadline: Instant) -> HashMap<u64, Program> {
    let mut found = HashMap::new();
    if sockets.is_empty() {
        return found;
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable_by_key(|pid| (Some(*pid) == own, *pid));
    for pid in pids {
        if Instant::now() > deadline {
            break;
        }
        let folder = Path::new("/proc").join(pid.to_string());
        let descriptors = fs::read_dir(folder.join("fd")).into_iter().flatten();
        for descriptor in descriptors.flatten() {
            let Some(inode) = fs::read_link(descriptor.path())
                .ok()
                .and_then(|target| socket_inode(target.to_str()?))
            else {
                continue;
            };
            if sockets.iter().any(|held| held.inode == inode) {
                let name = fs::read(folder.join("comm")).unwrap_or_default();
                let name = String::from_utf8_lossy(name.trim_ascii_end()).into_owned();
                found.insert(inode, Program { pid, name });
            }
        }
    }
    found
}

fn socket_inode(target: &str) -> Option<u64> {
    let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?;
    inode.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn table(lines: &[&str]) -> Vec<Held> {
        let text = format!("  sl  local_address ...\n{}\n", lines.join("\n"));
        let mut found = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        read_table(text.as_bytes(), 4369, deadline, &mut found);
        found
    }

    const LISTENING: &str = "   0: 0100007F:1111 00000000:0000 0A 00000000:00000000 00:00000000 00000000   106        0 17001 1 0000 100";
    const CONNECTED: &str = "   1: 0100007F:1111 0200000A:01BB 01 00000000:00000000 00:00000000 00000000  1000        0 17002 1 0000 100";
    const LINGERING: &str = "   1: 0100007F:1111 0200000A:01BB 06 00000000:00000000 03:00000123 00000000     0        0 0 3 0000";

    #[test]
    fn lines_of_the_kernels_table_are_read() {
        let all = table(&[LISTENING]);
        assert_eq!(all[0].local, "127.0.0.1:4369".parse().unwrap());
        assert_eq!((all[0].user, all[0].inode), (106, 17001));
        assert_eq!(all[0].state, State::Listens);
        let all = table(&[CONNECTED]);
        assert_eq!(all[0].peer, "10.0.0.2:443".parse().unwrap());
        assert_eq!(table(&[LINGERING])[0].state, State::Lingers);
        assert_eq!(
            table(&[LISTENING, CONNECTED]).len(),
            1,
            "who listens is enough"
        );
        for broken in ["", "x", "0: 0:0 0:0", "0: 0100007F:1111 zz", "0: é1"] {
            assert_eq!(table(&[broken]), [], "{broken:?}");
        }
        assert_eq!(
            address("B80D0120000000000000000009000000:1111"),
            Some("[2001:db8::9]:4369".parse().unwrap())
        );
    }

    #[test]
    fn the_process_that_listens_is_found_by_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let holders = Holders::of(address.port());
        assert_eq!(holders.listening(), [address.ip()]);
        let program = holders.sockets[0].program.as_ref().unwrap();
        assert_eq!(program.pid, std::process::id());
        let words = holders.words(address, "it says nothing");
        let expected =
            format!("systemd has passed the socket that listens on {address} to this very");
        assert!(words.starts_with(&expected), "{words}");
    }

    #[test]
    fn each_kind_of_holder_has_its_words() {
        let words = |line: &str, program: Option<(u32, &str)>| {
            let mut sockets = table(&[line]);
            for held in &mut sockets {
                held.program = program.map(|(pid, name)| Program {
                    pid,
                    name: name.into(),
                });
            }
            let own = Some(8);
            Holders { sockets, own }.words("0.0.0.0:4369".parse().unwrap(), "it says nothing")
        };
        for (line, program, expected) in [
            (
                LISTENING,
                Some((7, "nc")),
                "another program has that port: nc (pid 7) listens",
            ),
            (
                LISTENING,
                Some((7, "n\x1bc")),
                "another program has that port: n\\",
            ),
            (
                LISTENING,
                None,
                "another program has that port: one of user 106",
            ),
            (
                LISTENING,
                Some((8, "epmd")),
                "systemd has passed the socket",
            ),
            (
                LISTENING,
                Some((7, "epmd")),
                "epmd (pid 7) has that port, but",
            ),
            (
                LISTENING,
                Some((1, "systemd")),
                "systemd (process 1) has that port",
            ),
            (
                LISTENING,
                Some((1, "sh")),
                "another program has that port: sh (pid 1)",
            ),
            (
                CONNECTED,
                Some((7, "curl")),
                "nobody listens there, but a connection of curl (pid 7)",
            ),
            (
                CONNECTED,
                None,
                "nobody listens there, but a connection of user 1000",
            ),
            (
                LINGERING,
                None,
                "nobody listens there, but a connection of that port is hardly over",
            ),
            ("", None, "a program has that port, and neither listens"),
        ] {
            let words = words(line, program);
            assert!(words.starts_with(expected), "{words}");
        }
    }
}

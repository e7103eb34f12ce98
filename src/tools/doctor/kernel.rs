//! What this host's kernel says: who listens where, and who is a neighbour.
//!
//! Reads /proc and judges nothing. The tables' texts are parsed apart from the reading. Called by
//! `host` and `node`.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    /// On which address.
    pub(super) address: IpAddr,
    /// On which port.
    pub(super) port: u16,
    /// By which its process is found.
    inode: u64,
}

/// A process that holds a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Its name, as `ps` shows it.
    pub(super) name: String,
}

/// Every socket of this network that listens.
///
/// # Errors
/// /proc can't be read, so that nothing is known: what and why.
pub(super) fn listening() -> Result<Vec<Listening>, String> {
    let mut found = rows("/proc/self/net/tcp", parse_listening)?;
    // There is no such table where IPv6 is off.
    found.extend(rows("/proc/self/net/tcp6", parse_listening).unwrap_or_default());
    Ok(found)
}

/// Whether a UDP socket of this network has this port.
pub(super) fn is_udp(port: u16) -> bool {
    ["/proc/self/net/udp", "/proc/self/net/udp6"]
        .into_iter()
        .any(|table| rows(table, parse_unconnected).is_ok_and(|ports| ports.contains(&port)))
}

/// The first lines of a table of sockets, as long as they make sense. The kernel writes those that listen
/// first; a busy host has ten thousands of others.
fn rows<T>(table: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    let file = File::open(table).map_err(|error| format!("{table}: {error}"))?;
    let lines = BufReader::new(file).lines().map_while(Result::ok).skip(1);
    Ok(lines.map_while(|line| parse(&line)).collect())
}

/// A line of /proc/net/tcp or tcp6, if its socket listens.
fn parse_listening(line: &str) -> Option<Listening> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    Some(Listening {
        address: parse_address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// The port of a line of /proc/net/udp or udp6; 0 for a socket that is connected, which is nobody's to
/// send to.
fn parse_unconnected(line: &str) -> Option<u16> {
    const UNCONNECTED: &str = "07";
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != UNCONNECTED {
        return Some(0);
    }
    let (_, port) = fields.get(1)?.split_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

/// An address in groups of eight digits, each a number in this machine's order of bytes.
fn parse_address(digits: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    let (groups, []) = digits.as_bytes().as_chunks::<8>() else {
        return None;
    };
    for group in groups {
        let group = str::from_utf8(group).ok()?;
        bytes.extend(u32::from_str_radix(group, 16).ok()?.to_ne_bytes());
    }
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(address.to_canonical())
}

/// Who holds listening sockets, as far as this process may see it (root sees all).
pub(super) struct Owners(HashMap<u64, Vec<Process>>);

impl Owners {
    /// Looks through all processes for the holders of these sockets.
    pub(super) fn find<'a>(sockets: impl Iterator<Item = &'a Listening>) -> Self {
        let wanted: HashSet<u64> = sockets.map(|socket| socket.inode).collect();
        let mut owners: HashMap<u64, Vec<Process>> = HashMap::new();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for entry in processes {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let held: HashSet<u64> = fs::read_dir(entry.path().join("fd"))
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|descriptor| socket_inode(&fs::read_link(descriptor.path()).ok()?))
                .filter(|inode| wanted.contains(inode))
                .collect();
            if held.is_empty() {
                continue;
            }
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let name = crate::core::audit::escape(name.trim_end().as_bytes());
            for inode in held {
                let process = Process {
                    pid,
                    name: name.clone(),
                };
                owners.entry(inode).or_default().push(process);
            }
        }
        Self(owners)
    }

    /// Who holds this socket; where there are several, systemd, which started the other, comes last.
    pub(super) fn of(&self, socket: &Listening) -> Option<&Process> {
        let held_by = self.0.get(&socket.inode)?;
        held_by.iter().find(|p| p.pid != 1).or(held_by.first())
    }
}

/// The inode of a socket, from where its descriptor leads to.
fn socket_inode(link: &Path) -> Option<u64> {
    let link = link.to_str()?;
    let inode = link.strip_prefix("socket:[")?.strip_suffix(']')?;
    inode.parse().ok()
}

/// Which epmd a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Make {
    /// This crate's.
    Ours,
    /// The one that comes with Erlang/OTP.
    Stock,
}

/// Which epmd a process runs, by what stands in its program; `None` where that can't be told.
pub(super) fn make(pid: u32) -> Option<Make> {
    let program = format!("/proc/{pid}/exe");
    let itself = fs::metadata("/proc/self/exe").ok();
    let other = fs::metadata(&program).ok()?;
    if itself.is_some_and(|itself| (itself.dev(), itself.ino()) == (other.dev(), other.ino())) {
        return Some(Make::Ours);
    }
    /// Both say what they have to say well before.
    const MOST_READ: u64 = 16 * 1024 * 1024;
    let mut bytes = Vec::new();
    let file = File::open(&program).ok()?;
    file.take(MOST_READ).read_to_end(&mut bytes).ok()?;
    make_of(&bytes)
}

/// Which epmd a program is.
fn make_of(program: &[u8]) -> Option<Make> {
    // Ours has stock's messages as well.
    if contains(program, env!("CARGO_PKG_NAME").as_bytes()) {
        Some(Make::Ours)
    } else if contains(program, b"relaxed_command_check") {
        Some(Make::Stock)
    } else {
        None
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    let Some(first) = part.first() else {
        return true;
    };
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = rest.get(at..).unwrap_or_default();
        if rest.starts_with(part) {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

/// Whether a process is an Erlang node that was started with a full name (`-name`), or a short one
/// (`-sname`); `None` where its command line does not say.
pub(super) fn has_full_name(pid: u32) -> Option<bool> {
    has_full_name_of(&fs::read(format!("/proc/{pid}/cmdline")).ok()?)
}

fn has_full_name_of(arguments: &[u8]) -> Option<bool> {
    arguments.split(|&b| b == 0).find_map(|word| match word {
        b"-name" => Some(true),
        b"-sname" => Some(false),
        _ => None,
    })
}

/// Whether a node runs here that needs no epmd: it was told its peers' ports (`-erl_epmd_port`,
/// ERL_DIST_PORT) or whom else to ask (`-epmd_module`).
pub(super) fn a_node_needs_no_epmd() -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.map(|entry| entry.path()).any(|process| {
        let read = |file: &str| fs::read(process.join(file)).unwrap_or_default();
        read("comm").starts_with(b"beam") && needs_no_epmd(&read("cmdline"), &read("environ"))
    })
}

fn needs_no_epmd(arguments: &[u8], variables: &[u8]) -> bool {
    let told = |word: &[u8]| matches!(word, b"-erl_epmd_port" | b"-epmd_module");
    arguments.split(|&b| b == 0).any(told)
        || variables
            .split(|&b| b == 0)
            .any(|variable| variable.starts_with(b"ERL_DIST_PORT="))
}

/// Whether the host with this address answers on the link (ARP), where it is on one of this host's
/// links and was asked: `Some(false)` is a host that is down, or not there.
pub(super) fn is_there(address: IpAddr) -> Option<bool> {
    parse_neighbour(&fs::read_to_string("/proc/self/net/arp").ok()?, address)
}

fn parse_neighbour(table: &str, address: IpAddr) -> Option<bool> {
    const COMPLETE: u32 = 2;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        if fields.next()?.parse::<IpAddr>().ok()? != address {
            return None;
        }
        let flags = fields.nth(1)?.strip_prefix("0x")?;
        Some(u32::from_str_radix(flags, 16).ok()? & COMPLETE != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn listening_sockets() {
        let line = "   0: 0100007F:1111 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0";
        let expected = Listening {
            address: "127.0.0.1".parse().unwrap(),
            port: 4369,
            inode: 4242,
        };
        assert_eq!(parse_listening(line), Some(expected));
        assert_eq!(parse_listening(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(parse_listening(""), None);
        let v6 = |digits| parse_address(digits).map(|a| a.to_string());
        assert_eq!(v6("000077FD000000000000000001000000").unwrap(), "fd77::1");
        assert_eq!(v6("00000000000000000000000000000000").unwrap(), "::");
        assert_eq!(v6("0000000000000000FFFF00000100007F").unwrap(), "127.0.0.1");
        assert_eq!(v6("0100007"), None);
    }

    #[test]
    fn who_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let all = listening().unwrap();
        let socket = all
            .iter()
            .find(|s| (s.address, s.port) == (address.ip(), address.port()))
            .unwrap();
        let owners = Owners::find(std::iter::once(socket));
        assert_eq!(owners.of(socket).unwrap().pid, std::process::id());
    }

    #[test]
    fn makes_are_told_apart_by_what_stands_in_the_program() {
        assert_eq!(make(std::process::id()), Some(Make::Ours));
        let ours = b"\x7fELF relaxed_command_check hardened-epmd 1";
        assert_eq!(make_of(ours), Some(Make::Ours));
        assert_eq!(
            make_of(b"\x7fELF -relaxed_command_check"),
            Some(Make::Stock)
        );
        assert_eq!(make_of(b"\x7fELF hardened"), None);
        assert!(contains(b"aab", b"ab"));
        assert!(!contains(b"aa", b"ab"));
    }

    #[test]
    fn names_of_nodes_are_told_by_their_command_lines() {
        assert_eq!(has_full_name_of(b"beam\0-name\0a@b.c\0"), Some(true));
        assert_eq!(has_full_name_of(b"beam\0-sname\0a"), Some(false));
        assert_eq!(has_full_name_of(b"beam\0-noname\0"), None);
    }

    #[test]
    fn a_node_that_needs_no_epmd_is_told_by_how_it_was_started() {
        assert!(needs_no_epmd(b"beam\0-erl_epmd_port\09100", b""));
        assert!(needs_no_epmd(b"beam\0-epmd_module\0x", b""));
        assert!(needs_no_epmd(b"beam", b"A=1\0ERL_DIST_PORT=9100\0"));
        assert!(!needs_no_epmd(
            b"beam\0-sname\0-erl_epmd_ports",
            b"XERL_DIST_PORT=1"
        ));
    }

    #[test]
    fn a_port_of_udp_is_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(is_udp(port));
        drop(socket);
        assert!(!is_udp(port));
        assert!(rows("/proc/self/net/nothing", parse_listening).is_err());
    }

    #[test]
    fn neighbours() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.77.0.1        0x1         0x2         5a:e0:6f:36:29:6c     *        eth0\n\
                     10.77.0.9        0x1         0x0         00:00:00:00:00:00     *        eth0\n";
        let there = |address: &str| parse_neighbour(table, address.parse().unwrap());
        assert_eq!(there("10.77.0.1"), Some(true));
        assert_eq!(there("10.77.0.9"), Some(false));
        assert_eq!(there("10.77.0.2"), None);
        assert_eq!(there("fd77::1"), None);
    }
}

//! What an epmd says of itself: its dump, and all that a lookup tells of each name.
//!
//! It is another process, and may be anything: each answer is read as a stranger's bytes, with a cap and
//! a time. Called by `takeover`.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::core::wire::{
    self, Found, MAX_FOUND, MAX_LISTING, MAX_NAME_CHARS, Node, Request, decode_found,
};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a lookup tells of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) port: u16,
    pub(super) kind: u8,
    pub(super) protocol: u8,
    pub(super) highest: u16,
    pub(super) lowest: u16,
    pub(super) extra: Box<[u8]>,
}

impl Facts {
    fn of(node: &Node<'_>) -> Self {
        Self {
            port: node.port,
            kind: node.kind,
            protocol: node.protocol,
            highest: node.highest,
            lowest: node.lowest,
            extra: node.extra.into(),
        }
    }

    /// The node of this name.
    pub(super) fn node<'a>(&'a self, name: &'a [u8]) -> Node<'a> {
        Node {
            port: self.port,
            kind: self.kind,
            protocol: self.protocol,
            highest: self.highest,
            lowest: self.lowest,
            name,
            extra: &self.extra,
        }
    }
}

/// Where an epmd that listens on `address` is asked.
pub(super) fn place(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Asks for a dump.
///
/// # Errors
/// Where there is no whole answer in time. What the answer says is the caller's to judge.
pub(super) fn dump(place: SocketAddr) -> io::Result<Vec<u8>> {
    ask(place, &Request::Dump, MAX_LISTING)
}

/// Asks what there is to know of a name, whose port the dump has told. `None` where it is not as the dump
/// says, by now.
///
/// # Errors
/// Where there is no whole answer in time, or it is none to this question.
pub(super) fn facts(place: SocketAddr, name: &[u8], port: u16) -> io::Result<Option<Facts>> {
    let answer = ask(place, &Request::Lookup(name), MAX_FOUND)?;
    match decode_found(&answer) {
        Found::Node(node) if node.name == name => Ok((node.port == port).then(|| Facts::of(&node))),
        Found::NotRegistered => Ok(None),
        // Stock registers a name of as many characters as there may be, but answers no lookup of it.
        Found::Incomplete if answer.is_empty() && is_longest(name) => {
            Ok(Some(Facts::of(&Node::new(name, port))))
        }
        Found::Node(_) | Found::Incomplete | Found::Malformed => Err(io::Error::new(
            ErrorKind::InvalidData,
            "its answer to a lookup is none",
        )),
    }
}

fn is_longest(name: &[u8]) -> bool {
    str::from_utf8(name).is_ok_and(|name| name.chars().count() >= MAX_NAME_CHARS)
}

/// Sends a request, and reads the answer to its end.
fn ask(place: SocketAddr, request: &Request<'_>, cap: usize) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(ErrorKind::TimedOut));
        }
        Ok(left)
    };
    let mut stream = TcpStream::connect_timeout(&place, PATIENCE)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(&wire::encode_request(request))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left()?))?;
        let count = match stream.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        };
        if count == 0 {
            return Ok(answer);
        }
        answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if answer.len() > cap {
            let text = format!("its answer is longer than {cap} bytes");
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
    }
}

//! Which sockets there are in this network namespace, as the kernel says (sock_diag(7)): who listens on a
//! port, and whether there is a socket with these two ends.
//!
//! A question and its answers as bytes, and one netlink socket for both. /proc/net/tcp has the same, but
//! takes seconds where many connections rest in TIME_WAIT. Called by `daemon` and by `tools`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// Its number, by which /proc/PID/fd names it.
    pub inode: u64,
}

/// `SOCK_DIAG_BY_FAMILY`, linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// `TCP_LISTEN` as a bit among states, and as a state.
const LISTEN: u8 = 10;
/// The length of a message's head, `struct nlmsghdr`.
const HEAD: usize = 16;
/// The most bytes that the kernel puts into one answer (netlink(7)), with room to spare.
const MOST: usize = 64 * 1024;
/// How long the kernel may take for an answer, in seconds: it has it at once.
const PATIENCE: i64 = 2;

/// All sockets that listen on this TCP port, of both families.
///
/// # Errors
/// What the kernel says, also that it can't be asked so.
pub fn listening_on(port: u16) -> io::Result<Vec<Listening>> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).unwrap_or_default();
        let netlink = netlink()?;
        send(
            netlink.as_raw_fd(),
            &question(family, port),
            MsgFlags::empty(),
        )?;
        let mut buffer = vec![0; MOST];
        loop {
            let count = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let answer = buffer.get(..count).unwrap_or_default();
            if read(answer, port, &mut all)? {
                break;
            }
        }
    }
    Ok(all)
}

fn netlink() -> io::Result<OwnedFd> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    setsockopt(&netlink, ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
    Ok(netlink)
}

/// Asks whether there is a socket with these two ends, again and again.
#[derive(Debug)]
pub struct Asker {
    netlink: OwnedFd,
}

impl Asker {
    /// # Errors
    /// The kernel can't be asked: there is no netlink, or a filter forbids it.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            netlink: netlink()?,
        })
    }

    /// Whether a TCP socket of this host has `near` as its own end and `far` as the other one; in
    /// whatever state, also closed lately. Takes some 6 us, and never waits: the kernel answers before
    /// the question has returned.
    ///
    /// # Errors
    /// What the kernel says. That there is no such socket, and that it knows no such questions, it says
    /// in the same words: ask for a socket first that is there.
    pub fn is_there(&self, near: SocketAddr, far: SocketAddr) -> io::Result<bool> {
        let asked = question_for(near, far);
        send(self.netlink.as_raw_fd(), &asked, MsgFlags::MSG_DONTWAIT)?;
        let mut buffer = [0; 1024];
        let count = recv(
            self.netlink.as_raw_fd(),
            &mut buffer,
            MsgFlags::MSG_DONTWAIT,
        )?;
        let answer = buffer.get(..count).unwrap_or_default();
        let Some((kind, body, _)) = message(answer) else {
            return Err(io::Error::other(NO_SENSE));
        };
        if i32::from(kind) == libc::NLMSG_ERROR {
            let number = body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
            return match number.saturating_neg() {
                libc::ENOENT => Ok(false),
                other => Err(io::Error::from_raw_os_error(other)),
            };
        }
        // Where there is none with these ends, it may tell of one that listens at the near one.
        Ok(ends(body) == Some((near, far)))
    }
}

/// What is said of bytes that no kernel sends.
const NO_SENSE: &str = "the kernel's answer makes no sense";

/// `struct nlmsghdr` and `struct inet_diag_req_v2`: all that listen on this port.
fn question(family: u8, port: u16) -> Vec<u8> {
    let mut bytes = head(family, libc::NLM_F_DUMP, 1_u32 << LISTEN);
    bytes.extend(port.to_be_bytes());
    bytes.resize(LENGTH, 0); // any other end
    bytes
}

/// The same: the one socket with these ends.
fn question_for(near: SocketAddr, far: SocketAddr) -> Vec<u8> {
    const ANY_COOKIE: [u8; 8] = [0xff; 8];
    let family = if near.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let mut bytes = head(u8::try_from(family).unwrap_or_default(), 0, u32::MAX);
    bytes.extend(near.port().to_be_bytes());
    bytes.extend(far.port().to_be_bytes());
    for end in [near, far] {
        let place = bytes.len() + 16;
        match end.ip() {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
        bytes.resize(place, 0);
    }
    // A link-local address is one of an interface.
    let interface = match near {
        SocketAddr::V6(near) => near.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    bytes.extend(interface.to_ne_bytes());
    bytes.extend(ANY_COOKIE);
    bytes
}

/// The length of a question.
const LENGTH: usize = 72;

/// A question up to the ports.
fn head(family: u8, flags: i32, states: u32) -> Vec<u8> {
    let flags = u16::try_from(libc::NLM_F_REQUEST | flags).unwrap_or_default();
    let mut bytes = u32::try_from(LENGTH)
        .unwrap_or_default()
        .to_ne_bytes()
        .to_vec();
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]); // its number, and who asks
    bytes.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes
}

/// Reads the messages of one answer; true where the last one was among them.
fn read(mut answer: &[u8], port: u16, all: &mut Vec<Listening>) -> io::Result<bool> {
    const DONE: i32 = libc::NLMSG_DONE;
    const ERROR: i32 = libc::NLMSG_ERROR;
    while let Some(message) = message(answer) {
        let (kind, body, next) = message;
        match i32::from(kind) {
            DONE => return Ok(true),
            ERROR => {
                let number = body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                return Err(io::Error::from_raw_os_error(number.saturating_neg()));
            }
            _ => all.extend(listening(body).filter(|l| l.address.port() == port)),
        }
        answer = next;
    }
    if answer.is_empty() {
        return Ok(false);
    }
    Err(io::Error::other(NO_SENSE))
}

/// A message's kind and body, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
    let kind = u16::from_ne_bytes(*rest.first_chunk()?);
    let body = bytes.get(HEAD..length)?;
    // Messages begin at a multiple of four.
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// `struct inet_diag_msg`, where it is of a socket that listens.
fn listening(body: &[u8]) -> Option<Listening> {
    let inode = u32::from_ne_bytes(*body.get(68..)?.first_chunk()?);
    let (address, _) = ends(body)?;
    (*body.get(1)? == LISTEN).then_some(Listening {
        address,
        inode: inode.into(),
    })
}

/// The ends that a `struct inet_diag_msg` names: the socket's own and the other one.
fn ends(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let family = i32::from(*body.first()?);
    let end = |port: usize, address: usize| {
        let port = u16::from_be_bytes(*body.get(port..)?.first_chunk()?);
        let address: [u8; 16] = *body.get(address..)?.first_chunk()?;
        let ip: IpAddr = match family {
            libc::AF_INET => Ipv4Addr::from(*address.first_chunk::<4>()?).into(),
            libc::AF_INET6 => Ipv6Addr::from(address).into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip.to_canonical(), port))
    };
    Some((end(4, 8)?, end(6, 24)?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn inode(socket: &TcpListener) -> u64 {
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        std::fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn the_kernel_tells_who_listens() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let mut expected = vec![first];
        expected.extend(TcpListener::bind(("::1", port)));
        let expected: Vec<_> = expected
            .iter()
            .map(|l| (l.local_addr().unwrap(), inode(l)))
            .collect();
        let found = listening_on(port).unwrap();
        let found: Vec<_> = found.iter().map(|l| (l.address, l.inode)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_kernel_tells_whether_a_connection_is_there() {
        let asker = Asker::new().unwrap();
        for any in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let Ok(listener) = TcpListener::bind(any) else {
                continue; // there is no IPv6
            };
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
            let near = canonical(client.local_addr().unwrap());
            let far = canonical(client.peer_addr().unwrap());
            assert!(asker.is_there(near, far).unwrap(), "{any}");
            assert!(
                asker.is_there(far, near).unwrap(),
                "{any}, not accepted yet"
            );
            // With another port at either end there is none; where one listens, it is not taken for it.
            let other = SocketAddr::new(near.ip(), near.port() ^ 1);
            assert!(!asker.is_there(other, far).unwrap(), "{any}");
            assert!(!asker.is_there(far, other).unwrap(), "{any}");
        }
    }

    #[test]
    fn a_port_on_which_nobody_listens_has_no_sockets() {
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        assert_eq!(listening_on(port).unwrap(), []);
    }

    #[test]
    fn what_is_no_answer_of_the_kernel_is_an_error_and_no_loop() {
        let mut all = Vec::new();
        for bytes in [&[1][..], &[0; 16], &[255; 100], &[8, 0, 0, 0, 3, 0, 0, 0]] {
            assert!(read(bytes, 1, &mut all).is_err(), "{bytes:?}");
        }
        let mut error = 20_u32.to_ne_bytes().to_vec();
        error.extend(2_u16.to_ne_bytes());
        error.extend([0; 10]);
        error.extend((-libc::ENOENT).to_ne_bytes());
        let error = read(&error, 1, &mut all).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        for length in 0..100 {
            assert_eq!(listening(&vec![0; length]), None);
        }
        assert!(all.is_empty());
    }
}

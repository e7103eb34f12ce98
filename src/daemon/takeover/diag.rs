//! Which sockets listen on a port of this network namespace, as the kernel says (sock_diag(7)).
//!
//! A question and its answers as bytes, and one netlink socket for both. /proc/net/tcp has the same, but
//! takes seconds where many connections rest in TIME_WAIT. Called by `holder`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    /// Its number, by which /proc/PID/fd names it.
    pub(super) inode: u64,
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
pub(super) fn listening_on(port: u16) -> io::Result<Vec<Listening>> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).unwrap_or_default();
        let netlink = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        setsockopt(&netlink, ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
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

/// `struct nlmsghdr` and `struct inet_diag_req_v2`: all that listen on this port.
fn question(family: u8, port: u16) -> Vec<u8> {
    const LENGTH: u32 = 72;
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap_or_default();
    let mut bytes = LENGTH.to_ne_bytes().to_vec();
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]); // its number, and who asks
    bytes.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend((1_u32 << LISTEN).to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.resize(LENGTH as usize, 0); // any other end
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
    Err(io::Error::other("the kernel's answer makes no sense"))
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
    let at = |place: usize| body.get(place..);
    let (&family, &state) = (body.first()?, body.get(1)?);
    let port = u16::from_be_bytes(*at(4)?.first_chunk()?);
    let source: [u8; 16] = *at(8)?.first_chunk()?;
    let inode = u32::from_ne_bytes(*at(68)?.first_chunk()?);
    let ip: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::from(*source.first_chunk::<4>()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(source).into(),
        _ => return None,
    };
    (state == LISTEN).then_some(Listening {
        address: SocketAddr::new(ip, port),
        inode: inode.into(),
    })
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

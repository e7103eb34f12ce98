//! A queue of its own for this host, at an address that strangers reach as well.
//!
//! The connections to a listening socket wait in one queue, first come, first served, and where it is
//! full the kernel drops what comes, which costs a client a second: strangers could hold up this
//! host's nodes without ever being accepted. So the address gets a second socket, and the kernel puts
//! what comes by the loopback interface (that is all that this host sends to itself, whatever its
//! address) into that one's queue. Called by `listen`, which has bound the first socket alone, so that
//! another program at the same port has been found out before; one of the same user that joins later, as
//! `SO_REUSEPORT` allows, is never chosen.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::socket::{BACKLOG, defer_accept};

sockopt_impl!(
    /// Which socket of those with one address takes a connection: socket(7).
    AttachReuseportCbpf, SetOnly, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, libc::sock_fprog
);

/// The number of the loopback interface, in every network namespace.
const LOOPBACK: u32 = 1;
/// The first socket's number among those with its address, in the order in which they came to listen.
const FIRST: u32 = 0;
const SECOND: u32 = 1;

/// A second socket at the address of one that listens, for what comes from this host. Without it the
/// first one takes everything, as before.
///
/// # Errors
/// What the kernel refuses: above all, where the first socket is another user's (a socket unit's).
pub(super) fn beside(first: &TcpListener) -> io::Result<TcpListener> {
    let own = SockRef::from(first);
    own.set_reuse_port(true)?;
    let second = second(first);
    if second.is_err() {
        own.set_reuse_port(false)?;
    }
    second
}

fn second(first: &TcpListener) -> io::Result<TcpListener> {
    let address = first.local_addr()?;
    let second = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        second.set_only_v6(SockRef::from(first).only_v6()?)?;
    }
    if address.is_ipv4() {
        second.set_freebind_v4(true)?;
    } else {
        second.set_freebind_v6(true)?;
    }
    second.set_reuse_address(true)?;
    second.set_reuse_port(true)?;
    second.set_nonblocking(true)?;
    defer_accept(&second)?;
    second.bind(&address.into())?;
    second.listen(BACKLOG)?;
    choose_by_interface(&second)?;
    Ok(second.into())
}

/// Has the kernel choose between the sockets of an address by the interface that a packet came by.
/// There must be two.
fn choose_by_interface(socket: &impl AsFd) -> io::Result<()> {
    let step = |code: u32, if_not: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt: 0,
        jf: if_not,
        k,
    };
    let interface = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX).cast_unsigned();
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, interface),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, LOOPBACK),
        step(libc::BPF_RET | libc::BPF_K, 0, SECOND),
        step(libc::BPF_RET | libc::BPF_K, 0, FIRST),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or_default(),
        filter: program.as_mut_ptr(),
    };
    Ok(setsockopt(socket, AttachReuseportCbpf, &program)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

    fn takes(listener: &TcpListener) -> bool {
        listener.set_nonblocking(true).unwrap();
        listener.accept().is_ok()
    }

    /// An address of this machine that is not loopback, if it has one.
    fn outer_address() -> Option<Ipv4Addr> {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        match socket.local_addr().ok()? {
            SocketAddr::V4(address) => Some(*address.ip()),
            SocketAddr::V6(_) => None,
        }
    }

    #[test]
    fn this_host_is_in_a_queue_of_its_own() {
        let first = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let second = beside(&first).unwrap();
        let ways = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 1, 1)];
        // What this host sends to an outer address of its own comes by the loopback interface, too.
        for way in ways.into_iter().chain(outer_address()) {
            let mut stream = TcpStream::connect((way, port)).unwrap();
            io::Write::write_all(&mut stream, b"x").unwrap();
            assert!(!takes(&first), "{way}");
            assert!(takes(&second), "{way}");
        }
    }

    #[test]
    fn who_joins_later_gets_nothing() {
        let first = TcpListener::bind("0.0.0.0:0").unwrap();
        let address = first.local_addr().unwrap();
        let second = beside(&first).unwrap();
        let third = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        third.set_reuse_port(true).unwrap();
        third.bind(&address.into()).unwrap();
        third.listen(BACKLOG).unwrap();
        let third = TcpListener::from(third);
        for _ in 0..50 {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).unwrap();
            io::Write::write_all(&mut stream, b"x").unwrap();
            assert!(takes(&second) && !takes(&third));
        }
    }

    #[test]
    fn nobody_else_gets_the_port() {
        let first = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let _second = beside(&first).unwrap();
        for address in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST] {
            let taken = TcpListener::bind((address, port)).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        }
    }
}

//! A queue of its own for this host, at an address that strangers reach as well.
//!
//! The connections to a listening socket wait in one queue, first come, first served, and where it is
//! full the kernel drops what comes, which costs a client a second: strangers could hold up this
//! host's nodes without ever being accepted. So the address gets a second socket, and the kernel puts
//! what comes by the loopback interface (that is all that this host sends to itself, whatever its
//! address) into that one's queue. Called by `listen`, which has bound the first socket alone, so that
//! another program at the same port has been found out before.
//!
//! `SO_REUSEPORT` would let any process of the same user join, or listen at a more specific address
//! (127.0.0.1 beside 0.0.0.0) and get all that comes there. So the door is `shut` again behind the pairs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::socket::{BACKLOG, defer_accept, free_bind};

sockopt_impl!(
    /// Which socket of those with one address takes a connection: socket(7).
    AttachReuseportCbpf, SetOnly, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, libc::sock_fprog
);

/// The number of the loopback interface, in every network namespace.
const LOOPBACK: u32 = 1;
/// The first socket's number among those with its address, in the order in which they came to listen.
const FIRST: u32 = 0;
const SECOND: u32 = 1;

/// Addresses that nobody connects to, at which the door may stay open: the last one of 127.0.0.0/8 but
/// for its broadcast address, and one of the block that is for discarding (RFC 6666).
const OF_NO_USE: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(127, 255, 255, 254)),
];

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
    if address.is_ipv6() && !address.ip().is_unspecified() {
        // Where it is refused, an address that is named takes nothing of IPv4 anyhow.
        let _ = second.set_only_v6(true);
    } else if address.is_ipv6() {
        second.set_only_v6(SockRef::from(first).only_v6()?)?;
    }
    free_bind(&second, address.ip())?;
    second.set_reuse_address(true)?;
    second.set_reuse_port(true)?;
    second.set_nonblocking(true)?;
    // Only saves time.
    let _ = defer_accept(&second);
    second.bind(&address.into())?;
    second.listen(BACKLOG)?;
    choose_by_interface(&second)?;
    Ok(second.into())
}

/// Shuts the door behind the new `pairs` (the first socket, and the one [`beside`] it): who comes to the
/// port later is turned away, whoever runs it. Gives the addresses where that could not be had.
///
/// The kernel asks two things of a newcomer. Whether each socket that it would overlap with takes others
/// beside it: one of each pair says no from now on, the one that the kernel does not meet first when it
/// looks for who takes a connection (the newest is first with IPv4, the oldest with IPv6), for the choice
/// is made only where that one has the flag. And before that, as a shortcut, whether the newcomer is like the last
/// one that was let in at this port: that is to be a socket at an address of no use.
pub(super) fn shut(all: &[TcpListener], pairs: &[(&TcpListener, &TcpListener)]) -> Vec<SocketAddr> {
    if pairs.is_empty() {
        return Vec::new();
    }
    // Those from before a restart have been shut already; for a moment all must let others in.
    let before: Vec<_> = all
        .iter()
        .map(|listener| {
            let socket = SockRef::from(listener);
            let lets_in = socket.reuse_port().is_ok_and(|is| is);
            let _ = socket.set_reuse_port(true);
            (socket, lets_in)
        })
        .collect();
    let port = all
        .first()
        .and_then(|listener| listener.local_addr().ok())
        .map_or(0, |address| address.port());
    for address in OF_NO_USE {
        // Where it fails, the trial below tells what came of it.
        let _ = newcomer(SocketAddr::new(address, port));
    }
    for (socket, lets_in) in before {
        let _ = socket.set_reuse_port(lets_in);
    }
    let mut open = Vec::new();
    for (first, second) in pairs {
        let Ok(address) = first.local_addr() else {
            continue;
        };
        let (keeps, shuts) = if address.is_ipv4() {
            (second, first)
        } else {
            (first, second)
        };
        let _ = SockRef::from(*keeps).set_reuse_port(true);
        let _ = SockRef::from(*shuts).set_reuse_port(false);
    }
    for (first, _) in pairs {
        let Ok(mut address) = first.local_addr() else {
            continue;
        };
        address.set_ip(match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        });
        if newcomer(address).is_ok() {
            open.push(address);
        }
    }
    open
}

/// Binds as a newcomer would that wants to listen beside others; it never does, and is gone at once.
fn newcomer(address: SocketAddr) -> io::Result<()> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    free_bind(&socket, address.ip())?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())
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

    /// A listener with a pair beside each of these addresses, as the daemon makes them.
    fn pairs(addresses: &[&str]) -> (u16, Vec<TcpListener>) {
        let mut port = 0;
        let firsts: Vec<_> = addresses
            .iter()
            .map(|address| {
                let address = SocketAddr::new(address.parse().unwrap(), port);
                let domain = Domain::for_address(address);
                let socket = Socket::new(domain, Type::STREAM, None).unwrap();
                if address.is_ipv6() {
                    socket.set_only_v6(true).unwrap();
                }
                socket.set_reuse_address(true).unwrap();
                socket.bind(&address.into()).unwrap();
                socket.listen(BACKLOG).unwrap();
                let first = TcpListener::from(socket);
                port = first.local_addr().unwrap().port();
                first
            })
            .collect();
        let seconds: Vec<_> = firsts.iter().map(|first| beside(first).unwrap()).collect();
        let pairs: Vec<_> = firsts.iter().zip(&seconds).collect();
        assert_eq!(shut(&firsts, &pairs), [], "{addresses:?}");
        drop(pairs);
        (port, firsts.into_iter().chain(seconds).collect())
    }

    #[test]
    fn nobody_joins_later_or_listens_at_a_more_specific_address() {
        for wildcards in [
            &["0.0.0.0"][..],
            &["::"],
            &["0.0.0.0", "::"],
            &["::", "0.0.0.0"],
        ] {
            let (port, listeners) = pairs(wildcards);
            let v4 = [
                "127.0.0.1",
                "127.0.1.1",
                "127.9.9.9",
                "0.0.0.0",
                "192.0.2.1",
            ];
            let v6 = ["::1", "::", "2001:db8::9"];
            let held = |family: &str| wildcards.contains(&family);
            let of_v4 = v4.iter().filter(|_| held("0.0.0.0"));
            for address in of_v4.chain(v6.iter().filter(|_| held("::"))) {
                let address = SocketAddr::new(address.parse().unwrap(), port);
                for _ in 0..2 {
                    let taken = newcomer(address).unwrap_err();
                    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse, "{address}");
                }
            }
            // This host still has its own queue, in each family.
            for (first, second) in listeners.iter().zip(&listeners[wildcards.len()..]) {
                let mut way = first.local_addr().unwrap();
                way.set_ip(if way.is_ipv4() {
                    Ipv4Addr::LOCALHOST.into()
                } else {
                    Ipv6Addr::LOCALHOST.into()
                });
                let mut stream = TcpStream::connect(way).unwrap();
                io::Write::write_all(&mut stream, b"x").unwrap();
                assert!(!takes(first) && takes(second), "{way}");
            }
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

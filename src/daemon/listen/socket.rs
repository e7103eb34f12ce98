//! One listening socket: made, given what it needs and what helps it, and bound.
//!
//! What only helps is done without where the kernel (or whoever filters system calls) refuses it, and
//! that is noted once. A family that this process can't have is skipped. Called by its neighbours here,
//! and by `systemd` for sockets that were handed over.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::notes::Notes;

sockopt_impl!(
    /// How long the kernel may keep a connection whose first bytes have not come, in seconds
    /// (`TCP_DEFER_ACCEPT`, tcp(7)).
    DeferAccept, SetOnly, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, u32
);

/// One second is the least that the kernel knows. A connection that is accepted with its request
/// already there is answered on the spot; one that sends nothing is accepted after that second.
const DEFER_ACCEPT_SECONDS: u32 = 1;

/// How many connections may wait to be accepted; the kernel caps it at net.core.somaxconn.
pub(in crate::daemon) const BACKLOG: i32 = 4096;

/// Whether the loopback interface is to have no IPv6 at all: then ::1 does not come later either.
const NO_V6_LOOPBACK: &str = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";

/// Makes a listening socket that another program has made serve as our own do.
///
/// # Errors
/// What the kernel says to its being non-blocking, without which it can't be served.
pub(in crate::daemon) fn adopt(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    // These only help. A longer queue than stock's has:
    let _ = SockRef::from(listener).listen(BACKLOG);
    let _ = defer_accept(listener);
    Ok(())
}

/// Has a listening socket hand connections out as they are made.
///
/// # Errors
/// What setsockopt(2) says.
pub(super) fn defer_accept_no_more(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, DeferAccept, &0)?)
}

/// Has a listening socket hand a connection out once its first bytes are there.
///
/// # Errors
/// What setsockopt(2) says.
pub(in crate::daemon) fn defer_accept(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, DeferAccept, &DEFER_ACCEPT_SECONDS)?)
}

/// Binds one address, and does not listen yet; `None` where the host lacks what it takes, which is noted.
pub(super) fn bound(
    address: SocketAddr,
    shared: bool,
    notes: &mut Notes,
) -> io::Result<Option<Socket>> {
    let ip = address.ip();
    let socket = match Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    ) {
        Err(error) if is_of_the_family(&error) => {
            let of = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            if ip.is_ipv6() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) {
                let text = format!("not listening on {ip}: this host has no {of}");
                notes.lacking.push((ip, text));
            } else {
                notes.warn(format!(
                    "not listening on {ip}: no {of} socket can be had: {error}"
                ));
            }
            return Ok(None);
        }
        socket => socket?,
    };
    // Each family by itself: a dual-stack socket would make every IPv4 peer a mapped one, and have the
    // port of the other wildcard. An address that is named takes nothing of IPv4 anyhow.
    if ip.is_ipv6()
        && let Err(error) = socket.set_only_v6(true)
        && ip.is_unspecified()
        && !socket.only_v6().is_ok_and(|only| only)
    {
        notes.warn(format!(
            "not listening on {ip}: IPV6_V6ONLY is refused ({error}), and IPv4 would come there too; \
             of IPv6, ::1 alone is listened on, and what -address names"
        ));
        let loopback = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port());
        return bound(loopback, shared, notes);
    }
    helps("SO_REUSEADDR", socket.set_reuse_address(true), notes);
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    helps("TCP_DEFER_ACCEPT", defer_accept(&socket), notes);
    match socket.bind(&address.into()) {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            if !may_come_later(ip) {
                let text = format!("not listening on {ip}: this host does not have it");
                notes.lacking.push((ip, text));
                return Ok(None);
            }
            free_bind(&socket, ip)?;
            socket.bind(&address.into())?;
            notes.warn(format!(
                "listening on {ip}, which this host does not have yet; it is served once it is there"
            ));
        }
        result => result?,
    }
    Ok(Some(socket))
}

/// Has a socket be bound to an address that this host does not have.
pub(super) fn free_bind(socket: &Socket, ip: IpAddr) -> io::Result<()> {
    match ip {
        IpAddr::V4(_) => socket.set_freebind_v4(true),
        IpAddr::V6(_) => socket.set_freebind_v6(true),
    }
}

/// Notes, once for all sockets, that an option is done without.
pub(super) fn helps(option: &str, result: io::Result<()>, notes: &mut Notes) {
    if let Err(error) = result {
        notes.warn(format!(
            "listening without {option}, which is refused: {error}"
        ));
    }
}

/// Whether an error of socket(2) means that this process gets no socket of this family, and may get one
/// of the other.
fn is_of_the_family(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EAFNOSUPPORT
                | libc::EPROTONOSUPPORT
                | libc::ESOCKTNOSUPPORT
                | libc::EACCES
                | libc::EPERM
        )
    )
}

/// Whether an address that this host does not have may be there later: with a VPN, or with the loopback
/// interface, which may come up after epmd.
fn may_come_later(ip: IpAddr) -> bool {
    let is_off = || fs::read(NO_V6_LOOPBACK).is_ok_and(|value| value.starts_with(b"1"));
    match ip {
        IpAddr::V6(Ipv6Addr::LOCALHOST) => !is_off(),
        ip => !ip.is_unspecified(),
    }
}

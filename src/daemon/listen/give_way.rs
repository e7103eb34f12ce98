//! Listening sockets that are to be no more give way to those that the settings name, and nothing that
//! waits in them is lost.
//!
//! The new ones are bound while the old ones still listen, beside or across them (a socket for both
//! families and one for each, for example), so that there is no moment without any. From then on no new
//! connection comes to the old ones; those that are there, or are just being made, are accepted by the
//! server, until there can be none any more. Called by the daemon's start.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use socket2::SockRef;

use super::{BACKLOG, Bound, ListenError, bind_all};

sockopt_impl!(
    /// The only interface by which a socket is reached, by its index (socket(7), Linux 5.1).
    BindToIfIndex, SetOnly, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, libc::c_int
);

/// No interface: the kernel gives indices from 1 on, one after the other.
const NO_INTERFACE: libc::c_int = libc::c_int::MAX;

/// How long sockets that give way are still accepted from. A connection that is just being made is there by
/// then, though its peer is far and the kernel's answer to it was lost twice (tcp(7): it comes again after
/// one second, and after three).
pub(in crate::daemon) const LAST_ONES: Duration = Duration::from_secs(5);

/// Binds what a plan lacks while others still listen, which belong to the same user. `ours` are of the plan
/// already.
///
/// # Errors
/// As [`super::bind`]'s.
pub fn bind_beside(
    others: &[TcpListener],
    plan: &[IpAddr],
    port: u16,
    ours: &[TcpListener],
) -> Result<Bound, ListenError> {
    let share = |sockets: &[TcpListener], shared: bool| {
        for socket in sockets {
            // Where it can't be shared, binding says so.
            let _ = SockRef::from(socket).set_reuse_port(shared);
        }
    };
    share(others, true);
    let bound = bind_all(plan, port, ours, true)?;
    // A name that is shared is anybody's of this user.
    share(&bound.listeners, false);
    Ok(bound)
}

/// Has no new connection come to sockets beside which others listen; those that have begun go on.
pub(in crate::daemon) fn lead_past(sockets: &[TcpListener]) {
    for socket in sockets {
        // Without these, who connects in the last moment may be lost, and nobody else. An interface that
        // it is bound to already only root may take from it.
        let _ = setsockopt(socket, BindToIfIndex, &NO_INTERFACE);
        let _ = super::socket::defer_accept_no_more(socket);
    }
}

/// Takes out of sockets what waits in them.
#[must_use]
pub(in crate::daemon) fn empty(sockets: &[TcpListener]) -> Vec<OwnedFd> {
    let is_all = |error: &io::Error| error.kind() == ErrorKind::WouldBlock;
    let waiting = sockets.iter().flat_map(|socket| {
        let each = (0..BACKLOG).map(|_| socket.accept());
        each.take_while(move |accepted| !accepted.as_ref().is_err_and(is_all))
    });
    let connections = waiting.filter_map(Result::ok);
    connections
        .map(|(connection, _)| connection.into())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
    use std::thread::sleep;
    use std::time::Instant;

    use socket2::{Domain, SockFilter, Socket, Type};

    use super::*;
    use crate::daemon::listen::{in_plan, plan};

    /// A socket for both families, as systemd's are, with two connections that wait in it.
    fn dual_stack() -> (TcpListener, u16, [TcpStream; 2]) {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_only_v6(false).unwrap();
        // As stock's and systemd's have it, and with it their connections.
        socket.set_reuse_address(true).unwrap();
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        socket.bind(&any.into()).unwrap();
        socket.listen(16).unwrap();
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let waiting = [
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap(),
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap(),
        ];
        (listener, port, waiting)
    }

    #[test]
    fn a_socket_for_both_families_gives_way_to_one_for_each() {
        let (old, port, mut waiting) = dual_stack();
        let plan = plan(None);
        let (ours, others) = in_plan(vec![old], &plan, port);
        assert_eq!((ours.len(), others.len()), (0, 1), "it is in no plan");
        let bound = bind_beside(&others, &plan, port, &ours).unwrap();
        assert_eq!(bound.listeners.len(), 2);
        lead_past(&others);
        let connections = empty(&others);
        drop(others);
        assert_eq!(connections.len(), 2);
        for connection in connections {
            TcpStream::from(connection).write_all(b"x").unwrap();
        }
        for stream in &mut waiting {
            stream.read_exact(&mut [0]).unwrap();
        }
        for listener in &bound.listeners {
            let ip = listener.local_addr().unwrap().ip();
            let way: IpAddr = match ip {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            let mut stream = TcpStream::connect((way, port)).unwrap();
            stream.write_all(b"x").unwrap();
            listener.accept().unwrap();
        }
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        assert!(taken.is_err(), "it is nobody else's");
    }

    #[test]
    fn who_begins_beside_a_socket_that_gives_way_finds_the_new_one_at_once() {
        let (old, port, _waiting) = dual_stack();
        let others = [old];
        let bound = bind_beside(&others, &plan(None), port, &[]).unwrap();
        lead_past(&others);
        assert_eq!(empty(&others).len(), 2);
        for (way, listener) in [
            (IpAddr::from(Ipv4Addr::LOCALHOST), 0),
            (Ipv6Addr::LOCALHOST.into(), 1),
        ] {
            let mut client = TcpStream::connect((way, port)).unwrap();
            client.write_all(b"x").unwrap();
            bound.listeners[listener].accept().unwrap();
        }
        assert!(empty(&others).is_empty());
    }

    /// Its peer is as one far away: the kernel's answer does not come through for a while.
    #[test]
    fn who_has_begun_before_comes_to_the_socket_that_gives_way() {
        for domain in [Domain::IPV4, Domain::IPV6] {
            let ip: IpAddr = match domain {
                Domain::IPV4 => Ipv4Addr::LOCALHOST.into(),
                _ => Ipv6Addr::LOCALHOST.into(),
            };
            let (old, port, _waiting) = dual_stack();
            let others = [old];
            let client = Socket::new(domain, Type::STREAM, None).unwrap();
            // BPF_RET: nothing of any packet.
            let deaf = SockFilter::new(6, 0, 0, 0);
            client.attach_filter(&[deaf]).unwrap();
            client.set_nonblocking(true).unwrap();
            client
                .connect(&SocketAddr::new(ip, port).into())
                .unwrap_err();
            let bound = bind_beside(&others, &plan(None), port, &[]).unwrap();
            lead_past(&others);
            let _ = empty(&others);
            client.detach_filter().unwrap();
            let end = Instant::now() + LAST_ONES;
            while empty(&others).is_empty() {
                assert!(Instant::now() < end, "{ip}");
                sleep(Duration::from_millis(1));
            }
            drop(bound);
        }
    }
}

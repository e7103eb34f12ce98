//! Listening sockets that are to be no more give way to those that the settings name, and nothing that
//! waits in them is lost.
//!
//! The new ones are bound while the old ones still listen, beside or across them (a socket for both
//! families and one for each, for example), so that there is no moment without any. Then no new connection
//! comes to the old ones, and what they have is taken out. Called by the daemon's start.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use socket2::SockRef;

use super::{Bound, ListenError, bind_all};

sockopt_impl!(
    /// Which packets a socket gets: socket(7).
    AttachFilter, SetOnly, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, libc::sock_fprog
);

/// How long connections that are just being made may take to be there. Who begins meanwhile at an old
/// socket tries again after a second, as TCP does, and finds a new one.
const LAST_ONES: Duration = Duration::from_millis(50);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

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

/// Takes the connections out of sockets that are about to be closed, after the last ones have come.
#[must_use]
pub fn empty(sockets: &[TcpListener]) -> Vec<OwnedFd> {
    for socket in sockets {
        // Without these, who connects in the last moment may be lost, and nobody else.
        let _ = take_no_more(socket);
        let _ = super::socket::defer_accept_no_more(socket);
    }
    let end = Instant::now() + LAST_ONES;
    let mut connections = Vec::new();
    loop {
        let is_over = Instant::now() >= end;
        for socket in sockets {
            for _ in 0..super::BACKLOG {
                match socket.accept() {
                    Ok((connection, _)) => connections.push(connection.into()),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(_) => break,
                }
            }
        }
        if is_over || sockets.is_empty() {
            return connections;
        }
        sleep(LOOK_AGAIN);
    }
}

/// Has a socket get no packet that begins a connection (SYN without ACK); those that go on with one, it does.
fn take_no_more(socket: &impl AsFd) -> io::Result<()> {
    /// Where TCP's flags stand in its header, and those of them that tell.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let step = |code: u32, if_not: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt: 0,
        jf: if_not,
        k,
    };
    let mut program = [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, FLAGS),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, SYN | ACK),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, SYN),
        step(libc::BPF_RET | libc::BPF_K, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or_default(),
        filter: program.as_mut_ptr(),
    };
    Ok(setsockopt(socket, AttachFilter, &program)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

    use socket2::{Domain, Socket, Type};

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
    fn who_begins_at_a_socket_that_gives_way_finds_the_new_one() {
        let (old, port, _waiting) = dual_stack();
        let others = [old];
        let bound = bind_beside(&others, &plan(None), port, &[]).unwrap();
        let _ = empty(&others);
        // The old one is still there: its packets are dropped, and TCP sends them again.
        let client = std::thread::spawn(move || TcpStream::connect((Ipv6Addr::LOCALHOST, port)));
        sleep(Duration::from_millis(100));
        drop(others);
        client.join().unwrap().unwrap();
        drop(bound);
    }
}

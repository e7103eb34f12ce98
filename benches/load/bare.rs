//! The bare loop: the least that an epmd could do, and so the measure of what ours costs.
//!
//! Blocking accept4, recv, send with MSG_MORE, close; the answer is always the same one, of the
//! same size as a real one. MSG_MORE lets the answer leave in one segment with the FIN of the close.

use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};

use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use socket2::{Domain, Socket, Type};

use crate::wire;

sockopt_impl!(
    /// Wake the acceptor when the first bytes are here, not when the connection is.
    DeferAccept, SetOnly, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, u32
);

/// How many connections may wait to be accepted, as in the daemon.
const BACKLOG: i32 = 4096;

/// Answers on `port` until the process is killed.
pub(crate) fn serve(port: u16) -> ! {
    let answer = wire::lookup_answer(&wire::node_name(0));
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.set_reuse_address(true).expect("SO_REUSEADDR");
    setsockopt(&listener, DeferAccept, &1).expect("TCP_DEFER_ACCEPT");
    listener
        .bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())
        .expect("the port is free");
    listener.listen(BACKLOG).expect("listens");
    let mut request = [MaybeUninit::uninit(); 4096];
    loop {
        let (connection, _) = listener.accept().expect("accepts");
        // A client that has gone is its own affair: there are many more.
        if connection.recv(&mut request).is_ok() {
            let _ = connection.send_with_flags(&answer, libc::MSG_MORE);
        }
    }
}

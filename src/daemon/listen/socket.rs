//! What every listening socket has, whoever made it.
//!
//! Called by its neighbours here, and by `systemd` for sockets that were handed over.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use socket2::SockRef;

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

/// Has a listening socket hand a connection out once its first bytes are there.
///
/// # Errors
/// What setsockopt(2) says.
pub(in crate::daemon) fn defer_accept(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, DeferAccept, &DEFER_ACCEPT_SECONDS)?)
}

//! The connections that hold names: kept open for life, watched for their end.
//!
//! All of them are watched by one epoll, so that a registration costs no task, and one more or less costs the same with 10 and with 15,000. Which name a connection
//! holds stands in the registry. Called by `server`; `accept` hears of the ends.

use std::cell::Cell;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, recv, send};

use crate::core::desk::Holder;
use crate::core::registry::Id;
use crate::daemon::systemd::kept::is_silent;

/// A connection that holds a name.
#[derive(Debug)]
pub(super) struct Held {
    stream: TcpStream,
    epoll: Arc<Epoll>,
    /// Whose the node is, where that is known.
    uid: Cell<Option<u32>>,
}

impl Held {
    /// Makes a connection one that can hold a name, to be watched by `epoll`. It is not watched yet.
    pub(super) fn new(stream: TcpStream, epoll: &Arc<Epoll>, uid: Option<u32>) -> Self {
        Self {
            stream,
            epoll: Arc::clone(epoll),
            uid: Cell::new(uid),
        }
    }

    /// It is known by now whose the node is.
    pub(super) fn is_of(&self, uid: u32) {
        self.uid.set(Some(uid));
    }

    /// Watches the connection as that of registration `id`, which is how epoll calls it. It is named
    /// again and again until it is released.
    pub(super) fn watch(&self, id: Id) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        Ok(self.epoll.add(&self.stream, EpollEvent::new(flags, id))?)
    }

    /// Ends the connection, whoever else holds a duplicate of it: its node hears of it at once.
    pub(super) fn hang_up(&self) {
        // None of these can fail in a way that matters: the connection ends in any case. What the
        // node has sent is taken first, or the end would reach it as a reset. The connection is shut
        // down as well as closed, because another process may hold a duplicate.
        let flags = MsgFlags::MSG_DONTWAIT;
        let _ = recv(self.stream.as_raw_fd(), &mut [0; 1024], flags);
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Holder for Held {
    fn is_gone(&self) -> bool {
        // No byte and no end is the only good sign: a byte ends a registration as well.
        !is_silent(&self.stream)
    }

    fn descriptor(&self) -> i32 {
        self.stream.as_raw_fd()
    }

    fn uid(&self) -> Option<u32> {
        self.uid.get()
    }

    fn release(self) {
        let _ = self.epoll.delete(&self.stream);
        self.hang_up();
    }
}

/// Sends what the socket takes at once. `last`: the close comes next, and belongs in the same segment.
pub(super) fn send_now(stream: &TcpStream, bytes: &[u8], last: bool) -> io::Result<usize> {
    let mut flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    if last {
        flags |= MsgFlags::from_bits_retain(nix::libc::MSG_MORE);
    }
    match send(stream.as_raw_fd(), bytes, flags) {
        Err(Errno::EAGAIN) => Ok(0),
        result => Ok(result?),
    }
}

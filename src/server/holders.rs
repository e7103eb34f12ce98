//! The connections that hold names: kept open for life, watched for their end.
//!
//! All of them are watched by one epoll of their own, so that a registration costs no task, and one
//! more or less costs the same with 10 and with 15,000. Which name a connection holds stands in the
//! registry. Called by `server`.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::unix::AsyncFd;

use crate::desk::Holder;
use crate::registry::Id;
use crate::sys;

/// How many ends are taken from the kernel at a time.
const BATCH: usize = 64;

/// Watches all connections that hold names.
#[derive(Debug)]
pub(super) struct Holders {
    epoll: Arc<Epoll>,
    readable: AsyncFd<OwnedFd>,
}

/// A connection that holds a name.
#[derive(Debug)]
pub(super) struct Held {
    stream: TcpStream,
    epoll: Arc<Epoll>,
}

impl Holders {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let readable = sys::watch(&epoll.0)?;
        Ok(Self { epoll, readable })
    }

    /// Makes a connection one that can hold a name. It is not watched yet.
    pub(super) fn hold(&self, stream: TcpStream) -> Held {
        Held {
            stream,
            epoll: Arc::clone(&self.epoll),
        }
    }

    /// The registrations whose connections have ended, or have sent what they must not. Each is
    /// named again until it is released.
    pub(super) async fn ended(&self) -> io::Result<Vec<Id>> {
        let mut events = [EpollEvent::empty(); BATCH];
        loop {
            let mut guard = self.readable.readable().await?;
            match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => guard.clear_ready(),
                Ok(count) => return Ok(events.iter().take(count).map(EpollEvent::data).collect()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Held {
    /// Watches the connection as that of registration `id`.
    pub(super) fn watch(&self, id: Id) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        Ok(self.epoll.add(&self.stream, EpollEvent::new(flags, id))?)
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Holder for Held {
    fn is_gone(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        // No byte and no end is the only good sign: a byte ends a registration as well.
        recv(self.stream.as_raw_fd(), &mut [0], flags) != Err(Errno::EAGAIN)
    }

    fn descriptor(&self) -> i32 {
        self.stream.as_raw_fd()
    }

    fn release(self) {
        // None of these can fail in a way that matters: the connection ends in any case. What the
        // node has sent is taken first, or the end would reach it as a reset. The connection is shut
        // down as well as closed, because another process may hold a duplicate.
        let _ = recv(
            self.stream.as_raw_fd(),
            &mut [0; 1024],
            MsgFlags::MSG_DONTWAIT,
        );
        let _ = self.epoll.delete(&self.stream);
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

//! Accepting connections: one, and then what has to be done with it, before the next.
//!
//! A batch accepted first would be lost as a whole if the process were killed. Called by `server`, once
//! for each listening socket.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::budget::KEPT_BACK;
use super::state::Server;
use super::{PAUSE_AFTER_ERROR, READ_AT_ONCE};
use crate::log::{Level, Log};
use crate::sys;

/// How many connections are accepted in a row before others get their turn.
const ACCEPTS_IN_A_ROW: usize = 32;

/// How many connections that have to make room may still be there while others are accepted in a row.
const MOST_LEAVING: usize = KEPT_BACK / 4;

/// A listening socket in the event loop.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    readable: AsyncFd<OwnedFd>,
    pub(super) address: SocketAddr,
    /// When it was last said that accept(2) fails.
    error_told: Cell<Option<Instant>>,
}

impl Listener {
    pub(super) fn new(socket: TcpListener) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let readable = sys::watch(&socket)?;
        let error_told = Cell::new(None);
        Ok(Self {
            socket,
            readable,
            address,
            error_told,
        })
    }

    /// Whether one more connection waits. Costs a twentieth of an accept(2) that finds none: that one
    /// makes a socket and a file first.
    fn has_more(&self) -> bool {
        let mut listener = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        // Where it can't be told, accept(2) will say.
        poll(&mut listener, PollTimeout::ZERO) != Ok(0)
    }

    /// Says that accept(2) fails, at most once a second.
    fn note_error(&self, error: &io::Error, log: &Log) {
        const TOLD_EVERY: Duration = Duration::from_secs(1);
        if self
            .error_told
            .get()
            .is_none_or(|told| told.elapsed() >= TOLD_EVERY)
        {
            self.error_told.set(Some(Instant::now()));
            log.note(
                Level::Error,
                format!("can't accept connections for the moment: {error}"),
            );
        }
    }
}

/// Accepts connections for ever: no error ends it, and none makes it spin.
pub(super) async fn accept(server: Rc<Server>, listener: Rc<Listener>) -> Infallible {
    let mut buffer = [0; READ_AT_ONCE];
    loop {
        // Nobody else waits for it, so that tokio need not keep a queue of who does.
        let Ok(mut ready) = poll_fn(|context| listener.readable.poll_read_ready(context)).await
        else {
            sleep(PAUSE_AFTER_ERROR).await;
            continue;
        };
        let delay = server.state.borrow().settings.delay_accept;
        let in_a_row = if delay.is_zero() {
            ACCEPTS_IN_A_ROW
        } else {
            // Stock's test of a busy server.
            sleep(delay).await;
            1
        };
        for _ in 0..in_a_row {
            let leaving = server.state.borrow().leaving;
            match listener.socket.accept() {
                Ok((stream, peer)) => server.welcome(stream, peer, &listener, &mut buffer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    listener.note_error(&error, &server.log);
                    sleep(PAUSE_AFTER_ERROR).await;
                }
            }
            if !listener.has_more() {
                ready.clear_ready();
                break;
            }
            // Who makes room closes its connection when its turn comes: a flood must not run ahead of
            // that until there is no descriptor left. Who needs no room made has nothing to wait for.
            if server.state.borrow().leaving > leaving.max(MOST_LEAVING) {
                break;
            }
        }
        if ready.ready().is_readable() {
            tokio::task::yield_now().await;
        }
    }
}

/// Whether an error of accept(2) is the connection's own, and the next one may be as good as any.
fn is_of_the_connection(error: &io::Error) -> bool {
    let Some(number) = error.raw_os_error() else {
        return false;
    };
    // accept(2), "Error handling": Linux passes pending network errors of the new socket.
    matches!(
        Errno::from_raw(number),
        Errno::ECONNABORTED
            | Errno::EINTR
            | Errno::EPROTO
            | Errno::ENETDOWN
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH
            | Errno::ETIMEDOUT
            | Errno::EPERM
    )
}

//! What becomes of a connection that has come, whoever accepts it.
//!
//! Accepts one, knows who it is, serves it, and says when accept(2) fails. Waits for nothing. Called by
//! `alone` and `watch`, and for connections that another epmd had accepted.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::SockRef;

use crate::core::outcome::Ends;
use crate::daemon::listen;
use crate::daemon::log::Level;
use crate::daemon::server::request::{After, Connection, READ_AT_ONCE};
use crate::daemon::server::slow;
use crate::daemon::server::state::Server;

/// A thread's stack: what a request needs, several times over. The default would be 2 MiB.
pub(super) const STACK: usize = 256 * 1024;
/// How long nothing is done after an error that would only come again at once.
pub(super) const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// So many errors in a row are no longer each connection's own: it is accept(2) that fails.
const OWN_ERRORS_IN_A_ROW: u32 = 16;
/// accept(2)'s errors are told at most this often.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// A listening socket, and the address that it has.
pub(in crate::daemon::server) struct Listener {
    pub(in crate::daemon::server) socket: TcpListener,
    pub(in crate::daemon::server) address: SocketAddr,
}

impl Listener {
    pub(in crate::daemon::server) fn new(socket: TcpListener) -> io::Result<Self> {
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }
}

/// What each who accepts does with a connection.
#[derive(Clone)]
pub(super) struct Accepting {
    pub(super) server: Arc<Server>,
    /// Requests are decided by the address that they came to as well.
    local_decides: bool,
    /// How often accept(2) has failed since it last did not.
    errors_in_a_row: u32,
    /// When it was last said that accept(2) fails, by any of them.
    error_told: Arc<Mutex<Option<Instant>>>,
    /// On a thread of its own; else on the event loop, where no thread can be had.
    pub(super) has_thread: bool,
}

/// accept(2) fails and would at once again, which has been told: better times have to be waited for.
pub(super) struct Fails;

impl Accepting {
    pub(super) fn new(server: Arc<Server>, local_decides: bool) -> Self {
        Self {
            server,
            local_decides,
            errors_in_a_row: 0,
            error_told: Arc::default(),
            has_thread: true,
        }
    }

    /// Has connections that another epmd had accepted go the way of all; on the event loop.
    pub(super) fn welcome_back(mut self, arrivals: Vec<OwnedFd>) {
        self.has_thread = false;
        let mut buffer = [0; READ_AT_ONCE];
        for stream in arrivals.into_iter().map(TcpStream::from) {
            // Where it has no peer any more, nobody waits for an answer.
            if let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) {
                self.welcome(stream, peer, local, &mut buffer);
            }
        }
    }

    /// Accepts a connection, where there is one or the socket waits for one, and does with it what has to
    /// be done.
    pub(super) fn one(
        &mut self,
        listener: &Listener,
        buffer: &mut [u8; READ_AT_ONCE],
    ) -> Result<(), Fails> {
        let error = match accept(&listener.socket) {
            Ok((stream, peer)) => {
                self.errors_in_a_row = 0;
                if !self.server.delays.accept.is_zero() {
                    thread::sleep(self.server.delays.accept);
                }
                self.welcome(stream, peer, listener.address, buffer);
                return Ok(());
            }
            Err(error) => error,
        };
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            return Ok(());
        }
        self.errors_in_a_row = self.errors_in_a_row.saturating_add(1);
        if is_of_the_connection(&error) && self.errors_in_a_row <= OWN_ERRORS_IN_A_ROW {
            return Ok(());
        }
        self.errors_in_a_row = 0;
        Err(self.fails(&error))
    }

    /// Accepts at most what the queue held, and closes the socket: who comes later asks the next process.
    pub(super) fn finish(&mut self, listener: Listener, buffer: &mut [u8; READ_AT_ONCE]) {
        // It was, or who watched it has seen to it.
        if listener.socket.set_nonblocking(true).is_err() {
            return;
        }
        for _ in 0..listen::BACKLOG {
            match accept(&listener.socket) {
                Ok((stream, peer)) => self.welcome(stream, peer, listener.address, buffer),
                // The others in the queue are as good as before.
                Err(error) if is_of_the_connection(&error) => {}
                Err(_) => break,
            }
        }
    }

    /// A new connection, at a listening socket's address. Usually its request is there already, and it is
    /// answered and closed when this returns.
    fn welcome(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        address: SocketAddr,
        buffer: &mut [u8; READ_AT_ONCE],
    ) {
        let connection = self.known(stream, peer, address);
        let server = &self.server;
        match connection.serve(server, buffer) {
            (After::Done, _) => return,
            (After::Wait(connection), got) => {
                slow::wait_for_request(server, connection, got.to_vec());
            }
            (After::Unsent(unsent), _) => slow::send_the_rest(server, unsent),
        }
        if self.has_thread {
            server.waiting.wait_for_the_leaving();
        }
    }

    /// A connection of which it is known whether its peer is this host: found once, here.
    fn known(&self, stream: TcpStream, peer: SocketAddr, address: SocketAddr) -> Connection {
        let connection = Connection::new(stream, Ends::new(peer, address));
        // The kernel is asked for the local address only where it matters.
        let over_loopback = connection.ends().is_over_loopback();
        if over_loopback && !self.local_decides && !self.server.is_stranger(&peer) {
            return connection;
        }
        connection.judged(&self.server)
    }

    /// Says why nothing is accepted for the moment, at most once a second.
    pub(super) fn fails(&self, error: &io::Error) -> Fails {
        let mut told = self
            .error_told
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            *told = Some(Instant::now());
            self.server.log.note(
                Level::Error,
                format!("can't accept connections for the moment: {error}"),
            );
        }
        Fails
    }

    /// Says that a thread is done without.
    pub(super) fn lacks_thread(&self, error: &io::Error) {
        let text = format!(
            "no thread can be had for accepting connections ({error}): the event loop does it, which costs \
             more for each; see LimitNPROC=, TasksMax=, ulimit -u"
        );
        self.server.log.note(Level::Warning, text);
    }
}

/// accept(2), which std's would make again when a signal interrupts it.
fn accept(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = SockRef::from(socket).accept()?;
    // A listening socket of TCP takes connections of these two families alone.
    let peer = peer.as_socket().ok_or(ErrorKind::InvalidData)?;
    Ok((stream.into(), peer))
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

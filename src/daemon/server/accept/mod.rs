//! Accepting connections: one, and then what has to be done with it, before the next.
//!
//! A batch accepted first would be lost as a whole if the process were killed. The first few listening
//! sockets have a thread each that does nothing else (`alone`), so that between two lookups nothing is
//! asked but for the next connection; one more thread watches the others, and hears of the ends of the
//! connections that hold names (`watch`). What has to be waited for goes to the event loop (`slow`).
//! Started by `server`.

mod alone;
mod watch;

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::SockRef;

use super::line::Line;
use super::request::{After, Connection, READ_AT_ONCE};
use super::slow;
use super::state::Server;
use crate::core::outcome::Ends;
use crate::daemon::listen;
use crate::daemon::log::Level;
use alone::Alone;
use watch::Watch;

/// A thread's stack: what a request needs, several times over. The default would be 2 MiB.
const STACK: usize = 256 * 1024;
/// So many listening sockets have a thread of their own: each family's two queues at the wildcard. Who
/// listens on more named addresses than that has the others share one.
const MOST_ALONE: usize = 4;
/// How long nothing is done after an error that would only come again at once.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// So many errors in a row are no longer each connection's own: it is accept(2) that fails.
const OWN_ERRORS_IN_A_ROW: u32 = 16;
/// accept(2)'s errors are told at most this often.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// A listening socket, and the address that it has.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) address: SocketAddr,
}

impl Listener {
    pub(super) fn new(socket: TcpListener) -> io::Result<Self> {
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }
}

/// The listening sockets.
pub(super) struct Listening {
    /// Those that last.
    pub(super) staying: Vec<Listener>,
    /// Those that give way: nobody comes to them any more but who had begun to.
    pub(super) leaving: Vec<Listener>,
}

/// All who accept, as the event loop sees them.
#[derive(Debug)]
pub(super) struct Acceptor {
    alone: Vec<Alone>,
    watch: Watch,
}

impl Acceptor {
    /// Starts the threads. `local_decides`: whether requests are decided by the address that they came to
    /// as well (`Rules::served`). `arrivals` were accepted by another epmd, and come first.
    ///
    /// # Errors
    /// What keeps the sockets from being watched. A thread that can't be had is done without.
    pub(super) fn start(
        server: &Arc<Server>,
        listening: Listening,
        local_decides: bool,
        arrivals: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        let accepting = || Accepting::new(Arc::clone(server), local_decides);
        accepting().welcome_back(arrivals);
        let (mut alone, mut shared) = (Vec::new(), Vec::new());
        for listener in listening.staying {
            if alone.len() == MOST_ALONE || !shared.is_empty() {
                shared.push(listener);
                continue;
            }
            match Alone::start(accepting(), listener) {
                Ok(thread) => alone.push(thread),
                // What keeps it from a thread of its own is said where the last one can't be had either.
                Err(listener) => shared.push(listener),
            }
        }
        let watch = Watch::start(accepting(), shared, listening.leaving)?;
        Ok(Self { alone, watch })
    }

    /// What gives a sign of life once all of them have.
    pub(super) fn pulse(&self) -> Pulse {
        Pulse {
            alone: self.alone.iter().map(Alone::pulse).collect(),
            watch: self.watch.line(),
        }
    }

    /// Waits until one of them has ended, whatever ended it.
    pub(super) async fn ended(&mut self) {
        poll_fn(|context| {
            let mut alone = self.alone.iter_mut();
            let one = alone.any(|thread| thread.poll_ended(context).is_ready());
            if one {
                return Poll::Ready(());
            }
            self.watch.poll_ended(context)
        })
        .await;
    }

    /// Has them accept what has come already, close the sockets and end.
    pub(super) async fn stop(mut self) {
        for thread in &self.alone {
            thread.is_to_end();
        }
        for thread in &mut self.alone {
            thread.end().await;
        }
        self.watch.end().await;
    }
}

/// Feels whether they are alive.
#[derive(Debug)]
pub(super) struct Pulse {
    alone: Vec<alone::Pulse>,
    watch: Arc<Line>,
}

impl Pulse {
    /// Waits until each of them has given a sign of life.
    pub(super) async fn felt(&self) {
        for thread in &self.alone {
            thread.felt().await;
        }
        self.watch.sign_of_life().await;
    }
}

/// What each who accepts does with a connection.
struct Accepting {
    server: Arc<Server>,
    /// Requests are decided by the address that they came to as well.
    local_decides: bool,
    /// How often accept(2) has failed since it last did not.
    errors_in_a_row: u32,
    /// When it was last said that accept(2) fails.
    error_told: Option<Instant>,
    /// On a thread of its own; else on the event loop, where no thread can be had.
    has_thread: bool,
}

/// accept(2) fails and would at once again, which has been told: better times have to be waited for.
struct Fails;

impl Accepting {
    fn new(server: Arc<Server>, local_decides: bool) -> Self {
        Self {
            server,
            local_decides,
            errors_in_a_row: 0,
            error_told: None,
            has_thread: true,
        }
    }

    /// Has connections that another epmd had accepted go the way of all; on the event loop.
    fn welcome_back(mut self, arrivals: Vec<OwnedFd>) {
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
    fn one(&mut self, listener: &Listener, buffer: &mut [u8; READ_AT_ONCE]) -> Result<(), Fails> {
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
    fn finish(&mut self, listener: Listener, buffer: &mut [u8; READ_AT_ONCE]) {
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
    fn fails(&mut self, error: &io::Error) -> Fails {
        if self
            .error_told
            .is_none_or(|told| told.elapsed() >= TOLD_EVERY)
        {
            self.error_told = Some(Instant::now());
            self.server.log.note(
                Level::Error,
                format!("can't accept connections for the moment: {error}"),
            );
        }
        Fails
    }

    /// Says that a thread is done without.
    fn lacks_thread(&self, error: &io::Error) {
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

//! Accepting connections: one, and then what has to be done with it, before the next.
//!
//! A batch accepted first would be lost as a whole if the process were killed. This is a thread of its
//! own, which waits for new connections and for the ends of those that hold names: an event loop that
//! also keeps timers and tasks costs more between two lookups than all that a lookup decides. The sockets
//! take turns, one connection each. What has to be waited for goes to the event loop (`connection`).
//! Started by `server`.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::line::Line;
use super::request::{After, Connection, READ_AT_ONCE};
use super::slow;
use super::state::Server;
use crate::core::outcome::Ends;
use crate::daemon::listen;
use crate::daemon::log::Level;
use crate::sys::{self, WatchedEpoll};

/// An event's number is a registration's; or from here on a listening socket's, by its place in the list.
/// Registrations never get as far: they go on from a kept one's number, which is less than 2^63 (`record`).
const FIRST_LISTENER: u64 = 3 << 62;
/// The number of a word from the event loop.
const WORD: u64 = u64::MAX;
/// The thread's stack: what a request needs, several times over. The default would be 2 MiB.
const STACK: usize = 256 * 1024;
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

/// The thread that accepts, as the event loop sees it.
#[derive(Debug)]
pub(super) struct Acceptor {
    line: Arc<Line>,
    ended: oneshot::Receiver<()>,
}

impl Acceptor {
    /// Starts the thread. `local_decides`: whether requests are decided by the address that they came to
    /// as well (`Rules::served`). `arrivals` were accepted by another epmd, and come first.
    pub(super) fn start(
        server: Arc<Server>,
        listening: Listening,
        local_decides: bool,
        arrivals: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        let line = Arc::new(Line::new()?);
        let mut listeners = listening.staying;
        let staying = listeners.len();
        listeners.extend(listening.leaving);
        // Level-triggered: what is left in a queue is told of again, without another question.
        let readable = |number| EpollEvent::new(EpollFlags::EPOLLIN, number);
        server.epoll.add(&line.rings, readable(WORD))?;
        for (number, listener) in (FIRST_LISTENER..).zip(&listeners) {
            server.epoll.add(&listener.socket, readable(number))?;
        }
        let (says_so, ended) = oneshot::channel::<()>();
        if listeners.len() > staying {
            let line = Arc::clone(&line);
            tokio::spawn(async move {
                sleep(listen::LAST_ONES).await;
                line.close_the_leaving();
            });
        }
        let mut accepting = Accepting {
            server,
            listeners,
            staying,
            line: Arc::clone(&line),
            local_decides,
            errors_in_a_row: 0,
            error_told: None,
            has_thread: true,
        };
        // What it is to do is handed over when the thread is there, so as not to be lost where none is.
        let (hands_over, work) = mpsc::channel::<Work>();
        let thread = thread::Builder::new()
            .name("epmd-accept".into())
            .stack_size(STACK)
            .spawn(move || {
                if let Ok((mut accepting, arrivals, says_so)) = work.recv() {
                    accepting.welcome_all(arrivals);
                    accepting.run();
                    // Its sockets are closed by now.
                    drop(says_so);
                }
            });
        match thread {
            Ok(_) => {
                let work = (accepting, arrivals, says_so);
                hands_over.send(work).map_err(io::Error::other)?;
            }
            Err(error) => {
                let text = format!(
                    "no thread can be had for accepting connections ({error}): the event loop does it, which \
                     costs more for each; see LimitNPROC=, TasksMax=, ulimit -u"
                );
                accepting.server.log.note(Level::Warning, text);
                accepting.has_thread = false;
                accepting.welcome_all(arrivals);
                let epoll = sys::watch_epoll(Arc::clone(&accepting.server.epoll))?;
                tokio::spawn(async move {
                    accepting.run_on_the_event_loop(epoll).await;
                    drop(says_so);
                });
            }
        }
        Ok(Self { line, ended })
    }

    /// The thread's line, for who wants to know whether it is alive.
    pub(super) fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line)
    }

    /// Waits until the thread has ended, whatever ended it.
    pub(super) async fn ended(&mut self) {
        // It never says anything: that it can't any more is the sign.
        let _ = (&mut self.ended).await;
    }

    /// Has the thread accept what has come already, close the sockets and end.
    pub(super) async fn stop(mut self) {
        self.line.end();
        self.ended().await;
    }
}

/// What is handed to the thread: with connections that came before, and what is dropped at its end.
type Work = (Accepting, Vec<OwnedFd>, oneshot::Sender<()>);

/// What comes after a turn.
enum Next {
    /// Another one.
    Turn,
    /// Nothing has come: one has to be waited for.
    Wait,
    /// Better times have to be waited for.
    Pause,
    /// The end.
    End,
}

/// The thread itself.
struct Accepting {
    server: Arc<Server>,
    listeners: Vec<Listener>,
    /// So many of them, the first ones, last; the others give way.
    staying: usize,
    line: Arc<Line>,
    /// Requests are decided by the address that they came to as well.
    local_decides: bool,
    /// How often accept(2) has failed since it last did not.
    errors_in_a_row: u32,
    /// When it was last said that accept(2) fails.
    error_told: Option<Instant>,
    /// It is a thread of its own; else a task of the event loop, where no thread can be had.
    has_thread: bool,
}

impl Accepting {
    /// Has connections that another epmd had accepted go the way of all.
    fn welcome_all(&mut self, arrivals: Vec<OwnedFd>) {
        let mut buffer = [0; READ_AT_ONCE];
        for stream in arrivals.into_iter().map(TcpStream::from) {
            // Where it has no peer any more, nobody waits for an answer.
            if let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) {
                self.welcome(stream, peer, local, &mut buffer);
            }
        }
    }

    /// Accepts connections until it is told to end: no error ends it, and none makes it spin.
    fn run(mut self) {
        let mut buffer = [0; READ_AT_ONCE];
        loop {
            match self.turn(EpollTimeout::NONE, &mut buffer) {
                Next::Turn | Next::Wait => {}
                Next::Pause => self.wait_at_most(PAUSE_AFTER_ERROR),
                Next::End => break,
            }
        }
        self.finish(&mut buffer);
    }

    /// The same as a task, with a turn for all others after each of its own.
    async fn run_on_the_event_loop(mut self, epoll: AsyncFd<WatchedEpoll>) {
        let mut buffer = Box::new([0; READ_AT_ONCE]);
        'until_the_end: while let Ok(mut ready) = epoll.readable().await {
            loop {
                match self.turn(EpollTimeout::ZERO, &mut buffer) {
                    Next::Turn => tokio::task::yield_now().await,
                    Next::Wait => break,
                    Next::Pause => sleep(PAUSE_AFTER_ERROR).await,
                    Next::End => break 'until_the_end,
                }
            }
            ready.clear_ready();
        }
        self.finish(&mut buffer);
    }

    /// One event: a connection is accepted and served, a name released, or the line has rung.
    fn turn(&mut self, wait: EpollTimeout, buffer: &mut [u8; READ_AT_ONCE]) -> Next {
        if self.line.is_over() {
            return Next::End;
        }
        let mut ready = [EpollEvent::empty()];
        match self.server.epoll.wait(&mut ready, wait) {
            Ok(0) => return Next::Wait,
            Ok(_) => {}
            Err(Errno::EINTR) => return Next::Turn,
            Err(error) => return self.pause_after(&error.into()),
        }
        let [event] = &ready;
        if event.data() == WORD {
            self.line.hear();
            if self.line.is_late() && self.listeners.len() > self.staying {
                let leaving = self.listeners.split_off(self.staying);
                for listener in &leaving {
                    // By word: a copy that somebody else still has would keep it there.
                    let _ = self.server.epoll.delete(&listener.socket);
                }
                self.close(leaving, buffer);
            }
            return Next::Turn;
        }
        let Some(place) = event.data().checked_sub(FIRST_LISTENER) else {
            self.server.state().release(event.data());
            return Next::Turn;
        };
        if !self.server.delays.accept.is_zero() {
            self.wait_at_most(self.server.delays.accept);
        }
        let Some(listener) = usize::try_from(place)
            .ok()
            .and_then(|place| self.listeners.get(place))
        else {
            return Next::Turn; // there is no other number
        };
        let address = listener.address;
        match listener.socket.accept() {
            Ok((stream, peer)) => {
                self.errors_in_a_row = 0;
                self.welcome(stream, peer, address, buffer);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                self.errors_in_a_row = self.errors_in_a_row.saturating_add(1);
                if !is_of_the_connection(&error) || self.errors_in_a_row > OWN_ERRORS_IN_A_ROW {
                    self.errors_in_a_row = 0;
                    return self.pause_after(&error);
                }
            }
        }
        Next::Turn
    }

    /// Accepts at most what the queues held: who comes later asks the next process.
    fn finish(mut self, buffer: &mut [u8; READ_AT_ONCE]) {
        let all = std::mem::take(&mut self.listeners);
        self.close(all, buffer);
    }

    /// Closes listening sockets when they are empty, or have been emptied of as many as they may hold.
    fn close(&mut self, listeners: Vec<Listener>, buffer: &mut [u8; READ_AT_ONCE]) {
        for listener in listeners {
            for _ in 0..listen::BACKLOG {
                match listener.socket.accept() {
                    Ok((stream, peer)) => {
                        self.welcome(stream, peer, listener.address, buffer);
                    }
                    // The others in the queue are as good as before.
                    Err(error) if is_of_the_connection(&error) => {}
                    Err(_) => break,
                }
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

    /// Has better times waited for, and says why, at most once a second.
    fn pause_after(&mut self, error: &io::Error) -> Next {
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
        Next::Pause
    }

    /// Waits so long, or until the line rings.
    fn wait_at_most(&self, time: Duration) {
        let mut line = [PollFd::new(self.line.rings.as_fd(), PollFlags::POLLIN)];
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        // Where it can't wait, it has not waited: the caller's loop goes on in any case.
        let _ = poll(&mut line, time);
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

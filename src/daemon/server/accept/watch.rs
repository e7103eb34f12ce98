//! One thread that watches many: the listening sockets that have none of their own, and the connections that
//! hold names.
//!
//! An event is a connection to accept, the end of a registration, or a word from the event loop. The sockets
//! take turns, one connection each. Where no thread can be had, it is a task of the event loop. Started by
//! `accept`.

use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::accepting::{Accepting, Listener, PAUSE_AFTER_ERROR, STACK};
use crate::daemon::listen;
use crate::daemon::server::line::Line;
use crate::daemon::server::request::READ_AT_ONCE;
use crate::sys::{self, WatchedEpoll};

/// An event's number is a registration's; or from here on a listening socket's, by its place in the list.
/// Registrations never get as far: they go on from a kept one's number, which is less than 2^63 (`record`).
const FIRST_LISTENER: u64 = 3 << 62;
/// The number of a word from the event loop.
const WORD: u64 = u64::MAX;

/// The thread, as the event loop sees it.
#[derive(Debug)]
pub(super) struct Watch {
    line: Arc<Line>,
    ended: oneshot::Receiver<()>,
}

impl Watch {
    /// Starts the thread, for these listening sockets: those that last, and those that give way.
    ///
    /// # Errors
    /// What keeps the sockets from being watched.
    pub(super) fn start(
        accepting: Accepting,
        mut listeners: Vec<Listener>,
        leaving: Vec<Listener>,
    ) -> io::Result<Self> {
        let line = Arc::new(Line::new()?);
        let staying = listeners.len();
        listeners.extend(leaving);
        // Level-triggered: what is left in a queue is told of again, without another question.
        let readable = |number| EpollEvent::new(EpollFlags::EPOLLIN, number);
        let epoll = Arc::clone(&accepting.server.epoll);
        epoll.add(&line.rings, readable(WORD))?;
        for (number, listener) in (FIRST_LISTENER..).zip(&listeners) {
            listener.socket.set_nonblocking(true)?;
            epoll.add(&listener.socket, readable(number))?;
        }
        if listeners.len() > staying {
            let line = Arc::clone(&line);
            tokio::spawn(async move {
                sleep(listen::LAST_ONES).await;
                line.close_the_leaving();
            });
        }
        let (says_so, ended) = oneshot::channel::<()>();
        let mut watching = Watching {
            accepting,
            listeners,
            staying,
            line: Arc::clone(&line),
        };
        // What it is to do is handed over when the thread is there, so as not to be lost where none is.
        let (hands_over, work) = mpsc::channel::<(Watching, oneshot::Sender<()>)>();
        let thread = thread::Builder::new()
            .name("epmd-watch".into())
            .stack_size(STACK)
            .spawn(move || {
                if let Ok((watching, says_so)) = work.recv() {
                    watching.run();
                    // Its sockets are closed by now.
                    drop(says_so);
                }
            });
        match thread {
            Ok(_) => {
                let work = (watching, says_so);
                hands_over.send(work).map_err(io::Error::other)?;
            }
            Err(error) => {
                watching.accepting.lacks_thread(&error);
                watching.accepting.has_thread = false;
                let epoll = sys::watch_epoll(epoll)?;
                tokio::spawn(async move {
                    watching.run_on_the_event_loop(epoll).await;
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

    /// Whether the thread has ended, whatever ended it.
    pub(super) fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // It never says anything: that it can't any more is the sign.
        Pin::new(&mut self.ended).poll(context).map(|_| ())
    }

    /// Has the thread accept what has come already, close the sockets and end.
    pub(super) async fn end(self) {
        self.line.end();
        let _ = self.ended.await;
    }
}

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
struct Watching {
    accepting: Accepting,
    listeners: Vec<Listener>,
    /// So many of them, the first ones, last; the others give way.
    staying: usize,
    line: Arc<Line>,
}

impl Watching {
    /// Takes events until it is told to end: no error ends it, and none makes it spin.
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
        let server = &self.accepting.server;
        let mut ready = [EpollEvent::empty()];
        match server.epoll.wait(&mut ready, wait) {
            Ok(0) => return Next::Wait,
            Ok(_) => {}
            Err(Errno::EINTR) => return Next::Turn,
            Err(error) => {
                self.accepting.fails(&error.into());
                return Next::Pause;
            }
        }
        let [event] = &ready;
        if event.data() == WORD {
            self.line.hear();
            if self.line.is_late() && self.listeners.len() > self.staying {
                for listener in self.listeners.split_off(self.staying) {
                    // By word: a copy that somebody else still has would keep it there.
                    let _ = self.accepting.server.epoll.delete(&listener.socket);
                    self.accepting.finish(listener, buffer);
                }
            }
            return Next::Turn;
        }
        let Some(place) = event.data().checked_sub(FIRST_LISTENER) else {
            server.state().release(event.data());
            return Next::Turn;
        };
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let Some(listener) = self.listeners.get(place) else {
            return Next::Turn; // there is no other number
        };
        match self.accepting.one(listener, buffer) {
            Ok(()) => Next::Turn,
            Err(_) => Next::Pause,
        }
    }

    fn finish(mut self, buffer: &mut [u8; READ_AT_ONCE]) {
        for listener in std::mem::take(&mut self.listeners) {
            self.accepting.finish(listener, buffer);
        }
    }

    /// Waits so long, or until the line rings.
    fn wait_at_most(&self, time: Duration) {
        let mut line = [PollFd::new(self.line.rings.as_fd(), PollFlags::POLLIN)];
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        // Where it can't wait, it has not waited: the caller's loop goes on in any case.
        let _ = poll(&mut line, time);
    }
}

//! One connection, from accept to close.
//!
//! `welcome` is the whole way of a usual request: read without waiting, have the desk answer, send,
//! close. What can't be finished there becomes a task: a connection whose request has not come
//! (`wait_for_request`), or whose answer the peer does not read as fast as it is made
//! (`send_the_rest`). Both hold a slot, and both have `request-timeout`. Called by `accept`.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::holders::Held;
use super::state::{Server, State};
use super::{READ_AT_ONCE, wall_clock};
use crate::core::desk::{Reply, Step};
use crate::core::outcome::{Ends, Operation, Outcome, Reason, Setting, Verdict};
use crate::core::slots::{self, Entry, Source};
use crate::core::wire::{self, Decoded, Node};

/// What became of a connection.
enum After {
    /// It is closed, or holds a name now.
    Done,
    /// Its request is not whole.
    Wait(TcpStream),
    /// Its answer is not sent.
    Unsent(Unsent),
}

/// An answer that the peer does not read as fast as it is made.
struct Unsent {
    stream: TcpStream,
    bytes: Vec<u8>,
    reply: Reply,
    /// Without its name, which is in the request's bytes.
    outcome: Outcome<'static>,
    node: Option<Box<[u8]>>,
}

/// Rings when a connection has to make room, and says which limit is reached.
type Bell = oneshot::Receiver<Setting>;

impl Server {
    /// A new connection, at a listening socket's address. Usually its request is there already, and it
    /// is answered and closed when this returns. For the thread that accepts.
    pub(super) fn welcome(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        buffer: &mut [u8; READ_AT_ONCE],
    ) {
        let ends = Ends::new(peer, local);
        let (after, got) = match recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => (After::Wait(stream), 0),
            Ok(0) | Err(_) => (self.fail(with_local(ends, &stream), Failure::Closed), 0),
            Ok(got) if self.delay_write.is_zero() => {
                let bytes = buffer.get(..got).unwrap_or_default();
                (self.answer(stream, ends, bytes), got)
            }
            Ok(got) => (After::Wait(stream), got),
        };
        match after {
            After::Done => return,
            After::Wait(stream) => {
                let got = buffer.get(..got).unwrap_or_default();
                self.let_wait(stream, ends, got.to_vec());
            }
            After::Unsent(unsent) => self.let_read(unsent),
        }
        self.wait_for_the_leaving();
    }

    /// Has the event loop wait for a connection's request.
    fn let_wait(self: &Arc<Self>, stream: TcpStream, ends: Ends, got: Vec<u8>) {
        let ends = with_local(ends, &stream);
        let (id, mut bell) = match self.enter(ends) {
            Ok(entered) => entered,
            Err(limit) => {
                self.fail(ends, Failure::TooMany(limit));
                return;
            }
        };
        let server = Arc::clone(self);
        self.event_loop.spawn(async move {
            server
                .wait_for_request(stream, ends, got, id, &mut bell)
                .await;
            server.leave(id);
        });
    }

    /// Has the event loop send the rest of an answer.
    fn let_read(self: &Arc<Self>, unsent: Unsent) {
        let (id, mut bell) = match self.enter(unsent.outcome.ends) {
            Ok(entered) => entered,
            Err(limit) => {
                let outcome = unsent.outcome.with_node(unsent.node.as_deref());
                let outcome = outcome.failed(Reason::TooMany, Some(limit));
                self.conclude(&mut self.state(), &outcome);
                return;
            }
        };
        self.state().slots.answering(id);
        let server = Arc::clone(self);
        self.event_loop.spawn(async move {
            server.send_the_rest(unsent, &mut bell).await;
            server.leave(id);
        });
    }

    /// A connection that ended without a request.
    fn fail(&self, ends: Ends, why: Failure) -> After {
        let (verdict, reason, setting) = match why {
            Failure::TooMany(limit) => (Verdict::Refused, Reason::TooMany, Some(limit)),
            Failure::Closed => (Verdict::Failed, Reason::Closed, None),
            Failure::Timeout => (Verdict::Failed, Reason::Timeout, None),
        };
        let operation = Operation::None;
        let outcome = Outcome {
            ends,
            operation,
            node: None,
            verdict,
            reason: Some(reason),
            setting,
        };
        self.conclude(&mut self.state(), &outcome);
        After::Done
    }

    /// Has the desk answer all that a connection has sent, and sends the answer without waiting.
    fn answer(&self, stream: TcpStream, ends: Ends, bytes: &[u8]) -> After {
        let mut state = self.state();
        let State {
            desk, answer, own, ..
        } = &mut *state;
        answer.clear();
        // The kernel is asked for the local address only where it matters to the rules: a loopback peer
        // is this host whatever address it came to.
        let ends = if ends.peer().ip().is_loopback() && desk.rules.served.is_none() {
            ends
        } else {
            with_local(ends, &stream)
        };
        let step = match desk.handle(ends, bytes, answer) {
            Step::End(_, outcome)
                if outcome.is_refused_for_its_peer() && own.contain(ends.peer().ip()) =>
            {
                // To its own address this peer would have come from there: it is this host.
                let local = SocketAddr::new(ends.peer().ip(), ends.local().port());
                answer.clear();
                desk.handle(Ends::new(ends.peer(), local), bytes, answer)
            }
            step => step,
        };
        match step {
            Step::Wait => After::Wait(stream),
            Step::Register(node, outcome) => {
                let outcome = self.register(&mut state, stream, &node, outcome);
                self.conclude(&mut state, &outcome);
                After::Done
            }
            Step::End(reply, outcome) => {
                let outcome = match outcome.reason {
                    None => outcome,
                    Some(_) => Outcome {
                        ends: with_local(ends, &stream),
                        ..outcome
                    },
                };
                let sent = match (reply, state.answer.as_slice()) {
                    (Reply::Listing(_), _) | (_, []) => 0,
                    // The close that follows sends the answer and the end in one segment.
                    (_, answer) => match send_now(&stream, answer, true) {
                        Ok(sent) => sent,
                        Err(error) => {
                            self.conclude(&mut state, &cut_off(outcome, &error));
                            return After::Done;
                        }
                    },
                };
                if sent < state.answer.len() {
                    let bytes = state.answer.split_off(sent);
                    let ends = with_local(ends, &stream);
                    let outcome = Outcome { ends, ..outcome };
                    return After::Unsent(Unsent::new(stream, bytes, reply, outcome));
                }
                drop(stream);
                self.conclude(&mut state, &outcome);
                if reply == Reply::Exit {
                    self.killed.notify_one();
                }
                After::Done
            }
        }
    }

    /// Makes a connection the holder of a name, and answers its node.
    fn register<'a>(
        &self,
        state: &mut State,
        stream: TcpStream,
        node: &Node<'_>,
        outcome: Outcome<'a>,
    ) -> Outcome<'a> {
        let held = Held::new(stream, &self.epoll);
        let id = state
            .desk
            .register(node, wall_clock(), held, &mut state.answer);
        state.keep(id, &self.log);
        let State { desk, answer, .. } = &mut *state;
        let Some(held) = desk.registry.holder(node.name) else {
            return outcome; // it was registered just now
        };
        // Nodes want the whole answer in one segment; six bytes always fit a new connection's buffer.
        let told = held
            .watch(id)
            .and_then(|()| send_now(held.stream(), answer, false));
        let error = match told {
            Ok(sent) if sent == answer.len() => return outcome,
            Ok(_) => ErrorKind::WriteZero.into(),
            Err(error) => error,
        };
        state.release(id);
        cut_off(outcome, &error)
    }

    /// A slot for a connection that has to be waited for, and the bell that rings when it must make
    /// room; or the limit that leaves no room for it.
    fn enter(&self, ends: Ends) -> Result<(slots::Id, Bell), Setting> {
        let source = (!ends.is_this_host()).then(|| Source::of(ends.peer().ip()));
        let mut state = self.state();
        let id = match state.slots.enter(source) {
            Entry::Free(id) => id,
            Entry::InPlaceOf { id, out, limit } => {
                if let Some(bell) = state.waiting.remove(&out) {
                    // Nobody hears it where that connection is leaving anyway.
                    let _ = bell.send(limit);
                    state.leaving = state.leaving.saturating_add(1);
                }
                id
            }
            Entry::Full(limit) => return Err(limit),
        };
        let (rings, bell) = oneshot::channel();
        state.waiting.insert(id, rings);
        Ok((id, bell))
    }

    fn leave(&self, id: slots::Id) {
        let mut state = self.state();
        state.slots.leave(id);
        if state.waiting.remove(&id).is_none() {
            state.leaving = state.leaving.saturating_sub(1);
            self.left.notify_one();
        }
        state.show_in_use();
        if state.slots.used() == 0 {
            self.idle.notify_one();
        }
    }

    /// Reads until the request is whole, answers it, and closes.
    async fn wait_for_request(
        &self,
        stream: TcpStream,
        ends: Ends,
        mut got: Vec<u8>,
        id: slots::Id,
        bell: &mut Bell,
    ) {
        let deadline = Instant::now() + self.request_timeout();
        let Ok(mut stream) = into_event_loop(stream) else {
            self.fail(ends, Failure::Closed);
            return;
        };
        let read = loop {
            // The daemon ends: a request that has begun to come is waited for, no other.
            if self.is_ending.load(Ordering::Relaxed) && got.is_empty() {
                break Err(Failure::Closed);
            }
            tokio::select! {
                biased;
                limit = rung(bell) => break Err(Failure::TooMany(limit)),
                read = timeout_at(deadline, read_request(&mut stream, &mut got)) => match read {
                    Ok(Ok(())) => break Ok(()),
                    Ok(Err(_)) => break Err(Failure::Closed),
                    Err(_) => break Err(Failure::Timeout),
                },
                () = self.ending.notified() => {}
            }
        };
        let stream = match read.and_then(|()| stream.into_std().map_err(|_| Failure::Closed)) {
            Ok(stream) => stream,
            Err(why) => {
                self.fail(ends, why);
                return;
            }
        };
        self.state().slots.answering(id);
        if !self.delay_write.is_zero() {
            sleep(self.delay_write).await;
        }
        match self.answer(stream, ends, &got) {
            After::Unsent(unsent) => self.send_the_rest(unsent, bell).await,
            // `read_request` has seen to it that there is a whole request.
            After::Done | After::Wait(_) => {}
        }
    }

    /// Sends an answer as fast as the peer reads it, within `request-timeout`.
    async fn send_the_rest(&self, unsent: Unsent, bell: &mut Bell) {
        let Unsent {
            stream,
            bytes,
            reply,
            outcome,
            node,
        } = unsent;
        let outcome = outcome.with_node(node.as_deref());
        let deadline = Instant::now() + self.request_timeout();
        let outcome = tokio::select! {
            biased;
            limit = rung(bell) => outcome.failed(Reason::TooMany, Some(limit)),
            sent = timeout_at(deadline, self.send_all(stream, bytes, reply)) => match sent {
                Ok(Ok(())) => outcome,
                Ok(Err(error)) => cut_off(outcome, &error),
                Err(_) => outcome.failed(Reason::Timeout, None),
            },
        };
        self.conclude(&mut self.state(), &outcome);
        if reply == Reply::Exit {
            self.killed.notify_one();
        }
    }

    /// Sends bytes, and the lines that are still to be made.
    async fn send_all(
        &self,
        stream: TcpStream,
        mut bytes: Vec<u8>,
        mut reply: Reply,
    ) -> io::Result<()> {
        let mut stream = into_event_loop(stream)?;
        loop {
            if let Reply::Listing(listing) = reply {
                reply = self.state().desk.continue_listing(listing, &mut bytes);
            }
            stream.write_all(&bytes).await?;
            let Reply::Listing(_) = reply else {
                return Ok(());
            };
            bytes.clear();
            // A long list to a fast reader must not hold up the others.
            tokio::task::yield_now().await;
        }
    }
}

/// Waits until the bell rings, and says which limit is reached.
async fn rung(bell: &mut Bell) -> Setting {
    match bell.await {
        Ok(limit) => limit,
        // Its other end is kept for as long as the connection is here.
        Err(_) => std::future::pending().await,
    }
}

/// The ends with the local address that the connection really came to, where a wildcard listens.
fn with_local(ends: Ends, stream: &TcpStream) -> Ends {
    if !ends.local().ip().is_unspecified() {
        return ends;
    }
    stream
        .local_addr()
        .map_or(ends, |local| Ends::new(ends.peer(), local))
}

/// Why a connection ended without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Closed,
    Timeout,
    TooMany(Setting),
}

impl Unsent {
    fn new(stream: TcpStream, bytes: Vec<u8>, reply: Reply, outcome: Outcome<'_>) -> Self {
        let node = outcome.node.map(Box::from);
        Self {
            stream,
            bytes,
            reply,
            outcome: outcome.with_node(None),
            node,
        }
    }
}

/// Sends what the socket takes at once. `last`: the close comes next, and belongs in the same segment.
fn send_now(stream: &TcpStream, bytes: &[u8], last: bool) -> io::Result<usize> {
    let mut flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    if last {
        flags |= MsgFlags::from_bits_retain(nix::libc::MSG_MORE);
    }
    match send(stream.as_raw_fd(), bytes, flags) {
        Err(Errno::EAGAIN) => Ok(0),
        result => Ok(result?),
    }
}

/// Reads until there is a whole request, or none that can become one.
async fn read_request(stream: &mut tokio::net::TcpStream, got: &mut Vec<u8>) -> io::Result<()> {
    while wire::decode(got) == Decoded::Incomplete {
        let mut buffer = [0; READ_AT_ONCE];
        match stream.read(&mut buffer).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => got.extend(buffer.iter().take(count)),
        }
    }
    Ok(())
}

fn into_event_loop(stream: TcpStream) -> io::Result<tokio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}

/// The outcome of a request whose answer could not be sent.
fn cut_off<'a>(outcome: Outcome<'a>, error: &io::Error) -> Outcome<'a> {
    let reason = if error.kind() == ErrorKind::TimedOut {
        Reason::Timeout
    } else {
        Reason::Closed
    };
    outcome.failed(reason, None)
}

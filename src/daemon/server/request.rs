//! The straight way of a request: all that is done with a connection whose request is there.
//!
//! Read without waiting, have the desk answer, send, conclude, close. What can't be finished there is
//! handed back ([`After`]). Called by `accept` for a new connection, and by `slow` for one that had to be
//! waited for.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::books::Failure;
use super::clock::Clock;
use super::followers::registration;
use super::holders::{Held, send_now};
use super::state::{Server, State};
use super::whose;
use crate::core::desk::{Reply, Step};
use crate::core::follow::Told;
use crate::core::outcome::{Ends, Operation, Outcome, Reason, Setting, Verdict};
use crate::core::wire::{self, Node};

/// The most that is read of a connection at once: one byte more than any request has.
pub(super) const READ_AT_ONCE: usize = wire::LENGTH_FIELD + wire::MAX_REQUEST + 1;

/// A connection that holds no name.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    ends: Ends,
}

/// What became of a connection.
#[derive(Debug)]
pub(super) enum After {
    /// It is closed, or holds a name now.
    Done,
    /// Its request is not whole.
    Wait(Connection),
    /// Its answer is not sent.
    Unsent(Unsent),
}

/// An answer that the peer does not read as fast as it is made.
#[derive(Debug)]
pub(super) struct Unsent {
    pub(super) stream: TcpStream,
    pub(super) bytes: Vec<u8>,
    pub(super) reply: Reply,
    /// Without its name, which is in the request's bytes.
    pub(super) outcome: Outcome<'static>,
    pub(super) node: Option<Box<[u8]>>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, ends: Ends) -> Self {
        Self { stream, ends }
    }

    /// Who is at its ends.
    pub(super) fn ends(&self) -> Ends {
        self.ends
    }

    pub(super) fn into_parts(self) -> (TcpStream, Ends) {
        (self.stream, self.ends)
    }

    /// The same, with the local address that it really came to, where a wildcard listens.
    pub(super) fn with_local(mut self) -> Self {
        if self.ends.lacks_local()
            && let Ok(local) = self.stream.local_addr()
        {
            self.ends = self.ends.with_local(local);
        }
        self
    }

    /// The same, of which it is known whether its peer is this host.
    pub(super) fn judged(self, server: &Server) -> Self {
        let this = self.with_local();
        let ends = server.this_host().judge(this.ends);
        Self { ends, ..this }
    }

    /// The same, of which it is known which user of this host has its other end.
    fn with_user(self, server: &Server) -> Self {
        let this = self.with_local();
        if !this.ends.is_this_host() {
            return this;
        }
        let (peer, local) = (this.ends.peer(), this.ends.local());
        let uid = server.this_host().user(peer, local);
        let ends = this.ends.of_user(uid);
        Self { ends, ..this }
    }

    /// Reads what has come without waiting, and answers it if that is a request. With what has been read
    /// of one that is not whole.
    pub(super) fn serve<'b>(
        self,
        server: &Server,
        buffer: &'b mut [u8; READ_AT_ONCE],
    ) -> (After, &'b [u8]) {
        match recv(self.stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => (After::Wait(self), &[]),
            Ok(0) | Err(_) => {
                let ends = self.with_local().ends;
                server.state().fail(ends, Failure::Closed);
                (After::Done, &[])
            }
            Ok(count) => {
                let got = buffer.get(..count).unwrap_or_default();
                if server.delays.write.is_zero() {
                    (self.answer(server, got), got)
                } else {
                    (After::Wait(self), got)
                }
            }
        }
    }

    /// Has the desk answer all that the connection has sent, and sends the answer without waiting.
    pub(super) fn answer(mut self, server: &Server, bytes: &[u8]) -> After {
        let mut now = 0;
        if !wire::looks_up(bytes) {
            now = Clock::since_boot();
            if self.ends.lacks_local() {
                // A loopback peer at a wildcard has been taken for this host. For a lookup that is enough;
                // for what changes or shows more it is made sure of.
                self = self.judged(server);
            }
            if wire::registers(bytes) && server.asks_for_users() {
                self = self.with_user(server);
            }
        }
        let mut state = server.state();
        let State { desk, answer, .. } = &mut *state;
        answer.clear();
        let (reply, outcome) = match desk.handle(self.ends, now, bytes, answer) {
            Step::Wait => return After::Wait(self),
            Step::Register(node, outcome) => {
                let outcome = self.register(server, &mut state, &node, outcome);
                state.conclude(&outcome);
                return After::Done;
            }
            Step::End(reply, outcome) => (reply, outcome),
        };
        // Whoever closes this connection tells of the address that it came to, where that matters.
        let this = if outcome.reason.is_some() {
            self.with_local()
        } else {
            self
        };
        let outcome = Outcome {
            ends: this.ends,
            ..outcome
        };
        if reply == Reply::Exit {
            // Who asks for the end has its answer when there is one: a new epmd may be started then.
            state.conclude(&outcome);
            drop(state);
            server.end_for(this.stream);
            return After::Done;
        }
        let sent = match (reply, state.answer.as_slice()) {
            (Reply::Listing(_), _) | (_, []) => 0,
            // The close that follows sends the answer and the end in one segment.
            (_, answer) => match send_now(&this.stream, answer, true) {
                Ok(sent) => sent,
                Err(error) => {
                    state.conclude(&cut_off(outcome, &error));
                    return After::Done;
                }
            },
        };
        if sent < state.answer.len() || matches!(reply, Reply::Listing(_)) {
            let bytes = state.answer.split_off(sent);
            let this = this.with_local();
            return After::Unsent(Unsent {
                stream: this.stream,
                bytes,
                reply,
                outcome: Outcome {
                    ends: this.ends,
                    ..outcome.with_node(None)
                },
                node: outcome.node.map(Box::from),
            });
        }
        if outcome.operation == Operation::Register && outcome.verdict != Verdict::Answered {
            drop(state);
            // The kernel is asked while there is a connection.
            whose::conclude(server, outcome);
            return After::Done;
        }
        drop(this);
        state.conclude(&outcome);
        state.keep_holds();
        After::Done
    }

    /// Makes the connection the holder of a name, and answers its node.
    fn register<'a>(
        self,
        server: &Server,
        state: &mut State,
        node: &Node<'_>,
        outcome: Outcome<'a>,
    ) -> Outcome<'a> {
        let State {
            desk,
            survival,
            answer,
            followers,
            ..
        } = state;
        let held = Held::new(self.stream, &server.epoll, self.ends.uid());
        let id = desk.register(node, wall_clock(), held, answer);
        survival.keep(desk, id);
        if let Some(registered) = desk.registry.get(id) {
            followers.tell(|| Told::Registered(registration(&registered)));
        }
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
        match error.kind() {
            // epoll_ctl(2): fs.epoll.max_user_watches is reached.
            ErrorKind::StorageFull => outcome.failed(Reason::TooMany, Some(Setting::Watches)),
            _ => cut_off(outcome, &error),
        }
    }
}

/// The outcome of a request whose answer could not be sent.
pub(super) fn cut_off<'a>(outcome: Outcome<'a>, error: &io::Error) -> Outcome<'a> {
    let reason = if error.kind() == ErrorKind::TimedOut {
        Reason::Timeout
    } else {
        Reason::Closed
    };
    outcome.failed(reason, None)
}

/// Milliseconds since 1970 UTC.
fn wall_clock() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

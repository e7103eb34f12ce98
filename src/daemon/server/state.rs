//! What all connections share: [`Server`], and under its lock [`State`].
//!
//! Several threads change it: those that accept, and the event loop. Each holds the lock for one step of one
//! request, never across an `await` (the compiler sees to that) nor while it waits for a peer. Called by all
//! of `server`.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::epoll::Epoll;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::books::{Books, Failure};
use super::called::Names;
use super::clock::Clock;
use super::followers::Followers;
use super::holders::Held;
use super::own::ThisHost;
use super::survival::Survival;
use super::waiting::Waiting;
use crate::core::access::Rules;
use crate::core::desk::{Desk, Holder as _};
use crate::core::follow::{Guard, Told};
use crate::core::outcome::{Ends, Operation, Outcome, Verdict};
use crate::core::registry;
use crate::core::status::InForce;
use crate::daemon::log::Log;

/// The daemon, as each of its parts sees it.
///
/// Who owns what: each thread that accepts (`accept`) owns its listening sockets; a connection belongs to
/// whoever serves it (`request`, then perhaps a task of `slow`)
/// until it holds a name, and to the registry then; `reload` owns the settings and where they come from.
/// Each lock is held by itself and for one step: that of `state`, `waiting`'s own, and the small ones of what
/// is known of this host and of who has asked for the end.
#[derive(Debug)]
pub(super) struct Server {
    /// What requests are decided by, and what is written down of them. See [`Server::state`].
    shared: Mutex<State>,
    /// Connections that have to be waited for.
    pub(super) waiting: Arc<Waiting>,
    /// Where they are waited for.
    pub(super) event_loop: Handle,
    /// In which new connections are waited for, and the ends of those that hold names.
    pub(super) epoll: Arc<Epoll>,
    pub(super) log: Log,
    /// The audit's time.
    pub(super) clock: Clock,
    /// The audit has something to time that it had not before.
    pub(super) audit_due: Arc<Notify>,
    /// Descriptors that the process may have.
    pub(super) descriptors: usize,
    /// Stock's tests of a busy server: how long it waits before it accepts, and before it answers. From
    /// the command line alone, so that no reload changes them.
    pub(super) delays: Delays,
    /// Which peers are this host, and whose.
    this_host: Mutex<ThisHost>,
    /// What the rules say that matters before they are asked, under no lock: whether it does whose a
    /// registration is, and whether there are addresses of this host whose peers are strangers.
    asks_for_users: AtomicBool,
    has_strangers: AtomicBool,
    /// What users are called.
    pub(super) names: Names,
    /// Who has asked for the daemon's end, and is told once it has come.
    killers: Mutex<Vec<TcpStream>>,
    killed: Notify,
    /// How the guard is, if one follows.
    guard: Mutex<Option<Guard>>,
}

/// See [`Server::delays`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Delays {
    pub(super) accept: Duration,
    pub(super) write: Duration,
}

/// What is under the lock.
#[derive(Debug)]
pub(super) struct State {
    /// Rules and names.
    pub(super) desk: Desk<Held>,
    /// Counters and audit.
    pub(super) books: Books,
    /// Where registrations outlive the process.
    pub(super) survival: Survival,
    /// The answer that is being made.
    pub(super) answer: Vec<u8>,
    /// The settings in force, as they are told to who asks.
    pub(super) in_force: Arc<InForce>,
    /// Who is told what changes.
    pub(super) followers: Followers,
}

impl State {
    /// The end of every request.
    pub(super) fn conclude(&mut self, outcome: &Outcome<'_>) {
        if (outcome.operation, outcome.verdict) == (Operation::Stop, Verdict::Answered) {
            self.followers
                .tell(|| released(outcome.node.unwrap_or_default()));
        }
        self.books.conclude(&self.desk, outcome);
    }

    /// The end of a connection without a request.
    pub(super) fn fail(&mut self, ends: Ends, why: Failure) {
        self.conclude(&why.outcome(ends));
    }

    /// Keeps what could not be kept before; whether that is all.
    pub(super) fn catch_up(&mut self) -> bool {
        self.survival.catch_up(&self.desk)
    }

    /// Releases the registration with this number, if it is still there.
    pub(super) fn release(&mut self, id: registry::Id) {
        if let Some(registration) = self.desk.registry.get(id) {
            self.followers.tell(|| released(registration.node.name));
        }
        if let Some(holder) = self.desk.release(id, Clock::since_boot()) {
            holder.release();
            self.books.set_registered(self.desk.registry.len());
            self.keep_holds();
        }
    }

    /// Keeps what was released just now, and is held for its last user.
    pub(super) fn keep_holds(&mut self) {
        for id in self.desk.holds.take_new() {
            self.survival.keep(&self.desk, id);
        }
    }

    /// It is known by now whose this registration is.
    pub(super) fn is_of(&mut self, id: registry::Id, uid: u32) {
        if let Some(registration) = self.desk.registry.get(id) {
            registration.holder.is_of(uid);
            self.survival.keep(&self.desk, id);
        }
    }
}

/// What followers are told of a name that is gone.
fn released(name: &[u8]) -> Told {
    Told::Released {
        name: String::from_utf8_lossy(name).into_owned(),
    }
}

/// What a server is made of.
pub(super) struct Parts {
    pub(super) state: State,
    pub(super) waiting: Waiting,
    pub(super) epoll: Arc<Epoll>,
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) audit_due: Arc<Notify>,
    pub(super) descriptors: usize,
    pub(super) delays: Delays,
    pub(super) this_host: ThisHost,
}

impl Server {
    /// To be called on the event loop.
    pub(super) fn new(parts: Parts) -> Self {
        let rules = &parts.state.desk.rules;
        Self {
            asks_for_users: AtomicBool::new(rules.names.ask_for_users()),
            has_strangers: AtomicBool::new(!rules.strangers.is_empty()),
            names: Names::default(),
            shared: Mutex::new(parts.state),
            waiting: Arc::new(parts.waiting),
            event_loop: Handle::current(),
            epoll: parts.epoll,
            log: parts.log,
            clock: parts.clock,
            audit_due: parts.audit_due,
            descriptors: parts.descriptors,
            delays: parts.delays,
            this_host: Mutex::new(parts.this_host),
            killers: Mutex::default(),
            killed: Notify::new(),
            guard: Mutex::default(),
        }
    }

    /// The state, for one step. A panic in another thread does not lock this one out: the daemon ends
    /// where that was one that accepts, and a task's connection is that task's own.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes by what these rules say that matters before they are asked.
    pub(super) fn go_by(&self, rules: &Rules) {
        self.this_host().set_strangers(rules.strangers.clone());
        let has_strangers = !rules.strangers.is_empty();
        self.has_strangers.store(has_strangers, Ordering::Release);
        let asks = rules.names.ask_for_users();
        self.asks_for_users.store(asks, Ordering::Release);
    }

    /// Whether it matters whose a registration is.
    pub(super) fn asks_for_users(&self) -> bool {
        self.asks_for_users.load(Ordering::Acquire)
    }

    /// Whether a peer with this address is a stranger, although it is one of this host's.
    pub(super) fn is_stranger(&self, peer: &SocketAddr) -> bool {
        self.has_strangers.load(Ordering::Acquire) && self.this_host().is_stranger(peer)
    }

    /// Who knows which peers are this host. To be asked before the state's lock is taken.
    pub(super) fn this_host(&self) -> MutexGuard<'_, ThisHost> {
        self.this_host
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// How the guard of the distribution ports is, as it said itself last.
    pub(super) fn guard(&self) -> MutexGuard<'_, Option<Guard>> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The daemon is to end, because this connection has asked for it.
    pub(super) fn end_for(&self, killer: TcpStream) {
        self.killers().push(killer);
        self.killed.notify_one();
    }

    /// Waits until somebody has asked for the daemon's end.
    pub(super) async fn killed(&self) {
        self.killed.notified().await;
    }

    /// Who has asked for the daemon's end.
    pub(super) fn killers(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.killers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

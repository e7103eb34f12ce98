//! What all connections share, and the end that every request comes to.
//!
//! Two threads change it: the one that accepts, and the event loop. Each holds the lock for one step of
//! one request, never across an `await` (the compiler sees to that) nor while it waits for a peer. Called
//! by all of `server`.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::epoll::Epoll;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::budget::{Budget, KEPT_BACK};
use super::holders::Held;
use super::own::OwnAddresses;
use crate::config::Settings;
use crate::core::audit::{Audit, escape_name};
use crate::core::counters::Counters;
use crate::core::desk::{Desk, Holder as _};
use crate::core::outcome::{Outcome, Setting, Verdict};
use crate::core::registry;
use crate::core::slots::{self, Slots};
use crate::core::status::MAX_ANSWERED;
use crate::daemon::log::{Level, Log};
use crate::daemon::systemd::store::Store;

/// How many connections that have to make room may still be there when the next one is accepted.
const MOST_LEAVING: usize = KEPT_BACK / 4;

/// What all connections share.
pub(super) struct Server {
    /// See [`Server::state`].
    pub(super) shared: Mutex<State>,
    /// One that had to make room has left.
    pub(super) left: Condvar,
    /// The event loop, for connections that have to be waited for.
    pub(super) event_loop: Handle,
    /// In which new connections are waited for, and the ends of those that hold names.
    pub(super) epoll: Arc<Epoll>,
    pub(super) log: Log,
    /// When the daemon started; the audit's time counts from here.
    pub(super) started: Instant,
    /// The audit has something to time that it had not before.
    pub(super) audit_due: Notify,
    /// KILL_REQ was answered.
    pub(super) killed: Notify,
    /// The daemon ends: who has not begun to ask may go.
    pub(super) ending: Notify,
    /// The same, for a connection that begins to wait after that was told.
    pub(super) is_ending: AtomicBool,
    /// The last connection has left.
    pub(super) idle: Notify,
    /// Descriptors that the process may have.
    pub(super) descriptors: usize,
    /// Stock's tests of a busy server: how long it waits before it accepts, and before it answers. From
    /// the command line alone, so that no reload changes them.
    pub(super) delay_accept: Duration,
    pub(super) delay_write: Duration,
}

pub(super) struct State {
    pub(super) settings: Settings,
    pub(super) desk: Desk<Held>,
    pub(super) slots: Slots,
    /// How to tell a connection that it has to make room.
    pub(super) waiting: HashMap<slots::Id, oneshot::Sender<Setting>>,
    /// How many have been told so, and have not left yet: their descriptors are still in use.
    pub(super) leaving: usize,
    pub(super) audit: Audit,
    pub(super) counters: Arc<Counters>,
    /// Peers from elsewhere that were answered, as many as are remembered.
    pub(super) answered: HashSet<IpAddr>,
    /// The answer that is being made.
    pub(super) answer: Vec<u8>,
    /// Which peers are this host under another address.
    pub(super) own: OwnAddresses,
    /// Where registrations outlive the process.
    pub(super) store: Option<Store>,
    /// Registrations are not kept, and that is told.
    pub(super) keeping_fails: bool,
}

impl State {
    pub(super) fn new(settings: Settings, budget: Budget) -> Self {
        Self {
            desk: Desk {
                rules: settings.rules.clone(),
                max_registrations: budget.registrations,
                relaxed_command_check: settings.relaxed_command_check,
                registry: Default::default(),
            },
            slots: Slots::new(budget.connections, settings.limits.per_source),
            waiting: HashMap::new(),
            leaving: 0,
            audit: Audit::new(settings.audit_policy()),
            counters: Arc::default(),
            answered: HashSet::new(),
            answer: Vec::new(),
            own: OwnAddresses::default(),
            store: None,
            keeping_fails: false,
            settings,
        }
    }

    /// Remembers who from elsewhere was answered: whoever in an allow-list never asks may be cut off,
    /// or need not be in it.
    fn remember_answered(&mut self, outcome: &Outcome<'_>) {
        let answered = matches!(outcome.verdict, Verdict::Answered | Verdict::Unknown);
        if answered && !outcome.ends.is_this_host() && self.answered.len() < MAX_ANSWERED {
            self.answered.insert(outcome.ends.peer().ip());
        }
    }

    /// Shows to whoever reads the counters how much is in use.
    pub(super) fn show_in_use(&self) {
        self.counters
            .set_in_use(self.desk.registry.len(), self.slots.used());
    }

    /// Releases the registration with this number, if it is still there.
    pub(super) fn release(&mut self, id: registry::Id) {
        if let Some(holder) = self.desk.registry.release(id) {
            holder.release();
            self.show_in_use();
        }
    }
}

impl Server {
    /// The state, for one step. A panic in another thread does not lock this one out: the daemon ends
    /// where that was the one that accepts, and a task's connection is that task's own.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while many of those who have to make room are still there: a flood must not run ahead of
    /// them until there is no descriptor left. Not for the event loop, which is where they leave.
    pub(super) fn wait_for_the_leaving(&self) {
        let state = self.state();
        let many = |state: &mut State| state.leaving > MOST_LEAVING;
        drop(self.left.wait_while(state, many));
    }

    /// Time as the audit counts it.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When the daemon started, by the wall clock.
    pub(super) fn started_at(&self) -> SystemTime {
        SystemTime::now()
            .checked_sub(self.now())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// The end of every request: its outcome is counted and, where it is a refusal, audited.
    pub(super) fn conclude(&self, state: &mut State, outcome: &Outcome<'_>) {
        state.counters.count(outcome);
        state.remember_answered(outcome);
        state.show_in_use();
        if state.settings.debug > 0 {
            self.log.note(Level::Debug, describe(outcome));
        }
        if state.audit.concerns(outcome) && state.desk.is_event(outcome) {
            let before = state.audit.next_due();
            state
                .audit
                .record(self.now(), outcome, &mut |event| self.log.tell(event));
            if state.audit.next_due() != before {
                self.audit_due.notify_one();
            }
        }
    }

    pub(super) fn whom_it_serves(&self) -> String {
        self.state().settings.whom_it_serves()
    }
}

/// One request's end, for `-d`.
fn describe(outcome: &Outcome<'_>) -> String {
    let node = outcome
        .node
        .map(|n| format!(" of \"{}\"", escape_name(n)))
        .unwrap_or_default();
    let reason = outcome
        .reason
        .map(|r| format!(" ({r})"))
        .unwrap_or_default();
    let (operation, verdict) = (outcome.operation, outcome.verdict.name());
    format!(
        "{operation}{node} from {}: {verdict}{reason}",
        outcome.ends.peer()
    )
}

//! What is written down of requests: the end that every one of them comes to.
//!
//! An outcome is counted and, where it is a refusal, given to the audit; nothing else counts or tells
//! anything of a request. Part of the state, so under its lock; lines go to the log, which never blocks.
//! Called by `request` and `slow`, and by `server` when something is due.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::clock::Clock;
use crate::config::Settings;
use crate::core::audit::{Audit, Tracked, escape_name};
use crate::core::counters::Counters;
use crate::core::desk::{Desk, Holder};
use crate::core::outcome::{Ends, Operation, Outcome, Reason, Setting, Verdict};
use crate::core::status::MAX_ANSWERED;
use crate::daemon::log::{Level, Log};

/// Why a connection ended without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Its peer closed, or it could not be read.
    Closed,
    /// Its time was up.
    Timeout,
    /// It had to make room, or found none.
    TooMany(Setting),
}

impl Failure {
    /// The outcome in which such a connection ends.
    pub(super) fn outcome(self, ends: Ends) -> Outcome<'static> {
        let (verdict, reason, setting) = match self {
            Self::TooMany(limit) => (Verdict::Refused, Reason::TooMany, Some(limit)),
            Self::Closed => (Verdict::Failed, Reason::Closed, None),
            Self::Timeout => (Verdict::Failed, Reason::Timeout, None),
        };
        Outcome {
            ends,
            operation: Operation::None,
            node: None,
            verdict,
            reason: Some(reason),
            setting,
            since: None,
            holder: None,
        }
    }
}

/// Counters and audit.
#[derive(Debug)]
pub(super) struct Books {
    audit: Audit,
    counters: Arc<Counters>,
    /// Peers from elsewhere that were answered, as many as are remembered.
    answered: HashSet<IpAddr>,
    /// Every request is told (`-d`).
    debug: bool,
    log: Log,
    clock: Clock,
    /// Rings when the audit has something to time that it had not before.
    audit_due: Arc<Notify>,
}

impl Books {
    pub(super) fn new(
        settings: &Settings,
        counters: Arc<Counters>,
        log: Log,
        clock: Clock,
        audit_due: Arc<Notify>,
    ) -> Self {
        let mut audit = Audit::new(settings.audit_policy()).started_at(clock.started_at());
        know_listed(&mut audit, settings);
        Self {
            audit,
            counters,
            answered: HashSet::new(),
            debug: settings.debug > 0,
            log,
            clock,
            audit_due,
        }
    }

    /// Goes by new settings from now on.
    pub(super) fn reconfigure(&mut self, settings: &Settings) {
        self.audit.reconfigure(settings.audit_policy());
        know_listed(&mut self.audit, settings);
    }

    /// The end of every request: its outcome is counted and, where it is a refusal, audited.
    pub(super) fn conclude<H: Holder>(&mut self, desk: &Desk<H>, outcome: &Outcome<'_>) {
        self.counters.count(outcome);
        self.remember_answered(outcome);
        self.set_registered(desk.registry.len());
        if self.debug {
            self.log.note(Level::Debug, describe(outcome));
        }
        if self.audit.concerns(outcome) && desk.is_event(outcome) {
            let before = self.audit.next_due();
            let log = &self.log;
            self.audit
                .record(self.clock.now(), outcome, &mut |event| log.tell(event));
            if self.audit.next_due() != before {
                self.audit_due.notify_one();
            }
        }
    }

    /// Remembers what a user is called.
    pub(super) fn know(&mut self, uid: u32, name: &str) {
        self.audit.know(uid, name);
    }

    /// Shows to whoever reads the counters how many names there are.
    pub(super) fn set_registered(&self, count: usize) {
        self.counters.set_registered(count);
    }

    /// When [`Self::tell_due`] has to be called next, counted from the daemon's start.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.audit.next_due()
    }

    /// Tells what the audit has counted, where its time has come.
    pub(super) fn tell_due(&mut self) {
        let log = &self.log;
        self.audit
            .due(self.clock.now(), &mut |event| log.tell(event));
    }

    /// Tells what is untold: the daemon ends.
    pub(super) fn close(&mut self) {
        let log = &self.log;
        self.audit
            .flush(self.clock.now(), &mut |event| log.tell(event));
    }

    /// What the audit remembers, the most recent first.
    pub(super) fn tracked(&self) -> Vec<Tracked> {
        self.audit.tracked().collect()
    }

    /// Peers from elsewhere that were answered.
    pub(super) fn answered(&self) -> Vec<IpAddr> {
        self.answered.iter().copied().collect()
    }

    /// Remembers who from elsewhere was answered: whoever in an allow-list never asks may be cut off,
    /// or need not be in it.
    fn remember_answered(&mut self, outcome: &Outcome<'_>) {
        let answered = matches!(outcome.verdict, Verdict::Answered | Verdict::Unknown);
        if answered && !outcome.ends.is_this_host() && self.answered.len() < MAX_ANSWERED {
            self.answered.insert(outcome.ends.peer().ip());
        }
    }
}

/// Has the audit know what the users are called whom the settings name.
fn know_listed(audit: &mut Audit, settings: &Settings) {
    for (name, uid) in settings.names.looked_up() {
        audit.know(uid, &name);
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

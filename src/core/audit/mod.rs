//! Which refusals are told, and which are only counted.
//!
//! The first refusal of a (source, user of this host, operation, reason) is told at once; repeats are counted and told
//! as one line at the end of the window. A source is what the limits take for one: an IPv4 address, or an
//! IPv6 /64. Sources are tracked in bounded memory and lines have a budget for each second, so that a
//! scanner can't flood the log; who has many addresses takes rows and lines from itself alone. What finds
//! no budget waits in the table, and what falls out of the table is summed up. A name that is registered
//! already is told in the same way, name by name. No refusal is lost from the totals: a line with
//! `repeats` 0 stands for one, any other line for `repeats` of them.
//!
//! Knows no clock and writes nothing: time is an argument, counted from the daemon's start, and lines
//! are handed to the caller's `tell`. `server` records each outcome and calls [`Audit::due`] when
//! [`Audit::next_due`] says so.

mod budget;
mod escape;
mod event;
mod message;
mod table;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

pub use escape::{escape, escape_again, escape_json, escape_name, escape_note, toml_string};
pub use event::{Event, Kind};
pub use message::{Hint, Origin, more_connections};

use crate::core::outcome::{Operation, Outcome, Reason, Verdict};
use crate::core::slots::Source;
use budget::Budget;
use table::{Beyond, Row, Site, Table};

/// Lines that the end of the daemon may tell at once, however many sources are untold: half of what
/// the log keeps for its reader. The rest is summed up.
const FLUSH_LINES: usize = 512;

/// So many users' names are remembered at most.
const MOST_USERS: usize = 1024;

/// What the audit remembers of one (source, operation, reason), for `-status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Who asked: an address, or an IPv6 /64 where several of its addresses did.
    pub source: String,
    /// Refused, or only would have been.
    pub kind: Kind,
    /// What was asked.
    pub operation: Operation,
    /// Why it was refused.
    pub reason: Reason,
    /// Which user of this host asked last, of a registration where that is known.
    pub uid: Option<u32>,
    /// The name that was asked for last, escaped.
    pub node: Option<String>,
    /// When the first was, since the daemon's start.
    pub first: Duration,
    /// When the last was, since the daemon's start.
    pub last: Duration,
    /// How many there were.
    pub count: u64,
}

/// What the operator has to say in how refusals are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Repeats of a refusal within it are counted, and told once at its end.
    pub window: Duration,
    /// Tell answered lookups as well.
    pub lookups: bool,
    /// What messages say of the settings.
    pub hint: Hint,
}

/// Decides which refusals are told.
#[derive(Debug)]
pub struct Audit {
    policy: Policy,
    /// When the daemon started, by the wall clock.
    started: SystemTime,
    table: Table,
    /// Where [`Self::due`] begins to look, so that nobody waits for ever behind the same others.
    begin: usize,
    /// What users are called, as far as that is known.
    users: HashMap<u32, String>,
    /// Nothing in the table has to be told before.
    rows_due: Option<Duration>,
    budget: Budget,
    lookup_budget: Budget,
    /// What fell out of the table untold.
    beyond: Beyond,
    /// When that is summed up.
    overflow_due: Option<Duration>,
    /// Answered lookups that found no budget.
    more_lookups: u64,
    /// When these are summed up.
    lookups_due: Option<Duration>,
}

impl Audit {
    /// An audit that has seen nothing.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            started: SystemTime::UNIX_EPOCH,
            table: Table::default(),
            begin: 0,
            users: HashMap::new(),
            rows_due: None,
            budget: Budget::default(),
            lookup_budget: Budget::default(),
            beyond: Beyond::default(),
            overflow_due: None,
            more_lookups: 0,
            lookups_due: None,
        }
    }

    /// The same, which knows when the daemon started by the wall clock: what happened today is then told
    /// without its day.
    #[must_use]
    pub fn started_at(self, started: SystemTime) -> Self {
        Self { started, ..self }
    }

    /// Goes by new settings from now on (SIGHUP). What was counted stays; windows that are open end
    /// as if they had begun with the new length.
    pub fn reconfigure(&mut self, policy: Policy) {
        self.policy = policy;
        let rows = self.table.sources.iter().flat_map(|s| &s.rows);
        let untold = rows.filter(|r| r.untold > 0);
        self.rows_due = untold.map(|r| r.due(self.policy.window)).min();
    }

    /// Remembers what a user is called, for the messages from now on.
    pub fn know(&mut self, uid: u32, name: &str) {
        if self.users.len() >= MOST_USERS && !self.users.contains_key(&uid) {
            self.users.clear();
        }
        self.users.insert(uid, escape(name.as_bytes()));
    }

    /// Whether an outcome may be an event at all. Most are not, and are not worth a look at the clock.
    #[must_use]
    pub fn concerns(&self, outcome: &Outcome<'_>) -> bool {
        outcome.reason.is_some() || outcome.verdict == Verdict::Taken || self.policy.lookups
    }

    /// Takes one outcome. A reason makes it an event: `would_refuse` where it was answered, `refused`
    /// everywhere else. A name that is taken is one without. The caller leaves out a connection that asked nothing (closed, timed out) if
    /// its peer may ask (`Rules::may_ask`): a health check is no event.
    pub fn record(&mut self, now: Duration, outcome: &Outcome<'_>, tell: &mut impl FnMut(Event)) {
        self.record_times(now, outcome, 1, tell);
    }

    /// As [`Self::record`], of an outcome that came so many times: where something else has counted. Does
    /// nothing for none.
    pub fn record_times(
        &mut self,
        now: Duration,
        outcome: &Outcome<'_>,
        times: u64,
        tell: &mut impl FnMut(Event),
    ) {
        if times == 0 {
            return;
        }
        // The caller's timer may be late under load; windows end in time all the same.
        if self.next_due().is_some_and(|due| due <= now) {
            self.due(now, tell);
        }
        match (outcome.reason, outcome.verdict) {
            (Some(reason), Verdict::Answered | Verdict::Unknown) => {
                self.count(
                    now,
                    (Kind::WouldRefuse, Some(reason)),
                    (outcome, times),
                    tell,
                );
            }
            (Some(reason), Verdict::Refused | Verdict::Failed | Verdict::Taken) => {
                self.count(now, (Kind::Refused, Some(reason)), (outcome, times), tell);
            }
            (None, Verdict::Taken) => {
                self.count(now, (Kind::Taken, None), (outcome, times), tell);
            }
            (None, Verdict::Answered | Verdict::Unknown)
                if self.policy.lookups && outcome.operation == Operation::Lookup =>
            {
                self.lookup(now, outcome, tell);
            }
            (None, _) => {}
        }
    }

    /// When [`Self::due`] has to be called next; `None` while nothing has to be timed.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let all = [self.rows_due, self.overflow_due, self.lookups_due];
        all.into_iter().flatten().min()
    }

    /// Tells what has become due, as far as the budget goes.
    pub fn due(&mut self, now: Duration, tell: &mut impl FnMut(Event)) {
        if self.rows_due.is_some_and(|due| due <= now) {
            self.rows_due = self.tell_rows(now, tell);
        }
        if self.overflow_due.is_some_and(|due| due <= now) {
            self.overflow_due = self.tell_overflow(now, tell);
        }
        if self.lookups_due.is_some_and(|due| due <= now) {
            self.lookups_due = if self.lookup_budget.take(now) {
                let count = std::mem::take(&mut self.more_lookups);
                tell(message::more_lookups(count));
                None
            } else {
                Some(Budget::renewed(now))
            };
        }
    }

    /// Tells all that is untold, whatever the budget: the daemon ends. Beyond 512 lines the rest is
    /// summed up.
    pub fn flush(&mut self, now: Duration, tell: &mut impl FnMut(Event)) {
        let mut left = FLUSH_LINES;
        for source in &mut self.table.sources {
            for row in &mut source.rows {
                while row.untold > 0 && left > 0 {
                    left -= 1;
                    tell(message::of_row(
                        row,
                        now,
                        self.started,
                        &self.users,
                        &self.policy.hint,
                    ));
                }
                self.beyond.add(row);
                row.untold = 0;
            }
        }
        for kind in Beyond::KINDS {
            let count = self.beyond.take(kind);
            if count > 0 {
                tell(message::overflow(kind, count));
            }
        }
        let lookups = std::mem::take(&mut self.more_lookups);
        if lookups > 0 {
            tell(message::more_lookups(lookups));
        }
        self.rows_due = None;
        self.overflow_due = None;
        self.lookups_due = None;
    }

    /// What is remembered of refusals, the most recent first.
    pub fn tracked(&self) -> impl Iterator<Item = Tracked> {
        let rows = self.table.sources.iter().flat_map(|s| &s.rows);
        let mut all: Vec<(&Row, Reason)> = rows.filter_map(|r| Some((r, r.reason?))).collect();
        all.sort_by_key(|(row, _)| std::cmp::Reverse(row.last));
        all.into_iter().map(|(row, reason)| Tracked {
            source: if row.peers_ever_differed {
                Source::of(row.peer).to_string()
            } else {
                row.peer.to_string()
            },
            kind: row.kind,
            operation: row.operation,
            reason,
            uid: row.uid,
            node: row.name().map(escape_name),
            first: row.first,
            last: row.last,
            count: row.total,
        })
    }

    /// Counts an outcome, and tells it if it is a first one and there is budget.
    fn count(
        &mut self,
        now: Duration,
        what: (Kind, Option<Reason>),
        (outcome, times): (&Outcome<'_>, u64),
        tell: &mut impl FnMut(Event),
    ) {
        let (beyond, window) = (&mut self.beyond, self.policy.window);
        let Some((row, told, site)) = self.table.row(now, window, what, outcome, beyond) else {
            return; // there is always one
        };
        let waits = row.untold > 0;
        row.count(now, outcome, times);
        // With some untold before, the row waits for its window or for budget already.
        if !waits {
            let ends = row.due(self.policy.window);
            if row.told_at.is_some() && now < ends {
                self.rows_due = earlier(self.rows_due, ends);
            } else {
                row.told_at = None;
                if self.budget.take_for(now, newcomer(*told, site)) {
                    *told = true;
                    tell(message::of_row(
                        row,
                        now,
                        self.started,
                        &self.users,
                        &self.policy.hint,
                    ));
                    if row.untold > 0 {
                        self.rows_due = earlier(self.rows_due, row.due(self.policy.window));
                    }
                } else {
                    self.rows_due = earlier(self.rows_due, Budget::renewed(now));
                }
            }
        }
        if self.overflow_due.is_none() && Beyond::KINDS.iter().any(|k| self.beyond.count(*k) > 0) {
            self.overflow_due = Some(now.saturating_add(self.policy.window));
        }
    }

    fn lookup(&mut self, now: Duration, outcome: &Outcome<'_>, tell: &mut impl FnMut(Event)) {
        if self.lookup_budget.take(now) {
            tell(message::lookup(outcome));
        } else {
            self.more_lookups = self.more_lookups.saturating_add(1);
            let due = now.saturating_add(self.policy.window);
            self.lookups_due.get_or_insert(due);
        }
    }

    /// Tells the rows that are due, and says when to come again. All are looked through, which takes
    /// a few us and happens at most once for each line told and once a second: cheaper than to
    /// keep them in order at each refusal.
    fn tell_rows(&mut self, now: Duration, tell: &mut impl FnMut(Event)) -> Option<Duration> {
        let mut next = None;
        let mut without = None;
        let middle = self.begin.min(self.table.sources.len());
        let (before, after) = self.table.sources.split_at_mut(middle);
        let after = after.iter_mut().zip(middle..);
        for (source, place) in after.chain(before.iter_mut().zip(0..)) {
            let mut newcomer = newcomer(source.told, source.site);
            for row in source.rows.iter_mut().filter(|r| r.untold > 0) {
                if row.due(self.policy.window) <= now {
                    if without.is_some() && newcomer.is_none() {
                        continue;
                    }
                    if !self.budget.take_for(now, newcomer) {
                        without.get_or_insert(place);
                        continue;
                    }
                    newcomer = None;
                    source.told = true;
                    tell(message::of_row(
                        row,
                        now,
                        self.started,
                        &self.users,
                        &self.policy.hint,
                    ));
                }
                if row.untold > 0 {
                    next = earlier(next, row.due(self.policy.window));
                }
            }
        }
        if let Some(first) = without {
            // Who found nothing left begins the next second.
            self.begin = first;
            return Some(Budget::renewed(now));
        }
        next
    }

    fn tell_overflow(&mut self, now: Duration, tell: &mut impl FnMut(Event)) -> Option<Duration> {
        for kind in Beyond::KINDS {
            if self.beyond.count(kind) == 0 {
                continue;
            }
            if !self.budget.take(now) {
                return Some(Budget::renewed(now));
            }
            tell(message::overflow(kind, self.beyond.take(kind)));
        }
        None
    }
}

/// Where a source is from, if no line was told of it yet.
fn newcomer(told: bool, site: Site) -> Option<Site> {
    (!told).then_some(site)
}

/// The earlier of a time that may not be set, and one that is.
fn earlier(known: Option<Duration>, other: Duration) -> Option<Duration> {
    Some(known.map_or(other, |known| known.min(other)))
}

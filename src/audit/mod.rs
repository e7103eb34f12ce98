//! Which refusals are told, and which are only counted.
//!
//! The first refusal of a (source, operation, reason) is told at once; repeats are counted and told
//! as one line at the end of the window. Sources are tracked in bounded memory and lines have a budget
//! for each second, so that a scanner can't flood the log; what finds no budget waits in the table,
//! and what falls out of the table is summed up. No refusal is lost from the totals: a line with
//! `repeats` 0 stands for one, any other line for `repeats` of them.
//!
//! Knows no clock and writes nothing: time is an argument, counted from the daemon's start, and lines
//! are handed to the caller's `tell`. `server` records each outcome and calls [`Audit::due`] when
//! [`Audit::next_due`] says so.

mod budget;
mod escape;
mod message;
mod table;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

pub use escape::{escape, escape_name, escape_note};
pub use message::{Hint, Origin};

use crate::config;
use crate::outcome::{Operation, Outcome, Reason, Verdict};
use budget::Budget;
use message::{Line, Name};
use table::{Row, Table};

/// Lines that the end of the daemon may tell at once, however many sources are untold: half of what
/// the log keeps for its reader. The rest is summed up.
const FLUSH_LINES: usize = 512;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request was refused.
    Refused,
    /// A request was served that `access.enforce = true` would have refused.
    WouldRefuse,
    /// A lookup was answered (`audit.lookups`).
    Lookup,
}

impl Kind {
    /// Its name in the field `event`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::WouldRefuse => "would_refuse",
            Self::Lookup => "lookup",
        }
    }
}

/// One line of the audit, ready to be told. Nothing in it can forge a line or a field: what came
/// from a stranger is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// What was asked; absent only from the line that counts what could not be told one by one.
    pub operation: Option<Operation>,
    /// The name that was asked for, escaped; absent where there is none, or several.
    pub node: Option<String>,
    /// Who asked, canonical, and from which port; absent only from a line that counts what could not
    /// be told one by one.
    pub peer: Option<(IpAddr, u16)>,
    /// The address it came to; absent as `peer` is.
    pub local: Option<IpAddr>,
    /// Why; absent from an answered lookup, and as `peer` is.
    pub reason: Option<Reason>,
    /// How many like it since the last line; 0 on the first.
    pub repeats: u64,
    /// The whole, for people.
    pub message: String,
}

/// What the audit remembers of one (source, operation, reason), for `-status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Who asked, canonical.
    pub source: IpAddr,
    /// Refused, or only would have been.
    pub kind: Kind,
    /// What was asked.
    pub operation: Operation,
    /// Why it was refused.
    pub reason: Reason,
    /// The name that was asked for last, escaped.
    pub node: Option<String>,
    /// When the first was, since the daemon's start.
    pub first: Duration,
    /// When the last was, since the daemon's start.
    pub last: Duration,
    /// How many there were.
    pub count: u64,
}

/// Lines that count what could not be told one by one: one a window.
#[derive(Debug, Default)]
struct Uncounted {
    refused: u64,
    would_refuse: u64,
    lookups: u64,
}

/// Decides which refusals are told.
#[derive(Debug)]
pub struct Audit {
    window: Duration,
    tells_lookups: bool,
    hint: Hint,
    table: Table,
    /// Where [`Self::due`] begins to look, so that nobody waits for ever behind the same others.
    begin: usize,
    /// Nothing in the table has to be told before.
    rows_due: Option<Duration>,
    budget: Budget,
    lookup_budget: Budget,
    beyond: Uncounted,
    /// When what fell out of the table is summed up.
    overflow_due: Option<Duration>,
    /// When the lookups that found no budget are summed up.
    lookups_due: Option<Duration>,
}

impl Audit {
    /// An audit that has seen nothing.
    #[must_use]
    pub fn new(settings: &config::Audit, hint: Hint) -> Self {
        Self {
            window: settings.window,
            tells_lookups: settings.lookups,
            hint,
            table: Table::new(),
            begin: 0,
            rows_due: None,
            budget: Budget::default(),
            lookup_budget: Budget::default(),
            beyond: Uncounted::default(),
            overflow_due: None,
            lookups_due: None,
        }
    }

    /// Goes by new settings from now on (SIGHUP). What was counted stays; windows that are open end
    /// as if they had begun with the new length.
    pub fn reconfigure(&mut self, settings: &config::Audit, hint: Hint) {
        self.window = settings.window;
        self.tells_lookups = settings.lookups;
        self.hint = hint;
        let rows = self.table.sources.iter().flat_map(|s| &s.rows);
        let due = rows.filter(|r| r.untold > 0).map(|r| self.row_due(r));
        self.rows_due = due.min();
    }

    /// Takes one outcome. A reason makes it an event: `would_refuse` where it was answered, `refused`
    /// everywhere else. The caller leaves out a connection that asked nothing (closed, timed out) if
    /// its peer may ask (`Rules::may_ask`): a health check is no event.
    pub fn record(
        &mut self,
        now: Duration,
        outcome: &Outcome<'_>,
        tell: &mut impl FnMut(Event),
    ) {
        // The caller's timer may be late under load; windows end in time all the same.
        if self.next_due().is_some_and(|due| due <= now) {
            self.due(now, tell);
        }
        match (outcome.reason, outcome.verdict) {
            (Some(reason), Verdict::Answered | Verdict::Unknown) => {
                self.refusal(now, Kind::WouldRefuse, reason, outcome, tell);
            }
            (Some(reason), Verdict::Refused | Verdict::Failed | Verdict::Taken) => {
                self.refusal(now, Kind::Refused, reason, outcome, tell);
            }
            (None, Verdict::Answered | Verdict::Unknown)
                if self.tells_lookups && outcome.operation == Operation::Lookup =>
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
                self.tell_more_lookups(tell);
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
                    tell(row_event(row, source.address, now, &self.hint));
                }
                self.beyond.add(row);
                row.untold = 0;
            }
        }
        for kind in [Kind::Refused, Kind::WouldRefuse] {
            if let Some(event) = self.beyond.overflow(kind) {
                tell(event);
            }
        }
        self.tell_more_lookups(tell);
        self.rows_due = None;
        self.overflow_due = None;
        self.lookups_due = None;
    }

    /// What is remembered, the most recent first.
    pub fn tracked(&self) -> impl Iterator<Item = Tracked> {
        let sources = self.table.sources.iter();
        let mut all: Vec<_> = sources
            .flat_map(|s| s.rows.iter().map(|r| (s.address, r)))
            .collect();
        all.sort_by_key(|(_, row)| std::cmp::Reverse(row.last));
        all.into_iter().map(|(source, row)| Tracked {
            source,
            kind: row.kind,
            operation: row.operation,
            reason: row.reason,
            node: row.name().map(escape_name),
            first: row.first,
            last: row.last,
            count: row.total,
        })
    }

    fn refusal(
        &mut self,
        now: Duration,
        kind: Kind,
        reason: Reason,
        outcome: &Outcome<'_>,
        tell: &mut impl FnMut(Event),
    ) {
        let beyond = &mut self.beyond;
        let gone = |row: &Row| beyond.add(row);
        let Some(row) = self.table.row(now, kind, reason, outcome, gone) else {
            return;
        };
        row.count(now, outcome);
        // With more than one untold, the row waits for its window or for budget already.
        if row.untold == 1 {
            let ends = row.told_at.map(|at| at.saturating_add(self.window));
            let due = match ends {
                Some(ends) if now < ends => Some(ends),
                _ => {
                    row.told_at = None;
                    let address = outcome.ends.peer.ip().to_canonical();
                    if self.budget.take(now) {
                        tell(row_event(row, address, now, &self.hint));
                        None
                    } else {
                        Some(Budget::renewed(now))
                    }
                }
            };
            self.rows_due = earlier(self.rows_due, due);
        }
        if self.overflow_due.is_none() && self.beyond.has_refusals() {
            self.overflow_due = Some(now.saturating_add(self.window));
        }
    }

    fn lookup(&mut self, now: Duration, outcome: &Outcome<'_>, tell: &mut impl FnMut(Event)) {
        if !self.lookup_budget.take(now) {
            self.beyond.lookups = self.beyond.lookups.saturating_add(1);
            let due = now.saturating_add(self.window);
            self.lookups_due.get_or_insert(due);
            return;
        }
        let peer = outcome.ends.peer.ip().to_canonical();
        let node = outcome.node.map(escape_name);
        let name = node.as_deref().map_or(Name::None, Name::One);
        let registered = outcome.verdict == Verdict::Answered;
        tell(Event {
            kind: Kind::Lookup,
            operation: Some(Operation::Lookup),
            peer: Some((peer, outcome.ends.peer.port())),
            local: Some(outcome.ends.local.ip().to_canonical()),
            reason: None,
            repeats: 0,
            message: message::lookup(name, peer, registered),
            node,
        });
    }

    /// Tells rows that are due; when to come again. All rows are looked through, which costs some
    /// 10 us and happens at most once for each line told and once a second: cheaper than keeping
    /// them in order at each refusal.
    fn tell_rows(&mut self, now: Duration, tell: &mut impl FnMut(Event)) -> Option<Duration> {
        let mut next = None;
        let middle = self.begin.min(self.table.sources.len());
        let (before, after) = self.table.sources.split_at_mut(middle);
        let after = after.iter_mut().zip(middle..);
        for (source, place) in after.chain(before.iter_mut().zip(0..)) {
            for row in source.rows.iter_mut().filter(|r| r.untold > 0) {
                let due = row.told_at.map_or(Duration::ZERO, |at| at.saturating_add(self.window));
                if due <= now {
                    if !self.budget.take(now) {
                        // Nothing can be told before then, so nothing else needs to be looked at.
                        self.begin = place;
                        return Some(Budget::renewed(now));
                    }
                    tell(row_event(row, source.address, now, &self.hint));
                }
                if row.untold > 0 {
                    let due = row.told_at.map_or(Duration::ZERO, |at| at.saturating_add(self.window));
                    next = earlier(next, Some(due));
                }
            }
        }
        next
    }

    fn tell_overflow(&mut self, now: Duration, tell: &mut impl FnMut(Event)) -> Option<Duration> {
        for kind in [Kind::Refused, Kind::WouldRefuse] {
            if self.beyond.count(kind) > 0 {
                if !self.budget.take(now) {
                    return Some(Budget::renewed(now));
                }
                self.beyond.overflow(kind).into_iter().for_each(&mut *tell);
            }
        }
        None
    }

    fn tell_more_lookups(&mut self, tell: &mut impl FnMut(Event)) {
        let repeats = std::mem::take(&mut self.beyond.lookups);
        if repeats > 0 {
            tell(Event {
                operation: Some(Operation::Lookup),
                ..sum_of_many(Kind::Lookup, repeats, message::more_lookups(repeats))
            });
        }
    }

    /// When this row, which has something untold, has to be told.
    fn row_due(&self, row: &Row) -> Duration {
        let ends = |at: Duration| at.saturating_add(self.window);
        row.told_at.map_or(Duration::ZERO, ends)
    }
}

impl Uncounted {
    fn add(&mut self, row: &Row) {
        let count = match row.kind {
            Kind::Refused => &mut self.refused,
            Kind::WouldRefuse => &mut self.would_refuse,
            Kind::Lookup => &mut self.lookups,
        };
        *count = count.saturating_add(row.untold);
    }

    fn count(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Refused => self.refused,
            Kind::WouldRefuse => self.would_refuse,
            Kind::Lookup => self.lookups,
        }
    }

    fn has_refusals(&self) -> bool {
        self.refused > 0 || self.would_refuse > 0
    }

    /// The line for what fell out of the table, if anything did; it counts as told then.
    fn overflow(&mut self, kind: Kind) -> Option<Event> {
        todo!()
    }
}

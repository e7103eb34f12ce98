//! The sources that were refused, and what is known of each: bounded memory, whatever strangers send.
//!
//! At most [`SOURCES`] addresses, each with one [`Row`] for a (kind, operation, reason). When the table
//! is full, a clock hand finds who goes: a source that came back since the hand last passed stays
//! once more, so that a flood of addresses that each come once does not push out the one that keeps
//! asking. The hash is seeded at random. Decides nothing about telling; called by `audit` only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::Kind;
use crate::core::outcome::{Operation, Outcome, Reason, Setting};

/// Sources tracked at once.
pub(super) const SOURCES: usize = 1024;

/// So much of a name is kept: enough for the 255 characters that are told of it, and one byte more, so
/// that it is seen that there was more.
const NAME_KEPT: usize = 4 * 255 + 1;

/// What one source was refused for one reason.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) operation: Operation,
    pub(super) reason: Reason,
    /// Of the latest.
    pub(super) setting: Option<Setting>,
    /// Not all that is untold was decided by the same setting.
    pub(super) settings_differ: bool,
    /// Of the latest, in `name`.
    has_name: bool,
    name: Vec<u8>,
    /// Not all that is untold asked for the same name.
    pub(super) names_differ: bool,
    /// Of the latest.
    pub(super) port: u16,
    /// Of the latest.
    pub(super) local: IpAddr,
    pub(super) first: Duration,
    pub(super) last: Duration,
    pub(super) total: u64,
    /// Counted since the last line, and not told yet.
    pub(super) untold: u64,
    /// When the last line was told, which is where the window began; `None` where a first one still
    /// waits to be told.
    pub(super) told_at: Option<Duration>,
}

impl Row {
    fn new(kind: Kind, operation: Operation, reason: Reason, local: IpAddr, now: Duration) -> Self {
        Self {
            kind,
            operation,
            reason,
            setting: None,
            settings_differ: false,
            has_name: false,
            name: Vec::new(),
            names_differ: false,
            port: 0,
            local,
            first: now,
            last: now,
            total: 0,
            untold: 0,
            told_at: None,
        }
    }

    /// The name that was asked for last.
    pub(super) fn name(&self) -> Option<&[u8]> {
        self.has_name.then_some(&self.name)
    }

    /// Counts one refusal. Allocates only where a name is longer than all before it.
    pub(super) fn count(&mut self, now: Duration, outcome: &Outcome<'_>) {
        let node = outcome.node.map(|n| n.get(..NAME_KEPT).unwrap_or(n));
        let same_name = self.name() == node;
        let same_setting = self.setting == outcome.setting;
        let begins = self.untold == 0;
        self.names_differ = !begins && (self.names_differ || !same_name);
        self.settings_differ = !begins && (self.settings_differ || !same_setting);
        if !same_name {
            self.has_name = node.is_some();
            self.name.clear();
            self.name.extend_from_slice(node.unwrap_or_default());
        }
        self.setting = outcome.setting;
        self.port = outcome.ends.peer().port();
        self.local = outcome.ends.local().ip();
        self.last = now;
        self.total = self.total.saturating_add(1);
        self.untold = self.untold.saturating_add(1);
    }

    /// When what is untold has to be told: at the end of the window, or at once where it begins none.
    pub(super) fn due(&self, window: Duration) -> Duration {
        self.told_at
            .map_or(Duration::ZERO, |at| at.saturating_add(window))
    }

    /// Takes what the next line stands for, and begins a window at it: `None` is a first refusal, told
    /// by itself even when it had to wait for budget and others have come since; else how many
    /// repeats, in how long a time.
    pub(super) fn take(&mut self, now: Duration) -> Option<(u64, Duration)> {
        let Some(told_at) = self.told_at.replace(now) else {
            self.untold = self.untold.saturating_sub(1);
            return None;
        };
        let repeats = std::mem::take(&mut self.untold);
        Some((repeats, now.saturating_sub(told_at)))
    }
}

/// How many refusals fell out of the table before they were told.
#[derive(Debug, Default)]
pub(super) struct Beyond {
    refused: u64,
    would_refuse: u64,
}

impl Beyond {
    /// What is counted apart.
    pub(super) const KINDS: [Kind; 2] = [Kind::Refused, Kind::WouldRefuse];

    /// Adds what a row has untold.
    pub(super) fn add(&mut self, row: &Row) {
        let count = self.place(row.kind);
        *count = count.saturating_add(row.untold);
    }

    /// Takes out what is counted of one kind.
    pub(super) fn take(&mut self, kind: Kind) -> u64 {
        std::mem::take(self.place(kind))
    }

    /// How many are counted of one kind.
    pub(super) fn count(&self, kind: Kind) -> u64 {
        match kind {
            Kind::WouldRefuse => self.would_refuse,
            _ => self.refused,
        }
    }

    fn place(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::WouldRefuse => &mut self.would_refuse,
            _ => &mut self.refused,
        }
    }
}

/// One address, and what it was refused.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) address: IpAddr,
    /// It came back since the clock hand last passed.
    came_back: bool,
    pub(super) rows: Vec<Row>,
}

/// All sources that are tracked.
#[derive(Debug)]
pub(super) struct Table {
    places: HashMap<IpAddr, usize>,
    pub(super) sources: Vec<Source>,
    hand: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            places: HashMap::new(),
            sources: Vec::new(),
            hand: 0,
        }
    }

    /// The row for this refusal, made where there is none. What a source that has to go for it had
    /// untold is added to `beyond`.
    pub(super) fn row(
        &mut self,
        now: Duration,
        kind: Kind,
        reason: Reason,
        outcome: &Outcome<'_>,
        beyond: &mut Beyond,
    ) -> Option<&mut Row> {
        let address = outcome.ends.peer().ip();
        let place = if let Some(&place) = self.places.get(&address) {
            if let Some(source) = self.sources.get_mut(place) {
                source.came_back = true;
            }
            place
        } else {
            let place = self.make_room(address, beyond);
            self.places.insert(address, place);
            place
        };
        let rows = &mut self.sources.get_mut(place)?.rows;
        let operation = outcome.operation;
        let is_it = |r: &Row| r.operation == operation && r.reason == reason && r.kind == kind;
        let at = if let Some(at) = rows.iter().position(is_it) {
            at
        } else {
            let local = outcome.ends.local().ip();
            rows.push(Row::new(kind, operation, reason, local, now));
            rows.len() - 1
        };
        rows.get_mut(at)
    }

    /// A place for `address`: a new one, or that of a source that goes.
    fn make_room(&mut self, address: IpAddr, beyond: &mut Beyond) -> usize {
        if self.sources.len() < SOURCES {
            self.sources.push(Source {
                address,
                came_back: false,
                rows: Vec::new(),
            });
            return self.sources.len() - 1;
        }
        // Ends within one round: what it passes has lost its second chance by then.
        loop {
            let place = self.hand;
            self.hand = (place + 1) % SOURCES;
            let Some(source) = self.sources.get_mut(place) else {
                return place; // there are SOURCES of them
            };
            if source.came_back {
                source.came_back = false;
                continue;
            }
            self.places.remove(&source.address);
            source.rows.iter().for_each(|row| beyond.add(row));
            source.rows.clear();
            source.address = address;
            return place;
        }
    }
}

//! The sources that were refused, and what is known of each: bounded memory, whatever strangers send.
//!
//! At most [`SOURCES`] sources (`slots` says what one is), each with one [`Row`] for an (address, user of
//! this host, kind, operation, reason), of which the addresses of one IPv6 /64, or the users of this host,
//! have [`ROWS`] together; what comes beyond is counted for all of them, a row for each (kind, operation,
//! reason). When the table is full, the [`Site`] that has most sources loses one, so that who has many
//! addresses pushes out its own; of as many, the one whose turn it is. A source that came back since its
//! turn stays once more, so that a flood of addresses that each come once does not push out the one that
//! keeps asking. The hash is seeded at random. Decides nothing about telling; called by `audit` only.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::event::Kind;
use crate::core::outcome::{Operation, Outcome, Reason, Setting};
use crate::core::slots::Source;

/// Sources tracked at once.
pub(super) const SOURCES: usize = 1024;

/// So much of a name is kept: enough for the 255 characters that are told of it, and one byte more, so
/// that it is seen that there was more.
const NAME_KEPT: usize = 4 * 255 + 1;
/// So many rows of a source are one address's own.
const ROWS: usize = 32;
/// So many names that are taken are told one by one of a source within a window.
const TAKEN_NAMES: usize = 32;

/// What one source was refused for one reason, or a name that it found taken.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) operation: Operation,
    /// Absent where a name is taken.
    pub(super) reason: Option<Reason>,
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
    pub(super) peer: IpAddr,
    /// It stands for all addresses of the source, and users, that have no row of their own.
    shared: bool,
    /// Not all that is untold came from the same address of the source.
    pub(super) peers_differ: bool,
    /// Not all that was ever counted here did.
    pub(super) peers_ever_differed: bool,
    /// Which user of this host it was, where that is known; of the latest.
    pub(super) uid: Option<u32>,
    /// Not all that is untold came from the same user.
    pub(super) users_differ: bool,
    /// Since when the name is taken, of the latest; in milliseconds since 1970 UTC.
    pub(super) since: Option<u64>,
    /// Whose the name is, of the latest.
    pub(super) holder: Option<u32>,
    /// Of the latest.
    pub(super) port: u16,
    /// Of the latest.
    pub(super) local: IpAddr,
    /// The port that all that is untold came to; `None` where that are several.
    pub(super) local_port: Option<u16>,
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
    fn new((kind, reason): (Kind, Option<Reason>), outcome: &Outcome<'_>, now: Duration) -> Self {
        Self {
            kind,
            operation: outcome.operation,
            reason,
            setting: None,
            settings_differ: false,
            has_name: false,
            name: Vec::new(),
            names_differ: false,
            peer: outcome.ends.peer().ip(),
            shared: false,
            peers_differ: false,
            peers_ever_differed: false,
            uid: outcome.ends.uid(),
            users_differ: false,
            since: None,
            holder: None,
            port: 0,
            local: outcome.ends.local().ip(),
            local_port: None,
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

    /// Counts so many refusals. Allocates only where a name is longer than all before it.
    pub(super) fn count(&mut self, now: Duration, outcome: &Outcome<'_>, times: u64) {
        let node = outcome.node.map(kept);
        let peer = outcome.ends.peer().ip();
        let same_peer = self.peer == peer;
        let same_name = self.name() == node;
        let same_setting = self.setting == outcome.setting;
        let same_user = self.uid == outcome.ends.uid();
        let begins = self.untold == 0;
        let local_port = Some(outcome.ends.local().port());
        self.names_differ = !begins && (self.names_differ || !same_name);
        self.settings_differ = !begins && (self.settings_differ || !same_setting);
        self.peers_differ = !begins && (self.peers_differ || !same_peer);
        self.peers_ever_differed |= !same_peer;
        self.users_differ = !begins && (self.users_differ || !same_user);
        let same_port = begins || self.local_port == local_port;
        self.local_port = local_port.filter(|_| same_port);
        self.peer = peer;
        self.uid = outcome.ends.uid();
        self.since = outcome.since;
        self.holder = outcome.holder;
        if !same_name {
            self.has_name = node.is_some();
            self.name.clear();
            self.name.extend_from_slice(node.unwrap_or_default());
        }
        self.setting = outcome.setting;
        self.port = outcome.ends.peer().port();
        self.local = outcome.ends.local().ip();
        self.last = now;
        self.total = self.total.saturating_add(times);
        self.untold = self.untold.saturating_add(times);
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
    taken: u64,
}

impl Beyond {
    /// What is counted apart.
    pub(super) const KINDS: [Kind; 3] = [Kind::Refused, Kind::WouldRefuse, Kind::Taken];

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
            Kind::Taken => self.taken,
            _ => self.refused,
        }
    }

    fn place(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::WouldRefuse => &mut self.would_refuse,
            Kind::Taken => &mut self.taken,
            _ => &mut self.refused,
        }
    }
}

/// A part of the net out of which its owner can take many sources: an IPv4 address, or an IPv6 /48, which
/// holds 65,536 sources and is what a customer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Site(IpAddr);

impl Site {
    /// The site of a canonical address.
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self(address),
            IpAddr::V6(a) => Self(IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() >> 80 << 80))),
        }
    }
}

/// One source, and what it was refused.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) source: Source,
    pub(super) site: Site,
    /// It came back since its turn to go.
    came_back: bool,
    /// A line was told of it.
    pub(super) told: bool,
    pub(super) rows: Vec<Row>,
}

/// The sources of one site, in the order in which it is their turn to go.
#[derive(Debug)]
struct Members {
    places: VecDeque<usize>,
    /// When it changed last, in a count of changes.
    changed: u64,
}

/// All sources that are tracked.
#[derive(Debug, Default)]
pub(super) struct Table {
    places: HashMap<Source, usize>,
    pub(super) sources: Vec<Tracked>,
    sites: HashMap<Site, Members>,
    /// How many sources each site has, and which of as many has not changed for the longest time.
    sizes: BTreeSet<(usize, Reverse<u64>, Site)>,
    changes: u64,
}

impl Table {
    /// The row for this outcome, made where there is none, and whose it is. What a source that has to go
    /// for it had untold is added to `beyond`.
    pub(super) fn row(
        &mut self,
        now: Duration,
        window: Duration,
        what: (Kind, Option<Reason>),
        outcome: &Outcome<'_>,
        beyond: &mut Beyond,
    ) -> Option<(&mut Row, &mut bool, Site)> {
        let address = outcome.ends.peer().ip();
        let source = Source::of(address);
        let place = if let Some(&place) = self.places.get(&source) {
            if let Some(tracked) = self.sources.get_mut(place) {
                tracked.came_back = true;
            }
            place
        } else {
            let tracked = Tracked {
                source,
                site: Site::of(address),
                came_back: false,
                told: false,
                rows: Vec::new(),
            };
            let place = self.make_room(tracked, beyond);
            self.places.insert(source, place);
            place
        };
        let Tracked {
            site, told, rows, ..
        } = self.sources.get_mut(place)?;
        let at = place_of_row(rows, now, window, what, outcome);
        let at = at.unwrap_or_else(|| {
            let shared = rows.iter().filter(|r| !r.shared).count() >= ROWS;
            rows.push(Row {
                shared,
                ..Row::new(what, outcome, now)
            });
            rows.len() - 1
        });
        Some((rows.get_mut(at)?, told, *site))
    }

    /// Puts a new source into a place: a new one, or that of a source that goes.
    fn make_room(&mut self, newcomer: Tracked, beyond: &mut Beyond) -> usize {
        let site = newcomer.site;
        let place = if self.sources.len() < SOURCES {
            self.sources.push(newcomer);
            self.sources.len() - 1
        } else {
            let place = self.next_to_go();
            if let Some(tracked) = self.sources.get_mut(place) {
                let gone = std::mem::replace(tracked, newcomer);
                self.places.remove(&gone.source);
                gone.rows.iter().for_each(|row| beyond.add(row));
            }
            place
        };
        self.change(site, |places| places.push_back(place));
        place
    }

    /// Takes out the source that has to go: one of the site that has the most. Ends within one round:
    /// what it passes has lost its second chance by then.
    fn next_to_go(&mut self) -> usize {
        loop {
            let Some(&(_, _, site)) = self.sizes.last() else {
                return 0; // there are SOURCES of them
            };
            let mut first = 0;
            self.change(site, |places| {
                first = places.pop_front().unwrap_or_default()
            });
            match self.sources.get_mut(first).filter(|s| s.came_back) {
                Some(tracked) => {
                    tracked.came_back = false;
                    self.change(site, |places| places.push_back(first));
                }
                None => return first,
            }
        }
    }

    /// Changes a site's list, and what is known of its size.
    fn change(&mut self, site: Site, with: impl FnOnce(&mut VecDeque<usize>)) {
        self.changes += 1;
        let members = self.sites.entry(site).or_insert_with(|| Members {
            places: VecDeque::new(),
            changed: 0,
        });
        let before = (members.places.len(), Reverse(members.changed), site);
        self.sizes.remove(&before);
        with(&mut members.places);
        members.changed = self.changes;
        if members.places.is_empty() {
            self.sites.remove(&site);
        } else {
            let after = (members.places.len(), Reverse(members.changed), site);
            self.sizes.insert(after);
        }
    }
}

/// Which of a source's rows is this outcome's, if one is. A name that is taken has a row of its own, as far
/// as there are any: one that has nothing more to tell gives way, and then the last one is for all others.
fn place_of_row(
    rows: &mut [Row],
    now: Duration,
    window: Duration,
    (kind, reason): (Kind, Option<Reason>),
    outcome: &Outcome<'_>,
) -> Option<usize> {
    let is_alike =
        |r: &Row| r.operation == outcome.operation && r.reason == reason && r.kind == kind;
    let uid = outcome.ends.uid();
    if kind != Kind::Taken {
        let peer = outcome.ends.peer().ip();
        let own = |r: &Row| is_alike(r) && r.peer == peer && r.uid == uid && !r.shared;
        let shared = |r: &Row| is_alike(r) && r.shared;
        let at = rows.iter().position(own);
        return at.or_else(|| rows.iter().position(shared));
    }
    let node = outcome.node.map(kept);
    let own = |r: &Row| is_alike(r) && r.name() == node && r.uid == uid;
    if let Some(at) = rows.iter().position(own) {
        return Some(at);
    }
    let taken = rows.iter_mut().enumerate().filter(|(_, r)| is_alike(r));
    let over = |r: &Row| r.untold == 0 && r.due(window) <= now;
    let mut last = None;
    let mut count = 0;
    for (at, row) in taken {
        if over(row) {
            *row = Row::new((kind, reason), outcome, now);
            return Some(at);
        }
        count += 1;
        last = Some(at);
    }
    last.filter(|_| count >= TAKEN_NAMES)
}

/// So much of a name as is kept.
fn kept(name: &[u8]) -> &[u8] {
    name.get(..NAME_KEPT).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked(address: &str) -> Tracked {
        let address = address.parse().unwrap();
        Tracked {
            source: Source::of(address),
            site: Site::of(address),
            came_back: false,
            told: false,
            rows: Vec::new(),
        }
    }

    /// Whatever comes and goes, what is known of sizes is what there is.
    #[test]
    fn the_site_that_has_most_loses_one() {
        let mut table = Table::default();
        let mut beyond = Beyond::default();
        let mut enter = |table: &mut Table, address: &str| {
            let tracked = tracked(address);
            let source = tracked.source;
            let place = table.make_room(tracked, &mut beyond);
            table.places.insert(source, place);
        };
        for n in 0..100 {
            enter(&mut table, &format!("203.0.113.{n}"));
        }
        for n in 0..60_000 {
            enter(&mut table, &format!("2001:db8:1:{n:x}::1"));
        }
        for n in 0..SOURCES {
            enter(&mut table, &format!("2001:db8:2:{n:x}::1"));
        }
        let count = |site: &str| {
            let site = Site::of(site.parse().unwrap());
            table.sources.iter().filter(|s| s.site == site).count()
        };
        for n in 0..100 {
            assert_eq!(count(&format!("203.0.113.{n}")), 1);
        }
        let (one, other) = (count("2001:db8:1::"), count("2001:db8:2::"));
        assert_eq!(one + other, SOURCES - 100);
        assert!(one.abs_diff(other) <= 2, "{one} {other}");
        assert_eq!(
            (table.places.len(), table.sources.len()),
            (SOURCES, SOURCES)
        );
        assert_eq!((table.sites.len(), table.sizes.len()), (102, 102));
    }
}

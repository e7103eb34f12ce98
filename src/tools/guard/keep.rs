//! Keeping the table in step: what is heard and seen becomes a plan, and the plan what is in force.
//!
//! Rounds, each a look at what has changed and at most one change of the table; at least one a second, in
//! which what the kernel counted is read, and whether the table is still as it was left. What can't be done is
//! said once, and tried again. Called by `guard`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::check;
use super::facts::{self, Asking};
use super::follow::{self, Bell, Heard, Link};
use super::nft::{Failure, Found, Nft, Trouble};
use super::plan::{self, Facts, Kept, Place, Plan};
use super::recall;
use super::refused::{Counts, Tally};
use super::rules::{self, Family, TABLE, Table};
use super::tell::{self, Telling};
use crate::config::{Settings, Sources};
use crate::core::follow::{Access, Guard, Registration, Report};
use crate::core::lent::{Lent, Level};
use crate::core::status::rfc3339;

/// How often counts are read: far more often than the kernel forgets them.
const READ_EVERY: Duration = Duration::from_secs(1);
/// How often it is seen whether the rules are as they were left, at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often all of the table is compared with what it should be.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// Between two tries of what could not be done.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// What comes within this time is one change.
const TOGETHER: Duration = Duration::from_millis(2);
/// What is kept between rounds.
pub(super) struct Keeper<'a> {
    nft: Nft,
    sources: Sources,
    settings: Settings,
    lent: &'a dyn Lent<Settings>,
    telling: Telling,
    asking: Asking,
    /// What is in force, as far as it is known.
    applied: Option<Table>,
    /// The rules as nft listed them after the last change.
    seal: Vec<Value>,
    kept: BTreeMap<Place, Kept>,
    /// Names that places had, for what is counted and read later.
    names: BTreeMap<Place, String>,
    tally: Option<Tally>,
    guard: Guard,
    reported: Option<Guard>,
    /// What was said last of the daemon's absence.
    absent: Option<String>,
    next_read: Instant,
    next_look: Instant,
    next_check: Instant,
    not_before: Instant,
    /// Whether a table of before was looked at.
    recalled: bool,
    /// Whether the rules were ever in force by this guard.
    begun: bool,
}

impl<'a> Keeper<'a> {
    /// # Errors
    /// What keeps the guard from its work.
    pub(super) fn new(
        nft: Nft,
        sources: Sources,
        settings: Settings,
        lent: &'a dyn Lent<Settings>,
    ) -> Result<Self, Trouble> {
        let asking = Asking::new().map_err(|error| {
            format!(
                "can't ask the kernel whose sockets are whose (NETLINK_SOCK_DIAG): {error}; see what forbids it: \
                 RestrictAddressFamilies=, a seccomp filter, a missing module inet_diag"
            )
        })?;
        let now = Instant::now();
        Ok(Self {
            nft,
            sources,
            telling: Telling::new(&settings),
            settings,
            lent,
            asking,
            applied: None,
            seal: Vec::new(),
            kept: BTreeMap::new(),
            names: BTreeMap::new(),
            tally: None,
            guard: Guard::default(),
            reported: None,
            absent: None,
            next_read: now,
            next_look: now,
            next_check: now + CHECK_EVERY,
            not_before: now,
            recalled: false,
            begun: false,
        })
    }

    /// Keeps the table in step until a signal ends it, then takes it away.
    ///
    /// # Errors
    /// The rules can't be set at all, or not taken away.
    pub(super) fn run(&mut self, bell: &Bell) -> Result<(), Trouble> {
        let mut lists: Option<Arc<Access>> = None;
        loop {
            let until = self.next_read.max(self.not_before);
            let mut heard = bell.wait(until);
            if heard.end {
                drop(heard);
                return self.end();
            }
            let reload = std::mem::take(&mut heard.reload);
            let access = heard.access.clone();
            let link = heard.link.clone();
            let names: Vec<Registration> = heard.names.values().cloned().collect();
            drop::<std::sync::MutexGuard<'_, Heard>>(heard);
            if reload {
                self.reload();
            }
            self.say_how_the_daemon_is(&link);
            if self.next_read <= Instant::now() {
                self.read();
            }
            if let Some(access) = access
                && self.not_before <= Instant::now()
            {
                let begins = Instant::now();
                let changed = self.step(&names, &access, &link)?;
                if !lists
                    .as_ref()
                    .is_some_and(|known| Arc::ptr_eq(known, &access))
                {
                    self.telling.go_by(&access);
                    lists = Some(Arc::clone(&access));
                }
                // A storm of changes is to cost half of one core at most.
                let pause = if changed {
                    begins.elapsed().max(TOGETHER)
                } else {
                    TOGETHER
                };
                thread::sleep(pause.min(READ_EVERY));
            }
            self.report(&link);
        }
    }

    /// Reads the settings again.
    fn reload(&mut self) {
        self.lent.reloading();
        match self.sources.load() {
            Ok(settings) => {
                self.lent.follow(&settings);
                self.telling.reconfigure(&settings);
                self.settings = settings;
                self.lent
                    .note(Level::Info, "reloaded: [guard] and [audit]".to_owned());
            }
            Err(errors) => {
                self.lent.note(Level::Error, errors.to_string());
                let text = "not reloaded: what was in force before stays so";
                self.lent.note(Level::Error, text.to_owned());
            }
        }
        self.ready();
    }

    fn ready(&self) {
        let status = self.guard.to_string();
        self.lent.ready(&status);
    }

    fn say_how_the_daemon_is(&mut self, link: &Link) {
        match link {
            Link::Asking => {}
            Link::Up(_) => {
                if self.absent.take().is_some() {
                    self.lent
                        .note(Level::Info, "the daemon answers again".to_owned());
                }
            }
            Link::Down(why) => {
                if self.absent.is_none() {
                    let stays = match self.applied {
                        Some(_) => "; the rules stay as they are, and it is asked again",
                        None => {
                            "; nothing is guarded by this guard before it answers, and it is asked again"
                        }
                    };
                    self.lent.note(Level::Warning, format!("{why}{stays}"));
                    self.guard.in_step_since = None;
                    self.guard.trouble = Some(why.clone());
                    self.absent = Some(why.clone());
                    self.ready();
                }
            }
        }
    }

    /// One look at what should be, and what it takes; whether anything had to be done.
    ///
    /// # Errors
    /// It can't be done, and never could.
    fn step(
        &mut self,
        names: &[Registration],
        access: &Access,
        link: &Link,
    ) -> Result<bool, Trouble> {
        self.recall(access)?;
        let Plan {
            table,
            kept,
            left_alone,
        } = match self.plan(names, access) {
            Ok(plan) => plan,
            Err(why) => {
                self.in_trouble(why);
                return Ok(false);
            }
        };
        self.telling.left_alone(&left_alone, self.lent);
        self.guard.left_alone = left_alone;
        let changed = self.applied.as_ref() != Some(&table);
        if changed {
            if let Err(why) = self.apply(&table) {
                if !self.begun {
                    return Err(why);
                }
                self.in_trouble(why);
                return Ok(true);
            }
            self.applied = Some(table);
        }
        self.kept = kept;
        let names = self
            .kept
            .iter()
            .filter_map(|(place, kept)| Some((*place, kept.names.first()?.clone())));
        self.names.extend(names);
        if matches!(link, Link::Up(_)) && self.guard.in_step_since.is_none() {
            self.guard.in_step_since = Some(rfc3339(SystemTime::now()));
            self.guard.trouble = None;
            let ports: BTreeSet<_> = self.kept.keys().map(|place| place.port).collect();
            let summary = tell::summary(self.kept.len(), &ports);
            self.lent
                .note(Level::Info, format!("in step with the daemon: {summary}"));
            self.begun = true;
            self.ready();
        }
        Ok(changed)
    }

    /// Takes over what a guard before was guarding.
    ///
    /// # Errors
    /// nft can't be asked.
    fn recall(&mut self, access: &Access) -> Result<(), Trouble> {
        if !self.recalled {
            self.kept = match self.nft.look().map_err(|failure| failure.trouble())? {
                Found::Ours { .. } => {
                    let objects = self.nft.list_table().map_err(|failure| failure.trouble())?;
                    recall::recall(&objects, access)
                }
                Found::None | Found::Foreign => BTreeMap::new(),
            };
            self.recalled = true;
        }
        Ok(())
    }

    fn plan(&mut self, names: &[Registration], access: &Access) -> Result<Plan, Trouble> {
        let numbered = facts::sockets().map_err(|error| {
            format!("can't ask the kernel who listens (NETLINK_SOCK_DIAG): {error}")
        })?;
        let named = self.asking.named(names.iter());
        let others = self.asking.others(&self.settings.guard, &numbered, &named);
        let sockets: Vec<_> = numbered.into_iter().map(|(socket, _)| socket).collect();
        Ok(plan::plan(&Facts {
            names: &named,
            access,
            sockets: &sockets,
            ports: &self.settings.guard,
            epmd: &epmds_ports(&self.settings, names),
            others: &others,
            kept: &self.kept,
        }))
    }

    /// Puts a table in force.
    fn apply(&mut self, table: &Table) -> Result<(), Trouble> {
        match &self.applied {
            Some(before) => {
                for script in rules::changes(before, table) {
                    if let Err(why) = self.nft.apply(&script) {
                        // Whatever is there now is looked at before the next try.
                        self.applied = None;
                        return Err(why);
                    }
                }
            }
            None => self.adopt(table)?,
        }
        let structure = self
            .nft
            .list_structure()
            .map_err(|failure| failure.trouble())?;
        self.seal = sealed(&structure);
        Ok(())
    }

    /// Makes the table, or takes over one of the guard's own.
    fn adopt(&mut self, table: &Table) -> Result<(), Trouble> {
        let none = BTreeSet::new();
        match self.nft.look().map_err(|failure| failure.trouble())? {
            Found::Foreign => return Err(FOREIGN.to_owned()),
            Found::None => {
                self.nft.apply(&rules::adopting(table, &none, &none))?;
                self.tally = Some(Tally::default());
            }
            Found::Ours { sets, chains } => {
                let in_place = self.nft.apply(&rules::adopting(table, &sets, &chains));
                if let Err(why) = in_place {
                    // That of another version, whose sets are others.
                    self.nft.apply(&rules::replacing(table)).map_err(|_| why)?;
                    self.tally = Some(Tally::default());
                }
            }
        }
        if self.tally.is_none() {
            // What it holds was told by the guard before.
            let counts = self.nft.list_table().map_err(|failure| failure.trouble())?;
            self.tally = Some(Tally::begin(Counts::of(&counts)));
        }
        Ok(())
    }

    /// Reads what was counted, tells it, and sees whether the table is as it was left.
    fn read(&mut self) {
        let begin = Instant::now();
        self.next_read = begin + READ_EVERY;
        if self.lent.watchdog().is_some() {
            self.lent.alive();
        }
        if self.applied.is_none() {
            return;
        }
        let looks = self.next_look <= begin;
        let read = self.counted().and_then(|mut counted| {
            let structure = match looks {
                true => self.nft.list_structure()?,
                false => Vec::new(),
            };
            counted.extend(structure.iter().cloned());
            Ok((Counts::of(&counted), sealed(&structure)))
        });
        let (counts, seal) = match read {
            Ok(read) => read,
            Err(failure) if failure.is_missing() => {
                let what =
                    "the table inet hardened_epmd was gone, or a part of it (nft flush ruleset?)";
                self.mend(what);
                return;
            }
            Err(failure) => {
                self.in_trouble(failure.trouble());
                return;
            }
        };
        let full = counts.full;
        self.tell(counts);
        if full && !looks {
            self.next_look = self.next_look.min(Instant::now() + READ_EVERY * 2);
        }
        if looks {
            // All of a large table takes nft a while, which is to cost little of a core.
            self.next_look = Instant::now()
                + match full {
                    // What is beyond the sets is in the counter alone, which comes with it.
                    true => READ_EVERY * 2,
                    false => LOOK_EVERY.max(begin.elapsed() * 50),
                };
            if seal == self.seal {
                self.compare();
            } else {
                self.mend("somebody else has changed the rules of the table inet hardened_epmd");
            }
        }
    }

    /// The sets of who was turned away.
    fn counted(&self) -> Result<Vec<Value>, Failure> {
        let mut objects = self.nft.list_set("refused4")?;
        objects.extend(self.nft.list_set("refused6")?);
        Ok(objects)
    }

    fn tell(&mut self, counts: Counts) {
        let since = self.tally.get_or_insert_default().take(counts);
        let (kept, names) = (&self.kept, &self.names);
        let named = |to: SocketAddr| name_of(to, kept, names);
        self.telling.turned_away(&since, named, self.lent);
    }

    /// Compares all of the table with what it should be, from time to time.
    fn compare(&mut self) {
        let Some(applied) = self
            .applied
            .as_ref()
            .filter(|_| self.next_check <= Instant::now())
        else {
            return;
        };
        self.next_check = Instant::now() + CHECK_EVERY;
        if let Ok(differences) = compare(&self.nft, applied)
            && let Some(first) = differences.first()
        {
            let what = format!("somebody else has changed the table inet hardened_epmd ({first})");
            self.mend(&what);
        }
    }

    /// Has the table made or filled anew with the next step.
    fn mend(&mut self, what: &str) {
        self.lent
            .note(Level::Warning, format!("{what}: it is made anew"));
        self.applied = None;
        self.guard.in_step_since = None;
        self.guard.trouble = Some(what.to_owned());
    }

    fn in_trouble(&mut self, why: Trouble) {
        self.not_before = Instant::now() + TRY_AGAIN;
        self.guard.in_step_since = None;
        if self.guard.trouble.as_ref() != Some(&why) {
            self.lent.note(
                Level::Error,
                format!("the rules are not what they should be: {why}"),
            );
            self.guard.trouble = Some(why);
            self.ready();
        }
    }

    /// Tells the daemon how the guard is, where that is new.
    fn report(&mut self, link: &Link) {
        let Link::Up(daemon) = link else {
            self.reported = None;
            return;
        };
        if self.reported.as_ref() == Some(&self.guard) && self.telling.unreported.is_empty() {
            return;
        }
        let report = Report {
            guard: self.guard.clone(),
            refused: self.telling.unreported.clone(),
        };
        // What it does not take, the next one is told.
        if follow::report(daemon, &report).is_ok() {
            self.reported = Some(report.guard);
            self.telling.unreported.clear();
        }
    }

    /// Takes the table away.
    fn end(&mut self) -> Result<(), Trouble> {
        self.next_look = Instant::now();
        if self.applied.is_some() {
            self.read();
        }
        self.telling.close(self.lent);
        match self.nft.look() {
            Ok(Found::Ours { .. }) => self.nft.apply(&format!("delete table {TABLE}\n"))?,
            Ok(Found::None | Found::Foreign) => {}
            Err(failure) => return Err(failure.trouble()),
        }
        let text = "ended, and the table inet hardened_epmd is taken away: the nodes' ports are as open as before";
        self.lent.note(Level::Info, text.to_owned());
        Ok(())
    }
}

/// What is said of a table that is not the guard's.
pub(super) const FOREIGN: &str = "there is a table inet hardened_epmd that the guard has not made, and it is left as it is; \
                                  see it: nft list table inet hardened_epmd; and take it away, if it is not needed: \
                                  nft delete table inet hardened_epmd";

/// The ports of epmd itself, as far as they are known.
pub(super) fn epmds_ports(settings: &Settings, names: &[Registration]) -> BTreeSet<u16> {
    let connections = names.iter().filter_map(|name| name.connection);
    connections
        .map(|c| c.epmd.port())
        .chain([settings.port])
        .collect()
}

/// The differences between what is in force and what should be.
///
/// # Errors
/// There is no such table, or nft can't be asked.
pub(super) fn compare(nft: &Nft, table: &Table) -> Result<Vec<String>, Failure> {
    Ok(check::differences(
        table,
        &nft.list_rules()?,
        &nft.list_table()?,
    ))
}

/// The rules among these objects, without their numbers.
fn sealed(objects: &[Value]) -> Vec<Value> {
    let rules = objects.iter().filter_map(|object| object.get("rule"));
    let without = |rule: &Value| {
        let mut rule = rule.clone();
        if let Some(rule) = rule.as_object_mut() {
            rule.remove("handle");
        }
        rule
    };
    rules.map(without).collect()
}

/// The name that is registered with where a connection came to, or was until lately.
fn name_of(
    to: SocketAddr,
    kept: &BTreeMap<Place, Kept>,
    names: &BTreeMap<Place, String>,
) -> Option<String> {
    let family = match to.is_ipv4() {
        true => Family::V4,
        false => Family::V6,
    };
    let place = |address| Place {
        family,
        address,
        port: to.port(),
    };
    let places = [place(Some(to.ip())), place(None)];
    let now = places
        .iter()
        .find_map(|place| kept.get(place)?.names.first());
    let before = || places.iter().find_map(|place| names.get(place));
    now.or_else(before).cloned()
}

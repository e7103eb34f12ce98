//! What the guard says: who was turned away, in the audit's lines, and how it is itself.
//!
//! The lines are the daemon's own, by the same audit: the first of a source at once, repeats at the end of the
//! window, a budget for each second. What is said of ports that are left alone has a budget as well, since any
//! user of this host can register names. Called by `keep`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use super::plan::networks;
use super::refused::Since;
use crate::config::Settings;
use crate::core::access::{Decision, Networks, Rules};
use crate::core::audit::{Audit, Kind, escape_name, more_connections};
use crate::core::follow::{Access, LeftAlone};
use crate::core::lent::{Lent, Level};
use crate::core::outcome::{Ends, Operation, Outcome, Reason, Verdict};
use crate::core::slots::Source;

/// In so long a time so many ports are told of that are left alone; the rest is counted.
const WINDOW: Duration = Duration::from_secs(60);
const IN_A_WINDOW: usize = 10;
/// So many sources are told one by one in that time: two lines each at most, and one for all others.
const SOURCES: usize = 40;

/// Says it.
#[derive(Debug)]
pub(super) struct Telling {
    audit: Audit,
    started: Instant,
    /// By whom connections are decided: as lookups are.
    rules: Rules,
    /// What was turned away and the daemon was not told of yet, by reason.
    pub(super) unreported: BTreeMap<String, u64>,
    left_alone: Said,
    window: Window,
}

/// Who is told one by one.
#[derive(Debug)]
struct Window {
    since: Instant,
    sources: HashSet<Source>,
    /// Untold, of all others.
    beyond: u64,
}

/// What was said of ports that are left alone.
#[derive(Debug)]
struct Said {
    since: Instant,
    told: usize,
    more: usize,
    all: HashSet<(u16, Option<String>)>,
}

impl Telling {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            audit: Audit::new(settings.audit_policy()).started_at(SystemTime::now()),
            started: Instant::now(),
            rules: Rules::default(),
            unreported: BTreeMap::new(),
            left_alone: Said {
                since: Instant::now(),
                told: 0,
                more: 0,
                all: HashSet::new(),
            },
            window: Window {
                since: Instant::now(),
                sources: HashSet::new(),
                beyond: 0,
            },
        }
    }

    pub(super) fn reconfigure(&mut self, settings: &Settings) {
        self.audit.reconfigure(settings.audit_policy());
    }

    /// Goes by these lists from now on.
    pub(super) fn go_by(&mut self, access: &Access) {
        let list = |written: &[String]| networks(written).into_iter().collect::<Networks>();
        let nodes = access
            .nodes
            .iter()
            .map(|(name, nets)| (name.as_bytes().into(), list(nets)));
        self.rules = Rules {
            allow: list(&access.allow),
            deny: list(&access.deny),
            nodes: nodes.collect(),
            enforce: access.enforce,
            ..Rules::default()
        };
    }

    /// Tells who came since; `named` says which name is registered with a place.
    pub(super) fn turned_away(
        &mut self,
        since: &Since,
        named: impl Fn(SocketAddr) -> Option<String>,
        lent: &dyn Lent<Settings>,
    ) {
        let now = self.started.elapsed();
        let enforce = self.rules.enforce;
        if self.window.since.elapsed() >= WINDOW {
            self.tell_beyond(lent);
        }
        self.window.beyond = self.window.beyond.saturating_add(since.beyond);
        self.count(Reason::NotAllowed, since.beyond);
        for ((source, to), count) in &since.ways {
            let node = named(*to);
            let node = node.as_deref().map(str::as_bytes);
            // From which port is not counted.
            let ends = Ends::new(SocketAddr::new(*source, 0), *to).of_a_stranger();
            let reason = match self.rules.decide(&ends, Operation::Connect, node) {
                Decision::Refuse(reason) | Decision::WouldRefuse(reason) => reason,
                // The lists have changed since.
                Decision::Admit => Reason::NotAllowed,
            };
            let setting = (reason == Reason::NotAllowed)
                .then(|| self.rules.setting(Operation::Connect, node))
                .flatten();
            let outcome = Outcome {
                ends,
                operation: Operation::Connect,
                node,
                verdict: if enforce {
                    Verdict::Refused
                } else {
                    Verdict::Answered
                },
                reason: Some(reason),
                setting,
                since: None,
                holder: None,
            };
            self.count(reason, *count);
            let of = Source::of(*source);
            if self.window.sources.len() < SOURCES || self.window.sources.contains(&of) {
                self.window.sources.insert(of);
                let tell = &mut |event| lent.refused(event);
                self.audit.record_times(now, &outcome, *count, tell);
            } else {
                self.window.beyond = self.window.beyond.saturating_add(*count);
            }
        }
        self.audit.due(now, &mut |event| lent.refused(event));
    }

    /// Tells how many came from sources that are not told one by one, and begins anew.
    fn tell_beyond(&mut self, lent: &dyn Lent<Settings>) {
        let count = std::mem::take(&mut self.window.beyond);
        if count > 0 {
            let kind = match self.rules.enforce {
                true => Kind::Refused,
                false => Kind::WouldRefuse,
            };
            lent.refused(more_connections(kind, count, SOURCES));
        }
        self.window.sources.clear();
        self.window.since = Instant::now();
    }

    fn count(&mut self, reason: Reason, count: u64) {
        if self.rules.enforce && count > 0 {
            let counted = self.unreported.entry(reason.name().to_owned()).or_default();
            *counted = counted.saturating_add(count);
        }
    }

    /// Tells of ports that are left alone, each once.
    pub(super) fn left_alone(&mut self, all: &[LeftAlone], lent: &dyn Lent<Settings>) {
        let said = &mut self.left_alone;
        let now: HashSet<_> = all.iter().map(|l| (l.port, l.node.clone())).collect();
        said.all.retain(|known| now.contains(known));
        if said.since.elapsed() >= WINDOW {
            if said.more > 0 {
                let text = format!(
                    "{} more ports were left alone, all told: epmd -status -json",
                    said.more
                );
                lent.note(Level::Warning, text);
            }
            (said.since, said.told, said.more) = (Instant::now(), 0, 0);
        }
        for left in all {
            if !said.all.insert((left.port, left.node.clone())) {
                continue;
            }
            if said.told >= IN_A_WINDOW {
                said.more += 1;
                continue;
            }
            said.told += 1;
            lent.note(Level::Warning, not_guarded(left));
        }
    }

    /// Tells what is untold: the guard ends.
    pub(super) fn close(&mut self, lent: &dyn Lent<Settings>) {
        let now = self.started.elapsed();
        self.audit.flush(now, &mut |event| lent.refused(event));
        self.tell_beyond(lent);
    }
}

/// What is said of a port that is left alone.
pub(super) fn not_guarded(left: &LeftAlone) -> String {
    let LeftAlone { port, node, why } = left;
    match node {
        Some(name) => {
            let name = escape_name(name.as_bytes());
            format!("port {port}, with which \"{name}\" is registered, is not guarded: {why}")
        }
        None => format!("port {port} of [guard] ports is refused, and not guarded: {why}"),
    }
}

/// Ports as they are told, few of them: of how many sockets, and which.
pub(super) fn summary(places: usize, ports: &BTreeSet<u16>) -> String {
    const MOST: usize = 10;
    if ports.is_empty() {
        return "no node listens where other hosts reach it".to_owned();
    }
    let mut shown: Vec<_> = ports.iter().take(MOST).map(ToString::to_string).collect();
    if ports.len() > MOST {
        shown.push(format!("{} more", ports.len() - MOST));
    }
    let plural = if places == 1 { "" } else { "s" };
    format!(
        "{places} socket{plural} of nodes guarded, port {}",
        shown.join(", ")
    )
}

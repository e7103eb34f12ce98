//! Who may stay while its request has not come or its answer has not been read: the budget of open
//! connections.
//!
//! When all are open, or one source's share is, a newcomer is let in and the oldest connection that
//! has not sent its request makes room for it; only where there is none is the newcomer refused. So
//! connections that never send anything lock nobody out. Registrations have no part in this. Knows
//! numbers and addresses, no sockets; each step costs a step in a small ordered set, whatever the
//! number of connections. Called by `server`.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::core::outcome::Setting;

/// Which connection; later ones are larger.
pub type Id = u64;

/// What shares one share: an IPv4 address, or an IPv6 /64, which is what one customer or host gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// The source of a canonical address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self(address),
            IpAddr::V6(a) => {
                let network = a.to_bits() >> 64 << 64;
                Self(IpAddr::V6(Ipv6Addr::from_bits(network)))
            }
        }
    }
}

impl fmt::Display for Source {
    /// The address, or the network with its length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

/// Whether a newcomer may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It may.
    Free(Id),
    /// It may, and another connection is to be closed for it.
    InPlaceOf {
        /// The newcomer.
        id: Id,
        /// Who makes room.
        out: Id,
        /// The limit that is reached.
        limit: Setting,
    },
    /// It may not: this limit is reached, and nobody can make room.
    Full(Setting),
}

/// An open connection's place in an order in which the first is the one to make room: those whose
/// request has not come before the others, older ones before younger ones.
type Place = (bool, Id);

#[derive(Debug)]
struct Open {
    /// `None` is this host.
    source: Option<Source>,
    /// Its request has come; its answer is being read.
    answering: bool,
}

/// The connections that are open, registrations apart.
#[derive(Debug)]
pub struct Slots {
    connections: usize,
    per_source: usize,
    next: Id,
    open: HashMap<Id, Open>,
    this_host: BTreeSet<Place>,
    strangers: BTreeSet<Place>,
    sources: HashMap<Source, BTreeSet<Place>>,
}

impl Slots {
    /// At most `connections` at once, and `per_source` of them from one source.
    #[must_use]
    pub fn new(connections: usize, per_source: usize) -> Self {
        Self {
            connections,
            per_source,
            next: 0,
            open: HashMap::new(),
            this_host: BTreeSet::new(),
            strangers: BTreeSet::new(),
            sources: HashMap::new(),
        }
    }

    /// New limits, for newcomers: who is in stays.
    pub fn set_limits(&mut self, connections: usize, per_source: usize) {
        self.connections = connections;
        self.per_source = per_source;
    }

    /// How many connections are open.
    #[must_use]
    pub fn used(&self) -> usize {
        self.open.len()
    }

    /// How many may be.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.connections
    }

    /// The limit that is reached for a newcomer, so that another connection would have to make room for
    /// it; `None` where there is a place for it.
    #[must_use]
    pub fn reached(&self, source: Option<Source>) -> Option<Setting> {
        let share = source.and_then(|s| self.sources.get(&s));
        if share.is_some_and(|s| s.len() >= self.per_source) {
            Some(Setting::PerSource)
        } else if self.open.len() >= self.connections {
            Some(Setting::Connections)
        } else {
            None
        }
    }

    /// A connection is to stay. `source` is `None` for this host, which has no share to exceed and
    /// for which strangers always make room.
    pub fn enter(&mut self, source: Option<Source>) -> Entry {
        let waiting =
            |set: &BTreeSet<Place>| set.first().filter(|(answering, _)| !answering).copied();
        let out = match self.reached(source) {
            None => None,
            Some(limit) => {
                let place = if limit == Setting::PerSource {
                    let share = source.and_then(|s| self.sources.get(&s));
                    share.and_then(waiting)
                } else {
                    waiting(&self.strangers).or_else(|| match source {
                        Some(_) => None,
                        None => {
                            let anybody = self.strangers.first().copied();
                            anybody.or_else(|| waiting(&self.this_host))
                        }
                    })
                };
                match place {
                    Some((_, out)) => Some((out, limit)),
                    None => return Entry::Full(limit),
                }
            }
        };
        if let Some((out, _)) = out {
            self.leave(out);
        }
        let id = self.next;
        self.next += 1;
        self.open.insert(
            id,
            Open {
                source,
                answering: false,
            },
        );
        self.place(source, (false, id));
        match out {
            None => Entry::Free(id),
            Some((out, limit)) => Entry::InPlaceOf { id, out, limit },
        }
    }

    /// The connection's request has come: only a node of this host may now push it out.
    pub fn answering(&mut self, id: Id) {
        if let Some(open) = self.open.get_mut(&id).filter(|open| !open.answering) {
            open.answering = true;
            let source = open.source;
            self.displace(source, (false, id));
            self.place(source, (true, id));
        }
    }

    /// The connection is closed or has become a registration. One that had to make room has left
    /// already; that it leaves once more does nothing.
    pub fn leave(&mut self, id: Id) {
        if let Some(open) = self.open.remove(&id) {
            self.displace(open.source, (open.answering, id));
        }
    }

    fn place(&mut self, source: Option<Source>, place: Place) {
        match source {
            None => {
                self.this_host.insert(place);
            }
            Some(source) => {
                self.strangers.insert(place);
                self.sources.entry(source).or_default().insert(place);
            }
        }
    }

    fn displace(&mut self, source: Option<Source>, place: Place) {
        match source {
            None => {
                self.this_host.remove(&place);
            }
            Some(source) => {
                self.strangers.remove(&place);
                if let Some(share) = self.sources.get_mut(&source) {
                    share.remove(&place);
                    if share.is_empty() {
                        self.sources.remove(&source);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Option<Source> {
        Some(Source::of(IpAddr::from([203, 0, 113, last])))
    }

    fn enter(slots: &mut Slots, source: Option<Source>) -> Id {
        match slots.enter(source) {
            Entry::Free(id) | Entry::InPlaceOf { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_oldest_that_waits_makes_room() {
        let mut slots = Slots::new(2, 2);
        let a = enter(&mut slots, source(1));
        let b = enter(&mut slots, source(2));
        let Entry::InPlaceOf { id: c, out, .. } = slots.enter(source(3)) else {
            panic!()
        };
        assert_eq!(out, a);
        slots.answering(b);
        let Entry::InPlaceOf { id: d, out, .. } = slots.enter(source(3)) else {
            panic!()
        };
        assert_eq!(out, c);
        slots.answering(d);
        assert_eq!(slots.enter(source(4)), Entry::Full(Setting::Connections));
        slots.leave(b);
        slots.leave(b);
        assert!(matches!(slots.enter(source(4)), Entry::Free(_)));
        assert_eq!(slots.used(), 2);
    }

    #[test]
    fn a_source_takes_no_more_than_its_share() {
        let mut slots = Slots::new(10, 2);
        let a = enter(&mut slots, source(1));
        let b = enter(&mut slots, source(1));
        enter(&mut slots, source(2));
        let Entry::InPlaceOf { id: c, out, .. } = slots.enter(source(1)) else {
            panic!()
        };
        assert_eq!(out, a);
        slots.answering(b);
        slots.answering(c);
        assert_eq!(slots.enter(source(1)), Entry::Full(Setting::PerSource));
        assert!(matches!(slots.enter(source(2)), Entry::Free(_)));
    }

    #[test]
    fn an_ipv6_source_is_a_64() {
        let of = |a: &str| Source::of(a.parse().unwrap());
        assert_eq!(of("fd00:3::1"), of("fd00:3::ffff:1"));
        assert_ne!(of("fd00:3::1"), of("fd00:3:0:1::1"));
        assert_eq!(of("fd00:3::1").to_string(), "fd00:3::/64");
        assert_eq!(of("203.0.113.9").to_string(), "203.0.113.9");
    }

    #[test]
    fn this_host_is_let_in_whatever_strangers_do() {
        let mut slots = Slots::new(2, 2);
        let a = enter(&mut slots, source(1));
        let b = enter(&mut slots, source(2));
        slots.answering(a);
        slots.answering(b);
        assert_eq!(slots.enter(source(3)), Entry::Full(Setting::Connections));
        let Entry::InPlaceOf { out, .. } = slots.enter(None) else {
            panic!()
        };
        assert_eq!(out, a);
        let Entry::InPlaceOf { id: c, out, .. } = slots.enter(None) else {
            panic!()
        };
        assert_eq!(out, b);
        assert_eq!(
            slots.enter(source(3)),
            Entry::Full(Setting::Connections),
            "strangers don't push this host out"
        );
        slots.answering(c);
        assert!(matches!(slots.enter(None), Entry::InPlaceOf { .. }));
    }

    #[test]
    fn nothing_is_left_behind() {
        let mut slots = Slots::new(3, 2);
        for i in 0..100_u8 {
            let who = if i % 3 == 0 { None } else { source(i % 5) };
            if let Entry::Free(id) | Entry::InPlaceOf { id, .. } = slots.enter(who) {
                if i % 2 == 0 {
                    slots.answering(id);
                }
                if i % 7 == 0 {
                    slots.leave(id);
                }
            }
        }
        for id in 0..slots.next {
            slots.leave(id);
        }
        assert_eq!(slots.used(), 0);
        assert!(
            slots.this_host.is_empty() && slots.strangers.is_empty() && slots.sources.is_empty()
        );
    }
}

//! What the table should hold: from names, lists and the sockets that listen now.
//!
//! A socket is guarded if the user listens there who registered the name: any user may register a name with
//! any port. What was guarded stays so while the same user's socket listens, whatever becomes of the daemon.
//! Ports of `[guard] ports` are guarded but for those on which something else listens. Pure; called by
//! `guard`, which brings the facts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::rules::{Elements, Family, Table, comment, list_name, list_of, of, of_user};
use crate::config::{Ports, some_of};
use crate::core::follow::{Access, LeftAlone, MAX_LEFT_ALONE};

/// ssh's, by which most hosts are administered.
const SSH: u16 = 22;
/// So many names of one socket stand in its comment.
const MOST_NAMES: usize = 3;

/// Where a socket listens, as a packet's destination shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) family: Family,
    /// `None` is every address of the family.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

/// A socket that listens, where other hosts can reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) place: Place,
    /// Whose it is; `None` where the kernel does not say.
    pub(super) uid: Option<u32>,
}

/// A registered name, and the user at whose end of the connection it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) uid: Option<u32>,
}

/// All that is known.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) names: &'a [Named],
    pub(super) access: &'a Access,
    pub(super) sockets: &'a [Socket],
    pub(super) ports: &'a Ports,
    /// epmd's own ports.
    pub(super) epmd: &'a BTreeSet<u16>,
    /// Ports of `[guard] ports` on which something else than a node listens, and what.
    pub(super) others: &'a BTreeMap<(Family, u16), String>,
    /// What was guarded until now.
    pub(super) kept: &'a BTreeMap<Place, Kept>,
}

/// A socket that is guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// The names that are registered with it, in order.
    pub(super) names: Vec<String>,
    /// Whose it is.
    pub(super) uid: Option<u32>,
}

/// What should be.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) table: Table,
    /// What is guarded.
    pub(super) kept: BTreeMap<Place, Kept>,
    /// What should be, and is not.
    pub(super) left_alone: Vec<LeftAlone>,
}

/// Makes the plan.
pub(super) fn plan(facts: &Facts<'_>) -> Plan {
    let mut by_port: BTreeMap<u16, Vec<Socket>> = BTreeMap::new();
    for socket in facts.sockets {
        by_port.entry(socket.place.port).or_default().push(*socket);
    }
    let mut kept: BTreeMap<Place, Kept> = BTreeMap::new();
    let mut left_alone = Vec::new();
    for named in facts.names {
        let sockets = by_port.get(&named.port).map_or(&[][..], Vec::as_slice);
        if let Some(why) = in_the_way(facts, named, sockets) {
            left_alone.push(LeftAlone {
                port: named.port,
                node: Some(named.name.clone()),
                why,
            });
            continue;
        }
        for socket in sockets.iter().filter(|s| is_of(facts, named, s)) {
            let kept = kept.entry(socket.place).or_insert_with(|| Kept {
                names: Vec::new(),
                uid: socket.uid,
            });
            kept.names.push(named.name.clone());
        }
    }
    for socket in facts.sockets {
        let before = facts.kept.get(&socket.place);
        if let Some(before) = before.filter(|before| before.uid == socket.uid) {
            kept.entry(socket.place).or_insert_with(|| before.clone());
        }
    }
    for kept in kept.values_mut() {
        kept.names.sort_unstable();
    }
    for ((_, port), what) in facts.others {
        if !left_alone
            .iter()
            .any(|l| l.node.is_none() && l.port == *port)
        {
            left_alone.push(LeftAlone {
                port: *port,
                node: None,
                why: what.clone(),
            });
        }
    }
    left_alone.truncate(MAX_LEFT_ALONE);
    Plan {
        table: table(facts, &kept),
        kept,
        left_alone,
    }
}

/// Whether a socket is that of the node that registered this name.
fn is_of(facts: &Facts<'_>, named: &Named, socket: &Socket) -> bool {
    match named.uid {
        Some(uid) => socket.uid == Some(uid),
        // Its connection has just ended, or the daemon did not say which it is: what was known counts.
        None => facts
            .kept
            .get(&socket.place)
            .is_some_and(|kept| kept.uid == socket.uid && kept.names.contains(&named.name)),
    }
}

/// Why the port of a name is not guarded, where it can be reached all the same.
fn in_the_way(facts: &Facts<'_>, named: &Named, sockets: &[Socket]) -> Option<String> {
    if sockets.is_empty() {
        return None;
    }
    if named.port == SSH {
        return Some("it is ssh's, by which this host is administered".to_owned());
    }
    if facts.epmd.contains(&named.port) {
        return Some("it is epmd's own, which has lists of its own".to_owned());
    }
    if sockets.iter().any(|socket| is_of(facts, named, socket)) {
        return None;
    }
    let whose = sockets.iter().find_map(|socket| socket.uid);
    Some(match (named.uid, whose) {
        (Some(holder), Some(other)) => format!(
            "user {other} listens there, and user {holder} registered the name: whoever may register a name could \
             close another's port"
        ),
        _ => "whose socket listens there, or who registered the name, the kernel does not say"
            .to_owned(),
    })
}

fn table(facts: &Facts<'_>, kept: &BTreeMap<Place, Kept>) -> Table {
    let access = facts.access;
    let mut table = Table {
        enforce: access.enforce,
        ..Table::default()
    };
    let (allow, deny) = (networks(&access.allow), networks(&access.deny));
    for family in Family::ALL {
        let mut ranges = |name: String, ranges| {
            table.elements.insert(name, Elements::Ranges(ranges));
        };
        ranges(of("allow", family), of_family(&allow, family));
        ranges(of("deny", family), of_family(&deny, family));
        ranges(of("ports", family), ports(facts, family));
        for map in ["by_address", "by_port"] {
            let none = Elements::Places(BTreeMap::new());
            table.elements.insert(of(map, family), none);
        }
    }
    for (place, kept) in kept {
        // Of several names, one that has a list of its own counts: the narrower door.
        let own = kept
            .names
            .iter()
            .find(|name| access.nodes.contains_key(*name));
        let digit = place.family.digit();
        let chain = match own {
            None => format!("admit{digit}"),
            Some(name) => format!("admit_{}", list_of(&list_name(name), place.family)),
        };
        if let Some(name) = own {
            table.lists.insert(list_name(name), name.clone());
        }
        let (map, key) = match place.address {
            Some(address) => ("by_address", format!("{address} . {}", place.port)),
            None => ("by_port", place.port.to_string()),
        };
        let says = of_user(kept.uid, &names(&kept.names, own));
        let rest = format!("{} : goto {chain}", comment(&says));
        if let Some(Elements::Places(places)) = table.elements.get_mut(&of(map, place.family)) {
            places.insert(key, rest);
        }
    }
    for (list, node) in table.lists.clone() {
        let networks = networks(access.nodes.get(&node).map_or(&[][..], Vec::as_slice));
        for family in Family::ALL {
            let ranges = Elements::Ranges(of_family(&networks, family));
            table.elements.insert(list_of(&list, family), ranges);
        }
    }
    table
}

/// Names for a comment, the one that counts first.
fn names(all: &[String], first: Option<&String>) -> String {
    let others = all.iter().filter(|name| Some(*name) != first);
    let all: Vec<_> = first
        .into_iter()
        .chain(others)
        .map(String::as_str)
        .collect();
    some_of(all.into_iter(), MOST_NAMES)
}

/// Networks without those that others hold, so that they never overlap. What is no network is left out: the
/// daemon wrote them.
pub(super) fn networks(written: &[String]) -> Vec<IpNet> {
    let all: Vec<IpNet> = written.iter().filter_map(|net| net.parse().ok()).collect();
    let mut all = IpNet::aggregate(&all);
    all.sort_unstable();
    all
}

fn of_family(networks: &[IpNet], family: Family) -> Vec<String> {
    let is_v4 = family == Family::V4;
    let all = networks.iter().filter(|net| net.addr().is_ipv4() == is_v4);
    all.map(ToString::to_string).collect()
}

/// `[guard] ports` without those that are something else's.
fn ports(facts: &Facts<'_>, family: Family) -> Vec<String> {
    let is_others = |port: u16| {
        port == SSH || facts.epmd.contains(&port) || facts.others.contains_key(&(family, port))
    };
    let mut all = Vec::new();
    for range in facts.ports.ranges() {
        let mut first = None;
        let end = u32::from(*range.end());
        for port in u32::from(*range.start())..=end + 1 {
            let port16 = u16::try_from(port)
                .ok()
                .filter(|p| port <= end && !is_others(*p));
            match (first, port16) {
                (None, Some(port)) => first = Some(port),
                (Some(begin), None) => {
                    all.push(match u32::from(begin) + 1 == port {
                        true => begin.to_string(),
                        false => format!("{begin}-{}", port - 1),
                    });
                    first = None;
                }
                _ => {}
            }
        }
    }
    all
}

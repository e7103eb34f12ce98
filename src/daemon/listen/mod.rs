//! The set of listening sockets: worked out first, then bound, all of them or none.
//!
//! What the operator wrote is made into a plan (`plan`, pure): loopback is always in it, duplicates and
//! what a wildcard covers are dropped. A family that the host lacks is skipped with a note; an address
//! that is not there yet is bound all the same; a port that somebody else holds is an error, and `holder`
//! finds out who. A socket unit's sockets are taken as they are, and loopback is added to them
//! (`beside_activated`). Called by `start`.

mod give_way;
pub mod holder;
mod notes;
mod queue;
mod socket;

use std::collections::HashSet;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::SockRef;

pub use give_way::bind_beside;
pub(in crate::daemon) use give_way::{LAST_ONES, empty, lead_past};
pub use notes::Notes;
pub(in crate::daemon) use socket::{BACKLOG, adopt, defer_accept};

/// How often a port that the kernel chose is given up because another address of the set lacks it.
const TRIES: usize = 16;

/// This host's own addresses: 127.0.1.1 is what Debian gives the host's own name in /etc/hosts.
const LOOPBACK: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1)),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];
const WILDCARDS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// The sockets, and what there is to say about them.
#[derive(Debug, Default)]
pub struct Bound {
    /// Listening, non-blocking: our own.
    pub listeners: Vec<TcpListener>,
    /// The same, a socket unit's: what becomes of them is that unit's business.
    pub activated: Vec<TcpListener>,
    /// What was skipped, or is not as one might think.
    pub notes: Notes,
}

impl Bound {
    /// Gives every address that strangers reach a queue of its own for this host. Sockets from before a
    /// restart have it already. `runs_alone`: no other process runs as the same user.
    #[must_use]
    pub fn with_own_queues(mut self, runs_alone: bool) -> Self {
        let addresses: Vec<SocketAddr> = self
            .listeners
            .iter()
            .filter_map(|l| l.local_addr().ok())
            .collect();
        let is_alone = |address| addresses.iter().filter(|a| **a == address).count() == 1;
        let mut pairs = Vec::new();
        for (first, listener) in self.listeners.iter().enumerate() {
            let Ok(address) = listener.local_addr() else {
                continue;
            };
            if address.ip().is_loopback() || !is_alone(address) {
                continue;
            }
            match queue::beside(listener) {
                Ok(second) => pairs.push((first, second)),
                Err(error) => self.notes.warn(format!(
                    "connections of this host to {address} wait among those of all others: {error}"
                )),
            }
        }
        let of = |first: &usize| self.listeners.get(*first);
        let both: Vec<_> = pairs
            .iter()
            .filter_map(|(first, second)| Some((of(first)?, second)))
            .collect();
        let open = queue::shut(&self.listeners, &both);
        if !runs_alone {
            for address in open {
                self.notes.warn(format!(
                    "other processes of this user may listen beside epmd on {address}, and get its connections: \
                     let epmd run as a user of its own"
                ));
            }
        }
        self.listeners
            .extend(pairs.into_iter().map(|(_, second)| second));
        self
    }
}

/// Why the sockets could not be had.
#[derive(Debug)]
pub enum ListenError {
    /// Somebody else listens there.
    Taken(SocketAddr),
    /// The kernel refuses.
    Failed(SocketAddr, io::Error),
    /// Every address of the plan had to be skipped; why, one by one.
    NoneLeft(Notes),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(address) => write!(f, "another program listens on {address}"),
            Self::Failed(address, error) => write!(f, "can't listen on {address}: {error}"),
            Self::NoneLeft(notes) => write!(f, "no address to listen on: {}", notes.line()),
        }
    }
}

impl std::error::Error for ListenError {}

/// The addresses to bind, for what the operator asked for (`None`: every address).
#[must_use]
pub fn plan(listen: Option<&[IpAddr]>) -> Vec<IpAddr> {
    let asked = match listen {
        None => WILDCARDS.to_vec(),
        Some(listen) => listen
            .iter()
            .map(IpAddr::to_canonical)
            .chain(LOOPBACK)
            .collect(),
    };
    let covered = |a: &IpAddr| {
        !a.is_unspecified()
            && WILDCARDS
                .iter()
                .any(|w| w.is_ipv4() == a.is_ipv4() && asked.contains(w))
    };
    let mut seen = HashSet::new();
    asked
        .iter()
        .filter(|a| !covered(a) && seen.insert(**a))
        .copied()
        .collect()
}

/// Binds the plan's addresses to one port (0: one that the kernel chooses) and listens. `ours` listen
/// there already, and are not among those that are given.
///
/// # Errors
/// One address that is taken or refused is enough, and nothing is bound then.
pub fn bind(plan: &[IpAddr], port: u16, ours: &[TcpListener]) -> Result<Bound, ListenError> {
    bind_all(plan, port, ours, false)
}

/// As [`bind`]. `shared`: beside sockets of the same user that listen there as well, and are about to be
/// closed.
fn bind_all(
    plan: &[IpAddr],
    port: u16,
    ours: &[TcpListener],
    shared: bool,
) -> Result<Bound, ListenError> {
    let have: Vec<_> = ours
        .iter()
        .filter_map(|l| l.local_addr().ok())
        .map(|a| a.ip())
        .collect();
    let plan: Vec<_> = plan
        .iter()
        .filter(|ip| !have.contains(ip))
        .copied()
        .collect();
    let mut tries = 1;
    loop {
        match try_bind(&plan, port, shared) {
            Err(ListenError::Taken(_)) if port == 0 && tries < TRIES => tries += 1,
            Err(ListenError::NoneLeft(notes)) if !ours.is_empty() => {
                return Ok(Bound {
                    notes,
                    ..Bound::default()
                });
            }
            result => return result,
        }
    }
}

/// A socket unit's sockets, and loopback beside them where they lack it, at their port: nodes of this host
/// register there, whatever the unit says. `ours` is what an earlier process has added. Gives also those of
/// `ours` that are of no use any more.
///
/// What can't be had is noted and no error: the sockets that are there serve all others.
#[must_use]
pub fn beside_activated(
    activated: Vec<TcpListener>,
    ours: Vec<TcpListener>,
    wanted_port: u16,
) -> (Bound, Vec<TcpListener>) {
    let ports: Vec<u16> = activated
        .iter()
        .filter_map(|l| l.local_addr().ok())
        .map(|a| a.port())
        .collect();
    let port = if ports.contains(&wanted_port) {
        wanted_port
    } else {
        ports.first().copied().unwrap_or(wanted_port)
    };
    let lacking: Vec<IpAddr> = LOOPBACK
        .into_iter()
        .filter(|ip| !activated.iter().any(|l| covers(l, *ip, port)))
        .collect();
    let (listeners, others) = in_plan(ours, &lacking, port);
    let mut all = Bound {
        listeners,
        activated,
        notes: Notes::default(),
    };
    for ip in lacking {
        match bind(&[ip], port, &all.listeners) {
            Ok(mut bound) => {
                all.listeners.append(&mut bound.listeners);
                all.notes.append(bound.notes);
            }
            Err(ListenError::NoneLeft(notes)) => all.notes.append(notes),
            Err(error) => all.notes.warn(format!(
                "not listening on {ip} beside the socket unit's sockets: {error}; nodes of this host that \
                 look for epmd there can't register"
            )),
        }
    }
    (all, others)
}

/// Whether this socket gets what comes to `ip`.
fn covers(listener: &TcpListener, ip: IpAddr, port: u16) -> bool {
    let Ok(address) = listener.local_addr() else {
        return false;
    };
    let own = address.ip().to_canonical();
    let for_both = || own.is_ipv6() && !SockRef::from(listener).only_v6().is_ok_and(|only| only);
    address.port() == port
        && (own == ip || (own.is_unspecified() && (own.is_ipv4() == ip.is_ipv4() || for_both())))
}

/// The addresses, each once.
#[must_use]
pub fn addresses<'l>(listeners: impl Iterator<Item = &'l TcpListener>) -> Vec<String> {
    let mut seen = HashSet::new();
    listeners
        .filter_map(|l| l.local_addr().ok())
        .filter(|address| seen.insert(*address))
        .map(|address| address.to_string())
        .collect()
}

/// Of sockets that listen already, those that belong to a plan, and the others.
#[must_use]
pub fn in_plan(
    listeners: Vec<TcpListener>,
    plan: &[IpAddr],
    port: u16,
) -> (Vec<TcpListener>, Vec<TcpListener>) {
    // Another program's may be for both families, which no plan has.
    let is_of_one_family = |listener: &TcpListener, ip: IpAddr| {
        !ip.is_unspecified()
            || ip.is_ipv4()
            || SockRef::from(listener).only_v6().is_ok_and(|only| only)
    };
    listeners.into_iter().partition(|listener| {
        listener.local_addr().is_ok_and(|a| {
            plan.contains(&a.ip())
                && (a.port() == port || port == 0)
                && is_of_one_family(listener, a.ip())
        })
    })
}

fn try_bind(plan: &[IpAddr], port: u16, shared: bool) -> Result<Bound, ListenError> {
    let mut port = port;
    let mut sockets = Vec::new();
    let mut notes = Notes::default();
    for &ip in plan {
        let address = SocketAddr::new(ip, port);
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::AddrInUse => ListenError::Taken(address),
            _ => ListenError::Failed(address, error),
        };
        match socket::bound(address, shared, &mut notes).map_err(failed)? {
            None => continue,
            Some(socket) => {
                if port == 0 {
                    let chosen = socket.local_addr().map_err(failed)?;
                    port = chosen.as_socket().map_or(0, |a| a.port());
                }
                sockets.push((SocketAddr::new(ip, port), socket));
            }
        }
    }
    if sockets.is_empty() {
        return Err(ListenError::NoneLeft(notes));
    }
    // Only now: SO_REUSEADDR lets two programs bind that start at the same instant, and the second
    // to listen is the one that hears of it.
    for (address, socket) in &sockets {
        socket.listen(BACKLOG).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => ListenError::Taken(*address),
            _ => ListenError::Failed(*address, error),
        })?;
    }
    let listeners = sockets
        .into_iter()
        .map(|(_, socket)| socket.into())
        .collect();
    Ok(Bound {
        listeners,
        activated: Vec::new(),
        notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(listen: &[&str]) -> Vec<String> {
        let listen: Vec<IpAddr> = listen.iter().map(|a| a.parse().unwrap()).collect();
        plan(Some(&listen)).iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn every_address_is_both_wildcards() {
        assert_eq!(plan(None), WILDCARDS);
    }

    #[test]
    fn loopback_is_always_there() {
        assert_eq!(
            planned(&["10.0.3.5"]),
            ["10.0.3.5", "127.0.0.1", "127.0.1.1", "::1"]
        );
        assert_eq!(planned(&["127.0.0.1"]), ["127.0.0.1", "127.0.1.1", "::1"]);
    }

    #[test]
    fn duplicates_and_what_a_wildcard_covers_are_dropped() {
        assert_eq!(planned(&["0.0.0.0"]), ["0.0.0.0", "::1"]);
        assert_eq!(planned(&["::"]), ["::", "127.0.0.1", "127.0.1.1"]);
        assert_eq!(
            planned(&["::", "10.0.3.5", "0.0.0.0", "::1"]),
            ["::", "0.0.0.0"]
        );
        assert_eq!(
            planned(&["10.0.3.5", "::ffff:10.0.3.5", "10.0.3.5"]),
            ["10.0.3.5", "127.0.0.1", "127.0.1.1", "::1"]
        );
    }

    #[test]
    fn a_taken_address_gives_everything_up() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let plan = plan(Some(&[]));
        assert!(
            matches!(bind(&plan, address.port(), &[]), Err(ListenError::Taken(a)) if a == address)
        );
        drop(other);
        let bound = bind(&plan, 0, &[]).unwrap();
        let ports: HashSet<u16> = bound
            .listeners
            .iter()
            .map(|l| l.local_addr().unwrap().port())
            .collect();
        assert_eq!(ports.len(), 1, "one port for all addresses");
    }
}

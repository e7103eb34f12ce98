//! What the plan goes by, asked of the kernel: who listens where, and whose the registered names are.
//!
//! A name's user is that of the socket at the node's end of the connection that holds it. What was found is
//! kept as long as it holds, so that a change costs what has changed. Called by `keep` and by `-check`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;

use super::owners::{self, Owner};
use super::plan::{Named, Place, Socket};
use super::rules::Family;
use crate::config::Ports;
use crate::core::follow::{Connection, Registration};
use crate::diag::{self, Asker, Listening};

/// Asks, and remembers.
#[derive(Debug)]
pub(super) struct Asking {
    asker: Asker,
    /// Whose the ends of connections are.
    users: HashMap<Connection, u32>,
    /// Whose sockets are that no node is registered with.
    owners: HashMap<u64, Owner>,
}

/// A socket that listens, and the number of it.
pub(super) type Numbered = (Socket, u64);

impl Asking {
    /// # Errors
    /// The kernel can't be asked.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            asker: Asker::new()?,
            users: HashMap::new(),
            owners: HashMap::new(),
        })
    }

    /// The names with their users, in order.
    pub(super) fn named<'a>(
        &mut self,
        registrations: impl Iterator<Item = &'a Registration>,
    ) -> Vec<Named> {
        let mut users = HashMap::new();
        let named = registrations.map(|registration| {
            let uid = registration.connection.and_then(|connection| {
                let known = self.users.get(&connection).copied();
                let uid = known.or_else(|| self.user(connection))?;
                users.insert(connection, uid);
                Some(uid)
            });
            Named {
                name: registration.name.clone(),
                port: registration.port,
                uid,
            }
        });
        let named = named.collect();
        self.users = users;
        named
    }

    fn user(&mut self, connection: Connection) -> Option<u32> {
        let found = self.asker.connected(connection.node, connection.epmd);
        // Where the kernel can't be asked just now, nobody is taken for somebody else.
        found.ok().flatten().and_then(|found| found.uid)
    }

    /// On which of these ports something listens that is no Erlang node, and what.
    pub(super) fn others(
        &mut self,
        ports: &Ports,
        sockets: &[Numbered],
        named: &[Named],
    ) -> BTreeMap<(Family, u16), String> {
        let registered: HashSet<_> = named.iter().map(|n| (n.port, n.uid)).collect();
        let is_in_question = |(socket, _): &&Numbered| {
            let port = socket.place.port;
            ports.contains(port)
                && !(socket.uid.is_some() && registered.contains(&(port, socket.uid)))
        };
        let in_question: Vec<_> = sockets.iter().filter(is_in_question).collect();
        let inodes: HashSet<_> = in_question.iter().map(|(_, inode)| *inode).collect();
        self.owners.retain(|inode, _| inodes.contains(inode));
        let unknown: Vec<_> = in_question
            .iter()
            .filter(|(_, inode)| !self.owners.contains_key(inode))
            .map(|(socket, inode)| (*inode, socket.uid))
            .collect();
        if !unknown.is_empty() {
            self.owners.extend(owners::of(&unknown));
        }
        let (mut nodes, mut others) = (BTreeSet::new(), BTreeMap::new());
        for (socket, inode) in in_question {
            let at = (socket.place.family, socket.place.port);
            match self.owners.get(inode) {
                Some(Owner::Other(what)) => {
                    let what = format!(
                        "{what} listens there, which is no Erlang node; take it out of [guard] ports"
                    );
                    others.insert(at, what);
                }
                _ => _ = nodes.insert(at),
            }
        }
        // A node that listens on another address of the same port keeps its guard.
        others.retain(|at, _| !nodes.contains(at));
        others
    }
}

/// All sockets that listen where other hosts can reach them.
///
/// # Errors
/// What the kernel says.
pub(super) fn sockets() -> io::Result<Vec<Numbered>> {
    Ok(diag::all_listening()?.iter().flat_map(places).collect())
}

/// Where a socket takes connections of other hosts: nowhere, at one address, or at all of one family or both.
fn places(listening: &Listening) -> Vec<Numbered> {
    let (ip, port) = (listening.address.ip(), listening.address.port());
    let family = match ip.is_ipv4() {
        true => Family::V4,
        false => Family::V6,
    };
    let at = |family, address| {
        let place = Place {
            family,
            address,
            port,
        };
        let socket = Socket {
            place,
            uid: listening.uid,
        };
        (socket, listening.inode)
    };
    match family {
        _ if ip.is_loopback() => vec![],
        _ if !ip.is_unspecified() => vec![at(family, Some(ip))],
        Family::V6 if !listening.only_ipv6 => vec![at(Family::V4, None), at(Family::V6, None)],
        family => vec![at(family, None)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_guarded_for_each_family_that_it_takes() {
        for (address, only_ipv6, expected) in [
            ("127.0.0.1:9100", false, &[][..]),
            ("[::1]:9100", true, &[]),
            ("0.0.0.0:9100", false, &[(Family::V4, None)]),
            ("[::]:9100", true, &[(Family::V6, None)]),
            (
                "[::]:9100",
                false,
                &[(Family::V4, None), (Family::V6, None)],
            ),
            ("10.0.3.5:9100", false, &[(Family::V4, Some("10.0.3.5"))]),
            (
                "[fd00:3::5]:9100",
                false,
                &[(Family::V6, Some("fd00:3::5"))],
            ),
        ] {
            let found = places(&Listening {
                address: address.parse().unwrap(),
                inode: 7,
                uid: Some(1),
                only_ipv6,
            });
            let found: Vec<_> = found
                .iter()
                .map(|(s, _)| (s.place.family, s.place.address))
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(family, address)| (*family, address.map(|a: &str| a.parse().unwrap())))
                .collect();
            assert_eq!(found, expected, "{address} {only_ipv6}");
        }
    }
}

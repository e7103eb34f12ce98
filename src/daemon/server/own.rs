//! Whether a peer is this host, where the ends of its connection alone don't say so.
//!
//! A node of this host that connects to a secondary address of it comes from the primary one, so peer
//! and local address differ. The kernel is asked which address it would use towards the peer, and only
//! towards itself that is the peer's own. No packet is sent.
//!
//! And a stranger may come with an address of this host: by translation at the input hook, or through a
//! network in user space. So it is this host only where the kernel has a socket here at the peer's end. It
//! is not asked of a connection over loopback, as nearly all are that come from this host. Where it can't be
//! asked (no netlink, no inet_diag), addresses have to do. What has its socket here for somebody else, a
//! proxy, the operator has to name (`access.strangers`). Called by `accept`, and by `whose` for the user at
//! the other end.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::core::outcome::Ends;
use crate::diag::{Asker, Connected};

/// How long an answer is believed: addresses come and go.
const BELIEVED: Duration = Duration::from_secs(1);
/// How many answers are remembered at most; a flood from more peers asks the kernel more often.
const MOST: usize = 1024;
/// The port is of no matter (it is that of "discard"): nothing is sent.
const NO_PORT: u16 = 9;

/// Who is this host, as the kernel says.
#[derive(Debug)]
pub(super) struct ThisHost {
    /// What it has said lately of addresses.
    known: HashMap<IpAddr, bool>,
    since: Option<Instant>,
    /// Asks for sockets. Had at the start, when there are descriptors; again when it is needed, if it
    /// could not be had then.
    asker: Option<Asker>,
    /// Addresses of this host whose peers are strangers.
    strangers: BTreeSet<IpAddr>,
}

impl ThisHost {
    pub(super) fn new(asker: Option<Asker>, strangers: BTreeSet<IpAddr>) -> Self {
        Self {
            known: HashMap::new(),
            since: None,
            asker,
            strangers,
        }
    }

    /// Goes by these from now on.
    pub(super) fn set_strangers(&mut self, strangers: BTreeSet<IpAddr>) {
        self.strangers = strangers;
    }

    /// Whether a peer with this address is none of this host's, because the settings say so.
    pub(super) fn is_stranger(&self, peer: &SocketAddr) -> bool {
        self.strangers.contains(&peer.ip().to_canonical())
    }

    /// Which user of this host has the socket at the peer's end; `None` where there is none, or the
    /// kernel does not say.
    pub(super) fn user(&mut self, peer: SocketAddr, local: SocketAddr) -> Option<u32> {
        self.connected(peer, local)?.uid
    }

    /// The socket at the peer's end.
    pub(super) fn connected(&mut self, peer: SocketAddr, local: SocketAddr) -> Option<Connected> {
        let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        let (peer, local) = (canonical(peer), canonical(local));
        self.ask(|asker| asker.connected(peer, local))?
    }

    /// Asks the kernel; `None` where that can't be done.
    fn ask<T>(&mut self, question: impl FnOnce(&mut Asker) -> io::Result<T>) -> Option<T> {
        if self.asker.is_none() {
            self.asker = Asker::new().ok();
        }
        question(self.asker.as_mut()?).ok()
    }

    /// The ends of a connection that was accepted here, with what is known of its peer.
    pub(super) fn judge(&mut self, ends: Ends) -> Ends {
        let (peer, local) = (ends.peer(), ends.local());
        if self.is_stranger(&peer) {
            return ends.of_a_stranger();
        }
        if ends.is_over_loopback() {
            return ends;
        }
        if !ends.is_this_host() && !self.has(peer.ip()) {
            return ends;
        }
        if self.has_socket(peer, local) == Some(false) {
            return ends.of_a_stranger();
        }
        ends.of_this_host()
    }

    /// Whether a socket of this host is at the peer's end; `None` where the kernel can't be asked.
    fn has_socket(&mut self, peer: SocketAddr, local: SocketAddr) -> Option<bool> {
        let there = self.ask(|asker| {
            Ok(match asker.is_there(peer, local)? {
                true => Some(true),
                // Our own end is there for sure: if it is not, the kernel knows no such questions.
                false => asker.is_there(local, peer)?.then_some(false),
            })
        });
        there.flatten()
    }

    /// Whether this address, which must be canonical, is one of this host's.
    fn has(&mut self, address: IpAddr) -> bool {
        if self.since.is_none_or(|since| since.elapsed() > BELIEVED) || self.known.len() >= MOST {
            self.known.clear();
            self.since = Some(Instant::now());
        }
        *self.known.entry(address).or_insert_with(|| is_own(address))
    }
}

/// Asks the kernel. What can't be asked is no address of ours.
fn is_own(address: IpAddr) -> bool {
    let any = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let towards = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, NO_PORT))?;
        socket.local_addr()
    });
    towards.is_ok_and(|local| local.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_ours_and_an_address_for_documents_is_not() {
        let mut own = ThisHost::new(None, BTreeSet::new());
        assert!(own.has("127.0.0.1".parse().unwrap()));
        assert!(own.has("::1".parse().unwrap()));
        assert!(!own.has("203.0.113.9".parse().unwrap()));
        assert!(!own.has("2001:db8::9".parse().unwrap()));
        assert_eq!(own.known.len(), 4);
    }
}

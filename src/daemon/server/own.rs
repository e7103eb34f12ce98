//! Whether a peer is this host, where the ends of its connection alone don't say so.
//!
//! A node of this host that connects to a secondary address of it comes from the primary one, so peer
//! and local address differ. The kernel is asked which address it would use towards the peer, and only
//! towards itself that is the peer's own. No packet is sent.
//!
//! And a stranger may come with an address of this host: by translation at the input hook, or through a
//! network in user space. So it is this host only where the kernel has a socket here at the peer's end. It
//! is not asked of a connection over loopback, as nearly all are that come from this host. Where it can't be
//! asked (no netlink, no inet_diag), addresses have to do. Called by `accept`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::core::outcome::Ends;
use crate::diag::Asker;

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
    /// Asks for sockets.
    asker: Option<Asker>,
}

impl Default for ThisHost {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            since: None,
            // At the start, when there are descriptors; again when it is needed, if it can't be had now.
            asker: Asker::new().ok(),
        }
    }
}

impl ThisHost {
    /// The ends of a connection that was accepted here, with what is known of its peer.
    pub(super) fn judge(&mut self, ends: Ends) -> Ends {
        let (peer, local) = (ends.peer(), ends.local());
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
        if self.asker.is_none() {
            self.asker = Asker::new().ok();
        }
        let asker = self.asker.as_mut()?;
        match asker.is_there(peer, local) {
            Ok(true) => Some(true),
            // Our own end is there for sure: if it is not, the kernel knows no such questions.
            Ok(false) => match asker.is_there(local, peer) {
                Ok(true) => Some(false),
                _ => None,
            },
            Err(_) => {
                // An answer that comes late must not be taken for the next one.
                self.asker = None;
                None
            }
        }
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
        let mut own = ThisHost::default();
        assert!(own.has("127.0.0.1".parse().unwrap()));
        assert!(own.has("::1".parse().unwrap()));
        assert!(!own.has("203.0.113.9".parse().unwrap()));
        assert!(!own.has("2001:db8::9".parse().unwrap()));
        assert_eq!(own.known.len(), 4);
    }
}

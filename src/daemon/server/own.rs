//! Whether a peer is this host under another of its addresses.
//!
//! A node of this host that connects to a secondary address of it comes from the primary one, so peer
//! and local address differ. The kernel is asked which address it would use towards the peer, and only
//! towards itself that is the peer's own. No packet is sent. Called by `accept`, for peers that are not
//! this host by what their connection says.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

/// How long an answer is believed: addresses come and go.
const BELIEVED: Duration = Duration::from_secs(1);
/// How many answers are remembered at most; a flood from more peers asks the kernel more often.
const MOST: usize = 1024;
/// The port is of no matter (it is that of "discard"): nothing is sent.
const NO_PORT: u16 = 9;

/// What the kernel has said lately.
#[derive(Debug, Default)]
pub(super) struct OwnAddresses {
    known: HashMap<IpAddr, bool>,
    since: Option<Instant>,
}

impl OwnAddresses {
    /// Whether this address, which must be canonical, is one of this host's.
    pub(super) fn contain(&mut self, address: IpAddr) -> bool {
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
        let mut own = OwnAddresses::default();
        assert!(own.contain("127.0.0.1".parse().unwrap()));
        assert!(own.contain("::1".parse().unwrap()));
        assert!(!own.contain("203.0.113.9".parse().unwrap()));
        assert!(!own.contain("2001:db8::9".parse().unwrap()));
        assert_eq!(own.known.len(), 4);
    }
}

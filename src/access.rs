//! Who may ask what: the rules of `[access]`, as one decision for each request.
//!
//! Knows addresses and operations, no sockets. Networks are kept in a longest-prefix structure, so
//! that 20,000 of them cost what one does. Addresses are canonical on both sides: an IPv4-mapped IPv6
//! address is its IPv4 address. Called by `desk` for every request and by `config` to build the rules.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixSet;

use crate::outcome::{Operation, Reason, Setting};

/// A set of networks, IPv4 and IPv6.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    v4: PrefixSet<Ipv4Net>,
    v6: PrefixSet<Ipv6Net>,
}

impl Networks {
    /// Whether `address` is in one of the networks. An IPv4-mapped address is its IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(a) => self.v4.get_lpm(&Ipv4Net::from(a)).is_some(),
            IpAddr::V6(a) => self.v6.get_lpm(&Ipv6Net::from(a)).is_some(),
        }
    }

    /// Adds a network.
    pub fn insert(&mut self, network: IpNet) {
        match network {
            IpNet::V4(n) => self.v4.insert(n),
            IpNet::V6(n) => self.v6.insert(n),
        };
    }

    /// Whether there is no network in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// The networks in ascending order, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        let v4 = self.v4.iter().map(IpNet::V4);
        v4.chain(self.v6.iter().map(IpNet::V6))
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<T: IntoIterator<Item = IpNet>>(networks: T) -> Self {
        let mut set = Self::default();
        networks.into_iter().for_each(|n| set.insert(n));
        set
    }
}

/// Who asks, and what address it came to. Both are made canonical here, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    address: IpAddr,
    local: IpAddr,
}

impl Peer {
    /// A peer at `address` that connected to `local`.
    #[must_use]
    pub fn new(address: IpAddr, local: IpAddr) -> Self {
        Self {
            address: address.to_canonical(),
            local: local.to_canonical(),
        }
    }

    /// Whether the peer is this host: loopback, or the connection's own local address.
    #[must_use]
    pub fn is_this_host(&self) -> bool {
        self.address.is_loopback() || self.address == self.local
    }
}

/// What the rules say of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is served.
    Admit,
    /// It is served, because `access.enforce` is false; the audit tells what would have refused it.
    WouldRefuse(Reason),
    /// It is refused.
    Refuse(Reason),
}

/// `[access]`, checked.
#[derive(Clone, Debug)]
pub struct Rules {
    /// May look names up. This host always may.
    pub allow: Networks,
    /// Refused whatever the other lists say; never this host.
    pub deny: Networks,
    /// May list all names; `None` is whoever is in `allow`.
    pub list: Option<Networks>,
    /// For lookups of these names, in place of `allow`. Keyed by the name's UTF-8 bytes.
    pub nodes: HashMap<Box<[u8]>, Networks>,
    /// False: lookups and lists are served to everyone, and the audit tells what would have been refused.
    pub enforce: bool,
    /// The only local addresses that are served, loopback apart; `None` is every address. Set where
    /// systemd's sockets listen on more than the operator asked for.
    pub served: Option<Vec<IpAddr>>,
}

impl Default for Rules {
    /// With nothing configured, only this host is served.
    fn default() -> Self {
        Self {
            allow: Networks::default(),
            deny: Networks::default(),
            list: None,
            nodes: HashMap::new(),
            enforce: true,
            served: None,
        }
    }
}

impl Rules {
    /// Decides one request. `node` is the name that is asked for, where there is one.
    #[must_use]
    pub fn decide(&self, peer: Peer, operation: Operation, node: Option<&[u8]>) -> Decision {
        if !self.serves(peer.local) {
            return Decision::Refuse(Reason::AddressNotServed);
        }
        if peer.is_this_host() {
            return Decision::Admit;
        }
        let admitting = match operation {
            Operation::Lookup => node
                .and_then(|name| self.nodes.get(name))
                .unwrap_or(&self.allow),
            Operation::List => self.list.as_ref().unwrap_or(&self.allow),
            Operation::Register | Operation::Dump | Operation::Kill | Operation::Stop => {
                return Decision::Refuse(Reason::NotLocal);
            }
            Operation::Invalid | Operation::None => return Decision::Admit,
        };
        let reason = if self.deny.contains(peer.address) {
            Reason::Denied
        } else if admitting.contains(peer.address) {
            return Decision::Admit;
        } else {
            Reason::NotAllowed
        };
        if self.enforce {
            Decision::Refuse(reason)
        } else {
            Decision::WouldRefuse(reason)
        }
    }

    /// The setting whose networks [`Self::decide`] looks in for this request: the one that a refusal
    /// with [`Reason::NotAllowed`] names.
    #[must_use]
    pub fn setting(&self, operation: Operation, node: Option<&[u8]>) -> Option<Setting> {
        match operation {
            Operation::Lookup if node.is_some_and(|name| self.nodes.contains_key(name)) => {
                Some(Setting::Node)
            }
            Operation::List if self.list.is_some() => Some(Setting::List),
            Operation::Lookup | Operation::List => Some(Setting::Allow),
            _ => None,
        }
    }

    /// Whether this peer may ask anything at all: a connection of its that asks nothing (a health
    /// check) is then no event.
    #[must_use]
    pub fn may_ask(&self, peer: Peer) -> bool {
        self.serves(peer.local)
            && (peer.is_this_host()
                || (!self.deny.contains(peer.address)
                    && (!self.enforce
                        || self.allow.contains(peer.address)
                        || self.list.as_ref().is_some_and(|l| l.contains(peer.address))
                        || self.nodes.values().any(|n| n.contains(peer.address)))))
    }

    /// Whether connections to this local address are served.
    fn serves(&self, local: IpAddr) -> bool {
        local.is_loopback() || self.served.as_ref().is_none_or(|s| s.contains(&local))
    }
}

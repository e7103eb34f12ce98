//! Who may ask what: the rules of `[access]`, as one decision for each request.
//!
//! Knows addresses and operations, no sockets. Networks are kept in a longest-prefix structure, so
//! that 20,000 of them cost what one does. Addresses are canonical on both sides: an IPv4-mapped IPv6
//! address is its IPv4 address. Called by `desk` for every request and by `config` to build the rules.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixSet;

use crate::core::names::NameRules;
use crate::core::outcome::{Ends, Operation, Reason, Setting};

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

    /// Whether it admits half of all IPv4 addresses or more, or of the IPv6 addresses that are given out
    /// (2000::/3): most of the Internet, in one network or in many.
    #[must_use]
    pub fn admits_nearly_everybody(&self) -> bool {
        /// The exponent of how many addresses 2000::/3 has.
        const GIVEN_OUT: u32 = 125;
        let v4: Vec<Ipv4Net> = self.v4.iter().collect();
        let v4: u64 = Ipv4Net::aggregate(&v4)
            .iter()
            .map(|n| 1_u64 << (32 - n.prefix_len()))
            .sum();
        let v6: Vec<Ipv6Net> = self.v6.iter().collect();
        let unicast = Ipv6Net::new_assert([0x2000, 0, 0, 0, 0, 0, 0, 0].into(), 3);
        let v6: u128 = Ipv6Net::aggregate(&v6)
            .iter()
            .map(|n| match (n.contains(&unicast), unicast.contains(n)) {
                (true, _) => 1 << GIVEN_OUT,
                (_, true) => 1_u128 << (128 - u32::from(n.prefix_len())),
                _ => 0,
            })
            .sum();
        v4 >= 1 << 31 || v6 >= 1 << (GIVEN_OUT - 1)
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

/// `[access]` and `[names]`, checked.
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
    /// The only local addresses that are served, loopback apart: a named one itself, a wildcard its whole
    /// family; `None` is every address. Set where systemd's sockets listen on more than the operator asked
    /// for.
    pub served: Option<Vec<IpAddr>>,
    /// Addresses of this host whose peers are strangers: a proxy has them. Heeded where connections are
    /// accepted, before anything is decided.
    pub strangers: BTreeSet<IpAddr>,
    /// `[names]`: which users may register which name.
    pub names: NameRules,
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
            strangers: BTreeSet::new(),
            names: NameRules::default(),
        }
    }
}

impl Rules {
    /// Decides one request. `node` is the name that is asked for, where there is one.
    #[must_use]
    pub fn decide(&self, ends: &Ends, operation: Operation, node: Option<&[u8]>) -> Decision {
        if !self.serves(ends.local().ip()) {
            return Decision::Refuse(Reason::AddressNotServed);
        }
        if ends.is_this_host() {
            return match operation {
                Operation::Register if self.forbidding(ends, node).is_some() => {
                    Decision::Refuse(Reason::NotOwner)
                }
                _ => Decision::Admit,
            };
        }
        let admitting = match operation {
            Operation::Lookup | Operation::Connect => node
                .and_then(|name| self.nodes.get(name))
                .unwrap_or(&self.allow),
            Operation::List => self.list.as_ref().unwrap_or(&self.allow),
            Operation::Register | Operation::Dump | Operation::Kill | Operation::Stop => {
                return Decision::Refuse(Reason::NotLocal);
            }
            Operation::Invalid | Operation::None => return Decision::Admit,
        };
        let peer = ends.peer().ip();
        let reason = if self.deny.contains(peer) {
            Reason::Denied
        } else if admitting.contains(peer) {
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

    /// The list that forbids the user at the other end to register this name, where one does: the one
    /// that a refusal with [`Reason::NotOwner`] names.
    #[must_use]
    pub fn forbidding(&self, ends: &Ends, node: Option<&[u8]>) -> Option<Setting> {
        self.names.forbidding(node?, ends.uid())
    }

    /// The setting whose networks [`Self::decide`] looks in for this request: the one that a refusal
    /// with [`Reason::NotAllowed`] names.
    #[must_use]
    pub fn setting(&self, operation: Operation, node: Option<&[u8]>) -> Option<Setting> {
        match operation {
            Operation::Lookup | Operation::Connect
                if node.is_some_and(|name| self.nodes.contains_key(name)) =>
            {
                Some(Setting::Node)
            }
            Operation::List if self.list.is_some() => Some(Setting::List),
            Operation::Lookup | Operation::Connect | Operation::List => Some(Setting::Allow),
            _ => None,
        }
    }

    /// Whether this peer may ask anything at all: a connection of its that asks nothing (a health
    /// check) is then no event.
    #[must_use]
    pub fn may_ask(&self, ends: &Ends) -> bool {
        let peer = ends.peer().ip();
        self.serves(ends.local().ip())
            && (ends.is_this_host()
                || (!self.deny.contains(peer)
                    && (!self.enforce
                        || self.allow.contains(peer)
                        || self.list.as_ref().is_some_and(|l| l.contains(peer))
                        || self.nodes.values().any(|n| n.contains(peer)))))
    }

    /// Whether connections to this local address are served.
    fn serves(&self, local: IpAddr) -> bool {
        let serves = |served: &IpAddr| {
            *served == local || (served.is_unspecified() && served.is_ipv4() == local.is_ipv4())
        };
        local.is_loopback() || self.served.as_ref().is_none_or(|s| s.iter().any(serves))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn networks(list: &[&str]) -> Networks {
        list.iter().map(|n| n.parse::<IpNet>().unwrap()).collect()
    }

    fn from_to(peer: &str, local: &str) -> Ends {
        let end = |address: &str| SocketAddr::new(address.parse().unwrap(), 1);
        Ends::new(end(peer), end(local))
    }

    fn peer(address: &str) -> Ends {
        from_to(address, "10.0.3.5")
    }

    fn rules() -> Rules {
        Rules {
            allow: networks(&["10.0.3.0/24", "fd00:3::/64"]),
            deny: networks(&["10.0.3.66/32"]),
            list: Some(networks(&["10.0.3.10/32", "10.0.3.66/32"])),
            nodes: HashMap::from([(
                b"wg_man"[..].into(),
                networks(&["10.0.3.0/28", "10.9.0.0/16"]),
            )]),
            ..Rules::default()
        }
    }

    const REFUSED: Decision = Decision::Refuse(Reason::NotAllowed);
    const DENIED: Decision = Decision::Refuse(Reason::Denied);
    const NOT_LOCAL: Decision = Decision::Refuse(Reason::NotLocal);

    #[test]
    fn lookups_go_by_allow_or_by_the_names_own_list() {
        let rules = rules();
        let lookup = |who: &str, name: &str| {
            rules.decide(&peer(who), Operation::Lookup, Some(name.as_bytes()))
        };
        assert_eq!(lookup("10.0.3.20", "api"), Decision::Admit);
        assert_eq!(lookup("fd00:3::9", "api"), Decision::Admit);
        assert_eq!(lookup("::ffff:10.0.3.20", "api"), Decision::Admit);
        assert_eq!(lookup("10.0.4.20", "api"), REFUSED);
        assert_eq!(lookup("10.0.3.66", "api"), DENIED);
        assert_eq!(lookup("::ffff:10.0.3.66", "api"), DENIED);
        assert_eq!(lookup("10.0.3.20", "wg_man"), REFUSED, "in place of allow");
        assert_eq!(lookup("10.0.3.9", "wg_man"), Decision::Admit);
        assert_eq!(lookup("10.9.1.1", "wg_man"), Decision::Admit);
        assert_eq!(lookup("10.9.1.1", "api"), REFUSED);
    }

    #[test]
    fn lists_go_by_list_and_without_it_by_allow() {
        let mut rules = rules();
        assert_eq!(
            rules.decide(&peer("10.0.3.10"), Operation::List, None),
            Decision::Admit
        );
        assert_eq!(
            rules.decide(&peer("10.0.3.20"), Operation::List, None),
            REFUSED
        );
        assert_eq!(
            rules.decide(&peer("10.0.3.66"), Operation::List, None),
            DENIED
        );
        rules.list = None;
        assert_eq!(
            rules.decide(&peer("10.0.3.20"), Operation::List, None),
            Decision::Admit
        );
    }

    #[test]
    fn this_host_may_everything_and_nothing_denies_it() {
        let mut rules = rules();
        rules.deny = networks(&["0.0.0.0/0", "::/0"]);
        for who in [
            "127.0.0.1",
            "127.0.1.1",
            "::1",
            "10.0.3.5",
            "::ffff:10.0.3.5",
            "::ffff:127.0.0.1",
        ] {
            for operation in Operation::ALL {
                assert_eq!(
                    rules.decide(&peer(who), operation, None),
                    Decision::Admit,
                    "{who}"
                );
            }
        }
    }

    #[test]
    fn only_this_host_registers_dumps_kills_and_stops() {
        let mut rules = rules();
        rules.enforce = false;
        for operation in [
            Operation::Register,
            Operation::Dump,
            Operation::Kill,
            Operation::Stop,
        ] {
            assert_eq!(rules.decide(&peer("10.0.3.20"), operation, None), NOT_LOCAL);
        }
    }

    #[test]
    fn with_enforce_off_it_only_says_what_it_would_refuse() {
        let mut rules = rules();
        rules.enforce = false;
        let would = |who: &str| rules.decide(&peer(who), Operation::List, None);
        assert_eq!(would("10.0.3.10"), Decision::Admit);
        assert_eq!(
            would("203.0.113.9"),
            Decision::WouldRefuse(Reason::NotAllowed)
        );
        assert_eq!(would("10.0.3.66"), Decision::WouldRefuse(Reason::Denied));
    }

    #[test]
    fn an_address_that_is_not_served_answers_nobody_but_loopback() {
        let mut rules = rules();
        rules.served = Some(vec!["10.0.3.7".parse().unwrap()]);
        let not_served = Decision::Refuse(Reason::AddressNotServed);
        assert_eq!(
            rules.decide(&peer("10.0.3.20"), Operation::Lookup, Some(b"api")),
            not_served
        );
        assert_eq!(
            rules.decide(&peer("10.0.3.5"), Operation::Register, None),
            not_served
        );
        assert_eq!(
            rules.decide(
                &from_to("127.0.0.1", "127.0.0.1"),
                Operation::Register,
                None
            ),
            Decision::Admit
        );
    }

    #[test]
    fn a_served_wildcard_is_its_whole_family_and_no_other() {
        let mut rules = rules();
        for (served, v4, v6) in [
            (&["0.0.0.0"][..], true, false),
            (&["::"], false, true),
            (&["::", "0.0.0.0"], true, true),
            (&["::", "10.0.3.5"], true, true),
            (&["10.0.3.5"], true, false),
            (&["::1", "127.0.0.1"], false, false),
            (&[], false, false),
        ] {
            rules.served = Some(served.iter().map(|a| a.parse().unwrap()).collect());
            for (peer, local, is_served) in [
                ("10.0.3.20", "10.0.3.5", v4),
                ("10.0.3.20", "::ffff:10.0.3.5", v4),
                ("fd00:3::9", "fd00:3::5", v6),
                ("10.0.3.5", "10.0.3.5", v4),
                ("127.0.0.1", "127.0.0.1", true),
                ("::1", "::1", true),
            ] {
                let decision = rules.decide(&from_to(peer, local), Operation::Lookup, Some(b"api"));
                let refused = decision == Decision::Refuse(Reason::AddressNotServed);
                assert_eq!(refused, !is_served, "{served:?}: {peer} to {local}");
            }
        }
    }

    #[test]
    fn who_may_ask_anything_is_known() {
        let rules = rules();
        for (who, may) in [
            ("127.0.0.1", true),
            ("10.0.3.20", true),
            ("10.9.1.1", true),
            ("10.0.3.66", false),
            ("203.0.113.9", false),
        ] {
            assert_eq!(rules.may_ask(&peer(who)), may, "{who}");
        }
    }

    #[test]
    fn what_admits_nearly_everybody_is_known_in_whatever_pieces() {
        let odd: Vec<String> = (0..256)
            .step_by(2)
            .map(|n| format!("{n}.0.0.0/8"))
            .collect();
        let odd: Vec<&str> = odd.iter().map(String::as_str).collect();
        for (list, nearly) in [
            (&["0.0.0.0/0", "::/0"][..], true),
            (&["0.0.0.0/1", "128.0.0.0/1"], true),
            (&["0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2"], true),
            (&odd, true),
            (&odd[1..], false),
            (&["::/0"], true),
            (&["2000::/3"], true),
            (&["2000::/4", "10.0.0.0/8"], true),
            (&["::/1"], true),
            (&["8000::/1", "fd00::/8", "10.0.0.0/8"], false),
            (&["64.0.0.0/2", "64.0.0.0/3", "65.0.0.0/8"], false),
            (&[], false),
        ] {
            assert_eq!(networks(list).admits_nearly_everybody(), nearly, "{list:?}");
        }
    }

    #[test]
    fn the_longest_prefix_structure_agrees_with_a_scan() {
        // A fixed sequence (xorshift) of nested and disjoint networks in a small part of the space,
        // so that they meet often.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..200 {
            let list: Vec<IpNet> = (0..random() % 12)
                .map(|_| {
                    let (bits, length) = (random(), random());
                    if bits % 2 == 0 {
                        let a = std::net::Ipv4Addr::from_bits(
                            0x0a00_0000 | (bits >> 40) as u32 & 0xfff,
                        );
                        IpNet::V4(Ipv4Net::new(a, (20 + length % 13) as u8).unwrap().trunc())
                    } else {
                        let a = std::net::Ipv6Addr::from_bits(0xfd << 120 | u128::from(bits >> 52));
                        IpNet::V6(Ipv6Net::new(a, (116 + length % 13) as u8).unwrap().trunc())
                    }
                })
                .collect();
            let set: Networks = list.iter().copied().collect();
            for _ in 0..200 {
                let bits = random();
                let address = if bits % 2 == 0 {
                    IpAddr::V4(std::net::Ipv4Addr::from_bits(
                        0x0a00_0000 | (bits >> 40) as u32 & 0x1fff,
                    ))
                } else {
                    IpAddr::V6(std::net::Ipv6Addr::from_bits(
                        0xfd << 120 | u128::from(bits >> 51),
                    ))
                };
                let scan = list.iter().any(|n| n.contains(&address));
                assert_eq!(set.contains(address), scan, "{address} in {list:?}");
            }
        }
    }
}

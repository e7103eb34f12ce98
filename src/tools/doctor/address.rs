//! Addresses with their zone: where a host's name leads to, and which this host has.
//!
//! A link-local address is one on each link, so it keeps its zone from the resolver to the connect. The
//! system's resolver is asked, within [`LIMIT`] where there may be a thread for it. Called by `node` and
//! `host`.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, ToSocketAddrs as _};

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_indextoname;
use nix::sys::socket::SockaddrStorage;
use serde::{Serialize, Serializer};
use socket2::{Domain, Socket, Type};

use super::LIMIT;
use super::ask::within;

/// An address of a host, without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tools) struct Address {
    pub(in crate::tools) ip: IpAddr,
    /// The interface's number; 0 where none is said.
    zone: u32,
}

impl Address {
    /// This port of it.
    pub(super) fn at(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V4(_) => SocketAddr::new(self.ip, port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.zone).into(),
        }
    }

    pub(super) const fn is_ipv6(&self) -> bool {
        self.ip.is_ipv6()
    }

    /// Whether it is link-local, and on which link it is stands nowhere: nothing can be sent there.
    pub(super) fn lacks_its_zone(&self) -> bool {
        self.zone == 0 && is_link_local(self.ip)
    }

    /// The name of its link, where it is one of one link.
    pub(super) fn link(&self) -> Option<String> {
        if self.zone == 0 {
            return None;
        }
        let name = if_indextoname(self.zone).ok();
        let name = name.map(|name| crate::core::audit::escape(name.to_bytes()));
        Some(name.unwrap_or_else(|| self.zone.to_string()))
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let zone = match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(address) => address.scope_id(),
        };
        let ip = address.ip();
        Self { ip, zone }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        Self { ip, zone: 0 }
    }
}

impl fmt::Display for Address {
    /// As it stands behind a node's `@`: `10.77.0.1`, `fd77::1`, `fe80::1%eth0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.link() {
            Some(link) => write!(f, "{}%{link}", self.ip),
            None => write!(f, "{}", self.ip),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether an address is good on one link alone.
pub(super) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The addresses of a host, those of one family first, or why there are none.
pub(in crate::tools) fn resolve(host: &str, ipv6_first: bool) -> Result<Vec<Address>, String> {
    let name = host.to_owned();
    let found = within(LIMIT, move || {
        let found = (name.as_str(), 0).to_socket_addrs();
        found.map(|all| all.map(Address::from).collect::<Vec<_>>())
    });
    let found = match found {
        Some(found) => found.map_err(|error| error.to_string())?,
        None => return Err(format!("the resolver gave no answer within {LIMIT:?}")),
    };
    let found = in_order(found, ipv6_first);
    if found.is_empty() {
        return Err("it has no address".to_owned());
    }
    Ok(found)
}

/// One family first, as nodes do; in it those that can be reached as they are; else in the resolver's
/// order, each once.
fn in_order(mut addresses: Vec<Address>, ipv6_first: bool) -> Vec<Address> {
    addresses.sort_by_key(|a| (a.is_ipv6() != ipv6_first, a.lacks_its_zone()));
    let mut unique = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    unique
}

/// This host's address towards another. A datagram socket knows as soon as it is connected, which
/// sends nothing.
pub(super) fn source(address: Address) -> Option<IpAddr> {
    let there = address.at(9);
    // Not bound to anything: a unit that may only connect may not do even that.
    let socket = Socket::new(Domain::for_address(there), Type::DGRAM, None).ok()?;
    socket.connect(&there.into()).ok()?;
    Some(socket.local_addr().ok()?.as_socket()?.ip())
}

/// This host's addresses, with their networks.
pub(in crate::tools) fn own_networks() -> Vec<IpNet> {
    let ip = |address: SockaddrStorage| -> Option<IpAddr> {
        let v4 = address.as_sockaddr_in().map(|a| a.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|a| a.ip().into()))
    };
    getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|i| IpNet::with_netmask(ip(i.address?)?, ip(i.netmask?)?).ok())
        .collect()
}

/// The addresses of these networks.
pub(in crate::tools) fn addresses(own: &[IpNet]) -> Vec<IpAddr> {
    own.iter().map(IpNet::addr).collect()
}

/// The links of this host on which a link-local address can be.
pub(super) fn links() -> Vec<String> {
    let mut links = Vec::new();
    for interface in getifaddrs().into_iter().flatten() {
        let has_one = interface
            .address
            .as_ref()
            .and_then(SockaddrStorage::as_sockaddr_in6)
            .is_some_and(|a| a.ip().is_unicast_link_local());
        if has_one && !links.contains(&interface.interface_name) {
            links.push(interface.interface_name);
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn parse(list: &[&str]) -> Vec<Address> {
        let of = |a: &&str| a.parse::<IpAddr>().unwrap().into();
        list.iter().map(of).collect()
    }

    #[test]
    fn addresses_are_examined_over_ipv4_first() {
        let all = [
            "fe80::1", "fd77::1", "10.0.0.2", "10.0.0.1", "fd77::1", "10.0.0.2",
        ];
        assert_eq!(
            in_order(parse(&all), false),
            parse(&["10.0.0.2", "10.0.0.1", "fd77::1", "fe80::1"])
        );
        assert_eq!(
            in_order(parse(&all), true),
            parse(&["fd77::1", "fe80::1", "10.0.0.2", "10.0.0.1"])
        );
    }

    #[test]
    fn a_link_local_address_keeps_its_zone_from_the_resolver_to_the_connect() {
        // Loopback is the link that every host has; it is number 1.
        for literal in ["fe80::1%lo", "fe80::1%1"] {
            let address = resolve(literal, false).unwrap()[0];
            assert_eq!(address.to_string(), "fe80::1%lo");
            assert_eq!(serde_json::to_string(&address).unwrap(), "\"fe80::1%lo\"");
            let SocketAddr::V6(at) = address.at(4369) else {
                panic!("{address}");
            };
            assert_eq!((at.scope_id(), at.port()), (1, 4369));
            assert!(!address.lacks_its_zone());
        }
        let bare = resolve("fe80::1", false).unwrap()[0];
        assert!(bare.lacks_its_zone());
        assert!(!resolve("fd77::1", false).unwrap()[0].lacks_its_zone());
    }

    #[test]
    fn this_hosts_own_address_is_known_without_a_packet() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(source(loopback.into()), Some(loopback));
    }
}

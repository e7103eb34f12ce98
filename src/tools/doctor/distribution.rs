//! What the failures of a node's own port are called, and what to do about each.
//!
//! As `words`, of which it is the second half: verdicts in, findings out. Called by `node`, and by `ports`
//! for addresses in Erlang's words.

use std::io;
use std::net::IpAddr;

use super::LIMIT;
use super::address::Address;
use super::judge::{self, Barrier};
use super::report::{Check, Code, Finding};
use super::words::{Place, family, nodes_of};
use crate::core::audit::{escape, escape_name};

/// No connection to the node itself.
pub(super) fn distribution_barred(
    place: &Place<'_>,
    distribution: u16,
    barrier: Barrier,
    why: &str,
) -> Finding {
    let address = place.address;
    let host = place.host();
    let name = escape_name(place.target.name.as_bytes());
    let (epmd, only) = match place.target.port {
        None => (
            "epmd answers, but ",
            ", such as a firewall that admits epmd's port alone",
        ),
        Some(_) => ("", ""),
    };
    let keep = "A node's port changes with every start, unless it is told a range that a rule can name:\n  \
                erl -kernel inet_dist_listen_min 9100 inet_dist_listen_max 9109";
    let (code, message, remedy) = match barrier {
        Barrier::NoAnswer => (
            Code::DistributionNoAnswer,
            format!(
                "{epmd}there is no answer from the node's own port, {address} port {distribution}, within \
                 {LIMIT:?}: something between here and there drops the packets{only}{}",
                place.link_unless_asked()
            ),
            format!("{}\n{keep}", place.where_lost(distribution)),
        ),
        Barrier::Refused => (
            Code::DistributionConnectionRefused,
            format!(
                "{epmd}{address} refuses connections to the node's own port {distribution}: the node does \
                 not listen on that address of {host} (or a firewall's rule there or on the way rejects them)"
            ),
            format!(
                "See on {host} whether it listens, and where:\n  \
                 ss -ltnp 'sport = :{distribution}'\n\
                 On another address: inet_dist_use_interface binds it there; set it to {}, or leave it out.\n\
                 Nowhere: the node \"{name}\" hangs, or runs in a container with a network of its own; restart it. One \
                 whose distribution is not TCP (ss -lunp 'sport = :{distribution}') can't be examined from here.\n\
                 On {address} or {}: a rule rejects this host; admit it, for example by\n  {}\n{keep}",
                erlang_address(address.ip),
                if address.is_ipv6() { "[::]" } else { "0.0.0.0" },
                place.rule(distribution)
            ),
        ),
        Barrier::Unreachable => (
            Code::DistributionUnreachable,
            format!(
                "{epmd}the node's own port, {address} port {distribution}, can't be reached: {why}; a \
                 firewall there or on the way refuses it"
            ),
            format!(
                "Admit this host on {host}, or where the way is barred, for example by\n  {}\n{keep}",
                place.rule(distribution)
            ),
        ),
    };
    Finding::fail(Check::Distribution, code, message, remedy)
}

/// The node's port answers at its host's address of the other family alone.
pub(super) fn one_family_only(
    place: &Place<'_>,
    distribution: u16,
    spare: Address,
    error: &io::Error,
) -> Finding {
    let address = place.address;
    let how = match judge::barrier(error) {
        Barrier::Refused => "refuses".to_owned(),
        Barrier::NoAnswer => format!("gives no answer within {LIMIT:?}"),
        Barrier::Unreachable => format!("can't be reached ({error})"),
    };
    let (option, others) = match spare.is_ipv6() {
        true => ("-proto_dist inet6_tcp", "nodes that are started without it"),
        false => (
            "-proto_dist inet_tcp",
            "nodes that are started with `-proto_dist inet6_tcp`",
        ),
    };
    Finding::warn(
        Check::Distribution,
        Code::OneFamilyOnly,
        format!(
            "reachable over {} alone: {spare} port {distribution} accepts connections, {address} {how}; so {} reach it, \
             and {others} do not",
            family(spare),
            nodes_of(spare)
        ),
        format!(
            "Start each node that is to reach it with the same option,\n  \
             {option}\n\
             and ask about it as such a node does:\n  \
             epmd -doctor {option} {}",
            escape(place.target.to_string().as_bytes())
        ),
    )
}

/// An address as Erlang writes it.
pub(super) fn erlang_address(address: IpAddr) -> String {
    let parts = match address {
        IpAddr::V4(v4) => v4.octets().map(|part| part.to_string()).join(","),
        IpAddr::V6(v6) => v6.segments().map(|part| format!("16#{part:x}")).join(","),
    };
    format!("{{{parts}}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Target;

    #[test]
    fn every_failure_names_both_hosts_in_what_to_do() {
        for (asked, begins) in [
            ("wg.man@api.test", "epmd answers, but "),
            ("wg.man@api.test:9100", ""),
        ] {
            let target = Target::parse(asked).unwrap();
            let place = Place {
                target: &target,
                address: "10.77.0.1".parse::<IpAddr>().unwrap().into(),
                spare: None,
                port: 4369,
                from: "10.77.0.2".parse().ok(),
                is_there: None,
            };
            for barrier in [Barrier::NoAnswer, Barrier::Refused, Barrier::Unreachable] {
                let finding = distribution_barred(&place, 9100, barrier, "No route to host");
                let remedy = finding.remedy.as_deref().unwrap();
                assert!(remedy.contains("api.test"), "{remedy}");
                assert!(remedy.contains("10.77.0.2"), "{remedy}");
                assert!(!finding.message.contains('\n'));
                assert!(finding.message.starts_with(begins), "{}", finding.message);
                assert_eq!(finding.message.contains("epmd"), !begins.is_empty());
            }
        }
    }

    #[test]
    fn addresses_as_erlang_writes_them() {
        assert_eq!(erlang_address("10.77.0.1".parse().unwrap()), "{10,77,0,1}");
        assert_eq!(
            erlang_address("fd77::1".parse().unwrap()),
            "{16#fd77,16#0,16#0,16#0,16#0,16#0,16#0,16#1}"
        );
    }
}

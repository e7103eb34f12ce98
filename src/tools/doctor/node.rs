//! One `node@host`, from its name to its distribution port.
//!
//! Takes the way that a node of OTP takes: resolve, look up, connect. Sends one lookup to an address
//! (one to IPv4, and one to IPv6 where IPv4 fails; the other way round for nodes of `inet6_tcp`), a list
//! where the name is not registered, and nothing at all to the distribution port. Called by `doctor`,
//! once for each node, side by side.

use std::io;
use std::time::Instant;

use super::address::{Address, links, own_networks, resolve, source};
use super::ask::{ask, connect, one_or_other};
use super::judge::{self, Answer, Barrier, Listed, Lookup};
use super::report::{Check, Finding, NodeReport};
use super::words::{self, Others, Place};
use super::{LIMIT, distribution, kernel};
use crate::config::Target;
use crate::core::wire::{self, Request};

/// How nodes are examined.
#[derive(Clone, Copy, Debug)]
pub(in crate::tools) struct How {
    /// epmd's port.
    pub(in crate::tools) port: u16,
    /// Whether IPv6 is asked first.
    pub(in crate::tools) over_ipv6: bool,
    /// Whether an epmd that does not know the name is asked which names it knows.
    pub(in crate::tools) lists: bool,
}

/// Examines one node.
pub(in crate::tools) fn examine(target: &Target, how: How) -> NodeReport {
    let mut findings = Vec::new();
    let address = match resolve(&target.host, how.over_ipv6) {
        Ok(addresses) => examine_addresses(target, &addresses, how, &mut findings),
        Err(why) => {
            findings.push(words::unresolved(&target.host, &why));
            None
        }
    };
    NodeReport::new(target.to_string(), address, findings)
}

/// The rest, once there are addresses; gives the one that was examined.
fn examine_addresses(
    target: &Target,
    addresses: &[Address],
    how: How,
    findings: &mut Vec<Finding>,
) -> Option<Address> {
    let (&address, others) = addresses.split_first()?;
    findings.push(words::resolved(&target.host, address, others));
    let mut place = Place {
        target,
        address,
        spare: others
            .iter()
            .copied()
            .find(|a| a.is_ipv6() != address.is_ipv6() && !a.lacks_its_zone()),
        port: how.port,
        from: source(address),
        is_there: None,
    };
    if address.lacks_its_zone() {
        findings.push(words::no_zone(&place, &links()));
        return Some(address);
    }
    let port = match target.port {
        Some(port) => Some(port),
        None => look_up(&mut place, how.lists, findings),
    };
    if let Some(port) = port {
        findings.push(reach(&mut place, port));
    }
    Some(address)
}

/// Asks the epmd for the node's port.
fn look_up(place: &mut Place<'_>, lists: bool, findings: &mut Vec<Finding>) -> Option<u16> {
    let name = place.target.name.as_bytes();
    let deadline = Instant::now() + LIMIT;
    let ask_at = |address: Address| {
        ask(
            address.at(place.port),
            &Request::Lookup(name),
            wire::MAX_FOUND,
            deadline,
        )
    };
    let first = place.address;
    let spare = place.spare.map(|spare| move || ask_at(spare));
    let (answer, over_spare) = one_or_other(|| ask_at(first), io::Result::is_ok, spare);
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let barrier = judge::barrier(&error);
            if barrier == Barrier::NoAnswer {
                place.is_there = kernel::is_there(first.ip);
            }
            let answers = |answer: Answer| {
                matches!(
                    judge::lookup(&answer, name),
                    Lookup::Found(_) | Lookup::NotRegistered
                )
            };
            let there = over_spare.and_then(Result::ok).is_some_and(answers);
            findings.push(words::epmd_barred(
                place,
                barrier,
                &error.to_string(),
                there,
            ));
            return None;
        }
    };
    let finding = match judge::lookup(&answer, name) {
        Lookup::Found(distribution) => {
            findings.push(words::answers(place));
            findings.push(words::registered(distribution));
            return Some(distribution);
        }
        Lookup::NotRegistered => {
            findings.push(words::answers(place));
            let others = if lists { list(place) } else { Others::Unknown };
            words::not_registered(place, &others)
        }
        Lookup::Refused => words::epmd_refuses(place),
        Lookup::Silent => words::epmd_silent(place),
        Lookup::NotAnEpmd => words::not_an_epmd(place, &answer.bytes),
    };
    findings.push(finding);
    None
}

/// Which names are registered there.
fn list(place: &Place<'_>) -> Others {
    let deadline = Instant::now() + LIMIT;
    let address = place.address.at(place.port);
    let Ok(answer) = ask(address, &Request::List, wire::MAX_LISTING, deadline) else {
        return Others::Unknown;
    };
    match judge::listed(&answer, place.port) {
        Listed::Names(listing) => Others::Names(
            listing
                .nodes
                .iter()
                .map(|(name, _)| name.to_vec())
                .collect(),
        ),
        Listed::Refused => Others::Refused,
        Listed::Silent | Listed::NotAnEpmd => Others::Unknown,
    }
}

/// Connects to the distribution port, and sends nothing: at the one address, and at one of the other
/// family where that fails.
fn reach(place: &mut Place<'_>, own_port: u16) -> Finding {
    if own_port == 0 {
        let text = "registered with port 0, which is not TCP: a distribution of its own, which is not examined";
        return Finding::ok(Check::Distribution, text);
    }
    let deadline = Instant::now() + LIMIT;
    let connect_at = |address: Address| connect(address.at(own_port), deadline);
    let first = place.address;
    let spare = place.spare.map(|spare| move || connect_at(spare));
    let (connected, over_spare) = one_or_other(|| connect_at(first), io::Result::is_ok, spare);
    let error = match (connected, place.spare, over_spare) {
        (Ok(()), ..) => {
            return Finding::ok(
                Check::Distribution,
                format!("reachable: {first} port {own_port} accepts connections"),
            );
        }
        (Err(error), Some(spare), Some(Ok(()))) => {
            return distribution::one_family_only(place, own_port, spare, &error);
        }
        (Err(error), ..) => error,
    };
    let barrier = judge::barrier(&error);
    if barrier == Barrier::Refused && is_own(first) && kernel::is_udp(own_port) {
        let text = format!(
            "{first} port {own_port} is UDP's, not TCP: a distribution of its own, which is not examined"
        );
        return Finding::ok(Check::Distribution, text);
    }
    if barrier == Barrier::NoAnswer {
        place.is_there = kernel::is_there(first.ip);
    }
    distribution::distribution_barred(place, own_port, barrier, &error.to_string())
}

/// Whether it is an address of this host's.
fn is_own(address: Address) -> bool {
    address.ip.is_loopback() || own_networks().iter().any(|net| net.addr() == address.ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::report::Code;

    const HOW: How = How {
        port: 4369,
        over_ipv6: false,
        lists: true,
    };

    #[test]
    fn what_is_no_host_is_unresolved() {
        let target = Target::parse("a@name.invalid").unwrap();
        let report = examine(&target, HOW);
        assert_eq!(report.address, None);
        assert_eq!(report.checks.len(), 1);
        assert_eq!(report.checks[0].code, Some(Code::Unresolved));
    }

    #[test]
    fn a_link_local_address_without_a_zone_is_told_as_such() {
        for (text, code) in [
            ("a@fe80::1", Code::EpmdUnreachable),
            ("a@[fe80::1]:9100", Code::DistributionUnreachable),
        ] {
            let report = examine(&Target::parse(text).unwrap(), HOW);
            let last = report.checks.last().unwrap();
            assert_eq!(last.code, Some(code));
            assert!(last.message.contains("zone"), "{}", last.message);
        }
    }
}

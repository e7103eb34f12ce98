//! The distribution ports of this host's nodes: who listens there, whom that lets in, and the rules that
//! would let in fewer.
//!
//! Facts in, findings out; it looks at nothing. A rule never shuts out the family of addresses that a
//! cluster uses. Called by `host` and `settings`.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::address::is_link_local;
use super::distribution::erlang_address;
use super::report::{Check, Code, Finding};
use crate::core::audit::escape_again;
use crate::core::follow::Guard;

/// The port with which a node is registered.
pub(super) struct Port<'a> {
    pub(super) number: u16,
    /// Where somebody listens on it; `None` where that could not be looked at.
    pub(super) addresses: Option<&'a [IpAddr]>,
    /// Whether a UDP socket has it, and none that listens.
    pub(super) is_udp: bool,
    /// How the guard is, where one runs.
    pub(super) guard: Option<&'a Guard>,
}

/// Whether a registered node's port is listened on, and where.
pub(super) fn distribution(name: &str, port: &Port<'_>, own: &[IpNet]) -> Finding {
    let number = port.number;
    let finding = match port.addresses {
        _ if number == 0 => Finding::ok(
            Check::Distribution,
            format!("\"{name}\" is registered with port 0, which is not TCP: nothing to look at"),
        ),
        None => Finding::ok(
            Check::Distribution,
            format!(
                "\"{name}\" is registered with port {number}; who listens there could not be looked at"
            ),
        ),
        Some([]) if port.is_udp => Finding::ok(
            Check::Distribution,
            format!("\"{name}\" has port {number} of UDP, not TCP: a distribution of its own"),
        ),
        Some([]) => Finding::fail(
            Check::Distribution,
            Code::DistributionNotListening,
            format!(
                "\"{name}\" is registered with port {number}, on which nobody listens: no node can connect to it"
            ),
            format!(
                "See whether \"{name}\" still runs, and with which port (ss -ltnp | grep beam); restart it. In a \
                 container with a network of its own, it needs an epmd of its own there, or the host's network."
            ),
        ),
        Some(addresses) if addresses.iter().all(IpAddr::is_loopback) => {
            listens_on(name, number, addresses)
        }
        Some(addresses) => match port.guard {
            Some(guard) => guarded(name, number, addresses, guard),
            None if addresses.iter().any(IpAddr::is_unspecified) => {
                everywhere(name, number, addresses, own)
            }
            None => listens_on(name, number, addresses),
        },
    };
    finding.about(name)
}

fn listens_on(name: &str, port: u16, addresses: &[IpAddr]) -> Finding {
    let text = format!("\"{name}\" listens on {} port {port}", list(addresses));
    Finding::ok(Check::Distribution, text)
}

/// A guard runs: whether it covers the port.
fn guarded(name: &str, port: u16, addresses: &[IpAddr], guard: &Guard) -> Finding {
    let listens = format!("\"{name}\" listens on {} port {port}", list(addresses));
    let left = guard.left_alone.iter().find(|left| left.port == port);
    let (why, remedy) = match (left, &guard.in_step_since) {
        (None, Some(_)) => {
            let text =
                format!("{listens}, guarded: who may look it up may connect to it, nobody else");
            return Finding::ok(Check::Distribution, text);
        }
        (Some(left), _) => (
            escape_again(&left.why),
            "See who listens there, and that each node is registered by the user that runs it:\n  \
             ss -ltnp; epmd -status",
        ),
        (None, None) => (
            match &guard.trouble {
                Some(trouble) => escape_again(trouble),
                None => "the guard is not in step yet".to_owned(),
            },
            "See what the guard says of it, and what is in force:\n  \
             journalctl -u hardened-epmd-guard\n  epmd -guard -check",
        ),
    };
    let text = format!("{listens}, and the guard does not guard it: {why}");
    Finding::warn(Check::Distribution, Code::NotGuarded, text, remedy)
}

fn everywhere(name: &str, port: u16, addresses: &[IpAddr], own: &[IpNet]) -> Finding {
    let over_ipv6 = addresses.iter().any(IpAddr::is_ipv6);
    // One that listens on [::] alone is of `inet6_tcp`: an IPv4 address would take it from its peers.
    let only_ipv6 = addresses.iter().all(IpAddr::is_ipv6);
    let usable = |net: &&IpNet| net.addr().is_ipv6() == only_ipv6 && is_for_others(net);
    let bind = own.iter().find(usable).map(|net| {
        format!(
            "Bind it to the address that the cluster uses, at its start:\n  \
             -kernel inet_dist_use_interface '{}'\nor admit",
            erlang_address(net.addr())
        )
    });
    Finding::warn(
        Check::Distribution,
        Code::DistributionListensEverywhere,
        format!(
            "\"{name}\" listens on every address ({}), port {port}: whoever finds the port gets as far as its \
             cookie, and an epmd that hides it does not protect it",
            list(addresses)
        ),
        format!(
            "{} the cluster's hosts alone to that port (fixed by inet_dist_listen_min and _max), for example by\n{}",
            bind.as_deref().unwrap_or("Admit"),
            only_from(own, port, over_ipv6)
        ),
    )
}

fn list(addresses: &[IpAddr]) -> String {
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    list.join(", ")
}

/// Whether other hosts may use this address of this host's.
fn is_for_others(net: &IpNet) -> bool {
    !net.addr().is_loopback() && !is_link_local(net.addr())
}

/// Rules that let this host and its own networks alone reach a port.
pub(super) fn only_from(own: &[IpNet], port: u16, over_ipv6: bool) -> String {
    let own = own
        .iter()
        .filter(|net| is_for_others(net))
        .map(IpNet::trunc);
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for net in own {
        match net {
            IpNet::V4(net) => v4.push(net),
            IpNet::V6(net) => v6.push(net),
        }
    }
    if v4.is_empty() {
        v4.push(Ipv4Net::new_assert([10, 0, 3, 0].into(), 24));
    }
    let rule = "nft insert rule inet filter input iifname != \"lo\"";
    let line = |which: &str| format!("  {rule} {which} tcp dport {port} drop");
    let mut lines = vec![line(&format!(
        "ip saddr != {}",
        set(&Ipv4Net::aggregate(&v4))
    ))];
    if over_ipv6 && v6.is_empty() {
        lines.push(line("meta nfproto ipv6"));
    } else if over_ipv6 {
        v6.push(Ipv6Net::new_assert(
            [0xfe80, 0, 0, 0, 0, 0, 0, 0].into(),
            10,
        ));
        lines.push(line(&format!(
            "ip6 saddr != {}",
            set(&Ipv6Net::aggregate(&v6))
        )));
    }
    lines.join("\n")
}

/// Networks as nft writes them.
fn set(networks: &[impl ToString]) -> String {
    let all: Vec<_> = networks.iter().map(ToString::to_string).collect();
    match all.as_slice() {
        [one] => one.clone(),
        all => format!("{{ {} }}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::report::Grade;

    fn own() -> Vec<IpNet> {
        let all = [
            "127.0.0.1/8",
            "::1/128",
            "10.77.0.1/24",
            "fe80::5/64",
            "fd77::1/64",
        ];
        all.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn find(port: u16, addresses: Option<&[&str]>, is_udp: bool) -> Finding {
        let addresses: Option<Vec<IpAddr>> =
            addresses.map(|all| all.iter().map(|a| a.parse().unwrap()).collect());
        let port = Port {
            number: port,
            addresses: addresses.as_deref(),
            is_udp,
            guard: None,
        };
        distribution("api", &port, &own())
    }

    #[test]
    fn distribution_ports() {
        let none = find(9100, Some(&[]), false);
        assert_eq!(none.code, Some(Code::DistributionNotListening));
        assert_eq!(none.result, Grade::Fail);
        for everywhere in [&["0.0.0.0"][..], &["127.0.0.1", "::"], &["0.0.0.0", "::"]] {
            let finding = find(9100, Some(everywhere), false);
            assert_eq!(finding.code, Some(Code::DistributionListensEverywhere));
            assert_eq!(finding.result, Grade::Warn);
            let remedy = finding.remedy.unwrap();
            assert!(
                remedy.contains("inet_dist_use_interface '{10,77,0,1}'"),
                "{remedy}"
            );
            assert!(
                remedy.contains("ip saddr != 10.77.0.0/24 tcp dport 9100 drop"),
                "{remedy}"
            );
        }
        let one = find(9100, Some(&["10.77.0.1"]), false);
        assert_eq!((one.result, one.node.as_deref()), (Grade::Ok, Some("api")));
    }

    #[test]
    fn a_port_that_is_not_of_tcp_or_can_not_be_looked_at_is_no_failure() {
        for finding in [find(9100, Some(&[]), true), find(0, Some(&[]), false)] {
            assert_eq!(finding.result, Grade::Ok);
            assert!(finding.message.contains("not TCP"), "{}", finding.message);
        }
        let unseen = find(9100, None, false);
        assert_eq!(unseen.result, Grade::Ok);
        assert!(unseen.message.contains("could not be looked at"));
    }

    #[test]
    fn where_a_guard_runs_it_is_said_whether_a_port_is_guarded() {
        let everywhere: [IpAddr; 1] = [[0, 0, 0, 0].into()];
        let with = |guard: &Guard| {
            let port = Port {
                number: 9100,
                addresses: Some(&everywhere),
                is_udp: false,
                guard: Some(guard),
            };
            distribution("api", &port, &own())
        };
        let mut guard = Guard {
            in_step_since: Some("2026-11-25T09:00:00.000Z".into()),
            ..Guard::default()
        };
        let covered = with(&guard);
        assert_eq!((covered.result, covered.code), (Grade::Ok, None));
        assert!(covered.message.contains("guarded"), "{}", covered.message);
        guard.left_alone.push(crate::core::follow::LeftAlone {
            port: 9100,
            node: Some("api".into()),
            why: "user 0 listens there".into(),
        });
        for guard in [guard, Guard::default()] {
            let open = with(&guard);
            assert_eq!(
                (open.result, open.code),
                (Grade::Warn, Some(Code::NotGuarded))
            );
            assert!(open.remedy.is_some(), "{}", open.message);
        }
    }

    #[test]
    fn no_remedy_takes_a_node_of_ipv6_from_its_peers() {
        let remedy = find(9100, Some(&["::"]), false).remedy.unwrap();
        assert!(
            remedy.contains("inet_dist_use_interface '{16#fd77,16#0,"),
            "{remedy}"
        );
        assert!(!remedy.contains("{10,77,0,1}"), "{remedy}");
        assert!(
            remedy.contains("ip6 saddr != { fd77::/64, fe80::/10 } tcp dport 9100 drop"),
            "{remedy}"
        );
        let alone = only_from(&["10.77.0.1/24".parse().unwrap()], 9100, true);
        assert!(
            alone.contains("meta nfproto ipv6 tcp dport 9100 drop"),
            "{alone}"
        );
        let two = ["10.77.0.1/24", "10.77.0.7/16", "10.9.0.1/24"].map(|net| net.parse().unwrap());
        let two = only_from(&two, 9100, false);
        assert!(
            two.contains("ip saddr != { 10.9.0.0/24, 10.77.0.0/16 }"),
            "{two}"
        );
    }
}

//! What a node's failures are called, and what to do about each: sentences that name hosts and
//! addresses.
//!
//! Verdicts in, findings out. A remedy is a command to run, or a line to add, and says where. It looks
//! at nothing. Called by `node`.

use std::net::IpAddr;

use super::LIMIT;
use super::judge::Barrier;
use super::report::{Check, Code, Finding};
use crate::config::Target;
use crate::core::audit::{escape, escape_name};

/// How many registered names are shown; the rest is counted.
const MOST_NAMES: usize = 20;
/// How many bytes of an answer are shown that no epmd gives.
const MOST_BYTES: usize = 32;

/// What is being reached, from where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The node.
    pub(super) target: &'a Target,
    /// The address that is examined.
    pub(super) address: IpAddr,
    /// epmd's port.
    pub(super) port: u16,
    /// This host's address towards it; `None` where there is no route.
    pub(super) from: Option<IpAddr>,
    /// Whether its host answers on the link, where that is known.
    pub(super) is_there: Option<bool>,
}

impl Place<'_> {
    fn host(&self) -> &str {
        &self.target.host
    }

    /// This host's address, for a command or a line to be added.
    fn us(&self) -> String {
        self.from
            .map_or_else(|| "THIS_HOSTS_ADDRESS".to_owned(), |from| from.to_string())
    }

    /// The rule that admits this host to a port.
    fn rule(&self, port: u16) -> String {
        let family = if self.address.is_ipv4() { "ip" } else { "ip6" };
        format!(
            "nft insert rule inet filter input {family} saddr {} tcp dport {port} accept",
            self.us()
        )
    }

    /// How to find out where packets get lost.
    fn where_lost(&self, port: u16) -> String {
        let (host, us) = (self.host(), self.us());
        format!(
            "See on {host} whether they arrive, while this host tries again:\n  \
             tcpdump -ni any 'host {us} and tcp port {port}'\n\
             If they do, a rule on {host} drops them (nft list ruleset); admit this host there, for example by\n  \
             {}\n\
             If not, it is a rule on this host (nft list ruleset) or on the way: a router, a security group, a VPN.",
            self.rule(port)
        )
    }

    /// What the link says of a host that does not answer.
    fn link(&self) -> String {
        let host = self.host();
        match self.is_there {
            Some(true) => format!("; {host} was seen on the link lately (ARP), so it is likely up"),
            Some(false) => format!(
                "; nobody on the link has the address {} (ARP): is {host} up, and is that its address?",
                self.address
            ),
            None => format!("; or {host} is down"),
        }
    }
}

/// No connection to the epmd.
pub(super) fn epmd_barred(place: &Place<'_>, barrier: Barrier, why: &str) -> Finding {
    let Place { address, port, .. } = place;
    let host = place.host();
    let (code, message, remedy) = match barrier {
        Barrier::NoAnswer => (
            Code::EpmdNoAnswer,
            format!(
                "no answer from {address} port {port} within {LIMIT:?}: something between here and there drops the packets, \
                 such as a firewall's rule. It is not {host}'s epmd: that would answer, refuse or close, and without \
                 one {host} would refuse at once{}",
                place.link()
            ),
            place.where_lost(*port),
        ),
        Barrier::Refused => (
            Code::EpmdConnectionRefused,
            format!(
                "{address} refuses connections to port {port}: no epmd listens on that address of {host} \
                 (or a firewall's rule there or on the way rejects them)"
            ),
            format!(
                "See on {host} whether an epmd runs, and on which addresses it listens:\n  \
                 ss -ltnp 'sport = :{port}'\n\
                 On 127.0.0.1 alone: ERL_EPMD_ADDRESS, -address, epmd.socket, or listen in /etc/epmd.toml binds it there; \
                 add {address} to it (listen = [\"{address}\"]), or take it away, and restart that epmd.\n\
                 Nothing there: start it (systemctl start epmd).\n\
                 On {address}, 0.0.0.0 or [::]: a rule rejects this host; admit it, for example by\n  \
                 {}",
                place.rule(*port)
            ),
        ),
        Barrier::Unreachable => (
            Code::EpmdUnreachable,
            format!(
                "{address} can't be reached: {why}. This host has no route to it, or a router or firewall on the way \
                 says so; {host}'s epmd was never asked"
            ),
            format!(
                "See how this host gets there:\n  ip route get {address}\n\
                 If there is a way, a rule on it refuses port {port} (nft list ruleset, here and on {host}); \
                 admit this host there, for example by\n  {}",
                place.rule(*port)
            ),
        ),
    };
    Finding::fail(Check::Epmd, code, message, remedy)
}

/// It accepted, and said nothing, or not enough.
pub(super) fn epmd_silent(place: &Place<'_>) -> Finding {
    let Place { address, port, .. } = place;
    let host = place.host();
    Finding::fail(
        Check::Epmd,
        Code::EpmdNoAnswer,
        format!(
            "{address} accepted the connection to port {port}, and gave no answer within {LIMIT:?}: whatever listens \
             there hangs, is stopped, or has too many connections open; a firewall would not have let it be accepted"
        ),
        format!(
            "See on {host} what listens there, and whether connections queue up (Recv-Q):\n  \
             ss -ltnp 'sport = :{port}'\n\
             Then restart that epmd; nodes of OTP register again by themselves."
        ),
    )
}

/// It closed without a byte.
pub(super) fn epmd_refuses(place: &Place<'_>) -> Finding {
    let Place {
        address,
        port,
        target,
        ..
    } = place;
    let (host, us) = (place.host(), place.us());
    let key = crate::config::key(&target.name);
    Finding::fail(
        Check::Epmd,
        Code::EpmdRefusesUs,
        format!(
            "{address} accepted the connection to port {port}, and closed it without an answer: the epmd of {host} \
             refuses lookups of \"{}\" from this host's address {us}, by its allow-list",
            escape_name(target.name.as_bytes())
        ),
        format!(
            "See on {host} why:\n  \
             journalctl -t epmd EPMD_PEER={us}\n\
             and admit this host in /etc/epmd.toml there, beside what the lists hold already:\n  \
             [access]\n  \
             allow = [\"{us}\"]\n\
             and, where there is such a table, which counts in place of it for this name:\n  \
             [access.node.{key}]\n  \
             allow = [\"{us}\"]\n\
             (no line under deny may cover it), then\n  \
             epmd -check_config && systemctl reload epmd"
        ),
    )
}

/// Something else answers.
pub(super) fn not_an_epmd(place: &Place<'_>, bytes: &[u8]) -> Finding {
    let Place { address, port, .. } = place;
    let host = place.host();
    let shown = escape(bytes.get(..MOST_BYTES).unwrap_or(bytes));
    Finding::fail(
        Check::Epmd,
        Code::NotAnEpmd,
        format!("what answers on {address} port {port} is no epmd: it said \"{shown}\""),
        format!(
            "See on {host} what listens there, and give that port back to epmd:\n  \
             ss -ltnp 'sport = :{port}'"
        ),
    )
}

/// What the list that was asked after a name that is not registered gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// These names are registered.
    Names(Vec<Vec<u8>>),
    /// It lets this host look up, but not list.
    Refused,
    /// No answer to a list.
    Unknown,
}

/// The epmd knows no such name.
pub(super) fn not_registered(place: &Place<'_>, others: &Others) -> Finding {
    let (host, port) = (place.host(), place.port);
    let name = escape_name(place.target.name.as_bytes());
    let others = match others {
        Others::Names(names) if names.is_empty() => "; no name is".to_owned(),
        Others::Names(names) => format!("; registered there: {}", shown(names)),
        Others::Refused => "; which names are, it does not tell this host".to_owned(),
        Others::Unknown => String::new(),
    };
    Finding::fail(
        Check::Lookup,
        Code::NotRegistered,
        format!("\"{name}\" is not registered with the epmd of {host}{others}"),
        format!(
            "See on {host} whether the node runs, and under which name:\n  \
             epmd -names; ps -eo args | grep '[b]eam.*name'\n\
             A node that runs and is not in the list asks another epmd: see whether it has ERL_EPMD_PORT (here it \
             is port {port}), `-start_epmd false` with no epmd there yet, or runs in a container with a network of its own."
        ),
    )
}

/// Names for people: the first of them, and how many more there are.
pub(super) fn shown<T: AsRef<[u8]>>(names: &[T]) -> String {
    let mut shown: Vec<_> = names
        .iter()
        .take(MOST_NAMES)
        .map(|n| escape_name(n.as_ref()))
        .collect();
    if let Some(rest) = names.len().checked_sub(MOST_NAMES).filter(|rest| *rest > 0) {
        shown.push(format!("and {rest} more"));
    }
    shown.join(", ")
}

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
    let keep = "A node's port changes with every start, unless it is told a range that a rule can name:\n  \
                erl -kernel inet_dist_listen_min 9100 inet_dist_listen_max 9109";
    let (code, message, remedy) = match barrier {
        Barrier::NoAnswer => (
            Code::DistributionNoAnswer,
            format!(
                "epmd answers, but there is no answer from the node's own port, {address} port {distribution}, within \
                 {LIMIT:?}: something between here and there drops the packets, such as a firewall that admits epmd's \
                 port alone"
            ),
            format!("{}\n{keep}", place.where_lost(distribution)),
        ),
        Barrier::Refused => (
            Code::DistributionConnectionRefused,
            format!(
                "epmd answers, but {address} refuses connections to the node's own port {distribution}: the node does \
                 not listen on that address of {host} (or a firewall's rule there or on the way rejects them)"
            ),
            format!(
                "See on {host} whether it listens, and where:\n  \
                 ss -ltnp 'sport = :{distribution}'\n\
                 On another address: inet_dist_use_interface binds it there; set it to {}, or leave it out.\n\
                 Nowhere: the node \"{name}\" hangs, or runs in a container with a network of its own; restart it.\n\
                 On {address} or 0.0.0.0: a rule rejects this host; admit it, for example by\n  {}\n{keep}",
                erlang_address(address),
                place.rule(distribution)
            ),
        ),
        Barrier::Unreachable => (
            Code::DistributionUnreachable,
            format!(
                "epmd answers, but the node's own port, {address} port {distribution}, can't be reached: {why}; a \
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

    fn with_place(is_there: Option<bool>, test: impl FnOnce(&Place<'_>)) {
        let target = Target::parse("wg.man@api.test").unwrap();
        test(&Place {
            target: &target,
            address: "10.77.0.1".parse().unwrap(),
            port: 4369,
            from: "10.77.0.2".parse().ok(),
            is_there,
        });
    }

    #[test]
    fn every_failure_names_both_hosts_in_what_to_do() {
        with_place(None, |place| {
            let barriers = [Barrier::NoAnswer, Barrier::Refused, Barrier::Unreachable];
            let mut all = vec![epmd_refuses(place)];
            for barrier in barriers {
                all.push(epmd_barred(place, barrier, "No route to host"));
                all.push(distribution_barred(
                    place,
                    9100,
                    barrier,
                    "No route to host",
                ));
            }
            for finding in &all {
                let remedy = finding.remedy.as_deref().unwrap();
                assert!(remedy.contains("api.test"), "{remedy}");
                assert!(remedy.contains("10.77.0.2"), "{remedy}");
                assert!(!finding.message.contains('\n'));
            }
            for finding in [
                epmd_silent(place),
                not_an_epmd(place, b""),
                not_registered(place, &Others::Unknown),
            ] {
                assert!(finding.remedy.unwrap().contains("on api.test"));
            }
        });
    }

    #[test]
    fn a_refusal_names_both_tables() {
        with_place(None, |place| {
            let remedy = epmd_refuses(place).remedy.unwrap();
            assert!(
                remedy.contains("\n  [access]\n  allow = [\"10.77.0.2\"]\n"),
                "{remedy}"
            );
            assert!(
                remedy.contains("\n  [access.node.\"wg.man\"]\n  allow = [\"10.77.0.2\"]\n"),
                "{remedy}"
            );
        });
    }

    #[test]
    fn the_link_says_whether_the_host_is_up() {
        let message = |is_there| {
            let mut message = String::new();
            with_place(is_there, |place| {
                message = epmd_barred(place, Barrier::NoAnswer, "").message;
            });
            message
        };
        assert!(
            message(Some(true))
                .ends_with("; api.test was seen on the link lately (ARP), so it is likely up")
        );
        assert!(message(Some(false)).contains("nobody on the link has the address 10.77.0.1"));
        assert!(message(None).ends_with("; or api.test is down"));
    }

    #[test]
    fn what_strangers_say_is_escaped_and_bounded() {
        with_place(None, |place| {
            let message = not_an_epmd(place, &[b'\n'; 100]).message;
            assert!(
                message.ends_with(&format!("\"{}\"", "\\n".repeat(MOST_BYTES))),
                "{message}"
            );
            let names: Vec<_> = (0..25).map(|n| format!("n{n}\n").into_bytes()).collect();
            let message = not_registered(place, &Others::Names(names)).message;
            assert!(
                message.contains("registered there: n0\\n, n1\\n"),
                "{message}"
            );
            assert!(message.ends_with("n19\\n, and 5 more"), "{message}");
        });
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

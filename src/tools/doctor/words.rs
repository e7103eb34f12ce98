//! What the failures on the way to a node's epmd are called, and what to do about each: sentences that
//! name hosts and addresses.
//!
//! Verdicts in, findings out. A remedy is a command to run, or a line to add, and says where. It looks
//! at nothing. Called by `node`.

use std::net::IpAddr;

use super::LIMIT;
use super::address::{Address, is_link_local};
use super::judge::Barrier;
use super::report::{Check, Code, Finding};
use crate::config::Target;
use crate::core::audit::{escape, escape_name};

/// How many registered names are shown; the rest is counted.
const MOST_NAMES: usize = 20;
/// Of so many links each is shown as a way to complete an address.
const MOST_LINKS: usize = 5;
/// How many bytes of an answer are shown that no epmd gives.
const MOST_BYTES: usize = 32;

/// What is being reached, from where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The node.
    pub(super) target: &'a Target,
    /// The address that is examined.
    pub(super) address: Address,
    /// One of the other family, where its name has one.
    pub(super) spare: Option<Address>,
    /// epmd's port.
    pub(super) port: u16,
    /// This host's address towards it; `None` where there is no route.
    pub(super) from: Option<IpAddr>,
    /// Whether its host answers on the link, where that is known.
    pub(super) is_there: Option<bool>,
}

impl Place<'_> {
    pub(super) fn host(&self) -> &str {
        &self.target.host
    }

    /// This host's address, for a command or a line to be added.
    pub(super) fn us(&self) -> String {
        self.from
            .map_or_else(|| "THIS_HOSTS_ADDRESS".to_owned(), |from| from.to_string())
    }

    /// Where `listen` must change for this address to be listened on.
    fn listen(&self) -> String {
        if is_link_local(self.address.ip) {
            return "take it away there, so that it listens on every address".to_owned();
        }
        let Address { ip, .. } = self.address;
        format!("add {ip} to it (listen = [\"{ip}\"]), or take it away")
    }

    /// The node, with its own port to be filled in.
    fn with_port(&self) -> String {
        let Target { name, host, .. } = self.target;
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host.clone(),
        };
        format!("{}@{host}:PORT", escape(name.as_bytes()))
    }

    /// The address for `ip route get`.
    fn route(&self) -> String {
        match self.address.link() {
            Some(link) => format!("{} oif {link}", self.address.ip),
            None => self.address.ip.to_string(),
        }
    }

    /// The rule that admits this host to a port.
    pub(super) fn rule(&self, port: u16) -> String {
        let family = if self.address.is_ipv6() { "ip6" } else { "ip" };
        format!(
            "nft insert rule inet filter input {family} saddr {} tcp dport {port} accept",
            self.us()
        )
    }

    /// How to find out where packets get lost.
    pub(super) fn where_lost(&self, port: u16) -> String {
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

    /// The same where nothing of its host has answered yet.
    pub(super) fn link_unless_asked(&self) -> String {
        match self.target.port {
            None => String::new(),
            Some(_) => self.link(),
        }
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

/// The host's name has no address.
pub(super) fn unresolved(host: &str, why: &str) -> Finding {
    let suffix = if host.contains('.') {
        ""
    } else {
        "\nA short name also needs a search domain in /etc/resolv.conf, where DNS knows the full one only."
    };
    Finding::fail(
        Check::Resolve,
        Code::Unresolved,
        format!("{host} has no address on this host: {why}"),
        format!(
            "Put it into DNS, or into /etc/hosts of this host, as a line\n  \
             ADDRESS {host}\n\
             and see what comes of it by\n  \
             getent ahosts {host}{suffix}"
        ),
    )
}

/// What the name leads to.
pub(super) fn resolved(host: &str, address: Address, others: &[Address]) -> Finding {
    if host.contains(':') || host.parse::<IpAddr>().is_ok() {
        return Finding::ok(Check::Resolve, format!("{host} is an address"));
    }
    let others: Vec<_> = others.iter().map(ToString::to_string).collect();
    let also = match others.as_slice() {
        [] => String::new(),
        others => format!(
            " (also {}, which nodes use where they are told to)",
            others.join(", ")
        ),
    };
    let message = format!("{host} is {address}{also}");
    if !address.ip.is_loopback() || host == "localhost" {
        return Finding::ok(Check::Resolve, message);
    }
    Finding::warn(
        Check::Resolve,
        Code::NameResolvesToLoopback,
        format!("{message}: this very host, whatever host {host} is"),
        format!(
            "If {host} is another host, its line in /etc/hosts must have that host's address.\n\
             If it is this one, that is how Debian sets it up: fine for nodes of this host, but other hosts must \
             get an address of this host's that they can reach, from DNS or from their /etc/hosts."
        ),
    )
}

/// A link-local address, and not on which link.
pub(super) fn no_zone(place: &Place<'_>, links: &[String]) -> Finding {
    let Place {
        address, target, ..
    } = place;
    let (check, code) = match target.port {
        None => (Check::Epmd, Code::EpmdUnreachable),
        Some(_) => (Check::Distribution, Code::DistributionUnreachable),
    };
    let with_its_zone = |link: &String| {
        let target = Target {
            host: format!("{}%{link}", address.ip),
            ..(*target).clone()
        };
        format!("\n  epmd -doctor {target}")
    };
    let tries: String = links.iter().take(MOST_LINKS).map(with_its_zone).collect();
    Finding::fail(
        check,
        code,
        format!(
            "{address} is a link-local address, and its zone is missing: each link of this host has such addresses, and \
             which one is meant stands nowhere"
        ),
        format!(
            "Say the link behind a %, which is one of{tries}\n\
             Nodes find each other more easily by an address that needs no zone."
        ),
    )
}

/// The epmd answers.
pub(super) fn answers(place: &Place<'_>) -> Finding {
    let Place { address, port, .. } = place;
    Finding::ok(
        Check::Epmd,
        format!("the epmd at {address} port {port} answers this host"),
    )
}

/// The name is registered.
pub(super) fn registered(distribution: u16) -> Finding {
    Finding::ok(
        Check::Lookup,
        format!("registered, with the distribution port {distribution}"),
    )
}

/// Which nodes use addresses of this family, in words, and which option that is.
pub(super) fn nodes_of(address: Address) -> &'static str {
    if address.is_ipv6() {
        "nodes that are started with `-proto_dist inet6_tcp`"
    } else {
        "nodes that are started without `-proto_dist inet6_tcp`"
    }
}

pub(super) const fn family(address: Address) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}

/// No connection to the epmd; `over_spare` is whether it answers at the address of the other family.
pub(super) fn epmd_barred(
    place: &Place<'_>,
    barrier: Barrier,
    why: &str,
    over_spare: bool,
) -> Finding {
    let mut finding = epmd_barred_at(place, barrier, why);
    if let (Some(spare), Some(remedy), true) = (place.spare, &mut finding.remedy, over_spare) {
        remedy.push_str(&format!(
            "\nOver {} ({spare}) it answers: {} find each other.",
            family(spare),
            nodes_of(spare)
        ));
    }
    finding
}

fn epmd_barred_at(place: &Place<'_>, barrier: Barrier, why: &str) -> Finding {
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
                 {}, and restart that epmd.\n\
                 Nothing there: start it (systemctl start hardened-epmd; of Erlang's own package: epmd). Where that host has none on purpose (-erl_epmd_port, \
                 ERL_DIST_PORT), ask for the node's own port:\n  \
                 epmd -doctor {}\n\
                 On {address}, 0.0.0.0 or [::]: a rule rejects this host; admit it, for example by\n  \
                 {}",
                place.listen(),
                place.with_port(),
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
                "See how this host gets there:\n  ip route get {}\n\
                 If there is a way, a rule on it refuses port {port} (nft list ruleset, here and on {host}); \
                 admit this host there, for example by\n  {}",
                place.route(),
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

/// It closed without a byte. Ours does that to whom its lists don't admit; so does whatever accepts
/// for somebody who is not there.
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
            "{address} accepted the connection to port {port}, and closed it without an answer: most likely the epmd of {host} \
             refuses lookups of \"{}\" from this host's address {us}, by its allow-list; or something in front of it \
             accepts for an epmd that is not there",
            escape_name(target.name.as_bytes())
        ),
        format!(
            "See on {host} whether it is in the audit, and why:\n  \
             epmd -refused\n  \
             journalctl -u hardened-epmd -u epmd EPMD_PEER={us}\n\
             not_allowed: admit this host in /etc/epmd.toml there, beside what the lists hold already (where EPMD_ALLOW \
             or -allow is set, which counts in place of the first, there):\n  \
             [access]\n  \
             allow = [\"{us}\"]\n\
             and, where there is such a table, which counts in place of it for this name:\n  \
             [access.node.{key}]\n  \
             allow = [\"{us}\"]\n\
             then\n  \
             epmd -check_config && systemctl reload hardened-epmd\n\
             denied: a line under deny there covers {us}.\n\
             address_not_served: {address} is not among the addresses to be served there (listen, ERL_EPMD_ADDRESS).\n\
             too_many: limits.connections or limits.per-source is reached there.\n\
             Nothing of the kind there: what accepted is no epmd, but something in front of it, such as a load \
             balancer or docker-proxy with nobody behind it. See what it is:\n  \
             ss -ltnp 'sport = :{port}'"
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

#[cfg(test)]
mod tests {
    use super::*;

    fn with_place(is_there: Option<bool>, test: impl FnOnce(&Place<'_>)) {
        let target = Target::parse("wg.man@api.test").unwrap();
        test(&Place {
            target: &target,
            address: "10.77.0.1".parse::<IpAddr>().unwrap().into(),
            spare: None,
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
                all.push(epmd_barred(place, barrier, "No route to host", false));
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
                message = epmd_barred(place, Barrier::NoAnswer, "", false).message;
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
}

//! This host: its epmd, its nodes' distribution ports, its settings.
//!
//! Asks the local epmd for its names, once, and the kernel for everything else. What the facts mean is
//! decided apart from getting them. Called by `doctor`.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use super::judge::{self, Listed};
use super::kernel::{self, Listening, Make, Owners, Process};
use super::report::{Check, Code, Finding};
use super::told::{Told, never_asked};
use super::words::{erlang_address, shown};
use super::{InForce, LIMIT, node};
use crate::config::Settings;
use crate::core::audit::escape_name;
use crate::core::wire::{self, Request};
use crate::tools::client::LOCAL;

/// What is known of this host.
pub(super) struct Host {
    /// What was found.
    pub(super) findings: Vec<Finding>,
    /// Its nodes, and whether each has a full name, where that is known.
    pub(super) nodes: Vec<(String, bool)>,
}

/// The epmd of this host, as far as it can be seen.
struct Seen<'a> {
    port: u16,
    /// The sockets that listen on its port.
    sockets: Vec<&'a Listening>,
    owner: Option<&'a Process>,
    make: Option<Make>,
}

/// Examines this host.
pub(super) fn examine(in_force: &InForce) -> Host {
    let port = in_force.port;
    let names = names(port);
    let sockets = kernel::listening();
    let mut by_port: HashMap<u16, Vec<&Listening>> = HashMap::new();
    for socket in &sockets {
        by_port.entry(socket.port).or_default().push(socket);
    }
    let at = |port: u16| by_port.get(&port).cloned().unwrap_or_default();
    let registered = names.as_deref().unwrap_or_default();
    let ports = registered.iter().map(|(_, port)| *port).chain([port]);
    let owners =
        Owners::find(ports.flat_map(|port| by_port.get(&port).into_iter().flatten().copied()));
    let owner = at(port).first().and_then(|socket| owners.of(socket));
    let seen = Seen {
        port,
        sockets: at(port),
        owner,
        make: owner.and_then(|owner| kernel::make(owner.pid)),
    };
    let mut findings = vec![listens(&seen, names.is_some())];
    if names.is_some() {
        findings.push(answers(registered));
    }
    let own = own_networks();
    let own_addresses: Vec<_> = own.iter().map(IpNet::addr).collect();
    findings.extend(settings(in_force, &seen, &own_addresses));
    findings.extend(serves_everyone(
        &seen,
        in_force.settings.as_ref(),
        for_others(&own),
    ));
    let mut nodes = Vec::new();
    for (name, port) in registered {
        let (name, sockets) = (escape_name(name), at(*port));
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.address).collect();
        findings.push(distribution(&name, *port, &addresses, for_others(&own)));
        let owner = sockets.first().and_then(|socket| owners.of(socket));
        if let Some(full) = owner.and_then(|owner| kernel::has_full_name(owner.pid)) {
            nodes.push((name, full));
        }
    }
    Host { findings, nodes }
}

/// What the local epmd lists; `None` where none answers.
fn names(port: u16) -> Option<Vec<(Vec<u8>, u16)>> {
    let deadline = Instant::now() + LIMIT;
    LOCAL.into_iter().find_map(|ip| {
        let address = SocketAddr::new(ip, port);
        let answer = node::ask(address, &Request::List, wire::MAX_LISTING, deadline).ok()?;
        match judge::listed(&answer, port) {
            Listed::Names(listing) => Some(
                listing
                    .nodes
                    .iter()
                    .map(|(name, port)| (name.to_vec(), *port))
                    .collect(),
            ),
            Listed::Refused | Listed::Silent | Listed::NotAnEpmd => None,
        }
    })
}

/// This host's addresses, with their networks.
fn own_networks() -> Vec<IpNet> {
    let interfaces = getifaddrs().into_iter().flatten();
    let ip = |address: SockaddrStorage| -> Option<IpAddr> {
        let v4 = address.as_sockaddr_in().map(|a| a.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|a| a.ip().into()))
    };
    interfaces
        .filter_map(|i| IpNet::with_netmask(ip(i.address?)?, ip(i.netmask?)?).ok())
        .collect()
}

/// The one of them that others are likely to use.
fn for_others(own: &[IpNet]) -> Option<IpNet> {
    let v4 = |net: &&IpNet| net.addr().is_ipv4() && !net.addr().is_loopback();
    own.iter().find(v4).copied()
}

/// Who listens on epmd's port, and where.
fn listens(seen: &Seen<'_>, answers: bool) -> Finding {
    let Seen { port, sockets, .. } = seen;
    let who = match seen.owner {
        Some(Process { pid, name }) => format!("{name} (pid {pid}{})", make(seen.make)),
        None if answers => "an epmd (which process, only root can see)".to_owned(),
        None => "a process that only root can see".to_owned(),
    };
    // Ours has two sockets at an address that strangers reach: see `server::queue`.
    let addresses: BTreeSet<_> = sockets.iter().map(|socket| socket.address).collect();
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let list = list.join(", ");
    let found = match (sockets.is_empty(), answers) {
        (false, true) if addresses.iter().all(IpAddr::is_loopback) => format!(
            "{who} listens on {list} port {port}: loopback alone, so other hosts' nodes can't look up this host's"
        ),
        (false, true) => format!("{who} listens on {list} port {port}"),
        (true, true) => format!(
            "an epmd answers on port {port}, forwarded from outside of this network namespace"
        ),
        (true, false) => {
            return Finding::fail(
                Check::Listen,
                Code::NoEpmd,
                format!("no epmd: nothing listens on port {port}"),
                "Start it, and have it started at every boot:\n  systemctl enable --now epmd\n\
                 Nodes that run already register with it by themselves (OTP 25: within 2 s).",
            );
        }
        (false, false) => {
            return Finding::fail(
                Check::Listen,
                Code::NoEpmd,
                format!(
                    "no epmd: {who} listens on {list} port {port}, and does not answer as an epmd does"
                ),
                format!(
                    "See what it is, and end it, so that an epmd can have that port:\n  ss -ltnp 'sport = :{port}'"
                ),
            );
        }
    };
    Finding::ok(Check::Listen, found)
}

fn make(make: Option<Make>) -> &'static str {
    match make {
        Some(Make::Ours) => ", hardened-epmd",
        Some(Make::Stock) => ", stock",
        None => "",
    }
}

fn answers(registered: &[(Vec<u8>, u16)]) -> Finding {
    let names: Vec<_> = registered.iter().map(|(name, _)| name).collect();
    let message = match names.as_slice() {
        [] => "epmd answers; no node is registered".to_owned(),
        names => format!("epmd answers; registered: {}", shown(names)),
    };
    Finding::ok(Check::Epmd, message)
}

/// Which settings are in force, and what is wrong with the file.
fn settings(in_force: &InForce, seen: &Seen<'_>, own: &[IpAddr]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some((first, more)) = &in_force.broken {
        let more = match more {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        findings.push(Finding::fail(
            Check::Config,
            Code::ConfigError,
            format!("the settings are wrong, and epmd will not start with them: {first}{more}"),
            "See each mistake with its line, and put it right; then have the running epmd read it:\n  \
             epmd -check_config && systemctl reload epmd",
        ));
    }
    let Some(settings) = &in_force.settings else {
        return findings;
    };
    let told = in_force.told.as_ref();
    findings.push(Finding::ok(
        Check::Config,
        which_settings(settings, told.is_some(), seen.make),
    ));
    if let Some(Told {
        asked: Some(asked), ..
    }) = told
    {
        let silent: Vec<_> = never_asked(&settings.rules.allow, asked, own)
            .iter()
            .map(ToString::to_string)
            .collect();
        if !silent.is_empty() {
            findings.push(Finding::ok(
                Check::Config,
                format!(
                    "in access.allow, and never asked since epmd was started: {}",
                    shown(&silent)
                ),
            ));
        }
    }
    findings
}

fn which_settings(settings: &Settings, told: bool, make: Option<Make>) -> String {
    let file = settings
        .file
        .as_ref()
        .map(|file| crate::core::audit::escape_note(&file.to_string_lossy()));
    let whom = settings.whom_it_serves();
    match (file, make) {
        (Some(file), Some(Make::Stock)) => {
            format!("{file} is not in force: the epmd that runs is stock, which reads none")
        }
        (None, Some(Make::Stock)) => {
            "no file is in force: the epmd that runs is stock, which reads none".to_owned()
        }
        (Some(file), _) if told => format!("in force, from {file}: {whom}"),
        (None, _) if told => format!("in force, without a file: {whom}"),
        (Some(file), _) => format!("by {file}, as it is now: {whom}"),
        (None, _) => format!("without a file: {whom}"),
    }
}

/// The warning that this host's epmd answers whoever asks, where that is known.
fn serves_everyone(
    seen: &Seen<'_>,
    settings: Option<&Settings>,
    own: Option<IpNet>,
) -> Option<Finding> {
    if seen
        .sockets
        .iter()
        .all(|socket| socket.address.is_loopback())
    {
        return None;
    }
    match seen.make? {
        Make::Stock => Some(Finding::warn(
            Check::Listen,
            Code::EpmdServesEveryone,
            "stock epmd tells whoever reaches it the names and ports of this host's nodes",
            format!(
                "Put hardened-epmd in its place, which serves this host and the networks in access.allow; or let \
                 nobody but the cluster's hosts reach its port, for example by\n{}",
                only_from(own, seen.port, true)
            ),
        )),
        Make::Ours => {
            let rules = &settings?.rules;
            let (what, line) = if !rules.enforce {
                ("access.enforce is false", "enforce = true")
            } else if rules.allow.iter().any(|network| network.prefix_len() == 0) {
                ("access.allow admits everyone", "allow = [\"10.0.3.0/24\"]")
            } else {
                return None;
            };
            Some(Finding::warn(
                Check::Config,
                Code::EpmdServesEveryone,
                format!(
                    "epmd tells whoever reaches it the names and ports of this host's nodes: {what}"
                ),
                format!(
                    "Say which networks may look names up, in /etc/epmd.toml, such as\n  [access]\n  {line}\n\
                     then\n  epmd -check_config && systemctl reload epmd"
                ),
            ))
        }
    }
}

/// Rules that let this host and its own network alone reach a port.
fn only_from(own: Option<IpNet>, port: u16, over_ipv6: bool) -> String {
    let network = own.map_or_else(|| "10.0.3.0/24".to_owned(), |net| net.trunc().to_string());
    let rule = "  nft insert rule inet filter input iifname != \"lo\"";
    let v6 = match over_ipv6 {
        true => format!("\n{rule} meta nfproto ipv6 tcp dport {port} drop"),
        false => String::new(),
    };
    format!("{rule} ip saddr != {network} tcp dport {port} drop{v6}")
}

/// Whether a registered node's port is listened on, and where.
fn distribution(name: &str, port: u16, addresses: &[IpAddr], own: Option<IpNet>) -> Finding {
    let everywhere = addresses.iter().any(IpAddr::is_unspecified);
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let list = list.join(", ");
    let finding = if addresses.is_empty() {
        Finding::fail(
            Check::Distribution,
            Code::DistributionNotListening,
            format!(
                "\"{name}\" is registered with port {port}, on which nobody listens: no node can connect to it"
            ),
            format!(
                "See whether \"{name}\" still runs, and with which port (ss -ltnp | grep beam); restart it. In a \
                 container with a network of its own, it needs an epmd of its own there, or the host's network."
            ),
        )
    } else if everywhere {
        let address = own.map_or_else(|| Ipv4Addr::LOCALHOST.into(), |net| net.addr());
        Finding::warn(
            Check::Distribution,
            Code::DistributionListensEverywhere,
            format!(
                "\"{name}\" listens on every address ({list}), port {port}: whoever finds the port gets as far as its \
                 cookie, and an epmd that hides it does not protect it"
            ),
            format!(
                "Bind it to the address that the cluster uses, at its start:\n  \
                 -kernel inet_dist_use_interface '{}'\n\
                 or admit the cluster's hosts alone to that port (fixed by inet_dist_listen_min and _max), for example by\n{}",
                erlang_address(address),
                only_from(own, port, addresses.iter().any(IpAddr::is_ipv6))
            ),
        )
    } else {
        Finding::ok(
            Check::Distribution,
            format!("\"{name}\" listens on {list} port {port}"),
        )
    };
    finding.about(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::access::{Networks, Rules};
    use crate::tools::doctor::report::Grade;

    fn socket(address: &str) -> Listening {
        Listening::of(address.parse().unwrap(), 4369)
    }

    fn seen<'a>(sockets: &'a [Listening], make: Option<Make>) -> Seen<'a> {
        Seen {
            port: 4369,
            sockets: sockets.iter().collect(),
            owner: None,
            make,
        }
    }

    fn everyone(enforce: bool) -> Settings {
        let all = ["0.0.0.0/0", "::/0"].map(|n| n.parse::<IpNet>().unwrap());
        Settings {
            rules: Rules {
                allow: if enforce {
                    Networks::from_iter(all)
                } else {
                    Networks::default()
                },
                enforce,
                ..Rules::default()
            },
            ..Settings::default()
        }
    }

    #[test]
    fn a_host_without_an_epmd() {
        let finding = listens(&seen(&[], None), false);
        assert_eq!(finding.code, Some(Code::NoEpmd));
        let sockets = [socket("0.0.0.0")];
        let finding = listens(&seen(&sockets, None), false);
        assert_eq!(finding.code, Some(Code::NoEpmd));
        assert!(
            finding.message.contains("does not answer"),
            "{}",
            finding.message
        );
    }

    #[test]
    fn where_an_epmd_listens() {
        let sockets = [socket("::"), socket("0.0.0.0"), socket("0.0.0.0")];
        let finding = listens(&seen(&sockets, None), true);
        assert_eq!(finding.result, Grade::Ok);
        assert!(
            finding
                .message
                .ends_with("listens on 0.0.0.0, :: port 4369"),
            "{}",
            finding.message
        );
        let sockets = [socket("127.0.0.1"), socket("::1")];
        let finding = listens(&seen(&sockets, None), true);
        assert_eq!(finding.result, Grade::Ok);
        assert!(
            finding.message.contains("loopback alone"),
            "{}",
            finding.message
        );
    }

    #[test]
    fn serving_everyone_is_said_where_it_is_known_only() {
        let every = [socket("0.0.0.0")];
        let loopback = [socket("127.0.0.1"), socket("::1")];
        let code = |sockets: &[Listening], make, settings: Option<&Settings>| {
            serves_everyone(&seen(sockets, make), settings, None).map(|f| f.code)
        };
        let said = Some(Some(Code::EpmdServesEveryone));
        let nobody = Settings::default();
        assert_eq!(code(&every, Some(Make::Stock), None), said);
        assert_eq!(code(&loopback, Some(Make::Stock), None), None);
        assert_eq!(code(&every, None, Some(&everyone(true))), None);
        assert_eq!(code(&every, Some(Make::Ours), Some(&everyone(true))), said);
        assert_eq!(code(&every, Some(Make::Ours), Some(&everyone(false))), said);
        assert_eq!(code(&every, Some(Make::Ours), Some(&nobody)), None);
        assert_eq!(code(&every, Some(Make::Ours), None), None);
        assert_eq!(
            code(&loopback, Some(Make::Ours), Some(&everyone(true))),
            None
        );
    }

    #[test]
    fn distribution_ports() {
        let own = "10.77.0.1/24".parse().ok();
        let find = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            distribution("api", 9100, &addresses, own)
        };
        let none = find(&[]);
        assert_eq!(none.code, Some(Code::DistributionNotListening));
        assert_eq!(none.result, Grade::Fail);
        for everywhere in [&["0.0.0.0"][..], &["::"], &["127.0.0.1", "::"]] {
            let finding = find(everywhere);
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
        let one = find(&["10.77.0.1"]);
        assert_eq!((one.result, one.node.as_deref()), (Grade::Ok, Some("api")));
    }

    #[test]
    fn the_settings_are_told_with_where_they_come_from() {
        let in_force = |broken: bool, asked: Option<Vec<IpAddr>>| {
            let mut settings = everyone(true);
            settings.file = Some("/etc/epmd.toml".into());
            let told = asked.map(|asked| Told {
                ports: [4369].into(),
                settings: settings.clone(),
                asked: Some(asked),
            });
            InForce {
                port: 4369,
                settings: (!broken || told.is_some()).then_some(settings),
                broken: broken.then(|| ("/etc/epmd.toml:1:1: bad".to_owned(), 2)),
                told,
            }
        };
        let find = |in_force: &InForce, make| settings(in_force, &seen(&[], make), &[]);
        let by_file = find(&in_force(false, None), Some(Make::Ours));
        assert!(
            by_file[0]
                .message
                .starts_with("by /etc/epmd.toml, as it is now: serving this host, ")
        );
        let stock = find(&in_force(false, None), Some(Make::Stock));
        assert!(stock[0].message.contains("not in force"));
        let broken = find(&in_force(true, None), None);
        assert_eq!(broken.len(), 1);
        assert_eq!(broken[0].code, Some(Code::ConfigError));
        assert!(
            broken[0]
                .message
                .ends_with("/etc/epmd.toml:1:1: bad (and 2 more)")
        );
        // The file became bad after the daemon had read it.
        let told = find(
            &in_force(true, Some(vec!["10.0.0.1".parse().unwrap()])),
            Some(Make::Ours),
        );
        assert_eq!(told[0].code, Some(Code::ConfigError));
        assert!(
            told[1]
                .message
                .starts_with("in force, from /etc/epmd.toml: ")
        );
        assert!(
            told[2].message.ends_with("since epmd was started: ::/0"),
            "{}",
            told[2].message
        );
    }
}

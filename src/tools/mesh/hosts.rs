//! Which hosts the nodes are on, by whatever names, and which of them is this one.
//!
//! Names of one host are told by an address that they share here; where they have none here, each name is
//! taken for a host of its own. Called by `mesh`.

use std::net::IpAddr;

use super::super::doctor::address::{addresses, own_networks, resolve};
use super::super::doctor::ask::side_by_side;
use crate::config::Target;

/// How many names are resolved at once.
const AT_ONCE: usize = 64;

/// A host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// The name by which it is asked: the first that was given.
    pub(super) name: String,
    /// Whether it is this one.
    pub(super) is_this: bool,
    /// Its nodes, by their number among the targets.
    pub(super) nodes: Vec<usize>,
}

/// The hosts of these nodes, in the order in which they were given.
pub(super) fn find(targets: &[Target]) -> Vec<Host> {
    let mut names: Vec<&str> = Vec::new();
    for target in targets {
        if !names.contains(&target.host.as_str()) {
            names.push(&target.host);
        }
    }
    let mut resolved = Vec::new();
    for names in names.chunks(AT_ONCE) {
        resolved.extend(side_by_side(names, |name| {
            let found = resolve(name, false).unwrap_or_default();
            found.into_iter().map(|address| address.ip).collect()
        }));
    }
    let own = addresses(&own_networks());
    let own_name = nix::unistd::gethostname().ok();
    let own_name = own_name.as_ref().and_then(|name| name.to_str());
    group(targets, &names, &resolved, &own, own_name)
}

/// Decides; `resolved` are the addresses of each of `names`.
fn group(
    targets: &[Target],
    names: &[&str],
    resolved: &[Vec<IpAddr>],
    own: &[IpAddr],
    own_name: Option<&str>,
) -> Vec<Host> {
    let is_this = |name: &str, ips: &[IpAddr]| {
        Some(name) == own_name || ips.iter().any(|ip| ip.is_loopback() || own.contains(ip))
    };
    // For each name, the number of the host that it is.
    let mut host_of: Vec<usize> = Vec::new();
    let mut hosts: Vec<(Host, Vec<IpAddr>)> = Vec::new();
    for (name, ips) in names.iter().zip(resolved) {
        let here = is_this(name, ips);
        let same = hosts.iter().position(|(host, known)| {
            (here && host.is_this) || ips.iter().any(|ip| known.contains(ip))
        });
        let index = same.unwrap_or(hosts.len());
        match hosts.get_mut(index) {
            Some((_, known)) => known.extend(ips),
            None => {
                let host = Host {
                    name: (*name).to_owned(),
                    is_this: here,
                    nodes: Vec::new(),
                };
                hosts.push((host, ips.clone()));
            }
        }
        host_of.push(index);
    }
    for (number, target) in targets.iter().enumerate() {
        let name = names.iter().position(|name| *name == target.host);
        let index = name.and_then(|name| host_of.get(name));
        if let Some((host, _)) = index.and_then(|index| hosts.get_mut(*index)) {
            host.nodes.push(number);
        }
    }
    hosts.into_iter().map(|(host, _)| host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    /// The hosts as `NAME NODES`, this one with a star.
    fn grouped(nodes: &[&str], resolved: &[&[&str]], own: &[&str], own_name: &str) -> Vec<String> {
        let targets: Vec<_> = nodes.iter().map(|n| Target::parse(n).unwrap()).collect();
        let mut names: Vec<&str> = Vec::new();
        for target in &targets {
            if !names.contains(&target.host.as_str()) {
                names.push(&target.host);
            }
        }
        let resolved: Vec<_> = resolved.iter().map(|r| ips(r)).collect();
        assert_eq!(names.len(), resolved.len());
        group(&targets, &names, &resolved, &ips(own), Some(own_name))
            .into_iter()
            .map(|host| {
                let star = if host.is_this { "*" } else { "" };
                format!("{}{star} {:?}", host.name, host.nodes)
            })
            .collect()
    }

    #[test]
    fn a_host_with_several_names_is_one() {
        assert_eq!(
            grouped(
                &["a@api", "b@db", "c@api", "d@fd77::1", "e@10.0.0.9"],
                &[
                    &["10.0.0.1", "fd77::1"],
                    &["10.0.0.2"],
                    &["fd77::1"],
                    &["10.0.0.9"]
                ],
                &["10.0.0.2", "127.0.0.1"],
                "db.test",
            ),
            ["api [0, 2, 3]", "db* [1]", "10.0.0.9 [4]"]
        );
    }

    #[test]
    fn this_host_is_told_by_its_address_by_loopback_or_by_its_name() {
        // As Debian sets it up: the own name is 127.0.1.1, and another name has the address.
        assert_eq!(
            grouped(
                &["a@db", "b@db.lan", "c@api"],
                &[&["127.0.1.1"], &["10.0.0.2"], &["10.0.0.1"]],
                &["10.0.0.2"],
                "db",
            ),
            ["db* [0, 1]", "api [2]"]
        );
        // No name has an address here: this host by its name, and each other is one.
        assert_eq!(
            grouped(&["a@db", "b@x", "c@y"], &[&[], &[], &[]], &[], "db"),
            ["db* [0]", "x [1]", "y [2]"]
        );
    }
}

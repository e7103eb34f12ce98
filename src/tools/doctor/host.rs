//! This host: its epmd, its nodes' distribution ports, its settings, its name.
//!
//! Asks the local epmd for its names, and the kernel for everything else. What the facts mean is decided
//! apart from getting them, in `listens`, `settings`, `name` and `ports`. Called by `doctor`.

use std::collections::HashMap;
use std::net::IpAddr;

use super::address::own_networks;
use super::in_force::InForce;
use super::kernel::{self, Listening, Make, Owners};
use super::listens::{Asked, Seen, Sockets};
use super::report::Finding;
use super::{listens, name, ports, settings};
use crate::core::audit::escape_name;

/// What is known of this host.
pub(super) struct Host {
    /// What was found.
    pub(super) findings: Vec<Finding>,
    /// Its nodes, and whether each has a full name, where that is known.
    pub(super) nodes: Vec<(String, bool)>,
}

/// Examines this host.
pub(super) fn examine(in_force: &InForce) -> Host {
    let port = in_force.port;
    let all = kernel::listening();
    let sockets = all.as_deref().unwrap_or_default();
    let mut by_port: HashMap<u16, Vec<&Listening>> = HashMap::new();
    for socket in sockets {
        by_port.entry(socket.port).or_default().push(socket);
    }
    let at = |port: u16| by_port.get(&port).cloned().unwrap_or_default();
    let told = in_force.told.as_ref();
    let of_the_daemon = told.into_iter().flat_map(|told| told.addresses.clone());
    let listening: Vec<IpAddr> = at(port).iter().map(|s| s.address).collect();
    let asked = listens::ask(port, listening.iter().copied().chain(of_the_daemon));
    let registered = asked.iter().find_map(Asked::names);
    let names = registered.unwrap_or_default();
    let owners = Owners::find(
        (names.iter().map(|(_, port)| *port).chain([port]))
            .flat_map(|port| by_port.get(&port).into_iter().flatten().copied()),
    );
    let owner = at(port).first().and_then(|socket| owners.of(socket));
    let make = match (told, owner) {
        (Some(_), _) => Some(Make::Ours),
        (None, owner) => owner.and_then(|owner| kernel::make(owner.pid)),
    };
    let seen = Seen {
        port,
        sockets: match &all {
            Ok(_) => Sockets::Seen(listening),
            Err(why) => Sockets::Unseen(why.clone()),
        },
        owner,
        make,
        asked: &asked,
        on_purpose: registered.is_none()
            && (in_force.needs_no_epmd || kernel::a_node_needs_no_epmd()),
    };
    let mut findings = listens::findings(&seen);
    if registered.is_some() {
        findings.push(listens::answers(names));
    }
    let own = own_networks();
    findings.extend(settings::findings(in_force, &seen, &own));
    findings.extend(name::examine(&own));
    let mut nodes = Vec::new();
    for (name, port) in names {
        let (name, sockets) = (escape_name(name), at(*port));
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.address).collect();
        let place = ports::Port {
            number: *port,
            addresses: all.is_ok().then_some(&*addresses),
            is_udp: *port != 0 && addresses.is_empty() && kernel::is_udp(*port),
            guard: told.and_then(|told| told.guard.as_ref()),
        };
        findings.push(ports::distribution(&name, &place, &own));
        let owner = sockets.first().and_then(|socket| owners.of(socket));
        if let Some(full) = owner.and_then(|owner| kernel::has_full_name(owner.pid)) {
            nodes.push((name, full));
        }
    }
    Host { findings, nodes }
}

//! What the running daemon tells of itself, and no file or table of the kernel can: the settings in
//! force, and who has asked.
//!
//! Asks on the daemon's control socket, which answers root and its own user alone; decides which peers
//! never asked. Called by `doctor` and `host`.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::config::{Control, Origin, Settings};
use crate::core::access::{Networks, Rules};
use crate::core::audit::escape_again;
use crate::core::follow::Guard;
use crate::core::status::{MAX_ANSWERED, Status};
use crate::tools::control::{self, Unasked};

/// What a running daemon of ours tells.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// The ports on which it listens for requests: one, unless systemd's sockets have several.
    pub(super) ports: BTreeSet<u16>,
    /// The addresses on which it listens.
    pub(super) addresses: Vec<IpAddr>,
    /// The file and the main rules that are in force; the rest is not told.
    pub(super) settings: Settings,
    /// Every source that has asked anything since the start; `None` where there were more than the
    /// daemon remembers.
    pub(super) asked: Option<Vec<IpAddr>>,
    /// How the guard of the distribution ports is, where one runs.
    pub(super) guard: Option<Guard>,
}

/// Asks the running daemon; `None` where none tells this user, or not in time, or in words that this
/// version does not know.
///
/// # Errors
/// What is there may be anybody's: what is wrong, and what to do.
pub(super) fn ask_the_daemon(at: &Control) -> Result<Option<Told>, String> {
    match control::ask(at) {
        Ok(answer) => Ok(serde_json::from_slice(&answer).ok().as_ref().and_then(told)),
        Err(Unasked::Failed(_)) => Ok(None),
        Err(Unasked::NotTrusted(what)) => Err(escape_again(&what)),
    }
}

/// What matters here of an answer; `None` where that makes no sense.
fn told(status: &Status) -> Option<Told> {
    let listening = status.listening.iter().map(|a| a.parse());
    let listening: Vec<SocketAddr> = listening.collect::<Result<_, _>>().ok()?;
    let ports: BTreeSet<u16> = listening.iter().map(SocketAddr::port).collect();
    let in_force = &status.settings;
    let mut nodes = HashMap::new();
    for name in &in_force.nodes {
        // A daemon of before did not tell what is in these.
        let listed = in_force.node_lists.get(name).map(|list| networks(list));
        let listed = listed.unwrap_or_else(|| Some(Networks::default()));
        nodes.insert(name.as_bytes().into(), listed?);
    }
    let rules = Rules {
        allow: networks(&in_force.allow)?,
        deny: networks(&in_force.deny)?,
        list: match &in_force.list {
            Some(list) => Some(networks(list)?),
            None => None,
        },
        nodes,
        enforce: in_force.enforce,
        ..Rules::default()
    };
    let allow_from = Origin::ALL
        .into_iter()
        .find(|origin| origin.name() == in_force.allow_from);
    let settings = Settings {
        file: status.settings.file.as_ref().map(Into::into),
        port: *ports.first()?,
        rules,
        allow_from: allow_from.unwrap_or_default(),
        ..Settings::default()
    };
    // Of a network its first address stands for all.
    let refused = status.refusals.iter().filter_map(|refused| {
        let (address, _) = refused
            .source
            .split_once('/')
            .unwrap_or((&refused.source, ""));
        address.parse().ok()
    });
    let asked = (status.answered.len() < MAX_ANSWERED)
        .then(|| status.answered.iter().copied().chain(refused).collect());
    let addresses = listening.into_iter().map(|address| address.ip());
    Some(Told {
        addresses: addresses.collect(),
        ports,
        settings,
        asked,
        guard: status.guard.clone(),
    })
}

fn networks(list: &[String]) -> Option<Networks> {
    let all = list.iter().map(|network| network.parse::<IpNet>());
    all.collect::<Result<_, _>>().ok()
}

/// The networks of the allow-list out of which nobody ever asked. One that is an address of this host's
/// (`own`) is there because all hosts share a list.
pub(super) fn never_asked(allow: &Networks, asked: &[IpAddr], own: &[IpAddr]) -> Vec<IpNet> {
    let silent = |network: &IpNet| !asked.iter().any(|a| network.contains(&a.to_canonical()));
    let is_own = |network: &IpNet| {
        network.prefix_len() == network.max_prefix_len() && own.contains(&network.addr())
    };
    let silent = allow.iter().filter(silent);
    silent.filter(|network| !is_own(network)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::status::{InForce, Limits, Refused, Use};

    fn status() -> Status {
        let none = Use { used: 0, limit: 1 };
        Status {
            version: "1".to_owned(),
            pid: 1,
            uptime_seconds: 0,
            listening: ["0.0.0.0:4369", "[::]:4369"].map(str::to_owned).into(),
            registrations: Vec::new(),
            requests: std::collections::BTreeMap::new(),
            refusals: vec![Refused {
                source: "10.0.3.66".to_owned(),
                operation: "list".to_owned(),
                reason: "denied".to_owned(),
                uid: None,
                node: None,
                first: String::new(),
                last: String::new(),
                count: 1,
            }],
            limits: Limits {
                connections: none,
                registrations: none,
                descriptors: none,
            },
            sandbox: None,
            settings: InForce {
                file: Some("/etc/epmd.toml".to_owned()),
                allow: vec!["10.0.3.0/24".to_owned()],
                enforce: false,
                nodes: vec!["wg_man".to_owned()],
                allow_from: "environment".to_owned(),
                deny: Vec::new(),
                list: Some(vec!["::/0".to_owned()]),
                node_lists: [("wg_man".to_owned(), vec!["10.9.0.0/16".to_owned()])].into(),
                text: String::new(),
            },
            answered: vec![[10, 0, 3, 9].into()],
            guard: None,
        }
    }

    #[test]
    fn the_settings_in_force_are_the_daemons() {
        let told = told(&status()).unwrap();
        assert_eq!(told.ports.into_iter().collect::<Vec<_>>(), [4369]);
        assert_eq!(told.settings.port, 4369);
        assert_eq!(told.settings.file, Some("/etc/epmd.toml".into()));
        assert!(!told.settings.rules.enforce);
        assert_eq!(told.settings.allow_from, Origin::Environment);
        let rules = &told.settings.rules;
        assert!(rules.nodes[&b"wg_man"[..]].contains([10, 9, 1, 1].into()));
        assert_eq!(rules.list.as_ref().unwrap().iter().count(), 1);
        assert_eq!(told.settings.rules.allow.iter().count(), 1);
        let asked: [IpAddr; 2] = [[10, 0, 3, 9].into(), [10, 0, 3, 66].into()];
        assert_eq!(told.asked.unwrap(), asked);
    }

    #[test]
    fn what_is_not_understood_or_not_whole_is_not_told() {
        let mut many = status();
        many.answered = (0..MAX_ANSWERED as u32)
            .map(|n| n.to_be_bytes().into())
            .collect();
        assert!(told(&many).unwrap().asked.is_none());
        let mut odd = status();
        odd.listening.push("everywhere".to_owned());
        assert!(told(&odd).is_none());
        odd.listening.clear();
        assert!(told(&odd).is_none());
        let mut odd = status();
        odd.settings.allow.push("10.0.3.0/33".to_owned());
        assert!(told(&odd).is_none());
    }

    #[test]
    fn peers_that_never_asked() {
        let networks = ["10.0.3.0/24", "10.0.4.5/32", "fd00:3::/64"];
        let allow: Networks = networks
            .iter()
            .map(|n| n.parse::<IpNet>().unwrap())
            .collect();
        let silent = |asked: &[&str]| {
            let asked: Vec<IpAddr> = asked.iter().map(|a| a.parse().unwrap()).collect();
            let silent = never_asked(&allow, &asked, &[[10, 0, 3, 1].into()]);
            silent.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(silent(&[]), networks);
        assert_eq!(silent(&["::ffff:10.0.3.9", "10.0.4.4"]), networks[1..]);
        assert_eq!(silent(&["10.0.3.9", "10.0.4.5", "fd00:3::9"]), [""; 0]);
        let own = [[10, 0, 4, 5].into()];
        let silent = never_asked(&allow, &[], &own);
        assert_eq!(silent.len(), 2, "{silent:?}");
    }
}

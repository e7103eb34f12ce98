//! What the running daemon tells of itself, and no file or table of the kernel can: the settings in
//! force, and who has asked.
//!
//! Decides which peers never asked. Called by `host`.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::access::{Networks, Rules};
use crate::config::Settings;
use crate::control;
use crate::status::{InForce, MAX_ANSWERED, Status};

/// What a running daemon of ours tells.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// The settings in force, as far as the doctor looks at them: the file, and whom it serves.
    pub(super) settings: Settings,
    /// Every source that has asked anything since the start; `None` where the daemon does not know
    /// them all any more.
    pub(super) asked: Option<Vec<IpAddr>>,
}

/// Asks the running daemon; `None` where none tells, or none that this user may ask, or one of a
/// version that says something else.
pub(super) fn ask_the_daemon() -> Option<Told> {
    let status: Status = serde_json::from_slice(&control::ask().ok()?).ok()?;
    let InForce {
        file,
        allow,
        enforce,
        nodes,
        text: _,
    } = status.settings;
    let rules = Rules {
        allow: allow
            .iter()
            .filter_map(|n| n.parse::<IpNet>().ok())
            .collect(),
        nodes: nodes
            .into_iter()
            .map(|n| (n.into_bytes().into(), Networks::default()))
            .collect(),
        enforce,
        ..Rules::default()
    };
    let settings = Settings {
        file: file.map(PathBuf::from),
        rules,
        ..Settings::default()
    };
    // Past this number the daemon does not remember them all.
    let refused = status.refusals.into_iter().map(|r| r.source);
    let asked = (status.answered.len() < MAX_ANSWERED)
        .then(|| status.answered.into_iter().chain(refused).collect());
    Some(Told { settings, asked })
}

/// The networks of the allow-list out of which nobody ever asked.
pub(super) fn never_asked(allow: &Networks, asked: &[IpAddr]) -> Vec<IpNet> {
    let silent = |network: &IpNet| !asked.iter().any(|a| network.contains(&a.to_canonical()));
    allow.iter().filter(silent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_that_never_asked() {
        let networks = ["10.0.3.0/24", "10.0.4.5/32", "fd00:3::/64"];
        let allow: Networks = networks
            .iter()
            .map(|n| n.parse::<IpNet>().unwrap())
            .collect();
        let silent = |asked: &[&str]| {
            let asked: Vec<IpAddr> = asked.iter().map(|a| a.parse().unwrap()).collect();
            let silent = never_asked(&allow, &asked);
            silent.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(silent(&[]), networks);
        assert_eq!(silent(&["::ffff:10.0.3.9", "10.0.4.4"]), networks[1..]);
        assert_eq!(silent(&["10.0.3.9", "10.0.4.5", "fd00:3::9"]), [""; 0]);
    }
}

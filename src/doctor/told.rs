//! What the running daemon tells of itself, and no file or table of the kernel can: the settings in
//! force, and who has asked.
//!
//! Decides which peers never asked; the asking is one small function. Called by `host`.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::access::Networks;
use crate::config::Settings;

/// What a running daemon of ours tells.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// The settings in force.
    pub(super) settings: Settings,
    /// Every source that has asked anything since the start; `None` where the daemon does not know
    /// them all any more.
    pub(super) asked: Option<Vec<IpAddr>>,
}

/// Asks the running daemon; `None` where none tells.
///
/// Today none does. The daemon's control socket, `control.sock` in `$RUNTIME_DIRECTORY` (where that is
/// the daemon's own) or in /run/epmd, will give one JSON answer to one request; this will read it
/// within the time of a check, take the settings and the sources out of it, and give `None` for
/// whatever it does not understand: an older daemon, or none that this user may ask.
pub(super) fn ask_the_daemon() -> Option<Told> {
    None
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

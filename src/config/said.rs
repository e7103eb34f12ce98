//! How the values of settings are said to people.
//!
//! Values in, words out. Called by the table of keys for `-check_config` and for the manual.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::coverage;
use super::diagnostic::show_path;
use super::names::{Hold, Users};
use super::settings::Format;
use super::target::Target;
use super::watch::Every;
use crate::core::access::Networks;
use crate::core::audit::escape;

/// How many elements of a list are shown; the rest is counted.
pub(super) const MOST_SHOWN: usize = 20;

pub(super) fn port(port: &u16) -> String {
    match port {
        0 => "0 (the kernel chooses)".to_owned(),
        port => port.to_string(),
    }
}

pub(super) fn format(format: &Format) -> String {
    match format {
        Format::Auto => {
            "auto (journald as systemd's service; as a daemon journald, else syslog; else text)"
        }
        format => format.name(),
    }
    .to_owned()
}

pub(super) fn file(file: &Option<PathBuf>) -> String {
    file.as_deref().map_or_else(|| "none".to_owned(), show_path)
}

pub(super) fn metrics(address: &Option<SocketAddr>) -> String {
    address.map_or_else(
        || "nowhere".to_owned(),
        |address| format!("http://{address}/metrics"),
    )
}

/// The nodes that are watched.
pub(super) fn nodes(nodes: &[Target]) -> String {
    match nodes.is_empty() {
        true => "none".to_owned(),
        false => elements(nodes.iter().map(|node| escape(node.to_string().as_bytes()))),
    }
}

pub(super) fn every(every: &Every) -> String {
    time(&every.0)
}

pub(super) fn denied(deny: &Networks) -> String {
    match deny.is_empty() {
        true => "nobody".to_owned(),
        false => format!("{}; never this host", networks(deny)),
    }
}

pub(super) fn list_of_names(list: &Option<Networks>) -> String {
    match list {
        None => "as access.allow".to_owned(),
        Some(list) => served(list),
    }
}

pub(super) fn enforce(enforce: &bool) -> String {
    match enforce {
        true => "true",
        false => {
            "false: lookups and lists are SERVED TO EVERYONE, and what would be refused is logged"
        }
    }
    .to_owned()
}

/// What is listened on.
pub(super) fn listen(listen: &Option<Vec<IpAddr>>) -> String {
    let loopback = "loopback (127.0.0.1, 127.0.1.1, ::1)";
    match listen {
        None => "every address (0.0.0.0 and ::)".to_owned(),
        Some(addresses) if addresses.is_empty() => format!("{loopback} alone"),
        Some(addresses) => format!("{}, and {loopback}", elements(addresses.iter())),
    }
}

/// Whom a list admits, with this host, which is in each.
pub(super) fn served(allow: &Networks) -> String {
    if allow.is_empty() {
        "this host alone".to_owned()
    } else {
        format!("this host, {}", networks(allow))
    }
}

/// Networks, with "everyone" where they are.
pub(super) fn networks(networks: &Networks) -> String {
    let all = elements(networks.iter());
    match coverage::words(networks) {
        Some(everyone) => format!("{everyone} ({all})"),
        None => all,
    }
}

/// The first elements, with commas, and how many more there are.
fn elements<T: ToString>(elements: impl Iterator<Item = T>) -> String {
    let mut elements = elements.map(|e| e.to_string());
    let mut shown: Vec<_> = elements.by_ref().take(MOST_SHOWN).collect();
    shown.extend(more(shown.len() + elements.count()));
    shown.join(", ")
}

/// How many of `count` are not shown.
pub(super) fn more(count: usize) -> Option<String> {
    let rest = count.checked_sub(MOST_SHOWN).filter(|rest| *rest > 0)?;
    Some(format!("and {rest} more"))
}

/// Who may register a name.
pub(super) fn users(users: &Users) -> String {
    let mut shown: Vec<_> = users.shown().take(MOST_SHOWN).collect();
    shown.extend(more(users.shown().count()));
    match shown.is_empty() {
        true => "root alone".to_owned(),
        false => format!("root, {}", shown.join(", ")),
    }
}

pub(super) fn owners(users: &Option<Users>) -> String {
    match users {
        None => "every user of this host".to_owned(),
        Some(list) => self::users(list),
    }
}

pub(super) fn hold(hold: &Hold) -> String {
    time(&hold.0)
}

pub(super) fn strangers(strangers: &BTreeSet<IpAddr>) -> String {
    match strangers.is_empty() {
        true => "none".to_owned(),
        false => elements(strangers.iter()),
    }
}

pub(super) fn time(time: &Duration) -> String {
    humantime::format_duration(*time).to_string()
}

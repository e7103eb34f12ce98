//! What `-check_config` prints: the settings in force, for people.
//!
//! Settings in, text out; one line for each setting, in a fixed order. Called by `main`.

use std::fmt::Write as _;
use std::time::Duration;

use super::diagnostic::show_path;
use super::{Format, Settings};
use crate::core::access::Networks;

/// How many elements of a list are shown; the rest is counted.
const MOST_SHOWN: usize = 20;

/// The settings as text, one `name: value` a line, and a note under what needs one. Ends with a
/// newline.
#[must_use]
pub fn show(settings: &Settings) -> String {
    let mut lines = Lines(String::new());
    let file = settings.file.as_deref();
    lines.add("file", &file.map_or("none".to_owned(), show_path));
    lines.add("listen", &listen(settings));
    lines.add(
        "port",
        &match settings.port {
            0 => "0 (the kernel chooses)".to_owned(),
            port => port.to_string(),
        },
    );
    rules(&mut lines, settings);
    let limits = &settings.limits;
    lines.add("limits.connections", &limits.connections.to_string());
    lines.add("limits.per-source", &limits.per_source.to_string());
    lines.add("limits.request-timeout", &time(limits.request_timeout));
    lines.add("limits.registrations", &limits.registrations.to_string());
    let audit = &settings.audit;
    lines.add(
        "audit.format",
        match audit.format {
            Format::Auto => {
                "auto (journald as systemd's service; as a daemon journald, else syslog; else text)"
            }
            format => format.name(),
        },
    );
    lines.add("audit.window", &time(audit.window));
    lines.add("audit.lookups", &audit.lookups.to_string());
    let metrics = settings
        .metrics
        .map(|address| format!("http://{address}/metrics"));
    lines.add("metrics.listen", metrics.as_deref().unwrap_or("nowhere"));
    lines.add(
        "relaxed_command_check",
        &settings.relaxed_command_check.to_string(),
    );
    for (name, delay) in [
        ("delay_accept", settings.delay_accept),
        ("delay_write", settings.delay_write),
    ] {
        if !delay.is_zero() {
            lines.add(name, &time(delay));
        }
    }
    if settings.debug > 0 {
        lines.add("debug", &settings.debug.to_string());
    }
    lines.0
}

impl Settings {
    /// Whom the daemon serves, in one line.
    #[must_use]
    pub fn whom_it_serves(&self) -> String {
        if !self.rules.enforce {
            return "serving lookups and lists to EVERYONE, because access.enforce is false; what it would \
                    refuse is logged"
                .to_owned();
        }
        let nodes = match self.rules.nodes.len() {
            0 => String::new(),
            1 => ", and one name has a list of its own".to_owned(),
            count => format!(", and {count} names have lists of their own"),
        };
        format!("serving {}{nodes}", served(&self.rules.allow))
    }
}

/// Who is served.
fn rules(lines: &mut Lines, settings: &Settings) {
    let rules = &settings.rules;
    lines.add("access.allow", &served(&rules.allow));
    lines.add(
        "access.deny",
        &match rules.deny.is_empty() {
            true => "nobody".to_owned(),
            false => format!("{}; never this host", networks(&rules.deny)),
        },
    );
    lines.add(
        "access.list",
        &match &rules.list {
            None => "as access.allow".to_owned(),
            Some(list) => served(list),
        },
    );
    lines.add(
        "access.enforce",
        if rules.enforce {
            "true"
        } else {
            "false: lookups and lists are SERVED TO EVERYONE, and what would be refused is logged"
        },
    );
    let mut nodes: Vec<_> = rules.nodes.iter().collect();
    nodes.sort_unstable_by_key(|(name, _)| *name);
    for (name, allow) in nodes.iter().take(MOST_SHOWN) {
        let name = String::from_utf8_lossy(name);
        let bare = super::keys::bare_or_quoted(&name);
        lines.add(&format!("access.node.{bare}.allow"), &served(allow));
    }
    if let Some(rest) = more(nodes.len()) {
        lines.add("access.node", &rest);
    }
}

/// `name: value`, line by line.
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.0, "{name}: {value}");
    }
}

/// What is listened on.
fn listen(settings: &Settings) -> String {
    let loopback = "loopback (127.0.0.1, 127.0.1.1, ::1)";
    match &settings.listen {
        None => "every address (0.0.0.0 and ::)".to_owned(),
        Some(addresses) if addresses.is_empty() => format!("{loopback} alone"),
        Some(addresses) => format!("{}, and {loopback}", list(addresses.iter())),
    }
}

/// Whom a list admits, with this host, which is in each.
fn served(allow: &Networks) -> String {
    if allow.is_empty() {
        "this host alone".to_owned()
    } else {
        format!("this host, {}", networks(allow))
    }
}

/// Networks, with "everyone" where they are.
fn networks(networks: &Networks) -> String {
    let everyone = networks.iter().filter(|n| n.prefix_len() == 0).count() == 2;
    let all = list(networks.iter());
    if everyone {
        format!("everyone ({all})")
    } else {
        all
    }
}

/// The first elements, with commas, and how many more there are.
fn list<T: ToString>(elements: impl Iterator<Item = T>) -> String {
    let mut elements = elements.map(|e| e.to_string());
    let mut shown: Vec<_> = elements.by_ref().take(MOST_SHOWN).collect();
    shown.extend(more(shown.len() + elements.count()));
    shown.join(", ")
}

/// How many of `count` are not shown.
fn more(count: usize) -> Option<String> {
    let rest = count.checked_sub(MOST_SHOWN).filter(|rest| *rest > 0)?;
    Some(format!("and {rest} more"))
}

fn time(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

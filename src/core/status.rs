//! What the daemon says of itself: one JSON object, and the same for people.
//!
//! Plain data and its text, in which names are escaped: they are what any local user says. Made by the daemon for whoever asks on the control socket; read by
//! `epmd -status` and `epmd -doctor`. Field names are a contract: the design's section on status.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::core::audit::{escape_again, escape_name};
use crate::core::follow::Guard;

/// Where the socket is, unless systemd gave the daemon another folder of its own.
pub const CONTROL_SOCKET: &str = "/run/epmd/control.sock";
/// Folders in which everybody may make files: no remedy may take that from them.
const EVERYBODYS: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Whether a folder is there for everybody's files, so that the control socket needs one of its own in it.
#[must_use]
pub fn is_everybodys(folder: &Path) -> bool {
    EVERYBODYS.iter().any(|of| folder == Path::new(of))
}

/// What is sent there.
pub const STATUS_REQUEST: &[u8] = b"status\n";

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_seconds: u64,
    /// Addresses and ports that it listens on.
    pub listening: Vec<String>,
    /// Names, newest first.
    pub registrations: Vec<Registered>,
    /// Operation, outcome, count.
    pub requests: BTreeMap<String, BTreeMap<String, u64>>,
    /// Who was refused what, the most recent first; at most what the audit tracks.
    pub refusals: Vec<Refused>,
    /// How near the limits are.
    pub limits: Limits,
    /// What the daemon has shut itself in with; absent from one that does not know of it.
    #[serde(default)]
    pub sandbox: Option<Sandbox>,
    /// What is in force.
    pub settings: InForce,
    /// Peers from elsewhere that were answered, at most [`MAX_ANSWERED`] of them.
    pub answered: Vec<IpAddr>,
    /// How the guard of the distribution ports is, where one follows the daemon.
    #[serde(default)]
    pub guard: Option<Guard>,
}

/// Of so many peers it is remembered that they were answered.
pub const MAX_ANSWERED: usize = 1024;

/// A registered name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The part of the node's name before the `@`.
    pub name: String,
    /// Its distribution port.
    pub port: u16,
    /// `normal`, `hidden`, or the number.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its creation.
    pub creation: u32,
    /// When it registered: RFC 3339, UTC.
    pub since: String,
    /// Whose it is.
    #[serde(default)]
    pub holder: Holder,
}

/// Who holds a name. The daemon knows the user's number; the rest is found by who shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The user's number; absent where it is not known.
    pub uid: Option<u32>,
    /// What the user is called.
    pub user: Option<String>,
    /// The node's process; for root's eyes alone.
    pub pid: Option<u32>,
    /// What runs there.
    pub program: Option<String>,
    /// The number of the node's socket, by which its process is found. Not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<u64>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &Option<String>| text.as_deref().map(escape_again).unwrap_or_default();
        match (self.uid, &self.user) {
            (None, _) => f.write_str("unknown")?,
            (Some(uid), None) => write!(f, "uid {uid}")?,
            (Some(uid), user) => write!(f, "{} (uid {uid})", text(user))?,
        }
        match self.pid {
            Some(pid) => write!(f, ", {} (pid {pid})", text(&self.program)),
            None => Ok(()),
        }
    }
}

/// What the audit tracks of a source, an operation and a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Who asked: an address, or an IPv6 /64 where several of its addresses did.
    pub source: String,
    /// For what.
    pub operation: String,
    /// Why it was refused.
    pub reason: String,
    /// Which user of this host asked last, of a registration where that is known.
    #[serde(default)]
    pub uid: Option<u32>,
    /// The name that was asked for last, where there was one.
    pub node: Option<String>,
    /// When the first was: RFC 3339, UTC.
    pub first: String,
    /// When the last was.
    pub last: String,
    /// How many there were.
    pub count: u64,
}

/// How near the limits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Connections open at once, registrations apart.
    pub connections: Use,
    /// Names at once.
    pub registrations: Use,
    /// The process's descriptors.
    pub descriptors: Use,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// In use.
    pub used: u64,
    /// At most.
    pub limit: u64,
}

/// What of the sandbox is in force, in all threads of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// No program that it runs could have more rights than it.
    pub no_new_privs: bool,
    /// It has capabilities.
    pub capabilities: bool,
    /// The version of Landlock's rights (its ABI) that it is held to; null where it is to none.
    pub landlock: Option<u32>,
    /// It was started with `-no_sandbox`.
    #[serde(default)]
    pub off: bool,
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.off {
            f.write_str("none, by -no_sandbox: ")?;
        }
        f.write_str(if self.no_new_privs {
            "no new privileges"
        } else {
            "new privileges possible"
        })?;
        f.write_str(if self.capabilities {
            ", with capabilities"
        } else {
            ", no capabilities"
        })?;
        match self.landlock {
            Some(version) => write!(f, ", Landlock {version}"),
            None => f.write_str(", no Landlock"),
        }
    }
}

/// The settings in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The file that was read.
    pub file: Option<String>,
    /// Networks that may look names up; this host always may.
    pub allow: Vec<String>,
    /// Whether anybody else is refused.
    pub enforce: bool,
    /// Names with lists of their own.
    pub nodes: Vec<String>,
    /// Where `allow` comes from: `default`, `file`, `environment` or `command_line`.
    #[serde(default)]
    pub allow_from: String,
    /// Networks that are refused whatever the other lists say.
    #[serde(default)]
    pub deny: Vec<String>,
    /// Networks that may list all names; absent where that is whoever is in `allow`.
    #[serde(default)]
    pub list: Option<Vec<String>>,
    /// The networks of each name that has a list of its own.
    #[serde(default)]
    pub node_lists: BTreeMap<String, Vec<String>>,
    /// All settings, as `-check_config` prints them.
    pub text: String,
}

/// A node's type, as it is shown.
#[must_use]
pub fn kind_name(kind: u8) -> String {
    match kind {
        77 => "normal".to_owned(),
        72 => "hidden".to_owned(),
        other => other.to_string(),
    }
}

/// A time in RFC 3339, UTC, with milliseconds; one before 1970 or after 9999, which can't be written, as the
/// nearest that can.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    const LAST: Duration = Duration::from_millis(253_402_300_799_999);
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default().min(LAST);
    let time = SystemTime::UNIX_EPOCH.checked_add(since);
    humantime::format_rfc3339_millis(time.unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uptime = humantime::format_duration(Duration::from_secs(self.uptime_seconds));
        writeln!(
            f,
            "epmd {}, process {}, up for {uptime}",
            escape_again(&self.version),
            self.pid
        )?;
        let listening = escape_again(&self.listening.join(", "));
        writeln!(f, "listening on {listening}")?;
        if let Some(guard) = &self.guard {
            writeln!(f, "guard: {guard}")?;
        }
        for (name, of) in [
            ("connections", self.limits.connections),
            ("registrations", self.limits.registrations),
            ("descriptors", self.limits.descriptors),
        ] {
            writeln!(f, "{name}: {} of {}", of.used, of.limit)?;
        }
        if let Some(sandbox) = &self.sandbox {
            writeln!(f, "sandbox: {sandbox}")?;
        }
        let registrations = self.registrations.iter().map(|r| {
            let Registered {
                name,
                port,
                kind,
                creation,
                since,
                holder,
            } = r;
            vec![
                escape_name(name.as_bytes()),
                port.to_string(),
                kind.clone(),
                creation.to_string(),
                since.clone(),
                holder.to_string(),
            ]
        });
        f.write_str(&table(
            &["name", "port", "type", "creation", "since", "holder"],
            registrations,
        ))?;
        let requests = self.requests.iter().flat_map(|(operation, outcomes)| {
            let counts = outcomes.iter().filter(|(_, count)| **count > 0);
            counts.map(move |(o, count)| vec![operation.clone(), o.clone(), count.to_string()])
        });
        f.write_str(&table(&["request", "outcome", "count"], requests))?;
        let refusals = self.refusals.iter().map(|r| {
            let Refused {
                source,
                operation,
                reason,
                uid,
                node,
                first,
                last,
                count,
            } = r;
            let what = node.as_ref().map_or_else(
                || operation.clone(),
                |n| format!("{operation} of \"{}\"", escape_again(n)),
            );
            let source = match uid {
                Some(uid) => format!("{source}, uid {uid}"),
                None => source.clone(),
            };
            vec![
                source,
                what,
                reason.clone(),
                count.to_string(),
                first.clone(),
                last.clone(),
            ]
        });
        f.write_str(&table(
            &["refused", "what for", "why", "count", "first", "last"],
            refusals,
        ))
    }
}

/// Lines in columns under a heading, behind an empty line; nothing where there is no line.
#[must_use]
pub fn table(heading: &[&str], lines: impl Iterator<Item = Vec<String>>) -> String {
    let mut all = vec![heading.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()];
    all.extend(lines);
    if all.len() == 1 {
        return String::new();
    }
    let width = |column: usize| {
        let cells = all.iter().filter_map(|line| line.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut text = String::from("\n");
    for line in &all {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            // Writing to a string can't fail.
            let _ = write!(row, "{cell:<width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let of = |used, limit| Use { used, limit };
        Status {
            version: "0.1.0".into(),
            pid: 7,
            uptime_seconds: 61,
            listening: vec!["127.0.0.1:4369".into()],
            registrations: vec![Registered {
                name: "api".into(),
                port: 4370,
                kind: kind_name(77),
                creation: 4,
                since: rfc3339(SystemTime::UNIX_EPOCH),
                holder: Holder {
                    uid: Some(1001),
                    user: Some("deploy".into()),
                    pid: Some(4711),
                    program: Some("beam.smp".into()),
                    socket: None,
                },
            }],
            requests: BTreeMap::from([(
                "lookup".into(),
                BTreeMap::from([("answered".into(), 3), ("failed".into(), 0)]),
            )]),
            refusals: vec![Refused {
                source: "203.0.113.9".into(),
                operation: "lookup".into(),
                reason: "not_allowed".into(),
                uid: None,
                node: Some("api".into()),
                first: rfc3339(SystemTime::UNIX_EPOCH),
                last: rfc3339(SystemTime::UNIX_EPOCH),
                count: 2,
            }],
            limits: Limits {
                connections: of(1, 2),
                registrations: of(3, 4),
                descriptors: of(5, 6),
            },
            sandbox: Some(Sandbox {
                no_new_privs: true,
                capabilities: false,
                landlock: Some(6),
                off: false,
            }),
            settings: InForce {
                file: None,
                allow: vec![],
                enforce: true,
                nodes: vec![],
                allow_from: "default".into(),
                deny: vec![],
                list: None,
                node_lists: BTreeMap::new(),
                text: "file: none\n".into(),
            },
            answered: vec![],
            guard: None,
        }
    }

    #[test]
    fn any_time_can_be_told() {
        let after = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(rfc3339(after(1)), "1970-01-01T00:00:00.001Z");
        assert_eq!(rfc3339(after(u64::MAX)), "9999-12-31T23:59:59.999Z");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(rfc3339(before), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn json_has_the_contracts_names_and_comes_back() {
        let json = serde_json::to_value(status()).unwrap();
        assert_eq!(json["registrations"][0]["type"], "normal");
        assert_eq!(json["requests"]["lookup"]["answered"], 3);
        assert_eq!(json["refusals"][0]["source"], "203.0.113.9");
        assert_eq!(json["limits"]["descriptors"]["limit"], 6);
        assert_eq!(json["sandbox"]["no_new_privs"], true);
        assert_eq!(json["sandbox"]["capabilities"], false);
        assert_eq!(json["sandbox"]["landlock"], 6);
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status());
    }

    #[test]
    fn a_daemon_that_knows_no_sandbox_is_understood_and_what_is_missing_is_said() {
        let mut json = serde_json::to_value(status()).unwrap();
        json.as_object_mut().unwrap().remove("sandbox");
        let older = serde_json::from_value::<Status>(json).unwrap();
        assert!(!older.to_string().contains("sandbox"));
        let none = Sandbox {
            no_new_privs: false,
            capabilities: true,
            landlock: None,
            off: true,
        };
        assert_eq!(
            none.to_string(),
            "none, by -no_sandbox: new privileges possible, with capabilities, no Landlock"
        );
        assert!(serde_json::to_value(none).unwrap()["landlock"].is_null());
    }

    #[test]
    fn text_says_what_matters_and_leaves_out_what_did_not_happen() {
        let text = status().to_string();
        assert_eq!(
            text,
            "epmd 0.1.0, process 7, up for 1m 1s\n\
             listening on 127.0.0.1:4369\n\
             connections: 1 of 2\nregistrations: 3 of 4\ndescriptors: 5 of 6\n\
             sandbox: no new privileges, no capabilities, Landlock 6\n\
             \n\
             name  port  type    creation  since                     holder\n\
             api   4370  normal  4         1970-01-01T00:00:00.000Z  deploy (uid 1001), beam.smp (pid 4711)\n\
             \n\
             request  outcome   count\n\
             lookup   answered  3\n\
             \n\
             refused      what for         why          count  first                     last\n\
             203.0.113.9  lookup of \"api\"  not_allowed  2      1970-01-01T00:00:00.000Z  1970-01-01T00:00:00.000Z\n"
        );
    }
}

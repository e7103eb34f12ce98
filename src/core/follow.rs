//! What the daemon tells who follows it on the control socket, and what the guard tells back.
//!
//! The request is [`FOLLOW_REQUEST`]; the answer is JSON, a [`Told`] in each line, without an end: first the
//! whole state, then each change. The guard says on the same connection how it is, a [`Report`] in each line.
//! Plain data; which names and networks there are, the daemon knows (`daemon::server`), what becomes of them,
//! the guard does (`tools::guard`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::core::audit::escape_again;

/// What is sent to the control socket.
pub const FOLLOW_REQUEST: &[u8] = b"follow\n";
/// The most bytes of a [`Report`], with its line's end.
pub const MAX_REPORT: usize = 256 * 1024;
/// Of so many ports that are left alone a [`Report`] tells.
pub const MAX_LEFT_ALONE: usize = 512;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// All that there is: the first line.
    State(State),
    /// A name is registered; it may have been before, with another port.
    Registered(Registration),
    /// A name is no longer registered.
    Released {
        /// The name.
        name: String,
    },
    /// The lists have changed: all of them as they are now.
    Access(Access),
}

/// All that there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The daemon's version.
    pub version: String,
    /// The names.
    pub registrations: Vec<Registration>,
    /// The lists.
    pub access: Access,
}

/// A registered name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The part of the node's name before the `@`.
    pub name: String,
    /// Its distribution port.
    pub port: u16,
    /// The connection that holds the name, by its two ends: whose socket is at the node's end, the kernel
    /// says. Absent where it has just ended.
    pub connection: Option<Connection>,
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Connection {
    /// The node's.
    pub node: SocketAddr,
    /// The daemon's.
    pub epmd: SocketAddr,
}

/// `[access]`, as far as it says who may look names up: networks as they are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `access.allow`.
    pub allow: Vec<String>,
    /// `access.deny`.
    pub deny: Vec<String>,
    /// The lists of names that have their own.
    pub nodes: BTreeMap<String, Vec<String>>,
    /// `access.enforce`.
    pub enforce: bool,
}

impl Default for Access {
    /// With nothing configured, only this host is served.
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            deny: Vec::new(),
            nodes: BTreeMap::new(),
            enforce: true,
        }
    }
}

/// How the guard is, and what it has counted since its last report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How it is.
    pub guard: Guard,
    /// How many connections were turned away, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u64>,
}

/// How the guard is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Since when the rules have been what they should be: RFC 3339, UTC; absent while they are not.
    pub in_step_since: Option<String>,
    /// What is in the way, where they are not.
    pub trouble: Option<String>,
    /// Ports that it should guard, and does not; at most [`MAX_LEFT_ALONE`] of them.
    pub left_alone: Vec<LeftAlone>,
}

impl fmt::Display for Guard {
    /// A line for people, without its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.in_step_since, &self.trouble) {
            (Some(since), _) => write!(f, "in step since {}", escape_again(since))?,
            (None, Some(trouble)) => write!(f, "not in step: {}", escape_again(trouble))?,
            (None, None) => f.write_str("not in step yet")?,
        }
        match self.left_alone.as_slice() {
            [] => Ok(()),
            [one] => write!(f, "; port {} is not guarded", one.port),
            several => write!(f, "; {} ports are not guarded", several.len()),
        }
    }
}

/// A port that is not guarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftAlone {
    /// The port.
    pub port: u16,
    /// The name that is registered with it; absent for one of `[guard] ports`.
    pub node: Option<String>,
    /// Why it is left alone, for people.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_have_the_contracts_names_and_come_back() {
        let registration = Registration {
            name: "api".into(),
            port: 9100,
            connection: Some(Connection {
                node: "127.0.0.1:40512".parse().unwrap(),
                epmd: "127.0.0.1:4369".parse().unwrap(),
            }),
        };
        let shown = json!({
            "name": "api", "port": 9100,
            "connection": {"node": "127.0.0.1:40512", "epmd": "127.0.0.1:4369"},
        });
        let access = json!({"allow": [], "deny": [], "nodes": {}, "enforce": true});
        let state = State {
            version: "0.1.0".into(),
            registrations: vec![registration.clone()],
            access: Access::default(),
        };
        for (told, expected) in [
            (
                Told::State(state),
                json!({"state": {"version": "0.1.0", "registrations": [shown], "access": access}}),
            ),
            (Told::Registered(registration), json!({"registered": shown})),
            (
                Told::Released { name: "api".into() },
                json!({"released": {"name": "api"}}),
            ),
            (Told::Access(Access::default()), json!({"access": access})),
        ] {
            let line = serde_json::to_value(&told).unwrap();
            assert_eq!(line, expected);
            assert_eq!(serde_json::from_value::<Told>(line).unwrap(), told);
        }
    }

    #[test]
    fn a_report_comes_back_and_one_with_the_most_fits_its_line() {
        let mut report = Report::default();
        report.refused.insert("denied".into(), 7);
        report.guard.left_alone = (0..MAX_LEFT_ALONE)
            .map(|_| LeftAlone {
                port: u16::MAX,
                node: Some("n".repeat(100)),
                why: "w".repeat(300),
            })
            .collect();
        let line = serde_json::to_string(&report).unwrap();
        assert!(line.len() < MAX_REPORT, "{}", line.len());
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
    }
}

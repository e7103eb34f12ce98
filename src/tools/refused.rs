//! `epmd -refused`: the audit out of journald, a line for each source.
//!
//! journalctl reads the journal; this adds up. Anybody may call a program epmd and write to the journal,
//! so entries are taken by what journald itself says of the sender: the service's unit, or a process
//! called epmd of root, of the daemon's user, or of the one who asks. Called by `main`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::unistd::{User, geteuid};
use serde::Serialize;
use serde_json::Value;

use crate::core::audit::escape_again;
use crate::core::status::{rfc3339, table};
use crate::exit::{Exit, complain};

/// The services whose entries are the daemon's, or the guard's.
const UNITS: [&str; 3] = [
    "epmd.service",
    "hardened-epmd.service",
    "hardened-epmd-guard.service",
];
/// The user as which the service's unit runs it.
const DAEMONS_USER: &str = "epmd";
/// Of so many names at most a source's line tells each.
const MOST_NAMES: usize = 5;

/// All that is known of a source.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Source {
    /// Absent for what came from more sources than the audit tracks.
    source: Option<String>,
    first: String,
    last: String,
    count: u64,
    operations: BTreeSet<String>,
    nodes: BTreeSet<String>,
    reasons: BTreeSet<String>,
    /// Users of this host, of registrations.
    uids: BTreeSet<u64>,
}

/// `-refused [-since Time] [-json]`.
#[must_use]
pub fn run(since: Option<&str>, json: bool) -> Exit {
    match try_run(since, json) {
        Ok(exit) => exit,
        Err(error) => {
            complain(format_args!(
                "epmd: can't read the journal with journalctl: {error}"
            ));
            Exit::Failure
        }
    }
}

fn try_run(since: Option<&str>, json: bool) -> io::Result<Exit> {
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--no-pager", "--output=json"]);
    if let Some(since) = since {
        command.arg(format!("--since={since}"));
    }
    let mut child = command
        .args(matches(&trusted_users()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut sources = BTreeMap::new();
    if let Some(entries) = child.stdout.take() {
        for entry in BufReader::new(entries).lines() {
            // An entry that makes no sense is none of ours.
            if let Ok(entry) = serde_json::from_str(&entry?) {
                add(&mut sources, &entry);
            }
        }
    }
    if !child.wait()?.success() {
        // It has said why, on the stderr that it shares with us.
        return Ok(Exit::Failure);
    }
    let mut sources: Vec<_> = sources.into_values().collect();
    sources.sort_by(|a, b| b.last.cmp(&a.last));
    let text = if json {
        json_lines(&sources)?
    } else {
        for_people(&sources)
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(Exit::Success)
}

/// The users whose processes called epmd are believed.
fn trusted_users() -> BTreeSet<u32> {
    let daemons = User::from_name(DAEMONS_USER).ok().flatten();
    [0, geteuid().as_raw()]
        .into_iter()
        .chain(daemons.map(|user| user.uid.as_raw()))
        .collect()
}

/// Whose entries, and which: a `+` is an "or" between groups, and so are two of one field. All of these
/// fields but the event's are journald's own.
fn matches(users: &BTreeSet<u32>) -> Vec<String> {
    let users = users.iter().map(|uid| format!("_UID={uid}"));
    let of_units = UNITS.map(|unit| format!("_SYSTEMD_UNIT={unit}"));
    let which = ["EPMD_EVENT=refused", "EPMD_EVENT=would_refuse"].map(str::to_owned);
    let mut matches: Vec<_> = of_units.into_iter().chain(which.clone()).collect();
    matches.push("+".to_owned());
    matches.push("_COMM=epmd".to_owned());
    matches.extend(users.chain(which));
    matches
}

/// Adds one entry of the journal. What it says is shown, so nothing in it may move a cursor; the daemon
/// has escaped names already.
fn add(sources: &mut BTreeMap<Option<String>, Source>, entry: &Value) {
    let field = |name: &str| entry.get(name).and_then(Value::as_str).map(escape_again);
    let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok());
    let micros = number("__REALTIME_TIMESTAMP").unwrap_or_default();
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros));
    let at = rfc3339(at.unwrap_or(SystemTime::UNIX_EPOCH));
    let peer = field("EPMD_PEER");
    let source = sources.entry(peer.clone()).or_insert_with(|| Source {
        source: peer,
        first: at.clone(),
        last: at.clone(),
        ..Source::default()
    });
    if at < source.first {
        source.first = at;
    } else if at > source.last {
        source.last = at;
    }
    // A line with no repeats stands for one, any other for so many.
    source.count = source
        .count
        .saturating_add(number("EPMD_REPEATS").unwrap_or_default().max(1));
    source.operations.extend(field("EPMD_OPERATION"));
    source.nodes.extend(field("EPMD_NODE"));
    source.reasons.extend(field("EPMD_REASON"));
    source.uids.extend(number("EPMD_UID"));
}

fn json_lines(sources: &[Source]) -> io::Result<String> {
    let mut text = String::new();
    for source in sources {
        text.push_str(&serde_json::to_string(source)?);
        text.push('\n');
    }
    Ok(text)
}

fn for_people(sources: &[Source]) -> String {
    if sources.is_empty() {
        return "nobody was refused\n".to_owned();
    }
    let joined = |set: &BTreeSet<String>| {
        set.iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let lines = sources.iter().map(|s| {
        let mut nodes: Vec<_> = s
            .nodes
            .iter()
            .take(MOST_NAMES)
            .map(|n| format!("\"{n}\""))
            .collect();
        if s.nodes.len() > MOST_NAMES {
            nodes.push(format!("{} more", s.nodes.len() - MOST_NAMES));
        }
        let of = if nodes.is_empty() {
            String::new()
        } else {
            format!(" of {}", nodes.join(", "))
        };
        let source = s.source.clone().unwrap_or_else(|| "(others)".to_owned());
        let uids: Vec<_> = s.uids.iter().map(u64::to_string).collect();
        let by = match uids.is_empty() {
            true => String::new(),
            false => format!(" by uid {}", uids.join(", ")),
        };
        let what = joined(&s.operations) + &of + &by;
        vec![
            source,
            s.first.clone(),
            s.last.clone(),
            s.count.to_string(),
            what,
            joined(&s.reasons),
        ]
    });
    table(
        &["source", "first", "last", "count", "what for", "why"],
        lines,
    )
    .trim_start()
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn entries_are_asked_for_by_what_the_sender_cannot_say() {
        assert_eq!(
            matches(&[0, 105].into()).join(" "),
            "_SYSTEMD_UNIT=epmd.service _SYSTEMD_UNIT=hardened-epmd.service \
             _SYSTEMD_UNIT=hardened-epmd-guard.service EPMD_EVENT=refused EPMD_EVENT=would_refuse + _COMM=epmd _UID=0 _UID=105 EPMD_EVENT=refused EPMD_EVENT=would_refuse"
        );
        assert!(trusted_users().contains(&0));
    }

    #[test]
    fn no_field_of_an_entry_moves_the_cursor_or_forges_a_line() {
        let mut sources = BTreeMap::new();
        let forged = "x\n203.0.113.7\u{202e}\u{1b}[2J";
        add(
            &mut sources,
            &json!({
                "__REALTIME_TIMESTAMP": "1", "EPMD_PEER": forged, "EPMD_OPERATION": forged,
                "EPMD_NODE": forged, "EPMD_REASON": forged, "EPMD_REPEATS": forged,
            }),
        );
        let all: Vec<_> = sources.into_values().collect();
        let text = for_people(&all);
        assert_eq!(text.lines().count(), 2, "{text}");
        let json = json_lines(&all).unwrap();
        for shown in [text, json] {
            assert!(!shown.contains(['\u{202e}', '\u{1b}']), "{shown}");
        }
    }

    #[test]
    fn entries_add_up_by_source() {
        let mut sources = BTreeMap::new();
        let entry = |at: &str, peer: Option<&str>, node: &str, repeats: &str| {
            let mut entry = json!({
                "__REALTIME_TIMESTAMP": at, "EPMD_OPERATION": "lookup", "EPMD_NODE": node,
                "EPMD_REASON": "not_allowed", "EPMD_REPEATS": repeats,
            });
            if let Some(peer) = peer {
                entry["EPMD_PEER"] = peer.into();
            }
            entry
        };
        add(
            &mut sources,
            &entry("2000000", Some("203.0.113.9"), "api", "0"),
        );
        add(
            &mut sources,
            &entry("62000000", Some("203.0.113.9"), "web", "37"),
        );
        add(&mut sources, &entry("3000000", None, "x", "5"));
        let mut by_user = entry("1000000", Some("127.0.0.1"), "api", "0");
        by_user["EPMD_UID"] = "1002".into();
        add(&mut sources, &by_user);
        let all: Vec<_> = sources.into_values().collect();
        assert_eq!(
            for_people(&all),
            "source       first                     last                      count  what for                     why\n\
             (others)     1970-01-01T00:00:03.000Z  1970-01-01T00:00:03.000Z  5      lookup of \"x\"                not_allowed\n\
             127.0.0.1    1970-01-01T00:00:01.000Z  1970-01-01T00:00:01.000Z  1      lookup of \"api\" by uid 1002  not_allowed\n\
             203.0.113.9  1970-01-01T00:00:02.000Z  1970-01-01T00:01:02.000Z  38     lookup of \"api\", \"web\"       not_allowed\n"
        );
        let lines = json_lines(&all).unwrap();
        let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&last["count"], &last["nodes"]),
            (&json!(38), &json!(["api", "web"]))
        );
        assert_eq!(for_people(&[]), "nobody was refused\n");
    }
}

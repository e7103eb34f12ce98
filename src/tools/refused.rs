//! `epmd -refused`: the audit out of journald, a line for each source.
//!
//! journalctl reads the journal; this adds up. Entries are taken from the epmd service, and from
//! processes called epmd outside of it. Decides nothing about them. Called by `main`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::Value;

use crate::core::status::{rfc3339, table};
use crate::exit::{Exit, complain};

/// Whose entries, and which: a `+` is an "or" between groups, and so are two of one field.
const MATCHES: [&str; 7] = [
    "_SYSTEMD_UNIT=epmd.service",
    "EPMD_EVENT=refused",
    "EPMD_EVENT=would_refuse",
    "+",
    "_COMM=epmd",
    "EPMD_EVENT=refused",
    "EPMD_EVENT=would_refuse",
];
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
        .args(MATCHES)
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

/// Adds one entry of the journal.
fn add(sources: &mut BTreeMap<Option<String>, Source>, entry: &Value) {
    let field = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
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
        let what = joined(&s.operations) + &of;
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
        let all: Vec<_> = sources.into_values().collect();
        assert_eq!(
            for_people(&all),
            "source       first                     last                      count  what for                why\n\
             (others)     1970-01-01T00:00:03.000Z  1970-01-01T00:00:03.000Z  5      lookup of \"x\"           not_allowed\n\
             203.0.113.9  1970-01-01T00:00:02.000Z  1970-01-01T00:01:02.000Z  38     lookup of \"api\", \"web\"  not_allowed\n"
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

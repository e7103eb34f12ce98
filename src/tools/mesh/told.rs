//! What a host's answer means: bytes in, a row of the table out, or why there is none.
//!
//! Whatever another host says is a stranger's word: it is bounded, nothing in it moves a terminal's cursor
//! or begins a line, and only what was asked about counts. Called by `mesh`.

use serde::Deserialize;

use super::ask::Ran;
use super::cells::{Row, Seen};
use crate::config::Target;
use crate::core::audit::{escape, escape_again};
use crate::core::lent::REACHABLE;

/// What a report has beside its nodes.
const MOST_OF_A_HOST: usize = 1024 * 1024;
/// What it has of a node: most of it, the names that are registered in its place.
const MOST_OF_A_NODE: usize = 64 * 1024;
/// Characters of a line that is shown.
const MOST_OF_A_LINE: usize = 2000;
/// Lines of a remedy that are shown.
const MOST_LINES: usize = 40;
/// Characters of a verdict.
const MOST_OF_A_VERDICT: usize = 64;
/// Bytes of an answer that is none.
const MOST_OF_GARBAGE: usize = 64;

/// A report of the doctor's, as far as it matters here.
#[derive(Deserialize)]
struct Report {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    node: String,
    verdict: String,
    checks: Vec<Check>,
}

#[derive(Deserialize)]
struct Check {
    result: String,
    code: Option<String>,
    message: String,
    remedy: Option<String>,
}

/// The most bytes that a report about so many nodes has.
pub(super) fn most_bytes(nodes: usize) -> usize {
    MOST_OF_A_NODE
        .saturating_mul(nodes)
        .saturating_add(MOST_OF_A_HOST)
}

/// What a host says of each of these nodes.
///
/// # Errors
/// What it is instead.
pub(super) fn row(output: &[u8], targets: &[Target]) -> Result<Row, String> {
    let garbage = || {
        let shown = output.trim_ascii();
        let shown = escape(shown.get(..MOST_OF_GARBAGE).unwrap_or(shown));
        match shown.is_empty() {
            true => "it said nothing".to_owned(),
            false => format!("what it said is no report of the doctor's: \"{shown}\""),
        }
    };
    // A shell may greet before, which is not to cost the report: that is one line.
    let lines = output.split(|byte| *byte == b'\n').rev();
    let mut reports = lines
        .filter(|line| line.starts_with(b"{"))
        .filter_map(|line| serde_json::from_slice::<Report>(line).ok());
    let mut report = reports.next().ok_or_else(garbage)?;
    targets
        .iter()
        .map(|target| {
            let asked = target.to_string();
            let place = report.nodes.iter().position(|node| node.node == asked);
            let node = place.map(|place| report.nodes.swap_remove(place));
            node.and_then(seen)
                .ok_or_else(|| format!("its report lacks what was asked, {asked}"))
        })
        .collect()
}

/// What a host says of one node; `None` where it makes no sense.
fn seen(node: Node) -> Option<Seen> {
    let fits = |c: char| c.is_ascii_lowercase() || c == '_';
    let is_word = (1..=MOST_OF_A_VERDICT).contains(&node.verdict.len());
    if !is_word || !node.verdict.chars().all(fits) {
        return None;
    }
    let failed = node.checks.iter().position(|check| check.result == "fail");
    if failed.is_none() != (node.verdict == REACHABLE) {
        return None;
    }
    let last = node.checks.len().checked_sub(1);
    let finding = node.checks.get(failed.or(last)?)?;
    // Why it fails may have been said before: the name leads to the wrong host.
    let before = node.checks.get(..failed.unwrap_or(0)).unwrap_or_default();
    let warned = before
        .iter()
        .find(|check| check.result == "warn" && check.code.is_some());
    let mut message = line(&finding.message);
    let mut remedies = vec![&finding.remedy];
    if let Some(warned) = warned {
        message = format!("{}; and then: {message}", line(&warned.message));
        remedies.insert(0, &warned.remedy);
    }
    let remedy: Vec<_> = remedies
        .into_iter()
        .flatten()
        .flat_map(|remedy| remedy.lines())
        .take(MOST_LINES)
        .map(line)
        .collect();
    Some(Seen {
        verdict: node.verdict,
        message,
        remedy: (!remedy.is_empty()).then(|| remedy.join("\n")),
    })
}

/// A stranger's line, made harmless and not too long.
fn line(text: &str) -> String {
    let cut = text.chars().take(MOST_OF_A_LINE).collect::<String>();
    escape_again(&cut)
}

/// Why a command that is over gave no report; `what` its output is instead.
pub(super) fn why(ran: &Ran, what: &str) -> String {
    let complaints = String::from_utf8_lossy(&ran.complaints);
    let said = |text: &str| text.contains("usage: epmd");
    if said(&complaints) || said(&String::from_utf8_lossy(&ran.output)) {
        return "its epmd has no -doctor: it is stock's, or an older version of this one"
            .to_owned();
    }
    let mut lines = complaints.lines().rev().map(str::trim);
    let last = lines.find(|line| !line.is_empty());
    match (last, ran.status.code()) {
        (Some(last), Some(0)) => format!("{what}; and on its standard error: {}", line(last)),
        (Some(last), _) => line(last),
        (None, Some(0)) => what.to_owned(),
        (None, _) => format!("{what} ({})", ran.status),
    }
}

/// A command as one types it into a shell.
pub(super) fn as_typed(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:@%/=+,".contains(c);
    let typed = words.iter().map(|word| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", escape_again(word).replace('\'', r"'\''"))
        }
    });
    typed.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    fn targets(nodes: &[&str]) -> Vec<Target> {
        nodes.iter().map(|n| Target::parse(n).unwrap()).collect()
    }

    const GOOD: &str = concat!(
        r#"{"host":[{"x":1}],"nodes":[{"node":"b@h","verdict":"reachable","checks":[{"check":"distribution","#,
        r#""result":"ok","code":null,"message":"reachable","remedy":null}]},{"node":"a@h","verdict":"epmd_no_answer","#,
        r#""checks":[{"result":"warn","code":"x","message":"hm","remedy":"r"},{"result":"fail","code":"epmd_no_answer","#,
        r#""message":"no \u001b[31m answer","remedy":"do\n  that"}]}]}"#,
    );

    #[test]
    fn a_report_is_taken_node_by_node_and_made_harmless() {
        let row = row(
            format!("Welcome!\n{GOOD}\n").as_bytes(),
            &targets(&["a@h", "b@h"]),
        )
        .unwrap();
        assert_eq!(row[0].verdict, "epmd_no_answer");
        assert_eq!(row[0].message, "hm; and then: no \\u{1b}[31m answer");
        assert_eq!(row[0].remedy.as_deref(), Some("r\ndo\n  that"));
        assert_eq!(row[1].message, "reachable");
        assert_eq!(row[1].remedy, None);
    }

    #[test]
    fn what_is_no_report_is_said() {
        let nodes = targets(&["a@h", "b@h"]);
        let lacks = "its report lacks what was asked, ";
        for (output, what) in [
            (String::new(), "it said nothing"),
            (
                "\u{1b}[2J hello".into(),
                "what it said is no report of the doctor's: \"\\u{1b}[2J hello\"",
            ),
            ("{}".into(), "no report"),
            ("[".repeat(100_000), "no report"),
            (
                format!("{}{}", r#"{"nodes":"#, "[".repeat(100_000)),
                "no report",
            ),
            (r#"{"nodes":[]}"#.into(), lacks),
            (GOOD.replace("a@h", "c@h"), lacks),
            // No word for a verdict, and verdicts that disagree with the checks.
            (
                GOOD.replace(r#""verdict":"epmd_no_answer""#, r#""verdict":"a b\n""#),
                lacks,
            ),
            (
                GOOD.replace(
                    r#""verdict":"epmd_no_answer""#,
                    &format!(r#""verdict":"{}""#, "x".repeat(65)),
                ),
                lacks,
            ),
            (
                GOOD.replace(r#""verdict":"epmd_no_answer""#, r#""verdict":"reachable""#),
                lacks,
            ),
            (
                GOOD.replace(r#""verdict":"reachable""#, r#""verdict":"epmd_no_answer""#),
                lacks,
            ),
            (
                r#"{"nodes":[{"node":"a@h","verdict":"reachable","checks":[]}]}"#.into(),
                lacks,
            ),
        ] {
            let error = row(output.as_bytes(), &nodes).unwrap_err();
            assert!(error.contains(what), "{error}");
            assert!(error.len() < 400);
        }
        let long = GOOD
            .replace("do\\n  that", &"line\\n".repeat(1000))
            .replace("hm", &"m".repeat(100_000));
        let row = row(long.as_bytes(), &nodes).unwrap();
        assert_eq!(
            row[0].remedy.as_deref().unwrap().lines().count(),
            MOST_LINES
        );
        assert!(row[0].message.len() < 2 * MOST_OF_A_LINE);
    }

    #[test]
    fn why_there_is_no_report() {
        let ran = |complaints: &str, status: i32| Ran {
            output: Vec::new(),
            complaints: complaints.into(),
            status: ExitStatus::from_raw(status),
        };
        for (complaints, status, message) in [
            (
                "usage: epmd [-d|-debug] [DbgExtra...]\n\n",
                0x100,
                "its epmd has no -doctor: it is stock's, or an older version of this one",
            ),
            (
                "banner\r\nssh: connect to host h port 22: Connection refused\r\n\n",
                0xff00,
                "ssh: connect to host h port 22: Connection refused",
            ),
            (
                "sh: 1: epmd: \u{1b}not found\n",
                0x7f00,
                "sh: 1: epmd: \\u{1b}not found",
            ),
            ("", 0x100, "it said nothing (exit status: 1)"),
            ("", 9, "it said nothing (signal: 9 (SIGKILL))"),
            ("", 0, "it said nothing"),
            ("hm\n", 0, "it said nothing; and on its standard error: hm"),
        ] {
            assert_eq!(why(&ran(complaints, status), "it said nothing"), message);
        }
    }

    #[test]
    fn a_command_is_shown_as_it_is_typed() {
        let words = ["ssh", "-o", "B=yes", "h", "", "a b", "it's", "a@[::1]:1"].map(str::to_owned);
        assert_eq!(
            as_typed(&words),
            r"ssh -o B=yes h '' 'a b' 'it'\''s' 'a@[::1]:1'"
        );
    }
}

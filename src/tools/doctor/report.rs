//! What the doctor found: findings, and how they are shown, as lines for people or as JSON.
//!
//! The names of checks, results and codes are a contract with whatever reads the JSON. It looks at
//! nothing itself. Filled by `host` and `node`, put together and shown by `doctor`.

use std::fmt::{self, Write as _};

use serde::{Serialize, Serializer};

use super::address::Address;
use crate::core::audit::{escape, escape_json};

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::tools) enum Check {
    /// What address the host's name has.
    Resolve,
    /// Whether an epmd answers.
    Epmd,
    /// Whether the node's name is registered.
    Lookup,
    /// Whether the node's own port can be reached, and by whom.
    Distribution,
    /// On which addresses this host's epmd listens.
    Listen,
    /// By which settings this host's epmd goes.
    Config,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::tools) enum Grade {
    /// As it should be.
    Ok,
    /// It works, but somebody should know.
    Warn,
    /// Nodes don't reach each other because of it.
    Fail,
}

/// What exactly is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::tools) enum Code {
    /// The host's name has no address.
    Unresolved,
    /// Packets to its epmd vanish, or it accepts and says nothing.
    EpmdNoAnswer,
    /// Nothing listens there.
    EpmdConnectionRefused,
    /// No route, or an ICMP message from the way that says so.
    EpmdUnreachable,
    /// It closes without an answer.
    EpmdRefusesUs,
    /// Something else answers there.
    NotAnEpmd,
    /// Its epmd knows no such name.
    NotRegistered,
    /// Packets to the distribution port vanish.
    DistributionNoAnswer,
    /// Nothing listens on the distribution port.
    DistributionConnectionRefused,
    /// As [`Self::EpmdUnreachable`], of the distribution port.
    DistributionUnreachable,
    /// The host's name leads to this very host.
    NameResolvesToLoopback,
    /// Short and full names are mixed.
    ShortName,
    /// A node of this host can be reached on every address.
    DistributionListensEverywhere,
    /// The guard runs, and does not guard this node's port.
    NotGuarded,
    /// This host's epmd answers whoever asks.
    EpmdServesEveryone,
    /// No epmd answers on this host.
    NoEpmd,
    /// A node of this host is registered with a port on which nobody listens.
    DistributionNotListening,
    /// The settings are wrong.
    ConfigError,
    /// The node's port answers at one of its host's two families of addresses alone.
    OneFamilyOnly,
    /// This host's own name has no address.
    OwnNameUnresolved,
    /// This host's own name is another host's address, or none that nodes ask for.
    OwnNameElsewhere,
    /// The port of the file is none that nodes ask.
    PortOnlyInFile,
    /// The settings file is not this user's to read, and no daemon tells what is in force.
    ConfigUnreadable,
    /// This host's epmd answers on one loopback address, and something bars the other.
    LoopbackBarred,
    /// Something of this host could not be looked at.
    NotLookedAt,
    /// What answers on the control socket, or could, is not to be believed.
    ControlNotTrusted,
}

/// A node's verdict: the first thing that fails, or `reachable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tools) enum Verdict {
    /// Nothing fails.
    Reachable,
    /// This comes first.
    Fails(Code),
}

impl Verdict {
    /// Whether nothing fails.
    pub(in crate::tools) fn is_reachable(self) -> bool {
        self == Self::Reachable
    }
}

impl fmt::Display for Verdict {
    /// The one word that JSON has for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Reachable => serializer.serialize_str("reachable"),
            Self::Fails(code) => code.serialize(serializer),
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::tools) struct Finding {
    /// What was looked at.
    pub(in crate::tools) check: Check,
    /// How it ended.
    pub(in crate::tools) result: Grade,
    /// What exactly is wrong, where something is.
    pub(in crate::tools) code: Option<Code>,
    /// The registered name that it is about, on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<String>,
    /// What was found, in one line.
    pub(in crate::tools) message: String,
    /// What to do, where there is something to be done; may have several lines.
    pub(in crate::tools) remedy: Option<String>,
}

impl Finding {
    /// All is well.
    pub(super) fn ok(check: Check, message: impl Into<String>) -> Self {
        Self {
            check,
            result: Grade::Ok,
            code: None,
            node: None,
            message: message.into(),
            remedy: None,
        }
    }

    /// It works, but somebody should know.
    pub(super) fn warn(
        check: Check,
        code: Code,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            result: Grade::Warn,
            code: Some(code),
            remedy: Some(remedy.into()),
            ..Self::ok(check, message)
        }
    }

    /// It does not work. What to do is part of it.
    pub(super) fn fail(
        check: Check,
        code: Code,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            result: Grade::Fail,
            ..Self::warn(check, code, message, remedy)
        }
    }

    /// The same, about a node of this host.
    pub(super) fn about(self, node: &str) -> Self {
        Self {
            node: Some(node.to_owned()),
            ..self
        }
    }

    /// Its line, and what to do indented under it.
    fn show(&self, subject: &str, text: &mut String) {
        let grade = match self.result {
            Grade::Ok => "ok  ",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        };
        let _ = writeln!(text, "{grade} {subject}: {}", self.message);
        for line in self.remedy.iter().flat_map(|remedy| remedy.lines()) {
            let _ = writeln!(text, "       {line}");
        }
    }
}

/// What was found of one `node@host`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::tools) struct NodeReport {
    /// As it was asked for.
    pub(in crate::tools) node: String,
    /// The address that was examined, where its name has one.
    pub(in crate::tools) address: Option<Address>,
    /// The whole in one word.
    pub(in crate::tools) verdict: Verdict,
    /// One by one, in the order in which they were made.
    pub(in crate::tools) checks: Vec<Finding>,
}

impl NodeReport {
    /// The finding from which its verdict is, or the last one where nothing fails.
    pub(in crate::tools) fn verdicts_finding(&self) -> Option<&Finding> {
        let failed = self.checks.iter().find(|f| f.result == Grade::Fail);
        failed.or(self.checks.last())
    }

    /// With its verdict, which follows from the findings.
    pub(super) fn new(node: String, address: Option<Address>, checks: Vec<Finding>) -> Self {
        let failed = checks.iter().find(|f| f.result == Grade::Fail);
        let verdict = failed.and_then(|f| f.code);
        Self {
            node,
            address,
            verdict: verdict.map_or(Verdict::Reachable, Verdict::Fails),
            checks,
        }
    }
}

/// Everything that one call found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(in crate::tools) struct Report {
    /// Of this host.
    pub(super) host: Vec<Finding>,
    /// Of the nodes, in the order in which they were asked for.
    pub(in crate::tools) nodes: Vec<NodeReport>,
}

impl Report {
    /// Whether anything fails.
    pub(super) fn fails(&self) -> bool {
        let nodes = self.nodes.iter().flat_map(|node| &node.checks);
        self.host
            .iter()
            .chain(nodes)
            .any(|f| f.result == Grade::Fail)
    }

    /// One line a finding, for people. Ends with a newline.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.host {
            finding.show("this host", &mut text);
        }
        for node in &self.nodes {
            let subject = escape(node.node.as_bytes());
            for finding in &node.checks {
                finding.show(&subject, &mut text);
            }
        }
        text
    }

    /// One object on one line. Ends with a newline.
    ///
    /// # Errors
    /// None that these types can cause.
    pub(in crate::tools) fn json(&self) -> serde_json::Result<String> {
        let mut text = escape_json(&serde_json::to_string(self)?);
        text.push('\n');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn report() -> Report {
        let address: Option<IpAddr> = "10.77.0.1".parse().ok();
        let address = address.map(Address::from);
        let resolved = Finding::ok(Check::Resolve, "api.test is 10.77.0.1");
        let silent = Finding::fail(
            Check::Epmd,
            Code::EpmdNoAnswer,
            "no answer",
            "do this:\n  and that",
        );
        let everywhere = Finding::warn(
            Check::Distribution,
            Code::DistributionListensEverywhere,
            "everywhere",
            "less",
        );
        Report {
            host: vec![everywhere.about("api")],
            nodes: vec![
                NodeReport::new("a@api.test".to_owned(), address, vec![resolved, silent]),
                NodeReport::new("b@nowhere".to_owned(), None, vec![]),
            ],
        }
    }

    #[test]
    fn every_line_that_is_not_indented_is_a_finding() {
        assert_eq!(
            report().text(),
            "warn this host: everywhere\n       less\n\
             ok   a@api.test: api.test is 10.77.0.1\n\
             FAIL a@api.test: no answer\n       do this:\n         and that\n"
        );
    }

    #[test]
    fn json_has_every_key_whatever_was_found() {
        assert_eq!(
            report().json().unwrap(),
            concat!(
                r#"{"host":[{"check":"distribution","result":"warn","code":"distribution_listens_everywhere","#,
                r#""node":"api","message":"everywhere","remedy":"less"}],"nodes":[{"node":"a@api.test","#,
                r#""address":"10.77.0.1","verdict":"epmd_no_answer","checks":[{"check":"resolve","result":"ok","#,
                r#""code":null,"message":"api.test is 10.77.0.1","remedy":null},{"check":"epmd","result":"fail","#,
                r#""code":"epmd_no_answer","message":"no answer","remedy":"do this:\n  and that"}]},"#,
                r#"{"node":"b@nowhere","address":null,"verdict":"reachable","checks":[]}]}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_verdict_is_one_word() {
        assert_eq!(Verdict::Reachable.to_string(), "reachable");
        assert_eq!(
            Verdict::Fails(Code::EpmdNoAnswer).to_string(),
            "epmd_no_answer"
        );
        let report = report();
        let finding = |node: usize| report.nodes[node].verdicts_finding();
        assert_eq!(finding(0).unwrap().message, "no answer");
        assert_eq!(finding(1), None);
    }

    #[test]
    fn only_a_failure_fails() {
        let mut report = report();
        assert!(report.fails());
        report.nodes.clear();
        assert!(!report.fails(), "a warning is none");
        report.host.push(Finding::fail(
            Check::Config,
            Code::ConfigError,
            "wrong",
            "right",
        ));
        assert!(report.fails());
    }
}

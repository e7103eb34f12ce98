//! Whose fault it is: a pair's, a target's, a source's.
//!
//! A column that fails as a whole is the target's (its epmd, its node, a firewall before it), a row the
//! source's, and what neither explains is a pair's. A whole one needs two hosts at least on the other side:
//! one cell alone says no more than that. Where both a row and a column would explain a cell, the one counts
//! that is needed anyway; where neither is, the fewer. Looks at nothing but the cells. Called by `table`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::cells::{Cells, Seen};

/// Whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// The host that nobody reaches.
    Target,
    /// The host that reaches nobody.
    Source,
    /// The way from one host to a node of another.
    Pair,
    /// A host that could not be asked.
    Unasked,
}

/// One conclusion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Conclusion {
    /// Whose it is.
    pub(super) kind: Kind,
    /// The culprit; of a pair the source.
    pub(super) host: String,
    /// The nodes that are not reached.
    pub(super) nodes: Vec<String>,
    /// What it is, in one line.
    pub(super) message: String,
    /// What to do, by the doctor that saw it.
    pub(super) remedy: Option<String>,
}

/// What follows from these cells, culprits with most to answer for first.
pub(super) fn conclude(cells: &Cells) -> Vec<Conclusion> {
    let failing: Vec<(usize, usize, &Seen)> =
        cells.known().filter(|(_, _, seen)| seen.fails()).collect();
    let blame = Blame::of(cells, &failing);
    let mut all = targets(cells, &blame, &failing);
    all.extend(sources(cells, &blame, &failing));
    all.extend(pairs(cells, &blame, &failing));
    for (row, host) in cells.rows.iter().zip(&cells.hosts) {
        if let Err(unasked) = row {
            all.push(Conclusion {
                kind: Kind::Unasked,
                host: host.name.clone(),
                nodes: Vec::new(),
                message: format!("could not be asked: {}", unasked.message),
                remedy: unasked.remedy.clone(),
            });
        }
    }
    all
}

/// The rows and columns that explain what fails.
struct Blame {
    rows: BTreeSet<usize>,
    columns: BTreeSet<usize>,
}

impl Blame {
    fn of(cells: &Cells, failing: &[(usize, usize, &Seen)]) -> Self {
        let (rows, columns) = (whole_rows(cells), whole_columns(cells));
        let mut blame = Self {
            rows: BTreeSet::new(),
            columns: BTreeSet::new(),
        };
        let mut open = Vec::new();
        for (row, column, seen) in failing {
            match (rows.contains(row), columns.contains(column)) {
                (true, false) => drop(blame.rows.insert(*row)),
                (false, true) => drop(blame.columns.insert(*column)),
                (true, true) => open.push((*row, *column, *seen)),
                (false, false) => {}
            }
        }
        open.retain(|(row, column, _)| !blame.explains(*row, *column));
        let sources: BTreeSet<_> = open.iter().map(|(row, ..)| *row).collect();
        let targets: BTreeSet<_> = open.iter().map(|(_, c, _)| cells.host_of(*c)).collect();
        // What a host calls another is its own affair.
        let unresolved = open.iter().all(|(.., seen)| seen.verdict == "unresolved");
        if sources.len() < targets.len() || unresolved {
            blame.rows.extend(sources);
        } else {
            blame
                .columns
                .extend(open.iter().map(|(_, column, _)| *column));
        }
        blame
    }

    fn explains(&self, row: usize, column: usize) -> bool {
        self.rows.contains(&row) || self.columns.contains(&column)
    }
}

/// The hosts that reach nobody, on two other hosts at least.
fn whole_rows(cells: &Cells) -> BTreeSet<usize> {
    let mut reached: BTreeMap<usize, (bool, BTreeSet<usize>)> = BTreeMap::new();
    for (row, column, seen) in cells.known() {
        let (fails, hosts) = reached.entry(row).or_insert((true, BTreeSet::new()));
        *fails &= seen.fails();
        hosts.insert(cells.host_of(column));
    }
    whole(reached)
}

/// The nodes that nobody reaches, from two hosts at least.
fn whole_columns(cells: &Cells) -> BTreeSet<usize> {
    let mut reached: BTreeMap<usize, (bool, BTreeSet<usize>)> = BTreeMap::new();
    for (row, column, seen) in cells.known() {
        let (fails, hosts) = reached.entry(column).or_insert((true, BTreeSet::new()));
        *fails &= seen.fails();
        hosts.insert(row);
    }
    whole(reached)
}

fn whole(reached: BTreeMap<usize, (bool, BTreeSet<usize>)>) -> BTreeSet<usize> {
    let whole = reached
        .into_iter()
        .filter(|(_, (fails, hosts))| *fails && hosts.len() > 1);
    whole.map(|(number, _)| number).collect()
}

/// Cells that are told together.
type Group<'a> = Vec<(usize, usize, &'a Seen)>;

fn targets(cells: &Cells, blame: &Blame, failing: &[(usize, usize, &Seen)]) -> Vec<Conclusion> {
    // Nodes of a host that fail alike are one finding.
    let mut groups: BTreeMap<(usize, String), Group<'_>> = BTreeMap::new();
    for column in &blame.columns {
        let of_node: Group<'_> = failing.iter().copied().filter(|f| f.1 == *column).collect();
        let key = (cells.host_of(*column), commonest(&of_node));
        groups.entry(key).or_default().extend(of_node);
    }
    let conclude = |((host, verdict), group): ((usize, String), Group<'_>)| {
        let (row, _, seen) = shown(&group, &verdict)?;
        let host = cells.host(host);
        let nodes = nodes(cells, &group);
        let part = match &*verdict {
            v if v.starts_with("epmd") || v == "not_an_epmd" => "its epmd, or a firewall before it",
            v if v.starts_with("distribution") => "the node's own port, or a firewall before it",
            "not_registered" => "the node itself",
            "unresolved" => "its name",
            _ => "its epmd, its node or a firewall before them",
        };
        let hosts: BTreeSet<_> = group.iter().map(|(row, ..)| row).collect();
        Some(Conclusion {
            kind: Kind::Target,
            host: host.to_owned(),
            message: format!(
                "none of {} hosts reaches {} ({}), so look at {host}: {part}. {} says: {}",
                hosts.len(),
                nodes.join(", "),
                counted(&group),
                cells.host(row),
                seen.message
            ),
            nodes,
            remedy: said_by(cells.host(row), seen),
        })
    };
    groups.into_iter().filter_map(conclude).collect()
}

fn sources(cells: &Cells, blame: &Blame, failing: &[(usize, usize, &Seen)]) -> Vec<Conclusion> {
    let conclude = |row: &usize| {
        // What a column explains is not the source's.
        let of_host = failing.iter().copied();
        let group: Group<'_> = of_host
            .filter(|(r, c, _)| r == row && !blame.columns.contains(c))
            .collect();
        let verdict = commonest(&group);
        let (_, column, seen) = shown(&group, &verdict)?;
        let host = cells.host(*row);
        let part = match &*verdict {
            "unresolved" => "its resolver",
            "epmd_refuses_us" => "whether the lists of the others have its address",
            _ => "its firewall, its routes, its address",
        };
        let nodes = nodes(cells, &group);
        Some(Conclusion {
            kind: Kind::Source,
            host: host.to_owned(),
            message: format!(
                "reaches no node of another host ({}), so look at {host} itself: {part}. Of {} it says: {}",
                counted(&group),
                cells.node(column),
                seen.message
            ),
            nodes,
            remedy: said_by(host, seen),
        })
    };
    blame.rows.iter().filter_map(conclude).collect()
}

fn pairs(cells: &Cells, blame: &Blame, failing: &[(usize, usize, &Seen)]) -> Vec<Conclusion> {
    let mut groups: BTreeMap<(usize, usize, &str), Group<'_>> = BTreeMap::new();
    for (row, column, seen) in failing {
        if !blame.explains(*row, *column) {
            let key = (*row, cells.host_of(*column), &*seen.verdict);
            groups.entry(key).or_default().push((*row, *column, seen));
        }
    }
    let conclude = |((row, _, verdict), group): ((usize, usize, &str), Group<'_>)| {
        let (_, column, seen) = shown(&group, verdict)?;
        let nodes = nodes(cells, &group);
        let others = (0..cells.hosts.len()).filter(|r| *r != row);
        let others = others.filter(|r| cells.seen(*r, column).is_some_and(|seen| !seen.fails()));
        let others = match others.count() {
            0 => String::new(),
            1 => ", which another host does".to_owned(),
            count => format!(", which {count} other hosts do"),
        };
        Some(Conclusion {
            kind: Kind::Pair,
            host: cells.host(row).to_owned(),
            message: format!(
                "does not reach {}{others} ({verdict}), so look at the way between the two, and at the lists. It says: {}",
                nodes.join(", "),
                seen.message
            ),
            nodes,
            remedy: said_by(cells.host(row), seen),
        })
    };
    groups.into_iter().filter_map(conclude).collect()
}

/// What to do, and by whom that is said: its words are for who reads them there.
fn said_by(host: &str, seen: &Seen) -> Option<String> {
    let remedy = seen.remedy.as_ref()?;
    Some(format!(
        "Said on {host}, which is \"this host\" here:\n{remedy}"
    ))
}

/// The nodes of these cells, each once, in the order in which they were given.
fn nodes(cells: &Cells, group: &Group<'_>) -> Vec<String> {
    let columns: BTreeSet<_> = group.iter().map(|(_, column, _)| *column).collect();
    columns.into_iter().map(|c| cells.node(c)).collect()
}

/// How often each verdict is among these, the commonest first.
fn counts<'a>(group: &Group<'a>) -> Vec<(&'a str, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (.., seen) in group {
        *counts.entry(&seen.verdict).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

fn commonest(group: &Group<'_>) -> String {
    let counts = counts(group);
    counts
        .first()
        .map_or_else(String::new, |(v, _)| (*v).to_owned())
}

/// The verdicts of these cells, counted where they differ.
fn counted(group: &Group<'_>) -> String {
    match &counts(group)[..] {
        [(verdict, _)] => (*verdict).to_owned(),
        several => {
            let each = several
                .iter()
                .map(|(verdict, count)| format!("{count} {verdict}"));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

/// The first of these with this verdict: its finding is shown.
fn shown<'a>(group: &Group<'a>, verdict: &str) -> Option<(usize, usize, &'a Seen)> {
    group
        .iter()
        .copied()
        .find(|(.., seen)| seen.verdict == verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Target;
    use crate::tools::mesh::cells::Unasked;
    use crate::tools::mesh::hosts::Host;

    /// Hosts h1, h2, ..., with as many nodes each as `nodes` says, and rows of words: `.` reachable, `n`
    /// epmd_no_answer, `r` epmd_refuses_us, `g` not_registered, `u` unresolved; a row `?` was not asked. A
    /// host's own cell may be anything.
    fn cells(nodes: &[usize], rows: &[&str]) -> Cells {
        let mut targets = Vec::new();
        let mut hosts = Vec::new();
        for (host, count) in (1..).zip(nodes) {
            let begin = targets.len();
            for node in 1..=*count {
                targets.push(Target::parse(&format!("n{node}@h{host}")).unwrap());
            }
            hosts.push(Host {
                name: format!("h{host}"),
                is_this: host == 1,
                nodes: (begin..targets.len()).collect(),
            });
        }
        let rows = rows.iter().map(|row| {
            if *row == "?" {
                let message = "no ssh".to_owned();
                let remedy = None;
                return Err(Unasked { message, remedy });
            }
            assert_eq!(row.len(), targets.len());
            let seen = row.chars().map(|c| Seen {
                verdict: match c {
                    'n' => "epmd_no_answer",
                    'r' => "epmd_refuses_us",
                    'g' => "not_registered",
                    'u' => "unresolved",
                    _ => "reachable",
                }
                .to_owned(),
                message: "finding".to_owned(),
                remedy: Some("remedy".to_owned()),
            });
            Ok(seen.collect())
        });
        let rows = rows.collect();
        Cells::new(targets, hosts, rows)
    }

    /// The conclusions in short.
    fn short(nodes: &[usize], rows: &[&str]) -> Vec<String> {
        let all = conclude(&cells(nodes, rows));
        all.iter()
            .map(|c| format!("{:?} {} {}", c.kind, c.host, c.nodes.join(",")))
            .collect()
    }

    #[test]
    fn each_kind_of_fault_has_its_culprit() {
        let one = &[1, 1, 1][..];
        for (nodes, rows, expected) in [
            (one, &["-..", ".-.", "..-"][..], &[][..]),
            // One pair, one way; both ways.
            (one, &["-n.", ".-.", "..-"], &["Pair h1 n1@h2"]),
            (
                one,
                &["-n.", "n-.", "..-"],
                &["Pair h1 n1@h2", "Pair h2 n1@h1"],
            ),
            // A target.
            (one, &["-.n", ".-n", "..-"], &["Target h3 n1@h3"]),
            // A source: its list, its firewall.
            (one, &["-..", ".-.", "rr-"], &["Source h3 n1@h1,n1@h2"]),
            // Cut off both ways.
            (
                one,
                &["-.n", ".-n", "nn-"],
                &["Target h3 n1@h3", "Source h3 n1@h1,n1@h2"],
            ),
            // Two targets are no fault of the host that sees no other.
            (
                one,
                &["-n.", "n-.", "nn-"],
                &["Target h1 n1@h1", "Target h2 n1@h2"],
            ),
            // Nor two sources of the host that nobody else sees.
            (
                one,
                &["-nn", "n-n", "..-"],
                &["Source h1 n1@h2,n1@h3", "Source h2 n1@h1,n1@h3"],
            ),
            // Everybody's epmd; everybody's resolver.
            (
                one,
                &["-nn", "n-n", "nn-"],
                &["Target h1 n1@h1", "Target h2 n1@h2", "Target h3 n1@h3"],
            ),
            (
                one,
                &["-uu", "u-u", "uu-"],
                &[
                    "Source h1 n1@h2,n1@h3",
                    "Source h2 n1@h1,n1@h3",
                    "Source h3 n1@h1,n1@h2",
                ],
            ),
            // Two hosts say nothing about whose it is.
            (&[1, 1], &["-n", ".-"], &["Pair h1 n1@h2"]),
            (&[1, 1], &["-n", "n-"], &["Pair h1 n1@h2", "Pair h2 n1@h1"]),
            (&[2, 2], &["--nn", "..--"], &["Pair h1 n1@h2,n2@h2"]),
            (
                &[2, 2],
                &["--ng", "..--"],
                &["Pair h1 n1@h2", "Pair h1 n2@h2"],
            ),
            // Nodes of a host: one of them; both alike; each in its own way.
            (&[1, 1, 2], &["-.g.", ".-g.", "..--"], &["Target h3 n1@h3"]),
            (
                &[1, 1, 2],
                &["-.nn", ".-nn", "..--"],
                &["Target h3 n1@h3,n2@h3"],
            ),
            (
                &[1, 1, 2],
                &["-.gn", ".-gn", "..--"],
                &["Target h3 n2@h3", "Target h3 n1@h3"],
            ),
            // A host that was not asked, alone, and beside a fault; no more than one is left to see it.
            (one, &["-..", "?", "..-"], &["Unasked h2 "]),
            (
                &[1; 4],
                &["-..n", "?", "..-n", "...-"],
                &["Target h4 n1@h4", "Unasked h2 "],
            ),
            (one, &["-.n", "?", "..-"], &["Pair h1 n1@h3", "Unasked h2 "]),
            (&[1], &["-"], &[]),
        ] {
            assert_eq!(short(nodes, rows), expected, "{rows:?}");
        }
    }

    #[test]
    fn two_faults_among_eight_hosts_are_two() {
        let mut rows: Vec<Vec<char>> = vec![vec!['.'; 8]; 8];
        for row in &mut rows {
            row[2] = 'g';
        }
        rows[4][6] = 'n';
        let fault = |rows: &[Vec<char>]| {
            let rows: Vec<String> = rows.iter().map(|row| row.iter().collect()).collect();
            short(
                &[1; 8],
                &rows.iter().map(String::as_str).collect::<Vec<_>>(),
            )
        };
        assert_eq!(fault(&rows), ["Target h3 n1@h3", "Pair h5 n1@h7"]);
        // And a source beside a target.
        rows[5] = vec!['n'; 8];
        rows[4][6] = '.';
        rows[5][2] = 'n';
        assert_eq!(
            fault(&rows),
            [
                "Target h3 n1@h3",
                "Source h6 n1@h1,n1@h2,n1@h4,n1@h5,n1@h7,n1@h8"
            ]
        );
    }

    #[test]
    fn a_conclusion_says_how_many_saw_it_and_how() {
        let message =
            |nodes: &[usize], rows: &[&str]| conclude(&cells(nodes, rows)).remove(0).message;
        assert_eq!(
            message(&[1; 4], &["-..n", ".-.n", "..-r", "...-"]),
            "none of 3 hosts reaches n1@h4 (2 epmd_no_answer, 1 epmd_refuses_us), so look at h4: its epmd, or a \
             firewall before it. h1 says: finding"
        );
        assert_eq!(
            message(&[1; 3], &["-n.", ".-.", "..-"]),
            "does not reach n1@h2, which another host does (epmd_no_answer), so look at the way between the two, and \
             at the lists. It says: finding"
        );
        assert_eq!(
            message(&[1; 3], &["-rr", ".-.", "..-"]),
            "reaches no node of another host (epmd_refuses_us), so look at h1 itself: whether the lists of the others \
             have its address. Of n1@h2 it says: finding"
        );
    }
}

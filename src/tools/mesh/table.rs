//! How it is shown: the table and what follows from it, for people or as JSON.
//!
//! The names in the JSON are a contract with whatever reads it. Called by `mesh`.

use std::fmt::Write as _;

use serde::Serialize;

use super::cells::{Cell, Cells, Row, Unasked};
use super::conclude::{Conclusion, Kind, conclude};
use super::hosts::Host;
use crate::config::Target;
use crate::core::audit::escape_json;
use crate::core::status::table;

/// Everything that one call found.
pub(super) struct Table {
    cells: Cells,
    conclusions: Vec<Conclusion>,
}

#[derive(Serialize)]
struct Json<'a> {
    hosts: Vec<&'a str>,
    pairs: Vec<Pair<'a>>,
    conclusions: &'a [Conclusion],
}

/// What one host says of one node of another; null where it could not be asked.
#[derive(Serialize)]
struct Pair<'a> {
    from: &'a str,
    to: String,
    verdict: Option<&'a str>,
    message: Option<&'a str>,
    remedy: Option<&'a str>,
}

impl Table {
    /// With what follows from it.
    pub(super) fn new(
        targets: Vec<Target>,
        hosts: Vec<Host>,
        rows: Vec<Result<Row, Unasked>>,
    ) -> Self {
        let cells = Cells::new(targets, hosts, rows);
        Self {
            conclusions: conclude(&cells),
            cells,
        }
    }

    /// Whether a node is not reached.
    pub(super) fn fails(&self) -> bool {
        self.cells.known().any(|(.., seen)| seen.fails())
    }

    /// For people: the table, an empty line, and a line for each conclusion, with what to do under it. Ends
    /// with a newline.
    pub(super) fn text(&self) -> String {
        let nodes: Vec<_> = self
            .columns()
            .map(|column| self.cells.node(column))
            .collect();
        let heading: Vec<_> = std::iter::once("from")
            .chain(nodes.iter().map(String::as_str))
            .collect();
        let rows = self.rows().map(|row| {
            let cells = self
                .columns()
                .map(|column| match self.cells.at(row, column) {
                    Cell::Own => "-",
                    Cell::Unknown => "?",
                    Cell::Seen(seen) if seen.fails() => &seen.verdict,
                    Cell::Seen(_) => "ok",
                });
            std::iter::once(self.cells.host(row))
                .chain(cells)
                .map(str::to_owned)
                .collect()
        });
        let mut text = table(&heading, rows).trim_start().to_owned();
        text.push('\n');
        for conclusion in &self.conclusions {
            let grade = match conclusion.kind {
                Kind::Target | Kind::Source | Kind::Pair => "FAIL",
                Kind::Unasked => "warn",
            };
            // Writing to a string can't fail.
            let _ = writeln!(text, "{grade} {}: {}", conclusion.host, conclusion.message);
            for line in conclusion.remedy.iter().flat_map(|remedy| remedy.lines()) {
                let _ = writeln!(text, "       {line}");
            }
        }
        match (self.fails(), self.cells.known().count()) {
            (true, _) => {}
            (false, 0) => text.push_str("warn mesh: no host was asked about a node of another\n"),
            (false, _) => {
                text.push_str(
                    "ok   mesh: each host that was asked reaches each node of the others\n",
                );
            }
        }
        text
    }

    /// One object on one line. Ends with a newline.
    ///
    /// # Errors
    /// None that these types can cause.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        let pairs = self.rows().flat_map(|row| {
            self.columns().filter_map(move |column| {
                let seen = match self.cells.at(row, column) {
                    Cell::Own => return None,
                    Cell::Unknown => None,
                    Cell::Seen(seen) => Some(seen),
                };
                Some(Pair {
                    from: self.cells.host(row),
                    to: self.cells.node(column),
                    verdict: seen.map(|seen| &*seen.verdict),
                    message: seen.map(|seen| &*seen.message),
                    remedy: seen.and_then(|seen| seen.remedy.as_deref()),
                })
            })
        });
        let json = Json {
            hosts: self.rows().map(|row| self.cells.host(row)).collect(),
            pairs: pairs.collect(),
            conclusions: &self.conclusions,
        };
        let mut text = escape_json(&serde_json::to_string(&json)?);
        text.push('\n');
        Ok(text)
    }

    fn rows(&self) -> std::ops::Range<usize> {
        0..self.cells.hosts.len()
    }

    fn columns(&self) -> std::ops::Range<usize> {
        0..self.cells.targets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::mesh::cells::Seen;

    fn table_of(rows: [Result<&str, &str>; 2]) -> Table {
        let targets = ["a@h1", "b@h2"].map(|n| Target::parse(n).unwrap()).into();
        let host = |name: &str, node| Host {
            name: name.to_owned(),
            is_this: false,
            nodes: vec![node],
        };
        let rows = rows.map(|row| {
            row.map(|verdict| {
                let seen = Seen {
                    verdict: verdict.to_owned(),
                    message: "finding".to_owned(),
                    remedy: (verdict != "reachable").then(|| "do:\n  this".to_owned()),
                };
                vec![seen.clone(), seen]
            })
            .map_err(|why| Unasked {
                message: why.to_owned(),
                remedy: Some("try".to_owned()),
            })
        });
        Table::new(targets, vec![host("h1", 0), host("h2", 1)], rows.into())
    }

    #[test]
    fn the_table_and_what_follows_from_it() {
        let table = table_of([Ok("epmd_no_answer"), Err("no ssh")]);
        assert_eq!(
            table.text(),
            "from  a@h1  b@h2\n\
             h1    -     epmd_no_answer\n\
             h2    ?     -\n\
             \n\
             FAIL h1: does not reach b@h2 (epmd_no_answer), so look at the way between the two, and at the lists. It says: finding\n\
             \x20      Said on h1, which is \"this host\" here:\n\
             \x20      do:\n\
             \x20        this\n\
             warn h2: could not be asked: no ssh\n\
             \x20      try\n"
        );
        assert!(table.fails());
        let good = table_of([Ok("reachable"), Ok("reachable")]);
        assert_eq!(
            good.text(),
            "from  a@h1  b@h2\nh1    -     ok\nh2    ok    -\n\n\
             ok   mesh: each host that was asked reaches each node of the others\n"
        );
        assert!(!good.fails());
        let unasked = table_of([Err("x"), Err("y")]);
        assert!(
            unasked
                .text()
                .ends_with("warn mesh: no host was asked about a node of another\n")
        );
        assert!(!unasked.fails());
    }

    #[test]
    fn json_has_every_key_whatever_was_found() {
        let table = table_of([Ok("epmd_no_answer"), Err("no ssh")]);
        assert_eq!(
            table.json().unwrap(),
            concat!(
                r#"{"hosts":["h1","h2"],"pairs":[{"from":"h1","to":"b@h2","verdict":"epmd_no_answer","message":"finding","#,
                r#""remedy":"do:\n  this"},{"from":"h2","to":"a@h1","verdict":null,"message":null,"remedy":null}],"#,
                r#""conclusions":[{"kind":"pair","host":"h1","nodes":["b@h2"],"message":"does not reach b@h2 "#,
                r#"(epmd_no_answer), so look at the way between the two, and at the lists. It says: finding","#,
                r#""remedy":"Said on h1, which is \"this host\" here:\ndo:\n  this"},{"kind":"unasked","host":"h2","nodes":[],"#,
                r#""message":"could not be asked: no ssh","remedy":"try"}]}"#,
                "\n"
            )
        );
    }
}

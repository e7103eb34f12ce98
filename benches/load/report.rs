//! What was measured, as a table for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::rounds::Rounds;
use crate::server::Kind;

/// What a target asks of a number.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Target {
    /// Whether `value` meets it.
    fn is_met(self, value: f64) -> bool {
        match self {
            Target::AtMost(limit) => value <= limit,
            Target::AtLeast(limit) => value >= limit,
        }
    }

    /// As people write it.
    fn text(self) -> String {
        match self {
            Target::AtMost(limit) => format!("<= {limit}"),
            Target::AtLeast(limit) => format!(">= {limit}"),
        }
    }
}

/// A number beside the target that it has, if it has one.
struct Check {
    what: String,
    value: f64,
    target: Option<Target>,
}

/// One line: what was measured, of each server, and what follows from it.
pub(crate) struct Row {
    what: String,
    unit: &'static str,
    values: [Option<f64>; 3],
    checks: Vec<Check>,
}

impl Row {
    /// A line without numbers.
    pub(crate) fn new(what: impl Into<String>, unit: &'static str) -> Row {
        Row {
            what: what.into(),
            unit,
            values: [None; 3],
            checks: Vec::new(),
        }
    }

    /// A line with the medians of all servers, ours with its ratio to each of the others and what
    /// the targets say of that.
    pub(crate) fn of_rounds(
        what: impl Into<String>,
        unit: &'static str,
        rounds: &Rounds<Kind>,
        targets: &[(Kind, Target)],
    ) -> Row {
        let mut row = Row::new(what, unit);
        for kind in Kind::ALL {
            if let Some(median) = rounds.median(kind) {
                row = row.value(kind, median);
            }
        }
        for (kind, base) in [
            (Kind::Ours, Kind::Bare),
            (Kind::Ours, Kind::Stock),
            (Kind::Stock, Kind::Bare),
        ] {
            let target = targets
                .iter()
                .find(|(of, _)| kind == Kind::Ours && *of == base)
                .map(|(_, target)| *target);
            if let Some(ratio) = rounds.ratio(kind, base) {
                row = row.check(format!("{}/{}", kind.name(), base.name()), ratio, target);
            }
        }
        row
    }

    /// The same with the number of `kind`.
    pub(crate) fn value(mut self, kind: Kind, value: f64) -> Row {
        for (slot, of) in self.values.iter_mut().zip(Kind::ALL) {
            if of == kind {
                *slot = Some(value);
            }
        }
        self
    }

    /// The same with a number that follows, and its target.
    pub(crate) fn check(
        mut self,
        what: impl Into<String>,
        value: f64,
        target: Option<Target>,
    ) -> Row {
        self.checks.push(Check {
            what: what.into(),
            value,
            target,
        });
        self
    }

    /// The number of `kind`, where there is one.
    pub(crate) fn get(&self, kind: Kind) -> Option<f64> {
        let mut values = self.values.iter().zip(Kind::ALL);
        values
            .find(|(_, of)| *of == kind)
            .and_then(|(value, _)| *value)
    }
}

/// All lines, in the order in which they were measured.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// One line more.
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.what.len()).max();
        let width = width.unwrap_or_default();
        let mut table = format!(
            "{:width$}  {:>9} {:>9} {:>9}  {:8}\n",
            "", "bare", "ours", "stock", "unit"
        );
        for row in &self.rows {
            write!(table, "{:width$} ", row.what).expect("a string takes all");
            for value in row.values {
                let value = value.map_or("-".into(), digits);
                write!(table, " {value:>9}").expect("a string takes all");
            }
            let checks: Vec<_> = row.checks.iter().map(Check::text).collect();
            let line = format!("  {:8} {}", row.unit, checks.join("; "));
            table.push_str(line.trim_end());
            table.push('\n');
        }
        table
    }

    /// The same as JSON, with the date and the machine.
    pub(crate) fn json(&self, date: &str, machine: &str) -> Value {
        let rows: Vec<_> = self.rows.iter().map(Row::json).collect();
        json!({"date": date, "machine": machine, "rows": rows})
    }
}

impl Row {
    /// The line as JSON.
    fn json(&self) -> Value {
        let values: serde_json::Map<_, _> = Kind::ALL
            .iter()
            .map(|kind| (kind.name().to_owned(), json!(self.get(*kind))))
            .collect();
        let checks: Vec<_> = self.checks.iter().map(Check::json).collect();
        json!({"what": self.what, "unit": self.unit, "values": values, "checks": checks})
    }
}

impl Check {
    /// Whether the target is met; nothing where there is none.
    fn is_met(&self) -> Option<bool> {
        self.target.map(|target| target.is_met(self.value))
    }

    /// As it stands in the table.
    fn text(&self) -> String {
        let mut text = format!("{} {:.2}", self.what, self.value);
        if let (Some(target), Some(met)) = (self.target, self.is_met()) {
            let verdict = if met { "met" } else { "MISSED" };
            text.push_str(&format!(" ({}: {verdict})", target.text()));
        }
        text
    }

    /// As JSON.
    fn json(&self) -> Value {
        let target = self.target.map(Target::text);
        json!({"what": self.what, "value": self.value, "target": target, "met": self.is_met()})
    }
}

/// About three digits, which is more than these numbers are good for.
fn digits(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

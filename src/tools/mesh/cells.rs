//! What the table of the mesh holds: what each host says of each node.
//!
//! Plain data, made harmless already. Filled by `told` and `mesh`, read by `conclude` and `table`.

use super::hosts::Host;
use crate::config::Target;
use crate::core::lent::REACHABLE;

/// What a host says of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The doctor's verdict: letters and `_`.
    pub(super) verdict: String,
    /// The finding from which it is, in one line.
    pub(super) message: String,
    /// What to do, in one line or several.
    pub(super) remedy: Option<String>,
}

impl Seen {
    pub(super) fn fails(&self) -> bool {
        self.verdict != REACHABLE
    }
}

/// What a host says of each node, in the order in which they were given; of its own as well.
pub(super) type Row = Vec<Seen>;

/// Why a host was not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unasked {
    /// Why, in one line.
    pub(super) message: String,
    /// What to do.
    pub(super) remedy: Option<String>,
}

/// All that was said.
#[derive(Clone, Debug)]
pub(super) struct Cells {
    /// The nodes: the columns.
    pub(super) targets: Vec<Target>,
    /// The hosts: the rows.
    pub(super) hosts: Vec<Host>,
    /// What each host says.
    pub(super) rows: Vec<Result<Row, Unasked>>,
    /// The host of each node.
    host_of: Vec<usize>,
}

/// What stands in one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell<'a> {
    /// The host's own node.
    Own,
    /// The host could not be asked.
    Unknown,
    /// What it says.
    Seen(&'a Seen),
}

impl Cells {
    pub(super) fn new(
        targets: Vec<Target>,
        hosts: Vec<Host>,
        rows: Vec<Result<Row, Unasked>>,
    ) -> Self {
        let of = |node: usize| hosts.iter().position(|host| host.nodes.contains(&node));
        let host_of = (0..targets.len()).map(|node| of(node).unwrap_or(usize::MAX));
        Self {
            host_of: host_of.collect(),
            targets,
            hosts,
            rows,
        }
    }

    /// The cell of this host and this node, by their numbers.
    pub(super) fn at(&self, row: usize, column: usize) -> Cell<'_> {
        if self.host_of(column) == row {
            return Cell::Own;
        }
        match self.rows.get(row) {
            Some(Ok(seen)) => seen.get(column).map_or(Cell::Unknown, Cell::Seen),
            Some(Err(_)) | None => Cell::Unknown,
        }
    }

    /// What is known there.
    pub(super) fn seen(&self, row: usize, column: usize) -> Option<&Seen> {
        match self.at(row, column) {
            Cell::Seen(seen) => Some(seen),
            Cell::Own | Cell::Unknown => None,
        }
    }

    /// The number of a node's host.
    pub(super) fn host_of(&self, column: usize) -> usize {
        self.host_of.get(column).copied().unwrap_or(usize::MAX)
    }

    /// The name of a host.
    pub(super) fn host(&self, row: usize) -> &str {
        self.hosts.get(row).map_or("", |host| &host.name)
    }

    /// The whole name of a node.
    pub(super) fn node(&self, column: usize) -> String {
        self.targets
            .get(column)
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    /// Row and column of all that is known.
    pub(super) fn known(&self) -> impl Iterator<Item = (usize, usize, &Seen)> {
        let all = (0..self.hosts.len()).flat_map(|r| (0..self.targets.len()).map(move |c| (r, c)));
        all.filter_map(|(r, c)| Some((r, c, self.seen(r, c)?)))
    }
}

//! Which refusals are told, and which are only counted: see the design's section on the audit.

use std::net::IpAddr;

use crate::outcome::{Operation, Reason};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request was refused.
    Refused,
    /// A request was served that `access.enforce = true` would have refused.
    WouldRefuse,
    /// A lookup was answered (`audit.lookups`).
    Lookup,
}

/// One line of the audit, ready to be told. Nothing in it can forge a line or a field: what came
/// from a stranger is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// What was asked.
    pub operation: Operation,
    /// The name that was asked for, escaped; absent where there is none, or several.
    pub node: Option<String>,
    /// Who asked; absent only from the line that counts what could not be told one by one.
    pub peer: Option<(IpAddr, u16)>,
    /// The address it came to; absent as `peer` is.
    pub local: Option<IpAddr>,
    /// Why; absent from an answered lookup.
    pub reason: Option<Reason>,
    /// How many like it since the last line; 0 on the first.
    pub repeats: u64,
    /// The whole, for people.
    pub message: String,
}

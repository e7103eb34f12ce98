//! A line of the audit, as data.
//!
//! Made by `message`, told by whoever keeps the log.

use std::net::IpAddr;

use crate::core::outcome::{Operation, Reason};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request was refused.
    Refused,
    /// A request was served that `access.enforce = true` would have refused.
    WouldRefuse,
    /// A lookup was answered (`audit.lookups`).
    Lookup,
    /// A registration found its name taken.
    Taken,
}

impl Kind {
    /// Its name in the field `event`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::WouldRefuse => "would_refuse",
            Self::Lookup => "lookup",
            Self::Taken => "taken",
        }
    }
}

/// One line of the audit, ready to be told. Nothing in it can forge a line or a field: what came
/// from a stranger is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// What was asked; absent only from the line that counts what could not be told one by one.
    pub operation: Option<Operation>,
    /// The name that was asked for, escaped; absent where there is none, or several.
    pub node: Option<String>,
    /// Who asked, canonical, and from which port: the latest, where the line sums up several addresses of
    /// one IPv6 /64. Absent only from a line that counts what could not be told one by one.
    pub peer: Option<(IpAddr, u16)>,
    /// The address it came to; absent as `peer` is.
    pub local: Option<IpAddr>,
    /// Which user of this host asked, of a registration where that is known; absent where several did.
    pub uid: Option<u32>,
    /// Why; absent from an answered lookup and a name that is taken, and as `peer` is.
    pub reason: Option<Reason>,
    /// How many like it since the last line; 0 on the first.
    pub repeats: u64,
    /// The whole, for people.
    pub message: String,
}

//! What a line of the audit says to people.
//!
//! Names the setting that refused, as it is written in the file, and on the first refusal of a peer
//! the line that would admit it. The machine-readable fields stand beside it in `Event`; nothing is
//! decided here. Names arrive escaped. Called by `audit` only.

use std::fmt::Write;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Kind, escape, table::SOURCES};
use crate::config;
use crate::outcome::{Operation, Reason, Setting};

/// Where a setting's value comes from. A later one replaces all of an earlier one, so a peer has to be
/// added where the value is, or it would be added to no avail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// The file.
    File,
    /// An environment variable.
    Environment,
    /// The command line.
    CommandLine,
}

/// What a message has to know of the settings, to say which line would admit a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The file that was read, or that would be read if it were there.
    pub file: PathBuf,
    /// Where `access.allow` comes from: the file, `EPMD_ALLOW` or `-allow`.
    pub allow: Origin,
    /// Where `listen` comes from: the file, `ERL_EPMD_ADDRESS` or `-address`.
    pub listen: Origin,
}

impl Default for Hint {
    fn default() -> Self {
        Self {
            file: config::DEFAULT_FILE.into(),
            allow: Origin::Default,
            listen: Origin::Default,
        }
    }
}

/// The name that was asked for, escaped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name<'a> {
    None,
    One(&'a str),
    Several,
}

/// What a line is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) kind: Kind,
    pub(super) operation: Operation,
    pub(super) reason: Reason,
    /// `None` also where several settings decided.
    pub(super) setting: Option<Setting>,
    pub(super) name: Name<'a>,
    pub(super) peer: IpAddr,
    pub(super) local: IpAddr,
}

impl Line<'_> {
    /// The message of a first refusal, with the line that would admit the peer.
    pub(super) fn first(&self, hint: &Hint) -> String {
        let mut text = self.what(hint);
        if self.reason == Reason::NotAllowed
            && let Some(place) = self.admitting(hint)
        {
            let _ = write!(text, " (to admit it: add \"{}\" to {place})", self.peer);
        }
        text
    }

    /// The message of a sum: how many more there were, in how long a time.
    pub(super) fn sum(&self, hint: &Hint, repeats: u64, elapsed: Duration) -> String {
        let mut text = self.what(hint);
        let times = if repeats == 1 { "time" } else { "times" };
        let _ = write!(text, ", {repeats} more {times} in ");
        let _ = match elapsed {
            short if short < Duration::from_secs(1) => write!(text, "{} ms", short.as_millis()),
            long => write!(text, "{:.0} s", long.as_secs_f64()),
        };
        text
    }

    fn what(&self, hint: &Hint) -> String {
        let what = match self.operation {
            Operation::Lookup => "lookup",
            Operation::List => "list",
            Operation::Register => "registration",
            Operation::Dump => "dump",
            Operation::Kill => "kill",
            Operation::Stop => "stop",
            Operation::Invalid => "invalid request",
            Operation::None => "connection",
        };
        let of = match self.name {
            Name::None => String::new(),
            Name::One(name) => format!(" of \"{name}\""),
            Name::Several => " of different names".into(),
        };
        let (verb, peer) = (verb(self.kind), self.peer);
        format!("{verb} {what}{of} from {peer}: {}", self.why(hint))
    }

    fn why(&self, hint: &Hint) -> String {
        match self.reason {
            Reason::NotAllowed => self.not_allowed(),
            Reason::Denied => "in access.deny".into(),
            Reason::NotLocal => match self.operation {
                Operation::Register => "only this host may register".into(),
                other => format!("only this host may {other}"),
            },
            Reason::AddressNotServed => {
                let setting = match hint.listen {
                    Origin::Default => "ERL_EPMD_ADDRESS, -address or listen".into(),
                    Origin::File => format!("listen of {}", file(hint)),
                    Origin::Environment => "ERL_EPMD_ADDRESS".into(),
                    Origin::CommandLine => "-address".into(),
                };
                format!("it came to {}, which is not in {setting}", self.local)
            }
            Reason::Malformed => match self.operation {
                Operation::Register => "its name is one that no node may have",
                _ => "its bytes are no request",
            }
            .into(),
            Reason::Closed => match self.operation {
                Operation::None => "closed before its request was whole",
                _ => "closed before it was answered",
            }
            .into(),
            Reason::Timeout => match self.operation {
                Operation::None => "its request was not whole within limits.request-timeout",
                _ => "its answer was not read within limits.request-timeout",
            }
            .into(),
            Reason::TooMany => match self.setting {
                Some(Setting::PerSource) => "limits.per-source is reached",
                Some(Setting::Connections) => "limits.connections is reached",
                Some(Setting::Registrations) => "limits.registrations is reached",
                _ => "a limit is reached",
            }
            .into(),
        }
    }

    fn not_allowed(&self) -> String {
        match (self.operation, self.setting, self.name) {
            (Operation::Kill, ..) => "names are registered, and relaxed_command_check is off".into(),
            (Operation::Stop, ..) => "relaxed_command_check is off".into(),
            (_, Some(Setting::Node), Name::One(name)) => {
                format!("not in access.node.{}.allow", key(name))
            }
            (_, Some(Setting::Node), _) => "not in allow of [access.node]".into(),
            (_, Some(Setting::List), _) => "not in access.list".into(),
            (_, None, Name::Several) => "not in access.allow, or allow of [access.node]".into(),
            _ => "not in access.allow".into(),
        }
    }

    /// Where the peer would have to be added, for a lookup or a list.
    fn admitting(&self, hint: &Hint) -> Option<String> {
        let file = file(hint);
        match (self.operation, self.setting, self.name) {
            (Operation::Lookup, Some(Setting::Node), Name::One(name)) => {
                Some(format!("allow in [access.node.{}] of {file}", key(name)))
            }
            (Operation::List, Some(Setting::List), _) => Some(format!("list in [access] of {file}")),
            (Operation::Lookup | Operation::List, Some(Setting::Allow) | None, _) => {
                Some(match hint.allow {
                    Origin::Default => format!("allow in [access] of {file}, or to EPMD_ALLOW"),
                    Origin::File => format!("allow in [access] of {file}"),
                    Origin::Environment => "EPMD_ALLOW".into(),
                    Origin::CommandLine => "-allow".into(),
                })
            }
            _ => None,
        }
    }
}

/// The message of an answered lookup.
pub(super) fn lookup(name: Name<'_>, peer: IpAddr, registered: bool) -> String {
    let name = match name {
        Name::One(name) => format!(" of \"{name}\""),
        Name::None | Name::Several => String::new(),
    };
    let tail = if registered {
        ""
    } else {
        ": the name is not registered"
    };
    format!("answered lookup{name} from {peer}{tail}")
}

/// The message of the line that counts answered lookups beyond the budget.
pub(super) fn more_lookups(count: u64) -> String {
    let lookups = if count == 1 { "lookup" } else { "lookups" };
    format!("answered {count} more {lookups}")
}

/// The message of the line that counts what fell out of the table untold.
pub(super) fn overflow(kind: Kind, count: u64) -> String {
    let requests = if count == 1 { "request" } else { "requests" };
    format!(
        "{} {count} more {requests} from sources beyond the {SOURCES} tracked",
        verb(kind)
    )
}

fn verb(kind: Kind) -> &'static str {
    match kind {
        Kind::Refused => "refused",
        Kind::WouldRefuse => "would refuse",
        Kind::Lookup => "answered",
    }
}

/// A name as a key of the file: quoted where TOML wants that. Such a name stands in the file already,
/// so it is the operator's, not a stranger's.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.chars().all(bare) {
        name.into()
    } else {
        format!("\"{name}\"")
    }
}

fn file(hint: &Hint) -> String {
    escape(hint.file.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(operation: Operation, reason: Reason, setting: Option<Setting>) -> Line<'static> {
        Line {
            kind: Kind::Refused,
            operation,
            reason,
            setting,
            name: match operation {
                Operation::Lookup | Operation::Register | Operation::Stop => Name::One("wg_man"),
                _ => Name::None,
            },
            peer: [203, 0, 113, 9].into(),
            local: [10, 0, 3, 5].into(),
        }
    }

    #[test]
    fn a_first_refusal_names_the_line_that_would_admit_the_peer() {
        use {Operation::*, Setting::*};
        for (operation, setting, told) in [
            (
                Lookup,
                Allow,
                "refused lookup of \"wg_man\" from 203.0.113.9: not in access.allow \
                 (to admit it: add \"203.0.113.9\" to allow in [access] of /etc/epmd.toml, or to EPMD_ALLOW)",
            ),
            (
                Lookup,
                Node,
                "refused lookup of \"wg_man\" from 203.0.113.9: not in access.node.wg_man.allow \
                 (to admit it: add \"203.0.113.9\" to allow in [access.node.wg_man] of /etc/epmd.toml)",
            ),
            (
                List,
                List,
                "refused list from 203.0.113.9: not in access.list \
                 (to admit it: add \"203.0.113.9\" to list in [access] of /etc/epmd.toml)",
            ),
            (
                List,
                Allow,
                "refused list from 203.0.113.9: not in access.allow \
                 (to admit it: add \"203.0.113.9\" to allow in [access] of /etc/epmd.toml, or to EPMD_ALLOW)",
            ),
        ] {
            let line = line(operation, Reason::NotAllowed, Some(setting));
            assert_eq!(line.first(&Hint::default()), told);
        }
    }

    /// EPMD_ALLOW takes the place of the file's list: a peer added to the other one stays refused,
    /// or shuts everyone else out.
    #[test]
    fn the_named_line_is_where_the_list_in_force_comes_from() {
        let line = line(Operation::Lookup, Reason::NotAllowed, Some(Setting::Allow));
        for (allow, end) in [
            (Origin::File, "\" to allow in [access] of /srv/e\\n.toml)"),
            (Origin::Environment, "\" to EPMD_ALLOW)"),
            (Origin::CommandLine, "\" to -allow)"),
        ] {
            let hint = Hint {
                file: "/srv/e\n.toml".into(),
                allow,
                listen: Origin::Default,
            };
            let told = line.first(&hint);
            assert!(told.ends_with(end), "{told}");
        }
    }

    #[test]
    fn every_reason_says_what_it_was() {
        use {Operation::*, Reason::*};
        for (operation, reason, setting, told) in [
            (Lookup, Denied, Option::None, "refused lookup of \"wg_man\" from 203.0.113.9: in access.deny"),
            (Register, NotLocal, Option::None, "refused registration of \"wg_man\" from 203.0.113.9: only this host may register"),
            (Dump, NotLocal, Option::None, "refused dump from 203.0.113.9: only this host may dump"),
            (Stop, NotAllowed, Option::None, "refused stop of \"wg_man\" from 203.0.113.9: relaxed_command_check is off"),
            (Kill, NotAllowed, Option::None, "refused kill from 203.0.113.9: names are registered, and relaxed_command_check is off"),
            (Invalid, Malformed, Option::None, "refused invalid request from 203.0.113.9: its bytes are no request"),
            (Register, Malformed, Option::None, "refused registration of \"wg_man\" from 203.0.113.9: its name is one that no node may have"),
            (None, Closed, Option::None, "refused connection from 203.0.113.9: closed before its request was whole"),
            (None, Timeout, Option::None, "refused connection from 203.0.113.9: its request was not whole within limits.request-timeout"),
            (List, Timeout, Option::None, "refused list from 203.0.113.9: its answer was not read within limits.request-timeout"),
            (None, TooMany, Some(Setting::Connections), "refused connection from 203.0.113.9: limits.connections is reached"),
            (None, TooMany, Some(Setting::PerSource), "refused connection from 203.0.113.9: limits.per-source is reached"),
            (Register, TooMany, Some(Setting::Registrations), "refused registration of \"wg_man\" from 203.0.113.9: limits.registrations is reached"),
            (List, AddressNotServed, Option::None, "refused list from 203.0.113.9: it came to 10.0.3.5, which is not in ERL_EPMD_ADDRESS, -address or listen"),
        ] {
            assert_eq!(line(operation, reason, setting).first(&Hint::default()), told);
        }
        let hint = Hint {
            listen: Origin::Environment,
            ..Hint::default()
        };
        let told = line(List, AddressNotServed, Option::None).first(&hint);
        assert!(told.ends_with("10.0.3.5, which is not in ERL_EPMD_ADDRESS"), "{told}");
    }

    #[test]
    fn sums_say_how_many_more_in_what_time() {
        let mut line = line(Operation::Lookup, Reason::NotAllowed, Some(Setting::Allow));
        let sum = |line: Line<'_>, n, ms| line.sum(&Hint::default(), n, Duration::from_millis(ms));
        assert_eq!(
            sum(line, 37, 60_020),
            "refused lookup of \"wg_man\" from 203.0.113.9: not in access.allow, 37 more times in 60 s"
        );
        line.kind = Kind::WouldRefuse;
        line.name = Name::Several;
        line.setting = None;
        assert_eq!(
            sum(line, 1, 250),
            "would refuse lookup of different names from 203.0.113.9: \
             not in access.allow, or allow of [access.node], 1 more time in 250 ms"
        );
    }

    #[test]
    fn a_key_that_toml_wants_quoted_is_quoted() {
        assert_eq!(key("wg_man-2"), "wg_man-2");
        assert_eq!(key("größe.x"), "\"größe.x\"");
    }
}

//! What a line of the audit says to people.
//!
//! Names the setting that refused, as it is written in the file, and on the first refusal of a peer
//! the line that would admit it. The machine-readable fields stand beside it in `Event`; nothing is
//! decided here. Names arrive escaped. Called by `audit` only.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::escape::{escape, escape_name};
use super::event::{Event, Kind};
use super::table::{Row, SOURCES};
use crate::core::outcome::{Operation, Outcome, Reason, Setting, Verdict};
use crate::core::slots::Source;
use crate::core::status::rfc3339;

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

impl Origin {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Default,
        Self::File,
        Self::Environment,
        Self::CommandLine,
    ];

    /// Its name in `epmd -status -json`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::CommandLine => "command_line",
        }
    }
}

/// Makes the line that is due for a row, which counts as told then.
/// `now` is counted from the daemon's start.
pub(super) fn of_row(
    row: &mut Row,
    now: Duration,
    started: SystemTime,
    users: &HashMap<u32, String>,
    hint: &Hint,
) -> Event {
    let sum = row.take(now);
    let several = sum.is_some();
    let uid = row.uid.filter(|_| !(several && row.users_differ));
    let user = |uid: u32| User {
        uid,
        name: users.get(&uid).map(String::as_str),
    };
    let name = row.name().filter(|_| !(several && row.names_differ));
    let node = name.map(escape_name);
    let line = Line {
        kind: row.kind,
        operation: row.operation,
        reason: row.reason,
        setting: row.setting.filter(|_| !(several && row.settings_differ)),
        name: match &node {
            Some(name) => Name::One(name),
            None if several && row.names_differ => Name::Several,
            None => Name::None,
        },
        peer: row.peer,
        several_peers: several && row.peers_differ,
        local: row.local,
        user: uid.map(user),
        several_users: several && row.users_differ,
        holder: row.holder.map(user),
        local_port: row.local_port,
        since: row.since.map(|since| {
            let now = started.checked_add(now).unwrap_or(started);
            time_of(since, now)
        }),
    };
    Event {
        kind: row.kind,
        operation: Some(row.operation),
        peer: Some((row.peer, row.port)),
        local: Some(row.local),
        uid,
        reason: row.reason,
        repeats: sum.map_or(0, |(repeats, _)| repeats),
        message: match sum {
            None => line.first(hint),
            Some((repeats, elapsed)) => line.sum(hint, repeats, elapsed),
        },
        node,
    }
}

/// The line of an answered lookup.
pub(super) fn lookup(outcome: &Outcome<'_>) -> Event {
    let peer = outcome.ends.peer().ip();
    let node = outcome.node.map(escape_name);
    let name = node.as_deref().unwrap_or_default();
    let tail = match outcome.verdict {
        Verdict::Unknown => ": the name is not registered",
        _ => "",
    };
    Event {
        kind: Kind::Lookup,
        operation: Some(Operation::Lookup),
        peer: Some((peer, outcome.ends.peer().port())),
        local: Some(outcome.ends.local().ip()),
        uid: None,
        reason: None,
        repeats: 0,
        message: format!("answered lookup of \"{name}\" from {peer}{tail}"),
        node,
    }
}

/// The line that counts answered lookups beyond the budget.
pub(super) fn more_lookups(count: u64) -> Event {
    let lookups = if count == 1 { "lookup" } else { "lookups" };
    let message = format!("answered {count} more {lookups}");
    Event {
        operation: Some(Operation::Lookup),
        ..of_many(Kind::Lookup, count, message)
    }
}

/// The line that counts what fell out of the table untold.
pub(super) fn overflow(kind: Kind, count: u64) -> Event {
    let plural = if count == 1 { "" } else { "s" };
    let what = match kind {
        Kind::Taken => format!("found {count} more name{plural} registered already,"),
        _ => format!("{} {count} more request{plural}", verb(kind)),
    };
    let message = format!("{what} from sources beyond the {SOURCES} tracked");
    of_many(kind, count, message)
}

/// The line that counts connections of sources beyond those that are told one by one.
#[must_use]
pub fn more_connections(kind: Kind, count: u64, told: usize) -> Event {
    let plural = if count == 1 { "" } else { "s" };
    let verb = verb(kind);
    let message = format!(
        "{verb} {count} more connection{plural} from sources beyond the {told} told one by one"
    );
    Event {
        operation: Some(Operation::Connect),
        ..of_many(kind, count, message)
    }
}

fn of_many(kind: Kind, repeats: u64, message: String) -> Event {
    Event {
        kind,
        operation: None,
        node: None,
        peer: None,
        local: None,
        uid: None,
        reason: None,
        repeats,
        message,
    }
}

/// The name that was asked for, escaped.
#[derive(Clone, Copy, Debug)]
enum Name<'a> {
    None,
    One(&'a str),
    Several,
}

/// A user of this host.
#[derive(Clone, Copy, Debug)]
struct User<'a> {
    uid: u32,
    /// Escaped; `None` where it is not known.
    name: Option<&'a str>,
}

impl fmt::Display for User<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "{name} (uid {})", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

/// What a line about one source says.
#[derive(Clone, Debug)]
struct Line<'a> {
    kind: Kind,
    operation: Operation,
    reason: Option<Reason>,
    /// `None` also where several settings decided.
    setting: Option<Setting>,
    name: Name<'a>,
    peer: IpAddr,
    /// Several addresses of its /64 have asked.
    several_peers: bool,
    local: IpAddr,
    /// Which user of this host has asked, where that is known.
    user: Option<User<'a>>,
    /// Several users have.
    several_users: bool,
    /// Whose the name is, where that is known.
    holder: Option<User<'a>>,
    /// The port that it came to, where that is one.
    local_port: Option<u16>,
    /// Since when the name is taken.
    since: Option<String>,
}

impl Line<'_> {
    /// The message of a first refusal, with the line that would admit the peer.
    fn first(&self, hint: &Hint) -> String {
        let mut text = self.what(hint);
        if self.reason == Some(Reason::NotAllowed)
            && let Some(place) = self.admitting(hint)
        {
            let _ = write!(text, " (to admit it: add \"{}\" to {place})", self.peer);
        }
        if self.reason == Some(Reason::NotOwner)
            && let Some(admitting) = self.admitting_a_user(hint)
        {
            let _ = write!(text, " (to admit it: {admitting})");
        }
        text
    }

    /// The message of a sum: how many more there were, in how long a time.
    fn sum(&self, hint: &Hint, repeats: u64, elapsed: Duration) -> String {
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
        let Some(reason) = self.reason else {
            return self.taken();
        };
        let what = match self.operation {
            Operation::Lookup => "lookup",
            Operation::List => "list",
            Operation::Register => "registration",
            Operation::Dump => "dump",
            Operation::Kill => "kill",
            Operation::Stop => "stop",
            Operation::Connect => "connection",
            Operation::Invalid => "invalid request",
            Operation::None => "connection",
        };
        let of = match (self.operation, self.name) {
            (Operation::Connect, Name::One(name)) => format!(" to \"{name}\""),
            (Operation::Connect, Name::Several) => " to different nodes".into(),
            (_, Name::None) => String::new(),
            (_, Name::One(name)) => format!(" of \"{name}\""),
            (_, Name::Several) => " of different names".into(),
        };
        let of = match self.local_port {
            Some(port) if self.operation == Operation::Connect => format!("{of} on port {port}"),
            _ => of,
        };
        let (verb, peer) = (verb(self.kind), self.peer());
        format!("{verb} {what}{of} from {peer}: {}", self.why(reason, hint))
    }

    /// A name that is registered already. Who asked is this host.
    fn taken(&self) -> String {
        let mut text = match self.name {
            Name::One(name) => format!("\"{name}\" is registered already"),
            _ => return "different names are registered already".into(),
        };
        if let Some(holder) = &self.holder {
            let _ = write!(text, ", by {holder}");
        }
        if let Some(since) = &self.since {
            let _ = write!(text, ", since {since}");
        }
        if let Some(User { uid, .. }) = self.user {
            let _ = write!(text, "; refused to uid {uid}");
        }
        text
    }

    fn peer(&self) -> String {
        if self.several_peers {
            format!("different addresses of {}", Source::of(self.peer))
        } else {
            self.peer.to_string()
        }
    }

    fn why(&self, reason: Reason, hint: &Hint) -> String {
        match reason {
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
                Operation::Register => "its answer could not be sent, so it was released",
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
                Some(Setting::Watches) => "fs.epoll.max_user_watches (sysctl) is reached",
                _ => "a limit is reached",
            }
            .into(),
            Reason::NotOwner => self.not_owner(),
        }
    }

    fn not_allowed(&self) -> String {
        match (self.operation, self.setting, self.name) {
            (Operation::Kill, ..) => {
                "names are registered, and relaxed_command_check is off".into()
            }
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

    /// Why a user may not register a name.
    fn not_owner(&self) -> String {
        let list = match (self.setting, self.name) {
            (Some(Setting::Hold), _) => {
                let for_whom = self.holder.map(|holder| format!(" for {holder}"));
                let who = self.user.map(|user| format!(", and this is {user}"));
                return format!(
                    "names.hold keeps the name{}, who had it last{}",
                    for_whom.unwrap_or_else(|| " for the user".into()),
                    who.unwrap_or_default()
                );
            }
            (Some(Setting::UsersOfNode), Name::One(name)) => {
                format!("names.node.{}.users", key(name))
            }
            (Some(Setting::UsersOfNode), _) => "users of [names.node]".into(),
            (None, _) => "names.users, or users of [names.node]".into(),
            _ => "names.users".into(),
        };
        match self.user {
            Some(user) if user.name.is_some() => format!("user {user} is not in {list}"),
            Some(user) => format!("{user} is not in {list}"),
            None if self.several_users => format!("different users are not in {list}"),
            None => format!("it can't be told which user's it is, and {list} says whose it may be"),
        }
    }

    /// What would let the user register the name.
    fn admitting_a_user(&self, hint: &Hint) -> Option<String> {
        let file = file(hint);
        let User { uid, name } = self.user?;
        let user = name.map_or_else(|| uid.to_string(), str::to_owned);
        let section = match (self.setting, self.name) {
            (Some(Setting::Hold), _) => {
                return Some(format!(
                    "wait, or set hold = \"0s\" in [names] of {file}; root may at once"
                ));
            }
            (Some(Setting::UsersOfNode), Name::One(name)) => format!("names.node.{}", key(name)),
            _ => "names".into(),
        };
        Some(format!("add \"{user}\" to users in [{section}] of {file}"))
    }

    /// Where the peer would have to be added, for a lookup or a list.
    fn admitting(&self, hint: &Hint) -> Option<String> {
        let file = file(hint);
        match (self.operation, self.setting, self.name) {
            (Operation::Lookup | Operation::Connect, Some(Setting::Node), Name::One(name)) => {
                Some(format!("allow in [access.node.{}] of {file}", key(name)))
            }
            (Operation::List, Some(Setting::List), _) => {
                Some(format!("list in [access] of {file}"))
            }
            (
                Operation::Lookup | Operation::Connect | Operation::List,
                Some(Setting::Allow) | None,
                _,
            ) => Some(match hint.allow {
                Origin::Default => format!("allow in [access] of {file}, or to EPMD_ALLOW"),
                Origin::File => format!("allow in [access] of {file}"),
                Origin::Environment => "EPMD_ALLOW".into(),
                Origin::CommandLine => "-allow".into(),
            }),
            _ => None,
        }
    }
}

fn verb(kind: Kind) -> &'static str {
    match kind {
        Kind::Refused => "refused",
        Kind::WouldRefuse => "would refuse",
        Kind::Lookup => "answered",
        Kind::Taken => "found taken",
    }
}

/// A time of the last 24 hours by its hour and minute, an earlier one with its day; in UTC.
fn time_of(since: u64, now: SystemTime) -> String {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let since = UNIX_EPOCH.checked_add(Duration::from_millis(since));
    let since = since.unwrap_or(UNIX_EPOCH);
    // As `2026-11-23T14:02:11.000Z`.
    let text = rfc3339(since);
    let (day, time) = text.split_once('T').unwrap_or_default();
    let time = time.get(..5).unwrap_or(time);
    if now.duration_since(since).is_ok_and(|age| age < DAY) {
        format!("{time} UTC")
    } else {
        format!("{day} {time} UTC")
    }
}

/// A name, escaped, as a key of the file: quoted where TOML wants that, with TOML's escapes. Such a name
/// stands in the file already, so it is the operator's, not a stranger's.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.chars().all(bare) {
        return name.into();
    }
    let mut out = String::from("\"");
    let mut rest = name;
    // Behind each backslash is an escape: those of one character are TOML's as well.
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        if let Some((code, behind)) = escaped.strip_prefix("u{").and_then(|e| e.split_once('}')) {
            let _ = write!(out, "\\U{code:0>8}");
            rest = behind;
        } else {
            let next = escaped.chars().next();
            out.extend(['\\'].into_iter().chain(next));
            rest = escaped
                .get(next.map_or(0, char::len_utf8)..)
                .unwrap_or_default();
        }
    }
    out.push_str(rest);
    out.push('"');
    out
}

fn file(hint: &Hint) -> String {
    escape(hint.file.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Default for Hint {
        fn default() -> Self {
            Self {
                file: "/etc/epmd.toml".into(),
                allow: Origin::Default,
                listen: Origin::Default,
            }
        }
    }
    use {Operation as O, Reason as R, Setting as S};

    fn line(operation: Operation, reason: Reason, setting: Option<Setting>) -> Line<'static> {
        Line {
            kind: Kind::Refused,
            operation,
            reason: Some(reason),
            setting,
            name: match operation {
                O::Lookup | O::Register | O::Stop | O::Connect => Name::One("wg_man"),
                _ => Name::None,
            },
            peer: [203, 0, 113, 9].into(),
            several_peers: false,
            local: [10, 0, 3, 5].into(),
            user: None,
            several_users: false,
            holder: None,
            local_port: Some(9100),
            since: None,
        }
    }

    #[test]
    fn a_key_of_the_file_is_toml_whatever_the_name() {
        let long = "n".repeat(255);
        for name in [
            "wg_man",
            "a.b",
            "größe",
            "\u{301}x",
            "\u{202e}x",
            "\"",
            "\\",
            "\\u{41}",
            "\\\\u{301}",
            "🦀\u{fe0f}",
            &long,
        ] {
            let file = format!("[access.node.{}]\n", key(&escape_name(name.as_bytes())));
            let table = toml::de::DeTable::parse(&file).unwrap();
            let table = format!("{table:?}");
            assert!(table.contains(&format!("{name:?}")), "{file}{table}");
        }
    }

    #[test]
    fn a_first_refusal_names_the_line_that_would_admit_the_peer() {
        for (operation, setting, told) in [
            (
                O::Lookup,
                S::Allow,
                "refused lookup of \"wg_man\" from 203.0.113.9: not in access.allow \
                 (to admit it: add \"203.0.113.9\" to allow in [access] of /etc/epmd.toml, or to EPMD_ALLOW)",
            ),
            (
                O::Lookup,
                S::Node,
                "refused lookup of \"wg_man\" from 203.0.113.9: not in access.node.wg_man.allow \
                 (to admit it: add \"203.0.113.9\" to allow in [access.node.wg_man] of /etc/epmd.toml)",
            ),
            (
                O::List,
                S::List,
                "refused list from 203.0.113.9: not in access.list \
                 (to admit it: add \"203.0.113.9\" to list in [access] of /etc/epmd.toml)",
            ),
            (
                O::List,
                S::Allow,
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
        for (operation, reason, setting, told) in [
            (
                O::Lookup,
                R::Denied,
                None,
                "refused lookup of \"wg_man\" from 203.0.113.9: in access.deny",
            ),
            (
                O::Register,
                R::NotLocal,
                None,
                "refused registration of \"wg_man\" from 203.0.113.9: only this host may register",
            ),
            (
                O::Dump,
                R::NotLocal,
                None,
                "refused dump from 203.0.113.9: only this host may dump",
            ),
            (
                O::Stop,
                R::NotAllowed,
                None,
                "refused stop of \"wg_man\" from 203.0.113.9: relaxed_command_check is off",
            ),
            (
                O::Kill,
                R::NotAllowed,
                None,
                "refused kill from 203.0.113.9: names are registered, and relaxed_command_check is off",
            ),
            (
                O::Invalid,
                R::Malformed,
                None,
                "refused invalid request from 203.0.113.9: its bytes are no request",
            ),
            (
                O::Register,
                R::Malformed,
                None,
                "refused registration of \"wg_man\" from 203.0.113.9: its name is one that no node may have",
            ),
            (
                O::None,
                R::Closed,
                None,
                "refused connection from 203.0.113.9: closed before its request was whole",
            ),
            (
                O::None,
                R::Timeout,
                None,
                "refused connection from 203.0.113.9: its request was not whole within limits.request-timeout",
            ),
            (
                O::List,
                R::Timeout,
                None,
                "refused list from 203.0.113.9: its answer was not read within limits.request-timeout",
            ),
            (
                O::None,
                R::TooMany,
                Some(S::Connections),
                "refused connection from 203.0.113.9: limits.connections is reached",
            ),
            (
                O::None,
                R::TooMany,
                Some(S::PerSource),
                "refused connection from 203.0.113.9: limits.per-source is reached",
            ),
            (
                O::Register,
                R::TooMany,
                Some(S::Registrations),
                "refused registration of \"wg_man\" from 203.0.113.9: limits.registrations is reached",
            ),
            (
                O::List,
                R::AddressNotServed,
                None,
                "refused list from 203.0.113.9: it came to 10.0.3.5, which is not in ERL_EPMD_ADDRESS, -address or listen",
            ),
        ] {
            assert_eq!(
                line(operation, reason, setting).first(&Hint::default()),
                told
            );
        }
        let hint = Hint {
            listen: Origin::Environment,
            ..Hint::default()
        };
        let told = line(O::List, R::AddressNotServed, None).first(&hint);
        assert!(
            told.ends_with("10.0.3.5, which is not in ERL_EPMD_ADDRESS"),
            "{told}"
        );
    }

    #[test]
    fn sums_say_how_many_more_in_what_time() {
        let mut line = line(Operation::Lookup, Reason::NotAllowed, Some(Setting::Allow));
        let sum = |line: Line<'_>, n, ms| line.sum(&Hint::default(), n, Duration::from_millis(ms));
        assert_eq!(
            sum(line.clone(), 37, 60_020),
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
    fn a_name_that_is_taken_is_told_with_its_time() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        // 2026-11-23T14:02:11Z
        let since = 1_795_442_531_000;
        assert_eq!(time_of(since, at(1_795_450_000)), "14:02 UTC");
        assert_eq!(time_of(since, at(1_795_600_000)), "2026-11-23 14:02 UTC");
        assert_eq!(time_of(since, at(0)), "2026-11-23 14:02 UTC");
        assert_eq!(time_of(u64::MAX, at(0)), "9999-12-31 23:59 UTC");
        let mut line = Line {
            kind: Kind::Taken,
            reason: None,
            since: Some(time_of(since, at(1_795_450_000))),
            ..line(O::Register, R::Closed, None)
        };
        let told = "\"wg_man\" is registered already, since 14:02 UTC";
        assert_eq!(line.first(&Hint::default()), told);
        line.name = Name::Several;
        assert_eq!(
            line.sum(&Hint::default(), 2, Duration::from_secs(60)),
            "different names are registered already, 2 more times in 60 s"
        );
    }

    #[test]
    fn a_user_who_may_not_register_is_told_with_the_line_that_would_admit_him() {
        let bob = User {
            uid: 1002,
            name: Some("bob"),
        };
        let deploy = User {
            uid: 1001,
            name: Some("deploy"),
        };
        let nameless = User { uid: 7, name: None };
        for (setting, user, told) in [
            (
                S::Users,
                Some(bob),
                "user bob (uid 1002) is not in names.users \
                 (to admit it: add \"bob\" to users in [names] of /etc/epmd.toml)",
            ),
            (
                S::UsersOfNode,
                Some(nameless),
                "uid 7 is not in names.node.wg_man.users \
                 (to admit it: add \"7\" to users in [names.node.wg_man] of /etc/epmd.toml)",
            ),
            (
                S::Users,
                None,
                "it can't be told which user's it is, and names.users says whose it may be",
            ),
            (
                S::Hold,
                Some(bob),
                "names.hold keeps the name for deploy (uid 1001), who had it last, and this is bob (uid 1002) \
                 (to admit it: wait, or set hold = \"0s\" in [names] of /etc/epmd.toml; root may at once)",
            ),
            (
                S::Hold,
                None,
                "names.hold keeps the name for deploy (uid 1001), who had it last",
            ),
        ] {
            let mut line = line(O::Register, R::NotOwner, Some(setting));
            line.user = user;
            line.holder = (setting == S::Hold).then_some(deploy);
            let begin = "refused registration of \"wg_man\" from 203.0.113.9: ";
            assert_eq!(line.first(&Hint::default()), format!("{begin}{told}"));
        }
        let mut line = line(O::Register, R::NotOwner, None);
        line.name = Name::Several;
        line.several_users = true;
        assert_eq!(
            line.sum(&Hint::default(), 2, Duration::from_secs(60)),
            "refused registration of different names from 203.0.113.9: different users are not in names.users, \
             or users of [names.node], 2 more times in 60 s"
        );
        let taken = Line {
            kind: Kind::Taken,
            reason: None,
            since: Some("14:02 UTC".to_owned()),
            holder: Some(deploy),
            user: Some(bob),
            name: Name::One("api"),
            ..line
        };
        assert_eq!(
            taken.first(&Hint::default()),
            "\"api\" is registered already, by deploy (uid 1001), since 14:02 UTC; refused to uid 1002"
        );
    }

    #[test]
    fn a_key_that_toml_wants_quoted_is_quoted() {
        assert_eq!(key("wg_man-2"), "wg_man-2");
        assert_eq!(key("größe.x"), "\"größe.x\"");
    }
}

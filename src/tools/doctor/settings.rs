//! The settings by which this host's epmd goes: where they come from, whom they let in, and what is wrong
//! with them.
//!
//! Those of the running daemon where it tells, else of the file. A remedy names the place that counts:
//! EPMD_ALLOW and -allow stand in place of the file's allow. It looks at nothing. Called by `host`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::InForce;
use super::address::addresses;
use super::kernel::Make;
use super::listens::{Seen, Sockets};
use super::ports::only_from;
use super::report::{Check, Code, Finding};
use super::told::{Told, never_asked};
use super::words::shown;
use crate::config::{DEFAULT_FILE, Origin, Settings};
use crate::core::access::Rules;
use crate::core::audit::{escape_name, escape_note};

/// What there is to be said of them.
pub(super) fn findings(in_force: &InForce, seen: &Seen<'_>, own: &[IpNet]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some((first, more)) = &in_force.broken {
        let more = match more {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        findings.push(Finding::fail(
            Check::Config,
            Code::ConfigError,
            format!("the settings are wrong, and epmd will not start with them: {first}{more}"),
            "See each mistake with its line, and put it right; then have the running epmd read it:\n  \
             epmd -check_config && systemctl reload hardened-epmd",
        ));
    }
    if let Some(why) = &in_force.not_trusted {
        let (what, remedy) = why.rsplit_once(": ").unwrap_or((why, "See what it is."));
        findings.push(Finding::warn(
            Check::Config,
            Code::ControlNotTrusted,
            format!("what runs here was not asked for its settings at its control socket: {what}"),
            format!("As root, and then start epmd again:\n  {remedy}"),
        ));
    }
    if let (Some(file), None) = (&in_force.unreadable, &in_force.told) {
        let file = escape_note(&file.to_string_lossy());
        findings.push(Finding::warn(
            Check::Config,
            Code::ConfigUnreadable,
            format!(
                "{file} is not this user's to read, and the running epmd tells root and its own user alone: whom it \
                 serves is not known here"
            ),
            "Ask as one of them:\n  sudo epmd -doctor",
        ));
    }
    if let Some((asked, file)) = in_force
        .only_in_file
        .as_ref()
        .filter(|_| seen.make != Some(Make::Stock))
    {
        let (port, file) = (in_force.port, escape_note(&file.to_string_lossy()));
        findings.push(Finding::warn(
            Check::Config,
            Code::PortOnlyInFile,
            format!(
                "port {port} stands in {file} alone, which nodes do not read: epmd is there, and they ask port {asked} \
                 where ERL_EPMD_PORT says no other"
            ),
            format!(
                "Take port out of {file}, or set in the environment of each node, here and on the other hosts,\n  \
                 ERL_EPMD_PORT={port}"
            ),
        ));
    }
    if let Some(settings) = &in_force.settings {
        findings.extend(of_settings(
            settings,
            in_force.told.as_ref(),
            seen.make,
            own,
        ));
    }
    findings.extend(serves_everyone(seen, in_force.settings.as_ref(), own));
    findings
}

fn of_settings(
    settings: &Settings,
    told: Option<&Told>,
    make: Option<Make>,
    own: &[IpNet],
) -> Vec<Finding> {
    let which = which_settings(settings, told.is_some(), make);
    let mut findings = vec![Finding::ok(Check::Config, which)];
    if let Some(asked) = told.and_then(|told| told.asked.as_ref()) {
        let own: Vec<IpAddr> = addresses(own);
        let silent: Vec<_> = never_asked(&settings.rules.allow, asked, &own)
            .iter()
            .map(ToString::to_string)
            .collect();
        if !silent.is_empty() {
            findings.push(Finding::ok(
                Check::Config,
                format!(
                    "in access.allow, and never asked since epmd was started: {}",
                    shown(&silent)
                ),
            ));
        }
    }
    findings
}

fn which_settings(settings: &Settings, told: bool, make: Option<Make>) -> String {
    let file = settings
        .file
        .as_ref()
        .map(|file| escape_note(&file.to_string_lossy()));
    let whom = escape_note(&settings.whom_it_serves());
    match (file, make) {
        (Some(file), Some(Make::Stock)) => {
            format!("{file} is not in force: the epmd that runs is stock, which reads none")
        }
        (None, Some(Make::Stock)) => {
            "no file is in force: the epmd that runs is stock, which reads none".to_owned()
        }
        (Some(file), _) if told => format!("in force, from {file}: {whom}"),
        (None, _) if told => format!("in force, without a file: {whom}"),
        (Some(file), _) => format!("by {file}, as it is now: {whom}"),
        (None, _) => format!("without a file: {whom}"),
    }
}

/// The warning that this host's epmd answers whoever asks, where that is known.
fn serves_everyone(seen: &Seen<'_>, settings: Option<&Settings>, own: &[IpNet]) -> Option<Finding> {
    if let Sockets::Seen(all) = &seen.sockets
        && all.iter().all(IpAddr::is_loopback)
    {
        return None;
    }
    match seen.make? {
        Make::Stock => Some(Finding::warn(
            Check::Listen,
            Code::EpmdServesEveryone,
            "stock epmd tells whoever reaches it the names and ports of this host's nodes",
            format!(
                "Put hardened-epmd in its place, which serves this host and the networks in access.allow; or let \
                 nobody but the cluster's hosts reach its port, for example by\n{}",
                only_from(own, seen.port, true)
            ),
        )),
        Make::Ours => {
            let settings = settings?;
            let opening = opening(&settings.rules)?;
            Some(Finding::warn(
                Check::Config,
                Code::EpmdServesEveryone,
                format!("epmd tells whoever reaches it {}", opening.what),
                how_to_close(&opening, settings),
            ))
        }
    }
}

/// A setting that lets nearly everybody in.
struct Opening {
    /// What is told to them, and by which setting.
    what: String,
    /// The section and the line that would not.
    table: String,
    line: &'static str,
    /// Whether it is `access.allow`, which EPMD_ALLOW and -allow replace.
    is_allow: bool,
}

/// The widest of the settings that do.
fn opening(rules: &Rules) -> Option<Opening> {
    const ALL: &str = "the names and ports of this host's nodes";
    let access = |what: String, line| Opening {
        what,
        table: "access".to_owned(),
        line,
        is_allow: false,
    };
    if !rules.enforce {
        let what = format!("{ALL}: access.enforce is false");
        return Some(access(what, "enforce = true"));
    }
    if rules.allow.admits_nearly_everybody() {
        let what = match rules.list {
            None => format!("{ALL}: access.allow admits everyone, or nearly so"),
            Some(_) => {
                "the port of each node that it can name: access.allow admits everyone, or nearly so"
                    .to_owned()
            }
        };
        return Some(Opening {
            is_allow: true,
            ..access(what, "allow = [\"10.0.3.0/24\"]")
        });
    }
    if rules
        .list
        .as_ref()
        .is_some_and(|list| list.admits_nearly_everybody())
    {
        let what = format!("{ALL}: access.list admits everyone, or nearly so");
        return Some(access(what, "list = [\"10.0.3.0/24\"]"));
    }
    let mut open: Vec<&str> = rules
        .nodes
        .iter()
        .filter(|(_, allow)| allow.admits_nearly_everybody())
        .filter_map(|(name, _)| str::from_utf8(name).ok())
        .collect();
    open.sort_unstable();
    let (first, more) = open.split_first()?;
    let more = match more.len() {
        0 => String::new(),
        more => format!(", and {more} more lists like it,"),
    };
    let key = crate::config::key(first);
    Some(Opening {
        what: format!(
            "the port of \"{}\": allow in [access.node.{key}]{more} admits everyone, or nearly so",
            escape_name(first.as_bytes())
        ),
        table: format!("access.node.{key}"),
        line: "allow = [\"10.0.3.0/24\"]",
        is_allow: false,
    })
}

/// Where the value stands that counts, and what to write there.
fn how_to_close(opening: &Opening, settings: &Settings) -> String {
    let file = settings.file.as_ref();
    let file = file.map_or_else(
        || DEFAULT_FILE.into(),
        |file| escape_note(&file.to_string_lossy()),
    );
    let origin = settings.allow_from;
    match origin {
        Origin::Environment if opening.is_allow => format!(
            "EPMD_ALLOW says it, and {file} does not count for that: see where it is set for the daemon, and write \
             there which networks may look names up,\n  \
             systemctl cat hardened-epmd epmd; grep -s EPMD_ALLOW /etc/default/epmd\n  \
             EPMD_ALLOW=10.0.3.0/24\n\
             then\n  systemctl restart hardened-epmd"
        ),
        Origin::CommandLine if opening.is_allow => format!(
            "-allow says it, on the daemon's command line, and {file} does not count for that: see where, and write \
             there which networks may look names up,\n  \
             ps -C epmd -o pid,args; systemctl cat hardened-epmd epmd\n  \
             -allow 10.0.3.0/24\n\
             then\n  systemctl restart hardened-epmd"
        ),
        _ => format!(
            "Say which networks may ask, in {file}, such as\n  [{}]\n  {}\n\
             then\n  epmd -check_config && systemctl reload hardened-epmd",
            opening.table, opening.line
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::access::Networks;
    use crate::tools::doctor::report::Grade;

    fn seen(sockets: &[&str], make: Option<Make>) -> Seen<'static> {
        Seen {
            port: 4369,
            sockets: Sockets::Seen(sockets.iter().map(|a| a.parse().unwrap()).collect()),
            owner: None,
            make,
            asked: &[],
            on_purpose: false,
        }
    }

    fn networks(list: &[&str]) -> Networks {
        list.iter().map(|n| n.parse::<IpNet>().unwrap()).collect()
    }

    fn rules(rules: Rules) -> Settings {
        Settings {
            rules,
            ..Settings::default()
        }
    }

    fn everyone(enforce: bool) -> Settings {
        let all = networks(&["0.0.0.0/0", "::/0"]);
        rules(Rules {
            allow: if enforce { all } else { Networks::default() },
            enforce,
            ..Rules::default()
        })
    }

    #[test]
    fn serving_everyone_is_said_where_it_is_known_only() {
        let every = ["0.0.0.0"];
        let loopback = ["127.0.0.1", "::1"];
        let code = |sockets: &[&str], make, settings: Option<&Settings>| {
            serves_everyone(&seen(sockets, make), settings, &[]).map(|f| f.code)
        };
        let said = Some(Some(Code::EpmdServesEveryone));
        let nobody = Settings::default();
        let ours = Some(Make::Ours);
        assert_eq!(code(&every, Some(Make::Stock), None), said);
        assert_eq!(code(&loopback, Some(Make::Stock), None), None);
        assert_eq!(code(&every, None, Some(&everyone(true))), None);
        assert_eq!(code(&every, ours, Some(&everyone(true))), said);
        assert_eq!(code(&every, ours, Some(&everyone(false))), said);
        assert_eq!(code(&every, ours, Some(&nobody)), None);
        assert_eq!(code(&every, ours, None), None);
        assert_eq!(code(&loopback, ours, Some(&everyone(true))), None);
    }

    #[test]
    fn each_list_that_admits_nearly_everybody_is_named_and_the_place_that_counts() {
        let halves = networks(&["0.0.0.0/1", "128.0.0.0/1"]);
        let node = |name: &str| Rules {
            nodes: [(name.as_bytes().into(), halves.clone())].into(),
            ..Rules::default()
        };
        let told = |settings: &Settings| {
            let found = serves_everyone(&seen(&["0.0.0.0"], Some(Make::Ours)), Some(settings), &[]);
            let found = found.unwrap();
            format!("{}\n{}", found.message, found.remedy.unwrap())
        };
        let list = Rules {
            list: Some(halves.clone()),
            ..Rules::default()
        };
        let allow = Rules {
            allow: halves.clone(),
            ..Rules::default()
        };
        for (settings, parts) in [
            (rules(list), ["access.list admits", "[access]\n  list = ["]),
            (
                rules(node("api")),
                ["[access.node.api] admits", "[access.node.api]\n  allow = ["],
            ),
            (
                rules(node("a.b")),
                ["the port of \"a.b\"", "[access.node.\"a.b\"]\n  allow = ["],
            ),
            (
                rules(allow.clone()),
                ["access.allow admits", "[access]\n  allow = ["],
            ),
        ] {
            let told = told(&settings);
            assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        }
        for (origin, part) in [
            (Origin::Environment, "EPMD_ALLOW says it"),
            (Origin::CommandLine, "-allow says it"),
            (Origin::File, "in /etc/epmd.toml, such as"),
        ] {
            let settings = Settings {
                allow_from: origin,
                ..rules(allow.clone())
            };
            assert!(told(&settings).contains(part));
        }
    }

    fn in_force(broken: bool, asked: Option<Vec<IpAddr>>) -> InForce {
        let mut settings = everyone(true);
        settings.file = Some("/etc/epmd.toml".into());
        let told = asked.map(|asked| Told {
            addresses: Vec::new(),
            ports: [4369].into(),
            settings: settings.clone(),
            asked: Some(asked),
            guard: None,
        });
        InForce {
            port: 4369,
            settings: (!broken || told.is_some()).then_some(settings),
            broken: broken.then(|| ("/etc/epmd.toml:1:1: bad".to_owned(), 2)),
            unreadable: None,
            told,
            not_trusted: None,
            only_in_file: None,
            needs_no_epmd: false,
        }
    }

    #[test]
    fn the_settings_are_told_with_where_they_come_from() {
        let find = |in_force: &InForce, make| findings(in_force, &seen(&[], make), &[]);
        let by_file = find(&in_force(false, None), Some(Make::Ours));
        assert!(
            by_file[0]
                .message
                .starts_with("by /etc/epmd.toml, as it is now: serving this host, ")
        );
        let stock = find(&in_force(false, None), Some(Make::Stock));
        assert!(stock[0].message.contains("not in force"));
        let broken = find(&in_force(true, None), None);
        assert_eq!(broken.len(), 1);
        assert_eq!(broken[0].code, Some(Code::ConfigError));
        assert!(
            broken[0]
                .message
                .ends_with("/etc/epmd.toml:1:1: bad (and 2 more)")
        );
        // The file became bad after the daemon had read it.
        let told = find(
            &in_force(true, Some(vec!["10.0.0.1".parse().unwrap()])),
            Some(Make::Ours),
        );
        assert_eq!(told[0].code, Some(Code::ConfigError));
        assert!(
            told[1]
                .message
                .starts_with("in force, from /etc/epmd.toml: ")
        );
        assert!(
            told[2].message.ends_with("since epmd was started: ::/0"),
            "{}",
            told[2].message
        );
    }

    #[test]
    fn a_file_that_is_not_this_users_to_read_and_a_port_that_nodes_do_not_ask_are_warnings() {
        let file = || Some("/etc/epmd.toml".into());
        let unreadable = InForce {
            settings: None,
            unreadable: file(),
            ..in_force(false, None)
        };
        let all = findings(&unreadable, &seen(&[], None), &[]);
        assert_eq!((all.len(), all[0].result), (1, Grade::Warn));
        assert_eq!(all[0].code, Some(Code::ConfigUnreadable));
        let told = InForce {
            unreadable: file(),
            ..in_force(false, Some(Vec::new()))
        };
        assert_eq!(
            findings(&told, &seen(&[], Some(Make::Ours)), &[])[0].result,
            Grade::Ok
        );
        let moved = InForce {
            port: 4370,
            only_in_file: Some((4369, "/etc/epmd.toml".into())),
            ..in_force(false, None)
        };
        let all = findings(&moved, &seen(&[], Some(Make::Ours)), &[]);
        assert_eq!(all[0].code, Some(Code::PortOnlyInFile));
        assert!(
            all[0]
                .remedy
                .as_deref()
                .unwrap()
                .ends_with("\n  ERL_EPMD_PORT=4370")
        );
    }
}

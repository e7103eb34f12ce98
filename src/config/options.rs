//! The table of options: what there is, with which value, and what it does.
//!
//! The parser in `cli`, the usage text and `-help` all come from it, so that they can't disagree. It
//! reads nothing. Called by `cli` and `main`.

use std::fmt::Write as _;

use super::wrap::{WIDTH, wrap};
use super::{DEFAULT_PORT, variables};

/// Under which heading an option is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// How the daemon runs.
    Regular,
    /// Stock's aids for debugging.
    DbgExtra,
    /// Instead of running a daemon.
    Interactive,
}

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// Its name, without a dash.
    pub name: &'static str,
    /// A second name of one letter, without a dash.
    pub short: Option<&'static str>,
    /// What stands for its value, where it takes one. In brackets where it may be left out, with the
    /// equals sign by which alone it can be told from an argument behind it.
    pub value: Option<&'static str>,
    /// What stands for the arguments behind it that are no options, where it takes some.
    pub operands: Option<&'static str>,
    /// Under which heading it is shown.
    pub section: Section,
    /// What it does, for the usage text.
    pub brief: &'static str,
    /// What else there is to know, for `-help`; may be empty.
    pub more: &'static str,
    /// Whether stock epmd has it.
    pub stock: bool,
}

/// All options, in the order in which they are shown.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "debug",
        short: Some("d"),
        value: None,
        operands: None,
        section: Section::Regular,
        brief: "Tell every request and how it ended.",
        more: "",
        stock: true,
    },
    OptionSpec {
        name: "address",
        short: None,
        value: Some("List"),
        operands: None,
        section: Section::Regular,
        brief: "Listen only on this comma- or space-separated list of IP addresses (and on the \
                loopback interface).",
        more: "Beats ERL_EPMD_ADDRESS, which beats listen in the file. Default: every address. Whom \
               epmd serves is another matter: see -allow.",
        stock: true,
    },
    OptionSpec {
        name: "port",
        short: None,
        value: Some("No"),
        operands: None,
        section: Section::Regular,
        brief: "Listen on another port than 4369, or ask the epmd there.",
        more: "Beats ERL_EPMD_PORT, which beats port in the file. 0 lets the kernel choose.",
        stock: true,
    },
    OptionSpec {
        name: "daemon",
        short: None,
        value: None,
        operands: None,
        section: Section::Regular,
        brief: "Start epmd detached (as a daemon).",
        more: "Ends at once with status 0 where an epmd has the port already.",
        stock: true,
    },
    OptionSpec {
        name: "relaxed_command_check",
        short: None,
        value: None,
        operands: None,
        section: Section::Regular,
        brief: "Allow this host to end epmd with -kill even if there are registered nodes, and to \
                unregister a node with -stop.",
        more: "ERL_EPMD_RELAXED_COMMAND_CHECK does the same, whatever its value.",
        stock: true,
    },
    OptionSpec {
        name: "systemd",
        short: None,
        value: None,
        operands: None,
        section: Section::Regular,
        brief: "Run as a service of systemd: take its sockets where it passes some, and tell it when \
                epmd is ready.",
        more: "",
        stock: true,
    },
    OptionSpec {
        name: "takeover",
        short: None,
        value: Some("[=force]"),
        operands: None,
        section: Section::Regular,
        brief: "Take the place of the epmd that has the port, with its names and connections, so that \
                no node notices.",
        more: "With -systemd as ExecStartPre=+ of the unit: fills its descriptor store, and ends. Does \
               nothing where the port is free. Needs root and Linux 5.6. With =force, an epmd that \
               can't be taken over is ended all the same: its nodes have to register again.",
        stock: false,
    },
    OptionSpec {
        name: "config",
        short: None,
        value: Some("File"),
        operands: None,
        section: Section::Regular,
        brief: "Read this file instead of /etc/epmd.toml.",
        more: "Beats EPMD_CONFIG. A file that is named must exist; /etc/epmd.toml need not.",
        stock: false,
    },
    OptionSpec {
        name: "allow",
        short: None,
        value: Some("Nets"),
        operands: None,
        section: Section::Regular,
        brief: "Let these comma-separated networks look names up. This host always may.",
        more: "Beats EPMD_ALLOW, which beats access.allow in the file. An address without a prefix \
               length is that one host, \"*\" is everyone. Default: nobody but this host.",
        stock: false,
    },
    OptionSpec {
        name: "no_sandbox",
        short: None,
        value: None,
        operands: None,
        section: Section::Regular,
        brief: "Don't have the daemon shut itself in, for who must debug it.",
        more: "Otherwise, once it has bound its ports, it can get no new privileges, has no capabilities, and \
               by Landlock may run, write and connect to nothing. `epmd -status` tells what is in force.",
        stock: false,
    },
    OptionSpec {
        name: "json",
        short: None,
        value: None,
        operands: None,
        section: Section::Regular,
        brief: "With -doctor, -status or -refused: print JSON instead of lines.",
        more: "",
        stock: false,
    },
    OptionSpec {
        name: "since",
        short: None,
        value: Some("Time"),
        operands: None,
        section: Section::Regular,
        brief: "With -refused: only what was refused since then, in journalctl's words.",
        more: "Such as \"2026-11-22 03:00\", yesterday, or -2h.",
        stock: false,
    },
    OptionSpec {
        name: "socket",
        short: None,
        value: Some("File"),
        operands: None,
        section: Section::Regular,
        brief: "With -status or -doctor: ask the daemon at this control socket.",
        more: "Default: control.socket in the file, else /run/epmd/control.sock.",
        stock: false,
    },
    OptionSpec {
        name: "proto_dist",
        short: None,
        value: Some("Proto"),
        operands: None,
        section: Section::Regular,
        brief: "With -doctor or -watch: examine nodes that are started with this option of erl's, inet_tcp or \
                inet6_tcp.",
        more: "With inet6_tcp, IPv6 is asked first where a host has both.",
        stock: false,
    },
    OptionSpec {
        name: "mesh",
        short: None,
        value: None,
        operands: None,
        section: Section::Regular,
        brief: "With -doctor: ask the host of each of these nodes to examine all of them, and show who \
                can't reach whom.",
        more: "",
        stock: false,
    },
    OptionSpec {
        name: "via",
        short: None,
        value: Some("Template"),
        operands: None,
        section: Section::Regular,
        brief: "With -mesh: how a command is run on a host, in place of `ssh -o BatchMode=yes {host}`.",
        more: "Such as `kubectl exec {host} --` or `docker exec {host}`. It is split at blanks as a shell \
               would, with quotes, and run without one.",
        stock: false,
    },
    OptionSpec {
        name: "check",
        short: None,
        value: None,
        operands: None,
        section: Section::Regular,
        brief: "With -guard: say whether the rules in force are what they should be, and how many \
                connections they turned away.",
        more: "Status 0 if they are, 1 if not.",
        stock: false,
    },
    OptionSpec {
        name: "print",
        short: None,
        value: None,
        operands: None,
        section: Section::Regular,
        brief: "With -guard: print the rules as they should be now, for `nft -f`.",
        more: "",
        stock: false,
    },
    OptionSpec {
        name: "packet_timeout",
        short: None,
        value: Some("Seconds"),
        operands: None,
        section: Section::DbgExtra,
        brief: "How long a request may take to arrive before its connection is closed (default 5).",
        more: "Beats limits.request-timeout in the file.",
        stock: true,
    },
    OptionSpec {
        name: "delay_accept",
        short: None,
        value: Some("Seconds"),
        operands: None,
        section: Section::DbgExtra,
        brief: "Simulate a busy server: wait before each connection is accepted.",
        more: "",
        stock: true,
    },
    OptionSpec {
        name: "delay_write",
        short: None,
        value: Some("Seconds"),
        operands: None,
        section: Section::DbgExtra,
        brief: "Simulate a busy server: wait before each answer is sent.",
        more: "",
        stock: true,
    },
    OptionSpec {
        name: "names",
        short: None,
        value: None,
        operands: None,
        section: Section::Interactive,
        brief: "List the names registered with the running epmd.",
        more: "",
        stock: true,
    },
    OptionSpec {
        name: "started",
        short: None,
        value: None,
        operands: None,
        section: Section::Interactive,
        brief: "Print nothing; status 0 if an epmd is running, 1 if not.",
        more: "",
        stock: true,
    },
    OptionSpec {
        name: "dump",
        short: None,
        value: None,
        operands: None,
        section: Section::Interactive,
        brief: "List all names that the running epmd knows, those that are gone too.",
        more: "",
        stock: true,
    },
    OptionSpec {
        name: "kill",
        short: None,
        value: None,
        operands: None,
        section: Section::Interactive,
        brief: "End the running epmd (only if no name is registered or it was started with \
                -relaxed_command_check).",
        more: "",
        stock: true,
    },
    OptionSpec {
        name: "stop",
        short: None,
        value: Some("Name"),
        operands: None,
        section: Section::Interactive,
        brief: "Unregister a name (only if epmd was started with -relaxed_command_check).",
        more: "",
        stock: true,
    },
    OptionSpec {
        name: "check_config",
        short: None,
        value: None,
        operands: None,
        section: Section::Interactive,
        brief: "Check command line, environment and file, and print what would be in force.",
        more: "Status 0 if all is well, 78 if anything is wrong.",
        stock: false,
    },
    OptionSpec {
        name: "doctor",
        short: None,
        value: None,
        operands: Some("Node@Host[:Port] ..."),
        section: Section::Interactive,
        brief: "Find out why nodes don't see each other: examine this host, and the way to each of \
                these nodes.",
        more: "With a port that very port is examined, and no epmd is asked for it; an IPv6 address \
               stands in brackets then. Each line begins with ok, warn or FAIL. It sends nothing but \
               lookups, lists and connects without a byte. Status 0 if nothing fails, 1 if anything does, 2 if the \
               command line is wrong.",
        stock: false,
    },
    OptionSpec {
        name: "watch",
        short: None,
        value: None,
        operands: None,
        section: Section::Interactive,
        brief: "Examine the nodes of watch.nodes again and again, and say once when one can't be \
                reached any more, and when it can again.",
        more: "In the foreground, or as a service with -systemd. Status 78 where the settings are wrong, or \
               name no node.",
        stock: false,
    },
    OptionSpec {
        name: "status",
        short: None,
        value: None,
        operands: None,
        section: Section::Interactive,
        brief: "Print what the running epmd is doing: names, requests by outcome, refusals by source, \
                and how near the limits are.",
        more: "For root and the daemon's own user. With -json as one JSON object.",
        stock: false,
    },
    OptionSpec {
        name: "refused",
        short: None,
        value: None,
        operands: None,
        section: Section::Interactive,
        brief: "Print who was refused, from journald: a line for each source.",
        more: "With -json a JSON object for each.",
        stock: false,
    },
    OptionSpec {
        name: "guard",
        short: None,
        value: None,
        operands: None,
        section: Section::Interactive,
        brief: "Keep nftables' rules for the nodes' own ports in step with the running epmd: who may look \
                a node up may connect to it, nobody else.",
        more: "Runs on until it is ended, which takes the rules away. Needs CAP_NET_ADMIN and nft, and \
               the right to ask the daemon: root's, or its user's. With -systemd as the unit \
               hardened-epmd-guard.service.",
        stock: false,
    },
    OptionSpec {
        name: "help",
        short: None,
        value: None,
        operands: None,
        section: Section::Interactive,
        brief: "Print this with more words.",
        more: "",
        stock: false,
    },
    OptionSpec {
        name: "version",
        short: None,
        value: None,
        operands: None,
        section: Section::Interactive,
        brief: "Print the version.",
        more: "",
        stock: false,
    },
];

const HEADINGS: [(Section, &str); 3] = [
    (Section::Regular, "Regular options"),
    (Section::DbgExtra, "DbgExtra options"),
    (Section::Interactive, "Interactive options"),
];

/// Where the synopsis is broken: as stock does, whose first two lines these are.
const SYNOPSIS_WIDTH: usize = 57;

impl OptionSpec {
    /// Whether the argument behind it is its value.
    #[must_use]
    pub fn takes_the_next(&self) -> bool {
        self.value.is_some_and(|value| !value.starts_with('['))
    }

    /// Its value as it stands behind its name.
    fn shown_value(&self) -> String {
        match self.value {
            Some(value) if self.takes_the_next() => format!(" {value}"),
            value => value.unwrap_or_default().to_owned(),
        }
    }

    /// Its names and value as one writes them: `-d|-debug`, `-port No`.
    #[must_use]
    pub fn synopsis(&self) -> String {
        let short = self.short.map(|s| format!("-{s}|")).unwrap_or_default();
        let (value, operands) = (self.shown_value(), self.shown_operands());
        format!("{short}-{}{value}{operands}", self.name)
    }

    fn shown_operands(&self) -> String {
        self.operands.map(|o| format!(" [{o}]")).unwrap_or_default()
    }
}

/// What a wrong command line gets on stderr, in stock's form. Ends with a newline.
#[must_use]
pub fn usage() -> String {
    let mut text = synopsis();
    text.push_str("\nSee epmd -help for more.\n");
    describe(&mut text, false);
    text
}

/// What `-help` prints. Ends with a newline.
#[must_use]
pub fn help() -> String {
    let mut text = synopsis();
    let _ = write!(
        text,
        "\nThe port mapper of Erlang and Elixir nodes. It serves this host, and the\n\
         networks that it was told to. Default port: {DEFAULT_PORT}.\n\
         One or two dashes are the same. Options stand before a command.\n"
    );
    describe(&mut text, true);
    variables::describe(&mut text);
    text
}

/// The table as Markdown, for the manual. Ends with a newline.
#[must_use]
pub fn options_markdown() -> String {
    let mut text = "| option | what it does |\n|---|---|\n".to_owned();
    for option in OPTIONS {
        // A bar would end the cell.
        let names = option.synopsis().replace('|', ", ");
        let more = match option.more {
            "" => String::new(),
            more => format!(" {more}"),
        };
        let _ = writeln!(text, "| `{names}` | {}{more} |", option.brief);
    }
    text
}

/// What `-version` prints. Ends with a newline.
#[must_use]
pub fn version() -> String {
    format!("hardened-epmd {}\n", env!("CARGO_PKG_VERSION"))
}

/// The lines that begin with `usage:`.
fn synopsis() -> String {
    let of = |section| OPTIONS.iter().filter(move |o| o.section == section);
    let mut items: Vec<_> = of(Section::Regular)
        .map(|o| format!("[{}]", o.synopsis()))
        .collect();
    items.insert(1.min(items.len()), "[DbgExtra...]".to_owned());
    let mut text = String::new();
    wrap(&mut text, "usage: epmd ", &items, SYNOPSIS_WIDTH);
    for (stock, options) in [(true, "[-d|-debug] [-port No]"), (false, "[Option...]")] {
        let commands = of(Section::Interactive).filter(|o| o.stock == stock);
        let mut line = String::new();
        for command in commands.map(OptionSpec::synopsis) {
            let begin = format!("       epmd {options} [");
            if line.is_empty() {
                line = begin + &command;
            } else if line.len() + command.len() + 2 > WIDTH {
                let _ = writeln!(text, "{line}]");
                line = begin + &command;
            } else {
                line = line + "|" + &command;
            }
        }
        let _ = writeln!(text, "{line}]");
    }
    text
}

/// The options under their headings.
fn describe(text: &mut String, more: bool) {
    for (section, heading) in HEADINGS {
        let _ = write!(text, "\n{heading}\n");
        for option in OPTIONS.iter().filter(|o| o.section == section) {
            if let Some(short) = option.short {
                let _ = writeln!(text, "    -{short}");
            }
            let (value, operands) = (option.shown_value(), option.shown_operands());
            let _ = writeln!(text, "    -{}{value}{operands}", option.name);
            let extra = if more { option.more } else { "" };
            let words = option.brief.split(' ').chain(extra.split(' '));
            let words: Vec<_> = words.filter(|w| !w.is_empty()).map(str::to_owned).collect();
            wrap(text, "        ", &words, WIDTH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VARIABLES;

    #[test]
    fn usage_begins_as_stocks() {
        let usage = usage();
        let lines: Vec<_> = usage.lines().collect();
        assert_eq!(
            lines[..2],
            [
                "usage: epmd [-d|-debug] [DbgExtra...] [-address List]",
                "            [-port No] [-daemon] [-relaxed_command_check]",
            ]
        );
        assert!(usage.contains("\n       epmd [-d|-debug] [-port No] [-names|-started|"));
        assert!(usage.contains(
            "\n       epmd [Option...] [-check_config|-doctor [Node@Host[:Port] ...]]\n\
             \x20      epmd [Option...] [-watch|-status|-refused|-guard|-help|-version]\n"
        ));
        assert!(usage.contains("\nRegular options\n    -d\n    -debug\n        Tell every"));
        assert!(usage.contains("\nDbgExtra options\n    -packet_timeout Seconds\n"));
        assert!(usage.contains("    -stop Name\n"));
    }

    #[test]
    fn each_option_is_shown_in_both() {
        for option in OPTIONS {
            let line = format!("\n    -{}", option.name);
            assert!(usage().contains(&line), "{line}");
            assert!(help().contains(&line), "{line}");
        }
        assert!(help().contains("Beats EPMD_CONFIG."));
        for variable in VARIABLES {
            assert!(help().contains(&format!("\n    {}\n", variable.name)));
        }
        assert!(help().contains("\n    78  The configuration is wrong"));
    }

    #[test]
    fn lines_are_short() {
        for line in usage().lines().chain(help().lines()) {
            assert!(line.len() <= 80, "{line}");
            assert_eq!(line, line.trim_end());
        }
    }

    #[test]
    fn names_are_unique_and_have_no_dash() {
        let mut names: Vec<_> = OPTIONS.iter().map(|o| o.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OPTIONS.len());
        assert!(names.iter().all(|n| !n.contains('-')));
    }

    #[test]
    fn version_has_the_packages() {
        assert_eq!(
            version(),
            format!("hardened-epmd {}\n", env!("CARGO_PKG_VERSION"))
        );
    }
}

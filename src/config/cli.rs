//! The command line, taken apart: what is to be done, and which options were given.
//!
//! It judges the form of the command line, not the values: these are checked where they are used, so
//! that `epmd -names` does not fail at what it does not need. Called once, by `main`. The environment
//! is read here and nowhere else, through a function that `main` gives.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use getopts::{Fail, HasArg, Matches, Occur, Options};

use super::diagnostic::quote;
use super::options::{OPTIONS, OptionSpec, Section, usage};
use super::sources::{Given, Sources};
use super::target::Target;
use super::template::Template;
use super::variables::{self, Variable};
use crate::exit::Exit;

/// How the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the foreground.
    Foreground,
    /// `-daemon`: detached.
    Daemon,
    /// `-systemd`: as systemd's service. The only mode that looks at systemd's variables.
    Systemd,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the daemon.
    Run(Mode),
    /// `-takeover`: take the place of another epmd. With `-systemd`, for the daemon that starts next; else
    /// this is that daemon.
    TakeOver {
        /// How it runs.
        mode: Mode,
        /// `-takeover=force`: an epmd that can't be taken over is ended all the same.
        force: bool,
    },
    /// `-check_config`: check the settings and print them.
    CheckConfig,
    /// `-names`.
    Names,
    /// `-doctor [Node@Host[:Port] ...]`.
    Doctor {
        /// The nodes, each once.
        targets: Vec<Target>,
        /// `-proto_dist inet6_tcp`: over IPv6 first.
        over_ipv6: bool,
        /// `-json`.
        json: bool,
    },
    /// `-doctor -mesh [-via Template] Node@Host[:Port] ...`
    Mesh {
        /// The nodes, each once; one at least.
        targets: Vec<Target>,
        /// `-via`: how a command is run on each of their hosts.
        via: Template,
        /// `-proto_dist inet6_tcp`: over IPv6 first.
        over_ipv6: bool,
        /// `-json`.
        json: bool,
    },
    /// `-watch`.
    Watch {
        /// How it runs; never in the background.
        mode: Mode,
        /// `-proto_dist inet6_tcp`: over IPv6 first.
        over_ipv6: bool,
    },
    /// `-status`.
    Status {
        /// `-json`.
        json: bool,
    },
    /// `-refused [-since Time]`.
    Refused {
        /// `-since`, in journalctl's words.
        since: Option<String>,
        /// `-json`.
        json: bool,
    },
    /// `-guard`: keep the rules for the nodes' own ports.
    Guard(Mode),
    /// `-guard -check`: whether they are in force.
    CheckGuard,
    /// `-guard -print`: the rules, for `nft -f`.
    PrintGuard,
    /// `-started`.
    Started,
    /// `-dump`.
    Dump,
    /// `-kill`.
    Kill,
    /// `-stop Name`: the name's bytes.
    Stop(Vec<u8>),
    /// `-help`.
    Help,
    /// `-version`.
    Version,
}

/// One call of `epmd`: what is to be done, and by which settings.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// What is to be done.
    pub command: Command,
    /// Where the settings come from.
    pub sources: Sources,
}

/// The command line is no command line. Shows itself as stock does, with the usage; the reason stands
/// under it, where a terminal has scrolled to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLineError {
    reason: String,
    exit: Exit,
}

impl CommandLineError {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            exit: Exit::Failure,
        }
    }

    /// Why, in one line.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The status with which the process ends: stock's, but for `-doctor`, where that is a finding.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for CommandLineError {
    /// The usage text, an empty line, and the reason; no newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nepmd: {}", usage(), self.reason)
    }
}

impl std::error::Error for CommandLineError {}

impl Invocation {
    /// Takes the command line apart. `args` come without the program's name; `env` gives the value of
    /// an environment variable, and is asked for epmd's own only.
    ///
    /// # Errors
    /// An unknown option, one without its value or with one too many, an argument that is no option,
    /// a command that is not the last, two commands, `-daemon` with `-systemd`, text that is not UTF-8 (but
    /// for a node's and a file's name).
    pub fn parse(
        args: impl Iterator<Item = OsString>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, CommandLineError> {
        let raw: Vec<_> = args.collect();
        let args: Vec<_> = raw
            .iter()
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect();
        Self::of(&args, &raw, env).map_err(|error| CommandLineError {
            exit: if asks_the_doctor(&args) {
                Exit::Usage
            } else {
                Exit::Failure
            },
            ..error
        })
    }

    /// `args` are `raw` with a mark in place of what is not UTF-8.
    fn of(
        args: &[String],
        raw: &[OsString],
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, CommandLineError> {
        let raw = &look_over(args, raw)?;
        let matches = parser().parse(args).map_err(|fail| explain(&fail))?;
        Ok(Self {
            command: command(&matches, raw)?,
            sources: Sources::new(options(&matches, raw), environment(env))
                .asking_at(raw.last(&matches, "socket").map(PathBuf::from)),
        })
    }
}

/// Options whose value may have any bytes: what nodes and files are called is nobody's to judge here.
const BYTES: [&str; 3] = ["stop", "config", "socket"];

/// What getopts does not see. Text that is not UTF-8 where it must be, and two dashes alone, behind which
/// it would take every word for no option, are mistakes (for stock, these are an unknown option). Gives
/// the values of [`BYTES`] that are words of their own, as they are.
fn look_over<'a>(args: &[String], raw: &'a [OsString]) -> Result<Raw<'a>, CommandLineError> {
    let mut values = Vec::new();
    let mut value_of: Option<&OptionSpec> = None;
    for (arg, raw) in args.iter().zip(raw) {
        let bytes = value_of.filter(|option| BYTES.contains(&option.name));
        if raw.to_str().is_none() && bytes.is_none() {
            return Err(CommandLineError::new(format!(
                "{} is not UTF-8",
                quote(arg)
            )));
        }
        if let Some(option) = bytes {
            values.push((option.name, raw));
        }
        if value_of.take().is_some() {
            continue;
        }
        if arg == "--" {
            return Err(CommandLineError::new("\"--\" is an unknown option"));
        }
        value_of = takes_the_next(arg);
    }
    Ok(Raw(values))
}

/// Values as they are, by the option's name.
struct Raw<'a>(Vec<(&'static str, &'a OsString)>);

impl Raw<'_> {
    /// The last value of an option, of which getopts saw what is UTF-8.
    fn last(&self, matches: &Matches, name: &str) -> Option<OsString> {
        let seen = matches.opt_strs(name).pop()?;
        let mut raw = self.0.iter().rev().filter(|(option, _)| *option == name);
        // It may as well stand behind a =.
        let raw = raw.next().filter(|(_, raw)| raw.to_string_lossy() == seen);
        Some(raw.map_or_else(|| seen.clone().into(), |(_, raw)| (*raw).clone()))
    }
}

/// The option whose value is the next word.
fn takes_the_next(arg: &str) -> Option<&'static OptionSpec> {
    let name = arg.strip_prefix('-')?;
    let name = name.strip_prefix('-').unwrap_or(name);
    OPTIONS
        .iter()
        .find(|o| o.takes_the_next() && o.name == name)
}

/// Whether a command line is one for `-doctor`, be it right or wrong.
fn asks_the_doctor(args: &[String]) -> bool {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if matches!(arg.as_str(), "-doctor" | "--doctor") {
            return true;
        }
        if takes_the_next(arg).is_some() {
            args.next();
        }
    }
    false
}

/// getopts' view of the table. Every option may be repeated, as in stock, where the last value wins.
fn parser() -> Options {
    let mut parser = Options::new();
    parser.long_only(true);
    for option in OPTIONS {
        let short = option.short.unwrap_or_default();
        let (name, brief, value) = (option.name, option.brief, option.value.unwrap_or_default());
        match option.value {
            Some(_) if option.takes_the_next() => parser.optmulti(short, name, brief, value),
            Some(_) => parser.opt(short, name, brief, value, HasArg::Maybe, Occur::Multi),
            None => parser.optflagmulti(short, name, brief),
        };
    }
    parser
}

/// getopts' complaint in our words.
fn explain(fail: &Fail) -> CommandLineError {
    let shown = |name: &str| quote(&format!("-{name}"));
    CommandLineError::new(match fail {
        Fail::UnrecognizedOption(name) => format!("{} is an unknown option", shown(name)),
        Fail::ArgumentMissing(name) => format!("{} needs a value", shown(name)),
        Fail::UnexpectedArgument(name) => format!("{} takes no value", shown(name)),
        Fail::OptionMissing(name) | Fail::OptionDuplicated(name) => shown(name),
    })
}

/// What is to be done.
fn command(matches: &Matches, raw: &Raw<'_>) -> Result<Command, CommandLineError> {
    let option = command_option(matches)?;
    let takes_operands = option.is_some_and(|option| option.operands.is_some());
    if let Some(extra) = matches.free.first().filter(|_| !takes_operands) {
        return Err(CommandLineError::new(format!(
            "{} is no option; expected options, then at most one command",
            quote(extra)
        )));
    }
    let with = |name: &str, commands: &[&str]| {
        let given = matches.opt_present(name);
        let fits = option.is_some_and(|option| commands.contains(&option.name));
        if given && !fits {
            let commands: Vec<_> = commands.iter().map(|c| quote(&format!("-{c}"))).collect();
            let expected = commands.join(" or ");
            let text = format!("\"-{name}\" is of no use here; expected it with {expected}");
            return Err(CommandLineError::new(text));
        }
        Ok(given)
    };
    let json = with("json", &["doctor", "status", "refused"])?;
    with("since", &["refused"])?;
    let (check, print) = (with("check", &["guard"])?, with("print", &["guard"])?);
    with("proto_dist", &["doctor", "watch"])?;
    let mesh = with("mesh", &["doctor"])?;
    if matches.opt_present("via") && !mesh {
        let text = "\"-via\" is of no use here; expected it with \"-doctor -mesh\"";
        return Err(CommandLineError::new(text));
    }
    with("socket", &["status", "doctor"])?;
    let takes_over = takeover(matches)?;
    let Some(option) = option else {
        let mode = mode(matches)?;
        return Ok(match takes_over {
            Some(force) => Command::TakeOver { mode, force },
            None => Command::Run(mode),
        });
    };
    if takes_over.is_some() {
        let text = "\"-takeover\" is of no use here; expected it with \"-systemd\", \"-daemon\" or no command";
        return Err(CommandLineError::new(text));
    }
    Ok(match option.name {
        "check_config" => Command::CheckConfig,
        "doctor" if mesh => Command::Mesh {
            targets: targets_of_a_mesh(&matches.free)?,
            via: via(matches)?,
            over_ipv6: over_ipv6(matches)?,
            json,
        },
        "watch" => Command::Watch {
            mode: match mode(matches)? {
                Mode::Daemon => {
                    let text =
                        "\"-watch\" stays in the foreground; expected it without \"-daemon\"";
                    return Err(CommandLineError::new(text));
                }
                mode => mode,
            },
            over_ipv6: over_ipv6(matches)?,
        },
        "doctor" => Command::Doctor {
            targets: targets(&matches.free, Target::parse)?,
            over_ipv6: over_ipv6(matches)?,
            json,
        },
        "status" => Command::Status { json },
        "refused" => Command::Refused {
            since: matches.opt_strs("since").pop(),
            json,
        },
        "guard" => match (check, print) {
            (false, false) => match mode(matches)? {
                Mode::Daemon => {
                    let text = "\"-guard\" does not go into the background; expected it with \"-systemd\", in a unit of its own";
                    return Err(CommandLineError::new(text));
                }
                mode => Command::Guard(mode),
            },
            (true, false) => Command::CheckGuard,
            (false, true) => Command::PrintGuard,
            (true, true) => {
                return Err(CommandLineError::new(
                    "\"-check\" and \"-print\" exclude each other; expected one",
                ));
            }
        },
        "names" => Command::Names,
        "started" => Command::Started,
        "dump" => Command::Dump,
        "kill" => Command::Kill,
        "stop" => Command::Stop(raw.last(matches, "stop").unwrap_or_default().into_vec()),
        "version" => Command::Version,
        _ => Command::Help,
    })
}

/// The nodes that the doctor is to examine, each once.
fn targets(
    words: &[String],
    parse: fn(&str) -> Result<Target, &'static str>,
) -> Result<Vec<Target>, CommandLineError> {
    let mut targets = Vec::new();
    for word in words {
        let target =
            parse(word).map_err(|what| CommandLineError::new(format!("{} {what}", quote(word))))?;
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
}

/// The nodes that are to examine each other, by way of their hosts.
fn targets_of_a_mesh(words: &[String]) -> Result<Vec<Target>, CommandLineError> {
    let targets = targets(words, Target::parse_plain)?;
    if targets.is_empty() {
        let text = "\"-mesh\" needs nodes; expected NAME@HOST for each of the cluster";
        return Err(CommandLineError::new(text));
    }
    Ok(targets)
}

/// How a command is run on another host.
fn via(matches: &Matches) -> Result<Template, CommandLineError> {
    match matches.opt_strs("via").pop() {
        None => Ok(Template::default()),
        Some(text) => Template::parse(&text)
            .map_err(|what| CommandLineError::new(format!("\"-via\": {what}"))),
    }
}

/// Whether the nodes that are asked about use IPv6, by erl's own option.
fn over_ipv6(matches: &Matches) -> Result<bool, CommandLineError> {
    match matches.opt_strs("proto_dist").pop().as_deref() {
        None | Some("inet_tcp" | "inet_tls") => Ok(false),
        Some("inet6_tcp" | "inet6_tls") => Ok(true),
        Some(other) => Err(CommandLineError::new(format!(
            "\"-proto_dist\" is {}; expected inet_tcp or inet6_tcp",
            quote(other)
        ))),
    }
}

/// The one command that was given.
fn command_option(matches: &Matches) -> Result<Option<&'static OptionSpec>, CommandLineError> {
    let commands: Vec<_> = OPTIONS
        .iter()
        .filter(|o| o.section == Section::Interactive)
        .flat_map(|o| {
            matches
                .opt_positions(o.name)
                .into_iter()
                .map(move |p| (p, o))
        })
        .collect();
    let Some((position, option)) = commands.first().copied() else {
        return Ok(None);
    };
    if let Some((_, other)) = commands.get(1) {
        return Err(CommandLineError::new(format!(
            "\"-{}\" and \"-{}\" are two commands; expected one",
            option.name, other.name
        )));
    }
    // Stock takes nothing behind its commands. Ours read well in either order.
    if option.stock
        && let Some(behind) = OPTIONS.iter().find(|o| follows(matches, o, position))
    {
        return Err(CommandLineError::new(format!(
            "\"-{}\" stands behind the command \"-{}\"; expected the command to be the last",
            behind.name, option.name
        )));
    }
    Ok(Some(option))
}

/// Whether an option stands behind `position`.
fn follows(matches: &Matches, option: &OptionSpec, position: usize) -> bool {
    let positions = matches.opt_positions(option.name);
    positions.into_iter().any(|p| p > position)
}

/// Whether another epmd's place is to be taken, and with what force.
fn takeover(matches: &Matches) -> Result<Option<bool>, CommandLineError> {
    if !matches.opt_present("takeover") {
        return Ok(None);
    }
    match matches.opt_strs("takeover").pop().as_deref() {
        None => Ok(Some(false)),
        Some("force") => Ok(Some(true)),
        Some(other) => Err(CommandLineError::new(format!(
            "\"-takeover\" knows no {}; expected \"-takeover\" or \"-takeover=force\"",
            quote(other)
        ))),
    }
}

/// How the daemon is to run.
fn mode(matches: &Matches) -> Result<Mode, CommandLineError> {
    match (
        matches.opt_present("daemon"),
        matches.opt_present("systemd"),
    ) {
        (false, false) => Ok(Mode::Foreground),
        (true, false) => Ok(Mode::Daemon),
        (false, true) => Ok(Mode::Systemd),
        (true, true) => Err(CommandLineError::new(
            "\"-daemon\" and \"-systemd\" exclude each other; expected one",
        )),
    }
}

/// The options as they were given.
fn options(matches: &Matches, raw: &Raw<'_>) -> Given {
    let last = |name: &str| matches.opt_strs(name).pop();
    Given {
        config: raw.last(matches, "config").map(PathBuf::from),
        address: last("address"),
        port: last("port"),
        allow: last("allow"),
        packet_timeout: last("packet_timeout"),
        delay_accept: last("delay_accept"),
        delay_write: last("delay_write"),
        relaxed_command_check: matches.opt_present("relaxed_command_check"),
        debug: u8::try_from(matches.opt_count("debug")).unwrap_or(u8::MAX),
        no_sandbox: matches.opt_present("no_sandbox"),
    }
}

/// The environment as it is. An empty variable is as good as none, but for the one that counts
/// whatever its value. What is not UTF-8 is no address and no number, and will be told so.
fn environment(env: impl Fn(&str) -> Option<OsString>) -> Given {
    let set = |of: Variable| env(of.name).filter(|value| !value.is_empty());
    let text = |of| set(of).map(|value: OsString| value.to_string_lossy().into_owned());
    Given {
        config: set(variables::CONFIG).map(PathBuf::from),
        address: text(variables::ADDRESS),
        port: text(variables::PORT),
        allow: text(variables::ALLOW),
        relaxed_command_check: env(variables::RELAXED.name).is_some(),
        ..Given::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Invocation, CommandLineError> {
        Invocation::parse(args.iter().map(OsString::from), |_| None)
    }

    fn command_of(args: &[&str]) -> Command {
        parse(args).expect("a command line").command
    }

    fn reason(args: &[&str]) -> String {
        parse(args)
            .expect_err("no command line")
            .reason()
            .to_owned()
    }

    #[test]
    fn commands() {
        assert_eq!(command_of(&[]), Command::Run(Mode::Foreground));
        assert_eq!(command_of(&["-daemon"]), Command::Run(Mode::Daemon));
        assert_eq!(command_of(&["-systemd"]), Command::Run(Mode::Systemd));
        let over = |mode, force| Command::TakeOver { mode, force };
        assert_eq!(command_of(&["-takeover"]), over(Mode::Foreground, false));
        for (words, command) in [
            (["-takeover", "-systemd"], over(Mode::Systemd, false)),
            (["-daemon", "--takeover"], over(Mode::Daemon, false)),
            (["-takeover=force", "-systemd"], over(Mode::Systemd, true)),
            (["-daemon", "--takeover=force"], over(Mode::Daemon, true)),
            (
                ["-takeover", "-takeover=force"],
                over(Mode::Foreground, true),
            ),
        ] {
            assert_eq!(command_of(&words), command, "{words:?}");
        }
        for words in [
            &["-takeover=x"][..],
            &["-takeover="],
            &["-takeover", "force"],
        ] {
            assert!(reason(words).contains("force"), "{words:?}");
        }
        assert!(reason(&["-takeover", "-names"]).contains("\"-takeover\" is of no use here"));
        for (name, command) in [
            ("names", Command::Names),
            ("started", Command::Started),
            ("dump", Command::Dump),
            ("kill", Command::Kill),
            ("check_config", Command::CheckConfig),
            ("help", Command::Help),
            ("version", Command::Version),
        ] {
            assert_eq!(command_of(&[&format!("-{name}")]), command);
            assert_eq!(command_of(&[&format!("--{name}")]), command);
            assert_eq!(
                command_of(&["-d", "-port", "1", &format!("-{name}")]),
                command
            );
            assert_eq!(command_of(&["-daemon", &format!("-{name}")]), command);
        }
        assert_eq!(
            command_of(&["-stop", "api"]),
            Command::Stop(b"api".to_vec())
        );
        assert_eq!(command_of(&["-stop", "-d"]), Command::Stop(b"-d".to_vec()));
    }

    #[test]
    fn stocks_commands_come_last() {
        for name in ["names", "started", "dump", "kill"] {
            assert_eq!(
                reason(&[&format!("-{name}"), "-port", "4369"]),
                format!(
                    "\"-port\" stands behind the command \"-{name}\"; expected the command to be the last"
                )
            );
            assert_eq!(
                reason(&[&format!("-{name}"), "x"]),
                "\"x\" is no option; expected options, then at most one command"
            );
        }
        assert!(parse(&["-stop", "a", "-d"]).is_err());
        assert!(parse(&["-stop", "a", "b"]).is_err());
    }

    #[test]
    fn our_commands_may_stand_anywhere() {
        assert_eq!(
            command_of(&["-check_config", "-config", "f"]),
            Command::CheckConfig
        );
        assert_eq!(command_of(&["-help", "-d"]), Command::Help);
    }

    #[test]
    fn the_guard_runs_checks_or_prints() {
        for (args, command) in [
            (&["-guard"][..], Command::Guard(Mode::Foreground)),
            (&["-systemd", "-guard"], Command::Guard(Mode::Systemd)),
            (&["-guard", "-check"], Command::CheckGuard),
            (&["-print", "-guard"], Command::PrintGuard),
        ] {
            assert_eq!(command_of(args), command, "{args:?}");
        }
        assert!(reason(&["-guard", "-check", "-print"]).contains("exclude each other"));
        assert!(reason(&["-guard", "-daemon"]).contains("systemd"));
        assert!(reason(&["-check"]).contains("expected it with \"-guard\""));
    }

    #[test]
    fn the_doctor_takes_nodes() {
        let doctor = |nodes: &[&str], json| Command::Doctor {
            targets: nodes.iter().map(|n| Target::parse(n).unwrap()).collect(),
            over_ipv6: false,
            json,
        };
        assert_eq!(command_of(&["-doctor"]), doctor(&[], false));
        assert_eq!(command_of(&["--json", "--doctor"]), doctor(&[], true));
        for args in [
            &["-port", "1", "-doctor", "-json", "a@h", "b@h"][..],
            &["-doctor", "a@h", "b@h", "a@h", "-json", "-port", "1"],
        ] {
            assert_eq!(command_of(args), doctor(&["a@h", "b@h"], true));
        }
        let over = |proto: &str| match command_of(&["-doctor", "-proto_dist", proto, "a@h"]) {
            Command::Doctor { over_ipv6, .. } => over_ipv6,
            other => panic!("{other:?}"),
        };
        assert!(over("inet6_tcp") && !over("inet_tcp"));
    }

    #[test]
    fn the_doctor_asks_other_hosts() {
        let nodes: Vec<_> = ["a@h", "b@h"].map(|n| Target::parse(n).unwrap()).into();
        let mesh = |via, json| Command::Mesh {
            targets: nodes.clone(),
            via,
            over_ipv6: false,
            json,
        };
        assert_eq!(
            command_of(&["-doctor", "-mesh", "a@h", "b@h", "a@h"]),
            mesh(Template::default(), false)
        );
        let template = Template::parse("docker exec {host}").unwrap();
        for args in [
            [
                "-mesh",
                "-via",
                "docker exec {host}",
                "-json",
                "-doctor",
                "a@h",
                "b@h",
            ],
            [
                "-doctor",
                "a@h",
                "b@h",
                "-json",
                "-via",
                "docker exec {host}",
                "--mesh",
            ],
        ] {
            assert_eq!(command_of(&args), mesh(template.clone(), true));
        }
        let watch = |mode, over_ipv6| Command::Watch { mode, over_ipv6 };
        assert_eq!(command_of(&["-watch"]), watch(Mode::Foreground, false));
        assert_eq!(
            command_of(&["-systemd", "-watch"]),
            watch(Mode::Systemd, false)
        );
        assert_eq!(
            command_of(&["-watch", "-proto_dist", "inet6_tcp"]),
            watch(Mode::Foreground, true)
        );
        assert!(reason(&["-daemon", "-watch"]).contains("stays in the foreground"));
        assert!(parse(&["-watch", "a@h"]).is_err());
        assert!(reason(&["-mesh", "-names"]).contains("\"-mesh\" is of no use here"));
    }

    #[test]
    fn a_wrong_question_to_the_doctor_ends_with_2() {
        for (args, message) in [
            (
                &["-doctor", "-mesh"][..],
                "\"-mesh\" needs nodes; expected NAME@HOST for each of the cluster",
            ),
            (
                &["-doctor", "-mesh", "a$@h"],
                "\"a$@h\" has a character that -mesh hands to no other host; expected letters, digits and ._-:[]@%",
            ),
            (
                &["-doctor", "-mesh", "a@-oX"],
                "\"a@-oX\" would be taken for an option; expected a name that does not begin with -",
            ),
            (
                &["-doctor", "-mesh", "-via", "ssh h", "a@h"],
                "\"-via\": \"ssh h\" has no {host} in it; expected it where the host's name belongs, as in \"ssh -o \
                 BatchMode=yes {host}\"",
            ),
            (
                &["-doctor", "-via", "ssh {host}", "a@h"],
                "\"-via\" is of no use here; expected it with \"-doctor -mesh\"",
            ),
            (&["-doctor", "-bogus"], "\"-bogus\" is an unknown option"),
            (&["-bogus", "-doctor"], "\"-bogus\" is an unknown option"),
            (&["-doctor", "a"], "\"a\" is no node; expected NAME@HOST"),
            (
                &["-doctor", "a@h:x"],
                "\"a@h:x\" has no port behind the host; expected NAME@HOST:PORT with a port from 1 to 65535",
            ),
            (
                &["-doctor", "-proto_dist", "quic"],
                "\"-proto_dist\" is \"quic\"; expected inet_tcp or inet6_tcp",
            ),
            (&["-doctor", "-port"], "\"-port\" needs a value"),
            (&["-doctor", "-json=x"], "\"-json\" takes no value"),
            (
                &["-doctor", "-names"],
                "\"-names\" and \"-doctor\" are two commands; expected one",
            ),
        ] {
            let error = parse(args).unwrap_err();
            assert_eq!((error.reason(), error.exit()), (message, Exit::Usage));
        }
        for args in [
            &["-port", "-doctor", "x"][..],
            &["-stop", "-doctor", "x"],
            &["-json"],
            &["-proto_dist", "inet6_tcp"],
        ] {
            assert_eq!(parse(args).unwrap_err().exit(), Exit::Failure, "{args:?}");
        }
        assert_eq!(
            command_of(&["-stop", "-doctor"]),
            Command::Stop(b"-doctor".to_vec())
        );
    }

    #[test]
    fn what_is_no_command_line() {
        for (args, message) in [
            (&["-bogus"][..], "\"-bogus\" is an unknown option"),
            (&["-dd"], "\"-dd\" is an unknown option"),
            (&["---names"], "\"--names\" is an unknown option"),
            (&["-=x"], "\"-\" is an unknown option"),
            (&["-\u{1b}"], "\"-\\u{1b}\" is an unknown option"),
            (&["-é"], "\"-é\" is an unknown option"),
            (&["-nam"], "\"-nam\" is an unknown option"),
            (&["-port"], "\"-port\" needs a value"),
            (&["-stop"], "\"-stop\" needs a value"),
            (&["-daemon=1"], "\"-daemon\" takes no value"),
            (
                &["-"],
                "\"-\" is no option; expected options, then at most one command",
            ),
            (
                &["x"],
                "\"x\" is no option; expected options, then at most one command",
            ),
            (
                &["-names", "-names"],
                "\"-names\" and \"-names\" are two commands; expected one",
            ),
            (
                &["-kill", "-names"],
                "\"-names\" and \"-kill\" are two commands; expected one",
            ),
            (
                &["-daemon", "-systemd"],
                "\"-daemon\" and \"-systemd\" exclude each other; expected one",
            ),
        ] {
            assert_eq!(reason(args), message);
        }
        let bytes = OsString::from_vec(vec![b'-', 0xff]);
        let error = Invocation::parse([bytes].into_iter(), |_| None).unwrap_err();
        assert_eq!(error.reason(), "\"-\u{fffd}\" is not UTF-8");
    }

    #[test]
    fn two_dashes_alone_are_an_unknown_option() {
        for args in [
            &["--"][..],
            &["-daemon", "--"],
            &["--", "-names"],
            &["-d", "--", "x"],
            &["-port", "1", "--"],
        ] {
            assert_eq!(reason(args), "\"--\" is an unknown option", "{args:?}");
        }
        assert_eq!(command_of(&["-stop", "--"]), Command::Stop(b"--".to_vec()));
    }

    #[test]
    fn names_of_nodes_and_files_may_have_any_bytes() {
        let parse = |words: &[&[u8]]| {
            let words = words.iter().map(|word| OsString::from_vec(word.to_vec()));
            Invocation::parse(words, |_| None)
        };
        let stop = parse(&[b"-stop", b"\xff\xfe"]).unwrap();
        assert_eq!(stop.command, Command::Stop(b"\xff\xfe".to_vec()));
        let config = parse(&[b"-config", b"/x\xff", b"--stop", b"\xe9"]).unwrap();
        assert_eq!(config.command, Command::Stop(b"\xe9".to_vec()));
        let path = PathBuf::from(OsString::from_vec(b"/x\xff".to_vec()));
        assert_eq!(config.sources.options().config, Some(path));
        for words in [
            &[&b"\xff"[..]][..],
            &[b"-port", b"\xff"],
            &[b"-stop", b"a", b"\xff"],
            &[b"-names", b"\xff"],
            &[b"-\xff", b"-names"],
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.reason().ends_with(" is not UTF-8"), "{error}");
        }
    }

    #[test]
    fn a_wrong_command_line_gets_the_usage_and_the_reason() {
        let error = parse(&["-bogus"]).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("usage: epmd [-d|-debug]"));
        assert!(text.ends_with("\n\nepmd: \"-bogus\" is an unknown option"));
        assert_eq!(error.exit(), Exit::Failure);
    }

    #[test]
    fn values_are_kept_as_given_and_the_last_wins() {
        let sources = parse(&[
            "-d",
            "--debug",
            "-d",
            "-port",
            "1",
            "-port=2",
            "--address",
            "a b",
            "-allow",
            "-x",
            "-config",
            "f",
            "-packet_timeout",
            "3",
            "-delay_accept",
            "4",
            "-delay_write",
            "5",
            "-relaxed_command_check",
        ])
        .unwrap()
        .sources;
        let given = sources.options();
        assert_eq!(given.debug, 3);
        assert_eq!(given.port.as_deref(), Some("2"));
        assert_eq!(given.address.as_deref(), Some("a b"));
        assert_eq!(given.allow.as_deref(), Some("-x"));
        assert_eq!(given.packet_timeout.as_deref(), Some("3"));
        assert_eq!(given.delay_accept.as_deref(), Some("4"));
        assert_eq!(given.delay_write.as_deref(), Some("5"));
        assert!(given.relaxed_command_check);
        assert_eq!(given.config, Some(PathBuf::from("f")));
        let many = vec!["-d"; 300];
        assert_eq!(parse(&many).unwrap().sources.options().debug, 255);
    }

    #[test]
    fn the_environment_is_read_once_and_empty_is_unset() {
        let sources = Invocation::parse(std::iter::empty(), |name| Some(name.into()))
            .unwrap()
            .sources;
        let given = sources.environment();
        assert_eq!(given.config, Some(PathBuf::from("EPMD_CONFIG")));
        assert_eq!(given.address.as_deref(), Some("ERL_EPMD_ADDRESS"));
        assert_eq!(given.port.as_deref(), Some("ERL_EPMD_PORT"));
        assert_eq!(given.allow.as_deref(), Some("EPMD_ALLOW"));
        assert!(given.relaxed_command_check);
        let sources = Invocation::parse(std::iter::empty(), |_| Some(OsString::new()))
            .unwrap()
            .sources;
        let expected = Given {
            relaxed_command_check: true,
            ..Given::default()
        };
        assert_eq!(sources.environment(), &expected);
    }
}

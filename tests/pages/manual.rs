//! The manual pages, made of the tables: hardened-epmd(8) and epmd.toml(5), in man(7)'s macros.
//!
//! What the tables do not have (what it does, the files, the examples) is prose of this file.

use std::fmt::Write as _;

use hardened_epmd::config::{KEYS, Key, OPTIONS, OptionSpec, PRECEDENCE, Section, VARIABLES};
use hardened_epmd::exit::Exit;

/// What stands in a path for any node's name, and in an example for one.
const NAME: &str = "NAME";
const A_NAME: &str = "rabbit";

/// When what these pages say was last looked over.
const DATE: &str = "2026-11-25";
/// The longest line of a page's source, in bytes: mandoc's lint wants no longer one than 80.
const WIDTH: usize = 78;

/// Commands that the page shows, with what they are for. A test runs them.
pub(crate) const EXAMPLES: [(&str, &str); 6] = [
    (
        "See what would be in force, or what is wrong and where:",
        "epmd -check_config",
    ),
    (
        "Serve a network of one's own for one run, in the foreground:",
        "epmd -allow 10.0.3.0/24,fd00:3::/64",
    ),
    (
        "Take the place of the epmd that runs, as root, with its names and connections:",
        "epmd -daemon -takeover",
    ),
    ("List the names that are registered:", "epmd -names"),
    (
        "Find out why a node is not seen:",
        "epmd -doctor api@db1.example.org",
    ),
    (
        "Who was refused since yesterday:",
        "epmd -refused -since yesterday",
    ),
];

const DAEMON: &str = r"
.B epmd
is the port mapper of Erlang and Elixir nodes: each node registers its name
and the port of its distribution with the epmd of its host, and other nodes
ask that epmd for the port.
This one is a replacement for the epmd of Erlang/OTP, with the same name,
protocol, options and answers.
It serves this host, and the networks that it was told to; who else asks is
closed without an answer, and written down with what it asked for and what
would admit it.
.PP
Without a command it is the daemon, in the foreground.
A node may register, and a name be stopped, from this host alone.
With nothing configured, lookups are answered to this host alone as well;
.B access.allow
of
.BR epmd.toml (5),
.B EPMD_ALLOW
and
.B \-allow
say to whom else.
What it listens on is another matter, and is every address.
.PP
One or two dashes are the same.
Options stand before a command.
";

const FILES: [(&str, &str); 4] = [
    (
        "/etc/epmd.toml",
        "The settings, where it exists: see epmd.toml(5).",
    ),
    (
        "/run/epmd/control.sock",
        "Where -status and -doctor ask the daemon, which answers root and its own user. Without rights to make \
         /run/epmd there is none; control.socket puts it elsewhere.",
    ),
    (
        "/etc/default/epmd",
        "Variables for the unit hardened-epmd.service, where it exists.",
    ),
    (
        "/run/systemd/journal/socket, /dev/log",
        "Where lines go as a service of systemd, or with -daemon: to journald, else to syslog.",
    ),
];

const SIGNALS: [(&str, &str); 2] = [
    (
        "SIGHUP",
        "Read the settings again, and open the file of audit.file anew. Good settings are in force at once; with bad \
         ones the old ones stay, and that is said.",
    ),
    (
        "SIGTERM, SIGINT",
        "End, when the requests that are there are answered. SIGINT is ignored where it was at the start.",
    ),
];

const FILE: &str = r"
The settings of
.BR hardened\-epmd (8),
in TOML:
.I /etc/epmd.toml
where it exists, or the file that
.B \-config
or
.B EPMD_CONFIG
names.
Everything in it is optional, and an unknown key is an error.
An option beats a variable, which beats the file.
.PP
Whatever is wrong is said with its place, all of it in one run, and nothing
is started then (status 78); at a reload (SIGHUP) the settings from before
stay in force.
.B epmd \-check_config
reads the file as the daemon would, and prints what is in force and who says so.
.PP
A network is an address with a prefix length; an address without one is that
one host, and
.B \(dq*\(dq
is everyone.
A duration is a text with numbers and units, such as
.B \(dq5s\(dq
or
.BR \(dq1m\ 30s\(dq .
The name of a node is the part before its @.
";

/// hardened-epmd(8).
pub(crate) fn daemon() -> String {
    let mut page = head("HARDENED-EPMD", 8, "System Manager's Manual");
    page.push_str(
        ".SH NAME\nhardened\\-epmd, epmd \\- Erlang port mapper daemon for the hosts that it knows\n",
    );
    page.push_str(".SH SYNOPSIS\n");
    let of = |section| {
        OPTIONS
            .iter()
            .filter(move |option: &&OptionSpec| option.section == section)
    };
    // One line each: at the end of a line roff would take the dots for a sentence's.
    let options = "\\fBepmd\\fR [\\fIOption\\fR ...]";
    let _ = writeln!(page, "{options}");
    for command in of(Section::Interactive) {
        let _ = writeln!(page, ".br\n{options} {}", tag(command));
    }
    let _ = writeln!(page, ".SH DESCRIPTION{DAEMON}.SH OPTIONS");
    for (section, heading) in [
        (Section::Interactive, "Commands"),
        (Section::Regular, "Options"),
        (Section::DbgExtra, "Options for debugging"),
    ] {
        let _ = writeln!(page, ".SS {heading}");
        for option in of(section) {
            let words = [option.brief, option.more].join(" ");
            item(&mut page, &tag(option), words.trim_end());
        }
    }
    page.push_str(".SH ENVIRONMENT\n");
    paragraph(&mut page, PRECEDENCE);
    for variable in VARIABLES {
        let words = format!("As -{}. {}", variable.option, variable.brief);
        item(&mut page, &bold(variable.name), &words);
    }
    item(
        &mut page,
        &bold("LISTEN_FDS, NOTIFY_SOCKET, WATCHDOG_USEC, RUNTIME_DIRECTORY"),
        "Of systemd. They are looked at with -systemd alone.",
    );
    page.push_str(".SH FILES\n");
    for (path, words) in FILES {
        item(&mut page, &format!("\\fI{}\\fR", escaped(path)), words);
    }
    page.push_str(".SH SIGNALS\n");
    for (signal, words) in SIGNALS {
        item(&mut page, &bold(signal), words);
    }
    page.push_str(".SH EXIT STATUS\n");
    for exit in Exit::ALL {
        item(&mut page, &bold(&(exit as u8).to_string()), exit.meaning());
    }
    page.push_str(".SH EXAMPLES\n");
    for (number, (words, command)) in EXAMPLES.iter().enumerate() {
        if number > 0 {
            page.push_str(".PP\n");
        }
        paragraph(&mut page, words);
        let _ = writeln!(page, ".PP\n.RS 4\n.EX\n{}\n.EE\n.RE", escaped(command));
    }
    page.push_str(
        ".SH SEE ALSO\n.BR epmd.toml (5),\n.BR erl (1),\n.BR journalctl (1),\n.BR systemctl (1)\n",
    );
    page
}

/// epmd.toml(5).
pub(crate) fn settings() -> String {
    let mut page = head("EPMD.TOML", 5, "File Formats Manual");
    page.push_str(".SH NAME\nepmd.toml \\- settings of hardened\\-epmd\n");
    let _ = writeln!(page, ".SH DESCRIPTION{FILE}.SH KEYS");
    for (table, keys) in tables() {
        let heading = match table {
            "" => "At the top of the file".to_owned(),
            table => format!("[{table}]"),
        };
        let _ = writeln!(page, ".SS {}", escaped(&heading));
        keys.into_iter().for_each(|key| entry(&mut page, key));
    }
    page.push_str(".SH EXAMPLE\nEach key with a value other than its default:\n.PP\n.RS 4\n.EX\n");
    page.push_str(&escaped(&example()));
    page.push_str(".EE\n.RE\n.SH SEE ALSO\n.BR hardened\\-epmd (8)\n");
    page
}

/// What the page says of a key.
fn entry(page: &mut String, key: &Key) {
    let (_, name) = place(key);
    let example = format!("{name} = {}", key.example);
    item(page, &bold(&example), key.brief);
    let mut words = format!("Type: {}.", key.kind());
    match key.default_value() {
        default if default.is_empty() => {}
        default => {
            let _ = write!(words, " Default: {default}.");
        }
    }
    let option = key.option.map(|name| format!("-{name}"));
    let beaten: Vec<_> = option
        .iter()
        .map(String::as_str)
        .chain(key.variable)
        .collect();
    match beaten[..] {
        [] => {}
        [one] => {
            let _ = write!(words, " {one} beats it.");
        }
        _ => {
            let _ = write!(words, " {} beat it.", beaten.join(" and "));
        }
    }
    page.push_str(".br\n");
    paragraph(page, &words);
}

/// A file with the example of each key.
pub(crate) fn example() -> String {
    let mut text = String::new();
    for (table, keys) in tables() {
        if !table.is_empty() {
            let _ = writeln!(text, "\n[{}]", table.replace(NAME, A_NAME));
        }
        for key in keys {
            let _ = writeln!(text, "{} = {}", place(key).1, key.example);
        }
    }
    text
}

/// The tables of the file with their keys, each once.
fn tables() -> Vec<(&'static str, Vec<&'static Key>)> {
    let mut tables: Vec<(&str, Vec<&Key>)> = Vec::new();
    for key in KEYS {
        let (table, _) = place(key);
        match tables.iter_mut().find(|(there, _)| *there == table) {
            Some((_, keys)) => keys.push(key),
            None => tables.push((table, vec![key])),
        }
    }
    tables
}

/// The table of a key, and its name in it.
fn place(key: &Key) -> (&'static str, &'static str) {
    key.path.rsplit_once('.').unwrap_or(("", key.path))
}

/// The first lines of a page.
fn head(title: &str, section: u8, volume: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        ".\\\" Made of the tables of options and keys by tests/pages: change those, not this.\n\
         .TH {} {section} {DATE} \"hardened\\-epmd {version}\" \"{volume}\"\n\
         .nh\n.ad l\n",
        escaped(title)
    )
}

/// An entry of a list.
fn item(page: &mut String, tag: &str, words: &str) {
    let _ = writeln!(page, ".TP\n{tag}");
    paragraph(page, words);
}

/// Text in lines that are not too long, each sentence on one of its own.
fn paragraph(page: &mut String, text: &str) {
    let mut line = String::new();
    for word in text.split(' ').map(escaped) {
        if !line.is_empty() && (line.len() + 1 + word.len() > WIDTH || line.ends_with('.')) {
            let _ = writeln!(page, "{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    let _ = writeln!(page, "{line}");
}

/// An option's names and values.
fn tag(option: &OptionSpec) -> String {
    let synopsis = option.synopsis();
    let (names, rest) = match synopsis.find([' ', '[', '=']) {
        Some(at) => synopsis.split_at(at),
        None => (&*synopsis, ""),
    };
    let names: Vec<_> = names.split('|').map(bold).collect();
    let names = names.join("|");
    if rest.is_empty() {
        names
    } else {
        format!("{names}\\fI{}\\fR", escaped(rest))
    }
}

fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escaped(text))
}

/// Text as it is, for roff: nothing of it is a macro, and a dash is the one that a shell knows.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        if line.starts_with(['.', '\'']) {
            out.push_str("\\&");
        }
        for character in line.chars() {
            match character {
                '\\' => out.push_str("\\e"),
                '-' => out.push_str("\\-"),
                '"' => out.push_str("\\(dq"),
                '\'' => out.push_str("\\(aq"),
                '`' => out.push_str("\\(ga"),
                '^' => out.push_str("\\(ha"),
                '~' => out.push_str("\\(ti"),
                other => out.push(other),
            }
        }
    }
    out
}

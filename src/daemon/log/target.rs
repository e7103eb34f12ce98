//! Which of the formats is meant, and a subscriber for it.
//!
//! journald is spoken natively, with one field for each of the audit's. tracing-journald sends each
//! line to the path of journald's socket, not over a connection, so lines flow again by themselves when
//! journald was restarted. Decides nothing about lines; called by `log`'s thread at its start and
//! when the format changes.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{Dispatch, Level, Metadata};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use super::file::AuditFile;
use super::line::{
    AUDIT, Destination, REACHABLE, REACHABLE_MESSAGE_ID, REFUSED_MESSAGE_ID, TAKEN,
    TAKEN_MESSAGE_ID, UNREACHABLE, UNREACHABLE_MESSAGE_ID,
};
use super::lines::{Json, Out, Syslog, Text};
use super::opened::{Opened, Takes};
use crate::config::{Format, Mode};

/// tracing-journald knows no other.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// What syslog(3) sends to.
const SYSLOG: &str = "/dev/log";

/// Where lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Journald,
    Syslog,
    Json,
    Text,
    /// Standard error in the background, which nobody reads.
    Nowhere,
}

/// What this host has.
#[derive(Clone, Copy, Debug)]
struct Present {
    journal: bool,
    syslog: bool,
}

/// What this host has now: a socket's file alone is none, its reader may be long gone.
fn present() -> Present {
    Present {
        journal: is_read(Path::new(JOURNAL)),
        syslog: is_read(Path::new(SYSLOG)),
    }
}

/// Whether somebody reads a socket.
fn is_read(path: &Path) -> bool {
    let connected = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    match connected {
        Ok(()) => true,
        // Some syslog daemons have a stream there, and syslog(3) knows how to speak to these as well.
        Err(error) => error.raw_os_error() == Some(Errno::EPROTOTYPE as i32),
    }
}

/// What is to be said on the standard error, while there is one, where a daemon's lines will not go where the
/// settings have them go.
#[must_use]
pub fn unwritten(to: &Destination, mode: Mode) -> Option<String> {
    if mode != Mode::Daemon || to.file.is_some() {
        return None;
    }
    let format = to.format;
    let present = present();
    let target = match choose(format, mode, present) {
        Target::Journald if !present.journal => without_journal(mode, present),
        target => target,
    };
    let no_stderr = || {
        format!(
            "audit.format = \"{}\" goes to the standard error, and -daemon has none",
            format.name()
        )
    };
    let is_for_stderr = matches!(format, Format::Json | Format::Text);
    if target != Target::Nowhere {
        let place = target.place();
        return is_for_stderr.then(|| {
            format!(
                "epmd: {}: lines go {place}; audit.file gives them a file",
                no_stderr()
            )
        });
    }
    let nobody = format!("nobody reads journald's socket ({JOURNAL}) or syslog's ({SYSLOG}) here");
    let why = if is_for_stderr {
        format!("{}, and {nobody}", no_stderr())
    } else {
        nobody
    };
    Some(format!(
        "epmd: nobody will see the log, nor who is refused: {why}; to see it, give it a file (audit.file), or start \
         epmd without -daemon"
    ))
}

/// Opens where lines are to go. Never fails: what can't be had now is tried again, or lines go where they are most
/// likely seen, and say so. `early` and `patience` are of the operator's file.
pub(super) fn open(
    to: &Destination,
    mode: Mode,
    early: Option<File>,
    patience: Duration,
) -> Opened {
    let Some(path) = &to.file else {
        return open_host(to.format, mode);
    };
    let file = Arc::new(AuditFile::new(path, early, patience));
    let appended = Arc::clone(&file);
    let out: Out = Box::new(move |line| appended.append(line));
    let dispatch = match to.format {
        Format::Json => json(out),
        Format::Auto | Format::Journald | Format::Text => text(out),
    };
    let format = match mode {
        Mode::Daemon => Format::Auto,
        Mode::Foreground | Mode::Systemd => to.format,
    };
    let elsewhere = move || {
        (
            open_host(format, mode),
            choose(format, mode, present()).place(),
        )
    };
    Opened::file(dispatch, file, Box::new(elsewhere))
}

/// Opens what this host has for `format` in this mode: where journald is asked for and not there, lines go where
/// they are most likely seen, and say so.
fn open_host(format: Format, mode: Mode) -> Opened {
    let present = present();
    let target = choose(format, mode, present);
    let otherwise = without_journal(mode, present);
    match target {
        Target::Journald => match journald() {
            Ok(dispatch) => Opened::new(dispatch, None, socket_takes(Path::new(JOURNAL))),
            Err(error) => {
                let place = otherwise.place();
                let note = format!("journald: {JOURNAL}: {error}; lines go {place}");
                plain(otherwise, Some(note))
            }
        },
        other => plain(other, None),
    }
}

impl Target {
    /// In words, behind "lines go".
    const fn place(self) -> &'static str {
        match self {
            Self::Journald => "to journald",
            Self::Syslog => "to syslog",
            Self::Json => "to stderr, as JSON",
            Self::Text => "to stderr, as text",
            Self::Nowhere => "nowhere",
        }
    }
}

fn choose(format: Format, mode: Mode, present: Present) -> Target {
    match (format, mode) {
        (Format::Journald, _) => Target::Journald,
        (Format::Json, Mode::Foreground | Mode::Systemd) => Target::Json,
        (Format::Text, Mode::Foreground | Mode::Systemd) => Target::Text,
        (_, Mode::Systemd | Mode::Daemon) if present.journal => Target::Journald,
        (_, _) => without_journal(mode, present),
    }
}

/// Nobody reads the stderr of `-daemon`.
fn without_journal(mode: Mode, present: Present) -> Target {
    match mode {
        Mode::Daemon if present.syslog => Target::Syslog,
        Mode::Daemon => Target::Nowhere,
        _ => Target::Text,
    }
}

fn plain(target: Target, note: Option<String>) -> Opened {
    let (dispatch, takes) = match target {
        Target::Json => (json(stderr()), stderr_takes()),
        Target::Syslog => (syslog(), socket_takes(Path::new(SYSLOG))),
        Target::Text | Target::Journald => (text(stderr()), stderr_takes()),
        Target::Nowhere => (Registry::default().into(), always()),
    };
    Opened::new(dispatch, note, takes)
}

pub(super) fn always() -> Takes {
    Box::new(|| true)
}

/// Whether standard error takes a line: a pipe that says so has room for 4 KiB, which is more than a line
/// of the audit.
fn stderr_takes() -> Takes {
    Box::new(|| takes(io::stderr()))
}

/// Whether a socket's reader takes a line: asked of a socket of our own, as that which the line will go
/// through is not ours to look at.
fn socket_takes(path: &Path) -> Takes {
    let path = path.to_owned();
    Box::new(move || {
        UnixDatagram::unbound()
            .and_then(|socket| socket.connect(&path).map(|()| socket))
            .map_or(true, takes)
    })
}

/// Whether writing would not wait now. Where that can't be asked, there is nobody to wait for either.
fn takes(to: impl AsFd) -> bool {
    let mut polled = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut polled, PollTimeout::ZERO) {
        Ok(0) | Err(Errno::EINTR) => false,
        Ok(_) | Err(_) => true,
    }
}

pub(super) fn json(out: Out) -> Dispatch {
    Registry::default().with(Json(out)).into()
}

pub(super) fn text(out: Out) -> Dispatch {
    Registry::default().with(Text(out)).into()
}

fn syslog() -> Dispatch {
    let flags = nix::syslog::LogFlags::LOG_PID;
    // It can't fail for a name without a path in it; without it, lines would lack the name only.
    let _ = nix::syslog::openlog(Some(c"epmd"), flags, nix::syslog::Facility::LOG_DAEMON);
    Registry::default().with(Syslog).into()
}

fn stderr() -> Out {
    // There is nowhere to say that it failed.
    Box::new(|line| drop(io::stderr().write_all(line)))
}

/// Which lines have a MESSAGE_ID: those of the audit at this level, or of this mark.
const WITH_AN_ID: [(&str, Level, &str); 4] = [
    (AUDIT, Level::WARN, REFUSED_MESSAGE_ID),
    (TAKEN, Level::WARN, TAKEN_MESSAGE_ID),
    (UNREACHABLE, Level::WARN, UNREACHABLE_MESSAGE_ID),
    (REACHABLE, Level::INFO, REACHABLE_MESSAGE_ID),
];

/// Several layers, because a layer has its MESSAGE_ID on all its lines: one each for those that
/// have one.
fn journald() -> io::Result<Dispatch> {
    let layer = || {
        let layer = tracing_journald::layer()?
            .with_field_prefix(Some("EPMD".into()))
            .with_syslog_identifier("epmd".into())
            .with_priority_mappings(PriorityMappings {
                error: Priority::Error,
                warn: Priority::Warning,
                info: Priority::Informational,
                debug: Priority::Debug,
                trace: Priority::Debug,
            });
        io::Result::Ok(layer)
    };
    let is_of = |line: &Metadata<'_>, target: &str, level: Level| {
        line.target() == target && *line.level() == level
    };
    let mut layers = Vec::new();
    for (target, level, id) in WITH_AN_ID {
        let layer = layer()?.with_custom_fields([("MESSAGE_ID", id)]);
        let lines = filter_fn(move |line| is_of(line, target, level));
        layers.push(layer.with_filter(lines).boxed());
    }
    let is_among = move |line: &Metadata<'_>| {
        let mut all = WITH_AN_ID.iter();
        all.any(|(target, level, _)| is_of(line, target, *level))
    };
    let rest = filter_fn(move |line| !is_among(line));
    layers.push(layer()?.with_filter(rest).boxed());
    Ok(Registry::default().with(layers).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_where_lines_are_read() {
        use Mode::{Daemon, Foreground, Systemd};
        let auto = |mode, journal, syslog| {
            let present = Present { journal, syslog };
            choose(Format::Auto, mode, present)
        };
        assert_eq!(auto(Systemd, true, true), Target::Journald);
        assert_eq!(auto(Systemd, false, true), Target::Text);
        assert_eq!(auto(Daemon, true, true), Target::Journald);
        assert_eq!(auto(Daemon, false, true), Target::Syslog);
        assert_eq!(auto(Daemon, false, false), Target::Nowhere);
        assert_eq!(auto(Foreground, true, true), Target::Text);
    }

    #[test]
    fn what_was_asked_for_by_name_is_taken_in_every_mode() {
        let present = Present {
            journal: false,
            syslog: true,
        };
        for mode in [Mode::Foreground, Mode::Systemd] {
            assert_eq!(choose(Format::Json, mode, present), Target::Json);
            assert_eq!(choose(Format::Text, mode, present), Target::Text);
            assert_eq!(choose(Format::Journald, mode, present), Target::Journald);
        }
        // There is no standard error that anybody reads: lines go where they are.
        let nothing = Present {
            journal: false,
            syslog: false,
        };
        let both = Present {
            journal: true,
            syslog: true,
        };
        for format in [Format::Json, Format::Text] {
            assert_eq!(choose(format, Mode::Daemon, both), Target::Journald);
            assert_eq!(choose(format, Mode::Daemon, present), Target::Syslog);
            assert_eq!(choose(format, Mode::Daemon, nothing), Target::Nowhere);
        }
    }

    #[test]
    fn a_socket_whose_reader_is_gone_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(!is_read(&path));
        let reader = UnixDatagram::bind(&path).unwrap();
        assert!(is_read(&path));
        drop(reader);
        assert!(path.exists());
        assert!(!is_read(&path));
        let stream = folder.path().join("stream");
        let _reader = std::os::unix::net::UnixListener::bind(&stream).unwrap();
        assert!(is_read(&stream));
    }

    #[test]
    fn who_takes_nothing_at_once_is_known() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(takes(&writer));
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
        while (&writer).write(&[0; 4096]).is_ok() {}
        assert!(!takes(&writer));
        drop(reader);
        assert!(takes(&writer));
    }
}

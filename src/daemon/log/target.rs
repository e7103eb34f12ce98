//! Which of the formats is meant, and a subscriber for it.
//!
//! journald is spoken natively, with one field for each of the audit's. tracing-journald sends each
//! line to the path of journald's socket, not over a connection, so lines flow again by themselves when
//! journald was restarted. Decides nothing about lines; called by `log`'s thread at its start and
//! when the format changes.

use std::io::{self, Write};
use std::path::Path;

use tracing::{Dispatch, Level, Metadata};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use super::lines::{Json, Out, Syslog, Text};
use super::{Mode, Opened, REFUSED_MESSAGE_ID, TAKEN_MESSAGE_ID};
use crate::config::Format;

/// Marks the audit's lines.
pub(super) const AUDIT: &str = "epmd::audit";
/// Marks those of a name that is taken.
pub(super) const TAKEN: &str = "epmd::taken";
/// Marks all other lines.
pub(super) const NOTE: &str = "epmd";

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
}

/// What this host has.
#[derive(Clone, Copy, Debug)]
struct Present {
    journal: bool,
    syslog: bool,
}

/// Opens what `format` means in this mode. Never fails: where journald is asked for and not there,
/// lines go where they are most likely seen, and say so.
pub(super) fn open(format: Format, mode: Mode) -> Opened {
    let present = Present {
        journal: Path::new(JOURNAL).exists(),
        syslog: Path::new(SYSLOG).exists(),
    };
    let target = choose(format, mode, present);
    let otherwise = without_journal(mode, present);
    match target {
        Target::Journald => match journald() {
            Ok(dispatch) => Opened {
                dispatch,
                note: None,
            },
            Err(error) => {
                let place = match otherwise {
                    Target::Syslog => "go to syslog",
                    _ => "are text on stderr",
                };
                Opened {
                    dispatch: plain(otherwise),
                    note: Some(format!("journald: {JOURNAL}: {error}; lines {place}")),
                }
            }
        },
        other => Opened {
            dispatch: plain(other),
            note: None,
        },
    }
}

fn choose(format: Format, mode: Mode, present: Present) -> Target {
    match (format, mode) {
        (Format::Journald, _) => Target::Journald,
        (Format::Json, _) => Target::Json,
        (Format::Text, _) => Target::Text,
        (Format::Auto, Mode::Systemd | Mode::Daemon) if present.journal => Target::Journald,
        (Format::Auto, _) => without_journal(mode, present),
    }
}

/// Nobody reads the stderr of `-daemon`.
fn without_journal(mode: Mode, present: Present) -> Target {
    match mode {
        Mode::Daemon if present.syslog => Target::Syslog,
        _ => Target::Text,
    }
}

fn plain(target: Target) -> Dispatch {
    match target {
        Target::Json => json(stderr()),
        Target::Syslog => syslog(),
        Target::Text | Target::Journald => text(stderr()),
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

/// Several layers, because a layer has its MESSAGE_ID on all its lines: one each for those that
/// have one.
fn journald() -> io::Result<Dispatch> {
    let is_refusal = |line: &Metadata<'_>| line.target() == AUDIT && *line.level() == Level::WARN;
    let is_taken = |line: &Metadata<'_>| line.target() == TAKEN;
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
    let refusals = layer()?.with_custom_fields([("MESSAGE_ID", REFUSED_MESSAGE_ID)]);
    let taken = layer()?.with_custom_fields([("MESSAGE_ID", TAKEN_MESSAGE_ID)]);
    let rest = filter_fn(move |line| !is_refusal(line) && !is_taken(line));
    let subscriber = Registry::default()
        .with(refusals.with_filter(filter_fn(is_refusal)))
        .with(taken.with_filter(filter_fn(is_taken)))
        .with(layer()?.with_filter(rest));
    Ok(subscriber.into())
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
        assert_eq!(auto(Daemon, false, false), Target::Text);
        assert_eq!(auto(Foreground, true, true), Target::Text);
    }

    #[test]
    fn what_was_asked_for_by_name_is_taken_in_every_mode() {
        let present = Present {
            journal: false,
            syslog: true,
        };
        for mode in [Mode::Foreground, Mode::Daemon, Mode::Systemd] {
            assert_eq!(choose(Format::Json, mode, present), Target::Json);
            assert_eq!(choose(Format::Text, mode, present), Target::Text);
            assert_eq!(choose(Format::Journald, mode, present), Target::Journald);
        }
    }
}

//! A line, and how it leaves: what the log's handles, its thread and its targets all know.
//!
//! Decides nothing about where lines go (`target` does) or when (`log`).

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tracing::dispatcher::{self, Dispatch};

use super::lines::TOLD_AT;
use crate::config::{Audit, Format};
use crate::core::audit::{Event, Kind, escape_note};
use crate::core::lent::{Level, Reach};
use crate::core::outcome::{Operation, Reason};

/// MESSAGE_ID of `refused` and `would_refuse` in journald: `journalctl MESSAGE_ID=...` finds them.
pub const REFUSED_MESSAGE_ID: &str = "91da4ca3155e4252bf382e2c4108a463";
/// MESSAGE_ID of `taken`.
pub const TAKEN_MESSAGE_ID: &str = "faf10abeb8f7436e9c5ff104eccc8ccd";
/// MESSAGE_ID of `unreachable`.
pub const UNREACHABLE_MESSAGE_ID: &str = "6a543d6d85f54ae989564d1161db63dc";
/// MESSAGE_ID of `reachable`.
pub const REACHABLE_MESSAGE_ID: &str = "47aa2e1c71d640c0b985e5488f219048";

/// What the handles and the thread both see.
#[derive(Debug)]
pub(super) struct Shared {
    /// Lines that found the channel full, and are not told of yet.
    pub(super) lost: AtomicU64,
    /// Where lines are to go, and how often that was said; the thread goes by it from the next line on.
    pub(super) to: Mutex<(u64, Destination)>,
}

/// Where lines are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// In which form.
    pub format: Format,
    /// The operator's file; where there is none, the form says where.
    pub file: Option<PathBuf>,
}

impl From<Format> for Destination {
    fn from(format: Format) -> Self {
        Self { format, file: None }
    }
}

impl From<&Audit> for Destination {
    fn from(audit: &Audit) -> Self {
        Self {
            format: audit.format,
            file: audit.file.clone(),
        }
    }
}

/// What waits for the thread.
#[derive(Debug)]
pub(super) struct Line {
    /// When it was told, which is not when it is written if the reader is slow.
    pub(super) at: SystemTime,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Event(Event),
    Reach(Reach),
    Note(Level, String),
}

/// Marks the audit's lines.
pub(super) const AUDIT: &str = "epmd::audit";
/// Marks those of a name that is taken.
pub(super) const TAKEN: &str = "epmd::taken";
/// Marks those of a node that can't be reached any more.
pub(super) const UNREACHABLE: &str = "epmd::unreachable";
/// Marks those of one that can be reached again.
pub(super) const REACHABLE: &str = "epmd::reachable";
/// Marks all other lines.
pub(super) const NOTE: &str = "epmd";

/// A lock that a panic elsewhere does not take away from us: nothing is half done under it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    pub(super) fn now(level: Level, text: String) -> Self {
        Self {
            at: SystemTime::now(),
            what: What::Note(level, text),
        }
    }
}

/// Writes one line. This is the only place from which lines leave, and the thread's own default is
/// used, so that nothing another part of the process installs can turn them away.
pub(super) fn write(dispatch: &Dispatch, line: &Line) {
    TOLD_AT.set(line.at);
    dispatcher::with_default(dispatch, || match &line.what {
        What::Event(event) => emit_event(event),
        What::Reach(reach) => emit_reach(reach),
        What::Note(level, text) => emit_note(*level, &escape_note(text)),
    });
}

pub(super) fn emit_event(event: &Event) {
    let peer = event.peer.map(|(address, _)| address.to_string());
    let local = event.local.map(|address| address.to_string());
    // A macro, because `tracing` wants target and level of each place to be constants.
    macro_rules! emit {
        ($target:expr, $level:expr) => {
            tracing::event!(
                target: $target,
                $level,
                event = event.kind.name(),
                operation = event.operation.map(Operation::name),
                node = event.node.as_deref(),
                peer = peer.as_deref(),
                // Who has only counted packets knows no port.
                peer_port = event.peer.map(|(_, port)| port).filter(|port| *port != 0),
                local = local.as_deref(),
                uid = event.uid,
                reason = event.reason.map(Reason::name),
                repeats = event.repeats,
                message = event.message.as_str(),
            )
        };
    }
    match event.kind {
        Kind::Refused | Kind::WouldRefuse => emit!(AUDIT, tracing::Level::WARN),
        Kind::Taken => emit!(TAKEN, tracing::Level::WARN),
        Kind::Lookup => emit!(AUDIT, tracing::Level::INFO),
    }
}

fn emit_reach(reach: &Reach) {
    // As in `emit_event`.
    macro_rules! emit {
        ($target:expr, $level:expr) => {
            tracing::event!(
                target: $target,
                $level,
                event = reach.event(),
                node = reach.node.as_str(),
                verdict = reach.verdict.as_str(),
                peer = reach.peer.as_deref(),
                message = reach.message.as_str(),
                remedy = reach.remedy.as_deref(),
            )
        };
    }
    if reach.is_reachable() {
        emit!(REACHABLE, tracing::Level::INFO);
    } else {
        emit!(UNREACHABLE, tracing::Level::WARN);
    }
}

pub(super) fn emit_note(level: Level, text: &str) {
    macro_rules! emit {
        ($level:expr) => {
            tracing::event!(target: NOTE, $level, message = text)
        };
    }
    match level {
        Level::Error => emit!(tracing::Level::ERROR),
        Level::Warning => emit!(tracing::Level::WARN),
        Level::Info => emit!(tracing::Level::INFO),
        Level::Debug => emit!(tracing::Level::DEBUG),
    }
}

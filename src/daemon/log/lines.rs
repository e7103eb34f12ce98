//! A line as JSON or as text, and a line for syslog(3).
//!
//! One line is one write: lines of two processes that share a pipe don't mix. JSON strings are escaped
//! by `serde_json`; text escapes nothing by itself, names arrive escaped from `audit` and notes from
//! `log`. Called by `target`, which makes subscribers of these layers.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::time::SystemTime;

use nix::syslog::{Facility, Priority, Severity};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Takes a whole line with its newline.
pub(super) type Out = Box<dyn Fn(&[u8]) + Send + Sync>;

thread_local! {
    /// When the line that is being written was told: a layer sees its fields only, and journald has
    /// to see none but those of the design.
    pub(super) static TOLD_AT: Cell<SystemTime> = const { Cell::new(SystemTime::UNIX_EPOCH) };
}

fn time() -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_millis(TOLD_AT.get())
}

/// One JSON object a line.
pub(super) struct Json(pub(super) Out);

impl<S: Subscriber> Layer<S> for Json {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let severity = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        let mut object = format!("{{\"time\":\"{}\",\"severity\":\"{severity}\"", time());
        event.record(&mut Members(&mut object));
        object.push_str("}\n");
        (self.0)(object.as_bytes());
    }
}

/// Writes fields as members of an object, in the order in which they were given.
struct Members<'a>(&'a mut String);

impl Visit for Members<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let value = serde_json::Value::from(value);
        // Writing to a String can't fail.
        let _ = write!(self.0, ",\"{}\":{value}", field.name());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let _ = write!(self.0, ",\"{}\":{value}", field.name());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// The message, with what to do under it where that is said.
#[derive(Default)]
struct Message(String);

impl Message {
    fn of(event: &Event<'_>) -> String {
        let mut message = Self::default();
        event.record(&mut message);
        message.0
    }
}

impl Visit for Message {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.0.push_str(value),
            // It stands behind the message.
            "remedy" => {
                self.0.push('\n');
                self.0.push_str(value);
            }
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// One line of text, as stock epmd begins it.
pub(super) struct Text(pub(super) Out);

impl<S: Subscriber> Layer<S> for Text {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Only a note has several lines; what is indented is none of its own.
        let message = Message::of(event).trim_end().replace('\n', "\n    ");
        (self.0)(format!("{} epmd: {message}\n", time()).as_bytes());
    }
}

/// Messages for syslog(3), which adds time and name.
pub(super) struct Syslog;

impl<S: Subscriber> Layer<S> for Syslog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let severity = match *event.metadata().level() {
            Level::ERROR => Severity::LOG_ERR,
            Level::WARN => Severity::LOG_WARNING,
            Level::INFO => Severity::LOG_INFO,
            Level::DEBUG | Level::TRACE => Severity::LOG_DEBUG,
        };
        // A newline is no more than a strange character to syslog.
        for line in Message::of(event).lines() {
            let priority = Priority::new(severity, Facility::LOG_DAEMON);
            // There is nowhere to say that it failed.
            let _ = nix::syslog::syslog(priority, line);
        }
    }
}

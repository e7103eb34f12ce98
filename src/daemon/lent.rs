//! The log, the exporter and the word to systemd, for a tool that runs on.
//!
//! Each is the daemon's own, with nothing of a daemon behind it. `main` hands it to the tool as a [`Lent`],
//! which says what each function does.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::exporter::Exporter;
use super::log::Log;
use super::systemd::Notifier;
use crate::config::{Mode, Settings};
use crate::core::audit::Event;
use crate::core::lent::{Lent, Level, Page, Reach};

/// What is lent to one tool.
#[derive(Debug)]
pub struct ToATool {
    log: Log,
    notifier: Notifier,
    /// Nothing, for a tool that has none.
    page: Option<Served>,
}

/// A page, and where it is served according to which key.
struct Served {
    key: &'static str,
    place: fn(&Settings) -> Option<SocketAddr>,
    page: Page,
    /// Started once it is to be served somewhere.
    exporter: Mutex<Option<Exporter>>,
}

impl ToATool {
    /// Starts the log. `page` is served where the key called `key` says, which `place` reads. To be called
    /// once signals are held back: threads have the mask of who made them.
    #[must_use]
    pub fn start(
        settings: &Settings,
        mode: Mode,
        key: &'static str,
        place: fn(&Settings) -> Option<SocketAddr>,
        page: Page,
    ) -> Self {
        Self {
            log: Log::start(settings.audit.format, mode),
            notifier: Notifier::new(mode == Mode::Systemd),
            page: Some(Served {
                key,
                place,
                page,
                exporter: Mutex::new(None),
            }),
        }
    }

    /// As [`Self::start`], for a tool without a page.
    #[must_use]
    pub fn without_page(settings: &Settings, mode: Mode) -> Self {
        Self {
            log: Log::start(settings.audit.format, mode),
            notifier: Notifier::new(mode == Mode::Systemd),
            page: None,
        }
    }
}

impl Lent<Settings> for ToATool {
    fn note(&self, level: Level, text: String) {
        self.log.note(level, text);
    }

    fn refused(&self, event: Event) {
        self.log.tell(event);
    }

    fn tell(&self, reach: Reach) {
        self.log.tell_reach(reach);
    }

    fn follow(&self, settings: &Settings) {
        self.log.set_destination(settings.audit.format);
        if let Some(page) = &self.page {
            page.follow(settings, &self.log);
        }
    }

    fn ready(&self, status: &str) {
        self.notifier.ready(status);
    }

    fn reloading(&self) {
        self.notifier.reloading();
    }

    fn close(&self) {
        self.notifier.stopping();
        self.log.close();
    }

    fn alive(&self) {
        self.notifier.alive();
        // What systemd has not taken yet is said with the next one.
        let _ = self.notifier.catch_up();
    }

    fn watchdog(&self) -> Option<Duration> {
        self.notifier.watchdog()
    }
}

impl Served {
    fn follow(&self, settings: &Settings, log: &Log) {
        let place = (self.place)(settings);
        let mut exporter = self.exporter.lock().unwrap_or_else(PoisonError::into_inner);
        if exporter.is_none() && place.is_some() {
            match Exporter::start(self.key, self.page.clone(), log.clone()) {
                Ok(started) => *exporter = Some(started),
                Err(error) => log.note(Level::Error, format!("no metrics: {error}")),
            }
        }
        if let Some(exporter) = &*exporter {
            exporter.listen(place);
        }
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("key", &self.key).finish()
    }
}

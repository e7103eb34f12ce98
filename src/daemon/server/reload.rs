//! SIGHUP: reading the settings again, and who goes by them.
//!
//! Owns the settings in force and where they come from. Called by `server`.

use std::sync::Arc;

use super::budget::Budget;
use super::state::Server;
use crate::config::{self, Errors, Settings, Snapshot, Sources};
use crate::core::status::InForce;
use crate::daemon::log::Level;
use crate::daemon::metrics::Exporter;
use crate::daemon::systemd::{KeptSettings, Notifier};

/// What a reload needs, and nobody else.
pub(super) struct Reload {
    pub(super) server: Arc<Server>,
    /// Where the settings come from.
    pub(super) sources: Sources,
    /// What is in force.
    pub(super) settings: Settings,
    /// How many listening sockets there are.
    pub(super) listeners: usize,
    pub(super) notifier: Notifier,
    /// Where settings outlive the process.
    pub(super) kept: Option<KeptSettings>,
    pub(super) exporter: Option<Exporter>,
}

impl Reload {
    /// Reads the settings again. Good ones are in force at once, for new requests; with bad ones the
    /// old ones stay.
    pub(super) fn again(&mut self) {
        self.notifier.reloading();
        let status = match self.sources.load_and_keep() {
            Ok((settings, snapshot)) => self.put_in_force(settings, &snapshot),
            Err(errors) => self.leave_in_force(&errors),
        };
        self.notifier.ready(&status);
    }

    /// Gives the daemon's status in a line, as the next one does.
    fn leave_in_force(&self, errors: &Errors) -> String {
        let log = &self.server.log;
        log.note(Level::Error, errors.to_string());
        let status = errors.not_in_force("not reloaded");
        log.note(Level::Error, status.clone());
        status
    }

    fn put_in_force(&mut self, settings: Settings, snapshot: &Snapshot) -> String {
        let log = self.server.log.clone();
        if let Some(Err(error)) = self.kept.as_mut().map(|kept| kept.keep(snapshot)) {
            log.note(
                Level::Warning,
                format!("can't keep the settings for a restart: {error}"),
            );
        }
        let budget = Budget::new(&settings.limits, self.server.descriptors, self.listeners);
        self.server.waiting.reconfigure(&budget, &settings.limits);
        let in_force = Arc::new(in_force(&settings));
        let mut rules = settings.rules.clone();
        let mut state = self.server.state();
        rules.served = state.desk.rules.served.take();
        let old_rules = std::mem::replace(&mut state.desk.rules, rules);
        state.desk.max_registrations = budget.registrations;
        state.books.reconfigure(&settings);
        state.in_force = in_force;
        drop(state);
        // Some 100,000 networks take their time to go: nobody waits for that under the lock.
        drop(old_rules);
        log.set_format(settings.audit.format);
        if let Some(shortfall) = budget.shortfall(&settings.limits) {
            log.note(Level::Warning, shortfall);
        }
        for (key, changed) in [
            ("listen", self.settings.listen != settings.listen),
            ("port", self.settings.port != settings.port),
        ] {
            if changed {
                let text =
                    format!("{key} has changed: that takes force when epmd is started again");
                log.note(Level::Warning, text);
            }
        }
        let status = settings.whom_it_serves();
        log.note(Level::Info, format!("reloaded: {status}"));
        self.settings = settings;
        self.export_metrics();
        status
    }

    /// Has the exporter listen where the settings say.
    pub(super) fn export_metrics(&mut self) {
        let server = &self.server;
        let listen = self.settings.metrics;
        if self.exporter.is_none() && listen.is_some() {
            match Exporter::start(
                server.waiting.counters(),
                server.descriptors,
                server.started_at(),
                server.log.clone(),
            ) {
                Ok(exporter) => self.exporter = Some(exporter),
                Err(error) => server
                    .log
                    .note(Level::Error, format!("no metrics: {error}")),
            }
        }
        if let Some(exporter) = &self.exporter {
            exporter.listen(listen);
        }
    }
}

/// The settings as they are told to who asks.
pub(super) fn in_force(settings: &Settings) -> InForce {
    InForce {
        file: settings.file.as_ref().map(|f| f.display().to_string()),
        allow: settings.rules.allow.iter().map(|n| n.to_string()).collect(),
        enforce: settings.rules.enforce,
        nodes: settings
            .rules
            .nodes
            .keys()
            .map(|n| String::from_utf8_lossy(n).into_owned())
            .collect(),
        text: config::show(settings),
    }
}

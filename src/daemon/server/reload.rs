//! SIGHUP: reading the settings again, and who goes by them.
//!
//! Owns the settings in force and where they come from. The file is read and checked by a thread of its
//! own, so that one that takes its time (large, on a file system that hangs) holds nobody up. Called by
//! `server`.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::budget::Budget;
use super::state::Server;
use super::whose::{self, Eyes};
use crate::config::{self, Errors, Settings, Snapshot, Sources};
use crate::core::access::Networks;
use crate::core::status::InForce;
use crate::daemon::exporter::Exporter;
use crate::daemon::log::Level;
use crate::daemon::metrics;
use crate::daemon::sandbox::Sandbox;
use crate::daemon::systemd::{KeptSettings, Notifier};

/// After this time it is said that a file is not read yet.
const PATIENCE_WITH_A_FILE: Duration = Duration::from_secs(5);

/// What was read: settings with what they can be made of again, or what is wrong.
type Loaded = Result<(Settings, Snapshot), Errors>;

/// What a reload needs, and nobody else.
pub(super) struct Reload {
    pub(super) server: Arc<Server>,
    /// Where the settings come from.
    pub(super) sources: Sources,
    /// What is in force.
    pub(super) settings: Settings,
    /// What the process may do still.
    pub(super) sandbox: Arc<Sandbox>,
    /// How many listening sockets there are.
    pub(super) listeners: usize,
    pub(super) notifier: Notifier,
    /// Where settings outlive the process.
    pub(super) kept: Option<KeptSettings>,
    pub(super) exporter: Option<Exporter>,
    /// Why users can't be told apart, where they can't.
    pub(super) eyes: Eyes,
    /// What is being read; and whether it is to be read once more then, because it may have changed.
    pub(super) reading: Option<oneshot::Receiver<Loaded>>,
    pub(super) once_more: bool,
}

impl Reload {
    /// Begins to read the settings again; [`Self::is_read`] ends it.
    pub(super) fn again(&mut self) {
        // Whatever becomes of the settings: logrotate's files are renamed already.
        self.server.log.open_again();
        if self.reading.is_some() {
            self.once_more = true;
            return;
        }
        self.notifier.reloading();
        let (done, reading) = oneshot::channel();
        let sources = self.sources.clone();
        let read = move || {
            // Nobody waits for it where the daemon ends meanwhile.
            let _ = done.send(sources.load_and_keep());
        };
        let thread = thread::Builder::new()
            .name("epmd-reload".into())
            .spawn(read);
        if let Err(error) = thread {
            self.server.log.note(
                Level::Warning,
                format!("reading the settings here, as no thread can be had: {error}"),
            );
            self.end(self.sources.load_and_keep());
            return;
        }
        self.reading = Some(reading);
    }

    /// Waits until the settings that are being read are there, and puts them in force if they are good;
    /// for ever, if none are being read.
    pub(super) async fn is_read(&mut self) {
        let Some(reading) = &mut self.reading else {
            return std::future::pending().await;
        };
        let log = &self.server.log;
        let mut told = false;
        let loaded = loop {
            tokio::select! {
                loaded = &mut *reading => break loaded,
                () = sleep(PATIENCE_WITH_A_FILE), if !told => {
                    told = true;
                    let text = "reading the settings takes long: the file, or its file system, does not answer; \
                                what was in force before stays so meanwhile";
                    log.note(Level::Warning, text);
                }
            }
        };
        self.reading = None;
        match loaded {
            Ok(loaded) => self.end(loaded),
            Err(_) => self
                .notifier
                .ready("not reloaded: the thread that read has ended"),
        }
        if std::mem::take(&mut self.once_more) {
            self.again();
        }
    }

    /// Good settings are in force at once, for new requests; with bad ones the old ones stay.
    fn end(&mut self, loaded: Loaded) {
        let status = match loaded {
            Ok((settings, snapshot)) => match self.eyes.can_go_by(&settings) {
                Ok(()) => self.put_in_force(settings, &snapshot),
                Err(why) => {
                    let status =
                        format!("not reloaded, the settings from before stay in force: {why}");
                    self.leave_in_force(vec![why], status)
                }
            },
            Err(errors) => {
                let mut why = vec![errors.for_log()];
                if errors.is_any_forbidden() {
                    why.extend(self.sandbox.keeps_from_the_settings());
                }
                self.leave_in_force(why, errors.not_in_force("not reloaded"))
            }
        };
        self.notifier.ready(&status);
    }

    /// Gives the daemon's status in a line, as the next one does.
    fn leave_in_force(&self, why: Vec<String>, status: String) -> String {
        let log = &self.server.log;
        for why in why {
            log.note(Level::Error, why);
        }
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
        let budget = Budget::beside(
            &settings.limits,
            self.server.descriptors,
            self.listeners,
            self.kept.is_some(),
        );
        self.server.waiting.reconfigure(&budget, &settings.limits);
        self.server.go_by(&settings.rules);
        let in_force = Arc::new(in_force(&settings));
        let mut rules = settings.rules.clone();
        let mut state = self.server.state();
        rules.served = state.desk.rules.served.take();
        let old_rules = std::mem::replace(&mut state.desk.rules, rules);
        state.desk.max_registrations = budget.registrations;
        state.books.reconfigure(&settings);
        state.followers.tell_access(&in_force);
        state.in_force = in_force;
        drop(state);
        // Some 100,000 networks take their time to go: nobody waits for that under the lock.
        drop(old_rules);
        if settings.rules.names.ask_for_users() {
            // Who has a name keeps it; but it may stay theirs when it is released.
            whose::find_all(&self.server);
        }
        log.set_destination(&settings.audit);
        if let Some(shortfall) = budget.shortfall(&settings.limits) {
            log.note(Level::Warning, shortfall);
        }
        for (key, changed) in [
            ("listen", self.settings.listen != settings.listen),
            ("port", self.settings.port != settings.port),
            ("control.socket", self.settings.control != settings.control),
        ] {
            if changed {
                let text =
                    format!("{key} has changed: that takes force when epmd is started again");
                log.note(Level::Warning, text);
            }
        }
        let status = settings.whom_it_serves();
        log.note(Level::Info, format!("reloaded: {status}"));
        for warning in settings.warnings() {
            log.note(Level::Warning, warning.what);
        }
        self.settings = settings;
        self.export_metrics();
        status
    }

    /// Has the exporter listen where the settings say.
    pub(super) fn export_metrics(&mut self) {
        let server = &self.server;
        let listen = self.settings.metrics;
        if let Some(address) = listen.filter(|address| !self.sandbox.may_bind(address.port())) {
            let text = format!(
                "metrics.listen = \"{address}\" has a port that this epmd can't bind any more, as it had another one, or \
                 none, when it shut itself in: that takes force when epmd is started again"
            );
            server.log.note(Level::Warning, text);
            return;
        }
        if self.exporter.is_none() && listen.is_some() {
            let page = metrics::page(
                server.waiting.counters(),
                server.descriptors,
                server.clock.started_at(),
            );
            let log = server.log.clone();
            match page
                .map_err(io::Error::other)
                .and_then(|page| Exporter::start("metrics.listen", page, log))
            {
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
    let rules = &settings.rules;
    let shown = |networks: &Networks| networks.iter().map(|n| n.to_string()).collect();
    let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    InForce {
        file: settings.file.as_ref().map(|f| f.display().to_string()),
        allow: shown(&rules.allow),
        enforce: rules.enforce,
        nodes: rules.nodes.keys().map(|n| name(n)).collect(),
        allow_from: settings.allow_from.name().to_owned(),
        deny: shown(&rules.deny),
        list: rules.list.as_ref().map(shown),
        node_lists: rules
            .nodes
            .iter()
            .map(|(n, networks)| (name(n), shown(networks)))
            .collect(),
        text: config::show(settings),
    }
}

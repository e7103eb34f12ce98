//! SIGHUP: the settings are read again.
//!
//! Called by `server`.

use super::budget::Budget;
use super::state::Server;
use crate::config::Sources;
use crate::daemon::log::Level;
use crate::daemon::systemd::KeptSettings;

impl Server {
    /// Reads the settings again. Good ones are in force at once, for new requests; with bad ones
    /// the old ones stay. Gives the daemon's status in a line.
    pub(super) fn reload(
        &self,
        sources: &Sources,
        listeners: usize,
        kept: Option<&mut KeptSettings>,
    ) -> String {
        let (settings, snapshot) = match sources.load_and_keep() {
            Ok(loaded) => loaded,
            Err(errors) => {
                self.log.note(Level::Error, errors.to_string());
                let status = errors.not_in_force("not reloaded");
                self.log.note(Level::Error, status.clone());
                return status;
            }
        };
        if let Some(Err(error)) = kept.map(|kept| kept.keep(&snapshot)) {
            self.log.note(
                Level::Warning,
                format!("can't keep the settings for a restart: {error}"),
            );
        }
        let mut state = self.state();
        let state = &mut *state;
        let budget = Budget::new(&settings.limits, self.descriptors, listeners);
        let served = state.desk.rules.served.take();
        state.desk.rules = settings.rules.clone();
        state.desk.rules.served = served;
        state.desk.max_registrations = budget.registrations;
        state
            .slots
            .set_limits(budget.connections, settings.limits.per_source);
        state.audit.reconfigure(settings.audit_policy());
        self.log.set_format(settings.audit.format);
        if let Some(shortfall) = budget.shortfall(&settings.limits) {
            self.log.note(Level::Warning, shortfall);
        }
        let old = &state.settings;
        for (key, changed) in [
            ("listen", old.listen != settings.listen),
            ("port", old.port != settings.port),
        ] {
            if changed {
                let text =
                    format!("{key} has changed: that takes force when epmd is started again");
                self.log.note(Level::Warning, text);
            }
        }
        let status = settings.whom_it_serves();
        self.log.note(Level::Info, format!("reloaded: {status}"));
        state.settings = settings;
        status
    }
}

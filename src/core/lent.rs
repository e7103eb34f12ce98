//! What a tool that runs on borrows of the daemon's room: the log, a page for Prometheus, a word to systemd.
//!
//! Only what these are called: the daemon's room does it (`daemon::lent`), `main` hands it over, and neither
//! of the two rooms knows the other. `S` is what settings are to whoever reads them.

use std::sync::Arc;
use std::time::Duration;

use crate::core::audit::Event;

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something is not done that was asked for.
    Error,
    /// Something is not as the operator will want it.
    Warning,
    /// Worth knowing.
    Info,
    /// For `-d`.
    Debug,
}

/// Makes the text of a page whenever somebody asks for it; the error is shown to who asked.
pub type Page = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// The verdict of a node that can be reached.
pub const REACHABLE: &str = "reachable";

/// That a node can't be reached any more, or can again: a line of the log, ready to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The node's whole name, escaped.
    pub node: String,
    /// [`REACHABLE`], or the code of what fails.
    pub verdict: String,
    /// The address that was examined; absent where the host's name has none.
    pub peer: Option<String>,
    /// The whole in one line, for people.
    pub message: String,
    /// What to do, where there is something to be done; may have several lines.
    pub remedy: Option<String>,
}

impl Reach {
    /// Whether it can be reached.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.verdict == REACHABLE
    }

    /// Its name in the field `event`.
    #[must_use]
    pub fn event(&self) -> &'static str {
        if self.is_reachable() {
            "reachable"
        } else {
            "unreachable"
        }
    }
}

/// What is lent.
pub trait Lent<S>: Send + Sync {
    /// Tells a line of the tool's own.
    fn note(&self, level: Level, text: String);
    /// Tells a line of the audit.
    fn refused(&self, event: Event);
    /// Tells that a node can't be reached any more, or can again.
    fn tell(&self, reach: Reach);
    /// Goes by these settings from now on, as far as they say how lines are written and where the page is
    /// served.
    fn follow(&self, settings: &S);
    /// Tells systemd that all is well; `status` is what `systemctl status` shows.
    fn ready(&self, status: &str);
    /// Tells systemd that the settings are read again.
    fn reloading(&self);
    /// Tells systemd that it is the end, and writes the lines that wait.
    fn close(&self);
    /// Tells systemd that the tool is alive: to be done every [`Self::watchdog`].
    fn alive(&self);
    /// How often systemd wants to hear that; `None`: never.
    fn watchdog(&self) -> Option<Duration>;
}

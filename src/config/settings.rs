//! The settings: what the daemon goes by, once everything is checked.
//!
//! Plain structs and their defaults. They are filled by `file` (by way of the table of keys) and
//! `sources`, and read by the daemon and the tools. Knows neither files nor options.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::control::Control;
use super::names::Names;
use super::places::Places;
use super::ports::Ports;
use super::watch::Watch;
use crate::core::access::Rules;
use crate::core::audit::{Hint, Origin, Policy};

/// epmd's registered port.
pub const DEFAULT_PORT: u16 = 4369;
/// Read when neither `-config` nor `EPMD_CONFIG` names a file, where it exists.
pub const DEFAULT_FILE: &str = "/etc/epmd.toml";
/// Default of `limits.connections`.
pub const DEFAULT_CONNECTIONS: usize = 1024;
/// Default of `limits.per-source`.
pub const DEFAULT_PER_SOURCE: usize = 64;
/// Default of `limits.request-timeout`.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Default of `limits.registrations`.
pub const DEFAULT_REGISTRATIONS: usize = 65_536;
/// Default of `audit.window`.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(60);

/// Everything that the daemon goes by, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file that was read, where there was one; with its full name, as far as there is one.
    pub file: Option<PathBuf>,
    /// Addresses to listen on besides loopback; `None` is every address, an empty list is loopback
    /// alone.
    pub listen: Option<Vec<IpAddr>>,
    /// TCP port; 0 lets the kernel choose (for tests).
    pub port: u16,
    /// Where `listen` comes from.
    pub listen_from: Origin,
    /// Who may ask what.
    pub rules: Rules,
    /// Which users may register which name, as it was given; `rules.names` are the numbers.
    pub names: Names,
    /// Where `rules.allow` comes from.
    pub allow_from: Origin,
    /// How much of everything.
    pub limits: Limits,
    /// How refusals are told.
    pub audit: Audit,
    /// Where Prometheus may read the counters; `None` is nowhere.
    pub metrics: Option<SocketAddr>,
    /// Which nodes `-watch` examines.
    pub watch: Watch,
    /// Where the control socket is.
    pub control: Control,
    /// Ports that the guard guards whether a node is registered with them or not.
    pub guard: Ports,
    /// Allow STOP_REQ, and KILL_REQ while names are registered.
    pub relaxed_command_check: bool,
    /// Wait this long before each accept (stock's test of a busy server).
    pub delay_accept: Duration,
    /// Wait this long before each answer (stock's test of a busy server).
    pub delay_write: Duration,
    /// How many times `-d` was given: from 1 on, every request is told on stderr.
    pub debug: u8,
    /// The daemon does not shut itself in.
    pub no_sandbox: bool,
    /// Who said each of these.
    pub places: Places,
}

impl Default for Settings {
    /// What is in force where nothing is configured.
    fn default() -> Self {
        Self {
            file: None,
            listen: None,
            listen_from: Origin::Default,
            port: DEFAULT_PORT,
            rules: Rules::default(),
            names: Names::default(),
            allow_from: Origin::Default,
            limits: Limits::default(),
            audit: Audit::default(),
            metrics: None,
            watch: Watch::default(),
            control: Control::Default,
            guard: Ports::default(),
            relaxed_command_check: false,
            delay_accept: Duration::ZERO,
            delay_write: Duration::ZERO,
            debug: 0,
            no_sandbox: false,
            places: Places::default(),
        }
    }
}

impl Settings {
    /// What the audit goes by.
    #[must_use]
    pub fn audit_policy(&self) -> Policy {
        let file = self.file.clone();
        Policy {
            window: self.audit.window,
            lookups: self.audit.lookups,
            hint: Hint {
                file: file.unwrap_or_else(|| DEFAULT_FILE.into()),
                allow: self.allow_from,
                listen: self.listen_from,
            },
        }
    }
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once, registrations apart.
    pub connections: usize,
    /// Of these from one source (an IPv4 address, an IPv6 /64); this host is exempt.
    pub per_source: usize,
    /// From accept to the last byte of the request.
    pub request_timeout: Duration,
    /// Names registered at once.
    pub registrations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: DEFAULT_CONNECTIONS,
            per_source: DEFAULT_PER_SOURCE,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            registrations: DEFAULT_REGISTRATIONS,
        }
    }
}

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Where and how lines are written.
    pub format: Format,
    /// Lines are appended to this file, in place of where `format` has them go.
    pub file: Option<PathBuf>,
    /// Repeats of a refusal within it are counted, and told once at its end.
    pub window: Duration,
    /// Tell answered lookups as well.
    pub lookups: bool,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            format: Format::Auto,
            file: None,
            window: DEFAULT_WINDOW,
            lookups: false,
        }
    }
}

/// `audit.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// journald when started by systemd; as a daemon journald, else syslog; else text on stderr.
    Auto,
    /// journald's native protocol.
    Journald,
    /// One JSON object a line on stderr.
    Json,
    /// One line of text on stderr.
    Text,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Journald, Self::Json, Self::Text];

    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Journald => "journald",
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}

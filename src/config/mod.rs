//! What the operator asked for: command line, environment and file, made into checked [`Settings`].
//!
//! Nothing else reads the environment or the file. Command line beats environment, environment beats
//! file, file beats default; every mistake is found in one run. Called by `main` at the start, and by
//! `server` when SIGHUP asks to read the file again.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::access::Rules;

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
    /// The file that was read, where there was one.
    pub file: Option<PathBuf>,
    /// Addresses to listen on besides loopback; `None` is every address.
    pub listen: Option<Vec<IpAddr>>,
    /// TCP port; 0 lets the kernel choose (for tests).
    pub port: u16,
    /// Who may ask what.
    pub rules: Rules,
    /// How much of everything.
    pub limits: Limits,
    /// How refusals are told.
    pub audit: Audit,
    /// Allow STOP_REQ, and KILL_REQ while names are registered.
    pub relaxed_command_check: bool,
    /// Wait this long before each accept (stock's test of a busy server).
    pub delay_accept: Duration,
    /// Wait this long before each answer (stock's test of a busy server).
    pub delay_write: Duration,
    /// How many times `-d` was given: from 1 on, every request is told on stderr.
    pub debug: u8,
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

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Where and how lines are written.
    pub format: Format,
    /// Repeats of a refusal within it are counted, and told once at its end.
    pub window: Duration,
    /// Tell answered lookups as well.
    pub lookups: bool,
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

//! What is known of the settings in force, for all checks.
//!
//! Plain data. Filled in by `doctor`, read by `host` and its neighbours.

use std::path::PathBuf;

use super::told::Told;
use crate::config::Settings;

/// The settings in force, as far as they are known.
pub(super) struct InForce {
    /// epmd's port.
    pub(super) port: u16,
    /// From the running daemon where it tells, else from the file; `None` where that is broken.
    pub(super) settings: Option<Settings>,
    /// The first mistake of environment and file, and how many more there are.
    pub(super) broken: Option<(String, usize)>,
    /// The file that would be in force, where this user may not read it.
    pub(super) unreadable: Option<PathBuf>,
    /// What the running daemon tells.
    pub(super) told: Option<Told>,
    /// Why what is at its control socket was not believed.
    pub(super) not_trusted: Option<String>,
    /// The port that a node would ask, where the file alone says another: that one, and the file.
    pub(super) only_in_file: Option<(u16, PathBuf)>,
    /// Whether every node that is asked about needs no epmd.
    pub(super) needs_no_epmd: bool,
}

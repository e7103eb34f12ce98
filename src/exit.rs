//! The exit statuses of `epmd`, in one place.
//!
//! Called by `main` and by whatever ends the process; decides nothing itself.

use std::process::ExitCode;

/// Why the process ends, as scripts and systemd see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done: the command succeeded, or the daemon was told to end (SIGTERM, SIGINT, KILL_REQ).
    Success = 0,
    /// The command failed, no epmd was there, the port is taken, or the command line is no command
    /// line (stock's status for all of these).
    Failure = 1,
    /// `-doctor` was asked in a way that it does not understand; 1 is what it found.
    Usage = 2,
    /// The configuration is wrong (`EX_CONFIG` of sysexits.h): file, option or environment variable.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

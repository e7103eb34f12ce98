//! How a run of `epmd` ends, and its words to whoever started it.
//!
//! The exit statuses, in one place, and the two streams: `println!` and `eprintln!` panic where a stream
//! can't be written (a closed pipe, /dev/full), these do not. Called by `main` and by whatever ends the
//! process; decides nothing itself.

use std::fmt::Display;
use std::io::{self, Write as _};
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

impl Exit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Success, Self::Failure, Self::Usage, Self::Config];

    /// When the process ends so, for `-help` and the manual page.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Success => {
                "Done. Of the daemon: it was told to end; with -daemon, it serves, or an epmd does already."
            }
            Self::Failure => {
                "The command failed: no epmd there, the port is taken, the command line is wrong, or -doctor \
                 found a fault."
            }
            Self::Usage => "The command line is wrong, with -doctor.",
            Self::Config => {
                "The configuration is wrong: the value of an option or variable, or the file."
            }
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Prints text on stdout as it is. The status tells whether anybody reads it.
#[must_use]
pub fn print(text: &str) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Success,
        Err(_) => Exit::Failure,
    }
}

/// Says a line on stderr. Where that can't be written there is nobody to be told: the exit status is
/// what remains.
pub fn complain(line: impl Display) {
    // One write, so that the lines of two processes do not mix.
    let line = format!("{line}\n");
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

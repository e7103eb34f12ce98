//! What the operator asked for: command line, environment and file, made into checked [`Settings`].
//!
//! Nothing else reads the environment or the file. Command line beats environment, environment beats
//! file, file beats default; every mistake is found in one run. The keys of the file are one table,
//! [`KEYS`], the options another, [`OPTIONS`]. Called by `main` at the start, and by `server` when SIGHUP
//! asks to read the file again.

mod bounds;
mod cli;
mod control;
mod coverage;
mod diagnostic;
mod file;
mod guard;
mod keys;
mod mistakes;
mod names;
mod nets;
mod options;
mod places;
mod ports;
mod read;
mod said;
mod settings;
mod show;
mod sources;
mod syntax;
mod table;
mod target;
mod template;
mod types;
pub mod users;
mod values;
mod variables;
mod watch;
mod whom;
mod words;
mod wrap;

#[cfg(test)]
mod tests;

pub use self::cli::{Command, CommandLineError, Invocation, Mode};
pub use self::control::Control;
pub use self::diagnostic::{Errors, Problem};
pub use self::names::{Hold, Names, Users};
pub use self::options::{OPTIONS, OptionSpec, Section, help, options_markdown, usage, version};
pub use self::places::{Place, Places};
pub use self::ports::Ports;
pub use self::settings::{
    Audit, DEFAULT_CONNECTIONS, DEFAULT_FILE, DEFAULT_PER_SOURCE, DEFAULT_PORT,
    DEFAULT_REGISTRATIONS, DEFAULT_REQUEST_TIMEOUT, DEFAULT_WINDOW, Format, Limits, Settings,
};
pub use self::show::show;
pub use self::sources::{Snapshot, Sources};
pub use self::table::{KEYS, Key, settings_markdown};
pub use self::target::Target;
pub use self::template::Template;
pub use self::variables::{PRECEDENCE, VARIABLES, Variable};
pub use self::watch::{DEFAULT_AFTER, DEFAULT_EVERY, Every, MOST_NODES, Watch};
pub use self::whom::Warning;
pub(crate) use self::words::{bare_or_quoted as key, some_of};
pub use crate::core::audit::Origin;

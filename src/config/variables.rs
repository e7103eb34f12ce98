//! The table of environment variables: their names, and what each does.
//!
//! `-help` and the manual page show it. It reads none: that is `cli`'s, by the names of this table.

use super::wrap::{WIDTH, wrap};
use crate::exit::Exit;

/// One environment variable that is epmd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The option that says the same and beats it, without its dash.
    pub option: &'static str,
    /// What it does, in a sentence.
    pub brief: &'static str,
}

pub(super) const ADDRESS: Variable = Variable {
    name: "ERL_EPMD_ADDRESS",
    option: "address",
    brief: "Addresses to listen on besides loopback, with commas or spaces between them.",
};
pub(super) const PORT: Variable = Variable {
    name: "ERL_EPMD_PORT",
    option: "port",
    brief: "The port. Nodes ask at it as well, so it has to be the same for epmd and for all nodes.",
};
pub(super) const RELAXED: Variable = Variable {
    name: "ERL_EPMD_RELAXED_COMMAND_CHECK",
    option: "relaxed_command_check",
    brief: "Whatever its value, and an empty one too.",
};
pub(super) const CONFIG: Variable = Variable {
    name: "EPMD_CONFIG",
    option: "config",
    brief: "The settings file, which then must exist.",
};
pub(super) const ALLOW: Variable = Variable {
    name: "EPMD_ALLOW",
    option: "allow",
    brief: "Networks that may look names up besides this host, with commas between them.",
};

/// All of them, in the order in which they are shown.
pub const VARIABLES: &[Variable] = &[ADDRESS, PORT, RELAXED, CONFIG, ALLOW];

/// What goes for all of them.
pub const PRECEDENCE: &str = "An empty variable is as good as none, but for ERL_EPMD_RELAXED_COMMAND_CHECK. \
                              The command line beats the environment, the environment beats the file.";

/// What `-help` says of variables and exit statuses.
pub(super) fn describe(text: &mut String) {
    let mut paragraph = |begin: &str, words: &str| {
        let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
        wrap(text, begin, &words, WIDTH);
    };
    paragraph("", "\nEnvironment");
    for variable in VARIABLES {
        paragraph("    ", variable.name);
        let brief = format!("As -{}. {}", variable.option, variable.brief);
        paragraph("        ", &brief);
    }
    paragraph("    ", PRECEDENCE);
    paragraph("", "\nExit status");
    for exit in Exit::ALL {
        let begin = format!("    {:<4}", exit as u8);
        paragraph(&begin, exit.meaning());
    }
}

//! `epmd -takeover` on this machine: the place of a running epmd is taken, and no node notices.
//!
//! Real epmds, stock and ours, on ports of their own; that of a unit is taken in tests/systemd. Needs
//! root, for a process that is looked into.
//!
//! - `all`: what comes along.
//! - `not`: who is left alone, and what is said.
//! - `killed`: a takeover that is ended in the midst of it.
//! - `load`: names, and lookups without a pause.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

#[path = "../common/mod.rs"]
mod common;

mod all;
mod killed;
mod load;
mod not;

use common::binary::{Epmd, Output, finish};
use common::daemon::{Daemon, Setup};

/// An epmd with nothing set.
fn old(epmd: Epmd) -> Daemon {
    Setup::of(epmd).start()
}

/// Runs our epmd in the background in the place of the one on this port.
fn take_over(port: u16, arguments: &[&str]) -> Output {
    let mut command = Epmd::Ours.command();
    let port = port.to_string();
    finish(command.args(["-daemon", "-port", &port]).args(arguments)).wherever_it_logs()
}

/// What a takeover in silence leaves.
fn silence() -> Output {
    Output::new(0, "", "")
}

//! What a person or a script runs: the commands that ask an epmd, or look from outside why nodes don't
//! see each other.
//!
//! Each command is a function that prints and gives the exit status; `main` chooses it. Nothing here is
//! part of the daemon, and nothing of the daemon's is used.

mod call;
pub mod client;
pub mod control;
pub mod doctor;
pub mod guard;
mod holders;
pub mod mesh;
pub mod refused;
mod signals;
pub mod watch;

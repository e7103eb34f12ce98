//! What moves bytes: the daemon, from its start to its end.
//!
//! Decides nothing about a request (`core` does) and knows nothing of what a person runs (`tools`).

pub mod control;
mod detach;
mod exporter;
pub mod lent;
pub mod listen;
pub mod log;
pub mod metrics;
mod process;
pub mod sandbox;
pub mod server;
mod start;
pub mod systemd;
pub mod takeover;

pub use start::{Ask, FromMain, run, run_in_place};

//! hardened-epmd: a drop-in epmd that serves this host and the networks it was told to.
//!
//! A request takes one straight way:
//!
//! ```text
//! accept -> read -> wire::decode -> access::decide -> registry -> wire::encode -> send -> close
//!                                        |
//!                                      audit (what was refused) -> log
//! ```
//!
//! `wire`, `access`, `registry`, `audit`, `slots` and `desk` decide: they know no socket, no clock
//! and nothing asynchronous. `server`, `client`, `log` and `systemd` move bytes.

#[cfg(not(target_os = "linux"))]
compile_error!("hardened-epmd runs on Linux only");

#[forbid(unsafe_code)]
pub mod access;
#[forbid(unsafe_code)]
pub mod audit;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod exit;
#[forbid(unsafe_code)]
pub mod log;
#[forbid(unsafe_code)]
pub mod outcome;

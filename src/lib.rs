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
//! `wire`, `access`, `registry`, `slots`, `audit` and `counters` decide, and `desk` leads a request
//! through them: they know no socket, no clock and nothing asynchronous. `config` makes the operator's
//! words into settings. `server`, `client`, `log`, `metrics` and `systemd` move bytes. `doctor` looks
//! from outside why nodes don't see each other.

#[cfg(not(target_os = "linux"))]
compile_error!("hardened-epmd runs on Linux only");

#[forbid(unsafe_code)]
pub mod access;
#[forbid(unsafe_code)]
pub mod audit;
#[forbid(unsafe_code)]
pub mod client;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod control;
#[forbid(unsafe_code)]
pub mod counters;
#[forbid(unsafe_code)]
pub mod desk;
#[forbid(unsafe_code)]
pub mod doctor;
#[forbid(unsafe_code)]
pub mod exit;
#[forbid(unsafe_code)]
pub mod log;
#[forbid(unsafe_code)]
pub mod metrics;
#[forbid(unsafe_code)]
pub mod outcome;
#[forbid(unsafe_code)]
pub mod refused;
#[forbid(unsafe_code)]
pub mod registry;
#[forbid(unsafe_code)]
pub mod server;
#[forbid(unsafe_code)]
pub mod slots;
#[forbid(unsafe_code)]
pub mod status;
#[expect(
    unsafe_code,
    reason = "the one small module that may, see its first lines"
)]
pub mod sys;
#[forbid(unsafe_code)]
pub mod systemd;
#[forbid(unsafe_code)]
pub mod wire;

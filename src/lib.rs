//! hardened-epmd: a drop-in epmd that serves this host and the networks it was told to.
//!
//! Four rooms, each of which uses only those to its left (`tests/rooms.rs` holds the tree to it):
//!
//! ```text
//! core  <-  config  <-  daemon and tools (neither knows the other)  <-  main.rs
//! ```
//!
//! `core` decides, `config` makes the operator's words into settings, `daemon` moves bytes, `tools` is
//! what a person runs. `sys`, `diag` (what the kernel says of sockets) and `exit` stand beside them. A request takes one straight way:
//!
//! ```text
//! accept -> read -> wire::decode -> access::decide -> registry -> wire::encode -> send -> close
//!                                        |
//!                                      audit (what was refused) -> log
//! ```
//!
//! The plan of the whole is docs/architecture.md.

#[cfg(not(target_os = "linux"))]
compile_error!("hardened-epmd runs on Linux only");

#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod core;
#[forbid(unsafe_code)]
pub mod daemon;
#[forbid(unsafe_code)]
pub mod diag;
#[forbid(unsafe_code)]
pub mod exit;
#[expect(
    unsafe_code,
    reason = "the one small module that may, see its first lines"
)]
pub mod sys;
#[forbid(unsafe_code)]
pub mod tools;

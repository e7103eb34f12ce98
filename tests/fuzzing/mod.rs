//! What has to hold whatever bytes come: one function for each fuzz target.
//!
//! A function takes the fuzzer's bytes and panics where something does not hold. `fuzz/` calls them
//! with whatever the fuzzer makes up (`cargo fuzz run wire`), `tests/corpus.rs` with the inputs that
//! are kept in `fuzz/corpus/`, so that these are passed with every run of the tests.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::allow_attributes,
    reason = "shared by several crates with lints of their own; what panics here is a finding"
)]

mod access;
mod config;
mod connection;
mod input;
mod record;
mod wire;

/// A fuzz target: its name, which is its folder in `fuzz/corpus/`, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 5] = [
    ("wire", wire::run),
    ("access", access::run),
    ("config", config::run),
    ("connection", connection::run),
    ("record", record::run),
];

/// Runs one of them. `fuzz/` names its targets by it.
pub fn run(target: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, body) = found.expect("a target of this name");
    body(bytes);
}

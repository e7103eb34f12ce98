//! The harness of the black-box suite: one daemon for each test, on a port of its own.
//!
//! `EPMD_UNDER_TEST=stock|ours` (default `ours`) says which binary the tests drive. Where the two
//! differ on purpose, a test holds both expectations side by side through [`binary::differs`], and
//! `docs/differences.md` gives the reason.
//!
//! - `binary`: which epmd, and one run of it to its end.
//! - `daemon`: an epmd that runs for the length of a test.
//! - `host`: ports, listeners and processes of this host, as /proc shows them.
//! - `netns`: hosts made of network namespaces.
//! - `service`: our epmd on such a host, its file and its audit.
//! - `wire`: the bytes of requests and answers.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]
#![allow(
    dead_code,
    reason = "each test binary uses its own part of the harness"
)]

pub(crate) mod binary;
pub(crate) mod daemon;
pub(crate) mod host;
pub(crate) mod netns;
pub(crate) mod service;
pub(crate) mod wire;

use std::time::{Duration, Instant};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Tries `attempt` until it gives something, and fails the test after [`PATIENCE`].
pub(crate) fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

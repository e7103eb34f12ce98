//! The harness of the black-box suite: one daemon for each test, on a port of its own.
//!
//! `EPMD_UNDER_TEST=stock|stock29|ours` (default `ours`) says which binary the tests drive: that of
//! this machine's Erlang/OTP, that of OTP 29, this crate's. Where ours differs from stock on purpose, a
//! test holds both expectations side by side through [`binary::differs`], and `docs/differences.md`
//! gives the reason.
//!
//! - `binary`: which epmd, and one run of it to its end.
//! - `daemon`: an epmd that runs for the length of a test.
//! - `erl`: real Erlang nodes.
//! - `host`: ports, listeners and processes of this host, as /proc shows them.
//! - `inject`: system calls from within a process.
//! - `netns`: hosts made of network namespaces.
//! - `nspawn`: a throwaway host with a real systemd.
//! - `service`: our epmd on such a host, its file and its audit.
//! - `store`: a service manager that keeps descriptors, and hands them to the next daemon.
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
pub(crate) mod erl;
pub(crate) mod host;
pub(crate) mod inject;
pub(crate) mod netns;
pub(crate) mod nspawn;
pub(crate) mod service;
pub(crate) mod store;
pub(crate) mod wire;

use std::io::{self, Write};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Tries `attempt` until it gives something, and fails the test after [`PATIENCE`].
pub(crate) fn wait_for<T>(what: &str, attempt: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, attempt)
}

/// As [`wait_for`], for so long.
pub(crate) fn wait_within<T>(
    patience: Duration,
    what: &str,
    mut attempt: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A connection on which nothing takes longer than [`PATIENCE`].
pub(crate) fn connect(address: IpAddr, port: u16) -> TcpStream {
    try_connect(address, port).unwrap_or_else(|error| panic!("{address} port {port}: {error}"))
}

/// As [`connect`], where there may be nobody to connect to.
pub(crate) fn try_connect(address: IpAddr, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&(address, port).into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connections to a daemon that stands still, of which the last one did not fit in the queue any more.
/// There must be room for `room` there (net.core.somaxconn).
pub(crate) fn crowd(address: IpAddr, port: u16, room: usize) -> Vec<TcpStream> {
    const DROPPED: Duration = Duration::from_millis(300);
    let mut crowd = Vec::new();
    // One is dropped by the kernel without a word where there is no room.
    while let Ok(mut stream) = TcpStream::connect_timeout(&(address, port).into(), DROPPED) {
        // It waits to be accepted once it has sent something: TCP_DEFER_ACCEPT, tcp(7).
        stream.write_all(&[0]).expect("sent");
        crowd.push(stream);
        assert!(crowd.len() < 8 * room, "the queue has no end");
    }
    assert!(crowd.len() > room, "only {} waited", crowd.len());
    crowd
}

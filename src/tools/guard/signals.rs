//! The signals that steer the guard: a thread that waits for them and rings the bell.
//!
//! Called by `guard` before there is a second thread: all have the mask of who made them.

use std::io;
use std::sync::Arc;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use super::follow::Bell;

/// Those that are waited for.
fn steering() -> SigSet {
    [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT]
        .into_iter()
        .collect()
}

/// Holds them back, so that none ends the process before it is heeded.
///
/// # Errors
/// What sigprocmask(2) says.
pub(super) fn hold_back() -> io::Result<()> {
    Ok(steering().thread_set_mask()?)
}

/// Waits for them for ever.
///
/// # Errors
/// No thread can be had.
pub(super) fn start(bell: &Arc<Bell>) -> io::Result<()> {
    let bell = Arc::clone(bell);
    let wait = move || {
        loop {
            let signal = steering().wait();
            bell.ring(|heard| match signal {
                Ok(Signal::SIGHUP) => heard.reload = true,
                Ok(_) => heard.end = true,
                Err(_) => {}
            });
        }
    };
    let thread = thread::Builder::new().name("epmd-signals".into());
    thread.spawn(wait).map(|_| ())
}

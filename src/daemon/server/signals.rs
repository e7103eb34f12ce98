//! The signals that steer the daemon. Called by `server`.

use std::io;

use tokio::signal::unix::{self, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGHUP: read the settings again.
    Reload,
    /// SIGTERM or SIGINT: end.
    End,
}

/// The signals, which are caught from now on.
#[derive(Debug)]
pub(super) struct Signals {
    hangup: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            () = received(&mut self.hangup) => Signal::Reload,
            () = received(&mut self.terminate) => Signal::End,
            () = received(&mut self.interrupt) => Signal::End,
        }
    }
}

/// Waits for a signal; where the event loop can't tell of it any more, for ever.
async fn received(signal: &mut unix::Signal) {
    if signal.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

//! What passes between the daemon and systemd: sockets, and how the daemon is.
//!
//! Only `-systemd` makes the process look at `LISTEN_FDS` and `NOTIFY_SOCKET`: an epmd that erl starts
//! inside an application's unit inherits that unit's, and must neither use them nor pass them on.
//! Called by `main` and `server`.

use std::io;
use std::net::TcpListener;

use sd_notify::NotifyState;

use crate::server::listen;
use crate::sys;

/// Tells systemd how the daemon is; does nothing where systemd did not start it.
#[derive(Clone, Copy, Debug)]
pub struct Notifier {
    started_by_systemd: bool,
}

impl Notifier {
    /// `started_by_systemd`: whether `-systemd` was given.
    #[must_use]
    pub const fn new(started_by_systemd: bool) -> Self {
        Self { started_by_systemd }
    }

    /// The daemon listens, or has finished a reload.
    pub fn ready(self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// The daemon reads its file again.
    pub fn reloading(self) {
        let now = NotifyState::monotonic_usec_now();
        let states: Vec<_> = std::iter::once(NotifyState::Reloading).chain(now).collect();
        self.tell(&states);
    }

    /// The daemon ends.
    pub fn stopping(self) {
        self.tell(&[NotifyState::Stopping]);
    }

    fn tell(self, states: &[NotifyState<'_>]) {
        if self.started_by_systemd {
            // Where systemd can't be told, it finds out by its own timeout, and says so itself.
            let _ = sd_notify::notify(states);
        }
    }
}

/// The listening sockets that systemd hands over, set non-blocking (Debian's epmd.socket has them
/// blocking).
///
/// # Errors
/// A descriptor that is no listening TCP socket, by its number.
pub fn sockets() -> io::Result<Vec<TcpListener>> {
    let descriptors = sd_notify::listen_fds()?;
    let sockets = descriptors
        .map(sys::adopt_listener)
        .collect::<io::Result<Vec<_>>>()?;
    for socket in &sockets {
        // Only saves time: where the kernel refuses it, the sockets serve all the same.
        let _ = listen::defer_accept(socket);
    }
    Ok(sockets)
}

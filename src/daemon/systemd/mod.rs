//! What passes between the daemon and systemd: descriptors, and how the daemon is.
//!
//! Only `-systemd` makes the process look at `LISTEN_FDS`, `NOTIFY_SOCKET` and `WATCHDOG_USEC`: an epmd
//! that erl starts inside an application's unit inherits that unit's, and must neither use them nor
//! pass them on. `inherited` takes over what systemd hands to the process, `store` keeps registrations
//! there as `record`s, `arrivals` connections that have asked nothing yet; `notify` sends, and waits for
//! nobody. Called by `start`, `takeover` and `server`.

pub(in crate::daemon) mod arrivals;
pub mod inherited;
pub mod kept;
pub mod notify;
pub mod record;
pub mod store;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::time::{ClockId, clock_gettime};

use crate::config::Snapshot;
use notify::{Manager, manager, take_out};

/// What the names of our own listening sockets in the store begin with; the address follows.
const LISTENER_PREFIX: &str = "listen-";
/// What the names of settings in the store begin with; a number follows, and the largest counts.
const SETTINGS_PREFIX: &str = "settings-";
/// The name of a socket by which the kernel is asked for users, opened outside of the unit's sandbox.
const SOCK_DIAG: &str = "sock-diag";
/// The number of the settings that a takeover leaves.
const TAKEN_OVER: u64 = 0;
/// How long systemd may take to do what it was told before.
const BARRIER_PATIENCE: Duration = Duration::from_secs(2);
/// The most bytes of kept settings that are read.
const MAX_SETTINGS: u64 = 64 * 1024 * 1024;

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

    /// The daemon listens, or has finished a reload; `status` is what `systemctl status` shows.
    pub fn ready(self, status: &str) {
        // A line of it would be a variable of its own.
        let status = status.replace('\n', " ");
        self.say(format!("READY=1\nSTATUS={status}"), false);
    }

    /// The daemon reads its file again.
    pub fn reloading(self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        let now = now.as_micros();
        self.say(format!("RELOADING=1\nMONOTONIC_USEC={now}"), true);
    }

    /// The daemon ends.
    pub fn stopping(self) {
        self.say("STOPPING=1".to_owned(), true);
    }

    /// The daemon is alive: to be told every [`Self::watchdog`].
    pub fn alive(self) {
        if let Some(manager) = self.manager() {
            // One that is not taken is as good as the next.
            let _ = manager.tell("WATCHDOG=1", &[]);
        }
    }

    /// How often systemd wants to hear that the daemon is alive: half of `WatchdogSec=`.
    #[must_use]
    pub fn watchdog(self) -> Option<Duration> {
        if self.started_by_systemd {
            sd_notify::watchdog_enabled().map(|time| time / 2)
        } else {
            None
        }
    }

    /// Says what systemd did not take before; whether that is all. To be called again and again after
    /// [`notify::BEHIND`] has rung.
    #[must_use]
    pub fn catch_up(self) -> bool {
        self.manager().is_none_or(Manager::catch_up)
    }

    fn say(self, text: String, begins: bool) {
        if let Some(manager) = self.manager() {
            manager.say(text, begins);
        }
    }

    fn manager(self) -> Option<&'static Manager> {
        // Where systemd can't be told, it finds out by its own timeout, and says so itself.
        manager().ok().flatten().filter(|_| self.started_by_systemd)
    }
}

/// The folder that systemd made for the daemon (`RuntimeDirectory=`), where it made one.
#[must_use]
pub fn runtime_directory() -> Option<PathBuf> {
    let folders = std::env::var_os("RUNTIME_DIRECTORY")?;
    // Several are separated by colons; the first is as good as any.
    std::env::split_paths(&folders)
        .next()
        .filter(|folder| folder.is_absolute())
}

/// The name under which a listening socket is kept; a colon can't be in one.
fn listener_name(address: SocketAddr) -> String {
    format!(
        "{LISTENER_PREFIX}{}-{}",
        address.ip().to_string().replace(':', "_"),
        address.port()
    )
}

/// Keeps a listening socket in the store: who connects while no epmd runs waits in its queue.
///
/// # Errors
/// Where systemd can't be told.
pub fn keep_listener(listener: &TcpListener) -> io::Result<()> {
    let Some(manager) = manager()? else {
        return Ok(());
    };
    manager.store_patiently(&listener_name(listener.local_addr()?), listener.as_fd())
}

/// Takes listening sockets out of the store, and returns when systemd has closed them: others can be bound
/// once this process has done so as well.
pub fn give_up_listeners(listeners: &[TcpListener]) {
    if listeners.is_empty() {
        return;
    }
    for listener in listeners {
        if let Ok(address) = listener.local_addr() {
            take_out(&listener_name(address));
        }
    }
    // If it is not done in time, binding says which address is taken.
    let _ = barrier();
}

/// Takes the listening socket that was kept for an address out of the store.
pub(super) fn forget_listener(address: SocketAddr) {
    take_out(&listener_name(address));
}

/// Returns when systemd has worked off everything that it was told before (sd_notify_barrier(3)).
///
/// # Errors
/// Where it can't be told, or has not done so in time.
pub(super) fn barrier() -> io::Result<()> {
    let (ours, systemds) = io::pipe()?;
    let Some(manager) = manager()? else {
        return Ok(());
    };
    manager.catch_up_patiently()?;
    manager.tell_patiently("BARRIER=1", &[systemds.as_fd()])?;
    drop(systemds);
    let deadline = Instant::now() + BARRIER_PATIENCE;
    let left = deadline.saturating_duration_since(Instant::now());
    let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(ours.as_fd(), PollFlags::empty())], left)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Keeps a socket by which the kernel is asked for users, in place of the one before: there is one.
///
/// # Errors
/// Where systemd can't be told.
pub(super) fn keep_sock_diag(netlink: BorrowedFd<'_>) -> io::Result<()> {
    let Some(manager) = manager()? else {
        return Ok(());
    };
    manager.tell_patiently(&format!("FDSTOREREMOVE=1\nFDNAME={SOCK_DIAG}"), &[])?;
    // No barrier: process 1 reads what it is told before it hears of this process's end, and starts the
    // daemon after that.
    manager.store_patiently(SOCK_DIAG, netlink)
}

/// The last good settings, kept in the store.
#[derive(Debug)]
pub struct KeptSettings {
    /// The number of those that are kept.
    number: u64,
}

impl KeptSettings {
    /// `number`: of those that are in the store already, 0 where there are none.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self { number }
    }

    /// Keeps these settings, in place of those before.
    ///
    /// # Errors
    /// They are not kept; those before still are.
    pub fn keep(&mut self, settings: &Snapshot) -> io::Result<()> {
        let number = self.number.saturating_add(1);
        put_settings(number, settings)?;
        take_out(&format!("{SETTINGS_PREFIX}{}", self.number));
        self.number = number;
        Ok(())
    }
}

/// Keeps the settings by which the daemon is to start that goes on with what was taken over. They have a
/// number that no daemon gives: what comes with them has been no daemon's of this unit yet.
///
/// # Errors
/// They are not kept.
pub(super) fn keep_settings_of_a_takeover(settings: &Snapshot) -> io::Result<()> {
    put_settings(TAKEN_OVER, settings)
}

/// Takes these settings out of the store.
pub(super) fn forget_settings_of_a_takeover() {
    take_out(&format!("{SETTINGS_PREFIX}{TAKEN_OVER}"));
}

fn put_settings(number: u64, settings: &Snapshot) -> io::Result<()> {
    let mut file = File::from(memfd_create("epmd-settings", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&settings.to_bytes()?)?;
    match manager()? {
        Some(manager) => manager.store(&format!("{SETTINGS_PREFIX}{number}"), file.as_fd()),
        None => Ok(()),
    }
}

/// Reads kept settings.
///
/// # Errors
/// Where they can't be read, or make no sense to this version.
fn read_settings(mut file: &File) -> io::Result<Snapshot> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_SETTINGS).read_to_end(&mut bytes)?;
    Snapshot::from_bytes(&bytes)
}

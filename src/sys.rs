//! The one module with unsafe code: what std and nix have no safe function for.
//!
//! Adopting descriptors that were handed over, closing all others that were inherited, and putting
//! one into the event loop. Each use says why it is sound; nothing here decides anything. Called by
//! `main`, `server` and `systemd`.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Closes every descriptor above the standard streams, all at once (close_range(2), Linux 5.9).
///
/// To be called before this process has opened any of its own: `main` calls it first of all in
/// `-daemon` mode.
///
/// # Errors
/// What close_range(2) says; on an older kernel "not implemented".
pub fn close_inherited() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    const NO_FLAGS: libc::c_uint = 0;
    // SAFETY: no value of this process owns a descriptor above 2 at this point, see above, so none
    // is closed under anybody's hands.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, NO_FLAGS) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Puts a descriptor into the event loop, to be told when it is readable. A duplicate of it is what
/// the event loop keeps.
///
/// # Errors
/// Where there is no descriptor left, or no memory.
pub fn watch(descriptor: &impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let duplicate = descriptor.as_fd().try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` is open for as long as it lives, and always gives the same number.
    let watched = unsafe { AsyncFd::register_with_interest(duplicate, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

/// Takes over a descriptor that was handed to this process: by systemd (`LISTEN_FDS`), or in a
/// message (`SCM_RIGHTS`).
#[must_use]
pub fn adopt(descriptor: RawFd) -> OwnedFd {
    // SAFETY: both callers get the number from where it says that this process owns the descriptor,
    // and adopt it once: `systemd::inherited` at the start, before anything else could have opened or
    // closed that number, and `systemd::store` from the message that brought it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

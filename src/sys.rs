//! The one module with unsafe code: what std and nix have no safe function for.
//!
//! Adopting descriptors that were handed over, and closing all others that were inherited. Each use says
//! why it is sound; nothing here decides anything. Called by `main` and `systemd`.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::libc;

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

/// Takes over a descriptor that was handed to this process: by systemd (`LISTEN_FDS`), or in a
/// message (`SCM_RIGHTS`).
#[must_use]
pub fn adopt(descriptor: RawFd) -> OwnedFd {
    // SAFETY: both callers get the number from where it says that this process owns the descriptor,
    // and adopt it once: `systemd::inherited` at the start, before anything else could have opened or
    // closed that number, and `systemd::store` from the message that brought it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

//! The signals that steer a tool which runs on, read between two of its steps.
//!
//! They are held back in all threads and read from a descriptor, so that nothing of it runs in between
//! anything. Called by `mesh` and `watch`, before they have a second thread.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
pub(super) use nix::sys::signal::Signal;
use nix::sys::signal::{SigSet, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys;

/// Signals that are held back.
pub(super) struct Signals {
    descriptor: SignalFd,
    held: SigSet,
}

impl Signals {
    /// Holds these back, but those that are ignored: the kernel would keep even them.
    ///
    /// # Errors
    /// What sigaction(2), sigprocmask(2) or signalfd(2) says.
    pub(super) fn hold_back(signals: &[Signal]) -> io::Result<Self> {
        let mut held = SigSet::empty();
        for signal in signals {
            if !sys::is_ignored(*signal)? {
                held.add(*signal);
            }
        }
        held.thread_set_mask()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let descriptor = SignalFd::with_flags(&held, flags)?;
        Ok(Self { descriptor, held })
    }

    /// The next one, if one comes within this time.
    pub(super) fn next(&self, within: Duration) -> Option<Signal> {
        let within = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
        // An error is as good as none: it comes again.
        let _ = poll(&mut polled, within);
        let signal = self.descriptor.read_signal().ok()??;
        Signal::try_from(i32::try_from(signal.ssi_signo).ok()?).ok()
    }

    /// Ends this process by the signal, as if it had not been held back, so that who started it sees that.
    pub(super) fn die_of(&self, signal: Signal) {
        let _ = raise(signal);
        let _ = self.held.thread_unblock();
    }
}

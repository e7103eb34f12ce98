//! The signals that steer the daemon.
//!
//! They are read from a descriptor (signalfd(2)) or, where the kernel has none of these, by a thread that
//! waits for them: no handler runs in between anything. Who is first of all is `prepare`: a SIGHUP that
//! comes while the daemon starts waits until it can be heeded. Called by `start` and `server`.

use std::io;
use std::thread;

use nix::sys::signal::{SigSet, Signal as Number};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::sys;

/// The process that inherits all others.
const FIRST: Pid = Pid::from_raw(1);
/// The stack of the thread that waits for signals.
const STACK: usize = 64 * 1024;

/// Interrupts a thread that waits in the kernel, and is for nothing else; by itself it does nothing.
pub(super) const INTERRUPTION: Number = Number::SIGURG;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGHUP: read the settings again.
    Reload,
    /// SIGTERM or SIGINT: end.
    End,
}

/// To be called first of all. SIGHUP waits from now on; SIGTERM and SIGINT end the start. Whatever mask
/// was inherited, and whether SIGHUP or SIGTERM was ignored, is of no matter; a SIGINT that is ignored
/// stays so (`epmd &` in a script). A file that may not grow is an error like another, and no signal.
///
/// # Errors
/// What sigaction(2) or sigprocmask(2) says.
pub fn prepare() -> io::Result<()> {
    only(&[Number::SIGHUP])?;
    sys::set_ignored(Number::SIGHUP, false)?;
    sys::set_ignored(Number::SIGTERM, false)?;
    // Who waits for a child wants to hear how it ended.
    sys::set_ignored(Number::SIGCHLD, false)?;
    sys::set_ignored(Number::SIGXFSZ, true)
}

/// To be called once there is no child of ours any more that is waited for. Process 1 of a container inherits
/// all children whose parents have ended: the kernel has them gone when they end, and those that had ended
/// before are seen off here. Any other process has none.
///
/// # Errors
/// What sigaction(2) says.
pub fn see_orphans_off() -> io::Result<()> {
    if getpid() != FIRST {
        return Ok(());
    }
    sys::set_ignored(Number::SIGCHLD, true)?;
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
    Ok(())
}

/// To be called before there is a second thread: from now on they all wait to be read, as all threads
/// have the mask of the one that made them.
///
/// # Errors
/// What sigprocmask(2) says.
pub fn hold_back() -> io::Result<()> {
    sys::interrupt_by(INTERRUPTION)?;
    let mut all = steering()?;
    all.push(INTERRUPTION);
    only(&all)
}

/// Lets this thread, of all threads, be interrupted by [`INTERRUPTION`].
///
/// # Errors
/// What sigprocmask(2) says.
pub(super) fn may_interrupt_this_thread() -> io::Result<()> {
    Ok(SigSet::from(INTERRUPTION).thread_unblock()?)
}

/// The signals that steer the daemon. One that is ignored is not among them: the kernel would keep even
/// that, if it were held back.
fn steering() -> io::Result<Vec<Number>> {
    let mut all = vec![Number::SIGHUP, Number::SIGTERM];
    if !sys::is_ignored(Number::SIGINT)? {
        all.push(Number::SIGINT);
    }
    Ok(all)
}

/// Has these signals wait, and no other.
fn only(signals: &[Number]) -> io::Result<()> {
    let mask: SigSet = signals.iter().copied().collect();
    Ok(mask.thread_set_mask()?)
}

/// Where the signals come from.
#[derive(Debug)]
pub(super) enum Signals {
    Descriptor(AsyncFd<SignalFd>),
    Thread(UnboundedReceiver<Number>),
}

impl Signals {
    /// To be called on the event loop, after [`hold_back`].
    pub(super) fn catch() -> io::Result<Self> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals: SigSet = steering()?.into_iter().collect();
        match SignalFd::with_flags(&signals, flags) {
            Ok(descriptor) => {
                Ok(Self::Descriptor(sys::watch_signals(descriptor)?))
            }
            Err(refused) => Self::wait_for(signals).map_err(|error| {
                io::Error::other(format!(
                    "signals can't be had, neither by signalfd ({refused}) nor by a thread ({error})"
                ))
            }),
        }
    }

    fn wait_for(signals: SigSet) -> io::Result<Self> {
        let (tell, told) = unbounded_channel();
        thread::Builder::new()
            .name("epmd-signals".into())
            .stack_size(STACK)
            .spawn(move || {
                // An error would come again at once, and for ever.
                while let Ok(number) = signals.wait() {
                    if tell.send(number).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Self::Thread(told))
    }

    /// Waits for the next one; where they can't be read any more, for ever.
    pub(super) async fn next(&mut self) -> Signal {
        let number = match self {
            Self::Descriptor(descriptor) => read(descriptor).await,
            Self::Thread(told) => told.recv().await,
        };
        match number {
            Some(Number::SIGHUP) => Signal::Reload,
            Some(_) => Signal::End,
            None => {
                // They can't be read any more: what ends every process ends this one as well.
                let _ = only(&[Number::SIGHUP]);
                std::future::pending().await
            }
        }
    }
}

async fn read(descriptor: &mut AsyncFd<SignalFd>) -> Option<Number> {
    loop {
        let mut ready = descriptor.readable().await.ok()?;
        match ready.get_inner().read_signal() {
            Ok(Some(signal)) => {
                let number = i32::try_from(signal.ssi_signo).ok()?;
                return Number::try_from(number).ok();
            }
            Ok(None) => ready.clear_ready(),
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

//! Going to the background (`-daemon`), with the parent waiting until the daemon serves.
//!
//! The child keeps the standard error that it was started with until it serves: what keeps it from that
//! is said there, and the parent ends with the child's status. So `epmd -daemon` is 0 only where there
//! is an epmd. The parent reaps a child that fails: process 1 of a container may not. Decides nothing
//! about the start; called by `start`.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{self, Pid};

use crate::exit::{Exit, complain};
use crate::sys;

/// Where the streams of a daemon lead.
const NULL: &str = "/dev/null";
/// How long the parent waits. A start takes milliseconds, or some seconds where something holds the port.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which of the two processes this is.
#[derive(Debug)]
pub(super) enum Side {
    /// The one that was started; how it is to end.
    Parent(Exit),
    /// The one that is to be the daemon.
    Daemon(Tether),
}

/// What the daemon still has of who started it, until it serves.
#[derive(Debug)]
pub struct Tether {
    null: File,
    parent: PipeWriter,
}

/// Forks. To be called while there is one thread; a failure is said, with what failed.
pub(super) fn detach() -> Result<Side, Exit> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open(NULL)
        .map_err(failed(
            "open /dev/null, where a daemon's streams lead",
            "; `mknod -m 666 /dev/null c 1 3` makes it",
        ))?;
    let (daemon, parent) = io::pipe().map_err(failed("make a pipe to the daemon", ""))?;
    let forked = sys::fork().map_err(failed(
        "fork",
        "; see the limits of processes (ulimit -u, TasksMax=) and of memory",
    ))?;
    if let Some(child) = forked {
        drop(parent);
        return Ok(Side::Parent(wait(child, daemon)));
    }
    drop(daemon);
    unistd::setsid().map_err(failed("leave the terminal (setsid)", ""))?;
    unistd::chdir("/").map_err(failed("go to the folder /", ""))?;
    Ok(Side::Daemon(Tether { null, parent }))
}

/// Says what can't be done, and why; `remedy` follows.
fn failed<E: Into<io::Error>>(what: &str, remedy: &str) -> impl FnOnce(E) -> Exit {
    move |error| {
        let error = error.into();
        complain(format_args!(
            "epmd: can't detach: can't {what}: {error}{remedy}"
        ));
        Exit::Failure
    }
}

impl Tether {
    /// Lets go of who started the daemon, which now serves.
    ///
    /// # Errors
    /// Where a standard stream can't be had: nothing is told then, and the daemon is to end.
    pub(super) fn cut(mut self) -> io::Result<()> {
        unistd::dup2_stdin(&self.null)?;
        unistd::dup2_stdout(&self.null)?;
        unistd::dup2_stderr(&self.null)?;
        match self.parent.write_all(&[0]) {
            // Whoever ended the parent meanwhile has a daemon all the same.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

/// The parent: waits for the daemon's word, or for its end.
fn wait(child: Pid, mut daemon: PipeReader) -> Exit {
    loop {
        let time = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(daemon.as_fd(), PollFlags::POLLIN)], time) {
            Err(Errno::EINTR) => {}
            Ok(0) => {
                complain(format_args!(
                    "epmd: the daemon (process {child}) does not serve after {} s; it is left to go on",
                    PATIENCE.as_secs()
                ));
                return Exit::Failure;
            }
            // Reading waits as well, and tells what is wrong.
            Ok(_) | Err(_) => break,
        }
    }
    loop {
        match daemon.read(&mut [0]) {
            Ok(1) => return Exit::Success,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => break,
        }
    }
    loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            // It has said why, or an epmd runs already.
            Ok(WaitStatus::Exited(_, 0)) => return Exit::Success,
            Ok(WaitStatus::Exited(_, status)) if status == Exit::Config as i32 => {
                return Exit::Config;
            }
            Ok(WaitStatus::Exited(..)) => return Exit::Failure,
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                complain(format_args!(
                    "epmd: the daemon was ended by {signal} before it served"
                ));
                return Exit::Failure;
            }
            Ok(_) => {}
            Err(error) => {
                complain(format_args!(
                    "epmd: can't learn how the daemon (process {child}) ended: {error}"
                ));
                return Exit::Failure;
            }
        }
    }
}

//! Holding another process still, so that its descriptors are what they are.
//!
//! By ptrace(2), all threads of it: what is traced goes on by itself when its tracer ends, whatever ends
//! it, which a process that was sent SIGSTOP does not. Nothing of it is read or changed. Called by
//! `takeover`, on one thread: that thread is the tracer.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How long the threads may take to stand still. One that waits for a disk may not hear of it before.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long is waited between two looks.
const LOOK_AGAIN: Duration = Duration::from_micros(20);
/// The event of a stop that was asked for, or of one by SIGSTOP (`PTRACE_EVENT_STOP`).
const EVENT_STOP: i32 = 128;

/// A process that stands still; dropping it lets it go on.
#[derive(Debug)]
pub(super) struct Held {
    /// Its threads that are traced; those that stand still, with the signal that each is to get when it
    /// goes on.
    threads: BTreeMap<i32, Option<Still>>,
}

#[derive(Clone, Copy, Debug)]
struct Still {
    signal: Option<Signal>,
}

/// Why a process can't be held.
#[derive(Debug)]
pub(super) enum HoldError {
    /// It is over.
    Gone,
    /// Somebody has stopped it (SIGSTOP), so that it would not go on either.
    Stopped,
    /// It does not come to a stand.
    Restless,
    /// The kernel refuses.
    Refused(Errno),
}

impl From<Errno> for HoldError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::ESRCH | Errno::ECHILD => Self::Gone,
            error => Self::Refused(error),
        }
    }
}

impl Held {
    /// Holds a process, with all its threads.
    pub(super) fn hold(pid: i32) -> Result<Self, HoldError> {
        let deadline = Instant::now() + PATIENCE;
        let mut held = Self {
            threads: BTreeMap::new(),
        };
        loop {
            // A thread that runs may start others, until all stand still.
            let news: Vec<_> = threads(pid)
                .map_err(|_| HoldError::Gone)?
                .into_iter()
                .filter(|thread| !held.threads.contains_key(thread))
                .collect();
            if news.is_empty() {
                break;
            }
            for thread in news {
                match ptrace::seize(Pid::from_raw(thread), Options::empty()) {
                    Ok(()) => {
                        held.threads.insert(thread, None);
                        ptrace::interrupt(Pid::from_raw(thread))?;
                    }
                    // It has ended meanwhile.
                    Err(Errno::ESRCH) if thread != pid => {}
                    Err(error) => return Err(error.into()),
                }
            }
            held.wait(pid, deadline)?;
        }
        if held.threads.contains_key(&pid) {
            Ok(held)
        } else {
            Err(HoldError::Gone)
        }
    }

    /// Waits until all threads stand still.
    fn wait(&mut self, pid: i32, deadline: Instant) -> Result<(), HoldError> {
        loop {
            let moving: Vec<_> = self
                .threads
                .iter()
                .filter_map(|(thread, still)| still.is_none().then_some(*thread))
                .collect();
            if moving.is_empty() {
                return Ok(());
            }
            for thread in moving {
                let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
                match waitpid(Pid::from_raw(thread), Some(flags)) {
                    Ok(WaitStatus::StillAlive) => {}
                    Ok(WaitStatus::PtraceEvent(_, Signal::SIGTRAP, EVENT_STOP)) => {
                        self.threads.insert(thread, Some(Still { signal: None }));
                    }
                    Ok(WaitStatus::PtraceEvent(_, _, EVENT_STOP)) => {
                        self.threads.insert(thread, Some(Still { signal: None }));
                        return Err(HoldError::Stopped);
                    }
                    Ok(WaitStatus::Stopped(_, signal)) => {
                        // It was about to get a signal: it gets it when it goes on.
                        let signal = Some(signal);
                        self.threads.insert(thread, Some(Still { signal }));
                    }
                    Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => {
                        self.threads.remove(&thread);
                        if thread == pid {
                            return Err(HoldError::Gone);
                        }
                    }
                    Ok(_) => {
                        self.threads.insert(thread, Some(Still { signal: None }));
                    }
                    Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if Instant::now() >= deadline {
                return Err(HoldError::Restless);
            }
            sleep(LOOK_AGAIN);
        }
    }

    /// Takes note of the end of a process that was held and has been killed, so that its own parent hears
    /// of it.
    pub(super) fn over(mut self) {
        let deadline = Instant::now() + PATIENCE;
        let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        let mut threads = std::mem::take(&mut self.threads);
        // The end of a process's first thread is told when those of all others have been heard.
        while !threads.is_empty() && Instant::now() < deadline {
            threads.retain(|thread, _| {
                !matches!(
                    waitpid(Pid::from_raw(*thread), Some(flags)),
                    Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD)
                )
            });
            sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A thread that does not stand still can't be let go by word; the end of this process does it.
        for (thread, still) in &self.threads {
            if let Some(still) = still {
                let _ = ptrace::detach(Pid::from_raw(*thread), still.signal);
            }
        }
    }
}

/// A process's threads.
fn threads(pid: i32) -> io::Result<Vec<i32>> {
    let names = fs::read_dir(format!("/proc/{pid}/task"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that counts, a line a time.
    fn counter() -> (Child, impl FnMut() -> u64) {
        let mut child = Command::new("sh")
            .args([
                "-c",
                "i=0; while :; do i=$((i+1)); echo $i; sleep 0.005; done",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let next = move || {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            line.trim().parse().unwrap()
        };
        (child, next)
    }

    fn state(pid: u32) -> char {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let state = stat.rsplit(") ").next().unwrap();
        state.chars().next().unwrap()
    }

    #[test]
    fn a_process_stands_still_while_it_is_held_and_goes_on_then() {
        let (mut child, mut next) = counter();
        next();
        for _ in 0..20 {
            let held = Held::hold(child.id().cast_signed()).unwrap();
            assert_eq!(state(child.id()), 't');
            drop(held);
            assert_ne!(state(child.id()), 't');
            next();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_is_over_or_stopped_is_not_held() {
        assert!(matches!(Held::hold(i32::MAX), Err(HoldError::Gone)));
        let (mut child, mut next) = counter();
        next();
        let pid = Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
        while state(child.id()) != 'T' {
            std::thread::yield_now();
        }
        assert!(matches!(Held::hold(pid.as_raw()), Err(HoldError::Stopped)));
        nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
        next();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

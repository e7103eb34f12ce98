//! A command that asks another host, run to its end in bounded time and memory.
//!
//! Each is a process group of its own, so that whatever it has started goes with it: when it is over, when
//! its time is, and when a signal ends all of this. Called by `mesh`, from one thread for each.

use std::collections::HashSet;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::sys;

/// How often it is looked whether a command that says nothing is over.
const TICK: Duration = Duration::from_millis(20);
/// So much of what a command complains of is kept: its end.
const MOST_COMPLAINTS: usize = 4096;
/// In what its output is read.
const CHUNK: usize = 65_536;

/// The commands that run.
#[derive(Debug, Default)]
pub(super) struct Commands {
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    groups: HashSet<Pid>,
    /// No other may begin.
    ended: bool,
}

/// A command that is over.
#[derive(Debug)]
pub(super) struct Ran {
    /// Its standard output.
    pub(super) output: Vec<u8>,
    /// The end of its standard error.
    pub(super) complaints: Vec<u8>,
    /// How it ended.
    pub(super) status: ExitStatus,
}

impl Commands {
    /// Runs a program with its arguments; its standard output may have `most` bytes. `patience` is the time
    /// until `deadline`, in words.
    ///
    /// # Errors
    /// Why there is no output, in words.
    pub(super) fn run(
        &self,
        words: &[String],
        most: usize,
        deadline: Instant,
        patience: Duration,
    ) -> Result<Ran, String> {
        let Some((program, arguments)) = words.split_first() else {
            return Err("there is no command".to_owned());
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        sys::start_apart(&mut command);
        let child = command
            .spawn()
            .map_err(|error| format!("can't run {program}: {error}"))?;
        let group = Pid::from_raw(child.id().cast_signed());
        if !self.begin(group) {
            end(group);
        }
        let ran = follow(child, group, most, deadline);
        self.lock().groups.remove(&group);
        match ran {
            Err(Trouble::Late) => Err(format!("no answer within {patience:?}")),
            Err(Trouble::TooLong) => Err(format!("its answer is longer than {most} bytes")),
            Err(Trouble::Kernel(error)) => Err(format!("can't wait for {program}: {error}")),
            Ok(ran) => Ok(ran),
        }
    }

    /// Ends all of them, and whatever begins from now on.
    pub(super) fn end(&self) {
        let mut running = self.lock();
        running.ended = true;
        for group in running.groups.drain() {
            end(group);
        }
    }

    /// Whether it may go on.
    fn begin(&self, group: Pid) -> bool {
        let mut running = self.lock();
        running.groups.insert(group);
        !running.ended
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a group whose first process has not been waited for: until then its number is nobody else's.
fn end(group: Pid) {
    let _ = killpg(group, Signal::SIGKILL);
}

/// Why a command was given up.
enum Trouble {
    Late,
    TooLong,
    Kernel(io::Error),
}

/// Reads until it is over, and leaves nothing of it behind.
fn follow(mut child: Child, group: Pid, most: usize, deadline: Instant) -> Result<Ran, Trouble> {
    let read = read(&mut child, group, most, deadline);
    end(group);
    let status = child.wait();
    let (output, complaints) = read?;
    match status {
        Ok(status) => Ok(Ran {
            output,
            complaints,
            status,
        }),
        Err(error) => Err(Trouble::Kernel(error)),
    }
}

/// Both streams, until their ends, or until it is over and nothing comes any more: something in the
/// background may keep them open.
fn read(
    child: &mut Child,
    pid: Pid,
    most: usize,
    deadline: Instant,
) -> Result<(Vec<u8>, Vec<u8>), Trouble> {
    let mut output = Stream::new(child.stdout.take());
    let mut complaints = Stream::new(child.stderr.take());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Trouble::Late);
        }
        let came = wait(&output, &complaints, left.min(TICK));
        if came.0 {
            output.read();
        }
        if came.1 {
            complaints.read();
        }
        if output.bytes.len() > most {
            return Err(Trouble::TooLong);
        }
        let excess = complaints.bytes.len().saturating_sub(MOST_COMPLAINTS);
        complaints.bytes.drain(..excess);
        if came == (false, false) && is_over(pid)? {
            return Ok((output.bytes, complaints.bytes));
        }
    }
}

/// One of a command's streams.
struct Stream<R> {
    /// `None` behind its end.
    reader: Option<R>,
    bytes: Vec<u8>,
}

impl<R: Read + AsFd> Stream<R> {
    fn new(reader: Option<R>) -> Self {
        Self {
            reader,
            bytes: Vec::new(),
        }
    }

    /// Reads what there is, once.
    fn read(&mut self) {
        let Some(reader) = &mut self.reader else {
            return;
        };
        let mut chunk = [0; CHUNK];
        match reader.read(&mut chunk) {
            Ok(0) => self.reader = None,
            Ok(count) => self
                .bytes
                .extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.reader = None,
        }
    }
}

/// Waits until one of them can be read; which can.
fn wait(
    one: &Stream<impl Read + AsFd>,
    other: &Stream<impl Read + AsFd>,
    within: Duration,
) -> (bool, bool) {
    let poll_fd = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let fds = (
        one.reader.as_ref().map(AsFd::as_fd),
        other.reader.as_ref().map(AsFd::as_fd),
    );
    let mut polled: Vec<_> = [fds.0, fds.1].into_iter().flatten().map(poll_fd).collect();
    let within = PollTimeout::try_from(within).unwrap_or(PollTimeout::ZERO);
    if poll(&mut polled, within).unwrap_or(0) == 0 {
        return (false, false);
    }
    let mut ready = polled.iter().map(|fd| fd.any().unwrap_or(false));
    let mut next = |open: bool| open && ready.next().unwrap_or(false);
    (next(fds.0.is_some()), next(fds.1.is_some()))
}

/// Whether it has ended. It is not waited for: its number stays its own.
fn is_over(pid: Pid) -> Result<bool, Trouble> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(pid), flags) {
        Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => Ok(false),
        Ok(_) => Ok(true),
        Err(error) => Err(Trouble::Kernel(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, most: usize, patience: Duration) -> Result<Ran, String> {
        let words = ["sh", "-c", script].map(str::to_owned);
        Commands::default().run(&words, most, Instant::now() + patience, patience)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn what_a_command_says_is_read_to_its_end() {
        let ran = run(
            "head -c 200000 /dev/zero; echo why >&2; exit 3",
            200_000,
            LONG,
        )
        .unwrap();
        assert_eq!(ran.output.len(), 200_000);
        assert_eq!(ran.complaints, b"why\n");
        assert_eq!(ran.status.code(), Some(3));
        // Complaints without end cost no memory, and the end of them is kept.
        let ran = run("head -c 1000000 /dev/zero >&2; echo why >&2", 9, LONG).unwrap();
        assert_eq!(ran.complaints.len(), MOST_COMPLAINTS);
        assert!(ran.complaints.ends_with(b"why\n"));
    }

    #[test]
    fn a_command_is_given_up_when_it_is_late_or_says_too_much() {
        let begun = Instant::now();
        let late = run("sleep 1000 & wait", 9, Duration::from_millis(300));
        assert_eq!(late.unwrap_err(), "no answer within 300ms");
        let long = run("exec cat /dev/zero", 1000, LONG);
        assert_eq!(long.unwrap_err(), "its answer is longer than 1000 bytes");
        let missing = Commands::default().run(&["/no/such".into()], 9, Instant::now() + LONG, LONG);
        assert!(missing.unwrap_err().starts_with("can't run /no/such: "));
        assert!(begun.elapsed() < LONG);
    }

    /// As a master of ssh's connections does it, which stays when ssh ends.
    #[test]
    fn what_stays_in_the_background_holds_nobody_up() {
        let begun = Instant::now();
        let ran = run("echo said; sleep 1000 &", 9, LONG).unwrap();
        assert_eq!(ran.output, b"said\n");
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn nothing_begins_after_the_end() {
        let commands = Commands::default();
        commands.end();
        let words = ["sleep", "1000"].map(str::to_owned);
        let ran = commands
            .run(&words, 9, Instant::now() + LONG, LONG)
            .unwrap();
        assert_eq!(ran.status.code(), None, "it was ended by a signal");
    }
}

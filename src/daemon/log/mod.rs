//! Where lines go: journald, syslog, or JSON or text on stderr or in a file of the operator's.
//!
//! [`Log`] is a handle that never blocks and never fails: lines wait in a bounded channel for one
//! thread, which is the only place that writes. Where no thread can be had, each line is written where it
//! arises, if its reader takes it at once (`here`). When the log's reader does not keep up, lines are
//! counted instead and the count is told. Decides nothing about what is told (`audit` does) and holds
//! no answer up. `server` and `start` tell their lines here; threads don't survive a fork, so it is
//! started after `-daemon` has forked.

mod file;
mod here;
mod line;
mod lines;
mod opened;
mod target;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::config::Mode;
use crate::core::audit::Event;
use crate::core::lent::Reach;
use here::Here;

pub use crate::core::lent::Level;
pub use line::{
    Destination, REACHABLE_MESSAGE_ID, REFUSED_MESSAGE_ID, TAKEN_MESSAGE_ID, UNREACHABLE_MESSAGE_ID,
};
use line::{Line, Shared, What, lock};
use opened::Opened;
pub use target::unwritten;

/// Lines that wait for the log's reader, at most.
const CAPACITY: usize = 1024;
/// The end of the daemon waits so long for lines to be written.
const PATIENCE: Duration = Duration::from_secs(1);
/// The start waits so long for the operator's file to be opened, to hear whether it can be.
const PATIENCE_WITH_A_FILE: Duration = Duration::from_millis(500);
/// How long the thread waits for the reader of a pipe.
const PATIENCE_WITH_A_PIPE: Duration = Duration::from_secs(1);
/// Formatting and libc's syslog(3) need little; the default of 2 MiB would be address space for nothing.
const STACK: usize = 128 * 1024;

/// A handle to the log; clones are handles to the same one. Dropping the last one writes what waits,
/// as [`Log::close`] does.
#[derive(Clone, Debug)]
pub struct Log {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` once it is closed.
    lines: Mutex<Option<Way>>,
    /// Ends when the thread does.
    ended: Mutex<Receiver<()>>,
    shared: Arc<Shared>,
    patience: Duration,
}

/// How lines leave.
#[derive(Debug)]
enum Way {
    Thread(SyncSender<Line>),
    Here(Box<Here>),
}

impl Log {
    /// Starts the log's thread; without one, where none can be had.
    #[must_use]
    pub fn start(to: impl Into<Destination>, mode: Mode) -> Self {
        Self::start_holding(to, mode, None).0
    }

    /// The same with what [`early`] gave. Gives what is wrong with the operator's file as well, where that is
    /// known soon: of a daemon that is to let go of who started it, nobody else may hear it.
    #[must_use]
    pub fn start_holding(
        to: impl Into<Destination>,
        mode: Mode,
        early: Option<File>,
    ) -> (Self, Option<String>) {
        let to = to.into();
        let has_file = to.file.is_some();
        let early = Arc::new(Mutex::new(early));
        let open = move |to: &Destination, can_wait| {
            let early = lock(&early).take();
            let patience = if can_wait {
                PATIENCE_WITH_A_PIPE
            } else {
                Duration::ZERO
            };
            target::open(to, mode, early, patience)
        };
        let (log, begun) = Self::start_with(to, open, PATIENCE);
        let wrong = has_file.then(|| begun.recv_timeout(PATIENCE_WITH_A_FILE).ok().flatten());
        (log, wrong.flatten())
    }

    /// `open` is also told whether its caller can wait. Gives where the thread says that it has opened it, and
    /// what is wrong with it.
    fn start_with(
        to: Destination,
        open: impl Fn(&Destination, bool) -> Opened + Clone + Send + 'static,
        patience: Duration,
    ) -> (Self, Receiver<Option<String>>) {
        let (lines, waiting) = mpsc::sync_channel(CAPACITY);
        let (ends, ended) = mpsc::sync_channel(0);
        let (begins, begun) = mpsc::sync_channel(1);
        let shared = Arc::new(Shared {
            lost: AtomicU64::new(0),
            to: Mutex::new((0, to.clone())),
        });
        let (seen, opens) = (Arc::clone(&shared), open.clone());
        let thread = thread::Builder::new()
            .name("epmd-log".into())
            .stack_size(STACK)
            .spawn(move || {
                write_all(&waiting, &seen, |to| opens(to, true), &begins);
                drop::<SyncSender<()>>(ends);
            });
        let (way, failed) = match thread {
            Ok(_) => (Way::Thread(lines), None),
            Err(error) => {
                let here = Here::new(to, move |to| open(to, false));
                (Way::Here(Box::new(here)), Some(error))
            }
        };
        let log = Self {
            inner: Arc::new(Inner {
                lines: Mutex::new(Some(way)),
                ended: Mutex::new(ended),
                shared,
                patience,
            }),
        };
        if let Some(error) = failed {
            log.note(
                Level::Warning,
                format!(
                    "no thread can be had for the log ({error}): a line that its reader does not take at once is \
                     lost; raise the limit of processes (LimitNPROC=, ulimit -u) or of memory"
                ),
            );
        }
        (log, begun)
    }

    /// Tells a line of the audit.
    pub fn tell(&self, event: Event) {
        self.inner.send(What::Event(event));
    }

    /// Tells a line about a node of another host.
    pub fn tell_reach(&self, reach: Reach) {
        self.inner.send(What::Reach(reach));
    }

    /// Tells a line of our own. What it quotes of a file or a system call can't forge a line: it
    /// keeps its newlines, but what follows one is indented or stays in its field.
    pub fn note(&self, level: Level, text: impl Into<String>) {
        self.inner.send(What::Note(level, text.into()));
    }

    /// Lines go there from the next one on (SIGHUP). A file is opened anew, also where it is the same.
    pub fn set_destination(&self, to: impl Into<Destination>) {
        let mut shared = lock(&self.inner.shared.to);
        shared.0 = shared.0.wrapping_add(1);
        shared.1 = to.into();
    }

    /// Opens the operator's file anew with the next line (SIGHUP): it may have been renamed away.
    pub fn open_again(&self) {
        let mut shared = lock(&self.inner.shared.to);
        shared.0 = shared.0.wrapping_add(1);
    }

    /// Writes what waits, for at most a second: a reader that hangs does not keep the daemon from
    /// ending. What is told afterwards goes nowhere.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Inner {
    fn send(&self, what: What) {
        let at = SystemTime::now();
        let line = Line { at, what };
        match &mut *lock(&self.lines) {
            None => {}
            Some(Way::Thread(lines)) => {
                if let Err(TrySendError::Full(_)) = lines.try_send(line) {
                    self.shared.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            Some(Way::Here(here)) => here.write(&line, &self.shared),
        }
    }

    fn close(&self) {
        match lock(&self.lines).take() {
            None => {}
            Some(Way::Here(mut here)) => here.tell_lost(&self.shared),
            Some(Way::Thread(lines)) => {
                drop(lines);
                // Nothing is ever sent: it ends when the thread does, or time is up.
                let (Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) =
                    lock(&self.ended).recv_timeout(self.patience);
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// What is to be opened before this process shuts itself in, or lets go of its standard error.
#[must_use]
pub fn early(to: &Destination) -> Option<File> {
    to.file.as_deref().and_then(file::early)
}

/// The thread: writes lines until the last handle is gone and nothing waits.
fn write_all(
    waiting: &Receiver<Line>,
    shared: &Shared,
    open: impl Fn(&Destination) -> Opened,
    begun: &SyncSender<Option<String>>,
) {
    let (mut said, mut to) = lock(&shared.to).clone();
    let mut target = open(&to);
    // The one who started us may have gone on already.
    let _ = begun.try_send(target.begin());
    let mut since_count = 0;
    loop {
        let line = match waiting.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                since_count = 0;
                target.tell_lost(shared);
                let Ok(line) = waiting.recv() else { break };
                line
            }
        };
        let wanted = lock(&shared.to).0;
        if wanted != said {
            let before = to;
            (said, to) = lock(&shared.to).clone();
            if to == before {
                target.open_again();
            } else {
                target = open(&to);
                target.begin();
            }
        }
        target.write(&line);
        since_count += 1;
        if since_count == CAPACITY {
            // It never got empty: the reader is behind all the time, and is told all the same.
            since_count = 0;
            target.tell_lost(shared);
        }
    }
    target.tell_lost(shared);
}

//! Where lines go: journald, syslog, or JSON or text on stderr.
//!
//! [`Log`] is a handle that never blocks and never fails: lines wait in a bounded channel for one
//! thread, which is the only place that writes. Where no thread can be had, each line is written where it
//! arises, if its reader takes it at once (`here`). When the log's reader does not keep up, lines are
//! counted instead and the count is told. Decides nothing about what is told (`audit` does) and holds
//! no answer up. `server` and `start` tell their lines here; threads don't survive a fork, so it is
//! started after `-daemon` has forked.

mod here;
mod line;
mod lines;
mod target;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::config::{Format, Mode};
use crate::core::audit::Event;
use crate::core::lent::Reach;
use here::Here;

pub use crate::core::lent::Level;
use line::{Line, Opened, Shared, What, lock, opened, tell_lost, write};
pub use line::{
    REACHABLE_MESSAGE_ID, REFUSED_MESSAGE_ID, TAKEN_MESSAGE_ID, UNREACHABLE_MESSAGE_ID,
};
pub use target::unwritten;

/// Lines that wait for the log's reader, at most.
const CAPACITY: usize = 1024;
/// The end of the daemon waits so long for lines to be written.
const PATIENCE: Duration = Duration::from_secs(1);
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
    pub fn start(format: Format, mode: Mode) -> Self {
        Self::start_with(format, move |format| target::open(format, mode), PATIENCE)
    }

    fn start_with(
        format: Format,
        open: impl Fn(Format) -> Opened + Clone + Send + 'static,
        patience: Duration,
    ) -> Self {
        let (lines, waiting) = mpsc::sync_channel(CAPACITY);
        let (ends, ended) = mpsc::sync_channel(0);
        let shared = Arc::new(Shared {
            lost: AtomicU64::new(0),
            format: Mutex::new(format),
        });
        let (seen, opens) = (Arc::clone(&shared), open.clone());
        let thread = thread::Builder::new()
            .name("epmd-log".into())
            .stack_size(STACK)
            .spawn(move || {
                write_all(&waiting, &seen, opens);
                drop::<SyncSender<()>>(ends);
            });
        let (way, failed) = match thread {
            Ok(_) => (Way::Thread(lines), None),
            Err(error) => (Way::Here(Box::new(Here::new(format, open))), Some(error)),
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
        log
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

    /// Changes over to another format from the next line on (SIGHUP).
    pub fn set_format(&self, format: Format) {
        *lock(&self.inner.shared.format) = format;
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

/// The thread: writes lines until the last handle is gone and nothing waits.
fn write_all(waiting: &Receiver<Line>, shared: &Shared, open: impl Fn(Format) -> Opened) {
    let mut format = *lock(&shared.format);
    let mut dispatch = opened(open(format)).dispatch;
    let mut since_count = 0;
    loop {
        let line = match waiting.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                since_count = 0;
                tell_lost(&dispatch, shared);
                let Ok(line) = waiting.recv() else { break };
                line
            }
        };
        let wanted = *lock(&shared.format);
        if wanted != format {
            format = wanted;
            dispatch = opened(open(format)).dispatch;
        }
        write(&dispatch, &line);
        since_count += 1;
        if since_count == CAPACITY {
            // It never got empty: the reader is behind all the time, and is told all the same.
            since_count = 0;
            tell_lost(&dispatch, shared);
        }
    }
    tell_lost(&dispatch, shared);
}

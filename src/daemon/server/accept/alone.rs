//! A thread that waits in accept(2) for one listening socket, and does nothing else.
//!
//! Whoever wants something else of it (a sign of life, its end) leaves a word and interrupts it by a signal
//! that is for nothing else. A signal that comes just before it waits is lost, so it is sent again and again
//! until the thread has answered. Started by `accept`.

use std::os::unix::thread::JoinHandleExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollTimeout, poll};
use nix::sys::pthread::pthread_kill;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::accepting::{Accepting, Listener, PAUSE_AFTER_ERROR, STACK};
use crate::daemon::server::request::READ_AT_ONCE;
use crate::daemon::server::signals;

/// Nobody wants anything.
const NOTHING: u8 = 0;
/// A sign of life is wanted.
const ALIVE: u8 = 1;
/// It is to end.
const END: u8 = 2;
/// How long it may take to hear a signal before it is sent once more.
const AGAIN: Duration = Duration::from_millis(2);
/// How long its end is waited for: it may be about to answer a request, and to wait for those who have to
/// make room.
const PATIENCE: Duration = Duration::from_millis(500);

/// The thread, as the event loop sees it.
#[derive(Debug)]
pub(super) struct Alone {
    pulse: Pulse,
    ended: oneshot::Receiver<()>,
}

/// Reaches the thread.
#[derive(Clone, Debug)]
pub(super) struct Pulse {
    /// Keeps the thread's number its own, also once it has ended.
    thread: Arc<JoinHandle<()>>,
    word: Arc<Word>,
}

/// What is wanted of the thread, and its answer.
#[derive(Debug)]
struct Word {
    wanted: AtomicU8,
    heard: Notify,
}

impl Alone {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread can be had, or the socket can't be waited for: gives it back.
    pub(super) fn start(accepting: Accepting, listener: Listener) -> Result<Self, Listener> {
        if listener.socket.set_nonblocking(false).is_err() {
            return Err(listener);
        }
        let word = Arc::new(Word {
            wanted: AtomicU8::new(NOTHING),
            heard: Notify::new(),
        });
        let (says_so, ended) = oneshot::channel::<()>();
        // What it is to do is handed over when the thread is there, so as not to be lost where none is.
        let (hands_over, work) = mpsc::channel::<(Accepting, Listener, Arc<Word>)>();
        let thread = thread::Builder::new()
            .name("epmd-accept".into())
            .stack_size(STACK)
            .spawn(move || {
                if let Ok((accepting, listener, word)) = work.recv()
                    && signals::may_interrupt_this_thread().is_ok()
                {
                    run(accepting, listener, &word);
                }
                drop(says_so);
            });
        let Ok(thread) = thread else {
            return Err(listener);
        };
        if let Err(mpsc::SendError((_, listener, _))) =
            hands_over.send((accepting, listener, Arc::clone(&word)))
        {
            return Err(listener);
        }
        let pulse = Pulse {
            thread: Arc::new(thread),
            word,
        };
        Ok(Self { pulse, ended })
    }

    /// What feels whether the thread is alive.
    pub(super) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Whether the thread has ended, whatever ended it.
    pub(super) fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // It never says anything: that it can't any more is the sign.
        Pin::new(&mut self.ended).poll(context).map(|_| ())
    }

    /// Has the thread accept what has come already, close the socket and end.
    pub(super) fn is_to_end(&self) {
        self.pulse.word.wanted.store(END, Ordering::Release);
        self.pulse.interrupt();
    }

    /// Waits until the thread has ended as it [was told](Self::is_to_end).
    pub(super) async fn end(&mut self) {
        let all = async {
            while timeout(AGAIN, &mut self.ended).await.is_err() {
                self.pulse.interrupt();
            }
        };
        // Where it can't be interrupted, it ends with the process.
        let _ = timeout(PATIENCE, all).await;
    }
}

impl Pulse {
    /// Waits for a sign of life.
    pub(super) async fn felt(&self) {
        // Where its end is wanted, that is what it hears.
        let _ =
            self.word
                .wanted
                .compare_exchange(NOTHING, ALIVE, Ordering::AcqRel, Ordering::Acquire);
        loop {
            self.interrupt();
            if timeout(AGAIN, self.word.heard.notified()).await.is_ok() {
                return;
            }
        }
    }

    fn interrupt(&self) {
        // Where it fails, it is tried again.
        let _ = pthread_kill(self.thread.as_pthread_t(), signals::INTERRUPTION);
    }
}

/// Accepts connections until it is told to end: no error ends it, and none makes it spin.
fn run(mut accepting: Accepting, listener: Listener, word: &Word) {
    let mut buffer = [0; READ_AT_ONCE];
    loop {
        match word.wanted.load(Ordering::Acquire) {
            NOTHING => {}
            END => break,
            _ => word.answer(),
        }
        if accepting.one(&listener, &mut buffer).is_err() {
            wait(PAUSE_AFTER_ERROR);
        }
    }
    accepting.finish(listener, &mut buffer);
}

impl Word {
    fn answer(&self) {
        let _ = self
            .wanted
            .compare_exchange(ALIVE, NOTHING, Ordering::AcqRel, Ordering::Acquire);
        self.heard.notify_one();
    }
}

/// Waits so long, or until it is interrupted.
fn wait(time: Duration) {
    let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    // Where it can't wait, it has not waited: the caller's loop goes on in any case.
    let _ = poll(&mut [], time);
}

//! The line between the event loop and the thread that watches: what they say to each other.
//!
//! It rings by an eventfd(2), which the thread waits for beside its connections; what there is to be heard
//! stands in flags. Used by `accept`, also for the watchdog, which asks whether the thread is alive.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::Notify;

/// What the event loop and the thread say to each other.
#[derive(Debug)]
pub(super) struct Line {
    /// An event of the thread's.
    pub(super) rings: EventFd,
    /// The thread is to end.
    is_over: AtomicBool,
    /// The thread is to close the sockets that give way.
    is_late: AtomicBool,
    /// The thread has heard it ring.
    heard: Notify,
}

impl Line {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            rings: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            is_over: AtomicBool::new(false),
            is_late: AtomicBool::new(false),
            heard: Notify::new(),
        })
    }

    /// Tells the thread to end.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether the thread is to end.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Tells the thread to close the sockets that give way.
    pub(super) fn close_the_leaving(&self) {
        self.is_late.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether the thread is to close the sockets that give way.
    pub(super) fn is_late(&self) -> bool {
        self.is_late.load(Ordering::Acquire)
    }

    /// Heard by the thread: says so, and listens for the next ring.
    pub(super) fn hear(&self) {
        let _ = self.rings.read();
        self.heard.notify_one();
    }

    fn ring(&self) {
        /// A write that failed is made again: who does not hear it ring never ends.
        const TRIES: u32 = 8;
        // It goes on failing only where it has rung 2^64 times and nobody came.
        let _ = (0..TRIES).any(|_| self.rings.write(1).is_ok());
    }

    /// Waits for a sign of life.
    pub(super) async fn sign_of_life(&self) {
        self.ring();
        self.heard.notified().await;
    }
}

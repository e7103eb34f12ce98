//! Accepting connections: one, and then what has to be done with it, before the next.
//!
//! A batch accepted first would be lost as a whole if the process were killed. The first few listening
//! sockets have a thread each that does nothing else (`alone`), so that between two lookups nothing is
//! asked but for the next connection; one more thread watches the others, and hears of the ends of the
//! connections that hold names (`watch`). What has to be waited for goes to the event loop (`slow`).
//! Started by `server`.

mod accepting;
mod alone;
mod watch;

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Poll;

use super::line::Line;
use super::state::Server;
use accepting::Accepting;
pub(super) use accepting::Listener;
use alone::Alone;
use watch::Watch;

/// So many listening sockets have a thread of their own: each family's two queues at the wildcard. Who
/// listens on more named addresses than that has the others share one.
const MOST_ALONE: usize = 4;

/// The listening sockets.
pub(super) struct Listening {
    /// Those that last.
    pub(super) staying: Vec<Listener>,
    /// How many of these, the last ones, are a socket unit's.
    pub(super) of_a_unit: usize,
    /// Those that give way: nobody comes to them any more but who had begun to.
    pub(super) leaving: Vec<Listener>,
}

/// All who accept, as the event loop sees them.
#[derive(Debug)]
pub(super) struct Acceptor {
    alone: Vec<Alone>,
    watch: Watch,
}

impl Acceptor {
    /// Starts the threads. `local_decides`: whether requests are decided by the address that they came to
    /// as well (`Rules::served`). `arrivals` were accepted by another epmd, and come first.
    ///
    /// # Errors
    /// What keeps the sockets from being watched. A thread that can't be had is done without.
    pub(super) fn start(
        server: &Arc<Server>,
        listening: Listening,
        local_decides: bool,
        arrivals: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        let accepting = Accepting::new(Arc::clone(server), local_decides);
        accepting.clone().welcome_back(arrivals);
        let (mut alone, mut shared) = (Vec::new(), Vec::new());
        // What process 1 accepts from as well, when it empties a unit's queue, stays as it wants it: without
        // waiting.
        let own = listening.staying.len().saturating_sub(listening.of_a_unit);
        for (place, listener) in listening.staying.into_iter().enumerate() {
            if place >= own || alone.len() == MOST_ALONE || !shared.is_empty() {
                shared.push(listener);
                continue;
            }
            match Alone::start(accepting.clone(), listener) {
                Ok(thread) => alone.push(thread),
                // What keeps it from a thread of its own is said where the last one can't be had either.
                Err(listener) => shared.push(listener),
            }
        }
        let watch = Watch::start(accepting, shared, listening.leaving)?;
        Ok(Self { alone, watch })
    }

    /// What gives a sign of life once all of them have.
    pub(super) fn pulse(&self) -> Pulse {
        Pulse {
            alone: self.alone.iter().map(Alone::pulse).collect(),
            watch: self.watch.line(),
        }
    }

    /// Waits until one of them has ended, whatever ended it.
    pub(super) async fn ended(&mut self) {
        poll_fn(|context| {
            let mut alone = self.alone.iter_mut();
            let one = alone.any(|thread| thread.poll_ended(context).is_ready());
            if one {
                return Poll::Ready(());
            }
            self.watch.poll_ended(context)
        })
        .await;
    }

    /// Has them accept what has come already, close the sockets and end.
    pub(super) async fn stop(mut self) {
        for thread in &self.alone {
            thread.is_to_end();
        }
        for thread in &mut self.alone {
            thread.end().await;
        }
        self.watch.end().await;
    }
}

/// Feels whether they are alive.
#[derive(Debug)]
pub(super) struct Pulse {
    alone: Vec<alone::Pulse>,
    watch: Arc<Line>,
}

impl Pulse {
    /// Waits until each of them has given a sign of life.
    pub(super) async fn felt(&self) {
        for thread in &self.alone {
            thread.felt().await;
        }
        self.watch.sign_of_life().await;
    }
}

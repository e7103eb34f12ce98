//! Those who follow the daemon, and what each is told of a change: its queue.
//!
//! A change is put into each follower's queue under the state's lock, without a wait; `follow` sends it. Who
//! lets its queue fill up is let go: it comes again, and is told the whole state anew. Nothing is made or kept
//! while nobody follows. Called by whatever changes names or lists: `state`, `request`, `reload`.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::holders::Held;
use crate::core::follow::{Connection, Registration, Told};
use crate::core::registry;
use crate::core::status::InForce;

/// How many may follow at once: the guard, and who looks on.
const FOLLOWERS: usize = 4;
/// How many changes wait for a follower.
const CHANGES: usize = 4096;

/// Those who follow.
#[derive(Debug, Default)]
pub(super) struct Followers(Vec<Sender<Arc<Change>>>);

/// What is told of. Networks are many: they stay where they are until they are sent.
#[derive(Debug)]
pub(super) enum Change {
    Told(Told),
    Access(Arc<InForce>),
}

impl Followers {
    /// Tells all of a change, if there is anybody.
    pub(super) fn tell(&mut self, told: impl FnOnce() -> Told) {
        if !self.0.is_empty() {
            self.send(Change::Told(told()));
        }
    }

    /// Tells all that the lists have changed.
    pub(super) fn tell_access(&mut self, in_force: &Arc<InForce>) {
        if !self.0.is_empty() {
            self.send(Change::Access(Arc::clone(in_force)));
        }
    }

    fn send(&mut self, change: Change) {
        let change = Arc::new(change);
        // Who is gone, or does not keep up, is left out: its queue ends, and so does it.
        self.0
            .retain(|follower| follower.try_send(Arc::clone(&change)).is_ok());
    }

    /// The changes from now on; `None` where too many follow already.
    pub(super) fn join(&mut self) -> Option<Receiver<Arc<Change>>> {
        self.0.retain(|follower| !follower.is_closed());
        if self.0.len() >= FOLLOWERS {
            return None;
        }
        let (sender, changes) = channel(CHANGES);
        self.0.push(sender);
        Some(changes)
    }
}

/// A registration as it is told.
pub(super) fn registration(registered: &registry::Registration<'_, &Held>) -> Registration {
    let stream = registered.holder.stream();
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let ends = stream.peer_addr().ok().zip(stream.local_addr().ok());
    Registration {
        name: String::from_utf8_lossy(registered.node.name).into_owned(),
        port: registered.node.port,
        connection: ends.map(|(node, epmd)| Connection {
            node: canonical(node),
            epmd: canonical(epmd),
        }),
    }
}

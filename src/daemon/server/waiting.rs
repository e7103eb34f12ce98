//! The places of connections that have to be waited for: who gets one, who makes room, and when all of
//! them are gone.
//!
//! `slots` decides; here its decisions reach the connections, which are tasks of the event loop (`slow`).
//! Moves no bytes. The lock is its own, and held for one step.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::budget::{Budget, KEPT_BACK};
use crate::config::Limits;
use crate::core::counters::Counters;
use crate::core::outcome::{Ends, Setting};
use crate::core::slots::{self, Entry, Slots, Source};

/// How many connections that have to make room may still be there when the next one is accepted.
const MOST_LEAVING: usize = KEPT_BACK / 4;
/// How many may be there for this host's sake while the event loop does not get to let them go.
const MOST_LEAVING_FOR_THIS_HOST: usize = KEPT_BACK / 2;
/// How long the event loop may take to let them go before nobody else makes room for strangers.
const PATIENCE_WITH_THE_LEAVING: Duration = Duration::from_millis(20);

/// All places.
#[derive(Debug)]
pub(super) struct Waiting {
    table: Mutex<Table>,
    /// One that had to make room has left.
    left: Condvar,
    /// The last connection has left.
    idle: Notify,
    /// The daemon ends: who has not begun to ask may go.
    ending: Notify,
    /// The same, for a connection that begins to wait after that was told.
    is_ending: AtomicBool,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Table {
    slots: Slots,
    /// How to tell a connection that it has to make room.
    bells: HashMap<slots::Id, oneshot::Sender<Setting>>,
    /// How many have been told so, and have not left yet: their descriptors are still in use.
    leaving: usize,
    /// The event loop is held up: it did not let them go in time.
    behind: bool,
    /// How long a request may take, and its answer.
    request_timeout: Duration,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: slots::Id,
    waiting: Arc<Waiting>,
    bell: oneshot::Receiver<Setting>,
}

impl Waiting {
    pub(super) fn new(budget: &Budget, limits: &Limits, counters: Arc<Counters>) -> Self {
        Self {
            table: Mutex::new(Table {
                slots: Slots::new(budget.connections, limits.per_source),
                bells: HashMap::new(),
                leaving: 0,
                behind: false,
                request_timeout: limits.request_timeout,
            }),
            left: Condvar::new(),
            idle: Notify::new(),
            ending: Notify::new(),
            is_ending: AtomicBool::new(false),
            counters,
        }
    }

    /// New limits, for newcomers: who is in stays.
    pub(super) fn reconfigure(&self, budget: &Budget, limits: &Limits) {
        let mut table = self.table();
        table
            .slots
            .set_limits(budget.connections, limits.per_source);
        table.request_timeout = limits.request_timeout;
    }

    /// A place for a connection that has to be waited for; or the limit that leaves no room for it.
    pub(super) fn enter(self: &Arc<Self>, ends: Ends) -> Result<Place, Setting> {
        let source = (!ends.is_this_host()).then(|| Source::of(ends.peer().ip()));
        let mut table = self.table();
        if let Some(limit) = table.no_more_leaving(source) {
            return Err(limit);
        }
        let id = match table.slots.enter(source) {
            Entry::Free(id) => id,
            Entry::InPlaceOf { id, out, limit } => {
                if let Some(bell) = table.bells.remove(&out) {
                    // Nobody hears it where that connection is leaving anyway.
                    let _ = bell.send(limit);
                    table.leaving = table.leaving.saturating_add(1);
                }
                id
            }
            Entry::Full(limit) => return Err(limit),
        };
        let (rings, bell) = oneshot::channel();
        table.bells.insert(id, rings);
        self.counters.set_open(table.slots.used());
        Ok(Place {
            id,
            waiting: Arc::clone(self),
            bell,
        })
    }

    fn leave(&self, id: slots::Id) {
        let mut table = self.table();
        table.slots.leave(id);
        if table.bells.remove(&id).is_none() {
            table.leaving = table.leaving.saturating_sub(1);
            table.behind &= table.leaving > MOST_LEAVING;
            self.left.notify_one();
        }
        self.counters.set_open(table.slots.used());
        if table.slots.used() == 0 {
            self.idle.notify_one();
        }
    }

    /// Waits while many of those who have to make room are still there: a flood must not run ahead of
    /// them until there is no descriptor left. Not for the event loop, which is where they leave; and not
    /// for long, as this host's requests wait behind: where the loop is held up, it is the newcomers that
    /// have to go until it has caught up ([`Self::enter`]).
    pub(super) fn wait_for_the_leaving(&self) {
        let many = |table: &mut Table| table.leaving > MOST_LEAVING && !table.behind;
        let waited = self
            .left
            .wait_timeout_while(self.table(), PATIENCE_WITH_THE_LEAVING, many);
        let (mut table, time) = waited.unwrap_or_else(PoisonError::into_inner);
        if time.timed_out() {
            table.behind = true;
        }
    }

    /// How long a request may take, and its answer.
    pub(super) fn request_timeout(&self) -> Duration {
        self.table().request_timeout
    }

    /// What counts how many there are.
    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// How many connections are open, and how many may be.
    pub(super) fn in_use(&self) -> (usize, usize) {
        let table = self.table();
        (table.slots.used(), table.slots.limit())
    }

    /// The daemon ends: who has not begun to ask goes, the others are waited for.
    pub(super) async fn end(&self, patience: Duration) {
        self.is_ending.store(true, Ordering::Relaxed);
        self.ending.notify_waiters();
        let all_gone = async {
            while self.in_use().0 > 0 {
                self.idle.notified().await;
            }
        };
        // Who is still there then has had its time.
        let _ = timeout(patience, all_gone).await;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The limit that is reached, where nobody may be sent away for a newcomer because those who were sent
    /// before are still there.
    fn no_more_leaving(&self, source: Option<Source>) -> Option<Setting> {
        let most = match source {
            Some(_) if self.behind => MOST_LEAVING,
            _ => MOST_LEAVING_FOR_THIS_HOST,
        };
        (self.leaving > most)
            .then(|| self.slots.reached(source))
            .flatten()
    }
}

impl Place {
    /// The connection's request has come: it makes room for nobody any more who sends none.
    pub(super) fn is_answering(&self) {
        self.waiting.table().slots.answering(self.id);
    }

    /// Waits until the connection has to make room, and says which limit is reached.
    pub(super) async fn lost(&mut self) -> Setting {
        match (&mut self.bell).await {
            Ok(limit) => limit,
            // Its other end is kept for as long as the connection is here.
            Err(_) => std::future::pending().await,
        }
    }

    /// The same; or until the daemon ends (`None`), if it is not ending already.
    pub(super) async fn lost_or_ending(&mut self) -> Option<Setting> {
        let waiting = Arc::clone(&self.waiting);
        tokio::select! {
            biased;
            limit = self.lost() => Some(limit),
            () = waiting.ending.notified() => None,
        }
    }

    /// Whether the daemon ends.
    pub(super) fn is_ending(&self) -> bool {
        self.waiting.is_ending.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn ends(peer: &str) -> Ends {
        let peer = format!("{peer}:40000").parse().unwrap();
        Ends::new(peer, "10.0.3.5:4369".parse().unwrap())
    }

    #[test]
    fn an_event_loop_that_is_held_up_holds_nobody_up() {
        let limits = Limits {
            connections: 100,
            per_source: 8,
            ..Limits::default()
        };
        let budget = Budget::new(&limits, 10_000, 2);
        let waiting = Arc::new(Waiting::new(&budget, &limits, Arc::default()));
        let stranger = ends("203.0.113.9");
        // Nobody of these ever gets to leave.
        let mut places = Vec::new();
        let start = Instant::now();
        let mut refused = 0;
        for _ in 0..1000 {
            match waiting.enter(stranger) {
                Ok(place) => places.push(place),
                Err(Setting::PerSource) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
            waiting.wait_for_the_leaving();
        }
        assert!(start.elapsed() < Duration::from_secs(2));
        assert_eq!(places.len(), 8 + MOST_LEAVING + 1);
        assert_eq!(refused, 1000 - places.len());
        // This host, and strangers for whom nobody has to make room, go on.
        for other in ["127.0.0.1", "203.0.113.10"] {
            assert!(waiting.enter(ends(other)).is_ok(), "{other}");
        }
        // Once they have left, all is as before.
        drop(places);
        assert!(waiting.enter(stranger).is_ok());
        assert!(!waiting.table().behind);
    }
}

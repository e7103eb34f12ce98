//! How many connections and registrations the process's descriptors are good for.
//!
//! Requests and registrations have budgets of their own, so that strangers never take a slot that a
//! local node needs. Pure but for raising the limit; called by `server` at the start and at a reload.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Limits;

/// Descriptors kept back for everything else: standard streams, event loop, signals, log, and
/// whoever looks at the daemon from outside; and for connections that are about to be closed.
pub(super) const KEPT_BACK: usize = 64;
/// Of what is left, requests take at most one part in so many.
const REQUEST_SHARE: usize = 4;

/// The limits in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Connections open at once, registrations apart.
    pub connections: usize,
    /// Names at once.
    pub registrations: usize,
    /// Descriptors that the process may have.
    pub descriptors: usize,
}

impl Budget {
    /// The operator's limits, as far as `descriptors` are good for them beside `listeners` sockets.
    #[must_use]
    pub fn new(limits: &Limits, descriptors: usize, listeners: usize) -> Self {
        let left = descriptors
            .saturating_sub(KEPT_BACK)
            .saturating_sub(listeners);
        let connections = limits.connections.min(left / REQUEST_SHARE).max(1);
        let registrations = limits
            .registrations
            .min(left.saturating_sub(connections))
            .max(1);
        Self {
            connections,
            registrations,
            descriptors,
        }
    }

    /// What the operator should know where the limits of the file can't be had.
    #[must_use]
    pub fn shortfall(&self, limits: &Limits) -> Option<String> {
        let short =
            self.connections < limits.connections || self.registrations < limits.registrations;
        short.then(|| {
            format!(
                "the limit of {} descriptors is good for {} registrations (limits.registrations = {}) and \
                 {} connections (limits.connections = {}); raise it (LimitNOFILE=, ulimit -Hn) to have more",
                self.descriptors,
                self.registrations,
                limits.registrations,
                self.connections,
                limits.connections,
            )
        })
    }
}

/// Raises the soft limit of descriptors to the hard one, and says what it is then.
#[must_use]
pub fn raise_descriptor_limit() -> usize {
    /// The least that POSIX promises, where the kernel tells nothing.
    const LEAST: usize = 20;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return LEAST;
    };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const DEFAULT: Limits = Limits {
        connections: 1024,
        per_source: 64,
        request_timeout: Duration::from_secs(5),
        registrations: 65_536,
    };

    #[test]
    fn enough_descriptors_give_what_was_asked_for() {
        let budget = Budget::new(&DEFAULT, 70_000, 2);
        assert_eq!((budget.connections, budget.registrations), (1024, 65_536));
        assert_eq!(budget.shortfall(&DEFAULT), None);
    }

    #[test]
    fn few_descriptors_are_shared_and_registrations_get_the_most() {
        for descriptors in [0, 64, 65, 100, 1024, 16_384, 20_000] {
            let budget = Budget::new(&DEFAULT, descriptors, 4);
            assert!(budget.connections >= 1 && budget.registrations >= 1);
            if descriptors > 100 {
                assert!(budget.connections + budget.registrations + KEPT_BACK + 4 <= descriptors);
                assert!(budget.registrations >= 2 * budget.connections);
            }
            assert!(
                budget
                    .shortfall(&DEFAULT)
                    .is_some_and(|s| s.contains("LimitNOFILE"))
            );
        }
    }
}

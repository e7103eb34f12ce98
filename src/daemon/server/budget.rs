//! How many connections and registrations the process's descriptors are good for.
//!
//! Requests and registrations have budgets of their own, so that strangers never take a slot that a
//! local node needs. Pure but for raising the limit; called by `server` at the start and at a reload.

use std::io;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{DEFAULT_CONNECTIONS, DEFAULT_REGISTRATIONS, Limits};

/// Descriptors kept back for everything else: standard streams, event loop, signals, log, and
/// whoever looks at the daemon from outside; and for connections that are about to be closed.
pub(super) const KEPT_BACK: usize = 64;
/// Of what is left, requests take at most one part in so many.
const REQUEST_SHARE: usize = 4;
/// And of what is left then, the drawers of systemd's store one in so many: each holds 250 registrations or
/// more than one in sixteen of all, has two ends, and a third of what they hold may be of use alone.
const STORE_SHARE: usize = 16;
/// In the drawers a user may have no more connections than descriptors (unix(7), ETOOMANYREFS): one part in
/// so many is for those that are gone, and for those that are there twice while a drawer is emptied.
const IN_FLIGHT_SHARE: usize = 4;

/// More than any host is known to need. Stock epmd has room for 1,017 names, and for what they leave of
/// that.
const PLENTY_OF_REGISTRATIONS: usize = 1024;
const PLENTY_OF_CONNECTIONS: usize = 128;

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
        Self::beside(limits, descriptors, listeners, false)
    }

    /// The same, beside `listeners` sockets and, if `kept`, the drawers of systemd's store.
    #[must_use]
    pub fn beside(limits: &Limits, descriptors: usize, listeners: usize, kept: bool) -> Self {
        let left = descriptors
            .saturating_sub(KEPT_BACK)
            .saturating_sub(listeners);
        let connections = limits.connections.min(left / REQUEST_SHARE).max(1);
        let left = left.saturating_sub(connections);
        let most = if kept {
            left.saturating_sub(left / STORE_SHARE)
                .min(descriptors.saturating_sub(descriptors / IN_FLIGHT_SHARE))
        } else {
            left
        };
        let registrations = limits.registrations.min(most).max(1);
        Self {
            connections,
            registrations,
            descriptors,
        }
    }

    /// What the operator should know where the limits of the file can't be had. Where nobody has set one,
    /// and there is plenty, that is nobody's concern: `-status` shows it.
    #[must_use]
    pub fn shortfall(&self, limits: &Limits) -> Option<String> {
        let short = |limit: usize, had: usize, default: usize, plenty: usize| {
            had < limit && (limit != default || had < plenty)
        };
        let connections = short(
            limits.connections,
            self.connections,
            DEFAULT_CONNECTIONS,
            PLENTY_OF_CONNECTIONS,
        );
        let registrations = short(
            limits.registrations,
            self.registrations,
            DEFAULT_REGISTRATIONS,
            PLENTY_OF_REGISTRATIONS,
        );
        (connections || registrations).then(|| {
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

/// Descriptors without which nobody can be served.
const SPARE: usize = 4;

/// Sees to it that there are descriptors left for connections.
///
/// # Errors
/// There are none, in words.
pub(super) fn spare(limit: usize) -> io::Result<()> {
    let spare: Result<Vec<_>, _> = (0..SPARE)
        .map(|_| EventFd::from_flags(EfdFlags::EFD_CLOEXEC))
        .collect();
    match spare {
        Err(error @ (Errno::EMFILE | Errno::ENFILE)) => Err(io::Error::other(format!(
            "the limit of {limit} descriptors leaves none for connections ({error}); raise it (LimitNOFILE=, \
             ulimit -n), to 1024 for some hundred names"
        ))),
        // Whatever else is wrong with these, connections are none of them.
        _ => Ok(()),
    }
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
    fn what_nobody_asked_for_and_nobody_needs_is_not_said_to_be_missing() {
        let said = |limits: &Limits, descriptors| {
            let budget = Budget::new(limits, descriptors, 4);
            budget.shortfall(limits).is_some()
        };
        for (descriptors, is_said) in [(100, true), (1024, true), (4096, false), (20_000, false)] {
            assert_eq!(said(&DEFAULT, descriptors), is_said, "{descriptors}");
        }
        let asked = Limits {
            registrations: 20_000,
            ..DEFAULT
        };
        assert!(said(&asked, 20_000));
        assert!(!said(&asked, 40_000));
    }

    #[test]
    fn few_descriptors_are_shared_and_registrations_get_the_most() {
        for descriptors in [0, 64, 65, 100, 1024, 16_384, 20_000] {
            let kept = Budget::beside(&DEFAULT, descriptors, 4, true);
            let budget = Budget::new(&DEFAULT, descriptors, 4);
            assert!(kept.registrations <= budget.registrations);
            assert!(budget.connections >= 1 && budget.registrations >= 1);
            if descriptors > 100 {
                assert!(budget.connections + budget.registrations + KEPT_BACK + 4 <= descriptors);
                assert!(budget.registrations >= 2 * budget.connections);
            }
            let shortfall = budget.shortfall(&DEFAULT);
            assert_eq!(
                shortfall.is_some_and(|s| s.contains("LimitNOFILE")),
                descriptors <= 1024
            );
        }
    }
}

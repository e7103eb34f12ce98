//! Time since the daemon's start, which goes on while the machine is suspended.
//!
//! Times of the audit are shown as wall time: counted by a clock that stands still in a suspend, they
//! would all be too late afterwards. Used by all of `server`.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// A clock that starts with the daemon.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Duration,
}

impl Clock {
    /// Starts now.
    pub(super) fn start() -> Self {
        Self {
            started: since_boot(),
        }
    }

    /// Time since the start.
    pub(super) fn now(self) -> Duration {
        since_boot().saturating_sub(self.started)
    }

    /// Milliseconds since boot: the same for the process before this one, and for the next.
    pub(super) fn since_boot() -> u64 {
        u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX)
    }

    /// When it started, by the wall clock as it goes now.
    pub(super) fn started_at(self) -> SystemTime {
        SystemTime::now()
            .checked_sub(self.now())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// `CLOCK_BOOTTIME` (Linux 2.6.39), without a system call. Where there is none, all is told as of the
/// start.
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_and_began_when_it_began() {
        let before = SystemTime::now();
        let clock = Clock::start();
        let first = clock.now();
        while clock.now() == first {}
        assert!(clock.now() > first);
        let apart = match clock.started_at().duration_since(before) {
            Ok(later) => later,
            Err(earlier) => earlier.duration(),
        };
        assert!(apart < Duration::from_secs(5), "{apart:?}");
    }
}

//! How many lines may be told in one second.
//!
//! A plain count for each whole second of the time that it is given: nothing to tune, and the
//! operator can check it against the log. Called by `audit`, once for refusals and once for answered
//! lookups.

use std::time::Duration;

/// Lines told in one second, at most.
pub(super) const LINES_A_SECOND: u32 = 50;

/// The count of the second that runs.
#[derive(Debug, Default)]
pub(super) struct Budget {
    second: u64,
    told: u32,
}

impl Budget {
    /// Takes one line out of it; false where there is none left in this second.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        if self.second != now.as_secs() {
            *self = Self {
                second: now.as_secs(),
                told: 0,
            };
        }
        let left = self.told < LINES_A_SECOND;
        if left {
            self.told += 1;
        }
        left
    }

    /// When there is budget again, after [`Self::take`] said that there is none.
    pub(super) fn renewed(now: Duration) -> Duration {
        Duration::from_secs(now.as_secs().saturating_add(1))
    }
}

//! How many lines may be told in one second, and to whom they go.
//!
//! A plain count for each whole second of the time that it is given: nothing to tune, and the
//! operator can check it against the log. A part of it is kept for sources that were not told before,
//! one line for each [`Site`]: whoever fills the log all the time leaves room for who comes for the
//! first time. Called by `audit`, once for refusals and once for answered lookups.

use std::collections::HashSet;
use std::time::Duration;

use super::table::Site;

/// Lines told in one second, at most.
pub(super) const LINES_A_SECOND: u32 = 50;
/// How many of them are kept for sources that were not told before.
pub(super) const RESERVE: u32 = 20;

/// The count of the second that runs.
#[derive(Debug, Default)]
pub(super) struct Budget {
    second: u64,
    told: u32,
    /// Who has had a line of the reserve; at most [`RESERVE`] of them.
    newcomers: HashSet<Site>,
}

impl Budget {
    /// Takes one line that is anybody's; false where there is none left in this second. `kept_back`:
    /// how many must be left.
    fn take_one(&mut self, now: Duration, kept_back: u32) -> bool {
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.told = 0;
            self.newcomers.clear();
        }
        let left = self.told < LINES_A_SECOND.saturating_sub(kept_back);
        if left {
            self.told += 1;
        }
        left
    }

    /// Takes one line, of all that there are: nobody has a reserve here.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        self.take_one(now, 0)
    }

    /// Takes one line for a source; false where there is none left for it in this second. `newcomer`:
    /// where it is from, if it was not told before.
    pub(super) fn take_for(&mut self, now: Duration, newcomer: Option<Site>) -> bool {
        // What the reserve has given leaves the common part as it was.
        let given = u32::try_from(self.newcomers.len()).unwrap_or(RESERVE);
        let given = if self.second == now.as_secs() {
            given
        } else {
            0
        };
        if self.take_one(now, RESERVE.saturating_sub(given)) {
            return true;
        }
        newcomer.is_some_and(|site| !self.newcomers.contains(&site) && self.take_one(now, 0))
            && newcomer.is_some_and(|site| self.newcomers.insert(site))
    }

    /// When there is budget again, after it was said that there is none.
    pub(super) fn renewed(now: Duration) -> Duration {
        Duration::from_secs(now.as_secs().saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn who_was_told_before_leaves_the_reserve_to_newcomers() {
        let site = |n: u8| Site::of(IpAddr::from([203, 0, 113, n]));
        let now = Duration::from_millis(1500);
        let mut budget = Budget::default();
        let common = (0..100).filter(|_| budget.take_for(now, None)).count();
        assert_eq!(common, (LINES_A_SECOND - RESERVE) as usize);
        // One each.
        let one = (0..100)
            .filter(|_| budget.take_for(now, Some(site(0))))
            .count();
        assert_eq!(one, 1);
        let others = (1..100)
            .filter(|n| budget.take_for(now, Some(site(*n))))
            .count();
        assert_eq!(others, (RESERVE - 1) as usize);
        assert!(budget.take_for(Budget::renewed(now), None));
    }
}
